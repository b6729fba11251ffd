"""The package as a whole: what importing it costs, what it exports, how its public functions are documented."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import fastmask as fm

ROOT = Path(fm.__file__).parent
REPOSITORY = Path(__file__).parents[1]

NAMES = """
    Input MaskDroppedWarning Model Ragged Sequential Variable activations bucket_batches constraints datasets
    get_num_threads gru gru_backward gru_forward initializers layers load_model losses lstm lstm_backward lstm_forward
    masks metrics optimizers pad_sequences regularizers set_num_threads set_random_seed simple_rnn
    simple_rnn_backward testing simple_rnn_forward callbacks
"""
PUBLIC = NAMES.split()


def fresh_process(code):
    """What `code` prints in a process of its own, which finds the package that is tested here, installed or not."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names():
    assert [name for name in PUBLIC if not hasattr(fm, name)] == []
    assert sorted(set(PUBLIC) - set(dir(fm))) == []


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        fm.no_such_name  # noqa: B018


def test_version_matches_the_installed_package():
    try:
        installed = metadata.version("fastmask")
    except metadata.PackageNotFoundError:
        pytest.skip("fastmask is not installed, only its source tree is here")
    assert fm.__version__ == installed


def test_the_lowest_versions_are_those_to_test():
    """CONTRIBUTING.md has the command that installs just those that pyproject.toml allows."""
    project, guide = ((REPOSITORY / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CONTRIBUTING.md"))
    lowest = re.search(r'^requires-python = ">=(.*)"', project, re.M)[1]
    numba, numpy = re.search(r'^dependencies = \["numba>=(.*)", "numpy>=(.*)"\]', project, re.M).groups()
    command = rf"python{lowest} -m venv (\S+)\n\1/bin/pip install numba=={numba} numpy=={numpy}(\.0)? "
    assert re.search(command, guide)


def test_changelog_starts_with_this_version():
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert newest == fm.__version__


def test_import_brings_no_numba_and_starts_no_thread():
    code = """
import sys, threading, fastmask
print([name for name in ("numba", "llvmlite", "torch", "keras", "tensorflow", "matplotlib") if name in sys.modules])
print(threading.active_count())
import os
print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1)
"""
    modules, python_threads, threads = fresh_process(code).splitlines()
    assert (modules, python_threads) == ("[]", "1")
    # NumPy's BLAS may have threads of its own
    assert int(threads) <= int(fresh_process(code.replace("threading, fastmask", "threading, numpy")).splitlines()[2])


def test_import_takes_less_than_a_tenth_of_a_second_above_numpy():
    code = "import time, numpy; t = time.perf_counter(); import fastmask; print(time.perf_counter() - t)"
    assert median(float(fresh_process(code)) for _ in range(5)) < 0.1


def test_reference_needs_no_numba():
    code = """
import sys
sys.modules["numba"] = None  # importing it now raises
import numpy as np
import fastmask.reference.gru, fastmask.reference.lstm, fastmask.reference.simple_rnn, fastmask.reference.loss
x = np.ones((2, 3, 1))
result = fastmask.reference.simple_rnn.simple_rnn(x, np.ones((1, 1)), np.zeros((1, 1)), mask=np.ones((2, 3)))
print(result.outputs.shape)
"""
    assert fresh_process(code).strip() == "(2, 3, 1)"


def modules():
    """Every module of the package but the compiled kernels, whose functions are no public interface."""
    names = [m.name for m in pkgutil.walk_packages([str(ROOT)], "fastmask.")]
    return [name for name in names if not name.startswith(("fastmask.kernels", "fastmask.__main__"))]


def public_functions():
    """(label, function, docstring) of each public function, method and class of the package, where it is defined."""
    found = {}
    for module_name in modules():
        module = importlib.import_module(module_name)
        if any(part.startswith("_") for part in module_name.split(".")):
            continue
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module_name:
                continue
            if inspect.isfunction(thing):
                found[f"{module_name}.{name}"] = (thing, thing.__doc__)
            elif inspect.isclass(thing):
                if "__init__" in vars(thing):
                    # a class is documented in its own docstring, __init__ included
                    found[f"{module_name}.{name}"] = (thing.__init__, thing.__doc__)
                for key, member in vars(thing).items():
                    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
                    inherited = any(
                        function.__doc__ == getattr(getattr(b, key, None), "__doc__", "") for b in thing.__bases__
                    )
                    if inspect.isfunction(function) and not key.startswith("_") and not inherited:
                        found[f"{module_name}.{name}.{key}"] = (function, function.__doc__)
    return found


def documented_arguments(docstring):
    """Names in the numpydoc section `Parameters`, in order; None if there is no such section."""
    lines = inspect.cleandoc(docstring).splitlines()
    starts = [i for i in range(len(lines) - 1) if lines[i] == "Parameters" and re.fullmatch("-{3,}", lines[i + 1])]
    if not starts:
        return None
    names = []
    for line, following in zip(lines[starts[0] + 2 :], [*lines[starts[0] + 3 :], ""], strict=True):
        if re.fullmatch("-{3,}", following):
            break  # the next section's heading
        if re.match(r"[*\w]", line):
            names += [name.strip().lstrip("*") for name in line.split(":")[0].split(",")]
    return names


def test_documented_arguments_are_the_arguments():
    wrong = []
    for label, (function, docstring) in public_functions().items():
        documented = documented_arguments(docstring or "")
        if documented is not None:
            taken = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
            named = [p.name for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            if len(named) < len(taken):  # **kwargs: what the base class takes may be described, too
                documented = [name for name in documented if name in named]
            if documented != named:
                wrong.append(f"{label}: documents {documented}, takes {named}")
    assert not wrong, "\n".join(wrong)


def test_public_functions_are_documented():
    """Every public function has a docstring; those that fastmask itself exports describe each argument."""
    functions = public_functions()
    assert [label for label, (function, docstring) in functions.items() if not docstring and label.count(".") < 3] == []
    exported = [fm] + [getattr(fm, name) for name in ("masks", "datasets")]
    missing = []
    for module in exported:
        for name in dir(module):
            thing = getattr(module, name)
            if name.startswith("_") or not inspect.isfunction(thing) or not inspect.signature(thing).parameters:
                continue
            if documented_arguments(thing.__doc__ or "") is None:
                missing.append(f"{module.__name__}.{name}")
    assert missing == []


def test_numba_is_named_in_kernels_only():
    offenders = []
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] == "kernels":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("numba", "llvmlite") for name in names):
                offenders.append(str(path))
    assert offenders == []


def test_data_and_type_marker_are_packaged():
    assert (ROOT / "py.typed").is_file()
    assert (ROOT / "datasets" / "japanese_vowels.npz").is_file()
    assert "CC BY 4.0" in (ROOT / "datasets" / "JAPANESE_VOWELS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"fm": fm, "np": np}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_example_in_the_readme_runs():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    example = re.search(r"^## Example\n.*?^```python\n(.*?)^```", readme, re.M | re.S)[1]
    loss, accuracy = (float(number) for number in re.findall(r"\d+\.\d+(?:e-\d+)?", fresh_process(example)))
    assert 0 < loss < 1 and accuracy > 0.9
