"""One update of all weights."""

import fastmask as fm

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
