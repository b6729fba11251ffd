"""Global pooling over the valid steps."""

import fastmask as fm
from fastmask.ops.pool import average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward

from . import common


class Pool:
    params = ([(4, 10, 4), (64, 400, 64)], common.DTYPES, common.ENDS, common.THREADS)
    param_names = ("B,T,F", "dtype", "fill", "threads")

    def setup(self, size, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, F = size
        self.x, self.mask, self.dy = common.normal(B, T, F, dtype=dtype), common.mask(B, T, fill), common.normal(B, F)
        self.dy = self.dy.astype(dtype)
        _, self.average_tape = self.time_average_pool_forward()
        _, self.max_tape = self.time_max_pool_forward()
        self.time_average_pool_backward()
        self.time_max_pool_backward()

    def time_average_pool_forward(self, *_):
        return average_pool_forward(self.x, mask=self.mask)

    def time_average_pool_backward(self, *_):
        average_pool_backward(self.average_tape, self.dy)

    def time_max_pool_forward(self, *_):
        return max_pool_forward(self.x, mask=self.mask)

    def time_max_pool_backward(self, *_):
        max_pool_backward(self.max_tape, self.dy)
