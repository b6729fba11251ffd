"""SimpleRNN, GRU, LSTM and Bidirectional: dropout inside the cell, states kept between calls, initial states, and the
uses of masks that everybody knows. (test_layers.py: values, masks and gradients of all layers)"""

import copy
import pickle
import threading

import numpy as np
import pytest

import fastmask as fm
from cases import assert_same_bits
from fastmask.kernels import _jit
from fastmask.layers import GRU, LSTM, Bidirectional, Dense, Input, Masking, SimpleRNN
from fastmask.ops._recurrent import SideBySide
from fastmask.ragged import Ragged
from helpers import assert_close, assert_gradient, mask_cases
from test_layers import CELLS, MERGE_MODES, B, F, H, T, check_gradients, flat, make, random

GATES = {"simple_rnn": 1, "gru": 3, "gru_before": 3, "lstm": 4}
DROPOUT = {"dropout": 0.3, "recurrent_dropout": 0.4, "return_sequences": True}


def all_steps(n=B, steps=T):
    return np.ones((n, steps), bool)


@pytest.fixture(autouse=True)
def same_weights():
    """Else finite differences meet other weights whenever another test has drawn from the generator before."""
    fm.set_random_seed(0)


# ---- dropout --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
def test_dropout_gradients(cell):
    def again(*layers):
        return lambda: [setattr(layer, "_generator", np.random.default_rng(3)) for layer in layers]

    holes = mask_cases(B, T)["holes"]
    layer = make(cell, return_state=True, **DROPOUT)
    states = [random(B, H, seed=i) for i in range(layer.states)]
    check_gradients(layer, random(B, T, F), before=again(layer), mask=holes, initial_state=states)
    layer = make(cell, recurrent_dropout=0.4, go_backwards=True)
    check_gradients(layer, Ragged(random(7, F), [0, 4, 4, 7]), before=again(layer))
    layer = Bidirectional(make(cell, **DROPOUT), merge_mode="mul")
    check_gradients(layer, random(B, T, F), before=again(layer.forward_layer, layer.backward_layer), mask=holes)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_what_the_factors_say(cell):
    """One choice a row, for all gates; with recurrent_dropout one for each gate: 0, or 1 / (1 - rate)."""
    G = GATES[cell]
    for options, shapes in (
        ({}, (None, None)),
        ({"dropout": 0.25}, ((500, F), None)),
        ({"recurrent_dropout": 0.25}, (None, (500, G, H))),
        ({"dropout": 0.75, "recurrent_dropout": 0.25}, ((500, G, F), (500, G, H))),
    ):
        layer = make(cell, **options)
        layer.build((None, None, F))
        drawn = layer._dropout_factors(random(500, 1, F))
        for name, shape, factors in zip(("dropout", "recurrent_dropout"), shapes, drawn, strict=True):
            if shape is None:
                assert factors is None
                continue
            rate = options[name]
            assert factors.shape == shape and factors.dtype == np.float64
            assert set(np.unique(factors)) == {0, 1 / (1 - rate)}
            assert abs(np.mean(factors == 0) - rate) < 4 * np.sqrt(rate * (1 - rate) / factors.size)
            if len(shape) == 3 and G > 1:
                assert not np.array_equal(factors[:, 0], factors[:, 1])


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_is_dropped_at_all_steps(cell):
    """Without a recurrent kernel, steps of equal input have equal outputs, whatever is dropped; and h is dropped where
    it meets that kernel only: without one, recurrent_dropout changes nothing."""
    x = np.repeat(random(4, 1, F), 6, axis=1)
    layer = make(cell, dropout=0.5, return_sequences=True, recurrent_initializer="zeros")
    y = layer(x, training=True)
    if cell == "simple_rnn":  # the others keep some of their state
        np.testing.assert_array_equal(y, np.repeat(y[:, :1], 6, axis=1))
    dropped = make(cell, recurrent_dropout=0.5, return_sequences=True, recurrent_initializer="zeros")
    dropped.build((None, None, F))
    dropped.set_weights(layer.get_weights())
    np.testing.assert_array_equal(dropped(x, training=True), layer(x))


@pytest.mark.parametrize("cell", CELLS)
def test_inference_drops_nothing(cell):
    layer, x = make(cell, **DROPOUT), random(B, T, F)
    plain = make(cell, return_sequences=True)
    plain.build((None, None, F))
    layer.build((None, None, F))
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), plain(x))
    assert not np.array_equal(layer(x, training=True), plain(x))


@pytest.mark.parametrize("cell", CELLS)
def test_seeds(cell):
    x = random(B, T, F)

    def twice(seed):
        fm.set_random_seed(0)
        layer = make(cell, seed=seed, **DROPOUT)
        return np.asarray(layer(x, training=True)), np.asarray(layer(x, training=True))

    first, second = twice(5)
    assert not np.array_equal(first, second), "successive calls drop other things"
    np.testing.assert_array_equal(np.stack(twice(5)), np.stack([first, second]))
    assert not np.array_equal(twice(6)[0], first)
    np.testing.assert_array_equal(twice(None)[0], twice(None)[0])  # drawn from the global generator


def test_both_directions_drop_the_same_with_a_seed():
    for seed, same in ((3, True), (None, False)):
        layer = Bidirectional(LSTM(H, dropout=0.5, recurrent_dropout=0.5, seed=seed))
        layer.build((None, None, F))
        directions = layer.forward_layer, layer.backward_layer
        drawn = [direction._dropout_factors(random(40, T, F)) for direction in directions]
        for forward, backward in zip(*drawn, strict=True):
            assert np.array_equal(forward, backward) == same


def test_a_rate_of_one():
    """Keras: nothing in GRU and LSTM, where only 0 < rate < 1 drops; everything in SimpleRNN."""
    x = random(B, T, F)
    for cell in ("gru", "gru_before", "lstm"):
        layer = make(cell, dropout=1.0, recurrent_dropout=1.0, return_sequences=True)
        np.testing.assert_array_equal(layer(x, training=True), layer(x))
    layer = make("simple_rnn", dropout=1.0, recurrent_dropout=1.0, return_sequences=True, activation=None)
    y = layer(x, training=True, initial_state=random(B, H))
    np.testing.assert_array_equal(y, np.broadcast_to(layer.bias.value, y.shape))


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_of_ragged_and_padded_rows(cell):
    x, mask = random(4, 6, F), mask_cases(4, 6)["right"]
    layer = make(cell, return_state=True, **DROPOUT)
    results = []
    for inputs, given in ((np.where(mask[..., None], x, np.nan), mask), (Ragged.from_padded(x, mask), None)):
        layer._generator = np.random.default_rng(1)
        y, *states = layer(inputs, mask=given, training=True)
        results.append([y.values if isinstance(y, Ragged) else np.asarray(y)[mask], *states])
    for padded, ragged in zip(*results, strict=True):
        np.testing.assert_array_equal(padded, ragged)


def test_a_model_learns_with_recurrent_dropout():
    """Whether the first of up to 8 steps was positive."""
    fm.set_random_seed(0)
    x, mask = random(128, 8, 1, dtype=np.float32), mask_cases(128, 8)["right"]
    mask[:, 0] = True
    y = (x[:, 0, 0] > 0).astype(np.int64)
    model = fm.Sequential([Input((None, 1)), LSTM(16, recurrent_dropout=0.2, seed=1), Dense(1, "sigmoid")])
    model.compile(optimizer=fm.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["accuracy"])
    model.fit(x, y, mask=mask, epochs=40, verbose=0)
    assert model.evaluate(x, y, mask=mask, return_dict=True)["accuracy"] > 0.95


# ---- stateful -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask_name", [None, "right", "holes", "empty_rows"])
@pytest.mark.parametrize("cell", CELLS)
def test_stateful_chunks_are_one_sequence(cell, mask_name, training):
    """Outputs of valid steps and the states, to the bit; padded and ragged."""
    x, mask = random(5, 9, F), all_steps(5, 9) if mask_name is None else mask_cases(5, 9)[mask_name]
    whole = make(cell, return_sequences=True, return_state=True)
    outputs, *states = whole(x, mask=mask)
    layer = make(cell, return_sequences=True, return_state=True, stateful=True)
    layer.build((None, None, F))
    layer.set_weights(whole.get_weights())
    for ragged in (False, True):
        layer.reset_state()
        for start, end in ((0, 2), (2, 2), (2, 3), (3, 9)):
            steps = x[:, start:end], mask[:, start:end]
            inputs = {"inputs": Ragged.from_padded(*steps)} if ragged else {"inputs": steps[0], "mask": steps[1]}
            y, *last = layer(**inputs, training=training)
            y = y.values if ragged else np.asarray(y)[steps[1]]
            np.testing.assert_array_equal(y, np.asarray(outputs)[:, start:end][steps[1]])
        for a, b in zip(last, states, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_stateful_under_a_mask(cell):
    """A row without a valid step keeps its state, and what leads the next call's first valid step is zeros."""
    layer = make(cell, return_sequences=True, return_state=True, stateful=True)
    _, *states = layer(random(B, T, F))
    y, *after = layer(random(B, T, F, seed=1), mask=np.zeros((B, T), bool))
    assert not np.asarray(y).any()
    for a, b in zip(after, states, strict=True):
        np.testing.assert_array_equal(a, b)
    y, *_ = layer(random(B, T, F), mask=[[False, True, False, True]] * B)
    y = np.asarray(y)
    assert not y[:, 0].any() and y[:, 1].all()
    np.testing.assert_array_equal(y[:, 2], y[:, 1])


@pytest.mark.parametrize("cell", CELLS)
def test_stateful_weights_copies_and_reset(cell):
    layer = make(cell, stateful=True)
    x = random(B, T, F)
    first = layer(x)
    assert len(layer.get_weights()) == (3 if layer.use_bias else 2)
    second = layer(x)
    assert not np.array_equal(first, second)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x), copy.deepcopy(layer)(x))  # goes on from where it was
    for reset in (layer.reset_state, layer.reset_states):
        reset()
        np.testing.assert_array_equal(layer(x), first)
        np.testing.assert_array_equal(layer(x), second)
    again = type(layer).from_config(layer.get_config())
    assert again.stateful and again._carried is None
    layer.reset_state()
    thread = threading.Thread(target=layer, args=(x,))  # the states are the layer's, not a thread's
    thread.start()
    thread.join()
    np.testing.assert_array_equal(layer(x), second)


def test_stateful_states_are_not_the_arrays_that_were_returned():
    layer, x = make("lstm", stateful=True, return_state=True), random(B, T, F)
    layer(x)
    expected = copy.deepcopy(layer)(x)
    layer.reset_state()
    for array in layer(x):
        array[:] = np.nan
    for a, b in zip(layer(x), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stateful_batch_size():
    message = "expected 3 rows, as a stateful layer keeps its batch size, received 2"
    x = random(3, T, F)
    by_first_call, by_build = make("gru", stateful=True), make("gru", stateful=True)
    with pytest.raises(ValueError, match="mask"):
        by_first_call(x[:2], mask=np.ones((2, T + 1)))  # a call that failed fixes nothing
    by_first_call(x)
    by_build.build((3, None, F))
    bidirectional = Bidirectional(make("gru", stateful=True))
    bidirectional.build((3, None, F))
    model = fm.Sequential([Input((None, F), batch_size=3), GRU(H, stateful=True, dtype="float64")])
    for layer in (by_first_call, by_build, bidirectional, model):
        with pytest.raises(ValueError, match=message):
            layer(x[:2])
        with pytest.raises(ValueError, match=message):
            layer(x[:2], training=True)
        layer(x)
    by_first_call.reset_state()
    with pytest.raises(ValueError, match=message):
        by_first_call(x[:2])
    with pytest.raises(ValueError, match=message):
        by_first_call(Ragged(x[0], [0, T - 1, T]))
    with pytest.raises(ValueError, match=message):
        by_first_call(x[:2], initial_state=random(2, H))


@pytest.mark.parametrize("cell", CELLS)
def test_an_initial_state_comes_before_the_one_that_was_kept(cell):
    x, layer, plain = random(B, T, F), make(cell, stateful=True), make(cell, return_state=True)
    layer(x)
    plain.build((None, None, F))
    plain.set_weights(layer.get_weights())
    given = [random(B, H, seed=i) for i in range(layer.states)]
    y, *states = plain(x, initial_state=given)
    np.testing.assert_array_equal(layer(x, initial_state=given), y)
    np.testing.assert_array_equal(layer(x), plain(x, initial_state=states)[0])  # and its last states are kept


@pytest.mark.parametrize("cell", CELLS)
def test_training_a_stateful_layer(cell):
    """Gradients are those of the call alone, the states it began with are constants."""
    x, mask = random(2, B, T, F), mask_cases(B, T)["holes"]
    layer, plain = make(cell, stateful=True, return_state=True), make(cell, return_state=True)
    _, *states = layer(x[0], mask=mask, training=True)
    layer(x[1], mask=mask, training=True)
    d = tuple(random(B, H, seed=i) for i in range(1 + layer.states))
    dx = layer.backward(d)
    plain.build((None, None, F))
    plain.set_weights(layer.get_weights())
    plain(x[1], mask=mask, training=True, initial_state=states)
    np.testing.assert_array_equal(dx, plain.backward(d))
    for a, b in zip(layer.gradients, plain.gradients, strict=True):
        np.testing.assert_array_equal(a, b)
    assert layer.initial_state_gradients == (None,) * layer.states
    assert all(g is not None for g in plain.initial_state_gradients)


@pytest.mark.parametrize("merge_mode", MERGE_MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_stateful_bidirectional(cell, merge_mode):
    """Each direction goes on from its own states; with return_state and a mask, where Keras fails."""
    x, mask = random(2, B, T, F), mask_cases(B, T)["right"]
    options = {"return_sequences": True, "return_state": True}
    layer = Bidirectional(make(cell, stateful=True, **options), merge_mode=merge_mode)
    plain = Bidirectional(make(cell, **options), merge_mode=merge_mode)
    assert layer.stateful and not plain.stateful
    n = 2 if merge_mode is None else 1
    states = layer(x[0], mask=mask)[n:]
    found = layer(x[1], mask=mask)
    plain.build((None, None, F))
    plain.set_weights(layer.get_weights())
    expected = plain(x[1], mask=mask, initial_state=states)
    assert len(found) == len(expected) == n + 2 * layer.forward_layer.states
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[0].mask.tolist() == mask.tolist()
    for reset in (layer.reset_state, layer.reset_states):
        reset()
        for a, b in zip(layer(x[0], mask=mask), plain(x[0], mask=mask), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_backward_layer_must_be_stateful_too():
    backward = GRU(H, go_backwards=True)
    with pytest.raises(ValueError, match="backward_layer: expected stateful=True, received False"):
        Bidirectional(GRU(H, stateful=True), backward_layer=backward)


def test_stateful_model():
    """fit, predict and reset_states of a model with a batch size."""
    fm.set_random_seed(0)
    model = fm.Sequential([Input((None, F), batch_size=4), Masking(), LSTM(H, stateful=True), Dense(1)])
    x, y = random(8, T, F, dtype=np.float32), random(8, 1, dtype=np.float32)
    model.compile(optimizer="sgd", loss="mse")
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    model.reset_states()
    first = model.predict(x, batch_size=4)
    assert not np.array_equal(model.predict(x, batch_size=4), first)
    model.reset_states()
    np.testing.assert_array_equal(model.predict(x, batch_size=4), first)
    with pytest.raises(ValueError, match="expected 4 rows"):
        model.predict(x[:5], batch_size=4)


# ---- initial states -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
def test_forms_of_initial_states(cell):
    x, mask, layer = random(B, T, F), mask_cases(B, T)["first_masked"], make(cell, return_state=True)
    one = [random(1, H, seed=i) for i in range(layer.states)]
    every = [np.repeat(s, B, axis=0) for s in one]
    for a, b in zip(layer(x, mask=mask, initial_state=one), layer(x, mask=mask, initial_state=every), strict=True):
        np.testing.assert_array_equal(a, b)
    check_gradients(layer, x, mask=mask, initial_state=one)
    assert [g.shape for g in layer.initial_state_gradients] == [(1, H)] * layer.states

    forms = [tuple(every), [s.astype(np.float32).astype(np.float64).tolist() for s in every]]
    if layer.states == 1:
        forms.append(every[0])
    else:
        message = r"initial_state: expected a list of 2 arrays, received "
        for wrong, received in ((every[0], "ndarray"), (every[:1], "1"), (every * 2, "4")):
            with pytest.raises(ValueError, match=message + received):
                layer(x, initial_state=wrong)
    for form in forms:
        assert_close(layer(x, initial_state=form)[0], layer(x, initial_state=every)[0], np.float32)
    with pytest.raises(ValueError, match=r"initial_state: expected shape \(B,H\)"):
        layer(x, initial_state=[s[:, :1] for s in every])


@pytest.mark.parametrize("cell", CELLS)
def test_initial_states_of_ragged_rows(cell):
    x = Ragged(random(7, F), [0, 4, 4, 7])
    layer = make(cell, return_sequences=True, return_state=True)
    given = [random(3, H, seed=i) for i in range(layer.states)]
    outputs, *states = layer(x, initial_state=given)
    for i in (0, 2):
        alone, *last = layer(x[i][None], initial_state=[s[i : i + 1] for s in given])
        np.testing.assert_array_equal(outputs[i], alone[0])
        for a, b in zip(states, last, strict=True):
            np.testing.assert_array_equal(a[i], b[0])
    for a, b in zip(states, given, strict=True):
        np.testing.assert_array_equal(a[1], b[1])  # a row without steps
    check_gradients(layer, x, initial_state=given)


@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional])
@pytest.mark.parametrize("cell", CELLS)
def test_keyword_gradients(cell, wrap):
    layer, x = wrap(make(cell, return_state=True)), random(B, T, F)
    n = layer.states if wrap is not Bidirectional else 2 * layer.forward_layer.states
    given = [random(B, H, seed=i) for i in range(n)]
    outputs = layer(x, training=True, initial_state=given)
    layer.backward(tuple(np.ones_like(y) for y in outputs))
    (name, gradients), *others = layer.keyword_gradients().items()
    assert name == "initial_state" and not others and type(gradients) is tuple
    for state, gradient in zip(given, gradients, strict=True):
        assert_gradient(lambda: sum(np.sum(y) for y in layer(x, initial_state=given)), state, gradient)
    layer(x, training=True)
    layer.backward(tuple(np.ones_like(y) for y in outputs))
    assert layer.keyword_gradients() == {"initial_state": (None,) * n}


def test_a_decoder_that_starts_from_the_encoder():
    """In a model: states as the initial_state of another layer, gradients to both."""
    fm.set_random_seed(0)
    frames = Input((None, F))
    encoded, h, c = LSTM(H, return_state=True, return_sequences=True, dtype="float64")(Masking(dtype="float64")(frames))
    decoded = LSTM(H, dtype="float64")(encoded, initial_state=[h, c])
    model = fm.Model(frames, decoded)
    x, mask, d = random(B, T, F), mask_cases(B, T)["right"], random(B, H, seed=3)
    model(x, mask=mask, training=True)
    dx = model.backward(d)
    assert_gradient(lambda: np.sum(model(x, mask=mask) * d), x, dx)
    for weight, gradient in zip(model.trainable_weights, model.gradients, strict=True):
        value = weight.numpy()

        def total(weight=weight, value=value):
            weight.assign(value)
            return np.sum(model(x, mask=mask) * d)

        assert_gradient(total, value, gradient)
        weight.assign(value)


# ---- the order of masks ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
def test_going_backwards_twice(cell):
    """The outgoing mask stands in the order of the outputs: so a second layer that goes backwards meets the steps in
    their first order, and their mask with them."""
    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    first, second = (make(cell, return_sequences=True, go_backwards=True) for _ in range(2))
    y = first(x, mask=mask)
    np.testing.assert_array_equal(y.mask, mask[:, ::-1])
    z = second(y)
    np.testing.assert_array_equal(z.mask, mask)
    again = make(cell, return_sequences=True)
    again.build((None, None, H))
    again.set_weights(second.get_weights())
    np.testing.assert_array_equal(z, again(np.ascontiguousarray(np.asarray(y)[:, ::-1]), mask=mask))


# ---- arguments ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
def test_regularizers_and_constraints_reach_the_weights(cell):
    options = {
        "kernel_regularizer": fm.regularizers.L2(0.1),
        "recurrent_regularizer": "l1",
        "bias_regularizer": fm.regularizers.L1L2(0.1, 0.2),
        "kernel_constraint": "non_neg",
        "recurrent_constraint": fm.constraints.MaxNorm(0.5),
        "bias_constraint": fm.constraints.NonNeg(),
    }
    layer = make(cell, use_bias=True, **options)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    for one in (layer, again, Bidirectional(layer).backward_layer):
        one.build((None, None, F))
        kinds = [(type(w.regularizer).__name__, type(w.constraint).__name__) for w in one.weights]
        assert kinds == [("L2", "NonNeg"), ("L1", "MaxNorm"), ("L1L2", "NonNeg")]


@pytest.mark.parametrize("cell", CELLS)
def test_arguments_without_effect(cell):
    x, plain = random(B, T, F), make(cell)
    expected = plain(x)
    for options in ({"unroll": True}, {"use_cudnn": False}, {"use_cudnn": True}, {"implementation": 1}):
        layer = make(cell, **options)
        layer.build((None, None, F))
        layer.set_weights(plain.get_weights())
        np.testing.assert_array_equal(layer(x), expected)
    assert make(cell, unroll=True).get_config()["unroll"] is True


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activity_regularizer": "l2"}, "activity_regularizer: not supported by GRU yet"),
        ({"use_cudnn": "yes"}, "use_cudnn: expected 'auto', True or False, received 'yes'"),
        ({"implementation": 3}, "implementation: expected 1 or 2, received 3"),
        ({"recurrent_dropout": 1.5}, "recurrent_dropout: expected a number from 0 to 1, received 1.5"),
        ({"recurrent_regularizer": "l3"}, "regularizer: expected one of"),
        ({"bias_constraint": "norm"}, "constraint: expected one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GRU(2, **options)
    with pytest.raises(TypeError, match="unknown argument 'time_major'"):
        GRU(2, time_major=False)


@pytest.mark.parametrize("cls", [SimpleRNN, GRU, LSTM])
def test_config_round_trip(cls):
    layer = cls(3, dropout=0.1, recurrent_dropout=0.2, seed=4, stateful=True, unroll=True, return_sequences=True)
    config = layer.get_config()
    assert config["recurrent_dropout"] == 0.2 and config["stateful"] is True
    assert cls.from_config(config).get_config() == config
    both = Bidirectional(layer)
    assert Bidirectional.from_config(both.get_config()).get_config() == both.get_config()


# ---- well known -----------------------------------------------------------------------------------------------------
def test_steps_of_id_0_repeat_the_step_before():
    """Ids 1 0 2 0 through an embedding whose id 0 is padding: outputs at steps 2 and 4 repeat 1 and 3."""
    ids, table = np.array([[1, 0, 2, 0]]), random(3, 5, dtype=np.float32)
    y = np.asarray(LSTM(4, return_sequences=True)(table[ids], mask=fm.masks.from_ids(ids)))[0]
    np.testing.assert_array_equal(y[1], y[0])
    np.testing.assert_array_equal(y[3], y[2])
    assert not np.array_equal(y[2], y[0])


@pytest.mark.parametrize("cell", CELLS)
def test_sequence_lengths(cell):
    """What users of dynamic_rnn(sequence_length=) expect: outputs 0 past the end, states of the last valid step, and
    of a row of length 0 the initial ones."""
    lengths = np.array([4, 0, 2])
    x, mask = random(3, 4, F), fm.masks.from_lengths(lengths)
    layer = make(cell, return_sequences=True, return_state=True, zero_output_for_mask=True)
    given = [random(3, H, seed=i) for i in range(layer.states)]
    y, *states = layer(x, mask=mask, initial_state=given)
    y = np.asarray(y)
    assert not y[1].any() and not y[2, 2:].any() and y[0].all() and y[2, :2].all()
    for state, first in zip(states, given, strict=True):
        np.testing.assert_array_equal(state[1], first[1])
    for b in (0, 2):
        alone, *last = layer(x[b : b + 1, : lengths[b]], initial_state=[s[b : b + 1] for s in given])
        np.testing.assert_array_equal(y[b, : lengths[b]], alone[0])
        np.testing.assert_array_equal(y[b, lengths[b] - 1], states[0][b])
        for state, own in zip(flat(states), flat(last), strict=True):
            np.testing.assert_array_equal(state[b], own[0])


# ---- both directions of one row at once -----------------------------------------------------------------------------
@pytest.mark.parametrize("cell", [SimpleRNN, GRU, LSTM])
@pytest.mark.parametrize("masked", [False, True])
def test_directions_side_by_side(cell, masked, monkeypatch):
    """One row: both directions in one launch, with the bits of the two layers apart; whatever thread takes which."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 3)).astype(np.float32)
    mask = rng.random((1, 9)) < 0.6 if masked else None
    layer = Bidirectional(cell(5, return_sequences=True, return_state=True))
    layer(x)
    separate = [part._run(x, mask, False, (), {"restore_order": True})[0] for part in layer._directions]
    launched_kernels, launch = [], _jit.launch
    monkeypatch.setattr(_jit, "SERIAL_WORK", 0)
    monkeypatch.setattr(_jit, "launch", lambda k, *rest: (launched_kernels.append(k.name), launch(k, *rest))[1])
    outputs, *states = layer(x, mask=mask)
    (name,) = (name for name in launched_kernels if "+" in name)
    assert len(name.split("+")) == 2 and name.count("_forward.float32") == 2
    assert_same_bits(outputs, np.concatenate([part[0] for part in separate], axis=-1))
    for state, expected in zip(states, [s for part in separate for s in part[1:]], strict=True):
        assert_same_bits(state, expected)


def test_what_fails_side_by_side_leaves_nothing_behind():
    layer = GRU(4)
    x = np.ones((1, 3, 2), np.float32)
    expected = layer(x)
    with pytest.raises(ZeroDivisionError), SideBySide():
        layer(x)
        raise ZeroDivisionError
    assert_same_bits(layer(x), expected)
