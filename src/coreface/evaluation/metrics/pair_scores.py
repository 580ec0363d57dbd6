"""Scores of pairs with the identities behind them: what is resampled, grouped and compared."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.scores import Floats, checked_floats, checked_same

_CHUNK = 1 << 15  # pairs weighed at a time: the temporary arrays stay in the cache
_SMALL_TABLE = 1 << 22


class PairSample(Protocol):
    """Genuine and impostor scores, with identities as indices 0 .. C - 1, impostor pairs' on demand."""

    @property
    def identities(self) -> int:
        """C, the number of identities."""

    @property
    def genuine_scores(self) -> Floats:
        """(G,) scores of the genuine pairs."""

    @property
    def genuine_identity(self) -> NDArray[np.integer[Any]]:
        """(G,) the identity of each genuine pair."""

    @property
    def impostor_scores(self) -> Floats:
        """(I,) scores of the impostor pairs."""

    def impostor_identities(self, positions: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return both identities of the impostor pairs at ``positions``."""

    def impostor_weights(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return (R,): for each row of ``weights`` (R, C) the sum of w_i * w_j over all impostor pairs (i, j)."""


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of pairs of images, with the identity of both images of each pair.

    Attributes:
        scores: (P,) float16, float32 or float64; integers become float64.
        first: (P,) integers, identity of the first image as an index 0 .. C - 1.
        second: (P,) integers, identity of the second image.
        same: (P,) bool, whether the pair is genuine; None: iff the two identities are equal. It is given where
            identities are only known in part, such as those of a set of pairs without names.

    Raises:
        InputError: wrong shapes, dtypes or lengths, or an identity index is negative or skipped.
        EvaluationError: scores are missing or not finite, or all pairs are of one kind.
    """

    scores: Floats
    first: NDArray[np.integer[Any]]
    second: NDArray[np.integer[Any]]
    same: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", checked_floats(self.scores, "scores", 1))
        for name in ("first", "second"):
            index = np.asarray(getattr(self, name))
            if index.shape != self.scores.shape or index.dtype.kind not in "iu":
                raise InputError(
                    f"{name} has shape {index.shape} and dtype {index.dtype}; expected one integer identity index "
                    f"for each of the {len(self.scores)} scores"
                )
            # np.bincount of NumPy 1.26 refuses uint64.
            object.__setattr__(self, name, index.astype(np.int64) if index.dtype.kind == "u" else index)
        lowest = min(self.first.min(), self.second.min())
        # Raw labels would make the draws hit identities that do not exist. The second test bounds the third's memory.
        if lowest < 0 or self.identities > 2 * len(self.scores) or (self._appearances() == 0).any():
            raise InputError(
                f"identity indices run from {lowest} to {self.identities - 1} with gaps; expected every index of "
                "0 .. C - 1 in some pair: number the identities with np.unique(..., return_inverse=True)"
            )
        if self.same is not None:
            object.__setattr__(self, "same", checked_same(self.same, len(self.scores)))
        elif self.genuine.all() or not self.genuine.any():
            kind = "genuine" if self.genuine.any() else "impostor"
            raise EvaluationError(f"all {len(self.scores)} pairs are {kind}; expected genuine and impostor pairs")

    @property
    def identities(self) -> int:
        """C, the number of identities."""
        return int(max(self.first.max(), self.second.max())) + 1

    @cached_property
    def genuine(self) -> NDArray[np.bool_]:
        """(P,) True where both images show the same identity."""
        same: NDArray[np.bool_] = self.first == self.second if self.same is None else self.same
        return same

    @property
    def genuine_scores(self) -> Floats:
        return self.scores[self.genuine]

    @property
    def genuine_identity(self) -> NDArray[np.integer[Any]]:
        return self.first[self.genuine]

    @property
    def impostor_scores(self) -> Floats:
        return self.scores[~self.genuine]

    def impostor_identities(self, positions: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = self._impostor_rows[positions]
        return self.first[rows], self.second[rows]

    def impostor_weights(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        if self._impostor_counts is not None:
            weights = weights.astype(np.float64)
            sums: NDArray[np.float64] = np.einsum("rc,rc->r", weights @ self._impostor_counts, weights)
            return sums
        first, second = self.impostor_identities(np.arange(len(self._impostor_rows)))
        totals = np.zeros(len(weights))
        for start in range(0, len(first), _CHUNK):
            part = slice(start, start + _CHUNK)
            totals += [np.dot(row[first[part]].astype(np.float64), row[second[part]]) for row in weights]
        return totals

    @cached_property
    def _impostor_rows(self) -> NDArray[np.intp]:
        return np.flatnonzero(~self.genuine)

    @cached_property
    def _impostor_counts(self) -> NDArray[np.float64] | None:
        """(C, C) impostor pairs of each two identities, where that is the smaller: the sums become a product."""
        identities = self.identities
        if identities**2 > max(_SMALL_TABLE, len(self.scores)):
            return None
        first, second = self.impostor_identities(np.arange(len(self._impostor_rows)))
        codes = first.astype(np.int64) * identities + second
        return np.bincount(codes, minlength=identities**2).reshape(identities, identities).astype(np.float64)

    def _appearances(self) -> NDArray[np.intp]:
        return np.bincount(self.first, minlength=self.identities) + np.bincount(self.second, minlength=self.identities)
