"""What peers.py makes of its measurements: the table, the ratios, the goals, the picture."""

import itertools
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np

from frameworks import PEERS, Workload

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
        right = [p.name for p in peers if p.name in found and not p.is_wrong(w) and found[p.name]["ratio"]]
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
        return print("no picture: matplotlib is not installed")
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
