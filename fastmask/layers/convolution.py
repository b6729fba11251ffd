"""Conv1D."""

import numpy as np

from fastmask import activations
from fastmask.layers.core import Affine
from fastmask.layers.registry import register_serializable
from fastmask.layers.streams import IN_PIECES, append_steps, last_steps
from fastmask.ops.convolution import (
    PADDINGS,
    conv1d,
    conv1d_backward,
    conv1d_forward,
    conv1d_length,
    conv1d_mask,
    conv1d_pack,
)
from fastmask.ops.mask import check_count


@register_serializable(package=None)
class Conv1D(Affine):
    """Convolution over time: y[t] = activation(b + sum over k of x[t strides - left + k dilation_rate] W[k]).

    Parameters
    ----------
    filters : int
        C, the last axis of the outputs.
    kernel_size : int
        K, the steps an output reads; like strides and dilation_rate also a tuple of one.
    strides : int
        Steps from output to output.
    padding : "valid", "same" or "causal"
        What lies outside a row is 0. "valid": windows lie inside the row (left = 0), "same": around their step (as many
        outputs as steps), "causal": behind it; left as in TensorFlow.
    data_format : "channels_last" or None
        (B,T,F); "channels_first" is not supported.
    dilation_rate : int
        Steps from one step that an output reads to the next. Not with strides > 1.
    groups : 1
        More are not supported.
    activation : str, optional
        A name of `fastmask.activations`; None is linear. softmax and log_softmax work along the last axis.
    use_bias : bool
    kernel_initializer, bias_initializer : as `initializers.get` takes
    kernel_regularizer, bias_regularizer : as `regularizers.get` takes, optional
    activity_regularizer : None
        Not supported.
    kernel_constraint, bias_constraint : as `constraints.get` takes, optional

    Notes
    -----
    (B,T,F) -> (B,T',C), Ragged -> Ragged, each row by itself ("same" only with strides = 1); kernel (K,F,C), bias (C,).

    Masks (Keras 3 drops them with a warning, and reads what stands under them): masked steps count as 0, which is what
    Masking makes of them, so nothing under a mask reaches an output. With "same" and strides = 1 or "causal" the mask
    of an output is that of its own step, t strides; with "valid" an output counts if all the steps it reads do. So
    right-padded rows give the same bits as each row alone. With "same" and strides > 1, whose windows begin where
    the padded length says, an output has the mask of the step in the middle of its window, and padding is not neutral.
    Outputs at masked steps are computed like any other.

    A model that ends in this layer with softmax or sigmoid is trained on the logits, as with Dense.
    """

    _makes_mask = False
    streams = True
    _pack = staticmethod(conv1d_pack)
    _backward = staticmethod(conv1d_backward)

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        data_format=None,
        dilation_rate=1,
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            activity_regularizer,
            kernel_constraint,
            bias_constraint,
            **kwargs,
        )
        self.filters = check_count(filters, "filters", minimum=1)
        self.kernel_size = _one_of(kernel_size, "kernel_size")
        self.strides = _one_of(strides, "strides")
        self.dilation_rate = _one_of(dilation_rate, "dilation_rate")
        self.padding = padding.lower() if isinstance(padding, str) else padding
        if self.padding not in PADDINGS:
            raise ValueError(f"padding: expected one of {', '.join(PADDINGS)}, received {padding!r}")
        if self.strides > (1,) and self.dilation_rate > (1,):
            raise ValueError(
                f"dilation_rate: expected 1 with strides = {self.strides[0]}, received {self.dilation_rate[0]}"
            )
        if data_format not in (None, "channels_last"):
            raise ValueError(f"data_format: expected channels_last (B,T,F), received {data_format!r}")
        if groups != 1:
            raise ValueError(f"groups: not supported, expected 1, received {groups!r}")

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"{self.name}: inputs: expected shape (B,T,F) with a known F, received {input_shape}")
        self._add_weights((*self.kernel_size, int(input_shape[-1]), self.filters))

    @property
    def _geometry(self):
        (kernel_size,), (strides,), (dilation_rate,) = self.kernel_size, self.strides, self.dilation_rate
        return dict(kernel_size=kernel_size, strides=strides, padding=self.padding, dilation_rate=dilation_rate)

    # ---- forward and backward ---------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False):
        if not training:
            return self._convolve(conv1d, inputs, mask, self.activation)
        outputs, tape = self._convolve(conv1d_forward, inputs, mask, self.activation)
        self._keep(tape, lambda tape: tape.as_outputs(tape.z))
        return outputs

    def _convolve(self, op, inputs, mask, activation, padding=None):
        self.check_input_shape(inputs.shape)
        kernel, bias, packed = self._arrays()
        return op(
            inputs,
            kernel,
            bias,
            strides=self.strides[0],
            padding=padding or self.padding,
            dilation_rate=self.dilation_rate[0],
            activation=activation,
            mask=mask,
            packed=packed,
        )

    def _run_with_logits(self, inputs, mask):
        """(outputs, mask, logits), for the loss of a model that ends here; inference."""
        logits = self._convolve(conv1d, inputs, mask, None)
        return activations.get(self.activation)(logits), self.compute_mask(inputs, mask), logits

    # ---- in a stream ------------------------------------------------------------------------------------------------
    def start_stream(self, batch_size, input_shape, arrival):
        super().start_stream(batch_size, input_shape, arrival)
        if self.padding != "causal" or self.strides > (1,):
            raise ValueError(
                f"expected padding='causal' and strides=1, received {self.padding!r} and {self.strides[0]}"
            )
        before = (self.kernel_size[0] - 1) * self.dilation_rate[0]
        steps = np.zeros((batch_size, before, input_shape[-1]), self._dtype)
        return IN_PIECES, (steps, np.zeros(steps.shape[:2], bool))

    def stream_call(self, inputs, mask, state):
        """The state is the last steps, as many as an output reads besides its own, and which of them are valid."""
        x, valid = append_steps(*state, inputs, mask)
        outputs = self._convolve(conv1d, x, valid, self.activation, padding="valid")
        return outputs, mask, last_steps(x, valid, state[0].shape[1])

    # ---- masks and shapes -------------------------------------------------------------------------------------------
    def compute_mask(self, inputs, mask=None):
        """The mask of the outputs, see Notes."""
        return None if mask is None else conv1d_mask(inputs, mask, **self._geometry)

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights."""
        if self.built and (len(shape) != 3 or shape[-1] != self.kernel.shape[1]):
            raise ValueError(
                f"{self.name}: inputs: expected shape (B,T,{self.kernel.shape[1]}), received {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape):
        B, T, _ = input_shape
        return B, None if T is None else conv1d_length(T, **self._geometry), self.filters

    def mask_role(self):
        return "uses, passes" if self.padding != "valid" and self.strides == (1,) else "uses, changes"

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": "channels_last",
            "dilation_rate": self.dilation_rate,
            "groups": 1,
        }


def _one_of(n, name):
    """A number of steps, or a tuple or list of one, as the tuple that Keras keeps."""
    if isinstance(n, (tuple, list)):
        if len(n) != 1:
            raise ValueError(f"{name}: expected a whole number or a tuple of one, received {n!r}")
        (n,) = n
    return (check_count(n, name, minimum=1),)
