"""TimeDistributed against live Keras (TensorFlow): outputs and gradients, masks of words and inside words."""

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

B, T1, T2, F, H = 3, 4, 5, 2, 3
K = 4096  # float64 against float64, other orders of summing
INNER = {
    "dense": (lambda k: k.Dense(H, activation="tanh", dtype="float64"), False),
    "lstm": (lambda k: k.LSTM(H, dtype="float64"), True),
    "gru_sequences": (lambda k: k.GRU(H, return_sequences=True, dtype="float64"), True),
    "bidirectional": (lambda k: k.Bidirectional(k.LSTM(H, dtype="float64"), dtype="float64"), True),
    "bidirectional_sequences": (
        lambda k: k.Bidirectional(k.GRU(H, return_sequences=True, dtype="float64"), dtype="float64"),
        True,
    ),
}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", INNER)
def test_outputs_and_gradients(name, masked):
    make, nested = INNER[name]
    x = random(B, T1, T2, F) if nested else random(B, T1, F)
    mask = mask_cases(B * T1, T2)["holes"].reshape(B, T1, T2) if nested else mask_cases(B, T1)["holes"]
    ours = layers.TimeDistributed(make(layers))
    theirs = keras.layers.TimeDistributed(make(keras.layers), dtype="float64")
    tensor = tf.Variable(x)
    with tf.GradientTape() as tape:
        wanted = theirs(tensor, mask=tf.constant(mask) if masked else None)
        dy = random(*wanted.shape, seed=1)
        total = tf.reduce_sum(wanted * dy)
    gradients = tape.gradient(total, [tensor, *(w.value for w in theirs.trainable_weights)])
    ours.build((None, None, *x.shape[2:]))
    ours.set_weights(theirs.get_weights())
    y = ours(x, mask=mask if masked else None, training=True)
    assert_close(y, wanted.numpy(), k=K)
    assert ours.compute_output_shape(x.shape) == tuple(theirs.compute_output_shape(x.shape))
    found = [ours.backward(dy), *ours.gradients]
    for got, gradient in zip(found, gradients, strict=True):
        assert_close(got, gradient.numpy(), k=K)
    if masked:
        np.testing.assert_array_equal(wanted._keras_mask.numpy(), mask)
        if name in ("lstm", "bidirectional"):  # a deliberate difference: the words that have a letter
            mask = mask.any(axis=2)
        np.testing.assert_array_equal(y.mask, mask)


def test_deliberate_differences():
    """A mask of words around a recurrent layer fails in Keras, and masks made inside are lost."""
    x, mask = random(B, T1, T2, F), mask_cases(B, T1)["holes"]
    theirs = keras.layers.TimeDistributed(keras.layers.LSTM(H, dtype="float64"), dtype="float64")
    with pytest.raises(Exception, match="(?i)shape|dim|rank"):
        theirs(x, mask=tf.constant(mask))
    assert layers.TimeDistributed(layers.LSTM(H, dtype="float64"))(x, mask=mask).mask is mask
    x[:, :, 3:] = 0
    lost = keras.layers.TimeDistributed(keras.layers.Masking(dtype="float64"), dtype="float64")(x)
    assert getattr(lost, "_keras_mask", None) is None
    kept = layers.TimeDistributed(layers.Masking(dtype="float64"))(x)
    np.testing.assert_array_equal(kept.mask, x.any(axis=3))
    assert_close(kept, lost.numpy())
