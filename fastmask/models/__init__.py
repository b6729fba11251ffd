"""Models: layers put together, and the loop that trains them."""

from fastmask.models.model import Model
from fastmask.models.sequential import Sequential
from fastmask.models.training import History

__all__ = ["History", "Model", "Sequential"]
