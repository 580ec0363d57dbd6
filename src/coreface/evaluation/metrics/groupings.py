"""How well groups of images agree with the people they show: pairwise precision and recall."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import InputError


@dataclass(frozen=True)
class PairwiseAgreement:
    """Counts of pairs of images.

    Attributes:
        right: pairs of one person in one group.
        grouped: pairs in one group.
        genuine: pairs of one person.
    """

    right: int
    grouped: int
    genuine: int

    @property
    def precision(self) -> float | None:
        """Share of the pairs in one group that show one person; None if there are none."""
        return self.right / self.grouped if self.grouped else None

    @property
    def recall(self) -> float | None:
        """Share of the pairs of one person that are in one group; None if there are none."""
        return self.right / self.genuine if self.genuine else None


def pairwise_agreement(groups: ArrayLike, identities: ArrayLike) -> PairwiseAgreement:
    """Compare groups with people, over all pairs of images.

    Args:
        groups: (N,) integers; images of group 0 are alone.
        identities: (N,) numbers or texts.

    Raises:
        InputError: the shapes differ, or groups are no integers.
    """
    numbers, people = np.asarray(groups), np.asarray(identities)
    if numbers.ndim != 1 or numbers.shape != people.shape or numbers.dtype.kind not in "iu":
        raise InputError(
            f"groups are {numbers.dtype} {numbers.shape}, identities {people.shape}; expected integers (N,) and (N,)"
        )
    grouped = numbers != 0
    person = np.unique(people, return_inverse=True)[1]
    both = np.stack([numbers[grouped], person[grouped]], axis=1)
    return PairwiseAgreement(
        _pairs(np.unique(both, axis=0, return_counts=True)[1]),
        _pairs(np.unique(numbers[grouped], return_counts=True)[1]),
        _pairs(np.bincount(person)) if len(person) else 0,
    )


def _pairs(counts: NDArray[np.intp]) -> int:
    return int((counts.astype(np.int64) * (counts.astype(np.int64) - 1) // 2).sum())
