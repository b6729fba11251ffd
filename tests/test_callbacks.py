"""Callbacks: each on a model that only pretends, with logs written by hand, then in real training."""

import csv
import math
import pickle

import numpy as np
import pytest

import fastmask as fm
from fastmask import callbacks
from fastmask.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from fastmask.layers import Dense
from fastmask.optimizers import SGD
from fastmask.schedules import ExponentialDecay
from fastmask.variable import Variable


class Pretender:
    """What callbacks need of a model; its one weight is set to the number of the epoch by `run`."""

    def __init__(self, learning_rate=1.0):
        self.optimizer = SGD(learning_rate)
        self.weights = [Variable(np.array([-1.0]))]
        self.stop_training = False
        self.saved = []

    def save(self, path):
        self.saved.append(("model", path))

    def save_weights(self, path):
        self.saved.append(("weights", path))


def run(callback, *columns, model=None, batches=0, names=("val_loss",), start=0):
    """As fit does: epochs with one value of each name; returns the model, the epochs run and the learning rates."""
    model = Pretender() if model is None else model
    model.stop_training = False
    every = CallbackList([callback], model=model, epochs=len(columns[0]))
    rates, epoch, logs = [], start - 1, {}
    every.on_train_begin()
    for epoch, values in enumerate(zip(*columns, strict=True), start=start):
        every.on_epoch_begin(epoch)
        model.weights[0].assign([float(epoch)])
        rates.append(model.optimizer.learning_rate)
        logs = dict(zip(names, values, strict=True))
        for batch in range(batches):
            every.on_train_batch_begin(batch)
            every.on_train_batch_end(batch, logs)
        every.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    every.on_train_end(logs)
    return model, epoch + 1 - start, rates


# ---- the list -------------------------------------------------------------------------------------------------------
class Recorder(Callback):
    """Writes down every call."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name not in callbacks.HOOKS or name in ("on_batch_begin", "on_batch_end"):
            return super().__getattribute__(name)
        return lambda *args: self.calls.append((name, *args))


def test_list_calls_all_hooks_in_order():
    first, second, model = Recorder(), Recorder(), Pretender()
    every = CallbackList([first, [second]], model=model, epochs=3, steps=None)
    assert first.model is second.model is model and second.params == {"epochs": 3, "steps": None} == every.params
    for hook in callbacks.HOOKS:
        if hook not in ("on_batch_begin", "on_batch_end"):
            index = (7,) if "batch" in hook or "epoch" in hook else ()
            getattr(every, hook)(*index, {"loss": 1.0})
            assert first.calls[-1] == (hook, *index, {"loss": 1.0}) == second.calls[-1]
            getattr(every, hook)(*index)
            assert first.calls[-1] == (hook, *index, {})


def test_list_hands_one_dict_of_logs_from_one_to_the_next():
    seen, given = {}, {"loss": 1.0}
    put = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(extra=epoch))
    every = CallbackList([put, LambdaCallback(on_epoch_end=lambda epoch, logs: seen.update(logs))])
    every.on_epoch_end(5, given)
    assert seen == {"loss": 1.0, "extra": 5} and given == {"loss": 1.0}


def test_list_knows_who_listens():
    class Old(Callback):
        def on_batch_end(self, batch, logs=None):
            self.seen = batch, logs

    old = Old()
    every = CallbackList([old, EarlyStopping()])
    assert every.listens("on_train_batch_end") and every.listens("on_epoch_end")
    assert not every.listens("on_train_batch_begin") and not every.listens("on_test_begin")
    every.on_train_batch_end(3, {"loss": 2.0})
    assert old.seen == (3, {"loss": 2.0})
    assert CallbackList(LambdaCallback(on_train_batch_end=print)).listens("on_train_batch_end")
    assert not CallbackList().listens("on_train_end")
    outer = CallbackList([every])
    assert outer.listens("on_train_batch_end")
    outer.on_train_batch_end(4, {})
    assert old.seen == (4, {})


def test_list_adds_a_history():
    every = CallbackList(add_history=True)
    assert every.callbacks == [every.history] and type(every.history) is History
    own = History()
    assert CallbackList([own], add_history=True).history is own and CallbackList().history is None


def test_history():
    history = History()
    model, _, _ = run(history, [3.0, 2.0], [1.0, 0.5], names=("loss", "mse"))
    assert history.history == {"loss": [3.0, 2.0], "mse": [1.0, 0.5]} and history.epoch == [0, 1]
    assert model.history is history
    again = pickle.loads(pickle.dumps(history))
    assert again.history == history.history and again.epoch == history.epoch
    run(history, [1.0], names=("loss",), start=2)
    assert history.epoch == [2] and history.history["loss"] == [3.0, 2.0, 1.0]  # as in Keras


# ---- stopping -------------------------------------------------------------------------------------------------------
LOSSES = [5.0, 4.0, 4.5, 3.9, 3.95, 3.85, 4.0, 4.1, 3.0, 3.1]


@pytest.mark.parametrize(
    "options, epochs, best",
    [
        ({}, 3, 1),
        ({"patience": 1}, 3, 1),
        ({"patience": 2}, 8, 5),
        ({"patience": 3}, 10, 8),
        ({"patience": 2, "min_delta": 0.2}, 4, 1),
        ({"patience": 2, "min_delta": -0.2}, 4, 1),
        ({"patience": 2, "baseline": 3.5}, 3, 1),  # no epoch is better than that: wait is never reset
        ({"patience": 3, "baseline": 4.2}, 10, 8),
        ({"start_from_epoch": 3}, 5, 3),
        ({"mode": "max"}, 2, 0),
    ],
)
def test_early_stopping(options, epochs, best):
    stopping = EarlyStopping(restore_best_weights=True, **options)
    model, seen, _ = run(stopping, LOSSES)
    assert (seen, stopping.best_epoch) == (epochs, best)
    assert model.weights[0].value == best
    assert stopping.stopped_epoch == (epochs - 1 if epochs < 10 else 0)
    stopping = EarlyStopping(**options)
    model, seen, _ = run(stopping, LOSSES)
    assert seen == epochs and stopping.best_weights is None and stopping.best_epoch == best
    assert model.weights[0].value == epochs - 1


def test_early_stopping_again_begins_anew(capsys):
    stopping = EarlyStopping(verbose=1, restore_best_weights=True)
    for _ in range(2):
        assert run(stopping, [1.0, 2.0, 3.0])[1] == 2
        assert capsys.readouterr().out == ("Epoch 2: early stopping\nRestoring the weights of the best epoch: 1\n")


def test_weights_that_are_not_finite_are_restored_too():
    stopping, model = EarlyStopping("loss", restore_best_weights=True, patience=5), Pretender()
    every = CallbackList([stopping], model=model)
    every.on_train_begin()
    model.weights[0].assign([np.nan])
    every.on_epoch_end(0, {"loss": np.nan})
    every.on_train_end()
    assert np.isnan(model.weights[0].value).all()


def test_without_the_value_nothing_is_decided():
    for callback in (EarlyStopping("val_mse"), ReduceLROnPlateau("val_mse", patience=0)):
        with pytest.warns(UserWarning, match=f"{type(callback).__name__}: expected 'val_mse' in the logs, .*val_loss"):
            model, epochs, rates = run(callback, [1.0, 2.0, 3.0])
        assert epochs == 3 and rates == [1.0] * 3


@pytest.mark.parametrize(
    "monitor, mode",
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_out_loss", "min"),
        ("val_mean_squared_error", "min"),
        ("mae", "min"),
        ("binary_crossentropy", "min"),
        ("val_perplexity", "min"),
        ("accuracy", "max"),
        ("val_sparse_categorical_accuracy", "max"),
        ("val_sparse_top_k_categorical_accuracy", "max"),
        ("tags_accuracy", "max"),
        ("auc_1", "max"),
        ("val_f1_score", "max"),
        ("cosine_similarity", "max"),
    ],
)
def test_auto_mode_knows_the_direction(monitor, mode):
    assert EarlyStopping(monitor).mode == mode


@pytest.mark.parametrize("monitor", ["reward", "val_lossy", "accuracy_loss"])
def test_auto_mode_does_not_guess(monitor):
    with pytest.raises(ValueError, match=f'mode: expected "min" or "max" for \'{monitor}\''):
        EarlyStopping(monitor)
    assert EarlyStopping(monitor, mode="max").mode == "max"


def test_terminate_on_nan(capsys):
    for value in (math.nan, math.inf, -math.inf):
        model, epochs, _ = run(TerminateOnNaN(), [1.0, value, 1.0], names=("loss",), batches=1)
        assert epochs == 2 and model.stop_training
        assert capsys.readouterr().out == "Batch 0: Invalid loss, terminating training\n"
    with pytest.raises(RuntimeError, match="loss: expected a finite number, received nan in batch 0"):
        run(TerminateOnNaN(raise_error=True), [math.nan], names=("loss",), batches=1)
    assert run(TerminateOnNaN(), [math.nan], names=("val_loss",), batches=1)[1] == 1


# ---- saving ---------------------------------------------------------------------------------------------------------
def test_checkpoint_after_each_epoch(tmp_path):
    model, _, _ = run(ModelCheckpoint(tmp_path / "deep" / "er" / "{epoch:02d}-{val_loss:.1f}.npz"), [3.25, 2.0])
    assert model.saved == [("model", str(tmp_path / "deep" / "er" / name)) for name in ("01-3.2.npz", "02-2.0.npz")]
    assert (tmp_path / "deep" / "er").is_dir()
    model, _, _ = run(ModelCheckpoint("m.npz", "reward", save_weights_only=True), [1.0, 2.0], names=("reward",))
    assert model.saved == [("weights", "m.npz")] * 2


@pytest.mark.parametrize(
    "options, names, saved",
    [
        ({}, ("val_loss",), [1, 2, 4, 6, 9]),
        ({"initial_value_threshold": 3.9}, ("val_loss",), [6, 9]),
        ({"monitor": "accuracy"}, ("accuracy",), [1]),
        ({"monitor": "accuracy", "mode": "min"}, ("accuracy",), [1, 2, 4, 6, 9]),
    ],
)
def test_checkpoint_of_the_best(options, names, saved):
    checkpoint = ModelCheckpoint("{epoch}", save_best_only=True, **options)
    model, _, _ = run(checkpoint, LOSSES, names=names)
    assert [int(path) for _, path in model.saved] == saved
    model, _, _ = run(checkpoint, LOSSES, names=names)
    assert model.saved == []  # the best of the first fit counts


def test_checkpoint_every_few_batches():
    checkpoint = ModelCheckpoint("{epoch}-{batch}", save_freq=3)
    model, _, _ = run(checkpoint, [1.0] * 3, batches=4)
    assert [path for _, path in model.saved] == ["1-3", "2-2", "3-1", "3-4"]
    model, _, _ = run(ModelCheckpoint("{batch}", save_freq=2, save_best_only=True), [2.0, 3.0, 1.0], batches=2)
    assert len(model.saved) == 2


def test_checkpoint_says_what_it_does(capsys):
    run(ModelCheckpoint("m{epoch}", verbose=1, save_best_only=True), [2.0, 3.0, 1.0])
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1: val_loss improved to 2.00000",
        "Epoch 1: saving to m1",
        "Epoch 2: val_loss did not improve from 2.00000",
        "Epoch 3: val_loss improved from 2.00000 to 1.00000",
        "Epoch 3: saving to m3",
    ]


def test_checkpoint_without_the_value_saves():
    with pytest.warns(UserWarning, match="ModelCheckpoint: expected 'val_loss' in the logs"):
        model, _, _ = run(ModelCheckpoint("m", save_best_only=True), [2.0], names=("loss",))
    assert model.saved == [("model", "m")]


def test_checkpoint_names_that_are_not_known():
    with pytest.raises(KeyError, match="filepath: expected names among epoch, val_loss, received 'm-{val_mse}'"):
        run(ModelCheckpoint("m-{val_mse}"), [2.0])


# ---- the learning rate ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, rates",
    [
        ({"patience": 2}, [1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5]),
        ({"patience": 1}, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.0625, 0.0625]),
        ({"patience": 1, "min_lr": 0.2}, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]),
        ({"patience": 1, "cooldown": 2}, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125]),
        ({"patience": 2, "min_delta": 0.2}, [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ({"patience": 3, "mode": "max"}, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]),
    ],
)
def test_reduce_on_plateau(options, rates):
    callback = ReduceLROnPlateau(factor=0.5, **options)
    for _ in range(2):  # a second fit begins anew
        assert run(callback, LOSSES)[2] == rates


def test_reduce_on_plateau_says_so_and_logs(capsys):
    callback, logs = ReduceLROnPlateau(patience=1, verbose=1), {"val_loss": 1.0}
    callback.set_model(Pretender())
    for epoch in range(2):
        callback.on_epoch_end(epoch, logs)
    assert logs["learning_rate"] == 1.0 and callback.model.optimizer.learning_rate == 0.1
    assert capsys.readouterr().out == "Epoch 2: reducing the learning rate to 0.1\n"


def test_scheduler(capsys):
    assert run(LearningRateScheduler(lambda epoch, lr: lr / 2 if epoch else lr), [1.0] * 3)[2] == [1, 0.5, 0.25]
    logs = {}
    scheduler = LearningRateScheduler(lambda epoch: np.float32(0.5) ** epoch, verbose=1)
    assert run(scheduler, [1.0] * 3)[2] == [1, 0.5, 0.25]
    assert capsys.readouterr().out.splitlines()[1] == "Epoch 2: setting the learning rate to 0.5"
    scheduler.on_epoch_end(0, logs)
    assert logs == {"learning_rate": 0.25}


def test_an_error_inside_the_schedule_is_not_hidden():
    def schedule(epoch, lr):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        run(LearningRateScheduler(schedule), [1.0])


def test_the_rate_of_an_optimizer_with_a_schedule_is_not_set():
    model = Pretender(ExponentialDecay(1.0, 10, 0.5))
    for callback in (ReduceLROnPlateau(), LearningRateScheduler(lambda epoch, lr: lr)):
        with pytest.raises(TypeError, match="learning_rate: expected a schedule in place of the one there is"):
            run(callback, [1.0], model=model)


# ---- files ----------------------------------------------------------------------------------------------------------
def read(path, **options):
    with open(path, newline="") as file:
        return list(csv.reader(file, **options))


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    run(CSVLogger(path), [0.5, 0.25], [1.0, 2.0], names=("val_loss", "loss"))
    assert read(path) == [["epoch", "loss", "val_loss"], ["0", "1.0", "0.5"], ["1", "2.0", "0.25"]]
    run(CSVLogger(str(path)), [np.float64(0.125)], names=("loss",))  # starts anew; room for a validation to come
    assert read(path) == [["epoch", "loss", "val_loss"], ["0", "0.125", "NA"]]
    run(CSVLogger(path, append=True), [0.5], [1.0], names=("val_loss", "loss"), start=1)
    assert read(path) == [["epoch", "loss", "val_loss"], ["0", "0.125", "NA"], ["1", "1.0", "0.5"]]
    run(CSVLogger(tmp_path / "new.csv", ";", append=True), [0.5], names=("loss",))
    assert read(tmp_path / "new.csv", delimiter=";") == [["epoch", "loss", "val_loss"], ["0", "0.5", "NA"]]
    run(CSVLogger(path), [np.array([1, 2])], names=("loss",))
    assert read(path)[1] == ["0", "[1, 2]", "NA"]


def test_csv_file_is_complete_after_each_epoch(tmp_path):
    path, logger = tmp_path / "log.csv", CSVLogger(tmp_path / "log.csv")
    logger.on_train_begin()
    for epoch in range(3):
        logger.on_epoch_end(epoch, {"loss": 0.5})
        assert len(read(path)) == epoch + 2
    logger.on_train_begin()  # the fit before was interrupted: no on_train_end
    assert read(path) == []
    logger.on_train_end()


# ---- bad input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: CallbackList([EarlyStopping]), TypeError, "callbacks: expected Callback objects, received <class"),
        (lambda: CallbackList(lambda: 0), TypeError, "callbacks: expected Callback objects"),
        (lambda: LambdaCallback(on_epoch=print), TypeError, "LambdaCallback: unknown argument 'on_epoch'"),
        (lambda: EarlyStopping(mode="down"), ValueError, 'mode: expected "auto", "min" or "max", received \'down\''),
        (lambda: ModelCheckpoint("m", save_freq=0), ValueError, 'save_freq: expected "epoch" or a whole number of 1'),
        (lambda: ModelCheckpoint("m", save_freq="batch"), ValueError, "save_freq: expected"),
        (lambda: ReduceLROnPlateau(factor=1), ValueError, "factor: expected a number below 1, received 1"),
        (
            lambda: run(LearningRateScheduler(lambda epoch: "fast"), [1.0]),
            ValueError,
            "schedule: learning rate: expected a finite number of 0 or more, received 'fast'",
        ),
    ],
)
def test_bad_input(act, error, message):
    with pytest.raises(error, match=message):
        act()


# ---- real training --------------------------------------------------------------------------------------------------
X = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
Y = (X @ np.array([[1.0], [-1.0], [0.5], [2.0]], np.float32)).astype(np.float32)


def small_model(optimizer="sgd", **options):
    fm.set_random_seed(0)
    model = fm.Sequential([fm.Input((4,)), Dense(1)])
    model.compile(optimizer, "mse", **options)
    return model


def test_fit_calls_in_keras_order():
    recorder = Recorder()
    model = small_model()
    history = model.fit(X, Y, 16, epochs=1, verbose=0, validation_data=(X, Y), callbacks=[recorder])
    assert [name for name, *_ in recorder.calls] == [
        "on_train_begin",
        "on_epoch_begin",
        *("on_train_batch_begin", "on_train_batch_end") * 2,
        "on_test_begin",
        *("on_test_batch_begin", "on_test_batch_end") * 2,
        "on_test_end",
        "on_epoch_end",
        "on_train_end",
    ]
    assert [args[0] for name, *args in recorder.calls if name == "on_train_batch_end"] == [0, 1]
    logs = {name: args[-1] for name, *args in recorder.calls}
    assert set(logs["on_epoch_end"]) == {"loss", "val_loss"} == set(history.history) == set(logs["on_train_end"])
    assert set(logs["on_train_batch_end"]) == {"loss"} == set(logs["on_test_end"])
    assert logs["on_train_batch_end"]["loss"] == logs["on_epoch_end"]["loss"] == history.history["loss"][0]
    assert recorder.model is model and recorder.params == {"verbose": 0, "epochs": 1, "steps": 2}


def test_evaluate_and_predict_call_too():
    recorder, model = Recorder(), small_model(metrics=["mae"])
    loss, mae = model.evaluate(X, Y, 16, callbacks=[recorder])
    names = ["on_test_begin", *("on_test_batch_begin", "on_test_batch_end") * 2, "on_test_end"]
    assert [name for name, *_ in recorder.calls] == names
    assert recorder.calls[-1][1] == recorder.calls[-2][2] == pytest.approx({"loss": loss, "mae": mae})
    recorder.calls.clear()
    outputs = model.predict(X, 16, callbacks=recorder)
    names = ["on_predict_begin", *("on_predict_batch_begin", "on_predict_batch_end") * 2, "on_predict_end"]
    assert [name for name, *_ in recorder.calls] == names
    np.testing.assert_array_equal(recorder.calls[2][2]["outputs"], outputs[:16])


def test_stop_training_ends_the_epoch():
    model = small_model()
    seen = []

    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            self.model.stop_training = batch == 1

    history = model.fit(X, Y, 4, epochs=5, verbose=0, callbacks=[Stop()])
    assert seen == [0, 1] and history.epoch == [0]
    assert len(model.fit(X, Y, 4, epochs=2, verbose=0).epoch) == 2  # not stopped by what was said before


def test_early_stopping_in_training():
    model = small_model(SGD(0.3))
    kept = []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(model.get_weights()))
    stopping = EarlyStopping("loss", min_delta=0.5, patience=2, restore_best_weights=True)
    history = model.fit(X, Y, epochs=50, verbose=0, callbacks=[keep, stopping])
    assert len(history.epoch) == stopping.best_epoch + 3 < 50
    for got, wanted in zip(model.get_weights(), kept[stopping.best_epoch], strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_learning_rate_callbacks_in_training():
    model = small_model(SGD(1e-6))
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[ReduceLROnPlateau("loss", 0.5, 1, min_delta=1.0)])
    assert history.history["learning_rate"] == [1e-6, 1e-6, 5e-7, 2.5e-7] and model.optimizer.learning_rate == 1.25e-7
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1)))
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.2, 0.3])


def test_files_in_training(tmp_path):
    model = small_model()
    log, path = CSVLogger(tmp_path / "log.csv"), tmp_path / "{epoch}.npz"
    history = model.fit(X, Y, epochs=3, verbose=0, validation_split=0.25, callbacks=[log, ModelCheckpoint(path)])
    rows = read(tmp_path / "log.csv")
    assert rows[0] == ["epoch", "loss", "val_loss"]
    assert [float(row[1]) for row in rows[1:]] == history.history["loss"]
    again = fm.load_model(tmp_path / "3.npz")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_nan_ends_training(capsys):
    model = small_model()
    y = Y.copy()
    y[5] = np.nan
    history = model.fit(X, y, 4, epochs=3, shuffle=False, verbose=0, callbacks=[TerminateOnNaN()])
    assert history.epoch == [0] and capsys.readouterr().out.startswith("Batch 1: Invalid loss")


def test_fit_takes_a_list_made_before():
    every = CallbackList([History()])
    model = small_model()
    assert model.fit(X, Y, epochs=2, verbose=0, callbacks=every) is every.history
    assert every.history.epoch == [0, 1] and model.history is every.history
