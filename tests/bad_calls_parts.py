"""Bad calls of losses, metrics, optimizers, schedules, activations, initializers, regularizers, constraints, callbacks
and of what stands beside them.
"""

import numpy as np

import fastmask as fm
from bad_calls import COMPLEX, STRINGS, Calls, function, method
from bad_calls_ops import MASK, RAGGED, UNLIKE, B, F, T, f
from fastmask import (
    activations,
    callbacks,
    constraints,
    initializers,
    losses,
    metrics,
    optimizers,
    registry,
    regularizers,
    schedules,
    testing,
)
from fastmask.layers import Dense
from fastmask.metrics import CLASSES as METRICS
from fastmask.ragged import Ragged
from fastmask.variable import RowsGradient, Variable

# ---- losses ----------------------------------------------------------------------------------------------------------
LOSSES = [
    c for c in vars(losses).values() if isinstance(c, type) and issubclass(c, losses.Loss) and getattr(c, "kind", 0)
]
TARGETS, PREDICTIONS = f(B, T, F), abs(f(B, T, F))


def function_loss(y_true, y_pred):
    return np.mean((y_pred - y_true) ** 2, axis=-1)


function_loss.gradient = lambda y_true, y_pred: y_pred - y_true


class OwnLoss(losses.Loss):
    def call(self, y_true, y_pred):
        return function_loss(y_true, y_pred)

    def gradient(self, y_true, y_pred):
        return function_loss.gradient(y_true, y_pred)


def masked_batch(calls, y_true="y_true"):
    """Rows for y_true, y_pred, sample_weight and mask of whatever takes a batch of outputs."""
    calls.numbers(y_true).numbers("y_pred").mask()
    calls.bad("y_pred", f(B, T, 0), ValueError, "K at least 1", "(3, 4, 0)")
    calls.bad("y_pred", np.ma.masked_array(PREDICTIONS), TypeError, "ndarray", "numpy.ma")
    calls.bad(y_true, f(B, T + 1, F), ValueError, "shape (3, 4", "(3, 5, 2)")
    calls.bad(y_true, RAGGED, TypeError, "array, as y_pred is one", "Ragged")
    calls.bad("sample_weight", np.ones(T), ValueError, "(3,) for rows", "(4,)")
    calls.bad("sample_weight", np.ones((B, T + 1)), ValueError, "(3, 4) for steps", "(3, 5)")
    calls.bad("sample_weight", np.full(B, "x"), TypeError, "numbers", "<U1")
    calls.bad("sample_weight", Ragged(np.ones(6), [0, 4, 6, 6]), TypeError, "array, as y_pred is one", "Ragged")
    ragged = {"y_pred": RAGGED, y_true: RAGGED, "mask": None, "sample_weight": None}
    calls.bad("y_pred", RAGGED, ValueError, "offsets of y_pred", "other", ragged | {y_true: UNLIKE}, says=y_true)
    calls.bad(
        "y_pred", RAGGED, ValueError, "(3,)", "(6,)", ragged | {"sample_weight": np.ones(6)}, says="sample_weight"
    )
    if np.ndim(calls.make()[1][y_true]) == 3:
        calls.bad("y_pred", RAGGED, ValueError, "(6,)", "(3, 4)", ragged | {"mask": MASK}, says="mask")


for cls in LOSSES:
    calls = function(cls, reduction="sum")
    calls.name("reduction", "sum_over_batch_size", others=(3, "average", ["sum"]))
    calls.each("dtype", ("int32", "no such", 3), ValueError, "float32 or float64")
    calls.each("name", (3, ["a"]), TypeError, "str")
for cls in (losses.BinaryCrossentropy, losses.CategoricalCrossentropy):
    function(cls).number("label_smoothing", low=-0.1).each("from_logits", (3, "yes", None), TypeError, "True or False")
    function(cls).each("axis", (1, None, "last"), ValueError, "-1").bad("label_smoothing", 1.5, ValueError, "[0, 1]")
calls = function(losses.SparseCategoricalCrossentropy).each("ignore_class", (0.5, "a"), TypeError, "integer")
calls.each("axis", (1, None, "last"), ValueError, "-1").each("from_logits", (3, "yes"), TypeError, "True or False")
function(losses.Huber).number("delta", low=0)
function(losses.CosineSimilarity).each("axis", (1, None, "last"), ValueError, "-1")
for cls in (losses.Loss, losses.FusedLoss, losses.LossFunctionWrapper):
    make = {losses.Loss: OwnLoss, losses.FusedLoss: losses.MeanSquaredError}.get(cls, cls)
    given = {"fn": function_loss} if cls is losses.LossFunctionWrapper else {}
    calls = Calls(cls, lambda make=make, given=given: (make, dict(given)))
    calls.name("reduction", "sum_over_batch_size", others=(3, "average"))
    calls.each("dtype", ("int32", "no such"), ValueError, "float32 or float64")
    calls.each("name", (3, ["a"]), TypeError, "str")
calls.each("fn", (3, None, "mse"), TypeError, "function")
for of in ("__call__", "value_and_grad", "sums", "sums_and_grad"):
    for new in (losses.MeanSquaredError, OwnLoss):
        calls = method(
            getattr(losses.Loss, of), new, y_true=TARGETS, y_pred=PREDICTIONS, sample_weight=np.ones((B, T)), mask=MASK
        )  # fmt: skip
        masked_batch(calls)
for module, kind, names in (
    (losses, "loss", "mean_squared_error"),
    (metrics, "metric", "auc"),
    (optimizers, "optimizer", "sgd"),
    (initializers, "initializer", "zeros"),
    (regularizers, "regularizer", "l1"),
    (constraints, "constraint", "max_norm"),
    (schedules, "learning_rate", "ExponentialDecay"),
):
    good = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 1.0, "decay_steps": 3, "decay_rate": 0.5},
    }
    calls = function(module.get, identifier=good if module is schedules else names)
    calls.each("identifier", (3, "no such", ["a"]), ValueError, names, says=kind)
    calls.bad("identifier", {"class_name": "NoSuch"}, ValueError, "class_name", "'NoSuch'", says=kind)
    calls.bad("identifier", {"class_name": 3}, ValueError, "class_name", "3", says=kind)
    calls.bad("identifier", {}, ValueError, "class_name", "None", says=kind)
    calls.bad("identifier", {"class_name": "Dense", "config": {}}, ValueError, "class_name", "'Dense'", says=kind)
    named = good["class_name"] if module is schedules else type(module.get(names)).__name__
    calls.bad("identifier", {"class_name": named, "config": 3}, TypeError, "config", "3", says=kind)
    calls.bad("identifier", {"class_name": named, "config": {"no_such": 1}}, TypeError, named, "no_such", says=kind)
    thing = "schedule" if module is schedules else kind
    calls = function(module.serialize, **{thing: module.get(good if module is schedules else names)})
    calls.each(thing, (3, "sgd", f), ValueError, names, says=kind, received="")
calls = function(metrics.get, identifier="accuracy", y_true_shape=(3, 1), y_pred_shape=(3, 2))
calls.bad("y_true_shape", None, ValueError, "the shapes", "None")

# ---- metrics ---------------------------------------------------------------------------------------------------------
BINARY = {"y_true": np.ones((B, T, F)), "y_pred": np.full((B, T, F), 0.5)}
SPARSE = {"y_true": np.zeros((B, T)), "y_pred": PREDICTIONS}


class OwnMetric(metrics.Metric):
    def step_values(self, y_true, y_pred):
        return np.mean(y_pred - y_true, axis=-1)


def metric_value(y_true, y_pred):
    return np.mean(y_pred - y_true, axis=-1)


for cls in METRICS:
    calls = function(cls)
    calls.each("dtype", ("int32", "no such", 3), ValueError, "float32 or float64")
    calls.each("name", (3, ["a"]), TypeError, "str")
    if cls in (metrics.Mean, metrics.Sum):
        continue
    sparse = "Sparse" in cls.__name__ or cls is metrics.Perplexity
    of = next(vars(c)["update_state"] for c in cls.__mro__ if "update_state" in vars(c))
    calls = method(of, cls, **(SPARSE if sparse else BINARY), sample_weight=np.ones((B, T)), mask=MASK)
    masked_batch(calls)
    if "Sparse" in cls.__name__ and "Accuracy" not in cls.__name__ or "TopK" in cls.__name__ and sparse:
        calls.bad("y_true", np.full((B, T), F), ValueError, f"0..{F - 1}", str(F))
for of in ("__call__", "valid_steps"):
    masked_batch(method(getattr(metrics.Metric, of), OwnMetric, **BINARY, sample_weight=np.ones((B, T)), mask=MASK))
calls = function(metrics.MeanMetricWrapper, fn=metric_value).each("fn", (3, None, "mse"), TypeError, "function")
calls = Calls(metrics.Metric, lambda: (OwnMetric, {}))
calls.each("dtype", ("int32", "no such"), ValueError, "float32 or float64")
calls.each("name", (3, ["a"]), TypeError, "str")
calls = method(metrics.Metric.targets, OwnMetric, **BINARY).numbers("y_true")
for of in (metrics.Mean.update_state, metrics.Mean.__call__):
    calls = method(of, metrics.Mean, values=f(B, T), sample_weight=np.ones((B, T)), mask=MASK).numbers("values").mask()
    calls.bad("sample_weight", np.ones(T), ValueError, "(3,) for rows", "(4,)")
    calls.bad("sample_weight", STRINGS, TypeError, "numbers", "<U1")
function(metrics.BinaryAccuracy).number("threshold")
function(metrics.TopKCategoricalAccuracy).count("k"), function(metrics.SparseTopKCategoricalAccuracy).count("k")
function(metrics.Huber).number("delta", low=0)
function(metrics.CosineSimilarity).each("axis", (1, None), ValueError, "-1")
for cls in (metrics.BinaryCrossentropy, metrics.CategoricalCrossentropy):
    function(cls).number("label_smoothing", low=-0.1).each("from_logits", (3, "yes"), TypeError, "True or False")
for cls in (metrics.SparseCategoricalCrossentropy, metrics.Perplexity):
    calls = function(cls)
    calls.each("ignore_class", (0.5, "a"), TypeError, "integer")
    calls.each("from_logits", (3, "yes"), TypeError, "True or False")
for cls in (
    metrics.Precision,
    metrics.Recall,
    metrics.TruePositives,
    metrics.FalsePositives,
    metrics.TrueNegatives,
    metrics.FalseNegatives,
):
    calls = function(cls)
    calls.each("thresholds", (-0.1, 1.1, float("nan"), "a", [[0.5]], 1j), ValueError, "[0, 1]", received="")
    if cls in (metrics.Precision, metrics.Recall):
        calls.count("top_k", none=True).count("class_id", 0, none=True)
calls = function(metrics.AUC).count("num_thresholds", 2)
calls.name("curve", "ROC")
calls.name("summation_method", "interpolation").each("multi_label", (3, "yes"), TypeError, "True or False")
calls.each("thresholds", ([-0.1], [1.1], ["a"], 3), ValueError, "[0, 1]", received="")
calls.each("from_logits", (3, "no"), TypeError, "True or False")
calls.each("label_weights", ([-1.0], ["a"], 3), (TypeError, ValueError), "", received="")
calls.bad("num_labels", 2, ValueError, "None without multi_label", "2")
calls.bad("num_labels", 1.5, TypeError, "whole number", also={"multi_label": True})
for cls in (metrics.FBetaScore, metrics.F1Score):
    calls = function(cls)
    calls.name("average", "micro", others=(3, "mean"))
    calls.each("threshold", (0, 1.1, "a", float("nan")), ValueError, "(0, 1]")
function(metrics.FBetaScore).number("beta", low=0)

# ---- optimizers ------------------------------------------------------------------------------------------------------
OPTIMIZERS = (optimizers.SGD, optimizers.RMSprop, optimizers.Adam, optimizers.AdamW)
for cls in (*OPTIMIZERS, optimizers.Optimizer):
    calls = function(cls, learning_rate=0.1)
    calls.number("learning_rate", low=-0.1).number("weight_decay", low=-0.1, none=cls is not optimizers.AdamW)
    for clip in ("clipnorm", "clipvalue", "global_clipnorm"):
        calls.number(clip, low=0, none=True)
    calls.count("gradient_accumulation_steps", 2, none=True).each("name", (3, ["a"]), TypeError, "str")
    calls.bad("clipnorm", 1.0, ValueError, "at most one", "clipnorm, clipvalue", {"clipvalue": 1.0})
    calls.bad("no_such", 1.0, TypeError, "learning_rate", "'no_such'", says=cls.__name__)
    calls.bad("use_ema", True, ValueError, "None or False").bad("loss_scale_factor", 2.0, ValueError, "None or False")
    own = {"SGD": ("momentum",), "RMSprop": ("rho", "momentum", "epsilon"), "Adam": ("beta_1", "beta_2", "epsilon")}
    for argument in own.get(cls.__name__.replace("AdamW", "Adam"), ()):
        calls.number(argument, low=-0.1)
        if argument != "epsilon":
            calls.bad(argument, 1.5, ValueError, "1")
    for flag in {"SGD": ("nesterov",), "RMSprop": ("centered",), "Adam": ("amsgrad",), "AdamW": ("amsgrad",)}.get(
        cls.__name__, ()
    ):
        calls.each(flag, (3, "yes", None), TypeError, "True or False")


def started():
    """An optimizer with state, and its weight."""
    optimizer, weight = optimizers.Adam(), Variable(f(2, 3), name="w")
    optimizer.apply([f(2, 3)], [weight])
    return optimizer, weight


def optimizer_calls(of, arguments):
    def make():
        optimizer, weight = started()
        return getattr(optimizer, of), arguments(weight)

    return Calls(getattr(optimizers.Optimizer, of), make)


def rows(*numbers, width=3):
    return RowsGradient(np.array(numbers), f(len(numbers), width), (2, 3))


WEIGHT = Variable(f(2, 3), name="w")
BAD_GRADIENTS = (
    (f(2, 4), ValueError, "(2, 3)", "(2, 4)"),
    (STRINGS, TypeError, "numbers", "<U1"),
    (COMPLEX, TypeError, "numbers", "complex64"),
    (None, ValueError, "at least one", "None for all"),
    (rows(0, 2), ValueError, "0 to 1", "[0 2]"),
    (rows(1, 0), ValueError, "ascending", "[1 0]"),
    (rows(0, width=4), ValueError, "(2, 3)", "(2, 3)"),
)
apply = optimizer_calls("apply", lambda w: {"grads": [f(2, 3)], "trainable_variables": [w]})
apply_gradients = optimizer_calls("apply_gradients", lambda w: {"grads_and_vars": [(f(2, 3), w)]})
for gradient, raises, expected, received in BAD_GRADIENTS:
    apply.bad("grads", [gradient], raises, expected, received)
    apply_gradients.bad("grads_and_vars", [(gradient, WEIGHT)], raises, expected, received, says="grads")
apply.bad("grads", [f(2, 3)] * 2, ValueError, "1 weights", "2").bad("grads", 3, TypeError, "list", "int")
apply.bad("trainable_variables", [f(2, 3)], TypeError, "list of Variable", "ndarray")
twice = {"trainable_variables": [WEIGHT] * 2}
apply.bad("grads", [f(2, 3)] * 2, ValueError, "once", "twice", twice, "trainable_variables")
apply_gradients.bad("grads_and_vars", 3, TypeError, "list", "int")
apply_gradients.bad("grads_and_vars", [f(2, 3)], TypeError, "pairs", "a ndarray")
apply_gradients.bad(
    "grads_and_vars", [(f(2, 3),) * 2], TypeError, "list of Variable", "ndarray", says="trainable_variables"
)
calls = optimizer_calls("build", lambda w: {"variables": [w]})
calls.bad("variables", [f(2)], TypeError, "list of Variable", "ndarray").bad("variables", 3, TypeError, "list", "int")
calls = optimizer_calls("exclude_from_weight_decay", lambda w: {"var_list": [w], "var_names": ["bias"]})
calls.bad("var_list", [f(2)], TypeError, "list of Variable", "ndarray").bad("var_list", 3, TypeError, "list", "int")
calls.bad("var_names", "bias", TypeError, "list", "str").bad("var_names", [3], TypeError, "list of str", "int")
calls = optimizer_calls("get_state", lambda w: {"weights": [w]})
calls.bad("weights", [f(2)], TypeError, "list of Variable", "ndarray").bad("weights", 3, TypeError, "list", "int")
STATE = {"iterations": 1, "learning_rate": 0.1, "0/m": f(2, 3), "0/v": abs(f(2, 3))}
calls = optimizer_calls("set_state", lambda w: {"weights": [w], "state": dict(STATE)})
for key, value, raises, expected, received in (
    ("iterations", -1, ValueError, "0 or more", "-1"),
    ("iterations", 1.5, ValueError, "whole number", "1.5"),
    ("iterations", None, ValueError, "whole number", "None"),
    ("learning_rate", "a", ValueError, "number", "'a'"),
    ("learning_rate", -1, ValueError, "0 or more", "-1"),
    ("0/m", f(2, 4), ValueError, "(2, 3)", "(2, 4)"),
    ("0/m", STRINGS, TypeError, "numbers", "<U1"),
    ("1/m", f(2, 3), ValueError, "weights 0 to 0", "'1/m'"),
    ("0/no_such", f(2, 3), ValueError, "m, v", "'0/no_such'"),
):
    calls.bad("state", STATE | {key: value}, raises, expected, received)
calls.bad("state", 3, TypeError, "dict", "int")
calls.bad("weights", [f(2, 3)], TypeError, "list of Variable", "ndarray").bad("weights", 3, TypeError, "list", "int")
calls.bad("state", {k: v for k, v in STATE.items() if k != "0/m"}, ValueError, "m of w", "")
function(optimizers.SGD.from_config, config={"learning_rate": 0.1}).bad("config", 3, TypeError, "dict", "int")

# ---- schedules -------------------------------------------------------------------------------------------------------
SCHEDULES = {
    schedules.ExponentialDecay: {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    schedules.InverseTimeDecay: {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    schedules.PolynomialDecay: {
        "initial_learning_rate": 0.1,
        "decay_steps": 10,
        "end_learning_rate": 0.01,
        "power": 1.0,
    },
    schedules.CosineDecay: {"initial_learning_rate": 0.1, "decay_steps": 10, "alpha": 0.0, "warmup_steps": 2},
    schedules.CosineDecayRestarts: {
        "initial_learning_rate": 0.1,
        "first_decay_steps": 10,
        "t_mul": 2.0,
        "m_mul": 1.0,
        "alpha": 0.0,
    },
    schedules.PiecewiseConstantDecay: {"boundaries": [2], "values": [0.1, 0.01]},
}
for cls, arguments in SCHEDULES.items():
    calls = function(cls, **arguments).each("name", (3, ["a"]), TypeError, "str")
    for argument in arguments:
        if argument not in ("boundaries", "values"):
            calls.number(argument, low=0 if "decay_steps" in argument else -0.1)
    for flag in {"staircase", "cycle"} & set(registry.inspect.signature(cls).parameters):
        calls.each(flag, (3, "yes"), TypeError, "True or False")
    method(cls.__call__, lambda c=cls, a=arguments: c(**a), step=3).number("step", low=-1)
function(schedules.CosineDecay, **SCHEDULES[schedules.CosineDecay]).number("warmup_target", low=-1, none=True)
calls = function(schedules.PiecewiseConstantDecay, boundaries=[2], values=[0.1, 0.01])
calls.bad("boundaries", [2, 1], ValueError, "ascending", "[2, 1]", {"values": [1, 2, 3]})
calls.bad("values", [0.1], ValueError, "2, one more", "[0.1]")
calls.each("boundaries", (3, None), TypeError, "list").each("values", (3, None), TypeError, "list")
calls.bad("boundaries", ["a"], ValueError, "number", "'a'").bad("values", [-1.0, 1.0], ValueError, "0 or more", "-1.0")

# ---- activations, initializers, regularizers, constraints ------------------------------------------------------------
calls = function(activations.get, identifier="tanh")
calls.name("identifier", "linear, tanh", others=(3, "tan", ["tanh"], np.tanh), says="activation")
calls = function(activations.name_of, identifier="tanh")
calls.name("identifier", "linear, tanh", others=(3, "tan"), says="activation")
calls.bad("identifier", "softmax", ValueError, "tanh", "'softmax'", {"elementwise": True}, "activation")
function(activations.Activation, name="tanh").name("name", "tanh", others=(3, "tan"))
method(activations.Activation.__call__, lambda: activations.get("tanh"), x=f(2, 3)).numbers("x")
function(fm.set_random_seed, seed=3).count("seed", 0, expected="0 or more")
function(initializers.check_seed, seed=3).count("seed", 0, none=True, expected="0 or more")
function(initializers.new_generator, seed=3).count("seed", 0, none=True, expected="0 or more")
function(initializers.check_shape, shape=(2, 3)).each(
    "shape", (3.5, "ab", None, (2, "3"), (2, -1)), (TypeError, ValueError), "whole numbers"
)
calls = function(initializers.fans, shape=(2, 3))
calls.each("shape", (3.5, "ab", None, (2, "3"), (2, -1)), (TypeError, ValueError), "whole numbers")
RANDOM = (
    initializers.GlorotUniform,
    initializers.GlorotNormal,
    initializers.HeUniform,
    initializers.HeNormal,
    initializers.LecunUniform,
    initializers.LecunNormal,
    initializers.Orthogonal,
    initializers.RandomUniform,
    initializers.RandomNormal,
    initializers.TruncatedNormal,
    initializers.VarianceScaling,
    initializers.RandomInitializer,
)
for cls in RANDOM:
    function(cls, seed=3).count("seed", 0, none=True, expected="0 or more")
calls = function(initializers.Constant)
calls.number("value"), function(initializers.Identity).number("gain"), function(initializers.Orthogonal).number("gain")
calls = function(initializers.RandomUniform).number("minval").number("maxval")
calls.bad("maxval", -1.0, ValueError, "at least minval", "-1.0")
for cls in (initializers.RandomNormal, initializers.TruncatedNormal):
    function(cls).number("mean").number("stddev", low=-0.1)
calls = function(initializers.VarianceScaling).number("scale", low=0).name("mode", "fan_in, fan_out, fan_avg")
calls.name("distribution", "uniform, truncated_normal")
for cls in (initializers.Zeros, initializers.Ones, initializers.Constant, initializers.Identity, *RANDOM[:-1]):
    seed = {"seed": 3} if cls in RANDOM else {}
    calls = method(cls.__call__, lambda c=cls, s=seed: c(**s), shape=(2, 2))
    calls.each("shape", ("ab", None, (2, -1), (2, 1.5), (2, "3"), (2, True)), (TypeError, ValueError), "whole numbers")
    calls.each("dtype", ("int32", "no such", "U3"), ValueError, "float32 or float64")
    if cls in (initializers.Identity, initializers.Orthogonal):
        calls.bad("shape", (2,), ValueError, "two axes", "(2,)")
for cls, factors in {
    regularizers.L1: ("l1",), regularizers.L2: ("l2",), regularizers.L1L2: ("l1", "l2"),
    regularizers.OrthogonalRegularizer: ("factor",),
}.items():  # fmt: skip
    calls = function(cls)
    for argument in factors:
        calls.number(argument, low=-0.1, none=True)
    for of in ("__call__", "gradient"):
        calls = method(getattr(cls, of), cls, x=f(2, 3)).numbers("x")
        if cls is regularizers.OrthogonalRegularizer:
            calls.bad("x", f(3), ValueError, "matrix", "(3,)")
function(regularizers.OrthogonalRegularizer).name("mode", '"rows" or "columns"')
calls = function(regularizers.get, identifier="l1")
calls.bad("identifier", f, TypeError, "derivative gradient(x)", "function", says="regularizer")
for cls in (constraints.MaxNorm, constraints.MinMaxNorm, constraints.UnitNorm, constraints.NonNeg):
    calls = method(cls.__call__, cls, w=f(2, 3)).numbers("w")
    if cls is not constraints.NonNeg:
        calls.bad("w", np.float32(3), ValueError, "axis 0", "()")
        function(cls).each("axis", (1.5, "0", None, [], [True]), ValueError, "whole number")
function(constraints.MaxNorm).number("max_value", low=-0.1)
calls = function(constraints.MinMaxNorm)
calls.number("min_value", low=-0.1).number("max_value", low=-0.1).number("rate", low=-0.1)
calls.bad("rate", 1.5, ValueError, "from 0 to 1")
calls.bad("min_value", 2.0, ValueError, "at least min_value", "1.0", says="max_value")

# ---- callbacks -------------------------------------------------------------------------------------------------------
calls = function(callbacks.CallbackList)
calls.each("callbacks", (3, "a", [3], callbacks.History), TypeError, "Callback objects", received="")
calls = method(callbacks.CallbackList.listens, callbacks.CallbackList, hook="on_train_end")
calls.name("hook", "on_train_end", others=("no such", 3))
calls = function(callbacks.LambdaCallback).each("on_epoch_end", (3, "a"), TypeError, "function")
calls.bad("no_such", f, TypeError, "on_epoch_begin", "'no_such'", says="LambdaCallback")
function(callbacks.TerminateOnNaN).each("raise_error", (3, "yes"), TypeError, "True or False")
WATCHING = (callbacks.MonitorCallback, callbacks.EarlyStopping, callbacks.ReduceLROnPlateau)
for cls in (*WATCHING, callbacks.ModelCheckpoint):
    calls = function(cls, **({"filepath": "a.npz"} if cls is callbacks.ModelCheckpoint else {}))
    calls.name("mode", '"auto", "min" or "max"', others=(3, "least", None)).each("monitor", (3, None), TypeError, "str")
    if cls in WATCHING:
        calls.number("min_delta")
        calls.bad("monitor", "wins", ValueError, '"min" or "max" for \'wins\'', '"auto"', says="mode")
    if cls is not callbacks.MonitorCallback:
        calls.each("verbose", (3, "yes", None), ValueError, "0 or 1")
function(callbacks.MonitorCallback).number("baseline", none=True)
calls = function(callbacks.EarlyStopping)
calls.count("patience", 0).count("start_from_epoch", 0).number("baseline", none=True)
calls.each("restore_best_weights", (3, "yes"), TypeError, "True or False")
calls = function(callbacks.ReduceLROnPlateau)
calls.count("patience", 0).count("cooldown", 0).number("min_lr", low=-1).number("factor", low=-1)
calls.bad("factor", 1.0, ValueError, "below 1")
calls = function(callbacks.ModelCheckpoint, filepath="a.npz").each("filepath", (3, None), TypeError, "path")
calls.each("save_freq", (0, -1, 1.5, "batch", None, True), ValueError, '"epoch" or a whole number')
calls.number("initial_value_threshold", none=True)
calls.each("save_best_only", (3, "yes"), TypeError, "True or False")
calls.each("save_weights_only", (3, "yes"), TypeError, "True or False")
calls = function(callbacks.LearningRateScheduler, schedule=lambda epoch: 0.1)
calls.each("schedule", (3, None, "a"), TypeError, "function")
calls.each("verbose", (3, "yes"), ValueError, "0 or 1")
calls = function(callbacks.CSVLogger, filename="a.csv").each("filename", (3, None), TypeError, "path")
calls.each("separator", (3, "", None, ",,"), (TypeError, ValueError), "one character")
calls.each("append", (3, "yes"), TypeError, "True or False")


class Trained:
    """As much of a model as a callback looks at."""

    def __init__(self):
        self.optimizer = optimizers.SGD(0.1)


def watching(cls, **options):
    callback = cls(**options)
    callback.set_model(Trained())
    return callback


calls = method(
    callbacks.LearningRateScheduler.on_epoch_begin,
    lambda: watching(
        callbacks.LearningRateScheduler, schedule=lambda epoch: [0.1, -1.0, "a", None, float("nan")][epoch]
    ),
    epoch=0,
)
for epoch, received in ((1, "-1.0"), (2, "'a'"), (3, "None"), (4, "nan")):
    calls.bad("epoch", epoch, ValueError, "number of 0 or more", received, says="schedule: learning rate")
method(
    callbacks.TerminateOnNaN.on_train_batch_end, lambda: callbacks.TerminateOnNaN(True), batch=0, logs={"loss": 1.0}
).bad("logs", {"loss": np.nan}, RuntimeError, "finite", "nan", says="loss")

# ---- beside them -----------------------------------------------------------------------------------------------------
function(fm.set_num_threads, n=2).each("n", (0, -7, 1.5, "3", None, True, float("nan")), ValueError, "positive integer")
calls = function(registry.register_serializable, package="tests")
calls.each("package", (3, ["a"]), TypeError, "str").each("name", (3, ["a"]), TypeError, "str")
decorate = Calls(
    registry.register_serializable, lambda: (registry.register_serializable("tests", "row"), {"cls": OwnLoss})
)
calls = decorate.bad("cls", 3, TypeError, "class or a function", "3")
calls.bad("cls", "OwnLoss", TypeError, "class or a function", "'OwnLoss'")
calls = function(testing.check_layer, layer=Dense(2, dtype="float64"), inputs=(2, 3), gradients=False)
calls.bad("layer", 3, TypeError, "a layer", "int")
calls.bad("layer", None, TypeError, "a layer", "NoneType").count("elements", 0).count("seed", 0)
calls.bad("inputs", 3, (TypeError, ValueError), "", "")
calls.bad("inputs", STRINGS, TypeError, "numbers", "<U1").bad("inputs", (2, -3), ValueError, "", "")
calls = function(testing.numerical_gradient, f=lambda: 1.0, a=np.ones(3))
calls.bad("a", np.ones(3, np.float32), TypeError, "float64", "float32")
calls.bad("a", [1.0], TypeError, "float64", "list").each("f", (3, None), TypeError, "function")
calls.number("h", low=0).bad("indices", [(3,)], IndexError, "(3,)", "(3,)").bad("indices", 3, TypeError, "list", "int")
calls = function(losses.MeanSquaredError.from_config, config={"reduction": "sum"})
calls.bad("config", 3, TypeError, "dict", "int").bad("config", None, TypeError, "dict", "NoneType")
