"""Data and parameters that the benchmarks share."""

import numpy as np

import fastmask as fm

SIZES = [(1, 1, 32, 64), (64, 400, 16, 32), (32, 200, 64, 128), (256, 100, 64, 256)]  # (B, T, F, H)
FILLS = [0.1, 0.5, 1.0]  # share of valid steps
ENDS = [0.1, 1.0]  # where three would be more than asv gets through
DTYPES = ["float32", "float64"]
THREADS = [1, 2]
RECURRENT = (SIZES, DTYPES, FILLS, THREADS)
RECURRENT_NAMES = ("B,T,F,H", "dtype", "fill", "threads")
MEMORY = (SIZES, FILLS)  # each value is a process of its own: few of them
MEMORY_NAMES = ("B,T,F,H", "fill")
GATES = {"simple_rnn": 1, "gru": 3, "lstm": 4}


def normal(*shape, dtype="float32", scale=1.0, seed=0):
    """Normal numbers of standard deviation `scale`."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def lengths(B, T, fill=0.5, seed=0):
    """(B,) int64: uniform on 1..2*fill*T, so that about `fill` of the steps are valid; at fill 1 every row is full."""
    if fill >= 1:
        return np.full(B, T)
    return np.random.default_rng(seed).integers(1, max(1, round(2 * fill * T)), size=B, endpoint=True)


def mask(B, T, fill=0.5, seed=0):
    """(B, T) bool, right-padded."""
    return np.arange(T) < lengths(B, T, fill, seed)[:, None]


def ragged(B, T, *features, fill=0.5, dtype="float32"):
    """Ragged of B rows with 1 to 2*fill*T steps each."""
    offsets = np.concatenate([[0], np.cumsum(lengths(B, T, fill))])
    return fm.Ragged(normal(offsets[-1], *features, dtype=dtype), offsets)


class RecurrentData:
    """Input, mask, weights (kernel, recurrent_kernel, bias) and output gradients of one recurrent layer."""

    def __init__(self, stem, size, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, F, H = size
        G = GATES[stem]
        self.x, self.mask = normal(B, T, F, dtype=dtype), mask(B, T, fill)
        bias = (2, G * H) if stem == "gru" else (G * H,)
        self.weights = (
            normal(F, G * H, dtype=dtype, scale=F**-0.5),
            normal(H, G * H, dtype=dtype, scale=H**-0.5),
            normal(*bias, dtype=dtype, scale=0.1),
        )
        self.d_outputs = normal(B, T, H, dtype=dtype) * self.mask[..., None]
