"""Codes of the element-wise activations, shared by ops (which must not import numba) and kernels."""

NAMES = (
    "linear", "tanh", "sigmoid", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "softplus", "softsign",
    "squareplus", "silu", "hard_silu", "gelu", "hard_tanh", "hard_sigmoid", "hard_sigmoid_v2", "log_sigmoid",
    "exponential", "mish", "tanh_shrink", "soft_shrink", "hard_shrink", "threshold",
    "sparse_plus", "sparse_sigmoid",
)  # fmt: skip
ALIASES = {None: "linear", "swish": "silu", "hard_swish": "hard_silu", "exp": "exponential"}
CODES = {name: code for code, name in enumerate(NAMES)}
CODES.update({alias: CODES[name] for alias, name in ALIASES.items()})

LINEAR, TANH, SIGMOID = CODES["linear"], CODES["tanh"], CODES["sigmoid"]
