"""The machine's FMA peak, a yardstick for benchmarks: chains of fused multiply-adds that stay in registers."""

from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .simd import TILE_ROWS, Emitter, _real, unpack

CHAINS = 4 * TILE_ROWS  # as many accumulators as a register tile has


@intrinsic
def _chains(typingctx, real, rounds, address):
    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        _, rounds, address = args
        p = e.ptr(address)
        a, b = e.load(p), e.load(p, 1)  # not known to the compiler

        acc = e.loop(rounds, [e.load(p, 2 + i) for i in range(CHAINS)], lambda i, acc: [e.fma(a, x, b) for x in acc])
        for i, x in enumerate(acc):
            e.store(p, x, 2 + i)
        return context.get_dummy_value()

    return types.void(real, types.int64, types.int64), codegen


@kernel("rounds values values_stride")
def fma_chains(block, args, real):
    """`rounds` dependent FMAs on each of CHAINS vectors. Parallel: a block is a thread's share."""
    rounds, values, values_stride = unpack(args, 3)
    _chains(real, rounds, values + block * values_stride)
