"""Ragged: making one, padding it, picking rows."""

import numpy as np

import fastmask as fm

from . import common


class Ragged:
    params = ([(4, 10, 4), (1_000, 400, 16)], common.FILLS)
    param_names = ("B,T,F", "fill")

    def setup(self, size, fill):
        B, T, F = size
        self.ragged = common.ragged(B, T, F, fill=fill)
        self.rows = [np.array(row) for row in self.ragged]
        self.x, self.mask = self.ragged.to_padded()
        self.order = np.random.default_rng(0).permutation(B)
        for time in (self.time_from_list, self.time_from_padded, self.time_to_padded, self.time_take, self.time_row):
            time()

    def time_from_list(self, *_):
        fm.Ragged.from_list(self.rows)

    def time_from_padded(self, *_):
        fm.Ragged.from_padded(self.x, self.mask)

    def time_to_padded(self, *_):
        self.ragged.to_padded()

    def time_take(self, *_):
        self.ragged.take(self.order)

    def time_row(self, *_):
        self.ragged[1]
