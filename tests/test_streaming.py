"""Streams: whatever the pieces, the bits are those of the whole sequence."""

import threading

import numpy as np
import pytest

import fastmask.models.streaming
from fastmask import layers
from fastmask.layers import GRU, LSTM, Bidirectional, Conv1D, Dense, Dropout, Input, Layer, Masking, SimpleRNN
from fastmask.models import Model, Sequential
from fastmask.ragged import Ragged
from helpers import assert_doctests, mask_cases
from test_layers import CELLS, random
from user_cells import MixCell, PythonSumCell

B, T, F, H = 5, 9, 3, 6
MASKS = mask_cases(B, T)


def cuts(seed):
    """Where T steps are cut: pieces of 0, 1 and more steps."""
    return np.sort(np.random.default_rng(seed).integers(0, T + 1, 5)).tolist() + [T]


def fed(stream, x, mask=None, seed=0):
    """What a stream gives for x in random pieces."""
    results, start = [], 0
    for end in cuts(seed):
        piece = slice(start, end)
        results.append(stream(x[:, piece], mask=None if mask is None else mask[:, piece]))
        start = end
    return results


def joined(results):
    return np.concatenate(results, axis=1)


def make(cell, units=H, **options):
    cls, own = CELLS[cell]
    return cls(units, bias_initializer="random_normal", **{**own, **options})


def stack(cell, dtype="float32", **options):
    """Two recurrent layers with others between them."""
    x = Input((None, F))
    h = make(cell, return_sequences=True, dtype=dtype, **options)(Masking(dtype=dtype)(x))
    h = Dropout(0.5, dtype=dtype)(Dense(4, activation="tanh", dtype=dtype)(h))
    return Model(x, make(cell, return_sequences=True, dtype=dtype, **options)(h))


# ---- recurrent layers -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("zero_output_for_mask", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_pieces_give_the_bits_of_the_whole(cell, zero_output_for_mask, dtype):
    model = stack(cell, dtype, zero_output_for_mask=zero_output_for_mask)
    x = random(B, T, F).astype(dtype)
    x[0, 4:6] = x[1, 0] = 0  # masked by the layer
    stream = model.stream(B)
    for seed, mask in enumerate([None, *MASKS.values()]):
        whole = model(x, mask=mask)
        pieces = fed(stream, x, mask, seed)
        np.testing.assert_array_equal(joined(pieces), whole)
        np.testing.assert_array_equal(joined([y.mask for y in pieces]), whole.mask)
        stream.reset()
    for t in range(T):  # step by step
        np.testing.assert_array_equal(stream(x[:, t : t + 1]), model(x)[:, t : t + 1])


@pytest.mark.parametrize("zero_output_for_mask", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_that_are_no_sequences_are_those_of_all_steps_so_far(cell, zero_output_for_mask):
    x = Input((None, F))
    options = {"zero_output_for_mask": zero_output_for_mask}
    sequence = make(cell, return_sequences=True, **options)(x)
    last = make(cell, **options)(sequence)
    outputs = [last, Dense(2)(last), *make(cell, return_state=True, **options)(sequence)]
    model, x = Model(x, outputs), random(B, T, F, dtype=np.float32)
    for seed, mask in enumerate([None, *MASKS.values()]):
        stream = model.stream(B)
        for end, received in zip(cuts(seed), fed(stream, x, mask, seed), strict=True):
            expected = model(x[:, :end], mask=None if mask is None else mask[:, :end])
            for a, b in zip(received, expected, strict=True):
                np.testing.assert_array_equal(a, b)
                a[:] = np.nan  # the stream does not read what it has given away


def assert_ragged_pieces(model, x, mask, between=lambda stream, rows: None):
    """Ragged pieces, in each row as many steps as it comes; between(stream, outputs of the rows so far) after one."""
    ends = np.sort(np.random.default_rng(0).integers(0, T + 1, (B, 4)), axis=1)
    ends[:, -1] = T
    stream, starts, rows = model.stream(B), np.zeros(B, int), [[] for _ in range(B)]
    for k, end in enumerate(ends.T):
        pieces = [slice(*pair) for pair in zip(starts, end, strict=True)]
        chunk = Ragged.from_list([row[piece] for row, piece in zip(x, pieces, strict=True)])
        valid = None if mask is None else np.concatenate([m[p] for m, p in zip(mask, pieces, strict=True)])
        for row, y in zip(rows, stream(chunk, mask=valid), strict=True):
            row.append(y)
        starts = end
        if k == 1:
            between(stream, rows)
    np.testing.assert_array_equal([np.concatenate(row) for row in rows], model(x, mask=mask))


@pytest.mark.parametrize("cell", CELLS)
def test_ragged_pieces_have_another_number_of_steps_for_each_row(cell):
    def a_padded_piece(stream, rows):
        last = stream(np.full((B, 1, F), np.nan, np.float32), mask=np.zeros((B, 1), bool))
        held = [np.concatenate([np.zeros((1, H)), *row])[-1] for row in rows]
        np.testing.assert_array_equal(last[:, 0], held)

    for mask in (None, MASKS["holes"], MASKS["first_masked"], MASKS["all_masked"]):
        assert_ragged_pieces(stack(cell), random(B, T, F, dtype=np.float32), mask, a_padded_piece)


def test_what_is_masked_at_the_beginning_of_a_piece_holds_the_last_output():
    model = Sequential([Input((None, F)), LSTM(H, return_sequences=True)])
    stream, x = model.stream(1), random(1, 4, F, dtype=np.float32)
    none, all_ = np.zeros((1, 2), bool), np.ones((1, 2), bool)
    assert not stream(x[:, :2], mask=none).any()  # nothing before the first valid step of the stream
    before = stream(x[:, :2], mask=all_)
    np.testing.assert_array_equal(stream(np.full((1, 2, F), np.nan), mask=none), before[:, [1, 1]])
    np.testing.assert_array_equal(stream(x[:, 2:], mask=[[False, True]])[:, 0], before[:, 1])
    assert stream(x[:, :0]).shape == (1, 0, H)
    assert Sequential([Input((None, F)), GRU(H)]).stream(0)(x[:0]).shape == (0, H)


class StartsAtOne(PythonSumCell):
    """A cell with a start of its own; what it gives out is not its state."""

    def get_initial_state(self, batch_size):
        return [np.ones((batch_size, self.state_size), self.dtype)]


RNN_CELLS = {
    "gru": lambda: layers.GRUCell(4),
    "stacked": lambda: [layers.LSTMCell(4), layers.SimpleRNNCell(3), layers.GRUCell(2, reset_after=False)],
    "compiled": MixCell,
    "python": lambda: StartsAtOne(F),
    "mixed": lambda: [StartsAtOne(F), MixCell(), layers.LSTMCell(2)],
}


@pytest.mark.parametrize(
    "options", [{}, {"return_sequences": True}, {"return_sequences": True, "zero_output_for_mask": True}]
)
@pytest.mark.parametrize("cell", RNN_CELLS)
def test_cells(cell, options):
    model = Sequential([Input((None, F)), layers.RNN(RNN_CELLS[cell](), **options)])
    x = random(B, T, F, dtype=np.float32)
    for seed, mask in enumerate([None, *MASKS.values()]):
        stream = model.stream(B)
        pieces = fed(stream, x, mask, seed)
        if options:
            np.testing.assert_array_equal(joined(pieces), model(x, mask=mask))
            assert_ragged_pieces(model, x, mask)
        else:
            for end, y in zip(cuts(seed), pieces, strict=True):
                expected = model(x[:, :end], mask=None if mask is None else mask[:, :end])
                np.testing.assert_array_equal(y, expected)
                y[:] = np.nan
    stream.reset([1, 2])
    stream_of_two = model.stream(B)
    np.testing.assert_array_equal(stream(x)[[1, 2]], stream_of_two(x)[[1, 2]])


def test_states_of_cells():
    rnn = layers.RNN([StartsAtOne(F), MixCell()], return_state=True)
    x = random(B, T, F, dtype=np.float32)
    y, first, second = rnn(x, mask=MASKS["holes"])
    _, state = rnn.start_stream(B, (None, None, F), "in pieces")
    for t in range(T):
        received, _, state = rnn.stream_call(x[:, t : t + 1], MASKS["holes"][:, t : t + 1], state)
    for a, b in zip([received[0], *received[1], *received[2]], [y, *first, *second], strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_that_work_step_by_step():
    ids = Input((None,), dtype="int32")
    vector = Input((4,))  # the same with every piece
    h = layers.Embedding(7, 4, mask_zero=True)(ids)
    for layer in (
        layers.LayerNormalization(gamma_initializer="random_normal"),
        layers.BatchNormalization(moving_mean_initializer="random_normal"),
        layers.UnitNormalization(),
        layers.SpatialDropout1D(0.5),
        layers.GaussianNoise(0.5),
        layers.Identity(),
        layers.PReLU("random_normal", shared_axes=[1]),
        layers.Reshape((-1, 2, 2)),
        layers.Permute((1, 3, 2)),
        layers.Reshape((-1, 4)),
        layers.TimeDistributed(Dense(4)),
        layers.ApplyMask(),
    ):
        h = layer(h)
    others = [layers.LeakyReLU()(h), layers.Activation("softmax")(h), layers.Softmax()(h), Dropout(0.5)(h)]
    sums = [cls()([h, *others]) for cls in (layers.Add, layers.Multiply, layers.Average, layers.Maximum)]
    sums += [layers.Add()([h, vector]), layers.Subtract()([h, layers.RepeatLike()([Dense(4)(vector), h])])]
    h = Masking(0.5)(layers.Concatenate()([*sums, layers.ApplyMask()([h, others[0]])]))
    model = Model([ids, vector], [h, Dense(3, activation="softmax")(h), LSTM(2)(h)])
    model.get_layer(index=2).moving_variance.assign([1, 2, 3, 4])
    x, v = np.random.default_rng(0).integers(0, 7, (B, T)), random(B, 4)
    for seed, mask in enumerate([None, *MASKS.values()]):
        stream, whole = model.stream(B), model([x, v], mask=[mask, None])
        pieces, start = [], 0
        for end in cuts(seed):
            pieces.append(stream([x[:, start:end], v], mask=[None if mask is None else mask[:, start:end], None]))
            start = end
        for i in range(2):
            np.testing.assert_array_equal(joined([p[i] for p in pieces]), whole[i])
            np.testing.assert_array_equal(joined([p[i].mask for p in pieces]), whole[i].mask)
        np.testing.assert_array_equal(pieces[-1][2], whole[2])


@pytest.mark.parametrize("kernel_size, dilation_rate", [(3, 1), (2, 4), (1, 1), (12, 1)])
def test_causal_convolutions_remember_the_steps_they_read(kernel_size, dilation_rate):
    x = Input((None, F))
    h = Conv1D(4, kernel_size, padding="causal", dilation_rate=dilation_rate, activation="tanh")(x)
    h = Conv1D(3, 2, padding="causal", bias_initializer="random_normal")(GRU(H, return_sequences=True)(h))
    model, x = Model(x, h), random(B, T, F, dtype=np.float32)
    for seed, mask in enumerate([None, *MASKS.values()]):
        values = x if mask is None else np.where(mask[..., None], x, np.nan)
        stream, whole = model.stream(B), model(values, mask=mask)
        for _ in range(2):
            pieces = fed(stream, values, mask, seed)
            np.testing.assert_array_equal(joined(pieces), whole)
            stream.reset()
        if mask is not None:
            np.testing.assert_array_equal(joined([y.mask for y in pieces]), mask)
        assert_ragged_pieces(model, x, mask)


# ---- graphs ---------------------------------------------------------------------------------------------------------
class Sum(Layer):
    """a + b."""

    streams = supports_masking = supports_ragged = True

    def call(self, inputs):
        return inputs[0] + inputs[1]

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[0]


def test_several_inputs_and_outputs_shared_layers_and_models_in_models():
    """Each call of a layer goes on by itself; inputs that are no sequences come whole."""
    shared = GRU(F, return_sequences=True)
    inner_input = Input((None, F))
    inner = Model(inner_input, [shared(Masking()(inner_input)), LSTM(2)(inner_input)], name="inner")
    a, b, row = Input((None, F), name="a"), Input((None, F), name="b"), Input((2,), name="row")
    ya, last = inner(a)
    yb, _ = inner(shared(b))
    both = Sum()([ya, yb])
    model = Model(
        {"a": a, "b": b, "row": row},
        {"both": both, "last": Sum()([last, Dense(2)(row)]), "mask": ya.mask, "twice": inner(both)[0]},
    )
    x = {"a": random(B, T, F, dtype=np.float32), "b": random(B, T, F, seed=1, dtype=np.float32), "row": random(B, 2)}
    x["a"][:, 3] = 0
    whole = model(x, mask={"a": MASKS["holes"]})
    stream, received, start = model.stream(B), [], 0
    for end in cuts(1):
        piece = {name: value if name == "row" else value[:, start:end] for name, value in x.items()}
        received.append(stream(piece, mask={"a": MASKS["holes"][:, start:end]}))
        start = end
    for name in ("both", "mask", "twice"):
        np.testing.assert_array_equal(joined([y[name] for y in received]), whole[name])
    np.testing.assert_array_equal(received[-1]["last"], whole["last"])
    assert whole["mask"].dtype == bool and not whole["mask"].all()


def test_masks_given_by_hand():
    x, m = Input((None, F)), Input((None,), dtype="bool")
    mask = Masking().compute_mask(x)
    model = Model([x, m], [GRU(H, return_sequences=True)(x, mask=m), LSTM(H, return_sequences=True)(x, mask=mask)])
    values = random(B, T, F, dtype=np.float32)
    values[:, 2:4] = 0
    whole = model([values, MASKS["holes"]])
    stream = model.stream(B)
    pieces = [stream([values[:, t : t + 1], MASKS["holes"][:, t : t + 1]]) for t in range(T)]
    for i in range(2):
        np.testing.assert_array_equal(joined([p[i] for p in pieces]), whole[i])


def test_a_piece_may_carry_its_mask():
    model, x = stack("gru"), random(B, T, F, dtype=np.float32)
    x[1, :4] = x[2, 3:6] = 0
    pieces = fed(model.stream(B), Masking()(x))  # NumPy drops the mask: x itself has it
    np.testing.assert_array_equal(joined(pieces), model(x))
    masked = Masking()(x)
    np.testing.assert_array_equal(model.stream(B)(masked), model(x))


class Differences(Layer):
    """x_t - x_(t-1), which remembers the last step; before the first one there is a 1."""

    def start_stream(self, batch_size, input_shape, arrival):
        return arrival, {"before": np.ones((batch_size, input_shape[-1]), self.dtype)}

    def stream_call(self, inputs, mask, state):
        steps = np.concatenate([state["before"][:, None], inputs], axis=1)
        return np.diff(steps, axis=1), mask, {"before": steps[:, -1]}

    def call(self, inputs):
        return np.diff(inputs, axis=1, prepend=np.ones_like(inputs[:, :1]))


def test_a_layer_of_ones_own_that_remembers():
    model = Sequential([Input((None, F)), Differences(), GRU(H, return_sequences=True)])
    x = random(B, T, F, dtype=np.float32)
    stream = model.stream(B)
    np.testing.assert_array_equal(joined(fed(stream, x)), model(x))
    stream.reset([0, 3])
    np.testing.assert_array_equal(stream(x)[[0, 3]], model(x)[[0, 3]])


# ---- what a stream is -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [[1, 3], [-2, 1], np.array([False, True, False, True, False]), 1, []])
def test_rows_start_anew(rows):
    model, x = stack("lstm"), random(B, T, F, dtype=np.float32)
    stream = model.stream(B)
    stream(x[:, :4])
    stream.reset(rows)
    received, gone_on, anew = stream(x[:, 4:]), model(x)[:, 4:], model(x[:, 4:])
    chosen = np.zeros(B, bool)
    chosen[rows] = True
    np.testing.assert_array_equal(received, np.where(chosen[:, None, None], anew, gone_on))
    stream.reset()
    np.testing.assert_array_equal(stream(x), model(x))


def test_wrong_rows():
    stream = stack("gru").stream(B)
    for rows, error, message in (
        ([B], ValueError, "rows: expected numbers of 5 rows, received"),
        ([-B - 1], ValueError, "rows: expected numbers of 5 rows"),
        ([True, False], ValueError, r"rows: expected a bool for each of 5 rows, received shape \(2,\)"),
        ([0.5], TypeError, "rows: expected numbers of rows or bools"),
    ):
        with pytest.raises(error, match=message):
            stream.reset(rows)


def test_streams_do_not_see_one_another_nor_the_calls_of_the_model():
    model, x = stack("gru"), random(B, T, F, dtype=np.float32)
    whole = model(x)
    one, other = model.stream(B), model.stream(2)
    for t in range(T):
        np.testing.assert_array_equal(one(x[:, t : t + 1]), whole[:, t : t + 1])
        np.testing.assert_array_equal(other(-x[:2, t : t + 1]), model(-x[:2])[:, t : t + 1])


@pytest.mark.parametrize("cell", CELLS)
def test_stateful_layers_keep_their_states_to_themselves(cell):
    model = Sequential([Input((None, F), batch_size=B), make(cell, return_sequences=True, stateful=True)])
    x = random(B, T, F, dtype=np.float32)
    stream = model.stream(B)
    received = [stream(x[:, :4])]
    whole, gone_on = model(x), model(x)  # the second call goes on from the first
    received.append(stream(x[:, 4:]))
    np.testing.assert_array_equal(joined(received), whole)
    assert not np.array_equal(whole, gone_on)
    model.reset_states()
    np.testing.assert_array_equal(model(x), whole)


def test_streams_in_several_threads():
    model = stack("lstm")
    inputs = [random(B, T, F, seed=i, dtype=np.float32) for i in range(6)]
    expected, received = [model(x) for x in inputs], [None] * len(inputs)
    barrier = threading.Barrier(len(inputs))

    def run(i):
        barrier.wait()
        for _ in range(10):
            received[i] = joined(fed(model.stream(B), inputs[i], seed=i))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    np.testing.assert_array_equal(received, expected)


def test_weights_that_change_take_effect_at_the_next_piece():
    gru, dense = GRU(H, return_sequences=True), Dense(4)
    model = Sequential([Input((None, F)), gru, dense])
    x = random(B, T, F, dtype=np.float32)
    stream, before = model.stream(B), model(x)
    np.testing.assert_array_equal(stream(x[:, :4]), before[:, :4])
    gru.kernel.assign(2 * gru.kernel.value)
    dense.bias += 1
    h = Sequential([Input((None, F)), GRU(H, return_sequences=True)])
    h.set_weights([gru.kernel / 2, gru.recurrent_kernel, gru.bias])
    h_before = h(x[:, :4])[:, -1]
    expected = dense(gru(x[:, 4:], initial_state=h_before))
    np.testing.assert_array_equal(stream(x[:, 4:]), expected)
    assert not np.array_equal(expected, before[:, 4:])


class Fails(Layer):
    streams = True

    def call(self, inputs):
        if np.isnan(inputs).any():
            raise ValueError("NaN")
        return inputs


def test_a_call_that_fails_leaves_the_stream_as_it_was():
    model = Sequential([Input((None, F)), GRU(H, return_sequences=True), Fails()])
    x = random(B, T, F, dtype=np.float32)
    stream = model.stream(B)
    stream(x[:, :4])
    for wrong in (x[:2], np.float32(1), x[..., :1], np.full_like(x, np.nan)):
        with pytest.raises(ValueError):
            stream(wrong)
    np.testing.assert_array_equal(stream(x[:, 4:]), model(x)[:, 4:])
    with pytest.raises(ValueError, match=r"stream: chunk: expected 5 rows, those of the stream, received shape \(2, "):
        stream(x[:2])


# ---- refusals -------------------------------------------------------------------------------------------------------
class Silent(Layer):
    """Does not say whether it streams."""

    def call(self, inputs):
        return inputs[:, ::-1]


class Backwards(GRU):
    """Inherits what GRU says of a call that is not its own."""

    def call(self, inputs, mask=None, training=False):
        return super().call(inputs[:, ::-1], mask, training)


@pytest.mark.parametrize(
    "layer, why",
    [
        (lambda: Bidirectional(GRU(2), name="bi"), "bi: Bidirectional .* backward direction starts at the last step"),
        (lambda: GRU(2, go_backwards=True, name="g"), "g: GRU .* go_backwards takes the last step first"),
        (lambda: layers.RNN(layers.GRUCell(2), go_backwards=True, name="g"), "g: RNN .* go_backwards takes the last"),
        (lambda: Conv1D(2, 2, name="c"), "c: Conv1D .* padding='causal' and strides=1, received 'valid' and 1"),
        (lambda: layers.GlobalMaxPooling1D(name="p"), "p: GlobalMaxPooling1D .* it takes all steps together"),
        (
            lambda: layers.Softmax(axis=1, name="s"),
            r"s: Softmax .* it works along time, axis 1 of shape \(None, None, 3",
        ),
        (lambda: layers.Permute((2, 1), name="p"), "p: Permute .* it moves the steps"),
        (
            lambda: layers.Reshape((2, -1), name="r"),
            r"r: Reshape .* any number of steps, \(-1, ...\), received \(2, -1",
        ),
        (lambda: layers.Cropping1D(1, name="c"), "c: Cropping1D .* it changes the number of steps"),
        (lambda: layers.Lambda(np.tanh, name="f"), "f: Lambda .* set streams = True on it if its function takes each"),
        (lambda: Silent(name="s"), "s: Silent .* expected Silent.streams = True"),
        (lambda: Backwards(2, name="b"), "b: Backwards .* expected Backwards.streams = True"),
        (lambda: Sequential([Silent(name="s")], name="q"), "q: Sequential .* s: Silent .* expected Silent.streams"),
    ],
)
def test_layers_that_cannot_stream(layer, why):
    model = Sequential([Input((None, F)), Dense(F), layer()], name="model")
    with pytest.raises(ValueError, match=f"model.stream: {why}"):
        model.stream(B)


def test_a_lambda_that_says_it_streams():
    layer = layers.Lambda(np.tanh)
    layer.streams = True
    model, x = Sequential([Input((None, F)), layer, GRU(2, return_sequences=True)]), random(B, T, F, dtype=np.float32)
    np.testing.assert_array_equal(joined(fed(model.stream(B), x)), model(x))


def test_models_that_cannot_stream():
    sequence, row, h = Input((None, F), name="sequence"), Input((F,), name="row"), Input((H,))
    last = GRU(F)(sequence)
    mask, steps = Input((2,), dtype="bool"), Input((None,))
    for model, why in (
        (Sequential([GRU(H)], name="m"), "m.stream: expected a built model"),
        (Sequential([Input((4,)), Dense(2)]), r"expected a sequence, \(B,T,...\), as input, its shape is \(None, 4\)"),
        (
            Model([sequence, row], Sum()([sequence, row])),
            "Sum .* all inputs to come in pieces, received in pieces, whole",
        ),
        (Model(sequence, layers.Add()([sequence, last])), "Add .* come in pieces, whole, received in pieces, so far"),
        (Model(sequence, layers.RepeatLike()([last, sequence])), "RepeatLike .* a vector that is the same .* so far"),
        (Model(sequence, layers.Concatenate(axis=1)([sequence, sequence])), "Concatenate .* works along time, axis 1"),
        (Model(sequence, layers.Dot(axes=2)([sequence, sequence])), "Dot .* all pairs of steps"),
        (Model(sequence, layers.Attention()([sequence, sequence])), "Attention .* looks at all steps of the value"),
        (Model(steps, layers.Activation("softmax")(steps)), "Activation .* it works along time, axis -1"),
        (Model([sequence, steps], layers.Add()([sequence, steps])), "Add .* received in pieces, in pieces"),
        (Model([sequence, h], GRU(H)(sequence, initial_state=h)), "GRU .* other arguments, received initial_state"),
        (Model(sequence, GRU(F)(sequence, initial_state=last)), "GRU .* other arguments, received initial_state"),
        (Model([sequence, mask], GRU(H)(sequence, mask=mask)), "GRU .* expected a mask that comes in pieces, too"),
        (Model(sequence, Dropout(0.5)(sequence, training=True)), "Dropout .* received training=True"),
    ):
        with pytest.raises(ValueError, match=why):
            model.stream(B)
    for batch_size in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="batch_size: expected a whole number of 0 or more"):
            stack("gru").stream(batch_size)


def test_what_follows_the_last_step_may_be_any_layer():
    """Behind an output that is no sequence nothing is cut in pieces."""
    model = Sequential([Input((None, F)), SimpleRNN(H), Silent(), Dense(2)])
    x = random(B, T, F, dtype=np.float32)
    np.testing.assert_array_equal(fed(model.stream(B), x)[-1], model(x))


def test_examples():
    assert_doctests(fastmask.models.streaming)
