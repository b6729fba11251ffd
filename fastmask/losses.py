"""Loss classes with Keras' names and arguments, masked; each offers value and gradient in one pass.

    loss = fm.losses.SparseCategoricalCrossentropy(from_logits=True)
    value = loss(y_true, y_pred, sample_weight=None, mask=None)
    value, d_pred = loss.value_and_grad(y_true, y_pred, sample_weight=None, mask=None)

`fastmask.ops.loss.loss_value_and_grad` states shapes, reductions and where the values differ from Keras on purpose, the
functions of `fastmask.reference.loss` the equations. `Loss` is the base of a loss of one's own.
"""

import copy

import numpy as np

from fastmask.checks import check_dtype, check_function, check_name
from fastmask.ops import loss as ops
from fastmask.ops.mask import check_numbers
from fastmask.ragged import Ragged
from fastmask.registry import Configured, Kind, snake_case


class Loss(Configured):
    """Base of all losses, and of one's own: give it `call` and, to train with it, `gradient`.

    Parameters
    ----------
    name : str, optional
        Default: the class name in snake_case.
    reduction : str or None
        "sum_over_batch_size" (= "mean"), "mean_with_sample_weight", "sum", "none" (= None); "weighted_masked_objective"
        is the formula of Keras 1 to 2.2: sum(m w v) / ((sum(m) + N 1e-7) share of weights that are not 0).
    dtype : str, optional
        dtype the predictions are cast to, "float32" or "float64"; None keeps their own.

    Notes
    -----
    Arguments of a loss: y_true and y_pred (B,T,K), (B,K) or Ragged; `mask` (B,T); `sample_weight` (B,) for rows, (B,T)
    for steps. Without `mask` the mask that y_pred carries as ``y_pred.mask`` counts (the eager outputs of layers). With
    a Ragged prediction y_true is a Ragged with the same offsets or an array over its (N,) steps, `mask` is (N,) or a
    Ragged, and step weights are a Ragged; gradients and step losses come back as Ragged.

    `call` and `gradient` see the n steps that count, as (n,...) and (n,K) in the dtype of y_pred: no mask, no weight of
    0, no padding, and they are not called where no step counts. Mask, weights, reduction and Ragged are done around
    them. Without `gradient` a loss evaluates; training with it raises NotImplementedError.

    Examples
    --------
    >>> class Quartic(Loss):
    ...     def call(self, y_true, y_pred):
    ...         return np.mean((y_pred - y_true) ** 4, axis=-1)
    ...
    ...     def gradient(self, y_true, y_pred):
    ...         return 4 * (y_pred - y_true) ** 3 / y_pred.shape[-1]
    >>> y_true, y_pred = [[[0.0], [0.0]]], [[[1.0], [np.nan]]]
    >>> value, d_pred = Quartic().value_and_grad(y_true, y_pred, mask=[[True, False]])
    >>> value, d_pred.tolist()
    (1.0, [[[4.0], [0.0]]])
    """

    activation = None  # a model that ends in this activation may give this loss its logits instead (see `on_logits`)
    from_logits = False

    def __init__(self, name=None, reduction="sum_over_batch_size", dtype=None):
        ops.check_reduction(reduction)
        self.name = check_name(name) or snake_case(type(self).__name__)
        self.reduction = reduction
        self.dtype = None if dtype is None else check_dtype(dtype)

    def call(self, y_true, y_pred):
        """The loss (n,) of n steps: y_true (n,...), y_pred (n,K). For a loss of one's own."""
        raise NotImplementedError(f"{self.name}: {type(self).__name__} has no call(y_true, y_pred)")

    def gradient(self, y_true, y_pred):
        """Derivative (n,K) of the sum of `call` with respect to y_pred (n,K). For a loss of one's own."""
        raise NotImplementedError(
            f"{self.name}: {type(self).__name__} has no gradient(y_true, y_pred), so it works for evaluation only; "
            "give it one to train with it"
        )

    def __call__(self, y_true, y_pred, sample_weight=None, mask=None):
        """The value: a float, or with reduction "none" the weighted loss of every step."""
        terms, like = self._flat_terms(y_true, y_pred, sample_weight, mask, want_grad=False)
        return self._value(terms, like)

    def value_and_grad(self, y_true, y_pred, sample_weight=None, mask=None):
        """(value, d_pred): d_pred (…,K) is the gradient of the value, with reduction "none" of the sum of the steps."""
        terms, like = self._flat_terms(y_true, y_pred, sample_weight, mask)
        return self._value(terms, like), _in_form_of(like, terms.d_pred)

    def sums(self, y_true, y_pred, sample_weight=None, mask=None):
        """(total, divisor): the value is total / divisor, or 0 where the divisor is 0.

        The loss of an epoch is the sum of the totals over the sum of the divisors, which weighs batches by their valid
        steps. With reduction "sum" or "none" the divisor is 1 and the loss of an epoch is the sum of the totals.
        """
        terms, _ = self._flat_terms(y_true, y_pred, sample_weight, mask, want_grad=False)
        return terms.total, terms.divisor

    def sums_and_grad(self, y_true, y_pred, sample_weight=None, mask=None):
        """(total, divisor, d_pred) in one pass: what a training step needs."""
        terms, like = self._flat_terms(y_true, y_pred, sample_weight, mask)
        return terms.total, terms.divisor, _in_form_of(like, terms.d_pred)

    def on_logits(self):
        """This loss with from_logits=True: for a model that ends in `self.activation`, whose logits it takes."""
        if self.activation is None:
            raise ValueError(f"{self.name}: expected a cross-entropy, this loss does not work on logits")
        loss = copy.copy(self)
        loss.from_logits = True
        return loss

    def get_config(self):
        """The constructor's arguments, `dtype` if one was given; add those of your own."""
        config = {"name": self.name, "reduction": self.reduction}
        return config if self.dtype is None else config | {"dtype": self.dtype}

    def _flat_terms(self, y_true, y_pred, sample_weight, mask, want_grad=True):
        share = None
        if self.reduction == "weighted_masked_objective" and sample_weight is not None:
            share = ops.share_of_weights(getattr(sample_weight, "values", sample_weight))
        y_true, y_pred, sample_weight, mask, like = flat_arguments(y_true, y_pred, sample_weight, mask)
        if self.dtype is not None:
            y_pred = np.asarray(y_pred, self.dtype)
        arguments = {
            "mask": mask,
            "sample_weight": sample_weight,
            "reduction": self.reduction,
            "weight_share": share,
        }
        return self._terms(y_true, y_pred, want_grad, arguments), like

    def _terms(self, y_true, y_pred, want_grad, arguments):
        gradient = self.gradient if want_grad else None
        return ops.function_terms(self.call, gradient, y_true, y_pred, **arguments)

    def _value(self, terms, like):
        value = ops.value_of(terms, self.reduction)
        return _in_form_of(like, value) if self.reduction in ("none", None) else value


class FusedLoss(Loss):
    """Base of the losses of fastmask: a kind of `fastmask.ops.loss` with its options, value and gradient in one kernel.

    Parameters are those of `Loss`; `options` belong to the kind. To change what one of these computes, write a `Loss`
    of your own that calls it: ``call`` and ``gradient`` here would never be asked for and are refused.

    Examples
    --------
    >>> y_true, y_pred = [[[0.0], [0.0]]], [[[1.0], [3.0]]]
    >>> MeanSquaredError()(y_true, y_pred)
    5.0
    >>> value, d_pred = MeanSquaredError().value_and_grad(y_true, y_pred, mask=[[True, False]])
    >>> value, d_pred.tolist()
    (1.0, [[[2.0], [0.0]]])
    """

    kind = None  # the name in fastmask.ops.loss

    def __init_subclass__(cls):
        refused = {"call", "gradient"} & vars(cls).keys()
        if refused:
            raise TypeError(
                f"{cls.__name__}.{min(refused)}: expected {cls.__base__.__name__} as it is; a loss with a call of its "
                "own is a subclass of fastmask.losses.Loss"
            )

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None, **options):
        super().__init__(name, reduction, dtype)
        ops.check_options(self.kind, reduction, **options)
        self._option_names = tuple(options)
        self.__dict__.update(options)

    @property
    def options(self):
        """The options of its kind, by name."""
        return {name: getattr(self, name) for name in self._option_names}

    def get_config(self):
        return super().get_config() | self.options

    def _terms(self, y_true, y_pred, want_grad, arguments):
        return ops.loss_terms(self.kind, y_true, y_pred, want_grad=want_grad, **arguments, **self.options)


class LossFunctionWrapper(Loss):
    """The loss of a plain function: what ``compile(loss=function)`` makes of it.

    Parameters
    ----------
    fn : function
        (y_true (n,...), y_pred (n,K), **kwargs) -> (n,), as `Loss.call`. Its attribute ``fn.gradient``, a function of
        the same arguments -> (n,K), is what `Loss.gradient` is; without it the loss works for evaluation only.
    reduction, name, dtype
        As for `Loss`; the default of `name` is that of the function.
    kwargs
        Handed to both functions.

    Examples
    --------
    >>> def quartic(y_true, y_pred):
    ...     return np.mean((y_pred - y_true) ** 4, axis=-1)
    >>> quartic.gradient = lambda y_true, y_pred: 4 * (y_pred - y_true) ** 3 / y_pred.shape[-1]
    >>> get(quartic).value_and_grad([[0.0]], [[2.0]])
    (16.0, array([[32.]]))
    """

    def __init__(self, fn, reduction="sum_over_batch_size", name=None, dtype=None, **kwargs):
        super().__init__(name or getattr(check_function(fn, "fn"), "__name__", None), reduction, dtype)
        self.fn, self.kwargs = fn, kwargs

    def call(self, y_true, y_pred):
        return self.fn(y_true, y_pred, **self.kwargs)

    def gradient(self, y_true, y_pred):
        if not hasattr(self.fn, "gradient"):
            raise NotImplementedError(
                f"{self.name}: the function has no attribute `gradient`, so it works for evaluation only; set it to a "
                "function of (y_true, y_pred), or write a subclass of Loss, to train with it"
            )
        return self.fn.gradient(y_true, y_pred, **self.kwargs)

    def get_config(self):
        raise ValueError(
            f"{self.name}: a plain function cannot be written down; make it a subclass of Loss, decorated with "
            "register_serializable"
        )

    def __repr__(self):
        return f"LossFunctionWrapper({self.name})"


def flat_arguments(y_true, y_pred, sample_weight, mask):
    """The arguments of a loss or metric as arrays, and the Ragged whose form results take (None for dense input)."""
    if isinstance(y_pred, np.ma.MaskedArray):
        raise TypeError(
            "y_pred: expected an ndarray, received numpy.ma: its mask means the opposite, pass mask=~y_pred.mask"
        )
    if mask is None:
        mask = getattr(y_pred, "mask", None)  # of a layer's output, dense or Ragged
    if not isinstance(y_pred, Ragged):
        for name, value in (("y_true", y_true), ("sample_weight", sample_weight), ("mask", mask)):
            if isinstance(value, Ragged):
                raise TypeError(f"{name}: expected an array, as y_pred is one, received a Ragged")
        return y_true, y_pred, sample_weight, mask, None
    if isinstance(sample_weight, Ragged):
        sample_weight = _values_of(sample_weight, y_pred, "sample_weight")
    elif sample_weight is not None and np.ndim(sample_weight):
        sample_weight = _row_weights(sample_weight, y_pred)
    return (
        _values_of(y_true, y_pred, "y_true"),
        y_pred.values,
        sample_weight,
        _values_of(mask, y_pred, "mask"),
        y_pred,
    )


def _values_of(array, like, name):
    """The values of a Ragged with the offsets of `like`; arrays are taken to be over its (N,) steps already."""
    if not isinstance(array, Ragged):
        return array
    if not np.array_equal(array.offsets, like.offsets):
        raise ValueError(f"{name}: expected the offsets of y_pred, received other row lengths")
    return array.values


def _row_weights(sample_weight, like):
    """Weights of rows repeated for their steps. An array is never taken for steps: (N,) may be (B,) by accident."""
    weight = check_numbers(sample_weight, "sample_weight")
    if weight.shape not in ((len(like),), (len(like), 1)):
        raise ValueError(
            f"sample_weight: expected ({len(like)},) for the rows or a Ragged for the steps, received {weight.shape}"
        )
    return np.repeat(weight.reshape(len(like)), like.lengths)


def _in_form_of(like, array):
    return array if like is None else like.with_values(array)


class MeanSquaredError(FusedLoss):
    """Mean over the last axis of (y_pred - y_true)^2."""

    kind = "mean_squared_error"

    def __init__(self, reduction="sum_over_batch_size", name="mean_squared_error", dtype=None):
        super().__init__(reduction, name, dtype)


class MeanAbsoluteError(FusedLoss):
    """Mean over the last axis of |y_pred - y_true|."""

    kind = "mean_absolute_error"

    def __init__(self, reduction="sum_over_batch_size", name="mean_absolute_error", dtype=None):
        super().__init__(reduction, name, dtype)


class MeanAbsolutePercentageError(FusedLoss):
    """Mean over the last axis of 100 |y_pred - y_true| / max(|y_true|, 1e-7)."""

    kind = "mean_absolute_percentage_error"

    def __init__(self, reduction="sum_over_batch_size", name="mean_absolute_percentage_error", dtype=None):
        super().__init__(reduction, name, dtype)


class MeanSquaredLogarithmicError(FusedLoss):
    """Mean over the last axis of (log(1 + y_pred) - log(1 + y_true))^2, neither taken below 1e-7."""

    kind = "mean_squared_logarithmic_error"

    def __init__(self, reduction="sum_over_batch_size", name="mean_squared_logarithmic_error", dtype=None):
        super().__init__(reduction, name, dtype)


class Huber(FusedLoss):
    """With u = y_pred - y_true, mean over the last axis of u^2 / 2 where |u| <= delta, else delta |u| - delta^2 / 2."""

    kind = "huber"

    def __init__(self, delta=1.0, reduction="sum_over_batch_size", name="huber_loss", dtype=None):
        super().__init__(reduction, name, dtype, delta=delta)


class LogCosh(FusedLoss):
    """Mean over the last axis of log cosh (y_pred - y_true)."""

    kind = "log_cosh"

    def __init__(self, reduction="sum_over_batch_size", name="log_cosh", dtype=None):
        super().__init__(reduction, name, dtype)


class CosineSimilarity(FusedLoss):
    """Minus the cosine of the angle between y_true and y_pred over the last axis: -1 where they point the same way.

    The metric of this name is the cosine itself (Keras). Where one of them is 0, so is the loss.
    """

    kind = "cosine_similarity"

    def __init__(self, axis=-1, reduction="sum_over_batch_size", name="cosine_similarity", dtype=None):
        _check_axis(axis)
        super().__init__(reduction, name, dtype)


class BinaryCrossentropy(FusedLoss):
    """Cross-entropy of independent yes/no targets, averaged over the last axis.

    `label_smoothing` s makes the targets y (1-s) + s/2. Probabilities are clipped to [1e-7, 1 - 1e-7]; logits are not.
    """

    kind = "binary_crossentropy"
    activation = "sigmoid"

    def __init__(
        self,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="binary_crossentropy",
        dtype=None,
    ):
        _check_axis(axis)
        super().__init__(reduction, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing)


class CategoricalCrossentropy(FusedLoss):
    """Cross-entropy of class probabilities (one-hot or soft targets, (…,K)).

    `label_smoothing` s makes the targets y (1-s) + s/K. Probabilities are divided by their sum, then clipped to
    [1e-7, 1 - 1e-7]; logits are not.
    """

    kind = "categorical_crossentropy"
    activation = "softmax"

    def __init__(
        self,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="categorical_crossentropy",
        dtype=None,
    ):
        _check_axis(axis)
        super().__init__(reduction, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing)


class SparseCategoricalCrossentropy(FusedLoss):
    """Cross-entropy of class numbers 0..K-1, shape (…) or (…,1).

    Steps whose target is `ignore_class` (any integer, -1 and -100 too) count as masked. Probabilities are clipped to
    [1e-7, 1 - 1e-7], then divided by their sum; logits are not.
    """

    kind = "sparse_categorical_crossentropy"
    activation = "softmax"

    def __init__(
        self,
        from_logits=False,
        ignore_class=None,
        reduction="sum_over_batch_size",
        axis=-1,
        name="sparse_categorical_crossentropy",
        dtype=None,
    ):
        _check_axis(axis)
        super().__init__(reduction, name, dtype, from_logits=from_logits, ignore_class=ignore_class)


class KLDivergence(FusedLoss):
    """Sum over the last axis of y_true log(y_true / y_pred), both clipped to [1e-7, 1]."""

    kind = "kl_divergence"

    def __init__(self, reduction="sum_over_batch_size", name="kl_divergence", dtype=None):
        super().__init__(reduction, name, dtype)


class Poisson(FusedLoss):
    """Mean over the last axis of y_pred - y_true log(y_pred + 1e-7)."""

    kind = "poisson"

    def __init__(self, reduction="sum_over_batch_size", name="poisson", dtype=None):
        super().__init__(reduction, name, dtype)


class Hinge(FusedLoss):
    """Mean over the last axis of max(1 - y_true y_pred, 0), targets -1 or 1.

    Targets that are all 0 or 1, at the steps that count, stand for -1 and 1.
    """

    kind = "hinge"

    def __init__(self, reduction="sum_over_batch_size", name="hinge", dtype=None):
        super().__init__(reduction, name, dtype)


class SquaredHinge(FusedLoss):
    """Mean over the last axis of max(1 - y_true y_pred, 0)^2, targets as for `Hinge`."""

    kind = "squared_hinge"

    def __init__(self, reduction="sum_over_batch_size", name="squared_hinge", dtype=None):
        super().__init__(reduction, name, dtype)


class CategoricalHinge(FusedLoss):
    """max(m - sum(y_true y_pred) + 1, 0) with m = max((1 - y_true) y_pred), over the last axis; targets one-hot."""

    kind = "categorical_hinge"

    def __init__(self, reduction="sum_over_batch_size", name="categorical_hinge", dtype=None):
        super().__init__(reduction, name, dtype)


def _check_axis(axis):
    if axis != -1:
        raise ValueError(f"axis: expected -1, the last axis, received {axis!r}")


CLASSES = (
    MeanSquaredError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredLogarithmicError,
    Huber,
    LogCosh,
    CosineSimilarity,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    KLDivergence,
    Poisson,
    Hinge,
    SquaredHinge,
    CategoricalHinge,
)
SHORT_NAMES = {
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mape": MeanAbsolutePercentageError,
    "msle": MeanSquaredLogarithmicError,
    "bce": BinaryCrossentropy,
    "kld": KLDivergence,
}
_kind = Kind(
    "loss",
    Loss,
    {
        **{cls.kind: cls for cls in CLASSES},
        **SHORT_NAMES,
        **{name.upper(): cls for name, cls in SHORT_NAMES.items()},
    },
    callables=False,
)


def get(identifier):
    """A `Loss` from a name ("mse", "mean_squared_error", "MeanSquaredError", …), a class, a configuration or a function
    of (y_true, y_pred) (see `LossFunctionWrapper`), or the instance given.

    Raises
    ------
    ValueError
        Nothing of this, or a name or class that is not known.
    """
    if callable(identifier) and not isinstance(identifier, (type, Loss)):
        return LossFunctionWrapper(identifier)
    return _kind.get(identifier)


def serialize(loss):
    """A dict that `get` takes back, of a loss of fastmask or of a class decorated with `register_serializable`.

    Raises
    ------
    ValueError
        A class that is not registered, or a plain function.
    """
    return _kind.serialize(loss)


deserialize = get
