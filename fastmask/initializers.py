"""Weight initializers of Keras 3, and the library's one source of random numbers.

An initializer is called with a shape and a dtype. Its seed is fixed when it is made (drawn from the global generator if
none is given), so calling it twice gives the same values, as in Keras; two initializers differ.
"""

import math

import numpy as np

from fastmask.checks import check_dtype, check_number, check_positive
from fastmask.registry import Configured, Kind

# ---- random numbers --------------------------------------------------------------------------------------------------
_generator = np.random.default_rng()


def set_random_seed(seed):
    """Make everything random in fastmask (new weights, dropout, shuffling) repeatable from here on.

    Parameters
    ----------
    seed : int
        0 or more. The same seed and the same calls give the same bits. NumPy's own global state is left alone.

    Raises
    ------
    ValueError
        Not an int, or negative.
    """
    global _generator
    _generator = np.random.default_rng(check_seed(seed, optional=False))


def new_generator(seed=None):
    """A generator of its own: from `seed`, or, if that is None, from a seed drawn from the global generator."""
    return np.random.default_rng(draw_seed() if seed is None else check_seed(seed))


def draw_seed():
    """A seed from the global generator."""
    return int(_generator.integers(2**63))


def check_seed(seed, optional=True):
    """`seed` as an int, or None."""
    if seed is None and optional:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected an int of 0 or more{' or None' if optional else ''}, received {seed!r}")
    return int(seed)


# ---- the base --------------------------------------------------------------------------------------------------------
class Initializer(Configured):
    """Base class: `__call__(shape, dtype=None)` returns an array, `get_config()` the constructor's arguments."""

    def __call__(self, shape, dtype=None):
        raise NotImplementedError(f"{type(self).__name__} has no __call__(shape, dtype)")


def _form(shape, dtype):
    """What `__call__` is given, checked: the shape as a tuple, the name of the dtype."""
    return check_shape(shape), "float32" if dtype is None else check_dtype(dtype)


def check_shape(shape):
    """`shape` as a tuple of whole numbers of 0 or more, or ValueError/TypeError."""
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"shape: expected a tuple of whole numbers of 0 or more, received {shape!r}")
    for n in shape:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise ValueError(f"shape: expected whole numbers of 0 or more, received {shape!r}")
    return tuple(shape)


class RandomInitializer(Initializer):
    """One that draws: from `seed`, or from a seed drawn from the global one; the same values at every call."""

    def __init__(self, seed=None):
        self.seed = check_seed(seed)
        self._drawn_seed = draw_seed() if seed is None else self.seed

    def generator(self):
        return np.random.default_rng(self._drawn_seed)


# ---- constants -------------------------------------------------------------------------------------------------------
class Zeros(Initializer):
    """All 0."""

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        return np.zeros(shape, dtype)


class Ones(Initializer):
    """All 1."""

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        return np.ones(shape, dtype)


class Constant(Initializer):
    """All `value`."""

    def __init__(self, value=0.0):
        self.value = check_number(value, "value", low=-math.inf)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        return np.full(shape, self.value, dtype)


class Identity(Initializer):
    """`gain` times the identity matrix; only for two axes."""

    def __init__(self, gain=1.0):
        self.gain = check_number(gain, "gain", low=-math.inf)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        if len(shape) != 2:
            raise ValueError(f"shape: expected two axes for the identity, received {tuple(shape)}")
        return np.dtype(dtype).type(self.gain) * np.eye(*shape, dtype=dtype)


# ---- plain random numbers --------------------------------------------------------------------------------------------
class RandomUniform(RandomInitializer):
    """Uniform on [minval, maxval)."""

    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        self.minval = check_number(minval, "minval", low=-math.inf)
        self.maxval = check_number(maxval, "maxval", low=-math.inf)
        if self.minval > self.maxval:
            raise ValueError(f"maxval: expected at least minval = {minval!r}, received {maxval!r}")
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        return self.generator().uniform(self.minval, self.maxval, shape).astype(dtype)


class RandomNormal(RandomInitializer):
    """Normal with that mean and standard deviation."""

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        self.mean, self.stddev = check_number(mean, "mean", low=-math.inf), check_number(stddev, "stddev")
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        return self.generator().normal(self.mean, self.stddev, shape).astype(dtype)


class TruncatedNormal(RandomInitializer):
    """Normal, but values more than two standard deviations from the mean are drawn again."""

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        self.mean, self.stddev = check_number(mean, "mean", low=-math.inf), check_number(stddev, "stddev")
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        z = _truncated_standard_normal(self.generator(), shape)
        return (self.mean + self.stddev * z).astype(dtype)


def _truncated_standard_normal(generator, shape):
    z = generator.standard_normal(shape)
    outside = np.abs(z) > 2
    while outside.any():
        z[outside] = generator.standard_normal(np.count_nonzero(outside))
        outside = np.abs(z) > 2
    return z


# ---- scaled by the number of inputs and outputs ----------------------------------------------------------------------
STDDEV_OF_TRUNCATED = 0.87962566103423978  # of a standard normal cut at +-2


def fans(shape):
    """(fan_in, fan_out) of a weight: a matrix (F,H) has (F, H); further leading axes count as a receptive field."""
    shape = check_shape(shape)
    if len(shape) < 2:
        n = int(shape[0]) if shape else 1
        return n, n
    field = math.prod(shape[:-2])
    return int(shape[-2] * field), int(shape[-1] * field)


class VarianceScaling(RandomInitializer):
    """Random numbers of variance scale / n, where n is `mode`: "fan_in", "fan_out" or "fan_avg", their mean.

    `distribution` is "uniform", "truncated_normal" (also "normal") or "untruncated_normal".
    """

    def __init__(self, scale=1.0, mode="fan_in", distribution="truncated_normal", seed=None):
        distribution = "truncated_normal" if distribution == "normal" else distribution
        modes, distributions = ("fan_in", "fan_out", "fan_avg"), ("uniform", "truncated_normal", "untruncated_normal")
        if mode not in modes:
            raise ValueError(f"mode: expected one of {', '.join(modes)}, received {mode!r}")
        if distribution not in distributions:
            raise ValueError(f"distribution: expected one of {', '.join(distributions)}, received {distribution!r}")
        self.scale, self.mode, self.distribution = check_positive(scale, "scale"), mode, distribution
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        fan_in, fan_out = fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        stddev = math.sqrt(self.scale / max(1.0, n))
        generator = self.generator()
        if self.distribution == "uniform":
            limit = math.sqrt(3) * stddev
            values = generator.uniform(-limit, limit, shape)
        elif self.distribution == "truncated_normal":
            values = stddev / STDDEV_OF_TRUNCATED * _truncated_standard_normal(generator, shape)
        else:
            values = generator.normal(0, stddev, shape)
        return values.astype(dtype)


class _NamedScaling(VarianceScaling):
    _arguments = ()

    def __init__(self, seed=None):
        super().__init__(*self._arguments, seed=seed)


class GlorotUniform(_NamedScaling):
    """Uniform within sqrt(6 / (fan_in + fan_out))."""

    _arguments = (1.0, "fan_avg", "uniform")


class GlorotNormal(_NamedScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out)."""

    _arguments = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_NamedScaling):
    """Uniform within sqrt(6 / fan_in)."""

    _arguments = (2.0, "fan_in", "uniform")


class HeNormal(_NamedScaling):
    """Truncated normal of variance 2 / fan_in."""

    _arguments = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_NamedScaling):
    """Uniform within sqrt(3 / fan_in)."""

    _arguments = (1.0, "fan_in", "uniform")


class LecunNormal(_NamedScaling):
    """Truncated normal of variance 1 / fan_in."""

    _arguments = (1.0, "fan_in", "truncated_normal")


class Orthogonal(RandomInitializer):
    """`gain` times a random matrix with orthonormal rows or columns, whichever are fewer.

    For a recurrent kernel (H,G*H) it is one matrix with orthonormal rows, as in Keras: the gates' (H,H) blocks are not
    orthogonal by themselves. Leading axes are flattened.
    """

    def __init__(self, gain=1.0, seed=None):
        self.gain = check_number(gain, "gain", low=-math.inf)
        super().__init__(seed)

    def __call__(self, shape, dtype=None):
        shape, dtype = _form(shape, dtype)
        if len(shape) < 2:
            raise ValueError(f"shape: expected at least two axes for an orthogonal matrix, received {tuple(shape)}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        a = self.generator().standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(a)
        q = q * np.where(np.diag(r) < 0, -1, 1)  # makes q uniformly distributed
        if rows < columns:
            q = q.T
        return (self.gain * q).reshape(shape).astype(dtype)


# ---- by name ---------------------------------------------------------------------------------------------------------
zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal, lecun_uniform, lecun_normal = HeUniform, HeNormal, LecunUniform, LecunNormal

NAMES = (
    *("zeros", "ones", "constant", "identity", "random_uniform", "random_normal", "truncated_normal"),
    *("variance_scaling", "orthogonal", "glorot_uniform", "glorot_normal"),
    *("he_uniform", "he_normal", "lecun_uniform", "lecun_normal"),
)
SHORT_NAMES = {"zero": Zeros, "one": Ones, "uniform": RandomUniform, "normal": RandomNormal}
_kind = Kind("initializer", Initializer, {name: globals()[name] for name in NAMES} | SHORT_NAMES)


def get(identifier):
    """The initializer of that name, config, class or callable.

    Parameters
    ----------
    identifier : str, dict, Initializer, class or callable
        A name ("glorot_uniform", "GlorotUniform"), a dict as `serialize` gives it, an Initializer or a class of one, or
        any callable that takes a shape and a dtype. A number is not accepted: say Constant(number).

    Raises
    ------
    ValueError
        Unknown name.
    """
    return _kind.get(identifier)


def serialize(initializer):
    """A dict that `get` takes back.

    Raises
    ------
    ValueError
        A callable that is no Initializer of this module, nor of a registered class: it cannot be written down.
    """
    return _kind.serialize(initializer)


deserialize = get
