"""RNN: any cell over the steps of a sequence."""

import numpy as np

from fastmask.layers.calls import stack
from fastmask.layers.cells import (
    BuiltInCell,
    Cell,
    StackedRNNCells,
    as_cell,
    output_size,
    starting_states,
    state_sizes,
)
from fastmask.layers.masked import plain
from fastmask.layers.registry import register_serializable, serialize
from fastmask.layers.sequence_layer import SequenceLayer
from fastmask.layers.streams import hold_over, last_outputs, rows_with_steps
from fastmask.ops._sequence import Sequence, check_states, given_state_gradients


@register_serializable(package=None)
class RNN(SequenceLayer):
    """A recurrent layer made of a cell, masked. (B,T,F) -> (B,T,H) with return_sequences, else (B,H); Ragged -> Ragged
    or (B,H).

    Parameters
    ----------
    cell : cell or list of cells
        SimpleRNNCell, GRUCell, LSTMCell, one of your own (see Cell), or any other layer with `state_size` and
        ``call(inputs, states)``. A list is stacked: StackedRNNCells.
    return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask
        As SimpleRNN's.

    Notes
    -----
    A built-in cell gives the bits of the layer of that name and takes its kernels. A cell with compiled functions runs
    in a compiled loop, in parallel over the rows. A cell in Python is called once for each step, with those rows that
    have a valid step left, the longest first. In each case only valid steps are computed.

    With return_state: (outputs, *states), and initial_state= is the list of these; of stacked cells each entry is a
    list of the states of one cell.

    Examples
    --------
    >>> layer = fm.layers.RNN([fm.layers.LSTMCell(3), fm.layers.GRUCell(4)], return_state=True)
    >>> outputs, lstm_states, gru_states = layer(np.ones((2, 5, 6)))
    >>> outputs.shape, [s.shape for s in lstm_states], [s.shape for s in gru_states]
    ((2, 4), [(2, 3), (2, 3)], [(2, 4)])
    """

    streams = True

    def __init__(
        self,
        cell,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=False,
        **kwargs,
    ):
        cell = StackedRNNCells(cell) if isinstance(cell, (list, tuple)) else as_cell(cell)
        kwargs.setdefault("dtype", cell.dtype)
        super().__init__(return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask, **kwargs)
        if cell.dtype != self.dtype:
            raise ValueError(f"cell: expected the dtype {self.dtype} of the layer, received {cell.dtype}")
        self.cell = cell
        self.units = output_size(cell)
        self._loops = []  # how each cell is taken over the steps

    @property
    def _is_stacked(self):
        return isinstance(self.cell, StackedRNNCells)

    @property
    def _cells(self):
        return self.cell.cells if self._is_stacked else [self.cell]

    @property
    def states(self):
        """Number of entries that the states have."""
        return len(state_sizes(self.cell))

    def build(self, input_shape):
        F = self._set_input_shape(input_shape)
        self.cell._build_shape((input_shape[0], F))
        self._loops = [_loop(cell) for cell in self._cells]

    def get_initial_state(self, batch_size):
        """What the cell starts from, as `initial_state` takes it."""
        return starting_states(self.cell, batch_size)

    # ---- forward ----------------------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False, initial_state=None, restore_order=False):
        """Outputs, or with return_state (outputs, *states).

        restore_order: with go_backwards the outputs stand where their inputs stand; for Bidirectional.
        """
        self.check_input_shape(inputs.shape)
        B, is_given = len(inputs), initial_state is not None
        states = self._as_states(initial_state) if is_given else [self._own_start(cell, B) for cell in self._cells]
        if self.stateful:
            carried = self._carry_on(B)
            states = states if is_given or carried is None else list(carried)
        outputs, states, tapes = self._over_steps(inputs, mask, training, states, restore_order)
        if training:
            self.saved = tapes, is_given
        if self.stateful:
            self._leave(B, _copied(states))
        return self._with_states(outputs, states)

    def _over_steps(self, x, mask, training, states, restore_order=False):
        """(outputs, states, tapes) of the cells, one after the other over all steps, from these states."""
        top, after, tapes = len(self._loops) - 1, [], []
        for i, loop in enumerate(self._loops):
            options = {
                "go_backwards": self.go_backwards,
                "return_sequences": self.return_sequences or i < top,
                "zero_output_for_mask": self.zero_output_for_mask or i < top,
                "restore_order": restore_order or i < top,
            }
            x, state, tape = loop.forward(x, mask, training, states[i], options)
            after.append(state)
            tapes.append(tape)
        return x, after, tapes

    def _with_states(self, outputs, states):
        if not self.return_state:
            return outputs
        return outputs, *(map(list, states) if self._is_stacked else states[0])

    def _as_states(self, initial_state):
        """For each cell what `_as_state` gives."""
        cells = self._cells
        if not self._is_stacked:
            initial_state = [initial_state]
        elif not isinstance(initial_state, (list, tuple)) or len(initial_state) != len(cells):
            received = len(initial_state) if isinstance(initial_state, (list, tuple)) else type(initial_state).__name__
            raise ValueError(
                f"{self.name}: initial_state: expected a list with an entry for each of {len(cells)} cells, received "
                f"{received}"
            )
        return [self._as_state(cell, state) for cell, state in zip(cells, initial_state, strict=True)]

    def _as_state(self, cell, state):
        """The states of one cell as a tuple of arrays, in which None stands for zeros."""
        state = state if isinstance(state, (list, tuple)) else (state,)
        if len(state) != len(state_sizes(cell)):
            raise ValueError(
                f"{self.name}: initial_state: expected {len(state_sizes(cell))} arrays for {cell.name}, received "
                f"{len(state)}"
            )
        return tuple(None if s is None else np.ascontiguousarray(plain(s), self._dtype) for s in state)

    def _own_start(self, cell, B):
        """What a cell starts from if it is told nothing; None for zeros."""
        own = getattr(type(cell), "get_initial_state", None)
        return None if own in (None, Cell.get_initial_state) else self._as_state(cell, starting_states(cell, B))

    # ---- in a stream ------------------------------------------------------------------------------------------------
    def start_stream(self, batch_size, input_shape, arrival):
        outputs, _ = super().start_stream(batch_size, input_shape, arrival)
        states = [tuple(np.asarray(s, self._dtype) for s in starting_states(c, batch_size)) for c in self._cells]
        return outputs, (states, np.zeros((batch_size, self.units), self._dtype))

    def stream_call(self, inputs, mask, state):
        """As `call`, from the states before; the output before is remembered, too."""
        self.check_input_shape(inputs.shape)
        states, before = state
        outputs, states, _ = self._over_steps(inputs, mask, False, states)
        if not self.return_sequences:
            before = np.where(rows_with_steps(inputs, mask)[:, None], outputs, before)
            outputs = before.copy()
        elif not self.zero_output_for_mask:  # else no output is held
            outputs = outputs if mask is None else hold_over(outputs, mask, before)
            before = last_outputs(outputs, before)
        mask = None if mask is None else self.compute_mask(inputs, mask)
        return self._with_states(outputs, _copied(states)), mask, (states, before)

    # ---- backward ---------------------------------------------------------------------------------------------------
    def backward(self, grad):
        """grad: as the outputs, None where nothing arrives."""
        call = self._current_call()
        tapes, is_given = call.saved
        grad, d_states = self._split_gradient(grad)
        d_states = d_states if self._is_stacked else [d_states]
        d_initial = []
        for i in reversed(range(len(tapes))):
            need_x = call.need_x or i > 0
            grad, d_state = self._loops[i].backward(tapes[i], grad, d_states[i], need_x)
            d_initial.insert(0, d_state if is_given else (None,) * len(d_state))
        self._latest.initial_state_gradients = tuple(d_initial) if self._is_stacked else d_initial[0]
        return grad

    def _state_shapes(self, B):
        sizes = state_sizes(self.cell)
        return [[(B, n) for n in size] if self._is_stacked else (B, size) for size in sizes]

    def get_config(self):
        return {**super().get_config(), "cell": serialize(self.cell)}


def _copied(states):
    return [tuple(s.copy() for s in of_cell) for of_cell in states]


# ---- cells over time -------------------------------------------------------------------------------------------------
# forward(x, mask, training, initial_state, options) -> outputs, states, tape
# backward(tape, d_outputs, d_states, need_x) -> dx, gradients of the initial states


def _loop(cell):
    if isinstance(cell, BuiltInCell) and type(cell).call is BuiltInCell.call:
        return _BuiltInLoop(cell)
    if isinstance(cell, Cell) and cell.step is not None:
        return _CompiledLoop(cell)
    return _PythonLoop(cell)


class _BuiltInLoop:
    """The layer that takes this cell over all steps."""

    def __init__(self, cell):
        self.cell, self.layer = cell, cell.sequence_layer()

    def forward(self, x, mask, training, initial_state, options):
        for option in ("go_backwards", "return_sequences", "zero_output_for_mask"):
            setattr(self.layer, option, options[option])
        keywords = {"initial_state": initial_state, "restore_order": options["restore_order"]}
        (outputs, *states), _ = self.layer._run(x, mask, training, (), keywords)
        return outputs, states, None

    def backward(self, tape, d_outputs, d_states, need_x):
        self.layer._trainable = self.cell.trainable
        stack.top.inner[self.layer][-1].need_x = need_x
        dx = self.layer.backward((d_outputs, *(d_states or [None] * self.layer.states)))
        return dx, self.layer.initial_state_gradients


class _CompiledLoop:
    """The library's loop, which calls the cell's compiled functions."""

    def __init__(self, cell):
        self.cell = cell
        cell._compile()

    def forward(self, x, mask, training, initial_state, options):
        result, tape = self.cell._forward(x, training, mask=mask, initial_state=initial_state, **options)
        return result.outputs, result.states, tape

    def backward(self, tape, d_outputs, d_states, need_x):
        g = self.cell._backward(tape, d_outputs, d_states, need_x)
        return g.x, g.initial_state


class _PythonLoop:
    """A call of the cell for each step, with the rows that have a step left: the longest first, so these come first."""

    def __init__(self, cell):
        self.cell = cell

    def forward(self, x, mask, training, initial_state, options):
        cell, sizes = self.cell, state_sizes(self.cell)
        sequence = Sequence(x, mask, **options)
        B, order, dtype = sequence.B, sequence.order, sequence.dtype
        states, shapes = check_states("initial_state", initial_state, sizes, B, dtype)
        states = [s[order] for s in states]
        final = [np.empty((B, n), dtype) for n in sizes]
        outputs = np.empty((sequence.N, output_size(cell)), dtype)
        listed = True
        for k, n in enumerate(_rows_left(sequence)):
            _put(final, order, states, n)
            at = sequence.first[order[:n]] + k
            output, states = cell(sequence.inputs[at], [s[:n] for s in states], training=training)
            listed = isinstance(states, (list, tuple))
            outputs[at] = self._checked("an output", output, (n, outputs.shape[1]), dtype)
            states = states if listed else [states]
            if len(states) != len(sizes):
                raise ValueError(f"{cell.name}: call: expected {len(sizes)} new states, returned {len(states)}")
            states = [self._checked("a new state", s, (n, m), dtype) for s, m in zip(states, sizes, strict=True)]
        _put(final, order, states, 0)
        return sequence.lay_out(outputs), final, (sequence, shapes, listed)

    def _checked(self, what, array, shape, dtype):
        if np.shape(array) != shape:
            raise ValueError(f"{self.cell.name}: call: expected {what} {shape}, returned {np.shape(array)}")
        return np.asarray(plain(array), dtype)

    def backward(self, tape, d_outputs, d_states, need_x):
        (sequence, shapes, listed), cell = tape, self.cell
        B, order, dtype = sequence.B, sequence.order, sequence.dtype
        d_rows = sequence.output_gradients(d_outputs, output_size(cell))
        d_last, _ = check_states("d_states", d_states, state_sizes(cell), B, dtype)
        d_last = [d[order] for d in d_last]  # those of the last steps; they wait until their row begins
        d_inputs = np.zeros((sequence.N, sequence.F), dtype)
        d_states = [d[:0] for d in d_last]
        for k, n in reversed(list(enumerate(_rows_left(sequence)))):
            d_states = [np.concatenate([d, d_end[len(d) : n]]) for d, d_end in zip(d_states, d_last, strict=True)]
            at = sequence.first[order[:n]] + k
            d_input, d_before = cell.backward((d_rows[at], d_states if listed else d_states[0]))
            if d_input is not None:
                d_inputs[at] = d_input
            d_before = d_before if isinstance(d_before, (list, tuple)) else [d_before]
            d_states = [
                np.zeros_like(d) if b is None else np.asarray(b, dtype) for d, b in zip(d_states, d_before, strict=True)
            ]
        if not sequence.N:  # no call, but there are gradients: zeros
            for weight in cell.weights:
                cell.add_gradient(weight, np.zeros(weight.shape))
        d_initial = [np.empty_like(d) for d in d_last]
        _put(d_initial, order, d_last, len(d_states[0]))
        _put(d_initial, order, d_states, 0)
        return sequence.input_gradients(d_inputs) if need_x else None, given_state_gradients(d_initial, shapes)


def _rows_left(sequence):
    """How many rows have a step 0, a step 1, …"""
    return (sequence.B - np.cumsum(np.bincount(sequence.lengths)))[:-1].tolist()


def _put(target, order, values, start):
    """Rows from `start` on of values, which are in `order`, at their places in the target."""
    for t, v in zip(target, values, strict=True):
        t[order[start : len(v)]] = v[start:]
