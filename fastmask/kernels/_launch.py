"""What runs on each thread of a launch: the block loop, its prange form, and the denormal mode. Compiled and called by `_jit.py`."""

from llvmlite import binding, ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I32, I64, PTR, atomic_add

# A compiled kernel is int32 f(void **ret, void **exc, int64 block, int64 args, void *real); ret, exc and real are never used.
BLOCK_ABI = ir.FunctionType(I32, [PTR, PTR, I64, I64, PTR])
DRAIN_ABI = ir.FunctionType(I32, [PTR, PTR, I64, I64, I64, I64])


@intrinsic
def _call_block(typingctx, kernel, block, args):
    def codegen(context, builder, sig, a):
        ret, exc = cgutils.alloca_once(builder, PTR), cgutils.alloca_once(builder, PTR)
        fn = builder.inttoptr(a[0], BLOCK_ABI.as_pointer())
        builder.call(fn, [ret, exc, a[1], a[2], ir.Constant(PTR, None)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _call_drain(typingctx, drain, kernel, args, counter, blocks):
    def codegen(context, builder, sig, a):
        ret, exc = cgutils.alloca_once(builder, PTR), cgutils.alloca_once(builder, PTR)
        builder.call(builder.inttoptr(a[0], DRAIN_ABI.as_pointer()), [ret, exc, *a[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


def _is_x86():
    return binding.get_default_triple().startswith(("x86_64", "i686", "i386", "amd64"))


@intrinsic
def _flush_denormals(typingctx):
    """Turn denormals into zeros on this thread; returns the former mode. Denormals made decaying states 4 to 67 times slower."""

    def codegen(context, builder, sig, args):
        if _is_x86():
            slot = cgutils.alloca_once(builder, I32)
            stmxcsr = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [PTR]), "llvm.x86.sse.stmxcsr")
            ldmxcsr = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [PTR]), "llvm.x86.sse.ldmxcsr")
            builder.call(stmxcsr, [slot])
            old = builder.load(slot, typ=I32)
            builder.store(builder.or_(old, ir.Constant(I32, 0x8040)), slot)  # FTZ | DAZ
            builder.call(ldmxcsr, [slot])
            return builder.zext(old, I64)
        if binding.get_default_triple().startswith(("aarch64", "arm64")):
            old = builder.asm(ir.FunctionType(I64, []), "mrs $0, fpcr", "=r", [], True)
            builder.asm(ir.FunctionType(ir.VoidType(), [I64]), "msr fpcr, $0", "r", [builder.or_(old, ir.Constant(I64, 1 << 24))], True)
            return old
        return ir.Constant(I64, 0)

    return types.int64(), codegen


@intrinsic
def _restore_denormals(typingctx, mode):
    def codegen(context, builder, sig, args):
        if _is_x86():
            slot = cgutils.alloca_once_value(builder, builder.trunc(args[0], I32))
            ldmxcsr = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [PTR]), "llvm.x86.sse.ldmxcsr")
            builder.call(ldmxcsr, [slot])
        elif binding.get_default_triple().startswith(("aarch64", "arm64")):
            builder.asm(ir.FunctionType(ir.VoidType(), [I64]), "msr fpcr, $0", "r", [args[0]], True)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def drain(kernel, args, counter, blocks):
    """Take blocks off the shared counter until none is left: dynamic scheduling for whatever number of threads calls this at once."""
    mode = _flush_denormals()
    while True:
        block = atomic_add(counter, 1)
        if block >= blocks:
            break
        _call_block(kernel, block, args)
    _restore_denormals(mode)


def prange_drain(drain, kernel, args, counter, blocks, threads):
    """`drain` on every thread of numba's pool (compiled with parallel=True). Iterations may share a thread: there is no barrier inside."""
    for _ in prange(threads):
        _call_drain(drain, kernel, args, counter, blocks)
