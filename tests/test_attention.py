"""Attention: the op against its reference and differences, bits, and the layers Attention and AdditiveAttention."""

import copy
import inspect

import numpy as np
import pytest

import fastmask.ops.attention as attention_ops
from cases import DTYPES, assert_same_bits, awkward, launched, launches
from fastmask import Input, Model
from fastmask.layers import AdditiveAttention, Attention, Dense, Masking, deserialize, serialize
from fastmask.ops.attention import attention, attention_backward, attention_forward, attention_scores
from fastmask.optimizers import Adam
from fastmask.ragged import Ragged
from fastmask.reference import attention as reference
from fastmask.testing import check_layer
from helpers import assert_close, assert_doctests, assert_gradient, mask_cases

# (B,Tq,Tv,D,V): off the lane grid, ones, more queries than a block has rows, wide
SIZES = [(3, 4, 5, 3, 2), (1, 1, 1, 1, 1), (2, 7, 33, 17, 15), (2, 130, 9, 5, 70), (3, 6, 100, 64, 16)]
EMPTY = [(0, 3, 4, 2, 2), (2, 0, 4, 2, 2), (2, 3, 0, 2, 2)]
SCORES = {"dot": (False, None), "scaled": (False, 0.7), "additive": (True, None), "concat": (True, 0.7)}
K = 64  # eps of the largest value; measured: 28. A scale's gradient is a sum over everything; measured: 128


class Problem:
    """Random arguments and gradients. With `own_key` the key is no value; `scores` is one of SCORES."""

    def __init__(self, size=(3, 4, 5, 3, 2), scores="dot", own_key=True, dtype=np.float64, seed=0):
        B, Tq, Tv, D, V = size
        self.rng = np.random.default_rng([seed, *size])
        V = V if own_key else D

        def normal(*shape):
            return self.rng.standard_normal(shape).astype(dtype)

        self.dtype = np.dtype(dtype)
        self.query, self.value, self.key = normal(B, Tq, D), normal(B, Tv, V), normal(B, Tv, D) if own_key else None
        weighted, scale = SCORES[scores]
        self.weight = normal(D) if weighted else None
        self.scale = None if scale is None else np.array(scale, dtype)
        self.d_outputs, self.d_scores = normal(B, Tq, V), normal(B, Tq, Tv)
        self.factors = (self.rng.random((B, Tq, Tv)) < 0.5).astype(dtype) * 2

    @property
    def arguments(self):
        return dict(query=self.query, value=self.value, key=self.key, weight=self.weight, scale=self.scale)

    def dropout(self, query_mask, value_mask):
        """What the op asks for: the factors of valid queries and valid values alone."""
        both = np.ones(self.factors.shape, bool)
        both &= True if query_mask is None else query_mask[:, :, None]
        both &= True if value_mask is None else value_mask[:, None, :]
        return lambda n: self.factors[both]

    def train(self, dropped=False, **options):
        """Name -> array of forward and backward."""
        if dropped:
            options["dropout"] = self.dropout(options.get("query_mask"), options.get("value_mask"))
        y, tape = attention_forward(**self.arguments, **options)
        found = {"y": y, "scores": attention_scores(tape)}
        return {**found, **attention_backward(tape, self.d_outputs, self.d_scores)._asdict()}

    def reference(self, dropped=False, **options):
        arguments = {k: None if a is None else a.astype(np.float64) for k, a in self.arguments.items()}
        y, tape = reference.attention_forward(**arguments, **options, dropout=self.factors if dropped else None)
        gradients = reference.attention_backward(tape, self.d_outputs, self.d_scores)
        return {"y": y, "scores": tape.p * tape.dropout, **gradients._asdict()}

    def check(self, **options):
        """Against the reference; no argument changes."""
        before = [a.tobytes() for a in self.arguments.values() if a is not None]
        actual, desired = self.train(**options), self.reference(**options)
        for name, d in desired.items():
            a = actual[name]
            if d is None:
                assert a is None, name
                continue
            assert a.dtype == self.dtype
            allowed = (8 if name == "scale" else 1) * K * np.finfo(self.dtype).eps * np.abs(d).max(initial=1.0)
            assert_close(np.atleast_1d(a), np.atleast_1d(d), self.dtype, k=0, atol=allowed)
        assert before == [a.tobytes() for a in self.arguments.values() if a is not None]
        return actual


def random_masks(problem, seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random(problem.query.shape[:2]) < 0.6, rng.random(problem.value.shape[:2]) < 0.6
    if len(masks[1]):
        masks[1][0] = False  # a row of which no value counts
    return dict(zip(("query_mask", "value_mask"), masks, strict=True))


# ---- values and gradients of the op ---------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("size", [*SIZES, *EMPTY])
def test_against_the_reference(size, scores, dtype):
    problem = Problem(size, scores, dtype=dtype)
    for masks in ({}, random_masks(problem)):
        problem.check(**masks)
        problem.check(**masks, causal=True, dropped=True)
    Problem(size, scores, own_key=False, dtype=dtype).check(**masks)


@pytest.mark.parametrize("scores", ["dot", "concat"])
@pytest.mark.parametrize("mask", mask_cases(3, 5))
def test_masks(mask, scores):
    problem = Problem((3, 4, 5, 3, 2), scores)
    value_mask, query_mask = mask_cases(3, 5)[mask], mask_cases(3, 4, seed=1)[mask]
    y = problem.check(query_mask=query_mask, value_mask=value_mask)["y"]
    assert not y[~query_mask].any()
    assert not y[~value_mask.any(axis=1)].any()
    problem.check(key_mask=value_mask)


@pytest.mark.parametrize("own_key", [True, False])
@pytest.mark.parametrize("scores", SCORES)
def test_gradients_by_differences(scores, own_key):
    problem = Problem((2, 3, 4, 3, 2), scores, own_key)
    options = {"query_mask": np.array([[1, 1, 0], [1, 1, 1]], bool), "value_mask": np.array([[1, 0, 1, 1]] * 2, bool)}
    options["causal"] = own_key
    dropout = problem.dropout(options["query_mask"], options["value_mask"])
    found = problem.train(dropped=True, **options)

    def total():
        y, tape = attention_forward(**problem.arguments, **options, dropout=dropout)
        return np.sum(y * problem.d_outputs) + np.sum(attention_scores(tape) * problem.d_scores)

    for name, a in problem.arguments.items():
        if a is not None:
            assert_gradient(total, a, found[name])


def test_by_hand():
    """Scores ln 3 and 0: weights 3/4 and 1/4."""
    query, key = np.array([[[np.log(3.0)]]]), np.array([[[1.0], [0.0]]])
    y, tape = attention_forward(query, np.array([[[4.0], [8.0]]]), key)
    assert_close(y, [[[5.0]]])
    assert_close(attention_scores(tape), [[[0.75, 0.25]]])
    # dy/dscore = p (value - y) = (-3/4, 3/4)
    gradients = attention_backward(tape, np.ones((1, 1, 1)))
    assert_close(gradients.value, [[[0.75], [0.25]]])
    assert_close(gradients.query, [[[-0.75]]])
    assert_close(gradients.key, np.log(3) * np.array([[[-0.75], [0.75]]]))
    # weight * tanh(q + k) = 2 tanh(0) and 2 tanh(1/2)
    y = attention(np.array([[[0.5]]]), np.array([[[-0.5], [0.0]]]), weight=np.array([2.0]))
    assert_close(y, [[[-0.5 / (1 + np.exp(2 * np.tanh(0.5)))]]])


def test_a_causal_query_sees_the_past():
    problem = Problem((2, 5, 5, 3, 2))
    whole = problem.train(causal=True)
    assert not np.triu(whole["scores"][0], k=1).any()
    other = copy.deepcopy(problem)
    other.value[:, 3:], other.key[:, 3:] = 7, -7
    assert_same_bits(other.train(causal=True)["y"][:, :3], whole["y"][:, :3])
    masks = {"value_mask": np.array([[False, True, True, False, True]] * 2)}  # the first query sees nothing
    assert not problem.check(causal=True, **masks)["y"][:, 0].any()


def test_scores_alone():
    """A gradient for the scores and none for the outputs."""
    problem = Problem()
    _, tape = attention_forward(**problem.arguments)
    only = attention_backward(tape, None, problem.d_scores)
    zero = attention_backward(tape, np.zeros_like(problem.d_outputs), problem.d_scores)
    assert_same_bits(tuple(only), tuple(zero))
    assert not only.value.any() and only.query.any()


# ---- bits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scores", SCORES)
def test_nothing_under_a_mask_is_read(scores, dtype):
    for own_key in (True, False):
        problem = Problem((4, 9, 20, 5, 3), scores, own_key, dtype)
        masks = random_masks(problem)
        dirty = copy.deepcopy(problem)
        dirty.query[~masks["query_mask"]] = np.nan
        dirty.value[~masks["value_mask"]] = np.inf
        if own_key:
            dirty.key[~masks["value_mask"]] = np.nan
        dirty.d_outputs[~masks["query_mask"]] = np.nan
        assert_same_bits(dirty.train(**masks), problem.train(**masks))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scores", ["dot", "concat"])
def test_padding_changes_no_bit(scores, causal):
    """A row alone = in a batch, right-padded, left-padded and Ragged; a causal mask counts steps, so none is moved."""
    dtype, lengths = np.float32, [(5, 20), (1, 33), (9, 1), (0, 3), (4, 0), (7, 17)]
    rows = [Problem((1, nq, nv, 17, 15), scores, dtype=dtype) for nq, nv in lengths]
    options = dict(weight=rows[0].weight, scale=rows[0].scale, causal=causal)
    alone = [attention(row.query, row.value, row.key, **options)[0] for row in rows]
    query, value, key = (
        Ragged.from_list([getattr(row, name)[0] for row in rows]) for name in ("query", "value", "key")
    )
    ragged = attention(query, value, key, **options)
    for i, y in enumerate(alone):
        assert_same_bits(ragged[i], y, f"ragged row {i}")
    for side in ("right",) if causal else ("right", "left"):
        q, k, v = (padded(x, 40, side) for x in (query, key, value))
        y = attention(q[0], v[0], k[0], query_mask=q[1], value_mask=v[1], **options)
        mixed = attention(q[0], value, key, query_mask=q[1], **options)  # padded queries, Ragged values
        for i, wanted in enumerate(alone):
            assert_same_bits(y[i][q[1][i]], wanted, f"{side}-padded row {i}")
            assert_same_bits(mixed[i][q[1][i]], wanted, f"mixed row {i}")


def padded(ragged, T, side):
    """(x, mask) of rows in T steps, NaN around them."""
    x, mask = np.full((len(ragged), T, ragged.shape[2]), np.nan, ragged.dtype), np.zeros((len(ragged), T), bool)
    for i, row in enumerate(ragged):
        at = slice(0, len(row)) if side == "right" else slice(T - len(row), T)
        x[i, at], mask[i, at] = row, True
    return x, mask


@pytest.mark.parametrize("scores", ["dot", "concat"])
def test_launches(scores):
    problem = Problem((3, 130, 40, 17, 33), scores, dtype=np.float32)
    masks = random_masks(problem)
    with launched("serial", 1):
        expected = problem.train(**masks)
    for path, threads in launches():
        with launched(path, threads):
            assert_same_bits(problem.train(**masks), expected, f"{path}, {threads} threads")


@pytest.mark.parametrize("scores", SCORES)
def test_ragged_with_holes_equals_padded(scores):
    problem = Problem((3, 6, 8, 3, 2), scores)
    lengths = {"query": [6, 0, 3], "value": [5, 8, 2]}
    padding = {name: np.arange(getattr(problem, name).shape[1]) < np.array(n)[:, None] for name, n in lengths.items()}
    holes = random_masks(problem, seed=1)
    rows = {name: Ragged.from_padded(getattr(problem, name), padding[name]) for name in ("query", "value")}
    rows["key"] = rows["value"].with_values(problem.key[padding["value"]])
    masks = {f"{name}_mask": holes[f"{name}_mask"][padding[name]] for name in lengths}
    y, tape = attention_forward(**rows, weight=problem.weight, scale=problem.scale, **masks)
    gradients = attention_backward(tape, y.with_values(problem.d_outputs[padding["query"]]))
    problem.d_scores[:] = 0
    both = {f"{name}_mask": holes[f"{name}_mask"] & padding[name] for name in lengths}
    wanted = problem.train(**both)
    assert_same_bits(y.values, wanted["y"][padding["query"]])
    for name in ("query", "value", "key"):
        assert_same_bits(getattr(gradients, name).values, wanted[name][padding["value" if name == "key" else name]])
    with pytest.raises(ValueError, match="^scores: expected padded"):
        attention_scores(tape)
    with pytest.raises(TypeError, match="^d_outputs: expected Ragged as the outputs, received ndarray$"):
        attention_backward(tape, problem.d_outputs)


def test_layouts():
    problem, other = Problem(), Problem()
    for name in ("query", "value", "key", "d_outputs", "d_scores"):
        setattr(other, name, awkward(getattr(problem, name)))
    masks = random_masks(problem)
    numbers = {name: mask.astype(int) for name, mask in masks.items()}
    assert_same_bits(other.train(**numbers), problem.train(**masks))


BAD = [
    ({"query": np.zeros((2, 3))}, ValueError, r"^query: expected shape \(B,T,F\), received \(2, 3\)$"),
    (
        {"value": np.zeros((2, 5, 2), np.float32)},
        TypeError,
        "^value: expected dtype float64 as query, .* float32$",
    ),
    ({"value": np.zeros((3, 5, 2))}, ValueError, "^value: expected B = 2 rows as query, received 3$"),
    ({"key": None}, ValueError, "^value: expected D = 3 features as query, received 2$"),
    ({"key": np.zeros((2, 5, 2))}, ValueError, "^key: expected D = 3 features as query, received 2$"),
    (
        {"key": np.zeros((2, 4, 3))},
        ValueError,
        r"^key: expected the steps of value, .* = \(2,5\), .* \(2,4\)$",
    ),
    ({"query_mask": np.ones((2, 5))}, ValueError, r"^query_mask: expected shape .* = \(2,4\), received \(2, 5\)$"),
    ({"value_mask": np.ones((2, 4))}, ValueError, r"^value_mask: expected shape .* = \(2,5\), received \(2, 4\)$"),
    ({"value": np.zeros((2, 5, 3)), "key": None, "key_mask": np.ones((2, 5))}, ValueError, "^key_mask: expected None"),
    ({"weight": np.zeros(2)}, ValueError, r"^weight: expected shape \(D,\) = \(3,\), received \(2,\)$"),
    ({"scale": np.zeros(2)}, ValueError, r"^scale: expected shape \(\), received \(2,\)$"),
    ({"dropout": np.ones}, None, None),
    (
        {"dropout": lambda n: np.ones(n + 1)},
        ValueError,
        r"^dropout: expected shape \(pairs,\) = \(40,\), .* \(41,\)$",
    ),
]


@pytest.mark.parametrize("change, error, message", BAD)
def test_bad_arguments(change, error, message):
    arguments = {"query": np.zeros((2, 4, 3)), "value": np.zeros((2, 5, 2)), "key": np.zeros((2, 5, 3)), **change}
    for op in (attention, attention_forward):
        if error is None:
            op(**arguments)
            continue
        with pytest.raises(error, match=message):
            op(**arguments)


def test_examples():
    assert_doctests(attention_ops)
    assert inspect.signature(attention) == inspect.signature(attention_forward)


# ---- layers ---------------------------------------------------------------------------------------------------------
B, TQ, TV, D, V = 3, 4, 5, 3, 2
LAYERS = {
    "attention": lambda **o: Attention(**o),
    "scaled": lambda **o: Attention(use_scale=True, **o),
    "concat": lambda **o: Attention(score_mode="concat", **o),
    "concat_scaled": lambda **o: Attention(True, "concat", **o),
    "additive": lambda **o: AdditiveAttention(**o),
    "additive_unscaled": lambda **o: AdditiveAttention(use_scale=False, **o),
}


def inputs(own_key=True, dtype=np.float64):
    problem = Problem((B, TQ, TV, D, V), own_key=own_key, dtype=dtype)
    return [problem.query, problem.value] + ([problem.key] if own_key else [])


def masks(n=3):
    return [mask_cases(B, TQ)["holes"], mask_cases(B, TV)["right"], mask_cases(B, TV, seed=3)["none"]][:n]


def make(name, **options):
    layer = LAYERS[name](dtype="float64", **options)
    layer.build([(None, None, D), (None, None, V), (None, None, D)])
    for i, weight in enumerate(layer.weights):
        weight.assign(np.random.default_rng(i).standard_normal(weight.shape) + 1)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_check_layer(name):
    check_layer(make(name), inputs())
    check_layer(LAYERS[name](), [(3, 4, 2), (3, 5, 2)])


@pytest.mark.parametrize("own_key", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_gradients(name, own_key):
    layer, arrays = make(name), inputs(own_key)
    call = dict(mask=masks(len(arrays)), use_causal_mask=own_key, return_attention_scores=True, training=True)
    y, scores = layer(arrays, **call)
    dy, d_scores = (np.random.default_rng(i).standard_normal(a.shape) for i, a in enumerate((y, scores)))
    found = layer.backward((dy, d_scores))
    gradients = layer.gradients if layer.weights else []

    def total():
        y, scores = layer(arrays, **call)
        return np.sum(np.asarray(y) * dy) + np.sum(scores * d_scores)

    assert len(found) == len(arrays)
    for a, gradient in zip(arrays, found, strict=True):
        assert_gradient(total, a, gradient)
    for weight, gradient in zip(layer.weights, gradients, strict=True):
        value, before = np.atleast_1d(weight.numpy()), weight.numpy()

        def of_weight(weight=weight, value=value):
            weight.assign(value.reshape(weight.shape))
            return total()

        assert_gradient(of_weight, value, np.atleast_1d(gradient))
        weight.assign(before)


def test_weights_have_keras_names_and_shapes():
    def described(layer):
        return [(w.name, w.shape) for w in layer.weights]

    assert described(make("attention")) == []
    assert described(make("concat_scaled")) == [("scale", ()), ("concat_score_weight", ())]
    assert described(make("additive")) == [("scale", (D,))]
    assert Attention(True, "concat")([np.ones((1, 2, 3))] * 2).shape == (1, 2, 3)
    assert AdditiveAttention().get_config().keys() == Attention().get_config().keys() - {"score_mode"}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_masks(name):
    """Values under a mask count nothing, in no gradient either; the mask of the query goes on; half masks too."""
    layer, arrays, given = make(name), inputs(), masks()
    y = layer(arrays, mask=given, training=True)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    clean = layer.backward(dy), layer.gradients if layer.weights else []
    dirty = [np.where(m[..., None], a, np.nan) for a, m in zip(arrays, given, strict=True)]
    assert_same_bits(np.asarray(layer(dirty, mask=given, training=True)), np.asarray(y))
    assert_same_bits((layer.backward(dy), layer.gradients if layer.weights else []), clean)
    assert y.mask is given[0]
    assert not y[~given[0]].any()
    for which in ([given[0], None, None], [None, given[1], None], [None, None, given[1]], given[:2]):
        out = layer(arrays, mask=which)
        assert getattr(out, "mask", None) is which[0]
    assert_same_bits(layer(arrays, mask=[None, given[1], None]), layer(arrays, mask=[None, None, given[1]]))
    y, scores = layer(arrays, mask=given, return_attention_scores=True)
    assert y.mask is given[0] and type(scores) is np.ndarray
    assert not scores[~given[0]].any() and not scores.transpose(0, 2, 1)[~given[1]].any()


@pytest.mark.filterwarnings("error::fastmask.MaskDroppedWarning")
def test_masks_travel_by_themselves():
    query, value = (np.where(m[..., None], x, 0) for x, m in zip(inputs(own_key=False), masks(2), strict=True))
    layer, masking = Attention(dtype="float64"), Masking(dtype="float64")
    y = layer([masking(query), masking(value)])
    assert_same_bits(np.asarray(y), np.asarray(layer([query, value], mask=masks(2))))
    np.testing.assert_array_equal(y.mask, masks(2)[0])
    y, scores = layer([masking(query), masking(value)], return_attention_scores=True)
    np.testing.assert_array_equal(y.mask, masks(2)[0])


def test_dropout():
    layer, arrays = make("attention", dropout=0.5, seed=3), inputs()
    again = make("attention", dropout=0.5, seed=3)
    _, plain = layer(arrays, return_attention_scores=True)
    _, scores = layer(arrays, return_attention_scores=True, training=True)
    kept = scores != 0
    assert 0 < kept.mean() < 1
    assert_close(scores[kept], 2 * plain[kept])
    _, other = again(arrays, return_attention_scores=True, training=True)
    assert_same_bits(other, scores)
    _, other = again(arrays, return_attention_scores=True, training=True)
    assert (other != scores).any()


def test_missing_gradients():
    layer, arrays = make("additive"), inputs()
    y, scores = layer(arrays, return_attention_scores=True, training=True)
    of_outputs = layer.backward((np.ones_like(y), None))
    layer(arrays, training=True)
    assert_same_bits(layer.backward(np.ones_like(y)), of_outputs)
    layer(arrays, training=True)
    assert not any(d.any() for d in layer.backward(None))


def test_ragged_layers():
    for name in LAYERS:
        layer, arrays, given = make(name), inputs(), [mask_cases(B, n)["right"] for n in (TQ, TV, TV)]
        rows = [Ragged.from_padded(x, m) for x, m in zip(arrays, given, strict=True)]
        wanted = layer(arrays, mask=given, training=True)
        dy = np.random.default_rng(0).standard_normal(wanted.shape)
        wanted_gradients = layer.backward(dy)
        y = layer(rows, training=True)
        assert_same_bits(y.values, np.asarray(wanted)[given[0]])
        for d, w, m in zip(layer.backward(y.with_values(dy[given[0]])), wanted_gradients, given, strict=True):
            assert_same_bits(d.values, w[m])
    with pytest.raises(ValueError, match="return_attention_scores: expected False for Ragged"):
        layer(rows, return_attention_scores=True)


def test_layer_in_a_model():
    """Query and value from one masked input, a residual of heads, trained."""
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((8, 6, 4)).astype(np.float32), mask_cases(8, 6)["right"]
    x[~mask] = 0
    source = Input((None, 4))
    masked = Masking()(source)
    attended, scores = Attention(use_scale=True)(
        [Dense(5)(masked), masked, Dense(5)(masked)], return_attention_scores=True
    )
    assert attended.shape == (None, None, 4) and scores.shape == (None, None, None)
    assert attended.mask.shape == (None, None) and scores.mask is None
    model = Model(source, Dense(1)(AdditiveAttention()([attended, masked], use_causal_mask=True)))
    model.compile(Adam(0.03), "mse")
    losses = model.fit(x, x[..., :1], epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    longer = np.concatenate([x, np.zeros((8, 3, 4), np.float32)], axis=1)
    assert_same_bits(model.predict(longer)[:, :6][mask], model.predict(x)[mask])
    again = deserialize(serialize(model))
    again.set_weights(model.get_weights())
    assert_same_bits(again.predict(x), model.predict(x))


@pytest.mark.parametrize("name", LAYERS)
def test_config_round_trip(name):
    layer = LAYERS[name](dropout=0.25, seed=7, name="here")
    again = deserialize(serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert again.mask_role() == "uses, passes"
    assert layer.compute_output_shape([(None, 7, D), (None, None, V), (None, None, D)]) == (None, 7, V)


def test_bad_input():
    x = np.zeros((2, 3, 4))
    with pytest.raises(ValueError, match=r"inputs: expected a list \[query, value\].* received shape \(None, 3, 4\)$"):
        Attention()(x)
    with pytest.raises(ValueError, match=r"inputs: expected a list \[query, value\].* received 1 inputs$"):
        Attention()([x])
    with pytest.raises(ValueError, match=r"inputs: expected query \(B,Tq,D\).* received \(None, 3, 4\), .*5\)$"):
        Attention()([x, np.zeros((2, 3, 5))])
    with pytest.raises(ValueError, match=r"inputs: expected query \(B,Tq,D\)"):
        Attention()([x, x, x[:, :2]])
    with pytest.raises(ValueError, match=r"inputs: expected query \(B,Tq,D\)"):
        Attention()([x[0], x[0]])
    with pytest.raises(ValueError, match="value: expected B = 2 rows as query, received 1"):
        Attention()([x, x[:1]])
    with pytest.raises(ValueError, match="mask: expected a list of 2 masks or Nones"):
        Attention()([x, x], mask=np.ones((2, 3), bool))
    additive = AdditiveAttention()
    additive([x, x])
    with pytest.raises(ValueError, match=r"inputs: expected a query \(B,Tq,4\), received \(2, 3, 5\)"):
        additive([np.zeros((2, 3, 5))] * 2)
    for options, message in (
        ({"score_mode": "dots"}, "^score_mode: expected one of dot, concat, received 'dots'$"),
        ({"dropout": 1.5}, "^dropout: expected a number from 0 to 1, received 1.5$"),
        ({"seed": "a"}, "^seed: "),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            Attention(**options)
    with pytest.raises(ValueError, match="does not fit .* inputs: expected query"):
        Attention()([Input((None, 4)), Input((None, 5))])
