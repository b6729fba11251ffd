"""Checks of plain arguments, and of sizes, that several modules share."""

import inspect
import math
import os

import numpy as np


def check_number(value, name, low=0, high=math.inf):
    """`value` as a float, a finite number from `low` to `high`.

    Raises
    ------
    ValueError
        It is not.
    """
    if type(value) is float and math.isfinite(value) and low <= value <= high:
        return value  # the shortest way
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        if high < math.inf:
            wanted = f"a number from {low} to {high}"
        else:
            wanted = "a finite number" if low == -math.inf else f"a finite number of {low} or more"
        raise ValueError(f"{name}: expected {wanted}, received {value!r}")
    return float(value)


def as_dtype(dtype, name="dtype"):
    """`dtype` as NumPy's.

    Raises
    ------
    TypeError
        NumPy knows none of that name.
    """
    try:
        return np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name}: expected one that NumPy knows, received {dtype!r}") from None


def unknown_argument(cls, key):
    """The TypeError of an argument that no constructor of the class or its bases has."""
    parameters = (p for c in cls.__mro__[:-1] for p in inspect.signature(c.__init__).parameters.values())
    known = dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    known.pop("self", None)
    return TypeError(
        f"{cls.__name__}: unknown argument {key!r}: expected arguments among {', '.join(known)}, received {key!r}"
    )


def check_path(path, name="filepath"):
    """`path` as a str.

    Raises
    ------
    TypeError
        It is no path.
    """
    try:
        return os.fsdecode(path)
    except TypeError:
        raise TypeError(f"{name}: expected a str or a path, received {path!r}") from None


def check_positive(value, name):
    """`value` as a float, a finite number above 0.

    Raises
    ------
    ValueError
        It is not.
    """
    number = check_number(value, name)
    if not number:
        raise ValueError(f"{name}: expected a positive number, received {value!r}")
    return number


def check_dtype(dtype, name="dtype"):
    """The name of `dtype`, float32 or float64.

    Raises
    ------
    ValueError
        It is another one, or none.
    """
    try:
        found = np.dtype(dtype).name if dtype is not None else None
    except TypeError:
        found = None
    if found not in ("float32", "float64"):
        raise ValueError(f"{name}: expected float32 or float64, received {dtype!r}")
    return found


def check_function(value, name, none=False):
    """`value`, which can be called; with `none` it may be None.

    Raises
    ------
    TypeError
        It cannot.
    """
    if not callable(value) and not (none and value is None):
        raise TypeError(f"{name}: expected a function{' or None' if none else ''}, received {value!r}")
    return value


def check_name(name):
    """`name`, a str or None.

    Raises
    ------
    TypeError
        It is neither.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name: expected a str or None, received {name!r}")
    return name


def check_flag(value, name):
    """`value` as a bool.

    Raises
    ------
    TypeError
        It is neither True nor False, nor 1 or 0.
    """
    if not isinstance(value, (bool, np.bool_, int)) or value not in (0, 1):
        raise TypeError(f"{name}: expected True or False, received {value!r}")
    return bool(value)


def check_list(values, name, of=None):
    """`values` as a list, all of them of the class `of`.

    Raises
    ------
    TypeError
        They are not.
    """
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}: expected a list, received {type(values).__name__}")
    values = list(values)
    for value in values:
        if of is not None and not isinstance(value, of):
            raise TypeError(f"{name}: expected a list of {of.__name__}, received {type(value).__name__}")
    return values


def check_config(config, *keys):
    """Raise unless `config` is a dict with these keys.

    Raises
    ------
    TypeError, ValueError
        No dict; a key that is missing.
    """
    if not isinstance(config, dict):
        raise TypeError(f"config: expected a dict as get_config gives it, received {type(config).__name__}")
    if not set(keys) <= set(config):
        raise ValueError(f"config: expected the entries {', '.join(keys)}, received {', '.join(config) or 'none'}")


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
