"""PreparedCall: a recurrent layer with everything bound that does not change between calls of one shape."""

import threading

import numpy as np

from fastmask.checks import check_flag
from fastmask.ops._common import aligned_zeros
from fastmask.ops._recurrent import Plan
from fastmask.ops.mask import check_count


class PreparedCall:
    """What `RecurrentLayer.prepare` makes: called without arguments it computes `outputs` from `inputs`.

    Attributes
    ----------
    inputs : array (B,T,F)
        Write the next steps here: ``call.inputs[...] = x``. Zeros at first.
    mask : bool array (B,T), or None without one
        True = use the step. All True at first.
    outputs : array (B,T,H) with return_sequences, else (B,H)
        What the latest call has computed; the next one writes over it.
    states : tuple of arrays (B,H)
        (h,), of an LSTM (h, c), after the latest call. With stateful the next call starts from what stands here, zeros
        at first, so fill(0) starts anew; otherwise each starts from zeros.

    Notes
    -----
    Bits and rules are those of ``layer(inputs, mask=mask)``, with stateful of ``initial_state=states``. A call makes no
    array and checks one thing, whether a weight has changed: then it packs the weights anew. Settings of the layer are
    those at the preparation; its own states, if it is stateful, are neither read nor changed. The outgoing mask does
    not travel with `outputs`: it is `mask`, under go_backwards in the opposite order.

    Workspace and arrays belong to this object: prepare one for each thread. A call while another thread is inside is a
    RuntimeError and touches nothing.
    """

    def __init__(self, layer, batch_size, steps, masked, stateful):
        B, T = check_count(batch_size, "batch_size"), check_count(steps, "steps")
        check_flag(masked, "masked")
        check_flag(stateful, "stateful")
        if not layer.built:
            raise ValueError(f"{layer.name}.prepare: expected a built layer: call it once, or build it")
        self._layer = layer
        self._settings = (*layer._codes, layer.go_backwards, False, layer.zero_output_for_mask), layer.return_sequences
        self._inputs = aligned_zeros((B, T, layer._features), layer.dtype)
        self._mask = np.ones((B, T), bool) if masked else None
        self._states = tuple(aligned_zeros((B, layer.units), layer.dtype) for _ in range(layer.states))
        self._initial = self._states if stateful else None
        self._outputs = aligned_zeros((B, T, layer.units) if layer.return_sequences else (B, layer.units), layer.dtype)
        # An RLock: Ctrl-C between acquire and try leaves it locked, and then at least this thread can go on.
        self._inside = threading.RLock()
        self._plan_for(layer._packed_weights())

    inputs = property(lambda self: self._inputs)
    mask = property(lambda self: self._mask)
    outputs = property(lambda self: self._outputs)
    states = property(lambda self: self._states)

    def _plan_for(self, packed):
        plan = Plan(packed, *self._inputs.shape[:2], *self._settings, self._mask is not None)
        plan.bind(self._inputs, self._outputs, self._initial, self._states)
        self._plan = plan

    def __call__(self):
        """Compute `outputs` and `states`; returns `outputs`."""
        if not self._inside.acquire(False):
            raise RuntimeError(
                f"{self._layer.name}: expected a prepared call used by one thread at a time, another one is inside: "
                "prepare one for each thread"
            )
        try:
            packed = self._layer._packed_weights()
            if packed is not self._plan.packed:
                self._plan_for(packed)
            self._plan.launch(self._mask)
        finally:
            self._inside.release()
        return self._outputs
