"""Faces without names into groups, one per person: average linkage, then comparison with templates as in a gallery."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import InputError
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.gallery_calibration import threshold_of_templates
from coreface.recognition.average_linkage import AverageLinkage, Pairs

_BLOCK = 1024  # groups compared with all templates at a time
_UNIT = 1e-3  # how much the length of an embedding may differ from 1


@dataclass(frozen=True)
class GroupingThresholds:
    """The cosines at which faces are grouped.

    Attributes:
        single: lowest mean cosine of two groups that average linkage merges.
        template: the lowest cosine with the template of a number of images.
        fmr: the false match rate that they stand for; None if a cosine was given.
    """

    single: float
    template: Callable[[int], float]
    fmr: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.single <= 1:
            raise InputError(f"threshold is {self.single}, expected a cosine above 0 and up to 1")

    @classmethod
    def given(cls, cosine: float) -> "GroupingThresholds":
        """Use one cosine for everything. Raises `InputError` if it is not above 0 and up to 1."""
        return cls(float(cosine), lambda images: float(cosine))

    @classmethod
    def calibrated(cls, calibrator: Calibrator, fmr: float) -> "GroupingThresholds":
        """Take the thresholds for a false match rate from a calibration.

        Raises:
            InputError: ``fmr`` is not between 0 and 1, or the calibration has fewer than 3 false matches at it.
        """
        found = calibrator.threshold(fmr)
        if found.threshold is None or found.standing == "undecidable":
            raise InputError(
                f"the calibration has {found.alarms} false matches at an FMR of {fmr}, expected 3 or more: ask for a "
                "higher rate, or calibrate with more people"
            )

        def template(images: int) -> float:
            cosine = threshold_of_templates(calibrator, {images: 1}, "mean", fmr).threshold
            assert cosine is not None  # it is known for single images
            return cosine

        return cls(float(found.threshold), template, float(fmr))


def group_faces(
    embeddings: ArrayLike,
    thresholds: GroupingThresholds,
    *,
    groups: ArrayLike | None = None,
    photographs: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Put the faces of each person into a group.

    First, average linkage: the two groups with the highest mean cosine are merged, as long as it reaches
    ``thresholds.single``. Then, each group is compared once with the templates (unit-length means) of groups that are
    not smaller, as a gallery does: it joins the best if the mean cosine of its faces reaches the threshold for a
    template of that many images.

    Faces that have a group keep it, and their groups are never merged with each other. New groups get the numbers after
    the highest one, larger groups first.

    Args:
        embeddings: (N, D) unit vectors.
        thresholds: where to decide.
        groups: (N,) integers, the group of each face from an earlier call, 0 for none; None if all are new.
        photographs: (N,) integers, the photograph that each face is in: faces of one photograph are then never put into
            one group. None if that may be.

    Returns:
        (N,) the group of each face, from 1 on; 0 for a face that is alone.

    Raises:
        InputError: wrong shapes or dtypes, vectors not finite or not of unit length, or groups below 0.
    """
    unit = _checked_embeddings(embeddings)
    count = len(unit)
    old = _checked_integers("groups", np.zeros(count, np.int64) if groups is None else groups, count)
    if (old < 0).any():
        raise InputError(f"groups contain {old.min()}, expected numbers from 1 on, and 0 for a face without a group")
    pictures = None if photographs is None else _checked_integers("photographs", photographs, count)
    if not count:
        return old
    numbers, fixed = np.unique(old[old > 0], return_inverse=True)
    start = np.full(count, -1, np.int64)  # the old groups first, then each other face
    start[old > 0] = fixed
    start[old == 0] = len(numbers) + np.arange(int((old == 0).sum()))
    means, sizes = group_means(unit, start)
    linkage = AverageLinkage(means, sizes, thresholds.single, _together(start, pictures), len(numbers))
    del means
    found = np.unique(linkage.run()[start], return_inverse=True)[1].astype(np.int64)
    del linkage
    found = _join_templates(unit, found, thresholds, _together(found, pictures), len(numbers))
    return _numbered(found, numbers)


def group_means(unit: NDArray[np.float32], groups: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the mean (G, D) and the size (G,) of each group; ``groups`` (N,) are numbered from 0 without gaps."""
    sizes = np.bincount(groups)
    order = np.argsort(groups, kind="stable")
    starts = np.cumsum(sizes) - sizes
    means = np.add.reduceat(unit[order], starts, axis=0) / sizes[:, None]
    return means.astype(np.float32), sizes.astype(np.int64)


def _join_templates(
    unit: NDArray[np.float32],
    groups: NDArray[np.int64],
    thresholds: GroupingThresholds,
    apart: Pairs | None,
    fixed: int,
) -> NDArray[np.int64]:
    """Let each group join the larger one whose template its faces resemble most, if they reach its threshold."""
    means, sizes = group_means(unit, groups)
    lengths = np.linalg.norm(means, axis=1)
    several = np.flatnonzero((sizes > 1) & (lengths > 0))
    if not len(several):
        return groups
    templates = means[several] / lengths[several, None]
    of_size = {size: thresholds.template(size) for size in np.unique(sizes[several]).tolist()}
    needed = np.array([of_size[size] for size in sizes[several].tolist()], np.float32)
    column = np.full(len(means), -1)
    column[several] = np.arange(len(several))
    conflicts = _Conflicts(apart, fixed)
    best, excess = np.zeros(len(means), np.int64), np.zeros(len(means), np.float32)
    for top in range(0, len(means), _BLOCK):
        rows = np.arange(top, min(top + _BLOCK, len(means)))
        over = means[rows] @ templates.T - needed
        over[sizes[rows][:, None] > sizes[several]] = -np.inf
        over[rows < fixed, : np.searchsorted(several, fixed)] = -np.inf
        own = column[rows] >= 0
        over[np.flatnonzero(own), column[rows][own]] = -np.inf
        for row, group in enumerate(rows.tolist()):
            if others := conflicts.apart.get(group):
                places = column[list(others)]
                over[row, places[places >= 0]] = -np.inf
        chosen = over.argmax(axis=1)
        best[rows], excess[rows] = several[chosen], over[np.arange(len(rows)), chosen]
    into = np.arange(len(means))
    joining = np.flatnonzero(excess >= 0)
    for group in joining[np.argsort(-excess[joining], kind="stable")].tolist():
        one, other = _root(into, group), _root(into, int(best[group]))
        if one != other and not conflicts.between(one, other):
            one, other = min(one, other), max(one, other)
            into[other] = one
            conflicts.merge(one, other)
    return np.array([_root(into, group) for group in range(len(means))], np.int64)[groups]


class _Conflicts:
    """Which groups must not be merged, while they are merged."""

    def __init__(self, apart: Pairs | None, fixed: int) -> None:
        self.apart: dict[int, set[int]] = {}
        self._fixed = fixed
        for one, other in [] if apart is None else apart.tolist():
            self.apart.setdefault(one, set()).add(other)
            self.apart.setdefault(other, set()).add(one)

    def between(self, one: int, other: int) -> bool:
        return max(one, other) < self._fixed or other in self.apart.get(one, ())

    def merge(self, one: int, other: int) -> None:
        """Let ``one`` stand for both."""
        for group in self.apart.pop(other, ()):
            self.apart[group].remove(other)
            self.apart[group].add(one)
            self.apart.setdefault(one, set()).add(group)


def _root(into: NDArray[np.int64], group: int) -> int:
    while into[group] != group:
        group = int(into[group])
    return group


def _together(groups: NDArray[np.int64], photographs: NDArray[np.int64] | None) -> Pairs | None:
    """Return the pairs of different groups that have a photograph in common."""
    if photographs is None:
        return None
    order = np.argsort(photographs, kind="stable")
    _, starts, counts = np.unique(photographs[order], return_index=True, return_counts=True)
    pairs = [np.empty((0, 2), np.int64)]
    for start, faces in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        one, other = np.triu_indices(faces, 1)
        members = groups[order[start : start + faces]]
        pairs.append(np.sort(np.stack([members[one], members[other]], axis=1), axis=1))
    found = np.unique(np.concatenate(pairs), axis=0)
    different: Pairs = found[found[:, 0] != found[:, 1]]
    return different


def _numbered(found: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give old groups, which come first, their numbers, and new ones the next numbers, larger groups first."""
    sizes = np.bincount(found)
    new = np.arange(len(numbers), len(sizes))
    new = new[sizes[new] > 1]
    new = new[np.argsort(-sizes[new], kind="stable")]
    named = np.zeros(len(sizes), np.int64)
    named[: len(numbers)] = numbers
    named[new] = 1 + (numbers.max() if len(numbers) else 0) + np.arange(len(new))
    return named[found]


def _checked_embeddings(embeddings: ArrayLike) -> NDArray[np.float32]:
    unit = np.asarray(embeddings)
    if unit.ndim != 2 or unit.dtype.kind != "f":
        raise InputError(f"embeddings have shape {unit.shape} and dtype {unit.dtype}, expected floats (N, D)")
    unit = unit.astype(np.float32, copy=False)
    lengths = np.linalg.norm(unit, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))
    if len(bad):
        raise InputError(f"embedding {bad[0]} has length {lengths[bad[0]]:.4g}, expected unit vectors")
    return unit


def _checked_integers(name: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    array: NDArray[Any] = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(f"{name} have shape {array.shape} and dtype {array.dtype}, expected integers ({count},)")
    return array.astype(np.int64)
