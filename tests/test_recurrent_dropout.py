"""Dropout inside the recurrent ops: factors of x and of h, one for each row and gate, the same at all steps."""

import itertools

import numpy as np
import pytest

from cases import CELLS, DTYPES, EMPTY_SIZES, EVERY_SWITCH, Problem, assert_all_close, assert_same_bits, launched, named
from fastmask.ragged import Ragged
from helpers import assert_close, assert_gradient, mask_cases

K = 24  # as in recurrent_tests.py
FORMS = list(itertools.product((None, "row", "gate"), (None, "row", "gate")))[1:]  # of the factors of x and of h
SIZES = [(1, 1, 1, 1), (3, 4, 1, 5), (7, 5, 3, 17), (4, 6, 18, 33), (3, 5, 4, 70), (65, 9, 3, 18), (2, 4, 3, 130)]


def factors(problem, forms=("gate", "gate"), seed=0):
    """input_factors and recurrent_factors: mostly kept and scaled, some 0."""
    rng = np.random.default_rng([seed, 1])

    def draw(form, K):
        if form is None:
            return None
        shape = (problem.B, K) if form == "row" else (problem.B, problem.cell.gates, K)
        return ((rng.random(shape) >= 0.3) * rng.uniform(0.5, 1.5, shape)).astype(problem.dtype)

    return {"input_factors": draw(forms[0], problem.F), "recurrent_factors": draw(forms[1], problem.H)}


def check(problem, given, **options):
    """Forward and backward against the float64 reference."""
    as_float64 = {name: None if f is None else f.astype(np.float64) for name, f in given.items()}
    actual = problem.train(**options, **given)
    assert_all_close(actual, problem.reference(**options, **as_float64), problem.dtype, K)
    return actual


# ---- by hand --------------------------------------------------------------------------------------------------------
def one_linear_step(cell, kernel, recurrent, states, **given):
    """The last state after one step with x = 1, everything linear, no bias."""
    activations = dict.fromkeys(CELLS[cell].activations)
    kernel, recurrent = np.array([kernel], float), np.array([recurrent], float)
    given = {name: np.array([[[float(f)] for f in row]]) for name, row in given.items()}
    options = {**activations, **CELLS[cell].variant, **given}
    states = tuple(np.array([[float(s)]]) for s in states)
    result, _ = CELLS[cell].forward(np.ones((1, 1, 1)), kernel, recurrent, initial_state=states, **options)
    return [float(s[0, 0]) for s in result.states]


def test_simple_rnn_by_hand():
    """h = 2 * 3 * x + 5 * 7 * h = 6 + 35 * 11"""
    assert one_linear_step("simple_rnn", [3], [7], [11], input_factors=[2], recurrent_factors=[5]) == [6 + 35 * 11]


def test_lstm_by_hand():
    """i = 1*2 + 5*2*3 = 32, f = 2*3 + 1*3*3 = 15, g = 3*1 + 0 = 3, o = 0 + 7*3 = 21; c = 15*4 + 32*3; h = 21 c"""
    found = one_linear_step(
        "lstm", [2, 3, 1, 9], [2, 3, 8, 1], [3, 4], input_factors=[1, 2, 3, 0], recurrent_factors=[5, 1, 0, 7]
    )
    assert found == [21 * 156, 156]


def test_gru_by_hand():
    """z = 2*1 + 3*5*1 = 17, r = 0 + 1*5*2 = 10; the candidate meets h = 5 as 2*5, z h has the whole 5.

    after: g = 1*4 + 10 * (2*5*3) = 304. before: g = 4 + 2*(10*5)*3 = 304. h = 17*5 - 16*304
    """
    given = {"input_factors": [2, 0, 1], "recurrent_factors": [3, 1, 2]}
    for cell in ("gru", "gru_before"):
        assert one_linear_step(cell, [1, 9, 4], [1, 2, 3], [5], **given) == [17 * 5 - 16 * 304]


# ---- against the reference ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_form_and_mask(cell, dtype):
    problem = Problem(cell, dtype=dtype)
    for forms, (name, mask) in itertools.product(FORMS, mask_cases(problem.B, problem.T).items()):
        found = check(problem, factors(problem, forms), mask=mask, initial_state=problem.states)
        assert not found["gradient of x"][~mask].any(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_switch(cell, dtype):
    problem = Problem(cell, dtype=dtype)
    mask = mask_cases(problem.B, problem.T)["holes"]
    for switches, states in itertools.product(EVERY_SWITCH, (None, problem.states)):
        check(problem, factors(problem), mask=mask, initial_state=states, **switches)
    check(problem, factors(problem), mask=mask, use_bias=False)
    others = dict(zip(problem.cell.activations, ("mish", "softsign"), strict=False))
    check(problem, factors(problem), mask=mask, initial_state=problem.states, **others)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, *EMPTY_SIZES])
@pytest.mark.parametrize("cell", CELLS)
def test_sizes(cell, size, dtype):
    problem = Problem(cell, *size, dtype=dtype)
    check(problem, factors(problem), mask=mask_cases(*size[:2])["right"], initial_state=problem.states)


@pytest.mark.parametrize("cell", CELLS)
def test_differences(cell):
    """The reference against order-4 differences of itself; with a mask, and in reversed order."""
    problem = Problem(cell, 3, 4, 2, 3)
    mask = mask_cases(3, 4)["first_masked"]
    for forms, switches in ((("gate", "gate"), {}), (("row", "gate"), {"go_backwards": True, "restore_order": True})):
        given = {**factors(problem, forms), **switches, "mask": mask, "initial_state": problem.states}
        found = problem.reference(**given)

        def value(given=given):
            result, _ = problem.cell.reference_forward(problem.x, *problem.weights, **problem.cell.variant, **given)
            total = np.sum(result.outputs * problem.d_sequence)
            return total + sum(np.sum(s * d) for s, d in zip(result.states, problem.d_states, strict=True))

        for name in ("x", "kernel", "recurrent_kernel", "bias"):
            assert_gradient(value, getattr(problem, name), found[f"gradient of {name}"])
        for i, state in enumerate(problem.states):
            assert_gradient(value, state, found[f"gradient of state {i}"])


# ---- relations ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_ones_change_nothing(cell, dtype):
    """Forward to the bit: the chains are those of the ordinary kernels."""
    problem = Problem(cell, 9, 7, 5, 33, dtype)
    options = {"mask": mask_cases(9, 7)["holes"], "initial_state": problem.states}
    expected = problem.train(**options)
    for forms in FORMS:
        ones = {name: None if f is None else np.ones_like(f) for name, f in factors(problem, forms).items()}
        found = problem.train(**options, **ones)
        assert_all_close(found, expected, dtype, K)
        for name in expected:
            if "gradient" not in name:
                assert_same_bits(found[name], expected[name], f"{forms} {name}")


@pytest.mark.parametrize("cell", CELLS)
def test_factors_of_x_are_factors_of_the_inputs(cell):
    """The same for all gates: x itself times the factors; and a factor of 0 at every gate: nothing of x, or of h."""
    problem = Problem(cell)
    row = factors(problem, ("row", None))["input_factors"]
    expected = problem.train(x=problem.x * row[:, None])
    expected["gradient of x"] *= row[:, None]
    every = np.repeat(row[:, None], problem.cell.gates, axis=1)
    assert_same_bits(problem.train(input_factors=row), expected)
    assert_all_close(problem.train(input_factors=every), expected, problem.dtype, K)

    nothing = {"input_factors": np.zeros_like(every), "recurrent_factors": np.zeros((problem.B, problem.H))}
    found = problem.train(**nothing)
    for name in ("x", "kernel", "recurrent_kernel"):
        assert not found[f"gradient of {name}"].any(), name
    assert found["gradient of bias"].any()


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_is_itself(cell):
    """Alone, padded, with holes, ragged, on any number of threads: outputs and states keep their bits, and the
    gradients of weights add up."""
    problem = Problem(cell, 8, 12, 7, 33, np.float32)
    lengths = [9, 1, 4, 0, 12, 7, 2, 5]
    given = factors(problem)
    rows = [problem.x[i, :n] for i, n in enumerate(lengths)]
    ragged = Ragged.from_list(rows)
    result, tape = problem.forward(x=ragged, initial_state=problem.states, **given)
    d_steps = Ragged(problem.d_sequence[0][np.arange(sum(lengths)) % 12], ragged.offsets)
    expected = named(result, problem.cell.backward(tape, d_steps, problem.d_states))

    for layout in ("right", "left", "holes"):
        mask = np.zeros((8, 12), bool)
        for i, n in enumerate(lengths):
            places = {"right": np.arange(n), "left": np.arange(12 - n, 12), "holes": np.arange(n) * 12 // max(n, 1)}
            mask[i, places[layout]] = True
        x, d = np.full((8, 12, 7), np.nan, np.float32), np.zeros((8, 12, 33), np.float32)
        x[mask], d[mask] = ragged.values, d_steps.values
        for path, threads in (("serial", 1), ("pool", 3)):
            with launched(path, threads):
                found = problem.train(x=x, d_outputs=d, mask=mask, initial_state=problem.states, **given)
            for name in ("outputs", "gradient of x"):
                found[name] = found[name][mask]
            assert_same_bits(found, expected, f"{layout} {path}")

    total = {name: 0 for name in ("kernel", "recurrent_kernel", "bias")}
    for i, x in enumerate(rows):
        own = {name: f[i : i + 1] for name, f in given.items()}
        state = tuple(s[i : i + 1] for s in problem.states)
        result, tape = problem.forward(x=x[None], initial_state=state, **own)
        gradients = problem.cell.backward(tape, d_steps[i][None], tuple(d[i : i + 1] for d in problem.d_states))
        assert_same_bits(result.outputs[0], expected["outputs"][ragged.offsets[i] :][: lengths[i]])
        assert_same_bits(gradients.x[0], expected["gradient of x"][ragged.offsets[i] :][: lengths[i]])
        for k in range(problem.cell.states):
            assert_same_bits(result.states[k][0], expected[f"state {k}"][i])
            assert_same_bits(gradients.initial_state[k][0], expected[f"gradient of state {k}"][i])
        total = {name: total[name] + getattr(gradients, name).astype(float) for name in total}
    for name, sum_ in total.items():
        largest = np.abs(sum_).max()
        assert_close(expected[f"gradient of {name}"] / largest, sum_ / largest, np.float32, k=64)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("cell", CELLS)
def test_garbage_under_a_mask_changes_no_bit(cell, garbage):
    problem = Problem(cell, dtype=np.float32)
    for forms, name in itertools.product(FORMS, ("right", "holes")):
        mask = mask_cases(problem.B, problem.T)[name]
        options = {"mask": mask, "initial_state": problem.states, **factors(problem, forms)}
        dirty = np.where(mask[..., None], problem.x, np.float32(garbage))
        assert_same_bits(problem.train(x=dirty, **options), problem.train(**options), f"{forms} {name}")


# ---- bad input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
def test_bad_factors(cell):
    problem = Problem(cell, 3, 4, 2, 5)
    G = problem.cell.gates
    for name, size in (("input_factors", 2), ("recurrent_factors", 5)):
        for shape in ((3, size + 1), (2, size), (3, G + 1, size), (3,), (3, 4, G, size)):
            expected = rf"^{name}: expected shape \(3, {G}, {size}\) or \(3, {size}\), received "
            with pytest.raises(ValueError, match=expected):
                problem.forward(**{name: np.ones(shape)})
        with pytest.raises(TypeError, match=f"^{name}: expected dtype float64 as x, received float32"):
            problem.forward(**{name: np.ones((3, size), np.float32)})
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            problem.infer(**{name: np.ones((3, size))})
