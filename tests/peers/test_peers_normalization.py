"""Layer, unit and batch normalization against live Keras (TensorFlow): outputs, gradients, moving statistics."""

import inspect
import os

import numpy as np
import pytest

from fastmask import layers
from helpers import assert_close, mask_cases

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, F = 4, 6, 5
K = 4096  # float64 against float64
# Keras divides by n + 1e-7 under a mask: moments are off by 1e-7 / n of themselves, and what is made of them likewise
MASKED = 1e-6


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def pair(name, shape, **options):
    """The same layer here and in Keras, with the same random weights."""
    ours, theirs = (getattr(m, name)(dtype="float64", **options) for m in (layers, keras.layers))
    theirs.build(shape)
    ours.build(shape)
    weights = [random(*w.shape, seed=i + 5) for i, w in enumerate(theirs.get_weights())]
    if name == "BatchNormalization":
        weights[-1] = abs(weights[-1])  # a variance
    theirs.set_weights(weights)
    ours.set_weights(weights)
    return ours, theirs


def compare(ours, theirs, x, mask=None, training=True, atol=0.0):
    """Outputs, weights afterwards, gradients of x and of the trainable weights."""
    call = {} if mask is None else {"mask": tf.constant(mask)}
    if ours.name.startswith("batch"):
        call["training"] = training
    else:
        call = {}  # the mask is nothing to them
    tensor = tf.Variable(x)
    with tf.GradientTape() as tape:
        expected = theirs(tensor, **call)
        dy = random(*x.shape, seed=9)
        total = tf.reduce_sum(expected * dy)
    y = ours(x, mask=mask, training=True)
    assert_close(y, expected.numpy(), k=K, atol=atol)
    for got, wanted in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(got, wanted, k=K, atol=atol)
    variables = [tensor, *(w.value for w in theirs.trainable_weights)]
    wanted = tape.gradient(total, variables)
    got = [ours.backward(dy), *(ours.gradients if ours.trainable_weights else [])]
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other.numpy(), k=K, atol=atol)


@pytest.mark.parametrize("shape", [(B, T, F), (B, F), (2, 3, 4, F), (B, T, 1)])
@pytest.mark.parametrize("center, scale", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("name", ["LayerNormalization", "BatchNormalization"])
def test_without_a_mask(name, center, scale, shape):
    ours, theirs = pair(name, (None, *shape[1:]), center=center, scale=scale, epsilon=0.01)
    compare(ours, theirs, random(*shape) * 3 + 1)


def test_unit_normalization():
    x = random(B, T, F)
    x[0, 0] *= 1e-14  # shorter than 1e-12
    compare(*pair("UnitNormalization", (None, None, F)), x)


@pytest.mark.parametrize("mask_name", [*mask_cases(1, 1)])
def test_batch_normalization_under_a_mask(mask_name):
    """Gradients arrive at masked steps, too."""
    mask = mask_cases(B, T)[mask_name]
    ours, theirs = pair("BatchNormalization", (None, None, F), epsilon=0.1, momentum=0.7)
    for i in range(2):  # moving statistics twice
        compare(ours, theirs, random(B, T, F, seed=i), mask, atol=MASKED)


@pytest.mark.parametrize("name", ["LayerNormalization", "UnitNormalization"])
def test_the_mask_goes_through_and_changes_nothing(name):
    ours, theirs = pair(name, (None, None, F))
    mask = mask_cases(B, T)["holes"]
    compare(ours, theirs, random(B, T, F), mask)
    tensor = tf.constant(random(B, T, F))
    tensor._keras_mask = tf.constant(mask)
    np.testing.assert_array_equal(theirs(tensor)._keras_mask.numpy(), ours(random(B, T, F), mask=mask).mask)


def test_inference_and_frozen_layers():
    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    ours, theirs = pair("BatchNormalization", (None, None, F))
    assert_close(ours(x, mask=mask), theirs(x, mask=tf.constant(mask), training=False).numpy(), k=K)
    ours.trainable = theirs.trainable = False
    compare(ours, theirs, x, mask)


def test_defaults_and_arguments():
    for name in ("LayerNormalization", "BatchNormalization", "UnitNormalization"):
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (layers, keras.layers))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
    ours, theirs = layers.BatchNormalization(), keras.layers.BatchNormalization()
    x = random(B, T, F).astype("float32")
    assert_close(ours(x, training=True), theirs(x, training=True).numpy(), np.float32, k=64)
    for got, wanted in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(got, wanted, np.float32, k=8)
