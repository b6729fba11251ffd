"""The disk cache of compiled kernels: one checked file a kernel, in a folder named by all that the code depends on."""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from . import _host

_MAGIC = b"fastmask kernel 1\n"


def source_stamp():
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
    machine = _host.LANES, _host.CPU_NAME, _host.CPU_FEATURES
    h.update(repr((llvmlite.__version__, *machine, sys.version, numba_settings)).encode())
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


class DiskCache:
    """Reads and writes kernel files; every failure means "not there".

    Code is loaded only from files that nobody else could have written: the owner and the mode are asked of the opened
    file, so that nobody can put another one in its place between the question and the reading.
    """

    KEEP = 8  # stamps (source versions x CPUs) kept side by side

    def __init__(self):
        self.folder = None  # resolved at first use

    def _folder(self):
        if self.folder is None:
            self.folder = cache_root().absolute() / source_stamp()
        return self.folder

    def _checksum(self, name, body):
        """Of the content and of what it is: a whole file of another kernel or version is damage too."""
        return hashlib.sha256(f"{self._folder().name}/{name}\n".encode() + body).digest()

    def read(self, name):
        """(header dict, payload) or None."""
        try:
            folder = self._folder()
            if not _ours(os.stat(folder)):
                return None
            with open(folder / name, "rb") as f:
                if not _ours(os.fstat(f.fileno())):
                    return None
                data = f.read()
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
            if source_stamp() != folder.name:
                return  # edited since this process began: this code may be of either version
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._prune(folder)
            if not _ours(os.stat(folder)):
                return  # nothing would be read from there
            fd, tmp = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # mode 0600
            with os.fdopen(fd, "wb") as f:
                f.write(_MAGIC + self._checksum(name, body) + body)
            os.replace(tmp, folder / name)  # atomic: two processes may both do it
            tmp = None
        except (OSError, RuntimeError):
            pass
        finally:  # after Ctrl-C too
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


def _ours(status):
    """Whether nobody else can write there; a stat result of a folder or a file."""
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
