"""Random cases of ops and losses: against the references, to the bit in every arrangement, gradients by differences.

The short form is the same at every run. `pytest --long tests/test_properties.py tests/test_properties_of_models.py`
takes more than 20 000 new cases; what it finds becomes a test with a name, here or in the file of what was wrong.
"""

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install fastmask[test]")

from hypothesis import assume, given
from hypothesis import strategies as st

import strategies as some
import test_attention
import test_convolution
import test_gemm
import test_normalization as normalization_tests
import test_pool
from cases import DTYPES, Problem, assert_all_close, assert_same_bits, launched
from fastmask.kernels.activation_names import NAMES
from fastmask.ops import loss as loss_ops
from fastmask.ops.activation import activation_backward, activation_forward, softmax_backward, softmax_forward
from fastmask.ops.attention import attention
from fastmask.ops.convolution import conv1d
from fastmask.ragged import Ragged
from fastmask.reference import activation as activation_reference
from fastmask.reference import loss as loss_reference
from fastmask.reference import normalization as normalization_reference
from helpers import assert_close, assert_derivative
from test_loss import CASES as LOSSES
from test_loss import data as loss_data

K = 64  # eps of an array's largest value that a result may be off by


# ---- recurrent ops ---------------------------------------------------------------------------------------------------
class Recurrent:
    """A drawn problem, whose outputs and gradients are looked at where they belong to a valid step."""

    def __init__(self, cell, size, options, dtype, seed):
        self.options = {name: o for name, o in options.items() if name not in ("mask", "use_bias")}
        scale = 0.1 if "exponential" in self.options.values() else 0.7
        self.problem = Problem(cell, *size, dtype, seed=seed, scale=scale)
        self.B, self.T = size[:2]
        self.mask = np.ones((self.B, self.T), bool) if options["mask"] is None else options["mask"]
        self.use_bias = options["use_bias"]
        reverses = options["go_backwards"] and not options["restore_order"]
        self.order = slice(None, None, -1 if reverses else 1)  # of the outputs' steps
        self.shape = (self.B, self.T, self.problem.H)

    def train(self, x, mask, d_outputs, states=None, d_states=None):
        return self.problem.train(
            x=x, mask=mask, d_outputs=d_outputs, initial_state=self.problem.states if states is None else states,
            d_states=self.problem.d_states if d_states is None else d_states, use_bias=self.use_bias, **self.options,
        )  # fmt: skip

    def d_outputs(self, mask, d_steps):
        """The gradient of the outputs that gives each valid step its own, and nothing to the others."""
        if not self.options["return_sequences"]:
            return self.problem.d_last
        d = np.zeros((*mask.shape, self.problem.H), self.problem.dtype)
        d[mask[:, self.order]] = d_steps
        return d

    def valid(self, found, mask):
        """What belongs to valid steps, and what belongs to no step."""
        found = dict(found)
        if self.options["return_sequences"]:
            found["outputs"] = found["outputs"][mask[:, self.order]]
        found["gradient of x"] = found["gradient of x"][mask]
        return found


@given(some.recurrent(), some.dtypes, some.seeds, some.launch_paths(), st.data())
def test_recurrent_ops_in_every_arrangement(case, dtype, seed, launch, data):
    """Padded on either side (with NaN), Ragged, rows in another order and alone, on threads: the same bits."""
    r = Recurrent(*case, dtype, seed)
    problem, mask, H = r.problem, r.mask, r.problem.H
    rng = np.random.default_rng(seed)
    d_steps = rng.standard_normal((np.count_nonzero(mask), H)).astype(dtype)
    whole = r.train(problem.x, mask, r.d_outputs(mask, d_steps))
    expected = r.valid(whole, mask)
    assert not whole["gradient of x"][~mask].any()

    result = problem.infer(mask=mask, initial_state=problem.states, use_bias=r.use_bias, **r.options)
    assert_same_bits(result.outputs, whole["outputs"], "inference")
    with launched(*launch):
        assert_same_bits(r.train(problem.x, mask, r.d_outputs(mask, d_steps)), whole, f"{launch}")

    before, behind = data.draw(st.integers(0, 3), "before"), data.draw(st.integers(0, 3), "behind")
    steps = slice(before, before + r.T)
    padded = np.full((r.B, before + r.T + behind, problem.F), np.nan, dtype)
    padded[:, steps] = problem.x
    more = np.zeros(padded.shape[:2], bool)
    more[:, steps] = mask
    assert_same_bits(r.valid(r.train(padded, more, r.d_outputs(more, d_steps)), more), expected, "padded")

    ragged = Ragged.from_padded(problem.x, mask)
    d_ragged = ragged.with_values(d_steps) if r.options["return_sequences"] else problem.d_last
    assert_same_bits(r.train(ragged, None, d_ragged), expected, "Ragged")

    order = rng.permutation(r.B)
    rows = [order] + ([np.array([data.draw(st.integers(0, r.B - 1), "row")])] if r.B else [])
    for chosen in rows:
        d = r.d_outputs(mask, d_steps)[chosen]
        states, d_states = (tuple(s[chosen] for s in a) for a in (problem.states, problem.d_states))
        found = r.train(problem.x[chosen], mask[chosen], d, states, d_states)
        for name, a in found.items():
            if name in ("outputs", "gradient of x") or "state" in name:
                assert_same_bits(a, whole[name][chosen], f"rows {chosen}: {name}")


@given(some.recurrent(), some.dtypes, some.seeds)
def test_recurrent_ops_against_the_reference(case, dtype, seed):
    r = Recurrent(*case, dtype, seed)
    options = {**r.options, "initial_state": r.problem.states, "use_bias": r.use_bias, "mask": case[2]["mask"]}
    found, expected = r.problem.train(**options), r.problem.reference(**options)
    # What explodes carries its roundings along; and where float32 rounds across a kink the slope is another.
    assume(all(np.abs(a).max(initial=0) < 100 for a in expected.values() if a is not None))
    names = [r.options.get(argument) for argument in r.problem.cell.activations]
    if dtype == np.float32 and any(n not in (None, "linear", *some.SMOOTH) for n in names):
        assume("hard_shrink" not in names)  # whose value jumps
        found, expected = ({n: a for n, a in d.items() if "gradient" not in n} for d in (found, expected))
    assert_all_close(found, expected, dtype, K)


@given(some.recurrent(steps=5, smooth=True), some.seeds)
def test_gradients_of_recurrent_ops(case, seed):
    r = Recurrent(*case, np.float64, seed)
    problem, mask = r.problem, case[2]["mask"]
    options = {**r.options, "initial_state": problem.states, "use_bias": r.use_bias, "mask": mask}
    found, d_outputs = problem.train(**options), problem.d_outputs(r.options)

    def value():
        result = problem.infer(**options)
        states = zip(result.states, problem.d_states, strict=True)
        return np.sum(result.outputs * d_outputs) + sum(np.sum(s * d) for s, d in states)

    arrays = {"x": problem.x, "kernel": problem.kernel, "recurrent_kernel": problem.recurrent_kernel}
    arrays |= {f"state {i}": s for i, s in enumerate(problem.states)}
    if r.use_bias:
        arrays["bias"] = problem.bias
    gradients = [found[f"gradient of {name}"] for name in arrays]
    assert_derivative(value, list(arrays.values()), gradients, seed)


# ---- other ops -------------------------------------------------------------------------------------------------------
def assert_near(found, expected, dtype, condition=1.0):
    """Dicts or tuples of arrays, each within K eps of its largest value; more where small changes of what went in
    change it `condition` times as much.
    """
    pairs = (
        zip(found.values(), expected.values(), strict=True)
        if isinstance(found, dict)
        else zip(found, expected, strict=True)
    )
    for a, d in pairs:
        largest = float(np.abs(d).max(initial=1.0))
        assert_close(a, d, dtype, k=0, atol=K * float(np.finfo(dtype).eps) * largest * condition)


def smooth_or(dtype):
    """Activations: in float32 none with a kink, where the reference may stand on the other side."""
    return st.sampled_from([None, "softmax", "log_softmax", *(NAMES if dtype == np.float64 else some.SMOOTH)])


@given(st.data(), some.dtypes, some.launch_paths())
def test_dense(data, dtype, launch):
    shape = tuple(data.draw(st.lists(st.integers(0, 9), max_size=3), "shape"))
    F, columns, seed = (data.draw(s) for s in (some.units, some.units, some.seeds))
    options = {"activation": data.draw(smooth_or(dtype)), "use_bias": data.draw(st.booleans())}
    problem = test_gemm.Problem(shape, F, columns, dtype, seed)
    found = problem.train(**options)
    expected = problem.reference(**options)
    assert (found.pop("bias") is None) == (expected.pop("bias") is None)
    assert_near(found, expected, dtype)
    with launched(*launch):
        again = problem.train(**options)
        again.pop("bias")
        assert_same_bits(again, found)
    rows = problem.x.reshape(-1, F)
    if len(rows):
        i = data.draw(st.integers(0, len(rows) - 1), "row")
        y = test_gemm.dense(
            rows[i], problem.kernel, problem.bias if options["use_bias"] else None, activation=options["activation"]
        )
        assert_same_bits(y, found["y"].reshape(-1, columns)[i], "a row alone")


@given(st.data(), some.dtypes)
def test_activations(data, dtype):
    name, n, seed = data.draw(smooth_or(dtype).filter(bool)), data.draw(some.units), data.draw(some.seeds)
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((3, n)) * data.draw(st.sampled_from([1e-6, 1.0, 10.0]))).astype(dtype)
    dy = rng.standard_normal((3, n)).astype(dtype)
    y = activation_forward(x, name)
    found = y, activation_backward(x, y, dy, name)
    exact, dy = x.astype(np.float64), dy.astype(np.float64)
    y = activation_reference.activation_forward(exact, name)
    assert_near(found, (y, activation_reference.activation_backward(exact, y, dy, name)), dtype)


@given(st.data(), some.dtypes, some.launch_paths())
def test_softmax_over_time(data, dtype, launch):
    B, T, F, seed = (
        data.draw(st.integers(0, 5)),
        data.draw(st.integers(0, 40)),
        data.draw(some.few),
        data.draw(some.seeds),
    )
    mask, rng = data.draw(some.masks(B, T)), np.random.default_rng(seed)
    x, dy = (5 * rng.standard_normal((B, T, F))).astype(dtype), rng.standard_normal((B, T, F)).astype(dtype)
    y = softmax_forward(x, 1, mask)
    dx = softmax_backward(y, dy, 1, mask)
    expected = activation_reference.softmax_forward(x.astype(np.float64), 1, mask)
    assert_near(
        (y, dx), (expected, activation_reference.softmax_backward(expected, dy.astype(np.float64), 1, mask)), dtype
    )
    valid = np.ones((B, T), bool) if mask is None else mask
    ragged = softmax_forward(Ragged.from_padded(x, valid), 1)
    assert_same_bits(ragged.values, y[valid], "Ragged")
    with launched(*launch):
        assert_same_bits([softmax_forward(x, 1, mask), softmax_backward(y, dy, 1, mask)], [y, dx])


@given(st.data(), some.dtypes, some.launch_paths())
def test_attention_op(data, dtype, launch):
    B, Tq, Tv = (data.draw(st.integers(0, most)) for most in (4, 20, 20))
    size = B, Tq, Tv, data.draw(some.units), data.draw(some.units)
    problem = test_attention.Problem(
        size,
        data.draw(st.sampled_from([*test_attention.SCORES])),
        data.draw(st.booleans()),
        dtype,
        data.draw(some.seeds),
    )
    problem.query /= dtype(np.sqrt(size[3]))  # scores near 1, whatever D
    if problem.weight is not None:
        problem.weight /= dtype(np.sqrt(size[3]))
    masks = {"query_mask": data.draw(some.masks(B, Tq)), "value_mask": data.draw(some.masks(B, Tv))}
    options = {**masks, "causal": data.draw(st.booleans())}
    found = problem.check(**options)
    with launched(*launch):
        assert_same_bits(problem.train(**options), found)
    if problem.key is not None:
        masks = [np.ones((B, T), bool) if m is None else m for m, T in zip(masks.values(), (Tq, Tv), strict=True)]
        if options["causal"]:  # which counts steps, masked ones too
            return
        query = Ragged.from_padded(problem.query, masks[0])
        value, key = (Ragged.from_padded(a, masks[1]) for a in (problem.value, problem.key))
        y = attention(query, value, key, weight=problem.weight, scale=problem.scale)
        assert_same_bits(y.values, found["y"][masks[0]], "Ragged")


@given(st.data(), some.dtypes, some.launch_paths())
def test_convolution_op(data, dtype, launch):
    B, T = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 30))
    kernel_size, dilated = data.draw(st.integers(1, 5)), data.draw(st.booleans())
    options = {
        "padding": data.draw(st.sampled_from(test_convolution.PADDINGS)),
        "dilation_rate": data.draw(st.integers(1, 3)) if dilated else 1,
        "strides": 1 if dilated else data.draw(st.integers(1, 3)),
        "mask": data.draw(some.masks(B, T)),
        # e^z multiplies the rounding of z by far more than the sums it goes into come to
        "activation": data.draw(smooth_or(dtype).filter(lambda name: name != "exponential")),
    }
    size = B, T, data.draw(some.units), data.draw(some.units)
    problem = test_convolution.Problem(size, kernel_size, dtype, data.draw(some.seeds))
    problem.kernel /= dtype(np.sqrt(kernel_size * size[2]))
    found = problem.check(**options)
    with launched(*launch):
        assert_same_bits(problem.train(**options), found)
    if B and options["padding"] == "causal":
        i, more = data.draw(st.integers(0, B - 1), "row"), data.draw(st.integers(0, 4), "padding")
        mask = options.pop("mask")
        mask = np.ones((B, T), bool) if mask is None else mask
        x = np.pad(problem.x[i : i + 1], ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
        y = conv1d(x, problem.kernel, problem.bias, mask=np.pad(mask[i : i + 1], ((0, 0), (0, more))), **options)
        assert_same_bits(y[:, : found["y"].shape[1]], found["y"][i : i + 1], "a row alone, padded behind")


@given(st.data(), some.dtypes, some.launch_paths())
def test_normalization(data, dtype, launch):
    B, T, F = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 70)), data.draw(some.units)
    mask = data.draw(some.masks(B, T))
    problem = normalization_tests.Problem(B, T, F, dtype)
    exact = problem.exact()
    found = {"layer": problem.layer(), "unit": problem.unit(), "batch": problem.batch(mask=mask)[:4]}
    reference, scale = normalization_reference, (exact.gamma, exact.beta)
    x, dy, gamma = exact.x, exact.dy, exact.gamma
    if F > 1:  # of one feature nothing is left but rounding, multiplied by what may be large
        expected = (
            reference.layer_normalization_forward(x, *scale),
            *reference.layer_normalization_backward(x, dy, gamma),
        )
        far = np.abs(x).max(axis=-1) / np.maximum(x.std(axis=-1), np.finfo(dtype).tiny)  # from 0, in deviations
        assert_near(found["layer"], expected, dtype, condition=far.max(initial=1.0))
        expected = reference.unit_normalization_forward(x), reference.unit_normalization_backward(x, dy)
        assert_near(found["unit"], expected, dtype)
    if (B * T if mask is None else mask.sum()) > 8:  # two that happen to be equal leave rounding alone, too
        expected = (
            reference.batch_normalization_forward(x, *scale, mask),
            *reference.batch_normalization_backward(x, dy, gamma, mask),
        )
        assert_near(found["batch"], expected, dtype)
    with launched(*launch):
        again = problem.layer(), problem.unit(), problem.batch(mask=mask)[:4]
        assert_same_bits(again, tuple(found.values()))


@given(st.data(), some.dtypes, some.launch_paths(), st.sampled_from(test_pool.KINDS))
def test_pooling(data, dtype, launch, kind):
    B, T, F = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 150)), data.draw(some.units)
    mask, rng = data.draw(some.masks(B, T)), np.random.default_rng(data.draw(some.seeds))
    x, dy = rng.standard_normal((B, T, F)).astype(dtype), rng.standard_normal((B, F)).astype(dtype)
    (forward, backward), references = test_pool.OPS[kind], test_pool.REFERENCES[kind]

    def both(x):
        y, tape = forward(x, mask=mask if x.shape[1] == T else None)
        dx = backward(tape, dy)
        return y, dx.values if isinstance(dx, Ragged) else dx

    y, dx = both(x)
    exact = x.astype(np.float64)
    assert_near((y, dx), (references[0](exact, mask), references[1](exact, dy.astype(np.float64), mask)), dtype)
    valid = np.ones((B, T), bool) if mask is None else mask
    y_ragged, tape = forward(Ragged.from_padded(x, valid))
    assert_same_bits([y_ragged, backward(tape, dy).values], [y, dx[valid]], "Ragged")
    with launched(*launch):
        assert_same_bits(both(x), (y, dx))


# ---- losses ----------------------------------------------------------------------------------------------------------
@st.composite
def losses(draw, dtypes=DTYPES):
    """(kind, y_true, y_pred, arguments) of any loss."""
    kind, options = draw(st.sampled_from(LOSSES))
    B, T, units = draw(st.integers(0, 5)), draw(st.integers(0, 40)), draw(some.units)
    assume(options.get("ignore_class", 0) < units)
    dtype, seed = draw(st.sampled_from(dtypes)), draw(some.seeds)
    y_true, y_pred = loss_data(kind, options, dtype, seed, (B, T, units))
    rng = np.random.default_rng(seed)
    rows, steps = rng.uniform(0, 2, B) * (rng.random(B) < 0.8), rng.uniform(0, 2, (B, T)) * (rng.random((B, T)) < 0.8)
    arguments = {
        "mask": draw(some.masks(B, T)),
        "sample_weight": draw(st.sampled_from([None, rows, steps])),
        "reduction": draw(st.sampled_from(loss_ops.REDUCTIONS)),
        **options,
    }
    return kind, y_true, y_pred, arguments


@given(losses(), some.launch_paths())
def test_losses_against_the_reference(case, launch):
    kind, y_true, y_pred, arguments = case
    dtype = y_pred.dtype
    value, d_pred = loss_ops.loss_value_and_grad(kind, y_true, y_pred, **arguments)
    exact = y_true if kind.startswith("sparse") else y_true.astype(np.float64)
    expected = loss_reference.loss_value_and_grad(kind, exact, y_pred.astype(np.float64), **arguments)
    kinks = "hinge" in kind or "absolute" in kind  # where float32 rounds to another side than float64
    pairs = [(value, expected[0])] + ([] if kinks and dtype == np.float32 else [(d_pred, expected[1])])
    for a, e in pairs:
        assert_close(a, e, dtype, k=0, atol=1024 * float(np.finfo(dtype).eps) * float(np.abs(e).max(initial=1.0)))
    with launched(*launch):
        assert_same_bits(loss_ops.loss_value_and_grad(kind, y_true, y_pred, **arguments)[1], d_pred, f"{launch}")


@given(losses(), some.few, some.few)
def test_losses_of_padded_steps(case, before, behind):
    """Masked steps around and between, with NaN: the bits of the value and of each step's gradient stay."""
    kind, y_true, y_pred, arguments = case
    assume(arguments["reduction"] != "weighted_masked_objective")  # whose formula counts masked steps
    B, T, units = y_pred.shape
    mask = np.ones((B, T), bool) if arguments["mask"] is None else arguments["mask"]
    arguments["mask"] = mask
    value, d_pred = loss_ops.loss_value_and_grad(kind, y_true, y_pred, **arguments)

    def padded(a, fill):
        out = np.full((B, before + T + behind, *a.shape[2:]), fill, np.result_type(a, fill))
        out[:, before : before + T] = a
        return out

    weight = arguments["sample_weight"]
    more = {**arguments, "mask": padded(mask, False)}
    if weight is not None and weight.ndim == 2:
        more["sample_weight"] = padded(weight, np.nan)
    other, d_other = loss_ops.loss_value_and_grad(kind, padded(y_true, -7), padded(y_pred, np.nan), **more)
    inside = slice(before, before + T)
    assert_same_bits(d_other[:, inside].copy(), d_pred)
    assert not d_other[:, :before].any() and not d_other[:, before + T :].any()
    if arguments["reduction"] in ("none", None):
        assert_same_bits(other[:, inside].copy(), value)
    else:
        assert other == value


@given(losses(dtypes=[np.float64]), some.seeds)
def test_gradients_of_losses(case, seed):
    kind, y_true, y_pred, arguments = case
    y_true, y_pred = y_true[:2, :3], y_pred[:2, :3]
    mask, weight = arguments["mask"], arguments["sample_weight"]
    arguments["mask"] = None if mask is None else mask[:2, :3]
    arguments["sample_weight"] = None if weight is None else weight[:2, :3] if weight.ndim == 2 else weight[:2]
    _, d_pred = loss_ops.loss_value_and_grad(kind, y_true, y_pred, **arguments)

    def value():
        return np.sum(loss_ops.loss_value_and_grad(kind, y_true, y_pred, want_grad=False, **arguments)[0])

    y_pred = np.ascontiguousarray(y_pred)
    assert_derivative(value, [y_pred], [d_pred], seed, k=2**20)
