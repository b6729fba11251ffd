"""Where the time of a whole training step goes: recurrent kernels, matrix products, other kernels, Python and NumPy.

    python asv_bench/step.py            every model and size; a table, and a line with the share of recurrent + products
    python asv_bench/step.py --detail   also each kernel's share, and the Python functions with the longest own time

A step is `model.train_on_batch` under a mask with half of the steps valid, Adam and float32 weights. Kernels are timed
around their launch, so that waking the threads counts as theirs; Python and NumPy are the rest of the step. A line
shows medians over the steps.
"""

import argparse
import cProfile
import pstats
import time
from collections import Counter
from statistics import median

import numpy as np

import fastmask as fm
from benchmarks.common import mask, normal
from fastmask.kernels import _jit

SIZES = [(256, 100, 64, 256), (32, 200, 64, 128)]  # (B, T, F, H)
RECURRENT = ("lstm", "gru", "simple_rnn", "user_cell")
PRODUCTS = ("gemm.product", "gemm.products", "gemm.weight_gradient")
PARTS = ("recurrent", "products", "other kernels", "Python, NumPy")
GOAL = "recurrent + products"
CLASSES, WORDS = 20, 20_000


def tagger(B, T, F, H):
    """A label for each step: LSTM, softmax; with a metric."""
    model = fm.Sequential(
        [
            fm.Input((None, F)),
            fm.layers.LSTM(H, return_sequences=True),
            fm.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = normal(B, T, F), np.random.default_rng(1).integers(0, CLASSES, (B, T))
    return lambda: model.train_on_batch(x, y, mask=valid), (valid := mask(B, T))


def classifier(B, T, F, H):
    """A label for each row of word numbers: Embedding, GRU, sigmoid."""
    model = fm.Sequential(
        [fm.layers.Embedding(WORDS, F, mask_zero=True), fm.layers.GRU(H), fm.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy")
    rng = np.random.default_rng(1)
    ids = np.where(valid := mask(B, T), rng.integers(1, WORDS, (B, T)), 0)
    y = rng.integers(0, 2, (B, 1))
    return lambda: model.train_on_batch(ids, y), valid


MODELS = {"LSTM, softmax": tagger, "Embedding, GRU, sigmoid": classifier}


def part_of(kernel):
    """Which of PARTS a kernel belongs to; its name is module.function.dtype, of several in one launch joined by "+".
    Those go with the first: sums over steps for the bias, 1 % of the work, with the products.
    """
    kernel = kernel.partition("+")[0]
    if kernel.partition(".")[0] in RECURRENT:
        return "recurrent"
    return "products" if kernel.rpartition(".")[0] in PRODUCTS else "other kernels"


def measure(step, seconds=3.0):
    """(median seconds of a step, median share of each kernel, median share of each part), over about `seconds`."""
    launch, kernels, running = _jit.launch, Counter(), []

    def timed(kernel, *arguments):
        if running:  # a stand-in for the main thread, which waits: see _jit.LONG_WORK
            return launch(kernel, *arguments)
        running.append(kernel)
        start = time.perf_counter()
        launch(kernel, *arguments)
        kernels[running.pop().name] += time.perf_counter() - start

    for _ in range(3):
        step()
    totals, of_kernels, of_parts = [], [], []
    _jit.launch = timed
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(totals) < 5:
            kernels.clear()
            start = time.perf_counter()
            step()
            totals.append(time.perf_counter() - start)
            of_kernels.append({name: of_one / totals[-1] for name, of_one in kernels.items()})
            of_parts.append(Counter({PARTS[-1]: 1 - sum(of_kernels[-1].values())}))
            for name, share in of_kernels[-1].items():
                of_parts[-1][part_of(name)] += share
            of_parts[-1][GOAL] = of_parts[-1]["recurrent"] + of_parts[-1]["products"]
    finally:
        _jit.launch = launch
    return median(totals), medians(of_kernels), medians(of_parts)


def medians(counts):
    """Name -> median of its values in a list of dicts."""
    return {name: median(c.get(name, 0.0) for c in counts) for name in set().union(*counts)}


def print_detail(step, total, kernels):
    for name, share in sorted(kernels.items(), key=lambda item: -item[1]):
        print(f"    {1e3 * share * total:8.3f} ms  {share:6.1%}  {name}")
    profile = cProfile.Profile()
    for _ in range(5):
        profile.runcall(step)
    rows = [(s[2] / 5, f"{where[2]}  {where[0].rpartition('/')[2]}:{where[1]}") for where, s in
            pstats.Stats(profile).stats.items() if where[2] not in ("launch",)]  # fmt: skip
    for seconds, name in sorted(rows, reverse=True)[:25]:
        print(f"    {1e3 * seconds:8.3f} ms          {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detail", action="store_true", help="also each kernel's share, and Python functions")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line of the table")
    options = parser.parse_args()
    print(f"{fm.get_num_threads()} threads, float32\n")
    print(f"| model | (B,T,F,H) | valid | ms | {' | '.join(PARTS)} | {GOAL} |\n" + "|---" * (5 + len(PARTS)) + "|")
    for size in SIZES:
        for name, make in MODELS.items():
            step, valid = make(*size)
            total, kernels, parts = measure(step, options.seconds)
            cells = [name, ",".join(map(str, size)), f"{valid.mean():.0%}", f"{1e3 * total:.2f}"]
            cells += [f"{parts.get(part, 0.0):.1%}" for part in (*PARTS, GOAL)]
            print(f"| {' | '.join(cells)} |", flush=True)
            if options.detail:
                print_detail(step, total, kernels)


if __name__ == "__main__":
    main()
