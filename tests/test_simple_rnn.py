"""SimpleRNN: everything in recurrent_tests.py, and one step by hand."""

import numpy as np

from recurrent_tests import RecurrentTests, assert_one_linear_step


class TestSimpleRNN(RecurrentTests):
    cell = "simple_rnn"

    def test_hand_computed(self):
        """Linear, two units: h = (2, 3) 5 + (1, 10) [[0 1] [1 0]] = (20, 16)."""
        kernel, recurrent = np.array([[2.0, 3.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
        h0, x = np.array([[1.0, 10.0]]), np.full((1, 1, 1), 5.0)
        assert_one_linear_step("simple_rnn", kernel, recurrent, h0, x, [[[20.0, 16.0]]])
