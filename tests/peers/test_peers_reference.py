"""The NumPy reference against live Keras (TensorFlow) and PyTorch: outputs, states and every gradient."""

import itertools
import os

import numpy as np
import pytest

from fastmask import masks
from fastmask.reference.activation import ELEMENTWISE, LAST_AXIS, activation_backward, activation_forward
from fastmask.reference.gemm import dense_backward, dense_forward
from fastmask.reference.gru import gru_backward, gru_forward
from fastmask.reference.lstm import lstm_backward, lstm_forward
from fastmask.reference.simple_rnn import simple_rnn_backward, simple_rnn_forward
from helpers import assert_close, mask_cases

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, F, H = 4, 6, 3, 2
# name -> Keras layer, forward, backward, G, number of states, shape of the bias, options that make the variant
CELLS = {
    "simple_rnn": (keras.layers.SimpleRNN, simple_rnn_forward, simple_rnn_backward, 1, 1, (H,), {}),
    "lstm": (keras.layers.LSTM, lstm_forward, lstm_backward, 4, 2, (4 * H,), {}),
    "gru": (keras.layers.GRU, gru_forward, gru_backward, 3, 1, (2, 3 * H), {"reset_after": True}),
    "gru_before": (keras.layers.GRU, gru_forward, gru_backward, 3, 1, (3 * H,), {"reset_after": False}),
}
K = 1024  # float64 against float64, other orders of summing: the largest error measured is 370 eps


def random_problem(cell, seed=0):
    _, _, _, G, n_states, bias_shape, _ = CELLS[cell]
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape) for shape in ((F, G * H), (H, G * H), bias_shape)]
    x, states = rng.standard_normal((B, T, F)), [rng.standard_normal((B, H)) for _ in range(n_states)]
    d_sequence, d_last = rng.standard_normal((B, T, H)), rng.standard_normal((B, H))
    return x, weights, states, d_sequence, d_last, [rng.standard_normal((B, H)) for _ in range(n_states)]


def keras_gradients(layer, x, weights, mask, states, d_outputs, d_states):
    """Outputs, final states and the gradients of x, weights and initial states, from Keras and TensorFlow."""
    x, states = tf.constant(x), None if states is None else [tf.constant(s) for s in states]
    mask = None if mask is None else tf.constant(mask)
    layer(x)
    layer.set_weights(weights)
    with tf.GradientTape() as tape:
        tape.watch([x, *(states or [])])
        outputs, *finals = layer(x, mask=mask, initial_state=states)
        terms = zip([outputs, *finals], [d_outputs, *d_states], strict=True)
        value = tf.add_n([tf.reduce_sum(a * d) for a, d in terms])
    gradients = tape.gradient(value, [x, *layer.trainable_variables, *(states or [])], unconnected_gradients="zero")
    return [a.numpy() for a in [outputs, *finals, *gradients]]


def reference_gradients(cell, x, weights, mask, states, d_outputs, d_states, **options):
    forward, backward = CELLS[cell][1:3]
    result, tape = forward(x, *weights, mask=mask, initial_state=states, **options)
    gradients = backward(tape, d_outputs, d_states)
    initial = [] if states is None else list(gradients.initial_state)
    return [result.outputs, *result.states, *gradients[:4], *initial]


def compare(cell, mask, with_state=True, layer_options=None, **options):
    x, weights, states, d_sequence, d_last, d_states = random_problem(cell)
    states = states if with_state else None
    d_outputs = d_sequence if options.get("return_sequences", True) else d_last
    options = {**CELLS[cell][6], **options}
    layer_options = {"return_sequences": True, **options, **(layer_options or {})}
    layer = CELLS[cell][0](H, return_state=True, dtype="float64", **layer_options)
    theirs = keras_gradients(layer, x, weights, mask, states, d_outputs, d_states)
    ours = reference_gradients(cell, x, weights, mask, states, d_outputs, d_states, **options)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, k=K)


# ---- Keras ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [None, *mask_cases(B, T)])
@pytest.mark.parametrize("cell", CELLS)
def test_keras_under_every_mask(cell, name):
    compare(cell, None if name is None else mask_cases(B, T)[name])


@pytest.mark.parametrize("go_backwards, zero, sequences", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("cell", CELLS)
def test_keras_under_every_switch(cell, go_backwards, zero, sequences):
    # A5: Keras zeroes the last output of a row that ends masked; here the flag concerns sequences only
    theirs = None if sequences else {"zero_output_for_mask": False}
    options = {"go_backwards": go_backwards, "zero_output_for_mask": zero, "return_sequences": sequences}
    for name in ("right", "left", "holes", "empty_rows"):
        for with_state in (False, True):
            compare(cell, mask_cases(B, T)[name], with_state, theirs, **options)


@pytest.mark.parametrize(
    "activation, recurrent_activation",
    [
        ("relu", "hard_sigmoid"),
        ("selu", "softsign"),
        ("silu", "sparse_sigmoid"),
        ("softplus", "tanh"),
        ("mish", "relu6"),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_keras_with_other_activations(cell, activation, recurrent_activation):
    options = {"activation": activation}
    if cell != "simple_rnn":
        options["recurrent_activation"] = recurrent_activation
    compare(cell, mask_cases(B, T)["holes"], **options)


def test_keras_zeroes_the_last_output_and_fastmask_does_not():
    """The deliberate difference A5, so that a change in Keras is noticed."""
    x, weights, _, _, _, _ = random_problem("gru")
    mask = mask_cases(B, T)["right"]
    layer = keras.layers.GRU(H, zero_output_for_mask=True, dtype="float64")
    layer(x)
    layer.set_weights(weights)
    theirs = layer(x, mask=tf.constant(mask)).numpy()
    ours = gru_forward(x, *weights, mask=mask, zero_output_for_mask=True, return_sequences=False)[0].outputs
    short = mask.any(axis=1) & ~mask[:, -1]
    assert short.any() and not theirs[short].any() and ours[short].all()


def test_keras_gradients_are_nan_under_garbage_and_fastmask_s_are_not():
    """The deliberate difference A2."""
    x, weights, _, d_sequence, _, d_states = random_problem("gru")
    mask = mask_cases(B, T)["right"]
    x[~mask] = np.nan
    layer = keras.layers.GRU(H, return_sequences=True, return_state=True, dtype="float64")
    theirs = keras_gradients(layer, np.nan_to_num(x), weights, mask, None, d_sequence, d_states)
    ours = reference_gradients("gru", x, weights, mask, None, d_sequence, d_states)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, k=K)
    dirty = keras_gradients(layer, x, weights, mask, None, d_sequence, d_states)
    assert any(np.isnan(a).any() for a in dirty)


def test_keras_bidirectional():
    """What the restored order is for: the backward half of a Bidirectional layer."""
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal(shape) for shape in 2 * ((F, 4 * H), (H, 4 * H), (4 * H,))]
    x = rng.standard_normal((B, T, F))
    layer = keras.layers.Bidirectional(keras.layers.LSTM(H, return_sequences=True, dtype="float64"), dtype="float64")
    layer(x)
    layer.set_weights(weights)
    for mask in mask_cases(B, T).values():
        options = {"mask": mask, "zero_output_for_mask": True}
        forwards = lstm_forward(x, *weights[:3], **options)[0].outputs
        backwards = lstm_forward(x, *weights[3:], **options, go_backwards=True, restore_order=True)[0].outputs
        theirs = layer(x, mask=tf.constant(mask)).numpy()
        assert_close(np.concatenate([forwards, backwards], axis=2), theirs, k=K)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *LAST_AXIS])
def test_keras_activations(name):
    if name == "hard_sigmoid_v2":
        theirs = lambda a: tf.clip_by_value(0.2 * a + 0.5, 0.0, 1.0)  # noqa: E731  (Keras 2's; Keras 3 has none)
    elif name == "threshold":
        theirs = lambda a: keras.activations.threshold(a, 0.0, 0.0)  # noqa: E731  (Keras has no defaults)
    else:
        theirs = keras.activations.get(name)
    kinks = np.array([-3, -1, -0.5, 0, 0.5, 1, 3, 6], dtype=np.float64)
    if name == "celu":
        kinks = kinks[kinks != 0]  # there TensorFlow gives 2, one from its maximum and one from its minimum
    x = np.concatenate([np.linspace(-9, 9, 101) + 0.01, kinks]).reshape(1, -1)
    dy = np.random.default_rng(0).standard_normal(x.shape)
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        expected = theirs(tensor)
    y = activation_forward(x, name)
    # TensorFlow keeps the constants of these two (0.2, sqrt(2)) in float32, whatever the dtype of x
    atol = 4e-7 if name in ("leaky_relu", "gelu") else 0.0
    assert_close(y, expected.numpy(), k=16, atol=atol)
    assert_close(activation_backward(x, y, dy, name), tape.gradient(expected, tensor, dy).numpy(), k=64, atol=atol)


@pytest.mark.parametrize("activation", [None, "tanh", "softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_keras_dense(shape, activation):
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal(shape), [rng.standard_normal((3, 4)), rng.standard_normal(4)]
    dy = rng.standard_normal((*shape[:-1], 4))
    layer = keras.layers.Dense(4, activation=activation, dtype="float64")
    layer(x)
    layer.set_weights(weights)
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        expected = layer(tensor)
    theirs = tape.gradient(expected, [tensor, *layer.trainable_variables], dy)
    y, kept = dense_forward(x, *weights, activation=activation)
    assert_close(y, expected.numpy(), k=16)
    for mine, other in zip(dense_backward(kept, dy), theirs, strict=True):
        assert_close(mine, other.numpy(), k=64)


@pytest.mark.parametrize(
    "dtype, mask_value", [("float32", 0.0), ("float32", 0.37), ("float32", -1.0), ("float64", 0.0)]
)
def test_keras_masking(dtype, mask_value):
    # not 0.37 in float64: Keras rounds mask_value to float32 first, so there it never equals the input's 0.37
    rng = np.random.default_rng(0)
    x = rng.choice([0.0, 0.37, -1.0, 2.0], (20, 9, 2)).astype(dtype)
    x[0, 0] = np.nan
    x[0, 1] = -0.0
    theirs = keras.layers.Masking(mask_value, dtype=dtype).compute_mask(x)
    np.testing.assert_array_equal(masks.from_values(x, mask_value), np.asarray(theirs))


def test_keras_embedding_mask():
    ids = np.random.default_rng(0).integers(0, 3, (5, 7))
    theirs = keras.layers.Embedding(3, 2, mask_zero=True).compute_mask(ids)
    np.testing.assert_array_equal(masks.from_ids(ids), np.asarray(theirs))


# ---- PyTorch --------------------------------------------------------------------------------------------------------
def to_keras(weight, order):
    """PyTorch's (G*H, K) with blocks in its order -> Keras' (K, G*H); biases (G*H,) alike."""
    blocks = np.split(weight.detach().numpy(), len(order))
    return np.concatenate([blocks[g] for g in order]).T


TORCH = {"simple_rnn": (torch.nn.RNN, [0]), "lstm": (torch.nn.LSTM, [0, 1, 2, 3]), "gru": (torch.nn.GRU, [1, 0, 2])}


def keras_weights(cell, module, order, suffix, get=lambda parameter: parameter):
    """kernel, recurrent kernel and bias (or their gradients) in Keras' layout."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    W, U, b, c = (to_keras(get(getattr(module, name + suffix)), order) for name in names)
    return W, U, np.stack([b, c]) if cell == "gru" else b, c


@pytest.mark.parametrize("lengths", [[6, 1, 4, 2], [6, 6, 6, 6], [3, 5, 6, 1]])
@pytest.mark.parametrize("cell", TORCH)
def test_torch_packed(cell, lengths):
    """Both directions of a bidirectional PyTorch layer over packed sequences, with initial states and all gradients."""
    make, order = TORCH[cell]
    torch.manual_seed(0)
    module = make(F, H, batch_first=True, bidirectional=True, dtype=torch.float64)
    x = torch.randn(B, T, F, dtype=torch.float64, requires_grad=True)
    n_states = 2 if cell == "lstm" else 1
    states = [torch.randn(2, B, H, dtype=torch.float64, requires_grad=True) for _ in range(n_states)]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    packed, finals = module(packed, tuple(states) if cell == "lstm" else states[0])
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=T)
    finals = finals if cell == "lstm" else (finals,)
    d_outputs, d_finals = torch.randn_like(outputs), [torch.randn_like(s) for s in finals]
    torch.autograd.backward([outputs, *finals], [d_outputs, *d_finals])

    mask = masks.from_lengths(lengths, T)
    forward, backward = CELLS[cell][1:3]
    dx = np.zeros((B, T, F))
    for d, suffix in enumerate(("", "_reverse")):
        W, U, bias, c = keras_weights(cell, module, order, suffix)
        if cell != "gru":
            bias = bias + c
        half = slice(d * H, (d + 1) * H)
        result, tape = forward(
            x.detach().numpy(),
            W,
            U,
            bias,
            mask=mask,
            initial_state=tuple(s[d].detach().numpy() for s in states),
            zero_output_for_mask=True,
            go_backwards=bool(d),
            restore_order=True,
        )
        assert_close(result.outputs, outputs[:, :, half].detach().numpy(), k=K)
        for mine, other in zip(result.states, finals, strict=True):
            assert_close(mine, other[d].detach().numpy(), k=K)

        gradients = backward(tape, d_outputs[:, :, half].numpy(), tuple(s[d].numpy() for s in d_finals))
        dW, dU, db, _ = keras_weights(cell, module, order, suffix, get=lambda parameter: parameter.grad)
        for mine, other in zip(gradients[1:4], (dW, dU, db), strict=True):
            assert_close(mine, other, k=K)
        for mine, state in zip(gradients.initial_state, states, strict=True):
            assert_close(mine, state.grad[d].numpy(), k=K)
        dx += gradients.x
    assert_close(dx, x.grad.numpy(), k=K)
