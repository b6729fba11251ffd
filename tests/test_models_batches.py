"""What comes in batches: generators, iterables, objects with __getitem__; numbers of steps; bad input."""

import warnings

import numpy as np
import pytest

from fastmask import initializers
from fastmask.callbacks import Callback
from fastmask.layers import GRU, Dense, Input
from fastmask.models import Model, Sequential
from fastmask.optimizers import SGD, Adam
from fastmask.ragged import Ragged
from test_models import B, F, K, compiled, data, random, same

X, MASK, ROWS, STEPS = data()
WEIGHTS = random(B, seed=5) ** 2
SIZE = 4
CUTS = [slice(i, i + SIZE) for i in range(0, B, SIZE)]
LONGEST = [MASK[c].sum(axis=1).max() for c in CUTS]
RAGGED = Ragged.from_padded(X, MASK)


def tagger():
    initializers.set_random_seed(1)
    model = Sequential([Input((None, F)), GRU(5, return_sequences=True), Dense(K, activation="softmax")])
    return compiled(model, optimizer=Adam(0.01))


class Dataset:
    """What a keras.utils.PyDataset (Sequence) has."""

    def __init__(self, batches):
        self.batches, self.asked, self.hooks = batches, [], []

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.batches[i]

    def on_epoch_begin(self):
        self.hooks.append("begin")

    def on_epoch_end(self):
        self.hooks.append("end")


class Loader:
    """What a PyTorch DataLoader has: a length and __iter__, no __getitem__; batches are lists."""

    def __init__(self, batches):
        self.batches = [list(batch) for batch in batches]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Lengthless:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def endless(batches):
    while True:
        yield from batches


def rest_of(batches):
    """A generator of these batches and no more."""
    yield from batches


SOURCES = {
    "generator": (endless, {"steps_per_epoch": len(CUTS)}),
    "iterator": (lambda batches: iter(batches * 3), {"steps_per_epoch": len(CUTS)}),
    "dataset": (Dataset, {"shuffle": False}),
    "loader": (Loader, {}),
    "lengthless": (Lengthless, {}),
}
BATCHES = {
    "x y": ([(X[c], STEPS[c]) for c in CUTS], {}),
    "weights": ([(X[c], STEPS[c], WEIGHTS[c]) for c in CUTS], {"sample_weight": WEIGHTS}),
    "masks": ([(X[c], STEPS[c], None, MASK[c]) for c in CUTS], {"mask": MASK}),
    "all": ([(X[c], STEPS[c], WEIGHTS[c], MASK[c]) for c in CUTS], {"sample_weight": WEIGHTS, "mask": MASK}),
    "ragged": ([(RAGGED.take(np.arange(B)[c]), STEPS[c]) for c in CUTS], {"mask": MASK}),
    "lists": ([(list(RAGGED.take(np.arange(B)[c])), STEPS[c]) for c in CUTS], {"mask": MASK}),
    "cut": ([(X[c, :n], STEPS[c, :n], None, MASK[c, :n]) for c, n in zip(CUTS, LONGEST, strict=True)], {"mask": MASK}),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("form", BATCHES)
def test_batches_train_as_arrays_do(form, source):
    batches, options = BATCHES[form]
    expected = tagger()
    history = expected.fit(X, STEPS, SIZE, epochs=3, shuffle=False, verbose=0, **options)
    model, (make, given) = tagger(), SOURCES[source]
    got = model.fit(make(batches), epochs=3, verbose=0, **given)
    same(model.get_weights(), expected.get_weights())
    assert got.history == history.history and got.epoch == [0, 1, 2]
    assert history.params["steps"] == 3 and got.params["steps"] == (None if source == "lengthless" else 3)


@pytest.mark.parametrize("source", SOURCES)
def test_evaluate_and_predict_take_batches(source):
    model, make = tagger(), SOURCES[source][0]
    batches, _ = BATCHES["all"]
    expected = model.evaluate(X, STEPS, SIZE, sample_weight=WEIGHTS, mask=MASK)
    steps = {"steps": 3} if "steps_per_epoch" in SOURCES[source][1] else {}
    assert model.evaluate(make(batches), **steps) == expected
    assert model.evaluate(make(batches), steps=2) == model.evaluate(
        X[:8], STEPS[:8], SIZE, sample_weight=WEIGHTS[:8], mask=MASK[:8]
    )
    assert model.evaluate(X, STEPS, SIZE, steps=1) == model.evaluate(X[:SIZE], STEPS[:SIZE])
    same([model.predict(make(batches), **steps)], [model.predict(X, SIZE, mask=MASK)])
    same([model.predict(make([(X[c],) for c in CUTS]), **steps)], [model.predict(X)])
    if source != "loader":  # there they are lists
        same([model.predict(make([X[c] for c in CUTS]), **steps)], [model.predict(X)])
    ragged = model.predict(make(BATCHES["lists"][0]), **steps)
    same([ragged.values], [model.predict(RAGGED, SIZE).values])
    same([model.predict(X, SIZE, steps=2)], [model.predict(X[:8])])


def test_validation_with_batches():
    batches, _ = BATCHES["masks"]

    def losses(data, **options):
        return tagger().fit(X, STEPS, epochs=3, verbose=0, validation_data=data, **options).history["val_loss"]

    expected = losses((X, STEPS, None, MASK), validation_batch_size=SIZE)
    assert losses((X, STEPS), validation_mask=MASK, validation_batch_size=SIZE) == expected
    assert losses((X, STEPS, WEIGHTS)) == losses(endless([(X, STEPS, WEIGHTS)]), validation_steps=1)
    for make in (Dataset, Loader, Lengthless):
        assert losses(make(batches)) == expected
    assert losses(endless(batches), validation_steps=3) == expected
    expected = losses((X[:8], STEPS[:8], None, MASK[:8]), validation_batch_size=SIZE)
    assert losses(Loader(batches), validation_steps=2) == expected  # from the beginning every time
    assert losses((X, STEPS, None, MASK), validation_batch_size=SIZE, validation_steps=2) == expected
    assert len(losses(rest_of(batches), validation_freq=[2])) == 1


def test_batches_of_several_inputs_and_outputs():
    a, b = Input((None, F), name="a"), Input((None, F), name="b")
    states = GRU(4, return_sequences=True, name="states")
    results = []
    for way in ("arrays", "lists", "dicts"):
        initializers.set_random_seed(0)
        model = Model([a, b], {"tags": Dense(K, activation="softmax")(states(a)), "value": Dense(1)(states(b))})
        model.compile(SGD(0.1), {"tags": "sparse_categorical_crossentropy", "value": "mse"})
        model.set_weights([random(*w.shape) for w in model.get_weights()])
        inputs, targets = [X, X[::-1]], [STEPS, X[..., :1]]
        weights = [WEIGHTS, MASK.astype("float32")]
        if way == "arrays":
            history = model.fit(
                inputs, targets, SIZE, sample_weight=weights, mask=[MASK, None], shuffle=False, epochs=2, verbose=0
            )
        elif way == "lists":
            batches = [
                ([v[c] for v in inputs], [v[c] for v in targets], [v[c] for v in weights], [MASK[c], None])
                for c in CUTS
            ]
            history = model.fit(Loader(batches), epochs=2, verbose=0)
            same(model.predict(Loader(batches)).values(), model.predict(inputs, mask=[MASK, None]).values())
        else:
            names = ("a", "b"), ("tags", "value")
            batches = [
                (
                    {n: v[c] for n, v in zip(names[0], inputs, strict=True)},
                    {n: v[c] for n, v in zip(names[1], targets, strict=True)},
                    {n: v[c] for n, v in zip(names[1], weights, strict=True)},
                    {"a": MASK[c]},
                )
                for c in CUTS
            ]
            history = model.fit(rest_of(batches * 2), epochs=2, steps_per_epoch=3, verbose=0)
        results.append([*model.get_weights(), *history.history.values()])
    assert len(history.history) == 3
    same(results[0], results[1])
    same(results[0], results[2])


# ---- epochs of a given number of steps ------------------------------------------------------------------------------
class Watch(Callback):
    """Remembers how many batches each epoch had, and that training ended."""

    def __init__(self):
        self.epochs, self.ended = [], False

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[-1] += 1

    def on_train_end(self, logs=None):
        self.ended = True


def fit(x, y=None, epochs=3, **options):
    watch = Watch()
    history = tagger().fit(x, y, epochs=epochs, verbose=0, callbacks=watch, **options)
    assert watch.ended
    return watch.epochs, history


def test_an_epoch_goes_on_where_the_last_one_ended():
    results = []
    for way in ("steps", "whole"):
        model = tagger()
        initializers.set_random_seed(3)
        if way == "steps":  # epochs of two of the four batches of a pass
            model.fit(X, STEPS, 3, epochs=6, steps_per_epoch=2, verbose=0)
        else:
            model.fit(X, STEPS, 3, epochs=3, verbose=0)
        results.append(model.get_weights())
    same(*results)
    assert fit(X, STEPS, steps_per_epoch=2)[0] == [2, 2, 2]  # of 6 and 5 rows
    assert fit(X, STEPS, validation_split=0.3, steps_per_epoch=4)[1].params["steps"] == 4


def test_an_epoch_ends_early_if_the_data_do():
    with pytest.warns(UserWarning, match="x: ran out of data after 1 of 2 steps of an epoch"):
        assert fit(X, STEPS, batch_size=4, steps_per_epoch=2, epochs=4)[0] == [2, 1, 2, 1]
    with pytest.warns(UserWarning, match="ran out of data after 3 of 5"):
        assert fit(Loader(BATCHES["masks"][0]), steps_per_epoch=5)[0] == [3, 3, 3]
    with pytest.warns(UserWarning, match="x: ran out of data after 1 of 2 steps"):
        epochs, history = fit(rest_of(BATCHES["masks"][0]), steps_per_epoch=2, epochs=9)
    assert epochs == [2, 1] and history.epoch == [0, 1]  # an iterator cannot begin anew
    with pytest.warns(UserWarning, match="x: ran out of data after 0 of 3 steps"):
        epochs, history = fit(rest_of(BATCHES["masks"][0]), steps_per_epoch=3, epochs=9)
    assert epochs == [3, 0] and history.epoch == [0]  # nobody could know before
    with pytest.warns(UserWarning, match="ran out of data after 3 of 4 steps"):
        tagger().evaluate(rest_of(BATCHES["masks"][0]), steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(rest_of(BATCHES["masks"][0]), epochs=1)[0] == [3]


def test_no_batch_is_made_that_is_not_used():
    made = []

    def generate():
        for batch in endless(BATCHES["masks"][0]):
            made.append(1)
            yield batch

    source = generate()
    fit(source, steps_per_epoch=2, epochs=2)
    assert len(made) == 4
    tagger().evaluate(source, steps=1)
    assert len(made) == 5
    next(source)  # it is not closed either


def test_order_and_hooks_of_a_dataset():
    dataset = Dataset(BATCHES["masks"][0] * 3)
    initializers.set_random_seed(0)
    fit(dataset)
    orders = [dataset.asked[i : i + 9] for i in (0, 9, 18)]
    assert all(sorted(order) == list(range(9)) != order for order in orders) and orders[0] != orders[1]
    assert dataset.hooks == ["begin", "end"] * 3
    dataset.asked.clear()
    model = tagger()
    model.evaluate(dataset)
    assert dataset.asked == list(range(9)) and dataset.hooks == ["begin", "end"] * 4

    class Infinite(Dataset):
        num_batches = __len__ = None

        def __getitem__(self, i):
            return super().__getitem__(i % 9)

    dataset = Infinite(dataset.batches)
    assert fit(dataset, steps_per_epoch=7)[0] == [7, 7, 7] and dataset.asked == [i % 9 for i in range(21)]


# ---- bad input ------------------------------------------------------------------------------------------------------
def good():
    return rest_of(BATCHES["masks"][0])


def one(*batches, **options):
    return lambda: tagger().fit(rest_of(batches), verbose=0, **options)


def beside(**options):
    return lambda: tagger().fit(good(), verbose=0, **options)


BAD = {
    "y": (beside(y=STEPS), ValueError, "y: expected None beside x in batches, which have their own, received ndarray"),
    "sample_weight": (beside(sample_weight=WEIGHTS), ValueError, "sample_weight: expected None beside x in batches"),
    "mask": (beside(mask=MASK), ValueError, "mask: expected None beside x in batches"),
    "batch_size": (beside(batch_size=3), ValueError, "batch_size: expected None beside x in batches"),
    "bucket": (beside(bucket=True), ValueError, "bucket: expected None beside x in batches"),
    "validation_split": (beside(validation_split=0.5), ValueError, "validation_split: expected 0 where x comes in bat"),
    "epochs": (beside(epochs=2), ValueError, "steps_per_epoch: expected a number, as x, an iterator, is to last for"),
    "validations": (
        lambda: tagger().fit(X, STEPS, epochs=2, validation_data=good(), verbose=0),
        ValueError,
        "validation_steps: expected a number, as validation_data, an iterator",
    ),
    "validation_mask": (
        lambda: tagger().fit(X, STEPS, validation_data=good(), validation_mask=MASK, verbose=0),
        ValueError,
        "mask: expected None beside validation_data in batches",
    ),
    "two_masks": (
        lambda: tagger().fit(X, STEPS, validation_data=(X, STEPS, None, MASK), validation_mask=MASK, verbose=0),
        ValueError,
        "validation_mask: expected None beside a mask in validation_data",
    ),
    "empty": (one(), ValueError, "x: expected at least one batch, received none"),
    "empty_evaluate": (lambda: tagger().evaluate(rest_of([])), ValueError, "x: expected at least one batch"),
    "empty_predict": (lambda: tagger().predict(Loader([])), ValueError, "x: expected at least one batch"),
    "empty_validation": (
        lambda: tagger().fit(X, STEPS, validation_data=rest_of([]), verbose=0),
        ValueError,
        "validation_data: expected at least one batch",
    ),
    "no_targets": (one((X,)), ValueError, "y: expected targets for the output, which has a loss, received None"),
    "parts": (one((X, STEPS, None, MASK, None)), ValueError, "x: batch 0: expected x or a tuple .*received 5 parts"),
    "rows": (
        one((X, STEPS), (X, STEPS[:-1])),
        ValueError,
        "x: batch 1: y: expected 11 rows as x has, received 10",
    ),
    "numbers": (one((["a"] * 3, STEPS[:3])), TypeError, "x: batch 0: x: expected numbers"),
    "function": (lambda: tagger().fit(good, verbose=0), TypeError, "x: expected data or batches, received a function"),
    "nothing": (lambda: tagger().fit(verbose=0), ValueError, "y: expected targets"),
    "steps": (
        lambda: tagger().fit(X, STEPS, steps_per_epoch=0),
        ValueError,
        "steps_per_epoch: expected at least 1, received 0",
    ),
    "validation_steps": (
        lambda: tagger().fit(X, STEPS, validation_data=(X, STEPS), validation_steps=0),
        ValueError,
        "validation_steps: expected at least 1, received 0",
    ),
    "evaluate_steps": (lambda: tagger().evaluate(X, STEPS, steps=1.5), TypeError, "steps: expected a whole number"),
    "shuffle": (
        lambda: tagger().fit(X, STEPS, shuffle="batch"),
        ValueError,
        "shuffle: expected True or False, received 'batch'",
    ),
    "freq": (
        lambda: tagger().fit(X, STEPS, validation_data=(X, STEPS), validation_freq=0.5),
        TypeError,
        "validation_freq: expected a whole number, received 0.5",
    ),
    "predict_T": (
        lambda: tagger().predict(rest_of([X, X[:, :3]])),
        ValueError,
        "x: expected batches with outputs of one shape .*or Ragged, received shapes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act()
