"""Activation functions as layers: Activation, ReLU, LeakyReLU, ELU, PReLU, and Softmax, which knows masks."""

import math

import numpy as np

from fastmask import activations, constraints, initializers, regularizers
from fastmask.checks import check_axis, check_number, check_whole
from fastmask.layers.base import Layer
from fastmask.layers.masked import compute_under_mask, finite_under_mask, map_values, values_of, zero_under_mask
from fastmask.layers.registry import register_serializable
from fastmask.layers.streams import refuse_along_time
from fastmask.ops.activation import activation_backward, activation_forward, softmax_backward, softmax_forward
from fastmask.ops.mask import align_mask
from fastmask.ragged import Ragged


class _ActivationLayer(Layer):
    """A function of each step alone: `_value(x)`, and `_gradient(x, y, dy)`, which is dx.

    The mask goes on as it is; masked steps are computed like any other, only NaN and infinity count as 0 there.
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True
    streams = True

    def call(self, inputs, mask=None, training=False):
        return compute_under_mask(lambda x: self._compute(x, training), inputs, mask)

    def _compute(self, x, training):
        y = map_values(self._value, x)
        if training:
            self.saved = values_of(x), values_of(y)
        return y

    def backward(self, grad):
        if grad is None:
            return None
        x, y = self.saved
        return map_values(lambda dy: self._gradient(x, y, dy), grad)

    def compute_output_shape(self, input_shape):
        return input_shape

    def mask_role(self):
        return "passes"


@register_serializable(package=None)
class Activation(_ActivationLayer):
    """y = activation(x).

    Parameters
    ----------
    activation : str
        A name of `fastmask.activations`; None is linear. softmax and log_softmax work along the last axis. (Keras takes
        any function; here `Lambda` does.)

    Notes
    -----
    Any shape, or Ragged. A model that ends in this layer with softmax or sigmoid is trained on x itself if the loss is
    the matching cross-entropy, as in Keras 3.
    """

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activations.name_of(activation)

    def _value(self, x):
        return activation_forward(x, self.activation)

    def _gradient(self, x, y, dy):
        return activation_backward(x, y, dy, self.activation)

    @property
    def output_activation(self):
        return self.activation if self.activation in ("softmax", "sigmoid") else None

    def _compute(self, x, training):
        if training and self.output_activation:
            self._current_call().logits = x
        return super()._compute(x, training)

    def _run_with_logits(self, inputs, mask):
        """(outputs, mask, logits), for the loss of a model that ends here; inference."""
        logits = inputs if mask is None else finite_under_mask(inputs, mask)
        return map_values(self._value, logits), mask, logits

    def backward(self, grad):
        return grad if self._current_call().grad_is_of_logits else super().backward(grad)

    def start_stream(self, batch_size, input_shape, arrival):
        if self.activation in ("softmax", "log_softmax"):
            refuse_along_time(-1, input_shape)
        return super().start_stream(batch_size, input_shape, arrival)

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


@register_serializable(package=None)
class ReLU(_ActivationLayer):
    """x where it is above the threshold, at most max_value; negative_slope (x - threshold) elsewhere.

    Parameters
    ----------
    max_value : float, optional
        None is no limit.
    negative_slope : float
    threshold : float
        None of the three may be negative.
    """

    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0, **kwargs):
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else check_number(max_value, "max_value")
        self.negative_slope = check_number(negative_slope, "negative_slope")
        self.threshold = check_number(threshold, "threshold")

    @property
    def _name(self):
        """The activation with these parameters, if it has a name; it is faster."""
        return {(None, 0, 0): "relu", (6, 0, 0): "relu6"}.get((self.max_value, self.negative_slope, self.threshold))

    def _value(self, x):
        if self._name:
            return activation_forward(x, self._name)
        y = np.maximum(x, 0) if self.threshold == 0 else np.where(x > self.threshold, x, x.dtype.type(0))
        if self.max_value is not None:
            y = np.minimum(y, self.max_value)
        if self.negative_slope:
            y -= self.negative_slope * np.maximum(self.threshold - x, 0)
        return y

    def _gradient(self, x, y, dy):
        if self._name:
            return activation_backward(x, y, dy, self._name)
        plain_leaky = self.max_value is None and self.threshold == 0  # only then does a kink belong to the lower part
        below = x <= 0 if plain_leaky else x < self.threshold
        above = x > self.threshold
        if self.max_value is not None:
            above &= x <= self.max_value
        return dy * np.where(above, 1, self.negative_slope * below).astype(dy.dtype)

    def get_config(self):
        own = {"max_value": self.max_value, "negative_slope": self.negative_slope, "threshold": self.threshold}
        return {**super().get_config(), **own}


@register_serializable(package=None)
class LeakyReLU(_ActivationLayer):
    """x where it is positive, negative_slope x elsewhere.

    Parameters
    ----------
    negative_slope : float
        Not negative. (The activation named "leaky_relu" has 0.2.)
    """

    def __init__(self, negative_slope=0.3, **kwargs):
        super().__init__(**kwargs)
        self.negative_slope = check_number(negative_slope, "negative_slope")

    def _value(self, x):
        return np.where(x > 0, x, self.negative_slope * x)

    def _gradient(self, x, y, dy):
        return np.where(x > 0, dy, self.negative_slope * dy)

    def get_config(self):
        return {**super().get_config(), "negative_slope": self.negative_slope}


@register_serializable(package=None)
class ELU(_ActivationLayer):
    """x where it is positive, alpha (e^x - 1) elsewhere.

    Parameters
    ----------
    alpha : float
    """

    def __init__(self, alpha=1.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha = check_number(alpha, "alpha", -math.inf)

    def _value(self, x):
        y = activation_forward(x, "elu")
        return y if self.alpha == 1 else np.where(x > 0, y, self.alpha * y)

    def _gradient(self, x, y, dy):
        dx = activation_backward(x, y, dy, "elu")
        return dx if self.alpha == 1 else np.where(x > 0, dx, self.alpha * dx)

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}


@register_serializable(package=None)
class PReLU(_ActivationLayer):
    """x where it is positive, alpha x elsewhere; alpha is learned.

    Parameters
    ----------
    alpha_initializer : as `initializers.get` takes
    alpha_regularizer : as `regularizers.get` takes, optional
    alpha_constraint : as `constraints.get` takes, optional
    shared_axes : int or list of int, optional
        Axes along which one alpha serves all. Sequences of any length, and Ragged, need 1, the axis of time.

    Notes
    -----
    alpha has the shape of one row of the inputs, with 1 for shared axes.
    """

    def __init__(
        self, alpha_initializer="zeros", alpha_regularizer=None, alpha_constraint=None, shared_axes=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        axes = list(shared_axes) if isinstance(shared_axes, (list, tuple)) else [shared_axes]
        self.shared_axes = [] if shared_axes is None else [check_whole(axis, "shared_axes", 1) for axis in axes]
        self.alpha = None

    def build(self, input_shape):
        shape = [1 if axis in self.shared_axes else n for axis, n in enumerate(input_shape)][1:]
        if None in shape:
            raise ValueError(
                f"{self.name}: inputs: expected known sizes but along shared_axes {self.shared_axes}, received shape "
                f"{tuple(input_shape)}; sequences of any length need shared_axes=[1]"
            )
        self.alpha = self.add_weight(
            shape,
            self.alpha_initializer,
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
            name="alpha",
        )

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit alpha."""
        if not self.built:
            return
        expected = [None if axis in self.shared_axes else n for axis, n in enumerate(self.alpha.shape, start=1)]
        if len(shape) != len(expected) + 1 or any(n not in (None, m) for n, m in zip(expected, shape[1:], strict=True)):
            raise ValueError(f"{self.name}: inputs: expected shape {(None, *expected)}, received {tuple(shape)}")

    def _compute(self, x, training):
        self.check_input_shape(x.shape)
        alpha = self.alpha.numpy()  # (1,F) of a Ragged goes with its values (N,F)
        if training:
            self.saved = values_of(x), alpha
        return map_values(lambda v: np.where(v > 0, v, alpha * v), x)

    def backward(self, grad):
        if grad is None:
            return None
        x, alpha = self.saved
        extra = x.ndim - alpha.ndim  # 1; 0 for the values of a Ragged
        shared = (0, *(axis - 1 + extra for axis in self.shared_axes))
        d_alpha = np.sum(values_of(grad) * np.minimum(x, 0), axis=tuple(set(shared)))
        self.add_gradient(self.alpha, d_alpha.reshape(alpha.shape))
        slope = np.where(x > 0, x.dtype.type(1), alpha * (x < 0))
        return map_values(lambda dy: dy * slope, grad)

    def start_stream(self, batch_size, input_shape, arrival):
        if 1 not in self.shared_axes:
            raise ValueError("it has an alpha of its own for each step, expected 1 among its shared_axes")
        return super().start_stream(batch_size, input_shape, arrival)

    def get_config(self):
        return {
            **super().get_config(),
            "alpha_initializer": initializers.serialize(self.alpha_initializer),
            "alpha_regularizer": regularizers.serialize(self.alpha_regularizer),
            "alpha_constraint": constraints.serialize(self.alpha_constraint),
            "shared_axes": self.shared_axes or None,
        }


@register_serializable(package=None)
class Softmax(Layer):
    """y = e^x / sum(e^x) along an axis, over what the mask leaves.

    Parameters
    ----------
    axis : int
        -1 is over the features of each step; 1 is over time: over the valid steps of each row, for each feature. (Keras
        takes a list of axes, too.)

    Notes
    -----
    x (B,T,F), or (B,T); Ragged, too. What a mask does depends on whether it reaches the axis:

    - axis=1 with a mask (B,T) is the softmax over time: masked steps get 0, the others sum to 1, a row without a valid
      step is all 0, and gradients are those of that function. Whatever stands at masked steps changes nothing.
    - axis=-1 with a mask of the shape of x leaves classes out in the same way, as in Keras.
    - axis=-1 of (B,T,F) with a mask (B,T) (an error in Keras) is the softmax of each step, masked ones too, as in
      Activation("softmax").

    The mask goes on as it is; one of the shape of (B,T,F) as (B,T), True where a class is left. A model that ends in
    this layer with axis=-1 is trained on x itself if the loss is the matching cross-entropy, as in Keras 3.

    Examples
    --------
    >>> scores = np.zeros((1, 3, 1))
    >>> Softmax(axis=1)(scores, mask=[[True, True, False]]).tolist()
    [[[0.5], [0.5], [0.0]]]
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True
    _makes_mask = False
    streams = True

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = check_whole(axis, "axis")

    def call(self, inputs, mask=None, training=False):
        x, mask, axis = self._resolve(inputs, mask)
        if training and self.output_activation:
            self._current_call().logits = _logits(x, mask)
        return self._softmax(x, mask, axis, training)

    def _resolve(self, x, mask):
        """(x, the mask if it reaches the axis, the axis counted from the front)."""
        axis = check_axis(self.axis, x.ndim, f"{self.name}: axis")
        if mask is not None and mask.ndim + isinstance(x, Ragged) <= axis:
            return finite_under_mask(x, mask), None, axis
        return x, mask, axis

    def _softmax(self, x, mask, axis, training=False):
        # over features a row of numbers at once, over steps in their order: masked ones must change no bit
        over_features = mask is None and 1 < axis == x.ndim - 1
        if over_features:
            y = map_values(lambda v: activation_forward(v, "softmax"), x)
        else:
            y = softmax_forward(x, axis, mask)
        if training:
            self.saved = y, mask, axis, over_features
        return y

    def backward(self, grad):
        if grad is None:
            return None
        y, mask, axis, over_features = self.saved
        if self._current_call().grad_is_of_logits:
            return grad if mask is None else zero_under_mask(grad, mask)
        if over_features:
            return map_values(lambda dy: activation_backward(None, values_of(y), dy, "softmax"), grad)
        return softmax_backward(y, grad, axis, mask)

    @property
    def output_activation(self):
        return "softmax" if self.axis == -1 else None

    def _run_with_logits(self, inputs, mask):
        """(outputs, mask, logits), for the loss of a model that ends here; inference."""
        x, reaching, axis = self._resolve(inputs, mask)
        return self._softmax(x, reaching, axis), self.compute_mask(inputs, mask), _logits(x, reaching)

    def compute_mask(self, inputs, mask=None):
        leaves_out_classes = mask is not None and np.ndim(mask) == np.ndim(inputs) > 2
        return np.any(mask, axis=-1) if leaves_out_classes else mask

    def compute_output_shape(self, input_shape):
        return input_shape

    def start_stream(self, batch_size, input_shape, arrival):
        refuse_along_time(self.axis, input_shape)
        return super().start_stream(batch_size, input_shape, arrival)

    def mask_role(self):
        return "uses, passes"

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


def _logits(x, mask):
    """x with -1e9, Keras' number, where the mask leaves out what softmax gives 0."""
    return x if mask is None else map_values(lambda v: np.where(align_mask(mask, v.shape), v, v.dtype.type(-1e9)), x)
