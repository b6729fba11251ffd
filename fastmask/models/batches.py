"""Whatever fit, evaluate and predict are given, as batches, epoch after epoch.

Data come as a whole (arrays, Ragged, lists: see `data`) and are cut into batches here, or in batches already: from a
generator or another iterator, from an iterable such as a PyTorch DataLoader, or from an object with `__len__` and
`__getitem__` such as a keras.utils.PyDataset (Sequence). Each of their batches is

    x,  (x,),  (x, y),  (x, y, sample_weight)  or  (x, y, sample_weight, mask)

a tuple or a list, with None where there is nothing, each part in any of the forms that data have as a whole.
"""

import inspect
import itertools
import math
import warnings

import numpy as np

from fastmask.models.data import Rows, per_part
from fastmask.ops.mask import check_count
from fastmask.ragged import Ragged


def batches_of(
    model,
    x,
    y=None,
    sample_weight=None,
    mask=None,
    *,
    batch_size=None,
    steps=None,
    shuffle=False,
    bucket=False,
    targets=True,
    name="x",
):
    """The `Batches` of one call of fit, evaluate or predict on `model`.

    Parameters
    ----------
    model : Model
    x, y, sample_weight, mask, batch_size
        As `fit` takes them. What comes in batches already has its own y, sample_weight and mask, and a size.
    steps : int, optional
        Batches of an epoch; default: all there are.
    shuffle, bucket : bool
        As `fit` takes them.
    targets : bool
        False: only x and mask are of interest.
    name : str
        What errors call x.

    Raises
    ------
    ValueError, TypeError
        Something that does not fit together, or no numbers.
    """
    if shuffle not in (True, False):
        raise ValueError(f"shuffle: expected True or False, received {shuffle!r}")
    if not gives_batches(x):
        if inspect.isroutine(x):
            raise TypeError(f"{name}: expected data or batches, received a function: call it")
        if targets and y is None:
            raise ValueError("y: expected targets, received None")
        rows = rows_of(model, x, y, sample_weight, mask)
        return BatchesOfRows(rows, batch_size, steps, shuffle, bucket)
    beside = {"y": y, "sample_weight": sample_weight, "mask": mask, "batch_size": batch_size, "bucket": bucket or None}
    for argument, value in beside.items():
        if value is not None:
            raise ValueError(
                f"{argument}: expected None beside {name} in batches, which have their own, "
                f"received {type(value).__name__}"
            )
    return BatchesGiven(model, x, steps, shuffle, targets, name)


def gives_batches(x):
    """Whether x is no data, but an object that gives batches."""
    if isinstance(x, (list, tuple, dict, str, bytes, Ragged)) or hasattr(x, "__array__"):
        return False
    return any(hasattr(x, method) for method in ("__iter__", "__next__", "__getitem__"))


def rows_of(model, x, y=None, sample_weight=None, mask=None):
    """Checked `Rows`, with an entry for each input and output of the model.

    Lists are stacked only where the model declares inputs (B,F), which are no sequences.
    """
    x_names, stack = ["x"], False
    if model._input_keys is not None:
        names = model.input_names
        x_names = [f"x[{name!r}]" for name in names]
        one = len(names) == 1  # then it may come without a list around it
        x, mask = per_part(x, names, "x", share=one), per_part(mask, names, "mask", share=one)
    else:
        shape = None if model._shape_is_guess else model.input_shape
        x = x[model.input_names[0]] if isinstance(x, dict) and set(x) == set(model.input_names) else x
        if isinstance(x, (list, tuple)) and not len(x) and model.input_shape is not None and len(model.input_shape) > 2:
            x = Ragged(np.zeros((0, *model.input_shape[2:]), np.float32), [0])
        stack = shape is not None and len(shape) == 2 and shape[1] is not None
        x, mask = [x], [mask]
    names = model.output_names
    y_names = ["y"] if len(names) == 1 else [f"y[{name!r}]" for name in names]
    several = model._output_keys is not None
    y = per_part(y, names, "y", share=len(names) == 1) if several or isinstance(y, dict) else [y]
    if several or isinstance(sample_weight, dict):
        sample_weight = per_part(sample_weight, names, "sample_weight", share=True)
    else:
        sample_weight = [sample_weight]
    return Rows(x, y, mask, sample_weight, x_names, y_names, stack)


class Batches:
    """Batches, epoch after epoch. Subclasses say what one pass through the data is.

    Attributes
    ----------
    steps : int or None
        The number of batches of an epoch, if it is known.
    once : bool
        The data cannot be gone through again.
    exhausted : bool
        And there are none left.
    """

    once = exhausted = False
    generator = None  # what `shuffle` and `bucket` draw from; fit gives one, when nothing can be wrong any more
    rows = None  # the Rows they are cut from, if they are
    _rest = None  # of a pass that epochs of a given number of steps have not used up

    def __init__(self, asked, of_a_pass, name="x"):
        self.steps = of_a_pass if asked is None else asked
        self._asked, self._name = asked, name
        self._any = False  # whether a batch has come since `from_start`

    def one_pass(self):
        """An iterator of the `Batch`es of one pass through the data."""
        raise NotImplementedError(f"{type(self).__name__} has no one_pass()")

    def epoch(self):
        """An iterator of the batches of the next epoch: a pass through the data, or, if a number of steps was asked
        for, so many, going on where the last epoch ended.

        Warns, and ends the epoch, if the data end before.
        """
        for batch in self.one_pass() if self._asked is None else self._steps():
            self._any = True
            yield batch
        self.exhausted = self.once and self._rest is None
        if not self._any:
            raise ValueError(f"{self._name}: expected at least one batch, received none")

    def _steps(self):
        for step in range(self._asked):
            batch = None if self._rest is None else next(self._rest, None)
            if batch is None and step == 0:  # the pass ended with the last epoch
                self._rest = self.one_pass()
                batch = next(self._rest, None)
            if batch is None:
                warnings.warn(
                    f"{self._name}: ran out of data after {step} of {self._asked} steps of an epoch", stacklevel=5
                )
                self._rest = None
                return
            yield batch

    def from_start(self):
        """An iterator of the batches of one epoch, from the beginning of the data, where they have one."""
        self._rest, self._any = None, False
        return self.epoch()

    def check_lasts(self, epochs, argument):
        """ValueError if an iterator would have to begin anew to last for all these epochs; `argument` ends one."""
        if self.once and self._asked is None and len(list(itertools.islice(epochs, 2))) > 1:
            raise ValueError(f"{argument}: expected a number, as {self._name}, an iterator, is to last for more epochs")

    def split(self, fraction, batch_size, steps):
        """(training, validation): Batches of the first rows and of the last `fraction` of them."""
        raise ValueError(f"validation_split: expected 0 where {self._name} comes in batches: give validation_data")


class BatchesOfRows(Batches):
    """Rows, cut into batches; in a new order in each pass if `shuffle`, rows of similar length together if `bucket`."""

    def __init__(self, rows, batch_size=None, asked=None, shuffle=False, bucket=False):
        if batch_size is None:
            size = 32 if asked is None else max(1, math.ceil(len(rows) / asked))
        else:
            size = check_count(batch_size, "batch_size", minimum=1)
        super().__init__(asked, max(1, math.ceil(len(rows) / size)))
        self.rows, self._size, self._given_size = rows, size, batch_size
        self._shuffle, self._bucket = shuffle, bucket

    def one_pass(self):
        for rows in self.rows.batches(self._size, self._shuffle, self._bucket, self.generator):
            yield self.rows.take(rows)

    def split(self, fraction, batch_size, steps):
        first, last = self.rows.split(fraction)
        training = BatchesOfRows(first, self._given_size, self._asked, self._shuffle, self._bucket)
        return training, BatchesOfRows(last, batch_size, steps)


class BatchesGiven(Batches):
    """Batches that somebody else has cut. The order of those of an object with `__getitem__` is a new one in each pass
    if `shuffle`; its methods on_epoch_begin and on_epoch_end are called, if it has them."""

    def __init__(self, model, source, asked, shuffle, targets, name):
        super().__init__(asked, _number_of(source), name)
        self.once = hasattr(source, "__next__")
        self._model, self._source, self._targets = model, source, targets
        self._shuffle = shuffle

    def epoch(self):
        getattr(self._source, "on_epoch_begin", _nothing)()
        yield from super().epoch()
        getattr(self._source, "on_epoch_end", _nothing)()

    def one_pass(self):
        for i, item in enumerate(self._items()):
            try:
                batch = self._as_batch(item)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{self._name}: batch {i}: {error}") from error
            yield batch

    def _items(self):
        if not hasattr(self._source, "__getitem__"):
            return iter(self._source)
        n = _number_of(self._source)
        if n is None:
            order = itertools.count()
        else:
            order = self.generator.permutation(n).tolist() if self._shuffle else range(n)
        return (self._source[i] for i in order)

    def _as_batch(self, item):
        parts = tuple(item) if isinstance(item, (list, tuple)) else (item,)
        if not 1 <= len(parts) <= 4:
            raise ValueError(
                "expected x or a tuple (x, y, sample_weight, mask), of which the last ones may be missing, "
                f"received {len(parts)} parts (a list of arrays as the whole of a batch is written as (x,))"
            )
        x, y, sample_weight, mask = parts + (None,) * (4 - len(parts))
        if not self._targets:
            y = sample_weight = None
        return rows_of(self._model, x, y, sample_weight, mask).batch()


def _number_of(source):
    """How many batches it has, None if that is not known."""
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return getattr(source, "num_batches", None)


def _nothing():
    pass
