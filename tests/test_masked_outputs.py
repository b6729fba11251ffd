"""Arrays that carry a mask: what keeps it, and what NumPy makes of them."""

import copy
import pickle

import numpy as np
import pytest

from fastmask.layers import Dense, Masking
from fastmask.layers.masked import MaskedOutput, MaskedRagged
from fastmask.ragged import Ragged

MASK = np.array([[True, False], [True, True]])


def masked():
    return Masking()(np.where(MASK[..., None], 2.0, 0.0))


def test_copies_keep_the_mask():
    for copied in (copy.copy, copy.deepcopy, lambda y: pickle.loads(pickle.dumps(y))):
        y = copied(masked())
        assert type(y) is MaskedOutput
        np.testing.assert_array_equal(y.mask, MASK)
        r = copied(Masking()(Ragged(np.array([[1.0], [0.0], [3.0]]), [0, 2, 3])))
        assert type(r) is MaskedRagged and r.mask.tolist() == [True, False, True]
    y, other = masked(), copy.deepcopy(masked())
    other.mask[0, 0] = False
    assert y.mask[0, 0]


def test_whatever_numpy_makes_is_plain():
    y = masked()
    made = [y + 1, y[:, 1:], y.reshape(4), np.exp(y), np.stack([y, y]), y.T, y.copy(), y.sum(), next(iter(y)), -y]
    made.append(np.add(y, 1, out=y))
    assert not any(isinstance(a, MaskedOutput) for a in made)
    assert type(np.asarray(masked())) is np.ndarray


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (Ragged(np.array([True, False, True]), [0, 1, 3]), ValueError, "mask: expected the row lengths of the inputs"),
        ([True, False], ValueError, r"mask: expected shape \(3,\), received \(2,\)"),
    ],
)
def test_masks_that_do_not_fit_a_ragged(mask, error, message):
    with pytest.raises(error, match=message):
        Dense(2)(Ragged(np.zeros((3, 1)), [0, 2, 3]), mask=mask)


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (Ragged(np.array([True, False, True]), [0, 1, 3]), TypeError, "mask: expected an array, .* received a Ragged"),
        ([[True, False], [True]], ValueError, "mask: expected an array: "),
        (np.ones((3, 2)), ValueError, r"mask: expected shape \(B,T\) = \(2,2\), received \(3, 2\)"),
    ],
)
def test_masks_that_do_not_fit_an_array(mask, error, message):
    with pytest.raises(error, match=message):
        Dense(2)(np.zeros((2, 2, 1)), mask=mask)
