"""The benchmarks: each runs once at its smallest size and calls what it is named after; no public op is without one."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastmask as fm
from fastmask.kernels import _jit
from fastmask.layers.prepared import PreparedCall
from fastmask.ops import activation, attention, convolution, embedding, gemm, normalization, optimizer, pool, user_cell

FOLDER = Path(__file__).parents[1] / "asv_bench"
if not FOLDER.exists():
    pytest.skip("asv_bench/ is not beside the tests", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import goals  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
from frameworks import PEERS, Workload  # noqa: E402

STEMS = sorted(m.name for m in pkgutil.iter_modules([str(FOLDER / "benchmarks")]))
TIMED = ("time_", "peakmem_", "track_")

# The public operations, as (where they are looked up, name); layers, losses, metrics and optimizers by their verbs.
RECURRENT = [f"{stem}{verb}" for stem in ("lstm", "gru", "simple_rnn") for verb in ("", "_forward", "_backward")]
VERBS = ("forward", "backward")
OPS = (
    [(fm, name) for name in RECURRENT]
    + [(gemm, name) for name in ("dense", "dense_forward", "dense_backward", "dense_pack")]
    + [(attention, f"attention{verb}") for verb in ("", "_forward", "_backward", "_scores")]
    + [(convolution, f"conv1d{verb}") for verb in ("", "_forward", "_backward", "_pack", "_mask")]
    + [(activation, name) for name in ("activation_forward", "activation_backward")]
    + [(user_cell, f"user_cell{verb}") for verb in ("", "_forward", "_backward", "_pack")]
    + [(activation, f"{name}_{verb}") for name in ("activation", "softmax") for verb in VERBS]
    + [(embedding, f"embedding_{verb}") for verb in VERBS]
    + [(pool, f"{kind}_pool_{verb}") for kind in ("average", "max") for verb in VERBS]
    + [(normalization, f"{kind}_normalization_{verb}") for kind in ("layer", "unit", "batch") for verb in VERBS]
    + [(optimizer, name) for name in ("optimizer_update", "square_sum")]
    + [(fm.masks, name) for name in ("from_values", "from_ids", "from_lengths", "to_lengths")]
    + [(fm, name) for name in ("pad_sequences", "bucket_batches")]
    + [(fm.Ragged, name) for name in ("from_list", "from_padded", "to_padded", "take", "__getitem__")]
    + [(fm.losses.Loss, name) for name in ("__call__", "value_and_grad")]
    + [(fm.metrics.Metric, "update_state"), (fm.optimizers.Optimizer, "apply_gradients")]
    + [(fm.layers.Layer, "__call__"), (fm.layers.GRU, "prepare"), (PreparedCall, "__call__")]
    + [(fm.Sequential, name) for name in ("fit", "evaluate", "predict", "train_on_batch")]
    + [(fm.Model, name) for name in ("save", "save_weights", "load_weights", "stream")]
    + [(fm, "load_model"), (fm.models.Stream, "__call__")]
)


def benchmarks(prefixes):
    """(module, class, method) of every benchmark whose name starts with one of `prefixes`, as asv finds them."""
    found = []
    for stem in STEMS:
        module = importlib.import_module(f"benchmarks.{stem}")
        for name, group in vars(module).items():
            if inspect.isclass(group) and not name.startswith("_"):
                found += [(stem, name, method) for method in dir(group) if method.startswith(prefixes)]
    return found


def prepared(stem, group):
    """An instance of a benchmark class, set up for the first value of each parameter; and these values."""
    instance = getattr(importlib.import_module(f"benchmarks.{stem}"), group)()
    params = getattr(instance, "params", ())
    assert len(params) == len(getattr(instance, "param_names", ())), "every parameter has a name"
    first = [values[0] for values in params]
    instance.setup(*first)
    return instance, first


def code_called_by(function):
    """The code objects of all Python functions that run while `function` does."""
    seen = set()

    def note(frame, event, _):
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return seen


def code_of(owner, name):
    thing = inspect.getattr_static(owner, name) if inspect.isclass(owner) else getattr(owner, name)
    return inspect.unwrap(getattr(thing, "__func__", thing)).__code__


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = fm.get_num_threads()
    yield
    fm.set_num_threads(threads)


called = {}  # code objects that each benchmark ran, for the guard at the end


@pytest.mark.parametrize("stem, group, method", benchmarks(TIMED))
def test_benchmark_runs_at_its_smallest_size(stem, group, method):
    instance, first = prepared(stem, group)
    called[stem, group, method] = code_called_by(lambda: getattr(instance, method)(*first))
    # named after one function, calling another: the classic defect of benchmarks
    op = method.split("_", 1)[1]
    for name in {name for _, name in OPS}:
        if name.strip("_") == op:
            codes = {code_of(o, n) for o, n in OPS if n == name}
            assert codes & called[stem, group, method], f"{method} does not call {name}"


@pytest.mark.parametrize("stem, group, method", benchmarks(("timeraw_",)))
def test_start_up_benchmark_runs(stem, group, method):
    code = getattr(getattr(importlib.import_module(f"benchmarks.{stem}"), group)(), method)()
    home = Path(fm.__file__).parents[1]  # the process finds the package that is tested here, installed or not
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=home)
    assert done.returncode == 0, done.stderr


def test_every_public_op_has_a_benchmark():
    if set(called) != set(benchmarks(TIMED)):
        pytest.skip("not all benchmarks were run (tests were selected)")
    ran = set().union(*called.values())
    assert [
        f"{getattr(owner, '__name__', owner)}.{name}" for owner, name in OPS if code_of(owner, name) not in ran
    ] == []


def test_every_stem_has_a_benchmark_file():
    ops = importlib.import_module("fastmask.ops")
    stems = {m.name for m in pkgutil.iter_modules(ops.__path__) if not m.name.startswith("_")}
    assert stems - set(STEMS) == set()


def test_asv_configuration_is_complete():
    lines = (FOLDER / "asv.conf.json").read_text(encoding="utf-8").splitlines()
    settings = json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))
    assert (FOLDER / settings["benchmark_dir"]).is_dir()
    assert (FOLDER / settings["repo"] / "pyproject.toml").is_file()


# ---- the yardstick ---------------------------------------------------------------------------------------------------
def test_lines_of_the_yardstick():
    lines = peers.make_workloads(peers.parse([]))
    assert len(lines) == len(set(lines)) == 9 * 16 + 4  # a single step is either there or not
    assert {(w.fill, w.holes) for w in lines} == {(0.25, False), (0.5, False), (1.0, False), (0.5, True)}
    quick = peers.make_workloads(peers.parse(["--quick"]))
    assert set(quick) < set(lines)
    assert all(any(goal.covers(w) for w in quick) for goal in report.GOALS)


def row(cell, mode, *dims, fill=0.5, holes=False, best=None, padded=None, share=None):
    """A line of the report with these ratios."""
    found = {"fastmask": {"ms": 1.0, "share_of_peak": share}, "torch padded*": {"ratio": padded}}
    w = Workload(cell, mode, *dims, fill=fill, holes=holes)
    return {"workload": vars(w), "best": best and {"peer": "onnxruntime", "ratio": best}, "peers": found}


def test_goals_are_judged_line_by_line():
    large, small = (32, 20, 8, 128), (4, 20, 8, 128)
    rows = [
        row("lstm", "infer", *large, best=4.0, share=0.8),
        row("gru", "infer", *small, fill=0.25, holes=False, best=1.0),
        row("gru", "infer", *small, fill=1.0, best=1.3),
        row("lstm", "train", *large, best=3.0, padded=1.6, share=0.7),
        row("lstm", "train", *large, holes=True, best=3.0, padded=1.4, share=0.6),
        row("lstm", "train", *small, best=3.0, padded=0.5),
    ]
    judged = {goal.name: report.judge(goal, rows) for goal in report.GOALS}
    entry = judged["inference, fill <= 0.5"]
    assert (entry["mean"], entry["smallest"], entry["lines"], entry["met"]) == (pytest.approx(2), 1.0, 2, False)
    assert entry["worst"] == str(Workload("gru", "infer", *small, fill=0.25)) == entry["below"][0]
    assert "MISSED, 1 of 2 lines below; worst line GRU  infer  (4,20,8,128)" in report.goal_text(entry)
    assert judged["training, fill <= 0.5"]["met"] is True
    assert judged["training, fill <= 0.5, B >= 32, against torch padded"]["smallest"] == 1.4  # B = 4 does not count
    assert judged["inference, fill 1.0"]["met"] is True
    assert judged["training, fill 1.0"]["met"] is None
    assert report.goal_text(judged["training, fill 1.0"]) == "training, fill 1.0: not measured"
    assert judged["inference, B >= 32, H >= 128, share of the FMA peak"]["met"] is True
    assert judged["training, B >= 32, H >= 128, share of the FMA peak"]["below"] == [
        str(Workload(**rows[4]["workload"]))
    ]


def test_a_goal_is_missed_where_a_line_has_no_value():
    rows = [row("lstm", "infer", 4, 20, 8, 16, best=9.0), row("gru", "infer", 4, 20, 8, 16)]
    assert report.judge(report.GOALS[0], rows)["met"] is False


def test_a_peer_is_best_only_where_it_is_right():
    names = {"fastmask": 1.0, "torch padded*": 2.0, "torch packed": 5.0}
    chosen = [p for p in PEERS if p.name in names]
    lines = [Workload("gru", "infer", 4, 20, 8, 16, fill=fill) for fill in (0.5, 1.0)]
    cells = {
        (w, p.name): {"seconds": [names[p.name]], "errors": {}, "failure": None}
        for w in lines
        for p in chosen
        if p.takes(w)
    }
    padded, full = report.summarize(lines, chosen, cells, dict.fromkeys(lines, 40), 1e9)
    assert padded["best"] == {"peer": "torch packed", "ratio": 5.0}
    assert full["best"] == {"peer": "torch padded*", "ratio": 2.0}
    slow = next(p for p in PEERS if p.name == "JAX scan")
    cells[lines[0], slow.name] = {"seconds": [11.0], "failure": None}
    assert not peers.is_worth(lines[0], slow, [*chosen, slow], cells)
    assert all(peers.is_worth(lines[0], p, [*chosen, slow], cells) for p in chosen)


def test_peers_quick(tmp_path):
    """The yardstick itself, on a tiny layer and with fastmask alone, whatever else is installed."""
    command = [sys.executable, str(FOLDER / "peers.py"), "--quick", "--rounds", "1", "--seconds", "0.01"]
    command += ["--sizes", "3,5,4,6", "--fills", "0.5", "--peers", "fastmask", "--json", str(tmp_path / "p.json")]
    command += ["--png", str(tmp_path / "p.png")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    assert [(row["workload"]["cell"], row["workload"]["mode"]) for row in rows] == [
        ("lstm", "infer"),
        ("gru", "infer"),
        ("lstm", "train"),
        ("gru", "train"),
    ]
    assert all(row["peers"]["fastmask"]["ms"] > 0 for row in rows)
    assert set(rows[2]["peers"]["fastmask"]["errors"]) == {
        "outputs",
        "states",
        "d_x",
        "d_kernel",
        "d_recurrent_kernel",
        "d_bias",
    }


# ---- the other goals -------------------------------------------------------------------------------------------------
def test_results_say_met_or_missed():
    assert goals.text_of(goals.result("time", 0.5, at_most=0.6)) == "time: 0.5 (asked: at most 0.6): met"
    assert (
        goals.text_of(goals.result("time", 0.5, at_least=0.6, note="s")) == "time: 0.5 (asked: at least 0.6): MISSED; s"
    )
    assert goals.text_of(goals.result("path", None, at_most=4.0)) == "path: not there (asked: at most 4): MISSED"
    assert goals.text_of(goals.result("rival", 3)) == "rival: 3"


def test_latencies_of_one_step():
    found = goals.own_latencies(1, "GRU")
    assert all(0 < times["p50"] <= times["p99"] for times in found.values())
    assert set(found) >= {"layer(x, mask=mask)", "prepared call"}


def test_goals_in_a_fresh_process():
    assert goals.fresh(goals.peer_latency, threads=1, peer="fastmask", cell="lstm")["p50"] > 0
    with pytest.raises(RuntimeError, match="nobody"):
        goals.fresh(goals.peer_latency, threads=1, peer="nobody", cell="lstm")


def test_step_shares():
    """What a training step is made of, of tiny models."""
    step = importlib.import_module("step")
    launch = _jit.launch
    for make, recurrent in zip(step.MODELS.values(), ("lstm.lstm_forward", "gru.gru_forward"), strict=True):
        run, valid = make(3, 4, 5, 6)
        seconds, kernels, parts = step.measure(run, seconds=0.01)
        assert valid.shape == (3, 4) and valid.any() and seconds > 0 and _jit.launch is launch
        assert {f"{recurrent}.float32", "optimizer.adam.float32"} <= set(kernels)
        assert any(name.startswith("gemm.weight_gradient.float32+gemm.weight_gradient.float32+") for name in kernels)
        assert set(parts) == {*step.PARTS, step.GOAL} and all(0 < share < 1 for share in parts.values())
