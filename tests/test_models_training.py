"""The training loop: class weights, callbacks and interruptions, gradient accumulation, gradients of rows, several
compiles, what an epoch reports."""

import tracemalloc
import warnings

import numpy as np
import pytest

from fastmask import constraints, initializers, regularizers
from fastmask.callbacks import Callback, CallbackList, History, LambdaCallback
from fastmask.layers import GRU, Dense, Embedding, Input, Layer
from fastmask.metrics import MeanSquaredError
from fastmask.models import Model, Sequential
from fastmask.optimizers import SGD, Adam
from fastmask.ragged import Ragged
from fastmask.schedules import ExponentialDecay
from fastmask.variable import RowsGradient
from helpers import assert_close
from test_models import B, F, K, T, classifier, compiled, data, random, same

X, MASK, ROWS, STEPS = data()


def tagger(units=K, activation="softmax", loss="sparse_categorical_crossentropy", optimizer=None, **options):
    initializers.set_random_seed(1)
    layers = [Input((None, F)), GRU(4, return_sequences=True, dtype="float64")]
    model = Sequential([*layers, Dense(units, activation=activation, dtype="float64")])
    return compiled(model, loss, optimizer or SGD(0.1), **options)


# ---- class_weight ---------------------------------------------------------------------------------------------------
CLASS_WEIGHT = {0: 0.5, 2: 3.0, 3: 0.0}  # 1 weighs 1
BY_CLASS = np.array([0.5, 1.0, 3.0, 0.0])


def one_hot(labels):
    return np.eye(K)[labels]


@pytest.mark.parametrize("beside", [None, "rows", "steps"])
@pytest.mark.parametrize("form", ["labels", "column", "one-hot", "ragged", "floats"])
def test_class_weights_are_weights_of_steps(form, beside):
    given = {None: None, "rows": random(B, seed=7) ** 2, "steps": random(B, T, seed=7) ** 2}[beside]
    weights = BY_CLASS[STEPS] * (1 if given is None else given if beside == "steps" else given[:, None])
    loss = "categorical_crossentropy" if form == "one-hot" else "sparse_categorical_crossentropy"
    x, y, options = X, STEPS, {"mask": MASK}
    if form == "column":
        y = STEPS[..., None]
    elif form == "one-hot":
        y = one_hot(STEPS)
    elif form == "floats":
        y = np.where(MASK, STEPS, np.nan)
    elif form == "ragged":
        x, y, options = Ragged.from_padded(X, MASK), Ragged.from_padded(STEPS, MASK), {}
        given = Ragged.from_padded(given, MASK) if beside == "steps" else given
    model, expected = (tagger(loss=loss, weighted_metrics=["accuracy"]) for _ in range(2))
    logs = model.train_on_batch(x, y, given, CLASS_WEIGHT, return_dict=True, **options)
    wanted = expected.train_on_batch(
        X, one_hot(STEPS) if form == "one-hot" else STEPS, weights, return_dict=True, mask=MASK
    )
    assert logs == pytest.approx(wanted, rel=1e-12)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        assert_close(a, b, k=8)


def test_class_weights_of_rows_and_of_yes_and_no():
    for y, loss in ((ROWS, "sparse_categorical_crossentropy"), (one_hot(ROWS), "categorical_crossentropy")):
        results = []
        for options in ({"class_weight": CLASS_WEIGHT}, {"sample_weight": BY_CLASS[ROWS]}):
            model = compiled(classifier(), loss, metrics=[])
            history = model.fit(X, y, 4, mask=MASK, epochs=2, shuffle=False, verbose=0, **options)
            results.append([history.history["loss"], *model.get_weights()])
        for a, b in zip(*results, strict=True):
            assert_close(a, b, np.float32, k=8)
    yes = STEPS % 2
    for y in (yes, yes[..., None], np.where(yes, 0.7, 0.2)):  # soft targets are rounded
        model, expected = (tagger(1, "sigmoid", "binary_crossentropy", metrics=[]) for _ in range(2))
        loss = model.train_on_batch(X, y, class_weight={1: 4.0}, mask=MASK)
        assert loss == pytest.approx(expected.train_on_batch(X, y, np.where(yes, 4.0, 1.0), mask=MASK), rel=1e-12)


def test_class_weights_count_in_training_only():
    model = tagger(optimizer=SGD(0.0))
    data_ = (X, STEPS, None, MASK)
    history = model.fit(X, STEPS, mask=MASK, validation_data=data_, class_weight=CLASS_WEIGHT, verbose=0).history
    assert history["val_loss"] == [model.evaluate(X, STEPS, mask=MASK)[0]] != history["loss"]


def test_a_class_of_weight_0_is_not_read():
    y = np.where(STEPS == 3, K, STEPS)  # no class at all
    weights = {**CLASS_WEIGHT, K: 0.0}
    model, expected = tagger(metrics=[]), tagger(metrics=[])
    loss = model.train_on_batch(X, y, class_weight=weights, mask=MASK)
    assert loss == expected.train_on_batch(X, STEPS, class_weight=CLASS_WEIGHT, mask=MASK)
    same(model.get_weights(), expected.get_weights())


# ---- callbacks ------------------------------------------------------------------------------------------------------
def test_a_ready_list_with_and_without_a_history():
    seen = []
    inner = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    every = CallbackList([inner])
    model = tagger()
    history = model.fit(X, STEPS, mask=MASK, epochs=2, verbose=0, callbacks=[every])
    assert seen == [0, 1] == history.epoch and type(history) is History and every.callbacks == [inner]
    assert inner.model is model and inner.params == {"verbose": 0, "epochs": 2, "steps": 1}


def test_logs_of_a_batch_are_computed_only_if_somebody_listens(monkeypatch):
    asked = []

    class Metric(MeanSquaredError):
        def result(self):
            asked.append(1)
            return super().result()

    model = tagger(K, None, "mse", metrics=[Metric(name="metric")])
    y = one_hot(STEPS)
    model.fit(X, y, 2, verbose=0, callbacks=LambdaCallback(on_train_batch_begin=lambda batch, logs: None))
    model.evaluate(X, y, 2)
    assert len(asked) == 2
    asked.clear()
    logs_of = []
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: logs_of.append(logs),
        on_test_batch_end=lambda batch, logs: logs_of.append(logs),
    )
    history = model.fit(X, y, 2, verbose=0, callbacks=watch, validation_data=(X, y)).history
    assert len(asked) == len(logs_of) + 2 == 6 + 6 + 2
    assert [*map(set, logs_of)] == [{"loss", "metric"}] * 12
    assert history["loss"][0] == logs_of[5]["loss"] and history["val_loss"][0] == logs_of[11]["loss"]


def test_stop_evaluating_and_stop_predicting():
    model = tagger()
    stop = LambdaCallback(
        on_test_batch_end=lambda batch, logs: setattr(model, "stop_evaluating", batch == 1),
        on_predict_batch_end=lambda batch, logs: setattr(model, "stop_predicting", batch == 1),
    )
    assert model.evaluate(X, STEPS, 3, callbacks=stop) == model.evaluate(X[:6], STEPS[:6], 3)
    assert len(model.predict(X, 3, callbacks=[stop])) == 6 and len(model.predict(X, 3)) == B


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_a_callback_leaves_the_weights_after_a_whole_step(error):
    called = []

    class Fails(Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise error("mine")

        def on_train_end(self, logs=None):
            called.append(1)

    model, expected = tagger(), tagger()
    with pytest.raises(error, match="mine"):
        model.fit(X, STEPS, 4, shuffle=False, verbose=0, callbacks=Fails())
    assert not called  # as in Keras
    expected.fit(X[:8], STEPS[:8], 4, shuffle=False, verbose=0)
    same(model.get_weights(), expected.get_weights())
    model.fit(X, STEPS, 4, verbose=0)


def test_freezing_in_between_takes_effect_at_the_next_epoch():
    model = tagger()
    kept = []

    def freeze(epoch, logs):
        kept.append(model.get_weights())
        model.layers[0].trainable = epoch == 1

    thaw = LambdaCallback(on_epoch_end=freeze)
    model.fit(X, STEPS, epochs=3, verbose=0, callbacks=thaw)
    same(kept[0][:3], kept[1][:3])
    assert not np.array_equal(kept[1][0], kept[2][0]) and not np.array_equal(kept[0][3], kept[1][3])


# ---- epochs ---------------------------------------------------------------------------------------------------------
def test_initial_epoch_and_validation_freq():
    model = tagger()
    options = {"mask": MASK, "validation_split": 0.3, "verbose": 0}
    history = model.fit(X, STEPS, epochs=7, initial_epoch=3, validation_freq=3, **options)
    assert history.epoch == [3, 4, 5, 6] and len(history.history["val_loss"]) == 1
    validated = []
    watch = LambdaCallback(on_epoch_end=lambda epoch, logs: validated.append("val_loss" in logs))
    model.fit(X, STEPS, epochs=4, validation_freq=[1, 4], callbacks=watch, **options)
    assert validated == [True, False, False, True]
    assert model.fit(X, STEPS, epochs=2, initial_epoch=2, **options).history == {}


def two_outputs(loss_weights=None, **options):
    initializers.set_random_seed(1)
    x = Input((None, F))
    states = GRU(4, return_sequences=True, dtype="float64")(x)
    row = GRU(3, dtype="float64", name="row")(states)
    model = Model(x, [Dense(K, activation="softmax", dtype="float64", name="tag")(states), row])
    losses = ["sparse_categorical_crossentropy", "mse"]
    model.compile(SGD(0.1), losses, loss_weights, **{"metrics": [["accuracy"], ["mae"]], **options})
    return model


def test_an_epoch_of_several_outputs_is_weighted_by_the_valid_steps_of_each():
    model, y = two_outputs([2.0, 0.5]), [STEPS, random(B, 3)]
    whole = model.evaluate(X, y, B, mask=MASK, return_dict=True)
    assert list(whole) == ["loss", "tag_loss", "row_loss", "tag_accuracy", "row_mae"] == model.metrics_names
    assert whole["loss"] == pytest.approx(2 * whole["tag_loss"] + 0.5 * whole["row_loss"], rel=1e-12)
    for size in (1, 3):
        assert model.evaluate(X, y, size, mask=MASK, return_dict=True) == pytest.approx(whole, rel=1e-12)
    model.compile(SGD(0.0), ["sparse_categorical_crossentropy", "mse"], [2.0, 0.5], [["accuracy"], ["mae"]])
    data_ = (X, y, None, MASK)
    history = model.fit(X, y, 3, mask=MASK, epochs=2, verbose=0, validation_data=data_).history
    assert list(history) == [*whole, *(f"val_{name}" for name in whole)]
    for name, value in whole.items():
        assert history[name] == pytest.approx([value] * 2, rel=1e-12) == history[f"val_{name}"]


def test_the_penalty_of_an_epoch_is_weighted_by_rows():
    x, y = random(5, F), random(5, 2)
    model = Sequential([Input((F,)), Dense(2, kernel_regularizer="l2", dtype="float64")])
    model.compile(SGD(0.3), "mse")
    losses, cuts = [], [slice(0, 4), slice(4, 5)]
    watch = LambdaCallback(
        on_train_batch_begin=lambda batch, logs: losses.append(model.test_on_batch(x[cuts[batch]], y[cuts[batch]]))
    )
    history = model.fit(x, y, 4, shuffle=False, verbose=0, callbacks=watch).history
    assert history["loss"] == [pytest.approx((4 * losses[0] + losses[1]) / 5, rel=1e-12)]
    model.weights[0].regularizer = None
    data_loss = model.evaluate(x, y)
    model.weights[0].regularizer = regularizers.L2(2.0)
    penalty = 2 * np.sum(model.weights[0].numpy() ** 2)
    assert model.evaluate(x, y, 2) == pytest.approx(data_loss + penalty, rel=1e-12)
    assert model.evaluate(x[:0], y[:0]) == pytest.approx(penalty, rel=1e-12)


def test_metrics_names_and_reset():
    metric = MeanSquaredError(name="mine")
    model = tagger(K, None, "mse", metrics=[metric, "mae"], weighted_metrics=["mae"])
    assert model.metrics_names == ["loss", "mine", "mae", "weighted_mae"]
    values = model.evaluate(X, one_hot(STEPS), mask=MASK)
    assert len(values) == 4 and metric.result() == values[1] > 0
    model.reset_metrics()
    assert metric.result() == 0
    for _ in range(2):  # each call on its own
        assert model.test_on_batch(X, one_hot(STEPS), mask=MASK) == values
    with pytest.raises(ValueError, match="metrics_names: expected a call of compile"):
        _ = classifier().metrics_names


# ---- compile --------------------------------------------------------------------------------------------------------
def test_compile_again():
    model = tagger(optimizer=Adam(0.1))
    model.fit(X, STEPS, epochs=3, verbose=0)
    used = model.optimizer
    assert used.iterations == 3
    model.compile("adam", "sparse_categorical_crossentropy")
    assert model.optimizer.iterations == 0 and not model.optimizer.get_state(model.weights).keys() - {
        "iterations",
        "learning_rate",
    }
    model.compile(used, "sparse_categorical_crossentropy")
    assert model.optimizer is used and used.iterations == 3  # as in Keras: its state is its own


def test_arguments_of_keras():
    model = tagger()
    model.compile("sgd", "mse", None, ["mae"], ["mae"], True, 1, True, False)
    assert model.metrics_names == ["loss", "mae", "weighted_mae"]
    with pytest.raises(ValueError, match="steps_per_execution: not supported, expected 1, received 8"):
        model.compile("sgd", "mse", steps_per_execution=8)


# ---- gradient accumulation ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [SGD, Adam])
def test_accumulated_batches_are_one_large_batch(make):
    """If each has as many valid steps. A schedule goes on with every batch, `iterations` with every third."""
    lengths = np.array([6, 2, 5, 3, 4, 4, 1, 7, 8, 0, 2, 6])  # 8 in each two rows
    x, y = random(12, 8, F, dtype=np.float64), random(12, 8, 2, dtype=np.float64)
    mask = np.arange(8) < lengths[:, None]
    results = []
    for size, options, every in ((2, {"gradient_accumulation_steps": 3}, 3), (6, {}, 1)):
        initializers.set_random_seed(0)
        model = Sequential(
            [
                Input((None, F)),
                GRU(3, return_sequences=True, dtype="float64"),
                Dense(2, kernel_regularizer="l2", kernel_constraint=constraints.NonNeg(), dtype="float64"),
            ]
        )
        model.layers[1].kernel.assign(np.eye(3, 2))  # as a constraint acts after each batch
        rate = ExponentialDecay(0.1, every, 0.8, staircase=True)
        model.compile(optimizer := make(rate, clipnorm=0.1, **options), "mse")
        model.fit(x, y, size, mask=mask, epochs=4, shuffle=False, verbose=0)
        assert optimizer.iterations == 8 and optimizer.learning_rate == pytest.approx(0.1 * 0.8**8)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        assert_close(a, b, k=2**12)


def test_accumulated_batches_weigh_the_same():
    """The mean of the gradients, each a mean over its own valid steps; what an epoch leaves over is not lost."""
    model = tagger(optimizer=SGD(1.0))
    before, gradients = model.get_weights(), []
    for rows in (slice(0, 4), slice(4, 8), slice(8, 11)):
        model.set_weights(before)
        model.train_on_batch(X[rows], STEPS[rows], mask=MASK[rows])
        gradients.append([b - w for b, w in zip(before, model.get_weights(), strict=True)])
    assert len({int(MASK[rows].sum()) for rows in (slice(0, 4), slice(4, 8), slice(8, 11))}) == 3
    model.compile(SGD(1.0, gradient_accumulation_steps=2), "sparse_categorical_crossentropy")
    model.set_weights(before)
    model.fit(X[:8], STEPS[:8], 4, mask=MASK[:8], shuffle=False, verbose=0)
    for w, b, first, second in zip(model.get_weights(), before, *gradients[:2], strict=True):
        assert_close(w, b - (first + second) / 2, k=2**8)
    model.compile(SGD(1.0, gradient_accumulation_steps=4), "sparse_categorical_crossentropy")
    model.set_weights(before)
    model.fit(X, STEPS, 4, mask=MASK, shuffle=False, verbose=0)
    same(model.get_weights(), before)
    model.fit(X[:4], STEPS[:4], 4, mask=MASK[:4], shuffle=False, verbose=0)
    for w, b, first, second, third in zip(model.get_weights(), before, *gradients, strict=True):
        assert_close(w, b - (2 * first + second + third) / 4, k=2**8)


# ---- gradients of rows ----------------------------------------------------------------------------------------------
class Spy(Adam):
    """Remembers what it was given."""

    def apply(self, grads, trainable_variables):
        self.seen = list(grads)
        super().apply(grads, trainable_variables)


N, WIDTH = 5, 3
IDS = np.random.default_rng(0).integers(0, N, (B, T))


def two_tables(n=N, regularizer=None, **options):
    """Two tables, of which only the first one's output has a loss."""
    initializers.set_random_seed(0)
    x = Input((None,), dtype="int32")
    table = {"embeddings_regularizer": regularizer, "dtype": "float64"}
    vectors = [Embedding(n, WIDTH, name=name, **table)(x) for name in ("used", "unused")]
    outputs = [Dense(2, dtype="float64", name=f"out_{i}")(v) for i, v in enumerate(vectors)]
    model = Model(x, outputs)
    model.compile(Spy(0.1, **options), ["mse", None])
    return model


TARGETS = [random(B, T, 2, dtype=np.float64), None]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"gradient_accumulation_steps": 2}])
def test_gradients_of_rows_reach_the_optimizer(options, monkeypatch):
    results = []
    for dense in (False, True):
        model = two_tables(**options)
        if dense:
            monkeypatch.setattr(
                Embedding, "add_gradient", lambda self, weight, g: Layer.add_gradient(self, weight, np.asarray(g))
            )
        with pytest.warns(UserWarning, match="no gradient for .*embeddings.*: left unchanged"):
            model.fit(IDS, TARGETS, 4, epochs=2, shuffle=False, verbose=0)
        assert [type(g) for g in model.optimizer.seen[:1]] == [np.ndarray if dense else RowsGradient]
        assert sum(g is None for g in model.optimizer.seen) == 3
        results.append(model.get_weights())
    same(*results)
    untouched = two_tables(**options)
    trained = model.get_layer("unused").get_weights() + model.get_layer("out_1").get_weights()
    same(trained, untouched.get_layer("unused").get_weights() + untouched.get_layer("out_1").get_weights())


def test_a_step_makes_no_array_of_the_size_of_a_table():
    model = two_tables(n=200_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train_on_batch(IDS, TARGETS)
        tracemalloc.start()
        model.train_on_batch(IDS, TARGETS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200_000 * 8, peak  # a table has three times as much


def test_a_regularizer_reaches_every_row():
    model = two_tables(regularizer=regularizers.L2(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train_on_batch(IDS[:, :1] * 0, [TARGETS[0][:, :1], None])
    used, unused = (g for g in model.optimizer.seen if g is not None and np.shape(g) == (N, WIDTH))
    assert type(used) is type(unused) is np.ndarray
    before = two_tables().get_layer("unused").get_weights()[0]
    np.testing.assert_array_equal(unused, before)  # 2 * 0.5 w
    np.testing.assert_array_equal(used[1:], two_tables().get_layer("used").get_weights()[0][1:])
    assert not np.array_equal(used[0], two_tables().get_layer("used").get_weights()[0][0])


def test_a_model_whose_loss_reaches_no_weight():
    x = Input((None, F))
    model = Model(x, [x, Dense(2)(x)])
    model.compile("sgd", ["mse", None])
    with pytest.raises(ValueError, match="grads: expected a gradient for at least one weight"):
        model.train_on_batch(X, [X, None])


# ---- bad input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "act, error, message",
    [
        (
            lambda: tagger().fit(X, STEPS, class_weight=[1, 2]),
            TypeError,
            "class_weight: expected a dict, received list",
        ),
        (
            lambda: tagger().fit(X, STEPS, class_weight={"a": 1}),
            TypeError,
            "class_weight: class: expected a whole number, received 'a'",
        ),
        (
            lambda: tagger().train_on_batch(X, STEPS, class_weight={0: -1}),
            ValueError,
            r"class_weight\[0\]: expected a finite number of 0 or more, received -1",
        ),
        (
            lambda: two_outputs().fit(X, [STEPS, random(B, 3)], class_weight={0: 1.0}),
            ValueError,
            "class_weight: expected None for a model with several outputs: give each its sample_weight, .* tag, row",
        ),
        (
            lambda: tagger().fit(X, STEPS, initial_epoch=-1),
            ValueError,
            "initial_epoch: expected at least 0, received -1",
        ),
        (lambda: tagger().evaluate(X, STEPS, verbose=3), ValueError, 'verbose: expected "auto", 0, 1 or 2'),
        (lambda: tagger().predict(X, verbose="on"), ValueError, 'verbose: expected "auto", 0, 1 or 2'),
        (lambda: tagger().predict(X, callbacks=[1]), TypeError, "callbacks: expected Callback objects"),
    ],
)
def test_bad_input(act, error, message):
    with pytest.raises(error, match=message):
        act()
