"""Dropout inside a recurrent layer: what multiplies x and h where they meet the weights.

The factors belong to a row, or to a row and gate, and are the same at all its steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmask.ops._common import aligned, as_floats
from fastmask.ops._packing import lanes


class Factors(NamedTuple):
    """The factors of one call."""

    row: np.ndarray | None = None  # (B,F) of x, for all gates alike: no business of the kernels
    x: np.ndarray | None = None  # (B,G,F) and (B,G,H) in whole vectors, as kernels take them; both or none
    h: np.ndarray | None = None
    x_by_gate: bool = False  # whether x and h differ from gate to gate; else those are ones
    h_by_gate: bool = False

    @property
    def by_gate(self):
        return self.x_by_gate or self.h_by_gate


NO_FACTORS = Factors()


def check_factors(input_factors, recurrent_factors, B, G, F, H, dtype):
    """Factors of what the user gave."""
    if input_factors is None and recurrent_factors is None:
        return NO_FACTORS
    x = _checked("input_factors", input_factors, B, G, F, dtype)
    h = _checked("recurrent_factors", recurrent_factors, B, G, H, dtype)
    row, x = (x, None) if x is not None and x.ndim == 2 else (None, x)
    if x is None and h is None:
        return Factors(row)
    x_rows, h_rows = _in_vectors(x, B, G, F, dtype), _in_vectors(h, B, G, H, dtype)
    return Factors(row, x_rows, h_rows, x is not None, h is not None)


def _checked(name, factors, B, G, K, dtype):
    if factors is None:
        return None
    factors = as_floats(name, factors, dtype)
    if factors.shape not in ((B, K), (B, G, K)):
        raise ValueError(f"{name}: expected shape {(B, G, K)} or {(B, K)}, received {factors.shape}")
    return factors


def _in_vectors(factors, B, G, K, dtype):
    """(B,G,K) in whole vectors; None stands for ones, (B,K) for the same at all gates."""
    L = lanes(dtype)
    out = aligned((B, G, -(-K // L) * L), dtype)
    out[..., K:] = 0
    out[..., :K] = 1 if factors is None else factors if factors.ndim == 3 else factors[:, None]
    return out


def times_rows(values, factors, offsets):
    """values (B,T,K), or (N,K) of ragged rows, times factors (B,K) or None; what stands under a mask may be garbage."""
    if factors is None:
        return values
    factors = factors[:, None] if offsets is None else np.repeat(factors, np.diff(offsets), axis=0)
    with np.errstate(all="ignore"):
        return values * factors
