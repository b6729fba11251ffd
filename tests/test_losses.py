"""The loss classes: Keras' names and arguments, carried masks, Ragged, sums for epochs. Values: test_loss.py."""

import inspect

import numpy as np
import pytest

from fastmask import losses
from fastmask.ops.loss import loss_terms, loss_value_and_grad
from fastmask.ragged import Ragged
from helpers import assert_close

B, T, K = 4, 6, 3


class Carrier(np.ndarray):
    """Stands for the eager output of a layer: an ndarray with a mask."""

    mask = None


def data(seed=0):
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.normal(size=(B, T, K)), rng.normal(size=(B, T, K))
    mask = rng.random((B, T)) < 0.6
    mask[1] = False
    return y_true, y_pred, mask


def targets_for(cls, y_true):
    """y_true as this loss wants it."""
    if cls is losses.SparseCategoricalCrossentropy:
        return np.argmax(y_true, axis=-1)
    if cls.kind.endswith("crossentropy"):
        return (y_true == y_true.max(axis=-1, keepdims=True)).astype(float)
    return y_true


@pytest.mark.parametrize("cls", losses.CLASSES)
def test_class_equals_op(cls):
    y_true, y_pred, mask = data()
    y_true = targets_for(cls, y_true)
    options = {"from_logits": True} if cls.kind.endswith("crossentropy") else {}
    rows = np.random.default_rng(1).uniform(0.1, 2, B)
    for reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None):
        loss = cls(reduction=reduction, **options)
        arguments = {"mask": mask, "sample_weight": rows, "reduction": reduction, **options}
        value, d_pred = loss_value_and_grad(cls.kind, y_true, y_pred, **arguments)
        np.testing.assert_array_equal(loss(y_true, y_pred, rows, mask), value)
        got, gradient = loss.value_and_grad(y_true, y_pred, sample_weight=rows, mask=mask)
        np.testing.assert_array_equal(got, value)
        np.testing.assert_array_equal(gradient, d_pred)
        terms = loss_terms(cls.kind, y_true, y_pred, **arguments)
        assert loss.sums(y_true, y_pred, rows, mask) == (terms.total, terms.divisor)
        total, divisor, gradient = loss.sums_and_grad(y_true, y_pred, rows, mask)
        assert (total, divisor) == (terms.total, terms.divisor)
        np.testing.assert_array_equal(gradient, d_pred)
        if reduction not in ("none", None):
            assert total / divisor == value


def test_constructor_arguments_are_those_of_keras():
    """Names, order and defaults as in keras.losses; peers/test_peers_losses.py compares with Keras itself."""
    tail = ["reduction", "name", "dtype"]
    for cls, names in [
        (losses.MeanSquaredError, tail),
        (losses.MeanAbsoluteError, tail),
        (losses.BinaryCrossentropy, ["from_logits", "label_smoothing", "axis", *tail]),
        (losses.CategoricalCrossentropy, ["from_logits", "label_smoothing", "axis", *tail]),
        (losses.SparseCategoricalCrossentropy, ["from_logits", "ignore_class", "reduction", "axis", "name", "dtype"]),
    ]:
        parameters = inspect.signature(cls).parameters
        assert list(parameters) == names
        assert parameters["reduction"].default == "sum_over_batch_size"
        assert parameters["name"].default == cls.kind


def test_config_round_trip_and_repr():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum", name="mine")
    same = losses.SparseCategoricalCrossentropy.from_config(loss.get_config())
    assert same.get_config() == loss.get_config()
    assert (same.ignore_class, same.from_logits, same.reduction, same.name) == (-1, True, "sum", "mine")
    assert repr(same) == (
        "SparseCategoricalCrossentropy(name='mine', reduction='sum', dtype=None, from_logits=True, ignore_class=-1)"
    )


def test_get():
    for cls in losses.CLASSES:
        for identifier in (cls.kind, cls.__name__, cls):
            assert type(losses.get(identifier)) is cls
    for short, cls in (("mse", losses.MeanSquaredError), ("MAE", losses.MeanAbsoluteError)):
        assert type(losses.get(short)) is cls
    loss = losses.MeanSquaredError()
    assert losses.get(loss) is loss
    with pytest.raises(ValueError, match="loss: expected one of .*mse.*received 'huber'"):
        losses.get("huber")
    with pytest.raises(TypeError, match="loss: expected a name or a Loss, received int"):
        losses.get(3)


def test_on_logits_is_the_same_loss_without_the_clip():
    """A model that ends in softmax trains on its logits: the probability is clipped, the logit is not."""
    logits = np.array([[0.0, 200.0]])
    probabilities = np.exp(logits - 200) / np.exp(logits - 200).sum()
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1, reduction="sum")
    assert_close(loss([0], probabilities), -np.log(1e-7), k=2**30)
    on_logits = loss.on_logits()
    assert_close(on_logits([0], logits), 200.0)
    assert (loss.from_logits, on_logits.from_logits) == (False, True)
    assert (on_logits.ignore_class, on_logits.reduction) == (-1, "sum")
    assert losses.CategoricalCrossentropy.activation == "softmax"
    assert losses.BinaryCrossentropy.activation == "sigmoid"
    assert losses.MeanSquaredError.activation is None
    with pytest.raises(ValueError, match="mean_squared_error: expected a cross-entropy"):
        losses.MeanSquaredError().on_logits()


def test_the_mask_of_the_predictions_counts_unless_one_is_given():
    y_true, y_pred, mask = data()
    carrier = y_pred.view(Carrier)
    carrier.mask = mask
    loss = losses.MeanSquaredError()
    assert loss(y_true, carrier) == loss(y_true, y_pred, mask=mask)
    value, d_pred = loss.value_and_grad(y_true, carrier)
    assert type(d_pred) is np.ndarray
    assert (d_pred[~mask] == 0).all()
    other = np.ones((B, T), bool)
    assert loss(y_true, carrier, mask=other) == loss(y_true, y_pred)
    carrier.mask = None
    assert loss(y_true, carrier) == loss(y_true, y_pred)
    with pytest.raises(TypeError, match="y_pred: .*numpy.ma.*opposite"):
        loss(y_true, np.ma.masked_array(y_pred))


def test_dtype():
    y_true, y_pred, _ = data()
    assert losses.MeanSquaredError().value_and_grad(y_true, y_pred)[1].dtype == np.float64
    assert losses.MeanSquaredError(dtype="float32").value_and_grad(y_true, y_pred)[1].dtype == np.float32
    assert isinstance(losses.MeanSquaredError()(y_true, y_pred.astype(np.float32)), float)
    for wrong in ("float16", "int32"):
        with pytest.raises(ValueError, match=f"dtype: expected float32 or float64, received '{wrong}'"):
            losses.MeanSquaredError(dtype=wrong)


def test_bad_options_are_refused_when_the_loss_is_made():
    with pytest.raises(ValueError, match="reduction: expected one of"):
        losses.MeanSquaredError(reduction="average")
    with pytest.raises(ValueError, match="label_smoothing: expected a number"):
        losses.BinaryCrossentropy(label_smoothing=2)
    with pytest.raises(TypeError, match="ignore_class: expected an integer"):
        losses.SparseCategoricalCrossentropy(ignore_class="void")
    with pytest.raises(ValueError, match="axis: expected -1"):
        losses.CategoricalCrossentropy(axis=1)


# ---- epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_the_loss_of_an_epoch_does_not_depend_on_the_batch_size(reduction):
    y_true, y_pred, mask = data()
    rows = np.random.default_rng(2).uniform(0.1, 2, B)
    loss = losses.MeanSquaredError(reduction=reduction)
    for size in (1, 2, 3, B):
        total = divisor = 0.0
        for i in range(0, B, size):
            s = slice(i, i + size)
            part = loss.sums(y_true[s], y_pred[s], sample_weight=rows[s], mask=mask[s])
            total, divisor = total + part[0], divisor + part[1]
        assert_close(total / divisor, loss(y_true, y_pred, rows, mask), k=16)


# ---- Ragged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight", "sum", "none"])
@pytest.mark.parametrize("cls", losses.CLASSES)
def test_ragged_is_the_padded_batch_to_the_bit(cls, reduction):
    y_true, y_pred, mask = data()
    y_true = targets_for(cls, y_true)
    options = {"from_logits": True} if cls.kind.endswith("crossentropy") else {}
    loss = cls(reduction=reduction, **options)
    rng = np.random.default_rng(3)
    rows, steps = rng.uniform(0.1, 2, B), rng.uniform(0.1, 2, (B, T))
    ragged_true, ragged_pred = Ragged.from_padded(y_true, mask), Ragged.from_padded(y_pred, mask)
    holes = rng.random((B, T)) < 0.7
    for weight, ragged_weight in [
        (None, None),
        (0.5, 0.5),
        (rows, rows),
        (rows[:, None], rows[:, None]),
        (steps, Ragged.from_padded(steps, mask)),
    ]:
        for step_mask, ragged_mask in [
            (mask, None),
            (mask & holes, holes[mask]),
            (mask & holes, Ragged.from_padded(holes, mask)),
        ]:
            expected, expected_d_pred = loss.value_and_grad(y_true, y_pred, weight, step_mask)
            for target in (ragged_true, ragged_true.values):
                value, d_pred = loss.value_and_grad(target, ragged_pred, ragged_weight, ragged_mask)
                if reduction == "none":
                    np.testing.assert_array_equal(value.offsets, ragged_pred.offsets)
                    value, expected_value = value.values, expected[mask]
                else:
                    expected_value = expected
                np.testing.assert_array_equal(value, expected_value)
                np.testing.assert_array_equal(d_pred.offsets, ragged_pred.offsets)
                np.testing.assert_array_equal(d_pred.values, expected_d_pred[mask])


def test_ragged_row_weights_are_rows_also_when_there_are_as_many_steps_as_rows():
    pred = Ragged(np.array([[1.0], [2.0], [3.0]]), [0, 0, 1, 3])  # three rows, three steps, but not one each
    loss = losses.MeanSquaredError(reduction="none")
    value = loss(np.zeros((3, 1)), pred, sample_weight=[1.0, 10.0, 100.0])
    assert_close(value.values, [10.0, 400.0, 900.0])


def test_ragged_bad_input():
    pred = Ragged(np.zeros((3, 1)), [0, 1, 3])
    loss = losses.MeanSquaredError()
    with pytest.raises(ValueError, match="y_true: expected the offsets of y_pred"):
        loss(Ragged(np.zeros((3, 1)), [0, 2, 3]), pred)
    with pytest.raises(ValueError, match=r"sample_weight: expected \(2,\) for the rows or a Ragged.*received \(3,\)"):
        loss(np.zeros((3, 1)), pred, sample_weight=np.ones(3))
    with pytest.raises(TypeError, match="y_true: expected an array, as y_pred is one, received a Ragged"):
        loss(pred, np.zeros((3, 1)))
    with pytest.raises(ValueError, match="mask: expected shape"):
        loss(np.zeros((3, 1)), pred, mask=np.ones(2))
    with pytest.raises(ValueError, match="y_true: expected shape"):
        loss(np.zeros((2, 2, 1)), pred)


def test_empty_ragged():
    empty = Ragged(np.zeros((0, K)), [0, 0, 0])
    value, d_pred = losses.MeanSquaredError().value_and_grad(empty, empty)
    assert value == 0 and d_pred.values.shape == (0, K) and len(d_pred) == 2


def test_the_mask_of_a_ragged_layer_output_is_used():
    from fastmask.layers.masked import with_mask
    from fastmask.ragged import Ragged

    y_pred = Ragged(np.array([[1.0], [np.nan], [3.0]]), [0, 2, 3])
    y_true = y_pred.with_values(np.zeros((3, 1)))
    loss = losses.MeanSquaredError()
    assert loss(y_true, with_mask(y_pred, np.array([True, False, True]))) == 5.0
