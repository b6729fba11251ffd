"""Random recurrent layers against live Keras and PyTorch: sizes, masks, switches, activations, gradients."""

from copy import copy

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install fastmask[test]")

from hypothesis import given
from hypothesis import strategies as st
from test_peers_recurrent import assert_agree, keras_train

import strategies as some
from cases import CELLS, Problem

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastmask[peers]")

ACTIVATIONS = st.sampled_from(["tanh", "sigmoid", "softsign", "hard_sigmoid", "silu", "gelu", "softplus", None])
GATES = st.sampled_from(["sigmoid", "hard_sigmoid", "tanh", "softsign"])  # unbounded ones: 1e21 after six steps
SWITCHES = ("go_backwards", "zero_output_for_mask", "return_sequences")


def rounded(problem, rng):
    """The same problem with other last bits in all its numbers."""

    def other(a):
        return a * (1 + np.finfo(a.dtype).eps * rng.uniform(-0.5, 0.5, a.shape))

    near = copy(problem)
    near.x, near.kernel, near.recurrent_kernel, near.bias = map(other, (problem.x, *problem.weights))
    near.states = tuple(map(other, problem.states))
    return near


def compare_with_keras(cell, size, mask, with_state, seed=0, **options):
    problem = Problem(cell, *size, np.float64, seed, scale=0.7)

    def train(problem):
        states = problem.states if with_state else None
        arrays = problem.train(mask=mask, initial_state=states, **options)
        return {name: a for name, a in arrays.items() if a is not None}

    # A5: Keras zeroes the last output of a row that ends masked; here the flag concerns sequences only
    theirs = options if options["return_sequences"] else {**options, "zero_output_for_mask": False}
    theirs = keras_train(cell, problem, mask, problem.states if with_state else None, theirs)
    # An ill-conditioned problem is one where the last bits of the inputs alone move the result: so may two answers.
    ours, rng = train(problem), np.random.default_rng(seed)
    moved = [train(rounded(problem, rng)) for _ in range(3)]
    moved = {name: max(np.abs(near[name] - a).max(initial=0.0) for near in moved) for name, a in ours.items()}
    assert_agree(ours, theirs, np.float64, moved)


@given(st.sampled_from([*CELLS]), st.data(), some.seeds)
def test_keras(cell, data, seed):
    size = data.draw(st.tuples(some.few, st.integers(1, 8), some.units, some.units))
    mask, with_state = data.draw(some.masks(*size[:2])), data.draw(st.booleans())
    options = {name: data.draw(st.booleans()) for name in SWITCHES}
    for argument in CELLS[cell].activations:
        options[argument] = data.draw(GATES if argument == "recurrent_activation" else ACTIVATIONS)
    if "gelu" in options.values():
        options = {name: "silu" if o == "gelu" else o for name, o in options.items()}  # Keras': a constant in float32
    compare_with_keras(cell, size, mask, with_state, seed, **options)


def test_keras_where_a_gate_below_zero_multiplies_roundings():
    """Found by test_keras: with z = tanh the state grows by up to 1 - z = 2 a step, and roundings with it."""
    options = dict(go_backwards=True, zero_output_for_mask=False, return_sequences=False)
    options.update(activation="silu", recurrent_activation="tanh")
    compare_with_keras("gru", (6, 8, 33, 33), None, True, seed=8, **options)


def as_torch(cell, problem):
    """A PyTorch layer of the same weights; its gates are i f g o and r z n."""
    H, dtype = problem.H, torch.float64
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](problem.F, H, batch_first=True, dtype=dtype)
    order = np.arange(4 * H) if cell == "lstm" else np.r_[H : 2 * H, 0:H, 2 * H : 3 * H]
    biases = (problem.bias, np.zeros(4 * H)) if cell == "lstm" else problem.bias
    arrays = [problem.kernel.T, problem.recurrent_kernel.T, *biases]
    with torch.no_grad():
        for parameter, a in zip(layer.parameters(), arrays, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(a[order])))
    return layer, order


@given(st.sampled_from(["lstm", "gru"]), st.data(), some.seeds)
def test_torch(cell, data, seed):
    """Packed sequences, in both directions of time."""
    lengths = np.array(data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=6)))
    B, T = len(lengths), lengths.max()
    problem = Problem(cell, B, T, data.draw(some.units), data.draw(some.units), np.float64, seed, scale=0.7)
    layer, order = as_torch(cell, problem)
    x = torch.from_numpy(problem.x.copy()).requires_grad_()
    states = [torch.from_numpy(s[None].copy()).requires_grad_() for s in problem.states]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(lengths), True, enforce_sorted=False)
    outputs, finals = layer(packed, tuple(states) if cell == "lstm" else states[0])
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    finals = finals if cell == "lstm" else (finals,)
    value = (outputs * torch.from_numpy(problem.d_sequence)).sum()
    value = value + sum((f[0] * torch.from_numpy(d)).sum() for f, d in zip(finals, problem.d_states, strict=True))
    value.backward()

    mask = np.arange(T) < lengths[:, None]
    ours = problem.train(mask=mask, initial_state=problem.states, zero_output_for_mask=True)
    back = np.argsort(order)
    kernel, recurrent, *biases = [p.grad.numpy()[back] for p in layer.parameters()]
    theirs = {
        "outputs": outputs.detach().numpy(),
        **{f"state {i}": f[0].detach().numpy() for i, f in enumerate(finals)},
        "gradient of x": x.grad.numpy(),
        "gradient of kernel": kernel.T,
        "gradient of recurrent_kernel": recurrent.T,
        "gradient of bias": biases[0] if cell == "lstm" else np.stack(biases),
        **{f"gradient of state {i}": s.grad[0].numpy() for i, s in enumerate(states)},
    }
    assert_agree(ours, theirs, np.float64)
