"""The masks that go out of a layer: which output each belongs to, whether it fits, what is said where one is lost."""

import contextlib
import threading
import warnings

import numpy as np

from fastmask.layers.masked import as_mask, values_of
from fastmask.layers.structure import differ, is_nested, none_if_all_none


class MaskDroppedWarning(UserWarning):
    """A mask came in and none goes out, though nothing used it up. `warnings.simplefilter("error", MaskDroppedWarning)`
    makes it an error."""


def warn_dropped(layer, why):
    """Say that `layer` loses a mask, and what to do about it."""
    if not _kept.elsewhere:
        warnings.warn(f"{layer.name}: {type(layer).__name__} {why}", MaskDroppedWarning, stacklevel=5)


class _Kept(threading.local):
    elsewhere = False


_kept = _Kept()


@contextlib.contextmanager
def mask_kept_outside():
    """Within, a layer may end the mask it is given without a word: whoever calls it hands that mask on himself."""
    before, _kept.elsewhere = _kept.elsewhere, True
    try:
        yield
    finally:
        _kept.elsewhere = before


def masks_of_arrays(layer, mask, outputs, inputs):
    """What a layer's compute_mask gives as the masks of its outputs: one, a list for several outputs, or None.

    Raises
    ------
    ValueError
        A compute_mask of one's own with masks that do not fit the outputs, or another number of them.
    """

    def fit(mask, output):
        if layer._compute_mask_is_trusted:
            return mask
        if layer._has_compute_mask:
            try:
                return as_mask(mask, output)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{layer.name}: compute_mask: {error}") from error
        x = inputs[0] if isinstance(inputs, list) else inputs
        goes_on = _goes_on(mask.shape, np.shape(values_of(output)), np.shape(values_of(x)))
        return mask if goes_on else layer._mask_does_not_fit(mask.shape, np.shape(output))

    return _pair(layer, mask, outputs, fit)


def masks_of_shapes(layer, mask, outputs, inputs):
    """The same of shapes, before there are arrays."""

    def fit(mask, output):
        if layer._compute_mask_is_trusted:
            return mask
        if layer._has_compute_mask:
            if not _is_leading(mask, output):
                raise ValueError(
                    f"{layer.name}: compute_mask: expected a mask for outputs of shape {output}, received {mask}"
                )
            return mask
        goes_on = _goes_on(mask, output, inputs[0] if is_nested(inputs) else inputs)
        return mask if goes_on else layer._mask_does_not_fit(mask, output)

    return _pair(layer, mask, outputs, fit)


def _pair(layer, mask, outputs, fit):
    """fit(mask, output) of each mask and its output; both are lists where there are several."""
    if mask is None:
        return None
    if not isinstance(outputs, list):
        if not isinstance(mask, list):
            return fit(mask, outputs)
        first, *others = (None if m is None else fit(m, outputs) for m in mask)
        if any(m is not None and not np.array_equal(m, first) for m in others):
            warn_dropped(layer, "hands on the mask of its first input only: give it a compute_mask.")
        return first
    if not isinstance(mask, list):
        return _first_alone(layer, fit(mask, outputs[0]), len(outputs))
    if len(mask) != len(outputs):
        raise ValueError(
            f"{layer.name}: compute_mask: expected a list of {len(outputs)} masks or Nones, one for each output, "
            f"received {len(mask)}"
        )
    return none_if_all_none([None if m is None else fit(m, y) for m, y in zip(mask, outputs, strict=True)])


def _first_alone(layer, mask, n):
    """The one mask of a layer with n outputs: it is that of the first."""
    if mask is None:
        return None
    if n > 1:
        warn_dropped(
            layer,
            f"has {n} outputs and one mask, which goes with the first: give it a compute_mask that returns a list, "
            "None where an output has no mask.",
        )
    return [mask] + [None] * (n - 1)


def _goes_on(mask, output, x):
    """Whether the mask of an input x goes with an output (all shapes): it has the same steps, and what stands behind
    the steps is still there, so that (B,H) is not taken for (B,T) where H = T."""
    return _is_leading(mask, output) and (len(output) > len(mask) or len(x) == len(mask))


def _is_leading(mask, output):
    """Whether the shape of a mask is that of the leading axes of an output; (1,T) is for all rows."""
    mask = (None, *mask[1:]) if mask[0] == 1 else mask
    return len(mask) <= len(output) and not any(map(differ, mask, output))
