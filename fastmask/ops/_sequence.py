"""What a loop over steps in Python, or through a user's compiled function, needs around it: a batch as its valid steps,
and its outputs laid back under the mask; the same for gradients.
"""

from __future__ import annotations

import numpy as np

from fastmask.ops._common import as_floats, check_shape, resolve_batch, steps_of
from fastmask.ragged import Ragged


class Sequence:
    """A padded batch (B,T,F) or Ragged as its N valid steps, row by row, in the order in which a layer takes them.

    x, mask, go_backwards, zero_output_for_mask, return_sequences, restore_order : as ops.user_cell
    copy : whether `inputs` must be memory of its own

    Attributes
    ----------
    B, N, F : int
    dtype
    inputs : (N,F)
        The valid steps.
    first : (B+1,)
        Row b has the steps first[b] … first[b+1] - 1.
    lengths : (B,)
        How many these are.
    order : (B,)
        Rows by falling length.
    last : (B,)
        The last step of each row; N + b where row b has none.
    """

    def __init__(self, x, mask, go_backwards, zero_output_for_mask, return_sequences, restore_order, copy=False):
        values, self.B, self._T, offsets, mask = resolve_batch(x, mask)
        self._reverse, self._restore = bool(go_backwards), bool(restore_order)
        self._steps = steps_of(self.B, self._T, offsets, mask, self._reverse, self._restore)
        self.N, self.first, self.order = self._steps.N, self._steps.first, self._steps.order
        self.lengths = np.diff(self.first)
        self.last = np.where(self.lengths > 0, self.first[1:] - 1, self.N + np.arange(self.B))
        self.dtype, self.F = values.dtype, values.shape[-1]
        values = values.reshape(self._steps.positions, self.F)
        if self._steps.complete and not self._reverse:
            self.inputs = values.copy() if copy else values
        else:
            self.inputs = values[self._steps.src]
        self._all_steps = bool(return_sequences)
        self._shown = self._held(bool(zero_output_for_mask)) if return_sequences else np.minimum(self.last, self.N)

    def _held(self, zero_masked):
        """The step whose output stands at each position (B·T,): its own, the latest before it at a masked position, or
        N where there is none and zeros stand. None if that is simply 0 … N-1.
        """
        steps, N = self._steps, self.N
        if steps.complete and not self._reverse:
            return None
        shown = np.full(steps.positions, -1)
        shown[steps.dst] = np.arange(N)
        if not (steps.complete or zero_masked):
            row = np.repeat(np.arange(self.B), np.diff(steps.base))
            # Backwards with the order restored, later positions come before: look at each row from its other end.
            turned = slice(None)
            if self._reverse and self._restore:
                turned = steps.base[row] + steps.base[row + 1] - 1 - np.arange(len(row))
            latest = np.maximum.accumulate(shown[turned])
            latest[latest < self.first[row]] = -1  # a step of the row before
            shown = latest[turned]
        shown[shown < 0] = N
        return shown

    def lay_out(self, rows):
        """The outputs (B,T,H), Ragged or (B,H) from those of all valid steps, (N,H)."""
        if self._shown is not None:
            rows = np.append(rows, np.zeros((1, rows.shape[1]), rows.dtype), axis=0)[self._shown]
        return self._shaped(rows) if self._all_steps else rows

    def _shaped(self, values):
        """(B·T,K) as the batch came."""
        if self._T is None:
            return Ragged._checked(values, self._steps.offsets)
        return values.reshape(self.B, self._T, values.shape[1])

    # ---- backward: where lay_out showed a step's output, its gradient comes from ------------------------------------
    def output_gradients(self, d_outputs, H):
        """Gradients (N,H) of the outputs of all valid steps from d_outputs, which is shaped as the outputs or None."""
        if d_outputs is None:
            return np.zeros((self.N, H), self.dtype)
        d = self._flat(d_outputs, H)
        if self._shown is None:
            return d
        times = np.bincount(self._shown, minlength=self.N + 1)[: self.N]
        some = times > 0
        d_rows = np.zeros((self.N, H), self.dtype)
        if some.any():
            d = d[np.argsort(self._shown, kind="stable")[: times.sum()]]
            d_rows[some] = np.add.reduceat(d, (np.cumsum(times) - times)[some], axis=0)
        return d_rows

    def _flat(self, d_outputs, H):
        """(B·T,H) or (B,H), checked."""
        if self._all_steps and self._T is None:
            if not isinstance(d_outputs, Ragged):
                raise TypeError(f"d_outputs: expected Ragged as the outputs, received {type(d_outputs).__name__}")
            if not np.array_equal(d_outputs.offsets, self._steps.offsets):
                raise ValueError("d_outputs: expected the offsets of the outputs, received others")
            d = as_floats("d_outputs", d_outputs.values, self.dtype)
            return check_shape("d_outputs", d, (self._steps.positions, H), "(N,H)")
        d = as_floats("d_outputs", d_outputs, self.dtype)
        if not self._all_steps:
            return check_shape("d_outputs", d, (self.B, H), "(B,H)")
        return check_shape("d_outputs", d, (self.B, self._T, H), "(B,T,H)").reshape(-1, H)

    def input_gradients(self, d_inputs):
        """The gradient of x from that of the valid steps, (N,F); zero at masked steps."""
        if not self._steps.complete or self._reverse:
            rows, d_inputs = d_inputs, np.zeros((self._steps.positions, self.F), self.dtype)
            d_inputs[self._steps.src] = rows
        return self._shaped(d_inputs)


def check_states(name, states, sizes, B, dtype):
    """A contiguous array (B,n) for each n of `sizes`, zeros where None came; and the shapes as they came, or None.

    states : a tuple or list of (B,n) or (1,n) or None, the bare array if there is one state, or None
    """
    if states is None:
        states = (None,) * len(sizes)
    elif len(sizes) == 1 and not isinstance(states, (tuple, list)):
        states = (states,)
    if not isinstance(states, (tuple, list)) or len(states) != len(sizes):
        received = len(states) if isinstance(states, (tuple, list)) else type(states).__name__
        raise ValueError(f"{name}: expected {len(sizes)} array(s) in a tuple or list, received {received}")
    full, shapes = [], []
    for state, n in zip(states, sizes, strict=True):
        shapes.append(None if state is None else np.shape(state))
        if state is None:
            state = np.zeros((B, n), dtype)
        state = as_floats(name, state, dtype)
        if state.shape == (1, n) and B != 1:
            state = np.ascontiguousarray(np.broadcast_to(state, (B, n)))
        full.append(check_shape(name, state, (B, n), "(B,S)"))
    return tuple(full), tuple(shapes)


def given_state_gradients(gradients, shapes):
    """Gradients (B,n) of the initial states as these came: summed where (1,n) stood for all rows, None for None."""
    return tuple(
        None if shape is None else d.sum(axis=0, keepdims=True) if shape != d.shape else d
        for d, shape in zip(gradients, shapes, strict=True)
    )
