"""Sequential: layers one after the other."""

from fastmask.checks import check_config, check_list
from fastmask.layers.base import Layer
from fastmask.layers.registry import deserialize_layers, register_serializable, serialize_layers
from fastmask.layers.symbolic import Input
from fastmask.models.graph import Graph
from fastmask.models.model import Functional, Model


@register_serializable(package=None)
class Sequential(Functional):
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
    Masks travel from layer to layer by themselves, as in `Model`; `mask=` is that of the input. Shapes that do not fit
    are found when the model is built.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmask as fm
    >>> model = fm.Sequential([fm.Input((None, 3)), fm.layers.Masking(), fm.layers.Dense(2)])
    >>> model(np.zeros((1, 4, 3), np.float32)).mask
    array([[False, False, False, False]])
    """

    _single_input = True
    _input_keys = _output_keys = None
    _graph = None  # while it is not known what goes in
    _shape_is_guess = False  # the input's shape was taken from the first batch

    def __init__(self, layers=None, name=None, trainable=True):
        Model.__init__(self, name=name)
        self._layers = []
        for layer in () if layers is None else check_list(layers, "layers"):
            self.add(layer)
        if not trainable:
            self.trainable = False

    # ---- making -----------------------------------------------------------------------------------------------------
    def add(self, layer):
        """Append a layer; an `Input` only as the first."""
        if isinstance(layer, Input):
            if self._layers or self._graph is not None:
                raise ValueError(f"{self.name}: layer: expected Input as the first of them, received it after others")
            self._graph = Graph([layer], [layer])
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"{self.name}: layer: expected a layer, received {layer!r}")
        if any(layer.name == other.name for other in self._layers):
            raise ValueError(f"{self.name}: layer: expected layers of different names, received {layer.name!r} twice")
        if self._graph is not None:
            self._graph, self.built = self._extended(self._graph, layer), True
        self._layers.append(layer)

    def _extended(self, graph, layer):
        """A graph with one layer more."""
        (x,), (tensor,) = graph.inputs, graph.outputs
        try:
            output = layer(tensor)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        if isinstance(output, list):
            raise ValueError(f"{self.name}: expected one output of {layer.name}, received {len(output)}")
        return Graph([x], [output])

    def pop(self):
        """Take away the last layer and return it."""
        if not self._layers:
            raise ValueError(f"{self.name}: expected a layer to take away, there is none")
        if self._graph is not None:
            (x,), (output,) = self._graph.inputs, self._graph.outputs
            output.node.layer._nodes.remove(output.node)
            self._graph = Graph([x], [output.node.inputs])
        return self._layers.pop()

    def _build_for(self, inputs):
        shape = (None, *inputs.shape[1:])
        shape = (None, None, *shape[2:]) if len(shape) > 2 else shape  # the next batch may have another T
        self._shape_is_guess = True  # before other threads find it built
        try:
            self._build_shape(shape)
        except BaseException:
            self._shape_is_guess = False
            raise

    def build(self, input_shape):
        """Build all layers for inputs of that shape, (None, T, F) for sequences."""
        if not isinstance(input_shape, (tuple, list)) or not len(input_shape):
            raise ValueError(f"input_shape: expected a tuple with the batch, received {input_shape!r}")
        graph = Graph(*2 * [[Input(batch_shape=tuple(input_shape), name=f"{self.name}_input")]])
        for layer in self._layers:
            graph = self._extended(graph, layer)
        self._graph = graph  # whole: other threads may be waiting for it

    def _call_and_mask(self, inputs, mask, training, args=(), kwargs=None):
        if self._graph is None:  # no layer at all
            return inputs, mask
        return super()._call_and_mask(inputs, mask, training)

    def _run_with_logits(self, inputs, mask):
        if not self.built:
            self._build_for(inputs)
        return super()._run_with_logits(inputs, mask)

    @property
    def inputs(self):
        return self._built_graph("inputs").inputs

    @property
    def outputs(self):
        return self._built_graph("outputs").outputs

    def _built_graph(self, what):
        if self._graph is None:
            raise ValueError(f"{self.name}.{what}: expected a built model: give it an Input, or call it once")
        return self._graph

    @property
    def input_names(self):
        return ["input"]

    @property
    def output_names(self):
        return [self._layers[-1].name if self._layers else "output"]

    @property
    def output_activation(self):
        return self._layers[-1].output_activation if self._layers else None

    @property
    def input_shape(self):
        return None if self._graph is None else self._graph.inputs[0].shape

    @property
    def output_shape(self):
        """Shape of the outputs, once built."""
        return None if self._graph is None else self._graph.outputs[0].shape

    # ---- configuration, copies --------------------------------------------------------------------------------------
    def get_config(self):
        shape = None if self._shape_is_guess else self.input_shape
        return {
            "name": self.name,
            "trainable": self.trainable,
            "input_shape": shape,
            "input_dtype": None if shape is None else self._graph.inputs[0].dtype,
            "layers": serialize_layers(self._layers),
        }

    @classmethod
    def from_config(cls, config):
        check_config(config, "layers")
        shape = config.get("input_shape")
        start = [] if shape is None else [Input(batch_shape=tuple(shape), dtype=config.get("input_dtype", "float32"))]
        model = cls(start + deserialize_layers(config["layers"]), name=config.get("name"))
        if not config.get("trainable", True):
            model.trainable = False
        return model
