"""Data that fit, evaluate and predict take as a whole, as rows that can be cut into batches.

Sequences may come as a padded array (B,T,...) with `mask=`, as a Ragged, or as a list of arrays, which becomes a
Ragged. Targets and step weights may have any of these forms, whatever the inputs have: `align` fits them to the
outputs, of which only the model knows whether they are one for each row or one for each step.
"""

from typing import NamedTuple

import numpy as np

from fastmask.checks import check_number
from fastmask.layers.masked import as_mask, map_values, mask_of, plain, refuse_numpy_ma, values_of
from fastmask.losses import flat_arguments
from fastmask.ops.loss import as_labels, as_step_weight
from fastmask.ops.mask import check_count
from fastmask.ragged import Ragged
from fastmask.sequences import bucket_batches


class Batch(NamedTuple):
    """Rows of everything: lists, an entry for each input or output of the model, None where there is nothing."""

    x: list  # ndarrays or Ragged
    y: list
    mask: list  # ndarrays, for a Ragged x (N,)
    sample_weight: list

    def __len__(self):
        return len(self.x[0])


class Rows:
    """Checked inputs, targets, masks and weights with the same number of rows.

    Parameters
    ----------
    x, y, mask, sample_weight : lists
        An entry for each input (x, mask) or output (y, sample_weight), None where there is nothing.
    x_names, y_names : lists of str
        What errors call them.
    stack : bool
        A list of rows is one array (inputs that are no sequences), not a Ragged.

    Raises
    ------
    ValueError
        Different numbers of rows, a mask that does not fit.
    TypeError
        No numbers.
    """

    def __init__(self, x, y, mask, sample_weight, x_names=("x",), y_names=("y",), stack=False):
        self.x, self.mask = [], []
        for value, m, name in zip(x, mask, x_names, strict=True):
            if value is None:
                raise ValueError(f"{name}: expected an array, a Ragged or a list of arrays, received None")
            rows = as_rows(value, name, stack)
            m = mask_of(value) if m is None else m
            self.x.append(plain(rows))
            self.mask.append(None if m is None else _row_masks(m, self.x[-1], name))
        self.y = [None if v is None else as_rows(v, name) for v, name in zip(y, y_names, strict=True)]
        weights = [name.replace("y", "sample_weight", 1) for name in y_names]
        self.sample_weight = [
            None if v is None else as_rows(v, name) for v, name in zip(sample_weight, weights, strict=True)
        ]
        for values, names in ((self.x, x_names), (self.y, y_names), (self.sample_weight, weights)):
            for value, name in zip(values, names, strict=True):
                if value is not None and len(value) != len(self):
                    raise ValueError(f"{name}: expected {len(self)} rows as {x_names[0]} has, received {len(value)}")

    def __len__(self):
        return len(self.x[0])

    def take(self, rows):
        """A Batch of these rows: an array of indices, or a slice."""
        masks = [_take(m, rows) for m in self.mask]
        return Batch(
            [_take(v, rows) for v in self.x],
            [_take(v, rows) for v in self.y],
            [m.values if isinstance(m, Ragged) else m for m in masks],
            [_take(v, rows) for v in self.sample_weight],
        )

    def batch(self):
        """All rows as one Batch."""
        return Batch(self.x, self.y, [m.values if isinstance(m, Ragged) else m for m in self.mask], self.sample_weight)

    def split(self, fraction):
        """(first rows, last rows): the last `fraction` apart, as Keras' validation_split."""
        is_number = isinstance(fraction, (float, int, np.floating)) and not isinstance(fraction, bool)
        if not is_number or not 0 < fraction < 1:
            raise ValueError(f"validation_split: expected a number between 0 and 1, received {fraction!r}")
        n = int(len(self) * (1 - fraction))
        if not 0 < n < len(self):
            raise ValueError(
                f"validation_split: expected to leave rows in both parts of {len(self)}, received {fraction}"
            )
        return self._part(slice(0, n)), self._part(slice(n, len(self)))

    def _part(self, rows):
        part = Rows.__new__(Rows)
        for name in ("x", "y", "mask", "sample_weight"):
            setattr(part, name, [_take(v, rows) for v in getattr(self, name)])
        return part

    def lengths(self):
        """Valid steps of each row, of the first input that is a sequence."""
        for x, mask in zip(self.x, self.mask, strict=True):
            if isinstance(mask, Ragged):
                counts = np.concatenate([[0], np.cumsum(mask.values)])
                return np.diff(counts[x.offsets])
            if isinstance(x, Ragged):
                return x.lengths
            if mask is not None:
                return np.count_nonzero(mask.reshape(len(self), -1), axis=1)
        return np.full(len(self), self.x[0].shape[1] if self.x[0].ndim > 1 else 1)

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


def _row_masks(mask, x, name):
    try:
        if not isinstance(x, Ragged):
            return as_mask(mask, x)
        mask = Ragged.from_list(mask) if isinstance(mask, list) and np.ndim(mask[0] if mask else 0) else mask
        return x.with_values(as_mask(mask, x))  # a Ragged, to be cut like x
    except (ValueError, TypeError) as error:
        raise error if name == "x" else type(error)(f"{name}: {error}") from error


def per_part(value, names, argument, share=False):
    """`value` as a list with an entry for each of the names (of inputs or outputs): from a list or tuple in their order
    or a dict; None gives Nones. share: a single value is meant for all.

    Raises
    ------
    ValueError
        Another number of entries, or a name that is not known.
    """
    if value is None:
        return [None] * len(names)
    if isinstance(value, dict):
        unknown = [key for key in value if key not in names]
        if unknown:
            raise ValueError(f"{argument}: expected the names {', '.join(names)}, received {unknown[0]!r}")
        return [value.get(name) for name in names]
    if isinstance(value, (list, tuple)) and len(value) == len(names):
        return list(value)
    if share and not isinstance(value, (list, tuple)):
        return [value] * len(names)
    received = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
    raise ValueError(f"{argument}: expected a list of {len(names)}, for {', '.join(names)}, received {received}")


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


def apart(outputs, inputs):
    """The outputs of a model, each an array of its own: copies of what are the inputs themselves, or views of them, as
    where nothing is masked."""
    taken = [values_of(x) for x in inputs]

    def own(y):
        if y is None:
            return None
        if any(np.may_share_memory(values_of(y), other) for other in taken):
            y = map_values(np.copy, y)
        taken.append(values_of(y))
        return y

    return [own(y) for y in outputs] if isinstance(outputs, (list, tuple)) else own(outputs)


def join(parts):
    """The outputs of several batches, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if parts[0] is None:
        return None
    if isinstance(parts[0], (list, tuple)):
        return type(parts[0])(join(output) for output in zip(*parts, strict=True))
    if not isinstance(parts[0], Ragged):
        shapes = sorted({part.shape[1:] for part in parts})
        if len(shapes) > 1:
            raise ValueError(
                f"x: expected batches with outputs of one shape but for the rows, or Ragged, received shapes {shapes}"
            )
        return np.concatenate(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))


class ClassWeights:
    """The `class_weight` of fit as weights of steps.

    Parameters
    ----------
    class_weight : dict
        Class number -> weight; classes that are not in it have the weight 1.

    Raises
    ------
    TypeError, ValueError
        No dict, a key that is no whole number of 0 or more, a value that is no finite number of 0 or more.
    """

    def __init__(self, class_weight):
        if not isinstance(class_weight, dict):
            raise TypeError(f"class_weight: expected a dict, received {type(class_weight).__name__}")
        classes = sorted(class_weight, key=lambda c: check_count(c, "class_weight: class"))
        self._classes = np.array(classes, np.float64)
        self._weights = np.array([check_number(class_weight[c], f"class_weight[{c}]") for c in classes])

    def times(self, sample_weight, y, outputs):
        """Weights of the steps of `outputs` (...,K): those of the classes in y, times `sample_weight`, if there is one.

        y : class numbers (...) or (...,1), or (...,K) of which the largest is the class; for K = 1 rounded.
        """
        y, outputs, sample_weight, _, like = flat_arguments(y, outputs, sample_weight, None)
        y, steps = np.asarray(y), outputs.shape[:-1]
        if y.shape == outputs.shape and y.shape[-1] > 1:
            classes = np.argmax(y, axis=-1)
        else:
            classes = np.round(as_labels(y, steps).astype(np.float64))
        nearest = np.minimum(np.searchsorted(self._classes, classes), len(self._classes) - 1)
        weight = np.where(self._classes[nearest] == classes, self._weights[nearest], 1.0)
        if sample_weight is not None:
            weight *= as_step_weight(sample_weight, steps, np.float64)
        return weight if like is None else like.with_values(weight)
