"""Small training calls use the memory and the prepared launches of earlier ones again (ops/_training.py): to the bit
what a first call gives, whatever came before.
"""

import gc
import threading
import weakref

import numpy as np
import pytest

from cases import CELLS, DTYPES, EVERY_SWITCH, Problem, assert_same_bits
from fastmask.ops import _training

B, T, F, H = 5, 9, 3, 19


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """Of this test alone; the real one may have got something from another test."""
    monkeypatch.setattr(_training, "_kept", _training._Kept())
    return _training._kept


def problems(cell, dtype, count=4):
    """Equal shapes, other numbers."""
    found = [Problem(cell, B, T, F, H, dtype) for _ in range(count)]
    for i, problem in enumerate(found):
        for name in ("x", "kernel", "recurrent_kernel", "bias", "d_sequence", "d_last"):
            setattr(problem, name, np.roll(getattr(problem, name), i, axis=-1))
        problem.states = tuple(np.roll(s, i, axis=-1) for s in problem.states)
    return found


def masks():
    """Most steps, few, none in some rows, none at all, every one, most again."""
    rng = np.random.default_rng(0)
    most = rng.random((B, T)) < 0.8
    none_in_some = most.copy()
    none_in_some[[0, 3]] = False
    return [most, rng.random((B, T)) < 0.2, none_in_some, np.zeros((B, T), bool), np.ones((B, T), bool), most]


def first(monkeypatch, run):
    """What `run` gives where nothing has run before."""
    with monkeypatch.context() as patch:
        patch.setattr(_training, "_kept", _training._Kept())
        return run()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_other_weights_masks_and_states(cell, dtype, monkeypatch, kept):
    numbers = problems(cell, dtype)
    for switches in (*EVERY_SWITCH[::5], {}):
        for i, mask in enumerate([*masks(), None, None]):
            problem = numbers[i % len(numbers)]
            for given in (None, problem.states):
                options = {"mask": mask, "initial_state": given, "need_x": i % 3 > 0, **switches}
                expected = first(monkeypatch, lambda: problem.train(**options))  # noqa: B023
                assert_same_bits(problem.train(**options), expected, f"{switches}, mask {i}")
    assert 2 <= len(kept._free) <= 16


@pytest.mark.parametrize("cell", CELLS)
def test_is_really_used_again(cell, monkeypatch):
    made = []
    original = _training.Training.__init__
    monkeypatch.setattr(_training.Training, "__init__", lambda self, *a: (made.append(1), original(self, *a))[1])
    problem = Problem(cell, B, T, F, H, np.float32)
    for mask in masks():
        problem.train(mask=mask)
    assert len(made) == 1
    problem.train()  # without a mask
    problem.train(mask=mask, return_sequences=False)
    problem.train(mask=mask, use_bias=False)
    assert len(made) == 4
    large = Problem(cell, 2, 1 << 15, 1, 1, np.float32)
    for _ in range(2):
        large.train()
    assert len(made) == 6


@pytest.mark.parametrize("cell", CELLS)
def test_weights_that_are_packed_by_the_caller(cell, monkeypatch):
    for problem, mask in zip(problems(cell, np.float32), masks(), strict=False):
        packed = problem.cell.pack(*problem.weights, **problem.cell.variant)
        expected = first(monkeypatch, lambda: problem.train(mask=mask, packed=packed))  # noqa: B023
        assert_same_bits(problem.train(mask=mask, packed=packed), expected)
        assert_same_bits(problem.train(mask=mask), expected, "packed by the op")


@pytest.mark.parametrize("cell", CELLS)
def test_two_tapes_at_once(cell, monkeypatch):
    """Stacked layers of one shape; and a tape that nobody uses."""
    one, two, *_ = problems(cell, np.float32)
    mask, other, *_ = masks()
    expected = [first(monkeypatch, lambda: p.train(mask=m)) for p, m in ((one, mask), (two, other))]  # noqa: B023
    for _ in range(3):
        one.forward(mask=other)
        (result, tape), (result2, tape2) = one.forward(mask=mask), two.forward(mask=other)
        gradients2 = two.cell.backward(tape2, two.d_sequence, two.d_states)
        gradients = one.cell.backward(tape, one.d_sequence, one.d_states)
        for r, g, e in ((result, gradients, expected[0]), (result2, gradients2, expected[1])):
            assert_same_bits(
                [r.outputs, g.kernel, g.x], [e[k] for k in ("outputs", "gradient of kernel", "gradient of x")]
            )
        with pytest.raises(ValueError, match="used one"):
            one.cell.backward(tape, one.d_sequence)


def test_an_error_keeps_the_tape(monkeypatch):
    problem = Problem("gru", B, T, F, H, np.float32)
    expected = first(monkeypatch, problem.train)
    for _ in range(2):
        result, tape = problem.forward()
        with pytest.raises(ValueError, match="d_outputs"):
            problem.cell.backward(tape, problem.d_sequence[:, 1:])
        gradients = problem.cell.backward(tape, problem.d_sequence, problem.d_states)
        assert_same_bits(gradients.kernel, expected["gradient of kernel"])


def test_results_are_the_callers(monkeypatch):
    """No array of a result lies in memory that is used again; nothing is kept alive of x and of what came out."""
    problem = Problem("lstm", B, T, F, H, np.float32)
    before = problem.train()
    copies = {name: None if a is None else a.copy() for name, a in before.items()}
    problems("lstm", np.float32)[1].train()
    assert_same_bits(before, copies)
    x = problem.x.copy()
    alive = [weakref.ref(a) for a in (x, *problem.train(x=x).values()) if a is not None and a.base is None]
    assert len(alive) >= 5
    del x
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_threads(cell, monkeypatch):
    numbers = problems(cell, np.float32)
    expected = [first(monkeypatch, problem.train) for problem in numbers]
    failed = []

    def work(problem, expected):
        try:
            for _ in range(200):
                assert_same_bits(problem.train(), expected)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(numbers, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]


def test_not_more_than_so_many_are_kept(kept):
    for rows in range(1, 40):
        Problem("simple_rnn", rows, 2, 2, 3, np.float32).train()
    assert len(kept._free) == 16
    for rows in (5, 6, 7, 8):
        Problem("simple_rnn", rows, 1500, 2, 200, np.float32).train()
    assert len(kept._free) < 16
    assert sum(t.hs.nbytes + t.ws.nbytes + t.x_rows.nbytes for t in kept._free) <= kept.MOST


def test_a_training_that_is_not_kept_goes_at_once():
    """Without the help of the garbage collector: it is large."""
    problem = Problem("lstm", 2, 1 << 15, 1, 1, np.float32)
    result, tape = problem.forward()
    training = weakref.ref(tape.training[0])
    gc.disable()
    try:
        problem.cell.backward(tape, problem.d_sequence)
        assert training() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_is_a_row_of_one_valid_step(cell):
    """Without a state before it nothing goes back through the recurrent kernel: then it is not even packed."""
    one, two = Problem(cell, B=5, T=1, F=3, H=33), Problem(cell, B=5, T=2, F=3, H=33)
    for a in ("kernel", "recurrent_kernel", "bias", "states", "d_states"):
        setattr(two, a, getattr(one, a))
    two.x[:, :1], two.d_sequence[:, :1] = one.x, one.d_sequence
    for states in (None, one.states):
        a = one.train(initial_state=states)
        b = two.train(initial_state=states, mask=np.array([[True, False]] * 5), zero_output_for_mask=True)
        for name in ("outputs", "gradient of x"):
            b[name] = np.ascontiguousarray(b[name][:, :1])
        assert_same_bits(a, b)
