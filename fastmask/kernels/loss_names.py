"""Names, codes and constants of the loss kernels; imports nothing, so that ops can read them without numba."""

BLOCK = 128  # steps of one block
WIDE = 12  # from this many predictions a step on, the lanes of a vector are predictions of one step, not steps
EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON]: keras.config.epsilon()

KINDS = (
    "mean_squared_error",
    "mean_absolute_error",
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
)
NAMES = (*KINDS, *(f"{kind}_from_logits" for kind in KINDS if kind.endswith("crossentropy")))
CODES = {name: code for code, name in enumerate(NAMES)}
