"""The loss classes: Keras' names and arguments, carried masks, Ragged, sums for epochs. Values: test_loss.py."""

import inspect

import numpy as np
import pytest

from fastmask import losses
from fastmask.ops.loss import REDUCTIONS, loss_terms, loss_value_and_grad
from fastmask.ragged import Ragged
from fastmask.reference.loss import weighted_masked_objective
from fastmask.registry import register_serializable
from helpers import assert_close, assert_doctests, assert_gradient

B, T, K = 4, 6, 3


class Carrier(np.ndarray):
    """Stands for the eager output of a layer: an ndarray with a mask."""

    mask = None


def data(seed=0):
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.normal(size=(B, T, K)), rng.uniform(0.1, 2, size=(B, T, K))
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
    for reduction in REDUCTIONS:
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
        (losses.Huber, ["delta", *tail]),
        (losses.CosineSimilarity, ["axis", *tail]),
        (losses.Poisson, tail),
        (losses.BinaryCrossentropy, ["from_logits", "label_smoothing", "axis", *tail]),
        (losses.CategoricalCrossentropy, ["from_logits", "label_smoothing", "axis", *tail]),
        (losses.SparseCategoricalCrossentropy, ["from_logits", "ignore_class", "reduction", "axis", "name", "dtype"]),
    ]:
        parameters = inspect.signature(cls).parameters
        assert list(parameters) == names
        assert parameters["reduction"].default == "sum_over_batch_size"
        assert parameters["name"].default == ("huber_loss" if cls is losses.Huber else cls.kind)
    assert list(inspect.signature(losses.Loss).parameters) == ["name", "reduction", "dtype"]


def test_config_round_trip_and_repr():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum", name="mine")
    same = losses.SparseCategoricalCrossentropy.from_config(loss.get_config())
    assert same.get_config() == loss.get_config()
    assert (same.ignore_class, same.from_logits, same.reduction, same.name) == (-1, True, "sum", "mine")
    assert repr(same) == (
        "SparseCategoricalCrossentropy(name='mine', reduction='sum', from_logits=True, ignore_class=-1)"
    )


def test_get():
    for cls in losses.CLASSES:
        for identifier in (cls.kind, cls.__name__, cls):
            assert type(losses.get(identifier)) is cls
    for short, cls in (("mse", losses.MeanSquaredError), ("MAE", losses.MeanAbsoluteError)):
        assert type(losses.get(short)) is cls
    for name in ("huber", "Huber", "kld", "KLD", "mape", "MSLE", "poisson", "log_cosh", "cosine_similarity", "hinge"):
        assert isinstance(losses.get(name), losses.Loss)
    loss = losses.MeanSquaredError()
    assert losses.get(loss) is loss
    assert losses.get({"class_name": "Huber", "config": {"delta": 2.0}}).delta == 2.0
    for wrong in ("focal", 3, dict, None):
        with pytest.raises(ValueError, match=f"loss: expected one of .*mse.*received {wrong!r}"):
            losses.get(wrong)


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
    for cls in (losses.CategoricalCrossentropy, losses.CosineSimilarity):
        with pytest.raises(ValueError, match="axis: expected -1"):
            cls(axis=1)
    with pytest.raises(ValueError, match="delta: expected a number above 0, received -1"):
        losses.Huber(-1)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        losses.MeanSquaredError(delta=1.0)


# ---- epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "weighted_masked_objective"])
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


def test_weighted_masked_objective():
    """The formula of Keras 1 to 2.2; a Ragged counts the rows whose weight is not 0, as the padded batch does."""
    y_true, y_pred, mask = data()
    rows = np.array([0.0, 1.0, 2.0, 0.5])
    loss = losses.MeanSquaredError(reduction="weighted_masked_objective")
    values = losses.MeanSquaredError(reduction="none")(y_true, y_pred)
    expected = weighted_masked_objective(values, rows, mask)
    assert_close(loss(y_true, y_pred, rows, mask), expected, k=16)
    total, divisor = loss.sums(y_true, y_pred, rows, mask)
    assert_close(divisor, (mask.sum() + B * T * 1e-7) * 0.75, k=4)
    assert_close(total / divisor, expected, k=16)
    ragged = [Ragged.from_padded(a, mask) for a in (y_true, y_pred)]
    np.testing.assert_allclose(loss(*ragged, rows), expected, rtol=1e-6)  # has no masked steps to add 1e-7 for
    _, d_pred = loss.value_and_grad(y_true, y_pred, rows, mask)
    assert_gradient(lambda: loss(y_true, y_pred, rows, mask), y_pred, d_pred)


# ---- losses of one's own ---------------------------------------------------------------------------------------------


@register_serializable("tests")
class PowerLoss(losses.Loss):
    """Mean of |u|^p: with p = 2 the squared error. Keeps what it was shown."""

    def __init__(self, power=2, name="power", reduction="sum_over_batch_size"):
        super().__init__(name, reduction)
        self.power, self.shown = power, []

    def call(self, y_true, y_pred):
        self.shown.append((y_true, y_pred))
        return np.mean(np.abs(y_pred - y_true) ** self.power, axis=-1)

    def gradient(self, y_true, y_pred):
        u = y_pred - y_true
        return self.power * np.sign(u) * np.abs(u) ** (self.power - 1) / y_pred.shape[-1]

    def get_config(self):
        return {**super().get_config(), "power": self.power}


class ValueOnly(losses.Loss):
    def call(self, y_true, y_pred):
        return np.mean(np.abs(y_pred - y_true), axis=-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_of_ones_own_is_masked_weighted_and_reduced_as_ours(reduction, dtype):
    y_true, y_pred, mask = data()
    y_pred = y_pred.astype(dtype)
    rng = np.random.default_rng(4)
    rows, steps = rng.uniform(0.1, 2, B), rng.uniform(0.1, 2, (B, T))
    rows[2] = steps[0, 0] = 0
    mine, ours = PowerLoss(reduction=reduction), losses.MeanSquaredError(reduction=reduction)
    bad_true, bad_pred = np.where(mask[..., None], y_true, np.nan), np.where(mask[..., None], y_pred, dtype(np.inf))
    for weight in (None, 0.5, rows, steps):
        for step_mask in (None, mask, np.zeros((B, T), bool)):
            value, d_pred = ours.value_and_grad(y_true, y_pred, weight, step_mask)
            got, got_d_pred = mine.value_and_grad(y_true, y_pred, weight, step_mask)
            assert_close(got, value, dtype, k=16)
            assert_close(got_d_pred, d_pred, dtype, k=16)
            assert got_d_pred.dtype == dtype
            assert_close(
                mine.sums(y_true, y_pred, weight, step_mask), ours.sums(y_true, y_pred, weight, step_mask), dtype
            )
        mine.shown.clear()
        clean = mine.value_and_grad(y_true, y_pred, weight, mask)
        spoiled = mine.value_and_grad(bad_true, bad_pred, weight, mask)
        for a, b in zip(spoiled, clean, strict=True):
            np.testing.assert_array_equal(a, b)
        counts = mask if np.ndim(weight) == 0 else mask & (weight.reshape(B, -1) != 0)
        for true, pred in mine.shown:  # nothing else is ever seen
            assert true.shape == pred.shape == (np.count_nonzero(counts), K)
            assert true.dtype == pred.dtype == dtype and np.isfinite(true).all() and np.isfinite(pred).all()
        ragged = [Ragged.from_padded(a, mask) for a in (y_true, y_pred)]
        ragged_weight = Ragged.from_padded(weight, mask) if np.ndim(weight) == 2 else weight
        value, d_pred = mine.value_and_grad(*ragged, ragged_weight)
        tolerance = {"rtol": 1e-6} if reduction == "weighted_masked_objective" else {"rtol": 0}
        if reduction in ("none", None):
            value, clean = value.values, (clean[0][mask], clean[1])
        if np.ndim(weight) < 2 or reduction != "weighted_masked_objective":
            np.testing.assert_allclose(value, clean[0], **tolerance)
            np.testing.assert_allclose(d_pred.values, clean[1][mask], **tolerance)


def test_the_gradient_of_ones_own_loss_is_that_of_the_value():
    y_true, y_pred, mask = data()
    loss = PowerLoss(3)
    _, d_pred = loss.value_and_grad(y_true, y_pred, mask=mask)
    assert_gradient(lambda: loss(y_true, y_pred, mask=mask), y_pred, d_pred)


def test_a_loss_without_gradient_evaluates_only():
    y_true, y_pred, mask = data()
    loss = ValueOnly()
    assert loss.name == "value_only"
    assert_close(loss(y_true, y_pred, mask=mask), losses.MeanAbsoluteError()(y_true, y_pred, mask=mask))
    assert loss.sums(y_true, y_pred)[1] == B * T
    for method in (loss.value_and_grad, loss.sums_and_grad):
        with pytest.raises(NotImplementedError, match=r"value_only: ValueOnly has no gradient\(y_true, y_pred\)"):
            method(y_true, y_pred)
    with pytest.raises(NotImplementedError, match="loss: Loss has no call"):
        losses.Loss()(y_true, y_pred)


def test_a_loss_of_ones_own_is_never_called_without_a_step():
    class Fails(losses.Loss):
        def call(self, y_true, y_pred):
            raise AssertionError

        gradient = call

    for shape in [(0, 3, 2), (2, 0, 2), (2, 3, 2)]:
        value, d_pred = Fails().value_and_grad(np.zeros(shape), np.ones(shape), mask=np.zeros(shape[:2], bool))
        assert value == 0 and d_pred.shape == shape and not d_pred.any()


def test_targets_of_a_loss_of_ones_own_may_have_any_shape():
    """Class numbers (B,T), several numbers a step, and for K = 1 no last axis."""
    seen = []

    class Spy(losses.Loss):
        def call(self, y_true, y_pred):
            seen.append(y_true)
            return np.zeros(len(y_pred))

    y_pred = np.zeros((2, 3, 4), np.float32)
    for shape, expected in [((2, 3), (6,)), ((2, 3, 1), (6, 1)), ((2, 3, 5, 7), (6, 5, 7)), ((2, 3, 4), (6, 4))]:
        Spy()(np.ones(shape, np.int64), y_pred)
        assert seen[-1].shape == expected and seen[-1].dtype == np.float32
    Spy()(np.ones((2, 3)), y_pred[..., :1])
    assert seen[-1].shape == (6, 1)
    with pytest.raises(ValueError, match=r"y_true: expected shape \(2, 3\) or with further axes, received \(3, 2\)"):
        Spy()(np.ones((3, 2)), y_pred)


@pytest.mark.parametrize(
    ("call", "gradient", "error", "message"),
    [
        (lambda y, p: np.mean(p), None, ValueError, r"call: expected a result of shape \(24,\), received \(\)"),
        (lambda y, p: p, None, ValueError, r"call: expected a result of shape \(24,\), received \(24, 3\)"),
        (lambda y, p: None, None, TypeError, "call: expected numbers, received dtype object"),
        (lambda y, p: p[:, 0], lambda y, p: p[:, 0], ValueError, r"gradient: .* \(24, 3\), received \(24,\)"),
    ],
)
def test_what_ones_own_functions_return_is_checked(call, gradient, error, message):
    def function(y_true, y_pred):
        return call(y_true, y_pred)

    if gradient is not None:
        function.gradient = gradient
    y_true, y_pred, _ = data()
    loss = losses.get(function)
    with pytest.raises(error, match=message):
        loss(y_true, y_pred) if gradient is None else loss.value_and_grad(y_true, y_pred)


def test_a_plain_function_is_a_loss():
    def quartic(y_true, y_pred, scale=1):
        return scale * np.mean((y_pred - y_true) ** 4, axis=-1)

    y_true, y_pred, mask = data()
    loss = losses.get(quartic)
    assert isinstance(loss, losses.LossFunctionWrapper) and loss.name == "quartic"
    assert_close(loss(y_true, y_pred, mask=mask), np.mean((y_pred - y_true)[mask] ** 4))
    with pytest.raises(NotImplementedError, match="quartic: the function has no attribute `gradient`"):
        loss.sums_and_grad(y_true, y_pred)
    quartic.gradient = lambda y_true, y_pred, scale=1: scale * 4 * (y_pred - y_true) ** 3 / y_pred.shape[-1]
    loss = losses.LossFunctionWrapper(quartic, reduction="sum", name="mine", scale=2)
    value, d_pred = loss.value_and_grad(y_true, y_pred, mask=mask)
    assert_close(value, 2 * np.sum((y_pred - y_true)[mask] ** 4) / K, k=256)
    assert_gradient(lambda: loss(y_true, y_pred, mask=mask), y_pred, d_pred, k=2**20)
    assert repr(loss) == "LossFunctionWrapper(mine)"
    with pytest.raises(ValueError, match="decorated with register_serializable, received LossFunctionWrapper"):
        losses.serialize(loss)
    with pytest.raises(ValueError, match="mine: a plain function cannot be written down"):
        loss.get_config()


def test_a_loss_of_ones_own_in_a_model():
    """It trains as the loss of its formula does, under the model's mask; without gradient it evaluates."""
    import fastmask as fm

    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(6, 5, 3)), rng.normal(size=(6, 5, 1))
    x[:, 3:] = 0
    x[0] = 0
    y[:, 3:] = np.nan

    def model(loss):
        fm.set_random_seed(1)
        made = fm.Sequential([fm.Input((None, 3)), fm.layers.Masking(), fm.layers.GRU(4, return_sequences=True)])
        made.add(fm.layers.Dense(1))
        made.compile(optimizer="sgd", loss=loss)
        return made

    def squared(y_true, y_pred):
        return np.mean((y_pred - y_true) ** 2, axis=-1)

    expected = model("mse").fit(x, y, batch_size=4, epochs=3, verbose=0, shuffle=False).history["loss"]
    assert expected[2] < expected[0]
    got = model(PowerLoss()).fit(x, y, batch_size=4, epochs=3, verbose=0, shuffle=False).history["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert_close(model(squared).evaluate(x, y), model("mse").evaluate(x, y), np.float32)
    with pytest.raises(NotImplementedError, match="squared: the function has no attribute `gradient`"):
        model(squared).fit(x, y, verbose=0)


def test_a_call_that_would_be_ignored_is_refused():
    with pytest.raises(TypeError, match=r"Doubled.call: expected MeanSquaredError as it is.*subclass of .*Loss"):

        class Doubled(losses.MeanSquaredError):
            def call(self, y_true, y_pred):
                return 2 * np.mean((y_pred - y_true) ** 2, axis=-1)

    class Named(losses.MeanSquaredError):
        def __init__(self):
            super().__init__(name="other")

    assert Named()([[0.0]], [[3.0]]) == 9.0


def test_serialize():
    for cls in losses.CLASSES:
        loss = cls(reduction="sum", name="mine", dtype="float64")
        config = losses.serialize(loss)
        assert config["class_name"] == cls.__name__
        same = losses.deserialize(config)
        assert type(same) is cls and same.get_config() == loss.get_config()
    config = losses.serialize(PowerLoss(3, reduction="sum"))
    assert config == {"class_name": "tests>PowerLoss", "config": {"name": "power", "reduction": "sum", "power": 3}}
    for same in (losses.deserialize(config), losses.get(config)):
        assert type(same) is PowerLoss and (same.power, same.reduction) == (3, "sum")
    with pytest.raises(ValueError, match="loss: expected .* decorated with register_serializable, received ValueOnly"):
        losses.serialize(ValueOnly())
    for name in ("Unknown", "Dense"):  # a layer is no loss
        with pytest.raises(ValueError, match=f"loss: expected the class_name .* registered Loss, received '{name}'"):
            losses.deserialize({"class_name": name, "config": {"units": 1}})


def test_examples():
    assert_doctests(losses)


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
