"""Nothing under a mask leaks: whatever stands there, outputs at valid steps and every gradient keep their bits.

What is compared: the same data with zeros under the mask. NaN and infinity, which count as 0 there (semantics A11),
change not even what stands at masked steps of the outputs.
"""

import inspect
import itertools

import numpy as np
import pytest

import fastmask as fm
from cases import DTYPES, assert_same_bits
from fastmask import layers, losses, metrics
from fastmask.layers import Layer
from fastmask.ops import loss as ops
from fastmask.ragged import Ragged
from layer_cases import CASES, CELLS, VOCABULARY, as_ragged, every_case, inputs_of, masks_of, outcome

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # nor does garbage make NumPy speak up

MASKS = ("every", "all_masked")
LENGTHS = [7, 3, 0, 5, 2]
layer_cases = pytest.mark.parametrize(
    "case", [case for _, case in every_case()], ids=[name for name, _ in every_case()]
)


def garbage(dtype):
    """Name -> what may stand under a mask."""
    largest, denormal = (1e38, 1e-42) if dtype == np.float32 else (1e308, 1e-310)
    return {
        "nan": np.nan,
        "inf": np.inf,
        "-inf": -np.inf,
        "large": largest,
        "-large": -largest,
        "denormal": denormal,
        "mixed": [np.nan, np.inf, -np.inf, largest, -largest, denormal, -denormal, -0.0],
    }


def spoiled(a, mask, values, seed=0):
    """a with some of `values` at random wherever the mask is False."""
    if isinstance(a, Ragged):
        return a.with_values(spoiled(a.values, mask, values, seed))
    out = a.copy()
    out[~mask] = np.random.default_rng(seed).choice(np.atleast_1d(values), out[~mask].shape)
    return out


def with_garbage(arrays, masks, values):
    return [a if m is None else spoiled(a, m, values) for a, m in zip(arrays, masks, strict=True)]


def test_every_layer_is_tried():
    public = {fm.Model, fm.Sequential} | {getattr(layers, name) for name in layers.__all__}
    classes = {cls.__name__ for cls in public if inspect.isclass(cls) and issubclass(cls, Layer)}
    classes -= {"Layer", *CELLS}
    assert classes == set(CASES), f"missing {classes - set(CASES)}, unknown {set(CASES) - classes}"


@pytest.mark.parametrize("dtype", DTYPES)
@layer_cases
def test_layers(case, dtype):
    for pattern in MASKS:
        inputs, masks = inputs_of(case, dtype), masks_of(case, pattern)
        if all(m is None for m in masks):
            return
        check(case, dtype, inputs, masks, pattern)


@pytest.mark.parametrize("dtype", DTYPES)
@layer_cases
def test_layers_with_ragged(case, dtype):
    if not case.ragged or not case.make("float32").supports_ragged or len(case.shapes[0]) < 2 + (not case.ids):
        return
    for pattern in MASKS:
        inputs, masks = as_ragged(inputs_of(case, dtype), masks_of(case, pattern), LENGTHS)
        check(case, dtype, inputs, masks, f"Ragged, {pattern}")


def check(case, dtype, inputs, masks, message):
    kinds = {"no id": [-1, VOCABULARY, 2**40, -(2**40)], "an id": [3]} if case.ids else garbage(dtype)
    for kind, values in kinds.items():
        counts_as_0 = kind in ("nan", "inf", "-inf", "no id")
        if not case.finite and not counts_as_0:
            continue
        clean, dirty = with_garbage(inputs, masks, 0), with_garbage(inputs, masks, values)
        expected, found = (
            outcome(case, dtype, x, masks, only_valid=not (counts_as_0 and case.computes)) for x in (clean, dirty)
        )
        assert_same_bits(found, expected, f"{message}, {kind}:")


def test_training():
    """Fit, evaluate and predict: garbage in data and targets changes no bit of weights, history and results."""

    def trained(values):
        fm.set_random_seed(3)
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((12, 7, 3)).astype(np.float32), rng.integers(0, 4, (12, 7)).astype(np.float32)
        mask = rng.random((12, 7)) < 0.6
        mask[3] = False
        model = fm.Sequential(
            [
                fm.Input((None, 3)),
                layers.BatchNormalization(),
                layers.Bidirectional(layers.LSTM(5, return_sequences=True, dropout=0.2, recurrent_dropout=0.2, seed=1)),
                layers.Dropout(0.3, seed=2),
                layers.Dense(4, activation="softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        x, y = spoiled(x, mask, values), spoiled(y, mask, values, seed=1)
        history = model.fit(x, y, mask=mask, batch_size=5, epochs=2, shuffle=False, verbose=0).history
        evaluated = model.evaluate(x, y, mask=mask, verbose=0)
        return (
            model.get_weights(),
            np.array([*history.values()]),
            np.array(evaluated),
            model.predict(x, mask=mask)[mask],
        )

    expected = trained(0)
    for kind, values in garbage(np.float32).items():
        assert_same_bits(trained(values), expected, kind)


# ---- losses and metrics ----------------------------------------------------------------------------------------------
STEP_MASK = np.array([[True, True, False, False], [False, True, False, True], [False] * 4])
WEIGHTS = np.array([[0.5, 2.0, 1.0, 3.0], [1.0, 0.0, 2.0, 0.25], [1.0] * 4])  # a step of weight 0 counts as masked


class Quartic(losses.Loss):
    """A user's own."""

    def call(self, y_true, y_pred):
        return np.mean((y_pred - y_true) ** 4, axis=-1)

    def gradient(self, y_true, y_pred):
        return 4 * (y_pred - y_true) ** 3 / y_pred.shape[-1]


class Largest(metrics.Metric):
    """A user's own."""

    def step_values(self, y_true, y_pred):
        return y_pred.max(axis=-1)


LOSSES = {cls.__name__: [{}] for cls in losses.CLASSES} | {
    "BinaryCrossentropy": [{}, {"from_logits": True}, {"label_smoothing": 0.2}],
    "CategoricalCrossentropy": [{}, {"from_logits": True}, {"label_smoothing": 0.2}],
    "SparseCategoricalCrossentropy": [{}, {"from_logits": True}, {"ignore_class": 1}],
    "Loss": [{}],
}
METRICS = {cls.__name__: cls for cls in metrics.CLASSES} | {
    "FBetaScore": lambda: metrics.FBetaScore(average="macro"),
    "F1Score": lambda: metrics.F1Score(average="weighted"),
    "Metric": Largest,
    "MeanMetricWrapper": lambda: metrics.get(Largest().step_values),
}


def each_garbage(name, units, dtype, weighted):
    """(kind, y_true, y_pred, sample_weight) for any loss or metric: with zeros wherever no step counts, then with each
    kind of garbage there."""
    rng = np.random.default_rng(units)
    classes = rng.integers(0, units, STEP_MASK.shape)
    y_true = (
        classes.astype(dtype)
        if name.startswith("Sparse") or name == "Perplexity"
        else np.eye(units, dtype=dtype)[classes]
    )
    y_pred = rng.uniform(0.1, 0.9, (*STEP_MASK.shape, units)).astype(dtype)
    counts = STEP_MASK & (WEIGHTS != 0) if weighted else STEP_MASK
    for kind, values in {"zeros": 0, **garbage(dtype)}.items():
        weight = spoiled(WEIGHTS, STEP_MASK, values) if weighted else None
        yield kind, spoiled(y_true, counts, values), spoiled(y_pred, counts, values, seed=1), weight


def test_every_loss_and_metric_is_tried():
    assert set(LOSSES) == {cls.__name__ for cls in losses.CLASSES} | {"Loss"}
    assert set(METRICS) == {name for name in metrics.__all__ if name[0].isupper()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, options", [(name, o) for name, cases in LOSSES.items() for o in cases])
def test_losses(name, options, dtype):
    cls = Quartic if name == "Loss" else getattr(losses, name)
    for units, reduction, weighted in itertools.product((3, 20), ops.REDUCTIONS, (False, True)):
        loss, expected = cls(reduction=reduction, **options), None
        for kind, y_true, y_pred, weight in each_garbage(name, units, dtype, weighted):
            if weighted and reduction == "weighted_masked_objective":
                weight = WEIGHTS  # its formula counts the weights of masked steps, too
            value, d_pred = loss.value_and_grad(y_true, y_pred, sample_weight=weight, mask=STEP_MASK)
            found = [np.asarray(value), d_pred, np.array(loss.sums(y_true, y_pred, weight, STEP_MASK))]
            expected = expected or found
            assert_same_bits(found, expected, f"{kind} {reduction} {units}")
            assert not d_pred[~STEP_MASK].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", METRICS)
def test_metrics(name, dtype):
    for units, weighted in itertools.product((3, 20), (False, True)):
        expected = None
        for kind, y_true, y_pred, weight in each_garbage(name, units, dtype, weighted):
            metric = METRICS[name]()
            data = (y_pred,) if name in ("Mean", "Sum") else (y_true, y_pred)
            for _ in range(2):
                metric.update_state(*data, sample_weight=weight, mask=STEP_MASK)
            found = np.asarray(metric.result())
            expected = found if expected is None else expected
            assert_same_bits(found, expected, f"{kind} {units}")
