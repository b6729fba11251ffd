"""Cells: what a recurrent layer does at one step. The base of one's own, the built-in ones, and stacks of them."""

import copy

import numpy as np

from fastmask.layers.base import Layer
from fastmask.layers.recurrent import GRU, LSTM, SimpleRNN
from fastmask.layers.registry import deserialize, register_serializable, serialize
from fastmask.ops import user_cell as ops
from fastmask.ops.mask import check_count


class Cell(Layer):
    """One step of a recurrent layer, `cell(x, states)` -> (output, new_states): the base of a cell of one's own.

    Attributes
    ----------
    state_size : int or list of int
        How many numbers each state has.
    output_size : int, optional
        How many the output has; by default as many as the first state.
    step, step_backward : functions made with numba.njit, optional
        With them the cell runs compiled, inside the library's own loop.
    saved_size : int
        How many numbers `step` keeps for `step_backward`.

    Notes
    -----
    A cell sets its sizes in ``__init__``, after ``super().__init__(**kwargs)``, and makes its weights in
    ``build(input_shape)``, where input_shape is (None, F). What it does at a step is written in one of two ways.

    In Python: ``call(inputs, states)`` takes inputs (n,F) and a list of states (n,S), those of the n rows that have a
    step left, and returns (output, new_states). To be trained it has ``backward(grad)``, which takes (d_output,
    d_new_states) and returns (d_inputs, d_states); as in any layer it may read what `call` put into ``self.saved`` and
    hands weight gradients to ``self.add_gradient``. One state may come without a list around it.

    Compiled: functions of one step of one row, which numba compiles and the library's loop calls::

        step(x, state, weights, output, new_state, saved)
        step_backward(x, state, weights, saved, d_output, d_new_state, d_x, d_state, d_weights)

    `weights` is a tuple of the weights in the order in which `build` added them, and `d_weights` is alike. All others
    are 1-D arrays; several states lie one behind the other. What is written, the last three of each, comes in as zeros,
    but for `d_weights`: it holds the sum over the steps so far, to be added to. They return nothing. Rows run in
    parallel. An exception raised inside ends the call and is raised from it.

    The file docs/custom_cells.md has a worked example.
    """

    state_size = output_size = step = step_backward = None
    saved_size = 0
    _packed = None, None  # versions of the weights, and the copy of them that the loop reads
    _features = None  # F, once built

    def _build_shape(self, shape):
        self._check_features(shape[-1])
        super()._build_shape(shape)
        self._features = shape[-1]

    def _check_features(self, F):
        """A cell may be shared; and compiled functions trust that x fits the weights."""
        if self._features not in (None, F):
            raise ValueError(f"{self.name}: inputs: expected {self._features} features, received {F}")

    def get_initial_state(self, batch_size):
        """Zeros: a list of (batch_size,S), one for each state."""
        batch_size = check_count(batch_size, "batch_size")
        return [np.zeros((batch_size, n), self._dtype) for n in state_sizes(self)]

    # ---- compiled cells: one step by hand, and what RNN needs for many ----------------------------------------------
    def call(self, inputs, states, training=False):
        if self.step is None:
            raise NotImplementedError(f"{type(self).__name__} has no call(inputs, states) and no step")
        several = isinstance(states, (list, tuple))
        result, tape = self._forward(inputs[:, None], training, initial_state=states, return_sequences=False)
        if training:
            self.saved = tape
        return result.outputs, list(result.states) if several else result.states[0]

    def backward(self, grad):
        if self.step is None:
            return super().backward(grad)
        d_output, d_states = grad
        g = self._backward(self.saved, d_output, d_states)
        return g.x[:, 0], list(g.initial_state) if isinstance(d_states, (list, tuple)) else g.initial_state[0]

    def _compile(self):
        """Have numba compile `step` for the weights, so that what is wrong with it shows before the first call."""
        self._functions().address("step", self._weights_packed(), self._dtype)

    def _weights_packed(self):
        versions = tuple(w.version for w in self._own_weights)
        cached, packed = self._packed
        if cached != versions:
            packed = ops.user_cell_pack([w.value for w in self._own_weights])
            self._packed = versions, packed
        return packed

    def _forward(self, x, training, **options):
        """(Result, Tape or None) of ops.user_cell for x (B,T,F) or Ragged."""
        self._check_features(x.shape[-1])
        self._features = x.shape[-1]
        options["packed"] = self._weights_packed()
        if training:
            return ops.user_cell_forward(x, None, self._functions(), **options)
        return ops.user_cell(x, None, self._functions(), **options), None

    def _backward(self, tape, d_outputs, d_states, need_x=True):
        """Gradients of ops.user_cell_backward; the weights' are added to those of the weights."""
        if self.step_backward is None:
            raise NotImplementedError(
                f"{self.name}: {type(self).__name__} has no step_backward, so it works for inference only; give it one "
                "to train through it"
            )
        g = ops.user_cell_backward(tape, d_outputs, d_states, need_x=need_x)
        for weight, gradient in zip(self._own_weights, g.weights, strict=True):
            self.add_gradient(weight, gradient)
        return g

    def _functions(self):
        # a numba function that stands in a class body becomes a method, as any function does
        step, step_backward = (getattr(f, "__func__", f) for f in (self.step, self.step_backward))
        return ops.UserCell(step, step_backward, state_sizes(self), output_size(self), self.saved_size)


def state_sizes(cell):
    """The sizes of a cell's states, as a tuple; of a stack a tuple of such tuples."""
    sizes = getattr(cell, "state_size", None)
    if isinstance(cell, StackedRNNCells):
        return tuple(map(state_sizes, cell.cells))
    sizes = tuple(sizes) if isinstance(sizes, (list, tuple)) else (sizes,)
    if not sizes or any(not _is_size(n) for n in sizes):
        raise ValueError(
            f"cell: expected {cell.name}.state_size to be a whole number or a list of them, received "
            f"{getattr(cell, 'state_size', None)!r}"
        )
    return sizes


def output_size(cell):
    """How many numbers a cell's output has."""
    size = getattr(cell, "output_size", None)
    size = state_sizes(cell)[0] if size is None else size
    if not _is_size(size):
        raise ValueError(f"cell: expected {cell.name}.output_size to be a whole number, received {size!r}")
    return size


def _is_size(n):
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1


# ---- built-in cells --------------------------------------------------------------------------------------------------
OF_SEQUENCES = (
    *("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask"),
    *("use_cudnn", "activity_regularizer"),
)  # arguments of the layers that cells do not have


class BuiltInCell(Cell):
    """One step of SimpleRNN, GRU or LSTM. The layer itself is inside: it has the weights, and takes the step."""

    _layer_class = None

    def __init__(self, units, *args, name=None, dtype="float32", trainable=True, **kwargs):
        for argument in OF_SEQUENCES:
            if argument in kwargs:
                raise TypeError(f"{type(self).__name__}: unknown argument {argument!r}")
        super().__init__(name=name, dtype=dtype)
        self._layer = self._layer_class(units, *args, name=self.name, dtype=dtype, return_state=True, **kwargs)
        self.trainable = trainable
        self.units = self.output_size = self._layer.units
        n = self._layer.states
        self.state_size = self.units if n == 1 else [self.units] * n

    kernel = property(lambda self: self._layer.kernel)
    recurrent_kernel = property(lambda self: self._layer.recurrent_kernel)
    bias = property(lambda self: self._layer.bias)

    def build(self, input_shape):
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(f"{self.name}: inputs: expected shape (B,F) with a known F, received {input_shape}")
        self._layer.build((None, None, input_shape[-1]))

    def call(self, inputs, states, training=False):
        (output, *new_states), _ = self._layer._run(inputs[:, None], None, training, (), {"initial_state": states})
        return output, new_states if isinstance(states, (list, tuple)) else new_states[0]

    def backward(self, grad):
        d_output, d_states = grad
        several = isinstance(d_states, (list, tuple))
        d_inputs = self._layer.backward((d_output, *(d_states if several else [d_states])))
        d_states = self._layer.initial_state_gradients
        return d_inputs[:, 0], list(d_states) if several else d_states[0]

    def sequence_layer(self):
        """A layer of the same weights, whose options (return_sequences …) may be set."""
        return copy.copy(self._layer)

    def get_config(self):
        config = {**self._layer.get_config(), **super().get_config()}
        return {key: value for key, value in config.items() if key not in OF_SEQUENCES}


@register_serializable(package=None)
class SimpleRNNCell(BuiltInCell):
    """One step of SimpleRNN, for RNN and StackedRNNCells; x (B,F), [h] -> h, [h].

    Its arguments and weights are SimpleRNN's, without those arguments that concern sequences. RNN takes it through the
    same kernels as SimpleRNN, so the bits are the same.

    Examples
    --------
    >>> layer = fm.layers.RNN(fm.layers.SimpleRNNCell(4), return_sequences=True)
    >>> layer(np.ones((2, 3, 5))).shape
    (2, 3, 4)
    """

    _layer_class = SimpleRNN


@register_serializable(package=None)
class GRUCell(BuiltInCell):
    """One step of GRU, for RNN and StackedRNNCells; x (B,F), [h] -> h, [h].

    Its arguments and weights are GRU's, without those arguments that concern sequences. RNN takes it through the same
    kernels as GRU, so the bits are the same.
    """

    _layer_class = GRU


@register_serializable(package=None)
class LSTMCell(BuiltInCell):
    """One step of LSTM, for RNN and StackedRNNCells; x (B,F), [h, c] -> h, [h, c].

    Its arguments and weights are LSTM's, without those arguments that concern sequences. RNN takes it through the same
    kernels as LSTM, so the bits are the same.
    """

    _layer_class = LSTM


# ---- stacks ----------------------------------------------------------------------------------------------------------
@register_serializable(package=None)
class StackedRNNCells(Cell):
    """Cells one on top of the other: each takes the output of the one below. RNN makes one of a list of cells.

    Parameters
    ----------
    cells : list of cells

    Notes
    -----
    States are a list with one entry for each cell, a list of its states; state_size is alike. RNN takes the cells one
    after the other, each over all steps: the numbers are the same, and built-in cells take the fast kernels.
    """

    def __init__(self, cells, **kwargs):
        if not isinstance(cells, (list, tuple)) or not cells:
            raise ValueError(f"cells: expected a list of cells, received {cells!r}")
        cells = [as_cell(cell) for cell in cells]
        if any(isinstance(cell, StackedRNNCells) for cell in cells):
            raise ValueError("cells: expected a flat list, received StackedRNNCells inside it")
        if len({id(cell) for cell in cells}) < len(cells):
            raise ValueError("cells: expected different cells, received one twice")
        kwargs.setdefault("dtype", cells[0].dtype)
        super().__init__(**kwargs)
        for cell in cells:
            if cell.dtype != self.dtype:
                raise ValueError(f"cells: expected the dtype {self.dtype}, received {cell.name} of {cell.dtype}")
        self.cells = cells
        self.state_size = [cell.state_size for cell in cells]
        self.output_size = output_size(cells[-1])

    def build(self, input_shape):
        for cell in self.cells:
            cell._build_shape(input_shape)
            input_shape = (input_shape[0], output_size(cell))

    def get_initial_state(self, batch_size):
        return [starting_states(cell, batch_size) for cell in self.cells]

    def call(self, inputs, states, training=False):
        if not isinstance(states, (list, tuple)) or len(states) != len(self.cells):
            raise ValueError(f"{self.name}: states: expected a list with an entry for each of {len(self.cells)} cells")
        new_states = []
        for cell, state in zip(self.cells, states, strict=True):
            inputs, state = cell(inputs, state, training=training)
            new_states.append(state)
        return inputs, new_states

    def backward(self, grad):
        grad, d_states = grad
        d_initial = []
        for cell, d_state in zip(self.cells[::-1], d_states[::-1], strict=True):
            grad, d_state = cell.backward((grad, d_state))
            d_initial.insert(0, d_state)
        return grad, d_initial

    def get_config(self):
        return {**super().get_config(), "cells": [serialize(cell) for cell in self.cells]}


def as_cell(cell):
    """A cell, or that of a configuration; TypeError or ValueError if it is none."""
    cell = deserialize(cell) if isinstance(cell, dict) else cell
    if not isinstance(cell, Layer):
        raise TypeError(f"cell: expected a layer with state_size and call(inputs, states), received {cell!r}")
    state_sizes(cell), output_size(cell)
    saved_size = getattr(cell, "saved_size", 0)
    if saved_size != 0 and not _is_size(saved_size):
        raise ValueError(f"cell: expected {cell.name}.saved_size to be a whole number, received {saved_size!r}")
    return cell


def starting_states(cell, batch_size):
    """What a cell starts from: a list of (batch_size,S)."""
    if not hasattr(cell, "get_initial_state"):
        return Cell.get_initial_state(cell, batch_size)
    states = cell.get_initial_state(batch_size)
    return list(states) if isinstance(states, (list, tuple)) else [states]
