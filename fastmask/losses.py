"""Loss classes with Keras' names and arguments, masked; each offers value and gradient in one pass.

    loss = fm.losses.SparseCategoricalCrossentropy(from_logits=True)
    value = loss(y_true, y_pred, sample_weight=None, mask=None)
    value, d_pred = loss.value_and_grad(y_true, y_pred, sample_weight=None, mask=None)

`fastmask.ops.loss.loss_value_and_grad` states shapes, formulas and where the values differ from Keras on purpose.
"""

import copy

import numpy as np

from fastmask.ops import loss as ops
from fastmask.ops.mask import check_numbers
from fastmask.ragged import Ragged


class Loss:
    """A masked loss: one of the kinds of `fastmask.ops.loss` together with its options.

    Parameters
    ----------
    reduction : str or None
        "sum_over_batch_size" (= "mean"), "mean_with_sample_weight", "sum", "none" (= None).
    name : str, optional
    dtype : str, optional
        dtype the predictions are cast to, "float32" or "float64"; None keeps their own.

    Notes
    -----
    Call arguments: y_true and y_pred (B,T,K), (B,K) or Ragged; `mask` (B,T); `sample_weight` (B,) for rows, (B,T) for
    steps. Without `mask` the mask that y_pred carries as ``y_pred.mask`` counts (the eager outputs of layers). With a
    Ragged prediction y_true is a Ragged with the same offsets or an array over its (N,) steps, `mask` is (N,) or a
    Ragged, and step weights are a Ragged; gradients and step losses come back as Ragged.

    Examples
    --------
    >>> from fastmask.losses import MeanSquaredError
    >>> y_true, y_pred = [[[0.0], [0.0]]], [[[1.0], [3.0]]]
    >>> MeanSquaredError()(y_true, y_pred)
    5.0
    >>> value, d_pred = MeanSquaredError().value_and_grad(y_true, y_pred, mask=[[True, False]])
    >>> value, d_pred.tolist()
    (1.0, [[[2.0], [0.0]]])
    """

    kind = None  # the name in fastmask.ops.loss
    activation = None  # a model that ends in this activation may give this loss its logits instead (see `on_logits`)
    from_logits = False

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None, **options):
        ops.check_options(self.kind, reduction, **options)
        if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected float32 or float64, received {dtype!r}")
        self.reduction = reduction
        self.name = name or self.kind
        self.dtype = None if dtype is None else np.dtype(dtype).name
        self._option_names = tuple(options)
        self.__dict__.update(options)

    def __call__(self, y_true, y_pred, sample_weight=None, mask=None):
        """The value: a float, or with reduction "none" the weighted loss of every step."""
        terms, like = self._terms(y_true, y_pred, sample_weight, mask, want_grad=False)
        return self._value(terms, like)

    def value_and_grad(self, y_true, y_pred, sample_weight=None, mask=None):
        """(value, d_pred): d_pred (…,K) is the gradient of the value, with reduction "none" of the sum of the steps."""
        terms, like = self._terms(y_true, y_pred, sample_weight, mask)
        return self._value(terms, like), _in_form_of(like, terms.d_pred)

    def sums(self, y_true, y_pred, sample_weight=None, mask=None):
        """(total, divisor): the value is total / divisor, or 0 where the divisor is 0.

        The loss of an epoch is the sum of the totals over the sum of the divisors, which weighs batches by their valid
        steps. With reduction "sum" or "none" the divisor is 1 and the loss of an epoch is the sum of the totals.
        """
        terms, _ = self._terms(y_true, y_pred, sample_weight, mask, want_grad=False)
        return terms.total, terms.divisor

    def sums_and_grad(self, y_true, y_pred, sample_weight=None, mask=None):
        """(total, divisor, d_pred) in one pass: what a training step needs."""
        terms, like = self._terms(y_true, y_pred, sample_weight, mask)
        return terms.total, terms.divisor, _in_form_of(like, terms.d_pred)

    def on_logits(self):
        """This loss with from_logits=True: for a model that ends in `self.activation`, whose logits it takes."""
        if self.activation is None:
            raise ValueError(f"{self.name}: expected a cross-entropy, this loss does not work on logits")
        loss = copy.copy(self)
        loss.from_logits = True
        return loss

    @property
    def _options(self):
        return {name: getattr(self, name) for name in self._option_names}

    def get_config(self):
        return {"name": self.name, "reduction": self.reduction, "dtype": self.dtype, **self._options}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.get_config().items())})"

    def _terms(self, y_true, y_pred, sample_weight, mask, want_grad=True):
        y_true, y_pred, sample_weight, mask, like = flat_arguments(y_true, y_pred, sample_weight, mask)
        if self.dtype is not None:
            y_pred = np.asarray(y_pred, self.dtype)
        terms = ops.loss_terms(
            self.kind,
            y_true,
            y_pred,
            mask=mask,
            sample_weight=sample_weight,
            reduction=self.reduction,
            want_grad=want_grad,
            **self._options,
        )
        return terms, like

    def _value(self, terms, like):
        value = ops.value_of(terms, self.reduction)
        return _in_form_of(like, value) if self.reduction in ("none", None) else value


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


class MeanSquaredError(Loss):
    """Mean over the last axis of (y_pred - y_true)^2, then reduced over the steps that count."""

    kind = "mean_squared_error"

    def __init__(self, reduction="sum_over_batch_size", name="mean_squared_error", dtype=None):
        super().__init__(reduction, name, dtype)


class MeanAbsoluteError(Loss):
    """Mean over the last axis of |y_pred - y_true|, then reduced over the steps that count."""

    kind = "mean_absolute_error"

    def __init__(self, reduction="sum_over_batch_size", name="mean_absolute_error", dtype=None):
        super().__init__(reduction, name, dtype)


class BinaryCrossentropy(Loss):
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


class CategoricalCrossentropy(Loss):
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


class SparseCategoricalCrossentropy(Loss):
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


def _check_axis(axis):
    if axis != -1:
        raise ValueError(f"axis: expected -1, the last axis, received {axis!r}")


CLASSES = (
    MeanSquaredError,
    MeanAbsoluteError,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
SHORT_NAMES = {
    "mse": MeanSquaredError,
    "MSE": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "MAE": MeanAbsoluteError,
    "bce": BinaryCrossentropy,
    "BCE": BinaryCrossentropy,
}
NAMES = {**{cls.kind: cls for cls in CLASSES}, **{cls.__name__: cls for cls in CLASSES}, **SHORT_NAMES}


def get(identifier):
    """A `Loss` from a name ("mse", "mean_squared_error", "MeanSquaredError", …), a class or an instance.

    Raises
    ------
    ValueError
        The name is not known.
    TypeError
        Neither a name, a `Loss` class nor a `Loss`.
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if isinstance(identifier, str):
        if identifier not in NAMES:
            raise ValueError(f"loss: expected one of {', '.join(sorted(NAMES))}, received {identifier!r}")
        return NAMES[identifier]()
    raise TypeError(f"loss: expected a name or a Loss, received {type(identifier).__name__}")
