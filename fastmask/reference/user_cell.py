"""A cell of one's own, given as functions of one step of one row, over T steps under a mask.

    step(x, state, weights, output, new_state, saved)
    step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights)

All are 1-D arrays but `weights` and `d_weights`, tuples of arrays. What the functions write comes in as zeros, but for
`d_weights`, to which step_backward adds.

A masked step changes nothing: the state is carried over and the output of the step before is repeated (zeros before the
first valid step, whatever the initial state), or is zero with zero_output_for_mask.
"""

from typing import NamedTuple

import numpy as np

from fastmask.reference._recurrent import Options, in_order, lay_out
from fastmask.reference.mask import as_mask


class UserCellTape(NamedTuple):
    """What user_cell_backward reads; time in processing order."""

    x: np.ndarray  # (B,T,F)
    mask: np.ndarray  # (B,T)
    weights: tuple
    state: np.ndarray  # (B,T,S), before each valid step
    saved: np.ndarray  # (B,T,K)
    options: Options


def user_cell_forward(
    x,
    weights,
    step,
    *,
    state_size,
    output_size,
    saved_size=0,
    mask=None,
    initial_state=None,
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
    restore_order=False,
):
    """Outputs, last state and the tape for user_cell_backward.

    Parameters
    ----------
    x : (B,T,F)
    weights : tuple of arrays
    step : function, see above
    state_size, output_size, saved_size : S, H, K
    mask : (B,T), True = use the step; None uses all
    initial_state : (B,S); None is zeros
    go_backwards, zero_output_for_mask, return_sequences, restore_order : as reference.simple_rnn

    Returns
    -------
    outputs (B,T,H) or (B,H), state (B,S), tape
    """
    options = Options(go_backwards, zero_output_for_mask, return_sequences, restore_order)
    B, T, _ = x.shape
    x, mask = in_order(x, go_backwards), in_order(as_mask(mask, B, T), go_backwards)
    last_state = np.zeros((B, state_size), x.dtype) if initial_state is None else np.array(initial_state, x.dtype)
    outputs, last = np.zeros((B, T, output_size), x.dtype), np.zeros((B, output_size), x.dtype)
    ws_state, ws_saved = np.zeros((B, T, state_size), x.dtype), np.zeros((B, T, saved_size), x.dtype)

    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                output, new_state = np.zeros(output_size, x.dtype), np.zeros(state_size, x.dtype)
                step(x[b, t], last_state[b], weights, output, new_state, ws_saved[b, t])
                ws_state[b, t] = last_state[b]
                last_state[b], last[b] = new_state, output
            outputs[b, t] = last[b] if mask[b, t] or not zero_output_for_mask else 0

    return lay_out(outputs, last, options), last_state, UserCellTape(x, mask, weights, ws_state, ws_saved, options)


def user_cell_backward(tape, step_backward, d_outputs, d_state=None):
    """Gradients of x (zero at masked steps), of the weights (a tuple) and of the initial state.

    Parameters
    ----------
    tape : from user_cell_forward
    step_backward : function, see above
    d_outputs : as outputs
    d_state : (B,S), of the last state, or None

    Notes
    -----
    In the forward pass a masked step repeated the last valid output, so now its gradient goes to that step; before the
    first valid step outputs were the constant 0, so what arrives there is dropped.
    """
    x, mask, weights, ws_state, ws_saved, options = tape
    B, T, S = ws_state.shape
    d_x, d_weights = np.zeros_like(x), tuple(np.zeros_like(w) for w in weights)
    d_state = np.zeros((B, S), x.dtype) if d_state is None else np.array(d_state, x.dtype)
    if options.return_sequences:
        d_outputs = in_order(d_outputs, options.go_backwards and options.restore_order)

    for b in range(B):
        d_output = np.zeros(d_outputs.shape[-1], x.dtype) if options.return_sequences else d_outputs[b]
        for t in reversed(range(T)):
            if options.return_sequences and (mask[b, t] or not options.zero_output_for_mask):
                d_output = d_output + d_outputs[b, t]
            if mask[b, t]:
                d_before = np.zeros(S, x.dtype)
                step_backward(
                    x[b, t], ws_state[b, t], weights, ws_saved[b, t], d_output, d_state[b], d_x[b, t], d_before,
                    d_weights,
                )  # fmt: skip
                d_state[b], d_output = d_before, np.zeros_like(d_output)

    return in_order(d_x, options.go_backwards), d_weights, d_state
