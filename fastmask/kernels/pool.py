"""Global pooling over the valid steps of each row.

The valid steps come as lists (schedule.py:resolve): row b has the steps src[first[b]] ... src[first[b + 1] - 1]. No
other step is read or written. Every output element is one chain over these steps in their order, so its bits depend on
them alone.
"""

from ._jit import kernel
from .simd import get_i64, itemsize, lanes, load_part, splat, store_part, unpack, where

CHUNK = 64  # a sum over many steps is made of sums over so many: one chain loses accuracy


@kernel("x first src y size")
def average_forward(block, args, real):
    """y[b] = mean of x[src[n], :size] over the steps n of row b; 0 if there is none. Parallel: a block is a row."""
    x, first, src, y, size = unpack(args, 5)
    L, bytes_ = lanes(real), itemsize(real)
    stride = size * bytes_
    begin, end = get_i64(first, block), get_i64(first, block + 1)
    for k in range(0, size, L):
        count, at = min(L, size - k), k * bytes_
        total = splat(real, 0.0)
        for n0 in range(begin, end, CHUNK):
            part = splat(real, 0.0)
            for n in range(n0, min(end, n0 + CHUNK)):
                part = part + load_part(real, x + get_i64(src, n) * stride + at, count)
            total = total + part
        store_part(y + block * stride + at, total / max(1, end - begin), count)


@kernel("dy first src dx size")
def average_backward(block, args, real):
    """dx[src[n]] = dy[b] / number of steps of row b. Parallel: a block is a row."""
    dy, first, src, dx, size = unpack(args, 5)
    L, bytes_ = lanes(real), itemsize(real)
    stride = size * bytes_
    begin, end = get_i64(first, block), get_i64(first, block + 1)
    for k in range(0, size, L):
        count, at = min(L, size - k), k * bytes_
        share = load_part(real, dy + block * stride + at, count) / max(1, end - begin)
        for n in range(begin, end):
            store_part(dx + get_i64(src, n) * stride + at, share, count)


@kernel("x first src y size")
def max_forward(block, args, real):
    """y[b] = max of x[src[n], :size] over the steps n of row b; NaN if one is NaN, 0 if there is none. Parallel: a
    block is a row.
    """
    x, first, src, y, size = unpack(args, 5)
    L, bytes_ = lanes(real), itemsize(real)
    stride = size * bytes_
    begin, end = get_i64(first, block), get_i64(first, block + 1)
    for k in range(0, size, L):
        count, at = min(L, size - k), k * bytes_
        top = splat(real, 0.0)
        if begin < end:
            top = load_part(real, x + get_i64(src, begin) * stride + at, count)
        for n in range(begin + 1, end):
            v = load_part(real, x + get_i64(src, n) * stride + at, count)
            top = where(top >= v, top, where(v > top, v, top + v))  # neither: one is NaN, and so is their sum
        store_part(y + block * stride + at, top, count)


@kernel("x first src y dy dx size")
def max_backward(block, args, real):
    """dx[src[n]] = dy[b] / ties where x[src[n]] is the largest, else 0; ties: how many are. Parallel: a block is a
    row.
    """
    x, first, src, y, dy, dx, size = unpack(args, 7)
    L, bytes_ = lanes(real), itemsize(real)
    stride = size * bytes_
    begin, end = get_i64(first, block), get_i64(first, block + 1)
    for k in range(0, size, L):
        count, at = min(L, size - k), k * bytes_
        top = load_part(real, y + block * stride + at, count)
        ties = splat(real, 0.0)
        for n in range(begin, end):
            v = load_part(real, x + get_i64(src, n) * stride + at, count)
            ties = ties + where(v >= top, 1.0, 0.0)
        share = load_part(real, dy + block * stride + at, count) / ties  # NaN or infinite where the largest is NaN
        for n in range(begin, end):
            v = load_part(real, x + get_i64(src, n) * stride + at, count)
            store_part(dx + get_i64(src, n) * stride + at, where(v >= top, 1.0, 0.0) * share, count)
