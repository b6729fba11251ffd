"""Element-wise activations: value and derivative of every Keras name, for whole arrays and inside the recurrent
kernels.

Design: one Python function a name writes the vector code of value and derivative (Keras 3's formulas and default
parameters). tanh and sigmoid, the defaults of the recurrent layers, are inlined where they are used; all others are
reached through one out-of-line function with a switch over the code, so that no kernel is compiled again for another
activation.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .activation_names import CODES, LINEAR, NAMES, SIGMOID, TANH
from .simd import (
    I64,
    Emitter,
    V,
    VecType,
    fma,
    get_i64,
    get_real,
    get_u8,
    itemsize,
    lanes,
    load,
    load_part,
    put_real,
    splat,
    store,
    store_part,
    unpack,
    vexp,
    where,
)

BLOCK = 16384  # elements of one block of the array kernels


def _relu(e, x):
    return e.where(x <= 0.0, 0.0, x), e.where(x > 0.0, 1.0, 0.0)  # NaN stays NaN


_threshold = _relu  # Keras has no default for its two parameters; 0 and 0 here


def _relu6(e, x):
    return e.clip(x, 0.0, 6.0), e.where(e.b.and_(x > 0.0, x < 6.0), 1.0, 0.0)


def _leaky_relu(e, x):
    return e.where(x < 0.0, x * 0.2, x), e.where(x > 0.0, 1.0, 0.2)


def _elu(e, x):
    m = e.expm1(e.where(x > 0.0, 0.0, x))
    return e.where(x > 0.0, x, m), e.where(x > 0.0, 1.0, m + 1.0)


def _selu(e, x):
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    m = e.expm1(e.where(x > 0.0, 0.0, x)) * (scale * alpha)
    return e.where(x > 0.0, x * scale, m), e.where(x < 0.0, m + scale * alpha, scale)


_celu = _elu  # alpha = 1


def _softplus(e, x):
    return e.softplus(x), e.sigmoid(x)


def _softsign(e, x):
    d = e.abs(x) + 1.0
    return x / d, 1.0 / (d * d)


def _squareplus(e, x):
    """(x + sqrt(x^2 + 4)) / 2; for negative x its equal 2 / (sqrt(x^2 + 4) - x), where nothing cancels."""
    size = e.abs(x)
    root = e.where(size > 1e9, size, e.sqrt(e.fma(x, x, 4.0)))  # x^2 must not overflow
    total = size + root
    y = e.where(x > 0.0, total * 0.5, 2.0 / total)
    slope = e.where(x > 1e9, 1.0, y / root)
    return y, e.where(x < -1e9, 0.0, slope)


def _silu(e, x):
    s = e.sigmoid(x)
    return x * s, s * e.fma(x, 1.0 - s, 1.0)


def _hard_silu(e, x):
    s, ds = _hard_sigmoid(e, x)
    return x * s, e.fma(x, ds, s)


def _gelu(e, x):
    p = e.normal_cdf(x)
    density = e.exp_nonpositive(-0.5 * x * x) * 0.39894228040143267794
    return x * p, e.fma(x, density, p)


def _hard_tanh(e, x):
    return e.clip(x, -1.0, 1.0), e.where(e.b.and_(x >= -1.0, x <= 1.0), 1.0, 0.0)


def _hard_sigmoid(e, x):
    y = e.clip(x + 3.0, 0.0, 6.0)
    return y * (1.0 / 6.0), e.where(e.b.and_(x > -3.0, x < 3.0), 1.0 / 6.0, 0.0)


def _hard_sigmoid_v2(e, x):
    return e.clip(e.fma(x, 0.2, 0.5), 0.0, 1.0), e.where(e.b.and_(x > -2.5, x < 2.5), 0.2, 0.0)


def _log_sigmoid(e, x):
    return -e.softplus(-x), e.sigmoid(-x)


def _exponential(e, x):
    y = e.exp(x)
    return y, y


def _mish(e, x):
    t = e.tanh(e.softplus(x))
    return x * t, e.fma(x * (1.0 - t * t), e.sigmoid(x), t)


def _tanh(e, x):
    y = e.tanh(x)
    return y, 1.0 - y * y


def _sigmoid(e, x):
    y = e.sigmoid(x)
    return y, y * (1.0 - y)


def _tanh_shrink(e, x):
    t = e.tanh(x)
    return x - t, t * t


def _soft_shrink(e, x):
    y = e.where(x > 0.5, x - 0.5, e.where(x < -0.5, x + 0.5, x * 0.0))
    return y, e.where(e.abs(x) > 0.5, 1.0, 0.0)


def _hard_shrink(e, x):
    return e.where(e.abs(x) <= 0.5, 0.0, x), e.where(e.abs(x) > 0.5, 1.0, 0.0)


def _sparse_plus(e, x):
    h = x + 1.0
    return e.where(x <= -1.0, 0.0, e.where(x < 1.0, h * h * 0.25, x)), e.clip(h * 0.5, 0.0, 1.0)


def _sparse_sigmoid(e, x):
    return e.clip((x + 1.0) * 0.5, 0.0, 1.0), e.where(e.b.and_(x > -1.0, x < 1.0), 0.5, 0.0)


def _linear(e, x):
    return x, e.const(1.0)


_RULES = {name: globals()[f"_{name}"] for name in NAMES}


def _switch(e, x, code, which):
    """Value (which = 0) or derivative (1) by code: a switch over all names, in a function of its own."""

    def write(inner, args):
        b = inner.b
        x, code = V(inner, args[0]), args[1]
        end = b.append_basic_block("end")
        default = b.append_basic_block("default")
        switch = b.switch(code, default)
        incoming = []
        for name in NAMES:
            block = b.append_basic_block(name)
            switch.add_case(ir.Constant(I64, CODES[name]), block)
            b.position_at_end(block)
            incoming.append((_RULES[name](inner, x)[which].v, b.block))
            b.branch(end)
        b.position_at_end(default)
        b.branch(end)
        b.position_at_end(end)
        out = b.phi(inner.vec)
        for value, block in incoming:
            out.add_incoming(value, block)
        out.add_incoming(x.v, default)
        return out

    f = e.function(("activation", "activation_slope")[which], [e.vec, I64], e.vec, write)
    return V(e, e.b.call(f, [x.v, code]))


def emit_value(e, x, code):
    """Activation of a V inside a tile; code is an LLVM i64."""
    return _switch(e, x, code, 0)


def emit_slope(e, x, code):
    """Derivative at a V of pre-activations."""
    return _switch(e, x, code, 1)


def _vector_intrinsic(which):
    def function(typingctx, x, code):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, sig.args[0].real)
            return _switch(e, V(e, args[0]), args[1], which).v

        return (x(x, types.int64), codegen) if isinstance(x, VecType) else None

    function.__name__ = ("activate", "activation_slope")[which]
    return intrinsic(function)


activate = _vector_intrinsic(0)  # activate(x, code)
activation_slope = _vector_intrinsic(1)  # derivative at the pre-activation x


@kernel("x y size code")
def activation_forward(block, args, real):
    """y = activation(x) for an array of `size` elements. Parallel: blocks of BLOCK elements."""
    x, y, size, code = unpack(args, 4)
    L, bytes_ = lanes(real), itemsize(real)
    last = min(size, (block + 1) * BLOCK)
    i = block * BLOCK
    while i < last:
        count = min(L, last - i)
        if count == L:
            store(y + i * bytes_, activate(load(real, x + i * bytes_), code))
        else:
            store_part(y + i * bytes_, activate(load_part(real, x + i * bytes_, count), code), count)
        i += L


@kernel("x y dy dx size code")
def activation_backward(block, args, real):
    """dx = dy * activation'(x); for tanh and sigmoid from the output y, x may then be 0. Parallel: blocks of BLOCK
    elements.
    """
    x, y, dy, dx, size, code = unpack(args, 6)
    L, bytes_ = lanes(real), itemsize(real)
    last = min(size, (block + 1) * BLOCK)
    i = block * BLOCK
    while i < last:
        count = min(L, last - i)
        d = load_part(real, dy + i * bytes_, count)
        if code == TANH:
            v = load_part(real, y + i * bytes_, count)
            d = d * (1.0 - v * v)
        elif code == SIGMOID:
            v = load_part(real, y + i * bytes_, count)
            d = d * (v * (1.0 - v))
        elif code != LINEAR:
            d = d * activation_slope(load_part(real, x + i * bytes_, count), code)
        store_part(dx + i * bytes_, d, count)
        i += L


class _Row:
    """A row of `size` numbers, a vector a turn. A sum is made of 16 partial ones (float64: 8) whatever the number of
    lanes: its bits are the same on every machine.
    """

    def __init__(self, e, size):
        self.e, self.size = e, size
        self.turns = self._vectors(e.lanes)
        self.parts = 64 // (e.lanes * e.bytes)

    def _vectors(self, lanes):
        b = self.e.b
        return b.sdiv(b.add(self.size, ir.Constant(I64, lanes - 1)), ir.Constant(I64, lanes))

    def _at(self, k):
        """(elements before turn k, elements left)."""
        first = self.e.b.mul(k, ir.Constant(I64, self.e.lanes))
        return first, self.e.b.sub(self.size, first)

    def load(self, row, k):
        first, left = self._at(k)
        return self.e.load_part(self.e.at(row, first), left)

    def store(self, row, k, x):
        first, left = self._at(k)
        self.e.store_part(self.e.at(row, first), x, left)

    def _inside(self, k, x, other):
        return self.e.where(self.e.lane_mask(self._at(k)[1]), x, other)

    def largest(self, row):
        """Of all numbers, in every lane; a NaN wins over none, but what is computed from it is NaN again."""
        e = self.e

        def larger(a, b):
            return e.where(b > a, b, a)

        start = e.const(float("-inf"))
        (largest,) = e.loop(self.turns, [start], lambda k, m: [larger(m[0], self._inside(k, self.load(row, k), start))])
        return e.across(largest, larger)

    def sum(self, turn):
        """Of the vectors turn(k), in every lane."""
        e, many = self.e, ir.Constant(I64, self.parts)

        def body(i, sums):
            at = [e.b.add(e.b.mul(i, many), ir.Constant(I64, p)) for p in range(self.parts)]
            return [old + self._inside(k, turn(k), 0.0) for old, k in zip(sums, at, strict=True)]

        sums = e.loop(self._vectors(64 // e.bytes), [e.const(0.0)] * self.parts, body)
        while len(sums) > 1:  # in halves, as the lanes after them
            half = len(sums) // 2
            sums = [x + y for x, y in zip(sums[:half], sums[half:], strict=True)]
        return e.across(sums[0], lambda x, y: x + y)

    def put(self, row, turn):
        """Store turn(k) for all k."""

        def body(k, _):
            self.store(row, k, turn(k))
            return []

        self.e.loop(self.turns, [], body)


@intrinsic
def softmax_row(typingctx, real, x, y, size, log):
    """y = softmax(x), or its logarithm, over `size` numbers; y may be x unless `log`.

    e^(x - max) / sum. A NaN fills its row.
    """

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.args[0].instance_type)
        x, y, row = e.ptr(args[1]), e.ptr(args[2]), _Row(e, args[3])
        top = row.largest(x)

        def power(k):
            v = e.exp_nonpositive(row.load(x, k) - top)
            row.store(y, k, v)
            return v

        total = row.sum(power)
        with builder.if_else(builder.icmp_signed("==", args[4], ir.Constant(I64, 0))) as (plain, logarithm):
            with plain:
                row.put(y, lambda k: row.load(y, k) / total)
            with logarithm:
                log_total = e.log(total)
                row.put(y, lambda k: (row.load(x, k) - top) - log_total)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 4), codegen


@intrinsic
def softmax_slope_row(typingctx, real, y, dy, dx, size, log):
    """softmax: dx = y (dy - sum(dy y)); log_softmax: dx = dy - e^y sum(dy). dx may be dy."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.args[0].instance_type)
        (y, dy, dx), row = (e.ptr(a) for a in args[1:4]), _Row(e, args[4])
        with builder.if_else(builder.icmp_signed("==", args[5], ir.Constant(I64, 0))) as (plain, logarithm):
            with plain:
                total = row.sum(lambda k: row.load(dy, k) * row.load(y, k))
                row.put(dx, lambda k: row.load(y, k) * (row.load(dy, k) - total))
            with logarithm:
                total_dy = row.sum(lambda k: row.load(dy, k))
                row.put(dx, lambda k: row.load(dy, k) - e.exp(row.load(y, k)) * total_dy)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 5), codegen


@kernel("x y rows size log many")
def softmax_forward(block, args, real):
    """y = softmax(x), or its logarithm, over rows of `size`. Parallel: blocks of `many` rows."""
    x, y, rows, size, log, many = unpack(args, 6)
    stride = size * itemsize(real)
    for n in range(block * many, min(rows, (block + 1) * many)):
        softmax_row(real, x + n * stride, y + n * stride, size, log)


@kernel("y dy dx rows size log many")
def softmax_backward(block, args, real):
    """The gradient dx of the inputs of softmax_forward from its outputs. Parallel: blocks of `many` rows."""
    y, dy, dx, rows, size, log, many = unpack(args, 7)
    stride = size * itemsize(real)
    for n in range(block * many, min(rows, (block + 1) * many)):
        softmax_slope_row(real, y + n * stride, dy + n * stride, dx + n * stride, size, log)


@kernel("x y mask base size")
def masked_softmax_forward(block, args, real):
    """y = softmax(x) over the steps of one row that a mask leaves, for each of `size` features; 0 at the other steps.

    x, y (positions, size), mask (positions,) uint8 or 0 (all), base (rows+1,) positions where rows begin. Each sum is
    one chain over the valid steps in order: masked steps, wherever they lie, change no bit of the others. Lanes are
    features; of a single feature, (B,T) or (B,T,1), they are steps (measured: 18 and 4 ns a step). Parallel: a block is
    a row.
    """
    x, y, mask, base, size = unpack(args, 5)
    L, bytes_ = lanes(real), itemsize(real)
    step = size * bytes_
    start, end = get_i64(base, block), get_i64(base, block + 1)
    if size == 1:
        top = real(-np.inf)
        for p in range(start, end):
            if (mask == 0 or get_u8(mask, p) != 0) and get_real(real, x, p) > top:
                top = get_real(real, x, p)
        p = start
        while p < end:  # what stands at masked steps is computed, too, and thrown away
            count = min(L, end - p)
            store_part(y + p * bytes_, vexp(load_part(real, x + p * bytes_, count) - top), count)
            p += L
        total = real(0)
        for p in range(start, end):
            if mask == 0 or get_u8(mask, p) != 0:
                total += get_real(real, y, p)
            else:
                put_real(real, y, p, real(0))
        if total == 0:  # no valid step: y is 0 already
            total = real(1)
        p = start
        while p < end:
            count = min(L, end - p)
            store_part(y + p * bytes_, load_part(real, y + p * bytes_, count) / total, count)
            p += L
        return
    k = 0
    while k < size:
        count = min(L, size - k)
        top = splat(real, -np.inf)
        for p in range(start, end):
            if mask == 0 or get_u8(mask, p) != 0:
                v = load_part(real, x + p * step + k * bytes_, count)
                top = where(v > top, v, top)  # passes over a NaN: e^(NaN - top) has it again
        total = splat(real, 0.0)
        for p in range(start, end):
            if mask == 0 or get_u8(mask, p) != 0:
                v = vexp(load_part(real, x + p * step + k * bytes_, count) - top)
                store_part(y + p * step + k * bytes_, v, count)
                total = total + v
        for p in range(start, end):
            v = splat(real, 0.0)
            if mask == 0 or get_u8(mask, p) != 0:
                v = load_part(real, y + p * step + k * bytes_, count) / total
            store_part(y + p * step + k * bytes_, v, count)
        k += L


@kernel("y dy dx mask base size")
def masked_softmax_backward(block, args, real):
    """dx = y (dy - sum(dy y)) over the valid steps of one row, for each feature; 0 at masked steps, where dy is not
    read. Arrays and lanes as masked_softmax_forward's. Parallel: a block is a row.
    """
    y, dy, dx, mask, base, size = unpack(args, 6)
    L, bytes_ = lanes(real), itemsize(real)
    step = size * bytes_
    start, end = get_i64(base, block), get_i64(base, block + 1)
    if size == 1:
        total = real(0)
        for p in range(start, end):
            if mask == 0 or get_u8(mask, p) != 0:
                total += get_real(real, dy, p) * get_real(real, y, p)
        for p in range(start, end):
            v = real(0)
            if mask == 0 or get_u8(mask, p) != 0:
                v = get_real(real, y, p) * (get_real(real, dy, p) - total)
            put_real(real, dx, p, v)
        return
    k = 0
    while k < size:
        count = min(L, size - k)
        total = splat(real, 0.0)
        for p in range(start, end):
            if mask == 0 or get_u8(mask, p) != 0:
                at = p * step + k * bytes_
                total = fma(load_part(real, dy + at, count), load_part(real, y + at, count), total)
        for p in range(start, end):
            at = p * step + k * bytes_
            v = splat(real, 0.0)
            if mask == 0 or get_u8(mask, p) != 0:
                v = load_part(real, y + at, count) * (load_part(real, dy + at, count) - total)
            store_part(dx + at, v, count)
        k += L
