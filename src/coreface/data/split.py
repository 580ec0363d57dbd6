"""Splits that keep people apart: nobody who is tested was ever trained on."""

import numpy as np

from coreface.data.source import FaceSource
from coreface.errors import DataError, InputError


def split_by_identity(
    source: FaceSource, test: float = 0.25, *, seed: int | None = 0, fold: int = 0
) -> tuple[FaceSource, FaceSource]:
    """Split a source into two that share no identity.

    Args:
        source: any source of faces.
        test: the share of identities to hold out, 0 < test < 1, or their number, an int of at least 1.
        seed: draws the order of the identities; None keeps the order of the source.
        fold: which slice of that order is held out: identities fold * n to (fold + 1) * n. Folds are disjoint.

    Returns:
        (training source, test source), identities of each renumbered from 0.

    Raises:
        InputError: ``test`` or ``fold`` is out of range.
        DataError: the source has too few identities for it.
    """
    total = source.num_identities
    if isinstance(test, bool) or not (0 < test < 1 or (isinstance(test, int) and test >= 1)):
        raise InputError(f"test is {test!r}, expected a share between 0 and 1 or a whole number of identities")
    count = test if isinstance(test, int) else max(1, round(test * total))
    if count >= total:
        raise DataError(f"{count} of {total} identities to hold out leaves none to train on: lower the number")
    if fold < 0 or (fold + 1) * count > total:
        raise InputError(f"fold {fold} does not exist: {total} identities make {total // count} folds of {count}")
    order = np.arange(total) if seed is None else np.random.default_rng(seed).permutation(total)
    held_out = np.isin(source.identities, order[fold * count : (fold + 1) * count])
    return source.select(np.flatnonzero(~held_out)), source.select(np.flatnonzero(held_out))
