"""Masking, Dense and Dropout."""

import numpy as np

from fastmask import activations, constraints, initializers, regularizers
from fastmask.layers.base import Layer
from fastmask.layers.registry import register_serializable
from fastmask.ops import gemm
from fastmask.ops.mask import align_mask, from_values
from fastmask.ragged import Ragged


def finite_under_mask(x, mask):
    """x with 0 for NaN and infinity at masked steps, where they count as 0; x itself if there are none."""
    values = x.values if isinstance(x, Ragged) else x
    hidden = ~mask
    garbage = values[hidden]
    finite = np.isfinite(garbage)
    if finite.all():
        return x
    values = values.copy()
    values[hidden] = np.where(finite, garbage, 0)
    return x.with_values(values) if isinstance(x, Ragged) else values


def compute_under_mask(compute, inputs, mask):
    """compute(inputs), for a function of each step, where garbage under the mask counts as 0: NaN, infinity, and what
    is too large even for this function, as that must not reach a gradient as 0 * inf.
    """
    if mask is None:
        return compute(inputs)
    inputs = finite_under_mask(inputs, mask)
    outputs = compute(inputs)
    values = outputs.values if isinstance(outputs, Ragged) else outputs
    if np.isfinite(values[~mask]).all():
        return outputs
    finite = np.isfinite(values).all(axis=-1)
    return compute(_zero_where_masked(inputs, finite | align_mask(mask, finite.shape)))


@register_serializable(package=None)
class Masking(Layer):
    """Mask the steps all of whose features equal `mask_value`, and set them to 0.

    Parameters
    ----------
    mask_value : float
        Compared exactly, in the layer's dtype: denormals are data (TensorFlow flushes them), NaN equals nothing, so a
        NaN step is kept.

    Notes
    -----
    (..., F) -> (..., F), its mask has the shape (...). An incoming mask and the layer's own are combined with AND
    (Keras replaces it, which silently un-masks padding).

    Examples
    --------
    >>> y = Masking()([[[1.0, 2.0], [0.0, 0.0]]])
    >>> y.mask
    array([[ True, False]])
    """

    supports_ragged = True
    _single_input = True

    def __init__(self, mask_value=0.0, **kwargs):
        super().__init__(**kwargs)
        self.mask_value = float(mask_value)

    def compute_mask(self, inputs, mask=None):
        inputs = self._as_input(inputs)
        own = from_values(inputs.values if isinstance(inputs, Ragged) else inputs, self.mask_value)
        return own if mask is None else own & np.asarray(mask, bool)

    def call(self, inputs, mask=None, training=False):
        return self._call_and_mask(inputs, mask, training)[0]

    def _call_and_mask(self, inputs, mask, training, args=(), kwargs=None):
        mask = self.compute_mask(inputs, mask)
        if training:
            self.saved = mask
        return _zero_where_masked(inputs, mask), mask

    def backward(self, grad):
        return _zero_where_masked(grad, self.saved)

    def compute_mask_shape(self, input_shape, mask_shape):
        return input_shape[:-1]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mask_value": self.mask_value}

    def mask_role(self):
        return "makes"


def _zero_where_masked(x, mask):
    if x is None or mask.all():
        return x
    if isinstance(x, Ragged):
        return x.with_values(_zero_where_masked(x.values, mask))
    return np.where(mask[..., None], x, x.dtype.type(0))


@register_serializable(package=None)
class Dense(Layer):
    """y = activation(x W + b) over the last axis.

    Parameters
    ----------
    units : int
        H, the last axis of the outputs.
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
    x (..., F) -> (..., H); kernel (F,H), bias (H,). The mask goes on as it is, and masked steps are computed like any
    other, from whatever stands there; only NaN and infinity count as 0 there. A model that ends in this layer with
    softmax or sigmoid is trained on the logits x W + b if the loss is the matching cross-entropy, as in Keras 3.
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True
    _packed = None, None  # versions of the weights, and the packed copy of them

    def __init__(
        self,
        units,
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
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = check_units(units)
        self.activation = activations.name_of(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.kernel = self.bias = None

    def build(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(f"{self.name}: inputs: expected shape (B,...,F) with a known F, received {input_shape}")
        features = int(input_shape[-1])
        self.kernel = self.add_weight(
            (features, self.units),
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        if self.use_bias:
            self.bias = self.add_weight(
                (self.units,),
                self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                name="bias",
            )

    def call(self, inputs, mask=None, training=False):
        return self._compute(inputs, mask, training, self.activation)

    @property
    def output_activation(self):
        return self.activation if self.activation in ("softmax", "sigmoid") else None

    def _run_with_logits(self, inputs, mask):
        """(outputs, mask, logits), for the loss of a model that ends here; inference."""
        logits = self._compute(inputs, mask, False, None)
        return activations.get(self.activation)(logits), mask, logits

    def _compute(self, inputs, mask, training, activation):
        self.check_input_shape(inputs.shape)
        return compute_under_mask(lambda x: self._affine(x, training, activation), inputs, mask)

    def _affine(self, x, training, activation):
        kernel, bias = self.kernel, self.bias
        b = None if bias is None else bias.value
        version = self._versions()
        cached, packed = self._packed
        if cached != version:
            packed = gemm.dense_pack(kernel.value, b)
            self._packed = version, packed
        if not training:
            return gemm.dense(x, kernel.value, b, activation=activation, packed=packed)
        outputs, tape = gemm.dense_forward(x, kernel.value, b, activation=activation, packed=packed)
        self.saved = tape, version
        if self.output_activation:
            logits = tape.z.reshape(tape.shape)
            self._current_call().logits = x.with_values(logits) if isinstance(x, Ragged) else logits
        return outputs

    def _versions(self):
        return self.kernel.version, None if self.bias is None else self.bias.version

    def backward(self, grad):
        if grad is None:
            return None
        call = self._current_call()
        tape, version = call.saved
        if version != self._versions():  # the tape refers to the kernel itself
            raise ValueError(f"{self.name}: backward: expected the weights of the call, they were changed since")
        g = gemm.dense_backward(tape, grad, need_x=call.need_x, from_logits=call.grad_is_of_logits)
        self.add_gradient(self.kernel, g.kernel)
        if self.bias is not None:
            self.add_gradient(self.bias, g.bias)
        return g.x

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights."""
        if self.built and (len(shape) < 2 or shape[-1] != self.kernel.shape[0]):
            raise ValueError(
                f"{self.name}: inputs: expected shape (B,...,{self.kernel.shape[0]}), received {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }

    def mask_role(self):
        return "passes"


@register_serializable(package=None)
class Dropout(Layer):
    """In training, set a random share of the inputs to 0 and divide the others by what is kept; else do nothing.

    Parameters
    ----------
    rate : float
        The share, from 0 to 1.
    noise_shape : tuple, optional
        Shape of the random choice, broadcast over the inputs; None means the size of the inputs there. (None, 1, None)
        makes one choice for all steps. Not for Ragged.
    seed : int, optional
        Seed of this layer's own generator; drawn from the global one by default.
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate(rate, "rate")
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.seed = initializers.check_seed(seed)
        self._generator = initializers.new_generator(seed)

    def call(self, inputs, mask=None, training=False):
        if mask is not None:
            inputs = finite_under_mask(inputs, mask)
        if not training:
            return inputs
        factors = None
        if self.rate > 0:
            values = inputs.values if isinstance(inputs, Ragged) else inputs
            factors = dropout_factors(self._generator, self.rate, self._choice_shape(inputs), values.dtype)
        self.saved = factors
        return _times(inputs, factors)

    def backward(self, grad):
        return None if grad is None else _times(grad, self.saved)

    def _choice_shape(self, inputs):
        if isinstance(inputs, Ragged):
            if self.noise_shape is not None:
                raise ValueError(f"{self.name}: noise_shape: expected None for a Ragged, received {self.noise_shape}")
            return inputs.values.shape
        if self.noise_shape is None:
            return inputs.shape
        if len(self.noise_shape) != inputs.ndim:
            raise ValueError(f"{self.name}: noise_shape: expected {inputs.ndim} entries, received {self.noise_shape}")
        return tuple(n if m is None else m for m, n in zip(self.noise_shape, inputs.shape, strict=True))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape, "seed": self.seed}

    def mask_role(self):
        return "passes"


def dropout_factors(generator, rate, shape, dtype):
    """0 with probability `rate`, else 1 / (1 - rate)."""
    factors = (generator.random(shape, dtype=np.float32) >= rate).astype(dtype)
    if rate < 1:
        factors *= dtype.type(1 / (1 - rate))
    return factors


def _times(x, factors):
    if factors is None:
        return x
    return x.with_values(x.values * factors) if isinstance(x, Ragged) else x * factors


def check_rate(rate, name):
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.floating)) or not 0 <= rate <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, received {rate!r}")
    return float(rate)


def check_units(units):
    if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units < 1:
        raise ValueError(f"units: expected a whole number of 1 or more, received {units!r}")
    return int(units)
