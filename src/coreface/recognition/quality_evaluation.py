"""Error-versus-discard curves of the quality of faces in photographs, for any encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data.folder import FolderSource
from coreface.data.source import FaceSource, require_identities
from coreface.errors import EvaluationError, FaceError, ImageError
from coreface.evaluation.embedding import EmbeddedImages
from coreface.evaluation.embedding_sources import EmbeddingSource, progress_bar
from coreface.evaluation.protocols.protocol import EvaluationProtocol
from coreface.evaluation.quality_curves import quality_curves
from coreface.evaluation.results import Provenance, QualityResult
from coreface.images.alignment import Alignment
from coreface.images.load import load_image
from coreface.recognition.crops import Crop, Cropper
from coreface.recognition.detection import Detector
from coreface.recognition.detectors import open_detector
from coreface.recognition.pipeline import FacePipeline
from coreface.recognition.quality import Quality, higher_is_better, measure_quality


@dataclass(frozen=True, eq=False)
class MeasuredFaces:
    """The faces of photographs that could be found and embedded.

    Attributes:
        embeddings: (n, D), as the encoder made them.
        numbers: of the photographs, in the folder's order.
        qualities: the quality of each, with the length of its embedding where it was not normalised before.
        unreadable: photographs that were left out, number -> message.
    """

    embeddings: NDArray[np.float32]
    numbers: tuple[int, ...]
    qualities: tuple[Quality, ...]
    unreadable: dict[int, str]


@dataclass(frozen=True, eq=False)
class _Found:
    """A photograph, by its number, with the face that is meant."""

    number: int
    crop: Crop
    quality: Quality


class QualityOfPhotographs(EvaluationProtocol[QualityResult]):
    """Measures the largest face of each photograph, and how well each measure predicts the pairs that fail.

    No face is refused, however small. Photographs are aligned as the encoder was trained; embeddings that were made
    elsewhere, by the names of the photographs, need no crops.

    Args:
        photographs: a folder ``<identity>/<photograph>``.
        detector: finds the faces.
        alignment: for an encoder whose alignment is not recorded.
        replicates: of the bootstrap over people; None for 1 000, 0 for no intervals.
        fmr: the FMR that the threshold is for; None for 1 %, or 10 % with few people.

    Raises:
        DataError: there are fewer than two identities, or the folder cannot be read.
        ModelError, MissingExtraError: as of `open_detector`.
    """

    def __init__(
        self,
        photographs: str | Path,
        *,
        detector: str | Detector = "yunet",
        alignment: str | None = None,
        replicates: int | None = None,
        fmr: float | None = None,
    ) -> None:
        self.name = str(photographs)
        self.faces = FolderSource(photographs)
        require_identities(self.faces, 2, "evaluation")
        self.detector = open_detector(detector)
        self.alignment, self.replicates, self.fmr = alignment, replicates, fmr

    def photographs(self) -> Mapping[str, FaceSource]:
        return {}  # they are not crops, so no warning about crops applies

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> QualityResult:
        """Return the curves.

        Raises:
            ModelError: the alignment of the encoder is not known.
            EvaluationError: no photograph has a face, or as `quality_curves`.
        """
        return self.result(self.measure(source, console), source.provenance)

    def result(self, measured: MeasuredFaces, provenance: Provenance) -> QualityResult:
        """Return the result of faces that were measured; raises `EvaluationError` as `quality_curves`."""
        rows = [higher_is_better(quality) for quality in measured.qualities]
        curves = quality_curves(
            measured.embeddings,
            self.faces.identities[list(measured.numbers)],
            {name: np.array([row[name] for row in rows]) for name in rows[0]},
            fmr=self.fmr,
            replicates=1000 if self.replicates is None else self.replicates,
        )
        statement = (
            "All genuine and all impostor pairs of the largest faces of the photographs. The threshold is fixed for an "
            f"FMR of {100 * curves.target:g} % before anything is discarded. The quality of a pair is the lower of its "
            "two images'. Area: the mean FNMR with 0 to 20 % of the genuine pairs discarded, over the FNMR of all; "
            "random discarding has 1. The combination is fitted to other people than it judges. Intervals resample "
            f"people. Embeddings: {provenance.description}; score: cosine."
        )
        return QualityResult(
            name=self.name,
            statement=statement,
            provenance=provenance,
            unreadable=tuple(measured.unreadable[number] for number in sorted(measured.unreadable)),
            quality=curves,
        )

    def measure(self, source: EmbeddingSource, console: Console | None = None) -> MeasuredFaces:
        """Find, measure and embed the faces, in memory one photograph at a time but with all crops.

        Raises:
            ModelError: the alignment of the encoder is not known.
            EvaluationError: no photograph has a face.
        """
        found, unreadable = self._find(self._cropper(source), console)
        if not found:
            first = next(iter(unreadable.values()))
            raise EvaluationError(f"{self.name}: no photograph has a face that can be measured, the first: {first}")
        embedded = source.embed(_Crops(self.faces, found), console, unit_length=False)
        unreadable |= {found[index].number: message for index, message in embedded.unreadable.items()}
        kept = [found[index] for index in embedded.indices.tolist()]
        lengths = _lengths(embedded, source.provenance.flip)
        qualities = [one.quality for one in kept]
        if lengths is not None:
            qualities = [replace(one, length=length) for one, length in zip(qualities, lengths.tolist(), strict=True)]
        return MeasuredFaces(embedded.embeddings, tuple(one.number for one in kept), tuple(qualities), unreadable)

    def _cropper(self, source: EmbeddingSource) -> Cropper:
        if source.encoder is None:
            return Cropper(self.detector, Alignment(), min_eyes=0)
        return FacePipeline(source.encoder, self.detector, alignment=self.alignment, min_eyes=0).cropper

    def _find(self, cropper: Cropper, console: Console | None) -> tuple[list[_Found], dict[int, str]]:
        found: list[_Found] = []
        unreadable: dict[int, str] = {}
        with progress_bar(console, len(self.faces)) as progress:
            for number in range(len(self.faces)):
                path = self.faces.locate(number)
                try:
                    photograph = load_image(path)
                    (crop,) = cropper.crops(photograph)
                    found.append(_Found(number, crop, measure_quality(photograph, crop.face)))
                except (ImageError, FaceError) as error:
                    unreadable[number] = str(error) if path in str(error) else f"{path}: {error}"
                if progress:
                    progress(number + 1)
        return found, unreadable


class _Crops:
    """The crops as images to embed, each under the name of its photograph."""

    def __init__(self, faces: FolderSource, found: list[_Found]) -> None:
        self._faces, self._found = faces, found

    def __len__(self) -> int:
        return len(self._found)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._found[index].crop.image

    def content(self, index: int) -> bytes:
        return b"crop\0" + repr(self.image(index).shape).encode() + self.image(index).tobytes()

    def locate(self, index: int) -> str:
        return self._faces.locate(self._found[index].number)

    def relative_path(self, index: int) -> str:
        return self._faces.relative_path(self._found[index].number)


def _lengths(embedded: EmbeddedImages, flip: bool | None) -> NDArray[np.float64] | None:
    """Return the lengths of embeddings; None where they were normalised before."""
    lengths = np.linalg.norm(embedded.embeddings.astype(np.float64), axis=1) / (2 if flip else 1)
    return None if np.ptp(lengths) <= 1e-3 * lengths.max() else lengths
