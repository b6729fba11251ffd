"""fastmask: recurrent networks on variable-length sequences, on the CPU, with Keras' masks.

    import fastmask as fm

    model = fm.Sequential([
        fm.Input((None, 12)), fm.layers.Masking(0.0), fm.layers.GRU(64), fm.layers.Dense(9, activation="softmax"),
    ])

See README.md. Importing this starts nothing: modules are loaded when first used, numba when a kernel must be compiled.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

# public name -> module that holds it; None: a module of its own
_HOMES = {
    **dict.fromkeys(
        (
            *("activations", "callbacks", "constraints", "datasets", "initializers", "layers", "losses", "masks"),
            *("metrics", "models", "optimizers", "regularizers", "testing"),
        ),
        None,
    ),
    "Input": "layers",
    "MaskDroppedWarning": "layers",
    "Ragged": "ragged",
    "Model": "models",
    "Sequential": "models",
    "Variable": "variable",
    "bucket_batches": "sequences",
    "load_model": "models",
    "pad_sequences": "sequences",
    "get_num_threads": "kernels._jit",
    "set_num_threads": "kernels._jit",
    "set_random_seed": "initializers",
    **{
        name + suffix: f"ops.{name}"
        for name in ("lstm", "gru", "simple_rnn")
        for suffix in ("", "_forward", "_backward")
    },
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'fastmask' has no attribute {name!r}")
    home = _HOMES[name]
    value = _import_module(f"fastmask.{home or name}")
    if home is not None:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
