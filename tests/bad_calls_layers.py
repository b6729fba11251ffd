"""Bad calls of every layer: its constructor, the call, backward, and the methods of all layers."""

import functools

import numpy as np

import fastmask as fm
import layer_cases
from bad_calls import COMPLEX, OBJECTS, STRINGS, Calls, function, method
from bad_calls_ops import RAGGED, B, F, T, f
from fastmask import layers
from fastmask.layers.masked import plain
from fastmask.ragged import Ragged

NEEDED = {  # what the constructors must be given
    "Activation": {"activation": "tanh"},
    "Bidirectional": {"layer": layers.GRU(2)},
    "Conv1D": {"filters": 2, "kernel_size": 3},
    "Dense": {"units": 2},
    "Dot": {"axes": 1},
    "Dropout": {"rate": 0.5},
    "Embedding": {"input_dim": 7, "output_dim": 2},
    "GRU": {"units": 2},
    "GRUCell": {"units": 2},
    "GaussianNoise": {"stddev": 0.5},
    "LSTM": {"units": 2},
    "LSTMCell": {"units": 2},
    "Lambda": {"function": np.tanh},
    "Permute": {"dims": (2, 1)},
    "RNN": {"cell": layers.GRUCell(2)},
    "RepeatVector": {"n": 3},
    "Reshape": {"target_shape": (2, 2)},
    "SimpleRNN": {"units": 2},
    "SimpleRNNCell": {"units": 2},
    "SpatialDropout1D": {"rate": 0.5},
    "StackedRNNCells": {"cells": [layers.GRUCell(2), layers.LSTMCell(2)]},
    "TimeDistributed": {"layer": layers.Dense(2)},
}
NAMES = [
    n for n in layers.__all__ if isinstance(getattr(layers, n), type) and issubclass(getattr(layers, n), layers.Layer)
]


def made(name):
    return function(getattr(layers, name), **NEEDED.get(name, {}))


# ---- constructors ----------------------------------------------------------------------------------------------------
for name in NAMES:
    calls = made(name)
    calls.each("name", (3, ["a"]), TypeError, "str")
    calls.bad("no_such", 3, TypeError, "among", "'no_such'", says="unknown argument")
    if name not in (
        "RNN",
        "Bidirectional",
        "TimeDistributed",
        "StackedRNNCells",
    ):  # these have that of the layer inside
        calls.each("dtype", ("int32", "no such", 3), ValueError, "float32 or float64")
    parameters = set(
        calls.of.__init__.__code__.co_varnames[
            : calls.of.__init__.__code__.co_argcount + calls.of.__init__.__code__.co_kwonlyargcount
        ]
    )
    for argument in parameters:
        kind = argument.rpartition("_")[2]
        if kind in ("initializer", "regularizer", "constraint") and not argument.startswith("activity"):
            calls.each(
                argument,
                ("no such", 3),
                ValueError,
                {"initializer": "glorot_uniform", "regularizer": "l1_l2", "constraint": "max_norm"}[kind],
                says=kind,
            )
    if "activity_regularizer" in parameters:
        calls.bad("activity_regularizer", "l2", ValueError, "None")
RECURRENT = ("SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell")
for name in (*RECURRENT, "Dense"):
    calls = made(name).count("units", wrong_type=ValueError).name("activation", "tanh", others=(3, "tan", np.tanh))
    calls.bad("activation", "softmax", ValueError, "tanh") if name in RECURRENT else None
    if name in RECURRENT:
        for rate in ("dropout", "recurrent_dropout"):
            calls.number(rate, low=-0.1).bad(rate, 1.5, ValueError, "from 0 to 1")
        calls.count("seed", 0, none=True, expected="0 or more")
        for initializer in ("recurrent_initializer", "kernel_initializer"):
            calls.bad(initializer, "no such", ValueError, "glorot_uniform", says="initializer")
    if name.startswith(("GRU", "LSTM")):
        calls.name("recurrent_activation", "tanh", others=(3, "tan"), says="activation")
    if name in RECURRENT[:3]:
        calls.bad("use_cudnn", "yes", ValueError, "'auto'").each("implementation", (3, "1"), ValueError, "1 or 2")
made("Activation").name("activation", "tanh", others=(3, "tan", np.tanh))
for name in ("Attention", "AdditiveAttention"):
    calls = made(name)
    calls.number("dropout", low=-0.1).bad("dropout", 1.5, ValueError, "from 0 to 1")
    calls.count("seed", 0, none=True, expected="0 or more")
made("Attention").name("score_mode", "dot")
for name in ("BatchNormalization", "LayerNormalization"):
    calls = made(name)
    calls.number("epsilon", low=-0.1)
    calls.each("axis", (0.5, "a", None), (TypeError, ValueError), "axis" if name[0] == "L" else "")
    if name[0] == "B":
        calls.number("momentum", low=-0.1)
        calls.bad("momentum", 1.5, ValueError, "from 0 to 1").bad("renorm", True, ValueError, "False")
made("UnitNormalization").each("axis", (0.5, "a", None), (TypeError, ValueError), "")
calls = made("Bidirectional")
calls.each("layer", (3, None), ValueError, "layer")
calls.bad("layer", layers.Dense(2), (TypeError, ValueError), "GRU, LSTM", "Dense")
calls.name("merge_mode", "concat", others=(3, "min"))
calls.each("backward_layer", (3, layers.Dense(2)), (TypeError, ValueError), "", received="", says="layer")
made("Concatenate").each("axis", (0.5, "a", None, True), (TypeError, ValueError), "whole number")
calls = made("Conv1D").count("filters")
calls.name("padding", "valid, same, causal", others=(3, "full", None))
calls.name("activation", "tanh", others=(3, "tan")).bad("groups", 2, ValueError, "1")
calls.name("data_format", "channels_last", others=(3, "channels_first"))
for argument in ("kernel_size", "strides", "dilation_rate"):
    calls.each(argument, (1.5, "3", None, True, [2, 3], 0, -7), (TypeError, ValueError), "", received="")
calls = made("Cropping1D")
calls.each("cropping", (-1, 1.5, "a", (1,), None, True), ValueError, "whole number")
calls.bad("cropping", (1, -1), ValueError, "0 or more", "-1")
calls = made("ZeroPadding1D")
calls.each("padding", (-1, 1.5, "a", (1,), None, True), ValueError, "whole number")
calls.bad("padding", (1, -1), ValueError, "0 or more", "-1")
calls.name("data_format", "channels_last", others=(3, "channels_first"))
made("UpSampling1D").count("size")
made("Dot").each("axes", (1.5, "a", None, (1,), True), (TypeError, ValueError), "")
for name in ("Dropout", "SpatialDropout1D"):
    calls = made(name)
    calls.number("rate", low=-0.1).bad("rate", 1.5, ValueError, "from 0 to 1")
    calls.count("seed", 0, none=True, expected="0 or more")
made("Dropout").each("noise_shape", (3, (1.5,), ("a",), (-1,)), (TypeError, ValueError), "", received="")
made("GaussianNoise").number("stddev", low=-0.1).count("seed", 0, none=True, expected="0 or more")
made("ELU").number("alpha"), made("LeakyReLU").number("negative_slope", low=-0.1)
made("ReLU").number("negative_slope", low=-0.1).number("max_value", low=-0.1, none=True).number("threshold", low=-0.1)
made("PReLU").each("shared_axes", ("a", [0.5], [0], [True]), (TypeError, ValueError), "whole number", received="")
calls = made("Embedding").count("input_dim").count("output_dim")
calls.bad("weights", [f(7, 3)], ValueError, "(7, 2)", "(7, 3)")
calls.bad("weights", [STRINGS], (TypeError, ValueError), "", "")
for name in ("Flatten", "GlobalAveragePooling1D", "GlobalMaxPooling1D"):
    made(name).name("data_format", "channels_last", others=(3, "channels_first"))
calls = made("Lambda")
calls.each("function", (3, None, "tanh"), TypeError, "callable").each("gradient", (3, "tanh"), TypeError, "callable")
calls.each("arguments", (3, "a", [1]), TypeError, "dict")
calls.each("output_shape", (3.5, "a"), (TypeError, ValueError), "").bad("mask", STRINGS, TypeError, "", "<U1")
made("Masking").numbers("mask_value").bad("mask_value", [1.0], ValueError, "one number", "(1,)")
made("Permute").each("dims", ((1, 3), (1, 1), 3, "ab", (1.5, 2)), ValueError, "", received="")
made("RepeatVector").count("n", wrong_type=ValueError)
calls = made("Reshape")
calls.each("target_shape", (3.5, "ab", (1.5,), (-1, -1), (-2,), None), (TypeError, ValueError), "", received="")
made("RNN").each("cell", (3, None, "gru", [], [3], layers.Dense(2)), (TypeError, ValueError), "", received="")
calls = made("StackedRNNCells")
calls.each("cells", (3, None, [], [3], [layers.Dense(2)]), (TypeError, ValueError), "", received="", says="cell")
made("Softmax").each("axis", (1.5, "a", None), (TypeError, ValueError), "")
made("TimeDistributed").each("layer", (3, None, "dense", np.tanh), ValueError, "layer", received="")
calls = function(layers.Input, shape=(None, 3))
calls.each("shape", (3, "ab", (1.5,), (-1,), (True,), None), ValueError, "tuple of whole numbers")
calls.each("batch_size", (1.5, -1, "a", True), ValueError, "whole number")
calls.each("dtype", ("U3", object), ValueError, "numbers", received="")
calls.bad("dtype", "no such", TypeError, "NumPy").each("name", (3, ["a"]), TypeError, "str")
calls.bad("batch_shape", (2, 3), ValueError, "None beside", "both")
calls.bad("batch_shape", 3, ValueError, "tuple with the batch", also={"shape": None})


# ---- calls and backward ----------------------------------------------------------------------------------------------
def listed(case, value):
    return [value] * len(case.shapes) if case.several else value


def called(name, case):
    def make():
        inputs = layer_cases.inputs_of(case, "float32")
        layer = layer_cases.new_layer(case, "float32", inputs)
        masks = layer_cases.masks_of(case)
        given = {"inputs": inputs, "mask": masks} if case.several else {"inputs": inputs[0], "mask": masks[0]}
        return layer, given | case.call

    return Calls(layers.Layer.__call__, make, f"{name}()")


def trained(name, case, cls):
    def make():
        inputs = layer_cases.inputs_of(case, "float32")
        layer = layer_cases.new_layer(case, "float32", inputs)
        outputs = layer(inputs if case.several else inputs[0], training=True, **case.call)
        many = isinstance(outputs, (list, tuple))
        grad = [np.ones_like(plain(y)) for y in outputs] if many else np.ones_like(plain(outputs))
        return layer.backward, {"grad": grad}

    return Calls(cls.backward, make, f"{name}.backward")


# these take features as many as they come (or their masks say more than their shapes)
ANY_SHAPE = {
    *("Activation", "Add", "ApplyMask", "Attention", "Average", "Concatenate", "Cropping1D", "Dot", "Dropout", "ELU"),
    *("Embedding", "Flatten", "GaussianNoise", "GlobalAveragePooling1D", "GlobalMaxPooling1D", "Identity", "Lambda"),
    *("LeakyReLU", "Masking", "Maximum", "Minimum", "Multiply", "Permute", "ReLU", "RepeatLike", "RepeatVector"),
    *("Reshape", "Softmax", "SpatialDropout1D", "Subtract", "UnitNormalization", "UpSampling1D", "ZeroPadding1D"),
}
for name, cases in layer_cases.CASES.items():
    case = cases[0]
    cls = getattr(layers, name, None) or getattr(fm, name)
    shape = case.shapes[0]
    calls = called(name, case)
    others = layer_cases.inputs_of(case, "float32")[1:]
    for wrong, dtype in ((STRINGS, "<U1"), (COMPLEX, "complex64"), (OBJECTS, "object")):
        calls.bad("inputs", [wrong, *others] if case.several else wrong, TypeError, "numbers", dtype)
    calls.bad("inputs", None, (TypeError, ValueError), "numbers", "object")
    masked = np.ma.masked_array(np.ones(shape, np.float32))
    calls.bad("inputs", [masked, *others] if case.several else masked, TypeError, "ndarray", "numpy.ma")
    if not case.several:
        calls.bad("inputs", np.float32(3), ValueError, "rows", "single number", {"mask": None})
    if not case.ids:
        wide = f(*shape[:-1], shape[-1] + 1)
        if name not in ANY_SHAPE:
            calls.bad(
                "inputs", [wide, *others] if case.several else wide, ValueError, "", str(shape[-1] + 1), {"mask": None}
            )
    if not cls.supports_ragged and not case.several:
        calls.bad("inputs", RAGGED, TypeError, "array", "Ragged", {"mask": None})
    steps = len(shape) > 2 or case.ids
    if steps:
        for wrong in (
            np.ones((shape[0], shape[1] + 1), bool),
            np.ones((2 * shape[0], shape[1]), bool),
            np.ones((2, 2, 2, 2), bool),
        ):
            calls.bad("mask", listed(case, wrong), ValueError, "", str(wrong.shape))
        calls.bad("mask", listed(case, np.full(shape[:2], "x")), TypeError, "numbers", "<U1")
        calls.bad("mask", listed(case, np.full(shape[:2], None)), TypeError, "numbers", "object")
        calls.bad("mask", listed(case, Ragged(np.ones(6, bool), [0, 6])), TypeError, "array", "Ragged")
    if case.several:
        calls.bad("mask", np.ones(shape[:2], bool), ValueError, f"list of {len(case.shapes)}", "")
    calls = trained(name, case, cls)
    good = calls.make()[1]["grad"]
    if not isinstance(good, list) and not case.ids:
        calls.bad("grad", good[None], ValueError, "shape", str(good[None].shape))
        calls.bad("grad", good[:-1], ValueError, "shape", str(good[:-1].shape))
    if not isinstance(good, list):
        calls.bad("grad", np.full(good.shape, "x"), TypeError, "numbers", "<U1")
        calls.bad("grad", np.ones(good.shape, complex), TypeError, "numbers", "complex128")

# ---- methods of all layers -------------------------------------------------------------------------------------------
dense = lambda: functools.reduce(lambda layer, x: (layer(x), layer)[1], [f(B, T, F)], layers.Dense(2, name="dense"))  # noqa: E731
calls = method(layers.Layer.set_weights, dense, weights=[f(F, 2), f(2)])
calls.bad("weights", [f(F, 2)], ValueError, "2 arrays", "1")
calls.bad("weights", [f(F, 3), f(2)], ValueError, "(2, 2)", "(2, 3)")
calls.bad("weights", [f(F, 2), STRINGS], TypeError, "numbers", "<U1")
calls.bad("weights", [f(F, 2), [np.nan, 0]], ValueError, "finite", "NaN")
calls.bad("weights", [f(F, 2), [1e39, 0]], ValueError, "finite", "infinity")
calls.bad("weights", 3, TypeError, "list", "int").bad("weights", None, TypeError, "list", "NoneType")
calls = method(layers.Layer.add_weight, dense, shape=(2, 3), initializer="zeros", name="w")
calls.each("shape", ((2, -1), (1.5,), ("2",), (True,)), ValueError, "whole numbers")
calls.each("shape", ("ab", 1.5), TypeError, "whole numbers")
calls.each("dtype", ("int32", "no such"), ValueError, "float32 or float64")
calls.bad("initializer", "no such", ValueError, "glorot_uniform")
calls.bad("initializer", lambda shape, dtype: f(3), ValueError, "(2, 3)", "(3,)")
calls.bad("regularizer", "no such", ValueError, "l1").bad("constraint", "no such", ValueError, "max_norm")
calls.bad("shape", (2**40, 2**40), MemoryError, "fits into memory", "bytes", says="w")
calls.each("name", (3, ["a"]), TypeError, "str")
calls = Calls(
    layers.Layer.add_gradient,
    lambda: (lambda layer: (layer.add_gradient, {"weight": layer.kernel, "gradient": f(F, 2)}))(dense()),
)
calls.bad("gradient", f(F, 3), ValueError, "(2, 2)", "(2, 3)")
calls.bad("gradient", STRINGS, TypeError, "numbers", "<U1").bad("weight", f(2), TypeError, "Variable", "ndarray")
calls = method(layers.Layer.check_input_shape, dense, shape=(None, None, F))
calls.bad("shape", (None, 3), ValueError, "2", "(None, 3)", says="inputs")
calls = method(layers.Layer.from_config, dense, config={"units": 2})
calls.bad("config", 3, TypeError, "dict", "int")
calls.bad("config", {"units": 2, "no_such": 3}, TypeError, "among", "'no_such'", says="Dense")
calls.bad("config", {"units": -1}, ValueError, "1 or more", "-1", says="units")
calls = function(layers.serialize, layer=layers.Dense(2, name="d")).bad("layer", 3, TypeError, "layer", "int")


class Unknown(layers.Layer):
    pass


calls.bad("layer", Unknown(name="unknown"), ValueError, "registered", "Unknown", says="unknown")
calls = function(layers.deserialize, config=layers.serialize(layers.Dense(2, name="d")))
calls.bad("config", 3, ValueError, "configuration", "3", says="layer")
calls.bad("config", {"class_name": "NoSuch"}, ValueError, "registered", "'NoSuch'", says="layer")
calls.bad("config", {"class_name": "Dense", "config": 3}, TypeError, "dict", "3", says="layer")
calls.bad("config", {}, ValueError, "registered", "None", says="layer")
calls.bad(
    "config",
    {"class_name": "Dense", "config": {"units": 2, "no_such": 1}},
    TypeError,
    "among",
    "'no_such'",
    says="Dense",
)
for cls, states in ((layers.GRU, 1), (layers.LSTM, 2), (layers.SimpleRNN, 1)):
    new = lambda cls=cls: (lambda layer: (layer(f(B, T, F)), layer)[1])(cls(4))  # noqa: E731
    calls = Calls(
        layers.Layer.__call__,
        lambda new=new, states=states: (new(), {"inputs": f(B, T, F), "initial_state": [f(B, 4)] * states}),
        f"{cls.__name__}()",
    )
    calls.bad("initial_state", [f(B, 5)] * states, ValueError, "(B,H)", "(3, 5)")
    calls.bad("initial_state", [f(B, 4)] * 3, ValueError, f"{states} arrays", "3")
    calls.bad("initial_state", [STRINGS] * states, TypeError, "numbers", "<U1")
    calls = method(cls.prepare, new, batch_size=2, steps=3, masked=True, stateful=False)
    calls.count("batch_size", 0, expected="").count("steps", 0, expected="")
    calls.bad("masked", 3, TypeError, "True or False", "3").bad("stateful", "yes", TypeError, "True or False", "'yes'")
cells = (
    (layers.Cell, lambda: layers.GRUCell(2)),
    (layers.StackedRNNCells, lambda: layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(3)])),
    (layers.RNN, lambda: layers.RNN(layers.GRUCell(2))),
)
for cls, new in cells:
    method(cls.get_initial_state, new, batch_size=2).count("batch_size", 0, expected="")
function(layers.Lambda.from_config, config={"function": np.tanh}).bad("config", 3, TypeError, "dict", "int")
