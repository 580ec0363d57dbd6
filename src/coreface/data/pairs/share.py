"""A process's share of a set of verification pairs: all pairs, and every n-th image, as it is stored, in memory."""

from collections.abc import Iterator

import numpy as np

from coreface.data.pairs.pair_set import PairSet
from coreface.errors import ImageError


class PairShare(PairSet):
    """A set of pairs of which only some images are at hand. They stay encoded, in memory.

    Processes that evaluate a set together have a share each, so that a machine holds every image once. Image i is in
    share ``i % shares``.

    Args:
        pairs: the whole set.
        number: of this share, from 0.
        shares: their number.

    Attributes:
        indices: (n,) int64, the numbers of the images of this share.
        bytes_held: what its encoded images take.
    """

    def __init__(self, pairs: PairSet, number: int = 0, shares: int = 1) -> None:
        super().__init__(pairs.left, pairs.right, pairs.same, pairs.num_images, pairs.fold_of)
        self.indices = np.arange(number, pairs.num_images, shares)
        self._encoded: dict[int, bytes] = {}
        self._unreadable: dict[int, str] = {}
        self._places: dict[int, str] = {}
        for index in self.indices.tolist():
            self._places[index] = pairs.locate(index)
            try:
                self._encoded[index] = pairs.encoded(index)
            except ImageError as error:
                self._unreadable[index] = str(error)
        self.bytes_held = sum(map(len, self._encoded.values()))

    def encoded(self, index: int) -> bytes:
        """Return image ``index`` as it is stored.

        Raises:
            ImageError: it could not be read.
            KeyError: it is in another share.
        """
        if index in self._unreadable:
            raise ImageError(self._unreadable[index])
        return self._encoded[index]

    def locate(self, index: int) -> str:
        return self._places[index]

    def unreadable(self) -> Iterator[str]:
        """Decode every image of the share once, and yield the messages about those that cannot be."""
        for index in self.indices.tolist():
            try:
                self.image(index)
            except ImageError as error:
                yield str(error)
