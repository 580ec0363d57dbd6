"""Error rates of resampled identities: pairs are sorted once and weighed again in every replicate.

Of the impostor pairs only the best-scored are sorted and weighed, as many as the rates asked for can reach; the weight
of all of them together is a sum over identities.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.metrics.error_rates import equal_error
from coreface.evaluation.metrics.pair_scores import PairSample
from coreface.evaluation.metrics.scores import Floats, allowed_false_matches, as_threshold

#: "eer"; TAR at a FAR; FMR or FNMR at a fixed threshold
Statistic: TypeAlias = Literal["eer"] | tuple[Literal["tar", "fmr", "fnmr"], float]

_CHUNK = 1 << 15  # pairs weighed at a time: the temporary arrays stay in the cache
_WEIGHTS = 1 << 22  # weights drawn at a time
_EER_SHARE, _SLACK, _SMALLEST_HEAD = 0.1, 2, 1000


def identity_weights(identities: int, replicates: int, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """Yield, for each replicate, how often each identity is drawn: (identities,) counts that sum to ``identities``."""
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(generator.integers(identities, size=identities), minlength=identities)


@dataclass(frozen=True, eq=False)
class Resample:
    """Statistics of a sample and of its replicates.

    Attributes:
        estimates: (statistics,) float64, on the whole sample; NaN where a statistic has no value.
        values: (replicates, statistics) float64, NaN where a replicate has no genuine pair, no impostor pair, or too
            few impostor pairs for the FAR.
    """

    estimates: NDArray[np.float64]
    values: NDArray[np.float64]


def resample(pairs: PairSample, statistics: Sequence[Statistic], *, replicates: int = 1000, seed: int = 0) -> Resample:
    """Statistics of the sample and of every replicate, all from the same draws.

    Args:
        pairs: scores and identities.
        statistics: as for `bootstrap`.
        replicates: number of resamples.
        seed: the same seed gives the same draws.

    Raises:
        InputError: an argument is out of range.
    """
    if replicates < 1:
        raise InputError(f"replicates is {replicates}; expected 1 or more, usually 1000")
    for statistic in statistics:
        _check(statistic)
    ranking = _Ranking(pairs, statistics)
    whole = np.ones((1, pairs.identities), np.intp)
    estimates = ranking.rates(whole[0], int(pairs.impostor_weights(whole)[0]))
    values = np.empty((replicates, len(statistics)))
    draws = identity_weights(pairs.identities, replicates, seed)
    for start in range(0, replicates, rows := max(1, _WEIGHTS // pairs.identities)):
        weights = np.stack(list(islice(draws, rows)))
        totals = pairs.impostor_weights(weights)
        for row, total in enumerate(totals):
            values[start + row] = ranking.rates(weights[row], int(total))
    return Resample(estimates, values)


def head_size(impostor: int, statistics: Sequence[Statistic]) -> int:
    """Return about how many impostor pairs are weighed a replicate: what takes the time of a resample."""
    shares = [_EER_SHARE if statistic == "eer" else statistic[1] for statistic in statistics if _ranked(statistic)]
    return min(impostor, int(_SLACK * max(shares, default=0.0) * impostor) + _SMALLEST_HEAD)


class _Ranking:
    """Pairs of both kinds from the highest score to the lowest; of the impostor pairs the head, which can grow."""

    def __init__(self, pairs: PairSample, statistics: Sequence[Statistic]) -> None:
        self._pairs, self._statistics = pairs, statistics
        falling = -pairs.genuine_scores  # sorted upwards, these go from the highest score to the lowest
        order = np.argsort(falling)
        self._genuine, self._identity = falling[order], pairs.genuine_identity[order].astype(np.int32)
        self._impostor = -pairs.impostor_scores
        self._genuine_weight = np.zeros(len(order) + 1, np.int64)
        self._take(head_size(len(self._impostor), statistics))

    def _take(self, size: int) -> None:
        """Sort the ``size`` best impostor pairs, all of the same score as the last, and all above a fixed threshold."""
        if size < len(self._impostor):
            last = np.partition(self._impostor, size - 1)[size - 1]
            fixed = [-as_threshold(s[1], last.dtype) for s in self._statistics if s != "eer" and s[0] == "fmr"]
            positions = np.flatnonzero(self._impostor <= max(last, *fixed) if fixed else self._impostor <= last)
        else:
            positions = np.arange(len(self._impostor))
        scores = self._impostor[positions]
        order = np.argsort(scores)
        self._head = scores[order]
        self._first, self._second = (
            index.astype(np.int32) for index in self._pairs.impostor_identities(positions[order])
        )
        # Candidates for a threshold; equal ones accept the same pairs. The first stands for one above every score, the
        # last for one below: what lies between the head and that is not known and not needed.
        end = self._genuine.searchsorted(self._head[-1], "right")
        inner = np.sort(np.concatenate([self._genuine[:end], self._head]))
        self._thresholds = np.concatenate([np.array([-np.inf], inner.dtype), inner, np.array([np.inf], inner.dtype)])
        self._impostor_weight = np.zeros(len(self._head) + 1, np.int64)

    def rates(self, weights: NDArray[np.intp], total: int) -> NDArray[np.float64]:
        """Return the statistics for one weight an identity; ``total`` is the weight of all impostor pairs."""
        np.cumsum(weights[self._identity], out=self._genuine_weight[1:])
        self._total = total
        while True:
            self._weigh_head(weights)
            values = [self._value(statistic) for statistic in self._statistics]
            if None not in values:
                return np.array(values, np.float64)
            self._take(4 * len(self._head))

    def _weigh_head(self, weights: NDArray[np.intp]) -> None:
        products = self._impostor_weight[1:]
        for start in range(0, len(products), _CHUNK):
            part = slice(start, start + _CHUNK)
            np.multiply(weights[self._first[part]], weights[self._second[part]], out=products[part])
        np.cumsum(products, out=products)

    def _value(self, statistic: Statistic) -> float | None:
        """Return the value, NaN where there is none, None where the head is too short to tell."""
        if statistic == "eer":
            return self._eer()
        name, argument = statistic
        genuine = int(self._genuine_weight[-1])
        if name == "tar":
            return self._tar(argument)
        weight, scores, whole = (
            (self._impostor_weight, self._head, self._total)
            if name == "fmr"
            else (self._genuine_weight, self._genuine, genuine)
        )
        if whole == 0:
            return np.nan
        matched = int(weight[scores.searchsorted(-as_threshold(argument, scores.dtype), "right")]) / whole
        return matched if name == "fmr" else 1 - matched

    def _eer(self) -> float | None:
        genuine, last = int(self._genuine_weight[-1]), len(self._thresholds) - 1
        if genuine == 0 or self._total == 0:
            return np.nan

        def accepted(weight: NDArray[np.int64], scores: Floats, position: int) -> int:
            return int(weight[scores.searchsorted(self._thresholds[position], "right")])

        _, fmr, fnmr = equal_error(
            last + 1,
            lambda at: self._total if at == last else accepted(self._impostor_weight, self._head, at),
            lambda at: genuine if at == last else accepted(self._genuine_weight, self._genuine, at),
        )
        whole = len(self._head) == len(self._impostor)
        # The last but one is beyond the crossing only if its FMR is above its FNMR.
        below = accepted(self._genuine_weight, self._genuine, last - 1)
        crossed = int(self._impostor_weight[-1]) * genuine > (genuine - below) * self._total
        return (fmr + fnmr) / 2 if whole or crossed else None

    def _tar(self, far: float) -> float | None:
        genuine = int(self._genuine_weight[-1])
        allowed = allowed_false_matches(far, self._total)
        if genuine == 0 or allowed == 0:
            return np.nan
        # The pair at which the weight from the top first exceeds what is allowed is the first that must be rejected.
        place = self._impostor_weight[1:].searchsorted(allowed, "right")
        if place == len(self._head):
            return None
        return int(self._genuine_weight[self._genuine.searchsorted(self._head[place], "left")]) / genuine


def _ranked(statistic: Statistic) -> bool:
    return statistic == "eer" or statistic[0] == "tar"


def _check(statistic: Statistic) -> None:
    if statistic == "eer":
        return
    known = ("tar", "fmr", "fnmr")
    if not (isinstance(statistic, tuple) and len(statistic) == 2 and statistic[0] in known):
        raise InputError(
            f'statistic is {statistic!r}; expected "eer", ("tar", far), ("fmr", threshold) or ("fnmr", threshold)'
        )
    if statistic[0] == "tar":
        allowed_false_matches(statistic[1], 0)
    elif not np.isfinite(statistic[1]):
        raise InputError(f"the threshold of {statistic[0]} is {statistic[1]}; expected a finite number")
