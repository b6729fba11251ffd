"""fastmask against its own goals: everything the speed of this library is promised to be beyond the lines of peers.py.

    python asv_bench/goals.py                      every section; under six minutes on an idle machine with two cores
    python asv_bench/goals.py --only latency fill  some of them

Sections
- fill     time at 10 % valid steps against all steps valid, as a padded batch and as Ragged; lengths evenly spaced
- holes    masked steps anywhere against as many at the end
- threads  two threads against one
- sweep    PyTorch's issue 149194: a two-layer LSTM on 32 rows whose lengths are evenly spaced from 1 to L
- memory   largest resident set within a training step, above the one before it
- latency  one step of one row from Python: median and 99th percentile
- training_step  how much of a whole training step of a model is spent in recurrent kernels and matrix products
- compilation  what an empty cache of compiled kernels costs, and a filled one

Each line prints what was measured, the goal, and met or MISSED; the JSON file has the same. Everything is float32, in
fresh processes; what is compared within one process takes turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from frameworks import GATES, PEERS, Data, Workload, fastmask_peer
from peers import pin, progress, run_job
from report import describe_machine

SMALL, MIDDLE, LARGE = (64, 400, 16, 32), (32, 200, 64, 128), (256, 100, 64, 256)  # (B, T, F, H)
WIDE, MANY = (32, 30, 512, 512), (1024, 20, 12, 100)
MODES = ("infer", "train")
LENGTHS = (10, 30, 100, 300, 1000, 4000)
TOO_LONG = 3.0  # seconds: a call that takes longer is not repeated

TRAINING = """
import numpy as np, fastmask as fm

model = fm.Sequential([fm.Input((None, {F})), fm.layers.GRU({H}), fm.layers.Dense(9, activation="softmax")])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
x = fm.Ragged(np.ones(({B} * {T}, {F}), np.float32), np.arange({B} + 1) * {T})
model.fit(x, np.arange({B}) % 9, verbose=0)
"""
FIRST_RESULT = """
import numpy as np, fastmask as fm

x, weights = np.ones((8, 50, 16), np.float32), [np.ones(shape, np.float32) for shape in ((16, 96), (32, 96), (2, 96))]
fm.gru(x, *weights, mask=np.arange(50) < np.arange(1, 9)[:, None])
"""


# --- results and processes --------------------------------------------------------------------------------------------


def result(what, value, at_most=None, at_least=None, note=""):
    """One line: a value and its goal. Without a goal it is there to compare with."""
    met = None
    if value is not None and (at_most is not None or at_least is not None):
        met = value <= at_most if at_most is not None else value >= at_least
    return {"what": what, "value": value, "at_most": at_most, "at_least": at_least, "met": met, "note": note}


def text_of(entry):
    value = "not there" if entry["value"] is None else f"{entry['value']:.3g}"
    goal = ""
    for word in ("at_most", "at_least"):
        if entry[word] is not None:
            goal = f" (asked: {word.replace('_', ' ')} {entry[word]:g})"
    verdict = {True: ": met", False: ": MISSED", None: ": MISSED" if goal else ""}[entry["met"]]
    return f"{entry['what']}: {value}{goal}{verdict}" + (f"; {entry['note']}" if entry["note"] else "")


def fresh(function, threads=2, **arguments):
    """What `function(threads, **arguments)`, a function of this module, returns in a fresh process: a dict."""
    job = {"function": function.__name__, "threads": threads, "arguments": arguments}
    results, failure = run_job(job, __file__)
    if failure or len(results) != 1:
        raise RuntimeError(f"{function.__name__}({arguments}): {failure or 'no result'}")
    return results[0]


def work(job):
    """What a fresh process does."""
    pin(job["threads"])
    print(json.dumps(globals()[job["function"]](job["threads"], **job["arguments"])))


def in_turns(runs, seconds):
    """Median times of functions that take turns of five calls for `seconds`, after a call that does not count."""
    times = [[] for _ in runs]
    for run in runs:
        run()
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or time.perf_counter() < end:
        for run, own in zip(runs, times, strict=True):
            for _ in range(5):  # the first finds the caches as another run has left them
                start = time.perf_counter()
                run()
                own.append(time.perf_counter() - start)
                if own[-1] > TOO_LONG:
                    break
    return [median(own) for own in times]


def prepare(threads, *arguments, **options):
    """fastmask's run of peers.py on a workload."""
    w = Workload(*arguments, **options)
    return fastmask_peer(w, Data(w), threads)[0]


def name_of(cell, mode, size):
    return f"{cell.upper():4} {mode} ({','.join(map(str, size))})"


# --- fill and holes ---------------------------------------------------------------------------------------------------


def prepare_ragged(threads, cell, mode, size, fill):
    """The same as Ragged: valid steps alone go in and come out."""
    import fastmask as fm

    w = Workload(cell, mode, *size, fill=fill, evenly=True)
    data = Data(w)
    offsets = np.concatenate([[0], np.cumsum(data.lengths)])
    x, d_outputs = (fm.Ragged(a[data.mask], offsets) for a in (data.x, data.d_outputs))
    weights = data.weights()
    if mode == "infer":
        packed = getattr(getattr(fm.ops, cell), cell + "_pack")(*weights)
        return lambda: getattr(fm, cell)(x, *weights, packed=packed)

    def run():
        outputs, tape = getattr(fm, cell + "_forward")(x, *weights)
        return outputs, getattr(fm, cell + "_backward")(tape, d_outputs)

    return run


def fill_times(threads, seconds):
    import fastmask as fm

    fm.set_num_threads(threads)
    found = {}
    for size, cell, mode in product((SMALL, MIDDLE, LARGE), GATES, MODES):
        padded = [prepare(threads, cell, mode, *size, fill=fill, evenly=True) for fill in (0.1, 1.0)]
        ragged = [prepare_ragged(threads, cell, mode, size, fill) for fill in (0.1, 1.0)]
        times = in_turns([*padded, *ragged], seconds)
        found[name_of(cell, mode, size) + ", padded"] = times[0] / times[1]
        found[name_of(cell, mode, size) + ", Ragged"] = times[2] / times[3]
    return found


def fill(options):
    small = name_of("", "", SMALL).strip()
    for line, ratio in fresh(fill_times, seconds=options.seconds).items():
        most = 0.2 if small in line and "padded" in line else 0.13
        yield result(f"{line}: fill 0.1 against 1.0", ratio, at_most=most)


def holes_times(threads, seconds):
    found = {}
    for size, cell, mode in product((SMALL, MIDDLE, LARGE), GATES, MODES):
        runs = [prepare(threads, cell, mode, *size, fill=0.5, holes=holes) for holes in (True, False)]
        times = in_turns(runs, seconds)
        found[name_of(cell, mode, size)] = times[0] / times[1]
    return found


def holes(options):
    for line, ratio in fresh(holes_times, seconds=options.seconds).items():
        yield result(f"{line}: holes against right padding, fill 0.5", ratio, at_most=1.05)


# --- threads ----------------------------------------------------------------------------------------------------------


def thread_times(threads, seconds):
    return {
        name_of(cell, mode, size): in_turns([prepare(threads, cell, mode, *size, fill=0.5)], seconds)[0]
        for size, cell, mode in product((SMALL, MIDDLE, WIDE, LARGE, MANY), GATES, MODES)
    }


def threads(options):
    times = {1: [], 2: []}
    for _ in range(2):
        for n, rounds in times.items():
            rounds.append(fresh(thread_times, threads=n, seconds=options.seconds))
    for line in times[1][0]:
        one, two = (median(r[line] for r in rounds) for rounds in times.values())
        yield result(f"{line}: two threads against one, fill 0.5", one / two, at_least=1.8)


# --- PyTorch's issue 149194 -------------------------------------------------------------------------------------------


class Stack:
    """The issue's network and data: two LSTMs of 64 units on 32 rows, lengths evenly spaced from 1 to L."""

    def __init__(self, L):
        random = np.random.default_rng(L)
        self.lengths = np.linspace(1, L, 32).round().astype(np.int64)
        self.mask = np.arange(L) < self.lengths[:, None]
        self.x, self.d_outputs = (random.standard_normal((32, L, 64), dtype=np.float32) for _ in range(2))
        self.d_outputs *= self.mask[..., None]
        self.weights = [  # kernel, recurrent kernel, bias of each layer, gates i f c o
            [(random.standard_normal(shape) / 8).astype(np.float32) for shape in ((64, 256), (64, 256), (256,))]
            for _ in range(2)
        ]

    def fastmask(self, threads, mode):
        import fastmask as fm

        fm.set_num_threads(threads)
        layers = [fm.layers.LSTM(64, return_sequences=True) for _ in range(2)]
        for layer, weights in zip(layers, self.weights, strict=True):
            layer.build((None, None, 64))
            layer.set_weights(weights)
        first, second = layers

        def infer():
            return second(first(self.x, mask=self.mask), mask=self.mask), None

        def train():
            outputs = second(first(self.x, mask=self.mask, training=True), mask=self.mask, training=True)
            return outputs, first.backward(second.backward(self.d_outputs))

        return {"infer": infer, "train": train}[mode]

    def torch(self, threads, mode, packed):
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        torch.set_num_threads(threads)
        network = torch.nn.LSTM(64, 64, num_layers=2)
        with torch.no_grad():
            for i, (kernel, recurrent_kernel, bias) in enumerate(self.weights):
                getattr(network, f"weight_ih_l{i}").copy_(torch.from_numpy(kernel.T))
                getattr(network, f"weight_hh_l{i}").copy_(torch.from_numpy(recurrent_kernel.T))
                getattr(network, f"bias_ih_l{i}").copy_(torch.from_numpy(bias))
                getattr(network, f"bias_hh_l{i}").zero_()
        x, d_outputs = (torch.from_numpy(np.ascontiguousarray(a.swapaxes(0, 1))) for a in (self.x, self.d_outputs))
        lengths = torch.from_numpy(self.lengths)

        def forward():
            if not packed:
                return network(x)[0]
            outputs, _ = network(pack_padded_sequence(x, lengths, enforce_sorted=False))
            return pad_packed_sequence(outputs, total_length=len(x))[0]

        def infer():
            with torch.inference_mode():
                return forward().swapaxes(0, 1), None

        def train():
            x.requires_grad_(True)
            outputs = forward()
            d_x, *_ = torch.autograd.grad(outputs, [x, *network.parameters()], d_outputs)
            return outputs.detach().swapaxes(0, 1), d_x.swapaxes(0, 1)

        return {"infer": infer, "train": train}[mode]

    def summary(self, outputs, d_x):
        """A few numbers that stand for the answers at valid steps."""
        answers = [np.asarray(a)[self.mask] for a in (outputs, d_x) if a is not None]
        return [float(x) for a in answers for x in (a.mean(), np.abs(a).mean(), a[-1].mean())]


def sweep_times(threads, peer, seconds):
    times, answers = {}, {}
    for L, mode in product(LENGTHS, MODES):
        stack = Stack(L)
        run = (
            stack.fastmask(threads, mode) if peer == "fastmask" else stack.torch(threads, mode, peer == "torch packed")
        )
        start = time.perf_counter()
        answers[f"{L} {mode}"] = stack.summary(*run())
        taken = time.perf_counter() - start
        times[f"{L} {mode}"] = taken if taken > TOO_LONG else in_turns([run], seconds)[0]
    return {"times": times, "answers": answers}


def sweep(options):
    found = {peer: fresh(sweep_times, peer=peer, seconds=options.seconds) for peer in ("fastmask", *sweep_peers())}
    for peer, results in found.items():
        for line, numbers in results["answers"].items():
            if not np.allclose(numbers, found["fastmask"]["answers"][line], rtol=1e-3, atol=1e-4):
                raise RuntimeError(f"sweep, L={line}: the answers of {peer} differ from fastmask's")
    for line, own in found["fastmask"]["times"].items():
        times = {peer: f"{1e3 * r['times'][line]:.2f}" for peer, r in found.items()}
        note = "ms: " + ", ".join(f"{peer} {ms}" for peer, ms in times.items())
        padded = found["torch padded"]["times"][line] / own if "torch padded" in found else None
        yield result(f"L={line}: torch padded's time over fastmask's", padded, at_least=1.0, note=note)


def sweep_peers():
    return ("torch padded", "torch packed") if is_there("torch packed") else ()


def is_there(peer):
    return not next(p for p in PEERS if p.name == peer).absence()


# --- memory -----------------------------------------------------------------------------------------------------------


def resident(field):
    """VmRSS or VmHWM of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def step_memory(threads, peer, cell, size, fill):
    """Bytes that one training step takes at its peak, its gradients included, code loaded before."""
    prepare_peer = next(p for p in PEERS if p.name == peer).prepare
    tiny = Workload(cell, "train", 2, 3, *size[2:], fill=0.5)
    prepare_peer(tiny, Data(tiny), threads)[0]()
    w = Workload(cell, "train", *size, fill=fill)
    data = Data(w)
    run, _ = prepare_peer(w, data, threads)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    kept = run()
    peak = resident("VmHWM") - before
    del kept
    return {"bytes": peak, "valid_steps": int(data.mask.sum())}


def memory(options):
    if not Path("/proc/self/clear_refs").exists():
        yield result("memory of a training step (needs Linux)", None)
        return
    for (size, share), cell in product(((SMALL, 0.5), (WIDE, 0.5), (LARGE, 0.5), (LARGE, 1.0)), GATES):
        peers = ["fastmask", "torch packed", "torch padded*"] if share < 1 else ["fastmask", "torch padded*"]
        found = {p: fresh(step_memory, peer=p, cell=cell, size=size, fill=share) for p in peers if is_there(p)}
        own = found.pop("fastmask")
        rival = min((f["bytes"] for f in found.values()), default=None)
        note = ", ".join(f"{p} {f['bytes'] / 2**20:.0f} MB" for p, f in found.items())
        per_step = own["bytes"] / own["valid_steps"]
        note = f"fastmask {own['bytes'] / 2**20:.0f} MB, {per_step:.0f} bytes a valid step; {note}"
        what = f"{name_of(cell, 'train', size)} fill {share:g}: memory of a step over that of torch's leaner way"
        yield result(what, rival and own["bytes"] / rival, at_most=1.0, note=note)


# --- latency ----------------------------------------------------------------------------------------------------------


def percentiles(run):
    """Median and 99th percentile of the calls' times, in microseconds."""
    from benchmarks.latency import microseconds  # after frameworks.py has set which fastmask is measured

    p50, p99 = np.percentile(microseconds(run), [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def own_latencies(threads, cell):
    from benchmarks.latency import ways

    return {name: percentiles(run) for name, run in ways(cell).items()}


def peer_latency(threads, peer, cell):
    w = Workload(cell, "infer", 1, 1, 32, 64, fill=1.0)
    run, _ = next(p for p in PEERS if p.name == peer).prepare(w, Data(w), threads)
    return percentiles(run)


def latency(options):
    goals = {"layer(x, mask=mask)": 6.0, "prepared call": 4.0}
    for cell in GATES:
        found = fresh(own_latencies, cell=cell.upper())
        for peer in ("onnxruntime", "torch padded*"):
            if is_there(peer):
                found[peer.rstrip("*")] = fresh(peer_latency, peer=peer, cell=cell)
        for name in found:
            what = f"{cell.upper():4} one step, F=32 H=64, {name}: p50, microseconds"
            yield result(what, found[name]["p50"], at_most=goals.get(name), note=f"p99 {found[name]['p99']:.1f}")


# --- a whole training step --------------------------------------------------------------------------------------------


def step_shares(threads, model, seconds):
    import step

    run, _ = step.MODELS[model](*LARGE)
    total, kernels, parts = step.measure(run, seconds)
    return {"ms": 1e3 * total, "kernels": kernels, "parts": parts, "goal": parts[step.GOAL]}


def training_step(options):
    from step import MODELS

    for model in MODELS:
        found = fresh(step_shares, model=model, seconds=4 * options.seconds)
        shares = sorted((found["kernels"] | found["parts"]).items(), key=lambda item: -item[1])
        note = ", ".join(f"{name.removesuffix('.float32')} {share:.1%}" for name, share in shares if share >= 0.005)
        what = f"training step ({','.join(map(str, LARGE))}), {model}: share of recurrent kernels and products"
        yield result(what, found["goal"], at_least=0.85, note=f"{found['ms']:.0f} ms: {note}")


# --- compile and start ------------------------------------------------------------------------------------------------


def seconds_of(code, cache):
    """Wall time of a fresh process that runs `code`, with its folder of compiled kernels."""
    root = Path(__file__).resolve().parents[1]  # measure the tree that this file belongs to
    environment = {**os.environ, "FASTMASK_CACHE_DIR": cache}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - start


def compilation(options):
    training = TRAINING.format(B=64, T=40, F=12, H=64)  # large enough for threads
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds_of(training, cache)
        warm = median(seconds_of(training, cache) for _ in range(3))
        files = set(Path(cache).rglob("*"))
        seconds_of(TRAINING.format(B=33, T=7, F=50, H=100), cache)
        compiled_anew = len(set(Path(cache).rglob("*")) - files)
        seconds_of(FIRST_RESULT, cache)
        first = median(seconds_of(FIRST_RESULT, cache) for _ in range(5))
        numpy_alone = median(seconds_of("import numpy", cache) for _ in range(5))
    note = f"cold {cold:.2f} s, warm {warm:.2f} s, processes and imports included"
    yield result("a float32 GRU training run: seconds that an empty cache costs", cold - warm, at_most=15.0, note=note)
    yield result("files compiled anew for other B, T, F, H", compiled_anew, at_most=0)
    note = f"of it python and numpy {numpy_alone:.2f}"
    yield result("warm start to the first result, process included: seconds", first, at_most=0.5, note=note)


SECTIONS = {f.__name__: f for f in (fill, holes, threads, sweep, memory, latency, training_step, compilation)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on a measurement in one process")
    parser.add_argument("--json", type=Path, default=Path("goals.json"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.job:
        work(options.job)
        return 0
    started = time.perf_counter()
    machine, sections = describe_machine(2), {}
    print(f"{machine['cpu']}, 2 threads of {machine['cores']} cores, {machine['system']}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    for name in options.only:
        progress(f"{name} … ({time.perf_counter() - started:.0f} s)")
        print(f"\n{name}")
        sections[name] = []
        for entry in SECTIONS[name](options):
            sections[name].append(entry)
            print("  " + text_of(entry), flush=True)
        asked = [entry for entry in sections[name] if entry["at_most"] is not None or entry["at_least"] is not None]
        print(f"  {sum(entry['met'] is True for entry in asked)} of {len(asked)} met", flush=True)
    options.json.write_text(json.dumps({"machine": machine, "sections": sections}, indent=1) + "\n")
    progress(f"{time.perf_counter() - started:.0f} s; {options.json} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
