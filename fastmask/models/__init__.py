"""Models: layers put together, and the loop that trains them."""

from fastmask.callbacks import History
from fastmask.models.model import Model
from fastmask.models.saving import load_model
from fastmask.models.sequential import Sequential
from fastmask.models.streaming import Stream

__all__ = ["History", "Model", "Sequential", "Stream", "load_model"]
