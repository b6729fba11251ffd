"""Masked losses in plain NumPy: the value and its gradient, written to be read.

Design
a) A loss answers three separate questions: what one step costs (the point functions below, on rows y_pred (N,K)),
   which steps count and how much (mask, ignore_class, sample_weight), and how the steps become one number (reduction).
b) Steps that do not count are left out by selection before anything is computed; they are never multiplied by 0.
   So NaN or inf at a masked step, or at a step of weight 0, cannot reach the value or a gradient.
c) Everything is computed in the dtype of y_pred, but the totals over steps are float64.

The values are those of Keras 3.15 on TensorFlow, the clips of probabilities at 1e-7 included. `fastmask.ops.loss`
checks arguments and runs the same functions as compiled kernels; nothing is checked here.
"""

from typing import NamedTuple

import numpy as np

EPSILON = 1e-7  # keras.config.epsilon(): probabilities are clipped to [EPSILON, 1 - EPSILON]


class LossTerms(NamedTuple):
    """What a loss consists of: value = total / divisor, or 0 where the divisor is 0."""

    total: float  # sum of weighted step losses over the steps that count
    divisor: float  # valid steps, sum of their weights, or 1: see `divisor_of`
    steps: np.ndarray  # (...,) weighted loss of each step, 0 where it does not count
    d_pred: np.ndarray | None  # (...,K) gradient of the value; with reduction "none" of the sum of `steps`


# ---- what one step costs: y_pred (N,K) -> values (N,), d_pred (N,K) -------------------------------------------------


def mean_squared_error(y_true, y_pred):
    """v = mean_k (p - y)^2;  dv/dp = 2 (p - y) / K."""
    error = y_pred - y_true
    return np.mean(error * error, axis=-1), 2 * error / y_pred.shape[-1]


def mean_absolute_error(y_true, y_pred):
    """v = mean_k |p - y|;  dv/dp = sign(p - y) / K, which is 0 where p == y."""
    error = y_pred - y_true
    return np.mean(np.abs(error), axis=-1), np.sign(error) / y_pred.shape[-1]


def binary_crossentropy(y_true, y_pred, from_logits=False, label_smoothing=0.0):
    """v = -mean_k (y log p + (1-y) log(1-p)), labels smoothed to y (1-s) + s/2.

    From logits x, with e = exp(-|x|):  v = mean_k max(x, 0) - x y + log(1 + e);  dv/dx = (sigmoid(x) - y) / K, where
    sigmoid(x) is 1 - e/(1+e) for x >= 0 and e/(1+e) below: no cancellation when x is large and y is 1.
    From probabilities, clipped to c:  dv/dp = -(y/c - (1-y)/(1-c)) / K, and 0 where the clip bites.
    """
    units = y_pred.shape[-1]
    y = _smooth(y_true, label_smoothing, 2)
    if from_logits:
        x = y_pred
        e = np.exp(-np.abs(x))
        value = np.maximum(x, 0) - x * y + np.log1p(e)
        small = e / (1 + e)
        gradient = np.where(x >= 0, (1 - y) - small, small - y)
    else:
        c, clipped = _clip(y_pred)
        value = -(y * np.log(c) + (1 - y) * np.log(1 - c))
        gradient = np.where(clipped, 0, (1 - y) / (1 - c) - y / c)
    return np.mean(value, axis=-1), gradient / units


def categorical_crossentropy(y_true, y_pred, from_logits=False, label_smoothing=0.0):
    """v = -sum_k y_k log p_k, labels smoothed to y (1-s) + s/K.

    From logits x:  v = sum_k y_k (lse(x) - x_k);  dv/dx = softmax(x) sum_k y_k - y.
    From probabilities:  q = p / sum p, clipped to c;  v = -sum_k y_k log c_k;  with g = -y/c, 0 where the clip bites,
    dv/dp = (g - sum_k g_k q_k) / sum p.
    """
    y = _smooth(y_true, label_smoothing, y_pred.shape[-1])
    if from_logits:
        shifted, exps, exp_sum = _shifted_exp(y_pred)
        value = np.sum(y * (np.log(exp_sum) - shifted), axis=-1)
        gradient = exps / exp_sum * np.sum(y, axis=-1, keepdims=True) - y
    else:
        p_sum = np.sum(y_pred, axis=-1, keepdims=True)
        q = y_pred / p_sum
        c, clipped = _clip(q)
        value = -np.sum(y * np.log(c), axis=-1)
        g = np.where(clipped, 0, -y / c)
        gradient = (g - np.sum(g * q, axis=-1, keepdims=True)) / p_sum
    return value, gradient


def sparse_categorical_crossentropy(labels, y_pred, from_logits=False):
    """The same with class numbers instead of label vectors: labels (N,) in 0..K-1.

    From logits x:  v = lse(x) - x_label;  dv/dx = softmax(x) - onehot(label).
    From probabilities: clipped to c first and normalised after (Keras' order):  v = log(sum c) - log c_label;
    dv/dp = 1 / sum c - onehot(label) / c_label, and 0 where the clip bites.
    """
    rows = np.arange(len(labels))
    if from_logits:
        shifted, exps, exp_sum = _shifted_exp(y_pred)
        value = np.log(exp_sum[:, 0]) - shifted[rows, labels]
        gradient = exps / exp_sum
        gradient[rows, labels] -= 1
    else:
        c, clipped = _clip(y_pred)
        c_sum = np.sum(c, axis=-1, keepdims=True)
        value = np.log(c_sum[:, 0]) - np.log(c[rows, labels])
        gradient = np.repeat(1 / c_sum, c.shape[-1], axis=-1)
        gradient[rows, labels] -= 1 / c[rows, labels]
        gradient = np.where(clipped, 0, gradient)
    return value, gradient


KINDS = {
    function.__name__: function
    for function in (
        mean_squared_error,
        mean_absolute_error,
        binary_crossentropy,
        categorical_crossentropy,
        sparse_categorical_crossentropy,
    )
}


def _smooth(y, smoothing, classes):
    return y * y.dtype.type(1 - smoothing) + y.dtype.type(smoothing / classes) if smoothing else y


def _clip(p):
    """p clipped to [EPSILON, 1 - EPSILON] in its dtype, and where that changed it: NaN stays, and counts as inside."""
    low, high = p.dtype.type(EPSILON), p.dtype.type(1 - EPSILON)
    return np.clip(p, low, high), (p < low) | (p > high)


def _shifted_exp(x):
    """x - max(x), its exp and the sum of that, along the last axis: exp cannot overflow."""
    shifted = x - np.max(x, axis=-1, keepdims=True)
    exps = np.exp(shifted)
    return shifted, exps, np.sum(exps, axis=-1, keepdims=True)


# ---- which steps count, how much, and what they are divided by -------------------------------------------------------


def divisor_of(reduction, valid, weight):
    """What the total is divided by: valid (N,) bool, weight (N,) or None.

    "sum_over_batch_size", "mean": the number of valid steps; weights do not enter (Keras).
    "mean_with_sample_weight": the sum of the weights at valid steps, or their number without weights.
    "sum", "none": 1.
    """
    if reduction in ("sum", "none", None):
        return 1.0
    if reduction == "mean_with_sample_weight" and weight is not None:
        return float(np.sum(weight[valid], dtype=np.float64))
    return float(np.count_nonzero(valid))


def loss_terms(
    kind,
    y_true,
    y_pred,
    *,
    mask=None,
    sample_weight=None,
    reduction="sum_over_batch_size",
    from_logits=False,
    label_smoothing=0.0,
    ignore_class=None,
    want_grad=True,
):
    """Total, divisor, step losses and gradient of a masked loss.

    Shapes: y_pred (...,K); y_true (...,K), or (...) class numbers for the sparse kind; mask (...) bool, True = use the
    step; sample_weight broadcast from the left: () all, (B,) rows, (B,T) steps. `kind` is a name in `KINDS`.
    """
    y_pred = np.asarray(y_pred)
    steps = y_pred.shape[:-1]
    n = int(np.prod(steps))
    p = y_pred.reshape(n, y_pred.shape[-1])
    sparse = kind == "sparse_categorical_crossentropy"
    y = np.reshape(y_true, n) if sparse else np.reshape(y_true, p.shape).astype(p.dtype)

    valid = np.ones(n, bool) if mask is None else np.reshape(mask, n).astype(bool)
    if ignore_class is not None:
        valid = valid & (y != ignore_class)
    weight = None
    if sample_weight is not None:
        weight = np.asarray(sample_weight, p.dtype)
        weight = weight.reshape(weight.shape + (1,) * (len(steps) - weight.ndim))
        weight = np.broadcast_to(weight, steps).reshape(n)
    counts = valid if weight is None else valid & (weight != 0)

    options = {}
    if kind.endswith("crossentropy"):
        options["from_logits"] = from_logits
        if not sparse:
            options["label_smoothing"] = label_smoothing
    selected = y[counts].astype(np.int64) if sparse else y[counts]
    with np.errstate(all="ignore"):  # NaN and inf in valid data are the caller's and flow through
        value, gradient = KINDS[kind](selected, p[counts], **options)
        w = np.ones(len(value)) if weight is None else weight[counts].astype(np.float64)
        weighted = w * value
        total = float(np.sum(weighted))
        divisor = divisor_of(reduction, valid, weight)

        step_losses = np.zeros(n, p.dtype)
        step_losses[counts] = weighted
        d_pred = None
        if want_grad:
            d_pred = np.zeros_like(p)
            if divisor:
                d_pred[counts] = (w / divisor).astype(p.dtype)[:, None] * gradient
            d_pred = d_pred.reshape(y_pred.shape)
    return LossTerms(total, divisor, step_losses.reshape(steps), d_pred)


def loss_value_and_grad(kind, y_true, y_pred, **options):
    """(value, d_pred) of a masked loss, arguments as `loss_terms`: the plain counterpart of `fastmask.ops.loss`."""
    terms = loss_terms(kind, y_true, y_pred, **options)
    if options.get("reduction", "sum_over_batch_size") in ("none", None):
        return terms.steps, terms.d_pred
    return (terms.total / terms.divisor if terms.divisor else 0.0), terms.d_pred
