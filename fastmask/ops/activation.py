"""Element-wise activations, softmax and log_softmax over whole arrays, with their derivatives; softmax over the steps
that a mask leaves. Formulas and default parameters are those of Keras 3.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastmask.checks import check_axis
from fastmask.kernels import _jit
from fastmask.kernels.activation_names import CODES, LINEAR, SIGMOID, TANH
from fastmask.ops._common import ROWWISE, activation_code, as_floats, check_activation, check_shape
from fastmask.ops.mask import check_mask
from fastmask.ragged import Ragged

_BLOCK = 16384  # elements of a block of kernels/activation.py …
_ROW_BLOCK = 2048  # … and of one of rows
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
        rows, size, many = _rows(x, name)
        _jit.get("activation", "softmax_forward", x.dtype).run(
            -(-rows // many), x.size * 16, x=x, y=y, rows=rows, size=size, log=ROWWISE[name], many=many
        )
        return y
    code = activation_code(name, "name")
    _jit.get("activation", "activation_forward", x.dtype).run(
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
        rows, size, many = _rows(y, name)
        _jit.get("activation", "softmax_backward", y.dtype).run(
            -(-rows // many), y.size * 8, y=y, dy=dy, dx=dx, rows=rows, size=size, log=ROWWISE[name], many=many
        )
        return dx
    code = activation_code(name, "name")
    if x is None and code not in (LINEAR, TANH, SIGMOID):
        raise ValueError(f"x: expected the input of activation_forward for {name}, received None")
    x = y if x is None else check_shape("x", as_floats("x", x, y.dtype), y.shape)
    _jit.get("activation", "activation_backward", y.dtype).run(
        -(-y.size // _BLOCK), y.size * 16, x=x, y=y, dy=dy, dx=dx, size=y.size, code=code
    )
    return dx


def _rows(x, name):
    """(rows, size of a row, rows of a block) of x."""
    if x.ndim < 1:
        raise ValueError(f"x: expected rank at least 1 for {name}, received a scalar")
    size = x.shape[-1]
    return (x.size // size if size else 0), size, max(1, _ROW_BLOCK // max(1, size))


def softmax_forward(x, axis=-1, mask=None):
    """Softmax along any axis, over the entries that a mask leaves.

    Parameters
    ----------
    x : (...) float32 or float64, or Ragged
        The axes of a Ragged are those of the padded array: axis 1 runs over the steps of each row.
    axis : int, not that of the batch
    mask : of the leading axes of x up to `axis` or beyond; (N,) for a Ragged; optional
        True = the entry takes part. Softmax over time has a mask (B,T) for x (B,T,F) and axis 1.

    Returns
    -------
    as x; 0 at masked entries, so that a row without a valid one is all 0

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    e^(x - max) / sum; the sum is one chain over the valid entries in order. Masked entries are not read and change no
    bit of the others, wherever they stand: padding on either side, holes, Ragged. Parallel over rows.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_forward(np.zeros((1, 3, 1)), axis=1, mask=np.array([[True, True, False]]))[0, :, 0]
    array([0.5, 0.5, 0. ])
    """
    rows = _softmax_rows("x", x, axis, mask)
    y = np.empty_like(rows.values)
    _jit.get("activation", "masked_softmax_forward", y.dtype).run(
        len(rows.base) - 1, y.size * 16, x=rows.values, y=y, mask=rows.mask, base=rows.base, size=rows.size
    )
    return rows.back(y)


def softmax_backward(y, dy, axis=-1, mask=None):
    """dx of softmax_forward from its outputs y and their gradient dy; 0 at masked entries, where dy is ignored.

    In the forward pass this was y_i = e^x_i / sum_j e^x_j, so now dx_i = y_i (dy_i - sum_j dy_j y_j).
    """
    y = y if isinstance(y, Ragged) else as_floats("y", y)
    rows = _softmax_rows("y", y, axis, mask)
    if isinstance(y, Ragged) and not (isinstance(dy, Ragged) and np.array_equal(dy.offsets, y.offsets)):
        raise ValueError(f"dy: expected a Ragged with the row lengths of y, received {type(dy).__name__}")
    if not isinstance(y, Ragged):
        dy = as_floats("dy", dy, y.dtype)
    check_shape("dy", dy, y.shape, "as y")
    dy = as_floats("dy", _softmax_rows("dy", dy, axis, mask).values, rows.values.dtype)
    dx = np.empty_like(dy)
    _jit.get("activation", "masked_softmax_backward", dx.dtype).run(
        len(rows.base) - 1, dx.size * 8, y=rows.values, dy=dy, dx=dx, mask=rows.mask, base=rows.base, size=rows.size
    )
    return rows.back(dx)


class _Rows(NamedTuple):
    """How kernels/activation.py:masked_softmax_forward sees an array: rows of steps with `size` features each."""

    values: np.ndarray
    mask: np.ndarray | None
    base: np.ndarray  # (count + 1,) steps where rows begin
    size: int
    back: Callable  # values -> what x was


def _softmax_rows(name, x, axis, mask):
    if isinstance(x, Ragged):
        axis = check_axis(axis, x.ndim)
        if axis == 1:
            values = as_floats(name, x.values)
            mask = None if mask is None else check_mask(mask, values.shape[:1])
            return _Rows(values, mask, x.offsets, math.prod(values.shape[1:]), x.with_values)
        if mask is not None:
            raise ValueError(f"mask: expected None for axis {axis} of a Ragged, received one of its steps")
        rows = _softmax_rows(name, x.values, axis - 1, None)
        return rows._replace(back=lambda values: x.with_values(rows.back(values)))
    x = as_floats(name, x)
    last = axis = check_axis(axis, x.ndim)
    if mask is not None:
        last = np.ndim(mask) - 1
        if not axis <= last < x.ndim:
            raise ValueError(
                f"mask: expected the axes of {name} {x.shape} up to {axis} at least, received {np.shape(mask)}"
            )
        mask = np.ascontiguousarray(np.moveaxis(check_mask(mask, x.shape[: last + 1]), axis, last))
    values = np.ascontiguousarray(np.moveaxis(x, axis, last))
    count, steps = math.prod(values.shape[:last]), values.shape[last]
    return _Rows(
        values,
        mask,
        np.arange(count + 1, dtype=np.int64) * steps,
        math.prod(values.shape[last + 1 :]),
        lambda y: np.ascontiguousarray(np.moveaxis(y, last, axis)),
    )
