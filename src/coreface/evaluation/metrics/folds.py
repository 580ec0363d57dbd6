"""Cross-validated accuracy on pairs, as LFW's View 2 has it: ten folds, each judged at a threshold of the nine others.

Source: Huang, Ramesh, Berg and Learned-Miller, Labeled Faces in the Wild, UMass Amherst 07-49, 2007, section IV.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.proportions import wilson
from coreface.evaluation.metrics.scores import Floats, checked_floats, checked_same
from coreface.numerics.even_folds import even_folds


@dataclass(frozen=True)
class KfoldAccuracy:
    """Accuracy over folds.

    Attributes:
        accuracy: mean of the folds' accuracies.
        standard_error: standard deviation of the folds' accuracies, with n - 1, over the root of their number.
        folds: accuracy of each fold.
        thresholds: threshold of each fold, chosen on the pairs of the others.
        wrong: indices of the pairs judged wrong, rising.
        pairs: number of pairs.
        low: lower end of the Wilson interval (95 %) of the pooled pairs' accuracy, as if they were independent.
        high: its upper end.
    """

    accuracy: float
    standard_error: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]
    wrong: tuple[int, ...]
    pairs: int
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"accuracy {100 * self.accuracy:.2f} ± {100 * self.standard_error:.2f} % "
            f"({len(self.folds)} folds, {len(self.wrong)} of {self.pairs} pairs wrong)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def kfold_accuracy(
    scores: ArrayLike, same: ArrayLike, folds: int = 10, *, fold_of: ArrayLike | None = None
) -> KfoldAccuracy:
    """Accuracy of each fold at the threshold that is best on the pairs of all other folds.

    The candidates are the midpoints between neighbours among the sorted scores of the other folds; of those with the
    best accuracy the median one is taken, the upper of two. A pair matches iff its score >= the threshold.

    Args:
        scores: (P,) scores; integers become float64.
        same: (P,) bool, or 0 and 1: whether both images show one person.
        folds: their number; the pairs are cut in their given order, the longer folds first.
        fold_of: (P,) integers from 0, the fold of each pair; if given, ``folds`` is ignored.

    Raises:
        InputError: wrong shape, dtype or length, or fewer than 2 folds, or more folds than pairs.
        EvaluationError: scores are missing or not finite, or all pairs are of one kind.
    """
    scores = checked_floats(scores, "scores", 1)
    labels = checked_same(same, len(scores))
    if fold_of is None and not 2 <= folds <= len(scores):
        raise InputError(f"folds is {folds} for {len(scores)} pairs; expected 2 or more folds and a pair in each")
    fold = even_folds(len(scores), folds) if fold_of is None else _checked_folds(fold_of, len(scores))
    count = int(fold.max()) + 1
    order = np.argsort(scores, kind="stable")
    # Midpoints of float32 scores are no float32 numbers: all comparisons are in float64.
    rising, kind, home = scores[order].astype(np.float64), labels[order], fold[order]
    right = np.zeros(len(scores), np.bool_)
    accuracies, thresholds = [], []
    for index in range(count):
        elsewhere = home != index
        if np.count_nonzero(elsewhere) < 2:
            raise EvaluationError(f"fold {index} leaves fewer than 2 pairs to choose its threshold on; add pairs")
        threshold = _best_threshold(rising[elsewhere], kind[elsewhere])
        held = fold == index
        right[held] = (scores[held].astype(np.float64) >= threshold) == labels[held]
        accuracies.append(int(np.count_nonzero(right[held])) / int(np.count_nonzero(held)))
        thresholds.append(threshold)
    low, high = wilson(int(np.count_nonzero(right)) / len(scores), len(scores))
    return KfoldAccuracy(
        accuracy=float(np.mean(accuracies)),
        standard_error=float(np.std(accuracies, ddof=1) / np.sqrt(count)),
        folds=tuple(accuracies),
        thresholds=tuple(thresholds),
        wrong=tuple(np.flatnonzero(~right).tolist()),
        pairs=len(scores),
        low=low,
        high=high,
    )


def _best_threshold(rising: Floats, genuine: NDArray[np.bool_]) -> float:
    # Halved before the sum: the sum of two large scores may be no float.
    midpoints = rising[1:] / 2 + rising[:-1] / 2
    below = np.searchsorted(rising, midpoints)  # not by position: a midpoint of equal scores accepts all of them
    impostors_below = np.concatenate([[0], np.cumsum(~genuine)])
    genuine_below = np.concatenate([[0], np.cumsum(genuine)])
    correct = impostors_below[below] - genuine_below[below]
    best = midpoints[correct == correct.max()]
    return float(best[len(best) // 2])


def _checked_folds(fold_of: ArrayLike, count: int) -> NDArray[np.int64]:
    fold = np.asarray(fold_of)
    if fold.shape != (count,) or fold.dtype.kind not in "iu":
        raise InputError(f"fold_of has shape {fold.shape} and dtype {fold.dtype}; expected ({count},) integers")
    present = np.unique(fold)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise InputError(
            f"fold_of names {len(present)} folds from {present[0]} to {present[-1]}; expected 2 or more, "
            "numbered from 0 without gaps"
        )
    return fold.astype(np.int64)
