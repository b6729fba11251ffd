"""What the three recurrent references share: results, the checks at the door, the order of time."""

from typing import NamedTuple

import numpy as np

from fastmask.reference.mask import as_mask


class Result(NamedTuple):
    """outputs (B,T,H), or (B,H) without return_sequences; states (h,) or (h, c), each (B,H)."""

    outputs: np.ndarray
    states: tuple


class Gradients(NamedTuple):
    """x (B,T,F); kernel, recurrent_kernel, bias as the weights (bias None without one); initial_state a tuple,
    None where no initial state was given."""

    x: np.ndarray
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    initial_state: tuple


class Options(NamedTuple):
    """The switches that decide how outputs are laid out."""

    go_backwards: bool
    zero_output_for_mask: bool
    return_sequences: bool
    restore_order: bool


class Problem(NamedTuple):
    """Checked arguments, time already in processing order."""

    x: np.ndarray  # (B,T,F), zero at masked steps
    mask: np.ndarray  # (B,T) bool
    states: tuple  # initial states, each (B,H)
    state_shapes: tuple  # as given, None where not given
    factors: tuple  # of x (B,G,F) and of h (B,G,H), None where not given


def prepare(x, kernel, recurrent_kernel, bias, bias_shape, gates, mask, initial_state, states, factors, options):
    """Check everything, then put x and mask into processing order.

    bias_shape : function of H.  gates : G.  states : number of states a cell has.  factors : of x and of h.
    Whatever stands in x at masked steps (NaN, inf, garbage) is replaced by zero here and never seen again.
    """
    x = np.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"x: expected shape (B,T,F), received {x.shape}")
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"x: expected dtype float32 or float64, received {x.dtype}")
    B, T, F = x.shape
    H = np.shape(recurrent_kernel)[0] if np.ndim(recurrent_kernel) else 0
    check("recurrent_kernel", recurrent_kernel, (H, gates * H), x.dtype)
    check("kernel", kernel, (F, gates * H), x.dtype)
    if bias is not None:
        check("bias", bias, bias_shape(H), x.dtype)
    mask = as_mask(mask, B, T)

    given = as_states("initial_state", initial_state, states)
    for state in given:
        if state is not None and np.shape(state) not in ((B, H), (1, H)):
            raise ValueError(f"initial_state: expected shape (B,H) = ({B},{H}), received {np.shape(state)}")
    full = tuple(np.zeros((B, H), x.dtype) if s is None else np.broadcast_to(s, (B, H)).astype(x.dtype) for s in given)

    x = np.where(mask[:, :, None], x, 0)
    x, mask = in_order(x, options.go_backwards), in_order(mask, options.go_backwards)
    return Problem(
        x,
        mask,
        full,
        tuple(None if s is None else np.shape(s) for s in given),
        (
            as_factors("input_factors", factors[0], (B, gates, F), x.dtype),
            as_factors("recurrent_factors", factors[1], (B, gates, H), x.dtype),
        ),
    )


def check(name, array, shape, dtype):
    """ValueError for another shape, TypeError for another dtype."""
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, received {array.shape}")
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as x, received {array.dtype}")


def as_states(name, states, n):
    """A tuple of n states or Nones, from None, such a tuple or, where n is 1, the bare array."""
    if states is None:
        return (None,) * n
    if n == 1 and isinstance(states, np.ndarray):
        return (states,)
    if not isinstance(states, (tuple, list)) or len(states) != n:
        received = f"{len(states)}" if isinstance(states, (tuple, list)) else type(states).__name__
        raise ValueError(f"{name}: expected {n} array(s) in a tuple or list, received {received}")
    return tuple(states)


def as_factors(name, factors, shape, dtype):
    """Dropout factors (B,G,K), or None; (B,K) is one for all gates."""
    if factors is None:
        return None
    factors = np.asarray(factors)
    if factors.ndim == 2:
        factors = np.repeat(factors[:, None], shape[1], axis=1)
    check(name, factors, shape, dtype)
    return factors


# ---- products, in which dropout shows every gate inputs of its own ---------------------------------------------------
# Factors (B,G,K) belong to a (B,K) or (B,T,K), the same at all steps; None stands for ones. Weights (K,G*H).


def product(a, weights, factors):
    """a · weights, the block of gate g seeing a times factors[:, g]."""
    if factors is None:
        return a @ weights
    blocks = np.split(weights, factors.shape[1], axis=1)
    return np.concatenate([drop(a, factors, g) @ block for g, block in enumerate(blocks)], axis=-1)


def product_backward(d, weights, factors):
    """Gradient of a, from that of product(a, weights, factors)."""
    if factors is None:
        return d @ weights.T
    G = factors.shape[1]
    parts = zip(np.split(d, G, axis=-1), np.split(weights, G, axis=1), strict=True)
    return sum(drop(d_gate @ block.T, factors, g) for g, (d_gate, block) in enumerate(parts))


def product_weight_gradient(d, a, factors):
    """Gradient of the weights, summed over all steps."""
    if factors is None:
        return rows(a).T @ rows(d)
    parts = np.split(d, factors.shape[1], axis=-1)
    blocks = [rows(drop(a, factors, g)).T @ rows(d_gate) for g, d_gate in enumerate(parts)]
    return np.concatenate(blocks, axis=1)


def drop(a, factors, g):
    """a (B,K) or (B,T,K) as gate g sees it."""
    return a * (factors[:, g] if a.ndim == 2 else factors[:, g, None])


def in_order(sequence, reverse):
    """The sequence (B,T,...) along time, reversed or not. It is its own inverse."""
    return sequence[:, ::-1] if reverse else sequence


def lay_out(sequence, last, options):
    """The outputs as the caller wants them, from those in processing order (B,T,H) and the last valid one (B,H)."""
    if not options.return_sequences:
        return last
    return in_order(sequence, options.go_backwards and options.restore_order)


def start_backward(d_outputs, d_states, mask, H, dtype, n_states, options):
    """What backward starts from, in processing order.

    Returns d_sequence (B,T,H), the gradient that arrives at each step's output; d_last (B,H), the gradient that
    waits for the last valid step; d_states, each (B,H). All may be written to.
    """
    B, T = mask.shape
    d_sequence = np.zeros((B, T, H), dtype)
    d_last = np.zeros((B, H), dtype)
    expected = (B, T, H) if options.return_sequences else (B, H)
    if d_outputs is not None:
        if np.shape(d_outputs) != expected:
            raise ValueError(f"d_outputs: expected shape {expected}, received {np.shape(d_outputs)}")
        if options.return_sequences:
            d_sequence += in_order(np.asarray(d_outputs), options.go_backwards and options.restore_order)
            if options.zero_output_for_mask:  # a masked step's output was the constant 0
                d_sequence[~mask] = 0
        else:
            d_last += d_outputs

    full = []
    for d in as_states("d_states", d_states, n_states):
        if d is not None and np.shape(d) != (B, H):
            raise ValueError(f"d_states: expected shape (B,H) = ({B},{H}), received {np.shape(d)}")
        full.append(np.zeros((B, H), dtype) if d is None else np.array(d, dtype))
    return d_sequence, d_last, full


def initial_state_gradients(d_states, shapes):
    """Gradients of the initial states as they were given: summed where (1,H) was broadcast, None where none was."""
    return tuple(
        None if shape is None else d.sum(axis=0, keepdims=True) if shape != d.shape else d
        for d, shape in zip(d_states, shapes, strict=True)
    )


def rows(a):
    """(B,T,K) as (B*T,K): every step a row, for the sums over all steps."""
    return a.reshape(a.shape[0] * a.shape[1], a.shape[2])
