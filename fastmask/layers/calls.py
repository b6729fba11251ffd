"""What a training call keeps, and to which call it belongs.

Each call of a layer that may be gone back through is a `Call`. While `call` or `backward` of a layer runs, its Call is
on a stack of this thread, so that `layer.saved` means that call's. Calls of sub-layers made meanwhile belong to it
(`inner`) and are gone back through latest first, as derivatives are. So a shared layer called twice, models inside
models and several threads each find their own. A call that belongs to no other is kept by its layer, only the latest of
each thread.
"""

import threading
from types import SimpleNamespace

from fastmask.ragged import Ragged

_NOTHING = object()


class Call:
    """One call of a layer: what it saved for backward and the training calls made inside it."""

    __slots__ = (
        "layer",
        "training",
        "going_back",
        "inner",
        "need_x",
        "logits",
        "grad_is_of_logits",
        "output_shapes",
        "_saved",
    )

    def __init__(self, layer, training):
        self.layer = layer
        self.training = training
        self.going_back = False  # backward is running
        self.inner = {}  # layer -> its calls, in order
        self.need_x = True  # whether anyone wants the gradient of the inputs
        self.logits = None  # of an output layer: what its softmax or sigmoid was taken of
        self.grad_is_of_logits = False  # then backward gets the gradient of those logits
        self.output_shapes = None  # a shape for each array or Ragged that it gave; None where that is not known
        self._saved = _NOTHING

    @property
    def saved(self):
        if self._saved is _NOTHING:
            self._saved = SimpleNamespace()
        return self._saved

    @saved.setter
    def saved(self, value):
        self._saved = value

    def __enter__(self):
        stack.append(self)
        return self

    def __exit__(self, *error):
        stack.pop()


class _Stack(threading.local):
    def __init__(self):
        self.calls = []
        self.append, self.pop = self.calls.append, self.calls.pop

    @property
    def top(self):
        return self.calls[-1] if self.calls else None


stack = _Stack()


def shapes_of(outputs):
    """A list of the shapes of what a layer returned, of the values of a Ragged."""
    several = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
    return [y.values.shape if isinstance(y, Ragged) else getattr(y, "shape", None) for y in several]


class Recording(Call):
    """A call of no layer: what is called with training=True inside it can be gone back through later.

    with Recording() as recording:
        y = model(x, training=True)
    with recording.backwards():
        model.backward(dy)
    """

    __slots__ = ()

    def __init__(self):
        super().__init__(None, None)

    def backwards(self):
        self.going_back = True
        return self


class LatestCall(threading.local):
    """The latest training call of a layer that belongs to no other, in this thread."""

    call = None
