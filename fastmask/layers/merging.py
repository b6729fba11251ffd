"""Layers that make one array of several: Add, Subtract, Multiply, Average, Maximum, Minimum; Concatenate; Dot.

What a mask means for the values is Keras 3's; a non-finite number at a masked step counts as 0. Masks are never lost
silently: where some inputs are masked and others are not, a MaskDroppedWarning says so.
"""

import functools
import itertools
import math

import numpy as np

from fastmask.checks import check_axis, check_whole
from fastmask.layers.base import Layer
from fastmask.layers.masked import finite_under_mask, map_values, values_of, zero_under_mask
from fastmask.layers.outgoing import warn_dropped
from fastmask.layers.registry import register_serializable
from fastmask.layers.streams import IN_PIECES, WHOLE, refuse_along_time
from fastmask.layers.structure import differ, is_nested, map_inputs
from fastmask.ops._products import multiply_rows
from fastmask.ops.mask import align_mask
from fastmask.ragged import Ragged


class _Merge(Layer):
    """What all of them share: a list of inputs, checked, with 0 for NaN and infinity at masked steps."""

    supports_ragged = True
    _lean = True
    _fewest, _most = 1, math.inf  # inputs
    streams = True

    def build(self, input_shape):
        self.check_input_shape(input_shape)

    def check_input_shape(self, shape):
        """ValueError if it is no list of shapes that go together."""
        expected = f"{self._fewest}" if self._fewest == self._most else f"at least {self._fewest}"
        if not is_nested(shape):
            raise ValueError(
                f"{self.name}: inputs: expected a list of {expected} inputs, received one of shape {shape}"
            )
        if not self._fewest <= len(shape) <= self._most:
            raise ValueError(f"{self.name}: inputs: expected a list of {expected} inputs, received {len(shape)}")
        self.compute_output_shape(shape)

    def _refuse(self, expected, first, other):
        raise ValueError(f"{self.name}: inputs: expected {expected}, received shapes {tuple(first)} and {tuple(other)}")

    def call(self, inputs, mask=None, training=False):
        self.check_input_shape(map_inputs(np.shape, inputs))
        masks = [None] * len(inputs) if mask is None else mask
        inputs = [x if m is None else finite_under_mask(x, m) for x, m in zip(inputs, masks, strict=True)]
        return self._merge(inputs, masks, training)

    def _common_rows(self, inputs):
        """A Ragged of the rows that all inputs have; None if they are arrays."""
        first = inputs[0]
        if len({isinstance(x, Ragged) for x in inputs}) > 1:
            raise TypeError(f"{self.name}: inputs: expected arrays only or Ragged only, received both")
        if not isinstance(first, Ragged):
            return None
        for other in inputs[1:]:
            if other.ndim != first.ndim or not np.array_equal(other.offsets, first.offsets):
                raise ValueError(
                    f"{self.name}: inputs: expected Ragged of one rank and the same row lengths, received {first!r} "
                    f"and {other!r}"
                )
        return first

    def _either(self, xs, masks):
        """OR of the masks of inputs of one rank."""
        axes = max(m.ndim for m in masks)
        return _any([align_mask(m, x.shape[:axes]) for x, m in zip(xs, masks, strict=True)])

    def mask_role(self):
        return "changes"

    def _warn_unmasked(self):
        warn_dropped(
            self,
            "got inputs with a mask and others without, so the mask is lost here. Give all of them a mask, or pass "
            "mask= to a later layer by hand.",
        )


# ---- element by element ---------------------------------------------------------------------------------------------
class _Elementwise(_Merge):
    """Inputs of one shape or broadcast to one. An input of lower rank gets axes of 1 behind the batch: (B,F) goes with
    every step of (B,T,F).

    Subclasses: `_value(xs, masks)`, the outputs, and `_gradients(grad, xs, masks)`, that of each x; of arrays that have
    one rank and masks of their shapes. Where nothing is said of masks, they do not matter.
    """

    _makes_mask = False

    def _merge(self, inputs, masks, training):
        rows = self._common_rows(inputs)
        shapes = [values_of(x).shape for x in inputs]
        rank = max(map(len, shapes))
        xs = [values_of(x).reshape(_raised(shape, rank)) for x, shape in zip(inputs, shapes, strict=True)]
        masks = [  # as in Keras, one of an input of lower rank does not matter
            align_mask(m, x.shape) if m is not None and len(shape) == rank else None
            for x, m, shape in zip(xs, masks, shapes, strict=True)
        ]
        if training:
            self.saved = xs, masks, shapes, rows
        outputs = self._value(xs, masks)
        return outputs if rows is None else rows.with_values(outputs)

    def backward(self, grad):
        xs, masks, shapes, rows = self.saved
        if grad is None:
            return [None] * len(xs)
        gradients = self._gradients(values_of(grad), xs, masks)
        gradients = [_unbroadcast(g, x.shape).reshape(shape) for g, x, shape in zip(gradients, xs, shapes, strict=True)]
        return gradients if rows is None else [rows.with_values(g) for g in gradients]

    def compute_mask(self, inputs, mask=None):
        ranks = [np.ndim(x) for x in inputs]
        if mask is None or not self._mask_goes_on(ranks, mask):
            return None
        sequences = [i for i, rank in enumerate(ranks) if rank == max(ranks)]
        return self._either([values_of(inputs[i]) for i in sequences], [mask[i] for i in sequences])

    def compute_mask_shape(self, input_shape, mask_shape):
        if mask_shape is None or not self._mask_goes_on([len(s) for s in input_shape], mask_shape):
            return None
        return self.compute_output_shape(input_shape)[: max(len(m) for m in mask_shape if m is not None)]

    def _mask_goes_on(self, ranks, masks):
        """Whether all inputs of the highest rank are masked; the others have no steps. Warns of what is lost."""
        sequences = [m for m, rank in zip(masks, ranks, strict=True) if rank == max(ranks)]
        if any(m is not None for m, rank in zip(masks, ranks, strict=True) if rank < max(ranks)):
            warn_dropped(
                self,
                "got an input of lower rank with a mask, which is lost here. Pass mask= to a later layer by hand.",
            )
        if all(m is not None for m in sequences):
            return True
        if any(m is not None for m in sequences):
            self._warn_unmasked()
        return False

    def start_stream(self, batch_size, input_shape, arrival):
        """What goes with all steps must be the same with every piece: not yet known is what it will be at the end."""
        rank = max(map(len, input_shape))
        expected = [WHOLE if len(s) < rank or s[1] == 1 else IN_PIECES for s in input_shape]
        if arrival != expected:
            raise ValueError(f"expected inputs that come {', '.join(expected)}, received {', '.join(arrival)}")
        return IN_PIECES, None

    def compute_output_shape(self, input_shape):
        return functools.reduce(self._broadcast, map(tuple, input_shape))

    def _broadcast(self, first, other):
        rank = max(len(first), len(other))
        pairs = list(zip(_raised(first, rank), _raised(other, rank), strict=True))
        if differ(*pairs[0]) or any(differ(n, m) and 1 not in (n, m) for n, m in pairs):
            self._refuse("inputs of one shape, or of shapes that are broadcast to one", first, other)
        batch = pairs[0][0] if pairs[0][1] is None else pairs[0][1]
        return batch, *(None if None in (n, m) else m if n == 1 else n for n, m in pairs[1:])


@register_serializable(package=None)
class Add(_Elementwise):
    """The sum of all inputs, element by element.

    Notes
    -----
    Inputs of one shape or broadcast to one: (B,F) is added to every step of (B,T,F). Ragged of the same row lengths,
    too.

    Masks do not change the sum, but NaN and infinity at masked steps count as 0. If all inputs are masked, the output
    is valid where any input is (OR, as in Keras 3); if only some are, the mask is dropped with a MaskDroppedWarning
    (Keras: in silence). An input of lower rank has no steps to mask: beside it the mask goes on (Keras drops it).

    Examples
    --------
    >>> Add()([np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2))])
    array([[3., 3.]], dtype=float32)
    """

    def _value(self, xs, masks):
        return functools.reduce(np.add, xs)

    def _gradients(self, grad, xs, masks):
        return [grad] * len(xs)


@register_serializable(package=None)
class Average(_Elementwise):
    """The mean of all inputs, element by element. Shapes and masks as in `Add`."""

    def _value(self, xs, masks):
        return functools.reduce(np.add, xs) / len(xs)

    def _gradients(self, grad, xs, masks):
        return [grad / len(xs)] * len(xs)


@register_serializable(package=None)
class Subtract(_Elementwise):
    """The first of two inputs minus the second, element by element. Shapes and masks as in `Add`."""

    _fewest = _most = 2

    def _value(self, xs, masks):
        return xs[0] - xs[1]

    def _gradients(self, grad, xs, masks):
        return grad, -grad


@register_serializable(package=None)
class Multiply(_Elementwise):
    """The product of all inputs, element by element.

    Notes
    -----
    Shapes and masks as in `Add`, but an input counts as 1 where it is masked; where all are masked the product is 0.
    """

    def _value(self, xs, masks):
        return _zero_outside(_any(masks), functools.reduce(np.multiply, self._factors(xs, masks)))

    def _factors(self, xs, masks):
        return [x if m is None else np.where(m, x, x.dtype.type(1)) for x, m in zip(xs, masks, strict=True)]

    def _gradients(self, grad, xs, masks):
        xs = self._factors(xs, masks)
        before = itertools.accumulate(xs[:-1], np.multiply, initial=grad)  # times the factors before each one
        behind = list(itertools.accumulate(xs[:0:-1], np.multiply))[::-1]  # the factors behind each one but the last
        products = [b if i == len(behind) else b * behind[i] for i, b in enumerate(before)]
        return [_zero_outside(m, product) for m, product in zip(masks, products, strict=True)]


class _Extremum(_Elementwise):
    """The largest or smallest of the inputs that are not masked; of the first one where all are."""

    def _value(self, xs, masks):
        worst = xs[0].dtype.type(self._worst)
        shown = [x if m is None else np.where(m, x, worst) for x, m in zip(xs, masks, strict=True)]
        best, valid = functools.reduce(self._better, shown), _any(masks)
        return best if valid is None else np.where(valid, best, xs[0])

    def _gradients(self, grad, xs, masks):
        best, valid = self._value(xs, masks), _any(masks)
        free = np.ones(grad.shape, bool)  # where no input has won yet; of equals the first one wins, as in Keras
        gradients = []
        for i, (x, m) in enumerate(zip(xs, masks, strict=True)):
            wins = free & (x == best)
            if m is not None:
                wins &= m | ~valid if valid is not None and i == 0 else m
            free &= ~wins
            gradients.append(_zero_outside(wins, grad))
        return gradients


@register_serializable(package=None)
class Maximum(_Extremum):
    """The largest of all inputs, element by element.

    Notes
    -----
    Shapes and masks as in `Add`, but an input does not count where it is masked; where all are masked the first one
    stands. Of equal inputs the first one gets the gradient.
    """

    _better, _worst = np.maximum, -np.inf


@register_serializable(package=None)
class Minimum(_Extremum):
    """The smallest of all inputs, element by element.

    Notes
    -----
    Shapes and masks as in `Add`, but an input does not count where it is masked; where all are masked the first one
    stands. Of equal inputs the first one gets the gradient.
    """

    _better, _worst = np.minimum, np.inf


def _raised(shape, rank):
    """A shape with axes of 1 behind the batch up to that rank."""
    return shape[:1] + (1,) * (rank - len(shape)) + shape[1:]


def _unbroadcast(gradient, shape):
    """The gradient of an array of that shape from that of the array it was broadcast to."""
    axes = tuple(axis for axis, (n, m) in enumerate(zip(shape, gradient.shape, strict=True)) if n == 1 != m)
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient


def _any(masks):
    """Where some input is valid; None, everywhere, if one of them has no mask."""
    return None if any(m is None for m in masks) else functools.reduce(np.logical_or, masks)


def _zero_outside(valid, x):
    """x where valid, else 0: the bits of x times 1 or 0. np.where guesses at each element, and mostly wrong where valid
    is as good as random (410 000 elements: 1.5 ms, 0.1 ms)."""
    return x if valid is None else (x.view(f"i{x.itemsize}") * valid).view(x.dtype)


# ---- side by side ---------------------------------------------------------------------------------------------------
@register_serializable(package=None)
class Concatenate(_Merge):
    """The inputs side by side, or one behind the other.

    Parameters
    ----------
    axis : int, not that of the batch
        -1: the features of each step, side by side. 1: the steps of (B,T,F), one input behind the other.

    Notes
    -----
    Inputs of one shape but for the axis. Ragged: of the same row lengths, or with axis=1 any lengths, row behind row.

    Along time (axis=1) the masks are concatenated, too, an input without one counting as all valid. Along features a
    step of the output is valid if it is in any input (OR, as in Keras 3); if only some inputs are masked, the mask is
    dropped with a MaskDroppedWarning (Keras hands on a mask that is all True). NaN and infinity at masked steps become
    0.

    Examples
    --------
    >>> Concatenate()([np.ones((1, 2)), np.zeros((1, 1))])
    array([[1., 1., 0.]], dtype=float32)
    """

    _casts_integers = False
    _makes_mask = False

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = check_whole(axis, "axis")

    def _merge(self, inputs, masks, training):
        if len({x.dtype for x in inputs}) > 1:  # integers beside floats
            inputs = [map_values(self._cast, x) for x in inputs]
        axis, indices, size, offsets = self._layout(inputs)
        if training:
            self.saved = indices, inputs if isinstance(inputs[0], Ragged) else None
        outputs = _joined([values_of(x) for x in inputs], axis, indices, size)
        return outputs if offsets is None else Ragged(outputs, offsets)

    def backward(self, grad):
        indices, ragged = self.saved
        if grad is None:
            return [None] * len(indices)
        gradients = [np.ascontiguousarray(values_of(grad)[index]) for index in indices]
        return gradients if ragged is None else [x.with_values(g) for x, g in zip(ragged, gradients, strict=True)]

    def _layout(self, inputs):
        """(axis of the values, index of each input's in those of the output, their number, offsets of a Ragged)."""
        axis = self._axis(np.ndim(inputs[0]))
        if axis == 1 and all(isinstance(x, Ragged) for x in inputs):
            offsets = np.sum([x.offsets for x in inputs], axis=0)
            indices, start = [], offsets[:-1]
            for x in inputs:
                indices.append((np.arange(len(x.values)) + np.repeat(start - x.offsets[:-1], x.lengths),))
                start = start + x.lengths
            return 0, indices, offsets[-1], offsets
        rows = self._common_rows(inputs)
        axis -= rows is not None
        ends = np.cumsum([values_of(x).shape[axis] for x in inputs])
        starts = [0, *ends[:-1]]
        indices = [(slice(None),) * axis + (slice(start, end),) for start, end in zip(starts, ends, strict=True)]
        return axis, indices, ends[-1], None if rows is None else rows.offsets

    def compute_mask(self, inputs, mask=None):
        if mask is None or all(m is None for m in mask):
            return None
        xs, rank = [values_of(x) for x in inputs], max(m.ndim for m in mask if m is not None)
        axis, indices, size, _ = self._layout(inputs)
        if axis < rank:
            whole = [np.ones(x.shape[:rank], bool) if m is None else m for x, m in zip(xs, mask, strict=True)]
            return _joined(whole, axis, indices, size)
        if any(m is None for m in mask):
            return self._warn_unmasked()
        return self._either(xs, mask)

    def compute_mask_shape(self, input_shape, mask_shape):
        if mask_shape is None:
            return None
        rank = max(len(m) for m in mask_shape if m is not None)
        if self._axis(len(input_shape[0])) >= rank and any(m is None for m in mask_shape):
            return self._warn_unmasked()
        return self.compute_output_shape(input_shape)[:rank]

    def _axis(self, rank):
        return check_axis(self.axis, rank, f"{self.name}: axis")

    def compute_output_shape(self, input_shape):
        first = tuple(input_shape[0])
        axis = self._axis(len(first))
        sizes = list(first)
        for other in map(tuple, input_shape[1:]):
            if len(other) != len(first) or any(
                differ(n, m) for k, (n, m) in enumerate(zip(sizes, other, strict=True)) if k != axis
            ):
                self._refuse(f"the same shape but along axis {axis}", first, other)
            for k, n in enumerate(other):
                if k == axis:
                    sizes[k] = None if None in (sizes[k], n) else sizes[k] + n
                elif sizes[k] is None:
                    sizes[k] = n
        return tuple(sizes)

    def start_stream(self, batch_size, input_shape, arrival):
        refuse_along_time(self.axis, input_shape[0])
        return super().start_stream(batch_size, input_shape, arrival)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


def _joined(arrays, axis, indices, size):
    """The arrays at their indices in an array of `size` along the axis."""
    shape = list(arrays[0].shape)
    shape[axis] = size
    joined = np.empty(shape, arrays[0].dtype)
    for array, index in zip(arrays, indices, strict=True):
        joined[index] = array
    return joined


# ---- dot product ----------------------------------------------------------------------------------------------------
@register_serializable(package=None)
class Dot(_Merge):
    """The dot product of two inputs along an axis of each: row by row, over all pairs of what is left.

    Parameters
    ----------
    axes : int or (int, int)
        The axis to sum over, of both inputs or of each; not that of the batch.
    normalize : bool
        Divide both by their length along the axis first: the cosine of the angle between them.

    Notes
    -----
    (B,T,F) and (B,S,F) with axes=2 give (B,T,S); (B,T,F) and (B,F) with axes=(2, 1) give (B,T); two (B,F) give (B,1).

    Where time is summed over (axis 1 of (B,T,F)), masked steps count as 0 and the mask is used up (in Keras whatever
    stands at masked steps is summed, too). A mask of steps that remain is dropped with a MaskDroppedWarning (Keras: in
    silence). Every output is one chain of multiply-adds in order, so padding changes no bit.

    Examples
    --------
    >>> Dot(axes=1)([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])])
    array([[11.]], dtype=float32)
    """

    supports_ragged = False
    _makes_mask = False
    _fewest = _most = 2
    streams = False
    _no_stream = "it takes all pairs of steps, or sums over them"

    def __init__(self, axes, normalize=False, **kwargs):
        super().__init__(**kwargs)
        one_each = isinstance(axes, (tuple, list))
        if one_each and len(axes) != 2:
            raise ValueError(f"axes: expected a whole number or two of them, received {axes!r}")
        self.axes = tuple(check_whole(axis, "axes") for axis in axes) if one_each else check_whole(axes, "axes")
        self.normalize = bool(normalize)
        self._leaves_steps = False  # whether time stays, and with it a mask is lost; once built

    def build(self, input_shape):
        super().build(input_shape)
        self._leaves_steps = any(axis > 1 for axis in self._axes(map(len, input_shape)))

    def _axes(self, ranks):
        """The two axes counted from the front."""
        axes = self.axes if isinstance(self.axes, tuple) else (self.axes, self.axes)
        return [check_axis(axis, rank, f"{self.name}: axes") for axis, rank in zip(axes, ranks, strict=True)]

    def _merge(self, inputs, masks, training):
        axes = self._axes([x.ndim for x in inputs])
        xs = [
            x if m is None or m.ndim <= axis else zero_under_mask(x, m)
            for x, m, axis in zip(inputs, masks, axes, strict=True)
        ]
        factors = [_unit_factors(x, axis) if self.normalize else None for x, axis in zip(xs, axes, strict=True)]
        scaled = [x if f is None else x * f for x, f in zip(xs, factors, strict=True)]
        a, b = (_as_matrices(x, axis) for x, axis in zip(scaled, axes, strict=True))  # (B,I,K), (B,J,K)
        if training:
            self.saved = xs, masks, axes, factors, a, b
        return multiply_rows(a, b.swapaxes(1, 2)).reshape(self.compute_output_shape([x.shape for x in inputs]))

    def backward(self, grad):
        xs, masks, axes, factors, a, b = self.saved
        if grad is None:
            return [None, None]
        grad = grad.reshape(len(a), a.shape[1], b.shape[1])
        gradients = []
        for d, x, m, axis, f in zip(
            (multiply_rows(grad, b), multiply_rows(grad.swapaxes(1, 2), a)), xs, masks, axes, factors, strict=True
        ):
            d = _from_matrices(d, x.shape, axis)
            if f is not None:
                d = _through_unit(d, x, axis, f)
            gradients.append(d if m is None or m.ndim <= axis else zero_under_mask(d, m))
        return gradients

    def compute_mask(self, inputs, mask=None):
        if mask is not None:
            self._warn_remaining([np.ndim(x) for x in inputs], [np.ndim(m) if m is not None else 0 for m in mask])

    def compute_mask_shape(self, input_shape, mask_shape):
        if mask_shape is not None:
            self._warn_remaining([len(s) for s in input_shape], [len(m) if m is not None else 0 for m in mask_shape])

    def _warn_remaining(self, ranks, mask_ranks):
        if any(0 < rank <= axis for rank, axis in zip(mask_ranks, self._axes(ranks), strict=True)):
            warn_dropped(
                self,
                "does not sum over the steps, so their mask is lost here. Pass mask= to a later layer by hand, such as "
                "Softmax(axis=1)(scores, mask=mask).",
            )

    def compute_output_shape(self, input_shape):
        first, other = map(tuple, input_shape)
        i, j = self._axes([len(first), len(other)])
        if differ(first[0], other[0]) or differ(first[i], other[j]):
            self._refuse(f"the same B, and axis {i} of the first as long as axis {j} of the second", first, other)
        batch = other[0] if first[0] is None else first[0]
        rest = first[1:i] + first[i + 1 :] + other[1:j] + other[j + 1 :]
        return (batch, *rest) if rest else (batch, 1)

    def mask_role(self):
        return "drops" if self._leaves_steps else "uses, ends"

    def get_config(self):
        return {**super().get_config(), "axes": self.axes, "normalize": self.normalize}


def _as_matrices(x, axis):
    """(B,I,K): axis K last, the others together."""
    x = np.moveaxis(x, axis, -1)
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def _from_matrices(a, shape, axis):
    """What `_as_matrices` was made from."""
    B, *rest = shape
    K = rest.pop(axis - 1)
    return np.ascontiguousarray(np.moveaxis(a.reshape(B, *rest, K), -1, axis))


def _unit_factors(x, axis):
    """1 / length along the axis, at most 1e7, Keras' bound; the sum runs in order, so zeros change no bit."""
    if not x.shape[axis]:
        return np.ones_like(x)
    total = np.add.accumulate(x * x, axis=axis).take([-1], axis)
    with np.errstate(divide="ignore"):
        return np.minimum(1 / np.sqrt(total), x.dtype.type(1e7))


def _through_unit(d, x, axis, factors):
    """The gradient of x from that of u = x f with f = 1 / |x|: f (d - u sum(u d)); f d where f is at its bound."""
    inside = np.sum(d * x * factors, axis=axis, keepdims=True) * (factors < 1e7)
    return factors * (d - x * factors * inside)
