"""Constraints with Keras 3's names, arguments and formulas: what a weight is put through after each step.

    layer = fm.layers.Dense(8, kernel_constraint=fm.constraints.MaxNorm(3))

A constraint is called with a weight and returns the array to replace it; any function that does so will do.
"""

import numpy as np

from fastmask.checks import check_number
from fastmask.ops.mask import check_numbers
from fastmask.registry import Configured, Kind

EPSILON = 1e-7


class Constraint(Configured):
    """Base class. One of your own has `__call__`; decorated with `layers.register_serializable` it can be saved.

    Examples
    --------
    >>> class Symmetric(Constraint):
    ...     def __call__(self, w):
    ...         return (w + w.T) / 2
    """

    def __call__(self, w):
        w = check_numbers(w, "w")
        """The array that replaces w, of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(w)")


class MaxNorm(Constraint):
    """w clip(n, 0, max_value) / (n + 1e-7), where n is the norm of w along `axis`: vectors are at most that long.

    Axis 0 of a kernel (F,H) means the weights that lead to each unit. `axis` may be a list of axes.

    Examples
    --------
    >>> MaxNorm(1.0)(np.array([[3.0, 0.3], [4.0, 0.4]])).round(6)
    array([[0.6, 0.3],
           [0.8, 0.4]])
    """

    def __init__(self, max_value=2, axis=0):
        self.max_value, self.axis = check_number(max_value, "max_value"), _axes(axis)

    def __call__(self, w):
        w = check_numbers(w, "w")
        norm = _norm(w, self.axis)
        return w * (np.clip(norm, 0, self.max_value) / (EPSILON + norm))


class NonNeg(Constraint):
    """max(w, 0)."""

    def __call__(self, w):
        w = check_numbers(w, "w")
        return np.maximum(w, 0)


class UnitNorm(Constraint):
    """w / (n + 1e-7), where n is the norm of w along `axis`, a number or a list."""

    def __init__(self, axis=0):
        self.axis = _axes(axis)

    def __call__(self, w):
        w = check_numbers(w, "w")
        return w / (EPSILON + _norm(w, self.axis))


class MinMaxNorm(Constraint):
    """w (rate clip(n, min_value, max_value) + (1 - rate) n) / (n + 1e-7), where n is the norm of w along `axis`, a
    number or a list: with a rate below 1 vectors move towards that length slowly."""

    def __init__(self, min_value=0.0, max_value=1.0, rate=1.0, axis=0):
        self.min_value, self.max_value = check_number(min_value, "min_value"), check_number(max_value, "max_value")
        if self.min_value > self.max_value:
            raise ValueError(f"max_value: expected at least min_value = {min_value!r}, received {max_value!r}")
        self.rate = check_number(rate, "rate", high=1)
        self.axis = _axes(axis)

    def __call__(self, w):
        w = check_numbers(w, "w")
        norm = _norm(w, self.axis)
        wanted = self.rate * np.clip(norm, self.min_value, self.max_value) + (1 - self.rate) * norm
        return w * (wanted / (EPSILON + norm))


def _norm(w, axis):
    axes = axis if isinstance(axis, list) else [axis]
    if any(not -np.ndim(w) <= a < np.ndim(w) for a in axes):
        raise ValueError(f"w: expected an array with axis {axis}, received shape {np.shape(w)}")
    return np.sqrt(np.sum(np.square(w), axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=True))


def _axes(axis):
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if not axes or any(isinstance(a, bool) or not isinstance(a, (int, np.integer)) for a in axes):
        raise ValueError(f"axis: expected a whole number or a list of such, received {axis!r}")
    return [int(a) for a in axes] if isinstance(axis, (list, tuple)) else int(axis)


# ---- by name ---------------------------------------------------------------------------------------------------------
max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm

_kind = Kind(
    "constraint",
    Constraint,
    {"max_norm": MaxNorm, "non_neg": NonNeg, "unit_norm": UnitNorm, "min_max_norm": MinMaxNorm},
)


def get(identifier):
    """The constraint of that name, configuration or class, a callable itself, or None.

    Raises
    ------
    ValueError
        Unknown name.
    """
    return None if identifier is None else _kind.get(identifier)


def serialize(constraint):
    """A dict that `get` takes back; None for None."""
    return None if constraint is None else _kind.serialize(constraint)


deserialize = get
