"""Global pooling over time: the average and the largest of the valid steps of each row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmask.kernels import _jit
from fastmask.ops._common import Steps, as_floats, check_made_by, check_shape, resolve_batch, steps_of
from fastmask.ragged import Ragged

WORK = 4  # multiply-adds that one number of x is worth to the launcher


class PoolTape(NamedTuple):
    x: np.ndarray  # (B,T,F) or (N,F), what came, not a copy
    y: np.ndarray  # (B,F)
    steps: Steps


def average_pool_forward(x, *, mask=None):
    """y = mean of the valid steps of each row, and the tape for average_pool_backward.

    Parameters
    ----------
    x : (B,T,F) float32 or float64, or Ragged with values (N,F)
    mask : (B,T), (1,T) or (B,T,1), with Ragged (N,); optional
        True = use the step. Nothing under the mask is ever read.

    Returns
    -------
    y : (B,F)
        0 for a row without a valid step (Keras: NaN).
    tape : PoolTape

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    Each output is a sum over the valid steps in their order: its bits depend on them alone, not on padding, other rows
    or threads (tests/test_pool.py: test_padding_changes_no_bit). Parallel over rows.

    Examples
    --------
    >>> average_pool_forward([[[1.0], [3.0], [np.nan]]], mask=[[True, True, False]])[0]
    array([[2.]])
    """
    return _pool("average_forward", x, mask)


def average_pool_backward(tape, dy):
    """dx from dy (B,F): dy / number of valid steps at valid steps, else 0; Ragged for Ragged."""
    check_made_by("average_pool_forward", "tape", tape, PoolTape)
    return _spread("average_backward", tape, dy)


def max_pool_forward(x, *, mask=None):
    """y = the largest of the valid steps of each row and feature, and the tape for max_pool_backward.

    Parameters, Raises and Notes are those of average_pool_forward.

    Returns
    -------
    y : (B,F)
        NaN if a valid one is NaN; 0 for a row without a valid step.
    tape : PoolTape

    Examples
    --------
    >>> max_pool_forward([[[-1.0], [-3.0], [9.0]]], mask=[[True, True, False]])[0]
    array([[-1.]])
    """
    return _pool("max_forward", x, mask)


def max_pool_backward(tape, dy):
    """dx from dy (B,F): dy at the largest valid step, in equal shares where several are (as in TensorFlow), else 0;
    Ragged for Ragged."""
    check_made_by("max_pool_forward", "tape", tape, PoolTape)
    return _spread("max_backward", tape, dy, x=tape.x, y=tape.y)


def _pool(kernel, x, mask):
    values, B, T, offsets, mask = resolve_batch(x, mask)
    steps = steps_of(B, T, offsets, mask, False, False)
    y = np.empty((B, values.shape[-1]), values.dtype)
    _run(kernel, steps, y, x=values, y=y)
    return y, PoolTape(values, y, steps)


def _spread(kernel, tape, dy, **arguments):
    """dx by a kernel that writes it at valid steps."""
    dy = check_shape("dy", as_floats("dy", dy, tape.x.dtype), tape.y.shape, "(B,F)")
    dx = np.empty_like(tape.x) if tape.steps.complete else np.zeros_like(tape.x)
    _run(kernel, tape.steps, dy, dy=dy, dx=dx, **arguments)
    offsets = tape.steps.offsets
    return dx if offsets is None else Ragged._checked(dx, offsets)


def _run(kernel, steps, rows, **arrays):
    B, F = rows.shape
    _jit.get("pool", kernel, rows.dtype).run(B, steps.N * F * WORK, first=steps.first, src=steps.src, size=F, **arrays)
