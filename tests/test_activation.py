"""The activation op: every name's values and derivatives against the reference, softmax, extremes, errors."""

import math

import numpy as np
import pytest

from cases import DTYPES, assert_same_bits, awkward
from fastmask.kernels.activation_names import ALIASES, CODES
from fastmask.kernels.activation_names import NAMES as ELEMENTWISE
from fastmask.ops.activation import NAMES, activation_backward, activation_forward
from fastmask.reference import activation as reference
from helpers import assert_close, assert_gradient

ROWS = ("softmax", "log_softmax")
KINKS = [0.0, 0.5, 1.0, 2.5, 3.0, 6.0]


def points(dtype):
    """Evenly over [-20, 20], closely around 0, and every kink with its neighbours (of 0: the smallest normals)."""
    kinks = np.array([*KINKS, *(-k for k in KINKS)], dtype)
    beside = [np.nextafter(kinks[kinks != 0], dtype(side)) for side in (-np.inf, np.inf)]
    near = np.array([*np.logspace(-30, 0, 301), np.finfo(dtype).tiny]).astype(dtype)
    return np.concatenate([np.linspace(-20, 20, 4001).astype(dtype), near, -near, kinks, *beside])


def test_names():
    """Every activation that the reference knows; aliases mean the same."""
    assert set(NAMES) == {n for n in CODES if n is not None} | set(ROWS)
    known = {ALIASES.get(n, n) for n in reference.ELEMENTWISE}
    # Keras' threshold has no defaults: it cannot be asked for by name
    assert set(ELEMENTWISE) <= known and known - set(ELEMENTWISE) <= {"threshold"}
    x = points(np.float64)
    for alias, name in ALIASES.items():
        assert_same_bits(activation_forward(x, alias), activation_forward(x, name), str(alias))


# Roundings that values and slopes may be off by, relative to max(1, |exact|). Measured: values 1.8 (squareplus 5.6);
# slopes 2.5 but for silu and mish, which need x (1 - s) where s is nearly 1: 34 at x = 17.
VALUE, SLOPE = 8, 64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_and_slopes(name, dtype):
    x = points(dtype)
    exact = x.astype(np.float64)
    y = activation_forward(x, name)
    assert y.dtype == dtype
    assert_close(y, reference.activation_forward(exact, name), dtype, k=VALUE)
    dy = np.random.default_rng(0).uniform(-1, 1, x.shape).astype(dtype)
    dx = activation_backward(x, y, dy, name)
    assert dx.dtype == dtype
    slopes = reference.activation_grad(name, exact)
    assert_close(dx, dy.astype(np.float64) * slopes, dtype, k=SLOPE)


# Relative errors in eps down to the smallest normal values, of smooth functions whose tails go to 0 (gelu: while its
# normal distribution function is a normal float32). Measured: 2.3; gelu 149, as e^(-x^2/2) multiplies errors of x^2.
TAILS = {"softplus": 4, "silu": 4, "elu": 4, "log_sigmoid": 4, "softsign": 4, "mish": 4, "gelu": 256}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TAILS)
def test_tails(name, dtype):
    x = np.concatenate([np.linspace(-80, -1e-3, 3001), -np.logspace(-30, -3, 301)]).astype(dtype)
    if name == "gelu":
        x = x[x > -12.5]
    exact = gelu(x) if name == "gelu" else reference.activation_forward(x.astype(np.longdouble), name)
    y = activation_forward(x, name)
    normal = np.abs(exact) >= 2 * np.finfo(dtype).tiny
    error = np.abs(y - exact)[normal] / np.abs(exact[normal]) / np.finfo(dtype).eps
    i = np.argmax(error)
    assert error[i] <= TAILS[name], f"{name}({x[normal][i]!r}): {y[normal][i]!r}, expected {exact[normal][i]!r}"


def gelu(x):
    """Through erfc: the reference's 1 + erf has no digits left in the tail."""
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64).tolist()])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slopes_by_differences(name):
    x = np.random.default_rng(3).uniform(-8, 8, 300)
    x = x[np.abs(np.abs(x)[:, None] - KINKS).min(axis=1) > 0.01]
    dy = np.random.default_rng(4).standard_normal(x.shape)
    h = 1e-3
    f = [activation_forward(x + k * h, name) for k in (-2, -1, 1, 2)]
    slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    assert_close(activation_backward(x, activation_forward(x, name), dy, name), dy * slope, k=2**16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*ELEMENTWISE, *ROWS])
def test_extremes(name, dtype):
    x = np.full(40, np.nan, dtype)
    assert np.isnan(activation_forward(x, name)).all(), "NaN in, NaN out"
    large = np.array([-1e4, -50.0, 50.0, 50.0 if name == "exponential" else 1e4], dtype)
    y = activation_forward(large, name)
    assert np.isfinite(y).all()
    assert np.isfinite(activation_backward(large, y, np.ones_like(y), name)).all()
    exact = reference.activation_forward(large.astype(np.float64), name)
    assert_close(y, exact, dtype, k=VALUE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_infinities(name, dtype):
    """The limit where there is one; inf * 0 is NaN in Keras too."""
    with np.errstate(all="ignore"):
        x = np.array([-np.inf, np.inf], dtype)
        y, expected = activation_forward(x, name), reference.activation_forward(x.astype(np.float64), name)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(y[known], expected[known].astype(dtype))


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ROWS])
def test_shapes_and_layouts(name):
    rng = np.random.default_rng(1)
    for shape in [(1,), (17,), (3, 5), (2, 3, 4), (0,), (0, 3), (3, 0), (2, 0, 3), (20_000,), (3, 17_000)]:
        x, dy = rng.standard_normal((2, *shape))
        y = activation_forward(x, name)
        assert y.shape == shape and y is not x
        dx = activation_backward(x, y, dy, name)
        assert dx.shape == shape
        if x.size < 100:
            assert_same_bits(activation_forward(awkward(x), name), y)
            assert_same_bits(activation_forward(x.tolist() if x.size else x, name), y)
            assert_same_bits(activation_backward(awkward(x), awkward(y), awkward(dy), name), dx)
        elif name in ELEMENTWISE:  # blocks of a large array
            assert_same_bits(y.ravel()[-100:], activation_forward(x.ravel()[-100:], name))
            assert_same_bits(dx.ravel()[-100:], activation_backward(*(a.ravel()[-100:] for a in (x, y, dy)), name))
    if name in ELEMENTWISE:
        assert activation_forward(np.float64(0.7), name).shape == ()


@pytest.mark.parametrize("name", ["linear", "tanh", "sigmoid", *ROWS])
def test_x_is_not_needed(name):
    x, dy = np.random.default_rng(2).standard_normal((2, 4, 9))
    y = activation_forward(x, name)
    assert_same_bits(activation_backward(None, y, dy, name), activation_backward(x, y, dy, name))


# ---- softmax --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 9, 16, 17, 33, 100])
@pytest.mark.parametrize("name", ROWS)
def test_softmax(name, size, dtype):
    """Measured: at most 3.4 roundings, gradients 3.9, of the largest value."""
    rng = np.random.default_rng(size)
    for scale in (1, 30, 1e4):
        x, dy = rng.standard_normal((2, 5, 3, size)).astype(dtype)
        x *= dtype(scale)
        y = activation_forward(x, name)
        exact = reference.activation_forward(x.astype(np.float64), name)
        assert_close(y, exact, dtype, k=16)
        dx = activation_backward(x, y, dy, name)
        expected = reference.activation_backward(x.astype(np.float64), exact, dy.astype(np.float64), name)
        # of log_softmax's gradient e^y is a factor: y = -1e4 is off by 1e4 eps, but then e^y is 0
        assert_close(dx, expected, dtype, k=16 * max(1.0, np.abs(dy).sum(axis=-1).max()))
    if name == "softmax":
        assert_close(y.sum(axis=-1), np.ones((5, 3)), dtype, k=size)


@pytest.mark.parametrize("name", ROWS)
def test_softmax_by_differences(name):
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 4))
    dx = activation_backward(x, activation_forward(x, name), dy, name)
    assert_gradient(lambda: np.sum(activation_forward(x, name) * dy), x, dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_softmax_rows(name, dtype):
    """A row's bits depend on no other row; a NaN fills its row and no other."""
    x = np.random.default_rng(0).standard_normal((7, 19)).astype(dtype)
    whole = activation_forward(x, name)
    for i in range(7):
        assert_same_bits(activation_forward(x[i], name), whole[i])
    for j in (0, 7, 18):
        dirty = x.copy()
        dirty[3, j] = np.nan
        y = activation_forward(dirty, name)
        assert np.isnan(y[3]).all()
        assert_same_bits(np.delete(y, 3, axis=0), np.delete(whole, 3, axis=0))
        large = x.copy()
        large[3, j] = 300.0
        assert activation_forward(large, name)[3, j] == (1.0 if name == "softmax" else 0.0)


def test_softmax_by_hand():
    x = np.array([[0.0, np.log(3.0)], [1e4, -1e4]])
    assert_close(activation_forward(x, "softmax"), [[0.25, 0.75], [1.0, 0.0]], k=4)
    assert_close(activation_forward(x, "log_softmax"), [[np.log(0.25), np.log(0.75)], [0.0, -2e4]], k=4)


# ---- errors ---------------------------------------------------------------------------------------------------------
def test_errors():
    x = np.zeros((2, 3))
    for name in ("tanhh", "", 3, ["tanh"]):
        for call in (lambda n=name: activation_forward(x, n), lambda n=name: activation_backward(x, x, x, n)):
            with pytest.raises(ValueError, match="^name: expected one of linear, tanh, .*, received "):
                call()
    for bad, dtype in ((x.astype(int), "int64"), (x.astype(object), "object"), (x.astype(np.float16), "float16")):
        with pytest.raises(TypeError, match=f"^x: expected dtype float32 or float64, received {dtype}$"):
            activation_forward(bad, "tanh")
    for name in ROWS:
        with pytest.raises(ValueError, match=f"^x: expected rank at least 1 for {name}, received a scalar$"):
            activation_forward(np.float64(1), name)
    with pytest.raises(ValueError, match=r"^dy: expected shape \(2, 3\), received \(3, 2\)$"):
        activation_backward(x, x, x.T, "relu")
    with pytest.raises(ValueError, match=r"^x: expected shape \(2, 3\), received \(3, 2\)$"):
        activation_backward(x.T, x, x, "relu")
    with pytest.raises(TypeError, match="^dy: expected dtype float64 .*, received float32$"):
        activation_backward(x, x, x.astype(np.float32), "relu")
