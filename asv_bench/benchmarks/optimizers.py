"""One update of all weights."""

import fastmask as fm

from . import common


class Optimizer:
    params = (["SGD", "RMSprop", "Adam", "AdamW"], [1_000, 1_000_000])
    param_names = ("optimizer", "elements")

    def setup(self, name, elements):
        self.optimizer = getattr(fm.optimizers, name)(learning_rate=1e-3)
        self.weights = [fm.Variable(common.normal(elements // 100, 100)), fm.Variable(common.normal(100))]
        self.gradients = [common.normal(*weight.shape, seed=1) for weight in self.weights]
        self.time_apply_gradients()

    def time_apply_gradients(self, *_):
        self.optimizer.apply_gradients(zip(self.gradients, self.weights, strict=True))
