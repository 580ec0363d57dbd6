"""Verification pairs drawn from a source of faces: as many genuine as impostor pairs, folds of different people."""

import numpy as np
from numpy.typing import NDArray

from coreface.data.pairs.pair_set import FOLDS, PairSet
from coreface.data.source import FaceSource
from coreface.errors import DataError, InputError

_MOST = 6000  # default number of pairs, as in LFW


class DrawnPairs(PairSet):
    """Pairs of images of a source. See `draw_pairs`."""

    def __init__(
        self, source: FaceSource, pairs: NDArray[np.int64], same: NDArray[np.bool_], fold_of: NDArray[np.int64]
    ) -> None:
        used, places = np.unique(pairs, return_inverse=True)
        places = places.reshape(pairs.shape)
        super().__init__(places[:, 0], places[:, 1], same, len(used), fold_of)
        self._source, self._used = source, used

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._source[int(self._used[index])][0]

    def encoded(self, index: int) -> bytes:
        return self._source.encoded(int(self._used[index]))

    def locate(self, index: int) -> str:
        return self._source.locate(int(self._used[index]))

    def relative_path(self, index: int) -> str:
        return self._source.relative_path(int(self._used[index]))


def draw_pairs(source: FaceSource, count: int | None = None, *, folds: int = FOLDS, seed: int = 0) -> DrawnPairs:
    """Draw a verification set.

    Each person is assigned to one fold. Within a fold, genuine pairs are drawn from all pairs of images of one person,
    and impostor pairs from all pairs of images of two people, without repetition. The pairs are ordered by fold,
    genuine ones first.

    Args:
        source: the faces.
        count: pairs in all, a multiple of ``2 * folds``; None draws 6 000, or as many as there can be.
        folds: number of folds.
        seed: of the draw.

    Raises:
        InputError: ``count`` or ``folds`` is out of range.
        DataError: the source has too few identities or images for it.
    """
    if folds < 1:
        raise InputError(f"folds is {folds}, expected at least 1")
    if count is not None and (count < 1 or count % (2 * folds)):
        raise InputError(
            f"{count} pairs, expected a multiple of {2 * folds}: {folds} folds of genuine and impostor pairs"
        )
    rng = np.random.default_rng(seed)
    if source.num_identities < 2 * folds:
        raise DataError(
            f"{source.num_identities} identities, expected at least {2 * folds} for {folds} folds of different people"
        )
    if not (np.bincount(source.identities) >= 2).any():
        raise DataError(
            f"none of {source.num_identities} identities has two images, expected some: a genuine pair is two "
            "images of one person"
        )
    # Assigned in the order of their numbers of images, so that every fold gets its share of people with many.
    counts = np.bincount(source.identities, minlength=source.num_identities)
    shuffled = rng.permutation(source.num_identities)
    dealt = shuffled[np.argsort(-counts[shuffled], kind="stable")]
    members = [np.flatnonzero(np.isin(source.identities, dealt[fold::folds])) for fold in range(folds)]
    possible = [_possible(source.identities[images]) for images in members]
    most = min(min(genuine, impostor) for genuine, impostor in possible)
    each = min(_MOST // (2 * folds), most) if count is None else count // (2 * folds)
    if each > most or not each:
        raise DataError(
            f"{each} genuine and {each} impostor pairs a fold, but only {most} are possible in each of {folds} folds: "
            f"lower the number of pairs or of folds"
        )
    drawn = []
    for images in members:
        identities = source.identities[images]
        drawn += [images[_genuine(identities, each, rng)], images[_impostor(identities, each, rng)]]
    same = np.tile(np.repeat([True, False], each), folds)
    return DrawnPairs(source, np.concatenate(drawn), same, np.repeat(np.arange(folds), 2 * each))


def _possible(identities: NDArray[np.int64]) -> tuple[int, int]:
    counts = np.bincount(identities)
    genuine = int((counts * (counts - 1) // 2).sum())
    return genuine, len(identities) * (len(identities) - 1) // 2 - genuine


def _genuine(identities: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw (count, 2) indices, uniformly over all pairs."""
    by_person = np.argsort(identities, kind="stable")
    sizes = np.bincount(identities)
    sizes = sizes[sizes > 0]
    starts = np.cumsum(sizes) - sizes
    pairs_before = np.cumsum(sizes * (sizes - 1) // 2)
    numbers = rng.choice(int(pairs_before[-1]), size=count, replace=False)
    person = np.searchsorted(pairs_before, numbers, side="right")
    within = numbers - (pairs_before[person] - sizes[person] * (sizes[person] - 1) // 2)
    # Pair number k of one person is (j, i), i < j, where j (j - 1) / 2 <= k < j (j + 1) / 2.
    later = ((1 + np.sqrt(8 * within + 1)) / 2).astype(np.int64)
    earlier = within - later * (later - 1) // 2
    places = np.stack([starts[person] + earlier, starts[person] + later], axis=1)
    return np.asarray(by_person[places])


def _impostor(identities: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    total = len(identities)
    if total <= 2000:  # few enough to list them
        one, other = np.triu_indices(total, 1)
        apart = identities[one] != identities[other]
        chosen = rng.choice(int(apart.sum()), size=count, replace=False)
        return np.stack([one[apart], other[apart]], axis=1)[chosen]
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        for one, other in rng.integers(0, total, (count, 2)).tolist():
            if identities[one] != identities[other] and len(found) < count:
                found[min(one, other), max(one, other)] = None
    return np.array(list(found), dtype=np.int64)
