"""Training of the recurrent layers: a forward call that keeps what backward needs, and backward."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np

from fastmask.kernels import _jit
from fastmask.ops._common import Gradients, Steps, Workspace, aligned, as_floats, check_made_by, check_shape, steps_of
from fastmask.ops._dropout import NO_FACTORS, times_rows
from fastmask.ops._packing import PANEL_BYTES, Packed, lanes
from fastmask.ops._products import PRODUCT_ROWS, column_sums, product, weight_gradient
from fastmask.ops._recurrent import ARRAYS, check_call, forward_arguments, options_of, shares_of, slot_size
from fastmask.ragged import Ragged

# ----------------------------------------------------------------------------------------------------------------------
# Forward


class Tape:
    """What backward needs of one forward call; good for one backward."""

    def __init__(self, cell, training):
        self.cell, self.training = cell, [training]  # or [], once used: to pop is atomic


def forward(
    cell, x, kernel, recurrent_kernel, bias, *, mask, initial_state, activation, recurrent_activation, go_backwards,
    zero_output_for_mask, return_sequences, restore_order, packed, input_factors, recurrent_factors,
):  # fmt: skip
    """(Result, Tape)."""
    options = options_of(activation, recurrent_activation, go_backwards, restore_order, zero_output_for_mask)
    if packed is not None:
        check_made_by(f"{cell.name}_pack", "packed", packed, Packed)
    call = check_call(
        cell, x, kernel, recurrent_kernel, bias, mask, initial_state, packed, options, return_sequences, input_factors,
        recurrent_factors,
    )  # fmt: skip
    key = _key(call, bias is not None)
    training = _kept.take(key) or Training(key if key and _is_worth_keeping(call) else None, call, bias is not None)
    training.forward(call, _given(cell, initial_state))
    return call.result(), Tape(cell, training)


def _given(cell, initial_state):
    """The shape of each initial state as it came, or None."""
    if initial_state is None:
        return (None,) * cell.states
    states = (initial_state,) if isinstance(initial_state, np.ndarray) else initial_state
    return tuple(None if s is None else np.shape(s) for s in states)


class Training:
    """A forward and a backward call: memory and launches. Those of small batches serve again (`_kept`), and have memory
    for masks with more valid steps.
    """

    def __init__(self, key, call, has_bias):
        self.key, self.cell, self.factors, self.options = key, call.cell, call.factors, call.options
        self.has_bias, self.dtype = has_bias, call.values.dtype
        cell, dtype, factors, (B, T, F) = call.cell, self.dtype, call.factors, call.shape
        _, _, reverse, restore, _ = call.options
        make = steps_of if key is None or call.mask is None else Steps  # Steps of its own, to be resolved again
        self.steps = steps = make(B, T, call.offsets, call.mask, reverse, restore)
        self._is_new, self.size = True, 0 if key is None else sum(_sizes(call))
        self._capacity = N = steps.N if key is None else B * T
        self.own_pack = None if call.packed else Packed(cell, *call.weights)
        self.packed = packed = call.packed or self.own_pack
        H, P, L = packed.H, packed.panels, lanes(dtype)

        self.workspace = Workspace()
        self.x_rows = self.workspace.array((N, F), dtype)
        self.hs = self.workspace.array((N + B, P * L), dtype)
        units = PANEL_BYTES // dtype.itemsize
        self.ws = ws = self.workspace.array((-(-H // units), N + 1, cell.groups, units), dtype)
        ws[:, N] = 0
        if P * L % units:  # half of the last panel and more that no vector of the tile covers
            ws[-1, :, :, P * L % units :] = 0
        has_cs = cell.states == 2 or cell.second_gates
        self.cs = self.workspace.array((N + B, P * L), dtype) if has_cs else None

        self.step_work = (F + H) * cell.gates * H
        self.shares = shares = self._shares(N * self.step_work, factors.by_gate)
        slot = slot_size(cell, packed, shares)
        if factors.by_gate:
            slot += cell.gates * factors.x.shape[-1] + len(cell.u_gates) * P * L
        scratch = aligned((shares.rows * slot,), dtype)
        arguments = forward_arguments(cell, packed, steps, call.options, shares, scratch, N)
        arguments.update(
            queue=shares.queue(), x_kept=self.x_rows, hs=self.hs, cs=self.cs, ws=ws, x_factors=factors.x,
            h_factors=factors.h,
        )  # fmt: skip
        name = f"{cell.kernel}{'_dropped' if factors.by_gate else ''}_forward"
        self._forward = _jit.get(cell.module, name, dtype).job(shares.workers, 0, **arguments)
        self._of_call = self._forward.places(*ARRAYS)
        self._backward, self._gradients = None, {}

    def _shares(self, work, by_gate):
        return shares_of(self.steps.B, self._capacity, work, self.dtype.itemsize, self.cell.second_gates, by_gate)

    def forward(self, call, given):
        steps, job = self.steps, self._forward
        if not self._is_new:
            if call.mask is not None:
                steps.again(call.mask)
            if self.own_pack is not None:
                self.own_pack.set_weights(*call.weights)
            else:
                p = self.packed = call.packed
                job.bind(wx=p.wx, wh=p.wh, bias=p.bias, wx2=p.wx2, wh2=p.wh2, bias2=p.bias2)
        self._is_new = False
        self.given, self.shape, self.offsets, self.sequences = given, call.shape, call.offsets, call.last is None
        factors, through_time = self.factors, self.shape[1] != 1 or given != (None,) * self.cell.states
        self.packs = self.packed.backward(factors.x_by_gate, factors.h_by_gate, through_time)  # of the weights as now
        job.work = steps.N * self.step_work
        job.point(self._of_call, call.arrays())
        _run(job, self.shares)

    def backward(self, d_sequences, d_last, d_final, need_x):
        cell, packed, steps, factors, dtype = self.cell, self.packed, self.steps, self.factors, self.dtype
        (B, T, F), H, G, N = self.shape, packed.H, cell.gates, steps.N
        job = self._backward = self._backward or self._make_backward()
        ut, ut2, _ = self.packs
        d_initial = tuple([None if shape is None else np.empty((B, H), dtype) for shape in self.given])
        job.work = N * H * G * H
        of_c = (d_final[1], d_initial[1]) if cell.states == 2 else (None, None)
        arrays = d_sequences, d_last, d_final[0], of_c[0], d_initial[0], of_c[1], ut, ut2
        job.point(self._of_gradients, arrays)
        _run(job, self._backward_shares)

        d_kernel, d_recurrent = np.empty((F, G * H), dtype), np.empty((H, G * H), dtype)
        d_bias = dx = None
        if self.has_bias:
            d_bias = np.empty((2, G * H) if cell.recurrent_bias else (G * H,), dtype)
        if need_x:
            dx = (np.empty if steps.complete else np.zeros)((steps.positions, F), dtype)
        if need_x not in self._gradients:
            self._gradients[need_x] = BulkGradients(self, d_kernel, d_recurrent, d_bias, dx)
        self._gradients[need_x].run(self, d_kernel, d_recurrent, d_bias, dx)
        if need_x:
            dx = times_rows(dx if T is None else dx.reshape(B, T, F), factors.row, self.offsets)
            dx = dx if T is not None else Ragged._checked(dx, self.offsets)
        if self.given != (None,) * cell.states:
            d_initial = tuple(
                d.sum(axis=0, keepdims=True) if d is not None and shape != d.shape else d
                for d, shape in zip(d_initial, self.given, strict=True)
            )
        return Gradients(dx, d_kernel, d_recurrent, d_bias, d_initial)

    def _make_backward(self):
        cell, packed, steps, factors, ws = self.cell, self.packed, self.steps, self.factors, self.ws
        act, ract, reverse, restore, zero_masked = self.options
        _, rows, _, units = ws.shape
        ws_jump, _, ws_group, _ = ws.strides
        H, N = packed.H, rows - 1
        work = N * H * cell.gates * H
        shares = self._backward_shares = self._shares(work, factors.h_by_gate)
        name = f"{cell.kernel}{'_dropped' if factors.h_by_gate else ''}_backward"
        job = _jit.get(cell.module, name, self.dtype).job(
            shares.workers, work, order=steps.order, rows=steps.B, first=steps.first, dst=steps.dst, base=steps.base,
            backwards=reverse and restore, slots=shares.slots, workers=shares.workers, queue=shares.queue(), H=H,
            panels=packed.panels, steps=N, zero_masked=zero_masked, hs=self.hs, cs=self.cs, ws=ws, ws_jump=ws_jump,
            scratch=aligned((shares.rows * 3 * packed.panels * lanes(self.dtype),), self.dtype), ut_skip=cell.u_group *
            ws_group, ut_inner=len(cell.u_gates) * units, act=act, ract=ract, h_factors=factors.h, parts=shares.parts,
            sync=shares.sync(), **dict.fromkeys(_OF_GRADIENTS),
        )  # fmt: skip
        self._of_gradients = job.places(*_OF_GRADIENTS)
        return job


_OF_GRADIENTS = ("d_outputs", "d_last", "d_final_h", "d_final_c", "d_h0", "d_c0", "ut", "ut2")  # of one backward alone


def _run(job, shares):
    """A recurrent kernel."""
    job.kept["queue"][0] = shares.workers * shares.slots
    if shares.parts > 1:
        job.kept["sync"].fill(0)
    job.run()


# ----------------------------------------------------------------------------------------------------------------------
# Small batches again


SMALL = 1 << 15  # positions


def is_small(x):
    """Whether a batch is so small that its Training is worth keeping. Then the op packs weights that have changed in
    less time than a new pack takes.
    """
    return type(x) is np.ndarray and x.ndim == 3 and 0 < x.shape[0] * x.shape[1] <= SMALL


def _key(call, has_bias):
    """What calls have in common that can share a Training; None where that does not pay."""
    if not is_small(call.values) or call.factors is not NO_FACTORS:
        return None
    first, second = call.initial[0] is None, call.initial[-1] is None
    return (
        call.cell.kernel, call.values.dtype, call.shape, call.states[0].shape, call.mask is None, call.packed is None,
        first, second, call.options, call.last is None, has_bias, _jit.settings(),
    )  # fmt: skip


def _is_worth_keeping(call):
    """And does not hold too much memory, of a call with a key."""
    weights, steps = _sizes(call)
    return weights <= _Kept.WEIGHTS and weights + steps <= _Kept.MOST


def _sizes(call):
    """Bytes, about, of the packed weights and of all positions of a Training that is kept."""
    (B, T, F), H, cell, size = call.shape, call.states[0].shape[-1], call.cell, call.values.dtype.itemsize
    weights = 0 if call.weights is None else 3 * (F + H) * cell.gates * H
    return size * weights, size * B * T * (F + H * (cell.groups + 2))


class _Kept:
    """Trainings to be used again: of a step with little work, a third is left of the time."""

    MOST = 1 << 26  # bytes in all
    WEIGHTS = 1 << 22  # bytes of one: it takes longer to pack them than Python takes for the rest

    def __init__(self):
        self._free, self._bytes, self._lock = [], 0, threading.Lock()

    def take(self, key):
        if key is not None and self._lock.acquire(blocking=False):  # never wait: see _common._Spares
            try:
                for i in range(len(self._free) - 1, -1, -1):
                    if self._free[i].key == key:
                        self._bytes -= self._free[i].size
                        return self._free.pop(i)
            finally:
                self._lock.release()
        return None

    def give(self, training):
        if self._lock.acquire(blocking=False):
            try:
                self._free.append(training)
                self._bytes += training.size
                while self._bytes > self.MOST or len(self._free) > 16:
                    self._bytes -= self._free.pop(0).size
            finally:
                self._lock.release()


_kept = _Kept()

# ----------------------------------------------------------------------------------------------------------------------
# Backward


def backward(cell, tape, d_outputs, d_states, need_x):
    """Gradients; the tape is used up."""
    if not isinstance(tape, Tape) or tape.cell.name != cell.name:
        raise TypeError(f"tape: expected the tape of {cell.name}_forward, received {type(tape).__name__}")
    used = ValueError("tape: expected one that was not used yet (a tape is good for one backward), received a used one")
    if not tape.training:
        raise used
    training = tape.training[0]
    H = training.packed.H
    d_sequences, d_last = _check_d_outputs(training, d_outputs, H)
    d_final = _check_d_states(tape.cell, d_states, training.shape[0], H, training.dtype)
    try:
        tape.training.pop()
    except IndexError:  # another thread was faster
        raise used from None
    gradients = training.backward(d_sequences, d_last, d_final, bool(need_x))
    if training.key is None:
        training.workspace.release()
    else:
        _kept.give(training)
    return gradients


def _check_d_outputs(training, d_outputs, H):
    """(gradient of the sequence or None, gradient of the last output or None)."""
    if d_outputs is None:
        return None, None
    B, T, _ = training.shape
    if training.sequences and T is None:
        if not isinstance(d_outputs, Ragged):
            raise TypeError(f"d_outputs: expected Ragged as the outputs, received {type(d_outputs).__name__}")
        d = as_floats("d_outputs", d_outputs.values, training.dtype)
        if not np.array_equal(d_outputs.offsets, training.offsets):
            raise ValueError("d_outputs: expected the offsets of the outputs, received others")
        return check_shape("d_outputs", d, (training.steps.positions, H), "(N,H)"), None
    d = as_floats("d_outputs", d_outputs, training.dtype)
    if training.sequences:
        return check_shape("d_outputs", d, (B, T, H), "(B,T,H)"), None
    return None, check_shape("d_outputs", d, (B, H), "(B,H)")


def _check_d_states(cell, d_states, B, H, dtype):
    if d_states is None:
        return (None,) * cell.states
    if cell.states == 1 and isinstance(d_states, np.ndarray):
        d_states = (d_states,)
    if not isinstance(d_states, (tuple, list)) or len(d_states) != cell.states:
        got = f"{len(d_states)}" if isinstance(d_states, (tuple, list)) else type(d_states).__name__
        raise ValueError(f"d_states: expected {cell.states} array(s) or None in a tuple or list, received {got}")
    return tuple(
        None if d is None else check_shape("d_states", as_floats("d_states", d, dtype), (B, H), "(B,H)")
        for d in d_states
    )


class BulkGradients:
    """The gradients of weights and x from those of the gates, in ws: one launch."""

    def __init__(self, training, d_kernel, d_recurrent, d_bias, dx):
        cell, steps, factors, ws, cs = training.cell, training.steps, training.factors, training.ws, training.cs
        x_rows, hs, workspace = training.x_rows, training.hs, training.workspace
        N = self._steps = ws.shape[1] - 1
        before, own = steps.before_and_own(N)
        self._recurrent = self._kernel = self._x = self._bias = ()  # jobs; the largest first
        if not factors.h_by_gate:
            self._recurrent = _gate_gradient(d_recurrent, cell, cell.u_gates, hs, before, ws, cell.u_group, workspace)
        if cell.second_gates:  # the candidate met r h, which cs holds, dropped or not
            self._recurrent += _gate_gradient(d_recurrent, cell, cell.second_gates, cs, own, ws, 0, workspace)
        if not factors.x_by_gate:
            self._kernel = _gate_gradient(d_kernel, cell, cell.w_gates, x_rows, own, ws, 0, workspace)
        if dx is not None and not factors.x_by_gate:
            panels, _, _, units = ws.shape
            jump, step, _, _ = ws.strides
            inner, wt, F = len(cell.w_gates) * units, training.packs[2], x_rows.shape[1]
            self._x = (product(ws.dtype, ws, step, panels, inner, jump, wt, F, dx, steps.src, N),)
        if d_bias is not None:
            self._bias = (_bias_gradient(d_bias, cell, ws),)
        jobs = *self._recurrent, *self._kernel, *self._x, *self._bias
        self._jobs = [(job, job.work // max(1, N)) for job in jobs]  # with the work of a step
        self._launch = _jit.Together(jobs)
        groups = self._recurrent, self._kernel, self._bias, self._x
        names = ("out",), ("out",), ("out",), ("c", "weights")
        self._of_call = [(job, job.places(*names[i]), i) for i, jobs in enumerate(groups) for job in jobs]
        for job, _, i in self._of_call:
            job.kept.update(dict.fromkeys(names[i]))  # what is not to live as long as this

    def run(self, training, d_kernel, d_recurrent, d_bias, dx):
        steps = training.steps
        before, own = steps.before_and_own(len(training.x_rows))
        if self._steps != steps.N:
            self._steps = N = steps.N
            for job, work in self._jobs:
                job.bind(**{"rows" if job in self._x else "steps": N})
                job.work = N * work
            for job in self._x:
                job.blocks = -(-N // PRODUCT_ROWS)
            self._launch.count()
        arrays = (d_recurrent,), (d_kernel,), (d_bias,), (dx, training.packs[2])
        for job, places, i in self._of_call:
            job.point(places, arrays[i])
        if training.factors.by_gate:
            _run_by_gate(training, d_kernel, d_recurrent, dx, before, own)
        self._launch.run()


def _run_by_gate(training, d_kernel, d_recurrent, dx, before, own):
    """What dropout inside the cell makes different from gate to gate."""
    cell, factors, ws, steps = training.cell, training.factors, training.ws, training.steps
    row_of = np.repeat(np.arange(steps.B), np.diff(steps.first))
    if factors.h_by_gate:
        _gradient_by_gate(d_recurrent, cell, cell.u_gates, training.hs, before, factors.h, row_of, ws, cell.u_group)
    if factors.x_by_gate:
        _gradient_by_gate(d_kernel, cell, cell.w_gates, training.x_rows, own, factors.x, row_of, ws, 0)
        if dx is not None:
            dx[steps.src] = _x_gradient_by_gate(cell, ws, training.packs[2], factors.x, row_of, dx.shape[1])


def _gate_gradient(out, cell, gates, a, index, ws, group, workspace):
    """Jobs: out[k, gate] = sum over n of a[index[n]][k] · ws[:, n, gate], gradients of gates from `group` of ws on."""
    H = out.shape[1] // cell.gates
    panels, rows, _, units = ws.shape
    jump, step, panel, _ = ws.strides
    V = units // lanes(ws.dtype)  # vectors of a panel
    at_once = 4 // V  # panels of a register tile
    jobs = ()
    for i in range(0, len(gates), at_once):
        some = gates[i : i + at_once]
        b = ws.reshape(-1)[(group + i) * units :]
        if len(some) == 1:  # one gate: the panels of several side by side
            apart, next_, of_panel, vectors = at_once * jump, jump, 4, V * panels
        else:
            apart, next_, of_panel, vectors = jump, panel, V * len(some), V * len(some) * panels
        columns = _gate_columns(some, H, units, V)
        job = weight_gradient(out, columns, a, index, b, step, apart, next_, vectors, of_panel, rows - 1, workspace)
        jobs += (job,) if job is not None else ()
    return jobs


@lru_cache(256)
def _gate_columns(gates, H, units, V):
    """(vectors, 2): the column of the kernel where a vector of gates in ws begins, and how many of its elements there
    are. Vectors in the order panel, gate, unit.
    """
    first = np.arange(0, -(-H // units) * units, units // V).reshape(-1, 1, V)
    at = np.array(gates).reshape(1, -1, 1) * H + first
    count = np.broadcast_to(np.clip(H - first, 0, units // V), at.shape)
    return np.stack([at, count], axis=-1).reshape(-1, 2)


def _gradient_by_gate(out, cell, gates, a, index, factors, row_of, ws, group):
    """The same, where each gate met a times its own factors[row_of[n], gate]."""
    depth = len(out)
    for i, g in enumerate(gates):
        with np.errstate(all="ignore"):
            dropped = a[index, :depth] * factors[row_of, g, :depth]
        workspace = Workspace()
        _jit.Together(_gate_gradient(out, cell, (g,), dropped, np.arange(len(index)), ws, group + i, workspace)).run()
        workspace.release()


def _x_gradient_by_gate(cell, ws, wt, factors, row_of, F):
    """(N,F): sum over gates of (ws[:, n, gate] · W^T) factors[row_of[n], gate]."""
    panels, rows, _, units = ws.shape
    jump, step, _, _ = ws.strides
    N = rows - 1
    dx, part = np.zeros((N, F), ws.dtype), np.empty((N, F), ws.dtype)
    for i, g in enumerate(cell.w_gates):
        b = ws.reshape(-1)[i * units :]
        _jit.Together([product(ws.dtype, b, step, panels, units, jump, wt[i], F, part, None, N)]).run()
        dx += part * factors[row_of, g, :F]
    return dx


def _bias_gradient(out, cell, ws):
    """Job: the sums over steps of the gates' gradients."""
    panels, rows, groups, units = ws.shape
    jump, step, panel, _ = ws.strides
    blocks = panels * (units // lanes(ws.dtype))
    columns = _bias_columns(cell, out.shape[-1] // cell.gates, units, lanes(ws.dtype))
    return column_sums(out, columns, ws, step, jump, panel, blocks, groups, rows - 1)


@lru_cache(256)
def _bias_columns(cell, H, units, L):
    """(vectors of a gate in ws, groups, 3) as column_sums takes them."""
    if cell.recurrent_bias:  # groups: g, z, r, h-part; b and c of z and r have the same gradient
        begin, again = np.array([2, 0, 1, 5]) * H, np.array([-1, 3, 4, -1]) * H
    else:
        begin, again = np.array(cell.w_gates) * H, np.full(cell.groups, -H)
    first = np.arange(0, -(-H // units) * units, L).reshape(-1, 1)
    table = np.empty((len(first), cell.groups, 3), np.int64)
    table[..., 0] = begin + first
    table[..., 1] = np.clip(H - first, 0, L)
    table[..., 2] = np.where(again < 0, -1, again + first)
    return table
