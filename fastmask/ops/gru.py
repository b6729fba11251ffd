"""GRU over T steps under a mask (Cho et al. 2014; equal to keras.layers.GRU, Keras 3.15, both forms)."""

from fastmask.ops import _recurrent, _training
from fastmask.ops._packing import GRU, GRU_RESET_BEFORE, pack


def _cell(reset_after):
    return GRU if reset_after else GRU_RESET_BEFORE


def gru(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    mask=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
    restore_order=False,
    packed=None,
):
    """Masked GRU: outputs and last state.

    Parameters
    ----------
    x : (B,T,F) float32 or float64, or Ragged with values (N,F)
        Any array-like; strided and read-only arrays are fine. Nothing under the mask is ever read into a result.
    kernel, recurrent_kernel, bias : (F,3H), (H,3H), and (2,3H) with reset_after, else (3H,); bias may be None
        Gate columns z, r, h; of x's dtype. Row 0 of the bias belongs to x, row 1 to h.
    mask : (B,T), (1,T) or (B,T,1); with Ragged (N,)
        True = use the step; numbers count as True unless 0. Right padding, left padding and holes alike.
    initial_state : (B,H) or (1,H), alone or in a tuple, or None (zeros)
    activation, recurrent_activation : str or None
        Any element-wise Keras name; None is linear.
    reset_after : bool
        The candidate uses r (h U + c) (Keras 3, PyTorch) or, False, (r h) U.
    go_backwards : bool
        Take the steps from the last to the first; outputs stand in the order in which they were computed.
    zero_output_for_mask : bool
        Outputs at masked steps are 0 instead of the output before. Concerns sequences only.
    return_sequences : bool
        All outputs, or the last valid one (0 in a row without any).
    restore_order : bool
        With go_backwards: outputs stand where their inputs stand (Bidirectional).
    packed : from gru_pack, or None
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
    ::

        z = ract(x W_z + b_z + h U_z + c_z)      r = ract(x W_r + b_r + h U_r + c_r)
        g = act(x W_h + b_h + r (h U_h + c_h))   with reset_after
        g = act(x W_h + b_h + (r h) U_h)         without
        h = z h + (1 - z) g                      z multiplies the OLD state

    A masked step carries h and repeats the output before it; leading masked steps give 0 even if an initial state is
    given (TensorFlow, PyTorch). The initial state never switches the mask off (Keras 3 loses it then). Parallel over
    rows. The bits of a row depend neither on padding nor on the other rows nor on the number of threads
    (tests/test_invariance.py).

    Examples
    --------
    >>> import numpy as np, fastmask as fm
    >>> x, W, U = np.ones((1, 3, 2), "float32"), np.full((2, 3), 0.5, "float32"), np.zeros((1, 3), "float32")
    >>> fm.gru(x, W, U, mask=[[True, False, True]]).outputs[0, :, 0].round(4)
    array([0.2048, 0.2048, 0.3546], dtype=float32)
    """
    return _recurrent.infer(
        _cell(reset_after), x, kernel, recurrent_kernel, bias, mask=mask, initial_state=initial_state,
        activation=activation, recurrent_activation=recurrent_activation, go_backwards=go_backwards,
        zero_output_for_mask=zero_output_for_mask, return_sequences=return_sequences, restore_order=restore_order,
        packed=packed,
    )  # fmt: skip


def gru_forward(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    mask=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
    restore_order=False,
    packed=None,
    input_factors=None,
    recurrent_factors=None,
):
    """Forward of gru for training: the same bits as gru, and the tape for gru_backward.

    Parameters
    ----------
    x, kernel, recurrent_kernel, bias, mask, initial_state, activation, recurrent_activation
    reset_after, go_backwards, zero_output_for_mask, return_sequences, restore_order, packed
        As gru's.
    input_factors : (B,3,F), a factor for each gate, or (B,F) for all alike; or None
        Dropout: what multiplies x, at every step of a row.
    recurrent_factors : (B,3,H) or (B,H); or None
        Recurrent dropout: what multiplies h, at every step of a row, where it meets the recurrent kernel; without
        reset_after the candidate meets (r h) times its factors. The h of z h is whole.

    Returns
    -------
    Result(outputs, states), tape
        The tape is good for one backward. It holds a copy of the valid steps of x, the gates and the states:
        (F + 5H) numbers a valid step.

    Raises
    ------
    ValueError, TypeError
        As gru.
    """
    return _training.forward(
        _cell(reset_after), x, kernel, recurrent_kernel, bias, mask=mask, initial_state=initial_state,
        activation=activation, recurrent_activation=recurrent_activation, go_backwards=go_backwards,
        zero_output_for_mask=zero_output_for_mask, return_sequences=return_sequences, restore_order=restore_order,
        packed=packed, 
        input_factors=input_factors, recurrent_factors=recurrent_factors,
    )  # fmt: skip


def gru_backward(tape, d_outputs, d_states=None, *, need_x=True):
    """Backward of gru_forward.

    Parameters
    ----------
    tape : from gru_forward
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
    return _training.backward(GRU, tape, d_outputs, d_states, need_x)


def gru_pack(kernel, recurrent_kernel, bias=None, *, reset_after=True):
    """Weights in the order of the kernels, for `packed=`: they must not change while the pack is in use."""
    return pack(_cell(reset_after), kernel, recurrent_kernel, bias)
