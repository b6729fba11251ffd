"""Learning-rate schedules: values worked out by hand, configurations, bad input. Keras' values: tests/peers."""

import math

import pytest

import fastmask as fm
from fastmask import schedules
from fastmask.layers import register_serializable
from fastmask.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PolynomialDecay,
)
from helpers import assert_close, assert_doctests

HALF = math.sqrt(0.5)
VALUES = {
    "exponential": (ExponentialDecay(8.0, 2, 0.25), [0, 1, 2, 3, 4], [8, 4, 2, 1, 0.5]),
    "exponential_stairs": (ExponentialDecay(8.0, 2, 0.25, staircase=True), [0, 1, 2, 3, 4], [8, 8, 2, 2, 0.5]),
    "inverse": (InverseTimeDecay(6.0, 2, 1.0), [0, 1, 2, 4], [6, 4, 3, 2]),
    "inverse_stairs": (InverseTimeDecay(6.0, 2, 1.0, staircase=True), [0, 1, 2, 3, 4], [6, 6, 3, 3, 2]),
    "piecewise": (PiecewiseConstantDecay([2, 5], [3.0, 2.0, 1.0]), [0, 2, 3, 5, 6, 99], [3, 3, 2, 2, 1, 1]),
    "piecewise_one": (PiecewiseConstantDecay([], [3.0]), [0, 7], [3, 3]),
    "polynomial": (PolynomialDecay(5.0, 4, 1.0), [0, 1, 2, 4, 9], [5, 4, 3, 1, 1]),
    "polynomial_2": (PolynomialDecay(5.0, 4, 1.0, power=2), [0, 2, 3, 4], [5, 2, 1.25, 1]),
    "polynomial_cycle": (PolynomialDecay(5.0, 4, 1.0, cycle=True), [0, 3, 4, 5, 6, 8], [5, 2, 1, 2.5, 2, 1]),
    "cosine": (CosineDecay(8.0, 4), [0, 1, 2, 3, 4, 9], [8, 4 + 4 * HALF, 4, 4 - 4 * HALF, 0, 0]),
    "cosine_alpha": (CosineDecay(8.0, 4, alpha=0.5), [0, 2, 4, 5], [8, 6, 4, 4]),
    "warmup": (
        CosineDecay(1.0, 4, 0.0, warmup_target=5.0, warmup_steps=4),
        [0, 1, 3, 4, 6, 8, 9],
        [1, 2, 4, 5, 2.5, 0, 0],
    ),
    "warmup_of_no_step": (CosineDecay(1.0, 4, warmup_target=5.0), [0, 2, 4], [5, 2.5, 0]),
    "restarts": (CosineDecayRestarts(8.0, 2), [0, 1, 2, 4, 6, 10], [8, 4, 8, 4, 8, 4]),  # periods of 2, 4, 8
    "restarts_all": (CosineDecayRestarts(8.0, 2, 1.0, 0.5, 0.5), [0, 1, 2, 3, 4], [8, 6, 6, 5, 5]),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    schedule, steps, values = VALUES[name]
    assert_close([schedule(step) for step in steps], values)
    assert type(schedule(1)) is float
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


@register_serializable("test")
class Steps(LearningRateSchedule):
    def __init__(self, size):
        self.size = size

    def __call__(self, step):
        return self.size * (step + 1)


def test_ones_own():
    assert schedules.get(Steps(2)).size == 2 and schedules.get(schedules.serialize(Steps(3)))(1) == 6
    assert schedules.get(math.sqrt) is math.sqrt
    assert fm.optimizers.SGD(Steps(0.5)).learning_rate == 0.5
    assert fm.optimizers.schedules is schedules


def test_examples_in_docstrings():
    assert_doctests(schedules)


def test_the_base_has_no_call():
    with pytest.raises(NotImplementedError, match="LearningRateSchedule has no __call__"):
        LearningRateSchedule()(1)
