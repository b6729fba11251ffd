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

# Keras takes log 2 for LogCosh and 1e-7 for MeanSquaredLogarithmicError in float32, whatever the dtype is.
LOG_2_ERROR = {"LogCosh": 2e-9}
B, T, K = 5, 5, 4  # B == T: the case in which Keras takes row weights for step weights
REDUCTIONS = ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None]
CASES = [
    ("MeanSquaredError", {}),
    ("MeanAbsoluteError", {}),
    ("MeanAbsolutePercentageError", {}),
    ("MeanSquaredLogarithmicError", {}),
    ("Huber", {}),
    ("Huber", {"delta": 0.3}),
    ("LogCosh", {}),
    ("CosineSimilarity", {}),
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
    ("KLDivergence", {}),
    ("Poisson", {}),
    ("Hinge", {}),
    ("SquaredHinge", {}),
    ("CategoricalHinge", {}),
]


def ids(case):
    name, options = case
    return "-".join([name, *(f"{key}={value}" for key, value in options.items())])


def data(name, options, dtype, seed=0, shape=(B, T, K)):
    """Random targets and predictions of the kind the loss expects."""
    rng = np.random.default_rng(seed)
    y_pred = rng.normal(scale=3, size=shape)
    if name == "KLDivergence" or (name.endswith("Crossentropy") and not options["from_logits"]):
        y_pred = rng.uniform(0.01, 0.99, size=shape)  # for Categorical they do not sum to 1, and need not
    if name in ("Poisson", "MeanSquaredLogarithmicError"):
        y_pred = np.abs(y_pred)
    if name == "SparseCategoricalCrossentropy":
        y_true = rng.integers(0, shape[-1], shape[:-1])
        ignored = options.get("ignore_class")
        if ignored is not None:
            y_true[rng.random(shape[:-1]) < 0.3] = ignored
        return y_true, y_pred.astype(dtype)
    if name in ("CategoricalCrossentropy", "KLDivergence"):
        return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype), y_pred.astype(dtype)
    if name in ("BinaryCrossentropy", "Hinge", "SquaredHinge"):
        return rng.integers(0, 2, shape).astype(dtype), y_pred.astype(dtype)
    if name == "CategoricalHinge":
        return np.eye(shape[-1], dtype=dtype)[rng.integers(0, shape[-1], shape[:-1])], y_pred.astype(dtype)
    if name == "Poisson":
        return rng.integers(0, 4, shape).astype(dtype), y_pred.astype(dtype)
    if name == "MeanAbsolutePercentageError":  # targets near 0 would make it as large as one likes
        y_true = rng.choice([-1, 1], shape) * rng.uniform(1, 3, shape)
        return y_true.astype(dtype), y_pred.astype(dtype)
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
            atol = LOG_2_ERROR.get(name, 0.0) * (3 * B * T if reduction == "sum" else 3)  # weights are below 3
            assert_close(value, keras_value, dtype, k=32, atol=atol)
            assert_close(d_pred, keras_d_pred, dtype, k=32)
            assert_close(loss(y_true, y_pred, sample_weight=weight, mask=mask), value, dtype, k=4)


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, options in CASES if not name.endswith("Crossentropy")]
)
def test_extreme_predictions_equal_keras(name, options, dtype):
    """Predictions and targets of any size, ties and borders among them."""
    y_true, _ = data(name, options, dtype, shape=(600, 3))
    rng = np.random.default_rng(3)
    edges = np.array([0, 1, -1, 2, 0.3, -0.3, 1e-7, 1e-30, 1e4, -1e4, 3e9, -3e9, 88.8, -88.8], dtype)
    if name == "MeanSquaredLogarithmicError":
        edges[edges == edges.dtype.type(1e-7)] = 2e-7
    y_pred = rng.choice(edges, y_true.shape)
    y_pred[:4] = 0
    if name in ("MeanSquaredError", "MeanAbsoluteError", "Huber", "LogCosh", "MeanSquaredLogarithmicError"):
        y_true[::2] = rng.choice(edges, y_true[::2].shape)
    if name == "Hinge":  # signs as they are, where the others are 0 and 1
        y_true = 2 * y_true - 1
    if name in ("MeanSquaredLogarithmicError", "KLDivergence", "Poisson"):
        y_pred = np.abs(y_pred)
    value, d_pred = getattr(losses, name)(reduction="none", **options).value_and_grad(y_true, y_pred)
    keras_value, keras_d_pred = keras_value_and_grad(name, options, "none", y_true, y_pred)
    if name == "CosineSimilarity":  # what cancels in its gradient is of the size of 1 / |y_pred|
        length = np.maximum(np.linalg.norm(y_pred.astype(np.float64), axis=-1, keepdims=True), 1e-7)
        d_pred, keras_d_pred = d_pred * length, keras_d_pred * length
    assert np.isfinite(value).all()
    for ours, theirs in ((value, keras_value), (d_pred, keras_d_pred)):
        scale = np.maximum(np.abs(theirs), 1)
        assert_close(ours / scale, theirs / scale, dtype, k=64, atol=LOG_2_ERROR.get(name, 0.0))


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


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_of_ones_own_equals_keras(reduction):
    class Ours(losses.Loss):
        def call(self, y_true, y_pred):
            return np.mean(np.exp(y_pred - y_true), axis=-1)

        def gradient(self, y_true, y_pred):
            return np.exp(y_pred - y_true) / y_pred.shape[-1]

    class Theirs(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.exp(y_pred - y_true), axis=-1)

    y_true, y_pred = data("MeanSquaredError", {}, "float32")
    mask, steps = np.random.default_rng(6).random((B, T)) < 0.6, np.random.default_rng(7).uniform(0.1, 3, (B, T))
    for weight in (None, steps):
        value, d_pred = Ours(reduction=reduction).value_and_grad(y_true, y_pred, weight, mask)
        tensor = tf.constant(y_pred)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            tensor._keras_mask = tf.constant(mask)
            keras_value = Theirs(reduction=reduction)(y_true, tensor, sample_weight=weight)
            total = tf.reduce_sum(keras_value)
        keras_d_pred = tape.gradient(total, tensor).numpy()
        np.testing.assert_allclose(value, keras_value.numpy(), rtol=1e-5)
        np.testing.assert_allclose(d_pred, keras_d_pred, rtol=1e-5)


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

BINARY, ONE_HOT, LABELS = "BinaryCrossentropy", "CategoricalHinge", "SparseCategoricalCrossentropy"
MEANS = [  # (metric, options, whose data, units)
    ("BinaryAccuracy", {}, BINARY, 1),
    ("BinaryAccuracy", {"threshold": 0.3}, BINARY, 3),
    ("CategoricalAccuracy", {}, "CategoricalCrossentropy", K),
    ("SparseCategoricalAccuracy", {}, LABELS, K),
    ("TopKCategoricalAccuracy", {"k": 2}, "CategoricalCrossentropy", K),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, LABELS, K),
    ("SparseTopKCategoricalAccuracy", {}, LABELS, 9),
    ("MeanSquaredError", {}, "MeanSquaredError", K),
    ("MeanAbsoluteError", {}, "MeanAbsoluteError", K),
    ("MeanAbsolutePercentageError", {}, "MeanAbsolutePercentageError", K),
    ("MeanSquaredLogarithmicError", {}, "MeanSquaredLogarithmicError", K),
    ("LogCoshError", {}, "LogCosh", K),
    ("CosineSimilarity", {}, "CosineSimilarity", K),
    ("BinaryCrossentropy", {}, BINARY, K),
    ("CategoricalCrossentropy", {}, "CategoricalCrossentropy", K),
    ("CategoricalCrossentropy", {"label_smoothing": 0.2}, "CategoricalCrossentropy", K),
    ("SparseCategoricalCrossentropy", {}, LABELS, K),
    ("KLDivergence", {}, "KLDivergence", K),
    ("Poisson", {}, "Poisson", K),
    ("Hinge", {}, "Hinge", K),
    ("SquaredHinge", {}, "SquaredHinge", K),
    ("CategoricalHinge", {}, "CategoricalHinge", K),
]
COUNTS = [
    ("TruePositives", {}, BINARY, 1),
    ("FalsePositives", {"thresholds": [0.2, 0.9]}, BINARY, 3),
    ("TrueNegatives", {"thresholds": 0.7}, BINARY, 3),
    ("FalseNegatives", {"thresholds": [0.0, 0.5, 1.0]}, BINARY, 3),  # evenly spaced: Keras has a way of its own there
    ("Precision", {}, BINARY, 1),
    ("Precision", {"thresholds": [0.9, 0.2]}, BINARY, 3),
    ("Precision", {"top_k": 2}, ONE_HOT, K),
    ("Precision", {"top_k": 2, "thresholds": 0.6}, ONE_HOT, K),
    ("Precision", {"class_id": 1}, ONE_HOT, K),
    ("Recall", {}, BINARY, 3),
    ("Recall", {"thresholds": [0.1, 0.2, 0.9]}, BINARY, 3),
    ("Recall", {"top_k": 3, "class_id": 2}, ONE_HOT, K),
    ("AUC", {}, BINARY, 1),
    ("AUC", {}, BINARY, 3),
    ("AUC", {"curve": "PR"}, BINARY, 3),
    ("AUC", {"curve": "PR", "summation_method": "minoring", "num_thresholds": 17}, BINARY, 3),
    ("AUC", {"curve": "PR", "summation_method": "majoring"}, BINARY, 3),
    ("AUC", {"summation_method": "minoring", "num_thresholds": 3}, BINARY, 1),
    ("AUC", {"summation_method": "majoring", "thresholds": [0.7, 0.2, 0.4]}, BINARY, 3),
    ("AUC", {"from_logits": True}, BINARY, 3),
    ("RootMeanSquaredError", {}, "MeanSquaredError", K),
]
FLAT = [  # those that Keras computes for (N,K) only
    ("AUC", {"multi_label": True}, BINARY, 3),
    ("AUC", {"multi_label": True, "num_labels": 3, "label_weights": [1.0, 0.5, 2.0]}, BINARY, 3),
    ("AUC", {"multi_label": True, "curve": "PR"}, BINARY, 3),
    ("AUC", {"label_weights": [1.0, 0.5, 2.0]}, BINARY, 3),
    ("F1Score", {}, ONE_HOT, K),
    ("F1Score", {"average": "macro", "threshold": 0.6}, BINARY, K),
    ("F1Score", {"average": "weighted"}, ONE_HOT, K),
    ("FBetaScore", {"beta": 2.0, "average": "micro"}, "CategoricalCrossentropy", K),
]


def metric_ids(value):
    return "-".join(f"{key}={item}" for key, item in value.items()) or "default" if isinstance(value, dict) else None


def metric_data(targets, seed, shape):
    y_true, y_pred = data(targets, {"from_logits": False}, "float32", seed, shape)
    if targets == ONE_HOT:
        y_pred = np.random.default_rng(seed).uniform(size=shape).astype("float32")
    return y_true, y_pred


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "options", "targets", "units"), COUNTS + FLAT, ids=metric_ids)
def test_counting_metrics_equal_keras(name, options, targets, units, weighted):
    """Without a mask, which Keras would ignore; with one ours are those of the steps that count."""
    ours, masked, theirs = (getattr(m, name)(**options) for m in (metrics, metrics, keras.metrics))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y_true, y_pred = metric_data(targets, seed, (B, T, units))
        weight = rng.uniform(0.1, 2, (B, T)).astype("float32") if weighted else None
        flat = (name, options, targets, units) in FLAT
        shapes = [(B * T, units), (B * T, units), (B * T,)] if flat else [(B, T, units), (B, T, units), (B, T)]
        true, pred, keras_weight = (
            None if a is None else a.reshape(shape) for a, shape in zip((y_true, y_pred, weight), shapes, strict=True)
        )
        theirs.update_state(true, pred, sample_weight=keras_weight)
        ours.update_state(y_true, y_pred, sample_weight=weight)
        assert_close(ours.result(), theirs.result().numpy(), "float32", k=32)

        order = np.argsort(rng.random((B, 2 * T)))[:, :T].copy()  # the same steps among as many masked ones
        order.sort(axis=1)
        rows, mask = np.arange(B)[:, None], np.zeros((B, 2 * T), bool)
        mask[rows, order] = True
        padded = [np.full((B, 2 * T, *a.shape[2:]), np.nan) for a in (y_true, y_pred)]
        padded[0][rows, order], padded[1][rows, order] = y_true, y_pred
        padded_weight = None
        if weighted:
            padded_weight = np.full((B, 2 * T), 9.0)
            padded_weight[rows, order] = weight
        masked.update_state(*padded, sample_weight=padded_weight, mask=mask)
        assert_close(masked.result(), ours.result(), "float32", k=32)


def test_keras_ignores_the_mask_of_a_counting_metric():
    """What the masked part of the test above is for."""
    y_true, y_pred = np.float32([[[1], [0]]]), np.float32([[[0.9], [0.9]]])
    mask = np.array([[True, False]])
    tensor = tf.constant(y_pred)
    tensor._keras_mask = tf.constant(mask)
    theirs = keras.metrics.Precision()
    theirs.update_state(y_true, tensor)
    assert float(theirs.result()) == 0.5
    assert metrics.Precision()(y_true, y_pred, mask=mask) == 1.0


@pytest.mark.parametrize("name", [cls.__name__ for cls in metrics.CLASSES if hasattr(keras.metrics, cls.__name__)])
def test_metric_arguments_equal_keras(name):
    """Names and order; SparseTopK's from_sorted_ids is not there. Names of metrics too."""
    ours, theirs = (list(inspect.signature(getattr(m, name)).parameters) for m in (metrics, keras.metrics))
    assert [p for p in ours if p != "options"] == [p for p in theirs if p != "from_sorted_ids"]
    keras.backend.clear_session()  # its names are numbered
    assert getattr(metrics, name)().name == getattr(keras.metrics, name)().name
    for identifier in (name, keras.src.utils.naming.to_snake_case(name)):
        assert type(metrics.get(identifier)).__name__ == type(keras.metrics.get(identifier)).__name__ == name


def test_short_names_equal_keras():
    for name in ("mse", "MSE", "mae", "MAE", "mape", "MAPE", "msle", "MSLE", "bce", "BCE"):
        assert type(metrics.get(name)).__name__ == type(keras.metrics.get(name)).__name__
    for name in ("mse", "MSE", "mae", "MAE", "mape", "MAPE", "msle", "MSLE", "bce", "BCE", "kld", "KLD"):
        assert losses.get(name).kind == keras.losses.get(name).__name__
    for cls in losses.CLASSES:
        assert keras.losses.get(cls.kind).__name__ == cls.kind
        assert type(keras.losses.get(cls.__name__)).__name__ == cls.__name__


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "options", "targets", "units"), MEANS, ids=metric_ids)
def test_metrics_equal_keras(name, options, targets, units, weighted, masked):
    ours, theirs = getattr(metrics, name)(**options), getattr(keras.metrics, name)(**options)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y_true, y_pred = metric_data(targets, seed, (B, T, units))
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
