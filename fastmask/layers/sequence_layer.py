"""SequenceLayer: what the layers that carry states along a sequence share, whatever they do at a step."""

import numpy as np

from fastmask.layers.base import Layer
from fastmask.layers.streams import IN_PIECES, SO_FAR
from fastmask.ragged import Ragged


class SequenceLayer(Layer):
    """(B,T,F) -> (B,T,H) with return_sequences, else (B,H); Ragged -> Ragged or (B,H).

    A subclass has `units` (H), `states` (how many entries its states have), `_state_shapes(B)`, build, call and
    backward.

    Stateful: a call goes on where the one before ended, row by row. So the number of rows is fixed, by the shape the
    layer is built with or else by the first call. The states belong to the layer, whichever thread calls it, and are
    not among its weights.
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True
    _makes_mask = False
    states = units = 0
    _features = None  # F, once built
    _batch_size = None  # B, once fixed
    _carried = None  # the states after the call before; None is zeros

    def __init__(
        self,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.return_sequences = bool(return_sequences)
        self.return_state = bool(return_state)
        self.go_backwards = bool(go_backwards)
        self.stateful = bool(stateful)
        self.unroll = bool(unroll)
        self.zero_output_for_mask = bool(zero_output_for_mask)

    def _set_input_shape(self, input_shape):
        """At the start of `build`; returns F."""
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"{self.name}: inputs: expected shape (B,T,F) with a known F, received {input_shape}")
        self._features = int(input_shape[-1])
        self._batch_size = input_shape[0] if self.stateful else None
        return self._features

    # ---- states -----------------------------------------------------------------------------------------------------
    def reset_state(self):
        """Go on from zeros."""
        self._carried = None

    def reset_states(self):
        """reset_state under the name of Keras 2."""
        self.reset_state()

    def _carry_on(self, B):
        """The states to start a call of B rows from."""
        if self._batch_size not in (None, B):
            raise ValueError(
                f"{self.name}: inputs: expected {self._batch_size} rows, as a stateful layer keeps its batch size, "
                f"received {B}"
            )
        return self._carried

    def _leave(self, B, states):
        self._batch_size, self._carried = B, states

    def _split_gradient(self, grad):
        """(gradient of the outputs, list of those of the states) of the argument of `backward`."""
        if not self.return_state or grad is None:
            return grad, [None] * self.states
        if not isinstance(grad, (list, tuple)) or len(grad) != 1 + self.states:
            raise ValueError(f"{self.name}: grad: expected (d_outputs, *d_states), {1 + self.states} arrays or Nones")
        return grad[0], list(grad[1:])

    @property
    def initial_state_gradients(self):
        """Gradients of the initial states from the latest backward in this thread; None where none was given."""
        return getattr(self._latest, "initial_state_gradients", (None,) * self.states)

    def keyword_gradients(self):
        return {"initial_state": self.initial_state_gradients}

    def start_stream(self, batch_size, input_shape, arrival):
        """How the outputs go on in a stream; a subclass adds what it remembers."""
        super().start_stream(batch_size, input_shape, arrival)
        if self.go_backwards:
            raise ValueError("go_backwards takes the last step first")
        outputs = IN_PIECES if self.return_sequences else SO_FAR
        return [outputs] + [SO_FAR] * self.states if self.return_state else outputs, None

    # ---- masks and shapes -------------------------------------------------------------------------------------------
    def compute_mask(self, inputs, mask=None):
        """The mask in the order of the outputs (Keras hands it on unreversed); None without return_sequences."""
        out = None
        if mask is not None and self.return_sequences:
            out = reverse_steps(mask, inputs) if self.go_backwards else mask
        return [out] + [None] * self.states if self.return_state and out is not None else out

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights."""
        if self.built and (len(shape) != 3 or shape[2] != self._features):
            raise ValueError(f"{self.name}: inputs: expected shape (B,T,{self._features}), received {tuple(shape)}")

    def compute_output_shape(self, input_shape):
        B, T = input_shape[:2]
        outputs = (B, T, self.units) if self.return_sequences else (B, self.units)
        return [outputs, *self._state_shapes(B)] if self.return_state else outputs

    def _state_shapes(self, B):
        return [(B, self.units)] * self.states

    def mask_role(self):
        if not self.return_sequences:
            return "uses, ends"
        return "uses, reverses" if self.go_backwards else "uses, passes"

    def get_config(self):
        return {
            **super().get_config(),
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "stateful": self.stateful,
            "unroll": self.unroll,
            "zero_output_for_mask": self.zero_output_for_mask,
        }


def reverse_steps(mask, inputs):
    """A mask (B,T), or (N,) of a Ragged, with the steps of each row in the opposite order."""
    if not isinstance(inputs, Ragged):
        return np.ascontiguousarray(mask[:, ::-1])
    offsets = inputs.offsets
    ends = np.repeat(offsets[:-1] + offsets[1:] - 1, inputs.lengths)
    return mask[ends - np.arange(len(mask))]
