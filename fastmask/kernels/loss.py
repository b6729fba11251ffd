"""Masked losses: value and gradient of every step that counts, in one pass.

Design
a) The steps that count come as a list of row numbers. A step that does not count is not in the list: it is never read,
   and its gradient stays the 0 that `ops.loss` put there.
b) The rules, one a kind, write the vector code of value and gradient and read like the equations of `reference.loss`:
   `e` is the Emitter, `s` the arrangement of the lanes, k counts the turns over the predictions of a step.
c) Few predictions a step: the lanes are steps (`_StepLanes`), rows are gathered, every lane sums for itself. From WIDE
   predictions on, the lanes are predictions of one step (`_UnitLanes`), read as they stand, and sums end across lanes.
   Measured (16 lanes, ns a step, binary cross-entropy): K = 1: 7 and 27, K = 12: 34 and 27, K = 64: 164 and 82; with
   50000 classes one running float32 sum is off by 5e-5, 16 partial ones by 2e-6.
d) Either way the bits of a step depend on that step alone: not on its neighbours, not on threads.
e) The kernel leaves the weighted loss of each listed step; `ops.loss` sums them in float64 in the order of the list.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .loss_names import BLOCK, CODES, EPSILON, WIDE
from .simd import I32, I64, PTR, Emitter, V, lanes, unpack


def _i(n):
    return ir.Constant(I64, n)


class _Lanes:
    """What the rules ask for. `at` holds the LLVM values of the kernel's arguments; weight, keep, shift are vectors."""

    def __init__(self, e, at, weight, keep, shift):
        self.e, self.b, self.at = e, e.b, at
        self.weight, self.keep, self.shift = weight, keep, shift
        self.ints = ir.VectorType(I64, e.lanes)
        self.units = e.splat(e.b.sitofp(at["units"], e.scalar))
        self.want_grad = e.b.icmp_signed("!=", at["d_pred"], _i(0))
        self.active = e.lane_mask(at["count"])  # steps of this vector

    def sums(self, turn, n=1):
        """The sums over all predictions of the n vectors that turn(k) returns."""

        def body(k, sums):
            return [old + self.inside(k, new, 0.0) for old, new in zip(sums, turn(k), strict=True)]

        sums = self.e.loop(self.turns, [self.e.const(0.0)] * n, body)
        return [self.across(x, lambda a, b: a + b) for x in sums]

    def largest_x(self):
        """max x over the predictions. It may pass over a NaN: x - max has it again."""

        def larger(a, b):
            return self.e.where(b > a, b, a)

        def body(k, largest):
            return [larger(largest[0], self.inside(k, self.x(k), float("-inf")))]

        first = self.inside(_i(0), self.x(_i(0)), float("-inf"))
        (largest,) = self.e.loop(self.turns, [first], body)
        return self.across(largest, larger)

    def put_gradients(self, turn):
        """Store the gradients turn(k) of all predictions; where none is wanted nothing is computed."""

        def body(k, _):
            self.put(k, turn(k))
            return []

        self.e.loop(self.b.select(self.want_grad, self.turns, _i(0)), [], body)

    def y(self, k):
        """Targets of turn k, smoothed."""
        return self.e.fma(self.read("y_true", k), self.keep, self.shift)

    def x(self, k):
        """Predictions of turn k."""
        return self.read("y_pred", k)

    def splat_int(self, i):
        one = self.b.insert_element(ir.Constant(self.ints, ir.Undefined), i, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.e.lanes), [ir.Constant(I32, 0)] * self.e.lanes)
        return self.b.shuffle_vector(one, ir.Constant(self.ints, ir.Undefined), zeros)


class _StepLanes(_Lanes):
    """Lane i works on step i of the list, one prediction a turn. Lanes past the list's end are switched off."""

    def __init__(self, e, at, weight, keep, shift):
        super().__init__(e, at, weight, keep, shift)
        self.turns = at["units"]
        load = f"llvm.masked.load.v{e.lanes}i64.p0"
        load = e._declare(load, ir.FunctionType(self.ints, [PTR, I32, self.active.type, self.ints]))
        zeros = ir.Constant(self.ints, None)
        self.rows = self.b.call(load, [e.ptr(at["rows"]), ir.Constant(I32, 8), self.active, zeros])
        self.elements = self.b.mul(self.rows, self.splat_int(at["units"]))  # where each row begins

    @staticmethod
    def weights(e, at):
        return e.load_part(e.ptr(at["weight"]), at["count"])

    def inside(self, k, x, other):
        return x

    def across(self, x, add):
        return x

    def read(self, name, k):
        return V(self.e, self._gather(name, self._element(k), self.e.bytes, self.e.vec, self.e.suffix))

    def put(self, k, gradient):
        pointers = self._pointers("d_pred", self._element(k), self.e.bytes)
        scatter = ir.FunctionType(ir.VoidType(), [self.e.vec, pointers.type, I32, self.active.type])
        scatter = self.e._declare(f"llvm.masked.scatter.{self.e.suffix}.v{self.e.lanes}p0", scatter)
        none = ir.Constant(self.active.type, None)
        wanted = self.b.select(self.want_grad, self.active, none)
        self.b.call(scatter, [(gradient * self.weight).v, pointers, ir.Constant(I32, self.e.bytes), wanted])

    def labels(self):
        return self._gather("y_true", self.rows, 8, self.ints, f"v{self.e.lanes}i64")

    def x_at(self, labels):
        element = self.b.add(self.elements, labels)
        return V(self.e, self._gather("y_pred", element, self.e.bytes, self.e.vec, self.e.suffix))

    def is_label(self, k, labels):
        return self.b.icmp_signed("==", labels, self.splat_int(k))

    def _element(self, k):
        return self.b.add(self.elements, self.splat_int(k))

    def _pointers(self, name, elements, size):
        offsets = self.b.mul(elements, self.splat_int(_i(size)))
        addresses = self.b.add(self.splat_int(self.at[name]), offsets)
        return self.b.inttoptr(addresses, ir.VectorType(PTR, self.e.lanes))

    def _gather(self, name, elements, size, vector, suffix):
        pointers = self._pointers(name, elements, size)
        gather = ir.FunctionType(vector, [pointers.type, I32, self.active.type, vector])
        gather = self.e._declare(f"llvm.masked.gather.{suffix}.v{self.e.lanes}p0", gather)
        return self.b.call(gather, [pointers, ir.Constant(I32, size), self.active, ir.Constant(vector, None)])


class _UnitLanes(_Lanes):
    """The lanes are predictions of one step, a vector of them a turn; lanes past the last one count for nothing."""

    def __init__(self, e, at, weight, keep, shift):
        super().__init__(e, at, weight, keep, shift)
        self.turns = self.b.sdiv(self.b.add(at["units"], _i(e.lanes - 1)), _i(e.lanes))
        self.row = self.b.load(e.ptr(at["rows"]), align=8, typ=I64)
        self.elements = self.b.mul(self.row, at["units"])

    @staticmethod
    def weights(e, at):
        return e.broadcast(e.ptr(at["weight"]))

    def inside(self, k, x, other):
        return self.e.where(self.e.lane_mask(self._left(k)), x, other)

    def across(self, x, add):
        return self.e.across(x, add)

    def read(self, name, k):
        return self.e.load_part(self._pointer(name, self._first(k)), self._left(k))

    def put(self, k, gradient):
        left = self.b.select(self.want_grad, self._left(k), _i(0))
        self.e.store_part(self._pointer("d_pred", self._first(k)), gradient * self.weight, left)

    def labels(self):
        address = self.b.add(self.at["y_true"], self.b.mul(self.row, _i(8)))
        return self.b.load(self.e.ptr(address), align=8, typ=I64)

    def x_at(self, label):
        return self.e.broadcast(self._pointer("y_pred", label))

    def is_label(self, k, label):
        here = self.b.add(self.splat_int(self._first(k)), ir.Constant(self.ints, [_i(i) for i in range(self.e.lanes)]))
        return self.b.icmp_signed("==", here, self.splat_int(label))

    def _first(self, k):
        return self.b.mul(k, _i(self.e.lanes))

    def _left(self, k):
        return self.b.sub(self.at["units"], self._first(k))

    def _pointer(self, name, k):
        return self.e.at(self.e.ptr(self.at[name]), self.b.add(self.elements, k))


# ---- the rules: each returns the value of a step and puts its gradients on the way ----------------------------------


def _elementwise(point):
    """A loss that is the mean of point(e, x, y) -> (value, gradient) over the predictions of a step."""

    def rule(e, s):
        inverse = 1.0 / s.units

        def turn(k):
            value, gradient = point(e, s.x(k), s.y(k))
            s.put(k, gradient * inverse)
            return [value]

        (total,) = s.sums(turn)
        return total * inverse

    return rule


def _squared(e, x, y):
    error = x - y
    return error * error, error + error


def _absolute(e, x, y):
    error = x - y
    sign = e.where(error > 0.0, 1.0, e.where(error < 0.0, -1.0, error))  # NaN stays NaN
    return e.abs(error), sign


def _binary_from_logits(e, x, y):
    """max(x, 0) - x y + log(1 + t) with t = e^-|x|; the gradient sigmoid(x) - y without cancellation in the tails."""
    t = e.exp_nonpositive(-e.abs(x))
    small = t / (t + 1.0)
    value = e.where(x < 0.0, 0.0, x) - x * y + e.log1p(t)
    return value, e.where(x >= 0.0, (1.0 - y) - small, small - y)


def _binary(e, x, y):
    c, outside = _clip(e, x)
    value = -(y * e.log(c) + (1.0 - y) * e.log(1.0 - c))
    return value, e.where(outside, 0.0, (1.0 - y) / (1.0 - c) - y / c)


def _categorical_from_logits(e, s):
    """v = log z sum(y) - sum(y (x - m)) with m = max x, z = sum e^(x - m);  d = e^(x - m) / z sum(y) - y."""
    m = s.largest_x()
    (z,) = s.sums(lambda k: [e.exp_nonpositive(s.x(k) - m)])
    y_sum, linear = s.sums(lambda k: [s.y(k), s.y(k) * (s.x(k) - m)], 2)
    factor = y_sum / z
    s.put_gradients(lambda k: e.exp_nonpositive(s.x(k) - m) * factor - s.y(k))
    return e.log(z) * y_sum - linear


def _sparse_from_logits(e, s):
    """v = log z - (x_label - m), m and z as above;  d = e^(x - m) / z - onehot(label)."""
    m = s.largest_x()
    (z,) = s.sums(lambda k: [e.exp_nonpositive(s.x(k) - m)])
    labels, inverse = s.labels(), 1.0 / z
    s.put_gradients(lambda k: e.exp_nonpositive(s.x(k) - m) * inverse - e.where(s.is_label(k, labels), 1.0, 0.0))
    return e.log(z) - (s.x_at(labels) - m)


def _categorical(e, s):
    """q = p / sum p, clipped to c;  v = -sum y log c;  g = -y / c, 0 outside;  d = (g - sum g q) / sum p."""
    (p_sum,) = s.sums(lambda k: [s.x(k)])

    def point(k):
        q, y = s.x(k) / p_sum, s.y(k)
        c, outside = _clip(e, q)
        return q, e.where(outside, 0.0, -(y / c)), y * e.log(c)

    def turn(k):
        q, g, y_log_c = point(k)
        return [g * q, y_log_c]

    gq_sum, y_log_c_sum = s.sums(turn, 2)
    inverse = 1.0 / p_sum
    s.put_gradients(lambda k: (point(k)[1] - gq_sum) * inverse)
    return -y_log_c_sum


def _sparse(e, s):
    """p clipped to c, normalised after;  v = log sum c - log c_label;  d = 1 / sum c - onehot / c_label, 0 outside."""
    (c_sum,) = s.sums(lambda k: [_clip(e, s.x(k))[0]])
    labels = s.labels()
    c_label, _ = _clip(e, s.x_at(labels))
    elsewhere = 1.0 / c_sum
    at_label = elsewhere - 1.0 / c_label

    def gradient(k):
        _, outside = _clip(e, s.x(k))
        return e.where(outside, 0.0, e.where(s.is_label(k, labels), at_label, elsewhere))

    s.put_gradients(gradient)
    return e.log(c_sum) - e.log(c_label)


def _clip(e, p):
    """p clipped to [EPSILON, 1 - EPSILON] as `real` rounds them, and where that changed it (not where p is NaN)."""
    real = np.float64 if e.double else np.float32
    low, high = float(real(EPSILON)), float(real(1 - EPSILON))
    return e.clip(p, low, high), e.b.or_(p < low, p > high)


_RULES = {
    "mean_squared_error": _elementwise(_squared),
    "mean_absolute_error": _elementwise(_absolute),
    "binary_crossentropy": _elementwise(_binary),
    "binary_crossentropy_from_logits": _elementwise(_binary_from_logits),
    "categorical_crossentropy": _categorical,
    "categorical_crossentropy_from_logits": _categorical_from_logits,
    "sparse_categorical_crossentropy": _sparse,
    "sparse_categorical_crossentropy_from_logits": _sparse_from_logits,
}
assert set(_RULES) == set(CODES)


# ---- the kernel ------------------------------------------------------------------------------------------------------

ARGUMENTS = "kind count rows weight values y_true y_pred d_pred units scale keep shift"


def _losses_of(arrangement):
    """The intrinsic (real, args, first, n): losses of n listed steps from `first` on, with a switch over the kinds."""

    def codegen(context, builder, sig, llargs):
        e = Emitter(builder, sig.args[0].instance_type)
        _, args, first, n = llargs
        at = {
            name: builder.load(e.ptr(args, 8 * i), align=8, typ=I64, name=name)
            for i, name in enumerate(ARGUMENTS.split())
        }
        at["count"] = n
        for name, size in (("rows", 8), ("weight", e.bytes), ("values", e.bytes)):
            at[name] = builder.add(at[name], builder.mul(first, _i(size)))
        weight = arrangement.weights(e, at)
        scale, keep, shift = (_float_word(e, at[name]) for name in ("scale", "keep", "shift"))
        s = arrangement(e, at, weight * scale, keep, shift)

        end, unknown = builder.append_basic_block("end"), builder.append_basic_block("unknown")
        switch = builder.switch(at["kind"], unknown)
        results = [(e.value(float("nan")), unknown)]
        for name, rule in _RULES.items():
            case = builder.append_basic_block(name)
            switch.add_case(_i(CODES[name]), case)
            builder.position_at_end(case)
            value = rule(e, s)
            results.append((value.v, builder.block))
            builder.branch(end)
        builder.position_at_end(unknown)
        builder.branch(end)
        builder.position_at_end(end)
        value = builder.phi(e.vec)
        for result, block in results:
            value.add_incoming(result, block)
        e.store_part(e.ptr(at["values"]), V(e, value) * weight, n)
        return context.get_dummy_value()

    def typing(typingctx, real, args, first, n):
        return types.void(real, types.int64, types.int64, types.int64), codegen

    return intrinsic(typing)


_losses_of_steps = _losses_of(_StepLanes)
_losses_of_wide_step = _losses_of(_UnitLanes)


def _float_word(e, word):
    """The vector of a float argument: its float64 bits come as an int64."""
    x = e.b.bitcast(word, ir.DoubleType())
    return e.splat(x if e.double else e.b.fptrunc(x, e.scalar))


@kernel(ARGUMENTS)
def step_losses(block, args, real):
    """values (count,) = weighted losses of the steps listed in rows (count,); their gradients go to d_pred (N,K).

    kind: a code of `loss_names`; weight (count,); y_true (N,K) real, or (N,) int64 class numbers; y_pred (N,K),
    K = units; d_pred 0: no gradient is wanted. Targets count as keep * y_true + shift, gradients are multiplied by
    weight * scale. Parallel: blocks of BLOCK listed steps.
    """
    kind, count, rows, weight, values, y_true, y_pred, d_pred, units, scale, keep, shift = unpack(args, 12)
    last = min(count, (block + 1) * BLOCK)
    if units < WIDE:
        for first in range(block * BLOCK, last, lanes(real)):
            _losses_of_steps(real, args, first, min(lanes(real), last - first))
    else:
        for first in range(block * BLOCK, last):
            _losses_of_wide_step(real, args, first, 1)
