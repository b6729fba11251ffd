"""The tests that every recurrent op must pass; test_lstm.py, test_gru.py and test_simple_rnn.py run them."""

import importlib
import inspect
import itertools
import re

import numpy as np
import pytest

from cases import (
    CELLS,
    DTYPES,
    EMPTY_SIZES,
    EVERY_SWITCH,
    MASKS,
    SIZES,
    Problem,
    assert_all_close,
    assert_same_bits,
    awkward,
    mask_named,
    named,
)
from fastmask.kernels.activation_names import NAMES
from fastmask.ragged import Ragged
from helpers import assert_close, assert_doctests, assert_gradient, mask_cases

# Eps of the largest value that outputs and states may be off by (gradients: 8 times that). Measured over everything in
# this file: outputs and states 11.3 eps; gradients 19 eps in float32, 54 in float64, where the reference rounds too.
K = 24
GARBAGE = [np.nan, np.inf, -np.inf, 1e38]


def says(argument, expected, received):
    """Pattern of an error message; `expected` is a pattern itself, `received` what is printed."""
    return f"^{argument}: expected {expected}, received {re.escape(str(received))}$"


class RecurrentTests:
    cell = None  # name in CELLS

    def problem(self, *args, **kwargs):
        return Problem(self.cell, *args, **kwargs)

    def check(self, problem, k=K, **options):
        """Forward and backward equal the float64 reference, inference equals training in every bit."""
        arguments = [problem.x, *problem.weights, *problem.states, problem.d_sequence, problem.d_last]
        before = [a.tobytes() for a in arguments]
        actual = problem.train(**options)
        assert_all_close(actual, problem.reference(**options), problem.dtype, k)
        options.pop("d_states", None)
        result = problem.infer(**options)
        assert_same_bits(result.outputs, actual["outputs"], "inference and training")
        assert_same_bits(result.states, tuple(actual[f"state {i}"] for i in range(problem.cell.states)))
        assert before == [a.tobytes() for a in arguments], "an argument was changed"
        return actual

    # ---- against the reference --------------------------------------------------------------------------------------
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", MASKS)
    def test_every_mask_and_switch(self, name, dtype):
        problem = self.problem(dtype=dtype)
        mask = mask_named(name, problem.B, problem.T)
        for switches, state in itertools.product(EVERY_SWITCH, (None, problem.states)):
            found = self.check(problem, mask=mask, initial_state=state, **switches)
            if mask is not None:
                assert not found["gradient of x"][~mask].any(), "gradient of x at masked steps"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", SIZES)
    def test_sizes(self, size, dtype):
        problem = self.problem(*size, dtype=dtype)
        masks = mask_cases(*size[:2], seed=1)
        for mask in (None, masks["right"], masks["holes"]):
            self.check(problem, mask=mask, initial_state=problem.states)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", EMPTY_SIZES)
    def test_no_rows_or_no_steps(self, size, dtype):
        problem = self.problem(*size, dtype=dtype)
        for mask, switches in itertools.product((None, np.ones(size[:2], bool)), EVERY_SWITCH):
            found = self.check(problem, mask=mask, initial_state=problem.states, **switches)
            assert_same_bits(found["state 0"], problem.states[0])
            assert not found["outputs"].any() and not found["gradient of kernel"].any()

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", NAMES)
    def test_activations(self, name, dtype):
        """A few steps in the range where nothing explodes, then one step over the whole range of the function."""
        explodes = name == "exponential"  # of exponentials of exponentials
        T = 1 if explodes else 3
        few = self.problem(3, T, dtype=dtype, scale=0.1 if explodes else 0.5)
        one = self.problem(9, 1, dtype=dtype, scale=0.1 if explodes else 2.0)
        mask = np.array([[True, True, True], [True, False, True], [False, False, True]])[:, :T]
        for problem, options in ((few, {"mask": mask}), (one, {})):
            for argument in problem.cell.activations:
                self.check(problem, initial_state=problem.states, **{argument: name}, **options)
            both = dict.fromkeys(problem.cell.activations, name)
            self.check(problem, initial_state=problem.states, **both, **options)

    def test_none_is_linear(self):
        problem = self.problem()
        none, linear = (dict.fromkeys(problem.cell.activations, name) for name in (None, "linear"))
        assert_same_bits(problem.train(**none), problem.train(**linear))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_without_bias(self, dtype):
        problem = self.problem(dtype=dtype)
        found = self.check(problem, use_bias=False, mask=mask_cases(5, 7)["holes"])
        assert found["gradient of bias"] is None
        zero = Problem(self.cell, dtype=dtype)
        zero.bias = np.zeros_like(zero.bias)
        assert_same_bits(found["outputs"], zero.infer(mask=mask_cases(5, 7)["holes"]).outputs)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_initial_states(self, dtype):
        problem = self.problem(dtype=dtype)
        one = tuple(s[:1] for s in problem.states)
        full = tuple(np.repeat(s, problem.B, axis=0) for s in one)
        options = {"mask": mask_cases(5, 7)["empty_rows"]}
        found = self.check(problem, initial_state=one, **options)
        assert_same_bits(found["outputs"], problem.infer(initial_state=full, **options).outputs)
        assert found["gradient of state 0"].shape == (1, problem.H)
        self.check(problem, initial_state=list(problem.states), **options)
        for given in itertools.product([False, True], repeat=len(problem.states)):
            states = tuple(s if yes else None for s, yes in zip(problem.states, given, strict=True))
            found = self.check(problem, initial_state=states, **options)
            for i, yes in enumerate(given):
                assert (found[f"gradient of state {i}"] is not None) == yes
        if len(problem.states) == 1:
            bare = problem.train(initial_state=problem.states[0], **options)
            assert_same_bits(bare, problem.train(initial_state=problem.states, **options))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_gradients_of_states_alone_and_absent(self, dtype):
        problem = self.problem(dtype=dtype)
        n = len(problem.states)
        for mask, given in itertools.product(("right", "holes"), itertools.product([False, True], repeat=n)):
            d_states = tuple(d if yes else None for d, yes in zip(problem.d_states, given, strict=True))
            options = {"mask": mask_cases(5, 7)[mask], "initial_state": problem.states}
            self.check(problem, d_states=d_states, **options)
            result, tape = problem.forward(**options)
            actual = named(result, problem.cell.backward(tape, None, d_states))
            zero = np.zeros_like(problem.d_sequence)
            assert_all_close(actual, problem.reference(d_outputs=zero, d_states=d_states, **options), dtype, K)
        result, tape = problem.forward()
        nothing = problem.cell.backward(tape, None)
        assert not any(g.any() for g in nothing[:4])

    @pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=2)))
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_ragged(self, dtype, values):
        """Rows one behind the other equal each row alone, with and without holes, in every order."""
        with_mask, with_state = values
        lengths = [7, 0, 3, 1, 0, 12, 5]
        problem = self.problem(len(lengths), sum(lengths), dtype=dtype)
        x = Ragged(problem.x[0], np.cumsum([0, *lengths]))
        mask = np.random.default_rng(3).random(len(x.values)) < 0.6 if with_mask else None
        if with_mask:
            mask[x.offsets[2] : x.offsets[3]] = False
        for switches in EVERY_SWITCH:
            sequences = switches["return_sequences"]
            d_outputs = problem.d_sequence[0] if sequences else problem.d_last
            rows = []
            for i in range(len(x)):
                steps, row = slice(x.offsets[i], x.offsets[i + 1]), slice(i, i + 1)
                rows.append(
                    problem.reference(
                        x=x[i][None],
                        mask=None if mask is None else mask[None, steps],
                        initial_state=tuple(s[row] for s in problem.states) if with_state else None,
                        d_outputs=d_outputs[None, steps] if sequences else d_outputs[row],
                        d_states=tuple(d[row] for d in problem.d_states),
                        **switches,
                    )
                )
            expected = {}
            for name in rows[0]:
                parts = [row[name] for row in rows]
                if parts[0] is None:
                    expected[name] = None
                elif name in ("gradient of kernel", "gradient of recurrent_kernel", "gradient of bias"):
                    expected[name] = sum(parts)
                else:
                    axis = 1 if parts[0].ndim == 3 else 0
                    joined = np.concatenate(parts, axis=axis)
                    expected[name] = joined[0] if axis else joined
            options = {"mask": mask, "initial_state": problem.states if with_state else None, **switches}
            d = x.with_values(d_outputs) if sequences else d_outputs
            assert_all_close(problem.train(x=x, d_outputs=d, **options), expected, dtype, K)
            outputs = problem.infer(x=x, **options).outputs
            assert type(outputs) is (Ragged if sequences else np.ndarray)
            if sequences:
                np.testing.assert_array_equal(outputs.offsets, x.offsets)

    @pytest.mark.parametrize("lengths", [[], [0], [0, 0], [3]])
    def test_ragged_without_steps(self, lengths):
        problem = self.problem(len(lengths), 3)
        x = Ragged(np.zeros((sum(lengths), problem.F)), np.cumsum([0, *lengths]))
        result, tape = problem.forward(x=x, initial_state=problem.states)
        gradients = problem.cell.backward(tape, result.outputs, problem.d_states)
        assert result.outputs.values.shape == (sum(lengths), problem.H)
        assert gradients.x.values.shape == x.values.shape and gradients.kernel.shape == problem.kernel.shape
        if not sum(lengths):
            assert_same_bits(result.states, problem.states)
            assert_same_bits(gradients.initial_state, problem.d_states)

    def test_gradient_of_x_not_asked_for(self):
        problem = self.problem()
        for x in (problem.x, Ragged(problem.x[0], [0, 3, 3, 4, 6, 7])):
            d = problem.d_sequence if x is problem.x else x.with_values(problem.d_sequence[0])
            whole, part = (problem.train(x=x, d_outputs=d, need_x=need_x) for need_x in (True, False))
            assert part.pop("gradient of x") is None and whole.pop("gradient of x") is not None
            assert_same_bits(part, whole)

    @pytest.mark.parametrize("size", [(64, 400, 16, 32), (8, 200, 64, 128), (4, 400, 3, 33)])
    def test_float32_at_400_steps(self, size):
        """The promised accuracy on rows of 20 to 400 valid steps, for the gradient of a mean over rows."""
        problem = self.problem(*size, dtype=np.float32)
        B, T = size[:2]
        mask = np.arange(T) < np.linspace(T, T // 20, B)[:, None]
        options = {"mask": mask, "initial_state": problem.states}
        options["d_outputs"] = problem.d_sequence / np.float32(B)
        options["d_states"] = tuple(d / np.float32(B) for d in problem.d_states)
        actual, desired = problem.train(**options), problem.reference(**options)
        for name, a in actual.items():
            error = np.abs(a - desired[name]) / np.maximum(1.0, np.abs(desired[name]))
            bound = 5e-5 if name.startswith("gradient") else 5e-6
            assert error.max() <= bound, f"{name}: {error.max():.3g}"

    # ---- gradients by differences -----------------------------------------------------------------------------------
    def check_differences(self, problem, **options):
        """Every gradient of sum(outputs R) + sum(states R_i), for random R, against order-4 differences of the op."""
        d_outputs = problem.d_outputs(options)

        def value():
            result = problem.infer(**options)
            total = np.sum(result.outputs * d_outputs)
            return total + sum(np.sum(s * d) for s, d in zip(result.states, problem.d_states, strict=True))

        found = problem.train(**options)
        for name, a in {"x": problem.x, "kernel": problem.kernel, "recurrent_kernel": problem.recurrent_kernel}.items():
            assert_gradient(value, a, found[f"gradient of {name}"])
        if options.get("use_bias", True):
            assert_gradient(value, problem.bias, found["gradient of bias"])
        if options.get("initial_state") is not None:
            for i, state in enumerate(problem.states):
                assert_gradient(value, state, found[f"gradient of state {i}"])

    @pytest.mark.parametrize("name", MASKS)
    def test_differences_under_every_mask(self, name):
        problem = self.problem(3, 4, 2, 3)
        self.check_differences(problem, mask=mask_named(name, 3, 4), initial_state=problem.states)

    @pytest.mark.parametrize("number", range(16))
    def test_differences_under_every_switch(self, number):
        mask = np.array([[False, True, False, True, False], [True, True, True, False, False], [False] * 5])
        problem = self.problem(3, 5, 2, 3)
        self.check_differences(problem, mask=mask, initial_state=problem.states, **EVERY_SWITCH[number])

    @pytest.mark.parametrize("names", [(None, None), ("gelu", "hard_sigmoid"), ("silu", "softsign"), ("mish", "tanh")])
    def test_differences_with_other_activations(self, names):
        problem = self.problem(3, 3, 2, 3, scale=0.5, seed=4)
        options = dict(zip(problem.cell.activations, names, strict=False))
        self.check_differences(problem, mask=mask_cases(3, 3)["holes"], use_bias=False, **options)

    # ---- the mask rules ---------------------------------------------------------------------------------------------
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", mask_cases(1, 1))
    def test_garbage_under_a_mask_changes_no_bit(self, name, dtype):
        problem = self.problem(dtype=dtype)
        mask = mask_cases(5, 7)[name]
        for switches in EVERY_SWITCH:
            options = {"mask": mask, "initial_state": problem.states, **switches}
            clean = problem.train(**options)
            for garbage in GARBAGE:
                dirty = np.where(mask[..., None], problem.x, dtype(garbage))
                assert_same_bits(problem.train(x=dirty, **options), clean, f"{garbage} {switches}")
                assert_same_bits(problem.infer(x=dirty, **options).outputs, clean["outputs"], f"{garbage} {switches}")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_gradients_that_arrive_nowhere(self, dtype):
        """What arrives at constant outputs, zeroed ones or those before the first valid step, is not even read."""
        problem = self.problem(dtype=dtype)
        for name, mask in mask_cases(5, 7).items():
            for switches in EVERY_SWITCH:
                if not switches["return_sequences"]:
                    continue
                order = slice(None, None, -1 if switches["go_backwards"] else 1)
                ours = mask[:, order]  # in the order of the steps
                constant = ~ours if switches["zero_output_for_mask"] else ~np.logical_or.accumulate(ours, axis=1)
                if switches["restore_order"]:
                    constant = constant[:, order]
                dirty = np.where(constant[..., None], dtype(np.nan), problem.d_sequence)
                options = {"mask": mask, **switches}
                message = f"{name} {switches}"
                assert_same_bits(problem.train(d_outputs=dirty, **options), problem.train(**options), message)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_an_empty_row_passes_its_state_on(self, dtype):
        problem = self.problem(dtype=dtype)
        mask = mask_cases(5, 7)["holes"]
        mask[2] = False
        states = tuple(s.copy() for s in problem.states)
        states[0][2] = np.nan
        found = problem.train(mask=mask, initial_state=states)
        clean = problem.train(mask=mask, initial_state=problem.states)
        assert np.isnan(found.pop("state 0")[2]).all() and clean.pop("state 0") is not None
        assert_same_bits(found, clean, "a NaN in the state of an empty row")
        assert not found["outputs"][2].any()
        assert_same_bits(found["gradient of state 0"][2], problem.d_states[0][2])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_in_valid_data_stays_in_its_row(self, bad, dtype):
        problem = self.problem(9, dtype=dtype)
        mask = mask_cases(9, 7)["none"]
        mask[4, 2:4] = False
        options = {"mask": mask, "initial_state": problem.states}
        clean = problem.train(**options)
        dirty_x = problem.x.copy()
        dirty_x[4, 4, 1] = bad
        dirty = problem.train(x=dirty_x, **options)
        others = np.arange(9) != 4
        for name in clean:
            if name.removeprefix("gradient of ") not in ("kernel", "recurrent_kernel", "bias"):
                assert_same_bits(dirty[name][others], clean[name][others], name)
        assert_same_bits(dirty["outputs"][4, :4], clean["outputs"][4, :4])
        if np.isnan(bad):
            assert np.isnan(dirty["outputs"][4, 4:]).all() and np.isnan(dirty["state 0"][4]).all()
            assert np.isnan(dirty["gradient of kernel"]).any()
        np.testing.assert_array_equal(np.isnan(problem.infer(x=dirty_x, **options).outputs), np.isnan(dirty["outputs"]))

    def test_lanes_behind_the_last_unit(self):
        """A vector's unused lanes must not reach a result, even where they explode: at 0 the exponential is not 0."""
        problem = self.problem(2, 120, 1, 5, dtype=np.float32, scale=0.1)
        problem.bias[...] = -3.0
        names = dict.fromkeys(problem.cell.activations, "exponential")
        actual, desired = problem.train(**names), problem.reference(**names)
        assert all(np.isfinite(d).all() for d in desired.values() if d is not None)
        assert_all_close(actual, desired, np.float32, 64)

    def test_metamorphic(self):
        problem, mask = self.problem(), mask_cases(5, 7)["holes"]
        options = {"initial_state": problem.states}
        assert_same_bits(problem.train(mask=np.ones((5, 7), bool), **options), problem.train(**options), "all True")
        # backwards is forwards on reversed time; restore_order lays the outputs back
        backwards = problem.infer(mask=mask, go_backwards=True, **options)
        forwards = problem.infer(x=problem.x[:, ::-1], mask=mask[:, ::-1], **options)
        restored = problem.infer(mask=mask, go_backwards=True, restore_order=True, **options)
        assert_same_bits(backwards.outputs, forwards.outputs)
        assert_same_bits(restored.outputs, np.ascontiguousarray(backwards.outputs[:, ::-1]))
        # the last output is the last of the held outputs; zeroed outputs are the held ones at valid steps
        held = problem.infer(mask=mask, **options).outputs
        assert_same_bits(problem.infer(mask=mask, return_sequences=False, **options).outputs, held[:, -1].copy())
        zeroed = problem.infer(mask=mask, zero_output_for_mask=True, **options).outputs
        assert_same_bits(zeroed, np.where(mask[..., None], held, 0.0))

    # ---- arguments --------------------------------------------------------------------------------------------------
    def test_kinds_of_masks(self):
        problem, mask = self.problem(), mask_cases(5, 7)["holes"]
        expected = problem.train(mask=mask)
        kinds = {
            "list": mask.tolist(),
            "int": mask.astype(int),
            "uint8": mask.astype(np.uint8) * 255,
            "float": mask * 0.3,
            "nan": np.where(mask, np.nan, 0),
            "(B,T,1)": mask[..., None],
            "strided": awkward(mask),
            "fortran": np.asfortranarray(mask),
        }
        for kind, other in kinds.items():
            assert_same_bits(problem.train(mask=other), expected, kind)
        one = mask[3:4]
        for x, shared, rows in (
            (problem.x, one, np.repeat(one, 5, axis=0)),
            (problem.x[:1], one, one),
        ):
            assert_same_bits(problem.infer(x=x, mask=shared), problem.infer(x=x, mask=rows), "(1,T)")
        x = Ragged(problem.x[0], [0, 3, 3, 4, 6, 7])
        steps = mask[1]
        for kind, other in {"list": steps.tolist(), "int": steps.astype(int), "Ragged": x.with_values(steps)}.items():
            assert_same_bits(problem.infer(x=x, mask=other), problem.infer(x=x, mask=steps), kind)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_strided_and_read_only_arguments(self, dtype):
        problem, other = self.problem(dtype=dtype), self.problem(dtype=dtype)
        for name in ("x", "kernel", "recurrent_kernel", "bias", "d_sequence"):
            setattr(other, name, awkward(getattr(problem, name)))
        other.d_states = tuple(map(awkward, problem.d_states))
        mask = mask_cases(5, 7)["holes"]
        reversed_x = problem.x[:, ::-1]
        for x, y in ((None, None), (np.asfortranarray(problem.x), None), (reversed_x, reversed_x.copy())):
            expected = problem.train(x=y, mask=mask, initial_state=problem.states)
            assert_same_bits(other.train(x=x, mask=mask, initial_state=tuple(map(awkward, problem.states))), expected)

    def test_lists_are_arrays(self):
        problem = self.problem(2, 3, 2, 2)
        weights = [a.tolist() for a in problem.weights]
        result = problem.cell.infer(problem.x.tolist(), *weights, **problem.cell.variant)
        assert_same_bits(result, problem.infer())

    def test_tape_keeps_what_it_needs(self):
        """x, mask, weights and states may change between forward and backward."""
        problem, mask = self.problem(), mask_cases(5, 7)["holes"]
        expected = problem.train(mask=mask, initial_state=problem.states)
        result, tape = problem.forward(mask=mask, initial_state=problem.states)
        for a in (problem.x, *problem.weights, *problem.states, mask):
            a[...] = 0
        assert_same_bits(named(result, problem.cell.backward(tape, problem.d_sequence, problem.d_states)), expected)

    def test_tapes_do_not_meddle(self):
        """Memory of finished tapes is used again; results that were handed out and other tapes are not touched."""
        problems = [self.problem(20, 50, 4, 70, seed=seed) for seed in range(4)]
        expected = [p.train(initial_state=p.states) for p in problems]
        kept = [{name: a.copy() for name, a in e.items()} for e in expected]
        tapes = [p.forward(initial_state=p.states) for p in problems]
        for i in (2, 0, 3, 1):
            p, (result, tape) = problems[i], tapes[i]
            assert_same_bits(named(result, p.cell.backward(tape, p.d_sequence, p.d_states)), expected[i])
        assert_same_bits(expected, kept)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_packed_weights(self, dtype):
        problem = self.problem(dtype=dtype)
        cell = problem.cell
        packed = cell.pack(*problem.weights, **cell.variant)
        mask = mask_cases(5, 7)["holes"]
        for _ in range(2):  # a pack is used again and again
            for options in ({}, {"mask": mask, "initial_state": problem.states, "go_backwards": True}):
                assert_same_bits(problem.train(packed=packed, **options), problem.train(**options))
                assert_same_bits(problem.infer(packed=packed, **options), problem.infer(**options))
            x = Ragged(problem.x[0], [0, 3, 3, 4, 6, 7])
            assert_same_bits(problem.infer(x=x, packed=packed), problem.infer(x=x))
        other = np.float64 if dtype == np.float32 else np.float32
        with pytest.raises(ValueError, match="packed: expected .* F = 4"):
            problem.infer(x=np.zeros((1, 1, 4), dtype), packed=packed)
        with pytest.raises(ValueError, match=f"packed: expected .*{other.__name__}"):
            problem.infer(x=problem.x.astype(other), packed=packed)
        for name, wrong in CELLS.items():
            if name != self.cell:
                theirs = Problem(name, dtype=dtype)
                with pytest.raises(ValueError, match=f"packed: expected {cell.stem} weights"):
                    problem.infer(packed=wrong.pack(*theirs.weights, **wrong.variant))

    def test_packed_call_after_call(self):
        """A pack may remember how it was called: every other shape, mask, state, switch and memory must be seen."""
        problem = self.problem()
        packed = problem.cell.pack(*problem.weights, **problem.cell.variant)
        rng = np.random.default_rng(5)
        for _ in range(400):
            B, T = [(0, 3), (1, 1), (4, 7), (5, 7), (5, 7)][rng.integers(5)]
            options = {"mask": [None, rng.random((B, T)) < 0.5, rng.random((1, T)) < 0.5][rng.integers(3)]}
            states = tuple(rng.standard_normal((B, problem.H)) for _ in problem.states)
            options["initial_state"] = [None, states, (None,) * len(states)][rng.integers(3)]
            options["return_sequences"] = bool(rng.integers(2))
            if rng.integers(8) == 0:
                options["activation"] = "relu"
            else:
                options["go_backwards"] = options["restore_order"] = bool(rng.integers(2))
            x = rng.standard_normal((B, T, problem.F))
            x = x if rng.integers(4) else awkward(x)
            found = problem.infer(x=x, packed=packed, **options)
            assert_same_bits(found, problem.infer(x=x, **options), str(options))

    # ---- bad arguments ----------------------------------------------------------------------------------------------
    def bad_arguments(self):
        """(change of the arguments, error, message) of one problem with B, T, F, H = 3, 4, 2, 5."""
        problem = self.problem(3, 4, 2, 5)
        G, H, n = problem.cell.gates, 5, problem.cell.states
        kernel, recurrent, bias = problem.weights
        ragged, state = Ragged(problem.x[0], [0, 3, 4]), np.zeros((3, H))
        floats = "dtype float32 or float64"

        for wrong in (np.zeros((3, 4)), np.zeros((3, 4, 2, 1)), np.float64(3)):
            yield {"x": wrong}, ValueError, says("x", r"shape \(B,T,F\)", wrong.shape)
        flat = Ragged(np.zeros(4), [0, 4])
        yield {"x": flat}, ValueError, says("x", r"Ragged values of shape \(N,F\)", (4,))
        for dtype in (int, bool, np.float16, complex, object):
            yield {"x": np.zeros((3, 4, 2), dtype)}, TypeError, says("x", floats, np.dtype(dtype))
        yield {"x": [[["a", "b"]]]}, TypeError, says("x", floats, "<U1")
        yield {"x": None}, TypeError, says("x", floats, "object")
        yield {"x": ragged.with_values(np.zeros((4, 2), int))}, TypeError, says("x", floats, "int64")

        columns = G * H
        wide = rf"shape \(F,{G}\*H\) = \(3, {columns}\)"
        yield {"x": np.zeros((3, 4, 3))}, ValueError, says("kernel", wide, kernel.shape)
        yield {"x": np.zeros((3, 4, 2), np.float32)}, TypeError, says("kernel", "dtype float32 as x", "float64")
        for wrong in (kernel[:, :-1], kernel[:1], kernel[0], kernel[None]):
            yield {"kernel": wrong}, ValueError, says("kernel", rf"shape .* = \(2, {columns}\)", wrong.shape)
        for wrong in (recurrent[:, :-1], recurrent[:-1], recurrent[0], recurrent[:0, :0], recurrent[None]):
            expected = rf"shape \(H,{G}\*H\) with H >= 1|shape .*"
            yield {"recurrent_kernel": wrong}, ValueError, says("recurrent_kernel", f"({expected})", wrong.shape)
        for wrong in (bias[..., :-1], bias[None], bias.ravel()[:1], np.zeros(())):
            expected = f"shape .* = {re.escape(str(bias.shape))}"
            yield {"bias": wrong}, ValueError, says("bias", expected, wrong.shape)
        for name, weights in {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias}.items():
            for dtype in (np.float32, int, object):
                yield {name: weights.astype(dtype)}, TypeError, says(name, "dtype .*", np.dtype(dtype))

        for shape in ((3, 5), (2, 4), (4, 3), (4,), (3, 4, 2), (), (3, 1)):
            yield {"mask": np.ones(shape)}, ValueError, says("mask", r"shape \(B,T\) = \(3,4\)", shape)
        yield {"mask": np.ones((3, 4), object)}, TypeError, says("mask", "numbers", "dtype object")
        yield {"mask": "yes"}, TypeError, says("mask", "numbers", "dtype <U3")
        for shape in ((5,), (2, 3)):
            yield {"x": ragged, "mask": np.ones(shape)}, ValueError, says("mask", r"shape \(4,\)", shape)

        for wrong in (state[:2], state[:, :-1], state[0], state[None]):
            expected = says("initial_state", r"shape \(B,H\) = \(3, 5\)", wrong.shape)
            yield {"initial_state": (wrong,) * n}, ValueError, expected
        number = rf"{n} array\(s\) in a tuple or list"
        for wrong, received in (((state,) * (n + 1), n + 1), ((), 0), (3, "int")):
            yield {"initial_state": wrong}, ValueError, says("initial_state", number, received)
        for dtype in (np.float32, object):
            expected = says("initial_state", "dtype .*", np.dtype(dtype))
            yield {"initial_state": (state.astype(dtype),) * n}, TypeError, expected

        for argument in problem.cell.activations:
            for wrong in ("tanhh", "softmax", "", 3, np.tanh, ["tanh"]):
                yield {argument: wrong}, ValueError, says(argument, "one of linear, tanh, .*", repr(wrong))

    def test_bad_arguments(self):
        problem = self.problem(3, 4, 2, 5)
        kernel, recurrent, bias = problem.weights
        for change, error, message in self.bad_arguments():
            arguments = {"x": problem.x, "kernel": kernel, "recurrent_kernel": recurrent, "bias": bias, **change}
            for op in (problem.cell.infer, problem.cell.forward):
                with pytest.raises(error, match=message):
                    op(**arguments, **problem.cell.variant)

    def test_unknown_option(self):
        with pytest.raises(TypeError, match="unexpected keyword argument 'units'"):
            self.problem().infer(units=3)

    def test_bad_gradients_leave_the_tape_whole(self):
        problem = self.problem(3, 4, 2, 5)
        cell, n = problem.cell, problem.cell.states
        expected = problem.train()
        result, tape = problem.forward()
        d, d_states = problem.d_sequence, problem.d_states
        for wrong in (problem.d_last, d[:, :-1], d[None]):
            with pytest.raises(ValueError, match=says("d_outputs", r"shape \(B,T,H\) = \(3, 4, 5\)", wrong.shape)):
                cell.backward(tape, wrong)
        for dtype in (np.float32, object):
            with pytest.raises(TypeError, match=says("d_outputs", "dtype .*", np.dtype(dtype))):
                cell.backward(tape, d.astype(dtype))
            with pytest.raises(TypeError, match=says("d_states", "dtype .*", np.dtype(dtype))):
                cell.backward(tape, d, (d_states[0].astype(dtype),) * n)
        for wrong in (d_states[0][:2], d_states[0][None]):
            with pytest.raises(ValueError, match=says("d_states", r"shape \(B,H\) = \(3, 5\)", wrong.shape)):
                cell.backward(tape, d, (wrong,) * n)
        for wrong, received in (((d_states[0],) * (n + 1), n + 1), ((), 0), (3, "int")):
            with pytest.raises(ValueError, match=says("d_states", rf"{n} array\(s\) .*", received)):
                cell.backward(tape, d, wrong)
        assert_same_bits(named(result, cell.backward(tape, d, d_states)), expected)
        with pytest.raises(ValueError, match=says("tape", ".* not used yet .*", "a used one")):
            cell.backward(tape, d, d_states)

    def test_bad_gradients_of_ragged_and_of_last_outputs(self):
        problem = self.problem(3, 4, 2, 5)
        x, d = Ragged(problem.x[0], [0, 1, 1, 4]), problem.d_sequence[0]
        _, tape = problem.forward(x=x)
        with pytest.raises(TypeError, match=says("d_outputs", "Ragged as the outputs", "ndarray")):
            problem.cell.backward(tape, d)
        with pytest.raises(ValueError, match=says("d_outputs", "the offsets of the outputs", "others")):
            problem.cell.backward(tape, Ragged(d, [0, 2, 2, 4]))
        with pytest.raises(ValueError, match=says("d_outputs", r"shape .* = \(4, 5\)", (4, 4))):
            problem.cell.backward(tape, x.with_values(d[:, :4].copy()))
        problem.cell.backward(tape, x.with_values(d))
        _, tape = problem.forward(return_sequences=False)
        with pytest.raises(ValueError, match=says("d_outputs", r"shape \(B,H\) = \(3, 5\)", (3, 4, 5))):
            problem.cell.backward(tape, problem.d_sequence)
        problem.cell.backward(tape, problem.d_last)

    def test_tapes_of_others(self):
        problem = self.problem()
        for name, cell in CELLS.items():
            if cell.stem != problem.cell.stem:
                _, tape = Problem(name).forward()
                with pytest.raises(TypeError, match=f"^tape: expected the tape of {problem.cell.stem}_forward"):
                    problem.cell.backward(tape, problem.d_sequence)
        for other in (None, problem.infer(), 3):
            with pytest.raises(TypeError, match=says("tape", ".*", type(other).__name__)):
                problem.cell.backward(other, problem.d_sequence)

    # ---- documentation ----------------------------------------------------------------------------------------------
    def test_examples_and_documented_arguments(self):
        stem = CELLS[self.cell].stem
        module = importlib.import_module(f"fastmask.ops.{stem}")
        assert_doctests(module)
        for op in (getattr(module, stem), getattr(module, f"{stem}_backward")):
            section = re.search(r"Parameters\n-+\n(.*?)\n\nReturns", inspect.getdoc(op), re.DOTALL)[1]
            lines = re.findall(r"^(\w[\w, ]*) :", section, re.MULTILINE)
            documented = [name for line in lines for name in line.split(", ")]
            assert documented == list(inspect.signature(op).parameters)
        infer, train = (list(inspect.signature(getattr(module, stem + end)).parameters) for end in ("", "_forward"))
        assert train == [*infer, "input_factors", "recurrent_factors"]  # dropout is for training


def assert_one_linear_step(cell, kernel, recurrent, h0, x, expected):
    """One step of a linear cell, by hand."""
    options = dict.fromkeys(CELLS[cell].activations)
    result = CELLS[cell].infer(x, kernel, recurrent, initial_state=h0, **options, **CELLS[cell].variant)
    assert_close(result.outputs, expected)
