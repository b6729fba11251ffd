"""The cache of compiled kernels and the launch of blocks: files, settings, interrupts, floating-point modes."""

import dis
import itertools
import json
import os
import pickle
import platform
import re
import shutil
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import fresh
from cases import PATHS, launched
from fastmask.kernels import _jit
from fresh import PACKAGE, TINY, TRIES, cache_files, copy_of_cache, finish, python_kernel, run, run_blocks, start

REPORT = "import fresh; fresh.report()"


def report(*names):
    """Code that prints [kernel name -> digest, whether numba was imported]."""
    return f"import fresh; fresh.report({list(names)})"


@pytest.fixture(scope="module")
def right():
    """Kernel name -> digest, from a process that finds every kernel in the cache."""
    found, numba = run(REPORT)
    assert not numba, "a warm process imported numba"
    return found


def assert_heals(cache, right):
    """A process with this cache computes the right bits, and the next one finds every kernel there."""
    assert run(REPORT, cache) == [right, True]
    assert run(REPORT, cache) == [right, False]
    assert {*right, "_launch.drain"} <= set(cache_files(cache))


# ---- the cache: cold, warm, edited ----------------------------------------------------------------------------------


def test_cold_and_warm_processes_give_the_same_bits(tmp_path, right):
    assert_heals(tmp_path, right)


def test_a_warm_process_does_every_job_without_numba():
    code = 'import json, sys, fresh; fresh.digests(); print(json.dumps("numba" in sys.modules))'
    assert run(code) is False


@pytest.fixture
def package(tmp_path):
    """A copy of the package that a test may edit."""
    return shutil.copytree(PACKAGE, tmp_path / "fastmask", ignore=shutil.ignore_patterns("__pycache__"))


def edit(package):
    """Change a constant of exp in simd.py; returns the source as it was."""
    simd = package / "kernels" / "simd.py"
    source = simd.read_text(encoding="utf-8")
    edited = source.replace("_EXP32 = (0.49", "_EXP32 = (0.48")
    assert edited != source, "simd.py has no such constant any more: choose another"
    simd.write_text(edited, encoding="utf-8")
    return source


def test_an_edited_kernel_takes_effect_at_the_next_run(tmp_path, package):
    cache, code = tmp_path / "cache", report(TINY[0])
    before, compiled = run(code, cache, package=package)
    assert compiled
    source = edit(package)
    after, compiled = run(code, cache, package=package)
    assert compiled and after != before
    (package / "kernels" / "simd.py").write_text(source, encoding="utf-8")
    assert run(code, cache, package=package) == [before, False]
    edit(package)
    assert run(code, cache, package=package) == [after, False]


def test_an_edit_while_a_process_runs_does_not_spoil_the_cache(tmp_path, package, right):
    """The kernel is made from the new source, but was looked for under the name of the old one."""
    source = edit(package)
    simd = package / "kernels" / "simd.py"
    edited = simd.read_text(encoding="utf-8")
    simd.write_text(source, encoding="utf-8")
    meanwhile = f"""
    from pathlib import Path
    from fastmask.kernels import _jit
    _jit._cache.read("nothing")  # as at the first use of a kernel
    Path({str(simd)!r}).write_text({edited!r}, encoding="utf-8")
    {report(TINY[0])}
    """
    cache = tmp_path / "cache"
    found, _ = run(meanwhile, cache, package=package)
    assert found[TINY[0]] != right[TINY[0]], "the edit came too late: this shows nothing"
    simd.write_text(source, encoding="utf-8")
    found, _ = run(report(TINY[0]), cache, package=package)
    assert found[TINY[0]] == right[TINY[0]]


def test_whatever_makes_the_code_names_the_folder(package):
    """Each source, what the user tells numba about code, and Python, whose pickle and C API the prange file depends on;
    but not what concerns threads alone."""
    code = f"""
    import json, os, sys
    from pathlib import Path
    from fastmask.kernels import _jit
    stamps = [_jit._source_stamp()]
    for file in sorted(Path({str(package)!r}, "kernels").glob("*.py")):
        file.write_text(file.read_text(encoding="utf-8") + "# edited", encoding="utf-8")
        stamps.append(_jit._source_stamp())
    os.environ["NUMBA_OPT"] = "0"
    stamps.append(_jit._source_stamp())
    os.environ["NUMBA_NUM_THREADS"] = "5"
    same = _jit._source_stamp() == stamps[-1]
    sys.version = "3.99"
    print(json.dumps([same, *stamps, _jit._source_stamp()]))
    """
    same, *stamps = run(code, package=package)
    assert same and len(stamps) > 10 and len(stamps) == len(set(stamps))


def test_lanes_have_folders_of_their_own():
    code = "import json; from fastmask.kernels import _jit; print(json.dumps(_jit._source_stamp()))"
    stamps = {lanes: run(code, FASTMASK_LANES=lanes) for lanes in ("4", "8", "16")}
    assert len({*stamps.values()}) == 3
    assert run(code) == stamps[str(_jit.LANES)]


# ---- the cache: what cannot be written ------------------------------------------------------------------------------

# Each leaves the process without a folder that it can write to.
UNWRITABLE = {
    "below a file": "os.environ['FASTMASK_CACHE_DIR'] = os.devnull + '/x'",
    "no home": "del os.environ['FASTMASK_CACHE_DIR']; Path.expanduser = fail(RuntimeError('no home directory'))",
    "no folder can be made": "Path.mkdir = fail(OSError(errno.EROFS, 'Read-only file system'))",
    "no file can be made": "tempfile.mkstemp = fail(OSError(errno.EACCES, 'Permission denied'))",
    "disk full at the end": "os.replace = fail(OSError(errno.ENOSPC, 'No space left on device'))",
    "disk full while writing": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))",
}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_without_a_writable_folder_everything_works(kind, tmp_path, right):
    code = f"""
    import errno, os, tempfile
    from pathlib import Path

    def fail(error):
        def raises(*args, **kwargs):
            raise error
        return raises

    os.environ.pop("XDG_CACHE_HOME", None)
    {UNWRITABLE[kind]}
    {report(TINY[0])}
    """
    assert run(code, tmp_path / "cache") == [{TINY[0]: right[TINY[0]]}, True]
    left_over = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left_over, f"left behind: {left_over}"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write to a read-only folder")
def test_read_only_folder(tmp_path, right):
    tmp_path.chmod(0o500)
    try:
        assert run(report(TINY[0]), tmp_path) == [{TINY[0]: right[TINY[0]]}, True]
    finally:
        tmp_path.chmod(0o700)


# ---- the cache: what must not be believed ---------------------------------------------------------------------------


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


# One for each kernel of TINY: all at once, because a process that compiles takes seconds.
DAMAGE = [
    lambda data: b"",
    lambda data: data[:10],
    lambda data: data[: len(data) // 2],
    lambda data: flip(data, 3),  # in the mark at the start
    lambda data: flip(data, 30),  # in the checksum
    lambda data: flip(data, len(data) - 100),  # in the machine code
    lambda data: np.random.default_rng(0).bytes(len(data)),
    lambda data: data + b"\0",
]


def test_damaged_files_are_ignored_and_replaced(tmp_path, right):
    cache = copy_of_cache(tmp_path)
    files = cache_files(cache)
    damaged = {}
    for name, damage in zip(TINY, DAMAGE, strict=True):
        damaged[name] = damage(files[name].read_bytes())
        files[name].write_bytes(damaged[name])
    files["_launch.drain"].write_bytes(b"")
    assert_heals(cache, right)
    assert [name for name in TINY if files[name].read_bytes() == damaged[name]] == []


def test_the_file_of_another_kernel_is_not_taken_for_this_one(tmp_path, right):
    """A mixed-up copy: the file is whole and has the same arguments, but was compiled for the other float type."""
    cache = copy_of_cache(tmp_path)
    files = cache_files(cache)
    one, other = (name for name in TINY if "softmax_forward" in name)
    files[one].write_bytes(files[other].read_bytes())
    assert_heals(cache, right)


def test_the_file_of_another_version_is_not_taken_for_this_one(tmp_path, package, right):
    cache, code = copy_of_cache(tmp_path), report(TINY[0])
    edit(package)
    edited, _ = run(code, tmp_path / "other", package=package)
    assert edited[TINY[0]] != right[TINY[0]]
    (other,) = (tmp_path / "other").iterdir()
    shutil.copy(cache_files(cache)[TINY[0]], other / TINY[0])
    assert run(code, tmp_path / "other", package=package) == [edited, True]


PRANGE = """
import json, sys, fresh
from fastmask.kernels import _jit
_jit._forced = "prange"
print(json.dumps([fresh.digests()["dense"], bool(_jit._prange())]))
"""


def test_garbage_where_the_prange_launch_is_kept(tmp_path):
    """That file is a pickle of numba's: with a bit flipped, and whole files that hold something else."""
    cache = copy_of_cache(tmp_path)
    file = cache_files(cache)["_launch.prange_drain"]
    good = file.read_bytes()
    value, usable = run(PRANGE)
    if not usable:
        pytest.skip("numba has neither omp nor tbb here: prange is never used")
    damaged = flip(good, len(good) - 2000)
    file.write_bytes(damaged)
    assert run(PRANGE, cache) == [value, True]
    assert len(file.read_bytes()) > len(good) // 2 and file.read_bytes() != damaged, "not healed"
    for payload in (b"garbage", pickle.dumps((1, 2, 3))):
        write = f"from fastmask.kernels import _jit; _jit._cache.write('_launch.prange_drain', {{}}, {payload!r})"
        assert run(write + PRANGE, cache) == [value, True]
        assert len(file.read_bytes()) > len(good) // 2, "not healed"


# How a folder comes to hold code that somebody else may have written; "ours" shows that the test below can fail.
UNTRUSTED = {
    "ours": "",
    "folder of mode 0777": "_jit._cache.folder.chmod(0o777)",
    "folder of somebody else": "me = os.getuid(); os.getuid = lambda: me + 1",
    "files of mode 0666": "[file.chmod(0o666) for file in _jit._cache.folder.iterdir()]",
}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes on this platform")
@pytest.mark.parametrize("kind", UNTRUSTED)
def test_code_that_somebody_else_may_have_written_is_refused(kind, tmp_path, right):
    """An unpickled prange file can do anything: here it makes a folder."""
    cache = copy_of_cache(tmp_path)
    (folder,) = cache.iterdir()
    made = tmp_path / "made by the attack"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(made),)

    write = "import os; from fastmask.kernels import _jit; _jit._cache.write('_launch.prange_drain', {}, %r); %s\n"
    code = write % (pickle.dumps(Attack()), UNTRUSTED[kind]) + f"{report(TINY[0])}; _jit._prange()"
    out, _ = finish(start(code, cache))
    found, numba = json.loads(out)
    assert found == {TINY[0]: right[TINY[0]]}
    assert numba == (kind != "ours"), "the kernel was loaded"
    assert made.exists() == (kind == "ours"), "the pickle was loaded"
    if kind == "files of mode 0666":
        assert (folder / TINY[0]).stat().st_mode & 0o777 == 0o600, "not healed"


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_that_fill_the_cache_at_once(processes, tmp_path, right):
    names = TINY[:2]
    running = [start(report(*names), tmp_path) for _ in range(processes)]
    try:
        outputs = [finish(process)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    want = {name: right[name] for name in names}
    assert [json.loads(out)[0] for out in outputs] == [want] * processes
    assert run(report(*names), tmp_path) == [want, False]
    cache_files(tmp_path)


def test_a_process_killed_while_writing_leaves_the_cache_good(tmp_path, right):
    code = "import os; os.replace = lambda *args: os.kill(os.getpid(), 9)\n" + report(TINY[0])
    finish(start(code, tmp_path), exit_code=-9)
    (half,) = next(tmp_path.iterdir()).iterdir()
    assert half.name.startswith(".")
    half.unlink()
    want = {TINY[0]: right[TINY[0]]}
    assert run(report(TINY[0]), tmp_path) == [want, True]
    assert run(report(TINY[0]), tmp_path) == [want, False]
    cache_files(tmp_path)


# ---- the cache: where it lies, and how little it keeps --------------------------------------------------------------


def old_folder(folder, age):
    """A folder with a file `kernel` and a folder's age in seconds."""
    folder.mkdir(parents=True)
    (folder / "kernel").write_bytes(b"x")
    now = folder.stat().st_mtime
    os.utime(folder, (now - age, now - age))
    return folder


def test_pruning_keeps_the_newest_stamps_and_the_current_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMASK_CACHE_DIR", str(tmp_path))
    stamps = [old_folder(tmp_path / f"{i:020x}", age=100 * (i + 1)) for i in range(12)]  # the first is the newest
    cache = _jit._DiskCache()
    cache.write("some.kernel", {"symbol": "f"}, b"code")
    current = tmp_path / _jit._source_stamp()
    assert {*tmp_path.iterdir()} == {current, *stamps[: cache.KEEP - 1]}
    assert cache.read("some.kernel") == ({"symbol": "f"}, b"code")
    cache.write("other.kernel", {"symbol": "g"}, b"")
    assert cache.read("other.kernel") == ({"symbol": "g"}, b"")


def test_pruning_touches_nothing_but_stamps(tmp_path, monkeypatch):
    """FASTMASK_CACHE_DIR may be a folder that holds other things."""
    root = tmp_path / "cache"
    monkeypatch.setenv("FASTMASK_CACHE_DIR", str(root))
    for i in range(12):
        old_folder(root / f"{i:020x}", age=100)
    foreign = [old_folder(root / name, age=9999) for name in ("holiday pictures 2019", "my-thesis-chapter-04", "x")]
    foreign.append(old_folder(root / f"{99:020x}", age=9998))
    (foreign[-1] / "folder").mkdir()  # the name of a stamp, but with something in it that we never made
    foreign.append(old_folder(tmp_path / "elsewhere", age=9997))
    (root / f"{98:020x}").symlink_to(foreign[-1], target_is_directory=True)
    cache = _jit._DiskCache()
    cache.write("some.kernel", {"symbol": "f"}, b"code")
    assert cache.read("some.kernel") == ({"symbol": "f"}, b"code"), "nothing was written because pruning failed"
    for folder in foreign:
        assert (folder / "kernel").read_bytes() == b"x"


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMASK_CACHE_DIR", str(tmp_path))
    assert _jit.cache_root() == tmp_path
    monkeypatch.setenv("FASTMASK_CACHE_DIR", "relative")
    monkeypatch.chdir(tmp_path)
    cache = _jit._DiskCache()
    cache.write("some.kernel", {}, b"code")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert cache.read("some.kernel") == ({}, b"code"), "the folder moved with the working directory"
    monkeypatch.delenv("FASTMASK_CACHE_DIR")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert _jit.cache_root() == tmp_path / "xdg" / "fastmask"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert _jit.cache_root() == tmp_path / "home" / ".cache" / "fastmask"


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
        _jit._choose_lanes({})


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


def test_when_no_more_threads_can_be_had(right):
    """At the limit of the system, or while the interpreter shuts down: at the first launch, the next, afterwards."""
    code = """
    import json, threading, fresh

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


# ---- interrupts -----------------------------------------------------------------------------------------------------


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, so that a real Ctrl-C still ends the tests."""


def interrupted(function, place=None):
    """Call function() and raise Interrupt in _jit.py at `place`: (function name, line, offset of the operation).

    Returns all places that were passed at which Python would raise KeyboardInterrupt: it looks for signals when a
    function begins, after a call, and when a loop turns back.
    """
    places, last = [], {}

    def trace(frame, event, _):
        if frame.f_code.co_filename != _jit.__file__:
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


@pytest.mark.parametrize("path", PATHS)
def test_an_interrupt_at_any_moment_of_a_launch(path):
    """No block touches an array that the caller has given up; later launches are right, and as parallel as before."""
    if path not in usable_paths():
        pytest.skip("numba has neither omp nor tbb here: prange is never used")
    # in a process of its own, for what this finds may as well be a crash
    assert run(f"import json, test_jit; print(json.dumps(test_jit.interrupt_everywhere({path!r})))") > 5


def interrupt_everywhere(path):
    """Interrupt launches at every place there is; AssertionError at the first that does harm. The number of places."""
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


@pytest.mark.parametrize("path", PATHS)
def test_ctrl_c_during_a_long_launch(path):
    """The signal comes in the middle, KeyboardInterrupt when the kernel is done; everything works afterwards."""
    code = f"""
    import json, signal, threading, time, numpy as np, fresh
    from fastmask.kernels import _jit
    from fastmask.ops.lstm import lstm
    want = fresh.expected()
    _jit._forced = "{path}"
    fresh.digests()
    x = np.zeros((64, 1000, 4), np.float32)
    weights = np.zeros((4, 512), np.float32), np.zeros((128, 512), np.float32)
    interrupted = 0
    for _ in range(4):
        me = threading.main_thread().ident
        threading.Timer(0.01, signal.pthread_kill, [me, signal.SIGINT]).start()
        try:
            lstm(x, *weights, return_sequences=False)
            time.sleep(5)
        except KeyboardInterrupt:
            interrupted += 1
    print(json.dumps([interrupted, fresh.digests() == want]))
    """
    assert run(code) == [4, True]


def test_a_storm_of_signals():
    """For a second each signal raises: results are right or none, and nobody writes where a lost result was."""
    code = """
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
    _jit._forced = "pool"
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


def test_a_call_with_wrong_arguments_launches_nothing():
    kernel = _jit.get("activation", "activation_forward", "float32")
    for path in usable_paths():
        with launched(path, 2):
            with pytest.raises(TypeError, match="argument 'y' is missing"):
                kernel.run(1, 1, x=None, size=0, code=0)
            with pytest.raises(TypeError, match="unknown arguments"):
                kernel.run(1, 1, x=None, y=None, size=0, code=0, other=1)
            seen = []
            run_blocks(python_kernel(seen.append), 3)
            assert sorted(seen) == [0, 1, 2]
