"""Checks of plain arguments, and of sizes, that several modules share."""

import math

import numpy as np


def check_number(value, name, low=0, high=math.inf):
    """`value` as a float, a finite number from `low` to `high`.

    Raises
    ------
    ValueError
        It is not.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        if high < math.inf:
            wanted = f"a number from {low} to {high}"
        else:
            wanted = "a finite number" if low == -math.inf else f"a finite number of {low} or more"
        raise ValueError(f"{name}: expected {wanted}, received {value!r}")
    return float(value)


def check_axis(axis, rank, name="axis"):
    """`axis` counted from the front, as one of an array of that rank, not the batch's.

    Raises
    ------
    ValueError
        It is none, or 0.
    """
    whole = isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)
    if not whole or not -rank < axis < rank or axis == 0:
        raise ValueError(f"{name}: expected 1..{rank - 1} or -{rank - 1}..-1 for rank {rank}, received {axis!r}")
    return int(axis) % rank


def check_whole(n, name, low=-math.inf):
    """`n` as an int of `low` or more.

    Raises
    ------
    ValueError
        It is not.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < low:
        wanted = "a whole number" if low == -math.inf else f"a whole number of {low} or more"
        raise ValueError(f"{name}: expected {wanted}, received {n!r}")
    return int(n)


def empty(name, shape, dtype):
    """np.empty(shape, dtype). Called before any work, it fails before any work.

    Raises
    ------
    MemoryError
        There is no such memory: says for what, and how much.
    """
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError, OverflowError):  # NumPy has other errors for more than 2^63 bytes
        size = np.dtype(dtype).itemsize * math.prod(shape)
        raise MemoryError(
            f"{name}: expected an array that fits into memory, "
            f"received shape {tuple(shape)} of {np.dtype(dtype)}: {size} bytes"
        ) from None
