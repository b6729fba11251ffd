"""Prepared calls, and the shortest way of a plain call: the bits of the general way, whatever changes between calls."""

import copy
import pickle
import threading

import numpy as np
import pytest

from cases import launched, launches
from fastmask import layers
from fastmask.kernels import _jit
from helpers import mask_cases
from test_layers import CELLS
from test_layers import random as random64

B, T, F, H = 5, 9, 3, 6
MASKS = mask_cases(B, T)


def random(*shape):
    return random64(*shape).astype(np.float32)


def make(cell, **options):
    cls, own = CELLS[cell]
    layer = cls(H, bias_initializer="random_normal", return_state=True, **{**own, **options})
    layer(random(1, 1, F))
    return layer


def expected(layer, x, mask=None, states=None):
    """(outputs, states) of the ops, by the general way."""
    result = layer._infer(
        *(x, *layer._arrays()),
        mask=mask,
        initial_state=states,
        go_backwards=layer.go_backwards,
        zero_output_for_mask=layer.zero_output_for_mask,
        return_sequences=layer.return_sequences,
        **layer._cell_options,
    )
    return [result.outputs, *result.states]


def assert_bits(received, wanted):
    for r, w in zip(received, wanted, strict=True):
        np.testing.assert_array_equal(r.view(np.uint8), w.view(np.uint8))


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"zero_output_for_mask": True, "dtype": "float64"}])
@pytest.mark.parametrize("cell", CELLS)
def test_bits_of_the_general_way(cell, options, return_sequences):
    layer = make(cell, return_sequences=return_sequences, **options)
    x = random(B, T, F).astype(layer.dtype)
    call = layer.prepare(B, T)
    call.inputs[...] = x
    assert call() is call.outputs
    assert call.mask is None
    assert_bits([call.outputs, *call.states], expected(layer, x))
    assert_bits(layer(x), expected(layer, x))
    masked = layer.prepare(B, T, masked=True)
    for mask in [*MASKS.values(), np.ones((B, T), bool), np.zeros((B, T), bool)]:
        garbage = x.copy()
        garbage[~mask] = np.nan
        masked.inputs[...], masked.mask[...] = garbage, mask
        masked()
        wanted = expected(layer, x, mask)
        assert_bits([masked.outputs, *masked.states], wanted)
        received = layer(garbage, mask=mask)
        assert_bits([np.asarray(received[0]), *received[1:]], wanted)


@pytest.mark.parametrize("cell", CELLS)
def test_stateful_goes_on_where_the_call_before_ended(cell):
    layer = make(cell, return_sequences=True)
    call = layer.prepare(B, 1, masked=True, stateful=True)
    x, states = random(B, T, F), tuple(np.zeros((B, H), np.float32) for _ in range(layer.states))
    for t in range(T):
        mask = MASKS["holes"][:, t : t + 1].copy()
        call.inputs[...], call.mask[...] = x[:, t : t + 1], mask
        call()
        wanted = expected(layer, x[:, t : t + 1], mask, states)
        assert_bits([call.outputs, *call.states], wanted)
        states = tuple(wanted[1:])
    for state in call.states:
        state.fill(0)
    assert_bits([call()], expected(layer, call.inputs, call.mask)[:1])


@pytest.mark.parametrize("cell", CELLS)
def test_weights_that_change_take_effect(cell):
    layer = make(cell)
    call = layer.prepare(1, 3)
    call.inputs[...] = x = random(1, 3, F)
    for change in (
        lambda: layer.set_weights([2 * w for w in layer.get_weights()]),
        lambda: layer.kernel.assign_add(np.ones(layer.kernel.shape)),
        lambda: layer.weights[-1].__setitem__(..., 0.25),
    ):
        before = call().copy()
        change()
        assert not np.array_equal(call(), before)
        assert_bits([call.outputs, *call.states], expected(layer, x))
        assert_bits(layer(x), expected(layer, x))


@pytest.mark.parametrize("path, threads", launches())
def test_every_launch_path(path, threads):
    layer = make("gru", return_sequences=True)
    x, mask = random(B, T, F), MASKS["holes"]
    wanted = expected(layer, x, mask)
    with launched(path, threads):
        call = layer.prepare(B, T, masked=True)
    for how in ((path, threads), (None, 2)):  # also after the number of threads has changed
        with launched(*how):
            call.inputs[...], call.mask[...] = x, mask
            call()
            assert_bits([call.outputs, *call.states], wanted)
            received = layer(x, mask=mask)
            assert_bits([np.asarray(received[0]), *received[1:]], wanted)


def test_large_batches():
    layer = make("lstm", return_sequences=True)
    x = random(200, 60, F)
    mask = np.arange(60) < np.arange(200)[:, None] % 61
    call = layer.prepare(200, 60, masked=True)
    call.inputs[...], call.mask[...] = x, mask
    call()
    assert_bits([call.outputs, *call.states], expected(layer, x, mask))


@pytest.mark.parametrize("shape", [(0, 1), (2, 0)])
def test_nothing_to_do(shape):
    layer = make("lstm", return_sequences=True)
    call = layer.prepare(*shape, masked=True)
    assert_bits([call(), *call.states], expected(layer, call.inputs, call.mask))


def test_threads_with_a_call_each():
    layer = make("gru")
    inputs = random(8, 1, 1, F)
    wanted = [expected(layer, x)[0].copy() for x in inputs]
    failures = []

    def work(x, wanted):
        call = layer.prepare()
        call.inputs[...] = x
        for _ in range(300):
            if not np.array_equal(call(), wanted):
                failures.append(x)

    threads = [threading.Thread(target=work, args=each) for each in zip(inputs, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_second_thread_inside_is_refused(monkeypatch):
    layer = make("gru")
    call = layer.prepare()
    entered, may_leave = threading.Event(), threading.Event()

    def slow(mask):
        entered.set()
        may_leave.wait(30)

    monkeypatch.setattr(call._plan, "launch", slow)
    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert entered.wait(30)
        with pytest.raises(RuntimeError, match="prepare one for each thread"):
            call()
    finally:
        may_leave.set()
        thread.join()
    monkeypatch.undo()
    assert_bits([call()], expected(layer, call.inputs)[:1])


def test_refused_before_any_work():
    with pytest.raises(ValueError, match="expected a built layer"):
        layers.GRU(4).prepare()
    layer = make("gru")
    for arguments, error in (((-1,), ValueError), ((1, -1), ValueError), ((1.5,), TypeError), ((1, True), TypeError)):
        with pytest.raises(error, match="batch_size" if len(arguments) == 1 else "steps"):
            layer.prepare(*arguments)
    call = layer.prepare()
    for name in ("inputs", "mask", "outputs", "states"):  # bound for good: written into, not replaced
        with pytest.raises(AttributeError):
            setattr(call, name, np.zeros((1, 1, F), np.float32))
    with pytest.raises(ValueError, match="broadcast"):
        call.inputs[...] = np.zeros((1, 2, F), np.float32)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda call: pickle.loads(pickle.dumps(call))])
def test_no_copies_that_share_addresses(copied):
    with pytest.raises(TypeError):
        copied(make("gru").prepare())


def test_settings_that_change_between_plain_calls():
    layer = make("gru")
    x, mask = random(B, T, F), MASKS["holes"]
    for name in ("return_sequences", "go_backwards", "zero_output_for_mask"):
        setattr(layer, name, True)
        received = layer(x, mask=mask)
        assert_bits([np.asarray(received[0]), *received[1:]], expected(layer, x, mask))


def test_an_interrupted_mask_is_resolved_again(monkeypatch):
    layer = make("gru", return_sequences=True)
    call = layer.prepare(B, T, masked=True)
    call.inputs[...] = x = random(B, T, F)
    call()

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(call._plan, "resolve", interrupt)
        call.mask[...] = MASKS["holes"]
        with pytest.raises(KeyboardInterrupt):
            call()
    assert_bits([call()], expected(layer, x, MASKS["holes"])[:1])


def test_tiny_launches_are_prepared_in_native_memory():
    layer = make("gru")
    with launched(None, 2):
        tiny, large = layer.prepare(1, 1)._plan.run, layer.prepare(2000, 100)._plan.run
    assert tiny.func is _jit._drain_prepared
    assert large.func is _jit.launch
