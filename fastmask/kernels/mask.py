"""Masks from values, masked steps set to zero or looked through: one pass over the memory each.

The comparison works on the bits, not on the numbers: kernels run with denormals flushed to zero, but a denormal is data
(semantics A14).
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .simd import (
    I64,
    Emitter,
    _real,
    fma,
    get_u8,
    itemsize,
    lanes,
    load,
    load_part,
    put_u8,
    splat,
    store,
    store_part,
    unpack,
)

BLOCK = 512  # steps of one block


@intrinsic
def _any_differs(typingctx, real, address, count, bits, relevant):
    """Whether some of `count` reals at an address differ from `bits` in the bits of `relevant`."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        _, address, count, bits, relevant = args

        def splat_int(x):
            x = builder.trunc(x, e.int) if not e.double else x
            one = builder.insert_element(ir.Constant(e.ivec, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), e.lanes), [ir.Constant(ir.IntType(32), 0)] * e.lanes)
            return builder.shuffle_vector(one, ir.Constant(e.ivec, ir.Undefined), zeros)

        wanted, keep = splat_int(bits), splat_int(relevant)
        L = ir.Constant(I64, e.lanes)
        mask_int = ir.IntType(e.lanes)
        p = e.ptr(address)
        whole = builder.sdiv(count, L)

        def different(x):
            x = builder.and_(builder.bitcast(x.v, e.ivec), keep)
            return builder.bitcast(builder.icmp_unsigned("!=", x, wanted), mask_int)

        def body(i, found):
            return [builder.or_(found[0], different(e.load(e.at(p, builder.mul(i, L)))))]

        found = e.loop(whole, [ir.Constant(mask_int, 0)], body)[0]
        done = builder.mul(whole, L)
        left = builder.sub(count, done)
        # lanes behind the last element were not loaded: they do not count
        tail = different(e.load_part(e.at(p, done), left))
        counted = builder.sub(builder.shl(ir.Constant(I64, 1), left), ir.Constant(I64, 1))
        counted = builder.trunc(counted, mask_int) if e.lanes < 64 else counted
        found = builder.or_(found, builder.and_(tail, counted))
        return builder.zext(builder.icmp_unsigned("!=", found, ir.Constant(mask_int, 0)), I64)

    return types.int64(real, *[types.int64] * 4), codegen


@intrinsic
def _any_nan(typingctx, v):
    """Whether one of the lanes is NaN."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, sig.args[0].real)
        lanes = builder.bitcast(builder.fcmp_unordered("uno", args[0], args[0]), ir.IntType(e.lanes))
        return builder.icmp_unsigned("!=", lanes, ir.Constant(lanes.type, 0))

    return types.boolean(v), codegen


@kernel("x steps size bits relevant mask")
def from_values(block, args, real):
    """mask[n] = any of x[n, :size] differs from the value with these bits. Parallel: blocks of BLOCK steps."""
    x, steps, size, bits, relevant, mask = unpack(args, 6)
    stride = size * itemsize(real)
    for n in range(block * BLOCK, min(steps, (block + 1) * BLOCK)):
        put_u8(mask, n, _any_differs(real, x + n * stride, size, bits, relevant))


@kernel("x mask y steps size")
def zero_masked(block, args, real):
    """y[n, :size] = x[n] where mask[n], else 0. Parallel: blocks of BLOCK steps."""
    x, mask, y, steps, size = unpack(args, 5)
    L, bytes_ = lanes(real), itemsize(real)
    zero = splat(real, 0.0)
    for n in range(block * BLOCK, min(steps, (block + 1) * BLOCK)):
        p = n * size * bytes_
        use = get_u8(mask, n) != 0
        k = 0
        while k + L <= size:
            store(y + p + k * bytes_, load(real, x + p + k * bytes_) if use else zero)
            k += L
        if k < size:
            store_part(y + p + k * bytes_, load_part(real, x + p + k * bytes_, size - k) if use else zero, size - k)


@kernel("x mask steps size found")
def hidden_garbage(block, args, real):
    """found[block] = 1 if a number of x[n, :size] with mask[n] False is NaN or infinite. Parallel: blocks of BLOCK
    steps.
    """
    x, mask, steps, size, found = unpack(args, 5)
    L, bytes_ = lanes(real), itemsize(real)
    for n in range(block * BLOCK, min(steps, (block + 1) * BLOCK)):
        if get_u8(mask, n) == 0:
            p, zeros = x + n * size * bytes_, splat(real, 0.0)  # 0 x is NaN unless x is finite
            for k in range(0, size - L + 1, L):
                zeros = fma(load(real, p + k * bytes_), 0.0, zeros)
            k = size - size % L
            zeros = fma(load_part(real, p + k * bytes_, size - k), 0.0, zeros)
            if _any_nan(zeros):
                put_u8(found, block, 1)


@kernel("x mask steps size")
def clear_masked(block, args, real):
    """x[n, :size] = 0 where not mask[n]. Parallel: blocks of BLOCK steps."""
    x, mask, steps, size = unpack(args, 4)
    L, bytes_ = lanes(real), itemsize(real)
    zero = splat(real, 0.0)
    for n in range(block * BLOCK, min(steps, (block + 1) * BLOCK)):
        if get_u8(mask, n) == 0:
            p = x + n * size * bytes_
            for k in range(0, size - L + 1, L):
                store(p + k * bytes_, zero)
            k = size - size % L
            store_part(p + k * bytes_, zero, size - k)
