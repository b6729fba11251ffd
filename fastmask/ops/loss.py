"""Masked losses: value and gradient in one pass over the steps that count."""

import math
import numbers
from typing import NamedTuple

import numpy as np

from fastmask.checks import check_flag, check_function
from fastmask.kernels import _jit
from fastmask.kernels.loss_names import BLOCK, EPSILON, KINDS
from fastmask.ops.mask import check_mask, check_numbers

REDUCTIONS = (
    "sum_over_batch_size", "mean", "mean_with_sample_weight", "weighted_masked_objective", "sum", "none", None,
)  # fmt: skip
SMOOTHABLE = ("binary_crossentropy", "categorical_crossentropy")
SIGNED = ("hinge", "squared_hinge")  # targets are -1 or 1; all 0 or 1 are taken for that
WORK = 60  # multiply-adds that one prediction is worth to the launcher: about 1 ns


class LossTerms(NamedTuple):
    """What a masked loss consists of; its value is total / divisor, or 0 where the divisor is 0."""

    total: float  # weighted step losses summed in float64, in the order of the steps
    divisor: float  # valid steps (or the sum of their weights); 1 for "sum" and "none"
    steps: np.ndarray  # (...,) weighted loss of every step, 0 at steps that do not count
    d_pred: np.ndarray | None  # (...,K) gradient of the value; for "none" of the sum of `steps`


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
    weight_share=None,
):
    """Total, divisor, step losses and gradient of a masked loss: what `loss_value_and_grad` is made of.

    Parameters, Raises and Notes are those of `loss_value_and_grad`. An epoch's loss is the sum of its batches' totals
    over the sum of their divisors, so that it does not depend on the batch size (for reduction "sum": the sum of the
    totals). `weight_share`: see `divisor_of`.

    Returns
    -------
    LossTerms
        (total, divisor, steps (...,), d_pred (...,K)); `d_pred` is None with ``want_grad=False``.
    """
    check_options(kind, reduction, from_logits, label_smoothing, ignore_class, delta)
    p = as_prediction(y_pred)
    steps, units = p.shape[:-1], p.shape[-1]
    sparse = kind == "sparse_categorical_crossentropy"
    valid = as_step_mask(mask, steps)
    weight = as_step_weight(sample_weight, steps, p.dtype)
    y = as_labels(y_true, steps) if sparse else as_target(y_true, p.shape, p.dtype)
    if ignore_class is not None:
        valid &= y != ignore_class
    counts = valid if weight is None else valid & (weight != 0)
    if sparse:
        y = as_class_ids(y, counts, units)
    divisor = divisor_of(reduction, valid, weight, mask is not None or ignore_class is not None, weight_share)

    # What the kernel sees: the steps that count, as a list, and arrays of rows. Nothing else is ever read.
    N = math.prod(steps)
    rows = np.flatnonzero(counts)
    y, p = np.ascontiguousarray(y), np.ascontiguousarray(p)
    w = np.ones(len(rows), p.dtype) if weight is None else weight.reshape(N)[rows]
    values = np.empty(len(rows), p.dtype)
    d_pred = np.zeros(p.shape, p.dtype) if want_grad else None
    keep, shift = 1.0, 0.0  # targets count as keep * y + shift
    if label_smoothing:
        keep, shift = 1 - label_smoothing, label_smoothing / (2 if kind == "binary_crossentropy" else units)
    elif kind in SIGNED and _all_binary(y[counts]):
        keep, shift = 2.0, -1.0
    if len(rows):
        _jit.get("loss", f"{kind}_from_logits" if from_logits else kind, p.dtype).run(
            -(-len(rows) // BLOCK),
            len(rows) * units * WORK,
            count=len(rows),
            rows=rows,
            weight=w,
            values=values,
            y_true=y,
            y_pred=p,
            d_pred=d_pred if divisor else None,  # nothing to divide by: value and gradient are 0
            units=units,
            scale=1.0 / divisor if divisor else 0.0,
            keep=float(keep),
            shift=float(shift),
            delta=float(delta),
        )
    return _terms(values, divisor, counts, d_pred)


def function_terms(
    values,
    gradient,
    y_true,
    y_pred,
    *,
    mask=None,
    sample_weight=None,
    reduction="sum_over_batch_size",
    weight_share=None,
):
    """`loss_terms` of a loss given as functions, which see the n steps that count and nothing else.

    Parameters
    ----------
    values : function
        (y_true (n,...), y_pred (n,K)) -> (n,), the loss of every step.
    gradient : function or None
        The same arguments -> (n,K), the derivative of sum(values) with respect to y_pred; None leaves d_pred out.
    y_true : array_like
        Its leading axes are the steps; for K = 1 it may be without the last axis. It is cast to the dtype of `y_pred`.
    y_pred, mask, sample_weight, reduction, weight_share
        As for `loss_terms`.

    Returns
    -------
    LossTerms

    Raises
    ------
    ValueError
        Shapes that do not fit, what the functions return included.

    Notes
    -----
    The functions are not called where no step counts. `loss_value_and_grad` has the reductions and the mask rule.
    """
    check_function(values, "values"), check_function(gradient, "gradient", none=True), check_reduction(reduction)
    p = as_prediction(y_pred)
    steps, units = p.shape[:-1], p.shape[-1]
    valid = as_step_mask(mask, steps)
    weight = as_step_weight(sample_weight, steps, p.dtype)
    y = as_any_target(y_true, steps, units, p.dtype)
    counts = valid if weight is None else valid & (weight != 0)
    divisor = divisor_of(reduction, valid, weight, mask is not None, weight_share)

    n = int(np.count_nonzero(counts))
    losses = np.zeros(n, p.dtype)
    d_pred = None if gradient is None else np.zeros(p.shape, p.dtype)
    if n:
        y, p, w = y[counts], p[counts], 1 if weight is None else weight[counts]
        losses[:] = w * as_result(values(y, p), (n,), "call")
        if gradient is not None and divisor:
            d = as_result(gradient(y, p), (n, units), "gradient")
            d_pred[counts] = d * np.reshape(w / divisor, (-1, 1))
    return _terms(losses, divisor, counts, d_pred)


def _terms(values, divisor, counts, d_pred):
    """LossTerms from the weighted losses of the steps that count."""
    step_losses = np.zeros(counts.shape, values.dtype)
    step_losses[counts] = values
    return LossTerms(float(np.sum(values, dtype=np.float64)), divisor, step_losses, d_pred)


def divisor_of(reduction, valid, weight, masked, weight_share=None):
    """What the total is divided by: the table of `loss_value_and_grad`. `valid` are the steps that are not masked,
    `masked` says whether there was a mask.

    `weight_share`: share of the weights that are not 0, where it is not that of `weight` because weights of rows were
    repeated for the steps of a Ragged.
    """
    if reduction in ("sum", "none", None):
        return 1.0
    if reduction == "mean_with_sample_weight" and weight is not None:
        return float(np.sum(weight[valid], dtype=np.float64))
    divisor = float(np.count_nonzero(valid))
    if reduction == "weighted_masked_objective":
        if masked:
            divisor += EPSILON * valid.size
        divisor *= share_of_weights(weight) if weight_share is None else weight_share
    return divisor


def share_of_weights(weight):
    """How many of the weights are not 0, from 0 to 1; 1 without weights."""
    return np.count_nonzero(weight) / max(np.size(weight), 1) if weight is not None else 1.0


def loss_value_and_grad(
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
    """Value of a masked loss and its gradient with respect to the predictions, in one pass.

    Parameters
    ----------
    kind : str
        One of `fastmask.kernels.loss_names.KINDS`; `fastmask.reference.loss` has a function of that name with the
        equations.
    y_true : array_like
        Targets of the shape of `y_pred`; for K = 1 also without the last axis. Sparse: class numbers 0..K-1 of shape
        (...) or (...,1).
    y_pred : array_like (...,K), float32 or float64
        Predictions; the loss is computed in this dtype. The leading axes are the steps: (B,T), (B,), or (N,) for the
        values of a Ragged.
    mask : array_like (...) or (...,1), optional
        True (any non-zero) = the step counts.
    sample_weight : array_like, optional
        A scalar, (B,) or (B,1) for rows, (B,T) or (B,T,1) for steps. One axis always means rows.
    reduction : str or None
        "sum_over_batch_size" = "mean", "mean_with_sample_weight", "sum", "none" = None, or that of Keras 1 to 2.2,
        "weighted_masked_objective".
    from_logits, label_smoothing, ignore_class, delta
        As in Keras; `label_smoothing` for the binary and the categorical, `ignore_class` for the sparse cross-entropy,
        `delta` for "huber".
    want_grad : bool
        False leaves the gradient out.

    Returns
    -------
    value : float, or ndarray (...) with reduction "none"
        The reduced loss, summed over steps in float64; with "none" the weighted loss of every step.
    d_pred : ndarray (...,K) or None
        Gradient of the value (with "none" of the sum of the step losses); exactly 0 at steps that do not count.

    Raises
    ------
    ValueError
        Unknown kind or reduction, shapes that do not fit, class numbers out of range at steps that count, options the
        kind does not have.
    TypeError
        Arrays that are not real numbers.

    Notes
    -----
    With v the loss of a step, m the mask and w the weight:

    =========================  ==================  ===================================
    reduction                  total               divisor
    =========================  ==================  ===================================
    sum_over_batch_size        sum(m w v)          sum(m)
    mean_with_sample_weight    sum(m w v)          sum(m w)
    weighted_masked_objective  sum(m w v)          (sum(m) + N 1e-7) share of w != 0
    sum                        sum(m w v)          1
    none                       m w v at each step  1
    =========================  ==================  ===================================

    In the third N is the number of all steps and the share is that of all weights, masked ones too; without a mask
    there is no N 1e-7.

    Mask rule: a step that is masked, ignored or of weight 0 is never read, so NaN there changes nothing. If no step
    counts, value and gradient are 0. A mask of True everywhere is the same as no mask (but for the 1e-7 above).

    Parallel over steps. The bits of a step's loss and gradient, and of the total, depend on the steps that count and
    their order alone: not on threads, padding or the steps around them (tests/test_loss.py:
    test_padding_changes_no_bit, test_bits_do_not_depend_on_threads_or_on_the_launch).

    Equal to Keras 3.15 (TensorFlow), its clips at 1e-7 included, but for these: sample weights of one axis are never
    taken for time steps; targets (B,T) against predictions (B,T,1) give a loss for each step; weights that are
    broadcast enter the divisor of "mean_with_sample_weight" once for every step, masked or not; the gradient of the
    categorical cross-entropy from logits is the derivative of its value also for targets that do not sum to 1
    (TensorFlow assumes they do); NaN in a valid prediction gives a NaN gradient, not 0; whether the targets of a hinge
    are all 0 or 1, and so stand for -1 and 1, is decided by the steps that count; constants are exact in float64 (Keras
    takes log 2 of "log_cosh" and 1e-7 of "mean_squared_logarithmic_error" in float32).

    Examples
    --------
    >>> import numpy as np
    >>> value, d_pred = loss_value_and_grad(
    ...     "mean_squared_error", [[1.0, 2.0, 9.9]], [[[2.0], [4.0], [np.nan]]], mask=[[True, True, False]])
    >>> value
    2.5
    >>> d_pred[0, :, 0]
    array([1., 2., 0.])
    """
    terms = loss_terms(
        kind,
        y_true,
        y_pred,
        mask=mask,
        sample_weight=sample_weight,
        reduction=reduction,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        ignore_class=ignore_class,
        delta=delta,
        want_grad=want_grad,
    )
    return value_of(terms, reduction), terms.d_pred


def value_of(terms, reduction):
    """The value that `reduction` makes of `terms`."""
    if reduction in ("none", None):
        return terms.steps
    return terms.total / terms.divisor if terms.divisor else 0.0


# ---- checks: every one names the argument, what was expected and what came ------------------------------------------


def check_reduction(reduction):
    """Raise unless there is such a reduction."""
    if not (reduction is None or isinstance(reduction, str)) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, received {reduction!r}")


def check_options(kind, reduction, from_logits=False, label_smoothing=0.0, ignore_class=None, delta=1.0):
    """Raise unless the options exist and belong to this kind of loss."""
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, received {kind!r}")
    check_reduction(reduction)
    if check_flag(from_logits, "from_logits") and not kind.endswith("crossentropy"):
        raise ValueError(f"from_logits: expected False for {kind}, received {from_logits!r}")
    if not (
        isinstance(label_smoothing, numbers.Real)
        and not isinstance(label_smoothing, bool)
        and 0 <= label_smoothing <= 1
    ):
        raise ValueError(f"label_smoothing: expected a number in [0, 1], received {label_smoothing!r}")
    if label_smoothing and kind not in SMOOTHABLE:
        raise ValueError(f"label_smoothing: expected 0 for {kind}, received {label_smoothing!r}")
    if ignore_class is not None:
        if kind != "sparse_categorical_crossentropy":
            raise ValueError(f"ignore_class: expected None for {kind}, received {ignore_class!r}")
        if not isinstance(ignore_class, numbers.Integral):
            raise TypeError(f"ignore_class: expected an integer or None, received {ignore_class!r}")
    if not (isinstance(delta, numbers.Real) and 0 < delta < math.inf):
        raise ValueError(f"delta: expected a number above 0, received {delta!r}")
    if delta != 1 and kind != "huber":
        raise ValueError(f"delta: expected 1 for {kind}, received {delta!r}")


def as_prediction(y_pred):
    """y_pred (...,K) in float32 or float64; anything narrower than float64 becomes float32."""
    y_pred = check_numbers(y_pred, "y_pred")
    if y_pred.ndim == 0 or y_pred.shape[-1] == 0:
        raise ValueError(f"y_pred: expected shape (...,K) with K at least 1, received {y_pred.shape}")
    return np.asarray(y_pred, np.float64 if y_pred.dtype.kind == "f" and y_pred.dtype.itemsize >= 8 else np.float32)


def as_target(y_true, shape, dtype):
    """y_true in the shape and dtype of the predictions; for K = 1 the last axis may be missing."""
    y_true = check_numbers(y_true, "y_true")
    without_last = shape[-1] == 1 and y_true.shape == shape[:-1]
    if not (y_true.shape in (shape, (*shape, 1)) or without_last):
        raise ValueError(f"y_true: expected shape {shape}, the shape of y_pred, received {y_true.shape}")
    with np.errstate(over="ignore"):  # garbage under a mask may be anything
        return y_true.astype(dtype, copy=False).reshape(shape)


def as_any_target(y_true, steps, units, dtype):
    """y_true of any shape whose leading axes are the steps, in the dtype of the predictions; for K = 1 with a last axis
    like theirs."""
    y_true = check_numbers(y_true, "y_true")
    if y_true.shape[: len(steps)] != steps:
        raise ValueError(f"y_true: expected shape {steps} or with further axes, received {y_true.shape}")
    if units == 1 and y_true.shape == steps:
        y_true = y_true[..., None]
    with np.errstate(over="ignore"):  # garbage under a mask may be anything
        return y_true.astype(dtype, copy=False)


def as_labels(y_true, steps):
    """Class numbers, one a step; the values are checked by `as_class_ids` once it is known which of them count."""
    y_true = check_numbers(y_true, "y_true")
    if y_true.shape == (*steps, 1) and y_true.shape != steps:
        y_true = y_true[..., 0]
    if y_true.shape != steps:
        raise ValueError(f"y_true: expected class numbers of shape {steps}, received {y_true.shape}")
    return y_true


def as_class_ids(labels, counts, classes):
    """labels as int64, 0 where they do not count; ValueError if one that counts is not an integer in 0..classes-1."""
    right = (labels >= 0) & (labels < classes)
    if labels.dtype.kind == "f":
        right &= labels == np.floor(labels)
    wrong = counts & ~right
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"y_true: expected class numbers 0..{classes - 1}, received {labels[at]} at {at}")
    return np.where(counts, labels, 0).astype(np.int64)


def as_step_mask(mask, steps):
    """A fresh bool array of the shape of the steps; None gives True everywhere."""
    return np.ones(steps, bool) if mask is None else check_mask(mask, steps).copy()


def as_step_weight(sample_weight, steps, dtype):
    """sample_weight broadcast to the steps, axes aligned from the left, or None: (B,) are rows whatever T is."""
    if sample_weight is None:
        return None
    weight = check_numbers(sample_weight, "sample_weight").astype(dtype, copy=False)
    shape = weight.shape
    if weight.ndim == len(steps) + 1 and shape[-1] == 1:
        weight = weight[..., 0]
    aligned = weight.reshape(weight.shape + (1,) * (len(steps) - weight.ndim))
    rows_fit = weight.ndim == 0 or weight.shape[0] == math.prod(steps[:1]) or weight.ndim == len(steps) > 1
    fits = aligned.ndim == len(steps) and all(w in (1, s) for w, s in zip(aligned.shape, steps, strict=True))
    if not (rows_fit and fits):
        raise ValueError(
            f"sample_weight: expected () for all, {steps[:1]} for rows or {steps} for steps, received {shape}"
        )
    return np.ascontiguousarray(np.broadcast_to(aligned, steps))


def _all_binary(y):
    return bool(np.all((y == 0) | (y == 1)))


def as_result(array, shape, name):
    """What a user's function `name` returned, as an array of that shape."""
    array = check_numbers(array, name)
    if array.shape != shape:
        raise ValueError(f"{name}: expected a result of shape {shape}, received {array.shape}")
    return array
