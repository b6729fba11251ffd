"""Learning-rate schedules against live Keras (TensorFlow), which computes in float32."""

import os

import numpy as np
import pytest

from fastmask import schedules
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

CASES = [
    ("ExponentialDecay", (0.1, 7, 0.9), {}),
    ("ExponentialDecay", (0.1, 7, 0.9), {"staircase": True}),
    ("InverseTimeDecay", (0.1, 7, 0.5), {}),
    ("InverseTimeDecay", (0.1, 7, 0.5), {"staircase": True}),
    ("PiecewiseConstantDecay", ([3, 10, 11], [0.1, 0.05, 0.2, 0.01]), {}),
    ("PolynomialDecay", (0.1, 20), {}),
    ("PolynomialDecay", (0.1, 20, 0.01, 0.5), {}),
    ("PolynomialDecay", (0.1, 20, 0.01, 2.0, True), {}),
    ("CosineDecay", (0.1, 20), {"alpha": 0.1}),
    ("CosineDecay", (0.01, 20), {"warmup_target": 0.5, "warmup_steps": 5}),
    ("CosineDecayRestarts", (0.1, 8), {}),
    ("CosineDecayRestarts", (0.1, 8, 1.0, 0.5, 0.1), {}),
    ("CosineDecayRestarts", (0.1, 8, 1.5, 0.9, 0.05), {}),
]


@pytest.mark.parametrize("name, args, options", CASES)
def test_values(name, args, options):
    ours = getattr(schedules, name)(*args, **options)
    theirs = getattr(keras.optimizers.schedules, name)(*args, **options)
    assert ours.get_config() == theirs.get_config()
    steps = [*range(60), 100, 1000]
    got = np.array([ours(step) for step in steps])
    wanted = np.array([float(theirs(step)) for step in steps])
    assert_close(got, wanted, np.float32, k=64)
