"""The masked losses: hand values → differences of the float64 reference → the op against the reference."""

import itertools

import numpy as np
import pytest

from fastmask.kernels import _jit
from fastmask.ops.loss import KINDS, REDUCTIONS, loss_terms, loss_value_and_grad
from fastmask.reference import loss as reference
from helpers import assert_close, mask_cases, numerical_gradient

B, T, K = 3, 4, 3
CASES = [
    ("mean_squared_error", {}),
    ("mean_absolute_error", {}),
    ("mean_absolute_percentage_error", {}),
    ("mean_squared_logarithmic_error", {}),
    ("huber", {}),
    ("huber", {"delta": 0.4}),
    ("log_cosh", {}),
    ("cosine_similarity", {}),
    ("binary_crossentropy", {"from_logits": False}),
    ("binary_crossentropy", {"from_logits": False, "label_smoothing": 0.3}),
    ("binary_crossentropy", {"from_logits": True}),
    ("binary_crossentropy", {"from_logits": True, "label_smoothing": 0.3}),
    ("categorical_crossentropy", {"from_logits": False}),
    ("categorical_crossentropy", {"from_logits": False, "label_smoothing": 0.3}),
    ("categorical_crossentropy", {"from_logits": True}),
    ("categorical_crossentropy", {"from_logits": True, "label_smoothing": 0.3}),
    ("sparse_categorical_crossentropy", {"from_logits": False}),
    ("sparse_categorical_crossentropy", {"from_logits": True}),
    ("sparse_categorical_crossentropy", {"from_logits": False, "ignore_class": -1}),
    ("sparse_categorical_crossentropy", {"from_logits": True, "ignore_class": -100}),
    ("sparse_categorical_crossentropy", {"from_logits": True, "ignore_class": 1}),
    ("kl_divergence", {}),
    ("poisson", {}),
    ("hinge", {}),
    ("squared_hinge", {}),
    ("categorical_hinge", {}),
]


def case_id(case):
    kind, options = case
    return "-".join([kind, *(f"{name}={value}" for name, value in options.items())])


def data(kind, options, dtype=np.float64, seed=0, shape=(B, T, K)):
    """Random targets and predictions of the kind the loss expects."""
    rng = np.random.default_rng(seed)
    y_pred = rng.normal(scale=2, size=shape)
    if kind == "kl_divergence" or (kind.endswith("crossentropy") and not options.get("from_logits")):
        y_pred = rng.uniform(0.1, 0.9, size=shape)  # they need not sum to 1
    elif kind in ("poisson", "mean_squared_logarithmic_error"):
        y_pred = rng.uniform(0.1, 3, size=shape)
    if kind == "sparse_categorical_crossentropy":
        y_true = rng.integers(0, shape[-1], shape[:-1])
        if options.get("ignore_class") is not None:
            y_true[rng.random(shape[:-1]) < 0.3] = options["ignore_class"]
    elif kind in ("categorical_crossentropy", "kl_divergence"):
        y_true = rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)
    elif kind in ("binary_crossentropy", "mean_squared_logarithmic_error"):
        y_true = rng.uniform(size=shape).astype(dtype)
    elif kind == "poisson":
        y_true = rng.integers(0, 4, shape).astype(dtype)
    elif kind in ("hinge", "squared_hinge"):
        y_true = rng.choice([-1, 1], shape).astype(dtype)
    elif kind == "categorical_hinge":
        y_true = np.eye(shape[-1], dtype=dtype)[rng.integers(0, shape[-1], shape[:-1])]
    elif kind == "mean_absolute_percentage_error":  # targets near 0 would make it as large as one likes
        y_true = (rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)).astype(dtype)
    else:
        y_true = rng.normal(size=shape).astype(dtype)
    return y_true, y_pred.astype(dtype)


def weight_cases(dtype=np.float64, seed=1):
    """Name -> sample_weight: every shape, with a row and a step of weight 0."""
    rng = np.random.default_rng(seed)
    rows, steps = rng.uniform(0.1, 3, B).astype(dtype), rng.uniform(0.1, 3, (B, T)).astype(dtype)
    rows[1] = 0
    steps[0, 0] = 0
    return {"none": None, "scalar": dtype(0.7), "rows": rows, "steps": steps}


# ---- hand values -----------------------------------------------------------------------------------------------------


def test_hand_values():
    log = np.log
    for kind, options, y_true, y_pred, value, d_pred in [
        ("mean_squared_error", {}, [[1, 2]], [[3.0, 1.0]], (4 + 1) / 2, [[2, -1]]),
        ("mean_absolute_error", {}, [[1, 2, 5, 0]], [[3.0, 1.0, 5.0, 0.5]], 3.5 / 4, [[0.25, -0.25, 0, 0.25]]),
        ("binary_crossentropy", {}, [[1, 0]], [[0.8, 0.4]], -(log(0.8) + log(0.6)) / 2, [[-1 / 1.6, 1 / 1.2]]),
        ("binary_crossentropy", {"from_logits": True}, [[1, 0]], [[0.0, 0.0]], log(2), [[-0.25, 0.25]]),
        (
            "binary_crossentropy",
            {"label_smoothing": 0.5},  # 1 becomes 0.75
            [[1]],
            [[0.5]],
            log(2),
            [[(0.25 - 0.75) / 0.5]],
        ),
        ("categorical_crossentropy", {}, [[0, 1]], [[1.0, 3.0]], -log(0.75), [[1 / 4, 1 / 4 - 1 / 3]]),
        ("categorical_crossentropy", {"from_logits": True}, [[0, 1]], [[0.0, log(3.0)]], -log(0.75), [[0.25, -0.25]]),
        (
            "categorical_crossentropy",
            {"from_logits": True, "label_smoothing": 0.5},  # (0, 1) becomes (0.25, 0.75)
            [[0, 1]],
            [[0.0, log(3.0)]],
            -0.25 * log(0.25) - 0.75 * log(0.75),
            [[0, 0]],
        ),
        ("sparse_categorical_crossentropy", {"from_logits": True}, [1], [[0.0, log(3.0)]], -log(0.75), [[0.25, -0.25]]),
        ("sparse_categorical_crossentropy", {}, [1], [[0.1, 0.3]], -log(0.75), [[2.5, 2.5 - 1 / 0.3]]),
        ("mean_absolute_percentage_error", {}, [[1, -2]], [[3.0, -3.0]], 100 * (2 + 0.5) / 2, [[50, -25]]),
        ("mean_squared_logarithmic_error", {}, [[1, 0]], [[3.0, 0.0]], log(2) ** 2 / 2, [[log(2) / 4, 0]]),
        ("huber", {}, [[0, 0, 0]], [[0.5, 3.0, -2.0]], (0.125 + 2.5 + 1.5) / 3, [[1 / 6, 1 / 3, -1 / 3]]),
        ("huber", {"delta": 2}, [[0]], [[-3.0]], 2 * 3 - 2, [[-2]]),
        ("log_cosh", {}, [[0, 1]], [[log(2), 1.0]], log(1.25) / 2, [[0.3, 0]]),
        ("cosine_similarity", {}, [[4, 3]], [[0.0, 2.0]], -0.6, [[-0.4, 0]]),
        ("kl_divergence", {}, [[0.5, 0.5]], [[0.25, 0.5]], 0.5 * log(2), [[-2, -1]]),
        ("poisson", {}, [[2]], [[1 - 1e-7]], 1 - 1e-7, [[-1]]),
        ("hinge", {}, [[1, -1, 1]], [[0.5, -2.0, -1.0]], (0.5 + 0 + 2) / 3, [[-1 / 3, 0, -1 / 3]]),
        ("hinge", {}, [[1, 0, 1]], [[0.5, -2.0, -1.0]], (0.5 + 0 + 2) / 3, [[-1 / 3, 0, -1 / 3]]),
        ("squared_hinge", {}, [[1, -1, 1]], [[0.5, -2.0, -1.0]], (0.25 + 0 + 4) / 3, [[-1 / 3, 0, -4 / 3]]),
        ("categorical_hinge", {}, [[0, 1, 0]], [[2.0, 1.0, 0.5]], 2 - 1 + 1, [[1, -1, 0]]),
        ("categorical_hinge", {}, [[0, 1, 0]], [[2.0, 1.0, 2.0]], 2 - 1 + 1, [[0.5, -1, 0.5]]),
        ("categorical_hinge", {}, [[0, 1, 0]], [[0.5, 3.0, 1.0]], 0, [[0, 0, 0]]),
    ]:
        got, gradient = loss_value_and_grad(kind, y_true, np.array(y_pred), **options)
        assert_close(got, value, k=8)
        assert_close(gradient, d_pred, k=8)


def test_reductions_by_hand():
    """Errors 1, 2, 3, 4 with step 3 masked; weights 2 and 0.5 for the rows."""
    y_true, y_pred = np.zeros((2, 2, 1)), np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    mask, rows = np.array([[True, True], [False, True]]), np.array([2.0, 0.5])
    for reduction, weight, value, d_pred in [
        ("sum_over_batch_size", None, (1 + 4 + 16) / 3, [[2 / 3, 4 / 3], [0, 8 / 3]]),
        ("sum_over_batch_size", rows, (2 + 8 + 8) / 3, [[4 / 3, 8 / 3], [0, 4 / 3]]),
        ("mean", rows, (2 + 8 + 8) / 3, [[4 / 3, 8 / 3], [0, 4 / 3]]),
        ("mean_with_sample_weight", None, (1 + 4 + 16) / 3, [[2 / 3, 4 / 3], [0, 8 / 3]]),
        ("mean_with_sample_weight", rows, (2 + 8 + 8) / 4.5, [[4 / 4.5, 8 / 4.5], [0, 4 / 4.5]]),
        ("weighted_masked_objective", rows, 18 / (3 + 4e-7), np.array([[4, 8], [0, 4]]) / (3 + 4e-7)),
        ("weighted_masked_objective", rows * [0, 1], 8 / (1.5 + 2e-7), np.array([[0, 0], [0, 4]]) / (1.5 + 2e-7)),
        ("sum", rows, 2 + 8 + 8, [[4, 8], [0, 4]]),
        ("none", rows, [[2, 8], [0, 8]], [[4, 8], [0, 4]]),
        (None, rows, [[2, 8], [0, 8]], [[4, 8], [0, 4]]),
    ]:
        got, gradient = loss_value_and_grad(
            "mean_squared_error", y_true, y_pred, mask=mask, sample_weight=weight, reduction=reduction
        )
        assert_close(got, value, k=8)
        assert_close(gradient[..., 0], d_pred, k=8)


# ---- the gradient is the derivative of the value ---------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_gradient_is_the_derivative(case, reduction):
    kind, options = case
    y_true, y_pred = (np.ascontiguousarray(a[:, :2]) for a in data(kind, options))
    mask = np.array([[True, False], [True, True], [False, True]])
    for i, (name, weight) in enumerate(weight_cases().items()):
        weight = weight[:, :2] if name == "steps" else weight
        arguments = {"mask": (None, mask)[i % 2], "sample_weight": weight, "reduction": reduction, **options}
        for function in (reference.loss_value_and_grad, loss_value_and_grad):

            def value(function=function, arguments=arguments):
                return np.sum(function(kind, y_true, y_pred, want_grad=False, **arguments)[0])

            # The fifth derivative of log p at p = 0.1 is 2.4e6: a step of 1e-3 would leave an error of 1e-7.
            _, d_pred = function(kind, y_true, y_pred, **arguments)
            assert_close(d_pred, numerical_gradient(value, y_pred, h=1e-4), k=2**20)


# ---- the op against the reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [1, 2, 5, 11, 12, 15, 16, 17, 33])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_op_equals_reference(case, units, dtype):
    kind, options = case
    options = dict(options)
    if options.get("ignore_class") == 1 and units == 1:
        options["ignore_class"] = 0
    y_true, y_pred = data(kind, options, dtype, shape=(B, T, units))
    exact = y_pred.astype(np.float64), y_true if kind.startswith("sparse") else y_true.astype(np.float64)
    reductions = itertools.cycle(["mean", "mean_with_sample_weight", "sum", "none"])
    for mask in mask_cases(B, T).values():
        for weight, reduction in zip(weight_cases(dtype).values(), reductions, strict=False):
            arguments = {"mask": mask, "sample_weight": weight, "reduction": reduction, **options}
            value, d_pred = loss_value_and_grad(kind, y_true, y_pred, **arguments)
            expected, expected_d_pred = reference.loss_value_and_grad(kind, exact[1], exact[0], **arguments)
            assert d_pred.dtype == dtype
            assert_close(value, expected, dtype, k=32)
            assert_close(d_pred, expected_d_pred, dtype, k=32)
            assert (d_pred[~mask] == 0).all()
        next(reductions)  # another pairing with the weights for the next mask


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_at_and_beyond_the_clip(dtype):
    """The clip and its zero gradient; its bounds are those of the dtype: in float32 1 - 1e-7 is 1 - 2^-23."""
    low, high = dtype(1e-7), dtype(1 - 1e-7)
    edges = np.array([0, 1, low, high, 5e-8, 1 - 1e-9, -0.5, 2, 0.5, np.inf, -np.inf], dtype)
    y_pred = np.stack(np.meshgrid(edges, edges), axis=-1).reshape(-1, 2)
    for kind in ("binary_crossentropy", "sparse_categorical_crossentropy"):
        for label in (0, 1):
            y_true = np.full(len(y_pred), label) if kind.startswith("sparse") else np.full(y_pred.shape, label)
            got = loss_value_and_grad(kind, y_true, y_pred, reduction="none")
            expected = reference.loss_value_and_grad(kind, y_true, y_pred, reduction="none")
            assert_close(got[0], expected[0], dtype, k=16)
            assert_close(got[1], expected[1], dtype, k=16)
            outside = (y_pred < low) | (y_pred > high)
            assert (got[1][outside] == 0).all()
            assert (got[1][~outside].reshape(-1) != 0).all() or kind.startswith("sparse")
    value, _ = loss_value_and_grad("binary_crossentropy", [[1.0]], np.zeros((1, 1), dtype))
    assert_close(value, -np.log(1e-7), dtype, k=8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_extreme_logits(kind, dtype):
    """±1e4 give the linear loss and a 0/1 gradient, nothing overflows, a tiny loss keeps its relative accuracy."""
    y_pred = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [0, 0], [88.8, -88.8], [709.9, -709.9]], dtype)
    sparse = kind.startswith("sparse")
    y_true = np.zeros(len(y_pred), int) if sparse else np.tile([1.0, 0.0], (len(y_pred), 1))
    with np.errstate(all="raise"):
        value, d_pred = loss_value_and_grad(kind, y_true, y_pred, from_logits=True, reduction="none")
    assert np.isfinite(value).all()
    if kind == "binary_crossentropy":
        assert_close(value[:4], [0, 1e4, 5e3, np.log(2)], dtype, k=8)
        assert_close(d_pred[:4], [[0, 0], [-0.5, 0.5], [0, 0.5], [-0.25, 0.25]], dtype, k=8)
        value, d_pred = loss_value_and_grad(kind, [[1.0]], np.array([[15.0]], dtype), from_logits=True)
        np.testing.assert_allclose(value, np.log1p(np.exp(-15.0)), rtol=16 * np.finfo(dtype).eps)
        np.testing.assert_allclose(d_pred[0, 0], -1 / (1 + np.exp(15.0)), rtol=16 * np.finfo(dtype).eps)
    else:
        assert_close(value[:4], [0, 2e4, np.log(2), np.log(2)], dtype, k=8)
        assert_close(d_pred[:4], [[0, 0], [-1, 1], [-0.5, 0.5], [-0.5, 0.5]], dtype, k=8)


EXTREMES = [0, 1, -1, 1e-30, 1e-8, -1e-8, 1e4, -1e4, 1e18, -1e18, 88.8, -709.9]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [2, 13])  # below and above WIDE
@pytest.mark.parametrize(
    "kind", [kind for kind, _ in CASES if not kind.endswith("crossentropy")], ids=lambda kind: kind
)
def test_extreme_predictions(kind, units, dtype):
    """Every pair of extremes, as prediction and as target where the loss takes such: what the formulas say."""
    extremes = np.array(EXTREMES, dtype)
    y_pred = np.stack(np.meshgrid(extremes, extremes), axis=-1).reshape(-1, 2)
    y_true, _ = data(kind, {}, dtype, shape=y_pred.shape)
    if kind in ("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "huber", "log_cosh"):
        y_true[::3] = np.random.default_rng(1).choice(extremes, y_true[::3].shape)
    y_pred, y_true = (np.concatenate([a] + [a[:, :1]] * (units - 2), axis=-1) for a in (y_pred, y_true))
    got = loss_terms(kind, y_true, y_pred, reduction="none")
    expected = reference.loss_terms(kind, y_true, y_pred, reduction="none")
    for a, b in ((got.steps, expected.steps), (got.d_pred, expected.d_pred)):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        scale = np.where(np.isfinite(b), np.maximum(np.abs(b), 1), 1)
        assert_close(np.where(np.isnan(a), 0, a / scale), np.where(np.isnan(b), 0, b / scale), dtype, k=64)
    if kind != "poisson":  # the logarithm of a negative prediction
        assert not np.isnan(got.steps).any() and np.isfinite(got.d_pred).all()


def test_small_differences_keep_their_gradient():
    """log cosh is as inexact near 0 as in Keras, its gradient is not; the cosine of tiny vectors is that of any."""
    tiny = np.float32([[1e-30, -1e-12, 3e-7, 1e-3]])
    _, d_pred = loss_value_and_grad("log_cosh", np.zeros_like(tiny), tiny)
    np.testing.assert_allclose(d_pred, np.tanh(tiny.astype(float)) / 4, rtol=1e-6)
    y_true, y_pred = np.array([[3.0, 4.0]]), np.array([[0.6, 0.8]])
    for scale in (1e-6, 1.0, 1e100):
        value, d_pred = loss_value_and_grad("cosine_similarity", y_true, y_pred * scale)
        assert_close(value, -1, k=8)
        assert_close(d_pred * scale, [[0, 0]], k=8)
    value, d_pred = loss_value_and_grad("cosine_similarity", y_true, y_pred * 0)  # the length counts as 1e-7
    assert value == 0
    np.testing.assert_allclose(d_pred, [[-0.6e7, -0.8e7]], rtol=1e-12)
    assert loss_value_and_grad("cosine_similarity", y_true * 0, y_pred)[0] == 0


def test_targets_of_a_hinge_are_signs_if_those_that_count_are_binary():
    """0 and 1 stand for -1 and 1. Padding does not decide it, nor does a step of weight 0; Keras asks all of them."""
    y_pred = np.random.default_rng(10).normal(size=(2, 3, 2))
    y_true = np.random.default_rng(11).integers(0, 2, y_pred.shape).astype(float)
    mask = np.array([[True, True, False], [True, False, False]])
    for kind in ("hinge", "squared_hinge"):
        expected = loss_terms(kind, 2 * y_true - 1, y_pred, mask=mask)
        for padding in (-1.0, 7.0, np.nan):
            padded = np.where(mask[..., None], y_true, padding)
            for options in ({"mask": mask}, {"sample_weight": mask.astype(float), "reduction": "sum"}):
                got = loss_terms(kind, padded, y_pred, **options)
                assert got.total == expected.total
        other = y_true.copy()
        other[0, 0, 0] = 0.5  # not binary: as they stand
        assert loss_terms(kind, other, y_pred).total == pytest.approx(
            sum((np.maximum(1 - other * y_pred, 0) ** (1 + (kind == "squared_hinge"))).mean(axis=-1).ravel())
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [3, 20])  # below and above WIDE
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_nan_in_valid_data_stays_in_its_step(case, dtype, units):
    kind, options = case
    y_true, y_pred = data(kind, {**options, "ignore_class": None}, dtype, shape=(B, T, units))
    y_pred[1, 2, units - 2] = np.nan
    value, d_pred = loss_value_and_grad(kind, y_true, y_pred, reduction="none", **{**options, "ignore_class": None})
    hit = np.zeros((B, T), bool)
    hit[1, 2] = True
    np.testing.assert_array_equal(np.isnan(value), hit)
    np.testing.assert_array_equal(np.isnan(d_pred).any(axis=-1), hit)
    assert np.isnan(d_pred[1, 2, units - 2])


# ---- the mask rule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("units", [3, 20])  # below and above WIDE
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_nothing_under_a_mask_or_a_zero_weight_leaks(case, garbage, dtype, units):
    kind, options = case
    y_true, y_pred = data(kind, options, dtype, shape=(B, T, units))
    for i, (name, mask) in enumerate(mask_cases(B, T).items()):
        for j, weight in enumerate(weight_cases(dtype).values()):
            reduction = ("mean", "mean_with_sample_weight", "sum", "none")[(i + j) % 4]
            clean = loss_terms(kind, y_true, y_pred, mask=mask, sample_weight=weight, reduction=reduction, **options)
            dead = ~mask
            bad_true, bad_pred, bad_weight = y_true.astype(np.float64), y_pred.copy(), weight
            if np.shape(weight) == (B, T):
                bad_weight = weight.copy()
                bad_weight[dead] = garbage
            if weight is not None:
                step_weight = np.reshape(weight, np.shape(weight) + (1,) * (2 - np.ndim(weight)))
                dead = dead | np.broadcast_to(step_weight == 0, (B, T))
            bad_pred[dead] = garbage
            if options.get("ignore_class") is not None:  # an ignored target of weight 0 is what it is
                dead &= ~mask | (y_true != options["ignore_class"])
            bad_true[dead] = garbage
            spoiled = loss_terms(
                kind, bad_true, bad_pred, mask=mask, sample_weight=bad_weight, reduction=reduction, **options
            )
            for got, expected in zip(spoiled, clean, strict=True):
                np.testing.assert_array_equal(got, expected, err_msg=name)
            assert (spoiled.d_pred[dead] == 0).all()
            assert (spoiled.steps[dead] == 0).all()


@pytest.mark.parametrize("kind", ["mean_squared_error", "log_cosh"])
def test_weighted_masked_objective_is_that_of_keras_2(kind):
    """Against the function of that name, transcribed in reference/loss.py. Weights count as they were given, masked
    steps or not."""
    y_true, y_pred = data(kind, {})
    values = loss_value_and_grad(kind, y_true, y_pred, reduction="none")[0]
    for mask in [None, *mask_cases(B, T).values()]:
        for name, weight in weight_cases().items():
            terms = loss_terms(
                kind, y_true, y_pred, mask=mask, sample_weight=weight, reduction="weighted_masked_objective"
            )
            weights = np.full(B, weight) if name == "scalar" else weight
            assert_close(terms.total / terms.divisor, reference.weighted_masked_objective(values, weights, mask), k=16)
    zeros = np.zeros(B)  # 0 / 0 there
    assert loss_value_and_grad(
        kind, y_true, y_pred, sample_weight=zeros, reduction="weighted_masked_objective", want_grad=False
    ) == (0.0, None)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_masked_gives_zero(kind, reduction):
    y_true, y_pred = data(kind, {})
    y_pred[:] = np.nan
    for shape in [(B, T), (0, T), (B, 0)]:
        true, pred = np.zeros((*shape, K)), np.full((*shape, K), np.nan)
        if kind.startswith("sparse"):
            true = true[..., 0]
        value, d_pred = loss_value_and_grad(kind, true, pred, mask=np.zeros(shape, bool), reduction=reduction)
        np.testing.assert_array_equal(value, np.zeros(shape) if reduction in ("none", None) else 0)
        np.testing.assert_array_equal(d_pred, np.zeros(pred.shape))
    value, d_pred = loss_value_and_grad(kind, y_true, y_pred, sample_weight=np.zeros(B), reduction=reduction)
    assert np.sum(value) == 0 and not d_pred.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [3, 20])  # below and above WIDE
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_padding_changes_no_bit(case, dtype, units):
    """Alone, padded on either side, with holes, flat: the totals and gradients are the same bits."""
    kind, options = case
    y_true, y_pred = data(kind, options, dtype, shape=(1, 37, units))
    weight = np.random.default_rng(3).uniform(0.1, 2, (1, 37)).astype(dtype)
    alone = loss_terms(kind, y_true, y_pred, sample_weight=weight, **options)
    at = np.sort(np.random.default_rng(4).permutation(90)[:37])
    for places in (np.arange(37), 53 + np.arange(37), at):
        mask = np.zeros((1, 90), bool)
        mask[0, places] = True
        true = np.full((1, 90, *y_true.shape[2:]), 9.0)
        pred, padded_weight = np.full((1, 90, units), np.nan, dtype), np.full((1, 90), 7.0, dtype)
        true[mask], pred[mask], padded_weight[mask] = y_true[0], y_pred[0], weight[0]
        padded = loss_terms(kind, true, pred, mask=mask, sample_weight=padded_weight, **options)
        assert padded.total == alone.total and padded.divisor == alone.divisor
        np.testing.assert_array_equal(padded.steps[mask], alone.steps[0])
        np.testing.assert_array_equal(padded.d_pred[mask], alone.d_pred[0])
    flat_true = y_true.reshape(37, *y_true.shape[2:])
    flat = loss_terms(kind, flat_true, y_pred[0], sample_weight=weight[0], **options)
    assert flat.total == alone.total
    np.testing.assert_array_equal(flat.d_pred, alone.d_pred[0])


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_relations(case):
    """All-True = no mask; weights multiply; halves sum; steps are independent of each other."""
    kind, options = case
    y_true, y_pred = data(kind, options)
    mask = np.random.default_rng(5).random((B, T)) < 0.6
    weight = np.random.default_rng(6).uniform(0.1, 2, (B, T))
    for reduction in REDUCTIONS:
        plain = loss_value_and_grad(kind, y_true, y_pred, reduction=reduction, **options)
        all_true = loss_value_and_grad(kind, y_true, y_pred, mask=np.ones((B, T)), reduction=reduction, **options)
        for a, b in zip(plain, all_true, strict=True):
            if reduction == "weighted_masked_objective":  # has its epsilon under a mask only
                np.testing.assert_allclose(a, b, rtol=1.1e-7)
            else:
                np.testing.assert_array_equal(a, b)

    arguments = {"mask": mask, "reduction": "sum", **options}
    one = loss_terms(kind, y_true, y_pred, sample_weight=weight, **arguments)
    three = loss_terms(kind, y_true, y_pred, sample_weight=3 * weight, **arguments)
    assert_close(three.total, 3 * one.total, k=32)
    assert_close(three.d_pred, 3 * one.d_pred, k=32)
    unweighted = loss_terms(kind, y_true, y_pred, **arguments)
    assert_close(one.steps, weight * unweighted.steps, k=32)

    halves = [
        loss_terms(kind, y_true[s], y_pred[s], mask=mask[s], sample_weight=weight[s], reduction="mean", **options)
        for s in (slice(0, 1), slice(1, B))
    ]
    whole = loss_terms(kind, y_true, y_pred, mask=mask, sample_weight=weight, reduction="mean", **options)
    assert_close(halves[0].total + halves[1].total, whole.total, k=32)
    assert halves[0].divisor + halves[1].divisor == whole.divisor
    np.testing.assert_array_equal(np.concatenate([half.steps for half in halves]), whole.steps)


def test_ignore_class_is_a_mask():
    for ignored in (-1, -100, 1, 255):
        y_true, y_pred = data("sparse_categorical_crossentropy", {"from_logits": True})
        where = np.random.default_rng(7).random((B, T)) < 0.4
        y_true[where] = ignored
        if ignored == 1:
            where = y_true == 1
        masked_true = np.where(where, 0, y_true)
        for dtype in (np.int64, np.int32, np.float32):
            got = loss_terms(
                "sparse_categorical_crossentropy",
                y_true.astype(dtype),
                y_pred,
                from_logits=True,
                ignore_class=ignored,
            )
            expected = loss_terms("sparse_categorical_crossentropy", masked_true, y_pred, from_logits=True, mask=~where)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b)
    unsigned = np.array([[255, 1]], np.uint8)
    value, _ = loss_value_and_grad(
        "sparse_categorical_crossentropy", unsigned, np.zeros((1, 2, 2)), from_logits=True, ignore_class=255
    )
    assert_close(value, np.log(2), k=4)


def test_row_weights_weigh_rows_also_when_rows_equal_steps():
    y_true, y_pred = np.zeros((3, 3, 1)), np.arange(9.0).reshape(3, 3, 1)
    rows = np.array([1.0, 10.0, 100.0])
    for weight in (rows, rows[:, None]):
        terms = loss_terms("mean_squared_error", y_true, y_pred, sample_weight=weight)
        assert_close(terms.steps, np.arange(9.0).reshape(3, 3) ** 2 * rows[:, None], k=4)
    terms = loss_terms("mean_squared_error", y_true, y_pred, sample_weight=rows[None, :])
    assert_close(terms.steps, np.arange(9.0).reshape(3, 3) ** 2 * rows, k=4)


# ---- forms of input --------------------------------------------------------------------------------------------------


def test_accepted_forms():
    """Read-only, strided, lists, masks and targets with an extra axis or another dtype: the same bits."""
    rng = np.random.default_rng(8)
    wide_true, wide_pred = rng.normal(size=(B, 2 * T, 1)), rng.normal(size=(B, 2 * T, 1))
    wide_true.flags.writeable = wide_pred.flags.writeable = False
    y_true, y_pred = wide_true[:, ::2], wide_pred[:, ::2]
    mask = rng.random((B, T)) < 0.6
    expected = loss_terms("mean_squared_error", y_true.copy(), y_pred.copy(), mask=mask)
    for true in (y_true, y_true[..., 0], y_true.tolist(), np.asfortranarray(y_true)):
        for step_mask in (mask, mask[..., None], mask * 0.3, mask.tolist(), np.where(mask, np.nan, 0)):
            got = loss_terms("mean_squared_error", true, y_pred, mask=step_mask)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b)
    one_row = loss_terms("mean_squared_error", y_true, y_pred, mask=mask[:1])
    same = loss_terms("mean_squared_error", y_true, y_pred, mask=np.tile(mask[:1], (B, 1)))
    assert one_row.total == same.total
    labels = rng.integers(0, 2, (B, T))
    logits = rng.normal(size=(B, T, 2))
    for form in (labels, labels[..., None], labels.astype(np.float32), labels.astype(np.uint8), labels.astype(bool)):
        got = loss_terms("sparse_categorical_crossentropy", form, logits, from_logits=True)
        expected = loss_terms("sparse_categorical_crossentropy", labels, logits, from_logits=True)
        np.testing.assert_array_equal(got.d_pred, expected.d_pred)
    assert loss_terms("mean_squared_error", [1, 2], [3, 4]).d_pred.dtype == np.float32
    assert loss_terms("mean_squared_error", y_true, y_pred, want_grad=False).d_pred is None


@pytest.mark.parametrize("units", [3, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_threads_or_on_the_launch(monkeypatch, dtype, units):
    """Many blocks, forced through every launch path."""
    for kind in KINDS:
        options = {"from_logits": True} if kind.endswith("crossentropy") else {}
        y_true, y_pred = data(kind, options, dtype, shape=(16, 90, units))
        mask = np.random.default_rng(9).random((16, 90)) < 0.7
        monkeypatch.setattr(_jit, "_forced", "serial")
        alone = loss_terms(kind, y_true, y_pred, mask=mask, **options)
        for launch, threads in itertools.product(["serial", "prange", "pool"], [1, 2, 3, 7]):
            monkeypatch.setattr(_jit, "_forced", launch)
            monkeypatch.setattr(_jit, "_threads", threads)
            got = loss_terms(kind, y_true, y_pred, mask=mask, **options)
            assert (got.total, got.divisor) == (alone.total, alone.divisor)
            np.testing.assert_array_equal(got.steps, alone.steps)
            np.testing.assert_array_equal(got.d_pred, alone.d_pred)


@pytest.mark.parametrize("kind", KINDS)
def test_many_classes_stay_accurate_in_float32(kind):
    """20000 predictions a step: one running float32 sum would be off by 1e-5 here."""
    options = {"from_logits": True} if kind.endswith("crossentropy") else {}
    y_true, y_pred = data(kind, options, np.float32, shape=(8, 20_000))
    got = loss_terms(kind, y_true, y_pred, reduction="none", **options)
    exact = y_true if kind.startswith("sparse") else y_true.astype(np.float64)
    expected = reference.loss_terms(kind, exact, y_pred.astype(np.float64), reduction="none", **options)
    assert_close(got.steps, expected.steps, np.float32, k=16)  # measured: 2 eps with 16 lanes, 8.3 with 4
    largest = np.abs(expected.d_pred).max(axis=-1, keepdims=True)
    assert_close(got.d_pred / largest, expected.d_pred / largest, np.float32, k=32)


def test_totals_are_summed_in_float64():
    y_pred = np.full((1, 1_000_000, 1), 0.1, np.float32)
    value, _ = loss_value_and_grad("mean_absolute_error", np.zeros_like(y_pred), y_pred, reduction="sum")
    np.testing.assert_allclose(value, float(np.float32(0.1)) * 1_000_000, rtol=1e-12)


# ---- bad input -------------------------------------------------------------------------------------------------------

Y, P = np.zeros((2, 3, 4)), np.full((2, 3, 4), 0.5)
LABELS = np.zeros((2, 3), int)


@pytest.mark.parametrize(
    ("kind", "y_true", "y_pred", "options", "error", "message"),
    [
        ("focal", Y, P, {}, ValueError, "kind: expected one of mean_squared_error"),
        ("huber", Y, P, {"delta": 0}, ValueError, "delta: expected a number above 0, received 0"),
        ("huber", Y, P, {"delta": np.nan}, ValueError, "delta: expected a number above 0, received nan"),
        ("log_cosh", Y, P, {"delta": 2}, ValueError, "delta: expected 1 for log_cosh, received 2"),
        ("mean_squared_error", Y, P, {"reduction": "avg"}, ValueError, "reduction: expected one of .*received 'avg'"),
        ("mean_squared_error", Y, P, {"reduction": 1}, ValueError, "reduction: expected one of .*received 1"),
        ("mean_squared_error", Y[:1], P, {}, ValueError, r"y_true: expected shape \(2, 3, 4\).*received \(1, 3, 4\)"),
        ("mean_squared_error", Y[..., 0], P, {}, ValueError, r"y_true: expected shape \(2, 3, 4\).*received \(2, 3\)"),
        (
            "mean_squared_error",
            Y[..., :0],
            P[..., :0],
            {},
            ValueError,
            r"y_pred: expected shape .*received \(2, 3, 0\)",
        ),
        ("mean_squared_error", 1.0, 2.0, {}, ValueError, r"y_pred: expected shape .*received \(\)"),
        ("mean_squared_error", Y, P.astype(object), {}, TypeError, "y_pred: expected numbers.*object"),
        ("mean_squared_error", Y.astype(complex), P, {}, TypeError, "y_true: expected .*complex128"),
        ("mean_squared_error", Y, P, {"mask": np.ones((2, 4))}, ValueError, r"mask: expected .*\(2,3\).*\(2, 4\)"),
        ("mean_squared_error", Y, P, {"mask": np.ones(2)}, ValueError, r"mask: expected .*received \(2,\)"),
        ("mean_squared_error", Y, P, {"mask": np.ones((2, 3), object)}, TypeError, "mask: expected .*object"),
        ("mean_squared_error", Y, P, {"sample_weight": np.ones(3)}, ValueError, r"sample_weight: .*received \(3,\)"),
        ("mean_squared_error", Y, P, {"sample_weight": np.ones(1)}, ValueError, r"sample_weight: .*received \(1,\)"),
        ("mean_squared_error", Y, P, {"sample_weight": np.ones((3, 2))}, ValueError, "sample_weight: expected"),
        ("mean_squared_error", Y, P, {"sample_weight": np.ones((2, 3, 4))}, ValueError, "sample_weight: expected"),
        ("mean_squared_error", Y, P, {"from_logits": True}, ValueError, "from_logits: expected False"),
        ("mean_squared_error", Y, P, {"label_smoothing": 0.1}, ValueError, "label_smoothing: expected 0 for"),
        ("binary_crossentropy", Y, P, {"label_smoothing": 1.5}, ValueError, r"label_smoothing: .*\[0, 1\].*1.5"),
        ("binary_crossentropy", Y, P, {"label_smoothing": "x"}, ValueError, "label_smoothing: .*received 'x'"),
        ("binary_crossentropy", Y, P, {"ignore_class": 1}, ValueError, "ignore_class: expected None"),
        ("sparse_categorical_crossentropy", LABELS, P, {"ignore_class": 0.5}, TypeError, "ignore_class: .*0.5"),
        ("sparse_categorical_crossentropy", LABELS + 4, P, {}, ValueError, r"y_true: .*0\.\.3, received 4 at \(0, 0\)"),
        ("sparse_categorical_crossentropy", LABELS - 1, P, {}, ValueError, r"y_true: .*0\.\.3, received -1"),
        ("sparse_categorical_crossentropy", LABELS + 0.5, P, {}, ValueError, r"y_true: .*0\.\.3, received 0\.5"),
        ("sparse_categorical_crossentropy", LABELS * np.nan, P, {}, ValueError, r"y_true: .*0\.\.3, received nan"),
        ("sparse_categorical_crossentropy", LABELS - 1, P, {"ignore_class": -2}, ValueError, "received -1"),
        ("sparse_categorical_crossentropy", Y, P, {}, ValueError, r"y_true: expected class numbers of shape \(2, 3\)"),
    ],
)
def test_bad_input(kind, y_true, y_pred, options, error, message):
    with pytest.raises(error, match=message):
        loss_value_and_grad(kind, y_true, y_pred, **options)


def test_class_numbers_out_of_range_are_fine_where_they_do_not_count():
    labels = np.array([[0, 99, -7], [1, 2, 3]])
    mask = np.array([[True, False, False], [True, True, True]])
    value, _ = loss_value_and_grad("sparse_categorical_crossentropy", labels, P, mask=mask)
    assert_close(value, np.log(4), k=8)
    value, _ = loss_value_and_grad("sparse_categorical_crossentropy", labels, P, sample_weight=mask.astype(float))
    assert_close(value, np.log(4) * 4 / 6, k=8)
    with pytest.raises(ValueError, match=r"received 99 at \(0, 1\)"):
        loss_value_and_grad("sparse_categorical_crossentropy", labels, P)
