"""Sequential: building, masks on their way through it, fit, evaluate, predict, seeds, and bad input."""

import copy
import pickle

import numpy as np
import pytest

from fastmask import initializers, losses
from fastmask.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Input,
    Layer,
    MaskDroppedWarning,
    Masking,
    SimpleRNN,
)
from fastmask.models import Sequential
from fastmask.models.scores import OutputScore
from fastmask.optimizers import SGD, Adam
from fastmask.ragged import Ragged
from helpers import assert_close, assert_gradient, mask_cases

B, T, F, K = 11, 6, 3, 4


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def data(seed=0):
    """x (B,T,F), mask with right padding, a class for each row and each step."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, (B, 1))
    mask[0] = True
    return random(B, T, F, seed=seed), mask, rng.integers(0, K, B), rng.integers(0, K, (B, T))


def classifier(**options):
    initializers.set_random_seed(1)
    return Sequential(
        [Input((None, F)), Bidirectional(GRU(5, **options)), Dropout(0.2), Dense(K, activation="softmax")]
    )


def tagger():
    initializers.set_random_seed(1)
    return Sequential([LSTM(5, return_sequences=True), Dense(K, activation="softmax")])


def compiled(model, loss="sparse_categorical_crossentropy", optimizer=None, **options):
    model.compile(optimizer or Adam(0.01), loss, **{"metrics": ["accuracy"], **options})
    return model


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


# ---- building -------------------------------------------------------------------------------------------------------
def test_build_and_shapes():
    model = Sequential([Input((None, F)), Masking(), GRU(5, return_sequences=True), Dense(2)])
    assert (
        model.built and model.output_shape == (None, None, 2) and len(model.weights) == 5 and len(model.layers) == 4 - 1
    )
    model = Sequential([GRU(5, return_sequences=True), Dense(2)])
    assert not model.built and not model.weights
    assert model(random(2, 4, F)).shape == (2, 4, 2) and model(random(2, 7, F)).shape == (2, 7, 2)
    model.add(GRU(3))
    assert model(random(2, 4, F)).shape == (2, 3) and model.output_shape == (None, 3)
    assert type(model.pop()) is GRU and model(random(2, 4, F)).shape == (2, 4, 2)
    model = Sequential([Dense(2)])
    model.build((None, 4))
    assert model.count_params() == 10 and model.get_layer(index=0) is model.get_layer(model.layers[0].name)


def test_shapes_that_do_not_fit_are_found_at_build_and_both_layers_named():
    with pytest.raises(ValueError, match="<GRU name=second.*does not fit the output of <GRU name=first.*(None, 5)"):
        Sequential([Input((None, F)), GRU(5, name="first"), GRU(5, name="second")])
    used = Dense(2, name="used")
    used(random(1, 7))
    with pytest.raises(ValueError, match=r"used.*does not fit the output of <GRU.*expected shape \(B,...,7\)"):
        Sequential([Input((None, F)), GRU(5), used])
    with pytest.raises(ValueError, match="lonely.*does not fit the input, of shape"):
        Sequential([GRU(5, name="lonely")])(random(2, 3))
    with pytest.raises(ValueError, match="one output"):
        Sequential([Input((None, F)), GRU(5, return_state=True), Dense(2)])


def test_a_custom_layer_needs_no_output_shape():
    class Last(Layer):
        def call(self, inputs):
            return inputs[:, -1]

    model = Sequential([Input((None, F)), Last(), Dense(2)])
    assert model.output_shape == (None, 2) and model.layers[0].output.shape == (None, F)


def test_summary():
    model = Sequential(
        [
            Input((None, F)),
            Masking(),
            LSTM(5, return_sequences=True, go_backwards=True),
            Bidirectional(GRU(2)),
            Dense(2),
        ],
        name="model",
    )
    model.layers[3].trainable = False
    lines = []
    model.summary(print_fn=lines.append)
    text = lines[0]
    assert 'Model: "model"' in text and "(None, None, 5)" in text and f"{model.count_params():,} weights" in text
    rows = text.splitlines()[4:8]
    assert [row.split("  ")[-1] for row in rows] == ["makes", "uses, reverses", "uses, ends", "passes"]
    assert f"{model.count_params() - 10:,} of them trainable" in text
    with pytest.raises(ValueError, match="summary: expected a built model"):
        Sequential([Dense(2)]).summary()


def test_masks_travel():
    x, mask, *_ = data()
    model = Sequential([Masking(5.0), GRU(4, return_sequences=True), Dense(2)])
    y = model(np.where(mask[..., None], x, np.float32(5)))
    np.testing.assert_array_equal(y.mask, mask)
    np.testing.assert_array_equal(model.compute_mask(np.where(mask[..., None], x, np.float32(5))), mask)
    by_hand = x
    for layer in model.layers[1:]:
        by_hand = layer(by_hand, mask=mask)
    np.testing.assert_array_equal(y, by_hand)
    outer = Sequential([model, LSTM(3)])
    assert type(outer(x)) is np.ndarray
    same([outer(x, mask=mask)], [LSTM.__call__(outer.layers[1], model(x, mask=mask))])

    class Reverse(Layer):
        def call(self, inputs):
            return inputs[:, ::-1]

    with pytest.warns(MaskDroppedWarning, match="reverse"):
        assert type(Sequential([Reverse(), Dense(2)])(x, mask=mask)) is np.ndarray


def test_gradients_through_a_nested_model():
    x, mask = random(3, 4, 2, dtype=np.float64), mask_cases(3, 4)["holes"]
    inner = Sequential([GRU(3, return_sequences=True, dtype="float64"), Dense(2, activation="tanh", dtype="float64")])
    model = Sequential(
        [Masking(dtype="float64"), inner, Bidirectional(SimpleRNN(2, dtype="float64"), merge_mode="mul")]
    )
    y = model(x, mask=mask, training=True)
    dy = random(*y.shape, dtype=np.float64, seed=3)
    dx = model.backward(dy)
    assert_gradient(lambda: np.sum(dy * model(x, mask=mask)), x, dx)
    gradients = model.gradients
    assert len(gradients) == 3 + 2 + 6
    for weight, gradient in zip(model.weights, gradients, strict=True):
        value = weight.numpy()
        assert_gradient(lambda w=weight, v=value: (w.assign(v), np.sum(dy * model(x, mask=mask)))[1], value, gradient)
        weight.assign(value)


# ---- training -------------------------------------------------------------------------------------------------------
def test_it_learns():
    x, mask, rows, steps = data()
    history = compiled(classifier()).fit(x, rows, mask=mask, epochs=60, verbose=0, batch_size=4)
    assert history.history["accuracy"][-1] == 1 and history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert history.epoch == list(range(60))
    history = compiled(tagger()).fit(x, steps, mask=mask, epochs=150, verbose=0, batch_size=4)
    assert history.history["accuracy"][-1] > 0.9 and history.history["loss"][-1] < 0.5 * history.history["loss"][0]


@pytest.mark.parametrize("make", [classifier, tagger])
def test_all_forms_of_input_give_the_same_bits(make):
    x, mask, rows, steps = data()
    r = Ragged.from_padded(x, mask)
    per_step = make is tagger
    y = steps if per_step else rows
    y_ragged = Ragged.from_padded(steps, mask) if per_step else rows
    weights = random(*(B, T) if per_step else (B,), seed=5) ** 2
    forms = [
        (x, y, {"mask": mask, "sample_weight": weights}),
        (np.where(mask[..., None], x, np.nan), y, {"mask": mask, "sample_weight": weights}),
        (r, y, {"sample_weight": weights}),
        (list(r), y, {"sample_weight": weights}),
        (r, y_ragged, {"sample_weight": Ragged.from_padded(weights, mask) if per_step else weights}),
        (x, y_ragged, {"mask": mask, "sample_weight": weights}),
        (
            list(r),
            list(y_ragged),
            {"sample_weight": [w[m] for w, m in zip(weights, mask, strict=True)] if per_step else list(weights)},
        ),
        (r, y_ragged, {"sample_weight": weights, "mask": np.ones(len(r.values))}),
    ]
    results = []
    for inputs, targets, options in forms:
        model = compiled(make())
        model(x)
        initializers.set_random_seed(3)
        history = model.fit(inputs, targets, epochs=3, batch_size=4, verbose=0, **options)
        predicted = model.predict(inputs, mask=options.get("mask"), batch_size=3)
        if isinstance(predicted, Ragged):
            predicted = predicted.values
        elif per_step:
            predicted = predicted[mask]
        results.append([*model.get_weights(), history.history["loss"], history.history["accuracy"], predicted])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_close(np.asarray(a), np.asarray(b), np.float32, k=8)  # dropout draws the same numbers in each
    if per_step:  # no dropout, no division by other counts
        for other in results[1:]:
            same(results[0][:-3], other[:-3])


def test_same_seed_same_bits():
    x, mask, rows, _ = data()
    results = []
    for seed in (3, 3, 4):
        initializers.set_random_seed(seed)
        model = Sequential([GRU(5, dropout=0.3), Dropout(0.2), Dense(K, activation="softmax")])
        compiled(model).fit(x, rows, mask=mask, epochs=3, batch_size=4, verbose=0)
        results.append(model.get_weights())
    same(results[0], results[1])
    assert not np.array_equal(results[0][0], results[2][0])


def test_loss_on_logits_equals_the_chain_rule():
    """Training on the logits is the same function: the step equals that through softmax and the loss of
    probabilities."""
    x, mask, rows, steps = data()
    for activation, loss, y in (
        ("softmax", losses.SparseCategoricalCrossentropy, steps),
        ("softmax", losses.CategoricalCrossentropy, np.eye(K)[steps]),
        ("sigmoid", losses.BinaryCrossentropy, (np.eye(K)[steps] + 1) / 3),
    ):
        results = []
        for on_logits in (True, False):
            model = Sequential(
                [GRU(5, return_sequences=True, dtype="float64"), Dense(K, activation=activation, dtype="float64")]
            )
            initializers.set_random_seed(0)
            model(x)
            model.set_weights([random(*w.shape, dtype=np.float64) for w in model.get_weights()])
            if not on_logits:
                model._losses_on_logits = lambda: [None]
            compiled(model, loss(), SGD(0.1), metrics=[])
            value = model.train_on_batch(x, y, mask=mask)
            results.append([value, model.evaluate(x, y, mask=mask), *model.get_weights()])
        for a, b in zip(*results, strict=True):
            assert_close(a, b, k=2**26)  # the probabilities are clipped at 1e-7
    model = compiled(Sequential([Dense(K, activation="softmax", kernel_initializer=initializers.Constant(1e4))]))
    assert model.evaluate(np.float32([[1, 0, 0]]), np.array([0]))[0] == pytest.approx(np.log(K))
    model.layers[0].bias.assign([0, 1000, 0, 0])  # Keras without logits: -log(1e-7) = 16.1
    assert model.evaluate(np.float32([[1, 0, 0]]), np.array([0]))[0] == pytest.approx(1000)
    compiled(model, losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.warns(UserWarning, match="from_logits=True, but the model ends in softmax"):
        assert model.evaluate(np.float32([[1, 0, 0]]), np.array([0]))[0] == pytest.approx(1000)


def test_gradient_of_a_step_is_that_of_the_loss():
    x, mask, _, steps = data()
    weight = random(B, seed=2) ** 2
    layers = [GRU(2, return_sequences=True, dtype="float64"), Dense(K, activation="softmax", dtype="float64")]
    model = compiled(Sequential(layers), "sparse_categorical_crossentropy", SGD(1.0), metrics=[])
    model(x)
    before = model.get_weights()
    model.train_on_batch(x, steps, mask=mask, sample_weight=weight)
    gradients = [b - a for b, a in zip(before, model.get_weights(), strict=True)]
    model.set_weights(before)
    for v, g in zip(model.weights, gradients, strict=True):
        value = v.numpy()

        def loss(v=v, value=value):
            v.assign(value)
            return model.test_on_batch(x, steps, mask=mask, sample_weight=weight)

        assert_gradient(loss, value, g)
        v.assign(value)


def test_the_loss_of_an_epoch_is_weighted_by_valid_steps():
    x, mask, _, steps = data()
    model = compiled(tagger())
    whole = model.evaluate(x, steps, mask=mask, batch_size=B)
    for batch_size in (1, 2, 5):
        assert_close(model.evaluate(x, steps, mask=mask, batch_size=batch_size), whole, k=2**24)
    frozen = compiled(tagger(), optimizer=SGD(0.0))
    frozen(x)
    frozen.set_weights(model.get_weights())
    history = frozen.fit(x, steps, mask=mask, batch_size=2, verbose=0).history
    assert_close([history["loss"][0], history["accuracy"][0]], whole, k=2**24)
    summed = compiled(tagger(), losses.SparseCategoricalCrossentropy(reduction="sum"), metrics=[])
    summed(x)
    summed.set_weights(model.get_weights())
    assert_close(summed.evaluate(x, steps, mask=mask, batch_size=2), whole[0] * mask.sum(), k=2**26)


def test_bucketing_groups_rows_and_changes_no_batch():
    x, mask, rows, _ = data()
    model = compiled(Sequential([GRU(5), Dense(K)]), losses.SparseCategoricalCrossentropy(from_logits=True))
    seen, original = [], OutputScore.measure

    def watch(self, result):
        seen.append((np.asarray(result.output).copy(), result.y.copy()))
        original(self, result)

    OutputScore.measure = watch
    try:
        for form, options in ((x, {"mask": mask}), (Ragged.from_padded(x, mask), {})):
            seen.clear()
            initializers.set_random_seed(0)
            model.optimizer.learning_rate = 0.0
            model.fit(form, rows, batch_size=3, bucket=True, verbose=0, **options)
            predicted, lengths = model.predict(x, mask=mask), mask.sum(axis=1)
            spans, found = [], []
            for outputs, y in seen:
                indices = [int(np.flatnonzero((predicted == row).all(axis=1))[0]) for row in outputs]
                np.testing.assert_array_equal(rows[indices], y)
                spans.append((lengths[indices].min(), lengths[indices].max()))
                found += indices
            assert sorted(found) == list(range(B)) and len(seen) == 4
            spans.sort()
            assert all(low[1] <= high[0] for low, high in zip(spans, spans[1:], strict=False))
    finally:
        OutputScore.measure = original


def test_fit_is_train_on_batch_is_a_step_by_hand():
    """One batch through fit, through train_on_batch, and by hand through model, loss and optimizer."""
    x, mask, rows, _ = data()
    results = []
    for way in ("fit", "batch", "hand"):
        initializers.set_random_seed(2)
        model = compiled(
            Sequential([GRU(5), Dense(K)]), losses.SparseCategoricalCrossentropy(from_logits=True), SGD(0.1)
        )
        model(x)
        logits = np.array(model(x, mask=mask))
        if way == "fit":
            model.fit(x, rows, mask=mask, batch_size=B, shuffle=False, verbose=0)
        elif way == "batch":
            loss, _ = model.train_on_batch(x, rows, mask=mask)
            assert loss == pytest.approx(model.loss(rows, logits), rel=1e-6)
        else:
            y = model(x, mask=mask, training=True)
            model.backward(model.loss.value_and_grad(rows, y)[1])
            model.optimizer.apply_gradients(zip(model.gradients, model.trainable_weights, strict=True))
        results.append(model.get_weights())
    same(results[0], results[1])
    same(results[0], results[2])


def test_frozen_layers_stay():
    x, mask, rows, _ = data()
    model = compiled(Sequential([GRU(5), Dense(6), Dense(K, activation="softmax")]))
    model(x)
    model.layers[0].trainable = False
    before = model.get_weights()
    model.fit(x, rows, mask=mask, verbose=0)
    after = model.get_weights()
    same(before[:3], after[:3])
    assert not np.array_equal(before[3], after[3]) and len(model.trainable_weights) == 4
    model.trainable = False
    model.fit(x, rows, mask=mask, verbose=0)
    same(after, model.get_weights())


def test_the_gradient_of_the_inputs_is_not_computed_in_vain(monkeypatch):
    x, mask, rows, _ = data()
    asked = []

    def watch(original):
        def backward(tape, *args, need_x=True):
            asked.append((original.__name__, need_x))
            return original(tape, *args, need_x=need_x)

        return staticmethod(backward)

    for cls in (GRU, LSTM):
        monkeypatch.setattr(cls, "_backward", watch(cls._backward))
    inner = Sequential([Bidirectional(GRU(3, return_sequences=True))])
    model = compiled(Sequential([Masking(), inner, LSTM(4), Dense(K, activation="softmax")]))
    model.train_on_batch(x, rows, mask=mask)
    assert asked == [("lstm_backward", True), ("gru_backward", False), ("gru_backward", False)]
    asked.clear()
    inner.trainable = False
    model.train_on_batch(x, rows, mask=mask)
    assert asked == [("lstm_backward", False)]
    y = model(x, mask=mask, training=True)
    assert model.backward(np.ones_like(y)).shape == x.shape


def test_validation():
    x, mask, rows, _ = data()
    model = compiled(classifier())
    history = model.fit(x, rows, mask=mask, validation_split=0.3, epochs=2, verbose=0).history
    n = int(B * 0.7)
    last = model.evaluate(x[n:], rows[n:], mask=mask[n:], return_dict=True)
    assert history["val_loss"][-1] == last["loss"] and history["val_accuracy"][-1] == last["accuracy"]
    data_ = (Ragged.from_padded(x, mask), rows, np.ones(B))
    history = model.fit(x, rows, mask=mask, validation_data=data_, epochs=3, validation_freq=2, verbose=0).history
    assert len(history["val_loss"]) == 1 and len(history["loss"]) == 3
    history = model.fit(x, rows, mask=mask, validation_data=(x, rows), validation_mask=mask, verbose=0).history
    assert history["val_loss"][0] == model.evaluate(x, rows, mask=mask)[0]


def test_metrics_and_sample_weight():
    x, mask, rows, _ = data()
    weight = np.where(np.arange(B) < 4, 1.0, 0.0)
    model = compiled(classifier(), weighted_metrics=["accuracy"])
    logs = model.evaluate(x, rows, mask=mask, sample_weight=weight, return_dict=True)
    predicted = model.predict(x, mask=mask).argmax(axis=-1)
    assert logs["accuracy"] == pytest.approx(np.mean(predicted == rows))
    assert logs["weighted_accuracy"] == pytest.approx(np.mean((predicted == rows)[:4]))
    garbage = np.where(np.arange(B)[:, None, None] < 4, x, np.nan)
    assert model.evaluate(garbage, rows, mask=mask, sample_weight=weight)[0] == logs["loss"]


def test_predict_keeps_order_and_form():
    x, mask, _, _ = data()
    r = Ragged.from_padded(x, mask)
    model = tagger()
    one = model.predict(r, batch_size=B)
    for batch_size in (1, 4, 32):
        many = model.predict(list(r), batch_size=batch_size)
        same([one.values, one.offsets], [many.values, many.offsets])
    assert type(model.predict(x, mask=mask)) is np.ndarray
    np.testing.assert_array_equal(model.predict(x, mask=mask)[mask], one.values)
    rows = classifier()
    np.testing.assert_array_equal(rows.predict(r, batch_size=2), rows.predict(x, mask=mask))
    assert rows.predict(x[:0], mask=mask[:0]).shape == (0, K) and len(model.predict([])) == 0
    flat = Sequential([Input((F,)), Dense(2)])
    np.testing.assert_array_equal(flat.predict([list(row) for row in x[:, 0]]), flat.predict(x[:, 0]))


def test_row_targets_given_as_a_list_of_one_hot_rows():
    x, mask, rows, _ = data()
    one_hot = np.eye(K, dtype=np.float32)[rows]
    model = compiled(classifier(), "categorical_crossentropy")
    assert model.evaluate(x, list(one_hot), mask=mask) == model.evaluate(x, one_hot, mask=mask)


def test_regression_under_a_mask():
    x, mask, _, _ = data()
    target = random(B, T, seed=4)
    model = compiled(Sequential([SimpleRNN(4, return_sequences=True), Dense(1)]), "mse", metrics=["mse"])
    loss, mse = model.evaluate(x, target, mask=mask)
    expected = np.mean((model.predict(x, mask=mask)[..., 0] - target)[mask] ** 2)
    assert loss == pytest.approx(expected, rel=1e-5) and mse == pytest.approx(expected, rel=1e-5)


def test_copies_train_on_alike():
    x, mask, rows, _ = data()
    model = compiled(classifier())
    model.fit(x, rows, mask=mask, epochs=2, verbose=0)
    results = []
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model):
        initializers.set_random_seed(0)
        twin.fit(x, rows, mask=mask, verbose=0)
        results.append(twin.get_weights())
    same(results[0], results[1])
    same(results[0], results[2])


def test_config_round_trip():
    inner = Sequential([GRU(3, return_sequences=True), Dense(2, activation="relu")], name="inner")
    model = Sequential([Input((None, F)), Masking(), inner, Bidirectional(LSTM(2))], name="outer")
    again = Sequential.from_config(model.get_config())
    assert again.get_config() == model.get_config() and again.built
    again.set_weights(model.get_weights())
    same([again(random(2, 3, F))], [model(random(2, 3, F))])
