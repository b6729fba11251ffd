"""The table of mask propagation against live Keras (TensorFlow): by hand and in models, the same masks and the same
values at every position, or a difference that has a name, with what each side does."""

import inspect
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import fastmask as fm
from helpers import assert_close
from propagation_rows import ABSENT, FAILS, LOST, ROWS, one_or_list
from test_propagation import carrying, listed, row_id, symbolic

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

ROWS_OF_BOTH = [row for row in ROWS if row.keras is None or row.keras.out != ABSENT]
EXPLICIT = [row for row in ROWS_OF_BOTH if "mask" in inspect.signature(row.make(keras).call).parameters]
every_row_and_way = pytest.mark.parametrize(
    "row, way",
    [(row, way) for row in ROWS_OF_BOTH for way in ("by hand", "in a model")] + [(row, "explicit") for row in EXPLICIT],
    ids=lambda value: value if isinstance(value, str) else row_id(value),
)


class WithMask(keras.layers.Layer):
    """[x, mask] -> x, which carries the mask."""

    def call(self, inputs):
        return keras.ops.copy(inputs[0])

    def compute_mask(self, inputs, previous_mask=None):
        return inputs[1]


def carrying_in_keras(source, x, mask):
    """x with the mask of its source: from Masking, if that finds it."""
    if source.mask is None:
        return x
    return keras.layers.Masking()(x) if source.is_found_by_masking else WithMask()([x, mask])


KERAS = SimpleNamespace(
    Input=keras.Input,
    Model=keras.Model,
    pool=keras.layers.GlobalAveragePooling1D,
    carrying=carrying_in_keras,
    mask="_keras_mask",
    warning="does not support mask",
)
OURS = SimpleNamespace(
    Input=fm.Input,
    Model=fm.Model,
    pool=fm.layers.GlobalAveragePooling1D,
    carrying=carrying,
    mask="mask",
    warning="MaskDroppedWarning",
)


def run(f, row, way, layer):
    """(outputs of a layer, what a pooling layer makes of those that are sequences): in a model the pooling shows the
    mask that reaches another layer; elsewhere there is none."""
    if way == "explicit":
        inputs, options = row.arguments([s.values for s in row.sources])
        return as_list(layer(inputs, mask=one_or_list([s.mask for s in row.sources[: row.n_inputs]]), **options)), []
    if way == "by hand":
        inputs, options = row.arguments([f.carrying(s, *s) for s in row.sources])
        return as_list(layer(inputs, **options)), []
    pairs = [symbolic(s, f.Input) for s in row.sources]
    inputs, options = row.arguments([f.carrying(s, *pair) for s, pair in zip(row.sources, pairs, strict=True)])
    built = as_list(layer(inputs, **options))
    pooled = []
    if f is OURS or row.keras is None:
        masks = listed(built, row.expected())[1]
        pooled = [f.pool()(y) for y, m in zip(built, masks, strict=True) if len(y.shape) == 3 and np.ndim(m) == 2]
    model = f.Model([t for pair in pairs for t in pair if t is not None], built + pooled)
    outputs = as_list(model([a for s in row.sources for a in s if a is not None]))
    return outputs[: len(built)], outputs[len(built) :]


def as_list(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def watched(f, row, way, layer):
    """(outputs, their masks, pooled outputs, whether a mask was said to be lost)"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs, pooled = run(f, row, way, layer)
    masks = [getattr(y, f.mask, None) for y in outputs]
    lost = any(f.warning in f"{w.category.__name__}: {w.message}" for w in caught)
    return [np.asarray(y) for y in outputs], [None if m is None else np.asarray(m) for m in masks], pooled, lost


def assert_masks(masks, expected):
    for mask, e in zip(*listed(masks, expected), strict=True):
        assert (mask is None) == (e is None)
        np.testing.assert_array_equal(mask, e)


@every_row_and_way
def test_rows(row, way):
    keras_layer, instead = row.make(keras), row.keras
    out = row.out if instead is None else instead.out
    expected, pooled = None, []
    if out is FAILS:
        with pytest.raises((ValueError, IndexError, tf.errors.InvalidArgumentError)):
            run(KERAS, row, way, keras_layer)
    else:
        expected, masks, pooled, lost = watched(KERAS, row, way, keras_layer)
        assert_masks(masks, row.expected(out))
        assert lost == (out is LOST or (instead is not None and instead.warns))

    layer = row.make(fm)
    watched(OURS, row, way, layer)  # which builds it
    if keras_layer.weights:
        layer.set_weights(keras_layer.get_weights())
    outputs, masks, our_pooled, lost = watched(OURS, row, way, layer)
    assert_masks(masks, row.expected())
    assert lost == row.is_lost

    if instead is not None and instead.values:
        first = instead.values(keras_layer, None if expected is None else expected[0], *row.sources)
        expected = [np.asarray(first), *(expected or [None])[1:]]
    for y, e in zip(outputs, expected or [], strict=expected is not None):
        assert_close(y, e, np.float32)
    if way == "in a model":
        sequences = [(y, m) for y, m in zip(outputs, masks, strict=True) if y.ndim == 3 and np.ndim(m) == 2]
        for z, (y, m) in zip(our_pooled, sequences, strict=True):
            mean = np.sum(y * m[..., None], axis=1) / np.maximum(m.sum(axis=1), 1)[:, None]
            assert_close(z, mean, np.float32)
    if instead is None:
        for z, e in zip(our_pooled, pooled, strict=True):
            assert_close(z, np.nan_to_num(e), np.float32)  # an empty row is NaN in Keras


@pytest.mark.parametrize("row", [r for r in ROWS_OF_BOTH if r.keras is None and callable(r.out)], ids=row_id)
def test_compute_mask(row):
    """layer.compute_mask(inputs, mask), by hand."""
    arrays, masks = zip(*row.sources, strict=True)
    layer, keras_layer = row.make(fm), row.make(keras)
    layer(one_or_list(arrays)), keras_layer(one_or_list([tf.constant(a) for a in arrays]))  # which builds them
    mask = layer.compute_mask(one_or_list(arrays), one_or_list(masks))
    expected = keras_layer.compute_mask(
        one_or_list([tf.constant(a) for a in arrays]),
        one_or_list([None if m is None else tf.constant(m) for m in masks]),
    )
    masks = as_list(mask)
    assert_masks(masks, as_list(expected) + [None] * (len(masks) - len(as_list(expected))))


# ---- what the facts about Keras name and fastmask does not offer ----------------------------------------------------
NOT_OFFERED = [
    "ActivityRegularization",
    "AlphaDropout",
    "AveragePooling1D",
    "EinsumDense",
    "GaussianDropout",
    "GroupNormalization",
    "MaxPooling1D",
    "MultiHeadAttention",
    "Normalization",
    "RMSNormalization",
    "Rescaling",
]


def test_what_is_not_offered():
    """Once fastmask has one of these layers, it belongs into the table."""
    for name in NOT_OFFERED:
        assert hasattr(keras.layers, name) and not hasattr(fm.layers, name)
