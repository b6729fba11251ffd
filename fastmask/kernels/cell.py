"""The register tile of a recurrent step, shared by the cells: pre-activations of all gates as one chain over [x ; h],
then gates and state on the registers.

A cell gives the shape of its tile and a `finish` that reads like its equations; `cell_tile` makes the intrinsic.

    panel p of a cell with A accumulators (LSTM i f c o):

        acc[r][a]  =  bias[p][a]                     a < A, r < rows, each a vector of units p*lanes … p*lanes + lanes-1
        acc[r][x_columns[i]] += x[r][k] * wx[p][k][i]      k < F
        acc[r][h_columns[i]] += h[r][k] * wh[p][k][i]      k < H
        finish(acc[r]) -> new state, saved gates

The part of x may be computed before (several steps of a row at once, where few rows would wait for the weights):

    H = 0               the tile ends here: acc[r] goes to Z[r][p][a], in whole vectors
    F = -1              acc[r] begins with X[r][p][a] instead of the bias, and the part of x is over

With dropout each gate has an x and an h of its own: then x[r] and h[r] are x[r][i] and h[r][i] above, rows of whole
vectors one behind the other.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .activation import emit_slope, emit_value
from .activation_names import SIGMOID, TANH
from .gemm import MAX_ROWS, emit_chain, row_switch
from .simd import I64, PANEL_VECTORS, PTR, VECTOR_BYTES, Emitter, _real

SLOTS = 48  # most rows in flight in one block
# Addresses that a cell's tile reads for each slot, SLOTS apart: forward, then backward.
X, H_IN, H_OUT, C_IN, C_OUT, WS, Z, RH, H_GATES = range(9)
DH, CARRY, DRH = X, Z, RH

REGISTER_VECTORS = 4 * MAX_ROWS


class Step:
    """What `finish` may read and write for one row of one panel."""

    def __init__(self, e, frame, row, offset, ws_offset, units=None):
        """units: <lanes x i1>, the lanes that hold a unit; None keeps all."""
        self._e, self._frame, self._row, self._offset, self._ws_offset = e, frame, row, offset, ws_offset
        self._units = units

    def address(self, field):
        b = self._e.b
        return b.load(
            b.gep(self._frame, [ir.Constant(I64, field * SLOTS + self._row)], source_etype=I64), typ=I64, align=8
        )

    def _pointer(self, field):
        return self._e.b.inttoptr(self._e.b.add(self.address(field), self._offset), PTR)

    def load(self, field):
        return self._e.load(self._pointer(field))

    def store(self, field, value):
        self._e.store(self._pointer(field), value)

    def saved(self, count):
        """The first `count` groups that forward kept."""
        p = self._e.b.inttoptr(self._e.b.add(self.address(WS), self._ws_offset), PTR)
        return [self._e.load(p, i * PANEL_VECTORS) for i in range(count)]

    def save(self, values):
        """Keep `values` (a V for each group, None leaves a group alone) for backward; nothing happens in inference."""
        b, ws = self._e.b, self.address(WS)
        with b.if_then(b.icmp_unsigned("!=", ws, ir.Constant(I64, 0))):
            p = b.inttoptr(b.add(ws, self._ws_offset), PTR)
            for i, v in enumerate(values):
                if v is not None:
                    v = v if self._units is None else self._e.where(self._units, v, 0.0)
                    self._e.store(p, v, i * PANEL_VECTORS)


def _ws_offset(e, panel, ws_jump):
    """Where a panel of the tile lies in ws, whose panels are PANEL_VECTORS of the tile's."""
    b, vectors = e.b, ir.Constant(I64, PANEL_VECTORS)
    within = b.mul(b.srem(panel, vectors), ir.Constant(I64, VECTOR_BYTES))
    return b.add(b.mul(b.sdiv(panel, vectors), ws_jump), within)


def cell_tile(name, accumulators, x_columns, h_columns, h_field, finish, dropped=False, first_gate=0):
    """Intrinsic tile(real, frame, rows, p0, p1, wx, wh, bias, F, H, ws_jump, act, ract) for panels p0 <= p < p1 of 1 …
    MAX_ROWS rows.

    dropped: each column has rows of x and h of its own; those of x begin with gate `first_gate`.
    finish(e, step, acc, act, ract, fast): act and ract map a V to its activation; fast is True where they are tanh and
    sigmoid.
    """

    def several(rows):
        """Panels held at once: enough accumulators to hide the latency of an fma, not more than there are registers."""
        n = 1
        while n * 2 * rows * accumulators <= REGISTER_VECTORS and n * 2 * accumulators <= 16:
            n *= 2
        return n

    def write(rows):
        def body(e, a):
            b = e.b
            frame, p0, p1, wx, wh, bias, F, H, ws_jump, act, ract = a
            frame, wx, wh, bias = (b.inttoptr(v, PTR) for v in (frame, wx, wh, bias))

            def addresses(field):
                at = [b.gep(frame, [ir.Constant(I64, field * SLOTS + r)], source_etype=I64) for r in range(rows)]
                return [b.inttoptr(b.load(p, typ=I64, align=8), PTR) for p in at]

            def rows_of(field, count, columns, first):
                """For each row a list of pointers: one for all columns, or one for each."""
                at = addresses(field)
                if not dropped:
                    return [[p] for p in at]
                whole = b.and_(b.add(count, ir.Constant(I64, e.lanes - 1)), ir.Constant(I64, -e.lanes))
                gates = [b.mul(whole, ir.Constant(I64, first + i)) for i in range(len(columns))]
                return [[e.at(p, gate) for gate in gates] for p in at]

            xs, hs = rows_of(X, F, x_columns, first_gate), rows_of(h_field, H, h_columns, 0)
            fast = b.and_(
                b.icmp_signed("==", act, ir.Constant(I64, TANH)), b.icmp_signed("==", ract, ir.Constant(I64, SIGMOID))
            )

            begun = b.icmp_signed("<", F, ir.Constant(I64, 0))
            x_count = b.select(begun, ir.Constant(I64, 0), F)
            only_x = b.icmp_signed("==", H, ir.Constant(I64, 0))

            def panels(p, many):
                unroll = 4 if rows * many * accumulators <= 8 else (2 if rows * many * accumulators <= 16 else 1)
                in_panels = b.mul(p, ir.Constant(I64, accumulators * e.lanes))
                begin = [bias if dropped else b.select(begun, x[0], bias) for x in xs]
                acc = [[e.load(e.at(at, in_panels), i) for i in range(many * accumulators)] for at in begin]
                for base, count, left, columns in ((wx, x_count, xs, x_columns), (wh, H, hs, h_columns)):
                    size = b.mul(count, ir.Constant(I64, len(columns) * e.lanes))
                    weights = [e.at(base, b.mul(b.add(p, ir.Constant(I64, i)), size)) for i in range(many)]
                    acc = emit_chain(e, acc, left, weights, count, columns, unroll)
                with b.if_then(only_x):
                    for row, z in zip(acc, addresses(Z), strict=True):
                        for i, v in enumerate(row):
                            e.store(e.at(z, in_panels), v, i)
                with b.if_then(b.not_(only_x)), b.if_else(fast) as (yes, no):
                    for branch, quick in ((yes, True), (no, False)):
                        with branch:
                            f_act = e.tanh if quick else (lambda v: emit_value(e, v, act))
                            f_ract = e.sigmoid if quick else (lambda v: emit_value(e, v, ract))
                            for i in range(many):
                                at = b.add(p, ir.Constant(I64, i))
                                offset = b.mul(at, ir.Constant(I64, e.lanes * e.bytes))
                                for r in range(rows):
                                    step = Step(e, frame, r, offset, _ws_offset(e, at, ws_jump))
                                    finish(
                                        e, step, acc[r][i * accumulators : (i + 1) * accumulators], f_act, f_ract, quick
                                    )

            many = several(rows)
            p = p0
            if many > 1:
                groups = b.sdiv(b.sub(p1, p0), ir.Constant(I64, many))

                def group(i, carried):
                    panels(b.add(p0, b.mul(i, ir.Constant(I64, many))), many)
                    return []

                e.loop(groups, [], group)
                p = b.add(p0, b.mul(groups, ir.Constant(I64, many)))

            def single(i, carried):
                panels(b.add(p, i), 1)
                return []

            e.loop(b.sub(p1, p), [], single)

        return body

    def tile(typingctx, real, frame, rows, p0, p1, wx, wh, bias, F, H, ws_jump, act, ract):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, _real(sig.args[0]))
            _, frame, rows, *rest = args

            def make(r):
                builder.call(e.function(f"{name}{r}", [I64] * 11, ir.VoidType(), write(r)), [frame, *rest])

            row_switch(builder, rows, MAX_ROWS, make)
            return context.get_dummy_value()

        return types.void(real, *[types.int64] * 12), codegen

    tile.__name__ = name
    made = intrinsic(tile)
    made.accumulators = accumulators
    return made


class Gate:
    """Value and slope of a gate from what forward kept: the value itself for tanh and sigmoid (fast), else the
    pre-activation.
    """

    def __init__(self, e, code, kind, fast):
        self._e, self._code, self._kind, self._fast = e, code, kind, fast

    def __call__(self, kept):
        """(value, slope) of a kept gate."""
        if not self._fast:
            return emit_value(self._e, kept, self._code), emit_slope(self._e, kept, self._code)
        return kept, (1.0 - kept * kept if self._kind == "tanh" else kept * (1.0 - kept))

    def at(self, x):
        """(value, slope) at a pre-activation, whatever was kept."""
        if not self._fast:
            return self(x)
        y = self._e.tanh(x) if self._kind == "tanh" else self._e.sigmoid(x)
        return self(y)


def cell_backward(name, write):
    """Intrinsic step(real, frame, p0, p1, H, ws_jump, act, ract): gradients of the gates of one row and step, panels
    p0 <= p < p1.

    write(e, step, act, ract, fast): reads kept gates and the gradient of the output, writes the gates' gradients over
    them; act and ract are `Gate`s.
    """

    def body(e, a):
        b = e.b
        frame, p0, p1, H, ws_jump, act, ract = a
        frame = b.inttoptr(frame, PTR)
        fast = b.and_(
            b.icmp_signed("==", act, ir.Constant(I64, TANH)), b.icmp_signed("==", ract, ir.Constant(I64, SIGMOID))
        )
        with b.if_else(fast) as (yes, no):
            for branch, quick in ((yes, True), (no, False)):
                with branch:

                    def panel(i, carried, quick=quick):
                        p = b.add(p0, i)
                        # Lanes behind the last unit: their states follow activations of 0 and may overflow, and
                        # NaN times a weight of 0 is NaN; their gradients must be 0.
                        units = e.lane_mask(b.sub(H, b.mul(p, ir.Constant(I64, e.lanes))))
                        offset = b.mul(p, ir.Constant(I64, e.lanes * e.bytes))
                        step = Step(e, frame, 0, offset, _ws_offset(e, p, ws_jump), units)
                        write(e, step, Gate(e, act, "tanh", quick), Gate(e, ract, "sigmoid", quick), quick)
                        return []

                    e.loop(b.sub(p1, p0), [], panel)

    def step(typingctx, real, frame, p0, p1, H, ws_jump, act, ract):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, _real(sig.args[0]))
            builder.call(e.function(name, [I64] * 7, ir.VoidType(), body), args[1:])
            return context.get_dummy_value()

        return types.void(real, *[types.int64] * 7), codegen

    step.__name__ = name
    return intrinsic(step)
