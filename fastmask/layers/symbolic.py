"""What a model is described with before there is data: symbolic tensors, and a node for each call of a layer on them.

x = Input((None, 12))
y = GRU(64)(x)            # a SymbolicTensor; y.node says which layer made it, from what, under which mask
x = Masking()(x)
x.mask                    # the symbolic mask that travels with x, or None; may be passed on as mask=
"""

import contextlib
import inspect
import itertools
import math
import warnings

import numpy as np

from fastmask.checks import as_dtype, check_name
from fastmask.layers.registry import auto_name
from fastmask.layers.structure import map_inputs, map_shape


class SymbolicTensor:
    """A tensor of a model, of which shape, dtype and mask are known but no values.

    Attributes
    ----------
    shape : tuple
        With the batch; None for what varies: (None, None, 64).
    dtype, name : str
    mask : SymbolicTensor or None
        The mask that travels with it.
    node : Node or None
        The call of a layer that makes it; None for an Input.
    """

    is_symbolic = True
    __array_ufunc__ = None

    def __init__(self, shape, dtype, name, node=None, mask_shape=None):
        self.shape, self.dtype, self.name, self.node = tuple(shape), dtype, name, node
        self.mask = None if mask_shape is None else SymbolicMask(self, mask_shape)

    @property
    def ndim(self):
        return len(self.shape)

    def __repr__(self):
        mask = "" if self.mask is None else f", mask={self.mask.shape}"
        return f"<{type(self).__name__} {self.name} shape={self.shape}, dtype={self.dtype}{mask}>"

    def _no_values(self, *args, **kwargs):
        raise TypeError(
            f"{self.name}: a symbolic tensor has no values to compute with: use a layer (Add, Multiply, Concatenate, "
            "Cropping1D, Lambda ...), which keeps the mask, too"
        )

    __array__ = __bool__ = __float__ = __iter__ = __len__ = __getitem__ = _no_values
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_values
    __neg__ = __pow__ = __matmul__ = __rmatmul__ = __lt__ = __gt__ = __le__ = __ge__ = _no_values


class SymbolicMask(SymbolicTensor):
    """The mask that travels with `tensor`; at run time it may turn out that there is none."""

    def __init__(self, tensor, shape):
        self.shape, self.dtype, self.node, self.mask = tuple(shape), "bool", tensor.node, None
        self.tensor = tensor

    @property
    def name(self):
        return f"mask of {self.tensor.name}"


class Input(SymbolicTensor):
    """What a model is fed with: the start of a functional model, or the first entry of a Sequential.

    Parameters
    ----------
    shape : tuple
        Of one row, without the batch: (None, 12) for sequences of any length with 12 features, (None,) for ids.
    batch_size : int, optional
    dtype : str
        "int32" or the like for ids; layers convert what they are given themselves.
    name : str, optional
    batch_shape : tuple, optional
        `shape` with the batch, instead of `shape` and `batch_size`.

    Examples
    --------
    >>> Input((None, 12), name="frames")
    <Input frames shape=(None, None, 12), dtype=float32>
    """

    def __init__(self, shape=None, batch_size=None, dtype="float32", name=None, *, batch_shape=None):
        if batch_shape is not None:
            if shape is not None or batch_size is not None:
                raise ValueError("batch_shape: expected None beside shape or batch_size, received both")
            if not isinstance(batch_shape, (tuple, list)) or not len(batch_shape):
                raise ValueError(f"batch_shape: expected a tuple with the batch, received {batch_shape!r}")
            batch_size, shape = batch_shape[0], tuple(batch_shape[1:])
        if not isinstance(shape, (tuple, list)) or any(not _is_dim(n) for n in shape):
            raise ValueError(f"shape: expected a tuple of whole numbers of 0 or more and Nones, received {shape!r}")
        if not _is_dim(batch_size):
            raise ValueError(f"batch_size: expected a whole number or None, received {batch_size!r}")
        dtype = as_dtype(dtype)
        if dtype.kind not in "biuf":
            raise ValueError(f"dtype: expected numbers or bool, received {dtype}")
        super().__init__((batch_size, *shape), dtype.name, check_name(name) or auto_name("input"))


def _is_dim(n):
    return n is None or (isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0)


class Node:
    """One call of a layer on symbolic tensors; with kind "mask" one of its compute_mask.

    inputs: a tensor or a list of tensors. mask: None (the masks that travel with the inputs), a tensor, or for a list
    of inputs a list. options: the other arguments of the call, in which there may be tensors. outputs: a list of
    tensors; `single` if the layer has one output and no list.
    """

    def __init__(self, layer, kind, inputs, mask, training, options):
        self.layer, self.kind, self.inputs, self.mask = layer, kind, inputs, mask
        self.training, self.options = training, options
        self.outputs, self.single, self.structure = [], True, None

    @property
    def input_list(self):
        return self.inputs if isinstance(self.inputs, list) else [self.inputs]

    @property
    def sources(self):
        """All tensors this call reads: inputs, masks and those among the options."""
        return [*self.input_list, *tensors_in(self.mask), *tensors_in(self.options)]

    @property
    def loses_mask(self):
        """Whether a mask comes in and none goes out."""
        comes_in = _mask_shapes(self.inputs, self.mask) is not None
        return comes_in and all(t is None or t.mask is None for t in self.outputs)

    def infer(self):
        """Find shapes and masks of the outputs, which makes them."""
        layer, mask_shapes = self.layer, _mask_shapes(self.inputs, self.mask)
        if self.kind == "mask":
            shapes = layer.compute_mask_shape(map_inputs(lambda x: x.shape, self.inputs), mask_shapes)
            masks, dtype = None, "bool"
        else:
            shapes, masks = layer.compute_output_spec(self.inputs, mask_shapes, self.options)
            dtype = layer.dtype
        self.single = not isinstance(shapes, list)
        nested = [shapes] if self.single else shapes
        masks = masks if isinstance(masks, list) else [masks]
        self.structure = number_leaves(nested)
        masks = masks + [None] * (sum(1 for _ in leaves(nested)) - len(masks))
        for i, (shape, mask) in enumerate(zip(leaves(nested), masks, strict=True)):
            name = layer.name if self.single else f"{layer.name}[{i}]"
            self.outputs.append(None if shape is None else SymbolicTensor(shape, dtype, name, self, mask))

    def add(self):
        """Build the layer, make the outputs and let the layer know of the call.

        Raises
        ------
        ValueError
            Shapes that do not fit; names the layer and those that made its inputs.
        """
        layer, shapes = self.layer, map_inputs(lambda x: x.shape, self.inputs)
        try:
            layer._build_shape(shapes)
            layer.check_input_shape(shapes)
            self.infer()
        except ValueError as error:
            described = ", ".join(str(s) for s in (shapes if isinstance(shapes, list) else [shapes]))
            raise ValueError(
                f"{layer!r} does not fit {_origins(self.inputs)}, of shape {described}: {error}"
            ) from error
        if self.kind == "call":
            layer._nodes.append(self)

    @property
    def result(self):
        """What the call returns: a tensor, or a list of tensors (and of lists of them, as the states of RNN([...]))."""
        return self.outputs[0] if self.single else fill_leaves(self.structure, self.outputs)


def call(layer, inputs, args, mask, training, options):
    """The symbolic outputs of `layer(inputs, *args, mask=mask, **options)`.

    Raises
    ------
    ValueError
        As `Node.add`; training=False.
    TypeError
        Arrays among the inputs, or arguments that must be keywords.
    """
    inputs = _tensors(layer, inputs)
    if training not in (None, True):
        raise ValueError(
            f"{layer.name}: training: expected None or True on a symbolic tensor, received {training!r}; a layer that "
            "is to work as in inference gets trainable = False"
        )
    mask = _explicit_masks(layer, inputs, mask)
    node = Node(layer, "call", inputs, mask, training, {**_named(layer, args), **options})
    node.add()
    return node.result


def compute_mask(layer, inputs, mask):
    """The symbolic mask `layer.compute_mask(inputs, mask)`, or None if the layer makes none of them."""
    inputs = _tensors(layer, inputs)
    node = Node(layer, "mask", inputs, _explicit_masks(layer, inputs, mask), None, {})
    node.add()
    return node.result


def _tensors(layer, inputs):
    several = isinstance(inputs, (list, tuple))
    for x in inputs if several else [inputs]:
        if not isinstance(x, SymbolicTensor):
            raise TypeError(f"{layer.name}: inputs: expected symbolic tensors only, received {type(x).__name__} too")
    return list(inputs) if several else inputs


def _named(layer, args):
    """Further positional arguments of a call by the names that `call` gives them."""
    if not args:
        return {}
    names = list(inspect.signature(layer.call).parameters)[1:]
    if len(args) > len(names) or any(name in ("mask", "training") for name in names[: len(args)]):
        raise TypeError(
            f"{layer.name}: expected mask, training and the like as keywords, received {len(args) + 1} arguments"
        )
    return dict(zip(names, args, strict=False))


def _explicit_masks(layer, inputs, mask):
    if mask is None:
        return None
    if isinstance(inputs, list):
        if not isinstance(mask, (list, tuple)) or len(mask) != len(inputs):
            raise ValueError(
                f"{layer.name}: mask: expected a list of {len(inputs)}, one for each input, received {mask!r}"
            )
        mask = list(mask)
    for m in mask if isinstance(mask, list) else [mask]:
        if not (m is None or isinstance(m, SymbolicTensor)):
            raise TypeError(
                f"{layer.name}: mask: expected a symbolic mask (x.mask, layer.compute_mask(x), or an Input of dtype "
                f"bool), received {type(m).__name__}"
            )
    return mask


def _mask_shapes(inputs, mask):
    """Shapes of the masks of a call, None where there is none; None if there is none at all."""
    if mask is None:
        mask = map_inputs(lambda x: x.mask, inputs)
    if not isinstance(mask, list):
        return None if mask is None else mask.shape
    shapes = [None if m is None else m.shape for m in mask]
    return None if all(s is None for s in shapes) else shapes


def _origins(inputs):
    made_by = [
        "the input" if x.node is None else f"the output of {x.node.layer!r}"
        for x in (inputs if isinstance(inputs, list) else [inputs])
    ]
    return " and ".join(dict.fromkeys(made_by))


# ---- trying out: what a layer says nothing about is found by running it on zeros ------------------------------------

SIZES = (4, 6)  # of axes that vary: whatever differs between the two runs varies; even, for layers that halve
MAX_ELEMENTS = 2**28  # of an array that is made to try a layer out


def dummy(shape, n, dtype, fill=0):
    shape = [n if d is None else d for d in shape]
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"shape: too large to try out: {shape}; give the class compute_output_shape")
    return np.full(shape, fill, dtype)


def varying(small, large):
    """The shape of which two runs showed these."""
    return tuple(a if a == b else None for a, b in zip(small, large, strict=True))


def try_out(layer, inputs, mask_shapes, options):
    """(shapes, mask shapes) of the outputs of a layer, by two calls on zeros."""

    def run(n):
        zeros = map_inputs(lambda x: layer._as_input(dummy(x.shape, n, x.dtype)), inputs)
        return layer._run(
            zeros, ones(mask_shapes, n), False, (), substitute(options, lambda x: dummy(x.shape, n, x.dtype))
        )

    with _no_state(layer):
        (small, small_masks), (large, large_masks) = _twice(run)
    masks = _mask_shapes_of(small_masks, large_masks)
    if isinstance(small, (list, tuple)):
        return [varying(np.shape(a), np.shape(b)) for a, b in zip(small, large, strict=True)], masks
    return varying(np.shape(small), np.shape(large)), masks[0] if isinstance(masks, list) else masks


def try_compute_mask(layer, input_shape, mask_shape):
    """Shapes of the masks that `layer.compute_mask` gives."""

    def run(n):
        return layer.compute_mask(map_shape(lambda s: dummy(s, n, layer.dtype), input_shape), ones(mask_shape, n))

    return _mask_shapes_of(*_twice(run))


@contextlib.contextmanager
def _no_state(layer):
    """Stateful layers inside `layer` take no notice of what is run meanwhile."""
    stateful = [one for one in [layer, *layer._all_sub_layers()] if getattr(one, "stateful", False)]
    for one in stateful:
        one.stateful = False
    try:
        yield
    finally:
        for one in stateful:
            one.stateful = True


def _twice(run):
    """run(n) for both sizes; what there is to warn of is said once."""
    small = run(SIZES[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small, run(SIZES[1])


def _mask_shapes_of(small, large):
    if small is None:
        return None
    if not isinstance(small, (list, tuple)):
        return varying(np.shape(small), np.shape(large))
    masks = [None if a is None else varying(np.shape(a), np.shape(b)) for a, b in zip(small, large, strict=True)]
    return None if all(m is None for m in masks) else masks


def ones(mask_shapes, n):
    if isinstance(mask_shapes, list):
        return [None if s is None else dummy(s, n, bool, True) for s in mask_shapes]
    return None if mask_shapes is None else dummy(mask_shapes, n, bool, True)


def substitute(value, read):
    """`value` with read(tensor) for each symbolic tensor in it; lists, tuples and dicts are gone through."""
    if isinstance(value, SymbolicTensor):
        return read(value)
    if type(value) in (list, tuple):
        return type(value)(substitute(v, read) for v in value)
    if type(value) is dict:
        return {k: substitute(v, read) for k, v in value.items()}
    return value


def leaves(nested):
    """What is in lists (and lists in them), in order. A shape is a tuple and no list."""
    for value in nested:
        if isinstance(value, list):
            yield from leaves(value)
        else:
            yield value


def number_leaves(nested):
    """The same lists with the number of each leaf in its place."""
    numbers = itertools.count()

    def number(value):
        return [number(v) for v in value] if isinstance(value, list) else next(numbers)

    return [number(v) for v in nested]


def fill_leaves(structure, values):
    """`structure` as `number_leaves` gives it with values[n] for n."""
    return [fill_leaves(n, values) if isinstance(n, list) else values[n] for n in structure]


def tensors_in(value):
    """All symbolic tensors in lists, tuples and dicts."""
    found = []
    substitute(value, found.append)
    return found
