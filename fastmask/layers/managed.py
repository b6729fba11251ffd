"""What Layer wraps around the compute_mask, build and backward of its subclasses."""

import functools
import os
import threading

import numpy as np

from fastmask.layers import symbolic
from fastmask.layers.calls import stack
from fastmask.layers.structure import is_symbolic
from fastmask.ragged import Ragged


def compute_mask(function):
    """compute_mask that takes symbolic inputs, too, and hears of the mask that travels with the inputs."""

    @functools.wraps(function)
    def managed(self, inputs, mask=None):
        if type(inputs) is not np.ndarray and is_symbolic(inputs):
            return symbolic.compute_mask(self, inputs, mask)
        return function(self, inputs, self._carried_mask(inputs) if mask is None else mask)

    return managed


_build_lock = threading.RLock()


def finish_build(layer, shape):
    """Mark a layer as built for inputs of that shape whose class has no build of its own."""
    with _build_lock:
        if not layer.built:
            layer._set_built(shape)


def _new_build_lock():
    """In a forked child: another thread of the parent may have held the lock."""
    global _build_lock
    _build_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_build_lock)


def build(function):
    """build that runs once, whole or not at all, whatever threads call the layer."""

    @functools.wraps(function)
    def managed(self, input_shape):
        with _build_lock:  # two threads may call a new layer at once
            if self._building:  # super().build(input_shape)
                return function(self, input_shape)
            if self.built:
                return None
            before = dict(self.__dict__), list(self._own_weights)
            self._building = True
            try:
                function(self, input_shape)
            except BaseException:  # nothing half-made: as if never called
                self.__dict__.clear()
                self.__dict__.update(before[0])
                self._own_weights = before[1]
                raise
            finally:
                self._building = False
            self._set_built(input_shape)
            return None

    return managed


def _check_gradient(layer, grad, shapes):
    """Raise unless the gradient has the shapes of what the call gave; None stands for a gradient that is none."""
    if shapes is None or grad is None:
        return
    several = list(grad) if isinstance(grad, (list, tuple)) else [grad]
    if len(several) != len(shapes):
        raise ValueError(f"{layer.name}: grad: expected {len(shapes)} arrays or Nones, received {len(several)}")
    for g, shape in zip(several, shapes, strict=True):
        received = g.values.shape if isinstance(g, Ragged) else getattr(g, "shape", shape)
        if g is not None and shape is not None and received != shape:
            raise ValueError(f"{layer.name}: grad: expected shape {shape} as the outputs, received {received}")


def backward(function):
    """backward within the call that it goes back through, which it uses up."""

    @functools.wraps(function)
    def managed(self, grad):
        top = stack.top
        if top is not None and top.layer is self and top.going_back:  # super().backward(grad)
            return function(self, grad)
        grad = self._as_gradient(grad) if self._autocast else grad
        call, put_back = self._take_call()
        try:
            _check_gradient(self, grad, call.output_shapes)
        except (ValueError, TypeError):
            put_back(call)
            raise
        if top is None or not top.going_back:  # the first of this backward
            for weight in self.weights:
                weight.gradient = None
        call.going_back = True
        try:
            with call:
                return function(self, grad)
        except BaseException:
            call.going_back = False
            put_back(call)
            raise

    return managed
