"""One text and named arrays in one .npz file: written whole or not at all, and read without trust.

The text is a JSON object, the member fastmask.json; the arrays are .npy members, float32 or float64. Members are stored
as they are, without compression: so no file claims more than it holds, and what is read is never larger than the file.
"""

import contextlib
import json
import math
import os
import secrets
import stat
import zipfile

import numpy as np

TEXT = "fastmask.json"
MAX_TEXT = 2**22  # bytes, of which a layer takes some hundred
MAX_DEPTH = 64  # of lists and dicts inside one another
DTYPES = np.dtype("<f4"), np.dtype("<f8")
_YEAR_0 = (1980, 1, 1, 0, 0, 0)  # of a zip file: the same content gives the same bytes


@contextlib.contextmanager
def naming(path):
    """Errors inside, of whatever kind, are ValueErrors that name the file; those of the file system stay."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: cannot be loaded: {reason}") from error


def plain_data(value, what, depth=0):
    """`value` as None, bools, numbers, strings, lists and dicts of strings to such.

    Raises
    ------
    ValueError
        It holds anything else, which a file cannot; `what` is where it comes from.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{what}: expected at most {MAX_DEPTH} lists and dicts inside one another, received more")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain_data(v, f"{what}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain_data(v, f"{what}[{key!r}]", depth + 1) for key, v in value.items()}
    raise ValueError(
        f"{what}: expected numbers, strings, None, and lists and dicts of them, which can be saved, received "
        f"{type(value).__name__}: {value!r:.60}"
    )


# ---- writing --------------------------------------------------------------------------------------------------------
def write(path, content, arrays):
    """Write a file with the dict `content` (plain data) and `arrays` (name -> array), in place of the one there.

    It is made under another name in the same folder, brought to the disk and renamed: whatever happens meanwhile, under
    `path` there is the old file or the new one, whole.
    """
    text = json.dumps(content).encode()
    if len(text) > MAX_TEXT:
        raise ValueError(f"{path}: expected a configuration of at most {MAX_TEXT} bytes, received {len(text)}")
    path = os.path.realpath(path)  # a link stays one
    temporary = os.path.join(os.path.dirname(path), f".fastmask-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _write_members(file, text, arrays)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
    with contextlib.suppress(OSError):  # the new name, too, where folders can be brought to the disk
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_members(file, text, arrays):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as members:
        members.writestr(zipfile.ZipInfo(TEXT, _YEAR_0), text)
        for name, array in arrays.items():
            array = np.asarray(array, np.asarray(array).dtype.newbyteorder("<"), order="C")
            with members.open(zipfile.ZipInfo(f"{name}.npy", _YEAR_0), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


# ---- reading --------------------------------------------------------------------------------------------------------
class Archive:
    """A file of `write`, open for reading.

    Attributes
    ----------
    content : dict
    arrays : dict
        name -> (shape, dtype), from the headers; `read` reads one.

    Raises
    ------
    ValueError
        No such file, or a damaged one; to be named by `naming`.
    """

    def __init__(self, path):
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("expected a file, received a folder or a device")
        self._file = open(path, "rb")  # noqa: SIM115
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def _open(self):
        try:
            self._zip = zipfile.ZipFile(self._file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"expected a .npz file, received another or the beginning of one: {error}") from error
        self._members = {}
        for member in self._zip.infolist():
            self._check(member)
            if self._members.setdefault(member.filename, member) is not member:
                raise ValueError(f"expected each member once, received {member.filename!r} twice")
        if sum(member.file_size for member in self._members.values()) > self._size:
            raise ValueError("expected members that fit into the file, received overlapping ones")
        self.content = self._read_content()
        self.arrays = {}
        for name in self._members:
            if name != TEXT:
                with self._zip.open(name) as member:
                    self.arrays[name.removesuffix(".npy")] = self._read_header(member, name)

    @staticmethod
    def _check(member):
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"{member.filename!r}: expected a member that is stored, received a compressed one")
        if member.file_size != member.compress_size:
            raise ValueError(f"{member.filename!r}: expected {member.compress_size} bytes, received {member.file_size}")

    def _read_content(self):
        if TEXT not in self._members:
            raise ValueError(f"expected a file that fastmask saved, received one without {TEXT}")
        size = self._members[TEXT].file_size
        if size > MAX_TEXT:
            raise ValueError(f"{TEXT}: expected at most {MAX_TEXT} bytes, received {size}")
        content = json.loads(self._zip.read(TEXT))
        if not isinstance(content, dict):
            raise ValueError(f"{TEXT}: expected an object, received {type(content).__name__}")
        return plain_data(content, TEXT)

    def _read_header(self, member, name):
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"{name!r}: expected version 1.0 of the .npy format, received another")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype not in DTYPES or is_fortran:
            raise ValueError(f"{name!r}: expected float32 or float64 in C order, received {dtype}")
        left = self._members[name].file_size - member.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"{name!r}: expected {left} bytes of data in shape {shape}, {dtype}")
        return shape, dtype

    def read(self, name):
        """The array of that name, read-only."""
        member_name = f"{name}.npy"
        with self._zip.open(member_name) as member:
            shape, dtype = self._read_header(member, member_name)
            return np.frombuffer(member.read(), dtype).reshape(shape)  # at the end the checksum is looked at
