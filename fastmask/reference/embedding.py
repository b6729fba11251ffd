"""Embedding: row ids[n] of a weight at every step."""

import numpy as np


def embedding_forward(ids, embeddings):
    """y = embeddings[ids]. ids of any shape and numeric dtype, cut to whole numbers; embeddings (V,D) -> (...,D)."""
    return embeddings[np.asarray(ids).astype(np.int64)]


def embedding_backward(ids, dy, V):
    """Gradient of embeddings (V,D) from dy (...,D): what arrives at the steps, added up step by step."""
    gradient = np.zeros((V, dy.shape[-1]), dy.dtype)
    for i, d in zip(np.asarray(ids).astype(np.int64).ravel(), dy.reshape(-1, dy.shape[-1]), strict=True):
        gradient[i] += d
    return gradient
