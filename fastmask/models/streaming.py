"""Stream: a model that is fed with the steps of its sequences as they come."""

import numpy as np

from fastmask.checks import check_whole
from fastmask.layers.base import Layer
from fastmask.layers.streams import IN_PIECES, WHOLE, with_rows
from fastmask.layers.structure import attach, is_nested, map_shape


class Stream:
    """What `Model.stream` makes: called with the next steps of each row it gives what `model` makes of them.

    Parameters
    ----------
    model : Model
    batch_size : int

    Notes
    -----
    One at a time calls a stream; several streams of a model may run in several threads, beside the model's own calls,
    of which none sees another. A call that fails leaves the stream as it was.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmask as fm
    >>> model = fm.Sequential([fm.Input((None, 3)), fm.layers.GRU(4, return_sequences=True), fm.layers.Dense(2)])
    >>> x = np.ones((1, 5, 3), np.float32)
    >>> stream = model.stream(batch_size=1)
    >>> pieces = [stream(x[:, :2]), stream(x[:, 2:2]), stream(x[:, 2:])]
    >>> bool(np.all(np.concatenate(pieces, axis=1) == model(x)))
    True
    """

    def __init__(self, model, batch_size):
        if not isinstance(model, Layer):
            raise TypeError(f"model: expected a Model, received {type(model).__name__}")
        batch_size = check_whole(batch_size, "batch_size", 0)
        if not model.built:
            raise ValueError(f"{model.name}.stream: expected a built model: give it an Input, or call it once")
        self.model, self.batch_size = model, batch_size
        shape = model._input_shapes()
        arrival = map_shape(lambda s: IN_PIECES if _is_sequence(s) else WHOLE, shape)
        if IN_PIECES not in (arrival if is_nested(shape) else [arrival]):
            raise ValueError(f"{model.name}.stream: expected a sequence, (B,T,...), as input, its shape is {shape}")
        try:
            _, self._start = model.start_stream(self.batch_size, shape, arrival)
        except ValueError as error:
            raise ValueError(f"{model.name}.stream: {error}") from error
        self._state = self._start
        self._several = is_nested(shape)

    def __call__(self, chunk, mask=None):
        """The outputs of the next steps.

        Parameters
        ----------
        chunk : array (B,n,...), or Ragged of B rows
            n new steps of each row, n from 0 on and as one likes each time; as a Ragged another number for each. As
            many as the model has inputs, as it takes them; inputs that are no sequences come whole each time.
        mask : array (B,n); for a Ragged (N,)
            True = use the step.

        Returns
        -------
        As the model returns them. Outputs that are one for each step are those of the new steps; others (of a recurrent
        layer without return_sequences, or states) are those after all steps so far.

        Raises
        ------
        ValueError
            Another number of rows, or whatever the model itself refuses.
        """
        model = self.model
        if type(chunk) is not np.ndarray or mask is not None or self._several:  # else it is as it should be
            chunk, mask = model._as_arguments(*model._in_order(chunk, mask))
        for x in chunk if self._several else (chunk,):
            if not x.shape or len(x) != self.batch_size:
                raise ValueError(
                    f"{model.name}.stream: chunk: expected {self.batch_size} rows, those of the stream, received shape "
                    f"{x.shape}"
                )
        outputs, mask, self._state = model.stream_call(chunk, mask, self._state)
        return model._by_output_keys(outputs if mask is None else attach(outputs, mask))

    def reset(self, rows=None):
        """Start anew: forget all steps so far.

        Parameters
        ----------
        rows : list or array of row numbers, or of bool (B,)
            Rows of which to forget them; default: all.
        """
        if rows is None:
            self._state = self._start
            return
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape != (self.batch_size,):
            raise ValueError(f"rows: expected a bool for each of {self.batch_size} rows, received shape {rows.shape}")
        if rows.dtype != bool:
            if rows.size and rows.dtype.kind not in "iu":
                raise TypeError(f"rows: expected numbers of rows or bools, received dtype {rows.dtype}")
            rows = rows.astype(np.int64)
            if rows.size and not (-self.batch_size <= rows.min() and rows.max() < self.batch_size):
                raise ValueError(f"rows: expected numbers of {self.batch_size} rows, received {rows}")
        self._state = with_rows(self._state, self._start, rows)


def _is_sequence(shape):
    return len(shape) > 2 or (len(shape) == 2 and shape[1] is None)
