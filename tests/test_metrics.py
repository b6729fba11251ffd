"""Metrics: hand values, masks, weights, batches; live comparison with Keras in peers/test_peers_losses.py."""

import numpy as np
import pytest

from fastmask import losses, metrics
from fastmask.ragged import Ragged
from helpers import assert_close

B, T, K = 4, 6, 3


def result(metric, *args, **kwargs):
    metric.reset_state()
    metric.update_state(*args, **kwargs)
    return metric.result()


def test_accuracies_by_hand():
    half_is_no = [[0.9], [0.4], [0.5], [0.51]]
    assert result(metrics.BinaryAccuracy(), [[1], [0], [1], [1]], half_is_no) == 0.75
    assert result(metrics.BinaryAccuracy(threshold=0.3), [[1, 0]], [[0.4, 0.4]]) == 0.5
    assert result(metrics.BinaryAccuracy(), [[1, 0, 1, 1]], [[0.9, 0.1, 0.2, 0.7]]) == 0.75
    predictions = np.array([[[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]]])
    labels = np.array([[1, 2], [2, 1]])
    assert result(metrics.SparseCategoricalAccuracy(), labels, predictions) == 0.75
    assert result(metrics.SparseCategoricalAccuracy(), labels[..., None], predictions) == 0.75
    assert result(metrics.CategoricalAccuracy(), np.eye(3)[labels], predictions) == 0.75
    mask = np.array([[True, False], [True, True]])
    assert result(metrics.SparseCategoricalAccuracy(), labels, predictions, mask=mask) == 1.0
    rows, steps = np.array([3.0, 1.0]), np.array([[1.0, 2.0], [3.0, 4.0]])
    assert result(metrics.SparseCategoricalAccuracy(), labels, predictions, sample_weight=rows) == 5 / 8
    assert result(metrics.SparseCategoricalAccuracy(), labels, predictions, sample_weight=steps) == 8 / 10
    assert result(metrics.SparseCategoricalAccuracy(), labels, predictions, sample_weight=rows, mask=mask) == 1.0
    errors = result(metrics.get("mse"), [[[0], [0]]], [[[1.0], [3.0]]], sample_weight=[[1.0, 3.0]])
    assert errors == (1 + 27) / 4  # the divisor has the weights in it: a loss would divide by 2
    assert result(metrics.get("mae"), [[0], [0]], [[1.0], [3.0]]) == 2.0


ALL = [
    metrics.BinaryAccuracy,
    metrics.CategoricalAccuracy,
    metrics.SparseCategoricalAccuracy,
    metrics.MeanSquaredError,
    metrics.MeanAbsoluteError,
    metrics.BinaryCrossentropy,
    metrics.CategoricalCrossentropy,
    metrics.SparseCategoricalCrossentropy,
]


def data(cls, seed=0):
    rng = np.random.default_rng(seed)
    y_pred = rng.uniform(0.05, 0.95, (B, T, K)).astype(np.float32)
    y_true = np.argmax(rng.normal(size=(B, T, K)), axis=-1)
    if not cls.__name__.startswith("Sparse"):
        y_true = np.eye(K, dtype=np.float32)[y_true]
    mask = rng.random((B, T)) < 0.6
    mask[1] = False
    return y_true, y_pred, mask


@pytest.mark.parametrize("cls", ALL)
def test_mask_rule(cls):
    """Nothing under a mask or a zero weight is read; a mask is a weight of 0; the order of batches does not matter."""
    y_true, y_pred, mask = data(cls)
    clean = result(cls(), y_true, y_pred, mask=mask)
    flat_true, flat_pred = y_true[mask], y_pred[mask]
    assert_close(result(cls(), flat_true, flat_pred), clean, np.float64)
    bad_true, bad_pred = y_true.astype(np.float64), y_pred.copy()
    bad_true[~mask], bad_pred[~mask] = np.nan, np.nan
    assert result(cls(), bad_true, bad_pred, mask=mask) == clean
    assert_close(result(cls(), bad_true, bad_pred, sample_weight=mask.astype(float)), clean, np.float64)
    weights = np.random.default_rng(1).uniform(0.1, 2, (B, T))
    weighted = result(cls(), y_true, y_pred, sample_weight=weights, mask=mask)
    bad_weights = np.where(mask, weights, np.nan)
    assert result(cls(), bad_true, bad_pred, sample_weight=bad_weights, mask=mask) == weighted
    ragged = [Ragged.from_padded(a, mask) for a in (y_true, y_pred, weights)]
    assert result(cls(), *ragged[:2]) == clean
    assert_close(result(cls(), *ragged), weighted, np.float64)
    assert result(cls(), y_true, y_pred, mask=np.zeros((B, T), bool)) == 0.0
    rows = weights[:, 0]
    assert result(cls(), *ragged[:2], sample_weight=rows) == result(cls(), y_true, y_pred, rows, mask)
    assert cls().result() == 0.0


@pytest.mark.parametrize("cls", ALL)
def test_batches_do_not_matter(cls):
    """Also when their T differs, as in bucketed batches: every step weighs the same."""
    y_true, y_pred, mask = data(cls)
    whole = result(cls(), y_true, y_pred, mask=mask)
    for size in (1, 2, 3):
        metric = cls()
        for i in range(0, B, size):
            s = slice(i, i + size)
            keep = int(np.max(np.nonzero(mask[s].any(axis=0))[0], initial=0)) + 1
            metric.update_state(y_true[s, :keep], y_pred[s, :keep], mask=mask[s, :keep])
        assert_close(metric.result(), whole, np.float64)
    metric.reset_state()
    assert metric.result() == 0.0


@pytest.mark.parametrize("cls", [c for c in ALL if issubclass(c, metrics.LossMetric)])
def test_metric_equals_the_loss_of_its_name(cls):
    y_true, y_pred, mask = data(cls)
    loss = getattr(losses, cls.__name__)()
    assert_close(result(cls(), y_true, y_pred, mask=mask), loss(y_true, y_pred, mask=mask), np.float32, k=4)
    assert cls().name == loss.name


def test_carried_mask_counts():
    y_true, y_pred, mask = data(metrics.CategoricalAccuracy)

    class Carrier(np.ndarray):
        pass

    carrier = y_pred.view(Carrier)
    carrier.mask = mask
    metric = metrics.CategoricalAccuracy()
    assert result(metric, y_true, carrier) == result(metric, y_true, y_pred, mask=mask)


def test_get():
    for name, cls in [
        ("mse", metrics.MeanSquaredError),
        ("mean_squared_error", metrics.MeanSquaredError),
        ("MeanSquaredError", metrics.MeanSquaredError),
        ("mae", metrics.MeanAbsoluteError),
        ("binary_accuracy", metrics.BinaryAccuracy),
        ("sparse_categorical_crossentropy", metrics.SparseCategoricalCrossentropy),
    ]:
        metric = metrics.get(name)
        assert type(metric) is cls and metric.name == name
    for true, pred, cls in [
        ((B, T), (B, T, 1), metrics.BinaryAccuracy),
        ((B, T, 1), (B, T, 1), metrics.BinaryAccuracy),
        ((B, T), (B, T, K), metrics.SparseCategoricalAccuracy),
        ((B, T, 1), (B, T, K), metrics.SparseCategoricalAccuracy),
        ((B, T, K), (B, T, K), metrics.CategoricalAccuracy),
        ((B,), (B, K), metrics.SparseCategoricalAccuracy),
        ((B, None), (B, None, K), metrics.SparseCategoricalAccuracy),
    ]:
        for name in ("accuracy", "acc"):
            metric = metrics.get(name, true, pred)
            assert type(metric) is cls and metric.name == name
    metric = metrics.BinaryAccuracy()
    assert metrics.get(metric) is metric
    assert type(metrics.get(metrics.BinaryAccuracy)) is metrics.BinaryAccuracy


def test_bad_input():
    with pytest.raises(ValueError, match="metric: expected one of .*accuracy.*received 'auc'"):
        metrics.get("auc")
    with pytest.raises(TypeError, match="metric: expected a name or a Metric, received float"):
        metrics.get(0.5)
    with pytest.raises(ValueError, match="y_true_shape, y_pred_shape: expected the shapes"):
        metrics.get("accuracy")
    metric = metrics.MeanSquaredError()
    with pytest.raises(ValueError, match="y_true: expected shape"):
        metric.update_state(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="mask: expected shape"):
        metric.update_state(np.zeros((2, 3)), np.zeros((2, 3)), mask=np.ones((2, 2)))
    with pytest.raises(ValueError, match="sample_weight: expected"):
        metric.update_state(np.zeros((2, 3)), np.zeros((2, 3)), sample_weight=np.ones(3))
    assert metric.result() == 0.0  # nothing was taken in


def test_a_metric_of_ones_own():
    class Largest(metrics.Metric):
        def step_values(self, y_true, y_pred):
            return np.max(y_pred, axis=-1)

    assert result(Largest(), [[0, 0], [0, 0]], [[1.0, 3.0], [5.0, 2.0]]) == 4.0
    assert Largest().name == "Largest"
