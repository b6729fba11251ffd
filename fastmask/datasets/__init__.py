"""Small data sets that ship with fastmask."""

from .vowels import japanese_vowels

__all__ = ["japanese_vowels"]
