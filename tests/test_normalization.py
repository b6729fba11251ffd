"""Layer, unit and batch normalization: values, gradients, moments of the valid steps, moving statistics."""

import numpy as np
import pytest

import fastmask as fm
from cases import DTYPES, assert_same_bits, awkward, launched, launches
from fastmask.layers import BatchNormalization, LayerNormalization, UnitNormalization
from fastmask.ops.normalization import (
    batch_normalization_backward,
    batch_normalization_forward,
    layer_normalization_backward,
    layer_normalization_forward,
    unit_normalization_backward,
    unit_normalization_forward,
)
from fastmask.ragged import Ragged
from fastmask.reference import normalization as reference
from fastmask.testing import check_layer
from helpers import assert_close, assert_gradient, mask_cases

# off the lane grid, one feature, more steps than a piece of a sum has
SIZES = [(1, 1, 1), (3, 4, 5), (2, 3, 16), (4, 40, 17), (2, 100, 33), (3, 5, 100)]
MASKS = [None, *mask_cases(1, 1)]
LAYERS = {"layer": LayerNormalization, "unit": UnitNormalization, "batch": BatchNormalization}
B, T, F = 3, 4, 5


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def mask_named(name, B, T):
    return None if name is None else mask_cases(B, T)[name]


class Problem:
    """Random x, gamma, beta and dy."""

    def __init__(self, B=B, T=T, F=F, dtype=np.float64):
        self.x, self.dy = random(B, T, F, dtype=dtype) * 2 + dtype(1), random(B, T, F, dtype=dtype, seed=1)
        self.gamma, self.beta = random(2, F, dtype=dtype, seed=2)
        self.moments = random(F, dtype=dtype, seed=3), abs(random(F, dtype=dtype, seed=4))

    def exact(self):
        """The same numbers in float64."""
        other = object.__new__(Problem)
        for name, a in vars(self).items():
            other.__dict__[name] = tuple(m.astype(np.float64) for m in a) if name == "moments" else a.astype(np.float64)
        return other

    def layer(self, x=None, dy=None):
        y, tape = layer_normalization_forward(self.x if x is None else x, self.gamma, self.beta)
        return y, *layer_normalization_backward(tape, self.dy if dy is None else dy)

    def unit(self, x=None, dy=None):
        y, tape = unit_normalization_forward(self.x if x is None else x)
        return y, unit_normalization_backward(tape, self.dy if dy is None else dy)

    def batch(self, x=None, dy=None, **options):
        y, tape = batch_normalization_forward(self.x if x is None else x, self.gamma, self.beta, **options)
        gradients = batch_normalization_backward(tape, self.dy if dy is None else dy)
        return y, *gradients, tape.mean, tape.variance


# ---- values ----------------------------------------------------------------------------------------------------------
def test_layer_of_nearly_equal_features():
    """Found by the long form of the property tests: features that differ by a 37th of their size. Rounding is
    multiplied by that; the reference, in float64 too, is off by twice as much.
    """
    problem = Problem(1, 24, 3)
    exact = [a.astype(np.longdouble) for a in (problem.x, problem.dy, problem.gamma)]
    far = np.abs(problem.x).max(axis=-1) / problem.x.std(axis=-1)
    assert 30 < far.max() < 40
    found, expected = problem.layer()[1], reference.layer_normalization_backward(*exact)[0]
    assert_close(found, expected, k=0, atol=16 * float(far.max()) * np.finfo(float).eps)


def test_by_hand():
    x, gamma, beta = np.array([[1.0, 3.0], [5.0, 5.0]]), np.array([2.0, 3.0]), np.array([10.0, 20.0])
    y, tape = layer_normalization_forward(x, gamma, beta, epsilon=0.25)
    assert_close(y, [[10 - 2 / np.sqrt(1.25), 20 + 3 / np.sqrt(1.25)], [10, 20]], k=4)
    y, tape = batch_normalization_forward(x, gamma, beta, epsilon=0.0)  # means 3, 4, deviations 2, 1
    assert_close(y, [[8, 17], [12, 23]], k=4)
    assert_close(tape.mean, [3, 4], k=1)
    assert_close(tape.variance, [4, 1], k=1)
    y, _ = unit_normalization_forward(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 3e-13]]))
    assert_close(y, [[0.6, 0.8], [0, 0], [0, 0.3]], k=4)
    ones = layer_normalization_forward(x)[0]
    assert_same_bits(ones, layer_normalization_forward(x, np.ones(2), np.zeros(2))[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_layer_and_unit_reference(size, dtype):
    """Measured: values and gradients of x 3.4 eps, sums over steps 50."""
    p = Problem(*size, dtype)
    e = p.exact()
    y, dx, d_gamma, d_beta = p.layer()
    assert y.dtype == dx.dtype == d_gamma.dtype == d_beta.dtype == dtype
    assert_close(y, reference.layer_normalization_forward(e.x, e.gamma, e.beta), dtype, k=16)
    expected = reference.layer_normalization_backward(e.x, e.dy, e.gamma)
    for got, wanted, k in zip((dx, d_gamma, d_beta), expected, (16, 256, 256), strict=True):
        assert_close(got, wanted, dtype, k=k)
    y, dx = p.unit()
    assert_close(y, reference.unit_normalization_forward(e.x), dtype, k=8)
    assert_close(dx, reference.unit_normalization_backward(e.x, e.dy), dtype, k=8)
    assert_same_bits(p.layer(awkward(p.x), awkward(p.dy)), p.layer())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_batch_reference(size, dtype):
    """Measured: values 9.5 eps, moments 4.9, gradients 5.3 of the largest."""
    p = Problem(*size, dtype)
    e = p.exact()
    for name in MASKS:
        mask = mask_named(name, *size[:2])
        for options in ({"mask": mask}, {"mask": mask, "moments": p.moments}):
            exact = dict(options, moments=e.moments) if "moments" in options else options
            y, dx, d_gamma, d_beta, mean, variance = p.batch(**options)
            assert y.dtype == dx.dtype == d_gamma.dtype == mean.dtype == variance.dtype == dtype
            assert_close(y, reference.batch_normalization_forward(e.x, e.gamma, e.beta, **exact), dtype, k=64)
            if "moments" not in options:
                moments = reference.batch_moments(e.x, mask)
                assert_close(mean, moments[0], dtype, k=16)
                assert_close(variance, moments[1], dtype, k=32)
            expected = reference.batch_normalization_backward(e.x, e.dy, e.gamma, **exact)
            # where few steps are valid, the others are normalised with a deviation that may be tiny
            scale = max(1.0, np.abs(expected.x).max(), np.abs(expected.gamma).max())
            for got, wanted in zip((dx, d_gamma, d_beta), expected, strict=True):
                assert_close(got, wanted, dtype, k=0, atol=32 * scale * np.finfo(dtype).eps)


def test_variance_of_numbers_far_from_zero():
    """The difference of large sums would leave no digit; measured: 8e-7 of the variance."""
    x = (np.random.default_rng(0).standard_normal((20_000, 3)) + 1e3).astype(np.float32)
    _, tape = batch_normalization_forward(x)
    np.testing.assert_allclose(tape.variance, np.var(x, axis=0, dtype=np.float64), rtol=4e-6)
    np.testing.assert_allclose(tape.mean, np.mean(x, axis=0, dtype=np.float64), rtol=1e-7)


# ---- gradients -------------------------------------------------------------------------------------------------------
def test_layer_and_unit_gradients_by_differences():
    p = Problem()
    _, dx, d_gamma, d_beta = p.layer()
    for a, gradient in ((p.x, dx), (p.gamma, d_gamma), (p.beta, d_beta)):
        assert_gradient(lambda: np.sum(p.layer()[0] * p.dy), a, gradient)
    assert_gradient(lambda: np.sum(p.unit()[0] * p.dy), p.x, p.unit()[1])


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("mask_name", MASKS)
def test_batch_gradients_by_differences(mask_name, given):
    """Also of masked steps, where a gradient arrives: they are normalised with the moments of the others."""
    p = Problem()
    if mask_name in ("empty_rows", "all_masked"):  # smoother with a larger epsilon: few or no valid steps
        p.x *= 0.1
    options = {"mask": mask_named(mask_name, B, T), "epsilon": 0.1, "moments": p.moments if given else None}
    _, dx, d_gamma, d_beta, *_ = p.batch(**options)
    for a, gradient in ((p.x, dx), (p.gamma, d_gamma), (p.beta, d_beta)):
        assert_gradient(lambda: np.sum(p.batch(**options)[0] * p.dy), a, gradient)


def test_unit_gradient_of_a_step_without_length():
    _, tape = unit_normalization_forward(np.array([[0.0, 0.0], [1.0, 0.0]]))
    for dy, dx in (([[0.0, 0.0], [5.0, 2.0]], [[0, 0], [0, 2]]), ([[1.0, 0.0], [0.0, 0.0]], [[1e12, 0], [0, 0]])):
        np.testing.assert_array_equal(unit_normalization_backward(tape, np.array(dy)), dx)


def test_gradients_are_those_of_the_weights_at_the_call():
    p = Problem()
    expected = p.layer()[1]
    gamma = p.gamma.copy()
    _, tape = layer_normalization_forward(p.x, gamma, p.beta)
    gamma[:] = 0
    assert_same_bits(layer_normalization_backward(tape, p.dy).x, expected)


# ---- bits ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("F", [1, 15, 17, 33, 70])
def test_a_step_is_itself(F, dtype):
    """Layer and unit normalization of a step, and its gradient of x, depend on that step alone."""
    p = Problem(2, 70, F, dtype)
    for run in (p.layer, p.unit):
        y, dx = run()[:2]
        for at in ((0, 0), (0, 63), (1, 5), (1, 69)):
            alone = run(p.x[at][None], p.dy[at][None])[:2]
            assert_same_bits((alone[0][0], alone[1][0]), (y[at], dx[at]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_changes_no_bit(dtype):
    """Batch normalization: moments, outputs and gradients of padded on either side = with holes = Ragged."""
    lengths = [70, 1, 0, 200, 5]
    N, T = sum(lengths), 220
    p = Problem(1, N, 19, dtype)
    steps = Ragged(p.x[0], np.concatenate([[0], np.cumsum(lengths)]))
    expected = p.batch(steps, steps.with_values(p.dy[0]))
    expected = [a.values if isinstance(a, Ragged) else a for a in expected]
    assert_same_bits([a[0] if a.ndim == 3 else a for a in p.batch()], expected)
    rng = np.random.default_rng(0)
    masks = {name: np.zeros((len(lengths), T), bool) for name in ("right", "left", "holes")}
    for i, n in enumerate(lengths):
        masks["right"][i, :n] = masks["left"][i, T - n :] = True
        masks["holes"][i, rng.permutation(T)[:n]] = True
    for mask in masks.values():
        x, dy = np.full((*mask.shape, 19), 7, dtype), np.zeros((*mask.shape, 19), dtype)
        x[mask], dy[mask] = steps.values, p.dy[0]
        found = p.batch(x, dy, mask=mask)
        assert_same_bits([a[mask] if a.ndim == 3 else a for a in found], expected)
        assert not found[1][~mask].any()


def test_every_launch():
    p, mask = Problem(9, 80, 17, np.float32), mask_cases(9, 80)["holes"]
    results = []
    for path, threads in launches():
        with launched(path, threads):
            results.append([*p.layer(), *p.unit(), *p.batch(mask=mask)])
    for result in results[1:]:
        assert_same_bits(result, results[0])


# ---- masks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kind", LAYERS)
def test_garbage_under_the_mask_changes_nothing(kind, garbage):
    x, mask = random(B, T, F, dtype=np.float32), mask_cases(B, T)["holes"]
    dy = random(B, T, F, dtype=np.float32, seed=1) * mask[..., None]
    results = []
    for inputs in (x, np.where(mask[..., None], x, np.float32(garbage))):
        layer = LAYERS[kind]()
        with np.errstate(all="ignore"):
            y = layer(inputs, mask=mask, training=True)
            dx = layer.backward(dy)
        assert np.isfinite(y).all() and np.isfinite(dx).all()
        np.testing.assert_array_equal(y.mask, mask)
        results.append([np.asarray(y)[mask], dx, *(layer.gradients if layer.weights else []), *layer.get_weights()])
    assert_same_bits(*results)


def test_what_stands_under_a_mask_is_normalised_too():
    x, mask = random(B, T, F), mask_cases(B, T)["holes"]
    for kind in ("layer", "unit"):
        layer = LAYERS[kind](dtype="float64")
        assert_same_bits(np.asarray(layer(x, mask=mask)), layer(x))
    y = BatchNormalization(dtype="float64")(x, mask=mask, training=True)
    assert_close(y, reference.batch_normalization_forward(x, 1.0, 0.0, mask), k=64)
    x[~mask] = np.nan  # counts as 0
    y = LayerNormalization(dtype="float64", beta_initializer="ones")(x, mask=mask)
    assert (np.asarray(y)[~mask] == 1).all()


def test_without_a_valid_step_the_moments_are_0():
    x, mask = random(B, T, F), np.zeros((B, T), bool)
    layer = BatchNormalization(dtype="float64", momentum=0.5)
    y = layer(x, mask=mask, training=True)
    assert_close(y, x / np.sqrt(1e-3), k=8)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(F))
    np.testing.assert_array_equal(layer.moving_variance, np.full(F, 0.5))
    assert_close(layer.backward(np.ones_like(x)), np.full(x.shape, 1 / np.sqrt(1e-3)), k=8)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (0, 3), (0, 0, 1)])
@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_to_normalise(kind, shape):
    layer = LAYERS[kind](dtype="float64")
    y = layer(np.ones(shape), training=True)
    assert y.shape == shape and layer.backward(y).shape == shape
    for weight in layer.get_weights():
        assert np.isfinite(weight).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_ragged_and_other_ranks(kind):
    x, mask = random(B, T, F), mask_cases(B, T)["right"]
    r = Ragged.from_padded(x, mask)
    layers = [LAYERS[kind](dtype="float64") for _ in range(4)]
    y = np.asarray(layers[0](x, mask=mask, training=True))
    ragged = layers[1](r, training=True)
    assert_same_bits(ragged.values, y[mask])
    np.testing.assert_array_equal(ragged.offsets, r.offsets)
    dy = random(len(r.values), F, seed=1)
    d_padded = np.zeros_like(x)
    d_padded[mask] = dy
    assert_same_bits(layers[1].backward(r.with_values(dy)).values, layers[0].backward(d_padded)[mask])
    assert_same_bits(layers[2](x.reshape(-1, F), mask=mask.ravel(), training=True)[mask.ravel()], y[mask])
    deep = layers[3](np.stack([x, x], axis=2), mask=mask, training=True)  # (B,T1,T2,F) under a mask (B,T1)
    assert_close(np.asarray(deep)[:, :, 1][mask], y[mask], k=16)
    np.testing.assert_array_equal(deep.mask, mask)


# ---- batch normalization as a layer ----------------------------------------------------------------------------------
def test_moving_statistics():
    layer = BatchNormalization(momentum=0.75, epsilon=0.0, dtype="float64")
    x = np.array([[[1.0], [3.0], [100.0]]])
    layer(x, mask=[[1, 1, 0]], training=True)
    assert [w.tolist() for w in layer.get_weights()] == [[1.0], [0.0], [0.5], [1.0]]  # variances 1 and 1
    layer(x + 2, mask=[[1, 1, 0]], training=True)
    assert layer.moving_mean.value == 0.75 * 0.5 + 0.25 * 4 and layer.moving_variance.value == 1.0
    before = layer.get_weights()
    y = layer(x, mask=[[1, 1, 0]])  # inference uses them and leaves them
    assert_close(y, x - layer.moving_mean.value, k=4)
    assert_same_bits(layer.get_weights(), before)
    names = [w.name for w in layer.weights]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert [w.name for w in layer.trainable_weights] == names[:2]
    assert [w.name for w in layer.non_trainable_weights] == names[2:]


def test_a_frozen_layer_works_as_in_inference():
    x, dy = random(B, T, F), random(B, T, F, seed=1)
    layer = BatchNormalization(dtype="float64", gamma_initializer="random_normal", moving_mean_initializer="ones")
    layer(x, training=True)
    layer.trainable = False
    before = layer.get_weights()
    y = layer(x, training=True)
    assert_same_bits(y, layer(x))
    assert_same_bits(layer.get_weights(), before)
    gamma, _, _, variance = before
    assert_close(layer.backward(dy), dy * gamma / np.sqrt(variance + 1e-3), k=16)
    assert layer.trainable_weights == []


def test_a_model_with_batch_normalization():
    fm.set_random_seed(1)
    layer = BatchNormalization(momentum=0.5)
    model = fm.Sequential([fm.Input((None, F)), fm.layers.Masking(), layer, fm.layers.GRU(4)])
    model.compile("sgd", "mse")
    x, mask = random(B, 6, F, dtype=np.float32) * 3 + 5, mask_cases(B, 6)["right"]
    model.fit(x * mask[..., None], np.zeros((B, 4)), epochs=30, verbose=0, batch_size=B)
    moving = layer.get_weights()[2:]
    assert_close(moving[0], x[mask].mean(axis=0), np.float32, k=256)
    assert_close(moving[1], x[mask].var(axis=0), np.float32, k=256)


# ---- making one, bad input -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("center, scale", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_with_and_without_gamma_and_beta(kind, center, scale):
    options = {"center": center, "scale": scale, "gamma_initializer": "random_normal", "beta_initializer": "ones"}
    layer = LAYERS[kind](dtype="float64", epsilon=0.5, **options)
    x, dy = random(B, T, F), random(B, T, F, seed=1)
    y = layer(x, training=True)
    dx = layer.backward(dy)
    weights = dict(zip(["gamma"] * scale + ["beta"] * center, layer.get_weights(), strict=False))
    gamma, beta = weights.get("gamma", np.ones(F)), weights.get("beta", np.zeros(F))
    forward = getattr(reference, f"{kind}_normalization_forward")
    expected = getattr(reference, f"{kind}_normalization_backward")(x, dy, gamma, epsilon=0.5)
    assert_close(y, forward(x, gamma, beta, epsilon=0.5), k=64)
    assert_close(dx, expected.x, k=64)
    wanted = [expected.gamma] * scale + [expected.beta] * center
    assert len(layer.gradients if wanted else []) == len(wanted) == len(layer.trainable_weights)
    for got, one in zip(layer.gradients if wanted else [], wanted, strict=True):
        assert_close(got, one, k=256)


@pytest.mark.parametrize("kind", LAYERS)
def test_configuration_and_shapes(kind):
    options = {}
    if kind != "unit":
        options |= {"epsilon": 0.1, "scale": False, "beta_regularizer": "l2", "beta_constraint": "non_neg"}
    if kind == "batch":
        options |= {"momentum": 0.5, "moving_variance_initializer": "zeros"}
    layer = LAYERS[kind](name="n", dtype="float64", **options)
    again = fm.layers.deserialize(fm.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    x = random(B, T, F)
    assert_same_bits(layer(x), again(x))
    y = layer(fm.layers.Masking()(fm.Input((None, F))))
    assert y.shape == (None, None, F) and y.mask.shape == (None, None)
    assert layer.mask_role() == ("uses, passes" if kind == "batch" else "passes")
    if kind != "unit":
        assert layer.beta.regularizer is not None and layer.beta.constraint is not None


@pytest.mark.parametrize("kind", LAYERS)
def test_check_layer(kind):
    layer = LAYERS[kind](dtype="float64")
    layer.trainable = kind != "batch"  # in training the outputs are others than in inference
    check_layer(layer, (3, 5, 4), elements=10)


def test_arguments_that_ask_for_something_else():
    for cls in LAYERS.values():
        with pytest.raises(ValueError, match="axis: expected -1, the last axis, received 1"):
            cls(axis=1)
        assert cls(axis=[-1]).axis == -1
    with pytest.raises(TypeError, match="unknown argument 'rms_scaling'"):
        LayerNormalization(rms_scaling=True)
    for name in ("renorm", "synchronized"):
        with pytest.raises(ValueError, match=f"{name}: not supported, expected False, received True"):
            BatchNormalization(**{name: True})
    with pytest.raises(ValueError, match="momentum: expected a number from 0 to 1, received 1.5"):
        BatchNormalization(momentum=1.5)
    with pytest.raises(ValueError, match="epsilon: expected a finite number of 0 or more, received -1"):
        LayerNormalization(epsilon=-1)


def test_shapes_that_do_not_fit():
    for cls in (LayerNormalization, BatchNormalization):
        with pytest.raises(ValueError, match=r"n: inputs: expected shape \(B,...,F\) with a known F, received"):
            cls(name="n")(np.ones(3))
        layer = cls(name="n")
        layer.build((None, None, F))
        with pytest.raises(ValueError, match=r"n: inputs: expected shape \(B,...,5\), received \(2, 4\)"):
            layer(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"u: inputs: expected shape \(B,...,F\), received \(3,\)"):
        UnitNormalization(name="u")(np.ones(3))
    x = np.ones((2, 3, F))
    with pytest.raises(ValueError, match=r"^x: expected shape \(...,F\), received \(3,\)$"):
        layer_normalization_forward(np.ones(3))
    with pytest.raises(ValueError, match=r"^gamma: expected shape \(F,\) = \(5,\), received \(4,\)$"):
        layer_normalization_forward(x, np.ones(4))
    with pytest.raises(TypeError, match="^beta: expected dtype float64 as x, received float32$"):
        batch_normalization_forward(x, None, np.ones(F, np.float32))
    with pytest.raises(ValueError, match=r"^mask: expected shape \(B,T\) = \(2,3\), received \(2, 4\)$"):
        batch_normalization_forward(x, mask=np.ones((2, 4)))
    _, tape = layer_normalization_forward(x)
    with pytest.raises(ValueError, match=r"^dy: expected shape \(2, 3, 5\) as y, received \(6, 5\)$"):
        layer_normalization_backward(tape, np.ones((6, F)))
    _, tape = batch_normalization_forward(Ragged(np.ones((3, F)), [0, 1, 3]))
    with pytest.raises(TypeError, match="^dy: expected Ragged as the outputs, received ndarray$"):
        batch_normalization_backward(tape, np.ones((3, F)))
