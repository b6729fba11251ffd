"""Global pooling over time."""

from fastmask.layers.base import Layer
from fastmask.layers.registry import register_serializable
from fastmask.ops import pool


class _GlobalPooling1D(Layer):
    """What the layers below share; they bring the pair of functions."""

    supports_ragged = True
    _single_input = True
    _lean = True
    _makes_mask = False
    _no_stream = "it takes all steps together"
    _forward = _backward = None

    def __init__(self, data_format=None, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last"):
            raise ValueError(f"data_format: expected None or 'channels_last', (B,T,F), received {data_format!r}")
        self.data_format = "channels_last"
        self.keepdims = bool(keepdims)

    def compute_mask(self, inputs, mask=None):
        return None  # used up

    def call(self, inputs, mask=None, training=False):
        self.check_input_shape(inputs.shape)
        outputs, tape = self._forward(inputs, mask=mask)
        if training:
            self.saved = tape
        return outputs[:, None] if self.keepdims else outputs

    def backward(self, grad):
        if grad is None:
            return None
        return self._backward(self.saved, grad[:, 0] if self.keepdims else grad)

    def check_input_shape(self, shape):
        if len(shape) != 3:
            raise ValueError(f"{self.name}: inputs: expected shape (B,T,F), received {tuple(shape)}")

    def compute_mask_shape(self, input_shape, mask_shape):
        return None

    def compute_output_shape(self, input_shape):
        B, _, F = input_shape
        return (B, 1, F) if self.keepdims else (B, F)

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format, "keepdims": self.keepdims}

    def mask_role(self):
        return "uses, ends"


@register_serializable(package=None)
class GlobalAveragePooling1D(_GlobalPooling1D):
    """The mean over the valid steps of each row.

    Parameters
    ----------
    data_format : None or "channels_last"
    keepdims : bool
        Outputs (B,1,F) instead of (B,F).

    Notes
    -----
    x (B,T,F) or Ragged -> (B,F). The mask is used up. A row without a valid step gives 0 (Keras: NaN).

    Examples
    --------
    >>> GlobalAveragePooling1D()([[[1.0], [3.0], [9.0]]], mask=[[1, 1, 0]])
    array([[2.]], dtype=float32)
    """

    _forward = staticmethod(pool.average_pool_forward)
    _backward = staticmethod(pool.average_pool_backward)


@register_serializable(package=None)
class GlobalMaxPooling1D(_GlobalPooling1D):
    """The largest of the valid steps of each row, feature by feature.

    Parameters
    ----------
    data_format : None or "channels_last"
    keepdims : bool
        Outputs (B,1,F) instead of (B,F).

    Notes
    -----
    x (B,T,F) or Ragged -> (B,F). A deliberate difference from Keras, which ignores the mask, so that padding can win:
    here it is used. A row without a valid step gives 0. Where several steps are the largest, they share the gradient in
    equal parts, as in TensorFlow.

    Examples
    --------
    >>> GlobalMaxPooling1D()([[[1.0], [3.0], [9.0]]], mask=[[1, 1, 0]])
    array([[3.]], dtype=float32)
    """

    _forward = staticmethod(pool.max_pool_forward)
    _backward = staticmethod(pool.max_pool_backward)


GlobalAvgPool1D, GlobalMaxPool1D = GlobalAveragePooling1D, GlobalMaxPooling1D  # Keras' other names
