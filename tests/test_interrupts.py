"""Ctrl-C and other signals: heard at once, wherever they come; nothing is spoiled, and everything works afterwards."""

import dis
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from cases import PATHS, prange_is_usable
from fastmask.kernels import _host, _jit, _threads
from fresh import TRIES, cache_files, finish, python_kernel, run, run_blocks, start


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, so that a real Ctrl-C still ends the tests."""


def interrupted(function, place=None):
    """Call function() and raise Interrupt in _jit.py or _threads.py at `place`: (function name, line, offset of the
    operation).

    Returns all places that were passed at which Python would raise KeyboardInterrupt: it looks for signals when a
    function begins, after a call, and when a loop turns back.
    """
    places, last = [], {}

    def trace(frame, event, _):
        if frame.f_code.co_filename not in (_jit.__file__, _threads.__file__):
            return None
        key = id(frame)  # not the frame itself: that would keep its arrays alive
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            last[key] = "RESUME"
        elif event == "return":
            last.pop(key, None)
        elif event == "opcode":
            done, last[key] = last.get(key, ""), operations(frame.f_code).get(frame.f_lasti, "")
            if done.startswith(("RESUME", "CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")):
                places.append((frame.f_code.co_name, frame.f_lineno or 0, frame.f_lasti))
                if places[-1] == place:
                    raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return places


def operations(code, known={}):  # noqa: B006
    """Offset -> name of the operation."""
    if code not in known:
        known[code] = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    return known[code]


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("path", PATHS)
def test_an_interrupt_at_any_moment_of_a_launch(path, long):
    """No block touches an array that the caller has given up; later launches are right, and as parallel as before."""
    if path == "prange" and not prange_is_usable():
        pytest.skip("numba has neither omp nor tbb here: prange is never used")
    # in a process of its own, for what this finds may as well be a crash
    code = f"import json, test_interrupts as t; print(json.dumps(t.interrupt_everywhere({path!r}, {long})))"
    assert run(code) > 5


def interrupt_everywhere(path, long):
    """Interrupt launches at every place there is; AssertionError at the first that does harm. The number of places.

    long: launches are done by the stand-in.
    """
    if long:
        _jit.LONG_WORK = 0
    me = threading.get_ident()
    begun, ran, arrays, orphaned, pranges = [], [], [], [], []

    def block(number):
        begun.append(number)
        time.sleep(0.002 if threading.get_ident() == me else 0.02)  # helpers are the last to finish
        orphaned.extend(array for array in arrays if array() is None)
        ran.append((number, threading.get_ident()))

    original = path == "prange" and _jit._prange()

    def counted(*arguments):
        pranges.append(1)
        original(*arguments)

    kernel = python_kernel(block)

    def launch():
        x = np.empty(10, np.float32)
        arrays.append(weakref.ref(x))
        run_blocks(kernel, 4, x=x)
        arrays.clear()

    def as_before():
        begun.clear(), ran.clear(), pranges.clear()
        run_blocks(kernel, 4)
        blocks, threads = zip(*ran, strict=True)
        assert sorted(blocks) == list(range(4)), "blocks are lost"
        return len(set(threads)) == (1 if path == "serial" else 2) and bool(pranges) == (path == "prange")

    if path == "prange":
        _jit._prange_state = counted
    _jit._forced = path
    assert any(as_before() for _ in range(TRIES))
    places = set()
    for _ in range(5):  # where a launch comes by depends on whether its helpers are awake
        places.update(interrupted(launch))
        time.sleep(0.003)
    for place in sorted(places):
        for _ in range(TRIES):
            begun.clear(), ran.clear()
            passed = interrupted(launch, place)
            while len(ran) < len(begun):
                time.sleep(0.001)
            time.sleep(0.003)
            assert not orphaned, f"interrupted at {place}: a block ran on after its arrays were given up"
            arrays.clear()
            helped = path == "serial" or len({thread for _, thread in ran}) > 1
            if place in passed and (helped or not ran):
                break
        assert any(as_before() for _ in range(TRIES)), f"interrupted at {place}: not parallel from then on"
        time.sleep(0.003)
    return len(places)


# What keeps a process busy for half a second and more, most of it in one launch.
LONG_JOBS = """
import fastmask as fm
from fastmask.ops.gemm import dense_backward, dense_forward

x, y = np.ones((4, 8000, 64), np.float32), np.zeros((4, 1), np.float32)
few = x[:, :3000]
weights = np.zeros((64, 4 * 512), np.float32), np.zeros((512, 4 * 512), np.float32)
result, tape = fm.lstm_forward(few, *weights)
wide, square = np.ones((16384, 2048), np.float32), np.ones((2048, 2048), np.float32)
_, dense_tape = dense_forward(wide, square)
model = fm.Sequential([fm.Input((None, 64)), fm.layers.LSTM(512), fm.layers.Dense(1)])
model.compile("sgd", "mse")
model.predict(x[:, :2]), model.train_on_batch(x[:, :2], y)

jobs = {
    "inference": lambda: fm.lstm(x, *weights, return_sequences=False),
    "forward": lambda: fm.lstm_forward(few, *weights),
    "dense": lambda: dense_forward(wide, square),
    "dense backward": lambda: dense_backward(dense_tape, wide),
    "predict": lambda: model.predict(x),
    "fit": lambda: model.fit(few, y, verbose=0),
    "backward": lambda: fm.lstm_backward(tape, result.outputs),  # uses up its tape: once
}
"""


not_on_baseline = pytest.mark.skipif(
    _host.CPU_FEATURES == "",  # asked for: tests/test_guard_pages.py, MACHINES
    reason="not exercised on baseline: without hardware for multiply-adds these launches take minutes",
)


@not_on_baseline
@pytest.mark.parametrize("path", PATHS)
def test_ctrl_c_is_heard_during_a_long_kernel(path):
    """Within 0.3 s; the weights stay what they were. One of three times, for the machine may be busy with others."""
    code = f"""
    import json, os, signal, threading, time, numpy as np, fresh
    from fastmask.kernels import _jit
    exec({LONG_JOBS!r})
    before = fresh.digest(model.get_weights())
    want = fresh.expected()
    _jit._forced = {path!r}

    def latency(job):
        sent = []
        kick = lambda: (sent.append(time.perf_counter()), os.kill(os.getpid(), signal.SIGINT))  # as a terminal does
        threading.Timer(0.1, kick).start()
        try:
            job()
            finished.append(job)
            time.sleep(5)
        except KeyboardInterrupt:
            return time.perf_counter() - sent[0]

    slow, finished = {{}}, []
    for name, job in jobs.items():
        for _ in range(1 if name == "backward" else 3):
            found = latency(job)
            if found < 0.3:
                break
        else:
            slow[name] = found
    same = fresh.digest(model.get_weights()) == before
    print(json.dumps([slow, len(finished), same, fresh.digests() == want]))
    """
    assert run(code) == [{}, 0, True, True]


def test_ctrl_c_at_any_moment_of_fit_leaves_the_weights_after_a_whole_step():
    """With the optimizer's state and the moving averages: all are those of the same number of steps."""
    code = """
    import json, random, signal, time, numpy as np, fresh
    import fastmask as fm
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 6, 3)).astype(np.float32), rng.standard_normal((64, 2)).astype(np.float32)
    fm.set_random_seed(0)
    layers = fm.layers.GRU(5), fm.layers.BatchNormalization(), fm.layers.Dense(8, "tanh"), fm.layers.Dense(2)
    model = fm.Sequential([fm.Input((None, 3)), *layers])
    model.compile("adam", "mse")
    model.predict(x)
    weights = model.get_weights()
    options = dict(batch_size=4, epochs=10, shuffle=False, verbose=0)

    def state():
        return fresh.digest(model.get_weights(), model.optimizer.get_state(model.trainable_weights))

    def again():
        model.set_weights(weights)
        model.compile("adam", "mse")

    for _ in range(2):  # the first time takes longer
        again()
        started = time.perf_counter()
        model.fit(x, y, **options)
        seconds = time.perf_counter() - started
    again()
    apply, whole = model.optimizer.apply, {}

    def recorded(grads, variables):
        apply(grads, variables)
        whole[state()] = len(whole)

    model.optimizer.apply = recorded
    model.fit(x, y, **options)

    random.seed(0)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    found, torn = [], 0
    for _ in range(40):
        again()
        # not by a thread: that may wait for the GIL until fit has ended, as NumPy's short releases start its time anew
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, seconds))
        try:
            model.fit(x, y, **options)
            time.sleep(seconds)
        except KeyboardInterrupt:
            steps = whole.get(state(), -1) if model.optimizer.iterations else 0
            torn += steps < 0
            found.append(steps)
    handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(json.dumps([len(whole), len(set(found)), torn, handler]))
    """
    steps, found, torn, handler = run(code)
    assert steps == 160 and handler
    assert torn == 0, f"{torn} times the weights were those of no whole step"
    assert found > 5, "hardly any interrupt came while it trained"


def test_ctrl_c_while_a_kernel_is_compiled(tmp_path, right):
    """Nothing is left half made, in memory or on the disk."""
    code = """
    import json, signal, threading, time, fresh
    import fastmask.ops.activation
    me = threading.main_thread().ident
    interrupted = 0
    for seconds in (0.05, 0.2, 0.4, 0.7, 1.0):
        timer = threading.Timer(seconds, signal.pthread_kill, [me, signal.SIGINT])
        timer.start()
        try:
            fresh.tiny()
            timer.join()
            time.sleep(1)
        except KeyboardInterrupt:
            interrupted += 1
    print(json.dumps([interrupted, fresh.tiny()]))
    """
    interrupted, found = run(code, tmp_path)
    assert interrupted == 5
    assert found == right
    assert run("import fresh; fresh.report()", tmp_path) == [right, False]
    cache_files(tmp_path)


def test_ctrl_c_ends_a_program_that_compiles(tmp_path):
    """The compiler is not torn down while it works: what it was at is finished, and kept."""
    code = """
    import signal, threading, fresh
    import fastmask.ops.activation
    timer = threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    fresh.tiny()
    """
    # Python ends by the signal, unless code given as a string ran after the exception, as in numba
    _, errors = finish(start(code, tmp_path), exit_code=(1, -signal.SIGINT))
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert cache_files(tmp_path)


@not_on_baseline
@pytest.mark.parametrize("handler", ["returns", "computes", "forks"])
def test_a_signal_handler_during_a_long_launch(handler):
    """It may return, or use the library itself; in a child that it forks the result is lost, and that is said."""
    code = f"""
    import json, os, signal, threading, time, numpy as np, fresh, fastmask as fm
    from fastmask.kernels import _jit
    want, children, seen = fresh.expected(), [], []
    x = np.ones((8, 20000, 8), np.float32)
    weights = np.zeros((8, 4 * 256), np.float32), np.zeros((256, 4 * 256), np.float32)
    state = fm.lstm(x, *weights).states[0]
    fresh.always_parallel()

    def returns(*_):
        seen.append(1)

    def computes(*_):
        _jit.LONG_WORK = 0
        seen.append(fresh.digests() == want)

    def forks(*_):
        pid = os.fork()
        children.append(pid)

    signal.signal(signal.SIGALRM, {handler})
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        right = np.array_equal(fm.lstm(x, *weights).states[0], state)
    except RuntimeError as error:
        os._exit(5 if "in the child its result is lost" in str(error) else 6)
    if children == [0]:
        os._exit(7)
    print(json.dumps([right, seen, [fresh.ended(child) for child in children]]))
    """
    right, seen, children = run(code)
    assert right
    assert (seen, children) == (
        ([], [5]) if handler == "forks" else ([True], []) if handler == "computes" else ([1], [])
    )


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_a_storm_of_signals(long):
    """For a second each signal raises: results are right or none, and nobody writes where a lost result was."""
    code = f"""
    import json, random, signal, time, numpy as np
    from fastmask.kernels import _jit
    from fastmask.ops.activation import activation_forward

    class Storm(Exception):
        pass

    def handler(*_):
        global armed
        if armed:
            armed = False
            raise Storm

    x = np.random.default_rng(0).standard_normal((500, 700)).astype(np.float32)
    want = activation_forward(x, "tanh")
    _jit._forced, _jit.LONG_WORK = "pool", {0 if long else 10**18}
    armed = False
    signal.signal(signal.SIGALRM, handler)
    random.seed(0)
    interrupted = right = wrong = written = 0
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4), 1e-4)
        try:
            armed = True
            y = activation_forward(x, "tanh")
            armed = False
            right += 1
            wrong += not np.array_equal(y, want)
        except Storm:
            interrupted += 1
            sentinels = [np.full_like(x, 7.0) for _ in range(2)]  # where the array of the interrupted call was
            time.sleep(0.0005)
            written += not all((s == 7.0).all() for s in sentinels)
    signal.setitimer(signal.ITIMER_REAL, 0)
    wrong += not np.array_equal(activation_forward(x, "tanh"), want)
    print(json.dumps([interrupted, right, wrong, written]))
    """
    interrupted, right, wrong, written = run(code)
    assert interrupted > 20, "hardly any call was interrupted"
    assert wrong == 0 and written == 0
