"""Reshaping layers and Lambda against live Keras (TensorFlow): values, gradients, and what Keras does with masks."""

import os
import warnings

import numpy as np
import pytest

from fastmask import layers
from helpers import mask_cases

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, F = 3, 4, 6
# name, arguments, whether the mask goes on here; in Keras it never does
LAYERS = [
    ("Flatten", (), False),
    ("Reshape", ((-1, 3, 2),), True),
    ("Reshape", ((8, 3),), False),
    ("Reshape", ((-1,),), False),
    ("Permute", ((2, 1),), False),
    ("Permute", ((1, 2),), True),
    ("Cropping1D", (1,), True),
    ("Cropping1D", ((0, 2),), True),
    ("ZeroPadding1D", (2,), True),
    ("ZeroPadding1D", ((0, 3),), True),
    ("UpSampling1D", (), True),
    ("UpSampling1D", (3,), True),
    ("RepeatVector", (3,), False),
]


@pytest.mark.parametrize("name, arguments, carried", LAYERS)
def test_values_gradients_and_masks(name, arguments, carried):
    x, mask = np.random.default_rng(0).standard_normal((B, T, F)), mask_cases(B, T)["holes"]
    if name == "RepeatVector":
        x, mask = x[:, 0], mask[:, 0]
    layer, keras_layer = (getattr(module, name)(*arguments, dtype="float64") for module in (layers, keras.layers))
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        masked = tf.identity(variable)
        masked._keras_mask = tf.constant(mask)
        with pytest.warns(UserWarning, match="does not support mask"):
            expected = keras_layer(masked)
        d = np.random.default_rng(1).standard_normal(expected.shape)
        total = tf.reduce_sum(expected * d)
    assert getattr(expected, "_keras_mask", None) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error" if carried else "ignore", layers.MaskDroppedWarning)
        y = layer(x, mask=mask, training=True)
    assert (getattr(y, "mask", None) is not None) == carried
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_allclose(layer.backward(d), tape.gradient(total, variable).numpy(), rtol=1e-14)
    shapes = (None, *x.shape[1:])
    assert layer.compute_output_shape(shapes) == tuple(keras_layer.compute_output_shape(shapes))


def test_symbolic_shapes():
    for name, arguments, _ in LAYERS:
        shape = (None, None, F) if name != "RepeatVector" else (None, F)
        layer, keras_layer = (getattr(module, name)(*arguments) for module in (layers, keras.layers))
        assert layer.compute_output_shape(shape) == tuple(keras_layer.compute_output_shape(shape)), name


def test_lambda_masks():
    x, mask = np.ones((B, T, F), np.float32), mask_cases(B, T)["holes"]
    tensor = tf.constant(x)
    tensor._keras_mask = tf.constant(mask)
    for options in ({}, {"mask": lambda inputs, mask: mask[:, ::2]}, {"mask": mask[:, :2]}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = keras.layers.Lambda(lambda a: a[:, ::2], **options)(tensor)
            y = layers.Lambda(lambda a: a[:, ::2], **options)(x, mask=mask)
        np.testing.assert_array_equal(y, expected.numpy())
        wanted = getattr(expected, "_keras_mask", None)
        if not options:
            assert wanted is None and type(y) is np.ndarray
        else:
            np.testing.assert_array_equal(y.mask, wanted)
