"""check_layer finds what is wrong with a layer, and nothing where nothing is."""

import numpy as np
import pytest

import fastmask.testing
from fastmask.layers import GRU, LSTM, Bidirectional, Dense, Dropout, Layer, Masking, SimpleRNN
from fastmask.testing import check_layer
from helpers import assert_doctests


class Scaled(Layer):
    """x times a weight; what a wrong layer gets wrong is told by `fault`."""

    supports_masking = True

    def __init__(self, fault=None, **kwargs):
        super().__init__(**kwargs)
        self.fault = fault

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), "glorot_uniform", name="scale")

    def call(self, inputs, mask=None):
        self.saved = inputs, mask
        x = inputs if mask is None else np.where(mask[..., None], inputs, 0)
        return (inputs if self.fault == "garbage" else x).mean(axis=1, keepdims=True) * 0 + x * self.scale.value

    def backward(self, grad):
        x, mask = self.saved
        if mask is not None:
            x, grad = np.where(mask[..., None], x, 0), np.where(mask[..., None], grad, 0)
        g = (x * grad).reshape(-1, x.shape[-1]).sum(axis=0)
        self.add_gradient(self.scale, g * (1 + 1e-4) if self.fault == "weight" else g)
        return grad if self.fault == "input" else grad * self.scale.value

    def get_config(self):
        return {**super().get_config(), **({} if self.fault == "config" else {"fault": self.fault})}


@pytest.mark.parametrize(
    "layer",
    [
        Scaled(),
        Scaled(dtype="float64"),
        Dense(3, activation="swish"),
        Masking(),
        Dropout(0.0),
        SimpleRNN(4),
        GRU(4, return_sequences=True),
        LSTM(3, return_sequences=True, return_state=True, go_backwards=True),
        Bidirectional(GRU(3, return_sequences=True, dtype="float64"), merge_mode="mul"),
    ],
    ids=lambda layer: layer.name,
)
def test_right_layers_pass(layer):
    check_layer(layer, (3, 5, 4), elements=10)


@pytest.mark.parametrize(
    "fault, message",
    [
        ("weight", r"the gradient of scale at \(0,\): expected .*, received"),
        ("input", r"the gradient of input 0 at \(.*\): expected"),
        ("garbage", "outputs at valid steps that do not change with NaN under the mask"),
    ],
)
def test_wrong_layers_fail(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_layer(Scaled(fault), (3, 5, 4))


def test_masks_shapes_and_configurations_are_checked():
    class Lost(Scaled):
        supports_masking = False

    with pytest.raises(AssertionError, match="expected a mask that goes on or is used up"):
        check_layer(Lost(), (3, 5, 4))

    class Misfit(Scaled):
        def compute_mask(self, inputs, mask=None):
            return None if mask is None else mask[:, :2]

    with pytest.raises(ValueError, match=r"compute_mask: mask: expected shape \(B,T\) = \(3,5\), received \(3, 2\)"):
        check_layer(Misfit(), (3, 5, 4))

    class Misshapen(Scaled):
        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], 7)

    with pytest.raises(AssertionError, match=r"compute_output_shape: expected \(3, 5, 4\), received \(None, 5, 7\)"):
        check_layer(Misshapen(), (3, 5, 4))

    class Forgetful(Scaled):
        def call(self, inputs, mask=None):
            return super().call(inputs, mask) * (1 if self.fault is None else 2)

        def backward(self, grad):
            return super().backward(grad * (1 if self.fault is None else 2))

    with pytest.raises(AssertionError, match="an argument is missing there"):
        check_layer(Forgetful("config", dtype="float64"), (3, 5, 4))


def test_several_inputs_and_inference_only():
    class Weighted(Layer):
        def call(self, inputs):
            a, b = inputs
            self.saved = a, b
            return a * b

        def backward(self, grad):
            a, b = self.saved
            return [grad * b, grad * a]

    check_layer(Weighted(), [(2, 3), np.ones((2, 3))])

    class Square(Layer):
        def call(self, inputs):
            return inputs**2

    check_layer(Square(), (2, 3), gradients=False)
    with pytest.raises(NotImplementedError, match="has no backward"):
        check_layer(Square(), (2, 3))
    with pytest.raises(AssertionError, match="expected get_config and __init__ to pass on dtype"):
        check_layer(Bidirectional(GRU(3)), (2, 3, 4))
    with pytest.raises(TypeError, match="layer: expected a layer, received int"):
        check_layer(3, (2, 3))


def test_examples_in_docstrings():
    assert_doctests(fastmask.testing)
