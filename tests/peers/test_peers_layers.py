"""Layers against live Keras (TensorFlow): outputs, states, masks and gradients, with Keras' weights in Keras' order."""

import itertools
import os

import numpy as np
import pytest

from fastmask import activations, layers
from helpers import assert_close, mask_cases

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, F, H = 4, 5, 3, 2
CELLS = {
    "simple_rnn": ("SimpleRNN", {}),
    "gru": ("GRU", {}),
    "gru_before": ("GRU", {"reset_after": False, "activation": "relu", "recurrent_activation": "hard_sigmoid"}),
    "lstm": ("LSTM", {"activation": "silu"}),
    "lstm_no_bias": ("LSTM", {"use_bias": False}),
}
MODES = ("concat", "sum", "mul", "ave", None)
K = 4096  # float64 against float64, other orders of summing
FLOAT32_INSIDE = {"gelu": 2**30, "leaky_relu": 2**30}  # Keras rounds a constant to float32: 1e-7, measured 5e-8


def pair(cell, **options):
    """The same layer here and in Keras; not built."""
    name, own = CELLS[cell]
    options = {**own, "dtype": "float64", "bias_initializer": "random_normal", **options}
    return getattr(layers, name)(H, **options), getattr(keras.layers, name)(H, **options)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def flat(structure):
    return list(structure) if isinstance(structure, (list, tuple)) else [structure]


def compare(layer, keras_layer, x, mask=None, states=None, k=K):
    """Everything both give: outputs, states, the outgoing mask, gradients of inputs, states and weights."""
    tensor, tensors = tf.Variable(x), [tf.Variable(s) for s in states or ()]
    call = {} if mask is None else {"mask": tf.constant(mask)}
    ours = {} if mask is None else {"mask": mask}
    if states:
        call["initial_state"], ours["initial_state"] = tensors, states
    with tf.GradientTape() as tape:
        expected = flat(keras_layer(tensor, **call))
        d = [random(*y.shape, seed=i) for i, y in enumerate(expected)]
        total = sum(tf.reduce_sum(y * g) for y, g in zip(expected, d, strict=True))
    if not layer.built:
        layer.build((None, None, x.shape[-1]) if x.ndim == 3 else (None, x.shape[-1]))
    assert [w.shape for w in layer.get_weights()] == [w.shape for w in keras_layer.get_weights()]
    layer.set_weights(keras_layer.get_weights())

    outputs = layer(x, training=True, **ours)
    for got, wanted in zip(flat(outputs), expected, strict=True):
        assert_close(got, wanted.numpy(), k=k)
        wanted_mask = getattr(wanted, "_keras_mask", None)
        got_mask = getattr(got, "mask", None)
        if getattr(layer, "go_backwards", False) and got_mask is not None:
            got_mask = got_mask[:, ::-1]  # a deliberate difference: in the order of the outputs
        if wanted_mask is None:
            assert got_mask is None
        else:
            np.testing.assert_array_equal(got_mask, wanted_mask.numpy())
    dx = layer.backward(tuple(d) if isinstance(outputs, tuple) else d[0])
    wanted = tape.gradient(total, [tensor, *tensors, *(w.value for w in keras_layer.trainable_weights)])
    got = [dx, *(layer.initial_state_gradients if states else ()), *layer.gradients]
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other.numpy(), k=k)


@pytest.mark.parametrize("return_sequences, go_backwards", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent(cell, return_sequences, go_backwards):
    cases = mask_cases(B, T)
    for name in ("none", "right", "first_masked", "empty_rows"):
        zero = name == "right" and return_sequences  # without sequences Keras applies it, against its documentation
        options = {"return_sequences": return_sequences, "go_backwards": go_backwards, "zero_output_for_mask": zero}
        layer, keras_layer = pair(cell, return_state=True, **options)
        n = 2 if "lstm" in cell else 1
        states = [random(B, H, seed=9 + i) for i in range(n)] if name != "right" else None
        compare(layer, keras_layer, random(B, T, F), None if name == "none" else cases[name], states)


@pytest.mark.parametrize("merge_mode", MODES)
@pytest.mark.parametrize("cell", ["gru", "lstm", "simple_rnn"])
def test_bidirectional(cell, merge_mode):
    for return_sequences, name in ((True, "holes"), (True, "none"), (False, "right"), (False, "none")):
        mask = None if name == "none" else mask_cases(B, T)[name]
        inner, keras_inner = pair(cell, return_sequences=return_sequences)
        compare(
            layers.Bidirectional(inner, merge_mode=merge_mode),
            keras.layers.Bidirectional(keras_inner, merge_mode=merge_mode, dtype="float64"),
            random(B, T, F),
            mask,
        )


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_bidirectional_with_states(cell):
    n = 4 if cell == "lstm" else 2
    for return_sequences in (False, True):
        inner, keras_inner = pair(cell, return_sequences=return_sequences, return_state=True)
        states = [random(B, H, seed=i) for i in range(n)]
        bidirectional = layers.Bidirectional(inner), keras.layers.Bidirectional(keras_inner, dtype="float64")
        compare(*bidirectional, random(B, T, F), mask_cases(B, T)["holes"], states)


def test_bidirectional_with_a_backward_layer_of_its_own():
    forward, keras_forward = pair("gru", return_sequences=True)
    backward, keras_backward = pair("simple_rnn", return_sequences=True, go_backwards=True)
    compare(
        layers.Bidirectional(forward, backward_layer=backward, merge_mode="sum"),
        keras.layers.Bidirectional(keras_forward, backward_layer=keras_backward, merge_mode="sum", dtype="float64"),
        random(B, T, F),
        mask_cases(B, T)["right"],
    )


# Keras' threshold needs arguments; hard_sigmoid_v2 is Keras 1 and 2's
@pytest.mark.parametrize("activation", [n for n in activations.NAMES if n not in ("threshold", "hard_sigmoid_v2")])
def test_dense(activation):
    k = FLOAT32_INSIDE.get(activation, K)
    options = {"activation": activation, "dtype": "float64", "bias_initializer": "random_normal"}
    for x, mask in ((random(B, F), None), (random(B, T, F), mask_cases(B, T)["holes"])):
        keras_layer = keras.layers.Dense(4, **options)
        if mask is not None:  # Keras' Dense takes no mask argument: give it a masked tensor
            masked = np.where(mask[..., None], x, 0)
            tensor = keras.layers.Masking(dtype="float64")(masked)
            wanted = keras_layer(tensor)
            layer = layers.Dense(4, **options)
            got = layer(layers.Masking(dtype="float64")(masked))
            layer.set_weights(keras_layer.get_weights())
            got = layer(layers.Masking(dtype="float64")(masked))
            assert_close(got, wanted.numpy(), k=k)
            np.testing.assert_array_equal(got.mask, wanted._keras_mask.numpy())
        else:
            compare(layers.Dense(4, **options), keras_layer, x, k=k)


@pytest.mark.parametrize("mask_value", [0.0, 0.37, float("nan")])
def test_masking(mask_value):
    x = random(B, T, F).astype(np.float32)
    x[mask_cases(B, T)["holes"]] = mask_value
    x[0, 0, :2] = mask_value  # one feature differs
    x[1, 0] = -0.0
    wanted, got = keras.layers.Masking(mask_value)(x), layers.Masking(mask_value)(x)
    np.testing.assert_array_equal(got, wanted.numpy())
    np.testing.assert_array_equal(got.mask, wanted._keras_mask.numpy())


def test_the_classic_example():
    x = np.float32(
        [[[1, 1], [2, 2], [1, 1], [0.37, 0.37], [0.37, 0.37]], [[0.37, 0.37], [1, 1], [2, 2], [1, 1], [0.37, 0.37]]]
    )
    options = {
        "activation": None,
        "recurrent_activation": None,
        "kernel_initializer": "ones",
        "recurrent_initializer": "zeros",
        "bias_initializer": "ones",
        "return_sequences": True,
    }
    for reset_after in (False, True):
        wanted = keras.layers.GRU(1, reset_after=reset_after, **options)(keras.layers.Masking(0.37)(x))
        got = layers.GRU(1, reset_after=reset_after, **options)(layers.Masking(0.37)(x))
        assert_close(got, wanted.numpy(), np.float32, k=4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_mask_is_kept_where_keras_loses_it(cell):
    """Keras 3 computes unmasked when an implicit mask meets an initial_state; here both count."""
    x = np.where(mask_cases(B, T)["right"][..., None], random(B, T, F), 0)
    layer, keras_layer = pair(cell, return_sequences=True)
    states = [random(B, H, seed=i) for i in range(2 if cell == "lstm" else 1)]
    masked = keras.layers.Masking(dtype="float64")(x)
    lost = keras_layer(masked, initial_state=[tf.constant(s) for s in states]).numpy()
    explicit = keras_layer(masked, mask=masked._keras_mask, initial_state=[tf.constant(s) for s in states]).numpy()
    assert not np.allclose(lost, explicit)
    layer.build((None, None, F))
    layer.set_weights(keras_layer.get_weights())
    assert_close(layer(layers.Masking(dtype="float64")(x), initial_state=states), explicit, k=K)
