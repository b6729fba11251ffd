"""Dense: one matrix product over all steps."""

import fastmask as fm
from fastmask.ops.gemm import dense, dense_backward, dense_forward, dense_pack

from . import common


class Dense:
    params = ([(1, 64, 9), (1024, 64, 256), (6400, 256, 1024)], common.DTYPES, common.THREADS)
    param_names = ("N,F,K", "dtype", "threads")

    def setup(self, size, dtype, threads):
        fm.set_num_threads(threads)
        N, F, K = size
        self.x, self.dy = common.normal(N, F, dtype=dtype), common.normal(N, K, dtype=dtype)
        self.kernel, self.bias = common.normal(F, K, dtype=dtype), common.normal(K, dtype=dtype)
        self.packed = dense_pack(self.kernel, self.bias)
        self.time_dense()
        self.time_dense_backward()

    def time_dense(self, *_):
        dense(self.x, self.kernel, self.bias, packed=self.packed)

    def time_dense_pack(self, *_):
        dense_pack(self.kernel, self.bias)

    def time_dense_forward(self, *_):
        return dense_forward(self.x, self.kernel, self.bias)

    def time_dense_backward(self, *_):
        """Forward and backward: a tape is good for one backward."""
        _, tape = self.time_dense_forward()
        dense_backward(tape, self.dy)
