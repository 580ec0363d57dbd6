"""Every pair of a set of images once: unit vectors, their cosines in blocks, and which images a score belongs to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import ConstantEmbeddingsError, EvaluationError
from coreface.evaluation.metrics.scores import Floats, checked_floats

_BLOCK = 1 << 22  # scores computed at a time


@dataclass(frozen=True)
class ScoredPair:
    """Two images, by their index (``first`` < ``second``), and their cosine."""

    first: int
    second: int
    score: float


def unit_rows(embeddings: ArrayLike, *, zeros: bool = False) -> Floats:
    """Return embeddings (N, D) with every row of unit length, in their own precision but at least float32.

    Args:
        embeddings: (N, D) float.
        zeros: let rows of zeros pass as they are, as those of images that failed to enrol.

    Raises:
        InputError: wrong shape or dtype.
        EvaluationError: rows are missing, not finite, zero, or all the same up to length and rounding.
    """
    vectors = checked_floats(embeddings, "embeddings", 2)
    vectors = vectors.astype(np.result_type(vectors, np.float32), copy=False)
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    empty = largest == 0
    if empty.any() and not zeros:
        zero = np.flatnonzero(empty)
        raise EvaluationError(
            f"{len(zero)} of {len(vectors)} embeddings are zero (the first is row {zero[0]}) and have no "
            "direction to compare; check the input of the encoder for it"
        )
    unit: Floats = vectors / np.where(empty, 1, largest)  # squares of the raw values could overflow or vanish
    unit /= np.where(empty, 1, np.linalg.norm(unit, axis=1, keepdims=True))
    # 1 - cosine is half the squared distance: below the rounding of a cosine, scores would rank noise.
    if len(unit) > 1 and np.square(unit - unit[0]).sum(axis=1).max() / 2 <= np.finfo(unit.dtype).eps:
        raise ConstantEmbeddingsError(
            f"all {len(unit)} embeddings are the same up to length and rounding: the encoder has collapsed, or has "
            "hardly been trained, or was given the same image repeatedly"
        )
    return unit


class AllPairs:
    """Every pair of images once, with the images in the order of their identities.

    Image n then makes genuine pairs with its neighbours n + 1 .. ends[n] - 1 and impostor pairs with ends[n] .. N - 1,
    and the scores of each kind follow one another by n: slices, where any other order needs a mask of every pair.
    """

    def __init__(self, labels: NDArray[np.int32]) -> None:
        self.order = np.argsort(labels, kind="stable")
        self.labels = labels[self.order]
        self.ends = np.searchsorted(self.labels, self.labels, side="right")
        self.genuine = self.ends - np.arange(len(labels)) - 1  # number of pairs by n
        self.impostor = len(labels) - self.ends

    @property
    def identities(self) -> int:
        return int(self.labels[-1]) + 1

    @property
    def genuine_identity(self) -> NDArray[np.int32]:
        return np.repeat(self.labels, self.genuine)

    def genuine_images(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return both images of each genuine pair, in the order of their scores."""
        n, partner = self._rows(np.arange(int(self.genuine.sum())), genuine=True)
        return self.order[n], self.order[partner]

    def compare(self, unit: Floats) -> tuple[Floats, Floats]:
        """Return the cosines of all genuine and of all impostor pairs of the rows of ``unit``, in row blocks."""
        unit = unit[self.order]
        genuine, impostor = (np.empty(counts.sum(), unit.dtype) for counts in (self.genuine, self.impostor))
        after_genuine, after_impostor = np.cumsum(self.genuine), np.cumsum(self.impostor)
        rows = max(1, _BLOCK // len(unit))
        for start in range(0, len(unit), rows):
            for n, scores in enumerate(unit[start : start + rows] @ unit[start:].T, start):
                end = self.ends[n] - start
                genuine[after_genuine[n] - self.genuine[n] : after_genuine[n]] = scores[n + 1 - start : end]
                impostor[after_impostor[n] - self.impostor[n] : after_impostor[n]] = scores[end:]
        genuine.setflags(write=False)
        impostor.setflags(write=False)
        self.genuine_scores, self.impostor_scores = genuine, impostor
        return genuine, impostor

    def impostor_identities(self, positions: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        n, partner = self._rows(positions, genuine=False)
        return self.labels[n], self.labels[partner]

    def impostor_weights(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        images = weights * np.bincount(self.labels).astype(np.float64)
        totals: NDArray[np.float64] = (images.sum(axis=1) ** 2 - np.square(images).sum(axis=1)) / 2
        return totals

    def _rows(self, positions: NDArray[np.intp], genuine: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        after = np.cumsum(self.genuine if genuine else self.impostor)
        n = np.searchsorted(after, positions, side="right")
        return n, positions - after[n] + (self.ends[n] if genuine else len(self.order))

    def locate(self, positions: NDArray[np.intp], scores: Floats, genuine: bool) -> tuple[ScoredPair, ...]:
        """Name the images of the pairs at ``positions`` of the ``scores`` of one kind."""
        n, partner = self._rows(positions, genuine)
        first, second = np.sort(self.order[[n, partner]], axis=0).tolist()
        return tuple(map(ScoredPair, first, second, scores[positions].tolist()))
