"""Updates of weights: gradient, weight and state are read once, weight and state written once.

Design
a) All weights of a model are one launch: a table of jobs, one a weight, says where each lies. A model has few weights,
   so a block finds its job by going through the table.
b) A rule writes the vector code of one optimizer and reads like the equations of `reference.optimizer`: operations in
   that order and no FMA, so the numbers are NumPy's to the bit, and whether an element is updated as part of the whole
   array or of a row makes no difference.
c) Clipping and weight decay are part of the pass: a factor of 1, bounds of infinity and a decay of 0 change no bit.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import kernel
from .optimizer_names import BLOCK
from .simd import I32, I64, Emitter, V, get_i64, get_real, itemsize, put_f64, unpack

# ---- the rules: (weight, gradient, state, numbers) -> (weight, state) -----------------------------------------------


def _sgd(e, w, g, s, n):
    return w - g * n[0], []


def _momentum(e, w, g, s, n):
    m = s[0] * n[1] - g * n[0]
    return w + m, [m]


def _nesterov(e, w, g, s, n):
    step = g * n[0]
    m = s[0] * n[1] - step
    return w + (m * n[1] - step), [m]


def _rmsprop(centered, with_momentum):
    def rule(e, w, g, s, n):
        lr, rho, one_less_rho, epsilon, momentum = n
        v = s[0] * rho + g * g * one_less_rho
        state, spread = [v], v
        if with_momentum:
            state.append(s[1])
        if centered:
            a = s[-1] * rho + g * one_less_rho
            state.append(a)
            spread = v - a * a
        step = (g * lr) / e.sqrt(spread + epsilon)
        if with_momentum:
            step = state[1] = s[1] * momentum + step
        return w - step, state

    return rule


def _adam(amsgrad):
    def rule(e, w, g, s, n):
        alpha, one_less_beta_1, one_less_beta_2, epsilon, _ = n
        m = s[0] + (g - s[0]) * one_less_beta_1
        v = s[1] + (g * g - s[1]) * one_less_beta_2
        state, largest = [m, v], v
        if amsgrad:
            largest = e.where(s[2] >= v, s[2], v)  # of a NaN in v, too
            state.append(largest)
        return w - (m * alpha) / (e.sqrt(largest) + epsilon), state

    return rule


# ---- the kernels ---------------------------------------------------------------------------------------------------

ARGUMENTS = "jobs count lr low high n_0 n_1 n_2 n_3 n_4"


def _update_of(rule, slots):
    """The intrinsic (real, args, job, start, gradient, n): the rule for n elements of a job from element `start` on.

    gradient: the address of theirs; 0 where it is 0.
    """

    def codegen(context, builder, sig, llargs):
        e = Emitter(builder, sig.args[0].instance_type)
        _, args, job, start, gradient, n = llargs

        def word(address, i):
            return builder.load(e.ptr(address, 8 * i), align=8, typ=I64)

        def number(address, i):
            x = builder.bitcast(word(address, i), ir.DoubleType())
            return e.splat(x if e.double else builder.fptrunc(x, e.scalar))

        def is_zero(x):
            return builder.icmp_signed("==", x, ir.Constant(I64, 0))

        lr, low, high, *numbers = (number(args, 2 + i) for i in range(8))
        scale, decay = number(job, 10), number(job, 11)
        no_gradient, no_decay = is_zero(gradient), is_zero(word(job, 11))
        arrays = [e.at(e.ptr(word(job, 1 + i)), start) for i in range(1 + slots)]  # weight, state
        gradient = builder.select(no_gradient, arrays[0], e.ptr(gradient))  # something that can be read

        def update(load, store):
            w, *state = (load(p) for p in arrays)
            g = e.where(no_gradient, 0.0, e.clip(load(gradient) * scale, low, high))
            w, state = rule(e, e.where(no_decay, w, w - w * decay * lr), g, state, numbers)
            for p, x in zip(arrays, [w, *state], strict=True):
                store(p, x)

        def turn(i, _):
            at = builder.mul(i, L)
            update(lambda p: e.load(e.at(p, at)), lambda p, x: e.store(e.at(p, at), x))
            return []

        L = ir.Constant(I64, e.lanes)
        whole = builder.sdiv(n, L)
        e.loop(whole, [], turn)
        done = builder.mul(whole, L)
        left = builder.sub(n, done)
        update(lambda p: e.load_part(e.at(p, done), left), lambda p, x: e.store_part(e.at(p, done), x, left))
        return context.get_dummy_value()

    def typing(typingctx, real, args, job, start, gradient, n):
        return types.void(real, *[types.int64] * 5), codegen

    return intrinsic(typing)


def _kernel(rule, slots):
    """The block kernel of a rule with so many arrays of state.

    jobs (count,12), a row for each weight: its first block; the addresses of the weight, of three arrays of state and
    of the gradient; then, for a dense gradient, the number of elements, 0, 0, 0; for that of some rows the number of
    rows that move, the addresses of their numbers and of the row of the gradient that each has (-1: none), and the
    elements of a row; last what the gradient is multiplied by and the weight decay, as float64. Gradients are clipped
    to low ... high. Parallel: blocks of BLOCK elements, or of as many rows as make one.
    """
    update = _update_of(rule, slots)

    @kernel(ARGUMENTS)
    def update_weights(block, args, real):
        jobs, count = unpack(args, 2)
        last = count - 1
        while last > 0 and get_i64(jobs, 12 * last) > block:
            last -= 1
        job = jobs + 96 * last
        block -= get_i64(job, 0)
        gradient, size, rows, g_rows, width = (
            get_i64(job, 5), get_i64(job, 6), get_i64(job, 7), get_i64(job, 8), get_i64(job, 9),
        )  # fmt: skip
        if rows == 0:
            start = block * BLOCK
            update(real, args, job, start, gradient + start * itemsize(real), min(BLOCK, size - start))
        else:
            many = max(1, BLOCK // width)
            for i in range(block * many, min(size, (block + 1) * many)):
                at = get_i64(g_rows, i)
                g = 0 if at < 0 else gradient + at * width * itemsize(real)
                update(real, args, job, get_i64(rows, i) * width, g, width)

    return update_weights


sgd = _kernel(_sgd, 0)
momentum = _kernel(_momentum, 1)
nesterov = _kernel(_nesterov, 1)
rmsprop = _kernel(_rmsprop(False, False), 1)
rmsprop_momentum = _kernel(_rmsprop(False, True), 2)
rmsprop_centered = _kernel(_rmsprop(True, False), 2)
rmsprop_centered_momentum = _kernel(_rmsprop(True, True), 3)
adam = _kernel(_adam(False), 2)
amsgrad = _kernel(_adam(True), 3)


@intrinsic
def _sum_of_eights(typingctx, real, address, turns):
    """Sum of the squares of 8 * turns reals in float64: 8 running sums whatever the lanes, added in halves."""

    def codegen(context, builder, sig, llargs):
        e = Emitter(builder, sig.args[0].instance_type)
        _, address, turns = llargs
        wide = ir.VectorType(ir.DoubleType(), 8)

        def turn(i, sums):
            p = e.at(e.ptr(address), builder.mul(i, ir.Constant(I64, 8)))
            x = builder.load(p, align=e.bytes, typ=ir.VectorType(e.scalar, 8))
            x = V(e, x if e.double else builder.fpext(x, wide))
            return [sums[0] + x * x]

        (sums,) = e.loop(turns, [V(e, ir.Constant(wide, None))], turn)
        parts = [builder.extract_element(sums.v, ir.Constant(I32, i)) for i in range(8)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [builder.fadd(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
        return parts[0]

    return types.float64(real, types.int64, types.int64), codegen


@kernel("g size sums")
def square_sums(block, args, real):
    """sums[block] = sum of g^2 over BLOCK elements, in float64. Parallel: blocks of BLOCK elements."""
    g, size, sums = unpack(args, 3)
    first, last = block * BLOCK, min(size, (block + 1) * BLOCK)
    eights = (last - first) // 8
    total = _sum_of_eights(real, g + first * itemsize(real), eights)
    for i in range(first + 8 * eights, last):
        x = types.float64(get_real(real, g, i))
        total += x * x
    put_f64(sums, block, total)
