"""Attention of queries to the values of their row: only valid queries and valid values take part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmask.checks import check_function, empty
from fastmask.kernels import _jit
from fastmask.ops._common import as_floats, check_made_by, check_shape, resolve_batch, steps_of
from fastmask.ops._products import Stack, cut_rows, multiply, stack_of_steps, table
from fastmask.ops.mask import check_numbers
from fastmask.ragged import Ragged

QUERIES = 16  # of a block of the softmax
SOFTMAX_WORK, TANH_WORK = 64, 16  # of a score, and of a tanh and its derivative, in multiply-adds


class AttentionGradients(NamedTuple):
    """query, value and key as they came, 0 at masked steps; key is None where the value was the key, too, and then
    value has both gradients. weight (D,) and scale (), None where none was given.
    """

    query: np.ndarray | Ragged
    value: np.ndarray | Ragged
    key: np.ndarray | Ragged | None
    weight: np.ndarray | None
    scale: np.ndarray | None


class _Side:
    """The valid steps of a padded or Ragged batch of queries, values or keys."""

    def __init__(self, values, B, T, offsets, steps):
        self.B, self.T, self.offsets, self.steps = B, T, offsets, steps
        values = values.reshape(steps.positions, values.shape[-1])
        self.values = values if steps.complete else values[steps.src]  # (N,F)

    @property
    def row(self):
        """(N,): of which row of the batch a valid step is."""
        return np.repeat(np.arange(self.B), np.diff(self.steps.first))

    @property
    def valid(self):
        """(positions,) bool."""
        valid = np.zeros(self.steps.positions, bool)
        valid[self.steps.src] = True
        return valid

    def lay_back(self, values):
        """(N,F) of the valid steps in the shape of the batch, 0 at masked steps."""
        if not self.steps.complete:
            valid, values = values, np.zeros((self.steps.positions, values.shape[1]), values.dtype)
            values[self.steps.src] = valid
        if self.T is None:
            return Ragged._checked(values, self.offsets)
        return values.reshape(self.B, self.T, values.shape[1])

    def pick(self, name, a, F):
        """What lay_back would lay back: (N,F) of an array or Ragged of the outputs' shape."""
        if self.T is None:
            if not isinstance(a, Ragged):
                raise TypeError(f"{name}: expected Ragged as the outputs, received {type(a).__name__}")
            a = a.values
        a = as_floats(name, a, self.values.dtype)
        shape = (self.steps.positions, F)
        check_shape(name, a, shape if self.T is None else (self.B, self.T, F), "as the outputs")
        a = a.reshape(shape)
        return a if self.steps.complete else a[self.steps.src]


class _Pairs:
    """Each valid query with each valid value of its row: a matrix (queries, values) for every row of the batch, one
    behind the other in an array (count,).
    """

    def __init__(self, query, value, causal):
        q, v, row = query.steps, value.steps, query.row
        self.queries, self.values = np.diff(q.first), np.diff(v.first)
        sizes = self.queries * self.values
        self.start = np.cumsum(sizes) - sizes
        self.count = int(sizes.sum())
        self.size = self.values[row]  # of each query: how many values its row has,
        self.at = self.start[row] + (np.arange(q.N) - q.first[row]) * self.size  # where their scores begin,
        self.seen = self.size  # and how many of them, the first ones, it sees:
        if causal:  # those up to its own step
            step = q.src - q.base[row]
            ends = np.minimum(v.base[row] + step + 1, v.base[row + 1])
            self.seen = np.searchsorted(v.src, ends) - v.first[row]

    def stack(self, a):
        return Stack(a, self.start, self.queries, self.values, self.values, 1)


class AttentionTape(NamedTuple):
    query: _Side
    value: _Side
    key: _Side | None
    pairs: _Pairs
    q: np.ndarray  # queries and keys, times scale
    k: np.ndarray
    p: np.ndarray  # (pairs,) the softmax of the scores
    dropout: np.ndarray | None  # (pairs,) what p was multiplied by
    weight: np.ndarray | None
    scale: np.ndarray | None


def attention(
    query, value, key=None, *, weight=None, scale=None, query_mask=None, value_mask=None, key_mask=None, causal=False,
    dropout=None,
):  # fmt: skip
    """For every query the mean of its row's values, weighted by the softmax of its scores with their keys.

    Parameters
    ----------
    query : (B,Tq,D) float32 or float64, or Ragged with values (N,D)
    value : (B,Tv,V) of the same dtype, or Ragged with values (M,V)
    key : (B,Tv,D), or Ragged with the offsets of value; None: the values are the keys, too
    weight : (D,), optional
        Makes the score additive: sum over d of weight[d] tanh(scale (q[d] + k[d])). Without it, it is the product
        scale q · k.
    scale : number, optional
        1 by default.
    query_mask, value_mask, key_mask : (B,Tq), (B,Tv), (B,Tv), or (N,), (M,) for Ragged; optional
        A value takes part if neither it nor its key is masked.
    causal : bool
        A query sees the values up to its own step only.
    dropout : function, optional
        dropout(n) gives n numbers that the softmax is multiplied by.

    Returns
    -------
    (B,Tq,V), or Ragged with the offsets of query

    Raises
    ------
    ValueError, TypeError : naming the argument, what was expected and what came

    Notes
    -----
    Masked values are not there: they are not read, and a softmax runs over the valid ones in order, so padding changes
    no bit of the output of a valid query, and garbage under a mask none at all. (Keras subtracts 1e9 from masked
    scores.) The output is 0 for a masked query, and for one that sees no value (Keras: a mean of the masked values).
    With a causal mask, values behind a query have the weight 0, but NaN or infinity in one that is valid reaches it.
    Parallel over queries, backward over values, too. Cost follows the pairs of a valid query and a valid value of one
    row; memory too: a number for each.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[1.0, 0.0], [1.0, 0.0], [np.nan, np.nan]]])
    >>> mask = np.array([[True, True, False]])
    >>> attention(x, x, query_mask=mask, value_mask=mask)
    array([[[1., 0.],
            [1., 0.],
            [0., 0.]]])
    """
    outputs, _ = attention_forward(
        query, value, key, weight=weight, scale=scale, query_mask=query_mask, value_mask=value_mask, key_mask=key_mask,
        causal=causal, dropout=dropout,
    )  # fmt: skip
    return outputs


def attention_forward(
    query, value, key=None, *, weight=None, scale=None, query_mask=None, value_mask=None, key_mask=None, causal=False,
    dropout=None,
):  # fmt: skip
    """attention, and the tape for attention_backward and attention_scores."""
    query, value, key = _sides(query, value, key, query_mask, value_mask, key_mask)
    dtype, D = query.values.dtype, query.values.shape[1]
    if weight is not None:
        weight = check_shape("weight", _like_query("weight", weight, dtype), (D,), "(D,)")
    if scale is not None:
        scale = check_shape("scale", check_numbers(scale, "scale").astype(dtype), ())
    check_function(dropout, "dropout", none=True)
    keys = value if key is None else key
    q, k = query.values, keys.values
    if scale is not None:
        q = q * scale
        k = k if weight is None else k * scale

    pairs = _Pairs(query, value, causal)
    p = _scores(pairs, stack_of_steps(q, query.steps.first), stack_of_steps(k, keys.steps.first), weight)
    _jit.get("attention", "softmax_forward", dtype).run(
        -(-len(q) // QUERIES), SOFTMAX_WORK * pairs.count, scores=p, start=pairs.at, size=pairs.size, seen=pairs.seen,
        queries=len(q), many=QUERIES,
    )  # fmt: skip
    dropped = p
    if dropout is not None:
        dropout = check_shape("dropout", _like_query("dropout", dropout(pairs.count), dtype), p.shape, "(pairs,)")
        dropped = p * dropout
    outputs = np.empty((len(q), value.values.shape[1]), dtype)
    values = stack_of_steps(value.values, value.steps.first)
    multiply(pairs.stack(dropped), values, stack_of_steps(outputs, query.steps.first))
    return query.lay_back(outputs), AttentionTape(query, value, key, pairs, q, k, p, dropout, weight, scale)


def attention_scores(tape):
    """(B,Tq,Tv): what each value counts for each query, after dropout; 0 where either is masked."""
    check_made_by("attention_forward", "tape", tape, AttentionTape)
    query, value = tape.query, tape.value
    if query.T is None or value.T is None:
        raise ValueError("scores: expected padded queries and values, received Ragged")
    scores = np.zeros((query.B, query.T, value.T), tape.p.dtype)
    scores[_both_valid(query, value)] = tape.p if tape.dropout is None else tape.p * tape.dropout
    return scores


def attention_backward(tape, d_outputs, d_scores=None):
    """Gradients of attention from d_outputs, shaped as the outputs, and d_scores, as attention_scores; either may be
    None.
    """
    check_made_by("attention_forward", "tape", tape, AttentionTape)
    query, value, key, pairs, q, k, p, dropout, weight, scale = tape
    dtype, keys = p.dtype, value if key is None else key
    of_queries, of_values = query.steps.first, value.steps.first

    # in the forward pass outputs = (p dropout) values, so now:
    dp = np.zeros_like(p)
    d_value = np.zeros_like(value.values)
    if d_outputs is not None:
        d_outputs = stack_of_steps(query.pick("d_outputs", d_outputs, value.values.shape[1]), of_queries)
        multiply(d_outputs, stack_of_steps(value.values, of_values).T, pairs.stack(dp))
        dropped = p if dropout is None else p * dropout
        multiply(pairs.stack(dropped).T, d_outputs, stack_of_steps(d_value, of_values))
    if d_scores is not None:
        shape = query.B, query.T, value.T
        d_scores = check_shape("d_scores", _like_query("d_scores", d_scores, dtype), shape, "(B,Tq,Tv)")
        dp += d_scores[_both_valid(query, value)]
    if dropout is not None:
        dp *= dropout
    _jit.get("attention", "softmax_backward", dtype).run(
        -(-len(q) // QUERIES), SOFTMAX_WORK * pairs.count, p=p, dp=dp, start=pairs.at, size=pairs.size,
        queries=len(q), many=QUERIES,
    )  # fmt: skip
    ds, d_weight = pairs.stack(dp), None  # dp has become the gradient of the scores
    if weight is None:
        d_query, d_key = np.empty_like(q), np.empty_like(k)
        multiply(ds, stack_of_steps(k, of_values), stack_of_steps(d_query, of_queries))
        multiply(ds.T, stack_of_steps(q, of_queries), stack_of_steps(d_key, of_values))
    else:
        d_weights = np.empty_like(q)  # of each query
        d_query = _additive_gradient(ds, q, of_queries, k, of_values, weight, d_weights)
        d_key = _additive_gradient(ds.T, k, of_values, q, of_queries, weight)
        d_weight = d_weights.sum(axis=0, dtype=np.float64).astype(dtype)
    d_scale = None
    if scale is not None:  # q = scale query, and for additive scores k = scale key
        d_scale = _inner(d_query, query.values)
        d_query *= scale
        if weight is not None:
            d_scale += _inner(d_key, keys.values)
            d_key *= scale
        d_scale = np.asarray(d_scale, dtype)
    if key is None:
        d_value += d_key
    return AttentionGradients(
        query.lay_back(d_query),
        value.lay_back(d_value),
        None if key is None else key.lay_back(d_key),
        d_weight,
        d_scale,
    )


# ----------------------------------------------------------------------------------------------------------------------


def _sides(query, value, key, query_mask, value_mask, key_mask):
    """(query, value, key or None) as _Side; values and keys have the same valid steps."""
    q, B, Tq, q_offsets, q_mask = resolve_batch(query, query_mask, None, "query", "query_mask")
    v, Bv, Tv, v_offsets, v_mask = resolve_batch(value, value_mask, None, "value", "value_mask")
    _like_query("value", v, q.dtype)
    if Bv != B:
        raise ValueError(f"value: expected B = {B} rows as query, received {Bv}")
    k, name = v, "value"
    if key is not None:
        name = "key"
        k, Bk, Tk, k_offsets, k_mask = resolve_batch(key, key_mask, None, "key", "key_mask")
        _like_query("key", k, q.dtype)
        if (Bk, Tk) != (Bv, Tv) or (Tv is None and not np.array_equal(k_offsets, v_offsets)):
            raise ValueError(f"key: expected the steps of value, (B,Tv) = ({Bv},{Tv}), received ({Bk},{Tk})")
        if k_mask is not None:
            v_mask = k_mask if v_mask is None else v_mask & k_mask
    elif key_mask is not None:
        raise ValueError("key_mask: expected None without a key, received a mask")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"{name}: expected D = {q.shape[-1]} features as query, received {k.shape[-1]}")
    steps = steps_of(B, Tv, v_offsets, v_mask, False, False)
    return (
        _Side(q, B, Tq, q_offsets, steps_of(B, Tq, q_offsets, q_mask, False, False)),
        _Side(v, B, Tv, v_offsets, steps),
        None if key is None else _Side(k, B, Tv, v_offsets, steps),
    )


def _like_query(name, a, dtype):
    a = as_floats(name, a)
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as query, received {a.dtype}")
    return a


def _inner(a, b):
    return np.sum(a * b, dtype=np.float64)


def _both_valid(query, value):
    """(B,Tq,Tv) bool; its True elements, in order, are the pairs."""
    return query.valid.reshape(query.B, query.T, 1) & value.valid.reshape(value.B, 1, value.T)


def _scores(pairs, queries, keys, weight):
    scores = empty("scores", (pairs.count,), queries.buffer.dtype)
    if weight is None:
        multiply(queries, keys.T, pairs.stack(scores))
    else:
        multiply(queries, keys.T, pairs.stack(scores), ("attention", "additive_scores"), weight=weight)
    return scores


def _additive_gradient(ds, x, of_x, y, of_y, weight, d_weights=None):
    """Of x, one side of additive scores, from ds (x, y) and the other side; fills in d_weights, the gradients of weight
    that each x gives.
    """
    D, size = x.shape[1], x.itemsize
    start, row, column = (np.broadcast_to(n, len(of_x) - 1) for n in ds.bytes())
    job, before, rows = cut_rows(np.diff(of_x))
    at = (of_x[job] + before) * D * size  # of the first row of a job, in x and in what is like x
    dx = np.empty_like(x)
    jobs = table(
        len(job), _jit.address(x) + at, start[job] + before * row[job], row[job], column[job],
        _jit.address(y) + of_y[job] * D * size, np.diff(of_y)[job], _jit.address(dx) + at,
        0 if d_weights is None else _jit.address(d_weights) + at, rows,
    )  # fmt: skip
    _jit.get("attention", "additive_backward", x.dtype).run(
        len(jobs), TANH_WORK * len(ds.buffer) * D, jobs=jobs, weight=weight, D=D
    )
    return dx
