"""Masked LSTM as a function: inference with packed weights, training step by step."""

import fastmask as fm
from fastmask.ops.lstm import lstm_pack

from . import common


class Inference:
    params, param_names = common.RECURRENT, common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        self.data = common.RecurrentData("lstm", size, dtype, fill, threads)
        self.packed = lstm_pack(*self.data.weights)
        self.time_lstm()

    def time_lstm(self, *_):
        d = self.data
        fm.lstm(d.x, *d.weights, mask=d.mask, packed=self.packed)


class Training:
    params, param_names = common.RECURRENT, common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        self.data = common.RecurrentData("lstm", size, dtype, fill, threads)
        self.time_lstm_pack()
        self.time_lstm_backward()

    def time_lstm_pack(self, *_):
        lstm_pack(*self.data.weights)

    def time_lstm_forward(self, *_):
        d = self.data
        return fm.lstm_forward(d.x, *d.weights, mask=d.mask)

    def time_lstm_backward(self, *_):
        """Forward and backward: a tape is good for one backward."""
        _, tape = self.time_lstm_forward()
        fm.lstm_backward(tape, self.data.d_outputs)


class Memory:
    """Largest resident set of the process, data included: compare fills and commits, not libraries."""

    params, param_names = common.MEMORY, common.MEMORY_NAMES

    def setup(self, size, fill):
        self.data = common.RecurrentData("lstm", size, "float32", fill, threads=2)

    def peakmem_lstm(self, *_):
        d = self.data
        fm.lstm(d.x, *d.weights, mask=d.mask)

    def peakmem_lstm_backward(self, *_):
        d = self.data
        _, tape = fm.lstm_forward(d.x, *d.weights, mask=d.mask)
        fm.lstm_backward(tape, d.d_outputs)
