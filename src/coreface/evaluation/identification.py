"""Identification of embeddings: searches in galleries, and their rates."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coreface.errors import InputError
from coreface.evaluation.all_pairs import unit_rows
from coreface.evaluation.metrics.scores import Floats
from coreface.evaluation.metrics.searches import Cmc, Mates, OpenSet, Searches

FPIRS = (1e-1, 1e-2)
#: of a statement of a protocol
THRESHOLD_OF_SEARCHES = (
    "The threshold for an FPIR is the next float above the first best score of a non-mated search that must be "
    "rejected; ties count against the mate."
)

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
