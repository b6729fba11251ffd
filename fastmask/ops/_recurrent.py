"""The ops of the recurrent layers: checks at the door, who does what of a kernel, and inference; training is in
_training.py.

lstm.py, gru.py and simple_rnn.py are the public faces; what differs between them is in their `Cell` (_packing.py).
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from fastmask.checks import empty
from fastmask.kernels import _jit
from fastmask.ops._common import (
    Result,
    Steps,
    activation_code,
    aligned,
    as_floats,
    check_made_by,
    check_shape,
    resolve_batch,
    steps_of,
)  # fmt: skip
from fastmask.ops._dropout import Factors, check_factors, times_rows
from fastmask.ops._packing import PANEL_BYTES, Packed, check_weights, lanes
from fastmask.ragged import Ragged

BOOL = np.dtype(bool)

# ----------------------------------------------------------------------------------------------------------------------
# Who does what


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

    def sync(self):
        """Words for the blocks that share rows (kernels/recurrent.py), or None; zeros at the start of a launch."""
        return np.zeros(8 * (3 + self.parts), np.int64) if self.parts > 1 else None

    def queue(self):
        """The word of the rows dealt out, as it is at the start of a launch."""
        return np.array([self.workers * self.slots])


PART_WORK = 60_000  # multiply-adds of a step below which it does not pay to share it: a step more costs 0.2 us
MOST_PARTS = 8  # all wait for the slowest at every step
FEW_ROWS = 3  # which threads may share; more are better dealt out,
SOME_ROWS = 16  # unless each thread would read more weights at every step
FAR_WEIGHTS = 2_500_000  # than this many bytes, beyond the caches of one core


def shares_of(B, steps, work, itemsize, two_passes, by_gate):
    """Shares for B rows of so many steps in all, and `work` multiply-adds."""
    longest = steps // max(1, B)
    threads = _jit.get_num_threads() if work >= _jit.SERIAL_WORK or _jit.is_forced() else 1
    workers = max(1, min(threads, B))
    if 0 < B <= SOME_ROWS and threads > 1 and not two_passes and not by_gate:
        step = work // max(1, longest)  # of all rows
        few = B <= FEW_ROWS and threads >= B
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


def slot_size(cell, packed, shares):
    """Elements of scratch memory for a row in flight, dropout's left out."""
    return (5 + (_jit.TILE_ROWS * cell.groups if shares.ahead else 0)) * packed.panels * lanes(packed.dtype)


def forward_arguments(cell, packed, steps, options, shares, scratch, capacity=None):
    """The forward kernel's arguments but for the batch: x, states and outputs, and what training keeps.

    capacity : int, optional
        The most steps that there is memory for, if the arguments are to serve other calls than this one.
    """
    act, ract, reverse, restore, zero_masked = options
    size, N = packed.dtype.itemsize, steps.N if capacity is None else capacity
    return dict(
        order=steps.order, rows=steps.B, first=steps.first, src=steps.src, dst=steps.dst, base=steps.base,
        backwards=reverse and restore, slots=shares.slots, workers=shares.workers, queue=0, x=0, x_stride=packed.F *
        size, F=packed.F, H=packed.H, panels=packed.panels, steps=N, h0=0, c0=0, outputs=0, last=0, final_h=0,
        final_c=0, zero_masked=zero_masked, x_kept=0, hs=0, cs=0, ws=0, ws_jump=(N + 1) * cell.groups * PANEL_BYTES,
        scratch=scratch, wx=packed.wx, wh=packed.wh, bias=packed.bias, wx2=packed.wx2, wh2=packed.wh2,
        bias2=packed.bias2, act=act, ract=ract, x_factors=0, h_factors=0, ahead=shares.ahead, parts=shares.parts,
        sync=shares.sync(),
    )  # fmt: skip


KEPT = 8  # most calls that a Packed keeps plans for, and most plans of one: threads are inside at once


class Plan:
    """Everything of an inference call that stays the same between calls of one shape: checks, addresses, workspace. One
    thread at a time holds it: `bind` what changes, then `launch`.

    options: codes of the two activations, go_backwards, restore_order, zero_output_for_mask.
    """

    POSITIONS = 1 << 15  # larger batches do not notice 50 us of preparation, and their memory would count

    def __init__(self, packed, B, T, options, sequences, masked):
        cell, self.dtype, H = packed.cell, packed.dtype, packed.H
        _, _, reverse, restore, _ = options
        self.packed = packed
        self.outputs_shape, self.states_shape = (B, T, H) if sequences else (B, H), (B, H)
        some = np.ones((B, T), bool) if masked else None
        steps = Steps(B, T, None, some, reverse, restore) if masked else steps_of(B, T, None, None, reverse, restore)
        work = B * T * (packed.F + H) * cell.gates * H
        shares = shares_of(B, B * T, work, self.dtype.itemsize, cell.second_gates, False)
        scratch = aligned((shares.rows * slot_size(cell, packed, shares),), self.dtype)
        unwanted = np.empty((B, H), self.dtype)  # where states go that nobody asked for
        k = _jit.get(cell.module, f"{cell.kernel}_forward", self.dtype)
        arguments = forward_arguments(cell, packed, steps, options, shares, scratch)
        self.sync = arguments["sync"]
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
        self.home = None  # the list of plans that nobody holds, to go back to

    def bind(self, x, outputs, initial, states):
        """What the next launches read and write; the caller keeps the arrays alive. initial, states: tuples, or None in
        every call of this plan.
        """
        args, at, address = self.args, self.at, _jit.address
        args[at[0]] = address(x)
        args[at[1]] = address(outputs)
        if initial is not None:
            args[at[2]], args[at[3]] = address(initial[0]), address(initial[-1])
        if states is not None:
            args[at[4]], args[at[5]] = address(states[0]), address(states[-1])

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
    if (
        mask is not None
        and not (  # _plain: a call fewer
            type(mask) is np.ndarray and mask.dtype == BOOL and mask.shape == shape[:2] and mask.flags.c_contiguous
        )
    ):
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
    free = packed.plans.get(key)
    try:
        plan = free.pop() if free else None
    except IndexError:  # another thread was faster
        plan = None
    if plan is None or plan.settings != _jit.settings():
        if len(shape) != 3 or shape[2] != packed.F or not 0 < shape[0] * shape[1] <= Plan.POSITIONS:
            return None
        plan = Plan(packed, *shape[:2], options, sequences, mask is not None)
        plan.home = packed.plans.setdefault(key, [])
        if len(packed.plans) > KEPT:
            packed.plans.popitem(last=False)  # atomic: iterating over a dict that other threads change is an error
    outputs = np.empty(plan.outputs_shape, plan.dtype)
    states = tuple([np.empty(plan.states_shape, plan.dtype) for _ in range(states)]) if want_states else None
    plan.bind(x, outputs, initial_state, states)
    plan.get_ready(mask)
    if _postponed.launches is not None:
        _postponed.launches.append(plan)
        return outputs, states
    plan.run()
    if len(plan.home) < KEPT:  # _give_back: a call fewer
        plan.home.append(plan)
    return outputs, states


def _give_back(plan):
    if len(plan.home) < KEPT:
        plan.home.append(plan)


class _Postponed(threading.local):
    launches = None  # plans, inside `SideBySide`


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
        alone = [plan for plan in launches if plan.workers == 1]
        work = sum(plan.work for plan in alone)
        if len(alone) < 2 or (work < _jit.SERIAL_WORK and not _jit.is_forced()):
            alone = []
        if alone:
            _jit.Together([_jit.Job(plan.kernel, plan.args, 1, plan.work, None) for plan in alone]).run()
        for plan in launches:
            if plan not in alone:
                plan.run()
            _give_back(plan)


ARRAYS = ("x", "h0", "c0", "outputs", "last", "final_h", "final_c")  # a forward kernel's, of one call alone


class Call(NamedTuple):
    """A call of a cell, checked; with the memory for its results."""

    cell: object
    values: np.ndarray  # (B,T,F), or (N,F) of ragged rows
    shape: tuple  # B, T (None if ragged), F
    offsets: np.ndarray | None
    mask: np.ndarray | None
    weights: tuple | None  # kernel, recurrent_kernel, bias
    packed: Packed | None  # one of the two
    initial: tuple  # (B,H) or None of each state
    options: tuple  # as of a Plan
    factors: Factors
    outputs: np.ndarray | None
    last: np.ndarray | None
    states: tuple

    def arrays(self):
        """ARRAYS of this call."""
        c0, final_c = (self.initial[1], self.states[1]) if len(self.states) == 2 else (None, None)
        return self.values, self.initial[0], c0, self.outputs, self.last, self.states[0], final_c

    def result(self):
        outputs = self.outputs if self.last is None else self.last
        if self.last is None and self.offsets is not None:
            outputs = Ragged._checked(outputs, self.offsets)
        return Result(outputs, self.states)


def options_of(activation, recurrent_activation, go_backwards, restore_order, zero_output_for_mask):
    act, ract = activation_code(activation), activation_code(recurrent_activation, "recurrent_activation")
    return act, ract, bool(go_backwards), bool(restore_order), bool(zero_output_for_mask)


def check_call(
    cell, x, kernel, recurrent_kernel, bias, mask, initial_state, packed, options, sequences, input_factors=None,
    recurrent_factors=None,
):  # fmt: skip
    values, B, T, offsets, mask = resolve_batch(x, mask)
    dtype, F = values.dtype, values.shape[-1]
    weights = None
    if packed is None:
        weights = check_weights(cell, kernel, recurrent_kernel, bias, F, dtype)
    elif packed.F != F or packed.dtype != dtype or packed.cell is not cell:
        raise ValueError(
            f"packed: expected {cell.name} weights for F = {F} and {dtype}, "
            f"received F = {packed.F}, {packed.dtype}, {packed.cell.name}"
        )
    H = packed.H if packed is not None else len(weights[1])
    initial = _states(cell, initial_state, B, H, dtype)
    outputs = last = None
    if sequences:
        outputs = empty("outputs", (len(values), H) if T is None else (B, T, H), dtype)
    else:
        last = np.empty((B, H), dtype)
    factors = check_factors(input_factors, recurrent_factors, B, cell.gates, F, H, dtype)
    values = times_rows(values, factors.row, offsets)
    states = tuple([np.empty((B, H), dtype) for _ in range(cell.states)])
    return Call(
        cell, values, (B, T, F), offsets, mask, weights, packed, initial, options, factors, outputs, last, states
    )


def infer(
    cell, x, kernel, recurrent_kernel, bias, *, mask, initial_state, activation, recurrent_activation, go_backwards,
    zero_output_for_mask, return_sequences, restore_order, packed,
):  # fmt: skip
    """Result of a call that keeps nothing for a backward."""
    options = options_of(activation, recurrent_activation, go_backwards, restore_order, zero_output_for_mask)
    if packed is not None:
        check_made_by(f"{cell.name}_pack", "packed", packed, Packed)
        if packed.cell is cell:
            result = infer_small(packed, x, mask, initial_state, options, return_sequences)
            if result is not None:
                return Result(*result)
    call = check_call(cell, x, kernel, recurrent_kernel, bias, mask, initial_state, packed, options, return_sequences)
    packed = call.packed or Packed(cell, *call.weights)
    B, T, F = call.shape
    _, _, reverse, restore, _ = options
    steps = steps_of(B, T, call.offsets, call.mask, reverse, restore)
    work = steps.N * (F + packed.H) * cell.gates * packed.H
    shares = shares_of(B, steps.N, work, packed.dtype.itemsize, cell.second_gates, False)
    scratch = aligned((shares.rows * slot_size(cell, packed, shares),), packed.dtype)
    arguments = forward_arguments(cell, packed, steps, options, shares, scratch)
    _jit.get(cell.module, f"{cell.kernel}_forward", packed.dtype).run(
        shares.workers, work, **{**arguments, **dict(zip(ARRAYS, call.arrays(), strict=True)), "queue": shares.queue()}
    )
    return call.result()
