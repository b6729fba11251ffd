"""Flatten, Reshape, Permute, RepeatVector, RepeatLike, Cropping1D, ZeroPadding1D, UpSampling1D."""

import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask.layers import (
    Cropping1D,
    Dense,
    Flatten,
    MaskDroppedWarning,
    Masking,
    Permute,
    RepeatLike,
    RepeatVector,
    Reshape,
    UpSampling1D,
    ZeroPadding1D,
    deserialize,
    reshaping,
    serialize,
)
from fastmask.ragged import Ragged
from helpers import assert_doctests, assert_layer_gradients, mask_cases

B, T, F = 3, 4, 6
X = np.arange(B * T * F, dtype=np.float64).reshape(B, T, F)
MASK = mask_cases(B, T)["holes"]

# layer, what becomes of X, what becomes of its mask (None: it is dropped)
LAYERS = {
    "flatten": (Flatten, X.reshape(B, T * F), None),
    "reshape_steps": (lambda **o: Reshape((-1, 3, 2), **o), X.reshape(B, T, 3, 2), MASK),
    "reshape_known": (lambda **o: Reshape((T, 2, 3), **o), X.reshape(B, T, 2, 3), MASK),
    "reshape_other": (lambda **o: Reshape((-1, 8), **o), X.reshape(B, 3, 8), None),
    "reshape_flat": (lambda **o: Reshape((24,), **o), X.reshape(B, 24), None),
    "permute": (lambda **o: Permute((2, 1), **o), X.transpose(0, 2, 1), None),
    "permute_nothing": (lambda **o: Permute((1, 2), **o), X, MASK),
    "cropping": (lambda **o: Cropping1D((1, 2), **o), X[:, 1:2], MASK[:, 1:2]),
    "cropping_all": (lambda **o: Cropping1D(2, **o), X[:, 2:2], MASK[:, 2:2]),
    "cropping_left": (lambda **o: Cropping1D((1, 0), **o), X[:, 1:], MASK[:, 1:]),
    "padding": (
        lambda **o: ZeroPadding1D((2, 1), **o),
        np.pad(X, [(0, 0), (2, 1), (0, 0)]),
        np.pad(MASK, [(0, 0), (2, 1)]),
    ),
    "upsampling": (lambda **o: UpSampling1D(3, **o), X.repeat(3, axis=1), MASK.repeat(3, axis=1)),
}
each_layer = pytest.mark.parametrize("make, expected, expected_mask", LAYERS.values(), ids=LAYERS)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@each_layer
def test_values_and_masks(make, expected, expected_mask):
    layer = make(dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(X)
        np.testing.assert_array_equal(y, expected)
        assert type(y) is np.ndarray
    if expected_mask is None:
        with pytest.warns(MaskDroppedWarning, match=f"^{layer.name}: .*mask is lost here.*Pass mask= to a later layer"):
            y = layer(X, mask=MASK)
        assert type(y) is np.ndarray
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            y = layer(X, mask=MASK)
        np.testing.assert_array_equal(y.mask, expected_mask)
    np.testing.assert_array_equal(y, expected)
    assert (layer.mask_role() == "drops") == (expected_mask is None)


@each_layer
def test_gradients(make, expected, expected_mask):
    x = random(2, T, F)
    assert_layer_gradients(make(dtype="float64"), x)
    layer = make()
    y = layer(np.zeros((B, T, F), np.float32), training=True)
    dx = layer.backward(np.ones_like(y))
    assert dx.shape == (B, T, F) and dx.dtype == np.float32 and dx.flags.c_contiguous
    layer(X, training=True)
    assert layer.backward(None) is None


def test_gradient_of_a_permutation_that_is_not_its_own_inverse():
    assert_layer_gradients(Permute((2, 3, 1), dtype="float64"), random(2, 3, 4, 2))
    assert_layer_gradients(Permute((1, 3, 4, 2), dtype="float64"), Ragged(random(3, 2, 3, 4), [0, 2, 3]))


@each_layer
def test_symbolic_shapes_and_masks(make, expected, expected_mask):
    layer = make()
    assert layer.compute_output_shape((B, T, F)) == expected.shape
    x = Masking()(fm.Input((None, F)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = layer(x)
    assert bool(caught) == (expected_mask is None)
    assert all(n in (None, m) for n, m in zip(y.shape, expected.shape, strict=True))
    if expected_mask is None:
        assert y.mask is None
    else:
        assert all(n in (None, m) for n, m in zip(y.mask.shape, expected_mask.shape, strict=True))
    known = layer.compute_output_shape((None, T, F))
    assert known == (None, *expected.shape[1:])


@each_layer
def test_configuration_and_empty_batches(make, expected, expected_mask):
    layer = make()
    again = deserialize(serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    x = np.zeros((0, T, F), np.float32)
    y = layer(x, training=True)
    assert y.shape == (0, *expected.shape[1:]) and layer.backward(y).shape == x.shape


@each_layer
def test_integers_stay_integers(make, expected, expected_mask):
    ids = np.full((B, T, F), 2**24 + 1)  # no float32
    y = make()(ids)
    assert y.dtype == ids.dtype and set(np.unique(y)) <= {0, 2**24 + 1}


def test_no_steps():
    x = np.zeros((2, 0, F), np.float32)
    for layer, shape in (
        (Flatten(), (2, 0)),
        (Reshape((-1, 3, 2)), (2, 0, 3, 2)),
        (Permute((2, 1)), (2, F, 0)),
        (Cropping1D(0), (2, 0, F)),
        (ZeroPadding1D(1), (2, 2, F)),
        (UpSampling1D(), (2, 0, F)),
        (RepeatLike(), (2, 0, 3)),
    ):
        inputs = [np.ones((2, 3), np.float32), x] if isinstance(layer, RepeatLike) else x
        y = layer(inputs, training=True)
        assert y.shape == shape
        d = layer.backward(np.ones_like(y))
        assert np.shape(d[0]) == (2, 3) and not d[0].any() if isinstance(layer, RepeatLike) else d.shape == x.shape


def test_garbage_under_a_mask_that_goes_on_stays_under_it():
    x = np.where(MASK[..., None], X, np.nan)
    for make, expected, mask in LAYERS.values():
        if mask is not None:
            y = make(dtype="float64")(x, mask=MASK)
            np.testing.assert_array_equal(np.asarray(y)[mask], expected[mask])
    with pytest.warns(MaskDroppedWarning):  # where the mask is dropped it counts as 0
        assert np.isfinite(Flatten()(x, mask=MASK)).all()


def test_masks_of_other_ranks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = Flatten()(np.ones((2, 3)), mask=np.array([True, False]))  # nothing to flatten
        np.testing.assert_array_equal(y.mask, [True, False])
        y = Reshape((3, 1))(np.ones((2, 3)), mask=MASK[:2, :3])  # scores (B,T) become steps of one feature
        np.testing.assert_array_equal(y.mask, MASK[:2, :3])
        mask = np.random.default_rng(0).random((2, 3, 4)) < 0.5
        y = Permute((1, 2, 4, 3))(np.ones((2, 3, 4, 5, 6)), mask=mask)
        np.testing.assert_array_equal(y.mask, mask)
        y = Reshape((3, 4, 30))(np.ones((2, 3, 4, 5, 6)), mask=mask)
        np.testing.assert_array_equal(y.mask, mask)
    for layer, x, mask in (
        (Reshape((1, 3)), np.ones((2, 3)), np.ones(2)),  # rows are no steps
        (Permute((1, 3, 2)), np.ones((2, 3, 4, 5)), np.ones((2, 3, 4))),
        (Reshape((3, 20)), np.ones((2, 3, 4, 5)), np.ones((2, 3, 4))),
    ):
        with pytest.warns(MaskDroppedWarning):
            assert type(layer(x, mask=mask)) is np.ndarray


def test_ragged():
    r = Ragged(random(7, F).astype(np.float32), [0, 4, 4, 7])
    mask = np.array([1, 0, 1, 1, 0, 1, 1], bool)
    y = Reshape((-1, 3, 2))(r, mask=mask)
    np.testing.assert_array_equal(y.values, r.values.reshape(7, 3, 2))
    np.testing.assert_array_equal(y.mask, mask)
    z = Permute((1, 3, 2))(y)
    np.testing.assert_array_equal(z.values, y.values.transpose(0, 2, 1))
    np.testing.assert_array_equal(z.mask, mask)
    assert_layer_gradients(Reshape((-1, 2, 3), dtype="float64"), Ragged(random(7, F), [0, 4, 4, 7]))
    assert_layer_gradients(Permute((1, 3, 2), dtype="float64"), Ragged(random(7, 3, 2), [0, 4, 4, 7]))
    for layer in (Reshape((24,)), Reshape((-1, 12)), Permute((2, 1))):
        with pytest.raises(TypeError, match="expected an array, as the steps are moved, received a Ragged"):
            layer(r)
    for layer in (Flatten(), Cropping1D(), ZeroPadding1D(), UpSampling1D()):
        with pytest.raises(TypeError, match="no meaning for a Ragged"):
            layer(r)


# ---- vectors as sequences -------------------------------------------------------------------------------------------
def test_repeat_vector():
    x = random(B, F)
    layer = RepeatVector(5, dtype="float64")
    y = layer(x)
    np.testing.assert_array_equal(y, np.broadcast_to(x[:, None], (B, 5, F)))
    assert_layer_gradients(layer, x)
    assert layer.compute_output_shape((None, F)) == (None, 5, F) and layer.mask_role() == "drops"
    assert deserialize(serialize(layer)).get_config() == layer.get_config()
    with pytest.warns(MaskDroppedWarning, match=f"{layer.name}: RepeatVector repeats rows.*RepeatLike"):
        y = layer(x, mask=np.array([True, False, True]))
    assert type(y) is np.ndarray
    assert layer(np.zeros((0, F))).shape == (0, 5, F)


@pytest.mark.parametrize("name", ["none", "right", "holes", "empty_rows", "all_masked"])
def test_repeat_like_takes_length_and_mask(name):
    vector, sequence, mask = random(B, 2), random(B, T, F), mask_cases(B, T)[name]
    layer = RepeatLike(dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer([vector, sequence], mask=[None, mask])
    np.testing.assert_array_equal(y, np.broadcast_to(vector[:, None], (B, T, 2)))
    np.testing.assert_array_equal(y.mask, mask)
    assert type(layer([vector, sequence])) is np.ndarray
    assert_layer_gradients(layer, [vector, sequence], mask=[None, mask])
    assert layer([vector, np.zeros((B, T), int)]).shape == (B, T, 2)  # ids


def test_repeat_like_of_a_ragged():
    offsets = [0, 4, 4, 7, 7]
    vector, r = random(4, 2), Ragged(random(7, F), offsets)
    layer, holes = RepeatLike(dtype="float64"), np.array([1, 0, 1, 1, 0, 1, 1], bool)
    y = layer([vector, r], mask=[None, holes])
    np.testing.assert_array_equal(y.offsets, offsets)
    np.testing.assert_array_equal(y.values, vector[[0, 0, 0, 0, 2, 2, 2]])
    np.testing.assert_array_equal(y.mask, holes)
    assert_layer_gradients(layer, [vector, r])
    x, mask = r.to_padded()
    padded = layer([vector, x], mask=[None, mask])
    np.testing.assert_array_equal(np.asarray(padded)[mask], y.values)
    empty = Ragged(np.zeros((0, F)), [0, 0])
    layer([vector[:1], empty], training=True)
    assert not layer.backward(Ragged(np.zeros((0, 2)), [0, 0]))[0].any()


def test_repeat_like_in_a_model():
    x = Masking()(fm.Input((None, F)))
    encoded = fm.layers.GRU(2)(x)
    y = RepeatLike()([encoded, x])
    assert y.shape == (None, None, 2) and y.mask.shape == (None, None)
    layer = RepeatLike()
    assert layer.compute_output_shape([(None, 2), (None, None, F)]) == (None, None, 2)
    assert deserialize(serialize(layer)).get_config() == layer.get_config() and layer.mask_role() == "passes"
    with pytest.warns(MaskDroppedWarning, match="repeats a vector, whose own mask is lost"):
        y = layer([random(B, 2), random(B, T, F)], mask=[np.array([True, False, True]), MASK])
    np.testing.assert_array_equal(y.mask, MASK)


def test_a_mask_that_was_cropped_reaches_a_later_layer():
    x = np.where(MASK[..., None], X, 0).astype(np.float32)
    model = fm.Sequential([fm.Input((None, F)), Masking(), Cropping1D((1, 0)), ZeroPadding1D((0, 2)), Dense(2)])
    np.testing.assert_array_equal(model(x).mask, np.pad(MASK[:, 1:], [(0, 0), (0, 2)]))


# ---- bad input ------------------------------------------------------------------------------------------------------
BAD = {
    "data_format": (lambda: Flatten("channels_first"), "data_format: expected None or 'channels_last'"),
    "padding_format": (lambda: ZeroPadding1D(1, "channels_first"), "data_format: expected"),
    "target": (lambda: Reshape((2.5,)), "target_shape: expected a whole number of -1 or more, received 2.5"),
    "target_int": (lambda: Reshape(5), "target_shape: expected a tuple of whole numbers, received 5"),
    "target_two": (lambda: Reshape((-1, -1)), r"target_shape: expected at most one -1, received \(-1, -1\)"),
    "target_size": (
        lambda: Reshape((5, 5), name="r")(X),
        r"r: inputs: expected rows that fill the target_shape \(5, 5\), received shape \(None, 4, 6\)",
    ),
    "target_rest": (lambda: Reshape((-1, 5))(X), "expected rows that fill the target_shape"),
    "dims": (lambda: Permute((1, 3)), r"dims: expected each of 1..2 once, received \(1, 3\)"),
    "dims_rank": (
        lambda: Permute((2, 1), name="p")(X[0]),
        r"p: inputs: expected rank 3 for dims=\(2, 1\), received shape \(4, 6\)",
    ),
    "n": (lambda: RepeatVector(0), "n: expected a whole number of 1 or more, received 0"),
    "n_type": (lambda: RepeatVector(True), "n: expected a whole number"),
    "vector": (lambda: RepeatVector(2, name="r")(X), r"r: inputs: expected shape \(B,F\), received \(3, 4, 6\)"),
    "cropping": (lambda: Cropping1D(-1), "cropping: expected a whole number of 0 or more, received -1"),
    "cropping_three": (lambda: Cropping1D((1, 2, 3)), r"cropping: expected a whole number or two of them"),
    "cropping_too_much": (
        lambda: Cropping1D((3, 2), name="c")(X),
        r"c: inputs: expected at least 5 steps for cropping=\(3, 2\), received 4",
    ),
    "cropping_rank": (lambda: Cropping1D(name="c")(X[0]), r"c: inputs: expected shape \(B,T,F\), received \(4, 6\)"),
    "size": (lambda: UpSampling1D(0), "size: expected a whole number of 1 or more"),
    "like_one": (
        lambda: RepeatLike(name="r")(X[0]),
        r"r: inputs: expected a list \[vector, sequence\], received shape",
    ),
    "like_three": (lambda: RepeatLike(name="r")([X[0], X, X]), r"r: inputs: expected a list \[vector, sequence\]"),
    "like_batch": (
        lambda: RepeatLike(name="r")([X[0], X]),
        r"r: inputs: expected a vector \(B,F\) and .* of the same B, received \(4, 6\) and \(3, 4, 6\)",
    ),
    "like_rank": (lambda: RepeatLike()([X, X]), r"expected a vector \(B,F\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        act()


def test_repeat_like_refuses_a_ragged_vector_and_a_single_array_later():
    layer = RepeatLike()
    layer([X[:, 0], X])
    with pytest.raises(ValueError, match="expected a list"):
        layer(X[:, 0])
    with pytest.raises(ValueError, match=r"expected a vector \(B,F\)"):
        layer([Ragged(np.ones((3, 2)), [0, 1, 2, 3]), X])
    with pytest.raises(TypeError, match="expected a vector .* first, received a Ragged"):
        layer([Ragged(np.ones(3), [0, 1, 2, 3]), X])


def test_examples_in_docstrings():
    assert_doctests(reshaping)
