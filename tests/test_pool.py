"""Global pooling: the average and the largest of the valid steps, and where their gradients go."""

import warnings

import numpy as np
import pytest

import fastmask as fm
from cases import DTYPES, assert_same_bits, awkward, launched, launches
from fastmask.layers import GlobalAveragePooling1D, GlobalMaxPooling1D, MaskDroppedWarning
from fastmask.ops.pool import average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward
from fastmask.ragged import Ragged
from fastmask.reference import pool as reference
from fastmask.testing import check_layer
from helpers import assert_close, assert_gradient, mask_cases

OPS = {
    "average": (average_pool_forward, average_pool_backward),
    "max": (max_pool_forward, max_pool_backward),
}
REFERENCES = {
    "average": (reference.average_pool_forward, reference.average_pool_backward),
    "max": (reference.max_pool_forward, reference.max_pool_backward),
}
LAYERS = {"average": GlobalAveragePooling1D, "max": GlobalMaxPooling1D}
KINDS = [*OPS]
# off the lane grid, ones, more steps than a sum takes at a time
SIZES = [(1, 1, 1), (3, 4, 5), (5, 6, 16), (4, 7, 33), (3, 150, 3), (2, 5, 70)]
MASKS = [None, *mask_cases(1, 1)]


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def mask_named(name, B, T):
    return None if name is None else mask_cases(B, T)[name]


# ---- values ----------------------------------------------------------------------------------------------------------
def test_by_hand():
    x = [[[1.0, -5.0], [2.0, -6.0], [9.0, 9.0]], [[3.0, 3.0], [3.0, 3.0], [3.0, 3.0]]]
    mask = [[True, True, False], [False, False, False]]
    average, tape = average_pool_forward(x, mask=mask)
    np.testing.assert_array_equal(average, [[1.5, -5.5], [0, 0]])
    dx = average_pool_backward(tape, np.array([[4.0, 2.0], [7.0, 7.0]]))
    np.testing.assert_array_equal(dx, [[[2, 1], [2, 1], [0, 0]], np.zeros((3, 2))])
    largest, tape = max_pool_forward(x, mask=mask)
    np.testing.assert_array_equal(largest, [[2.0, -5.0], [0, 0]])
    dx = max_pool_backward(tape, np.array([[4.0, 2.0], [7.0, 7.0]]))
    np.testing.assert_array_equal(dx, [[[0, 2], [4, 0], [0, 0]], np.zeros((3, 2))])


def test_ties_share_the_gradient():
    x, mask = np.array([[[2.0], [1.0], [2.0], [2.0], [2.0]]]), [[True, True, True, False, True]]
    _, tape = max_pool_forward(x, mask=mask)
    np.testing.assert_array_equal(max_pool_backward(tape, np.array([[6.0]]))[0, :, 0], [2, 0, 2, 0, 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_reference(kind, size, dtype):
    x, dy = random(*size, dtype=dtype), random(size[0], size[2], dtype=dtype)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    for name in MASKS:
        mask = mask_named(name, *size[:2])
        y, tape = OPS[kind][0](x, mask=mask)
        dx = OPS[kind][1](tape, dy)
        assert y.dtype == dx.dtype == dtype
        assert_close(y, REFERENCES[kind][0](x64, mask), dtype, k=8)
        assert_close(dx, REFERENCES[kind][1](x64, dy64, mask), dtype, k=2)
        again, _ = OPS[kind][0](awkward(x), mask=None if mask is None else mask.astype(int)[..., None])
        assert_same_bits(again, y)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_by_differences(kind):
    x, dy = random(3, 4, 2), random(3, 2)
    for name in MASKS:
        mask = mask_named(name, 3, 4)
        _, tape = OPS[kind][0](x, mask=mask)
        assert_gradient(lambda mask=mask: np.sum(OPS[kind][0](x, mask=mask)[0] * dy), x, OPS[kind][1](tape, dy))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (0, 0, 1), (2, 3, 0)])
def test_nothing_to_pool(kind, shape):
    y, tape = OPS[kind][0](np.ones(shape))
    assert_same_bits(y, np.zeros((shape[0], shape[2])))
    assert OPS[kind][1](tape, y).shape == shape


def test_long_rows_are_accurate():
    """Measured: 7 eps, where one chain over all steps is off by 65."""
    x = np.random.default_rng(0).uniform(0.5, 1.5, (1, 100_000, 3)).astype(np.float32)
    assert_close(average_pool_forward(x)[0], np.mean(x, axis=1, dtype=np.float64), np.float32, k=16)


def test_nan_and_infinity_among_the_valid_steps():
    x = np.zeros((1, 5, 4))
    x[0, 1:4, 0] = 1, np.nan, 2
    x[0, :, 1] = -np.inf
    x[0, 3, 2] = np.inf
    x[0, 4, 3] = np.nan  # masked
    mask = [[True, True, True, True, False]]
    largest, tape = max_pool_forward(x, mask=mask)
    np.testing.assert_array_equal(largest, [[np.nan, -np.inf, np.inf, 0]])
    dx = max_pool_backward(tape, np.full((1, 4), 12.0))
    np.testing.assert_array_equal(dx[0, :4, 0], [np.nan] * 4)  # as TensorFlow
    np.testing.assert_array_equal(dx[0, :, 1:].T, [[3, 3, 3, 3, 0], [0, 0, 0, 12, 0], [3, 3, 3, 3, 0]])
    np.testing.assert_array_equal(average_pool_forward(x, mask=mask)[0], [[np.nan, -np.inf, np.inf, 0]])
    for at in range(5):  # wherever it stands
        x = np.zeros((1, 5, 1))
        x[0, at] = np.nan
        assert np.isnan(max_pool_forward(x)[0]).all()


# ---- masks and bits --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_under_the_mask_is_read(kind, garbage):
    x, dy, mask = random(5, 6, 17, dtype=np.float32), random(5, 17, dtype=np.float32), mask_cases(5, 6)["empty_rows"]
    results = []
    for inputs in (x, np.where(mask[..., None], x, np.float32(garbage))):
        y, tape = OPS[kind][0](inputs, mask=mask)
        results.append((y, OPS[kind][1](tape, dy)))
    assert_same_bits(*results)
    assert not results[0][0][~mask.any(axis=1)].any() and not results[0][1][~mask].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_bit(kind, dtype):
    """A row alone = in a batch = padded on either side = with holes = Ragged; so do the gradients of its steps."""
    F, lengths = 19, [70, 1, 0, 200, 5]
    rows = Ragged.from_list([random(n, F, dtype=dtype, seed=i) for i, n in enumerate(lengths)])
    dy = random(len(lengths), F, dtype=dtype)
    y, tape = OPS[kind][0](rows)
    dx = OPS[kind][1](tape, dy)
    for i in range(len(rows)):
        alone, tape = OPS[kind][0](rows[i][None])
        assert_same_bits(alone[0], y[i])
        assert_same_bits(OPS[kind][1](tape, dy[i : i + 1])[0], dx[i])
    rng = np.random.default_rng(0)
    masks = {name: np.zeros((len(lengths), 220), bool) for name in ("right", "left", "holes")}
    for i, n in enumerate(lengths):
        masks["right"][i, :n] = masks["left"][i, 220 - n :] = True
        masks["holes"][i, rng.permutation(220)[:n]] = True
    for mask in masks.values():
        x = np.full((*mask.shape, F), np.nan, dtype)
        x[mask] = rows.values
        padded, tape = OPS[kind][0](x, mask=mask)
        assert_same_bits(padded, y)
        assert_same_bits(OPS[kind][1](tape, dy)[mask], dx.values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_launch(kind):
    x, dy, mask = random(9, 80, 17, dtype=np.float32), random(9, 17, dtype=np.float32), mask_cases(9, 80)["holes"]
    results = []
    for path, threads in launches():
        with launched(path, threads):
            y, tape = OPS[kind][0](x, mask=mask)
            results.append((y, OPS[kind][1](tape, dy)))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_ragged_with_holes():
    r, holes = Ragged(random(7, 3), [0, 4, 4, 7]), np.array([1, 0, 1, 1, 0, 1, 1], bool)
    x, mask = r.to_padded()
    mask[mask] = holes
    for kind in KINDS:
        y, tape = OPS[kind][0](r, mask=holes)
        assert_same_bits(y, OPS[kind][0](x, mask=mask)[0])
        dx = OPS[kind][1](tape, np.ones((3, 3)))
        np.testing.assert_array_equal(dx.offsets, r.offsets)
        assert not dx.values[~holes].any() and dx.values[holes].any()


# ---- layers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_layer(kind, keepdims):
    layer = LAYERS[kind](keepdims=keepdims, dtype="float64")
    x, mask, dy = random(3, 4, 2), mask_cases(3, 4)["right"], random(3, 2)
    expected, tape = OPS[kind][0](x, mask=mask)
    shape = (3, 1, 2) if keepdims else (3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MaskDroppedWarning)
        y = layer(x, mask=mask, training=True)
    assert type(y) is np.ndarray  # the mask is used up
    assert_same_bits(y, expected.reshape(shape))
    assert_same_bits(layer.backward(dy.reshape(shape)), OPS[kind][1](tape, dy))
    layer(x, training=True)
    assert layer.backward(None) is None
    ragged = layer(Ragged.from_padded(x, mask), training=True)
    assert_same_bits(ragged, y)
    assert layer.backward(dy.reshape(shape)).values.shape == (mask.sum(), 2)
    assert layer.compute_output_shape((None, None, 2)) == (None, *shape[1:])
    symbolic = layer(fm.layers.Masking()(fm.Input((None, 2))))
    assert symbolic.shape == (None, *shape[1:]) and symbolic.mask is None
    assert layer.mask_role() == "uses, ends"
    again = fm.layers.deserialize(fm.layers.serialize(layer))
    assert again.get_config() == layer.get_config() and again.keepdims is keepdims


@pytest.mark.parametrize("kind", KINDS)
def test_check_layer(kind):
    check_layer(LAYERS[kind](dtype="float64"), (3, 5, 4), elements=10)


def test_other_names():
    assert fm.layers.GlobalMaxPool1D is GlobalMaxPooling1D
    assert fm.layers.GlobalAvgPool1D is GlobalAveragePooling1D
    assert GlobalMaxPooling1D().name.startswith("global_max_pooling1d")


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    forward, backward = OPS[kind]
    with pytest.raises(ValueError, match=r"^x: expected shape \(B,T,F\), received \(2, 3\)$"):
        forward(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"^mask: expected shape \(B,T\) = \(2,3\), received \(2, 4\)$"):
        forward(np.zeros((2, 3, 1)), mask=np.ones((2, 4)))
    _, tape = forward(np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match=r"^dy: expected shape \(B,F\) = \(2, 1\), received \(2, 3, 1\)$"):
        backward(tape, np.zeros((2, 3, 1)))
    with pytest.raises(TypeError, match="^dy: expected dtype float64 as x, received float32$"):
        backward(tape, np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match=r"^p: inputs: expected shape \(B,T,F\), received \(2, 3\)$"):
        LAYERS[kind](name="p")(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="data_format: expected None or 'channels_last'.*received 'channels_first'"):
        LAYERS[kind](data_format="channels_first")
