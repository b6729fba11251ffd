"""GRU in both forms: everything in recurrent_tests.py, one step by hand, and the classic example."""

import numpy as np
import pytest

import fastmask as fm
from helpers import assert_close
from recurrent_tests import RecurrentTests, assert_one_linear_step


class TestGRU(RecurrentTests):
    cell = "gru"

    def test_hand_computed(self):
        """Linear, x = 1, h0 = 1, kernel 2 3 5, recurrent kernel 0 0 7: z = 2, r = 3, g = 5 + 3*7 = 26, h = 2 - 26."""
        kernel, recurrent = np.array([[2.0, 3.0, 5.0]]), np.array([[0.0, 0.0, 7.0]])
        assert_one_linear_step("gru", kernel, recurrent, np.ones((1, 1)), np.ones((1, 1, 1)), [[[-24.0]]])


class TestGRUResetBefore(RecurrentTests):
    cell = "gru_before"

    def test_hand_computed(self):
        """Linear, two units, x = 1, h0 = (1, 2), recurrent kernel of the candidate [[0 1] [1 0]], r = 3 and 10.

        z = 2;  g = (10*2, 3*1) + 5 = (25, 8);  h = 2 h0 - g = (-23, -4): the reset comes before the product.
        """
        kernel = np.array([[2.0, 2.0, 3.0, 10.0, 5.0, 5.0]])
        recurrent = np.zeros((2, 6))
        recurrent[0, 5] = recurrent[1, 4] = 1.0
        h0, x = np.array([[1.0, 2.0]]), np.ones((1, 1, 1))
        assert_one_linear_step("gru_before", kernel, recurrent, h0, x, [[[-23.0, -4.0]]])


CLASSIC = [
    [[1, 1], [2, 2], [1, 1], [0.37, 0.37], [0.37, 0.37]],
    [[0.37, 0.37], [1, 1], [2, 2], [1, 1], [0.37, 0.37]],
]
UNMASKED = [[-6, -50, -156, -272.7276, -475.83362], [-1.2876, -9.862801, -69.314, -213.94202, -373.54672]]
MASKED = [[-6, -50, -156, -156, -156], [0, -6, -50, -156, -156]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_classic_example(dtype):
    """Keras' well-known masking example, number for number."""
    x = np.array(CLASSIC, dtype)
    weights = [np.ones((2, 3), dtype), np.zeros((1, 3), dtype), np.ones(3, dtype)]
    linear = {"activation": None, "recurrent_activation": None, "reset_after": False}
    printed = 1e-4 if dtype == np.float64 else 0.0  # the numbers were printed by a float32 computation
    assert_close(fm.gru(x, *weights, **linear).outputs[..., 0], UNMASKED, dtype, k=4, atol=printed)
    mask = fm.masks.from_values(x, 0.37)
    np.testing.assert_array_equal(fm.gru(x, *weights, mask=mask, **linear).outputs[..., 0], MASKED)
    # Keras 3's default form puts ones into the recurrent bias too
    both = [np.ones((2, 3), dtype), np.zeros((1, 3), dtype), np.ones((2, 3), dtype)]
    linear["reset_after"] = True
    expected = [-21, -181, -745, -2049.1, -5622.3]
    np.testing.assert_allclose(fm.gru(x, *both, **linear).outputs[0, :, 0], expected, rtol=1e-5)  # five digits


def test_classic_example_as_a_model():
    """The same through Masking and GRU layers; the masked input is zero at masked steps."""
    x = np.array(CLASSIC, np.float32)
    masked = fm.layers.Masking(0.37)(x)
    keep = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    np.testing.assert_array_equal(np.asarray(masked), np.where(keep[..., None], x, 0))
    options = {
        "activation": None,
        "recurrent_activation": None,
        "kernel_initializer": "ones",
        "recurrent_initializer": "zeros",
        "bias_initializer": "ones",
        "reset_after": False,
        "return_sequences": True,
    }
    for steps, expected in (([], UNMASKED), ([fm.layers.Masking(0.37)], MASKED)):
        model = fm.Sequential([fm.Input((5, 2)), *steps, fm.layers.GRU(1, **options)])
        assert_close(np.asarray(model(x))[..., 0], expected, np.float32, k=4)
        assert_close(np.asarray(model.predict(x))[..., 0], expected, np.float32, k=4)
