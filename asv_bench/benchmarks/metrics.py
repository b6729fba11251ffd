"""Metrics over the valid steps of a batch."""

import numpy as np

import fastmask as fm

from . import common


class Metric:
    params = (
        [
            "SparseCategoricalAccuracy",
            "CategoricalAccuracy",
            "MeanSquaredError",
            "TopKCategoricalAccuracy",
            "Precision",
            "AUC",
            "F1Score",
        ],
        [(4, 10, 4), (256, 100, 64)],
    )
    param_names = ("metric", "B,T,K")

    def setup(self, name, size):
        B, T, K = size
        self.metric, self.mask, self.y_pred = getattr(fm.metrics, name)(), common.mask(B, T), common.normal(B, T, K)
        labels = np.random.default_rng(1).integers(0, K, size=(B, T))
        self.y_true = labels if name.startswith("Sparse") else np.eye(K, dtype="float32")[labels]
        self.time_update_state()

    def time_update_state(self, *_):
        self.metric.update_state(self.y_true, self.y_pred, mask=self.mask)
