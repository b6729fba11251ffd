"""Words of characters: a recurrent layer over the characters of each word, and Dense over words."""

import fastmask as fm

from . import common

SIZES = [(2, 5, 4, 8, 8), (32, 30, 12, 32, 32)]  # (B, words, characters, F, H)


class Words:
    params = (["LSTM", "Bidirectional", "Dense"], SIZES, common.ENDS, common.THREADS)
    param_names = ("layer", "B,T1,T2,F,H", "fill", "threads")

    def setup(self, name, size, fill, threads):
        fm.set_num_threads(threads)
        B, T1, T2, F, H = size
        inner = {
            "LSTM": lambda: fm.layers.LSTM(H),
            "Bidirectional": lambda: fm.layers.Bidirectional(fm.layers.LSTM(H)),
            "Dense": lambda: fm.layers.Dense(H),
        }[name]()
        self.layer, self.x = fm.layers.TimeDistributed(inner), common.normal(B, T1, T2, F)
        self.mask = common.mask(B * T1, T2, fill).reshape(B, T1, T2)
        self.dy = common.normal(*self.time_call().shape)
        self.time_backward()

    def time_call(self, *_):
        return self.layer(self.x, mask=self.mask)

    def time_backward(self, *_):
        """A training call and its backward."""
        self.layer(self.x, mask=self.mask, training=True)
        self.layer.backward(self.dy)
