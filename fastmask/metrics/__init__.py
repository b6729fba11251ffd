"""Metrics with Keras' names; every one of them honours masks.

    metric = fm.metrics.get("accuracy", y_true.shape, y_pred.shape)
    metric.update_state(y_true, y_pred, sample_weight=None, mask=None)
    metric.result()                      # 0.0 before the first valid step
    metric.reset_state()

Most metrics are means: sum(w v) / sum(w) over all valid steps seen since the last reset, v being the value of a step
and w its sample weight (1 without). So every step weighs the same however the steps were cut into batches (Keras:
batches of different T weigh a step by 1/T), and without sample weights a metric equals the epoch's loss of the same
name (but the cosine similarity, which is minus its loss); with them the divisors differ, as in Keras. The others count
steps by weight; in Keras they ignore masks. No metric reads a step under a mask or of weight 0. `Metric` is the base of
a metric of one's own.
"""

from fastmask.metrics.base import Mean, MeanMetricWrapper, Metric, Sum
from fastmask.metrics.counts import (
    AUC,
    F1Score,
    FalseNegatives,
    FalsePositives,
    FBetaScore,
    Precision,
    Recall,
    TrueNegatives,
    TruePositives,
)
from fastmask.metrics.means import (
    BinaryAccuracy,
    BinaryCrossentropy,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    CategoricalHinge,
    CosineSimilarity,
    Hinge,
    Huber,
    KLDivergence,
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Perplexity,
    Poisson,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    SquaredHinge,
    TopKCategoricalAccuracy,
)
from fastmask.registry import Kind, snake_case

CLASSES = (
    AUC,
    BinaryAccuracy,
    BinaryCrossentropy,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    CategoricalHinge,
    CosineSimilarity,
    F1Score,
    FBetaScore,
    FalseNegatives,
    FalsePositives,
    Hinge,
    Huber,
    KLDivergence,
    LogCoshError,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Perplexity,
    Poisson,
    Precision,
    Recall,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    SquaredHinge,
    Sum,
    TopKCategoricalAccuracy,
    TrueNegatives,
    TruePositives,
)
SHORT_NAMES = {
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mape": MeanAbsolutePercentageError,
    "msle": MeanSquaredLogarithmicError,
    "bce": BinaryCrossentropy,
}
_kind = Kind(
    "metric",
    Metric,
    {
        "accuracy": CategoricalAccuracy,  # or another one, see `get`
        **{snake_case(cls.__name__): cls for cls in CLASSES},
        **SHORT_NAMES,
        **{name.upper(): cls for name, cls in SHORT_NAMES.items()},
    },
    callables=False,
)
__all__ = ["Metric", "MeanMetricWrapper", "deserialize", "get", "serialize", *(cls.__name__ for cls in CLASSES)]


def get(identifier, y_true_shape=None, y_pred_shape=None):
    """A `Metric` from a name ("mse", "auc", "Precision", …), a class, a configuration or a function of (y_true, y_pred)
    (see `MeanMetricWrapper`), or the instance given. A name becomes the name of the metric.

    "accuracy" (or "acc") is chosen by the shapes, as in Keras: binary if the last axis of the predictions has length 1,
    sparse categorical if y_true has fewer axes or a last axis of length 1, else categorical.

    Raises
    ------
    ValueError
        Nothing of this, a name or class that is not known, or "accuracy" without shapes.
    """
    if isinstance(identifier, str):
        accuracy = identifier.lower() in ("accuracy", "acc")
        metric = _accuracy_for(y_true_shape, y_pred_shape)() if accuracy else _kind.get(identifier)
        metric.name = identifier
        return metric
    if callable(identifier) and not isinstance(identifier, (type, Metric)):
        return MeanMetricWrapper(identifier)
    return _kind.get(identifier)


def serialize(metric):
    """A dict that `get` takes back, of a metric of fastmask or of a class decorated with `register_serializable`.

    Raises
    ------
    ValueError
        A class that is not registered, or a plain function.
    """
    return _kind.serialize(metric)


deserialize = get


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
