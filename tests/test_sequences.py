"""pad_sequences, Keras' function with clear errors, and batches of similar length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmask.sequences
from fastmask.ragged import Ragged
from fastmask.sequences import bucket_batches, pad_sequences
from helpers import assert_doctests

ROWS = [[1], [2, 3], [4, 5, 6]]


# ---- pad_sequences --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [[0, 0, 1], [0, 2, 3], [4, 5, 6]]),
        ({"value": -1}, [[-1, -1, 1], [-1, 2, 3], [4, 5, 6]]),
        ({"padding": "post"}, [[1, 0, 0], [2, 3, 0], [4, 5, 6]]),
        ({"maxlen": 2}, [[0, 1], [2, 3], [5, 6]]),
        ({"maxlen": 2, "truncating": "post"}, [[0, 1], [2, 3], [4, 5]]),
        ({"maxlen": 2, "padding": "post", "truncating": "post", "value": 9}, [[1, 9], [2, 3], [4, 5]]),
        ({"maxlen": 4}, [[0, 0, 0, 1], [0, 0, 2, 3], [0, 4, 5, 6]]),
        ({"value": 0.7}, [[0, 0, 1], [0, 2, 3], [4, 5, 6]]),
    ],
)
def test_by_hand(options, expected):
    padded = pad_sequences(ROWS, **options)
    assert padded.tolist() == expected and padded.dtype == np.int32


def test_casts_as_numpy_does():
    assert pad_sequences([[1.9, -1.9], []]).tolist() == [[1, -1], [0, 0]]
    padded = pad_sequences([[1.5]], maxlen=2, dtype="float32", value=np.nan)
    assert padded.dtype == np.float32 and np.isnan(padded[0, 0]) and padded[0, 1] == 1.5
    assert pad_sequences([["a"], ["bb", "c"]], dtype="U3", value="pad").tolist() == [["pad", "a"], ["bb", "c"]]


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
def test_empty(padding, truncating):
    options = {"padding": padding, "truncating": truncating}
    assert pad_sequences([[], [1, 2]], value=7, **options).tolist() == [[7, 7], [1, 2]]
    assert pad_sequences([[], []], **options).shape == (2, 0)
    assert pad_sequences([], **options).shape == (0, 0)
    assert pad_sequences([], maxlen=3, **options).shape == (0, 3)
    assert pad_sequences(ROWS, maxlen=0, **options).shape == (3, 0)
    assert pad_sequences([[[1, 2]], []], maxlen=0, **options).shape == (2, 0, 2)


def test_steps_of_any_shape():
    rows = [np.ones((2, 3)), [], np.full((1, 3), 2.0)]
    padded = pad_sequences(rows, dtype="float64", value=-1.0)
    assert padded.shape == (3, 2, 3)
    assert padded[:, :, 0].tolist() == [[1, 1], [-1, -1], [-1, 2]]
    assert pad_sequences(np.arange(6).reshape(2, 3), maxlen=2).tolist() == [[1, 2], [4, 5]]


def test_containers():
    objects = np.empty(3, dtype=object)
    objects[:] = ROWS  # as keras.datasets.imdb comes
    expected = pad_sequences(ROWS).tolist()
    for rows in (tuple(ROWS), objects, [tuple(r) for r in ROWS], [np.array(r) for r in ROWS], Ragged.from_list(ROWS)):
        assert pad_sequences(rows).tolist() == expected
    assert pad_sequences([range(2), range(3)]).tolist() == [[0, 0, 1], [0, 1, 2]]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(-99, 99), max_size=7), max_size=6),
    st.none() | st.integers(0, 9),
    st.sampled_from(["pre", "post"]),
    st.sampled_from(["pre", "post"]),
)
def test_every_row_stands_where_it_should(rows, maxlen, padding, truncating):
    padded = pad_sequences(rows, maxlen, padding=padding, truncating=truncating, value=100)
    T = max(map(len, rows), default=0) if maxlen is None else maxlen
    assert padded.shape == (len(rows), T)
    for row, out in zip(rows, padded.tolist(), strict=True):
        kept = row[max(len(row) - T, 0) :] if truncating == "pre" else row[:T]
        fill = [100] * (T - len(kept))
        assert out == (fill + kept if padding == "pre" else kept + fill)


@pytest.mark.parametrize(
    "rows, options, error, message",
    [
        (5, {}, ValueError, "sequences: expected a list of sequences, received int"),
        (iter(ROWS), {}, ValueError, "sequences: expected a list of sequences, received list_iterator"),
        ("abc", {}, ValueError, "sequences: expected a list of sequences, received str"),
        ([[1], 2], {}, ValueError, r"sequences\[1\]: expected a sequence, received int"),
        ([[1], "ab"], {}, ValueError, r"sequences\[1\]: expected a sequence, received str"),
        ([{1, 2}], {}, ValueError, r"sequences\[0\]: expected a sequence, received set"),
        ([], {"padding": "front"}, ValueError, 'padding: expected "pre" or "post", received \'front\''),
        ([[]], {"truncating": None}, ValueError, 'truncating: expected "pre" or "post", received None'),
        (ROWS, {"maxlen": -1}, ValueError, "maxlen: expected at least 0, received -1"),
        (ROWS, {"maxlen": 2.0}, TypeError, "maxlen: expected a whole number, received 2.0"),
        (ROWS, {"value": "x"}, ValueError, "value: expected a number for dtype int32, received 'x'"),
        (ROWS, {"value": 2**40}, ValueError, "value: expected one that dtype int32 can hold"),
        (ROWS, {"dtype": object}, TypeError, "dtype: .*received object"),
        (ROWS, {"dtype": "int33"}, TypeError, "int33"),
        ([[1], [2**40]], {}, ValueError, r"sequences\[1\]: expected numbers that fit dtype int32"),
        ([[1], ["a"]], {}, ValueError, r"sequences\[1\]: expected numbers that fit dtype int32"),
        ([[1], [None]], {}, ValueError, r"sequences\[1\]: expected numbers that fit dtype int32"),
        ([[[1], [1, 2]]], {}, ValueError, r"sequences\[0\]: expected an array"),
        ([np.array([1, None])], {}, TypeError, r"sequences\[0\]: expected numbers, received an object array"),
        ([[[1, 2]], [[1, 2, 3]]], {}, ValueError, r"sequences\[1\]: expected steps of shape \(2,\), received \(3,\)"),
        ([[1], [[1, 2]]], {}, ValueError, r"sequences\[1\]: expected steps of shape \(\), received \(2,\)"),
    ],
)
def test_errors(rows, options, error, message):
    with pytest.raises(error, match=message):
        pad_sequences(rows, **options)


def test_what_is_cut_off_need_not_fit():
    assert pad_sequences([[2**40, 1, 2]], maxlen=2).tolist() == [[1, 2]]


# ---- bucket_batches -------------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_every_row_once(lengths, batch_size, shuffle, seed):
    batches = bucket_batches(lengths, batch_size, shuffle=shuffle, seed=seed)
    rows = np.concatenate(batches) if batches else np.zeros(0, int)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    sizes = sorted(len(b) for b in batches)
    assert all(0 < n <= batch_size for n in sizes) and all(n == batch_size for n in sizes[1:])
    # similar: put in order of length, batches do not overlap
    ranges = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches)
    assert all(high <= low for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))


def as_lists(batches):
    return [b.tolist() for b in batches]


def test_order():
    lengths = [5, 1, 4, 1, 9]
    assert as_lists(bucket_batches(lengths, 2, shuffle=False)) == [[1, 3], [2, 0], [4]]
    assert as_lists(bucket_batches(lengths, 2, shuffle=False, seed=3)) == [[1, 3], [2, 0], [4]]
    assert bucket_batches([], 4) == [] and bucket_batches([], 4, shuffle=False) == []
    assert as_lists(bucket_batches(np.array([3], np.int32), 4)) == [[0]]


def test_seeds():
    lengths = np.random.default_rng(0).integers(1, 20, 200)
    first = as_lists(bucket_batches(lengths, 16, seed=1))
    assert as_lists(bucket_batches(lengths, 16, seed=1)) == first
    assert as_lists(bucket_batches(lengths, 16, seed=np.random.default_rng(1))) == first
    assert as_lists(bucket_batches(lengths, 16, seed=2)) != first
    rng = np.random.default_rng(1)
    epochs = [as_lists(bucket_batches(lengths, 16, seed=rng)) for _ in range(3)]
    assert epochs[0] == first and epochs[1] != first and epochs[2] != epochs[1]
    # who stands with whom changes too, not only the order of the batches
    assert {frozenset(b) for b in epochs[0]} != {frozenset(b) for b in epochs[1]}
    np.random.seed(0)
    state = np.random.get_state()[1].tolist()
    bucket_batches(lengths, 16, seed=1)
    assert np.random.get_state()[1].tolist() == state, "the global generator is not touched"


def test_what_shuffle_shuffles():
    seeds = range(40)
    # rows of one length: who stands with whom
    ties = [as_lists(bucket_batches([7] * 6, 3, seed=seed)) for seed in seeds]
    assert len({frozenset(map(frozenset, batches)) for batches in ties}) > 5
    # other lengths: which rows the smaller batch takes, so that the boundaries move
    distinct = [as_lists(bucket_batches([1, 2, 3, 4, 5, 6, 7], 3, seed=seed)) for seed in seeds]
    assert {tuple(b) for batches in distinct for b in batches if len(b) == 1} == {(0,), (3,), (6,)}
    # and the order in which batches come
    assert {len(batches[0]) for batches in distinct} == {1, 3}


def test_it_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 101, 512)
    padding = lambda batches: sum(len(b) * lengths[b].max() for b in batches) / lengths.sum()  # noqa: E731
    random = np.split(np.random.default_rng(1).permutation(512), 16)
    assert padding(bucket_batches(lengths, 32, seed=0)) < 1.1 < 1.8 < padding(random)


@pytest.mark.parametrize(
    "lengths, batch_size, error, message",
    [
        ([1, -1], 2, ValueError, "lengths: .*received -1 at position 1"),
        ([1.5], 2, ValueError, "lengths: .*received 1.5"),
        ([[1]], 2, ValueError, "lengths: expected shape"),
        ([1], 0, ValueError, "batch_size: expected at least 1, received 0"),
        ([1], 1.0, TypeError, "batch_size: expected a whole number"),
        (["a"], 1, TypeError, "lengths: expected numbers"),
    ],
)
def test_bucket_errors(lengths, batch_size, error, message):
    with pytest.raises(error, match=message):
        bucket_batches(lengths, batch_size)


def test_examples():
    assert_doctests(fastmask.sequences)
