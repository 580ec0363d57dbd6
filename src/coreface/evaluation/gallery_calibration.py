"""The threshold of a gallery whose people have several images each, from the impostor scores of such templates."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.calibrated_threshold import ENOUGH_MATCHES, CalibratedThreshold
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.effective_pairs import trials_at
from coreface.evaluation.metrics.proportions import wilson
from coreface.evaluation.metrics.scores import allowed_false_matches
from coreface.evaluation.template_scores import Pooling, TemplateScores

_STEPS = 40  # halvings of the range of cosines: to 2e-12


def threshold_of_templates(
    calibrator: Calibrator, images: Mapping[int, int], pooling: Pooling, fpir: float
) -> CalibratedThreshold:
    """Return the threshold for a false positive identification rate in a gallery of templates.

    With n_K people of K images each, FPIR = 1 - prod over K of (1 - FMR_K)^n_K, where FMR_K is that of templates of K
    images, pooled by the rule of the gallery. Where everybody has one image, or the calibration has no templates of
    that rule, `Calibrator.gallery_threshold` decides: for the number of people, and with ``best`` for that of images.

    Args:
        calibrator: of the pipeline.
        images: number of images -> people who have as many, at least one person.
        pooling: how the images of a person are pooled.
        fpir: requested rate.

    Raises:
        InputError: ``fpir`` is not between 0 and 1.
    """
    return _threshold(calibrator, tuple(sorted(images.items())), pooling, float(fpir))


def expected_fpir(
    calibrator: Calibrator, images: Mapping[int, int], pooling: Pooling, scores: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the false positive identification rate of a threshold at each score, in a gallery of templates.

    Args:
        calibrator, images, pooling: as of `threshold_of_templates`.
        scores: (n,) float.
    """
    people = tuple(sorted(images.items()))
    if not _has_templates(calibrator, people, pooling):
        people = ((1, _entries(people, pooling)),)
    return _fpir(_rates(calibrator, people, pooling, np.asarray(scores, np.float64)), people)


_People = tuple[tuple[int, int], ...]  # (images, people), rising


@lru_cache(256)  # a gallery asks for the same one until somebody is enrolled or deleted
def _threshold(calibrator: Calibrator, people: _People, pooling: Pooling, fpir: float) -> CalibratedThreshold:
    if not _has_templates(calibrator, people, pooling):
        return calibrator.gallery_threshold(_entries(people, pooling), fpir)
    allowed_false_matches(fpir, 0)
    low, high = -1.0, 1.0 + 1e-6  # the second satisfies any rate: no cosine is higher
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = _fpir(_rates(calibrator, people, pooling, np.array([middle])), people)[0] <= fpir
        low, high = (low, middle) if enough else (middle, high)
    at = np.array([high])
    rates = _rates(calibrator, people, pooling, at)[:, 0]
    rate = float(_fpir(rates[:, None], people)[0])
    found = calibrator.described(fpir, np.float64(high), "templates")
    found = replace(found, fpir=rate, alarms=_alarms(calibrator, people, pooling, at, rates))
    trials = _trials(calibrator, people, pooling, rates, rate)
    if trials is None:
        return found
    fewest = min((scores.people for scores in calibrator.templates[pooling]), default=2)
    low, high = wilson(rate, trials, freedom=fewest - 1)
    variance = (1 - rate) ** 2 * _between_people(calibrator, people, pooling, rates)
    return replace(found, fpir_low=low, fpir_high=high, fpir_trials=trials, gallery_variance=variance)


def _has_templates(calibrator: Calibrator, people: _People, pooling: Pooling) -> bool:
    return people[-1][0] > 1 and bool(calibrator.templates.get(pooling))


def _entries(people: _People, pooling: Pooling) -> int:
    return sum(count * (images if pooling == "best" else 1) for images, count in people)


def _scores_of(calibrator: Calibrator, pooling: Pooling, images: int) -> TemplateScores | None:
    """Return the templates of as many images, or of the next larger number, or of the largest."""
    if images == 1:
        return None
    kept = calibrator.templates[pooling]
    return next((scores for scores in kept if scores.images >= images), kept[-1])


def _rates(
    calibrator: Calibrator, people: _People, pooling: Pooling, thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the FMR of each kind of templates at each threshold, (kinds, n).

    Beyond the last 30 false matches of templates, of which there are far fewer pairs, their FMR is continued by the
    decline of that of single images.
    """
    single = calibrator.impostor.reached(thresholds) / calibrator.impostor.count
    rows = []
    for images, _ in people:
        scores = _scores_of(calibrator, pooling, images)
        if scores is None:
            rows.append(single)
            continue
        tail = scores.impostor
        rate = tail.reached(thresholds) / tail.count
        if tail.count > ENOUGH_MATCHES:
            last = np.array([tail.threshold(ENOUGH_MATCHES)], np.float64)
            at_last = calibrator.impostor.reached(last)[0] / calibrator.impostor.count
            if at_last > 0:
                continued = tail.reached(last)[0] / tail.count * single / at_last
                rate = np.where(thresholds > last, continued, rate)
        rows.append(rate)
    return np.array(rows)


def _fpir(rates: NDArray[np.float64], people: _People) -> NDArray[np.float64]:
    counts = np.array([count for _, count in people])
    with np.errstate(divide="ignore"):  # where everything matches
        return np.asarray(-np.expm1(counts @ np.log1p(-np.minimum(rates, 1))))


def _alarms(
    calibrator: Calibrator,
    people: _People,
    pooling: Pooling,
    at: NDArray[np.float64],
    rates: NDArray[np.float64],
) -> int:
    """Return the false matches behind the kind of templates that adds most; beyond its own 30, 29 at most."""
    heaviest = int(np.argmax(rates * [count for _, count in people]))
    singles = int(calibrator.impostor.reached(at)[0])
    scores = _scores_of(calibrator, pooling, people[heaviest][0])
    if scores is None:
        return singles
    own = int(scores.impostor.reached(at)[0])
    return own if own >= ENOUGH_MATCHES else max(own, min(singles, ENOUGH_MATCHES - 1))


def _trials(
    calibrator: Calibrator, people: _People, pooling: Pooling, rates: NDArray[np.float64], fpir: float
) -> float | None:
    """Return p (1 - p) / variance of the FPIR, to first order; None where the calibration knew no identities."""
    variance = 0.0
    for (images, count), rate in zip(people, rates.tolist(), strict=True):
        scores = _scores_of(calibrator, pooling, images)
        effective = calibrator.trials(rate) if scores is None else trials_at(scores.effective, rate)
        if effective is None:
            return None
        variance += count**2 * rate * (1 - rate) / effective
    variance *= (1 - fpir) ** 2
    return fpir * (1 - fpir) / variance if variance > 0 and 0 < fpir < 1 else None


def _between_people(calibrator: Calibrator, people: _People, pooling: Pooling, rates: NDArray[np.float64]) -> float:
    """Return the variance of the sum of the FMRs of a gallery by who is in it.

    The variance of the mean over the templates of G people is 1 / G times that between people, and that of the pairs.
    """
    variance = 0.0
    for (images, count), rate in zip(people, rates.tolist(), strict=True):
        scores = _scores_of(calibrator, pooling, images)
        if scores is None:
            variance += count * calibrator.variance_between_people(rate)
        elif (trials := trials_at(scores.effective, rate)) is not None:
            excess = 1 / trials - 1 / scores.impostor.count
            variance += count * scores.people * rate * (1 - rate) * max(0.0, excess)
    return variance
