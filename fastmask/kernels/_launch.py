"""What runs on each thread of a launch: the block loop, its prange form, and the denormal mode. Compiled and called by
`_jit.py`.
"""

from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from ._jit import kernel as block_kernel
from .simd import (
    I32,
    I64,
    PTR,
    atomic_add,
    compare_exchange,
    declare,
    get_i64,
    is_arm,
    is_x86,
    load_acquire,
    pause,
    put_i64,
    unpack,
)

# A compiled kernel is int32 f(void **ret, void **exc, int64 block, int64 args, void *real); ret, exc and real are never
# used.
BLOCK_ABI = ir.FunctionType(I32, [PTR, PTR, I64, I64, PTR])
DRAIN_ABI = ir.FunctionType(I32, [PTR, PTR, I64, I64, I64, I64])


@intrinsic
def call_block(typingctx, kernel, block, args):
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


@intrinsic
def _flush_denormals(typingctx):
    """Turn denormals into zeros on this thread; returns the former mode. Denormals made decaying states 4 to 67 times
    slower.
    """

    def codegen(context, builder, sig, args):
        if is_x86():
            slot = cgutils.alloca_once(builder, I32)
            ldmxcsr = declare(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [PTR])
            builder.call(declare(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [PTR]), [slot])
            old = builder.load(slot, typ=I32)
            builder.store(builder.or_(old, ir.Constant(I32, 0x8040)), slot)  # FTZ | DAZ
            builder.call(ldmxcsr, [slot])
            return builder.zext(old, I64)
        if is_arm():
            old = builder.call(declare(builder, "llvm.aarch64.get.fpcr", I64, []), [])
            # FZ
            builder.call(
                declare(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [I64]),
                [builder.or_(old, ir.Constant(I64, 1 << 24))],
            )
            return old
        return ir.Constant(I64, 0)

    return types.int64(), codegen


@intrinsic
def _restore_denormals(typingctx, mode):
    def codegen(context, builder, sig, args):
        if is_x86():
            slot = cgutils.alloca_once_value(builder, builder.trunc(args[0], I32))
            builder.call(declare(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [PTR]), [slot])
        elif is_arm():
            builder.call(declare(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [I64]), [args[0]])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@register_jitable
def drain(kernel, args, counter, blocks):
    """Take blocks off the shared counter until none is left: dynamic scheduling for whatever number of threads calls
    this at once.
    """
    mode = _flush_denormals()
    while True:
        block = atomic_add(counter, 1)
        if block >= blocks:
            break
        call_block(kernel, block, args)
    _restore_denormals(mode)


def drain_prepared(words):
    """`drain` of a launch from its start, on this thread alone; words: kernel, args, counter, blocks."""
    kernel, args, counter, blocks = unpack(words, 4)
    put_i64(counter, 0, 0)
    drain(kernel, args, counter, blocks)


@block_kernel("jobs")
def together(block, args, real):
    """Several kernels as one. Parallel: the blocks of the first, then those of the next.

    jobs: three words a kernel: address, arguments, number of blocks.
    """
    (jobs,) = unpack(args, 1)
    left = get_i64(jobs, 2)
    while block >= left:
        block -= left
        jobs += 24
        left = get_i64(jobs, 2)
    call_block(get_i64(jobs, 0), block, get_i64(jobs, 1))


# -- the own pool, in native code: a launch is a slot of int64 words; the caller opens and closes it, helpers enter and
#    leave

STATE, GENERATION, LIMIT, KERNEL, ARGS, COUNTER, BLOCKS, COMING, SLOT_WORDS = range(9)
OPEN = 1 << 32  # STATE is OPEN (while the caller is inside) plus the number of helpers inside


def lead(slot, kernel, args, counter, blocks, spins):
    """The caller's part of a launch: open the slot, work, close it, wait a little for helpers that are still inside
    (STATE is 0 if none is).
    """
    put_i64(slot, KERNEL, kernel)
    put_i64(slot, ARGS, args)
    put_i64(slot, COUNTER, counter)
    put_i64(slot, BLOCKS, blocks)
    put_i64(slot, GENERATION, get_i64(slot, GENERATION) + 1)
    atomic_add(slot, OPEN)
    drain(kernel, args, counter, blocks)
    atomic_add(slot, -OPEN)
    while spins > 0 and load_acquire(slot) != 0:
        pause()
        spins -= 1


def serve(slot, awake, spins):
    """A helper's part: enter every launch that opens, once; return after `spins` rounds without one.

    Staying awake between launches matters: waking a sleeping thread takes 50-100 us, a training step has a dozen
    launches. awake: address of a word that is 1 in here, else 0. A caller says that it is COMING before it looks at
    that word, a helper looks for who is coming after it has changed it: one of them sees the other.
    """
    compare_exchange(awake, 0, 1)
    seen = 0
    idle = 0
    while True:
        if idle >= spins:
            compare_exchange(awake, 1, 0)
            if load_acquire(slot + 8 * COMING) == 0:
                break
            compare_exchange(awake, 0, 1)
            idle = 0
        state = load_acquire(slot)
        if state >= OPEN and get_i64(slot, GENERATION) != seen and state - OPEN < get_i64(slot, LIMIT):
            if compare_exchange(slot, state, state + 1) != 0:
                seen = get_i64(slot, GENERATION)
                drain(get_i64(slot, KERNEL), get_i64(slot, ARGS), get_i64(slot, COUNTER), get_i64(slot, BLOCKS))
                atomic_add(slot, -1)
                idle = 0
        else:
            pause()
            idle += 1


def prange_drain(drain, kernel, args, counter, blocks, threads):
    """`drain` on every thread of numba's pool (compiled with parallel=True). Iterations may share a thread: there is no
    barrier inside.
    """
    for _ in prange(threads):
        _call_drain(drain, kernel, args, counter, blocks)
