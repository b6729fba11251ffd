"""Lists of sequences: padding them, and batches of rows of similar length."""

import numpy as np

from fastmask.checks import as_dtype, check_whole, empty
from fastmask.ops.mask import check_count, check_lengths


def pad_sequences(sequences, maxlen=None, dtype="int32", padding="pre", truncating="pre", value=0.0):
    """One array of a list of sequences, padded and cut to one length: Keras' function of that name.

    Note the defaults, which are Keras': integers, padding and cutting at the front.

    Parameters
    ----------
    sequences : list of sequences (lists, tuples, arrays), or a Ragged
        Each (T_i,) or (T_i, ...), all of one shape but for T_i.
    maxlen : int, optional
        T of the result; the longest length if None. Longer rows are cut.
    dtype : dtype
        Of the result. Values are cast as NumPy casts: 1.9 becomes 1 in an integer dtype.
    padding, truncating : "pre" or "post"
        Where to pad shorter rows and where to cut longer ones: at the front or behind.
    value : number (or str, if dtype is a string's)
        What to pad with.

    Returns
    -------
    ndarray, shape (B, maxlen, ...)

    Raises
    ------
    ValueError : no list of sequences, rows of different shapes, values that do not fit dtype, maxlen < 0, another name
        for padding or truncating
    TypeError : object dtype or rows that are object arrays, maxlen no whole number

    Notes
    -----
    Differences from Keras 3: ``maxlen=0`` works with truncating="pre" too, an empty list gives shape (0, 0), wrong
    names are found before any row is read, and what does not fit dtype is a ValueError naming the row.

    Examples
    --------
    >>> from fastmask.sequences import pad_sequences
    >>> pad_sequences([[1], [2, 3], [4, 5, 6]])
    array([[0, 0, 1],
           [0, 2, 3],
           [4, 5, 6]], dtype=int32)
    >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2, padding="post", value=-1)
    array([[ 1, -1],
           [ 2,  3],
           [ 5,  6]], dtype=int32)
    """
    for name, choice in (("padding", padding), ("truncating", truncating)):
        if choice not in ("pre", "post"):
            raise ValueError(f'{name}: expected "pre" or "post", received {choice!r}')
    dtype = as_dtype(dtype)
    if dtype.kind == "O":
        raise TypeError("dtype: expected a number's or string's, received object")
    if isinstance(value, str) and dtype.kind not in "US":
        raise ValueError(f"value: expected a number for dtype {dtype}, received {value!r}")
    if not hasattr(sequences, "__len__") or isinstance(sequences, (str, bytes, dict)):
        raise ValueError(f"sequences: expected a list of sequences, received {type(sequences).__name__}")
    lengths = [_length(row, i) for i, row in enumerate(sequences)]
    maxlen = max(lengths, default=0) if maxlen is None else check_count(maxlen, "maxlen")

    step_shape = next((_cast(row, i, None).shape[1:] for i, row in enumerate(sequences) if lengths[i]), ())
    rows = [_cut(row, n, maxlen, truncating) for row, n in zip(sequences, lengths, strict=True)]
    empty("maxlen", (len(rows), maxlen, *step_shape), dtype)
    try:
        padded = np.full((len(rows), maxlen, *step_shape), value, dtype=dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"value: expected one that dtype {dtype} can hold, received {value!r}: {error}") from error
    for i, row in enumerate(rows):
        if len(row) == 0:
            continue
        row = _cast(row, i, dtype)
        if row.shape[1:] != step_shape:
            raise ValueError(f"sequences[{i}]: expected steps of shape {step_shape}, received {row.shape[1:]}")
        if padding == "post":
            padded[i, : len(row)] = row
        else:
            padded[i, maxlen - len(row) :] = row
    return padded


def bucket_batches(lengths, batch_size, *, shuffle=True, seed=None):
    """Batches of rows of similar length: less padding, and threads that end together.

    Parameters
    ----------
    lengths : array_like of whole numbers, shape (B,)
    batch_size : int
        Rows of a batch; one batch may be smaller.
    shuffle : bool
        Rows of one length come in random order, the smaller batch stands anywhere among the lengths, and the batches
        come in random order. Otherwise rows are in order of length, ties in their own order, the smaller batch last.
    seed : int, numpy.random.Generator or None
        The same integer gives the same batches; a Generator is drawn from; None draws fresh entropy. Unused without
        shuffle.

    Returns
    -------
    list of ndarray of int64
        Row numbers; every row stands in exactly one of them.

    Raises
    ------
    ValueError : lengths of another rank, negative or not whole; batch_size < 1
    TypeError : lengths or batch_size is no whole number

    Examples
    --------
    >>> from fastmask.sequences import bucket_batches
    >>> bucket_batches([5, 1, 4, 2, 9], 2, shuffle=False)
    [array([1, 3]), array([2, 0]), array([4])]
    """
    lengths = check_lengths(lengths)
    batch_size = check_count(batch_size, "batch_size", minimum=1)
    B = lengths.shape[0]
    batches = -(-B // batch_size)
    sizes = np.full(batches, batch_size)
    if not shuffle:
        order = np.argsort(lengths, kind="stable")
        return np.split(order, np.cumsum(sizes)[:-1]) if B else []

    rng = _generator(seed)
    order = rng.permutation(B)
    order = order[np.argsort(lengths[order], kind="stable")]
    if B == 0:
        return []
    sizes[rng.integers(batches)] -= batches * batch_size - B
    by_length = np.split(order, np.cumsum(sizes)[:-1])
    return [by_length[i] for i in rng.permutation(batches)]


def _generator(seed):
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    return np.random.default_rng(check_whole(seed, "seed", 0))


def _length(row, i):
    if not hasattr(row, "__len__") or not hasattr(row, "__getitem__") or isinstance(row, (str, bytes, dict)):
        raise ValueError(f"sequences[{i}]: expected a sequence, received {type(row).__name__}")
    return len(row)


def _cut(row, n, maxlen, truncating):
    if n <= maxlen:
        return row
    return row[n - maxlen :] if truncating == "pre" else row[:maxlen]


def _cast(row, i, dtype):
    """The row as an array of dtype (None: its own), by NumPy's rules; ValueError where it has none."""
    if isinstance(row, np.ndarray) and row.dtype.kind == "O":
        raise TypeError(f"sequences[{i}]: expected numbers, received an object array")
    try:
        return np.asarray(row, dtype=dtype)
    except (ValueError, OverflowError, TypeError) as error:
        wanted = "an array" if dtype is None else f"numbers that fit dtype {dtype}"
        raise ValueError(f"sequences[{i}]: expected {wanted}, received what is none: {error}") from error
