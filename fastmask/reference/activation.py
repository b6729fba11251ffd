"""Activations: each function with its derivative right below it, both from the pre-activation x.

Names, defaults and the values at kinks are those of Keras 3; NaN in gives NaN out. Recurrent cells take any elementwise
name; softmax and log_softmax work along the last axis and are for output layers only.
"""

import math

import numpy as np

SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717


# ---- straight pieces ------------------------------------------------------------------------------------------------
def linear(x):
    return x


def linear_grad(x):
    return np.ones_like(x)


def relu(x):
    return np.maximum(x, 0)


def relu_grad(x):
    return x > 0


def relu6(x):
    return np.clip(x, 0, 6)


def relu6_grad(x):
    return (x > 0) & (x < 6)


def leaky_relu(x):
    return np.where(x > 0, x, 0.2 * x)


def leaky_relu_grad(x):
    return np.where(x > 0, 1.0, 0.2)


def hard_tanh(x):
    return np.clip(x, -1, 1)


def hard_tanh_grad(x):
    return (x >= -1) & (x <= 1)


def hard_sigmoid(x):
    """Keras 3: relu6(x + 3) / 6."""
    return np.clip(x + 3, 0, 6) / 6


def hard_sigmoid_grad(x):
    return np.where((x > -3) & (x < 3), 1 / 6, 0.0)


def hard_sigmoid_v2(x):
    """Keras 1 and 2, ONNX: clip(0.2 x + 0.5, 0, 1). Another function under the same old name."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def hard_sigmoid_v2_grad(x):
    return np.where((x > -2.5) & (x < 2.5), 0.2, 0.0)


def hard_silu(x):
    return x * hard_sigmoid(x)


def hard_silu_grad(x):
    return np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6))


def hard_shrink(x):
    return np.where(np.abs(x) <= 0.5, 0, x)


def hard_shrink_grad(x):
    return np.abs(x) > 0.5


def soft_shrink(x):
    return x - np.clip(x, -0.5, 0.5)


def soft_shrink_grad(x):
    return np.abs(x) > 0.5


def threshold(x):
    """Keras' threshold(x, threshold, default_value) with 0 for both, which it leaves to the caller."""
    return np.where(x <= 0, 0, x)


def threshold_grad(x):
    return x > 0


def sparse_sigmoid(x):
    return np.clip((x + 1) / 2, 0, 1)


def sparse_sigmoid_grad(x):
    return np.where((x > -1) & (x < 1), 0.5, 0.0)


def sparse_plus(x):
    inside = np.clip(x, -1, 1)  # keeps the square from overflowing far outside
    return np.where(x >= 1, x, (inside + 1) ** 2 / 4)


def sparse_plus_grad(x):
    return np.clip((x + 1) / 2, 0, 1)


# ---- exponentials: exp is only ever taken where it cannot overflow, but in `exponential` ---------------------------
def exponential(x):
    return np.exp(x)


def exponential_grad(x):
    return np.exp(x)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def elu_grad(x):
    return np.exp(np.minimum(x, 0))


def celu(x):
    """With alpha = 1, Keras' default, celu and elu are one function."""
    return elu(x)


def celu_grad(x):
    return elu_grad(x)


def selu(x):
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def selu_grad(x):
    return SELU_SCALE * np.where(x >= 0, 1, SELU_ALPHA * np.exp(np.minimum(x, 0)))


def sigmoid(x):
    """1 / (1 + exp(-x)), by exp(-|x|)."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def sigmoid_grad(x):
    return sigmoid(x) * sigmoid(-x)


def log_sigmoid(x):
    return -softplus(-x)


def log_sigmoid_grad(x):
    return sigmoid(-x)


def softplus(x):
    """log(1 + exp(x))."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softplus_grad(x):
    return sigmoid(x)


def silu(x):
    return x * sigmoid(x)


def silu_grad(x):
    return sigmoid(x) * (1 + x * sigmoid(-x))


def tanh(x):
    return np.tanh(x)


def tanh_grad(x):
    return 1 - np.tanh(x) ** 2


def tanh_shrink(x):
    return x - np.tanh(x)


def tanh_shrink_grad(x):
    return np.tanh(x) ** 2


def mish(x):
    return x * np.tanh(softplus(x))


def mish_grad(x):
    t = np.tanh(softplus(x))
    return t + x * (1 - t**2) * sigmoid(x)


# ---- others ----------------------------------------------------------------------------------------------------------
_erfc = np.vectorize(math.erfc, otypes=[np.float64])  # NumPy has none


def normal_cdf(x):
    return 0.5 * _erfc(-x / math.sqrt(2)).astype(x.dtype)


def gelu(x):
    """The exact one, x P(X <= x); Keras' default."""
    return x * normal_cdf(x)


def gelu_grad(x):
    return normal_cdf(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def softsign(x):
    return x / (1 + np.abs(x))


def softsign_grad(x):
    return 1 / (1 + np.abs(x)) ** 2


def squareplus(x):
    """(x + sqrt(x^2 + 4)) / 2; for negative x its equal 2 / (sqrt(x^2 + 4) - x), where nothing cancels."""
    root = np.hypot(x, 2)
    return np.where(x > 0, x + root, 4 / (root + np.abs(x))) / 2


def squareplus_grad(x):
    return squareplus(x) / np.hypot(x, 2)


def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def log_softmax(x):
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


ELEMENTWISE = {
    "linear": (linear, linear_grad),
    "relu": (relu, relu_grad),
    "relu6": (relu6, relu6_grad),
    "leaky_relu": (leaky_relu, leaky_relu_grad),
    "elu": (elu, elu_grad),
    "selu": (selu, selu_grad),
    "celu": (celu, celu_grad),
    "softplus": (softplus, softplus_grad),
    "softsign": (softsign, softsign_grad),
    "squareplus": (squareplus, squareplus_grad),
    "silu": (silu, silu_grad),
    "swish": (silu, silu_grad),
    "hard_silu": (hard_silu, hard_silu_grad),
    "hard_swish": (hard_silu, hard_silu_grad),
    "gelu": (gelu, gelu_grad),
    "tanh": (tanh, tanh_grad),
    "hard_tanh": (hard_tanh, hard_tanh_grad),
    "sigmoid": (sigmoid, sigmoid_grad),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_grad),
    "hard_sigmoid_v2": (hard_sigmoid_v2, hard_sigmoid_v2_grad),
    "log_sigmoid": (log_sigmoid, log_sigmoid_grad),
    "exponential": (exponential, exponential_grad),
    "mish": (mish, mish_grad),
    "tanh_shrink": (tanh_shrink, tanh_shrink_grad),
    "soft_shrink": (soft_shrink, soft_shrink_grad),
    "hard_shrink": (hard_shrink, hard_shrink_grad),
    "threshold": (threshold, threshold_grad),
    "sparse_plus": (sparse_plus, sparse_plus_grad),
    "sparse_sigmoid": (sparse_sigmoid, sparse_sigmoid_grad),
}
LAST_AXIS = {"softmax": softmax, "log_softmax": log_softmax}


def activation(name):
    """The function of that name; None is linear.

    Raises  ValueError : unknown name.

    >>> activation("relu")(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    name = "linear" if name is None else name
    if name in ELEMENTWISE:
        return ELEMENTWISE[name][0]
    if name in LAST_AXIS:
        return LAST_AXIS[name]
    raise ValueError(f"activation: expected one of {', '.join([*ELEMENTWISE, *LAST_AXIS])}, received {name!r}")


def activation_grad(name, x):
    """The derivative at x of an elementwise activation, in x's dtype.

    Raises  ValueError : unknown name, or softmax and log_softmax, whose derivative is no elementwise function.

    >>> activation_grad("relu", np.array([-1.0, 2.0]))
    array([0., 1.])
    """
    name = "linear" if name is None else name
    if name not in ELEMENTWISE:
        raise ValueError(f"activation: expected one of {', '.join(ELEMENTWISE)}, received {name!r}")
    x = np.asarray(x)
    return np.asarray(ELEMENTWISE[name][1](x), dtype=x.dtype)


def activation_forward(x, name):
    """y = f(x), in x's dtype."""
    x = np.asarray(x)
    return np.asarray(activation(name)(x), dtype=x.dtype)


def activation_backward(x, y, dy, name):
    """Gradient with respect to x, from dy, the gradient with respect to y = f(x).

    softmax      dx = y (dy - sum(dy y))
    log_softmax  dx = dy - exp(y) sum(dy)
    others       dx = dy f'(x)
    """
    if name == "softmax":
        return y * (dy - np.sum(dy * y, axis=-1, keepdims=True))
    if name == "log_softmax":
        return dy - np.exp(y) * np.sum(dy, axis=-1, keepdims=True)
    return dy * activation_grad(name, x)


def softmax_forward(x, axis=-1, mask=None):
    """e^x / sum(e^x) along an axis over the entries that a mask leaves; 0 at the others, whatever stands there.

    mask: of the leading axes of x up to `axis` or beyond. Softmax over time: x (B,T,F), axis 1, mask (B,T).
    """
    x = np.asarray(x)
    valid = np.ones(x.shape, bool) if mask is None else _spread(mask, x)
    x = np.where(valid, x, -np.inf)
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    e = np.exp(x - np.where(np.any(valid, axis=axis, keepdims=True), top, 0))
    total = np.sum(e, axis=axis, keepdims=True)
    return e / np.where(total == 0, 1, total)


def softmax_backward(y, dy, axis=-1, mask=None):
    """dx = y (dy - sum(dy y)); 0 at masked entries, where dy is ignored."""
    y = np.asarray(y)
    dy = dy if mask is None else np.where(_spread(mask, y), dy, 0)
    return y * (dy - np.sum(dy * y, axis=axis, keepdims=True))


def _spread(mask, x):
    mask = np.asarray(mask)
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x.shape) != 0
