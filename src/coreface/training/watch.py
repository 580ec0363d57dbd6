"""Signs that a training has gone wrong without a number that is not finite: each is said once, by its name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from coreface.data.source import FaceSource
from coreface.errors import DataError

_CONSTANT = 0.9999  # mean cosine of different images
_FROZEN_ROWS, _FROZEN_WITHIN = 3, 0.005


def require_labels_in_range(faces: FaceSource) -> None:
    """Raise `DataError` where an identity has no centre; on a GPU the run would die of it without a word."""
    wrong = (faces.identities < 0) | (faces.identities >= faces.num_identities)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{int(wrong.sum())} labels are out of range, such as {int(faces.identities[first])} of "
            f"{faces.locate(first)}: expected 0 to {faces.num_identities - 1}, for {faces.num_identities} identities"
        )


class Watch:
    """Looks at every row of metrics.

    Args:
        identities: C.
        warn: is called with the name of a sign and a sentence on it, once a sign.
    """

    def __init__(self, identities: int, warn: Callable[[str, str], None]) -> None:
        self._chance = math.log(identities)
        self._warn = warn
        self._said: set[str] = set()
        self._near_chance = 0

    def look(self, classification: float, view: torch.Tensor, *, warming_up: bool) -> None:
        """Look at the mean classification loss of a row and at one view (batch, embedding_size) of its last batch."""
        near = abs(classification - self._chance) <= _FROZEN_WITHIN * self._chance
        self._near_chance = self._near_chance + 1 if near and not warming_up else 0
        if self._near_chance >= _FROZEN_ROWS:
            self._say(
                "frozen loss",
                f"the classification loss stays at {classification:.3f}, the logarithm of the number of identities: "
                "nothing is told apart; the learning rate may be 0 or far too high, or the labels may be mixed up",
            )
        if len(view) >= 2 and (cosine := mean_cosine(view)) > _CONSTANT:
            self._say(
                "constant embeddings",
                f"different images get the same embedding (mean cosine {cosine:.5f}): the encoder has collapsed; "
                "begin anew with a lower learning rate or a warm-up",
            )

    def _say(self, name: str, text: str) -> None:
        if name not in self._said:
            self._said.add(name)
            self._warn(name, text)


def mean_cosine(view: torch.Tensor) -> float:
    """Return the mean cosine over all pairs of different rows."""
    count = len(view)
    total = F.normalize(view.detach().float()).sum(dim=0).square().sum()
    return float((total - count) / (count * (count - 1)))
