"""Random layers, models, streams and metrics: the same bits in every arrangement of the same steps, gradients by
differences. Long form as in test_properties.py.
"""

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install fastmask[test]")

from hypothesis import assume, given
from hypothesis import strategies as st

import fastmask as fm
import strategies as some
from cases import assert_same_bits, launched
from fastmask import layers, metrics
from fastmask.layers.masked import mask_of, plain
from fastmask.ragged import Ragged
from helpers import assert_close, assert_derivative
from layer_cases import F, every_case, new_layer

VOCABULARY = 9


# ---- layers ----------------------------------------------------------------------------------------------------------
def takes_rows(case):
    """Whether a row gives the same however it is padded: a layer of one sequence that has a meaning for Ragged."""
    return not case.several and not case.call and case.ragged and case.mask_axes == 2 and not case.ids and case.finite


ROW_CASES = [(name, case) for name, case in every_case() if takes_rows(case) and case.shapes[0][2:] == (F,)]


def by_row(y):
    """For each output, and each row of it, what it gives: for its valid steps (n, ...), or for the row (...)."""
    found = []
    for out in y if isinstance(y, (list, tuple)) else [y]:
        mask = mask_of(out)
        if isinstance(out, Ragged):
            keep = np.ones(len(out.values), bool) if mask is None else mask
            rows = [out[i][k] for i, k in enumerate(np.split(keep, out.offsets[1:-1]))]
        else:
            rows = [np.asarray(row) if mask is None else row[mask[i]] for i, row in enumerate(plain(out))]
        found.append(rows)
    return found


@given(st.sampled_from(ROW_CASES), some.dtypes, some.seeds, st.data())
def test_layers_in_every_arrangement(named, dtype, seed, data):
    """Padded with NaN on either side, Ragged, in another order: the bits of the inference."""
    name, case = named
    B, T = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    mask = data.draw(some.masks(B, T))
    mask = np.ones((B, T), bool) if mask is None else mask
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((B, T, F)).astype(dtype)
    layer = new_layer(case, dtype, [np.zeros((2, 3, F))])
    if not layer.supports_ragged:
        return
    expected = by_row(layer(x, mask=mask))

    before, behind = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    padded = np.full((B, before + T + behind, F), np.nan, dtype)
    more = np.zeros(padded.shape[:2], bool)
    padded[:, before : before + T], more[:, before : before + T] = x, mask
    if not name.startswith("Conv1D"):  # whose windows see where a row begins
        assert_same_bits(by_row(layer(padded, mask=more)), expected, f"{name} padded")
        assert_same_bits(by_row(layer(Ragged.from_padded(x, mask))), expected, f"{name} Ragged")
    order = rng.permutation(B)
    shuffled = by_row(layer(x[order], mask=mask[order]))
    assert_same_bits(shuffled, [[rows[i] for i in order] for rows in expected], f"{name} in another order")


# ---- models ----------------------------------------------------------------------------------------------------------
@st.composite
def models(draw, dtype, smooth=False, streams=False):
    """A Sequential model of masked sequences: of ids or of F features, a few layers, outputs for steps or for rows."""
    activations = st.sampled_from(some.SMOOTH if smooth else ["tanh", "relu", "gelu", "softmax", "hard_sigmoid"])
    elementwise = st.sampled_from(some.SMOOTH if smooth else ["tanh", "relu", "elu", "softsign"])
    width = some.few if smooth else some.units
    switches = {"zero_output_for_mask": st.booleans(), "use_bias": st.booleans(), "activation": elementwise}

    def recurrent(sequences):
        cls = draw(st.sampled_from([layers.LSTM, layers.GRU, layers.SimpleRNN]))
        options = {name: draw(s) for name, s in switches.items()}
        if cls is layers.GRU:
            options["reset_after"] = draw(st.booleans())
        return cls(draw(width), return_sequences=sequences, dtype=dtype, **options)

    kinds = {
        "recurrent": lambda: recurrent(True),
        "dense": lambda: layers.Dense(draw(width), activation=draw(activations), dtype=dtype),
        "normalization": lambda: layers.LayerNormalization(dtype=dtype),
        "dropout": lambda: layers.Dropout(0.0 if smooth else 0.5, dtype=dtype),
        "activation": lambda: layers.Activation(draw(activations), dtype=dtype),
        "convolution": lambda: layers.Conv1D(
            draw(width), draw(st.integers(1, 3)), padding="causal", activation=draw(activations), dtype=dtype
        ),
        "bidirectional": lambda: layers.Bidirectional(
            recurrent(True), merge_mode=draw(st.sampled_from(["concat", "sum", "mul", "ave"]))
        ),
        "each step": lambda: layers.TimeDistributed(layers.Dense(draw(width), dtype=dtype)),
        "stack": lambda: layers.RNN(
            [layers.LSTMCell(draw(width), dtype=dtype), layers.GRUCell(draw(width), dtype=dtype)], return_sequences=True
        ),
    }
    heads = {
        "steps": lambda: layers.Dense(2, dtype=dtype),
        "last": lambda: recurrent(False),
        "average": lambda: layers.GlobalAveragePooling1D(dtype=dtype),
        "largest": lambda: layers.GlobalMaxPooling1D(dtype=dtype),
    }
    if streams:
        del kinds["bidirectional"]
        heads = {"steps": heads["steps"]}
    if smooth:
        del heads["largest"]  # which jumps from step to step
    fm.set_random_seed(draw(st.integers(0, 99)))
    ids = draw(st.booleans())
    front = [fm.Input((None,), dtype="int32"), layers.Embedding(VOCABULARY, 4, mask_zero=True, dtype=dtype)]
    model = front if ids else [fm.Input((None, F), dtype=dtype), layers.Masking(dtype=dtype)]
    model += [kinds[draw(st.sampled_from([*kinds]))]() for _ in range(draw(st.integers(0, 3)))]
    model.append(heads[draw(st.sampled_from([*heads]))]())
    model = fm.Sequential(model)
    rng = np.random.default_rng(draw(some.seeds))
    model.set_weights([w.numpy() + 0.1 * rng.standard_normal(w.shape) for w in model.weights])
    return model, ids


def rows_for(ids, lengths, dtype, rng):
    """Sequences of these lengths, without a step that the model itself would mask."""
    if ids:
        return [rng.integers(1, VOCABULARY, n).astype(np.int32) for n in lengths]
    return [rng.standard_normal((n, F)).astype(dtype) for n in lengths]


def padded(rows, T, at_end=True):
    out = np.zeros((len(rows), T, *rows[0].shape[1:]), rows[0].dtype)
    for row, a in zip(out, rows, strict=True):
        row[(slice(0, len(a)) if at_end else slice(T - len(a), T))] = a
    return out


@given(st.data(), some.dtypes, some.seeds, some.launch_paths())
def test_models_in_every_arrangement(data, dtype, seed, launch):
    """Rows alone, padded on either side, in a batch of any order, Ragged, by `predict`: the same bits."""
    model, ids = data.draw(models(np.dtype(dtype).name))
    lengths = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=6))
    """predict and the model: rows alone, padded on either side, in a batch of any order, Ragged: the same bits."""
    rng = np.random.default_rng(seed)
    rows = rows_for(ids, lengths, dtype, rng)

    def outputs(x):
        (found,) = by_row(model(x))
        return found

    expected = outputs(padded(rows, max(lengths)))
    more = max(lengths) + data.draw(st.integers(1, 4))
    assert_same_bits(outputs(padded(rows, more)), expected, "more padding")
    if not any(isinstance(layer, layers.Conv1D) for layer in model.layers):
        assert_same_bits(outputs(padded(rows, more, at_end=False)), expected, "padded in front")
    ragged = Ragged(np.concatenate(rows), np.cumsum([0, *lengths]))
    assert_same_bits(outputs(ragged), expected, "Ragged")
    order = rng.permutation(len(rows))
    batch = padded([rows[i] for i in order], max(lengths))
    assert_same_bits(outputs(batch), [expected[i] for i in order], "other order")
    for i, row in enumerate(rows):
        if len(row):
            assert_same_bits(outputs(row[None])[0], expected[i], "a row alone")
    with launched(*launch):
        assert_same_bits(outputs(ragged), expected, f"{launch}")
    predicted = model.predict(ragged, batch_size=data.draw(st.integers(1, 4)))
    found = [predicted[i] for i in range(len(rows))]
    assert_same_bits(found, expected, "predict")


@given(st.data(), some.seeds)
def test_gradients_of_models(data, seed):
    """Of a random loss of the valid steps, for all weights in a random direction."""
    model, ids = data.draw(models("float64", smooth=True))
    assume(model.trainable_weights)
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    assume(max(lengths) > 0)
    rng = np.random.default_rng(seed)
    x = padded(rows_for(ids, lengths, np.float64, rng), max(lengths))
    y = model(x)
    target, loss = rng.standard_normal(y.shape), fm.losses.get(data.draw(st.sampled_from(["mse", "log_cosh"])))
    arrays = [w.numpy() for w in model.trainable_weights]

    def value():
        for weight, a in zip(model.trainable_weights, arrays, strict=True):
            weight.assign(a)
        return loss(target, model(x))

    model.backward(loss.value_and_grad(target, model(x, training=True))[1])
    gradients = [np.asarray(g) for g in model.gradients]
    assert_derivative(value, arrays, gradients, seed)


@given(st.data(), some.dtypes, some.seeds)
def test_streams(data, dtype, seed):
    """Fed in random pieces, with rows that are masked meanwhile: the bits of the whole."""
    model, ids = data.draw(models(np.dtype(dtype).name, streams=True))
    B, T = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(seed)
    x = padded(rows_for(ids, [T] * B, dtype, rng), T)
    x[rng.random((B, T)) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))] = 0
    whole = model(x)
    stream, start, pieces = model.stream(B), 0, []
    for end in [*sorted(data.draw(st.lists(st.integers(0, T), max_size=4))), T]:
        pieces.append(stream(x[:, start:end]))
        start = end
    assert_same_bits(np.concatenate(pieces, axis=1), np.asarray(plain(whole)))
    assert_same_bits(np.concatenate([p.mask for p in pieces], axis=1), whole.mask)


@given(st.data(), some.seeds)
def test_training_with_more_padding(data, seed):
    """A step of training on padded rows, padded more, and on Ragged: the same weights but for roundings."""
    model, ids = data.draw(models("float64", smooth=True))
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=4))
    assume(max(lengths) > 0 and model.trainable_weights)
    rng = np.random.default_rng(seed)
    rows = rows_for(ids, lengths, np.float64, rng)
    targets = padded([rng.standard_normal((n, 2)) for n in lengths], max(lengths) + 2)
    per_step = len(model(padded(rows, max(lengths))).shape) == 3
    if not per_step:
        targets = rng.standard_normal(model(padded(rows, max(lengths))).shape)
    start, results = model.get_weights(), []
    for T in (max(lengths), max(lengths) + 2):
        model.set_weights(start)
        model.compile(fm.optimizers.SGD(0.1), "mse")
        value = model.train_on_batch(padded(rows, T), targets[:, :T] if per_step else targets)
        results.append([*model.get_weights(), np.asarray(value)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, k=2**10)


# ---- metrics ---------------------------------------------------------------------------------------------------------
NAMES = sorted({cls.__name__ for cls in metrics.CLASSES} - {"Mean", "Sum"})


@given(st.sampled_from(NAMES), some.dtypes, some.seeds, st.data())
def test_metrics_do_not_see_how_steps_are_cut(name, dtype, seed, data):
    """In one batch, in several, without the masked steps, as Ragged: the same result."""
    B, T, units = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8)), data.draw(st.integers(2, 5))
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, units, (B, T))
    sparse = name.startswith("Sparse") or name == "Perplexity"
    y_true = classes if sparse else np.eye(units, dtype=dtype)[classes]
    y_pred = rng.dirichlet(np.ones(units), (B, T)).astype(dtype)
    mask = data.draw(some.masks(B, T))
    mask = np.ones((B, T), bool) if mask is None else mask
    weight = data.draw(st.sampled_from([None, rng.uniform(0, 2, (B, T))]))

    def result(*batches):
        metric = getattr(metrics, name)()
        for y_true, y_pred, weight, mask in batches:
            metric.update_state(y_true, y_pred, sample_weight=weight, mask=mask)
        return np.asarray(metric.result())

    expected = result((y_true, y_pred, weight, mask))
    cut = data.draw(st.integers(0, B))
    parts = [
        (y_true[p], y_pred[p], None if weight is None else weight[p], mask[p]) for p in (slice(cut), slice(cut, B))
    ]
    assert_close(result(*parts), expected, k=2**10)
    kept = [a[mask] for a in (y_true, y_pred)] + [None if weight is None else weight[mask], None]
    assert_close(result(tuple(kept)), expected, k=2**10)
    garbage = np.where(mask[..., None], y_pred, np.nan)
    assert_same_bits(result((y_true, garbage, weight, mask)), expected)
