"""Error versus discard: what the FNMR becomes where the genuine pairs of the poorest quality are left out.

The threshold is fixed before, on all impostor pairs, and stays. The quality of a pair is the lower of its two images'.
A measure that says nothing of errors discards at random, and the curve stays flat: the area below it, over that of the
flat line, is 1. The lower the area, the better the measure predicts which pairs fail.

Source: Grother and Tabassi, Performance of biometric quality measures, PAMI 29(4), 2007; the partial area after Schlett
et al., Considerations on the evaluation of biometric quality assessment algorithms, T-BIOM 6(1), 2024.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.resampling import identity_weights
from coreface.evaluation.metrics.scores import checked_floats
from coreface.evaluation.metrics.uncertainty import Interval, percentile_interval

_STEPS = 40  # of a curve; the area is that of straight lines between them


@dataclass(frozen=True, eq=False)
class DiscardCurve:
    """FNMR over the share of genuine pairs that is discarded, those of the poorest quality first.

    Attributes:
        discarded: (41,) float64, shares of the genuine pairs, from 0 to the limit.
        fnmr: (41,) float64, FNMR of the pairs that are left.
        area: the mean of ``fnmr`` over the range, over the FNMR of all pairs: 1 for random discarding, less where
            errors go first; None where there is no error.
        interval: of the area, from a bootstrap over identities at the same threshold; None without replicates.
        pairs: number of genuine pairs.
        errors: how many of them are false non-matches.
    """

    discarded: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    area: float | None
    interval: Interval | None
    pairs: int
    errors: int

    @property
    def falls(self) -> bool:
        """Whether discarding helps beyond chance: the interval of the area lies below 1."""
        return self.interval is not None and self.interval.high is not None and self.interval.high < 1

    def at(self, share: float) -> float:
        """Return the FNMR with this share discarded, 0 to the limit."""
        if not 0 <= share <= self.discarded[-1]:
            raise InputError(f"the share is {share}, expected 0 to {self.discarded[-1]:g}")
        return float(np.interp(share, self.discarded, self.fnmr))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {
            "discarded": self.discarded.tolist(),
            "fnmr": self.fnmr.tolist(),
            "area": self.area,
            "interval": None if self.interval is None else self.interval.to_dict(),
            "falls": self.falls,
            "pairs": self.pairs,
            "errors": self.errors,
        }


def discard_curve(
    scores: ArrayLike,
    quality: ArrayLike,
    identities: ArrayLike,
    threshold: float,
    *,
    limit: float = 0.2,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> DiscardCurve:
    """Return how the FNMR at a fixed threshold falls as pairs of poor quality are discarded.

    Of pairs of equal quality a part is discarded at random, of which this is the expectation.

    Args:
        scores: (G,) scores of genuine pairs.
        quality: (G,) of each pair, the lower of its two images'; higher is better.
        identities: (G,) integers, who is on each pair.
        threshold: a pair matches if its score is not below it.
        limit: the largest share that is discarded, between 0 and 1.
        replicates: of the bootstrap over identities; 0 for no interval.
        seed: of the bootstrap.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: shapes differ, or an argument is out of range.
        EvaluationError: there are no pairs, or a value is not finite.
    """
    scores, quality = checked_floats(scores, "scores", 1), checked_floats(quality, "qualities", 1)
    people = np.asarray(identities)
    if quality.shape != scores.shape or people.shape != scores.shape or people.dtype.kind not in "iu":
        raise InputError(
            f"scores have shape {scores.shape}, qualities {quality.shape}, identities {people.shape} of "
            f"{people.dtype}; expected one quality and one integer a score"
        )
    if not 0 < limit < 1:
        raise InputError(f"limit is {limit}, expected a share above 0 and below 1, such as 0.2")
    if replicates < 0:
        raise InputError(f"replicates is {replicates}; expected 0 or more, usually 1000")
    if not np.isfinite(threshold):
        raise EvaluationError(f"the threshold is {threshold}, expected a finite number")
    rank = np.unique(quality, return_inverse=True)[1]
    person = np.unique(people, return_inverse=True)[1]
    wrong = scores < threshold
    discarded = np.linspace(0, limit, _STEPS + 1)
    fnmr = _curve(rank, wrong, np.ones(len(scores)), discarded)
    interval = None
    if replicates:
        draws = identity_weights(int(person.max()) + 1, replicates, seed)
        areas = [_area(_curve(rank, wrong, weights[person].astype(np.float64), discarded)) for weights in draws]
        interval = percentile_interval(np.array(areas), confidence)
    area = _area(fnmr)
    return DiscardCurve(
        discarded, fnmr, None if np.isnan(area) else area, interval, len(scores), int(np.count_nonzero(wrong))
    )


def _curve(
    rank: NDArray[np.intp], wrong: NDArray[np.bool_], weights: NDArray[np.float64], discarded: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the FNMR at each share discarded; NaN where no pair has a weight."""
    # Of everything up to each rank: pairs, and errors among them. Between two ranks both grow evenly.
    pairs = np.concatenate([[0.0], np.cumsum(np.bincount(rank, weights))])
    errors = np.concatenate([[0.0], np.cumsum(np.bincount(rank, weights * wrong))])
    if pairs[-1] == 0:
        return np.full(len(discarded), np.nan)
    gone = discarded * pairs[-1]
    left: NDArray[np.float64] = (errors[-1] - np.interp(gone, pairs, errors)) / (pairs[-1] - gone)
    return np.maximum(left, 0)  # rounding


def _area(fnmr: NDArray[np.float64]) -> float:
    """Return the mean of a curve over its first value, NaN where that is 0."""
    if not fnmr[0] > 0:
        return float("nan")
    return float((fnmr[:-1] + fnmr[1:]).mean() / 2 / fnmr[0])
