"""The masked loop that calls a user's own compiled step, forward and backward.

Design
  a) A user's step is a numba function of one row at one step. numba passes an array as several words and a tuple of
     arrays as those of all its arrays, so how the function is called depends on the number of weights and their ranks.
     That lives in a small `caller`, made for each arrangement of weights; the loops are compiled once for all.
  b) Loop and caller meet in a frame, int64 words on the stack: the status the step ended with, where the sizes are
     listed, and the address of each argument, in order. All weights lie in one block of memory, and so do their
     gradients.
  c) All that a step is to write comes in as zeros, so nothing that is left from another row can reach a result.
  d) A step that raises ends with a status other than 0. Its frame is put where the launch finds it (the first one
     counts), and rows that have not begun are left alone.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable
from numba.np.arrayobj import make_array, populate_array

from ._jit import kernel
from ._launch import call_block
from .simd import I64, PTR, Emitter, _real, atomic_add, get_i64, itemsize, put_i64, put_real, stack, stopped, unpack
from .user_function import ARGUMENTS, argument_types

STATUS, SIZES, FIRST = range(3)  # words of a frame; the arguments' addresses follow
# forward
X, STATE, WEIGHTS, OUTPUT, NEW_STATE, SAVED = range(FIRST, FIRST + 6)
# backward, where the first three are the same
B_SAVED, D_OUTPUT, D_NEW_STATE, D_X, D_STATE, D_WEIGHTS = range(WEIGHTS + 1, WEIGHTS + 7)


def __getattr__(name):
    """The callers `call_step_21` and `call_step_backward_21`, here for a matrix and a vector as weights."""
    for function in ARGUMENTS:
        ranks = name.removeprefix(f"call_{function}_")
        if ranks != name and (ranks.isdecimal() or not ranks):
            return _caller(function, tuple(map(int, ranks)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _caller(function, ranks):
    """A block kernel whose `block` is the address of the user's function, and `args` the frame."""

    @intrinsic
    def call(typingctx, real, address, frame):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, _real(sig.args[0]))
            frame = builder.inttoptr(args[2], PTR)
            sizes = builder.inttoptr(_word(builder, frame, SIZES), PTR)
            weights_at = len(ARGUMENTS[function])  # in sizes, behind the lengths of the arguments
            signature, values = argument_types(function, ranks, e.real.name), []
            for i, type_ in enumerate(signature):
                address = _word(builder, frame, FIRST + i)
                if isinstance(type_, types.BaseTuple):
                    values.append(_weights(context, builder, type_, address, sizes, weights_at))
                else:
                    values.append(_array(context, builder, type_, address, [_word(builder, sizes, i)]))
            convention = context.call_conv
            callee = builder.inttoptr(args[1], convention.get_function_type(types.none, signature).as_pointer())
            status, _ = convention.call_function(builder, callee, types.none, signature, values)
            builder.store(builder.zext(status.is_error, I64), frame, align=8)  # the word STATUS
            return context.get_dummy_value()

        return types.void(real, types.int64, types.int64), codegen

    def caller(block, args, real):
        call(real, block, args)

    caller.kernel_arguments = ()
    return caller


def _word(builder, pointer, i):
    return builder.load(builder.gep(pointer, [ir.Constant(I64, i)], source_etype=I64), align=8, typ=I64)


def _array(context, builder, array_type, address, shape):
    """A numba array at an address."""
    array = make_array(array_type)(context, builder)
    size = array_type.dtype.bitwidth // 8
    strides, stride = [], ir.Constant(I64, size)
    for n in reversed(shape):
        strides.insert(0, stride)
        stride = builder.mul(stride, n)
    populate_array(array, builder.inttoptr(address, array.data.type), shape, strides, size, None)
    return array._getvalue()


def _weights(context, builder, tuple_type, base, sizes, at):
    """A numba tuple of arrays in one block of memory; from word `at` on, sizes has for each its offset and shape."""
    arrays = []
    for array_type in tuple_type:
        offset, *shape = [_word(builder, sizes, at + i) for i in range(1 + array_type.ndim)]
        arrays.append(_array(context, builder, array_type, builder.add(base, offset), shape))
        at += 1 + array_type.ndim
    return context.make_tuple(builder, tuple_type, arrays)


@register_jitable(inline="always")
def _clear(real, address, count):
    for i in range(count):
        put_real(real, address, i, 0.0)


@register_jitable(inline="always")
def _failed(error, frame, words):
    """Whether the step of this frame raised; the first such frame is kept behind the count of them."""
    if get_i64(frame, STATUS) == 0:
        return False
    if atomic_add(error, 1) == 0:
        for i in range(words):
            put_i64(error, 1 + i, get_i64(frame, i))
    return True


@kernel("call step order first x states outputs saved weights sizes F S H K steps keep error")
def forward(block, args, real):
    """One row, from its first valid step to its last. Parallel: rows, the longest first.

    x (N,F), outputs (N,H): row n is valid step n. With `keep`, states (N + B,S) after each step, then the initial ones,
    and saved (N,K); else states (B,2,S), taken in turns from 0 on, and saved (B,K).
    """
    (call, step, order, first, x, states, outputs, saved, weights, sizes,
     F, S, H, K, steps, keep, error) = unpack(args, 17)  # fmt: skip
    if get_i64(error, 0) != 0:
        return
    size = itemsize(real)
    frame = stack(8)
    put_i64(frame, SIZES, sizes)
    put_i64(frame, WEIGHTS, weights)
    b = get_i64(order, block)
    start = get_i64(first, b)
    for n in range(start, get_i64(first, b + 1)):
        if stopped(args, 17):
            return
        k = n - start
        if keep:
            before, after, own = (n - 1 if k > 0 else steps + b), n, n
        else:
            before, after, own = 2 * b + (k & 1), 2 * b + 1 - (k & 1), b
        output, new_state, kept = outputs + n * H * size, states + after * S * size, saved + own * K * size
        _clear(real, output, H)
        _clear(real, new_state, S)
        _clear(real, kept, K)
        put_i64(frame, X, x + n * F * size)
        put_i64(frame, STATE, states + before * S * size)
        put_i64(frame, OUTPUT, output)
        put_i64(frame, NEW_STATE, new_state)
        put_i64(frame, SAVED, kept)
        call_block(call, step, frame)
        if _failed(error, frame, 8):
            return


@kernel(
    "call step order rows first x states saved d_outputs d_x d_states d_weights weights sizes "
    "F S H K weights_size steps need_x chunks error"
)
def backward(block, args, real):
    """Rows block, block + chunks … of `order`, each from its last valid step to its first. Parallel: chunks.

    In the forward pass step n made row n of states, outputs and saved, so now it adds to the gradients of the weights.
    Each chunk has its own, d_weights (chunks, weights_size): which rows it sums up, and in which order, does not depend
    on the number of threads. d_x (N,F), or (chunks,F) if nobody wants it; d_states (B,2,S), taken in turns from 0 on.
    """
    (call, step, order, rows, first, x, states, saved, d_outputs, d_x, d_states, d_weights, weights, sizes,
     F, S, H, K, weights_size, steps, need_x, chunks, error) = unpack(args, 23)  # fmt: skip
    size = itemsize(real)
    frame = stack(11)
    put_i64(frame, SIZES, sizes)
    put_i64(frame, WEIGHTS, weights)
    put_i64(frame, D_WEIGHTS, d_weights + block * weights_size * size)
    for i in range(block, rows, chunks):
        b = get_i64(order, i)
        start, end = get_i64(first, b), get_i64(first, b + 1)
        if get_i64(error, 0) != 0:
            return
        for k in range(end - start):
            if stopped(args, 23):
                return
            n = end - 1 - k
            before = n - 1 if n > start else steps + b
            d_input = d_x + (n if need_x else block) * F * size
            d_state = d_states + (2 * b + 1 - (k & 1)) * S * size
            _clear(real, d_input, F)
            _clear(real, d_state, S)
            put_i64(frame, X, x + n * F * size)
            put_i64(frame, STATE, states + before * S * size)
            put_i64(frame, B_SAVED, saved + n * K * size)
            put_i64(frame, D_OUTPUT, d_outputs + n * H * size)
            put_i64(frame, D_NEW_STATE, d_states + (2 * b + (k & 1)) * S * size)
            put_i64(frame, D_X, d_input)
            put_i64(frame, D_STATE, d_state)
            call_block(call, step, frame)
            if _failed(error, frame, 11):
                return
