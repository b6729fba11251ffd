"""Memory over many calls of changing shapes: nothing may be kept of a call that is over.

    python tests/soak_memory.py --calls 100000      ends with exit code 1 if the process grows

Prints the memory of the process, and how many objects Python's collector knows, at six times. Buffers that are kept for
the next call, packed weights and plans are full after the first third; what grows after that is lost.
"""

import argparse
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

TIMES = 6


def resident():
    """Bytes of memory that the process holds at the moment."""
    if Path("/proc/self/statm").exists():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # elsewhere: the most it ever held

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def growth(jobs, calls, show=False):
    """(bytes, objects) by which the process grew in the last third of so many calls of jobs (name -> function)."""
    functions, rows = [*jobs.values()], []
    per_turn = calls // TIMES
    for turn in range(TIMES):
        for i in range(per_turn):
            functions[i % len(functions)]()
        gc.collect()
        rows.append((resident(), len(gc.get_objects())))
        if show:
            memory, objects = rows[-1]
            print(f"{per_turn * (turn + 1):9d} calls  {memory / 2**20:8.1f} MB  {objects} objects", flush=True)
    before, after = rows[TIMES - 3], rows[-1]
    return after[0] - before[0], after[1] - before[1]


def jobs():
    """name -> function that does something of another shape each time: every kind of op, layers, whole models."""
    import fastmask as fm
    from fastmask import layers, losses
    from fastmask.ops.gemm import dense_backward, dense_forward

    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def sizes():
        """B, T and a mask; now and then a batch too large for the plans of small calls."""
        B, T = rng.integers(1, 40), rng.integers(1, 160 if rng.random() < 0.05 else 30)
        return B, T, None if rng.random() < 0.3 else rng.random((B, T)) < 0.7

    F, H = 5, 19
    weights = {
        name: (normal(F, gates * H), 0.1 * normal(H, gates * H))
        for name, gates in (("lstm", 4), ("gru", 3), ("simple_rnn", 1))
    }

    def recurrent(name):
        infer, forward, backward = (getattr(fm, name + verb) for verb in ("", "_forward", "_backward"))

        def job():
            B, T, mask = sizes()
            x = normal(B, T, F)
            infer(x, *weights[name], mask=mask)
            result, tape = forward(x, *weights[name], mask=mask)
            if rng.random() < 0.8:  # or the tape is never used
                backward(tape, result.outputs)

        return job

    def dense():
        n, K = rng.integers(1, 300), rng.integers(1, 70)
        y, tape = dense_forward(normal(n, F), normal(F, K), activation="softmax")
        dense_backward(tape, y)

    def ragged():
        r = fm.Ragged.from_list([normal(n, F) for n in rng.integers(0, 20, rng.integers(1, 20))])
        x, mask = r.to_padded()
        fm.Ragged.from_padded(x, mask).take([0, -1])
        classifier.predict(r, verbose=0)

    def loss():
        B, T, mask = sizes()
        fm.losses.get(str(rng.choice(["mse", "huber", "poisson"]))).value_and_grad(
            abs(normal(B, T, 3)), abs(normal(B, T, 3)), mask=mask
        )

    def eager():
        """Layers called in training, with and without a backward."""
        B, T, mask = sizes()
        y = normal(B, T, F)
        for layer in stack:
            y = layer(y, mask=mask, training=True)
        if rng.random() < 0.5:
            g = np.ones_like(y)
            for layer in stack[::-1]:
                g = layer.backward(g)

    stack = [
        layers.Masking(), layers.Dense(7, "relu"), layers.LayerNormalization(), layers.BatchNormalization(),
        layers.Conv1D(6, 3, padding="same"), layers.Dropout(0.2),
        layers.Bidirectional(layers.GRU(5, return_sequences=True)), layers.Dense(4, "softmax"),
    ]  # fmt: skip
    classifier = fm.Sequential(
        [
            fm.Input((None, F)),
            layers.Masking(),
            layers.GRU(9),
            layers.Dropout(0.1),
            layers.Dense(3, activation="softmax"),
        ]
    )
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    words = fm.Input((None,), dtype="int32")
    h = layers.Embedding(50, 8, mask_zero=True)(words)
    attended = layers.Attention()([h, h])
    tagger = fm.Model(words, layers.Dense(4)(layers.LSTM(6, return_sequences=True)(attended)))
    tagger.compile("rmsprop", losses.MeanSquaredError())

    def train():
        B, T, mask = sizes()
        classifier.train_on_batch(normal(B, T, F), rng.integers(0, 3, B), mask=mask)

    def fit():
        B, T, mask = sizes()
        classifier.fit(normal(B, T, F), rng.integers(0, 3, B), batch_size=16, mask=mask, verbose=0)

    def predict():
        B, T, mask = sizes()
        classifier.predict(normal(B, T, F), mask=mask, verbose=0)

    def tag():
        B, T, _ = sizes()
        tagger.train_on_batch(rng.integers(0, 50, (B, T)), normal(B, T, 4))

    def new_model():
        """Models come and go, too."""
        model = fm.Sequential([layers.LSTM(rng.integers(1, 9)), layers.Dense(2)])
        model.compile("sgd", "mse")
        model.train_on_batch(normal(2, 3, F), normal(2, 2))

    def in_a_thread():
        thread = threading.Thread(target=lambda: (predict(), train()))
        thread.start()
        thread.join()

    def padded():
        fm.pad_sequences([[1] * n for n in rng.integers(0, 30, 5)])
        fm.masks.from_ids(rng.integers(0, 3, (4, rng.integers(1, 30))))

    return {
        **{name: recurrent(name) for name in weights},
        "dense": dense, "ragged": ragged, "loss": loss, "eager": eager, "train": train, "fit": fit, "predict": predict,
        "tag": tag, "new model": new_model, "in a thread": in_a_thread, "padded": padded,
    }  # fmt: skip


def report(calls):
    """Print (bytes, objects) of growth as JSON, for a test."""
    print(json.dumps(growth(jobs(), calls)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    calls = parser.parse_args().calls
    started = time.perf_counter()
    grown, objects = growth(jobs(), calls, show=True)
    print(f"last third: {grown / 2**20:.2f} MB, {objects} objects; {time.perf_counter() - started:.0f} s")
    sys.exit(grown > 8 << 20 or objects > 300)


if __name__ == "__main__":
    main()
