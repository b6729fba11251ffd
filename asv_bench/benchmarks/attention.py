"""Attention, by products and additive, of half of the steps."""

import fastmask as fm
from fastmask.ops.attention import attention, attention_backward, attention_forward, attention_scores

from . import common

SIZES = [(1, 8, 16), (32, 50, 64), (16, 400, 64)]  # (B, T, D)


class Attention:
    params = (SIZES, ["dot", "additive"], common.DTYPES, common.ENDS, common.THREADS)
    param_names = ("B,T,D", "score", "dtype", "fill", "threads")

    def setup(self, size, score, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, D = size
        self.query, self.value = (common.normal(B, T, D, dtype=dtype, seed=i) for i in range(2))
        mask = common.mask(B, T, fill)
        weight = common.normal(D, dtype=dtype) if score == "additive" else None
        self.options = dict(query_mask=mask, value_mask=mask, weight=weight)
        self.d_outputs = common.normal(B, T, D, dtype=dtype) * mask[..., None]
        self.time_attention()
        self.time_attention_backward()
        self.tape = self.time_attention_forward()

    def time_attention(self, *_):
        attention(self.query, self.value, **self.options)

    def time_attention_forward(self, *_):
        return attention_forward(self.query, self.value, **self.options)[1]

    def time_attention_backward(self, *_):
        """Forward and backward."""
        attention_backward(self.time_attention_forward(), self.d_outputs)

    def time_attention_scores(self, *_):
        attention_scores(self.tape)


class PeakMemory:
    params = (common.FILLS,)
    param_names = ("fill",)

    def setup(self, fill):
        self.benchmark = Attention()
        self.benchmark.setup(SIZES[-1], "dot", "float32", fill, 2)

    def peakmem_attention_backward(self, _):
        self.benchmark.time_attention_backward()
