"""Attention and AdditiveAttention against live Keras (TensorFlow): outputs, scores, masks, gradients."""

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

B, TQ, TV, D, V = 3, 4, 5, 3, 2
K = 4096  # float64 against float64, other orders of summing
LAYERS = {
    "dot": ("Attention", {}),
    "dot_scaled": ("Attention", {"use_scale": True}),
    "concat": ("Attention", {"score_mode": "concat"}),
    "concat_scaled": ("Attention", {"score_mode": "concat", "use_scale": True}),
    "additive": ("AdditiveAttention", {}),
    "additive_unscaled": ("AdditiveAttention", {"use_scale": False}),
}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def pair(name, arrays):
    """The same layer here and in Keras, built, with random weights."""
    cls, options = LAYERS[name]
    ours = getattr(layers, cls)(dtype="float64", **options)
    theirs = getattr(keras.layers, cls)(dtype="float64", **options)
    ours.build([(None, None, a.shape[-1]) for a in arrays])
    theirs.build([a.shape for a in arrays])
    weights = [random(*w.shape, seed=i) + 1 for i, w in enumerate(ours.weights)]
    assert [w.shape for w in theirs.weights] == [w.shape for w in weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


def masks_of(name):
    """A mask of the query and one of the value in which every row has a valid value."""
    value_mask = mask_cases(B, TV)[name].copy()
    value_mask[:, 0] = True  # and so has every query under a causal mask
    return mask_cases(B, TQ, seed=1)[name], value_mask


@pytest.mark.parametrize("own_key", [False, True])
@pytest.mark.parametrize("mask", [None, "right", "holes", "empty_rows"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_scores_masks_and_gradients(name, causal, mask, own_key):
    arrays = [random(B, TQ, D), random(B, TV, V if own_key else D, seed=1)]
    arrays += [random(B, TV, D, seed=2)] if own_key else []
    ours, theirs = pair(name, arrays)
    tensors = [tf.constant(a) for a in arrays]
    call = {"return_attention_scores": True, "use_causal_mask": causal}
    query_mask, value_mask = (None, None) if mask is None else masks_of(mask)
    tensor_masks = None if mask is None else [tf.constant(query_mask), tf.constant(value_mask)]
    query_valid = np.ones((B, TQ), bool) if mask is None else query_mask
    dy = random(B, TQ, arrays[1].shape[-1], seed=3)
    d_scores = random(B, TQ, TV, seed=4) * query_valid[..., None]  # those of masked queries are 0 here
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        wanted, wanted_scores = theirs(tensors, mask=tensor_masks, **call)
        total = tf.reduce_sum(wanted * dy) + tf.reduce_sum(wanted_scores * d_scores)
    wanted_gradients = tape.gradient(total, [*tensors, *(w.value for w in theirs.trainable_weights)])

    y, scores = ours(arrays, mask=None if mask is None else [query_mask, value_mask], training=True, **call)
    assert_close(y, wanted.numpy(), k=K)
    assert_close(scores[query_valid], wanted_scores.numpy()[query_valid], k=K)
    assert not scores[~query_valid].any()  # a deliberate difference
    wanted_mask = theirs.compute_mask(tensors, tensor_masks)
    assert (wanted_mask is None) == (mask is None)
    if mask is not None:
        np.testing.assert_array_equal(y.mask, wanted_mask.numpy())
    found = [*ours.backward((dy, d_scores)), *(ours.gradients if ours.weights else [])]
    for got, gradient in zip(found, wanted_gradients, strict=True):
        assert_close(np.atleast_1d(got), np.atleast_1d(tf.convert_to_tensor(gradient).numpy()), k=K)


def test_initial_weights():
    """Keras' initializers: ones, and for the scale of AdditiveAttention glorot_uniform."""
    arrays = [random(B, TQ, 400), random(B, TV, 400)]
    for name, (cls, options) in LAYERS.items():
        ours, theirs = getattr(layers, cls)(**options), getattr(keras.layers, cls)(**options)
        ours(arrays)
        theirs(arrays)
        for w, v in zip(ours.weights, theirs.weights, strict=True):
            assert w.shape == v.shape and w.name == v.name
            if w.shape:
                limit = np.sqrt(6 / 800)  # a vector: fan in = fan out
                for value in (w.numpy(), v.numpy()):
                    assert np.abs(value).max() <= limit and np.abs(value).max() > 0.95 * limit, name
            else:
                assert float(w) == float(v.numpy()) == 1


def test_deliberate_differences():
    """Where no value is valid Keras uses the masked ones, and it ignores the mask of the key; garbage spreads."""
    query, value, none = random(B, TQ, D), random(B, TV, D), np.zeros((B, TV), bool)
    ours, theirs = pair("dot", [query, value])
    wanted = theirs([query, value], mask=[None, tf.constant(none)]).numpy()
    assert_close(
        wanted, theirs([query, value]).numpy(), k=1e9
    )  # 1e9 is taken from every score: rounding apart, nothing
    assert not ours([query, value], mask=[None, none]).any()
    key_mask = mask_cases(B, TV)["right"].copy()
    key_mask[:, 0] = True
    ignored = theirs([query, value, value], mask=[None, None, tf.constant(key_mask)]).numpy()
    assert_close(ignored, theirs([query, value]).numpy())
    counted = ours([query, value, value], mask=[None, None, key_mask])
    assert_close(counted, ours([query, value], mask=[None, key_mask]))
    garbage = np.where(key_mask[..., None], value, np.nan)
    assert np.isnan(theirs([query, garbage], mask=[None, tf.constant(key_mask)]).numpy()).any()
    assert np.isfinite(ours([query, garbage], mask=[None, key_mask])).all()
