"""A stream fed with one step after the other, beside a call of the model for one step."""

import fastmask as fm

from . import common


class Streaming:
    params = (["GRU", "LSTM"], [(1, 1, 32, 64), (1, 10, 32, 64), (64, 1, 32, 64)], [False, True])
    param_names = ("layer", "B,n,F,H", "masked")

    def setup(self, name, size, masked):
        B, n, F, H = size
        self.x, self.mask = common.normal(B, n, F), common.mask(B, n) if masked else None
        recurrent = getattr(fm.layers, name)(H, return_sequences=True)
        self.model = fm.Sequential([fm.Input((None, F)), recurrent])
        self.time_stream()
        self.stream = self.model.stream(B)
        self.time_piece()
        self.time_model()

    def time_piece(self, *_):
        self.stream(self.x, mask=self.mask)

    def time_model(self, *_):
        """The yardstick: the same steps from the beginning."""
        self.model(self.x, mask=self.mask)

    def time_stream(self, *_):
        """Making a stream."""
        self.model.stream(len(self.x))
