"""The kernels of optimizers against the reference, to the bit."""

import math

import numpy as np
import pytest

import fastmask as fm
from fastmask.kernels.optimizer_names import BLOCK, RULES
from fastmask.ops.optimizer import Update, optimizer_update, square_sum
from fastmask.optimizers import Adam
from fastmask.reference import optimizer as reference
from fastmask.variable import RowsGradient, Variable
from helpers import assert_close

NUMBERS = {
    "sgd": (0.1,),
    "momentum": (0.1, 0.9),
    "nesterov": (0.1, 0.9),
    "rmsprop": (0.1, 0.8, 0.2, 1e-7),
    "rmsprop_momentum": (0.1, 0.8, 0.2, 1e-7, 0.5),
    "rmsprop_centered": (0.1, 0.8, 0.2, 1e-3),
    "rmsprop_centered_momentum": (0.1, 0.8, 0.2, 1e-3, 0.5),
    "adam": (0.01, 0.1, 0.001, 1e-7),
    "amsgrad": (0.01, 0.1, 0.001, 1e-7),
}


def arrays(rule, shape, dtype, seed=0):
    """(w, g, *state); the state is small enough for v - a^2 to be positive."""
    rng = np.random.default_rng(seed)
    w, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    return w, g, *((1 + rng.random(shape) / (i + 1)).astype(dtype) / (1 + i) for i in range(RULES[rule]))


def update(rule, w, g, *state, **options):
    optimizer_update(rule, [Update(w, state, g, **options)], 0.1, NUMBERS[rule])


def test_rules_worked_out_by_hand():
    w, m = np.array([1.0]), np.array([2.0])
    optimizer_update("momentum", [Update(w, (m,), np.array([4.0]))], 0.5, (0.5, 0.25))
    assert (w[0], m[0]) == (-0.5, -1.5)
    w, m, v = np.array([1.0]), np.array([0.0]), np.array([0.0])
    optimizer_update("adam", [Update(w, (m, v), np.array([4.0]))], 0.5, (3.0, 0.5, 0.25, 1.0))
    assert (w[0], m[0], v[0]) == (1 - 3 * 2 / (2 + 1), 2, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES)
def test_bits_of_the_reference(rule, dtype):
    for size in (1, 5, 17, BLOCK, 2 * BLOCK + 9):
        w, g, *state = arrays(rule, size, dtype)
        expected = getattr(reference, rule)(w, g, *state, *NUMBERS[rule])
        update(rule, w, g, *state)
        for got, wanted in zip((w, *state), expected, strict=True):
            assert wanted.dtype == dtype
            np.testing.assert_array_equal(got, wanted)
            assert np.isfinite(got).all()


@pytest.mark.parametrize("rule", RULES)
def test_rows_have_the_bits_of_the_dense_gradient(rule):
    for shape in ((40, 3), (2100, 7), (5, BLOCK + 3), (30,)):
        w, g, *state = arrays(rule, shape, np.float32)
        rows = np.flatnonzero(np.arange(shape[0]) % 3 != 1)
        g[1::3] = 0
        w2, g2, *state2 = (a.copy() for a in (w, g[::3], *state))
        g[2::3] = 0
        update(rule, w, g, *state)
        update(rule, w2, g2, *state2, rows=rows, g_rows=np.where(rows % 3 == 0, rows // 3, -1))
        for a, b, before in zip((w, *state), (w2, *state2), (0, 2, 3, 4), strict=False):
            np.testing.assert_array_equal(a[rows], b[rows])
            original = arrays(rule, shape, np.float32)[before]
            np.testing.assert_array_equal(b[1::3], original[1::3])  # rows that are not listed stay


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_decay_and_clip(dtype):
    w, g = arrays("sgd", 1000, dtype)
    g[3] = np.nan
    shrunk = w - w * np.dtype(dtype).type(0.2) * np.dtype(dtype).type(0.1)
    expected = shrunk - np.clip(g * np.dtype(dtype).type(3), -0.5, 0.5) * np.dtype(dtype).type(0.1)
    optimizer_update("sgd", [Update(w, (), g, 3.0, 0.2)], 0.1, (0.1,), clip=0.5)
    np.testing.assert_array_equal(w, expected)
    assert np.isnan(w[3])


def test_without_decay_infinity_stays():
    w = np.array([np.inf, -np.inf, 1.0])
    optimizer_update("sgd", [Update(w, (), np.ones(3))], 0.1, (0.5,))
    np.testing.assert_array_equal(w, [np.inf, -np.inf, 0.5])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bits_do_not_depend_on_threads_nor_on_other_weights(threads):
    shapes = [(300_001,), (3,), (0, 4), (70, 90)]
    together, alone = ([arrays("adam", s, np.float32, i) for i, s in enumerate(shapes)] for _ in range(2))
    together.append(arrays("adam", (9,), np.float64))
    alone.append(arrays("adam", (9,), np.float64))
    before = fm.get_num_threads()
    try:
        fm.set_num_threads(threads)
        optimizer_update("adam", [Update(w, tuple(s), g) for w, g, *s in together], 0.1, NUMBERS["adam"])
    finally:
        fm.set_num_threads(before)
    for one, other in zip(together, alone, strict=True):
        w, g, *state = other
        for got, wanted in zip((one[0], *one[2:]), reference.adam(w, g, *state, *NUMBERS["adam"]), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_square_sum(dtype):
    for size in (0, 1, 7, 8, BLOCK - 1, 3 * BLOCK + 5):
        g = np.random.default_rng(size).standard_normal(size).astype(dtype)
        assert_close(square_sum(g), np.sum(g.astype(np.float64) ** 2), "float64")
    assert square_sum(np.array([3, 1e30], np.float32)) == pytest.approx(1e60)  # no overflow of float32
    assert math.isnan(square_sum(np.array([1.0, np.nan])))
    assert square_sum(np.ones((4, 6))[:, ::2]) == 12


class HalfAdam(Adam):
    """An optimizer of one's own that builds on one that has a kernel."""

    def update(self, w, g, lr, tmp, **slots):
        g *= 0.5
        super().update(w, g, lr, tmp, **slots)


@pytest.mark.parametrize("options", [{}, {"clipvalue": 0.3}, {"weight_decay": 0.1}, {"clipnorm": 0.5}], ids=str)
def test_a_subclass_may_build_on_the_update_of_its_base(options):
    rng = np.random.default_rng(0)
    g = rng.standard_normal((6, 3))
    rows = RowsGradient(np.array([1, 4]), rng.standard_normal((2, 3)), (6, 3))
    v, w = (Variable(np.ones((6, 3))) for _ in range(2))
    own, plain = HalfAdam(0.1, **options), Adam(0.1, **options)
    half = {"clipvalue": 0.15} if "clipvalue" in options else options
    plain = Adam(0.1, **half) if "clipnorm" not in options else Adam(0.1, clipnorm=0.25)
    for gradient in (g, rows, g):
        own.apply([gradient], [v])
        plain.apply([np.asarray(gradient) / 2], [w])
        assert_close(v.value, w.value)


@pytest.mark.parametrize(
    "rule, change, message",
    [
        ("adagrad", {}, "rule: expected one of sgd, .*received 'adagrad'"),
        ("momentum", {}, "state: expected 1 arrays for momentum, received 0"),
        ("sgd", {"g": np.ones(3)}, r"g: expected 4 contiguous elements of float64, received \(3,\) float64"),
        ("sgd", {"g": np.ones(4, np.float32)}, "g: expected 4 contiguous elements of float64"),
        ("sgd", {"w": np.ones(8)[::2]}, "w: expected 4 contiguous elements"),
        ("sgd", {"rows": np.arange(4)}, r"g_rows: expected int64 of shape \(4,\), received None"),
        ("sgd", {"rows": np.arange(4.0), "g_rows": np.arange(4)}, "rows: expected int64"),
    ],
)
def test_bad_input(rule, change, message):
    with pytest.raises(ValueError, match=message):
        optimizer_update(rule, [Update(**{"w": np.ones(4), "state": (), "g": np.ones(4)} | change)], 0.1, (0.1,))
