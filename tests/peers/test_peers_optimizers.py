"""Optimizers and training against live Keras (TensorFlow): 20 steps each, from the same start on the same batches."""

import os

import numpy as np
import pytest

import fastmask.layers as fl
from fastmask import constraints, initializers, losses, optimizers, schedules
from fastmask.models import Sequential
from fastmask.variable import RowsGradient, Variable
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

kl = keras.layers
STEPS = 20
LR = 2.0**-6
# Keras rounds its constants to float32, also in float64; these are exact there. The defaults: test_defaults
BETAS = {"beta_1": 0.875, "beta_2": 1 - 2.0**-10}

OPTIMIZERS = {
    "sgd": ("SGD", {}),
    "sgd_momentum": ("SGD", {"momentum": 0.875, "weight_decay": 0.125}),
    "sgd_nesterov": ("SGD", {"momentum": 0.875, "nesterov": True, "global_clipnorm": 2.0}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop_all": ("RMSprop", {"rho": 0.8, "momentum": 0.5, "epsilon": 1e-3, "centered": True, "clipnorm": 1.0}),
    "adam": ("Adam", BETAS),
    "adam_all": ("Adam", {"beta_1": 0.75, "beta_2": 0.875, "epsilon": 1e-3, "amsgrad": True, "clipvalue": 0.5}),
    "adamw": ("AdamW", {**BETAS, "weight_decay": 2.0**-8}),
    "adamw_all": ("AdamW", {"weight_decay": 0.25, "beta_1": 0.5, "beta_2": 0.75, "global_clipnorm": 1.0}),
    "accumulated": (
        "SGD",
        {"momentum": 0.875, "weight_decay": 0.125, "gradient_accumulation_steps": 4, "clipnorm": 1.0},
    ),
    "accumulated_adam": ("Adam", {**BETAS, "gradient_accumulation_steps": 3}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps(name):
    cls, options = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in ((3, 4), (5,))]
    ours, theirs = [Variable(w) for w in start], [keras.Variable(w, dtype="float64") for w in start]
    optimizer, keras_optimizer = getattr(optimizers, cls)(LR, **options), getattr(keras.optimizers, cls)(LR, **options)
    for step in range(STEPS):
        gradients = [rng.standard_normal(w.shape) for w in start]
        assert optimizer.apply_gradients(zip(gradients, ours, strict=True)) == step + 1
        keras_optimizer.apply_gradients(zip([tf.constant(g) for g in gradients], theirs, strict=True))
        assert optimizer.iterations == int(keras_optimizer.iterations)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a.value, b.numpy(), k=2**12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_embedding_gradients(name):
    """Ours go through some rows; Keras is given the dense gradient."""
    cls, options = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    start = rng.standard_normal((12, 3))
    ours, theirs = Variable(start), keras.Variable(start, dtype="float64")
    optimizer, keras_optimizer = getattr(optimizers, cls)(LR, **options), getattr(keras.optimizers, cls)(LR, **options)
    for _ in range(STEPS):
        rows = np.flatnonzero(rng.random(12) < 0.3)
        g = RowsGradient(rows, rng.standard_normal((len(rows), 3)), (12, 3))
        optimizer.apply([g], [ours])
        keras_optimizer.apply([tf.constant(np.asarray(g))], [theirs])
        assert_close(ours.value, theirs.numpy(), k=2**12)


@pytest.mark.parametrize("n", [None, 3])
def test_constraints_and_schedules(n):
    """A constraint acts after every step, also those that only collect gradients; a schedule counts them all."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal((4, 3)) for _ in range(2)]
    ours = [Variable(w) for w in start]
    theirs = [keras.Variable(w, dtype="float64") for w in start]
    for variables, package in ((ours, constraints), (theirs, keras.constraints)):
        variables[0].constraint = package.MinMaxNorm(0.5, 1.0, rate=0.5)
        variables[1].constraint = package.NonNeg()
    options = {"momentum": 0.5, "gradient_accumulation_steps": n}
    schedule = schedules.PolynomialDecay(0.25, 16), keras.optimizers.schedules.PolynomialDecay(0.25, 16)
    optimizer, keras_optimizer = optimizers.SGD(schedule[0], **options), keras.optimizers.SGD(schedule[1], **options)
    for _ in range(STEPS):
        gradients = [rng.standard_normal(w.shape) for w in start]
        optimizer.apply(gradients, ours)
        keras_optimizer.apply([tf.constant(g) for g in gradients], theirs)
        for a, b in zip(ours, theirs, strict=True):  # Keras' schedule is a float32
            assert_close(a.value, b.numpy(), np.float32, k=64)


@pytest.mark.parametrize("cls", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_defaults(cls):
    ours, theirs = getattr(optimizers, cls)(), getattr(keras.optimizers, cls)()
    wanted = theirs.get_config()
    for key, value in ours.get_config().items():
        if key != "name":
            assert value == pytest.approx(wanted[key]) if isinstance(value, float) else value == wanted[key], key


# ---- whole models ---------------------------------------------------------------------------------------------------
B, T, F, H, K = 6, 5, 3, 4, 3


def classifier(layers, Model, start):
    return Model([start, layers.Masking(0.0), layers.GRU(H), layers.Dense(K, activation="softmax")])


def tagger(layers, Model, start):
    bidirectional = layers.Bidirectional(layers.LSTM(H, return_sequences=True))
    return Model([start, layers.Masking(0.0), bidirectional, layers.Dense(K, activation="softmax")])


def regression(layers, Model, start):
    return Model([start, layers.Masking(0.0), layers.SimpleRNN(H, return_sequences=True), layers.Dense(2)])


def batches(per_step, kind):
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        x = rng.standard_normal((B, T, F)).astype(np.float32)
        mask = np.arange(T) < rng.integers(1, T + 1, (B, 1))
        if kind == "holes":
            mask &= rng.random((B, T)) < 0.8
        x[~mask] = 0
        y = rng.integers(0, K, (B, T) if per_step else B)
        yield x, y, mask


MODELS = {
    "classifier": (classifier, False, "sparse_categorical_crossentropy"),
    "tagger": (tagger, True, "sparse_categorical_crossentropy"),
    "regression": (regression, True, "mean_squared_error"),
}


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
@pytest.mark.parametrize("name", MODELS)
def test_training(name, optimizer):
    make, per_step, loss = MODELS[name]
    initializers.set_random_seed(0)
    keras.utils.set_random_seed(0)
    model, keras_model = make(fl, Sequential, fl.Input((None, F))), make(kl, keras.Sequential, keras.Input((None, F)))
    assert model.count_params() == keras_model.count_params()
    model.set_weights(keras_model.get_weights())
    options = {"learning_rate": 0.05 if optimizer == "SGD" else 0.01, "global_clipnorm": 1.0}
    model.compile(getattr(optimizers, optimizer)(**options), loss)
    keras_model.compile(getattr(keras.optimizers, optimizer)(**options), loss, jit_compile=False)
    for x, y, _ in batches(per_step, "right" if name == "tagger" else "holes"):
        if name == "regression":
            y = np.stack([y, 1 - y], axis=-1).astype(np.float32)
        keras_model.reset_metrics()
        wanted, got = keras_model.train_on_batch(x, y), model.train_on_batch(x, y)
        assert abs(float(got) - float(wanted)) < 1e-5, (got, wanted)
    for a, b in zip(model.get_weights(), keras_model.get_weights(), strict=True):
        assert np.abs(a - b).max() < 1e-4
    x, y, mask = next(batches(per_step, "right"))
    assert_close(model.predict(x), keras_model.predict(x, verbose=0), np.float32, k=2**10)


@pytest.mark.parametrize("y_rank", [1, 2])
def test_sample_weight_and_metrics(y_rank):
    """evaluate of one batch: the loss with sample weights, accuracy without them."""
    make, per_step, loss = MODELS["tagger" if y_rank == 2 else "classifier"]
    model, keras_model = make(fl, Sequential, fl.Input((None, F))), make(kl, keras.Sequential, keras.Input((None, F)))
    model.set_weights(keras_model.get_weights())
    model.compile("sgd", losses.get(loss), metrics=["accuracy"], weighted_metrics=["accuracy"])
    keras_model.compile("sgd", loss, metrics=["accuracy"], weighted_metrics=["accuracy"], jit_compile=False)
    x, y, _ = next(batches(per_step, "holes"))
    weight = np.random.default_rng(2).random(y.shape).astype(np.float32)
    wanted = keras_model.evaluate(x, y, sample_weight=weight, batch_size=B, verbose=0, return_dict=True)
    got = model.evaluate(x, y, sample_weight=weight, return_dict=True)
    assert set(got) == set(wanted)
    for name, value in got.items():
        assert_close(value, wanted[name], np.float32, k=64)
