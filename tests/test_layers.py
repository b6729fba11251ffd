"""Layers: gradients, masks, Ragged, the training calls and their backward, weights, and bad input."""

import copy
import gc
import pickle
import threading
import warnings
import weakref

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
    deserialize,
    register_serializable,
    serialize,
)
from fastmask.ragged import Ragged
from fastmask.variable import Variable
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
                alone = layer(x[b : b + 1, : t + 1], mask=mask[b : b + 1, : t + 1], initial_state=[s[b : b + 1] for s in h0])
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
    for plain in (y + 1, y[:1], y.reshape(-1), y.T, np.concatenate([y, y]), y.astype("f8"), y.sum(), np.where(mask[..., None], y, 0)):
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


# ---- calls and going back -------------------------------------------------------------------------------------------
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


def test_an_inference_call_does_not_disturb_the_training_call():
    layer, x = Scale(dtype="float64"), random(B, F)
    layer(x, training=True)
    layer(100 * x)
    layer.backward(np.ones_like(x))
    assert_close(layer.gradients[0], x.sum(axis=0))


def test_each_call_is_good_for_one_backward_and_only_the_latest_is_kept():
    layer, x = Scale(dtype="float64"), random(B, F)
    with pytest.raises(ValueError, match="scale.*backward.*training=True"):
        layer.backward(x)
    layer(x, training=True)
    layer.saved.marker = marker = Variable(np.zeros(1))
    marker = weakref.ref(marker)
    layer(x, training=True)
    gc.collect()
    assert marker() is None
    layer.backward(np.ones_like(x))
    layer(x, training=True)
    layer.backward(np.ones_like(x))
    assert_close(layer.gradients[0], x.sum(axis=0))  # not added to the first ones
    with pytest.raises(ValueError, match="training=True"):
        layer.backward(x)


def test_a_backward_that_fails_can_be_repeated():
    layer = make("lstm", return_sequences=True)
    y = layer(random(B, T, F), training=True)
    with pytest.raises(ValueError, match="d_outputs: expected shape"):
        layer.backward(np.ones((B, T, H + 1)))
    assert layer.backward(np.ones_like(y)).shape == (B, T, F)


def test_missing_gradients():
    layer, x = make("lstm", return_sequences=True, return_state=True), random(B, T, F)
    y, h, c = layer(x, training=True)
    only_c = layer.backward((None, None, np.ones_like(c)))
    layer(x, training=True)
    np.testing.assert_array_equal(layer.backward((np.zeros_like(y), np.zeros_like(h), np.ones_like(c))), only_c)
    assert only_c.any()


def test_threads_find_their_own_calls():
    layer = Twice(GRU(F, return_sequences=True, dtype="float64"), dtype="float64")
    inputs = [random(B, T, F, seed=i) for i in range(6)]
    layer(inputs[0])

    def work(x):
        y = layer(x, training=True)
        dx = layer.backward(np.ones_like(y))
        return [np.asarray(y), dx, *layer.gradients]

    expected = [work(x) for x in inputs]
    results, barrier = [None] * len(inputs), threading.Barrier(len(inputs))

    def run(i):
        barrier.wait()
        for _ in range(20):
            results[i] = work(inputs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for got, wanted in zip(results, expected, strict=True):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_two_threads_build_once():
    layer, barrier, x = GRU(H), threading.Barrier(4), random(B, T, F)

    def run():
        barrier.wait()
        layer(x)

    threads = [threading.Thread(target=run) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(layer.weights) == 3


def test_training_is_inherited_by_sub_layers():
    seen = []

    class Inner(Layer):
        def call(self, inputs, training=False):
            seen.append(training)
            return inputs

    class Outer(Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def call(self, inputs):
            return self.inner(inputs)

    Outer()(random(B, F), training=True)
    Outer()(random(B, F))
    assert seen == [True, False]


def test_no_backward_is_a_clear_error():
    class Square(Layer):
        def call(self, inputs):
            return inputs**2

    layer = Square()
    assert_close(layer([[2.0]]), [[4.0]])
    layer([[2.0]], training=True)
    with pytest.raises(NotImplementedError, match="square: Square has no backward"):
        layer.backward(np.ones((1, 1)))


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


# ---- weights and configuration --------------------------------------------------------------------------------------
def test_a_changed_weight_counts_at_the_next_call():
    for layer in (make("gru"), Dense(3, dtype="float64"), Bidirectional(make("lstm"))):
        x = random(B, T, F)
        layer(x)
        for weight in layer.weights:
            for change in (
                lambda w: w.assign(np.ones(w.shape)),
                lambda w: w.__setitem__((0,) * w.ndim, 3.0),
                lambda w: w.__imul__(0.5),
            ):
                change(weight)
                fresh = type(layer).from_config(layer.get_config())
                fresh.build((None, None, F))
                fresh.set_weights(layer.get_weights())
                np.testing.assert_array_equal(layer(x), fresh(x))


def test_set_weights_refuses_and_writes_nothing():
    layer = LSTM(H)
    with pytest.raises(ValueError, match=r"expected 0 arrays for lstm.*not built.*received 3"):
        LSTM(H, name="lstm").set_weights([1, 2, 3])
    layer.build((None, None, F))
    before = layer.get_weights()
    good = [w + 1 for w in before]
    for i in range(3):
        for bad, error in (
            (np.full_like(good[i], np.nan), ValueError),
            (np.full(good[i].shape, 1e300), ValueError),  # infinite in float32
            (good[i][..., :-1], ValueError),
            (good[i].astype(object), TypeError),
            (good[i].astype(complex), TypeError),
        ):
            with pytest.raises(error, match="weights: expected"):
                layer.set_weights([*good[:i], bad, *good[i + 1 :]])
            for a, b in zip(before, layer.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    layer.set_weights(good)
    np.testing.assert_array_equal(layer.get_weights()[1], good[1])


def test_trainable():
    layer = Twice(GRU(F, return_sequences=True))
    x = random(B, T, F)
    layer(x)
    assert len(layer.trainable_weights) == 3 and not layer.non_trainable_weights
    layer.trainable = False
    assert not layer.inner.trainable and not layer.trainable_weights and len(layer.non_trainable_weights) == 3
    layer.inner.trainable = layer.trainable = True
    y = layer(x, training=True)
    layer.backward(np.ones_like(y))
    assert all(g.any() for g in layer.gradients)


def test_config_round_trip():
    layers = [
        Masking(0.5),
        Dense(3, activation="swish", use_bias=False, kernel_initializer=initializers.HeNormal(seed=3)),
        Dropout(0.2, seed=1),
        make("simple_rnn", return_sequences=True, go_backwards=True),
        make("gru_before", dropout=0.1, seed=3, zero_output_for_mask=True, name="g"),
        LSTM(3, unit_forget_bias=False, activation=None),
        Bidirectional(LSTM(3, return_state=True, name="l"), merge_mode="ave"),
        Bidirectional(GRU(3), backward_layer=SimpleRNN(2, go_backwards=True)),
    ]
    for layer in layers:
        again = deserialize(serialize(layer))
        assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert layers[6].forward_layer.name == "forward_l" and layers[6].backward_layer.name == "backward_l"

    @register_serializable("tests")
    class Mine(Layer):
        pass

    assert serialize(Mine(name="m"))["class_name"] == "tests>Mine"
    assert type(deserialize(serialize(Mine()))) is Mine
    with pytest.raises(ValueError, match="registered.*'Unknown'"):
        deserialize({"class_name": "Unknown", "config": {}})
    with pytest.raises(ValueError, match="register_serializable"):
        serialize(Scale())


def test_copies_are_independent():
    layer, x = make("gru", dropout=0.5, return_sequences=True), random(B, T, F)
    y = layer(x, training=True)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x), layer(x))
        twin.kernel.assign(np.zeros(twin.kernel.shape))
        assert layer.kernel.value.any() and not np.array_equal(twin(x), layer(x))
        with pytest.raises(ValueError, match="training=True"):
            twin.backward(np.ones_like(y))


def test_names():
    first, second = Scale(), Scale()
    assert first.name != second.name and second.name.startswith("scale_")
    assert Scale(name="x").name == "x"
    assert SimpleRNN(1).name.startswith("simple_rnn") and GRU(1).name.startswith("gru")


# ---- bad input ------------------------------------------------------------------------------------------------------
X = np.zeros((2, 3, 4), np.float32)
BAD = {
    "units": (lambda: GRU(0), ValueError, "units: expected a whole number"),
    "units_type": (lambda: Dense(2.5), ValueError, "units: expected"),
    "activation": (lambda: LSTM(2, activation="tahn"), ValueError, "activation: expected one of .*'tahn'"),
    "softmax_inside": (lambda: GRU(2, activation="softmax"), ValueError, "activation: expected"),
    "function": (lambda: Dense(2, activation=np.tanh), ValueError, "activation: expected"),
    "initializer": (lambda: Dense(2, kernel_initializer="glorot"), ValueError, "initializer: expected one of"),
    "dtype": (lambda: Dense(2, dtype="float16"), ValueError, "dtype: expected float32 or float64, received 'float16'"),
    "argument": (lambda: Dense(2, unit=3), TypeError, "Dense: unknown argument 'unit'"),
    "regularizer": (lambda: Dense(2, kernel_regularizer="l2"), ValueError, "kernel_regularizer: not supported"),
    "recurrent_dropout": (lambda: GRU(2, recurrent_dropout=0.1), ValueError, "recurrent_dropout: not supported"),
    "stateful": (lambda: GRU(2, stateful=True), ValueError, "stateful: not supported"),
    "dropout": (lambda: GRU(2, dropout=1.5), ValueError, "dropout: expected a number from 0 to 1"),
    "rate": (lambda: Dropout(-0.1), ValueError, "rate: expected"),
    "seed": (lambda: Dropout(0.1, seed="x"), ValueError, "seed: expected an int"),
    "rank": (lambda: GRU(2)(X[0]), ValueError, r"inputs: expected shape \(B,T,F\)"),
    "rank_dense": (lambda: Dense(2)(X[0, 0]), ValueError, r"inputs: expected shape \(B,...,F\)"),
    "features": (lambda: _built(GRU(2, name="g"))(X[..., :3]), ValueError, r"g: inputs: expected shape \(B,T,4\), received \(2, 3, 3\)"),
    "features_dense": (lambda: _built(Dense(2))(X[..., :3]), ValueError, r"inputs: expected shape \(B,...,4\)"),
    "mask_time": (lambda: GRU(2)(X, mask=np.ones((2, 4))), ValueError, r"mask: expected shape \(B,T\) = \(2,3\), received \(2, 4\)"),
    "mask_batch": (lambda: Dense(2)(X, mask=np.ones((3, 3))), ValueError, r"mask: expected shape \(B,T\) = \(2,3\)"),
    "mask_rank": (lambda: Dense(2)(X, mask=np.ones(2)), ValueError, "mask: expected shape"),
    "mask_ragged": (lambda: Dense(2)(Ragged(X[0], [0, 3]), mask=np.ones((1, 3))[:, :2]), ValueError, "mask: expected shape"),
    "mask_object": (lambda: Dense(2)(X, mask=np.full((2, 3), None)), TypeError, "mask: expected numbers"),
    "object": (lambda: GRU(2)(X.astype(object)), TypeError, "inputs: expected numbers, received dtype object"),
    "lengths": (lambda: GRU(2)([[[1.0]], [[1.0], [2.0]]]), ValueError, "inputs: .*different lengths: use Ragged"),
    "numpy_ma": (lambda: GRU(2)(np.ma.masked_invalid(X)), TypeError, "numpy.ma, whose mask means the opposite"),
    "state": (lambda: LSTM(2)(X, initial_state=np.zeros((2, 2))), ValueError, "initial_state: expected a list of 2 arrays"),
    "state_shape": (lambda: GRU(2)(X, initial_state=np.zeros((2, 3))), ValueError, r"initial_state: expected shape"),
    "states": (lambda: Bidirectional(GRU(2))(X, initial_state=[X[0]]), ValueError, "initial_state: expected a list of 2"),
    "merge_mode": (lambda: Bidirectional(GRU(2), merge_mode="max"), ValueError, "merge_mode: expected one of"),
    "bidirectional": (lambda: Bidirectional(Dense(2)), ValueError, "layer: expected SimpleRNN, GRU or LSTM"),
    "backwards": (lambda: Bidirectional(GRU(2, go_backwards=True)), ValueError, "layer: expected go_backwards=False"),
    "backward_layer": (lambda: Bidirectional(GRU(2), backward_layer=GRU(2)), ValueError, "backward_layer: expected go_backwards=True"),
    "backward_sequences": (
        lambda: Bidirectional(GRU(2), backward_layer=GRU(2, go_backwards=True, return_sequences=True)),
        ValueError,
        "backward_layer: expected return_sequences=False",
    ),
}


def _built(layer):
    layer(X)
    return layer


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()


def test_a_failed_build_leaves_nothing_behind():
    layer = GRU(2, bias_initializer=lambda shape, dtype: np.zeros(3))
    with pytest.raises(ValueError, match=r"initializer: expected a value of shape \(2, 6\)"):
        layer(X)
    assert not layer.built and not layer.weights and layer.kernel is None
    layer.bias_initializer = initializers.Zeros()
    assert layer(X).shape == (2, 2) and len(layer.weights) == 3


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (0, 0, 4)])
def test_no_rows_and_no_steps_are_legal(shape):
    x = np.zeros(shape, np.float32)
    for cls in (SimpleRNN, GRU, LSTM):
        for layer in (cls(2, return_sequences=True), cls(2), Bidirectional(cls(2)), Dense(2), Masking(), Dropout(0.5)):
            y = layer(x, mask=np.ones(shape[:2], bool), training=True)
            assert y.shape[0] == shape[0] and not np.asarray(y).any()
            assert layer.backward(np.ones_like(y)).shape == shape
