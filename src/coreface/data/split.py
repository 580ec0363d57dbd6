"""Identity-disjoint splits."""

import re

import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource
from coreface.errors import DataError, InputError


def split_by_identity(
    source: FaceSource, test: float = 0.25, *, seed: int | None = 0, fold: int = 0, family: str | None = None
) -> tuple[FaceSource, FaceSource]:
    """Split a source into two that share no identity.

    Args:
        source: any source of faces.
        test: the share of identities to hold out, 0 < test < 1, or their number, an int of at least 1.
        seed: draws the order of the identities; None keeps the order of the source.
        fold: which slice of that order is held out: identities fold * n to (fold + 1) * n. Folds are disjoint.
        family: a regular expression; identities whose names give the same match (or the same first group) are
            relatives, and are never in both parts. A fold then has about n identities. None: no identities are related.

    Returns:
        (training source, test source), identities of each renumbered from 0.

    Raises:
        InputError: ``test`` or ``fold`` is out of range, or ``family`` is not a regular expression.
        DataError: the source has too few identities or families for it, or one belongs to no family.
    """
    total = source.num_identities
    if isinstance(test, bool) or not (0 < test < 1 or (isinstance(test, int) and test >= 1)):
        raise InputError(f"test is {test!r}, expected a share between 0 and 1 or a whole number of identities")
    count = test if isinstance(test, int) else max(1, round(test * total))
    if count >= total:
        raise DataError(f"{count} of {total} identities to hold out leaves none to train on: lower the number")
    if fold < 0 or (fold + 1) * count > total:
        raise InputError(f"fold {fold} does not exist: {total} identities make {total // count} folds of {count}")
    if family is None:
        order = np.arange(total) if seed is None else np.random.default_rng(seed).permutation(total)
        chosen = order[fold * count : (fold + 1) * count]
    else:
        chosen = _families(source, family, count, seed, fold)
    held_out = np.isin(source.identities, chosen)
    return source.select(np.flatnonzero(~held_out)), source.select(np.flatnonzero(held_out))


def _families(source: FaceSource, family: str, count: int, seed: int | None, fold: int) -> NDArray[np.int64]:
    try:
        pattern = re.compile(family)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"family is {family!r}, expected a regular expression: {error}") from error
    numbers: dict[str, int] = {}
    family_of = []
    for name in source.identity_names:
        match = pattern.search(name)
        text = match and match[min(1, pattern.groups)]
        if text is None:
            raise DataError(f"identity {name!r} has no family: {family!r} does not match its name")
        family_of.append(numbers.setdefault(text, len(numbers)))
    sizes = np.bincount(family_of)
    order = np.arange(len(sizes)) if seed is None else np.random.default_rng(seed).permutation(len(sizes))
    # A family belongs to the fold that its middle member would be in.
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    chosen = order[(middle >= fold * count) & (middle < (fold + 1) * count)]
    held_out = np.flatnonzero(np.isin(family_of, chosen))
    if not 0 < len(held_out) < source.num_identities:
        raise DataError(f"{len(sizes)} families cannot be split this way: the largest has {sizes.max()} identities")
    return held_out
