"""How many independent impostor pairs a rate rests on, when the same people are in many pairs.

A rate p of pairs that share people varies as a rate of fewer, independent ones: n = p (1 - p) / variance of p.
"""

from typing import Any, Literal

import numpy as np

from coreface.errors import InputError
from coreface.evaluation.metrics.pair_scores import PairSample
from coreface.evaluation.metrics.resampling import resample
from coreface.evaluation.metrics.scores import allowed_false_matches, next_above

FMRS = tuple(float(f"1e-{power}") for power in range(1, 7))  #: rates at which the number is known
_REPLICATES = 200


def effective_pairs(pairs: PairSample, seed: int) -> tuple[float | None, ...]:
    """Return the effective number of impostor pairs at each rate of `FMRS`, from resampled identities.

    None where no threshold has that rate. Where the resamples do not vary, it is the number of identities.
    """
    impostor = pairs.impostor_scores
    points: list[tuple[Literal["fmr"], float] | None] = []
    for rate in FMRS:
        allowed = allowed_false_matches(rate, len(impostor))
        if not 0 < allowed < len(impostor):
            points.append(None)
            continue
        place = len(impostor) - 1 - allowed
        points.append(("fmr", float(next_above(np.partition(impostor, place)[place]))))
    statistics = [point for point in points if point is not None]
    if not statistics:
        return (None,) * len(FMRS)
    sample = resample(pairs, statistics, replicates=_REPLICATES, seed=seed)
    numbers = iter(zip(sample.estimates, sample.values.T, strict=True))
    found: list[float | None] = []
    for point in points:
        if point is None:
            found.append(None)
            continue
        share, values = next(numbers)
        variance = float(np.nanvar(values, ddof=1))
        spread = float(share * (1 - share))
        found.append(spread / variance if variance > 0 and spread > 0 else float(pairs.identities))
    return tuple(found)


def trials_at(effective: tuple[float | None, ...], fmr: float) -> float | None:
    """Return the effective number of pairs at a rate, between those that are known and as at the ends."""
    known = [(np.log(rate), np.log(n)) for rate, n in zip(FMRS, effective, strict=False) if n is not None]
    if not known:
        return None
    rates, numbers = zip(*sorted(known), strict=True)
    return float(np.exp(np.interp(np.log(max(fmr, 1e-12)), rates, numbers)))


def checked_effective(values: Any) -> tuple[float | None, ...]:
    """Return the numbers of a calibration's file.

    Raises:
        InputError: not one for each rate, or one that is not above 0.
    """
    numbers = tuple(None if value is None else float(value) for value in values)
    known = [number for number in numbers if number is not None]
    if len(numbers) not in (0, len(FMRS)) or not all(0 < number < np.inf for number in known):
        raise InputError(f"effective_impostor_pairs are not {len(FMRS)} numbers above 0")
    return numbers
