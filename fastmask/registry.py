"""Classes by name: how what was written down as {"class_name": ..., "config": ...} becomes an object again.

Two sources of names: the built-in classes of a module (`Kind`) and whatever a user has registered
(`register_serializable`). Nothing else is ever looked up, so reading a configuration runs no code but theirs.
"""

import inspect
import re

from fastmask.checks import check_config

_registered = {}


def snake_case(name):
    """LayerNormalization -> layer_normalization, KLDivergence -> kl_divergence, Conv1D -> conv1d, as Keras."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower().lstrip("_")


def register_serializable(package="custom", name=None):
    """Class decorator: make a class of one's own (a layer, regularizer, ...) known under "package>name", so that it can
    be read back. The class has get_config(), whose entries are the arguments of its constructor, or from_config.
    A function that `Lambda` is to find again is decorated likewise.

    Examples
    --------
    >>> from fastmask.layers import Layer, deserialize, serialize
    >>> @register_serializable("docs")
    ... class Nothing(Layer):
    ...     def call(self, inputs):
    ...         return inputs
    >>> deserialize(serialize(Nothing(name="n")))
    <Nothing name=n, built=False>
    """

    for argument, value in (("package", package), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{argument}: expected a str or None, received {value!r}")

    def register(cls):
        if not callable(cls):
            raise TypeError(f"cls: expected a class or a function to decorate, received {cls!r}")
        cls._registered_name = f"{package}>{name or cls.__name__}" if package else name or cls.__name__
        _registered[cls._registered_name] = cls
        return cls

    return register


def registered_name(cls):
    """The name under which this very class, not one of its bases, is registered; None if it is not."""
    return cls.__dict__.get("_registered_name")


def registered_class(name):
    """The class registered under that name, or None."""
    found = _registered.get(name) if isinstance(name, str) else None
    return found if isinstance(found, type) else None


def registered_function(name):
    """The function registered under that name, or None."""
    found = _registered.get(name) if isinstance(name, str) else None
    return None if isinstance(found, type) else found


class Configured:
    """Base of small objects that are written down as their constructor's arguments, each kept as an attribute of the
    same name."""

    def get_config(self):
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config):
        check_config(config)
        return cls(**config)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


class Kind:
    """All classes of one kind, such as initializers: got by name, written down and read back.

    Parameters
    ----------
    what : str
        The kind, for messages: "initializer".
    base : class
        The base of all of them. A user's own class is read back only if it is one of it, too.
    named : dict
        Short name -> built-in class. The classes' own names are known as well.
    callables : bool
        Whether any function will do as well as an object of `base`.
    """

    def __init__(self, what, base, named, callables=True):
        self.what, self.base, self.names, self.callables = what, base, tuple(named), callables
        self._classes = {cls.__name__: cls for cls in named.values()}
        self._by_name = {**named, **self._classes}

    def get(self, identifier):
        """The object of that name or configuration; a class is called without arguments; an object (or function, if
        they will do) is returned as it is."""
        if isinstance(identifier, str):
            if identifier in self._by_name:
                return self._by_name[identifier]()
        elif isinstance(identifier, dict):
            return self._read(identifier)
        elif isinstance(identifier, type):
            if issubclass(identifier, self.base):
                return identifier()
        elif isinstance(identifier, self.base) or (self.callables and callable(identifier)):
            return identifier
        raise ValueError(
            f"{self.what}: expected one of {', '.join(self.names)}, a configuration or "
            f"{'a callable' if self.callables else f'an object of class {self.base.__name__}'}, received {identifier!r}"
        )

    def _read(self, config):
        name = config.get("class_name")
        cls = self._classes.get(name) if isinstance(name, str) else None
        cls = cls or registered_class(name)
        if cls is None or not issubclass(cls, self.base):
            raise ValueError(
                f"{self.what}: expected the class_name {', '.join(self._classes)} or that of a registered "
                f"{self.base.__name__}, received {name!r}"
            )
        arguments = config.get("config", {})
        if not isinstance(arguments, dict):
            raise TypeError(f"{self.what}: expected a dict as the config of {name}, received {arguments!r}")
        try:
            return cls.from_config(arguments)
        except TypeError as error:
            raise TypeError(
                f"{self.what}: expected the arguments of {name} as its config, received {arguments!r}: {error}"
            ) from error

    def serialize(self, thing):
        """A dict that `get` takes back.

        Raises
        ------
        ValueError
            Neither built in nor of a registered class: it cannot be written down.
        """
        cls = type(thing)
        name = cls.__name__ if self._classes.get(cls.__name__) is cls else registered_name(cls)
        if name is None:
            raise ValueError(
                f"{self.what}: expected one of {', '.join(self.names)} to write down, or an object of a class that is "
                f"decorated with register_serializable, received {getattr(thing, '__name__', cls.__name__)}"
            )
        return {"class_name": name, "config": thing.get_config()}
