"""Folds for pairs that come without folds."""

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError


def even_folds(count: int, folds: int) -> NDArray[np.int64]:
    """Split ``count`` pairs in their order into folds of nearly equal size, larger folds first; return each pair's
    fold.

    Raises:
        InputError: ``folds`` is below 1 or above ``count``.
    """
    if not 1 <= folds <= count:
        raise InputError(f"folds is {folds} for {count} pairs; expected at least 1 fold and a pair in each")
    sizes = [len(part) for part in np.array_split(np.arange(count), folds)]
    return np.repeat(np.arange(folds, dtype=np.int64), sizes)
