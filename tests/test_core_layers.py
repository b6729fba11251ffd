"""ApplyMask, Identity and Lambda. (Masking and Dense: test_layers.py)"""

import copy
import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask.layers import (
    LSTM,
    ApplyMask,
    Dense,
    Identity,
    Lambda,
    MaskDroppedWarning,
    Masking,
    RepeatLike,
    core,
    deserialize,
    lambda_layer,
    register_serializable,
    serialize,
)
from fastmask.ragged import Ragged
from helpers import assert_close, assert_doctests, assert_layer_gradients, mask_cases

B, T, F = 3, 4, 2


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# ---- ApplyMask ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["none", "right", "holes", "empty_rows", "all_masked"])
def test_apply_mask(name):
    x, like, mask = random(B, T, F), random(B, T, 5), mask_cases(B, T)[name]
    layer, expected = ApplyMask(dtype="float64"), np.where(mask[..., None], x, 0)
    garbage = np.where(mask[..., None], x, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for y in (layer(garbage, mask=mask), layer([garbage, like], mask=[None, mask])):
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(y.mask, mask)
    assert_layer_gradients(layer, x, mask=mask)
    assert_layer_gradients(layer, [x, like], mask=[None, mask])
    layer([x, like], mask=[None, mask], training=True)
    hidden = np.broadcast_to(mask[..., None], x.shape)
    dx, d_like = layer.backward(np.where(hidden, 1.0, np.nan))
    np.testing.assert_array_equal(dx, hidden)
    assert d_like is None
    layer(x, training=True)
    assert layer.backward(None) is None


def test_apply_mask_combines_both_masks_and_does_nothing_without_one():
    x, (a, b) = random(B, T, F), (mask_cases(B, T)[n] for n in ("right", "holes"))
    layer = ApplyMask(dtype="float64")
    np.testing.assert_array_equal(layer([x, x], mask=[a, b]).mask, a & b)
    np.testing.assert_array_equal(layer([x, x], mask=[a, None]).mask, a)
    assert layer(x) is x and layer([x, x]) is x
    carried = Masking(dtype="float64")(np.where(a[..., None], x, 0))
    np.testing.assert_array_equal(layer(carried).mask, a)
    np.testing.assert_array_equal(layer([x, carried]).mask, a)
    scores = layer(x[..., 0], mask=a)  # (B,T)
    np.testing.assert_array_equal(scores, np.where(a, x[..., 0], 0))


def test_apply_mask_of_ragged():
    r, holes = Ragged(random(7, F), [0, 4, 4, 7]), np.array([1, 0, 1, 1, 0, 1, 1], bool)
    layer = ApplyMask(dtype="float64")
    y = layer([r, r.with_values(random(7, 5))], mask=[None, holes])
    np.testing.assert_array_equal(y.values, np.where(holes[:, None], r.values, 0))
    np.testing.assert_array_equal(y.mask, holes)
    assert_layer_gradients(layer, r, mask=holes)


def test_apply_mask_elsewhere():
    layer = ApplyMask(name="a")
    assert deserialize(serialize(layer)).get_config() == layer.get_config() and layer.mask_role() == "uses, passes"
    assert layer.compute_output_shape([(None, None, 2), (None, None, 5)]) == (None, None, 2)
    x = fm.Input((None, F))
    y = ApplyMask()([Dense(3)(x), Masking()(x)])
    assert y.shape == (None, None, 3) and y.mask.shape == (None, None)
    for inputs in ([random(B, T, F), random(B, T + 1, F)], [random(B, T, F)] * 3):
        with pytest.raises(
            ValueError, match=r"a: inputs: expected x or \[x, like\] with the same steps \(B,T\), received"
        ):
            layer(inputs)
    r = Ragged(random(7, F), [0, 4, 4, 7])
    with pytest.raises(TypeError, match="expected two arrays or two Ragged"):
        layer([r, random(3, 4, F)])
    with pytest.raises(ValueError, match="expected Ragged of the same row lengths"):
        layer([r, Ragged(r.values, [0, 3, 4, 7])])
    for shape in ((0, T, F), (B, 0, F)):
        y = layer([np.zeros(shape), np.zeros(shape)], mask=[None, np.ones(shape[:2], bool)], training=True)
        assert y.shape == shape and layer.backward(y)[0].shape == shape


# ---- the autoencoder for sequences of different lengths -------------------------------------------------------------
LENGTHS = [5, 2, 4, 1]


def autoencoder(cropped):
    """Outputs cropped by the inputs' mask, the decoder blind to it; or the encoder's mask handed to the decoder."""
    masked = Masking()(inputs := fm.Input((None, F)))
    encoded = LSTM(3, name="encoder")(masked)
    if cropped:
        steps = RepeatLike()([encoded, inputs])
        outputs = ApplyMask()([Dense(F, name="out")(LSTM(3, return_sequences=True, name="decoder")(steps)), masked])
    else:
        steps = RepeatLike()([encoded, masked])
        outputs = Dense(F, name="out")(LSTM(3, return_sequences=True, name="decoder")(steps))
    return fm.Model(inputs, outputs)


@pytest.mark.parametrize("cropped", [True, False])
def test_gradients_of_the_autoencoder_are_those_of_the_rows_one_by_one(cropped):
    rows = [random(n, F, seed=n, dtype=np.float32) for n in LENGTHS]
    x, mask = Ragged.from_list(rows).to_padded()
    model = autoencoder(cropped)
    alone = autoencoder(False)
    for layer in model.layers:
        if layer.weights:
            alone.get_layer(layer.name).set_weights(layer.get_weights())

    def gradients(model, x, from_padding=0.0):
        """Of the squared error of the valid steps; what arrives from padding is not let through."""
        y = model(x, training=True)
        mask = getattr(y, "mask", np.ones(y.shape[:2], bool))
        model.backward(np.where(mask[..., None], 2 * (np.asarray(y) - x), np.float32(from_padding)))
        return model.gradients

    together = gradients(model, x, 1e3 if cropped else 0)
    one_by_one = [gradients(alone, row[None]) for row in rows]
    for i, g in enumerate(together):
        assert_close(g, np.sum([row[i] for row in one_by_one], axis=0), np.float32, k=64)
    np.testing.assert_array_equal(model(x).mask, mask)


# ---- Identity -------------------------------------------------------------------------------------------------------
def test_identity():
    x, mask, layer = random(B, T, F), mask_cases(B, T)["holes"], Identity(dtype="float64")
    np.testing.assert_array_equal(layer(x, mask=mask).mask, mask)
    assert layer(x) is x
    assert_layer_gradients(layer, x, mask=mask)
    one, two = layer([x, x], mask=[None, mask])
    assert type(one) is np.ndarray and two.mask is not None
    r = Ragged(random(7, F), [0, 4, 4, 7])
    assert layer(r).values is r.values
    assert layer(np.ones((2, 3), int)).dtype == int
    assert Identity()(Masking()(fm.Input((None, F)))).mask.shape == (None, None)
    assert deserialize(serialize(layer)).get_config() == layer.get_config() and layer.mask_role() == "passes"


# ---- Lambda ---------------------------------------------------------------------------------------------------------
@register_serializable("tests")
def scaled(inputs, by=2.0):
    return inputs * by


@register_serializable("tests")
def scaled_gradient(inputs, outputs, grad, by=2.0):
    return grad * by


@register_serializable("tests")
def same_mask(inputs, mask=None):
    return mask


def not_registered(inputs):
    return inputs


def test_lambda_values_and_gradients():
    x, mask = random(B, T, F), mask_cases(B, T)["holes"]
    layer = Lambda(np.tanh, gradient=lambda x, y, grad: grad * (1 - y * y), mask=same_mask, dtype="float64")
    np.testing.assert_array_equal(layer(x), np.tanh(x))
    assert_layer_gradients(layer, x)
    assert_layer_gradients(layer, x, mask=mask)
    r = Ragged(random(7, F), [0, 4, 4, 7])
    layer = Lambda(
        lambda r: r.with_values(r.values**2), gradient=lambda r, y, g: g.with_values(2 * r.values * g.values)
    )
    assert_close(layer(r).values, r.values**2, np.float32)
    two = Lambda(lambda xs: xs[0] * xs[1], gradient=lambda xs, y, g: [g * xs[1], g * xs[0]], dtype="float64")
    assert_layer_gradients(two, [x, random(B, T, F, seed=1)])
    layer = Lambda(scaled, arguments={"by": 3.0}, gradient=scaled_gradient, dtype="float64")
    np.testing.assert_array_equal(layer(x), 3 * x)
    assert_layer_gradients(layer, x)


def test_lambda_may_ask_for_mask_and_training():
    seen = []

    def function(inputs, mask=None, training=None):
        seen.append((mask, training))
        return inputs if mask is None else np.where(mask[..., None], inputs, 0)

    def gradient(inputs, outputs, grad, mask=None):
        return grad if mask is None else np.where(mask[..., None], grad, 0)

    x, mask = random(B, T, F), mask_cases(B, T)["holes"]
    layer = Lambda(function, mask=same_mask, gradient=gradient, dtype="float64")
    layer(x, mask=mask, training=True)
    layer(x)
    assert seen[0][0] is mask and seen[0][1] is True and seen[1] == (None, False)
    assert_layer_gradients(layer, x, mask=mask)


def test_lambda_masks():
    x, mask = random(B, T, F, dtype=np.float32), mask_cases(B, T)["holes"]
    layer = Lambda(lambda x: 2 * x)
    with pytest.warns(MaskDroppedWarning, match=f"^{layer.name}: Lambda was given no mask=.*lambda inputs, mask: mask"):
        assert type(layer(x, mask=mask)) is np.ndarray
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(layer(x)) is np.ndarray
        assert Lambda(lambda x: 2 * x, mask=same_mask)(x, mask=mask).mask is mask
        halved = Lambda(lambda x: x[:, ::2], mask=lambda inputs, mask: mask[:, ::2])
        np.testing.assert_array_equal(halved(x, mask=mask).mask, mask[:, ::2])
        made = Lambda(lambda x: x, mask=lambda inputs, mask: inputs[..., 0] > 0)
        np.testing.assert_array_equal(made(x).mask, x[..., 0] > 0)
        np.testing.assert_array_equal(Lambda(lambda x: x, mask=[[1, 0, 1, 1]])(x).mask, [[1, 0, 1, 1]] * B)
        both = Lambda(lambda xs: xs[0] + xs[1], mask=lambda inputs, mask: mask[1])
        np.testing.assert_array_equal(both([x, x], mask=[None, mask]).mask, mask)
        garbage = np.where(mask[..., None], x, np.nan)
        assert np.isfinite(
            Lambda(lambda x: x - x.mean(axis=1, keepdims=True), mask=same_mask)(garbage, mask=mask)
        ).all()
    with pytest.raises(ValueError, match=r"mask: expected shape \(B,T\) = \(3,4\), received \(3, 3\)"):
        Lambda(lambda x: x, mask=lambda inputs, mask: mask[:, 1:])(x, mask=mask)
    assert layer.mask_role() == "drops" and halved.mask_role() == "changes"


def test_lambda_in_a_model():
    x = Masking()(inputs := fm.Input((None, F)))
    halved = Lambda(lambda x: x[:, ::2], mask=lambda inputs, mask: mask[:, ::2])(x)
    assert halved.shape == (None, None, F) and halved.mask.shape == (None, None)
    with pytest.warns(MaskDroppedWarning):
        assert Lambda(lambda x: x.sum(axis=1))(x).mask is None
    with pytest.warns(MaskDroppedWarning):
        y = Lambda(lambda x: 1 / 0, output_shape=(7,))(x)  # the function is not tried out
    assert y.shape == (None, 7) and y.mask is None
    y = Lambda(lambda x: 1 / 0, output_shape=lambda shape: (*shape, 1), mask=same_mask)(x)
    assert y.shape == (None, None, F, 1) and y.mask.shape == (None, None)
    assert Lambda(sum, output_shape=[F]).compute_output_shape([(5, F), (5, F)]) == (5, F)
    doubled = Lambda(scaled, mask=same_mask, gradient=scaled_gradient)(x)
    model = fm.Model(inputs, Dense(1)(doubled))
    model.compile("sgd", "mse")
    model.fit(random(B, T, F), random(B, T, 1), verbose=0)


def test_lambda_leaves_integers_alone():
    ids = Lambda(lambda ids: ids + 1)(np.array([[1, 2]]))
    assert ids.dtype == int and ids.tolist() == [[2, 3]]


def test_lambda_without_a_gradient_is_for_inference():
    layer = Lambda(lambda x: x, name="l")
    layer(random(B, F), training=True)
    with pytest.raises(NotImplementedError, match="l: Lambda has no gradient.*gradient=f"):
        layer.backward(random(B, F))


def test_lambda_is_written_down_with_registered_functions_only():
    config = serialize(Lambda(scaled, (2,), same_mask, {"by": 3.0}, scaled_gradient, name="l"))
    assert config["config"]["function"] == {"registered": "tests>scaled"}
    again = deserialize(copy.deepcopy(config))
    assert (again.function, again.mask, again.gradient) == (scaled, same_mask, scaled_gradient)
    assert again.get_config() == config["config"] and again(np.ones((1, 2))).tolist() == [[3, 3]]
    again = deserialize(serialize(Lambda(scaled, mask=[[True, False]])))
    np.testing.assert_array_equal(again(np.ones((1, 2, 3))).mask, [[True, False]])
    for layer, name in (
        (Lambda(not_registered, name="l"), "function"),
        (Lambda(lambda x: x, name="l"), "function"),
        (Lambda(np.tanh, name="l"), "function"),
        (Lambda(scaled, mask=lambda x, m: m, name="l"), "mask"),
        (Lambda(scaled, gradient=not_registered, name="l"), "gradient"),
        (Lambda(scaled, output_shape=lambda s: s, name="l"), "output_shape"),
    ):
        with pytest.raises(ValueError, match=f"^l: {name}: expected a registered function to write down"):
            serialize(layer)
    for bad in ({"registered": "no>such"}, {"registered": "Dense"}, {"registered": ["x"]}, {"code": "1"}):
        hostile = {"class_name": "Lambda", "config": {**config["config"], "function": bad}}
        with pytest.raises(ValueError, match="function: expected a function that is registered"):
            deserialize(hostile)
    with pytest.raises(ValueError, match="expected a class that is registered, received 'tests>scaled'"):
        deserialize({"class_name": "tests>scaled", "config": {}})


@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: Lambda("tanh"), TypeError, "function: expected a callable, received 'tanh'"),
        (lambda: Lambda(np.tanh, gradient=1), TypeError, "gradient: expected a callable, received 1"),
        (
            lambda: _backward(Lambda(lambda x: x, gradient=lambda x, y, g: g[:, :1], name="l")),
            ValueError,
            r"l: gradient: expected shape \(3, 2\) as the inputs, received \(3, 1\)",
        ),
    ],
)
def test_lambda_bad_input(act, error, message):
    with pytest.raises(error, match=message):
        act()


def _backward(layer):
    layer(random(B, F), training=True)
    layer.backward(random(B, F))


def test_examples_in_docstrings():
    for module in (core, lambda_layer):
        assert_doctests(module)
