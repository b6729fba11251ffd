"""The NumPy reference: hand-computed values, scalar Python loops, order-4 differences, and the mask rules."""

import ast
import importlib
import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastmask.reference
from fastmask.reference import activation as A
from fastmask.reference import mask as M
from fastmask.reference.gemm import dense, dense_backward, dense_forward
from fastmask.reference.gru import gru, gru_backward, gru_forward
from fastmask.reference.lstm import lstm, lstm_backward, lstm_forward
from fastmask.reference.simple_rnn import simple_rnn, simple_rnn_backward, simple_rnn_forward
from helpers import assert_close, assert_doctests, assert_gradient, mask_cases

# name -> forward, backward, G, number of states, shape of the bias, options that make the variant
CELLS = {
    "simple_rnn": (simple_rnn_forward, simple_rnn_backward, 1, 1, lambda H: (H,), {}),
    "lstm": (lstm_forward, lstm_backward, 4, 2, lambda H: (4 * H,), {}),
    "gru": (gru_forward, gru_backward, 3, 1, lambda H: (2, 3 * H), {}),
    "gru_before": (gru_forward, gru_backward, 3, 1, lambda H: (3 * H,), {"reset_after": False}),
}
SWITCHES = ("go_backwards", "zero_output_for_mask", "return_sequences", "restore_order")


class Problem:
    """Random weights, inputs and states for one cell."""

    def __init__(self, cell, B=3, T=4, F=2, H=2, dtype=np.float64, seed=0):
        self.forward_fn, self.backward_fn, G, n_states, bias_shape, self.variant = CELLS[cell]
        rng = np.random.default_rng([seed, B, T, F, H])
        normal = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
        self.x = normal(B, T, F)
        self.kernel, self.recurrent_kernel = normal(F, G * H), normal(H, G * H)
        self.bias = normal(*bias_shape(H))
        self.states = tuple(normal(B, H) for _ in range(n_states))
        self.d_sequence, self.d_last = normal(B, T, H), normal(B, H)
        self.d_states = tuple(normal(B, H) for _ in range(n_states))

    def forward(self, **options):
        weights = options.pop("weights", (self.kernel, self.recurrent_kernel, self.bias))
        return self.forward_fn(options.pop("x", self.x), *weights, **self.variant, **options)

    def d_outputs(self, return_sequences=True):
        return self.d_sequence if return_sequences else self.d_last


# ---- values ---------------------------------------------------------------------------------------------------------
def scalar_step(cell, x, states, kernel, recurrent_kernel, bias):
    """One step in Python floats, from the equations of semantics, independent of the reference: new states, h first."""
    H, sigmoid = len(states[0]), lambda a: 1 / (1 + math.exp(-a))
    W, U = kernel.tolist(), recurrent_kernel.tolist()

    def dot(v, matrix, column):
        return sum(v[k] * matrix[k][column] for k in range(len(v)))

    h = states[0]
    if cell == "simple_rnn":
        return ([math.tanh(dot(x, W, j) + bias[j] + dot(h, U, j)) for j in range(H)],)
    if cell == "lstm":
        a = [dot(x, W, j) + dot(h, U, j) + bias[j] for j in range(4 * H)]
        i, f, c, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
        new_c = [sigmoid(f[j]) * states[1][j] + sigmoid(i[j]) * math.tanh(c[j]) for j in range(H)]
        return [sigmoid(o[j]) * math.tanh(new_c[j]) for j in range(H)], new_c
    b, c = bias if cell == "gru" else (bias, [0.0] * 3 * H)
    z = [sigmoid(dot(x, W, j) + b[j] + dot(h, U, j) + c[j]) for j in range(H)]
    r = [sigmoid(dot(x, W, j + H) + b[j + H] + dot(h, U, j + H) + c[j + H]) for j in range(H)]
    new_h = []
    for j in range(H):
        column = j + 2 * H
        if cell == "gru":
            inner = r[j] * (dot(h, U, column) + c[column])
        else:
            inner = dot([r[k] * h[k] for k in range(H)], U, column)
        new_h.append(z[j] * h[j] + (1 - z[j]) * math.tanh(dot(x, W, column) + b[column] + inner))
    return (new_h,)


def scalar_rnn(cell, problem, mask, initial_state, **switches):
    """The whole batch row by row, step by step: valid steps are computed, masked ones filled in after."""
    outputs, finals = [], []
    B, T, _ = problem.x.shape
    H = problem.recurrent_kernel.shape[0]
    for b in range(B):
        if initial_state is None:
            states = tuple([0.0] * H for _ in problem.states)
        else:
            states = tuple(s[b].tolist() for s in initial_state)
        last, row = [0.0] * H, [None] * T
        for t in reversed(range(T)) if switches["go_backwards"] else range(T):
            if mask[b, t]:
                step = (problem.x[b, t].tolist(), states, problem.kernel, problem.recurrent_kernel, problem.bias)
                states = scalar_step(cell, *step)
                last = states[0]
            row[t] = [0.0] * H if switches["zero_output_for_mask"] and not mask[b, t] else last
        if switches["go_backwards"] and not switches["restore_order"]:
            row = row[::-1]
        outputs.append(row if switches["return_sequences"] else last)
        finals.append(states)
    shape = (B, T, H) if switches["return_sequences"] else (B, H)
    return np.array(outputs).reshape(shape), tuple(np.array([f[k] for f in finals]) for k in range(len(problem.states)))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("name", mask_cases(3, 4))
@pytest.mark.parametrize("cell", CELLS)
def test_equals_scalar_loops(cell, name, with_state):
    problem = Problem(cell, B=3, T=4, F=3, H=2)
    mask = mask_cases(3, 4)[name]
    initial_state = problem.states if with_state else None
    for values in itertools.product([False, True], repeat=4):
        switches = dict(zip(SWITCHES, values, strict=True))
        result, _ = problem.forward(mask=mask, initial_state=initial_state, **switches)
        outputs, states = scalar_rnn(cell, problem, mask, initial_state, **switches)
        assert_close(result.outputs, outputs)
        for actual, desired in zip(result.states, states, strict=True):
            assert_close(actual, desired)


def test_hand_computed():
    x = np.array([[[1.0], [5.0], [2.0]]])
    mask = [[True, False, True]]
    # h1 = 3*1 + 1 = 4;  masked;  h3 = 3*2 + 2*4 + 1 = 15
    result = simple_rnn(x, np.array([[3.0]]), np.array([[2.0]]), np.array([1.0]), mask=mask, activation="linear")
    assert result.outputs.ravel().tolist() == [4.0, 4.0, 15.0]
    # LSTM, everything linear, blocks i f c o with kernel 1 2 3 4, no recurrence:
    # c1 = 1*3 = 3, h1 = 4*3 = 12;  c3 = f c1 + i g = 4*3 + 2*6 = 24, h3 = 8*24 = 192
    kernel, linear = np.array([[1.0, 2.0, 3.0, 4.0]]), {"activation": None, "recurrent_activation": None}
    result = lstm(x, kernel, np.zeros((1, 4)), mask=mask, **linear)
    assert result.outputs.ravel().tolist() == [12.0, 12.0, 192.0]
    assert [s.item() for s in result.states] == [192.0, 24.0]
    # GRU, everything linear, h0 = 1, blocks z r h with kernel 2 3 5, recurrent kernel 0 0 7, biases 0 and (0 0 1):
    # after:  z = 2, r = 3, g = 5 + 3(7 + 1) = 29, h = 2*1 - 29 = -27    before: g = 5 + (3*1)*7 = 26, h = 2 - 26 = -24
    kernel, recurrent = np.array([[2.0, 3.0, 5.0]]), np.array([[0.0, 0.0, 7.0]])
    h0, one = np.array([[1.0]]), np.ones((1, 1, 1))
    bias = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert gru(one, kernel, recurrent, bias, initial_state=h0, **linear).outputs.item() == -27.0
    assert gru(one, kernel, recurrent, initial_state=h0, reset_after=False, **linear).outputs.item() == -24.0


def test_classic_example():
    x = np.array(
        [
            [[1, 1], [2, 2], [1, 1], [0.37, 0.37], [0.37, 0.37]],
            [[0.37, 0.37], [1, 1], [2, 2], [1, 1], [0.37, 0.37]],
        ],
        dtype=np.float32,
    )
    weights = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32), np.ones(3, np.float32)]
    linear = {"activation": None, "recurrent_activation": None, "reset_after": False}
    raw = [[-6, -50, -156, -272.7276, -475.83362], [-1.2876, -9.862801, -69.314, -213.94202, -373.54672]]
    assert_close(gru(x, *weights, **linear).outputs[..., 0], raw, np.float32, k=4)
    mask = M.from_values(x, 0.37)
    held = [[-6, -50, -156, -156, -156], [0, -6, -50, -156, -156]]
    assert_close(gru(x, *weights, mask=mask, **linear).outputs[..., 0], held, np.float32, k=4)
    weights[2] = np.ones((2, 3), np.float32)
    linear["reset_after"] = True
    both = [-21, -181, -745, -2049.1, -5622.3]
    np.testing.assert_allclose(gru(x, *weights, **linear).outputs[0, :, 0], both, rtol=1e-5)  # printed to five digits


# ---- gradients ------------------------------------------------------------------------------------------------------
def check_backward(problem, use_bias=True, with_state=True, **options):
    """Every gradient of sum(outputs R) + sum(states R_k), for random R, against order-4 differences."""
    return_sequences = options.get("return_sequences", True)
    bias = problem.bias if use_bias else None
    initial_state = problem.states if with_state else None
    d_outputs = problem.d_outputs(return_sequences)

    def value():
        weights = (problem.kernel, problem.recurrent_kernel, bias)
        result, _ = problem.forward(weights=weights, initial_state=initial_state, **options)
        total = np.sum(result.outputs * d_outputs)
        return total + sum(np.sum(s * d) for s, d in zip(result.states, problem.d_states, strict=True))

    weights = (problem.kernel, problem.recurrent_kernel, bias)
    _, tape = problem.forward(weights=weights, initial_state=initial_state, **options)
    gradients = problem.backward_fn(tape, d_outputs, problem.d_states)
    assert_gradient(value, problem.x, gradients.x)
    assert_gradient(value, problem.kernel, gradients.kernel)
    assert_gradient(value, problem.recurrent_kernel, gradients.recurrent_kernel)
    if use_bias:
        assert_gradient(value, problem.bias, gradients.bias)
    else:
        assert gradients.bias is None
    for state, gradient in zip(problem.states, gradients.initial_state, strict=True):
        if with_state:
            assert_gradient(value, state, gradient)
        else:
            assert gradient is None
    return gradients


@pytest.mark.parametrize("name", mask_cases(3, 4))
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_under_every_mask(cell, name):
    mask = mask_cases(3, 4)[name]
    gradients = check_backward(Problem(cell), mask=mask)
    assert not gradients.x[~mask].any()


@pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=4)))
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_under_every_switch(cell, values):
    mask = np.array([[False, True, False, True, False], [True, True, True, False, False], [False] * 5])
    check_backward(Problem(cell, T=5), mask=mask, **dict(zip(SWITCHES, values, strict=True)))


@pytest.mark.parametrize("use_bias, with_state", [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_without_bias_or_state(cell, use_bias, with_state):
    check_backward(Problem(cell), use_bias, with_state, mask=mask_cases(3, 4)["holes"])


@pytest.mark.parametrize(
    "activation, recurrent_activation", [(None, None), ("gelu", "hard_sigmoid"), ("relu", "softsign")]
)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_with_other_activations(cell, activation, recurrent_activation):
    options = {"activation": activation}
    if cell != "simple_rnn":
        options["recurrent_activation"] = recurrent_activation
    problem = Problem(cell, T=3, seed=4)
    for weight in (problem.kernel, problem.recurrent_kernel, problem.bias):
        weight *= 0.3  # linear cells grow fast, and so would the error of the differences
    check_backward(problem, mask=mask_cases(3, 3)["holes"], **options)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_add_up(cell):
    """The gradient of outputs and states together is the sum of each alone; None is zero."""
    problem = Problem(cell)
    _, tape = problem.forward(mask=mask_cases(3, 4)["holes"], initial_state=problem.states)
    both = problem.backward_fn(tape, problem.d_sequence, problem.d_states)
    parts = [problem.backward_fn(tape, problem.d_sequence)]
    for k, d in enumerate(problem.d_states):
        parts.append(
            problem.backward_fn(tape, None, tuple(d if k == j else None for j in range(len(problem.d_states))))
        )
    flatten = lambda g: [g.x, g.kernel, g.recurrent_kernel, g.bias, *g.initial_state]  # noqa: E731
    for total, *terms in zip(flatten(both), *map(flatten, parts), strict=True):
        assert_close(sum(terms), total)
        assert all(np.abs(term).max() > 0 for term in terms)
    assert not problem.backward_fn(tape, None).kernel.any()


@pytest.mark.parametrize("cell", CELLS)
def test_one_initial_state_for_all_rows(cell):
    problem = Problem(cell)
    one = tuple(s[:1] for s in problem.states)
    full = tuple(np.repeat(s, 3, axis=0) for s in one)
    (result, tape), (expected, expected_tape) = (problem.forward(initial_state=s) for s in (one, full))
    assert_close(result.outputs, expected.outputs)
    gradients = problem.backward_fn(tape, problem.d_sequence).initial_state
    for actual, rows in zip(
        gradients, problem.backward_fn(expected_tape, problem.d_sequence).initial_state, strict=True
    ):
        assert_close(actual, rows.sum(axis=0, keepdims=True))


# ---- the mask rules -------------------------------------------------------------------------------------------------
def test_where_the_gradient_of_a_masked_output_goes():
    """To the last valid step; before the first one nowhere; with zero_output_for_mask nowhere."""
    x, one = np.array([[[1.0], [2.0], [3.0], [4.0]]]), np.ones((1, 1))
    options = {"mask": [[False, True, False, True]], "activation": "linear", "initial_state": np.array([[9.0]])}
    for zero, expected in ((False, [0.0, 20.0 + 300 + 4000, 0.0, 4000.0]), (True, [0.0, 20.0 + 4000, 0.0, 4000.0])):
        _, tape = simple_rnn_forward(x, one, one, zero_output_for_mask=zero, **options)
        gradients = simple_rnn_backward(tape, np.array([[[1.0], [20.0], [300.0], [4000.0]]]))
        assert gradients.x.ravel().tolist() == expected
        assert gradients.initial_state[0].item() == expected[1]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_garbage_under_a_mask_touches_nothing(cell, go_backwards, garbage):
    problem = Problem(cell)
    for name, mask in mask_cases(3, 4).items():
        dirty = np.where(mask[..., None], problem.x, garbage)
        results = []
        for x in (problem.x, dirty):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result, tape = problem.forward(x=x, mask=mask, initial_state=problem.states, go_backwards=go_backwards)
                gradients = problem.backward_fn(tape, problem.d_sequence, problem.d_states)
            results.append([result.outputs, *result.states, *gradients[:4], *gradients.initial_state])
        for clean, other in zip(*results, strict=True):
            np.testing.assert_array_equal(clean, other, err_msg=name)
            assert np.isfinite(clean).all()


@pytest.mark.parametrize("cell", CELLS)
def test_state_of_an_empty_row_reaches_no_weight(cell):
    problem = Problem(cell)
    mask = np.array([[True] * 4, [False] * 4, [True] * 4])
    states = tuple(s.copy() for s in problem.states)
    states[0][1] = np.nan
    _, tape = problem.forward(mask=mask, initial_state=states)
    gradients = problem.backward_fn(tape, problem.d_sequence, problem.d_states)
    assert all(np.isfinite(g).all() for g in [*gradients[:4], *gradients.initial_state])


@pytest.mark.parametrize("cell", CELLS)
def test_nan_in_valid_data_stays_in_its_row(cell):
    problem = Problem(cell)
    clean, _ = problem.forward()
    problem.x[1, 2, 0] = np.nan
    dirty, _ = problem.forward()
    assert np.isnan(dirty.outputs[1, 2:]).all() and np.isnan(dirty.states[0][1]).all()
    assert_close(dirty.outputs[1, :2], clean.outputs[1, :2])
    assert_close(dirty.outputs[[0, 2]], clean.outputs[[0, 2]])


@pytest.mark.parametrize("cell", CELLS)
def test_empty_rows_and_leading_masked_steps(cell):
    problem = Problem(cell)
    mask = np.array([[False] * 4, [False, False, True, True], [True] * 4])
    for return_sequences in (False, True):
        result, _ = problem.forward(mask=mask, initial_state=problem.states, return_sequences=return_sequences)
        assert not result.outputs[0].any(), "the output of an empty row is zero, not the initial state"
        for state, given in zip(result.states, problem.states, strict=True):
            np.testing.assert_array_equal(state[0], given[0])
    assert not result.outputs[1, :2].any() and result.outputs[1, 2:].all()


@pytest.mark.parametrize("cell", CELLS)
def test_zero_output_for_mask_concerns_sequences_only(cell):
    problem, mask = Problem(cell), mask_cases(3, 4)["right"]
    kept, _ = problem.forward(mask=mask, return_sequences=False)
    zeroed, _ = problem.forward(mask=mask, return_sequences=False, zero_output_for_mask=True)
    np.testing.assert_array_equal(kept.outputs, zeroed.outputs)
    assert kept.outputs[0].all()


@pytest.mark.parametrize("cell", CELLS)
def test_metamorphic(cell):
    problem = Problem(cell, B=4, T=6)
    masks = mask_cases(4, 6)
    plain, tape = problem.forward()
    # all True is no mask (BLAS: not to the bit for arrays that lie elsewhere)
    assert_close(problem.forward(mask=masks["none"])[0].outputs, plain.outputs)
    # appended masked steps repeat the output and change no gradient
    mask = np.pad(masks["none"], ((0, 0), (0, 3)))
    longer, longer_tape = problem.forward(x=np.pad(problem.x, ((0, 0), (0, 3), (0, 0)), constant_values=7.0), mask=mask)
    assert_close(longer.outputs[:, :6], plain.outputs)
    assert_close(longer.outputs[:, 6:], np.repeat(plain.outputs[:, 5:], 3, axis=1))
    expected = problem.backward_fn(tape, problem.d_sequence)
    padded = problem.backward_fn(longer_tape, np.pad(problem.d_sequence, ((0, 0), (0, 3), (0, 0))))
    assert_close(padded.x[:, :6], expected.x)
    assert_close(padded.kernel, expected.kernel)
    # rows know nothing of each other, and weight gradients of halves sum
    order, mask = [2, 0, 3, 1], masks["holes"]
    result, tape = problem.forward(mask=mask)
    assert_close(problem.forward(x=problem.x[order], mask=mask[order])[0].outputs, result.outputs[order])
    whole = problem.backward_fn(tape, problem.d_sequence)
    halves = []
    for half in (slice(0, 2), slice(2, 4)):
        _, tape = problem.forward(x=problem.x[half], mask=mask[half])
        halves.append(problem.backward_fn(tape, problem.d_sequence[half]))
    assert_close(halves[0].recurrent_kernel + halves[1].recurrent_kernel, whole.recurrent_kernel)
    assert_close(halves[0].bias + halves[1].bias, whole.bias)
    # backwards is forwards on reversed time; restore_order lays the outputs back
    backwards, _ = problem.forward(mask=mask, go_backwards=True)
    forwards, _ = problem.forward(x=problem.x[:, ::-1], mask=mask[:, ::-1])
    restored, _ = problem.forward(mask=mask, go_backwards=True, restore_order=True)
    assert_close(backwards.outputs, forwards.outputs)
    assert_close(restored.outputs, backwards.outputs[:, ::-1])


@pytest.mark.parametrize("cell", CELLS)
def test_kinds_of_masks(cell):
    problem, mask = Problem(cell), mask_cases(3, 4)["holes"]
    expected = problem.forward(mask=mask)[0].outputs
    strided = np.repeat(mask, 2, axis=1)[:, ::2]
    frozen = mask.copy()
    frozen.flags.writeable = False
    for other in (
        mask.tolist(),
        mask.astype(int),
        mask * 0.3,
        np.where(mask, np.nan, 0),
        mask[..., None],
        strided,
        frozen,
    ):
        np.testing.assert_array_equal(problem.forward(mask=other)[0].outputs, expected)
    one = np.array([[True, False, True, True]])
    repeated = problem.forward(mask=np.repeat(one, 3, axis=0))[0].outputs
    np.testing.assert_array_equal(problem.forward(mask=one)[0].outputs, repeated)


@pytest.mark.parametrize("B, T, F, H", [(0, 4, 2, 3), (2, 0, 2, 3), (0, 0, 1, 1), (1, 1, 1, 1), (2, 3, 1, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_sizes_and_dtypes(cell, dtype, B, T, F, H):
    problem = Problem(cell, B, T, F, H, dtype)
    for return_sequences in (False, True):
        result, tape = problem.forward(
            mask=np.ones((B, T), bool), initial_state=problem.states, return_sequences=return_sequences
        )
        gradients = problem.backward_fn(tape, problem.d_outputs(return_sequences), problem.d_states)
        assert result.outputs.shape == ((B, T, H) if return_sequences else (B, H))
        assert gradients.x.shape == (B, T, F)
        for weight, gradient in zip(
            [problem.kernel, problem.recurrent_kernel, problem.bias], gradients[1:4], strict=True
        ):
            assert gradient.shape == weight.shape
        arrays = [result.outputs, *result.states, *gradients[:4], *gradients.initial_state]
        assert all(a.dtype == dtype for a in arrays)
        if T == 0:
            assert not problem.forward(return_sequences=False)[0].outputs.any()
            for state, given in zip(result.states, problem.states, strict=True):
                np.testing.assert_array_equal(state, given)


@pytest.mark.parametrize("cell", CELLS)
def test_read_only_and_strided_arguments(cell):
    problem = Problem(cell)
    expected = problem.forward(initial_state=problem.states)[0].outputs

    def awkward(a):
        out = np.repeat(a, 2, axis=-1)[..., ::2]
        out.flags.writeable = False
        return out

    weights = tuple(map(awkward, (problem.kernel, problem.recurrent_kernel, problem.bias)))
    states = tuple(map(awkward, problem.states))
    result, tape = problem.forward(x=awkward(problem.x), weights=weights, initial_state=states)
    assert_close(result.outputs, expected)
    d = awkward(problem.d_sequence)
    first, second = problem.backward_fn(tape, d).kernel, problem.backward_fn(tape, d).kernel
    np.testing.assert_array_equal(first, second, err_msg="backward changed its arguments")


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("cell", CELLS)
def test_huge_pre_activations(cell, scale):
    problem = Problem(cell)
    result, tape = problem.forward(x=problem.x * scale)
    gradients = problem.backward_fn(tape, problem.d_sequence)
    assert np.isfinite(result.outputs).all() and all(np.isfinite(g).all() for g in gradients[:4])


# ---- errors ---------------------------------------------------------------------------------------------------------
BAD = [
    ({"x": np.zeros((3, 4))}, ValueError, r"x: expected shape \(B,T,F\), received \(3, 4\)"),
    ({"x": np.zeros((3, 4, 2), int)}, TypeError, "x: expected dtype float32 or float64, received int64"),
    ({"x": np.zeros((3, 4, 2), np.float32)}, TypeError, "expected dtype float32 as x, received float64"),
    ({"x": np.zeros((3, 4, 3))}, ValueError, "kernel: expected shape"),
    ({"mask": np.ones((3, 5))}, ValueError, r"mask: expected shape \(B,T\) = \(3,4\), received \(3, 5\)"),
    ({"mask": np.ones((4, 3))}, ValueError, "mask"),
    ({"mask": np.ones(4)}, ValueError, "mask"),
    ({"initial_state": (np.zeros((2, 2)), np.zeros((2, 2)))}, ValueError, "initial_state"),
    ({"initial_state": 3}, ValueError, "initial_state"),
    ({"initial_state": ()}, ValueError, "initial_state"),
    ({"activation": "tanhh"}, ValueError, "activation: expected one of"),
]


@pytest.mark.parametrize("options, error, message", BAD)
@pytest.mark.parametrize("cell", CELLS)
def test_bad_arguments(cell, options, error, message):
    with pytest.raises(error, match=message):
        Problem(cell).forward(**options)


@pytest.mark.parametrize("cell", CELLS)
def test_bad_weights_and_gradients(cell):
    problem = Problem(cell)
    kernel, recurrent, bias = problem.kernel, problem.recurrent_kernel, problem.bias
    for name, weights in {
        "kernel": (kernel[:, :-1], recurrent, bias),
        "recurrent_kernel": (kernel, np.concatenate([recurrent, recurrent], axis=1), bias),
        "bias": (kernel, recurrent, bias[..., :-1]),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: expected shape"):
            problem.forward(weights=weights)
    _, tape = problem.forward()
    with pytest.raises(ValueError, match="d_outputs: expected shape"):
        problem.backward_fn(tape, problem.d_last)
    with pytest.raises(ValueError, match="d_states: expected"):
        problem.backward_fn(tape, None, (np.zeros((3, 3)),) * len(problem.states))
    with pytest.raises(ValueError, match="d_states: expected"):
        problem.backward_fn(tape, None, (None,) * 3)


# ---- activations ----------------------------------------------------------------------------------------------------
def erf_pdf(v):
    return math.exp(-v * v / 2) / math.sqrt(2 * math.pi)


# name -> value at x > 0 and x < 0 in Python floats, straight from the definitions
DEFINITIONS = {
    "linear": lambda v: v,
    "relu": lambda v: max(v, 0.0),
    "relu6": lambda v: min(max(v, 0.0), 6.0),
    "leaky_relu": lambda v: v if v > 0 else 0.2 * v,
    "elu": lambda v: v if v > 0 else math.exp(v) - 1,
    "celu": lambda v: v if v > 0 else math.exp(v) - 1,
    "selu": lambda v: 1.0507009873554805 * (v if v > 0 else 1.6732632423543772 * (math.exp(v) - 1)),
    "softplus": lambda v: math.log(1 + math.exp(v)),
    "softsign": lambda v: v / (1 + abs(v)),
    "squareplus": lambda v: (v + math.sqrt(v * v + 4)) / 2,
    "silu": lambda v: v / (1 + math.exp(-v)),
    "swish": lambda v: v / (1 + math.exp(-v)),
    "hard_silu": lambda v: v * min(max(v + 3, 0.0), 6.0) / 6,
    "hard_swish": lambda v: v * min(max(v + 3, 0.0), 6.0) / 6,
    "gelu": lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))),
    "tanh": lambda v: (math.exp(v) - math.exp(-v)) / (math.exp(v) + math.exp(-v)),
    "hard_tanh": lambda v: min(max(v, -1.0), 1.0),
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "hard_sigmoid": lambda v: min(max(v / 6 + 0.5, 0.0), 1.0),
    "hard_sigmoid_v2": lambda v: min(max(0.2 * v + 0.5, 0.0), 1.0),
    "log_sigmoid": lambda v: math.log(1 / (1 + math.exp(-v))),
    "exponential": math.exp,
    "mish": lambda v: v * math.tanh(math.log(1 + math.exp(v))),
    "tanh_shrink": lambda v: v - math.tanh(v),
    "soft_shrink": lambda v: v - 0.5 if v > 0.5 else v + 0.5 if v < -0.5 else 0.0,
    "hard_shrink": lambda v: v if abs(v) > 0.5 else 0.0,
    "threshold": lambda v: v if v > 0 else 0.0,
    "sparse_plus": lambda v: 0.0 if v <= -1 else v if v >= 1 else (v + 1) ** 2 / 4,
    "sparse_sigmoid": lambda v: 0.0 if v <= -1 else 1.0 if v >= 1 else (v + 1) / 2,
}
POINTS = np.array(
    [-7.3, -4.1, -2.9, -2.2, -1.2, -0.7, -0.31, -1e-3, 0.0, 1e-3, 0.42, 0.8, 1.3, 2.4, 2.8, 3.7, 5.9, 8.2]
)
KINKS = np.array([0.0, 0.5, 1.0, 2.5, 3.0, 6.0])


def test_every_name_is_defined_here():
    assert set(DEFINITIONS) == set(A.ELEMENTWISE)


@pytest.mark.parametrize("name", A.ELEMENTWISE)
def test_activation_values(name):
    expected = np.array([DEFINITIONS[name](v) for v in POINTS.tolist()])
    assert_close(A.activation(name)(POINTS), expected, k=16)
    single = A.activation_forward(POINTS.astype(np.float32), name)
    assert single.dtype == np.float32
    assert_close(single, expected, np.float32, k=8)


@pytest.mark.parametrize("name", A.ELEMENTWISE)
def test_activation_derivatives(name):
    rng = np.random.default_rng(3)
    x = rng.uniform(-8, 8, 400)
    x = x[np.abs(np.abs(x)[:, None] - KINKS).min(axis=1) > 0.01]
    h = 1e-3
    f = A.activation(name)
    numerical = (f(x - 2 * h) - 8 * f(x - h) + 8 * f(x + h) - f(x + 2 * h)) / (12 * h)
    assert_close(A.activation_grad(name, x), numerical, k=2**16)
    assert A.activation_grad(name, x.astype(np.float32)).dtype == np.float32
    dy = rng.standard_normal(x.shape)
    assert_close(A.activation_backward(x, f(x), dy, name), dy * numerical, k=2**16)


# the derivative where it is not continuous: Keras' (TensorFlow's)
AT_KINKS = {
    "relu": {0.0: 0.0},
    "relu6": {0.0: 0.0, 6.0: 0.0},
    "leaky_relu": {0.0: 0.2},
    "elu": {0.0: 1.0},
    "selu": {0.0: A.SELU_SCALE},
    "hard_tanh": {-1.0: 1.0, 1.0: 1.0},
    "hard_sigmoid": {-3.0: 0.0, 3.0: 0.0},
    "hard_sigmoid_v2": {-2.5: 0.0, 2.5: 0.0},
    "hard_silu": {-3.0: 0.0, 3.0: 1.0},
    "soft_shrink": {-0.5: 0.0, 0.5: 0.0},
    "hard_shrink": {-0.5: 0.0, 0.5: 0.0},
    "threshold": {0.0: 0.0},
    "sparse_sigmoid": {-1.0: 0.0, 1.0: 0.0},
}


@pytest.mark.parametrize("name", AT_KINKS)
def test_activation_derivatives_at_kinks(name):
    for x, expected in AT_KINKS[name].items():
        assert A.activation_grad(name, np.array([x]))[0] == expected


@pytest.mark.parametrize("name", [*A.ELEMENTWISE, *A.LAST_AXIS])
def test_activation_extremes(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(A.activation_forward(np.array([np.nan, np.nan]), name)).all()
        top = 50.0 if name == "exponential" else 1e4
        for dtype in (np.float32, np.float64):
            x = np.array([-1e4, -50.0, 50.0, top], dtype)
            y = A.activation_forward(x, name)
            assert np.isfinite(y).all()
            assert np.isfinite(A.activation_backward(x, y, np.ones_like(x), name)).all()
        assert A.activation_forward(np.zeros((0, 3)), name).shape == (0, 3)


def test_softmax_and_log_softmax():
    x = np.array([[0.0, math.log(3.0)], [1e4, -1e4]])
    assert_close(A.activation("softmax")(x), [[0.25, 0.75], [1.0, 0.0]])
    assert_close(A.activation("log_softmax")(x), [[math.log(0.25), math.log(0.75)], [0.0, -2e4]])
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    for name in A.LAST_AXIS:
        dx = A.activation_backward(x, A.activation(name)(x), dy, name)
        assert_gradient(lambda name=name: np.sum(A.activation(name)(x) * dy), x, dx)


def test_activation_names():
    assert A.activation(None) is A.activation("linear")
    assert A.activation_grad(None, np.array([3.0])) == 1.0
    for name in ("Tanh", "", 3, "softmax2"):
        with pytest.raises(ValueError, match="activation: expected one of linear, "):
            A.activation(name)
    with pytest.raises(ValueError, match="received 'softmax'"):
        A.activation_grad("softmax", np.zeros(2))


# ---- dense ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", [None, "relu", "softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 0, 5), (0, 3, 5)])
def test_dense_gradients(shape, activation):
    rng = np.random.default_rng(1)
    x, kernel, bias = rng.standard_normal(shape), rng.standard_normal((5, 3)), rng.standard_normal(3)
    dy = rng.standard_normal((*shape[:-1], 3))
    for b in (bias, None):
        y, tape = dense_forward(x, kernel, b, activation=activation)
        np.testing.assert_array_equal(dense(x, kernel, b, activation=activation), y)
        gradients = dense_backward(tape, dy)

        def value(b=b):
            return np.sum(dense(x, kernel, b, activation=activation) * dy)

        assert_gradient(value, x, gradients.x)
        assert_gradient(value, kernel, gradients.kernel)
        if b is None:
            assert gradients.bias is None
        else:
            assert_gradient(value, bias, gradients.bias)


def test_dense_by_hand():
    y, tape = dense_forward(
        np.array([[1.0, 2.0]]), np.array([[3.0, -4.0], [5.0, 1.0]]), np.array([1.0, 1.0]), activation="relu"
    )
    assert y.tolist() == [[14.0, 0.0]]
    gradients = dense_backward(tape, np.array([[10.0, 100.0]]))
    assert gradients.x.tolist() == [[30.0, 50.0]]
    assert gradients.kernel.tolist() == [[10.0, 0.0], [20.0, 0.0]] and gradients.bias.tolist() == [10.0, 0.0]
    logits = dense_backward(tape, np.array([[10.0, 100.0]]), from_logits=True)
    assert logits.kernel.tolist() == [[10.0, 100.0], [20.0, 200.0]]


def test_dense_errors():
    x, kernel = np.zeros((2, 5)), np.zeros((5, 3))
    with pytest.raises(ValueError, match="kernel: expected"):
        dense(x, kernel.T)
    with pytest.raises(ValueError, match="bias: expected"):
        dense(x, kernel, np.zeros(5))
    with pytest.raises(ValueError, match="dy: expected"):
        dense_backward(dense_forward(x, kernel)[1], np.zeros((2, 5)))


# ---- masks, and the room itself -------------------------------------------------------------------------------------
def test_reference_masks():
    x = np.array([[[1.0, 0.0], [0.0, -0.0], [np.nan, 0.0]]])
    assert M.from_values(x).tolist() == [[True, False, True]]
    assert M.from_ids(np.array([[3, 0, 2]])).tolist() == [[True, False, True]]
    assert M.from_lengths([2, 0]).tolist() == [[True, True], [False, False]]
    assert M.from_lengths([], 3).shape == (0, 3)
    assert M.to_lengths(np.array([[True, False, True]])).tolist() == [2]


@pytest.mark.parametrize("stem", ["activation", "simple_rnn", "lstm", "gru"])
def test_examples(stem):
    assert_doctests(importlib.import_module(f"fastmask.reference.{stem}"))


def test_reference_imports_only_numpy_and_itself():
    for path in Path(fastmask.reference.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name in ("numpy", "math", "typing", "__future__") or name.startswith("fastmask.reference"), (
                    f"{path.name} imports {name}"
                )
