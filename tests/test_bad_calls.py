"""Every public function refuses bad arguments: the right exception, a message that names the argument, what was
expected and what came, before any work, and nothing is changed by it.

The table is in bad_calls_ops.py and its neighbours; bad_calls.py says what a row is.
"""

import importlib
import pkgutil
import warnings

import pytest

import bad_calls_layers
import bad_calls_models
import bad_calls_ops
import bad_calls_parts
import fastmask as fm
from bad_calls import TABLE, generator_state, key, parameters, public, state

assert {bad_calls_layers, bad_calls_models, bad_calls_ops, bad_calls_parts}  # they fill the table
ROWS = [(calls, row) for calls in TABLE for row in calls.rows]


def row_id(calls, row):
    return f"{calls.label}-{row.argument}-{row.received or row.expected}"[:80].replace("\n", " ")


def good(call):
    """What a good call gives. Names, which layers number by themselves, are no part of it, nor is what a tape keeps:
    its memory may have been used before.
    """
    function, arguments = call
    fm.set_random_seed(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return state(function(**arguments), but=frozenset({"name", "training"}))


_first = {}


def first_good(calls):
    """The same of a new object: once for each entry of the table."""
    if calls not in _first:
        fm.set_random_seed(5)
        _first[calls] = good(calls.make())
    return _first[calls]


def assert_says(message, row):
    """The argument, "expected", what was, "received", what came: in this order."""
    at = 0
    for word in (row.argument, "expected", row.expected, "received", row.received):
        found = message.find(word, at)
        assert found >= 0, f"no {word!r} in {message[at:]!r} of {message!r}"
        at = found + len(word)


@pytest.mark.parametrize(("calls", "row"), [pytest.param(*pair, id=row_id(*pair)) for pair in ROWS])
def test_bad_call(calls, row):
    before_all = first_good(calls)
    fm.set_random_seed(5)
    function, arguments = calls.make()
    concerned = getattr(function, "__self__", function), arguments, row.bad
    before, drawn = state(concerned), generator_state()
    with pytest.raises(row.raises) as caught:
        function(**(arguments | row.bad))
    assert_says(str(caught.value), row)
    assert state(concerned) == before, "something was changed"
    assert row.may_draw or generator_state() == drawn, "random numbers were drawn"
    assert good((function, arguments)) == before_all, "a good call afterwards gives something else"


# ---- nothing is missing ----------------------------------------------------------------------------------------------
MODULES = (
    *("masks", "sequences", "ragged", "variable", "registry", "losses", "metrics", "optimizers", "schedules"),
    *("activations", "initializers", "regularizers", "constraints", "callbacks", "layers", "models", "testing", "cli"),
    *("datasets",),
)
BETWEEN_ROOMS = "between rooms of the package: what it is given was checked"
ABSTRACT = "abstract: it is tried in every class that has it"
# why no row calls a public callable, by its name, by that of its class and its own, or, for hooks, by its own alone
REASONS = {
    **dict.fromkeys(
        (
            *("zero_masked", "align_mask", "divisor_of", "share_of_weights", "value_of", "flat_arguments"),
            *("check_packed", "snake_case", "registered_name", "registered_class", "registered_function", "Kind"),
            *("Kind.get", "Kind.serialize", "Changes.note", "RowsGradient", "Packed", "Packed.arrays", "PackedDense"),
            *("Tape", "Conv1DTape.as_outputs", "Conv1DTape.flat", "Form.restore", "UserCell.address"),
            *("clear_masked", "is_finite_under", "square_sum"),
        ),
        BETWEEN_ROOMS,
    ),
    **dict.fromkeys(
        (
            *("Layer.backward", "LearningRateSchedule.__call__", "Initializer.__call__", "Regularizer.__call__"),
            *("Constraint.__call__", "Regularizer.gradient"),
        ),
        ABSTRACT,
    ),
    **dict.fromkeys(("Cell.backward", "BuiltInCell.backward", "StackedRNNCells.backward"), "RNN.backward is tried"),
    "Functional.from_config": "Model.from_config is tried",
    **dict.fromkeys(
        ("call", "build", "compute_mask", "compute_mask_shape", "compute_output_shape", "compute_output_spec"),
        "a hook of layers and losses: what calls it has checked the arguments",
    ),
    "check_input_shape": "a hook of the call of a layer: it is the check",
    **dict.fromkeys(("start_stream", "stream_call"), "a hook of Model.stream, which checks"),
    **dict.fromkeys(("targets", "step_values", "add"), "a hook of Metric.update_state, which checks"),
    **dict.fromkeys(("update", "rule", "begin_update"), "a hook of Optimizer.apply, which checks"),
    "gradient": "a hook of losses, which check",
    **dict.fromkeys(("set_model", "set_params", "value_in", "is_improvement"), "a hook of fit, which checks"),
}


def reason_to_skip(thing, name):
    """Why a public callable needs no row; None if it does."""
    *_, of, last = name.split(".")
    if isinstance(thing, type) and issubclass(thing, tuple):
        return "a tuple of results"
    if name.startswith("fastmask.cli."):
        return "argparse refuses what it does not know and ends the process: tests/test_demo.py"
    if not set(parameters(thing)) - {"args", "kwargs"}:
        return "takes no arguments"
    if last.startswith("on_"):
        return "a hook of fit, which checks"
    if f"{of}.{last}" in REASONS:
        return REASONS[f"{of}.{last}"]
    is_hook = last[0].islower() and of[:1].isupper() or of[:1] == "_"
    return REASONS.get(last) if is_hook or last[0].isupper() or name.count(".") < 4 else None


def test_every_public_callable_has_a_bad_call(capsys, request):
    ops = importlib.import_module("fastmask.ops")
    rooms = [f"ops.{m.name}" for m in pkgutil.iter_modules(ops.__path__) if not m.name.startswith("_")]
    found = public([fm, *(importlib.import_module(f"fastmask.{name}") for name in (*MODULES, *rooms))])
    tried = {key(calls.of) for calls in TABLE if calls.rows}
    reasons, missing = {}, []
    for name, thing in found.items():
        why = None if key(thing) in tried else reason_to_skip(thing, name)
        if why is not None:
            reasons.setdefault(why, []).append(name.removeprefix("fastmask."))
        elif key(thing) not in tried:
            missing.append(name)
    with capsys.disabled():
        print(f"\n{len(ROWS)} bad calls of {len(tried)} of {len(found)} public callables; without one:")
        for why, names in reasons.items():
            shown = names if request.config.getoption("--long") else names[:3]
            rest = f" and {len(names) - len(shown)} more (--long names them)" if len(names) > len(shown) else ""
            print(f"  {len(names)}: {why}: {', '.join(shown)}{rest}")
    assert missing == [], "\n".join(missing)
