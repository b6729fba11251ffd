"""fastmask beside its peers: time of masked LSTM and GRU layers on the CPU, inference and training.

    python asv_bench/peers.py            the yardstick: every line, several rounds
    python asv_bench/peers.py --quick    the same lines in under two minutes, fewer rounds

Rules of the game
- Every peer gets the same float32 data, weights and output gradients, and the same number of threads. Lengths are
  uniform on 1..2*fill*T (fill 1.0: every row is full), so about `fill` of the steps are valid.
- Data is handed to each peer in the memory order it likes best, before the clock starts. What the clock sees: for torch
  packed the packing and the padding back; for onnxruntime one `run`; for fastmask the mask, the schedule and the
  filling of the padded output; in training also fastmask's packing of the weights, since they change at every step.
- Training is forward and backward: gradients for x, kernel, recurrent kernel and bias from given output gradients,
  which are zero at padded steps.
- Before anything is timed a peer's answers (outputs at valid steps, last states; in training every gradient) are
  compared with the NumPy reference in float64. A peer whose answers differ is not timed. "torch padded" ignores the
  mask: its last states are wrong at short rows; it is marked * and serves as a yardstick only.
- Peers run in fresh processes, in turns, round after round; a line shows the median over the rounds of each process'
  median.
- GFLOP/s count the multiplications and additions of valid steps only. The peak is measured in the same run, by chains
  of FMAs that stay in registers.

Only what is installed takes part; the rest is listed as absent. frameworks.py holds the peers.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np

from frameworks import GATES, PEERS, Data, Workload

SIZES = [(32, 200, 64, 128), (256, 100, 64, 256), (64, 400, 16, 32)]  # (B, T, F, H)
# Relative to max(1, |reference|): wide enough for every peer's float32, far below what a wrong gate gives.
TOLERANCE = {"infer": 5e-5, "train": 5e-4}


# --- one process: check and time one peer on some workloads -----------------------------------------------------------


def work(job):
    """What a fresh process does: `job` names the peer, workloads, threads, seconds, the folder of expected answers."""
    if job["peer"] == "peak":
        return [measure_peak(job["threads"])]
    peer = next(p for p in PEERS if p.name == job["peer"])
    results = []
    for entry in job["workloads"]:
        w = Workload(**entry)
        data = Data(w)
        run, answers = peer.prepare(w, data, job["threads"])
        started = time.perf_counter()
        result = run()
        warm_up = job["seconds"] / 3 - (time.perf_counter() - started)
        with np.load(Path(job["folder"]) / file_name(w)) as expected:
            errors = compare(answers(result), expected, data.mask, w)
        right = all(
            error <= TOLERANCE[w.mode] for name, error in errors.items() if not (peer.wrong and name == "states")
        )
        results.append({"errors": errors, "seconds": clock(run, warm_up, job["seconds"]) if right else None})
    return results


def compare(actual, expected, mask, w):
    """Largest difference of each answer, relative to max(1, |expected|); outputs only where the mask is True.

    Sums over many steps (gradients of the weights) are measured against the largest number in them.
    """
    errors = {}
    for name, want in expected.items():
        got = np.asarray(actual[name], dtype=np.float64)
        if got.shape != want.shape:
            raise ValueError(f"{name}: expected {want.shape}, received {got.shape}")
        scale = np.maximum(1, np.abs(want) if name in ("outputs", "states", "d_x") else np.abs(want).max(initial=0))
        difference = np.abs(got - want) / scale
        if name in ("outputs", "d_x"):
            difference = difference[mask]
        errors[name] = float(difference.max(initial=0)) if np.isfinite(difference).all() else math.inf
    return errors


def clock(run, warm_up, seconds):
    """Median time of the calls within `seconds` (at least two), after `warm_up` seconds of uncounted ones."""
    end = time.perf_counter() + warm_up
    while time.perf_counter() < end:
        run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


def measure_peak(threads):
    """FLOP/s of `threads` threads on chains of FMAs that stay in registers, or None where fastmask cannot tell."""
    try:
        from fastmask.kernels import fma_peak
    except ImportError:
        return None
    return fma_peak(threads)


# --- the parent: expected answers, rounds, tables ---------------------------------------------------------------------


def file_name(w):
    return f"{w.cell}_{w.mode}_{w.B}_{w.T}_{w.F}_{w.H}_{w.fill}_{w.holes}.npz"


def save_expected(w, folder):
    """The float64 reference's answers; returns the number of valid steps."""
    stem = import_module(f"fastmask.reference.{w.cell}")
    data = Data(w)
    x, weights = data.x.astype(np.float64), data.weights(np.float64)
    if w.mode == "infer":
        outputs, states = getattr(stem, w.cell)(x, *weights, mask=data.mask)
        gradients = {}
    else:
        (outputs, states), tape = getattr(stem, w.cell + "_forward")(x, *weights, mask=data.mask)
        g = getattr(stem, w.cell + "_backward")(tape, data.d_outputs.astype(np.float64))
        gradients = {"d_x": g.x, "d_kernel": g.kernel, "d_recurrent_kernel": g.recurrent_kernel, "d_bias": g.bias}
    np.savez(Path(folder) / file_name(w), outputs=outputs, states=np.stack(states), **gradients)
    return int(data.mask.sum())


def run_job(job, threads):
    """Run `job` in a fresh process and return what it printed, or a text that says why it failed."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "FASTMASK_NUM_THREADS")
    environment = os.environ | dict.fromkeys(limits, str(threads))
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def run_peak(threads):
    """measure_peak in a fresh process; None if that failed."""
    result = run_job({"peer": "peak", "threads": threads}, threads)
    return None if isinstance(result, str) else result[0]


def measure(workloads, peers, options, folder):
    """Rounds of fresh processes in turns: {(workload, peer name): {"seconds": [...], "errors": …, "failure": …}}."""
    cells = {
        (w, p.name): {"seconds": [], "errors": {}, "failure": None}
        for w, p in itertools.product(workloads, peers)
        if w.mode in p.modes and (p.holes or not w.holes)
    }
    groups = [workloads] if options.quick else [[w] for w in workloads]
    for turn in range(options.rounds):
        for group in groups:
            for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                mine = [w for w in group if (w, peer.name) in cells and not cells[w, peer.name]["failure"]]
                if not mine:
                    continue
                lines = mine[0] if len(mine) == 1 else f"{len(mine)} lines"
                progress(f"round {turn + 1} of {options.rounds}: {peer.name}: {lines}")
                job = {
                    "peer": peer.name,
                    "workloads": [asdict(w) for w in mine],
                    "threads": options.threads,
                    "seconds": options.seconds,
                    "folder": str(folder),
                }
                results = run_job(job, options.threads)
                for i, w in enumerate(mine):
                    cell = cells[w, peer.name]
                    if isinstance(results, str):
                        cell["failure"] = results
                    else:
                        cell["errors"] = results[i]["errors"]
                        if results[i]["seconds"] is None:
                            worst = max(results[i]["errors"], key=results[i]["errors"].get)
                            cell["failure"] = f"wrong answer: {worst} differs by {results[i]['errors'][worst]:.1e}"
                        else:
                            cell["seconds"].append(results[i]["seconds"])
    return cells


def progress(text):
    print(text, file=sys.stderr, flush=True)


def report(workloads, peers, cells, valid_steps, peak, absent, options):
    """Print the table; return what goes into the JSON file."""
    machine = describe_machine(options.threads)
    rows = []
    for w in workloads:
        row = {"workload": asdict(w), "valid_steps": valid_steps[w], "peers": {}}
        for p in peers:
            cell = cells.get((w, p.name))
            if cell is None:
                continue
            seconds = median(cell["seconds"]) if cell["seconds"] and not cell["failure"] else None
            flops = w.flops(valid_steps[w]) / seconds if seconds else None
            row["peers"][p.name] = {
                "ms": 1e3 * seconds if seconds else None,
                "ms_rounds": [1e3 * s for s in cell["seconds"]],
                "gflops": flops / 1e9 if flops else None,
                "share_of_peak": flops / peak if flops and peak else None,
                "errors": cell["errors"],
                "failure": cell["failure"],
            }
        own = row["peers"].get("fastmask", {}).get("ms")
        for name, result in row["peers"].items():
            result["ratio"] = result["ms"] / own if own and result["ms"] and name != "fastmask" else None
        rows.append(row)

    print(f"\n{machine['cpu']}, {options.threads} threads of {machine['cores']} cores, {machine['system']}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    print(f"FMA peak {peak / 1e9:.0f} GFLOP/s (float32, measured)" if peak else "FMA peak: not measured")
    for name, why in absent.items():
        print(f"absent: {name} ({why})")
    others = [p for p in peers if p.name != "fastmask"]
    print("\nms a call; in brackets: how many times as long as fastmask; GFLOP/s (over valid steps) are fastmask's\n")
    heads = ["workload", "fastmask", "GFLOP/s", "of peak", *(p.name for p in others)]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for w, row in zip(workloads, rows, strict=True):
        own = row["peers"].get("fastmask", {})
        texts = [
            f"{w}",
            cell_text(own),
            f"{own['gflops']:.0f}" if own.get("gflops") else "–",
            f"{own['share_of_peak']:.0%}" if own.get("share_of_peak") else "–",
        ]
        print("| " + " | ".join(texts + [cell_text(row["peers"].get(p.name)) for p in others]) + " |")

    print("\ngeometric means of the ratios (over 1: fastmask is faster), smallest ratio in brackets")
    means = geometric_means(rows, others)
    for name, entry in means.items():
        print(f"  {name}: {entry['mean']:.2f} ({entry['smallest']:.2f}, {entry['lines']} lines)")
    for w, row in zip(workloads, rows, strict=True):
        for name, result in row["peers"].items():
            if result["failure"]:
                print(f"failed: {name} on {w}: {result['failure']}")
    if any(p.wrong for p in peers):
        names = {p.name for p in peers if p.wrong}
        wrong = [
            result["errors"].get("states", 0) for row in rows for name, result in row["peers"].items() if name in names
        ]
        print(f"* ignores the mask: its last states differ from the right ones by up to {max(wrong, default=0):.2g}")
    return {
        "machine": machine,
        "peak_gflops": peak and peak / 1e9,
        "absent": absent,
        "rows": rows,
        "geometric_means": means,
    }


def cell_text(result):
    if not result:
        return ""
    if result["ms"] is None:
        return "failed"
    digits = 2 if result["ms"] >= 1 else 4
    return f"{result['ms']:.{digits}f}" + (f" ({result['ratio']:.2f})" if result["ratio"] else "")


def geometric_means(rows, others):
    """{"infer, torch packed": {mean, smallest, lines}, …, "infer, best correct peer": …}"""
    means = {}
    for mode in ("infer", "train"):
        picked = [row for row in rows if row["workload"]["mode"] == mode]
        columns = {p.name: [row["peers"].get(p.name, {}).get("ratio") for row in picked] for p in others}
        correct = [[row["peers"].get(p.name, {}).get("ratio") for p in others if not p.wrong] for row in picked]
        columns["best correct peer"] = [min((r for r in ratios if r), default=None) for ratios in correct]
        for name, ratios in columns.items():
            ratios = [ratio for ratio in ratios if ratio]
            if ratios:
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                means[f"{mode}, {name}"] = {"mean": mean, "smallest": min(ratios), "lines": len(ratios)}
    return means


def describe_machine(threads):
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    versions = {"python": platform.python_version()}
    for package in ("fastmask", "numba", "numpy", "torch", "onnxruntime"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            if package == "fastmask":
                versions[package] = "(from the source tree)"
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "system": platform.system(), "versions": versions}


def draw(path, summary):
    """Bars of the ratios, one group a line. Without matplotlib only say so."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return progress("no picture: matplotlib is not installed")
    rows = summary["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["peers"] if name != "fastmask"))
    figure = Figure(figsize=(11, 1.5 + 0.22 * len(rows) * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        ratios = [row["peers"].get(name, {}).get("ratio") or 0 for row in rows]
        bars = axes.barh(np.arange(len(rows)) + i * height, ratios, height, align="edge", label=name)
        axes.bar_label(bars, [f"{ratio:.2f}" if ratio else "" for ratio in ratios], padding=2, fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(np.arange(len(rows)) + 0.4, [str(Workload(**row["workload"])) for row in rows])
    axes.invert_yaxis()
    axes.set(title="Time as a multiple of fastmask's (right of the line: fastmask is faster)", xscale="log")
    if names:
        figure.legend(loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=100)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and shorter ones, one process a peer and round"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="fresh processes of each peer and line (default 5, quick 2)")
    parser.add_argument("--seconds", type=float, help="time spent on a line in one process (default 1.0, quick 0.25)")
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--modes", nargs="+", choices=("infer", "train"), default=["infer", "train"])
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="B,T,F,H")
    parser.add_argument("--fills", nargs="+", type=float, default=[0.5], help="share of valid steps; 1.0: no padding")
    parser.add_argument(
        "--holes", action="store_true", help="masked steps anywhere instead of at the end (only peers that can)"
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these: " + ", ".join(p.name for p in PEERS))
    parser.add_argument("--json", type=Path, default=Path("peers.json"))
    parser.add_argument("--png", type=Path, default=Path("peers.png"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.25 if options.quick else 1.0)
    unknown = set(options.peers or ()) - {p.name for p in PEERS}
    if unknown:
        parser.error(f"--peers: unknown {sorted(unknown)}")
    return options


def size(text):
    numbers = tuple(int(part) for part in text.split(","))
    if len(numbers) != 4 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected B,T,F,H, received {text}")
    return numbers


def main(argv=None):
    options = parse(argv)
    if options.job:
        print(json.dumps(work(options.job)))
        return 0
    workloads = [
        Workload(cell, mode, *dims, fill=fill, holes=options.holes and fill < 1)
        for mode, dims, fill, cell in itertools.product(options.modes, options.sizes, options.fills, options.cells)
    ]
    chosen = [p for p in PEERS if options.peers is None or p.name in options.peers]
    missing = {p.name: [package for package in p.packages if not importlib.util.find_spec(package)] for p in chosen}
    absent = {name: "not installed: " + ", ".join(packages) for name, packages in missing.items() if packages}
    peers = [p for p in chosen if p.name not in absent]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        progress(f"expected answers of {len(workloads)} lines from the NumPy reference in float64 …")
        valid_steps = {w: save_expected(w, folder) for w in workloads}
        peaks = [run_peak(options.threads)]
        cells = measure(workloads, peers, options, folder)
        peaks.append(run_peak(options.threads))
    peak = max(filter(None, peaks), default=None)  # the machine may have been busy at one of the two
    summary = report(workloads, peers, cells, valid_steps, peak, absent, options)
    options.json.write_text(json.dumps(summary, indent=1) + "\n")
    draw(options.png, summary)
    progress(f"{time.perf_counter() - started:.0f} s; {options.json} and {options.png} written")
    return 0 if not any(cell["failure"] for cell in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
