"""Metrics that are made of counts of true and false positives and negatives; a step counts as its weight."""

import math
import numbers

import numpy as np

from fastmask import activations
from fastmask.checks import check_flag, check_list, check_number
from fastmask.kernels.loss_names import EPSILON
from fastmask.metrics.base import Metric, dense_targets
from fastmask.ops.mask import check_count

CURVES = ("ROC", "PR")
SUMMATIONS = ("interpolation", "minoring", "majoring")
AVERAGES = (None, "micro", "macro", "weighted")


class ThresholdCounts(Metric):
    """Base of the metrics that compare predictions with thresholds: positive is what is larger.

    It keeps, for every label (one for all, unless a subclass tells them apart), the weight of the positives and of the
    negatives whose predictions lie between two neighbouring thresholds. A target that is not 0 is positive. Cost does
    not grow with the number of thresholds.
    """

    targets = dense_targets

    def __init__(self, thresholds, name=None, dtype=None, labels=1):
        self._edges, self._place = np.unique(np.asarray(thresholds, np.float64), return_inverse=True)
        self._labels = labels
        super().__init__(dtype, name)

    def reset_state(self):
        self._positives, self._negatives = np.zeros((2, self._labels, len(self._edges) + 1))

    def update_state(self, y_true, y_pred, sample_weight=None, mask=None):
        """Take in a batch; arguments as for a loss: y_pred (B,T,K), (B,K) or Ragged, sample_weight (B,) or (B,T)."""
        y_true, y_pred, weight = self.valid_steps(y_true, y_pred, sample_weight, mask)
        self.add(y_true != 0, y_pred, np.broadcast_to(weight[:, None], y_pred.shape))

    def add(self, positive, y_pred, weight):
        """Count: positive (n,K) bool, y_pred (n,K), weight (n,K)."""
        labels, places = self._positives.shape
        place = np.searchsorted(self._edges.astype(y_pred.dtype), y_pred)  # the number of thresholds below
        place[np.isnan(y_pred)] = 0  # NaN is larger than nothing
        place += np.arange(labels) * places

        def weights_of(chosen):
            return np.bincount(place[chosen], weight[chosen], labels * places).reshape(labels, places)

        self._positives += weights_of(positive)
        self._negatives += weights_of(~positive)

    @property
    def true_positives(self):
        """(labels, thresholds), as all of these."""
        return self._above(self._positives)

    @property
    def false_positives(self):
        """Negatives above the threshold."""
        return self._above(self._negatives)

    @property
    def false_negatives(self):
        """Positives not above it."""
        return self._below(self._positives)

    @property
    def true_negatives(self):
        """Negatives not above it."""
        return self._below(self._negatives)

    def _above(self, weights):
        return np.cumsum(weights[:, ::-1], axis=-1)[:, -2::-1][:, self._place]

    def _below(self, weights):
        return np.cumsum(weights, axis=-1)[:, :-1][:, self._place]


class TruePositives(ThresholdCounts):
    """Weight of the positives whose prediction is above the threshold; an array for several thresholds."""

    counted = "true_positives"

    def __init__(self, thresholds=None, name=None, dtype=None):
        self.thresholds = thresholds
        super().__init__(_checked_thresholds(thresholds, 0.5), name, dtype)

    def result(self):
        """The weight since the last reset: a float, or an array (thresholds,)."""
        return _one_or_all(getattr(self, self.counted)[0])

    def get_config(self):
        return super().get_config() | {"thresholds": self.thresholds}


class FalsePositives(TruePositives):
    """Weight of the negatives whose prediction is above the threshold; an array for several thresholds."""

    counted = "false_positives"


class TrueNegatives(TruePositives):
    """Weight of the negatives whose prediction is not above the threshold; an array for several thresholds."""

    counted = "true_negatives"


class FalseNegatives(TruePositives):
    """Weight of the positives whose prediction is not above the threshold; an array for several thresholds."""

    counted = "false_negatives"


class Precision(ThresholdCounts):
    """true positives / (true + false positives).

    Parameters
    ----------
    thresholds : float or list of float in [0, 1], optional
        A prediction is positive if it is larger; default 0.5, or with `top_k` none.
    top_k : int, optional
        Only the k largest predictions of a step are positive; of equal ones the first.
    class_id : int, optional
        Count this class alone.
    name, dtype
        As for `Metric`.
    """

    missed = "false_positives"  # true positives are divided by themselves and these

    def __init__(self, thresholds=None, top_k=None, class_id=None, name=None, dtype=None):
        self.thresholds = thresholds
        self.top_k = None if top_k is None else check_count(top_k, "top_k", 1)
        self.class_id = None if class_id is None else check_count(class_id, "class_id")
        super().__init__(_checked_thresholds(thresholds, 0.5 if top_k is None else -np.inf), name, dtype)

    def add(self, positive, y_pred, weight):
        K = y_pred.shape[-1]
        if self.top_k is not None:
            if self.top_k > K:
                raise ValueError(f"top_k: expected at most the {K} predictions of a step, received {self.top_k}")
            largest = np.argsort(-y_pred, axis=-1, kind="stable")[:, : self.top_k]
            others = np.ones(y_pred.shape, bool)
            np.put_along_axis(others, largest, False, axis=-1)
            y_pred = np.where(others, -np.inf, y_pred)
        if self.class_id is not None:
            if self.class_id >= K:
                raise ValueError(f"class_id: expected a class below {K}, received {self.class_id}")
            positive, y_pred, weight = (a[:, self.class_id, None] for a in (positive, y_pred, weight))
        super().add(positive, y_pred, weight)

    def result(self):
        """The ratio since the last reset: a float, or an array (thresholds,); 0 where nothing was seen."""
        return _one_or_all(_ratio(self.true_positives, self.true_positives + getattr(self, self.missed))[0])

    def get_config(self):
        return super().get_config() | {
            "thresholds": self.thresholds,
            "top_k": self.top_k,
            "class_id": self.class_id,
        }


class Recall(Precision):
    """true positives / (true positives + false negatives); parameters as for `Precision`."""

    missed = "false_negatives"


class AUC(ThresholdCounts):
    """Area under the ROC or the precision-recall curve, a Riemann sum over thresholds in [0, 1].

    Parameters
    ----------
    num_thresholds : int
        Evenly spaced from 0 to 1; ignored if `thresholds` are given.
    curve : str
        "ROC" or "PR".
    summation_method : str
        "interpolation" (between the points of PR as Davis & Goadrich 2006), "minoring" or "majoring".
    name, dtype
        As for `Metric`.
    thresholds : list of float in [0, 1], optional
        To which 0 and 1 are added.
    multi_label : bool
        The mean of the areas of the labels (the last axis), instead of one area for all predictions.
    num_labels : int, optional
        Their number, with multi_label only.
    label_weights : list of float, optional
        Weights of that mean; without multi_label, of the predictions.
    from_logits : bool
        Apply a sigmoid to the predictions.

    Notes
    -----
    Predictions outside [0, 1] count as 0 or 1. The curve "PRGAIN" of Keras 3.15 is refused.
    """

    def __init__(
        self,
        num_thresholds=200,
        curve="ROC",
        summation_method="interpolation",
        name=None,
        dtype=None,
        thresholds=None,
        multi_label=False,
        num_labels=None,
        label_weights=None,
        from_logits=False,
    ):
        if str(curve).upper() not in CURVES:
            raise ValueError(f"curve: expected one of {CURVES}, received {curve!r}")
        if str(summation_method).lower() not in SUMMATIONS:
            raise ValueError(f"summation_method: expected one of {SUMMATIONS}, received {summation_method!r}")
        if not check_flag(multi_label, "multi_label") and num_labels is not None:
            raise ValueError(f"num_labels: expected None without multi_label, received {num_labels!r}")
        self.num_thresholds = check_count(num_thresholds, "num_thresholds", 2)
        self.curve, self.summation_method = str(curve).upper(), str(summation_method).lower()
        self.thresholds, self.from_logits = thresholds, check_flag(from_logits, "from_logits")
        self.multi_label = multi_label
        self.num_labels = None if num_labels is None else check_count(num_labels, "num_labels", 1)
        self.label_weights = None
        if label_weights is not None:
            self.label_weights = [check_number(w, "label_weights") for w in check_list(label_weights, "label_weights")]
        if thresholds is None:
            between = np.arange(1, num_thresholds - 1) / (num_thresholds - 1)
        else:
            between = np.sort(_checked_thresholds(thresholds, None))
        edges = [-EPSILON, *between, 1 + EPSILON]  # so that 0 is above the first and 1 not above the last
        super().__init__(edges, name, dtype, labels=(num_labels or 0) if multi_label else 1)

    def add(self, positive, y_pred, weight):
        K = y_pred.shape[-1]
        if self.multi_label and not self._labels:
            self._labels = K
            self.reset_state()
        for name, number in (
            ("num_labels", self._labels if self.multi_label else K),
            ("label_weights", K if self.label_weights is None else len(self.label_weights)),
        ):
            if number != K:
                raise ValueError(f"{name}: expected {number} labels, received y_pred with {K} predictions a step")
        if self.label_weights is not None and not self.multi_label:
            weight = weight * self.label_weights
        if self.from_logits:
            y_pred = activations.get("sigmoid")(y_pred)
        super().add(positive, np.clip(y_pred, 0, 1), weight)

    def result(self):
        """The area since the last reset, as a float; 0.0 where nothing was seen."""
        if not self._labels:
            return 0.0
        pr, interpolate = self.curve == "PR", self.summation_method == "interpolation"
        areas = np.sum(self._pr_steps() if pr and interpolate else self._steps(pr), axis=-1)
        if not self.multi_label or self.label_weights is None:
            return float(np.mean(areas))
        return float(_ratio(np.sum(areas * self.label_weights), np.sum(self.label_weights)))

    def _steps(self, pr):
        """Areas between neighbouring thresholds."""
        recall = _ratio(self.true_positives, self.true_positives + self.false_negatives)
        if pr:
            x, y = recall, _ratio(self.true_positives, self.true_positives + self.false_positives)
        else:
            x, y = _ratio(self.false_positives, self.false_positives + self.true_negatives), recall
        lower, upper = y[:, :-1], y[:, 1:]
        heights = {"interpolation": (lower + upper) / 2, "minoring": np.minimum(lower, upper)}
        return (x[:, :-1] - x[:, 1:]) * heights.get(self.summation_method, np.maximum(lower, upper))

    def _pr_steps(self):
        """The same under precision = slope + intercept / predicted positives, which is exact between two thresholds."""
        true, predicted = self.true_positives, self.true_positives + self.false_positives
        d_true, d_predicted = true[:, :-1] - true[:, 1:], predicted[:, :-1] - predicted[:, 1:]
        slope = _ratio(d_true, np.maximum(d_predicted, 0))
        intercept = true[:, 1:] - slope * predicted[:, 1:]
        both = (predicted[:, :-1] > 0) & (predicted[:, 1:] > 0)
        growth = np.where(both, _ratio(predicted[:, :-1], predicted[:, 1:]), 1)
        return _ratio(slope * (d_true + intercept * np.log(growth)), true[:, 1:] + self.false_negatives[:, 1:])

    def get_config(self):
        names = (
            "num_thresholds", "curve", "summation_method", "thresholds", "multi_label", "num_labels", "label_weights",
            "from_logits",
        )  # fmt: skip
        return super().get_config() | {name: getattr(self, name) for name in names}


class FBetaScore(Metric):
    """(1 + beta^2) precision recall / (beta^2 precision + recall) of every class (the last axis), or their average.

    Parameters
    ----------
    average : str or None
        None: an array (K,); "micro": over all predictions at once; "macro": the mean over classes; "weighted": that
        weighted by how often a class is true.
    beta : float above 0
    threshold : float in (0, 1], optional
        A prediction is positive if it is larger; default: if it is the largest of its step, and not 0.
    name, dtype
        As for `Metric`.

    Notes
    -----
    As in Keras 1e-7 is added to every divisor. Predictions may have any number of axes (Keras: two).
    """

    targets = dense_targets

    def __init__(self, average=None, beta=1.0, threshold=None, name="fbeta_score", dtype=None):
        if average not in AVERAGES:
            raise ValueError(f"average: expected one of {AVERAGES}, received {average!r}")
        if not (isinstance(beta, numbers.Real) and 0 < beta < math.inf):
            raise ValueError(f"beta: expected a number above 0, received {beta!r}")
        if threshold is not None and not (isinstance(threshold, numbers.Real) and 0 < threshold <= 1):
            raise ValueError(f"threshold: expected a number in (0, 1] or None, received {threshold!r}")
        self.average, self.beta, self.threshold = average, beta, threshold
        super().__init__(dtype, name)

    def reset_state(self):
        self._counts = None  # (3,K): true positives, false positives, false negatives

    def update_state(self, y_true, y_pred, sample_weight=None, mask=None):
        """Take in a batch; arguments as for a loss: y_pred (B,T,K), (B,K) or Ragged, sample_weight (B,) or (B,T)."""
        y, p, weight = self.valid_steps(y_true, y_pred, sample_weight, mask)
        if not len(weight):
            return
        if self.threshold is None:
            positive = (p >= np.max(p, axis=-1, keepdims=True)) & (np.abs(p) > 1e-9)
        else:
            positive = p > self.threshold
        counts = np.stack(
            [np.sum(weight[:, None] * a, axis=0) for a in (positive * y, positive * (1 - y), ~positive * y)]
        )
        self._counts = counts if self._counts is None else self._counts + counts

    def result(self):
        """The score since the last reset: a float, or an array (K,) without `average`; 0.0 where nothing was seen."""
        if self._counts is None:
            return 0.0
        counts = np.sum(self._counts, axis=1) if self.average == "micro" else self._counts
        true, false, missed = counts
        precision, recall = true / (true + false + EPSILON), true / (true + missed + EPSILON)
        squared = self.beta**2
        score = (1 + squared) * precision * recall / (squared * precision + recall + EPSILON)
        if self.average is None:
            return score
        if self.average == "weighted":
            return float(np.sum(score * (true + missed)) / (np.sum(true + missed) + EPSILON))
        return float(np.mean(score))

    def get_config(self):
        return super().get_config() | {"average": self.average, "beta": self.beta, "threshold": self.threshold}


class F1Score(FBetaScore):
    """`FBetaScore` with beta 1: the harmonic mean of precision and recall."""

    def __init__(self, average=None, threshold=None, name="f1_score", dtype=None):
        super().__init__(average, 1.0, threshold, name, dtype)

    def get_config(self):
        config = super().get_config()
        del config["beta"]
        return config


def _checked_thresholds(thresholds, default):
    """One or several thresholds as a list."""
    if thresholds is None:
        return [default]
    thresholds = np.atleast_1d(thresholds)
    if thresholds.ndim != 1 or thresholds.dtype.kind not in "iuf" or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ValueError(f"thresholds: expected numbers in [0, 1], received {thresholds.tolist()!r}")
    return thresholds.tolist()


def _one_or_all(values):
    return float(values[0]) if len(values) == 1 else values


def _ratio(a, b):
    """a / b, or 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.shape(b)), where=np.asarray(b) != 0)
