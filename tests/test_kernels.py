"""Every block kernel there is: it compiles, says what its arguments are, and calls nothing; and who may import whom."""

import ast
import importlib
import inspect
import pkgutil
import re
import struct
from pathlib import Path

import pytest

import fastmask
from fastmask import kernels
from fastmask.kernels import _host, _jit

ROOT = Path(fastmask.__file__).parent
DTYPES = ("float32", "float64")


def declared():
    """(module, name, function) of every declared block kernel, each once."""
    found = {}
    for info in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"fastmask.kernels.{info.name}")
        for name, function in vars(module).items():
            if hasattr(function, "kernel_arguments"):
                found.setdefault(id(function), (info.name, name, function))
    return sorted(found.values(), key=lambda entry: entry[:2])


KERNELS = declared()
IDS = [f"{module}.{name}" for module, name, _ in KERNELS]


def test_kernels_are_found():
    modules = {module for module, _, _ in KERNELS}
    assert {"activation", "gemm", "gru", "loss", "lstm", "mask", "schedule", "simple_rnn"} <= modules
    assert {"gru.gru_forward", "gru.gru_reset_before_backward", "lstm.lstm_backward", "gemm.product"} <= set(IDS)


@pytest.mark.parametrize("function", [function for _, _, function in KERNELS], ids=IDS)
def test_declared_names_are_the_names_in_the_code(function):
    """`a, b, c = unpack(args, 3)` is the kernel's first line, with the names of its declaration: all of them, or the
    first ones where it hands `args` on to an intrinsic that reads the others by name."""
    code, names = function.__code__, function.kernel_arguments
    assert code.co_varnames[: code.co_argcount] == ("block", "args", "real")
    source = inspect.getsource(function)
    n = int(re.search(r"unpack\(\s*args, (\d+)\s*\)", source).group(1))
    assert n == len(names) or re.search(r"\(real, args\b", source)
    assert code.co_varnames[3 : 3 + n] == names[:n]
    assert len(set(names)) == len(names)
    for n in re.findall(r"stopped\(\s*args, (\d+)\s*\)", source):  # the word behind the arguments
        assert int(n) == len(names)


# ---- what a kernel calls --------------------------------------------------------------------------------------------
def sections(code):
    from llvmlite import binding

    return {s.name(): s.data() for s in binding.ObjectFileRef.from_data(code).sections()}


def undefined_symbols(code):
    """Names that an ELF object file wants from elsewhere: libm, memcpy, Python, other libraries."""
    parts = sections(code)
    names = parts[b".strtab"]
    undefined = set()
    for at in range(0, len(parts[b".symtab"]), 24):  # Elf64_Sym: name, info, other, section, value, size
        name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", parts[b".symtab"], at)
        if section == 0 and name:
            undefined.add(names[name : names.index(b"\0", name)].decode())
    return undefined


def object_code(name, build):
    """The machine code that the library runs: what its cache holds, else compiled here."""
    entry = _jit._cache.read(name)
    if entry is not None:
        return entry[1]
    return _jit._object_code(build()[1])


def needs_elf_and_fma():
    from llvmlite import binding

    if binding.get_object_format(binding.get_process_triple()) != "ELF":
        pytest.skip("object files are read as ELF, which this platform does not use")
    if not (_host.FEATURES.get("fma") or _host.FEATURES.get("neon")):
        pytest.skip("no fused multiply-add on this machine: llvm.fma becomes a call of the C library")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("module, name", [entry[:2] for entry in KERNELS], ids=IDS)
def test_kernel_calls_nothing(module, name, dtype):
    """It compiles without numba's runtime (an allocation would be an error) into code that needs no other symbol."""
    needs_elf_and_fma()
    kernel = _jit.get(module, name, dtype)
    code = object_code(kernel.name, lambda: _jit.emit_kernel(module, name, dtype))
    assert undefined_symbols(code) == set()
    assert kernel.names == getattr(importlib.import_module(f"fastmask.kernels.{module}"), name).kernel_arguments


@pytest.mark.parametrize("name, words", [("drain", 4), ("lead", 6), ("serve", 2)])
def test_launchers_call_nothing(name, words):
    needs_elf_and_fma()
    _jit._load_function(name, words)
    entry = _jit._cache.read(f"_launch.{name}")
    if entry is None:
        pytest.skip("the kernel cache cannot be written: the code of the launchers is not kept")
    assert undefined_symbols(entry[1]) == set()


def test_undefined_symbols_are_seen():
    """The check can fail: a kernel that calls libm, one that copies memory, one that fills it."""
    needs_elf_and_fma()
    from llvmlite import binding

    _jit._target_machine()
    for body, wanted in {
        "call double @llvm.sin.f64(double 0x3FF8000000000000)": "sin",
        "call double @llvm.pow.f64(double 0x3FF8000000000000, double %x)": "pow",
        "call double @somewhere(double %x)": "somewhere",
    }.items():
        function = re.search(r"@[\w.]+", body)[0]
        arguments = ", ".join(["double"] * body.count("double ", body.index("(")))
        ir = f"declare double {function}({arguments})\ndefine double @f(double %x) {{ %y = {body}\n ret double %y }}"
        assert undefined_symbols(_jit._object_code(ir)) == {wanted}
    for body, wanted in {
        "call void @llvm.memcpy.p0.p0.i64(ptr %p, ptr %q, i64 %n, i1 false)": "memcpy",
        "call void @llvm.memset.p0.i64(ptr %p, i8 0, i64 %n, i1 false)": "memset",
    }.items():
        ir = f"define void @f(ptr %p, ptr %q, i64 %n) {{ {body}\n ret void }}\n"
        ir += "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"
        ir += "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n"
        assert undefined_symbols(_jit._object_code(ir)) == {wanted}
    assert binding.get_object_format(binding.get_process_triple()) == "ELF"


# ---- the rooms ------------------------------------------------------------------------------------------------------
def imports(path):
    """Every module that a file imports, with its own package's names made absolute."""
    package = ["fastmask", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports(path):
    """numba and llvmlite only in kernels/; kernels/ imports nothing of the library but itself; ops/ no layers."""
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        top = name.split(".")[0]
        if room == "kernels":
            assert top != "fastmask" or name.startswith("fastmask.kernels"), f"{path.name} imports {name}"
        else:
            assert top not in ("numba", "llvmlite"), f"{path.name} imports {name}"
        if room == "ops":
            assert not re.match(r"fastmask\.(layers|models|losses|metrics|optimizers)\b", name), f"{path.name}: {name}"
