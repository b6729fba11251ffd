"""Fresh processes, and work for them: what test_jit.py, test_threads.py and test_processes.py share.

A test runs Python code in a process of its own with `run`; the code imports this file and uses its second half. Each
process has a time limit, and a process group of its own that ends with it: a hang is a failure, and leaves nothing.
"""

import atexit
import collections
import contextlib
import copy
import ctypes
import functools
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from pathlib import Path

import numpy as np

import fastmask

PACKAGE = Path(fastmask.__file__).parent
TIMEOUT = 120  # seconds; the slowest process here takes 10 on two busy cores
SETTINGS = ("FASTMASK_", "NUMBA_", "OMP_", "GOMP_", "KMP_")  # variables that each process starts without, but for
MACHINE = ("FASTMASK_LANES", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")


# ---- in the test ----------------------------------------------------------------------------------------------------


def start(code, cache=None, package=PACKAGE, before=(), **settings):
    """Start `python -c code`; returns the process, the leader of a group of its own.

    cache: its cache folder; None for one that holds every kernel and must not be changed. package: the fastmask folder
    that it imports. before: a command that takes the rest as its arguments. settings: environment variables.
    """
    environment = {
        name: value for name, value in os.environ.items() if name in MACHINE or not name.startswith(SETTINGS)
    }
    environment.update(
        PYTHONPATH=os.pathsep.join([str(package.parent), str(Path(__file__).parent)]),
        PYTHONDONTWRITEBYTECODE="1",  # Python itself takes an edit within the same second for none
        PYTHONFAULTHANDLER="1",
        FASTMASK_CACHE_DIR=str(cache or filled_cache()),
        FASTMASK_NUM_THREADS="2",
        NUMBA_NUM_THREADS="2",
    )
    environment.update(settings)
    return subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=Path(__file__).parent,  # `-c` puts its folder before PYTHONPATH
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=TIMEOUT, exit_code=0):
    """(output, errors) of the process; AssertionError if it hangs or ends with another exit code (or none of some)."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # faulthandler shows where each thread is
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # children that it left behind
    got = process.returncode
    assert got in (exit_code if isinstance(exit_code, tuple) else (exit_code,)), (
        f"exit code {got}, expected {exit_code}\n{out}\n{err}"
    )
    return out, err


def run(code, cache=None, timeout=TIMEOUT, **options):
    """The last line that `code` prints in a fresh process, read as JSON; arguments as for `start`."""
    out, _ = finish(start(code, cache, **options), timeout)
    return json.loads(out.splitlines()[-1])


@functools.cache
def filled_cache():
    """A cache folder with all that `jobs` and prange need: made once a session, by way of the user's cache."""
    from fastmask.kernels import _disk_cache

    root = Path(tempfile.mkdtemp(prefix="fastmask-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    user = _disk_cache.cache_root() / _disk_cache.source_stamp()
    for cache in (user.parent, root):  # the second has nothing to do, unless the first cannot be written
        run("import fresh; fresh.fill(); print(1)", cache, timeout=5 * TIMEOUT)
        if cache != root and user.is_dir():
            shutil.copytree(user, root / user.name)
    return root


def copy_of_cache(folder):
    """A copy of the filled cache that a test may spoil."""
    return Path(shutil.copytree(filled_cache(), folder / "cache"))


def cache_files(root):
    """name -> Path of the kernels in a cache folder that holds one stamp; nothing else may lie there."""
    (folder,) = root.iterdir()
    files = {path.name: path for path in folder.iterdir()}
    left_over = [name for name in files if name.startswith(".") or not files[name].is_file()]
    assert not left_over, f"left behind in the cache: {left_over}"
    return files


# ---- in the fresh process: work -------------------------------------------------------------------------------------


def digest(*things):
    """A name for the bits of arrays in any arrangement of tuples and dicts."""
    h = hashlib.sha256()

    def add(thing):
        if isinstance(thing, np.ndarray):
            h.update(f"{thing.dtype} {thing.shape}".encode() + thing.tobytes())
        elif isinstance(thing, dict):
            add(tuple(thing.items()))
        elif type(thing).__name__ == "Ragged":  # which is not imported here: some tests begin before fastmask is
            add((thing.values, thing.offsets))
        elif isinstance(thing, (tuple, list)):
            h.update(f"{len(thing)} things".encode())
            for part in thing:
                add(part)
        else:
            h.update(repr(thing).encode())

    add(things)
    return h.hexdigest()[:16]


# Kernels that compile in a tenth of a second each.
TINY = [
    f"activation.{function}.{dtype}"
    for function in ("activation_forward", "activation_backward", "softmax_forward", "softmax_backward")
    for dtype in ("float32", "float64")
]


def tiny(names=TINY):
    """name of a kernel in the cache -> digest of what it computes."""
    from fastmask.ops.activation import activation_backward, activation_forward

    found = {}
    for name in names:
        _, function, dtype = name.split(".")
        rng = np.random.default_rng(0)
        x, dy = (rng.standard_normal((400, 400)).astype(dtype) for _ in range(2))  # more than is given to one thread
        activation = "softmax" if function.startswith("softmax") else "tanh"
        if function.endswith("forward"):
            found[name] = digest(activation_forward(x, activation))
        else:
            found[name] = digest(activation_backward(x, x, dy, activation))
    return found


def report(names=TINY):
    """Print the digests of `tiny` and whether numba had to be imported for them."""
    print(json.dumps([tiny(names), "numba" in sys.modules]))


def _recurrent_job(stem, gates, states, bias_shape):
    module = importlib.import_module(f"fastmask.ops.{stem}")
    B, T, F, H = 24, 30, 16, 48
    rng = np.random.default_rng(1)

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    x, d_outputs = normal(B, T, F), normal(B, T, H)
    weights = normal(F, gates * H, scale=0.3), normal(H, gates * H, scale=0.15), normal(*bias_shape)
    initial = tuple(normal(B, H) for _ in range(states))
    mask = rng.random((B, T)) < rng.random((B, 1))
    packed = getattr(module, f"{stem}_pack")(*weights)  # shared by all threads, as a layer's is

    def job():
        options = {"mask": mask, "initial_state": initial}
        result, tape = getattr(module, f"{stem}_forward")(x, *weights, packed=packed, **options)
        gradients = getattr(module, f"{stem}_backward")(tape, d_outputs)
        inference = getattr(module, stem)(x, *weights, **options)
        return digest(result, gradients, inference)

    return job


def _dense_job():
    from fastmask.ops.gemm import dense_backward, dense_forward

    rng = np.random.default_rng(2)
    x, dy = (rng.standard_normal((600, n)).astype(np.float32) for n in (70, 90))
    kernel, bias = rng.standard_normal((70, 90)).astype(np.float32), rng.standard_normal(90).astype(np.float32)

    def job():
        y, tape = dense_forward(x, kernel, bias, activation="tanh")
        return digest(y, dense_backward(tape, dy))

    return job


def _loss_job():
    from fastmask.ops.loss import loss_value_and_grad

    rng = np.random.default_rng(3)
    y_pred = rng.standard_normal((40, 50, 30)).astype(np.float32)
    classes, mask = rng.integers(0, 30, (40, 50)), rng.random((40, 50)) < 0.7

    def job():
        return digest(
            loss_value_and_grad("sparse_categorical_crossentropy", classes, y_pred, mask=mask, from_logits=True),
            loss_value_and_grad("mean_squared_error", y_pred[::-1], y_pred, mask=mask),
        )

    return job


def jobs():
    """name -> function that computes something with kernels and returns the digest of all its bits."""
    return {
        "lstm": _recurrent_job("lstm", 4, 2, (4 * 48,)),
        "gru": _recurrent_job("gru", 3, 1, (2, 3 * 48)),
        "dense": _dense_job(),
        "loss": _loss_job(),
        "activations": lambda: digest(tiny()),
    }


def digests():
    """name -> digest of each job, done once."""
    return {name: job() for name, job in jobs().items()}


def do_job(name):
    """For worker processes."""
    always_parallel()
    return jobs()[name]()


def expected(work=None):
    """The digests of these jobs (default: of `jobs`), computed in this thread alone."""
    from fastmask.kernels import _jit

    before, _jit._forced = _jit._forced, "serial"
    try:
        return {name: job() for name, job in (work or jobs()).items()}
    finally:
        _jit._forced = before


def fill():
    """Use every kernel and every way to launch one."""
    from fastmask.kernels import _jit

    expected()
    _jit._forced = "pool"
    _dense_job()()
    _jit._prange()


def always_parallel():
    """From now on a launch takes threads however little work it has."""
    from fastmask.kernels import _jit

    _jit.SERIAL_WORK = _jit._QUICK_WORK = 1


def python_kernel(function):
    """A kernel whose blocks call function(block), for run_blocks: shows from inside what a launch does."""
    from fastmask.kernels import _jit

    word = ctypes.c_int64
    block_abi = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, word, word, ctypes.c_void_p)

    @block_abi
    def native(_ret, _exc, block, _args, _real):
        function(block)
        return 0

    kernel = copy.copy(_jit.get("activation", "activation_forward", "float32"))
    kernel.address = ctypes.cast(native, ctypes.c_void_p).value
    kernel.keeps = native
    _python_kernels.append(kernel)  # for good: a faulty launch may still run it
    return kernel


_python_kernels = []


def run_blocks(kernel, blocks, x=None):
    """Launch a python_kernel; x: an array that it is given."""
    kernel.run(blocks, 10**8, x=x, y=None, size=0, code=0)


TRIES = 20  # launches until all threads take part in one: the machine may be busy, or a helper about to fall asleep


def threads_of_a_launch(threads):
    """Idents of those who run the blocks of a launch. Blocks sleep, so that all have every chance to take some."""
    seen = set()

    def block(_):
        seen.add(threading.get_ident())
        time.sleep(0.002)

    kernel = python_kernel(block)
    for _ in range(TRIES):
        seen.clear()
        run_blocks(kernel, 10 * threads)
        if len(seen) >= threads:
            break
    return seen


# ---- in the fresh process: threads and children ---------------------------------------------------------------------


def in_threads(functions):
    """Call all functions at once, each in a thread of its own; what they raised."""
    errors = []
    barrier = threading.Barrier(len(functions))

    def call(function):
        try:
            barrier.wait()
            function()
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def crowd(seconds, others=(), make=jobs):
    """Print what came of eight threads that do each job of make() again and again, while `others(until)` run in more
    threads: how often the rarest job was done, wrong results by job, errors."""
    work = make()
    want = expected(work)
    always_parallel()
    sys.setswitchinterval(1e-4)
    done, wrong = collections.Counter(), collections.Counter()
    until = time.monotonic() + seconds

    def member(i):
        names = [*work][i % len(work) :] + [*work][: i % len(work)]
        while time.monotonic() < until:
            for name in names:
                done[name] += 1
                wrong[name] += work[name]() != want[name]

    errors = in_threads(
        [functools.partial(member, i) for i in range(8)] + [functools.partial(f, until) for f in others]
    )
    print(json.dumps([min(done[name] for name in work), +wrong, errors]))


def load_layer(name):
    """Whether numba's threading layer `name` can be had: TBB also where pip has put it, where numba does not look. For
    workqueue omp is hidden, as on an image without libgomp.
    """
    library = Path(sys.prefix, "lib", "libtbb.so.12")
    if name == "tbb" and library.exists():
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    if name == "workqueue":
        sys.modules["numba.np.ufunc.omppool"] = None
    try:
        importlib.import_module(f"numba.np.ufunc.{'workqueue' if name == 'workqueue' else name + 'pool'}")
    except ImportError:
        return False
    return True


@functools.cache
def users_function():
    """A user's own parallel numba function: adds 1 to each element."""
    from numba import njit, prange

    @njit(parallel=True)
    def add_one(a):
        for i in prange(a.size):
            a[i] += 1

    add_one(np.zeros(10))
    return add_one


def users_numba(until):
    a, n, add_one = np.zeros(100_000), 0, users_function()
    while time.monotonic() < until:
        n += 1
        add_one(a)
        assert (a == n).all(), "the user's own function is wrong"


def users_blas(until):
    a = np.ones((300, 300))
    while time.monotonic() < until:
        assert ((a @ a) == 300).all(), "the user's own product is wrong"


def child(work):
    """Fork; the child calls work() and ends with exit code 0 if that is true. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid, limit=30):
    """Exit code of a child, or "hangs" after `limit` seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"
