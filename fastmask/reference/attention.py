"""Attention: for every query the mean of its row's values, weighted by the softmax of its scores with their keys.

    score = scale q · k                                       (Luong 2015)
    score = sum over d of weight[d] tanh(scale (q[d] + k[d]))  (Bahdanau 2015)

A masked value is not there; a masked query, and one that sees no value, gives 0.
"""

from typing import NamedTuple

import numpy as np

from fastmask.reference.mask import as_mask


class AttentionGradients(NamedTuple):
    """query, value and key as these, 0 at masked steps (key None where the value was the key, too; then value has both
    gradients); weight (D,) and scale (), None where none was given.
    """

    query: np.ndarray
    value: np.ndarray
    key: np.ndarray | None
    weight: np.ndarray | None
    scale: np.ndarray | None


class AttentionTape(NamedTuple):
    """What attention_backward reads."""

    query: np.ndarray  # (B,Tq,D); these three are 0 at masked steps
    value: np.ndarray  # (B,Tv,V)
    key: np.ndarray  # (B,Tv,D)
    has_key: bool
    weight: np.ndarray | None
    scale: np.ndarray | None
    p: np.ndarray  # (B,Tq,Tv), the softmax
    dropout: np.ndarray  # (B,Tq,Tv), what it was multiplied by


def attention(query, value, key=None, **options):
    """attention_forward without the tape."""
    return attention_forward(query, value, key, **options)[0]


def attention_forward(
    query, value, key=None, *, weight=None, scale=None, query_mask=None, value_mask=None, key_mask=None, causal=False,
    dropout=None,
):  # fmt: skip
    """The module's equations, and the tape for attention_backward.

    Parameters
    ----------
    query, value, key : (B,Tq,D), (B,Tv,V), (B,Tv,D); without key the values are the keys (V = D)
    weight : (D,) of additive scores, or None
    scale : number, or None for 1
    query_mask, value_mask, key_mask : (B,Tq), (B,Tv), (B,Tv), or None
    causal : bool, query i sees the values 0 … i
    dropout : (B,Tq,Tv), what the softmax is multiplied by, or None

    Returns
    -------
    (B,Tq,V), tape
    """
    B, Tq, _ = query.shape
    Tv = value.shape[1]
    query_mask, value_mask = as_mask(query_mask, B, Tq), as_mask(value_mask, B, Tv) & as_mask(key_mask, B, Tv)
    query = np.where(query_mask[..., None], query, 0)
    has_key = key is not None
    key = np.where(value_mask[..., None], key if has_key else value, 0)
    value = np.where(value_mask[..., None], value, 0)

    if weight is None:
        scores = (1 if scale is None else scale) * (query @ key.transpose(0, 2, 1))
    else:
        scores = _tanh(query, key, scale) @ weight
    sees = query_mask[:, :, None] & value_mask[:, None, :]
    if causal:
        sees = sees & (np.arange(Tv) <= np.arange(Tq)[:, None])
    p = _softmax(scores, sees)
    dropout = np.ones_like(p) if dropout is None else np.asarray(dropout)
    return (p * dropout) @ value, AttentionTape(query, value, key, has_key, weight, scale, p, dropout)


def attention_backward(tape, d_outputs, d_scores=None):
    """Gradients from d_outputs (B,Tq,V), and d_scores (B,Tq,Tv), the gradient of p dropout."""
    query, value, key, has_key, weight, scale, p, dropout = tape
    dp = d_outputs @ value.transpose(0, 2, 1)
    d_value = (p * dropout).transpose(0, 2, 1) @ d_outputs
    if d_scores is not None:
        dp = dp + d_scores
    dp = dp * dropout
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))  # 0 where a query does not see: p is 0 there

    s, d_weight = 1 if scale is None else scale, None
    if weight is None:
        d_query, d_key = s * (ds @ key), s * (ds.transpose(0, 2, 1) @ query)
        d_scale = (ds * (query @ key.transpose(0, 2, 1))).sum()
    else:
        t = _tanh(query, key, scale)
        d_weight = np.einsum("bqv,bqvd->d", ds, t)
        da = ds[..., None] * weight * (1 - t * t)  # of what tanh is taken of
        d_query, d_key = s * da.sum(axis=2), s * da.sum(axis=1)
        d_scale = (da * (query[:, :, None] + key[:, None])).sum()
    if not has_key:
        d_value, d_key = d_value + d_key, None
    return AttentionGradients(d_query, d_value, d_key, d_weight, None if scale is None else d_scale)


def _tanh(query, key, scale):
    """(B,Tq,Tv,D)"""
    return np.tanh((1 if scale is None else scale) * (query[:, :, None] + key[:, None]))


def _softmax(scores, sees):
    """Over the values that a query sees; 0 where it does not."""
    top = np.max(scores, axis=-1, keepdims=True, where=sees, initial=-np.inf)
    e = np.exp(np.where(sees, scores - np.where(np.isfinite(top), top, 0), -np.inf))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total)
