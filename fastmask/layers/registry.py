"""How a layer is written down and becomes a layer again; and names for layers."""

import itertools

from fastmask.registry import register_serializable, registered_class, registered_name, snake_case

__all__ = ["auto_name", "deserialize", "register_serializable", "serialize"]

_name_counts = {}


def auto_name(of):
    """A name for a layer that was given none, from its class or a word: gru, gru_1, gru_2, ..."""
    word = snake_case(of if isinstance(of, str) else of.__name__)
    n = next(_name_counts.setdefault(word, itertools.count()))
    return f"{word}_{n}" if n else word


def serialize(layer):
    """{"class_name": ..., "config": ...}"""
    name = registered_name(type(layer))
    if name is None:
        raise ValueError(
            f"{layer.name}: expected a registered class to write down, received {type(layer).__name__}: decorate it "
            "with register_serializable"
        )
    return {"class_name": name, "config": layer.get_config()}


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
    name = config.get("class_name")
    cls = registered_class(name)
    if cls is None:
        raise ValueError(f"layer: expected a class that is registered, received {name!r}")
    return cls.from_config(config.get("config", {}))
