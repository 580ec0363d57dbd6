"""Verification error rates on comparison scores: TAR@FAR, EER and the ROC, exact under ties.

Scores are cosines: higher is more alike, and a pair matches iff its score >= T. After ISO/IEC 19795-1, and here per
comparison without failures to acquire, FMR(T) is the share of impostor scores >= T and FNMR(T) the share of genuine
scores < T; TAR = 1 - FNMR, FAR = FMR. Nothing is pooled, dropped, interpolated or smoothed.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import floor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError

Floats: TypeAlias = NDArray[np.floating[Any]]

_FLOATS = {2: np.float16, 4: np.float32, 8: np.float64}


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


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic, from the strictest threshold to the loosest.

    Attributes:
        thresholds: (n,) falling, in the scores' dtype; the first is the next float above every score.
        fmr: (n,) float64, rising from 0 to 1.
        tar: (n,) float64, rising from 0 to 1.
    """

    thresholds: Floats
    fmr: NDArray[np.float64]
    tar: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a genuine score beats an impostor's, ties counting half.

        Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
        """
        return float(np.sum(np.diff(self.fmr) * (self.tar[1:] + self.tar[:-1])) / 2)

    def thinned(self, points: int = 500) -> "Roc":
        """Return at most ``points`` of the curve's own points, for drawing on linear or logarithmic axes.

        Neighbours in the result are neighbours in the full curve, or less than 3 / (points // 2 - 1) apart in TAR, in
        FMR, and in log FMR (as a share of the logarithmic axis from the lowest FMR above 0 to 1).

        Raises:
            InputError: ``points`` is below 4.
        """
        if points < 4:
            raise InputError(f"points is {points}; expected 4 or more, for a curve cannot be drawn with fewer")
        if len(self.fmr) <= points:
            return self
        lowest = self.fmr[np.searchsorted(self.fmr, 0.0, side="right")]
        decades = -np.log10(lowest) or 1.0  # none if FMR goes from 0 to 1 in one step
        travelled = self.tar + self.fmr + np.log10(np.maximum(self.fmr, lowest) / lowest) / decades
        reached = np.searchsorted(travelled, np.linspace(0, travelled[-1], points // 2))
        # The point before each is kept too, so that a long step (many ties) keeps both of its ends.
        keep = np.unique(np.concatenate([reached, np.maximum(reached - 1, 0), [len(self.fmr) - 1]]))
        return Roc(*(_frozen(values[keep]) for values in (self.thresholds, self.fmr, self.tar)))

    def to_dict(self) -> dict[str, Any]:
        """Return the points as lists of Python floats, and ``auc``; thin a long curve first."""
        return {name: getattr(self, name).tolist() for name in ("thresholds", "fmr", "tar")} | {"auc": self.auc}


def tar_at_far(genuine: ArrayLike, impostor: ArrayLike, far: float) -> TarAtFar:
    """True accept rate at the lowest threshold whose false match rate stays at or below ``far``, ties included.

    With k = floor(far x impostors), the threshold is the next float above the (k + 1)-th largest impostor score, so at
    most k impostor pairs match, and fewer where ties would cross the target. ``far`` counts as the decimal that
    it prints as: 0.29 of 100 pairs are 29, although the float nearest to 0.29 lies below it.

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
    genuine, impostor = _both(genuine, impostor)
    allowed = allowed_false_matches(far, len(impostor))
    if allowed == 0:
        return TarAtFar(None, None, None, float(far), len(genuine), len(impostor), resolvable=False)
    first_rejected = len(impostor) - 1 - allowed
    threshold = _next_above(np.partition(impostor, first_rejected)[first_rejected])
    return TarAtFar(
        tar=_share_at_or_above(genuine, threshold),
        threshold=float(threshold),
        fmr=_share_at_or_above(impostor, threshold),
        far=float(far),
        genuine=len(genuine),
        impostor=len(impostor),
        resolvable=True,
    )


def eer(genuine: ArrayLike, impostor: ArrayLike) -> Eer:
    """Equal error rate over every distinct score as a threshold, and the next float above the highest.

    Chosen is the threshold where FMR and FNMR differ least; of ties the one with the smallest mean of the two, then the
    lowest. Compared in integers, so exact. O(n log n).

    Args:
        genuine: (G,) scores of pairs of the same identity.
        impostor: (I,) scores of pairs of different identities. Integers become float64; the common dtype is used.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: scores are missing or not finite.
    """
    genuine, impostor = (np.sort(scores) for scores in _both(genuine, impostor))
    rising = np.concatenate([genuine, impostor, [_next_above(max(genuine[-1], impostor[-1]))]])
    rising.sort()  # in place: there may be 200 million
    falling = rising[::-1]
    position, fmr, fnmr = equal_error(
        len(falling),
        lambda position: len(impostor) - int(np.searchsorted(impostor, falling[position])),
        lambda position: len(genuine) - int(np.searchsorted(genuine, falling[position])),
    )
    return Eer((fmr + fnmr) / 2, float(falling[position]), fmr, fnmr, len(genuine), len(impostor))


def roc(genuine: ArrayLike, impostor: ArrayLike) -> Roc:
    """ROC at every distinct score as a threshold, and the next float above the highest, where nothing matches.

    Args:
        genuine: (G,) scores of pairs of the same identity.
        impostor: (I,) scores of pairs of different identities. Integers become float64; the common dtype is used.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: scores are missing or not finite.
    """
    genuine, impostor = (np.sort(scores) for scores in _both(genuine, impostor))
    above = _next_above(max(genuine[-1], impostor[-1]))
    thresholds = np.unique(np.concatenate([genuine, impostor, [above]]))[::-1]
    fmr, tar = ((len(scores) - np.searchsorted(scores, thresholds)) / len(scores) for scores in (impostor, genuine))
    return Roc(_frozen(thresholds), _frozen(fmr), _frozen(tar))


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


def allowed_false_matches(far: float, impostor: int) -> int:
    """Return floor(far x impostor), exact in the decimal that ``far`` prints as.

    Raises:
        InputError: ``far`` is not a number between 0 and 1.
    """
    try:
        target = float(far)
    except (TypeError, ValueError):
        target = np.nan
    if not 0 < target < 1:
        raise InputError(f"far is {far!r}; expected a rate above 0 and below 1, such as 1e-3")
    return floor(Fraction(repr(target)) * impostor)


def checked_floats(values: ArrayLike, what: str, ndim: int) -> Floats:
    """Return ``values`` as float16, float32 or float64 (integers as float64) of ``ndim`` dimensions, not empty, finite.

    Raises:
        InputError: wrong number of dimensions or dtype.
        EvaluationError: empty, or some values are NaN or infinite.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what} are no array ({error}); expected {ndim} dimension(s) of numbers") from None
    if array.ndim != ndim:
        raise InputError(f"{what} have shape {array.shape}; expected {ndim} dimension(s)")
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise InputError(f"{what} have dtype {array.dtype}; expected float16, float32, float64 or integers")
    if array.size == 0:
        raise EvaluationError(f"there are no {what} (shape {array.shape}); at least one is needed to measure anything")
    array = array.astype(_FLOATS[array.dtype.itemsize] if array.dtype.kind == "f" else np.float64, copy=False)
    # The two extremes are NaN if any value is, and need no mask as long as millions of scores.
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        bad = np.argwhere(~np.isfinite(array))
        raise EvaluationError(
            f"{what} hold {len(bad)} NaN or infinite values of {array.size} (the first at {bad[0].tolist()}); "
            "expected finite numbers: find where they come from, for dropping them would flatter the result"
        )
    return array


def _both(genuine: ArrayLike, impostor: ArrayLike) -> tuple[Floats, Floats]:
    checked = checked_floats(genuine, "genuine scores", 1), checked_floats(impostor, "impostor scores", 1)
    common = np.result_type(*checked)
    return checked[0].astype(common, copy=False), checked[1].astype(common, copy=False)


def _next_above(score: np.floating[Any]) -> np.floating[Any]:
    with np.errstate(over="ignore"):
        above: np.floating[Any] = np.nextafter(score, score.dtype.type(np.inf))
    if np.isinf(above):
        raise EvaluationError(f"a score is {score}, the largest {score.dtype}: no threshold lies above it; rescale")
    return above


def _share_at_or_above(scores: Floats, threshold: np.floating[Any]) -> float:
    return int(np.count_nonzero(scores >= threshold)) / len(scores)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
