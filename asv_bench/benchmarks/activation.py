"""Activations over an array, forward and backward."""

import fastmask as fm
from fastmask.ops.activation import activation_backward, activation_forward, softmax_backward, softmax_forward

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


class SoftmaxOverTime:
    params = ([(8, 20, 1), (32, 200, 1), (32, 200, 64)], common.DTYPES, common.ENDS, common.THREADS)
    param_names = ("B,T,F", "dtype", "fill", "threads")

    def setup(self, size, dtype, fill, threads):
        fm.set_num_threads(threads)
        self.x, self.mask = common.normal(*size, dtype=dtype), common.mask(*size[:2], fill)
        self.y = softmax_forward(self.x, 1, self.mask)
        self.time_softmax_backward()

    def time_softmax_forward(self, *_):
        softmax_forward(self.x, 1, self.mask)

    def time_softmax_backward(self, *_):
        softmax_backward(self.y, self.x, 1, self.mask)
