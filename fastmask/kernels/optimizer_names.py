"""Rules of kernels/optimizer.py and its block; imports nothing, so that ops can read them without numba."""

BLOCK = 4096  # elements of one block

# Rule -> how many arrays of state it keeps for a weight
RULES = {
    "sgd": 0,
    "momentum": 1,
    "nesterov": 1,
    "rmsprop": 1,
    "rmsprop_momentum": 2,
    "rmsprop_centered": 2,
    "rmsprop_centered_momentum": 3,
    "adam": 2,
    "amsgrad": 3,
}
