"""Error rates at one threshold of comparison scores: TAR at a FAR, and the equal error rate; exact under ties."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coreface.evaluation.metrics.scores import checked_kinds, conservative_threshold, next_above, share_at_or_above


@dataclass(frozen=True)
class TarAtFar:
    """Share of genuine pairs accepted at the lowest threshold that is safe for a target false accept rate.

    Attributes:
        tar: share of genuine scores >= ``threshold``; None if not resolvable.
        threshold: the next float above the first impostor score that must be rejected; None if not resolvable.
        fmr: share of impostor scores >= ``threshold``, never above ``far``; None if not resolvable.
        far: the target.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
        resolvable: False if ``far`` allows less than one false match among ``impostor`` pairs.
    """

    tar: float | None
    threshold: float | None
    fmr: float | None
    far: float
    genuine: int
    impostor: int
    resolvable: bool

    @property
    def fnmr(self) -> float | None:
        """FNMR at the threshold, the share of genuine scores below it: 1 - TAR."""
        return None if self.tar is None else 1 - self.tar

    def __str__(self) -> str:
        if self.tar is None:
            return f"TAR@FAR={self.far:g}: not resolvable with {self.impostor} impostor pairs"
        return f"TAR@FAR={self.far:g}: {self.tar:.4f} (T = {self.threshold:.6g}, FMR = {self.fmr:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True)
class Eer:
    """Equal error rate: the mean of FMR and FNMR where the two are closest.

    Attributes:
        eer: (``fmr`` + ``fnmr``) / 2.
        threshold: the threshold at which they are closest.
        fmr: share of impostor scores >= ``threshold``.
        fnmr: share of genuine scores < ``threshold``.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
    """

    eer: float
    threshold: float
    fmr: float
    fnmr: float
    genuine: int
    impostor: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def tar_at_far(genuine: ArrayLike, impostor: ArrayLike, far: float) -> TarAtFar:
    """True accept rate at the lowest threshold whose false match rate stays at or below ``far``, ties included.

    With k = floor(far x impostors), the threshold is the next float above the (k + 1)-th largest impostor score, so at
    most k impostor pairs match, and fewer where ties would cross the target. ``far`` counts as the decimal that
    it prints as: 0.29 of 100 pairs are 29, although the float nearest to 0.29 is less than 0.29.

    Args:
        genuine: (G,) scores of pairs of the same identity.
        impostor: (I,) scores of pairs of different identities. Integers become float64; the common dtype is used.
        far: target, 0 < far < 1.

    Returns:
        The rate, its threshold and the FMR achieved; not ``resolvable``, with None for all three, where k = 0.

    Raises:
        InputError: wrong shape or dtype, or ``far`` out of range.
        EvaluationError: scores are missing or not finite.
    """
    genuine, impostor = checked_kinds(genuine, impostor)
    threshold = conservative_threshold(impostor, far)
    if threshold is None:
        return TarAtFar(None, None, None, float(far), len(genuine), len(impostor), resolvable=False)
    return TarAtFar(
        tar=share_at_or_above(genuine, threshold),
        threshold=float(threshold),
        fmr=share_at_or_above(impostor, threshold),
        far=float(far),
        genuine=len(genuine),
        impostor=len(impostor),
        resolvable=True,
    )


def eer(genuine: ArrayLike, impostor: ArrayLike) -> Eer:
    """Equal error rate over every distinct score as a threshold, and the next float above the highest.

    The result is the threshold where FMR and FNMR differ least; among ties the one with the smallest mean of the two,
    then the lowest. The comparison uses integers and is exact. O(n log n).

    Args:
        genuine: (G,) scores of pairs of the same identity.
        impostor: (I,) scores of pairs of different identities. Integers become float64; the common dtype is used.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: scores are missing or not finite.
    """
    genuine, impostor = (np.sort(scores) for scores in checked_kinds(genuine, impostor))
    rising = np.concatenate([genuine, impostor, [next_above(max(genuine[-1], impostor[-1]))]])
    rising.sort()  # in place: there may be 200 million
    falling = rising[::-1]
    position, fmr, fnmr = equal_error(
        len(falling),
        lambda position: len(impostor) - int(np.searchsorted(impostor, falling[position])),
        lambda position: len(genuine) - int(np.searchsorted(genuine, falling[position])),
    )
    return Eer((fmr + fnmr) / 2, float(falling[position]), fmr, fnmr, len(genuine), len(impostor))


def equal_error(
    candidates: int, false_matches: Callable[[int], int], true_matches: Callable[[int], int]
) -> tuple[int, float, float]:
    """Find where FMR and FNMR are closest, among thresholds numbered 0 .. candidates - 1 from high to low.

    ``false_matches(n)`` and ``true_matches(n)`` are the impostor and genuine pairs (or whole-number weights) accepted
    at threshold n: none at the first, all at the last, never falling. FMR - FNMR then never falls either, so the answer
    is one of the two neighbours of its change of sign, found by bisection. Python integers keep the comparison exact.

    Returns:
        The number of the threshold, its FMR and its FNMR.
    """
    impostor, genuine = false_matches(candidates - 1), true_matches(candidates - 1)

    def rates(position: int) -> tuple[int, int]:  # both in units of 1 / (genuine x impostor)
        return false_matches(position) * genuine, (genuine - true_matches(position)) * impostor

    def excess(position: int) -> int:
        fmr, fnmr = rates(position)
        return fmr - fnmr

    after = bisect_right(range(candidates), 0, key=excess)
    position = min((after, after - 1), key=lambda candidate: (abs(excess(candidate)), sum(rates(candidate))))
    return position, false_matches(position) / impostor, (genuine - true_matches(position)) / genuine
