"""Masked SimpleRNN as a function: inference with packed weights, training step by step."""

import fastmask as fm
from fastmask.ops.simple_rnn import simple_rnn_pack

from . import common


class Inference:
    params, param_names = common.RECURRENT, common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        self.data = common.RecurrentData("simple_rnn", size, dtype, fill, threads)
        self.packed = simple_rnn_pack(*self.data.weights)
        self.time_simple_rnn()

    def time_simple_rnn(self, *_):
        d = self.data
        fm.simple_rnn(d.x, *d.weights, mask=d.mask, packed=self.packed)


class Training:
    params, param_names = common.RECURRENT, common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        self.data = common.RecurrentData("simple_rnn", size, dtype, fill, threads)
        self.time_simple_rnn_pack()
        self.time_simple_rnn_backward()

    def time_simple_rnn_pack(self, *_):
        simple_rnn_pack(*self.data.weights)

    def time_simple_rnn_forward(self, *_):
        d = self.data
        return fm.simple_rnn_forward(d.x, *d.weights, mask=d.mask)

    def time_simple_rnn_backward(self, *_):
        """Forward and backward: a tape is good for one backward."""
        _, tape = self.time_simple_rnn_forward()
        fm.simple_rnn_backward(tape, self.data.d_outputs)


class Memory:
    """Largest resident set of the process, data included: compare fills and commits, not libraries."""

    params, param_names = common.MEMORY, common.MEMORY_NAMES

    def setup(self, size, fill):
        self.data = common.RecurrentData("simple_rnn", size, "float32", fill, threads=2)

    def peakmem_simple_rnn(self, *_):
        d = self.data
        fm.simple_rnn(d.x, *d.weights, mask=d.mask)

    def peakmem_simple_rnn_backward(self, *_):
        d = self.data
        _, tape = fm.simple_rnn_forward(d.x, *d.weights, mask=d.mask)
        fm.simple_rnn_backward(tape, d.d_outputs)
