"""How a layer is written down and becomes a layer again; and names for layers."""

import itertools
import threading

from fastmask.registry import register_serializable, registered_class, registered_name, snake_case

__all__ = [
    "LayerTable",
    "auto_name",
    "deserialize",
    "deserialize_layers",
    "register_serializable",
    "serialize",
    "serialize_layers",
]

_name_counts = {}


def auto_name(of):
    """A name for a layer that was given none, from its class or a word: gru, gru_1, gru_2, ..."""
    word = snake_case(of if isinstance(of, str) else of.__name__)
    n = next(_name_counts.setdefault(word, itertools.count()))
    return f"{word}_{n}" if n else word


class LayerTable:
    """The layers of what is being written down or read, each once, by number: what was shared comes back shared.

    While a new table is in use (``with table:``, in this thread) `serialize` puts layers into it and gives {"layer":
    number}. While one that was written down is in use, `deserialize` takes that.

    Parameters
    ----------
    entries : list, optional
        A table that was written down, to be read.
    new_weight : function, optional
        For reading: (layer, name, shape, dtype) -> the value a new weight starts from, instead of what its initializer
        makes. May refuse, before anything of that size is made.
    """

    _in_use = threading.local()

    def __init__(self, entries=None, new_weight=None):
        self.is_new = entries is None
        self.entries, self.new_weight = [] if self.is_new else list(entries), new_weight
        self.layers = [None] * len(self.entries)
        self._numbers = {}  # id of a layer -> its number
        self.has_shared = False  # whether a layer was added twice
        self._being_read = set()

    @classmethod
    def in_use(cls):
        """The table in use in this thread, or None."""
        return getattr(cls._in_use, "table", None)

    def __enter__(self):
        self._before, self._in_use.table = self.in_use(), self
        return self

    def __exit__(self, *error):
        self._in_use.table = self._before

    def add(self, layer):
        """{"layer": number} of a layer, which is written down if it is new."""
        number = self._numbers.get(id(layer))
        if number is not None:
            self.has_shared = True
        else:
            number = self._numbers[id(layer)] = len(self.entries)
            self.layers.append(layer)  # which keeps it alive, and its id its own
            self.entries.append(None)
            self.entries[number] = _written_down(layer)
        return {"layer": number}

    def layer(self, number):
        """The layer of that number, made when it is first asked for."""
        if type(number) is not int or not 0 <= number < len(self.entries):
            raise ValueError(f"layer: expected a number below {len(self.entries)}, received {number!r}")
        if self.layers[number] is None:
            if number in self._being_read:
                raise ValueError(f"layer: expected layers made of others, number {number} is made of itself")
            self._being_read.add(number)
            self.layers[number] = _read(self.entries[number])
        return self.layers[number]


def serialize(layer):
    """{"class_name": ..., "config": ...}

    Raises
    ------
    ValueError
        Of a class that is not registered.
    """
    table = LayerTable.in_use()
    return table.add(layer) if table is not None and table.is_new else _written_down(layer)


def deserialize(config):
    """The layer of a configuration as `serialize` gives it; a layer is returned as it is.

    Raises
    ------
    ValueError
        No such dict, or a class that is not known.
    """
    if not isinstance(config, dict):
        if hasattr(config, "get_config"):
            return config
        raise ValueError(f"layer: expected a layer or its configuration, received {config!r}")
    table = LayerTable.in_use()
    if set(config) == {"layer"} and table is not None and not table.is_new:
        return table.layer(config["layer"])
    return _read(config)


def serialize_layers(layers):
    """The layers of a model: a list of what `serialize` gives; if one of them is inside another, too, {"table": entries
    of a LayerTable, "layers": numbers}, so that `deserialize_layers` makes it once."""
    if LayerTable.in_use() is None:
        with LayerTable() as table:
            numbers = [serialize(layer) for layer in layers]
        if table.has_shared:
            return {"table": table.entries, "layers": numbers}
    return [serialize(layer) for layer in layers]


def deserialize_layers(config):
    """What `serialize_layers` gave, as layers."""
    if LayerTable.in_use() is None and isinstance(config, dict):
        with LayerTable(config["table"]):
            return [deserialize(entry) for entry in config["layers"]]
    return [deserialize(entry) for entry in config]


def _written_down(layer):
    if not hasattr(layer, "get_config"):
        raise TypeError(f"layer: expected a layer to write down, received {type(layer).__name__}")
    name = registered_name(type(layer))
    if name is None:
        raise ValueError(
            f"{layer.name}: expected a registered class to write down, received {type(layer).__name__}: decorate it "
            "with register_serializable"
        )
    return {"class_name": name, "config": layer.get_config()}


def _read(config):
    name = config.get("class_name") if isinstance(config, dict) else config
    cls = registered_class(name)
    if cls is None:
        raise ValueError(
            f"layer: expected a class that is registered, received {name!r}: import the module that defines it, where "
            "it is decorated with register_serializable"
        )
    arguments = config.get("config", {})
    if not isinstance(arguments, dict):
        raise TypeError(f"layer: expected a dict as the config of {name}, received {arguments!r}")
    return cls.from_config(arguments)
