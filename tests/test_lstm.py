"""LSTM: everything in recurrent_tests.py, and one step by hand."""

import numpy as np

from recurrent_tests import RecurrentTests, assert_one_linear_step


class TestLSTM(RecurrentTests):
    cell = "lstm"

    def test_hand_computed(self):
        """Everything linear, blocks i f c o with kernel 1 2 3 4 and recurrent kernel 0 0 0 5, x = 3, h0 = 1, c0 = 2.

        i = 3, f = 6, g = 9, o = 12 + 5 = 17;  c = 6*2 + 3*9 = 39;  h = 17*39 = 663
        """
        kernel, recurrent = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.0, 0.0, 0.0, 5.0]])
        states = (np.array([[1.0]]), np.array([[2.0]]))
        assert_one_linear_step("lstm", kernel, recurrent, states, np.full((1, 1, 1), 3.0), [[[663.0]]])
