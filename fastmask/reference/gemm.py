"""The dense layer: y = f(x W + b) over the last axis of x."""

import math
from typing import NamedTuple

import numpy as np

from fastmask.reference.activation import activation_backward, activation_forward


class DenseGradients(NamedTuple):
    """Gradients of dense: x as x, kernel (F,H), bias (H,) or None."""

    x: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray | None


class DenseTape(NamedTuple):
    """What dense_backward reads."""

    x: np.ndarray  # (...,F)
    kernel: np.ndarray  # (F,H)
    has_bias: bool
    activation: str | None
    a: np.ndarray  # (...,H) pre-activations
    y: np.ndarray  # (...,H)


def dense(x, kernel, bias=None, *, activation=None):
    """y = f(x W + b). x (...,F), kernel (F,H), bias (H,) -> (...,H)."""
    return dense_forward(x, kernel, bias, activation=activation)[0]


def dense_forward(x, kernel, bias=None, *, activation=None):
    """dense, and the tape for dense_backward."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    if x.ndim < 1 or kernel.ndim != 2 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"kernel: expected shape (F,H) for x of shape {x.shape}, received {kernel.shape}")
    if bias is not None and np.shape(bias) != kernel.shape[1:]:
        raise ValueError(f"bias: expected shape (H,) = {kernel.shape[1:]}, received {np.shape(bias)}")

    a = x @ kernel
    if bias is not None:
        a = a + bias
    y = activation_forward(a, activation)
    return y, DenseTape(x, kernel, bias is not None, activation, a, y)


def dense_backward(tape, dy, *, from_logits=False):
    """Gradients of dense from dy (...,H); with from_logits, dy is already the gradient of a = x W + b."""
    x, W, has_bias, activation, a, y = tape
    dy = np.asarray(dy)
    if dy.shape != y.shape:
        raise ValueError(f"dy: expected shape {y.shape}, received {dy.shape}")

    da = dy if from_logits else activation_backward(a, y, dy, activation)
    rows = math.prod(dy.shape[:-1])
    da_rows = da.reshape(rows, W.shape[1])  # in the forward pass a was x W + b, so now:
    return DenseGradients(
        x=da @ W.T,
        kernel=x.reshape(rows, W.shape[0]).T @ da_rows,
        bias=da_rows.sum(axis=0) if has_bias else None,
    )
