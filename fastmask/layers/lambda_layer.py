"""Lambda: a function of one's own as a layer."""

import inspect

import numpy as np

from fastmask.checks import check_config
from fastmask.layers import symbolic
from fastmask.layers.base import Layer
from fastmask.layers.masked import finite_under_mask
from fastmask.layers.outgoing import warn_dropped
from fastmask.layers.registry import register_serializable
from fastmask.layers.structure import is_nested, map_inputs
from fastmask.ops.mask import check_numbers
from fastmask.ragged import Ragged
from fastmask.registry import registered_function


@register_serializable(package=None)
class Lambda(Layer):
    """A function of arrays as a layer.

    Parameters
    ----------
    function : callable
        function(inputs, **arguments) returns the outputs; it also gets mask= and training= if it has such parameters.
        `inputs` is an ndarray, a Ragged if one comes in, or a list for several inputs.
    output_shape : tuple or callable, optional
        Shape of the outputs of one row, without the batch, or a function of the input shape that returns the whole
        shape. By default found by trying.
    mask : callable or array, optional
        mask(inputs, mask) returns the mask of the outputs; an array is that mask itself. With None the layer has none,
        and one that comes in is dropped, with a MaskDroppedWarning. ``mask=lambda inputs, mask: mask`` hands it on.
    arguments : dict, optional
        Further keywords of the function.
    gradient : callable, optional
        gradient(inputs, outputs, grad) returns the gradient of the inputs from that of the outputs, a list for a list
        of inputs. Without it the layer works for inference only.

    Notes
    -----
    Integers stay integers. NaN and infinity at masked steps reach the function as 0.

    A layer like this can be written down, as saving a model does, only if its functions are registered: decorate them
    with `register_serializable`, here and where they are read back. Code itself is never written down nor run from a
    file.

    Examples
    --------
    >>> double = Lambda(lambda x: 2 * x, mask=lambda x, mask: mask, gradient=lambda x, y, grad: 2 * grad)
    >>> double(np.ones((1, 2), np.float32))
    array([[2., 2.]], dtype=float32)
    """

    supports_ragged = True
    _casts_integers = False
    _compute_mask_is_trusted = False
    _no_stream = "set streams = True on it if its function takes each step by itself"

    def __init__(self, function, output_shape=None, mask=None, arguments=None, gradient=None, **kwargs):
        super().__init__(**kwargs)
        for name, given in (("function", function), ("gradient", gradient)):
            if not callable(given) and (name == "function" or given is not None):
                raise TypeError(f"{name}: expected a callable, received {given!r}")
        self.function, self.gradient = function, gradient
        if not (output_shape is None or callable(output_shape) or isinstance(output_shape, (tuple, list))):
            raise TypeError(f"output_shape: expected a tuple, a function or None, received {output_shape!r}")
        if arguments is not None and not isinstance(arguments, dict):
            raise TypeError(f"arguments: expected a dict or None, received {arguments!r}")
        self.output_shape = output_shape if output_shape is None or callable(output_shape) else tuple(output_shape)
        self.mask = mask if mask is None or callable(mask) else check_numbers(mask, "mask").astype(bool)
        self.arguments = dict(arguments or {})
        self.supports_masking = mask is not None

    def call(self, inputs, mask=None, training=False):
        if mask is not None and isinstance(inputs, list):
            inputs = [x if m is None else finite_under_mask(x, m) for x, m in zip(inputs, mask, strict=True)]
        elif mask is not None:
            inputs = finite_under_mask(inputs, mask)
        context = {"mask": mask, "training": training}
        outputs = self.function(inputs, **self.arguments, **_taken(self.function, context))
        if not isinstance(outputs, (list, tuple, Ragged)):
            outputs = np.asarray(outputs)
        if training:
            self.saved = inputs, outputs, context
        return outputs

    def backward(self, grad):
        if self.gradient is None:
            raise NotImplementedError(
                f"{self.name}: Lambda has no gradient, so it works for inference only; give it "
                "gradient=f(inputs, outputs, grad) to train through it"
            )
        inputs, outputs, context = self.saved
        d_inputs = self.gradient(inputs, outputs, grad, **_taken(self.gradient, {**self.arguments, **context}))
        expected, received = map_inputs(np.shape, inputs), map_inputs(np.shape, d_inputs)
        if expected != received:
            raise ValueError(f"{self.name}: gradient: expected shape {expected} as the inputs, received {received}")
        return d_inputs

    # ---- masks and shapes -------------------------------------------------------------------------------------------
    def compute_mask(self, inputs, mask=None):
        return self.mask(inputs, mask) if callable(self.mask) else self.mask

    def compute_mask_shape(self, input_shape, mask_shape):
        if self.supports_masking:
            return super().compute_mask_shape(input_shape, mask_shape)
        if mask_shape is not None:
            self._warn_dropped()
        return None

    def _warn_dropped(self):
        warn_dropped(
            self,
            "was given no mask=, so the one that comes in is lost here. Give it mask=lambda inputs, mask: mask if its "
            "outputs have the steps of its inputs, or pass mask= to a later layer by hand.",
        )

    def compute_output_shape(self, input_shape):
        if self.output_shape is None:
            return super().compute_output_shape(input_shape)
        if callable(self.output_shape):
            return tuple(self.output_shape(input_shape))
        return ((input_shape[0] if is_nested(input_shape) else input_shape)[0], *self.output_shape)

    def compute_output_spec(self, inputs, mask_shape, options):
        if isinstance(self.mask, np.ndarray):  # that of one batch, whose size no trial knows
            unmasked = Lambda(self.function, self.output_shape, None, self.arguments, name=self.name, dtype=self.dtype)
            return unmasked.compute_output_spec(inputs, None, options)[0], self.mask.shape
        if self.output_shape is None:  # the function may want the mask, too
            return symbolic.try_out(self, inputs, mask_shape, options)
        return super().compute_output_spec(inputs, mask_shape, options)

    def mask_role(self):
        return "changes" if self.supports_masking else "drops"

    # ---- configuration ----------------------------------------------------------------------------------------------
    def get_config(self):
        return {
            **super().get_config(),
            "function": self._written("function"),
            "output_shape": self._written("output_shape"),
            "mask": self._written("mask"),
            "arguments": self.arguments,
            "gradient": self._written("gradient"),
        }

    def _written(self, name):
        """An argument as plain data; a function by the name under which it is registered."""
        value = getattr(self, name)
        if not callable(value):
            return value.tolist() if isinstance(value, np.ndarray) else value
        registered = getattr(value, "_registered_name", None)
        if registered_function(registered) is not value:
            raise ValueError(
                f"{self.name}: {name}: expected a registered function to write down, received {value!r}: decorate it "
                "with register_serializable, here and where it is to be read back (a lambda cannot be saved)"
            )
        return {"registered": registered}

    @classmethod
    def from_config(cls, config):
        check_config(config)
        return cls(**{key: _read(key, value) for key, value in config.items()})


def _read(key, value):
    if not isinstance(value, dict) or key == "arguments":
        return value
    function = registered_function(value.get("registered"))
    if function is None:
        raise ValueError(f"{key}: expected a function that is registered, received {value!r}")
    return function


def _taken(function, values):
    """Those of some keywords that a function has parameters for."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # compiled: a NumPy function
        return {}
    return {name: value for name, value in values.items() if name in parameters}
