"""Set-up of all tests: where helpers.py is found, and at the end which optional packages were absent."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# package -> what is not tested without it
OPTIONAL = {
    "hypothesis": "property-based tests",
    "matplotlib": "the demo's picture",
    "tqdm": "the progress bar (one line an epoch is tested)",
    "joblib": "its threads and workers",
    "torch": "comparison with PyTorch",
    "keras": "comparison with Keras",
    "tensorflow": "comparison with Keras on TensorFlow",
    "onnxruntime": "comparison with onnxruntime",
}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form of tests that have one: docs/reliability.md")


def pytest_configure(config):
    """Property tests take the same cases at every run, few of them; with --long ever new ones, thousands."""
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import HealthCheck, settings

        common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
        settings.register_profile("short", max_examples=100, derandomize=True, **common)
        settings.register_profile("long", max_examples=1500, print_blob=True, **common)
        settings.load_profile("long" if config.getoption("--long") else "short")


def pytest_terminal_summary(terminalreporter):
    """Say what could not be tested here; the reason of each skipped test is in the summary above (-ra)."""
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    if not absent:
        return
    skipped = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.section("optional packages that are not installed")
    for name in absent:
        terminalreporter.line(f"{name}: not tested: {OPTIONAL[name]}")
    terminalreporter.line(f"{skipped} tests or files were skipped; the reasons stand above")


@pytest.fixture(scope="session")
def right():
    """Kernel name -> digest of what it computes (fresh.tiny), from a process that finds every kernel in the cache."""
    import fresh

    found, numba = fresh.run("import fresh; fresh.report()")
    assert not numba, "a warm process imported numba"
    return found
