"""Models: what is shown while training, Ctrl-C, and bad input."""

import os
import signal
import sys
import types
import warnings

import numpy as np
import pytest

import fastmask.models.sequential
from fastmask import initializers, optimizers
from fastmask.callbacks import LambdaCallback
from fastmask.layers import GRU, LSTM, Dense, Dropout, Input, Layer, Masking
from fastmask.models import Sequential
from fastmask.models.progress import format_logs
from fastmask.optimizers import Adam
from fastmask.ragged import Ragged
from helpers import assert_doctests
from test_models import B, F, K, classifier, compiled, data, same, tagger


# ---- what is shown, and Ctrl-C --------------------------------------------------------------------------------------
def test_a_line_an_epoch(capsys, monkeypatch):
    x, mask, rows, _ = data()
    model = compiled(classifier())
    model.fit(x, rows, mask=mask, epochs=2, verbose=2, validation_split=0.3)
    out = capsys.readouterr().out.splitlines()
    assert (
        len(out) == 2
        and out[1].startswith("epoch 2/2")
        and all(word in out[1] for word in ("loss", "accuracy", "val_loss"))
    )
    model.fit(x, rows, mask=mask, verbose=0)
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # as if it were not installed
    model.fit(x, rows, mask=mask, verbose=1)
    assert capsys.readouterr().out.startswith("epoch 1/1")


def test_a_line_of_evaluate_and_predict(capsys):
    x, mask, rows, _ = data()
    model = compiled(classifier())
    model.evaluate(x, rows, mask=mask, verbose=2)
    model.predict(x, verbose=2)
    evaluated, predicted = capsys.readouterr().out.splitlines()
    assert evaluated.startswith("test  ") and "  loss " in evaluated and "  accuracy " in evaluated
    assert predicted.startswith("predict  ") and predicted.endswith(" s")
    model.evaluate(x, rows)
    model.predict(x)
    assert capsys.readouterr().out == ""


def test_values_in_a_line():
    logs = {"loss": 1.23456, "small": 1e-5, "by_class": np.array([0.5, 0.25]), "note": "best"}
    assert format_logs(logs) == "loss 1.2346  small 1e-05  by_class [0.5000 0.2500]  note best"


@pytest.fixture
def bars(monkeypatch):
    """What is called of tqdm."""
    calls = []

    class Bar:
        def __init__(self, **options):
            calls.append(("begin", options["desc"], options["total"]))

        def set_postfix_str(self, text, refresh=True):
            calls.append(("text", text))

        def update(self):
            calls.append(("update",))

        def close(self):
            calls.append(("close",))

    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    return calls


def test_the_bar(bars):
    x, mask, rows, _ = data()
    model = compiled(classifier())
    model.fit(x, rows, mask=mask, batch_size=4, epochs=2, validation_data=(x, rows))
    assert [c[0] for c in bars] == ["begin", *["text", "update"] * 3, "text", "close"] * 2
    assert bars[0] == ("begin", "epoch 1/2", 3) and all(word in bars[-2][1] for word in ("accuracy", "val_loss"))
    bars.clear()
    model.evaluate(x, rows, 4, verbose=1)
    assert [c[0] for c in bars] == ["begin", *["text", "update"] * 3, "text", "close"] and bars[0][1] == "test"
    bars.clear()
    model.predict((batch for batch in [x, x]), verbose=1)
    assert bars == [("begin", "predict", None), ("update",), ("update",), ("text", ""), ("close",)]


def test_the_bar_is_left_as_it_is_after_an_error(bars):
    def fail(batch, logs):
        raise RuntimeError("mine")

    x, mask, rows, _ = data()
    with pytest.raises(RuntimeError, match="mine"):
        compiled(classifier()).fit(x, rows, 4, callbacks=LambdaCallback(on_train_batch_end=fail))
    assert [c[0] for c in bars] == ["begin", "close"]


@pytest.mark.skipif(
    not hasattr(signal, "SIGINT") or os.name == "nt", reason="os.kill with SIGINT ends the process on Windows"
)
def test_ctrl_c_leaves_the_weights_after_a_whole_step(monkeypatch):
    x, mask, rows, _ = data()
    options = {"mask": mask, "batch_size": 2, "shuffle": False, "verbose": 0}
    expected = compiled(classifier())
    initializers.set_random_seed(0)
    expected.fit(x[:6], rows[:6], **{**options, "mask": mask[:6]})  # three steps

    model, updates, update = compiled(classifier()), [], Adam.update

    def interrupted(self, *args, **slots):
        update(self, *args, **slots)
        updates.append(1)
        if len(updates) == 2 * len(model.weights) + 3:  # in the middle of the third step
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Adam, "update", interrupted)
    before = signal.getsignal(signal.SIGINT)
    initializers.set_random_seed(0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, rows, epochs=5, **options)
    assert len(updates) == 3 * len(model.weights) and signal.getsignal(signal.SIGINT) is before
    same(model.get_weights(), expected.get_weights())


# ---- bad input ------------------------------------------------------------------------------------------------------
X, MASK, ROWS, STEPS = data()
RAGGED = Ragged.from_padded(X, MASK)


def fit(x=X, y=ROWS, make=classifier, **options):
    return lambda: compiled(make()).fit(x, y, **{"verbose": 0, **options})


BAD = {
    "uncompiled_fit": (
        lambda: classifier().fit(X, ROWS),
        ValueError,
        r"fit: expected a call of compile\(optimizer, loss\)",
    ),
    "uncompiled_evaluate": (lambda: classifier().evaluate(X, ROWS), ValueError, "evaluate: expected a call of compile"),
    "no_loss": (lambda: compiled(classifier(), None).fit(X, ROWS), ValueError, "compile with a loss"),
    "loss": (lambda: compiled(classifier(), "msee"), ValueError, "loss: expected one of"),
    "optimizer": (lambda: compiled(classifier(), optimizer="adm"), ValueError, "optimizer: expected"),
    "metric": (lambda: compiled(classifier(), metrics=["acuracy"]), ValueError, "metric: expected"),
    "metrics": (lambda: compiled(classifier(), metrics="accuracy"), TypeError, "metrics: expected a list"),
    "compile": (lambda: compiled(classifier(), los="mse"), TypeError, "unexpected keyword argument 'los'"),
    "loss_weights": (lambda: compiled(classifier(), loss_weights=[1, 2]), ValueError, "loss_weights: expected a list"),
    "rows": (fit(y=ROWS[:-1]), ValueError, "y: expected 11 rows as x has, received 10"),
    "weights": (fit(sample_weight=np.ones(3)), ValueError, "sample_weight: expected 11 rows"),
    "weight_shape": (fit(sample_weight=np.ones((B, 2))), ValueError, "sample_weight: expected"),
    "labels": (fit(y=ROWS + 1), ValueError, r"y_true: expected class numbers 0..3, received 4"),
    "targets": (fit(y=STEPS), ValueError, "y_true: expected class numbers of shape"),
    "object": (
        fit(x=np.array([np.zeros((2, F)), np.zeros((3, F))], dtype=object), y=ROWS[:2]),
        TypeError,
        "x: expected numbers.*pass a list",
    ),
    "strings": (fit(y=["a"] * B), TypeError, "y: expected numbers"),
    "features": (fit(x=X[..., :2]), ValueError, r"expected shape \(B,T,3\), received \(\d+, 6, 2\)"),
    "list": (fit(x=[X[0], X[1, :, :2]], y=ROWS[:2]), ValueError, r"x: arrays\[1\]: expected steps of shape"),
    "mask": (fit(mask=MASK[:, :-1]), ValueError, r"mask: expected shape \(B,T\) = \(11,6\), received \(11, 5\)"),
    "mask_ragged": (fit(x=RAGGED, mask=MASK), ValueError, "mask: expected shape"),
    "numpy_ma": (fit(x=np.ma.masked_invalid(X)), TypeError, "x: expected an ndarray, received numpy.ma"),
    "none": (fit(x=X[:0], y=ROWS[:0]), ValueError, "x: expected at least one row"),
    "no_targets": (fit(y=None), ValueError, "y: expected targets"),
    "batch_size": (fit(batch_size=0), ValueError, "batch_size: expected at least 1, received 0"),
    "epochs": (fit(epochs=-1), ValueError, "epochs: expected"),
    "verbose": (fit(verbose=3), ValueError, "verbose: expected"),
    "split": (fit(validation_split=1.5), ValueError, "validation_split: expected a number between 0 and 1"),
    "split_all": (fit(validation_split=0.999), ValueError, "validation_split: expected to leave rows"),
    "validation": (fit(validation_data=X), ValueError, r"validation_data: expected \(x, y\)"),
    "callbacks": (fit(callbacks=[1]), TypeError, "callbacks: expected Callback objects, received 1"),
    "step_lengths": (
        fit(x=X, y=list(Ragged.from_padded(STEPS, MASK)), make=tagger),
        ValueError,
        r"y: expected as many steps as are valid",
    ),
    "ragged_lengths": (
        fit(x=RAGGED, y=RAGGED.with_values(np.zeros(len(RAGGED.values), int)).take(np.arange(B)[::-1]), make=tagger),
        ValueError,
        "y_true: expected the offsets",
    ),
    "short_targets": (fit(x=RAGGED, y=STEPS[:, :2], make=tagger), ValueError, "y: expected at least 6 steps"),
    "layer": (lambda: Sequential([3]), TypeError, "expected a layer, received 3"),
    "twice": (
        lambda: Sequential([Dense(2, name="d"), Dense(2, name="d")]),
        ValueError,
        "different names, received 'd' twice",
    ),
    "input": (lambda: Sequential([Dense(2), Input((3,))]), ValueError, "expected Input as the first"),
    "input_shape": (lambda: Input(3), ValueError, "shape: expected a tuple"),
    "input_dim": (lambda: Input((None, -1)), ValueError, "shape: expected a tuple of whole numbers"),
    "get_layer": (lambda: classifier().get_layer("nothing"), ValueError, "name: expected one of .*'nothing'"),
    "get_layer_index": (lambda: classifier().get_layer(index=9), ValueError, "index: expected one of 3 layers"),
    "pop": (lambda: Sequential().pop(), ValueError, "there is none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()


def test_a_model_with_a_layer_that_cannot_go_back():
    class Square(Layer):
        supports_masking = True

        def call(self, inputs):
            return inputs**2

    x, mask, rows, _ = data()
    model = compiled(Sequential([GRU(5), Square(), Dense(K, activation="softmax")]))
    before = model.predict(x, mask=mask)
    with pytest.raises(NotImplementedError, match="Square has no backward"):
        model.fit(x, rows, mask=mask, verbose=0)
    same([model.predict(x, mask=mask)], [before])
    first = compiled(Sequential([Square(), GRU(5), Dense(K, activation="softmax")]))
    first.fit(x, rows, mask=mask, verbose=0)  # nobody needs the gradient of the inputs


def test_no_warnings_in_ordinary_use():
    x, mask, rows, _ = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = compiled(
            Sequential(
                [Masking(), LSTM(4, return_sequences=True), Dropout(0.1), GRU(4), Dense(K, activation="softmax")]
            )
        )
        model.fit(x, rows, mask=mask, verbose=0, validation_split=0.3)
        model.predict(Ragged.from_padded(x, mask))
    assert optimizers.get("adam").name == "adam"


def test_examples_in_docstrings():
    assert_doctests(fastmask.models.sequential)
