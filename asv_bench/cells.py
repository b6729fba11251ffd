"""What a cell of one's own costs: the minGRU of docs/custom_cells.md, compiled and in Python, beside the built-in GRU.

python asv_bench/cells.py
"""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import fastmask as fm
from benchmarks.user_cell import cell, min_gru

B, T, F = 32, 100, 64
NAMES = ("MinGRUCell", "PythonMinGRUCell", "GRUCell")
ROUNDS = 3
FIRST = """
import sys, time
sys.path.insert(0, {folder!r})
import numpy as np, fastmask as fm
x = np.ones((2, 3, 4), np.float32)
gru = fm.layers.GRU(4)
gru.backward(gru(x, training=True))
start = time.perf_counter()
import min_gru
layer = fm.layers.RNN(min_gru.MinGRUCell(5))
y = layer(x, training=True)
layer.backward(y)
print(time.perf_counter() - start)
"""


def measure(name, H):
    """Shortest times of an inference and of a training step in ms."""
    layer = fm.layers.RNN(cell(name, H), return_sequences=True)
    x = np.random.default_rng(0).standard_normal((B, T, F), dtype=np.float32)
    d = layer(x)

    def train():
        layer(x, training=True)
        layer.backward(d)

    return [shortest(lambda: layer(x)), shortest(train)]


def shortest(function, seconds=3.0):
    function()  # compiles
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def in_a_process(arguments, **settings):
    """What a fresh process prints: NumPy's BLAS in one would slow down the library in the next."""
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    return [float(number) for number in done.stdout.split()]


def main():
    cases = [(H, name) for H in (64, 128) for name in NAMES]
    one = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # 32 rows are too few for a second one
    rounds = [[in_a_process([__file__, name, str(H)], **one) for H, name in cases] for _ in range(ROUNDS)]
    print(
        f"(B,T,F) = ({B},{T},{F}), float32, every step valid, {fm.get_num_threads()} threads: ms (us a step of a row)\n"
    )
    print("| H | cell | inference | training |\n|---|---|---|---|")
    for (H, name), times in zip(cases, np.min(rounds, axis=0), strict=True):
        print(f"| {H} | {name} | " + " | ".join(f"{ms:.2f} ({1e3 * ms / (B * T):.2f})" for ms in times) + " |")
    with tempfile.TemporaryDirectory() as cache:
        code = FIRST.format(folder=os.path.dirname(min_gru().__file__))
        caches = {"FASTMASK_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
        first, second = (in_a_process(["-c", code], **caches)[0] for _ in range(2))
    print(
        f"\nimport of the cell and one step of training: {first:.2f} s in a first process, {second:.2f} s in the next"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(*measure(sys.argv[1], int(sys.argv[2])))
    else:
        main()
