"""What a launch costs on each path: serial, the own pool, numba's prange; alone and beside one foreign busy process.

    python asv_bench/launch.py

Prints the median and the 90th percentile, in microseconds, of masked LSTM forward passes of growing size; the paths
take turns. This is the measurement behind the pool as default (fastmask/kernels/_jit.py).
"""

import subprocess
import sys
import time

import numpy as np

SIZES = [(8, 10, 16, 32), (16, 20, 32, 64), (32, 50, 64, 64), (32, 200, 64, 128)]
PATHS = ("serial", "pool", "prange")
ROUNDS = 40


def measure(size):
    """Path -> seconds of each round; each path runs a few times in a row, as the kernels of a training step do."""
    import fastmask as fm
    from fastmask.kernels import _jit
    from fastmask.ops.lstm import lstm_pack

    B, T, F, H = size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, F), dtype=np.float32)
    kernel, recurrent_kernel = (rng.standard_normal((n, 4 * H), dtype=np.float32) / n**0.5 for n in (F, H))
    packed = lstm_pack(kernel, recurrent_kernel)
    times = {path: [] for path in PATHS}
    try:
        for path in PATHS:
            _jit._forced = path
            for round_ in range(ROUNDS + 5):
                start = time.perf_counter()
                fm.lstm(x, kernel, recurrent_kernel, packed=packed)
                if round_ >= 5:
                    times[path].append(time.perf_counter() - start)
            time.sleep(0.05)  # threads of one path must not spin into the next
    finally:
        _jit._forced = None
    return times


def table(title):
    print(
        f"\n{title}\n\n| (B,T,F,H) | "
        + " | ".join(f"{p} p50 | p90" for p in PATHS)
        + " |\n|---|"
        + "---|---|" * len(PATHS)
    )
    for size in SIZES:
        times = measure(size)
        cells = (f"{np.percentile(times[p], q) * 1e6:.0f}" for p in PATHS for q in (50, 90))
        print(f"| {','.join(map(str, size))} | " + " | ".join(cells) + " |", flush=True)


def main():
    table("alone, microseconds")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        table("beside one busy process, microseconds")
    finally:
        busy.kill()


if __name__ == "__main__":
    main()
