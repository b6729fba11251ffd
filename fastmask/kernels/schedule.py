"""From masks to work: the valid steps of every row, and rows by length.

Design
  a) `resolve` turns any mask into lists of valid steps, row by row: `first (B+1,)` offsets, `src (N,)` where a step's
     input lies, `dst (N,)` where its output goes. Right padding, left padding, holes, ragged rows and reversed order
     differ only in these numbers.
  b) `order` lists rows longest first; recurrent.py hands them out in that order, so that what is left at the end is
     short.
"""

from ._jit import kernel
from .simd import get_i64, get_u8, put_i64, stopped, unpack


@kernel("mask base rows reverse restore first src dst order longest lengths_count")
def resolve(block, args, real):
    """Valid steps of `rows` rows. Serial.

    mask (positions,) uint8 or 0 (all valid); base (B+1,) positions where rows begin; reverse: steps in reversed order,
    outputs too unless `restore`. Writes first (B+1,), src and dst (N,), order (B,) rows by falling number of steps
    (equal ones in order). longest: positions of the longest row; lengths_count: scratch (longest + 1,).
    """
    mask, base, rows, reverse, restore, first, src, dst, order, longest, lengths_count = unpack(args, 11)
    n = 0
    for length in range(longest + 1):
        put_i64(lengths_count, length, 0)
    longest = 0
    put_i64(first, 0, 0)
    for b in range(rows):
        if stopped(args, 11):
            return
        start, end = get_i64(base, b), get_i64(base, b + 1)
        n0 = n
        if mask == 0:
            for p in range(start, end):
                put_i64(src, n, p)
                n += 1
        else:
            for p in range(start, end):
                put_i64(src, n, p)
                n += get_u8(mask, p) != 0
        if reverse:
            i, j = n0, n - 1
            while i < j:
                p, q = get_i64(src, i), get_i64(src, j)
                put_i64(src, i, q)
                put_i64(src, j, p)
                i += 1
                j -= 1
        if reverse and not restore:
            for i in range(n0, n):
                put_i64(dst, i, start + end - 1 - get_i64(src, i))
        else:
            for i in range(n0, n):
                put_i64(dst, i, get_i64(src, i))
        put_i64(first, b + 1, n)
        length = n - n0
        longest = max(longest, length)
        put_i64(lengths_count, length, get_i64(lengths_count, length) + 1)
    # counting sort, longest first
    at = 0
    length = longest
    while length >= 0:
        count = get_i64(lengths_count, length)
        put_i64(lengths_count, length, at)
        at += count
        length -= 1
    for b in range(rows):
        length = get_i64(first, b + 1) - get_i64(first, b)
        at = get_i64(lengths_count, length)
        put_i64(order, at, b)
        put_i64(lengths_count, length, at + 1)


@kernel("rows first steps before own")
def before(block, args, real):
    """For each step n of `rows` rows, first (B+1,): own[n] = n, before[n] = n - 1 or, of the first step of row b,
    steps + b. Serial.
    """
    rows, first, steps, before, own = unpack(args, 5)
    for b in range(rows):
        if stopped(args, 5):
            return
        n0, n1 = get_i64(first, b), get_i64(first, b + 1)
        for n in range(n0, n1):
            put_i64(own, n, n)
            put_i64(before, n, n - 1 if n > n0 else steps + b)
