"""Calls of every op at a size n: ONE list for all tests that go over all kernels.

`calls(dtype, n)` gives name -> function without arguments that returns arrays. test_guard_pages.py fails where a kernel
is not among what they launch.
"""

import functools

import numpy as np

from cases import CELLS, Problem
from fastmask.kernels import fma_peak
from fastmask.kernels.activation_names import NAMES
from fastmask.kernels.optimizer_names import RULES
from fastmask.ops import mask as mask_ops
from fastmask.ops import normalization, pool
from fastmask.ops._recurrent import SideBySide
from fastmask.ops.activation import activation_backward, activation_forward, softmax_backward, softmax_forward
from fastmask.ops.attention import attention_backward, attention_forward, attention_scores
from fastmask.ops.convolution import conv1d_backward, conv1d_forward
from fastmask.ops.embedding import embedding_backward, embedding_forward
from fastmask.ops.gemm import dense_backward, dense_forward
from fastmask.ops.loss import loss_value_and_grad
from fastmask.ops.optimizer import Update, optimizer_update, square_sum
from fastmask.ops.simple_rnn import simple_rnn, simple_rnn_pack
from fastmask.ragged import Ragged
from test_loss import CASES as LOSSES
from test_loss import case_id
from test_loss import data as loss_data
from test_recurrent_dropout import factors
from test_user_cell import Problem as UserProblem

SIZES = (1, 5, 15, 17, 33)  # off the lane grid


def calls(dtype, n):
    return {name: functools.partial(run, np.dtype(dtype).type, n) for name, run in _CALLS.items()}


def _random(dtype, *shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def _holes(*shape):
    return np.random.default_rng(shape).random(shape) < 0.6


# ---- recurrent -------------------------------------------------------------------------------------------------------
def _recurrent(cell, dtype, n):
    """Training and inference; with holes, padding and Ragged; last output and states; slow activations; dropout."""
    B, T = 7, 6
    problem = Problem(cell, B, T, n, 1 + 2 * n // 3, dtype)
    options = {"mask": _holes(B, T), "initial_state": problem.states}
    packed = problem.cell.pack(*problem.weights, **problem.cell.variant)
    slow = dict.fromkeys(problem.cell.activations, "mish")
    four = {"initial_state": tuple(s[:4] for s in problem.states), "d_states": tuple(d[:4] for d in problem.d_states)}
    ragged = Ragged(problem.x[0], [0, 4, 4, 5, 6])
    return [
        problem.train(**options),
        problem.train(go_backwards=True, return_sequences=False, use_bias=False, **options, **slow),
        problem.train(x=ragged, d_outputs=ragged.with_values(problem.d_sequence[0]), **four),
        problem.train(**options, **factors(problem)),
        problem.infer(packed=packed, **options),
        problem.infer(zero_output_for_mask=True, go_backwards=True, restore_order=True, **options),
    ]


def _user_cell(dtype, n):
    problem = UserProblem(F=n, dtype=dtype)
    return [problem.train(mask=_holes(problem.B, problem.T)), problem.infer(go_backwards=True)]


# ---- the others ------------------------------------------------------------------------------------------------------
def _dense(dtype, n):
    found = []
    for rows, columns, activation in ((9, 5, None), (3, 70, "gelu"), (1, n, "softmax")):
        x, dy = _random(dtype, rows, n), _random(dtype, rows, columns)
        y, tape = dense_forward(x, _random(dtype, n, columns), _random(dtype, columns), activation=activation)
        found += [y, dense_backward(tape, dy)]
    return found


def _activations(dtype, n):
    x, dy = 3 * _random(dtype, n), _random(dtype, n, seed=1)
    found = []
    for name in (*NAMES, "softmax", "log_softmax"):
        y = activation_forward(x, name)
        found += [y, activation_backward(x, y, dy, name)]
    return found


def _masked_softmax(dtype, n):
    x, dy, mask = _random(dtype, 3, n, 2), _random(dtype, 3, n, 2, seed=1), _holes(3, n)
    y = softmax_forward(x, 1, mask)
    return [y, softmax_backward(y, dy, 1, mask), softmax_forward(x, 1)]


def _loss(case, dtype, n):
    kind, options = case
    if options.get("ignore_class") == 1 and n == 1:
        return []
    found = []
    for units in (n, 3):  # many predictions and few are two ways
        steps = (2, n)
        y_true, y_pred = loss_data(kind, options, dtype, shape=(*steps, units))
        weight = np.abs(_random(dtype, *steps))
        if options.get("ignore_class", 0) < units:
            found.append(
                loss_value_and_grad(kind, y_true, y_pred, mask=_holes(*steps), sample_weight=weight, **options)
            )
    return found


def _masks(dtype, n):
    steps = mask_ops.SMALL // n + 7  # smaller ones are NumPy's
    x = _random(dtype, 1, steps, n) * _holes(1, steps, 1)
    hidden, cleared = _holes(1, steps), x.copy()
    mask_ops.clear_masked(cleared, hidden)
    finite = np.array([mask_ops.is_finite_under(x, hidden)])
    return [
        *(mask_ops.from_values(x), mask_ops.from_values(x, x[0, 0, 0]), mask_ops.zero_masked(x, hidden)),
        *(cleared, finite),
    ]


def _optimizer(dtype, n):
    """Every rule: all of a weight, and some of its rows; and the norm of a gradient."""
    found = [np.array(square_sum(_random(dtype, n, 3)))]
    for rule, count in RULES.items():
        w, g, *state = (abs(_random(dtype, n, 3, seed=i)) for i in range(2 + count))
        rows = np.arange(0, n, 2)
        some = {"rows": rows, "g_rows": np.where(rows % 4 == 0, rows // 4, -1)}
        for update in (Update(w, tuple(state), g), Update(w, tuple(state), g[: len(rows[::2])].copy(), **some)):
            optimizer_update(rule, [update], 0.1, (0.1, 0.5, 0.5, 1.0, 0.5))
        found += [w, *state]
    return found


def _normalization(name, dtype, n, **options):
    x, dy = _random(dtype, 3, 30, n), _random(dtype, 3, 30, n, seed=1)
    if name == "batch_normalization":
        options["mask"] = _holes(3, 30)
    if name != "unit_normalization":
        options |= {"gamma": _random(dtype, n), "beta": _random(dtype, n, seed=1)}
    y, tape = getattr(normalization, f"{name}_forward")(x, **options)
    return [y, getattr(normalization, f"{name}_backward")(tape, dy)]


def _pool(name, dtype, n):
    y, tape = getattr(pool, f"{name}_forward")(_random(dtype, 4, 9, n), mask=_holes(4, 9))
    return [y, getattr(pool, f"{name}_backward")(tape, _random(dtype, 4, n))]


def _embedding(dtype, n):
    y, tape = embedding_forward(np.arange(20).reshape(4, 5) % 7, _random(dtype, 7, n))
    gradient = embedding_backward(tape, _random(dtype, *y.shape))
    return [y, gradient.rows, gradient.values]


def _attention(dtype, n):
    found = []
    for D, V, weight, causal in ((n, 5, None, False), (3, n, None, True), (n, 17, _random(dtype, n), True)):
        query, value, key = _random(dtype, 3, n, D), _random(dtype, 3, 8, V), _random(dtype, 3, 8, D, seed=1)
        masks = {"query_mask": _holes(3, n), "value_mask": _holes(3, 8)}
        scale = dtype(0.5)
        y, tape = attention_forward(query, value, key, weight=weight, scale=scale, causal=causal, **masks)
        found += [y, attention_scores(tape), attention_backward(tape, _random(dtype, *y.shape))]
    return found


def _convolution(dtype, n):
    found = []
    for F, C, options in ((n, 5, {"padding": "same"}), (3, n, {"padding": "causal", "dilation_rate": 2}), (n, n, {})):
        x, kernel = _random(dtype, 3, 9, F), _random(dtype, 3, F, C)
        y, tape = conv1d_forward(x, kernel, _random(dtype, C), mask=_holes(3, 9), activation="tanh", **options)
        found += [y, conv1d_backward(tape, _random(dtype, *y.shape))]
    return found


def _side_by_side(dtype, n):
    """Two rows, each with weights of its own, at once."""
    x, found = _random(dtype, 1, 9, 3), []
    weights = [(_random(dtype, 3, n, seed=i), _random(dtype, n, n, seed=i)) for i in range(2)]
    packs = [simple_rnn_pack(*w) for w in weights]
    with SideBySide():
        for w, packed in zip(weights, packs, strict=True):
            found.append(simple_rnn(x, *w, mask=_holes(1, 9), packed=packed))
    return [result.outputs for result in found]


def _peak(dtype, n):
    fma_peak(threads=2, seconds=1e-3)
    return []


_CALLS = {
    **{cell: functools.partial(_recurrent, cell) for cell in CELLS},
    "user cell": _user_cell,
    "dense": _dense,
    "activations": _activations,
    "masked softmax": _masked_softmax,
    **{f"loss {case_id(case)}": functools.partial(_loss, case) for case in LOSSES},
    "masks": _masks,
    **{
        f"{kind}_normalization": functools.partial(_normalization, f"{kind}_normalization")
        for kind in ("layer", "unit", "batch")
    },
    **{f"{kind}_pool": functools.partial(_pool, f"{kind}_pool") for kind in ("average", "max")},
    "embedding": _embedding,
    "attention": _attention,
    "convolution": _convolution,
    "optimizer": _optimizer,
    "side by side": _side_by_side,
    "peak": _peak,
}
