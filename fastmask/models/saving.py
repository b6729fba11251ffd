"""Models and weights in files: `Model.save`, `Model.save_weights`, `Model.load_weights` and `load_model`.

A file (see `archive`) holds the weights as arrays weights/<number>, in the order of `model.weights`, and those of the
optimizer as optimizer/<number>. Its text:

    format, fastmask    number of this format; version that wrote the file
    weights             for each weight [name of the layer, name of the weight]
    layers, model       of a whole model: all its layers, each once, and its own number among them (see `LayerTable`)
    parts               for each of its layers, in the order of `_walk`, what its configuration may not tell
    compile             how it was compiled, or null
    optimizer           the state of the optimizer: numbers, and {"array": <number>}

Reading makes objects of known classes alone, from plain data: see `fastmask.registry`.
"""

import os
import warnings
from collections import Counter
from itertools import zip_longest

import numpy as np

from fastmask import __version__, losses, metrics, optimizers
from fastmask.checks import check_flag, check_path
from fastmask.layers.registry import LayerTable, deserialize, serialize
from fastmask.models import archive
from fastmask.models.archive import Archive, naming, plain_data
from fastmask.variable import Variable

FORMAT = 1


class Saver:
    """The part of a model that writes it to files and reads its weights; mixed into models, which are layers."""

    def save(self, filepath, overwrite=True):
        """Write the whole model to a file, for `load_model`: layers, weights, how it was compiled, and the state of the
        optimizer, so that training goes on as if nothing had been.

        Parameters
        ----------
        filepath : str or path
            A name that ends in .npz. NumPy reads the file, too: ``np.load("m.npz")["weights/0"]``.
        overwrite : bool
            Whether a file of that name may be replaced.

        Raises
        ------
        ValueError
            Not built yet; a layer of a class that is not registered, or with a configuration that cannot be written
            down (a Lambda of a function that is not registered); a weight that is NaN or infinite. Nothing is written
            then.
        OSError
            It cannot be written; FileExistsError without `overwrite`.

        Notes
        -----
        The file is replaced in one step: after a crash there is the old one or the new one, never half a file. Layers
        that are shared, between calls or between models inside this one, are written once and come back shared. What
        of `compile` cannot be written down (a loss that is a plain function) is left out with a warning. Not saved, as
        in Keras: states of stateful layers. Generators of random numbers (dropout) start anew.
        """
        path = _checked_target(filepath, overwrite)
        self._check_built("save")
        content, arrays = _weights_of(self)
        with LayerTable() as table:
            content["model"] = serialize(self)
        content["layers"] = table.entries
        for layer, entry in zip(table.layers, table.entries, strict=True):
            entry["config"] = plain_data(entry["config"], f"{layer.name}.get_config()")
        content["parts"] = [_part(layer) for layer in _walk(self)]
        content["compile"], left_out = _compile_state(self)
        if content["compile"] is not None:
            state = self.optimizer.get_state(self.weights)
            slots = [key for key, value in state.items() if isinstance(value, np.ndarray)]
            arrays |= {f"optimizer/{i}": state[key] for i, key in enumerate(slots)}
            content["optimizer"] = state | {key: {"array": i} for i, key in enumerate(slots)}
        archive.write(path, content, arrays)
        if left_out:
            warnings.warn(
                f"{self.name}: saved without {', '.join(left_out)}: functions, and classes that register_serializable "
                "does not know, cannot be written down. Compile with it again after loading",
                stacklevel=2,
            )

    def save_weights(self, filepath, overwrite=True):
        """Write the weights alone to a file, for `load_weights`; arguments and errors as `save`'s."""
        path = _checked_target(filepath, overwrite)
        self._check_built("save_weights")
        archive.write(path, *_weights_of(self))

    def load_weights(self, filepath):
        """Replace all weights by those in a file of `save_weights` or `save`.

        Parameters
        ----------
        filepath : str or path

        Raises
        ------
        ValueError
            Not built yet. A weight of another name or shape than this model has in its place, or NaN or infinity in
            one (as `set_weights`): the error names the layer. A file that is damaged or none of fastmask. No weight is
            changed then.
        FileNotFoundError
        """
        path = check_path(filepath)
        self._check_built("load_weights")
        with naming(path), Archive(path) as file:
            _check_content(file)
            _read_weights(file, self)

    def _check_built(self, method):
        if not self.built:
            raise ValueError(f"{self.name}.{method}: expected a built model: give it an Input, or call it once")


def load_model(filepath, custom_objects=None, compile=True):
    """The model that `Model.save` wrote: its outputs are the same to the bit, and so is what training makes of it.

    Parameters
    ----------
    filepath : str or path
    custom_objects : None
        Not supported: classes of one's own are found by the name under which `layers.register_serializable` knows them,
        once the module that defines them is imported.
    compile : bool
        Whether to compile it as it was and give the optimizer its state.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        A file that is damaged or none of `save`, or a class that is not registered. Names the file and what is wrong.
    FileNotFoundError

    Notes
    -----
    A file is not trusted. No class is made but fastmask's and registered ones, from plain data, and no array is made
    that is larger than what the file holds.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastmask as fm
    >>> model = fm.Sequential([fm.Input((None, 3)), fm.layers.GRU(4, name="states")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(os.path.join(folder, "m.npz"))
    ...     again = fm.load_model(os.path.join(folder, "m.npz"))
    >>> again.layers
    [<GRU name=states, built=True>]
    """
    check_flag(compile, "compile")
    if custom_objects:
        raise ValueError(
            "custom_objects: not supported, expected None: decorate the classes with layers.register_serializable, "
            f"received {custom_objects!r}"
        )
    path = check_path(filepath)
    with naming(path), Archive(path) as file:
        _check_content(file)
        if "layers" not in file.content:
            raise ValueError("expected a file of save, received one of save_weights: build the model, load_weights")
        model = _read_model(file)
        _read_weights(file, model)
        if compile and file.content["compile"] is not None:
            _read_compile_state(file, model)
    return model


def _checked_target(filepath, overwrite):
    path = check_path(filepath)
    if not path.endswith(".npz"):
        raise ValueError(f"filepath: expected a name that ends in .npz, received {path!r}")
    if not check_flag(overwrite, "overwrite") and os.path.exists(path):
        raise FileExistsError(
            f"filepath: expected a new name, as overwrite is False, received {path}: it exists already"
        )
    return path


# ---- weights --------------------------------------------------------------------------------------------------------
def _walk(layer, seen=None):
    """The layer, its sub-layers, theirs, and so on, each once; sub-layers are asked for after their layer was given."""
    seen = set() if seen is None else seen
    seen.add(id(layer))
    yield layer
    for sub_layer in layer._sub_layers():
        if id(sub_layer) not in seen:
            yield from _walk(sub_layer, seen)


def _own_weights(layer):
    return list({id(v): v for v in layer._own_weights + layer._attributes(Variable)}.values())


def _named_weights(model):
    """(name of its layer, Variable) for each weight, in the order of `model.weights`."""
    layer_of = {}
    for layer in _walk(model):
        for variable in _own_weights(layer):
            layer_of.setdefault(id(variable), layer.name)
    return [(layer_of[id(v)], v) for v in model.weights]


def _weights_of(model):
    """(content, arrays) of a file of the weights alone."""
    named = _named_weights(model)
    for layer, variable in named:
        _check_finite(layer, variable.name, variable.value)
    content = {"format": FORMAT, "fastmask": __version__, "weights": [[layer, v.name] for layer, v in named]}
    return content, {f"weights/{i}": v.value for i, (_, v) in enumerate(named)}


def _check_finite(layer, name, array):
    if not np.isfinite(array).all():
        raise ValueError(f"{layer}: {name}: expected finite numbers, received NaN or infinity")


def _read_weights(file, model):
    """Give the model its weights, all or none."""
    named, arrays = _named_weights(model), []
    for i, (own, stored) in enumerate(zip_longest(named, file.content["weights"])):
        expected = received = "nothing more"
        if own is not None:
            layer, variable = own
            expected = f"{variable.name} of shape {variable.shape} for {layer}"
        if stored is not None:
            received = f"{stored[1]} of shape {file.arrays[f'weights/{i}'][0]} of {stored[0]}"
        if own is None or stored is None or _form(variable) != (stored[1], file.arrays[f"weights/{i}"][0]):
            raise ValueError(f"weights of {model.name}: expected {expected}, received {received}")
    for i, (layer, variable) in enumerate(named):
        with np.errstate(over="ignore"):
            arrays.append(file.read(f"weights/{i}").astype(variable.dtype, copy=False))
        _check_finite(layer, variable.name, arrays[-1])
    for (_, variable), array in zip(named, arrays, strict=True):
        variable.assign(array)


def _form(variable):
    return variable.name, variable.shape


# ---- checking and making what the text describes --------------------------------------------------------------------
def _check_content(file):
    """ValueError unless the file is of this format and holds just the arrays that its text speaks of."""
    content = file.content
    if content.get("format") != FORMAT:
        raise ValueError(
            f"expected format {FORMAT}, received {content.get('format')!r}, written by fastmask "
            f"{content.get('fastmask')!r}"
        )
    weights, state = content.get("weights"), content.get("optimizer", {})
    if not isinstance(state, dict):
        raise ValueError(f"optimizer: expected a state, received {state!r:.60}")
    if not isinstance(weights, list) or any(
        not isinstance(w, list) or len(w) != 2 or not all(isinstance(name, str) for name in w) for w in weights
    ):
        raise ValueError("weights: expected a list of pairs of names")
    if "layers" in content:
        for key, kind in (("layers", list), ("model", dict), ("parts", list), ("compile", (dict, type(None)))):
            if key not in content or not isinstance(content[key], kind):
                raise ValueError(f"{key}: expected {kind}, received {content.get(key, 'nothing')!r:.60}")
    slots = [value["array"] for value in state.values() if isinstance(value, dict) and set(value) == {"array"}]
    expected = {f"weights/{i}" for i in range(len(weights))} | {f"optimizer/{i}" for i in slots}
    if missing := sorted(expected - set(file.arrays)):
        raise ValueError(f"expected the arrays {', '.join(missing)}, which are missing")
    if unknown := sorted(set(file.arrays) - expected):
        raise ValueError(f"expected no more arrays than its text names, received {', '.join(unknown)}, too")


def _read_model(file):
    """The model, built, with weights that are still 0."""
    content = file.content
    unused = Counter(array for name, array in file.arrays.items() if name.startswith("weights/"))

    def new_weight(layer, name, shape, dtype):
        if not unused[shape, dtype]:
            raise ValueError(f"{layer.name}: {name}: expected an array of shape {shape} and {dtype} in the file")
        unused[shape, dtype] -= 1
        return np.zeros(shape, dtype)

    with LayerTable(content["layers"], new_weight):
        model = deserialize(content["model"])
        if not isinstance(model, Saver):
            raise ValueError(f"model: expected one, received {type(model).__name__}")
        layers, layer = _walk(model), None
        for part in content["parts"]:
            layer = next(layers, None)
            if layer is not None:
                _read_part(layer, part)
        if layer is None or next(layers, None) is not None:
            raise ValueError(
                f"{model.name}: expected {len(content['parts'])} layers with those inside others, its configuration "
                "makes another number (a layer must make its sub-layers in __init__ or build)"
            )
    return model


def _part(layer):
    """What the configuration of the layer that made this one may not tell."""
    return {
        "name": layer.name,
        "trainable": layer.trainable,
        "trainable_weights": [v.trainable for v in _own_weights(layer)],
        "built": layer.built,
        "built_for": plain_data(layer._built_shape, "shape"),
        "guessed": isinstance(layer, Saver) and layer._shape_is_guess,
    }


def _read_part(layer, part):
    if not isinstance(part, dict) or not isinstance(part.get("name"), str):
        raise ValueError(f"parts: expected a name and more of {layer.name}, received {part!r:.60}")
    layer.name, layer._trainable = part["name"], bool(part["trainable"])
    if part["built"] and not layer.built:
        layer._build_shape(_as_shape(part["built_for"]))
    if part["guessed"]:
        layer._shape_is_guess = True
    own, trainable = _own_weights(layer), part["trainable_weights"]
    if len(own) != len(trainable):
        raise ValueError(f"{layer.name}: expected {len(trainable)} weights, its class makes {len(own)}")
    for variable, value in zip(own, trainable, strict=True):
        variable.trainable = bool(value)


def _as_shape(shape):
    """A shape, or several, from lists; None for none."""
    if shape is None:
        return None
    if isinstance(shape, list) and shape and isinstance(shape[0], list):
        return [_as_shape(s) for s in shape]
    if not isinstance(shape, list) or any(n is not None and (type(n) is not int or n < 0) for n in shape):
        raise ValueError(f"built_for: expected a shape, received {shape!r:.60}")
    return tuple(shape)


# ---- how it was compiled --------------------------------------------------------------------------------------------
def _compile_state(model):
    """(plain data for `_read_compile_state`, what had to be left out); (None, []) of one never compiled."""
    left_out = []

    def written(kind, what, thing):
        if thing is None or isinstance(thing, str):
            return thing
        try:
            return plain_data(kind.serialize(thing), what)
        except (ValueError, TypeError, NotImplementedError):
            left_out.append(f"the {what} {getattr(thing, 'name', None) or getattr(thing, '__name__', thing)!r}")
            return None

    if model.optimizer is None:
        return None, []
    state = {
        "optimizer": written(optimizers, "optimizer", model.optimizer),
        "loss": [written(losses, "loss", loss) for loss in model._losses],
        "loss_weights": model._loss_weights,
        "undecayed": [i for i, v in enumerate(model.weights) if any(v is u for u in model.optimizer._undecayed)],
        "undecayed_names": plain_data(model.optimizer._undecayed_names, "exclude_from_weight_decay"),
    }
    for key, wanted in (("metrics", model._metrics), ("weighted_metrics", model._weighted_metrics)):
        lists = [[written(metrics, "metric", metric) for metric in some] for some in wanted]
        state[key] = [[metric for metric in some if metric is not None] for some in lists]
    return (state if state["optimizer"] is not None else None), left_out


def _read_compile_state(file, model):
    state = file.content["compile"]
    loss = state["loss"]
    wanted = [
        [[m if isinstance(m, str) else metrics.get(m) for m in some] for some in state[key]]
        for key in ("metrics", "weighted_metrics")
    ]
    if len(model.output_names) == 1:
        wanted = [lists[0] for lists in wanted]
    model.compile(
        optimizers.get(state["optimizer"]),
        None if all(one is None for one in loss) else [None if one is None else losses.get(one) for one in loss],
        loss_weights=state["loss_weights"],
        metrics=wanted[0],
        weighted_metrics=wanted[1],
    )
    weights = model.weights
    model.optimizer.exclude_from_weight_decay([weights[i] for i in state["undecayed"]], state["undecayed_names"])
    model.optimizer.set_state(
        weights,
        {
            key: file.read(f"optimizer/{value['array']}") if isinstance(value, dict) else value
            for key, value in file.content["optimizer"].items()
        },
    )
