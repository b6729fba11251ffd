"""Making masks and counting their steps: bool arrays, usually (B, T), True = use the step, False = skip it."""

from fastmask.ops.mask import from_ids, from_lengths, from_values, to_lengths

__all__ = ["from_ids", "from_lengths", "from_values", "to_lengths"]
