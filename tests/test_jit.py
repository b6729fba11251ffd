"""The launch of blocks: settings, paths, floating-point modes."""

import itertools
import os
import platform
import re
import threading
import time

import numpy as np
import pytest

import fresh
from cases import PATHS, launched
from fastmask.kernels import _host, _jit
from fresh import TINY, TRIES, python_kernel, run, run_blocks

# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "²"])
def test_bad_number_of_threads_in_the_environment(value, monkeypatch):
    monkeypatch.setenv("FASTMASK_NUM_THREADS", value)
    monkeypatch.setattr(_jit, "_threads", None)
    message = f"FASTMASK_NUM_THREADS: expected a positive integer, received {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        _jit.get_num_threads()


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, True, np.float64(2)])
def test_bad_number_of_threads(value, monkeypatch):
    monkeypatch.setattr(_jit, "_threads", 3)
    with pytest.raises((ValueError, TypeError), match=re.escape(f"n: expected a positive integer, received {value!r}")):
        _jit.set_num_threads(value)
    assert _jit.get_num_threads() == 3


def test_number_of_threads(monkeypatch):
    monkeypatch.setattr(_jit, "_threads", None)
    monkeypatch.setenv("FASTMASK_NUM_THREADS", "5")
    assert _jit.get_num_threads() == 5
    _jit.set_num_threads(np.int64(3))
    assert _jit.get_num_threads() == 3 and type(_jit.get_num_threads()) is int
    monkeypatch.setattr(_jit, "_threads", None)
    monkeypatch.delenv("FASTMASK_NUM_THREADS")
    assert 1 <= _jit.get_num_threads() <= os.cpu_count()


@pytest.mark.parametrize("value", ["5", "32", "wide", "16.0"])
def test_bad_lanes(value, monkeypatch):
    monkeypatch.setenv("FASTMASK_LANES", value)
    with pytest.raises(ValueError, match=re.escape(f"FASTMASK_LANES: expected 4, 8 or 16, received {value!r}")):
        _host.choose_lanes({})


@pytest.mark.parametrize("setting", ["FASTMASK_LANES", "FASTMASK_NUM_THREADS", "FASTMASK_LAUNCH"])
def test_a_bad_setting_is_an_error_at_the_first_call(setting):
    code = """
    import json, numpy as np, fastmask as fm
    try:
        fm.simple_rnn(np.ones((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    except ValueError as error:
        print(json.dumps(str(error)))
    """
    message = run(code, **{setting: "many"})
    assert message.startswith(f"{setting}: expected") and message.endswith("received 'many'")


# ---- launching ------------------------------------------------------------------------------------------------------


def usable_paths():
    return [path for path in PATHS if path != "prange" or _jit._prange()]


def test_every_way_to_launch_runs_every_block_once():
    for path, threads, blocks in itertools.product(usable_paths(), (1, 2, 3, 7), (0, 1, 2, 3, 50)):
        seen = []
        with launched(path, threads):
            run_blocks(python_kernel(seen.append), blocks)
        assert sorted(seen) == list(range(blocks)), (path, threads, blocks)


def test_every_way_to_launch_gives_the_same_bits():
    code = """
    import json, fresh
    from fastmask.kernels import _jit
    want, jobs = fresh.expected(), fresh.jobs()
    others = {}
    for path in ("serial", "pool", "prange"):
        for threads in (1, 2, 3, 7):
            _jit._forced, _jit._threads = path, threads
            others[f"{path} {threads}"] = [name for name, job in jobs.items() if job() != want[name]]
    print(json.dumps(others))
    """
    others = run(code)
    assert len(others) == 12 and not any(others.values())


def threads_of(path, threads):
    with launched(path, threads):
        return fresh.threads_of_a_launch(threads)


def test_a_launch_keeps_to_the_number_of_threads():
    me = threading.get_ident()
    assert threads_of("serial", 2) == {me}
    assert threads_of("pool", 1) == {me}
    assert threads_of(None, 1) == {me}
    for path, threads in [("pool", 2), ("pool", 3), (None, 2), ("pool", 2)]:
        used = threads_of(path, threads)
        assert me in used and len(used) == threads, (path, threads)


def test_which_kernels_keep_the_gil(monkeypatch):
    """The tiny ones; and short ones for a while after two in a row have come back late."""
    calls, kernel = [], python_kernel(lambda block: None)
    kernel.run(1, 1, x=None, y=None, size=0, code=0)  # loads what is replaced here
    monkeypatch.setattr(_jit, "_drain_prepared", lambda *_: calls.append("hold"))
    monkeypatch.setattr(_jit, "_drain", (_jit._drain[0], lambda *_: calls.append("release")))
    for name in ("_keep_gil_until", "_latest", "_late_in_a_row"):
        monkeypatch.setattr(_jit, name, 0)

    def how(work):
        kernel.run(1, work, x=None, y=None, size=0, code=0)
        return calls.pop()

    assert [how(work) for work in (_jit._TINY_WORK - 1, _jit._TINY_WORK, _jit._QUICK_WORK)] == [
        "hold",
        *["release"] * 2,
    ]
    monkeypatch.setattr(_jit, "_LATE", -1)  # any time is late
    assert how(_jit._TINY_WORK) == how(_jit._TINY_WORK) == "release"
    assert how(_jit._TINY_WORK) == "hold" and how(_jit._QUICK_WORK) == "release"
    time.sleep(_jit._WHILE)
    assert how(_jit._TINY_WORK) == "release"


def test_threads_that_were_late_together_count_as_one(monkeypatch):
    """Eight threads that launch kernels are now and then held up, all of them; they must not give up the other CPUs."""
    for name in ("_keep_gil_until", "_latest", "_late_in_a_row"):
        monkeypatch.setattr(_jit, name, 0)
    for i in range(8):  # at the same time
        _jit._judge(1.0, 1.01 + 0.001 * i)
    assert not _jit._keep_gil_until
    _jit._judge(2.0, 2.0001)  # in time
    _jit._judge(3.0, 3.01)
    assert not _jit._keep_gil_until
    _jit._judge(4.0, 4.01)
    assert _jit._keep_gil_until > 4.01


def test_no_thread_is_started_for_small_work():
    code = """
    import json, threading, numpy as np, fastmask as fm
    from fastmask.ops.activation import activation_forward
    fm.set_num_threads(4)
    activation_forward(np.ones((100, 100), np.float32), "tanh")
    small = threading.active_count()
    fm.set_num_threads(1)
    activation_forward(np.ones((3000, 1000), np.float32), "tanh")
    single = threading.active_count()
    fm.set_num_threads(4)
    activation_forward(np.ones((3000, 1000), np.float32), "tanh")
    print(json.dumps([small, single, threading.active_count() > 1]))
    """
    assert run(code) == [1, 1, True]


@pytest.mark.parametrize("long_work", ["_jit.LONG_WORK", 0], ids=["short", "long"])
def test_when_no_more_threads_can_be_had(long_work, right):
    """At the limit of the system, or while the interpreter shuts down: at the first launch, the next, afterwards."""
    code = f"""
    import json, threading, fresh
    from fastmask.kernels import _jit
    _jit.LONG_WORK = {long_work}

    def fail(self):
        raise RuntimeError("can't start new thread")

    start, threading.Thread.start = threading.Thread.start, fail
    first, second = fresh.tiny(), fresh.tiny()
    threading.Thread.start = start
    print(json.dumps([first, second, fresh.tiny()]))
    """
    assert run(code) == [right] * 3


def test_prange_admits_one_thread_at_a_time(monkeypatch):
    """A second thread that asks for prange does its work itself."""
    inside, most, launches, seen = set(), [], [], []

    def prange(drain, kernel, args, counter, blocks, threads):
        inside.add(threading.get_ident())
        most.append(len(inside))
        launches.append(blocks)
        threading.Event().wait(0.02)
        inside.discard(threading.get_ident())

    monkeypatch.setattr(_jit, "_prange_state", prange)
    monkeypatch.setattr(_jit, "_parallel", "prange")
    monkeypatch.setattr(_jit, "_threads", 2)
    kernel = python_kernel(seen.append)
    callers = [threading.Thread(target=run_blocks, args=(kernel, 3)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert most and max(most) == 1
    assert seen and sum(launches) + len(seen) == 12


# Environment, and what is done before fastmask's kernels are imported.
WORKQUEUE = {
    "by name": ({"NUMBA_THREADING_LAYER": "workqueue"}, ""),
    "by priority": ({"NUMBA_THREADING_LAYER_PRIORITY": "workqueue omp tbb"}, ""),
    "no other is installed": ({}, "for n in ('omppool', 'tbbpool'): sys.modules['numba.np.ufunc.' + n] = None"),
    "the wanted one is missing": ({"NUMBA_THREADING_LAYER": "tbb"}, "sys.modules['numba.np.ufunc.tbbpool'] = None"),
    "started by the user": ({"NUMBA_THREADING_LAYER": "workqueue"}, "fresh.users_function()"),
    # numba turns down a TBB that is too old only when it starts the layer: then workqueue may be what there is
    "other than foretold": (
        {"NUMBA_THREADING_LAYER": "workqueue"},
        "from fastmask.kernels import _jit; _jit._layer_is_safe = lambda: True",
    ),
}


@pytest.mark.parametrize("kind", WORKQUEUE)
def test_prange_is_never_used_on_workqueue(kind):
    settings, before = WORKQUEUE[kind]
    code = f"""
    import json, sys, fresh
    {before}
    from fastmask.kernels import _jit
    want = fresh.expected()
    _jit._forced = "prange"
    forced = fresh.digests() == want
    _jit._forced = None
    print(json.dumps([bool(_jit._prange_state), forced, fresh.digests() == want]))
    """
    assert run(code, FASTMASK_LAUNCH="prange", **settings) == [False, True, True]


def test_numba_without_jit(tmp_path, right):
    """NUMBA_DISABLE_JIT=1 is for debugging one's own functions, and goes on doing that."""
    code = f"""
    import json, fresh
    from fastmask.kernels import _jit
    found = fresh.tiny({TINY[:1]})
    _jit._forced = "prange"
    from numba import njit
    print(json.dumps([found, fresh.tiny({TINY[:1]}) == found, njit(fresh.tiny) is fresh.tiny]))
    """
    assert run(code, tmp_path, NUMBA_DISABLE_JIT="1") == [{TINY[0]: right[TINY[0]]}, True, True]


# ---- floating-point mode --------------------------------------------------------------------------------------------


def denormals_are_kept():
    return np.float32(1e-30) * np.float32(1e-10) != 0 and np.float64(1e-300) * np.float64(1e-10) != 0


@pytest.mark.skipif(
    not re.match("x86|amd64|i.86|aarch64|arm64", platform.machine(), re.IGNORECASE),
    reason="no denormal mode is known for this CPU",
)
def test_denormals_are_zero_inside_and_back_afterwards():
    assert denormals_are_kept()
    for path in usable_paths():
        inside = {}

        def block(_, inside=inside):
            inside.setdefault(threading.get_ident(), []).append(denormals_are_kept())
            threading.Event().wait(0.002)

        with launched(path, 2):
            for _ in range(TRIES):
                run_blocks(python_kernel(block), 20)
                assert denormals_are_kept(), f"{path}: denormals stay flushed in the caller"
                if path == "serial" or len(inside) == 2:
                    break
            else:
                raise AssertionError(f"{path}: one thread alone, so this shows little")
        assert not any(sum(inside.values(), [])), f"{path}: denormals are not flushed in every thread"


def test_a_users_own_prange_keeps_its_denormals():
    """numba's threads are shared: they must leave our launches as they entered."""
    code = """
    import json, numpy as np, fresh
    from numba import njit, prange
    from fastmask.kernels import _jit

    @njit(parallel=True)
    def shrink(a):
        for i in prange(a.size):
            a[i] *= np.float32(1e-10)

    def lost():
        a = np.full(100_000, 1e-30, np.float32)
        shrink(a)
        return int((a == 0).sum())

    found = [lost()]
    for _jit._forced in ("prange", "pool"):
        fresh.digests()
        found.append(lost())
    print(json.dumps([found, bool(_jit._prange_state)]))
    """
    found, prange = run(code)
    assert found == [0, 0, 0]


def test_a_call_with_wrong_arguments_launches_nothing():
    kernel = _jit.get("activation", "activation_forward", "float32")
    for path in usable_paths():
        with launched(path, 2):
            with pytest.raises(TypeError, match=r"missing arguments \['y'\]"):
                kernel.run(1, 1, x=None, size=0, code=0)
            with pytest.raises(TypeError, match=r"unknown ones \['"):
                kernel.run(1, 1, x=None, y=None, size=0, code=0, other=1)
            seen = []
            run_blocks(python_kernel(seen.append), 3)
            assert sorted(seen) == [0, 1, 2]
