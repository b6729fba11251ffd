"""What a layer does with a sequence that comes in pieces: see `Model.stream`."""

import numpy as np

from fastmask.ragged import Ragged

IN_PIECES, SO_FAR, WHOLE = "in pieces", "so far", "whole"  # see Streamed.start_stream


class Streamed:
    """The part of a layer that works in streams.

    A layer of one's own says ``streams = True`` if, in inference, each step of its outputs depends on that step of its
    inputs alone. One that remembers something has `start_stream` and `stream_call`. Any other cannot stream. A class
    that overrides `call` says so anew: what was true of its base's `call` need not be true of its own.
    """

    streams = False
    _no_stream = None  # why not

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = cls.__dict__
        if "call" in own:
            cls.streams = own.get("streams", False)
            cls.start_stream = own.get("start_stream", Streamed.start_stream)
            cls.stream_call = own.get("stream_call", Streamed.stream_call)

    def start_stream(self, batch_size, input_shape, arrival):
        """How this layer streams.

        Parameters
        ----------
        batch_size : int
        input_shape : tuple, (B,T,...)
            A list of them for several inputs, as for `arrival`.
        arrival : IN_PIECES, SO_FAR or WHOLE
            How the input comes: the next steps of a sequence; what belongs to all steps so far, another with each
            piece; or the same with each piece. At least one of several comes IN_PIECES.

        Returns
        -------
        arrival
            How the output goes on, or a list for several.
        state
            What `stream_call` remembers before the first step: arrays with an entry for each row, in tuples, lists or
            dicts; None if it remembers nothing, then `call` does.

        Raises
        ------
        ValueError
            The layer cannot stream; says why.
        """
        if not self.streams:
            raise ValueError(
                self._no_stream
                or f"expected {type(self).__name__}.streams = True, which says that each step of the outputs depends "
                "on that step of the inputs alone, or start_stream and stream_call of its own"
            )
        if isinstance(arrival, list) and set(arrival) != {IN_PIECES}:
            raise ValueError(f"expected all inputs to come in pieces, received {', '.join(arrival)}")
        return IN_PIECES, None

    def stream_call(self, inputs, mask, state):
        """(outputs, their mask, the state after them) of the next steps; changes neither `state` nor the layer."""
        raise NotImplementedError(f"{type(self).__name__} has no stream_call(inputs, mask, state)")


def refuse_along_time(axis, shape):
    """ValueError if that axis of inputs (B,T,...) is the one along which they come in pieces."""
    if axis % len(shape) == 1:
        raise ValueError(f"it works along time, axis {axis} of shape {shape}")


def hold_over(outputs, mask, before):
    """The outputs (B,n,H) of the next steps, with `before` (B,H), the outputs before them, at those masked steps that
    come before the first valid one of a row: they hold what came in earlier pieces. Writes into `outputs`."""
    if isinstance(outputs, Ragged):
        rows = np.repeat(np.arange(len(outputs)), outputs.lengths)
        seen = np.concatenate([[0], np.cumsum(mask)])
        leading = seen[1:] == seen[outputs.offsets[:-1]][rows]
        outputs.values[leading] = before[rows[leading]]
        return outputs
    if not mask[:, :1].all():
        leading = ~np.logical_or.accumulate(mask, axis=1)
        outputs[leading] = before[np.nonzero(leading)[0]]
    return outputs


def last_outputs(outputs, before):
    """(B,H): the last of the outputs (B,n,H), and for rows without any those before."""
    if not isinstance(outputs, Ragged):
        return outputs[:, -1].copy() if outputs.shape[1] else before
    some = outputs.lengths > 0
    last = before.copy()
    last[some] = outputs.values[outputs.offsets[1:][some] - 1]
    return last


def rows_with_steps(inputs, mask):
    """(B,) bool: which rows have a valid step."""
    if not isinstance(inputs, Ragged):
        return np.full(len(inputs), inputs.shape[1] > 0) if mask is None else mask.any(axis=1)
    counts = inputs.offsets if mask is None else np.concatenate([[0], np.cumsum(mask)])[inputs.offsets]
    return np.diff(counts) > 0


def append_steps(before, valid, inputs, mask):
    """(x, its mask): `before` (B,L,F), of which `valid` (B,L) count, and behind them in each row the new steps."""
    if not isinstance(inputs, Ragged):
        mask = np.ones(inputs.shape[:2], bool) if mask is None else mask
        return np.concatenate([before, inputs], axis=1), np.concatenate([valid, mask], axis=1)
    B, L = valid.shape
    offsets = inputs.offsets + L * np.arange(B + 1)
    old = (offsets[:-1, None] + np.arange(L)).ravel()
    new = np.ones(offsets[-1], bool)
    new[old] = False
    values, mask_of = np.empty((len(new), *before.shape[2:]), before.dtype), np.ones(len(new), bool)
    values[old], mask_of[old] = before.reshape(-1, *before.shape[2:]), valid.ravel()
    values[new] = inputs.values
    if mask is not None:
        mask_of[new] = mask
    return Ragged(values, offsets), mask_of


def last_steps(x, mask, L):
    """The last L steps of each row, (B,L,F), and the mask of them, (B,L); `before` and `valid` of `append_steps`."""
    if not isinstance(x, Ragged):
        first = x.shape[1] - L
        return x[:, first:].copy(), mask[:, first:].copy()
    at = x.offsets[1:, None] - L + np.arange(L)
    return x.values[at], mask[at]


def with_rows(state, other, rows):
    """A copy of a state that has these rows from another one of its structure."""
    if isinstance(state, np.ndarray):
        state = state.copy()
        state[rows] = other[rows]
        return state
    if isinstance(state, (list, tuple)):
        return type(state)(with_rows(s, o, rows) for s, o in zip(state, other, strict=True))
    return {key: with_rows(s, other[key], rows) for key, s in state.items()} if isinstance(state, dict) else state
