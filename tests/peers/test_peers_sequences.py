"""pad_sequences against live Keras, Ragged's layout against PyTorch's packed sequences."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.ragged import Ragged
from fastmask.sequences import pad_sequences

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastmask[peers]")

ENDS = st.sampled_from(["pre", "post"])


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-1000, 1000) | st.floats(-1e3, 1e3), max_size=7), min_size=1, max_size=6),
    maxlen=st.none() | st.integers(1, 9),
    dtype=st.sampled_from(["int32", "float32", "float64", "int8"]),
    padding=ENDS,
    truncating=ENDS,
    value=st.sampled_from([0.0, 1, -1, 0.7]),
)
def test_keras_pad_sequences(rows, maxlen, dtype, padding, truncating, value):
    arguments = (maxlen, dtype, padding, truncating, value)
    try:
        theirs = keras.utils.pad_sequences(rows, *arguments)
    except (OverflowError, ValueError):  # 1000 in int8: Keras hands out NumPy's OverflowError
        with pytest.raises(ValueError, match="fit dtype int8"):
            pad_sequences(rows, *arguments)
        return
    ours = pad_sequences(rows, *arguments)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
@pytest.mark.parametrize("maxlen", [None, 1, 2, 5])
def test_keras_pad_sequences_of_steps(maxlen, truncating, padding):
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((n, 2, 3)) for n in (0, 3, 1, 4)]
    options = {"maxlen": maxlen, "dtype": "float32", "padding": padding, "truncating": truncating, "value": -1.0}
    np.testing.assert_array_equal(pad_sequences(rows[1:], **options), keras.utils.pad_sequences(rows[1:], **options))
    np.testing.assert_array_equal(pad_sequences(rows, **options), keras.utils.pad_sequences(rows, **options))


@pytest.mark.parametrize(
    "rows, options",
    [
        (5, {}),
        (iter([[1]]), {}),
        ([[1], 2], {}),
        ([[1]], {"padding": "x"}),
        ([[1]], {"truncating": "x"}),
        ([[1]], {"value": "x"}),
        ([[1]], {"maxlen": -1}),
        ([[[1, 2]], [[1, 2, 3]]], {}),
        ([[1], ["a"]], {}),
    ],
)
def test_keras_raises_too(rows, options):
    for function in (keras.utils.pad_sequences, pad_sequences):
        with pytest.raises(ValueError):
            function(rows, **options)


def test_where_keras_fails_and_fastmask_does_not():
    with pytest.raises(ValueError):
        keras.utils.pad_sequences([[1, 2]], maxlen=0)
    assert pad_sequences([[1, 2]], maxlen=0).shape == (1, 0)
    with pytest.raises(ValueError):
        keras.utils.pad_sequences([])
    assert pad_sequences([]).shape == (0, 0)
    assert keras.utils.pad_sequences([[]], padding="x").shape == (1, 0)  # names are looked at when a row is reached
    with pytest.raises(ValueError, match="padding"):
        pad_sequences([[]], padding="x")


def test_torch_pad_sequence():
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((n, 3)) for n in (2, 5, 1)]
    x, mask = Ragged.from_list(rows).to_padded(-1.0)
    theirs = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=-1.0)
    np.testing.assert_array_equal(x, theirs.numpy())
    packed = torch.nn.utils.rnn.pack_sequence([torch.tensor(r) for r in rows], enforce_sorted=False)
    again, lengths = torch.nn.utils.rnn.unpack_sequence(packed), mask.sum(axis=1)
    for row, other, n in zip(Ragged.from_list(rows), again, lengths, strict=True):
        np.testing.assert_array_equal(row, other.numpy())
        assert len(row) == n
