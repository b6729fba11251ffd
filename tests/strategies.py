"""What property tests draw: sizes, masks, options. Numbers come from a drawn seed, so that examples stay small."""

import numpy as np
from hypothesis import strategies as st

from cases import CELLS, DTYPES, SWITCHES, launches
from fastmask.kernels.activation_names import NAMES
from helpers import mask_cases

# smooth enough for differences of order 4, and growing no faster than their argument
SMOOTH = ("tanh", "sigmoid", "softsign", "softplus", "silu", "gelu", "mish", "log_sigmoid", "squareplus", "tanh_shrink")
BOUNDED = ("tanh", "sigmoid", "softsign", "hard_tanh", "hard_sigmoid", "hard_sigmoid_v2", "sparse_sigmoid")

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(DTYPES)
# around the lanes of every machine (4, 8, 16) and the panels of a register tile (64)
units = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 48, 63, 64, 65, 70, 130]))
few = st.integers(1, 6)


def masks(B, T):
    """A mask (B,T) or None: every pattern of helpers.mask_cases, and bits at random."""
    named = st.builds(lambda name, seed: mask_cases(B, T, seed)[name], st.sampled_from([*mask_cases(1, 1)]), seeds)
    shares = st.sampled_from([0.1, 0.5, 0.9])
    drawn = st.builds(lambda share, seed: np.random.default_rng(seed).random((B, T)) < share, shares, seeds)
    return st.one_of(st.none(), named, drawn)


def switches():
    return st.fixed_dictionaries({name: st.booleans() for name in SWITCHES})


def launch_paths():
    return st.sampled_from([launch for launch in launches() if launch[0] != "prange"])


@st.composite
def recurrent(draw, steps=10, smooth=False):
    """(name of the cell, (B,T,F,H), options of the op) with any activations; few steps where they are unbounded."""
    cell = draw(st.sampled_from([*CELLS]))
    names = st.sampled_from(SMOOTH if smooth else NAMES)
    chosen = {argument: draw(st.one_of(st.just(None), names)) for argument in CELLS[cell].activations}
    if draw(st.booleans()):
        chosen = {}  # the defaults
    bounded = all(name in BOUNDED for name in chosen.values())
    size = few if smooth else units
    B, T = draw(st.integers(0, 4 if smooth else 9)), draw(st.integers(0, steps if bounded else 3))
    options = {**draw(switches()), **chosen, "mask": draw(masks(B, T)), "use_bias": draw(st.booleans())}
    return cell, (B, T, draw(size), draw(size)), options
