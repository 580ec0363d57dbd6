"""The folds of pairs that do not say theirs."""

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError


def even_folds(count: int, folds: int) -> NDArray[np.int64]:
    """Cut ``count`` pairs in their order into folds as equal as can be, the longer first; return the fold of each.

    Raises:
        InputError: ``folds`` is below 1 or above ``count``.
    """
    if not 1 <= folds <= count:
        raise InputError(f"folds is {folds} for {count} pairs; expected 1 fold or more and a pair in each")
    sizes = [len(part) for part in np.array_split(np.arange(count), folds)]
    return np.repeat(np.arange(folds, dtype=np.int64), sizes)
