"""Valid steps of every kind of mask, by hand and against plain loops."""

import numpy as np
import pytest

from fastmask.ops._common import Steps, steps_of
from helpers import mask_cases


def resolved(B, T, mask=None, offsets=None, reverse=False, restore=False):
    """Name -> list of what the resolve kernel wrote."""
    offsets = None if offsets is None else np.array(offsets, np.int64)
    mask = None if mask is None else np.array(mask, bool)
    steps = Steps(B, T, offsets, mask, reverse, restore)
    return {name: getattr(steps, name).tolist() for name in ("first", "src", "dst", "order")}


def loops(B, T, mask, offsets, reverse, restore):
    """The same from the meaning of each, in Python."""
    base = offsets if offsets is not None else [b * T for b in range(B + 1)]
    first, src, dst = [0], [], []
    for b in range(B):
        start, end = base[b], base[b + 1]
        valid = [p for p in range(start, end) if mask is None or np.ravel(mask)[p]]
        if reverse:
            valid.reverse()
        src += valid
        dst += [start + end - 1 - p for p in valid] if reverse and not restore else valid
        first.append(len(src))
    order = sorted(range(B), key=lambda b: first[b] - first[b + 1])  # stable: equal ones in order
    return {"first": first, "src": src, "dst": dst, "order": order}


MASK = [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    "options, first, src, dst, order",
    [
        ({}, [0, 2, 2, 5], [1, 3, 8, 9, 10], [1, 3, 8, 9, 10], [2, 0, 1]),
        ({"reverse": True}, [0, 2, 2, 5], [3, 1, 10, 9, 8], [0, 2, 9, 10, 11], [2, 0, 1]),
        ({"reverse": True, "restore": True}, [0, 2, 2, 5], [3, 1, 10, 9, 8], [3, 1, 10, 9, 8], [2, 0, 1]),
        ({"restore": True}, [0, 2, 2, 5], [1, 3, 8, 9, 10], [1, 3, 8, 9, 10], [2, 0, 1]),
    ],
)
def test_by_hand(options, first, src, dst, order):
    assert resolved(3, 4, MASK, **options) == {"first": first, "src": src, "dst": dst, "order": order}


def test_by_hand_without_mask():
    all_steps = {"first": [0, 2, 4], "src": [0, 1, 2, 3], "dst": [0, 1, 2, 3], "order": [0, 1]}
    assert resolved(2, 2) == all_steps
    assert resolved(2, 2, reverse=True) == {**all_steps, "src": [1, 0, 3, 2], "dst": [0, 1, 2, 3]}


def test_by_hand_ragged():
    lengths = {"first": [0, 1, 1, 4], "src": [0, 1, 2, 3], "dst": [0, 1, 2, 3], "order": [2, 0, 1]}
    assert resolved(3, None, offsets=[0, 1, 1, 4]) == lengths
    holes = {"first": [0, 1, 1, 3], "src": [0, 3, 1], "dst": [0, 1, 3], "order": [2, 0, 1]}
    assert resolved(3, None, mask=[1, 1, 0, 1], offsets=[0, 1, 1, 4], reverse=True) == holes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("restore", [False, True])
def test_random_masks(reverse, restore):
    rng = np.random.default_rng(0)
    for _ in range(100):
        B, T = rng.integers(0, 12, 2).tolist()
        for mask in (None, *mask_cases(B, T, seed=rng.integers(2**31)).values()):
            assert resolved(B, T, mask, None, reverse, restore) == loops(B, T, mask, None, reverse, restore)
        offsets = np.cumsum([0, *rng.integers(0, 9, B)]).tolist()
        for mask in (None, rng.random(offsets[-1]) < 0.7):
            expected = loops(B, None, mask, offsets, reverse, restore)
            assert resolved(B, None, mask, offsets, reverse, restore) == expected


@pytest.mark.parametrize("B, T", [(0, 0), (0, 5), (5, 0), (3, 1), (1, 3)])
def test_no_rows_or_no_steps(B, T):
    for mask in (None, np.ones((B, T)), np.zeros((B, T))):
        assert resolved(B, T, mask) == loops(B, T, mask, None, False, False)


def test_what_the_steps_say_of_themselves():
    steps = Steps(3, 4, None, np.array(MASK, bool), False, False)
    assert (steps.N, steps.positions, steps.complete) == (5, 12, False)
    assert steps.base.tolist() == [0, 4, 8, 12] and len(steps.src) == len(steps.dst) == 5
    assert Steps(3, 4, None, np.ones((3, 4), bool), False, False).complete


def test_batches_without_a_mask_are_shared():
    """The steps of a shape are made once; other shapes, switches and masks are other steps, however many there were."""
    one = steps_of(2, 3, None, None, False, False)
    assert steps_of(2, 3, None, None, False, False) is one
    assert steps_of(2, 3, None, np.ones((2, 3), bool), False, False) is not one
    for T in range(40):
        for reverse in (False, True):
            expected = loops(2, T, None, None, reverse, False)
            assert steps_of(2, T, None, None, reverse, False).src.tolist() == expected["src"]
