"""Layers: gradients, values, masks and Ragged. (test_layers_protocol.py: calls, weights, configuration, bad input)"""

import copy
import pickle
import warnings

import numpy as np
import pytest

from fastmask import initializers
from fastmask.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Layer,
    MaskDroppedWarning,
    Masking,
    SimpleRNN,
)
from fastmask.ragged import Ragged
from helpers import assert_close, assert_gradient, mask_cases

CELLS = {
    "simple_rnn": (SimpleRNN, {"activation": "silu"}),
    "gru": (GRU, {}),
    "gru_before": (GRU, {"reset_after": False, "use_bias": False}),
    "lstm": (LSTM, {}),
}
MERGE_MODES = ("concat", "sum", "mul", "ave", None)
B, T, F, H = 3, 4, 2, 2


def make(cell, **options):
    cls, own = CELLS[cell]
    options = {"dtype": "float64", "bias_initializer": initializers.RandomNormal(stddev=0.5), **own, **options}
    return cls(H, **options)


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def flat(structure):
    return list(structure) if isinstance(structure, (list, tuple)) else [structure]


def dense_of(y):
    return y.values if isinstance(y, Ragged) else np.asarray(y)


def like(y, seed):
    """Random gradients in the form of the outputs."""
    if isinstance(y, tuple):
        return tuple(like(one, seed + i) for i, one in enumerate(y))
    d = random(*dense_of(y).shape, seed=seed, dtype=dense_of(y).dtype)
    return y.with_values(d) if isinstance(y, Ragged) else d


def check_gradients(layer, x, before=lambda: None, **call):
    """Backward of the layer against order-4 differences: inputs, all weights, initial states."""
    before()
    y = layer(x, training=True, **call)
    dy = like(y, seed=7)
    dx = layer.backward(dy)
    gradients = layer.gradients if layer.weights else []
    states = flat(call.get("initial_state", ()))
    d_states = layer.initial_state_gradients if states else ()

    def total():
        before()
        outputs = layer(x, training=True, **call)
        return sum(np.sum(dense_of(a) * dense_of(b)) for a, b in zip(flat(outputs), flat(dy), strict=True))

    assert_gradient(total, dense_of(x), dense_of(dx))
    for state, d_state in zip(states, d_states, strict=True):
        assert_gradient(total, state, d_state)
    assert len(gradients) == len(layer.weights)
    for weight, gradient in zip(layer.weights, gradients, strict=True):
        value = weight.numpy()

        def changed(weight=weight, value=value):
            weight.assign(value)
            return total()

        assert_gradient(changed, value, gradient)
        weight.assign(value)


# ---- gradients ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask_name", ["none", "right", "holes", "first_masked", "all_masked"])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_gradients(cell, return_sequences, mask_name):
    options = {"return_sequences": return_sequences, "go_backwards": mask_name == "holes"}
    layer = make(cell, return_state=mask_name != "right", zero_output_for_mask=mask_name == "first_masked", **options)
    states = [random(B, H, seed=i) for i in range(layer.states)]
    mask = None if mask_name == "none" else mask_cases(B, T)[mask_name]
    check_gradients(layer, random(B, T, F), mask=mask, initial_state=states)


@pytest.mark.parametrize("merge_mode", MERGE_MODES)
@pytest.mark.parametrize("return_sequences", [False, True])
def test_bidirectional_gradients(merge_mode, return_sequences):
    cell = make("lstm" if merge_mode in ("mul", None) else "gru", return_sequences=return_sequences, return_state=True)
    layer = Bidirectional(cell, merge_mode=merge_mode)
    states = [random(B, H, seed=i) for i in range(2 * cell.states)]
    check_gradients(layer, random(B, T, F), mask=mask_cases(B, T)["holes"], initial_state=states)


@pytest.mark.parametrize("cell", CELLS)
def test_ragged_gradients(cell):
    x = Ragged(random(7, F), [0, 4, 4, 7])
    holes = np.array([1, 0, 1, 1, 0, 1, 1], bool)
    check_gradients(make(cell, return_sequences=True, go_backwards=True), x)
    check_gradients(Bidirectional(make(cell, return_sequences=True), merge_mode="mul"), x, mask=holes)
    check_gradients(Bidirectional(make(cell), merge_mode="sum"), x, mask=holes)


@pytest.mark.parametrize("activation", [None, "tanh", "gelu", "softmax", "log_softmax", "sigmoid"])
def test_dense_gradients(activation):
    layer = Dense(3, activation=activation, dtype="float64", bias_initializer="random_normal")
    check_gradients(layer, random(B, T, F), mask=mask_cases(B, T)["holes"])
    check_gradients(layer, random(B, F))
    check_gradients(layer, Ragged(random(7, F), [0, 4, 4, 7]))


def test_dropout_gradients():
    def again(layer):
        return lambda: setattr(layer, "_generator", np.random.default_rng(3))

    layer = Dropout(0.4, dtype="float64")
    check_gradients(layer, random(B, T, F), before=again(layer))
    check_gradients(layer, Ragged(random(7, F), [0, 4, 4, 7]), before=again(layer))
    layer = Dropout(0.4, noise_shape=(None, 1, None), dtype="float64")
    check_gradients(layer, random(B, T, F), before=again(layer))
    layer = make("gru", dropout=0.4, return_sequences=True)
    check_gradients(layer, random(B, T, F), before=again(layer), mask=mask_cases(B, T)["holes"])
    check_gradients(layer, Ragged(random(7, F), [0, 4, 4, 7]), before=again(layer))


def test_masking_gradient_is_zero_at_masked_steps():
    x = random(B, T, F)
    x[0, 1] = 5.0
    layer = Masking(5.0, dtype="float64")
    y = layer(x, training=True)
    dx = layer.backward(np.ones_like(x))
    np.testing.assert_array_equal(dx, np.broadcast_to(y.mask[:, :, None], x.shape))
    assert not dx[0, 1].any() and dx[0, 0].all()


# ---- values ---------------------------------------------------------------------------------------------------------
CLASSIC = [
    [[1, 1], [2, 2], [1, 1], [0.37, 0.37], [0.37, 0.37]],
    [[0.37, 0.37], [1, 1], [2, 2], [1, 1], [0.37, 0.37]],
]


def test_the_classic_example():
    masking = Masking(0.37)
    gru = GRU(
        1,
        activation=None,
        recurrent_activation=None,
        kernel_initializer="ones",
        recurrent_initializer="zeros",
        bias_initializer="ones",
        reset_after=False,
        return_sequences=True,
    )
    raw = [[-6, -50, -156, -272.7276, -475.83362], [-1.2876, -9.862801, -69.314, -213.94202, -373.54672]]
    assert_close(gru(CLASSIC)[..., 0], np.float32(raw), np.float32, k=4)
    x = masking(CLASSIC)
    assert not np.asarray(x)[~x.mask].any() and x.mask.sum() == 6
    masked = [[-6, -50, -156, -156, -156], [0, -6, -50, -156, -156]]
    assert_close(np.asarray(gru(x))[..., 0], np.float32(masked), np.float32, k=4)


def test_masking_rule():
    x = np.float32([[[0, 0], [1, 0], [-0.0, 0.0], [np.nan, 0]]])
    np.testing.assert_array_equal(Masking()(x).mask, [[False, True, False, True]])
    assert Masking(0.37)(np.full((1, 1, 2), 0.37)).mask.tolist() == [[False]]  # compared in float32
    assert Masking()(np.float32([[[1e-42]]])).mask.all()  # denormals are data
    assert Masking(np.nan)(x).mask.all()
    assert Masking(3)([[3, 3], [3, 4]]).mask.tolist() == [False, True]
    assert Masking()(np.zeros((2, 3, 4, 5))).mask.shape == (2, 3, 4)
    r = Masking()(Ragged(np.float32([[1], [0], [2]]), [0, 2, 3]))
    np.testing.assert_array_equal(r.mask, [True, False, True])
    np.testing.assert_array_equal(r.offsets, [0, 2, 3])


def test_masking_ands_with_the_mask_that_comes_in():
    x = np.float32([[[0], [5], [1]]])
    np.testing.assert_array_equal(Masking(5)(Masking(0)(x)).mask, [[False, False, True]])


# ---- masks ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("mask_name", ["right", "left", "holes", "first_masked", "empty_rows", "all_masked"])
def test_hold_zero_and_last(cell, mask_name):
    mask = mask_cases(5, 6)[mask_name]
    x, h0 = random(5, 6, F), [random(5, H, seed=i) for i in range(make(cell).states)]
    layer = make(cell, return_sequences=True, return_state=True)
    y, *states = layer(x, mask=mask, initial_state=h0)
    last = make(cell)
    last.build((None, None, F))
    last.set_weights(layer.get_weights())
    zeroed = layer.zero_output_for_mask = True
    y_zero = np.asarray(layer(x, mask=mask, initial_state=h0)[0])
    layer.zero_output_for_mask = not zeroed
    y = np.asarray(y)
    for b in range(5):
        held = np.zeros(H)
        for t in range(6):
            if mask[b, t]:
                alone = layer(
                    x[b : b + 1, : t + 1], mask=mask[b : b + 1, : t + 1], initial_state=[s[b : b + 1] for s in h0]
                )
                held = np.asarray(alone[0])[0, t]
            assert_close(y[b, t], held, k=8)
            assert_close(y_zero[b, t], held if mask[b, t] else np.zeros(H), k=8)
        assert_close(last(x, mask=mask, initial_state=h0)[b], held, k=8)
        if not mask[b].any():
            for state, given in zip(states, h0, strict=True):
                np.testing.assert_array_equal(state[b], given[b])


def test_implicit_mask_holds_with_initial_state():
    x, mask, h0 = random(B, T, F), mask_cases(B, T)["holes"], random(B, H)
    layer = make("gru", return_sequences=True)
    masked = Masking(dtype="float64")(np.where(mask[..., None], x, 0))
    assert masked.mask.tolist() == mask.tolist()
    y = layer(masked, initial_state=h0)
    np.testing.assert_array_equal(y, layer(x, mask=mask, initial_state=h0))
    assert not np.array_equal(y, layer(x, initial_state=h0))


def test_go_backwards_hands_on_the_mask_in_the_order_of_its_outputs():
    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    y = make("gru", return_sequences=True, go_backwards=True)(x, mask=mask)
    np.testing.assert_array_equal(y.mask, mask[:, ::-1])
    r = Ragged.from_padded(x, np.ones((B, T), bool))
    y = make("gru", return_sequences=True, go_backwards=True)(r, mask=mask.ravel())
    np.testing.assert_array_equal(y.mask, mask[:, ::-1].ravel())


def test_eager_masks_travel_and_numpy_forgets_them():
    x, mask = random(B, T, F, dtype=np.float32), mask_cases(B, T)["right"]
    y = Dense(4)(Dropout(0.5)(LSTM(H, return_sequences=True)(x, mask=mask)))
    np.testing.assert_array_equal(y.mask, mask)
    for plain in (
        y + 1,
        y[:1],
        y.reshape(-1),
        y.T,
        np.concatenate([y, y]),
        y.astype("f8"),
        y.sum(),
        np.where(mask[..., None], y, 0),
    ):
        assert type(plain) in (np.ndarray, np.float32), type(plain)
    z = y
    z *= 2
    assert type(z) is np.ndarray
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(y)).mask, mask)
    np.testing.assert_array_equal(copy.deepcopy(y).mask, mask)
    assert type(LSTM(H)(x, mask=mask)) is np.ndarray  # used up
    assert type(LSTM(H)(x)) is np.ndarray
    outputs = GRU(H, return_sequences=True, return_state=True)(x, mask=mask)
    assert outputs[0].mask is not None and type(outputs[1]) is np.ndarray
    explicit = LSTM(H, return_sequences=True)(y, mask=~mask)
    np.testing.assert_array_equal(explicit.mask, ~mask)
    both = Bidirectional(GRU(H, return_sequences=True), merge_mode=None)(x, mask=mask)
    assert all(np.array_equal(one.mask, mask) for one in both)


def test_masks_of_other_forms():
    x, layer = random(B, T, F), make("gru", return_sequences=True)
    mask = mask_cases(B, T)["holes"]
    y = np.asarray(layer(x, mask=mask))
    for form in (mask.astype(int), mask[..., None], mask * 0.3, mask.tolist()):
        np.testing.assert_array_equal(layer(x, mask=form), y)
    np.testing.assert_array_equal(layer(x, mask=mask[:1]), layer(x, mask=np.repeat(mask[:1], B, axis=0)))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
def test_garbage_under_the_mask_changes_nothing(garbage):
    x, mask = random(B, T, F, dtype=np.float32), mask_cases(B, T)["holes"]
    bad = np.where(mask[..., None], x, np.float32(garbage))
    layers = [
        GRU(H, return_sequences=True),
        Bidirectional(LSTM(H, return_sequences=True), merge_mode="mul"),
        *(Dense(3, activation=name, kernel_initializer="ones") for name in (None, "softmax", "exponential", "gelu")),
        Dropout(0.0),
    ]
    for layer in layers:
        results = []
        for inputs in (x, bad):
            with np.errstate(all="ignore"):
                y = layer(inputs, mask=mask, training=True)
                layer.backward(np.where(mask[..., None], np.float32(0.5), np.float32(0)) * np.ones_like(y))
            results.append([np.asarray(y)[mask], *(layer.gradients if layer.weights else [])])
            assert np.isfinite(y).all() or (layer.name.startswith("dropout") and abs(garbage) < 1e39), layer
        for good, after in zip(*results, strict=True):
            np.testing.assert_array_equal(good, after)


def test_garbage_too_large_under_a_mask_of_fewer_axes():
    x, mask = np.ones((B, T, 2, F), np.float32), mask_cases(B, T)["holes"]
    x[~mask] = 3e38
    y = Dense(3, kernel_initializer="ones")(x, mask=mask)  # 6e38 is no float32
    np.testing.assert_array_equal(y, np.where(mask[..., None, None], np.float32(F), np.float32(0)) * np.ones_like(y))


def test_a_mask_is_never_lost_silently():
    class Last(Layer):
        def call(self, inputs):
            return inputs[:, -1]

    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    with pytest.warns(MaskDroppedWarning, match="last.*supports_masking"):
        y = Last(dtype="float64")(x, mask=mask)
    assert type(y) is np.ndarray
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Last()(x)
        make("gru")(x, mask=mask)


# ---- Ragged ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("merge_mode", [False, *MERGE_MODES])
@pytest.mark.parametrize("cell", CELLS)
def test_ragged_equals_padded(cell, merge_mode):
    x, mask = random(5, 6, F), mask_cases(5, 6)["right"]
    r = Ragged.from_padded(x, mask)
    holes = np.random.default_rng(0).random(len(r.values)) < 0.7
    padded_holes = mask.copy()
    padded_holes[mask] = holes
    for options in ({}, {"return_sequences": True}, {"return_sequences": True, "zero_output_for_mask": True}):
        layer = make(cell, return_state=True, **options)
        if merge_mode is not False:
            layer = Bidirectional(layer, merge_mode=merge_mode)
        for m, hole in ((mask, None), (padded_holes, holes)):
            padded, ragged = layer(x, mask=m), layer(r, mask=hole)
            for a, b in zip(padded, ragged, strict=True):
                if isinstance(b, Ragged):
                    np.testing.assert_array_equal(np.asarray(a)[mask], b.values)
                    np.testing.assert_array_equal(b.offsets, r.offsets)
                else:
                    np.testing.assert_array_equal(a, b)


def test_ragged_of_other_layers():
    r = Ragged(random(7, F, dtype=np.float32), [0, 4, 4, 7])
    dense = Dense(3, activation="softmax")
    np.testing.assert_array_equal(dense(r).values, dense(r.values))
    assert dense(r, mask=np.ones(7)).mask.shape == (7,)
    assert Dropout(0.5)(r).values is r.values

    class Custom(Layer):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="custom.*Ragged"):
        Custom()(r)


# ---- layers in layers ------------------------------------------------------------------------------------------------
class Twice(Layer):
    """A shared sub-layer, called twice."""

    supports_masking = True

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs, mask=None):
        return self.inner(self.inner(inputs, mask=mask), mask=mask)

    def backward(self, grad):
        return self.inner.backward(self.inner.backward(grad))


class Scale(Layer):
    """What the documentation of Layer shows."""

    supports_masking = True

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), "random_normal", name="scale")

    def call(self, inputs):
        self.saved.x = inputs
        return inputs * self.scale

    def backward(self, grad):
        self.add_gradient(self.scale, np.sum(grad * self.saved.x, axis=tuple(range(grad.ndim - 1))))
        return grad * self.scale


def test_shared_and_nested_layers():
    gru = GRU(F, return_sequences=True, dtype="float64")
    mask = mask_cases(B, T)["holes"]
    check_gradients(Twice(gru, dtype="float64"), random(B, T, F), mask=mask)
    check_gradients(Twice(Twice(gru, dtype="float64"), dtype="float64"), random(B, T, F), mask=mask)
    check_gradients(Twice(Scale(dtype="float64"), dtype="float64"), random(B, F))
    bidirectional = Bidirectional(GRU(F, return_sequences=True, dtype="float64"), merge_mode="mul")
    check_gradients(Twice(bidirectional, dtype="float64"), random(B, T, F), mask=mask)


# ---- dropout --------------------------------------------------------------------------------------------------------
def test_dropout():
    x = np.ones((200, 50), np.float32)
    layer = Dropout(0.3, seed=1)
    np.testing.assert_array_equal(layer(x), x)
    y = layer(x, training=True)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)} and abs((y == 0).mean() - 0.3) < 0.02
    np.testing.assert_array_equal(Dropout(0.3, seed=1)(x, training=True), y)
    assert not np.array_equal(layer(x, training=True), y)
    assert not Dropout(1.0)(x, training=True).any()
    y = Dropout(0.5, noise_shape=(None, 1))(x, training=True)
    assert (y == y[:, :1]).all() and len(np.unique(y)) == 2


def test_recurrent_dropout_of_inputs_is_one_choice_a_row():
    layer = GRU(H, dropout=0.5, seed=2, return_sequences=True)
    x = random(B, T, F, dtype=np.float32)
    y = layer(x, training=True)
    factors = (np.random.default_rng(2).random((B, F), dtype=np.float32) >= 0.5) * np.float32(2)
    np.testing.assert_array_equal(y, layer(x * factors[:, None, :]))
    assert not np.array_equal(layer(x, training=True), y)
