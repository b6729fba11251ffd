"""Activations over an array, forward and backward."""

import fastmask as fm
from fastmask.ops.activation import activation_backward, activation_forward

from . import common


class Activation:
    params = ([1_000, 1_000_000], ["relu", "tanh", "sigmoid", "gelu", "softmax"], common.DTYPES, common.THREADS)
    param_names = ("elements", "name", "dtype", "threads")

    def setup(self, elements, name, dtype, threads):
        fm.set_num_threads(threads)
        self.x = common.normal(elements // 10, 10, dtype=dtype)
        self.y = activation_forward(self.x, name)
        self.time_activation_backward(elements, name)

    def time_activation_forward(self, elements, name, *_):
        activation_forward(self.x, name)

    def time_activation_backward(self, elements, name, *_):
        activation_backward(self.x, self.y, self.x, name)
