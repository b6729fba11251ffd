"""Metrics with Keras' names; every one of them honours masks.

    metric = fm.metrics.get("accuracy", y_true.shape, y_pred.shape)
    metric.update_state(y_true, y_pred, sample_weight=None, mask=None)
    metric.result()                      # a float; 0.0 before the first valid step
    metric.reset_state()

A metric is sum(w v) / sum(w) over all valid steps seen since the last reset, v being the value of a step and w its
sample weight (1 without). So every step weighs the same however the steps were cut into batches (Keras: batches of
different T weigh a step by 1/T), and without sample weights a metric equals the epoch's loss of the same name; with
them the divisors differ, as in Keras. Steps under a mask or of weight 0 are never read.
"""

import numpy as np

from fastmask import losses
from fastmask.ops import loss as ops


class Metric:
    """A mean over valid steps. A metric of one's own overrides `step_values`."""

    def __init__(self, name=None):
        self.name = name or type(self).__name__
        self.reset_state()

    def reset_state(self):
        """Forget what was seen."""
        self._total = 0.0
        self._weight = 0.0

    def update_state(self, y_true, y_pred, sample_weight=None, mask=None):
        """Take in a batch; arguments as for a loss: y_pred (B,T,K), (B,K) or Ragged, sample_weight (B,) or (B,T)."""
        y_true, y_pred, sample_weight, mask, _ = losses.flat_arguments(y_true, y_pred, sample_weight, mask)
        y_pred = ops.as_prediction(y_pred)
        steps = y_pred.shape[:-1]
        counts = ops.as_step_mask(mask, steps)
        weight = ops.as_step_weight(sample_weight, steps, np.float64)
        if weight is not None:
            counts &= weight != 0
        y_true = self.targets(y_true, y_pred)
        values = self.step_values(y_true[counts], y_pred[counts])
        if weight is None:
            self._total += float(np.sum(values, dtype=np.float64))
            self._weight += float(np.count_nonzero(counts))
        else:
            self._total += float(np.sum(weight[counts] * values))
            self._weight += float(np.sum(weight[counts]))

    def result(self):
        """The mean since the last reset, as a float; 0.0 where nothing was seen."""
        return self._total / self._weight if self._weight else 0.0

    def targets(self, y_true, y_pred):
        """y_true checked and shaped for `step_values`: (…,K), or (…) for class numbers."""
        return ops.as_target(y_true, y_pred.shape, y_pred.dtype)

    def step_values(self, y_true, y_pred):
        """Values (n,) of the n steps that count: y_true (n,K) or (n,), y_pred (n,K)."""
        raise NotImplementedError

    def __repr__(self):
        return f"{type(self).__name__}(name={self.name!r})"


class BinaryAccuracy(Metric):
    """Share of the last axis where (y_pred > threshold) equals the target 0 or 1."""

    def __init__(self, name="binary_accuracy", threshold=0.5):
        super().__init__(name)
        self.threshold = threshold

    def step_values(self, y_true, y_pred):
        return np.mean((y_pred > self.threshold) == y_true, axis=-1)


class CategoricalAccuracy(Metric):
    """1 where the largest prediction is where the largest target is; targets one-hot or soft."""

    def __init__(self, name="categorical_accuracy"):
        super().__init__(name)

    def step_values(self, y_true, y_pred):
        return np.argmax(y_true, axis=-1) == np.argmax(y_pred, axis=-1)


class SparseCategoricalAccuracy(Metric):
    """1 where the largest prediction is the class number given as target."""

    def __init__(self, name="sparse_categorical_accuracy"):
        super().__init__(name)

    def targets(self, y_true, y_pred):
        return ops.as_labels(y_true, y_pred.shape[:-1])

    def step_values(self, y_true, y_pred):
        return y_true == np.argmax(y_pred, axis=-1)


class LossMetric(Metric):
    """The loss of a step as a metric: base of the metrics below."""

    loss = None  # the class in fastmask.losses

    def __init__(self, name=None, **options):
        self._loss = self.loss(reduction="none", **options)
        super().__init__(name or self._loss.name)

    def step_values(self, y_true, y_pred):
        return self._loss(y_true, y_pred)


class MeanSquaredError(LossMetric):
    """Mean over the last axis of (y_pred - y_true)^2."""

    loss = losses.MeanSquaredError


class MeanAbsoluteError(LossMetric):
    """Mean over the last axis of |y_pred - y_true|."""

    loss = losses.MeanAbsoluteError


class BinaryCrossentropy(LossMetric):
    """The binary cross-entropy; options `from_logits` and `label_smoothing`."""

    loss = losses.BinaryCrossentropy


class CategoricalCrossentropy(LossMetric):
    """The categorical cross-entropy; options `from_logits` and `label_smoothing`."""

    loss = losses.CategoricalCrossentropy


class SparseCategoricalCrossentropy(LossMetric):
    """The sparse categorical cross-entropy; option `from_logits`."""

    loss = losses.SparseCategoricalCrossentropy

    def __init__(self, name=None, from_logits=False):
        super().__init__(name, from_logits=from_logits)

    def targets(self, y_true, y_pred):
        return ops.as_labels(y_true, y_pred.shape[:-1])


NAMES = {
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "MSE": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "MAE": MeanAbsoluteError,
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
}
NAMES.update({cls.__name__: cls for cls in set(NAMES.values())})


def get(identifier, y_true_shape=None, y_pred_shape=None):
    """A fresh `Metric` from a name or class, or the instance given; the metric's name is the name asked for.

    "accuracy" (or "acc") is chosen by the shapes, as in Keras: binary if the last axis of the predictions has length 1,
    sparse categorical if y_true has fewer axes or a last axis of length 1, else categorical.

    Raises
    ------
    ValueError
        The name is not known, or "accuracy" without shapes.
    TypeError
        Neither a name, a `Metric` class nor a `Metric`.
    """
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Metric):
        return identifier()
    if not isinstance(identifier, str):
        raise TypeError(f"metric: expected a name or a Metric, received {type(identifier).__name__}")
    if identifier.lower() in ("accuracy", "acc"):
        return _accuracy_for(y_true_shape, y_pred_shape)(name=identifier)
    if identifier not in NAMES:
        names = ", ".join(sorted(["accuracy", *NAMES]))
        raise ValueError(f"metric: expected one of {names}, received {identifier!r}")
    return NAMES[identifier](name=identifier)


def _accuracy_for(y_true_shape, y_pred_shape):
    if not y_true_shape or not y_pred_shape:
        raise ValueError(
            "y_true_shape, y_pred_shape: expected the shapes that choose the kind of accuracy, "
            f"received {y_true_shape} and {y_pred_shape}"
        )
    if y_pred_shape[-1] == 1:
        return BinaryAccuracy
    if len(y_true_shape) < len(y_pred_shape) or y_true_shape[-1] == 1:
        return SparseCategoricalAccuracy
    return CategoricalAccuracy
