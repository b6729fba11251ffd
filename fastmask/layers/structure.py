"""One array or several: inputs, shapes and outputs of layers are either, and these treat them alike."""

from fastmask.layers.masked import with_mask


def map_inputs(function, inputs):
    return [function(x) for x in inputs] if isinstance(inputs, (list, tuple)) else function(inputs)


def none_if_all_none(values):
    """The list of several masks; None if there is none in it."""
    return None if all(v is None for v in values) else values


def map_shape(function, shape):
    return [function(s) for s in shape] if is_nested(shape) else function(shape)


def is_nested(shape):
    """Whether it is a list of shapes, of several inputs."""
    return len(shape) > 0 and isinstance(shape[0], (list, tuple))


def differ(a, b):
    """Whether two sizes are known and not the same."""
    return a is not None and b is not None and a != b


def is_symbolic(inputs):
    first = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else inputs
    return getattr(first, "is_symbolic", False)


def attach(outputs, mask):
    """Outputs that carry their masks: a list of masks one to one, a single one the first output."""
    if mask is None:
        return outputs
    if not isinstance(outputs, (list, tuple)):
        return with_mask(outputs, mask)
    masks = list(mask) if isinstance(mask, (list, tuple)) else [mask]
    masks += [None] * (len(outputs) - len(masks))
    return type(outputs)(y if m is None else with_mask(y, m) for y, m in zip(outputs, masks, strict=True))
