"""A user's numba functions: the types of their arguments, and where their machine code lies."""

import functools
import inspect
import weakref

from numba import types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from . import _jit

# What a cell's functions take: 1-D arrays of one row at one step; weights and their gradients are tuples of arrays.
READ = {
    "step": ("x", "state", "weights"),
    "step_backward": ("x", "state", "weights", "saved", "d_output", "d_new_state"),
}
WRITTEN = {
    "step": ("output", "new_state", "saved"),
    "step_backward": ("d_x", "d_state", "d_weights"),
}
ARGUMENTS = {name: READ[name] + WRITTEN[name] for name in READ}


@functools.cache
def argument_types(name, ranks, dtype):
    """Types of the arguments of the function `name` if the weights have these ranks."""
    real = getattr(types, dtype)
    vector = types.Array(real, 1, "C")
    weights = types.Tuple([types.Array(real, rank, "C") for rank in ranks])
    return tuple(weights if argument.endswith("weights") else vector for argument in ARGUMENTS[name])


_entries = weakref.WeakKeyDictionary()  # function -> {(name, ranks, dtype): (compile result, address)}


def entry(function, name, ranks, dtype):
    """Address of the machine code of a numba function, compiled if need be.

    Compiling is numba's own business: the code is kept on disk if the function was made with cache=True, and what is
    defined anew, in a notebook say, is another function.
    """
    key = name, ranks, dtype
    if function in _entries and key in _entries[function]:
        result, address = _entries[function][key]
        if any(current is result for current in function.overloads.values()):  # not after function.recompile()
            return address
    _check(function, name)
    arguments = argument_types(name, ranks, dtype)
    with _jit._lock:
        try:
            if arguments not in function.overloads:
                function.compile(arguments)
        except (NumbaError, RuntimeError) as error:  # RuntimeError: it was made for other types only
            wanted = ", ".join(f"{n}: {t}" for n, t in zip(ARGUMENTS[name], arguments, strict=True))
            raise TypeError(f"{name}: expected a function that numba can compile for ({wanted}): {error}") from error
        result = function.overloads.get(arguments)
        if result is None or result.objectmode:
            raise TypeError(f"{name}: expected a function in nopython mode (numba.njit), received one in object mode")
        if result.signature.return_type != types.none:
            raise TypeError(f"{name}: expected to return nothing, returns {result.signature.return_type}")
        address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    _entries.setdefault(function, {})[key] = result, address
    return address


def _check(function, name):
    if not isinstance(function, Dispatcher):
        hint = ", or NUMBA_DISABLE_JIT is set" if inspect.isfunction(function) else ""
        raise TypeError(f"{name}: expected a function made with numba.njit, received {function!r}{hint}")
    if function.targetoptions.get("parallel"):
        raise ValueError(f"{name}: expected parallel=False, received True: rows run in parallel already")
    parameters = inspect.signature(function.py_func).parameters
    if len(parameters) != len(ARGUMENTS[name]):
        wanted, got = ", ".join(ARGUMENTS[name]), ", ".join(parameters)
        raise TypeError(f"{name}: expected the arguments ({wanted}), received a function of ({got})")
