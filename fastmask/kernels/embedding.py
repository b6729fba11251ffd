"""The gradient of an embedding: what arrives at the steps, summed for each row of the weight that was used."""

from ._jit import kernel
from .simd import get_i64, itemsize, lanes, load_part, store_part, unpack

BLOCK = 32  # rows of one block


@kernel("dy steps first sums rows size")
def row_sums(block, args, real):
    """sums[i] = sum of dy[steps[n], :size] over n = first[i] ... first[i + 1] - 1, in that order; none is empty.
    Parallel: blocks of BLOCK rows.
    """
    dy, steps, first, sums, rows, size = unpack(args, 6)
    L, bytes_ = lanes(real), itemsize(real)
    stride = size * bytes_
    for i in range(block * BLOCK, min(rows, (block + 1) * BLOCK)):
        begin, end = get_i64(first, i), get_i64(first, i + 1)
        for k in range(0, size, L):
            count, at = min(L, size - k), k * bytes_
            total = load_part(real, dy + get_i64(steps, begin) * stride + at, count)
            for n in range(begin + 1, end):
                total = total + load_part(real, dy + get_i64(steps, n) * stride + at, count)
            store_part(sums + i * stride + at, total, count)
