"""Weights of recurrent cells in the order of their kernels. One `Cell` describes what differs between SimpleRNN, GRU
(two forms) and LSTM.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
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


def _pack_work(elements):
    """The work of packing, in multiply-adds: a large array comes from another core's cache, and goes there."""
    return elements * (8 if elements < 20_000 else 32)


@lru_cache(256)
def _columns(gates, H):
    """Where gates begin."""
    return np.array(gates) * H


class _Packing:
    """Arrays, and the jobs that fill them from the weights; once, or again and again from other weights."""

    def __init__(self, H, sources):
        self.jobs, self._H, self._sources, self._names = [], H, sources, []

    def gates(self, name, gates):
        """(K, G*H) -> [panel][k][gate][lane], the order of a cell's tile; zeros beyond H."""
        weights = np.atleast_2d(self._sources[name])
        K, L = weights.shape[0], lanes(weights.dtype)
        out = aligned((-(-self._H // L), K, len(gates), L), weights.dtype)
        return self._add("pack_gates", len(out), name, gates, out)

    def transposed(self, name, gates, by_gate=False):
        """(C, G*H) -> packed right-hand side (panel · gate · unit, C): what multiplies gradients of gates as they lie
        in ws. by_gate: a row for each gate.
        """
        weights = self._sources[name]
        C, L, W = weights.shape[0], lanes(weights.dtype), PANEL_BYTES // weights.itemsize
        vectors, runs = -(-C // L), [(g,) for g in gates] if by_gate else [gates]
        out = aligned((len(runs), -(-self._H // W) * len(runs[0]) * W * vectors * L), weights.dtype)
        for run, row in zip(runs, out, strict=True):
            self._add("pack_transposed", vectors // 4 + (vectors % 4 + 1) // 2, name, run, row)
        return out if by_gate else out[0]

    def _add(self, kernel, blocks, name, gates, out):
        weights = np.atleast_2d(self._sources[name])
        job = _jit.get("gemm", kernel, weights.dtype).job(
            blocks, _pack_work(out.size), weights=weights, row_stride=weights.shape[1] * weights.itemsize,
            rows=weights.shape[0], gates=_columns(gates, self._H), count=len(gates), units=self._H, out=out,
        )  # fmt: skip
        self._names.append(name)
        self.jobs.append(job)
        return out

    def run(self):
        _jit.Together(self.jobs).run()

    def bind(self, sources):
        """Other weights than the last time."""
        for name, job in zip(self._names, self.jobs, strict=True):
            job.bind(weights=sources[name])


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
        self.F, self.H = kernel.shape[0], recurrent_kernel.shape[0]
        self.panels = -(-self.H // lanes(self.dtype))
        self._both_biases = None
        self._sources = self._sources_of(kernel, recurrent_kernel, bias)
        self._forward = pack = _Packing(self.H, self._sources)
        self.wx, self.wh = pack.gates("kernel", cell.x_gates), pack.gates("recurrent_kernel", cell.x_gates)
        self.bias = pack.gates("bias", (0, 1, 2, 3) if cell.recurrent_bias else cell.x_gates)
        self.wx2 = self.wh2 = self.bias2 = None
        if cell.second_gates:
            self.wx2, self.wh2 = (pack.gates(name, cell.second_gates) for name in ("kernel", "recurrent_kernel"))
            self.bias2 = pack.gates("bias", cell.second_gates)
        pack.run()
        self._backward = {}  # by what `backward` is asked for: (its packing, its arrays)
        self._all_again = None  # the launch that fills everything from other weights
        self.plans = OrderedDict()

    def _sources_of(self, kernel, recurrent_kernel, bias):
        cell, G, H = self.cell, self.cell.gates, self.H
        if bias is None:
            bias = np.zeros((2, G * H) if cell.recurrent_bias else (G * H,), self.dtype)
        if cell.recurrent_bias:  # z and r add both biases; the two parts of h keep their own
            if self._both_biases is None:
                self._both_biases = np.empty(4 * H, self.dtype)
            np.add(bias[0, : 2 * H], bias[1, : 2 * H], out=self._both_biases[: 2 * H])
            self._both_biases[2 * H :].reshape(2, H)[...] = bias[:, 2 * H :]
            bias = self._both_biases
        return {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}

    def set_weights(self, kernel, recurrent_kernel, bias):
        """Pack other weights of the same shapes in the same memory, which nobody else may be using."""
        old, self._sources = self._sources, self._sources_of(kernel, recurrent_kernel, bias)
        packings = [self._forward, *(packing for packing, _ in self._backward.values())]
        if [*map(id, self._sources.values())] != [*map(id, old.values())]:  # else the numbers in them are new, at most
            for packing in packings:
                packing.bind(self._sources)
        if self._all_again is None:
            self._all_again = _jit.Together([job for packing in packings for job in packing.jobs])
        self._all_again.run()

    def backward(self, x_by_gate=False, h_by_gate=False, through_time=True):
        """(ut, ut2, wt): packed transposes for dh, d(r h) and dx; of all gates together, or a row for each gate.
        through_time: whether gradients go back to a step, or state, before; else ut is None.
        """
        key = x_by_gate, h_by_gate, through_time
        found = self._backward.get(key)
        if found is None:
            cell, pack = self.cell, _Packing(self.H, self._sources)
            ut = pack.transposed("recurrent_kernel", cell.u_gates, h_by_gate) if through_time else None
            ut2 = pack.transposed("recurrent_kernel", cell.second_gates) if cell.second_gates else None
            found = pack, (ut, ut2, pack.transposed("kernel", cell.w_gates, x_by_gate))
            pack.run()
            self._backward[key], self._all_again = found, None
        return found[1]


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
    if kernel.shape != (F, G * H):
        check_shape("kernel", kernel, (F, G * H), f"(F,{G}*H)")
    if bias is not None:
        bias, shape = as_floats("bias", bias, dtype), (2, G * H) if cell.recurrent_bias else (G * H,)
        if bias.shape != shape:
            check_shape("bias", bias, shape, f"(2,{G}*H)" if cell.recurrent_bias else f"({G}*H,)")
    return kernel, recurrent_kernel, bias


def pack(cell, kernel, recurrent_kernel, bias):
    kernel = as_floats("kernel", kernel)
    return Packed(cell, *check_weights(cell, kernel, recurrent_kernel, bias, None, kernel.dtype))
