"""How far an error rate could be off, given that whole identities were sampled and not pairs: the subsets bootstrap.

Pairs that share an identity are not independent, so resampling pairs gives intervals that are too narrow. Here every
replicate draws C of the C identities with replacement; identity i is drawn w_i times, a genuine pair of it weighs w_i
and an impostor pair of i and j weighs w_i * w_j, as if all images of an identity were copied with it. Two copies of one
identity are never compared with each other. The threshold is chosen anew in every replicate.

Sources: Bolle, Ratha and Pankanti, Error analysis of pattern recognition systems - the subsets bootstrap, CVIU 93(1),
2004; for how such intervals behave, Fogliato, Patil and Perona, Confidence intervals for error rates in 1:1 matching
tasks, arXiv 2306.01198. A resample holds no error that the sample lacks: the interval around 0 errors is [0, 0], which
is no upper bound, and percentile intervals of a few dozen identities are somewhat too narrow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics import Floats, allowed_false_matches, checked_floats, equal_error

Statistic: TypeAlias = Literal["eer"] | tuple[Literal["tar"], float]

_CHUNK = 1 << 15  # pairs weighed at a time: the temporary arrays stay in the cache


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of pairs of images, with the identity of both images of each pair.

    Attributes:
        scores: (P,) float16, float32 or float64; integers become float64.
        first: (P,) integers, identity of the first image as an index 0 .. C - 1.
        second: (P,) integers, identity of the second image. A pair is genuine iff the two are equal.

    Raises:
        InputError: wrong shapes, dtypes or lengths, or an identity index is negative or skipped.
        EvaluationError: scores are missing or not finite, or all pairs are of one kind.
    """

    scores: Floats
    first: NDArray[np.integer[Any]]
    second: NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", checked_floats(self.scores, "scores", 1))
        for name in ("first", "second"):
            index = np.asarray(getattr(self, name))
            if index.shape != self.scores.shape or index.dtype.kind not in "iu":
                raise InputError(
                    f"{name} has shape {index.shape} and dtype {index.dtype}; expected one integer identity index "
                    f"for each of the {len(self.scores)} scores"
                )
            # np.bincount of NumPy 1.26 refuses uint64.
            object.__setattr__(self, name, index.astype(np.int64) if index.dtype.kind == "u" else index)
        lowest = min(self.first.min(), self.second.min())
        # Raw labels would make the draws hit identities that do not exist. The second test bounds the third's memory.
        if lowest < 0 or self.identities > 2 * len(self.scores) or (self._appearances() == 0).any():
            raise InputError(
                f"identity indices run from {lowest} to {self.identities - 1} with gaps; expected every index of "
                "0 .. C - 1 in some pair: number the identities with np.unique(..., return_inverse=True)"
            )
        if self.genuine.all() or not self.genuine.any():
            kind = "genuine" if self.genuine.any() else "impostor"
            raise EvaluationError(f"all {len(self.scores)} pairs are {kind}; expected genuine and impostor pairs")

    @property
    def identities(self) -> int:
        """C, the number of identities."""
        return int(max(self.first.max(), self.second.max())) + 1

    @property
    def genuine(self) -> NDArray[np.bool_]:
        """(P,) True where both images show the same identity."""
        same: NDArray[np.bool_] = self.first == self.second
        return same

    def _appearances(self) -> NDArray[np.intp]:
        return np.bincount(self.first, minlength=self.identities) + np.bincount(self.second, minlength=self.identities)


@dataclass(frozen=True)
class Interval:
    """Percentile interval of a bootstrap.

    Attributes:
        low: lower end; None if every replicate failed.
        high: upper end; None if every replicate failed.
        confidence: nominal coverage, such as 0.95.
        replicates: number of resamples drawn.
        failed: how many of them gave no value (no genuine or no impostor pair drawn, or the FAR not resolvable). The
            ends come from the others: distrust them unless this is a small part of ``replicates``.
    """

    low: float | None
    high: float | None
    confidence: float
    replicates: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def bootstrap(
    pairs: PairScores,
    statistic: Statistic = "eer",
    *,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of an error rate under resampling of identities.

    Args:
        pairs: scores and identities.
        statistic: ``"eer"``, or ``("tar", far)`` for the true accept rate at that false accept rate.
        replicates: number of resamples.
        seed: the same seed gives the same draws.
        confidence: nominal coverage, between 0 and 1.

    Raises:
        InputError: an argument is out of range.
    """
    return percentile_interval(resample(pairs, [statistic], replicates=replicates, seed=seed)[:, 0], confidence)


def bootstrap_difference(
    a: PairScores,
    b: PairScores,
    statistic: Statistic = "eer",
    *,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the statistic of ``a`` minus that of ``b``, two encoders' scores of the same pairs.

    Both are resampled with the same draws, so what the pairs have in common cancels. A replicate fails if either does.

    Args:
        a: scores of the one encoder.
        b: scores of the other, for the same pairs in the same order.
        statistic: as for ``bootstrap``, as are ``replicates``, ``seed`` and ``confidence``.

    Raises:
        InputError: the pairs differ, or an argument is out of range.
    """
    if not (np.array_equal(a.first, b.first) and np.array_equal(a.second, b.second)):
        raise InputError(
            f"a and b hold different pairs ({len(a.scores)} and {len(b.scores)}); expected the same identities in the "
            "same order, for a paired comparison means nothing otherwise"
        )
    values = [resample(pairs, [statistic], replicates=replicates, seed=seed)[:, 0] for pairs in (a, b)]
    return percentile_interval(values[0] - values[1], confidence)


def percentile_interval(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Central interval of ``values`` (R,), one a replicate, NaN where it failed.

    Raises:
        InputError: ``confidence`` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence!r}; expected a share above 0 and below 1, such as 0.95")
    valid = values[~np.isnan(values)]
    failed = len(values) - len(valid)
    if len(valid) == 0:
        return Interval(None, None, confidence, len(values), failed)
    low, high = np.quantile(valid, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence, len(values), failed)


def identity_weights(identities: int, replicates: int, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """Yield, for each replicate, how often each identity is drawn: (identities,) counts that sum to ``identities``."""
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(generator.integers(identities, size=identities), minlength=identities)


def resample(
    pairs: PairScores, statistics: Sequence[Statistic], *, replicates: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Statistics of every replicate, all from the same draws.

    Args:
        pairs: scores and identities.
        statistics: each ``"eer"`` or ``("tar", far)``.
        replicates: number of resamples.
        seed: the same seed gives the same draws.

    Returns:
        (replicates, statistics) float64, NaN where a replicate has no genuine pair, no impostor pair, or too few
        impostor pairs for the FAR.

    Raises:
        InputError: an argument is out of range.
    """
    if replicates < 1:
        raise InputError(f"replicates is {replicates}; expected 1 or more, usually 1000")
    for statistic in statistics:
        _check(statistic)
    ranking = _Ranking(pairs)
    values = np.full((replicates, len(statistics)), np.nan)
    for row, weights in zip(values, identity_weights(pairs.identities, replicates, seed), strict=True):
        ranking.weigh(weights)
        row[:] = [ranking.eer() if statistic == "eer" else ranking.tar(statistic[1]) for statistic in statistics]
    return values


class _Ranking:
    """Pairs of both kinds from the highest score to the lowest, sorted once and weighed again for every replicate."""

    def __init__(self, pairs: PairScores) -> None:
        genuine = pairs.genuine
        falling = -pairs.scores  # sorted upwards, these go from the highest score to the lowest
        by_genuine, by_impostor = (np.flatnonzero(kind) for kind in (genuine, ~genuine))
        by_genuine, by_impostor = (order[np.argsort(falling[order])] for order in (by_genuine, by_impostor))
        self.genuine, self.impostor = falling[by_genuine], falling[by_impostor]
        self.identity = pairs.first[by_genuine].astype(np.int32)
        self.first, self.second = (index[by_impostor].astype(np.int32) for index in (pairs.first, pairs.second))
        # As candidates for a threshold; equal ones accept the same pairs. The first stands for one above every score.
        self.thresholds = np.concatenate([np.array([-np.inf], falling.dtype), np.sort(falling)])
        self.genuine_weight = np.zeros(len(by_genuine) + 1, np.int64)
        self.impostor_weight = np.zeros(len(by_impostor) + 1, np.int64)

    def weigh(self, weights: NDArray[np.intp]) -> None:
        """Set element n of both arrays to the total weight of the n best-scored pairs of its kind."""
        np.cumsum(weights[self.identity], out=self.genuine_weight[1:])
        products = self.impostor_weight[1:]
        for start in range(0, len(products), _CHUNK):
            part = slice(start, start + _CHUNK)
            np.multiply(weights[self.first[part]], weights[self.second[part]], out=products[part])
        np.cumsum(products, out=products)

    def eer(self) -> float:
        if self.genuine_weight[-1] == 0 or self.impostor_weight[-1] == 0:
            return np.nan
        _, fmr, fnmr = equal_error(
            len(self.thresholds),
            lambda position: int(self.impostor_weight[self.impostor.searchsorted(self.thresholds[position], "right")]),
            lambda position: int(self.genuine_weight[self.genuine.searchsorted(self.thresholds[position], "right")]),
        )
        return (fmr + fnmr) / 2

    def tar(self, far: float) -> float:
        total = int(self.genuine_weight[-1])
        allowed = allowed_false_matches(far, int(self.impostor_weight[-1]))
        if total == 0 or allowed == 0:
            return np.nan
        # The pair at which the weight from the top first exceeds what is allowed is the first that must be rejected.
        rejected = self.impostor[self.impostor_weight[1:].searchsorted(allowed, "right")]
        return int(self.genuine_weight[self.genuine.searchsorted(rejected, "left")]) / total


def _check(statistic: Statistic) -> None:
    if statistic == "eer":
        return
    if not (isinstance(statistic, tuple) and len(statistic) == 2 and statistic[0] == "tar"):
        raise InputError(f'statistic is {statistic!r}; expected "eer" or ("tar", far), such as ("tar", 1e-3)')
    allowed_false_matches(statistic[1], 0)
