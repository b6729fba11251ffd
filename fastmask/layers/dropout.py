"""Dropout, SpatialDropout1D and GaussianNoise: noise in training, nothing otherwise."""

import numpy as np

from fastmask import initializers
from fastmask.checks import check_number, check_whole
from fastmask.layers.base import Layer
from fastmask.layers.masked import finite_under_mask, map_values
from fastmask.layers.registry import register_serializable
from fastmask.ragged import Ragged


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
    streams = True

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate(rate, "rate")
        if noise_shape is not None:
            if not isinstance(noise_shape, (tuple, list)):
                raise TypeError(f"noise_shape: expected a tuple or None, received {noise_shape!r}")
            for n in noise_shape:
                if n is not None:
                    check_whole(n, "noise_shape", 0)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.seed = initializers.check_seed(seed)
        self._generator = initializers.new_generator(seed)

    def call(self, inputs, mask=None, training=False):
        if mask is not None:
            inputs = finite_under_mask(inputs, mask)
        if not training:
            return inputs
        factors = self.saved = self._factors(inputs) if self.rate > 0 else None
        return _times(inputs, factors)

    def backward(self, grad):
        return _times(grad, self.saved)

    def _factors(self, inputs):
        """What the values of the inputs are multiplied by."""
        return dropout_factors(self._generator, self.rate, self._choice_shape(inputs), inputs.dtype)

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


@register_serializable(package=None)
class SpatialDropout1D(Dropout):
    """In training, set a random share of the features to 0 in all steps of a row; else do nothing.

    Parameters
    ----------
    rate : float
        The share, from 0 to 1; what is kept is divided by 1 - rate.
    seed : int, optional
        Seed of this layer's own generator; drawn from the global one by default.

    Notes
    -----
    (B,T,F) -> (B,T,F), one choice (B,F) for each row: padded or Ragged, a row loses the same features.
    """

    streams = True

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)

    def check_input_shape(self, shape):
        """ValueError if it is not (B,T,F)."""
        if len(shape) != 3:
            raise ValueError(f"{self.name}: inputs: expected shape (B,T,F), received {tuple(shape)}")

    def call(self, inputs, mask=None, training=False):
        self.check_input_shape(inputs.shape)
        return super().call(inputs, mask, training)

    def _factors(self, inputs):
        B, _, F = inputs.shape
        factors = dropout_factors(self._generator, self.rate, (B, F), inputs.dtype)
        return np.repeat(factors, inputs.lengths, axis=0) if isinstance(inputs, Ragged) else factors[:, None, :]

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


@register_serializable(package=None)
class GaussianNoise(Layer):
    """In training, add normal noise of mean 0; else do nothing.

    Parameters
    ----------
    stddev : float
        Standard deviation, from 0 to 1.
    seed : int, optional
        Seed of this layer's own generator; drawn from the global one by default.

    Notes
    -----
    Any shape; the mask goes on as it is. The gradient passes unchanged.
    """

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True
    streams = True

    def __init__(self, stddev, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.stddev = check_rate(stddev, "stddev")
        self.seed = initializers.check_seed(seed)
        self._generator = initializers.new_generator(seed)

    def call(self, inputs, mask=None, training=False):
        if mask is not None:
            inputs = finite_under_mask(inputs, mask)
        if not training or self.stddev == 0:
            return inputs
        return map_values(self._noisy, inputs)

    def _noisy(self, values):
        noise = self._generator.standard_normal(values.shape, dtype=values.dtype)
        return values + noise * values.dtype.type(self.stddev)

    def backward(self, grad):
        return grad

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}

    def mask_role(self):
        return "passes"


def dropout_factors(generator, rate, shape, dtype):
    """0 with probability `rate`, else 1 / (1 - rate)."""
    factors = (generator.random(shape, dtype=np.float32) >= rate).astype(dtype)
    if rate < 1:
        factors *= dtype.type(1 / (1 - rate))
    return factors


def _times(x, factors):
    if x is None or factors is None:
        return x
    with np.errstate(over="ignore"):  # under a mask may stand anything
        return map_values(lambda values: values * factors, x)


def check_rate(rate, name):
    return check_number(rate, name, 0, 1)
