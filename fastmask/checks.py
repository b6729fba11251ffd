"""Checks of plain arguments that several modules share."""

import math

import numpy as np


def check_number(value, name, low=0, high=math.inf):
    """`value` as a float, a finite number from `low` to `high`.

    Raises
    ------
    ValueError
        It is not.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        if high < math.inf:
            wanted = f"a number from {low} to {high}"
        else:
            wanted = "a finite number" if low == -math.inf else f"a finite number of {low} or more"
        raise ValueError(f"{name}: expected {wanted}, received {value!r}")
    return float(value)
