"""Ragged: rows of different lengths behind each other."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmask.ragged
from fastmask.ragged import Ragged
from helpers import assert_doctests, mask_cases


def rows_of(lengths, step_shape=(2,), dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, *step_shape)).astype(dtype) for n in lengths]


def assert_rows(ragged, rows):
    assert len(ragged) == len(rows)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(ragged[i], row)


# ---- making one -----------------------------------------------------------------------------------------------------
def test_by_hand():
    values = np.arange(8.0).reshape(4, 2)
    r = Ragged(values, [0, 1, 1, 4])
    assert len(r) == 3 and r.shape == (3, None, 2) and r.ndim == 3 and r.dtype == np.float64
    assert r.lengths.tolist() == [1, 0, 3] and r.lengths.dtype == np.int64 and r.offsets.dtype == np.int64
    assert_rows(r, [values[:1], values[1:1], values[1:]])
    assert [row.shape for row in r] == [(1, 2), (0, 2), (3, 2)]
    assert repr(r) == "Ragged(shape=(3, None, 2), N=4, dtype=float64)"


def test_values_are_shared_and_offsets_are_not():
    values, offsets = np.zeros((3, 1)), np.array([0, 1, 3])
    r = Ragged(values, offsets)
    assert r.values is values and np.shares_memory(r[1], values)
    r[1][0] = 5.0
    assert values[1, 0] == 5.0
    offsets[1] = 2
    assert r.lengths.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        r.offsets[1] = 2
    with pytest.raises(AttributeError):
        r.values = values
    r.lengths[0] = 9  # a fresh array each time
    assert r.lengths.tolist() == [1, 2]


def test_index():
    r = Ragged.from_list(rows_of([3, 0, 2]))
    np.testing.assert_array_equal(r[-1], r[2])
    np.testing.assert_array_equal(r[np.int64(0)], r[0])
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"expected a row of 0..2, received {i}"):
            r[i]
    for i in (slice(0, 2), [0, 1], 1.0, None, "0"):
        with pytest.raises(TypeError, match="take"):
            r[i]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_, np.float16])
@pytest.mark.parametrize("step_shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [4], [2, 0, 5, 1]])
def test_from_list(lengths, step_shape, dtype):
    rows = rows_of(lengths, step_shape, dtype)
    r = Ragged.from_list(rows)
    assert_rows(r, rows)
    assert r.lengths.tolist() == lengths
    if sum(lengths) or (lengths and step_shape):
        assert r.dtype == dtype and r.shape == (len(lengths), None, *step_shape)


def test_from_list_dtypes_and_empty_rows():
    assert Ragged.from_list([[1, 2], [3]]).dtype == np.int64
    assert Ragged.from_list([[1, 2], [0.5]]).dtype == np.float64
    assert Ragged.from_list([[1, 2], []]).dtype == np.int64, "a bare [] has no say"
    assert Ragged.from_list([np.ones(2, np.float32), np.array([])]).dtype == np.float32
    assert Ragged.from_list([[], []]).dtype == np.float32
    assert Ragged.from_list([np.zeros(0, np.int8), []]).dtype == np.int8
    assert Ragged.from_list([]).shape == (0, None)
    r = Ragged.from_list([[], np.ones((2, 3), np.float32), np.zeros((0, 3))])
    assert r.shape == (3, None, 3) and r.lengths.tolist() == [0, 2, 0]
    assert Ragged.from_list([[1.7]], dtype="int32").values.tolist() == [1]
    assert Ragged.from_list(row for row in ([1], [2, 3])).lengths.tolist() == [1, 2]
    assert Ragged.from_list(np.array([[1, 2], [3, 4]])).lengths.tolist() == [2, 2]
    objects = np.empty(2, dtype=object)
    objects[:] = [np.ones((1, 3)), np.ones((2, 3))]
    assert Ragged.from_list(objects).lengths.tolist() == [1, 2], "an object array of rows is a list of rows"


def test_from_list_of_a_ragged():
    r = Ragged.from_list([[1, 2], [3]])
    assert Ragged.from_list(r) is r
    assert Ragged.from_list(r, dtype=np.float32).dtype == np.float32


# ---- padded and back ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step_shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("name", mask_cases(4, 5))
def test_from_padded(name, step_shape):
    mask = mask_cases(4, 5)[name]
    x = np.random.default_rng(0).standard_normal((4, 5, *step_shape))
    r = Ragged.from_padded(x, mask)
    assert_rows(r, [x[b][mask[b]] for b in range(4)])
    assert not np.shares_memory(r.values, x)
    np.testing.assert_array_equal(Ragged.from_padded(x, mask[..., None].astype(float)).values, r.values)
    np.testing.assert_array_equal(Ragged.from_padded(np.asfortranarray(x), mask.tolist()).values, r.values)


def test_to_padded():
    x, mask = Ragged.from_list([[1, 2, 3], [], [4]]).to_padded(value=-7)
    assert x.tolist() == [[1, 2, 3], [-7] * 3, [4, -7, -7]] and x.dtype == np.int64
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]] and mask.dtype == bool
    x, mask = Ragged.from_list([]).to_padded()
    assert x.shape == (0, 0) and mask.shape == (0, 0)
    x, mask = Ragged.from_list([np.zeros((0, 3))]).to_padded()
    assert x.shape == (1, 0, 3) and mask.shape == (1, 0)
    x, _ = Ragged.from_list(rows_of([1, 2])).to_padded(np.nan)
    assert np.isnan(x[0, 1]).all() and x.dtype == np.float32


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=8), st.sampled_from([(), (1,), (3,)]), st.integers(0, 1))
def test_round_trips(lengths, step_shape, pad):
    r = Ragged.from_list(rows_of(lengths, step_shape))
    again = Ragged.from_padded(*r.to_padded(float(pad)))
    np.testing.assert_array_equal(again.values.ravel(), r.values.ravel())
    np.testing.assert_array_equal(again.offsets, r.offsets)
    for twin in (pickle.loads(pickle.dumps(r)), copy.deepcopy(r), Ragged.from_list(list(r))):
        np.testing.assert_array_equal(twin.values, r.values)
        np.testing.assert_array_equal(twin.offsets, r.offsets)


# ---- take and with_values -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("indices", [[], [0], [2, 0], [1, 1, 1], [-1, 0, 3], [3, 2, 1, 0]])
def test_take(indices):
    rows = rows_of([3, 0, 2, 4])
    taken = Ragged.from_list(rows).take(indices)
    assert_rows(taken, [rows[i] for i in indices])
    assert taken.dtype == np.float32 and taken.shape == (len(indices), None, 2)
    assert_rows(Ragged.from_list(rows).take(np.array(indices, dtype=np.int8)), [rows[i] for i in indices])


def test_take_is_a_copy():
    r = Ragged.from_list(rows_of([2, 1]))
    assert not np.shares_memory(r.take([0, 1]).values, r.values)
    assert len(Ragged.from_list([]).take([])) == 0


def test_with_values():
    r = Ragged.from_list(rows_of([2, 0, 1]))
    other = r.with_values(np.arange(3))
    assert other.offsets is r.offsets and other.shape == (3, None)
    assert_rows(other, [[0, 1], [], [2]])


# ---- errors ---------------------------------------------------------------------------------------------------------
R = Ragged.from_list([[1, 2], [3]])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Ragged([1, 2], [0, 3]), ValueError, r"offsets: expected N = 2 .* last, received 3"),
        (lambda: Ragged([1, 2], [0, 1]), ValueError, "offsets: expected N = 2"),
        (lambda: Ragged([1, 2], [1, 2]), ValueError, "offsets: expected 0 first, received 1"),
        (
            lambda: Ragged([1, 2], [0, 2, 1, 2]),
            ValueError,
            "offsets: expected no decrease, received 2 then 1 at position 2",
        ),
        (lambda: Ragged([1, 2], [0, -1, 2]), ValueError, "offsets: expected no decrease"),
        (lambda: Ragged([1, 2], []), ValueError, r"offsets: expected shape \(B\+1,\), received \(0,\)"),
        (lambda: Ragged([1, 2], 2), ValueError, r"offsets: expected shape \(B\+1,\), received \(\)"),
        (lambda: Ragged([1, 2], [[0, 2]]), ValueError, "offsets: expected shape"),
        (lambda: Ragged([1, 2], [0.0, 2.0]), TypeError, "offsets: expected integers, received dtype float64"),
        (lambda: Ragged([1, 2], None), ValueError, "offsets: expected shape"),
        (lambda: Ragged(3.0, [0, 1]), ValueError, "values: expected rank at least 1"),
        (lambda: Ragged(np.array([None]), [0, 1]), TypeError, "values: expected numbers, received dtype object"),
        (lambda: Ragged(["a"], [0, 1]), TypeError, "values: expected numbers"),
        (lambda: Ragged([[1], [1, 2]], [0, 2]), ValueError, "values: expected an array"),
        (lambda: Ragged(R, [0, 3]), TypeError, "values: expected an array"),
        (lambda: Ragged.from_list(3), TypeError, "arrays: expected a list of arrays, received int"),
        (lambda: Ragged.from_list("ab"), TypeError, "arrays: expected a list of arrays, received str"),
        (lambda: Ragged.from_list([1, 2]), ValueError, r"arrays\[0\]: expected rank at least 1, received a scalar"),
        (lambda: Ragged.from_list([[1], ["a"]]), TypeError, r"arrays\[1\]: expected numbers"),
        (lambda: Ragged.from_list([[1], [None]]), TypeError, r"arrays\[1\]: expected numbers, received dtype object"),
        (lambda: Ragged.from_list([[[1], [1, 2]]]), ValueError, r"arrays\[0\]: expected an array"),
        (
            lambda: Ragged.from_list([[], np.ones((1, 3)), np.ones((1, 2))]),
            ValueError,
            r"arrays\[2\]: expected steps of shape \(3,\) as arrays\[1\], received \(2,\)",
        ),
        (lambda: Ragged.from_list([np.ones((1, 3)), np.ones((0, 2))]), ValueError, r"arrays\[1\]: expected steps"),
        (lambda: Ragged.from_list([[1]], dtype=object), TypeError, "dtype: expected numbers, received dtype object"),
        (lambda: Ragged.from_padded([1, 2], [[1, 1]]), ValueError, r"x: expected shape \(B,T,...\), received \(2,\)"),
        (lambda: Ragged.from_padded([[1, 2]], [[1, 1, 1]]), ValueError, r"mask: expected shape \(B,T\) = \(1,2\)"),
        (lambda: Ragged.from_padded([[1, 2]], None), TypeError, "mask: expected numbers"),
        (lambda: R.to_padded(0.5), ValueError, "value: expected one that dtype int64 can hold, received 0.5"),
        (lambda: R.to_padded(np.nan), ValueError, "value: expected one that dtype int64 can hold"),
        (lambda: R.with_values(np.zeros(3, np.uint8)).to_padded(-1), ValueError, "value: .*uint8"),
        (lambda: R.with_values(np.zeros(3, bool)).to_padded(2), ValueError, "value: .*bool"),
        (lambda: R.to_padded("0"), TypeError, "value: expected numbers"),
        (lambda: R.to_padded([0]), ValueError, "value: expected one number"),
        (lambda: R.take([2]), ValueError, "indices: expected rows of 0..1, received 2"),
        (lambda: R.take([-3]), ValueError, "indices: expected rows of 0..1, received -3"),
        (lambda: R.take(0), ValueError, r"indices: expected shape \(n,\)"),
        (lambda: R.take([0.0]), TypeError, "indices: expected integers"),
        (lambda: R.take([True, False]), TypeError, "indices: expected integers, received dtype bool"),
        (lambda: R.with_values([1, 2]), ValueError, "values: expected N = 3 steps"),
        (lambda: R.with_values(np.array([None] * 3)), TypeError, "values: expected numbers"),
        (lambda: np.asarray(R), TypeError, "to_padded"),
        (lambda: np.asarray(R, dtype=float), TypeError, "to_padded"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_examples():
    assert_doctests(fastmask.ragged)
