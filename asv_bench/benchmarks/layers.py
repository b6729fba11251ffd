"""Layers as users call them: inference, one step, training with backward."""

import fastmask as fm

from . import common

SIZES = [(1, 1, 32, 64), (8, 50, 16, 32), (32, 200, 64, 128)]


class Layer:
    params = (["SimpleRNN", "GRU", "LSTM"], SIZES, common.THREADS)
    param_names = ("layer", "B,T,F,H", "threads")

    def setup(self, name, size, threads):
        fm.set_num_threads(threads)
        B, T, F, H = size
        self.x, self.mask = common.normal(B, T, F), common.mask(B, T)
        self.d_outputs = common.normal(B, T, H) * self.mask[..., None]
        self.layer = self.make(name, H)
        self.time_call()
        self.time_backward()

    def make(self, name, units):
        return getattr(fm.layers, name)(units, return_sequences=True)

    def time_call(self, *_):
        self.layer(self.x, mask=self.mask)

    def time_backward(self, *_):
        """A training call and its backward."""
        self.layer(self.x, mask=self.mask, training=True)
        self.layer.backward(self.d_outputs)


class Bidirectional(Layer):
    def make(self, name, units):
        return fm.layers.Bidirectional(getattr(fm.layers, name)(units, return_sequences=True), merge_mode="sum")


class RecurrentDropout(Layer):
    def make(self, name, units):
        return getattr(fm.layers, name)(units, return_sequences=True, dropout=0.2, recurrent_dropout=0.2)


class PerStep:
    """Layers that treat each step by itself."""

    params = (["Masking", "Dense", "Dropout", "ReLU", "Softmax", "ApplyMask"], SIZES)
    param_names = ("layer", "B,T,F,H")

    def setup(self, name, size):
        B, T, F, H = size
        self.x, self.mask = common.normal(B, T, F), common.mask(B, T)
        arguments = {"Masking": (0.0,), "Dense": (H,), "Dropout": (0.5,)}.get(name, ())
        self.layer = getattr(fm.layers, name)(*arguments)
        self.dy = common.normal(B, T, H if name == "Dense" else F)
        self.time_call()
        self.time_backward()

    def time_call(self, *_):
        self.layer(self.x, mask=self.mask)

    def time_backward(self, *_):
        self.layer(self.x, mask=self.mask, training=True)
        self.layer.backward(self.dy)


class Merge:
    """Layers that make one array of two, both masked."""

    params = (["Add", "Multiply", "Maximum", "Concatenate", "Dot"], SIZES)
    param_names = ("layer", "B,T,F,H")

    def setup(self, name, size):
        B, T, F, _ = size
        self.inputs = [common.normal(B, T, F, seed=seed) for seed in (0, 1)]
        self.masks = [common.mask(B, T, seed=seed) for seed in (0, 1)]
        self.layer = getattr(fm.layers, name)(*(1,) if name == "Dot" else ())
        self.dy = common.normal(*self.layer(self.inputs).shape)
        self.time_call()
        self.time_backward()

    def time_call(self, *_):
        self.layer(self.inputs, mask=self.masks)

    def time_backward(self, *_):
        self.layer(self.inputs, mask=self.masks, training=True)
        self.layer.backward(self.dy)
