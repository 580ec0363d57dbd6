"""Open-set identification on a folder of people: two galleries and unknown people from a seed, and distractors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console

from coreface.data.open import open_faces
from coreface.data.source import FaceSource
from coreface.errors import EvaluationError, InputError
from coreface.evaluation.all_pairs import unit_rows
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.identification import (
    FPIRS,
    THRESHOLD_OF_SEARCHES,
    DistractorRate,
    Identification,
    search_embeddings,
)
from coreface.evaluation.protocols.protocol import EvaluationProtocol
from coreface.evaluation.results import IdentificationResult

_BLOCK = 1 << 22  # scores computed at a time


class OpenSetIdentification(EvaluationProtocol[IdentificationResult]):
    """Open-set identification: two galleries, probes and unknown people from a seed (`split_open_set`).

    Args:
        faces: the people, a source of faces or its path.
        name: what the result is called; None takes the path.
        seed: of the split.
        distractors: strangers, a source of faces or its path: rank-1 rates among them too.
        label: of the people in tar shards, as in `coreface.data.open.open_faces`.
        identity_level: of the people in a folder, likewise.

    Raises:
        DataError: there are no faces.
    """

    def __init__(
        self,
        faces: FaceSource | str | PathLike[str],
        *,
        name: str | None = None,
        seed: int = 0,
        distractors: FaceSource | str | PathLike[str] | None = None,
        label: str | None = None,
        identity_level: int | None = None,
    ) -> None:
        self.name = name or ("open-set" if isinstance(faces, FaceSource) else f"open-set:{faces}")
        self._place = "faces" if isinstance(faces, FaceSource) else str(faces)
        self._distractors_place = "distractors" if isinstance(distractors, FaceSource) else str(distractors)
        if not isinstance(faces, FaceSource):
            faces = open_faces(faces, label=label, identity_level=identity_level)
        self.faces = faces
        self.seed = seed
        if distractors is not None and not isinstance(distractors, FaceSource):
            distractors = open_faces(distractors)
        self.distractors = distractors

    def photographs(self) -> Mapping[str, FaceSource]:
        searched = {self._place: self.faces}
        if self.distractors is not None:
            searched[self._distractors_place] = self.distractors
        return searched

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> IdentificationResult:
        embedded = source.embed(self.faces, console)
        identities = self.faces.identities[embedded.indices]
        split = split_open_set(identities, seed=self.seed)
        identification = identify(embedded.embeddings, identities, split)
        entries = " and ".join(str(len(gallery)) for gallery in split.galleries)
        among: tuple[DistractorRate, ...] = ()
        if self.distractors is not None:
            strangers = source.embed(self.distractors, console).embeddings
            among = identify_among_distractors(embedded.embeddings, identities, strangers)
        return IdentificationResult(
            name=self.name,
            statement=f"{len(split.probes)} probes searched in two galleries of {entries} people, one image each, "
            f"separately (seed {self.seed}); a third of the people with two images or more, and all with one, are "
            f"unknown. {THRESHOLD_OF_SEARCHES} Embeddings: {source.provenance.description}.",
            provenance=source.provenance,
            unreadable=tuple(embedded.unreadable.values()),
            identification=identification,
            distractors=among,
        )


@dataclass(frozen=True, eq=False)
class OpenSetSplit:
    """Which images are enrolled and which are searched.

    Attributes:
        galleries: for each of the two galleries the indices of its images, one a person; no person is in both.
        probes: indices of the images that are searched in each gallery.
    """

    galleries: tuple[NDArray[np.int64], NDArray[np.int64]]
    probes: NDArray[np.int64]


def split_open_set(identities: ArrayLike, *, unknown: float = 1 / 3, seed: int = 0) -> OpenSetSplit:
    """Split images of people into two galleries and probes, as IJB-C has two galleries, from a seed.

    People with one image are unknown: they are only searched for. Of the others the share ``unknown`` is unknown too,
    the rest is divided between the galleries: one image of each, drawn at random, is enrolled, the others are probes.
    Each probe is searched in both galleries, so that people of the one are strangers to the other.

    Raises:
        InputError: wrong shape or dtype, or ``unknown`` out of range.
        EvaluationError: there are too few people with two images to fill both galleries.
    """
    if not 0 <= unknown < 1:
        raise InputError(f"unknown is {unknown!r}; expected a share of people from 0 to below 1")
    labels = np.asarray(identities)
    if labels.ndim != 1 or labels.dtype.kind not in "iuUS":
        raise InputError(f"identities have shape {labels.shape} and dtype {labels.dtype}; expected identities (N,)")
    _, people, counts = np.unique(labels, return_inverse=True, return_counts=True)
    generator = np.random.default_rng(seed)
    several = generator.permutation(np.flatnonzero(counts >= 2))
    known = several[: len(several) - round(unknown * len(several))]
    if len(known) < 2:
        raise EvaluationError(
            f"{len(several)} of {len(counts)} people have two images or more, of whom {len(known)} would be known; "
            "open-set identification needs at least 2: add people or images, or lower the share of unknown people"
        )
    shuffled = generator.permutation(len(labels))
    _, first = np.unique(people[shuffled], return_index=True)  # of each person a random image
    enrolled = shuffled[first]
    half = (len(known) + 1) // 2
    galleries = np.sort(enrolled[known[:half]]), np.sort(enrolled[known[half:]])
    probes = np.setdiff1d(np.arange(len(labels)), np.concatenate(galleries))
    return OpenSetSplit(galleries, probes)


def identify(
    embeddings: ArrayLike, identities: ArrayLike, split: OpenSetSplit, fpirs: Sequence[float] = FPIRS
) -> Identification:
    """Search the probes of a split in each of its galleries, separately.

    Args:
        embeddings: (N, D) float, as the split's indices count them.
        identities: (N,) identities.
        split: who is enrolled and who is searched for.
        fpirs: target false positive identification rates.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: embeddings are not finite, or all the same.
    """
    vectors, labels = unit_rows(embeddings), np.asarray(identities)
    if labels.shape != (len(vectors),):
        raise InputError(
            f"there are {len(vectors)} embeddings and identities {labels.shape}; expected one identity each"
        )
    probes = vectors[split.probes], labels[split.probes]
    searches = [search_embeddings(probes[0], vectors[g], probes[1], labels[g]) for g in split.galleries]
    return Identification(tuple(searches), tuple(fpirs))


def identify_among_distractors(
    embeddings: ArrayLike, identities: ArrayLike, distractors: ArrayLike, sizes: Sequence[int] | None = None
) -> tuple[DistractorRate, ...]:
    """Rank-1 rate against the number of distractors, as MegaFace has it.

    Every image of a person is searched once for every other image of that person, in a gallery of that one image and
    the first n distractors; ties count against it.

    Args:
        embeddings: (N, D) float, of the people who are searched for.
        identities: (N,) who is on each image.
        distractors: (M, D) float, of strangers to them.
        sizes: numbers n of distractors; None for 10, 100, ... and M.

    Raises:
        InputError: wrong shape or dtype, or a size out of range.
        EvaluationError: embeddings are not finite or all the same, or no person has two images.
    """
    vectors, strangers = unit_rows(embeddings), unit_rows(distractors)
    labels = np.unique(np.asarray(identities), return_inverse=True)[1]
    if labels.shape != (len(vectors),):
        raise InputError(
            f"there are {len(vectors)} embeddings and identities {labels.shape}; expected one identity each"
        )
    count = len(strangers)
    if sizes is None:
        sizes = [*(10**power for power in range(1, len(str(count))) if 10**power < count), count]
    if not sizes or min(sizes) < 1 or max(sizes) > count:
        raise InputError(f"sizes are {list(sizes)}; expected numbers of distractors from 1 to {count}")
    sizes = sorted(set(sizes))
    best = np.full((len(sizes), len(vectors)), -np.inf, vectors.dtype)  # of the first n strangers, for each probe
    rows = max(1, _BLOCK // count)
    for start in range(0, len(vectors), rows):
        scores = vectors[start : start + rows] @ strangers.T
        for index, (begin, end) in enumerate(zip([0, *sizes], sizes, strict=False)):
            best[index, start : start + rows] = scores[:, begin:end].max(axis=1)
    np.maximum.accumulate(best, axis=0, out=best)
    found, searches = np.zeros(len(sizes), np.int64), 0
    order = np.argsort(labels, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        mates = vectors[group] @ vectors[group].T
        others = ~np.eye(len(group), dtype=np.bool_)
        found += [np.count_nonzero((mates > row[group][:, None]) & others) for row in best]
        searches += int(np.count_nonzero(others))
    if not searches:
        raise EvaluationError("no person has two images; expected two or more of at least one person")
    return tuple(DistractorRate(size, int(n) / searches, searches) for size, n in zip(sizes, found, strict=True))
