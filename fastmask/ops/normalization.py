"""Layer and batch normalization: y = normal gamma + beta, normal = (x - mean) / sqrt(variance + epsilon); and unit
normalization: y = x / |x|.

Layer normalization has a mean and a variance for each step, over its features; batch normalization for each feature,
over all valid steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastmask.checks import check_number
from fastmask.kernels import _jit
from fastmask.ops._common import as_floats, check_made_by, check_shape
from fastmask.ops.mask import check_mask, from_values
from fastmask.ragged import Ragged

_CHUNK = 64  # steps of a block of kernels/normalization.py
WORK = 8  # multiply-adds that one number of x is worth to the launcher


class NormalizationGradients(NamedTuple):
    """x as x; gamma and beta (F,), also where none was given."""

    x: np.ndarray | Ragged
    gamma: np.ndarray
    beta: np.ndarray


class Form(NamedTuple):
    """How the steps (N,F) came."""

    shape: tuple  # of the array, or of the values of a Ragged
    offsets: np.ndarray | None

    def restore(self, steps):
        values = steps.reshape(self.shape)
        return values if self.offsets is None else Ragged._checked(values, self.offsets)


class LayerTape(NamedTuple):
    x: np.ndarray  # (N,F), a view of what came
    form: Form
    gamma: np.ndarray
    moments: np.ndarray  # (N,2): mean and 1 / sqrt(variance + epsilon) of each step


class UnitTape(NamedTuple):
    x: np.ndarray  # (N,F), a view of what came
    form: Form
    inverse: np.ndarray  # (N,): 1 / |x|


class BatchTape(NamedTuple):
    x: np.ndarray  # (N,F), a view of what came
    form: Form
    gamma: np.ndarray
    mean: np.ndarray  # (F,)
    variance: np.ndarray  # (F,)
    inverse: np.ndarray  # (F,): 1 / sqrt(variance + epsilon)
    valid: np.ndarray | None  # numbers of the valid steps; None: all
    of_batch: bool  # mean and variance are those of the valid steps of x


def layer_normalization_forward(x, gamma=None, beta=None, *, epsilon=1e-3):
    """Layer normalization of each step, and the tape for layer_normalization_backward.

    Parameters
    ----------
    x : (...,F) float32 or float64, or Ragged
    gamma, beta : (F,) of x's dtype, or None for ones and zeros
    epsilon : float

    Returns
    -------
    y : as x
    tape : LayerTape

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    ::

        mean = mean(x)      variance = mean((x - mean)^2)      y = (x - mean) / sqrt(variance + epsilon) gamma + beta

    The bits of a step depend on that step alone (tests/test_normalization.py: test_a_step_is_itself). Parallel over
    steps.

    Source: Ba, Kiros & Hinton 2016; equal to keras.layers.LayerNormalization, Keras 3.15.

    Examples
    --------
    >>> layer_normalization_forward(np.array([[1.0, 3.0]]), epsilon=0.0)[0]
    array([[-1.,  1.]])
    """
    epsilon = check_number(epsilon, "epsilon")
    x, form = _as_steps("x", x)
    gamma, beta = _scale_and_shift(gamma, beta, x)
    y, moments = np.empty_like(x), np.empty((len(x), 2), x.dtype)
    _run("layer_forward", None, x, gamma=gamma, beta=beta, epsilon=epsilon, y=y, moments=moments)
    return form.restore(y), LayerTape(x, form, gamma, moments)


def layer_normalization_backward(tape, dy):
    """Gradients of layer_normalization_forward from dy, shaped as y.

    A step at which nothing but 0 arrives, as under a mask, adds nothing.

    Returns
    -------
    NormalizationGradients

    Notes
    -----
    With g = dy gamma: dx = (g - mean(g) - normal mean(g normal)) / sqrt(variance + epsilon). Sums over steps have one
    order whatever the number of threads.
    """
    check_made_by("layer_normalization_forward", "tape", tape, LayerTape)
    x, form, gamma, moments = tape
    dy = _as_gradient(dy, tape)
    reached = np.flatnonzero(from_values(dy))
    dx = np.zeros_like(x)
    d_gamma, d_beta = _pieces(len(reached), x), _pieces(len(reached), x)
    _run("layer_backward", reached, x, moments=moments, gamma=gamma, dy=dy, dx=dx, d_gamma=d_gamma, d_beta=d_beta)
    return NormalizationGradients(form.restore(dx), _total(d_gamma), _total(d_beta))


def unit_normalization_forward(x):
    """y = x / |x|, or x 1e12 where the length of a step is less than 1e-12, and the tape for the way back.

    Parameters
    ----------
    x : (...,F) float32 or float64, or Ragged

    Returns
    -------
    y : as x
    tape : UnitTape

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    The bits of a step depend on that step alone. Parallel over steps. Equal to keras.layers.UnitNormalization, Keras
    3.15, but for the gradient at x = 0, which TensorFlow makes NaN.

    Examples
    --------
    >>> unit_normalization_forward(np.array([[3.0, 4.0]]))[0]
    array([[0.6, 0.8]])
    """
    x, form = _as_steps("x", x)
    y, inverse = np.empty_like(x), np.empty(len(x), x.dtype)
    _run("unit_forward", None, x, y=y, inverse=inverse)
    return form.restore(y), UnitTape(x, form, inverse)


def unit_normalization_backward(tape, dy):
    """dx from dy, shaped as y: (dy - y sum(dy y)) / |x|."""
    check_made_by("unit_normalization_forward", "tape", tape, UnitTape)
    dy, dx = _as_gradient(dy, tape), np.zeros_like(tape.x)
    _run("unit_backward", np.flatnonzero(from_values(dy)), tape.x, inverse=tape.inverse, dy=dy, dx=dx)
    return tape.form.restore(dx)


def batch_normalization_forward(x, gamma=None, beta=None, *, mask=None, moments=None, epsilon=1e-3):
    """Batch normalization of all steps, and the tape for batch_normalization_backward.

    Parameters
    ----------
    x : (...,F) float32 or float64, or Ragged
    gamma, beta : (F,) of x's dtype, or None for ones and zeros
    mask : (...), optional
        True = the step has a part in the moments. Others are normalised all the same.
    moments : (mean, variance), each (F,), optional
        Given numbers instead of the moments of x.
    epsilon : float

    Returns
    -------
    y : as x
    tape : BatchTape
        Its mean and variance are those y was made with: of the valid steps of x, 0 and 0 if there is none.

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    ::

        mean = mean over valid steps of x     variance = mean over valid steps of (x - mean)^2
        y = (x - mean) / sqrt(variance + epsilon) gamma + beta

    The moments are sums over the valid steps in their order, in pieces, so padding and threads change no bit
    (tests/test_normalization.py: test_padding_changes_no_bit). Parallel over steps.

    Source: Ioffe & Szegedy 2015; equal to keras.layers.BatchNormalization, Keras 3.15, but that under a mask Keras
    divides by n + 1e-7 instead of the number n of valid steps.

    Examples
    --------
    >>> y, tape = batch_normalization_forward(np.array([[1.0], [3.0], [9.0]]), mask=[True, True, False], epsilon=0.0)
    >>> y.ravel(), tape.mean, tape.variance
    (array([-1.,  1.,  7.]), array([2.]), array([1.]))
    """
    if mask is None:
        mask = getattr(x, "mask", None)  # what a layer returned: never lose its mask
    epsilon = check_number(epsilon, "epsilon")
    x, form = _as_steps("x", x)
    gamma, beta = _scale_and_shift(gamma, beta, x)
    valid = None if mask is None else np.flatnonzero(check_mask(mask, form.shape[:-1]))
    if moments is None:
        mean, variance = _moments(x, valid)
    else:
        if not isinstance(moments, (tuple, list)) or len(moments) != 2:
            raise ValueError(f"moments: expected (mean, variance), received {moments!r}")
        mean, variance = (_as_vector(name, m, x).copy() for name, m in zip(("mean", "variance"), moments, strict=True))
    inverse = 1 / np.sqrt(variance + x.dtype.type(epsilon))
    y = np.empty_like(x)
    _run("batch_forward", None, x, mean=mean, inverse=inverse, gamma=gamma, beta=beta, y=y)
    return form.restore(y), BatchTape(x, form, gamma, mean, variance, inverse, valid, moments is None)


def batch_normalization_backward(tape, dy):
    """Gradients of batch_normalization_forward from dy, shaped as y.

    A step at which nothing but 0 arrives, as under a mask, adds nothing; what does arrive at a masked step counts, as
    it was normalised with the moments of the others.

    Returns
    -------
    NormalizationGradients

    Notes
    -----
    dx = gamma / sqrt(variance + epsilon) (dy - (sum(dy) + normal sum(dy normal)) / n) at the n valid steps, with sums
    over all steps; elsewhere, and if the moments were given, without these sums. They have one order whatever the
    number of threads.
    """
    check_made_by("batch_normalization_forward", "tape", tape, BatchTape)
    x, form, gamma, mean, _, inverse, valid, of_batch = tape
    dy = _as_gradient(dy, tape)
    reached = np.flatnonzero(from_values(dy))
    d_gamma, d_beta = _pieces(len(reached), x), _pieces(len(reached), x)
    _run("batch_sums", reached, x, mean=mean, inverse=inverse, dy=dy, d_gamma=d_gamma, d_beta=d_beta)
    d_gamma, d_beta = _total(d_gamma), _total(d_beta)
    everywhere = of_batch and valid is None
    dx = np.empty_like(x) if everywhere else dy * (gamma * inverse)
    if of_batch:
        n = x.dtype.type(max(1, len(x) if valid is None else len(valid)))
        through = dict(dy_mean=d_beta / n, dy_normal_mean=d_gamma / n)
        _run("batch_backward", valid, x, mean=mean, inverse=inverse, gamma=gamma, dy=dy, dx=dx, **through)
    return NormalizationGradients(form.restore(dx), d_gamma, d_beta)


def _moments(x, valid):
    """Mean and variance of the valid steps: those of the pieces, merged in float64 (Chan, Golub & LeVeque 1979)."""
    count = len(x) if valid is None else len(valid)
    means, squares = _pieces(count, x), _pieces(count, x)
    _run("batch_moments", valid, x, means=means, squares=squares)
    sizes = np.minimum(_CHUNK, count - _CHUNK * np.arange(len(means)))[:, None]
    n = max(1, count)
    mean = np.sum(sizes * means.astype(np.float64), axis=0) / n
    variance = (np.sum(squares, axis=0, dtype=np.float64) + np.sum(sizes * (means - mean) ** 2, axis=0)) / n
    return mean.astype(x.dtype), variance.astype(x.dtype)


# ---- kernels over steps, and checks ----------------------------------------------------------------------------------
def _run(kernel, listed, x, **arguments):
    """A kernel over the listed steps of x (N,F), all of them if None."""
    count, F = len(x) if listed is None else len(listed), x.shape[1]
    _jit.get("normalization", kernel, x.dtype).run(
        -(-count // _CHUNK), count * F * WORK, listed=listed, count=count, size=F, x=x, **arguments
    )


def _pieces(count, x):
    """Zeros, a row for each block of `count` steps: what the blocks sum."""
    return np.zeros((-(-count // _CHUNK), x.shape[1]), x.dtype)


def _total(pieces):
    return np.sum(pieces, axis=0, dtype=np.float64).astype(pieces.dtype)


def _as_steps(name, x, dtype=None):
    """x (...,F), or the values of a Ragged, as (N,F), and its form."""
    offsets = x.offsets if isinstance(x, Ragged) else None
    x = as_floats(name, x if offsets is None else x.values, dtype)
    if x.ndim < 2:
        raise ValueError(f"{name}: expected shape (...,F), received {x.shape}")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), Form(x.shape, offsets)


def _as_gradient(dy, tape):
    if tape.form.offsets is not None and not isinstance(dy, Ragged):
        raise TypeError(f"dy: expected Ragged as the outputs, received {type(dy).__name__}")
    dy, form = _as_steps("dy", dy, tape.x.dtype)
    if form.shape != tape.form.shape:
        raise ValueError(f"dy: expected shape {tape.form.shape} as y, received {form.shape}")
    return dy


def _scale_and_shift(gamma, beta, x):
    """gamma and beta, ones and zeros for None; gamma as a copy, which no later change of the weight reaches."""
    gamma = np.ones(x.shape[1], x.dtype) if gamma is None else _as_vector("gamma", gamma, x).copy()
    return gamma, np.zeros(x.shape[1], x.dtype) if beta is None else _as_vector("beta", beta, x)


def _as_vector(name, v, x):
    return check_shape(name, as_floats(name, v, x.dtype), x.shape[1:], "(F,)")
