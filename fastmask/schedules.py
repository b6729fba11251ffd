"""Learning-rate schedules with Keras 3's names, arguments and formulas; also `fm.optimizers.schedules`.

    optimizer = fm.optimizers.Adam(fm.optimizers.schedules.CosineDecay(1e-3, decay_steps=1000))

A schedule is called with the number of steps taken so far and returns the learning rate; any function that does so will
do. All is computed in float64 (Keras: float32). The formulas: s is the step, lr the initial learning rate.
"""

import math

import numpy as np

from fastmask.checks import check_flag, check_name, check_number, check_positive
from fastmask.registry import Configured, Kind


class LearningRateSchedule(Configured):
    """Base class. One of your own has `__call__`; decorated with `layers.register_serializable` it can be saved.

    Examples
    --------
    >>> class Warmup(LearningRateSchedule):
    ...     def __init__(self, peak, steps):
    ...         self.peak, self.steps = peak, steps
    ...
    ...     def __call__(self, step):
    ...         return self.peak * min(1.0, (step + 1) / self.steps)
    >>> Warmup(1.0, 4)(1)
    0.5
    """

    def __call__(self, step):
        step = check_number(step, "step")
        """The learning rate after `step` steps, a float."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(step)")


class ExponentialDecay(LearningRateSchedule):
    """lr decay_rate^(s / decay_steps); with staircase the exponent is rounded down."""

    def __init__(self, initial_learning_rate, decay_steps, decay_rate, staircase=False, name="ExponentialDecay"):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = check_positive(decay_steps, "decay_steps")
        self.decay_rate = check_number(decay_rate, "decay_rate")
        self.staircase, self.name = check_flag(staircase, "staircase"), check_name(name)

    def __call__(self, step):
        step = check_number(step, "step")
        return self.initial_learning_rate * self.decay_rate ** _progress(step, self.decay_steps, self.staircase)


class InverseTimeDecay(LearningRateSchedule):
    """lr / (1 + decay_rate s / decay_steps); with staircase s / decay_steps is rounded down."""

    def __init__(self, initial_learning_rate, decay_steps, decay_rate, staircase=False, name="InverseTimeDecay"):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = check_positive(decay_steps, "decay_steps")
        self.decay_rate = check_number(decay_rate, "decay_rate")
        self.staircase, self.name = check_flag(staircase, "staircase"), check_name(name)

    def __call__(self, step):
        step = check_number(step, "step")
        p = _progress(step, self.decay_steps, self.staircase)
        return self.initial_learning_rate / (1 + self.decay_rate * p)


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i] for boundaries[i-1] < s <= boundaries[i]; `values` has one entry more.

    Examples
    --------
    >>> schedule = PiecewiseConstantDecay([10, 20], [0.1, 0.01, 0.001])
    >>> schedule(10), schedule(11), schedule(100)
    (0.1, 0.01, 0.001)
    """

    def __init__(self, boundaries, values, name="PiecewiseConstant"):
        for argument, numbers in (("boundaries", boundaries), ("values", values)):
            if not isinstance(numbers, (list, tuple, np.ndarray)):
                raise TypeError(f"{argument}: expected a list of numbers, received {numbers!r}")
        self.boundaries = [check_number(b, "boundaries", low=-math.inf) for b in boundaries]
        self.values = [check_number(value, "values") for value in values]
        self.name = check_name(name)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: expected {len(self.boundaries) + 1}, one more than boundaries, received {values!r}"
            )
        if sorted(set(self.boundaries)) != self.boundaries:
            raise ValueError(f"boundaries: expected ascending numbers, received {boundaries!r}")

    def __call__(self, step):
        step = check_number(step, "step")
        return self.values[sum(step > boundary for boundary in self.boundaries)]


class PolynomialDecay(LearningRateSchedule):
    """(lr - end_learning_rate) (1 - min(s, n) / n)^power + end_learning_rate, where n is decay_steps.

    With cycle n is the first multiple of decay_steps that is not below s.
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
        name="PolynomialDecay",
    ):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = check_positive(decay_steps, "decay_steps")
        self.end_learning_rate = check_number(end_learning_rate, "end_learning_rate")
        self.power = check_number(power, "power")
        self.cycle, self.name = check_flag(cycle, "cycle"), check_name(name)

    def __call__(self, step):
        step = check_number(step, "step")
        n = self.decay_steps
        if self.cycle:
            n *= max(1, math.ceil(step / n))
        span = self.initial_learning_rate - self.end_learning_rate
        return span * (1 - min(step, n) / n) ** self.power + self.end_learning_rate


class CosineDecay(LearningRateSchedule):
    """lr ((1 - alpha) (1 + cos(pi min(s, n) / n)) / 2 + alpha), where n is decay_steps: from lr down to alpha lr.

    With `warmup_target` the learning rate first goes in a line from lr to that target, in `warmup_steps` steps, and
    then down from the target, s counting from there.
    """

    def __init__(
        self, initial_learning_rate, decay_steps, alpha=0.0, name="CosineDecay", warmup_target=None, warmup_steps=0
    ):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = check_positive(decay_steps, "decay_steps")
        self.alpha, self.name = check_number(alpha, "alpha"), check_name(name)
        self.warmup_target = None if warmup_target is None else check_number(warmup_target, "warmup_target")
        self.warmup_steps = check_number(warmup_steps, "warmup_steps")

    def __call__(self, step):
        step = check_number(step, "step")
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - self.warmup_steps
        return top * _cosine(min(step / self.decay_steps, 1.0), self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """CosineDecay that starts anew at its end: period i takes first_decay_steps t_mul^i steps and starts at lr m_mul^i.

    lr ((1 - alpha) m_mul^i (1 + cos(pi p)) / 2 + alpha), where p is the part of the period gone by
    """

    def __init__(self, initial_learning_rate, first_decay_steps, t_mul=2.0, m_mul=1.0, alpha=0.0, name="SGDRDecay"):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.first_decay_steps = check_positive(first_decay_steps, "first_decay_steps")
        self.t_mul, self.m_mul = check_number(t_mul, "t_mul", low=1), check_number(m_mul, "m_mul")
        self.alpha, self.name = check_number(alpha, "alpha"), check_name(name)

    def __call__(self, step):
        step = check_number(step, "step")
        start, length, period = 0.0, self.first_decay_steps, 0
        if self.t_mul == 1:
            period = math.floor(step / length)
            start = period * length
        else:
            while step >= start + length:
                start, length, period = start + length, length * self.t_mul, period + 1
        return self.initial_learning_rate * _cosine((step - start) / length, self.alpha, self.m_mul**period)


def _cosine(p, alpha, height=1.0):
    return (1 - alpha) * height * (1 + math.cos(math.pi * p)) / 2 + alpha


def _progress(step, decay_steps, staircase):
    return step // decay_steps if staircase else step / decay_steps


# ---- by name ---------------------------------------------------------------------------------------------------------
CLASSES = (
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
    CosineDecay,
    CosineDecayRestarts,
)
_kind = Kind("learning_rate", LearningRateSchedule, {cls.__name__: cls for cls in CLASSES})


def get(identifier):
    """The schedule of a configuration as `serialize` gives it, or a callable itself.

    Raises
    ------
    ValueError
        Unknown class.
    """
    return _kind.get(identifier)


def serialize(schedule):
    """A dict that `get` takes back.

    Raises
    ------
    ValueError
        A function: it cannot be written down. Make it a LearningRateSchedule and register that.
    """
    return _kind.serialize(schedule)


deserialize = get
