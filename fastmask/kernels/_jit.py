"""The only file that knows how kernels are compiled, kept on disk, loaded and launched.

Kernel contract
---------------
A block kernel is a plain function ``name(block, args, real)`` in a module of this package, declared with ``@kernel("x y n")``. `block` is the number of the piece of
work, `args` the address of an int64 array that holds the arguments named in the declaration (addresses of arrays, sizes, codes), `real` numba's float32 or float64.
It writes only memory that no other block writes, allocates nothing, raises nothing, calls no Python and no libm, and knows nothing of how it is launched.
Validation happens before, in ops.

Compiling and the cache
-----------------------
Numba compiles a kernel to LLVM IR without runtime (`nrt` off: an allocation would be a compile error); LLVM turns it into an object file; llvmlite loads that. The
object file is what the disk cache holds, one file a kernel, under a folder named by the hash of all sources of this package, the versions and the CPU. So an edit
anywhere takes effect, nothing needs an index, and with a warm cache numba is not even imported. A damaged, truncated or foreign file is ignored and replaced; a
folder that cannot be written costs a compilation in each process and nothing else.

Launching
---------
`Kernel.run` is the one place. Serial (small work), `prange` (`@njit(parallel=True)`, on numba's omp and tbb layers) and an own pool (everywhere else: numba's
workqueue layer aborts the process when two threads use it, a forked child that enters omp is killed) run the same compiled block loop, so the bits are the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import queue
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

_MAGIC = b"fastmask kernel 1\n"
_DTYPES = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}
_lock = threading.RLock()  # guards compiling and loading


# --------------------------------------------------------------------------------------------------------------------------------------------
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


# --------------------------------------------------------------------------------------------------------------------------------------------
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
    h.update(repr((llvmlite.__version__, LANES, CPU_NAME, CPU_FEATURES, sys.platform)).encode())
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
            self.folder = cache_root() / _source_stamp()
        return self.folder

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
            if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + 32]:
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
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._prune(folder)
            fd, tmp = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # mode 0600
            with os.fdopen(fd, "wb") as f:
                f.write(_MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(tmp, folder / name)  # atomic: two processes may both do it
        except (OSError, RuntimeError):
            if tmp is not None:
                try:
                    os.unlink(tmp)
                except OSError:
                    pass

    def _prune(self, newest):
        old = sorted((p for p in newest.parent.iterdir() if p.is_dir() and p != newest and len(p.name) == 20), key=lambda p: p.stat().st_mtime)
        for folder in old[: -self.KEEP + 1]:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()


_cache = _DiskCache()


# --------------------------------------------------------------------------------------------------------------------------------------------
# Kernels


def kernel(names):
    """Declare a block kernel with the names of its arguments, in order."""

    def mark(function):
        function.kernel_arguments = tuple(names.split())
        return function

    return mark


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
        result = compiler.compile_extra(cpu_target.typing_context, cpu_target.target_context, pyfunc, signature, types.void, flags, {})
        result.library.finalize()
        return result.fndesc.llvm_func_name, result.library.get_llvm_str()


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
    """Address and header of a compiled function: from disk, or built by `build() -> (header, ir_text)`, which imports numba."""
    entry = _cache.read(name)
    if entry is not None:
        try:
            return _link(entry[0]["symbol"], entry[1]), entry[0]
        except (RuntimeError, KeyError):
            pass
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
        self._array = ctypes.c_int64 * (len(self.names) + 1)  # one word more: the block counter

    def pack(self, **arguments):
        """The int64 argument block from keywords; arrays and floats are turned into addresses and bits. The caller keeps the arrays alive."""
        try:
            values = [arguments.pop(n) for n in self.names]
        except KeyError as missing:
            raise TypeError(f"{self.name}: argument {missing} is missing") from None
        if arguments:
            raise TypeError(f"{self.name}: unknown arguments {sorted(arguments)}")
        return self._array(*[v if type(v) is int else _word(v) for v in values], 0)

    def run(self, blocks, work, **arguments):
        """Run blocks 0 … blocks-1; `work` is the number of multiply-adds in all, which decides whether threads pay."""
        launch(self, self.pack(**arguments), blocks, work)


def _word(value):
    if value is None:
        return 0
    if isinstance(value, np.ndarray):
        return value.__array_interface__["data"][0]
    if isinstance(value, float):
        return int(np.float64(value).view(np.int64))
    return int(value)


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


# --------------------------------------------------------------------------------------------------------------------------------------------
# Launching

_threads = None  # number of threads; None: not yet asked
_forced = None  # tests force "serial", "prange" or "pool"
_forked = False
_prange_lock = threading.Lock()  # held by the one thread that is inside a prange launch
_prange_state = None  # None: not asked; False: not usable here; else the compiled dispatcher
_drain = None  # (address, ctypes function holding the GIL, ctypes function releasing it)

# Multiply-adds below which threads do not pay: a launch costs 2-30 us, two cores do about 60 multiply-adds a nanosecond.
SERIAL_WORK = 3_000_000
# Below this a kernel keeps the GIL: getting it back from a busy Python thread may take 5 ms.
_HOLD_GIL_WORK = 4_000_000


def get_num_threads():
    """Threads that kernels may use: set_num_threads, FASTMASK_NUM_THREADS, or the CPUs available to the process."""
    global _threads
    if _threads is None:
        text = os.environ.get("FASTMASK_NUM_THREADS")
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(f"FASTMASK_NUM_THREADS: expected a positive integer, received {text!r}")
            _threads = int(text)
        else:
            _threads = _available_cpus()
    return _threads


def set_num_threads(n):
    """Use at most n threads from now on (in this process). Results do not depend on it, to the bit."""
    global _threads
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n: expected a positive integer, received {n!r}")
    _threads = int(n)


def is_forced():
    """Whether a test forces a launch path."""
    return _forced is not None


def _load_drain():
    global _drain
    with _lock:
        if _drain is None:

            def build():
                from numba import types

                from . import _launch

                symbol, ir_text = _emit(_launch.drain, (types.int64,) * 4)
                return {"symbol": symbol}, ir_text

            address, _ = _load("_launch.drain", build)
            ABI = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 4
            _drain = address, ctypes.PYFUNCTYPE(ctypes.c_int32, *ABI)(address), ctypes.CFUNCTYPE(ctypes.c_int32, *ABI)(address)
    return _drain


_void = (ctypes.c_int64 * 2)()  # where numba functions put a return value and an exception: ours have neither
_RET, _EXC = ctypes.addressof(_void), ctypes.addressof(_void) + 8


def launch(kernel, packed, blocks, work):
    """Run `kernel` over its blocks with the arguments of Kernel.pack."""
    _, hold, release = _drain or _load_drain()
    args = ctypes.addressof(packed)
    counter = args + 8 * len(kernel.names)
    threads = min(_threads or get_num_threads(), blocks)
    how = _forced or ("serial" if threads == 1 or work < SERIAL_WORK else "parallel")
    if how == "parallel":
        how = "prange" if not _forked and _prange() else "pool"
    if how == "prange" and (_forked or not _prange() or not _prange_lock.acquire(blocking=False)):
        how = "pool" if _forced else "serial"  # another thread is inside: it has the cores
    if how == "prange":
        try:
            _prange_state(_drain[0], kernel.address, args, counter, blocks, threads)
        finally:
            _prange_lock.release()
    elif how == "pool":
        _pool.run(threads - 1, release, kernel.address, args, counter, blocks)
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

    from . import _launch

    dispatcher = njit(parallel=True, nogil=True, error_model="numpy")(_launch.prange_drain)
    dispatcher._cache = _NumbaCache("_launch.prange_drain")
    dispatcher.compile((types.int64,) * 6)
    dispatcher.disable_compile()
    return dispatcher


class _NumbaCache:
    """Keeps numba's own compile result (the prange loop needs its runtime) in a file of our cache: same checks, same healing."""

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


class _Job:
    """One launch on the own pool. A helper enters only while the caller is still inside; the caller leaves when all who entered have left."""

    __slots__ = ("call", "lock", "inside", "closed", "empty")

    def __init__(self, call):
        self.call, self.lock, self.inside, self.closed, self.empty = call, threading.Lock(), 0, False, threading.Event()

    def help(self):
        with self.lock:
            if self.closed:
                return
            self.inside += 1
        self.call()
        with self.lock:
            self.inside -= 1
            if self.closed and not self.inside:
                self.empty.set()

    def close(self):
        with self.lock:
            self.closed = True
            if not self.inside:
                return
        interrupted = None
        while True:  # Ctrl-C must not free memory that helpers still write
            try:
                self.empty.wait()
                break
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted


class _Pool:
    """A few daemon threads that help the caller through its blocks."""

    def __init__(self):
        self._jobs, self._count, self._lock = queue.SimpleQueue(), 0, threading.Lock()

    def _work(self, jobs):
        while True:
            jobs.get().help()

    def run(self, helpers, function, kernel, args, counter, blocks):
        if self._count < helpers:
            with self._lock:
                while self._count < helpers:
                    threading.Thread(target=self._work, args=(self._jobs,), daemon=True, name="fastmask").start()
                    self._count += 1
        job = _Job(lambda: function(_RET, _EXC, kernel, args, counter, blocks))
        try:
            for _ in range(helpers):
                self._jobs.put(job)
            job.call()
        finally:
            job.close()


_pool = _Pool()


def _after_fork():
    """In a forked child: numba's threads are gone and entering omp would kill the process; locks may be held by threads that are gone too."""
    global _forked, _pool, _prange_lock, _lock
    _forked = True
    _pool, _prange_lock, _lock = _Pool(), threading.Lock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
