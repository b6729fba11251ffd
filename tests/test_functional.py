"""Model(inputs, outputs): symbolic tensors and masks, several inputs and outputs, sharing, training."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import fastmask.layers.symbolic
import fastmask.models.model
from fastmask import initializers, losses
from fastmask.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    GRUCell,
    Input,
    Layer,
    LSTMCell,
    MaskDroppedWarning,
    Masking,
)
from fastmask.models import Model, Sequential
from fastmask.optimizers import SGD, Adam
from fastmask.ragged import Ragged
from helpers import assert_close, assert_doctests, assert_gradient, mask_cases

B, T, F = 5, 6, 3
MASK = mask_cases(B, T)["holes"]


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


X = random(B, T, F)


class Sum(Layer):
    """a + b, for graphs that are no chains; the mask is that of the first."""

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[0]

    def call(self, inputs):
        return inputs[0] + inputs[1]

    def backward(self, grad):
        return [grad, grad]


def assert_model_gradients(model, inputs, masks=None, k=2**16):
    """Gradients of all weights and float inputs of a float64 model against differences."""
    several = isinstance(inputs, list)
    outputs = model(inputs, mask=masks, training=True)
    listed = outputs if isinstance(outputs, list) else [outputs]
    d = [random(*np.shape(y), seed=9 + i, dtype=np.float64) for i, y in enumerate(listed)]

    def total():
        again = model(inputs, mask=masks)
        return sum(np.sum(a * b) for a, b in zip(d, again if isinstance(again, list) else [again], strict=True))

    d_inputs = model.backward(d if isinstance(outputs, list) else d[0])
    gradients = model.gradients
    for x, dx in zip(inputs if several else [inputs], d_inputs if several else [d_inputs], strict=True):
        assert_gradient(total, x, dx, k=k)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        value = weight.numpy()
        assert_gradient(lambda w=weight, v=value: (w.assign(v), total())[1], value, gradient, k=k)
        weight.assign(value)


# ---- symbolic tensors -----------------------------------------------------------------------------------------------
def test_shapes_and_masks_are_known_before_there_is_data():
    x = Input((None, F), name="frames")
    assert x.shape == (None, None, F) and x.mask is None and x.node is None
    masked = Masking()(x)
    assert masked.mask.shape == (None, None) and masked.mask.dtype == "bool" and masked.node.layer.name in repr(masked)
    outputs, h = GRU(4, return_sequences=True, return_state=True)(masked)
    assert outputs.shape == (None, None, 4) and h.shape == (None, 4)
    assert outputs.mask is not None and h.mask is None
    assert GRU(4)(masked).mask is None and Dense(2)(outputs).mask.shape == (None, None)
    assert Masking().compute_mask(x).shape == (None, None) and Dense(2).compute_mask(x) is None
    assert Input((5, 2), batch_size=3).shape == Input(batch_shape=(3, 5, 2)).shape == (3, 5, 2)


def test_symbolic_tensors_have_no_values():
    x = Input((None, F))
    for act in (
        lambda: x + 1,
        lambda: np.ones(3) * x,
        lambda: x[:, 1:],
        lambda: np.asarray(x),
        lambda: bool(x),
        lambda: len(x),
        lambda: np.sum(x),
        lambda: [*x],
    ):
        with pytest.raises(TypeError, match=r"a symbolic tensor has no values.*use a layer|no values|ufunc"):
            act()


def test_a_custom_layer_is_tried_out_for_shape_and_masks():
    class Halves(Layer):
        def call(self, inputs):
            return np.split(inputs, 2, axis=1)

        def compute_mask(self, inputs, mask=None):
            return None if mask is None else np.split(mask, 2, axis=1)

    class Inside(Layer):
        def __init__(self):
            super().__init__()
            self.masking = Masking()

        def call(self, inputs):
            return self.masking(inputs)

    x = Input((None, F))
    first, second = Halves()(Masking()(x))
    assert first.shape == (None, None, F) and first.mask is not None and second.mask is not None
    assert Halves()(x)[1].mask is None
    assert Inside()(x).mask.shape == (None, None)


# ---- running --------------------------------------------------------------------------------------------------------
def two_headed(dtype="float64"):
    """(model, its layers): a shared encoder, its state handed to a decoder, two outputs, the second under no mask."""
    initializers.set_random_seed(0)
    x = Input((None, F), name="frames")
    encoder = GRU(4, return_sequences=True, return_state=True, dtype=dtype, name="encoder")
    decoder = LSTM(4, return_sequences=True, dtype=dtype, name="decoder")
    tag, value = Dense(2, dtype=dtype, name="tag"), Dense(1, dtype=dtype, name="value")
    h, state = encoder(Masking(dtype=dtype)(x))
    d = decoder(h, initial_state=[state, state])
    return Model(x, [tag(d), value(state)]), (encoder, decoder, tag, value)


def test_a_model_is_its_layers():
    model, (encoder, decoder, tag, value) = two_headed()
    x = X.astype(np.float64)
    h, state = encoder(x, mask=MASK)
    d = decoder(h, initial_state=[state, state])
    outputs = model(x, mask=MASK)
    np.testing.assert_array_equal(outputs[0], tag(d))
    np.testing.assert_array_equal(outputs[0].mask, MASK)
    np.testing.assert_array_equal(outputs[1], value(state))
    assert type(outputs[1]) is np.ndarray
    predicted = model.predict(x, mask=MASK, batch_size=2)
    for a, b in zip(predicted, outputs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.output_names == ["tag", "value"] and model.input_names == ["frames"]
    assert model.input_shape == (None, None, F) and model.output_shape == [(None, None, 2), (None, 1)]


def test_gradients_through_states_and_branches():
    assert_model_gradients(two_headed()[0], X.astype(np.float64), MASK)


def test_a_shared_layer_has_the_sum_of_its_gradients():
    a, b = Input((None, F)), Input((None, F))
    gru, dense = GRU(2, return_sequences=True, dtype="float64"), Dense(F, dtype="float64")
    y = dense(Sum(dtype="float64")([gru(a), gru(b)]))
    model = Model([a, b], gru(y))
    assert [len(layer._nodes) for layer in (gru, dense)] == [3, 1] and len(model.layers) == 3
    x = [X.astype(np.float64)[:3, :4], random(3, 4, F, seed=4, dtype=np.float64)]
    assert_model_gradients(model, x, [MASK[:3, :4], MASK[:3, :4]])


def test_shared_models():
    """An autoencoder and its encoder share weights; a model may be called twice in another one."""
    x = Input((None, F))
    encoded = GRU(3, return_sequences=True, dtype="float64")(Masking(dtype="float64")(x))
    decoded = Dense(F, dtype="float64")(encoded)
    autoencoder, encoder = Model(x, decoded, name="auto"), Model(x, encoded, name="encoder")
    data = X.astype(np.float64)[:3, :4]
    before = encoder.predict(data)
    autoencoder.compile(SGD(0.5), "mse")
    autoencoder.fit(data, data, epochs=2, verbose=0)
    assert not np.array_equal(encoder.predict(data), before)
    assert [id(w) for w in encoder.weights] == [id(w) for w in autoencoder.weights[:3]]
    a, b = Input((None, F)), Input((None, F))
    twice = Model([a, b], Sum(dtype="float64")([autoencoder(a), encoder_and_back(encoder, F)(autoencoder(b))]))
    assert_model_gradients(twice, [data, random(*data.shape, seed=5, dtype=np.float64)])
    inner = Model(encoded, decoded)  # from the middle
    np.testing.assert_array_equal(inner(encoder(data)), autoencoder(data))


def encoder_and_back(encoder, width):
    return Sequential([encoder, Dense(width, dtype="float64")])


def test_masks_by_hand():
    x, m = Input((None, F)), Input((None,), dtype="bool", name="mask")
    gru = GRU(3, return_sequences=True)
    model = Model([x, m], gru(x, mask=m))
    expected = gru(X, mask=MASK)
    got = model([X, MASK])
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got.mask, MASK)
    # the mask of one tensor for another, and that of compute_mask, which overrides
    zeroed = np.where(MASK[..., None], X, 0)
    masked = Masking()(x)
    other = Dense(F, kernel_initializer="identity")(x)
    for mask in (masked.mask, Masking().compute_mask(x)):
        model = Model(x, GRU.__call__(gru, other, mask=mask))
        np.testing.assert_array_equal(model(zeroed), gru(zeroed, mask=MASK))
    model = Model(x, [masked, masked.mask])
    np.testing.assert_array_equal(model.predict(zeroed)[1], MASK)
    assert model.predict(zeroed, batch_size=2)[1].dtype == bool
    with pytest.raises(TypeError, match=r"mask: expected a symbolic mask.*received ndarray"):
        gru(x, mask=MASK)


def test_names_and_dicts():
    a, b = Input((None, F), name="a"), Input((F,), name="b")
    model = Model({"a": a, "b": b}, {"left": GRU(2)(a), "right": Dense(2)(b)})
    outputs = model({"b": X[:, 0], "a": X})
    assert list(outputs) == ["left", "right"] and outputs["left"].shape == (B, 2)
    predicted = model.predict({"a": X, "b": X[:, 0]}, batch_size=2)
    np.testing.assert_array_equal(predicted["right"], outputs["right"])
    model.compile("sgd", {"right": "mse"})
    assert model.fit({"a": X, "b": X[:, 0]}, {"right": X[:, 0, :2]}, verbose=0).history["loss"][0] > 0
    with pytest.raises(ValueError, match=r"inputs: expected the names \['a', 'b'\], received \['a'\]"):
        model({"a": X})
    with pytest.raises(ValueError, match="x: expected the names a, b, received 'c'"):
        model.predict({"a": X, "c": X})
    listed = Model([a, b], [model({"a": a, "b": b})["right"], GRU(2, name="g")(a)])
    assert listed.predict([X, X[:, 0]])[0].shape == (B, 2) and listed.output_names[1] == "g"


def test_ragged_goes_through():
    model, _ = two_headed("float32")
    r = Ragged.from_padded(X, MASK)
    tags, values = model.predict(r, batch_size=2)
    padded, values_padded = model.predict(X, mask=MASK)
    np.testing.assert_array_equal(tags.values, padded[MASK])
    np.testing.assert_array_equal(values, values_padded)


def test_monte_carlo_dropout():
    from fastmask.layers import Dropout

    x = Input((None, F))
    model = Model(x, Dropout(0.5)(x, training=True))
    assert not np.array_equal(model.predict(X), model.predict(X))
    with pytest.raises(ValueError, match="training: expected None or True on a symbolic tensor, received False"):
        Dropout(0.5)(x, training=False)


def test_states_of_stacked_cells_go_from_an_encoder_to_a_decoder():
    def cells():
        return [LSTMCell(3, dtype="float64"), GRUCell(2, dtype="float64")]

    x, y = Input((None, F)), Input((None, 2))
    _, lstm_states, gru_states = RNN(cells(), return_state=True, dtype="float64")(x)
    assert [s.shape for s in lstm_states] == [(None, 3)] * 2 and [s.shape for s in gru_states] == [(None, 2)]
    decoder = RNN(cells(), return_sequences=True, dtype="float64")
    model = Model([x, y], [decoder(y, initial_state=[lstm_states, gru_states]), gru_states[0]])
    data = [X.astype(np.float64)[:3, :4], random(3, 5, 2, dtype=np.float64)]
    assert_model_gradients(model, data, [MASK[:3, :4], MASK[:3, :5]])
    for a, b in zip(copy.deepcopy(model).predict(data), model.predict(data), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- training -------------------------------------------------------------------------------------------------------
def test_losses_of_several_outputs_are_weighted_and_added():
    model, _ = two_headed()
    x, y = X.astype(np.float64), [np.eye(2)[np.arange(B * T).reshape(B, T) % 2], random(B, 1, seed=3, dtype=np.float64)]
    weights = [random(B, T, seed=6) ** 2, random(B, seed=7) ** 2]
    model.compile(
        SGD(1.0),
        [losses.CategoricalCrossentropy(from_logits=True), "mse"],
        loss_weights=[2.0, 0.5],
        metrics={"value": ["mae"]},
        weighted_metrics=[["accuracy"], None],
    )
    model(x)
    logs = model.evaluate(x, y, mask=MASK, sample_weight=weights, return_dict=True, batch_size=2)
    tags, values = model(x, mask=MASK)
    first = losses.CategoricalCrossentropy(from_logits=True)(y[0], tags, sample_weight=weights[0])
    second = losses.MeanSquaredError()(y[1], values, sample_weight=weights[1])
    assert list(logs) == ["loss", "tag_loss", "value_loss", "tag_accuracy", "value_mae"]
    assert_close([logs["tag_loss"], logs["value_loss"]], [first, second], k=2**8)
    assert logs["loss"] == pytest.approx(2 * first + 0.5 * second)
    assert logs["value_mae"] == pytest.approx(np.mean(np.abs(values - y[1])))

    before = model.get_weights()
    model.train_on_batch(x, y, sample_weight=weights, mask=MASK)
    gradients = [b - a for b, a in zip(before, model.get_weights(), strict=True)]
    model.set_weights(before)
    for v, g in zip(model.weights, gradients, strict=True):
        value = v.numpy()

        def loss(v=v, value=value):
            v.assign(value)
            return model.evaluate(x, y, mask=MASK, sample_weight=weights, return_dict=True)["loss"]

        assert_gradient(loss, value, g)
        v.assign(value)


def test_targets_may_be_left_out_where_there_is_no_loss():
    model, _ = two_headed()
    for loss in (["mse", None], {"tag": "mse"}):
        model.compile("sgd", loss)
        y = random(B, T, 2)
        model.fit(X, {"tag": y}, mask=MASK, verbose=0)
        assert list(model.fit(X, [y, None], mask=MASK, verbose=0).history) == ["loss", "tag_loss"]
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="y: expected targets for value, which has a loss, received None"):
        model.fit(X, [y, None], mask=MASK, verbose=0)


def test_each_output_works_on_its_own_logits():
    """A probability of e^-50 costs 50, not the 16.1 of the clipped form."""
    x = Input((1,))
    sure = {"kernel_initializer": "zeros", "bias_initializer": initializers.Constant(0.0)}
    heads = [Dense(2, activation="softmax", **sure), Dense(1, activation="sigmoid", **sure)]
    tags = heads[0](x)
    model = Model(x, [tags, heads[1](x)])
    heads[0].bias.assign([0, 50])
    heads[1].bias.assign([50])
    model.compile("sgd", ["sparse_categorical_crossentropy", "binary_crossentropy"])
    logs = model.evaluate(np.ones((3, 1)), [np.zeros(3, int), np.zeros((3, 1))], return_dict=True)
    assert logs[f"{heads[0].name}_loss"] == logs[f"{heads[1].name}_loss"] == 50
    assert model.output_activation == ["softmax", "sigmoid"]
    assert Model(x, [tags, Dense(2)(tags)]).output_activation[0] is None  # read elsewhere, too: probabilities it is


def test_a_model_trains_as_its_twin_in_sequence():
    results = []
    for way in ("sequence", "graph"):
        initializers.set_random_seed(3)
        layers = [Masking(), Bidirectional(GRU(4)), Dense(3, activation="softmax")]
        if way == "sequence":
            model = Sequential([Input((None, F)), *layers])
        else:
            x = y = Input((None, F))
            for layer in layers:
                y = layer(y)
            model = Model(x, y)
        model.compile(Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
        initializers.set_random_seed(4)
        history = model.fit(X, np.arange(B) % 3, mask=MASK, epochs=3, batch_size=2, verbose=0).history
        results.append([*model.get_weights(), history["loss"], history["accuracy"]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_of_ones_own():
    class Tagger(Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.gru, self.dense = GRU(4, return_sequences=True), Dense(2)

        def call(self, inputs, mask=None):
            return self.dense(self.gru(inputs, mask=mask))

        def backward(self, grad):
            return self.gru.backward(self.dense.backward(grad))

    initializers.set_random_seed(0)
    model = Tagger(name="tagger")
    model.compile(Adam(0.05), "mse")
    history = model.fit(X, X[..., :2], mask=MASK, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0] and len(model.weights) == 5
    predicted = model.predict(X, mask=MASK)
    assert model.evaluate(X, X[..., :2], mask=MASK) == pytest.approx(np.mean((predicted - X[..., :2])[MASK] ** 2))
    assert [layer.name for layer in model.layers] == [model.gru.name, model.dense.name]
    with pytest.raises(TypeError, match="Tagger: inputs, outputs: expected none for a class of one's own"):
        Model.__init__(model, Input((3,)), Input((3,)))


def test_penalties_of_weights_count():
    from fastmask import regularizers

    x = random(B, F, dtype=np.float64)
    model = Sequential([Input((F,)), Dense(2, kernel_regularizer=regularizers.L2(0.1), dtype="float64")])
    model.compile(SGD(1.0), "mse")
    y = random(B, 2, seed=1, dtype=np.float64)
    kernel = model.weights[0].numpy()
    penalty = 0.1 * np.sum(kernel**2)
    assert model.evaluate(x, y, batch_size=2) == pytest.approx(np.mean((model.predict(x) - y) ** 2) + penalty)
    plain = copy.deepcopy(model)
    plain.weights[0].regularizer = None
    model.train_on_batch(x, y)
    plain.train_on_batch(x, y)
    assert_close(plain.weights[0].numpy() - model.weights[0].numpy(), 0.2 * kernel)


# ---- copies, configuration, summary ---------------------------------------------------------------------------------
def test_copies_and_configuration():
    model, _ = two_headed("float32")
    expected = model.predict(X, mask=MASK)
    inner = Sequential([Dense(F), GRU(2, return_sequences=True)])
    x = Input((None, F))
    masked = Masking()(x)
    outer = Model(x, [inner(masked), inner(Dense(F)(masked), mask=masked.mask), *model(masked)])
    for m, results in ((model, expected), (outer, outer.predict(X, mask=MASK))):
        for twin in (pickle.loads(pickle.dumps(m)), copy.deepcopy(m)):
            assert twin is not m and [w.name for w in twin.weights] == [w.name for w in m.weights]
            for a, b in zip(twin.predict(X, mask=MASK), results, strict=True):
                np.testing.assert_array_equal(a, b)
            twin.weights[0].assign(0 * twin.weights[0])
            assert m.weights[0].value.any()
            assert [layer.name for layer in twin.layers] == [layer.name for layer in m.layers]
            assert twin.layers[-1].output is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = Model.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    for a, b in zip(twin.predict(X, mask=MASK), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert twin.get_config() == model.get_config()


def test_a_long_chain_can_be_pickled():
    x = y = Input((2,))
    for _ in range(600):
        y = Dense(2)(y)
    model = Model(x, y)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict(np.ones((1, 2))), model.predict(np.ones((1, 2)))
    )


def test_summary_says_what_is_connected():
    lines = []
    two_headed()[0].summary(print_fn=lines.append)
    decoder = next(line for line in lines[0].splitlines() if line.startswith("decoder"))
    assert "uses, passes" in decoder and decoder.endswith("encoder[0], encoder[1], encoder[1]")
    assert "frames (Input)" in lines[0] and "Connected to" in lines[0]


def test_a_lost_mask_is_said_at_the_build_and_at_each_run():
    class Doubled(Layer):
        def call(self, inputs):
            return inputs * 2

    x = Input((None, F))
    with pytest.warns(MaskDroppedWarning, match="doubled"):
        y = Doubled()(Masking()(x))
    assert y.mask is None
    model = Model(x, y)
    with pytest.warns(MaskDroppedWarning, match="doubled"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MaskDroppedWarning)
        with pytest.raises(MaskDroppedWarning):
            model.predict(X)
        with pytest.raises(MaskDroppedWarning):
            Doubled()(Masking()(x))


# ---- bad input ------------------------------------------------------------------------------------------------------
def _frames():
    return Input((None, F), name="frames")


def _cycle():
    config = Model(x := _frames(), Dense(2)(Dense(3)(x))).get_config()
    config["graph"]["nodes"][0]["inputs"] = {"tensor": ["node", 1, 0]}
    return type(Model(x, x)).from_config(config)


def _compiled(**options):
    model, _ = two_headed()
    model.compile(**{"optimizer": "sgd", "loss": "mse", **options})
    return model


BAD = {
    "fit": (
        lambda: GRU(3, name="second")(GRU(5, name="first")(_frames())),
        ValueError,
        r"<GRU name=second.*> does not fit the output of <GRU name=first.*>, of shape \(None, 5\): .*expected shape",
    ),
    "first": (lambda: GRU(3)(Input((F,))), ValueError, r"does not fit the input, of shape \(None, 3\)"),
    "mixed": (lambda: Sum()([_frames(), X]), TypeError, "inputs: expected symbolic tensors only, received ndarray too"),
    "disconnected": (
        lambda: Model(_frames(), Dense(2)(Input((3,), name="other"))),
        ValueError,
        "outputs: expected to depend on the given inputs alone, received some that depend on <Input other",
    ),
    "names": (
        lambda: Model(x := _frames(), Dense(2, name="d")(Dense(3, name="d")(x))),
        ValueError,
        "layers: expected different names, received 'd' twice",
    ),
    "cycle": (_cycle, ValueError, r"received \['node', 1, 0\] in node 0: a cycle"),
    "no_tensors": (lambda: Model([], []), ValueError, "inputs: expected at least one tensor"),
    "no_tensor": (lambda: Model(X, X), TypeError, "inputs: expected symbolic tensors, received ndarray"),
    "input_twice": (lambda: Model([x := _frames(), x], x), ValueError, "inputs: expected each tensor once"),
    "batch_shape": (lambda: Input((3,), batch_shape=(1, 3)), ValueError, "batch_shape: expected None beside shape"),
    "keywords": (lambda: GRU(2)(_frames(), None), TypeError, "expected mask, training and the like as keywords"),
    "masks": (
        lambda: Sum()([_frames(), _frames()], mask=_frames()),
        ValueError,
        "mask: expected a list of 2, one for each input",
    ),
    "number": (
        lambda: Model([a := _frames(), b := _frames()], Sum()([a, b]))([X]),
        ValueError,
        "inputs: expected 2, received 1",
    ),
    "one": (
        lambda: Model([a := _frames(), b := _frames()], Sum()([a, b]))(X),
        ValueError,
        "inputs: expected 2 of them in a list",
    ),
    "losses": (lambda: _compiled(loss=["mse"]), ValueError, "loss: expected a list of 2, for tag, value, received 1"),
    "loss_name": (lambda: _compiled(loss={"tags": "mse"}), ValueError, "loss: expected the names tag, value"),
    "loss_weights": (lambda: _compiled(loss_weights=[1]), ValueError, "loss_weights: expected a list of 2"),
    "metrics": (lambda: _compiled(metrics=["mae"]), ValueError, "metrics: expected a list of 2"),
    "metric_name": (lambda: _compiled(metrics={"tag": ["ma"]}), ValueError, "metric: expected one of"),
    "targets": (lambda: _compiled().fit(X, X), ValueError, "y: expected a list of 2, for tag, value, received ndarray"),
    "rows": (
        lambda: _compiled().fit(X, [X[..., :2], X[:2, 0, :1]]),
        ValueError,
        r"y\['value'\]: expected 5 rows as x has, received 2",
    ),
    "uncompiled": (
        lambda: two_headed()[0].fit(X, [X, X]),
        ValueError,
        r"expected a call of compile\(optimizer, loss\)",
    ),
    "output": (lambda: Dense(2).output, ValueError, "expected a layer called once on symbolic tensors, it was 0 times"),
    "set_weights": (lambda: two_headed()[0].set_weights([X]), ValueError, "weights: expected 10 arrays.*received 1"),
    "unbuilt": (lambda: Sequential([Dense(2)]).outputs, ValueError, "expected a built model: give it an Input"),
    "get_layer": (lambda: two_headed()[0].get_layer("x"), ValueError, "name: expected one of masking"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()


def test_no_gradient_for_an_argument_is_a_clear_error():
    class Shifted(Layer):
        def call(self, inputs, by=None):
            return inputs + by

        def backward(self, grad):
            return grad

    x = Input((F,))
    y = Shifted()(x, by=Dense(F)(x))
    model = Model(x, y)
    assert model(X[:, 0]).shape == (B, F)
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match="Shifted gives no gradient for its argument 'by'"):
        model.train_on_batch(X[:, 0], X[:, 0])


def test_examples_in_docstrings():
    for module in (fastmask.layers.symbolic, fastmask.models.model):
        assert_doctests(module)


def test_trying_out_leaves_states_alone():
    class Outer(Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.gru = GRU(3, stateful=True)

        def call(self, inputs):
            return self.gru(inputs)

    layer = Outer()
    tensor = layer(Input(batch_shape=(2, None, F)))
    assert tensor.shape == (2, 3) and layer.gru.stateful
    first = Model(tensor.node.inputs, tensor).predict(X[:2])
    layer.gru.reset_state()
    np.testing.assert_array_equal(layer(X[:2]), first)  # the state was zero before
    assert not np.array_equal(layer(X[:2]), first)
