"""The base class of sets of verification pairs: distinct images, pairs of them, and cross-validation folds."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.data.source import Notice
from coreface.errors import DataError, ImageError, InputError
from coreface.images.load import load_image
from coreface.numerics.even_folds import even_folds

FOLDS = 10  #: for a set that does not define folds


class PairSet(ABC):
    """Pairs of face images with the answer whether both show the same person. Images are decoded on access.

    ``len(pairs)`` is the number of pairs; ``pairs[i]`` is ``(left, right, same)``: two uint8 RGB arrays
    (height, width, 3) and a bool. A set holds no open file, so it can be pickled to worker processes.

    Args:
        left: (P,) whole numbers, the index of each pair's first image among the distinct images of the set.
        right: (P,) whole numbers, that of its second image.
        same: (P,) bool, whether both show one person.
        num_images: number of distinct images.
        fold_of: (P,) whole numbers from 0, the fold of each pair; None splits the pairs, in their given order, into
            `FOLDS` parts of nearly equal size (as `numpy.array_split` does), or into one part per pair if there are
            fewer pairs.

    Raises:
        DataError: there is no pair.
        InputError: the arrays do not match or contain indices outside of the images, or a fold is empty.

    Attributes:
        left: (P,) int64.
        right: (P,) int64.
        same: (P,) bool.
        fold_of: (P,) int64, in ``0 .. folds - 1``.
        folds: number of folds.
        num_images: number of distinct images.
    """

    def __init__(
        self, left: ArrayLike, right: ArrayLike, same: ArrayLike, num_images: int, fold_of: ArrayLike | None = None
    ) -> None:
        self.left, self.right = _whole_numbers("left", left), _whole_numbers("right", right)
        self.same = np.asarray(same)
        self.num_images = num_images
        count = len(self.left)
        if not count:
            raise DataError("the set holds no pair, expected at least one")
        if self.same.dtype != np.bool_:
            raise InputError(f"same is {self.same.dtype}, expected bool")
        self.fold_of = even_folds(count, min(FOLDS, count)) if fold_of is None else _whole_numbers("fold_of", fold_of)
        for name in ("right", "same", "fold_of"):
            shape = getattr(self, name).shape
            if shape != (count,):
                raise InputError(f"{name} has shape {shape}, expected ({count},), one value a pair")
        for name in ("left", "right"):
            indices = getattr(self, name)
            if indices.min() < 0 or indices.max() >= num_images:
                raise InputError(f"{name} points outside of the {num_images} images")
        self.folds = int(self.fold_of.max()) + 1
        if self.fold_of.min() < 0 or len(np.unique(self.fold_of)) != self.folds:
            raise InputError("fold_of has gaps, expected every fold from 0 to the last to hold a pair")

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
        """Return both images of a pair and whether they show one person.

        Raises:
            ImageError: an image cannot be decoded; the message gives its place.
        """
        index = range(len(self))[index]
        return self.image(int(self.left[index])), self.image(int(self.right[index])), bool(self.same[index])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return distinct image ``index`` as uint8 RGB (height, width, 3).

        Raises:
            ImageError: it cannot be decoded; the message gives its place.
        """
        index = range(self.num_images)[index]
        try:
            return load_image(self.encoded(index))
        except ImageError as error:
            where = self.locate(index)
            raise ImageError(str(error) if where in str(error) else f"{where}: {error}") from error

    def notices(self) -> list[Notice]:
        """List oddities that do not prevent an evaluation: repeated pairs, and images paired with themselves."""
        return []

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Return distinct image ``index`` as it is stored, undecoded."""

    @abstractmethod
    def locate(self, index: int) -> str:
        """Return a description of the place of distinct image ``index``, for messages."""

    def relative_path(self, index: int) -> str:
        """Return the part of the path that identifies distinct image ``index``, as ``<person>/<image>``."""
        return self.locate(index)


def require_no_contradiction(pairs: PairSet, locate: Callable[[int], str]) -> list[Notice]:
    """Raise `DataError` for pairs that contradict each other or themselves; return notices about other oddities.

    Args:
        pairs: the set.
        locate: returns the place of a pair, for messages.

    Raises:
        DataError: two pairs of the same images have different answers, or an image is its own impostor.
    """
    low, high = np.minimum(pairs.left, pairs.right), np.maximum(pairs.left, pairs.right)
    own = low == high
    if (own & ~pairs.same).any():
        pair = int((own & ~pairs.same).argmax())
        raise DataError(
            f"{locate(pair)}: {pairs.locate(int(low[pair]))} is its own impostor: both images are the same, and the "
            "answer says different people; correct the answer, or remove the pair"
        )
    # The pairs of the same two images, one after another, the earlier ones first.
    order = np.lexsort((high, low))
    again = (low[order][1:] == low[order][:-1]) & (high[order][1:] == high[order][:-1])
    before, behind = order[:-1][again], order[1:][again]
    if (clash := pairs.same[before] != pairs.same[behind]).any():
        one, other = int(before[clash.argmax()]), int(behind[clash.argmax()])
        said = {True: "the same person", False: "different people"}
        raise DataError(
            f"{locate(other)}: says {said[bool(pairs.same[other])]}, but {locate(one)} has the same two images and "
            f"says {said[bool(pairs.same[one])]}; correct one of them, or remove it"
        )
    notices = []
    if len(behind):
        count = f"{len(behind)} pairs stand more than once, and count each time"
        if len(behind) == 1:
            count = "1 pair stands more than once, and counts each time"
        notices.append(Notice(count, tuple(map(locate, behind.tolist()))))
    if own.any():
        count = "1 genuine pair is" if own.sum() == 1 else f"{int(own.sum())} genuine pairs are"
        named = tuple(locate(pair) for pair in np.flatnonzero(own).tolist())
        notices.append(Notice(f"{count} of an image and itself, which every encoder classifies correctly", named))
    return notices


def _whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected whole numbers, one a pair")
    return array.astype(np.int64)
