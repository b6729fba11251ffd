"""The recurrent cells, random problems for them, and the launch paths: shared by every test of the compiled ops."""

import importlib
import itertools
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from fastmask.kernels import _jit
from fastmask.ragged import Ragged
from helpers import assert_close, mask_cases

DTYPES = [np.float32, np.float64]
SWITCHES = ("go_backwards", "zero_output_for_mask", "return_sequences", "restore_order")
EVERY_SWITCH = [dict(zip(SWITCHES, values, strict=True)) for values in itertools.product([False, True], repeat=4)]
MASKS = (None, *mask_cases(1, 1))  # names; None is a call without a mask


def mask_named(name, B, T):
    return None if name is None else mask_cases(B, T)[name]


# ---- cells ----------------------------------------------------------------------------------------------------------
class Cell(NamedTuple):
    """One recurrent op: its four functions, its reference, its shapes."""

    stem: str
    infer: Callable
    forward: Callable
    backward: Callable
    pack: Callable
    reference_forward: Callable
    reference_backward: Callable
    gates: int  # G
    states: int
    bias_shape: Callable  # of H
    variant: dict  # options that make the variant, of forward and of pack

    @property
    def activations(self):
        """Names of the arguments that take an activation."""
        return ("activation",) if self.stem == "simple_rnn" else ("activation", "recurrent_activation")


def _cell(stem, gates, states, bias_shape, **variant):
    op = importlib.import_module(f"fastmask.ops.{stem}")
    reference = importlib.import_module(f"fastmask.reference.{stem}")
    functions = [getattr(op, stem + suffix) for suffix in ("", "_forward", "_backward", "_pack")]
    references = [getattr(reference, stem + suffix) for suffix in ("_forward", "_backward")]
    return Cell(stem, *functions, *references, gates, states, bias_shape, variant)


CELLS = {
    "simple_rnn": _cell("simple_rnn", 1, 1, lambda H: (H,)),
    "lstm": _cell("lstm", 4, 2, lambda H: (4 * H,)),
    "gru": _cell("gru", 3, 1, lambda H: (2, 3 * H), reset_after=True),
    "gru_before": _cell("gru", 3, 1, lambda H: (3 * H,), reset_after=False),
}

# (B,T,F,H): off the lane grid, ones, more rows than a worker has in flight, more steps than a gradient takes at a time
SIZES = [
    (1, 1, 1, 1),
    (3, 4, 1, 5),
    (2, 3, 2, 15),
    (7, 5, 3, 17),
    (4, 6, 5, 33),
    (3, 5, 4, 70),
    (2, 4, 3, 130),
    (5, 3, 40, 64),
    (65, 9, 3, 18),
    (9, 70, 2, 3),
    (1, 8, 2, 4),
    (4, 1, 2, 4),
]
EMPTY_SIZES = [(0, 4, 2, 3), (2, 0, 2, 3), (0, 0, 1, 1)]


class Problem:
    """Random inputs, weights, states and gradients of outputs and states, for one cell.

    Weights have the variance that keeps a layer's outputs in the range of its inputs, 1 / rows, times scale^2.
    """

    def __init__(self, cell, B=5, T=7, F=3, H=17, dtype=np.float64, seed=0, scale=1.0):
        self.cell, self.dtype, self.B, self.T, self.F, self.H = CELLS[cell], np.dtype(dtype), B, T, F, H
        rng = np.random.default_rng([seed, B, T, F, H])
        G, n = self.cell.gates, self.cell.states

        def normal(*shape, scale=1.0):
            return (scale * rng.standard_normal(shape)).astype(dtype)

        self.x = normal(B, T, F)
        self.kernel = normal(F, G * H, scale=scale / np.sqrt(F))
        self.recurrent_kernel = normal(H, G * H, scale=scale / np.sqrt(H))
        self.bias = normal(*self.cell.bias_shape(H), scale=0.5 * scale)
        self.states = tuple(normal(B, H) for _ in range(n))
        self.d_sequence, self.d_last = normal(B, T, H), normal(B, H)
        self.d_states = tuple(normal(B, H) for _ in range(n))

    @property
    def weights(self):
        return self.kernel, self.recurrent_kernel, self.bias

    def d_outputs(self, options):
        return self.d_sequence if options.get("return_sequences", True) else self.d_last

    def infer(self, x=None, use_bias=True, **options):
        """Result of the inference op."""
        x = self.x if x is None else x
        bias = self.bias if use_bias else None
        return self.cell.infer(x, self.kernel, self.recurrent_kernel, bias, **self.cell.variant, **options)

    def forward(self, x=None, use_bias=True, **options):
        """(Result, tape) of the training op."""
        x = self.x if x is None else x
        bias = self.bias if use_bias else None
        return self.cell.forward(x, self.kernel, self.recurrent_kernel, bias, **self.cell.variant, **options)

    def train(self, x=None, use_bias=True, d_outputs=None, d_states=None, need_x=True, **options):
        """Every array that forward and backward make, by name."""
        result, tape = self.forward(x, use_bias, **options)
        if d_outputs is None:
            d_outputs = self.d_outputs(options)
            if type(result.outputs) is Ragged:
                d_outputs = result.outputs.with_values(d_outputs)
        d_states = self.d_states if d_states is None else d_states
        return named(result, self.cell.backward(tape, d_outputs, d_states, need_x=need_x))

    def reference(self, x=None, use_bias=True, d_outputs=None, d_states=None, **options):
        """The same from the float64 reference, on float64 copies of the same numbers."""
        x = self.x if x is None else x
        weights = [None if a is None else a.astype(np.float64) for a in self.weights]
        if not use_bias:
            weights[2] = None
        if options.get("initial_state") is not None:
            options["initial_state"] = _as_float64(options["initial_state"])
        d_outputs = self.d_outputs(options) if d_outputs is None else d_outputs
        d_states = self.d_states if d_states is None else d_states
        result, tape = self.cell.reference_forward(x.astype(np.float64), *weights, **self.cell.variant, **options)
        return named(result, self.cell.reference_backward(tape, d_outputs.astype(np.float64), _as_float64(d_states)))


def _as_float64(states):
    if isinstance(states, np.ndarray):
        return states.astype(np.float64)
    return tuple(None if s is None else s.astype(np.float64) for s in states)


def named(result, gradients):
    """Name -> array (or None) of a Result and its Gradients; Ragged ones as their values."""
    found = {"outputs": result.outputs}
    found.update({f"state {i}": s for i, s in enumerate(result.states)})
    found.update({f"gradient of {name}": getattr(gradients, name) for name in gradients._fields[:4]})
    found.update({f"gradient of state {i}": s for i, s in enumerate(gradients.initial_state)})
    return {name: a.values if type(a) is Ragged else a for name, a in found.items()}


def assert_all_close(actual, desired, dtype, k):
    """Two dicts of `named`: within k eps of each array's largest value, of the computation's dtype, None where None is.

    The largest value, not each one: gates and sums over steps cancel, and what is left carries the roundings of what
    was there. Gradients are sums of many terms and may be off by 8 times as much.
    """
    assert actual.keys() == desired.keys()
    for name, a in actual.items():
        d = desired[name]
        if d is None or a is None:
            assert a is None and d is None, f"{name}: {a} where {d} is expected"
            continue
        assert a.dtype == dtype, f"{name}: dtype {a.dtype}, expected {dtype}"
        allowed = 8 * k if name.startswith("gradient") else k
        largest = np.abs(d).max(initial=1.0, where=np.isfinite(d))
        try:
            assert_close(a, d, dtype, k=0, atol=allowed * float(np.finfo(dtype).eps) * largest)
        except AssertionError as error:
            raise AssertionError(f"{name}, {allowed} eps of {largest:.3g} allowed: {error}") from None


def assert_same_bits(actual, desired, message=""):
    """Equal dtype, shape and bits, of arrays, Ragged, None, or tuples or dicts of such; -0.0 is not 0.0, NaN is NaN."""
    if isinstance(desired, dict):
        assert actual.keys() == desired.keys(), message
        for name in desired:
            assert_same_bits(actual[name], desired[name], f"{message} {name}")
    elif isinstance(desired, (tuple, list)):
        assert len(actual) == len(desired), message
        for i, (a, d) in enumerate(zip(actual, desired, strict=True)):
            assert_same_bits(a, d, f"{message} [{i}]")
    elif type(desired) is Ragged:
        assert_same_bits((actual.values, actual.offsets), (desired.values, desired.offsets), message)
    elif desired is None:
        assert actual is None, message
    else:
        assert actual.dtype == desired.dtype and actual.shape == desired.shape, message
        if actual.tobytes() != desired.tobytes():
            np.testing.assert_array_equal(actual, desired, err_msg=message)
            raise AssertionError(f"{message}: equal numbers, other bits (-0.0 and 0.0, or another NaN)")


def awkward(a):
    """The same numbers in an array that is strided and read-only."""
    out = np.repeat(a, 2, axis=-1)[..., ::2]
    out.flags.writeable = False
    return out


# ---- launch paths ---------------------------------------------------------------------------------------------------
PATHS = ("serial", "prange", "pool")
THREADS = (1, 2, 3, 7)


def prange_is_usable():
    """False on numba's workqueue layer, where the library never enters prange."""
    return bool(_jit._prange())


def launches():
    """(path, threads) of every way to launch a kernel; threads also decide how the rows are dealt out."""
    return [(path, n) for path in PATHS if path != "prange" or prange_is_usable() for n in THREADS]


@contextmanager
def launched(path, threads):
    """Inside, every kernel is launched this way, however little work it has."""
    before = _jit._forced, _jit._threads
    _jit._forced, _jit._threads = path, threads
    try:
        yield
    finally:
        _jit._forced, _jit._threads = before
