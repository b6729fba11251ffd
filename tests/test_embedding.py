"""Embedding: rows by id, the mask of the ids, and a gradient that costs what its steps cost."""

import tracemalloc

import numpy as np
import pytest

import fastmask as fm
from cases import DTYPES, assert_same_bits, awkward, launched, launches
from fastmask.layers import Dense, Embedding, Layer, Masking
from fastmask.ops.embedding import embedding_backward, embedding_forward
from fastmask.ragged import Ragged
from fastmask.reference import embedding as reference
from fastmask.testing import check_layer
from fastmask.variable import RowsGradient
from helpers import assert_gradient

V, D = 7, 3
TEXT = [[711, 632, 71], [73, 8, 3215, 55, 927], [83, 91, 1, 645, 1253, 927]]


def weight(V=V, D=D, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, V, D]).standard_normal((V, D)).astype(dtype)


def layer_with(w, **options):
    return Embedding(*w.shape, weights=w, dtype=w.dtype.name, **options)


# ---- values and masks ------------------------------------------------------------------------------------------------
def test_the_text_of_the_guide():
    ids = fm.pad_sequences(TEXT, padding="post")
    embedding = Embedding(5000, 16, mask_zero=True)
    y = embedding(ids)
    np.testing.assert_array_equal(y.mask, [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(y, embedding.embeddings.value[ids])
    row = embedding.embeddings.value[0]
    assert row.any() and np.array_equal(y[0, 5], row)  # a row like any other
    assert np.abs(embedding.embeddings.value).max() <= 0.05
    assert type(Embedding(5000, 16)(ids)) is np.ndarray  # no mask without mask_zero


@pytest.mark.parametrize("dtype", [bool, *"bBhHiIlLqQ", np.float16, np.float32, np.float64])
def test_ids_of_any_dtype(dtype):
    w = weight()
    ids = (np.array([[0, 1], [1, 0]]) if dtype is bool else np.array([[0, 6], [3, 1]])).astype(dtype)
    y = layer_with(w, mask_zero=True)(ids)
    np.testing.assert_array_equal(y, w[ids.astype(int)])
    np.testing.assert_array_equal(y.mask, ids != 0)
    assert y.dtype == np.float64


def test_float_ids_are_cut_but_compared_as_they_are():
    w = weight()
    y = layer_with(w, mask_zero=True)([[0.7, 0.0, 2.9, -0.5]])
    np.testing.assert_array_equal(y[0], w[[0, 0, 2, 0]])
    np.testing.assert_array_equal(y.mask, [[True, False, True, True]])
    big = np.zeros((2**16, 1))
    big[2047] = 1
    assert embedding_forward(np.float16([2047]), big)[0] == 1  # V is no float16


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 1), (2, 3, 4), (0,), (0, 5), (4, 0), (2, 0, 3), (1, 2, 3, 4)])
def test_shapes(shape):
    w = weight()
    ids = np.random.default_rng(0).integers(0, V, shape)
    layer = layer_with(w, mask_zero=True)
    y = layer(ids, training=True)
    assert y.shape == (*shape, D) and y.mask.shape == shape
    np.testing.assert_array_equal(y, reference.embedding_forward(ids, w))
    assert layer.backward(np.ones_like(y)) is None
    np.testing.assert_array_equal(np.asarray(layer.gradients[0])[:, 0], np.bincount(ids.ravel(), minlength=V))
    assert layer.compute_output_shape((None, None)) == (None, None, D)
    assert_same_bits(np.asarray(layer(awkward(ids) if ids.size else ids)), np.asarray(y))


def test_ragged_equals_padded():
    w, ids = weight(), fm.pad_sequences([[3, 1, 0, 2], [], [6, 6]], padding="post")
    valid = fm.masks.from_lengths([4, 0, 2])
    layer = layer_with(w, mask_zero=True)
    padded, ragged = layer(ids, mask=valid), layer(Ragged.from_padded(ids, valid))
    np.testing.assert_array_equal(ragged.values, np.asarray(padded)[valid])
    np.testing.assert_array_equal(ragged.mask, padded.mask[valid])
    np.testing.assert_array_equal(ragged.offsets, [0, 4, 4, 6])
    characters = Ragged(np.array([[1, 2], [3, 0], [4, 5]]), [0, 2, 3])  # words of two
    y = layer(characters, mask=[True, True, False])
    assert y.values.shape == (3, 2, D)
    np.testing.assert_array_equal(y.mask, [[True, True], [True, False], [False, False]])


def test_a_mask_that_comes_in_is_kept():
    ids, mask = np.array([[1, 0, 2], [3, 4, 0]]), np.array([[1, 1, 0], [0, 1, 1]], bool)
    for mask_zero, expected in ((True, mask & (ids != 0)), (False, mask)):
        layer = layer_with(weight(), mask_zero=mask_zero)
        y = layer(ids, mask=mask)
        np.testing.assert_array_equal(y.mask, expected)
        np.testing.assert_array_equal(layer.compute_mask(ids, mask), expected)
        np.testing.assert_array_equal(y, layer(ids))
    masked = Masking(dtype="float64")(ids[..., None].astype(float))  # masks are of steps, not of ids
    np.testing.assert_array_equal(layer_with(weight())(masked).mask, ids != 0)
    words = np.stack([ids, ids + 1], axis=-1)  # (B,T1,T2) under a mask (B,T1)
    y = layer_with(weight(), mask_zero=True)(words, mask=mask)
    np.testing.assert_array_equal(y.mask, mask[..., None] & (words != 0))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e300, -1.0, V, 2.0**63])
def test_whatever_is_no_id_under_a_mask_counts_as_0(garbage):
    w = weight()
    ids, mask = np.array([[1.0, garbage, 2.0]]), np.array([[True, False, True]])
    layer = layer_with(w, mask_zero=True)
    y = layer(ids, mask=mask, training=True)
    np.testing.assert_array_equal(y[0], w[[1, 0, 2]])
    np.testing.assert_array_equal(y.mask, mask)
    layer.backward(np.where(mask[..., None], 1.0, 0.0) * np.ones_like(y))
    np.testing.assert_array_equal(layer.gradients[0].rows, [1, 2])
    with pytest.raises(ValueError, match=r"embedding.*: inputs: expected ids 0\.\.6, received .* at \(0, 1\)"):
        layer(ids)
    with pytest.raises(ValueError, match=r"received .* at \(0, 1\)"):
        layer(ids, mask=~mask)


def test_ids_out_of_range():
    layer = layer_with(weight(), name="e")
    for bad in (-1, V, 10**12, -(10**12)):
        with pytest.raises(ValueError, match=rf"^e: inputs: expected ids 0\.\.6, received {bad} at \(1, 2\)$"):
            layer([[0, 1, 2], [3, 4, bad]])
    with pytest.raises(ValueError, match=r"received 18446744073709551615 at \(0,\)$"):
        layer(np.array([2**64 - 1], np.uint64))
    with pytest.raises(ValueError, match=r"^ids: expected ids 0\.\.6, received 7 at \(2, 1\)$"):
        embedding_forward(Ragged(np.array([1, 2, 3, 4, 7]), [0, 3, 3, 5]), weight())
    with pytest.raises(TypeError, match="inputs: expected numbers, received dtype <U1"):
        layer([["a"]])


# ---- gradients -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V, D, N", [(1, 1, 5), (3, 5, 100), (1000, 17, 300), (200_000, 33, 400), (70_000, 64, 3000)])
def test_gradient_bits(V, D, N, dtype):
    """One chain a row, in the order of the steps: the very bits of adding them one by one, on every launch path."""
    rng = np.random.default_rng([V, D])
    ids = np.minimum(rng.zipf(1.3, N), V) - 1 if V < 10**5 else rng.integers(V - 50, V, N)
    dy = rng.standard_normal((N, D)).astype(dtype)
    dy[rng.random(N) < 0.3] = 0
    _, tape = embedding_forward(ids, np.zeros((V, D), dtype))
    expected = np.unique(ids[dy.any(axis=1)])
    dense = reference.embedding_backward(ids, dy, V)[expected]
    for path, threads in launches():
        with launched(path, threads):
            g = embedding_backward(tape, dy)
        assert g.shape == (V, D)
        np.testing.assert_array_equal(g.rows, expected)
        assert_same_bits(g.values, dense, f"{path}, {threads} threads")


def test_gradient_by_differences():
    w, ids = weight(), np.array([[1, 0, 1], [6, 0, 1]])
    layer = layer_with(w)
    dy = np.random.default_rng(1).standard_normal((2, 3, D))
    layer(ids, training=True)
    assert layer.backward(dy) is None
    (gradient,) = layer.gradients
    assert isinstance(gradient, RowsGradient)
    np.testing.assert_array_equal(gradient.rows, [0, 1, 6])

    def total():
        layer.embeddings.assign(w)
        return np.sum(layer(ids) * dy)

    assert_gradient(total, w, np.asarray(gradient))


@pytest.mark.parametrize("mask_zero", [False, True])
def test_check_layer(mask_zero):
    check_layer(layer_with(weight(), mask_zero=mask_zero), np.float64([[1, 0, 2, 6], [3, 3, 0, 0], [0, 5, 4, 1]]))


def test_a_frozen_layer_makes_no_gradient(monkeypatch):
    monkeypatch.setattr("fastmask.layers.embedding.embedding_backward", None)
    layer = layer_with(weight(), trainable=False)
    y = layer([[1, 2]], training=True)
    assert layer.backward(np.ones_like(y)) is None and layer.gradients == []


def test_row_0_learns_what_arrives_there_and_nothing_else():
    layer = layer_with(weight(), mask_zero=True)
    y = layer([[2, 0], [0, 2]], training=True)
    dy = np.where(y.mask[..., None], 1.0, 0.0) * np.ones_like(y)
    layer.backward(dy)
    np.testing.assert_array_equal(layer.gradients[0].rows, [2])
    layer([[2, 0], [0, 2]], training=True)
    layer.backward(dy + 0.5)
    np.testing.assert_array_equal(np.asarray(layer.gradients[0])[:, 0], [1.0, 0, 3.0, 0, 0, 0, 0])
    layer([[2, 0]], training=True)
    layer.backward(None)
    assert layer.embeddings.gradient is None


def test_gradient_of_ragged_ids():
    layer = layer_with(weight())
    y = layer(Ragged(np.array([3, 1, 3]), [0, 2, 3]), training=True)
    with pytest.raises(TypeError, match="^dy: expected Ragged as the outputs, received ndarray$"):
        layer.backward(np.ones((3, D)))
    layer.backward(y.with_values(np.ones((3, D))))
    np.testing.assert_array_equal(np.asarray(layer.gradients[0])[:, 0], [0, 1, 0, 2, 0, 0, 0])


def test_a_layer_used_twice():
    class Siamese(Layer):
        _casts_integers = False

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.words = Embedding(V, D, dtype="float64")

        def call(self, inputs):
            return self.words(inputs[:, :2]) + self.words(inputs[:, 1:])

        def backward(self, grad):
            self.words.backward(grad)
            self.words.backward(grad)

    layer = Siamese(dtype="float64")
    layer(np.array([[1, 2, 3]]), training=True)
    layer.backward(np.ones((1, 2, D)))
    np.testing.assert_array_equal(layer.gradients[0].rows, [1, 2, 3])
    np.testing.assert_array_equal(layer.gradients[0].values[:, 0], [1, 2, 1])


def test_a_training_step_makes_nothing_of_the_size_of_the_vocabulary():
    """(Measured, 64x400 steps with words as frequent as in a text, D = 64: 0.54 ms with V = 1e3, 0.72 ms with V = 1e6,
    where four times as many rows are in use.)"""
    V, D, N = 200_000, 64, 500
    layer = Embedding(V, D, embeddings_initializer="zeros", mask_zero=True)
    ids = np.random.default_rng(0).integers(0, V, (5, N // 5))
    dy = np.ones((5, N // 5, D), np.float32)
    layer(ids, training=True)
    layer.backward(dy)  # compiled
    tracemalloc.start()
    try:
        layer(ids, training=True)
        layer.backward(dy)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * dy.nbytes < V * D * 4 / 40


# ---- in a model ------------------------------------------------------------------------------------------------------
def test_trains_in_a_model():
    fm.set_random_seed(0)
    layer = Embedding(50, 4, mask_zero=True)
    model = fm.Sequential([fm.Input((None,), dtype="int32"), layer, fm.layers.GlobalAveragePooling1D(), Dense(1)])
    model.compile("sgd", "mse")
    before = layer.get_weights()[0]
    ids, y = fm.pad_sequences([[1, 2], [3], [4, 5, 6]]), np.array([[1.0], [2.0], [3.0]])
    losses = model.fit(ids, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    changed = (layer.get_weights()[0] != before).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(1, 7))


def test_symbolic_shapes_and_masks():
    x = fm.Input((None,), dtype="int32")
    y = Embedding(V, D, mask_zero=True)(x)
    assert y.shape == (None, None, D) and y.mask.shape == (None, None)
    assert Embedding(V, D)(x).mask is None
    assert Embedding(V, D).mask_role() == "passes" and Embedding(V, D, mask_zero=True).mask_role() == "makes"


# ---- making one ------------------------------------------------------------------------------------------------------
def test_configuration_round_trip():
    layer = Embedding(V, D, "ones", "l2", "non_neg", True, name="words", dtype="float64")
    again = fm.layers.deserialize(fm.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert (again.input_dim, again.output_dim, again.mask_zero, again.dtype) == (V, D, True, "float64")
    assert again([[1]]).tolist() == [[[1.0] * D]]
    assert again.embeddings.regularizer is not None and again.embeddings.constraint is not None


def test_initial_weights():
    w = weight(dtype=np.float32)
    for given in (w, [w], w.tolist()):
        layer = Embedding(V, D, weights=given)
        assert layer.built and np.array_equal(layer.get_weights()[0], w)
    with pytest.raises(ValueError, match=r"weights: expected shape \(7, 3\) for embedding.*received \(7, 4\)"):
        Embedding(V, D, weights=np.zeros((V, 4)))


@pytest.mark.parametrize("bad, error", [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_sizes(bad, error):
    for arguments, name in (((bad, D), "input_dim"), ((V, bad), "output_dim")):
        with pytest.raises(error, match=f"{name}: expected .*, received {bad}"):
            Embedding(*arguments)


def test_arguments_of_former_times():
    with pytest.warns(DeprecationWarning, match="input_length: .* leave it out"):
        Embedding(V, D, input_length=5)
    with pytest.raises(TypeError, match="unknown argument 'mask_value'"):
        Embedding(V, D, mask_value=0)


def test_errors_of_the_op():
    with pytest.raises(ValueError, match=r"^embeddings: expected shape \(V,D\), received \(3,\)$"):
        embedding_forward([0], np.zeros(3))
    with pytest.raises(TypeError, match="^embeddings: expected dtype float32 or float64, received int64$"):
        embedding_forward([0], np.zeros((3, 2), int))
    _, tape = embedding_forward([[0, 1]], np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"^dy: expected shape as y = \(1, 2, 2\), received \(1, 2, 3\)$"):
        embedding_backward(tape, np.zeros((1, 2, 3)))
    with pytest.raises(TypeError, match="^dy: expected dtype float64 as x, received float32$"):
        embedding_backward(tape, np.zeros((1, 2, 2), np.float32))
