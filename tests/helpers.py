"""Tolerances, numerical gradients and the masks every masked function is tried with: in one place."""

import doctest

import numpy as np

from fastmask.ragged import Ragged
from fastmask.testing import numerical_gradient


def assert_close(actual, desired, dtype=np.float64, k=64, atol=0.0):
    """Elementwise |actual - desired| <= atol + k eps(dtype) max(1, |desired|); NaN and inf must agree.

    dtype is that of the computation which made `actual`; k says how many roundings it may be off by.
    """
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape, f"shape {actual.shape}, expected {desired.shape}"
    with np.errstate(invalid="ignore"):
        actual, desired = actual.astype(np.float64), desired.astype(np.float64)
        finite = np.isfinite(desired)
        np.testing.assert_array_equal(actual[~finite], desired[~finite])
        error = np.abs(actual[finite] - desired[finite])
    eps = float(np.finfo(dtype).eps)
    scale = np.maximum(1.0, np.abs(desired[finite]))
    bad = ~(error <= atol + k * eps * scale)  # the negation catches NaN in actual
    if bad.any():
        worst = np.argmax(np.where(np.isnan(error), np.inf, error / scale))
        where = tuple(int(axis[worst]) for axis in np.nonzero(finite))
        raise AssertionError(
            f"{bad.sum()} of {error.size} values off; worst at {where}: "
            f"{float(actual[where])!r}, expected {float(desired[where])!r}, "
            f"{error[worst] / scale[worst] / eps:.3g} eps where k = {k} and atol = {atol} are allowed"
        )


def assert_gradient(f, a, gradient, k=2**16):
    """gradient is the derivative of the scalar f() with respect to a, which f reads.

    k: of values near 1, differences with h = 5e-4 are off by about eps/h = 2000 eps from rounding and by h^4 f^(5)/30 =
    10 eps f^(5); the largest error measured in test_reference.py is 24 000 eps. 2^16 eps is 1.5e-11, far below any
    wrong gradient.
    """
    assert np.shape(gradient) == a.shape, f"shape {np.shape(gradient)}, expected {a.shape}"
    assert_close(gradient, numerical_gradient(f, a), np.float64, k=k)


def assert_layer_gradients(layer, inputs, before=lambda: None, **call):
    """Backward of a float64 layer against differences: every input, one or a list of arrays and Ragged, every weight.

    An input that gets None must change nothing. before: makes random choices the same again.
    """

    def values(x):
        return x.values if isinstance(x, Ragged) else np.asarray(x)

    def outputs():
        before()
        return layer(inputs, training=True, **call)

    y = outputs()
    d = np.random.default_rng(7).standard_normal(values(y).shape)
    d_inputs = layer.backward(y.with_values(d) if isinstance(y, Ragged) else d)
    gradients = layer.gradients if layer.weights else []

    def total():
        return np.sum(values(outputs()) * d)

    pairs = zip(inputs, d_inputs, strict=True) if isinstance(inputs, list) else [(inputs, d_inputs)]
    for x, dx in pairs:
        assert_gradient(total, values(x), np.zeros_like(values(x)) if dx is None else values(dx))
    for weight, gradient in zip(layer.weights, gradients, strict=True):
        value = weight.numpy()

        def changed(weight=weight, value=value):
            weight.assign(value)
            return total()

        assert_gradient(changed, value, gradient)
        weight.assign(value)


def assert_derivative(value, arrays, gradients, seed, k=2**17):
    """The gradients give the derivative of value() in a random direction of all arrays: differences of order 4.

    Of four steps the one that fits best counts: the rounding of large numbers wants a long one, a large fifth
    derivative a short one, a second derivative that jumps nearby (softsign's does, at 0) a very short one. A wrong
    gradient fits none.
    """
    rng = np.random.default_rng(seed)
    directions = [rng.standard_normal(a.shape) for a in arrays]
    length = np.sqrt(sum(np.sum(d * d) for d in directions)) or 1.0
    starts = [a.copy() for a in arrays]

    def at(step):
        for a, start, d in zip(arrays, starts, directions, strict=True):
            a[...] = start + step / length * d
        return value()

    derivative = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True)) / length
    errors = []
    for h in (1e-3, 2.5e-4, 6e-5, 1.5e-5):
        values = [at(step * h) for step in (-2, -1, 1, 2)]
        errors.append(abs(derivative - (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)))
    allowed = k * float(np.finfo(float).eps) * max(1.0, abs(derivative), abs(at(0.0)))
    assert min(errors) <= allowed, f"{derivative} in this direction is off by {min(errors)}, {allowed} is allowed"


def mask_cases(B, T, seed=0):
    """Name -> mask (B,T): every pattern that has its own way to go wrong."""
    rng = np.random.default_rng(seed)
    t = np.arange(T)
    lengths = rng.integers(0, T + 1, (B, 1))
    lengths[:1] = T  # one full row, and one empty row if there are two
    lengths[1:2] = 0
    holes = rng.random((B, T)) < 0.5
    first_masked = holes.copy()
    first_masked[:, :1] = False
    empty_rows = holes.copy()
    empty_rows[::2] = False
    return {
        "none": np.ones((B, T), dtype=bool),
        "right": t < lengths,
        "left": t >= T - lengths,
        "holes": holes,
        "first_masked": first_masked,
        "empty_rows": empty_rows,
        "all_masked": np.zeros((B, T), dtype=bool),
    }


def assert_doctests(module):
    """Every example in the module's docstrings runs and prints what it says; there is at least one."""
    result = doctest.testmod(module)
    assert result.attempted > 0, f"{module.__name__} has no example"
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {module.__name__} failed: see above"
