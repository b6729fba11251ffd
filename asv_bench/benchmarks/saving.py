"""A model and its optimizer to a file and back."""

import os
import tempfile

import fastmask as fm

from . import common


class Saving:
    params = ([(12, 16), (64, 128), (256, 512)],)
    param_names = ("F,H",)

    def setup(self, size):
        F, H = size
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "m.npz")
        recurrent = fm.layers.Bidirectional(fm.layers.LSTM(H))
        self.model = fm.Sequential([fm.Input((None, F)), recurrent, fm.layers.Dense(9, activation="softmax")])
        self.model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        self.model.train_on_batch(common.normal(2, 3, F), [0, 1])
        self.time_save()
        self.time_load_model()
        self.time_load_weights()

    def teardown(self, size):
        self.folder.cleanup()

    def time_save(self, *_):
        self.model.save(self.path)

    def time_save_weights(self, *_):
        self.model.save_weights(self.path)

    def time_load_model(self, *_):
        fm.load_model(self.path)

    def time_load_weights(self, *_):
        self.model.load_weights(self.path)

    def peakmem_load_model(self, *_):
        self.time_load_model()
