"""Which face of a group picture is the person whose name it bears: the one that resembles the person's others.

For each person separately, of the faces that are good enough:

1. The support of a face is the mean, over the person's other photographs, of its highest cosine with a face there. The
   anchor is the best supported of the faces that are alone in their photograph. If it has less than half the support of
   the best supported face of all, its photograph bears a wrong name, and the best supported of all is the anchor; so it
   is where no face is alone.
2. The person's face in every photograph is first the one nearest to the anchor. The centre for a photograph is the mean
   of the half of those in the other photographs that are nearest to the anchor, for up to half may bear wrong names.
3. In a group picture the face with the highest cosine with the centre is taken. The picture is undecided if that cosine
   is below the threshold, or if no other photograph of the person has a face.

The threshold is that for an FMR of 1 % where the centre of each person is compared with the faces of the next: 99 % of
these cosines lie below it. A photograph with one face keeps it; `coreface data clean` finds wrong names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FMR = 0.01
_WRONG_NAME = 0.5  # least support of an anchor that is alone in its photograph, of the highest of all
_BLOCK = 1 << 22  # cosines computed at a time

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class ConsistentFace:
    """The face that was taken in one photograph.

    Attributes:
        index: its number among the faces of the photograph; None where it is undecided, or where there is none.
        cosine: of the best face with the centre of the person's others; None where there is nothing to compare.
    """

    index: int | None
    cosine: float | None


def consistent_faces(
    people: Sequence[Sequence[Embeddings]],
) -> tuple[list[list[ConsistentFace]], float | None]:
    """Choose the face of each photograph of each person.

    Args:
        people: for each person, for each photograph, the embeddings (n, D) of its faces, unit length; n may be 0.

    Returns:
        The choices in the same order, and the threshold; None with fewer than two people, where every best face is
        taken.
    """
    found = [_members(photographs) for photographs in people]
    threshold = _threshold([entry for entry in found if entry is not None])
    chosen = [
        [ConsistentFace(0, None) if len(faces) == 1 else ConsistentFace(None, None) for faces in photographs]
        if members is None
        else [_choose(photographs[number], number, members, threshold) for number in range(len(photographs))]
        for photographs, members in zip(people, found, strict=True)
    ]
    return chosen, threshold


@dataclass(frozen=True, eq=False)
class _Members:
    """A person's face in each photograph that has any, those nearest to the anchor first."""

    numbers: NDArray[np.intp]  # of the photographs
    embeddings: Embeddings

    def near(self, without: int | None = None) -> Embeddings:
        """Return the nearer half of those that are in another photograph than ``without``; may be empty."""
        others = self.embeddings[self.numbers != without] if without is not None else self.embeddings
        return others[: (len(others) + 1) // 2]


def _members(photographs: Sequence[Embeddings]) -> _Members | None:
    """Return a person's faces; None where fewer than two photographs have any."""
    numbers = np.array([number for number, faces in enumerate(photographs) if len(faces)], np.intp)
    if len(numbers) < 2:
        return None
    filled = [faces for faces in photographs if len(faces)]
    counts = np.array([len(faces) for faces in filled])
    faces, starts = np.concatenate(filled), np.cumsum(counts) - counts
    photograph = np.repeat(np.arange(len(filled)), counts)
    support = _support(faces, starts, photograph)
    anchor = int(support.argmax())
    alone = np.flatnonzero(counts[photograph] == 1)
    if len(alone):
        best = int(alone[support[alone].argmax()])
        if support[best] >= _WRONG_NAME * support[anchor]:
            anchor = best
    cosines = faces @ faces[anchor]
    nearest = np.array([start + cosines[start : start + n].argmax() for start, n in zip(starts, counts, strict=True)])
    nearest[photograph[anchor]] = anchor
    order = np.argsort(-cosines[nearest], kind="stable")
    return _Members(numbers[order], faces[nearest[order]])


def _support(faces: Embeddings, starts: NDArray[np.intp], photograph: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the mean over the other photographs of the highest cosine of each face with a face there."""
    support = np.empty(len(faces), np.float32)
    rows = max(1, _BLOCK // len(faces))
    for start in range(0, len(faces), rows):
        highest = np.maximum.reduceat(faces[start : start + rows] @ faces.T, starts, axis=1)
        own = highest[np.arange(len(highest)), photograph[start : start + rows]]
        support[start : start + rows] = (highest.sum(axis=1) - own) / (len(starts) - 1)
    return support


def _centre(members: Embeddings) -> NDArray[np.float32]:
    total = members.sum(axis=0)
    length = float(np.linalg.norm(total))
    return np.asarray(total / length if length else total, np.float32)


def _choose(faces: Embeddings, number: int, members: _Members, threshold: float | None) -> ConsistentFace:
    others = members.near(number)
    if not len(faces) or not len(others):
        return ConsistentFace(0 if len(faces) == 1 else None, None)
    cosines = faces @ _centre(others)
    best = int(cosines.argmax())
    cosine = float(cosines[best])
    decided = len(faces) == 1 or threshold is None or cosine >= threshold
    return ConsistentFace(best if decided else None, cosine)


def _threshold(people: Sequence[_Members]) -> float | None:
    if len(people) < 2:
        return None
    cosines = [
        following.near() @ _centre(person.near())
        for person, following in zip(people, [*people[1:], people[0]], strict=True)
    ]
    return float(np.quantile(np.concatenate(cosines), 1 - _FMR, method="higher"))
