"""Variables, and optimizers against their formulas, written out here element by element in float64."""

import copy
import math
import pickle

import numpy as np
import pytest

from fastmask import optimizers
from fastmask.optimizers import SGD, Adam, AdamW, RMSprop
from fastmask.variable import Variable
from helpers import assert_close

SHAPES = [(3, 5), (optimizers.PIECE + 7,), ()]  # less than a piece, more than one, a scalar


# ---- Variable -------------------------------------------------------------------------------------------------------
def test_variable_is_array_like():
    v = Variable([[1.0, 2.0], [3.0, 4.0]], name="w")
    assert v.shape == (2, 2) and v.dtype == np.float32 and v.ndim == 2 and v.size == 4 and len(v) == 2 and v.name == "w"
    assert Variable(np.zeros(2)).dtype == np.float64 and Variable(1).shape == ()
    np.testing.assert_array_equal(v + 1, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(1 - v, [[0, -1], [-2, -3]])
    np.testing.assert_array_equal(v @ np.ones(2), [3, 7])
    np.testing.assert_array_equal(np.sum(v, axis=0), [4, 6])
    np.testing.assert_array_equal(v == 2, [[False, True], [False, False]])
    np.testing.assert_array_equal(v[1], [3, 4])
    np.testing.assert_array_equal(list(v)[0], [1, 2])
    assert np.asarray(v, dtype="float64").dtype == np.float64 and float(Variable(2.5)) == 2.5
    assert {v: 1}[v] == 1 and "float32" in repr(v)


def test_variable_cannot_be_changed_unseen():
    v = Variable(np.zeros((2, 2)))
    for view in (np.asarray(v), v.value, v[0]):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 1
    copied = v.numpy()
    copied[...] = 1
    assert not v.value.any()


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda v: v.assign([1, 2]), [1, 2]),
        (lambda v: v.assign_add([1, 2]), [6, 8]),
        (lambda v: v.assign_sub([1, 2]), [4, 4]),
        (lambda v: v.__setitem__(0, 9), [9, 6]),
        (lambda v: v.__setitem__(slice(None), Variable([1, 2])), [1, 2]),
        (lambda v: v.__iadd__(1), [6, 7]),
        (lambda v: v.__imul__(2), [10, 12]),
        (lambda v: v.__itruediv__(2), [2.5, 3]),
        (lambda v: np.add(v, 1, out=v), [6, 7]),
        (lambda v: np.add.at(v, [0, 0], 1), [7, 6]),
    ],
)
def test_every_change_of_a_variable_is_seen(change, expected):
    v = Variable([5, 6])
    view, version = np.asarray(v), v.version
    change(v)
    np.testing.assert_array_equal(v.value, expected)
    np.testing.assert_array_equal(view, expected)
    assert v.version > version and isinstance(v, Variable)


def test_in_place_operators_keep_the_variable():
    v = w = Variable([1.0, 2.0])
    v += 1
    v *= np.float64(2)
    assert v is w and v.dtype == np.float32
    np.testing.assert_array_equal(w.value, [4, 6])


def test_versions_are_never_shared():
    v, w = Variable([1]), Variable([1])
    assert v.version != w.version
    v.assign([2])
    assert v.version != w.version
    twin = copy.deepcopy(v)
    assert twin.version != v.version
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(v)).value, v.value)
    twin.assign([5])
    np.testing.assert_array_equal(v.value, [2])


@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: Variable([1, 2]).assign([1]), ValueError, r"variable: expected shape \(2,\), received \(1,\)"),
        (lambda: Variable([1, 2], name="w").assign(["a", "b"]), TypeError, "w: expected numbers"),
        (lambda: Variable([1, 2]).__setitem__(0, None), TypeError, "expected numbers"),
        (lambda: Variable([1j]), TypeError, "value: expected numbers"),
        (lambda: Variable([1], dtype="int32"), ValueError, "dtype: expected float32 or float64, received int32"),
    ],
)
def test_variable_bad_input(act, error, message):
    with pytest.raises(error, match=message):
        act()


# ---- formulas -------------------------------------------------------------------------------------------------------
def sgd(w, g, t, s, lr=0.01, momentum=0.0, nesterov=False):
    m = s["m"] = momentum * s.get("m", 0) - lr * g
    if not momentum:
        return w - lr * g
    return w + momentum * m - lr * g if nesterov else w + m


def rmsprop(w, g, t, s, lr=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
    v = s["v"] = rho * s.get("v", 0) + (1 - rho) * g**2
    a = s["a"] = rho * s.get("a", 0) + (1 - rho) * g if centered else 0
    step = lr * g / np.sqrt(v - a**2 + epsilon)
    m = s["m"] = momentum * s.get("m", 0) + step
    return w - m


def adam(w, g, t, s, lr=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False):
    m = s["m"] = beta_1 * s.get("m", 0) + (1 - beta_1) * g
    v = s["v"] = beta_2 * s.get("v", 0) + (1 - beta_2) * g**2
    if amsgrad:
        v = s["v_hat"] = np.maximum(s.get("v_hat", 0), v)
    return w - lr * math.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)


def adamw(w, g, t, s, lr=0.001, decay=0.004, **options):
    return adam(w - lr * decay * w, g, t, s, lr, **options)


FORMULAS = {
    "sgd": (SGD(0.1), sgd, {"lr": 0.1}),
    "sgd_momentum": (SGD(0.1, momentum=0.9), sgd, {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov": (SGD(0.1, 0.9, True), sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": (RMSprop(), rmsprop, {}),
    "rmsprop_all": (
        RMSprop(0.01, 0.8, 0.5, 1e-3, True),
        rmsprop,
        {"lr": 0.01, "rho": 0.8, "momentum": 0.5, "epsilon": 1e-3, "centered": True},
    ),
    "adam": (Adam(), adam, {}),
    "adam_all": (
        Adam(0.01, 0.8, 0.9, 1e-3, True),
        adam,
        {"lr": 0.01, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "amsgrad": True},
    ),
    "adamw": (AdamW(0.01), adamw, {"lr": 0.01}),
    "adamw_all": (AdamW(0.01, 0.1, beta_1=0.8), adamw, {"lr": 0.01, "decay": 0.1, "beta_1": 0.8}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, dtype):
    optimizer, formula, options = FORMULAS[name]
    optimizer = copy.deepcopy(optimizer)
    rng = np.random.default_rng(0)
    variables = [Variable(rng.standard_normal(s), dtype=dtype) for s in SHAPES]
    weights, states = [v.numpy().astype("float64") for v in variables], [{} for _ in SHAPES]
    for t in range(1, 6):
        gradients = [rng.standard_normal(s).astype(dtype) * (t != 3) for s in SHAPES]
        kept = [g.copy() for g in gradients]
        versions = [v.version for v in variables]
        assert optimizer.apply_gradients(zip(gradients, variables, strict=True)) == t == optimizer.iterations
        weights = [
            formula(w, g.astype("float64"), t, s, **options) for w, g, s in zip(weights, gradients, states, strict=True)
        ]
        for v, w, g, k, version in zip(variables, weights, gradients, kept, versions, strict=True):
            assert_close(v.value, w, dtype, k=64)
            np.testing.assert_array_equal(g, k)
            assert v.version > version


# ---- clipping and decay ---------------------------------------------------------------------------------------------
def step_of(optimizer, gradients):
    variables = [Variable(np.zeros_like(g)) for g in gradients]
    optimizer.apply(gradients, variables)
    return [-v.value for v in variables]


def test_clipping():
    gradients = [np.array([3.0, 4.0]), np.array([[0.0, 12.0]])]
    for got, expected in zip(step_of(SGD(1, global_clipnorm=6.5), gradients), gradients, strict=True):
        assert_close(got, expected / 2)
    for got, expected in zip(step_of(SGD(1, clipnorm=4), gradients), ([2.4, 3.2], [[0, 4]]), strict=True):
        assert_close(got, expected)
    for got, expected in zip(step_of(SGD(1, clipvalue=3.5), gradients), ([3, 3.5], [[0, 3.5]]), strict=True):
        assert_close(got, expected)
    for clip in ("clipnorm", "global_clipnorm", "clipvalue"):  # nothing to clip
        for got, expected in zip(step_of(SGD(1, **{clip: 100}), gradients), gradients, strict=True):
            np.testing.assert_array_equal(got, expected)
        for got in step_of(SGD(1, **{clip: 1.0}), [np.zeros(3)]):
            assert not got.any()
    large = [np.full(optimizers.PIECE * 2 + 1, 1.0), np.full(5, 1.0)]
    assert_close(step_of(SGD(1, global_clipnorm=1), large)[1], large[1] / math.sqrt(optimizers.PIECE * 2 + 6))
    assert np.isnan(step_of(SGD(1, global_clipnorm=1), [np.array([np.inf, 1])])[0]).all()  # as in Keras


def test_weight_decay_and_exclusion():
    v, bias, b = (
        Variable([2.0], dtype="float64"),
        Variable([2.0], name="bias", dtype="float64"),
        Variable(np.array([2.0])),
    )
    optimizer = SGD(0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[b], var_names=["bias"])
    optimizer.apply([np.ones(1)] * 3, [v, bias, b])
    assert_close(np.concatenate([v.value, bias.value, b.value]), [2 * (1 - 0.05) - 0.5, 1.5, 1.5])


def test_learning_rate():
    v = Variable(np.zeros(1))
    optimizer = SGD(1.0)
    optimizer.apply([np.ones(1)], [v])
    optimizer.learning_rate = 0.25
    optimizer.apply([np.ones(1)], [v])
    assert optimizer.learning_rate == 0.25 and v.value[0] == -1.25
    optimizer = SGD(lambda step: 1 / (1 + step))
    v = Variable(np.zeros(1))
    for _ in range(3):
        optimizer.apply([np.ones(1)], [v])
    assert_close(v.value, [-(1 + 1 / 2 + 1 / 3)])


def test_a_weight_may_join_later():
    v, w = Variable(np.zeros(2)), Variable(np.zeros(2))
    optimizer = SGD(1.0, momentum=0.5)
    optimizer.apply([np.ones(2)], [v])
    optimizer.apply([np.ones(2), np.ones(2)], [v, w])
    np.testing.assert_array_equal(v.value, [-2.5, -2.5])
    np.testing.assert_array_equal(w.value, [-1, -1])


def test_copies_go_on_where_the_original_stood():
    v = Variable(np.zeros(3))
    optimizer = Adam(0.1)
    optimizer.apply([np.ones(3)], [v])
    pairs = [(optimizer, v), copy.deepcopy((optimizer, v)), pickle.loads(pickle.dumps((optimizer, v)))]
    for o, w in pairs:
        o.apply([np.array([1.0, -1.0, 0.0])], [w])
    for _, w in pairs[1:]:
        assert w is not v
        np.testing.assert_array_equal(w.value, v.value)


def test_get_and_config():
    for name, cls in (("sgd", SGD), ("Adam", Adam), ("rmsprop", RMSprop), ("AdamW", AdamW)):
        assert type(optimizers.get(name)) is cls
    optimizer = AdamW(0.01, clipnorm=2.0, beta_1=0.8)
    assert optimizers.get(optimizer) is optimizer and type(optimizers.get(SGD)) is SGD
    for one in (optimizer, SGD(0.1, 0.5, True), RMSprop(rho=0.5), Adam(amsgrad=True, weight_decay=0.1)):
        again = optimizers.get({"class_name": type(one).__name__, "config": one.get_config()})
        assert type(again) is type(one) and again.get_config() == one.get_config()


# ---- bad input ------------------------------------------------------------------------------------------------------
V = Variable(np.zeros(2))


@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: optimizers.get("adagrad"), ValueError, "optimizer: expected an Optimizer or one of sgd"),
        (lambda: optimizers.get(3), ValueError, "optimizer: expected"),
        (lambda: SGD(-1), ValueError, "learning_rate: expected a finite number of 0 or more, received -1"),
        (lambda: SGD(float("nan")), ValueError, "learning_rate: expected"),
        (lambda: SGD(momentum=2), ValueError, "momentum: expected"),
        (lambda: Adam(beta_1=1.0), ValueError, "beta_1: expected"),
        (lambda: RMSprop(rho=-1), ValueError, "rho: expected"),
        (lambda: AdamW(weight_decay=None), ValueError, "weight_decay: expected a number"),
        (lambda: SGD(weight_decay=-0.1), ValueError, "weight_decay: expected"),
        (lambda: SGD(clipnorm=1, clipvalue=1), ValueError, "at most one of .*received clipnorm, clipvalue"),
        (lambda: SGD(global_clipnorm=0), ValueError, "global_clipnorm: expected a positive number"),
        (lambda: Adam(use_ema=True), ValueError, "use_ema: not supported"),
        (lambda: Adam(lr=1), TypeError, "Adam: unknown argument 'lr'"),
        (
            lambda: SGD().apply([np.zeros(3)], [V]),
            ValueError,
            r"grads: expected shape \(2,\) for variable, received \(3,\)",
        ),
        (lambda: SGD().apply([np.zeros(2)], [V, V]), ValueError, "grads: expected one for each of the 2 weights"),
        (lambda: SGD().apply([np.zeros(2)] * 2, [V, V]), ValueError, "each weight once"),
        (lambda: SGD().apply([None], [V]), ValueError, "grads: expected a gradient for at least one weight"),
        (lambda: SGD().apply([np.zeros(2)], [np.zeros(2)]), TypeError, "expected Variables, received ndarray"),
    ],
)
def test_bad_input(act, error, message):
    with pytest.raises(error, match=message):
        act()
    assert not V.value.any()


def test_nothing_is_changed_if_one_gradient_does_not_fit():
    v, w = Variable(np.zeros(2)), Variable(np.zeros(2))
    optimizer = Adam()
    with pytest.raises(ValueError, match="grads: expected shape"):
        optimizer.apply([np.ones(2), np.ones(3)], [v, w])
    assert not v.value.any() and optimizer.iterations == 0


def test_a_missing_gradient_warns():
    v, w = Variable(np.zeros(2)), Variable(np.zeros(2), name="frozen")
    with pytest.warns(UserWarning, match="no gradient for frozen"):
        SGD(1).apply([np.ones(2), None], [v, w])
    assert v.value.all() and not w.value.any()
