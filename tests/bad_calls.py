"""What a bad call is: `Calls` holds a good call of a public function and the rows of what may be wrong with it.

The rows themselves are in bad_calls_ops.py, bad_calls_parts.py, bad_calls_layers.py and bad_calls_models.py;
test_bad_calls.py makes each of these calls.
"""

import functools
import inspect
import types
from typing import NamedTuple

import numpy as np

from fastmask import initializers
from fastmask.layers.masked import mask_of, plain
from fastmask.ragged import Ragged
from fastmask.variable import Variable

TABLE = []  # every Calls that was made

STRINGS = np.array(["a", "b"])
COMPLEX = np.ones((2, 3), np.complex64)
OBJECTS = np.array([None, "a"], object)
INTEGERS = np.ones((2, 3), np.int32)


class Row(NamedTuple):
    """One bad call: its message is "argument ... expected ... received ...", with these words in this order."""

    argument: str
    bad: dict  # the arguments that make it bad
    raises: type | tuple
    expected: str
    received: str
    may_draw: bool  # numbers that were drawn before it was found out count for nothing


class Calls:
    """A public callable, a good call of it, and bad ones.

    of : the callable; a method as Class.method
    make : function -> (what to call, its arguments as a dict), all of it new; a method is bound to a new object then
    """

    def __init__(self, of, make, label=None):
        self.of, self.make, self.rows = of, make, []
        # an initializer draws its seed when it is made, whatever else the constructor is told
        self.may_draw = isinstance(of, type) or of.__name__ in ("from_config", "deserialize", "get")
        self.label = label or getattr(of, "__qualname__", type(of).__name__)
        TABLE.append(self)

    def bad(self, argument, value, raises, expected, received=None, also=None, says=None, late=False):
        """Add a row.

        received : default: the value as Python shows it
        also : other arguments that differ
        says : what the message calls the argument
        late : it is found out in the first batch, whose order was drawn before
        """
        received = repr(value) if received is None else received
        bad = {argument: value} | (also or {})
        self.rows.append(Row(says or argument, bad, raises, expected, received, late or self.may_draw))
        return self

    def each(self, argument, values, raises, expected, says=None, received=None):
        for value in values:
            self.bad(argument, value, raises, expected, received, says=says)
        return self

    # ---- kinds of arguments -----------------------------------------------------------------------------------------
    def floats(self, argument, shape="shape", *, rank=True, width=True, dtype="float32", says=None, also=None):
        """An array that must be float32 or float64; `shape` is what the message expects, `dtype` that of the others."""
        for wrong, name in ((STRINGS, "<U1"), (COMPLEX, "complex64"), (OBJECTS, "object"), (INTEGERS, "int32")):
            self.bad(argument, wrong, TypeError, "dtype float", name, also, says)
        self.bad(argument, np.ma.masked_array(np.ones((2, 3), dtype)), TypeError, "ndarray", "numpy.ma", also, says)
        return self.shapes(argument, shape, rank=rank, width=width, says=says, also=also)

    def shapes(self, argument, shape, *, rank=True, width=True, says=None, also=None):
        good = self.make()[1][argument]
        if rank:
            self.bad(argument, good[None], ValueError, shape, str(good[None].shape), also, says)
        if width:
            wide = np.concatenate([good, good[..., :1]], axis=-1)
            self.bad(argument, wide, ValueError, shape, str(wide.shape), also, says)
        return self

    def other_dtype(self, argument, expected="float32", received="float64", says=None):
        good = self.make()[1][argument]
        return self.bad(argument, good.astype(np.float64), TypeError, expected, received, says=says)

    def numbers(self, argument, none=False, says=None):
        """An array of any real numbers."""
        for wrong, name in ((STRINGS, "<U1"), (COMPLEX, "complex64"), (OBJECTS, "object")):
            self.bad(argument, wrong, TypeError, "numbers", name, says=says)
        return self if none else self.bad(argument, None, TypeError, "numbers", "object", says=says)

    def mask(self, argument="mask", expected="(B,T)", says=None):
        """A mask (B,T) of another shape, or of no numbers."""
        good = self.make()[1][argument]
        short = good[:, :-1]
        self.bad(argument, short, ValueError, expected, str(short.shape), says=says)
        twice = np.concatenate([good, good])
        self.bad(argument, twice, ValueError, expected, str(twice.shape), says=says)
        self.bad(argument, np.full(good.shape, "x"), TypeError, "numbers", "<U1", says=says)
        self.bad(argument, np.full(good.shape, None), TypeError, "numbers", "object", says=says)
        return self.bad(argument, np.ones(good.shape, complex), TypeError, "numbers", "complex128", says=says)

    def count(
        self, argument, low=1, none=False, wrong_type=(TypeError, ValueError), expected="whole number", says=None
    ):
        """A whole number of `low` or more."""
        self.each(argument, (1.5, "3", float("nan"), True, [2]), wrong_type, expected, says)
        self.each(argument, (low - 1, -7), ValueError, str(low), says)
        return self if none else self.bad(argument, None, wrong_type, expected, says=says)

    def number(
        self, argument, expected="number", low=None, none=False, nan=True, says=None, raises=(TypeError, ValueError)
    ):
        """A finite number; `low`: the first that is too low."""
        self.each(argument, ("a", [1.0], 1j), raises, expected, says)
        if nan:
            self.each(argument, (float("nan"), float("inf")), ValueError, expected, says)
        if low is not None:
            self.bad(argument, low, ValueError, expected, says=says)
        return self if none else self.bad(argument, None, raises, expected, says=says)

    def name(self, argument, among, raises=ValueError, says=None, others=(3, "no such")):
        """One of several names, which the message lists."""
        return self.each(argument, others, raises, among, says)


def method(of, new, **arguments):
    """Calls of a method of what new() makes; arguments may be functions, to be called for a new one each time."""
    name = of.__name__

    def make():
        given = {
            k: a() if isinstance(a, types.LambdaType) and a.__name__ == "<lambda>" else a for k, a in arguments.items()
        }
        return getattr(new(), name), given

    return Calls(of, make)


def function(of, **arguments):
    """Calls of a function or a class."""
    return Calls(of, lambda: (of, {k: np.copy(a) if isinstance(a, np.ndarray) else a for k, a in arguments.items()}))


# ---- state -----------------------------------------------------------------------------------------------------------
# not what an object is, but what it has at hand: threads' own things, packed copies of weights, scratch memory
AT_HAND = {
    *("_latest", "_packed", "_local", "_tmp", "_nodes", "version", "plans", "value", "saved", "workspace"),
    "kept_alive",  # of a Plan: its workspace, which nobody has written yet
    "_number",  # of a graph: by id
    *("_src", "_dst", "_resolve", "_before", "_room"),  # of Steps: room for other masks
    *("stop_training", "stop_evaluating", "stop_predicting", "history"),  # what callbacks are told
}


def state(thing, but=frozenset(), seen=None):
    """All that a call may change in `thing`, as something that can be compared: arrays by their bits."""
    seen = {} if seen is None else seen
    inside = functools.partial(state, but=but, seen=seen)
    if thing is None or isinstance(thing, (str, bytes, int, float, complex, np.dtype, range)):
        return repr(thing)
    if isinstance(thing, np.ndarray):
        content = tuple(map(repr, thing.flat)) if thing.dtype.kind == "O" else plain(thing).tobytes()
        return str(thing.dtype), thing.shape, content, inside(mask_of(thing))
    if isinstance(thing, np.generic):
        return str(thing.dtype), thing.tobytes()
    if isinstance(thing, np.random.Generator):
        return repr(thing.bit_generator.state)
    if isinstance(thing, Ragged):
        return "Ragged", inside(thing.values), inside(thing.offsets), inside(mask_of(thing))
    if isinstance(thing, (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)):
        return thing.__qualname__ if hasattr(thing, "__qualname__") else thing.__name__
    if id(thing) in seen:
        return f"again {seen[id(thing)]}"
    seen[id(thing)] = len(seen)
    if isinstance(thing, types.MethodType):
        return thing.__name__, inside(thing.__self__)
    if isinstance(thing, Variable):
        return thing.name, inside(thing.value), thing.trainable
    if isinstance(thing, dict):
        return tuple((inside(k), inside(v)) for k, v in thing.items())
    if isinstance(thing, (list, tuple, set)):
        return type(thing).__name__, tuple(map(inside, thing))
    if type(thing).__module__.startswith("numba"):
        return f"numba {id(thing)}"
    slots = [s for c in type(thing).__mro__ for s in getattr(c, "__slots__", ())]
    kept = {**getattr(thing, "__dict__", {}), **{s: getattr(thing, s, None) for s in slots if s != "__dict__"}}
    return type(thing).__name__, tuple((k, inside(v)) for k, v in sorted(kept.items()) if k not in AT_HAND | but)


def generator_state():
    """Where the library's source of random numbers stands."""
    return state(initializers._generator)


# ---- what is public --------------------------------------------------------------------------------------------------
def public(modules):
    """Name -> callable: every public function, class and method of these modules, each once, where it is defined."""
    found = {}
    for module in modules:
        for name in getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]:
            thing = getattr(module, name)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith("fastmask"):
                continue
            if not hasattr(module, "__all__") and thing.__module__ != module.__name__:
                continue
            found.setdefault(key(thing), f"{module.__name__}.{name}")
            if inspect.isclass(thing):
                for cls in thing.__mro__:
                    for member, value in vars(cls).items():
                        value = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
                        shown = not member.startswith("_") or member in ("__call__", "__setitem__")
                        if shown and inspect.isfunction(value) and cls.__module__.startswith("fastmask"):
                            found.setdefault(key(value), f"{cls.__module__}.{cls.__name__}.{member}")
    return {name: thing for thing, name in found.items()}


def key(thing):
    return getattr(thing, "__func__", thing)


def parameters(thing):
    """Names of what a public callable takes, without self."""
    try:
        names = list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):  # of an exception class
        return []
    return [n for n in names if n not in ("self", "cls")]
