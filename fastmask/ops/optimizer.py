"""Updates of weights by an optimizer: all weights in one launch, in place."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastmask.kernels import _jit
from fastmask.kernels.optimizer_names import BLOCK, RULES

WORK = 20  # multiply-adds that updating an element is worth to the launcher: about 0.4 ns


class Update(NamedTuple):
    """What happens to one weight. All arrays are contiguous and of one dtype; `w` and `state` are changed."""

    w: np.ndarray
    state: tuple  # of arrays as large as w, as many as the rule keeps
    g: np.ndarray  # gradient as large as w; or (n,...), of n rows of w
    scale: float = 1.0  # what the gradient is multiplied by
    decay: float = 0.0  # w first shrinks by decay * lr of itself
    rows: np.ndarray | None = None  # (m,) int64: the rows of w that are updated, each once; None: all, g is as large
    g_rows: np.ndarray | None = None  # (m,) int64: the row of g that each has, -1 where its gradient is 0


def optimizer_update(rule, updates, lr, numbers, clip=math.inf):
    """Update weights in place.

    Parameters
    ----------
    rule : str
        One of `fastmask.kernels.optimizer_names.RULES`; `fastmask.reference.optimizer` has a function of that name with
        the equations, and what the numbers are.
    updates : list of Update
    lr : float
        Of the decay; a rule that needs it has it among its numbers.
    numbers : sequence of at most 5 floats
    clip : float
        Elements of the gradient are clipped to +-clip, after they were scaled.

    Raises
    ------
    ValueError
        Unknown rule, arrays that do not fit. Nothing is changed then.

    Notes
    -----
    Every element goes through the operations of the reference, in the weight's dtype and without fused multiply-adds:
    the same bits as NumPy's, for any number of threads, and whether its row is listed or the gradient dense
    (tests/test_optimizer.py). Parallel over pieces of the weights.

    Examples
    --------
    >>> w = np.ones(3)
    >>> optimizer_update("sgd", [Update(w, (), np.array([1.0, 2.0, 0.0]))], 0.5, [0.5])
    >>> w
    array([0.5, 0. , 1. ])
    """
    for update in updates:
        _check(rule, update)
    numbers = [*map(float, numbers), *[0.0] * (5 - len(numbers))]
    for dtype in {update.w.dtype for update in updates}:
        jobs, blocks, work = [], 0, 0
        for u in updates:
            if u.w.dtype != dtype or not u.w.size:
                continue
            state = [_jit.address(a) for a in u.state] + [0] * (3 - len(u.state))
            if u.rows is None:
                size, width, where, taken = u.w.size, 0, (0, 0), -(-u.w.size // BLOCK)
            else:
                size, width = len(u.rows), math.prod(u.w.shape[1:])
                where, taken = (_jit.address(u.rows), _jit.address(u.g_rows)), -(-size // max(1, BLOCK // width))
            jobs.append([blocks, _jit.address(u.w), *state, _jit.address(u.g), size, *where, width, 0, 0])
            blocks, work = blocks + taken, work + WORK * size * max(1, width)
        if not blocks:
            continue
        table = np.array(jobs, np.int64)
        table[:, 10:].view(np.float64)[:] = [(u.scale, u.decay) for u in updates if u.w.dtype == dtype and u.w.size]
        n = {f"n_{i}": number for i, number in enumerate(numbers)}
        _jit.get("optimizer", rule, dtype).run(
            blocks, work, jobs=table, count=len(jobs), lr=float(lr), low=-float(clip), high=float(clip), **n
        )


def _check(rule, update):
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, received {rule!r}")
    w, state, g, rows = update.w, update.state, update.g, update.rows
    if len(state) != RULES[rule]:
        raise ValueError(f"state: expected {RULES[rule]} arrays for {rule}, received {len(state)}")
    shape = w.shape if rows is None else (len(g), *w.shape[1:])
    for name, a in (("rows", rows), ("g_rows", update.g_rows)):
        if rows is not None and (a is None or a.dtype != np.int64 or a.shape != (len(rows),)):
            raise ValueError(f"{name}: expected int64 of shape {rows.shape}, received {a!r}")
    for name, a, size in (("w", w, w.size), *[("state", a, w.size) for a in state], ("g", g, math.prod(shape))):
        if a.dtype != w.dtype or a.size != size or not a.flags.c_contiguous:
            raise ValueError(f"{name}: expected {size} contiguous elements of {w.dtype}, received {a.shape} {a.dtype}")


def square_sum(g):
    """Sum of the squares of all elements of g, as a float: each squared and added in float64, pieces in their order."""
    g = np.ascontiguousarray(g)
    sums = np.zeros(-(-g.size // BLOCK))
    _jit.get("optimizer", "square_sums", g.dtype).run(len(sums), g.size, g=g, size=g.size, sums=sums)
    return float(np.sum(sums))
