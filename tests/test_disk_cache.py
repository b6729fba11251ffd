"""The cache of compiled kernels: cold, warm, damaged, full, of another version, machine or user."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fastmask.kernels import _disk_cache, _jit
from fresh import PACKAGE, TINY, cache_files, copy_of_cache, finish, run, start

REPORT = "import fresh; fresh.report()"


def report(*names):
    """Code that prints [kernel name -> digest, whether numba was imported]."""
    return f"import fresh; fresh.report({list(names)})"


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
    """Each source, the versions of numba and LLVM, what the user tells numba about code, the CPU, and Python, whose
    pickle and C API the prange file depends on; but not what concerns threads alone."""
    code = f"""
    import json, llvmlite, os, sys
    from pathlib import Path
    from fastmask.kernels import _disk_cache, _host
    stamps = [_disk_cache.source_stamp()]
    for file in sorted(Path({str(package)!r}, "kernels").glob("*.py")):
        file.write_text(file.read_text(encoding="utf-8") + "# edited", encoding="utf-8")
        stamps.append(_disk_cache.source_stamp())
    os.environ["NUMBA_OPT"] = "0"
    stamps.append(_disk_cache.source_stamp())
    os.environ["NUMBA_NUM_THREADS"] = "5"
    same = _disk_cache.source_stamp() == stamps[-1]
    for module, name in ((sys, "version"), (_host, "CPU_NAME"), (_host, "CPU_FEATURES"), (llvmlite, "__version__")):
        setattr(module, name, "another")
        stamps.append(_disk_cache.source_stamp())
    (numba / "_version.py").write_text("another")
    print(json.dumps([same, *stamps, _disk_cache.source_stamp()]))
    """
    numba = package.parent / "numba"  # stands before the real one, of which only the version is asked
    numba.mkdir()
    (numba / "__init__.py").touch()
    (numba / "_version.py").write_text("one")
    same, *stamps = run(f"numba = __import__('pathlib').Path({str(numba)!r})\n{textwrap.dedent(code)}", package=package)
    assert same and len(stamps) > 16 and len(stamps) == len(set(stamps))


def test_lanes_have_folders_of_their_own():
    code = "import json; from fastmask.kernels import _disk_cache; print(json.dumps(_disk_cache.source_stamp()))"
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


@pytest.mark.parametrize("options", ["ro", "size=8k"], ids=["read-only home", "full disk"])
def test_a_real_disk_that_is_full_or_read_only(options, tmp_path, right):
    """A file system of its own, in a name space of its own, as the user's home."""
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount.append(f'mount -t tmpfs -o {options} tmpfs "{tmp_path}" && exec "$@"')
    mount.append("sh")
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip(f"not exercised: a disk with {options}: unshare may not mount here")
    code = f"import os; del os.environ['FASTMASK_CACHE_DIR']; {report(TINY[0])}"
    out, _ = finish(start(code, before=mount, HOME=str(tmp_path), XDG_CACHE_HOME=""))
    assert json.loads(out) == [{TINY[0]: right[TINY[0]]}, True]


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


def test_the_owner_is_asked_of_the_file_that_is_read(tmp_path, monkeypatch):
    """Not of a name, behind which another file may stand by then."""
    monkeypatch.setenv("FASTMASK_CACHE_DIR", str(tmp_path))
    cache = _disk_cache.DiskCache()
    cache.write("some.kernel", {}, b"code")
    assert cache.read("some.kernel") == ({}, b"code")
    status = os.fstat

    def of_somebody_else(fd):
        fields = list(status(fd))
        fields[4] += 1  # st_uid
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", of_somebody_else)
    assert cache.read("some.kernel") is None


# How a folder comes to hold code that somebody else may have written; "ours" shows that the test below can fail.
UNTRUSTED = {
    "ours": "",
    "folder of mode 0777": "_jit._cache.folder.chmod(0o777)",
    "folder of somebody else": "me = os.getuid(); os.getuid = lambda: me + 1",
    "folder given away": "os.chown(_jit._cache.folder, 12345, -1)",
    "files of mode 0666": "[file.chmod(0o666) for file in _jit._cache.folder.iterdir()]",
}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes on this platform")
@pytest.mark.parametrize("kind", UNTRUSTED)
def test_code_that_somebody_else_may_have_written_is_refused(kind, tmp_path, right):
    """An unpickled prange file can do anything: here it makes a folder."""
    if kind == "folder given away" and os.getuid() != 0:
        pytest.skip("not exercised: only root may give a folder away")
    cache = copy_of_cache(tmp_path)
    (folder,) = cache.iterdir()
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "_launch.prange_drain"}
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
    if kind.startswith("folder"):
        after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name in files}
        assert after == files, "something was written there"
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
    cache = _disk_cache.DiskCache()
    cache.write("some.kernel", {"symbol": "f"}, b"code")
    current = tmp_path / _disk_cache.source_stamp()
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
    cache = _disk_cache.DiskCache()
    cache.write("some.kernel", {"symbol": "f"}, b"code")
    assert cache.read("some.kernel") == ({"symbol": "f"}, b"code"), "nothing was written because pruning failed"
    for folder in foreign:
        assert (folder / "kernel").read_bytes() == b"x"


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMASK_CACHE_DIR", str(tmp_path))
    assert _disk_cache.cache_root() == tmp_path
    monkeypatch.setenv("FASTMASK_CACHE_DIR", "relative")
    monkeypatch.chdir(tmp_path)
    cache = _disk_cache.DiskCache()
    cache.write("some.kernel", {}, b"code")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert cache.read("some.kernel") == ({}, b"code"), "the folder moved with the working directory"
    monkeypatch.delenv("FASTMASK_CACHE_DIR")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert _disk_cache.cache_root() == tmp_path / "xdg" / "fastmask"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert _disk_cache.cache_root() == tmp_path / "home" / ".cache" / "fastmask"
