"""Names and constants of the loss kernels; imports nothing, so that ops can read them without numba.

The kernel of a kind has its name; that of a cross-entropy from logits has `_from_logits` behind it.
"""

BLOCK = 128  # steps of one block
WIDE = 12  # from this many predictions a step on, the lanes of a vector are predictions of one step, not steps
EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON]: keras.config.epsilon()

KINDS = (
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
    "cosine_similarity",
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "kl_divergence",
    "poisson",
    "hinge",
    "squared_hinge",
    "categorical_hinge",
)
