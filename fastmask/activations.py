"""Activation functions by name, with the formulas and default parameters of Keras 3.

    fm.activations.get("relu")(x)        fm.activations.relu(x)        fm.layers.Dense(8, activation="relu")

All but softmax and log_softmax act on each element alone and may be used inside recurrent layers; those two work along
the last axis. hard_sigmoid is Keras 3's relu6(x + 3) / 6; Keras 1 and 2 called clip(0.2 x + 0.5, 0, 1) by that name,
which is "hard_sigmoid_v2" here.
"""

import numpy as np

from fastmask.kernels.activation_names import ALIASES
from fastmask.kernels.activation_names import NAMES as ELEMENTWISE
from fastmask.ops import activation as ops
from fastmask.ops._common import check_activation
from fastmask.ops.mask import check_numbers
from fastmask.ragged import Ragged

LAST_AXIS = ("softmax", "log_softmax")
NAMES = (*ELEMENTWISE, *LAST_AXIS)


class Activation:
    """A function of arrays and Ragged; integers become float32."""

    def __init__(self, name):
        self.__name__ = check_activation(name, "name")

    def __call__(self, x):
        if isinstance(x, Ragged):
            return x.with_values(self(x.values))
        x = check_numbers(x, "x")
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float32)
        return ops.activation_forward(x, self.__name__)

    def __repr__(self):
        return f"<activation {self.__name__}>"

    def __reduce__(self):
        return get, (self.__name__,)


_functions = {name: Activation(name) for name in NAMES}


def name_of(identifier, elementwise=False):
    """The canonical name of an activation: "swish" is "silu", None is "linear".

    Parameters
    ----------
    identifier : str, None or a function of this module
    elementwise : bool
        Refuse softmax and log_softmax, which a recurrent layer cannot use.

    Raises
    ------
    ValueError
        Unknown name, or a function of one's own: the kernels know only these.
    """
    name = identifier.__name__ if isinstance(identifier, Activation) else identifier
    if name is None or isinstance(name, str):
        name = ALIASES.get(name, name)
    allowed = ELEMENTWISE if elementwise else NAMES
    if not isinstance(name, str) or name not in allowed:
        raise ValueError(f"activation: expected one of {', '.join(allowed)}, received {identifier!r}")
    return name


def get(identifier):
    """The function of that name; None is linear.

    Raises
    ------
    ValueError
        Unknown name.
    """
    return _functions[name_of(identifier)]


def __getattr__(name):  # fm.activations.relu
    if name in NAMES or name in ALIASES:
        return get(name)
    raise AttributeError(f"module {__name__} has no attribute {name!r}")


def __dir__():
    return [*globals(), *NAMES]
