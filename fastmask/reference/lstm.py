"""The LSTM cell (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000), with masks as Keras 3 has them.

    a = x_t W + h_{t-1} U + b               four blocks of H columns: i, f, c, o
    i = ract(a_i)    f = ract(a_f)    g = act(a_c)    o = ract(a_o)
    c_t = f c_{t-1} + i g
    h_t = o act(c_t)

A masked step changes nothing: the states are carried over and the output of the step before is repeated (zeros before
the first valid step, whatever the initial state), or is zero with zero_output_for_mask.

Dropout multiplies x, and recurrent dropout h, in the products with W and U only, by factors that are the same at all
steps and may differ from gate to gate.
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


class LSTMTape(NamedTuple):
    """What lstm_backward reads; time in processing order."""

    x: np.ndarray  # (B,T,F), zero at masked steps
    mask: np.ndarray  # (B,T)
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    has_bias: bool
    activation: str | None
    recurrent_activation: str | None
    h: np.ndarray  # (B,T,H), the states before each step
    c: np.ndarray  # (B,T,H)
    a: np.ndarray  # (B,T,4H), pre-activations
    state_shapes: tuple
    factors: tuple  # of x (B,4,F) and h (B,4,H), or None
    options: Options


def lstm(x, kernel, recurrent_kernel, bias=None, **options):
    """lstm_forward without the tape."""
    return lstm_forward(x, kernel, recurrent_kernel, bias, **options)[0]


def lstm_forward(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    mask=None,
    initial_state=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    go_backwards=False,
    zero_output_for_mask=False,
    return_sequences=True,
    restore_order=False,
    input_factors=None,
    recurrent_factors=None,
):
    """LSTM over T steps: the module's equations, and the tape for lstm_backward.

    Parameters
    ----------
    x : (B,T,F) float32 or float64
    kernel, recurrent_kernel, bias : (F,4H), (H,4H), (4H,) or None, of x's dtype; columns i, f, c, o
    mask : (B,T), True = use the step; (1,T) and (B,T,1) too, any number, non-zero is True; None uses all
    initial_state : (h, c), each (B,H), (1,H) or None; None is zeros
    activation, recurrent_activation : names of fastmask.reference.activation.ELEMENTWISE
    go_backwards : process time from its end; outputs stand in processing order
    zero_output_for_mask : masked steps of a sequence are zero instead of held
    return_sequences : all outputs (B,T,H), else the last valid one (B,H), zeros in a row without any
    restore_order : with go_backwards, outputs stand where their inputs stand
    input_factors : (B,F), or (B,4,F) one for each gate: what dropout multiplies x by, at every step of a row
    recurrent_factors : (B,4,H): what recurrent dropout multiplies h by where it meets the recurrent kernel

    Returns
    -------
    Result(outputs, states), tape : states is (h, c) after the last valid step

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Examples
    --------
    >>> x, W, U = np.ones((1, 2, 1)), np.ones((1, 4)), np.zeros((1, 4))
    >>> result, tape = lstm_forward(x, W, U, mask=[[True, False]], activation=None, recurrent_activation=None)
    >>> result.outputs[..., 0]
    array([[1., 1.]])
    """
    options = Options(go_backwards, zero_output_for_mask, return_sequences, restore_order)
    factors = input_factors, recurrent_factors
    x, mask, (h, c), state_shapes, factors = prepare(
        x, kernel, recurrent_kernel, bias, lambda H: (4 * H,), 4, mask, initial_state, 2, factors, options
    )
    x_factors, h_factors = factors
    W, U = np.asarray(kernel), np.asarray(recurrent_kernel)
    act, ract = function(activation), function(recurrent_activation)
    B, T, _ = x.shape
    H = U.shape[0]

    xW = product(x, W, x_factors)  # all steps at once
    if bias is not None:
        xW = xW + bias
    ws_h, ws_c, outputs = (np.zeros((B, T, H), x.dtype) for _ in range(3))
    ws_a = np.zeros((B, T, 4 * H), x.dtype)
    out = np.zeros((B, H), x.dtype)

    for t in range(T):
        m = mask[:, t, None]

        a = xW[:, t] + product(h, U, h_factors)
        a_i, a_f, a_c, a_o = np.split(a, 4, axis=1)
        i, f, g, o = ract(a_i), ract(a_f), act(a_c), ract(a_o)
        c_new = f * c + i * g
        h_new = o * act(c_new)

        ws_h[:, t], ws_c[:, t], ws_a[:, t] = h, c, a
        h, c = np.where(m, h_new, h), np.where(m, c_new, c)
        out = np.where(m, h_new, out)
        outputs[:, t] = np.where(m, out, 0) if zero_output_for_mask else out

    tape = LSTMTape(
        x,
        mask,
        W,
        U,
        bias is not None,
        activation,
        recurrent_activation,
        ws_h,
        ws_c,
        ws_a,
        state_shapes,
        factors,
        options,
    )
    return Result(lay_out(outputs, out, options), (h, c)), tape


def lstm_backward(tape, d_outputs, d_states=None):
    """Backward of lstm_forward.

    Parameters
    ----------
    tape : from lstm_forward
    d_outputs : as outputs, or None
    d_states : (dh, dc), each (B,H) or None; or None

    Returns
    -------
    Gradients : x is zero at masked steps

    Notes
    -----
    In the forward pass a masked step repeated the last valid output, so now its gradient goes to that step; before the
    first valid step outputs were the constant 0, so what arrives there is dropped.
    """
    x, mask, W, U, has_bias, activation, recurrent_activation, ws_h, ws_c, ws_a, state_shapes, factors, options = tape
    x_factors, h_factors = factors
    act, ract = function(activation), function(recurrent_activation)
    B, T, H = ws_h.shape
    d_sequence, d_last, (dh, dc) = start_backward(d_outputs, d_states, mask, H, x.dtype, 2, options)
    da = np.zeros((B, T, 4 * H), x.dtype)

    for t in reversed(range(T)):
        m = mask[:, t, None]
        d_last = d_last + d_sequence[:, t]

        a_i, a_f, a_c, a_o = np.split(ws_a[:, t], 4, axis=1)  # the forward step again
        i, f, g, o = ract(a_i), ract(a_f), act(a_c), ract(a_o)
        c = ws_c[:, t]
        c_new = f * c + i * g

        # h_new went into the state and, held until the next valid step, into the outputs
        dh_new = dh + d_last
        do = dh_new * act(c_new)  # h_new = o act(c_new)
        dc_new = dc + dh_new * o * activation_grad(activation, c_new)
        di, df, dg = dc_new * g, dc_new * c, dc_new * i  # c_new = f c + i g
        da_t = np.concatenate(
            [
                di * activation_grad(recurrent_activation, a_i),
                df * activation_grad(recurrent_activation, a_f),
                dg * activation_grad(activation, a_c),
                do * activation_grad(recurrent_activation, a_o),
            ],
            axis=1,
        )
        da[:, t] = np.where(m, da_t, 0)

        dh = np.where(m, product_backward(da_t, U, h_factors), dh)  # a = xW + h U + b
        dc = np.where(m, dc_new * f, dc)
        d_last = np.where(m, 0, d_last)

    h_used = np.where(mask[:, :, None], ws_h, 0)
    return Gradients(
        x=in_order(product_backward(da, W, x_factors), options.go_backwards),
        kernel=product_weight_gradient(da, x, x_factors),
        recurrent_kernel=product_weight_gradient(da, h_used, h_factors),
        bias=rows(da).sum(axis=0) if has_bias else None,
        initial_state=initial_state_gradients((dh, dc), state_shapes),
    )
