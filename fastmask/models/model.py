"""Model: layers put together by calling them on symbolic tensors, or a class of one's own that can be trained."""

from fastmask.checks import check_config, check_function, check_whole
from fastmask.layers.base import Layer
from fastmask.layers.registry import deserialize_layers, register_serializable, serialize_layers
from fastmask.layers.symbolic import Input, SymbolicTensor
from fastmask.models.graph import Graph
from fastmask.models.saving import Saver
from fastmask.models.streaming import Stream
from fastmask.models.summary import summary_lines
from fastmask.models.training import Trainer


class Model(Trainer, Saver, Layer):
    """A layer with compile, fit, evaluate and predict.

    Parameters
    ----------
    inputs : SymbolicTensor, list or dict of them
        Inputs, or tensors in the middle of another model.
    outputs : SymbolicTensor, list or dict of them
        What is to be computed; masks (`x.mask`) may be among them, which of Ragged inputs are Ragged, too.
    name : str, optional
    trainable : bool
        False freezes all layers.

    Notes
    -----
    Layers may be shared between calls and between models: an autoencoder and its ``Model(inputs, encoded)`` have the
    same weights. A model is a layer itself: called on symbolic tensors it becomes part of another model, called on
    arrays it computes. Masks travel by themselves, into models inside models, too (where Keras warns, though nothing is
    lost); ``layer(x, mask=m)`` gives another, ``layer.compute_mask(x)`` and ``x.mask`` are symbolic masks. Shapes that
    do not fit are found when a layer is called, both layers named.

    Several inputs and outputs come and go as lists in the order given here; data may be given as dicts by the names of
    the inputs, targets by the names of the layers that make the outputs. Without arguments this is the base of a class
    of one's own, with `call` and, for training, `backward` (see Layer).

    Examples
    --------
    >>> from fastmask.layers import GRU, Dense, Masking
    >>> frames = Input((None, 3), name="frames")
    >>> states = GRU(4, return_sequences=True)(Masking()(frames))
    >>> states.mask.shape
    (None, None)
    >>> tagger, encoder = Model(frames, Dense(2)(states)), Model(frames, states)
    >>> encoder.layers[1] is tagger.layers[1]
    True
    """

    supports_masking = True
    supports_ragged = True
    _autocast = False  # each layer casts by itself

    def __new__(cls, *args, **kwargs):
        if cls is Model and (args or "inputs" in kwargs):
            cls = Functional
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        if args or "inputs" in kwargs or "outputs" in kwargs:
            raise TypeError(
                f"{type(self).__name__}: inputs, outputs: expected none for a class of one's own, which has a call; "
                "Model(inputs, outputs) itself takes layers called on symbolic tensors"
            )
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, config):
        """A new model of the configuration that `get_config` gave."""
        return (Functional if cls is Model else super()).from_config(config)

    def reset_states(self):
        """Zero the states of all stateful layers."""
        for layer in self._all_sub_layers():
            if getattr(layer, "stateful", False):
                layer.reset_state()

    @property
    def layers(self):
        """The layers, in order."""
        return self._sub_layers()

    def get_layer(self, name=None, index=None):
        """The layer of that name or number."""
        layers = self.layers
        if (name is None) == (index is None):
            raise ValueError(f"name: expected a name or an index, received {'neither' if name is None else 'both'}")
        if index is not None:
            index = check_whole(index, "index")
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"index: expected one of {len(layers)} layers, received {index}")
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        raise ValueError(f"name: expected one of {', '.join(layer.name for layer in layers)}, received {name!r}")

    def summary(self, line_length=None, print_fn=None):
        """Print the layers: name and type, output shape, number of weights, what each does with a mask, and, where they
        do not simply follow one another, what each is connected to.

        Raises
        ------
        ValueError
            Not built yet.
        """
        if not self.built:
            raise ValueError(f"{self.name}.summary: expected a built model: give it an Input, or call it once")
        if line_length is not None:
            check_whole(line_length, "line_length", 0)
        check_function(print_fn, "print_fn", none=True)
        (print_fn or print)("\n".join(summary_lines(self, line_length)))

    def _mask_does_not_fit(self, mask_shape, output_shape):
        """Nothing to say: the layers inside had the mask, and have used it up."""

    def mask_role(self):
        return "as its layers"

    def stream(self, batch_size=1):
        """A `Stream`: the model fed with the steps of its sequences as they come.

            stream = model.stream(batch_size=2)
            outputs = stream(chunk)  # (2,n,F): the next n steps of both rows
            outputs = stream(chunk, mask=mask)
            stream.reset(rows=[1])

        However the sequences are cut, with whatever masks, the outputs put together are those of the model for the
        whole sequences, to the bit. An output that is not one for each step is that for all steps so far.

        Parameters
        ----------
        batch_size : int

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            Not built yet, or a layer that cannot take a sequence in pieces: one that looks at later steps
            (Bidirectional), or at all of them at once, or does not say what it does (see `layers.Layer`).

        Notes
        -----
        A recurrent layer of a stream starts with a state of 0. Its own state, if it is stateful, is neither read nor
        changed; unlike it a stream also remembers the last output, which masked steps at the beginning of a piece hold.
        Inputs of shape (B,T,...) or (B,None) are sequences, others, say (B,5), come whole with every piece. Weights
        that change take effect at the next piece.
        """
        return Stream(self, batch_size)

    def _input_shapes(self):
        """The shape of the input, a list of them for several."""
        return self._built_shape

    def _in_order(self, inputs, mask):
        """Inputs and masks that came as dicts, as lists."""
        return inputs, mask

    def _by_output_keys(self, outputs):
        """A list of outputs as a dict, where they were given as one."""
        return outputs


@register_serializable(package=None, name="Model")
class Functional(Model):
    """What `Model(inputs, outputs)` makes."""

    _lean = True

    def __init__(self, inputs, outputs, name=None, trainable=True):
        super().__init__(name=name)
        self._input_keys, inputs = _flat(inputs, "inputs")
        self._output_keys, outputs = _flat(outputs, "outputs")
        for tensor in inputs:
            if tensor.dtype == "bool" and tensor.node is not None:
                raise ValueError(f"inputs: expected tensors, received the mask {tensor.name}")
        self._set_graph(Graph(inputs, outputs))
        if not trainable:
            self.trainable = False

    def _set_graph(self, graph):
        self._graph = graph
        self._layers = graph.layers
        self._single_input = self._input_keys is None
        self.built = True

    # ---- inputs and outputs -----------------------------------------------------------------------------------------
    @property
    def inputs(self):
        """The symbolic inputs, a list."""
        return list(self._graph.inputs)

    @property
    def outputs(self):
        """The symbolic outputs, a list."""
        return list(self._graph.outputs)

    @property
    def input(self):
        """The symbolic input, or as many as the model was given."""
        return _structured(self.inputs, self._input_keys)

    @property
    def output(self):
        """The symbolic output, or as many as the model was given."""
        return _structured(self.outputs, self._output_keys)

    @property
    def input_names(self):
        return _names(self._input_keys, self._graph.inputs)

    @property
    def output_names(self):
        """A name for each output: the key it was given under, else that of the layer that makes it."""
        return _names(self._output_keys, self._graph.outputs)

    @property
    def input_shape(self):
        return _structured([t.shape for t in self._graph.inputs], self._input_keys)

    @property
    def output_shape(self):
        return _structured([t.shape for t in self._graph.outputs], self._output_keys)

    @property
    def layers(self):
        return list(self._layers)

    # ---- running ----------------------------------------------------------------------------------------------------
    def __call__(self, inputs, *args, mask=None, **kwargs):
        if self._input_keys is self._output_keys is None and not isinstance(inputs, dict):
            return super().__call__(inputs, *args, mask=mask, **kwargs)
        inputs, mask = self._in_order(inputs, mask)
        outputs = super().__call__(inputs, *args, mask=mask, **kwargs)
        return self._by_output_keys(outputs)

    def _in_order(self, inputs, mask):
        if isinstance(inputs, dict):
            inputs = self._by_name(inputs, self.input_names, "inputs")
            mask = self._by_name(mask, self.input_names, "mask", partial=True) if isinstance(mask, dict) else mask
        elif self._input_keys is not None and not isinstance(inputs, (list, tuple)):
            if len(self._graph.inputs) > 1:
                raise ValueError(f"{self.name}: inputs: expected {len(self.inputs)} of them in a list, received one")
            inputs, mask = [inputs], None if mask is None else [mask]
        if self._input_keys is not None and len(inputs) != len(self._graph.inputs):
            raise ValueError(f"{self.name}: inputs: expected {len(self._graph.inputs)}, received {len(inputs)}")
        return inputs, mask

    def _by_output_keys(self, outputs):
        return _structured(outputs, self._output_keys) if isinstance(self._output_keys, tuple) else outputs

    def _by_name(self, values, names, argument, partial=False):
        unknown = [key for key in values if key not in names]
        if unknown or (not partial and len(values) != len(names)):
            raise ValueError(f"{self.name}: {argument}: expected the names {names}, received {list(values)}")
        return [values.get(name) for name in names]

    def call(self, inputs, mask=None, training=False):
        return self._call_and_mask(inputs, mask, training)[0]

    def compute_mask(self, inputs, mask=None):
        """The masks of the outputs; runs the layers, as they may depend on what is computed."""
        inputs = [self._as_input(x) for x in inputs] if isinstance(inputs, list) else self._as_input(inputs)
        return self._run(inputs, mask, False)[1]

    def _lists(self, inputs, mask):
        if self._single_input:
            return [inputs], [mask]
        return inputs, [None] * len(inputs) if mask is None else mask

    def _call_and_mask(self, inputs, mask, training, args=(), kwargs=None):
        call = self._current_call() if training else None
        outputs, masks, logits = self._graph.run(*self._lists(inputs, mask), training, call=call)
        if training:
            call.logits = logits if self._output_keys is not None else logits[0]
        return self._as_returned(outputs, masks)

    def _as_returned(self, outputs, masks):
        if self._output_keys is None:
            return outputs[0], masks[0]
        return outputs, None if all(m is None for m in masks) else masks

    @property
    def output_activation(self):
        """ "softmax" or "sigmoid" if the output is that of logits that can be had, else None; a list for several."""
        activations = self._graph.output_activations()
        return activations[0] if self._output_keys is None else activations

    def _run_with_logits(self, inputs, mask):
        outputs, masks, logits = self._graph.run(*self._lists(inputs, mask), False, want_logits=True)
        return *self._as_returned(outputs, masks), logits[0] if self._output_keys is None else logits

    def backward(self, grad):
        call = self._current_call()
        n = len(self._graph.outputs)
        of_logits = call.grad_is_of_logits
        if self._output_keys is None:
            grads, of_logits = [grad], [of_logits]
        else:
            grads = [None] * n if grad is None else list(grad)
            if len(grads) != n:
                raise ValueError(f"{self.name}: grad: expected {n} arrays or Nones, received {len(grads)}")
            of_logits = of_logits if isinstance(of_logits, list) else [of_logits] * n
        d_inputs = self._graph.backward(call, grads, of_logits)
        if not call.need_x:
            return None
        return d_inputs[0] if self._single_input else d_inputs

    # ---- in a stream ------------------------------------------------------------------------------------------------
    def start_stream(self, batch_size, input_shape, arrival):
        outputs, state = self._graph.start_stream(batch_size, [arrival] if self._single_input else arrival)
        return outputs[0] if self._output_keys is None else outputs, state

    def stream_call(self, inputs, mask, state):
        outputs, masks, state = self._graph.stream(*self._lists(inputs, mask), state)
        return *self._as_returned(outputs, masks), state

    # ---- shapes -----------------------------------------------------------------------------------------------------
    def _input_shapes(self):
        shapes = [x.shape for x in self._graph.inputs]
        return shapes[0] if self._single_input else shapes

    def compute_output_spec(self, inputs, mask_shape, options):
        if self._single_input:
            shapes, masks = [inputs.shape], [mask_shape]
        else:
            shapes, masks = [x.shape for x in inputs], mask_shape or [None] * len(inputs)
        return self._as_returned(*self._graph.output_spec(shapes, masks))

    def compute_output_shape(self, input_shape):
        shapes = [input_shape] if self._single_input else list(input_shape)
        shapes, _ = self._graph.output_spec(shapes, [None] * len(shapes))
        return shapes[0] if self._output_keys is None else shapes

    def compute_mask_shape(self, input_shape, mask_shape):
        shapes, masks = ([input_shape], [mask_shape]) if self._single_input else (list(input_shape), mask_shape)
        _, masks = self._graph.output_spec(shapes, masks or [None] * len(shapes))
        return self._as_returned(masks, masks)[1]

    # ---- configuration, copies --------------------------------------------------------------------------------------
    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "input_keys": self._input_keys,
            "output_keys": self._output_keys,
            "layers": serialize_layers(self._layers),
            "graph": self._graph.to_spec(),
        }

    @classmethod
    def from_config(cls, config):
        """A new model of that configuration, without the weights' values.

        Raises
        ------
        ValueError
            Not a configuration that `get_config` gives: unknown layers, references that make a cycle.
        """
        check_config(config, "layers", "graph", "input_keys", "output_keys")
        layers = deserialize_layers(config["layers"])
        graph = Graph.from_spec(config["graph"], layers, Input)
        model = cls(
            _structured(graph.inputs, _key(config["input_keys"])),
            _structured(graph.outputs, _key(config["output_keys"])),
            name=config.get("name"),
        )
        if not config.get("trainable", True):
            model.trainable = False
        return model

    def __getstate__(self):
        state = super().__getstate__()
        if "_graph" in state:
            state["_graph"] = self._graph.to_spec()
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if state.get("_graph") is not None:
            self._graph = Graph.from_spec(self._graph, self._layers, Input)


def _flat(tensors, argument):
    """(None for one tensor, True for a list, the names for a dict; the tensors as a list)."""
    if isinstance(tensors, dict):
        keys, tensors = tuple(tensors), list(tensors.values())
    elif isinstance(tensors, (list, tuple)):
        keys, tensors = True, list(tensors)
    else:
        keys, tensors = None, [tensors]
    if not tensors:
        raise ValueError(f"{argument}: expected at least one tensor, received none")
    for tensor in tensors:
        if not isinstance(tensor, SymbolicTensor):
            raise TypeError(f"{argument}: expected symbolic tensors, received {type(tensor).__name__}")
    if argument == "inputs" and len({id(t) for t in tensors}) < len(tensors):
        raise ValueError("inputs: expected each tensor once, received one twice")
    return keys, tensors


def _structured(values, keys):
    if keys is None:
        return values[0]
    return dict(zip(keys, values, strict=True)) if isinstance(keys, tuple) else values


def _key(keys):
    return tuple(keys) if isinstance(keys, (list, tuple)) else keys


def _names(keys, tensors):
    """Names of tensors, each one's own: a second one of a name gets a number."""
    if isinstance(keys, tuple):
        return list(keys)
    names = []
    for tensor in tensors:
        name = tensor.name if tensor.node is None else tensor.node.layer.name
        n = sum(other == name or other.startswith(f"{name}_#") for other in names)
        names.append(f"{name}_#{n}" if n else name)
    return names
