"""Every layer under a mask, by hand and in models: it hands one on that fits, uses it up, or says that it is lost."""

import contextlib
import inspect
import re
import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.layers import GRU, Dense, Flatten, Identity, Input, Layer, MaskDroppedWarning, Masking
from fastmask.models import Model, Sequential
from fastmask.ragged import Ragged
from propagation_rows import HOLES, RIGHT, ROWS, SOURCES, B, F, T, either, of_second, one_or_list, same

X = SOURCES["steps"].values  # 0 where HOLES is False

CLASSES = [
    c
    for c in map(layers.__dict__.get, layers.__all__)
    if inspect.isclass(c) and issubclass(c, Layer) and not issubclass(c, layers.Cell)  # which see one step
]


def row_id(row):
    layer = row.make(fm)
    return "-".join([*(type(one).__name__ for one in (layer, *layer._sub_layers()[:1])), *row.inputs.split()])


every_row = pytest.mark.parametrize("row", ROWS, ids=row_id)


def test_every_layer_is_in_the_table():
    missing = {c.__name__ for c in CLASSES} - {type(row.make(fm)).__name__ for row in ROWS} - {"Layer"}
    assert not missing, f"no Row in propagation_rows.py for {sorted(missing)}"


def watched(function, *args, **kwargs):
    """(what it returns, the messages of its MaskDroppedWarnings)"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    return result, [str(w.message) for w in caught if w.category is MaskDroppedWarning]


def listed(outputs, expected):
    """Outputs and masks as lists."""
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return outputs, expected if isinstance(expected, list) else [expected] + [None] * (len(outputs) - 1)


def assert_masks(outputs, row):
    """Outputs carry the masks of the row, and are plain where there is none."""
    for y, mask in zip(*listed(outputs, row.expected()), strict=True):
        if mask is None:
            assert type(y) is np.ndarray
        else:
            assert y.mask.dtype == bool and y.shape[: mask.ndim] == mask.shape
            np.testing.assert_array_equal(y.mask, mask)


def assert_said(said, layer, row):
    """That a mask is lost was said once, and by which layer."""
    assert len(said) == row.is_lost, said
    assert all(message.startswith(f"{layer.name}: {type(layer).__name__} ") for message in said), said


def carrying(source, x, mask):
    """x with the mask of its source: from Masking, if that finds it."""
    if source.mask is None:
        return x
    return Masking()(x) if source.is_found_by_masking else Identity()(x, mask=mask)


def symbolic(source, Input=Input):
    """Inputs for the values and for the mask, None if it has none."""
    x = Input(source.values.shape[1:], dtype=source.values.dtype.name)
    return x, None if source.mask is None else Input(source.mask.shape[1:], dtype="bool")


# ---- by hand --------------------------------------------------------------------------------------------------------
@every_row
@pytest.mark.parametrize("training", [False, True])
def test_by_hand(row, training):
    arrays, masks = zip(*row.sources, strict=True)
    plain, options = row.arguments(arrays)
    masked, _ = row.arguments([carrying(s, *s) for s in row.sources])
    explicit = one_or_list(masks[: row.n_inputs])
    for inputs, mask in ((masked, None), (plain, explicit), (masked, explicit)):
        layer = row.make(fm)
        outputs, said = watched(layer, inputs, mask=mask, training=training, **options)
        assert_masks(outputs, row)
        assert_said(said, layer, row)


@every_row
def test_without_a_mask_there_is_nothing_to_say(row):
    inputs, options = row.arguments([s.values for s in row.sources])
    layer = row.make(fm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = layer(inputs, **options)
    makes = row.says == "makes" or isinstance(getattr(layer, "mask", None), np.ndarray)
    assert all(type(y) is np.ndarray or makes for y in listed(outputs, None)[0])


@every_row
def test_a_lost_mask_can_be_made_an_error(row):
    arrays, masks = zip(*row.sources, strict=True)
    tensors, symbolic_masks = zip(*map(symbolic, row.sources), strict=True)
    for xs, ms in ((arrays, masks), (tensors, symbolic_masks)):
        inputs, options = row.arguments(xs)
        with warnings.catch_warnings():
            warnings.simplefilter("error", MaskDroppedWarning)
            if row.is_lost:
                with pytest.raises(MaskDroppedWarning):
                    row.make(fm)(inputs, mask=one_or_list(ms[: row.n_inputs]), **options)
            else:
                row.make(fm)(inputs, mask=one_or_list(ms[: row.n_inputs]), **options)


# ---- in models ------------------------------------------------------------------------------------------------------
@every_row
@pytest.mark.parametrize("way", ["carried", "explicit"])
def test_in_a_model(row, way):
    """The same is said when the model is put together and in each run; summary agrees."""
    layer, pairs = row.make(fm), [symbolic(s) for s in row.sources]
    if way == "carried":
        inputs, options = row.arguments([carrying(s, *pair) for s, pair in zip(row.sources, pairs, strict=True)])
        built, said = watched(layer, inputs, **options)
    else:
        tensors, masks = zip(*pairs, strict=True)
        inputs, options = row.arguments(tensors)
        built, said = watched(layer, inputs, mask=one_or_list(masks[: row.n_inputs]), **options)
    assert_said(said, layer, row)
    for y, mask in zip(*listed(built, row.expected()), strict=True):
        assert (y.mask is None) == (mask is None)
        if mask is not None:
            assert all(n in (None, m) for n, m in zip(y.mask.shape, mask.shape, strict=True))

    model = Model([t for pair in pairs for t in pair if t is not None], built)
    data = [a for s in row.sources for a in s if a is not None]
    for training in (False, True):
        outputs, said = watched(model, data, training=training)
        assert_masks(outputs, row)
        assert_said(said, layer, row)
    assert summary_says(model, layer) == row.says


def summary_says(model, layer):
    """The word under "Mask" in the layer's line."""
    lines = []
    model.summary(print_fn=lines.append)
    (line,) = [line for line in lines[0].splitlines() if line.startswith(f"{layer.name} (")]
    return re.split(r"\s{2,}", line)[3]


@every_row
def test_in_a_model_that_hears_of_the_mask_when_it_runs(row):
    arrays, masks = zip(*row.sources, strict=True)
    layer, tensors = row.make(fm), [symbolic(s)[0] for s in row.sources]
    inputs, options = row.arguments(tensors)
    built, said = watched(layer, inputs, **options)
    assert not said
    model = Model(one_or_list(tensors), built)
    outputs, said = watched(model, one_or_list(arrays), mask=one_or_list(masks))
    assert_masks(outputs, row)
    assert_said(said, layer, row)
    predicted, said = watched(model.predict, one_or_list(arrays), mask=one_or_list(masks))
    assert_said(said, layer, row)
    for a, b in zip(listed(outputs, None)[0], listed(predicted, None)[0], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.sources) == 1], ids=row_id)
def test_in_a_sequential(row):
    (source,) = row.sources
    layer, first = row.make(fm), [Masking()] if source.is_found_by_masking else []
    x, _ = symbolic(source)
    if isinstance(row.make(fm)(x), list):
        with pytest.raises(ValueError, match="expected one output"):
            Sequential([x, *first, layer])
        return
    model, said = watched(Sequential, [x, *first, layer])
    assert len(said) == (row.is_lost and len(first))
    outputs, said = watched(model, source.values, mask=None if first else source.mask)
    assert_masks(outputs, row)
    assert_said(said, layer, row)
    if first:
        assert summary_says(model, layer) == row.says


# ---- Ragged ---------------------------------------------------------------------------------------------------------
@every_row
def test_ragged(row):
    arrays, masks = zip(*(s.ragged() for s in row.sources), strict=True)
    layer, (inputs, options) = row.make(fm), row.arguments(arrays)
    explicit = one_or_list(masks[: row.n_inputs])
    if not row.ragged:
        with pytest.raises(TypeError, match="Ragged"):
            layer(inputs, mask=explicit, **options)
        return
    tensors = [symbolic(s)[0] for s in row.sources]
    symbols, symbolic_options = row.arguments(tensors)
    model = Model(one_or_list(tensors), layer(symbols, **symbolic_options))
    for run in (
        lambda: layer(inputs, mask=explicit, **options),
        lambda: model(one_or_list(arrays), mask=one_or_list(masks)),
    ):
        outputs, said = watched(run)
        assert_said(said, layer, row)
        for y, mask in zip(*listed(outputs, row.expected()), strict=True):
            assert (getattr(y, "mask", None) is None) == (mask is None)
            if mask is not None and isinstance(y, Ragged):
                assert y.mask.shape == y.values.shape[: mask.ndim - 1]
                if row.out in (same, of_second, either):
                    np.testing.assert_array_equal(y.mask, row.out(*masks[: row.n_inputs]))


# ---- NumPy ----------------------------------------------------------------------------------------------------------
def test_numpy_knows_nothing_of_masks():
    y = Masking()(X)
    assert y.mask is not None
    results = [
        *(y + 1, 2 * y, -y, y**2, y > 0, y @ np.ones((F, 2)), np.tanh(y), np.maximum(y, 0), np.add(y, y)),
        *(
            y[:, 1:],
            y[0],
            y[..., None],
            y[y > 0],
            y.reshape(-1),
            y.astype("f8"),
            y.take([0]),
            y.repeat(2),
            y.clip(0, 1),
        ),
        *(np.concatenate([y, y]), np.stack([y, y]), np.where(y > 0, y, 0), np.pad(y, 1), np.flip(y), np.sum(y, axis=1)),
        *(np.einsum("btf->bft", y), np.transpose(y), np.zeros_like(y), np.array(y), np.asarray(y), np.array([y, y])),
    ]
    for name in dir(np.ndarray):
        # a method that wants arguments; one that old versions list, but say is gone
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            attribute = getattr(y, name)
            results.append(attribute() if callable(attribute) and not name.startswith("_") else attribute)
    assert len([r for r in results if isinstance(r, np.ndarray)]) > 50
    assert all(getattr(r, "mask", None) is None for r in results)
    for view in (y[:, 1:], y.T, y.argsort(), y.conj(), y + 1):
        assert type(view) is np.ndarray


# ---- layers of one's own --------------------------------------------------------------------------------------------
class Sum(Layer):
    supports_masking = True

    def call(self, inputs):
        return inputs[0] + inputs[1]


def test_the_mask_of_one_of_several_inputs_is_not_lost_in_silence():
    a, b = Dense(F)(X, mask=HOLES), Dense(F)(X, mask=RIGHT)
    x = Input((T, F))
    masked, other = Masking()(x), Masking(1.0)(x)
    for inputs, lost in (([a, a], False), ([a, X], False), ([X, a], True), ([a, b], True)):
        y, said = watched(Sum(name="sum"), inputs)
        assert len(said) == lost and all(
            m.startswith("sum: Sum hands on the mask of its first input only") for m in said
        )
        assert getattr(y, "mask", None) is getattr(inputs[0], "mask", None)
    for inputs, lost in (
        ([masked, masked], False),
        ([masked, x], False),
        ([x, masked], True),
        ([masked, other], False),
    ):
        y, said = watched(Sum(), inputs)
        assert len(said) == lost and (y.mask is None) == (inputs[0] is x)
    assert len(watched(Model(x, y), X)[1]) == 1  # only then is it known that the two masks are not the same


def test_no_mask_by_hand():
    """mask=[None, None] is no mask: none is used, and there is none to lose."""
    y = Masking()(X)

    class Plain(Sum):
        supports_masking = False

    x = Input((T, F))
    masked = Masking()(x)
    for make in (Plain, Sum, layers.Add, layers.Multiply):
        outputs, said = watched(make(), [y, y], mask=[None, None])
        assert type(outputs) is np.ndarray and not said
        built, said = watched(make(), [masked, masked], mask=[None, None])
        outputs, more = watched(Model(x, built), X)
        assert type(outputs) is np.ndarray and not said + more


class Block(Layer):
    """Layers inside a layer of one's own, which passes the mask by hand, or says nothing of it."""

    def __init__(self, *inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = list(inner)

    def call(self, inputs):
        for layer in self.inner:
            inputs = layer(inputs)
        return inputs


class BlockByHand(Block):
    def call(self, inputs, mask=None):
        for layer in self.inner:
            inputs = layer(inputs, mask=mask)
            mask = getattr(inputs, "mask", None)
        return inputs


@pytest.mark.parametrize("cls", [Block, BlockByHand])
def test_layers_inside_a_layer_hear_of_the_mask(cls):
    """The inputs of call carry it: what is inside uses it, and what comes out carries what is left of it."""
    x = Input((T, F))
    gru = GRU(3, return_sequences=True)
    expected = gru(X, mask=HOLES)
    for supports in (False, True):
        for inner in ([gru], [Identity(), gru], [Masking(7.0), gru]):  # Masking alone would un-mask all
            layer = cls(*inner)
            layer.supports_masking = supports
            masked = Masking()(x)
            for y, said in (
                watched(layer, Masking()(X)),
                watched(layer, X, mask=HOLES, training=True),
                watched(Model(x, layer(masked)), X),
                watched(Model(x, layer(x)), X, mask=HOLES),
            ):
                np.testing.assert_array_equal(y, expected)
                np.testing.assert_array_equal(y.mask, HOLES)
                assert not said
            assert layer(masked).mask is not None


def test_outputs_that_carry_no_mask_get_that_of_compute_mask():
    class Both(Block):
        def call(self, inputs):
            return self.inner[0](inputs), inputs[:, 1:], inputs * 2

        def compute_mask(self, inputs, mask=None):
            return None if mask is None else (None, mask[:, 1:], mask)

    outputs, said = watched(Both(layers.Cropping1D(1)), X, mask=HOLES)
    for y, mask in zip(outputs, (HOLES[:, 1:-1], HOLES[:, 1:], HOLES), strict=True):
        np.testing.assert_array_equal(y.mask, mask)
    assert not said and all(type(y) is np.ndarray for y in Both(layers.Cropping1D(1))(X))


def test_a_layer_inside_that_loses_the_mask_says_so():
    for supports in (False, True):
        layer = Block(Flatten(name="flat"), Dense(2), name="block")
        layer.supports_masking = supports
        said = watched(layer, X, mask=HOLES)[1]
        assert said[0].startswith("flat: Flatten moves the steps") and said[1].startswith("block: Block ")
        assert type(layer(X)) is np.ndarray


def test_a_model_of_ones_own():
    """Its outputs carry what the layers inside left of the mask; where that is used up, it trains and evaluates."""

    class Classifier(Model):
        def __init__(self):
            super().__init__()
            self.gru, self.dense = GRU(T, return_sequences=False), Dense(T)  # (B,T) outputs must not be taken for steps

        def call(self, inputs):
            return self.dense(self.gru(inputs))

        def backward(self, grad):
            return self.gru.backward(self.dense.backward(grad))

    class Tagger(Classifier):
        def call(self, inputs):
            self.gru.return_sequences = True
            return 2 * self.dense(self.gru(inputs))  # plain, with the same steps

    for cls, shape in ((Classifier, (B, T)), (Tagger, (B, T, T))):
        model, targets = cls(), np.zeros(shape)
        outputs, said = watched(model, X, mask=HOLES)
        assert not said and outputs.shape == shape
        is_masked = cls is Tagger
        assert (getattr(outputs, "mask", None) is not None) == is_masked
        model.compile("sgd", "mse")
        errors = np.asarray(outputs)[HOLES] if is_masked else np.asarray(outputs)
        assert model.evaluate(X, targets, mask=HOLES) == pytest.approx(np.mean(errors**2), rel=1e-5)

    class Pair(Classifier):
        def call(self, inputs):
            return self.gru(inputs[0]) + self.gru(inputs[1])

    for masks in ([HOLES, RIGHT], [None, HOLES]):
        outputs, said = watched(Pair(), [X, X], mask=masks)
        assert type(outputs) is np.ndarray and not said
    model = Classifier()
    model.compile("sgd", "mse")
    history, said = watched(model.fit, X, np.ones((B, T)), mask=HOLES, epochs=2, verbose=0)
    assert not said and history.history["loss"][1] < history.history["loss"][0]


def test_a_mask_that_does_not_fit_the_outputs_goes_no_further():
    class Summed(Layer):
        supports_masking = True

        def call(self, inputs):
            return inputs[..., :T].sum(axis=1)  # (B,T), but no steps

    class Later(Layer):
        supports_masking = True

        def call(self, inputs):
            return inputs[:, 1:]

    class Computed(Later):
        def compute_mask(self, inputs, mask=None):
            return mask

    class ForAllRows(Later):
        def compute_mask(self, inputs, mask=None):
            return np.ones((1, T - 1), int)

        def compute_output_shape(self, input_shape):
            return (input_shape[0], T - 1, F)

    x = Input((T, F))
    for cls in (Summed, Later):
        for act in (lambda cls=cls: cls(name="l")(X, mask=HOLES), lambda cls=cls: cls(name="l")(Masking()(x))):
            outputs, said = watched(act)
            assert getattr(outputs, "mask", None) is None
            assert len(said) == 1 and said[0].startswith(f"l: {cls.__name__} hands on the mask as it is, of shape")
    for act in (lambda: Computed(name="l")(X, mask=HOLES), lambda: Computed(name="l")(Masking()(x))):
        with pytest.raises(ValueError, match="l: compute_mask: (mask: )?expected"):
            act()
    z = Input((T, F), batch_size=B)
    model = Model(z, ForAllRows()(z))
    for y in (ForAllRows()(X, mask=HOLES), model(X)):
        assert y.mask.dtype == bool and y.mask.shape == (B, T - 1) and y.mask.all()


def test_the_number_of_masks_is_that_of_the_outputs():
    class Twice(Layer):
        supports_masking = True

        def call(self, inputs):
            return [inputs, inputs]

        def compute_output_shape(self, input_shape):
            return [input_shape, input_shape]

    class Three(Twice):
        def compute_mask(self, inputs, mask=None):
            return (mask, mask, mask)

    x = Input((T, F))
    layer, masked = Twice(name="twice"), Masking()(x)
    for act in (lambda: layer(X, mask=HOLES), lambda: layer(masked)):
        outputs, said = watched(act)
        assert len(said) == 1 and said[0].startswith(
            "twice: Twice has 2 outputs and one mask, which goes with the first"
        )
        assert outputs[0].mask is not None and getattr(outputs[1], "mask", None) is None
    for act in (lambda: Three(name="three")(X, mask=HOLES), lambda: Three(name="three")(masked)):
        with pytest.raises(ValueError, match="three: compute_mask: expected a list of 2 masks or Nones.*received 3"):
            act()


def test_compute_mask_hears_of_the_mask_that_travels():
    """By hand as on symbolic tensors: or Masking.compute_mask(y) would un-mask what y masks."""
    y, x = Masking()(X), Input((T, F))
    masked = Masking()(x)
    for layer, expected in (
        (Masking(7.0), HOLES),
        (Dense(2), HOLES),
        (layers.Cropping1D(1), HOLES[:, 1:-1]),
        (GRU(2), None),
    ):
        layer(X)
        np.testing.assert_array_equal(layer.compute_mask(y), expected)
        symbolic_mask = layer.compute_mask(masked)
        assert (symbolic_mask is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(Model(x, symbolic_mask)(X), expected)
    np.testing.assert_array_equal(layers.Add().compute_mask([y, Dense(F)(X, mask=RIGHT)]), HOLES | RIGHT)
    assert layers.Add().compute_mask([X, X]) is None and Dense(2).compute_mask(X) is None


# ---- in larger models -----------------------------------------------------------------------------------------------
def test_a_mask_serves_two_branches():
    """Of one tensor, travelling and by hand: each branch as if it were alone."""
    x = Input((T, F))
    masked = Masking()(x)
    gru, dense, pool = GRU(3, return_sequences=True), Dense(3), layers.GlobalAveragePooling1D()
    late = Dense(3)
    model = Model(x, [gru(masked), pool(dense(masked)), pool(late(x), mask=masked.mask), masked.mask])
    outputs, said = watched(model, X)
    expected = gru(X, mask=HOLES), pool(dense(X, mask=HOLES)), pool(late(X), mask=HOLES), HOLES
    for y, e in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(y, e)
    np.testing.assert_array_equal(outputs[0].mask, HOLES)
    assert not said


def test_what_a_model_inside_loses_is_said_once_a_run():
    """By the layer that loses it, when the outer model is put together and in each of its runs."""
    z = Input((T, F))
    inner = Sequential([Dense(3), Flatten(name="flat"), Dense(2)], name="inner")
    functional = Model(z, Dense(2)(Flatten(name="flat")(Dense(3)(z))))
    for model in (inner, functional):
        x = Input((T, F))
        outer, said = watched(lambda model=model, x=x: Model(x, model(Masking()(x))))
        for messages in (
            said,
            watched(outer, X)[1],
            watched(outer, X, training=True)[1],
            watched(outer.predict, X)[1],
            watched(model, X, mask=HOLES)[1],
        ):
            assert len(messages) == 1 and messages[0].startswith("flat: Flatten ")
        twice, said = watched(lambda model=model, x=x: Model(x, [model(Masking()(x)), model(Masking()(x)), model(x)]))
        assert len(said) == 2 and len(watched(twice, X)[1]) == 2
        outer.compile("sgd", "mse")
        for act in (outer.fit, outer.evaluate, outer.train_on_batch):
            assert len(watched(act, X, np.zeros((B, 2)))[1]) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error", MaskDroppedWarning)
            for act, argument in ((outer, X), (outer.predict, X), (model, Masking()(x))):
                with pytest.raises(MaskDroppedWarning, match="flat"):
                    act(argument)


def test_masks_reach_the_loss_of_each_output():
    """The loss of an output is that under its own mask, by hand; so are gradients and metrics."""
    x = Input((T, F))
    steps = Dense(2, name="steps")(Masking()(x))
    shifted = layers.Cropping1D((1, 0), name="shifted")(steps)
    outputs = [steps, shifted, layers.GlobalAveragePooling1D(name="row")(steps), Dense(2, name="all")(x)]
    model = Model(x, outputs)
    targets = [np.random.default_rng(i).standard_normal(y.shape).astype("f") for i, y in enumerate(model(X))]
    model.compile("sgd", ["mse", "mae", "mse", "mse"], metrics=[["mse"], ["mae"], None, None])
    logs = model.evaluate(X, targets, return_dict=True, batch_size=3)
    masks = HOLES, HOLES[:, 1:], None, None
    errors = [np.asarray(y) - t for y, t in zip(model(X), targets, strict=True)]
    errors = [e if m is None else e[m] for e, m in zip(errors, masks, strict=True)]
    expected = [np.mean(errors[0] ** 2), np.mean(np.abs(errors[1])), np.mean(errors[2] ** 2), np.mean(errors[3] ** 2)]
    assert [logs[f"{name}_loss"] for name in ("steps", "shifted", "row", "all")] == pytest.approx(expected, rel=1e-5)
    assert (logs["steps_mse"], logs["shifted_mae"]) == pytest.approx(expected[:2], rel=1e-5)
    assert logs["loss"] == pytest.approx(sum(expected), rel=1e-5)
    # what stands under the masks of the first two does not count
    garbage = [np.where(m[..., None], t, 1e30).astype("f") for t, m in zip(targets[:2], masks[:2], strict=True)]
    assert model.evaluate(X, garbage + targets[2:], return_dict=True, batch_size=3) == logs
    model.train_on_batch(X, garbage + targets[2:])
    assert all(np.isfinite(w).all() for w in model.get_weights())


# ---- differences from Keras -----------------------------------------------------------------------------------------
def documented(cls):
    """Whether its docstring, that of a base class or of the layer it refers to speaks of Keras."""
    ours = [c for c in cls.__mro__ if c.__module__.startswith("fastmask.") and c is not Layer and issubclass(c, Layer)]
    docs = "\n".join(c.__doc__ or "" for c in ours or [Layer])
    others = re.findall(r"\b[Aa]s (?:in )?`?([A-Z]\w+?)(?:'s|`|\.|\b)", docs)
    return "Keras" in docs or any(documented(getattr(layers, name)) for name in others if hasattr(layers, name))


def test_every_difference_from_keras_stands_in_a_docstring():
    for row in ROWS:
        assert row.keras is None or documented(type(row.make(fm))), f"{row_id(row)}: Keras {row.keras.does}"
