"""No kernel reads or writes outside its arrays, none uses memory that nobody has written, and all give the same bits on
every kind of CPU.

Everything in op_cases.py and layer_cases.py runs once as usual, then with each array at a page that may not be touched
(fence.py), which ends or begins there, and with NaN in all fresh memory: the process must live, and the results be the
same bits. (Numba's checks of indices do not reach the intrinsics that kernels are made of.) Each run is a process of
its own, with the vectors of this machine or those of another.
"""

import functools
import json
import platform
import re
import sys

import numpy as np
import pytest

import fence
import fresh
from cases import launched
from fastmask.kernels import _disk_cache, _jit
from fastmask.ops import _common, _training
from layer_cases import every_case, inputs_of, masks_of, outcome
from op_cases import SIZES, calls

DTYPES = ("float32", "float64")
X86 = platform.machine().lower() in ("x86_64", "amd64")
# name -> settings; AVX2: 8 lanes and 16 registers; baseline: 4 lanes and fused multiply-adds by the C library
MACHINES = {
    "this": {},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"} if X86 else {"FASTMASK_LANES": "8"},
    "baseline": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""} if X86 else {"FASTMASK_LANES": "4"},
    **{f"{lanes} lanes": {"FASTMASK_LANES": str(lanes)} for lanes in (4, 8, 16)},
}
# What other machines run in the short form; all of it would take a minute to compile for each.
SHORT = (
    "lstm",
    "gru",
    "dense",
    "activations",
    "masks",
    "layer_normalization",
    "max_pool",
    "attention",
    "loss mean_squ",
)


# ---- in the process that may die -------------------------------------------------------------------------------------
def run_behind_fence(at, sizes, dtypes, only, with_layers):
    """Print {program: digest of its results} of everything that ran behind the fence, and the names of all kernels that
    were launched there. at: "end", "begin", or None for no fence; only: how the names of programs begin."""
    programs = {
        f"{name} {dtype} {n}": run
        for dtype in dtypes
        for n in sizes
        for name, run in calls(dtype, n).items()
        if name.startswith(tuple(only))
    }
    if with_layers:
        programs |= {
            f"layer {name} {dtype}": functools.partial(layer, case, dtype)
            for name, case in every_case()
            for dtype in dtypes
        }
    expected = {name: result(run, "serial", 1) for name, run in programs.items()}
    kernels = set()
    launch = _jit.launch
    _jit.launch = lambda kernel, *args: (kernels.update(names(kernel)), launch(kernel, *args))[1]
    if at is not None:
        with_no_room_behind()
        fence.fence(at)
    for name, run in programs.items():
        print(name, flush=True)
        for launch_path in (("serial", 1), ("pool", 3)):
            found = result(run, *launch_path)
            assert found == expected[name], (
                f"{name}, {launch_path}: other bits at the {at} of a page, with NaN in fresh memory"
            )
    _training._kept = None  # what it holds cannot be freed any more when Python itself ends
    print(json.dumps([expected, sorted(kernels)]))


def names(kernel):
    """Of what is launched: of one kernel, or of all that are launched together."""
    if isinstance(kernel, _jit.Together):
        return {"_launch.together.float32", *kernel.name.split("+")}
    return {kernel.name}


def result(run, path, threads):
    with launched(path, threads):
        return fresh.digest(run())


def layer(case, dtype):
    inputs = inputs_of(case, dtype)
    return outcome(case, dtype, inputs, masks_of(case))


def with_no_room_behind():
    """Let buffers of the ops end where their arrays do: they are aligned and used again, with some room behind."""

    def exact(shape, dtype):
        return np.empty(shape, dtype)

    original = _common.aligned
    for name, module in list(sys.modules.items()):
        if name.startswith("fastmask.ops") and getattr(module, "aligned", None) is original:
            module.aligned = exact
    _common._Spares.take = lambda self, size: exact((size,), np.uint8)
    _training._kept = _training._Kept()  # nothing from before


# ---- in the test -----------------------------------------------------------------------------------------------------
@functools.cache
def ran(machine, at, sizes, dtypes, only=("",), with_layers=False):
    """(program -> digest, kernels) of a process that ran everything; AssertionError with the program it died in."""
    code = f"import test_guard_pages as t; t.run_behind_fence({at!r}, {sizes}, {dtypes}, {only}, {with_layers})"
    process = fresh.start(code, cache=_disk_cache.cache_root(), **MACHINES[machine])
    try:
        out, _ = fresh.finish(process, timeout=20 * fresh.TIMEOUT)
    except AssertionError as error:
        raise AssertionError(explained(str(error), at)) from None
    return json.loads(out.splitlines()[-1])


def explained(report, at):
    code, *lines = report.splitlines()
    last = [line for line in lines if re.search(r" float(32|64)", line)][-1:]
    what = f"a kernel read or wrote outside its arrays (they {at} at a protected page)" if "-11" in code else code
    return f"{what}, in {last}\n{report}"


def fences():
    return ("end", "begin") if fence.usable() else (None,)


@pytest.fixture
def long(request):
    return request.config.getoption("--long")


FLOAT32_ALONE = "schedule.resolve", "schedule.before", "_launch.together", "peak.fma_chains"


@pytest.mark.parametrize("at", ("end", "begin"))
def test_on_this_machine(at):
    """Every op, at all sizes off the lane grid, and every layer; every kernel there is takes part."""
    from test_kernels import KERNELS

    if not fence.usable():
        pytest.skip("a page that may not be touched, and NumPy's allocator set from Python: on Linux with CPython only")
    _, kernels = ran("this", at, SIZES, DTYPES, with_layers=True)
    both = {f"{module}.{name}.{dtype}" for module, name, _ in KERNELS for dtype in DTYPES}
    missing = both - set(kernels) - {f"{name}.float64" for name in FLOAT32_ALONE}
    assert not missing, f"op_cases.py: no call of {sorted(missing)}"


@pytest.mark.parametrize("machine", MACHINES)
def test_same_bits_on_every_machine(machine, long):
    """Forward and gradients: vectors of 16, 8 and 4 lanes, with AVX-512, AVX2 or neither."""
    if machine.endswith("lanes") and not long:
        pytest.skip("pytest --long: the short form has AVX2 (8 lanes) and baseline (4 lanes)")
    for at in fences() if long else fences()[:1]:
        sizes, dtypes, only = (SIZES, DTYPES, ("",)) if long else ((5, 17), DTYPES[:1], SHORT)
        expected, _ = ran("this", at, sizes, dtypes, only)
        found, _ = ran(machine, at, sizes, dtypes, only)
        different = [name for name in expected if found[name] != expected[name]]
        assert found.keys() == expected.keys() and not different, f"{machine}: other bits in {different}"


def test_the_fence_is_there():
    """One byte behind or before an array ends the process, and the test says where it was."""
    if not fence.usable():
        pytest.skip("Linux with CPython only")
    for at, offset in (("end", 20), ("begin", -1)):
        code = f"""
            import ctypes, numpy as np, fence
            fence.fence({at!r})
            print("dense float32 5", flush=True)
            ctypes.string_at(np.empty(5, np.float32).ctypes.data + {offset}, 1)
        """
        with pytest.raises(AssertionError) as error:
            fresh.finish(fresh.start(code))
        message = explained(str(error.value), at)
        assert message.startswith("a kernel read or wrote outside its arrays") and "dense float32 5" in message
    found = fresh.run("import numpy as np, fence; fence.fence('end'); print(int(np.isnan(np.empty(999)).all()))")
    assert found == 1
