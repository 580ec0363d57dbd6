"""Verification on embeddings: every pair of images is compared once, and the error rates carry their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.all_pairs import AllPairs, ScoredPair, unit_rows
from coreface.evaluation.metrics import (
    Eer,
    Floats,
    KfoldAccuracy,
    Roc,
    TarAtFar,
    allowed_false_matches,
    checked_floats,
    eer,
    roc,
    tar_at_far,
)
from coreface.evaluation.metrics.pair_scores import PairSample
from coreface.evaluation.metrics.proportions import check_confidence
from coreface.evaluation.metrics.resampling import Statistic, head_size, resample
from coreface.evaluation.metrics.uncertainty import Interval, rate_interval

_PAIR_REPLICATES = 2_000_000_000  # pairs x replicates that take about 20 s on one core
_ROC_POINTS = 1000
_NOT_PLAIN = ("genuine_scores", "impostor_scores", "pairs")
_USUAL_REPLICATES, _FEWEST_REPLICATES = 1000, 100
_FEWEST_IDENTITIES = 5


@dataclass(frozen=True)
class Mistakes:
    """The pairs that a threshold gets wrong first, the worst first.

    Attributes:
        impostor: pairs of different identities with the highest scores.
        genuine: pairs of one identity with the lowest scores.
    """

    impostor: tuple[ScoredPair, ...]
    genuine: tuple[ScoredPair, ...]


@dataclass(frozen=True, eq=False)
class Verification:
    """Error rates over all pairs of a set of images.

    Attributes:
        eer: equal error rate.
        eer_interval: its interval under resampling of identities; None if ``replicates`` is 0.
        tar: true accept rate at each target false accept rate, in the order asked for.
        tar_intervals: their intervals; None if ``replicates`` is 0 or the rate is not resolvable.
        images: number of images, N.
        identities: number of identities.
        single_image_identities: how many identities have one image, and so make impostor pairs only.
        genuine: number of pairs of one identity.
        impostor: number of pairs of different identities.
        replicates: bootstrap replicates behind the intervals.
        interval_note: why there are fewer replicates than usual, or none; None if there is nothing to say.
        worst: the worst mistakes.
        genuine_scores: (genuine,) cosines in the precision of the embeddings, read-only; not in ``to_dict``.
        impostor_scores: (impostor,) likewise.
        accuracy: cross-validated accuracy, where the pairs come in folds.
        accuracy_interval: its interval under resampling of identities; None likewise, or if ``replicates`` is 0.
        failures: pairs with an image that could not be embedded; they score -1 and count as any other.
        pairs: the scores with their identities, numbered as `numpy.unique` orders them; not in ``to_dict``.
    """

    eer: Eer
    eer_interval: Interval | None
    tar: tuple[TarAtFar, ...]
    tar_intervals: tuple[Interval | None, ...]
    images: int
    identities: int
    single_image_identities: int
    genuine: int
    impostor: int
    replicates: int
    interval_note: str | None
    worst: Mistakes
    genuine_scores: Floats = field(repr=False)
    impostor_scores: Floats = field(repr=False)
    accuracy: KfoldAccuracy | None = None
    accuracy_interval: Interval | None = None
    failures: int = 0
    pairs: PairSample | None = field(default=None, repr=False)

    @cached_property
    def roc(self) -> Roc:
        """The ROC, in as many points as a drawing needs (`metrics.roc`); its area is exact. Computed on first use."""
        return roc(self.genuine_scores, self.impostor_scores, points=_ROC_POINTS)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the scores and the ROC as plain Python values."""
        kept = (entry.name for entry in fields(self) if entry.name not in _NOT_PLAIN)
        return {name: _plain(getattr(self, name)) for name in kept}


def verify(
    embeddings: ArrayLike,
    identities: ArrayLike,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    replicates: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    max_pairs: int = 200_000_000,
    worst: int = 10,
) -> Verification:
    """Compare every image with every other, N (N - 1) / 2 cosines, and return the error rates.

    Args:
        embeddings: (N, D) float, one row an image; made unit length here, in their own precision, at least float32.
        identities: (N,) integers, who is on each image.
        fars: target false accept rates of ``tar``.
        replicates: bootstrap replicates; 0 for no intervals; None for 1000, or as many as about 20 s allow, but at
            least 100, and none of fewer than 5 identities. The number depends on the set only, never on the machine.
        confidence: nominal coverage of the intervals.
        seed: of the bootstrap.
        max_pairs: refuse sets with more pairs than this, before any memory is taken. The scores take 4 bytes a pair
            (float32), the error rates about three times that.
        worst: how many of the worst mistakes of each kind to list.

    Raises:
        InputError: wrong shape, dtype or range of an argument.
        EvaluationError: the embeddings cannot be evaluated: not finite, zero or all the same rows, fewer than two
            identities, no genuine pair, lengths that do not fit, or too many pairs.
    """
    check_rates(fars, confidence)
    vectors = checked_floats(embeddings, "embeddings", 2)
    labels, images_per_identity = _identity_index(identities, len(vectors))
    count = len(vectors) * (len(vectors) - 1) // 2
    if count > max_pairs:
        raise EvaluationError(
            f"{len(vectors)} images make {count} pairs, more than max_pairs = {max_pairs}; raise max_pairs if the "
            "memory allows it, or evaluate on fewer identities"
        )
    pairs = AllPairs(labels)
    genuine, impostor = pairs.compare(unit_rows(vectors))
    mistakes = Mistakes(
        impostor=pairs.locate(_lowest(-impostor, worst), impostor, genuine=False),
        genuine=pairs.locate(_lowest(genuine, worst), genuine, genuine=True),
    )
    verification = verify_scores(
        pairs,
        mistakes,
        images=len(vectors),
        fars=fars,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )
    return replace(verification, single_image_identities=int(np.count_nonzero(images_per_identity == 1)))


def check_rates(fars: Sequence[float], confidence: float) -> None:
    """Raise `InputError` where a target FAR or the coverage of the intervals is out of range."""
    check_confidence(confidence)
    for far in fars:
        allowed_false_matches(far, 0)


def verify_scores(
    sample: PairSample,
    worst: Mistakes,
    *,
    images: int,
    fars: Sequence[float],
    replicates: int | None,
    confidence: float,
    seed: int,
    weighed: int | None = None,
) -> Verification:
    """Return the error rates of scores of pairs, however the pairs were made.

    Args:
        sample: the scores, with the identities that are resampled.
        worst: the worst mistakes.
        images: number of images behind the pairs.
        fars: target false accept rates of ``tar``.
        replicates: bootstrap replicates; 0 for no intervals; None for as many as `planned_replicates` allows.
        confidence: nominal coverage of the intervals.
        seed: of the bootstrap.
        weighed: how many pairs each replicate weighs; None for what EER and TAR need.
    """
    genuine, impostor = sample.genuine_scores, sample.impostor_scores
    genuine.setflags(write=False)
    impostor.setflags(write=False)
    tar = tuple(tar_at_far(genuine, impostor, far) for far in fars)
    statistics: list[Statistic] = ["eer", *(("tar", rate.far) for rate in tar if rate.resolvable)]
    note = None
    if replicates is None:
        weighed = len(genuine) + head_size(len(impostor), statistics) if weighed is None else weighed
        replicates, note = planned_replicates(weighed, sample.identities)
    intervals: list[Interval | None] = [None] * (1 + len(tar))
    if replicates:
        resampled = resample(sample, statistics, replicates=replicates, seed=seed)
        columns = zip(resampled.estimates, resampled.values.T, strict=True)
        given = iter([rate_interval(value, column, sample.identities, confidence) for value, column in columns])
        intervals = [next(given), *(next(given) if rate.resolvable else None for rate in tar)]
    return Verification(
        eer=eer(genuine, impostor),
        eer_interval=intervals[0],
        tar=tar,
        tar_intervals=tuple(intervals[1:]),
        images=images,
        identities=sample.identities,
        single_image_identities=0,
        genuine=len(genuine),
        impostor=len(impostor),
        replicates=replicates,
        interval_note=note,
        worst=worst,
        genuine_scores=genuine,
        impostor_scores=impostor,
        pairs=sample,
    )


def pixel_embeddings(images: NDArray[np.uint8], mean: ArrayLike | None = None) -> NDArray[np.float32]:
    """Raw pixels as embeddings: the baseline that every encoder has to beat.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        mean: (H, W, 3) image to subtract, 0 .. 255; that of the training images keeps the baseline free of the test
            images. None subtracts the mean of ``images`` themselves.

    Returns:
        (N, H * W * 3) float32, not unit length.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: there are no images, or ``mean`` is not finite.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(f"images have shape {images.shape} and dtype {images.dtype}; expected uint8 (N, H, W, 3)")
    if images.size == 0:
        raise EvaluationError(f"there are no pixels (images have shape {images.shape}); at least one image is needed")
    centre = images.mean(axis=0, dtype=np.float64) if mean is None else checked_floats(mean, "pixels of mean", 3)
    if centre.shape != images.shape[1:]:
        raise InputError(f"mean has shape {centre.shape}; expected that of one image, {images.shape[1:]}")
    pixels = images.astype(np.float32)
    pixels -= centre.astype(np.float32)
    return pixels.reshape(len(images), -1)


def _identity_index(identities: ArrayLike, images: int) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    labels = np.asarray(identities)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"identities have shape {labels.shape} and dtype {labels.dtype}; expected (N,) integers")
    if len(labels) != images:
        raise EvaluationError(f"there are {images} embeddings and {len(labels)} identities; expected one identity each")
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise EvaluationError(f"all {images} images show one identity; expected two or more, to form impostor pairs")
    if len(counts) == images:
        raise EvaluationError(
            f"each of the {images} images shows another identity; expected two or more of some, to form genuine pairs"
        )
    return index.astype(np.int32), counts


def planned_replicates(weighed: int, identities: int) -> tuple[int, str | None]:
    """Return how many replicates to draw if each weights this many pairs, and a note if fewer than usual.

    A few people are not resampled: half the replicates of two people contain only one of them, and the others are
        equal.
    """
    if identities < _FEWEST_IDENTITIES:
        return 0, f"none, {identities} people are too few to resample; {_FEWEST_IDENTITIES} or more are needed"
    affordable = _PAIR_REPLICATES // weighed
    if affordable >= _USUAL_REPLICATES:
        return _USUAL_REPLICATES, None
    replicates = max(affordable, _FEWEST_REPLICATES)
    return replicates, f"{replicates} replicates instead of {_USUAL_REPLICATES}, to save time with so many pairs"


def _lowest(scores: Floats, count: int) -> NDArray[np.intp]:
    count = min(count, len(scores))
    if count < 1:
        return np.empty(0, np.intp)
    candidates = np.flatnonzero(scores <= np.partition(scores, count - 1)[count - 1])
    return candidates[np.argsort(scores[candidates], kind="stable")[:count]]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
