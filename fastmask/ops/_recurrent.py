"""The ops of the recurrent layers: checks at the door, allocation, the calls of forward and backward kernels.

lstm.py, gru.py and simple_rnn.py are its public faces; what differs between them is in their `Cell` (_packing.py).
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastmask.checks import empty
from fastmask.kernels import _jit
from fastmask.ops._common import (
    Gradients,
    Result,
    Steps,
    Workspace,
    activation_code,
    aligned,
    aligned_zeros,
    as_floats,
    check_made_by,
    check_shape,
    resolve_batch,
    steps_of,
)  # fmt: skip
from fastmask.ops._dropout import check_factors, times_rows
from fastmask.ops._packing import PANEL_BYTES, Packed, check_weights, lanes
from fastmask.ragged import Ragged

BOOL = np.dtype(bool)

# ----------------------------------------------------------------------------------------------------------------------
# Forward


def _states(cell, initial_state, B, H, dtype):
    """A tuple of contiguous (B,H) arrays or Nones."""
    if initial_state is None:
        return (None,) * cell.states
    if cell.states == 1 and isinstance(initial_state, np.ndarray):
        initial_state = (initial_state,)
    if not isinstance(initial_state, (tuple, list)) or len(initial_state) != cell.states:
        got = f"{len(initial_state)}" if isinstance(initial_state, (tuple, list)) else type(initial_state).__name__
        raise ValueError(f"initial_state: expected {cell.states} array(s) in a tuple or list, received {got}")
    out = []
    for state in initial_state:
        if state is not None:
            state = as_floats("initial_state", state, dtype)
            if state.shape == (1, H) and B != 1:
                state = np.ascontiguousarray(np.broadcast_to(state, (B, H)))
            check_shape("initial_state", state, (B, H), "(B,H)")
        out.append(state)
    return tuple(out)


class Shares(NamedTuple):
    """Who does what of a recurrent kernel."""

    workers: int  # blocks of the launch
    slots: int  # rows that a block has in flight
    parts: int  # blocks that share the same rows, step by step; 1: each has rows of its own
    ahead: bool  # the part of x is taken for several steps of a row at once
    rows: int  # rows in flight in all blocks together: what scratch memory is for

    @property
    def sync(self):
        """Words for the blocks that share rows (kernels/recurrent.py), or 0."""
        return np.zeros(8 * (3 + self.parts), np.int64) if self.parts > 1 else 0


PART_WORK = 60_000  # multiply-adds of a step below which it does not pay to share it: a step more costs 0.2 us
MOST_PARTS = 8  # all wait for the slowest at every step
FEW_ROWS = 3  # which threads may share; more are better dealt out,
SOME_ROWS = 16  # unless each thread would read more weights at every step
FAR_WEIGHTS = 2_500_000  # than this many bytes, beyond the caches of one core


def _shares(B, longest, work, itemsize, two_passes, by_gate):
    """Shares for B rows, the longest of about `longest` steps, and `work` multiply-adds."""
    threads = _jit.get_num_threads() if work >= _jit.SERIAL_WORK or _jit.is_forced() else 1
    workers = max(1, min(threads, B))
    if 0 < B <= SOME_ROWS and threads > 1 and not two_passes and not by_gate:
        step = work // max(1, longest)  # of all rows
        few = B <= FEW_ROWS and B <= threads
        if few or step // B * itemsize > FAR_WEIGHTS:
            parts = threads if _jit.is_forced() else min(threads, MOST_PARTS, step // PART_WORK)
            if parts >= max(2, workers):
                return Shares(parts, B, parts, few and longest > 1, B)
    rows = max(1, -(-B // workers))
    # Most rows in flight: a step reads all weights for them. But few of few rows, lest the last rows of all be alone;
    # and a number by which the rows divide well, lest one worker end with some and the others with none.
    many = 4 if rows >= 48 else 1
    slots = min((6 * many, 5 * many, 4 * many), key=lambda s: -(-rows // s) * s)
    slots = min(slots, rows)
    return Shares(workers, slots, 1, slots == 1 and longest > 1 and not by_gate, workers * slots)


class Tape:
    """What backward needs of one forward call; good for one backward."""

    def __init__(self, **kept):
        self.__dict__.update(kept)


def _slot_size(cell, packed, shares):
    """Elements of scratch memory for a row in flight, dropout's left out."""
    return (5 + (_jit.TILE_ROWS * cell.groups if shares.ahead else 0)) * packed.panels * lanes(packed.dtype)


def _arguments(cell, packed, steps, options, shares, scratch):
    """The forward kernel's arguments but for the batch: x, states and outputs, and what training keeps."""
    act, ract, reverse, restore, zero_masked = options
    size = packed.dtype.itemsize
    return dict(
        order=steps.order, rows=steps.B, first=steps.first, src=steps.src, dst=steps.dst, base=steps.base,
        backwards=reverse and restore, slots=shares.slots, workers=shares.workers, queue=0, x=0, x_stride=packed.F *
        size, F=packed.F, H=packed.H, panels=packed.panels, steps=steps.N, h0=0, c0=0, outputs=0, last=0, final_h=0,
        final_c=0, zero_masked=zero_masked, x_kept=0, hs=0, cs=0, ws=0, ws_jump=(steps.N + 1) * cell.groups *
        PANEL_BYTES, scratch=scratch, wx=packed.wx, wh=packed.wh, bias=packed.bias, wx2=packed.wx2, wh2=packed.wh2,
        bias2=packed.bias2, act=act, ract=ract, x_factors=0, h_factors=0, ahead=shares.ahead, parts=shares.parts,
        sync=shares.sync,
    )  # fmt: skip


class Plan:
    """Everything of an inference call that stays the same between calls of one shape: checks, addresses, workspace. One
    thread at a time holds it: `bind` what changes, then `launch`.

    options: codes of the two activations, go_backwards, restore_order, zero_output_for_mask.
    """

    POSITIONS = 4096  # larger batches do not notice 20 us of preparation
    KEPT = 8  # plans kept by a Packed

    def __init__(self, packed, B, T, options, sequences, masked):
        cell, self.dtype, H = packed.cell, packed.dtype, packed.H
        _, _, reverse, restore, _ = options
        self.packed = packed
        self.outputs_shape, self.states_shape = (B, T, H) if sequences else (B, H), (B, H)
        some = np.ones((B, T), bool) if masked else None
        steps = Steps(B, T, None, some, reverse, restore) if masked else steps_of(B, T, None, None, reverse, restore)
        work = B * T * (packed.F + H) * cell.gates * H
        shares = _shares(B, T, work, self.dtype.itemsize, cell.second_gates, False)
        scratch = aligned((shares.rows * _slot_size(cell, packed, shares),), self.dtype)
        unwanted = np.empty((B, H), self.dtype)  # where states go that nobody asked for
        k = _jit.get(cell.module, f"{cell.kernel}_forward", self.dtype)
        arguments = _arguments(cell, packed, steps, options, shares, scratch)
        self.sync = arguments["sync"] if shares.parts > 1 else None
        self.args = k.pack(**{**arguments, "final_h": unwanted, "final_c": unwanted})
        self.run = _jit.prepare_launch(k, self.args, shares.workers, work)
        self.kernel, self.workers, self.work = k, shares.workers, work
        self.queue_word, self.queue_start = k.counter + 1, shares.workers * shares.slots
        self.args[k.index["queue"]] = _jit.word_address(self.args, self.queue_word)
        names = "x", "outputs" if sequences else "last", "h0", "c0", "final_h", "final_c"
        self.at = tuple(k.index[name] for name in names)
        self.kept_alive = steps, scratch, unwanted
        if masked:
            self.mask_bytes = some.tobytes()  # of the mask that `steps` belong to
            self.counts = np.empty(T + 1, np.int64)
            r = _jit.get("schedule", "resolve", "float32")
            self.resolve_args = r.pack(**steps.resolve_arguments(some, reverse, restore, T, self.counts))
            self.mask_at = r.index["mask"]
            self.resolve = _jit.prepare_launch(r, self.resolve_args, 1, B * T)
        self.settings = _jit.settings()

    def bind(self, x, outputs, initial, states):
        """What the next launches read and write; the caller keeps the arrays alive. initial, states: tuples, or None in
        every call of this plan.
        """
        args, address = self.args, _jit.address
        at_x, at_outputs, at_h0, at_c0, at_h, at_c = self.at
        args[at_x] = address(x)
        args[at_outputs] = address(outputs)
        if initial is not None:
            args[at_h0], args[at_c0] = address(initial[0]), address(initial[-1])
        if states is not None:
            args[at_h], args[at_c] = address(states[0]), address(states[-1])

    def launch(self, mask):
        """mask: contiguous bool (B,T) for a plan that is masked, else None."""
        self.get_ready(mask)
        self.run()

    def get_ready(self, mask):
        """Everything before the launch."""
        if mask is not None:
            mask_bytes = mask.tobytes()
            if mask_bytes != self.mask_bytes:
                self.mask_bytes = None  # should this be interrupted
                self.resolve_args[self.mask_at] = _jit.address(mask)
                self.resolve()
                self.mask_bytes = mask_bytes
        self.args[self.queue_word] = self.queue_start
        if self.sync is not None:
            self.sync.fill(0)


def _plain(a, shape, dtype):
    return type(a) is np.ndarray and a.dtype == dtype and a.shape == shape and a.flags.c_contiguous


def infer_small(packed, x, mask, initial_state, options, sequences, want_states=True):
    """(outputs, states) of a call that fits a plan, else None: anything unusual takes the general way (and its checks).

    options: as of a Plan. states: None if nobody wants them.
    """
    if type(x) is not np.ndarray or x.dtype != packed.dtype or not x.flags.c_contiguous:
        return None
    shape = x.shape
    if mask is not None and not _plain(mask, shape[:2], BOOL):
        return None
    states = packed.cell.states
    if initial_state is not None:
        if type(initial_state) is np.ndarray:
            initial_state = (initial_state,)
        if not isinstance(initial_state, (tuple, list)) or len(initial_state) != states:
            return None
        for state in initial_state:
            if not _plain(state, (*shape[:1], packed.H), packed.dtype):
                return None
    key = shape, mask is None, initial_state is None, want_states, sequences, options
    plans = packed.plans
    plan = plans.pop(key, None)  # atomic: another thread then makes its own
    if plan is None or plan.settings != _jit.settings():
        if len(shape) != 3 or shape[2] != packed.F or not 0 < shape[0] * shape[1] <= Plan.POSITIONS:
            return None
        plan = Plan(packed, *shape[:2], options, sequences, mask is not None)
    outputs = np.empty(plan.outputs_shape, plan.dtype)
    states = tuple([np.empty(plan.states_shape, plan.dtype) for _ in range(states)]) if want_states else None
    plan.bind(x, outputs, initial_state, states)
    if _postponed.launches is not None:
        plan.get_ready(mask)
        _postponed.launches.append((plan, key))
        return outputs, states
    plan.launch(mask)
    _give_back(plan, key)
    return outputs, states


def _give_back(plan, key):
    plans = plan.packed.plans
    plans[key] = plan
    if len(plans) > Plan.KEPT:
        plans.popitem(last=False)  # atomic, as pop: iterating over a dict that other threads change is an error


class _Postponed(threading.local):
    launches = None  # (plan, its key) of each, inside `SideBySide`


_postponed = _Postponed()


class SideBySide:
    """Inference on one row inside this block is done at its end, all calls at once on several threads: results are not
    to be read before. Calls with work for all threads, or of another kind, are done as ever.
    """

    def __enter__(self):
        self._outer, _postponed.launches = _postponed.launches, []

    def __exit__(self, failed, *_):
        launches, _postponed.launches = _postponed.launches, self._outer
        if failed:
            return
        alone = [plan for plan, _ in launches if plan.workers == 1]
        work = sum(plan.work for plan in alone)
        if len(alone) < 2 or (work < _jit.SERIAL_WORK and not _jit.is_forced()):
            alone, work = [], 0
        for plan in alone:
            plan.args[plan.kernel.counter] = 0  # of an earlier launch, which may have been stopped
        if alone:
            jobs = np.array([(plan.kernel.address, _jit.word_address(plan.args, 0)) for plan in alone])
            _jit.get("_launch", "side_by_side", alone[0].dtype).run(len(alone), work, jobs=jobs)
        for plan, key in launches:
            if plan not in alone:
                plan.run()
            _give_back(plan, key)


def forward(
    cell, x, kernel, recurrent_kernel, bias, *, mask, initial_state, activation, recurrent_activation, go_backwards,
    zero_output_for_mask, return_sequences, restore_order, packed, training, input_factors=None, recurrent_factors=None,
):  # fmt: skip
    """(Result, Tape or None). Factors are for training only."""
    act, ract = activation_code(activation), activation_code(recurrent_activation, "recurrent_activation")
    reverse, restore = bool(go_backwards), bool(restore_order)
    options = act, ract, reverse, restore, bool(zero_output_for_mask)
    if packed is not None:
        check_made_by(f"{cell.name}_pack", "packed", packed, Packed)
    if packed is not None and packed.cell is cell and not training:
        result = infer_small(packed, x, mask, initial_state, options, return_sequences)
        if result is not None:
            return Result(*result), None
    values, B, T, offsets, mask = resolve_batch(x, mask)
    dtype, F = values.dtype, values.shape[-1]
    if packed is None:
        packed = Packed(cell, *check_weights(cell, kernel, recurrent_kernel, bias, F, dtype))
    elif packed.F != F or packed.dtype != dtype or packed.cell is not cell:
        raise ValueError(
            f"packed: expected {cell.name} weights for F = {F} and {dtype}, "
            f"received F = {packed.F}, {packed.dtype}, {packed.cell.name}"
        )
    H, P, L = packed.H, packed.panels, lanes(dtype)
    initial = _states(cell, initial_state, B, H, dtype)
    outputs = None
    if return_sequences:
        outputs = empty("outputs", (len(values), H) if T is None else (B, T, H), dtype)
    factors = check_factors(input_factors, recurrent_factors, B, cell.gates, F, H, dtype)
    values = times_rows(values, factors.row, offsets)
    steps = steps_of(B, T, offsets, mask, reverse, restore)
    N = steps.N
    work = N * (F + H) * cell.gates * H

    last = None if return_sequences else np.empty((B, H), dtype)
    final_h = np.empty((B, H), dtype)
    final_c = np.empty((B, H), dtype) if cell.states == 2 else None
    shares = _shares(B, N // max(1, B), work, dtype.itemsize, cell.second_gates, factors.by_gate)
    slot = _slot_size(cell, packed, shares)
    if factors.by_gate:
        slot += cell.gates * factors.x.shape[-1] + len(cell.u_gates) * P * L
    scratch = aligned((shares.rows * slot,), dtype)
    arguments = _arguments(cell, packed, steps, options, shares, scratch)
    arguments.update(
        queue=np.array([shares.workers * shares.slots]), x=values, h0=initial[0],
        c0=initial[1] if cell.states == 2 else None, outputs=outputs, last=last, final_h=final_h, final_c=final_c,
        x_factors=factors.x, h_factors=factors.h,
    )  # fmt: skip
    if training:
        workspace = Workspace()
        x_rows = workspace.array((N, F), dtype)
        hs = workspace.array((N + B, P * L), dtype)
        units = PANEL_BYTES // dtype.itemsize
        ws = workspace.array((-(-H // units), N + 1, cell.groups, units), dtype)
        ws[:, N] = 0
        if P * L % units:  # half of the last panel and more that no vector of the tile covers
            ws[-1, :, :, P * L % units :] = 0
        cs = workspace.array((N + B, P * L), dtype) if cell.states == 2 or cell.second_gates else None
        arguments.update(x_kept=x_rows, hs=hs, cs=cs, ws=ws)
    kernel_name = f"{cell.kernel}{'_dropped' if factors.by_gate else ''}_forward"
    _jit.get(cell.module, kernel_name, dtype).run(shares.workers, work, **arguments)
    if outputs is not None and T is None:
        outputs = Ragged._checked(outputs, offsets)
    result = Result(outputs if return_sequences else last, (final_h,) if cell.states == 1 else (final_h, final_c))
    if not training:
        return result, None
    packed.backward(factors.x_by_gate, factors.h_by_gate)  # of the weights as they are now
    tape = Tape(
        cell=cell, packed=packed, steps=steps, shape=(B, T, F), offsets=offsets, dtype=dtype, x_rows=x_rows, hs=hs,
        cs=cs, ws=ws, workspace=workspace, backwards=reverse and restore, zero_masked=bool(zero_output_for_mask),
        sequences=bool(return_sequences), act=act, ract=ract, initial=tuple(None if s is None else np.shape(s) for s in
        _given(cell, initial_state)), has_bias=bias is not None, factors=factors,
    )  # fmt: skip
    return result, tape


def _given(cell, initial_state):
    if initial_state is None:
        return (None,) * cell.states
    return (initial_state,) if isinstance(initial_state, np.ndarray) else tuple(initial_state)


# ----------------------------------------------------------------------------------------------------------------------
# Backward


def backward(cell, tape, d_outputs, d_states, need_x):
    """Gradients; the tape is used up."""
    if not isinstance(tape, Tape) or tape.cell.name != cell.name:
        raise TypeError(f"tape: expected the tape of {cell.name}_forward, received {type(tape).__name__}")
    cell, packed, steps, dtype, factors = tape.cell, tape.packed, tape.steps, tape.dtype, tape.factors
    if tape.workspace is None:
        raise ValueError(
            "tape: expected one that was not used yet (a tape is good for one backward), received a used one"
        )
    B, T, F = tape.shape
    H, P, L, N, G = packed.H, packed.panels, lanes(dtype), steps.N, cell.gates
    d_sequences, d_last = _check_d_outputs(tape, d_outputs, H)
    d_final = _check_d_states(cell, d_states, B, H, dtype)
    ws, hs, cs, workspace = tape.ws, tape.hs, tape.cs, tape.workspace
    tape.workspace = None
    ut, ut2, wt = packed.backward(factors.x_by_gate, factors.h_by_gate)

    ws_panels, _, _, units = ws.shape
    ws_jump, ws_step, ws_group, _ = ws.strides
    ut_skip, ut_inner = cell.u_group * ws_group, len(cell.u_gates) * units
    work = N * H * G * H
    shares = _shares(B, N // max(1, B), work, dtype.itemsize, cell.second_gates, factors.h_by_gate)
    d_initial = tuple(None if shape is None else np.empty((B, H), dtype) for shape in tape.initial)
    kernel_name = f"{cell.kernel}{'_dropped' if factors.h_by_gate else ''}_backward"
    _jit.get(cell.module, kernel_name, dtype).run(
        shares.workers, work, order=steps.order, rows=B, first=steps.first, dst=steps.dst, base=steps.base,
        backwards=tape.backwards, slots=shares.slots, workers=shares.workers, queue=np.array([shares.workers *
        shares.slots]), H=H, panels=P, steps=N, d_outputs=d_sequences, d_last=d_last, d_final_h=d_final[0],
        d_final_c=d_final[1] if cell.states == 2 else None, zero_masked=tape.zero_masked, hs=hs, cs=cs, ws=ws,
        ws_jump=ws_jump, scratch=aligned((shares.rows * 3 * P * L,), dtype), ut=ut, ut_skip=ut_skip, ut_inner=ut_inner,
        ut2=ut2, d_h0=d_initial[0], d_c0=d_initial[1] if cell.states == 2 else None, act=tape.act, ract=tape.ract,
        h_factors=factors.h, parts=shares.parts, sync=shares.sync,
    )  # fmt: skip

    row_of = np.repeat(np.arange(B), np.diff(steps.first)) if factors.by_gate else None
    dx = None
    if need_x:
        dx = (np.empty if steps.complete else np.zeros)((steps.positions, F), dtype)
        if factors.x_by_gate:
            dx[steps.src] = _x_gradient_by_gate(cell, ws, wt, factors.x, row_of, F)
        else:
            product(dtype, ws, ws_step, ws_panels, len(cell.w_gates) * units, ws_jump, wt, F, dx, steps.src, N)
        dx = times_rows(dx if T is None else dx.reshape(B, T, F), factors.row, tape.offsets)
        dx = dx if T is not None else Ragged._checked(dx, tape.offsets)
    d_kernel, d_recurrent = np.empty((F, G, H), dtype), np.empty((H, G, H), dtype)
    rows = np.arange(-1, N)
    before, rows = rows[:-1].copy(), rows[1:]  # before: row of hs that holds the state a step started from
    starts = steps.first[:-1]
    some = starts < steps.first[1:]
    before[starts[some]] = N + np.flatnonzero(some)
    if factors.x_by_gate:
        _gradient_by_gate(d_kernel, cell.w_gates, tape.x_rows, rows, factors.x, row_of, ws, 0)
    else:
        _gate_gradient(d_kernel, cell.w_gates, tape.x_rows, rows, ws, 0)
    if factors.h_by_gate:
        _gradient_by_gate(d_recurrent, cell.u_gates, hs, before, factors.h, row_of, ws, cell.u_group)
    else:
        _gate_gradient(d_recurrent, cell.u_gates, hs, before, ws, cell.u_group)
    if cell.second_gates:  # the candidate met r h, which cs holds, dropped or not
        _gate_gradient(d_recurrent, cell.second_gates, cs, rows, ws, 0)
    d_bias = _bias_gradient(cell, ws, H) if tape.has_bias else None
    workspace.release()
    tape.ws = tape.hs = tape.cs = tape.x_rows = None
    d_initial = tuple(
        d.sum(axis=0, keepdims=True) if d is not None and shape != d.shape else d
        for d, shape in zip(d_initial, tape.initial, strict=True)
    )
    return Gradients(dx, d_kernel.reshape(F, G * H), d_recurrent.reshape(H, G * H), d_bias, d_initial)


def _check_d_outputs(tape, d_outputs, H):
    """(gradient of the sequence or None, gradient of the last output or None)."""
    if d_outputs is None:
        return None, None
    B, T, _ = tape.shape
    if tape.sequences and T is None:
        if not isinstance(d_outputs, Ragged):
            raise TypeError(f"d_outputs: expected Ragged as the outputs, received {type(d_outputs).__name__}")
        d = as_floats("d_outputs", d_outputs.values, tape.dtype)
        if not np.array_equal(d_outputs.offsets, tape.offsets):
            raise ValueError("d_outputs: expected the offsets of the outputs, received others")
        return check_shape("d_outputs", d, (tape.steps.positions, H), "(N,H)"), None
    d = as_floats("d_outputs", d_outputs, tape.dtype)
    if tape.sequences:
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


def _gate_gradient(out, gates, a, index, ws, group):
    """out[k, gate] = sum over n of a[index[n]][k] · ws[:, n, gate], the gates' gradients from `group` of ws on."""
    _, G, H = out.shape
    panels, rows, _, units = ws.shape
    jump, step, panel, _ = ws.strides
    V = units // lanes(ws.dtype)  # vectors of a panel
    at_once = 4 // V  # panels of a register tile
    for i in range(0, len(gates), at_once):
        some = gates[i : i + at_once]
        b = ws.reshape(-1)[(group + i) * units :]
        columns = _gate_columns(some, H, units, V)
        if len(some) == 1:  # one gate: the panels of several side by side
            weight_gradient(out, columns, a, index, b, step, at_once * jump, jump, V * panels, 4, rows - 1)
        else:
            n = V * len(some)
            weight_gradient(out, columns, a, index, b, step, jump, panel, n * panels, n, rows - 1)


@lru_cache(256)
def _gate_columns(gates, H, units, V):
    """(vectors, 2): the column of the kernel where a vector of gates in ws begins, and how many of its elements there
    are. Vectors in the order panel, gate, unit.
    """
    first = np.arange(0, -(-H // units) * units, units // V).reshape(-1, 1, V)
    at = np.array(gates).reshape(1, -1, 1) * H + first
    count = np.broadcast_to(np.clip(H - first, 0, units // V), at.shape)
    return np.stack([at, count], axis=-1).reshape(-1, 2)


def _gradient_by_gate(out, gates, a, index, factors, row_of, ws, group):
    """The same, where each gate met a times its own factors[row_of[n], gate]."""
    depth = len(out)
    for i, g in enumerate(gates):
        with np.errstate(all="ignore"):
            dropped = a[index, :depth] * factors[row_of, g, :depth]
        _gate_gradient(out, (g,), dropped, np.arange(len(index)), ws, group + i)


def _x_gradient_by_gate(cell, ws, wt, factors, row_of, F):
    """(N,F): sum over gates of (ws[:, n, gate] · W^T) factors[row_of[n], gate]."""
    panels, rows, _, units = ws.shape
    jump, step, _, _ = ws.strides
    N = rows - 1
    dx, part = np.zeros((N, F), ws.dtype), np.empty((N, F), ws.dtype)
    for i, g in enumerate(cell.w_gates):
        product(ws.dtype, ws.reshape(-1)[i * units :], step, panels, units, jump, wt[i], F, part, None, N)
        dx += part * factors[row_of, g, :F]
    return dx


def _bias_gradient(cell, ws, H):
    panels, rows, groups, units = ws.shape
    jump, step, panel, _ = ws.strides
    vectors = panels * (units // lanes(ws.dtype))
    sums = column_sums(ws, step, jump, panel, vectors, groups, rows - 1)  # [vector][group][lane]
    sums = sums.transpose(1, 0, 2).reshape(cell.groups, -1)[:, :H]
    if cell.recurrent_bias:  # groups: g, z, r, h-part
        return np.stack([np.concatenate([sums[1], sums[2], sums[0]]), np.concatenate([sums[1], sums[2], sums[3]])])
    out = np.empty((cell.gates, H), ws.dtype)
    for i, g in enumerate(cell.w_gates):
        out[g] = sums[i]
    return out.reshape(cell.gates * H)


# ----------------------------------------------------------------------------------------------------------------------
# The bulk products (kernels/gemm.py)

PRODUCT_ROWS = 8 * _jit.TILE_ROWS


def product(dtype, a, a_stride, outer, inner, jump, weights, columns, c, c_index, rows, init=None):
    """c[c_index[n]] = init + a[n] · weights."""
    L = lanes(dtype)
    vectors = -(-columns // L)
    if init is None:
        init = aligned_zeros((vectors * L,), dtype)
    _jit.get("gemm", "product", dtype).run(
        -(-rows // PRODUCT_ROWS), rows * columns * outer * inner, a=a, a_stride=a_stride, outer=outer, inner=inner,
        jump=jump, init=init, weights=weights, vectors=vectors, columns=columns, c=c, c_index=c_index, c_stride=columns
        * dtype.itemsize, rows=rows,
    )  # fmt: skip


def plain_columns(K, L):
    """Columns of `weight_gradient` for vectors side by side."""
    first = np.arange(0, K, L)
    return np.stack([first, np.minimum(K - first, L)], axis=-1)


def weight_gradient(out, columns, a, index, b, b_stride, panel_stride, v_stride, vectors, per_panel, steps):
    """out[k, columns of v] = sum over n of a[index[n]][k] · b[panel][n][v].

    out : (depth, ...) contiguous; a has the same depth, and maybe a little more
    columns : (vectors, 2), where a vector begins in a row of out and how many of its elements there are
    """
    dtype, depth = a.dtype, len(out)
    if not depth:
        return
    L = lanes(dtype)
    panels = -(-vectors // per_panel)
    workspace = Workspace()
    parts = max(1, min(-(-8 // panels), -(-depth // (2 * _jit.TILE_ROWS))))
    k_step = -(-depth // parts)
    k_step += -k_step % _jit.TILE_ROWS
    k_blocks = max(1, -(-depth // k_step))
    _jit.get("gemm", "weight_gradient", dtype).run(
        panels * k_blocks, steps * depth * vectors * L, a=a, index=index, a_stride=a.shape[-1] * dtype.itemsize,
        depth=depth, b=b, b_stride=b_stride, panel_stride=panel_stride, v_stride=v_stride, vectors=vectors,
        per_panel=per_panel, steps=steps, sums=workspace.array((panels, depth, per_panel, L), dtype), out=out,
        out_stride=out.strides[0], columns=columns, k_step=k_step, k_blocks=k_blocks,
    )  # fmt: skip
    workspace.release()


def column_sums(b, b_stride, panel_stride, v_stride, panels, per_panel, steps):
    """[panel][v][lane] = sum over n of b[panel][n][v]."""
    out = aligned((panels, per_panel, lanes(b.dtype)), b.dtype)
    _jit.get("gemm", "column_sums", b.dtype).run(
        panels,
        steps * out.size,
        b=b,
        b_stride=b_stride,
        panel_stride=panel_stride,
        v_stride=v_stride,
        per_panel=per_panel,
        steps=steps,
        out=out,
    )
    return out
