"""Statistics of a contrast of two arms: a paired difference whose interval accounts for seeds and for people.

An arm is trained with several seeds, and all runs are measured on the same pairs of images. Seeds and people are both
samples: others would give other differences. A few seeds cannot be bootstrapped (five give 126 different samples, and
intervals that are too narrow), so the variance of the mean difference is the sum of two components:

- seeds: s^2 / n, with s^2 the variance of the differences of the n seeds;
- people: the variance of the mean difference under resampling of people, the same draws for every run.

The interaction of people and seeds is contained in both; its part is estimated from the replicates and subtracted from
the first. The degrees of freedom of the sum are Satterthwaite's, and Student's t gives interval and p-value.

Sources: Satterthwaite, An approximate distribution of estimates of variance components, Biometrics Bulletin 2, 1946;
Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007 (two crossed random factors); Holm, A simple
sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coreface.errors import InputError
from coreface.evaluation.metrics.proportions import check_confidence
from coreface.studies.student import detectable_shift, two_sided_p, two_sided_quantile

POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """The difference of two arms in one measure.

    Attributes:
        difference: mean over the seeds; None if no seed has the measure in both arms.
        seeds: number of seeds.
        low: lower end of the interval; None if the variance cannot be estimated (see ``reason``), as are ``high``,
            ``p_value``, ``standard_error`` and ``freedom``.
        high: upper end.
        p_value: two-sided, of no difference; 1 if the arms do not differ at all.
        standard_error: square root of the sum of the two components.
        freedom: Satterthwaite's degrees of freedom; None if there is no variance.
        seed_variance: the seeds' component of the variance of the mean, without the interaction with people.
        people_variance: the people's component of the variance of the mean.
        confidence: nominal coverage of the interval.
        reason: why there is no interval; None if there is one.
    """

    difference: float | None
    seeds: int
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    standard_error: float | None = None
    freedom: float | None = None
    seed_variance: float | None = None
    people_variance: float | None = None
    confidence: float = 0.95
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def paired_effect(differences: ArrayLike, replicates: ArrayLike, people: int, *, confidence: float = 0.95) -> Effect:
    """Estimate the difference of two arms that were trained with the same seeds and measured on the same pairs.

    Args:
        differences: (n,) float, one per seed: the measure of the first arm minus that of the second.
        replicates: (R, n) float, the differences in R resamples of the people, with the same draws for all seeds; rows
            with a NaN, for a measure without a value, are ignored.
        people: number of people that were resampled.
        confidence: nominal coverage, between 0 and 1.

    Raises:
        InputError: shapes do not match, values are not finite, or there are fewer than 2 people.
    """
    check_confidence(confidence)
    each, resampled = np.asarray(differences, np.float64), np.asarray(replicates, np.float64)
    if each.ndim != 1 or resampled.ndim != 2 or resampled.shape[1] != len(each):
        raise InputError(
            f"differences have shape {each.shape} and replicates {resampled.shape}; expected (n,) and (R, n) of n seeds"
        )
    if not np.isfinite(each).all():
        raise InputError("a difference is NaN or infinite; leave out the seeds in which an arm has no value")
    if people < 2:
        raise InputError(f"people is {people}; expected the number of people that were resampled, 2 or more")
    count = len(each)
    resampled = resampled[~np.isnan(resampled).any(axis=1)]
    if count == 0:
        return Effect(None, 0, confidence=confidence, reason="no seed has this measure in both arms")
    mean = float(each.mean())
    if count == 1:
        return Effect(mean, 1, confidence=confidence, reason="one seed does not show how much seeds differ")
    if len(resampled) < 2:
        return Effect(mean, count, confidence=confidence, reason="no resample of the people has this measure")
    among_seeds = float(each.var(ddof=1)) / count
    of_people = float(resampled.mean(axis=1).var(ddof=1))
    # The variance of resamples of one seed is people + interaction, of the mean it is people + interaction / n.
    of_each = float(resampled.var(axis=0, ddof=1).mean())
    # It is a part of the variance of the mean. The sum below is therefore never less than one of its components, and
    # has at least about the degrees of freedom of the seeds.
    interaction = min(max(0.0, (of_each - of_people) / (count - 1)), of_people)
    of_seeds = max(0.0, among_seeds - interaction)
    variance = of_seeds + of_people
    if variance == 0:
        known = {"low": mean, "high": mean, "p_value": 1.0, "standard_error": 0.0} if mean == 0 else {}
        reason = None if mean == 0 else "neither seeds nor people make a difference, so the variance is unknown"
        return Effect(
            mean, count, **known, seed_variance=0.0, people_variance=0.0, confidence=confidence, reason=reason
        )
    freedom = variance**2 / (among_seeds**2 / (count - 1) + of_people**2 / (people - 1))
    error = sqrt(variance)
    half = two_sided_quantile(1 - confidence, freedom) * error
    return Effect(
        difference=mean,
        seeds=count,
        low=mean - half,
        high=mean + half,
        p_value=two_sided_p(mean / error, freedom),
        standard_error=error,
        freedom=freedom,
        seed_variance=of_seeds,
        people_variance=of_people,
        confidence=confidence,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values, in the given order: below alpha iff rejected at a family-wise error of alpha.

    A contrast without a p-value counts as tested and not rejected.
    """
    order = sorted(range(len(p_values)), key=lambda place: _or_one(p_values[place]))
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        p_value = p_values[place]
        largest = max(largest, min(1.0, (len(p_values) - rank) * _or_one(p_value)))
        adjusted[place] = None if p_value is None else largest
    return adjusted


def smallest_detectable(effect: Effect, tests: int = 1, *, power: float = POWER) -> float | None:
    """Return the smallest true difference that a study with this variance would detect with probability ``power``.

    Args:
        effect: its standard error and degrees of freedom are assumed to be the true ones.
        tests: how many contrasts share the level 1 - confidence: the first step of Holm's procedure; 1 for this alone.
        power: the probability.

    Returns:
        The difference, in the unit of the measure; None if the effect has no variance.

    Raises:
        InputError: ``tests`` or ``power`` is out of range.
    """
    if tests < 1:
        raise InputError(f"tests is {tests}; expected the number of contrasts, 1 or more")
    if effect.standard_error is None or effect.freedom is None:
        return None
    return detectable_shift((1 - effect.confidence) / tests, effect.freedom, power) * effect.standard_error


def _or_one(p_value: float | None) -> float:
    return 1.0 if p_value is None else p_value
