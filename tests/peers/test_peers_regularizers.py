"""Regularizers (with their gradients) and constraints against live Keras (TensorFlow)."""

import os

import numpy as np
import pytest

from fastmask import constraints, regularizers
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

# factors are exact in float32, to which Keras rounds some of them
REGULARIZERS = [
    ("L1", {"l1": 0.25}),
    ("L2", {"l2": 0.5}),
    ("L1L2", {"l1": 0.5, "l2": 0.125}),
    ("OrthogonalRegularizer", {"factor": 0.5}),
    ("OrthogonalRegularizer", {"factor": 0.5, "mode": "columns"}),
]
CONSTRAINTS = [
    ("MaxNorm", {}),
    ("MaxNorm", {"max_value": 1.5, "axis": 1}),
    ("MaxNorm", {"max_value": 1.5, "axis": [0, 1]}),
    ("NonNeg", {}),
    ("UnitNorm", {}),
    ("UnitNorm", {"axis": [0, 1]}),
    ("MinMaxNorm", {}),
    ("MinMaxNorm", {"min_value": 1.0, "max_value": 2.0, "rate": 0.25, "axis": 1}),
]


def matrix():
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    x[1, 2] = 0
    return x


@pytest.mark.parametrize("name, options", REGULARIZERS)
def test_regularizer(name, options):
    x = matrix()
    theirs = getattr(keras.regularizers, name)(**options)
    ours = getattr(regularizers, name)(**options)
    with tf.GradientTape() as tape:
        v = tf.constant(x)
        tape.watch(v)
        penalty = theirs(v)
    assert_close(ours(x), penalty.numpy(), np.float32)
    assert_close(ours.gradient(x), tape.gradient(penalty, v).numpy(), np.float32)
    assert getattr(regularizers, name)().get_config() == pytest.approx(getattr(keras.regularizers, name)().get_config())


@pytest.mark.parametrize("name, options", CONSTRAINTS)
def test_constraint(name, options):
    x = matrix()
    assert_close(
        getattr(constraints, name)(**options)(x), getattr(keras.constraints, name)(**options)(x).numpy(), np.float32
    )
    assert getattr(constraints, name)().get_config() == getattr(keras.constraints, name)().get_config()
