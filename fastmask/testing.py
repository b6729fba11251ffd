"""Checks for layers of one's own: gradients against differences, and what they do with masks."""

import warnings

import numpy as np

from fastmask.checks import check_function, check_list, check_positive
from fastmask.layers.base import Layer
from fastmask.layers.masked import mask_of, plain
from fastmask.layers.outgoing import MaskDroppedWarning
from fastmask.layers.symbolic import Input
from fastmask.models.model import Model
from fastmask.ops.mask import check_count, check_numbers
from fastmask.ragged import Ragged

STEP = 5e-4  # of the differences: rounding costs about eps / STEP, the method STEP^4
TOLERANCE = 1e-7  # relative to max(1, |gradient|): far above both, far below any wrong gradient


def numerical_gradient(f, a, indices=None, h=STEP):
    """Gradient of the scalar f() with respect to the float64 array a, which f reads: order-4 central differences.

    Parameters
    ----------
    f : callable
    a : float64 array
        Changed in place while this runs and back to its bits afterwards.
    indices : list of tuples, optional
        The elements wanted; default: all.
    h : float

    Returns
    -------
    array
        Of the shape of a; NaN at elements that were not wanted.
    """
    if getattr(a, "dtype", None) != np.float64:
        raise TypeError(
            f"a: expected float64, which differences need, received {getattr(a, 'dtype', type(a).__name__)}"
        )
    check_function(f, "f")
    h = check_positive(h, "h")
    for index in () if indices is None else check_list(indices, "indices", tuple):
        if len(index) != a.ndim or not all(-n <= i < n for i, n in zip(index, a.shape, strict=True)):
            raise IndexError(f"indices: expected elements of shape {a.shape}, received {index}")
    gradient = np.full(a.shape, np.nan)
    for index in np.ndindex(a.shape) if indices is None else indices:
        old = a[index]
        values = []
        for step in (-2, -1, 1, 2):
            a[index] = old + step * h
            values.append(f())
        a[index] = old
        gradient[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return gradient


def check_layer(layer, inputs, mask=None, *, gradients=True, elements=40, seed=0):
    """Check a layer: its gradients, its mask behaviour, its shapes and its configuration.

    Parameters
    ----------
    layer : Layer
        Best with dtype="float64"; of a float32 one a float64 copy is made from its configuration, with its weights.
    inputs : array, shape tuple, or a list of these for several inputs
        float64 data, or the shape of random data: (3, 5, 4). Small ones: each element that is checked costs four calls.
    mask : array, optional
        For the leading axes of the inputs (of the first of several). Default: one with holes, left padding and a row
        without a valid step for inputs (B,T,...) that are not a layer's without masks.
    gradients : bool
        False for a layer that works for inference only.
    elements : int
        At most that many elements of each array are checked, chosen at random.
    seed : int

    Raises
    ------
    AssertionError
        What is wrong: which gradient at which element, with both values; an output that changes with garbage under the
        mask; a mask that is lost or does not fit its output; a shape or configuration that is not what it says.

    Notes
    -----
    What is checked: (1) `backward` against order-4 differences for all inputs and trained weights, with and without a
    mask; (2) with NaN under the mask outputs at valid steps and all gradients are those without it, to the bit; (3) the
    mask goes on and fits the outputs, or is used up without a MaskDroppedWarning; (4) the layer in a `Model` gives the
    bits and the shapes of the layer by hand; (5) `from_config(get_config())` is the same function.

    Examples
    --------
    >>> from fastmask.layers import Dense
    >>> check_layer(Dense(3, activation="tanh"), (2, 4, 5))
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: expected a layer, received {type(layer).__name__}")
    elements, rng = check_count(elements, "elements"), np.random.default_rng(check_count(seed, "seed"))
    inputs = [_as_data(x, rng) for x in inputs] if isinstance(inputs, list) else _as_data(inputs, rng)
    first = inputs[0] if isinstance(inputs, list) else inputs
    masked = layer.supports_masking or layer._takes_mask
    if mask is None and masked and first.ndim > 2:
        mask = _some_mask(*first.shape[:2], rng)
    masks = None if mask is None else [np.asarray(mask, bool)] + [None] * (len(inputs) - 1)
    if masks is not None and not isinstance(inputs, list):
        masks = masks[0]
    layer = _double(layer, inputs)

    if masks is not None:
        _check_mask_goes_on(layer, inputs, masks)
    for m in (None,) if masks is None else (None, masks):
        if gradients:
            _check_gradients(layer, inputs, m, elements, rng)
        _check_in_a_model(layer, inputs, m)
    if masks is not None:
        _check_garbage(layer, inputs, masks, first, gradients)
    _check_configuration(layer, inputs)


def _as_data(x, rng):
    if isinstance(x, tuple):
        for n in x:
            check_count(n, "inputs")
        return rng.standard_normal(x)
    x = np.array(check_numbers(x, "inputs"))
    if not x.ndim:
        raise ValueError("inputs: expected an array with rows or a shape, received a single number")
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def _some_mask(B, T, rng):
    mask = rng.random((B, T)) < 0.6
    mask[:1] = np.arange(T) >= T // 2  # left padding
    mask[1:2] = False
    return mask


def _double(layer, inputs):
    """The layer in float64."""
    if layer.dtype == "float64":
        layer(inputs)
        return layer
    layer(inputs)
    try:
        double = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
        double(inputs)
        double.set_weights(layer.get_weights())
    except (TypeError, ValueError) as error:
        double, cause = layer, error
    else:
        cause = None
    if any(v.dtype != np.float64 for v in double.weights) or double.dtype != "float64":
        raise AssertionError(
            f"{layer.name}: expected get_config and __init__ to pass on dtype, so that a float64 copy can be made; or "
            "give the layer, and those inside it, dtype='float64'"
        ) from cause
    return double


def _listed(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _values(y):
    return y.values if isinstance(y, Ragged) else np.asarray(plain(y))


def _call(layer, inputs, mask, training=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskDroppedWarning)
        return layer(inputs, mask=mask, training=training)


def _gradients(layer, inputs, mask, directions):
    """(gradients of the inputs, gradients of the trained weights) of sum(outputs * directions)."""
    outputs = _call(layer, inputs, mask, training=True)
    d = directions if isinstance(outputs, (list, tuple)) else directions[0]
    d_inputs = layer.backward(d)
    return _listed(d_inputs), layer.gradients if layer.trainable_weights else []


def _directions(layer, inputs, mask, rng):
    """A gradient for each output; none where an output stands under the mask, as it may be anything there."""
    directions = []
    for y in _listed(_call(layer, inputs, mask)):
        d = rng.standard_normal(np.shape(y))
        m = mask_of(y)
        if m is not None:
            d[~m] = 0
        directions.append(d)
    return directions


def _check_gradients(layer, inputs, mask, elements, rng):
    directions = _directions(layer, inputs, mask, rng)

    def total():
        return sum(
            float(np.sum(d * np.where(d == 0, 0, _values(y))))
            for d, y in zip(directions, _listed(_call(layer, inputs, mask)), strict=True)
        )

    d_inputs, d_weights = _gradients(layer, inputs, mask, directions)
    under = "" if mask is None else " under a mask"
    for i, (x, dx) in enumerate(zip(_listed(inputs), d_inputs, strict=True)):
        if x.dtype.kind == "f" and dx is not None:
            _compare(f"{layer.name}: the gradient of input {i}{under}", total, x, dx, elements, rng)
    for weight, gradient in zip(layer.trainable_weights, d_weights, strict=True):
        value = weight.numpy()

        def changed(weight=weight, value=value):
            weight.assign(value)
            return total()

        _compare(f"{layer.name}: the gradient of {weight.name}{under}", changed, value, gradient, elements, rng)
        weight.assign(value)


def _compare(what, f, a, gradient, elements, rng):
    gradient = np.asarray(gradient)
    assert gradient.shape == a.shape, f"{what}: expected shape {a.shape}, received {gradient.shape}"
    chosen = np.sort(rng.permutation(a.size)[:elements])
    indices = [tuple(int(i) for i in np.unravel_index(k, a.shape)) for k in chosen]
    expected = numerical_gradient(f, a, indices)
    for index in indices:
        e, g = expected[index], gradient[index]
        assert abs(e - g) <= TOLERANCE * max(1.0, abs(e)), f"{what} at {index}: expected {e:.12g}, received {g:.12g}"


def _check_in_a_model(layer, inputs, mask):
    several = isinstance(inputs, list)
    tensors = [Input(x.shape[1:], dtype=x.dtype.name) for x in _listed(inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskDroppedWarning)
        symbolic = layer(tensors if several else tensors[0])
    model = Model(tensors if several else tensors[0], symbolic)
    layer._nodes.pop()
    by_hand, modelled = _listed(_call(layer, inputs, mask)), _listed(_call(model, inputs, mask))
    for s, a, b in zip(_listed(symbolic), by_hand, modelled, strict=True):
        fits = len(s.shape) == np.ndim(a) and all(n in (None, m) for n, m in zip(s.shape, np.shape(a), strict=True))
        assert fits, f"{layer.name}: compute_output_shape: expected {np.shape(a)}, received {s.shape}"
        assert np.array_equal(_values(a), _values(b), equal_nan=True), (
            f"{layer.name}: expected the same in a model as by hand (is something kept from call to call?)"
        )


def _check_garbage(layer, inputs, masks, first, gradients):
    mask = masks[0] if isinstance(masks, list) else masks
    spoiled = np.array(first)
    spoiled[~mask] = np.nan
    others = [spoiled, *inputs[1:]] if isinstance(inputs, list) else spoiled
    clean, dirty = _listed(_call(layer, inputs, masks)), _listed(_call(layer, others, masks))
    for y, z in zip(clean, dirty, strict=True):
        valid = slice(None) if mask_of(y) is None else mask_of(y)
        assert np.array_equal(_values(y)[valid], _values(z)[valid]), (
            f"{layer.name}: expected outputs at valid steps that do not change with NaN under the mask"
        )
    if not gradients:
        return
    directions = _directions(layer, inputs, masks, np.random.default_rng(0))
    clean, dirty = (_gradients(layer, x, masks, directions) for x in (inputs, others))
    for these, those in zip(clean, dirty, strict=True):
        for a, b in zip(these, those, strict=True):
            assert a is None or np.array_equal(np.asarray(a), np.asarray(b)), (
                f"{layer.name}: expected gradients that do not change with NaN under the mask"
            )


def _check_mask_goes_on(layer, inputs, masks):
    with warnings.catch_warnings():
        warnings.simplefilter("error", MaskDroppedWarning)
        try:
            layer(inputs, mask=masks)
        except MaskDroppedWarning as dropped:
            raise AssertionError(f"{layer.name}: expected a mask that goes on or is used up: {dropped}") from dropped


def _check_configuration(layer, inputs):
    again = type(layer).from_config(layer.get_config())
    again(inputs)
    again.set_weights(layer.get_weights())
    for a, b in zip(_listed(_call(layer, inputs, None)), _listed(_call(again, inputs, None)), strict=True):
        assert np.array_equal(_values(a), _values(b), equal_nan=True), (
            f"{layer.name}: expected the same function from from_config(get_config()): an argument is missing there"
        )
