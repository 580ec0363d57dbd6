"""Comparison of an exported encoder with its source: both embed the same faces."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource
from coreface.errors import DataError, EvaluationError, ImageError, ModelError
from coreface.evaluation.comparison import compare_embedded
from coreface.evaluation.embedding import EmbeddedImages
from coreface.models.encoder import FaceEncoder
from coreface.models.onnx import OnnxEncoder

BATCH_SIZES: Final = (1, 3, 16)
TOLERANCE: Final = 1e-4  #: largest difference of a component of a unit-length embedding for a float32 export
FAR: Final = 1e-2
_FEW = 32  # faces that are embedded at every batch size


@dataclass(frozen=True)
class TarChange:
    """TAR at FAR 1e-2 of the export minus that of its source, on the same pairs.

    Attributes:
        source: TAR of the source.
        export: TAR of the export.
        difference: export - source.
        low: lower end of its 95 % interval under resampling of identities.
        high: its upper end.
    """

    source: float
    export: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ExportCheck:
    """Result of the comparison of an export with its source.

    Attributes:
        faces: a description of the faces.
        images: number of images.
        identities: number of people.
        batch_sizes: batch sizes at which the first images were embedded.
        largest_difference: of a component of a unit-length embedding, over all batch sizes, by onnxruntime.
        opencv: the same by OpenCV, or why OpenCV cannot run the model.
        smallest_cosine: of the embeddings of one image.
        median_cosine: likewise.
        tar: the change of TAR; None for a float32 export, or if there are too few faces.
        tar_note: why it is None.
    """

    faces: str
    images: int
    identities: int
    batch_sizes: tuple[int, ...]
    largest_difference: float
    opencv: float | str
    smallest_cosine: float
    median_cosine: float
    tar: TarChange | None = None
    tar_note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def check_export(
    source: FaceEncoder, path: str, faces: FaceSource, described: str, *, flip: bool, exact: bool
) -> ExportCheck:
    """Compare an export with its source.

    Args:
        source: the encoder that was exported.
        path: the file.
        faces: the faces to embed; for an exact export a part of them is enough.
        described: a description of the faces.
        flip: whether the model itself adds the mirrored image.
        exact: whether it is a float32 export, which must not differ; otherwise the change of TAR is measured.

    Raises:
        ModelError: the file cannot be run, an embedding is not finite, or an exact export differs by more than 1e-4.
        DataError: no face can be read.
    """
    export = OnnxEncoder(path, runtime="onnxruntime")
    wanted = np.unique(np.linspace(0, len(faces) - 1, _FEW, dtype=np.int64)) if exact else np.arange(len(faces))
    kept, images = readable(faces, wanted)
    expected = source.embed(images, flip=flip)
    difference = _largest_difference(export, images[:_FEW], expected[:_FEW], flip)
    if exact and not difference <= TOLERANCE:
        raise ModelError(
            f"the exported embeddings differ from torch's by {difference:.1e}, expected at most {TOLERANCE:g}: nothing "
            "was written"
        )
    found = export.embed(images, flip=flip)
    if not np.isfinite(found).all():
        raise ModelError("the exported encoder returns embeddings that are not finite: nothing was written")
    cosines = (found * expected).sum(axis=1)
    tar, note = (None, None) if exact else _tar_change(expected, found, faces.select(kept))
    return ExportCheck(
        faces=described,
        images=len(images),
        identities=len(np.unique(faces.identities[kept])),
        batch_sizes=BATCH_SIZES,
        largest_difference=difference,
        opencv=_by_opencv(path, images[:_FEW], expected[:_FEW], flip),
        smallest_cosine=float(cosines.min()),
        median_cosine=float(np.median(cosines)),
        tar=tar,
        tar_note=note,
    )


def readable(faces: FaceSource, wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Return the indices of those wanted faces that can be read, and their images.

    Raises:
        DataError: none can.
    """
    images, kept, reason = [], [], "there is none"
    for index in wanted.tolist():
        try:
            images.append(faces[index][0])
            kept.append(index)
        except ImageError as error:
            reason = str(error)
    if not images:
        raise DataError(f"none of {len(wanted)} faces can be read; an example: {reason}")
    return np.array(kept, np.int64), images


def _largest_difference(
    export: OnnxEncoder, images: list[NDArray[np.uint8]], expected: NDArray[np.float32], flip: bool
) -> float:
    found = [export.embed(images, flip=flip, batch_size=size) for size in BATCH_SIZES]
    return float(max(np.abs(rows - expected).max() for rows in found))  # nan if a component is not a number


def _by_opencv(path: str, images: list[NDArray[np.uint8]], expected: NDArray[np.float32], flip: bool) -> float | str:
    try:
        return _largest_difference(OnnxEncoder(path, runtime="opencv"), images, expected, flip)
    except ModelError as error:
        return str(error).removeprefix(f"{path}: ")


def _tar_change(
    expected: NDArray[np.float32], found: NDArray[np.float32], faces: FaceSource
) -> tuple[TarChange | None, str | None]:
    export_rows, source_rows = (EmbeddedImages(rows, np.arange(len(rows)), {}) for rows in (found, expected))
    try:
        rates = compare_embedded(export_rows, source_rows, faces, fars=(FAR,))
    except EvaluationError as error:
        return None, str(error)
    name = f"TAR at FAR {FAR:g}"
    if name not in rates:
        return None, f"{len(faces)} faces make too few impostor pairs for a FAR of {FAR:g}"
    export, source, change = rates[name]
    return TarChange(source, export, export - source, change.interval.low, change.interval.high), None
