"""A whole model: predict, one training step, one epoch."""

import numpy as np

import fastmask as fm

from . import common


class Model:
    params = (["GRU", "LSTM"], [(27, 29, 12, 16), (256, 100, 64, 128)], ["padded", "ragged"])
    param_names = ("layer", "B,T,F,H", "form")

    def setup(self, name, size, form):
        B, T, F, H = size
        self.x, self.keywords = common.ragged(B, T, F), {}
        if form == "padded":
            self.x, self.keywords["mask"] = self.x.to_padded()
        self.y = np.arange(B) % 9
        recurrent = getattr(fm.layers, name)(H)
        softmax = fm.layers.Dense(9, activation="softmax")
        self.model = fm.Sequential([fm.Input((None, F)), fm.layers.Bidirectional(recurrent), softmax])
        self.model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        self.time_predict()
        self.time_train_on_batch()
        self.time_fit()

    def time_predict(self, *_):
        self.model.predict(self.x, **self.keywords)

    def time_evaluate(self, *_):
        self.model.evaluate(self.x, self.y, verbose=0, **self.keywords)

    def time_train_on_batch(self, *_):
        self.model.train_on_batch(self.x, self.y, **self.keywords)

    def time_fit(self, *_):
        """One epoch in batches of 32."""
        self.model.fit(self.x, self.y, batch_size=32, epochs=1, verbose=0, **self.keywords)

    def peakmem_fit(self, *_):
        self.time_fit()
