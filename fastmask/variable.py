"""Variable: a weight. Array-like, changed only through `assign`, so that every change is seen. RowsGradient: the
gradient of one of which only some rows were used."""

import itertools
import threading

import numpy as np

from fastmask.checks import check_dtype, check_name

_versions = itertools.count(1)  # one counter for all: next() is atomic, so no two changes ever share a version


class Variable(np.lib.mixins.NDArrayOperatorsMixin):
    """A named array of weights.

    Parameters
    ----------
    value : array-like of numbers
        The initial value; copied.
    name : str, optional
    trainable : bool
        Whether optimizers change it.
    dtype : str or dtype, optional
        "float32" or "float64"; default: that of `value`, float32 for other numbers.

    Attributes
    ----------
    regularizer : Regularizer or None
        Its penalty is added to the loss in training.
    constraint : callable or None
        What the value is put through after each step of an optimizer.

    Notes
    -----
    A Variable can be used wherever NumPy takes an array: `np.dot(x, v)`, `v + 1`, `v[0]`, `np.asarray(v)`. What comes
    out of `np.asarray(v)`, `v.value` and `v[...]` is a read-only view, which follows later changes. Changes go through
    `assign`, `v[...] = x` or `v += x`; each gives the variable a new `version`. Layers keep packed copies of their
    weights under that number, so a change takes effect at the next call.

    `==` compares element by element, as arrays do; variables are hashed by identity.

    Examples
    --------
    >>> v = Variable([1.0, 2.0], name="bias")
    >>> v += 1
    >>> v
    Variable(name='bias', shape=(2,), dtype=float32, trainable=True, value=[2. 3.])
    >>> np.asarray(v)[0] = 5
    Traceback (most recent call last):
    ValueError: assignment destination is read-only
    """

    __hash__ = object.__hash__

    def __init__(self, value, name=None, trainable=True, dtype=None):
        if dtype is None:  # a list of Python floats is float64 only because NumPy says so
            dtype = np.float64 if getattr(value, "dtype", None) == np.float64 else np.float32
        dtype = check_dtype(dtype)
        self._own(np.array(_numbers(value, "value"), dtype=dtype, order="C"))
        self.name = check_name(name) or "variable"
        self.trainable = bool(trainable)
        self.regularizer = self.constraint = None

    def _own(self, data):
        self._data = data  # written to only by assign, __setitem__ and optimizers, each followed by _changed()
        self.value = data.view()
        self.value.flags.writeable = False
        self._local = threading.local()
        self._changed()

    def _changed(self):
        """Say that `_data` has been written to. Called after the write: a pack made meanwhile is keyed by the old
        version."""
        self.version = next(_versions)

    # ---- reading ----------------------------------------------------------------------------------------------------
    @property
    def shape(self):
        return self._data.shape

    @property
    def dtype(self):
        return self._data.dtype

    @property
    def ndim(self):
        return self._data.ndim

    @property
    def size(self):
        return self._data.size

    def numpy(self):
        """A copy, free to be changed."""
        return self._data.copy()

    def __array__(self, dtype=None, copy=None):
        if dtype is not None and np.dtype(dtype) != self.dtype:
            if copy is False:
                raise ValueError(
                    f"copy: expected None or True to convert {self.dtype} to {np.dtype(dtype)}, received False"
                )
            return self._data.astype(dtype)
        return self._data.copy() if copy else self.value

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        arrays = [x.value if isinstance(x, Variable) else x for x in inputs]
        targets = out if isinstance(out, tuple) else (out,)
        if method == "at":  # changes its first argument
            if isinstance(inputs[0], Variable):
                arrays[0] = inputs[0].numpy()
            ufunc.at(*arrays, **kwargs)
            if isinstance(inputs[0], Variable):
                inputs[0].assign(arrays[0])
            return None
        if not any(isinstance(target, Variable) for target in targets):
            if targets:
                kwargs["out"] = targets
            return getattr(ufunc, method)(*arrays, **kwargs)
        if len(targets) != 1:
            raise TypeError(
                f"out: expected arrays for {ufunc.__name__}, which has several outputs, received a Variable"
            )
        target = targets[0]  # np.add(v, 1, out=v), which is what v += 1 is
        target.assign(getattr(ufunc, method)(*arrays, **kwargs))
        return target

    def __getitem__(self, key):
        return self.value[key]

    def __len__(self):
        return len(self.value)

    def __iter__(self):
        return iter(self.value)

    def __float__(self):
        return float(self.value)

    def __bool__(self):
        return bool(self.value)

    # ---- changing ---------------------------------------------------------------------------------------------------
    def assign(self, value):
        """Replace the whole value.

        Parameters
        ----------
        value : array-like of this variable's shape

        Returns
        -------
        Variable
            Itself.

        Raises
        ------
        ValueError
            Another shape. Nothing is written then.
        TypeError
            Not numbers.
        """
        value = value.value if isinstance(value, Variable) else _numbers(value, self.name)
        if value.shape != self.shape:
            raise ValueError(f"{self.name}: expected shape {self.shape}, received {value.shape}")
        Changes.note(self)
        self._data[...] = value
        self._changed()
        return self

    def __setitem__(self, key, value):
        value = value.value if isinstance(value, Variable) else _numbers(value, self.name)
        try:
            np.broadcast_to(value, self.value[key].shape)
        except IndexError as error:
            raise IndexError(
                f"{self.name}: expected an index of shape {self.shape}, received {key!r}: {error}"
            ) from None
        except ValueError:
            raise ValueError(
                f"{self.name}: expected shape {self.value[key].shape} for [{key!r}], received {value.shape}"
            ) from None
        Changes.note(self)
        self._data[key] = value
        self._changed()

    def assign_add(self, value):
        """v += value."""
        return self.assign(self.value + self._addend(value))

    def assign_sub(self, value):
        """v -= value."""
        return self.assign(self.value - self._addend(value))

    def _addend(self, value):
        """What can be added: numbers of this shape or of one that is broadcast to it."""
        value = _numbers(value, self.name)
        try:
            np.broadcast_to(value, self.shape)
        except ValueError:
            raise ValueError(f"{self.name}: expected shape {self.shape}, received {value.shape}") from None
        return value

    # ---- the gradient of the latest backward in this thread; see Layer.add_gradient
    # ------------------------------------
    @property
    def gradient(self):
        """What the latest backward of this thread gave, or None."""
        return getattr(self._local, "gradient", None)

    @gradient.setter
    def gradient(self, value):
        self._local.gradient = value

    # ---- copying and showing ----------------------------------------------------------------------------------------
    def __getstate__(self):
        kept = ("name", "trainable", "regularizer", "constraint")
        return {"data": self._data} | {key: getattr(self, key) for key in kept}

    def __setstate__(self, state):
        self._own(state.pop("data"))
        self.__dict__.update(state)

    def __repr__(self):
        value = np.array2string(self.value, threshold=20)
        return (
            f"Variable(name={self.name!r}, shape={self.shape}, dtype={self.dtype}, "
            f"trainable={self.trainable}, value={value})"
        )


class Changes:
    """Takes back what this thread assigned to Variables inside, if an exception leaves the block before `keep`.

    with Changes() as changes:
        ...
        changes.keep()
    """

    _current = threading.local()

    def __enter__(self):
        self._outer, self._before = getattr(self._current, "changes", None), {}
        self._current.changes = self
        return self

    def __exit__(self, *error):
        self._current.changes = self._outer
        for v, data in self._before.items():
            v._data[...] = data
            v._changed()

    def keep(self):
        """What was assigned so far, and what will be, stays."""
        self._current.changes, self._before = self._outer, {}

    @classmethod
    def note(cls, v):
        """Called before a value is written."""
        changes = getattr(cls._current, "changes", None)
        if changes is not None and v not in changes._before:
            changes._before[v] = v._data.copy()


class RowsGradient:
    """Gradient of a weight (V, ...) that is zero outside some rows: what an Embedding hands on.

    Parameters
    ----------
    rows : int64 array (n,)
        Numbers of the rows, ascending, each once.
    values : array (n, ...)
        The gradient of each of them.
    shape : tuple
        Of the weight: (V, ...).

    Notes
    -----
    `np.asarray(g)` is the dense gradient. A sum of two is of this kind again, a sum with a dense one is dense.
    Optimizers go through the rows only: see `optimizers.Optimizer`.

    Examples
    --------
    >>> g = RowsGradient(np.array([0, 2]), np.array([[1.0], [5.0]]), (4, 1))
    >>> np.asarray(g + g).ravel()
    array([ 2.,  0., 10.,  0.])
    """

    __array_ufunc__ = None  # a dense array on the left leaves the sum to __radd__

    def __init__(self, rows, values, shape):
        self.rows, self.values, self.shape = rows, values, tuple(shape)

    @property
    def dtype(self):
        return self.values.dtype

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("copy: expected None or True for the dense form of a RowsGradient, received False")
        dense = np.zeros(self.shape, self.values.dtype)
        dense[self.rows] = self.values
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def __add__(self, other):
        if not isinstance(other, RowsGradient):
            dense = np.array(other)
            dense[self.rows] += self.values
            return dense
        rows = np.union1d(self.rows, other.rows)
        values = np.zeros((len(rows), *self.shape[1:]), self.values.dtype)
        for part in (self, other):
            values[np.searchsorted(rows, part.rows)] += part.values
        return RowsGradient(rows, values, self.shape)

    __radd__ = __add__

    def __truediv__(self, number):
        return RowsGradient(self.rows, self.values / number, self.shape)

    def __repr__(self):
        return f"RowsGradient({len(self.rows)} of {self.shape[0]} rows, shape={self.shape}, dtype={self.dtype})"


def _numbers(value, name):
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name}: expected an array, received what is none: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, received an array of dtype {array.dtype}")
    return array
