"""Embedding: rows by id, and the gradient of the rows that were used, whose cost does not grow with the vocabulary."""

import numpy as np

import fastmask as fm
from fastmask.ops.embedding import embedding_backward, embedding_forward

from . import common

SIZES = [(4, 10, 8), (64, 400, 64)]  # (B, T, D)
VOCABULARIES = [1_000, 1_000_000]


class Embedding:
    params = (SIZES, VOCABULARIES, common.DTYPES, common.ENDS, common.THREADS)
    param_names = ("B,T,D", "vocabulary", "dtype", "fill", "threads")

    def setup(self, size, vocabulary, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, D = size
        mask = common.mask(B, T, fill)
        words = np.minimum(np.random.default_rng(0).zipf(1.2, size=(B, T)), vocabulary - 1)
        self.ids = np.where(mask, words, 0)
        self.embeddings = np.zeros((vocabulary, D), dtype)
        self.dy = common.normal(B, T, D, dtype=dtype) * mask[..., None]
        _, self.tape = self.time_embedding_forward()
        self.time_embedding_backward()

    def time_embedding_forward(self, *_):
        return embedding_forward(self.ids, self.embeddings)

    def time_embedding_backward(self, *_):
        embedding_backward(self.tape, self.dy)
