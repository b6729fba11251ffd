"""fastmask beside its peers: time of masked LSTM and GRU layers on the CPU, inference and training.

    python asv_bench/peers.py            the yardstick: every size, fill and peer, several rounds; about an hour
    python asv_bench/peers.py --quick    four sizes of the ten (a single row, small, middle, large), fills 0.5 and 1.0
                                         without holes, and only peers that start at once; under two minutes

Rules of the game
- Every peer gets the same float32 data, weights and output gradients, and the same number of threads and CPUs. Lengths
  are uniform on 1..2*fill*T (fill 1.0: every row is full), so about `fill` of the steps are valid. "holes": as many
  valid steps in each row, anywhere. Where no step is masked no peer is given a mask.
- Data is handed to each peer in the memory order it likes best, before the clock starts. What the clock sees: for torch
  packed the packing and the padding back (with holes also the gathering and scattering of the valid steps); for
  onnxruntime and OpenVINO one `run`; for fastmask the mask, the schedule and the filling of the padded output; in
  training also fastmask's packing of the weights, since they change at every step.
- Training is forward and backward: gradients for x, kernel, recurrent kernel and bias from given output gradients,
  which are zero at padded steps.
- Before anything is timed a peer's answers (outputs at valid steps, last states; in training every gradient) are
  compared with the NumPy reference in float64. A peer whose answers differ is not timed. "torch padded" ignores the
  mask: its last states are wrong at short rows, with holes all of its answers are; it is marked * and serves there as a
  yardstick only. Where no step is masked it is right, and a peer like the others.
- GRU is the one with reset_after: Keras' default, torch's only one, linear_before_reset of onnxruntime and OpenVINO.
- Peers run in fresh processes, in turns, round after round, all rounds of a size together; a line shows the median over
  the rounds of each process' median. A peer that the first round finds more than twice as slow as the best correct one
  has lost the line, and is not measured on it again.
- GFLOP/s count the multiplications and additions of valid steps only. The peak is measured in the same run, by chains
  of FMAs that stay in registers.
- Ratios are the peer's time over fastmask's: over 1 fastmask is faster.

Only what is installed takes part; the rest is listed as absent. frameworks.py holds the peers.
"""

import argparse
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np

from frameworks import GATES, PEERS, Data, Workload

SIZES = [  # (B, T, F, H)
    (1, 1, 32, 64),
    (1, 100, 32, 64),
    (1, 100, 64, 256),
    (4, 64, 32, 64),
    (8, 50, 128, 512),
    (32, 200, 64, 128),
    (32, 30, 512, 512),
    (64, 400, 16, 32),
    (256, 100, 64, 256),
    (1024, 20, 12, 100),
]
FILLS, HOLES = [0.25, 0.5, 1.0], [0.5]
QUICK_SIZES = [(1, 100, 32, 64), (32, 200, 64, 128), (256, 100, 64, 256), (64, 400, 16, 32)]
QUICK_FILLS = [0.5, 1.0]
LOST = 2  # times as slow as the best correct peer
# Relative to max(1, |reference|): wide enough for every peer's float32, far below what a wrong gate gives.
TOLERANCE = {"infer": 5e-5, "train": 5e-4}


# --- one process: check and time one peer on some workloads -----------------------------------------------------------


def work(job):
    """What a fresh process does: `job` names the peer, workloads, threads, seconds, the folder of expected answers.

    Prints one line of JSON a workload, as soon as it is done.
    """
    pin(job["threads"])
    if job["peer"] == "peak":
        print(json.dumps({"peak": measure_peak(job["threads"])}))
        return
    peer = next(p for p in PEERS if p.name == job["peer"])
    for entry in job["workloads"]:
        try:
            result = measure_line(peer, Workload(**entry), job)
        except Exception as error:  # whatever a peer raises: the other lines go on
            result = {"errors": {}, "seconds": None, "failure": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(result), flush=True)


def pin(threads):
    """Keep the process on as many CPUs as it may have threads, of different cores if possible; some peers have no other
    limit."""
    if not hasattr(os, "sched_setaffinity"):
        return
    available = sorted(os.sched_getaffinity(0))
    siblings = Path("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list")
    cores = {}
    for cpu in available:
        listed = Path(str(siblings).format(cpu))
        cores.setdefault(listed.read_text() if listed.exists() else cpu, cpu)
    chosen = list(cores.values()) if len(cores) >= threads else available
    os.sched_setaffinity(0, chosen[:threads])


def measure_line(peer, w, job):
    """Check and time `peer` on one workload: {"errors": …, "seconds": median or None, "failure": text or None}."""
    data = Data(w)
    run, answers = peer.prepare(w, data, job["threads"])
    started = time.perf_counter()
    result = run()
    warm_up = job["seconds"] / 3 - (time.perf_counter() - started)
    with np.load(Path(job["folder"]) / file_name(w)) as expected:
        errors = compare(answers(result), expected, data.mask, w)
    promised = {name: error for name, error in errors.items() if not is_wrong(peer, w, name)}
    worst = max(promised, key=promised.get, default=None)
    if worst and promised[worst] > TOLERANCE[w.mode]:
        return {"errors": errors, "seconds": None, "failure": f"wrong answer: {worst} differs by {promised[worst]:.1e}"}
    return {"errors": errors, "seconds": clock(run, warm_up, job["seconds"]), "failure": None}


def is_wrong(peer, w, answer=None):
    """Whether this answer of a peer that ignores the mask (None: any of its answers) is bound to be wrong."""
    return peer.wrong and w.fill < 1 and (w.holes or answer in (None, "states"))


def compare(actual, expected, mask, w):
    """Largest difference of each answer, relative to max(1, |expected|); outputs only where the mask is True.

    Sums over many steps (gradients of the weights) are measured against the largest number in them.
    """
    errors = {}
    for name in ("outputs", "states") if w.mode == "infer" else expected:
        want = expected[name]
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
    """Of the expected answers; inference and training share them."""
    return f"{w.cell}_{w.B}_{w.T}_{w.F}_{w.H}_{w.fill}_{w.holes}.npz"


def save_expected(workloads, folder):
    """Write the float64 reference's answers; returns {workload: number of valid steps}."""
    valid_steps, written = {}, set()
    for w in sorted(workloads, key=lambda w: w.mode, reverse=True):  # train, then infer: the file is there already
        data = Data(w)
        valid_steps[w] = int(data.mask.sum())
        if file_name(w) not in written:
            written.add(file_name(w))
            np.savez(Path(folder) / file_name(w), **expected_answers(w, data))
    return valid_steps


def expected_answers(w, data):
    stem = import_module(f"fastmask.reference.{w.cell}")
    x, weights = data.x.astype(np.float64), data.weights(np.float64)
    if w.mode == "infer":
        outputs, states = getattr(stem, w.cell)(x, *weights, mask=data.mask)
        gradients = {}
    else:
        (outputs, states), tape = getattr(stem, w.cell + "_forward")(x, *weights, mask=data.mask)
        g = getattr(stem, w.cell + "_backward")(tape, data.d_outputs.astype(np.float64))
        gradients = {"d_x": g.x, "d_kernel": g.kernel, "d_recurrent_kernel": g.recurrent_kernel, "d_bias": g.bias}
    return {"outputs": outputs, "states": np.stack(states)} | gradients


def run_job(job):
    """Run `job` in a fresh process; returns what it printed, a dict a line, and how it failed or None."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "FASTMASK_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)],
        env=os.environ | dict.fromkeys(limits, str(job["threads"])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    failure = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1] if done.returncode else None
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], failure


def run_peak(threads):
    """measure_peak in a fresh process; None if that failed."""
    results, _ = run_job({"peer": "peak", "threads": threads})
    return results[0]["peak"] if results else None


def measure(workloads, peers, options):
    """Expected answers, then rounds of fresh processes in turns: {workload: number of valid steps} and
    {(workload, peer name): {"seconds": [...], "errors": …, "failure": …}}.
    """
    valid_steps, cells = {}, {}
    groups = [workloads]
    if not options.quick:  # a process does all lines of a size
        groups = [list(group) for _, group in itertools.groupby(workloads, lambda w: (w.B, w.T, w.F, w.H))]
    for group in groups:
        with tempfile.TemporaryDirectory() as folder:
            progress(f"expected answers of {len(group)} lines from the NumPy reference in float64 …")
            valid_steps |= save_expected(group, folder)
            cells |= {
                (w, p.name): {"seconds": [], "errors": {}, "failure": None}
                for w, p in itertools.product(group, peers)
                if p.takes(w)
            }
            for turn in range(options.rounds):
                order = peers[turn % len(peers) :] + peers[: turn % len(peers)]
                chosen = {p.name: [w for w in group if is_worth(w, p, peers, cells)] for p in order}
                for name, mine in chosen.items():
                    if mine:
                        progress(f"round {turn + 1} of {options.rounds}: {name}: {mine[0]}, {len(mine)} lines")
                        measure_peer(name, mine, cells, options, folder)
    return valid_steps, cells


def is_worth(w, peer, peers, cells):
    """Whether `peer` is to be measured on a line (again): not after a failure, not if it has clearly lost."""
    cell = cells.get((w, peer.name))
    if cell is None or cell["failure"]:
        return False
    rivals = [p.name for p in peers if p.name != "fastmask" and not is_wrong(p, w) and (w, p.name) in cells]
    best = min((median(cells[w, name]["seconds"]) for name in rivals if cells[w, name]["seconds"]), default=math.inf)
    return peer.name not in rivals or not cell["seconds"] or median(cell["seconds"]) <= LOST * best


def measure_peer(name, workloads, cells, options, folder):
    """One process of one peer; its results go into `cells`."""
    job = {
        "peer": name,
        "workloads": [asdict(w) for w in workloads],
        "threads": options.threads,
        "seconds": options.seconds,
        "folder": str(folder),
    }
    results, failure = run_job(job)
    for i, w in enumerate(workloads):
        cell = cells[w, name]
        if i < len(results):
            cell["errors"], cell["failure"] = results[i]["errors"], results[i]["failure"]
            cell["seconds"] += [results[i]["seconds"]] if results[i]["seconds"] else []
        else:
            cell["failure"] = failure or "no result"


def progress(text):
    print(text, file=sys.stderr, flush=True)


# --- goals ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What a group of lines must show: a geometric mean, and a number that each line reaches."""

    name: str
    covers: Callable  # workload -> bool
    value: Callable  # row of the report -> number or None
    mean: float | None = None
    line: float | None = None


def best_ratio(row):
    return row["best"] and row["best"]["ratio"]


def padded_ratio(row):
    return row["peers"].get("torch padded*", {}).get("ratio")


def peak_share(row):
    return row["peers"].get("fastmask", {}).get("share_of_peak")


GOALS = [
    Goal("inference, fill <= 0.5", lambda w: w.mode == "infer" and w.fill <= 0.5, best_ratio, mean=2.0, line=1.2),
    Goal("training, fill <= 0.5", lambda w: w.mode == "train" and w.fill <= 0.5, best_ratio, mean=3.0, line=1.5),
    Goal(
        "training, fill <= 0.5, B >= 32, against torch padded",
        lambda w: w.mode == "train" and w.fill <= 0.5 and w.B >= 32,
        padded_ratio,
        line=1.5,
    ),
    Goal("inference, fill 1.0", lambda w: w.mode == "infer" and w.fill >= 1, best_ratio, mean=1.3, line=1.0),
    Goal("training, fill 1.0", lambda w: w.mode == "train" and w.fill >= 1, best_ratio, mean=1.3, line=1.0),
    Goal(
        "inference, B >= 32, H >= 128, share of the FMA peak",
        lambda w: w.mode == "infer" and w.B >= 32 and w.H >= 128,
        peak_share,
        line=0.75,
    ),
    Goal(
        "training, B >= 32, H >= 128, share of the FMA peak",
        lambda w: w.mode == "train" and w.B >= 32 and w.H >= 128,
        peak_share,
        line=0.65,
    ),
]


def judge(goal, rows):
    """What the lines of a goal show: {"goal", "lines", "mean", "smallest", "worst", "below", "met"}; met is None where
    nothing was measured, and False where a line has no value (nothing to compare with)."""
    covered = [row for row in rows if goal.covers(Workload(**row["workload"]))]
    values = {str(Workload(**row["workload"])): goal.value(row) for row in covered}
    known = {line: value for line, value in values.items() if value}
    entry = {"goal": goal.name, "asked_mean": goal.mean, "asked_line": goal.line, "lines": len(known), "met": None}
    if known:
        worst = min(known, key=known.get)
        below = [line for line, value in known.items() if goal.line and value < goal.line]
        mean = geometric_mean(known.values())
        met = not below and len(known) == len(values) and (goal.mean is None or mean >= goal.mean)
        entry |= {"mean": mean, "smallest": known[worst], "worst": worst, "below": below, "met": met}
    return entry


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


# --- report -----------------------------------------------------------------------------------------------------------


def summarize(workloads, peers, cells, valid_steps, peak):
    """One dict a line: what each peer did, and the best of those that are right."""
    rows = []
    for w in workloads:
        found = {}
        for p in peers:
            if (w, p.name) not in cells:
                continue
            cell = cells[w, p.name]
            seconds = median(cell["seconds"]) if cell["seconds"] and not cell["failure"] else None
            flops = w.flops(valid_steps[w]) / seconds if seconds else None
            found[p.name] = {
                "ms": 1e3 * seconds if seconds else None,
                "ms_rounds": [1e3 * s for s in cell["seconds"]],
                "gflops": flops / 1e9 if flops else None,
                "share_of_peak": flops / peak if flops and peak else None,
                "errors": cell["errors"],
                "failure": cell["failure"],
            }
        own = found.get("fastmask", {}).get("ms")
        for name, result in found.items():
            result["ratio"] = result["ms"] / own if own and result["ms"] and name != "fastmask" else None
        right = [p.name for p in peers if p.name in found and not is_wrong(p, w) and found[p.name]["ratio"]]
        best = min(right, key=lambda name: found[name]["ratio"], default=None)
        rows.append(
            {
                "workload": asdict(w),
                "valid_steps": valid_steps[w],
                "best": best and {"peer": best, "ratio": found[best]["ratio"]},
                "peers": found,
            }
        )
    return rows


def report(rows, peers, peak, absent, threads):
    """Print the table, means and goals; return what goes into the JSON file."""
    machine = describe_machine(threads)
    print(f"\n{machine['cpu']}, {threads} threads of {machine['cores']} cores, {machine['system']}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    print(f"FMA peak {peak / 1e9:.0f} GFLOP/s (float32, measured)" if peak else "FMA peak: not measured")
    for name, why in absent.items():
        print(f"absent: {name} ({why})")
    others = [p.name for p in peers if p.name != "fastmask"]
    print("\nms a call; in brackets: how many times as long as fastmask; GFLOP/s (over valid steps) are fastmask's\n")
    heads = ["workload", "fastmask", "GFLOP/s", "of peak", *others, "best correct peer"]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for row in rows:
        own, best = row["peers"].get("fastmask", {}), row["best"]
        texts = [
            f"{Workload(**row['workload'])}",
            cell_text(own),
            f"{own['gflops']:.0f}" if own.get("gflops") else "–",
            f"{own['share_of_peak']:.0%}" if own.get("share_of_peak") else "–",
            *(cell_text(row["peers"].get(name)) for name in others),
            f"{best['peer']} {best['ratio']:.2f}" if best else "–",
        ]
        print("| " + " | ".join(texts) + " |")

    print("\ngeometric means of the ratios, smallest ratio in brackets")
    means = geometric_means(rows, others)
    for name, entry in means.items():
        print(f"  {name}: {entry['mean']:.2f} ({entry['smallest']:.2f}, {entry['lines']} lines)")
    for row in rows:
        for name, result in row["peers"].items():
            if result["failure"]:
                print(f"failed: {name} on {Workload(**row['workload'])}: {result['failure']}")
    for p in peers:
        if p.wrong:
            states = [row["peers"].get(p.name, {}).get("errors", {}).get("states", 0) for row in rows]
            print(
                f"* ignores the mask: its last states differ from the right ones by up to {max(states, default=0):.2g}"
            )

    goals = [judge(goal, rows) for goal in GOALS]
    print("\ngoals (of the best correct peer, if nothing else is said)")
    for entry in goals:
        print("  " + goal_text(entry))
    return {
        "machine": machine,
        "peak_gflops": peak and peak / 1e9,
        "absent": absent,
        "rows": rows,
        "geometric_means": means,
        "goals": goals,
    }


def goal_text(entry):
    if entry["met"] is None:
        return f"{entry['goal']}: not measured"
    parts = []
    if entry["asked_mean"]:
        parts.append(f"geometric mean {entry['mean']:.2f} (asked {entry['asked_mean']:g})")
    parts.append(f"smallest {entry['smallest']:.2f} (asked {entry['asked_line']:g})")
    verdict = "met" if entry["met"] else "MISSED"
    if entry["below"]:
        verdict += f", {len(entry['below'])} of {entry['lines']} lines below"
    return f"{entry['goal']}: {', '.join(parts)}: {verdict}; worst line {entry['worst']}"


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
        columns = {name: [row["peers"].get(name, {}).get("ratio") for row in picked] for name in others}
        columns["best correct peer"] = [best_ratio(row) for row in picked]
        for name, ratios in columns.items():
            ratios = [ratio for ratio in ratios if ratio]
            if ratios:
                mean = geometric_mean(ratios)
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
    packages = dict.fromkeys(package for peer in PEERS for package in peer.packages)
    for package in ["numba", "numpy", *packages]:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            if package == "fastmask":
                versions[package] = "(from the source tree)"
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "system": platform.system(), "versions": versions}


def draw(path, rows):
    """Ratios as dots, a panel a mode and a line of it a workload. Without matplotlib only say so."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return progress("no picture: matplotlib is not installed")
    names = list(dict.fromkeys(name for row in rows for name in row["peers"] if name != "fastmask"))
    panels = {mode: [row for row in rows if row["workload"]["mode"] == mode] for mode in ("infer", "train")}
    panels = {mode: picked for mode, picked in panels.items() if picked}
    longest = max(map(len, panels.values()))
    figure = Figure(figsize=(3 + 6.5 * len(panels), 1.8 + 0.2 * longest), layout="constrained")
    for axes, (mode, picked) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        places = np.arange(len(picked))
        for name, marker in zip(names, itertools.cycle("o^*sDvPX<>")):
            ratios = [row["peers"].get(name, {}).get("ratio") or math.nan for row in picked]
            wrong = name.endswith("*")
            axes.plot(ratios, places, marker, label=name, markersize=5, fillstyle="none" if wrong else "full")
        best = [best_ratio(row) or math.nan for row in picked]
        axes.plot(best, places, "|", color="black", markersize=12, label="best correct peer")
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(
            places, [str(Workload(**row["workload"])).replace(f" {mode} ", "") for row in picked], fontsize=7
        )
        axes.set(ylim=(len(picked) - 0.5, -0.5), xscale="log", title={"infer": "inference", "train": "training"}[mode])
        axes.set_xlabel("time as a multiple of fastmask's (right of 1: fastmask is faster)")
        axes.grid(axis="both", alpha=0.3)
        left, right = axes.get_xlim()
        axes.axvspan(left, 1, color="red", alpha=0.08)
        axes.set_xlim(left, right)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=100)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a part of the lines and peers, one process a peer and round"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="fresh processes of each peer and line (default 3, quick 2)")
    parser.add_argument("--seconds", type=float, help="time spent on a line in one process (default 0.5, quick 0.12)")
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--modes", nargs="+", choices=("infer", "train"), default=["infer", "train"])
    parser.add_argument("--sizes", nargs="+", type=size, metavar="B,T,F,H")
    parser.add_argument("--fills", nargs="*", type=float, help="share of valid steps, right-padded; 1.0: no padding")
    parser.add_argument("--holes", nargs="*", type=float, help="share of valid steps of the lines with holes")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these: " + ", ".join(p.name for p in PEERS))
    parser.add_argument("--json", type=Path, default=Path("peers.json"))
    parser.add_argument("--png", type=Path, default=Path("peers.png"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.seconds = options.seconds or (0.12 if options.quick else 0.5)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    if options.fills is None and options.holes is None:
        options.fills, options.holes = (QUICK_FILLS, []) if options.quick else (FILLS, HOLES)
    options.fills, options.holes = options.fills or [], options.holes or []
    if not all(0 < fill <= 1 for fill in options.fills) or not all(0 < fill < 1 for fill in options.holes):
        parser.error("--fills: expected numbers in (0, 1]; --holes: in (0, 1)")
    unknown = set(options.peers or ()) - {p.name for p in PEERS}
    if unknown:
        parser.error(f"--peers: unknown {sorted(unknown)}")
    return options


def size(text):
    numbers = tuple(int(part) for part in text.split(","))
    if len(numbers) != 4 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected B,T,F,H, received {text}")
    return numbers


def make_workloads(options):
    """The lines, in order; a single step is either there or not, so it comes at fill 1.0 alone."""
    shares = [(fill, False) for fill in options.fills] + [(fill, True) for fill in options.holes]
    return [
        Workload(cell, mode, *dims, fill=fill, holes=holes)
        for dims, mode, (fill, holes), cell in itertools.product(options.sizes, options.modes, shares, options.cells)
        if dims[1] > 1 or fill >= 1
    ]


def choose_peers(options):
    """The peers that take part, and why the others do not: {name: reason}."""
    absent = {}
    for p in PEERS:
        if options.peers is not None and p.name not in options.peers:
            continue
        if options.quick and options.peers is None and p.slow_start:
            absent[p.name] = "takes seconds to start or to compile: not in --quick unless named by --peers"
        else:
            absent[p.name] = p.absence()
    return [p for p in PEERS if absent.get(p.name, "") is None], {name: why for name, why in absent.items() if why}


def main(argv=None):
    options = parse(argv)
    if options.job:
        work(options.job)
        return 0
    workloads = make_workloads(options)
    peers, absent = choose_peers(options)
    started = time.perf_counter()
    peaks = [run_peak(options.threads)]
    valid_steps, cells = measure(workloads, peers, options)
    peaks.append(run_peak(options.threads))
    peak = max(filter(None, peaks), default=None)  # the machine may have been busy at one of the two
    rows = summarize(workloads, peers, cells, valid_steps, peak)
    summary = report(rows, peers, peak, absent, options.threads)
    options.json.write_text(json.dumps(summary, indent=1) + "\n")
    draw(options.png, rows)
    progress(f"{time.perf_counter() - started:.0f} s; {options.json} and {options.png} written")
    return 0 if not any(cell["failure"] for cell in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
