"""From photographs, crops or embeddings to the unit vectors of a gallery."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import CoreFaceError, FaceError, ImageError, InputError
from coreface.images.load import ImageSource, load_image
from coreface.recognition.crops import Choice, Crop
from coreface.recognition.detection import Face
from coreface.recognition.gallery_records import EmbeddedFace, Refusal
from coreface.recognition.pipeline import FaceEmbeddings, FacePipeline
from coreface.recognition.quality import LimitsName, QualityLimits

#: A photograph, a crop made by a `Cropper`, or an embedding (D,) of the gallery's pipeline.
FaceSource: TypeAlias = "ImageSource | Crop | EmbeddedFace"

_BATCH = 32  # crops per batch


@dataclass(frozen=True, eq=False)
class Sample:
    """A face, embedded.

    Attributes:
        index: index of its image.
        embedding: (D,) float32, unit length.
        face: its place in the image.
        crop: uint8 RGB.
    """

    index: int
    embedding: NDArray[np.float32]
    face: Face | None
    crop: NDArray[np.uint8] | None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content: of the crop if there is one, because its embedding may differ in the last bits."""
        if self.crop is None:
            return hashlib.sha256(b"embedding" + self.embedding.tobytes()).digest()
        return hashlib.sha256(b"crop" + repr(self.crop.shape).encode() + self.crop.tobytes()).digest()


def listed(images: Any) -> list[Any]:
    """Return a single image, crop or embedding, or several of them, as a list.

    Floats (n, D) and (D,) are embeddings; integers are pixels, (n, H, W, 3) several images.
    """
    if isinstance(images, FaceEmbeddings):
        return [EmbeddedFace(row, face) for row, face in zip(images.embeddings, images.faces, strict=True)]
    if isinstance(images, np.ndarray):
        several = images.ndim == (2 if images.dtype.kind == "f" else 4)
        return list(images) if several else [images]
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Crop | EmbeddedFace):
        return [images]
    return list(images) if isinstance(images, Iterable) else [images]


def read_samples(
    pipeline: FacePipeline,
    images: Sequence[Any],
    choice: Choice,
    quality: LimitsName | QualityLimits | None = None,
) -> tuple[list[Sample], list[Refusal]]:
    """Embed one face, or with ``all`` every face, of each image.

    Args:
        pipeline: that of the gallery.
        images: as `listed` returns them; one photograph is in memory at a time.
        choice: which face of a photograph is used.
        quality: limits of the faces in photographs; None uses the pipeline's.

    Returns:
        The samples in order, and the images without one.

    Raises:
        InputError: something is neither an image nor an embedding.
    """
    cropper = replace(pipeline.cropper, face=choice)
    if quality is not None:
        cropper = replace(cropper, quality=quality)
    samples: list[Sample] = []
    refused: list[Refusal] = []
    waiting: list[tuple[int, Crop]] = []

    def embed_waiting() -> None:
        if waiting:
            rows = pipeline.encoder.embed([crop.image for _, crop in waiting], flip=pipeline.flip)
            for (index, crop), row in zip(waiting, rows, strict=True):
                try:
                    samples.append(Sample(index, unit(row, len(row)), crop.face, crop.image))
                except InputError as error:
                    refused.append(_refusal(index, images[index], error, "invalid embedding"))
            waiting.clear()

    for index, image in enumerate(images):
        try:
            if isinstance(image, EmbeddedFace) or (isinstance(image, np.ndarray) and image.dtype.kind == "f"):
                samples.append(_embedded(index, image, pipeline.encoder.embedding_size))
            elif isinstance(image, Crop):
                waiting.append((index, image))
            else:
                waiting += [(index, crop) for crop in cropper.crops(load_image(image))]
        except FaceError as error:
            refused.append(_refusal(index, image, error, error.reason))
        except ImageError as error:
            refused.append(_refusal(index, image, error, "unreadable"))
        except InputError as error:
            if not _is_embedding(image):
                raise
            refused.append(_refusal(index, image, error, "invalid embedding"))
        if len(waiting) >= _BATCH:
            embed_waiting()
    embed_waiting()
    return sorted(samples, key=lambda sample: sample.index), sorted(refused, key=lambda refusal: refusal.index)


def unit(embedding: Any, size: int) -> NDArray[np.float32]:
    """Return an embedding as float32 of unit length.

    Raises:
        InputError: its size differs, or it is not finite, or zero.
    """
    vector = np.asarray(embedding)
    if vector.shape != (size,) or vector.dtype.kind != "f":
        raise InputError(f"an embedding has shape {vector.shape} and dtype {vector.dtype}, expected floats ({size},)")
    exact = vector.astype(np.float64)
    largest = np.abs(exact).max()
    if not np.isfinite(largest) or largest == 0:
        raise InputError("an embedding is zero or not finite, expected numbers with a direction")
    exact /= largest
    return np.asarray(exact / np.linalg.norm(exact), np.float32)


def failure_of(refusal: Refusal) -> CoreFaceError:
    """Return a refusal as an error."""
    if refusal.reason == "unreadable":
        return ImageError(refusal.message)
    if refusal.reason == "invalid embedding":
        return InputError(refusal.message)
    return FaceError(refusal.message, refusal.reason)


def _embedded(index: int, image: Any, size: int) -> Sample:
    given = image if isinstance(image, EmbeddedFace) else EmbeddedFace(image)
    return Sample(index, unit(given.embedding, size), given.face, given.crop)


def _is_embedding(image: Any) -> bool:
    return isinstance(image, EmbeddedFace) or (isinstance(image, np.ndarray) and image.dtype.kind == "f")


def _refusal(index: int, image: Any, error: CoreFaceError, reason: str) -> Refusal:
    name = os.fsdecode(image) if isinstance(image, str | os.PathLike) else f"image {index}"
    message = str(error)
    return Refusal(index, name, reason, message if name in message else f"{name}: {message}")
