"""Activation layers and dropout's relatives against live Keras (TensorFlow): values, masks and gradients."""

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

B, T, F = 4, 5, 3
K = 64
LAYERS = {
    "relu": ("ReLU", {}),
    "relu6": ("ReLU", {"max_value": 6.0}),
    "relu_max": ("ReLU", {"max_value": 1.0}),
    "relu_slope": ("ReLU", {"negative_slope": 0.3}),
    "relu_threshold": ("ReLU", {"threshold": 0.5}),
    "relu_all": ("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.25}),
    "leaky_relu": ("LeakyReLU", {}),
    "leaky_relu_slope": ("LeakyReLU", {"negative_slope": 0.05}),
    "elu": ("ELU", {}),
    "elu_alpha": ("ELU", {"alpha": 0.5}),
    "prelu": ("PReLU", {"alpha_initializer": "random_normal", "shared_axes": [1]}),
    "prelu_unshared": ("PReLU", {"alpha_initializer": "random_normal"}),
    "softmax": ("Softmax", {}),
    "softmax_time": ("Softmax", {"axis": 1}),
}
# Keras' threshold needs arguments; hard_sigmoid_v2 is Keras 1 and 2's
LAYERS |= {
    name: ("Activation", {"activation": name})
    for name in activations.NAMES
    if name not in ("threshold", "hard_sigmoid_v2")
}
# Keras rounds a constant to float32, 1e-7
FLOAT32_INSIDE = dict.fromkeys(("gelu", "leaky_relu", "leaky_relu_slope", "relu_slope"), 2**30)


NO_KINKS = ("celu",)  # at 0 Keras' gradient is twice the derivative


def random(*shape, kinks=True):
    """With zeros and other kinks among the numbers, where conventions on derivatives show."""
    rng = np.random.default_rng(shape)
    x = 2 * rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([0.0, 0.25, 0.5, 1.0, 6.0], shape), x) if kinks else x


def with_mask(x, mask):
    tensor = tf.identity(x)
    if mask is not None:
        tensor._keras_mask = tf.constant(mask)
    return tensor


def compare(layer, keras_layer, x, mask=None, k=K, keras_mask=None):
    """keras_mask: what Keras' layer is called with instead of a masked tensor."""
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        if keras_mask is None:
            expected = keras_layer(with_mask(variable, mask))
        else:
            expected = keras_layer(variable, mask=keras_mask)
        d = np.random.default_rng(1).standard_normal(x.shape)
        total = tf.reduce_sum(expected * d)
    wanted = tape.gradient(total, [variable, *(w.value for w in keras_layer.trainable_weights)])
    layer.build((None, *x.shape[1:]))
    layer.set_weights(keras_layer.get_weights())
    y = layer(x, mask=mask, training=True)
    assert_close(y, expected.numpy(), k=k)
    got = [layer.backward(d), *(layer.gradients if layer.weights else [])]
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other.numpy(), k=k)
    return y, expected


@pytest.mark.parametrize("name", LAYERS)
def test_values_gradients_and_masks(name):
    cls, options = LAYERS[name]
    for mask in (None, mask_cases(B, T)["holes"]):
        if cls == "Softmax" and mask is not None:
            continue
        pair = (getattr(module, cls)(dtype="float64", **options) for module in (layers, keras.layers))
        y, expected = compare(*pair, random(B, T, F, kinks=name not in NO_KINKS), mask, FLOAT32_INSIDE.get(name, K))
        if mask is not None:
            np.testing.assert_array_equal(y.mask, expected._keras_mask.numpy())


@pytest.mark.parametrize("shape", [(B, T), (B, T, 1), (B, T, F)])
@pytest.mark.parametrize("name", mask_cases(1, 1))
def test_softmax_over_time(shape, name):
    """What the Keras layer does with a mask that was given the axes of its input."""
    mask = mask_cases(B, T)[name]
    axis = 1 if len(shape) == 3 else -1
    given = tf.constant(mask.reshape(B, T, *[1] * (len(shape) - 2)))
    pair = (module.Softmax(axis=axis, dtype="float64") for module in (layers, keras.layers))
    y, expected = compare(*pair, random(*shape), mask, keras_mask=given)
    np.testing.assert_array_equal(y.mask, mask)


def test_softmax_with_a_mask_of_classes():
    mask = np.random.default_rng(0).random((B, T, F)) < 0.5
    for axis in (1, 2):
        pair = (module.Softmax(axis=axis, dtype="float64") for module in (layers, keras.layers))
        compare(*pair, random(B, T, F), mask, keras_mask=tf.constant(mask))


def test_a_mask_of_steps_with_axis_minus_1_is_an_error_in_keras_only():
    x, mask = random(B, T, F), mask_cases(B, T)["holes"]
    with pytest.raises(ValueError):
        keras.layers.Softmax()(with_mask(tf.constant(x), mask))
    compare(layers.Softmax(dtype="float64"), keras.layers.Activation("softmax", dtype="float64"), x, mask)


@pytest.mark.parametrize("name, argument", [("SpatialDropout1D", 0.4), ("GaussianNoise", 0.4), ("Dropout", 0.4)])
def test_noise(name, argument):
    """Other random numbers, the same distribution; in inference, and for the mask, the same thing."""
    x, mask = np.ones((400, 6, 20), np.float32), np.arange(6) < np.arange(400)[:, None] % 7
    layer, keras_layer = getattr(layers, name)(argument), getattr(keras.layers, name)(argument)
    got, expected = layer(x, mask=mask), keras_layer(with_mask(tf.constant(x), mask))
    np.testing.assert_array_equal(got, expected.numpy())
    np.testing.assert_array_equal(got.mask, expected._keras_mask.numpy())
    got, expected = np.asarray(layer(x, training=True)), keras_layer(x, training=True).numpy()
    assert abs(got.mean() - expected.mean()) < 0.03 and abs(got.std() - expected.std()) < 0.03
    for axis in (1, 2):
        assert abs(got.mean(axis=axis).std() - expected.mean(axis=axis).std()) < 0.03
    if name != "GaussianNoise":
        assert set(np.unique(got)) == set(np.unique(expected))
