"""The training loop against live Keras (TensorFlow): whole calls of fit give the same losses and the same weights."""

import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import fastmask as fm
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own

NAMES = ["layers", "Input", "Model", "Sequential", "optimizers", "callbacks", "regularizers", "constraints"]
OURS = SimpleNamespace(schedules=fm.schedules, **{name: getattr(fm, name) for name in NAMES})
KERAS = SimpleNamespace(schedules=keras.optimizers.schedules, **{name: getattr(keras, name) for name in NAMES})
B, T, F, K, SIZE = 10, 5, 3, 4, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((B, T, F)).astype("float32")
TAGS, CLASSES = rng.integers(0, K, (B, T)), rng.integers(0, K, B)
VALUES = rng.standard_normal((B, 2)).astype("float32")
ROW_WEIGHTS = rng.random(B).astype("float32")
STEP_WEIGHTS = rng.random((B, T)).astype("float32")
CUTS = [slice(i, i + SIZE) for i in range(0, B, SIZE)]


def two_outputs(f):
    """A tag for each step and two values for each row, with regularizers and a constraint."""
    x = f.Input((None, F), name="x")
    states = f.layers.GRU(4, return_sequences=True, name="states")(x)
    tags = f.layers.Dense(
        *(K, "softmax"), kernel_regularizer=f.regularizers.L1L2(0.01, 0.02), bias_regularizer="l2", name="tags"
    )(states)
    last = f.layers.LSTM(3, name="last")(states)
    return f.Model(x, [tags, f.layers.Dense(2, kernel_constraint=f.constraints.MaxNorm(0.8), name="values")(last)])


def classifier(f, masked=False):
    x = f.Input((None, F))
    y = f.layers.Masking()(x) if masked else x
    return f.Model(x, f.layers.Dense(K, activation="softmax")(f.layers.GRU(4)(y)))


def tagger(f):
    x = f.Input((None, F))
    y = f.layers.LSTM(4, return_sequences=True)(f.layers.Masking()(x))
    return f.Model(x, f.layers.Dense(K, activation="softmax")(y))


def compare(make, run, k=2**10):
    """`run(model, f)` on both libraries' models of the same weights: the same History and the same weights after it."""
    theirs = make(KERAS)
    ours = make(OURS)
    ours.set_weights(theirs.get_weights())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, got = run(theirs, KERAS), run(ours, OURS)
    assert got.epoch == expected.epoch and set(got.history) == set(expected.history)
    for name, values in expected.history.items():
        assert got.history[name] == pytest.approx(values, abs=1e-5), name
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(a, b, np.float32, k=k)


OPTIMIZERS = {
    "sgd": lambda f: f.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda f: f.optimizers.Adam(f.schedules.ExponentialDecay(0.02, 3, 0.8)),
    "adamw": lambda f: f.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.3),
    "accumulated": lambda f: f.optimizers.Adam(0.02, gradient_accumulation_steps=2),
    "accumulated with a schedule": lambda f: f.optimizers.SGD(
        f.schedules.PiecewiseConstantDecay([2, 5], [0.2, 0.1, 0.05]), momentum=0.5, gradient_accumulation_steps=3
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_several_outputs(optimizer):
    """In batches of one size: Keras weighs the loss by rows, but that of an output, where it compiles, by batches."""

    def run(model, f):
        losses = {"tags": "sparse_categorical_crossentropy", "values": "mse"}
        metrics = {"tags": ["accuracy"], "values": ["mae"]}
        model.compile(OPTIMIZERS[optimizer](f), losses, {"tags": 0.7, "values": 2.0}, metrics, run_eagerly=True)
        validation = X[:5], [TAGS[:5], VALUES[:5]], [STEP_WEIGHTS[:5], ROW_WEIGHTS[:5]]
        return model.fit(
            *(X, [TAGS, VALUES], 5),
            sample_weight=[STEP_WEIGHTS, ROW_WEIGHTS],
            epochs=4,
            shuffle=False,
            validation_data=validation,
            verbose=0,
        )

    compare(two_outputs, run)


@pytest.mark.parametrize("targets", ["labels", "column", "one-hot"])
def test_class_weight(targets):
    y = {"labels": CLASSES, "column": CLASSES[:, None], "one-hot": np.eye(K, dtype="float32")[CLASSES]}[targets]

    def run(model, f):
        loss = "categorical_crossentropy" if targets == "one-hot" else "sparse_categorical_crossentropy"
        model.compile("sgd", loss, metrics=["accuracy"], weighted_metrics=[loss], run_eagerly=True)
        weights = {0: 0.2, 2: 5.0, 3: 0.0}
        return model.fit(X, y, SIZE, epochs=3, class_weight=weights, validation_split=0.2, shuffle=False, verbose=0)

    compare(classifier, run)


def test_masked_batches_with_as_many_valid_steps_each():
    """There both weigh batches alike: by rows or by valid steps."""
    mask = np.arange(T) < np.array([5, 1, 3, 3, 2, 4, 5, 1, 3, 3, 4, 2])[:, None]  # 12 in each four rows
    x = np.where(mask[..., None], rng.standard_normal((12, T, F)), 0).astype("float32")
    y, weights = rng.integers(0, K, (12, T)), rng.random((12, T)).astype("float32")

    def run(model, f):
        model.compile(OPTIMIZERS["accumulated"](f), "sparse_categorical_crossentropy", run_eagerly=True)
        return model.fit(x, y, SIZE, epochs=4, sample_weight=weights, shuffle=False, verbose=0)

    compare(tagger, run)


def endless(batches):
    while True:
        yield from batches


class Dataset(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches, self.asked = batches, []

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.batches[i]


SOURCES = {
    "generator": (endless, {"steps_per_epoch": 2}),
    "dataset": (Dataset, {"shuffle": False}),
    "dataset in epochs of two": (Dataset, {"shuffle": False, "steps_per_epoch": 2}),
    "arrays in epochs of two": (None, {"shuffle": False, "steps_per_epoch": 2, "batch_size": SIZE}),
    "arrays in two steps": (None, {"shuffle": False, "steps_per_epoch": 2}),
    "class weights": (Dataset, {"shuffle": False, "class_weight": {1: 3.0}}),
}
WEIGHTED = [source for source in SOURCES if source != "class weights"]  # Keras refuses both together


@pytest.mark.parametrize("source, weighted", [*((s, False) for s in SOURCES), *((s, True) for s in WEIGHTED)])
def test_batches(source, weighted):
    make, options = SOURCES[source]

    def run(model, f):
        model.compile(f.optimizers.Adam(0.02), "sparse_categorical_crossentropy", None, ["accuracy"], run_eagerly=True)
        data = (X, CLASSES, ROW_WEIGHTS) if weighted else (X, CLASSES)
        if make is not None:
            return model.fit(make([tuple(v[c] for v in data) for c in CUTS]), epochs=3, verbose=0, **options)
        return model.fit(*data[:2], sample_weight=data[2] if weighted else None, epochs=3, verbose=0, **options)

    compare(classifier, run)


@pytest.mark.parametrize("library", ["tensorflow", "torch"])
def test_data_sets_of_other_libraries(library):
    """tf.data and PyTorch's DataLoader give what arrays give."""
    if library == "tensorflow":
        source = tf.data.Dataset.from_tensor_slices((X, CLASSES)).batch(SIZE)
    else:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastmask[peers]")
        source = torch.utils.data.DataLoader(list(zip(X, CLASSES, strict=True)), batch_size=SIZE)
    results, weights = [], classifier(OURS).get_weights()
    for whole in (True, False):
        model = classifier(OURS)
        model.set_weights(weights)
        model.compile("adam", "sparse_categorical_crossentropy")
        data = {"x": X, "y": CLASSES, "batch_size": SIZE} if whole else {"x": source}
        history = model.fit(**data, epochs=2, shuffle=False, verbose=0)
        assert history.params["steps"] == 3
        outputs = model.predict(X if whole else source)
        results.append([*model.get_weights(), history.history["loss"], outputs, model.evaluate(**data)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_output_without_loss():
    """What nothing depends on stays as it is, though AdamW has momentum and decay."""
    theirs, ours = two_outputs(KERAS), two_outputs(OURS)
    ours.set_weights(theirs.get_weights())
    for model, f in ((theirs, KERAS), (ours, OURS)):
        loss = ["sparse_categorical_crossentropy", None]
        model.compile(f.optimizers.AdamW(0.1), loss, run_eagerly=True)
        with pytest.warns(UserWarning, match="(?i)gradient"):
            model.fit(X, [TAGS, VALUES], SIZE, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(a, b, np.float32, k=2**10)


# ---- callbacks ------------------------------------------------------------------------------------------------------
def recorder(f, stop_at=None):
    """A callback that writes down every call, and stops fit after a number of batches."""

    class Recorder(f.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.calls, self.batches = [], 0

        def write(self, name, *args):
            *index, logs = args
            self.calls.append((name, *index, sorted(logs or {})))
            if name == "on_train_batch_end":
                self.batches += 1
                if self.batches == stop_at:
                    self.model.stop_training = True

    for name in fm.callbacks.HOOKS:
        if name not in ("on_batch_begin", "on_batch_end"):
            if "batch" in name or "epoch" in name:
                method = lambda self, i, logs=None, name=name: self.write(name, i, logs)  # noqa: E731
            else:
                method = lambda self, logs=None, name=name: self.write(name, logs)  # noqa: E731
            setattr(Recorder, name, method)
    return Recorder()


@pytest.mark.parametrize("stop_at", [None, 1, 3, 5])
def test_hooks_are_called_in_the_same_order(stop_at):
    calls = []
    for f in (KERAS, OURS):
        model, watch = classifier(f), recorder(f, stop_at)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
        options = {"verbose": 0, "callbacks": [watch]}
        model.fit(X, CLASSES, SIZE, 3, validation_data=(X, CLASSES), validation_freq=2, initial_epoch=1, **options)
        params = {key: watch.params[key] for key in ("epochs", "steps", "verbose")}
        model.evaluate(X, CLASSES, SIZE, **options)
        model.predict(X, SIZE, **options)
        calls.append([params, *watch.calls])
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "name, options",
    [
        ("EarlyStopping", {"monitor": "val_loss", "patience": 1, "restore_best_weights": True}),
        ("ReduceLROnPlateau", {"monitor": "loss", "factor": 0.5, "patience": 1, "min_delta": 0.05}),
        ("LearningRateScheduler", {"schedule": lambda epoch, lr: lr * 0.7}),
    ],
)
def test_callbacks_in_training(name, options):
    def run(model, f):
        model.compile(f.optimizers.SGD(0.5), "sparse_categorical_crossentropy", run_eagerly=True)
        callback = getattr(f.callbacks, name)(**options)
        validation = X[::-1], (CLASSES + 1) % K
        return model.fit(X, CLASSES, 5, 8, 0, [callback], shuffle=False, validation_data=validation)

    compare(classifier, run)
