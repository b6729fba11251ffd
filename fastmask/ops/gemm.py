"""The dense layer's product, on the library's own matrix kernels: a row's bits depend on no other row, on no padding
and on no thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmask.checks import empty
from fastmask.kernels import _jit
from fastmask.ops._common import Workspace, aligned_zeros, as_floats, check_activation, check_made_by, check_shape
from fastmask.ops._packing import PANEL_BYTES, lanes, pack_columns
from fastmask.ops._products import column_sums, plain_columns, plain_sums, product, weight_gradient
from fastmask.ops.activation import activation_backward, activation_forward
from fastmask.ops.mask import clear_masked, from_values
from fastmask.ragged import Ragged


class DenseGradients(NamedTuple):
    """x as x (None if not asked for), kernel (F,K), bias (K,) or None."""

    x: np.ndarray | Ragged | None
    kernel: np.ndarray
    bias: np.ndarray | None


class DenseTape(NamedTuple):
    x: np.ndarray  # (N,F), a view of what came
    kernel: np.ndarray
    has_bias: bool
    activation: str | None
    z: np.ndarray | None  # (N,K) pre-activations, where the derivative needs them
    y: np.ndarray  # (N,K)
    shape: tuple  # of the outputs
    offsets: np.ndarray | None


class PackedDense:
    """kernel (F,K) and bias in the order of the kernels."""

    def __init__(self, kernel, bias):
        self.shape, self.dtype = kernel.shape, kernel.dtype
        self.kernel = pack_columns(kernel)
        L = lanes(self.dtype)
        self.bias = aligned_zeros((-(-kernel.shape[1] // L) * L,), self.dtype)
        if bias is not None:
            self.bias[: bias.shape[0]] = bias


def check_packed(packed, shape, dtype, maker):
    """Raise unless `packed` is a PackedDense of weights of that shape and dtype."""
    check_made_by(maker, "packed", packed, PackedDense)
    if packed.shape != shape or packed.dtype != dtype:
        raise ValueError(f"packed: expected weights {shape} of {dtype}, received {packed.shape} of {packed.dtype}")


def dense_pack(kernel, bias=None):
    """Weights in the order of the kernels, for `packed=`: they must not change while the pack is in use."""
    kernel = as_floats("kernel", kernel)
    return PackedDense(*_check_weights(kernel, bias, None, kernel.dtype))


def _check_weights(kernel, bias, F, dtype):
    kernel = as_floats("kernel", kernel, dtype)
    if kernel.ndim != 2 or (F is not None and kernel.shape[0] != F):
        raise ValueError(
            f"kernel: expected shape (F,K){'' if F is None else f' with F = {F}'}, received {kernel.shape}"
        )
    if bias is not None:
        bias = check_shape("bias", as_floats("bias", bias, dtype), kernel.shape[1:], "(K,)")
    return kernel, bias


def dense(x, kernel, bias=None, *, activation=None, packed=None):
    """y = activation(x W + b).

    Parameters
    ----------
    x : (...,F) float32 or float64, or Ragged with values (N,F)
    kernel, bias : (F,K), (K,) or None, of x's dtype
    activation : any Keras name, softmax and log_softmax (over K) included, or None
    packed : from dense_pack, or None

    Returns
    -------
    (...,K), Ragged for Ragged

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    Each output is one chain of fused multiply-adds from b over f = 0 … F-1. Parallel over rows.

    Examples
    --------
    >>> import numpy as np
    >>> dense(np.ones((2, 3)), np.full((3, 1), 2.0), np.ones(1))
    array([[7.],
           [7.]])
    """
    return dense_forward(x, kernel, bias, activation=activation, packed=packed)[0]


def dense_forward(x, kernel, bias=None, *, activation=None, packed=None):
    """dense and the tape for dense_backward; the tape keeps x itself, not a copy."""
    check_activation(activation)
    values = as_floats("x", x.values if isinstance(x, Ragged) else x)
    if values.ndim < 1:
        raise ValueError("x: expected shape (...,F), received a scalar")
    F, dtype = values.shape[-1], values.dtype
    kernel, bias = _check_weights(kernel, bias, F, dtype)
    K = kernel.shape[1]
    z = empty("outputs", values.shape[:-1] + (K,), dtype)
    if packed is None:
        packed = PackedDense(kernel, bias)
    else:
        check_packed(packed, kernel.shape, dtype, "dense_pack")
    rows = values.size // F if F else int(np.prod(values.shape[:-1]))
    product(dtype, values, F * dtype.itemsize, 1, F, 0, packed.kernel, K, z, None, rows, packed.bias).run()
    y = z if activation in (None, "linear") else activation_forward(z, activation)
    offsets = x.offsets if isinstance(x, Ragged) else None
    tape = DenseTape(
        values.reshape(rows, F),
        kernel,
        bias is not None,
        activation,
        z.reshape(rows, K),
        y.reshape(rows, K),
        y.shape,
        offsets,
    )
    return (y if offsets is None else Ragged._checked(y, offsets)), tape


def dense_backward(tape, dy, *, need_x=True, from_logits=False):
    """Gradients of dense from dy, shaped as y.

    from_logits: dy is the gradient of x W + b already (a loss that works on the logits). need_x=False skips the
    gradient of x.
    """
    check_made_by("dense_forward", "tape", tape, DenseTape)
    if tape.offsets is not None and not isinstance(dy, Ragged):
        raise TypeError(f"dy: expected Ragged as the outputs, received {type(dy).__name__}")
    dtype = tape.x.dtype
    dy = check_shape("dy", as_floats("dy", dy.values if isinstance(dy, Ragged) else dy, dtype), tape.shape, "as y")
    (rows, F), K = tape.x.shape, tape.y.shape[1]
    dz = dy.reshape(rows, K)
    if not from_logits and tape.activation not in (None, "linear"):
        dz = activation_backward(tape.z, tape.y, dz, tape.activation)
    some = from_values(dz)  # a step at which nothing but 0 arrives, as under a mask, adds nothing
    reached = np.flatnonzero(some)
    N = len(reached)
    L = lanes(dtype)
    vectors = -(-K // L)
    step = vectors * L * dtype.itemsize
    padded = aligned_zeros((N, vectors * L), dtype)
    padded[:, :K] = dz if rows == N else dz[reached]
    workspace = Workspace()
    d_kernel, at_once, columns = np.empty((F, K), dtype), 4 * L * dtype.itemsize, plain_columns(K, L)
    jobs = [
        weight_gradient(
            d_kernel, columns, tape.x, reached, padded, step, at_once, PANEL_BYTES, vectors, 4, N, workspace
        )
    ]
    dx = None
    if need_x:
        dx = np.empty((rows, F), dtype)
        if rows > N:
            clear_masked(dx, some)
        weights = pack_columns(np.ascontiguousarray(tape.kernel.T))
        jobs.append(product(dtype, padded, step, 1, K, 0, weights, F, dx, reached, N))
        dx = dx.reshape(tape.shape[:-1] + (F,)) if tape.offsets is None else Ragged._checked(dx, tape.offsets)
    d_bias = None
    if tape.has_bias:
        d_bias = np.empty(K, dtype)
        jobs.append(column_sums(d_bias, plain_sums(K, L), padded, step, PANEL_BYTES, 0, vectors, 1, N))
    _jit.Together(jobs).run()
    workspace.release()
    return DenseGradients(dx, d_kernel, d_bias)
