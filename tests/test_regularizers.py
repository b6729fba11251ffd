"""Regularizers: values worked out by hand, derivatives against differences, names and configurations."""

import copy
import pickle

import numpy as np
import pytest

from fastmask import regularizers
from fastmask.layers import Dense, Layer, deserialize, register_serializable, serialize
from fastmask.regularizers import L1, L1L2, L2, OrthogonalRegularizer, Regularizer
from helpers import assert_close, assert_doctests, assert_gradient

X = np.array([[1.0, -2.0], [0.0, 3.0], [-0.5, 0.25]])


@register_serializable("test")
class Quartic(Regularizer):
    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, x):
        return self.factor * float(np.sum(x**4))

    def gradient(self, x):
        return 4 * self.factor * x**3


def test_values():
    assert L1(2)(X) == 13.5 and L2(2)(X) == 2 * (14 + 0.3125) and L1L2(2, 1)(X) == 13.5 + 14.3125
    assert L1L2()(X) == 0 and not L1L2().gradient(X).any() and L1L2(l2=0.5)(X) == L2(0.5)(X)
    np.testing.assert_array_equal(L1(2).gradient(X), [[2, -2], [0, 2], [-2, 2]])  # 0 at 0, as in Keras
    np.testing.assert_array_equal(L2(2).gradient(X), 4 * X)
    np.testing.assert_array_equal(L1L2(2, 1).gradient(X), L1(2).gradient(X) + 2 * X)
    u = X / np.sqrt((X**2).sum(axis=1, keepdims=True))
    pairs = [abs(u[i] @ u[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert_close(OrthogonalRegularizer(0.5)(X), 0.5 * np.mean(pairs))
    assert_close(OrthogonalRegularizer(0.5, "columns")(X.T), 0.5 * np.mean(pairs))


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_orthogonal_edges(mode):
    regularizer = OrthogonalRegularizer(1.0, mode)
    orthogonal = np.diag([2.0, 3.0, 0.5])
    assert regularizer(orthogonal) == 0 and not regularizer.gradient(orthogonal).any()
    for shape in ((1, 1), (0, 0)):  # no pair
        assert regularizer(np.ones(shape)) == 0 and not regularizer.gradient(np.ones(shape)).any()
    x = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert np.isfinite(regularizer(x)) and np.isfinite(regularizer.gradient(x)).all()
    with pytest.raises(ValueError, match="expected a matrix for OrthogonalRegularizer, received shape"):
        regularizer(np.ones(3))


@pytest.mark.parametrize(
    "regularizer",
    [L1(0.3), L2(0.3), L1L2(0.1, 0.2), OrthogonalRegularizer(0.4), OrthogonalRegularizer(0.4, "columns"), Quartic(0.1)],
    ids=repr,
)
def test_gradient(regularizer):
    x = np.random.default_rng(0).standard_normal((4, 3))
    assert_gradient(lambda: regularizer(x), x, regularizer.gradient(x))
    x32 = x.astype(np.float32)
    assert regularizer.gradient(x32).dtype == np.float32 and type(regularizer(x32)) is float
    assert_close(regularizer.gradient(x32), regularizer.gradient(x32.astype(np.float64)), np.float32)


def test_gradient_of_vectors_too_short_to_be_normalised():
    """There u = x 1e7, which changes along x, too."""
    x = np.array([[2e-8, 1e-8], [1.0, 2.0]])
    regularizer = OrthogonalRegularizer(1.0)
    step = 1e-10
    for i, j in np.ndindex(2, 2):
        h = step if i == 0 else 1e-4
        e = np.zeros_like(x)
        e[i, j] = h
        wanted = (regularizer(x + e) - regularizer(x - e)) / (2 * h)
        assert abs(regularizer.gradient(x)[i, j] - wanted) < 1e-6 * max(1, abs(wanted))


# ---- by name --------------------------------------------------------------------------------------------------------
def test_names():
    assert regularizers.get(None) is None and regularizers.serialize(None) is None
    for name, cls in (("l1", L1), ("L2", L2), ("orthogonal_regularizer", OrthogonalRegularizer)):
        assert type(regularizers.get(name)) is cls
    assert regularizers.get("l1_l2").get_config() == {"l1": 0.01, "l2": 0.01}
    one = L2(0.5)
    assert regularizers.get(one) is one and type(regularizers.get(L1)) is L1
    assert (regularizers.l1, regularizers.l2, regularizers.l1_l2) == (L1, L2, L1L2)


@pytest.mark.parametrize(
    "regularizer", [L1(0.5), L2(None), L1L2(0.1), OrthogonalRegularizer(mode="columns"), Quartic(3)]
)
def test_config_round_trip(regularizer):
    again = regularizers.deserialize(regularizers.serialize(regularizer))
    assert type(again) is type(regularizer) and again.get_config() == regularizer.get_config()


def test_a_layer_keeps_them():
    layer = Dense(2, kernel_regularizer="l2", bias_regularizer=Quartic(2.0))
    layer.build((None, 3))
    assert layer.kernel.regularizer is layer.kernel_regularizer and layer.bias.regularizer.factor == 2.0
    again = deserialize(serialize(layer))
    assert type(again.kernel_regularizer) is L2 and type(again.bias_regularizer) is Quartic
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied.kernel.regularizer) is L2 and copied.bias.regularizer.factor == 2.0
    assert Dense(2).get_config()["kernel_regularizer"] is None
    assert type(Layer().add_weight((2,), regularizer="l1").regularizer) is L1


def test_examples_in_docstrings():
    assert_doctests(regularizers)


def test_the_base_has_neither_value_nor_gradient():
    with pytest.raises(NotImplementedError, match="Regularizer has no __call__"):
        Regularizer()(X)
    with pytest.raises(NotImplementedError, match="Regularizer has no gradient"):
        Regularizer().gradient(X)
