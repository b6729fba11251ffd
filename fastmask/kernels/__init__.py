"""All compiled code. Kernels import nothing of fastmask but each other; ops load them by name (`_jit.get`) and never
import a kernel module, so that a process with a
warm cache does not even import numba. The kernel contract stands in `_jit.py`, the memory layouts in `gemm.py` and
`cell.py`.
"""


def fma_peak(threads=1, seconds=0.3):
    """Highest float32 FLOP/s that `threads` threads reach on FMAs in registers: the best of several short runs within
    `seconds`.
    """
    import time

    import numpy as np

    from fastmask.kernels import _jit

    chains, lanes, rounds = 4 * _jit.TILE_ROWS, _jit.LANES, 20_000
    kernel = _jit.get("peak", "fma_chains", "float32")
    blocks = 64 * threads
    work = blocks * rounds * chains * lanes
    values = np.zeros((blocks, (chains + 2) * lanes), np.float32)
    before = _jit.get_num_threads()
    _jit.set_num_threads(threads)
    try:
        best, end = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            kernel.run(blocks, work, rounds=rounds, values=values, values_stride=values.strides[0])
            best = max(best, 2 * work / (time.perf_counter() - start))
    finally:
        _jit.set_num_threads(before)
    return best
