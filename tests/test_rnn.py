"""RNN, its cells and stacks of them: built in, compiled and in Python."""

import copy
import pickle
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import fastmask as fm
from cases import assert_same_bits
from fastmask.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Cell,
    Dense,
    GRUCell,
    Input,
    Layer,
    LSTMCell,
    Masking,
    SimpleRNN,
    SimpleRNNCell,
    StackedRNNCells,
    register_serializable,
)
from fastmask.ragged import Ragged
from fastmask.testing import check_layer
from helpers import assert_close, assert_gradient, mask_cases
from user_cells import MixCell, PythonMixCell, PythonSumCell

B, T, F, H = 5, 6, 3, 4
BUILT_IN = {
    "simple_rnn": (SimpleRNNCell, SimpleRNN, {"activation": "silu"}),
    "gru": (GRUCell, GRU, {}),
    "gru_before": (GRUCell, GRU, {"reset_after": False, "use_bias": False}),
    "lstm": (LSTMCell, LSTM, {"unit_forget_bias": False}),
    "lstm_dropout": (LSTMCell, LSTM, {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 5}),
}
LAYER_OPTIONS = [
    {},
    {"return_sequences": True, "return_state": True},
    {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True},
    {"return_state": True, "go_backwards": True, "zero_output_for_mask": True},
]


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def flat(structure):
    """All arrays in nested lists and tuples."""
    if isinstance(structure, (list, tuple)):
        return [array for part in structure for array in flat(part)]
    return [structure]


def like(structure, seed=9):
    """Random gradients of that structure."""
    if isinstance(structure, (list, tuple)):
        return type(structure)(like(part, seed + i) for i, part in enumerate(structure))
    values = structure.values if isinstance(structure, Ragged) else structure
    d = random(*values.shape, seed=seed, dtype=values.dtype)
    return structure.with_values(d) if isinstance(structure, Ragged) else d


def twin(layer, x, other):
    """`other`, built and with the weights of `layer`."""
    other.build((None, *x.shape[1:]))
    other.set_weights(layer.get_weights())
    return other


def masked_steps(cell, x, mask, states):
    """Keras' rule, literally: every step of every row, and then what to keep of it. Outputs (B,T,H) and last states."""
    outputs, held = [], 0
    for t in range(x.shape[1]):
        m = mask[:, t, None]
        output, new_states = cell(np.nan_to_num(x[:, t]), states)
        held = np.where(m, output, held)
        states = choose(m, new_states, states)
        outputs.append(held)
    return np.stack(outputs, axis=1), states


def choose(m, new, old):
    if isinstance(new, (list, tuple)):
        return [choose(m, a, b) for a, b in zip(new, old, strict=True)]
    return np.where(m, new, old)


# ---- built-in cells -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask_name", ["none", "right", "holes", "empty_rows"])
@pytest.mark.parametrize("options", LAYER_OPTIONS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_bits_of_the_layer(name, options, mask_name):
    cell_class, layer_class, own = BUILT_IN[name]
    layer, rnn = layer_class(H, **own, **options), RNN(cell_class(H, **own), **options)
    x, mask = random(B, T, F, dtype=np.float32), mask_cases(B, T)[mask_name]
    states = [random(B, H, seed=i, dtype=np.float32) for i in range(rnn.states)]
    layer(x)
    assert [w.shape for w in twin(layer, x, rnn).weights] == [w.shape for w in layer.weights]
    for call in ({"mask": mask}, {"mask": mask, "initial_state": states}):
        found = [one(x, training=True, **call) for one in (layer, rnn)]
        assert_same_bits(*[tuple(map(np.asarray, flat(y))) for y in found])
        assert_same_bits(*[getattr(flat(y)[0], "mask", None) for y in found])
        d = like(found[0])
        assert_same_bits(rnn.backward(d), layer.backward(d))
        assert_same_bits(rnn.gradients, layer.gradients)
        assert_same_bits(rnn.initial_state_gradients, layer.initial_state_gradients)
        assert rnn.keyword_gradients() == {"initial_state": rnn.initial_state_gradients}
        if "dropout" not in name:
            assert_same_bits(rnn(x, **call), layer(x, **call))
    shape = rnn.compute_output_shape((None, T, F))
    assert shape == layer.compute_output_shape((None, T, F)) and rnn.mask_role() == layer.mask_role()


@pytest.mark.parametrize("name", list(BUILT_IN)[:-1])
def test_a_built_in_cell_by_hand(name):
    cell_class, _, own = BUILT_IN[name]
    cell = cell_class(H, dtype="float64", bias_initializer="random_normal", **own)
    x, states = random(B, F), [random(B, H, seed=i + 1) for i in range(1 + (cell_class is LSTMCell))]
    output, new_states = cell(x, states, training=True)
    rnn = RNN(cell, return_state=True)
    assert_same_bits(rnn(x[:, None], initial_state=states), (output, *new_states))
    d = like((output, new_states))
    dx, d_states = cell.backward(d)
    rnn(x[:, None], initial_state=states, training=True)
    assert_same_bits(rnn.backward((d[0], *d[1]))[:, 0], dx)
    assert_same_bits(rnn.initial_state_gradients, tuple(d_states))
    if len(states) == 1:  # bare in, bare out
        assert_same_bits(cell(x, states[0]), (output, new_states[0]))
        cell(x, states[0], training=True)
        assert_same_bits(cell.backward((d[0], d[1][0])), (dx, d_states[0]))


def test_a_cell_in_two_layers_has_one_set_of_weights():
    cell = GRUCell(H)
    one, other = RNN(cell), RNN(cell, return_sequences=True, go_backwards=True)
    model = fm.Sequential([Input((None, F)), RNN(GRUCell(F), return_sequences=True), other])
    x = random(B, T, F, dtype=np.float32)
    one(x)
    model(x)
    assert one.weights == other.weights == cell.weights == model.layers[1].weights
    assert_same_bits(one(x[:, ::-1]), np.asarray(other(x))[:, -1])
    cell.kernel.assign(np.zeros(cell.kernel.shape))
    assert_same_bits(one(x[:, ::-1]), np.asarray(other(x))[:, -1])
    with pytest.raises(ValueError, match=rf"^{cell.name}: inputs: expected {F} features, received {F + 1}$"):
        RNN(cell)(random(B, T, F + 1))


def test_frozen_cells():
    for cell in (GRUCell(H), MixCell(), PythonMixCell()):
        rnn, x = RNN(cell), random(B, T, F, dtype=np.float32)
        rnn(x)
        count = len(rnn.weights)
        for owner in (cell, rnn):
            owner.trainable = False
            assert rnn.trainable_weights == [] and len(rnn.weights) == count
            y = rnn(x, training=True)
            assert rnn.backward(np.ones_like(y)).any()
            assert all(w.gradient is None for w in rnn.weights)
            owner.trainable = True
        assert len(rnn.trainable_weights) == count


# ---- all kinds of cells ---------------------------------------------------------------------------------------------
for _cell in (MixCell, PythonMixCell):
    register_serializable("tests")(_cell)


def cells(kind):
    """A cell, or a list of them, in float64."""
    options = {"dtype": "float64"}
    return {
        "gru": lambda: GRUCell(H, **options),
        "lstm": lambda: LSTMCell(H, **options),
        "compiled": lambda: MixCell(**options),
        "python": lambda: PythonMixCell(**options),
        "stacked": lambda: [LSTMCell(2, **options), GRUCell(3, **options)],
        "mixed": lambda: [GRUCell(2, **options), MixCell(**options), PythonMixCell(**options)],
    }[kind]()


KINDS = ["gru", "lstm", "compiled", "python", "stacked", "mixed"]


@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "go_backwards": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_check_layer(kind, options):
    """Gradients by differences, NaN under the mask, the outgoing mask, shapes, a Model, the configuration."""
    check_layer(RNN(cells(kind), **options), (3, 4, F), elements=20)


@pytest.mark.parametrize("kind", KINDS)
def test_check_bidirectional(kind):
    check_layer(Bidirectional(RNN(cells(kind), return_sequences=True), merge_mode="mul"), (3, 4, F), elements=10)


def starting(cell, seed=0):
    """Random states in the structure of the cell's own."""
    return like(cell.get_initial_state(B), seed)


@pytest.mark.parametrize("mask_name", mask_cases(1, 1))
@pytest.mark.parametrize("kind", KINDS)
def test_the_masked_loop_step_by_step(kind, mask_name):
    """Stacked cells, which are taken one after the other over all steps, give what they give at each step."""
    rnn = RNN(cells(kind), return_sequences=True, return_state=True)
    x, mask = random(B, T, F), mask_cases(B, T)[mask_name]
    x[~mask] = np.nan
    states = starting(rnn)
    outputs, *last = rnn(x, mask=mask, initial_state=states)
    expected, expected_states = masked_steps(rnn.cell, x, mask, states)
    assert_close(outputs, expected)
    assert len(flat(last)) == len(flat(states))
    for one, other in zip(flat(last), flat(expected_states), strict=True):
        assert_close(one, other)
    np.testing.assert_array_equal(outputs.mask, mask)


@pytest.mark.parametrize("kind", ["compiled", "python", "stacked", "mixed"])
def test_gradients_of_states(kind):
    """Against differences, with the gradients of the last states."""
    rnn = RNN(cells(kind), return_state=True)
    x, mask, states = random(B, 4, F), mask_cases(B, 4)["holes"], starting(rnn)
    y = rnn(x, mask=mask, initial_state=states, training=True)
    d = like(y)
    rnn.backward(d)
    gradients = flat(rnn.initial_state_gradients)
    assert len(gradients) == len(flat(states))

    def total():
        pairs = zip(flat(rnn(x, mask=mask, initial_state=states)), flat(d), strict=True)
        return sum(np.sum(a * b) for a, b in pairs)

    for state, gradient in zip(flat(states), gradients, strict=True):
        assert_gradient(total, state, gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_is_padded(kind):
    """At valid steps: outputs and gradients in every bit, but for a cell in Python, where NumPy multiplies matrices of
    other sizes; and with a cell that goes backwards, too."""
    rows = [random(n, F, seed=n) for n in (6, 0, 2, 5, 1)]
    ragged = Ragged.from_list(rows)
    x, mask = ragged.to_padded()
    for options in ({}, {"go_backwards": True}):
        rnn = RNN(cells(kind), return_sequences=True, return_state=True, **options)
        states = starting(rnn)
        found, *last = rnn(ragged, initial_state=states, training=True)
        assert type(found) is Ragged
        d_ragged, d_states = like(found), like(last)
        dx = rnn.backward((d_ragged, *d_states))
        gradients = rnn.gradients
        outputs, *expected = rnn(x, mask=mask, initial_state=states, training=True)
        valid = outputs.mask  # in the order of the outputs
        assert_same_bits(found.values, np.asarray(outputs)[valid])
        assert_same_bits(flat(last), flat(expected))
        d = np.zeros(outputs.shape)
        d[valid] = d_ragged.values
        assert_same_bits(dx.values, rnn.backward((d, *d_states))[mask])
        assert_same_bits(gradients, rnn.gradients)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(0, 4), (2, 0), (0, 0)])
def test_no_rows_or_no_steps(kind, size):
    rnn = RNN(cells(kind), return_sequences=True, return_state=True)
    x = np.zeros((*size, F))
    rnn.build((None, None, F))
    states = like(rnn.get_initial_state(size[0]))
    for mask in (None, np.ones(size, bool)):
        y = rnn(x, mask=mask, initial_state=states, training=True)
        assert y[0].shape == (*size, rnn.units)
        assert_same_bits(flat(y[1:]), flat(states))
        d = like(y)
        assert rnn.backward(d).shape == x.shape
        assert_same_bits(flat(rnn.initial_state_gradients), flat(d[1:]))
        assert not any(g.any() for g in rnn.gradients)


def test_a_python_cell_sees_the_rows_that_are_left():
    seen = []

    class Watching(PythonSumCell):
        def call(self, inputs, states):
            seen.append(inputs[:, 0].tolist())
            return super().call(inputs, states)

    x = np.arange(12.0).reshape(3, 4, 1)
    mask = np.array([[False, True, False, True], [True] * 4, [False] * 4])
    outputs = RNN(Watching(1, dtype="float64"), return_sequences=True)(x, mask=mask)
    assert seen == [[4, 1], [5, 3], [6], [7]]  # the row with most valid steps comes first
    assert outputs[..., 0].tolist() == [[0, 2, 2, 8], [8, 18, 30, 44], [0, 0, 0, 0]]


def test_cells_that_cannot_be_trained():
    class OnlyStep(MixCell):
        step_backward = None

    for cell, missing in ((PythonSumCell(F), r"backward\(grad\)"), (OnlyStep(), "step_backward")):
        rnn, x = RNN(cell), random(B, T, F, dtype=np.float32)
        assert rnn(x).shape == (B, rnn.units)
        y = rnn(x, training=True)
        with pytest.raises(NotImplementedError, match=f"^{cell.name}: {type(cell).__name__} has no {missing}"):
            rnn.backward(np.ones_like(y))


@pytest.mark.parametrize("kind", ["compiled", "python", "mixed"])
def test_cells_by_hand(kind):
    """A training call of a cell and its backward, against the layer with one step."""
    cell = cells(kind)
    cell = StackedRNNCells(cell) if kind == "mixed" else cell
    x, states = random(B, F), starting(cell)
    output, new_states = cell(x, states, training=True)
    d = like((output, new_states))
    dx, d_states = cell.backward(d)
    gradients = cell.gradients
    rnn = RNN(cell, return_state=True)
    outputs, *last = rnn(x[:, None], initial_state=states, training=True)
    assert_same_bits([output, *flat(new_states)], [outputs, *flat(last)])
    assert_same_bits(rnn.backward((d[0], *d[1]))[:, 0], dx)
    assert_same_bits(flat(rnn.initial_state_gradients), flat(d_states))
    assert_same_bits(rnn.gradients, gradients)


def test_one_state_needs_no_list():
    @register_serializable("tests")
    class Sum(Layer):  # any layer with state_size and call(inputs, states)
        state_size = 2

        def call(self, inputs, states):
            self.saved = None
            return 3 * (states[0] + inputs), states[0] + inputs

        def backward(self, grad):
            d_output, d_state = grad
            return 3 * d_output + d_state, 3 * d_output + d_state

    rnn = RNN(Sum(dtype="float64"), return_state=True)
    check_layer(rnn, (3, 4, 2))
    x, state = random(B, T, 2), random(B, 2)
    outputs, last = rnn(x, initial_state=state, training=True)
    assert_close(outputs, 3 * (x.sum(axis=1) + state))
    assert_close(last, x.sum(axis=1) + state)
    rnn.backward((np.ones((B, 2)), None))
    assert_same_bits(rnn.initial_state_gradients, (np.full((B, 2), 3.0),))
    one, row = rnn(x, initial_state=state[:1]), rnn(x, initial_state=[np.repeat(state[:1], B, axis=0)])
    assert_same_bits(one, row)


def test_a_cell_starts_from_its_own_state():
    class FromOnes(PythonSumCell):
        def get_initial_state(self, batch_size):
            return np.ones((batch_size, self.state_size))

    class MixFromOnes(MixCell):
        def get_initial_state(self, batch_size):
            return [np.ones((batch_size, n)) for n in self.state_size]

    x = random(B, T, F)
    rnn = RNN(FromOnes(F))  # float32, whatever the state came as
    assert_close(rnn(x), 2 * (1 + x.sum(axis=1)), np.float32)
    assert_same_bits(rnn.get_initial_state(2), [np.ones((2, F))])
    rnn = RNN(MixFromOnes(dtype="float64"))
    y = rnn(x, training=True)
    assert_same_bits(y, rnn(x, initial_state=rnn.get_initial_state(B)))
    rnn.backward(np.ones_like(y))
    assert rnn.initial_state_gradients == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_stateful(kind):
    whole = RNN(cells(kind), return_sequences=True)
    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    expected = np.asarray(whole(x, mask=mask))
    rnn = twin(whole, x, RNN(cells(kind), return_sequences=True, stateful=True))
    for _ in range(2):
        parts = [rnn(x[:, t : t + 2], mask=mask[:, t : t + 2], training=t == 2) for t in (0, 2, 4)]
        valid = np.concatenate([y.mask for y in parts], axis=1)
        assert_close(np.concatenate(parts, axis=1)[valid], expected[valid])
        rnn.reset_state()
    with pytest.raises(ValueError, match=f"^{rnn.name}: inputs: expected {B} rows"):
        rnn(x[:2])
    given = starting(rnn)
    assert_same_bits(np.asarray(rnn(x, initial_state=given)), np.asarray(whole(x, initial_state=given)))
    rnn(x[:, :1], training=True)
    rnn.backward(np.ones((B, 1, rnn.units)))
    assert all(d is None for d in flat(rnn.initial_state_gradients))


# ---- as part of models ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind):
    rnn = RNN(cells(kind), True, True, stateful=True)
    x = random(B, T, F)
    expected = flat(rnn(x))
    again = RNN.from_config(rnn.get_config())
    assert again.get_config() == rnn.get_config() and not again.built
    for other in (twin(rnn, x, again), copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        other.reset_state()
        assert_same_bits(flat(other(x)), expected)
        assert [w.name for w in other.weights] == [w.name for w in rnn.weights]
        other.reset_state()
        other.weights[0].assign(np.zeros(other.weights[0].shape))
        assert not np.array_equal(flat(other(x))[0], expected[0])
        y = other(x, training=True)
        assert other.backward(like(y)).shape == x.shape
    rnn.reset_state()
    assert_same_bits(flat(rnn(x)), expected)


@pytest.mark.parametrize("kind", ["compiled", "python", "mixed"])
def test_training_in_a_model(kind):
    fm.set_random_seed(0)
    model = fm.Sequential(
        [
            Input((None, F)),
            Masking(),
            Bidirectional(RNN(cells(kind), return_sequences=True)),
            RNN(cells(kind)),
            Dense(1),
        ]
    )
    model.compile(optimizer=fm.optimizers.Adam(0.02), loss="mean_squared_error")
    x, mask = random(12, T, F), mask_cases(12, T)["right"]
    x[~mask] = 0
    y = x.sum(axis=(1, 2))[:, None] / 5
    losses = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_saved_models(tmp_path):
    """Cells in the two directions of a Bidirectional stay two, and one that two layers share stays one."""
    shared, x = GRUCell(H), Input((None, F))
    h = Bidirectional(RNN([GRUCell(2), MixCell()], return_sequences=True))(x)
    h = RNN(shared, return_sequences=True)(RNN(GRUCell(H), return_sequences=True)(h))
    model = fm.Model(x, RNN(shared)(RNN(PythonMixCell(units=H), return_sequences=True)(h)))
    model.save(tmp_path / "m.npz")
    again = fm.load_model(tmp_path / "m.npz")
    data = random(B, T, F, dtype=np.float32)
    assert_same_bits(again(data), model(data))
    names = [[w.name for w in m.weights] for m in (again, model)]
    assert names[0] == names[1] and len(names[0]) == 2 * (3 + 4) + 3 + 3 + 4


def test_an_encoders_states_start_a_decoder():
    """In a functional model, gradients of initial states included: the same as with GRU layers."""

    def model(make):
        x, target = Input((None, F)), Input((None, F))
        _, state = make(return_state=True)(x)
        return fm.Model([x, target], make(return_sequences=True)(target, initial_state=[state]))

    built_in, cell = model(lambda **kw: GRU(H, **kw)), model(lambda **kw: RNN(GRUCell(H), **kw))
    cell.set_weights(built_in.get_weights())
    x, target = random(B, T, F), random(B, 4, F, seed=1)
    y = random(B, 4, H)
    for m in (built_in, cell):
        m.compile(optimizer="sgd", loss="mean_squared_error")
        m.fit([x, target], y, epochs=2, shuffle=False, verbose=0)
    assert_same_bits(cell.get_weights(), built_in.get_weights())


# ---- bad input ------------------------------------------------------------------------------------------------------
class Bad(PythonSumCell):
    """Returns what it is told."""

    def __init__(self, returns=None, **kwargs):
        super().__init__(F, **kwargs)
        self.returns = returns

    def call(self, inputs, states):
        return self.returns(inputs, states)


class NoSize(Layer):
    pass


class WithBadSize(PythonSumCell):
    def __init__(self, size):
        super().__init__(3)
        self.state_size, self.output_size, self.saved_size = size


class WrongArguments(MixCell):
    step = MixCell.step_backward


X = np.zeros((B, T, F), np.float32)
STATE = np.zeros((B, 2), np.float32)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RNN(3), "cell: expected a layer with state_size and call(inputs, states), received 3"),
        (lambda: RNN([]), "cells: expected a list of cells, received []"),
        (lambda: RNN(NoSize(name="n")), "cell: expected n.state_size to be a whole number or a list of them, received"),
        (lambda: RNN(WithBadSize((0, None, 0))), "state_size to be a whole number or a list of them, received 0"),
        (lambda: RNN(WithBadSize(([], None, 0))), "state_size to be a whole number or a list of them, received []"),
        (lambda: RNN(WithBadSize((2, [2], 0))), "output_size to be a whole number, received [2]"),
        (lambda: RNN(WithBadSize((2, 2, None))), "saved_size to be a whole number, received None"),
        (lambda: RNN(Cell(name="n")), "n.state_size"),
        (lambda: RNN(GRUCell(3), dtype="float64"), "cell: expected the dtype float64 of the layer, received float32"),
        (
            lambda: RNN([GRUCell(3), GRUCell(3, dtype="float64")]),
            "cells: expected the dtype float32, received gru_cell",
        ),
        (lambda: RNN([StackedRNNCells([GRUCell(3)])]), "cells: expected a flat list, received StackedRNNCells inside"),
        (lambda: RNN([GRUCell(3)] * 2), "cells: expected different cells, received one twice"),
        (lambda: GRUCell(0), "units: expected a whole number of 1 or more, received 0"),
        (lambda: LSTMCell(3, return_sequences=True), "LSTMCell: unknown argument 'return_sequences'"),
        (lambda: RNN(GRUCell(3), name="n")(STATE), "n: inputs: expected shape (B,T,F) with a known F"),
        (lambda: GRUCell(3, name="n")(X, [X]), "n: inputs: expected shape (B,F) with a known F"),
        (lambda: RNN(Bad(lambda x, s: (x[:, :2], s)))(X), "call: expected an output (5, 3), returned (5, 2)"),
        (lambda: RNN(Bad(lambda x, s: (x, s[0][:1])))(X), "call: expected a new state (5, 3), returned (1, 3)"),
        (lambda: RNN(Bad(lambda x, s: (x, [*s, *s])))(X), "call: expected 1 new states, returned 2"),
        (lambda: RNN(GRUCell(3), name="n")(X, initial_state=[X, X]), "n: initial_state: expected 1 arrays"),
        (lambda: RNN([GRUCell(3)])(X, initial_state=X), "initial_state: expected a list with an entry for each of 1"),
        (lambda: RNN(MixCell())(X, initial_state=[STATE] * 2), "initial_state: expected shape (B,S) = (5, 3)"),
        (lambda: RNN(WrongArguments())(X), "step: expected the arguments (x, state, weights, output, new_state, "),
        (lambda: StackedRNNCells([GRUCell(2)])(STATE, STATE), "states: expected a list with an entry for each of 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make()


def test_bad_gradients():
    rnn = RNN(MixCell(), return_state=True, name="n")
    rnn(X, training=True)
    with pytest.raises(ValueError, match=r"^n: grad: expected 3 arrays or Nones, received 2"):
        rnn.backward((X, X))


def test_functions_are_compiled_when_the_layer_is_built():
    with pytest.raises(TypeError, match="^step: expected the arguments"):
        RNN(WrongArguments()).build((None, None, F))


# ---- the page -------------------------------------------------------------------------------------------------------
PAGE = Path(__file__).parents[1] / "docs" / "custom_cells.md"


@pytest.mark.skipif(not PAGE.exists(), reason="there is no docs/ beside these tests (not a checkout)")
def test_the_code_of_the_page_runs(tmp_path):
    """As a file, since numba keeps beside it what it compiles."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 4
    file = tmp_path / "min_gru.py"
    file.write_text("\n".join(blocks))
    cell = runpy.run_path(str(file))["MinGRUCell"](4, dtype="float64")
    assert cell.step is not None
    check_layer(RNN(cell, return_sequences=True), (3, 4, 2))
