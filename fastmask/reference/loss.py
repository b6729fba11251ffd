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

import math
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


def mean_absolute_percentage_error(y_true, y_pred):
    """v = 100 mean_k |p - y| / max(|y|, EPSILON);  dv/dp = 100 sign(p - y) / max(|y|, EPSILON) / K."""
    size = np.maximum(np.abs(y_true), y_pred.dtype.type(EPSILON))
    error = y_pred - y_true
    return 100 * np.mean(np.abs(error) / size, axis=-1), 100 * np.sign(error) / size / y_pred.shape[-1]


def mean_squared_logarithmic_error(y_true, y_pred):
    """v = mean_k (log(1 + p) - log(1 + y))^2, p and y not below EPSILON;  dv/dp = 2 (…) / (1 + p) / K, 0 below."""
    low = y_pred.dtype.type(EPSILON)
    c = np.maximum(y_pred, low)
    error = np.log(c + 1) - np.log(np.maximum(y_true, low) + 1)
    gradient = np.where(y_pred < low, 0, 2 * error / (c + 1))
    return np.mean(error * error, axis=-1), gradient / y_pred.shape[-1]


def huber(y_true, y_pred, delta=1.0):
    """With u = p - y: v = mean_k of u^2 / 2 where |u| <= delta, else of delta |u| - delta^2 / 2;  dv/dp = u cut to
    +-delta, / K.
    """
    u = y_pred - y_true
    value = np.where(np.abs(u) <= delta, u * u / 2, delta * np.abs(u) - delta * delta / 2)
    return np.mean(value, axis=-1), np.clip(u, -delta, delta) / y_pred.shape[-1]


def log_cosh(y_true, y_pred):
    """v = mean_k log cosh u with u = p - y, as |u| + log(1 + e^-2|u|) - log 2;  dv/dp = tanh(u) / K."""
    u = y_pred - y_true
    value = np.abs(u) + np.log1p(np.exp(-2 * np.abs(u))) - math.log(2)
    return np.mean(value, axis=-1), np.tanh(u) / y_pred.shape[-1]


def cosine_similarity(y_true, y_pred):
    """v = -sum_k p'_k y'_k, p' = p r with r = 1 / |p|, but at most 1 / EPSILON; y' likewise.

    dv/dp = -(y' - p' sum_k p'_k y'_k) r;  where r is the bound, -y' r.
    """
    unit_p, r = _unit_length(y_pred)
    unit_y, _ = _unit_length(y_true)
    cosine = np.sum(unit_p * unit_y, axis=-1, keepdims=True)
    along = np.where(r < 1 / EPSILON, cosine, 0)
    return -cosine[:, 0], (unit_p * along - unit_y) * r


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


def kl_divergence(y_true, y_pred):
    """v = sum_k y log(y / p), y and p clipped to [EPSILON, 1];  dv/dp = -y / p, 0 where the clip bites."""
    low = y_pred.dtype.type(EPSILON)
    y, p = np.clip(y_true, low, 1), np.clip(y_pred, low, 1)
    return np.sum(y * np.log(y / p), axis=-1), np.where((y_pred < low) | (y_pred > 1), 0, -y / p)


def poisson(y_true, y_pred):
    """v = mean_k p - y log(p + EPSILON);  dv/dp = (1 - y / (p + EPSILON)) / K."""
    p = y_pred + y_pred.dtype.type(EPSILON)
    return np.mean(y_pred - y_true * np.log(p), axis=-1), (1 - y_true / p) / y_pred.shape[-1]


def hinge(y_true, y_pred):
    """v = mean_k max(1 - y p, 0), y = -1 or 1;  dv/dp = -y / K where y p <= 1.

    Targets that are all 0 or 1 are taken for signs: 0 becomes -1 (Keras; here those of the steps that count decide).
    """
    y = _signs(y_true)
    value, active = _positive_part(1 - y * y_pred)
    return np.mean(value, axis=-1), -y * active / y_pred.shape[-1]


def squared_hinge(y_true, y_pred):
    """v = mean_k max(1 - y p, 0)^2;  dv/dp = -2 y max(1 - y p, 0) / K, y as for `hinge`."""
    y = _signs(y_true)
    value, _ = _positive_part(1 - y * y_pred)
    return np.mean(value * value, axis=-1), -2 * y * value / y_pred.shape[-1]


def categorical_hinge(y_true, y_pred):
    """v = max(m - sum_k y_k p_k + 1, 0) with m = max_k (1 - y_k) p_k, y one-hot.

    dv/dp = (1 - y) / n - y where (1 - y) p is m, which it is n times; else -y; 0 where v is cut off.
    """
    other = (1 - y_true) * y_pred
    m = np.max(other, axis=-1, keepdims=True)
    value, active = _positive_part(m - np.sum(y_true * y_pred, axis=-1, keepdims=True) + 1)
    is_max = other == m
    share = np.where(is_max, (1 - y_true) / np.sum(is_max, axis=-1, keepdims=True), 0)
    return value[:, 0], (share - y_true) * active


KINDS = {
    function.__name__: function
    for function in (
        mean_squared_error,
        mean_absolute_error,
        mean_absolute_percentage_error,
        mean_squared_logarithmic_error,
        huber,
        log_cosh,
        cosine_similarity,
        binary_crossentropy,
        categorical_crossentropy,
        sparse_categorical_crossentropy,
        kl_divergence,
        poisson,
        hinge,
        squared_hinge,
        categorical_hinge,
    )
}


def _smooth(y, smoothing, classes):
    return y * y.dtype.type(1 - smoothing) + y.dtype.type(smoothing / classes) if smoothing else y


def _clip(p):
    """p clipped to [EPSILON, 1 - EPSILON] in its dtype, and where that changed it: NaN stays, and counts as inside."""
    low, high = p.dtype.type(EPSILON), p.dtype.type(1 - EPSILON)
    return np.clip(p, low, high), (p < low) | (p > high)


def _signs(y):
    """Targets of a hinge: all 0 or 1 become -1 or 1, others stay."""
    return 2 * y - 1 if np.all((y == 0) | (y == 1)) else y


def _positive_part(margin):
    """max(margin, 0) and its slope, 1 from 0 on; NaN stays NaN in both."""
    return np.maximum(margin, 0), np.where(np.isnan(margin), np.nan, margin >= 0)


def _unit_length(x):
    """x r and r = 1 / |x| (N,1), which is at most 1 / EPSILON."""
    r = np.minimum(1 / np.sqrt(np.sum(x * x, axis=-1, keepdims=True)), x.dtype.type(1 / EPSILON))
    return x * r, r


def _shifted_exp(x):
    """x - max(x), its exp and the sum of that, along the last axis: exp cannot overflow."""
    shifted = x - np.max(x, axis=-1, keepdims=True)
    exps = np.exp(shifted)
    return shifted, exps, np.sum(exps, axis=-1, keepdims=True)


# ---- which steps count, how much, and what they are divided by -------------------------------------------------------


def divisor_of(reduction, valid, weight, masked):
    """What the total is divided by: valid (N,) bool, weight (N,) or None; masked: whether there was a mask at all.

    "sum_over_batch_size", "mean": the number of valid steps; weights do not enter (Keras).
    "mean_with_sample_weight": the sum of the weights at valid steps, or their number without weights.
    "weighted_masked_objective": see that function.
    "sum", "none": 1.
    """
    if reduction in ("sum", "none", None):
        return 1.0
    if reduction == "mean_with_sample_weight" and weight is not None:
        return float(np.sum(weight[valid], dtype=np.float64))
    divisor = float(np.count_nonzero(valid))
    if reduction == "weighted_masked_objective":
        if masked:
            divisor += EPSILON * valid.size
        if weight is not None and weight.size:
            divisor *= np.count_nonzero(weight) / weight.size
    return divisor


def weighted_masked_objective(values, weights=None, mask=None):
    """The value of a loss in Keras 1 to 2.2, of which the function of that name is the original, line by line.

    values (B,T) of the steps, weights (B,) or (B,T), mask (B,T). It is total / divisor with the divisor
    (sum(mask) + N EPSILON) times the share of weights that are not 0; that share counts masked steps, too.
    """
    score = np.asarray(values, np.float64)
    if mask is not None:
        mask = np.asarray(mask, np.float64)
        score = score * mask
        score = score / (np.mean(mask) + EPSILON)
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        score = np.mean(score, axis=tuple(range(weights.ndim, score.ndim)))
        score = score * weights
        score = score / np.mean(weights != 0)
    return np.mean(score)


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
    delta=1.0,
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
    if kind == "huber":
        options["delta"] = delta
    selected = y[counts].astype(np.int64) if sparse else y[counts]
    with np.errstate(all="ignore"):  # NaN and inf in valid data are the caller's and flow through
        value, gradient = KINDS[kind](selected, p[counts], **options)
        w = np.ones(len(value)) if weight is None else weight[counts].astype(np.float64)
        weighted = w * value
        total = float(np.sum(weighted))
        divisor = divisor_of(reduction, valid, weight, mask is not None or ignore_class is not None)

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
