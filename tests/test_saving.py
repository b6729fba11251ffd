"""Saving: the same bits come back, never half a file, and nothing a file says is taken on trust."""

import copy
import errno
import json
import os
import stat
import subprocess
import sys
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

import fastmask as fm
import fastmask.models.saving
from fastmask import initializers, losses, metrics, schedules
from fastmask import layers as fl
from fastmask.layers import (
    GRU,
    LSTM,
    BatchNormalization,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Input,
    Layer,
    Masking,
    SimpleRNN,
    register_serializable,
)
from fastmask.models import Model, Sequential, archive, load_model
from fastmask.optimizers import SGD, Adam, AdamW, RMSprop
from helpers import assert_doctests, mask_cases
from test_layers import random

B, T, F, K = 6, 7, 3, 4
X = random(B, T, F, dtype=np.float32)
MASK = mask_cases(B, T)["holes"]
Y = np.arange(B) % K


@register_serializable("saving_tests")
class Residual(Layer):
    """x + dense(x); the dense layer is built at the first call only."""

    supports_masking = True

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.scale = fm.Variable(np.ones(1), name="scale")
        self.dense = Dense(units)

    def call(self, inputs):
        return inputs + self.scale * self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register_serializable("saving_tests")
class Tagger(Model):
    """A model of one's own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.parts = [Masking(), GRU(units, return_sequences=True), Residual(units)]
        self.head = Dense(K)
        self.start = Embedding(2, units, weights=np.ones((2, units)))  # built already

    def call(self, inputs, mask=None, training=False):
        x = inputs
        for layer in self.parts:
            x = layer(x, mask=mask)
            mask = None
        return self.head(x + self.start(np.zeros(len(x), int))[:, None])

    def get_config(self):
        return {"name": self.name, "units": self.units}


def classifier():
    layers = [Masking(), Bidirectional(GRU(4)), Dropout(0.0), Dense(K, activation="softmax", kernel_regularizer="l2")]
    return Sequential([Input((None, F)), *layers])


def built_by_a_call():
    layers = [LSTM(4, return_sequences=True), BatchNormalization(), Sequential([Dense(2)], name="nested")]
    model = Sequential(layers)
    model(X)
    return model


def functional():
    """Names, several inputs and outputs, a mask as output, layers shared in every way, frozen ones, float64."""
    shared = SimpleRNN(F, return_sequences=True, name="shared")
    inner_input = Input((None, F))
    inner = Model(inner_input, [shared(Masking()(inner_input)), Dense(2)(inner_input)], name="inner")
    inner.layers[-1].trainable = False
    a, b = Input((None, F), name="a"), Input((None, F), name="b", batch_size=B)
    ya, za = inner(a)
    yb, _ = inner(shared(b))
    backward_layer = GRU(2, go_backwards=True, return_sequences=True)
    both = Bidirectional(GRU(2, return_sequences=True), backward_layer=backward_layer, merge_mode=None)(
        yb, mask=ya.mask
    )
    last = LSTM(4, dtype="float64", kernel_initializer=initializers.RandomNormal(0.1, 0.2, seed=3))(za)
    return Model({"a": a, "b": b}, {"ya": ya, "both": both[1], "last": last, "mask": ya.mask}, name="outer")


def autoencoder():
    x = Input((None, F))
    encoder = Sequential([Input((None, F)), GRU(5, return_sequences=True)], name="encoder")
    code = encoder(x)
    return Model(x, [Dense(F)(code), code])


def own():
    model = Tagger(5)
    model(X)
    return model


MODELS = [classifier, built_by_a_call, functional, autoencoder, own]


def outputs_of(model):
    inputs = {"a": X, "b": -X} if model.name == "outer" else X
    y = model(inputs, mask={"a": MASK} if model.name == "outer" else MASK)
    return list(y.values()) if isinstance(y, dict) else y if isinstance(y, list) else [y]


def assert_same(model, other):
    for a, b in zip(outputs_of(model), outputs_of(other), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(getattr(a, "mask", None), getattr(b, "mask", None))
    for a, b in zip(model.weights, other.weights, strict=True):
        assert (a.name, a.dtype, a.trainable) == (b.name, b.dtype, b.trainable)
        np.testing.assert_array_equal(a, b)


# ---- whole models ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", MODELS)
def test_a_model_comes_back_as_it_was(make, tmp_path):
    model, path = make(), tmp_path / "m.npz"
    model.set_weights([np.abs(random(*w.shape, seed=i)) for i, w in enumerate(model.get_weights())])
    assert model.save(path) is None and os.listdir(tmp_path) == ["m.npz"]
    again = load_model(path)
    assert type(again) is type(model) and again.optimizer is None
    assert_same(model, again)
    assert [layer.name for layer in again._all_sub_layers()] == [layer.name for layer in model._all_sub_layers()]
    assert [v.trainable for v in again.trainable_weights] == [v.trainable for v in model.trainable_weights]
    assert again.get_config() == model.get_config() and again._shape_is_guess == model._shape_is_guess
    again.save(path)
    assert_same(load_model(path), model)


@register_serializable("saving_tests")
def twice(x):
    return 2 * x


@register_serializable("saving_tests")
def same_mask(x, mask):
    return mask


LAYERS = {  # name -> (layer, the shapes of its inputs); but for those in MODELS
    "Activation": (lambda: fl.Activation("elu"), [(None, F)]),
    "AdditiveAttention": (lambda: fl.AdditiveAttention(dropout=0.1), [(None, F), (None, F)]),
    "ApplyMask": (lambda: fl.ApplyMask(), [(None, F)]),
    "Attention": (lambda: fl.Attention(True, "concat"), [(None, F), (None, F)]),
    "Conv1D": (lambda: fl.Conv1D(2, 3, padding="causal", dilation_rate=2, activation="relu"), [(None, F)]),
    "Cropping1D": (lambda: fl.Cropping1D((2, 1)), [(None, F)]),
    "Bidirectional": (lambda: Bidirectional(fl.RNN([fl.GRUCell(2), fl.LSTMCell(3)])), [(None, F)]),
    "Concatenate": (lambda: fl.Concatenate(axis=-2), [(None, F), (None, F)]),
    "Dot": (lambda: fl.Dot((1, 1), normalize=True), [(F,), (F,)]),
    "Dropout": (lambda: Dropout(0.3, noise_shape=(None, 1, None), seed=3), [(None, F)]),
    "Flatten": (lambda: fl.Flatten(), [(T, F)]),
    "GaussianNoise": (lambda: fl.GaussianNoise(0.1), [(None, F)]),
    "GlobalAveragePooling1D": (lambda: fl.GlobalAveragePooling1D(keepdims=True), [(None, F)]),
    "GlobalMaxPooling1D": (lambda: fl.GlobalMaxPooling1D(), [(None, F)]),
    "Lambda": (lambda: fl.Lambda(twice, mask=same_mask, output_shape=(T, F)), [(T, F)]),
    "LayerNormalization": (lambda: fl.LayerNormalization(epsilon=0.1, scale=False), [(None, F)]),
    "Multiply": (lambda: fl.Multiply(), [(None, F), (F,)]),
    "Permute": (lambda: fl.Permute((2, 1)), [(T, F)]),
    "PReLU": (lambda: fl.PReLU("random_normal", "l1", "non_neg", [1]), [(None, F)]),
    "ReLU": (lambda: fl.ReLU(6.0, 0.1, 0.2), [(None, F)]),
    "RNN": (lambda: fl.RNN([fl.GRUCell(2, name="a"), fl.LSTMCell(3, name="b")], return_sequences=True), [(None, F)]),
    "RepeatLike": (lambda: fl.RepeatLike(), [(F,), (None, F)]),
    "RepeatVector": (lambda: fl.RepeatVector(3), [(F,)]),
    "Reshape": (lambda: fl.Reshape((-1, F, 1)), [(None, F)]),
    "Softmax": (lambda: fl.Softmax(axis=1), [(None, F)]),
    "SpatialDropout1D": (lambda: fl.SpatialDropout1D(0.3), [(None, F)]),
    "TimeDistributed": (lambda: fl.TimeDistributed(Bidirectional(GRU(2))), [(None, 4, F)]),
    "UnitNormalization": (lambda: fl.UnitNormalization(), [(None, F)]),
    "UpSampling1D": (lambda: fl.UpSampling1D(2), [(None, F)]),
    "ZeroPadding1D": (lambda: fl.ZeroPadding1D((1, 0)), [(None, F)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_comes_back(name, tmp_path):
    make, shapes = LAYERS[name]
    inputs = [Input(shape) for shape in shapes]
    model = Model(inputs, make()(inputs if len(inputs) > 1 else inputs[0]))
    model.set_weights([np.abs(random(*w.shape, seed=i)) for i, w in enumerate(model.get_weights())])
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    (layer,), (other,) = model.layers, again.layers
    assert archive.plain_data(other.get_config(), "") == archive.plain_data(layer.get_config(), "")
    x = [random(B, *(T if n is None else n for n in shape), dtype=np.float32) for shape in shapes]
    np.testing.assert_array_equal(again(x), model(x))


def test_what_was_shared_is_saved_once_and_shared_again(tmp_path):
    model = functional()
    model.save(tmp_path / "m.npz")
    with archive.Archive(tmp_path / "m.npz") as file:
        names = [tuple(name) for name in file.content["weights"]]
        assert names.count(("shared", "kernel")) == 1 and len(names) == len(model.weights)
        configs = [entry["config"]["name"] for entry in file.content["layers"]]
        assert sorted(configs) == sorted(set(configs)) and configs.count("shared") == 1
    again = load_model(tmp_path / "m.npz")
    shared, inner = again.get_layer("shared"), again.get_layer("inner")
    assert inner.get_layer("shared") is shared
    before = outputs_of(again)
    shared.kernel.assign(2 * shared.kernel.value)
    for a, b in zip(before[:2], outputs_of(again)[:2], strict=True):
        assert not np.array_equal(a, b)
    inner.trainable = False
    assert len(again.trainable_weights) == len(model.trainable_weights) - 3


def test_a_part_of_a_layer_that_is_used_by_itself_is_shared_again(tmp_path):
    x, both, each = Input((None, 2, F)), Bidirectional(GRU(3, return_sequences=True)), fl.TimeDistributed(Dense(3))
    steps = fl.Reshape((-1, 2 * 3))(each(x))
    model = Model(x, [both(steps), both.forward_layer(steps), each.layer(x)])
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    assert len(again.weights) == len(model.weights) == 8
    for a, b in zip(again(np.ones((B, T, 2, F))), model(np.ones((B, T, 2, F))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_frozen_stays_frozen(tmp_path):
    """Layers and weights inside classes of one's own, too, whose configuration does not tell."""
    model = own()
    model.parts[1].trainable = False
    model.head.kernel.trainable = False
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    assert_same(model, again)
    frozen = [v.name for v in again.non_trainable_weights]
    assert frozen == [v.name for v in model.non_trainable_weights] == ["kernel", "recurrent_kernel", "bias", "kernel"]


def test_states_are_not_saved(tmp_path):
    model = Sequential([Input((None, F), batch_size=B), GRU(3, stateful=True)])
    first, second = model(X), model(X)
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    np.testing.assert_array_equal(again(X), first)
    np.testing.assert_array_equal(again(X), second)


def test_part_of_a_loaded_model(tmp_path):
    """An encoder that shares its layers with the whole is made from the loaded whole."""
    x = Input((None, F))
    encoded = GRU(5, return_sequences=True, name="code")(Masking()(x))
    model, encoder = Model(x, Dense(F)(encoded)), Model(x, encoded)
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    np.testing.assert_array_equal(Model(again.input, again.get_layer("code").output)(X), encoder(X))


def test_a_file_is_the_same_for_the_same_model_and_numpy_reads_it(tmp_path):
    model = classifier()
    model.save(tmp_path / "a.npz")
    model.save(str(tmp_path / "b.npz"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["weights/0"], model.get_weights()[0])
        assert json.loads(file["fastmask.json"])["fastmask"] == fm.__version__


def test_loading_draws_no_random_weights(tmp_path, monkeypatch):
    model = classifier()
    model.save(tmp_path / "m.npz")

    def draw(*_):
        raise AssertionError

    monkeypatch.setattr(initializers.GlorotUniform, "__call__", draw)
    assert_same(load_model(tmp_path / "m.npz"), model)


# ---- training goes on -----------------------------------------------------------------------------------------------
OPTIMIZERS = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.1, momentum=0.9, nesterov=True, clipnorm=1.0),
    "adam": lambda: Adam(0.01, amsgrad=True, weight_decay=0.01),
    "rmsprop": lambda: RMSprop(schedules.ExponentialDecay(0.01, 3, 0.5), momentum=0.5, centered=True),
    "adamw": lambda: AdamW(0.01, 0.1),
    "accumulating": lambda: Adam(0.01, gradient_accumulation_steps=3),
}


def train(model, steps):
    logs = []
    for i in range(steps):
        rows = (np.arange(4) + i) % B
        logs.append(model.train_on_batch(X[rows], Y[rows], mask=MASK[rows], sample_weight=np.linspace(0.5, 1, 4)))
    return logs


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been(optimizer, tmp_path):
    model = classifier()
    loss = losses.SparseCategoricalCrossentropy(reduction="sum", ignore_class=1)
    weighted = [metrics.SparseCategoricalAccuracy("hits"), "sparse_categorical_crossentropy"]
    model.compile(OPTIMIZERS[optimizer](), loss, metrics=["accuracy"], weighted_metrics=weighted)
    if optimizer == "adamw":
        model.optimizer.exclude_from_weight_decay([model.layers[-1].kernel], ["bias"])
    train(model, 4)
    if optimizer == "momentum":
        model.optimizer.learning_rate = 0.05
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.loss.get_config() == loss.get_config()
    assert train(again, 5) == train(model, 5)
    assert_same(model, again)
    for a, b in zip(*(m.optimizer.get_state(m.weights).values() for m in (model, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_model(tmp_path / "m.npz", compile=False).optimizer is None


def test_several_outputs_are_compiled_as_they_were(tmp_path):
    x = Input((None, F))
    h = GRU(4, return_sequences=True)(x)
    model = Model(x, {"steps": Dense(2, name="a")(h), "row": LSTM(3, name="b")(h), "nothing": h})
    targets = {"steps": random(B, T, 2), "row": random(B, 3)}
    loss = {"steps": "mse", "row": losses.MeanAbsoluteError(name="far")}
    model.compile("adam", loss, loss_weights={"steps": 0.25}, metrics={"row": ["mae"]})
    model.train_on_batch(X, targets)
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    for _ in range(2):
        logs = [m.train_on_batch(X, targets, return_dict=True) for m in (model, again)]
        assert logs[0] == logs[1] and list(logs[0]) == ["loss", "steps_loss", "row_loss", "row_mae"]
    assert_same(model, again)


def test_what_cannot_be_written_down_of_compile_is_named(tmp_path):
    model, path = classifier(), tmp_path / "m.npz"

    def own_loss(y_true, y_pred):
        return np.zeros(len(y_true))

    class OwnMetric(metrics.Metric):
        """Not registered."""

    model.compile(SGD(0.1, momentum=0.5), own_loss, metrics=["accuracy", OwnMetric(name="own")])
    with pytest.warns(UserWarning, match="saved without the loss 'own_loss', the metric 'own': functions, and classes"):
        model.save(path)
    again = load_model(path)
    assert again.loss is None and again.optimizer.momentum == 0.5
    with pytest.raises(ValueError, match="expected a call of compile with a loss"):
        again.fit(X, Y)
    model.compile(SGD(lambda step: 0.1), "mse")
    with pytest.warns(UserWarning, match="saved without the optimizer 'sgd': functions, .* Compile with it again"):
        model.save(path)
    assert load_model(path).optimizer is None
    assert_same(load_model(path), model)


# ---- weights alone --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", MODELS)
def test_weights_go_into_a_model_of_the_same_form(make, tmp_path):
    model, twin = make(), make()
    twin.set_weights([np.abs(random(*w.shape, seed=i)) for i, w in enumerate(twin.get_weights())])
    model.save_weights(tmp_path / "w.npz")
    twin.load_weights(tmp_path / "w.npz")
    assert_same(model, twin)
    twin.set_weights([2 * w for w in twin.get_weights()])
    model.save(tmp_path / "m.npz")  # of a whole model the weights will do
    twin.load_weights(str(tmp_path / "m.npz"))
    assert_same(model, twin)
    with pytest.raises(ValueError, match="w.npz: cannot be loaded: expected a file of save, received one of save_weig"):
        load_model(tmp_path / "w.npz")


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "w.npz"
    Sequential([Input((None, F)), GRU(4, name="gru"), Dense(2, name="dense")]).save_weights(path)
    for layers, message in (
        (
            [GRU(4), Dense(3, name="d")],
            r"expected kernel of shape \(4, 3\) for d, received kernel of shape \(4, 2\) of",
        ),
        ([GRU(4), Dense(2, use_bias=False)], r"expected nothing more, received bias of shape \(2,\) of dense"),
        ([GRU(4), Dense(2), Dense(2, name="e")], r"expected kernel of shape \(2, 2\) for e, received nothing more"),
        ([GRU(4, use_bias=False), Dense(2, name="d")], r"expected kernel of shape \(4, 2\) for d, received bias of s"),
    ):
        model = Sequential([Input((None, F)), *layers], name="model")
        before = model.get_weights()
        with pytest.raises(ValueError, match=f"w.npz: cannot be loaded: weights of model: {message}"):
            model.load_weights(path)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_weights_of_another_dtype(tmp_path):
    model = Sequential([Input((F,)), Dense(2, dtype="float64")])
    model.save_weights(tmp_path / "w.npz")
    other = Sequential([Input((F,)), Dense(2)])
    other.load_weights(tmp_path / "w.npz")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0].astype(np.float32))
    model.layers[0].kernel.assign(np.full((F, 2), 1e300))
    model.save_weights(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="dense.*: kernel: expected finite numbers"):
        other.load_weights(tmp_path / "w.npz")


# ---- what cannot be saved -------------------------------------------------------------------------------------------
class Unregistered(Layer):
    def call(self, inputs):
        return inputs


@register_serializable("saving_tests")
class HoldsAFunction(Unregistered):
    def get_config(self):
        return {**super().get_config(), "options": {"function": np.tanh}}


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "m.npz"
    classifier().save(path)
    before = path.read_bytes()
    diverged = classifier()
    diverged.layers[-1].bias.assign(np.full(K, np.nan))
    deep = []
    for _ in range(archive.MAX_DEPTH + 1):
        deep = [deep]
    for make, message in (
        (lambda: diverged, "dense.*: bias: expected finite numbers, received NaN or infinity"),
        (lambda: Sequential([GRU(2)], name="m"), "m.save: expected a built model"),
        (lambda: Sequential([Input((F,)), fl.Lambda(lambda x: x, name="f")]), "f: function: expected a registered fun"),
        (lambda: Sequential([Input((F,)), Unregistered(name="u")]), "u: expected a registered class .* Unregistered"),
        (
            lambda: Sequential([Input((F,)), HoldsAFunction(name="h")]),
            r"h.get_config\(\)\['options'\]\['function'\]: expected numbers, strings, .* received ufunc",
        ),
        (lambda: Sequential([Input((F,)), Dense(2, kernel_initializer=lambda *a: np.ones(a[0]))]), "initializer: exp"),
    ):
        model = make()
        with pytest.raises(ValueError, match=message):
            model.save(path)
    with pytest.raises(ValueError, match="bias: expected finite numbers"):
        diverged.save_weights(path)
    with pytest.raises(ValueError, match="expected at most 64 lists and dicts inside one another"):
        archive.plain_data(deep, "deep")
    with pytest.raises(ValueError, match="filepath: expected a name that ends in .npz, received 'm.keras'"):
        classifier().save("m.keras")
    with pytest.raises(FileExistsError, match="received .*m.npz: it exists already"):
        classifier().save(path, overwrite=False)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.npz"]
    with pytest.raises(FileNotFoundError):
        classifier().save(tmp_path / "no such folder" / "m.npz")


# ---- never half a file ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("at", ["fsync", "replace", "write_array"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, at, error):
    path, model = tmp_path / "m.npz", classifier()
    model.save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(np.lib.format if at == "write_array" else os, at, fail)
    with pytest.raises(type(error)):
        classifier().save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.npz"]


def test_a_process_that_dies_while_it_saves_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.npz"
    model = classifier()
    model.save(path)
    code = f"""
import os, fastmask as fm
os.fsync = lambda _: os._exit(3)  # all is written, nothing renamed
fm.load_model({str(path)!r}).save({str(path)!r})
"""
    home = os.path.dirname(os.path.dirname(fm.__file__))
    assert subprocess.run([sys.executable, "-c", code], cwd=home).returncode == 3
    assert_same(load_model(path), model)


@pytest.mark.skipif(os.name != "posix", reason="modes and links of files are those of POSIX")
def test_mode_and_link_stay(tmp_path):
    path, link = tmp_path / "m.npz", tmp_path / "link.npz"
    model = classifier()
    model.save(path)
    plain_file = tmp_path / "plain"
    plain_file.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain_file.stat().st_mode)
    path.chmod(0o640)
    link.symlink_to(path)
    other = classifier()
    other.save(link)
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert_same(load_model(path), other)


# ---- damaged and hostile files --------------------------------------------------------------------------------------
def small():
    return Sequential([Input((None, 2)), SimpleRNN(2, name="rnn"), Dense(1, name="dense")], name="small")


def assert_refused(path, message=""):
    """ValueError that names the file, and no more memory than a small file needs."""
    tracemalloc.start()
    try:
        for load in (load_model, small().load_weights):
            with pytest.raises(ValueError, match=rf"{path.name}: cannot be loaded: .*{message}"):
                load(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_every_cut_and_every_flipped_bit_is_found_or_harmless(tmp_path):
    path, model = tmp_path / "m.npz", small()
    model.save(path)
    whole = path.read_bytes()
    for end in [*range(0, 200, 7), *range(200, len(whole), 97), *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="m.npz: cannot be loaded: "):
            load_model(path)
    refused = 0
    positions = [*range(0, len(whole), 13), *range(len(whole) - 22, len(whole))]
    for at in positions:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            again = load_model(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path}: cannot be loaded: ")
        else:  # a date, an attribute: something that nothing depends on
            for a, b in zip(model.weights, again.weights, strict=True):
                np.testing.assert_array_equal(a, b)
    assert refused > 0.8 * len(positions)


def rewritten(source, path, content=None, members=None, **options):
    """A copy of a file in which content(dict) and members(name -> bytes) were called."""
    with zipfile.ZipFile(source) as file:
        data = {name: file.read(name) for name in file.namelist()}
    if content is not None:
        text = json.loads(data["fastmask.json"])
        text = content(text) or text
        data["fastmask.json"] = text if isinstance(text, bytes) else json.dumps(text).encode()
    if members is not None:
        members(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        with zipfile.ZipFile(path, "w", **options) as file:
            for name, value in data.items():
                for v in value if isinstance(value, list) else [value]:
                    file.writestr(name, v)
    return path


def npy(header, data=b""):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def setting(name, value):
    return lambda data: data.update({name: value})


W = "weights/0.npy"
HEADER = "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}"
HOSTILE_MEMBERS = {
    "missing text": (lambda d: d.pop("fastmask.json"), "without fastmask.json"),
    "missing array": (lambda d: d.pop(W), "arrays weights/0, which are missing"),
    "one array more": (setting("weights/9.npy", npy(HEADER.format("'<f4'", False, (0,)))), "received weights/9, too"),
    "no array": (setting(W, b"hello"), ""),
    "no text": (setting("fastmask.json", b"\xff{"), ""),
    "path": (setting("../../evil.npy", npy(HEADER.format("'<f4'", False, (0,)))), "received ../../evil, too"),
    "a member that is no array": (setting("notes.txt", b"hello"), "magic"),
    "twice": (lambda d: d.update({W: [d[W], d[W]]}), "'weights/0.npy' twice"),
    "a million million": (setting(W, npy(HEADER.format("'<f4'", False, (10**6, 10**6)))), "expected 0 bytes of data"),
    "negative": (setting(W, npy(HEADER.format("'<f4'", False, (-1, -1)), b"1234")), "of data in shape"),
    "pickle": (setting(W, npy(HEADER.format("'|O'", False, (1,)), b"cos\nsystem\n.")), "float32 or float64 .* object"),
    "big-endian": (setting(W, npy(HEADER.format("'>f4'", False, (1,)), b"1234")), "float32 or float64"),
    "integers": (setting(W, npy(HEADER.format("'<i4'", False, (1,)), b"1234")), "float32 or float64"),
    "fortran": (setting(W, npy(HEADER.format("'<f4'", True, (2, 2)), bytes(16))), "in C order"),
    "a long header": (
        setting(W, b"\x93NUMPY\x01\x00\xff\xff" + HEADER.format("'<f4'", False, (0,)).encode().ljust(65534) + b"\n"),
        "",
    ),
    "a header of 4 GB": (setting(W, b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100)), "expected version 1.0"),
    "code": (setting(W, npy(HEADER.format("__import__('os').getpid()", False, (1,)), b"1234")), ""),
    "a shape of its own": (setting(W, npy(HEADER.format("'<f4'", False, (4,)), bytes(16))), r"kernel.*\(2, 2\)"),
    "NaN": (setting(W, npy(HEADER.format("'<f4'", False, (2, 2)), b"\xff" * 16)), "rnn: kernel: expected finite"),
}


@pytest.mark.parametrize("case", HOSTILE_MEMBERS)
def test_hostile_members(case, tmp_path):
    small().save(tmp_path / "good.npz")
    change, message = HOSTILE_MEMBERS[case]
    assert_refused(rewritten(tmp_path / "good.npz", tmp_path / "m.npz", members=change), message)


def test_a_compressed_file_is_refused(tmp_path):
    """So that no small one unpacks to a large one."""
    small().save(tmp_path / "good.npz")
    bomb = setting(W, npy(HEADER.format("'<f4'", False, (5000, 5000)), bytes(10**8)))
    path = rewritten(tmp_path / "good.npz", tmp_path / "m.npz", members=bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    assert_refused(path, "a compressed one")


def test_members_that_overlap_are_refused(tmp_path):
    """So that no small file holds a large array many times."""
    small().save(tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz", "a") as file:
        for i in range(99):
            again = copy.copy(file.getinfo(W))
            again.filename = f"weights/{i + 10}.npy"
            file.filelist.append(again)
        file.writestr("weights/9.npy", b"")  # so that the directory is written
    assert_refused(tmp_path / "m.npz", "expected members that fit into the file, received overlapping ones")


def no_config(content):
    content["layers"][1]["config"] = [1]


def layer(content, name):
    return next(entry for entry in content["layers"] if entry["config"]["name"] == name)


def configured(name, **values):
    return lambda content: layer(content, name)["config"].update(values)


def nested(levels):
    return lambda content: b'{"format": 1, "weights": ' + b"[" * levels + b"]" * levels + b"}"


BAD_TEXTS = {  # for both
    "format": (lambda c: c.update(format=2), "expected format 1, received 2, written by fastmask"),
    "no format": (lambda c: c.update(format=None), "expected format 1, received None"),
    "list": (lambda c: [c], "expected an object, received list"),
    "weights": (lambda c: c.update(weights=7), "weights: expected a list of pairs of names"),
    "weights of numbers": (lambda c: c.update(weights=[[1, 2]]), "weights: expected a list of pairs of names"),
    "deep": (nested(100), "lists and dicts inside one another"),
    "very deep": (nested(10**6), ""),
    "large": (lambda c: b" " * (archive.MAX_TEXT + 1), "expected at most 4194304 bytes"),
}
BAD_MODELS = {
    "unknown class": (lambda c: c["layers"][1].update(class_name="os.system"), "registered, received 'os.system'"),
    "no class": (lambda c: c["layers"][1].update(class_name=["GRU"]), "registered, received"),
    "no layer": (lambda c: c["layers"].__setitem__(1, 5), "registered, received 5"),
    "no model": (lambda c: c.update(model={"layer": 1}), "model: expected one, received SimpleRNN"),
    "number": (lambda c: c.update(model={"layer": 10**9}), "expected a number below 3, received 1000000000"),
    "made of itself": (configured("small", layers=[{"layer": 0}]), "number 0 is made of itself"),
    "no config": (no_config, ""),
    "unknown argument": (configured("rnn", system="rm"), "TypeError: SimpleRNN: unknown argument 'system'"),
    "no layers": (lambda c: {k: c[k] for k in c if k != "layers"}, "expected a file of save"),
    "layers": (lambda c: c.update(layers={}), "layers: expected"),
    "one part less": (lambda c: c.update(parts=c["parts"][:2]), "small: expected 2 layers"),
    "one part more": (lambda c: c["parts"].append(c["parts"][0]), "small: expected 4 layers"),
    "no parts": (lambda c: c.update(parts=[]), "small: expected 0 layers"),
    "other weights": (lambda c: c["parts"][1].update(trainable_weights=[True]), "rnn: expected 1 weights, .* makes 3"),
    "a part without a name": (lambda c: c["parts"].__setitem__(1, {}), "parts: expected a name and more of rnn"),
    "many units": (configured("dense", units=10**9), r"dense: kernel: expected an array of shape \(2, 1000000000\)"),
    "negative units": (configured("dense", units=-1), "units: expected a whole number of 1 or more"),
    "many features": (configured("small", input_shape=[None, None, 10**12]), "rnn: kernel: expected an array of sh"),
    "other features": (configured("small", input_shape=[None, None, 1]), "rnn: kernel: expected an array of shape"),
    "a shape of words": (configured("small", input_shape=["a", {}]), ""),
    "a large dtype": (configured("small", input_dtype="S999999999"), "dtype: expected numbers"),
    "compile": (lambda c: c.update(compile=[]), "compile: expected"),
    "loss": (lambda c: c.update(compile={"optimizer": "sgd", "loss": [{"class_name": "os.system"}]}), ""),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts(case, tmp_path):
    small().save(tmp_path / "good.npz")
    change, message = BAD_TEXTS[case]
    path = rewritten(tmp_path / "good.npz", tmp_path / "m.npz", content=change)
    with pytest.raises(ValueError, match=f"m.npz: cannot be loaded: .*{message}"):
        small().load_weights(path)
    with pytest.raises(ValueError, match=f"m.npz: cannot be loaded: .*{message}"):
        load_model(path)


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case, tmp_path):
    small().save(tmp_path / "good.npz")
    change, message = BAD_MODELS[case]
    path = rewritten(tmp_path / "good.npz", tmp_path / "m.npz", content=change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"m.npz: cannot be loaded: .*{message}"):
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_bad_graphs(tmp_path):
    """A functional model whose nodes read themselves, what is not there, or grow without bound."""
    x = Input((None, 2), name="x")
    wide = Sequential([Input((None, 2)), Residual(2, name="residual")], name="wide")
    Model(x, Dense(2, name="dense")(wide(x)), name="graph").save(tmp_path / "good.npz")

    def node(i, **values):
        return lambda content: layer(content, "graph")["config"]["graph"]["nodes"][i].update(values)

    def features(n):
        def change(content):
            layer(content, "wide")["config"]["input_shape"] = [None, None, n]

        return change

    for change, message in (
        (node(0, inputs={"tensor": ["node", 1, 0]}), "a cycle, or a damaged file"),
        (node(1, inputs={"tensor": ["node", 1, 0]}), "a cycle, or a damaged file"),
        (node(1, inputs={"tensor": ["input", 3]}), "a cycle, or a damaged file"),
        (node(1, inputs=None), ""),
        (node(1, layer=7), "expected one of 2 layers, received number 7"),
        (node(1, layer="dense"), ""),
        (node(1, kind="exec"), "expected the kind call or mask, received 'exec'"),
        (features(10**12), "too large to try out"),
    ):
        path = rewritten(tmp_path / "good.npz", tmp_path / "m.npz", content=change)
        with pytest.raises(ValueError, match=f"m.npz: cannot be loaded: .*{message}"):
            load_model(path)


def test_models_in_models_in_models_do_not_take_forever(tmp_path):
    x = Input((None, F))
    model = Model(x, Dense(F)(x))
    for _ in range(30):
        x = Input((None, F))
        model = Model(x, model(model(x)))  # a billion calls of the innermost
    model.save(tmp_path / "m.npz")
    assert load_model(tmp_path / "m.npz").get_config() == model.get_config()


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="m.npz"):
        load_model(tmp_path / "m.npz")
    with pytest.raises(ValueError, match="cannot be loaded: expected a file, received a folder"):
        load_model(tmp_path)
    for data in (b"", b"hello", b"PK\x05\x06" + bytes(18), b"\x80\x04."):
        (tmp_path / "m.npz").write_bytes(data)
        assert_refused(tmp_path / "m.npz")
    np.savez(tmp_path / "m.npz", a=np.zeros(3))
    assert_refused(tmp_path / "m.npz", "expected a file that fastmask saved, received one without fastmask.json")
    with pytest.raises(ValueError, match="custom_objects: not supported, expected None: decorate the classes"):
        load_model(tmp_path / "m.npz", {"Residual": Residual})
    with pytest.raises(ValueError, match="m.load_weights: expected a built model"):
        Sequential([GRU(2)], name="m").load_weights(tmp_path / "m.npz")


def test_a_class_that_this_process_does_not_know(tmp_path):
    own().save(tmp_path / "m.npz")
    code = f"import fastmask as fm; fm.load_model({str(tmp_path / 'm.npz')!r})"
    home = os.path.dirname(os.path.dirname(fm.__file__))
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    expected = "m.npz: cannot be loaded: layer: expected a class that is registered, received 'saving_tests>Tagger'"
    assert expected in done.stderr


def test_examples():
    assert_doctests(fastmask.models.saving)
