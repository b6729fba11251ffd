"""What every layer does: training calls and their backward, weights, configuration, copies, and bad input."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import fastmask.registry
import fastmask.variable
from fastmask import initializers
from fastmask.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Layer,
    MaskDroppedWarning,
    Masking,
    SimpleRNN,
    core,
    deserialize,
    register_serializable,
    serialize,
)
from fastmask.ragged import Ragged
from fastmask.variable import Variable
from helpers import assert_close, assert_doctests
from test_layers import B, F, H, Scale, T, Twice, make, random


# ---- calls and going back -------------------------------------------------------------------------------------------
def test_an_inference_call_does_not_disturb_the_training_call():
    layer, x = Scale(dtype="float64"), random(B, F)
    layer(x, training=True)
    layer(100 * x)
    layer.backward(np.ones_like(x))
    assert_close(layer.gradients[0], x.sum(axis=0))


def test_each_call_is_good_for_one_backward_and_only_the_latest_is_kept():
    layer, x = Scale(dtype="float64"), random(B, F)
    with pytest.raises(ValueError, match="scale.*backward.*training=True"):
        layer.backward(x)
    layer(x, training=True)
    layer.saved.marker = marker = Variable(np.zeros(1))
    marker = weakref.ref(marker)
    layer(x, training=True)
    gc.collect()
    assert marker() is None
    layer.backward(np.ones_like(x))
    layer(x, training=True)
    layer.backward(np.ones_like(x))
    assert_close(layer.gradients[0], x.sum(axis=0))  # not added to the first ones
    with pytest.raises(ValueError, match="training=True"):
        layer.backward(x)


def test_a_backward_that_fails_can_be_repeated():
    layer = make("lstm", return_sequences=True)
    y = layer(random(B, T, F), training=True)
    with pytest.raises(ValueError, match="grad: expected shape"):
        layer.backward(np.ones((B, T, H + 1)))
    assert layer.backward(np.ones_like(y)).shape == (B, T, F)


def test_weights_that_change_between_call_and_backward():
    """Gradients of the recurrent layers are those of the weights at the call; Dense, which keeps no copy, says no."""
    x = random(B, 3, F)
    layer = make("gru", return_sequences=True)
    results = []
    for change in (False, True):
        y = layer(x, training=True)
        if change:
            layer.recurrent_kernel.assign(2 * layer.recurrent_kernel.value)
        results.append(layer.backward(np.ones_like(y)))
    np.testing.assert_array_equal(*results)
    dense = Dense(2, dtype="float64")
    y = dense(x, training=True)
    dense.kernel += 1
    with pytest.raises(ValueError, match="dense.*backward: expected the weights of the call"):
        dense.backward(np.ones_like(y))


def test_missing_gradients():
    layer, x = make("lstm", return_sequences=True, return_state=True), random(B, T, F)
    y, h, c = layer(x, training=True)
    only_c = layer.backward((None, None, np.ones_like(c)))
    layer(x, training=True)
    np.testing.assert_array_equal(layer.backward((np.zeros_like(y), np.zeros_like(h), np.ones_like(c))), only_c)
    assert only_c.any()


def test_threads_find_their_own_calls():
    layer = Twice(GRU(F, return_sequences=True, dtype="float64"), dtype="float64")
    inputs = [random(B, T, F, seed=i) for i in range(6)]
    layer(inputs[0])

    def work(x):
        y = layer(x, training=True)
        dx = layer.backward(np.ones_like(y))
        return [np.asarray(y), dx, *layer.gradients]

    expected = [work(x) for x in inputs]
    results, barrier = [None] * len(inputs), threading.Barrier(len(inputs))

    def run(i):
        barrier.wait()
        for _ in range(20):
            results[i] = work(inputs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for got, wanted in zip(results, expected, strict=True):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_two_threads_build_once():
    layer, barrier, x = GRU(H), threading.Barrier(4), random(B, T, F)

    def run():
        barrier.wait()
        layer(x)

    threads = [threading.Thread(target=run) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(layer.weights) == 3


def test_training_is_inherited_by_sub_layers():
    seen = []

    class Inner(Layer):
        def call(self, inputs, training=False):
            seen.append(training)
            return inputs

    class Outer(Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def call(self, inputs):
            return self.inner(inputs)

    Outer()(random(B, F), training=True)
    Outer()(random(B, F))
    assert seen == [True, False]


def test_arguments_are_keywords():
    layer, x = GRU(H), np.zeros((2, 3, F), np.float32)
    layer(x)
    for inputs in (x, x.astype("float64")):
        with pytest.raises(TypeError, match="mask"):
            layer(inputs, np.ones((2, 3)))


def test_several_inputs_and_outputs():
    class Split(Layer):
        supports_masking = True

        def call(self, inputs, mask=None):
            a, b = inputs
            self.seen = mask
            return a + b, a - b

        def compute_mask(self, inputs, mask=None):
            return [None, mask[1]]

        def backward(self, grad):
            return grad[0] + grad[1], grad[0] - grad[1]

    layer, a = Split(), random(B, 3, F, dtype=np.float32)
    b, mask = random(B, 3, F, seed=1, dtype=np.float32), np.arange(3) < [[1], [2], [3]]
    plus, minus = layer([a, Masking()(np.where(mask[..., None], b, 0))], training=True)
    assert type(plus) is np.ndarray and layer.seen[0] is None
    np.testing.assert_array_equal(minus.mask, mask)
    da, db = layer.backward((np.ones_like(a), 2 * np.ones_like(a)))
    assert (da == 3).all() and (db == -1).all()
    np.testing.assert_array_equal(layer([a, b], mask=[None, mask])[1].mask, mask)
    assert type(layer([a, b])[1]) is np.ndarray
    with pytest.raises(ValueError, match="mask: expected a list of 2 masks"):
        layer([a, b], mask=mask)

    class First(Split):
        compute_mask = Layer.compute_mask

        def call(self, inputs):
            return inputs, inputs

    with pytest.warns(MaskDroppedWarning, match="2 outputs and one mask"):
        one, two = First()(a, mask=mask)
    assert type(two) is np.ndarray and one.mask is not None


def test_no_backward_is_a_clear_error():
    class Square(Layer):
        def call(self, inputs):
            return inputs**2

    layer = Square()
    assert_close(layer([[2.0]]), [[4.0]])
    layer([[2.0]], training=True)
    with pytest.raises(NotImplementedError, match=r"square\w*: Square has no backward"):
        layer.backward(np.ones((1, 1)))


# ---- weights and configuration --------------------------------------------------------------------------------------
def test_a_changed_weight_counts_at_the_next_call():
    for layer in (make("gru"), Dense(3, dtype="float64"), Bidirectional(make("lstm"))):
        x = random(B, T, F)
        layer(x)
        for weight in layer.weights:
            for change in (
                lambda w: w.assign(np.ones(w.shape)),
                lambda w: w.__setitem__((0,) * w.ndim, 3.0),
                lambda w: w.__imul__(0.5),
            ):
                change(weight)
                fresh = type(layer).from_config(layer.get_config())
                fresh.build((None, None, F))
                fresh.set_weights(layer.get_weights())
                np.testing.assert_array_equal(layer(x), fresh(x))


def test_set_weights_refuses_and_writes_nothing():
    layer = LSTM(H)
    with pytest.raises(ValueError, match=r"expected 0 arrays for lstm.*not built.*received 3"):
        LSTM(H, name="lstm").set_weights([1, 2, 3])
    layer.build((None, None, F))
    before = layer.get_weights()
    good = [w + 1 for w in before]
    for i in range(3):
        for bad, error in (
            (np.full_like(good[i], np.nan), ValueError),
            (np.full(good[i].shape, 1e300), ValueError),  # infinite in float32
            (good[i][..., :-1], ValueError),
            (good[i].astype(object), TypeError),
            (good[i].astype(complex), TypeError),
        ):
            with pytest.raises(error, match="weights: expected"):
                layer.set_weights([*good[:i], bad, *good[i + 1 :]])
            for a, b in zip(before, layer.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    layer.set_weights(good)
    np.testing.assert_array_equal(layer.get_weights()[1], good[1])


def test_trainable():
    layer = Twice(GRU(F, return_sequences=True))
    x = random(B, T, F)
    layer(x)
    assert len(layer.trainable_weights) == 3 and not layer.non_trainable_weights
    layer.trainable = False
    assert not layer.inner.trainable and not layer.trainable_weights and len(layer.non_trainable_weights) == 3
    layer.inner.trainable = layer.trainable = True
    y = layer(x, training=True)
    layer.backward(np.ones_like(y))
    assert all(g.any() for g in layer.gradients)


def test_config_round_trip():
    layers = [
        Masking(0.5),
        Dense(3, activation="swish", use_bias=False, kernel_initializer=initializers.HeNormal(seed=3)),
        Dropout(0.2, seed=1),
        make("simple_rnn", return_sequences=True, go_backwards=True),
        make("gru_before", dropout=0.1, seed=3, zero_output_for_mask=True, name="g"),
        LSTM(3, unit_forget_bias=False, activation=None),
        Bidirectional(LSTM(3, return_state=True, name="l"), merge_mode="ave"),
        Bidirectional(GRU(3), backward_layer=SimpleRNN(2, go_backwards=True)),
    ]
    for layer in layers:
        again = deserialize(serialize(layer))
        assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert layers[6].forward_layer.name == "forward_l" and layers[6].backward_layer.name == "backward_l"

    @register_serializable("tests")
    class Mine(Layer):
        pass

    assert serialize(Mine(name="m"))["class_name"] == "tests>Mine"
    assert type(deserialize(serialize(Mine()))) is Mine
    with pytest.raises(ValueError, match="registered.*'Unknown'"):
        deserialize({"class_name": "Unknown", "config": {}})
    with pytest.raises(ValueError, match="register_serializable"):
        serialize(Scale())


def test_copies_are_independent():
    layer, x = make("gru", dropout=0.5, return_sequences=True), random(B, T, F)
    y = layer(x, training=True)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x), layer(x))
        twin.kernel.assign(np.zeros(twin.kernel.shape))
        assert layer.kernel.value.any() and not np.array_equal(twin(x), layer(x))
        with pytest.raises(ValueError, match="training=True"):
            twin.backward(np.ones_like(y))


def test_names():
    first, second = Scale(), Scale()
    assert first.name != second.name and second.name.startswith("scale_")
    assert Scale(name="x").name == "x"
    assert SimpleRNN(1).name.startswith("simple_rnn") and GRU(1).name.startswith("gru")


def test_examples_in_docstrings():
    for module in (fastmask.variable, core, fastmask.registry):
        assert_doctests(module)


# ---- bad input ------------------------------------------------------------------------------------------------------
X = np.zeros((2, 3, 4), np.float32)
BAD = {
    "units": (lambda: GRU(0), ValueError, "units: expected a whole number"),
    "units_type": (lambda: Dense(2.5), ValueError, "units: expected"),
    "activation": (lambda: LSTM(2, activation="tahn"), ValueError, "activation: expected one of .*'tahn'"),
    "softmax_inside": (lambda: GRU(2, activation="softmax"), ValueError, "activation: expected"),
    "function": (lambda: Dense(2, activation=np.tanh), ValueError, "activation: expected"),
    "initializer": (lambda: Dense(2, kernel_initializer="glorot"), ValueError, "initializer: expected one of"),
    "dtype": (lambda: Dense(2, dtype="float16"), ValueError, "dtype: expected float32 or float64, received 'float16'"),
    "argument": (lambda: Dense(2, unit=3), TypeError, "Dense: unknown argument 'unit'"),
    "regularizer": (lambda: Dense(2, kernel_regularizer="l3"), ValueError, "regularizer: expected one of l1, l2"),
    "activity": (lambda: Dense(2, activity_regularizer="l2"), ValueError, "activity_regularizer: not supported"),
    "constraint": (lambda: Dense(2, bias_constraint="norm"), ValueError, "constraint: expected one of max_norm"),
    "dropout": (lambda: GRU(2, dropout=1.5), ValueError, "dropout: expected a number from 0 to 1"),
    "rate": (lambda: Dropout(-0.1), ValueError, "rate: expected"),
    "seed": (lambda: Dropout(0.1, seed="x"), ValueError, "seed: expected an int"),
    "rank": (lambda: GRU(2)(X[0]), ValueError, r"inputs: expected shape \(B,T,F\)"),
    "rank_dense": (lambda: Dense(2)(X[0, 0]), ValueError, r"inputs: expected shape \(B,...,F\)"),
    "features": (
        lambda: _built(GRU(2, name="g"))(X[..., :3]),
        ValueError,
        r"g: inputs: expected shape \(B,T,4\), received \(2, 3, 3\)",
    ),
    "features_dense": (lambda: _built(Dense(2))(X[..., :3]), ValueError, r"inputs: expected shape \(B,...,4\)"),
    "mask_time": (
        lambda: GRU(2)(X, mask=np.ones((2, 4))),
        ValueError,
        r"mask: expected shape \(B,T\) = \(2,3\), received \(2, 4\)",
    ),
    "mask_batch": (lambda: Dense(2)(X, mask=np.ones((3, 3))), ValueError, r"mask: expected shape \(B,T\) = \(2,3\)"),
    "mask_rank": (lambda: Dense(2)(X, mask=np.ones(2)), ValueError, "mask: expected shape"),
    "mask_ragged": (
        lambda: Dense(2)(Ragged(X[0], [0, 3]), mask=np.ones((1, 3))[:, :2]),
        ValueError,
        "mask: expected shape",
    ),
    "mask_object": (lambda: Dense(2)(X, mask=np.full((2, 3), None)), TypeError, "mask: expected numbers"),
    "object": (lambda: GRU(2)(X.astype(object)), TypeError, "inputs: expected numbers, received dtype object"),
    "lengths": (lambda: GRU(2)([[[1.0]], [[1.0], [2.0]]]), ValueError, "inputs: .*different lengths: use Ragged"),
    "numpy_ma": (lambda: GRU(2)(np.ma.masked_invalid(X)), TypeError, "numpy.ma, whose mask means the opposite"),
    "state": (
        lambda: LSTM(2)(X, initial_state=np.zeros((2, 2))),
        ValueError,
        "initial_state: expected a list of 2 arrays",
    ),
    "state_shape": (lambda: GRU(2)(X, initial_state=np.zeros((2, 3))), ValueError, r"initial_state: expected shape"),
    "states": (
        lambda: Bidirectional(GRU(2))(X, initial_state=[X[0]]),
        ValueError,
        "initial_state: expected a list of 2",
    ),
    "merge_mode": (lambda: Bidirectional(GRU(2), merge_mode="max"), ValueError, "merge_mode: expected one of"),
    "bidirectional": (lambda: Bidirectional(Dense(2)), ValueError, "layer: expected SimpleRNN, GRU, LSTM or RNN"),
    "backwards": (lambda: Bidirectional(GRU(2, go_backwards=True)), ValueError, "layer: expected go_backwards=False"),
    "backward_layer": (
        lambda: Bidirectional(GRU(2), backward_layer=GRU(2)),
        ValueError,
        "backward_layer: expected go_backwards=True",
    ),
    "backward_sequences": (
        lambda: Bidirectional(GRU(2), backward_layer=GRU(2, go_backwards=True, return_sequences=True)),
        ValueError,
        "backward_layer: expected return_sequences=False",
    ),
}


def _built(layer):
    layer(X)
    return layer


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()


def test_a_failed_build_leaves_nothing_behind():
    layer = GRU(2, bias_initializer=lambda shape, dtype: np.zeros(3))
    with pytest.raises(ValueError, match=r"initializer: expected a value of shape \(2, 6\)"):
        layer(X)
    assert not layer.built and not layer.weights and layer.kernel is None
    layer.bias_initializer = initializers.Zeros()
    assert layer(X).shape == (2, 2) and len(layer.weights) == 3


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (0, 0, 4)])
def test_no_rows_and_no_steps_are_legal(shape):
    x = np.zeros(shape, np.float32)
    for cls in (SimpleRNN, GRU, LSTM):
        for layer in (cls(2, return_sequences=True), cls(2), Bidirectional(cls(2)), Dense(2), Masking(), Dropout(0.5)):
            y = layer(x, mask=np.ones(shape[:2], bool), training=True)
            assert y.shape[0] == shape[0] and not np.asarray(y).any()
            assert layer.backward(np.ones_like(y)).shape == shape
