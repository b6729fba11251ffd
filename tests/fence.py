"""An electric fence for NumPy arrays: each one ends, or begins, at a page that may not be touched.

`fence(at)` installs an allocator (NumPy's own interface for that, NEP 49) for the arrays made from then on in this
thread. Reading or writing one byte outside ends the process with SIGSEGV, and so does touching memory that was given
back; memory of `np.empty` is full of NaN (-1 as an integer), so that nobody profits from zeros by accident. For a
process of its own: arrays cost two pages and a few system calls each.
"""

import ctypes
import functools
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE
_SET_HANDLER = 304  # its place in NumPy's C API, which never changes
_NAME = b"fence"

_Pointer, _Size = ctypes.c_void_p, ctypes.c_size_t
_Malloc = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Size)
_Calloc = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Size, _Size)
_Realloc = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Pointer, _Size)
_Free = ctypes.CFUNCTYPE(None, _Pointer, _Pointer, _Size)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _Pointer),
        ("malloc", _Malloc),
        ("calloc", _Calloc),
        ("realloc", _Realloc),
        ("free", _Free),
    ]


def usable():
    return sys.platform == "linux" and sys.implementation.name == "cpython"


@functools.cache
def _libc():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = _Pointer
    libc.mmap.argtypes = [_Pointer, _Size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mprotect.argtypes = [_Pointer, _Size, ctypes.c_int]
    libc.munmap.argtypes = [_Pointer, _Size]
    return libc


def _pages(size, at):
    """(address of `size` bytes at a protected page, where the mapping begins, its length)."""
    whole = max(1, -(-size // PAGE)) * PAGE
    length = whole + PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = _libc().mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if base in (None, _Size(-1).value):
        return None, None, 0
    guard = base + whole if at == "end" else base
    if _libc().mprotect(guard, PAGE, 0):  # PROT_NONE
        return None, None, 0
    return (base + whole - size if at == "end" else base + PAGE), base, length


def fence(at):
    """at: "end" or "begin": where the protected page is."""
    blocks = {}  # address -> (base, length, size)

    def allocate(size):
        address, base, length = _pages(size, at)
        if address is not None:
            blocks[address] = base, length, size
        return address

    @_Malloc
    def malloc(context, size):
        address = allocate(size)
        if address is not None:
            ctypes.memset(address, 0xFF, size)
        return address

    @_Calloc
    def calloc(context, count, size):
        return allocate(count * size)

    @_Realloc
    def realloc(context, old, size):
        address = malloc(context, size)
        if address is not None and old:
            ctypes.memmove(address, old, min(size, blocks[old][2]))
            free(context, old, 0)
        return address

    @_Free
    def free(context, address, size):
        if address:
            base, length, _ = blocks.pop(address)
            _libc().munmap(base, length)

    handler = _Handler(_NAME, 1, None, malloc, calloc, realloc, free)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [_Pointer, ctypes.c_char_p, _Pointer]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = _Pointer, [ctypes.py_object, ctypes.c_char_p]
    multiarray = np._core._multiarray_umath
    api = ctypes.cast(get_pointer(multiarray._ARRAY_API, None), ctypes.POINTER(_Pointer))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(api[_SET_HANDLER])
    set_handler(new_capsule(ctypes.addressof(handler), b"mem_handler", None))
    _installed.append((handler, blocks))
    if np._core.multiarray.get_handler_name() != _NAME.decode():
        raise RuntimeError("NumPy did not take the allocator")


_installed = []  # kept for the life of the process: arrays of it may live as long
