"""What fit, evaluate and predict take, as rows that can be cut into batches.

Sequences may come as a padded array (B,T,...) with `mask=`, as a Ragged, or as a list of arrays, which becomes a
Ragged. Targets and step weights may have any of these forms, whatever the inputs have: `align` fits them to the
outputs, of which only the model knows whether they are one for each row or one for each step.
"""

from typing import NamedTuple

import numpy as np

from fastmask.layers.masked import as_mask, mask_of, plain, refuse_numpy_ma
from fastmask.ragged import Ragged
from fastmask.sequences import bucket_batches


class Batch(NamedTuple):
    """Rows of everything; None where there is nothing."""

    x: object  # ndarray or Ragged
    y: object
    mask: object  # ndarray, for a Ragged x (N,)
    sample_weight: object


class Rows:
    """Checked inputs, targets, mask and weights with the same number of rows.

    Raises
    ------
    ValueError
        Different numbers of rows, a mask that does not fit.
    TypeError
        No numbers.
    """

    def __init__(self, x, y=None, mask=None, sample_weight=None, stack=False):
        self.x = as_rows(x, "x", stack)
        if mask is None:
            mask = mask_of(x)
        self.x = plain(self.x)
        self.y = None if y is None else as_rows(y, "y")
        self.sample_weight = None if sample_weight is None else as_rows(sample_weight, "sample_weight")
        for name in ("y", "sample_weight"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.x):
                raise ValueError(f"{name}: expected {len(self.x)} rows as x has, received {len(value)}")
        self.mask = None
        if mask is not None:
            if isinstance(self.x, Ragged):
                mask = Ragged.from_list(mask) if isinstance(mask, list) and np.ndim(mask[0] if mask else 0) else mask
                self.mask = self.x.with_values(as_mask(mask, self.x))  # a Ragged, to be cut like x
            else:
                self.mask = as_mask(mask, self.x)

    def __len__(self):
        return len(self.x)

    def take(self, rows):
        """A Batch of these rows: an array of indices, or a slice."""
        mask = _take(self.mask, rows)
        return Batch(
            _take(self.x, rows),
            _take(self.y, rows),
            mask.values if isinstance(mask, Ragged) else mask,
            _take(self.sample_weight, rows),
        )

    def split(self, fraction):
        """(first rows, last rows): the last `fraction` apart, as Keras' validation_split."""
        n = int(len(self) * (1 - fraction))
        if not 0 < n < len(self):
            raise ValueError(
                f"validation_split: expected to leave rows in both parts of {len(self)}, received {fraction}"
            )
        return self._part(slice(0, n)), self._part(slice(n, len(self)))

    def _part(self, rows):
        part = Rows.__new__(Rows)
        part.x, part.y, part.mask, part.sample_weight = (
            _take(a, rows) for a in (self.x, self.y, self.mask, self.sample_weight)
        )
        return part

    def lengths(self):
        """Valid steps of each row."""
        if isinstance(self.mask, Ragged):
            counts = np.concatenate([[0], np.cumsum(self.mask.values)])
            return np.diff(counts[self.x.offsets])
        if isinstance(self.x, Ragged):
            return self.x.lengths
        if self.mask is not None:
            return np.count_nonzero(self.mask.reshape(len(self), -1), axis=1)
        return np.full(len(self), self.x.shape[1] if self.x.ndim > 1 else 1)

    def in_order(self, batch_size):
        """Slices of batch_size rows, one after the other; one empty slice if there are no rows."""
        return [slice(i, min(i + batch_size, len(self))) for i in range(0, max(len(self), 1), batch_size)]

    def batches(self, batch_size, shuffle, bucket, generator):
        """Row numbers of each batch of an epoch. With `bucket` rows of similar length go together."""
        if bucket:
            return bucket_batches(self.lengths(), batch_size, shuffle=shuffle, seed=generator)
        if not shuffle:
            return self.in_order(batch_size)
        order = generator.permutation(len(self))
        return [order[rows] for rows in self.in_order(batch_size)]


def as_rows(value, name, stack=False):
    """An ndarray whose first axis is rows, or a Ragged; a list of arrays becomes a Ragged, unless `stack`."""
    if isinstance(value, Ragged):
        return value
    refuse_numpy_ma(value, name)
    if (
        isinstance(value, (list, tuple))
        and not stack
        and len(value)
        and all(np.ndim(row) > 0 for row in _plain_rows(value))
    ):
        try:
            return Ragged.from_list(value)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {error}") from None
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, a Ragged or a list of arrays: {error}") from error
    if array.dtype.kind not in "biuf":
        hint = ": pass a list of arrays" if array.dtype.kind == "O" else ""
        raise TypeError(f"{name}: expected numbers, received dtype {array.dtype}{hint}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected rows, received a single number")
    return array


def _plain_rows(rows):
    """Rows with each nested list cut to its first entry: enough to see whether it is a row of its own or a number."""
    return [row[:1] if isinstance(row, (list, tuple)) else row for row in rows]


def _take(value, rows):
    if value is None:
        return None
    if isinstance(value, Ragged):
        return value.take(np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)
    return value[rows]


def align(value, outputs, mask, name):
    """Targets or weights in the form of the outputs.

    Parameters
    ----------
    value : ndarray, Ragged or None
        For Ragged outputs: a Ragged, or a padded array (B,T,...) of which the first steps of each row are taken. For
        outputs (B,T,K): an array, or a Ragged with as many steps a row as the mask leaves valid there. For outputs
        (B,K): an array, or a Ragged with rows of one length.
    outputs : ndarray or Ragged
    mask : ndarray or None
        Of the outputs.
    name : str
        Of the argument, for messages.

    Raises
    ------
    ValueError
        Row lengths that do not fit.
    """
    if isinstance(outputs, Ragged):
        if (
            value is None
            or isinstance(value, Ragged)
            or value.ndim < 2
            or (name == "sample_weight" and value.shape[1] == 1)
        ):
            return value  # rows of weights, or for the loss to refuse
        lengths = outputs.lengths
        if value.shape[1] < lengths.max(initial=0):
            raise ValueError(
                f"{name}: expected at least {lengths.max()} steps for the longest row, received {value.shape[1]}"
            )
        return outputs.with_values(value[np.arange(value.shape[1]) < lengths[:, None]])
    if not isinstance(value, Ragged):
        return value
    lengths, steps = value.lengths, value.values
    if outputs.ndim < 3:  # a row each: one-hot rows given as a list
        if len(set(lengths.tolist())) > 1:
            raise ValueError(
                f"{name}: expected one for each row, as the outputs are, received rows of different lengths"
            )
        return steps.reshape(len(value), -1, *steps.shape[1:]) if len(value) else steps
    B, T = outputs.shape[:2]
    valid = np.ones((B, T), bool) if mask is None else mask
    counts = np.count_nonzero(valid, axis=1)
    if not np.array_equal(counts, lengths):
        if (lengths == T).all():
            return steps.reshape(B, T, *steps.shape[1:])
        row = int(np.argmax(counts != lengths))
        raise ValueError(
            f"{name}: expected as many steps as are valid in the outputs, received {lengths[row]} for {counts[row]} "
            f"in row {row}"
        )
    padded = np.zeros((B, T, *steps.shape[1:]), steps.dtype)
    padded[valid] = steps
    return padded


def join(parts):
    """The outputs of several batches, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], (list, tuple)):
        return type(parts[0])(join(output) for output in zip(*parts, strict=True))
    if not isinstance(parts[0], Ragged):
        return np.concatenate(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))
