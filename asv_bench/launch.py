"""What a launch costs on each path: serial, the own pool, numba's prange; alone and beside one foreign busy process.

    python asv_bench/launch.py

Prints the median and the 99th percentile, in microseconds, of masked LSTM forward passes of growing size, for each of
numba's threading layers that loads here; the paths take turns. This is the measurement behind the pool as default
(fastmask/kernels/_jit.py).
"""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIZES = [(8, 10, 16, 32), (16, 20, 32, 64), (32, 50, 64, 64), (32, 200, 64, 128)]
LAYERS = ("omp", "tbb", "workqueue")
ROUNDS, IN_A_ROW = 20, 10  # as the kernels of a training step follow each other


def load_layer(name):
    """Whether numba's threading layer `name` can be had; TBB also where pip has put it, which numba does not search."""
    library = Path(sys.prefix, "lib", "libtbb.so.12")
    if name == "tbb" and library.exists():
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    try:
        __import__(f"numba.np.ufunc.{'workqueue' if name == 'workqueue' else name + 'pool'}")
    except ImportError:
        return False
    return True


def measure(size, paths):
    """Path -> seconds of each call."""
    import fastmask as fm
    from fastmask.kernels import _jit
    from fastmask.ops.lstm import lstm_pack

    B, T, F, H = size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, F), dtype=np.float32)
    kernel, recurrent_kernel = (rng.standard_normal((n, 4 * H), dtype=np.float32) / n**0.5 for n in (F, H))
    packed = lstm_pack(kernel, recurrent_kernel)
    times = {path: [] for path in paths}
    try:
        for _ in range(ROUNDS):
            for path in paths:
                _jit._forced = path
                for turn in range(-1, IN_A_ROW):
                    start = time.perf_counter()
                    fm.lstm(x, kernel, recurrent_kernel, packed=packed)
                    if turn >= 0:
                        times[path].append(time.perf_counter() - start)
                time.sleep(0.002)  # threads of one path must not spin into the next
    finally:
        _jit._forced = None
    return times


def table(title):
    """Print the table of this process's threading layer."""
    from fastmask.kernels import _jit

    paths = ("serial", "pool", "prange") if _jit._prange() else ("serial", "pool")
    head = " | ".join(f"{p} p50 | p99" for p in paths)
    print(f"\n{title}\n\n| (B,T,F,H) | {head} |\n|---|" + "---|---|" * len(paths))
    for size in SIZES:
        times = measure(size, paths)
        cells = (f"{np.percentile(times[p], q) * 1e6:.0f}" for p in paths for q in (50, 99))
        print(f"| {','.join(map(str, size))} | " + " | ".join(cells) + " |", flush=True)


def main():
    if len(sys.argv) > 1:  # in a process of its own: numba takes one layer for good
        if load_layer(sys.argv[1]):
            table(" ".join(sys.argv[1:]))
        else:
            print(f"\n{sys.argv[1]}: does not load here", flush=True)
        return
    for layer in LAYERS:
        environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
        command = [sys.executable, __file__, layer]
        subprocess.run([*command, "alone, microseconds"], env=environment, check=True)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            subprocess.run([*command, "beside one busy process, microseconds"], env=environment, check=True)
        finally:
            busy.kill()


if __name__ == "__main__":
    main()
