"""Signs of a failing training although all numbers are finite. Each is reported once, by its name."""

import math

import torch
import torch.nn.functional as F

from coreface.data.source import FaceSource
from coreface.errors import DataError

_CONSTANT = 0.9999  # mean cosine of different images
_FROZEN_ROWS, _FROZEN_WITHIN = 3, 0.005


def require_labels_in_range(faces: FaceSource) -> None:
    """Raise `DataError` if a label has no identity centre; on a GPU the run would crash without a message."""
    wrong = (faces.identities < 0) | (faces.identities >= faces.num_identities)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{int(wrong.sum())} labels are out of range, such as {int(faces.identities[first])} of "
            f"{faces.locate(first)}: expected 0 to {faces.num_identities - 1}, for {faces.num_identities} identities"
        )


class Watch:
    """Looks at every row of metrics for signs that a training has gone wrong.

    Args:
        identities: C.
    """

    def __init__(self, identities: int) -> None:
        self._chance = math.log(identities)
        self._reported: set[str] = set()
        self._near_chance = 0  # rows in succession

    def look(self, classification: float, view: torch.Tensor, *, warming_up: bool) -> list[tuple[str, str]]:
        """Look at the mean classification loss of a row and at one view (batch, embedding_size) of its last batch.

        Returns:
            The name of each sign that is seen for the first time, and a sentence about it.
        """
        signs = {}
        near = abs(classification - self._chance) <= _FROZEN_WITHIN * self._chance
        self._near_chance = self._near_chance + 1 if near and not warming_up else 0
        if self._near_chance >= _FROZEN_ROWS:
            signs["frozen loss"] = (
                f"the classification loss stays at {classification:.3f}, the logarithm of the number of identities: "
                "the encoder separates no people; the learning rate may be 0 or far too high, or the labels mixed up"
            )
        if len(view) >= 2 and (cosine := mean_cosine(view)) > _CONSTANT:
            signs["constant embeddings"] = (
                f"different images get the same embedding (mean cosine {cosine:.5f}): the encoder has collapsed; "
                "start again with a lower learning rate or a warm-up"
            )
        new = [(name, text) for name, text in signs.items() if name not in self._reported]
        self._reported.update(signs)
        return new


def mean_cosine(view: torch.Tensor) -> float:
    """Return the mean cosine over all pairs of different rows."""
    count = len(view)
    total = F.normalize(view.detach().float()).sum(dim=0).square().sum()
    return float((total - count) / (count * (count - 1)))
