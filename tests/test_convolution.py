"""Conv1D: the op against its reference and differences, bits, the mask of the outputs, and the layer."""

import copy
import inspect
import itertools

import numpy as np
import pytest

import fastmask.ops.convolution as convolution
from cases import DTYPES, assert_same_bits, awkward, launched, launches
from fastmask import Input, Sequential
from fastmask.layers import LSTM, Conv1D, Dense, Masking, deserialize, serialize
from fastmask.ops.convolution import conv1d, conv1d_backward, conv1d_forward, conv1d_length, conv1d_mask, conv1d_pack
from fastmask.optimizers import Adam
from fastmask.ragged import Ragged
from fastmask.reference import convolution as reference
from fastmask.testing import check_layer
from helpers import assert_close, assert_doctests, assert_gradient, mask_cases

# (B,T,F,C): off the lane grid, ones, more steps than a block has rows, wide
SIZES = [(3, 6, 3, 5), (1, 1, 1, 1), (2, 150, 2, 17), (2, 9, 17, 70)]
EMPTY = [(0, 5, 2, 3), (2, 0, 2, 3), (2, 5, 0, 3)]
PADDINGS = ("valid", "same", "causal")
WINDOWS = [  # kernel_size, strides, dilation_rate
    (1, 1, 1),
    (3, 1, 1),
    (4, 1, 1),
    (3, 2, 1),
    (2, 3, 1),
    (3, 1, 2),
    (2, 1, 3),
]  # kernel_size, strides, dilation
K = 32  # eps of the largest value


class Problem:
    def __init__(self, size=(3, 6, 3, 5), kernel_size=3, dtype=np.float64, seed=0):
        B, T, F, C = size
        rng = np.random.default_rng([seed, kernel_size, *size])

        def normal(*shape):
            return rng.standard_normal(shape).astype(dtype)

        self.dtype, self.rng, self.normal = np.dtype(dtype), rng, normal
        self.x, self.kernel, self.bias = normal(B, T, F), normal(kernel_size, F, C), normal(C)

    def d_outputs(self, shape):
        return np.random.default_rng(9).standard_normal(shape).astype(self.dtype)

    def train(self, use_bias=True, need_x=True, from_logits=False, **options):
        """Name -> array of forward and backward."""
        y, tape = conv1d_forward(self.x, self.kernel, self.bias if use_bias else None, **options)
        gradients = conv1d_backward(tape, self.d_outputs(y.shape), need_x=need_x, from_logits=from_logits)
        return {"y": y, **gradients._asdict()}

    def reference(self, use_bias=True, from_logits=False, **options):
        x, kernel, bias = (a.astype(np.float64) for a in (self.x, self.kernel, self.bias))
        y, tape = reference.conv1d_forward(x, kernel, bias if use_bias else None, **options)
        gradients = reference.conv1d_backward(tape, self.d_outputs(y.shape), from_logits=from_logits)
        return {"y": y, **gradients._asdict()}

    def check(self, **options):
        """Against the reference; no argument changes."""
        before = [a.tobytes() for a in (self.x, self.kernel, self.bias)]
        actual, desired = self.train(**options), self.reference(**options)
        for name, d in desired.items():
            a = actual[name]
            if d is None:
                assert a is None
                continue
            assert a.dtype == self.dtype
            assert_close(a, d, self.dtype, k=0, atol=K * np.finfo(self.dtype).eps * np.abs(d).max(initial=1.0))
        assert before == [a.tobytes() for a in (self.x, self.kernel, self.bias)]
        return actual


def options_of(window, padding):
    return dict(strides=window[1], dilation_rate=window[2], padding=padding)


# ---- values and gradients of the op ---------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("window", WINDOWS)
def test_against_the_reference(window, padding, dtype):
    for size in [*SIZES, *EMPTY]:
        problem = Problem(size, window[0], dtype)
        problem.check(**options_of(window, padding), activation="tanh")
        mask = problem.rng.random(size[:2]) < 0.7
        problem.check(**options_of(window, padding), mask=mask, use_bias=False)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("window", WINDOWS)
def test_masks(window, padding):
    for mask in mask_cases(4, 9).values():
        found = Problem((4, 9, 2, 3), window[0]).check(**options_of(window, padding), mask=mask)
        assert not found["x"][~mask].any()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("window", [(3, 1, 1), (3, 2, 1), (2, 1, 2)])
def test_gradients_by_differences(window, padding):
    problem = Problem((2, 6, 2, 3), window[0])
    options = dict(options_of(window, padding), mask=mask_cases(2, 6)["holes"], activation="softmax")
    found = problem.train(**options)

    def total():
        y = conv1d(problem.x, problem.kernel, problem.bias, **options)
        return np.sum(y * problem.d_outputs(y.shape))

    for name in ("x", "kernel", "bias"):
        assert_gradient(total, getattr(problem, name), found[name])


def test_activations_and_logits():
    problem = Problem()
    for activation in ("relu", "gelu", "softmax", "log_softmax"):
        problem.check(activation=activation, padding="same")
        problem.check(activation=activation, from_logits=True)


def test_by_hand():
    """x 1 2 4, kernel 1 10 100: each output is its window written as a number."""
    x, kernel = np.array([[[1.0], [2.0], [4.0]]]), np.array([[[1.0]], [[10.0]], [[100.0]]])

    def outputs(**options):
        return conv1d(x, kernel, **options)[0, :, 0].tolist()

    assert outputs() == [421.0]
    assert outputs(padding="causal") == [100.0, 210.0, 421.0]
    assert outputs(padding="same") == [210.0, 421.0, 42.0]
    assert outputs(padding="causal", strides=2) == [100.0, 421.0]
    assert outputs(padding="causal", dilation_rate=2) == [100.0, 200.0, 410.0]
    assert outputs(padding="causal", mask=np.array([[True, False, True]])) == [100.0, 10.0, 401.0]
    _, tape = conv1d_forward(x, kernel, np.zeros(1), padding="causal")
    gradients = conv1d_backward(tape, np.array([[[1.0], [1.0], [2.0]]]))
    assert gradients.x[0, :, 0].tolist() == [112.0, 120.0, 200.0]
    assert gradients.kernel[:, 0, 0].tolist() == [2.0, 5.0, 11.0] and gradients.bias.tolist() == [4.0]


# ---- the mask of the outputs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("window", WINDOWS)
def test_output_masks(window, padding):
    for T in (0, 1, 2, 9):
        for mask in mask_cases(4, T).values():
            x = np.zeros((4, T, 1))
            kernel_size, strides, dilation_rate = window
            found = conv1d_mask(x, mask, kernel_size, strides, padding, dilation_rate)
            wanted = reference.conv1d_mask(mask, kernel_size, strides, padding, dilation_rate)
            np.testing.assert_array_equal(found, wanted)
            assert found.shape == (4, conv1d_length(T, kernel_size, strides, padding, dilation_rate))


def test_output_masks_by_hand():
    x, mask = np.zeros((1, 6, 1)), np.array([[1, 1, 1, 1, 0, 0]], bool)
    assert conv1d_mask(x, mask, 3, padding="causal") is mask and conv1d_mask(x, mask, 3, padding="same") is mask
    assert conv1d_mask(x, mask, 3).tolist() == [[True, True, False, False]]
    assert conv1d_mask(x, mask, 2, dilation_rate=3).tolist() == [[True, False, False]]
    assert conv1d_mask(x, mask, 3, 2, "causal").tolist() == [[True, True, False]]
    assert conv1d_mask(x, mask, 3, 2, "same").tolist() == [[True, True, False]]  # steps 1, 3, 5
    assert conv1d_mask(x[:, 1:], mask[:, 1:], 3, 2, "same").tolist() == [[True, True, False]]  # steps 0, 2, 4
    holes = np.array([[1, 0, 1, 1, 1, 1]], bool)
    assert conv1d_mask(x, holes, 2, dilation_rate=2).tolist() == [[True, False, True, True]]
    assert conv1d_mask(x, holes, 2).tolist() == [[False, False, True, True, True]]


# ---- bits -----------------------------------------------------------------------------------------------------------
ALIKE = [(w, p) for w, p in itertools.product(WINDOWS, PADDINGS) if p != "same" or w[1] == 1]
LENGTHS = [9, 1, 0, 5, 2, 14]


@pytest.mark.parametrize("window, padding", ALIKE)
def test_a_row_alone_is_a_row_padded_is_a_row_of_ragged(window, padding):
    """Bits and masks; NaN behind the rows. Left padding, too, unless strides make its length count."""
    problem, options = Problem((1, 1, 17, 19), window[0], np.float32), options_of(window, padding)
    rows = [problem.normal(n, 17) for n in LENGTHS]
    weights = problem.kernel, problem.bias
    alone = [conv1d(row[None], *weights, **options)[0] for row in rows]
    ragged = conv1d(Ragged.from_list(rows), *weights, **options)
    for side in ("right", "left") if window[1] == 1 else ("right",):
        x, mask = np.full((len(rows), 20, 17), np.nan, np.float32), np.zeros((len(rows), 20), bool)
        for i, row in enumerate(rows):
            at = slice(0, len(row)) if side == "right" else slice(20 - len(row), 20)
            x[i, at], mask[i, at] = row, True
        y = conv1d(x, *weights, **options, mask=mask)
        out_mask = conv1d_mask(x, mask, window[0], window[1], padding, window[2])
        for i, wanted in enumerate(alone):
            assert_same_bits(ragged[i], wanted, f"ragged row {i}")
            assert_same_bits(y[i][out_mask[i]], wanted, f"{side}-padded row {i}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_nothing_under_a_mask_is_read(padding, dtype):
    for window, mask in itertools.product(WINDOWS, mask_cases(4, 9).values()):
        problem = Problem((4, 9, 5, 3), window[0], dtype)
        dirty = copy.copy(problem)
        dirty.x = np.where(mask[..., None], problem.x, np.nan).astype(dtype)
        options = dict(options_of(window, padding), mask=mask)
        assert_same_bits(dirty.train(**options), problem.train(**options))


def test_launches():
    problem = Problem((3, 300, 17, 33), 3, np.float32)
    options = dict(padding="same", mask=mask_cases(3, 300)["holes"], activation="relu")
    with launched("serial", 1):
        expected = problem.train(**options)
    for path, threads in launches():
        with launched(path, threads):
            assert_same_bits(problem.train(**options), expected, f"{path}, {threads} threads")


@pytest.mark.parametrize("window, padding", ALIKE)
def test_ragged_with_holes_equals_padded(window, padding):
    problem, options = Problem((len(LENGTHS), max(LENGTHS), 3, 4), window[0]), options_of(window, padding)
    rows = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    holes = problem.rng.random(rows.shape) < 0.7
    x, mask = Ragged.from_padded(problem.x, rows), holes[rows]
    y, tape = conv1d_forward(x, problem.kernel, problem.bias, **options, mask=mask)
    wanted, wanted_tape = conv1d_forward(problem.x, problem.kernel, problem.bias, **options, mask=holes & rows)
    geometry = dict(options, kernel_size=window[0])
    lengths = [conv1d_length(n, **geometry) for n in LENGTHS]
    assert y.lengths.tolist() == lengths
    kept = np.arange(wanted.shape[1]) < np.array(lengths)[:, None]
    assert_same_bits(y.values, wanted[kept])
    assert_same_bits(conv1d_mask(x, mask, **geometry), conv1d_mask(problem.x, holes & rows, **geometry)[kept])
    dy = problem.d_outputs(wanted.shape) * kept[..., None]
    ours, theirs = conv1d_backward(tape, y.with_values(dy[kept])), conv1d_backward(wanted_tape, dy)
    assert_same_bits(ours.x.values, theirs.x[rows])
    for name in ("kernel", "bias"):  # sums over other steps
        assert_close(getattr(ours, name), getattr(theirs, name), k=K)
    with pytest.raises(TypeError, match="^dy: expected Ragged as the outputs, received ndarray$"):
        conv1d_backward(tape, dy)


def test_layouts_and_packs():
    problem, other = Problem(), Problem()
    for name in ("x", "kernel", "bias"):
        setattr(other, name, awkward(getattr(problem, name)))
    expected = problem.train()
    assert_same_bits(other.train(), expected)
    assert_same_bits(problem.train(packed=conv1d_pack(problem.kernel, problem.bias)), expected)
    assert problem.train(need_x=False)["x"] is None
    with pytest.raises(ValueError, match=r"^packed: expected weights \(9, 5\) of float64, received \(9, 4\)"):
        problem.train(packed=conv1d_pack(problem.kernel[..., 1:]))


RAGGED = Ragged(np.zeros((3, 4)), [0, 1, 3])
BAD = [
    ({"x": np.zeros((2, 4))}, ValueError, r"^x: expected shape \(B,T,F\), received \(2, 4\)$"),
    (
        {"kernel": np.zeros((3, 5, 2))},
        ValueError,
        r"^kernel: expected shape \(K,F,C\) with F = 4, .* \(3, 5, 2\)$",
    ),
    ({"kernel": np.zeros((0, 4, 2))}, ValueError, r"^kernel: expected shape .* K >= 1, received \(0, 4, 2\)$"),
    ({"kernel": np.zeros((4, 2))}, ValueError, r"^kernel: expected shape .*, received \(4, 2\)$"),
    ({"kernel": np.zeros((3, 4, 2), np.float32)}, TypeError, "^kernel: expected dtype float64 as x, received float32$"),
    ({"bias": np.zeros(3)}, ValueError, r"^bias: expected shape \(C,\) = \(2,\), received \(3,\)$"),
    ({"padding": "full"}, ValueError, "^padding: expected one of valid, same, causal, received 'full'$"),
    ({"strides": 0}, ValueError, "^strides: expected at least 1, received 0$"),
    ({"dilation_rate": 1.5}, TypeError, "^dilation_rate: expected a whole number, received 1.5$"),
    ({"activation": "tanhh"}, ValueError, "^activation: expected one of linear, .*, received 'tanhh'$"),
    ({"mask": np.ones((2, 4))}, ValueError, r"^mask: expected shape \(B,T\) = \(2,5\), received \(2, 4\)$"),
    (
        {"x": RAGGED, "padding": "same", "strides": 2},
        ValueError,
        "^strides: expected 1 with padding='same'",
    ),
]


@pytest.mark.parametrize("change, error, message", BAD)
def test_bad_arguments(change, error, message):
    arguments = {"x": np.zeros((2, 5, 4)), "kernel": np.zeros((3, 4, 2)), "bias": np.zeros(2), **change}
    for op in (conv1d, conv1d_forward):
        with pytest.raises(error, match=message):
            op(**arguments)


def test_examples():
    assert_doctests(convolution)
    assert inspect.signature(conv1d) == inspect.signature(conv1d_forward)


# ---- the layer ------------------------------------------------------------------------------------------------------
def make(*args, **options):
    options = {"dtype": "float64", "bias_initializer": "random_normal", **options}
    return Conv1D(*args, **options)


@pytest.mark.parametrize("padding", PADDINGS)
def test_check_layer(padding):
    check_layer(Conv1D(3, 2, padding=padding, activation="tanh"), (3, 6, 2))
    check_layer(Conv1D(3, 3, 2, padding, use_bias=False), (3, 6, 2))


@pytest.mark.parametrize("padding", PADDINGS)
def test_layer_gradients(padding):
    layer, x = make(3, 2, padding=padding, activation="tanh"), np.random.default_rng(0).standard_normal((3, 5, 2))
    mask = mask_cases(3, 5)["right"]
    y = layer(x, mask=mask, training=True)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, gradients = layer.backward(dy), layer.gradients
    assert_gradient(lambda: np.sum(np.asarray(layer(x, mask=mask)) * dy), x, dx)
    for weight, gradient in zip(layer.weights, gradients, strict=True):
        value, before = weight.numpy(), weight.numpy()

        def of_weight(weight=weight, value=value):
            weight.assign(value)
            return np.sum(np.asarray(layer(x, mask=mask)) * dy)

        assert_gradient(of_weight, value, gradient)
        weight.assign(before)


def test_layer_is_its_op():
    x, mask = np.random.default_rng(0).standard_normal((3, 9, 2)), mask_cases(3, 9)["holes"]
    for window, padding in itertools.product(WINDOWS, PADDINGS):
        kernel_size, strides, dilation_rate = window
        layer = make(3, (kernel_size,), [strides], padding.upper(), dilation_rate=(dilation_rate,))
        y = layer(x, mask=mask)
        wanted = conv1d(x, *layer.get_weights(), **options_of(window, padding), mask=mask)
        assert_same_bits(np.asarray(y), wanted)
        np.testing.assert_array_equal(y.mask, conv1d_mask(x, mask, kernel_size, strides, padding, dilation_rate))
        assert layer.compute_output_shape((None, 9, 2)) == (None, *y.shape[1:])
        assert layer.compute_output_shape((None, None, 2)) == (None, None, 3)
        assert layer.mask_role() == ("uses, passes" if strides == 1 and padding != "valid" else "uses, changes")
    assert [w.shape for w in layer.weights] == [(2, 2, 3), (3,)] and layer.kernel_size == (2,)
    assert make(3, 2, use_bias=False)(x).shape == (3, 8, 3)


@pytest.mark.filterwarnings("error::fastmask.MaskDroppedWarning")
@pytest.mark.parametrize("padding, strides", [("causal", 1), ("causal", 2), ("same", 1), ("valid", 1), ("valid", 3)])
def test_convolution_then_lstm(padding, strides):
    """A right-padded batch = each row alone, to the bit, through the whole model; = Ragged."""
    model = Sequential(
        [Input((None, 4)), Masking(), Conv1D(5, 3, strides, padding, activation="relu"), LSTM(6), Dense(2)]
    )
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((n, 4)).astype(np.float32) for n in (7, 1, 12, 0, 3)]
    x = np.zeros((5, 14, 4), np.float32)
    for i, row in enumerate(rows):
        x[i, : len(row)] = row
    y = model.predict(x)
    for i, row in enumerate(rows):
        assert_same_bits(model.predict(row[None])[0], y[i])
    assert_same_bits(model.predict(Ragged.from_list(rows)), y)


def test_training_a_tagger_on_its_logits():
    """softmax at the end: the loss of huge logits is finite and exact, and it learns."""
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((8, 10, 3)).astype(np.float32), mask_cases(8, 10)["right"]
    labels = (x[..., 0] > 0).astype(int)
    model = Sequential([Input((None, 3)), Conv1D(2, 3, padding="same", activation="softmax")])
    model.compile(Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    losses = model.fit(x, labels, mask=mask, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    dirty = np.where(mask[..., None], x, np.nan)
    assert model.evaluate(dirty, labels, mask=mask, verbose=0) == model.evaluate(x, labels, mask=mask, verbose=0)
    model.layers[0].kernel.assign(1e4 * model.layers[0].kernel.value)
    logits = conv1d(x, *model.get_weights(), padding="same", mask=mask).astype(np.float64)
    of_label = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    wanted = (np.logaddexp(*np.moveaxis(logits, -1, 0)) - of_label)[mask].mean()
    assert_close(model.evaluate(x, labels, mask=mask, verbose=0)[0], wanted, np.float32, k=64, atol=0.0)


def test_regularizers_and_constraints_reach_the_weights():
    layer = make(3, 2, kernel_regularizer="l2", bias_regularizer="l1", kernel_constraint="max_norm")
    layer.build((None, None, 4))
    assert layer.kernel.regularizer is layer.kernel_regularizer and layer.bias.regularizer is layer.bias_regularizer
    assert layer.kernel.constraint is layer.kernel_constraint and layer.bias.constraint is None


def test_config_round_trip():
    layer = make(
        3, 2, 1, "causal", dilation_rate=2, activation="relu", use_bias=False, name="here", bias_initializer="zeros",
        kernel_initializer="he_normal", kernel_regularizer="l2", kernel_constraint="non_neg",
    )  # fmt: skip
    again = deserialize(serialize(layer))
    assert type(again) is Conv1D and again.get_config() == layer.get_config()
    x = np.random.default_rng(0).standard_normal((2, 5, 4))
    layer(x)
    again.build((None, None, 4))
    again.set_weights(layer.get_weights())
    assert_same_bits(again(x), layer(x))


def test_weights_changed_between_call_and_backward():
    layer = make(3, 2)
    y = layer(np.ones((2, 5, 4)), training=True)
    layer.kernel += 1
    with pytest.raises(ValueError, match="backward: expected the weights of the call, they were changed since"):
        layer.backward(np.ones_like(y))


BAD_LAYERS = [
    ({"filters": 0}, "^filters: expected at least 1, received 0$"),
    ({"kernel_size": 0}, "^kernel_size: expected at least 1, received 0$"),
    ({"kernel_size": (2, 2)}, r"^kernel_size: expected a whole number or a tuple of one, received \(2, 2\)$"),
    ({"strides": 2.5}, "^strides: expected a whole number, received 2.5$"),
    ({"strides": 2, "dilation_rate": 2}, "^dilation_rate: expected 1 with strides = 2, received 2$"),
    ({"padding": "full"}, "^padding: expected one of valid, same, causal, received 'full'$"),
    ({"padding": None}, "^padding: expected one of valid, same, causal, received None$"),
    ({"data_format": "channels_first"}, r"^data_format: expected channels_last \(B,T,F\), received 'channels_first'$"),
    ({"groups": 2}, "^groups: not supported, expected 1, received 2$"),
    ({"activation": "no"}, "^activation: "),
    ({"activity_regularizer": "l2"}, "^activity_regularizer: not supported"),
]


@pytest.mark.parametrize("change, message", BAD_LAYERS)
def test_bad_options(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Conv1D(**{"filters": 2, "kernel_size": 3, **change})


def test_bad_input():
    layer = make(3, 2)
    with pytest.raises(ValueError, match=r"inputs: expected shape \(B,T,F\) with a known F, received \(None, 4\)"):
        layer(np.ones((2, 4)))
    layer(np.ones((2, 5, 4)))
    with pytest.raises(ValueError, match=r"inputs: expected shape \(B,T,4\), received \(2, 5, 3\)"):
        layer(np.ones((2, 5, 3)))
    with pytest.raises(ValueError, match="strides: expected 1 with padding='same' for a Ragged, received 2"):
        make(3, 2, 2, "same")(RAGGED)
