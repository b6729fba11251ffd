"""What one step costs from Python: median and 99th percentile, in microseconds, of each way to call a layer of 64 units
on one row of 32 features, float32.

    python asv_bench/latency.py

The ways take turns, so that a slow moment of the machine does not fall on one alone; use an idle machine.
"""

import numpy as np

from benchmarks.latency import CELLS, microseconds, ways

ROUNDS = 5


def main():
    print("| layer | call | p50 | p99 |\n|---|---|---|---|")
    for cell in CELLS:
        functions = ways(cell)
        times = {way: [] for way in functions}
        for _ in range(ROUNDS):
            for way, function in functions.items():
                times[way].append(microseconds(function))
        for way, rounds in times.items():
            p50, p99 = np.percentile(np.concatenate(rounds), (50, 99))
            print(f"| {cell} | `{way}` | {p50:.2f} | {p99:.2f} |", flush=True)


if __name__ == "__main__":
    main()
