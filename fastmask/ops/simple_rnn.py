"""SimpleRNN over T steps under a mask (Elman 1990; equal to keras.layers.SimpleRNN, Keras 3.15)."""

from fastmask.ops import _recurrent, _training
from fastmask.ops._packing import SIMPLE_RNN, pack


def simple_rnn(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    mask=None,
    initial_state=None,
    activation="tanh",
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
    restore_order=False,
    packed=None,
):
    """Masked SimpleRNN: outputs and last state.

    Parameters
    ----------
    x : (B,T,F) float32 or float64, or Ragged with values (N,F)
        Any array-like; strided and read-only arrays are fine. Nothing under the mask is ever read into a result.
    kernel, recurrent_kernel, bias : (F,H), (H,H), (H,) or None, of x's dtype
    mask : (B,T), (1,T) or (B,T,1); with Ragged (N,)
        True = use the step; numbers count as True unless 0. Right padding, left padding and holes alike.
    initial_state : (B,H) or (1,H), alone or in a tuple, or None (zeros)
    activation : str or None
        Any element-wise Keras name; None is linear.
    go_backwards : bool
        Take the steps from the last to the first; outputs stand in the order in which they were computed.
    zero_output_for_mask : bool
        Outputs at masked steps are 0 instead of the output before. Concerns sequences only.
    return_sequences : bool
        All outputs, or the last valid one (0 in a row without any).
    restore_order : bool
        With go_backwards: outputs stand where their inputs stand (Bidirectional).
    packed : from simple_rnn_pack, or None
        Skips packing; the weight arguments are then not looked at.

    Returns
    -------
    Result(outputs, states)
        outputs (B,T,H), Ragged for Ragged, or (B,H); states (h,) after the last valid step, (B,H).

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was expected and what came, before any work.

    Notes
    -----
    ``h = act(x W + h U + b)``. A masked step carries h and repeats the output before it; leading masked steps give 0
    even if an initial state is given. Parallel over rows. The bits of a row depend neither on padding nor on the other
    rows nor on the number of threads (tests/test_invariance.py).

    Examples
    --------
    >>> import numpy as np, fastmask as fm
    >>> x, W, U = np.ones((1, 3, 1), "float32"), np.ones((1, 1), "float32"), np.ones((1, 1), "float32")
    >>> fm.simple_rnn(x, W, U, mask=[[True, False, True]], activation=None).outputs[0, :, 0]
    array([1., 1., 2.], dtype=float32)
    """
    return _recurrent.infer(
        SIMPLE_RNN, x, kernel, recurrent_kernel, bias, mask=mask, initial_state=initial_state, activation=activation,
        recurrent_activation="sigmoid", go_backwards=go_backwards, zero_output_for_mask=zero_output_for_mask,
        return_sequences=return_sequences, restore_order=restore_order, packed=packed,
    )  # fmt: skip


def simple_rnn_forward(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    mask=None,
    initial_state=None,
    activation="tanh",
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
    restore_order=False,
    packed=None,
    input_factors=None,
    recurrent_factors=None,
):
    """Forward of simple_rnn for training: the same bits as simple_rnn, and the tape for simple_rnn_backward.

    Parameters
    ----------
    x, kernel, recurrent_kernel, bias, mask, initial_state, activation
    go_backwards, zero_output_for_mask, return_sequences, restore_order, packed
        As simple_rnn's.
    input_factors : (B,F) or (B,1,F); or None
        Dropout: what multiplies x, at every step of a row.
    recurrent_factors : (B,H) or (B,1,H); or None
        Recurrent dropout: what multiplies h, at every step of a row, where it meets the recurrent kernel.

    Returns
    -------
    Result(outputs, states), tape
        The tape is good for one backward. It holds a copy of the valid steps of x, the gates and the states:
        (F + 2H) numbers a valid step.

    Raises
    ------
    ValueError, TypeError
        As simple_rnn.
    """
    return _training.forward(
        SIMPLE_RNN, x, kernel, recurrent_kernel, bias, mask=mask, initial_state=initial_state, activation=activation,
        recurrent_activation="sigmoid", go_backwards=go_backwards, zero_output_for_mask=zero_output_for_mask,
        return_sequences=return_sequences, restore_order=restore_order, packed=packed, 
        input_factors=input_factors, recurrent_factors=recurrent_factors,
    )  # fmt: skip


def simple_rnn_backward(tape, d_outputs, d_states=None, *, need_x=True):
    """Backward of simple_rnn_forward.

    Parameters
    ----------
    tape : from simple_rnn_forward
        Used up by this call.
    d_outputs : as outputs, or None
        Under the hold rule the gradient at a masked step belongs to the last valid step before it; with
        zero_output_for_mask it is ignored.
    d_states : (B,H), alone or in a tuple, or None
    need_x : bool
        False skips the gradient of x (the first layer of a model).

    Returns
    -------
    Gradients(x, kernel, recurrent_kernel, bias, initial_state)
        x as x, zero at masked steps; weights as they came; initial_state a tuple, None where none was given.

    Raises
    ------
    ValueError, TypeError
        Wrong shapes or dtypes, a tape that was used already.

    Notes
    -----
    Sums over steps run in one fixed order: the bits do not depend on the number of threads.
    """
    return _training.backward(SIMPLE_RNN, tape, d_outputs, d_states, need_x)


def simple_rnn_pack(kernel, recurrent_kernel, bias=None):
    """Weights in the order of the kernels, for `packed=`: they must not change while the pack is in use."""
    return pack(SIMPLE_RNN, kernel, recurrent_kernel, bias)
