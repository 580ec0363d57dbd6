"""The ROC of comparison scores, whole or as many of its points as a drawing needs, and the area under it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import InputError
from coreface.evaluation.metrics.scores import Floats, checked_kinds, frozen, next_above

_CHUNK = 1 << 20  # genuine scores looked up at a time
_FEWEST_POINTS = 30


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic, from the strictest threshold to the loosest.

    Attributes:
        thresholds: (n,) falling, in the scores' dtype; the first is the next float above every score.
        fmr: (n,) float64, rising from 0 to 1.
        tar: (n,) float64, rising from 0 to 1.
        auc: area under the whole curve, exact however few of its points are here (`auc`).
    """

    thresholds: Floats
    fmr: NDArray[np.float64]
    tar: NDArray[np.float64]
    auc: float

    def to_dict(self) -> dict[str, Any]:
        """Return the points as lists of Python floats, and ``auc``."""
        return {name: getattr(self, name).tolist() for name in ("thresholds", "fmr", "tar")} | {"auc": self.auc}


def roc(genuine: ArrayLike, impostor: ArrayLike, points: int | None = None) -> Roc:
    """ROC at every distinct score as a threshold, and the next float above the highest, where nothing matches.

    Args:
        genuine: (G,) scores of pairs of the same identity.
        impostor: (I,) scores of pairs of different identities. Integers become float64; the common dtype is used.
        points: at most so many of the curve's own points, for drawing on linear or logarithmic axes. Neighbours in the
            result are neighbours in the full curve, or less than 1.5 / (points // 6 - 2) apart in TAR, FMR and log
            FMR (as a share of the axis from the lowest FMR above 0 to 1). The full curve takes about five times the
            memory of the scores, this one a sorted copy of them.

    Raises:
        InputError: wrong shape or dtype, or ``points`` is below 30.
        EvaluationError: scores are missing or not finite.
    """
    if points is not None and points < _FEWEST_POINTS:
        raise InputError(f"points is {points}; expected {_FEWEST_POINTS} or more, for fewer do not show a curve")
    genuine, impostor = (np.sort(scores) for scores in checked_kinds(genuine, impostor))
    above = next_above(max(genuine[-1], impostor[-1]))
    if points is None or len(genuine) + len(impostor) < points:
        thresholds = np.unique(np.concatenate([genuine, impostor, [above]]))[::-1]
    else:
        thresholds = _telling_thresholds(genuine, impostor, above, points // 6 - 1)
    fmr, tar = ((len(scores) - np.searchsorted(scores, thresholds)) / len(scores) for scores in (impostor, genuine))
    return Roc(frozen(thresholds), frozen(fmr), frozen(tar), _area(genuine, impostor))


def auc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Area under the ROC: the chance that a genuine score beats an impostor's, ties counting half.

    Args:
        genuine: (G,) scores of pairs of the same identity.
        impostor: (I,) scores of pairs of different identities.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: scores are missing or not finite.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
    """
    genuine, impostor = checked_kinds(genuine, impostor)
    return _area(genuine, np.sort(impostor))


def _area(genuine: Floats, rising: Floats) -> float:
    wins = 0  # in halves, as a Python integer: exact
    for start in range(0, len(genuine), _CHUNK):
        part = genuine[start : start + _CHUNK]
        wins += sum(int(np.searchsorted(rising, part, side).sum()) for side in ("left", "right"))
    return wins / (2 * len(genuine) * len(rising))


def _telling_thresholds(genuine: Floats, impostor: Floats, above: np.floating[Any], steps: int) -> Floats:
    """Thresholds in even steps of TAR, FMR and log FMR, each with the next higher one, so that a jump has both ends."""
    at = np.concatenate(
        [
            genuine[len(genuine) - np.linspace(1, len(genuine), steps).astype(np.intp)],
            impostor[len(impostor) - np.linspace(1, len(impostor), steps).astype(np.intp)],
            impostor[len(impostor) - np.geomspace(1, len(impostor), steps).astype(np.intp)],
        ]
    )
    higher = np.full(len(at), above)
    for scores in (genuine, impostor):
        place = np.searchsorted(scores, at, side="right")
        found = place < len(scores)
        higher[found] = np.minimum(higher[found], scores[place[found]])
    return np.unique(np.concatenate([at, higher, [above, min(genuine[0], impostor[0])]]))[::-1]
