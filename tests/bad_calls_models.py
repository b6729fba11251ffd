"""Bad calls of models: making, compile, the loops, single batches, streams, files; and of the command line."""

import pathlib
import tempfile

import numpy as np

import fastmask as fm
from bad_calls import COMPLEX, STRINGS, function, method
from bad_calls_ops import MASK, UNLIKE, B, F, T, f
from fastmask import layers
from fastmask.models import Stream
from fastmask.models.saving import Saver
from fastmask.models.training import Trainer
from fastmask.ragged import Ragged

HOME = tempfile.TemporaryDirectory(prefix="fastmask-")  # goes when the process ends
FOLDER = pathlib.Path(HOME.name)
X, Y, CLASSES = f(B, T, F), f(B, T, 2), np.zeros((B, T), int)


def new(compiled=True):
    model = fm.Sequential([fm.Input((None, F)), layers.Dense(2, name="d", kernel_initializer="ones")], name="m")
    if compiled:
        model.compile("sgd", "mse", metrics=["mae"])
    return model


def two_inputs():
    a, b = fm.Input((None, F), name="a"), fm.Input((None, F), name="b")
    model = fm.Model(
        [a, b], [layers.Add(name="sum")([a, b]), layers.Dense(2, name="d", kernel_initializer="ones")(a)], name="two"
    )
    model.compile("sgd", "mse")
    return model


def count(calls, *arguments, low=1, none=True):
    for argument in arguments:
        calls.count(argument, low, none=none, expected="")


def data(calls, x="x", targets=True, rows=True):
    """Rows for what every loop takes."""
    calls.bad(x, STRINGS, TypeError, "numbers", "<U1").bad(x, COMPLEX, TypeError, "numbers", "complex64")
    calls.bad(x, np.array([None, None]), TypeError, "numbers", "object").bad(x, 3, ValueError, "rows", "single number")
    calls.bad(x, np.ma.masked_array(X), TypeError, "ndarray", "numpy.ma")
    calls.bad(x, f(B, T, F + 1), ValueError, "(B,...,2)", str((B, T, F + 1)), says="d: inputs", late=True)
    calls.bad(x, [f(3, 2), f(2, 3)], ValueError, "(2,)", "(3,)").bad(x, {"other": X}, (TypeError, ValueError), "", "")
    calls.bad("mask", MASK[:, :-1], ValueError, "(3,4)", "(3, 3)")
    calls.bad("mask", np.full((B, T), "x"), TypeError, "numbers", "<U1")
    calls.bad("mask", Ragged(np.ones(6, bool), [0, 4, 6, 6]), TypeError, "array", "Ragged")
    if targets:
        calls.bad("y", None, ValueError, "targets" if x == "x" else "", "None")
        calls.bad("y", STRINGS, TypeError, "numbers", "<U1")
        calls.bad("y", Y[:2], ValueError, "3 rows", "2").bad("y", 3, ValueError, "rows", "single number")
        calls.bad("y", f(B, T, 3), ValueError, "(3, 4, 2)", "(3, 4, 3)", says="y_true", late=True)
        calls.bad("y", UNLIKE, ValueError, "as many steps", "2 for 4", says="y", late=True)
        calls.bad("sample_weight", np.ones(2), ValueError, "3 rows", "2")
        calls.bad("sample_weight", np.full(B, "x"), TypeError, "numbers", "<U1")
        calls.bad("sample_weight", np.ones((B, T + 1)), ValueError, "(3, 4) for steps", "(3, 5)", late=True)
    if rows:
        calls.bad(x, None, ValueError, "array", "None")
        calls.bad(
            x, iter([]), ValueError, "None beside", "ndarray", says="y" if targets else "mask"
        ) if targets else None


# ---- making ----------------------------------------------------------------------------------------------------------
Model, Sequential = fm.Model, fm.Sequential
tensor = fm.Input((None, F), name="x")
hidden = layers.Dense(2, name="h")(tensor)
calls = function(Model, inputs=tensor, outputs=hidden)
calls.each("inputs", (3, X, None, "x"), TypeError, "symbolic tensors", received="")
calls.each("outputs", (3, X, None, "x"), TypeError, "symbolic tensors", received="")
calls.bad("inputs", [], ValueError, "at least one", "none")
calls.bad("outputs", [], ValueError, "at least one", "none")
calls.bad("inputs", [tensor, tensor], ValueError, "once", "twice")
calls.bad("inputs", fm.Input((None, F), name="other"), ValueError, "given inputs alone", "Input x", says="outputs")
calls.each("name", (3, ["a"]), TypeError, "str")
calls = function(Sequential, layers=[layers.Dense(2)])
calls.bad("layers", [3], TypeError, "a layer", "3", says="layer")
calls.bad("layers", 3, TypeError, "list", "int").bad("layers", "ab", TypeError, "list", "str")
calls.each("name", (3, ["a"]), TypeError, "str")
calls = method(Sequential.add, new, layer=lambda: layers.Dense(3, name="e"))
calls.each("layer", (3, None, "dense", layers.Dense), TypeError, "a layer")
calls.bad("layer", layers.Dense(3, name="d"), ValueError, "different names", "'d'")
calls.bad("layer", fm.Input((None, 2)), ValueError, "first", "after others")
calls = method(
    Sequential.build, lambda: fm.Sequential([layers.Dense(2, name="d")], name="m"), input_shape=(None, None, F)
)
calls.each("input_shape", (3, "ab", None, ()), ValueError, "tuple with the batch")
calls.bad("input_shape", (None, 1.5), ValueError, "whole numbers", "1.5", says="shape")
calls = method(Model.get_layer, new, name="d")
calls.bad("name", "e", ValueError, "d", "'e'").bad("name", 3, ValueError, "d", "3")
calls.bad("name", None, ValueError, "name or an index", "neither")
calls.bad("index", 1, ValueError, "1 layers", "1", {"name": None})
calls.bad("index", "a", ValueError, "whole number", "'a'", {"name": None})
calls.bad("index", 0, ValueError, "name or an index", "both", says="name")
calls = method(Model.summary, new, print_fn=lambda: len)
calls.each("print_fn", (3, "print"), TypeError, "function")
calls.each("line_length", (1.5, "a", -1), (TypeError, ValueError), "whole number")
config = fm.Model(tensor, hidden, name="f").get_config()
for of, good in ((Model.from_config, config), (Sequential.from_config, new(False).get_config())):
    calls = function(of, config=good)
    calls.bad("config", 3, TypeError, "dict", "int").bad("config", {}, (ValueError, TypeError), "layers", "")
    calls.bad(
        "config", good | {"layers": [{"class_name": "NoSuch"}]}, ValueError, "registered", "'NoSuch'", says="layer"
    )

# ---- compile ---------------------------------------------------------------------------------------------------------
calls = method(Trainer.compile, new, optimizer="sgd", loss="mse")
calls.each("optimizer", (3, "no such", None), ValueError, "sgd")
calls.each("loss", (3, "no such"), ValueError, "mean_squared_error")
calls.bad("loss", ["mse", "mse"], ValueError, "list of 1", "2").bad("loss", {"e": "mse"}, ValueError, "names d", "'e'")
calls.bad("loss_weights", [1.0, 2.0], ValueError, "list of 1", "2")
calls.bad("loss_weights", {"e": 1.0}, ValueError, "names d", "'e'")
calls.each("loss_weights", (["a"], [float("nan")], [[1.0]], 3), (TypeError, ValueError), "", received="")
for argument in ("metrics", "weighted_metrics"):
    calls.bad(argument, "mae", TypeError, "list")
    calls.bad(argument, ["no such"], ValueError, "mean_squared_error", "'no such'", says="metric")
    calls.bad(argument, [3], ValueError, "", "3", says="metric")
calls.each("steps_per_execution", (2, 0, "a"), ValueError, "1")

# ---- the loops -------------------------------------------------------------------------------------------------------
calls = method(Trainer.fit, new, x=X, y=Y, mask=MASK, verbose=0)
data(calls)
count(calls, "batch_size", "steps_per_epoch", "validation_steps", "validation_batch_size")
calls.each("validation_freq", (1.5, "3", None, True, 0, -1), (TypeError, ValueError), "", received="")
calls.count("epochs", 0, expected="").count("initial_epoch", 0, expected="")
calls.each("validation_split", (-0.1, 1.0, 1.5, "a", float("nan")), ValueError, "between 0 and 1")
calls.bad("validation_split", 0.99, ValueError, "both parts")
calls.each("verbose", (3, "yes", -1), ValueError, "0, 1")
calls.each("callbacks", (3, "a", [3]), TypeError, "Callback objects", received="")
calls.each("shuffle", (3, "yes", None), ValueError, "True or False")
calls.each("bucket", (3, "yes"), TypeError, "True or False")
calls.each("class_weight", (3, "a", [1.0]), TypeError, "dict", received="")
calls.bad("class_weight", {0: -1.0}, ValueError, "0 or more", "-1.0")
calls.bad("class_weight", {-1: 1.0}, ValueError, "0", "-1")
calls.bad("class_weight", {"a": 1.0}, TypeError, "whole number", "'a'")
calls.bad("class_weight", {0: "a"}, ValueError, "number", "'a'")
calls.each("validation_data", (3, "ab"), ValueError, "(x, y)", received="")
calls.bad("validation_data", (X,), ValueError, "(x, y)", "tuple")
calls.bad("validation_data", (X, Y[:2]), ValueError, "3 rows", "2", says="y")
calls.bad(
    "validation_data",
    (X, Y, None, MASK),
    ValueError,
    "None beside",
    "one",
    {"validation_mask": MASK},
    "validation_mask",
)
calls.bad("x", X[:0], ValueError, "at least one row", "none", {"y": Y[:0], "mask": None})
calls = method(Trainer.evaluate, new, x=X, y=Y, mask=MASK)
data(calls)
count(calls, "batch_size", "steps")
calls.each("verbose", (3, "yes"), ValueError, "0, 1")
calls.bad("callbacks", 3, TypeError, "Callback objects").each("return_dict", (3, "yes"), TypeError, "True or False")
calls = method(Trainer.predict, new, x=X, mask=MASK)
data(calls, targets=False)
count(calls, "batch_size", "steps")
calls.each("verbose", (3, "yes"), ValueError, "0, 1").bad("callbacks", 3, TypeError, "Callback objects")
calls = method(Trainer.train_on_batch, new, x=X, y=Y, mask=MASK)
data(calls, rows=False)
calls.bad("class_weight", 3, TypeError, "dict", "int").each("return_dict", (3, "yes"), TypeError, "True or False")
calls = method(Trainer.test_on_batch, new, x=X, y=Y, mask=MASK)
data(calls, rows=False)
calls.each("return_dict", (3, "yes"), TypeError, "True or False")
data(method(Trainer.predict_on_batch, new, x=X, mask=MASK), targets=False, rows=False)
for of in (Trainer.fit, Trainer.evaluate, Trainer.train_on_batch):
    both = {"x": [X, X], "y": [f(B, T, F), Y]} | ({"verbose": 0} if of is Trainer.fit else {})
    calls = method(of, two_inputs, **both)
    calls.bad("x", [X], ValueError, "list of 2", "1")
    calls.bad("x", {"a": X, "c": X}, ValueError, "names a, b", "'c'")
    calls.bad("x", [X, X[:2]], ValueError, "3 rows", "2", says="x['b']")
    calls.bad("y", [Y], ValueError, "list of 2", "1")
    calls.bad("y", {"e": Y}, ValueError, "names sum, d", "'e'")
    calls.bad("x", {"a": X}, ValueError, "array", "None", says="x['b']")
    calls.bad("mask", MASK, ValueError, "list of 2", "ndarray")
    calls.bad("sample_weight", [np.ones(B)], ValueError, "list of 2", "1")
calls = method(Model.__call__ if "__call__" in vars(Model) else type(two_inputs()).__call__, two_inputs, inputs=[X, X])
calls.bad("inputs", [X], ValueError, "2", "1")
calls.bad("inputs", X, ValueError, "2", "one").bad("inputs", {"a": X, "c": X}, ValueError, "['a', 'b']", "'c'")
calls.bad("mask", MASK, ValueError, "list of 2", "array")
# ---- streams ---------------------------------------------------------------------------------------------------------
method(Model.stream, new, batch_size=2).count("batch_size", 0, expected="")
calls = function(Stream, model=new(), batch_size=2)
calls.count("batch_size", 0, expected="").bad("model", 3, TypeError, "Model", "int")
stream = lambda: new().stream(B)  # noqa: E731
calls = method(Stream.__call__, stream, chunk=X, mask=MASK)
calls.bad("chunk", X[:2], ValueError, "3 rows", "(2, 4, 2)", {"mask": None})
calls.bad("chunk", np.full(X.shape, "a"), TypeError, "numbers", "<U1", {"mask": None}, "inputs")
calls.bad("chunk", None, TypeError, "numbers", "object", {"mask": None}, "inputs")
calls.bad("chunk", f(B, T, F + 1), ValueError, "(B,...,2)", "3)", {"mask": None}, "d: inputs")
calls.bad("chunk", f(B, T), ValueError, "(B,...,2)", "(3, 4)", {"mask": None}, "d: inputs")
calls.bad("mask", MASK[:, :-1], ValueError, "(3,4)", "(3, 3)")
calls.bad("mask", np.full((B, T), "x"), TypeError, "numbers", "<U1")
calls = method(Stream.reset, stream, rows=[0])
calls.bad("rows", [3], ValueError, "3 rows", "[3]")
calls.bad("rows", [-4], ValueError, "3 rows", "[-4]")
calls.bad("rows", [0.5], TypeError, "numbers of rows or bools", "float64")
calls.bad("rows", ["a"], TypeError, "numbers of rows or bools", "<U1").bad("rows", [True], ValueError, "3 rows", "(1,)")

# ---- files -----------------------------------------------------------------------------------------------------------
SAVED, WEIGHTS, BROKEN = FOLDER / "model.npz", FOLDER / "weights.npz", FOLDER / "broken.npz"
new().save(SAVED), new().save_weights(WEIGHTS), BROKEN.write_bytes(SAVED.read_bytes()[:200])
for of, existing in ((Saver.save, SAVED), (Saver.save_weights, WEIGHTS)):
    calls = method(of, new, filepath=FOLDER / "new.npz")
    calls.each("filepath", (3, None), TypeError, "path")
    calls.bad("filepath", "model.h5", ValueError, "ends in .npz").bad("overwrite", "no", TypeError, "True or False")
    calls.bad("filepath", existing, FileExistsError, "a new name", existing.name, {"overwrite": False})
calls = method(Saver.load_weights, new, filepath=WEIGHTS)
calls.each("filepath", (3, None), TypeError, "path").bad("filepath", BROKEN, ValueError, "", "", says=BROKEN.name)
calls = function(fm.load_model, filepath=SAVED)
calls.each("filepath", (3, None), TypeError, "path").bad("filepath", BROKEN, ValueError, "", "", says=BROKEN.name)
calls.bad("filepath", WEIGHTS, ValueError, "a file of save", "save_weights", says=WEIGHTS.name)
calls.bad("custom_objects", {"a": 3}, ValueError, "None").each("compile", (3, "yes"), TypeError, "True or False")
