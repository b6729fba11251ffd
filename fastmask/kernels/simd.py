"""SIMD values for kernels: the vector type, its arithmetic, and vector exp/log/tanh/sigmoid.

Two layers, one source of code:

* `Emitter` and `V` write LLVM IR from Python: ``z = e.sigmoid(z); h = e.fma(z, h - c, c)`` reads like the equations and
  becomes vector instructions. Whole register tiles (`gemm.py`, `lstm.py`, …) are emitted this way as ONE intrinsic:
  that compiles several times faster than a tile made of inlined pieces.
* The numba-level functions (`load`, `store`, `fma`, `exp`, operators on `VecType` …) expose the same emitters to plain
  kernels such as losses and state updates.

Every function takes ``real``, a numba float type (``float32`` or ``float64``); a vector has ``lanes(real)`` elements of
it. The number of lanes comes from the CPU or FASTMASK_LANES (float32 lanes: 16, 8 or 4). Memory is addressed by raw
int64 addresses: numba's array indexing would cost a third of a tile's speed, and kernels on addresses can be compiled
ahead of time.

Bits: no fast-math flag anywhere; `fma` is written where one is meant. So an element's value does not depend on the lane
it sits in or on the number of lanes.
"""

from __future__ import annotations

import operator
import struct

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from . import _jit
from ._threads import STOPPED

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
PTR = ir.PointerType()

VECTOR_BYTES = 4 * _jit.LANES
# What backward sums over lies in panels of 64 bytes whatever the vectors: so sums have one order on every machine.
PANEL_BYTES = 64
PANEL_VECTORS = PANEL_BYTES // VECTOR_BYTES
# Rows of a register tile with 4 vectors each: 32 vector registers hold 6 x 4 accumulators, 16 registers 3 x 4.
TILE_ROWS = _jit.TILE_ROWS


# ----------------------------------------------------------------------------------------------------------------------
# Emitting vector code from Python


class V:
    """A vector value with operators; numbers are splatted."""

    __slots__ = ("e", "v")

    def __init__(self, e, v):
        self.e, self.v = e, v

    def __add__(self, o):
        return V(self.e, self.e.b.fadd(self.v, self.e.value(o)))

    def __radd__(self, o):
        return V(self.e, self.e.b.fadd(self.e.value(o), self.v))

    def __sub__(self, o):
        return V(self.e, self.e.b.fsub(self.v, self.e.value(o)))

    def __rsub__(self, o):
        return V(self.e, self.e.b.fsub(self.e.value(o), self.v))

    def __mul__(self, o):
        return V(self.e, self.e.b.fmul(self.v, self.e.value(o)))

    def __rmul__(self, o):
        return V(self.e, self.e.b.fmul(self.e.value(o), self.v))

    def __truediv__(self, o):
        return V(self.e, self.e.b.fdiv(self.v, self.e.value(o)))

    def __rtruediv__(self, o):
        return V(self.e, self.e.b.fdiv(self.e.value(o), self.v))

    def __neg__(self):
        return V(self.e, self.e.b.fneg(self.v))

    # Comparisons give an <lanes x i1> LLVM value for `where`; all are false for NaN but `!=`.
    def __lt__(self, o):
        return self.e.b.fcmp_ordered("<", self.v, self.e.value(o))

    def __le__(self, o):
        return self.e.b.fcmp_ordered("<=", self.v, self.e.value(o))

    def __gt__(self, o):
        return self.e.b.fcmp_ordered(">", self.v, self.e.value(o))

    def __ge__(self, o):
        return self.e.b.fcmp_ordered(">=", self.v, self.e.value(o))


class Emitter:
    """Writes vector instructions for one float type into an llvmlite builder."""

    def __init__(self, builder, real):
        self.b = builder
        self.real = real
        self.double = real == types.float64
        self.bytes = 8 if self.double else 4
        self.lanes = VECTOR_BYTES // self.bytes
        self.scalar = ir.DoubleType() if self.double else ir.FloatType()
        self.int = I64 if self.double else I32
        self.vec = ir.VectorType(self.scalar, self.lanes)
        self.ivec = ir.VectorType(self.int, self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.bytes}"

    # -- values and memory
    def value(self, x):
        """The LLVM vector of a V or of a Python number."""
        if isinstance(x, V):
            return x.v
        return ir.Constant(self.vec, [ir.Constant(self.scalar, float(x))] * self.lanes)

    def const(self, x):
        return V(self, self.value(x))

    def iconst(self, x):
        return ir.Constant(self.ivec, [ir.Constant(self.int, int(x))] * self.lanes)

    def ptr(self, address, byte_offset=0):
        """Pointer from an int64 address (an LLVM value) plus a constant number of bytes."""
        if byte_offset:
            address = self.b.add(address, ir.Constant(I64, byte_offset))
        return self.b.inttoptr(address, PTR) if address.type != PTR else address

    def at(self, pointer, count):
        """Pointer `count` scalars further; count is an LLVM i64 or a Python int."""
        if isinstance(count, int):
            if count == 0:
                return pointer
            count = ir.Constant(I64, count)
        return self.b.gep(pointer, [count], source_etype=self.scalar)

    def load(self, pointer, vectors=0):
        return V(self, self.b.load(self.at(pointer, vectors * self.lanes), align=self.bytes, typ=self.vec))

    def store(self, pointer, x, vectors=0):
        self.b.store(self.value(x), self.at(pointer, vectors * self.lanes), align=self.bytes)

    def broadcast(self, pointer, count=0):
        return self.splat(self.b.load(self.at(pointer, count), align=self.bytes, typ=self.scalar))

    def splat(self, scalar):
        one = self.b.insert_element(ir.Constant(self.vec, ir.Undefined), scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [ir.Constant(I32, 0)] * self.lanes)
        return V(self, self.b.shuffle_vector(one, ir.Constant(self.vec, ir.Undefined), zeros))

    def lane_mask(self, count):
        """<lanes x i1>: lane < count (an i64)."""
        most = ir.Constant(I64, self.lanes)  # what is cut off below must not matter: 2^32 + 3 elements are not 3
        small = self.b.trunc(self.b.select(self.b.icmp_signed("<", count, most), count, most), I32)
        vec32 = ir.VectorType(I32, self.lanes)
        one = self.b.insert_element(ir.Constant(vec32, ir.Undefined), small, ir.Constant(I32, 0))
        many = self.b.shuffle_vector(
            one, ir.Constant(vec32, ir.Undefined), ir.Constant(vec32, [ir.Constant(I32, 0)] * self.lanes)
        )
        index = ir.Constant(vec32, [ir.Constant(I32, i) for i in range(self.lanes)])
        return self.b.icmp_signed("<", index, many)

    def load_part(self, pointer, count):
        """The first `count` lanes; the others are 0 and their memory is not touched."""
        mask = self.lane_mask(count)
        ty = ir.FunctionType(self.vec, [PTR, I32, mask.type, self.vec])
        f = self._declare(f"llvm.masked.load.{self.suffix}.p0", ty)
        return V(self, self.b.call(f, [pointer, ir.Constant(I32, self.bytes), mask, self.value(0.0)]))

    def store_part(self, pointer, x, count):
        mask = self.lane_mask(count)
        ty = ir.FunctionType(ir.VoidType(), [self.vec, PTR, I32, mask.type])
        f = self._declare(f"llvm.masked.store.{self.suffix}.p0", ty)
        self.b.call(f, [self.value(x), pointer, ir.Constant(I32, self.bytes), mask])

    def transpose(self, rows):
        """`lanes` vectors as the columns of a square."""
        rows, size = list(rows), 1
        while size < self.lanes:  # swap blocks of `size` rows and lanes across the diagonal
            for i in range(self.lanes):
                if not i & size:
                    a, b = rows[i], rows[i + size]
                    rows[i] = self._pick(a, b, [self.lanes + j - size if j & size else j for j in range(self.lanes)])
                    rows[i + size] = self._pick(
                        a, b, [self.lanes + j if j & size else j + size for j in range(self.lanes)]
                    )
            size *= 2
        return rows

    def _pick(self, a, b, lanes):
        index = ir.Constant(ir.VectorType(I32, self.lanes), [ir.Constant(I32, i) for i in lanes])
        return V(self, self.b.shuffle_vector(a.v, b.v, index))

    def _declare(self, name, ty):
        return cgutils.get_or_insert_function(self.b.module, ty, name)

    # -- arithmetic
    def fma(self, a, b, c):
        f = self._declare(f"llvm.fma.{self.suffix}", ir.FunctionType(self.vec, [self.vec] * 3))
        return V(self, self.b.call(f, [self.value(a), self.value(b), self.value(c)]))

    def where(self, condition, a, b):
        return V(self, self.b.select(condition, self.value(a), self.value(b)))

    def _unary(self, name, x):
        f = self._declare(f"llvm.{name}.{self.suffix}", ir.FunctionType(self.vec, [self.vec]))
        return V(self, self.b.call(f, [self.value(x)]))

    def abs(self, x):
        return self._unary("fabs", x)

    def sqrt(self, x):
        return self._unary("sqrt", x)

    def copysign(self, magnitude, sign):
        f = self._declare(f"llvm.copysign.{self.suffix}", ir.FunctionType(self.vec, [self.vec] * 2))
        return V(self, self.b.call(f, [self.value(magnitude), self.value(sign)]))

    def clip(self, x, low, high):
        """NaN stays NaN (llvm.minnum/maxnum would swallow it)."""
        x = self.where(x < low, low, x)
        return self.where(x > high, high, x)

    def poly(self, x, coefficients):
        """Horner, lowest coefficient first."""
        y = self.const(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            y = self.fma(y, x, c)
        return y

    # -- exp and its family: e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln2/2; e^r - 1 = r + r^2 P(r), P minimax (own
    #    fit, relative error 1.3e-8 for float32, 3e-19 for float64).
    _EXP32 = (0.499999981329, 0.166665426847, 0.0416672039372, 0.00836664678238, 0.00138824962392)
    _EXP64 = (
        0.5000000000000000008678, 0.1666666666666667669576, 0.04166666666666650574098, 0.008333333333321513688458,
        0.001388888888896350453812, 0.0001984126988647719770371, 0.00002480158717103897234203,
        0.000002755724380428353521694, 2.755740329909379754777e-7, 2.51091950851988829824e-8,
        2.087531765308034726384e-9,
    )  # fmt: skip

    def _reduce(self, x):
        """(r + r^2 P(r) = e^r - 1, the integer vector n); x within about +-150 (float32) or +-1500."""
        b = self.b
        # 1.5 * 2^52, 1.5 * 2^23: adding it rounds to an integer
        magic = 6755399441055744.0 if self.double else 12582912.0
        ln2_hi = 0.693147180369123816490 if self.double else 0.693359375
        ln2_lo = 1.90821492927058770002e-10 if self.double else -2.12194440054690583e-4
        t = self.fma(x, 1.44269504088896340736, magic)
        n = t - magic
        r = self.fma(n, -ln2_hi, x)
        r = self.fma(n, -ln2_lo, r)
        p = self.poly(r, self._EXP64 if self.double else self._EXP32)
        return self.fma(r * r, p, r), b.sub(b.bitcast(t.v, self.ivec), self.iconst(self._bits(magic)))

    def _bits(self, x):
        return (
            struct.unpack("<q", struct.pack("<d", x))[0]
            if self.double
            else struct.unpack("<i", struct.pack("<f", x))[0]
        )

    def _pow2(self, n):
        """2^n for an integer vector n in [-127, 127] ([-1023, 1023]); the lowest gives 0."""
        b = self.b
        mantissa, bias = (52, 1023) if self.double else (23, 127)
        return V(self, b.bitcast(b.shl(b.add(n, self.iconst(bias)), self.iconst(mantissa)), self.vec))

    @property
    def _exp_low(self):
        """Below this e^x is not a normal number; the reduction then gives n = -127 (-1023) and 2^n = 0."""
        return -709.3 if self.double else -88.0

    def exp(self, x):
        b = self.b
        high = 709.9 if self.double else 88.9
        x = self.clip(x, self._exp_low, high)
        q, n = self._reduce(x)
        half = b.ashr(n, self.iconst(1))
        rest = b.sub(n, half)
        # two factors: 2^128 itself is no float32 though e^88.7 is; the product is exact, and n = -127 must give 0
        scale = self.where(x <= self._exp_low, 0.0, self._pow2(half))
        return self.fma(q, scale, scale) * self._pow2(rest)

    def exp_nonpositive(self, x):
        """e^x for x <= 0: one factor suffices."""
        x = self.where(x < self._exp_low, self._exp_low, x)
        q, n = self._reduce(x)
        s = self._pow2(n)
        return self.fma(q, s, s)

    def expm1_nonpositive(self, x):
        """e^x - 1 for x <= 0, relatively accurate near 0: 2^n (e^r - 1) + (2^n - 1)."""
        x = self.where(x < self._exp_low, self._exp_low, x)
        q, n = self._reduce(x)
        s = self._pow2(n)
        return self.fma(q, s, s - 1.0)

    def sigmoid(self, x):
        """1 / (1 + e^-x) as t / (1 + t) or 1 / (1 + t), t = e^-|x|: relatively accurate in both tails."""
        t = self.exp_nonpositive(-self.abs(x))
        return self.where(x < 0.0, t, 1.0) / (t + 1.0)

    def tanh(self, x):
        """-m / (2 + m), m = e^(-2|x|) - 1: no cancellation near 0."""
        m = self.expm1_nonpositive(self.abs(x) * -2.0)
        return self.copysign(m / (m + 2.0), x)

    def expm1(self, x):
        """e^x - 1 for x <= 0 accurate; for x > 0 through exp."""
        return self.where(x > 0.0, self.exp(x) - 1.0, self.expm1_nonpositive(self.where(x > 0.0, 0.0, x)))

    # -- log: x = 2^n m, m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m-1)/(m+1) (own minimax fit, relative error
    #    below 1e-9 / 2e-18).
    _LOG32 = (0.33333391629, 0.199883038079, 0.149493949789)
    _LOG64 = (
        0.3333333333333372361277, 0.1999999999966946738421, 0.142857143803452820981, 0.1111109827989123396078,
        0.09091837695898008805216, 0.07655528652386718470802, 0.07413653919892527314748,
    )  # fmt: skip

    def log(self, x):
        """0 (and denormals) give -inf, negative numbers NaN."""
        b = self.b
        mantissa, bias = (52, 1023) if self.double else (23, 127)
        sqrt_half = self._bits(0.70710678118654752440)
        bits = b.bitcast(x.v, self.ivec)
        shifted = b.sub(bits, self.iconst(sqrt_half))
        n = b.ashr(shifted, self.iconst(mantissa))
        m = V(self, b.bitcast(b.sub(bits, b.shl(n, self.iconst(mantissa))), self.vec))
        n = V(self, b.sitofp(n, self.vec))
        f = m - 1.0
        s = f / (f + 2.0)
        u = s * s
        p = self.poly(u, self._LOG64 if self.double else self._LOG32)
        # log m = 2s + 2s u p = f - s (f - 2 u p): the leading term f is exact
        ln2_hi = 0.693147180369123816490 if self.double else 0.693359375
        ln2_lo = 1.90821492927058770002e-10 if self.double else -2.12194440054690583e-4
        y = self.fma(n, ln2_lo, -(s * (f - 2.0 * (u * p))))
        y = self.fma(n, ln2_hi, f + y)
        smallest = 2.2250738585072014e-308 if self.double else 1.1754943508222875e-38
        y = self.where(x < smallest, float("-inf"), y)
        y = self.where(x < 0.0, float("nan"), y)
        return self.where(self.b.fcmp_unordered("==", x.v, self.value(float("inf"))), x, y)  # inf and NaN go through

    def log1p(self, u):
        """log(1 + u) for u >= 0 (or > -1/2), relatively accurate near 0: log(w) + (u - (w - 1)) / w with w = 1 + u
        rounded.
        """
        w = u + 1.0
        return self.log(w) + (u - (w - 1.0)) / w

    def softplus(self, x):
        """log(1 + e^x) = max(x, 0) + log1p(e^-|x|)."""
        return self.where(x < 0.0, 0.0, x) + self.log1p(self.exp_nonpositive(-self.abs(x)))

    # -- the normal distribution function (gelu): erfc(z) = t G(2t-1) e^(-z^2), t = 2/(2+z), G a Chebyshev fit (2e-8 /
    #    6e-16 relative).
    _ERFC32 = (
        0.51079135262, 0.34358031255, 0.1397359458, 0.018221749115, -0.010753310883, -0.0032437330678, 0.0015338470443,
        0.00043104002164, -0.00030471908641, -3.6764361636e-5, 4.4288414671e-5,
    )  # fmt: skip
    _ERFC64 = (
        0.51079135262101179013, 0.34358034220690538641, 0.13973604627794016395, 0.018221115753413863869,
        -0.010755330940551767735, -0.0032395925326627493033, 0.0015453059501721662173, 0.00041864800911864328735,
        -0.00033153596951670033553, -0.000017185510228970984799, 0.00007223078005558085447, -0.000017075587078862069408,
        -0.000010830840140061017639, 8.0643388250289037297e-6, -6.0616606481760877561e-7, -1.8303070086835044916e-6,
        1.0753034265368384457e-6, 1.0360790539807586412e-8, -3.7262437397408343641e-7, 1.5349222085928224862e-7,
        6.65169109835638774e-8, -5.2973359624286689511e-8, -5.0219306697200967976e-9, 6.8621256314895694573e-9,
    )  # fmt: skip

    def normal_cdf(self, x):
        z = self.abs(x) * 0.70710678118654752440
        t = 2.0 / (z + 2.0)
        tail = 0.5 * t * self.poly(t * 2.0 - 1.0, self._ERFC64 if self.double else self._ERFC32)
        tail = tail * self.exp_nonpositive(-0.5 * x * x)
        return self.where(x < 0.0, tail, 1.0 - tail)

    def across(self, x, combine):
        """All lanes of x combined, in halves; every lane of the result holds it."""
        count = self.lanes
        while count > 1:
            count //= 2
            turned = [ir.Constant(I32, (i + count) % self.lanes) for i in range(self.lanes)]
            turned = ir.Constant(ir.VectorType(I32, self.lanes), turned)
            x = combine(x, V(self, self.b.shuffle_vector(x.v, ir.Constant(self.vec, ir.Undefined), turned)))
        return x

    # -- control flow and helper functions
    def loop(self, count, carried, body):
        """for i in range(count): carried = body(i, carried); vectors in registers (phi nodes). Returns the last
        `carried`.
        """
        b = self.b
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("loop", "loop.body", "loop.end"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(ir.Constant(I64, 0), before)
        phis = []
        for x in carried:
            p = b.phi(x.v.type if isinstance(x, V) else x.type)
            p.add_incoming(x.v if isinstance(x, V) else x, before)
            phis.append(p)
        wrapped = [V(self, p) if isinstance(x, V) else p for p, x in zip(phis, carried, strict=True)]
        b.cbranch(b.icmp_signed("<", i, count), inside, after)
        b.position_at_end(inside)
        new = body(i, wrapped)
        last = b.block
        i.add_incoming(b.add(i, ir.Constant(I64, 1)), last)
        for p, x in zip(phis, new, strict=True):
            p.add_incoming(x.v if isinstance(x, V) else x, last)
        b.branch(head)
        b.position_at_end(after)
        return wrapped

    def function(self, name, arguments, result, write):
        """A module-private LLVM function, written once a module: ``write(emitter, args)`` emits its body and returns
        the result (or None).
        """
        module = self.b.module
        name = f"fastmask.{name}.{self.suffix}"
        if name in module.globals:
            return module.globals[name]
        f = ir.Function(module, ir.FunctionType(result, arguments), name)
        f.linkage = "internal"
        f.attributes.add("noinline")
        f.attributes.add("nounwind")
        builder = ir.IRBuilder(f.append_basic_block("entry"))
        out = write(Emitter(builder, self.real), list(f.args))
        builder.ret_void() if out is None else builder.ret(out)
        return f


# ----------------------------------------------------------------------------------------------------------------------
# The same for numba code


class VecType(types.Type):
    """<lanes x real>."""

    def __init__(self, real):
        self.real = real
        super().__init__(name=f"Vec({real}, {VECTOR_BYTES})")


class LaneMaskType(types.Type):
    """<lanes x i1>: result of a comparison, for `where`."""

    def __init__(self, real):
        self.real = real
        super().__init__(name=f"LaneMask({real}, {VECTOR_BYTES})")


@register_model(VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        lanes = VECTOR_BYTES // (fe_type.real.bitwidth // 8)
        scalar = ir.DoubleType() if fe_type.real == types.float64 else ir.FloatType()
        super().__init__(dmm, fe_type, ir.VectorType(scalar, lanes))


@register_model(LaneMaskType)
class _LaneMaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(I1, VECTOR_BYTES // (fe_type.real.bitwidth // 8)))


def _as_vector(e, value, ty):
    """A numba operand as V: vectors as they are, numbers splatted."""
    if isinstance(ty, VecType):
        return V(e, value)
    if isinstance(ty, types.Float):
        if value.type != e.scalar:
            value = e.b.fptrunc(value, e.scalar) if ty.bitwidth > 8 * e.bytes else e.b.fpext(value, e.scalar)
    else:
        value = e.b.sitofp(value, e.scalar)
    return e.splat(value)


def _register(op, method, result):
    class Template(AbstractTemplate):
        key = op

        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, VecType)]
            if vectors and all(a == vectors[0] or isinstance(a, types.Number) for a in args):
                return signature(result(vectors[0].real), *args)

    infer_global(op)(Template)

    def lower(context, builder, sig, args):
        real = next(a.real for a in sig.args if isinstance(a, VecType))
        e = Emitter(builder, real)
        out = method(*(_as_vector(e, v, t) for v, t in zip(args, sig.args, strict=True)))
        return out.v if isinstance(out, V) else out

    for pattern in ((VecType, VecType), (VecType, types.Number), (types.Number, VecType)):
        lower_builtin(op, *pattern)(lower)


_register(operator.add, lambda a, b: a + b, VecType)
_register(operator.sub, lambda a, b: a - b, VecType)
_register(operator.mul, lambda a, b: a * b, VecType)
_register(operator.truediv, lambda a, b: a / b, VecType)
_register(operator.lt, lambda a, b: a < b, LaneMaskType)
_register(operator.le, lambda a, b: a <= b, LaneMaskType)
_register(operator.gt, lambda a, b: a > b, LaneMaskType)
_register(operator.ge, lambda a, b: a >= b, LaneMaskType)


@infer_global(operator.neg)
class _Neg(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 1 and isinstance(args[0], VecType):
            return signature(args[0], args[0])


@lower_builtin(operator.neg, VecType)
def _lower_neg(context, builder, sig, args):
    return builder.fneg(args[0])


def _real(ty):
    """The float type named by a `real` argument (types.float32 passed as a value)."""
    return ty.instance_type


def _is_int(*tys):
    return all(isinstance(t, types.Integer) for t in tys)


@intrinsic
def lanes(typingctx, real):
    """Elements of a vector of `real`."""

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, VECTOR_BYTES // (_real(sig.args[0]).bitwidth // 8))

    return types.int64(real), codegen


@intrinsic
def itemsize(typingctx, real):
    """Bytes of one `real`."""

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, _real(sig.args[0]).bitwidth // 8)

    return types.int64(real), codegen


@intrinsic
def load(typingctx, real, address):
    """A whole vector at an address (no alignment asked)."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        return e.load(e.ptr(args[1])).v

    return VecType(_real(real))(real, types.int64), codegen


@intrinsic
def load_part(typingctx, real, address, count):
    """The first `count` elements; other lanes are 0 and their memory is not read."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        return e.load_part(e.ptr(args[1]), args[2]).v

    return VecType(_real(real))(real, types.int64, types.int64), codegen


@intrinsic
def store(typingctx, address, v):
    """Store a whole vector."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.args[1].real)
        e.store(e.ptr(args[0]), V(e, args[1]))
        return context.get_dummy_value()

    return types.void(types.int64, v), codegen


@intrinsic
def store_part(typingctx, address, v, count):
    """Store the first `count` elements only."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.args[1].real)
        e.store_part(e.ptr(args[0]), V(e, args[1]), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, v, types.int64), codegen


@intrinsic
def load_strided(typingctx, real, address, stride, count):
    """Lane i from address + i * stride bytes, i < count; other lanes are 0 and their memory is not read."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        _, address, stride, count = args
        out = cgutils.alloca_once(builder, e.vec)
        builder.store(ir.Constant(e.vec, None), out)

        def body(i, carried):
            x = builder.load(e.ptr(builder.add(address, builder.mul(i, stride))), align=e.bytes, typ=e.scalar)
            builder.store(x, e.at(out, i), align=e.bytes)
            return []

        e.loop(count, [], body)
        return builder.load(out)

    return VecType(_real(real))(real, types.int64, types.int64, types.int64), codegen


@intrinsic
def store_strided(typingctx, address, stride, v, count):
    """Lane i to address + i * stride bytes, i < count."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.args[2].real)
        address, stride, v, count = args
        tmp = cgutils.alloca_once_value(builder, v)

        def body(i, carried):
            x = builder.load(e.at(tmp, i), align=e.bytes, typ=e.scalar)
            builder.store(x, e.ptr(builder.add(address, builder.mul(i, stride))), align=e.bytes)
            return []

        e.loop(count, [], body)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, v, types.int64), codegen


@intrinsic
def transpose_part(typingctx, real, source, stride, rows, columns, out, out_stride):
    """Columns of a square of `lanes` rows, `stride` bytes apart, to vectors `out_stride` bytes apart.

    Elements outside the first `rows` rows and `columns` columns are 0, and their memory is not read; all vectors are
    written.
    """

    def codegen(context, builder, sig, args):
        def write(e, a):
            source, stride, rows, columns, out, out_stride = a
            b, vectors = e.b, []
            for i in range(e.lanes):
                count = b.select(b.icmp_signed("<", ir.Constant(I64, i), rows), columns, ir.Constant(I64, 0))
                vectors.append(e.load_part(e.ptr(b.add(source, b.mul(stride, ir.Constant(I64, i)))), count))
            for i, v in enumerate(e.transpose(vectors)):
                e.store(e.ptr(b.add(out, b.mul(out_stride, ir.Constant(I64, i)))), v)

        e = Emitter(builder, _real(sig.args[0]))
        builder.call(e.function("transpose_part", [I64] * 6, ir.VoidType(), write), args[1:])
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 6), codegen


@intrinsic
def splat(typingctx, real, x):
    """Every lane x."""

    def codegen(context, builder, sig, args):
        return _as_vector(Emitter(builder, _real(sig.args[0])), args[1], sig.args[1]).v

    return VecType(_real(real))(real, x), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once; numbers are splatted, at least one argument is a vector."""
    vec = next(t for t in (a, b, c) if isinstance(t, VecType))

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.return_type.real)
        return e.fma(*(_as_vector(e, v, t) for v, t in zip(args, sig.args, strict=True))).v

    return vec(a, b, c), codegen


@intrinsic
def where(typingctx, condition, a, b):
    """Lane by lane: a where condition, else b."""
    vec = VecType(condition.real)

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.return_type.real)
        return e.where(args[0], _as_vector(e, args[1], sig.args[1]), _as_vector(e, args[2], sig.args[2])).v

    return vec(condition, a, b), codegen


def _unary_intrinsic(name, doc):
    def function(typingctx, x):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, sig.args[0].real)
            return getattr(e, name)(V(e, args[0])).v

        return (x(x), codegen) if isinstance(x, VecType) else None

    function.__name__ = f"v{name}"
    function.__doc__ = doc
    return intrinsic(function)


vabs = _unary_intrinsic("abs", "|x|.")
vsqrt = _unary_intrinsic("sqrt", "Square root.")
vexp = _unary_intrinsic("exp", "e^x, at most 4 ulp where the result is a normal number; below: 0.")
vlog = _unary_intrinsic("log", "Natural logarithm; 0 and denormals give -inf, negative numbers NaN.")
vlog1p = _unary_intrinsic("log1p", "log(1 + x), x >= 0.")
vtanh = _unary_intrinsic("tanh", "Hyperbolic tangent, at most 4 ulp.")
vsigmoid = _unary_intrinsic("sigmoid", "1 / (1 + e^-x), at most 4 ulp.")
vsoftplus = _unary_intrinsic("softplus", "log(1 + e^x).")
vnormal_cdf = _unary_intrinsic("normal_cdf", "Distribution function of the standard normal (gelu).")


@intrinsic
def lane(typingctx, v, i):
    """Element i of a vector."""

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], builder.trunc(args[1], I32))

    return v.real(v, types.int64), codegen


# -- scalars in memory


def _scalar_access(llvm_type, numba_type):
    def get(typingctx, address, index):
        def codegen(context, builder, sig, args):
            p = builder.gep(builder.inttoptr(args[0], PTR), [args[1]], source_etype=llvm_type)
            return builder.load(
                p, align=llvm_type.width // 8 if isinstance(llvm_type, ir.IntType) else 8, typ=llvm_type
            )

        return numba_type(types.int64, types.int64), codegen

    def put(typingctx, address, index, value):
        def codegen(context, builder, sig, args):
            p = builder.gep(builder.inttoptr(args[0], PTR), [args[1]], source_etype=llvm_type)
            builder.store(args[2], p, align=llvm_type.width // 8 if isinstance(llvm_type, ir.IntType) else 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, numba_type), codegen

    return intrinsic(get), intrinsic(put)


get_i64, put_i64 = _scalar_access(I64, types.int64)
get_u8, put_u8 = _scalar_access(I8, types.uint8)
get_f64, put_f64 = _scalar_access(ir.DoubleType(), types.float64)


@intrinsic
def get_real(typingctx, real, address, index):
    """Element `index` of a `real` array at an address."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        return builder.load(e.at(e.ptr(args[1]), args[2]), align=e.bytes, typ=e.scalar)

    return _real(real)(real, types.int64, types.int64), codegen


@intrinsic
def put_real(typingctx, real, address, index, value):
    """Set element `index` of a `real` array; value is cast."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        builder.store(args[3], e.at(e.ptr(args[1]), args[2]), align=e.bytes)
        return context.get_dummy_value()

    return types.void(real, types.int64, types.int64, _real(real)), codegen


@intrinsic(prefer_literal=True)
def unpack(typingctx, args, count):
    """The first `count` (a literal) int64 arguments of a kernel as a tuple."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    n = count.literal_value
    tup = types.UniTuple(types.int64, n)

    def codegen(context, builder, sig, llargs):
        p = builder.inttoptr(llargs[0], PTR)
        values = [
            builder.load(builder.gep(p, [ir.Constant(I64, i)], source_etype=I64), align=8, typ=I64) for i in range(n)
        ]
        return context.make_tuple(builder, sig.return_type, values)

    return tup(types.int64, count), codegen


@intrinsic(prefer_literal=True)
def stopped(typingctx, args, count):
    """Whether the launch was given up (_threads.py): loops that may run for a tenth of a second ask this and leave.

    count: the number of arguments, as for `unpack`; behind them lies the block counter.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, llargs):
        p = builder.gep(builder.inttoptr(llargs[0], PTR), [ir.Constant(I64, count.literal_value)], source_etype=I64)
        counter = builder.load_atomic(p, "monotonic", 8, typ=I64)
        return builder.icmp_signed(">=", counter, ir.Constant(I64, STOPPED))

    return types.boolean(types.int64, count), codegen


@intrinsic(prefer_literal=True)
def stack(typingctx, count):
    """Address of `count` (a literal) int64 on the stack of this call."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        slot = cgutils.alloca_once(builder, ir.ArrayType(I64, count.literal_value))
        return builder.ptrtoint(slot, I64)

    return types.int64(count), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Fetch and add on an int64."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], PTR), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


def declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def is_arm():
    return binding.get_default_triple().startswith(("aarch64", "arm64"))


def is_x86():
    return binding.get_default_triple().startswith(("x86_64", "i686", "i386", "amd64"))


@intrinsic
def load_acquire(typingctx, address):
    """The word at address; what was written before it is seen, too."""

    def codegen(context, builder, sig, a):
        return builder.load_atomic(builder.inttoptr(a[0], PTR), "acquire", 8, typ=I64)

    return types.int64(types.int64), codegen


@intrinsic
def compare_exchange(typingctx, address, old, new):
    """Whether the word at address was `old` and is now `new`."""

    def codegen(context, builder, sig, a):
        out = builder.cmpxchg(builder.inttoptr(a[0], PTR), a[1], a[2], "acq_rel", "monotonic")
        return builder.zext(builder.extract_value(out, 1), I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """A short rest for the other hardware thread of the core."""

    def codegen(context, builder, sig, a):
        if is_x86():
            builder.call(declare(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif is_arm():
            builder.call(declare(builder, "llvm.aarch64.hint", ir.VoidType(), [I32]), [ir.Constant(I32, 1)])  # yield
        return context.get_dummy_value()

    return types.void(), codegen
