"""LayerNormalization, UnitNormalization and BatchNormalization."""

from fastmask import constraints, initializers, regularizers
from fastmask.checks import check_number
from fastmask.layers.base import Layer
from fastmask.layers.masked import compute_under_mask
from fastmask.layers.registry import register_serializable
from fastmask.ops import normalization
from fastmask.ops.mask import align_mask
from fastmask.ragged import Ragged


class _Normalization(Layer):
    """What the layers below share: they work along the last axis and know what stands under a mask."""

    supports_masking = True
    supports_ragged = True
    _single_input = True
    _lean = True

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        if axis not in (-1, [-1], (-1,)):
            raise ValueError(f"axis: expected -1, the last axis, received {axis!r}")
        self.axis = -1

    def _normalized(self, forward, inputs, mask, training):
        """forward(inputs) -> outputs, whose tape is kept in training."""

        def compute(x):
            y, tape = forward(x)
            if training:
                self.saved = tape
            return y

        self.check_input_shape(inputs.shape)
        return compute_under_mask(compute, inputs, mask)

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape have no features."""
        if len(shape) < 2:
            raise ValueError(f"{self.name}: inputs: expected shape (B,...,F), received {tuple(shape)}")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}

    def mask_role(self):
        return "passes"


class _ScaledNormalization(_Normalization):
    """With gamma and beta. The arguments are those of LayerNormalization."""

    def __init__(
        self,
        axis=-1,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        **kwargs,
    ):
        super().__init__(axis, **kwargs)
        self.epsilon = check_number(epsilon, "epsilon")
        self.center, self.scale = bool(center), bool(scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self._features = self.gamma = self.beta = None

    def build(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(f"{self.name}: inputs: expected shape (B,...,F) with a known F, received {input_shape}")
        self._features = int(input_shape[-1])
        if self.scale:
            self.gamma = self.add_weight(
                (self._features,),
                self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
                name="gamma",
            )
        if self.center:
            self.beta = self.add_weight(
                (self._features,),
                self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
                name="beta",
            )

    @property
    def _scale_and_shift(self):
        """Values of gamma and beta, None for one that is not there."""
        return [None if weight is None else weight.value for weight in (self.gamma, self.beta)]

    def _hand_on(self, gradients):
        """Those of the weights to the weights; returns that of the inputs."""
        if self.gamma is not None:
            self.add_gradient(self.gamma, gradients.gamma)
        if self.beta is not None:
            self.add_gradient(self.beta, gradients.beta)
        return gradients.x

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights."""
        if self.built and (len(shape) < 2 or shape[-1] != self._features):
            raise ValueError(f"{self.name}: inputs: expected shape (B,...,{self._features}), received {tuple(shape)}")

    def get_config(self):
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
        }


@register_serializable(package=None)
class LayerNormalization(_ScaledNormalization):
    """y = (x - mean) / sqrt(variance + epsilon) gamma + beta, with the mean and variance of each step's features.

    Parameters
    ----------
    axis : -1
    epsilon : float
    center, scale : bool
        Whether there are beta and gamma.
    beta_initializer, gamma_initializer : as `initializers.get` takes
    beta_regularizer, gamma_regularizer : as `regularizers.get` takes, optional
    beta_constraint, gamma_constraint : as `constraints.get` takes, optional

    Notes
    -----
    x (..., F) -> (..., F); gamma and beta (F,). The mask goes on as it is, and masked steps are computed like any
    other, from whatever stands there; only NaN and infinity count as 0 there.

    Examples
    --------
    >>> LayerNormalization(epsilon=0.0)([[1.0, 3.0]])
    array([[-1.,  1.]], dtype=float32)
    """

    streams = True

    def call(self, inputs, mask=None, training=False):
        def forward(x):
            return normalization.layer_normalization_forward(x, *self._scale_and_shift, epsilon=self.epsilon)

        return self._normalized(forward, inputs, mask, training)

    def backward(self, grad):
        if grad is None:
            return None
        return self._hand_on(normalization.layer_normalization_backward(self.saved, grad))


@register_serializable(package=None)
class UnitNormalization(_Normalization):
    """y = x / |x|: each step a vector of length 1.

    Parameters
    ----------
    axis : -1

    Notes
    -----
    x (..., F) -> (..., F); a step shorter than 1e-12 is divided by that. The mask goes on as it is, and masked steps
    are computed like any other, from whatever stands there; only NaN and infinity count as 0 there.

    Examples
    --------
    >>> UnitNormalization()([[3.0, 4.0]])
    array([[0.6, 0.8]], dtype=float32)
    """

    streams = True

    def call(self, inputs, mask=None, training=False):
        return self._normalized(normalization.unit_normalization_forward, inputs, mask, training)

    def backward(self, grad):
        return None if grad is None else normalization.unit_normalization_backward(self.saved, grad)


@register_serializable(package=None)
class BatchNormalization(_ScaledNormalization):
    """y = (x - mean) / sqrt(variance + epsilon) gamma + beta, with the mean and variance of each feature.

    Parameters
    ----------
    axis : -1
    momentum : float
        What the moving statistics keep of themselves in each training call.
    epsilon : float
    center, scale : bool
        Whether there are beta and gamma.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer
        As `initializers.get` takes.
    beta_regularizer, gamma_regularizer : as `regularizers.get` takes, optional
    beta_constraint, gamma_constraint : as `constraints.get` takes, optional
    renorm, renorm_clipping, renorm_momentum, synchronized
        Not supported: renorm and synchronized must be False.

    Notes
    -----
    x (..., F) -> (..., F); all weights (F,), in the order gamma, beta, moving_mean, moving_variance.

    A training call takes mean and variance of the valid steps of the batch (0 and 0 if there is none), normalises all
    steps with them, and updates the moving statistics: moving = momentum moving + (1 - momentum) batch. An inference
    call normalises with the moving statistics; so does a training call of a layer with ``trainable = False``.

    The mask goes on as it is; NaN and infinity under it count as 0. Padding changes no bit: of x with a mask or of the
    same steps as Ragged the moments are the same. (Keras divides by n + 1e-7 under a mask.)

    Examples
    --------
    >>> layer = BatchNormalization(momentum=0.5, epsilon=0.0)
    >>> layer([[[1.0], [3.0], [9.0]]], mask=[[1, 1, 0]], training=True)[0, :, 0]
    array([-1.,  1.,  7.], dtype=float32)
    >>> layer.moving_mean.numpy(), layer.moving_variance.numpy()
    (array([1.], dtype=float32), array([1.], dtype=float32))
    """

    streams = True

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.99,
        synchronized=False,
        **kwargs,
    ):
        super().__init__(
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        for name, value in (("renorm", renorm), ("synchronized", synchronized)):
            if value:
                raise ValueError(f"{name}: not supported, expected False, received {value!r}")
        self.momentum = check_number(momentum, "momentum", 0, 1)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.moving_mean = self.moving_variance = None

    def build(self, input_shape):
        super().build(input_shape)
        shape, mean, variance = (self._features,), self.moving_mean_initializer, self.moving_variance_initializer
        self.moving_mean = self.add_weight(shape, mean, trainable=False, name="moving_mean")
        self.moving_variance = self.add_weight(shape, variance, trainable=False, name="moving_variance")

    def call(self, inputs, mask=None, training=False):
        if mask is not None:
            mask = align_mask(mask, (inputs.values if isinstance(inputs, Ragged) else inputs).shape[:-1])
        learning = training and self.trainable
        moments = None if learning else (self.moving_mean.value, self.moving_variance.value)

        def forward(x):
            return normalization.batch_normalization_forward(
                x, *self._scale_and_shift, mask=mask, moments=moments, epsilon=self.epsilon
            )

        outputs = self._normalized(forward, inputs, mask, training)
        if learning:
            self._move(self.moving_mean, self.saved.mean)
            self._move(self.moving_variance, self.saved.variance)
        return outputs

    def _move(self, moving, value):
        moving.assign(moving.value * self.momentum + value * (1 - self.momentum))

    def backward(self, grad):
        if grad is None:
            return None
        return self._hand_on(normalization.batch_normalization_backward(self.saved, grad))

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
        }

    def mask_role(self):
        return "uses, passes"
