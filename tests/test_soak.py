"""Short forms of the soak scripts about threads; `python tests/soak_threads.py --seconds 60` is the long one."""

import pytest

import fresh
import soak_threads
import test_bench
from fresh import run


@pytest.mark.parametrize("layer", soak_threads.LAYERS)
def test_eight_threads_do_everything(layer):
    found = soak_threads.run(layer, "pool", seconds=2)
    if found is None:
        pytest.skip(f"not exercised: numba's threading layer {layer} does not load here")
    least, wrong, errors = found
    assert errors == [] and wrong == {}
    assert least >= 2, "hardly anything was done"


def test_everything_is_everything():
    """Every public op is called by one of the jobs."""
    jobs = soak_threads.everything()
    called = test_bench.code_called_by(lambda: fresh.expected(jobs))
    missing = [name for owner, name in test_bench.OPS if test_bench.code_of(owner, name) not in called]
    assert missing == [], "add them to tests/op_cases.py, or to everything() in tests/soak_threads.py"


def test_throughput_of_eight_threads():
    """Within 1.3 of what processes that share nothing reach."""
    code = "import json, soak_threads; print(json.dumps(soak_threads.throughput(0.2, rounds=150)))"
    code = f"if __name__ == '__main__':\n    {code}"
    for size, (apart, together) in run(code).items():
        assert apart <= soak_threads.LIMIT * together, (size, apart, together)
