"""The dense op: forward and backward against the reference, every activation, bits of a row, packs, errors."""

import inspect

import numpy as np
import pytest

import fastmask.ops.gemm as gemm
from cases import DTYPES, assert_same_bits, awkward, launched, launches
from fastmask.kernels.activation_names import NAMES as ELEMENTWISE
from fastmask.ops.gemm import dense, dense_backward, dense_forward, dense_pack
from fastmask.ragged import Ragged
from fastmask.reference import gemm as reference
from helpers import assert_close, assert_doctests, assert_gradient

# (shape of x without F, F, K): off the lane grid, ones, more rows than a block, more than a gradient takes at a time
SIZES = [
    ((1,), 1, 1),
    ((), 3, 4),
    ((7,), 5, 1),
    ((6,), 1, 17),
    ((5, 3), 17, 15),
    ((2, 3, 4), 33, 16),
    ((49,), 64, 70),
    ((97,), 3, 33),
    ((13, 41), 9, 5),
    ((4,), 300, 130),
    ((3, 5), 70, 64),
]
EMPTY = [((0,), 3, 4), ((2, 0), 3, 4), ((0, 5), 1, 1)]
K = 24  # eps of the largest value; measured: values 11.6 (sums of 300), gradients 8.3


class Problem:
    def __init__(self, shape=(5, 3), F=17, K=15, dtype=np.float64, seed=0):
        rng = np.random.default_rng([seed, F, K, *shape])
        self.x, self.dy = (rng.standard_normal((*shape, n)).astype(dtype) for n in (F, K))
        self.kernel = (rng.standard_normal((F, K)) / np.sqrt(F)).astype(dtype)
        self.bias = rng.standard_normal(K).astype(dtype)

    def train(self, x=None, dy=None, use_bias=True, need_x=True, from_logits=False, **options):
        """Name -> array of forward and backward."""
        x, dy = self.x if x is None else x, self.dy if dy is None else dy
        y, tape = dense_forward(x, self.kernel, self.bias if use_bias else None, **options)
        if type(y) is Ragged:
            dy = y.with_values(dy)
        gradients = dense_backward(tape, dy, need_x=need_x, from_logits=from_logits)
        return {"y": y, **gradients._asdict()}

    def reference(self, use_bias=True, from_logits=False, **options):
        x, kernel, bias, dy = (a.astype(np.float64) for a in (self.x, self.kernel, self.bias, self.dy))
        y, tape = reference.dense_forward(x, kernel, bias if use_bias else None, **options)
        return {"y": y, **reference.dense_backward(tape, dy, from_logits=from_logits)._asdict()}

    def check(self, **options):
        """Against the reference; no argument changes."""
        dtype = self.x.dtype
        before = [a.tobytes() for a in (self.x, self.kernel, self.bias, self.dy)]
        actual, desired = self.train(**options), self.reference(**options)
        for name, d in desired.items():
            a = actual[name]
            if d is None:
                assert a is None
                continue
            assert a.dtype == dtype
            assert_close(a, d, dtype, k=0, atol=K * np.finfo(dtype).eps * np.abs(d).max(initial=1.0))
        assert before == [a.tobytes() for a in (self.x, self.kernel, self.bias, self.dy)]
        return actual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_sizes(size, dtype):
    problem = Problem(*size, dtype=dtype)
    for activation in (None, "tanh", "softmax"):
        problem.check(activation=activation)
    assert problem.check(use_bias=False)["bias"] is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [None, *ELEMENTWISE, "softmax", "log_softmax"])
def test_activations(name, dtype):
    problem = Problem(dtype=dtype)
    found = problem.check(activation=name)
    assert_same_bits(found["y"], dense(problem.x, problem.kernel, problem.bias, activation=name), "dense")
    problem.check(activation=name, from_logits=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", EMPTY)
def test_no_rows(size, dtype):
    for activation in (None, "relu", "softmax", "log_softmax"):
        found = Problem(*size, dtype=dtype).check(activation=activation)
        assert not found["kernel"].any() and not found["bias"].any()


@pytest.mark.parametrize("activation", [None, "gelu", "softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_gradients_by_differences(shape, activation):
    problem = Problem(shape, 5, 3)
    found = problem.train(activation=activation)

    def value():
        return np.sum(dense(problem.x, problem.kernel, problem.bias, activation=activation) * problem.dy)

    for name in ("x", "kernel", "bias"):
        assert_gradient(value, getattr(problem, name), found[name])


def test_by_hand():
    x, kernel, bias = np.array([[1.0, 2.0]]), np.array([[3.0, -4.0], [5.0, 1.0]]), np.array([1.0, 1.0])
    y, tape = dense_forward(x, kernel, bias, activation="relu")
    assert y.tolist() == [[14.0, 0.0]]
    gradients = dense_backward(tape, np.array([[10.0, 100.0]]))
    assert gradients.x.tolist() == [[30.0, 50.0]]
    assert gradients.kernel.tolist() == [[10.0, 0.0], [20.0, 0.0]] and gradients.bias.tolist() == [10.0, 0.0]
    _, tape = dense_forward(x, kernel, bias, activation="relu")
    logits = dense_backward(tape, np.array([[10.0, 100.0]]), from_logits=True)
    assert logits.kernel.tolist() == [[10.0, 100.0], [20.0, 200.0]] and logits.bias.tolist() == [10.0, 100.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_sums_over_many_rows(dtype):
    """The weight gradient of 25600 steps, a mean over 64 rows of them, is as close as a recurrent layer's."""
    problem = Problem((64, 400), 16, 9, dtype=dtype)
    problem.dy /= 64
    actual, desired = problem.train(), problem.reference()
    for name, a in actual.items():
        error = np.abs(a - desired[name]) / np.maximum(1, np.abs(desired[name]))
        assert error.max() <= (5e-5 if name != "y" else 5e-6), name


# ---- bits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [((97,), 3, 33), ((60,), 64, 70), ((53,), 17, 16), ((150,), 5, 1)])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_rows_and_launches(size, activation, dtype):
    """A row alone = in any batch = ragged; every launch path and number of threads gives the same bits."""
    problem = Problem(*size, dtype=dtype)
    n = len(problem.x)
    with launched("serial", 1):
        expected = problem.train(activation=activation)
        for i in range(n):
            row = problem.train(x=problem.x[i], dy=problem.dy[i], activation=activation)
            assert_same_bits((row["y"], row["x"]), (expected["y"][i], expected["x"][i]), f"row {i} alone")
    order = np.random.default_rng(0).permutation(n)
    offsets = [0, 0, 3, n // 2, n]
    for path, threads in launches():
        with launched(path, threads):
            message = f"{path}, {threads} threads"
            assert_same_bits(problem.train(activation=activation), expected, message)
            shuffled = problem.train(x=problem.x[order], dy=problem.dy[order], activation=activation)
            assert_same_bits((shuffled["y"], shuffled["x"]), (expected["y"][order], expected["x"][order]), message)
            ragged = problem.train(x=Ragged(problem.x, offsets), activation=activation)
            for name, a in ragged.items():
                assert_same_bits(a.values if type(a) is Ragged else a, expected[name], f"ragged, {message}")


def test_padding_and_holes_change_no_row():
    """Garbage in other rows, NaN too, is not seen."""
    problem = Problem((8, 6))
    dirty = problem.x.copy()
    dirty[::2, 3:] = np.nan
    y, clean = (dense(x, problem.kernel, problem.bias, activation="softmax") for x in (dirty, problem.x))
    valid = np.isfinite(dirty[..., 0])
    assert_same_bits(y[valid], clean[valid])
    assert np.isnan(y[~valid]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"activation": "softmax", "from_logits": True}], ids=str)
def test_steps_at_which_nothing_arrives_are_not_read(options, dtype):
    """NaN in x where dy is 0 changes nothing; the gradients are those of the other steps alone, to the bit."""
    problem = Problem((90,), 17, 15, dtype=dtype)
    some = np.random.default_rng(1).random(90) < 0.5
    problem.dy[~some] = 0
    problem.x[~some] = np.nan
    alone = problem.train(x=problem.x[some], dy=problem.dy[some], **options)
    whole = problem.train(**options)
    for name in ("kernel", "bias"):
        assert_same_bits(whole[name], alone[name], name)
    assert_same_bits(whole["x"][some], alone["x"])
    assert not whole["x"][~some].any()
    problem.dy[:] = 0
    nothing = problem.train(**options)
    assert not any(nothing[name].any() for name in ("x", "kernel", "bias"))


# ---- arguments ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype):
    problem, other = Problem(dtype=dtype), Problem(dtype=dtype)
    expected = problem.train(activation="tanh")
    for name in ("x", "kernel", "bias", "dy"):
        setattr(other, name, awkward(getattr(problem, name)))
    assert_same_bits(other.train(activation="tanh"), expected)
    fortran = problem.train(x=np.asfortranarray(problem.x), dy=np.asfortranarray(problem.dy), activation="tanh")
    assert_same_bits(fortran, expected)


def test_gradient_of_x_not_asked_for():
    problem = Problem()
    whole, part = (problem.train(activation="tanh", need_x=need_x) for need_x in (True, False))
    assert part.pop("x") is None and whole.pop("x") is not None
    assert_same_bits(part, whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights(dtype):
    problem = Problem(dtype=dtype)
    packed = dense_pack(problem.kernel, problem.bias)
    for activation in (None, "tanh"):
        assert_same_bits(problem.train(packed=packed, activation=activation), problem.train(activation=activation))
    without = dense_pack(problem.kernel)
    assert_same_bits(problem.train(packed=without, use_bias=False), problem.train(use_bias=False))
    other = np.float64 if dtype == np.float32 else np.float32
    theirs = Problem(dtype=other)
    with pytest.raises(ValueError, match=r"^packed: expected weights \(17, 15\) of "):
        dense(theirs.x, theirs.kernel, packed=packed)
    with pytest.raises(ValueError, match=r"^packed: expected weights \(17, 14\) of "):
        dense(problem.x, problem.kernel[:, 1:], packed=packed)


BAD = [
    ({"x": np.float64(3)}, ValueError, r"^x: expected shape \(\.\.\.,F\), received a scalar$"),
    ({"x": np.zeros((2, 5), int)}, TypeError, "^x: expected dtype float32 or float64, received int64$"),
    ({"x": np.zeros((2, 5), object)}, TypeError, "^x: expected dtype float32 or float64, received object$"),
    ({"x": np.zeros((2, 5), np.float32)}, TypeError, "^kernel: expected dtype float32 as x, received float64$"),
    ({"x": np.zeros((2, 4))}, ValueError, r"^kernel: expected shape \(F,K\) with F = 4, received \(5, 3\)$"),
    ({"kernel": np.zeros((3, 5))}, ValueError, r"^kernel: expected shape \(F,K\) with F = 5, received \(3, 5\)$"),
    ({"kernel": np.zeros(5)}, ValueError, r"^kernel: expected shape .*, received \(5,\)$"),
    ({"kernel": np.zeros((5, 3), object)}, TypeError, "^kernel: expected dtype .*, received object$"),
    ({"bias": np.zeros(5)}, ValueError, r"^bias: expected shape \(K,\) = \(3,\), received \(5,\)$"),
    ({"bias": np.zeros((1, 3))}, ValueError, r"^bias: expected shape .*, received \(1, 3\)$"),
    ({"bias": np.zeros(3, np.float32)}, TypeError, "^bias: expected dtype float64 as x, received float32$"),
    ({"activation": "tanhh"}, ValueError, "^activation: expected one of linear, .*, received 'tanhh'$"),
    ({"activation": 3}, ValueError, "^activation: expected one of linear, .*, received 3$"),
    ({"activation": ["tanh"]}, ValueError, r"^activation: expected one of linear, .*, received \['tanh'\]$"),
]


@pytest.mark.parametrize("change, error, message", BAD)
def test_bad_arguments(change, error, message):
    arguments = {"x": np.zeros((2, 5)), "kernel": np.zeros((5, 3)), "bias": np.zeros(3), **change}
    for op in (dense, dense_forward):
        with pytest.raises(error, match=message):
            op(**arguments)


def test_bad_gradients():
    problem = Problem((2,), 5, 3)
    _, tape = dense_forward(problem.x, problem.kernel)
    with pytest.raises(ValueError, match=r"^dy: expected shape as y = \(2, 3\), received \(2, 5\)$"):
        dense_backward(tape, problem.x)
    with pytest.raises(TypeError, match="^dy: expected dtype float64 .*, received float32$"):
        dense_backward(tape, problem.dy.astype(np.float32))
    x = Ragged(problem.x, [0, 1, 2])
    _, tape = dense_forward(x, problem.kernel)
    with pytest.raises(TypeError, match="^dy: expected Ragged as the outputs, received ndarray$"):
        dense_backward(tape, problem.dy)


def test_examples():
    assert_doctests(gemm)
    assert list(inspect.signature(dense).parameters) == list(inspect.signature(dense_forward).parameters)
