"""Every public layer with the options and inputs it is tried with: ONE list for all tests that go over all layers.

`CASES` maps the name of each class to its cases. test_leaks.py fails where a public class is missing.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastmask as fm
from fastmask import layers
from fastmask.layers import MaskDroppedWarning
from fastmask.layers.masked import mask_of, plain
from fastmask.ragged import Ragged
from helpers import mask_cases
from user_cells import MixCell, PythonMixCell

B, T, F = 5, 7, 3
STEPS = (B, T, F)
VOCABULARY = 11


class Case(NamedTuple):
    """make(dtype) gives a new layer; shapes are those of its inputs."""

    make: Callable
    shapes: tuple = (STEPS,)
    several: bool = False  # the layer takes a list of inputs
    ids: bool = False  # inputs are whole numbers below VOCABULARY
    ragged: bool = True  # tried with Ragged, too, if its class knows it
    call: dict = {}  # further arguments of the call  # noqa: RUF012
    mask_axes: int = 2  # leading axes of an input that its mask has
    finite: bool = True  # False: as in Keras, finite numbers at masked steps are numbers like any others
    computes: bool = True  # False: what stands at masked steps only moves, NaN too


def _of(cls, *shapes, several=False, ids=False, ragged=True, call=None, finite=True, computes=True, **options):
    def make(dtype):
        return cls(dtype=dtype, **options)

    return Case(make, shapes or (STEPS,), several, ids, ragged, call or {}, finite=finite, computes=computes)


def _merged(cls, finite=True, **options):
    return [
        _of(cls, STEPS, STEPS, several=True, finite=finite, **options),
        _of(cls, STEPS, (B, F), several=True, ragged=False, finite=finite, **options),
    ]


def _same_mask(inputs, mask):
    return mask


def _tanh_gradient(x, y, grad):
    return grad * (1 - y * y)


def _attention(cls):
    query, value, key = (B, T, F), (B, 6, 2), (B, 6, F)
    return [
        _of(cls, query, key, several=True, use_scale=True, dropout=0.3, seed=1),
        _of(cls, query, value, key, several=True, call={"return_attention_scores": True}, ragged=False),
        _of(cls, STEPS, STEPS, several=True, call={"use_causal_mask": True}),
    ]


def _each_step(layer, *shape, mask_axes=2):
    def make(dtype):
        return layers.TimeDistributed(layer(dtype))

    return Case(make, ((B, T, *shape),), ragged=mask_axes == 2, mask_axes=mask_axes)


def _recurrent(cls):
    """Every switch, and a state; the state's arrays are cast by the layer."""
    states = np.random.default_rng(9).standard_normal((2, B, 4))
    given = {"initial_state": list(states[: cls.states])}
    return [
        _of(cls, units=4),
        _of(cls, units=4, return_sequences=True, dropout=0.3, recurrent_dropout=0.3, seed=1),
        _of(cls, units=4, return_sequences=True, return_state=True, call=given),
        _of(cls, units=17, return_sequences=True, go_backwards=True, activation="mish", dropout=0.4, seed=1),
        _of(cls, units=5, return_sequences=True, zero_output_for_mask=True, use_bias=False),
    ]


def _bidirectional(dtype, merge_mode="concat", **options):
    return layers.Bidirectional(layers.GRU(3, dtype=dtype, **options), merge_mode=merge_mode)


def _sequential(dtype):
    model = fm.Sequential(
        [
            fm.Input((None, F)),
            layers.Masking(dtype=dtype),
            layers.LSTM(4, return_sequences=True, dtype=dtype),
            layers.Dense(2, activation="softmax", dtype=dtype),
        ]
    )
    return model


def _functional(dtype):
    x = fm.Input((None, F), dtype=dtype)
    h = layers.GRU(4, return_sequences=True, dtype=dtype)(x)
    return fm.Model(x, [layers.Dense(2, dtype=dtype)(h), layers.LSTM(3, dtype=dtype)(h)])


def _rnn(*cells, **options):
    """cells: functions of the dtype."""

    def make(dtype):
        made = [cell(dtype) for cell in cells]
        return layers.RNN(made if len(made) > 1 else made[0], **options)

    return Case(make)


CASES = {
    "Activation": [
        _of(layers.Activation, activation="exponential"),
        _of(layers.Activation, (B, T, 2, F), activation="softmax"),
    ],
    "Add": _merged(layers.Add, finite=False),
    "AdditiveAttention": _attention(layers.AdditiveAttention),
    "ApplyMask": [_of(layers.ApplyMask), _of(layers.ApplyMask, STEPS, STEPS, several=True)],
    "Attention": [
        *_attention(layers.Attention),
        _of(layers.Attention, STEPS, STEPS, several=True, use_scale=True, score_mode="concat"),
    ],
    "Average": _merged(layers.Average, finite=False),
    "BatchNormalization": [
        _of(layers.BatchNormalization, momentum=0.5),
        _of(layers.BatchNormalization, (B, F), center=False),
    ],
    "Bidirectional": [
        Case(lambda dtype: _bidirectional(dtype, return_sequences=True)),
        Case(lambda dtype: _bidirectional(dtype, "mul", return_sequences=True, return_state=True)),
        Case(lambda dtype: _bidirectional(dtype, None)),
        Case(lambda dtype: _bidirectional(dtype, "ave", go_backwards=False)),
    ],
    "Concatenate": [
        _of(layers.Concatenate, STEPS, STEPS, several=True, finite=False),
        _of(layers.Concatenate, STEPS, (B, 2, F), several=True, axis=1),
    ],
    "Conv1D": [
        _of(layers.Conv1D, filters=4, kernel_size=3, padding="same", activation="relu"),
        _of(layers.Conv1D, filters=17, kernel_size=2, padding="causal", dilation_rate=2),
        _of(layers.Conv1D, filters=4, kernel_size=3, strides=2, activation="softmax"),
    ],
    "Cropping1D": [_of(layers.Cropping1D, cropping=(1, 2), computes=False)],
    "Dense": [
        _of(layers.Dense, units=5, activation="tanh"),
        _of(layers.Dense, units=17, activation="softmax"),
        _of(layers.Dense, (B, T, 2, F), units=2, activation="exponential"),
    ],
    "Dot": [
        _of(layers.Dot, STEPS, STEPS, several=True, axes=1),
        _of(layers.Dot, STEPS, STEPS, several=True, axes=2, normalize=True, finite=False),
    ],
    "Dropout": [_of(layers.Dropout, rate=0.5, seed=3), _of(layers.Dropout, (B, T, 2, F), rate=0.3, seed=3)],
    "ELU": [_of(layers.ELU, alpha=0.5)],
    "Embedding": [
        _of(layers.Embedding, (B, T), ids=True, input_dim=VOCABULARY, output_dim=4, mask_zero=True),
        _of(layers.Embedding, (B, T), ids=True, input_dim=VOCABULARY, output_dim=17),
    ],
    "Flatten": [_of(layers.Flatten, ragged=False, finite=False)],
    "GRU": [*_recurrent(layers.GRU), _of(layers.GRU, units=6, reset_after=False, return_sequences=True)],
    "GaussianNoise": [_of(layers.GaussianNoise, stddev=0.3, seed=3)],
    "GlobalAveragePooling1D": [_of(layers.GlobalAveragePooling1D)],
    "GlobalMaxPooling1D": [_of(layers.GlobalMaxPooling1D)],
    "Identity": [_of(layers.Identity, computes=False)],
    "LSTM": _recurrent(layers.LSTM),
    "LayerNormalization": [_of(layers.LayerNormalization), _of(layers.LayerNormalization, (B, T, 2, 17))],
    "LeakyReLU": [_of(layers.LeakyReLU, negative_slope=0.1)],
    "Lambda": [
        _of(layers.Lambda, ragged=False, function=np.tanh, mask=_same_mask, gradient=_tanh_gradient),
        _of(layers.Lambda, ragged=False, function=np.tanh, gradient=_tanh_gradient, finite=False),
    ],
    "Masking": [_of(layers.Masking), _of(layers.Masking, mask_value=-2.0)],
    "Maximum": _merged(layers.Maximum),
    "Minimum": _merged(layers.Minimum),
    "Model": [Case(_functional)],
    "Multiply": _merged(layers.Multiply),
    "PReLU": [_of(layers.PReLU, shared_axes=[1]), _of(layers.PReLU, ragged=False)],
    "Permute": [_of(layers.Permute, dims=(2, 1), ragged=False, finite=False)],
    "RNN": [
        _rnn(lambda dtype: layers.LSTMCell(3, dtype=dtype), lambda dtype: layers.GRUCell(4, dtype=dtype)),
        _rnn(lambda dtype: MixCell(dtype=dtype), return_sequences=True, return_state=True),
        _rnn(lambda dtype: PythonMixCell(dtype=dtype), return_sequences=True, zero_output_for_mask=True),
        _rnn(lambda dtype: layers.SimpleRNNCell(5, dtype=dtype), return_sequences=True, go_backwards=True),
    ],
    "ReLU": [_of(layers.ReLU, negative_slope=0.1, max_value=1.0)],
    "RepeatLike": [_of(layers.RepeatLike, (B, 4), STEPS, several=True)],
    "RepeatVector": [_of(layers.RepeatVector, (B, F), n=4)],
    "Reshape": [_of(layers.Reshape, target_shape=(T * F,), ragged=False, finite=False)],
    "Sequential": [Case(_sequential)],
    "SimpleRNN": _recurrent(layers.SimpleRNN),
    "Softmax": [_of(layers.Softmax, axis=1), _of(layers.Softmax)],
    "SpatialDropout1D": [_of(layers.SpatialDropout1D, rate=0.4, seed=3)],
    "Subtract": _merged(layers.Subtract, finite=False),
    "TimeDistributed": [
        _each_step(lambda dtype: layers.Dense(4, dtype=dtype), F),
        _each_step(lambda dtype: layers.GRU(4, dtype=dtype), 4, F),
        _each_step(lambda dtype: layers.GRU(4, dtype=dtype), 4, F, mask_axes=3),
        _each_step(lambda dtype: layers.LSTM(4, return_sequences=True, dtype=dtype), 4, F, mask_axes=3),
    ],
    "UnitNormalization": [_of(layers.UnitNormalization)],
    "UpSampling1D": [_of(layers.UpSampling1D, size=2, computes=False)],
    "ZeroPadding1D": [_of(layers.ZeroPadding1D, padding=(1, 2), computes=False)],
}
# Cells take one step and never see a mask: RNN, which has it, is tried with each of them.
CELLS = ("Cell", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells")


def every_case():
    """(name of the class and number, case) of all, for parametrize."""
    return [(f"{name}-{i}", case) for name, cases in CASES.items() for i, case in enumerate(cases)]


# ---- data ------------------------------------------------------------------------------------------------------------
def inputs_of(case, dtype, seed=0):
    """A list of arrays."""
    rng = np.random.default_rng(seed)
    if case.ids:
        return [rng.integers(0, VOCABULARY, shape) for shape in case.shapes]
    return [rng.standard_normal(shape).astype(dtype) for shape in case.shapes]


def masks_of(case, pattern="every"):
    """A mask for each input with steps, None for the others; of several inputs each has its own.

    pattern: one of `helpers.mask_cases`, or "every": each row has another one.
    """
    masks = []
    for i, shape in enumerate(case.shapes):
        if len(shape) > 2 or case.ids:
            patterns = mask_cases(*shape[:2], seed=i)
            rows = [
                patterns[("right", "holes", "all_masked", "left", "first_masked")[(b + i) % 5]][b] for b in range(B)
            ]
            mask = np.array(rows) if pattern == "every" else patterns[pattern]
            if case.mask_axes == 3:
                mask = mask[..., None] & (np.random.default_rng(i).random(shape[:3]) < 0.6)
            masks.append(mask)
        else:
            masks.append(None)
    return masks


def as_ragged(arrays, masks, lengths):
    """The same rows cut to these lengths at most, as Ragged, and their masks (N,)."""
    within = [np.arange(a.shape[1]) < np.reshape(lengths, (-1, 1)) for a in arrays]
    ragged = [Ragged.from_padded(a, w) for a, w in zip(arrays, within, strict=True)]
    return ragged, [None if m is None else m[w] for m, w in zip(masks, within, strict=True)]


# ---- what a layer gives ----------------------------------------------------------------------------------------------
def new_layer(case, dtype, inputs):
    """A built layer with random weights: always the same ones."""
    layer = case.make(np.dtype(dtype).name)
    zeros = [x.with_values(np.zeros_like(x.values)) if isinstance(x, Ragged) else np.zeros_like(x) for x in inputs]
    layer(zeros if case.several else zeros[0], **case.call)
    if hasattr(layer, "reset_state"):
        layer.reset_state()
    rng = np.random.default_rng(5)
    weights = [0.5 * rng.standard_normal(w.shape) for w in layer.weights]
    layer.set_weights(
        [abs(a) if w.name.endswith("variance") else a for a, w in zip(weights, layer.weights, strict=True)]
    )
    return layer


def outcome(case, dtype, inputs, masks, only_valid=True):
    """Name -> array of everything that a new layer gives: outputs of inference and training, where they stand at valid
    steps (`only_valid`) or everywhere, gradients of inputs and weights for random gradients of those outputs that are
    valid, and all weights afterwards (moving statistics are among them). Gradients of 0 have no sign here.
    """
    layer = new_layer(case, dtype, inputs)
    given = inputs if case.several else inputs[0]
    mask = masks if case.several else masks[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskDroppedWarning)
        inferred = layer(given, mask=mask, **case.call)
        outputs = layer(given, mask=mask, training=True, **case.call)
    d_outputs = [_direction(y, i) for i, y in enumerate(_listed(outputs))]
    d_inputs = layer.backward(type(outputs)(d_outputs) if isinstance(outputs, (list, tuple)) else d_outputs[0])
    found = {f"output {i}": _seen(y, only_valid) for i, y in enumerate(_listed(inferred))}
    found |= {f"output {i} in training": _seen(y, only_valid) for i, y in enumerate(_listed(outputs))}
    found |= {f"gradient of input {i}": None if d is None else _array(d) + 0 for i, d in enumerate(_listed(d_inputs))}
    if layer.trainable_weights:
        found |= {f"gradient of {w.name}": g for w, g in zip(layer.trainable_weights, layer.gradients, strict=True)}
    states = getattr(layer, "initial_state_gradients", ())
    found |= {f"gradient of state {i}": g for i, g in enumerate(states)}
    found |= {f"weight {i} {w.name} afterwards": w.numpy() for i, w in enumerate(layer.weights)}
    return {name: _array(a) for name, a in found.items() if a is not None}


def _listed(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _array(a):
    return a.values if isinstance(a, Ragged) else np.asarray(plain(a))


def _seen(y, only_valid):
    mask = mask_of(y)
    return _array(y)[mask] if only_valid and mask is not None else y


def _direction(y, i):
    """A random gradient for an output, 0 where it is masked."""
    values, mask = _array(y), mask_of(y)
    d = np.random.default_rng([i, values.size]).standard_normal(values.shape).astype(values.dtype)
    if mask is not None:
        d[~mask] = 0
    return plain(y).with_values(d) if isinstance(y, Ragged) else d
