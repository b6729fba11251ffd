"""What a layer returns under a mask when called by hand: an ndarray (or Ragged) that carries the mask as `.mask`. And
what layers do with values under a mask.

Only layers read and write that mask. Whatever NumPy makes from such an array (y + 1, y[:, 1:], y.reshape(...),
np.sum(y)) is a plain array: the mask would not fit it, or would be a guess.
"""

import numpy as np

from fastmask.ops.mask import align_mask, check_mask, is_finite_under
from fastmask.ragged import Ragged


class MaskedOutput(np.ndarray):
    """An ndarray with a mask for its leading axes: True = a valid step.

    Pickles and copy.copy / copy.deepcopy keep the mask; every other operation gives a plain ndarray.
    """

    __array_priority__ = 1.0
    mask = None  # that of arrays which NumPy makes from one that has a mask

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if out is not None:
            kwargs["out"] = tuple(plain(a) for a in out)
        return getattr(ufunc, method)(*[plain(a) for a in inputs], **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return function(*_plain_inside(args), **{k: _plain_inside(v) for k, v in kwargs.items()})

    def __getitem__(self, key):
        return plain(self)[key]

    def __iter__(self):
        return iter(plain(self))

    def __copy__(self):
        return with_mask(plain(self).copy(), self.mask)

    def __deepcopy__(self, memo):
        return with_mask(plain(self).copy(), None if self.mask is None else np.array(self.mask))

    def __reduce__(self):
        return with_mask, (plain(self), self.mask)

    T = property(lambda self: plain(self).T)
    mT = property(lambda self: plain(self).mT)
    real = property(lambda self: plain(self).real)
    imag = property(lambda self: plain(self).imag)
    flat = property(lambda self: plain(self).flat)


def _plain_inside(value):
    if isinstance(value, (list, tuple)):
        return type(value)(_plain_inside(v) for v in value) if type(value) in (list, tuple) else value
    return plain(value)


def _plain_method(name):
    method = getattr(np.ndarray, name)

    def plain_method(self, *args, **kwargs):
        return method(plain(self), *args, **kwargs)

    plain_method.__name__, plain_method.__doc__ = name, f"numpy.ndarray.{name} of the plain array."
    return plain_method


for _name in (  # those whose result would otherwise be of the subclass
    *("argpartition", "argsort", "astype", "byteswap", "choose", "clip", "compress", "conj", "conjugate", "copy"),
    *("cumprod", "cumsum", "diagonal", "dot", "flatten", "max", "mean", "min", "prod", "ravel", "repeat", "reshape"),
    *("round", "squeeze", "std", "sum", "swapaxes", "take", "trace", "transpose", "var"),
):
    setattr(MaskedOutput, _name, _plain_method(_name))


class MaskedRagged(Ragged):
    """A Ragged whose steps carry a mask (N,): False is a hole. What its methods return is a plain Ragged."""

    __slots__ = ("mask",)

    @classmethod
    def _checked(cls, values, offsets):
        return Ragged._checked(values, offsets)

    def __reduce__(self):
        return with_mask, (Ragged(self.values, self.offsets), self.mask)


def with_mask(array, mask):
    """`array` carrying `mask`; plain where mask is None."""
    if mask is None:
        return plain(array)
    if type(array) is not np.ndarray and isinstance(array, Ragged):
        masked = MaskedRagged.__new__(MaskedRagged)
        masked._set(array.values, array.offsets)
    else:
        masked = array.view(MaskedOutput)
    masked.mask = mask
    return masked


def plain(array):
    """The same array or Ragged without its mask."""
    if isinstance(array, MaskedOutput):
        return array.view(np.ndarray)
    return Ragged._checked(array.values, array.offsets) if isinstance(array, MaskedRagged) else array


def mask_of(array):
    """The mask an array or Ragged carries, or None."""
    return array.mask if isinstance(array, (MaskedOutput, MaskedRagged)) else None


def refuse_numpy_ma(x, name):
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an ndarray, received numpy.ma, whose mask means the opposite: pass x.data and "
            "mask=~numpy.ma.getmaskarray(x) (one value a step)"
        )


def as_mask(mask, x):
    """A mask given by hand as a bool array that fits the leading axes of x: (B,T), (1,T), (B,T,1), or (N,) for a
    Ragged."""
    if isinstance(x, Ragged):
        if isinstance(mask, Ragged):
            if not np.array_equal(mask.offsets, x.offsets):
                raise ValueError("mask: expected the row lengths of the inputs, received others")
            mask = mask.values
        rank = 2 if np.ndim(mask) > 1 < x.values.ndim else 1  # (N,T2): of steps inside the steps
        return check_mask(mask, x.values.shape[:rank])
    if isinstance(mask, Ragged):
        raise TypeError("mask: expected an array, as the inputs are one, received a Ragged")
    try:
        rank, shape = np.ndim(mask), np.shape(mask)
    except ValueError as error:  # a list of rows of different lengths
        raise ValueError(f"mask: expected an array: {error}") from error
    if rank == 3 and shape[-1] == 1 and not (x.ndim > 3 and x.shape[2] == 1):
        rank = 2
    rank = 1 if x.ndim == 2 and rank == 1 else min(max(rank, 2), x.ndim)
    return check_mask(mask, x.shape[:rank])


# ---- values under a mask: those of arrays and Ragged alike -----------------------------------------------------------
def values_of(x):
    """The array itself, or the values (N,...) of a Ragged: what a mask (B,T) or (N,) belongs to."""
    return x.values if isinstance(x, Ragged) else x


def map_values(function, x):
    """function(x), of the values if x is a Ragged."""
    return x.with_values(function(x.values)) if isinstance(x, Ragged) else function(x)


def finite_under_mask(x, mask):
    """x with 0 for NaN and infinity at masked steps, where they count as 0; x itself if there are none."""
    values = values_of(x)
    if is_finite_under(values, mask):
        return x
    values = values.copy()
    garbage = values[~mask]
    values[~mask] = np.where(np.isfinite(garbage), garbage, 0)
    return x.with_values(values) if isinstance(x, Ragged) else values


def zero_under_mask(x, mask):
    """x with 0 at masked steps, whatever stood there; None, for a gradient that is none, stays None."""
    if x is None or mask.all():
        return x
    return map_values(lambda v: np.where(align_mask(mask, v.shape), v, v.dtype.type(0)), x)


def compute_under_mask(function, x, mask):
    """function(x), which works on each step alone, with NaN and infinity at masked steps counting as 0.

    So does what is finite there but too large for the function: its infinity would reach a gradient as 0 * infinity.
    """
    if mask is None:
        return function(x)
    x = finite_under_mask(x, mask)
    outputs = function(x)
    if is_finite_under(values_of(outputs), mask):
        return outputs
    overflown = ~mask
    finite = np.isfinite(values_of(outputs)[overflown])
    overflown[overflown] = ~finite.all(axis=tuple(range(1, finite.ndim)))
    return function(zero_under_mask(x, ~overflown))
