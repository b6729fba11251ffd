"""Regularizers with Keras 3's names, arguments and formulas: penalties on weights, added to the loss in training.

    layer = fm.layers.Dense(8, kernel_regularizer=fm.regularizers.L2(1e-4))

A regularizer is called with a weight and returns its penalty, a float; `gradient(x)` is the derivative.
"""

import numpy as np

from fastmask.checks import check_number
from fastmask.ops import gemm
from fastmask.ops.mask import check_numbers
from fastmask.registry import Configured, Kind


class Regularizer(Configured):
    """Base class. One of your own has both methods; decorated with `layers.register_serializable` it can be saved.

    Examples
    --------
    >>> class Quartic(Regularizer):
    ...     def __call__(self, x):
    ...         return float(np.sum(x**4))
    ...
    ...     def gradient(self, x):
    ...         return 4 * x**3
    """

    def __call__(self, x):
        """The penalty of the array x, a float."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(x)")

    def gradient(self, x):
        """The derivative of the penalty, an array of the shape of x."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient(x): it cannot be trained with")


class L1L2(Regularizer):
    """l1 sum |x| + l2 sum x^2, with the derivative l1 sign(x) + 2 l2 x.

    The name "l1_l2" stands for L1L2(0.01, 0.01), as Keras documents it (Keras' own code gives factors of 0 for
    "l1l2").

    Examples
    --------
    >>> L1L2(l1=0.5, l2=0.25)([[1.0, -2.0]])
    2.75
    """

    def __init__(self, l1=0.0, l2=0.0):
        self.l1, self.l2 = _factor(l1, "l1", 0.0), _factor(l2, "l2", 0.0)

    def __call__(self, x):
        x = check_numbers(x, "x")
        penalty = 0.0
        if self.l1:
            penalty += self.l1 * float(np.sum(np.abs(x), dtype=np.float64))
        if self.l2:
            penalty += self.l2 * float(np.sum(np.square(x), dtype=np.float64))
        return penalty

    def gradient(self, x):
        x = check_numbers(x, "x")
        if not self.l1:
            return (2 * self.l2) * x
        gradient = self.l1 * np.sign(x)
        if self.l2:
            gradient += (2 * self.l2) * x
        return gradient


class L1(L1L2):
    """l1 sum |x|, with the derivative l1 sign(x)."""

    def __init__(self, l1=0.01):
        super().__init__(l1=_factor(l1, "l1", 0.01))


class L2(L1L2):
    """l2 sum x^2, with the derivative 2 l2 x."""

    def __init__(self, l2=0.01):
        super().__init__(l2=_factor(l2, "l2", 0.01))


class OrthogonalRegularizer(Regularizer):
    """factor times the mean of |u_i . u_j| over all pairs i < j of the rows ("columns": of the columns) of a matrix,
    each divided by its norm: u_i = x_i / max(|x_i|, 1e-7).

    A matrix with less than two of them has no pair and a penalty of 0 (Keras: NaN).
    """

    def __init__(self, factor=0.01, mode="rows"):
        self.factor = _factor(factor, "factor", 0.01)
        if mode not in ("rows", "columns"):
            raise ValueError(f'mode: expected "rows" or "columns", received {mode!r}')
        self.mode = mode

    def __call__(self, x):
        products = self._products(x)[2]
        return self._scale(products) * float(np.sum(np.abs(products), dtype=np.float64))

    def gradient(self, x):
        u, inverse_norm, products = self._products(x)
        d_u = gemm.dense(np.sign(products), (2 * self._scale(products)) * u)  # u_i is in the products (i,j) and (j,i)
        # u = x / |x| does not change along x, except for a vector so short that it is divided by the constant 1e-7
        radial = np.where(inverse_norm < 1e7, np.sum(d_u * u, axis=1, keepdims=True), 0)
        d_x = (d_u - u * radial) * inverse_norm
        return d_x if self.mode == "rows" else np.ascontiguousarray(d_x.T)

    def _scale(self, products):
        n = len(products)
        return self.factor / (n * (n - 1)) if n > 1 else 0.0

    def _products(self, x):
        """The vectors u, what x was multiplied by to get them, and their products with 0 on the diagonal."""
        x = check_numbers(x, "x")
        if x.ndim != 2:
            raise ValueError(f"x: expected a matrix for OrthogonalRegularizer, received shape {x.shape}")
        x = x if self.mode == "rows" else x.T
        with np.errstate(divide="ignore"):
            inverse_norm = np.minimum(1 / np.sqrt(np.sum(np.square(x), axis=1, keepdims=True)), 1e7)
        u = x * inverse_norm
        products = gemm.dense(u, np.ascontiguousarray(u.T))
        np.fill_diagonal(products, 0)
        return u, inverse_norm, products


def _factor(value, name, default):
    return default if value is None else check_number(value, name)


# ---- by name ---------------------------------------------------------------------------------------------------------
l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer

_kind = Kind(
    "regularizer", Regularizer, {"l1": L1, "l2": L2, "l1_l2": L1L2, "orthogonal_regularizer": OrthogonalRegularizer}
)


def get(identifier):
    """The regularizer of that name, configuration or class, an object with `gradient` itself, or None.

    Raises
    ------
    ValueError
        Unknown name.
    TypeError
        A callable without `gradient`: there is no automatic differentiation here.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str) and identifier in ("l1_l2", "L1L2"):
        return L1L2(0.01, 0.01)
    regularizer = _kind.get(identifier)
    if not callable(getattr(regularizer, "gradient", None)):
        raise TypeError(
            "regularizer: expected a Regularizer, with __call__(x) and its derivative gradient(x), "
            f"received {regularizer!r}"
        )
    return regularizer


def serialize(regularizer):
    """A dict that `get` takes back; None for None."""
    return None if regularizer is None else _kind.serialize(regularizer)


deserialize = get
