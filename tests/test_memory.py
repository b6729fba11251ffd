"""Memory: none is lost over many calls, and sizes that no machine has are refused before any work."""

import contextlib
import json
import re
import sys
import time

import numpy as np
import pytest

with contextlib.suppress(ImportError):  # not on Windows
    import resource
import fastmask as fm
from fastmask import layers
from fastmask.ops.attention import attention
from fastmask.ops.convolution import conv1d
from fastmask.ops.gemm import dense
from fresh import run

# ---- growth ---------------------------------------------------------------------------------------------------------


def test_no_growth_over_calls_of_changing_shapes():
    """`python tests/soak_memory.py --calls 100000` is the long form."""
    grown, objects = run("import soak_memory; soak_memory.report(calls=1500)", FASTMASK_NUM_THREADS="2")
    assert grown < 4 << 20, f"{grown} bytes in the last third"
    assert objects < 300, f"{objects} objects of Python in the last third"


def test_growth_is_noticed():
    code = """
    import json, numpy as np, soak_memory
    kept = []
    print(json.dumps(soak_memory.growth({"leak": lambda: kept.append([np.ones(5000), {}])}, 1000)))
    """
    grown, objects = run(code)
    assert grown > 4 << 20 and objects > 300


# ---- sizes that no machine has --------------------------------------------------------------------------------------
def virtual(*shape, dtype=np.float32):
    """An array that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def zeros(*shape):
    return np.zeros(shape, np.float32)


X, STEPS = zeros(2, 3), zeros(2, 3, 4)
ABSURD = {  # each wants 10^15 bytes and more
    "lstm": lambda: fm.lstm(virtual(10**6, 10**5, 10**4), virtual(10**4, 16), zeros(4, 16)),
    "lstm without features": lambda: fm.lstm(virtual(10**7, 10**7, 0), zeros(0, 16), zeros(4, 16)),
    "simple_rnn": lambda: fm.simple_rnn(zeros(1, 1, 0), virtual(0, 10**8), virtual(10**8, 10**8)),
    "dense": lambda: dense(virtual(10**9, 0), virtual(0, 10**6)),
    "dense of 2^63 bytes": lambda: dense(virtual(2**31, 0), virtual(0, 2**31)),
    "conv1d": lambda: conv1d(virtual(1000, 100, 0), virtual(1, 0, 10**10)),
    "attention": lambda: attention(zeros(1, 12_000_000, 0), zeros(1, 12_000_000, 0)),
    "masks.from_lengths": lambda: fm.masks.from_lengths([3] * 1000, maxlen=10**12),
    "masks.from_lengths of 2^63": lambda: fm.masks.from_lengths([3] * 1000, maxlen=2**62),
    "pad_sequences": lambda: fm.pad_sequences([[1]] * 1000, maxlen=10**12),
    "pad_sequences of 2^63": lambda: fm.pad_sequences([[1]] * 1000, maxlen=2**62),
    "Ragged.to_padded": lambda: fm.Ragged(virtual(10**5, 10**5), [0] * 10**5 + [10**5]).to_padded(),
    "Variable": lambda: fm.Variable(virtual(10**8, 10**8)),
    "loss": lambda: fm.losses.MeanSquaredError()(virtual(10**8, 10**8), virtual(10**8, 10**8)),
    "Dense": lambda: layers.Dense(10**15)(X),
    "Dense of 2^63": lambda: layers.Dense(2**62)(X),
    "SimpleRNN": lambda: layers.SimpleRNN(10**9)(STEPS),
    "GRU": lambda: layers.GRU(10**8)(STEPS),
    "LSTM": lambda: layers.LSTM(10**8)(STEPS),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(10**8))(STEPS),
    "Embedding": lambda: layers.Embedding(10**12, 1000)(np.zeros((2, 3), int)),
    "Conv1D": lambda: layers.Conv1D(10**14, 3)(STEPS),
    "BatchNormalization": lambda: layers.BatchNormalization()(virtual(10**13, 100), training=True),
    "RepeatVector": lambda: layers.RepeatVector(10**15)(X),
    "UpSampling1D": lambda: layers.UpSampling1D(10**15)(STEPS),
    "ZeroPadding1D": lambda: layers.ZeroPadding1D(10**15)(STEPS),
}


def try_absurd():
    """Print name -> [kind of error, message, seconds, bytes by which the most memory ever held grew]."""
    found = {}
    for name, call in ABSURD.items():
        before, started = peak(), time.perf_counter()
        try:
            call()
            error = None
        except Exception as e:
            error = e
        found[name] = type(error).__name__, str(error), time.perf_counter() - started, peak() - before
    print(json.dumps(found))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.fixture(scope="module")
def outcomes():
    pytest.importorskip("resource")
    return run("import test_memory; test_memory.try_absurd()")


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_before_any_work(name, outcomes):
    kind, message, seconds, taken = outcomes[name]
    assert kind == "MemoryError", message
    assert re.search(r"received shape .*: \d{15,} bytes|Unable to allocate .*[PTE]iB for an array with shape", message)
    allowed = 1024 if name == "attention" else 64  # MB; the lists of its valid steps
    assert taken < allowed << 20 and seconds < 5, f"{taken} bytes were taken, {seconds:.1f} s"
