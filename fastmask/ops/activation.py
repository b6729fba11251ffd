"""Element-wise activations, softmax and log_softmax over whole arrays, with their derivatives. Formulas and default
parameters are those of Keras 3.
"""

import numpy as np

from fastmask.kernels import _jit
from fastmask.kernels.activation_names import CODES
from fastmask.ops._common import ROWWISE, activation_code, as_floats, check_activation, check_shape

_BLOCK = 16384  # elements of a block of kernels/activation.py
NAMES = tuple(n for n in CODES if n is not None) + tuple(ROWWISE)


def activation_forward(x, name):
    """y = name(x).

    Parameters
    ----------
    x : (...) float32 or float64; softmax and log_softmax run over the last axis
    name : str or None (linear)

    Raises
    ------
    ValueError, TypeError : an unknown name, another dtype, softmax of a scalar
    """
    check_activation(name, "name")
    x = as_floats("x", x)
    y = np.empty_like(x)
    if name in ROWWISE:
        rows, size = _rows(x, name)
        _jit.get("activation", "softmax_forward", x.dtype.name).run(
            rows, x.size * 16, x=x, y=y, size=size, log=ROWWISE[name]
        )
        return y
    code = activation_code(name, "name")
    _jit.get("activation", "activation_forward", x.dtype.name).run(
        -(-x.size // _BLOCK), x.size * 16, x=x, y=y, size=x.size, code=code
    )
    return y


def activation_backward(x, y, dy, name):
    """dx = dy * name'(x), given the input x (may be None for tanh, sigmoid, linear, softmax and log_softmax) and the
    output y of activation_forward.
    """
    check_activation(name, "name")
    y = as_floats("y", y)
    dy = check_shape("dy", as_floats("dy", dy, y.dtype), y.shape)
    dx = np.empty_like(y)
    if name in ROWWISE:
        rows, size = _rows(y, name)
        _jit.get("activation", "softmax_backward", y.dtype.name).run(
            rows, y.size * 8, y=y, dy=dy, dx=dx, size=size, log=ROWWISE[name]
        )
        return dx
    code = activation_code(name, "name")
    x = y if x is None else check_shape("x", as_floats("x", x, y.dtype), y.shape)
    _jit.get("activation", "activation_backward", y.dtype.name).run(
        -(-y.size // _BLOCK), y.size * 16, x=x, y=y, dy=dy, dx=dx, size=y.size, code=code
    )
    return dx


def _rows(x, name):
    if x.ndim < 1:
        raise ValueError(f"x: expected rank at least 1 for {name}, received a scalar")
    size = x.shape[-1]
    return (x.size // size if size else 0), size
