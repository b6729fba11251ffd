"""Merging layers against live Keras (TensorFlow): values, masks and gradients, with every mixture of masks."""

import itertools
import os
import warnings

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

B, T, F = 4, 5, 3
ELEMENTWISE = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
MASKS = [mask_cases(B, T, seed=i)[name] for i, name in enumerate(("right", "holes", "empty_rows"))]


def random(*shape, seed=0, ties=False):
    x = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return np.round(x) if ties else x


def compare(name, xs, masks=None, k=64, **options):
    """Values and gradients of both; returns the outputs. masks: those of the inputs, None where there is none."""
    masks = masks or [None] * len(xs)
    layer, keras_layer = (getattr(module, name)(dtype="float64", **options) for module in (layers, keras.layers))
    variables, tensors = [tf.Variable(x) for x in xs], []
    with tf.GradientTape() as tape:
        for variable, mask in zip(variables, masks, strict=True):
            tensors.append(tf.identity(variable))
            if mask is not None:
                tensors[-1]._keras_mask = tf.constant(mask)
        expected = keras_layer(tensors)
        d = random(*expected.shape, seed=9)
        total = tf.reduce_sum(expected * d)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = layer(xs, mask=masks, training=True)
    assert_close(y, expected.numpy(), k=k)
    for one, other in zip(layer.backward(d), tape.gradient(total, variables), strict=True):
        assert_close(one, other.numpy(), k=k)
    dropped = [w for w in caught if issubclass(w.category, layers.MaskDroppedWarning)]
    return y, expected, bool(dropped)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("which", list(itertools.product([False, True], repeat=3)), ids=str)
def test_masks(name, which):
    """Keras' values in every mixture; its mask too, and where it drops one, here a warning."""
    n = 2 if name == "Subtract" else 3
    masks = [m if use else None for m, use in zip(MASKS, which, strict=True)][:n]
    for ties in (False, True):
        xs = [random(B, T, F, seed=i, ties=ties) for i in range(n)]
        y, expected, dropped = compare(name, xs, masks)
        wanted = getattr(expected, "_keras_mask", None)
        if wanted is None:
            assert type(y) is np.ndarray and dropped == any(m is not None for m in masks)
        else:
            np.testing.assert_array_equal(y.mask, wanted.numpy())
            assert not dropped


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_broadcasting(name):
    for shapes in (
        [(B, T, F), (B, F)],
        [(B, F), (B, T, F)],
        [(B, T, F), (B, 1, F)],
        [(B, T, 1), (B, T, F)],
        [(B,), (B, F)],
    ):
        xs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
        compare(name, xs)
        layer, keras_layer = getattr(layers, name)(), getattr(keras.layers, name)()
        symbolic = [(None, *shape[1:]) for shape in shapes]
        assert layer.compute_output_shape(symbolic) == keras_layer.compute_output_shape(symbolic)
    compare(name, [random(B, T, F), random(B, 1, F)], [MASKS[0], MASKS[1][:, :1]])
    # the mask of a sequence beside a vector: Keras drops it, here it goes on; values are the same
    y, expected, dropped = compare(name, [random(B, T, F), random(B, F)], [MASKS[0], None])
    assert getattr(expected, "_keras_mask", None) is None and not dropped
    np.testing.assert_array_equal(y.mask, MASKS[0])


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("which", list(itertools.product([False, True], repeat=2)), ids=str)
def test_concatenate(axis, which):
    masks = [m if use else None for m, use in zip(MASKS, which, strict=False)]
    xs = [random(B, T, F), random(B, T, F if axis == 1 else 2, seed=1)]
    y, expected, dropped = compare("Concatenate", xs, masks, axis=axis)
    wanted = getattr(expected, "_keras_mask", None)
    if wanted is None:
        assert type(y) is np.ndarray and not dropped
    elif axis == -1 and which[0] != which[1]:  # deliberate: Keras un-masks every step without a word
        assert wanted.numpy().all() and dropped and type(y) is np.ndarray
    else:
        np.testing.assert_array_equal(y.mask, wanted.numpy())
        assert not dropped


DOTS = [
    ((B, F), (B, F), 1),
    ((B, F), (B, F), -1),
    ((B, T, F), (B, F), (2, 1)),
    ((B, F), (B, T, F), (1, 2)),
    ((B, T, F), (B, 2, F), 2),
    ((B, T, F), (B, T, 2), 1),
    ((B, T, F), (B, 2, T), (1, -1)),
    ((B, T, 2, F), (B, F, 3, 2), (3, 1)),
    ((B, 2, 3, F), (B, 4, 3), (2, 2)),
]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("first, other, axes", DOTS)
def test_dot(first, other, axes, normalize):
    y, expected, _ = compare("Dot", [random(*first), random(*other, seed=1)], k=4096, axes=axes, normalize=normalize)
    assert y.shape == expected.shape


def test_dot_under_masks():
    """Where 0 stands at masked steps the values are Keras', and neither hands on a mask."""
    xs = [np.where(m[..., None], random(B, T, F, seed=i), 0) for i, m in enumerate(MASKS[:2])]
    for axes, warned in ((1, False), (2, True)):
        layer, keras_layer = layers.Dot(axes, dtype="float64"), keras.layers.Dot(axes, dtype="float64")
        tensors = [keras.layers.Masking(dtype="float64")(x) for x in xs]
        expected = keras_layer(tensors)
        assert getattr(expected, "_keras_mask", None) is None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            y = layer(xs, mask=MASKS[:2])
        assert type(y) is np.ndarray and bool(caught) == warned
        assert_close(y, expected.numpy(), k=64)
