"""Masks in plain NumPy. mask (B,T): True = use the step, False = skip it."""

import numpy as np


def from_values(x, mask_value=0.0):
    """Keras' Masking rule: a step counts if any feature differs from mask_value. x (...,F) -> (...)."""
    return np.any(x != np.asarray(mask_value, dtype=x.dtype), axis=-1)


def from_ids(ids, pad_id=0):
    """Keras' Embedding(mask_zero) rule. ids of any shape -> mask of that shape."""
    return ids != np.asarray(pad_id, dtype=ids.dtype)


def from_lengths(lengths, maxlen=None):
    """The first lengths[b] steps of row b count. lengths (B,) -> (B,maxlen)."""
    maxlen = max(lengths, default=0) if maxlen is None else maxlen
    return np.arange(maxlen) < np.asarray(lengths).reshape(-1, 1)


def to_lengths(mask):
    """Valid steps of each row. mask (B,T) -> (B,)."""
    return np.count_nonzero(mask, axis=1)


def as_mask(mask, B, T):
    """A mask of shape (B,T), (1,T) or (B,T,1), of any numeric dtype, as bool (B,T); None is all True."""
    if mask is None:
        return np.ones((B, T), dtype=bool)
    mask = np.asarray(mask)
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]
    if mask.shape not in ((B, T), (1, T)):
        raise ValueError(f"mask: expected shape (B,T) = ({B},{T}), received {mask.shape}")
    return np.broadcast_to(mask != 0, (B, T))
