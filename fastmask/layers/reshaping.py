"""Layers that move numbers about and change none: Flatten, Reshape, Permute; RepeatVector and RepeatLike, which make a
sequence of a vector; Cropping1D, ZeroPadding1D and UpSampling1D along time.
"""

import math

import numpy as np

from fastmask.checks import check_whole, empty
from fastmask.layers.base import Layer
from fastmask.layers.masked import finite_under_mask
from fastmask.layers.outgoing import warn_dropped
from fastmask.layers.registry import register_serializable
from fastmask.layers.streams import IN_PIECES, WHOLE
from fastmask.layers.structure import differ, is_nested, map_inputs
from fastmask.ragged import Ragged


# ---- within a row ---------------------------------------------------------------------------------------------------
class _Rearrangement(Layer):
    """The numbers of each row in another shape or order.

    A mask goes on if its axes stay where they are (`_keeps(shape, axes)`: the first `axes` axes of that shape, batch
    included); else it is dropped with a MaskDroppedWarning.
    """

    _casts_integers = False
    _single_input = True
    _lean = True
    _makes_mask = False
    _passes = False  # whether a mask (B,T) goes on, once built
    streams = True

    def build(self, input_shape):
        self._passes = self._keeps(tuple(input_shape), 2)

    def compute_mask(self, inputs, mask=None):
        return self._passed_on(mask, np.shape(inputs), np.ndim(mask) + isinstance(inputs, Ragged))

    def compute_mask_shape(self, input_shape, mask_shape):
        return self._passed_on(mask_shape, input_shape, np.size(mask_shape))

    def _passed_on(self, mask, shape, axes):
        if mask is None or self._keeps(shape, max(axes, 2)):
            return mask
        warn_dropped(
            self,
            "moves the steps, so their mask is lost here. Pass mask= to a later layer by hand; what stands at masked "
            "steps goes on as numbers like any others, unless ApplyMask sets it to 0 before.",
        )
        return None

    def call(self, inputs, mask=None, training=False):
        if mask is not None:
            inputs = finite_under_mask(inputs, mask)
        if isinstance(inputs, Ragged) and not self._keeps(inputs.shape, 2):
            raise TypeError(f"{self.name}: inputs: expected an array, as the steps are moved, received a Ragged")
        if training:
            self.saved = inputs.shape
        return self._move(inputs)

    def start_stream(self, batch_size, input_shape, arrival):
        if not self._keeps(input_shape, 2):
            raise ValueError("it moves the steps")
        return super().start_stream(batch_size, input_shape, arrival)

    def mask_role(self):
        return "passes" if self._passes else "drops"


@register_serializable(package=None)
class Flatten(_Rearrangement):
    """(B, ...) -> (B, n): all numbers of a row as its features.

    Parameters
    ----------
    data_format : None or "channels_last"

    Notes
    -----
    The mask of a sequence is dropped, with a MaskDroppedWarning; that of rows (B,F) goes on (Keras drops it, too). Of
    (B,) the result is (B,1).
    """

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = _check_data_format(data_format)

    def _keeps(self, shape, axes):
        return len(shape) == 2

    def _move(self, x):
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, grad):
        return None if grad is None else grad.reshape(self.saved)

    def compute_output_shape(self, input_shape):
        B, *row = input_shape
        return B, None if None in row else math.prod(row)

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}


@register_serializable(package=None)
class Reshape(_Rearrangement):
    """(B, ...) -> (B, *target_shape).

    Parameters
    ----------
    target_shape : tuple of int
        Of one row, without the batch. One -1 stands for what is left over.

    Notes
    -----
    If the steps stay, as with (-1, 4, 3) for steps of 12 features, the mask goes on and a Ragged may come in; else the
    mask is dropped, with a MaskDroppedWarning (Keras drops it in any case).
    """

    supports_ragged = True

    def __init__(self, target_shape, **kwargs):
        super().__init__(**kwargs)
        self.target_shape = _check_tuple(target_shape, "target_shape", -1)
        if self.target_shape.count(-1) > 1:
            raise ValueError(f"target_shape: expected at most one -1, received {self.target_shape}")

    def _keeps(self, shape, axes):
        # the rows hold as many numbers before and after: if each step does, too, there are as many steps
        new = self.compute_output_shape(shape)
        leading = zip(shape[1:axes], new[1:axes], strict=False)
        rest, new_rest = shape[axes:], new[axes:]
        return (
            len(new) >= axes
            and all(None in pair or pair[0] == pair[1] for pair in leading)
            and None not in (*rest, *new_rest)
            and math.prod(rest) == math.prod(new_rest)
        )

    def start_stream(self, batch_size, input_shape, arrival):
        if self.target_shape[:1] != (-1,):
            raise ValueError(f"expected a target_shape of any number of steps, (-1, ...), received {self.target_shape}")
        return super().start_stream(batch_size, input_shape, arrival)

    def _move(self, x):
        if isinstance(x, Ragged):
            return x.with_values(x.values.reshape(len(x.values), *self.target_shape[1:]))
        return x.reshape(self.compute_output_shape(x.shape))

    def backward(self, grad):
        if isinstance(grad, Ragged):
            return grad.with_values(grad.values.reshape(len(grad.values), *self.saved[2:]))
        return None if grad is None else grad.reshape(self.saved)

    def compute_output_shape(self, input_shape):
        B, *row = input_shape
        if None in row:
            return (B, *(None if n == -1 else n for n in self.target_shape))
        size, known = math.prod(row), math.prod(n for n in self.target_shape if n != -1)
        if size % known if known and -1 in self.target_shape else size != known:
            raise ValueError(
                f"{self.name}: inputs: expected rows that fill the target_shape {self.target_shape}, received shape "
                f"{tuple(input_shape)}"
            )
        return (B, *(size // max(known, 1) if n == -1 else n for n in self.target_shape))

    def get_config(self):
        return {**super().get_config(), "target_shape": self.target_shape}


@register_serializable(package=None)
class Permute(_Rearrangement):
    """The axes of each row in another order.

    Parameters
    ----------
    dims : tuple of int
        The axes from 1 on, in their new order: (2, 1) makes (B,F,T) of (B,T,F).

    Notes
    -----
    If time stays where it is, dims = (1, ...), the mask goes on and a Ragged may come in; else the mask is dropped,
    with a MaskDroppedWarning (Keras drops it in any case).
    """

    supports_ragged = True

    def __init__(self, dims, **kwargs):
        super().__init__(**kwargs)
        self.dims = _check_tuple(dims, "dims", 1)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(f"dims: expected each of 1..{len(self.dims)} once, received {self.dims}")

    def check_input_shape(self, shape):
        """ValueError if it has not one axis for each of dims."""
        if len(shape) != len(self.dims) + 1:
            raise ValueError(
                f"{self.name}: inputs: expected rank {len(self.dims) + 1} for dims={self.dims}, received shape "
                f"{tuple(shape)}"
            )

    def _keeps(self, shape, axes):
        return self.dims[: axes - 1] == tuple(range(1, axes))

    def _move(self, x):
        self.check_input_shape(x.shape)
        return _transposed(x, (0, *self.dims))

    def backward(self, grad):
        return None if grad is None else _transposed(grad, np.argsort((0, *self.dims)))

    def compute_output_shape(self, input_shape):
        self.check_input_shape(input_shape)
        return (input_shape[0], *(input_shape[n] for n in self.dims))

    def get_config(self):
        return {**super().get_config(), "dims": self.dims}


def _transposed(x, axes):
    if isinstance(x, Ragged):  # its values lack axis 1, which stays
        return x.with_values(_transposed(x.values, [0, *(n - 1 for n in axes[2:])]))
    return np.ascontiguousarray(x.transpose(axes))


# ---- a vector as a sequence -----------------------------------------------------------------------------------------
@register_serializable(package=None)
class RepeatVector(Layer):
    """(B,F) -> (B,n,F): the same vector in each of n steps.

    Parameters
    ----------
    n : int

    Notes
    -----
    The outputs have no mask: pass mask= to the next layer, or repeat to the length and mask of a sequence with
    RepeatLike.
    """

    _casts_integers = False
    _single_input = True
    _lean = True

    def __init__(self, n, **kwargs):
        super().__init__(**kwargs)
        self.n = check_whole(n, "n", 1)

    def check_input_shape(self, shape):
        """ValueError if it is not (B,F)."""
        if len(shape) != 2:
            raise ValueError(f"{self.name}: inputs: expected shape (B,F), received {tuple(shape)}")

    def call(self, inputs):
        self.check_input_shape(inputs.shape)
        outputs = empty(f"{self.name}: n", (len(inputs), self.n, inputs.shape[1]), inputs.dtype)
        outputs[:] = inputs[:, None]
        return outputs

    def backward(self, grad):
        return None if grad is None else grad.sum(axis=1)

    def _warn_dropped(self):
        warn_dropped(
            self,
            "repeats rows, so a mask of rows is lost here. Pass mask= to a later layer by hand, or repeat to the mask "
            "of a sequence with RepeatLike.",
        )

    def compute_output_shape(self, input_shape):
        B, F = input_shape
        return B, self.n, F

    def get_config(self):
        return {**super().get_config(), "n": self.n}


@register_serializable(package=None)
class RepeatLike(Layer):
    """[vector (B,F), sequence (B,T,...)] -> (B,T,F): the vector in each step of the sequence, whose mask goes on.

    For decoders of sequences of different lengths: RepeatLike()([encoded, inputs]) is as long as the inputs, batch by
    batch, and masked as they are. A Ragged sequence gives a Ragged. Keras has no such layer.

    Notes
    -----
    Masked steps get the vector, too. Gradients: the vector's is the sum over all steps; none goes to the sequence, of
    which only the length matters.

    Examples
    --------
    >>> from fastmask.layers import Masking
    >>> sequence = Masking()([[[1.0], [2.0], [0.0]]])
    >>> y = RepeatLike()([np.array([[5.0, 6.0]]), sequence])
    >>> y.shape, y.mask
    ((1, 3, 2), array([[ True,  True, False]]))
    """

    supports_ragged = True
    _lean = True
    _makes_mask = False

    def build(self, input_shape):
        self.check_input_shape(input_shape)

    def start_stream(self, batch_size, input_shape, arrival):
        if arrival != [WHOLE, IN_PIECES]:
            raise ValueError(
                f"expected a vector that is the same with every piece, received one that comes {arrival[0]}"
            )
        return IN_PIECES, None

    def check_input_shape(self, shape):
        """ValueError if it is not that of [(B,F), (B,T,...)]."""
        if not is_nested(shape) or len(shape) != 2:
            raise ValueError(f"{self.name}: inputs: expected a list [vector, sequence], received shape {shape}")
        vector, sequence = map(tuple, shape)
        if len(vector) != 2 or len(sequence) < 2 or differ(vector[0], sequence[0]):
            raise ValueError(
                f"{self.name}: inputs: expected a vector (B,F) and a sequence (B,T,...) of the same B, received "
                f"{vector} and {sequence}"
            )

    def call(self, inputs):
        self.check_input_shape(map_inputs(np.shape, inputs))
        vector, sequence = inputs
        if isinstance(vector, Ragged):
            raise TypeError(f"{self.name}: inputs: expected a vector (B,F) first, received a Ragged")
        if isinstance(sequence, Ragged):
            return sequence.with_values(np.repeat(vector, sequence.lengths, axis=0))
        return np.repeat(vector[:, None], sequence.shape[1], axis=1)

    def backward(self, grad):
        if isinstance(grad, Ragged):
            return [_sum_rows(grad), None]
        return [None if grad is None else grad.sum(axis=1), None]

    def compute_mask(self, inputs, mask=None):
        if mask is None:
            return None
        if mask[0] is not None:
            warn_dropped(self, "repeats a vector, whose own mask is lost here. Pass mask= to a later layer by hand.")
        return mask[1]

    def compute_output_shape(self, input_shape):
        (B, F), (_, T, *_) = input_shape
        return B, T, F

    def mask_role(self):
        return "passes"


def _sum_rows(ragged):
    """(B, ...): the sum over the steps of each row."""
    sums = np.zeros((len(ragged), *ragged.shape[2:]), ragged.dtype)
    filled = ragged.lengths > 0  # reduceat cannot do empty rows
    if filled.any():
        sums[filled] = np.add.reduceat(ragged.values, ragged.offsets[:-1][filled], axis=0)
    return sums


# ---- along time -----------------------------------------------------------------------------------------------------
class _AlongTime(Layer):
    """Other steps (B,T',F) from the steps (B,T,F); `_steps` makes them, of the mask (B,T) in the same way."""

    _casts_integers = False
    _single_input = True
    _lean = True
    _makes_mask = False
    _no_stream = "it changes the number of steps"

    def check_input_shape(self, shape):
        """ValueError if it is not (B,T,F)."""
        if len(shape) != 3:
            raise ValueError(f"{self.name}: inputs: expected shape (B,T,F), received {tuple(shape)}")

    def call(self, inputs, training=False):
        self.compute_output_shape(inputs.shape)  # which refuses what does not fit
        if training:
            self.saved = inputs.shape
        return self._steps(inputs)

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else self._steps(np.asarray(mask, bool))

    def compute_mask_shape(self, input_shape, mask_shape):
        T = self.compute_output_shape(input_shape)[1]
        return None if mask_shape is None else (mask_shape[0], T, *mask_shape[2:])

    def compute_output_shape(self, input_shape):
        self.check_input_shape(input_shape)
        B, T, F = input_shape
        return B, None if T is None else self._length(T), F


@register_serializable(package=None)
class Cropping1D(_AlongTime):
    """Cut off steps at both ends: (B,T,F) -> (B,T-a-b,F).

    Parameters
    ----------
    cropping : int or (int, int)
        Steps at the beginning and at the end.

    Notes
    -----
    The mask is cut in the same way (Keras drops it). Not for Ragged: the end of a padded row is padding, that of a
    Ragged's row is not. Nothing may be left over; Keras wants a step at least.
    """

    def __init__(self, cropping=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.cropping = _check_ends(cropping, "cropping")

    def _steps(self, a):
        first, last = self.cropping
        return np.ascontiguousarray(a[:, first : max(a.shape[1] - last, first)])

    def _length(self, T):
        if sum(self.cropping) > T:
            raise ValueError(
                f"{self.name}: inputs: expected at least {sum(self.cropping)} steps for cropping={self.cropping}, "
                f"received {T}"
            )
        return T - sum(self.cropping)

    def backward(self, grad):
        return None if grad is None else _pad(grad, self.cropping)

    def get_config(self):
        return {**super().get_config(), "cropping": self.cropping}


@register_serializable(package=None)
class ZeroPadding1D(_AlongTime):
    """Add steps of zeros at both ends: (B,T,F) -> (B,a+T+b,F).

    Parameters
    ----------
    padding : int or (int, int)
        Steps at the beginning and at the end.
    data_format : None or "channels_last"

    Notes
    -----
    In the mask the new steps are False (Keras drops the mask). Without a mask they are steps like any others. Not for
    Ragged, which has no padding.
    """

    def __init__(self, padding=1, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.padding = _check_ends(padding, "padding")
        self.data_format = _check_data_format(data_format)

    def _steps(self, a):
        empty(f"{self.name}: padding", (len(a), a.shape[1] + sum(self.padding), *a.shape[2:]), a.dtype)
        return _pad(a, self.padding)

    def _length(self, T):
        return T + sum(self.padding)

    def backward(self, grad):
        first, T = self.padding[0], self.saved[1]
        return None if grad is None else np.ascontiguousarray(grad[:, first : first + T])

    def get_config(self):
        return {**super().get_config(), "padding": self.padding, "data_format": self.data_format}


@register_serializable(package=None)
class UpSampling1D(_AlongTime):
    """Each step `size` times: (B,T,F) -> (B,size T,F).

    Parameters
    ----------
    size : int

    Notes
    -----
    The steps of the mask are repeated, too (Keras drops it).
    """

    def __init__(self, size=2, **kwargs):
        super().__init__(**kwargs)
        self.size = check_whole(size, "size", 1)

    def _steps(self, a):
        empty(f"{self.name}: size", (a.shape[0], a.shape[1] * self.size, *a.shape[2:]), a.dtype)
        return np.repeat(a, self.size, axis=1)

    def _length(self, T):
        return T * self.size

    def backward(self, grad):
        B, T, F = self.saved
        return None if grad is None else grad.reshape(B, T, self.size, F).sum(axis=2)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def _pad(a, ends):
    """a (B,T,...) with 0 or False for so many steps before and behind."""
    return np.pad(a, [(0, 0), ends] + [(0, 0)] * (a.ndim - 2))


def _check_ends(ends, name):
    """An int or a pair of them as a pair of ints >= 0."""
    pair = ends if isinstance(ends, (tuple, list)) else (ends, ends)
    if len(pair) != 2:
        raise ValueError(f"{name}: expected a whole number or two of them, received {ends!r}")
    return _check_tuple(pair, name, 0)


def _check_tuple(numbers, name, low):
    if not isinstance(numbers, (tuple, list)):
        raise ValueError(f"{name}: expected a tuple of whole numbers, received {numbers!r}")
    return tuple(check_whole(n, name, low) for n in numbers)


def _check_data_format(data_format):
    if data_format not in (None, "channels_last"):
        raise ValueError(f"data_format: expected None or 'channels_last', received {data_format!r}")
    return data_format
