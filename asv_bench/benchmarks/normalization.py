"""Layer, unit and batch normalization."""

import fastmask as fm
from fastmask.ops.normalization import (
    batch_normalization_backward,
    batch_normalization_forward,
    layer_normalization_backward,
    layer_normalization_forward,
    unit_normalization_backward,
    unit_normalization_forward,
)

from . import common


class Normalization:
    params = ([(4, 10, 4), (64, 400, 64)], common.DTYPES, common.ENDS, common.THREADS)
    param_names = ("B,T,F", "dtype", "fill", "threads")

    def setup(self, size, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, F = size
        self.x, self.mask = common.normal(B, T, F, dtype=dtype), common.mask(B, T, fill)
        self.gamma, self.beta = common.normal(2, F, dtype=dtype)
        self.dy = common.normal(B, T, F, dtype=dtype) * self.mask[..., None]
        _, self.layer_tape = self.time_layer_normalization_forward()
        _, self.unit_tape = self.time_unit_normalization_forward()
        _, self.batch_tape = self.time_batch_normalization_forward()
        self.time_layer_normalization_backward()
        self.time_unit_normalization_backward()
        self.time_batch_normalization_backward()

    def time_layer_normalization_forward(self, *_):
        return layer_normalization_forward(self.x, self.gamma, self.beta)

    def time_layer_normalization_backward(self, *_):
        layer_normalization_backward(self.layer_tape, self.dy)

    def time_unit_normalization_forward(self, *_):
        return unit_normalization_forward(self.x)

    def time_unit_normalization_backward(self, *_):
        unit_normalization_backward(self.unit_tape, self.dy)

    def time_batch_normalization_forward(self, *_):
        return batch_normalization_forward(self.x, self.gamma, self.beta, mask=self.mask)

    def time_batch_normalization_backward(self, *_):
        batch_normalization_backward(self.batch_tape, self.dy)
