"""Forks, worker processes and the end of a process: right bits, no hang, exit code 0."""

import os

import pytest

from fresh import finish, run, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this platform")
LAYERS = ["default", "workqueue"]


@pytest.mark.parametrize("launch", ["pool", "prange"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_forked_child_after_use_in_the_parent(layer, launch):
    """And a child of the child, and the parent afterwards. A child that enters omp is killed, on workqueue it hangs."""
    code = """
    import json, fresh
    from fastmask.kernels import _jit
    want = fresh.expected()
    fresh.always_parallel()

    def right():
        return fresh.digests() == want

    def right_in_a_child():
        return right() and fresh.ended(fresh.child(right)) == 0

    def right_if_forced():
        _jit._forced = "prange"
        return right()

    def with_helpers():
        return len(fresh.threads_of_a_launch(2)) == 2

    def with_stand_ins():
        _jit.LONG_WORK = 0
        return right_in_a_child()

    _jit.LONG_WORK = 0
    parent, used = right(), bool(_jit._prange_state)
    _jit.LONG_WORK = 10**18
    works = right, right_in_a_child, right_if_forced, with_helpers, with_stand_ins
    codes = [fresh.ended(fresh.child(work)) for work in works]
    print(json.dumps([parent, codes, right(), used]))
    """
    parent, codes, after, used = run(code, NUMBA_THREADING_LAYER=layer, FASTMASK_LAUNCH=launch)
    assert (parent, codes, after) == (True, [0, 0, 0, 0, 0], True)
    assert not (used and layer == "workqueue")


def test_a_forked_child_compiles_nothing_again():
    """Where nothing can be cached either, and although the child must start helpers of its own."""
    code = """
    import json, fresh
    from fastmask.kernels import _jit
    names = fresh.TINY[:1]
    want = fresh.tiny(names)

    def again():
        _jit._emit = None
        return fresh.tiny(names) == want

    print(json.dumps(fresh.ended(fresh.child(again))))
    """
    assert run(code, os.devnull + "/x") == 0


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_child_forked_before_fastmask_was_there(how):
    """The parent has used OpenMP through numba; the child is the first to use fastmask, and asks for prange."""
    code = f"""
    import json, multiprocessing, sys, fresh
    fresh.users_function()
    assert "fastmask.kernels._jit" not in sys.modules

    def first_use():
        want = fresh.expected()
        fresh.always_parallel()
        return fresh.digests() == want

    if "{how}" == "os.fork":
        code = fresh.ended(fresh.child(first_use))
    else:
        process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(0 if first_use() else 2))
        process.start()
        process.join(30)
        code = process.exitcode
    print(json.dumps(code))
    """
    assert run(code, FASTMASK_LAUNCH="prange") == 0


@pytest.mark.parametrize("launch", ["pool", "prange"])
def test_fork_while_other_threads_are_inside_kernels(launch):
    code = """
    import json, threading, time, fresh
    want, jobs = fresh.expected(), fresh.jobs()
    fresh.always_parallel()
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            for job in jobs.values():
                job()

    def right():
        return fresh.digests() == want

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes = []
    for _ in range(6):
        time.sleep(0.02)
        codes.append(fresh.ended(fresh.child(right)))
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps([codes, right()]))
    """
    assert run(code, FASTMASK_LAUNCH=launch) == [[0] * 6, True]


def test_fork_while_another_thread_compiles(tmp_path):
    """The child finds no lock of numba's or LLVM's held by a thread that it does not have."""
    code = """
    import json, threading, time, fresh
    from fastmask.kernels import _jit
    names = fresh.TINY[:1]
    want = fresh.tiny(names)

    def use():
        _jit._kernels.clear()
        return fresh.tiny(names) == want and fresh.tiny(fresh.TINY[-1:])

    thread = threading.Thread(target=lambda: [fresh.tiny([name]) for name in fresh.TINY[1:]])
    thread.start()
    codes = []
    while thread.is_alive() and len(codes) < 4:
        time.sleep(0.05)
        codes.append(fresh.ended(fresh.child(use)))
    thread.join()
    print(json.dumps(codes))
    """
    codes = run(code, tmp_path)
    assert codes and set(codes) == {0}


def test_a_fork_that_waits_for_a_compilation_holds_nothing_that_this_needs():
    """numba makes loggers while it is imported, and `logging` locks itself for the time of a fork."""
    code = """
    import json, threading, time, fresh
    from fastmask.kernels import _jit
    import logging
    begun = threading.Event()

    def compile():
        with _jit._lock:
            begun.set()
            time.sleep(0.3)
            logging.getLogger("numba.core.somewhere")

    threading.Thread(target=compile).start()
    begun.wait()
    begin = time.monotonic()
    code = fresh.ended(fresh.child(lambda: True))
    print(json.dumps([code, time.monotonic() - begin]))
    """
    ending, seconds = run(code)
    assert ending == 0 and seconds < 10, f"{seconds} s for a fork"


def test_no_lock_of_the_library_stays_held_in_a_child():
    """Another thread holds every lock there is at the moment of the fork, and gives them up later: in the parent."""
    code = """
    import json, sys, threading, time, numpy as np, fresh, fastmask as fm
    from fastmask import layers, models
    from fastmask.kernels import _jit

    want = fresh.expected()
    fresh.always_parallel()
    fresh.digests()
    kinds = type(threading.Lock()), type(threading.RLock())
    locks = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("fastmask"):
            for key, thing in vars(module).items():
                if isinstance(thing, kinds):
                    locks[f"{name}.{key}"] = thing
                elif type(thing).__module__.startswith("fastmask"):
                    inside = getattr(thing, "__dict__", {}).items()
                    locks.update({f"{name}.{key}.{k}": lock for k, lock in inside if isinstance(lock, kinds)})
    names = sorted(locks)
    held = threading.Event()

    def hold():
        for lock in locks.values():
            lock.acquire()
        held.set()
        time.sleep(0.2)
        locks.pop("fastmask.kernels._jit._lock").release()  # a fork waits for this one
        time.sleep(1)
        for lock in locks.values():
            lock.release()

    def use():
        model = fm.Sequential([fm.Input((None, 3)), fm.layers.GRU(4)])
        y = model.predict(np.ones((2, 3, 3), np.float32), verbose=0)
        return fresh.digests() == want and y.shape == (2, 4)

    threading.Thread(target=hold).start()
    held.wait()
    print(json.dumps([fresh.ended(fresh.child(use)), names]))
    """
    ending, names = run(code)
    assert len(names) >= 3, "where have the locks gone?"
    assert ending == 0, f"one of these was held in the child: {names}"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("layer", LAYERS)
def test_multiprocessing_pool(method, layer):
    code = f"""
    import json, multiprocessing, fresh
    if __name__ == "__main__":
        want = fresh.expected()
        first = fresh.do_job("lstm") == want["lstm"]
        names = list(want) * 2
        with multiprocessing.get_context("{method}").Pool(2) as pool:
            found = pool.map_async(fresh.do_job, names, chunksize=1).get(90)
        print(json.dumps([first, [name for name, digest in zip(names, found) if digest != want[name]]]))
    """
    assert run(code, NUMBA_THREADING_LAYER=layer) == [True, []]


def test_process_pool_executor():
    code = """
    import json, fresh
    from concurrent.futures import ProcessPoolExecutor
    if __name__ == "__main__":
        want = fresh.expected()
        with ProcessPoolExecutor(2) as executor:
            found = dict(zip(want, executor.map(fresh.do_job, want, timeout=90)))
        print(json.dumps(found == want))
    """
    assert run(code) is True


# ---- the end of a process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["serial", "pool", "prange"])
def test_exit_with_work_in_flight(path):
    """Three daemon threads are inside kernels when the main thread ends; helpers too."""
    code = f"""
    import threading, time, numpy as np, fresh
    from fastmask.kernels import _jit
    from fastmask.ops.lstm import lstm
    jobs = fresh.jobs()
    jobs["lstm"]()
    _jit._forced = "{path}"
    x = np.zeros((64, 400, 4), np.float32)
    weights = np.zeros((4, 512), np.float32), np.zeros((128, 512), np.float32)

    def work():
        while True:
            lstm(x, *weights)
            jobs["dense"]()

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.2)
    """
    for _ in range(2):
        assert finish(start(code)) == ("", "")


def test_use_while_the_interpreter_shuts_down():
    """In an atexit function: newer Pythons start no thread any more."""
    code = """
    import atexit, fresh
    from fastmask.kernels import _jit
    want = fresh.expected()
    fresh.always_parallel()
    _jit.LONG_WORK = 0
    atexit.register(lambda: print("right" if fresh.digests() == want else "wrong", flush=True))
    """
    assert finish(start(code)) == ("right\n", "")


def test_the_exit_code_is_the_programs():
    """Helpers asleep, and numba's threads, keep nothing alive and change nothing."""
    code = """
    import sys, fresh
    from fastmask.kernels import _jit
    for _jit._forced in ("pool", "prange"):
        fresh.digests()
    sys.exit(7)
    """
    assert finish(start(code), exit_code=7) == ("", "")
