"""The upper tail of a set of scores in few numbers: how many scores reach a threshold, and which one few reach."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.metrics.scores import Floats, frozen, next_above

_EXACT = 2000  # best scores that are all kept
_STEP = 1.01  # ranks beyond go up by this factor: rates are known to 1 %


@dataclass(frozen=True, eq=False)
class Tail:
    """Some of the distinct scores of a set, with the numbers of scores above each and at or above each.

    Attributes:
        scores: (K,) falling, in the dtype of the set.
        above: (K,) int64, scores of the whole set > each.
        reach: (K,) int64, scores of the whole set >= each.
        count: number of scores in the whole set.
    """

    scores: Floats
    above: NDArray[np.int64]
    reach: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, scores: Floats, exact: int = _EXACT) -> "Tail":
        """Keep all of the best ``exact`` scores, then ranks 1 % apart and those of the usual rates, and the lowest."""
        rising = np.sort(scores)
        count = len(rising)
        ranks = np.arange(min(exact, count))
        if count > exact:
            further = exact * _STEP ** np.arange(1, np.log(count / exact) / np.log(_STEP) + 1)
            usual = [int(count * digit / 10**power) for power in range(1, 10) for digit in range(1, 10)]
            ranks = np.unique(np.concatenate([ranks, further.astype(np.int64), usual, [count - 1]]))
            ranks = ranks[ranks < count]
        kept = np.unique(rising[count - 1 - ranks])[::-1]
        above = count - np.searchsorted(rising, kept, side="right")
        reach = count - np.searchsorted(rising, kept)
        return cls(frozen(kept), frozen(above.astype(np.int64)), frozen(reach.astype(np.int64)), count)

    def threshold(self, allowed: int) -> np.floating[Any]:
        """Return the lowest threshold known to be reached by no more than ``allowed`` < count scores."""
        last = int(np.searchsorted(self.above, allowed, side="right")) - 1
        return next_above(self.scores[last])

    def reached(self, thresholds: Floats) -> NDArray[np.int64]:
        """Return how many scores reach each threshold (n,); between two kept scores the larger number."""
        rising = self.scores[::-1].astype(np.float64)
        place = np.searchsorted(rising, thresholds.astype(np.float64))  # kept scores below the threshold
        index = len(rising) - place - 1  # the lowest kept score that reaches it; -1 if none does
        exact = np.append(self.scores, 0)[index].astype(np.float64) == thresholds
        following = np.minimum(index + 1, len(self.above) - 1)
        number = np.where(exact & (index >= 0), self.reach[index], self.above[following])
        # Below the lowest kept score, which is the lowest of all, everything matches.
        return np.where(place == 0, self.count, number)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {
            "dtype": str(self.scores.dtype),
            "count": self.count,
            "scores": self.scores.tolist(),
            "above": self.above.tolist(),
            "reach": self.reach.tolist(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Tail":
        """Return what `to_dict` described.

        Raises:
            InputError: the numbers are none of a tail.
        """
        if content["dtype"] not in ("float16", "float32", "float64"):
            raise InputError(f"dtype is {content['dtype']!r}; expected a float")
        dtype = np.dtype(content["dtype"])
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            scores = np.array(content["scores"], dtype)
        above, reach = (np.array(content[name], np.int64) for name in ("above", "reach"))
        count = int(content["count"])
        if not (
            scores.ndim == 1
            and len(scores)
            and scores.shape == above.shape == reach.shape
            and np.isfinite(scores).all()
            and (np.diff(scores) < 0).all()
            and above[0] == 0
            and (above < reach).all()
            and (reach[:-1] <= above[1:]).all()
            and reach[-1] == count
        ):
            raise InputError("scores and their numbers do not fit each other")
        return cls(frozen(scores), frozen(above), frozen(reach), count)
