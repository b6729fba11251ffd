"""Embedding against live Keras (TensorFlow): outputs, masks and the gradient of the embeddings."""

import inspect
import os

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

V, D = 9, 5


def pair(**options):
    """The same layer here and in Keras, with the same weights."""
    ours, theirs = (m.layers.Embedding(V, D, dtype="float64", **options) for m in (fm, keras))
    theirs.build((None, None))
    ours.build((None, None))
    ours.set_weights(theirs.get_weights())
    return ours, theirs


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 7), (2, 3, 4), (3, 0)])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
def test_embedding(dtype, shape, mask_zero):
    ours, theirs = pair(mask_zero=mask_zero)
    ids = np.random.default_rng([1, *shape]).integers(0, V, shape).astype(dtype)
    if dtype == "float32":
        ids = np.minimum(ids + np.float32(0.7), V - 0.5)
        ids[..., :1] = 0
    with tf.GradientTape() as tape:
        expected = theirs(tf.constant(ids))
        dy = np.random.default_rng(2).standard_normal(expected.shape)
        total = tf.reduce_sum(expected * dy)
    y = ours(ids, training=True)
    np.testing.assert_array_equal(y, expected.numpy())
    mask = getattr(expected, "_keras_mask", None)
    assert (mask is None) == (getattr(y, "mask", None) is None) == (not mask_zero)
    if mask_zero:
        np.testing.assert_array_equal(y.mask, mask.numpy())
    ours.backward(dy)
    wanted = tf.convert_to_tensor(tape.gradient(total, theirs.trainable_weights[0].value))
    assert_close(np.asarray(ours.gradients[0]), wanted.numpy(), k=16)


def test_initial_embeddings():
    """From the same range, evenly."""
    for layer in (layers.Embedding(2000, 50), keras.layers.Embedding(2000, 50)):
        layer(np.array([[0]]))
        (w,) = layer.get_weights()
        assert w.shape == (2000, 50) and abs(np.abs(w).max() - 0.05) < 1e-5
        assert abs(w.std() - 0.1 / 12**0.5) < 2e-4 and abs(w.mean()) < 5e-4


def test_arguments():
    theirs = inspect.signature(keras.layers.Embedding).parameters
    refused = ("lora_rank", "lora_alpha", "quantization_config")
    ours = inspect.signature(layers.Embedding).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values() if p.name not in refused
    ]


def test_ids_out_of_range():
    """TensorFlow refuses ids of V and more, but takes those below 0 from the end; here both are refused."""
    ours, theirs = pair()
    with pytest.raises(tf.errors.InvalidArgumentError):
        theirs(tf.constant([V]))
    np.testing.assert_array_equal(theirs(tf.constant([-1])), theirs(tf.constant([V - 1])))
    for bad in (V, -1):
        with pytest.raises(ValueError, match="expected ids 0..8"):
            ours([bad])


def test_trained_by_keras_and_here():
    """A classifier of bags of words: the same weights after some steps of SGD."""
    ids = fm.pad_sequences([[1, 2, 3], [4], [5, 6, 1, 1], [7, 8]], padding="post")
    y = np.float32([[0], [1], [1], [0]])

    def model_of(m):
        layers = [m.layers.Embedding(V, D, mask_zero=True), m.layers.GlobalAveragePooling1D(), m.layers.Dense(1)]
        model = m.Sequential([m.Input((None,), dtype="int32"), *layers])
        model.compile(optimizer="sgd", loss="mse")
        return model

    ours, theirs = model_of(fm), model_of(keras)
    ours.set_weights(theirs.get_weights())
    for model in (ours, theirs):
        model.fit(ids, y, epochs=10, batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(a, b, np.float32, k=16)
