"""Layer and batch normalization: y = normal gamma + beta, normal = (x - mean) / sqrt(variance + epsilon); and unit
normalization: y = x / |x|.

x (...,F); gamma and beta (F,). Each backward takes the arguments of its forward and dy, the gradient of y.
"""

from typing import NamedTuple

import numpy as np


class NormalizationGradients(NamedTuple):
    """x as x; gamma and beta (F,)."""

    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray


def layer_normalization_forward(x, gamma, beta, epsilon=1e-3):
    """Mean and variance over the features of each step."""
    return _normal_of_steps(x, epsilon)[0] * gamma + beta


def layer_normalization_backward(x, dy, gamma, epsilon=1e-3):
    """dx = (g - mean(g) - normal mean(g normal)) / sqrt(variance + epsilon), with g = dy gamma."""
    normal, inverse = _normal_of_steps(x, epsilon)
    g = dy * gamma
    g_mean = np.mean(g, axis=-1, keepdims=True)
    g_normal_mean = np.mean(g * normal, axis=-1, keepdims=True)
    dx = inverse * (g - g_mean - normal * g_normal_mean)
    return NormalizationGradients(dx, _over_steps(dy * normal), _over_steps(dy))


def unit_normalization_forward(x):
    """y = x / max(|x|, 1e-12)."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def unit_normalization_backward(x, dy):
    """dx = (dy - y sum(dy y)) / |x|; where |x| < 1e-12, dy / 1e-12."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    y = unit_normalization_forward(x)
    through_norm = np.where(norm < 1e-12, 0, y * np.sum(dy * y, axis=-1, keepdims=True))
    return (dy - through_norm) / np.maximum(norm, 1e-12)


def batch_moments(x, mask=None):
    """Mean and variance (F,) over the valid steps; 0 and 0 if there is none."""
    valid = x.reshape(-1, x.shape[-1]) if mask is None else x[mask]
    if len(valid) == 0:
        return np.zeros((2, x.shape[-1]), x.dtype)
    mean = np.mean(valid, axis=0)
    return mean, np.mean((valid - mean) ** 2, axis=0)


def batch_normalization_forward(x, gamma, beta, mask=None, moments=None, epsilon=1e-3):
    """All steps are normalised, with the moments of the valid ones or those given."""
    mean, variance = batch_moments(x, mask) if moments is None else moments
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def batch_normalization_backward(x, dy, gamma, mask=None, moments=None, epsilon=1e-3):
    """dx = gamma inverse (dy - [valid] (sum(dy) + normal sum(dy normal)) / n), the sums over all steps, n valid ones.

    Only valid steps had a part in the moments; if these were given, no step had.
    """
    mean, variance = batch_moments(x, mask) if moments is None else moments
    inverse = 1 / np.sqrt(variance + epsilon)
    normal = (x - mean) * inverse
    d_gamma, d_beta = _over_steps(dy * normal), _over_steps(dy)
    valid = np.ones(x.shape[:-1], bool) if mask is None else mask
    through_moments = np.where(valid[..., None], d_beta + normal * d_gamma, 0) / max(1, np.count_nonzero(valid))
    dx = gamma * inverse * (dy - through_moments) if moments is None else gamma * inverse * dy
    return NormalizationGradients(dx, d_gamma, d_beta)


def _normal_of_steps(x, epsilon):
    """(normal, inverse) with the moments of each step."""
    mean = np.mean(x, axis=-1, keepdims=True)
    variance = np.mean((x - mean) ** 2, axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(variance + epsilon)
    return (x - mean) * inverse, inverse


def _over_steps(x):
    return np.sum(x.reshape(-1, x.shape[-1]), axis=0)
