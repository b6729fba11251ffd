"""RNN, its cells and stacks of them against live Keras (TensorFlow): outputs, states, masks and gradients."""

import os

import numpy as np
import pytest

from fastmask import layers
from helpers import assert_close, mask_cases
from user_cells import MixCell, PythonMixCell

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, F = 4, 5, 3
K = 4096  # float64 against float64, other orders of summing
DOUBLE = {"dtype": "float64"}


class KerasMixCell(keras.layers.Layer):
    """MixCell of user_cells.py."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size, self.output_size = [2, 3], 2

    def build(self, input_shape):
        self.kernel = self.add_weight((input_shape[-1], 5), "random_normal")
        self.bias = self.add_weight((5,), "random_normal")
        self.gain = self.add_weight((), "random_normal")
        self.projection = self.add_weight((5, 2), "random_normal")
        super().build(input_shape)

    def call(self, inputs, states):
        state = keras.ops.concatenate(states, axis=1)
        state = keras.ops.tanh(inputs @ self.kernel + self.gain * state + self.bias)
        return state @ self.projection, keras.ops.split(state, [2], axis=1)


def both(name, **options):
    """The same built-in cell here and in Keras."""
    options = {"bias_initializer": "random_normal", **options, **DOUBLE}
    return getattr(layers, name)(4, **options), getattr(keras.layers, name)(4, **options)


PAIRS = {
    "simple_rnn": lambda: both("SimpleRNNCell"),
    "gru": lambda: both("GRUCell", activation="silu"),
    "gru_before": lambda: both("GRUCell", reset_after=False, use_bias=False),
    "lstm": lambda: both("LSTMCell", recurrent_activation="hard_sigmoid"),
    "compiled": lambda: (MixCell(**DOUBLE), KerasMixCell(**DOUBLE)),
    "python": lambda: (PythonMixCell(**DOUBLE), KerasMixCell(**DOUBLE)),
    "stacked": lambda: tuple(zip(both("LSTMCell"), both("GRUCell"), strict=True)),
    "mixed": lambda: tuple(zip(both("GRUCell"), PAIRS["compiled"](), PAIRS["python"](), both("LSTMCell"), strict=True)),
}


def cells(pair):
    """A cell here and in Keras, stacked if there are several."""
    cell, keras_cell = PAIRS[pair]()
    if isinstance(cell, tuple):  # Keras makes float32 states for a list of cells
        return layers.StackedRNNCells(cell), keras.layers.StackedRNNCells(list(keras_cell), **DOUBLE)
    return cell, keras_cell


OPTIONS = {
    "last": {},
    "last, states": {"return_state": True},
    "sequences": {"return_sequences": True, "return_state": True},
    "sequences of zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def flat(structure):
    return keras.tree.flatten(structure)


def compare(layer, keras_layer, x, mask, states=None):
    """Everything both give: outputs, states in their structure, the mask, gradients of inputs, states and weights."""
    tensor = tf.Variable(x)
    tensors = None if states is None else keras.tree.map_structure(tf.Variable, states)
    call, ours = {"mask": tf.constant(mask)}, {"mask": mask}
    if states is not None:
        call["initial_state"], ours["initial_state"] = tensors, states
    with tf.GradientTape() as tape:
        expected = keras_layer(tensor, **call)
        d = keras.tree.map_structure(lambda y: random(*y.shape, seed=1), expected)
        total = sum(tf.reduce_sum(y * g) for y, g in zip(flat(expected), flat(d), strict=True))
    layer.build((None, *x.shape[1:]))
    assert [w.shape for w in layer.get_weights()] == [w.shape for w in keras_layer.get_weights()]
    layer.set_weights(keras_layer.get_weights())

    outputs = layer(x, training=True, **ours)
    keras.tree.assert_same_structure(outputs, expected)
    for got, wanted in zip(flat(outputs), flat(expected), strict=True):
        assert_close(got, wanted.numpy(), k=K)
    got_mask, wanted_mask = getattr(flat(outputs)[0], "mask", None), getattr(flat(expected)[0], "_keras_mask", None)
    assert (got_mask is None) == (wanted_mask is None)
    if got_mask is not None:  # a deliberate difference: in the order of the outputs
        np.testing.assert_array_equal(got_mask[:, ::-1] if layer.go_backwards else got_mask, wanted_mask.numpy())
    dx = layer.backward(d)
    wanted = tape.gradient(total, [tensor, *flat(tensors or []), *(w.value for w in keras_layer.trainable_weights)])
    got = [dx, *(flat(layer.initial_state_gradients) if states else []), *layer.gradients]
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, tf.convert_to_tensor(other).numpy(), k=K)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_rnn(pair, options):
    cell, keras_cell = cells(pair)
    options = {**OPTIONS[options], **DOUBLE}
    layer, keras_layer = layers.RNN(cell, **options), keras.layers.RNN(keras_cell, **options)
    states = keras.tree.map_structure(lambda s: random(*s.shape), layer.get_initial_state(B))
    for i, name in enumerate(("right", "first_masked", "none")):
        compare(layer, keras_layer, random(B, T, F, seed=i), mask_cases(B, T)[name], states if i else None)
    assert layer.cell.state_size == keras_layer.cell.state_size
    assert layer.cell.output_size == keras_layer.cell.output_size


@pytest.mark.parametrize("pair", ["gru", "lstm", "compiled", "stacked"])
def test_bidirectional(pair):
    """Keras serializes the cell it copies, so only registered ones."""
    keras.saving.register_keras_serializable("tests")(KerasMixCell)
    layers.register_serializable("tests")(MixCell)
    cell, keras_cell = cells(pair)
    layer = layers.Bidirectional(layers.RNN(cell, return_sequences=True, **DOUBLE))
    keras_layer = keras.layers.Bidirectional(keras.layers.RNN(keras_cell, return_sequences=True, **DOUBLE), **DOUBLE)
    layer.go_backwards = False
    compare(layer, keras_layer, random(B, T, F), mask_cases(B, T)["right"])


@pytest.mark.parametrize("pair", ["simple_rnn", "gru", "gru_before", "lstm", "compiled", "stacked"])
def test_cells_by_hand(pair):
    cell, keras_cell = cells(pair)
    if pair == "stacked":
        states = [[random(B, 4), random(B, 4, seed=1)], [random(B, 4, seed=2)]]
    else:
        states = [random(B, n, seed=n) for n in np.ravel(cell.state_size)]
    x = random(B, F)
    expected = keras_cell(x, keras.tree.map_structure(tf.constant, states))
    cell.build((None, F))
    cell.set_weights(keras_cell.get_weights())
    found = cell(x, states)
    keras.tree.assert_same_structure(found, expected)
    for got, wanted in zip(flat(found), flat(expected), strict=True):
        assert_close(got, wanted.numpy(), k=K)
