"""Attention: the softmax over the values that a query sees, and additive scores. Products are gemm.py's.

Design
  a) The scores of all rows of a batch lie one behind the other, for each row a matrix (queries, values); a query sees
     the first `seen` values of its row (all of them, or with a causal mask those up to its own step). What it does not
     see gets the weight 0, whatever stands there.
  b) Additive scores, sum over d of w[d] tanh(q[d] + k[d]), take the place of the product q · k and the same jobs: a
     lane is a value, d one chain. Backward lanes are features; the tanh is computed again rather than kept, which
     would take (queries, values, D) memory.
"""

from ._jit import kernel
from .activation import softmax_row, softmax_slope_row
from .simd import fma, get_i64, get_real, itemsize, lanes, load, load_part, put_real, splat, store_part, unpack, vtanh


@kernel("scores start size seen queries many")
def softmax_forward(block, args, real):
    """In place: the softmax over the first `seen` of the `size` scores of a query, 0 behind. start, size, seen
    (queries,). Parallel: blocks of `many` queries.
    """
    scores, start, size, seen, queries, many = unpack(args, 6)
    for q in range(block * many, min(queries, (block + 1) * many)):
        p = scores + get_i64(start, q) * itemsize(real)
        count = get_i64(seen, q)
        if count > 0:
            softmax_row(real, p, p, count, 0)
        for k in range(count, get_i64(size, q)):
            put_real(real, p, k, 0.0)


@kernel("p dp start size queries many")
def softmax_backward(block, args, real):
    """In place of dp: the gradient of the scores, p (dp - sum(dp p)). Parallel: blocks of `many` queries."""
    p, dp, start, size, queries, many = unpack(args, 6)
    for q in range(block * many, min(queries, (block + 1) * many)):
        at = get_i64(start, q) * itemsize(real)
        softmax_slope_row(real, p + at, dp + at, dp + at, get_i64(size, q), 0)


@kernel("jobs weight")
def additive_scores(block, args, real):
    """c[n][v] = sum over d of weight[d] tanh(a[n][d] + b[d][v]): jobs as those of gemm.products, one run a row."""
    jobs, weight = unpack(args, 2)
    a, a_stride, outer, inner, jump, b, columns, c, c_stride, rows = unpack(jobs + block * 10 * 8, 10)
    L, size = lanes(real), itemsize(real)
    vectors = (columns + L - 1) // L
    for n in range(rows):
        q, panel, v = a + n * a_stride, b, 0
        while v < vectors:
            width = 4 if vectors - v >= 4 else 2 if vectors - v >= 2 else 1  # as gemm.pack_matrices
            for i in range(width):
                total = splat(real, 0.0)
                for d in range(inner):
                    key = load(real, panel + (d * width + i) * L * size)
                    total = fma(get_real(real, weight, d), vtanh(key + get_real(real, q, d)), total)
                first = (v + i) * L
                store_part(c + n * c_stride + first * size, total, min(L, columns - first))
            panel += inner * width * L * size
            v += width


@kernel("jobs weight D")
def additive_backward(block, args, real):
    """Of one side of additive scores, x the queries and y the keys or the other way round: for each row of x

        dx = weight sum over y of ds (1 - t^2)      d_weight += sum over y of ds t      t = tanh(x + y)

    jobs: x, ds, bytes of ds from x to x and from y to y, y, count of y, dx, d_weight (rows of their own; 0: not asked
    for), rows. Parallel: a block is some rows of x.
    """
    jobs, weight, D = unpack(args, 3)
    x, ds, ds_stride, ds_step, y, count, dx, d_weight, rows = unpack(jobs + block * 9 * 8, 9)
    L, size = lanes(real), itemsize(real)
    for n in range(rows):
        for d in range(0, D, L):
            left = min(L, D - d)
            at = (n * D + d) * size
            row = load_part(real, x + at, left)
            slope, total = splat(real, 0.0), splat(real, 0.0)
            for j in range(count):
                s = get_real(real, ds + n * ds_stride + j * ds_step, 0)
                t = vtanh(row + load_part(real, y + (j * D + d) * size, left))
                slope = fma(s, fma(-t, t, 1.0), slope)
                total = fma(s, t, total)
            store_part(dx + at, slope * load_part(real, weight + d * size, left), left)
            if d_weight != 0:
                store_part(d_weight + at, total, left)
