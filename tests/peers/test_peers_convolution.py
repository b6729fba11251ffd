"""Conv1D against live Keras (TensorFlow), on inputs that are 0 under their mask: outputs and gradients everywhere."""

import os

import numpy as np
import pytest

from fastmask import Input, Sequential, layers
from helpers import assert_close, mask_cases

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, F, C = 4, 9, 3, 5
K = 4096  # float64 against float64, other orders of summing
WINDOWS = [(1, 1, 1), (3, 1, 1), (4, 1, 1), (3, 2, 1), (4, 3, 1), (2, 3, 1), (3, 1, 2), (2, 1, 3)]


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def pair(kernel_size, strides, dilation_rate, padding, **options):
    options = dict(
        strides=strides, dilation_rate=dilation_rate, padding=padding, activation="tanh", dtype="float64", **options
    )
    ours, theirs = layers.Conv1D(C, kernel_size, **options), keras.layers.Conv1D(C, kernel_size, **options)
    ours.build((None, None, F))
    theirs.build((None, None, F))
    weights = [random(*w.shape, seed=i) for i, w in enumerate(ours.weights)]
    assert [w.shape for w in theirs.weights] == [w.shape for w in weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize("window", WINDOWS)
def test_outputs_and_gradients(window, padding):
    for length, mask_name in ((T, "none"), (T, "right"), (T, "holes"), (T - 1, "empty_rows")):
        mask = mask_cases(B, length)[mask_name]
        x = np.where(mask[..., None], random(B, length, F), 0)
        ours, theirs = pair(*window, padding, use_bias=mask_name != "holes")
        tensor = tf.Variable(x)
        with tf.GradientTape() as tape:
            wanted = theirs(tensor)
            dy = random(*wanted.shape, seed=1)
            total = tf.reduce_sum(wanted * dy)
        gradients = tape.gradient(total, [tensor, *(w.value for w in theirs.trainable_weights)])
        garbage = np.where(mask[..., None], x, np.nan)
        y = ours(garbage, mask=mask, training=True)
        assert_close(y, wanted.numpy(), k=K)
        assert ours.compute_output_shape(x.shape) == tuple(theirs.compute_output_shape(x.shape))
        # Masking in front, in Keras, lets no gradient through at masked steps
        assert_close(ours.backward(dy), np.where(mask[..., None], gradients[0].numpy(), 0), k=K)
        for got, gradient in zip(ours.gradients, gradients[1:], strict=True):
            assert_close(got, gradient.numpy(), k=K)


@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
@pytest.mark.parametrize("padding", ["causal", "same"])
def test_deliberate_differences(padding):
    """Keras drops the mask, and reads what stands under it unless Masking has set that to 0."""
    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    ours, theirs = pair(3, 1, 1, padding)
    zeros = np.where(mask[..., None], x, 0)
    masked = keras.layers.Masking(dtype="float64")(zeros)
    wanted = theirs(masked)
    assert getattr(wanted, "_keras_mask", None) is None
    y = ours(layers.Masking(dtype="float64")(zeros))
    assert_close(y, wanted.numpy(), k=K)
    np.testing.assert_array_equal(y.mask, mask)
    assert np.abs(theirs(x).numpy() - wanted.numpy()).max() > 0.1
    assert_close(ours(x, mask=mask), wanted.numpy(), k=K)


def test_a_softmax_at_the_end_is_trained_on_its_logits():
    """The loss of huge logits is that of Keras, which has no clipping there."""
    x, labels = random(B, T, F), np.random.default_rng(0).integers(0, C, (B, T))
    ours = layers.Conv1D(C, 3, padding="same", activation="softmax")
    theirs = keras.layers.Conv1D(C, 3, padding="same", activation="softmax")
    model = Sequential([Input((None, F)), ours])
    keras_model = keras.Sequential([keras.Input((None, F)), theirs])
    keras_model.set_weights([1e3 * random(*w.shape) for w in model.get_weights()])
    model.set_weights(keras_model.get_weights())
    for m in (model, keras_model):
        m.compile("sgd", "sparse_categorical_crossentropy")
    wanted = keras_model.evaluate(x, labels, verbose=0)
    assert wanted > 100
    assert_close(model.evaluate(x, labels, verbose=0), wanted, np.float32, k=64)
