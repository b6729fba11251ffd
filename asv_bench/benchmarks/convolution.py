"""Conv1D over rows of which a part is padding."""

import fastmask as fm
from fastmask.ops.convolution import conv1d, conv1d_backward, conv1d_forward, conv1d_mask, conv1d_pack

from . import common

SIZES = [(1, 10, 4, 8, 3), (64, 400, 12, 64, 5), (32, 200, 64, 128, 3)]  # (B, T, F, C, K)


class Conv1D:
    params = (SIZES, ["valid", "causal"], common.DTYPES, common.ENDS, common.THREADS)
    param_names = ("B,T,F,C,K", "padding", "dtype", "fill", "threads")

    def setup(self, size, padding, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, F, C, K = size
        self.x, self.mask, self.padding, self.K = (
            common.normal(B, T, F, dtype=dtype),
            common.mask(B, T, fill),
            padding,
            K,
        )
        self.kernel, self.bias = (
            common.normal(K, F, C, dtype=dtype, scale=(K * F) ** -0.5),
            common.normal(C, dtype=dtype),
        )
        self.packed = conv1d_pack(self.kernel, self.bias)
        self.dy = common.normal(*self.time_conv1d().shape, dtype=dtype)
        self.time_conv1d_backward()

    def time_conv1d(self, *_):
        return conv1d(self.x, self.kernel, self.bias, padding=self.padding, mask=self.mask, packed=self.packed)

    def time_conv1d_pack(self, *_):
        conv1d_pack(self.kernel, self.bias)

    def time_conv1d_mask(self, *_):
        conv1d_mask(self.x, self.mask, self.K, padding=self.padding)

    def time_conv1d_forward(self, *_):
        return conv1d_forward(self.x, self.kernel, self.bias, padding=self.padding, mask=self.mask)[1]

    def time_conv1d_backward(self, *_):
        """Forward and backward: a tape is good for one backward."""
        conv1d_backward(self.time_conv1d_forward(), self.dy)
