"""Masked losses: value and gradient of every step that counts, in one pass.

Design
a) The steps that count come as a list of row numbers. A step that does not count is not in the list: it is never read,
   and its gradient stays the 0 that `ops.loss` put there.
b) The rules, one a kind, write the vector code of value and gradient and read like the equations of `reference.loss`:
   `e` is the Emitter, `s` the arrangement of the lanes, k counts the turns over the predictions of a step. Every rule
   is a kernel of its own, compiled when it is first asked for: 0.1 to 0.2 s each, where one kernel with a switch over
   the first eight took 0.8 s.
c) Few predictions a step: the lanes are steps (`_StepLanes`), rows are gathered, every lane sums for itself. From WIDE
   predictions on, the lanes are predictions of one step (`_UnitLanes`), read as they stand, and sums end across lanes.
   Measured (16 lanes, ns a step, binary cross-entropy): K = 1: 7 and 27, K = 12: 34 and 27, K = 64: 164 and 82; with
   50000 classes one running float32 sum is off by 5e-5, 16 partial ones by 2e-6.
d) Either way the bits of a step depend on that step alone: not on its neighbours, not on threads.
e) The kernel leaves the weighted loss of each listed step; `ops.loss` sums them in float64 in the order of the list.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .loss_names import BLOCK, EPSILON, WIDE
from .simd import I32, I64, PTR, Emitter, V, lanes, unpack


def _i(n):
    return ir.Constant(I64, n)


class _Lanes:
    """What the rules ask for. `at` holds the LLVM values of the kernel's arguments; weight, delta … are vectors."""

    parts = 1  # vectors that a sum over predictions is held in

    def __init__(self, e, at):
        self.e, self.b, self.at = e, e.b, at
        scale, self.keep, self.shift, self.delta = (
            _float_word(e, at[name]) for name in ("scale", "keep", "shift", "delta")
        )
        self.weight = self.weights()
        self.gradient_weight = self.weight * scale
        self.ints = ir.VectorType(I64, e.lanes)
        self.units = e.splat(e.b.sitofp(at["units"], e.scalar))
        self.want_grad = e.b.icmp_signed("!=", at["d_pred"], _i(0))
        self.active = e.lane_mask(at["count"])  # steps of this vector

    def sums(self, turn, n=1):
        """The sums over all predictions of the n vectors that turn(k) returns."""

        def body(i, sums):
            new = []
            for p in range(self.parts):
                k = self.b.add(self.b.mul(i, _i(self.parts)), _i(p))
                new += [self.inside(k, x, 0.0) for x in turn(k)]
            return [old + x for old, x in zip(sums, new, strict=True)]

        rounds = self.b.sdiv(self.b.add(self.turns, _i(self.parts - 1)), _i(self.parts))
        sums = self.e.loop(rounds, [self.e.const(0.0)] * (n * self.parts), body)
        while len(sums) > n:  # the parts, in halves, as the lanes after them
            half = len(sums) // 2
            sums = [x + y for x, y in zip(sums[:half], sums[half:], strict=True)]
        return [self.across(x, lambda a, b: a + b) for x in sums]

    def largest(self, turn):
        """The largest of turn(k) over the predictions. It may pass over a NaN, which the sums of the rule keep."""

        def larger(a, b):
            return self.e.where(b > a, b, a)

        def body(k, largest):
            return [larger(largest[0], self.inside(k, turn(k), float("-inf")))]

        first = self.inside(_i(0), turn(_i(0)), float("-inf"))
        (largest,) = self.e.loop(self.turns, [first], body)
        return self.across(largest, larger)

    def put_gradients(self, turn):
        """Store the gradients turn(k) of all predictions; where none is wanted nothing is computed."""

        def body(k, _):
            self.put(k, turn(k))
            return []

        self.e.loop(self.b.select(self.want_grad, self.turns, _i(0)), [], body)

    def y(self, k):
        """Targets of turn k, smoothed or as signs."""
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

    def __init__(self, e, at):
        super().__init__(e, at)
        self.turns = at["units"]
        load = f"llvm.masked.load.v{e.lanes}i64.p0"
        load = e._declare(load, ir.FunctionType(self.ints, [PTR, I32, self.active.type, self.ints]))
        zeros = ir.Constant(self.ints, None)
        self.rows = self.b.call(load, [e.ptr(at["rows"]), ir.Constant(I32, 8), self.active, zeros])
        self.elements = self.b.mul(self.rows, self.splat_int(at["units"]))  # where each row begins

    def weights(self):
        return self.e.load_part(self.e.ptr(self.at["weight"]), self.at["count"])

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
        self.b.call(scatter, [(gradient * self.gradient_weight).v, pointers, ir.Constant(I32, self.e.bytes), wanted])

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
    """The lanes are predictions of one step, a vector of them a turn; lanes past the last one count for nothing.

    A sum is made of 16 partial ones (float64: 8) whatever the number of lanes: its bits are the same on every machine.
    """

    def __init__(self, e, at):
        super().__init__(e, at)
        self.parts = 64 // (e.lanes * e.bytes)
        self.turns = self.b.sdiv(self.b.add(at["units"], _i(e.lanes - 1)), _i(e.lanes))
        self.row = self.b.load(e.ptr(at["rows"]), align=8, typ=I64)
        self.elements = self.b.mul(self.row, at["units"])

    def weights(self):
        return self.e.broadcast(self.e.ptr(self.at["weight"]))

    def inside(self, k, x, other):
        return self.e.where(self.e.lane_mask(self._left(k)), x, other)

    def across(self, x, add):
        return self.e.across(x, add)

    def read(self, name, k):
        return self.e.load_part(self._pointer(name, self._first(k)), self._left(k))

    def put(self, k, gradient):
        left = self.b.select(self.want_grad, self._left(k), _i(0))
        self.e.store_part(self._pointer("d_pred", self._first(k)), gradient * self.gradient_weight, left)

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


def _percentage(e, x, y):
    """100 |x - y| / max(|y|, EPSILON)."""
    size = e.abs(y)
    factor = 100.0 / e.where(size < EPSILON, EPSILON, size)
    value, sign = _absolute(e, x, y)
    return value * factor, sign * factor


def _squared_logarithmic(e, x, y):
    """(log(1 + x) - log(1 + y))^2, neither below EPSILON."""
    w = e.where(x < EPSILON, EPSILON, x) + 1.0
    error = e.log(w) - e.log(e.where(y < EPSILON, EPSILON, y) + 1.0)
    return error * error, e.where(x < EPSILON, 0.0, (error + error) / w)


def _log_cosh(e, x, y):
    """log cosh u = |u| + log(1 + e^-2|u|) - log 2."""
    u = x - y
    size = e.abs(u)
    return size + e.log1p(e.exp_nonpositive(size * -2.0)) - math.log(2.0), e.tanh(u)


def _poisson(e, x, y):
    w = x + EPSILON
    return x - y * e.log(w), 1.0 - y / w


def _hinge(e, x, y):
    value, active = _positive_part(e, 1.0 - x * y)
    return value, -(y * active)


def _squared_hinge(e, x, y):
    value, _ = _positive_part(e, 1.0 - x * y)
    return value * value, y * value * -2.0


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


def _huber(e, s):
    """u^2 / 2 for |u| <= delta, beyond delta |u| - delta^2 / 2."""

    def point(e, x, y):
        u = x - y
        size = e.abs(u)
        outer = s.delta * size - s.delta * s.delta * 0.5
        return e.where(size <= s.delta, u * u * 0.5, outer), e.clip(u, -s.delta, s.delta)

    return _elementwise(point)(e, s)


def _cosine(e, s):
    """v = -sum(x' y'), x' = x r, r = 1 / |x| but at most 1 / EPSILON;  d = -(y' - x' sum(x' y')) r, or -y' r there."""

    def inverse_length(square_sum):
        r = 1.0 / e.sqrt(square_sum)
        return e.where(r > 1 / EPSILON, 1 / EPSILON, r), r > 1 / EPSILON

    xx, yy = s.sums(lambda k: [s.x(k) * s.x(k), s.y(k) * s.y(k)], 2)
    (rx, tiny), (ry, _) = inverse_length(xx), inverse_length(yy)
    (xy,) = s.sums(lambda k: [(s.x(k) * rx) * (s.y(k) * ry)])
    along = e.where(tiny, 0.0, xy)
    s.put_gradients(lambda k: (s.x(k) * rx * along - s.y(k) * ry) * rx)
    return -xy


def _kl_divergence(e, s):
    """v = sum y log(y / x), both clipped to [EPSILON, 1];  d = -y / x, 0 where x is outside."""

    def clip(p):
        return e.clip(p, EPSILON, 1.0)

    def gradient(k):
        x = s.x(k)
        return e.where(e.b.or_(x < EPSILON, x > 1.0), 0.0, -(clip(s.y(k)) / clip(x)))

    s.put_gradients(gradient)
    (value,) = s.sums(lambda k: [clip(s.y(k)) * e.log(clip(s.y(k)) / clip(s.x(k)))])
    return value


def _categorical_hinge(e, s):
    """v = max(m - sum(x y) + 1, 0) with m = max x (1 - y);  d = (1 - y) / n - y where x (1 - y) is m, n times; else -y.

    Nothing of it where v is 0.
    """

    def other(k):
        return s.x(k) * (1.0 - s.y(k))

    m = s.largest(other)
    ties, right = s.sums(lambda k: [e.where(other(k) >= m, 1.0, 0.0), s.x(k) * s.y(k)], 2)
    value, active = _positive_part(e, m - right + 1.0)

    def gradient(k):
        share = e.where(other(k) >= m, (1.0 - s.y(k)) / ties, 0.0)
        return (share - s.y(k)) * active

    s.put_gradients(gradient)
    return value


def _categorical_from_logits(e, s):
    """v = log z sum(y) - sum(y (x - m)) with m = max x, z = sum e^(x - m);  d = e^(x - m) / z sum(y) - y."""
    m = s.largest(s.x)
    (z,) = s.sums(lambda k: [e.exp_nonpositive(s.x(k) - m)])
    y_sum, linear = s.sums(lambda k: [s.y(k), s.y(k) * (s.x(k) - m)], 2)
    factor = y_sum / z
    s.put_gradients(lambda k: e.exp_nonpositive(s.x(k) - m) * factor - s.y(k))
    return e.log(z) * y_sum - linear


def _sparse_from_logits(e, s):
    """v = log z - (x_label - m), m and z as above;  d = e^(x - m) / z - onehot(label)."""
    m = s.largest(s.x)
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


def _positive_part(e, margin):
    """max(margin, 0) and its slope: 1 from 0 on, as in TensorFlow. NaN stays NaN."""
    return e.where(margin < 0.0, 0.0, margin), e.where(margin < 0.0, 0.0, e.where(margin >= 0.0, 1.0, margin))


def _clip(e, p):
    """p clipped to [EPSILON, 1 - EPSILON] as `real` rounds them, and where that changed it (not where p is NaN)."""
    real = np.float64 if e.double else np.float32
    low, high = float(real(EPSILON)), float(real(1 - EPSILON))
    return e.clip(p, low, high), e.b.or_(p < low, p > high)


# ---- the kernels -----------------------------------------------------------------------------------------------------

ARGUMENTS = "count rows weight values y_true y_pred d_pred units scale keep shift delta"


def _losses_of(arrangement, rule):
    """The intrinsic (real, args, first, n): losses of n listed steps from `first` on."""

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
        s = arrangement(e, at)
        e.store_part(e.ptr(at["values"]), rule(e, s) * s.weight, n)
        return context.get_dummy_value()

    def typing(typingctx, real, args, first, n):
        return types.void(real, types.int64, types.int64, types.int64), codegen

    return intrinsic(typing)


def _float_word(e, word):
    """The vector of a float argument: its float64 bits come as an int64."""
    x = e.b.bitcast(word, ir.DoubleType())
    return e.splat(x if e.double else e.b.fptrunc(x, e.scalar))


def _kernel(rule):
    """The block kernel of a rule: values (count,) = weighted losses of the steps listed in rows (count,); their
    gradients go to d_pred (N,K).

    weight (count,); y_true (N,K) real, or (N,) int64 class numbers; y_pred (N,K), K = units; d_pred 0: no gradient is
    wanted. Targets count as keep * y_true + shift, gradients are multiplied by weight * scale; delta is Huber's.
    Parallel: blocks of BLOCK listed steps.
    """
    losses_of_steps, losses_of_wide_step = _losses_of(_StepLanes, rule), _losses_of(_UnitLanes, rule)

    @kernel(ARGUMENTS)
    def step_losses(block, args, real):
        count, rows, weight, values, y_true, y_pred, d_pred, units, scale, keep, shift, delta = unpack(args, 12)
        last = min(count, (block + 1) * BLOCK)
        if units < WIDE:
            for first in range(block * BLOCK, last, lanes(real)):
                losses_of_steps(real, args, first, min(lanes(real), last - first))
        else:
            for first in range(block * BLOCK, last):
                losses_of_wide_step(real, args, first, 1)

    return step_losses


mean_squared_error = _kernel(_elementwise(_squared))
mean_absolute_error = _kernel(_elementwise(_absolute))
mean_absolute_percentage_error = _kernel(_elementwise(_percentage))
mean_squared_logarithmic_error = _kernel(_elementwise(_squared_logarithmic))
huber = _kernel(_huber)
log_cosh = _kernel(_elementwise(_log_cosh))
cosine_similarity = _kernel(_cosine)
binary_crossentropy = _kernel(_elementwise(_binary))
binary_crossentropy_from_logits = _kernel(_elementwise(_binary_from_logits))
categorical_crossentropy = _kernel(_categorical)
categorical_crossentropy_from_logits = _kernel(_categorical_from_logits)
sparse_categorical_crossentropy = _kernel(_sparse)
sparse_categorical_crossentropy_from_logits = _kernel(_sparse_from_logits)
kl_divergence = _kernel(_kl_divergence)
poisson = _kernel(_elementwise(_poisson))
hinge = _kernel(_elementwise(_hinge))
squared_hinge = _kernel(_elementwise(_squared_hinge))
categorical_hinge = _kernel(_categorical_hinge)
