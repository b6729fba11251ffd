"""Convolution over time, straight from the rows: no window is ever copied.

The steps of all rows lie in one *line*, each row with the zeros around it that its padding asks for, masked steps 0. An
output is the product of a window of the line with the kernel. Windows overlap in memory; where taps are apart, the
left-hand side is one run a tap (kernels/gemm.py, design d).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmask.checks import empty
from fastmask.kernels import _jit
from fastmask.ops._common import (
    Steps,
    Workspace,
    aligned_zeros,
    as_floats,
    check_activation,
    check_made_by,
    check_shape,
    resolve_batch,
    steps_of,
)
from fastmask.ops._packing import PANEL_BYTES, lanes
from fastmask.ops._products import column_sums, plain_columns, plain_sums, run_products, weight_gradient
from fastmask.ops.activation import activation_backward, activation_forward
from fastmask.ops.gemm import PackedDense, check_packed
from fastmask.ops.mask import check_count, check_mask
from fastmask.ragged import Ragged

PADDINGS = ("valid", "same", "causal")


class Conv1DGradients(NamedTuple):
    """x as x, 0 at masked steps (None if not asked for); kernel (K,F,C); bias (C,) or None."""

    x: np.ndarray | Ragged | None
    kernel: np.ndarray
    bias: np.ndarray | None


class Conv1DTape(NamedTuple):
    windows: _Windows
    steps: Steps
    line: np.ndarray  # (steps of the line, F)
    kernel: np.ndarray
    has_bias: bool
    activation: str | None
    z: np.ndarray  # (M,C) pre-activations of all outputs
    y: np.ndarray  # (M,C)
    padded: tuple | None  # (B,T,T') unless x is Ragged

    def as_outputs(self, values):
        """(M,C) in the shape of the outputs."""
        if self.padded is None:
            return Ragged._checked(values, self.windows.out_base)
        B, _, T = self.padded
        return values.reshape(B, T, values.shape[1])

    def flat(self, name, a):
        """What has the shape of the outputs, as (M,C)."""
        if self.padded is None and not isinstance(a, Ragged):
            raise TypeError(f"{name}: expected Ragged as the outputs, received {type(a).__name__}")
        shape = self.y.shape if self.padded is None else self.as_outputs(self.y).shape
        a = as_floats(name, a.values if isinstance(a, Ragged) else a, self.y.dtype)
        return check_shape(name, a, shape, "as the outputs").reshape(self.y.shape)


class _Windows:
    """Where the rows lie in the line, and their outputs: output t of a row reads the line's steps line_base[row] +
    t strides + k dilation_rate, k < K. Steps and outputs are numbered through all rows.
    """

    def __init__(self, base, K, strides, padding, dilation_rate):
        """base (B+1,): where the steps of a row begin."""
        self.strides, self.dilation_rate, self.span = strides, dilation_rate, (K - 1) * dilation_rate + 1
        T = np.diff(base)
        self.outputs, self.left = _outputs_and_left(T, K, strides, padding, dilation_rate)
        self.out_base = _running(self.outputs)
        reach = np.where(self.outputs > 0, (self.outputs - 1) * strides + self.span, 0)
        self.line_base = _running(np.maximum(self.left + T, reach))

    def touching(self, first, last):
        """(lo, hi): outputs lo … hi - 1 of a row read some of its steps first … last - 1."""
        lo = np.maximum((first + self.left - self.span) // self.strides + 1, 0)
        hi = np.minimum(-(-(last + self.left) // self.strides), self.outputs)
        some = (last > first) & (hi > lo)
        return np.where(some, lo, 0), np.where(some, hi, 0)


def conv1d_length(T, kernel_size, strides=1, padding="valid", dilation_rate=1):
    """Number of outputs of a row of T steps.

    Examples
    --------
    >>> conv1d_length(10, 3), conv1d_length(10, 3, 2, "same"), conv1d_length(1, 3)
    (8, 5, 0)
    """
    T, kernel_size = check_count(T, "T"), check_count(kernel_size, "kernel_size", minimum=1)
    _check_options(strides, padding, dilation_rate, ragged=False)
    return _length(T, kernel_size, strides, padding, dilation_rate)


def _length(T, kernel_size, strides, padding, dilation_rate):
    return int(_outputs_and_left(np.array([T]), kernel_size, strides, padding, dilation_rate)[0][0])


def conv1d(
    x, kernel, bias=None, *, strides=1, padding="valid", dilation_rate=1, activation=None, mask=None, packed=None
):
    """y[t] = activation(bias + sum over k of x[t strides - left + k dilation_rate] kernel[k]).

    Parameters
    ----------
    x : (B,T,F) float32 or float64, or Ragged with values (N,F)
    kernel, bias : (K,F,C), (C,) or None, of x's dtype
    strides : int, at least 1
    padding : "valid", "same" or "causal"
        What lies outside a row is 0. Causal: left = (K-1) dilation_rate, no output reads a step behind its own. Same:
        as many outputs as T / strides, rounded up, with TensorFlow's left; with strides = 1 it is half of (K-1)
        dilation_rate, rounded down. Valid: left = 0, and only windows that lie in the row.
    dilation_rate : int, at least 1
    activation : any Keras name, softmax and log_softmax (over C) included, or None
    mask : (B,T), or (N,) for Ragged, optional
        Masked steps count as 0, whatever stands there.
    packed : from conv1d_pack, or None

    Returns
    -------
    (B,T',C); Ragged for Ragged, each row by itself

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    Keras reads what stands at masked steps; here they are what Masking makes of them. The outputs' own mask is
    conv1d_mask's. An output is one chain of fused multiply-adds from bias over k, then f, so for "causal", for "valid",
    and for "same" with strides = 1 padding changes no bit of a valid output. ("same" with strides > 1 begins its
    windows where T says, as in TensorFlow.) Windows without a valid step are not computed: they give the bias.
    Parallel over outputs.

    Examples
    --------
    >>> import numpy as np
    >>> x, kernel = np.array([[[1.0], [2.0], [4.0]]]), np.array([[[1.0]], [[10.0]]])
    >>> conv1d(x, kernel, padding="causal")[0, :, 0]
    array([10., 21., 42.])
    """
    y, _ = conv1d_forward(
        x, kernel, bias, strides=strides, padding=padding, dilation_rate=dilation_rate, activation=activation,
        mask=mask, packed=packed,
    )  # fmt: skip
    return y


def conv1d_forward(
    x, kernel, bias=None, *, strides=1, padding="valid", dilation_rate=1, activation=None, mask=None, packed=None
):
    """conv1d, and the tape for conv1d_backward."""
    check_activation(activation)
    _check_options(strides, padding, dilation_rate, isinstance(x, Ragged))
    values, B, T, offsets, mask = resolve_batch(x, mask)
    dtype, F = values.dtype, values.shape[-1]
    kernel, bias = _check_weights(kernel, bias, F, dtype)
    K, _, C = kernel.shape
    if packed is not None:
        check_packed(packed, (K * F, C), dtype, "conv1d_pack")
    steps = steps_of(B, T, offsets, mask, False, False)
    windows = _Windows(steps.base, K, strides, padding, dilation_rate)
    z = empty("outputs", (int(windows.out_base[-1]), C), dtype)
    if packed is None:
        packed = conv1d_pack(kernel, bias)

    line = _line(values.reshape(steps.positions, F), steps, windows)
    lo, hi = windows.touching(*_valid_range(steps))
    if int((hi - lo).sum()) < len(z):  # the others read nothing but zeros
        z[:] = 0 if bias is None else bias
    _correlate(
        line, windows.line_base[:-1] + lo * strides, strides, K, dilation_rate, packed, z, windows.out_base[:-1] + lo,
        hi - lo,
    )  # fmt: skip
    y = z if activation in (None, "linear") else activation_forward(z, activation)
    padded = None if T is None else (B, T, _length(T, K, strides, padding, dilation_rate))
    tape = Conv1DTape(windows, steps, line, kernel, bias is not None, activation, z, y, padded)
    return tape.as_outputs(y), tape


def conv1d_backward(tape, dy, *, need_x=True, from_logits=False):
    """Gradients of conv1d from dy, shaped as its outputs.

    from_logits: dy is the gradient of the pre-activations already. need_x=False skips the gradient of x.
    """
    check_made_by("conv1d_forward", "tape", tape, Conv1DTape)
    windows, steps, line, kernel, z, y = tape.windows, tape.steps, tape.line, tape.kernel, tape.z, tape.y
    dtype, (K, _, C) = line.dtype, kernel.shape
    dz = tape.flat("dy", dy)
    if not from_logits and tape.activation not in (None, "linear"):
        dz = activation_backward(z, y, dz, tape.activation)
    lo, hi = windows.touching(*_valid_range(steps))
    row, t = _ranges(lo, hi)  # the outputs that read a valid step

    L = lanes(dtype)
    vectors = -(-C // L)
    stride = vectors * L * dtype.itemsize
    padded = aligned_zeros((len(dz), vectors * L), dtype)
    padded[:, :C] = dz
    jobs, workspace, d_bias = [], Workspace(), None
    if tape.has_bias:
        d_bias = np.empty(C, dtype)
        jobs.append(column_sums(d_bias, plain_sums(C, L), padded, stride, PANEL_BYTES, 0, vectors, 1, len(dz)))
    if len(row) < len(dz):
        padded = padded[windows.out_base[row] + t]
    # in the forward pass an output read the line at these steps and those k dilation_rate further, so now:
    at = windows.line_base[row] + t * windows.strides
    d_kernel = np.empty_like(kernel)
    for k in range(K):
        jobs.append(
            weight_gradient(
                d_kernel[k], plain_columns(C, L), line, at + k * windows.dilation_rate, padded, stride,
                4 * L * dtype.itemsize, PANEL_BYTES, vectors, 4, len(at), workspace,
            )
        )  # fmt: skip
    _jit.Together(jobs).run()
    workspace.release()
    dx = _input_gradient(tape, dz) if need_x else None
    return Conv1DGradients(dx, d_kernel, d_bias)


def _input_gradient(tape, dz):
    """The step at place p of a row's line met kernel[k] in output (p - k dilation_rate) / strides: a correlation of the
    outputs' gradients, spread strides apart with span - 1 zeros in front, with the kernel back to front.
    """
    windows, steps, kernel = tape.windows, tape.steps, tape.kernel
    (K, F, C), dtype = kernel.shape, dz.dtype
    base = windows.line_base + np.arange(len(windows.line_base)) * (windows.span - 1)
    spread = np.zeros((int(base[-1]), C), dtype)
    row, t = _ranges(np.zeros_like(windows.outputs), windows.outputs)
    spread[base[row] + windows.span - 1 + t * windows.strides] = dz

    first, last = _valid_range(steps)
    dx = (np.empty if steps.complete else np.zeros)((steps.positions, F), dtype)
    turned = PackedDense(np.ascontiguousarray(kernel[::-1].transpose(0, 2, 1)).reshape(K * C, F), None)
    _correlate(
        spread, base[:-1] + windows.left + first, 1, K, windows.dilation_rate, turned, dx, steps.base[:-1] + first,
        last - first,
    )  # fmt: skip
    if not steps.complete:
        hidden = np.ones(len(dx), bool)
        hidden[steps.src] = False
        dx[hidden] = 0
    return Ragged._checked(dx, steps.base) if tape.padded is None else dx.reshape(*tape.padded[:2], F)


def conv1d_mask(x, mask, kernel_size, strides=1, padding="valid", dilation_rate=1):
    """Mask of the outputs of conv1d for x (B,T,…) or Ragged and its mask: (B,T'), or (N',) for Ragged.

    An output of "valid" counts if all the steps it reads are valid; one of "causal" if its own step t strides, the
    last it reads, is; one of "same" if the step in the middle of its window is (the left one of two), which with
    strides = 1 is step t: there the mask goes on as it is.

    Examples
    --------
    >>> import numpy as np
    >>> x, mask = np.zeros((1, 5, 1)), np.array([[True, True, True, True, False]])
    >>> conv1d_mask(x, mask, 3), conv1d_mask(x, mask, 3, 2, "causal")
    (array([[ True,  True, False]]), array([[ True,  True, False]]))
    """
    _check_options(strides, padding, dilation_rate, isinstance(x, Ragged))
    check_count(kernel_size, "kernel_size", minimum=1)
    if not isinstance(x, Ragged) and np.ndim(x) < 2:
        raise ValueError(f"x: expected shape (B,T,...), received {np.shape(x)}")
    if isinstance(x, Ragged):
        mask, base = check_mask(mask, (len(x.values),)), x.offsets
    else:
        mask, base = check_mask(mask, x.shape[:2]), np.arange(x.shape[0] + 1) * x.shape[1]
    if padding != "valid" and strides == 1:
        return mask
    windows = _Windows(base, kernel_size, strides, padding, dilation_rate)
    row, t = _ranges(np.zeros_like(windows.outputs), windows.outputs)
    flat, at = mask.reshape(-1), base[row] + t * strides
    if padding == "valid":
        out = np.ones(len(at), bool)
        for k in range(kernel_size):
            out &= flat[at + k * dilation_rate]
    elif padding == "causal":
        out = flat[at]
    else:
        out = flat[at - windows.left[row] + (windows.span - 1) // 2]
    if isinstance(x, Ragged):
        return out
    return out.reshape(len(x), _length(x.shape[1], kernel_size, strides, padding, dilation_rate))


def conv1d_pack(kernel, bias=None):
    """Weights in the order of the kernels, for `packed=`: they must not change while the pack is in use."""
    kernel, bias = _check_weights(kernel, bias, None, as_floats("kernel", kernel).dtype)
    K, F, C = kernel.shape
    return PackedDense(kernel.reshape(K * F, C), bias)


# ----------------------------------------------------------------------------------------------------------------------


def _check_options(strides, padding, dilation_rate, ragged):
    check_count(strides, "strides", minimum=1)
    check_count(dilation_rate, "dilation_rate", minimum=1)
    if padding not in PADDINGS:
        raise ValueError(f"padding: expected one of {', '.join(PADDINGS)}, received {padding!r}")
    if ragged and padding == "same" and strides > 1:
        raise ValueError(
            f"strides: expected 1 with padding='same' for a Ragged, received {strides}: where windows begin would "
            "depend on what the row is padded to"
        )


def _check_weights(kernel, bias, F, dtype):
    kernel = as_floats("kernel", kernel, dtype)
    if kernel.ndim != 3 or not len(kernel) or (F is not None and kernel.shape[1] != F):
        with_F = "" if F is None else f" with F = {F}"
        raise ValueError(f"kernel: expected shape (K,F,C){with_F}, K >= 1, received {kernel.shape}")
    if bias is not None:
        bias = check_shape("bias", as_floats("bias", bias, dtype), kernel.shape[2:], "(C,)")
    return kernel, bias


def _outputs_and_left(T, kernel_size, strides, padding, dilation_rate):
    """(outputs, zeros in front) of rows of T steps (B,), as TensorFlow has them."""
    span = (kernel_size - 1) * dilation_rate + 1
    if padding == "valid":
        return np.maximum((T - span) // strides + 1, 0), np.zeros_like(T)
    outputs = -(-T // strides)
    if padding == "causal":
        return outputs, np.full_like(T, span - 1)
    return outputs, np.maximum((outputs - 1) * strides + span - T, 0) // 2


def _running(counts):
    """0, then the running sum."""
    return np.concatenate([[0], np.cumsum(counts)])


def _ranges(lo, hi):
    """(row, n) of all n from lo[row] to hi[row] - 1, row by row."""
    row = np.repeat(np.arange(len(lo)), hi - lo)
    return row, np.arange(len(row)) - (_running(hi - lo)[:-1] - lo)[row]


def _valid_range(steps):
    """(first, last): the valid steps of a row are among its steps first … last - 1, (B,) each."""
    first, last = np.zeros(steps.B, np.int64), np.zeros(steps.B, np.int64)
    some = steps.first[1:] > steps.first[:-1]
    start = steps.base[:-1][some]
    first[some] = steps.src[steps.first[:-1][some]] - start
    last[some] = steps.src[steps.first[1:][some] - 1] + 1 - start
    return first, last


def _line(values, steps, windows):
    """The line of steps (positions,F): masked ones, and what lies around the rows, are 0."""
    if steps.complete and windows.line_base[-1] == len(values):
        return values
    line = np.zeros((int(windows.line_base[-1]), values.shape[1]), values.dtype)
    shift = windows.line_base[:-1] + windows.left - steps.base[:-1]
    line[steps.src + np.repeat(shift, np.diff(steps.first))] = values if steps.complete else values[steps.src]
    return line


def _correlate(line, first, stride, K, dilation_rate, packed, out, at, count):
    """out[at + t] = bias + sum over k of line[first + t stride + k dilation_rate] kernel[k], t < count; (B,) each."""
    size, F, C = line.itemsize, line.shape[1], out.shape[1]
    together = dilation_rate == 1
    run_products(
        line.dtype, jobs=len(count), a=_jit.address(line) + first * F * size, a_stride=stride * F * size,
        outer=1 if together else K, inner=K * F if together else F, jump=dilation_rate * F * size,
        weights=_jit.address(packed.kernel), columns=C, c=_jit.address(out) + at * C * size, c_stride=C * size,
        rows=count, init=packed.bias,
    )  # fmt: skip
