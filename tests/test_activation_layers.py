"""Activation, ReLU, LeakyReLU, ELU, PReLU and Softmax, above all the softmax over time, under masks; and its op."""

import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask.kernels import _jit
from fastmask.layers import ELU, Activation, Dense, LeakyReLU, Masking, PReLU, ReLU, Softmax, deserialize, serialize
from fastmask.layers import activation as module
from fastmask.ops.activation import softmax_backward, softmax_forward
from fastmask.ragged import Ragged
from fastmask.reference import activation as reference
from helpers import assert_close, assert_doctests, assert_gradient, assert_layer_gradients, mask_cases

B, T, F = 3, 4, 2
LAYERS = {
    "tanh": lambda **o: Activation("tanh", **o),
    "gelu": lambda **o: Activation("gelu", **o),
    "exponential": lambda **o: Activation("exponential", **o),
    "softmax": lambda **o: Activation("softmax", **o),
    "relu": lambda **o: ReLU(**o),
    "relu6": lambda **o: ReLU(6, **o),
    "relu_all": lambda **o: ReLU(0.7, 0.1, 0.2, **o),
    "relu_slope": lambda **o: ReLU(negative_slope=0.3, **o),
    "relu_threshold": lambda **o: ReLU(threshold=0.4, **o),
    "leaky_relu": lambda **o: LeakyReLU(**o),
    "elu": lambda **o: ELU(**o),
    "elu_alpha": lambda **o: ELU(0.5, **o),
    "prelu": lambda **o: PReLU("random_normal", shared_axes=[1], **o),
    "softmax_layer": lambda **o: Softmax(**o),
    "softmax_time": lambda **o: Softmax(1, **o),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def random(*shape, seed=0, dtype=np.float64):
    """No number near a kink."""
    x = np.random.default_rng([seed, *shape]).standard_normal(shape)
    for kink in (0, 0.2, 0.4, 0.7):
        x = np.where(np.abs(x - kink) < 0.01, x + 0.05, x)
    return x.astype(dtype)


# ---- every layer ----------------------------------------------------------------------------------------------------
@each_layer
def test_gradients(make):
    assert_layer_gradients(make(dtype="float64"), random(B, T, F))
    for name in ("right", "holes", "empty_rows"):
        assert_layer_gradients(make(dtype="float64"), random(B, T, F), mask=mask_cases(B, T)[name])
    layer, r = make(dtype="float64"), Ragged(random(7, F), [0, 4, 4, 7])
    assert_layer_gradients(layer, r)
    assert_layer_gradients(layer, r, mask=np.array([1, 0, 1, 1, 0, 1, 1], bool))
    layer(r, training=True)
    assert layer.backward(None) is None


@each_layer
def test_masks_go_on_and_garbage_under_them_changes_nothing(make):
    mask = mask_cases(B, T)["holes"]
    x = random(B, T, F, dtype=np.float32)
    layer, d = make(), np.where(mask[..., None], random(B, T, F, seed=1), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = layer(np.where(mask[..., None], x, 0), mask=mask, training=True)
        dx = layer.backward(d)
        gradients = layer.gradients if layer.weights else []
        for garbage in (np.nan, np.inf, -np.inf, 3e38):
            y = layer(np.where(mask[..., None], x, np.float32(garbage)), mask=mask, training=True)
            np.testing.assert_array_equal(y.mask, mask)
            assert np.isfinite(y).all()
            np.testing.assert_array_equal(np.asarray(y)[mask], np.asarray(expected)[mask])
            np.testing.assert_array_equal(layer.backward(d), dx)
            for a, b in zip(gradients, layer.gradients if layer.weights else [], strict=True):
                np.testing.assert_array_equal(a, b)


@each_layer
def test_ragged_equals_padded(make):
    mask = mask_cases(B, T)["right"]
    x, layer = random(B, T, F, dtype=np.float32), make()
    r = Ragged.from_padded(x, mask)
    y = layer(r)
    np.testing.assert_array_equal(y.values, np.asarray(layer(x, mask=mask))[mask])
    np.testing.assert_array_equal(y.offsets, r.offsets)
    holes = np.array([True, False] * 10)[: len(r.values)]
    padded = mask.copy()
    padded[mask] = holes
    y = layer(r, mask=holes)
    np.testing.assert_array_equal(y.values[holes], np.asarray(layer(x, mask=padded))[padded])
    np.testing.assert_array_equal(y.mask, holes)


@each_layer
def test_shapes_configuration_and_empty_batches(make):
    layer = make()
    again = deserialize(serialize(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, None, F)) == (None, None, F)
    assert layer.mask_role() == ("uses, passes" if isinstance(layer, Softmax) else "passes")
    for shape in ((0, T, F), (B, 0, F)):
        y = layer(np.zeros(shape), mask=np.ones(shape[:2], bool), training=True)
        assert y.shape == shape and layer.backward(np.ones(shape)).shape == shape
    y = layer(layer_input := fm.Input((None, F)))
    assert y.shape == (None, None, F) and y.mask is None
    assert layer(Masking()(layer_input)).mask.shape == (None, None)


# ---- values ---------------------------------------------------------------------------------------------------------
def test_values_by_hand():
    x = np.array([[-10.0, -5.0, 0.0, 5.0, 10.0]])

    def values(layer):
        return layer(x).tolist()[0]

    assert values(ReLU(max_value=10, negative_slope=0.5)) == [-5, -2.5, 0, 5, 10]  # as Keras' docstring has it
    assert values(ReLU()) == [0, 0, 0, 5, 10] and values(ReLU(6)) == [0, 0, 0, 5, 6]
    assert values(ReLU(threshold=5)) == [0, 0, 0, 0, 10]
    assert values(ReLU(7, 0.1, 5)) == pytest.approx([-1.5, -1, -0.5, 0, 7])
    assert values(LeakyReLU()) == pytest.approx([-3, -1.5, 0, 5, 10])
    assert values(ELU(2)) == pytest.approx([2 * np.expm1(-10), 2 * np.expm1(-5), 0, 5, 10])
    assert values(PReLU(lambda shape, dtype: np.full(shape, 0.1))) == pytest.approx([-1, -0.5, 0, 5, 10])
    assert values(Activation("hard_tanh")) == [-1, -1, 0, 1, 1] and values(Activation(None)) == x[0].tolist()
    np.testing.assert_array_equal(np.isnan(ReLU(5, 0.1, 0.3)(np.array([[np.nan, 1.0]]))), [[True, False]])
    for layer in (ReLU(), ReLU(5.0), LeakyReLU(0.1), ELU(0.5)):
        assert layer(np.array([[-np.inf, np.inf]]))[0, 1] == (5 if layer.get_config().get("max_value") else np.inf)


def test_prelu_weight():
    layer = PReLU()
    assert not layer(-np.ones((2, 3, 4))).any() and layer.alpha.shape == (3, 4)
    layer = PReLU("ones", shared_axes=1)
    assert (layer(-np.ones((2, 3, 4))) == -1).all() and layer.alpha.shape == (1, 4)
    assert (layer(-np.ones((2, 7, 4))) == -1).all()
    y = layer(-np.ones((2, 3, 4)), training=True)
    layer.alpha.assign(np.zeros((1, 4)))  # gradients are those of the weights at the call
    assert (layer.backward(np.ones_like(y)) == 1).all()
    assert layer.gradients[0].tolist() == [[-6] * 4]
    config = PReLU(alpha_regularizer="l2", alpha_constraint="non_neg", shared_axes=[1]).get_config()
    layer = PReLU.from_config(config)
    layer(np.ones((1, 2, 3)))
    assert layer.get_config() == config and layer.alpha.regularizer is not None and layer.alpha.constraint is not None


# ---- softmax over time ----------------------------------------------------------------------------------------------
def test_softmax_over_time_by_hand():
    x = np.log([[[1.0], [2.0], [5.0], [7.0]]])
    y = Softmax(1, dtype="float64")(x, mask=[[1, 0, 1, 0]])
    assert_close(y[0, :, 0], [1 / 6, 0, 5 / 6, 0], k=4)
    np.testing.assert_array_equal(y.mask, [[1, 0, 1, 0]])
    np.testing.assert_array_equal(Softmax(1)(x, mask=np.zeros((1, 4))), np.zeros((1, 4, 1)))
    assert_close(Softmax(1, dtype="float64")(x)[0, :, 0], np.array([1, 2, 5, 7]) / 15, k=4)
    # scores (B,T): the axis of time is the last one
    y = Softmax(dtype="float64")(x[..., 0], mask=[[1, 0, 1, 0]])
    assert_close(y[0], [1 / 6, 0, 5 / 6, 0], k=4)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 20), (5, 6, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_steps_get_0_and_the_others_sum_to_1(shape, dtype):
    x = (10 * random(*shape)).astype(dtype)
    for mask in mask_cases(5, 6).values():
        y = np.asarray(Softmax(1, dtype=dtype)(x, mask=mask))
        assert not y[~mask].any()
        total = np.broadcast_to(mask.any(axis=1).reshape(5, *[1] * (x.ndim - 2)), y.sum(axis=1).shape)
        assert_close(y.sum(axis=1), total, dtype, k=8)
        assert_close(y, reference.softmax_forward(x.astype(np.float64), 1, mask), dtype, k=64)


@pytest.mark.parametrize("F", [1, 3, 20])
def test_padding_changes_no_bit_of_the_softmax_over_time(F):
    """Alone, padded on either side, with holes, Ragged, in another batch: the same bits."""
    rng = np.random.default_rng(0)
    rows = [random(n, F, seed=n, dtype=np.float32) for n in (1, 5, 8, 23)]
    layer = Softmax(1)
    alone = [layer(row[None])[0] for row in rows]
    x, mask = Ragged.from_list(rows).to_padded(np.nan)
    for pad in ((0, 0), (0, 9), (3, 0), (2, 5)):
        wide = np.pad(x, [(0, 0), pad, (0, 0)], constant_values=np.inf)
        wide_mask = np.pad(mask, [(0, 0), pad])
        y = np.asarray(layer(wide, mask=wide_mask))
        for b, row in enumerate(alone):
            np.testing.assert_array_equal(y[b, wide_mask[b]], row)
    at = np.sort(rng.permutation(40)[:23])
    holes = np.full((1, 40, F), np.nan, np.float32)
    holes[0, at] = rows[3]
    holes_mask = np.isin(np.arange(40), at)[None]
    np.testing.assert_array_equal(np.asarray(layer(holes, mask=holes_mask))[0, at], alone[3])
    for row, expected in zip(layer(Ragged.from_list(rows)), alone, strict=True):
        np.testing.assert_array_equal(row, expected)
    if F == 1:
        scores = layer(x[..., 0], mask=mask)
        np.testing.assert_array_equal(np.asarray(scores)[mask], np.concatenate(alone)[:, 0])
        np.testing.assert_array_equal(Softmax()(rows[3][None, :, 0])[0], alone[3][:, 0])


def test_a_mask_that_does_not_reach_the_axis():
    """(B,T) with axis=-1 of (B,T,F), where Keras raises: each step by itself."""
    x, mask = random(B, T, F), mask_cases(B, T)["holes"]
    y = Softmax(dtype="float64")(x, mask=mask)
    np.testing.assert_array_equal(y, Activation("softmax", dtype="float64")(x, mask=mask))
    np.testing.assert_array_equal(y, Softmax(2, dtype="float64")(x))
    np.testing.assert_array_equal(y.mask, mask)


def test_a_mask_of_classes():
    x, mask = random(B, T, 5), np.random.default_rng(0).random((B, T, 5)) < 0.5
    mask[0, 0] = False
    layer = Softmax(dtype="float64")
    y = layer(np.where(mask, x, np.nan), mask=mask)
    assert_close(y, reference.softmax_forward(x, -1, mask), k=16)
    np.testing.assert_array_equal(y.mask, mask.any(axis=-1))  # a step with a class left is valid
    assert not y.mask[0, 0] and not np.asarray(y)[0, 0].any()
    for axis in (1, 2):
        assert_layer_gradients(Softmax(axis, dtype="float64"), x, mask=mask)
    assert_close(Softmax(1, dtype="float64")(x, mask=mask), reference.softmax_forward(x, 1, mask), k=16)


def test_softmax_over_other_axes():
    x = random(2, 3, 4, 5)
    for axis in (1, 2, 3, -1, -2, -3):
        assert_close(Softmax(axis, dtype="float64")(x), reference.softmax_forward(x, axis), k=16)
    mask = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    for axis in (1, 2):
        layer = Softmax(axis, dtype="float64")
        assert_close(layer(x, mask=mask), reference.softmax_forward(x, axis, mask), k=16)
        assert_layer_gradients(layer, x, mask=mask)


# ---- the op ---------------------------------------------------------------------------------------------------------
def test_reference_softmax_by_differences():
    x, dy, mask = random(3, 4, 2), random(3, 4, 2, seed=1), mask_cases(3, 4)["empty_rows"]
    for axis, m in ((1, mask), (2, None), (1, None)):
        dx = reference.softmax_backward(reference.softmax_forward(x, axis, m), dy, axis, m)
        assert_gradient(lambda a=axis, m=m: np.sum(reference.softmax_forward(x, a, m) * dy), x, dx)
    y = reference.softmax_forward(np.where(mask[..., None], x, np.nan), 1, mask)
    assert_close(y, reference.softmax_forward(x, 1, mask), k=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("F", [1, 3, 17])
def test_op_against_the_reference(F, dtype):
    x, dy = random(6, 9, F, dtype=dtype), random(6, 9, F, seed=1, dtype=dtype)
    for scale in (1, 1e4):
        for mask in (None, *mask_cases(6, 9).values()):
            y = softmax_forward(x * dtype(scale), 1, mask)
            exact = reference.softmax_forward((x * dtype(scale)).astype(np.float64), 1, mask)
            assert_close(y, exact, dtype, k=16)
            hidden = dy if mask is None else np.where(mask[..., None], dy, dtype(np.nan))
            expected = reference.softmax_backward(exact, dy.astype(np.float64), 1, mask)
            assert_close(softmax_backward(y, hidden, 1, mask), expected, dtype, k=64)


def test_op_bits_are_those_of_any_number_of_threads():
    x, mask = random(300, 50, 7), np.random.default_rng(0).random((300, 50)) < 0.5
    results = []
    threads = _jit.get_num_threads()
    try:
        for n in (1, 4):
            fm.set_num_threads(n)
            y = softmax_forward(x, 1, mask)
            results.append((y, softmax_backward(y, x, 1, mask)))
    finally:
        fm.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_and_infinity_at_valid_steps():
    x = np.zeros((3, 4, 2))
    x[0, 1, 0], x[1, 2, 1] = np.nan, -np.inf
    for values in (x, x[..., :1]):
        y = softmax_forward(values, 1)
        assert np.isnan(y[0, :, 0]).all() and not np.isnan(np.delete(y, 0, 0)).any()
    assert_close(softmax_forward(x, 1)[1, :, 1], [1 / 3, 1 / 3, 0, 1 / 3], k=4)


OP_ERRORS = {
    "axis": (lambda: softmax_forward(np.ones((2, 3)), 0), ValueError, "axis: expected 1..1 or -1..-1"),
    "axis_high": (lambda: softmax_forward(np.ones((2, 3)), 2), ValueError, "axis: expected"),
    "mask": (
        lambda: softmax_forward(np.ones((2, 3, 4)), 2, np.ones((2, 3))),
        ValueError,
        r"mask: expected the axes of x \(2, 3, 4\) up to 2 at least, received \(2, 3\)",
    ),
    "mask_shape": (lambda: softmax_forward(np.ones((2, 3)), 1, np.ones((2, 4))), ValueError, r"mask: expected shape"),
    "ragged_mask": (
        lambda: softmax_forward(Ragged(np.ones((3, 2)), [0, 3]), 2, np.ones(3)),
        ValueError,
        "mask: expected None for axis 2",
    ),
    "dtype": (lambda: softmax_forward(np.ones((2, 3), int)), TypeError, "x: expected dtype float32 or float64"),
    "dy": (
        lambda: softmax_backward(np.ones((2, 3)), np.ones((2, 4))),
        ValueError,
        r"dy: expected shape as y = \(2, 3\)",
    ),
    "dy_dtype": (
        lambda: softmax_backward(np.ones((2, 3)), np.ones((2, 3), "f")),
        TypeError,
        "dy: expected dtype float64",
    ),
    "dy_ragged": (
        lambda: softmax_backward(Ragged(np.ones(3), [0, 1, 3]), Ragged(np.ones(3), [0, 2, 3])),
        ValueError,
        "dy: expected a Ragged with the row lengths of y",
    ),
}


@pytest.mark.parametrize("case", OP_ERRORS)
def test_op_errors(case):
    act, error, message = OP_ERRORS[case]
    with pytest.raises(error, match=message):
        act()


# ---- as the end of a model ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "end, loss",
    [
        (lambda: [Softmax()], "categorical_crossentropy"),
        (lambda: [Activation("softmax")], "categorical_crossentropy"),
        (lambda: [Activation("sigmoid")], "binary_crossentropy"),
    ],
)
def test_the_loss_works_on_the_logits(end, loss):
    """As with Dense(activation=...): for hopeless logits the loss is not clipped and the gradient does not vanish."""
    x = np.array([[100.0, 0.0]], np.float32)
    y = np.array([[0.0, 1.0]], np.float32)
    models = []
    for tail in ([], end()):
        activation = None if tail else ("sigmoid" if loss == "binary_crossentropy" else "softmax")
        dense = Dense(2, activation, kernel_initializer="identity")
        model = fm.Sequential([fm.Input((2,)), dense, *tail])
        model.compile(fm.optimizers.SGD(0.1), loss)
        losses = [model.evaluate(x, y), model.train_on_batch(x, y)]
        models.append((losses, dense.kernel.numpy()))
    assert models[0][0] == models[1][0] and models[0][0][0] > 40
    np.testing.assert_array_equal(models[0][1], models[1][1])


def test_logits_of_a_masked_softmax():
    """The loss on them is that on the probabilities: what is left out has the probability 0 and no gradient."""
    x, mask = random(3, 5), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    target = np.array([4, 3, 0])
    layer = Softmax(dtype="float64")
    y, _, logits = layer._run_with_logits(x, mask)
    np.testing.assert_array_equal(y, layer(x, mask=mask))
    loss = fm.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    value, grad = loss.value_and_grad(target, logits)
    assert_close(value, -np.log(np.asarray(y)[np.arange(3), target]).sum(), k=64)
    assert not grad[~mask].any() and grad[:2][mask[:2]].all()


# ---- bad input ------------------------------------------------------------------------------------------------------
BAD = {
    "function": (lambda: Activation(np.tanh), ValueError, "activation: expected one of"),
    "slope": (lambda: ReLU(negative_slope=-1), ValueError, "negative_slope: expected a finite number of 0 or more"),
    "max": (lambda: ReLU(-1), ValueError, "max_value: expected a finite number of 0 or more, received -1"),
    "threshold": (lambda: ReLU(threshold=None), ValueError, "threshold: expected a finite number"),
    "leaky": (lambda: LeakyReLU(None), ValueError, "negative_slope: expected"),
    "alpha": (lambda: ELU("x"), ValueError, "alpha: expected a finite number, received 'x'"),
    "shared": (lambda: PReLU(shared_axes=[0]), ValueError, "shared_axes: expected a whole number of 1 or more"),
    "prelu_ragged": (
        lambda: PReLU(name="p")(Ragged(np.ones((3, 2)), [0, 3])),
        ValueError,
        r"p: inputs: expected known sizes .* \(1, None, 2\); sequences of any length need shared_axes=\[1\]",
    ),
    "prelu_shape": (
        lambda: (p := PReLU(name="p"))(np.ones((1, 2))) is p(np.ones((1, 3))),
        ValueError,
        r"p: inputs: expected shape \(None, 2\), received \(1, 3\)",
    ),
    "axis": (lambda: Softmax([1, 2]), ValueError, r"axis: expected a whole number, received \[1, 2\]"),
    "axis_0": (lambda: Softmax(0)(np.ones((2, 3))), ValueError, "axis: expected 1..1 or -1..-1"),
    "axis_rank": (lambda: Softmax(2, name="s")(np.ones((2, 3))), ValueError, "s: axis: expected 1..1 or -1..-1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()


def test_examples_in_docstrings():
    assert_doctests(module)
