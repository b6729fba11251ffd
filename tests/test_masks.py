"""fastmask.masks and the check of masks every op goes through."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmask.ops.mask
from fastmask import masks
from fastmask.ops.mask import check_count, check_lengths, check_mask, clear_masked, is_finite_under
from fastmask.reference import mask as reference
from helpers import assert_doctests, mask_cases


# ---- from_values ----------------------------------------------------------------------------------------------------
def test_from_values_by_hand():
    x = [[[0, 0], [0, 3], [0, 0]], [[1, 2], [0, 0], [0, 0]]]
    assert masks.from_values(x).tolist() == [[False, True, False], [True, False, False]]
    assert masks.from_values(x, 3).tolist() == [[True, True, True], [True, True, True]]
    assert masks.from_values([[3, 3], [3, 1]], 3).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_from_values_compares_exactly_in_the_dtype_of_x(dtype):
    smallest = np.finfo(dtype).smallest_subnormal
    x = np.array([[0.0, -0.0], [0.0, smallest], [np.nan, 0.0], [0.37, 0.37], [np.inf, 0.0]], dtype)
    assert masks.from_values(x).tolist() == [False, True, True, True, True]  # denormals and NaN are data
    assert masks.from_values(x, 0.37).tolist() == [True, True, True, False, True]
    assert masks.from_values(x, np.float64(0.37)).tolist() == [True, True, True, False, True]
    assert masks.from_values(x, np.nan).all()  # NaN equals nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masks.from_values(np.full((1, 2), np.inf, dtype), 1e300).tolist() == [dtype == np.float64]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_from_values_of_integers(dtype):
    x = np.array([[0, 0], [0, 1], [1, 1]], dtype)
    assert masks.from_values(x).tolist() == [False, True, True]
    assert masks.from_values(x, 1).tolist() == [True, True, False]
    for never in (0.5, -1, 1000, np.nan, np.inf, -np.inf):
        assert masks.from_values(x, never).all()
    assert masks.from_values(x).dtype == bool


def test_integers_beyond_float_precision():
    big = 2**53
    assert masks.from_ids(np.array([big, big + 1]), big).tolist() == [False, True]
    assert masks.from_ids(np.array([2**64 - 1, 2**64 - 2], np.uint64), 2**64 - 1).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (2, 3, 4, 3), (0, 3), (2, 0, 3), (0, 2, 3), (2, 4, 1), (2, 3, 0)])
def test_from_values_of_any_rank(shape):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, shape).astype(np.float32)
    mask = masks.from_values(x)
    assert mask.shape == shape[:-1] and mask.dtype == bool
    np.testing.assert_array_equal(mask, reference.from_values(x))
    np.testing.assert_array_equal(masks.from_values(np.asfortranarray(x)), mask)
    x.flags.writeable = False
    np.testing.assert_array_equal(masks.from_values(np.repeat(x, 2, axis=-1)[..., ::2]), mask)


# ---- from_ids -------------------------------------------------------------------------------------------------------
def test_from_ids():
    assert masks.from_ids([[3, 0, 2], [0, 0, 0]]).tolist() == [[True, False, True], [False] * 3]
    assert masks.from_ids([3, 0, 2], pad_id=2).tolist() == [True, True, False]
    assert masks.from_ids([[0.0, 0.7, -0.0]]).tolist() == [
        [False, True, False]
    ]  # 0.7 is not 0, whatever row it would use
    assert masks.from_ids(np.array([-1, 0]), -1).tolist() == [False, True]
    assert masks.from_ids(np.zeros((0, 5), int)).shape == (0, 5)
    assert masks.from_ids([]).shape == (0,)


# ---- lengths --------------------------------------------------------------------------------------------------------
def test_from_lengths_by_hand():
    assert masks.from_lengths([2, 0, 3]).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert masks.from_lengths(np.array([1], np.uint8), 2).tolist() == [[True, False]]
    assert masks.from_lengths([1.0, 2.0]).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    "lengths, maxlen, shape",
    [([], None, (0, 0)), ([], 3, (0, 3)), ([0, 0], None, (2, 0)), ([0], 0, (1, 0)), ([2], 5, (1, 5))],
)
def test_from_lengths_shapes(lengths, maxlen, shape):
    mask = masks.from_lengths(lengths, maxlen)
    assert mask.shape == shape and mask.dtype == bool
    assert masks.to_lengths(mask).tolist() == list(lengths)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 5))
def test_lengths_round_trip(lengths, extra):
    maxlen = max(lengths, default=0) + extra
    mask = masks.from_lengths(lengths, maxlen)
    counted = masks.to_lengths(mask)
    assert counted.dtype == np.int64 and counted.tolist() == lengths
    for row, n in zip(mask, lengths, strict=True):
        assert row[:n].all() and not row[n:].any()
    np.testing.assert_array_equal(mask, reference.from_lengths(lengths, maxlen))


def test_to_lengths_counts_wherever_the_steps_stand():
    for mask in mask_cases(5, 7).values():
        expected = [sum(row) for row in mask.tolist()]
        for same in (mask, mask.tolist(), mask.astype(np.float32) * 0.3, mask[..., None], np.asfortranarray(mask)):
            assert masks.to_lengths(same).tolist() == expected
    assert masks.to_lengths(np.zeros((0, 4))).shape == (0,)
    assert masks.to_lengths(np.zeros((4, 0))).tolist() == [0] * 4


# ---- check_mask -----------------------------------------------------------------------------------------------------
def test_a_good_mask_is_not_copied():
    mask = mask_cases(3, 4)["holes"]
    assert check_mask(mask, (3, 4)) is mask


@pytest.mark.parametrize("name", mask_cases(3, 4))
def test_check_mask_takes_every_kind(name):
    mask = mask_cases(3, 4)[name]
    frozen = np.repeat(mask, 2, axis=0)[::2]
    frozen.flags.writeable = False
    for kind in (
        mask,
        mask.tolist(),
        mask.astype(np.int8),
        mask * 0.3,
        mask * 1e-45,
        np.where(mask, np.nan, 0.0),
        mask[..., None],
        mask.astype(np.float32)[..., None],
        np.asfortranarray(mask),
        mask[:, ::-1][:, ::-1],
        frozen,
        mask.view(type("Sub", (np.ndarray,), {})),
    ):
        checked = check_mask(kind, (3, 4))
        assert type(checked) is np.ndarray and checked.dtype == bool and checked.flags.c_contiguous
        np.testing.assert_array_equal(checked, mask)


def test_check_mask_broadcasts_one_row():
    one = np.array([[True, False, True]])
    np.testing.assert_array_equal(check_mask(one, (4, 3)), np.repeat(one, 4, axis=0))
    np.testing.assert_array_equal(check_mask(one[..., None], (4, 3)), np.repeat(one, 4, axis=0))
    assert check_mask(one, (0, 3)).shape == (0, 3)
    assert check_mask(np.ones(5), (5,)).all()


@pytest.mark.parametrize(
    "shape", [(3, 5), (4, 3), (4,), (3,), (), (3, 1), (1, 1), (3, 4, 2), (1, 3, 4), (3, 4, 1, 1), (0, 4)]
)
def test_check_mask_shapes(shape):
    with pytest.raises(ValueError, match=r"^mask: expected shape \(B,T\) = \(3,4\), received "):
        check_mask(np.ones(shape, bool), (3, 4))


def test_one_mask_is_not_one_for_all_steps_of_a_ragged():
    with pytest.raises(ValueError, match=r"holes: expected shape \(5,\), received \(1,\)"):
        check_mask(np.ones(1, bool), (5,), name="holes")


# ---- errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: masks.from_values([1.0, 2.0]), ValueError, r"x: expected rank at least 2, .*received shape \(2,\)"),
        (lambda: masks.from_values([[1.0], [1.0, 2.0]]), ValueError, "x: expected an array"),
        (lambda: masks.from_values(np.array([[None]])), TypeError, "x: expected numbers, received dtype object"),
        (lambda: masks.from_values([["a"]]), TypeError, "x: expected numbers"),
        (lambda: masks.from_values([[1j]]), TypeError, "x: expected numbers"),
        (lambda: masks.from_values([[1.0]], "0"), TypeError, "mask_value: expected numbers"),
        (lambda: masks.from_values([[1.0]], None), TypeError, "mask_value: expected numbers"),
        (lambda: masks.from_values([[1.0]], [0.0]), ValueError, "mask_value: expected one number"),
        (lambda: masks.from_ids(3), ValueError, "ids: expected rank at least 1"),
        (lambda: masks.from_ids(["a"]), TypeError, "ids: expected numbers"),
        (lambda: masks.from_lengths([2, -1]), ValueError, "lengths: .*received -1 at position 1"),
        (
            lambda: masks.from_lengths([2, 5], 4),
            ValueError,
            "lengths: expected at most maxlen = 4, received 5 at position 1",
        ),
        (lambda: masks.from_lengths([1.5]), ValueError, "lengths: expected whole numbers >= 0, received 1.5"),
        (lambda: masks.from_lengths([np.nan]), ValueError, "lengths: .*received nan"),
        (lambda: masks.from_lengths([np.inf]), ValueError, "lengths: .*received inf"),
        (lambda: masks.from_lengths([1e300]), ValueError, "lengths: .*received 1e\\+300"),
        (
            lambda: masks.from_lengths(np.array([2**63], np.uint64)),
            ValueError,
            "lengths: .*received 9223372036854775808",
        ),
        (lambda: masks.from_lengths([[1]]), ValueError, r"lengths: expected shape \(B,\), received \(1, 1\)"),
        (lambda: masks.from_lengths(3), ValueError, "lengths: expected shape"),
        (lambda: masks.from_lengths([True]), TypeError, "lengths: expected whole numbers, received dtype bool"),
        (lambda: masks.from_lengths(["1"]), TypeError, "lengths: expected numbers"),
        (lambda: masks.from_lengths([1], -1), ValueError, "maxlen: expected at least 0, received -1"),
        (lambda: masks.from_lengths([1], 2.0), TypeError, "maxlen: expected a whole number, received 2.0"),
        (lambda: masks.from_lengths([1], True), TypeError, "maxlen: expected a whole number"),
        (lambda: masks.to_lengths([1, 0]), ValueError, r"mask: expected shape \(B,T\), received \(2,\)"),
        (lambda: masks.to_lengths(np.ones((2, 3, 4))), ValueError, "mask: expected shape"),
        (lambda: masks.to_lengths([[None]]), TypeError, "mask: expected numbers"),
        (lambda: check_mask(None, (1, 2)), TypeError, "mask: expected numbers"),
        (lambda: check_mask([["x", "y"]], (1, 2)), TypeError, "mask: expected numbers"),
        (lambda: check_mask([[1], [1, 0]], (2, 2)), ValueError, "mask: expected an array"),
        (lambda: check_count("3", "n"), TypeError, "n: expected a whole number, received '3'"),
        (lambda: check_lengths(None), TypeError, "lengths: expected numbers"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_count_takes_numpy_integers():
    assert check_count(np.int32(4), "n") == 4 and type(check_count(np.int32(4), "n")) is int


def test_examples():
    assert_doctests(fastmask.ops.mask)


# ---- what stands under a mask ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_garbage_under_a_mask_is_found_wherever_it_stands(garbage, dtype):
    for steps, features in ((3, 2), (700, 33), (9000, 1), (1300, 5)):  # NumPy's, then the kernel's
        x = np.full((steps, features), np.finfo(dtype).max, dtype)
        mask = np.random.default_rng(0).random(steps) < 0.5
        mask[[0, -1]] = False
        assert is_finite_under(x, mask)
        x[mask] = garbage
        assert is_finite_under(x, mask)
        hidden = np.flatnonzero(~mask)
        for step, feature in ((0, 0), (steps - 1, features - 1), (hidden[len(hidden) // 2], features // 2)):
            kept, x[step, feature] = x[step, feature], garbage
            assert not is_finite_under(x, mask)
            x[step, feature] = kept


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clear_masked(dtype):
    for shape in ((4, 3, 1), (7, 100, 17), (0, 3), (3, 0)):
        x = np.full(shape, np.nan, dtype)
        mask = np.random.default_rng(0).random(shape[:-1]) < 0.5
        clear_masked(x, mask)
        assert np.isnan(x[mask]).all() and not x[~mask].any()
