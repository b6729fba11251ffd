"""Layer and batch normalization of steps x (N, size): y = normal gamma + beta, normal = (x - mean) inverse, inverse =
1 / sqrt(variance + epsilon); and unit normalization: y = x inverse, inverse = 1 / |x|.

Design
a) What happens to one step is one intrinsic, written with the Emitter so that it reads like the equations.
b) Sums along a step (layer and unit normalization) run as 16 (float64: 8) interleaved partial sums that are folded in
   halves, whatever the number of lanes: the bits of a step depend on that step alone, and not on the machine.
c) Sums over steps (moments of a batch, gradients of gamma and beta) are made of pieces, CHUNK listed steps each, one
   block a piece; `ops.normalization` adds the pieces in their order. So neither threads nor padding change a bit.
d) The moments of a piece are its mean and the squared distances from that mean: one pass over the memory, and no
   difference of large sums when the pieces are merged.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .simd import I64, Emitter, _real, fma, get_i64, itemsize, lanes, load_part, splat, store_part, unpack

CHUNK = 64  # steps of one block


def _i(n):
    return ir.Constant(I64, n)


class _Step:
    """Step n, of the arrays that the arguments of a kernel name: what the equations below ask for."""

    def __init__(self, e, names, args, piece, n):
        self.e, self.piece_number, self.n = e, piece, n
        words = enumerate(names.split())
        self.at = {name: e.b.load(e.ptr(args, 8 * i), align=8, typ=I64, name=name) for i, name in words}
        self.size = self.at["size"]
        self.units = e.splat(e.b.sitofp(self.size, e.scalar))

    def row(self, name, size=None):
        """Row n of an array (N, size), of what size a step has unless given."""
        return self._row(name, self.n, self.size if size is None else _i(size))

    def piece(self, name):
        """The row of this block in an array (pieces, size)."""
        return self._row(name, self.piece_number, self.size)

    def _row(self, name, n, size):
        return self.e.at(self.e.ptr(self.at[name]), self.e.b.mul(n, size))

    def vector(self, name):
        """An array (size,)."""
        return self.e.ptr(self.at[name])

    def number(self, name):
        """A float argument, in every lane; its float64 bits come as an int64."""
        x = self.e.b.bitcast(self.at[name], ir.DoubleType())
        return self.e.splat(x if self.e.double else self.e.b.fptrunc(x, self.e.scalar))

    # -- over the elements of a step: load(pointer) and store(pointer, x) are the ones whose turn it is
    def each(self, turn):
        """turn(load, store) for a vector at a time."""
        e, b = self.e, self.e.b
        vectors = b.sdiv(self.size, _i(e.lanes))

        def whole(i, _):
            at = b.mul(i, _i(e.lanes))
            turn(self._load(at), self._store(at))
            return []

        e.loop(vectors, [], whole)
        at = b.mul(vectors, _i(e.lanes))
        left = b.sub(self.size, at)
        with b.if_then(b.icmp_signed(">", left, _i(0))):
            turn(self._load(at, left), self._store(at, left))

    def sums(self, terms, count=1):
        """The sums of the `count` vectors that terms(load) returns, in every lane."""
        e, b = self.e, self.e.b
        width = 64 // e.bytes  # partial sums, held in `parts` vectors
        parts = width // e.lanes

        def add(totals, first, left=None):
            """totals and the terms of the `width` elements from `first` on, of which `left` exist."""
            new = []
            for p in range(parts):
                at = b.add(first, _i(p * e.lanes))
                inside = None if left is None else b.sub(left, _i(p * e.lanes))
                found = terms(self._load(at, inside))
                if inside is not None:
                    found = [e.where(e.lane_mask(inside), term, 0.0) for term in found]
                new += found
            return [total + term for total, term in zip(totals, new, strict=True)]

        turns = b.sdiv(self.size, _i(width))
        totals = [e.const(0.0)] * (parts * count)
        totals = e.loop(turns, totals, lambda i, totals: add(totals, b.mul(i, _i(width))))
        done = b.mul(turns, _i(width))
        totals = add(totals, done, b.sub(self.size, done))
        return [self._folded(totals[j::count]) for j in range(count)]

    def _folded(self, vectors):
        while len(vectors) > 1:
            half = len(vectors) // 2
            vectors = [x + y for x, y in zip(vectors[:half], vectors[half:], strict=True)]
        return self.e.across(vectors[0], lambda x, y: x + y)

    def _load(self, at, left=None):
        e = self.e
        if left is None:
            return lambda pointer: e.load(e.at(pointer, at))
        return lambda pointer: e.load_part(e.at(pointer, at), left)

    def _store(self, at, left=None):
        e = self.e
        if left is None:
            return lambda pointer, x: e.store(e.at(pointer, at), x)
        return lambda pointer, x: e.store_part(e.at(pointer, at), x, left)


def _for_steps(names, write):
    """The block kernel that runs the equations of `write` for each step of a list. Parallel: blocks of CHUNK listed
    steps.

    Its arguments are listed (count,), or 0 for the steps 0 ... count - 1, then count, size (of a step), and `names`:
    x, y, dx, dy (N, size); gamma, beta, mean, inverse, dy_mean, dy_normal_mean (size,); d_gamma, d_beta (pieces, size),
    to which each block adds in a row of its own.
    """
    names = f"listed count size {names}"

    def codegen(context, builder, sig, llargs):
        e = Emitter(builder, _real(sig.args[0]))
        write(e, _Step(e, names, *llargs[1:]))
        return context.get_dummy_value()

    @intrinsic
    def step(typingctx, real, args, block, n):
        return types.void(real, types.int64, types.int64, types.int64), codegen

    @kernel(names)
    def run(block, args, real):
        listed, count = unpack(args, 2)
        for i in range(block * CHUNK, min(count, (block + 1) * CHUNK)):
            step(real, args, block, i if listed == 0 else get_i64(listed, i))

    return run


# ---- layer normalization: each step has its mean and inverse, kept in moments (N, 2) ---------------------------------
def _layer_forward(e, s):
    """mean = mean(x);  variance = mean((x - mean)^2);  y = (x - mean) inverse gamma + beta."""
    x, y, gamma, beta = s.row("x"), s.row("y"), s.vector("gamma"), s.vector("beta")
    (total,) = s.sums(lambda load: [load(x)])
    mean = total / s.units

    def squares(load):
        distance = load(x) - mean
        return [distance * distance]

    (total,) = s.sums(squares)
    inverse = 1.0 / e.sqrt(total / s.units + s.number("epsilon"))
    s.each(lambda load, store: store(y, e.fma((load(x) - mean) * inverse, load(gamma), load(beta))))
    moments = s.row("moments", 2)
    e.store_part(moments, mean, _i(1))
    e.store_part(e.at(moments, 1), inverse, _i(1))


def _layer_backward(e, s):
    """With g = dy gamma:  dx = inverse (g - mean(g) - normal mean(g normal)).  d_gamma += dy normal;  d_beta += dy."""
    x, dy, dx, gamma = s.row("x"), s.row("dy"), s.row("dx"), s.vector("gamma")
    d_gamma, d_beta, moments = s.piece("d_gamma"), s.piece("d_beta"), s.row("moments", 2)
    mean, inverse = e.broadcast(moments), e.broadcast(moments, 1)

    def terms(load):
        g = load(dy) * load(gamma)
        return [g, g * ((load(x) - mean) * inverse)]

    g_mean, g_normal_mean = (total / s.units for total in s.sums(terms, 2))

    def turn(load, store):
        d, normal = load(dy), (load(x) - mean) * inverse
        store(d_gamma, e.fma(d, normal, load(d_gamma)))
        store(d_beta, load(d_beta) + d)
        store(dx, inverse * (d * load(gamma) - g_mean - normal * g_normal_mean))

    s.each(turn)


layer_forward = _for_steps("x gamma beta epsilon y moments", _layer_forward)
layer_backward = _for_steps("x moments gamma dy dx d_gamma d_beta", _layer_backward)


# ---- unit normalization: each step has its inverse (N,) --------------------------------------------------------------
def _unit_forward(e, s):
    """inverse = min(1 / sqrt(sum(x^2)), 1e12);  y = x inverse."""
    x, y = s.row("x"), s.row("y")
    (total,) = s.sums(lambda load: [load(x) * load(x)])
    inverse = 1.0 / e.sqrt(total)
    inverse = e.where(inverse > 1e12, 1e12, inverse)
    s.each(lambda load, store: store(y, load(x) * inverse))
    e.store_part(s.row("inverse", 1), inverse, _i(1))


def _unit_backward(e, s):
    """dx = inverse (dy - normal sum(dy normal)), normal = x inverse; without the sum where inverse is constant."""
    x, dy, dx, inverse = s.row("x"), s.row("dy"), s.row("dx"), e.broadcast(s.row("inverse", 1))
    (total,) = s.sums(lambda load: [load(dy) * (load(x) * inverse)])
    total = e.where(inverse >= 1e12, 0.0, total)
    s.each(lambda load, store: store(dx, inverse * (load(dy) - load(x) * inverse * total)))


unit_forward = _for_steps("x y inverse", _unit_forward)
unit_backward = _for_steps("x inverse dy dx", _unit_backward)


# ---- batch normalization: each feature has its mean and inverse ------------------------------------------------------
@kernel("listed count size x means squares")
def batch_moments(block, args, real):
    """Of the listed steps of each piece: means (pieces, size), and squares, the sums of (x - mean)^2. Parallel: blocks
    of CHUNK listed steps.
    """
    listed, count, size, x, means, squares = unpack(args, 6)
    L, bytes_ = lanes(real), itemsize(real)
    stride = size * bytes_
    begin, end = block * CHUNK, min(count, (block + 1) * CHUNK)
    for k in range(0, size, L):
        width, at = min(L, size - k), k * bytes_
        total = splat(real, 0.0)
        for i in range(begin, end):
            n = i if listed == 0 else get_i64(listed, i)
            total = total + load_part(real, x + n * stride + at, width)
        mean = total / (end - begin)
        total = splat(real, 0.0)
        for i in range(begin, end):
            n = i if listed == 0 else get_i64(listed, i)
            distance = load_part(real, x + n * stride + at, width) - mean
            total = fma(distance, distance, total)
        store_part(means + block * stride + at, mean, width)
        store_part(squares + block * stride + at, total, width)


def _batch_forward(e, s):
    """y = (x - mean) inverse gamma + beta."""
    x, y, mean, inverse = s.row("x"), s.row("y"), s.vector("mean"), s.vector("inverse")
    gamma, beta = s.vector("gamma"), s.vector("beta")
    s.each(lambda load, store: store(y, e.fma((load(x) - load(mean)) * load(inverse), load(gamma), load(beta))))


def _batch_sums(e, s):
    """d_gamma += dy normal;  d_beta += dy."""
    x, dy, mean, inverse = s.row("x"), s.row("dy"), s.vector("mean"), s.vector("inverse")
    d_gamma, d_beta = s.piece("d_gamma"), s.piece("d_beta")

    def turn(load, store):
        d, normal = load(dy), (load(x) - load(mean)) * load(inverse)
        store(d_gamma, e.fma(d, normal, load(d_gamma)))
        store(d_beta, load(d_beta) + d)

    s.each(turn)


def _batch_backward(e, s):
    """dx = gamma inverse (dy - dy_mean - normal dy_normal_mean)."""
    x, dy, dx, mean, inverse = s.row("x"), s.row("dy"), s.row("dx"), s.vector("mean"), s.vector("inverse")
    gamma, dy_mean, dy_normal_mean = s.vector("gamma"), s.vector("dy_mean"), s.vector("dy_normal_mean")

    def turn(load, store):
        r = load(inverse)
        normal = (load(x) - load(mean)) * r
        store(dx, load(gamma) * r * (load(dy) - load(dy_mean) - normal * load(dy_normal_mean)))

    s.each(turn)


batch_forward = _for_steps("x mean inverse gamma beta y", _batch_forward)
batch_sums = _for_steps("x mean inverse dy d_gamma d_beta", _batch_sums)
batch_backward = _for_steps("x mean inverse gamma dy dy_mean dy_normal_mean dx", _batch_backward)
