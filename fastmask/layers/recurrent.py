"""SimpleRNN, GRU and LSTM."""

import numpy as np

from fastmask import activations, constraints, initializers, regularizers
from fastmask.checks import empty
from fastmask.layers.core import check_units
from fastmask.layers.dropout import check_rate, dropout_factors
from fastmask.layers.masked import plain
from fastmask.layers.prepared import PreparedCall
from fastmask.layers.registry import register_serializable
from fastmask.layers.sequence_layer import SequenceLayer
from fastmask.layers.streams import hold_over
from fastmask.ops import gru as gru_ops
from fastmask.ops import lstm as lstm_ops
from fastmask.ops import simple_rnn as simple_rnn_ops
from fastmask.ops._common import activation_code
from fastmask.ops._recurrent import infer_small
from fastmask.ops._training import is_small
from fastmask.ops.mask import check_numbers


class RecurrentLayer(SequenceLayer):
    """What SimpleRNN, GRU and LSTM share: weights, dropout and ops.

    A subclass names the number of its gates and states, its three ops and their options.
    """

    streams = True
    _packed = None, None  # versions of the weights, and the packed copy of them
    gates = 0
    _drops_at_rate_1 = False  # Keras: a rate of 1 does nothing in GRU and LSTM

    def __init__(
        self,
        units,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=False,
        use_cudnn="auto",
        implementation=2,
        **kwargs,
    ):
        super().__init__(
            return_sequences,
            return_state,
            go_backwards,
            stateful,
            unroll,
            zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        if use_cudnn not in ("auto", True, False):
            raise ValueError(f"use_cudnn: expected 'auto', True or False, received {use_cudnn!r}")
        if implementation not in (1, 2):
            raise ValueError(f"implementation: expected 1 or 2, received {implementation!r}")
        self.units = check_units(units)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = check_rate(dropout, "dropout")
        self.recurrent_dropout = check_rate(recurrent_dropout, "recurrent_dropout")
        self.seed = initializers.check_seed(seed)
        self.kernel = self.recurrent_kernel = self.bias = None
        self._generator = initializers.new_generator(seed) if self.dropout or self.recurrent_dropout else None

    # ---- weights ----------------------------------------------------------------------------------------------------
    def build(self, input_shape):
        F, H = self._set_input_shape(input_shape), self.units
        empty(f"{self.name}: recurrent_kernel", (H, self.gates * H), self.dtype)  # before the smaller kernel is made
        self.kernel = self.add_weight(
            (F, self.gates * H),
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        self.recurrent_kernel = self.add_weight(
            (H, self.gates * H),
            self.recurrent_initializer,
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
            name="recurrent_kernel",
        )
        if self.use_bias:
            self.bias = self.add_weight(
                self._bias_shape(),
                self._initial_bias,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                name="bias",
            )

    def _bias_shape(self):
        return (self.gates * self.units,)

    def _initial_bias(self, shape, dtype):
        return self.bias_initializer(shape, dtype)

    def _arrays(self):
        """The weights as the ops take them."""
        return self.kernel.value, self.recurrent_kernel.value, None if self.bias is None else self.bias.value

    def _packed_weights(self, unless_changed=False):
        """The weights in the order of the kernels, packed anew whenever one has changed. unless_changed: None then."""
        kernel, recurrent_kernel, bias = self.kernel, self.recurrent_kernel, self.bias
        version = (kernel.version, recurrent_kernel.version, 0 if bias is None else bias.version)
        cached, packed = self._packed
        if cached != version:
            if unless_changed:
                return None
            packed = self._pack(*self._arrays())
            self._packed = version, packed
        return packed

    def _set_cell_options(self, **options):
        """What the ops are told about the cell: by name, and as the codes of the shortest way."""
        self._cell_options = options
        self._codes = (
            activation_code(options["activation"]),
            activation_code(options.get("recurrent_activation", "sigmoid")),
        )

    # ---- forward ----------------------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False, initial_state=None, restore_order=False):
        """Outputs, or with return_state (outputs, *states).

        restore_order: with go_backwards the outputs stand where their inputs stand; for Bidirectional.
        """
        shape = inputs.shape
        if len(shape) != 3 or shape[2] != self._features:
            self.check_input_shape(shape)
        is_given = initial_state is not None
        if is_given:
            initial_state = self._as_states(initial_state)
        if self.stateful:
            carried = self._carry_on(shape[0])
            initial_state = initial_state if is_given else carried
        packed = self._packed_weights(is_small(inputs)) if training else self._packed_weights()
        result = None
        if not training:  # without the keywords and checks of the ops: they cost more than one step
            options = (*self._codes, self.go_backwards, restore_order, self.zero_output_for_mask)
            want_states = self.return_state or self.stateful
            result = infer_small(packed, inputs, mask, initial_state, options, self.return_sequences, want_states)
        if result is None:
            options = dict(
                mask=mask,
                initial_state=initial_state,
                go_backwards=self.go_backwards,
                zero_output_for_mask=self.zero_output_for_mask,
                return_sequences=self.return_sequences,
                restore_order=restore_order,
                packed=packed,
                **self._cell_options,
            )
            if training:
                input_factors, recurrent_factors = self._dropout_factors(inputs)
                result, tape = self._forward(
                    inputs,
                    *self._arrays(),
                    input_factors=input_factors,
                    recurrent_factors=recurrent_factors,
                    **options,
                )
                self.saved = tape, is_given
            else:
                result = self._infer(inputs, *self._arrays(), **options)
        outputs, states = result
        if self.stateful:
            self._leave(shape[0], tuple(s.copy() for s in states))
        return (outputs, *states) if self.return_state else outputs

    def _dropout_factors(self, inputs):
        """What multiplies x and what multiplies h in this training call, as the ops take it; None without dropout.

        One choice for each row, the same at all its steps; with recurrent dropout, for each gate (as Keras).
        """
        if self._generator is None:
            return None, None
        gates = (self.gates,) if self.recurrent_dropout else ()

        def draw(rate, size):
            if not rate or (rate == 1 and not self._drops_at_rate_1):
                return None
            return dropout_factors(self._generator, rate, (len(inputs), *gates, size), self._dtype)

        return draw(self.dropout, self._features), draw(self.recurrent_dropout, self.units)

    def _as_states(self, initial_state):
        """One array, or a list of them, as the tuple of arrays that the ops take."""
        if type(initial_state) is np.ndarray and initial_state.dtype == self._dtype and self.states == 1:
            return (initial_state,)  # the shortest way, for single steps
        if self.states == 1 and not isinstance(initial_state, (list, tuple)):
            initial_state = (initial_state,)
        if not isinstance(initial_state, (list, tuple)) or len(initial_state) != self.states:
            received = len(initial_state) if isinstance(initial_state, (list, tuple)) else type(initial_state).__name__
            raise ValueError(
                f"{self.name}: initial_state: expected a list of {self.states} arrays, received {received}"
            )
        return tuple(None if s is None else self._as_state(s) for s in initial_state)

    def _as_state(self, state):
        state = check_numbers(plain(state), f"{self.name}: initial_state")
        return np.ascontiguousarray(state, dtype=self._dtype)

    # ---- prepared ---------------------------------------------------------------------------------------------------
    def prepare(self, batch_size=1, steps=1, masked=False, stateful=False):
        """A `PreparedCall`: inference on arrays that are bound once, for the lowest latency.

            call = layer.prepare(batch_size=1, steps=1, masked=True, stateful=True)
            call.inputs[...] = x
            call.mask[...] = mask
            call()  # writes call.outputs and call.states

        Parameters
        ----------
        batch_size, steps : int
            B and T of every call.
        masked : bool
            Whether there is a mask.
        stateful : bool
            Each call starts from the states after the one before.

        Returns
        -------
        PreparedCall

        Raises
        ------
        ValueError, TypeError
            The layer is not built; batch_size or steps is no whole number of 0 or more.
        """
        return PreparedCall(self, batch_size, steps, masked, stateful)

    # ---- in a stream ------------------------------------------------------------------------------------------------
    def start_stream(self, batch_size, input_shape, arrival):
        outputs, _ = super().start_stream(batch_size, input_shape, arrival)
        return outputs, (np.zeros((batch_size, self.units), self._dtype),) * self.states

    def stream_call(self, inputs, mask, state):
        """As `call`, from the states before; the first of them is the output before, too, as they started at 0."""
        self.check_input_shape(inputs.shape)
        packed, options = self._packed_weights(), (*self._codes, False, False, self.zero_output_for_mask)
        result = infer_small(packed, inputs, mask, state, options, self.return_sequences)
        outputs, states = result or self._infer(
            inputs,
            *self._arrays(),
            mask=mask,
            initial_state=state,
            zero_output_for_mask=self.zero_output_for_mask,
            return_sequences=self.return_sequences,
            packed=packed,
            **self._cell_options,
        )
        if not self.return_sequences:
            outputs = states[0].copy()
        elif mask is not None and not self.zero_output_for_mask:
            outputs = hold_over(outputs, mask, state[0])
        if self.return_state:
            outputs = (outputs, *(s.copy() for s in states))
        return outputs, None if mask is None else self.compute_mask(inputs, mask), states

    # ---- backward ---------------------------------------------------------------------------------------------------
    def backward(self, grad):
        """grad: as the outputs; with return_state (d_outputs, *d_states), None where nothing arrives."""
        call = self._current_call()
        tape, is_given = call.saved
        d_outputs, d_states = self._split_gradient(grad)
        g = self._backward(tape, d_outputs, d_states, need_x=call.need_x)
        self.add_gradient(self.kernel, g.kernel)
        self.add_gradient(self.recurrent_kernel, g.recurrent_kernel)
        if self.bias is not None:
            self.add_gradient(self.bias, g.bias)
        # states carried from the call before are constants
        self._latest.initial_state_gradients = g.initial_state if is_given else (None,) * self.states
        return g.x

    # ---- configuration ----------------------------------------------------------------------------------------------
    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            **self._cell_config(),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": initializers.serialize(self.recurrent_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "recurrent_regularizer": regularizers.serialize(self.recurrent_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "recurrent_constraint": constraints.serialize(self.recurrent_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
        }

    def _cell_config(self):
        return dict(self._cell_options)


@register_serializable(package=None)
class SimpleRNN(RecurrentLayer):
    """h_t = activation(x_t W + b + h_{t-1} U), masked.

    Parameters
    ----------
    units : int
        H.
    activation : str or None
        An elementwise name of `fastmask.activations`; None is linear.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : as `initializers.get` takes
    kernel_regularizer, recurrent_regularizer, bias_regularizer : as `regularizers.get` takes, optional
    activity_regularizer : None
        Not supported.
    kernel_constraint, recurrent_constraint, bias_constraint : as `constraints.get` takes, optional
    dropout : float
        In training, share of the input features dropped: one choice a row, the same at all steps.
    recurrent_dropout : float
        In training, share of h dropped where it meets U: one choice a row and gate, the same at all steps. Then
        `dropout` makes a choice for each gate, too. A rate of 1 drops everything here and does nothing in GRU and LSTM,
        as in Keras.
    seed : int, optional
        For dropout: a new layer of the same seed makes the same choices.
    return_sequences : bool
        All outputs (B,T,H), not the last one (B,H).
    return_state : bool
        Also return the last state: (outputs, h).
    go_backwards : bool
        Process the steps from last to first. Outputs stand in that order, and so does the outgoing mask (Keras hands it
        on unreversed).
    stateful : bool
        A call starts from the states in which the call before left the rows, until `reset_state()`. Every batch then
        has as many rows as the shape the layer was built with says, or else as the first one. An initial_state comes
        first; no gradient reaches the call before.
    unroll, use_cudnn, implementation
        Accepted, and without effect on any number.
    zero_output_for_mask : bool
        With return_sequences, outputs at masked steps are 0; otherwise they repeat the output before, and are 0 before
        the first valid step, whatever the initial state. Without return_sequences it changes nothing, as Keras
        documents (but does not do).

    Notes
    -----
    Weights: kernel (F,H), recurrent_kernel (H,H), bias (H,). Call arguments: inputs, mask=, training=, initial_state=
    (B,H). A mask that travels with the inputs holds with an initial_state, too (Keras 3 drops it silently).
    """

    gates = states = 1
    _drops_at_rate_1 = True
    _pack = staticmethod(simple_rnn_ops.simple_rnn_pack)
    _infer = staticmethod(simple_rnn_ops.simple_rnn)
    _forward = staticmethod(simple_rnn_ops.simple_rnn_forward)
    _backward = staticmethod(simple_rnn_ops.simple_rnn_backward)

    def __init__(
        self,
        units,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(units, use_bias, kernel_initializer, recurrent_initializer, bias_initializer, **kwargs)
        self.activation = activations.name_of(activation, elementwise=True)
        self._set_cell_options(activation=self.activation)


@register_serializable(package=None)
class GRU(RecurrentLayer):
    """Gated recurrent unit, masked; z multiplies the old state.

        z = ract(x W_z + b_z + h U_z + c_z)        r = ract(x W_r + b_r + h U_r + c_r)
        hh = act(x W_h + b_h + r (h U_h + c_h))    with reset_after, the default
        hh = act(x W_h + b_h + (r h) U_h)          without; there c = 0
        h = z h + (1 - z) hh

    Parameters
    ----------
    units : int
        H.
    activation, recurrent_activation : str or None
        Elementwise names of `fastmask.activations`; None is linear.
    use_bias, kernel_initializer, recurrent_initializer, bias_initializer
        As SimpleRNN's, and so are the keyword arguments that are not named here.
    reset_after : bool
        The candidate uses r (h U + c) (the default of Keras 3 and PyTorch) or, False, (r h) U.

    Notes
    -----
    Weights, gates in the order z, r, h: kernel (F,3H), recurrent_kernel (H,3H), bias (2,3H), rows b and c, with
    reset_after, else (3H,). Call arguments as SimpleRNN's.
    """

    gates, states = 3, 1
    _infer = staticmethod(gru_ops.gru)
    _forward = staticmethod(gru_ops.gru_forward)
    _backward = staticmethod(gru_ops.gru_backward)

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        *,
        reset_after=True,
        **kwargs,
    ):
        super().__init__(units, use_bias, kernel_initializer, recurrent_initializer, bias_initializer, **kwargs)
        self.activation = activations.name_of(activation, elementwise=True)
        self.recurrent_activation = activations.name_of(recurrent_activation, elementwise=True)
        self.reset_after = bool(reset_after)
        self._set_cell_options(
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            reset_after=self.reset_after,
        )

    def _pack(self, kernel, recurrent_kernel, bias):
        return gru_ops.gru_pack(kernel, recurrent_kernel, bias, reset_after=self.reset_after)

    def _bias_shape(self):
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)


@register_serializable(package=None)
class LSTM(RecurrentLayer):
    """Long short-term memory, masked.

        i, f, o = ract(x W + h U + b)    c = f c + i act(x W_c + h U_c + b_c)    h = o act(c)

    Parameters
    ----------
    units : int
        H.
    activation, recurrent_activation : str or None
        Elementwise names of `fastmask.activations`; None is linear.
    use_bias, kernel_initializer, recurrent_initializer, bias_initializer
        As SimpleRNN's, and so are the keyword arguments that are not named here.
    unit_forget_bias : bool
        The forget gate's bias starts at 1.

    Notes
    -----
    Weights, gates in the order i, f, c, o: kernel (F,4H), recurrent_kernel (H,4H), bias (4H,). States are (h, c):
    initial_state= takes both, return_state returns both.
    """

    gates, states = 4, 2
    _pack = staticmethod(lstm_ops.lstm_pack)
    _infer = staticmethod(lstm_ops.lstm)
    _forward = staticmethod(lstm_ops.lstm_forward)
    _backward = staticmethod(lstm_ops.lstm_backward)

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        **kwargs,
    ):
        super().__init__(units, use_bias, kernel_initializer, recurrent_initializer, bias_initializer, **kwargs)
        self.activation = activations.name_of(activation, elementwise=True)
        self.recurrent_activation = activations.name_of(recurrent_activation, elementwise=True)
        self.unit_forget_bias = bool(unit_forget_bias)
        self._set_cell_options(activation=self.activation, recurrent_activation=self.recurrent_activation)

    def _initial_bias(self, shape, dtype):
        H = self.units
        if not self.unit_forget_bias:
            return self.bias_initializer(shape, dtype)
        i, f, co = self.bias_initializer((H,), dtype), np.ones(H, dtype), self.bias_initializer((2 * H,), dtype)
        return np.concatenate([i, f, co])

    def _cell_config(self):
        return {**self._cell_options, "unit_forget_bias": self.unit_forget_bias}
