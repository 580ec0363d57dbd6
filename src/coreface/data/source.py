"""The base class of sources of faces: a length, images with identities, and the bytes as they are stored."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError, ImageError, InputError
from coreface.images.alignment import UNKNOWN, Alignment
from coreface.images.load import load_image


@dataclass(frozen=True)
class Notice:
    """Information about a source that its owner should know, but that is not an error.

    Attributes:
        message: one line with a count.
        items: the counted items, one line each.
        loses: whether faces may be missed because of it; `coreface data check` then reports a fault.
    """

    message: str
    items: tuple[str, ...]
    loses: bool = False


class FaceSource(ABC):
    """Face images with identities, readable in any order and from any process.

    ``len(source)`` is the number of images; ``source[i]`` is ``(image, identity)`` with a uint8 RGB array
    (height, width, 3) and an int in ``0 .. num_identities - 1``. A source holds no open file, so it can be pickled to
    worker processes.

    Attributes:
        identities: (len,) int64, the identity of every image.
        identity_names: one name per identity, as the storage spells it.
        in_sequence: whether the storage is best read sequentially, as `reading_order` then does.
        alignment: how the crops were made; its template is ``unknown`` if it is not recorded.
    """

    in_sequence = False
    alignment = Alignment(UNKNOWN)

    def __init__(self, identities: NDArray[np.int64], identity_names: Sequence[str]) -> None:
        self.identities = identities
        self.identity_names = tuple(identity_names)

    @property
    def num_identities(self) -> int:
        return len(self.identity_names)

    @property
    def origin(self) -> "FaceSource":
        """The source that a selection was made from; for any other source, the source itself."""
        return self

    @classmethod
    def claims(cls, path: str) -> bool:
        """Return whether this class reads a path (or a word such as ``orl``); `open_faces` calls it.

        Returns:
            False; classes registered with `register_faces` override this.
        """
        return False

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return image ``index`` and its identity.

        Raises:
            ImageError: the image cannot be decoded; the message gives its place.
        """
        index = range(len(self))[index]
        try:
            image = self._decode(index)
        except ImageError as error:
            where = self.locate(index)
            raise ImageError(str(error) if where in str(error) else f"{where}: {error}") from error
        return image, self.identities.item(index)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return load_image(self.encoded(index))

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Return image ``index`` as it is stored, undecoded."""

    @abstractmethod
    def locate(self, index: int) -> str:
        """Return a description of the place of image ``index``, for messages."""

    def relative_path(self, index: int) -> str:
        """Return the part of the path that identifies image ``index``, as ``<identity>/<image>``."""
        return self.locate(index)

    def reading_order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw an order in which to read every image once, (len,), determined by the state of ``rng``."""
        return rng.permutation(len(self))

    def notices(self) -> list[Notice]:
        """List oddities of this source: identities with a single image, and the notices of its storage."""
        counts = np.bincount(self.identities, minlength=self.num_identities)
        singles = tuple(self.identity_names[i] for i in np.flatnonzero(counts == 1))
        if not singles:
            return self.storage_notices()
        noun = "identity has" if len(singles) == 1 else "identities have"
        single = Notice(f"{len(singles)} {noun} a single image: no genuine pair comes from it", singles)
        return [single, *self.storage_notices()]

    def storage_notices(self) -> list[Notice]:
        """List oddities of the storage: files other than images, and wrong metadata.

        A selection has the notices of the whole storage.
        """
        return []

    def select(self, indices: NDArray[np.int64]) -> "FaceSource":
        """Return the images at ``indices`` as a new source, with identities renumbered from 0 in the same order.

        Raises:
            InputError: ``indices`` is not a 1-D array of integers; masks are not accepted.
        """
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise InputError(f"got {indices.dtype} {indices.shape}, expected indices (n,): np.flatnonzero turns a mask")
        kept, identities = np.unique(self.identities[indices], return_inverse=True)
        names = [self.identity_names[i] for i in kept]
        return Selection(self, indices.astype(np.int64), identities.astype(np.int64), names)


class Selection(FaceSource):
    """Some images of a source in an order of their own, under identities of their own.

    Args:
        source: the source.
        indices: (n,) which of its images.
        identities: (n,) their identities here.
        identity_names: one name per identity.
    """

    def __init__(
        self,
        source: FaceSource,
        indices: NDArray[np.int64],
        identities: NDArray[np.int64],
        identity_names: Sequence[str],
    ) -> None:
        super().__init__(identities, identity_names)
        self._source = source
        self._indices = indices
        self.alignment = source.alignment

    @property
    def origin(self) -> FaceSource:
        return self._source.origin

    @property
    def in_sequence(self) -> bool:  # type: ignore[override]
        return self._source.in_sequence

    def storage_notices(self) -> list[Notice]:
        return self._source.storage_notices()

    def reading_order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        if not self.in_sequence:
            return super().reading_order(rng)
        whole = self._source.reading_order(rng)
        place = np.empty(len(whole), dtype=np.int64)
        place[whole] = np.arange(len(whole))
        return np.argsort(place[self._indices], kind="stable")

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return self._source[int(self._indices[index])][0]

    def encoded(self, index: int) -> bytes:
        return self._source.encoded(int(self._indices[index]))

    def locate(self, index: int) -> str:
        return self._source.locate(int(self._indices[index]))

    def relative_path(self, index: int) -> str:
        return self._source.relative_path(int(self._indices[index]))


def require_identities(source: FaceSource, least: int, what_for: str) -> None:
    """Raise `DataError` if ``source`` has fewer than ``least`` identities for the purpose ``what_for``."""
    if source.num_identities < least:
        raise DataError(
            f"{what_for} needs at least {least} identities, got {source.num_identities} "
            f"({len(source)} images): add folders of other people"
        )
