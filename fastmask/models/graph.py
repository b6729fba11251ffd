"""Graph: the calls of layers between some symbolic inputs and outputs, in the order they run; forward, backward, and as
plain data.

Values and masks of a run lie in numbered places, one for each tensor. A `Step` is a node with its tensors replaced by
`Place`s, so that running looks nothing up.
"""

import warnings
from typing import NamedTuple

from fastmask.layers.calls import Recording
from fastmask.layers.streams import IN_PIECES, SO_FAR, WHOLE
from fastmask.layers.structure import none_if_all_none
from fastmask.layers.symbolic import Node, SymbolicMask, SymbolicTensor, fill_leaves, leaves, substitute, tensors_in
from fastmask.ragged import Ragged


class Place(NamedTuple):
    """Where a value lies, or the mask that travels with it."""

    number: int
    is_mask: bool


class Step(NamedTuple):
    """A node, ready to run."""

    node: Node
    inputs: object  # a Place or a list
    mask: object  # None, a Place or a list
    options: dict  # with Places in it
    outputs: tuple  # numbers of places
    reads: tuple  # numbers of the places of values that a gradient may flow to
    free: tuple  # numbers of places that nobody reads afterwards


class Graph:
    """From a list of symbolic inputs to a list of symbolic outputs.

    Raises
    ------
    ValueError
        An output that does not depend on the inputs alone, or two layers of one name.
    """

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        nodes, order = _sorted_nodes(inputs, outputs)
        self.nodes = nodes
        self.layers = _layers_in_keras_order(nodes, order)
        names = {}
        for layer in self.layers:
            if names.setdefault(layer.name, layer) is not layer:
                raise ValueError(f"layers: expected different names, received {layer.name!r} twice")
        self._number = {}
        for tensor in [*inputs, *(t for node in nodes for t in node.outputs if t is not None)]:
            self._number[id(tensor)] = len(self._number)
        self._output_places = [self._place(t) for t in outputs]
        self._specs = {}  # answers of output_spec
        self._steps = self._plan()
        self._logit_steps = self._find_logit_steps()
        # layers one after the other: then inference is a short loop, which single steps notice
        self._chain = [node.layer for node in nodes] if self.is_chain and all(not n.training for n in nodes) else None

    @property
    def is_chain(self):
        """Whether each layer is called once, on the one output of the layer before and nothing else."""
        tensor = self.inputs[0]
        for node in self.nodes:
            plain = node.single and node.kind == "call" and not node.options and node.mask is None
            if node.inputs is not tensor or not plain:
                return False
            tensor = node.outputs[0]
        return len(self.inputs) == len(self.outputs) == 1 and tensor is self.outputs[0]

    def _place(self, tensor):
        if isinstance(tensor, SymbolicMask):
            return Place(self._number[id(tensor.tensor)], True)
        return Place(self._number[id(tensor)], False)

    def _plan(self):
        kept = {place.number for place in self._output_places}
        steps = []
        for node in reversed(self.nodes):  # from the end, where it is known what is read later
            options = substitute(node.options, self._place)
            inputs = substitute(node.inputs, self._place)
            read = [self._place(t) for t in node.sources]
            free = {place.number for place in read} - kept
            kept |= free
            values = [self._place(t) for t in [*node.input_list, *tensors_in(node.options)]]
            outputs = tuple(-1 if t is None else self._number[id(t)] for t in node.outputs)
            reads = tuple(place.number for place in values if not place.is_mask)
            steps.append(Step(node, inputs, substitute(node.mask, self._place), options, outputs, reads, tuple(free)))
        return steps[::-1]

    def _find_logit_steps(self):
        """For each output: the number of the step it comes from if nothing else reads it, so that its loss may work on
        what went into its softmax or sigmoid; else None."""
        read = [n for step in self._steps for n in step.reads] + [p.number for p in self._output_places]
        made_by = {n: i for i, step in enumerate(self._steps) for n in step.outputs}
        return [
            made_by.get(p.number)
            if read.count(p.number) == 1 and not p.is_mask and self._may_give_logits(made_by.get(p.number))
            else None
            for p in self._output_places
        ]

    def _may_give_logits(self, number):
        if number is None:
            return False
        node = self._steps[number].node
        return node.single and node.kind == "call" and not node.options and not isinstance(node.inputs, list)

    def output_activations(self):
        """For each output "softmax" or "sigmoid", if it is that of logits that can be had, else None."""
        return [None if i is None else self._steps[i].node.layer.output_activation for i in self._logit_steps]

    # ---- forward ----------------------------------------------------------------------------------------------------
    def run(self, inputs, masks, training, want_logits=False, call=None, state=()):
        """(outputs, their masks, logits), lists of the length of the outputs.

        logits: in training (`call` is the running call of the model) and with want_logits those of the outputs that
        have them, None for the others. state: in a stream, see `start_stream`; brought up to date.
        """
        if self._chain is not None and not (training or want_logits):
            (x,), (mask,) = inputs, masks
            for i, layer in enumerate(self._chain):
                x = layer._as_input(x)
                if i in state:
                    x, mask, state[i] = layer.stream_call(x, mask, state[i])
                else:
                    x, mask = layer._run(x, mask, False)
            return [x], [mask], [None]
        values, mask_of = [None] * len(self._number), [None] * len(self._number)
        values[: len(inputs)], mask_of[: len(masks)] = inputs, masks

        def read(place):
            value = values[place.number]
            return _in_rows(mask_of[place.number], value) if place.is_mask else value

        def fill(structure):
            if type(structure) is Place:
                return read(structure)
            if type(structure) in (list, tuple):
                return type(structure)(map(fill, structure))
            return {k: fill(v) for k, v in structure.items()} if type(structure) is dict else structure

        logits = {}
        wanted = {i for i in self._logit_steps if i is not None}
        for i, step in enumerate(self._steps):
            node = step.node
            layer = node.layer
            if type(step.inputs) is list:
                x = [layer._as_input(read(p)) for p in step.inputs]
                mask = none_if_all_none([None if p.is_mask else mask_of[p.number] for p in step.inputs])
            else:
                x, mask = (
                    layer._as_input(read(step.inputs)),
                    None if step.inputs.is_mask else mask_of[step.inputs.number],
                )
            if step.mask is not None:
                mask = fill(step.mask)
                mask = None if mask is None else layer._as_masks(mask, x)
            if node.kind == "mask":
                outputs, mask = layer.compute_mask(x, mask), None
                if node.single:
                    outputs = _in_rows(outputs, x)
                else:
                    outputs = [_in_rows(m, x) for m in outputs or [None] * len(step.outputs)]
            elif i in state:
                outputs, mask, state[i] = layer.stream_call(x, mask, state[i])
            elif node.training and not training:  # by itself: nothing goes back through it
                with Recording() as by_itself:
                    outputs, mask = layer._run(x, mask, True, (), fill(step.options))
                logits[i] = by_itself.inner[layer][-1].logits
            elif want_logits and i in wanted and layer.output_activation:
                outputs, mask, logits[i] = layer._run_with_logits(x, mask)
            else:
                outputs, mask = layer._run(x, mask, training, (), fill(step.options) if step.options else {})
                if training and i in wanted:
                    logits[i] = call.inner[layer][-1].logits
            if node.single:
                n = step.outputs[0]
                values[n], mask_of[n] = outputs, mask[0] if isinstance(mask, (list, tuple)) else mask
            else:
                made = list(mask) if isinstance(mask, (list, tuple)) else [mask]
                made += [None] * (len(step.outputs) - len(made))
                for n, y, m in zip(step.outputs, leaves(outputs), made, strict=True):
                    if n >= 0:
                        values[n], mask_of[n] = y, m
            for n in step.free:
                values[n] = mask_of[n] = None
        masks = [None if p.is_mask else mask_of[p.number] for p in self._output_places]
        return [read(p) for p in self._output_places], masks, [logits.get(i) for i in self._logit_steps]

    # ---- in a stream ------------------------------------------------------------------------------------------------
    def start_stream(self, batch_size, arrival):
        """(how the outputs go on, the state before the first step) if the inputs come like that; see `Streamed`.

        The state has an entry for each step whose layer remembers something, under the number of the step.

        Raises
        ------
        ValueError
            A layer that cannot stream; names it and says why.
        """
        arrivals, state = arrival + [WHOLE] * (len(self._number) - len(arrival)), {}
        for i, step in enumerate(self._steps):
            layer, its_state = step.node.layer, None
            places = [*_places_in(step.inputs), *_places_in(step.mask), *_places_in(step.options)]
            its = {arrivals[p.number] for p in places}
            if IN_PIECES not in its:
                outputs = SO_FAR if SO_FAR in its else WHOLE
            else:
                try:
                    outputs, its_state = _start_stream(step, batch_size, arrivals)
                except ValueError as error:
                    raise ValueError(
                        f"{layer.name}: {type(layer).__name__} cannot take a sequence in pieces: {error}"
                    ) from error
            if its_state is not None and step.node.kind == "call":
                state[i] = its_state
            for k, n in enumerate(step.outputs):
                if n >= 0:
                    arrivals[n] = outputs[k] if isinstance(outputs, list) else outputs
        return [arrivals[p.number] for p in self._output_places], state

    def stream(self, inputs, masks, state):
        """(outputs, their masks, state) of the next steps."""
        state = dict(state)
        outputs, masks, _ = self.run(inputs, masks, False, state=state)
        return outputs, masks, state

    # ---- backward ---------------------------------------------------------------------------------------------------
    def backward(self, call, grads, of_logits):
        """Gradients of the inputs from those of the outputs, through the layers' calls inside `call`, last one first.

        of_logits: for each output whether its gradient is that of its logits. Layers that no trained weight and no
        wanted gradient lies before are left out.
        """
        gradients = [None] * len(self._number)

        def arrive(place, gradient):
            if gradient is not None and not place.is_mask:
                n = place.number
                gradients[n] = gradient if gradients[n] is None else _added(gradients[n], gradient)

        for place, gradient in zip(self._output_places, grads, strict=True):
            arrive(place, gradient)
        logit_steps = {i for i, of in zip(self._logit_steps, of_logits, strict=True) if of}
        wanted, trained = self._wanted(call.need_x)
        for i in reversed(range(len(self._steps))):
            step = self._steps[i]
            node, layer = step.node, step.node.layer
            if node.kind == "mask":
                continue
            arrived = [None if n < 0 else gradients[n] for n in step.outputs]
            for n in step.outputs:
                if n >= 0:
                    gradients[n] = None
            need_x = any(wanted[n] for n in step.reads)
            if all(g is None for g in arrived) or not (need_x or trained[i]):
                call.inner[layer].pop()
                continue
            inner = call.inner[layer][-1]
            inner.need_x, inner.grad_is_of_logits = need_x, i in logit_steps
            d_inputs = layer.backward(arrived[0] if node.single else tuple(fill_leaves(node.structure, arrived)))
            if type(step.inputs) is list:
                for place, gradient in zip(step.inputs, d_inputs or [None] * len(step.inputs), strict=True):
                    arrive(place, gradient)
            else:
                arrive(step.inputs, d_inputs)
            if step.options and need_x:
                self._arrive_at_options(step, wanted, arrive)
        return [gradients[self._number[id(x)]] for x in self.inputs]

    def _wanted(self, need_inputs):
        """For each place whether anyone needs the gradient there; for each step whether its layer is trained."""
        wanted, trained = [False] * len(self._number), []
        wanted[: len(self.inputs)] = [need_inputs] * len(self.inputs)
        for step in self._steps:
            trained.append(step.node.layer._is_trained())
            for n in step.outputs:
                if n >= 0:
                    wanted[n] = trained[-1] or any(wanted[k] for k in step.reads)
        return wanted, trained

    def _arrive_at_options(self, step, wanted, arrive):
        """Gradients of arguments other than the inputs, such as initial states."""
        layer, given = step.node.layer, None
        for name, value in step.options.items():
            places = [p for p in _places_in(value) if not p.is_mask and wanted[p.number]]
            if not places:
                continue
            given = layer.keyword_gradients() if given is None else given
            if name not in given:
                raise NotImplementedError(
                    f"{layer.name}: {type(layer).__name__} gives no gradient for its argument {name!r}, so nothing can "
                    "be trained through it; give the class keyword_gradients()"
                )
            _pair(value, given[name], arrive)

    # ---- shapes -----------------------------------------------------------------------------------------------------
    def output_spec(self, shapes, mask_shapes):
        """(shapes, mask shapes) of the outputs for inputs of other shapes and masks: lists."""
        asked = tuple(map(tuple, shapes)), tuple(None if m is None else tuple(m) for m in mask_shapes)
        if asked not in self._specs:  # models in models in models ask again and again
            with warnings.catch_warnings(record=True) as said:  # of masks that are lost
                warnings.simplefilter("always")
                self._specs[asked] = *self._find_output_spec(shapes, mask_shapes), [w.message for w in said]
        shapes, mask_shapes, said = self._specs[asked]
        for message in said:
            warnings.warn(message, stacklevel=2)
        return list(shapes), list(mask_shapes)

    def _find_output_spec(self, shapes, mask_shapes):
        twins = {
            id(t): SymbolicTensor(s, t.dtype, t.name, None, m)
            for t, s, m in zip(self.inputs, shapes, mask_shapes, strict=True)
        }

        def twin(tensor):
            if isinstance(tensor, SymbolicMask):
                return twins[id(tensor.tensor)].mask
            return twins[id(tensor)]

        for node in self.nodes:
            again = Node(node.layer, node.kind, substitute(node.inputs, twin), substitute(node.mask, twin), None, {})
            if again.mask is None and node.mask is not None:
                again.mask = []  # one that is not there; None would be what travels with the inputs
            again.options = substitute(node.options, twin)
            again.infer()
            made = again.outputs + [None] * (len(node.outputs) - len(again.outputs))  # of masks that are not there
            twins.update((id(t), a) for t, a in zip(node.outputs, made, strict=True) if t is not None)
        outputs = [twin(t) for t in self.outputs]
        return (
            [None if t is None else t.shape for t in outputs],
            [None if t is None or t.mask is None else t.mask.shape for t in outputs],
        )

    # ---- as plain data ----------------------------------------------------------------------------------------------
    def to_spec(self):
        """The graph as dicts, lists, strings and numbers; layers by their number in `self.layers`."""
        names = {id(t): ["input", i] for i, t in enumerate(self.inputs)}
        for i, node in enumerate(self.nodes):
            names.update((id(t), ["node", i, k]) for k, t in enumerate(node.outputs) if t is not None)

        def name(tensor):
            if isinstance(tensor, SymbolicMask):
                return {"mask_of": names[id(tensor.tensor)]}
            return {"tensor": names[id(tensor)]}

        number = {id(layer): i for i, layer in enumerate(self.layers)}
        return {
            "inputs": [
                {
                    "batch_shape": list(t.shape),
                    "dtype": t.dtype,
                    "name": t.name,
                    "mask_shape": None if t.mask is None else list(t.mask.shape),
                }
                for t in self.inputs
            ],
            "nodes": [
                {
                    "layer": number[id(node.layer)],
                    "kind": node.kind,
                    "inputs": substitute(node.inputs, name),
                    "mask": substitute(node.mask, name),
                    "training": node.training,
                    "options": substitute(node.options, name),
                }
                for node in self.nodes
            ],
            "outputs": [name(t) for t in self.outputs],
        }

    @classmethod
    def from_spec(cls, spec, layers, make_input):
        """The graph that `to_spec` wrote down, of these layers; make_input(batch_shape=, dtype=, name=) makes inputs.

        Raises
        ------
        ValueError
            What no `to_spec` would write: a node that refers to itself or a later one (a cycle), unknown layers.
        """
        inputs, made = [], []
        for entry in spec["inputs"]:
            x = make_input(batch_shape=entry["batch_shape"], dtype=entry["dtype"], name=entry["name"])
            if entry["mask_shape"] is not None:  # it is a tensor in the middle of another model
                x.mask = SymbolicMask(x, entry["mask_shape"])
            inputs.append(x)

        def tensor(reference):
            kind, *numbers = reference
            if kind == "input" and 0 <= numbers[0] < len(inputs):
                return inputs[numbers[0]]
            if kind == "node" and 0 <= numbers[0] < len(made) and 0 <= numbers[1] < len(made[numbers[0]]):
                return made[numbers[0]][numbers[1]]
            raise ValueError(
                f"nodes: expected references to inputs and earlier nodes, received {reference} in node {len(made)}: a "
                "cycle, or a damaged file"
            )

        def read(value):
            if type(value) is dict and set(value) == {"tensor"}:
                return tensor(value["tensor"])
            if type(value) is dict and set(value) == {"mask_of"}:
                return tensor(value["mask_of"]).mask
            if type(value) in (list, tuple):
                return type(value)(map(read, value))
            return {k: read(v) for k, v in value.items()} if type(value) is dict else value

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of masks that are dropped: it was said when the graph was made
            for entry in spec["nodes"]:
                if not 0 <= entry["layer"] < len(layers):
                    raise ValueError(f"nodes: expected one of {len(layers)} layers, received number {entry['layer']}")
                if entry["kind"] not in ("call", "mask"):
                    raise ValueError(f"nodes: expected the kind call or mask, received {entry['kind']!r}")
                node = Node(
                    layers[entry["layer"]], entry["kind"], read(entry["inputs"]), read(entry["mask"]),
                    entry["training"], read(entry["options"]),
                )  # fmt: skip
                node.add()
                made.append(node.outputs)
        return cls(inputs, [read(reference) for reference in spec["outputs"]])


def _sorted_nodes(inputs, outputs):
    """(nodes, each behind those it reads; node -> number in the order of a walk from the outputs)."""
    known = {id(t) for t in inputs}
    done, order, nodes = set(), {}, []
    for output in outputs:
        waiting = [(output, False)]
        while waiting:
            tensor, is_back = waiting.pop()
            if tensor is None:
                continue
            tensor = tensor.tensor if isinstance(tensor, SymbolicMask) else tensor
            node = tensor.node
            if id(tensor) in known or (node is not None and node in done):
                continue
            if node is None:
                raise ValueError(
                    f"outputs: expected to depend on the given inputs alone, received some that depend on {tensor!r}"
                )
            if is_back:
                done.add(node)
                nodes.append(node)
                continue
            order.setdefault(node, len(order))
            waiting.append((tensor, True))
            waiting += [(source, False) for source in reversed(node.sources)]
    return nodes, order


def _layers_in_keras_order(nodes, order):
    """Layers, each once, by distance from the outputs, then in the order of the walk: that of Keras' weights."""
    depth = dict.fromkeys(nodes, 0)
    layer_depth = {}
    maker = {id(t): node for node in nodes for t in node.outputs if t is not None}
    for node in reversed(nodes):
        depth[node] = layer_depth[node.layer] = max(depth[node], layer_depth.get(node.layer, 0))
        for source in node.sources:
            source = source.tensor if isinstance(source, SymbolicMask) else source
            before = maker.get(id(source))
            if before is not None:
                depth[before] = max(depth[before], depth[node] + 1)
    first = {}
    for node in sorted(nodes, key=order.get):
        first.setdefault(node.layer, len(first))
    return sorted(first, key=lambda layer: (-layer_depth[layer], first[layer]))


def _in_rows(mask, like):
    """The mask of a Ragged as a Ragged with the same rows, if it has as many steps; any other as it is."""
    same_steps = mask is not None and isinstance(like, Ragged) and len(mask) == len(like.values)
    return like.with_values(mask) if same_steps else mask


def _added(a, b):
    """a + b as a new array: gradients that arrive may be shared."""
    return a.with_values(a.values + b.values) if isinstance(a, Ragged) else a + b


def _start_stream(step, batch_size, arrivals):
    """What the layer of a step answers to `start_stream`, where its tensors come like that."""
    node = step.node
    several = type(step.inputs) is list
    its = [arrivals[p.number] for p in _places_in(step.inputs)]
    if IN_PIECES not in its:
        raise ValueError("expected its input to come in pieces, if another argument does")
    if any(arrivals[p.number] != IN_PIECES for p in _places_in(step.mask)):
        raise ValueError("expected a mask that comes in pieces, too, received one of a tensor that does not")
    if node.options or node.training:
        raise ValueError(
            f"expected a call without other arguments, received {', '.join(node.options) or 'training=True'}"
        )
    shape = [x.shape for x in node.inputs] if several else node.inputs.shape
    return node.layer.start_stream(batch_size, shape, its if several else its[0])


def _places_in(value):
    if type(value) is Place:
        return [value]
    if type(value) in (list, tuple):
        return [p for v in value for p in _places_in(v)]
    return [p for v in value.values() for p in _places_in(v)] if type(value) is dict else []


def _pair(places, gradients, arrive):
    """arrive(place, gradient) for a structure of places and one of gradients."""
    if type(places) is Place:
        if isinstance(gradients, (list, tuple)):  # (h,) for an argument given as h
            (gradients,) = gradients
        arrive(places, gradients)
    elif isinstance(places, (list, tuple)):
        for place, gradient in zip(places, gradients or [None] * len(places), strict=True):
            _pair(place, gradient, arrive)
