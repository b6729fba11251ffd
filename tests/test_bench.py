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
from fastmask.ops import activation, attention, convolution, embedding, gemm, normalization, pool, user_cell

FOLDER = Path(__file__).parents[1] / "asv_bench"
if not FOLDER.exists():
    pytest.skip("asv_bench/ is not beside the tests", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

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
    + [(fm.masks, name) for name in ("from_values", "from_ids", "from_lengths", "to_lengths")]
    + [(fm, name) for name in ("pad_sequences", "bucket_batches")]
    + [(fm.Ragged, name) for name in ("from_list", "from_padded", "to_padded", "take", "__getitem__")]
    + [(fm.losses.Loss, name) for name in ("__call__", "value_and_grad")]
    + [(fm.metrics.Metric, "update_state"), (fm.optimizers.Optimizer, "apply_gradients")]
    + [(fm.layers.Layer, "__call__")]
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


def test_peers_quick(tmp_path):
    """The yardstick itself, on a tiny layer and with fastmask alone, whatever else is installed."""
    command = [sys.executable, str(FOLDER / "peers.py"), "--quick", "--rounds", "1", "--seconds", "0.01"]
    command += ["--sizes", "3,5,4,6", "--peers", "fastmask", "--json", str(tmp_path / "p.json")]
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
