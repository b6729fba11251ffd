"""Vector exp, tanh and sigmoid: at most 4 ulp off for EVERY float32 whose exact result is a normal number.

NaN in, NaN out, no NaN otherwise. All 2^32 inputs go through the array kernels. Where the exact result is known to be a
constant or x itself it is compared with that; elsewhere with NumPy in float64, whose own error is far below an ulp.
"""

import numpy as np
import pytest

from fastmask.ops.activation import activation_backward, activation_forward

CHUNK = 1 << 20  # inputs at a time: they stay in the cache
ALLOWED = 4  # ulp


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


FUNCTIONS = {"exponential": np.exp, "tanh": np.tanh, "sigmoid": sigmoid}


def bits_of(x):
    return int(np.float32(x).view(np.uint32))


def float32_values(first, last):
    """All float32 with bit patterns first <= i < last, CHUNK at a time; the array is used again."""
    counting, bits = np.arange(CHUNK, dtype=np.uint32), np.empty(CHUNK, np.uint32)
    for start in range(first, last, CHUNK):
        n = min(CHUNK, last - start)
        yield np.add(counting[:n], np.uint32(start), out=bits[:n]).view(np.float32)


def both_signs(low, high):
    """All float32 with low <= |x| < high."""
    for sign in (0, 1 << 31):
        yield from float32_values(sign + bits_of(low), sign + bits_of(high))


def ulps(y, exact):
    """|y - exact| in ulp of the float32 nearest to exact, which is normal."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.abs(y.astype(np.float64) - exact) / spacing


def assert_accurate(x, name):
    """The kernel's values at x against NumPy's in float64; every exact result must be normal in float32."""
    y, exact = activation_forward(x, name), FUNCTIONS[name](x.astype(np.float64))
    # patterns of neighbours differ by 1: three apart is at most 3.5 ulp. What is further away is looked at closely.
    apart = y.view(np.int32) - exact.astype(np.float32).view(np.int32)
    far = np.flatnonzero((apart < 1 - ALLOWED) | (apart > ALLOWED - 1))
    if far.size:
        error = ulps(y[far], exact[far])
        worst = np.argmax(np.where(np.isnan(error), np.inf, error))
        i, found = far[worst], error[worst]
        assert found <= ALLOWED, f"{name}({x[i]!r}) is {y[i]!r}, exactly {exact[i]!r}: {found:.3g} ulp off"


def assert_within(x, name, low, high):
    """Every value of the kernel at x lies in [low, high]; a NaN does not."""
    y = activation_forward(x, name)
    smallest, largest = y.min(), y.max()  # NaN if there is one
    assert low <= smallest and largest <= high, f"{name} of {x[0]!r} to {x[-1]!r}: {smallest!r} to {largest!r}"


def around(value, ulp):
    """The interval of +-ulp spacings around a float32."""
    spacing = np.spacing(np.float32(value)) / (2 if value in (0.5, 1.0) else 1)  # the smaller one, below a power of two
    return value - ulp * spacing, value + ulp * spacing


def test_every_nan():
    for sign in (0, 1 << 31):
        for x in float32_values(sign + bits_of(np.inf) + 1, sign + (1 << 31)):
            assert np.isnan(x).all()
            for name in FUNCTIONS:
                assert np.isnan(activation_forward(x, name)).all()


# e^x is a normal number from EXP_LOW to EXP_HIGH, and 1 +- half an ulp for |x| < 2^-25.
EXP_LOW, EXP_HIGH = np.float32(-87.33654), np.float32(88.72283)
TINY, HUGE = np.finfo(np.float32).tiny, np.finfo(np.float32).max


def test_where_exp_is_normal():
    below, above = np.nextafter([EXP_LOW, EXP_HIGH], np.float32([-np.inf, np.inf]))
    assert np.exp(np.float64(below)) < TINY <= np.exp(np.float64(EXP_LOW))
    assert np.exp(np.float64(EXP_HIGH)) <= HUGE < np.exp(np.float64(above))


def test_exp_of_every_float32():
    for x in both_signs(0.0, 2.0**-25):
        assert_within(x, "exponential", *around(1.0, ALLOWED - 0.5))
    for x in float32_values(bits_of(2.0**-25), bits_of(EXP_HIGH) + 1):
        assert_accurate(x, "exponential")
    for x in float32_values(bits_of(EXP_HIGH) + 1, bits_of(np.inf) + 1):
        assert_within(x, "exponential", HUGE, np.inf)
    for x in float32_values(bits_of(-(2.0**-25)), bits_of(EXP_LOW) + 1):
        assert_accurate(x, "exponential")
    for x in float32_values(bits_of(EXP_LOW) + 1, bits_of(-np.inf) + 1):
        assert_within(x, "exponential", 0.0, TINY)


def test_tanh_of_every_float32():
    # denormals may be taken for 0
    for x in both_signs(0.0, TINY):
        y = activation_forward(x, "tanh")
        assert not np.isnan(y.max()) and (np.abs(y) <= np.abs(x)).all()
    # tanh x = x - x^3/3 + …: below 2^-13 that is x to 0.1 ulp
    for x in both_signs(TINY, 2.0**-13):
        apart = activation_forward(x, "tanh").view(np.int32) - x.view(np.int32)
        assert np.abs(apart).max() < ALLOWED, f"tanh from {x[0]!r} to {x[-1]!r}"
    for x in both_signs(2.0**-13, 16.0):
        assert_accurate(x, "tanh")
    for first, value in ((bits_of(16.0), 1.0), (bits_of(-16.0), -1.0)):
        for x in float32_values(first, bits_of(value * np.inf) + 1):
            assert_within(x, "tanh", value, value)


def test_sigmoid_of_every_float32():
    for x in both_signs(0.0, 2.0**-25):
        assert_within(x, "sigmoid", *around(0.5, ALLOWED - 0.5))
    for x in float32_values(bits_of(2.0**-25), bits_of(32.0)):
        assert_accurate(x, "sigmoid")
    for x in float32_values(bits_of(32.0), bits_of(np.inf) + 1):
        assert_within(x, "sigmoid", 1.0, 1.0)
    for x in float32_values(bits_of(-(2.0**-25)), bits_of(EXP_LOW) + 1):
        assert_accurate(x, "sigmoid")
    for x in float32_values(bits_of(EXP_LOW) + 1, bits_of(-np.inf) + 1):
        assert_within(x, "sigmoid", 0.0, TINY)


def samples(low, high, n=200_000):
    """float64 values of both signs: evenly, and evenly in their exponents down to 1e-300."""
    rng = np.random.default_rng(0)
    tiny = 10.0 ** rng.uniform(-300, np.log10(high), n)
    x = np.concatenate([rng.uniform(low, high, n), tiny, -tiny])
    return x[(x >= low) & (x <= high)]


@pytest.mark.parametrize("name, low, high", [("exponential", -708, 709.7), ("tanh", -30, 30), ("sigmoid", -708, 60)])
def test_float64_samples(name, low, high):
    """Measured over two million: exp 1.0, tanh 2.6, sigmoid 2.3 ulp; in float32 1.1, 2.5 and 2.2."""
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("NumPy's longdouble is no wider than float64 here: nothing to compare with")
    x = samples(low, high)
    y, exact = activation_forward(x, name), FUNCTIONS[name](x.astype(np.longdouble))
    error = np.abs((y.astype(np.longdouble) - exact) / np.spacing(np.abs(exact).astype(np.float64)))
    assert error.max() <= ALLOWED, f"{name}({x[np.argmax(error)]!r}): {error.max():.3g} ulp"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_extremes(name):
    ends = {"exponential": (0.0, np.inf), "tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}[name]
    zero = FUNCTIONS[name](0.0)
    x = np.array([-np.inf, -1.7e308, -1e4, -0.0, 0.0, 5e-324, 1e4, 1.7e308, np.inf, np.nan, -np.nan])
    expected = [*3 * [ends[0]], *3 * [zero], *3 * [ends[1]], np.nan, np.nan]
    np.testing.assert_array_equal(activation_forward(x, name), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_odd_and_keeps_the_sign_of_zero(dtype):
    x = np.array([*samples(-30, 30, 1000), 0.0], dtype)
    assert activation_forward(-x, "tanh").tobytes() == (-activation_forward(x, "tanh")).tobytes()
    assert np.signbit(activation_forward(np.array([-0.0], dtype), "tanh"))[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_lanes_do_not_matter(name, dtype):
    """An element's bits depend neither on its place in a vector nor on how full that is."""
    x = np.concatenate([samples(-20, 20, 40), [np.nan, np.inf, -np.inf, 0.0]]).astype(dtype)
    whole = activation_forward(x, name)
    dy = np.ones_like(x)
    slopes = activation_backward(x, whole, dy, name)
    for shift in range(17):
        for n in (1, 2, 3, 7, 15, 16, 17, 31):
            part = slice(shift, shift + n)
            y = activation_forward(x[part].copy(), name)
            assert y.tobytes() == whole[part].tobytes()
            assert activation_backward(x[part].copy(), y, dy[part].copy(), name).tobytes() == slopes[part].tobytes()
