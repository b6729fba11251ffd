"""TimeDistributed: a layer applied to every step by itself."""

import contextlib

import numpy as np

from fastmask.layers.base import Layer
from fastmask.layers.masked import finite_under_mask
from fastmask.layers.outgoing import mask_kept_outside
from fastmask.layers.registry import deserialize, register_serializable, serialize
from fastmask.ragged import Ragged


@register_serializable(package=None)
class TimeDistributed(Layer):
    """A layer applied to every step by itself, the same weights at each: (B,T,...) -> (B,T,...).

    Parameters
    ----------
    layer : Layer
        Of one input and one output, whose batch the B T steps become. Used as it is, not copied.

    Notes
    -----
    Masks. A mask (B,T) masks steps as a whole: where a step is a sequence of its own, as for a recurrent `layer`, all
    of that is masked. A mask (B,T,T2), as Masking and Embedding make for words of characters, gives each step its own
    (T2,). The outputs carry the mask that `layer` makes for them, (B,T) or (B,T,T2). If it makes none, a step counts if
    any of it does, (B,T): a word is padding if it has no character.

    Deliberate differences from Keras 3: there a mask (B,T,T2) stays as it is, which the next layer cannot use; a mask
    (B,T) around a recurrent layer fails; and the masks of a Masking or Embedding inside are lost.

    Ragged -> Ragged with the same row lengths.

    Examples
    --------
    >>> from fastmask.layers import Dense, Masking
    >>> TimeDistributed(Dense(4))(np.zeros((2, 3, 5))).shape
    (2, 3, 4)
    >>> TimeDistributed(Masking())([[[[1.0], [0.0]], [[0.0], [0.0]]]]).mask
    array([[[ True, False],
            [False, False]]])
    """

    supports_ragged = True
    _autocast = False  # what the layer inside casts, and to what, is its own matter
    _single_input = True
    _lean = True
    streams = True

    def __init__(self, layer, **kwargs):
        layer = deserialize(layer)
        if not isinstance(layer, Layer):
            raise ValueError(f"layer: expected a layer, received {layer!r}")
        kwargs.setdefault("dtype", layer.dtype)
        super().__init__(**kwargs)
        self.layer = layer
        self._makes_mask = layer._makes_mask

    def build(self, input_shape):
        self.check_input_shape(input_shape)
        self.layer._build_shape(_inside(input_shape))

    # ---- forward and backward ---------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False):
        return self._call_and_mask(inputs, mask, training)[0]

    def _call_and_mask(self, inputs, mask, training, args=(), kwargs=None):
        self.check_input_shape(inputs.shape)
        layer, each = self.layer, None
        masks_whole_steps = mask is not None and not _is_nested(mask, inputs)  # then it goes on from here in any case
        if masks_whole_steps and not (layer.supports_masking or layer._takes_mask):
            inputs = finite_under_mask(inputs, mask)  # the layer inside knows no mask, so here is the place for it
        elif mask is not None:
            each = _masks_of_steps(mask, inputs)
        with mask_kept_outside() if masks_whole_steps else contextlib.nullcontext():
            outputs, made = layer._run(layer._as_input(_steps(inputs)), each, training)
        if isinstance(outputs, (list, tuple)):
            raise ValueError(f"{self.name}: layer: expected one output of {layer.name}, received {len(outputs)}")
        if made is None and mask is not None and _is_nested(mask, inputs):
            made = mask.any(axis=tuple(range(len(_leading(inputs)), mask.ndim)))
        elif made is None or made is each:
            made = mask
        else:
            made = made.reshape(*_leading(inputs), *made.shape[1:])
        return _rows(outputs, inputs), made

    def compute_mask(self, inputs, mask=None):
        """The mask of the outputs; runs the layer, as it may depend on what that computes."""
        return self._run(self._as_input(inputs), mask, False)[1]

    def backward(self, grad):
        if grad is None:
            return None
        call = self._current_call()
        call.inner[self.layer][-1].need_x = call.need_x
        d_steps = self.layer.backward(_steps(grad))
        return None if d_steps is None else _rows(d_steps, grad)

    # ---- masks and shapes -------------------------------------------------------------------------------------------
    def check_input_shape(self, shape):
        """ValueError if steps of inputs of that shape do not fit the layer."""
        if len(shape) < 3:
            raise ValueError(
                f"{self.name}: inputs: expected shape (B,T,...) of rank 3 or more, received {tuple(shape)}"
            )
        self.layer.check_input_shape(_inside(shape))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], *self.layer.compute_output_shape(_inside(input_shape))[1:])

    def mask_role(self):
        role = self.layer.mask_role()
        return role if role == "makes" else "uses, passes" if role.startswith("uses") else "passes"

    def get_config(self):
        return {**super().get_config(), "layer": serialize(self.layer)}


def _inside(shape):
    """Of the shape (B,T,...) that of the steps as a batch."""
    return (None, *shape[2:])


def _leading(x):
    """The axes that become the batch of steps: (B,T), or (N,) of a Ragged."""
    return (len(x.values),) if isinstance(x, Ragged) else x.shape[:2]


def _steps(x):
    """(B,T,...) or Ragged as a batch of steps."""
    if isinstance(x, Ragged):
        return x.values
    x = np.asarray(x)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _rows(steps, like):
    """A batch of steps with the leading axes of `like`."""
    return like.with_values(steps) if isinstance(like, Ragged) else steps.reshape(*like.shape[:2], *steps.shape[1:])


def _is_nested(mask, inputs):
    """Whether steps have masks of their own: (B,T,T2,...), not (B,T)."""
    return mask.ndim > len(_leading(inputs))


def _masks_of_steps(mask, inputs):
    """The mask for the steps as a batch; that of a whole step is repeated over its axis T2 if it has one."""
    steps = _steps(inputs)
    each = mask.reshape(len(steps), *mask.shape[len(_leading(inputs)) :])
    if each.ndim == 1 and steps.ndim > 2:
        each = np.repeat(each[:, None], steps.shape[1], axis=1)
    return each
