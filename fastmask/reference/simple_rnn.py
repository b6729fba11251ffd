"""The simple recurrent cell (Elman 1990), with masks as Keras 3 has them.

    h_t = act(x_t W + h_{t-1} U + b)

A masked step changes nothing: the state is carried over and the output of the step before is repeated (zeros before the
first valid step, whatever the initial state), or is zero with zero_output_for_mask.

Dropout multiplies x, and recurrent dropout h, in the products with W and U, by factors that are the same at all steps.
"""

from typing import NamedTuple

import numpy as np

from fastmask.reference._recurrent import (
    Gradients,
    Options,
    Result,
    in_order,
    initial_state_gradients,
    lay_out,
    prepare,
    product,
    product_backward,
    product_weight_gradient,
    rows,
    start_backward,
)
from fastmask.reference.activation import activation as function
from fastmask.reference.activation import activation_grad


class SimpleRNNTape(NamedTuple):
    """What simple_rnn_backward reads; time in processing order."""

    x: np.ndarray  # (B,T,F), zero at masked steps
    mask: np.ndarray  # (B,T)
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    has_bias: bool
    activation: str | None
    h: np.ndarray  # (B,T,H), the state before each step
    a: np.ndarray  # (B,T,H), pre-activations
    state_shapes: tuple
    factors: tuple  # of x (B,1,F) and h (B,1,H), or None
    options: Options


def simple_rnn(x, kernel, recurrent_kernel, bias=None, **options):
    """simple_rnn_forward without the tape."""
    return simple_rnn_forward(x, kernel, recurrent_kernel, bias, **options)[0]


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
    input_factors=None,
    recurrent_factors=None,
):
    """Simple RNN over T steps: the module's equations, and the tape for simple_rnn_backward.

    Parameters
    ----------
    x : (B,T,F) float32 or float64
    kernel, recurrent_kernel, bias : (F,H), (H,H), (H,) or None, of x's dtype
    mask : (B,T), True = use the step; (1,T) and (B,T,1) too, any number, non-zero is True; None uses all
    initial_state : h (B,H) or (1,H), or a tuple of it; None is zeros
    activation : a name of fastmask.reference.activation.ELEMENTWISE
    go_backwards : process time from its end; outputs stand in processing order
    zero_output_for_mask : masked steps of a sequence are zero instead of held
    return_sequences : all outputs (B,T,H), else the last valid one (B,H), zeros in a row without any
    restore_order : with go_backwards, outputs stand where their inputs stand
    input_factors : (B,F) or (B,1,F): what dropout multiplies x by, at every step of a row
    recurrent_factors : (B,1,H): what recurrent dropout multiplies h by where it meets the recurrent kernel

    Returns
    -------
    Result(outputs, states), tape : states is (h,), the state after the last valid step

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Examples
    --------
    >>> x = np.array([[[1.0], [2.0], [9.0]]])
    >>> one = np.ones((1, 1))
    >>> simple_rnn(x, one, one, mask=[[True, True, False]], activation="linear").outputs[..., 0]
    array([[1., 3., 3.]])
    """
    options = Options(go_backwards, zero_output_for_mask, return_sequences, restore_order)
    factors = input_factors, recurrent_factors
    x, mask, (h,), state_shapes, factors = prepare(
        x, kernel, recurrent_kernel, bias, lambda H: (H,), 1, mask, initial_state, 1, factors, options
    )
    x_factors, h_factors = factors
    W, U = np.asarray(kernel), np.asarray(recurrent_kernel)
    act = function(activation)
    B, T, _ = x.shape
    H = U.shape[0]

    xW = product(x, W, x_factors)  # all steps at once
    if bias is not None:
        xW = xW + bias
    ws_h, ws_a, outputs = (np.zeros((B, T, H), x.dtype) for _ in range(3))
    out = np.zeros((B, H), x.dtype)

    for t in range(T):
        m = mask[:, t, None]

        a = xW[:, t] + product(h, U, h_factors)
        h_new = act(a)

        ws_h[:, t], ws_a[:, t] = h, a
        h = np.where(m, h_new, h)
        out = np.where(m, h_new, out)
        outputs[:, t] = np.where(m, out, 0) if zero_output_for_mask else out

    tape = SimpleRNNTape(x, mask, W, U, bias is not None, activation, ws_h, ws_a, state_shapes, factors, options)
    return Result(lay_out(outputs, out, options), (h,)), tape


def simple_rnn_backward(tape, d_outputs, d_states=None):
    """Backward of simple_rnn_forward.

    Parameters
    ----------
    tape : from simple_rnn_forward
    d_outputs : as outputs, or None
    d_states : (dh,), each (B,H) or None; or None

    Returns
    -------
    Gradients : x is zero at masked steps

    Notes
    -----
    In the forward pass a masked step repeated the last valid output, so now its gradient goes to that step; before the
    first valid step outputs were the constant 0, so what arrives there is dropped.
    """
    x, mask, W, U, has_bias, activation, ws_h, ws_a, state_shapes, factors, options = tape
    x_factors, h_factors = factors
    B, T, H = ws_h.shape
    d_sequence, d_last, (dh,) = start_backward(d_outputs, d_states, mask, H, x.dtype, 1, options)
    da = np.zeros((B, T, H), x.dtype)

    for t in reversed(range(T)):
        m = mask[:, t, None]
        d_last = d_last + d_sequence[:, t]

        # h_new went into the state and, held until the next valid step, into the outputs
        dh_new = dh + d_last
        da_t = dh_new * activation_grad(activation, ws_a[:, t])  # h_new = act(a)
        da[:, t] = np.where(m, da_t, 0)

        dh = np.where(m, product_backward(da_t, U, h_factors), dh)  # a = xW + h U + b
        d_last = np.where(m, 0, d_last)

    h_used = np.where(mask[:, :, None], ws_h, 0)
    return Gradients(
        x=in_order(product_backward(da, W, x_factors), options.go_backwards),
        kernel=product_weight_gradient(da, x, x_factors),
        recurrent_kernel=product_weight_gradient(da, h_used, h_factors),
        bias=rows(da).sum(axis=0) if has_bias else None,
        initial_state=initial_state_gradients((dh,), state_shapes),
    )
