"""Constraints: values worked out by hand, names and configurations. Optimizers apply them: test_optimizers.py."""

import copy
import pickle

import numpy as np
import pytest

from fastmask import constraints
from fastmask.constraints import Constraint, MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from fastmask.layers import Dense, deserialize, register_serializable, serialize
from helpers import assert_close, assert_doctests

W = np.array([[3.0, 0.3, 0.0], [-4.0, 0.4, 0.0]])  # columns of norm 5, 0.5 and 0


@register_serializable("test")
class Halved(Constraint):
    def __call__(self, w):
        return w / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(dtype):
    w = W.astype(dtype)
    columns = np.array([5, 0.5, 0.0])
    for constraint, norms in (
        (MaxNorm(), [2, 0.5, 0]),
        (MaxNorm(0.1), [0.1, 0.1, 0]),
        (UnitNorm(), [1, 1, 0]),
        (MinMaxNorm(), [1, 0.5, 0]),
        (MinMaxNorm(0.75, 2), [2, 0.75, 0]),
        (MinMaxNorm(0.75, 2, rate=0.5), [3.5, 0.625, 0]),
        (MinMaxNorm(0.75, 2, rate=0), [5, 0.5, 0]),
    ):
        out = constraint(w)
        assert out.dtype == w.dtype
        assert_close(out, W * (np.array(norms) / (columns + 1e-7)), dtype)
    np.testing.assert_array_equal(NonNeg()(w), np.where(w > 0, w, 0))
    np.testing.assert_array_equal(w, W.astype(dtype))


def test_axes():
    w = np.random.default_rng(0).standard_normal((2, 3, 4))
    for axis in (1, -1, [0, 1], (0, 2)):
        out = UnitNorm(axis)(w)
        axes = axis if isinstance(axis, int) else tuple(axis)
        assert_close(np.sqrt((out**2).sum(axis=axes)), np.ones_like(out.sum(axis=axes)), atol=1e-6)
    assert UnitNorm((0, 2)).get_config() == {"axis": [0, 2]}


# ---- by name --------------------------------------------------------------------------------------------------------
def test_names():
    assert constraints.get(None) is None and constraints.serialize(None) is None
    named = {"max_norm": MaxNorm, "NonNeg": NonNeg, "non_neg": NonNeg, "unit_norm": UnitNorm, "MinMaxNorm": MinMaxNorm}
    for name, cls in named.items():
        assert type(constraints.get(name)) is cls
    assert constraints.get(np.abs) is np.abs and type(constraints.get(NonNeg)) is NonNeg
    assert constraints.max_norm is MaxNorm


@pytest.mark.parametrize(
    "constraint", [MaxNorm(3, [0, 1]), NonNeg(), UnitNorm(1), MinMaxNorm(0.1, 2, 0.5, 1), Halved()]
)
def test_config_round_trip(constraint):
    again = constraints.deserialize(constraints.serialize(constraint))
    assert type(again) is type(constraint) and again.get_config() == constraint.get_config()


def test_a_layer_keeps_them():
    layer = Dense(2, kernel_constraint="unit_norm", bias_constraint=Halved())
    layer.build((None, 3))
    assert layer.kernel.constraint is layer.kernel_constraint and type(layer.bias.constraint) is Halved
    again = deserialize(serialize(layer))
    assert type(again.kernel_constraint) is UnitNorm and type(again.bias_constraint) is Halved
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied.kernel.constraint) is UnitNorm and type(copied.bias.constraint) is Halved
    function = Dense(2, kernel_constraint=np.abs)
    with pytest.raises(ValueError, match="constraint: .*register_serializable, received absolute"):
        function.get_config()


def test_examples_in_docstrings():
    assert_doctests(constraints)


def test_the_base_has_no_call():
    with pytest.raises(NotImplementedError, match="Constraint has no __call__"):
        Constraint()(W)
