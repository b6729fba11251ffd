"""Making masks."""

import numpy as np

import fastmask as fm
from fastmask.ops.mask import clear_masked, is_finite_under

from . import common


class Masks:
    params = ([(4, 10, 4), (256, 400, 64)], common.ENDS, common.THREADS)
    param_names = ("B,T,F", "fill", "threads")

    def setup(self, size, fill, threads):
        fm.set_num_threads(threads)
        B, T, F = size
        self.T, self.lengths, self.mask = T, common.lengths(B, T, fill), common.mask(B, T, fill)
        self.x = common.normal(B, T, F) * self.mask[..., None]
        self.ids = np.where(self.mask, 7, 0)
        self.time_from_values()
        self.time_from_ids()
        self.time_from_lengths()
        self.time_to_lengths()

    def time_from_values(self, *_):
        fm.masks.from_values(self.x)

    def time_from_ids(self, *_):
        fm.masks.from_ids(self.ids)

    def time_from_lengths(self, *_):
        fm.masks.from_lengths(self.lengths, self.T)

    def time_to_lengths(self, *_):
        fm.masks.to_lengths(self.mask)

    def time_is_finite_under(self, *_):
        is_finite_under(self.x, self.mask)

    def time_clear_masked(self, *_):
        clear_masked(self.x, self.mask)
