"""Sequential: layers one after the other."""

from fastmask.layers.base import Layer
from fastmask.layers.core import Input
from fastmask.layers.registry import deserialize, register_serializable, serialize
from fastmask.models.summary import summary_lines
from fastmask.models.training import Trainer


@register_serializable(package=None)
class Sequential(Trainer, Layer):
    """Layers one after the other, each with one input and one output. A model is a layer itself and may be used as one.

    Parameters
    ----------
    layers : list of Layer, optional
        The first may be an `Input`; the model is built at once then, otherwise at its first call.
    name : str, optional
    trainable : bool
        False freezes all layers.

    Notes
    -----
    Masks travel from layer to layer by themselves; `mask=` is that of the input. Shapes that do not fit are found when
    the model is built.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmask as fm
    >>> model = fm.Sequential([fm.Input((None, 3)), fm.layers.Masking(), fm.layers.Dense(2)])
    >>> model(np.zeros((1, 4, 3), np.float32)).mask
    array([[False, False, False, False]])
    """

    supports_masking = True
    supports_ragged = True
    _autocast = False  # each layer casts by itself
    _single_input = True
    _lean = True
    _shape_is_guess = False  # input_shape was taken from the first batch

    def __init__(self, layers=None, name=None, trainable=True):
        super().__init__(name=name)
        self._layers = []
        self.input_shape = None
        self._shapes = []  # once built: the output shape of each layer
        for layer in layers or ():
            self.add(layer)
        if not trainable:
            self.trainable = False

    # ---- making -----------------------------------------------------------------------------------------------------
    def add(self, layer):
        """Append a layer; an `Input` only as the first."""
        if isinstance(layer, Input):
            if self._layers or self.input_shape is not None:
                raise ValueError(f"{self.name}: expected Input as the first of the layers, received it after others")
            self.input_shape = layer.shape
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"{self.name}: expected a layer, received {layer!r}")
        if any(layer.name == other.name for other in self._layers):
            raise ValueError(f"{self.name}: expected layers of different names, received {layer.name!r} twice")
        self._layers.append(layer)
        if self.input_shape is not None:
            try:
                self._build_from(len(self._layers) - 1)
            except BaseException:
                self._layers.pop()
                raise

    def pop(self):
        """Take away the last layer and return it."""
        if not self._layers:
            raise ValueError(f"{self.name}: expected a layer to take away, there is none")
        del self._shapes[len(self._layers) - 1 :]
        return self._layers.pop()

    def _build_for(self, inputs):
        shape = (None, *inputs.shape[1:])
        self._build_shape((None, None, *shape[2:]) if len(shape) > 2 else shape)  # the next batch may have another T
        self._shape_is_guess = True

    def build(self, input_shape):
        """Build all layers for inputs of that shape, (None, T, F) for sequences."""
        self.input_shape = tuple(input_shape)
        self._build_from(0)

    def _build_from(self, first):
        """Build the layers from number `first` on; those before it are built."""
        shape = self._shapes[first - 1] if first else self.input_shape
        del self._shapes[first:]
        for i, layer in enumerate(self._layers[first:], start=first):
            try:
                if not layer.built:
                    layer._build_shape(shape)
                layer.check_input_shape(shape)
                output = layer.compute_output_shape(shape)
                if isinstance(output, list):
                    raise ValueError(f"expected one output of {layer.name}, received {len(output)}")
            except ValueError as error:
                before = f"the output of {self._layers[i - 1]!r}" if i else "the input"
                raise ValueError(f"{self.name}: {layer!r} does not fit {before}, of shape {shape}: {error}") from error
            self._shapes.append(output)
            shape = output
        self.built = True

    # ---- running ----------------------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False):
        return self._call_and_mask(inputs, mask, training)[0]

    def compute_mask(self, inputs, mask=None):
        """The mask of the outputs; runs the layers, as it may depend on what they compute."""
        return self._run(self._as_input(inputs), mask, False)[1]

    def _call_and_mask(self, inputs, mask, training, args=(), kwargs=None):
        inputs, mask = self._through(self._layers, inputs, mask, training)
        if training and self._layers:
            call = self._current_call()
            call.logits = call.inner[self._layers[-1]][-1].logits
        return inputs, mask

    def _through(self, layers, inputs, mask, training):
        for layer in layers:
            inputs, mask = layer._run(layer._as_input(inputs), mask, training)
        return inputs, mask

    @property
    def output_activation(self):
        return self._layers[-1].output_activation if self._layers else None

    def _run_with_logits(self, inputs, mask):
        if not self.built:
            self._build_for(inputs)
        last = self._layers[-1]
        inputs, mask = self._through(self._layers[:-1], inputs, mask, False)
        return last._run_with_logits(last._as_input(inputs), mask)

    def backward(self, grad):
        call = self._current_call()
        first = 0  # the first layer whose backward anyone needs
        if not call.need_x:
            first = next((i for i, layer in enumerate(self._layers) if layer.trainable_weights), len(self._layers))
        for i in reversed(range(first, len(self._layers))):
            layer = self._layers[i]
            inner = call.inner[layer][-1]
            inner.need_x = call.need_x or i > first
            inner.grad_is_of_logits = call.grad_is_of_logits and i == len(self._layers) - 1
            grad = layer.backward(grad)
        return grad if call.need_x else None

    # ---- looking ----------------------------------------------------------------------------------------------------
    @property
    def layers(self):
        """The layers, in order."""
        return list(self._layers)

    def get_layer(self, name=None, index=None):
        """The layer of that name or number."""
        if (name is None) == (index is None):
            raise ValueError("get_layer: expected a name or an index")
        if index is not None:
            if not -len(self._layers) <= index < len(self._layers):
                raise ValueError(f"index: expected one of {len(self._layers)} layers, received {index}")
            return self._layers[index]
        for layer in self._layers:
            if layer.name == name:
                return layer
        raise ValueError(f"name: expected one of {', '.join(layer.name for layer in self._layers)}, received {name!r}")

    @property
    def output_shape(self):
        """Shape of the outputs, once built."""
        return self._shapes[-1] if self._shapes else self.input_shape

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the first layer."""
        if self._layers:
            self._layers[0].check_input_shape(shape)

    def compute_output_shape(self, input_shape):
        for layer in self._layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def summary(self, line_length=None, print_fn=None):
        """Print the layers: name and type, output shape, number of weights, and what each does with a mask.

        Raises
        ------
        ValueError
            Not built yet.
        """
        if not self.built:
            raise ValueError(f"{self.name}.summary: expected a built model: give it an Input, or call it once")
        lines = summary_lines(self, zip(self._layers, self._shapes, strict=True), line_length)
        (print_fn or print)("\n".join(lines))

    def mask_role(self):
        return "as its layers"

    # ---- configuration ----------------------------------------------------------------------------------------------
    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "input_shape": self.input_shape,
            "layers": [serialize(layer) for layer in self._layers],
        }

    @classmethod
    def from_config(cls, config):
        shape = config.get("input_shape")
        start = [] if shape is None else [Input(tuple(shape[1:]), batch_size=shape[0])]
        model = cls(start + [deserialize(layer) for layer in config["layers"]], name=config.get("name"))
        if not config.get("trainable", True):
            model.trainable = False
        return model
