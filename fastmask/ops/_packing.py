"""Weights of recurrent cells in the order of their kernels. One `Cell` describes what differs between SimpleRNN, GRU
(two forms) and LSTM.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from fastmask.kernels import _jit
from fastmask.ops._common import aligned, aligned_zeros, as_floats, check_shape


class Cell(NamedTuple):
    """Gates are indices of the blocks of columns of kernel and recurrent_kernel."""

    name: str  # for messages
    module: str  # of kernels/
    kernel: str  # kernels `<kernel>_forward` and `<kernel>_backward`
    gates: int  # G
    states: int  # 1: h; 2: h and c
    x_gates: tuple  # columns of the tile's weights for x, in order; the same for h
    second_gates: tuple  # of the second pass of a step; () without one
    groups: int  # vectors that training keeps of each unit
    w_gates: tuple  # gates in the order in which their gradients lie in ws, from group 0: those that meet x
    u_gates: tuple  # and those that meet h …
    u_group: int  # … from this group on
    recurrent_bias: bool  # bias (2, G*H)


LSTM = Cell("lstm", "lstm", "lstm", 4, 2, (0, 1, 2, 3), (), 4, (0, 1, 2, 3), (0, 1, 2, 3), 0, False)
GRU = Cell("gru", "gru", "gru", 3, 1, (0, 1, 2), (), 4, (2, 0, 1), (0, 1, 2), 1, True)
GRU_RESET_BEFORE = Cell("gru", "gru", "gru_reset_before", 3, 1, (0, 1), (2,), 3, (2, 0, 1), (0, 1), 1, False)
SIMPLE_RNN = Cell("simple_rnn", "simple_rnn", "simple_rnn", 1, 1, (0,), (), 1, (0,), (0,), 0, False)


PANEL_BYTES = 64  # of each gate, in ws: whatever the lanes, so that sums over gates have one order on every machine


def lanes(dtype):
    return _jit.LANES if dtype == np.float32 else _jit.LANES // 2


PACK_WORK = 16  # the work of packing an element, in multiply-adds


def _pack_gates(weights, gates, H):
    """(K, G*H) -> [panel][k][gate][lane], the order of a cell's tile; zeros beyond H."""
    K, L = weights.shape[0], lanes(weights.dtype)
    out = aligned((-(-H // L), K, len(gates), L), weights.dtype)
    _pack("pack_gates", len(out), weights, gates, H, out)
    return out


def _transposed(weights, gates, H):
    """(C, G*H) -> packed right-hand side (panel · gate · unit, C): what multiplies gradients of gates as they lie in
    ws.
    """
    C, L, W = weights.shape[0], lanes(weights.dtype), PANEL_BYTES // weights.itemsize
    vectors = -(-C // L)
    out = aligned((-(-H // W) * len(gates) * W * vectors * L,), weights.dtype)
    _pack("pack_transposed", vectors // 4 + (vectors % 4 + 1) // 2, weights, gates, H, out)
    return out


def _pack(kernel, blocks, weights, gates, H, out):
    _jit.get("gemm", kernel, weights.dtype).run(
        blocks, PACK_WORK * out.size, weights=weights, row_stride=weights.shape[1] * weights.itemsize,
        rows=weights.shape[0], gates=np.array(gates) * H, count=len(gates), units=H, out=out,
    )  # fmt: skip


def pack_columns(matrix):
    """(K, C) -> the right-hand side of kernels/gemm.py:matmul: panels of 4, then 2, then 1 vectors; zeros beyond C."""
    K, C = matrix.shape
    L = lanes(matrix.dtype)
    vectors = -(-C // L)
    out = aligned_zeros((K * vectors * L,), matrix.dtype)
    v, at = 0, 0
    while v < vectors:
        width = 4 if vectors - v >= 4 else 2 if vectors - v >= 2 else 1
        part = matrix[:, v * L : (v + width) * L]
        out[at : at + K * width * L].reshape(K, width * L)[:, : part.shape[1]] = part
        v, at = v + width, at + K * width * L
    return out


class Packed:
    """Weights of one layer in the order of its kernels. Forward packs are made at once, backward packs when training
    first asks for them.
    """

    def __init__(self, cell, kernel, recurrent_kernel, bias):
        self.cell, self.dtype = cell, kernel.dtype
        G = cell.gates
        self.F, self.H = kernel.shape[0], recurrent_kernel.shape[0]
        self._kernel, self._recurrent_kernel = kernel, recurrent_kernel
        H, pack = self.H, _pack_gates
        self.panels = -(-H // lanes(self.dtype))
        self.wx, self.wh = pack(kernel, cell.x_gates, H), pack(recurrent_kernel, cell.x_gates, H)
        if bias is None:
            bias = np.zeros((2, G * H) if cell.recurrent_bias else (G * H,), self.dtype)
        if cell.recurrent_bias:  # z and r add both biases; the two parts of h keep their own
            both = bias[0] + bias[1]
            rows = np.concatenate([both[: 2 * H], bias[0, 2 * H :], bias[1, 2 * H :]])
            self.bias = pack(rows[None], (0, 1, 2, 3), H)
        else:
            self.bias = pack(bias[None], cell.x_gates, H)
        self.wx2 = self.wh2 = self.bias2 = None
        if cell.second_gates:
            self.wx2, self.wh2 = pack(kernel, cell.second_gates, H), pack(recurrent_kernel, cell.second_gates, H)
            self.bias2 = pack(bias[None], cell.second_gates, H)
        self._backward = {}
        self.plans = OrderedDict()

    def backward(self, x_by_gate=False, h_by_gate=False):
        """(ut, ut2, wt): packed transposes for dh, d(r h) and dx; of all gates together, or a row for each gate."""
        key = x_by_gate, h_by_gate
        if key not in self._backward:
            cell = self.cell
            self._backward[key] = (
                self._transposed(self._recurrent_kernel, cell.u_gates, h_by_gate),
                self._transposed(self._recurrent_kernel, cell.second_gates, False) if cell.second_gates else None,
                self._transposed(self._kernel, cell.w_gates, x_by_gate),
            )
        return self._backward[key]

    def _transposed(self, weights, gates, by_gate):
        if not by_gate:
            return _transposed(weights, gates, self.H)
        each = [_transposed(weights, (g,), self.H) for g in gates]
        return np.stack(each, out=aligned((len(gates), each[0].size), self.dtype))


def check_weights(cell, kernel, recurrent_kernel, bias, F, dtype):
    """The weights as contiguous arrays, or the error that names what is wrong."""
    G = cell.gates
    kernel, recurrent_kernel = (
        as_floats("kernel", kernel, dtype),
        as_floats("recurrent_kernel", recurrent_kernel, dtype),
    )
    if (
        recurrent_kernel.ndim != 2
        or recurrent_kernel.shape[1] != G * recurrent_kernel.shape[0]
        or not recurrent_kernel.size
    ):
        raise ValueError(f"recurrent_kernel: expected shape (H,{G}*H) with H >= 1, received {recurrent_kernel.shape}")
    H = recurrent_kernel.shape[0]
    F = kernel.shape[0] if F is None and kernel.ndim == 2 else F
    check_shape("kernel", kernel, (F, G * H), f"(F,{G}*H)")
    if bias is not None:
        bias = as_floats("bias", bias, dtype)
        check_shape(
            "bias",
            bias,
            (2, G * H) if cell.recurrent_bias else (G * H,),
            f"(2,{G}*H)" if cell.recurrent_bias else f"({G}*H,)",
        )
    return kernel, recurrent_kernel, bias


def pack(cell, kernel, recurrent_kernel, bias):
    kernel = as_floats("kernel", kernel)
    return Packed(cell, *check_weights(cell, kernel, recurrent_kernel, bias, None, kernel.dtype))
