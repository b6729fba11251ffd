"""Masked GRU as a function: inference with packed weights, training step by step."""

import fastmask as fm
from fastmask.ops.gru import gru_pack

from . import common


class Inference:
    params, param_names = common.RECURRENT, common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        self.data = common.RecurrentData("gru", size, dtype, fill, threads)
        self.packed = gru_pack(*self.data.weights)
        self.time_gru()

    def time_gru(self, *_):
        d = self.data
        fm.gru(d.x, *d.weights, mask=d.mask, packed=self.packed)


class Training:
    params, param_names = common.RECURRENT, common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        self.data = common.RecurrentData("gru", size, dtype, fill, threads)
        self.time_gru_pack()
        self.time_gru_backward()

    def time_gru_pack(self, *_):
        gru_pack(*self.data.weights)

    def time_gru_forward(self, *_):
        d = self.data
        return fm.gru_forward(d.x, *d.weights, mask=d.mask)

    def time_gru_backward(self, *_):
        """Forward and backward: a tape is good for one backward."""
        _, tape = self.time_gru_forward()
        fm.gru_backward(tape, self.data.d_outputs)


class Memory:
    """Largest resident set of the process, data included: compare fills and commits, not libraries."""

    params, param_names = common.MEMORY, common.MEMORY_NAMES

    def setup(self, size, fill):
        self.data = common.RecurrentData("gru", size, "float32", fill, threads=2)

    def peakmem_gru(self, *_):
        d = self.data
        fm.gru(d.x, *d.weights, mask=d.mask)

    def peakmem_gru_backward(self, *_):
        d = self.data
        _, tape = fm.gru_forward(d.x, *d.weights, mask=d.mask)
        fm.gru_backward(tape, d.d_outputs)
