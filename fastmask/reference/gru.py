"""The GRU cell (Cho et al. 2014), in both of its forms, with masks as Keras 3 has them.

    reset_after=True (Keras 3, PyTorch):                   reset_after=False (the paper):
    z = ract(x_t W_z + b_z + h U_z + c_z)                  z = ract(x_t W_z + h U_z + b_z)
    r = ract(x_t W_r + b_r + h U_r + c_r)                  r = ract(x_t W_r + h U_r + b_r)
    g = act(x_t W_h + b_h + r (h U_h + c_h))               g = act(x_t W_h + (r h) U_h + b_h)
    h_t = z h + (1 - z) g                                  h_t = z h + (1 - z) g

with h = h_{t-1} and three blocks of H columns: z, r, h. z keeps the old state. bias is (2,3H), rows b and c, in the
first form, (3H,) in the second.

A masked step changes nothing: the state is carried over and the output of the step before is repeated (zeros before the
first valid step, whatever the initial state), or is zero with zero_output_for_mask.

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


class GRUTape(NamedTuple):
    """What gru_backward reads; time in processing order."""

    x: np.ndarray  # (B,T,F), zero at masked steps
    mask: np.ndarray  # (B,T)
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    has_bias: bool
    activation: str | None
    recurrent_activation: str | None
    reset_after: bool
    h: np.ndarray  # (B,T,H), the state before each step
    a: np.ndarray  # (B,T,3H), pre-activations
    hU_h: np.ndarray  # (B,T,H), h U_h + c_h where reset_after, else zeros
    state_shapes: tuple
    factors: tuple  # of x (B,3,F) and h (B,3,H), or None
    options: Options


def gru(x, kernel, recurrent_kernel, bias=None, **options):
    """gru_forward without the tape."""
    return gru_forward(x, kernel, recurrent_kernel, bias, **options)[0]


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
    input_factors=None,
    recurrent_factors=None,
):
    """GRU over T steps: the module's equations, and the tape for gru_backward.

    Parameters
    ----------
    x : (B,T,F) float32 or float64
    kernel, recurrent_kernel : (F,3H), (H,3H), of x's dtype; columns z, r, h
    bias : (2,3H) with reset_after, (3H,) without, or None
    mask : (B,T), True = use the step; (1,T) and (B,T,1) too, any number, non-zero is True; None uses all
    initial_state : h (B,H) or (1,H), or a tuple of it; None is zeros
    activation, recurrent_activation : names of fastmask.reference.activation.ELEMENTWISE
    reset_after : which of the two forms
    go_backwards : process time from its end; outputs stand in processing order
    zero_output_for_mask : masked steps of a sequence are zero instead of held
    return_sequences : all outputs (B,T,H), else the last valid one (B,H), zeros in a row without any
    restore_order : with go_backwards, outputs stand where their inputs stand
    input_factors : (B,F), or (B,3,F) one for each gate: what dropout multiplies x by, at every step of a row
    recurrent_factors : (B,3,H): what recurrent dropout multiplies h by where it meets the recurrent kernel
        (without reset_after, the candidate sees (r h) times its factors); the h of z h is whole

    Returns
    -------
    Result(outputs, states), tape : states is (h,), the state after the last valid step

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Examples
    --------
    >>> x, W, U, b = np.full((1, 2, 2), 1.0), np.ones((2, 3)), np.zeros((1, 3)), np.ones(3)
    >>> linear = dict(activation=None, recurrent_activation=None, reset_after=False)
    >>> gru(x, W, U, b, mask=[[True, False]], **linear).outputs[..., 0]
    array([[-6., -6.]])
    """
    options = Options(go_backwards, zero_output_for_mask, return_sequences, restore_order)
    x, mask, (h,), state_shapes, factors = prepare(
        x,
        kernel,
        recurrent_kernel,
        bias,
        lambda H: (2, 3 * H) if reset_after else (3 * H,),
        3,
        mask,
        initial_state,
        1,
        (input_factors, recurrent_factors),
        options,
    )
    x_factors, zr_factors, h_factors = factors[0], *split_gates(factors[1])
    W, U = np.asarray(kernel), np.asarray(recurrent_kernel)
    act, ract = function(activation), function(recurrent_activation)
    B, T, _ = x.shape
    H = U.shape[0]
    if bias is None:
        b = c = np.zeros(3 * H, x.dtype)
    elif reset_after:
        b, c = np.asarray(bias)
    else:
        b, c = np.asarray(bias), np.zeros(3 * H, x.dtype)
    U_zr, U_h = U[:, : 2 * H], U[:, 2 * H :]
    c_zr, c_h = c[: 2 * H], c[2 * H :]

    xW = product(x, W, x_factors) + b  # all steps at once
    ws_h, ws_hU_h, outputs = (np.zeros((B, T, H), x.dtype) for _ in range(3))
    ws_a = np.zeros((B, T, 3 * H), x.dtype)
    out = np.zeros((B, H), x.dtype)

    for t in range(T):
        m = mask[:, t, None]

        a_zr = xW[:, t, : 2 * H] + (product(h, U_zr, zr_factors) + c_zr)
        a_z, a_r = np.split(a_zr, 2, axis=1)
        z, r = ract(a_z), ract(a_r)
        if reset_after:
            hU_h = product(h, U_h, h_factors) + c_h
            a_h = xW[:, t, 2 * H :] + r * hU_h
            ws_hU_h[:, t] = hU_h
        else:
            a_h = xW[:, t, 2 * H :] + product(r * h, U_h, h_factors)
        g = act(a_h)
        h_new = z * h + (1 - z) * g

        ws_h[:, t], ws_a[:, t] = h, np.concatenate([a_z, a_r, a_h], axis=1)
        h = np.where(m, h_new, h)
        out = np.where(m, h_new, out)
        outputs[:, t] = np.where(m, out, 0) if zero_output_for_mask else out

    tape = GRUTape(
        x,
        mask,
        W,
        U,
        bias is not None,
        activation,
        recurrent_activation,
        reset_after,
        ws_h,
        ws_a,
        ws_hU_h,
        state_shapes,
        factors,
        options,
    )
    return Result(lay_out(outputs, out, options), (h,)), tape


def gru_backward(tape, d_outputs, d_states=None):
    """Backward of gru_forward.

    Parameters
    ----------
    tape : from gru_forward
    d_outputs : as outputs, or None
    d_states : (dh,), (B,H) or None; or None

    Returns
    -------
    Gradients : x is zero at masked steps

    Notes
    -----
    In the forward pass a masked step repeated the last valid output, so now its gradient goes to that step; before the
    first valid step outputs were the constant 0, so what arrives there is dropped.
    """
    (
        x,
        mask,
        W,
        U,
        has_bias,
        activation,
        recurrent_activation,
        reset_after,
        ws_h,
        ws_a,
        ws_hU_h,
        state_shapes,
        factors,
        options,
    ) = tape
    x_factors, zr_factors, h_factors = factors[0], *split_gates(factors[1])
    act, ract = function(activation), function(recurrent_activation)
    B, T, H = ws_h.shape
    U_zr, U_h = U[:, : 2 * H], U[:, 2 * H :]
    d_sequence, d_last, (dh,) = start_backward(d_outputs, d_states, mask, H, x.dtype, 1, options)
    da = np.zeros((B, T, 3 * H), x.dtype)  # of the pre-activations, that is of xW
    d_hU_h, ws_rh = np.zeros((B, T, H), x.dtype), np.zeros((B, T, H), x.dtype)

    for t in reversed(range(T)):
        m = mask[:, t, None]
        d_last = d_last + d_sequence[:, t]

        a_z, a_r, a_h = np.split(ws_a[:, t], 3, axis=1)  # the forward step again
        z, r, g, h = ract(a_z), ract(a_r), act(a_h), ws_h[:, t]

        # h_new went into the state and, held until the next valid step, into the outputs
        dh_new = dh + d_last
        dz, dg = dh_new * (h - g), dh_new * (1 - z)  # h_new = z h + (1 - z) g
        da_h = dg * activation_grad(activation, a_h)  # g = act(a_h)
        if reset_after:
            dr = da_h * ws_hU_h[:, t]  # a_h = xW_h + r (h U_h + c_h)
            d_hU_h[:, t] = np.where(m, da_h * r, 0)
            dh_candidate = product_backward(da_h * r, U_h, h_factors)
        else:
            d_rh = product_backward(da_h, U_h, h_factors)  # a_h = xW_h + (r h) U_h
            dr = d_rh * h
            dh_candidate = d_rh * r
            ws_rh[:, t] = np.where(m, r * h, 0)
        da_z = dz * activation_grad(recurrent_activation, a_z)
        da_r = dr * activation_grad(recurrent_activation, a_r)
        da_zr = np.concatenate([da_z, da_r], axis=1)
        da[:, t] = np.where(m, np.concatenate([da_zr, da_h], axis=1), 0)

        dh = np.where(m, dh_new * z + product_backward(da_zr, U_zr, zr_factors) + dh_candidate, dh)
        d_last = np.where(m, 0, d_last)

    h_used = np.where(mask[:, :, None], ws_h, 0)
    da_zr, da_h = da[:, :, : 2 * H], da[:, :, 2 * H :]
    dU_zr = product_weight_gradient(da_zr, h_used, zr_factors)
    if reset_after:
        dU_h = product_weight_gradient(d_hU_h, h_used, h_factors)
        db = np.stack([rows(da).sum(axis=0), np.append(rows(da_zr).sum(axis=0), rows(d_hU_h).sum(axis=0))])
    else:
        dU_h = product_weight_gradient(da_h, ws_rh, h_factors)
        db = rows(da).sum(axis=0)
    return Gradients(
        x=in_order(product_backward(da, W, x_factors), options.go_backwards),
        kernel=product_weight_gradient(da, x, x_factors),
        recurrent_kernel=np.concatenate([dU_zr, dU_h], axis=1),
        bias=db if has_bias else None,
        initial_state=initial_state_gradients((dh,), state_shapes),
    )


def split_gates(factors):
    """Factors of h (B,3,H) as those that z and r see, and those of the candidate; None for None."""
    return (None, None) if factors is None else (factors[:, :2], factors[:, 2:])
