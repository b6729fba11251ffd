"""One update of all weights."""

import numpy as np

import fastmask as fm
from fastmask.variable import RowsGradient

from . import common


class Optimizer:
    params = (["SGD", "RMSprop", "Adam", "AdamW"], [1_000, 1_000_000], common.DTYPES, common.THREADS)
    param_names = ("optimizer", "elements", "dtype", "threads")

    def setup(self, name, elements, dtype, threads):
        fm.set_num_threads(threads)
        self.optimizer = getattr(fm.optimizers, name)(learning_rate=1e-3)
        shapes = (elements // 100, 100), (100,)
        self.weights = [fm.Variable(common.normal(*shape, dtype=dtype)) for shape in shapes]
        self.gradients = [common.normal(*shape, dtype=dtype, seed=1) for shape in shapes]
        self.time_apply_gradients()

    def time_apply_gradients(self, *_):
        self.optimizer.apply_gradients(zip(self.gradients, self.weights, strict=True))


class Rows:
    """The gradient of an embedding, most of whose rows once had one."""

    params = ([(50, 4), (20_000, 64)],)
    param_names = ("V,D",)

    def setup(self, size):
        V, D = size
        self.optimizer, self.weight = fm.optimizers.Adam(global_clipnorm=1.0), fm.Variable(common.normal(V, D))
        rows = [np.flatnonzero(common.normal(V, seed=seed) > 0) for seed in range(4)]
        self.gradients = [RowsGradient(r, common.normal(len(r), D), (V, D)) for r in rows]
        self.time_apply_gradients()

    def time_apply_gradients(self, *_):
        for gradient in self.gradients:
            self.optimizer.apply_gradients([(gradient, self.weight)])
