"""Ragged: sequences of different lengths, one behind the other, no padding anywhere."""

import operator

import numpy as np

from fastmask.checks import as_dtype, empty
from fastmask.ops.mask import check_mask, check_numbers


class Ragged:
    """B sequences of different lengths in one array: row i is ``values[offsets[i]:offsets[i + 1]]``.

    Parameters
    ----------
    values : ndarray, shape (N, ...), any real, integer or bool dtype
        The steps of all rows, row by row. Not copied.
    offsets : array_like of int, shape (B + 1,)
        0, then the end of each row; copied, and read-only afterwards.

    Raises
    ------
    ValueError : offsets that do not start with 0, decrease, or do not end with N; values without a first axis
    TypeError : values that are no numbers (object arrays), offsets that are no integers

    Notes
    -----
    ``shape`` is ``(B, None, ...)``. Row i as ``r[i]`` is a view. NumPy would not know what to do with rows of different
    lengths, so ``np.asarray(r)`` is a TypeError: use ``r.values`` or ``r.to_padded()``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmask.ragged import Ragged
    >>> r = Ragged(np.array([1.0, 2.0, 3.0]), [0, 2, 2, 3])
    >>> len(r), r.lengths
    (3, array([2, 0, 1]))
    >>> r[0]
    array([1., 2.])
    """

    __slots__ = ("_offsets", "_values")

    def __init__(self, values, offsets):
        values = _check_values(values)
        offsets = np.array(offsets)
        if offsets.ndim != 1 or offsets.size == 0:
            raise ValueError(f"offsets: expected shape (B+1,), received {offsets.shape}")
        if offsets.dtype.kind not in "iu":
            raise TypeError(f"offsets: expected integers, received dtype {offsets.dtype}")
        N = values.shape[0]
        offsets = offsets.astype(np.int64, copy=False)
        if offsets[0] != 0:
            raise ValueError(f"offsets: expected 0 first, received {offsets[0]}")
        if offsets[-1] != N:
            raise ValueError(f"offsets: expected N = {N} (the length of values) last, received {offsets[-1]}")
        decreasing = offsets[1:] < offsets[:-1]
        if decreasing.any():
            i = int(np.argmax(decreasing))
            raise ValueError(
                f"offsets: expected no decrease, received {offsets[i]} then {offsets[i + 1]} at position {i + 1}"
            )
        self._set(values, offsets)

    def _set(self, values, offsets):
        offsets.flags.writeable = False
        self._values = values
        self._offsets = offsets

    @classmethod
    def _checked(cls, values, offsets):
        """A Ragged of arrays known to fit."""
        self = cls.__new__(cls)
        self._set(values, offsets)
        return self

    @classmethod
    def from_list(cls, arrays, dtype=None):
        """Ragged of a list of arrays (T_i, ...), each a row.

        Parameters
        ----------
        arrays : iterable of array_like
            All of one shape but for their lengths, which may be 0; a bare ``[]`` fits any shape.
        dtype : dtype, optional
            Of the values; by default what NumPy makes of the rows together.

        Raises
        ------
        ValueError : rows of different shapes, or scalars
        TypeError : rows that are no numbers (object arrays)

        Examples
        --------
        >>> Ragged.from_list([[1, 2], [], [3]]).values
        array([1, 2, 3])
        """
        if isinstance(arrays, Ragged):
            return arrays if dtype is None else arrays.with_values(arrays.values.astype(as_dtype(dtype)))
        if isinstance(arrays, (str, bytes)):
            raise TypeError(f"arrays: expected a list of arrays, received {type(arrays).__name__}")
        try:
            rows = list(arrays)
        except TypeError:
            raise TypeError(f"arrays: expected a list of arrays, received {type(arrays).__name__}") from None
        bare = [isinstance(row, (list, tuple)) and len(row) == 0 for row in rows]
        rows = [_check_values(row, f"arrays[{i}]") for i, row in enumerate(rows)]

        # an array of shape (0,) says nothing about the shape of a step and little about dtype, a bare [] nothing at all
        telling = [i for i, row in enumerate(rows) if row.shape != (0,)]
        steps = {rows[i].shape[1:]: i for i in reversed(telling)}
        if len(steps) > 1:
            (shape, first), (other, i) = sorted(steps.items(), key=lambda item: item[1])[:2]
            raise ValueError(f"arrays[{i}]: expected steps of shape {shape} as arrays[{first}], received {other}")
        step_shape = next(iter(steps), ())
        if dtype is None:
            typed = telling or [i for i, empty in enumerate(bare) if not empty]
            dtype = np.result_type(*(rows[i].dtype for i in typed)) if typed else np.float32
        dtype = as_dtype(dtype)
        check_numbers(np.empty(0, dtype), "dtype")

        lengths = np.array([row.shape[0] for row in rows], dtype=np.int64)
        offsets = _offsets(lengths)
        values = np.empty((int(offsets[-1]), *step_shape), dtype=dtype)
        for row, start, stop in zip(rows, offsets[:-1], offsets[1:], strict=True):
            if stop > start:
                values[start:stop] = row
        return cls._checked(values, offsets)

    @classmethod
    def from_padded(cls, x, mask):
        """Ragged of the valid steps of a padded array; holes close up.

        Parameters
        ----------
        x : array_like, shape (B, T, ...)
        mask : array_like, shape (B, T), (1, T) or (B, T, 1), True = use the step

        Raises
        ------
        ValueError : x of rank below 2, mask of another shape
        TypeError : x or mask is no number

        Examples
        --------
        >>> Ragged.from_padded([[7, 8, 0], [9, 0, 0]], [[1, 1, 0], [1, 0, 0]]).lengths
        array([2, 1])
        """
        x = _check_values(x, "x")
        if x.ndim < 2:
            raise ValueError(f"x: expected shape (B,T,...), received {x.shape}")
        mask = check_mask(mask, x.shape[:2])
        return cls._checked(x[mask], _offsets(np.count_nonzero(mask, axis=1)))

    def to_padded(self, value=0.0):
        """The rows padded behind to the longest one.

        Parameters
        ----------
        value : number
            What stands behind the end of a row; must be one that the dtype can hold.

        Returns
        -------
        x : ndarray, shape (B, T, ...)
        mask : ndarray of bool, shape (B, T)

        Raises
        ------
        ValueError : value does not fit the dtype

        Examples
        --------
        >>> x, mask = Ragged.from_list([[1, 2], [3]]).to_padded(-1)
        >>> x
        array([[ 1,  2],
               [ 3, -1]])
        """
        lengths = self.lengths
        T = int(lengths.max(initial=0))
        empty("to_padded", (len(self), T, *self._values.shape[1:]), self.dtype)
        mask = np.arange(T) < lengths[:, None]
        x = np.full(mask.shape + self._values.shape[1:], _fill_value(value, self.dtype), dtype=self.dtype)
        x[mask] = self._values
        return x, mask

    def take(self, indices):
        """A new Ragged of the rows `indices`, in that order; rows may repeat, -1 is the last.

        Raises
        ------
        ValueError : an index out of range, or indices of another rank than 1
        TypeError : indices that are no integers

        Examples
        --------
        >>> Ragged.from_list([[1, 2], [3]]).take([1, 0]).values
        array([3, 1, 2])
        """
        indices = np.asarray(indices)
        B = len(self)
        if indices.ndim != 1:
            raise ValueError(f"indices: expected shape (n,), received {indices.shape}")
        if indices.dtype.kind not in "iu" and indices.size:
            raise TypeError(f"indices: expected integers, received dtype {indices.dtype}")
        bad = (indices < -B) | (indices >= B)
        if bad.any():
            raise ValueError(f"indices: expected rows of 0..{B - 1}, received {indices[np.argmax(bad)]}")
        indices = indices.astype(np.int64, copy=False) % max(B, 1)

        starts, lengths = self._offsets[indices], self.lengths[indices]
        offsets = _offsets(lengths)
        steps = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return self._checked(self._values[steps], offsets)

    def with_values(self, values):
        """A Ragged of other values (N, ...) in the same rows; the offsets are shared, not checked again.

        Raises
        ------
        ValueError : not N values
        TypeError : values that are no numbers
        """
        values = _check_values(values)
        if values.shape[0] != self._values.shape[0]:
            raise ValueError(f"values: expected N = {self._values.shape[0]} steps, received shape {values.shape}")
        return self._checked(values, self._offsets)

    @property
    def values(self):
        """(N, ...), the steps of all rows."""
        return self._values

    @property
    def offsets(self):
        """(B + 1,) int64, read-only: 0, then the end of each row."""
        return self._offsets

    @property
    def lengths(self):
        """(B,) int64: steps of each row."""
        return np.diff(self._offsets)

    @property
    def dtype(self):
        """Of the values."""
        return self._values.dtype

    @property
    def shape(self):
        """(B, None, ...)."""
        return (len(self), None, *self._values.shape[1:])

    @property
    def ndim(self):
        """Rank of the padded array these rows would make."""
        return self._values.ndim + 1

    def __len__(self):
        return self._offsets.shape[0] - 1

    def __getitem__(self, i):
        try:
            row = operator.index(i)
        except TypeError:
            raise TypeError(
                f"Ragged: expected the number of one row, received {i!r}; r.take(indices) gives several"
            ) from None
        B = len(self)
        if not -B <= row < B:
            raise IndexError(f"Ragged: expected a row of 0..{B - 1}, received {i}")
        row %= B
        return self._values[self._offsets[row] : self._offsets[row + 1]]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"Ragged(shape={self.shape}, N={self._values.shape[0]}, dtype={self.dtype})"

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Ragged: rows of different lengths are no array; use .values or .to_padded()")

    def __reduce__(self):
        return Ragged, (self._values, self._offsets)


def _check_values(values, name="values"):
    values = check_numbers(values, name)
    if values.ndim < 1:
        raise ValueError(f"{name}: expected rank at least 1, received a scalar")
    return values


def _offsets(lengths):
    """(B,) -> (B+1,): 0, then the running sum."""
    offsets = np.zeros(lengths.shape[0] + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _fill_value(value, dtype):
    """The padding value, or ValueError where an integer or bool dtype would change it without a word."""
    value = check_numbers(value, "value")
    if value.ndim:
        raise ValueError(f"value: expected one number, received shape {value.shape}")
    value = value.item()
    if dtype.kind == "f":
        return value
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not (low <= value <= high and value == int(value)):
        raise ValueError(f"value: expected one that dtype {dtype} can hold, received {value!r}")
    return int(value)
