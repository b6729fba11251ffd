"""The only file that knows how kernels are compiled, kept on disk, loaded and launched.

Kernel contract
---------------
A block kernel is a plain function ``name(block, args, real)`` in a module of this package, declared with ``@kernel("x y
n")``. `block` is the number of the piece of work, `args` the address of an int64 array that holds the arguments named
in the declaration (addresses of arrays, sizes, codes), `real` numba's float32 or float64. It writes only memory that no
other block writes, allocates nothing, raises nothing, calls no Python and no libm, and knows nothing of how it is
launched. Validation happens before, in ops.

Compiling and the cache
-----------------------
Numba compiles a kernel to LLVM IR without runtime (`nrt` off: an allocation would be a compile error); LLVM turns it
into an object file; llvmlite loads that. The object file is what the disk cache holds, one file a kernel, under a
folder named by the hash of all sources of this package, the versions and the CPU. So an edit anywhere takes effect,
nothing needs an index, and with a warm cache numba is not even imported. A damaged, truncated or foreign file is
ignored and replaced; a folder that cannot be written costs a compilation in each process and nothing else.

Launching
---------
`launch` is the one place. Serial (small work), an own pool and `prange` (`@njit(parallel=True)`) run the same compiled
block loop, so the bits are the same. The pool is the default: the caller works through the blocks itself and takes
whatever help arrives. numba's omp layer starts 10 us sooner on an idle machine, but its barrier waits for a thread that
another process keeps from running: with one busy process beside it a job of 22 us took 16 ms, 46 us on the pool
(asv_bench/launch.py); its workqueue layer aborts the process when two threads use it, and a forked child that enters
omp is killed. FASTMASK_LAUNCH=prange asks for prange where it is safe.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import logging  # noqa: F401 (its fork handlers must come before those below: see _before_fork)
import os
import re
import sys
import threading
import time

import numpy as np

from ._disk_cache import DiskCache
from ._host import CPU_FEATURES, CPU_NAME, LANES, TILE_ROWS, available_cpus  # noqa: F401 (TILE_ROWS: for others)
from ._threads import EXC, RET, STOPPED, Pool, StandIns, is_main

_DTYPES = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}
_cache = DiskCache()
_lock = threading.RLock()  # guards compiling and loading


# ----------------------------------------------------------------------------------------------------------------------
# Kernels


def kernel(names):
    """Declare a block kernel with the names of its arguments, in order."""

    def mark(function):
        function.kernel_arguments = tuple(names.split())
        return function

    return mark


@contextlib.contextmanager
def _numba_enabled():
    """NUMBA_DISABLE_JIT is for debugging one's own functions; kernels have no form that Python could run."""
    from numba import config

    before, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = before


def _emit(pyfunc, signature):
    """Compile a function without runtime; returns (symbol, optimised LLVM IR)."""
    from numba.core import compiler, types
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    with global_compiler_lock:
        flags = compiler.Flags()
        flags.nrt = False
        flags.error_model = "numpy"  # no ZeroDivisionError inside kernels
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True  # machine code is made below, from the IR
        context = cpu_target.target_context
        library = context.codegen().create_library(f"fastmask.{pyfunc.__name__}")
        library.add_ir_module = functools.partial(_add_without_builtins, library)
        result = compiler.compile_extra(
            cpu_target.typing_context, context, pyfunc, signature, types.void, flags, {}, library=library
        )
        result.library.finalize()
        return result.fndesc.llvm_func_name, result.library.get_llvm_str()


def _add_without_builtins(library, module):
    """Add IR whose loops LLVM may not turn into calls of memset or memcpy: kernels call nothing from outside."""
    from llvmlite import binding
    from numba.core import cgutils

    text = re.sub(r"^(define .*\))(.*)$", r'\1 "no-builtins"\2', cgutils.normalize_ir_text(str(module)), flags=re.M)
    parsed = binding.parse_assembly(text)
    parsed.name = module.name
    parsed.verify()
    library.add_llvm_module(parsed)


def _target_machine():
    from llvmlite import binding

    if tuple(int(p) for p in _llvmlite_version()[:2]) < (0, 45):
        binding.initialize()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple(binding.get_process_triple())
    return target.create_target_machine(cpu=CPU_NAME, features=CPU_FEATURES, opt=3, jit=True)


def _llvmlite_version():
    import llvmlite

    return llvmlite.__version__.split(".")


_engines = []  # they own the loaded code: kept for the life of the process


def _link(symbol, code):
    """Load an object file; returns the address of `symbol`."""
    from llvmlite import binding

    machine = _target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"symbol {symbol} is not in the object file")
    return address


def _object_code(ir_text):
    from llvmlite import binding

    machine = _target_machine()
    return machine.emit_object(binding.parse_assembly(ir_text))


_loaded = {}  # name -> (address, header)


def _load(name, build):
    """Address and header of a compiled function: from memory, from disk, or built by `build() -> (header, ir_text)`,
    which imports numba.
    """
    with _lock:
        found = _find(name)
    return found or _apart(lambda: _compile(name, build))


def _find(name):
    """What _load returns, or None if it has to be compiled."""
    if name not in _loaded:
        entry = _cache.read(name)
        if entry is not None:
            with contextlib.suppress(RuntimeError, KeyError):
                _loaded[name] = _link(entry[0]["symbol"], entry[1]), entry[0]
    return _loaded.get(name)


def _compile(name, build):
    with _lock:
        if _find(name) is None:  # no other thread has been faster
            with _numba_enabled():
                header, ir_text = build()
            code = _object_code(ir_text)
            _cache.write(name, header, code)
            _loaded[name] = _link(header["symbol"], code), header
        return _loaded[name]


def _apart(work):
    """work(), not on the main thread: an interrupt in the midst of its import or its work would spoil numba."""
    return _stand_ins.run(work) if is_main() else work()


class Kernel:
    """A compiled block kernel for one dtype. Get it with `get(module, name, dtype)`."""

    def __init__(self, module, name, dtype):
        self.name, self.dtype = f"{module}.{name}.{dtype}", dtype
        self.address, header = _load(self.name, lambda: emit_kernel(module, name, dtype))
        self.names = tuple(header["arguments"])
        self._names = frozenset(self.names)
        self.index = {n: i for i, n in enumerate(self.names)}
        self.counter = len(self.names)  # word of the block counter, behind the arguments; one more word is the caller's
        self._array = ctypes.c_int64 * (self.counter + 2)
        self._array.words = None  # of a launch that comes again: see `_words`

    def stop(self, packed):
        """Make a launch with these arguments end early, at its next look."""
        packed[self.counter] = STOPPED

    def pack(self, **arguments):
        """The int64 argument block from keywords; arrays and floats are turned into addresses and bits. The caller
        keeps the arrays alive.
        """
        if arguments.keys() != self._names:
            missing, unknown = self._names - arguments.keys(), arguments.keys() - self._names
            raise TypeError(f"{self.name}: missing arguments {sorted(missing)}, unknown ones {sorted(unknown)}")
        values = map(arguments.__getitem__, self.names)
        return self._array(
            *[v if (t := type(v)) is int else address(v) if t is np.ndarray else _word(v) for v in values]
        )

    def run(self, blocks, work, **arguments):
        """Run blocks 0 … blocks-1; `work` is the number of multiply-adds in all, which decides whether threads pay."""
        launch(self, self.pack(**arguments), blocks, work)

    def job(self, blocks, work, **arguments):
        """The same for later, in a `Together`."""
        return Job(self, self.pack(**arguments), blocks, work, arguments)


class Job:
    """A launch to come, once or again and again."""

    __slots__ = ("blocks", "kept", "kernel", "packed", "work")

    def __init__(self, kernel, packed, blocks, work, kept):
        self.kernel, self.packed, self.blocks, self.work = kernel, packed, blocks, work
        self.kept = kept  # the arguments, alive as long as `packed` has their addresses

    def bind(self, **arguments):
        """Other arguments than before; the rest stays."""
        packed, index = self.packed, self.kernel.index
        for name, value in arguments.items():
            packed[index[name]] = address(value) if type(value) is np.ndarray else _word(value)
        self.kept.update(arguments)

    def places(self, *names):
        """Where arguments stand, for `point`."""
        return tuple([self.kernel.index[name] for name in names])

    def point(self, places, arrays):
        """Other arrays, or None, for the next launch alone: the caller keeps them alive until it is over. Half the time
        of `bind`.
        """
        packed = self.packed
        for place, a in zip(places, arrays, strict=True):
            packed[place] = 0 if a is None else address(a)

    def run(self):
        launch(self.kernel, self.packed, self.blocks, self.work)


def _word(value):
    if value is None:
        return 0
    if isinstance(value, np.ndarray):
        return address(value)
    if isinstance(value, float):
        return int(np.float64(value).view(np.int64))
    return int(value)


def _read_address():
    """Function array -> address of its data. NumPy's own ways take 1 us, a third of a one-step call; the address is the
    first field behind the object head (numpy's C
    ABI), which is checked here on real arrays before it is relied on."""
    word, head = ctypes.c_ssize_t.from_address, object.__basicsize__

    def quick(array):
        return word(id(array) + head).value

    def safe(array):
        return array.__array_interface__["data"][0]

    samples = [np.empty(5), np.empty((2, 3), np.float32)[1:], np.zeros(7, np.uint8)[3:]]
    if sys.implementation.name == "cpython" and all(quick(a) == safe(a) for a in samples):
        return quick
    return safe


address = _read_address()


def word_address(packed, i):
    """Address of word i of an argument block."""
    return ctypes.addressof(packed) + 8 * i


def emit_kernel(module, name, dtype):
    """(header, optimised LLVM IR) of a block kernel; imports numba."""
    import importlib

    from numba import types

    function = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    real = types.NumberClass(getattr(types, dtype))
    symbol, ir_text = _emit(function, (types.int64, types.int64, real))
    return {"symbol": symbol, "arguments": function.kernel_arguments}, ir_text


_kernels = {}


def get(module, name, dtype):
    """The compiled kernel `name` of kernels/`module`.py for float32 or float64."""
    key = module, name, dtype
    found = _kernels.get(key)
    if found is None:
        plain = module, name, np.dtype(dtype)
        found = _kernels.get(plain) or _kernels.setdefault(plain, Kernel(module, name, _DTYPES[plain[-1]]))
        _kernels[key] = found
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Launching

_LAUNCHES = ("pool", "prange")
_parallel = os.environ.get("FASTMASK_LAUNCH") or "pool"
if _parallel not in _LAUNCHES:
    raise ValueError(f"FASTMASK_LAUNCH: expected one of {', '.join(_LAUNCHES)}, received {_parallel!r}")
_threads = None  # number of threads; None: not yet asked
_forced = None  # tests force "serial", "prange" or "pool"
# Held by the one thread that is inside a prange launch. An RLock: Ctrl-C between acquire and try leaves it locked, and
# then at least this thread can go on.
_prange_lock = threading.RLock()
_prange_state = None  # None: not asked; False: not usable here; else the compiled dispatcher
_drain = None  # (address, ctypes function that releases the GIL)
_drain_prepared = None  # ctypes function that holds it

# Multiply-adds below which threads do not pay: waking a helper takes 20-50 us, a core does about 50 multiply-adds a
# nanosecond.
SERIAL_WORK = 2_000_000
# A kernel that releases the GIL lets others work meanwhile, but gets it back late, after 5 ms, from a thread that is
# busy with Python. Below 10 us it keeps it; below 80 us it keeps it for a while after that has happened twice in a row.
# Once is nothing: threads that all launch kernels are now and then held up, all together, and to keep it then would
# leave them one CPU (8 threads on two CPUs: 1.8 times as slow; tests/soak_threads.py).
_TINY_WORK, _QUICK_WORK = 500_000, 4_000_000
_LATE, _WHILE = 2e-3, 0.1  # seconds
_late_in_a_row, _latest = 0, 0.0
_keep_gil_until = 0.0  # on the clock of time.perf_counter
# From here on the main thread has a stand-in do its launch, so that it hears of Ctrl-C: 40 to 60 ms of one core. The
# change of threads costs 0.1 ms, on busy cores some ms.
LONG_WORK = LANES << 27


def _may_be_forked():
    """Whether this process may be a forked child of one that used OpenMP before this module was there to notice."""
    parallel, processes = sys.modules.get("numba.np.ufunc.parallel"), sys.modules.get("multiprocessing.process")
    return bool(parallel and parallel._is_initialized) or bool(processes and processes.parent_process())


_forked = _may_be_forked()  # then entering omp would kill the process


def get_num_threads():
    """Threads that kernels may use: set_num_threads, FASTMASK_NUM_THREADS, or the CPUs available to the process."""
    global _threads
    if _threads is None:
        text = os.environ.get("FASTMASK_NUM_THREADS")
        if text:
            if not text.isdecimal() or int(text) < 1:
                raise ValueError(f"FASTMASK_NUM_THREADS: expected a positive integer, received {text!r}")
            _threads = int(text)
        else:
            _threads = available_cpus()
    return _threads


def set_num_threads(n):
    """Use at most n threads from now on, in this process. Results do not depend on it, to the bit.

    Parameters
    ----------
    n : int
        At least 1; more than there are CPUs is allowed and useless.

    Raises
    ------
    ValueError
        Anything else.
    """
    global _threads
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n: expected a positive integer, received {n!r}")
    _threads = int(n)


def is_forced():
    """Whether a test forces a launch path."""
    return _forced is not None


def settings():
    """What decides how a launch is shared out: equal to that of another time if nothing has changed since."""
    return _threads, _forced


def _load_function(name, words):
    """Address of a function of _launch.py that takes `words` int64."""

    def build():
        from numba import types

        from . import _launch

        symbol, ir_text = _emit(getattr(_launch, name), (types.int64,) * words)
        return {"symbol": symbol}, ir_text

    return _load(f"_launch.{name}", build)[0]


def _native(name, words, kind=ctypes.CFUNCTYPE):
    """A function of _launch.py, compiled. Called through CFUNCTYPE it releases the GIL, through PYFUNCTYPE not.

    Its words are declared as pointers: ctypes converts an int to c_void_p in half the time of c_int64.
    """
    return kind(ctypes.c_int32, *[ctypes.c_void_p] * (2 + words))(_load_function(name, words))


def _load_drain():
    """Both at once: what the cache holds must not depend on which launches of a process were tiny, or late."""
    global _drain, _drain_prepared
    get_num_threads()  # a bad setting is an error at the first launch, however small
    _drain_prepared = _native("drain_prepared", 1, ctypes.PYFUNCTYPE)
    _drain = _load_function("drain", 4), _native("drain", 4)
    return _drain


def _words(kernel, packed):
    """The words of `drain_prepared` in memory, the last of them their address: ctypes takes 0.06 us to pass one. They
    live as long as the arguments `packed`, for launches that come again.
    """
    if _drain is None:
        _load_drain()
    args = ctypes.addressof(packed)
    packed.words = words = (ctypes.c_int64 * 5)(kernel.address, args, args + 8 * kernel.counter)
    words[4] = ctypes.addressof(words)
    return words


def launch(kernel, packed, blocks, work, here=False):
    """Run `kernel` over its blocks with the arguments of Kernel.pack; here: whatever it costs, without a stand-in."""
    if work >= LONG_WORK and not here and is_main():
        _stand_ins.run(lambda: launch(kernel, packed, blocks, work, True), functools.partial(kernel.stop, packed))
        return
    quick = work < _QUICK_WORK and _forced is None
    if quick and (work < _TINY_WORK or time.perf_counter() < _keep_gil_until):
        words = packed.words or _words(kernel, packed)
        words[3] = blocks
        _drain_prepared(RET, EXC, words[4])
        return
    _, release = _drain or _load_drain()
    args = ctypes.addressof(packed)
    counter = args + 8 * kernel.counter
    packed[kernel.counter] = 0
    started = time.perf_counter()
    threads = min(_threads or get_num_threads(), blocks)
    how = _forced or ("serial" if threads == 1 or work < SERIAL_WORK else "parallel")
    if how == "parallel":
        how = _parallel if _parallel == "pool" or (not _forked and _prange()) else "pool"
    if how == "prange" and (_forked or not _prange() or not _prange_lock.acquire(blocking=False)):
        how = "pool" if _forced else "serial"  # another thread is inside: it has the cores
    if how == "prange":
        try:
            _prange_state(_drain[0], kernel.address, args, counter, blocks, threads)
        finally:
            _prange_lock.release()
    elif how == "pool":
        _pool.run(threads - 1, kernel.address, args, counter, blocks, release)
    else:
        release(RET, EXC, kernel.address, args, counter, blocks)
    if quick:
        _judge(started, time.perf_counter())


class Together:
    """Jobs that do not need each other's results as one launch: one start, one wait at the end. Their blocks are handed
    out in the order of the jobs. A job may be None.
    """

    def __init__(self, jobs):
        self.jobs, kernel = [job for job in jobs if job is not None], get("_launch", "together", "float32")
        self.address, self.counter = kernel.address, kernel.counter
        words = [word for job in self.jobs for word in (job.kernel.address, ctypes.addressof(job.packed), 0)]
        self._table = (ctypes.c_int64 * len(words))(*words)
        self._packed = kernel._array(ctypes.addressof(self._table))
        for job in self.jobs:
            job.packed[job.kernel.counter] = 0  # of an earlier launch of its own, which may have been stopped
        self.count()

    def count(self):
        """Take in the blocks and the work of the jobs, when they have changed."""
        self._table[2::3] = [job.blocks for job in self.jobs]
        self._blocks, self._work = sum(job.blocks for job in self.jobs), sum(job.work for job in self.jobs)

    @property
    def name(self):
        return "+".join(job.kernel.name for job in self.jobs)

    def run(self):
        """May be called again, unless it was stopped."""
        if len(self.jobs) == 1:
            self.jobs[0].run()
        elif self._blocks:
            launch(self, self._packed, self._blocks, self._work)

    def stop(self, packed):
        packed[self.counter] = STOPPED
        for job in self.jobs:
            job.kernel.stop(job.packed)


def prepare_launch(kernel, packed, blocks, work):
    """launch(kernel, packed, blocks, work) as a function without arguments, for one that comes again and again. What is
    asked about a tiny one is asked now.
    """
    if work >= _TINY_WORK or _forced is not None:
        return functools.partial(launch, kernel, packed, blocks, work)
    words = _words(kernel, packed)
    words[3] = blocks
    return functools.partial(_drain_prepared, RET, EXC, words[4])


def _judge(started, ended):
    """Whether quick kernels keep the GIL from now on, given that one released it meanwhile."""
    global _late_in_a_row, _latest, _keep_gil_until
    if ended - started <= _LATE:
        _late_in_a_row = 0
    elif started >= _latest:  # else it waited for the same reason as the last one
        _latest, _late_in_a_row = ended, _late_in_a_row + 1
        if _late_in_a_row >= 2:
            _keep_gil_until = ended + _WHILE


def _prange():
    """The compiled prange loop, or False where numba's threading layer is not safe to enter."""
    return _apart(_find_prange) if _prange_state is None else _prange_state


def _find_prange():
    global _prange_state
    with _lock:
        if _prange_state is None:
            with _numba_enabled():
                _prange_state = _compile_prange() if _layer_is_safe() else False
        return _prange_state


def _layer_is_safe():
    """omp and tbb take launches from several threads; workqueue aborts the process. Asks without starting a layer."""
    from numba import config
    from numba.np.ufunc import parallel

    if parallel._is_initialized:
        return parallel.threading_layer() in ("omp", "tbb")
    wanted = config.THREADING_LAYER.lower()
    if wanted == "default":
        wanted = [n.lower() for n in config.THREADING_LAYER_PRIORITY]
    else:
        wanted = {"threadsafe": ["tbb", "omp"], "forksafe": ["tbb"], "safe": ["tbb"]}.get(wanted, [wanted])
    for name in wanted:
        if name == "workqueue":
            return False
        try:
            __import__(f"numba.np.ufunc.{name}pool")
            return name in ("omp", "tbb")
        except ImportError:
            continue
    return False


def _compile_prange():
    from numba import njit, types
    from numba.np.ufunc import parallel

    from . import _launch

    dispatcher = njit(parallel=True, nogil=True, error_model="numpy")(_launch.prange_drain)
    dispatcher._cache = _NumbaCache("_launch.prange_drain")
    dispatcher.compile((types.int64,) * 6)  # starts the layer
    dispatcher.disable_compile()
    # numba turns down a TBB that is too old only now, and may have ended with workqueue
    return dispatcher if parallel.threading_layer() in ("omp", "tbb") else False


class _NumbaCache:
    """Keeps numba's own compile result (the prange loop needs its runtime) in a file of our cache: same checks, same
    healing.
    """

    cache_path = ""

    def __init__(self, name):
        self._name = name

    def load_overload(self, sig, target_context):
        import pickle

        from numba.core.compiler import CompileResult

        target_context.refresh()
        entry = _cache.read(self._name)
        if entry is None:
            return None
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(entry[1]))
        except Exception:  # whatever an unpickled result of another world raises: compile again
            return None

    def save_overload(self, sig, result):
        from numba.core import serialize

        try:
            payload = serialize.dumps(result._reduce())
        except Exception:
            return
        _cache.write(self._name, {"signature": str(sig)}, payload)

    def enable(self):
        pass

    disable = flush = enable


_pool = Pool(_native)
_stand_ins = StandIns()
atexit.register(lambda: _stand_ins.finish())


def _before_fork():
    """A child forked while another thread compiles would find locks of numba and LLVM held for ever: wait a while.

    Handlers run in the reverse order of their registration. `logging` locks itself before a fork, and a compiling
    thread makes loggers: had it been imported after this module, the two would wait for each other.
    """
    _lock.acquire(timeout=30)


def _after_fork_in_parent():
    with contextlib.suppress(RuntimeError):  # not ours: the wait above was in vain
        _lock.release()


def _after_fork_in_child():
    """numba's threads are gone and entering omp would kill the process; locks may be held by threads that are gone."""
    global _forked, _pool, _stand_ins, _prange_lock, _lock
    _forked = _pool.forked = _stand_ins.forked = True
    _pool, _stand_ins, _prange_lock, _lock = Pool(_native), StandIns(), threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
