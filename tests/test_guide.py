"""What the Keras guide on masking and its best-known questions show, as a user would write it, with the numbers."""

import tracemalloc
import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from helpers import assert_close, assert_gradient

SEQUENCES = [[711, 632, 71], [73, 8, 3215, 55, 927], [83, 91, 1, 645, 1253, 927]]
PADDED = [[711, 632, 71, 0, 0, 0], [73, 8, 3215, 55, 927, 0], [83, 91, 1, 645, 1253, 927]]
GUIDE_MASK = np.arange(6) < np.array([[3], [5], [6]])


@pytest.fixture(autouse=True)
def no_mask_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error", fm.MaskDroppedWarning)
        yield


def vowels(rows, standardised=True):
    """The first utterances of some speakers, and who they are: Ragged, labels."""
    (x, y), _ = fm.datasets.japanese_vowels()
    x, y = x.take(np.arange(0, len(x), len(x) // rows)[:rows]), y[:: len(y) // rows][:rows]
    return x.with_values((x.values - x.values.mean(axis=0)) / x.values.std(axis=0)), y


# ---- the guide ------------------------------------------------------------------------------------------------------
def test_padding_and_the_two_masks():
    padded = fm.pad_sequences(SEQUENCES, padding="post")
    np.testing.assert_array_equal(padded, PADDED)
    assert padded.dtype == np.int32
    embedding = layers.Embedding(input_dim=5000, output_dim=16, mask_zero=True)
    embedded = embedding(padded)
    np.testing.assert_array_equal(embedded.mask, GUIDE_MASK)
    np.testing.assert_array_equal(embedding.compute_mask(padded), GUIDE_MASK)
    np.testing.assert_array_equal(embedded[0, 3], embedding.embeddings[0])  # row 0 as it is, under the mask
    unmasked = np.tile(padded[..., None], (1, 1, 10)).astype(np.float32)
    np.testing.assert_array_equal(layers.Masking()(unmasked).mask, GUIDE_MASK)


class TemporalSplit(layers.Layer):
    def call(self, inputs):
        return np.split(inputs, 2, axis=1)

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else np.split(mask, 2, axis=1)

    def backward(self, grad):
        some = next(g for g in grad if g is not None)
        return np.concatenate([np.zeros_like(some) if g is None else g for g in grad], axis=1)


class CustomEmbedding(layers.Layer):
    def __init__(self, input_dim, output_dim, mask_zero=False, **kwargs):
        super().__init__(**kwargs)
        self.input_dim, self.output_dim, self.mask_zero = input_dim, output_dim, mask_zero

    def build(self, input_shape):
        self.embeddings = self.add_weight((self.input_dim, self.output_dim), "random_normal", name="embeddings")

    def call(self, inputs):
        self.saved = inputs
        return self.embeddings[inputs]

    def compute_mask(self, inputs, mask=None):
        return np.not_equal(inputs, 0) if self.mask_zero else None

    def backward(self, grad):
        gradient = np.zeros(self.embeddings.shape, grad.dtype)
        np.add.at(gradient, self.saved, grad)
        self.add_gradient(self.embeddings, gradient)


@layers.register_serializable("test_guide")
class MyActivation(layers.Layer):
    supports_masking = True

    def call(self, inputs):
        self.saved = inputs
        return np.maximum(inputs, 0)

    def backward(self, grad):
        return grad * (self.saved > 0)


class TemporalSoftmax(layers.Layer):
    supports_masking = True

    def call(self, inputs, mask=None):
        valid = np.ones(inputs.shape, bool) if mask is None else np.broadcast_to(mask[..., None], inputs.shape)
        exp = np.where(valid, np.exp(np.where(valid, inputs, 0)), 0)
        total = exp.sum(axis=1, keepdims=True)
        self.saved = weights = np.divide(exp, total, out=np.zeros_like(exp), where=total > 0)
        return weights

    def backward(self, grad):
        weights = self.saved
        return weights * (grad - np.sum(grad * weights, axis=1, keepdims=True))


class MyLayer(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(input_dim=5000, output_dim=16, mask_zero=True, dtype="float64")
        self.lstm = layers.LSTM(32, dtype="float64")

    def call(self, inputs):
        x = self.embedding(inputs)
        return self.lstm(x, mask=self.embedding.compute_mask(inputs))

    def backward(self, grad):
        return self.embedding.backward(self.lstm.backward(grad))


def test_layers_of_ones_own_keep_masks_and_gradients():
    embedding = layers.Embedding(5000, 16, mask_zero=True)
    first, second = TemporalSplit()(embedding(np.array(PADDED)))
    np.testing.assert_array_equal(first.mask, GUIDE_MASK[:, :3])
    np.testing.assert_array_equal(second.mask, GUIDE_MASK[:, 3:])
    y = CustomEmbedding(10, 32, mask_zero=True)(np.array([[3, 1, 4, 0, 0]]))
    np.testing.assert_array_equal(y.mask, [[True, True, True, False, False]])
    np.testing.assert_array_equal(MyActivation()(embedding(np.array(PADDED))).mask, GUIDE_MASK)
    for layer in (TemporalSplit(), MyActivation(), TemporalSoftmax()):
        fm.testing.check_layer(layer, (3, 6, 2))


def test_such_layers_train_in_models():
    ids = fm.Input((6,), dtype="int32")
    x = CustomEmbedding(5000, 4, mask_zero=True)(ids)
    first, second = TemporalSplit()(MyActivation()(x))
    weights = TemporalSoftmax()(layers.Dense(1)(second))
    outputs = [layers.GRU(3)(first), layers.Dense(2)(second), weights]
    model = fm.Model(ids, outputs)
    assert [t.mask is not None for t in outputs] == [False, True, True]
    model.compile(fm.optimizers.Adam(0.05), "mse")
    rng = np.random.default_rng(0)
    targets = [rng.standard_normal(s) for s in ((3, 3), (3, 3, 2), (3, 3, 1))]
    loss = model.fit(np.array(PADDED), targets, epochs=30, verbose=0).history["loss"]
    assert loss[-1] < 0.6 * loss[0]
    sums = model.predict(np.array(PADDED))[2].sum(axis=1)[:, 0]
    assert_close(sums, [0, 1, 1], np.float32)  # the first row has no valid step in its second half


def test_a_layer_that_masks_by_hand():
    layer, ids = MyLayer(dtype="float64"), np.array(PADDED)
    y = layer(ids, training=True)
    assert y.shape == (3, 32)
    np.testing.assert_array_equal(y[0], layer(ids[:1, :3])[0])
    d = np.random.default_rng(0).standard_normal(y.shape)
    layer.backward(d)
    used = np.unique(ids[ids > 0])
    gradient = np.asarray(layer.gradients[0])
    assert not gradient[np.setdiff1d(np.arange(5000), used)].any()
    embeddings = layer.weights[0]
    value = embeddings.numpy()
    part = value[used, :2].copy()

    def total():
        changed = value.copy()
        changed[used, :2] = part
        embeddings.assign(changed)
        return np.sum(d * layer(ids))

    assert_gradient(total, part, gradient[used, :2])


def test_a_registered_layer_is_saved_and_loaded(tmp_path):
    model = fm.Sequential([fm.Input((None, 3)), layers.Masking(), layers.GRU(4), MyActivation(), layers.Dense(1)])
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    model.save(tmp_path / "model.npz")
    again = fm.load_model(tmp_path / "model.npz")
    assert type(again.layers[2]) is MyActivation
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


# ---- questions and answers ------------------------------------------------------------------------------------------
def test_what_stands_at_masked_steps():
    ids = np.array([[1, 0, 2, 0]])
    x = layers.Embedding(5, 4, mask_zero=True)(ids)
    y = layers.LSTM(3, return_sequences=True)(x)
    np.testing.assert_array_equal(y[:, 1], y[:, 0])
    np.testing.assert_array_equal(y[:, 3], y[:, 2])
    assert not np.array_equal(y[:, 0], y[:, 2])
    np.testing.assert_array_equal(y.mask, ids != 0)


def test_a_regression_is_evaluated_on_valid_steps_alone():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 3)).astype(np.float32)
    x[0, 2:] = x[2, 1:] = 0
    y = rng.standard_normal((4, 5, 1)).astype(np.float32)
    y[0, 2:] = np.nan  # nobody looks
    model = fm.Sequential([fm.Input((None, 3)), layers.Masking(0.0), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    loss, mae = model.evaluate(x, y, batch_size=2)
    valid = (x != 0).any(axis=-1)
    error = (model.predict(x) - y)[valid]
    assert loss == pytest.approx(np.mean(error**2), rel=1e-6) and mae == pytest.approx(np.mean(np.abs(error)), rel=1e-6)


def test_users_of_sequence_length():
    """tf.nn.dynamic_rnn: outputs zero past the end, states at the last valid step."""
    rng = np.random.default_rng(0)
    x, lengths = rng.standard_normal((4, 6, 3)).astype(np.float32), np.array([6, 2, 0, 4])
    state = rng.standard_normal((4, 5)).astype(np.float32)
    layer = layers.GRU(5, return_sequences=True, return_state=True, zero_output_for_mask=True)
    y, h = layer(x, mask=fm.masks.from_lengths(lengths, 6), initial_state=state)
    for b, n in enumerate(lengths):
        assert not y[b, n:].any()
        if n:
            alone, _ = layer(x[b : b + 1, :n], initial_state=state[b : b + 1])
            np.testing.assert_array_equal(y[b, :n], alone[0])
            np.testing.assert_array_equal(h[b], y[b, n - 1])
        else:
            np.testing.assert_array_equal(h[b], state[b])


def test_buckets_are_padded_batches_when_they_hold_the_same_rows():
    x, y = vowels(24)
    results = []
    for form in ("buckets", "padded"):
        fm.set_random_seed(0)
        model = fm.Sequential([fm.Input((None, 12)), layers.LSTM(8), layers.Dense(9, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy")
        for rows in fm.bucket_batches(x.lengths, 6, seed=0):
            batch = x.take(rows)
            if form == "padded":  # to the length of the longest of all
                batch, mask = batch.to_padded()
                more = x.lengths.max() - mask.shape[1]
                batch, mask = np.pad(batch, ((0, 0), (0, more), (0, 0))), np.pad(mask, ((0, 0), (0, more)))
                model.train_on_batch(batch, y[rows], mask=mask)
            else:
                model.train_on_batch(batch, y[rows])
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stacked_lstms_and_a_tagger_learn():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 12, 60)
    rows = [rng.integers(1, 20, n) for n in lengths]
    labels = np.array([row.max() > 17 for row in rows], int)
    ids = fm.pad_sequences(rows, padding="post")
    fm.set_random_seed(1)
    model = fm.Sequential(
        [
            fm.Input((None,), dtype="int32"),
            layers.Embedding(20, 16, mask_zero=True),
            layers.LSTM(16, return_sequences=True),
            layers.Dropout(0.5),
            layers.LSTM(16),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(fm.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(ids, labels, epochs=30, batch_size=10, verbose=0)
    assert model.evaluate(ids, labels)[1] > 0.95

    tags = fm.pad_sequences([(np.roll(row, 1) > row).astype(int) for row in rows], padding="post")
    tagger = fm.Sequential(
        [
            fm.Input((None,), dtype="int32"),
            layers.Embedding(20, 16, mask_zero=True),
            layers.Bidirectional(layers.GRU(16, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(2, activation="softmax")),
        ]
    )
    tagger.compile(fm.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    tagger.fit(ids, tags, epochs=30, batch_size=10, verbose=0)
    accuracy = tagger.evaluate(ids, tags)[1]
    right = tagger.predict(ids).argmax(axis=-1) == tags
    assert accuracy == pytest.approx(right[ids != 0].mean()) and accuracy > 0.95


# ---- autoencoders and sequence to sequence --------------------------------------------------------------------------
F, H = 12, 16


def autoencoder(way):
    """The four ways of docs/autoencoder.md."""
    fm.set_random_seed(0)
    frames = fm.Input((None, F))
    masked = layers.Masking()(frames)
    code = layers.LSTM(H)(frames if way == "equal_length" else masked)
    repeated = layers.RepeatLike()([code, frames])
    decoder, dense = layers.LSTM(H, return_sequences=True), layers.Dense(F)
    if way == "equal_length":
        outputs = dense(decoder(repeated))
    elif way == "masked_again":
        outputs = dense(decoder(layers.Masking()(layers.ApplyMask()([repeated, masked]))))
    elif way == "cropped":
        outputs = layers.ApplyMask()([dense(decoder(repeated)), masked])
    else:
        outputs = dense(decoder(repeated, mask=masked.mask))
    model = fm.Model(frames, outputs)
    return model


def trained_row_by_row(way, x, epochs, batch_size, optimizer):
    """The weights after training on unpadded rows one by one: gradients of a batch are those of its rows, added up."""
    model = autoencoder(way)
    loss = fm.losses.MeanSquaredError(reduction="sum")
    for _ in range(epochs):
        for start in range(0, len(x), batch_size):
            rows = [x[i] for i in range(start, min(start + batch_size, len(x)))]
            total = [np.zeros(w.shape, np.float64) for w in model.weights]
            for row in rows:
                y = model(row[None], training=True)
                model.backward(loss.value_and_grad(row[None], y)[1])
                total = [t + g for t, g in zip(total, model.gradients, strict=True)]
            steps = sum(len(row) for row in rows)
            optimizer.apply([(t / steps).astype(np.float32) for t in total], model.trainable_weights)
    return model


def error_of(model, x):
    """Mean squared error over the steps of unpadded rows."""
    return np.concatenate([((model.predict(row[None])[0] - row) ** 2).mean(axis=-1) for row in x]).mean()


@pytest.mark.parametrize("way", ["cropped", "handed_on"])
def test_an_autoencoder_of_padded_rows_is_one_of_rows_alone(way):
    x, _ = vowels(30)
    padded, mask = x.to_padded()
    alone = trained_row_by_row(way, x, 4, 10, fm.optimizers.Adam(0.01))
    model = autoencoder(way)
    before = error_of(model, x)
    model.compile(fm.optimizers.Adam(0.01), "mse")
    losses = model.fit(padded, padded, epochs=4, batch_size=10, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and error_of(model, x) < 0.9 * before
    assert error_of(model, x) == pytest.approx(error_of(alone, x), rel=1e-4)
    for a, b in zip(model.get_weights(), alone.get_weights(), strict=True):
        assert_close(a, b, np.float32, k=32)  # sums in another order; measured 1.2
    assert model.evaluate(padded, padded) == pytest.approx(error_of(model, x), rel=1e-4)


@pytest.mark.parametrize("way", ["cropped", "handed_on"])
def test_padding_sends_no_gradient(way):
    """Gradients of one step on a padded batch are those of its rows alone, garbage in the padding or not."""
    x, _ = vowels(6)
    padded, mask = x.to_padded()
    model = autoencoder(way)
    loss = fm.losses.MeanSquaredError(reduction="sum")
    y = model(padded, training=True)
    np.testing.assert_array_equal(y.mask, mask)
    model.backward(loss.value_and_grad(np.where(mask[..., None], padded, np.nan), y)[1])
    got = model.gradients
    expected = [np.zeros(w.shape) for w in model.weights]
    for row in x:
        y = model(row[None], training=True)
        model.backward(loss.value_and_grad(row[None], y)[1])
        expected = [a + b for a, b in zip(expected, model.gradients, strict=True)]
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, np.float32, k=64, atol=0.0)


@pytest.mark.parametrize("way", ["equal_length", "masked_again"])
def test_the_other_autoencoders_train(way):
    x, _ = vowels(45)
    model = autoencoder(way)
    before = error_of(model, x)
    model.compile(fm.optimizers.Adam(0.01), "mse")
    if way == "equal_length":
        for _ in range(4):
            for length in np.unique(x.lengths):
                batch = np.stack([x[i] for i in np.flatnonzero(x.lengths == length)])
                model.train_on_batch(batch, batch)
    else:
        padded, _ = x.to_padded()
        losses = model.fit(padded, padded, epochs=8, batch_size=15, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
    assert error_of(model, x) < 0.95 * before


def test_sequence_to_sequence_trains():
    x, _ = vowels(30)
    padded, mask = x.to_padded()
    fm.set_random_seed(0)
    source, target = fm.Input((None, F)), fm.Input((None, F))
    _, h, c = layers.LSTM(H, return_state=True)(layers.Masking()(source))
    written = layers.LSTM(H, return_sequences=True)(layers.Masking()(target), initial_state=[h, c])
    model = fm.Model([source, target], layers.Dense(F)(written))
    model.compile(fm.optimizers.Adam(0.02), "mse")
    before = model.layers[1].get_weights() if isinstance(model.layers[1], layers.LSTM) else model.get_weights()
    shifted = np.concatenate([np.ones_like(padded[:, :1]), padded[:, :-1]], axis=1) * mask[..., None]
    losses = model.fit([padded, shifted], padded, epochs=6, batch_size=10, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    after = model.layers[1].get_weights() if isinstance(model.layers[1], layers.LSTM) else model.get_weights()
    assert not np.array_equal(before[0], after[0])  # the encoder learns through its states alone


# ---- no padding -----------------------------------------------------------------------------------------------------
def ragged_tagger():
    fm.set_random_seed(0)
    model = fm.Sequential(
        [
            fm.Input((None,), dtype="int32"),
            layers.Embedding(50, 16),
            layers.Bidirectional(layers.GRU(16, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(4, activation="softmax")),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_ragged_through_a_whole_model_gives_the_bits_of_padded():
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 50, n) for n in (7, 1, 0, 12, 3)]
    tags = [rng.integers(0, 4, len(row)) for row in rows]
    ragged, padded = fm.Ragged.from_list(rows), fm.pad_sequences(rows, padding="post")
    mask = fm.masks.from_lengths(ragged.lengths, padded.shape[1])
    results = []
    for x, y, options in (
        (ragged, fm.Ragged.from_list(tags), {}),
        (rows, tags, {}),
        (padded, fm.pad_sequences(tags, padding="post"), {"mask": mask}),
    ):
        model = ragged_tagger()
        fm.set_random_seed(1)
        model.fit(x, y, epochs=2, batch_size=2, verbose=0, **options)
        predicted = model.predict(x, **options)
        results.append(
            [*model.get_weights(), predicted.values if isinstance(predicted, fm.Ragged) else predicted[mask]]
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_ragged_needs_no_array_of_the_padded_size():
    """One row of 20 000 steps among 400 short ones: padded that is 8 million steps, 512 MB for the embeddings alone."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([[20_000], rng.integers(1, 4, 400)])
    x = fm.Ragged(rng.integers(1, 50, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    y = x.with_values(rng.integers(0, 4, lengths.sum()))
    model = ragged_tagger()
    model.fit(x.take([1, 2]), y.take([1, 2]), verbose=0)
    tracemalloc.start()
    try:
        model.fit(x, y, epochs=1, batch_size=len(x), verbose=0)
        model.predict(x, batch_size=len(x))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6, f"{peak / 1e6:.0f} MB"  # of 20 830 steps; measured 28 MB
