"""Losses: value and gradient in one pass over the valid steps."""

import numpy as np

import fastmask as fm

from . import common


class Loss:
    params = (
        [
            "MeanSquaredError",
            "MeanAbsoluteError",
            "BinaryCrossentropy",
            "CategoricalCrossentropy",
            "SparseCategoricalCrossentropy",
            "Huber",
            "CosineSimilarity",
            "KLDivergence",
            "Hinge",
            "CategoricalHinge",
        ],
        [(4, 10, 4), (256, 100, 64)],
        common.ENDS,
    )
    param_names = ("loss", "B,T,K", "fill")

    def setup(self, name, size, fill, dtype="float32", threads=2):
        fm.set_num_threads(threads)
        B, T, K = size
        self.loss, self.mask = getattr(fm.losses, name)(), common.mask(B, T, fill)
        scores = np.exp(common.normal(B, T, K, dtype=dtype))
        self.y_pred = scores / scores.sum(axis=-1, keepdims=True)
        labels = np.random.default_rng(1).integers(0, K, size=(B, T))
        self.y_true = labels if name.startswith("Sparse") else np.eye(K, dtype=dtype)[labels]
        self.time_call()
        self.time_value_and_grad()

    def time_call(self, *_):
        self.loss(self.y_true, self.y_pred, mask=self.mask)

    def time_value_and_grad(self, *_):
        self.loss.value_and_grad(self.y_true, self.y_pred, mask=self.mask)


class LossGrid(Loss):
    """Two of them over dtypes and threads, too."""

    params = (["MeanSquaredError", "SparseCategoricalCrossentropy"], *Loss.params[1:], common.DTYPES, common.THREADS)
    param_names = (*Loss.param_names, "dtype", "threads")


class OwnLoss:
    """A loss of one's own in NumPy, beside the fused kernel of the same formula."""

    params = (["own", "fused"], [(4, 10, 4), (256, 100, 64)])
    param_names = ("kind", "B,T,K")

    def setup(self, kind, size):
        B, T, K = size
        self.loss = _Squared() if kind == "own" else fm.losses.MeanSquaredError()
        self.mask, self.y_true, self.y_pred = common.mask(B, T), common.normal(B, T, K), common.normal(B, T, K)
        self.time_value_and_grad()

    def time_value_and_grad(self, *_):
        self.loss.value_and_grad(self.y_true, self.y_pred, mask=self.mask)


class _Squared(fm.losses.Loss):
    def call(self, y_true, y_pred):
        return np.mean((y_pred - y_true) ** 2, axis=-1)

    def gradient(self, y_true, y_pred):
        return 2 * (y_pred - y_true) / y_pred.shape[-1]
