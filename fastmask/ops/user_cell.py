"""A recurrent cell of one's own over T steps under a mask: its compiled functions run inside the library's loop."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

from fastmask.kernels import _jit
from fastmask.ops._common import Result, Workspace, aligned, aligned_zeros, as_floats, check_made_by
from fastmask.ops._sequence import Sequence, check_states, given_state_gradients
from fastmask.ops.mask import check_count
from fastmask.ragged import Ragged

CHUNKS = 16  # sums of weight gradients kept apart: the most threads that backward can use
LINE = 64  # bytes; each weight begins at a multiple


class UserCell(NamedTuple):
    """The functions of a cell, and the sizes of what they read and write at one step of one row.

        step(x, state, weights, output, new_state, saved)
        step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights)

    All are 1-D arrays, x (F,), state and new_state (S,), output (H,), saved (K,), their gradients alike; weights is a
    tuple of arrays, and so is d_weights. `step` writes output, new_state and saved, `step_backward` writes d_x and
    d_state and ADDS to d_weights; whatever is to be written comes in as zeros. Both return nothing.

    step, step_backward : made with numba.njit; step_backward may be None (no training)
    state_size : int or tuple of int; several states lie one behind the other in `state`, S numbers in all
    output_size, saved_size : H, K
    """

    step: object
    step_backward: object
    state_size: int | tuple
    output_size: int
    saved_size: int = 0

    @property
    def states(self):
        """Sizes of the states."""
        return self.state_size if isinstance(self.state_size, tuple) else (self.state_size,)

    def address(self, name, packed, dtype):
        """Address of the machine code of the function `name` for these weights, compiled if need be.

        Raises
        ------
        TypeError, ValueError
            No numba function, or one that cannot be called by the loop.
        """
        from fastmask.kernels import user_function  # imports numba, as who wrote the function did

        return user_function.entry(getattr(self, name), name, packed.ranks, dtype.name)


class UserCellGradients(NamedTuple):
    """x as x (None if not asked for), weights a list as the weights, initial_state a tuple with None where none was
    given."""

    x: np.ndarray | Ragged | None
    weights: list
    initial_state: tuple


class Packed:
    """Weights as one block of memory, in which each begins at a multiple of 64 bytes."""

    def __init__(self, weights):
        if not isinstance(weights, (list, tuple)):
            raise TypeError(f"weights: expected a list of arrays, received {type(weights).__name__}")
        weights = [as_floats("weights", w) for w in weights]
        self.dtype = weights[0].dtype if weights else None
        self.shapes, self._starts, self.size = [w.shape for w in weights], [], 0
        self.layout = []  # what kernels/user_cell.py reads: where each weight begins, in bytes, and its shape
        for w in weights:
            if w.dtype != self.dtype:
                raise TypeError(f"weights: expected one dtype, received {self.dtype} and {w.dtype}")
            self._starts.append(self.size)
            self.layout += [self.size * w.itemsize, *w.shape]
            self.size += -(-w.nbytes // LINE) * LINE // w.itemsize
        self.memory = aligned_zeros((self.size,), self.dtype or np.float32)
        for own, w in zip(self.arrays(self.memory), weights, strict=True):
            own[...] = w

    @property
    def ranks(self):
        return tuple(map(len, self.shapes))

    def arrays(self, memory):
        """The parts of a block of that layout, shaped as the weights."""
        parts = []
        for start, shape in zip(self._starts, self.shapes, strict=True):
            parts.append(memory[start : start + int(np.prod(shape))].reshape(shape))
        return tuple(parts)


class Tape:
    """What backward needs of one forward call; good for one backward."""

    def __init__(self, **kept):
        self.__dict__.update(kept)


def user_cell_pack(weights):
    """Weights in the order of the kernels, for `packed=`: a copy of them as they are now."""
    return Packed(weights)


# ----------------------------------------------------------------------------------------------------------------------
# Forward and backward


def user_cell(
    x, weights, cell, *, mask=None, initial_state=None, go_backwards=False, zero_output_for_mask=False,
    return_sequences=True, restore_order=False, packed=None,
):  # fmt: skip
    """A cell of one's own over T steps: outputs and last states.

    Parameters
    ----------
    x : (B,T,F) float32 or float64, or Ragged with values (N,F)
    weights : list of arrays of x's dtype
        What the cell's functions get as `weights`.
    cell : UserCell
    mask : (B,T), (1,T) or (B,T,1); with Ragged (N,)
        True = use the step.
    initial_state : tuple of (B,n) or (1,n), one for each state, or None (zeros)
    go_backwards, zero_output_for_mask, return_sequences, restore_order
        As ops.simple_rnn.
    packed : from user_cell_pack, or None
        Skips packing; `weights` is then not looked at.

    Returns
    -------
    Result(outputs, states)
        outputs (B,T,H), Ragged for Ragged, or (B,H); a tuple of states (B,n) after the last valid step.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was expected and what came, before any work.
    Exception
        What `step` raised, in whichever row came first.

    Notes
    -----
    The mask rule is simple_rnn's. Parallel over rows; each is taken by itself from its first valid step to its last, so
    its bits depend neither on padding nor on the other rows nor on the number of threads.
    """
    return _forward(
        x, weights, cell, mask, initial_state, go_backwards, zero_output_for_mask, return_sequences, restore_order,
        packed, keep=False,
    )[0]  # fmt: skip


def user_cell_forward(
    x, weights, cell, *, mask=None, initial_state=None, go_backwards=False, zero_output_for_mask=False,
    return_sequences=True, restore_order=False, packed=None,
):  # fmt: skip
    """user_cell for training: the same bits, and the tape for user_cell_backward.

    Parameters
    ----------
    x, weights, cell, mask, initial_state, go_backwards, zero_output_for_mask, return_sequences, restore_order, packed
        As user_cell's.

    Returns
    -------
    Result(outputs, states), tape
        The tape is good for one backward. It holds F + S + K numbers a valid step.
    """
    return _forward(
        x, weights, cell, mask, initial_state, go_backwards, zero_output_for_mask, return_sequences, restore_order,
        packed, keep=True,
    )  # fmt: skip


def _check_cell(cell):
    if not isinstance(cell, UserCell):
        raise TypeError(f"cell: expected a UserCell, received {type(cell).__name__}")
    for n in cell.states:
        check_count(n, "state_size")
    check_count(cell.output_size, "output_size"), check_count(cell.saved_size, "saved_size")


def _forward(
    x, weights, cell, mask, initial_state, go_backwards, zero_output_for_mask, return_sequences, restore_order, packed,
    keep,
):  # fmt: skip
    _check_cell(cell)
    packed = Packed(weights) if packed is None else packed
    check_made_by("user_cell_pack", "packed", packed, Packed)
    sequence = Sequence(x, mask, go_backwards, zero_output_for_mask, return_sequences, restore_order, copy=keep)
    B, N, F, dtype = sequence.B, sequence.N, sequence.F, sequence.dtype
    if packed.dtype not in (None, dtype):
        raise TypeError(f"weights: expected dtype {dtype} as x, received {packed.dtype}")
    initial, shapes = check_states("initial_state", initial_state, cell.states, B, dtype)
    S, H, K = sum(cell.states), cell.output_size, cell.saved_size

    if keep and cell.step_backward is not None:
        cell.address("step_backward", packed, dtype)  # what is wrong with it is better known before
    workspace, outputs = Workspace(), np.empty((N, H), dtype)
    if keep:
        states, saved = workspace.array((N + B, S), dtype), workspace.array((N, K), dtype)
        first_states = states[N:]
    else:
        states, saved = aligned((B, 2, S), dtype), aligned((B, K), dtype)
        first_states = states[:, 0]
    np.concatenate(initial, axis=1, out=first_states)
    _run(
        "step", cell, packed, F, dtype, B, steps=N, order=sequence.order, first=sequence.first, x=sequence.inputs,
        states=states, outputs=outputs, saved=saved, keep=keep,
    )  # fmt: skip
    final = states[sequence.last] if keep else states[np.arange(B), sequence.lengths & 1]
    result = Result(sequence.lay_out(outputs), _split(final, cell.states))
    if not keep:
        return result, None
    return result, Tape(
        cell=cell, packed=packed, sequence=sequence, states=states, saved=saved, shapes=shapes, workspace=workspace
    )  # fmt: skip


def user_cell_backward(tape, d_outputs, d_states=None, *, need_x=True):
    """Backward of user_cell_forward, by way of the cell's step_backward.

    Parameters
    ----------
    tape : from user_cell_forward
        Used up by this call.
    d_outputs : as outputs, or None
    d_states : tuple of (B,n) or None, or None
    need_x : bool
        False skips the gradient of x.

    Returns
    -------
    UserCellGradients(x, weights, initial_state)

    Notes
    -----
    Weight gradients are summed over CHUNKS groups of rows and these in order: the bits do not depend on the number of
    threads.
    """
    check_made_by("user_cell_forward", "tape", tape, Tape)
    if tape.workspace is None:
        raise ValueError(
            "tape: expected one that was not used yet (a tape is good for one backward), received a used one"
        )
    cell, packed, sequence = tape.cell, tape.packed, tape.sequence
    B, N, F, dtype = sequence.B, sequence.N, sequence.F, sequence.dtype
    d_rows = sequence.output_gradients(d_outputs, cell.output_size)
    d_final, _ = check_states("d_states", d_states, cell.states, B, dtype)

    chunks = min(CHUNKS, B)
    d_states = aligned((B, 2, sum(cell.states)), dtype)
    np.concatenate(d_final, axis=1, out=d_states[:, 0])
    d_inputs = np.empty((N if need_x else chunks, F), dtype)
    d_weights = aligned_zeros((chunks, packed.size), dtype)
    _run(
        "step_backward", cell, packed, F, dtype, chunks, steps=N, order=sequence.order, rows=B, first=sequence.first,
        x=sequence.inputs, states=tape.states, saved=tape.saved, d_outputs=d_rows, d_x=d_inputs, d_states=d_states,
        d_weights=d_weights, weights_size=packed.size, need_x=need_x, chunks=chunks,
    )  # fmt: skip
    tape.workspace.release()
    tape.workspace = tape.states = tape.saved = None
    d_initial = _split(d_states[np.arange(B), sequence.lengths & 1], cell.states)
    return UserCellGradients(
        sequence.input_gradients(d_inputs) if need_x else None,
        list(packed.arrays(d_weights.sum(axis=0))),
        given_state_gradients(d_initial, tape.shapes),
    )


def _split(states, sizes):
    """(B,S) as one contiguous array for each state."""
    ends = np.cumsum(sizes).tolist()
    return tuple(np.ascontiguousarray(states[:, end - n : end]) for n, end in zip(sizes, ends, strict=True))


# ----------------------------------------------------------------------------------------------------------------------
# Calling the user's functions

_LOOPS = {"step": "forward", "step_backward": "backward"}  # of kernels/user_cell.py
# A user's loop does about 10 multiply-adds a nanosecond where the library's kernels do 50, so threads pay earlier.
_SLOWNESS = 5


def _run(name, cell, packed, F, dtype, blocks, *, steps, **arguments):
    """Run the loop over the cell's function `name`; what that raises is raised here."""
    from fastmask.kernels.user_function import ARGUMENTS

    S, H, K = sum(cell.states), cell.output_size, cell.saved_size
    lengths = dict(x=F, state=S, output=H, new_state=S, saved=K, d_output=H, d_new_state=S, d_x=F, d_state=S)
    sizes = np.array([lengths.get(n, 0) for n in ARGUMENTS[name]] + packed.layout, np.int64)
    step = cell.address(name, packed, dtype)
    ranks = "".join(map(str, packed.ranks))
    call = _jit.get("user_cell", f"call_{name}_{ranks}", dtype).address
    error = np.zeros(16, np.int64)  # how many steps raised, and the frame of the first: two words, then addresses
    _jit.get("user_cell", _LOOPS[name], dtype).run(
        blocks, _SLOWNESS * steps * (packed.size + S), call=call, step=step, weights=packed.memory, sizes=sizes, F=F,
        S=S, H=H, K=K, steps=steps, error=error, **arguments,
    )  # fmt: skip
    if error[0]:
        _raise(name, getattr(cell, name), error[3:].tolist(), lengths, packed, dtype)


def _raise(name, function, addresses, lengths, packed, dtype):
    """Take the step that raised once more, from Python, where what it raises is an exception.

    addresses : of its arguments
    """
    from fastmask.kernels.user_function import READ, WRITTEN

    arguments = []
    for argument, address in zip(READ[name], addresses, strict=False):
        if argument == "weights":
            arguments.append(packed.arrays(packed.memory.copy()))
        else:
            n = lengths[argument]
            memory = (ctypes.c_char * max(1, n * dtype.itemsize)).from_address(address)
            arguments.append(np.ndarray((n,), dtype, buffer=memory).copy())
    for argument in WRITTEN[name]:
        zeros = packed.arrays(np.zeros_like(packed.memory)) if argument == "d_weights" else None
        arguments.append(np.zeros(lengths[argument], dtype) if zeros is None else zeros)
    function(*arguments)
    raise RuntimeError(f"{name}: raised in the loop, but not when that step was taken once more")
