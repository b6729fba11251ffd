"""Losses and metrics against Keras on TensorFlow, live: values, and gradients through tf.GradientTape."""

import inspect
import os
import warnings

import numpy as np
import pytest

from fastmask import losses, metrics
from helpers import assert_close

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

B, T, K = 5, 5, 4  # B == T: the case in which Keras takes row weights for step weights
REDUCTIONS = ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None]
CASES = [
    ("MeanSquaredError", {}),
    ("MeanAbsoluteError", {}),
    ("BinaryCrossentropy", {"from_logits": False}),
    ("BinaryCrossentropy", {"from_logits": False, "label_smoothing": 0.2}),
    ("BinaryCrossentropy", {"from_logits": True}),
    ("BinaryCrossentropy", {"from_logits": True, "label_smoothing": 0.2}),
    ("CategoricalCrossentropy", {"from_logits": False}),
    ("CategoricalCrossentropy", {"from_logits": False, "label_smoothing": 0.2}),
    ("CategoricalCrossentropy", {"from_logits": True}),
    ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.2}),
    ("SparseCategoricalCrossentropy", {"from_logits": False}),
    ("SparseCategoricalCrossentropy", {"from_logits": True}),
    ("SparseCategoricalCrossentropy", {"from_logits": False, "ignore_class": 1}),
    ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": -1}),
    ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": -100}),
]


def ids(case):
    name, options = case
    return "-".join([name, *(f"{key}={value}" for key, value in options.items())])


def data(name, options, dtype, seed=0, shape=(B, T, K)):
    """Random targets and predictions of the kind the loss expects."""
    rng = np.random.default_rng(seed)
    y_pred = rng.normal(scale=3, size=shape)
    if name.endswith("Crossentropy") and not options["from_logits"]:
        y_pred = rng.uniform(0.01, 0.99, size=shape)  # for Categorical they do not sum to 1, and need not
    if name == "SparseCategoricalCrossentropy":
        y_true = rng.integers(0, shape[-1], shape[:-1])
        ignored = options.get("ignore_class")
        if ignored is not None:
            y_true[rng.random(shape[:-1]) < 0.3] = ignored
        return y_true, y_pred.astype(dtype)
    if name == "CategoricalCrossentropy":
        return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype), y_pred.astype(dtype)
    if name == "BinaryCrossentropy":
        return rng.integers(0, 2, shape).astype(dtype), y_pred.astype(dtype)
    return rng.normal(size=shape).astype(dtype), y_pred.astype(dtype)


def keras_value_and_grad(name, options, reduction, y_true, y_pred, sample_weight=None, mask=None):
    loss = getattr(keras.losses, name)(reduction=reduction, dtype=y_pred.dtype.name, **options)
    tensor = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        if mask is not None:
            tensor._keras_mask = tf.constant(mask)
        value = loss(y_true, tensor, sample_weight=sample_weight)
        total = tf.reduce_sum(value)
    return value.numpy(), tape.gradient(total, tensor).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_value_and_gradient_equal_keras(case, reduction, dtype):
    name, options = case
    rng = np.random.default_rng(1)
    y_true, y_pred = data(name, options, dtype)
    holes = rng.random((B, T)) < 0.6
    holes[2] = False
    rows, steps = rng.uniform(0.1, 3, B), rng.uniform(0.1, 3, (B, T))
    # Keras does not broadcast row weights for the divisor of mean_with_sample_weight: it gets them broadcast here.
    weights = [(None, None), (rows, np.repeat(rows[:, None], T, axis=1)), (steps, steps)]
    loss = getattr(losses, name)(reduction=reduction, **options)
    for mask in (None, holes, np.zeros((B, T), bool)):
        for weight, keras_weight in weights:
            value, d_pred = loss.value_and_grad(y_true, y_pred, sample_weight=weight, mask=mask)
            keras_value, keras_d_pred = keras_value_and_grad(
                name, options, reduction, y_true, y_pred, sample_weight=keras_weight, mask=mask
            )
            assert np.shape(value) == keras_value.shape
            assert_close(value, keras_value, dtype, k=32)
            assert_close(d_pred, keras_d_pred, dtype, k=32)
            assert_close(loss(y_true, y_pred, sample_weight=weight, mask=mask), keras_value, dtype, k=32)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_rows_without_time_equal_keras(case):
    """(B,K) predictions, weights (B,): the shapes of a model that ends without a sequence."""
    name, options = case
    y_true, y_pred = data(name, options, "float32", shape=(B, K))
    weight = np.random.default_rng(1).uniform(0.1, 3, B)
    for reduction in REDUCTIONS:
        value, d_pred = getattr(losses, name)(reduction=reduction, **options).value_and_grad(y_true, y_pred, weight)
        keras_value, keras_d_pred = keras_value_and_grad(name, options, reduction, y_true, y_pred, weight)
        assert_close(value, keras_value, "float32", k=32)
        assert_close(d_pred, keras_d_pred, "float32", k=32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [30.0, 100.0, 1e4])
@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"])
def test_extreme_logits_equal_keras(name, scale, dtype):
    options = {"from_logits": True}
    y_true, y_pred = data(name, options, dtype)
    y_pred = np.sign(y_pred) * np.asarray(scale, dtype) + y_pred
    value, d_pred = getattr(losses, name)(reduction="none", **options).value_and_grad(y_true, y_pred)
    keras_value, keras_d_pred = keras_value_and_grad(name, options, "none", y_true, y_pred)
    assert np.isfinite(value).all()
    assert_close(value, keras_value, dtype, k=32)
    assert_close(d_pred, keras_d_pred, dtype, k=32)


@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"])
def test_probabilities_at_and_beyond_the_clip_equal_keras(name):
    options = {"from_logits": False}
    edges = np.float32([0, 1, 1e-7, 5e-8, 1 - 1e-7, 1 - 6e-8, -0.5, 2, 0.5, 1e-3])
    y_pred = np.stack(np.meshgrid(edges, edges, [np.float32(0.25), np.float32(3)]), axis=-1).reshape(-1, 3)
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, len(y_pred))
    y_true = labels if name.startswith("Sparse") else np.eye(3, dtype="float32")[labels]
    value, d_pred = getattr(losses, name)(reduction="none", **options).value_and_grad(y_true, y_pred)
    keras_value, keras_d_pred = keras_value_and_grad(name, options, "none", y_true, y_pred)
    assert_close(value, keras_value, "float32", k=32)
    if name.startswith("Categorical"):  # where p / sum p lands within an ulp of a clip, either side may be right
        q = y_pred / y_pred.sum(axis=-1, keepdims=True)
        clear = np.all((abs(q - 1e-7) > 1e-12) & (abs(q - (1 - 1e-7)) > 1e-6), axis=-1)
        assert clear.sum() > len(y_pred) / 4
        d_pred, keras_d_pred = d_pred[clear], keras_d_pred[clear]
    assert_close(d_pred, keras_d_pred, "float32", k=32)


@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"])
def test_infinite_and_nan_logits_equal_keras(name):
    options = {"from_logits": True}
    special = np.float32([0, np.inf, -np.inf, np.nan])
    y_pred = np.stack(np.meshgrid(special, special, special), axis=-1).reshape(-1, 3)
    labels = np.random.default_rng(3).integers(0, 3, len(y_pred))
    y_true = labels if name.startswith("Sparse") else np.eye(3, dtype="float32")[labels]
    value, d_pred = getattr(losses, name)(reduction="none", **options).value_and_grad(y_true, y_pred)
    keras_value, keras_d_pred = keras_value_and_grad(name, options, "none", y_true, y_pred)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(keras_value))
    np.testing.assert_allclose(value, keras_value, rtol=1e-6)
    np.testing.assert_allclose(d_pred, keras_d_pred, rtol=1e-6)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_constructor_arguments_equal_keras(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (losses, keras.losses))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


# ---- the differences from Keras that are meant -----------------------------------------------------------------------


def test_nan_under_a_mask_spoils_keras_and_not_us():
    y_true, y_pred = np.zeros((2, 3, 1), "float32"), np.ones((2, 3, 1), "float32")
    mask = np.array([[True, True, False], [True, False, False]])
    y_pred[~mask] = np.nan
    value, d_pred = losses.MeanSquaredError().value_and_grad(y_true, y_pred, mask=mask)
    keras_value, _ = keras_value_and_grad("MeanSquaredError", {}, "sum_over_batch_size", y_true, y_pred, mask=mask)
    assert np.isnan(keras_value)
    assert value == 1.0
    assert np.isfinite(d_pred).all()
    assert (d_pred[~mask] == 0).all()


def test_row_weights_are_rows_where_keras_takes_them_for_steps():
    y_true, y_pred = data("MeanSquaredError", {}, "float32")
    rows = np.random.default_rng(4).uniform(0.1, 3, B).astype("float32")
    ours = losses.MeanSquaredError()(y_true, y_pred, sample_weight=rows)
    as_rows, _ = keras_value_and_grad("MeanSquaredError", {}, "mean", y_true, y_pred, rows[:, None])
    guessed, _ = keras_value_and_grad("MeanSquaredError", {}, "mean", y_true, y_pred, rows)
    assert_close(ours, as_rows, "float32", k=32)
    assert abs(ours - guessed) > 0.01


def test_targets_without_last_axis_work_under_a_mask():
    y_true, y_pred = data("MeanSquaredError", {}, "float32", shape=(B, T + 1, 1))
    mask = np.random.default_rng(5).random((B, T + 1)) < 0.6
    value, d_pred = losses.MeanSquaredError().value_and_grad(y_true[..., 0], y_pred, mask=mask)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        keras_value_and_grad("MeanSquaredError", {}, "mean", y_true[..., 0], y_pred, mask=mask)
    keras_value, keras_d_pred = keras_value_and_grad("MeanSquaredError", {}, "mean", y_true, y_pred, mask=mask)
    assert_close(value, keras_value, "float32", k=32)
    assert_close(d_pred, keras_d_pred, "float32", k=32)


def test_the_gradient_of_unnormalised_targets_is_the_derivative():
    """TensorFlow's fused kernel returns softmax - y whatever y sums to; ours is the derivative of the value."""
    y_true, y_pred = np.float64([[0, 0, 0], [1, 1, 0]]), np.float64([[1, 2, 3], [3, 1, 2]])
    value, d_pred = losses.CategoricalCrossentropy(True, reduction="sum").value_and_grad(y_true, y_pred)
    options = {"from_logits": True}
    keras_value, keras_d_pred = keras_value_and_grad("CategoricalCrossentropy", options, "sum", y_true, y_pred)
    softmax = np.exp(y_pred) / np.exp(y_pred).sum(axis=-1, keepdims=True)
    assert_close(value, keras_value, "float64", k=32)
    assert_close(keras_d_pred, softmax - y_true, "float64", k=32)
    assert_close(d_pred, softmax * [[0], [2]] - y_true, "float64", k=32)


# ---- metrics ---------------------------------------------------------------------------------------------------------

METRICS = [
    ("BinaryAccuracy", "BinaryCrossentropy", 1),
    ("BinaryAccuracy", "BinaryCrossentropy", 3),
    ("CategoricalAccuracy", "CategoricalCrossentropy", K),
    ("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", K),
    ("MeanSquaredError", "MeanSquaredError", K),
    ("MeanAbsoluteError", "MeanAbsoluteError", K),
    ("BinaryCrossentropy", "BinaryCrossentropy", K),
    ("CategoricalCrossentropy", "CategoricalCrossentropy", K),
    ("SparseCategoricalCrossentropy", "SparseCategoricalCrossentropy", K),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "targets", "units"), METRICS)
def test_metrics_equal_keras(name, targets, units, weighted, masked):
    ours, theirs = getattr(metrics, name)(), getattr(keras.metrics, name)()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y_true, y_pred = data(targets, {"from_logits": False}, "float32", seed, (B, T, units))
        mask = rng.random((B, T)) < 0.6 if masked else None
        weight = rng.uniform(0.1, 2, (B, T)) if weighted else None
        tensor = tf.constant(y_pred)
        if masked:
            tensor._keras_mask = tf.constant(mask)
        theirs.update_state(y_true, tensor, sample_weight=weight)
        ours.update_state(y_true, y_pred, sample_weight=weight, mask=mask)
        assert_close(ours.result(), float(theirs.result()), "float32", k=32)


def test_accuracy_is_chosen_as_keras_chooses_it():
    from keras.src.trainers.compile_utils import get_metric

    shapes = [(B, T), (B, T, 1), (B, T, K), (B,), (B, 1), (B, K)]
    for pred in [(B, T, 1), (B, T, K), (B, 1), (B, K)]:
        for true in shapes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = get_metric("accuracy", np.zeros(true), np.zeros(pred))
            assert type(metrics.get("accuracy", true, pred)).__name__ == type(theirs).__name__, (true, pred)
