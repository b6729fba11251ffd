"""Japanese Vowels: who of nine speakers says /ae/? (source and licence: JAPANESE_VOWELS.md beside this file)"""

import zipfile
from importlib.resources import files

import numpy as np

from ..ragged import Ragged

FEATURES = 12
SPEAKERS = 9


def japanese_vowels():
    """Japanese Vowels: 640 utterances of /ae/ by nine speakers, 7 to 29 frames of 12 LPC cepstrum coefficients each.

    Returns
    -------
    train : tuple (Ragged, ndarray)
        270 utterances, values (N, 12) float32, and their speakers (270,) int64, 0 to 8: thirty of each in order.
    test : tuple (Ragged, ndarray)
        370 utterances and their speakers, 24 to 88 utterances of each.

    Raises
    ------
    ValueError
        The file in the installed package is damaged.

    Notes
    -----
    M. Kudo, J. Toyama, M. Shimbo (1999), UCI Machine Learning Repository, CC BY 4.0.
    The values are as published, not standardised.

    Examples
    --------
    >>> import fastmask as fm
    >>> (x_train, y_train), (x_test, y_test) = fm.datasets.japanese_vowels()
    >>> len(x_train), len(x_test), x_train.values.shape, int(x_train.lengths.min()), int(x_train.lengths.max())
    (270, 370, (4274, 12), 7, 26)
    """
    with files(__package__).joinpath("japanese_vowels.npz").open("rb") as file:
        return read_vowels(file)


def read_vowels(file):
    """Read and check the two parts of the .npz `file` (a path or a binary file): see japanese_vowels."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            parts = [
                {key: arrays[f"{part}_{key}"] for key in ("values", "offsets", "labels")} for part in ("train", "test")
            ]
    except KeyError as error:
        raise ValueError(f"japanese_vowels.npz: an array is missing: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"japanese_vowels.npz: not a readable .npz file: {error}") from error
    return tuple(_part(**part) for part in parts)


def _part(values, offsets, labels):
    if values.ndim != 2 or values.shape[1] != FEATURES or values.dtype != np.float32:
        raise ValueError(f"values: expected float32 (N,{FEATURES}), received {values.dtype} {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values: expected finite numbers, received NaN or infinity")
    utterances = Ragged(values, offsets)  # checks the offsets
    if labels.shape != (len(utterances),) or labels.dtype != np.int64:
        raise ValueError(f"labels: expected int64 ({len(utterances)},), received {labels.dtype} {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < SPEAKERS):
        raise ValueError(f"labels: expected speakers 0 to {SPEAKERS - 1}, received {labels.min()} to {labels.max()}")
    return utterances, labels
