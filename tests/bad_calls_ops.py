"""Bad calls of fastmask.ops, fastmask.masks, Ragged, Variable and the helpers of sequences."""

import numba
import numpy as np

import fastmask as fm
from bad_calls import COMPLEX, OBJECTS, STRINGS, Calls, function, method
from fastmask.kernels.loss_names import KINDS
from fastmask.ops import (
    activation,
    attention,
    convolution,
    embedding,
    gemm,
    loss,
    normalization,
    optimizer,
    pool,
    user_cell,
)
from fastmask.ops import gru as gru_ops
from fastmask.ops import lstm as lstm_ops
from fastmask.ops import mask as mask_ops
from fastmask.ops import simple_rnn as simple_rnn_ops
from fastmask.ragged import Ragged
from fastmask.variable import Variable

B, T, F, H = 3, 4, 2, 5
MASK = np.arange(T) < np.array([[4], [2], [0]])


def f(*shape, dtype=np.float32):
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


RAGGED = Ragged(f(6, F), [0, 4, 6, 6])
UNLIKE = Ragged(f(6, F), [0, 2, 6, 6])  # other row lengths

# ---- recurrent -------------------------------------------------------------------------------------------------------
for module, name, gates, states in (
    (lstm_ops, "lstm", 4, 2),
    (gru_ops, "gru", 3, 1),
    (simple_rnn_ops, "simple_rnn", 1, 1),
):
    weights = {"kernel": f(F, gates * H), "recurrent_kernel": f(H, gates * H), "bias": f(gates * H)}
    if name == "gru":
        weights["bias"] = f(2, gates * H)
    initial = tuple(f(B, H) for _ in range(states))
    forward = getattr(module, f"{name}_forward")
    for op in (getattr(module, name), forward):
        calls = function(op, x=f(B, T, F), **weights, mask=MASK, initial_state=initial)
        calls.floats("x", "(B,T,F)", width=False).other_dtype("x", "float64", "float32", says="kernel")
        calls.bad("x", None, TypeError, "float32", "object")
        calls.bad("x", f(B, T, F + 1), ValueError, "(3,", "(2,", says="kernel")
        calls.bad("x", Ragged(f(6, 1, F), [0, 4, 6, 6]), ValueError, "(N,F)", "(6, 1, 2)")
        for weight in weights:
            calls.floats(weight, "shape").other_dtype(weight, "float32 as x")
        for weight in ("kernel", "recurrent_kernel"):
            calls.bad(weight, None, TypeError, "float32", "object")
        calls.mask()
        calls.bad("mask", np.ma.masked_array(MASK), (TypeError, ValueError), "ndarray", "numpy.ma")
        calls.bad("x", RAGGED, ValueError, "(6,)", "(3, 4)", says="mask")
        calls.bad("initial_state", "zeros", ValueError, f"{states} array", "str")
        calls.bad("initial_state", [f(B, H)] * 3, ValueError, f"{states} array", "3")
        calls.bad("initial_state", [f(B, H + 1)] * states, ValueError, f"(B,H) = ({B}, {H})", f"({B}, {H + 1})")
        calls.bad("initial_state", [f(B, H, dtype=float)] * states, TypeError, "float32 as x", "float64")
        calls.bad("initial_state", [STRINGS] * states, TypeError, "float32", "<U1")
        for argument in ("activation", "recurrent_activation")[: 1 if name == "simple_rnn" else 2]:
            calls.name(argument, "tanh", others=(3, "tan", ["tanh"]))
            calls.bad(argument, "softmax", ValueError, "softmax and log_softmax only outside")
        other = (
            gru_ops.gru_pack(f(F, 3 * H), f(H, 3 * H))
            if name != "gru"
            else lstm_ops.lstm_pack(f(F, 4 * H), f(H, 4 * H))
        )
        calls.bad("packed", other, (TypeError, ValueError), name, "lstm" if name == "gru" else "gru")
        calls.bad("packed", "pack", TypeError, f"{name}_pack", "str")
        calls.bad("packed", getattr(module, f"{name}_pack")(f(F + 1, gates * H), f(H, gates * H)), ValueError, "", "")
        if op is forward:
            for argument, size in (("input_factors", F), ("recurrent_factors", H)):
                calls.bad(argument, f(B, size + 1), ValueError, str((B, size)), str((B, size + 1)))
                calls.bad(argument, STRINGS, TypeError, "float32", "<U1")
                calls.bad(argument, f(B, size, dtype=float), TypeError, "float32", "float64")

    def tape_of(forward=forward, weights=weights, sequences=True, x=None):
        return forward(f(B, T, F) if x is None else x, **weights, return_sequences=sequences)[1]

    backward = getattr(module, f"{name}_backward")
    calls = Calls(
        backward,
        lambda b=backward, t=tape_of, s=states: (b, {"tape": t(), "d_outputs": f(B, T, H), "d_states": (f(B, H),) * s}),
    )
    calls.floats("d_outputs", "(B,T,H)").other_dtype("d_outputs")
    calls.bad("tape", None, TypeError, f"tape of {name}_forward", "NoneType")
    calls.bad("tape", 3, TypeError, f"tape of {name}_forward", "int")
    calls.bad("d_states", f(B, H + 1) if states == 1 else (f(B, H + 1),) * 2, ValueError, "(B,H)", str((B, H + 1)))
    calls.bad("d_states", (f(B, H),) * 3, ValueError, f"{states} array", "3")
    calls.bad("d_states", 0, ValueError, f"{states} array", "int")
    calls.bad("d_states", (f(B, H, dtype=float),) * states, TypeError, "float32", "float64")
    calls.bad("d_outputs", RAGGED, (TypeError, ValueError), "", "Ragged")

    pack = function(getattr(module, f"{name}_pack"), **weights)
    for weight in weights:
        pack.floats(weight)
        if weight == "kernel":
            pack.other_dtype(weight, "float64", "float32", says="recurrent_kernel")
        else:
            pack.other_dtype(weight)
    pack.bad("kernel", None, TypeError, "float32", "object")


# ---- a cell of one's own ---------------------------------------------------------------------------------------------
@numba.njit
def step(x, state, weights, output, new_state, saved):
    for i in range(len(output)):
        output[i] = new_state[i] = x[0] * weights[0][i] + state[i]


@numba.njit
def step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights):
    for i in range(len(d_output)):
        d_state[i] = d_output[i] + d_new_state[i]
        d_x[0] += d_state[i] * weights[0][i]
        d_weights[0][i] += d_state[i] * x[0]


def python_step(x, state, weights, output, new_state, saved):
    output[:] = 0


CELL = user_cell.UserCell(step, step_backward, H, H)
for op in (user_cell.user_cell, user_cell.user_cell_forward):
    calls = function(op, x=f(B, T, F), weights=[f(H)], cell=CELL, mask=MASK, initial_state=(f(B, H),))
    calls.floats("x", "(B,T,F)", width=False).other_dtype("x", "float64", "float32", says="weights").mask()
    calls.bad("weights", [STRINGS], TypeError, "float32", "<U1")
    calls.bad("weights", None, TypeError, "list of arrays", "NoneType")
    calls.bad("weights", 3, TypeError, "list of arrays", "int")
    calls.bad("weights", [f(H), f(H, dtype=float)], TypeError, "one dtype", "float64")
    calls.bad("cell", None, TypeError, "UserCell", "NoneType").bad("cell", step, TypeError, "UserCell", "Dispatcher")
    calls.bad("cell", CELL._replace(step=python_step), TypeError, "numba", "function", says="step")
    calls.bad(
        "cell",
        CELL._replace(state_size=0.5),
        (TypeError, ValueError),
        "whole number",
        says="state_size",
        received="0.5",
    )
    calls.bad("cell", CELL._replace(output_size=-1), (TypeError, ValueError), "0", says="output_size", received="-1")
    calls.bad(
        "cell",
        CELL._replace(saved_size="3"),
        (TypeError, ValueError),
        "whole number",
        says="saved_size",
        received="'3'",
    )
    calls.bad("initial_state", (f(B, H + 1),), ValueError, "(B,S)", str((B, H + 1)))
    calls.bad("initial_state", (f(B, H),) * 2, ValueError, "1 array", "2")
    calls.bad("initial_state", (STRINGS,), TypeError, "float32", "<U1")
    calls.bad("packed", "pack", TypeError, "user_cell_pack", "str")
calls = Calls(
    user_cell.user_cell_backward,
    lambda: (
        user_cell.user_cell_backward,
        {
            "tape": user_cell.user_cell_forward(f(B, T, F), [f(H)], CELL)[1],
            "d_outputs": f(B, T, H),
            "d_states": (f(B, H),),
        },
    ),
)
calls.floats("d_outputs", "(B,T,H)").other_dtype("d_outputs").each(
    "tape", (None, 3), TypeError, "user_cell_forward", says="tape"
)
calls.rows = [r._replace(received={"None": "NoneType", "3": "int"}.get(r.received, r.received)) for r in calls.rows]
calls.bad("d_states", (f(B, H + 1),), ValueError, "(B,S)", str((B, H + 1)))
calls.bad("d_states", (f(B, H),) * 2, ValueError, "1 array", "2")
pack = function(user_cell.user_cell_pack, weights=[f(H)])
pack.bad("weights", [STRINGS], TypeError, "float32", "<U1").bad("weights", 3, TypeError, "list of arrays", "int")

# ---- products, activations -------------------------------------------------------------------------------------------
for op in (gemm.dense, gemm.dense_forward):
    calls = function(op, x=f(B, F), kernel=f(F, H), bias=f(H))
    calls.floats("x", rank=False, width=False).other_dtype("x", "float64", "float32", says="kernel")
    calls.bad("x", f(B, F + 1), ValueError, "F = 3", "(2, 5)", says="kernel").bad(
        "x", np.float32(3), ValueError, "(...,F)", "scalar"
    )
    calls.bad("x", None, TypeError, "float32", "object")
    calls.floats("kernel", "(F,K)", width=False).floats("bias", "(K,)").bad(
        "kernel", None, TypeError, "float32", "object"
    )
    calls.name("activation", "tanh", others=(3, "tan", ["tanh"]))
    calls.bad("packed", "pack", TypeError, "dense_pack", "str")
    calls.bad("packed", gemm.dense_pack(f(F + 1, H)), ValueError, str((F, H)), str((F + 1, H)))
function(gemm.dense_pack, kernel=f(F, H), bias=f(H)).floats("kernel", "(F,K)", width=False).floats("bias", "(K,)")


def backward(of, forward, dy, shape, says="dy", tapes="forward", **more):
    """Calls of a backward op: forward() gives a tape, `tapes` names what makes it in messages."""
    calls = Calls(of, lambda: (of, {"tape": forward()[1], says: dy} | more))
    calls.bad("tape", None, TypeError, tapes, "NoneType").bad("tape", {"x": 3}, TypeError, tapes, "dict")
    return calls.floats(says, shape).other_dtype(says)


backward(gemm.dense_backward, lambda: gemm.dense_forward(f(B, F), f(F, H)), f(B, H), "as y", tapes="dense_forward")

calls = function(activation.activation_forward, x=f(B, H), name="tanh")
calls.floats("x", rank=False, width=False).name("name", "tanh", others=(3, "tan", ["tanh"]))
calls.bad("x", np.float32(3), ValueError, "rank at least 1", "scalar", also={"name": "softmax"})
calls = function(activation.activation_backward, x=f(B, H), y=f(B, H), dy=f(B, H), name="gelu")
calls.floats("y", rank=False, width=False).floats("dy").floats("x").other_dtype("dy").other_dtype("x")
calls.name("name", "tanh", others=(3, "tan")).bad("x", None, ValueError, "for gelu", "None")
calls = function(activation.softmax_forward, x=f(B, T, F), axis=1, mask=MASK)
calls.floats("x", rank=False, width=False).mask(expected="")
calls.each("axis", (0, 3, -3, 1.0, None, "1", True), ValueError, "1..2")
calls.bad("x", RAGGED, ValueError, "None for axis 2", "one of its steps", {"axis": 2, "mask": np.ones(6, bool)}, "mask")
calls = function(activation.softmax_backward, y=f(B, T, F), dy=f(B, T, F), axis=1, mask=MASK)
calls.floats("y", rank=False, width=False).floats("dy", "as y").other_dtype("dy").mask(expected="")
calls.each("axis", (0, 3, 1.0, None), ValueError, "1..2")
calls.bad("y", RAGGED, ValueError, "Ragged", "ndarray", {"mask": None}, "dy")

# ---- attention -------------------------------------------------------------------------------------------------------
for op in (attention.attention, attention.attention_forward):
    calls = function(
        op, query=f(B, T, F), value=f(B, 6, H), key=f(B, 6, F), weight=f(F), scale=0.5, query_mask=MASK,
        value_mask=np.ones((B, 6), bool), key_mask=np.ones((B, 6), bool),
    )  # fmt: skip
    for argument in ("query", "value", "key"):
        calls.floats(argument, "(B,T,F)", width=False)
        calls.bad(f"{argument}_mask", np.ones((B, 9), bool), ValueError, "(B,T)", "(3, 9)")
        calls.bad(f"{argument}_mask", np.full((B, 6), "x"), TypeError, "numbers", "<U1")
    calls.bad("query", None, TypeError, "float32", "object")
    calls.other_dtype("query", "float64", "float32", says="value").other_dtype("key", "as query")
    calls.bad("value", f(B + 1, 6, H), ValueError, "B = 3", "4", {"value_mask": None}).bad(
        "key", f(B, 5, F), ValueError, "(3,6)", "(3,5)", {"key_mask": None}
    )
    calls.bad("key", f(B, 6, F + 1), ValueError, "D = 2", "3")
    calls.bad("key", None, ValueError, "None without a key", "a mask", says="key_mask")
    calls.floats("weight", "(D,)").bad("scale", f(2), ValueError, "()", "(2,)")
    calls.bad("scale", "x", TypeError, "number", "<U1").bad("scale", 1j, TypeError, "number", "complex128")
    calls.each("dropout", (0.5, "half"), TypeError, "function")
    calls.bad("dropout", f, ValueError, "(pairs,)", "(", says="dropout", also={"dropout": lambda n: f(n + 1)})
    calls.bad("dropout", lambda n: STRINGS, TypeError, "float32", "<U1")
attend = lambda: attention.attention_forward(f(B, T, F), f(B, 6, H), f(B, 6, F))  # noqa: E731
backward(
    attention.attention_backward, attend, f(B, T, H), "as the outputs", "d_outputs", "attention_forward",
    d_scores=f(B, T, 6),
).floats("d_scores", "(B,Tq,Tv)").other_dtype("d_scores")  # fmt: skip
calls = Calls(attention.attention_scores, lambda: (attention.attention_scores, {"tape": attend()[1]}))
calls.bad("tape", None, TypeError, "attention_forward", "NoneType")
ragged_attention = attention.attention_forward(RAGGED, RAGGED)[1]
calls.bad("tape", ragged_attention, ValueError, "padded queries and values", "Ragged", says="scores")

# ---- convolution -----------------------------------------------------------------------------------------------------
for op in (convolution.conv1d, convolution.conv1d_forward):
    calls = function(op, x=f(B, T, F), kernel=f(3, F, H), bias=f(H), mask=MASK, padding="same")
    calls.floats("x", "(B,T,F)", width=False).other_dtype("x", "float64", "float32", says="kernel").mask()
    calls.bad("x", f(B, T, F + 1), ValueError, "F = 3", "(3, 2, 5)", says="kernel")
    calls.floats("kernel", "(K,F,C)", width=False).floats("bias", "(C,)")
    calls.bad("kernel", f(0, F, H), ValueError, "K >= 1", "(0, 2, 5)")
    calls.count("strides", says="strides").count("dilation_rate")
    calls.name("padding", "valid, same, causal", others=(3, "full", None, ["same"])).name(
        "activation", "tanh", others=(3, "tan")
    )
    calls.bad("strides", 2, ValueError, "1 with padding='same' for a Ragged", also={"x": RAGGED, "mask": None})
    calls.bad("packed", "pack", TypeError, "conv1d_pack", "str")
    calls.bad("packed", convolution.conv1d_pack(f(2, F, H)), ValueError, "(6, 5)", "(4, 5)")
function(convolution.conv1d_pack, kernel=f(3, F, H), bias=f(H)).floats("kernel", "(K,F,C)", width=False).floats(
    "bias", "(C,)"
)
calls = function(convolution.conv1d_length, T=T, kernel_size=3)
calls.count("T", 0).count("kernel_size").count("strides").count("dilation_rate").name("padding", "valid, same, causal")
calls = function(convolution.conv1d_mask, x=f(B, T, F), mask=MASK, kernel_size=3)
calls.mask().count("kernel_size").count("strides").count("dilation_rate").name("padding", "valid, same, causal")
calls.bad("mask", None, TypeError, "numbers", "object").bad("x", 3, (TypeError, ValueError), "(B,T", "()")
backward(
    convolution.conv1d_backward, lambda: convolution.conv1d_forward(f(B, T, F), f(3, F, H)), f(B, 2, H),
    "as the outputs", tapes="conv1d_forward",
)  # fmt: skip

# ---- embedding -------------------------------------------------------------------------------------------------------
IDS = np.array([[1, 0, 6], [2, 2, 0]])
calls = function(embedding.embedding_forward, ids=IDS, embeddings=f(7, H), mask=IDS > -1)
calls.bad("ids", STRINGS, TypeError, "numbers", "<U1").bad("ids", None, TypeError, "numbers", "object", {"mask": None})
calls.bad("ids", IDS + 1, ValueError, "0..6", "7 at (0, 2)").bad("ids", -IDS, ValueError, "0..6", "-1 at (0, 0)")
calls.bad("ids", np.full((2, 3), np.nan), ValueError, "0..6", "nan at (0, 0)").bad(
    "ids", COMPLEX, TypeError, "numbers", "complex"
)
calls.floats("embeddings", "(V,D)", width=False).bad("embeddings", None, TypeError, "float32", "object")
calls.bad("mask", np.ones((2, 4), bool), ValueError, "(2", "(2, 4)").bad(
    "mask", np.full((2, 3), "x"), TypeError, "numbers", "<U1"
)
backward(
    embedding.embedding_backward, lambda: embedding.embedding_forward(IDS, f(7, H)), f(2, 3, H), "as y",
    tapes="embedding_forward",
)  # fmt: skip

# ---- normalization, pooling ------------------------------------------------------------------------------------------
for kind in ("layer", "unit", "batch"):
    forward = getattr(normalization, f"{kind}_normalization_forward")
    calls = function(forward, x=f(B, T, F), **({} if kind == "unit" else {"gamma": f(F), "beta": f(F)}))
    calls.floats("x", rank=False, width=False).bad("x", f(3), ValueError, "(...,F)", "(3,)")
    if kind != "unit":
        calls.floats("gamma", "(F,)").floats("beta", "(F,)").other_dtype("gamma").other_dtype("beta").number(
            "epsilon", low=-1e-3
        )
    backward(
        getattr(normalization, f"{kind}_normalization_backward"), lambda g=forward: g(f(B, T, F)), f(B, T, F), "as y",
        tapes=f"{kind}_normalization_forward",
    )  # fmt: skip
calls = function(normalization.batch_normalization_forward, x=f(B, T, F), mask=MASK, moments=(f(F), abs(f(F))))
calls.mask().bad("moments", f(F)[:1], (TypeError, ValueError), "(mean, variance)", "").bad(
    "moments", 3, (TypeError, ValueError), "(mean, variance)"
)
calls.bad("moments", (f(F + 1), f(F)), ValueError, "(F,)", "(3,)", says="mean")
calls.bad("moments", (f(F), STRINGS), TypeError, "float32", "<U1", says="variance")
for kind in ("average", "max"):
    forward = getattr(pool, f"{kind}_pool_forward")
    function(forward, x=f(B, T, F), mask=MASK).floats("x", "(B,T,F)", width=False).mask()
    backward(
        getattr(pool, f"{kind}_pool_backward"),
        lambda g=forward: g(f(B, T, F)),
        f(B, F),
        "(B,F)",
        tapes=f"{kind}_pool_forward",
    )

# ---- losses ----------------------------------------------------------------------------------------------------------
WEIGHT = np.ones((B, T))
for op in (loss.loss_terms, loss.loss_value_and_grad):
    calls = function(
        op, kind="sparse_categorical_crossentropy", y_true=np.zeros((B, T), int), y_pred=abs(f(B, T, F)), mask=MASK,
        sample_weight=WEIGHT,
    )  # fmt: skip
    calls.name("kind", "mean_squared_error, ", others=(3, "mse", None, ["huber"]))
    calls.name("reduction", "sum_over_batch_size", others=(3, "average", ["sum"]))
    calls.bad("from_logits", True, ValueError, "False for mean_squared_error", also={"kind": "mean_squared_error"})
    calls.number("label_smoothing", low=-0.1).bad("label_smoothing", 0.1, ValueError, "0 for sparse")
    calls.each("ignore_class", (0.5, "a", [1]), TypeError, "integer")
    calls.bad("ignore_class", 1, ValueError, "None for mean", also={"kind": "mean_squared_error"})
    calls.number("delta", low=0).bad("delta", 2.0, ValueError, "1 for sparse")
    calls.bad("y_true", np.full((B, T), 2), ValueError, "0..1", "2 at (0, 0)").bad(
        "y_true", np.full((B, T), -1), ValueError, "0..1", "-1"
    )
    calls.bad("y_true", np.full((B, T), 0.5), ValueError, "0..1", "0.5").bad(
        "y_true", np.zeros((B, T + 1)), ValueError, "(3, 4)", "(3, 5)"
    )
    for argument in ("y_true", "y_pred"):
        calls.bad(argument, None, TypeError, "numbers", "object").bad(argument, STRINGS, TypeError, "numbers", "<U1")
        calls.bad(argument, COMPLEX, TypeError, "numbers", "complex64")
    calls.bad("y_pred", np.float32(3), ValueError, "(...,K)", "()").bad(
        "y_pred", f(B, T, 0), ValueError, "K at least 1", "(3, 4, 0)"
    )
    calls.mask()
    calls.bad("sample_weight", np.ones(T), ValueError, "(3,)", "(4,)").bad(
        "sample_weight", np.ones((B, T + 1)), ValueError, "(3, 4)", "(3, 5)"
    )
    calls.bad("sample_weight", STRINGS, TypeError, "numbers", "<U1")
    for kind in KINDS:
        if kind != "sparse_categorical_crossentropy":
            calls.bad("y_true", f(B, T, F + 1), ValueError, "(3, 4, 2)", "(3, 4, 3)", {"kind": kind})
square = lambda y, p: np.mean((p - y) ** 2, axis=-1)  # noqa: E731
calls = function(
    loss.function_terms, values=square, gradient=lambda y, p: 2 * (p - y) / p.shape[-1], y_true=f(B, T, F),
    y_pred=f(B, T, F), mask=MASK, sample_weight=WEIGHT,
)  # fmt: skip
calls.bad("values", lambda y, p: p, ValueError, "(6,)", "(6, 2)", says="call").bad(
    "values", lambda y, p: STRINGS, TypeError, "numbers", "<U1", says="call"
)
calls.bad("gradient", square, ValueError, "(6, 2)", "(6,)").each("values", (3, None), TypeError, "function").bad(
    "gradient", 3, TypeError, "function"
)
calls.bad("y_true", f(B, T + 1), ValueError, "(3, 4)", "(3, 5)").bad(
    "y_pred", STRINGS, TypeError, "numbers", "<U1"
).mask()
calls.bad("sample_weight", np.ones(T), ValueError, "(3,)", "(4,)").name(
    "reduction", "sum_over_batch_size", others=(3, "average", ["sum"])
)
calls = function(loss.check_options, kind="huber", reduction="sum")
calls.name("kind", "huber", others=(3, "mse")).name("reduction", "sum", others=(3, "average")).number("delta", low=0)
function(loss.check_reduction, reduction="sum").name("reduction", "sum", others=(3, "average", ["sum"]))
function(loss.as_prediction, y_pred=f(B, F)).bad("y_pred", STRINGS, TypeError, "numbers", "<U1").bad(
    "y_pred", f(B, 0), ValueError, "(...,K)", "(3, 0)"
)
for check, options in ((loss.as_target, {"shape": (B, F)}), (loss.as_any_target, {"steps": (B,), "units": F})):
    calls = function(check, y_true=f(B, F), dtype=np.float32, **options)
    calls.bad("y_true", f(B + 1, F), ValueError, "(3,", "(4, 2)").bad("y_true", STRINGS, TypeError, "numbers", "<U1")
calls = function(loss.as_labels, y_true=np.zeros((B, T)), steps=(B, T))
calls.bad("y_true", f(B, T + 1), ValueError, "(3, 4)", "(3, 5)").bad("y_true", STRINGS, TypeError, "numbers", "<U1")
calls = function(loss.as_class_ids, labels=np.array([0, 1]), counts=np.array([True, True]), classes=2)
calls.bad("labels", np.array([0, 2]), ValueError, "0..1", "2 at (1,)", says="y_true")
calls = function(loss.as_step_mask, mask=MASK, steps=(B, T)).mask()
calls = function(loss.as_step_weight, sample_weight=np.ones(B), steps=(B, T), dtype=np.float32)
calls.bad("sample_weight", np.ones(T), ValueError, "(3,)", "(4,)").bad(
    "sample_weight", STRINGS, TypeError, "numbers", "<U1"
)
calls = function(loss.as_result, array=f(B), shape=(B,), name="call")
calls.bad("array", f(T), ValueError, "(3,)", "(4,)", says="call").bad(
    "array", None, TypeError, "numbers", "object", says="call"
)

# ---- masks -----------------------------------------------------------------------------------------------------------
calls = function(mask_ops.from_values, x=f(B, T, F), mask_value=0.0)
calls.bad("x", f(3), ValueError, "rank at least 2", "(3,)").bad("x", STRINGS, TypeError, "numbers", "<U1").bad(
    "x", COMPLEX, TypeError, "numbers", "complex64"
)
calls.bad("x", None, TypeError, "numbers", "object").bad("x", RAGGED, TypeError, "array", "")
calls.bad("x", [[1], [1, 2]], ValueError, "an array", "").bad("mask_value", "0", TypeError, "numbers", "<U1")
calls.bad("mask_value", None, TypeError, "numbers", "object").bad(
    "mask_value", [0.0, 1.0], ValueError, "one number", "(2,)"
)
calls.bad("mask_value", 1j, TypeError, "numbers", "complex128")
calls = function(mask_ops.from_ids, ids=IDS, pad_id=0)
calls.bad("ids", 3, ValueError, "rank at least 1", "scalar").bad("ids", STRINGS, TypeError, "numbers", "<U1").bad(
    "ids", None, TypeError, "numbers", "object"
)
calls.bad("pad_id", "0", TypeError, "numbers", "<U1").bad("pad_id", [0, 1], ValueError, "one number", "(2,)").bad(
    "pad_id", None, TypeError, "numbers", "object"
)


def lengths(calls):
    calls.bad("lengths", [[1]], ValueError, "(B,)", "(1, 1)").bad("lengths", 3, ValueError, "(B,)", "()")
    calls.bad("lengths", [1, -1], ValueError, "whole numbers >= 0", "-1 at position 1")
    calls.bad("lengths", [1.5], ValueError, "whole numbers >= 0", "1.5").bad(
        "lengths", [np.nan], ValueError, "whole numbers", "nan"
    )
    calls.bad("lengths", [True], TypeError, "whole numbers", "bool").bad("lengths", ["3"], TypeError, "numbers", "<U1")
    return calls.bad("lengths", None, TypeError, "numbers", "object")


calls = lengths(function(mask_ops.from_lengths, lengths=[2, 0], maxlen=3)).count("maxlen", 0, none=True, expected="")
calls.bad("lengths", [4], ValueError, "at most maxlen = 3", "4").bad(
    "maxlen", 2**62, MemoryError, "fits into memory", "bytes"
)
lengths(function(mask_ops.check_lengths, lengths=[2, 0]))
calls = function(mask_ops.to_lengths, mask=MASK)
calls.bad("mask", MASK[0], ValueError, "(B,T)", "(4,)").bad(
    "mask", np.full((2, 2), "x"), TypeError, "numbers", "<U1"
).bad("mask", None, TypeError, "numbers", "object")
function(mask_ops.check_mask, mask=MASK, shape=(B, T)).mask().bad("mask", None, TypeError, "numbers", "object")
function(mask_ops.check_count, n=3, name="n", minimum=1).count("n", expected="")
function(mask_ops.check_numbers, a=[1], name="a").bad("a", "x", TypeError, "numbers", "<U1").bad(
    "a", [[1], []], ValueError, "an array", ""
)

calls = function(mask_ops.one_number, value=3.0, name="value").numbers("value")
calls.bad("value", [1.0], ValueError, "one number", "(1,)")

# ---- Ragged, sequences -----------------------------------------------------------------------------------------------
calls = function(Ragged, values=f(6, F), offsets=[0, 4, 6, 6])
calls.bad("values", STRINGS, TypeError, "numbers", "<U1").bad("values", OBJECTS, TypeError, "", "object").bad(
    "values", COMPLEX, TypeError, "numbers", "complex64"
)
calls.bad("values", np.float32(3), ValueError, "rank at least 1", "scalar")
calls.bad("values", None, (TypeError, ValueError), "", "")
calls.bad("values", f(7, F), ValueError, "N = 7", "6", says="offsets")
calls.bad("offsets", [1, 4, 6], ValueError, "0 first", "1").bad("offsets", [0, 4, 5], ValueError, "N = 6", "5")
calls.bad("offsets", [0, 4, 3, 6], ValueError, "no decrease", "4 then 3").bad(
    "offsets", [], ValueError, "(B+1,)", "(0,)"
)
calls.bad("offsets", [[0, 6]], ValueError, "(B+1,)", "(1, 2)").bad(
    "offsets", [0.0, 6.0], TypeError, "integers", "float64"
)
calls.bad("offsets", None, (TypeError, ValueError), "", "").bad("offsets", ["0", "6"], TypeError, "integers", "<U1")
calls.bad("offsets", np.array([0, 2**63 + 4, 6], np.uint64), ValueError, "", "")
calls = function(Ragged.from_list, arrays=[[1, 2], [], [3]])
calls.bad("arrays", "ab", TypeError, "list of arrays", "str").bad("arrays", 3, TypeError, "list of arrays", "int").bad(
    "arrays", None, TypeError, "list of arrays", "NoneType"
)
calls.bad("arrays", [f(2, 3), f(2, 4)], ValueError, "(3,)", "(4,)").bad("arrays", [1, 2], ValueError, "", "").bad(
    "arrays", [["a"]], TypeError, "numbers", "<U1"
)
calls.bad("dtype", "U3", TypeError, "numbers", "<U3").bad("dtype", "no such", TypeError, "NumPy").bad(
    "dtype", object, TypeError, "numbers", "object"
)
calls = function(Ragged.from_padded, x=f(B, T, F), mask=MASK).mask()
calls.bad("x", f(3), ValueError, "(B,T,...)", "(3,)").bad("x", STRINGS, TypeError, "numbers", "<U1").bad(
    "mask", None, TypeError, "numbers", "object"
)
new = lambda: Ragged(f(6, F), [0, 4, 6, 6])  # noqa: E731
integers = lambda: Ragged(np.arange(6), [0, 4, 6, 6])  # noqa: E731
method(Ragged.to_padded, integers, value=0).each(
    "value", ("x", None, 0.5, float("nan"), 2**70, [1]), (TypeError, ValueError), "", received=""
)
calls = method(Ragged.take, new, indices=[0, 2])
calls.bad("indices", [3], ValueError, "0..2", "3").bad("indices", [-4], ValueError, "0..2", "-4").bad(
    "indices", [[1]], ValueError, "(n,)", "(1, 1)"
)
calls.bad("indices", [0.0], TypeError, "integers", "float64").bad("indices", ["0"], TypeError, "integers", "<U1").bad(
    "indices", None, (TypeError, ValueError), "", ""
)
calls.bad("indices", [True, False, True], TypeError, "integers", "bool")
calls = method(Ragged.with_values, new, values=f(6, 3))
calls.bad("values", f(5, 3), ValueError, "6", "5").bad("values", STRINGS, TypeError, "numbers", "<U1").bad(
    "values", 3, (TypeError, ValueError), "", ""
)
calls = function(fm.pad_sequences, sequences=[[1], [2, 3]], maxlen=3)
calls.count("maxlen", 0, none=True, expected="").name("padding", '"pre" or "post"').name(
    "truncating", '"pre" or "post"'
)
calls.bad("sequences", 3, ValueError, "list of sequences", "int").bad(
    "sequences", "ab", ValueError, "list of sequences", "str"
).bad("sequences", None, ValueError, "list of sequences", "NoneType")
calls.bad("sequences", [1], ValueError, "a sequence", "int", says="sequences[0]").bad(
    "sequences", [[[1]], [2]], ValueError, "(1,)", "()", says="sequences[1]"
)
calls.bad("sequences", [["a"]], ValueError, "int32", "a", says="sequences[0]").bad(
    "sequences", [np.array([None])], TypeError, "numbers", "object", says="sequences[0]"
)
calls.bad("dtype", object, TypeError, "number's or string's", "object").bad("dtype", "no such", TypeError, "NumPy")
calls.bad("value", "x", ValueError, "number for dtype int32").bad("value", None, ValueError, "int32").bad(
    "value", 2**40, ValueError, "int32"
)
calls.bad("maxlen", 2**62, MemoryError, "fits into memory", "bytes")
calls = lengths(function(fm.bucket_batches, lengths=[3, 1, 2], batch_size=2, seed=1)).count("batch_size", expected="")
calls.each("seed", (-1, "a", 1.5), (TypeError, ValueError), "")

# ---- Variable --------------------------------------------------------------------------------------------------------
variable = lambda: Variable(f(2, 3), name="v")  # noqa: E731
calls = function(Variable, value=f(2, 3), name="v")
calls.bad("value", STRINGS, TypeError, "numbers", "<U1").bad("value", None, TypeError, "numbers", "object").bad(
    "value", COMPLEX, TypeError, "numbers", "complex64"
)
calls.bad("value", [[1], [1, 2]], ValueError, "an array", "").each("name", (3, ["v"]), TypeError, "str")
calls.bad("dtype", "int32", ValueError, "float32 or float64").bad(
    "dtype", "no such", (TypeError, ValueError), "float32 or float64"
)
for of in (Variable.assign, Variable.assign_add, Variable.assign_sub):
    calls = method(of, variable, value=f(2, 3))
    calls.bad("value", f(2, 4), ValueError, "(2, 3)", "(2, 4)", says="v").bad(
        "value", STRINGS, TypeError, "numbers", "<U1", says="v"
    )
    calls.bad("value", None, TypeError, "numbers", "object", says="v").bad(
        "value", COMPLEX, TypeError, "numbers", "complex64", says="v"
    )
    calls.bad("value", f(1, 2, 3), ValueError, "(2, 3)", "(1, 2, 3)", says="v")
calls = method(Variable.__setitem__, variable, key=0, value=f(3))
calls.bad("value", f(4), ValueError, "(3,)", "(4,)", says="v").bad(
    "value", ["a"], TypeError, "numbers", "<U1", says="v"
)
calls.bad("key", 2, IndexError, "(2, 3)", says="v").bad("key", "a", (IndexError, TypeError), "(2, 3)", says="v")

# ---- optimizers ------------------------------------------------------------------------------------------------------
calls = Calls(
    optimizer.optimizer_update,
    lambda: (
        optimizer.optimizer_update,
        {"rule": "momentum", "updates": [optimizer.Update(f(H), (f(H),), f(H))], "lr": 0.1, "numbers": (0.1, 0.9)},
    ),
)
calls.name("rule", "sgd")
for update, says, expected, received in (
    (optimizer.Update(f(H), (), f(H)), "state", "1 arrays", "0"),
    (optimizer.Update(f(H), (f(H + 1),), f(H)), "state", f"{H} contiguous", f"({H + 1},)"),
    (optimizer.Update(f(H), (f(H),), f(H + 1)), "g", f"{H} contiguous", f"({H + 1},)"),
    (optimizer.Update(f(H), (f(H),), f(H).astype(np.float64)), "g", "float32", "float64"),
    (optimizer.Update(f(2, H), (f(2, H),), f(1, H), rows=np.ones(1)), "rows", "int64", "array([1.])"),
):
    calls.bad("updates", [update], ValueError, expected, received, says=says)
