"""One step of one row, as a server or a control loop calls it: microseconds of each way from Python, median and tail.

`python asv_bench/latency.py` prints them as a table.
"""

import time

import numpy as np

import fastmask as fm

from . import common

F, H = 32, 64
CELLS = ["GRU", "LSTM", "SimpleRNN"]


def ways(name):
    """Name -> function of nothing: each way to compute one step with a layer of that class."""
    x, mask = common.normal(1, 1, F), np.ones((1, 1), bool)
    layer = getattr(fm.layers, name)(H, return_sequences=True)
    model = fm.Sequential([fm.Input((None, F)), layer])
    call, stream = layer.prepare(batch_size=1, steps=1, masked=True, stateful=True), model.stream(batch_size=1)

    def prepared_with_input():
        call.inputs[...] = x
        call.mask[...] = mask
        call()

    return {
        "layer(x)": lambda: layer(x),
        "layer(x, mask=mask)": lambda: layer(x, mask=mask),
        "prepared call": call,
        "prepared call, x and mask copied in": prepared_with_input,
        "stream(x)": lambda: stream(x),
        "model(x)": lambda: model(x),
        "model.predict(x)": lambda: model.predict(x),
    }


def microseconds(function, calls=4000):
    """Of each of `calls` calls; the clock's own time is taken off."""
    clock, times = time.perf_counter_ns, np.empty((2, calls))
    for row, f in ((0, lambda: None), (1, function)):
        for i in range(-calls // 10, calls):
            start = clock()
            f()
            end = clock()
            if i >= 0:
                times[row, i] = end - start
    return (times[1] - np.median(times[0])) / 1e3


class Latency:
    params = (CELLS, ["prepared call", "layer(x)", "layer(x, mask=mask)", "stream(x)", "model.predict(x)"])
    param_names = ("layer", "call")
    unit = "us"

    def setup(self, name, way):
        self.function = ways(name)[way]

    def track_p50(self, *_):
        return float(np.percentile(microseconds(self.function), 50))

    def track_p99(self, *_):
        return float(np.percentile(microseconds(self.function), 99))


class Preparing:
    params = (CELLS,)
    param_names = ("layer",)

    def setup(self, name):
        self.layer = getattr(fm.layers, name)(H)
        self.layer(common.normal(1, 1, F))

    def time_prepare(self, *_):
        self.layer.prepare()
