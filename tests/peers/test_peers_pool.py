"""Global pooling against live Keras (TensorFlow): outputs and gradients, and where Keras is left on purpose."""

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


def both(name, x, mask=None, keras_x=None, keras_mask=None, **options):
    """(outputs, gradient of x) here and in Keras, where inputs and mask may be others."""
    ours, theirs = (getattr(m, name)(dtype="float64", **options) for m in (layers, keras.layers))
    tensor = tf.Variable(x if keras_x is None else keras_x)
    with tf.GradientTape() as tape:
        expected = theirs(tensor) if keras_mask is None else theirs(tensor, mask=tf.constant(keras_mask))
        dy = np.random.default_rng(2).standard_normal(expected.shape)
        total = tf.reduce_sum(expected * dy)
    y = ours(x, mask=mask, training=True)
    return (y, ours.backward(dy)), (expected.numpy(), tape.gradient(total, tensor).numpy())


def random(*shape):
    return np.random.default_rng([0, *shape]).standard_normal(shape)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["GlobalAveragePooling1D", "GlobalMaxPooling1D"])
def test_without_a_mask(name, keepdims):
    for x in (random(B, T, F), random(B, 1, F), np.random.default_rng(1).integers(0, 3, (B, T, F)).astype(float)):
        ours, theirs = both(name, x, keepdims=keepdims)  # the last one has ties
        for got, wanted in zip(ours, theirs, strict=True):
            assert_close(got, wanted, k=8)


@pytest.mark.parametrize("mask_name", [*mask_cases(1, 1)])
def test_average_under_a_mask(mask_name):
    x, mask = random(B, T, F), mask_cases(B, T)[mask_name]
    ours, theirs = both("GlobalAveragePooling1D", x, mask, keras_mask=mask)
    some = mask.any(axis=1)
    for got, wanted in zip(ours, theirs, strict=True):
        assert_close(got[some], wanted[some], k=8)
        assert not got[~some].any()
    assert np.isnan(theirs[0][~some]).all()  # A deliberate difference: 0, not NaN


@pytest.mark.parametrize("mask_name", ["right", "holes", "first_masked"])
def test_largest_under_a_mask(mask_name):
    """Keras ignores the mask; it agrees where masked steps are made small by hand."""
    x, mask = random(B, T, F), mask_cases(B, T)[mask_name]
    some = mask.any(axis=1)
    ours, theirs = both("GlobalMaxPooling1D", x, mask, keras_x=np.where(mask[..., None], x, -1e9))
    for got, wanted in zip(ours, theirs, strict=True):
        assert_close(got[some], wanted[some], k=8)
    assert not np.array_equal(ours[0], both("GlobalMaxPooling1D", x)[1][0])


def test_nan():
    x = random(B, T, F)
    x[1, 2, 3] = np.nan
    for name in ("GlobalAveragePooling1D", "GlobalMaxPooling1D"):
        ours, theirs = both(name, x)
        for got, wanted in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))


def test_arguments():
    for name in ("GlobalAveragePooling1D", "GlobalMaxPooling1D"):
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (layers, keras.layers))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
