"""Layer classes by name: how a configuration that was written down becomes a layer again."""

_classes = {}


def register_serializable(package="custom", name=None):
    """Class decorator: make a layer class of one's own known under "package>name", so that it can be read back.

    Examples
    --------
    >>> from fastmask.layers import Layer
    >>> @register_serializable("docs")
    ... class Nothing(Layer):
    ...     def call(self, inputs):
    ...         return inputs
    >>> deserialize(serialize(Nothing(name="n")))
    <Nothing name=n, built=False>
    """

    def register(cls):
        cls._registered_name = f"{package}>{name or cls.__name__}" if package else name or cls.__name__
        _classes[cls._registered_name] = cls
        return cls

    return register


def serialize(layer):
    """{"class_name": ..., "config": ...}"""
    name = type(layer).__dict__.get("_registered_name")
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
    if name not in _classes:
        raise ValueError(f"layer: expected a class that is registered, received {name!r}")
    return _classes[name].from_config(config.get("config", {}))
