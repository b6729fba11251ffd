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

import contextlib
import ctypes
import functools
import hashlib
import json
import logging  # noqa: F401 (its fork handlers must come before those below: see _before_fork)
import math
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

_MAGIC = b"fastmask kernel 1\n"
_DTYPES = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}
_lock = threading.RLock()  # guards compiling and loading


# ----------------------------------------------------------------------------------------------------------------------
# The machine


def _host():
    """(cpu name, feature string, feature dict) as LLVM sees this machine."""
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # not known on this platform
        return binding.get_host_cpu_name(), "", {}
    return binding.get_host_cpu_name(), features.flatten(), dict(features)


def _choose_lanes(features):
    """float32 lanes of a vector: 16 (AVX-512), 8 (AVX2), 4 (others); FASTMASK_LANES forces it."""
    forced = os.environ.get("FASTMASK_LANES")
    if forced:
        if forced not in ("4", "8", "16"):
            raise ValueError(f"FASTMASK_LANES: expected 4, 8 or 16, received {forced!r}")
        return int(forced)
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") else 4


def _available_cpus():
    """CPUs this process may use: affinity and the cgroup's quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            text = Path(path).read_text().split()
            period = text[1] if len(text) > 1 else Path(path).with_name("cpu.cfs_period_us").read_text()
            if text[0] not in ("max", "-1"):
                n = min(n, max(1, math.ceil(int(text[0]) / int(period))))
            break
        except (OSError, ValueError, IndexError):
            continue
    return n


CPU_NAME, CPU_FEATURES, _features = _host()
LANES = _choose_lanes(_features)
_REGISTERS = 32 if LANES == 16 or _features.get("avx512vl") or _features.get("neon") else 16
TILE_ROWS = 6 if _REGISTERS == 32 else 3


# ----------------------------------------------------------------------------------------------------------------------
# The disk cache: one checked file a kernel


def _source_stamp():
    """Hash of everything a compiled kernel depends on."""
    from importlib.util import find_spec

    import llvmlite

    h = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        h.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    version = Path(find_spec("numba").submodule_search_locations[0], "_version.py")  # without importing numba
    h.update(version.read_bytes() if version.exists() else str(version).encode())
    # Python, because the prange launch is kept as a pickle with code for its C API; and what numba is told about code
    others = ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY", "NUMBA_CACHE_DIR")
    numba_settings = sorted(i for i in os.environ.items() if i[0].startswith("NUMBA_") and i[0] not in others)
    h.update(repr((llvmlite.__version__, LANES, CPU_NAME, CPU_FEATURES, sys.version, numba_settings)).encode())
    return h.hexdigest()[:20]


def cache_root():
    """FASTMASK_CACHE_DIR, or `fastmask` in the user's cache folder."""
    if os.environ.get("FASTMASK_CACHE_DIR"):
        return Path(os.environ["FASTMASK_CACHE_DIR"])
    if sys.platform == "darwin":
        return Path("~/Library/Caches/fastmask").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir()), "fastmask")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "fastmask")


class _DiskCache:
    """Reads and writes kernel files; every failure means "not there"."""

    KEEP = 8  # stamps (source versions x CPUs) kept side by side

    def __init__(self):
        self.folder = None  # resolved at first use

    def _folder(self):
        if self.folder is None:
            self.folder = cache_root().absolute() / _source_stamp()
        return self.folder

    def _checksum(self, name, body):
        """Of the content and of what it is: a whole file of another kernel or version is damage too."""
        return hashlib.sha256(f"{self._folder().name}/{name}\n".encode() + body).digest()

    @staticmethod
    def _ours(path):
        """Code is loaded only from files that nobody else could have written."""
        if not hasattr(os, "getuid"):
            return True
        info = os.stat(path)
        return info.st_uid == os.getuid() and not info.st_mode & 0o022

    def read(self, name):
        """(header dict, payload) or None."""
        try:
            path = self._folder() / name
            if not (self._ours(path.parent) and self._ours(path)):
                return None
            data = path.read_bytes()
            body = data[len(_MAGIC) + 32 :]
            if data[: len(_MAGIC) + 32] != _MAGIC + self._checksum(name, body):
                return None
            size = int.from_bytes(body[:4], "little")
            return json.loads(body[4 : 4 + size]), body[4 + size :]
        except (OSError, ValueError, RuntimeError):
            return None

    def write(self, name, header, payload):
        head = json.dumps(header).encode()
        body = len(head).to_bytes(4, "little") + head + payload
        tmp = None
        try:
            folder = self._folder()
            if _source_stamp() != folder.name:
                return  # edited since this process began: this code may be of either version
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._prune(folder)
            fd, tmp = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # mode 0600
            with os.fdopen(fd, "wb") as f:
                f.write(_MAGIC + self._checksum(name, body) + body)
            os.replace(tmp, folder / name)  # atomic: two processes may both do it
        except (OSError, RuntimeError):
            if tmp is not None:
                with contextlib.suppress(OSError):
                    os.unlink(tmp)

    def _prune(self, newest):
        """Remove the oldest stamps; nothing else that may lie in the folder. Another process may be doing the same."""
        stamps = []
        for folder in newest.parent.iterdir():
            with contextlib.suppress(OSError):
                if re.fullmatch("[0-9a-f]{20}", folder.name) and not folder.is_symlink() and folder != newest:
                    stamps.append((folder.stat().st_mtime, folder))
        for _, folder in sorted(stamps)[: -self.KEEP + 1]:
            with contextlib.suppress(OSError):
                files = list(folder.iterdir())
                if all(file.is_file() for file in files):
                    for file in files:
                        file.unlink(missing_ok=True)
                    folder.rmdir()


_cache = _DiskCache()


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


def _load(name, build):
    """Address and header of a compiled function: from disk, or built by `build() -> (header, ir_text)`, which imports
    numba.
    """
    entry = _cache.read(name)
    if entry is not None:
        try:
            return _link(entry[0]["symbol"], entry[1]), entry[0]
        except (RuntimeError, KeyError):
            pass
    with _numba_enabled():
        header, ir_text = build()
    code = _object_code(ir_text)
    _cache.write(name, header, code)
    return _link(header["symbol"], code), header


class Kernel:
    """A compiled block kernel for one dtype. Get it with `get(module, name, dtype)`."""

    def __init__(self, module, name, dtype):
        self.name, self.dtype = f"{module}.{name}.{dtype}", dtype
        self.address, header = _load(self.name, lambda: emit_kernel(module, name, dtype))
        self.names = tuple(header["arguments"])
        self.index = {n: i for i, n in enumerate(self.names)}
        self.counter = len(self.names)  # word of the block counter, behind the arguments; one more word is the caller's
        self._array = ctypes.c_int64 * (self.counter + 2)

    def pack(self, **arguments):
        """The int64 argument block from keywords; arrays and floats are turned into addresses and bits. The caller
        keeps the arrays alive.
        """
        try:
            values = [arguments.pop(n) for n in self.names]
        except KeyError as missing:
            raise TypeError(f"{self.name}: argument {missing} is missing") from None
        if arguments:
            raise TypeError(f"{self.name}: unknown arguments {sorted(arguments)}")
        return self._array(*[v if type(v) is int else _word(v) for v in values])

    def run(self, blocks, work, **arguments):
        """Run blocks 0 … blocks-1; `work` is the number of multiply-adds in all, which decides whether threads pay."""
        launch(self, self.pack(**arguments), blocks, work)


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
        with _lock:
            found = _kernels.get(key)
            if found is None:
                found = _kernels[key] = Kernel(module, name, _DTYPES[np.dtype(dtype)])
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
_drain = None  # (address, ctypes function holding the GIL, ctypes function releasing it)

# Multiply-adds below which threads do not pay: waking a helper takes 20-50 us, a core does about 50 multiply-adds a
# nanosecond.
SERIAL_WORK = 2_000_000
# Below this a kernel keeps the GIL: getting it back from a busy Python thread may take 5 ms.
_HOLD_GIL_WORK = 4_000_000


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
            _threads = _available_cpus()
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


@functools.cache
def _load_function(name, words):
    """Address of a function of _launch.py that takes `words` int64."""

    def build():
        from numba import types

        from . import _launch

        symbol, ir_text = _emit(getattr(_launch, name), (types.int64,) * words)
        return {"symbol": symbol}, ir_text

    return _load(f"_launch.{name}", build)[0]


def _callable(kind, address, words):
    return kind(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * words)(address)


def _load_drain():
    global _drain
    with _lock:
        if _drain is None:
            at = _load_function("drain", 4)
            _drain = at, _callable(ctypes.PYFUNCTYPE, at, 4), _callable(ctypes.CFUNCTYPE, at, 4)
    return _drain


_void = (ctypes.c_int64 * 2)()  # where numba functions put a return value and an exception: ours have neither
_RET, _EXC = ctypes.addressof(_void), ctypes.addressof(_void) + 8


def launch(kernel, packed, blocks, work):
    """Run `kernel` over its blocks with the arguments of Kernel.pack."""
    _, hold, release = _drain or _load_drain()
    args = ctypes.addressof(packed)
    counter = args + 8 * kernel.counter
    packed[kernel.counter] = 0
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
    elif work < _HOLD_GIL_WORK:
        hold(_RET, _EXC, kernel.address, args, counter, blocks)
    else:
        release(_RET, _EXC, kernel.address, args, counter, blocks)


def _prange():
    """The compiled prange loop, or False where numba's threading layer is not safe to enter."""
    global _prange_state
    if _prange_state is None:
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


class _Pool:
    """Daemon threads that help a caller through its blocks. The protocol is native (_launch.py: lead, serve) and needs
    no GIL; Python only wakes and parks helpers.

    A helper enters a launch only while the caller is inside; the caller leaves when all who entered have left, so
    nothing of the launch outlives it. One launch at a time: a second caller has no cores to win and works alone. A
    helper stays awake for SPINS rounds after a launch (about 0.2 ms), then sleeps on its lock.

    On Linux helpers are kept off the caller's CPU: the scheduler likes to wake a thread where its waker runs, and moves
    it only after milliseconds; a kernel of 0.2 ms then took 0.4 ms instead of 0.1.
    """

    SPINS = 8000

    def __init__(self):
        # An RLock: Ctrl-C between acquire and try leaves it locked, and then at least this thread can go on.
        self._busy = threading.RLock()
        self._slot = (ctypes.c_int64 * 8)()
        self._address = ctypes.addressof(self._slot)
        self._bells, self._awake, self._native_ids = [], [], []
        self._lead = self._serve = self._current_cpu = self._kept_off = None

    def _help(self, i, bell, ready):
        self._native_ids.append(threading.get_native_id())
        ready.release()
        while True:
            bell.acquire()
            self._serve(_RET, _EXC, self._address, self.SPINS)
            self._awake[i] = False

    def _start(self, helpers):
        if self._lead is None:
            with _lock:
                self._serve = _callable(ctypes.CFUNCTYPE, _load_function("serve", 2), 2)
                if hasattr(os, "sched_setaffinity"):
                    self._current_cpu = getattr(ctypes.PyDLL(None), "sched_getcpu", None)
                self._lead = _callable(ctypes.CFUNCTYPE, _load_function("lead", 6), 6)
        while len(self._bells) < helpers:
            bell, ready = threading.Lock(), threading.Lock()
            bell.acquire()
            ready.acquire()
            thread = threading.Thread(
                target=self._help, args=(len(self._bells), bell, ready), daemon=True, name="fastmask"
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had, or the interpreter is shutting down
                break
            ready.acquire()
            self._awake.append(False)
            self._bells.append(bell)
        self._kept_off = None

    def _keep_off(self, cpu):
        """Let helpers run on every CPU of this process but the caller's."""
        self._kept_off = cpu
        others = os.sched_getaffinity(0) - {cpu}
        if others:
            for native_id in self._native_ids:
                try:
                    os.sched_setaffinity(native_id, others)
                except OSError:  # not allowed in this container: slower, nothing else
                    self._current_cpu = None

    def run(self, helpers, kernel, args, counter, blocks, alone):
        if not self._busy.acquire(blocking=False):
            alone(_RET, _EXC, kernel, args, counter, blocks)
            return
        try:
            if self._slot[0]:  # called from a signal handler, while this thread waits for helpers of a launch
                alone(_RET, _EXC, kernel, args, counter, blocks)
                return
            if self._lead is None or len(self._bells) < helpers:
                self._start(helpers)
                helpers = min(helpers, len(self._bells))
            if self._current_cpu is not None:
                cpu = self._current_cpu()
                if cpu != self._kept_off:
                    self._keep_off(cpu)
            self._slot[2] = helpers  # LIMIT
            for i in range(helpers):
                if not self._awake[i]:
                    self._awake[i] = True
                    self._bells[i].release()
            try:
                self._lead(_RET, _EXC, self._address, kernel, args, counter, blocks, self.SPINS)
            finally:
                self._wait()
        finally:
            self._wait()  # again: Ctrl-C may have come before the other one had begun
            self._busy.release()

    def _wait(self):
        """Until no helper is inside. Ctrl-C must not free memory that helpers still write: it is raised afterwards."""
        interrupted = None
        while self._slot[0]:
            try:
                time.sleep(5e-5)
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted


_pool = _Pool()


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
    global _forked, _pool, _prange_lock, _lock
    _forked = True
    _pool, _prange_lock, _lock = _Pool(), threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
