"""The promise on bits: what a row gives depends on that row alone, and what a call gives not on how it is launched.

Forward: a row alone = in a batch = right-padded = left-padded = with holes = ragged = in any order of rows; inference =
training. Forward and gradients: serial = prange = own pool, with 1, 2, 3, 7 threads. That the CPU does not matter
either is tested in test_guard_pages.py.
"""

import numpy as np
import pytest

import fastmask as fm
from cases import CELLS, DTYPES, Problem, assert_same_bits, launched, launches, named, prange_is_usable
from fastmask.kernels import _jit
from fastmask.ops import _recurrent
from fastmask.ragged import Ragged

# (F, H): off the lane grid, ones, several panels, a tile's row of panels and one more
SIZES = [(3, 1), (1, 5), (7, 17), (16, 33), (5, 70), (64, 128), (2, 130)]
LENGTHS = [9, 1, 4, 0, 9, 7, 2, 5, 3, 9, 6]  # more rows than a tile has


class Rows:
    """Sequences of LENGTHS steps, and the same steps padded in several ways."""

    def __init__(self, cell, F, H, dtype):
        self.problem = Problem(cell, len(LENGTHS), max(LENGTHS) + 4, F, H, dtype)
        self.rows = [self.problem.x[i, :n] for i, n in enumerate(LENGTHS)]
        self.ragged = Ragged.from_list(self.rows)
        rng = np.random.default_rng(7)
        B, T = self.problem.B, self.problem.T
        self.layouts = {name: np.zeros((B, T), bool) for name in ("right", "left", "holes")}
        for i, n in enumerate(LENGTHS):
            self.layouts["right"][i, :n] = True
            self.layouts["left"][i, T - n :] = True
            self.layouts["holes"][i, np.sort(rng.permutation(T)[:n])] = True
        self.padded = {name: np.full((B, T, F), np.nan, dtype) for name in self.layouts}
        for name, mask in self.layouts.items():
            self.padded[name][mask] = self.ragged.values

    def state(self, i):
        return tuple(s[i : i + 1] for s in self.problem.states)

    def alone(self, i, **options):
        """(outputs of the steps, last output, states) of row i by itself."""
        x, state = self.rows[i][None], self.state(i)
        result = self.problem.infer(x=x, initial_state=state, **options)
        last = self.problem.infer(x=x, initial_state=state, return_sequences=False, **options)
        assert_same_bits(last.states, result.states)
        return result.outputs[0], last.outputs[0], [s[0] for s in result.states]

    def each(self, x, mask, rows=None, **options):
        """The same of every row of a batch; rows: which rows x holds, in order."""
        rows = np.arange(len(LENGTHS)) if rows is None else rows
        states = tuple(s[rows] for s in self.problem.states)
        result = self.problem.infer(x=x, mask=mask, initial_state=states, **options)
        last = self.problem.infer(x=x, mask=mask, initial_state=states, return_sequences=False, **options)
        assert_same_bits(last.states, result.states)
        outputs = list(result.outputs) if mask is None else [o[m] for o, m in zip(result.outputs, mask, strict=True)]
        return [(o, last.outputs[k], [s[k] for s in result.states]) for k, o in enumerate(outputs)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_is_itself(cell, size, dtype):
    rows = Rows(cell, *size, dtype)
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    for options in ({}, {"go_backwards": True, "restore_order": True}):
        expected = [rows.alone(i, **options) for i in range(len(LENGTHS))]
        for name, mask in rows.layouts.items():
            assert_same_bits(rows.each(rows.padded[name], mask, **options), expected, name)
        assert_same_bits(rows.each(rows.ragged, None, **options), expected, "ragged")
        shuffled = rows.each(rows.ragged.take(order), None, order, **options)
        assert_same_bits(shuffled, [expected[i] for i in order], "ragged, other order")
        right = rows.padded["right"][order], rows.layouts["right"][order]
        assert_same_bits(rows.each(*right, order, **options), [expected[i] for i in order], "padded, other order")
        for part in ([0], [0, 1], [2, 5, 7], list(range(7))):
            some = rows.each(rows.ragged.take(part), None, part, **options)
            assert_same_bits(some, [expected[i] for i in part], f"rows {part}")
        # a row beside itself, many times: as many rows as a tile has, and more than a worker has in flight
        for count in (*range(1, 9), 50):
            many = rows.each(rows.ragged.take([5] * count), None, [5] * count, **options)
            assert_same_bits(many, [expected[5]] * count, f"{count} times the same row")


def assert_same_in_every_launch(rows):
    """Outputs, states and gradients; and training gives what inference gives."""
    problem = rows.problem
    calls = [
        {"x": rows.padded["holes"], "mask": rows.layouts["holes"]},
        {"x": rows.padded["right"], "mask": rows.layouts["right"], "go_backwards": True, "restore_order": True},
        {"x": rows.ragged, "d_outputs": None},
    ]
    d_ragged = rows.ragged.with_values(problem.d_sequence[rows.layouts["right"]])

    def train(call):
        if type(call["x"]) is Ragged:
            call = {**call, "d_outputs": d_ragged}
        return problem.train(initial_state=problem.states, **call)

    with launched("serial", 1):
        expected = [train(call) for call in calls]
    for path, threads in launches():
        with launched(path, threads):
            for call, e in zip(calls, expected, strict=True):
                message = f"{path}, {threads} threads"
                assert_same_bits(train(call), e, message)
                call = {name: a for name, a in call.items() if name != "d_outputs"}
                result = problem.infer(initial_state=problem.states, **call)
                outputs = result.outputs.values if type(result.outputs) is Ragged else result.outputs
                assert_same_bits(outputs, e["outputs"], f"inference, {message}")
                assert_same_bits(list(result.states), [e[f"state {i}"] for i in range(len(problem.states))], message)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_launch_and_number_of_threads(cell, size, dtype):
    assert_same_in_every_launch(Rows(cell, *size, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_threads_that_share_the_steps_of_all_rows(cell, size, dtype, monkeypatch):
    """As they do when the weights are large: here they are taken for it."""
    monkeypatch.setattr(_recurrent, "FAR_WEIGHTS", -1)
    shares = []
    monkeypatch.setattr(
        _recurrent, "Shares", lambda *a, make=_recurrent.Shares: (shares.append(make(*a)), shares[-1])[1]
    )
    assert_same_in_every_launch(Rows(cell, *size, dtype))
    assert {(s.parts, s.rows) for s in shares} >= {(threads, len(LENGTHS)) for threads in (2, 3, 7)}


@pytest.mark.parametrize("cell", CELLS)
def test_large_enough_for_threads(cell):
    """A size at which the library goes parallel by itself, with every number of threads, against the serial path."""
    problem = Problem(cell, 40, 30, 33, 65, np.float32)
    mask = np.arange(30) < np.random.default_rng(0).integers(0, 31, (40, 1))
    options = {"mask": mask, "initial_state": problem.states}
    assert mask.sum() * (33 + 65) * problem.cell.gates * 65 > _jit.SERIAL_WORK
    with launched("serial", 1):
        expected = problem.train(**options)
    before = fm.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            fm.set_num_threads(threads)
            assert fm.get_num_threads() == threads
            assert_same_bits(problem.train(**options), expected, f"{threads} threads")
            assert_same_bits(problem.infer(**options).outputs, expected["outputs"], f"inference, {threads} threads")
    finally:
        fm.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_no_gradient(cell, dtype):
    """Appended or prepended masked steps, holes, rows without a step: the gradients keep their bits."""
    rows = Rows(cell, 7, 17, dtype)
    problem = rows.problem
    d_steps = problem.d_sequence[rows.layouts["right"]]
    expected = problem.train(x=rows.ragged, d_outputs=rows.ragged.with_values(d_steps), initial_state=problem.states)
    for name, mask in rows.layouts.items():
        d_outputs = np.zeros_like(problem.d_sequence)
        d_outputs[mask] = d_steps
        found = problem.train(x=rows.padded[name], mask=mask, d_outputs=d_outputs, initial_state=problem.states)
        for part in ("gradient of x", "outputs"):
            found[part] = found[part][mask]
        assert_same_bits(found, expected, name)


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_of_the_gradients_is_itself(cell):
    """Gradients of x and of initial states belong to their row alone, too."""
    rows = Rows(cell, 7, 33, np.float32)
    problem = rows.problem
    d_steps = rows.ragged.with_values(problem.d_sequence[rows.layouts["right"]])
    found = problem.train(x=rows.ragged, d_outputs=d_steps, initial_state=problem.states)
    for i, n in enumerate(LENGTHS):
        result, tape = problem.forward(x=rows.rows[i][None], initial_state=rows.state(i))
        gradients = problem.cell.backward(tape, d_steps[i][None], tuple(d[i : i + 1] for d in problem.d_states))
        alone = named(result, gradients)
        assert_same_bits(alone["gradient of x"][0], found["gradient of x"][rows.ragged.offsets[i] :][:n])
        for k in range(len(problem.states)):
            assert_same_bits(alone[f"gradient of state {k}"][0], found[f"gradient of state {k}"][i])


def test_paths_are_really_taken(monkeypatch):
    """That serial, prange and pool are three ways: each leaves its own trace."""
    problem = Problem("gru", 9, 5, 3, 17)
    seen = []
    monkeypatch.setattr(_jit._pool, "run", lambda *a, run=_jit._pool.run: (seen.append("pool"), run(*a))[1])
    if prange_is_usable():
        state = _jit._prange_state
        monkeypatch.setattr(_jit, "_prange_state", lambda *a: (seen.append("prange"), state(*a))[1])
    for path, _ in launches():
        seen.clear()
        with launched(path, 3):
            problem.infer()
        assert set(seen) == ({path} if path != "serial" else set())
