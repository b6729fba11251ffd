"""Decisions of callbacks against live Keras' own, driven by the same logs."""

import os

import numpy as np
import pytest

from fastmask import callbacks
from fastmask.optimizers import SGD
from fastmask.variable import Variable

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own


class Pretender:
    """What both libraries' callbacks need of a model; its one weight is the number of the epoch."""

    def __init__(self, optimizer):
        self.optimizer, self.stop_training, self.saved = optimizer, False, []
        self.weights = [Variable(np.array([-1.0]))]

    def get_weights(self):
        return [v.numpy() for v in self.weights]

    def set_weights(self, weights):
        self.weights[0].assign(weights[0])

    def save(self, path, overwrite=True):
        self.saved.append(path)


def decisions(package, optimizer, name, options, values, name_of_value, batches=0):
    """Everything that a callback decided: learning rate and stop at each epoch, weight at the end, files."""
    callback = getattr(package, name)(**options)
    model = Pretender(optimizer)
    every = package.CallbackList([callback], model=model, epochs=len(values))
    every.on_train_begin()
    seen = []
    for epoch, value in enumerate(values):
        every.on_epoch_begin(epoch)
        model.weights[0].assign([float(epoch)])
        logs = {name_of_value: value}
        for batch in range(batches):
            every.on_train_batch_begin(batch)
            every.on_train_batch_end(batch, logs)
        every.on_epoch_end(epoch, logs)
        seen.append((epoch, round(float(model.optimizer.learning_rate), 6), model.stop_training))
        if model.stop_training:
            break
    every.on_train_end(logs)
    return seen, float(model.weights[0].value[0]), model.saved


CASES = [
    *[("EarlyStopping", {"patience": p, "restore_best_weights": True}) for p in (0, 1, 2, 4)],
    ("EarlyStopping", {"patience": 3}),
    ("EarlyStopping", {"patience": 2, "min_delta": 0.3, "restore_best_weights": True}),
    ("EarlyStopping", {"patience": 3, "min_delta": -0.1, "start_from_epoch": 4, "restore_best_weights": True}),
    ("EarlyStopping", {"patience": 4, "baseline": 1.0, "restore_best_weights": True}),
    ("EarlyStopping", {"patience": 4, "baseline": 0.2, "restore_best_weights": True}),
    ("EarlyStopping", {"patience": 2, "mode": "max", "restore_best_weights": True}),
    ("ReduceLROnPlateau", {"patience": 1}),
    ("ReduceLROnPlateau", {"patience": 2, "factor": 0.5, "cooldown": 1}),
    ("ReduceLROnPlateau", {"patience": 1, "factor": 0.5, "cooldown": 3, "min_lr": 0.2}),
    ("ReduceLROnPlateau", {"patience": 0, "factor": 0.7, "min_delta": 0.3}),
    ("ReduceLROnPlateau", {"patience": 2, "factor": 0.5, "mode": "max"}),
    ("ModelCheckpoint", {"filepath": "{epoch:03d}-{batch}.keras", "save_freq": 3}),
    ("ModelCheckpoint", {"filepath": "{epoch:03d}.keras"}),
    ("ModelCheckpoint", {"filepath": "{epoch:03d}.keras", "save_best_only": True}),
    ("ModelCheckpoint", {"filepath": "{epoch}.keras", "save_best_only": True, "mode": "max"}),
    ("ModelCheckpoint", {"filepath": "{epoch}.keras", "save_best_only": True, "initial_value_threshold": 0.5}),
    ("TerminateOnNaN", {}),
    ("LearningRateScheduler", {"schedule": lambda epoch, lr: lr * 0.5 if epoch % 3 else lr}),
]


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_decisions(name, options, seed):
    rng = np.random.default_rng(seed)
    values = [float(v) for v in np.round(2 / np.sqrt(1 + np.arange(25)) + 0.3 * rng.standard_normal(25), 1)]
    if seed == 2:
        values[8] = values[12] = float("nan")
    name_of_value = "loss" if name == "TerminateOnNaN" else "val_loss"
    batches = 4 if "batch" in str(options) or name == "TerminateOnNaN" else 0
    args = name, options, values, name_of_value, batches
    wanted = decisions(keras.callbacks, keras.optimizers.SGD(1.0), *args)
    assert decisions(callbacks, SGD(1.0), *args) == wanted


@pytest.mark.parametrize("append", [False, True])
def test_csv_files(append, tmp_path):
    written = []
    for package, optimizer in ((callbacks, SGD(1.0)), (keras.callbacks, keras.optimizers.SGD(1.0))):
        path = tmp_path / f"{package.__name__}.csv"
        for _ in range(2):
            options = {"filename": str(path), "separator": ";", "append": append}
            decisions(package, optimizer, "CSVLogger", options, [0.5, 0.25], "loss")
        written.append(path.read_bytes())
    assert written[0] == written[1] and written[0].count(b"\n") == (5 if append else 3)
