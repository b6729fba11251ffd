"""Matrix products: the register tiles, and the kernels made of them (packing, Dense, bulk gradients).

Design
  a) Every output of a forward product is ONE chain of fused multiply-adds over k in ascending order, started from its
     bias (or the value already there). No split sums, no BLAS: so a row's bits depend neither on its neighbours nor on
     threads. Sums over steps (weight gradients) run in one fixed order too.
  b) A tile keeps `rows` x `vectors` accumulators in registers (6 x 4 with 32 vector registers) and is emitted as one
     piece of LLVM IR, a function a row count. Rows are given as addresses, one each: rows of one tile may lie anywhere.
  c) Right-hand sides are packed so that a tile reads one contiguous stream:

       columns of B, in vectors:   | 0 1 2 3 | 4 5 6 7 | 8 9 | 10 |        panels of 4, then 2, then 1 vectors
       in memory, panel by panel:  k=0: v0 v1 v2 v3, k=1: v0 v1 v2 v3, …

  d) The left-hand side may be cut into `outer` runs of `inner` scalars, `jump` bytes apart: gradients of gates are
     stored panel by panel (see lstm.py).
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .simd import (
    I64,
    PANEL_VECTORS,
    PTR,
    TILE_ROWS,
    VECTOR_BYTES,
    Emitter,
    V,
    _real,
    get_i64,
    get_real,
    itemsize,
    lanes,
    load,
    load_part,
    put_i64,
    put_real,
    splat,
    stack,
    stopped,
    store,
    store_part,
    transpose_part,
    unpack,
)

MAX_ROWS = TILE_ROWS


# ----------------------------------------------------------------------------------------------------------------------
# Tiles


def emit_chain(e, acc, rows, panels, count, columns, unroll=1):
    """acc[r][·] += rows[r][k] * panels[p][k][·] for k < count.

    acc: a list of V per row, the columns of panel 0, then of panel 1, …; rows: for each row a list of pointers to
    scalars, one for all columns or one for each; panels: pointers to packed vectors, len(columns) a k, the i-th goes to
    column columns[i] of its panel. Returns acc.
    """
    width, n = len(columns), len(acc[0])
    per_panel = n // len(panels)
    targets = [p * per_panel + c for p in range(len(panels)) for c in columns]
    flat = [a for row in acc for a in row]

    def step(k, flat):
        flat = list(flat)
        at = e.b.mul(k, ir.Constant(I64, width * e.lanes))
        w = [e.load(e.at(p, at), i) for p in panels for i in range(width)]
        for r, row in enumerate(rows):
            x = [e.broadcast(pointer, k) for pointer in row]
            for i, (t, weight) in enumerate(zip(targets, w, strict=True)):
                flat[r * n + t] = e.fma(x[i % len(row)], weight, flat[r * n + t])
        return flat

    if unroll == 1:
        flat = e.loop(count, flat, step)
    else:
        u = ir.Constant(I64, unroll)
        many = e.b.sdiv(count, u)

        def steps(i, flat):
            k = e.b.mul(i, u)
            for j in range(unroll):
                flat = step(e.b.add(k, ir.Constant(I64, j)), flat)
            return flat

        done = e.b.mul(many, u)
        flat = e.loop(many, flat, steps)
        flat = e.loop(e.b.sub(count, done), flat, lambda k, flat: step(e.b.add(k, done), flat))
    return [flat[r * n : (r + 1) * n] for r in range(len(rows))]


def row_switch(builder, rows, most, make):
    """Call make(r)(…) for the run-time number of rows 1..most: `make(r)` returns a function that emits the call."""
    end = builder.append_basic_block("rows.end")
    switch = builder.switch(rows, end)
    for r in range(1, most + 1):
        block = builder.append_basic_block(f"rows.{r}")
        switch.add_case(ir.Constant(I64, r), block)
        builder.position_at_end(block)
        make(r)
        builder.branch(end)
    builder.position_at_end(end)


def _load_addresses(e, frame, count):
    """`count` pointers from an int64 array."""
    return [
        e.b.inttoptr(e.b.load(e.b.gep(frame, [ir.Constant(I64, r)], source_etype=I64), typ=I64, align=8), PTR)
        for r in range(count)
    ]


def _for_panels(e, vectors, emit):
    """emit(v0, width) for the column panels of `vectors` vectors: fours in a loop, then a two, then a one."""
    b = e.b
    four = ir.Constant(I64, 4)
    fours = b.sdiv(vectors, four)

    def body(i, carried):
        emit(b.mul(i, four), 4)
        return []

    e.loop(fours, [], body)
    at = b.mul(fours, four)
    for width in (2, 1):
        has = b.icmp_signed("!=", b.and_(vectors, ir.Constant(I64, width)), ir.Constant(I64, 0))
        with b.if_then(has):
            emit(at, width)
        at = b.add(at, b.and_(vectors, ir.Constant(I64, width)))


def _emit_runs(e, acc, rows, weights, outer, inner, jump):
    """acc[r] += rows[r] · weights, the left-hand side in `outer` runs of `inner` scalars (design d). Returns acc."""
    b = e.b
    width = len(acc[0])

    def run(o, flat):
        acc = [flat[r * width : (r + 1) * width] for r in range(len(rows))]
        skip = b.mul(o, jump)
        a = [[b.gep(p, [skip], source_etype=ir.IntType(8))] for p in rows]
        w_run = e.at(weights, b.mul(b.mul(o, inner), ir.Constant(I64, width * e.lanes)))
        acc = emit_chain(e, acc, a, [w_run], inner, range(width), unroll=4 if len(rows) * width <= 8 else 1)
        return [a for row in acc for a in row]

    flat = e.loop(outer, [a for row in acc for a in row], run)
    return [flat[r * width : (r + 1) * width] for r in range(len(rows))]


def _write_matmul(rows):
    """Body of matmul for a fixed number of rows."""

    def write(e, args):
        b = e.b
        a_frame, init_frame, c_frame, weights, outer, inner, jump, vectors, columns = args
        a_rows, init_rows, c_rows = (
            _load_addresses(e, b.inttoptr(f, PTR), rows) for f in (a_frame, init_frame, c_frame)
        )
        weights = b.inttoptr(weights, PTR)
        depth = b.mul(outer, inner)

        def panel(v0, width):
            first = b.mul(v0, ir.Constant(I64, e.lanes))  # element column of this panel
            w = e.at(weights, b.mul(first, depth))
            left = b.sub(columns, first)
            whole = b.icmp_signed(">=", left, ir.Constant(I64, width * e.lanes))
            acc = []
            slots = [[b.alloca(e.vec) for _ in range(width)] for _ in range(rows)]
            with b.if_else(whole) as (yes, no):
                for branch, part in ((yes, False), (no, True)):
                    with branch:
                        for r in range(rows):
                            for i in range(width):
                                p = e.at(e.at(init_rows[r], first), i * e.lanes)
                                x = e.load_part(p, b.sub(left, ir.Constant(I64, i * e.lanes))) if part else e.load(p)
                                b.store(x.v, slots[r][i])
            acc = [[V(e, b.load(s, typ=e.vec)) for s in row] for row in slots]
            acc = _emit_runs(e, acc, a_rows, w, outer, inner, jump)
            with b.if_else(whole) as (yes, no):
                for branch, part in ((yes, False), (no, True)):
                    with branch:
                        for r in range(rows):
                            for i in range(width):
                                p = e.at(e.at(c_rows[r], first), i * e.lanes)
                                if part:
                                    e.store_part(p, acc[r][i], b.sub(left, ir.Constant(I64, i * e.lanes)))
                                else:
                                    e.store(p, acc[r][i])

        _for_panels(e, vectors, panel)

    return write


@intrinsic
def matmul(typingctx, real, a_frame, init_frame, c_frame, rows, weights, outer, inner, jump, vectors, columns):
    """c[r] = init[r] + a[r] · weights for `rows` (1 … MAX_ROWS) rows.

    a_frame, init_frame, c_frame: addresses of arrays of row addresses. a[r] is `outer` runs of `inner` scalars, `jump`
    bytes apart; weights are packed (design c) with `vectors` vectors of which the first `columns` elements exist in
    init and c.
    """

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        _, a_frame, init_frame, c_frame, rows, *rest = args

        def make(r):
            f = e.function(f"matmul{r}", [I64] * 9, ir.VoidType(), _write_matmul(r))
            builder.call(f, [a_frame, init_frame, c_frame, *rest])

        row_switch(builder, rows, MAX_ROWS, make)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 10), codegen


def _write_matmul_scaled(rows):
    """Body of matmul_scaled for a fixed number of rows."""

    def write(e, args):
        b = e.b
        a_frame, c_frame, scale_frame, weights, outer, inner, jump, vectors = args
        a_rows, c_rows, scales = (_load_addresses(e, b.inttoptr(f, PTR), rows) for f in (a_frame, c_frame, scale_frame))
        weights = b.inttoptr(weights, PTR)
        depth = b.mul(outer, inner)

        def panel(v0, width):
            first = b.mul(v0, ir.Constant(I64, e.lanes))
            acc = [[e.const(0.0)] * width for _ in range(rows)]
            acc = _emit_runs(e, acc, a_rows, e.at(weights, b.mul(first, depth)), outer, inner, jump)
            for r in range(rows):
                scale, c = e.at(scales[r], first), e.at(c_rows[r], first)
                for i in range(width):
                    e.store(c, e.fma(acc[r][i], e.load(scale, i), e.load(c, i)), i)

        _for_panels(e, vectors, panel)

    return write


@intrinsic
def matmul_scaled(typingctx, real, a_frame, c_frame, scale_frame, rows, weights, outer, inner, jump, vectors):
    """c[r] += scale[r] * (a[r] · weights), element by element, for `rows` (1 … MAX_ROWS) rows of whole vectors.

    Arguments as matmul's.
    """

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        _, a_frame, c_frame, scale_frame, rows, *rest = args

        def make(r):
            f = e.function(f"matmul_scaled{r}", [I64] * 8, ir.VoidType(), _write_matmul_scaled(r))
            builder.call(f, [a_frame, c_frame, scale_frame, *rest])

        row_switch(builder, rows, MAX_ROWS, make)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 9), codegen


_OUTER_ROWS = (6, 4, 2, 1) if TILE_ROWS == 6 else (3, 2, 1)


def _write_outer(rows, width):
    """C[r][v] = or += sum over n of a[index[n]][r] * b[n][v]."""

    def write(e, args):
        b = e.b
        a, index, a_stride, bp, b_stride, v_stride, count, c, c_stride, add = args
        c_rows = [b.inttoptr(b.add(c, b.mul(c_stride, ir.Constant(I64, r))), PTR) for r in range(rows)]
        acc = [e.const(0.0) for _ in range(rows * width)]
        index_ptr = b.inttoptr(index, PTR)

        def step(n, flat):
            flat = list(flat)
            at = b.load(b.gep(index_ptr, [n], source_etype=I64), typ=I64, align=8)
            row = b.inttoptr(b.add(a, b.mul(at, a_stride)), PTR)
            base = b.add(bp, b.mul(n, b_stride))
            w = []
            for i in range(width):
                panel = b.mul(v_stride, ir.Constant(I64, i // PANEL_VECTORS))
                w.append(e.load(e.ptr(b.add(base, panel), i % PANEL_VECTORS * VECTOR_BYTES)))
            for r in range(rows):
                x = e.broadcast(row, r)
                for i in range(width):
                    flat[r * width + i] = e.fma(x, w[i], flat[r * width + i])
            return flat

        flat = e.loop(count, acc, step)
        with b.if_else(b.icmp_signed("!=", add, ir.Constant(I64, 0))) as branches:
            for branch, added in zip(branches, (True, False), strict=True):
                with branch:
                    for r in range(rows):
                        for i in range(width):
                            total = flat[r * width + i]
                            e.store(c_rows[r], e.load(c_rows[r], i) + total if added else total, i)

    return write


@intrinsic
def outer_tile(typingctx, real, rows, width, a, index, a_stride, b, b_stride, v_stride, count, c, c_stride, add):
    """C[r][v] = sum over n < count of a[index[n]][r] · b[n][v], added to C if `add`: one tile of a weight gradient.

    rows is one of 6, 4, 2, 1 (3, 2, 1 with few registers), width 1 … 4 vectors, adjacent in C, in b in panels of 64
    bytes, `v_stride` bytes apart. n ascends from a chain of 0.
    """

    def codegen(context, builder, sig, args):
        e = Emitter(builder, _real(sig.args[0]))
        _, rows, width, *rest = args
        end = builder.append_basic_block("outer.end")
        key = builder.add(builder.mul(rows, ir.Constant(I64, 8)), width)
        switch = builder.switch(key, end)
        for r in _OUTER_ROWS:
            for w in (4, 3, 2, 1):
                block = builder.append_basic_block(f"outer.{r}.{w}")
                switch.add_case(ir.Constant(I64, r * 8 + w), block)
                builder.position_at_end(block)
                builder.call(e.function(f"outer{r}x{w}", [I64] * 10, ir.VoidType(), _write_outer(r, w)), rest)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 12), codegen


@intrinsic
def outer_rows(typingctx, left):
    """The tallest outer tile for `left` remaining rows."""

    def codegen(context, builder, sig, args):
        out = ir.Constant(I64, 1)
        for r in reversed(_OUTER_ROWS[:-1]):
            out = builder.select(builder.icmp_signed(">=", args[0], ir.Constant(I64, r)), ir.Constant(I64, r), out)
        return out

    return types.int64(types.int64), codegen


# ----------------------------------------------------------------------------------------------------------------------
# Kernels

PRODUCT_ROWS = 8 * MAX_ROWS  # rows of one block of `product`
CHUNK = 64  # steps that a weight gradient takes at a time: they stay in the caches while all its tiles pass over them


@kernel("a a_stride outer inner jump init weights vectors columns c c_index c_stride rows")
def product(block, args, real):
    """c[c_index[n]] = init + a[n] · weights for rows n of a block; c_index 0: c[n]. Parallel: blocks of PRODUCT_ROWS
    rows.

    a (rows, outer runs of inner), init one padded row (a bias or zeros), c rows of `columns` elements.
    """
    a, a_stride, outer, inner, jump, init, weights, vectors, columns, c, c_index, c_stride, rows = unpack(args, 13)
    a_frame, init_frame, c_frame = stack(8), stack(8), stack(8)
    for r in range(MAX_ROWS):
        put_i64(init_frame, r, init)
    last = min(rows, (block + 1) * PRODUCT_ROWS)
    for n in range(block * PRODUCT_ROWS, last, MAX_ROWS):
        count = min(MAX_ROWS, last - n)
        for r in range(count):
            put_i64(a_frame, r, a + (n + r) * a_stride)
            at = get_i64(c_index, n + r) if c_index != 0 else n + r
            put_i64(c_frame, r, c + at * c_stride)
        matmul(real, a_frame, init_frame, c_frame, count, weights, outer, inner, jump, vectors, columns)


@kernel("jobs")
def pack_matrices(block, args, real):
    """Many right-hand sides, each as design c lays it out. Parallel: a block is a matrix.

    jobs: 6 words a block: address of element (0, 0), rows, columns, bytes from row to row and from column to column,
    address of the result.
    """
    (jobs,) = unpack(args, 1)
    b, rows, columns, row_stride, column_stride, out = unpack(jobs + block * 6 * 8, 6)
    L, size = lanes(real), itemsize(real)
    v, vectors = 0, (columns + L - 1) // L
    while v < vectors:
        width = 4 if vectors - v >= 4 else 2 if vectors - v >= 2 else 1
        for k in range(rows):
            for i in range(width):
                at = b + k * row_stride + (v + i) * L * column_stride
                count = min(L, columns - (v + i) * L)
                if column_stride == size:
                    store(out, load_part(real, at, count))
                else:
                    for j in range(L):
                        put_real(real, out, j, get_real(real, at + j * column_stride, 0) if j < count else real(0))
                out += L * size
        v += width


@kernel("weights row_stride rows gates count units out")
def pack_gates(block, args, real):
    """out[panel][k][gate][lane] = weights[k][gate, unit], 0 behind the last unit: right-hand sides of a cell's tile.
    Parallel: a block is a panel.

    gates (count,): columns at which the gates begin.
    """
    weights, row_stride, rows, gates, count, units, out = unpack(args, 7)
    L, size = lanes(real), itemsize(real)
    left = min(L, units - block * L)
    out += block * rows * count * L * size
    for k in range(rows):
        row = weights + k * row_stride + block * L * size
        for i in range(count):
            store(out, load_part(real, row + get_i64(gates, i) * size, left))
            out += L * size


@kernel("weights row_stride rows gates count units out")
def pack_transposed(block, args, real):
    """The transpose of the gates of weights (rows, …), packed as a right-hand side (design c). Its rows are the units
    of 64 bytes of the first gate, of the next gates, then the next units; rows behind the last unit are 0. Parallel: a
    block is a panel of columns.
    """
    weights, row_stride, rows, gates, count, units, out = unpack(args, 7)
    L, size = lanes(real), itemsize(real)
    vector = L * size
    vectors, run = (rows + L - 1) // L, PANEL_VECTORS * L
    panels = (units + run - 1) // run
    first, fours = 4 * block, vectors // 4
    width = 4
    if block >= fours:  # a panel of two, then one of one
        first, width = 4 * fours, vectors % 4
        if width == 3:
            first, width = (first, 2) if block == fours else (first + 2, 1)
    out += first * vector * panels * count * run
    for p in range(panels):
        for i in range(count):
            for u in range(p * run, (p + 1) * run, L):
                column = weights + (get_i64(gates, i) + u) * size
                for v in range(width):
                    k = (first + v) * L
                    transpose_part(
                        real,
                        column + k * row_stride,
                        row_stride,
                        rows - k,
                        min(L, units - u),
                        out + v * vector,
                        width * vector,
                    )
                out += L * width * vector


@kernel("jobs init")
def products(block, args, real):
    """Many products, c = init + a · weights, each with weights of its own. Parallel: a block is some rows of one.

    jobs: 10 words a block: a, its row stride, outer, inner, jump, weights, columns, c, its row stride, rows; as in
    `product`.
    """
    jobs, init = unpack(args, 2)
    a, a_stride, outer, inner, jump, weights, columns, c, c_stride, rows = unpack(jobs + block * 10 * 8, 10)
    vectors = (columns + lanes(real) - 1) // lanes(real)
    a_frame, init_frame, c_frame = stack(8), stack(8), stack(8)
    for r in range(MAX_ROWS):
        put_i64(init_frame, r, init)
    for n in range(0, rows, MAX_ROWS):
        count = min(MAX_ROWS, rows - n)
        for r in range(count):
            put_i64(a_frame, r, a + (n + r) * a_stride)
            put_i64(c_frame, r, c + (n + r) * c_stride)
        matmul(real, a_frame, init_frame, c_frame, count, weights, outer, inner, jump, vectors, columns)


@kernel(
    "a index a_stride depth b b_stride panel_stride v_stride vectors per_panel steps sums out out_stride columns "
    "k_step k_blocks"
)
def weight_gradient(block, args, real):
    """out[k][columns] = sum over n of a[index[n]][k] · b[panel][n][v]. Parallel: blocks of k_step rows of one panel.

    columns: for each v of each panel the column of out where it begins, and how many of its elements there are; sums:
    [panel][k][v], scratch.

    One order whatever the number of threads: chains over CHUNK steps, added up in turn. (One chain over all steps loses
    2-4 times as much accuracy at 13000 steps.)
    """
    (a, index, a_stride, depth, b, b_stride, panel_stride, v_stride, vectors, per_panel, steps, sums, out, out_stride,
     columns, k_step, k_blocks) = unpack(args, 17)  # fmt: skip
    L, size = lanes(real), itemsize(real)
    panel, part = block // k_blocks, block % k_blocks
    width = min(per_panel, vectors - panel * per_panel)
    k0, k1 = part * k_step, min(depth, (part + 1) * k_step)
    c_stride = per_panel * L * size
    columns += 16 * panel * per_panel
    b += panel * panel_stride
    for n0 in range(0, max(steps, 1), CHUNK):
        if stopped(args, 17):
            break
        count = min(CHUNK, steps - n0)
        c = sums + (panel * depth + k0) * c_stride
        k = k0
        while k < k1:
            rows = outer_rows(k1 - k)
            outer_tile(
                real,
                rows,
                width,
                a + k * size,
                index + 8 * n0,
                a_stride,
                b + n0 * b_stride,
                b_stride,
                v_stride,
                count,
                c,
                c_stride,
                n0,
            )
            if n0 + CHUNK >= steps:
                for v in range(width):
                    at, elements = out + get_i64(columns, 2 * v) * size, get_i64(columns, 2 * v + 1)
                    for r in range(rows):
                        store_part(at + (k + r) * out_stride, load(real, c + (r * per_panel + v) * L * size), elements)
            k += rows
            if steps > CHUNK:  # else these rows are done, and their memory is in the nearest cache
                c += rows * c_stride


@kernel("b b_stride panel_stride v_stride per_panel steps out columns")
def column_sums(block, args, real):
    """Sums over n of b[block][n][v], up to 4 vectors a block, in the order of weight_gradient. Parallel.

    b in panels of 64 bytes, panel_stride bytes apart: a block is a vector of each, and of those v_stride bytes behind.
    columns: three words for each v of each block: where in out its sum goes, how many of its elements there are, and
    where it goes a second time, or -1.
    """
    b, b_stride, panel_stride, v_stride, per_panel, steps, out, columns = unpack(args, 8)
    L, size = lanes(real), itemsize(real)
    at = b + block // PANEL_VECTORS * panel_stride + block % PANEL_VECTORS * L * size
    sums = stack(32)  # 4 vectors
    t0, t1, t2, t3 = splat(real, 0.0), splat(real, 0.0), splat(real, 0.0), splat(real, 0.0)
    for n0 in range(0, steps, CHUNK):
        if stopped(args, 8):
            break
        s0, s1, s2, s3 = splat(real, 0.0), splat(real, 0.0), splat(real, 0.0), splat(real, 0.0)
        for _ in range(n0, min(steps, n0 + CHUNK)):
            s0 = s0 + load(real, at)
            if per_panel > 1:
                s1 = s1 + load(real, at + v_stride)
            if per_panel > 2:
                s2 = s2 + load(real, at + 2 * v_stride)
            if per_panel > 3:
                s3 = s3 + load(real, at + 3 * v_stride)
            at += b_stride
        t0, t1, t2, t3 = t0 + s0, t1 + s1, t2 + s2, t3 + s3
    vector = L * size
    store(sums, t0)
    store(sums + vector, t1)
    store(sums + 2 * vector, t2)
    store(sums + 3 * vector, t3)
    for v in range(per_panel):
        column = columns + 24 * (block * per_panel + v)
        total, count, again = load(real, sums + v * vector), get_i64(column, 1), get_i64(column, 2)
        store_part(out + get_i64(column, 0) * size, total, count)
        if again >= 0:
            store_part(out + again * size, total, count)
