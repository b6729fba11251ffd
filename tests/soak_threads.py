"""Eight Python threads do everything that the library can, for as long as you like: right bits, no abort, no hang.

    python tests/soak_threads.py --seconds 60

A run for each threading layer of numba that loads here and each way to launch, in a process of its own: 8 threads call
every public op, layer and loss, and fit, evaluate and predict with models of their own and with one that they share.
Beside them run a user's own @njit(parallel=True) function, NumPy's BLAS and, if it is installed, PyTorch. Then
throughput: of 8 threads in one process against a process for each CPU, which share nothing. Exit code 1 if a result was
wrong, a process died or hung, or the throughput was less than 1 / 1.3 of that.
"""

import argparse
import importlib.util
import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import fresh

LAYERS = ("omp", "workqueue", "tbb")
LAUNCHES = ("pool", "prange")


# ---- work -----------------------------------------------------------------------------------------------------------
def everything():
    """name -> function that returns the digest of all bits of what it computes: every public op, layer, loss, metric,
    and the training loop.
    """
    import layer_cases
    import op_cases
    from fastmask.ops.attention import attention
    from fastmask.ops.gemm import dense

    def ops(call):
        return lambda: fresh.digest(call())

    def layer(case):
        inputs, masks = layer_cases.inputs_of(case, np.float32), layer_cases.masks_of(case)
        return lambda: fresh.digest(layer_cases.outcome(case, np.float32, inputs, masks))

    jobs = fresh.jobs()
    jobs |= {f"op {name}": ops(call) for name, call in op_cases.calls(np.float32, 17).items()}
    query, value = np.random.default_rng(3).standard_normal((2, 3, 8, 5)).astype(np.float32)
    jobs["attention"] = lambda: fresh.digest(attention(query, value))
    jobs["dense"] = lambda: fresh.digest(dense(query, value[0, :5]))
    jobs["prepared call"] = lambda: _prepared(query)
    jobs |= {f"layer {name}": layer(case) for name, case in layer_cases.every_case()}
    return jobs | _models() | {"sequences": _sequences, "optimizers and metrics": _optimizers_and_metrics}


def _prepared(x):
    """A layer's inference on arrays of its own."""
    import fastmask as fm

    layer = fm.layers.GRU(4, kernel_initializer="ones", recurrent_initializer="ones")
    layer(x)
    call = layer.prepare(*x.shape[:2])
    call.inputs[...] = x
    return fresh.digest(call())


def _models():
    """Training of a model of one's own, and inference with one model that all threads share."""
    import fastmask as fm
    from fastmask import layers

    rng = np.random.default_rng(4)
    x, mask = rng.standard_normal((20, 9, 4)).astype(np.float32), rng.random((20, 9)) < 0.7
    y = rng.integers(0, 3, 20)
    ragged = fm.Ragged.from_padded(x, mask)

    def model():
        parts = layers.Bidirectional(layers.GRU(6)), layers.BatchNormalization(), layers.Dense(3, activation="softmax")
        new = fm.Sequential([fm.Input((None, 4)), layers.Masking(), *parts])
        new.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return new

    shared = model()
    weights = shared.get_weights()

    def fit():
        own = model()
        own.set_weights(weights)
        options = {"batch_size": 6, "shuffle": False, "verbose": 0}
        history = own.fit(x, y, mask=mask, epochs=2, validation_data=(x, y), **options).history
        loss = own.train_on_batch(x[:5], y[:5], mask=mask[:5])
        return fresh.digest(history, loss, own.get_weights(), own.evaluate(ragged, y))

    def predict():
        one = [shared.predict(x[i : i + 1, :n], mask=mask[i : i + 1, :n], verbose=0) for i, n in enumerate((1, 4, 9))]
        return fresh.digest(shared.predict(ragged, verbose=0), shared(x, mask=mask), one)

    forward = fm.Sequential([fm.Input((None, 4)), layers.GRU(6, return_sequences=True), layers.Dense(2)])

    def stream():
        """Of a model that all threads share, too."""
        own = forward.stream(batch_size=20)
        return fresh.digest([own(x[:, :4], mask=mask[:, :4]), own(x[:, 4:], mask=mask[:, 4:])])

    def save():
        with tempfile.TemporaryDirectory() as folder:
            model, weights = str(Path(folder, "model.npz")), str(Path(folder, "weights.npz"))
            forward.save(model), forward.save_weights(weights)
            own = fm.load_model(model)
            own.load_weights(weights)
            return fresh.digest(own.predict(x, mask=mask, verbose=0))

    return {"fit": fit, "predict with one model": predict, "stream": stream, "save": save}


def _sequences():
    import fastmask as fm

    rows = [np.arange(n, dtype=np.float32) for n in (3, 0, 5, 2)]
    ragged = fm.Ragged.from_list(rows)
    padded, mask = ragged.to_padded(-1)
    again = fm.Ragged.from_padded(padded, mask).take([2, 0])
    masks = fm.masks.from_lengths([1, 3]), fm.masks.from_ids(np.arange(6).reshape(2, 3)), fm.masks.to_lengths(mask)
    batches = [list(map(int, batch)) for batch in fm.bucket_batches([5, 2, 9, 1], 2, seed=0)]
    return fresh.digest(padded, again.values, again[1], fm.pad_sequences(rows), masks, batches)


def _optimizers_and_metrics():
    import fastmask as fm

    w, g = np.linspace(-1, 1, 50).astype(np.float32), np.linspace(1, -2, 50).astype(np.float32)
    found = []
    for name in ("sgd", "rmsprop", "adam", "adamw"):
        v, optimizer = fm.Variable(w), fm.optimizers.get(name)
        for _ in range(3):
            optimizer.apply_gradients([(g, v)])
        found.append(v.numpy())
    metric = fm.metrics.Mean()
    metric.update_state(w)
    loss = fm.losses.Huber()
    return fresh.digest(
        found, metric.result(), loss(w[:, None], g[:, None]), loss.value_and_grad(w[:, None], g[:, None])
    )


# ---- one run, in a process of its own -------------------------------------------------------------------------------
def crowd(seconds, layer):
    """Print what comes of 8 threads that do everything, beside others: see fresh.crowd."""
    assert fresh.load_layer(layer)
    warnings.simplefilter("ignore")  # catch_warnings is not for threads
    others = [fresh.users_numba, fresh.users_blas]
    if importlib.util.find_spec("torch"):
        others.append(users_torch)
    fresh.users_function()  # which starts the layer
    fresh.crowd(seconds, others, everything)


def users_torch(until):
    import torch

    a = torch.ones(200, 200)
    while time.monotonic() < until:
        assert bool((a @ a == 200).all()), "the user's own product is wrong"


def run(layer, launch, seconds):
    """[how often the rarest job was done, wrong results by job, errors], or None where the layer does not load."""
    settings = {"NUMBA_THREADING_LAYER": layer, "FASTMASK_LAUNCH": launch, "FASTMASK_NUM_THREADS": "4"}
    if not fresh.run(f"import fresh; print(int(fresh.load_layer({layer!r})))", **settings):
        return None
    code = f"import soak_threads; soak_threads.crowd({seconds}, {layer!r})"
    from fastmask.kernels import _disk_cache

    # the user's own cache: what is compiled here is kept
    return fresh.run(code, cache=_disk_cache.cache_root(), timeout=6 * fresh.TIMEOUT + 2 * seconds, **settings)


# ---- throughput -----------------------------------------------------------------------------------------------------
SIZES = {"20 us": (1, 40, 16, 64), "0.1 ms": (1, 100, 32, 64), "1 ms": (8, 100, 64, 128)}  # of one call: (B,T,F,H)


def predictions(size, seconds, threads=1):
    """Calls of an LSTM a second, in so many threads at once."""
    import fastmask as fm
    from fastmask.ops.lstm import lstm_pack

    B, T, F, H = SIZES[size]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, F)).astype(np.float32)
    weights = [(0.1 * rng.standard_normal((n, 4 * H))).astype(np.float32) for n in (F, H)]
    packed = lstm_pack(*weights)
    fm.lstm(x, *weights, packed=packed)
    counts, until = [], time.perf_counter() + seconds

    def client():
        n = 0
        while time.perf_counter() < until:
            fm.lstm(x, *weights, packed=packed)
            n += 1
        counts.append(n)

    errors = fresh.in_threads([client] * threads)
    assert not errors, errors
    return sum(counts) / (time.perf_counter() - until + seconds)


def alone(size, seconds):
    """predictions in a process that uses one thread."""
    import fastmask as fm

    fm.set_num_threads(1)
    return predictions(size, seconds)


LIMIT = 1.3  # how much less 8 threads may do


def throughput(seconds, rounds):
    """size -> (calls a second by a process for each CPU, by 8 threads of one process), in the best of 3 rounds; of up
    to `rounds` beyond LIMIT, for the CPUs may be busy with others, and a virtual machine's far apart for a while.
    """
    import fastmask as fm

    cpus = fm.get_num_threads()
    with multiprocessing.get_context("spawn").Pool(cpus) as pool:

        def measure(size):
            apart = sum(pool.starmap(alone, [(size, seconds)] * cpus, chunksize=1))
            return apart, predictions(size, seconds, 8)

        def best(size):
            speeds = []
            while len(speeds) < 3 or (len(speeds) < rounds and all(a > LIMIT * b for a, b in speeds)):
                speeds.append(measure(size))
            return min(speeds, key=lambda speed: speed[0] / speed[1])

        return {size: best(size) for size in SIZES}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each run")
    parser.add_argument("--layers", nargs="+", default=LAYERS, choices=LAYERS)
    options = parser.parse_args()
    failed = False
    for layer in options.layers:
        for launch in LAUNCHES:
            found = run(layer, launch, options.seconds)
            if found is None:
                print(f"{layer:10s} {launch:7s} not exercised: numba's layer does not load here", flush=True)
                continue
            done, wrong, errors = found
            failed |= bool(wrong or errors)
            print(
                f"{layer:10s} {launch:7s} every job {done} times or more, wrong: {wrong}, errors: {errors}", flush=True
            )
    for size, (apart, together) in throughput(min(options.seconds, 5), 6).items():
        failed |= apart > LIMIT * together
        print(f"calls of {size:7s} {apart:9.0f}/s by processes, {together:9.0f}/s by 8 threads: {apart / together:.2f}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
