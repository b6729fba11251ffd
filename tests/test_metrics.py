"""Metrics: hand values, masks, weights, batches; live comparison with Keras in peers/test_peers_losses.py."""

import numpy as np
import pytest

from fastmask import metrics
from fastmask.metrics import base
from fastmask.metrics.means import LossMetric
from fastmask.ragged import Ragged
from fastmask.registry import register_serializable
from helpers import assert_close, assert_doctests

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


def test_top_k_by_hand():
    predictions = [[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.7, np.inf]]
    for k, values in [(1, [0, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 0]), (9, [1, 1, 0])]:  # ties are in, infinities out
        for label, prediction, value in zip([2, 0, 1], predictions, values, strict=True):
            assert result(metrics.SparseTopKCategoricalAccuracy(k), [label], [prediction]) == value
            assert result(metrics.TopKCategoricalAccuracy(k), np.eye(3)[[label]], [prediction]) == value
    with pytest.raises(ValueError, match=r"y_true: expected class numbers 0..2, received 3 at \(0,\)"):
        metrics.SparseTopKCategoricalAccuracy()([3], [[0.1, 0.5, 0.4]])
    with pytest.raises(ValueError, match="k: expected at least 1, received 0"):
        metrics.TopKCategoricalAccuracy(0)


def test_losses_as_metrics_by_hand():
    assert result(metrics.RootMeanSquaredError(), [[0, 0], [0, 0]], [[1.0, 5], [3, 1]]) == 3.0  # the root of 36 / 4
    assert_close(result(metrics.CosineSimilarity(), [[4, 3]], [[0.0, 2.0]]), 0.6)  # the loss is -0.6
    assert_close(result(metrics.LogCoshError(), [[0]], [[np.log(2)]]), np.log(1.25))
    assert result(metrics.Huber(delta=2.0), [[0.0]], [[-3.0]]) == 4.0
    # e^(-(log 0.5 + log 0.25) / 2), whatever stands at the ignored and the masked step
    probabilities = np.array([[[0.5, 0.5], [0.75, 0.25], [0.9, 0.1], [np.nan, 7]]])
    labels, mask = [[0, 1, -1, 5]], [[True, True, True, False]]
    assert_close(result(metrics.Perplexity(ignore_class=-1), labels, probabilities, mask=mask), np.sqrt(8), k=16)
    logits = np.log(np.where(np.isfinite(probabilities), probabilities, 1))
    metric = metrics.Perplexity(from_logits=True, ignore_class=-1)
    assert_close(result(metric, labels, logits, mask=mask), np.sqrt(8), k=16)


def test_precision_recall_and_counts_by_hand():
    y_true, y_pred = [[0, 1, 1, 1]], [[0.9, 0.4, 0.6, 0.8]]
    counts = [
        (metrics.TruePositives, 2, [3, 2, 0]),
        (metrics.FalsePositives, 1, [1, 1, 0]),
        (metrics.TrueNegatives, 0, [0, 0, 1]),
        (metrics.FalseNegatives, 1, [0, 1, 3]),
        (metrics.Precision, 2 / 3, [3 / 4, 2 / 3, 0]),
        (metrics.Recall, 2 / 3, [1, 2 / 3, 0]),
    ]
    for cls, at_half, at_each in counts:
        assert result(cls(), y_true, y_pred) == at_half
        assert result(cls(0.5), y_true, y_pred) == at_half
        assert_close(result(cls([0, 0.5, 0.95]), y_true, y_pred), at_each)
        assert_close(result(cls([0.95, 0.5, 0, 0.5]), y_true, y_pred), np.take(at_each, [2, 1, 0, 1]))  # in any order
    steps = np.transpose(y_true)[None], np.transpose(y_pred)[None]  # (1,4,1): the same as steps
    assert result(metrics.Precision(), *steps, sample_weight=[[3, 1, 2, 5]]) == 7 / 10
    assert result(metrics.Recall(), *steps, sample_weight=[[3, 1, 2, 5]]) == 7 / 8
    assert result(metrics.Precision(), *steps, mask=[[False, True, True, True]]) == 1.0
    assert result(metrics.Recall(0.6), *steps) == 1 / 3  # 0.6 is not larger than 0.6
    one_hot, three = np.eye(3)[[0, 1, 2]], [[0.1, 0.6, 0.3], [0.3, 0.3, 0.2], [0.0, 0.8, 0.7]]
    assert result(metrics.Precision(top_k=1), one_hot, three) == 0.0
    assert result(metrics.Precision(top_k=2), one_hot, three) == 2 / 6
    assert result(metrics.Recall(top_k=2), one_hot, three) == 2 / 3
    assert result(metrics.Recall(0.5, top_k=2), one_hot, three) == 1 / 3
    assert result(metrics.Recall(top_k=2, class_id=2), one_hot, three) == 1.0
    assert result(metrics.Precision(class_id=1), one_hot, three) == 0.0
    nan = result(metrics.Precision(), [[1, 1]], [[np.nan, 0.9]]), result(metrics.Recall(), [[1, 1]], [[np.nan, 0.9]])
    assert nan == (1.0, 0.5)


def test_auc_by_hand():
    """The example of Keras' docstring: with thresholds 0, 0.5 and 1."""
    y_true, y_pred = [[0, 0, 1, 1]], [[0, 0.5, 0.3, 0.9]]
    assert_close(result(metrics.AUC(num_thresholds=3), y_true, y_pred), 0.75)
    steps = np.transpose(y_true), np.transpose(y_pred)
    assert_close(result(metrics.AUC(num_thresholds=3), *steps, sample_weight=[1, 0, 0, 1]), 1.0)
    assert_close(result(metrics.AUC(3, summation_method="minoring"), y_true, y_pred), 0.5)
    assert_close(result(metrics.AUC(3, summation_method="majoring"), y_true, y_pred), 1.0)
    fine, labels = np.random.default_rng(0).permutation(100) / 100 + 0.005, np.random.default_rng(1).random(100) < 0.4
    ranks = [p > n for p in fine[labels] for n in fine[~labels]]  # the area is the chance that a pair is in order
    assert_close(result(metrics.AUC(101), labels[:, None], fine[:, None]), np.mean(ranks), k=16)
    logits = np.log(fine / (1 - fine))
    assert_close(result(metrics.AUC(101, from_logits=True), labels[:, None], logits[:, None]), np.mean(ranks), k=16)
    assert_close(
        result(metrics.AUC(thresholds=np.arange(1, 100) / 100), labels[:, None], fine[:, None]), np.mean(ranks)
    )
    two = np.stack([fine, 1 - fine], axis=-1), np.stack([labels, labels], axis=-1)  # one label in order, one reversed
    area = np.mean(ranks)
    for options, expected in [
        ({}, 0.5),
        ({"num_labels": 2, "label_weights": [3, 1]}, (3 * area + 1 - area) / 4),
        ({"label_weights": [1, 0]}, area),
    ]:
        assert_close(result(metrics.AUC(101, multi_label=True, **options), two[1], two[0]), expected, k=16)
    assert_close(result(metrics.AUC(101, label_weights=[1, 0]), two[1], two[0]), area, k=16)
    assert result(metrics.AUC(), np.ones((2, 1)), np.array([[np.nan], [0.5]])) == 0.0  # no negatives: no area


def test_f_scores_by_hand():
    """Class 0: one hit, one false alarm; class 1: one hit, one miss; class 2 right."""
    y_true, y_pred = np.eye(3)[[0, 1, 1, 2]], np.eye(3)[[0, 1, 0, 2]] * 0.9
    assert_close(result(metrics.F1Score(), y_true, y_pred), [2 / 3, 2 / 3, 1], atol=3e-7)
    assert_close(result(metrics.F1Score("macro", 0.5), y_true, y_pred), 7 / 9, atol=3e-7)
    assert_close(result(metrics.F1Score("micro"), y_true, y_pred), 3 / 4, atol=3e-7)
    assert_close(result(metrics.F1Score("weighted"), y_true, y_pred), (2 / 3 + 2 * 2 / 3 + 1) / 4, atol=3e-7)
    assert_close(result(metrics.FBetaScore(beta=2.0), y_true, y_pred)[:2], [5 / 6, 5 / 9], atol=3e-7)
    assert_close(result(metrics.F1Score("micro"), y_true, y_pred, mask=[1, 1, 0, 1]), 1, atol=3e-7)
    assert_close(result(metrics.F1Score("micro"), y_true, y_pred, [1, 1, 2, 1]), 3 / 5, atol=3e-7)
    assert_close(result(metrics.F1Score(), [[1, 1]], [[0.0, 0.0]]), [0, 0])  # the largest, but 0


def test_values_as_they_are():
    mean, total = metrics.Mean(), metrics.Sum()
    for metric, first, second in ((mean, 2.0, 3.0), (total, 4.0, 9.0)):
        assert metric.result() == 0.0
        assert metric([1.0, 3.0]) == first
        assert metric(5.0) == second
        metric.reset_state()
        assert (
            metric([[1, 2], [3, np.nan]], sample_weight=[1, 2], mask=[[1, 1], [1, 0]]) * (4 if metric is mean else 1)
            == 9
        )
        metric.reset_state()
        assert metric([[1, 2], [3, np.nan]], mask=[True, False]) * (2 if metric is mean else 1) == 3
    ragged = Ragged(np.array([1.0, 2.0, 6.0]), [0, 1, 3])
    assert metrics.Mean()(ragged, sample_weight=[2, 1]) == (2 + 2 + 6) / 4
    with pytest.raises(ValueError, match="mask: expected"):
        metrics.Mean()([1.0, 2.0], mask=[True, True, True])


# Every metric that takes targets and predictions, made so that it takes random probabilities
ALL = [cls for cls in metrics.CLASSES if not issubclass(cls, metrics.Mean)]
SCALAR = {metrics.F1Score: {"average": "macro"}, metrics.FBetaScore: {"average": "weighted", "beta": 0.5}}


def made(cls):
    return cls(**SCALAR.get(cls, {}))


def data(cls, seed=0):
    rng = np.random.default_rng(seed)
    y_pred = rng.uniform(0.05, 0.95, (B, T, K)).astype(np.float32)
    y_true = np.argmax(rng.normal(size=(B, T, K)), axis=-1)
    if not (cls.__name__.startswith("Sparse") or cls is metrics.Perplexity):
        y_true = np.eye(K, dtype=np.float32)[y_true]
    mask = rng.random((B, T)) < 0.6
    mask[1] = False
    return y_true, y_pred, mask


@pytest.mark.parametrize("cls", ALL)
def test_mask_rule(cls):
    """Nothing under a mask or a zero weight is read; a mask is a weight of 0; the order of batches does not matter."""
    y_true, y_pred, mask = data(cls)
    clean = result(made(cls), y_true, y_pred, mask=mask)
    flat_true, flat_pred = y_true[mask], y_pred[mask]
    assert_close(result(made(cls), flat_true, flat_pred), clean, np.float64)
    bad_true, bad_pred = y_true.astype(np.float64), y_pred.copy()
    bad_true[~mask], bad_pred[~mask] = np.nan, np.nan
    assert result(made(cls), bad_true, bad_pred, mask=mask) == clean
    assert_close(result(made(cls), bad_true, bad_pred, sample_weight=mask.astype(float)), clean, np.float64)
    weights = np.random.default_rng(1).uniform(0.1, 2, (B, T))
    weighted = result(made(cls), y_true, y_pred, sample_weight=weights, mask=mask)
    bad_weights = np.where(mask, weights, np.nan)
    assert result(made(cls), bad_true, bad_pred, sample_weight=bad_weights, mask=mask) == weighted
    ragged = [Ragged.from_padded(a, mask) for a in (y_true, y_pred, weights)]
    assert result(made(cls), *ragged[:2]) == clean
    assert_close(result(made(cls), *ragged), weighted, np.float64)
    assert result(made(cls), y_true, y_pred, mask=np.zeros((B, T), bool)) == 0.0
    rows = weights[:, 0]
    assert result(made(cls), *ragged[:2], sample_weight=rows) == result(made(cls), y_true, y_pred, rows, mask)
    assert made(cls).result() == 0.0


@pytest.mark.parametrize("cls", ALL)
def test_batches_do_not_matter(cls):
    """Also when their T differs, as in bucketed batches: every step weighs the same."""
    y_true, y_pred, mask = data(cls)
    whole = result(made(cls), y_true, y_pred, mask=mask)
    for size in (1, 2, 3):
        metric = made(cls)
        for i in range(0, B, size):
            s = slice(i, i + size)
            keep = int(np.max(np.nonzero(mask[s].any(axis=0))[0], initial=0)) + 1
            metric.update_state(y_true[s, :keep], y_pred[s, :keep], mask=mask[s, :keep])
        assert_close(metric.result(), whole, np.float64)
    metric.reset_state()
    assert metric.result() == 0.0


@pytest.mark.parametrize("cls", [c for c in ALL if issubclass(c, LossMetric)])
def test_metric_equals_the_loss_of_its_name(cls):
    y_true, y_pred, mask = data(cls)
    loss, sign = cls.loss(), -1 if cls is metrics.CosineSimilarity else 1
    value = sign * loss(y_true, y_pred, mask=mask)
    if cls in (metrics.RootMeanSquaredError, metrics.Perplexity):
        value = {metrics.RootMeanSquaredError: np.sqrt, metrics.Perplexity: np.exp}[cls](value)
    assert_close(result(cls(), y_true, y_pred, mask=mask), value, np.float32, k=4)


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
    for name, cls in [
        ("auc", metrics.AUC),
        ("AUC", metrics.AUC),
        ("precision", metrics.Precision),
        ("Recall", metrics.Recall),
        ("f1_score", metrics.F1Score),
        ("kl_divergence", metrics.KLDivergence),
        ("MAPE", metrics.MeanAbsolutePercentageError),
        ("top_k_categorical_accuracy", metrics.TopKCategoricalAccuracy),
        ("true_positives", metrics.TruePositives),
        ("root_mean_squared_error", metrics.RootMeanSquaredError),
        ("log_cosh_error", metrics.LogCoshError),
        ("perplexity", metrics.Perplexity),
    ]:
        metric = metrics.get(name)
        assert type(metric) is cls and metric.name == name
    assert metrics.get({"class_name": "AUC", "config": {"curve": "pr"}}).curve == "PR"
    metric = metrics.BinaryAccuracy()
    assert metrics.get(metric) is metric
    assert type(metrics.get(metrics.BinaryAccuracy)) is metrics.BinaryAccuracy


def test_bad_input():
    for wrong in ("iou", 0.5, dict, None):
        with pytest.raises(ValueError, match=f"metric: expected one of accuracy, auc, .*received {wrong!r}"):
            metrics.get(wrong)
    one, two = np.zeros((2, 3)), np.zeros((2, 2))
    for make, message in [
        (lambda: metrics.Precision(1.5), r"thresholds: expected numbers in \[0, 1\], received \[1.5\]"),
        (lambda: metrics.Recall([0.5, -0.1]), r"thresholds: expected numbers in \[0, 1\]"),
        (lambda: metrics.Precision(top_k=0), "top_k: expected at least 1, received 0"),
        (
            lambda: metrics.Precision(top_k=4)(one, one),
            "top_k: expected at most the 3 predictions of a step, received 4",
        ),
        (lambda: metrics.Recall(class_id=3)(one, one), "class_id: expected a class below 3, received 3"),
        (lambda: metrics.AUC(1), "num_thresholds: expected at least 2, received 1"),
        (lambda: metrics.AUC(curve="PRGAIN"), "curve: expected one of .*received 'PRGAIN'"),
        (lambda: metrics.AUC(summation_method="sum"), "summation_method: expected one of .*received 'sum'"),
        (lambda: metrics.AUC(num_labels=2), "num_labels: expected None without multi_label, received 2"),
        (lambda: metrics.AUC(multi_label=True, num_labels=2)(one, one), "num_labels: expected 2 labels, .* with 3"),
        (lambda: metrics.AUC(label_weights=[1, 2])(one, one), "label_weights: expected 2 labels, .* with 3"),
        (lambda: metrics.F1Score("mean"), "average: expected one of .*received 'mean'"),
        (lambda: metrics.FBetaScore(beta=0), "beta: expected a number above 0, received 0"),
        (lambda: metrics.F1Score(threshold=0.0), r"threshold: expected a number in \(0, 1\] or None, received 0.0"),
        (lambda: metrics.BinaryAccuracy(dtype="int32"), "dtype: expected float32 or float64, received 'int32'"),
        (lambda: metrics.CosineSimilarity(axis=0), "axis: expected -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    changing = metrics.AUC(multi_label=True)
    changing.update_state(one, one)
    with pytest.raises(ValueError, match="num_labels: expected 3 labels, received y_pred with 2"):
        changing.update_state(two, two)
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
    assert result(Largest(), [[0, 0], [0, 0]], [[1.0, 3.0], [5.0, np.nan]], mask=[True, False]) == 3.0
    assert Largest().name == "largest"
    assert Largest()([0, 0], [[1.0], [5.0]], sample_weight=[3, 1]) == 2.0
    with pytest.raises(NotImplementedError, match="metric: Metric has no step_values"):
        metrics.Metric()([[0]], [[0]])
    assert metrics.Metric()([[0]], [[0]], mask=[False]) == 0.0  # never called without a step

    class Wrong(metrics.Metric):
        def step_values(self, y_true, y_pred):
            return y_pred

    with pytest.raises(ValueError, match=r"step_values: expected a result of shape \(2,\), received \(2, 1\)"):
        Wrong()([0, 0], [[1.0], [5.0]])


def test_a_metric_of_ones_own_with_a_state_of_its_own():
    """valid_steps gives what counts, of targets of any shape."""

    class Confusion(metrics.Metric):
        def __init__(self, classes, name="confusion"):
            self.classes = classes
            super().__init__(name=name)

        def reset_state(self):
            self.table = np.zeros((self.classes, self.classes))

        def update_state(self, y_true, y_pred, sample_weight=None, mask=None):
            y_true, y_pred, weight = self.valid_steps(y_true, y_pred, sample_weight, mask)
            np.add.at(self.table, (y_true.astype(int), y_pred.argmax(axis=-1)), weight)

        def result(self):
            return self.table

    labels, predictions = np.array([[0, 1, -9], [1, 1, -9]]), np.eye(2)[[[0, 0, 0], [1, 1, 1]]]
    metric = Confusion(2)
    np.testing.assert_array_equal(metric(labels, predictions, [1, 3], labels >= 0), [[1, 0], [1, 6]])
    metric.reset_state()
    assert not metric.result().any()


def test_a_plain_function_is_a_metric():
    def off_by(y_true, y_pred, limit=1.0):
        return np.abs(y_pred - y_true) > limit

    y_true, y_pred, mask = np.zeros((1, 3, 2)), np.array([[[0.5, 2.0], [3.0, 4.0], [np.nan, 9]]]), [[1, 1, 0]]
    metric = metrics.get(off_by)
    assert isinstance(metric, metrics.MeanMetricWrapper) and metric.name == "off_by"
    assert metric(y_true, y_pred, mask=mask) == 0.75
    assert metrics.MeanMetricWrapper(off_by, name="far", limit=3.5)(y_true, y_pred, mask=mask) == 0.25
    assert repr(metric) == "MeanMetricWrapper(off_by)"
    with pytest.raises(ValueError, match="decorated with register_serializable, received MeanMetricWrapper"):
        metrics.serialize(metric)
    with pytest.raises(ValueError, match="off_by: a plain function cannot be written down"):
        metric.get_config()


@register_serializable("tests")
class Counted(metrics.Metric):
    def step_values(self, y_true, y_pred):
        return np.ones(len(y_pred))


OPTIONS = {
    metrics.BinaryAccuracy: {"threshold": 0.3},
    metrics.SparseTopKCategoricalAccuracy: {"k": 2},
    metrics.TopKCategoricalAccuracy: {"k": 3},
    metrics.BinaryCrossentropy: {"from_logits": True, "label_smoothing": 0.1},
    metrics.SparseCategoricalCrossentropy: {"ignore_class": -1},
    metrics.Perplexity: {"from_logits": True, "ignore_class": 0},
    metrics.Huber: {"delta": 0.1},
    metrics.TruePositives: {"thresholds": [0.1, 0.7]},
    metrics.Precision: {"thresholds": [0.1, 0.2], "top_k": 2, "class_id": 1},
    metrics.AUC: {
        "num_thresholds": 9,
        "curve": "PR",
        "multi_label": True,
        "num_labels": K,
        "label_weights": [1, 2, 0.0],
    },
    metrics.F1Score: {"average": "micro", "threshold": 0.4},
    metrics.FBetaScore: {"beta": 3.0},
}


@pytest.mark.parametrize("cls", metrics.CLASSES)
def test_serialize(cls):
    metric = cls(name="mine", dtype="float64", **OPTIONS.get(cls, {}))
    config = metrics.serialize(metric)
    assert config["class_name"] == cls.__name__
    assert config["config"].items() >= {"name": "mine", "dtype": "float64", **OPTIONS.get(cls, {})}.items()
    same = metrics.deserialize(config)
    assert type(same) is cls and same.get_config() == metric.get_config() and repr(same) == repr(metric)
    if cls in ALL:
        y_true, y_pred, mask = data(cls)
        np.testing.assert_array_equal(metric(y_true, y_pred, mask=mask), same(y_true, y_pred, mask=mask))


def test_serialize_ones_own():
    config = metrics.serialize(Counted(name="n"))
    assert config == {"class_name": "tests>Counted", "config": {"name": "n"}}
    assert type(metrics.deserialize(config)) is Counted and type(metrics.get(config)) is Counted
    with pytest.raises(ValueError, match="metric: expected the class_name .* registered Metric, received 'Dense'"):
        metrics.deserialize({"class_name": "Dense", "config": {"units": 1}})


def test_in_a_model():
    """Counting metrics and one's own see the valid steps of every batch and nothing else."""
    import fastmask as fm

    x, y = np.random.default_rng(3).normal(size=(6, 5, 3)), np.full((6, 5, 1), np.nan)
    y[:, :3] = np.random.default_rng(4).integers(0, 2, (6, 3, 1))
    x[:, 3:] = 0
    model = fm.Sequential([fm.Input((None, 3)), fm.layers.Masking(), fm.layers.Dense(1, activation="sigmoid")])
    wanted = ["accuracy", "auc", metrics.Precision(thresholds=0.3), metrics.Recall, lambda y, p: p > 0.5]
    model.compile(loss="binary_crossentropy", metrics=wanted)
    logs = model.evaluate(x, y, batch_size=4, return_dict=True)
    true, predicted = y[:, :3].reshape(-1, 1), model.predict(x)[:, :3].reshape(-1, 1)
    assert list(logs) == ["loss", "accuracy", "auc", "precision", "recall", "<lambda>"]
    assert_close(logs["auc"], metrics.AUC()(true, predicted))
    assert_close(logs["precision"], true[predicted > 0.3].mean())
    assert_close(logs["recall"], (predicted > 0.5)[true == 1].mean())
    assert_close(logs["<lambda>"], (predicted > 0.5).mean())


def test_dtype():
    """Predictions are compared in the dtype they are cast to."""
    almost = np.array([[0.5 + 1e-12]])
    assert result(metrics.BinaryAccuracy(), [[1]], almost) == 1.0
    assert result(metrics.BinaryAccuracy(dtype="float32"), [[1]], almost) == 0.0


def test_examples():
    assert_doctests(base)
