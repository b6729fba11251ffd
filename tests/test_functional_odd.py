"""Odd graphs: layers and models called in ways that few people call them, each in every direction: forward and back,
copied, written down and read again."""

import copy
import json
import pickle

import numpy as np
import pytest

import fastmask as fm
from fastmask import losses
from fastmask.layers import (
    GRU,
    LSTM,
    RNN,
    Add,
    AdditiveAttention,
    ApplyMask,
    Attention,
    Bidirectional,
    Concatenate,
    Cropping1D,
    Dense,
    Dot,
    Dropout,
    Embedding,
    GaussianNoise,
    GlobalAveragePooling1D,
    GRUCell,
    Identity,
    Input,
    Layer,
    LSTMCell,
    Masking,
    Multiply,
    RepeatLike,
    Reshape,
    Subtract,
    TimeDistributed,
)
from fastmask.models import Model, Sequential
from fastmask.ragged import Ragged
from helpers import assert_gradient

B, T, F, V = 3, 4, 3, 6
MASK = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 1, 1]], bool)
IDS = np.array([[1, 5, 0, 2], [0, 3, 0, 0], [4, 0, 1, 1]])
D = {"dtype": "float64"}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


X, OTHER = random(B, T, F), random(B, T, F, seed=1)


def frames():
    return Input((None, F))


def ids():
    return Input((None,), dtype="int32")


def gru(units=F, **options):
    return GRU(units, return_sequences=True, **options, **D)


@fm.layers.register_serializable("odd")
class Weighed(Layer):
    """Times a mask, which comes as a keyword."""

    supports_masking = True

    def call(self, inputs, by=None):
        self.saved = by[..., None]
        return inputs * by[..., None]

    def backward(self, grad):
        return grad * self.saved


# ---- the graphs: each gives (model, its inputs, their masks) --------------------------------------------------------
def a_list_of_one_for_a_layer():
    x = frames()
    return Model(x, Concatenate(**D)([Add(**D)([Masking(**D)(x)])])), X, MASK


def a_list_of_one_for_a_model():
    x, z = frames(), frames()
    inner = Model([x], [Dense(2, **D)(x)])
    return Model([z], inner([Masking(**D)(z)])), [X], [MASK]


def a_tensor_several_times():
    x = frames()
    y = Dense(F, **D)(x)
    return Model(x, Concatenate(axis=1, **D)([Multiply(**D)([y, y, x]), Add(**D)([y, y])])), X, MASK


def an_output_that_is_an_input():
    x = frames()
    return Model(x, [x, Dense(2, **D)(x)]), X, MASK


def nothing_but_an_input():
    x = frames()
    return Model(x, x), X, MASK


def an_output_twice():
    x = frames()
    y = Dense(2, activation="softmax", **D)(x)
    return Model(x, [y, y]), X, MASK


def an_input_that_is_not_used():
    a, b = frames(), Input((2,))
    return Model([a, b], gru(2)(a)), [X, random(B, 2)], [MASK, None]


def an_output_of_a_model_that_is_not_used():
    x, z = frames(), frames()
    inner = Model(x, [*gru(2, return_state=True)(x), Dense(3, **D)(x)])
    return Model(z, inner(z)[1]), X, MASK


def masks_as_outputs():
    x = frames()
    y = Masking(**D)(x)
    return Model(x, [y.mask, gru(2)(y), Cropping1D(1, **D).compute_mask(y)]), X, MASK


def a_mask_as_input_of_a_layer():
    x = frames()
    y = Masking(**D)(x)
    weights = Reshape((-1, 1), **D)(y.mask)
    return Model(x, Multiply(**D)([y, weights], mask=[y.mask, y.mask])), X, MASK


def a_mask_as_a_keyword():
    x = frames()
    y = Masking(**D)(x)
    return Model(x, Weighed(**D)(Dense(F, **D)(y), by=y.mask)), X, MASK


def a_mask_that_is_an_input():
    x, mask = frames(), Input((None,), dtype="bool")
    y = gru(2)(x, mask=mask)
    return Model([x, mask], Concatenate(**D)([y, Reshape((-1, 1), **D)(mask)], mask=[y.mask, mask])), [X, MASK], None


def a_layer_under_different_masks():
    x, mask = frames(), Input((None,), dtype="bool")
    layer = gru(2)
    return Model([x, mask], [layer(x), layer(x, mask=mask), layer(Masking(**D)(x))]), [X, ~MASK], [MASK, None]


def no_mask_by_hand():
    x = frames()
    y = Masking(**D)(x)
    return Model(x, Add(**D)([y, Dense(F, **D)(y)], mask=[None, None])), X, MASK


def tensors_in_the_middle():
    """A model of tensors that other layers made; one of them is masked by hand with the mask of the other."""
    x = frames()
    masked, made = Masking(**D)(x), Dense(F, **D)(x)
    return Model([made, masked], [gru(2)(made, mask=masked.mask), masked.mask]), [X, OTHER], [None, MASK]


def two_tensors_of_one_chain():
    x = frames()
    a = Dense(F, **D)(x)
    b = gru()(a)
    return Model([a, b], Dense(2, **D)(Subtract(**D)([a, b]))), [X, OTHER], [MASK, MASK]


def a_model_of_several_outputs_inside():
    a, b, x = frames(), frames(), frames()
    inner = Model([a, b], [Dense(2, **D)(a), gru(2)(b)])
    y = Masking(**D)(x)
    return Model(x, [*inner([x, y]), *inner([y, Dense(F, **D)(x)], mask=[None, y.mask])]), X, MASK


def dicts():
    a, b, x = Input((None, F), name="a"), Input((None, F), name="b"), frames()
    inner = Model({"a": a, "b": b}, {"u": Dense(2, **D)(a), "v": gru(2)(b)})
    y = Masking(**D)(x)
    outputs = inner({"b": x, "a": y}, mask={"b": y.mask})
    return Model(x, [outputs["v"], outputs["u"]]), X, MASK


def a_model_called_on_its_outputs():
    x, y, z = frames(), frames(), frames()
    first = Model(x, gru()(x))
    second = Model(y, [first(first(y)), y])
    a, b = second(Masking(**D)(z))
    return Model(z, [Add(**D)([a, b]), first(z)]), X, MASK


def a_model_inside_two_others():
    """Shared at different depths."""
    x, z = frames(), frames()
    inner = Model(x, Dense(F, **D)(Masking(**D)(x)))
    outer = Sequential([frames(), inner, Sequential([gru(), inner])])
    return Model(z, [outer(z), inner(z)]), X, MASK


def frozen_and_shared():
    x = frames()
    dense, layer = Dense(F, trainable=False, **D), gru()
    return Model(x, dense(layer(dense(layer(Masking(**D)(x)))))), X, MASK


def states_from_here_and_there():
    """A decoder called twice, the second time with the states of the first in the other order."""
    a, b = frames(), frames()
    encoder = LSTM(2, return_state=True, **D)
    decoder = LSTM(2, return_sequences=True, return_state=True, **D)
    _, h, c = encoder(a)
    first, h, c = decoder(b, initial_state=[h, c])
    return Model([a, b], [first, decoder(a, initial_state=[c, h])[0]]), [X, OTHER], [MASK, MASK[::-1]]


def states_through_a_model():
    x, s, z = frames(), Input((2,)), frames()
    layer = gru(2, return_state=True)
    inner = Model([x, s], list(layer(x, initial_state=s)))
    y = Masking(**D)(z)
    first, h = inner([y, Dense(2, **D)(GRU(3, **D)(y))])
    return Model(z, [first, *inner([z, h])]), X, MASK


def states_in_both_directions():
    x = frames()
    y, *states = Bidirectional(LSTM(2, return_state=True, return_sequences=True, **D))(Masking(**D)(x))
    return Model(x, [y, Bidirectional(LSTM(2, **D))(x, initial_state=states)]), X, MASK


def states_of_stacked_cells():
    x = frames()

    def stack(**options):
        return RNN([LSTMCell(2, **D), GRUCell(3, **D)], **options)

    y, *states = stack(return_sequences=True, return_state=True)(Masking(**D)(x))
    return Model(x, [y, states[0][1], stack()(y, initial_state=states)]), X, MASK


def a_state_for_two():
    x = frames()
    state = Dense(2, **D)(GlobalAveragePooling1D(**D)(x))
    return Model(x, LSTM(2, **D)(x, initial_state=[state, state])), X, MASK


def both_directions_apart():
    x = frames()
    a, b = Bidirectional(gru(2), merge_mode=None)(Masking(**D)(x))
    return Model(x, [Subtract(**D)([a, b]), b, a]), X, MASK


def a_shared_embedding():
    a, b = ids(), ids()
    embedding = Embedding(V, F, mask_zero=True, **D)
    return Model([a, b], [gru(2)(embedding(a)), Add(**D)([embedding(a), embedding(b)])]), [IDS, IDS[::-1]], None


def the_mask_of_an_embedding_by_hand():
    a = ids()
    embedding = Embedding(V, F, mask_zero=True, **D)
    y, mask = embedding(a), embedding.compute_mask(a)
    return Model(a, [LSTM(2, **D)(Dense(2, **D)(y), mask=mask), mask]), IDS, None


def attention_to_oneself():
    x = frames()
    y = Masking(**D)(x)
    z = Attention(**D)([y, y], use_causal_mask=True)
    return Model(x, [z, AdditiveAttention(**D)([z, y, y])]), X, MASK


def attention_with_scores():
    x = frames()
    y = Masking(**D)(x)
    return Model(x, Attention(use_scale=True, **D)([y, y], return_attention_scores=True)), X, MASK


def a_tensor_times_itself():
    x = frames()
    return Model(x, Dot(1, **D)([x, x])), X, MASK


def a_model_at_each_step():
    x, z = frames(), Input((F,))
    inner = Model(z, Dense(2, activation="tanh", **D)(Dense(4, **D)(z)))
    return Model(x, TimeDistributed(inner)(Masking(**D)(x))), X, MASK


def as_long_as_another():
    x = frames()
    y = Masking(**D)(x)
    steps = RepeatLike(**D)([LSTM(2, **D)(y), x])
    return Model(x, ApplyMask(**D)([Dense(F, **D)(gru(2)(steps)), y])), X, MASK


def noise_at_all_times():
    x = frames()
    return Model(x, GaussianNoise(0.0, **D)(Dense(2, **D)(x), training=True)), X, MASK


GRAPHS = [
    a_list_of_one_for_a_layer,
    a_list_of_one_for_a_model,
    a_tensor_several_times,
    an_output_that_is_an_input,
    nothing_but_an_input,
    an_output_twice,
    an_input_that_is_not_used,
    an_output_of_a_model_that_is_not_used,
    masks_as_outputs,
    a_mask_as_input_of_a_layer,
    a_mask_as_a_keyword,
    a_mask_that_is_an_input,
    a_layer_under_different_masks,
    no_mask_by_hand,
    tensors_in_the_middle,
    two_tensors_of_one_chain,
    a_model_of_several_outputs_inside,
    dicts,
    a_model_called_on_its_outputs,
    a_model_inside_two_others,
    frozen_and_shared,
    states_from_here_and_there,
    states_through_a_model,
    states_in_both_directions,
    states_of_stacked_cells,
    a_state_for_two,
    both_directions_apart,
    a_shared_embedding,
    the_mask_of_an_embedding_by_hand,
    attention_to_oneself,
    attention_with_scores,
    a_tensor_times_itself,
    a_model_at_each_step,
    as_long_as_another,
    noise_at_all_times,
]
NOT_RAGGED = (  # layers that refuse it, and a mask that is padded itself
    a_tensor_times_itself,
    attention_with_scores,
    masks_as_outputs,
    a_mask_that_is_an_input,
    a_layer_under_different_masks,
    a_mask_as_a_keyword,
)


@pytest.fixture(params=GRAPHS, ids=lambda graph: graph.__name__)
def graph(request):
    fm.set_random_seed(0)
    return request.param


def listed(values):
    return list(values) if isinstance(values, (list, tuple)) else [values]


def assert_same(outputs, expected):
    """The same values and the same masks."""
    assert type(outputs) is type(expected)
    for y, e in zip(listed(outputs), listed(expected), strict=True):
        np.testing.assert_array_equal(y, e)
        mask, e_mask = getattr(y, "mask", None), getattr(e, "mask", None)
        assert (mask is None) == (e_mask is None)
        np.testing.assert_array_equal(mask, e_mask)


# ---- in every direction ---------------------------------------------------------------------------------------------
def test_forward(graph):
    model, x, masks = graph()
    outputs = model(x, mask=masks)
    assert_same(model(x, mask=masks, training=True), outputs)
    predicted = listed(model.predict(x, mask=masks, batch_size=2))
    for y, e, tensor in zip(predicted, listed(outputs), model.outputs, strict=True):
        np.testing.assert_array_equal(y, e)
        assert all(n in (None, m) for n, m in zip(tensor.shape, y.shape, strict=True))
    for rows, steps in ((slice(0, 0), slice(None)), (slice(None), slice(0, 0))):  # none at all

        def part(value, rows=rows, steps=steps):
            if isinstance(value, list):
                return [part(v) for v in value]
            return value if value is None else value[rows] if value.shape[1] != T else value[rows, steps]

        for y in listed(model(part(x), mask=part(masks))):
            assert np.isfinite(y).all()


def test_backward(graph):
    model, x, masks = graph()
    outputs = model(x, mask=masks, training=True)
    d = [random(*y.shape, seed=9 + i) if y.dtype.kind == "f" else None for i, y in enumerate(listed(outputs))]
    d_inputs = model.backward(d if isinstance(outputs, list) else d[0])

    def total():
        again = listed(model(x, mask=masks))
        return sum(np.sum(a * b) for a, b in zip(d, again, strict=True) if a is not None)

    for values, dx in zip(listed(x), listed(d_inputs), strict=True):
        if values.dtype.kind == "f":
            assert_gradient(total, values, np.zeros_like(values) if dx is None else dx)
    for weight in model.trainable_weights:
        value = weight.numpy()
        gradient = np.zeros_like(value) if weight.gradient is None else np.asarray(weight.gradient)
        assert_gradient(lambda w=weight, v=value: (w.assign(v), total())[1], value, gradient)
        weight.assign(value)


def test_copies(graph, tmp_path):
    model, x, masks = graph()
    outputs = model(x, mask=masks)
    config = json.loads(json.dumps(model.get_config()))
    from_config = type(model).from_config(config)
    from_config.set_weights(model.get_weights())
    assert json.loads(json.dumps(from_config.get_config())) == config
    model.save(tmp_path / "model.npz")
    for twin in (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        from_config,
        fm.load_model(tmp_path / "model.npz"),
    ):
        assert_same(twin(x, mask=masks), outputs)
        assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
        assert [w.shape for w in twin.trainable_weights] == [w.shape for w in model.trainable_weights]
        for weight in twin.weights:
            weight.assign(0 * weight)
    assert_same(model(x, mask=masks), outputs)


@pytest.mark.filterwarnings("ignore:no gradient")
def test_training(graph):
    """The loss is the mean over the valid steps of each output."""
    model, x, masks = graph()
    outputs = model(x, mask=masks)
    targets = [random(*y.shape, seed=20) if y.dtype.kind == "f" else None for y in listed(outputs)]
    loss = [None if target is None else "mse" for target in targets]
    model.compile("sgd", loss if isinstance(outputs, list) else loss[0])
    y = targets if isinstance(outputs, list) else targets[0]
    expected = 0
    for one, target in zip(listed(outputs), targets, strict=True):
        if target is not None:
            errors, mask = (np.asarray(one) - target) ** 2, getattr(one, "mask", None)
            expected += np.mean(errors if mask is None else errors[mask])
    assert model.evaluate(x, y, mask=masks, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-12)
    if model.trainable_weights:
        before = model.get_weights()
        model.fit(x, y, mask=masks, batch_size=2, verbose=0)
        assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_ragged(graph):
    """Rows without padding: the same numbers at their steps, and masks that are outputs have rows, too."""
    model, x, masks = graph()
    if graph in NOT_RAGGED:
        return
    rows = np.arange(T) < [[4], [0], [3]]
    values, masks = listed(x), listed(masks) if isinstance(masks, list) else [masks] * len(listed(x))
    is_sequence = [v.shape[1] == T for v in values]
    valid = [(rows if m is None else m & rows) if s else m for s, m in zip(is_sequence, masks, strict=True)]
    ragged = [Ragged.from_padded(v, rows) if s else v for v, s in zip(values, is_sequence, strict=True)]
    holes = [m[rows] if s and m is not None else m for s, m in zip(is_sequence, masks, strict=True)]
    several = isinstance(x, list)
    expected = model(x, mask=valid if several else valid[0])
    outputs = model(ragged if several else ragged[0], mask=holes if several else holes[0])
    predicted = model.predict(ragged if several else ragged[0], mask=holes if several else holes[0], batch_size=2)
    for y, p, e in zip(listed(outputs), listed(predicted), listed(expected), strict=True):
        if isinstance(y, Ragged):
            kept = np.concatenate([rows] * (e.shape[1] // T), axis=1)
            mask, e_mask = getattr(y, "mask", None), getattr(e, "mask", None)
            assert (mask is None) <= (e_mask is None or e_mask[kept].all())
            shown = np.ones(len(y.values), bool) if mask is None else mask
            np.testing.assert_array_equal(y.values[shown], np.asarray(e)[kept][shown])
            np.testing.assert_array_equal(p.values, y.values)
            assert np.array_equal(p.offsets, y.offsets)
        else:
            np.testing.assert_array_equal(y, e)
            np.testing.assert_array_equal(p, y)


# ---- what was once wrong --------------------------------------------------------------------------------------------
def test_a_mask_of_rows_is_an_output_of_rows():
    x = frames()
    y = Masking(**D)(x)
    model = Model(x, [y.mask, Masking(**D).compute_mask(y), y])
    ragged = Ragged.from_padded(X, np.arange(T) < [[4], [0], [3]])
    holes = np.array([1, 0, 1, 1, 0, 1, 1], bool)
    for outputs in (model(ragged, mask=holes), model.predict(ragged, mask=holes, batch_size=1)):
        for mask in outputs[:2]:
            np.testing.assert_array_equal(mask.values, holes)
            np.testing.assert_array_equal(mask.offsets, ragged.offsets)


def test_a_mask_of_steps_inside_steps_by_hand():
    """Of a Ragged of words of characters (N,T2), as of an array (B,T,T2)."""
    words, rows = random(B, T, 2, F), np.arange(T) < [[4], [0], [3]]
    mask = rows[..., None] & (random(B, T, 2) > 0)
    layer = TimeDistributed(GRU(2, **D))
    ragged = layer(Ragged.from_padded(words, rows), mask=mask[rows])
    np.testing.assert_array_equal(ragged.values, np.asarray(layer(words, mask=mask))[rows])
    np.testing.assert_array_equal(ragged.mask, mask[rows].any(axis=1))
    with pytest.raises(ValueError, match="mask: expected shape"):
        layer(Ragged.from_padded(words, rows), mask=mask[rows][:, :, None][:, [0, 0, 0]])


def test_a_mask_by_hand_that_is_not_there_is_no_mask():
    """A model of tensors in the middle, run without the mask that they had: not with another that travels."""
    x = frames()
    masked, made = Masking(**D)(x), gru(return_state=True)
    states = made.compute_mask(masked)
    steps = gru(2)
    model = Model([masked, x], [steps(x, mask=masked.mask), GRU(2, **D)(masked, mask=states[0]), masked.mask])
    for twin in (model, pickle.loads(pickle.dumps(model))):
        y, _, mask = twin([X, OTHER], mask=[None, MASK])
        assert mask is None and type(y) is np.ndarray
        np.testing.assert_array_equal(y, twin.get_layer(steps.name)(OTHER))
        assert twin.predict([X, OTHER], mask=[None, MASK])[2] is None
        assert twin([X, OTHER], mask=[MASK, None])[0].mask is not None
    inside = model([frames(), Masking(**D)(frames())])
    assert inside[0].mask is None and inside[2] is None


def test_training_by_hand_counts_in_evaluate():
    """layer(x, training=True) drops in every run, and the loss still works on logits."""
    z = Input((F,))
    inner = Sequential([Dense(8), Dropout(0.5), Dense(3, activation="softmax")])
    model = Model(z, inner(z, training=True))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = random(16, F), np.arange(16) % 3
    assert len({model.evaluate(x, y) for _ in range(4)}) == 4
    inner.layers[1].rate = 0.0
    inner.layers[2].bias.assign([0, 0, 200.0])
    logits = inner.layers[0](x) @ inner.layers[2].kernel.numpy() + inner.layers[2].bias.numpy()
    expected = losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    assert expected > 50  # that of clipped probabilities is at most 16.2
    assert model.evaluate(x, y) == pytest.approx(expected, rel=1e-5)


def test_training_by_hand_leaves_a_call_by_hand_alone():
    dropout = Dropout(0.5)
    z = Input((F,))
    model = Model(z, dropout(z, training=True))
    y = dropout(np.ones((2, F)), training=True)
    model(np.ones((9, F)))
    np.testing.assert_array_equal(dropout.backward(np.ones((2, F))), y)


def test_one_input_and_one_output_with_or_without_a_list():
    """Model([x], [y]) takes x, [x], y and [y], and gives lists."""
    x = frames()
    model = Model([x], [Dense(2, **D)(x)])
    model.compile("sgd", ["mse"], metrics=[["mae"]])
    targets, weight = random(B, T, 2), np.arange(1.0, B + 1)
    results = {
        tuple(model.evaluate(inputs, y, mask=mask, sample_weight=w))
        for inputs in (X, [X])
        for y in (targets, [targets])
        for mask in (MASK, [MASK])
        for w in (weight, [weight])
    }
    assert len(results) == 1
    for inputs in (X, [X], Ragged.from_padded(X, MASK)):
        assert type(model(inputs)) is type(model(inputs, training=True)) is type(model.predict(inputs)) is list
    assert model(X, mask=MASK)[0].mask is not None
    model.fit(X, [targets], mask=MASK, validation_data=([X], targets), verbose=0)


def test_predictions_are_arrays_of_their_own():
    x = Input((T, F))
    dense = Dense(2)(x)
    data = X.astype(np.float32)
    for outputs in (x, [x, dense, dense], Masking()(x), Dropout(0.5)(x), Reshape((-1, 1, F))(x), [Identity()(x)]):
        model = Model(x, outputs)
        for size in (None, 2):
            predicted = listed(model.predict(data, batch_size=size))
            for i, y in enumerate(predicted):
                assert not any(np.shares_memory(y, other) for other in [data, *predicted[:i]])


def test_a_list_of_layers_with_a_table_is_for_configurations_alone():
    """In a file there is one table already; another one would get round what loading refuses."""
    from fastmask.layers.registry import LayerTable, deserialize_layers

    config = a_model_inside_two_others()[0].get_config()["layers"]
    assert len(deserialize_layers(config)) == 2
    with LayerTable(), pytest.raises(ValueError, match="layer: expected a layer or its configuration"):
        deserialize_layers(config)
