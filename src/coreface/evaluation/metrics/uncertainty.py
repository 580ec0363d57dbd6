"""How far an error rate could be off, given that whole identities were sampled and not pairs: the subsets bootstrap.

Pairs that share an identity are not independent, so intervals that count pairs are far too narrow. Here every replicate
draws C of the C identities with replacement; identity i is drawn w_i times, a genuine pair of it weighs w_i and an
impostor pair of i and j weighs w_i * w_j, as if all images of an identity were copied with it. Two copies of one
identity are never compared with each other. The threshold is chosen again in every replicate.

The interval of a rate is Wilson's with an effective number of trials, n = p (1 - p) / v, where p and v are mean and
variance of the replicates, and Student's quantile for C - 1 degrees of freedom. Against the plain percentile interval
it stays honest near 0 and 1 and with few identities (`benchmarks/interval_coverage.py` has the figures), it never
shrinks to a point, and a few hundred replicates do for a variance. Where no replicate differs, as with no error at all,
n is the number of identities: then an identity counts as one trial. The interval of a difference of two encoders is a
percentile interval.

Sources: Bolle, Ratha and Pankanti, Error analysis of pattern recognition systems - the subsets bootstrap, CVIU 93(1),
2004; Fogliato, Patil and Perona, Confidence intervals for error rates in 1:1 matching tasks, IJCV 2024 (arXiv
2306.01198), who recommend Wilson intervals with the variance of dependent pairs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.metrics.pair_scores import PairSample, PairScores
from coreface.evaluation.metrics.proportions import check_confidence, wilson
from coreface.evaluation.metrics.resampling import Statistic, resample

__all__ = ["Difference", "Interval", "PairScores", "Statistic", "bootstrap", "bootstrap_difference", "resample"]


@dataclass(frozen=True)
class Interval:
    """Confidence interval from a bootstrap over identities.

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


@dataclass(frozen=True)
class Difference:
    """A rate of one encoder minus that of another on the same pairs.

    Attributes:
        difference: on the whole sample; None if either has no value there.
        interval: percentile interval under resampling of identities.
        p_value: two-sided, of no difference: twice the smaller share of replicates on either side of 0, the sample
            itself counted in; None if every replicate failed.
    """

    difference: float | None
    interval: Interval
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def bootstrap(
    pairs: PairSample,
    statistic: Statistic = "eer",
    *,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of an error rate under resampling of identities.

    Args:
        pairs: scores and identities.
        statistic: ``"eer"``; ``("tar", far)`` for the true accept rate at that false accept rate; or
            ``("fmr", threshold)`` or ``("fnmr", threshold)`` for the error rates at a fixed threshold.
        replicates: number of resamples.
        seed: the same seed gives the same draws.
        confidence: nominal coverage, between 0 and 1.

    Raises:
        InputError: an argument is out of range.
    """
    sample = resample(pairs, [statistic], replicates=replicates, seed=seed)
    return rate_interval(sample.estimates[0], sample.values[:, 0], pairs.identities, confidence)


def bootstrap_difference(
    a: PairScores,
    b: PairScores,
    statistic: Statistic = "eer",
    *,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """The statistic of ``a`` minus that of ``b``, two encoders' scores of the same pairs, with interval and p-value.

    Both are resampled with the same draws, so what the pairs have in common cancels. A replicate fails if either does.

    Args:
        a: scores of the one encoder.
        b: scores of the other, for the same pairs in the same order.
        statistic: as for ``bootstrap``, as are ``replicates``, ``seed`` and ``confidence``.

    Raises:
        InputError: the pairs differ, or an argument is out of range.
    """
    alike = (np.array_equal(getattr(a, name), getattr(b, name)) for name in ("first", "second", "genuine"))
    if not all(alike):
        raise InputError(
            f"a and b hold different pairs ({len(a.scores)} and {len(b.scores)}); expected the same identities in the "
            "same order, which a paired comparison needs"
        )
    one, other = (resample(pairs, [statistic], replicates=replicates, seed=seed) for pairs in (a, b))
    return paired_difference(one.estimates[0] - other.estimates[0], one.values[:, 0] - other.values[:, 0], confidence)


def paired_difference(estimate: float, values: NDArray[np.float64], confidence: float = 0.95) -> Difference:
    """Return the difference ``estimate`` with the uncertainty from its replicates ``values`` (R,), NaN if failed."""
    interval = percentile_interval(values, confidence)
    valid = values[~np.isnan(values)]
    if len(valid) == 0:
        return Difference(None if np.isnan(estimate) else float(estimate), interval, None)
    sides = (np.count_nonzero(valid <= 0), np.count_nonzero(valid >= 0))
    p_value = min(1.0, 2 * (1 + int(min(sides))) / (1 + len(valid)))
    return Difference(None if np.isnan(estimate) else float(estimate), interval, p_value)


def rate_interval(estimate: float, values: NDArray[np.float64], identities: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a rate with the effective number of trials that follows from its replicates.

    Args:
        estimate: the rate on the whole sample, NaN where it has none.
        values: (R,) of the replicates, NaN where they failed.
        identities: how many were resampled.
        confidence: nominal coverage, between 0 and 1.

    Raises:
        InputError: ``confidence`` is not between 0 and 1.
    """
    valid = values[~np.isnan(values)]
    failed = len(values) - len(valid)
    variance = float(valid.var(ddof=1)) if len(valid) > 1 else 0.0
    mean = float(valid.mean()) if len(valid) else 0.0
    trials = mean * (1 - mean) / variance if variance > 0 else float(identities)
    low, high = wilson(0.0 if np.isnan(estimate) else estimate, trials, confidence, freedom=identities - 1)
    if len(valid) == 0 or np.isnan(estimate):
        return Interval(None, None, confidence, len(values), failed)
    return Interval(low, high, confidence, len(values), failed)


def percentile_interval(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Central interval of ``values`` (R,), one a replicate, NaN where it failed.

    Raises:
        InputError: ``confidence`` is not between 0 and 1.
    """
    check_confidence(confidence)
    valid = values[~np.isnan(values)]
    failed = len(values) - len(valid)
    if len(valid) == 0:
        return Interval(None, None, confidence, len(values), failed)
    low, high = np.quantile(valid, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence, len(values), failed)
