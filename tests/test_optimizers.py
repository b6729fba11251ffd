"""Variables, and optimizers against their formulas, written out here element by element in float64."""

import copy
import math
import pickle

import numpy as np
import pytest

from fastmask import optimizers
from fastmask.constraints import MaxNorm, NonNeg
from fastmask.kernels.optimizer_names import BLOCK
from fastmask.layers import register_serializable
from fastmask.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from fastmask.schedules import ExponentialDecay
from fastmask.variable import RowsGradient, Variable
from helpers import assert_close

SHAPES = [(3, 5), (BLOCK + 7,), ()]  # less than a block, more than one, a scalar


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
    large = [np.full(BLOCK * 2 + 1, 1.0), np.full(5, 1.0)]
    assert_close(step_of(SGD(1, global_clipnorm=1), large)[1], large[1] / math.sqrt(BLOCK * 2 + 6))
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


def test_a_number_does_not_replace_a_schedule():
    optimizer = SGD(ExponentialDecay(0.5, 1, 0.5))
    with pytest.raises(TypeError, match="learning_rate: expected a schedule in place of .*, received 0.1"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = ExponentialDecay(0.25, 1, 0.5)
    assert optimizer.learning_rate == 0.25


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
    for name, cls in (("sgd", SGD), ("Adam", Adam), ("rmsprop", RMSprop), ("AdamW", AdamW), ("RMSPROP", RMSprop)):
        assert type(optimizers.get(name)) is cls
    optimizer = AdamW(0.01, clipnorm=2.0, beta_1=0.8, gradient_accumulation_steps=4)
    assert optimizers.get(optimizer) is optimizer and type(optimizers.get(SGD)) is SGD
    for one in (optimizer, SGD(0.1, 0.5, True), RMSprop(rho=0.5), Adam(amsgrad=True, weight_decay=0.1)):
        again = optimizers.get(optimizers.serialize(one))
        assert type(again) is type(one) and again.get_config() == one.get_config()
    optimizer = SGD(ExponentialDecay(0.5, 2, 0.5))
    again = optimizers.deserialize(optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    v = Variable(np.zeros(1))
    for _ in range(3):
        again.apply([np.ones(1)], [v])
    assert_close(v.value, [-0.5 * (1 + 0.5**0.5 + 0.5)])


@register_serializable("test")
class SignSGD(Optimizer):
    def __init__(self, learning_rate=0.1, **kwargs):
        super().__init__(learning_rate, **kwargs)

    def update(self, w, g, lr, tmp):
        w -= lr * np.sign(g)


def test_an_optimizer_of_ones_own():
    optimizer = optimizers.get(optimizers.serialize(SignSGD(0.5, clipvalue=1.0)))
    v, w = Variable(np.zeros(3)), Variable(np.zeros((3, 1)))
    optimizer.apply([np.array([3.0, -2.0, 0.0]), RowsGradient(np.array([1]), np.array([[5.0]]), (3, 1))], [v, w])
    np.testing.assert_array_equal(v.value, [-0.5, 0.5, 0])
    np.testing.assert_array_equal(w.value, [[0], [-0.5], [0]])


# ---- gradients of some rows -----------------------------------------------------------------------------------------
ROWWISE = {
    "sgd": lambda **kw: SGD(0.1, **kw),
    "momentum": lambda **kw: SGD(0.1, 0.9, **kw),
    "nesterov": lambda **kw: SGD(0.1, 0.9, True, **kw),
    "rmsprop": lambda **kw: RMSprop(0.01, **kw),
    "rmsprop_all": lambda **kw: RMSprop(0.01, 0.8, 0.5, 1e-3, True, **kw),
    "adam": lambda **kw: Adam(0.01, **kw),
    "amsgrad": lambda **kw: Adam(0.01, amsgrad=True, **kw),
}


def rows_gradients(shape, dtype, steps, seed=0):
    """Changing rows: some, none, all, a gapless run, then few among many."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        rows = np.flatnonzero(rng.random(shape[0]) < rng.choice([0.02, 0.2]))
        if step % 7 == 2:
            rows = rows[:0]
        elif step == 13:
            rows = np.arange(shape[0])
        elif step % 7 == 4:
            rows = np.arange(shape[0] // 3, shape[0] // 2)
        yield RowsGradient(rows, rng.standard_normal((len(rows), *shape[1:])).astype(dtype), shape)


@pytest.mark.parametrize("options", [{}, {"clipvalue": 0.5}, {"weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("name", ROWWISE)
def test_rows_give_the_bits_of_the_dense_gradient(name, options):
    for shape, dtype in (((40, 3), "float32"), ((9, 2, 2), "float64"), ((3000, 11), "float32"), ((50,), "float64")):
        start = np.random.default_rng(1).standard_normal(shape).astype(dtype)
        v, w = Variable(start), Variable(start)
        sparse, dense = ROWWISE[name](**options), ROWWISE[name](**options)
        for g in rows_gradients(shape, dtype, 30):
            version = v.version
            sparse.apply([g], [v])
            dense.apply([np.asarray(g)], [w])
            np.testing.assert_array_equal(v.value, w.value)
            assert v.version > version
        states = sparse.get_state(), dense.get_state()
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            np.testing.assert_array_equal(value, states[1][key])


def test_rows_wider_than_a_block():
    shape = (4, BLOCK + 3)
    v, w = Variable(np.ones(shape)), Variable(np.ones(shape))
    g = RowsGradient(np.array([0, 2]), np.random.default_rng(0).standard_normal((2, shape[1])), shape)
    Adam().apply([g], [v])
    Adam().apply([np.asarray(g)], [w])
    np.testing.assert_array_equal(v.value, w.value)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_rows_are_clipped_by_the_same_norm(clip):
    """Not the same bits: the squares are added in another order, without the zeros in between. In float64, so the
    scale is off by roundings of it at most, of which 30 steps make as many."""
    v, w = (Variable(np.ones((300, 7))) for _ in range(2))
    b, c = (Variable(np.ones(5)) for _ in range(2))
    sparse, dense = Adam(0.01, **{clip: 0.5}), Adam(0.01, **{clip: 0.5})
    for g in rows_gradients((300, 7), "float64", 30):
        sparse.apply([g, np.full(5, 0.1)], [v, b])
        dense.apply([np.asarray(g), np.full(5, 0.1)], [w, c])
    assert_close(v.value, w.value, k=256)
    assert_close(b.value, c.value, k=256)
    assert (v.value != 1).any()


def test_only_rows_that_moved_are_touched():
    """NaN in a row that never had a gradient: whoever went through it would make its state NaN."""
    v = Variable(np.full((10, 2), np.nan))
    v[3:5] = 1
    optimizer = Adam()
    for rows in ([3], [4], [3, 4]):
        optimizer.apply([RowsGradient(np.array(rows), np.ones((len(rows), 2)), (10, 2))], [v])
        moved = np.flatnonzero(optimizer._used_rows[v])
        assert set(moved) <= {3, 4} and set(rows) <= set(moved)
    assert np.isfinite(v.value[3:5]).all() and np.isnan(v.value[:3]).all()


def test_rows_and_dense_gradients_of_one_weight_take_turns():
    v, w = (Variable(np.ones((20, 3))) for _ in range(2))
    optimizers_ = RMSprop(momentum=0.5), RMSprop(momentum=0.5)
    rng = np.random.default_rng(0)
    for step, g in enumerate(rows_gradients((20, 3), "float64", 12)):
        if step in (3, 4, 8):
            g = rng.standard_normal((20, 3))
        optimizers_[0].apply([g], [v])
        optimizers_[1].apply([np.asarray(g)], [w])
        np.testing.assert_array_equal(v.value, w.value)


def test_empty_weights_and_gradients():
    for shape in ((0, 3), (4, 0)):
        v = Variable(np.zeros(shape))
        rows = np.arange(shape[0] // 2)
        Adam(weight_decay=0.1).apply([RowsGradient(rows, np.zeros((len(rows), shape[1])), shape)], [v])
        assert v.shape == shape


# ---- gradient accumulation ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "rows"])
def test_accumulation_is_a_step_with_the_mean(sparse):
    shape = (12, 3)
    v, w = (Variable(np.ones(shape)) for _ in range(2))
    b, c = (Variable(np.ones(2)) for _ in range(2))
    accumulating = Adam(0.1, clipnorm=0.5, weight_decay=0.01, gradient_accumulation_steps=3)
    plain = Adam(0.1, clipnorm=0.5, weight_decay=0.01)
    total = np.zeros(shape)
    for step, g in enumerate(rows_gradients(shape, "float64", 9)):
        total += np.asarray(g)
        given = g if sparse else np.asarray(g)
        assert accumulating.iterations == step // 3
        assert accumulating.apply_gradients([(given, v), (np.full(2, float(step)), b)]) == step + 1
        (given.values if sparse else given)[...] = np.nan  # the caller's own, free to be used again
        if step % 3 == 2:
            plain.apply([total / 3, np.full(2, step - 1.0)], [w, c])
            total[...] = 0
        assert_close(v.value, w.value)
        assert_close(b.value, c.value)
    assert accumulating.iterations == plain.iterations == 3


def test_schedules_count_every_step_of_accumulation():
    v = Variable(np.zeros(1))
    optimizer = SGD(lambda step: [1.0, 10.0, 100.0, 1000.0][step], gradient_accumulation_steps=2)
    for _ in range(4):
        optimizer.apply([np.ones(1)], [v])
    assert_close(v.value, [-1010])


# ---- constraints ----------------------------------------------------------------------------------------------------
def test_constraints_come_after_the_step():
    v, w, free = Variable(np.ones((2, 2))), Variable([0.5, 0.5], dtype="float64"), Variable(np.ones(2))
    v.constraint, w.constraint = MaxNorm(0.1), NonNeg()
    SGD(1.0).apply([np.full((2, 2), -1.0), np.array([1.0, 0.25]), np.ones(2)], [v, w, free])
    assert_close(v.value, np.full((2, 2), 0.1 / 2**0.5), atol=1e-6)
    assert_close(w.value, [0, 0.25])
    assert_close(free.value, [0, 0])


def test_a_constraint_that_changes_the_shape_is_an_error():
    v = Variable(np.ones(2), name="w")
    v.constraint = lambda w: w[:1]
    with pytest.raises(ValueError, match=r"w: expected shape \(2,\), received \(1,\)"):
        SGD().apply([np.ones(2)], [v])


# ---- state ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ROWWISE)
def test_state_goes_on_where_it_stood(name):
    v, b = Variable(np.ones((20, 3))), Variable(np.ones(2))
    optimizer = ROWWISE[name](gradient_accumulation_steps=2)
    gradients = [(g, np.full(2, i + 1.0)) for i, g in enumerate(rows_gradients((20, 3), "float64", 10))]
    for g in gradients[:5]:  # stops half-way to an update
        optimizer.apply(g, [v, b])
    state = {key: np.asarray(value) for key, value in optimizer.get_state([v, b]).items()}  # as a file gives it
    assert state["iterations"] == 5 and state["0/accumulated"].shape == (20, 3)
    w, c = copy.deepcopy([v, b])
    again = ROWWISE[name](gradient_accumulation_steps=2)
    again.learning_rate = 7.0
    again.set_state([w, c], state)
    for g in gradients[5:]:
        optimizer.apply(g, [v, b])
        again.apply(g, [w, c])
    np.testing.assert_array_equal(v.value, w.value)
    np.testing.assert_array_equal(b.value, c.value)
    assert again.iterations == 5 and not np.shares_memory(again._slots[w].get("m", b.value), state["0/accumulated"])


def test_state_is_numbered_by_the_weights_given():
    v, w, new = (Variable(np.zeros(n), dtype="float64") for n in (1, 2, 3))
    optimizer = SGD(0.1, 0.9)
    optimizer.apply([np.ones(1), np.ones(2)], [v, w])
    assert set(optimizer.get_state()) == {"iterations", "learning_rate", "0/m", "1/m"}
    state = optimizer.get_state([new, w, v])
    assert set(state) == {"iterations", "learning_rate", "1/m", "2/m"} and state["1/m"].shape == (2,)
    state["1/m"][...] = 9
    assert not (optimizer.get_state()["1/m"] == 9).any()
    assert set(SGD(lambda step: 0.1).get_state([v])) == {"iterations"}


def test_a_function_as_learning_rate_cannot_be_written_down():
    with pytest.raises(ValueError, match="learning_rate: expected .*received <lambda>"):
        SGD(lambda step: 0.1).get_config()


@pytest.mark.parametrize(
    "rows, values, shape, message",
    [
        ([1], np.zeros((1, 3)), (4, 3), r"grads: expected shape \(4, 2\) for w, received \(4, 3\)"),
        ([1], np.zeros((2, 2)), (4, 2), "grads: expected shape"),
        ([1], np.zeros((1, 2)), (5, 2), "grads: expected shape"),
        ([3, 4], np.zeros((2, 2)), (4, 2), r"grads: expected ascending rows from 0 to 3 for w, received \[3 4\]"),
        ([-1], np.zeros((1, 2)), (4, 2), "grads: expected ascending rows"),
        ([1, 1], np.zeros((2, 2)), (4, 2), "grads: expected ascending rows"),
    ],
)
def test_bad_rows(rows, values, shape, message):
    w = Variable(np.zeros((4, 2)), name="w")
    with pytest.raises(ValueError, match=message):
        SGD().apply([RowsGradient(np.array(rows), values, shape)], [w])


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"iterations": None}, ValueError, "state: expected a whole number of 0 or more as its 'iterations'"),
        ({"iterations": -1}, ValueError, "state: expected a whole number"),
        ({"iterations": [1]}, ValueError, "state: expected a whole number"),
        ({"iterations": 1.5}, ValueError, "state: expected a whole number"),
        ({"learning_rate": np.nan}, ValueError, "state: learning_rate: expected a finite number"),
        ({"2/m": np.zeros(2)}, ValueError, "state: expected m, v of weights 0 to 1 for Adam, received '2/m'"),
        ({"0/a": np.zeros(2)}, ValueError, "state: expected m, v .*received '0/a'"),
        ({"0/accumulated": np.zeros(2)}, ValueError, "state: expected m, v .*received '0/accumulated'"),
        ({"1/m": np.zeros(3)}, ValueError, r"state: expected shape \(2,\) as '1/m' of w, received \(3,\)"),
        ({"1/m": np.array(["a", "b"])}, TypeError, "state: expected numbers as '1/m'"),
        ({"1/m": None}, ValueError, "state: expected m of w, too, received v"),
    ],
)
def test_bad_state(change, error, message):
    v, w = Variable(np.zeros(2), name="v"), Variable(np.zeros(2), name="w")
    optimizer = Adam()
    optimizer.apply([np.ones(2)] * 2, [v, w])
    before = optimizer.get_state()
    bad = {key: value for key, value in (before | change).items() if value is not None}
    with pytest.raises(error, match=message):
        optimizer.set_state([v, w], bad)
    after = optimizer.get_state()
    assert after.keys() == before.keys() and all((after[key] == before[key]).all() for key in ("0/m", "1/v"))


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
