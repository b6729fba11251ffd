"""What the ops share: results, checks, aligned memory, and the valid steps of a batch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from fastmask.checks import empty
from fastmask.kernels import _jit
from fastmask.kernels.activation_names import CODES
from fastmask.ops.mask import check_mask
from fastmask.ragged import Ragged

ROWWISE = {"softmax": 0, "log_softmax": 1}  # over the last axis; the number is the kernels' `log`
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Result(NamedTuple):
    """outputs (B,T,H), (B,H) without return_sequences, or Ragged for Ragged; states (h,) or (h, c), each (B,H)."""

    outputs: np.ndarray | Ragged
    states: tuple


class Gradients(NamedTuple):
    """x as x (None if not asked for), kernel, recurrent_kernel and bias as the weights (bias None without one),
    initial_state a tuple with None where none was given.
    """

    x: np.ndarray | Ragged | None
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    initial_state: tuple


# ----------------------------------------------------------------------------------------------------------------------
# Checks


def as_floats(name, a, dtype=None):
    """a as a C-contiguous float32/float64 array (no copy if it is one), or TypeError."""
    if type(a) is not np.ndarray:
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError(
                f"{name}: expected an ndarray, received numpy.ma, whose mask means the opposite: pass mask="
            )
        if isinstance(a, Ragged):
            raise TypeError(f"{name}: expected an ndarray, received a Ragged")
        try:
            a = np.asarray(a)
        except ValueError as error:  # rows of different lengths
            raise ValueError(f"{name}: expected an array, received what is none: {error}") from None
    if a.dtype not in FLOATS:
        raise TypeError(f"{name}: expected dtype float32 or float64, received {a.dtype}")
    if dtype is not None and a.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as x, received {a.dtype}")
    return a if a.flags.c_contiguous else np.ascontiguousarray(a)


def check_made_by(maker, name, value, cls):
    """TypeError unless `value`, a tape or a pack, is what `maker` makes."""
    if not isinstance(value, cls):
        what = "tape" if name == "tape" else "result"
        raise TypeError(f"{name}: expected the {what} of {maker}, received {type(value).__name__}")


def check_shape(name, a, shape, letters=""):
    if a.shape != shape:
        raise ValueError(f"{name}: expected shape {letters + ' = ' if letters else ''}{shape}, received {a.shape}")
    return a


def activation_code(name, argument="activation"):
    """Code of an element-wise activation, or ValueError."""
    try:
        return CODES[name]
    except (KeyError, TypeError):
        raise _unknown(name, argument) from None


def check_activation(name, argument="activation"):
    """The name, if it is that of an activation, softmax and log_softmax included; else ValueError."""
    if isinstance(name, str) and name in ROWWISE:
        return name
    activation_code(name, argument)
    return name


def _unknown(name, argument):
    expected = ", ".join(str(n) for n in CODES)
    also = (
        " (softmax and log_softmax only outside recurrent layers)" if isinstance(name, str) and name in ROWWISE else ""
    )
    return ValueError(f"{argument}: expected one of {expected}{also}, received {name!r}")


# ----------------------------------------------------------------------------------------------------------------------
# Memory


def aligned(shape, dtype):
    """An uninitialised array that starts at a multiple of 64 bytes: unaligned weights cost a third of the speed."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    raw = empty("workspace", (size + 64,), np.uint8)
    start = -_jit.address(raw) % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def aligned_zeros(shape, dtype):
    a = aligned(shape, dtype)
    a.fill(0)
    return a


class _Spares:
    """Large buffers of finished backward passes, kept for the next training step: fresh memory costs a page fault every
    4 KiB, a tenth of a training step.
    """

    SMALLEST = 1 << 18  # bytes
    MOST = 1 << 28  # bytes kept in all

    def __init__(self):
        self._free, self._lock = [], threading.Lock()

    def take(self, size):
        if self._lock.acquire(blocking=False):  # never wait: a forked child may inherit the lock of a thread it has not
            try:
                fitting = [b for b in self._free if size <= b.size <= 2 * size]
                if fitting:
                    best = min(fitting, key=len)
                    self._free = [b for b in self._free if b is not best]
                    return best
            finally:
                self._lock.release()
        return aligned((size + size // 8,), np.uint8)

    def give(self, buffer):
        if self._lock.acquire(blocking=False):
            try:
                self._free.append(buffer)
                while sum(b.size for b in self._free) > self.MOST:
                    self._free.pop(0)
            finally:
                self._lock.release()


_spares = _Spares()


class Workspace:
    """Uninitialised aligned arrays; `release` gives the large ones back for reuse (nobody may use them afterwards)."""

    def __init__(self):
        self._large = []

    def array(self, shape, dtype):
        size = np.dtype(dtype).itemsize
        for n in shape:
            size *= n
        if size < _Spares.SMALLEST:
            return aligned(shape, dtype)
        buffer = _spares.take(size)
        self._large.append(buffer)
        return buffer[:size].view(dtype).reshape(shape)

    def release(self):
        for buffer in self._large:
            _spares.give(buffer)
        self._large = []


# ----------------------------------------------------------------------------------------------------------------------
# The valid steps of a batch


class Steps:
    """Which steps of a batch are valid, in the order in which a layer takes them (kernels/schedule.py:resolve)."""

    __slots__ = (
        "B", "N", "T", "_before", "_dst", "_resolve", "_room", "_src", "base", "complete", "dst", "first",
        "offsets", "order", "positions", "src",
    )  # fmt: skip

    def __init__(self, B, T, offsets, mask, reverse, restore):
        """T for a padded batch (B,T), else `offsets` of a ragged one; mask: contiguous bool array or None."""
        self.B, self.T, self.offsets, self._room = B, T, offsets, None
        self.base = offsets if offsets is not None else np.arange(B + 1, dtype=np.int64) * T
        self.positions = int(self.base[-1])
        n = self.positions
        self.first, self.order = np.empty(B + 1, np.int64), np.empty(B, np.int64)
        self._src, self._dst = np.empty(n, np.int64), np.empty(n, np.int64)
        longest = T if offsets is None else int(np.diff(offsets).max(initial=0))
        self._resolve = _jit.get("schedule", "resolve", "float32").job(
            1, n, **self.resolve_arguments(mask, reverse, restore, longest, np.empty(longest + 1, np.int64))
        )
        self._run()

    def _run(self):
        self._resolve.run()
        self._resolve.kept["mask"] = None
        self.N = int(self.first[-1])
        self.complete = self.positions == self.N  # every position is valid
        self.src, self.dst = (self._src, self._dst) if self.complete else (self._src[: self.N], self._dst[: self.N])
        self._before = None

    def again(self, mask):
        """Resolve another mask, in the same memory; not where others may hold these steps."""
        self._resolve.bind(mask=mask.view(np.uint8))
        self._run()

    def before_and_own(self, steps):
        """For each valid step the number of the step before it in its row, or `steps` + b for the first step of row b;
        and its own. steps: N, or the most that there is memory for.
        """
        if self._before is None:  # threads that share these steps may all do it
            room = self._room or (np.empty(steps, np.int64), np.empty(steps, np.int64))
            _jit.get("schedule", "before", "float32").run(
                1, self.N, rows=self.B, first=self.first, steps=steps, before=room[0], own=room[1]
            )
            self._before = self._room = room
        return self._before

    def resolve_arguments(self, mask, reverse, restore, longest, counts):
        return dict(
            mask=None if mask is None else mask.view(np.uint8), base=self.base, rows=self.B, reverse=reverse,
            restore=restore, first=self.first, src=self._src, dst=self._dst, order=self.order, longest=longest,
            lengths_count=counts,
        )  # fmt: skip


_complete_steps = OrderedDict()  # batches without a mask come again and again with the same shape or offsets


def steps_of(B, T, offsets, mask, reverse, restore):
    """Steps, shared between calls where there is no mask: those of layers one upon the other, for ragged rows."""
    if mask is not None or (B * T > 1 << 16 if offsets is None else offsets[-1] > 1 << 14):
        return Steps(B, T, offsets, mask, reverse, restore)
    key = B, T, None if offsets is None else offsets.tobytes(), reverse, restore
    found = _complete_steps.pop(key, None)  # pop and popitem are atomic: no lock that a fork could leave held
    if found is None:
        found = Steps(B, T, offsets, None, reverse, restore)
    _complete_steps[key] = found  # the latest
    if len(_complete_steps) > 16:
        _complete_steps.popitem(last=False)
    return found


def resolve_batch(x, mask, dtype=None, name="x", mask_name="mask"):
    """(values, B, T, offsets, mask) of a padded (B,T,F) or Ragged batch, checked; T None for Ragged; mask a contiguous
    bool array or None.
    """
    if mask is None and type(x) is not np.ndarray:
        mask = getattr(x, "mask", None)  # what a layer returned: never lose its mask
    if isinstance(x, Ragged):
        values = as_floats(name, x.values, dtype)
        if values.ndim != 2:
            raise ValueError(f"{name}: expected Ragged values of shape (N,F), received {values.shape}")
        if mask is not None:
            mask = check_mask(mask.values if isinstance(mask, Ragged) else mask, (values.shape[0],), mask_name)
        return values, len(x), None, x.offsets, mask
    x = as_floats(name, x, dtype)
    if x.ndim != 3:
        raise ValueError(f"{name}: expected shape (B,T,F), received {x.shape}")
    if mask is not None:
        mask = check_mask(mask, x.shape[:2], mask_name)
    return x, x.shape[0], x.shape[1], None, mask
