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


class SmallSteps:
    """50 steps of a model so small that what is around the kernels takes most of the time."""

    params = (["arrays", "generator"],)
    param_names = ("form",)

    def setup(self, form):
        x, y = np.zeros((400, 10, 8), np.float32), np.zeros(400, int)
        self.data, self.options = {"x": x, "y": y}, {"batch_size": 8}
        if form == "generator":
            self.batches, self.options = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 400, 8)], {}
        self.model = fm.Sequential([fm.Input((None, 8)), fm.layers.GRU(16), fm.layers.Dense(4, activation="softmax")])
        self.model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
        self.time_fit(form)

    def time_fit(self, form):
        data = self.data if form == "arrays" else {"x": (batch for batch in self.batches)}
        self.model.fit(**data, **self.options, verbose=0)

    def time_train_on_batch(self, _):
        for _ in range(50):
            self.model.train_on_batch(self.data["x"][:8], self.data["y"][:8])
