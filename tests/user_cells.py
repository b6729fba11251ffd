"""Cells of one's own for test_user_cell.py and test_rnn.py: as functions, compiled and in Python."""

import math

import numpy as np
from numba import njit

from fastmask.layers import Cell


# ---- functions of one step of one row -------------------------------------------------------------------------------
def mix_step(x, state, weights, output, new_state, saved):
    """new_state = tanh(x W + gain * state + b); output = new_state U. Weights of rank 2, 1, 0 and 2."""
    W, b, gain, U = weights
    for j in range(state.size):
        a = b[j] + gain[()] * state[j]
        for k in range(x.size):
            a += x[k] * W[k, j]
        new_state[j] = math.tanh(a)
        saved[j] = new_state[j]
    for j in range(state.size):
        for i in range(output.size):
            output[i] += new_state[j] * U[j, i]


def mix_step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights):
    W, b, gain, U = weights
    dW, db, d_gain, dU = d_weights
    for j in range(state.size):
        d = d_new_state[j]
        for i in range(d_output.size):
            d += d_output[i] * U[j, i]
            dU[j, i] += d_output[i] * saved[j]
        da = d * (1 - saved[j] * saved[j])  # new_state = tanh(a)
        db[j] += da
        d_gain[()] += da * state[j]
        d_state[j] = da * gain[()]
        for k in range(x.size):
            dW[k, j] += da * x[k]
            d_x[k] += da * W[k, j]


def sum_step(x, state, weights, output, new_state, saved):
    """No weights: the running sum of x, and its double as output."""
    for j in range(x.size):
        new_state[j] = state[j] + x[j]
        output[j] = 2 * new_state[j]


def sum_step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights):
    for j in range(x.size):
        d_x[j] = d_state[j] = d_new_state[j] + 2 * d_output[j]


compiled = {f.__name__: njit(f) for f in (mix_step, mix_step_backward, sum_step, sum_step_backward)}


class MixCell(Cell):
    """Two states of different size, which lie one behind the other in `state`."""

    step = compiled["mix_step"]
    step_backward = staticmethod(compiled["mix_step_backward"])

    def __init__(self, sizes=(2, 3), units=2, **kwargs):
        super().__init__(**kwargs)
        self.state_size, self.output_size, self.saved_size = list(sizes), units, sum(sizes)

    def build(self, input_shape):
        S = self.saved_size
        self.kernel = self.add_weight((input_shape[-1], S), name="kernel")
        self.bias = self.add_weight((S,), "random_normal", name="bias")
        self.gain = self.add_weight((), "random_normal", name="gain")
        self.projection = self.add_weight((S, self.output_size), name="projection")

    def get_config(self):
        return {**super().get_config(), "sizes": self.state_size, "units": self.output_size}


# ---- in Python ------------------------------------------------------------------------------------------------------
class PythonMixCell(MixCell):
    """The same cell in NumPy, over rows."""

    step = step_backward = None

    def call(self, inputs, states):
        state = np.concatenate(states, axis=1)
        new_state = np.tanh(inputs @ self.kernel.value + self.gain.value * state + self.bias.value)
        self.saved = inputs, state, new_state
        return new_state @ self.projection.value, np.split(new_state, [self.state_size[0]], axis=1)

    def backward(self, grad):
        d_output, d_states = grad
        x, state, new_state = self.saved
        self.add_gradient(self.projection, new_state.T @ d_output)
        d = np.concatenate(d_states, axis=1) + d_output @ self.projection.value.T
        da = d * (1 - new_state**2)
        self.add_gradient(self.kernel, x.T @ da)
        self.add_gradient(self.bias, da.sum(axis=0))
        self.add_gradient(self.gain, np.sum(da * state))
        return da @ self.kernel.value.T, np.split(da * self.gain.value, [self.state_size[0]], axis=1)


class PythonSumCell(Cell):
    """One state, without a list around it, no weights, and no backward."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units

    def call(self, inputs, states):
        (state,) = states
        return 2 * (state + inputs), state + inputs
