"""Dropout's relatives: SpatialDropout1D and GaussianNoise. (Dropout itself: test_layers.py)"""

import warnings

import numpy as np
import pytest

from fastmask.layers import GaussianNoise, SpatialDropout1D, deserialize, serialize
from fastmask.ragged import Ragged
from helpers import assert_layer_gradients, mask_cases

B, T, F = 3, 4, 2
LAYERS = {"spatial": lambda **o: SpatialDropout1D(0.5, **o), "noise": lambda **o: GaussianNoise(0.5, **o)}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def again(layer):
    return lambda: setattr(layer, "_generator", np.random.default_rng(3))


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_gradients(make):
    layer = make(dtype="float64")
    assert_layer_gradients(layer, random(B, T, F), again(layer))
    assert_layer_gradients(layer, random(B, T, F), again(layer), mask=mask_cases(B, T)["holes"])
    assert_layer_gradients(layer, Ragged(random(7, F), [0, 4, 4, 7]), again(layer))
    layer(random(B, T, F), training=True)
    assert layer.backward(None) is None


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_inference_does_nothing_and_the_mask_goes_on(make):
    layer, mask = make(), mask_cases(B, T)["holes"]
    x = np.where(mask[..., None], random(B, T, F), np.nan).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for training in (False, True):
            y = layer(x, mask=mask, training=training)
            np.testing.assert_array_equal(y.mask, mask)
            assert np.isfinite(y).all()
    np.testing.assert_array_equal(layer(x, mask=mask), np.where(mask[..., None], x, 0))
    r = Ragged.from_padded(x, mask)
    assert layer(r).values is r.values
    assert layer.compute_output_shape((None, None, F)) == (None, None, F) and layer.mask_role() == "passes"


def test_spatial_dropout_loses_the_same_features_in_all_steps():
    x = np.ones((200, 5, 10), np.float32)
    y = SpatialDropout1D(0.3, seed=1)(x, training=True)
    assert (y == y[:, :1]).all() and abs((y[:, 0] == 0).mean() - 0.3) < 0.03
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    lengths = np.random.default_rng(0).integers(0, 6, 200)
    mask = np.arange(5) < lengths[:, None]
    ragged = SpatialDropout1D(0.3, seed=1)(Ragged.from_padded(x, mask), training=True)
    np.testing.assert_array_equal(ragged.values, y[mask])
    assert not SpatialDropout1D(1.0)(x, training=True).any()
    assert SpatialDropout1D(0)(x, training=True) is x


def test_gaussian_noise():
    x = random(200, 50)
    layer = GaussianNoise(0.3, seed=1, dtype="float64")
    noise = layer(x, training=True) - x
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 0.3) < 0.01
    np.testing.assert_array_equal(GaussianNoise(0.3, seed=1, dtype="float64")(x, training=True), x + noise)
    assert not np.array_equal(layer(x, training=True), x + noise)
    assert GaussianNoise(0.3)(x, training=True).dtype == np.float32


def test_config_round_trip():
    for layer in (SpatialDropout1D(0.2, seed=3), GaussianNoise(0.4, seed=2, name="n")):
        again = deserialize(serialize(layer))
        assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert "noise_shape" not in SpatialDropout1D(0.2).get_config()


def test_spatial_dropout_wants_sequences():
    with pytest.raises(ValueError, match=r"s: inputs: expected shape \(B,T,F\), .*\(2, 3\)"):
        SpatialDropout1D(0.5, name="s")(np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_no_rows_and_no_steps_are_legal(make, shape):
    layer, x = make(), np.zeros(shape, np.float32)
    assert layer(x, mask=np.ones(shape[:2], bool), training=True).shape == shape
    assert layer.backward(x).shape == shape
