"""TimeDistributed: each step by itself, masks of steps and masks inside steps (words of characters), Ragged."""

import numpy as np
import pytest

from cases import assert_same_bits
from fastmask import Input, Model, Sequential
from fastmask.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    GlobalMaxPooling1D,
    Layer,
    MaskDroppedWarning,
    Masking,
    TimeDistributed,
    deserialize,
    register_serializable,
    serialize,
)
from fastmask.optimizers import Adam
from fastmask.ragged import Ragged
from fastmask.testing import check_layer
from helpers import assert_close, assert_gradient, mask_cases

B, T1, T2, F, H = 3, 4, 5, 2, 3
pytestmark = pytest.mark.filterwarnings("error::fastmask.MaskDroppedWarning")


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def words(seed=0):
    """Masks (B,T1,T2) of every pattern: what is nested in what has no letter either."""
    inner = list(mask_cases(B * T1, T2, seed).values())
    return [mask.reshape(B, T1, T2) for mask in inner]


def sequences(**options):
    return {
        "gru": GRU(H, dtype="float64", **options),
        "bidirectional": Bidirectional(LSTM(H, dtype="float64", **options)),
        "sequential": Sequential([LSTM(H, return_sequences=True, dtype="float64"), GRU(2, dtype="float64", **options)]),
    }


def one_by_one(layer, x, mask, dy):
    """Outputs, gradients of x and of the weights, of each word by itself."""
    outputs, d_inputs, sums = np.zeros_like(dy), np.zeros_like(x), [0 for _ in layer.weights]
    for b, t in np.ndindex(x.shape[:2]):
        y = layer(x[b, t][None], mask=None if mask is None else mask[b, t][None], training=True)
        outputs[b, t], d_inputs[b, t] = np.asarray(y)[0], layer.backward(dy[b, t][None])[0]
        sums = [s + g for s, g in zip(sums, layer.gradients, strict=True)]
    return outputs, d_inputs, sums


# ---- values and gradients -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("name", sequences())
def test_words_are_those_of_the_layer_one_by_one(name, return_sequences):
    for mask in (None, *words()):
        layer = sequences(return_sequences=return_sequences)[name]
        wrapped, x = TimeDistributed(layer), random(B, T1, T2, F)
        y = wrapped(x, mask=mask, training=True)
        dy = random(*y.shape, seed=1)
        dx, gradients = wrapped.backward(dy), wrapped.gradients
        outputs, d_inputs, sums = one_by_one(layer, x, mask, dy)
        assert_same_bits(np.asarray(y), outputs)
        assert_close(dx, d_inputs, k=256)
        for got, wanted in zip(gradients, sums, strict=True):
            assert_close(got, wanted, k=1024)
        if mask is None:
            assert not hasattr(y, "mask")
        else:
            np.testing.assert_array_equal(y.mask, mask if return_sequences else mask.any(axis=2))


@pytest.mark.parametrize("mask", [None, mask_cases(B, T1)["holes"], words()[3]])
def test_gradients_by_differences(mask):
    wrapped, x = TimeDistributed(Bidirectional(GRU(2, dtype="float64"))), random(B, T1, 3, F)
    mask = mask if mask is None else mask[:, :, :3] if mask.ndim == 3 else mask
    y = wrapped(x, mask=mask, training=True)
    dy = random(*y.shape, seed=1)
    assert_gradient(lambda: np.sum(np.asarray(wrapped(x, mask=mask)) * dy), x, wrapped.backward(dy))


@pytest.mark.parametrize("name", sequences())
def test_check_layer(name):
    check_layer(TimeDistributed(sequences()[name]), (B, T1, 3, F))
    check_layer(TimeDistributed(sequences()[name]), (B, T1, T2, F), words()[3], elements=10)
    check_layer(TimeDistributed(Dense(2, activation="tanh", dtype="float64")), (B, T1, F))


def test_dense_is_dense():
    dense = Dense(3, activation="softmax", dtype="float64")
    wrapped, x, mask = TimeDistributed(dense), random(B, T1, F), mask_cases(B, T1)["holes"]
    y = wrapped(x, mask=mask, training=True)
    assert y.mask is mask
    dy = random(B, T1, 3, seed=1)
    dx, gradients = wrapped.backward(dy), wrapped.gradients
    assert_same_bits(np.asarray(y), np.asarray(dense(x, mask=mask, training=True)))
    assert_same_bits((dx, gradients), (dense.backward(dy), dense.gradients))
    assert wrapped.output_activation is None  # as in Keras: trained on the probabilities, not the logits


def test_dropout_chooses_for_each_step():
    wrapped, x = TimeDistributed(Dropout(0.5, seed=1)), np.ones((B, T1, 40))
    assert_same_bits(wrapped(x), x.astype(np.float32))
    y = wrapped(x, training=True)
    assert set(np.unique(y)) == {0, 2} and not (y[:, 0] == y[:, 1]).all()
    assert_same_bits(wrapped.backward(np.ones_like(y)), y)


def test_nested_in_itself():
    """(B,T1,T2,T3,F): sentences of words of characters, the mask over all three."""
    layer, x = GRU(H, dtype="float64"), random(2, 3, 4, 5, F)
    mask = mask_cases(2 * 3 * 4, 5)["holes"].reshape(2, 3, 4, 5)
    y = TimeDistributed(TimeDistributed(layer))(x, mask=mask)
    flat = TimeDistributed(layer)(x.reshape(6, 4, 5, F), mask=mask.reshape(6, 4, 5))
    assert_same_bits(np.asarray(y), np.asarray(flat).reshape(2, 3, 4, H))
    np.testing.assert_array_equal(y.mask, mask.any(axis=3))


# ---- masks ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_mask_of_words_masks_them_wholly(return_sequences):
    layer = GRU(H, return_sequences=return_sequences, dtype="float64")
    wrapped, x, mask = TimeDistributed(layer), random(B, T1, T2, F), mask_cases(B, T1)["holes"]
    y = wrapped(x, mask=mask)
    assert_same_bits(np.asarray(y), np.asarray(wrapped(x, mask=np.repeat(mask[..., None], T2, axis=2))))
    assert not y[~mask].any() and y.mask is mask


class Picky(Layer):
    """Knows no mask."""

    def call(self, inputs):
        return 2 * inputs

    def backward(self, grad):
        return 2 * grad


def test_a_layer_that_knows_no_mask():
    """A mask of words goes past it, garbage counts as 0; one inside words is lost in it, and it says so."""
    wrapped, x, mask = TimeDistributed(Picky(dtype="float64")), random(B, T1, T2, F), mask_cases(B, T1)["holes"]
    dirty = np.where(mask[..., None, None], x, np.nan)
    y = wrapped(dirty, mask=mask)
    assert y.mask is mask
    assert_same_bits(np.asarray(y), np.where(mask[..., None, None], 2 * x, 0))
    with pytest.warns(MaskDroppedWarning, match="picky.*does not hand the mask on"):
        y = wrapped(x, mask=words()[3])
    np.testing.assert_array_equal(y.mask, words()[3].any(axis=2))


def test_masks_made_inside_come_out():
    x = np.where(words()[3][..., None], random(B, T1, T2, F), 0)
    y = TimeDistributed(Masking(dtype="float64"))(x)
    np.testing.assert_array_equal(y.mask, words()[3])
    both = words()[3] & mask_cases(B, T1)["right"][..., None]
    y = TimeDistributed(Masking(dtype="float64"))(x, mask=mask_cases(B, T1)["right"])
    np.testing.assert_array_equal(y.mask, both)
    model = Sequential([Masking(dtype="float64"), GRU(H, return_sequences=True, dtype="float64")])
    np.testing.assert_array_equal(TimeDistributed(model)(x).mask, words()[3])
    np.testing.assert_array_equal(TimeDistributed(model).compute_mask(x), words()[3])
    steps = np.where(mask_cases(B, T1)["holes"][..., None], random(B, T1, F), 0)
    np.testing.assert_array_equal(TimeDistributed(Masking())(steps).mask, mask_cases(B, T1)["holes"])


def test_a_mask_that_changes_inside():
    wrapped, x = TimeDistributed(Conv1D(2, 3, dtype="float64")), random(B, T1, T2, F)
    mask = words()[1]
    y = wrapped(x, mask=mask)
    np.testing.assert_array_equal(y.mask, mask[:, :, 2:] & mask[:, :, 1:-1] & mask[:, :, :-2])


def test_garbage_under_masks():
    for return_sequences in (False, True):
        layer = Bidirectional(LSTM(H, return_sequences=return_sequences, dtype="float64"))
        wrapped, x, mask = TimeDistributed(layer), random(B, T1, T2, F), words()[3]
        y = wrapped(x, mask=mask, training=True)
        dy = random(*y.shape, seed=1)
        clean = np.asarray(y), wrapped.backward(dy), wrapped.gradients
        y = wrapped(np.where(mask[..., None], x, np.nan), mask=mask, training=True)
        assert_same_bits((np.asarray(y), wrapped.backward(dy), wrapped.gradients), clean)
    wrapped, mask = TimeDistributed(Dense(2, dtype="float64")), mask_cases(B, T1)["holes"]
    y = wrapped(np.where(mask[..., None], random(B, T1, F), np.inf), mask=mask, training=True)
    assert np.isfinite(y).all() and np.isfinite(wrapped.backward(np.ones_like(y))).all()


# ---- words of characters --------------------------------------------------------------------------------------------
def tagger(T2=None):
    """A tag for each word, from its characters and its neighbours."""
    return Sequential(
        [
            Input((None, T2, F)),
            Masking(),
            TimeDistributed(Bidirectional(LSTM(4))),
            Bidirectional(LSTM(5, return_sequences=True)),
            TimeDistributed(Dense(2, activation="softmax")),
        ]
    )


def sentences(lengths, dtype=np.float32):
    """One array (words, characters, F) a sentence, of words with that many characters, zeros behind them."""
    rng = np.random.default_rng(0)
    out = []
    for characters in lengths:
        x = np.zeros((len(characters), max(characters, default=0), F), dtype)
        for i, n in enumerate(characters):
            x[i, :n] = rng.standard_normal((n, F))
        out.append(x)
    return out


LENGTHS = [(3, 1, 5), (2,), (), (4, 4, 1, 1, 6, 2), (1, 3)]


def batch(T1, T2, dtype=np.float32):
    x = np.zeros((len(LENGTHS), T1, T2, F), dtype)
    for i, sentence in enumerate(sentences(LENGTHS, dtype)):
        x[i, : sentence.shape[0], : sentence.shape[1]] = sentence
    return x


def test_padded_words_and_characters_change_no_bit():
    model = tagger()
    small, large = model.predict(batch(6, 6)), model.predict(batch(9, 11))
    for i, sentence in enumerate(sentences(LENGTHS)):
        n = len(sentence)
        assert_same_bits(large[i, :n], small[i, :n], f"sentence {i}")
        if n:
            assert_same_bits(model.predict(sentence[None])[0], small[i, :n], f"sentence {i} alone")
    x = batch(6, 6)
    y = model(x)
    np.testing.assert_array_equal(y.mask, x.any(axis=(2, 3)))
    np.testing.assert_array_equal(y.mask.sum(axis=1), [len(s) for s in LENGTHS])


def test_the_tagger_learns_and_padding_changes_no_loss():
    model = tagger()
    model.compile(Adam(0.03), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = batch(6, 6)
    labels = (x[:, :, 0, 0] > 0).astype(int)  # by the first character of the word
    losses = model.fit(x, labels, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    padded_labels = np.zeros((len(x), 9), int)
    padded_labels[:, :6] = labels
    assert_close(
        model.evaluate(batch(9, 11), padded_labels, verbose=0), model.evaluate(x, labels, verbose=0), np.float32, k=4
    )


@pytest.mark.parametrize("inside", [False, True])
def test_ids_of_characters(inside):
    """Embedding over (B,T1,T2), or inside TimeDistributed: the same model; padding changes no bit, and no gradient."""
    embedding = Embedding(9, 3, mask_zero=True)
    model = Sequential(
        [
            Input((None, None), dtype="int32"),
            TimeDistributed(embedding) if inside else embedding,
            TimeDistributed(Bidirectional(LSTM(4))),
            Bidirectional(LSTM(5, return_sequences=True)),
            Dense(2, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    small, labels = np.zeros((4, 3, 5), int), rng.integers(0, 2, (4, 3))
    for b, t in np.ndindex(4, 3):
        small[b, t, : rng.integers(0, 6) * (t <= b)] = rng.integers(1, 9)
    large, padded_labels = np.zeros((4, 6, 8), int), np.zeros((4, 6), int)
    large[:, :3, :5], padded_labels[:, :3] = small, labels
    words_mask = small.any(axis=2)
    assert 0 < words_mask.sum() < words_mask.size
    assert_same_bits(model.predict(large)[:, :3][words_mask], model.predict(small)[words_mask])
    np.testing.assert_array_equal(model(small).mask, words_mask)
    start, after = model.get_weights(), []
    for ids, of_ids in ((small, labels), (large, padded_labels)):
        model.set_weights(start)
        model.compile("sgd", "sparse_categorical_crossentropy")
        losses = model.fit(ids, of_ids, epochs=3, verbose=0).history["loss"]
        after.append([losses, *model.get_weights()])
    assert after[0][0][-1] < after[0][0][0]
    for a, b in zip(*after, strict=True):
        assert_close(a, b, np.float32, k=16)


def test_pooling_inside():
    """A layer that uses the mask up: words without a character are padding."""
    x, mask = random(B, T1, T2, F), words()[3]
    y = TimeDistributed(GlobalMaxPooling1D(dtype="float64"))(x, mask=mask)
    wanted = np.where(mask[..., None], x, -np.inf).max(axis=2)
    assert_same_bits(np.asarray(y), np.where(np.isinf(wanted), 0, wanted))
    np.testing.assert_array_equal(y.mask, mask.any(axis=2))


def test_in_a_functional_model_with_its_mask():
    source = Input((None, 6, F))
    masked = Masking()(source)
    assert masked.mask.shape == (None, None, 6)
    encoded = TimeDistributed(Bidirectional(LSTM(4)))(masked)
    assert encoded.shape == (None, None, 8) and encoded.mask.shape == (None, None)
    letters = TimeDistributed(GRU(2, return_sequences=True))(masked)
    assert letters.shape == (None, None, 6, 2) and letters.mask.shape == (None, None, 6)
    model = Model(source, [encoded, letters])
    x = batch(6, 6)
    words_mask, letters_mask = (y.mask for y in model(x))
    np.testing.assert_array_equal(words_mask, x.any(axis=(2, 3)))
    np.testing.assert_array_equal(letters_mask, x.any(axis=3))
    inner = Model(source, encoded)
    outer = TimeDistributed(inner)  # a functional model inside, over documents of sentences
    assert_same_bits(np.asarray(outer(x[None])[0]), np.asarray(inner(x)))


# ---- Ragged ---------------------------------------------------------------------------------------------------------
def test_ragged():
    rows = mask_cases(B, T1)["right"]
    for layer, shape in ((Dense(H, dtype="float64"), (F,)), (GRU(H, dtype="float64"), (T2, F))):
        wrapped, x = TimeDistributed(layer), random(B, T1, *shape)
        ragged = Ragged.from_padded(x, rows)
        padded = wrapped(x, mask=rows, training=True)
        dy = random(B, T1, H, seed=1) * rows[..., None]
        dx, gradients = wrapped.backward(dy), wrapped.gradients
        y = wrapped(ragged, training=True)
        assert type(y) is Ragged and y.offsets is ragged.offsets
        assert_same_bits(y.values, np.asarray(padded)[rows])
        assert_same_bits(wrapped.backward(y.with_values(dy[rows])).values, dx[rows])
        for got, wanted in zip(wrapped.gradients, gradients, strict=True):
            assert_close(got, wanted, k=256)


def test_ragged_with_masks():
    """Holes (N,) mask words; what Masking finds inside words, (N,T2), comes out as (N,)."""
    rows, holes = mask_cases(B, T1)["right"], mask_cases(B, T1)["holes"]
    wrapped, x = TimeDistributed(GRU(H, dtype="float64")), random(B, T1, T2, F)
    y = wrapped(Ragged.from_padded(x, rows), mask=holes[rows])
    wanted = wrapped(x, mask=rows & holes)
    assert_same_bits(y.values, np.asarray(wanted)[rows])
    np.testing.assert_array_equal(y.mask, holes[rows])
    x = np.where(words()[3][..., None], x, 0)
    masked = Masking(dtype="float64")(Ragged.from_padded(x, rows))
    y = wrapped(masked)
    np.testing.assert_array_equal(y.mask, words()[3].any(axis=2)[rows])
    assert_same_bits(y.values, np.asarray(wrapped(Masking(dtype="float64")(x)))[rows])


# ---- the protocol ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(0, T1, T2, F), (B, 0, T2, F), (B, T1, 0, F)])
def test_empty(shape):
    wrapped = TimeDistributed(GRU(H, dtype="float64"))
    y = wrapped(np.zeros(shape), mask=np.ones(shape[:3], bool), training=True)
    assert y.shape == (*shape[:2], H) and not y.any()
    assert y.mask.shape == shape[:2] and y.mask.all() == (0 in shape[:2])
    assert wrapped.backward(np.ones_like(y)).shape == shape


def test_the_layer_itself_is_used():
    layer = Dense(2)
    wrapped = TimeDistributed(layer)
    wrapped(np.ones((1, 2, 3)))
    assert wrapped.layer is layer and wrapped.weights == layer.weights and len(wrapped.weights) == 2
    wrapped.trainable = False
    assert not layer.trainable and TimeDistributed(Dense(1, dtype="float64")).dtype == "float64"


def test_need_x_reaches_the_layer():
    seen = []

    class Looks(Picky):
        def backward(self, grad):
            seen.append(self._current_call().need_x)
            return 2 * grad

    model = Sequential([Input((None, F)), TimeDistributed(Looks()), Dense(1), TimeDistributed(Looks()), Dense(1)])
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((B, T1, F)), np.ones((B, T1, 1)))
    assert seen == [True]  # no weight lies before the first one


def test_no_gradient_arrives():
    wrapped = TimeDistributed(Dense(2))
    wrapped(np.ones((1, 2, 3)), training=True)
    assert wrapped.backward(None) is None


@pytest.mark.parametrize("name", sequences())
def test_config_round_trip(name):
    wrapped = TimeDistributed(sequences()[name], name="here")
    again = deserialize(serialize(wrapped))
    assert type(again) is TimeDistributed and again.get_config() == wrapped.get_config()
    x = random(B, T1, T2, F)
    wanted = wrapped(x)
    again.build((None, None, T2, F))
    again.set_weights(wrapped.get_weights())
    assert_same_bits(again(x), wanted)


def test_roles_and_shapes():
    assert [TimeDistributed(layer).mask_role() for layer in (Dense(1), GRU(1), Masking())] == [
        "passes",
        "uses, passes",
        "makes",
    ]
    assert TimeDistributed(GRU(7)).compute_output_shape((None, 4, None, 3)) == (None, 4, 7)
    assert TimeDistributed(Dense(7)).compute_output_shape((2, None, 3)) == (2, None, 7)


def test_bad_input():
    with pytest.raises(ValueError, match="^layer: expected a layer"):
        TimeDistributed(Dense)
    with pytest.raises(ValueError, match="^layer: expected a layer or its configuration"):
        TimeDistributed(3)
    with pytest.raises(ValueError, match=r"inputs: expected shape .* of rank 3 or more, received \(None, 3\)$"):
        TimeDistributed(Dense(2))(np.ones((2, 3)))
    wrapped = TimeDistributed(Dense(2))
    wrapped(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match=r"inputs: expected shape \(B,...,4\), received \(None, 5\)$"):
        wrapped(np.ones((2, 3, 5)))
    with pytest.raises(ValueError, match="layer: expected one output of gru.*, received 2$"):
        TimeDistributed(GRU(2, return_state=True))(np.ones((2, 3, 4, 5)))
    with pytest.raises(ValueError, match=r"^mask: expected shape \(B,T\) = \(2,3\), received \(2, 4\)$"):
        wrapped(np.ones((2, 3, 4)), mask=np.ones((2, 4)))


@register_serializable("tests")
class Unknown(Layer):
    """Computes; no backward."""

    supports_masking = True

    def call(self, inputs):
        return inputs


def test_training_through_a_layer_without_backward():
    wrapped = TimeDistributed(Unknown())
    y = wrapped(np.ones((2, 3, 4)), training=True)
    with pytest.raises(NotImplementedError, match="unknown.*has no backward"):
        wrapped.backward(y)
