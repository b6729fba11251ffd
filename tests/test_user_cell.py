"""ops.user_cell: a user's compiled functions inside the library's loop, against the plain loop of the reference."""

import itertools
import re

import numpy as np
import pytest
from numba import jit, njit

from cases import DTYPES, EVERY_SWITCH, MASKS, assert_all_close, assert_same_bits, launched, launches, mask_named
from fastmask.kernels import _jit
from fastmask.ops.user_cell import UserCell, user_cell, user_cell_backward, user_cell_forward, user_cell_pack
from fastmask.ragged import Ragged
from fastmask.reference import user_cell as reference
from fresh import run
from helpers import assert_gradient, mask_cases
from user_cells import compiled, mix_step, mix_step_backward

B, T, F, H = 5, 6, 3, 2
SIZES = (2, 3)  # of the two states
S = sum(SIZES)
MIX = UserCell(compiled["mix_step"], compiled["mix_step_backward"], SIZES, H, S)
SUM = UserCell(compiled["sum_step"], compiled["sum_step_backward"], 1, 1)


class Problem:
    """Random inputs, weights, states and gradients for the cell MIX."""

    def __init__(self, B=B, T=T, F=F, dtype=np.float64, seed=0):
        self.dtype, self.B, self.T = np.dtype(dtype), B, T
        rng = np.random.default_rng([seed, B, T, F])

        def normal(*shape):
            return np.asarray(rng.standard_normal(shape) / 2, dtype)

        self.x, self.weights = normal(B, T, F), (normal(F, S), normal(S), normal(), normal(S, H))
        self.states, self.d_states = [tuple(normal(B, n) for n in SIZES) for _ in range(2)]
        self.d_sequence, self.d_last = normal(B, T, H), normal(B, H)

    def d_outputs(self, options):
        return self.d_sequence if options.get("return_sequences", True) else self.d_last

    def train(self, x=None, d_outputs=None, **options):
        """Every array that forward and backward make, by name."""
        x = self.x if x is None else x
        result, tape = user_cell_forward(x, self.weights, MIX, initial_state=self.states, **options)
        d_outputs = self.d_outputs(options) if d_outputs is None else d_outputs
        g = user_cell_backward(tape, d_outputs, self.d_states)
        found = {"outputs": result.outputs, "state 0": result.states[0], "state 1": result.states[1]}
        found.update({f"gradient of weight {i}": w for i, w in enumerate(g.weights)}, **{"gradient of x": g.x})
        found.update({f"gradient of state {i}": s for i, s in enumerate(g.initial_state)})
        return {name: a.values if type(a) is Ragged else a for name, a in found.items()}

    def infer(self, x=None, **options):
        return user_cell(self.x if x is None else x, self.weights, MIX, initial_state=self.states, **options)

    def reference(self, **options):
        weights = tuple(w.astype(np.float64) for w in self.weights)
        outputs, state, tape = reference.user_cell_forward(
            self.x.astype(np.float64),
            weights,
            mix_step,
            state_size=S,
            output_size=H,
            saved_size=S,
            initial_state=np.concatenate(self.states, axis=1),
            **options,
        )
        d_state = np.concatenate(self.d_states, axis=1)
        d_outputs = self.d_outputs(options).astype(np.float64)
        dx, d_weights, d_state = reference.user_cell_backward(tape, mix_step_backward, d_outputs, d_state)
        found = {"outputs": outputs, "gradient of x": dx}
        found.update({f"gradient of weight {i}": w for i, w in enumerate(d_weights)})
        for i, (s, d) in enumerate(zip(np.split(state, [2], 1), np.split(d_state, [2], 1), strict=True)):
            found.update({f"state {i}": s, f"gradient of state {i}": d})
        return found


# ---- values ---------------------------------------------------------------------------------------------------------
def test_by_hand():
    """The running sum of x, doubled; a masked step holds the output or gives zero, and changes no state."""
    x = np.array([[[9.0], [1.0], [9.0], [2.0]], [[1.0], [9.0], [9.0], [9.0]]])
    mask = np.array([[False, True, False, True], [False] * 4])
    start = np.array([[10.0], [20.0]])
    result = user_cell(x, (), SUM, mask=mask, initial_state=start)
    assert result.outputs[..., 0].tolist() == [[0, 22, 22, 26], [0, 0, 0, 0]]
    assert result.states[0].tolist() == [[13], [20]]
    zeroed = user_cell(x, (), SUM, mask=mask, initial_state=start, zero_output_for_mask=True)
    assert zeroed.outputs[..., 0].tolist() == [[0, 22, 0, 26], [0, 0, 0, 0]]
    assert user_cell(x, (), SUM, mask=mask, go_backwards=True).outputs[0, :, 0].tolist() == [4, 4, 6, 6]
    last = user_cell(x, (), SUM, mask=mask, initial_state=start, return_sequences=False)
    assert last.outputs.tolist() == [[26], [0]]

    _, tape = user_cell_forward(x, (), SUM, mask=mask, initial_state=start)
    g = user_cell_backward(tape, np.array([[[1.0], [10], [100], [1000]], [[1], [1], [1], [1]]]))
    assert g.x[..., 0].tolist() == [[0, 2220, 0, 2000], [0, 0, 0, 0]]
    assert g.initial_state[0].tolist() == [[2220], [0]]
    assert g.weights == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_and_switch_against_the_reference(name, dtype):
    problem = Problem(dtype=dtype)
    mask = mask_named(name, B, T)
    for switches in EVERY_SWITCH:
        found = problem.train(mask=mask, **switches)
        assert_all_close(found, problem.reference(mask=mask, **switches), dtype, k=16)
        result = problem.infer(mask=mask, **switches)
        assert_same_bits(result.outputs, found["outputs"], "inference and training")
        assert_same_bits(result.states, (found["state 0"], found["state 1"]))


@pytest.mark.parametrize("size", [(0, 4), (2, 0), (0, 0)])
def test_no_rows_or_no_steps(size):
    problem = Problem(*size)
    for mask, switches in itertools.product((None, np.ones(size, bool)), EVERY_SWITCH):
        found = problem.train(mask=mask, **switches)
        assert_same_bits(found["state 1"], problem.states[1])
        assert_same_bits(found["gradient of state 1"], problem.d_states[1])
        assert not found["outputs"].any() and not found["gradient of weight 0"].any()


@pytest.mark.parametrize("mask_name", mask_cases(1, 1))
def test_gradients_are_the_derivatives(mask_name):
    problem = Problem(3, 4)
    options = {"mask": mask_cases(3, 4)[mask_name], "go_backwards": mask_name == "holes"}
    found = problem.train(**options)

    def total():
        result = problem.infer(**options)
        pairs = zip((result.outputs, *result.states), (problem.d_sequence, *problem.d_states), strict=True)
        return sum(np.sum(a * d) for a, d in pairs)

    assert_gradient(total, problem.x, found["gradient of x"])
    for i, array in enumerate(problem.states):
        assert_gradient(total, array, found[f"gradient of state {i}"])
    for i, array in enumerate(problem.weights):
        assert_gradient(total, array, found[f"gradient of weight {i}"])


def test_absent_gradients_and_states():
    problem = Problem()
    mask = mask_cases(B, T)["right"]

    def backward(*d, **options):
        _, tape = user_cell_forward(problem.x, problem.weights, MIX, mask=mask)
        return user_cell_backward(tape, *d, **options)

    no_d, no_states = np.zeros_like(problem.d_sequence), tuple(map(np.zeros_like, problem.d_states))
    assert_same_bits(backward(None, problem.d_states), backward(no_d, problem.d_states))
    assert_same_bits(backward(problem.d_sequence), backward(problem.d_sequence, no_states))
    some = None, problem.d_states[1]
    assert_same_bits(backward(None, some), backward(no_d, (no_states[0], some[1])))
    assert backward(None, some).initial_state == (None, None)
    without = backward(problem.d_sequence, need_x=False)
    assert without.x is None
    assert_same_bits(without.weights, backward(problem.d_sequence).weights)


def test_one_initial_state_for_all_rows():
    problem = Problem()
    one = tuple(s[:1] for s in problem.states)
    result, tape = user_cell_forward(problem.x, problem.weights, MIX, initial_state=one)
    g = user_cell_backward(tape, problem.d_sequence)
    full = tuple(np.repeat(s, B, axis=0) for s in one)
    expected, tape = user_cell_forward(problem.x, problem.weights, MIX, initial_state=full)
    assert_same_bits(result, expected)
    wanted = user_cell_backward(tape, problem.d_sequence).initial_state
    assert_same_bits(g.initial_state, tuple(d.sum(axis=0, keepdims=True) for d in wanted))


def test_the_gradient_at_a_masked_step():
    """It is that of the output that is held there; with zero_output_for_mask it goes nowhere."""
    problem = Problem()
    mask = mask_cases(B, T)["holes"]
    d = problem.d_sequence.copy()
    d[~mask] = np.nan
    found = problem.train(mask=mask, zero_output_for_mask=True, d_outputs=d)
    assert_same_bits(found, problem.train(mask=mask, zero_output_for_mask=True))
    assert np.isnan(problem.train(mask=mask, d_outputs=d)["gradient of weight 0"]).any()


# ---- what may change no bit -----------------------------------------------------------------------------------------
LENGTHS = [6, 1, 4, 0, 6, 3, 5]
LONGEST = 9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"go_backwards": True, "restore_order": True}])
def test_a_row_is_itself(options, dtype):
    """Alone, in a batch, padded on either side, with holes, ragged; NaN stands under every mask."""
    problem = Problem(len(LENGTHS), LONGEST, dtype=dtype)
    rows = [problem.x[i, :n] for i, n in enumerate(LENGTHS)]
    ragged, rng = Ragged.from_list(rows), np.random.default_rng(1)

    def forward(x, mask=None, states=problem.states):
        result, tape = user_cell_forward(x, problem.weights, MIX, mask=mask, initial_state=states, **options)
        inference = user_cell(x, problem.weights, MIX, mask=mask, initial_state=states, **options)
        assert_same_bits(inference, result)
        return result, tape

    outputs, states = [], []
    for i, row in enumerate(rows):
        result, _ = forward(row[None], states=tuple(s[i : i + 1] for s in problem.states))
        outputs.append(result.outputs[0])
        states.append(result.states)
    expected = np.concatenate(outputs), tuple(map(np.concatenate, zip(*states, strict=True)))

    d_ragged = ragged.with_values(rng.standard_normal((sum(LENGTHS), H)).astype(dtype))
    result, tape = forward(ragged)
    assert_same_bits((result.outputs.values, result.states), expected, "ragged")
    gradients = user_cell_backward(tape, d_ragged)
    for name in ("right", "left", "holes"):
        mask = np.zeros((len(LENGTHS), LONGEST), bool)
        for i, n in enumerate(LENGTHS):
            holes = np.sort(rng.permutation(LONGEST)[:n])
            mask[i, {"right": slice(n), "left": slice(LONGEST - n, None), "holes": holes}[name]] = True
        x, d = np.full(problem.x.shape, np.nan, dtype), np.zeros((*mask.shape, H), dtype)
        x[mask], d[mask] = ragged.values, d_ragged.values
        result, tape = forward(x, mask)
        assert_same_bits((result.outputs[mask], result.states), expected, name)
        g = user_cell_backward(tape, d)
        assert_same_bits((g.x[mask], *g[1:]), (gradients.x.values, *gradients[1:]), name)
        assert not g.x[~mask].any()


def test_every_launch_and_number_of_threads():
    problem = Problem(40, 8, dtype=np.float32)  # more rows than there are sums of weight gradients
    mask = np.arange(8) < np.random.default_rng(0).integers(0, 9, (40, 1))
    with launched("serial", 1):
        expected = problem.train(mask=mask)
    for path, threads in launches():
        with launched(path, threads):
            assert_same_bits(problem.train(mask=mask), expected, f"{path}, {threads} threads")


# ---- functions that raise -------------------------------------------------------------------------------------------
@njit
def raising_step(x, state, weights, output, new_state, saved):
    if x[0] == 3:
        raise ValueError("three is too much")
    output[0] = 1 / (x[0] - 4)


@njit(boundscheck=True)
def beyond(x, state, weights, output, new_state, saved):
    output[0] = x[state.size]


@njit
def raising_step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights):
    if d_output[0] == 5:
        raise IndexError("a gradient of five")


@pytest.mark.parametrize("path", ["serial", "pool"])
def test_an_exception_in_a_step_is_raised(path):
    cell = UserCell(raising_step, raising_step_backward, 1, 1)
    x, d = np.zeros((50, 7, 1)), np.zeros((50, 7, 1))
    with launched(path, 2):
        for value, error, message in ((3, ValueError, "three is too much"), (4, ZeroDivisionError, "division by zero")):
            x[31, 4] = value
            for function in (user_cell, user_cell_forward):
                with pytest.raises(error, match=message):
                    function(x, (), cell)
        mask = x[..., 0] == 0  # what is under a mask raises nothing
        for zero in (5, 0):
            d[3, 2] = zero
            result, tape = user_cell_forward(x, (), cell, mask=mask)
            assert (result.outputs == -0.25).all()
            if zero == 5:
                with pytest.raises(IndexError, match="a gradient of five"):
                    user_cell_backward(tape, d)
        assert not user_cell_backward(tape, d).x.any()
        with pytest.raises(IndexError, match="out of bounds"):
            user_cell(x, (), UserCell(beyond, None, 1, 1))


@njit
def third_step(x, state, weights, output, new_state, saved):
    weights[0][0] += 1  # which no step should do
    if weights[0][0] == 3:
        raise ValueError("the third step")


def test_a_step_that_does_not_raise_again():
    cell = UserCell(third_step, None, 1, 1)
    with pytest.raises(RuntimeError, match="^step: raised in the loop, but not when that step was taken once more$"):
        user_cell(np.zeros((1, 5, 1)), [np.zeros(1)], cell)


# ---- functions that cannot be called --------------------------------------------------------------------------------
@njit
def four_arguments(x, state, weights, output):
    pass


@njit
def returns(x, state, weights, output, new_state, saved):
    return new_state[0]


@njit
def cannot_be_compiled(x, state, weights, output, new_state, saved):
    output[0] = x.no_such_method()


@njit(parallel=True)
def parallel(x, state, weights, output, new_state, saved):
    output[0] = new_state[0] = x[0]


@jit(forceobj=True)
def object_mode(x, state, weights, output, new_state, saved):
    output[0] = new_state[0] = x[0]


@njit("(float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], float32[::1])")
def other_signature(x, state, weights, output, new_state, saved):
    pass


@pytest.mark.parametrize(
    "function, error, message",
    [
        (mix_step, TypeError, "expected a function made with numba.njit, received <function .*, or NUMBA_DISABLE_JIT"),
        (3, TypeError, "expected a function made with numba.njit, received 3$"),
        (
            four_arguments,
            TypeError,
            r"expected the arguments \(x, state, weights, output, new_state, saved\), received a function of "
            r"\(x, state, weights, output\)$",
        ),
        (returns, TypeError, "expected to return nothing, returns float64$"),
        (cannot_be_compiled, TypeError, r"expected a function that numba can compile for \(x: .*no_such_method"),
        (parallel, ValueError, "expected parallel=False, received True"),
        (object_mode, TypeError, "expected a function in nopython mode .*received one in object mode$"),
        (other_signature, TypeError, "expected a function that numba can compile for .*compilation disabled"),
    ],
    ids=["plain", "number", "four_arguments", "returns", "cannot_be_compiled", "parallel", "object_mode", "other"],
)
def test_functions_that_cannot_be_called(function, error, message):
    with pytest.raises(error, match=re.compile("step: " + message, re.S)):
        user_cell(np.zeros((2, 3, 1)), (), UserCell(function, None, 1, 1))


def test_a_backward_that_cannot_be_called():
    """That is said before the first training call does any work."""
    cell = UserCell(raising_step, raising_step, 1, 1)
    assert user_cell(np.zeros((1, 1, 1)), (), cell).outputs.shape == (1, 1, 1)
    with pytest.raises(TypeError, match=r"^step_backward: expected the arguments \(x, state, weights, saved, d_output"):
        user_cell_forward(np.zeros((1, 1, 1)), (), cell)


def test_bad_input():
    problem = Problem()
    x, weights = problem.x, problem.weights
    with pytest.raises(TypeError, match="^weights: expected dtype float64 as x, received float32$"):
        user_cell(x, [w.astype(np.float32) for w in weights], MIX)
    with pytest.raises(TypeError, match="^weights: expected one dtype, received float64 and float32$"):
        user_cell(x, [weights[0], *[w.astype(np.float32) for w in weights[1:]]], MIX)
    with pytest.raises(ValueError, match=r"^x: expected shape \(B,T,F\), received \(5, 6\)$"):
        user_cell(x[..., 0], weights, MIX)
    with pytest.raises(ValueError, match=r"^initial_state: expected 2 array\(s\) in a tuple or list, received 1$"):
        user_cell(x, weights, MIX, initial_state=problem.states[:1])
    with pytest.raises(ValueError, match=r"^initial_state: expected shape \(B,S\) = \(5, 3\), received \(5, 2\)$"):
        user_cell(x, weights, MIX, initial_state=(problem.states[0],) * 2)
    _, tape = user_cell_forward(x, weights, MIX)
    with pytest.raises(ValueError, match=r"^d_outputs: expected shape \(B,T,H\) = \(5, 6, 2\), received \(5, 2\)$"):
        user_cell_backward(tape, problem.d_last)
    user_cell_backward(tape, problem.d_sequence)
    with pytest.raises(ValueError, match="^tape: expected one that was not used yet"):
        user_cell_backward(tape, problem.d_sequence)
    with pytest.raises(TypeError, match="^tape: expected the tape of user_cell_forward, received NoneType$"):
        user_cell_backward(None, problem.d_sequence)


def test_packed_weights_are_a_copy():
    problem = Problem()
    packed = user_cell_pack(problem.weights)
    expected = problem.infer()
    problem.weights[0][:] = 7
    assert_same_bits(user_cell(problem.x, None, MIX, initial_state=problem.states, packed=packed), expected)
    assert all(a.ctypes.data % 64 == 0 for a in packed.arrays(packed.memory))


# ---- compiling ------------------------------------------------------------------------------------------------------
CELL_FILE = """
from numba import jit, njit
from fastmask.ops.user_cell import UserCell

@njit(cache=True)
def step(x, state, weights, output, new_state, saved):
    output[0] = new_state[0] = state[0] + FACTOR * x[0]

@njit(cache=True)
def step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights):
    d_x[0] = FACTOR * (d_output[0] + d_new_state[0])
    d_state[0] = d_output[0] + d_new_state[0]

cell = UserCell(step, step_backward, 1, 1)
"""

USE = """
import json, sys
sys.path.insert(0, {folder!r})
import numpy as np
from fastmask.kernels import _jit
from fastmask.ops.user_cell import user_cell_backward, user_cell_forward
from my_cell import cell

compiled, emit = [], _jit._emit
_jit._emit = lambda function, signature: compiled.append(function.__name__) or emit(function, signature)
result, tape = user_cell_forward(np.ones((2, 3, 1)), (), cell)
g = user_cell_backward(tape, result.outputs)
hits = [sum(f.stats.cache_hits.values()) for f in (cell.step, cell.step_backward)]
print(json.dumps([result.outputs[0, :, 0].tolist(), g.x[0, :, 0].tolist(), compiled, hits]))
"""


def test_the_second_process_compiles_nothing(tmp_path):
    """Neither the loop, which the library's cache holds, nor the functions if they were made with cache=True; and an
    edit of these takes effect."""
    file, code, cache = tmp_path / "my_cell.py", USE.format(folder=str(tmp_path)), tmp_path / "cache"
    file.write_text(CELL_FILE.replace("FACTOR", "2"))
    first, second = run(code, cache), run(code, cache)
    assert first[:2] == second[:2] == [[2, 4, 6], [24, 20, 12]]
    assert {"forward", "backward", "caller"} <= set(first[2]) and first[3] == [0, 0]
    assert second[2:] == [[], [1, 1]]
    file.write_text(CELL_FILE.replace("FACTOR", "30"))
    outputs, _, compiled_again, hits = run(code, cache)
    assert (outputs, compiled_again, hits) == ([30, 60, 90], [], [0, 0])


NOTEBOOK = """
@njit
def step(x, state, weights, output, new_state, saved):
    output[0] = new_state[0] = state[0] + FACTOR * x[0]
"""


def test_in_a_notebook():
    """Functions that stand in no file; one that is defined anew takes effect."""
    for factor in (2, 30):
        cell_of_notebook = {"njit": njit}
        exec(NOTEBOOK.replace("FACTOR", str(factor)), cell_of_notebook)
        cell = UserCell(cell_of_notebook["step"], None, 1, 1)
        outputs = user_cell(np.ones((1, 2, 1)), (), cell).outputs
        assert outputs[0, :, 0].tolist() == [factor, 2 * factor]


def test_a_function_is_compiled_anew():
    """By its own `recompile`, after a change that numba does not see."""
    factor = 2.0

    @njit
    def step(x, state, weights, output, new_state, saved):
        output[0] = new_state[0] = factor * x[0]

    cell, x = UserCell(step, None, 1, 1), np.ones((1, 1, 1))
    assert user_cell(x, (), cell).outputs.item() == 2
    factor = 5.0
    step.recompile()
    assert user_cell(x, (), cell).outputs.item() == 5


@njit
def two_weights(x, state, weights, output, new_state, saved):
    W, b = weights
    for j in range(output.size):
        output[j] = new_state[j] = b[j] + x[0] * W[0, j]


def test_one_loop_for_all_cells():
    """What depends on the number of weights is the caller alone."""
    user_cell(np.zeros((1, 1, 2)), (), SUM._replace(state_size=2, output_size=2))
    before = set(_jit._kernels)
    user_cell(np.zeros((1, 1, 2)), [np.zeros((2, 2)), np.zeros(2)], UserCell(two_weights, None, 2, 2))
    assert {name for _, name, _ in set(_jit._kernels) - before} <= {"call_step_21"}  # another test may have had it
    assert "call_step_21" in {name for _, name, _ in _jit._kernels}
    with pytest.raises(AttributeError, match="no_such_kernel"):
        _jit.get("user_cell", "no_such_kernel", "float64")
