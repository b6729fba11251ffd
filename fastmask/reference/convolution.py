"""Convolution over time.

    y[t] = activation(bias + sum over k of x[t strides - left + k dilation_rate] kernel[k])

x is 0 outside a row and at masked steps.
"""

from typing import NamedTuple

import numpy as np

from fastmask.reference.activation import activation_backward, activation_forward
from fastmask.reference.mask import as_mask


class Conv1DGradients(NamedTuple):
    """x (B,T,F), 0 at masked steps; kernel (K,F,C); bias (C,) or None."""

    x: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray | None


class Conv1DTape(NamedTuple):
    """What conv1d_backward reads."""

    padded: np.ndarray  # (B,T+,F), x with the zeros around it
    mask: np.ndarray  # (B,T)
    left: int
    kernel: np.ndarray
    has_bias: bool
    strides: int
    dilation_rate: int
    activation: str | None
    a: np.ndarray  # (B,T',C) pre-activations
    y: np.ndarray


def conv1d(x, kernel, bias=None, **options):
    """conv1d_forward without the tape."""
    return conv1d_forward(x, kernel, bias, **options)[0]


def conv1d_forward(x, kernel, bias=None, *, strides=1, padding="valid", dilation_rate=1, activation=None, mask=None):
    """The module's equation, and the tape for conv1d_backward.

    Parameters
    ----------
    x, kernel, bias : (B,T,F), (K,F,C), (C,) or None
    strides : int
    padding : "valid" (left = 0, windows lie in the row), "causal" (left = (K-1) dilation_rate) or "same" (TensorFlow's)
    dilation_rate : int
    activation : a name of fastmask.reference.activation
    mask : (B,T) or None

    Returns
    -------
    (B,T',C), tape
    """
    B, T, F = x.shape
    K, _, C = kernel.shape
    mask = as_mask(mask, B, T)
    T_out, left = outputs_and_left(T, K, strides, padding, dilation_rate)
    padded = np.zeros((B, left + T + K * dilation_rate + strides, F), x.dtype)
    padded[:, left : left + T] = np.where(mask[..., None], x, 0)

    a = np.zeros((B, T_out, C), x.dtype)
    for k in range(K):
        a += padded[:, _read(k, T_out, strides, dilation_rate)] @ kernel[k]
    if bias is not None:
        a += bias
    y = activation_forward(a, activation)
    return y, Conv1DTape(padded, mask, left, kernel, bias is not None, strides, dilation_rate, activation, a, y)


def conv1d_backward(tape, dy, *, from_logits=False):
    """Gradients from dy (B,T',C); with from_logits, dy is already the gradient of the pre-activations."""
    padded, mask, left, kernel, has_bias, strides, dilation_rate, activation, a, y = tape
    da = dy if from_logits else activation_backward(a, y, dy, activation)
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for k in range(len(kernel)):  # in the forward pass a += padded[read] @ kernel[k], so now:
        read = _read(k, a.shape[1], strides, dilation_rate)
        d_padded[:, read] += da @ kernel[k].T
        d_kernel[k] = np.einsum("btf,btc->fc", padded[:, read], da)
    dx = np.where(mask[..., None], d_padded[:, left : left + mask.shape[1]], 0)
    return Conv1DGradients(dx, d_kernel, da.sum(axis=(0, 1)) if has_bias else None)


def conv1d_mask(mask, kernel_size, strides=1, padding="valid", dilation_rate=1):
    """Mask (B,T') of the outputs: "valid" wants all steps valid that an output reads, "causal" the last of them, "same"
    the one in the middle.
    """
    B, T = mask.shape
    T_out, left = outputs_and_left(T, kernel_size, strides, padding, dilation_rate)
    span = (kernel_size - 1) * dilation_rate
    out = np.zeros((B, T_out), bool)
    for t in range(T_out):
        start = t * strides - left
        if padding == "valid":
            out[:, t] = mask[:, start : start + span + 1 : dilation_rate].all(axis=1)
        else:
            out[:, t] = mask[:, start + (span if padding == "causal" else span // 2)]
    return out


def outputs_and_left(T, kernel_size, strides, padding, dilation_rate):
    """(outputs, zeros in front) of a row of T steps."""
    span = (kernel_size - 1) * dilation_rate + 1
    if padding == "valid":
        return max((T - span) // strides + 1, 0), 0
    outputs = -(-T // strides)
    if padding == "causal":
        return outputs, span - 1
    return outputs, max((outputs - 1) * strides + span - T, 0) // 2


def _read(k, outputs, strides, dilation_rate):
    """The steps that tap k of all outputs reads."""
    return k * dilation_rate + strides * np.arange(outputs)
