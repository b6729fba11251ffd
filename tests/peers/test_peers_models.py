"""Models against live Keras (TensorFlow): the order of weights, and how training goes step by step."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

import fastmask as fm
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

OURS = SimpleNamespace(
    layers=fm.layers, Input=fm.Input, Model=fm.Model, Sequential=fm.Sequential, optimizers=fm.optimizers
)
KERAS = SimpleNamespace(
    layers=keras.layers, Input=keras.Input, Model=keras.Model, Sequential=keras.Sequential, optimizers=keras.optimizers
)
B, T, F, K, V = 6, 7, 3, 4, 9
STEPS = 20
rng = np.random.default_rng(0)
LENGTHS = np.array([7, 1, 4, 5, 2, 6])
MASK = np.arange(T) < LENGTHS[:, None]
FRAMES = np.where(MASK[..., None], rng.standard_normal((B, T, F)), 0).astype("float32")
IDS = np.where(MASK, rng.integers(1, V, (B, T)), 0)
CLASSES, TAGS = rng.integers(0, K, B), rng.integers(0, K, (B, T))


def classifier(f):
    """Right-padded frames, a class for each row."""
    x = f.Input((None, F))
    y = f.layers.Bidirectional(f.layers.GRU(5))(f.layers.Masking(0.0)(x))
    return f.Model(x, f.layers.Dense(K, activation="softmax")(y)), FRAMES, CLASSES, "sparse_categorical_crossentropy"


def tagger(f):
    """Right-padded ids, a class for each valid step."""
    x = f.Input((None,), dtype="int32")
    y = f.layers.Embedding(V, 5, mask_zero=True)(x)
    y = f.layers.Bidirectional(f.layers.LSTM(4, return_sequences=True))(y)
    y = f.layers.Dense(K, activation="softmax")(y)
    return f.Model(x, y), IDS, TAGS, "sparse_categorical_crossentropy"


def autoencoder(f):
    """Masked frames to a vector and back; the second Masking is the usual trick to mask the loss, too."""
    x = f.Input((T, F))
    code = f.layers.LSTM(5)(f.layers.Masking(0.0)(x))
    y = f.layers.LSTM(5, return_sequences=True)(f.layers.RepeatVector(T)(code))
    return f.Model(x, f.layers.TimeDistributed(f.layers.Dense(F))(y)), FRAMES, FRAMES, "mse"


MODELS = {"classifier": classifier, "tagger": tagger, "autoencoder": autoencoder}


def dense(cls):
    """A Keras optimizer that adds up the gradients of an id which stands several times in a batch before it squares
    them. On TensorFlow Keras 3 squares first (its gradient of an Embedding is sparse, with repeated rows); on JAX and
    PyTorch, and in tf_keras, it does not. fastmask always adds first."""

    class Dense(cls):
        def apply(self, grads, trainable_variables=None):
            super().apply([tf.convert_to_tensor(g) for g in grads], trainable_variables)

    return Dense


OPTIMIZERS = {
    "sgd": ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    "adam": ("Adam", {"learning_rate": 0.01}),
    "rmsprop": ("RMSprop", {"learning_rate": 0.01}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_training_goes_as_keras_does(name, optimizer):
    """Same start, same batches: 20 losses and the weights after them."""
    ours, x, y, loss = MODELS[name](OURS)
    theirs, *_ = MODELS[name](KERAS)
    ours.set_weights(theirs.get_weights())
    cls, options = OPTIMIZERS[optimizer]
    ours.compile(getattr(fm.optimizers, cls)(**options), loss)
    theirs.compile(dense(getattr(keras.optimizers, cls))(**options), loss)
    batches = np.random.default_rng(1).permuted(np.tile(np.arange(B), (STEPS, 1)), axis=1)[:, :4]
    for batch in batches:
        theirs.reset_metrics()
        expected = float(theirs.train_on_batch(x[batch], y[batch]))
        assert ours.train_on_batch(x[batch], y[batch]) == pytest.approx(expected, abs=1e-5)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(a, b, np.float32, k=2**10)  # 20 steps of Adam divide differences by small numbers
    assert_close(ours.predict(x), theirs.predict(x, verbose=0), np.float32, k=2**10)


def branches(f):
    """Layers made and called in another order than they stand in the graph, one of them shared."""
    late = f.layers.Dense(2, name="late")
    shared = f.layers.GRU(3, return_sequences=True, name="shared")
    a, b = f.Input((None, F), name="a"), f.Input((None, F), name="b")
    right = f.layers.LSTM(2, return_sequences=True, name="right")(b)
    left = shared(shared_input := f.layers.Dense(F, name="first")(a))
    both = f.layers.Concatenate(name="both")([left, shared(b), right])
    return f.Model([a, b], [late(both), f.layers.GRU(2, name="other")(shared_input)])


def test_weights_have_keras_order():
    ours, theirs = branches(OURS), branches(KERAS)
    assert [layer.name for layer in ours.layers] == [
        layer.name for layer in theirs.layers if not isinstance(layer, keras.layers.InputLayer)
    ]
    ours.set_weights(theirs.get_weights())
    x = [FRAMES, FRAMES[::-1]]
    for a, b in zip(ours.predict(x), theirs.predict(x, verbose=0), strict=True):
        assert_close(a, b, np.float32)


def test_several_losses_train_as_keras_does():
    ours, theirs = branches(OURS), branches(KERAS)
    ours.set_weights(theirs.get_weights())
    targets = [rng.standard_normal((B, T, 2)).astype("float32"), rng.standard_normal((B, 2)).astype("float32")]
    for model, f in ((ours, OURS), (theirs, KERAS)):
        model.compile(f.optimizers.SGD(0.1), loss=["mse", "mae"], loss_weights=[0.3, 2.0], metrics=[["mae"], None])
    for _ in range(3):
        theirs.reset_metrics()
        expected = theirs.train_on_batch([FRAMES, FRAMES[::-1]], targets, return_dict=True)
        got = ours.train_on_batch([FRAMES, FRAMES[::-1]], targets, return_dict=True)
        assert set(got) == set(expected)
        for key, value in expected.items():
            assert got[key] == pytest.approx(float(value), abs=1e-5), key
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(a, b, np.float32, k=2**8)
