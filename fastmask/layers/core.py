"""Masking, ApplyMask, Dense and Identity."""

import numpy as np

from fastmask import activations, constraints, initializers, regularizers
from fastmask.layers.base import Layer
from fastmask.layers.masked import compute_under_mask, values_of, zero_under_mask
from fastmask.layers.registry import register_serializable
from fastmask.layers.structure import differ, is_nested, map_inputs
from fastmask.ops import gemm
from fastmask.ops.mask import from_values, is_finite_under, one_number
from fastmask.ragged import Ragged


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
    streams = True

    def __init__(self, mask_value=0.0, **kwargs):
        super().__init__(**kwargs)
        self.mask_value = float(one_number(mask_value, "mask_value"))

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
        return zero_under_mask(inputs, mask), mask

    def backward(self, grad):
        return zero_under_mask(grad, self.saved)

    def compute_mask_shape(self, input_shape, mask_shape):
        return input_shape[:-1]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mask_value": self.mask_value}

    def mask_role(self):
        return "makes"


@register_serializable(package=None)
class ApplyMask(Layer):
    """Set what stands at masked steps to 0, and the gradient there: ApplyMask()(x), or ApplyMask()([x, like]).

    Of one input, its mask counts: the one it carries, or `mask=`. Of two inputs the mask of the second counts, which
    must have as many steps; and that of the first, if it has one. Without any mask this layer does nothing. Keras has
    no such layer.

    Notes
    -----
    The mask goes on with the outputs, so a loss leaves masked steps out, too. An autoencoder whose decoder knows no
    mask is trained on the valid steps alone by cropping its outputs by the mask of the inputs:

        masked = Masking()(inputs)
        steps = RepeatLike()([LSTM(64)(masked), inputs])  # as long as the inputs, which have no mask yet
        decoded = Dense(F)(LSTM(64, return_sequences=True)(steps))
        outputs = ApplyMask()([decoded, masked])

    No gradient goes to `like`.

    Examples
    --------
    >>> y = ApplyMask()(np.ones((1, 3, 1)), mask=[[True, False, True]])
    >>> y.tolist(), y.mask
    ([[[1.0], [0.0], [1.0]]], array([[ True, False,  True]]))
    """

    supports_ragged = True
    _lean = True
    _makes_mask = False
    streams = True

    def build(self, input_shape):
        self.check_input_shape(input_shape)

    def check_input_shape(self, shape):
        """ValueError if it is a list of shapes, but not of two with the same steps."""
        if not is_nested(shape):
            return
        if len(shape) != 2 or any(differ(n, m) for n, m in zip(shape[0][:2], shape[1][:2], strict=False)):
            raise ValueError(
                f"{self.name}: inputs: expected x or [x, like] with the same steps (B,T), received "
                f"{' and '.join(str(tuple(s)) for s in shape)}"
            )

    def compute_mask(self, inputs, mask=None):
        if mask is None or not isinstance(inputs, (list, tuple)):
            return mask
        of_x, of_like = mask
        if of_x is None or of_like is None:
            return of_like if of_x is None else of_x
        return of_x & of_like

    def call(self, inputs, mask=None, training=False):
        self.check_input_shape(map_inputs(np.shape, inputs))
        x, *like = inputs if isinstance(inputs, list) else [inputs]
        if like and isinstance(x, Ragged) != isinstance(like[0], Ragged):
            raise TypeError(f"{self.name}: inputs: expected two arrays or two Ragged, received one of each")
        if like and isinstance(x, Ragged) and not np.array_equal(x.offsets, like[0].offsets):
            raise ValueError(f"{self.name}: inputs: expected Ragged of the same row lengths, received others")
        mask = self.compute_mask(inputs, mask)
        if training:
            self.saved = mask, bool(like)
        return x if mask is None else zero_under_mask(x, mask)

    def backward(self, grad):
        mask, with_like = self.saved
        dx = grad if mask is None else zero_under_mask(grad, mask)
        return [dx, None] if with_like else dx

    def compute_output_shape(self, input_shape):
        return input_shape[0] if is_nested(input_shape) else input_shape

    def mask_role(self):
        return "uses, passes"


@register_serializable(package=None)
class Identity(Layer):
    """Hands on what comes in, with its mask."""

    supports_masking = True
    supports_ragged = True
    _casts_integers = False
    _lean = True
    streams = True

    def call(self, inputs):
        return inputs

    def backward(self, grad):
        return grad

    def compute_output_shape(self, input_shape):
        return input_shape


class Affine(Layer):
    """What Dense and Conv1D share: a kernel, a bias, an activation, and a model that may end here.

    A subclass names its op (`_pack`, `_infer`, `_forward`, `_backward`) and calls `_add_weights` in build.
    """

    supports_ragged = True
    _single_input = True
    _lean = True
    _packed = None, None  # versions of the weights, and the packed copy of them

    def __init__(
        self,
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
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.activation = activations.name_of(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.kernel = self.bias = None

    def _add_weights(self, kernel_shape):
        self.kernel = self.add_weight(
            kernel_shape,
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        if self.use_bias:
            self.bias = self.add_weight(
                kernel_shape[-1:],
                self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                name="bias",
            )

    def _arrays(self):
        """kernel, bias or None, and their packed copy, made anew whenever one has changed."""
        kernel, bias = self.kernel.value, None if self.bias is None else self.bias.value
        version, packed = self._packed
        if version != self._versions():
            version, packed = self._packed = self._versions(), self._pack(kernel, bias)
        return kernel, bias, packed

    def _versions(self):
        return self.kernel.version, None if self.bias is None else self.bias.version

    @property
    def output_activation(self):
        return self.activation if self.activation in ("softmax", "sigmoid") else None

    def _keep(self, tape, logits):
        """What a training call leaves for backward, and for the loss of a model that ends here."""
        call = self._current_call()
        call.saved = tape, self._versions()
        if self.output_activation:
            call.logits = logits(tape)

    def backward(self, grad):
        if grad is None:
            return None
        call = self._current_call()
        tape, version = call.saved
        if version != self._versions():  # the tape refers to the kernel itself
            raise ValueError(f"{self.name}: backward: expected the weights of the call, they were changed since")
        g = self._backward(tape, grad, need_x=call.need_x, from_logits=call.grad_is_of_logits)
        self.add_gradient(self.kernel, g.kernel)
        if self.bias is not None:
            self.add_gradient(self.bias, g.bias)
        return g.x

    def get_config(self):
        return {
            **super().get_config(),
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }


@register_serializable(package=None)
class Dense(Affine):
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
    streams = True
    _pack = staticmethod(gemm.dense_pack)
    _backward = staticmethod(gemm.dense_backward)

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
        self.units = check_units(units)

    def build(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(f"{self.name}: inputs: expected shape (B,...,F) with a known F, received {input_shape}")
        self._add_weights((int(input_shape[-1]), self.units))

    def call(self, inputs, mask=None, training=False):
        return self._compute(inputs, mask, training, self.activation)

    def _run_with_logits(self, inputs, mask):
        """(outputs, mask, logits), for the loss of a model that ends here; inference."""
        logits = self._compute(inputs, mask, False, None)
        return activations.get(self.activation)(logits), mask, logits

    def _compute(self, inputs, mask, training, activation):
        self.check_input_shape(inputs.shape)
        outputs, tape = self._affine(inputs, training, activation)
        if mask is None or _all_finite_under(mask, tape, outputs):
            return outputs
        return compute_under_mask(lambda x: self._affine(x, training, activation)[0], inputs, mask)

    def _affine(self, x, training, activation):
        kernel, bias, packed = self._arrays()
        outputs, tape = gemm.dense_forward(x, kernel, bias, activation=activation, packed=packed)
        if training:
            self._keep(tape, lambda tape: _like(x, tape.z.reshape(tape.shape)))
        return outputs, tape

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights."""
        if self.built and (len(shape) < 2 or shape[-1] != self.kernel.shape[0]):
            raise ValueError(
                f"{self.name}: inputs: expected shape (B,...,{self.kernel.shape[0]}), received {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}

    def mask_role(self):
        return "passes"


def _all_finite_under(mask, tape, outputs):
    """Whether inputs, pre-activations and outputs are finite at masked steps. Whatever is not in a step of the inputs
    makes all of its pre-activations so, and of these there are mostly fewer.
    """
    y = values_of(outputs)
    z = tape.z.reshape(y.shape)
    return is_finite_under(z, mask) and (tape.activation in (None, "linear") or is_finite_under(y, mask))


def _like(x, values):
    return x.with_values(values) if isinstance(x, Ragged) else values


def check_units(units):
    if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units < 1:
        raise ValueError(f"units: expected a whole number of 1 or more, received {units!r}")
    return int(units)
