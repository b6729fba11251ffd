"""Activations by name: which names there are, what they give, what is refused. The formulas are tested with the
kernels."""

import copy
import pickle

import numpy as np
import pytest

from fastmask import activations
from fastmask.ragged import Ragged
from fastmask.reference import activation as reference
from helpers import assert_close


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", activations.NAMES)
def test_every_name_is_the_references(name, dtype):
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype) * 3
    y = activations.get(name)(x)
    assert y.dtype == dtype and y.shape == x.shape
    assert_close(y, reference.activation_forward(x.astype("float64"), name), dtype, k=16)
    assert activations.name_of(name) == name and activations.get(name).__name__ == name


def test_forms_of_input():
    relu = activations.relu
    assert relu is activations.get("relu") is activations.get(relu)
    assert relu([-1, 2]).tolist() == [0, 2] and relu([-1, 2]).dtype == np.float32
    r = Ragged(np.float32([-1, 2, -3]), [0, 1, 3])
    np.testing.assert_array_equal(relu(r).values, [0, 2, 0])
    assert relu(r).offsets is r.offsets
    assert_close(activations.softmax(np.zeros((2, 4))).sum(axis=-1), np.ones(2))
    assert pickle.loads(pickle.dumps(relu)) is relu and copy.deepcopy(relu) is relu


def test_other_names():
    assert activations.name_of(None) == "linear" and activations.name_of("swish") == "silu"
    assert activations.swish is activations.silu
    assert "relu" in dir(activations)
    x = np.linspace(-4, 4, 9)
    assert not np.allclose(activations.get("hard_sigmoid")(x), activations.get("hard_sigmoid_v2")(x))


@pytest.mark.parametrize("bad", ["tahn", 3, np.tanh, "", ["relu"]])
def test_unknown(bad):
    with pytest.raises(ValueError, match="activation: expected one of linear, tanh"):
        activations.get(bad)


def test_softmax_is_not_for_recurrent_layers():
    with pytest.raises(ValueError, match="activation: expected one of .*received 'softmax'"):
        activations.name_of("softmax", elementwise=True)
    with pytest.raises(AttributeError):
        activations.tahn  # noqa: B018
