"""From a source of faces to embeddings: each image once, with what could not be read counted and named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource
from coreface.errors import EvaluationError, ImageError

_CHUNK = 64


class Embedder(Protocol):
    """What embeds photographs: a `FaceEncoder`, or anything that has its `embed`."""

    def embed(self, images: list[NDArray[np.uint8]], flip: bool = True) -> NDArray[np.float32]:
        """Return (n, embedding_size) for uint8 RGB images (height, width, 3)."""


@dataclass(frozen=True, eq=False)
class EmbeddedFaces:
    """The embeddings of a source.

    Attributes:
        embeddings: (n, embedding_size) float32, one row a readable image.
        identities: (n,) int64.
        indices: (n,) int64, the index of each in the source.
        unreadable: what was left out, index in the source -> message.
    """

    embeddings: NDArray[np.float32]
    identities: NDArray[np.int64]
    indices: NDArray[np.int64]
    unreadable: dict[int, str] = field(repr=False)


def embed_faces(
    encoder: Embedder, faces: FaceSource, *, flip: bool = True, progress: Callable[[int], None] | None = None
) -> EmbeddedFaces:
    """Embed every readable image of a source.

    Args:
        encoder: what embeds.
        faces: the source.
        flip: add the mirrored image's embedding, as `FaceEncoder.embed` does.
        progress: called with the number of images done.

    Raises:
        EvaluationError: no image can be read.
    """
    unreadable: dict[int, str] = {}
    indices: list[int] = []
    rows: list[NDArray[np.float32]] = []
    for start in range(0, len(faces), _CHUNK):
        readable = list(_read(faces, range(start, min(start + _CHUNK, len(faces))), unreadable))
        if readable:
            rows.append(encoder.embed([image for _, image in readable], flip=flip))
            indices += [index for index, _ in readable]
        if progress:
            progress(min(start + _CHUNK, len(faces)))
    if not rows:
        raise EvaluationError(f"none of the {len(faces)} images can be read, the first: {unreadable[0]}")
    kept = np.array(indices, dtype=np.int64)
    return EmbeddedFaces(np.concatenate(rows), faces.identities[kept], kept, unreadable)


def _read(faces: FaceSource, indices: range, unreadable: dict[int, str]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for index in indices:
        try:
            yield index, faces[index][0]
        except ImageError as error:
            unreadable[index] = str(error)
