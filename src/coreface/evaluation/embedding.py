"""From photographs to embeddings: each image once, what could not be read counted and named, nothing done twice."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coreface.data.pairs.pair_set import PairSet
from coreface.data.source import FaceSource
from coreface.errors import EvaluationError, ImageError
from coreface.evaluation.embedding_cache import EmbeddingCache

_CHUNK = 64


#: uint8 RGB images (height, width, 3) -> their embeddings (n, embedding_size), such as `FaceEncoder.embed`
Embed = Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]]


class Photographs(Protocol):
    """Images by number, each with the source of its pixels and its place."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the image, uint8 RGB (height, width, 3); raise `ImageError` if it cannot be read."""

    def content(self, index: int) -> bytes:
        """Return the bytes that determine the pixels; raise `ImageError` if they cannot be read."""

    def locate(self, index: int) -> str:
        """Return the place of the image."""

    def relative_path(self, index: int) -> str:
        """Return the part of its path that identifies an image."""


def photographs_of(source: FaceSource | PairSet | Photographs) -> Photographs:
    """Return the images of a source of faces, or the distinct images of a set of pairs; photographs as they are."""
    return _PhotographsOf(source) if isinstance(source, FaceSource | PairSet) else source


class _PhotographsOf:
    """The images of a source of faces, or the distinct images of a set of pairs."""

    def __init__(self, source: FaceSource | PairSet) -> None:
        self._source = source

    def __len__(self) -> int:
        return self._source.num_images if isinstance(self._source, PairSet) else len(self._source)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._source.image(index) if isinstance(self._source, PairSet) else self._source[index][0]

    def content(self, index: int) -> bytes:
        # Two kinds of source may make different pixels of the same bytes, as by padding them.
        kind = self._source if isinstance(self._source, PairSet) else self._source.origin
        return type(kind).__name__.encode() + b"\0" + self._source.encoded(index)

    def locate(self, index: int) -> str:
        return self._source.locate(index)

    def relative_path(self, index: int) -> str:
        return self._source.relative_path(index)


@dataclass(frozen=True, eq=False)
class EmbeddedImages:
    """The embeddings of images.

    Attributes:
        embeddings: (n, embedding_size) float32, one row a readable image.
        indices: (n,) int64, the number of each image.
        unreadable: what was left out, number of the image -> message.
    """

    embeddings: NDArray[np.float32]
    indices: NDArray[np.int64]
    unreadable: dict[int, str] = field(repr=False)


def embed_images(
    embed: Embed,
    source: FaceSource | PairSet | Photographs,
    *,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> EmbeddedImages:
    """Embed every readable image, the same content once only.

    Args:
        embed: embeds a list of images.
        source: the images.
        cache: where embeddings of this encoder are kept; None keeps none.
        progress: called with the number of images done.

    Raises:
        EvaluationError: no image can be read.
    """
    images = photographs_of(source)
    return join_shares([embed_share(embed, images, range(len(images)), cache=cache, progress=progress)], len(images))


def embed_share(
    embed: Embed,
    source: FaceSource | PairSet | Photographs,
    share: Sequence[int],
    *,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> EmbeddedImages:
    """Embed those images whose numbers are in ``share``, as `embed_images` does; perhaps none of them can be read."""
    images = photographs_of(source)
    unreadable: dict[int, str] = {}
    rows: dict[bytes, NDArray[np.float32]] = {}
    keys: dict[int, bytes] = {}
    waiting: dict[bytes, tuple[int, NDArray[np.uint8]]] = {}
    broken: dict[bytes, str] = {}

    def embed_waiting() -> None:
        for key, row in _embedded(embed, waiting, broken):
            rows[key] = row
            if cache is not None:
                cache.add(key, row)
        waiting.clear()

    try:
        for done, index in enumerate(share, 1):
            try:
                key = keys[index] = hashlib.sha256(images.content(index)).digest()
                if key not in rows and key not in waiting and key not in broken:
                    stored = None if cache is None else cache.get(key)
                    if stored is None:
                        waiting[key] = index, images.image(index)
                    else:
                        rows[key] = stored
            except ImageError as error:
                unreadable[index] = str(error)
                keys.pop(index, None)
            if len(waiting) == _CHUNK:
                embed_waiting()
            if progress and done % _CHUNK == 0:
                progress(done)
        embed_waiting()
    finally:
        if cache is not None:
            cache.flush()
    for index, key in keys.items():
        if key in broken:
            unreadable[index] = f"{images.locate(index)}: {broken[key]}"
    kept = [index for index in keys if index not in unreadable]
    if progress:
        progress(len(share))
    embeddings = np.stack([rows[keys[index]] for index in kept]) if kept else np.empty((0, 0), np.float32)
    return EmbeddedImages(embeddings, np.array(kept, np.int64), unreadable)


def join_shares(shares: Sequence[EmbeddedImages], images: int) -> EmbeddedImages:
    """Return the embeddings of several shares of ``images`` images as one, in the order of the images.

    Raises:
        EvaluationError: no image can be read.
    """
    unreadable = dict(sorted(item for share in shares for item in share.unreadable.items()))
    filled = [share for share in shares if len(share.indices)]
    if not filled:
        first = next(iter(unreadable.values()), "there is none")
        raise EvaluationError(f"none of the {images} images can be read, the first: {first}")
    if len(filled) == 1:  # as in one process: no copy
        return EmbeddedImages(filled[0].embeddings, filled[0].indices, unreadable)
    indices = np.concatenate([share.indices for share in filled])
    order = np.argsort(indices)
    return EmbeddedImages(np.concatenate([share.embeddings for share in filled])[order], indices[order], unreadable)


def _embedded(
    embed: Embed, waiting: dict[bytes, tuple[int, NDArray[np.uint8]]], broken: dict[bytes, str]
) -> Iterable[tuple[bytes, NDArray[np.float32]]]:
    if not waiting:
        return []
    images = [image for _, image in waiting.values()]
    try:
        return list(zip(waiting, embed(images), strict=True))
    except ImageError:  # one of them can be decoded and yet not be used, as a strip too long to be squared
        done = []
        for key, image in zip(waiting, images, strict=True):
            try:
                done.append((key, embed([image])[0]))
            except ImageError as error:
                broken[key] = str(error)
        return done
