"""Bidirectional: one recurrent layer forwards and one backwards over the same steps."""

import contextlib

import numpy as np

from fastmask.layers.base import Layer
from fastmask.layers.calls import stack
from fastmask.layers.registry import deserialize, register_serializable, serialize
from fastmask.layers.sequence_layer import SequenceLayer
from fastmask.ops._recurrent import SideBySide
from fastmask.ragged import Ragged

MERGE_MODES = ("concat", "sum", "mul", "ave", None)


@register_serializable(package=None)
class Bidirectional(Layer):
    """A recurrent layer run in both directions of time, the outputs merged.

    Parameters
    ----------
    layer : SimpleRNN, GRU, LSTM or RNN
        One that goes forwards. Its configuration is copied into `forward_layer`; `layer` itself stays unused.
    merge_mode : "concat", "sum", "mul", "ave" (the mean) or None
        How outputs are merged, forward first; None returns both: (forward, backward).
    backward_layer : recurrent layer, optional
        Used as it is; by default a copy of `layer` that goes backwards. Must have go_backwards=True, and the
        return_sequences, return_state and stateful of `layer`.
    name : str, optional

    Notes
    -----
    Both directions zero their outputs at masked steps if they return sequences (zero_output_for_mask is set to
    return_sequences, as in Keras), so there the merged output is 0. Outputs of the backward direction stand where their
    inputs stand; in a right-padded row it starts at the last valid step. Without return_sequences the output is the
    forward one of the last valid step and the backward one of the first.

    With return_state: outputs, all forward states, all backward states. initial_state= is a list in that order.
    Weights: the forward layer's, then the backward layer's. With a seed both directions drop the same (as Keras); if
    stateful, each goes on from its own states, the backward direction too.
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True
    _makes_mask = False
    _no_stream = "its backward direction starts at the last step"

    def __init__(self, layer, merge_mode="concat", *, backward_layer=None, name=None, **kwargs):
        is_own = isinstance(layer, dict)  # written down by get_config
        layer, backward_layer = deserialize(layer), None if backward_layer is None else deserialize(backward_layer)
        if not isinstance(layer, SequenceLayer):
            raise ValueError(f"layer: expected SimpleRNN, GRU, LSTM or RNN, received {type(layer).__name__}")
        if merge_mode not in MERGE_MODES:
            raise ValueError(f"merge_mode: expected one of {MERGE_MODES}, received {merge_mode!r}")
        if backward_layer is not None and not isinstance(backward_layer, SequenceLayer):
            raise ValueError(f"backward_layer: expected a recurrent layer, received {type(backward_layer).__name__}")
        kwargs.setdefault("dtype", layer.dtype)
        super().__init__(name=name, **kwargs)
        self.merge_mode = merge_mode
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state
        self.stateful = layer.stateful
        config = layer.get_config()
        is_own = is_own and layer.name.startswith("forward_")
        self.forward_layer = layer if is_own else _copy(layer, config, "forward_")
        self._own_backward_layer = backward_layer is None
        if layer.go_backwards:
            raise ValueError("layer: expected go_backwards=False, received True")
        if backward_layer is None:
            backward_layer = _copy(layer, {**config, "go_backwards": True}, "backward_")
        self.backward_layer = backward_layer
        for attribute, expected in (
            ("go_backwards", True),
            ("return_sequences", self.return_sequences),
            ("return_state", self.return_state),
            ("stateful", self.stateful),
            ("dtype", self.forward_layer.dtype),
        ):
            received = getattr(backward_layer, attribute)
            if received != expected:
                raise ValueError(f"backward_layer: expected {attribute}={expected}, received {received}")
        if merge_mode in ("sum", "mul", "ave") and backward_layer.units != layer.units:
            raise ValueError(
                f"backward_layer: expected units={layer.units} to {merge_mode}, received {backward_layer.units}"
            )
        for direction in self._directions:
            direction.zero_output_for_mask = self.return_sequences

    @property
    def _directions(self):
        return self.forward_layer, self.backward_layer

    def build(self, input_shape):
        for direction in self._directions:
            direction.build(input_shape)

    def reset_state(self):
        """Let both directions go on from zeros."""
        for direction in self._directions:
            direction.reset_state()

    def reset_states(self):
        """Keras 2's name of reset_state."""
        self.reset_state()

    # ---- forward ----------------------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False, initial_state=None):
        self.check_input_shape(inputs.shape)
        outputs, states = [], []
        alone = len(inputs) == 1 and not (training or self.stateful)  # more rows give both threads work anyway
        with SideBySide() if alone else contextlib.nullcontext():
            for direction, state in zip(self._directions, self._split_states(initial_state), strict=True):
                result, _ = direction._run(inputs, mask, training, (), {"initial_state": state, "restore_order": True})
                if self.return_state:
                    result, *last = result
                    states += last
                outputs.append(result)
        if training and self.merge_mode == "mul":
            self.saved = outputs
        merged = self._merge(*outputs)
        if not self.return_state:
            return merged
        return (*(merged if self.merge_mode is None else (merged,)), *states)

    def _split_states(self, initial_state):
        n = self.forward_layer.states
        if initial_state is None:
            return None, None
        both = n + self.backward_layer.states
        if not isinstance(initial_state, (list, tuple)) or len(initial_state) != both:
            received = len(initial_state) if isinstance(initial_state, (list, tuple)) else type(initial_state).__name__
            raise ValueError(f"{self.name}: initial_state: expected a list of {both} arrays, received {received}")
        return tuple(initial_state[:n]), tuple(initial_state[n:])

    def _merge(self, forward, backward):
        if self.merge_mode is None:
            return forward, backward
        if isinstance(forward, Ragged):
            return forward.with_values(self._merge(forward.values, backward.values))
        if self.merge_mode == "concat":
            return np.concatenate([forward, backward], axis=-1)
        if self.merge_mode == "mul":
            return forward * backward
        both = forward + backward
        if self.merge_mode == "ave":
            both *= 0.5
        return both

    # ---- backward ---------------------------------------------------------------------------------------------------
    def backward(self, grad):
        """grad: as the outputs, None where nothing arrives."""
        call = self._current_call()
        n, n_outputs = self.forward_layer.states, 2 if self.merge_mode is None else 1
        d_states = [None] * (n + self.backward_layer.states)
        if grad is not None and (self.return_state or self.merge_mode is None):
            expected = n_outputs + (len(d_states) if self.return_state else 0)
            if not isinstance(grad, (list, tuple)) or len(grad) != expected:
                raise ValueError(f"{self.name}: grad: expected {expected} arrays or Nones, one for each output")
            if self.return_state:
                d_states = list(grad[n_outputs:])
            grad = grad[0] if n_outputs == 1 else (grad[0], grad[1])
        d_outputs = self._unmerge(grad)

        d_inputs = []
        parts = zip(self._directions, d_outputs, (d_states[:n], d_states[n:]), strict=True)
        for direction, d_output, d_state in parts:
            stack.top.inner[direction][-1].need_x = call.need_x
            d_inputs.append(direction.backward((d_output, *d_state) if self.return_state else d_output))
        return _sum(*d_inputs)

    def _unmerge(self, grad):
        """The gradients of the two directions' outputs."""
        if grad is None:
            return None, None
        if self.merge_mode is None:
            return grad
        if isinstance(grad, Ragged):
            if self.merge_mode == "mul":
                forward, backward = self.saved
                return grad.with_values(grad.values * backward.values), grad.with_values(grad.values * forward.values)
            return [grad.with_values(d) for d in self._unmerge(grad.values)]
        if self.merge_mode == "concat":
            H = self.forward_layer.units
            return np.ascontiguousarray(grad[..., :H]), np.ascontiguousarray(grad[..., H:])
        if self.merge_mode == "mul":
            forward, backward = self.saved
            return grad * backward, grad * forward
        if self.merge_mode == "ave":
            grad = grad * grad.dtype.type(0.5)
        return grad, grad

    def keyword_gradients(self):
        return {"initial_state": self.initial_state_gradients}

    @property
    def initial_state_gradients(self):
        """Gradients of the initial states from the latest backward in this thread, forward ones first."""
        return self.forward_layer.initial_state_gradients + self.backward_layer.initial_state_gradients

    # ---- masks and shapes -------------------------------------------------------------------------------------------
    def compute_mask(self, inputs, mask=None):
        if mask is None or not self.return_sequences:
            return None
        masks = [mask, mask] if self.merge_mode is None else [mask]
        states = [None] * sum(d.states for d in self._directions) if self.return_state else []
        return masks + states if len(masks + states) > 1 else mask

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights."""
        self.forward_layer.check_input_shape(shape)

    def compute_output_shape(self, input_shape):
        B, T = input_shape[:2]
        widths = [d.units for d in self._directions]
        if self.merge_mode is not None:
            widths = [sum(widths) if self.merge_mode == "concat" else widths[0]]
        shapes = [(B, T, w) if self.return_sequences else (B, w) for w in widths]
        if self.return_state:
            shapes += [shape for d in self._directions for shape in d.compute_output_shape(input_shape)[1:]]
        return shapes if len(shapes) > 1 else shapes[0]

    def mask_role(self):
        return "uses, passes" if self.return_sequences else "uses, ends"

    def get_config(self):
        return {
            **super().get_config(),
            "layer": serialize(self.forward_layer),
            "merge_mode": self.merge_mode,
            "backward_layer": None if self._own_backward_layer else serialize(self.backward_layer),
        }


def _copy(layer, config, prefix):
    return type(layer).from_config({**config, "name": prefix + layer.name.removeprefix("forward_")})


def _sum(forward, backward):
    if forward is None or backward is None:
        return None
    if isinstance(forward, Ragged):
        return forward.with_values(forward.values + backward.values)
    forward += backward  # fresh from the ops
    return forward
