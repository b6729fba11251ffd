"""From lists of recordings to batches."""

import numpy as np

import fastmask as fm

from . import common


class Sequences:
    params = ([(4, 10), (1_000, 400)],)
    param_names = ("rows, longest",)

    def setup(self, size):
        self.lengths = common.lengths(*size)
        self.lists = [list(range(n)) for n in self.lengths]
        self.arrays = [np.arange(n) for n in self.lengths]
        self.time_pad_sequences()
        self.time_pad_sequences_arrays()
        self.time_bucket_batches()

    def time_pad_sequences(self, *_):
        fm.pad_sequences(self.lists)

    def time_pad_sequences_arrays(self, *_):
        fm.pad_sequences(self.arrays, padding="post")

    def time_bucket_batches(self, *_):
        list(fm.bucket_batches(self.lengths, 32, seed=0))
