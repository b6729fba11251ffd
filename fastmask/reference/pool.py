"""Global pooling over the valid steps of each row. x (B,T,F), mask (B,T) -> (B,F); a row without a step gives 0."""

import numpy as np

from fastmask.reference.mask import as_mask


def average_pool_forward(x, mask=None):
    """y = sum over valid steps of x / number of valid steps."""
    m = as_mask(mask, *x.shape[:2])
    total = np.sum(np.where(m[..., None], x, 0), axis=1, dtype=x.dtype)
    return total / np.maximum(1, np.count_nonzero(m, axis=1))[:, None].astype(x.dtype)


def average_pool_backward(x, dy, mask=None):
    """dx = dy / number of valid steps, at valid steps."""
    m = as_mask(mask, *x.shape[:2])
    share = dy / np.maximum(1, np.count_nonzero(m, axis=1))[:, None].astype(x.dtype)
    return np.where(m[..., None], share[:, None], 0).astype(x.dtype)


def max_pool_forward(x, mask=None):
    """y = the largest valid x; NaN if one is NaN."""
    m = as_mask(mask, *x.shape[:2])
    top = np.max(np.where(m[..., None], x, -np.inf), axis=1, initial=-np.inf)
    return np.where(m.any(axis=1)[:, None], top, 0).astype(x.dtype)


def max_pool_backward(x, dy, mask=None):
    """dx = dy in equal shares where a valid x is the largest."""
    m = as_mask(mask, *x.shape[:2])
    largest = (x == max_pool_forward(x, mask)[:, None]) & m[..., None]
    ties = np.maximum(1, np.count_nonzero(largest, axis=1))
    return np.where(largest, (dy / ties)[:, None], 0).astype(x.dtype)
