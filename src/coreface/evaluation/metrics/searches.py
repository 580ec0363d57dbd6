"""Identification: each probe is searched in a gallery; closed-set CMC and open-set rates from the scores of searches.

A probe is mated if its identity is in the gallery. Ties are pessimistic: of equal scores the other's counts as better.
Sources: ISO/IEC 19795-1:2021; Grother, Ngan and Hanaoka, FRVT part 2: identification, NISTIR 8271.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.scores import Floats, checked_floats, conservative_threshold, frozen, share_at_or_above

_BLOCK = 1 << 21  # scores looked at together: they stay in the cache


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification at the lowest threshold that is safe for a target false positive identification rate.

    Attributes:
        tpir: share of mated searches whose own identity is at rank 1 and >= ``threshold``; None if not resolvable.
        tpir_any_rank: share of mated searches whose own identity is >= ``threshold``, at any rank.
        fpir: share of non-mated searches with any score >= ``threshold``: what was achieved, never above ``target``.
        threshold: the next float above the first search maximum that must be rejected; None if not resolvable.
        mated: number of mated searches.
        non_mated: number of non-mated searches.
        target: the FPIR asked for.
        resolvable: False if ``target`` allows less than one false alarm among the non-mated searches.
    """

    tpir: float | None
    tpir_any_rank: float | None
    fpir: float | None
    threshold: float | None
    mated: int
    non_mated: int
    target: float
    resolvable: bool

    def __str__(self) -> str:
        if self.tpir is None or self.tpir_any_rank is None:
            return f"TPIR@FPIR={self.target:g}: not resolvable with {self.non_mated} non-mated searches"
        return (
            f"TPIR@FPIR={self.target:g}: {self.tpir:.4f} at rank 1, {self.tpir_any_rank:.4f} at any rank "
            f"(T = {self.threshold:.6g}, FPIR = {self.fpir:.3g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Cmc:
    """Cumulative match characteristic.

    Attributes:
        rates: (R,) float64; element r - 1 is the share of mated searches whose identity is among the r best.
        mated: number of mated searches.
        gallery: number of gallery entries.
    """

    rates: NDArray[np.float64]
    mated: int
    gallery: int

    def at(self, rank: int) -> float:
        """Return the rate at a rank from 1; beyond the last rank kept it is the last rate."""
        if rank < 1:
            raise InputError(f"rank is {rank}; expected 1 or more")
        return float(self.rates[min(rank, len(self.rates)) - 1])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {"rates": self.rates.tolist(), "mated": self.mated, "gallery": self.gallery}


@dataclass(frozen=True, eq=False)
class FnirCurve:
    """FNIR (1 - TPIR at rank 1) against FPIR, from the strictest threshold to the loosest.

    Attributes:
        thresholds: (n,) falling, in the scores' dtype.
        fpir: (n,) float64, rising from 0 to 1.
        fnir: (n,) float64, falling.
    """

    thresholds: Floats
    fpir: NDArray[np.float64]
    fnir: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Searches:
    """The results of searches, one row per probe, independent of the size of the gallery.

    Attributes:
        mated: (P,) bool, whether the probe's identity is in the gallery.
        own: (P,) best score of the probe's own identity; -inf where it is not mated.
        rank: (P,) int64, 1 + gallery entries of others with a score >= ``own``; 0 where it is not mated.
        other: (P,) best score of any other identity; -inf where the gallery holds none.
        gallery: number of gallery entries.
    """

    mated: NDArray[np.bool_]
    own: Floats
    rank: NDArray[np.int64]
    other: Floats
    gallery: int

    def cmc(self, max_rank: int | None = None) -> Cmc:
        """Closed-set CMC of the mated searches, up to ``max_rank`` (None: as many as the gallery has entries).

        Raises:
            InputError: ``max_rank`` is below 1.
            EvaluationError: no search is mated.
        """
        self._require(self.mated, "mated")
        last = self.gallery if max_rank is None else min(max_rank, self.gallery)
        if last < 1:
            raise InputError(f"max_rank is {max_rank}; expected 1 or more")
        ranks = self.rank[self.mated]
        counts = np.bincount(ranks[ranks <= last], minlength=last + 1)
        return Cmc(frozen(np.cumsum(counts[1:]) / len(ranks)), len(ranks), self.gallery)

    def open_set(self, fpir: float) -> OpenSet:
        """TPIR at the lowest threshold whose FPIR, over the non-mated searches' maxima, stays at or below ``fpir``.

        Raises:
            InputError: ``fpir`` is not between 0 and 1.
            EvaluationError: no search is mated, or none is non-mated.
        """
        self._require(self.mated, "mated")
        self._require(~self.mated, "non-mated")
        maxima, own = self.other[~self.mated], self.own[self.mated]
        threshold = conservative_threshold(maxima, fpir)
        if threshold is None:
            return OpenSet(None, None, None, None, len(own), len(maxima), float(fpir), resolvable=False)
        return OpenSet(
            tpir=int(np.count_nonzero((own >= threshold) & (self.rank[self.mated] == 1))) / len(own),
            tpir_any_rank=share_at_or_above(own, threshold),
            fpir=share_at_or_above(maxima, threshold),
            threshold=float(threshold),
            mated=len(own),
            non_mated=len(maxima),
            target=float(fpir),
            resolvable=True,
        )

    def fnir_curve(self) -> FnirCurve:
        """FNIR and FPIR at every distinct maximum of a non-mated search as a threshold, and above the highest.

        Raises:
            EvaluationError: no search is mated, or none is non-mated.
        """
        self._require(self.mated, "mated")
        self._require(~self.mated, "non-mated")
        maxima = np.sort(self.other[~self.mated])
        found = np.sort(self.own[self.mated & (self.rank == 1)])
        thresholds = np.unique(np.concatenate([maxima, np.nextafter(maxima, np.inf, dtype=maxima.dtype)]))[::-1]
        fpir = (len(maxima) - np.searchsorted(maxima, thresholds)) / len(maxima)
        tpir = (len(found) - np.searchsorted(found, thresholds)) / np.count_nonzero(self.mated)
        return FnirCurve(frozen(thresholds), frozen(fpir), frozen(1 - tpir))

    def _require(self, wanted: NDArray[np.bool_], kind: str) -> None:
        if not wanted.any():
            raise EvaluationError(f"none of the {len(wanted)} searches is {kind}; expected one or more")


def search_scores(scores: ArrayLike, probes: ArrayLike, gallery: ArrayLike) -> Searches:
    """Search probes in a gallery whose scores are known.

    Args:
        scores: (P, G) score of each probe against each gallery entry.
        probes: (P,) identities, integers or strings.
        gallery: (G,) identities; an identity may have several entries, of which the best counts.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: scores are missing or not finite.
    """
    matrix = checked_floats(scores, "scores", 2)
    mates = Mates(probes, gallery)
    if matrix.shape != mates.shape:
        raise InputError(f"scores have shape {matrix.shape}; expected {mates.shape}, a row a probe, a column an entry")
    rows = max(1, _BLOCK // matrix.shape[1])
    return mates.search((start, matrix[start : start + rows][:, mates.order]) for start in range(0, len(matrix), rows))


def cmc(scores: ArrayLike, probes: ArrayLike, gallery: ArrayLike, max_rank: int | None = None) -> Cmc:
    """Closed-set cumulative match characteristic with pessimistic ties.

    Args:
        scores: (P, G) score of each probe against each gallery entry.
        probes: (P,) identities.
        gallery: (G,) identities.
        max_rank: ranks to return; None for all G.

    Raises:
        InputError: wrong shape or dtype, or ``max_rank`` is below 1.
        EvaluationError: scores are missing or not finite, or a probe's identity is not in the gallery: this is a closed
            set, and leaving such probes out would flatter the result.
    """
    searches = search_scores(scores, probes, gallery)
    if not searches.mated.all():
        missing = np.flatnonzero(~searches.mated)
        raise EvaluationError(
            f"{len(missing)} of {len(searches.mated)} probes have no gallery entry (the first is {missing[0]}); a "
            "closed set needs one for each: enrol them, or use open_set_identification"
        )
    return searches.cmc(max_rank)


def open_set_identification(scores: ArrayLike, probes: ArrayLike, gallery: ArrayLike, fpir: float) -> OpenSet:
    """TPIR at a target FPIR in one gallery, the threshold coming from the maxima of the non-mated searches.

    Args:
        scores: (P, G) score of each probe against each gallery entry.
        probes: (P,) identities; those that are not in ``gallery`` make the non-mated searches.
        gallery: (G,) identities.
        fpir: target, 0 < fpir < 1.

    Raises:
        InputError: wrong shape or dtype, or ``fpir`` out of range.
        EvaluationError: scores are missing or not finite, or there are no mated or no non-mated probes.
    """
    return search_scores(scores, probes, gallery).open_set(fpir)


class Mates:
    """Which gallery entries belong to each probe, with the gallery in the order of its identities.

    Attributes:
        shape: (P, G).
        order: (G,) the order in which `search` wants the gallery entries.
    """

    def __init__(self, probes: ArrayLike, gallery: ArrayLike) -> None:
        wanted, enrolled = _identities(probes, "probes"), _identities(gallery, "gallery")
        if (wanted.dtype.kind in "US") != (enrolled.dtype.kind in "US"):
            raise InputError(f"probes are {wanted.dtype} and gallery {enrolled.dtype}; expected both of a kind")
        if np.result_type(wanted, enrolled).kind == "f":
            # Signed and unsigned: numpy would compare them as floats, in which integers above 2**53 coincide.
            wanted, enrolled = wanted.astype(object), enrolled.astype(object)
        self.shape = len(wanted), len(enrolled)
        self.order = np.argsort(enrolled, kind="stable")
        in_order = enrolled[self.order]
        self._start = np.searchsorted(in_order, wanted)
        self._count = np.searchsorted(in_order, wanted, side="right") - self._start

    def search(self, blocks: Any) -> Searches:
        """Look at blocks (first probe, scores (rows, G) in ``order``); the blocks are written to."""
        probes, entries = self.shape
        own, other, rank = np.full(probes, -np.inf), np.full(probes, -np.inf), np.zeros(probes, np.int64)
        dtype: Any = np.float64
        for start, block in blocks:
            dtype = block.dtype
            part = slice(start, start + len(block))
            count = self._count[part]
            rows = np.flatnonzero(count)
            if len(rows):
                # All entries of each probe's identity; an identity with fewer entries than the maximum repeats its last
                # one.
                offsets = np.minimum(np.arange(count.max()), count[rows, None] - 1)
                columns = self._start[part][rows, None] + offsets
                own[start + rows] = block[rows[:, None], columns].max(axis=1)
                block[rows[:, None], columns] = -np.inf
            other[part] = block.max(axis=1)
            best = own[part].astype(dtype)
            # Only where another is at least as good there is anything to count.
            beaten = rows[other[part][rows] >= best[rows]]
            rank[start + rows] = 1
            if len(beaten):
                rank[start + beaten] += np.count_nonzero(block[beaten] >= best[beaten, None], axis=1)
        return Searches(
            frozen(self._count > 0), frozen(own.astype(dtype)), frozen(rank), frozen(other.astype(dtype)), entries
        )


def _identities(values: ArrayLike, what: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuUS":
        raise InputError(f"{what} have shape {array.shape} and dtype {array.dtype}; expected identities (n,)")
    if len(array) == 0:
        raise EvaluationError(f"there are no {what}; at least one is needed to search")
    return array
