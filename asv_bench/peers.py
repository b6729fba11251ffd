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

Only what is installed takes part; the rest is listed as absent. frameworks.py holds the peers, report.py the
table, the goals and the picture.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from statistics import median

import numpy as np

from frameworks import GATES, PEERS, Data, Workload
from report import draw, report, summarize

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
LONG = 1.5  # seconds: one call that counts is enough
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
    taken = time.perf_counter() - started
    with np.load(Path(job["folder"]) / file_name(w)) as expected:
        errors = compare(answers(result), expected, data.mask, w)
    promised = {name: error for name, error in errors.items() if not peer.is_wrong(w, name)}
    worst = max(promised, key=promised.get, default=None)
    if worst and promised[worst] > TOLERANCE[w.mode]:
        return {"errors": errors, "seconds": None, "failure": f"wrong answer: {worst} differs by {promised[worst]:.1e}"}
    seconds = clock(run, job["seconds"] / 3 - taken, job["seconds"], least=1 if taken > LONG else 2)
    return {"errors": errors, "seconds": seconds, "failure": None}


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


def clock(run, warm_up, seconds, least):
    """Median time of the calls within `seconds`, at least so many, after `warm_up` seconds of uncounted ones."""
    end = time.perf_counter() + warm_up
    while time.perf_counter() < end:
        run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
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


def run_job(job, script=__file__):
    """Run `job` in a fresh process of `script`; returns what it printed, a dict a line, and how it failed or None."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "FASTMASK_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, str(script), "--job", json.dumps(job)],
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
    rivals = [p.name for p in peers if p.name != "fastmask" and not p.is_wrong(w) and (w, p.name) in cells]
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


# --- the command line ------------------------------------------------------------------------------------------------


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a part of the lines and peers, one process a peer and round"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="fresh processes of each peer and line (default 3, quick 2)")
    parser.add_argument("--seconds", type=float, help="time spent on a line in one process (default 0.5, quick 0.1)")
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
    options.seconds = options.seconds or (0.1 if options.quick else 0.5)
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
