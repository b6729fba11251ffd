"""The loops that walk rows through a recurrent cell, forward and backward; the cells (lstm.py, gru.py, simple_rnn.py)
bring tile and equations.

Design
  A block is a worker with `slots` rows in flight, each at a time step of its own. Rows come longest first: the first
  slots are dealt out, later ones are taken from an atomic counter whenever a row ends. So register tiles stay full
  although lengths differ, and threads finish together. No row's result depends on its neighbours or on who computes it:
  that is what keeps the bits equal for any batch, padding and number of threads.

  Few rows wait for weights. Then the part of x is taken for several steps of a row at once (`ahead`); and `parts`
  blocks walk through the same rows, each step shared by panels: a block reads only its part of the weights, for all
  rows. It takes its own part, then those that nobody has begun, then waits for what others have begun. So a block that
  comes late, or never, is not missed.

  Dropout inside the cell: every gate meets an x and an h of its own, the common one times factors of that row and gate.
  Those kernels (`gates` > 0) come from the same factories and equations, and are compiled only when asked for.
"""

from numba.extending import register_jitable

from ._jit import kernel
from .cell import C_IN, C_OUT, CARRY, DH, DRH, H_GATES, H_IN, H_OUT, RH, SLOTS, WS, X, Z
from .gemm import MAX_ROWS, matmul, matmul_scaled
from .simd import (
    PANEL_BYTES,
    PANEL_VECTORS,
    atomic_add,
    compare_exchange,
    get_i64,
    itemsize,
    lanes,
    load,
    load_acquire,
    load_part,
    pause,
    put_i64,
    splat,
    stack,
    stopped,
    store,
    store_part,
    unpack,
)


@register_jitable
def rows_of_a_tile(active):
    """Rows in tiles of nearly equal height: a tile of one or two rows waits for its weights."""
    tiles = (active + MAX_ROWS - 1) // MAX_ROWS
    return (active + tiles - 1) // tiles


# Words of `sync`, on cache lines of their own: parts done so far; whether all is over; for each part and, last, for the
# dealing out of rows, the next step that nobody has begun.
SYNC_WORDS = 8


@register_jitable
def take(sync, part, step):
    """Whether this part of the step is the caller's to do; always where nothing is shared."""
    return sync == 0 or compare_exchange(sync + 64 * (2 + part), step, step + 1) != 0


@register_jitable
def done(sync):
    if sync != 0:
        atomic_add(sync, 1)


@register_jitable
def wait(sync, parts_done):
    if sync != 0:
        while load_acquire(sync) < parts_done:
            pause()


@register_jitable
def over(sync):
    """Whether another block has come to the end."""
    return sync != 0 and load_acquire(sync + 64) != 0


@register_jitable
def set_over(sync):
    if sync != 0:
        atomic_add(sync + 64, 1)


FORWARD_ARGUMENTS = (
    "order rows first src dst base backwards slots workers queue x x_stride F H panels steps h0 c0 "
    "outputs last final_h final_c zero_masked x_kept hs cs ws ws_jump scratch wx wh bias wx2 wh2 bias2 act ract "
    "x_factors h_factors ahead parts sync"
)


def recurrent_forward(tile, tile2, has_cell_state, two_passes, tile_panels, gates=0):
    """The forward block kernel of a cell: walks rows through `tile` (and `tile2` where a step takes two passes).

    gates: 0, or with dropout inside the cell the number of its gates. Of those, the candidate of a second pass meets
    (r h), the others h.

    Arguments: see FORWARD_ARGUMENTS. x rows of x_stride bytes; x_kept, hs, cs, ws: what training keeps (0 in
    inference): a copy of x, states of step n at row n, initial states of row b at row steps + b, gates at ws + panel *
    ws_jump + n * (gates of one panel, 64 bytes of each). scratch: states of the slots of every block, and behind each
    slot's its dropped rows or, with `ahead`, the part of x of some steps. parts, sync: 1 and 0, or as the design says;
    then there are no more rows than slots. x_factors, h_factors: with dropout, (B,gates,F) and (B,gates,H) in whole
    vectors.
    """
    h_gates = gates - 1 if gates and two_passes else gates
    accumulators = tile.accumulators
    accumulators2 = tile2.accumulators if two_passes else 0

    @kernel(FORWARD_ARGUMENTS)
    def forward(block, args, real):
        (order, rows, first, src, dst, base, backwards, slots, workers, queue, x, x_stride, F, H, panels, steps, h0, c0,
         outputs, last, final_h, final_c, zero_masked, x_kept, hs, cs, ws, ws_jump, scratch,
         wx, wh, bias, wx2, wh2, bias2, act, ract, x_factors, h_factors, ahead, parts, sync,
        ) = unpack(args, 42)  # fmt: skip
        L, size = lanes(real), itemsize(real)
        state = panels * L * size  # bytes of a padded state row
        x_row = (F + L - 1) // L * L * size  # and of a padded row of x
        row_bytes = H * size
        ws_step = ws_jump // (steps + 1)
        zero = splat(real, 0.0)
        frame = stack(432)  # 9 fields x SLOTS
        slot_row, slot_k, slot_len, slot_buffer = stack(48), stack(48), stack(48), stack(48)
        z_row = (accumulators + accumulators2) * state  # bytes of the part of x of a step
        slot_bytes = 5 * state + gates * x_row + h_gates * state + (MAX_ROWS * z_row if ahead else 0)
        x_frame = stack(432)
        tick, finished = 0, 0
        shared = parts > 1
        if not shared:
            scratch += block * slots * slot_bytes
        for s in range(slots):
            put_i64(slot_buffer, s, scratch + s * slot_bytes)
        active, dealt, open_ = 0, 0, True
        while True:
            mine = not shared or (tick == 0 and take(sync, parts, 0))
            while open_ and active < slots:
                if dealt < slots:
                    i = dealt if shared else block + dealt * workers
                    dealt += 1
                else:
                    i = rows if shared else atomic_add(queue, 1)
                if i >= rows:
                    if dealt >= slots:
                        open_ = False
                    continue
                b = get_i64(order, i)
                length = get_i64(first, b + 1) - get_i64(first, b)
                if length > 0:
                    put_i64(slot_row, active, b)
                    put_i64(slot_k, active, 0)
                    put_i64(slot_len, active, length)
                buffer = get_i64(slot_buffer, active)
                active += length > 0
                if not mine:
                    continue
                h_in = hs + (steps + b) * state if hs != 0 else buffer
                c_in = cs + (steps + b) * state if hs != 0 else buffer + 2 * state
                for j in range(panels):
                    left = min(L, H - j * L)
                    at = j * L * size
                    store(h_in + at, load_part(real, h0 + b * row_bytes + at, left) if h0 != 0 else zero)
                    if has_cell_state:
                        store(c_in + at, load_part(real, c0 + b * row_bytes + at, left) if c0 != 0 else zero)
                if length > 0:
                    continue
                # a row without a valid step: states as they came, outputs zero
                for j in range(panels):
                    left = min(L, H - j * L)
                    at = j * L * size
                    store_part(final_h + b * row_bytes + at, load(real, h_in + at), left)
                    if has_cell_state:
                        store_part(final_c + b * row_bytes + at, load(real, c_in + at), left)
                    if last != 0:
                        store_part(last + b * row_bytes + at, zero, left)
                    if outputs != 0:
                        for p in range(get_i64(base, b), get_i64(base, b + 1)):
                            store_part(outputs + p * row_bytes + at, zero, left)
            if shared and tick == 0:
                if mine:
                    done(sync)
                finished += 1
                wait(sync, finished)
            if active == 0 or stopped(args, 42) or (block > 0 and over(sync)):
                break

            # one step of every active row
            for s in range(active):
                b, k = get_i64(slot_row, s), get_i64(slot_k, s)
                buffer = get_i64(slot_buffer, s)
                n = get_i64(first, b) + k
                put_i64(frame, X * SLOTS + s, x + get_i64(src, n) * x_stride)
                if hs != 0:
                    before = n - 1 if k > 0 else steps + b
                    put_i64(frame, H_IN * SLOTS + s, hs + before * state)
                    put_i64(frame, H_OUT * SLOTS + s, hs + n * state)
                    put_i64(frame, C_IN * SLOTS + s, cs + before * state)
                    put_i64(frame, C_OUT * SLOTS + s, cs + n * state)
                    put_i64(frame, WS * SLOTS + s, ws + n * ws_step)
                    p, q = get_i64(frame, X * SLOTS + s), x_kept + n * x_stride
                    if block == 0 or not shared:
                        for j in range(0, F - L + 1, L):
                            store(q + j * size, load(real, p + j * size))
                        if F % L:
                            at = (F - F % L) * size
                            store_part(q + at, load_part(real, p + at, F % L), F % L)
                else:
                    put_i64(frame, H_IN * SLOTS + s, buffer + (k & 1) * state)
                    put_i64(frame, H_OUT * SLOTS + s, buffer + (1 - (k & 1)) * state)
                    put_i64(frame, C_IN * SLOTS + s, buffer + 2 * state)
                    put_i64(frame, C_OUT * SLOTS + s, buffer + 2 * state)
                    put_i64(frame, WS * SLOTS + s, 0)
                put_i64(frame, Z * SLOTS + s, buffer + 3 * state)
                put_i64(frame, RH * SLOTS + s, cs + n * state if two_passes and hs != 0 else buffer + 4 * state)
                if gates:  # x and h as each gate meets them
                    x_in, h_in = get_i64(frame, X * SLOTS + s), get_i64(frame, H_IN * SLOTS + s)
                    x_rows = buffer + 5 * state
                    h_rows = x_rows + gates * x_row
                    for g in range(gates):
                        f, dropped = x_factors + (b * gates + g) * x_row, x_rows + g * x_row
                        for j in range(0, F, L):
                            at = j * size
                            store(dropped + at, load_part(real, x_in + at, min(L, F - j)) * load(real, f + at))
                    for g in range(h_gates):
                        f, dropped = h_factors + (b * gates + g) * state, h_rows + g * state
                        for j in range(panels):
                            at = j * L * size
                            store(dropped + at, load(real, h_in + at) * load(real, f + at))
                    put_i64(frame, X * SLOTS + s, x_rows)
                    put_i64(frame, H_GATES * SLOTS + s, h_rows)
            tile_rows = rows_of_a_tile(active)
            x_count = F
            if ahead:
                x_count = -1
            for turn in range(parts):
                part = (block + turn) % parts
                if shared and not take(sync, part, tick):
                    continue
                p0, p1 = part * panels // parts, (part + 1) * panels // parts
                if ahead:
                    for s in range(active):
                        k = get_i64(slot_k, s)
                        z = get_i64(slot_buffer, s) + 5 * state
                        if k % MAX_ROWS == 0:
                            n = get_i64(first, get_i64(slot_row, s)) + k
                            count = min(MAX_ROWS, get_i64(slot_len, s) - k)
                            for i in range(count):
                                put_i64(x_frame, X * SLOTS + i, x + get_i64(src, n + i) * x_stride)
                                put_i64(x_frame, Z * SLOTS + i, z + i * z_row)
                            tile(real, x_frame, count, p0, p1, wx, wh, bias, F, 0, ws_jump, act, ract)
                            if two_passes:
                                for i in range(count):
                                    put_i64(x_frame, Z * SLOTS + i, z + i * z_row + accumulators * state)
                                tile2(real, x_frame, count, p0, p1, wx2, wh2, bias2, F, 0, ws_jump, act, ract)
                        put_i64(frame, X * SLOTS + s, z + k % MAX_ROWS * z_row)
                # panels outside, row tiles inside: a panel's weights are read once from far and again from near
                width = max(1, (p1 - p0 + 1) // 2) if active <= MAX_ROWS else tile_panels  # a part may be empty
                for p in range(p0, p1, width):
                    if (ahead or shared) and tick & 1:  # back again: what was read last is still near
                        p = p0 + (p1 - 1 - p) // width * width
                    for s in range(0, active, tile_rows):
                        q, count = min(p + width, p1), min(tile_rows, active - s)
                        tile(real, frame + 8 * s, count, p, q, wx, wh, bias, x_count, H, ws_jump, act, ract)
                if two_passes:
                    if gates:
                        for s in range(active):
                            rh = get_i64(frame, RH * SLOTS + s)
                            f = h_factors + (get_i64(slot_row, s) * gates + h_gates) * state
                            for j in range(panels):
                                at = j * L * size
                                store(rh + at, load(real, rh + at) * load(real, f + at))
                    if ahead:
                        for s in range(active):
                            put_i64(frame, X * SLOTS + s, get_i64(frame, X * SLOTS + s) + accumulators * state)
                    for p in range(0, panels, width):
                        for s in range(0, active, tile_rows):
                            q, count = min(p + width, panels), min(tile_rows, active - s)
                            tile2(real, frame + 8 * s, count, p, q, wx2, wh2, bias2, x_count, H, ws_jump, act, ract)
                if outputs != 0:
                    for s in range(active):
                        n = get_i64(first, get_i64(slot_row, s)) + get_i64(slot_k, s)
                        h, out = get_i64(frame, H_OUT * SLOTS + s), outputs + get_i64(dst, n) * row_bytes
                        for j in range(p0, min(p1, panels - 1)):
                            store(out + j * L * size, load(real, h + j * L * size))
                        if p1 == panels:
                            at = (panels - 1) * L * size
                            store_part(out + at, load(real, h + at), H - (panels - 1) * L)
                done(sync)
            tick += 1
            finished += parts
            wait(sync, finished)

            s = active - 1
            while s >= 0:
                b, k, length = get_i64(slot_row, s), get_i64(slot_k, s), get_i64(slot_len, s)
                n = get_i64(first, b) + k
                h = get_i64(frame, H_OUT * SLOTS + s)
                put_i64(slot_k, s, k + 1)
                if k + 1 == length:
                    c = get_i64(frame, C_OUT * SLOTS + s)
                    ends = panels if block == 0 or not shared else 0
                    for j in range(ends):
                        left = min(L, H - j * L)
                        at = j * L * size
                        store_part(final_h + b * row_bytes + at, load(real, h + at), left)
                        if has_cell_state:
                            store_part(final_c + b * row_bytes + at, load(real, c + at), left)
                        if last != 0:
                            store_part(last + b * row_bytes + at, load(real, h + at), left)
                    start, end = get_i64(base, b), get_i64(base, b + 1)
                    if outputs != 0 and length < end - start and ends > 0:
                        # masked positions: zeros, or the output before them in the order of the steps
                        step = -1 if backwards else 1
                        p = end - 1 if backwards else start
                        stop = start - 1 if backwards else end
                        held = -1
                        k = 0
                        while p != stop:
                            if k < length and get_i64(dst, n - length + 1 + k) == p:
                                held = p
                                k += 1
                            else:
                                for j in range(panels):
                                    left = min(L, H - j * L)
                                    at = j * L * size
                                    v = zero
                                    if held >= 0 and not zero_masked:
                                        v = load_part(real, outputs + held * row_bytes + at, left)
                                    store_part(outputs + p * row_bytes + at, v, left)
                            p += step
                    active -= 1
                    if s != active:
                        put_i64(slot_row, s, get_i64(slot_row, active))
                        put_i64(slot_k, s, get_i64(slot_k, active))
                        put_i64(slot_len, s, get_i64(slot_len, active))
                        buffer = get_i64(slot_buffer, s)
                        put_i64(slot_buffer, s, get_i64(slot_buffer, active))
                        put_i64(slot_buffer, active, buffer)
                s -= 1
        set_over(sync)

    return forward


BACKWARD_ARGUMENTS = (
    "order rows first dst base backwards slots workers queue H panels steps "
    "d_outputs d_last d_final_h d_final_c zero_masked hs cs ws ws_jump scratch "
    "ut ut_skip ut_inner ut2 d_h0 d_c0 act ract h_factors parts sync"
)


def recurrent_backward(step, step2, has_cell_state, two_passes, gates=0):
    """The backward block kernel of a cell: steps of each row from the last to the first; gates in ws are replaced by
    their gradients.

    For a row at step k: dh = gradient of its output (and of held copies of it) + carry + dz(k+1) · U^T, then `step`
    (and `step2`) give dz(k). dz(k+1) is read from ws, `ut_inner` scalars a panel from byte ut_skip on; row `steps` of
    ws is zero and stands for the step behind the last. ut is 0 where rows have one step and d_h0 is 0. d_h0, d_c0: 0 or
    (B,H). With dropout (gates, h_factors as in forward) dz · U^T is taken gate by gate, each part times its factors; ut
    is then one gate's matrix after another.
    """
    h_gates = gates - 1 if gates and two_passes else gates

    @kernel(BACKWARD_ARGUMENTS)
    def backward(block, args, real):
        (order, rows, first, dst, base, backwards, slots, workers, queue, H, panels, steps,
         d_outputs, d_last, d_final_h, d_final_c, zero_masked, hs, cs, ws, ws_jump, scratch,
         ut, ut_skip, ut_inner, ut2, d_h0, d_c0, act, ract, h_factors, parts, sync) = unpack(args, 33)  # fmt: skip
        L, size = lanes(real), itemsize(real)
        state = panels * L * size
        row_bytes = H * size
        ws_step = ws_jump // (steps + 1)
        zero = splat(real, 0.0)
        ws_panels, units = (panels + PANEL_VECTORS - 1) // PANEL_VECTORS, PANEL_BYTES // size
        ut_gate = ws_panels * units * state  # bytes of one gate's U^T
        frame = stack(432)
        a_frame, f_frame, c_frame = stack(192), stack(192), stack(48)  # up to 4 gates x SLOTS
        slot_row, slot_k, slot_buffer = stack(48), stack(48), stack(48)
        tick, finished = 0, 0
        shared = parts > 1
        fours = (panels + 3) // 4  # the columns of U^T lie in panels of four
        if not shared:
            scratch += block * slots * 3 * state
        for s in range(slots):
            put_i64(slot_buffer, s, scratch + s * 3 * state)
        active, dealt, open_ = 0, 0, True
        while True:
            mine = not shared or (tick == 0 and take(sync, parts, 0))
            while open_ and active < slots:
                if dealt < slots:
                    i = dealt if shared else block + dealt * workers
                    dealt += 1
                else:
                    i = rows if shared else atomic_add(queue, 1)
                if i >= rows:
                    if dealt >= slots:
                        open_ = False
                    continue
                b = get_i64(order, i)
                length = get_i64(first, b + 1) - get_i64(first, b)
                if length > 0:
                    # carry starts as the gradient of the last state
                    carry = get_i64(slot_buffer, active) + state
                    for j in range(panels if mine else 0):
                        left = min(L, H - j * L)
                        at = j * L * size
                        if has_cell_state:
                            store(
                                carry + at,
                                load_part(real, d_final_c + b * row_bytes + at, left) if d_final_c != 0 else zero,
                            )
                        else:
                            store(carry + at, zero)
                    put_i64(slot_row, active, b)
                    put_i64(slot_k, active, length - 1)
                    active += 1
                    continue
                for j in range(panels if mine else 0):
                    left = min(L, H - j * L)
                    at = j * L * size
                    if d_h0 != 0:
                        store_part(
                            d_h0 + b * row_bytes + at,
                            load_part(real, d_final_h + b * row_bytes + at, left) if d_final_h != 0 else zero,
                            left,
                        )
                    if has_cell_state and d_c0 != 0:
                        store_part(
                            d_c0 + b * row_bytes + at,
                            load_part(real, d_final_c + b * row_bytes + at, left) if d_final_c != 0 else zero,
                            left,
                        )
            if shared and tick == 0:
                if mine:
                    done(sync)
                finished += 1
                wait(sync, finished)
            if active == 0 or stopped(args, 33) or (block > 0 and over(sync)):
                break

            for s in range(active):
                b, k = get_i64(slot_row, s), get_i64(slot_k, s)
                n0, n1 = get_i64(first, b), get_i64(first, b + 1)
                n = n0 + k
                buffer = get_i64(slot_buffer, s)
                before = n - 1 if k > 0 else steps + b
                is_last = n + 1 == n1
                put_i64(frame, DH * SLOTS + s, buffer)
                put_i64(frame, CARRY * SLOTS + s, buffer + state)
                put_i64(frame, DRH * SLOTS + s, buffer + 2 * state)
                put_i64(frame, H_IN * SLOTS + s, hs + before * state)
                put_i64(frame, H_OUT * SLOTS + s, hs + n * state)
                put_i64(frame, C_IN * SLOTS + s, cs + before * state)
                put_i64(frame, C_OUT * SLOTS + s, cs + n * state)
                put_i64(frame, WS * SLOTS + s, ws + n * ws_step)
                after = ws + (steps if is_last else n + 1) * ws_step + ut_skip
                put_i64(a_frame, s, after)
                for g in range(gates):
                    put_i64(a_frame, g * SLOTS + s, after + g * PANEL_BYTES)
                    put_i64(f_frame, g * SLOTS + s, h_factors + (b * gates + g) * state)
            tile_rows = rows_of_a_tile(active)
            for turn in range(parts):
                part = (block + turn) % parts
                if shared and not take(sync, part, tick):
                    continue
                v0, v1 = 4 * (part * fours // parts), min(panels, 4 * ((part + 1) * fours // parts))
                for s in range(active):
                    # dh: what arrives from outside (masked positions that hold this output included) and the carry
                    b, k = get_i64(slot_row, s), get_i64(slot_k, s)
                    n = get_i64(first, b) + k
                    is_last = n + 1 == get_i64(first, b + 1)
                    buffer = get_i64(slot_buffer, s)
                    p0, p1, move = 0, 0, 1
                    if d_outputs != 0:
                        p0 = get_i64(dst, n)
                        p1 = p0 + 1
                        if not zero_masked:
                            if backwards:
                                move = -1
                                p1 = get_i64(base, b) - 1 if is_last else get_i64(dst, n + 1)
                            else:
                                p1 = get_i64(base, b + 1) if is_last else get_i64(dst, n + 1)
                    for j in range(v0, v1):
                        left = min(L, H - j * L)
                        at = j * L * size
                        d = zero
                        p = p0
                        while p != p1:
                            d = d + load_part(real, d_outputs + p * row_bytes + at, left)
                            p += move
                        if is_last:
                            if d_last != 0:
                                d = d + load_part(real, d_last + b * row_bytes + at, left)
                            if d_final_h != 0:
                                d = d + load_part(real, d_final_h + b * row_bytes + at, left)
                        if not has_cell_state:
                            d = d + load(real, buffer + state + at)
                        store(buffer + at, d)
                    put_i64(c_frame, s, buffer + v0 * L * size)
                u_part = ut + v0 * L * size * ws_panels * ut_inner
                for s in range(0, active if ut != 0 else 0, tile_rows):
                    count = min(tile_rows, active - s)
                    if gates:
                        dh = frame + 8 * (DH * SLOTS + s)
                        for g in range(h_gates):
                            at = 8 * (g * SLOTS + s)
                            u = ut + g * ut_gate
                            matmul_scaled(
                                real, a_frame + at, dh, f_frame + at, count, u, ws_panels, units, ws_jump, panels
                            )
                    else:
                        a, c, vectors = a_frame + 8 * s, c_frame + 8 * s, v1 - v0
                        matmul(real, a, c, c, count, u_part, ws_panels, ut_inner, ws_jump, vectors, vectors * L)
                for s in range(active):
                    step(real, frame + 8 * s, v0, v1, H, ws_jump, act, ract)
                done(sync)
            tick += 1
            finished += parts
            wait(sync, finished)
            if two_passes:
                for s in range(active):
                    drh = get_i64(frame, DRH * SLOTS + s)
                    for j in range(panels):
                        store(drh + j * L * size, zero)
                for s in range(0, active, tile_rows):
                    a, drh = frame + 8 * (WS * SLOTS + s), frame + 8 * (DRH * SLOTS + s)
                    count = min(tile_rows, active - s)
                    if gates:
                        f = f_frame + 8 * (h_gates * SLOTS + s)
                        matmul_scaled(real, a, drh, f, count, ut2, ws_panels, units, ws_jump, panels)
                    else:
                        matmul(real, a, drh, drh, count, ut2, ws_panels, units, ws_jump, panels, panels * L)
                for s in range(active):
                    step2(real, frame + 8 * s, 0, panels, H, ws_jump, act, ract)

            s = active - 1
            while s >= 0:
                b, k = get_i64(slot_row, s), get_i64(slot_k, s)
                put_i64(slot_k, s, k - 1)
                if k == 0:
                    buffer = get_i64(slot_buffer, s)
                    ends = block == 0 or not shared
                    if d_h0 != 0 and ends:
                        for j in range(panels):
                            store(
                                buffer + j * L * size,
                                zero if has_cell_state else load(real, buffer + state + j * L * size),
                            )
                        put_i64(c_frame, 0, buffer)
                        a = get_i64(frame, WS * SLOTS + s) + ut_skip
                        if gates:
                            for g in range(h_gates):
                                put_i64(a_frame, 0, a + g * PANEL_BYTES)
                                f, u = f_frame + 8 * (g * SLOTS + s), ut + g * ut_gate
                                matmul_scaled(real, a_frame, c_frame, f, 1, u, ws_panels, units, ws_jump, panels)
                        else:
                            put_i64(a_frame, 0, a)
                            matmul(
                                real, a_frame, c_frame, c_frame, 1, ut, ws_panels, ut_inner, ws_jump, panels, panels * L
                            )
                        for j in range(panels):
                            left = min(L, H - j * L)
                            store_part(d_h0 + b * row_bytes + j * L * size, load(real, buffer + j * L * size), left)
                    if has_cell_state and d_c0 != 0 and ends:
                        for j in range(panels):
                            left = min(L, H - j * L)
                            store_part(
                                d_c0 + b * row_bytes + j * L * size, load(real, buffer + state + j * L * size), left
                            )
                    active -= 1
                    if s != active:
                        put_i64(slot_row, s, get_i64(slot_row, active))
                        put_i64(slot_k, s, get_i64(slot_k, active))
                        put_i64(slot_buffer, s, get_i64(slot_buffer, active))
                        put_i64(slot_buffer, active, buffer)
                s -= 1
        set_over(sync)

    return backward
