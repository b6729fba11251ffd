"""Add, Subtract, Multiply, Average, Maximum, Minimum, Concatenate and Dot: numbers, gradients, masks, broadcasting."""

import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask.layers import (
    Add,
    Average,
    Concatenate,
    Dense,
    Dot,
    MaskDroppedWarning,
    Masking,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    deserialize,
    merging,
    serialize,
)
from fastmask.ragged import Ragged
from helpers import assert_close, assert_doctests, assert_layer_gradients, mask_cases

B, T, F = 3, 4, 2
ELEMENTWISE = {
    Add: lambda *x: sum(x),
    Average: lambda *x: sum(x) / len(x),
    Subtract: lambda a, b: a - b,
    Multiply: lambda *x: np.prod(np.broadcast_arrays(*x), axis=0),
    Maximum: lambda *x: np.max(np.broadcast_arrays(*x), axis=0),
    Minimum: lambda *x: np.min(np.broadcast_arrays(*x), axis=0),
}
elementwise = pytest.mark.parametrize("cls", ELEMENTWISE)
SHAPES = {  # that go together, and the shapes in which NumPy broadcasts them
    "same": ([(B, T, F), (B, T, F)], None),
    "vectors": ([(B, F), (B, F)], None),
    "one_step": ([(B, T, F), (B, 1, F)], None),
    "one_feature": ([(B, T, 1), (B, T, F)], None),
    "both": ([(B, 1, F), (B, T, 1)], None),
    "vector_last": ([(B, T, F), (B, F)], [(B, T, F), (B, 1, F)]),
    "vector_first": ([(B, F), (B, T, F)], [(B, 1, F), (B, T, F)]),
    "row": ([(B,), (B, T, F)], [(B, 1, 1), (B, T, F)]),
}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def arrays(shapes):
    return [random(*shape, seed=i) for i, shape in enumerate(shapes)]


def masks(n, *names):
    """n masks, of different patterns; None where the name is None."""
    names = names or ("right", "holes", "empty_rows")[:n]
    return [None if name is None else mask_cases(B, T, seed=i)[name] for i, name in enumerate(names)]


# ---- element by element ---------------------------------------------------------------------------------------------
@elementwise
@pytest.mark.parametrize("shapes, as_broadcast", SHAPES.values(), ids=SHAPES)
def test_values_gradients_and_shapes(cls, shapes, as_broadcast):
    xs, layer = arrays(shapes), cls(dtype="float64")
    expected = ELEMENTWISE[cls](*(x.reshape(s) for x, s in zip(xs, as_broadcast or shapes, strict=True)))
    assert_close(layer(xs), expected, k=4)
    assert_layer_gradients(layer, xs)
    assert layer.compute_output_shape(shapes) == expected.shape
    assert layer.compute_output_shape([(None, *s[1:]) for s in shapes]) == (None, *expected.shape[1:])
    layer(xs, training=True)
    assert layer.backward(None) == [None, None]


@pytest.mark.parametrize("cls", [c for c in ELEMENTWISE if c is not Subtract])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_any_number_of_inputs(cls, n):
    xs, layer = arrays([(B, T, F)] * n), cls(dtype="float64")
    assert_close(layer(xs), ELEMENTWISE[cls](*xs), k=8)
    assert_layer_gradients(layer, xs)
    assert_layer_gradients(layer, xs, mask=list(mask_cases(B, T).values())[:n])


def test_multiply_with_zeros_has_exact_gradients():
    xs = [np.array([[0.0, 0.0, 2.0]]), np.array([[3.0, 0.0, 0.0]]), np.array([[5.0, 7.0, 4.0]])]
    layer = Multiply(dtype="float64")
    layer(xs, training=True)
    a, b, c = layer.backward(np.ones((1, 3)))
    assert (a.tolist(), b.tolist(), c.tolist()) == ([[15, 0, 0]], [[0, 0, 8]], [[0, 0, 0]])


def test_of_equals_the_first_gets_the_gradient():
    for cls in (Maximum, Minimum):
        layer = cls(dtype="float64")
        layer([np.ones((1, 2))] * 3, training=True)
        gradients = layer.backward(np.ones((1, 2)))
        assert [g.tolist() for g in gradients] == [[[1, 1]], [[0, 0]], [[0, 0]]]


@elementwise
def test_masks_of_all_inputs(cls):
    n = 2 if cls is Subtract else 3
    xs, ms, layer = arrays([(B, T, F)] * n), masks(n), cls(dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(xs, mask=ms)
    np.testing.assert_array_equal(y.mask, np.logical_or.reduce(ms))
    assert_close(y, masked_values(cls, xs, ms), k=8)
    assert_layer_gradients(layer, xs, mask=ms)
    garbage = [np.where(m[..., None], x, bad) for x, m, bad in zip(xs, ms, (np.nan, np.inf, -np.inf), strict=False)]
    zeros = [np.where(m[..., None], x, 0) for x, m in zip(xs, ms, strict=True)]
    results = []
    for inputs in (zeros, garbage):
        outputs = layer(inputs, mask=ms, training=True)
        results.append([np.asarray(outputs), *layer.backward(np.ones((B, T, F)))])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    one_step = layer([xs[0], random(B, 1, F)], mask=[ms[0], np.array([[True], [False], [False]])])
    np.testing.assert_array_equal(one_step.mask, ms[0] | np.array([[True], [False], [False]]))


def masked_values(cls, xs, ms):
    """Keras' rules, element by element."""
    out = np.empty(xs[0].shape)
    for index in np.ndindex(*out.shape):
        shown = [x[index] for x, m in zip(xs, ms, strict=True) if m is None or m[index[:2]]]
        if cls is Multiply:
            out[index] = np.prod(shown) if shown or any(m is None for m in ms) else 0
        elif cls in (Maximum, Minimum):
            out[index] = ELEMENTWISE[cls](*(shown or [xs[0][index]]))
        else:
            out[index] = ELEMENTWISE[cls](*(x[index] for x in xs))
    return out


@elementwise
def test_a_mask_beside_unmasked_inputs_is_dropped_with_a_warning(cls):
    xs, layer = arrays([(B, T, F)] * 2), cls(dtype="float64")
    for ms in (masks(2, "right", None), masks(2, None, "holes")):
        with pytest.warns(MaskDroppedWarning, match=f"^{layer.name}: {cls.__name__} got inputs with a mask and others"):
            y = layer(xs, mask=ms)
        assert type(y) is np.ndarray
        assert_close(y, masked_values(cls, xs, ms), k=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MaskDroppedWarning)
            assert_layer_gradients(layer, xs, mask=ms)


@elementwise
def test_a_vector_has_no_steps_to_mask(cls):
    """(B,T,F) with (B,F): the mask of the sequence goes on (Keras drops it)."""
    x, vector, mask, layer = random(B, T, F), random(B, F), masks(1)[0], cls(dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer([x, vector], mask=[mask, None])
        np.testing.assert_array_equal(y.mask, mask)
        np.testing.assert_array_equal(layer([vector, x], mask=[None, mask]).mask, mask)
    assert_close(np.asarray(y)[mask], ELEMENTWISE[cls](x, vector[:, None])[mask], k=4)
    assert_layer_gradients(layer, [x, vector], mask=[mask, None])
    with pytest.warns(MaskDroppedWarning, match="an input of lower rank with a mask, which is lost"):
        y = layer([x, vector], mask=[mask, np.array([True, False, True])])
    np.testing.assert_array_equal(y.mask, mask)


@elementwise
def test_ragged_equals_padded(cls):
    xs, mask = arrays([(B, T, F)] * 2), mask_cases(B, T)["right"]
    rs, layer = [Ragged.from_padded(x, mask) for x in xs], cls(dtype="float64")
    y = layer(rs)
    np.testing.assert_array_equal(y.values, np.asarray(layer(xs, mask=[mask, mask]))[mask])
    np.testing.assert_array_equal(y.offsets, rs[0].offsets)
    holes = [np.random.default_rng(i).random(len(y.values)) < 0.5 for i in range(2)]
    y = layer(rs, mask=holes)
    np.testing.assert_array_equal(y.mask, holes[0] | holes[1])
    assert_layer_gradients(layer, rs, mask=holes)
    assert_layer_gradients(layer, [rs[0], rs[1].with_values(rs[1].values[:, :1].copy())])


@elementwise
def test_in_a_model_and_configuration(cls):
    a, b = Masking()(fm.Input((None, F))), fm.Input((None, F))
    layer = cls()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer([a, Masking()(b)])
        assert y.shape == (None, None, F) and y.mask.shape == (None, None)
        assert cls()([a, fm.layers.GRU(F)(a)]).mask.shape == (None, None)
        assert cls()([Masking()(fm.Input((5, F))), a]).mask.shape[0] is None  # not both of the sizes tried out
    with pytest.warns(MaskDroppedWarning):
        assert cls()([a, b]).mask is None
    assert type(deserialize(serialize(layer))) is cls and layer.mask_role() == "changes"
    assert deserialize(serialize(layer)).get_config() == layer.get_config()


def test_gradients_reach_both_branches_of_a_model():
    x, mask = random(B, T, F).astype(np.float32), mask_cases(B, T)["right"]
    inputs = fm.Input((None, F))
    masked = Masking()(inputs)
    left, right = Dense(2), Dense(2)
    model = fm.Model(inputs, Add()([left(masked), Multiply()([right(masked), masked])]))
    model.compile("sgd", "mse")
    before = [w.numpy() for w in model.weights]
    model.train_on_batch(np.where(mask[..., None], x, 0), np.ones((B, T, 2)))
    assert all((w.numpy() != b).any() for w, b in zip(model.weights, before, strict=True))


# ---- concatenate ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
def test_concatenate(axis):
    shapes = [(B, T, 2), (B, T, 3), (B, T, 1)] if axis in (-1, 2) else [(B, 2, F), (B, 5, F), (B, 0, F)]
    xs, layer = arrays(shapes), Concatenate(axis, dtype="float64")
    np.testing.assert_array_equal(layer(xs), np.concatenate(xs, axis=axis))
    assert_layer_gradients(layer, xs)
    assert layer.compute_output_shape(shapes) == np.concatenate(xs, axis=axis).shape
    unknown = [(None, *(None if k == axis % 3 else n for k, n in enumerate(s[1:], 1))) for s in shapes]
    assert layer.compute_output_shape(unknown) == (
        None, *(None if k == axis % 3 else n for k, n in enumerate(shapes[0][1:], 1))
    )  # fmt: skip
    assert deserialize(serialize(layer)).get_config() == layer.get_config()
    np.testing.assert_array_equal(layer(xs[:1]), xs[0])
    layer(xs, training=True)
    assert layer.backward(None) == [None] * 3


def test_concatenate_keeps_integers():
    ids = np.full((2, 3), 2**24 + 1)
    assert Concatenate()([ids, ids]).tolist() == [[2**24 + 1] * 6] * 2
    assert Concatenate()([ids, np.ones((2, 1))]).dtype == np.float32


def test_concatenate_masks_along_features():
    a, b = arrays([(B, T, 2), (B, T, 3)])
    layer, (ma, mb) = Concatenate(dtype="float64"), masks(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(layer([a, b], mask=[ma, mb]).mask, ma | mb)
    assert_layer_gradients(layer, [a, b], mask=[ma, mb])
    y = layer([np.where(ma[..., None], a, np.nan), b], mask=[ma, mb])
    assert np.isfinite(y).all()  # the step may be valid in the other input
    for ms in ([ma, None], [None, mb]):
        with pytest.warns(MaskDroppedWarning, match="Concatenate got inputs with a mask and others without"):
            assert type(layer([a, b], mask=ms)) is np.ndarray
    x = Masking()(fm.Input((None, 2)))
    assert Concatenate()([x, x]).mask.shape == (None, None)
    with pytest.warns(MaskDroppedWarning):
        assert Concatenate()([x, fm.Input((None, 2))]).mask is None


def test_concatenate_masks_along_time():
    a, b, c = arrays([(B, T, F), (B, 2, F), (B, 1, F)])
    layer, ma, mc = Concatenate(axis=1, dtype="float64"), masks(1)[0], np.array([[True], [False], [True]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer([a, b, c], mask=[ma, None, mc])
    np.testing.assert_array_equal(y.mask, np.concatenate([ma, np.ones((B, 2), bool), mc], axis=1))
    assert_layer_gradients(layer, [a, b, c], mask=[ma, None, mc])
    assert type(layer([a, b])) is np.ndarray
    x = Masking()(fm.Input((None, F)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Concatenate(1)([x, fm.Input((3, F))]).mask.shape == (None, None)
        assert Concatenate(1)([Masking()(fm.Input((5, F))), fm.Input((3, F))]).mask.shape == (None, 8)
        scores = Concatenate()([random(B, T), random(B, 2)], mask=[ma, None])  # (B,T): the last axis is time
    np.testing.assert_array_equal(scores.mask, np.concatenate([ma, np.ones((B, 2), bool)], axis=1))


def test_concatenate_ragged():
    mask = mask_cases(B, T)["right"]
    a, b = (Ragged.from_padded(random(B, T, n), mask) for n in (2, 3))
    layer = Concatenate(dtype="float64")
    y = layer([a, b])
    np.testing.assert_array_equal(y.values, np.concatenate([a.values, b.values], axis=1))
    np.testing.assert_array_equal(y.offsets, a.offsets)
    holes = np.arange(len(a.values)) % 2 == 0
    np.testing.assert_array_equal(layer([a, b], mask=[holes, ~holes]).mask, np.ones(len(holes), bool))
    assert_layer_gradients(layer, [a, b])

    rows = [Ragged.from_list([random(n, F, seed=10 * i + n) for n in lengths]) for i, lengths in enumerate(LENGTHS)]
    layer = Concatenate(axis=1, dtype="float64")
    y = layer(rows)
    for i in range(B):
        np.testing.assert_array_equal(y[i], np.concatenate([r[i] for r in rows]))
    some = np.arange(len(rows[1].values)) % 2 == 0
    y = layer(rows, mask=[None, some, None])
    marks = [np.ones(len(rows[0].values), bool), some, np.ones(len(rows[2].values), bool)]
    marks = [r.with_values(m) for r, m in zip(rows, marks, strict=True)]
    expected = np.concatenate([np.concatenate([m[i] for m in marks]) for i in range(B)])
    np.testing.assert_array_equal(y.mask, expected)
    assert_layer_gradients(layer, rows, mask=[None, some, None])


LENGTHS = [(2, 0, 3), (0, 0, 2), (1, 2, 0)]


# ---- dot ------------------------------------------------------------------------------------------------------------
DOTS = {
    "vectors": ((B, F), (B, F), 1, "bf,bf->b"),
    "scores": ((B, T, F), (B, F), (2, 1), "btf,bf->bt"),
    "vector_first": ((B, F), (B, T, F), (1, 2), "bf,btf->bt"),
    "attention": ((B, T, F), (B, 5, F), -1, "btf,bsf->bts"),
    "over_time": ((B, T, F), (B, T, 3), 1, "btf,btg->bfg"),
    "weights": ((B, T), (B, T, F), 1, "bt,btf->bf"),
    "mixed": ((B, T, F), (B, 5, T), (1, 2), "btf,bst->bfs"),
    "rank_4": ((B, T, 3, F), (B, F, 5), (3, 1), "btgf,bfs->btgs"),
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("first, other, axes, rule", DOTS.values(), ids=DOTS)
def test_dot(first, other, axes, rule, normalize):
    a, b = (x + 3 * normalize for x in arrays([first, other]))  # differences are no good near the length 0
    layer = Dot(axes, normalize=normalize, dtype="float64")
    y = layer([a, b])
    i, j = layer._axes([a.ndim, b.ndim])
    u, v = a, b
    if normalize:
        u, v = a / np.linalg.norm(a, axis=i, keepdims=True), b / np.linalg.norm(b, axis=j, keepdims=True)
    expected = np.einsum(rule, u, v)
    expected = expected[:, None] if expected.ndim == 1 else expected
    assert_close(y, expected, k=16)
    assert layer.compute_output_shape([first, other]) == expected.shape
    assert_layer_gradients(layer, [a, b])
    assert deserialize(serialize(layer)).get_config() == layer.get_config()
    empty = layer([a[:0], b[:0]], training=True)
    assert empty.shape == (0, *expected.shape[1:])
    assert [g.shape for g in layer.backward(empty)] == [a[:0].shape, b[:0].shape]


def test_dot_over_masked_steps_counts_the_valid_ones():
    a, b = arrays([(B, T, F), (B, T, 3)])
    ma, mb = masks(2)
    layer = Dot(1, dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer([np.where(ma[..., None], a, np.inf), np.where(mb[..., None], b, 9)], mask=[ma, mb])
    assert type(y) is np.ndarray  # used up
    both = (ma & mb)[..., None]
    assert_close(y, np.einsum("btf,btg->bfg", np.where(both, a, 0), np.where(both, b, 0)), k=16)
    assert_layer_gradients(layer, [a, b], mask=[ma, mb])
    assert_layer_gradients(Dot(1, normalize=True, dtype="float64"), [a, b], mask=[mb, None])
    x = Masking()(fm.Input((None, F)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Dot(1)([x, x]).mask is None


def test_dot_of_features_drops_the_mask_of_the_steps_with_a_warning():
    a, b = arrays([(B, T, F), (B, F)])
    layer = Dot((2, 1), dtype="float64")
    with pytest.warns(MaskDroppedWarning, match=f"{layer.name}: Dot does not sum over the steps.*Pass mask="):
        y = layer([np.where(masks(1)[0][..., None], a, np.nan), b], mask=[masks(1)[0], None])
    assert type(y) is np.ndarray and np.isfinite(y).all()
    with pytest.warns(MaskDroppedWarning):
        assert Dot((2, 1))([Masking()(fm.Input((None, F))), fm.Input((F,))]).mask is None


@pytest.mark.parametrize("normalize", [False, True])
def test_padding_changes_no_bit_of_a_dot_over_time(normalize):
    layer = Dot(1, normalize=normalize)
    for n in (1, 3, 17, 40):
        a, b = (x.astype(np.float32) for x in arrays([(1, n, 5), (1, n, 1)]))
        alone = layer([a, b])
        for before, behind in ((0, 9), (5, 0), (3, 30)):
            pad, mask = [(0, 0), (before, behind), (0, 0)], np.pad(np.ones((1, n), bool), [(0, 0), (before, behind)])
            padded = [np.pad(x, pad, constant_values=np.nan) for x in (a, b)]
            np.testing.assert_array_equal(layer(padded, mask=[mask, mask]), alone)


def test_dot_of_nothing():
    y = Dot(1)([np.zeros((2, 0, 3)), np.zeros((2, 0, 4))])
    np.testing.assert_array_equal(y, np.zeros((2, 3, 4)))
    assert Dot(2, normalize=True)([np.zeros((2, 0, 3)), np.ones((2, 4, 3))]).shape == (2, 0, 4)
    layer = Dot(1, normalize=True, dtype="float64")
    layer([np.zeros((1, 2)), np.ones((1, 2))], training=True)
    assert np.isfinite(layer.backward(np.ones((1, 1)))[0]).all()  # a vector of length 0


# ---- bad input ------------------------------------------------------------------------------------------------------
X = np.zeros((B, T, F))
R = Ragged(np.zeros((3, F)), [0, 1, 3])
BAD = {
    "one_array": (
        lambda: Add(name="a")(X),
        ValueError,
        r"a: inputs: expected a list of at least 1 inputs, received one of shape \(None, 4, 2\)",
    ),
    "one_array_later": (lambda: _called(Add())(X), ValueError, "expected a list of at least 1 inputs"),
    "subtract": (lambda: Subtract()([X, X, X]), ValueError, "expected a list of 2 inputs, received 3"),
    "dot": (lambda: Dot(1)([X]), ValueError, "expected a list of 2 inputs, received 1"),
    "shapes": (
        lambda: Add(name="a")([X, X[:, :3]]),
        ValueError,
        r"a: inputs: expected inputs of one shape, .*, received shapes \(None, 4, 2\) and \(None, 3, 2\)",
    ),
    "shapes_later": (
        lambda: _called(Add())([X, X[:, :3]]),
        ValueError,
        r"received shapes \(3, 4, 2\) and \(3, 3, 2\)",
    ),
    "batch": (lambda: _called(Add())([X, X[:1]]), ValueError, r"received shapes \(3, 4, 2\) and \(1, 4, 2\)"),
    "concatenate": (
        lambda: Concatenate(name="c")([X, X[:, :3]]),
        ValueError,
        r"c: inputs: expected the same shape but along axis 2, received shapes \(None, 4, 2\) and \(None, 3, 2\)",
    ),
    "concatenate_rank": (lambda: Concatenate()([X, X[:, 0]]), ValueError, "expected the same shape but along axis 2"),
    "axis": (lambda: Concatenate(0)([X, X]), ValueError, "axis: expected 1..2 or -2..-1 for rank 3, received 0"),
    "axis_type": (lambda: Concatenate(None), ValueError, "axis: expected a whole number, received None"),
    "axis_rank": (lambda: Concatenate(3, name="c")([X, X]), ValueError, "c: axis: expected 1..2 or -2..-1 for rank 3"),
    "axes": (lambda: Dot((1, 2, 3)), ValueError, r"axes: expected a whole number or two of them, received \(1, 2, 3\)"),
    "axes_type": (lambda: Dot(1.5), ValueError, "axes: expected a whole number"),
    "axes_batch": (lambda: Dot(0)([X, X]), ValueError, "axes: expected 1..2 or -2..-1"),
    "axes_size": (
        lambda: Dot((1, 2), name="d")([X, X]),
        ValueError,
        "d: inputs: expected the same B, and axis 1 of the first as long as axis 2 of the second, received shapes",
    ),
    "ragged_and_array": (lambda: Add()([R, X[:2]]), TypeError, "expected arrays only or Ragged only, received both"),
    "ragged_rows": (
        lambda: Multiply()([R, Ragged(R.values, [0, 2, 3])]),
        ValueError,
        "expected Ragged of one rank and the same row lengths",
    ),
    "concatenate_both": (lambda: Concatenate(1)([R, X[:2]]), TypeError, "arrays only or Ragged only"),
    "concatenate_rows": (
        lambda: Concatenate()([R, Ragged(R.values, [0, 2, 3])]),
        ValueError,
        "expected Ragged of one rank and the same row lengths",
    ),
    "dot_ragged": (lambda: Dot(1)([R, R]), TypeError, "Dot has no meaning for a Ragged"),
    "masks": (lambda: Add()([X, X], mask=np.ones((B, T))), ValueError, "mask: expected a list of 2 masks"),
}


def _called(layer):
    layer([X, X])
    return layer


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()


def test_shapes_that_do_not_fit_are_found_when_a_model_is_built():
    with pytest.raises(ValueError, match=r"Add .*does not fit .*\(None, 4, 2\) and \(None, 4, 3\)"):
        Add()([fm.Input((4, 2)), fm.Input((4, 3))])


def test_examples_in_docstrings():
    assert_doctests(merging)
