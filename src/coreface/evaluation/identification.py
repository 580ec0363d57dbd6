"""Identification of embeddings: searches in a gallery, the open-set split of a folder of people, and distractors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.all_pairs import unit_rows
from coreface.evaluation.metrics.scores import Floats
from coreface.evaluation.metrics.searches import Cmc, Mates, OpenSet, Searches

FPIRS = (1e-1, 1e-2)

_BLOCK = 1 << 22  # scores computed at a time


def search_embeddings(
    probes: ArrayLike, gallery: ArrayLike, probe_identities: ArrayLike, gallery_identities: ArrayLike
) -> Searches:
    """Search every probe in a gallery; the scores are cosines, of which a block of rows exists at a time.

    Args:
        probes: (P, D) float, made unit length here. A row of zeros has failed to enrol: all its scores are -1.
        gallery: (G, D) float, likewise.
        probe_identities: (P,) integers or strings.
        gallery_identities: (G,) likewise; an identity may have several entries, of which the best counts.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: embeddings are missing, not finite, or all the same.
    """
    mates = Mates(probe_identities, gallery_identities)
    left, right = unit_rows(probes, zeros=True), unit_rows(gallery, zeros=True)
    if (len(left), len(right)) != mates.shape:
        raise InputError(
            f"{len(left)} probes and {len(right)} gallery embeddings with {mates.shape[0]} and {mates.shape[1]} "
            "identities; expected one each"
        )
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"probes have {left.shape[1]} dimensions, the gallery {right.shape[1]}; expected one encoder's"
        )
    right = right[mates.order]
    failed_probe, failed_entry = (np.asarray(~rows.any(axis=1)) for rows in (left, right))

    def blocks() -> Iterator[tuple[int, Floats]]:
        rows = max(1, _BLOCK // len(right))
        for start in range(0, len(left), rows):
            scores = left[start : start + rows] @ right.T
            scores[failed_probe[start : start + rows]] = -1
            if failed_entry.any():
                scores[:, failed_entry] = -1
            yield start, scores

    return mates.search(blocks())


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


@dataclass(frozen=True, eq=False)
class Identification:
    """Searches of the same probes in several galleries, each on its own, and the mean over the galleries.

    Attributes:
        searches: those of each gallery.
        fpirs: target false positive identification rates.
    """

    searches: tuple[Searches, ...]
    fpirs: tuple[float, ...] = FPIRS

    def open_set(self, fpir: float) -> tuple[OpenSet, ...]:
        """Return the open-set rates in each gallery, each at its own threshold."""
        return tuple(searches.open_set(fpir) for searches in self.searches)

    def mean_tpir(self, fpir: float) -> tuple[float | None, float | None]:
        """Return the means over the galleries of TPIR at rank 1 and at any rank; None if one is not resolvable."""
        results = self.open_set(fpir)
        first = [result.tpir for result in results if result.tpir is not None]
        whole = [result.tpir_any_rank for result in results if result.tpir_any_rank is not None]
        if len(first) < len(results):
            return None, None
        return sum(first) / len(first), sum(whole) / len(whole)

    def cmc(self, max_rank: int = 50) -> tuple[Cmc, ...]:
        """Return the closed-set CMC of the mated searches of each gallery."""
        return tuple(searches.cmc(max_rank) for searches in self.searches)

    def mean_rate(self, rank: int) -> float:
        """Return the mean over the galleries of the closed-set rate at a rank."""
        return float(np.mean([curve.at(rank) for curve in self.cmc(rank)]))

    def to_dict(self) -> dict[str, Any]:
        """Return the rates as plain Python values."""
        open_set = []
        for fpir in self.fpirs:
            tpir, any_rank = self.mean_tpir(fpir)
            per_gallery = [result.to_dict() for result in self.open_set(fpir)]
            open_set.append({"fpir": fpir, "tpir": tpir, "tpir_any_rank": any_rank, "galleries": per_gallery})
        ranks = {str(rank): self.mean_rate(rank) for rank in (1, 5, 10)}
        galleries = [curve.gallery for curve in self.cmc(1)]
        return {"open_set": open_set, "closed_set": ranks, "galleries": galleries}


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


@dataclass(frozen=True)
class DistractorRate:
    """Rank-1 identification among distractors.

    Attributes:
        distractors: how many strangers were in the gallery beside the one mate.
        rate: share of searches whose mate scores above all of them.
        searches: number of searches: ordered pairs of images of one person.
    """

    distractors: int
    rate: float
    searches: int


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
        raise EvaluationError("nobody has two images; expected a mate for somebody to be searched for")
    return tuple(DistractorRate(size, int(n) / searches, searches) for size, n in zip(sizes, found, strict=True))
