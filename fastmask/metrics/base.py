"""The base of all metrics, metrics of given values, and of a function of one's own."""

import numpy as np

from fastmask import losses
from fastmask.checks import check_dtype, check_function, check_name
from fastmask.ops import loss as ops
from fastmask.ops.mask import check_numbers
from fastmask.registry import Configured, snake_case


class Metric(Configured):
    """Base of all metrics, and of one's own: a mean over valid steps.

    Parameters
    ----------
    dtype : str, optional
        dtype the predictions are cast to, "float32" or "float64"; None keeps their own. Results are float64.
    name : str, optional
        Default: the class name in snake_case.

    Notes
    -----
    A metric of one's own overrides either `step_values`, whose mean it then is, or `update_state`, `result` and
    `reset_state`; `valid_steps` gives `update_state` the steps that count and their weights. `reset_state` is called by
    ``super().__init__``.

    Examples
    --------
    >>> class Largest(Metric):
    ...     def reset_state(self):
    ...         self.largest = 0.0
    ...
    ...     def update_state(self, y_true, y_pred, sample_weight=None, mask=None):
    ...         y_true, y_pred, weight = self.valid_steps(y_true, y_pred, sample_weight, mask)
    ...         self.largest = max(self.largest, *y_pred.ravel().tolist())
    ...
    ...     def result(self):
    ...         return self.largest
    >>> metric = Largest()
    >>> metric([[0, 0, 0]], [[[1.0], [3.0], [np.nan]]], mask=[[True, True, False]]), metric.name
    (3.0, 'largest')
    """

    ignore_class = None  # steps with this target count as masked

    def __init__(self, dtype=None, name=None):
        self.dtype = None if dtype is None else check_dtype(dtype)
        self.name = check_name(name) or snake_case(type(self).__name__)
        self.reset_state()

    def __call__(self, y_true, y_pred, sample_weight=None, mask=None):
        """Take in a batch and return the result so far."""
        self.update_state(y_true, y_pred, sample_weight=sample_weight, mask=mask)
        return self.result()

    def reset_state(self):
        """Forget what was seen."""
        self._total = self._weight = 0.0

    def update_state(self, y_true, y_pred, sample_weight=None, mask=None):
        """Take in a batch; arguments as for a loss: y_pred (B,T,K), (B,K) or Ragged, sample_weight (B,) or (B,T)."""
        y_true, y_pred, weight = self.valid_steps(y_true, y_pred, sample_weight, mask)
        if len(weight):
            values = ops.as_result(self.step_values(y_true, y_pred), weight.shape, "step_values")
            self._total += float(np.sum(weight * values))
            self._weight += float(np.sum(weight))

    def result(self):
        """The mean since the last reset, as a float; 0.0 where nothing was seen."""
        return self._total / self._weight if self._weight else 0.0

    def valid_steps(self, y_true, y_pred, sample_weight=None, mask=None):
        """(y_true (n,...), y_pred (n,K), weight (n,)) of the n steps that count: not masked, weight not 0."""
        y_true, y_pred, sample_weight, mask, _ = losses.flat_arguments(y_true, y_pred, sample_weight, mask)
        y_pred = ops.as_prediction(y_pred if self.dtype is None else np.asarray(y_pred, self.dtype))
        y_true = self.targets(y_true, y_pred)
        counts = ops.as_step_mask(mask, y_pred.shape[:-1])
        if self.ignore_class is not None:
            counts &= y_true != self.ignore_class
        weight = _weights(sample_weight, counts)
        return y_true[counts], y_pred[counts], weight

    def targets(self, y_true, y_pred):
        """y_true checked and shaped for `step_values`; here of any shape whose leading axes are the steps."""
        return ops.as_any_target(y_true, y_pred.shape[:-1], y_pred.shape[-1], y_pred.dtype)

    def step_values(self, y_true, y_pred):
        """Values (n,) of the n steps that count: y_true (n,...), y_pred (n,K)."""
        raise NotImplementedError(f"{self.name}: {type(self).__name__} has no step_values(y_true, y_pred)")

    def get_config(self):
        """The constructor's arguments, `dtype` if one was given; add those of your own."""
        return {"name": self.name} if self.dtype is None else {"name": self.name, "dtype": self.dtype}


def _weights(sample_weight, counts):
    """Weights (n,) of the steps that count, in float64; those of weight 0 are taken out of `counts` first."""
    weight = ops.as_step_weight(sample_weight, counts.shape, np.float64)
    if weight is None:
        return np.ones(np.count_nonzero(counts))
    counts &= weight != 0
    return weight[counts]


def dense_targets(self, y_true, y_pred):
    """Targets (...,K), as the predictions are."""
    return ops.as_target(y_true, y_pred.shape, y_pred.dtype)


def sparse_targets(self, y_true, y_pred):
    """Targets (...), class numbers."""
    return ops.as_labels(y_true, y_pred.shape[:-1])


# ---- values as they are, functions of one's own ----------------------------------------------------------------------


class Mean(Metric):
    """sum(w v) / sum(w) of values v given as they are: ``update_state(values, sample_weight=None, mask=None)``.

    `values` may have any shape, or be a Ragged; `mask` and `sample_weight` have its leading axes.
    """

    def __init__(self, name="mean", dtype=None):
        super().__init__(dtype, name)

    def __call__(self, values, sample_weight=None, mask=None):
        self.update_state(values, sample_weight=sample_weight, mask=mask)
        return self.result()

    def update_state(self, values, sample_weight=None, mask=None):
        """Take in values."""
        _, values, sample_weight, mask, _ = losses.flat_arguments(None, values, sample_weight, mask)
        values = check_numbers(values, "values").astype(self.dtype or np.float64)
        steps = values.shape if mask is None else values.shape[: np.ndim(mask)]
        counts = ops.as_step_mask(mask, steps).reshape(steps + (1,) * (values.ndim - len(steps)))
        counts = np.broadcast_to(counts, values.shape).copy()
        weight = _weights(sample_weight, counts)
        self._total += float(np.sum(weight * values[counts]))
        self._weight += float(np.sum(weight))


class Sum(Mean):
    """sum(w v) of values v that are given as they are; arguments as for `Mean`."""

    def __init__(self, name="sum", dtype=None):
        super().__init__(name, dtype)

    def result(self):
        """The sum since the last reset."""
        return self._total


class MeanMetricWrapper(Metric):
    """The mean of a function of one's own: what ``compile(metrics=[function])`` makes of it.

    `fn` takes (y_true (n,...), y_pred (n,K), **kwargs) of the n steps that count, and returns their values (n,) or
    (n,...), of which the mean over the other axes is taken. The default of `name` is the name of the function.
    """

    def __init__(self, fn, name=None, dtype=None, **kwargs):
        super().__init__(dtype, name or getattr(check_function(fn, "fn"), "__name__", None))
        self.fn, self.kwargs = fn, kwargs

    def step_values(self, y_true, y_pred):
        values = np.asarray(self.fn(y_true, y_pred, **self.kwargs))
        return values.mean(axis=tuple(range(1, values.ndim))) if values.ndim > 1 else values

    def get_config(self):
        raise ValueError(
            f"{self.name}: a plain function cannot be written down; make it a subclass of Metric, decorated with "
            "register_serializable"
        )

    def __repr__(self):
        return f"MeanMetricWrapper({self.name})"
