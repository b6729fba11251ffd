"""Metrics that are the mean of a value of each step: accuracies, and the losses."""

import math

import numpy as np

from fastmask import losses
from fastmask.checks import check_number
from fastmask.metrics.base import Metric, dense_targets, sparse_targets
from fastmask.ops import loss as ops
from fastmask.ops.mask import check_count

# ---- accuracy --------------------------------------------------------------------------------------------------------


class BinaryAccuracy(Metric):
    """Share of the last axis where (y_pred > threshold) equals the target 0 or 1."""

    targets = dense_targets

    def __init__(self, name="binary_accuracy", dtype=None, threshold=0.5):
        super().__init__(dtype, name)
        self.threshold = check_number(threshold, "threshold", low=-math.inf)

    def step_values(self, y_true, y_pred):
        return np.mean((y_pred > self.threshold) == y_true, axis=-1)

    def get_config(self):
        return super().get_config() | {"threshold": self.threshold}


class CategoricalAccuracy(Metric):
    """1 where the largest prediction is where the largest target is; targets one-hot or soft."""

    targets = dense_targets

    def __init__(self, name="categorical_accuracy", dtype=None):
        super().__init__(dtype, name)

    def step_values(self, y_true, y_pred):
        return np.argmax(y_true, axis=-1) == np.argmax(y_pred, axis=-1)


class SparseCategoricalAccuracy(Metric):
    """1 where the largest prediction is the class number given as target."""

    targets = sparse_targets

    def __init__(self, name="sparse_categorical_accuracy", dtype=None):
        super().__init__(dtype, name)

    def step_values(self, y_true, y_pred):
        return y_true == np.argmax(y_pred, axis=-1)


class SparseTopKCategoricalAccuracy(Metric):
    """1 where fewer than k predictions are larger than that of the class number given as target.

    So classes that tie at the border are all in, and a step with a prediction that is not finite is out (TensorFlow).
    """

    targets = sparse_targets

    def __init__(self, k=5, name="sparse_top_k_categorical_accuracy", dtype=None):
        self.k = check_count(k, "k", 1)
        super().__init__(dtype, name)

    def step_values(self, y_true, y_pred):
        labels = ops.as_class_ids(y_true, np.ones(y_true.shape, bool), y_pred.shape[-1])
        mine = np.take_along_axis(y_pred, labels[:, None], axis=-1)
        return (np.count_nonzero(y_pred > mine, axis=-1) < self.k) & np.isfinite(y_pred).all(axis=-1)

    def get_config(self):
        return super().get_config() | {"k": self.k}


class TopKCategoricalAccuracy(SparseTopKCategoricalAccuracy):
    """The same for targets (…,K), one-hot or soft, whose class is the largest."""

    targets = dense_targets

    def __init__(self, k=5, name="top_k_categorical_accuracy", dtype=None):
        super().__init__(k, name, dtype)

    def step_values(self, y_true, y_pred):
        return super().step_values(np.argmax(y_true, axis=-1), y_pred)


# ---- losses as metrics -----------------------------------------------------------------------------------------------


class LossMetric(Metric):
    """The loss of a step as a metric: base of the metrics below."""

    loss = None  # the class in fastmask.losses
    targets = dense_targets

    def __init__(self, name=None, dtype=None, **options):
        self._loss = self.loss(reduction="none", **options)
        super().__init__(dtype, name or self._loss.name)

    def step_values(self, y_true, y_pred):
        return self._loss(y_true, y_pred)

    def get_config(self):
        return super().get_config() | self._loss.options


class MeanSquaredError(LossMetric):
    """Mean over the last axis of (y_pred - y_true)^2."""

    loss = losses.MeanSquaredError


class RootMeanSquaredError(MeanSquaredError):
    """Square root of the mean of (y_pred - y_true)^2 over the steps and the last axis."""

    def __init__(self, name="root_mean_squared_error", dtype=None):
        super().__init__(name, dtype)

    def result(self):
        """The root since the last reset, as a float; 0.0 where nothing was seen."""
        return float(np.sqrt(super().result()))


class MeanAbsoluteError(LossMetric):
    """Mean over the last axis of |y_pred - y_true|."""

    loss = losses.MeanAbsoluteError


class MeanAbsolutePercentageError(LossMetric):
    """The loss of that name."""

    loss = losses.MeanAbsolutePercentageError


class MeanSquaredLogarithmicError(LossMetric):
    """The loss of that name."""

    loss = losses.MeanSquaredLogarithmicError


class Huber(LossMetric):
    """The loss of that name; Keras has it as a function only."""

    loss = losses.Huber

    def __init__(self, name="huber", dtype=None, delta=1.0):
        super().__init__(name, dtype, delta=delta)


class LogCoshError(LossMetric):
    """The loss `LogCosh`."""

    loss = losses.LogCosh

    def __init__(self, name="logcosh", dtype=None):
        super().__init__(name, dtype)


class CosineSimilarity(LossMetric):
    """Cosine of the angle between y_true and y_pred over the last axis: minus the loss of that name (Keras)."""

    loss = losses.CosineSimilarity

    def __init__(self, name="cosine_similarity", dtype=None, axis=-1):
        super().__init__(name, dtype, axis=axis)

    def step_values(self, y_true, y_pred):
        return -super().step_values(y_true, y_pred)


class BinaryCrossentropy(LossMetric):
    """The loss of that name."""

    loss = losses.BinaryCrossentropy

    def __init__(self, name="binary_crossentropy", dtype=None, from_logits=False, label_smoothing=0):
        super().__init__(name, dtype, from_logits=from_logits, label_smoothing=label_smoothing)


class CategoricalCrossentropy(LossMetric):
    """The loss of that name."""

    loss = losses.CategoricalCrossentropy

    def __init__(self, name="categorical_crossentropy", dtype=None, from_logits=False, label_smoothing=0, axis=-1):
        super().__init__(name, dtype, from_logits=from_logits, label_smoothing=label_smoothing, axis=axis)


class SparseCategoricalCrossentropy(LossMetric):
    """The loss of that name. Steps whose target is `ignore_class` do not count (Keras counts them as 0 without
    weights)."""

    loss = losses.SparseCategoricalCrossentropy
    targets = sparse_targets

    def __init__(
        self,
        name="sparse_categorical_crossentropy",
        dtype=None,
        from_logits=False,
        ignore_class=None,
        axis=-1,
    ):
        self.ignore_class = ignore_class
        super().__init__(name, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)


class Perplexity(SparseCategoricalCrossentropy):
    """e to the mean of the sparse categorical cross-entropy over the steps that count; targets are class numbers."""

    def __init__(self, name="perplexity", dtype=None, from_logits=False, ignore_class=None):
        super().__init__(name, dtype, from_logits, ignore_class)

    def result(self):
        """The perplexity since the last reset, as a float; 0.0 where nothing was seen."""
        return float(np.exp(super().result())) if self._weight else 0.0


class KLDivergence(LossMetric):
    """The loss of that name."""

    loss = losses.KLDivergence


class Poisson(LossMetric):
    """The loss of that name."""

    loss = losses.Poisson


class Hinge(LossMetric):
    """The loss of that name."""

    loss = losses.Hinge


class SquaredHinge(LossMetric):
    """The loss of that name."""

    loss = losses.SquaredHinge


class CategoricalHinge(LossMetric):
    """The loss of that name."""

    loss = losses.CategoricalHinge
