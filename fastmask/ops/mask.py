"""Masks: made from values, ids or lengths, counted, and checked. True = use the step, False = skip it.

NumPy where that is as fast, kernels/mask.py for large arrays.
"""

import operator

import numpy as np

from fastmask.checks import empty
from fastmask.kernels import _jit

SMALL = 4096  # elements below which NumPy is as fast as a launch
_BLOCK = 512  # steps of a block of kernels/mask.py
_NUMERIC = "biuf"  # dtype kinds: bool, signed, unsigned, float


def from_values(x, mask_value=0.0):
    """Mask of the steps that differ from `mask_value` in at least one feature: Keras' Masking rule.

    Parameters
    ----------
    x : array_like, shape (..., F), rank at least 2, any real or integer dtype
        Usually (B, T, F).
    mask_value : number
        Compared exactly, in x's dtype: denormals are data, -0.0 equals 0.0, NaN equals nothing, so a NaN step is kept
        and ``mask_value=nan`` masks nothing.

    Returns
    -------
    ndarray of bool, shape x.shape[:-1]

    Raises
    ------
    ValueError : rank below 2
    TypeError : x or mask_value is no number

    Notes
    -----
    Deliberate differences from Keras 3 on TensorFlow, which flushes denormals to zero and rounds mask_value to float32
    whatever x is, so that a float64 0.37 is never masked there.

    Examples
    --------
    >>> import fastmask.masks
    >>> fastmask.masks.from_values([[[1.0, 0.0], [0.0, 0.0]]])
    array([[ True, False]])
    """
    x = check_numbers(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x: expected rank at least 2, (..., F), received shape {x.shape}")
    if x.size < SMALL or x.dtype not in (np.float32, np.float64) or not x.flags.c_contiguous:
        return np.logical_or.reduce(_differs(x, mask_value, "mask_value"), axis=-1)
    value = _rounded(mask_value, x.dtype, "mask_value")
    if value != value:
        return np.ones(x.shape[:-1], bool)
    word = np.uint32 if x.dtype == np.float32 else np.uint64
    relevant = ~word(0) >> np.uint8(value == 0)  # either sign of 0 equals 0
    bits = int(value.view(word) & relevant)
    mask = np.empty(x.shape[:-1], bool)
    _jit.get("mask", "from_values", x.dtype).run(
        -(-mask.size // _BLOCK),
        x.size * 2,
        x=x,
        steps=mask.size,
        size=x.shape[-1],
        bits=_signed(bits),
        relevant=_signed(int(relevant)),
        mask=mask,
    )
    return mask


def zero_masked(x, mask):
    """x (..., F) with 0 at the steps where mask (...) is False: a copy, whatever stood there.

    Examples
    --------
    >>> zero_masked(np.array([[1.0, 2.0], [np.nan, 3.0]]), np.array([True, False]))
    array([[1., 2.],
           [0., 0.]])
    """
    plain = x.dtype in (np.float32, np.float64) and x.flags.c_contiguous and mask.flags.c_contiguous
    if x.size < SMALL or not plain or mask.shape != x.shape[:-1] or mask.dtype != np.bool_:
        return np.where(mask[..., None], x, x.dtype.type(0))
    y = np.empty_like(x, subok=False)
    _jit.get("mask", "zero_masked", x.dtype).run(
        -(-mask.size // _BLOCK), x.size * 2, x=x, mask=mask, y=y, steps=mask.size, size=x.shape[-1]
    )
    return y


def clear_masked(x, mask):
    """Set x (..., F), contiguous float32 or float64, to 0 in place at the steps where mask (...), contiguous, is False:
    what was not written yet."""
    _jit.get("mask", "clear_masked", x.dtype).run(
        -(-mask.size // _BLOCK), x.size * 4, x=x, mask=mask, steps=mask.size, size=x.shape[-1]
    )


def is_finite_under(x, mask):
    """Whether all numbers of x (..., F) at the steps where mask (...) is False are finite; others are not read."""
    plain = x.dtype in (np.float32, np.float64) and x.flags.c_contiguous and mask.flags.c_contiguous
    if x.size < SMALL or not plain or mask.shape != x.shape[: mask.ndim]:
        return bool(np.isfinite(x[~mask]).all())
    found = np.zeros(-(-mask.size // _BLOCK), np.uint8)
    _jit.get("mask", "hidden_garbage", x.dtype).run(
        len(found), x.size, x=x, mask=mask, steps=mask.size, size=x.size // mask.size, found=found
    )
    return not found.any()


def from_ids(ids, pad_id=0):
    """Mask of the ids that are not `pad_id`: the rule of Keras' Embedding(mask_zero=True).

    Parameters
    ----------
    ids : array_like of numbers, usually (B, T)
        Compared as they are: the id 0.7 is not 0.
    pad_id : number

    Returns
    -------
    ndarray of bool, shape of ids

    Raises
    ------
    ValueError : ids is a scalar
    TypeError : ids or pad_id is no number

    Examples
    --------
    >>> import fastmask.masks
    >>> fastmask.masks.from_ids([[7, 3, 0], [5, 0, 0]])
    array([[ True,  True, False],
           [ True, False, False]])
    """
    ids = check_numbers(ids, "ids")
    if ids.ndim < 1:
        raise ValueError("ids: expected rank at least 1, received a scalar")
    return _differs(ids, pad_id, "pad_id")


def from_lengths(lengths, maxlen=None):
    """Mask of right-padded rows: the first ``lengths[b]`` steps of row b are used.

    Parameters
    ----------
    lengths : array_like of whole numbers, shape (B,)
    maxlen : int, optional
        Steps T of the mask; the longest length if None.

    Returns
    -------
    ndarray of bool, shape (B, T)

    Raises
    ------
    ValueError : lengths of another rank, negative, not whole, or greater than maxlen; maxlen negative
    TypeError : lengths or maxlen is no number

    Examples
    --------
    >>> import fastmask.masks
    >>> fastmask.masks.from_lengths([2, 0], maxlen=3)
    array([[ True,  True, False],
           [False, False, False]])
    """
    lengths = check_lengths(lengths)
    if maxlen is None:
        maxlen = int(lengths.max(initial=0))
    else:
        maxlen = check_count(maxlen, "maxlen")
        too_long = lengths > maxlen
        if too_long.any():
            row = int(np.argmax(too_long))
            raise ValueError(f"lengths: expected at most maxlen = {maxlen}, received {lengths[row]} at position {row}")
    mask = empty("maxlen", (len(lengths), maxlen), bool)
    return np.less(np.arange(maxlen), lengths[:, None], out=mask)


def to_lengths(mask):
    """Number of valid steps in each row, wherever in the row they stand.

    Parameters
    ----------
    mask : array_like of bool or numbers, shape (B, T) or (B, T, 1)
        Non-zero is True.

    Returns
    -------
    ndarray of int64, shape (B,)

    Raises
    ------
    ValueError : another rank
    TypeError : mask is no number

    Examples
    --------
    >>> import fastmask.masks
    >>> fastmask.masks.to_lengths([[True, False, True], [False, False, False]])
    array([2, 0])
    """
    mask = check_numbers(mask, "mask")
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]
    if mask.ndim != 2:
        raise ValueError(f"mask: expected shape (B,T), received {mask.shape}")
    return np.count_nonzero(mask, axis=1).astype(np.int64, copy=False)


def check_mask(mask, shape, name="mask"):
    """The mask as a C-contiguous bool array of `shape`, usually (B, T); a mask that is one already is not copied.

    Takes bool or any number (non-zero is True, NaN too), of that shape, with a last axis of 1 behind it, or with 1 for
    B (the same mask for every row).

    Raises
    ------
    ValueError : another shape
    TypeError : no numbers

    Examples
    --------
    >>> check_mask([[1, 0, 0.3]], (2, 3))
    array([[ True, False,  True],
           [ True, False,  True]])
    """
    if type(mask) is np.ndarray and mask.dtype == np.bool_ and mask.shape == shape and mask.flags.c_contiguous:
        return mask
    mask = received = check_numbers(mask, name)
    shape = tuple(shape)
    if mask.ndim == len(shape) + 1 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    one_for_all = len(shape) > 1 and mask.shape == (1, *shape[1:])
    if mask.shape != shape and not one_for_all:
        dims = f"(B,T) = ({shape[0]},{shape[1]})" if len(shape) == 2 else str(shape)
        raise ValueError(f"{name}: expected shape {dims}, received {received.shape}")
    if mask.dtype != np.bool_:
        mask = mask != 0
    return np.ascontiguousarray(np.broadcast_to(mask, shape))


def align_mask(mask, shape):
    """A mask for the leading axes of `shape`, (B,) or (B, T), repeated along the others; a view.

    Examples
    --------
    >>> align_mask(np.array([True, False]), (2, 3))
    array([[ True,  True,  True],
           [False, False, False]])
    """
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def check_lengths(lengths, name="lengths"):
    """lengths as int64 (B,), or ValueError/TypeError."""
    lengths = check_numbers(lengths, name)
    if lengths.ndim != 1:
        raise ValueError(f"{name}: expected shape (B,), received {lengths.shape}")
    if lengths.dtype.kind == "b":
        raise TypeError(f"{name}: expected whole numbers, received dtype bool")
    bad = lengths < 0
    if lengths.dtype.kind == "f":
        bad |= lengths != np.trunc(lengths)  # NaN too
    if lengths.dtype.kind in "fu":
        bad |= lengths >= 2**63  # no int64
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name}: expected whole numbers >= 0, received {lengths[row]} at position {row}")
    return lengths.astype(np.int64, copy=False)


def check_count(n, name, minimum=0):
    """n as an int of at least `minimum`, or ValueError/TypeError."""
    try:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, received {n!r}") from None
    if n < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, received {n}")
    return n


def check_numbers(a, name):
    """a as a plain ndarray of bools, integers or floats, or ValueError/TypeError."""
    if type(a) is not np.ndarray:
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError(
                f"{name}: expected an ndarray, received numpy.ma, whose mask means the opposite: pass mask="
            )
        try:
            a = np.asarray(a)
        except (ValueError, TypeError) as error:  # rows of different lengths, Ragged
            raise type(error)(f"{name}: expected an array, received what is none: {error}") from None
    if a.dtype.kind not in _NUMERIC:
        raise TypeError(f"{name}: expected numbers, received dtype {a.dtype}")
    return a


def _differs(a, value, name):
    """a != value, the value first rounded to a's dtype where that is a float."""
    if a.dtype.kind == "f":
        return a != _rounded(value, a.dtype, name)
    value = one_number(value, name)
    # integers: as Python ints, since 2**53 and 2**53 + 1 are one float
    value = value.item()
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        return np.ones(a.shape, dtype=bool)
    if a.dtype.kind == "b":
        a = a.view(np.uint8)
    return a != int(value)


def one_number(value, name):
    """value as an array () of a bool, an integer or a float, or ValueError/TypeError."""
    value = check_numbers(value, name)
    if value.ndim:
        raise ValueError(f"{name}: expected one number, received shape {value.shape}")
    return value


def _rounded(value, dtype, name):
    """value as a scalar of a float dtype."""
    with np.errstate(over="ignore"):
        return one_number(value, name).astype(dtype)[()]


def _signed(word):
    """The int64 with these 64 bits."""
    return word - (1 << 64) if word >> 63 else word
