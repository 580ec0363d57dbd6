"""From two photographs to a decision: detect a face, align it, embed it, compare at a calibrated threshold."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coreface.errors import CoreFaceError, FaceError, ImageError, InputError, ModelError
from coreface.evaluation.calibration import Calibrator
from coreface.images.alignment import Alignment
from coreface.images.load import ImageSource, load_image
from coreface.images.preprocessing import Preprocessing
from coreface.models.open import Encoder, open_encoder
from coreface.recognition.calibration_files import calibration_places
from coreface.recognition.crops import MIN_EYES, Choice, Cropper
from coreface.recognition.decision import Decision, DecisionAt
from coreface.recognition.detection import MAX_SIDE, Detector, Face, WholeImage
from coreface.recognition.detectors import open_detector
from coreface.recognition.quality import LimitsName, Quality, QualityLimits, measure_quality

_BATCH = 32  # crops per batch


@dataclass(frozen=True, eq=False)
class FaceEmbeddings:
    """The embeddings of the faces in photographs.

    Attributes:
        embeddings: (n, embedding_size) float32, unit length, one row per face.
        indices: (n,) int64, the index of each row's photograph.
        faces: the face of each row.
        failures: photographs that could not be embedded: index -> error.
    """

    embeddings: NDArray[np.float32]
    indices: NDArray[np.int64]
    faces: tuple[Face, ...]
    failures: dict[int, CoreFaceError] = field(repr=False)


class FacePipeline:
    """An encoder with a detector and the alignment that the encoder was trained on.

    Args:
        encoder: embeds the crops.
        detector: finds the faces: a name (``yunet``, ``centerface``, ``whole``), an ONNX file, or a `Detector`.
        face: which face of a photograph is used: ``largest``, ``centre``, ``only``, or ``all``.
        alignment: for an encoder whose alignment is not recorded, such as ``arcface``.
        min_eyes: pixels between the eyes of the smallest face that is used.
        quality: limits of the faces that are used: ``off``, ``standard``, ``strict``, or `QualityLimits`.
        flip: add the embedding of the mirrored crop.
        calibration: the source of thresholds; None for none.

    Attributes:
        contract: everything that determines a score.
        no_calibration: why there is no calibration.

    Raises:
        ModelError: the alignment of the encoder's crops is not recorded, or there is no such detector.
        MissingExtraError: the package that contains a detector is not installed.
        InputError: an argument is out of range, or the alignment differs from the encoder's.
    """

    def __init__(
        self,
        encoder: Encoder,
        detector: str | Path | Detector = "yunet",
        *,
        face: Choice = "largest",
        alignment: str | Alignment | None = None,
        min_eyes: float = MIN_EYES,
        quality: LimitsName | QualityLimits = "off",
        flip: bool = True,
        calibration: Calibrator | None = None,
    ) -> None:
        self.encoder, self.flip, self.calibration = encoder, flip, calibration
        self.detector = open_detector(detector)
        self.alignment = _chosen_alignment(encoder, alignment, self.detector)
        self.cropper = Cropper(self.detector, self.alignment, encoder.image_size, face, min_eyes, quality)
        self._encoder_digest = encoder.digest
        self.no_calibration = "there is none"

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        detector: str | Path | Detector = "yunet",
        *,
        calibration: str | os.PathLike[str] | None = None,
        preprocessing: Preprocessing | None = None,
        max_side: int = MAX_SIDE,
        rotations: bool = False,
        **options: Any,
    ) -> "FacePipeline":
        """Open an encoder, and the calibration that belongs to it and to this pipeline.

        Args:
            model: the folder of a run or of a saved encoder, an ONNX file, or the name of known weights (``sface``).
            detector: as above.
            calibration: the file; None searches next to the encoder, in an ONNX file itself, and among those shipped
                for known weights.
            preprocessing: of an ONNX file that does not contain it.
            max_side: longest side in pixels of a detector's input.
            rotations: try photographs in four orientations.
            options: as above, from ``face`` on.

        Raises:
            ModelError: there is no such encoder, or ``calibration`` belongs to another pipeline.
            MissingExtraError: a package is not installed.
        """
        found = open_detector(detector, max_side=max_side, rotations=rotations)
        encoder = open_encoder(model, preprocessing=preprocessing)
        pipeline = cls(encoder, found, **options)
        if calibration is not None:
            pipeline.calibration = Calibrator.load(Path(calibration), pipeline.contract_digest)
            return pipeline
        digest, carried = pipeline.contract_digest, getattr(encoder, "calibration", None)
        candidates = [partial(Calibrator.load, path, digest) for path in calibration_places(model) if path.is_file()]
        if carried is not None:  # by an exported file
            candidates.append(partial(Calibrator.from_text, carried, digest, os.fspath(model)))
        for load in candidates:
            try:
                pipeline.calibration = load()
                break
            except ModelError as error:
                pipeline.no_calibration = str(error)
        return pipeline

    @property
    def contract(self) -> dict[str, Any]:
        """Everything that determines a score, as plain values. A calibration and a gallery are tied to it."""
        return {
            "encoder": self._encoder_digest,
            "alignment": {**self.alignment.to_dict(), "size": self.encoder.image_size},
            "detector": self.detector.contract,
            "flip": self.flip,
        }

    @property
    def contract_digest(self) -> str:
        """SHA-256 of the contract."""
        return hashlib.sha256(json.dumps(self.contract, sort_keys=True).encode()).hexdigest()

    def faces(self, image: ImageSource) -> list[Face]:
        """Return all faces in a photograph, the most confident first; may be empty.

        Args:
            image: a path, encoded bytes, a PIL image or an array.

        Raises:
            ImageError: it cannot be read.
        """
        return self.detector.detect(load_image(image))

    def quality(self, image: ImageSource) -> list[Quality]:
        """Measure the faces of a photograph that the pipeline means by ``face``, whether they are good enough or not.

        Args:
            image: a path, encoded bytes, a PIL image or an array.

        Returns:
            The quality of each face, with the length of its embedding.

        Raises:
            ImageError: it cannot be read.
            FaceError: it shows no face, or the landmarks are those of no face.
        """
        photograph = load_image(image)
        crops = replace(self.cropper, min_eyes=0, quality="off").crops(photograph)
        embeddings = self.encoder.embed([crop.image for crop in crops], flip=self.flip, unit=False)
        lengths = np.linalg.norm(embeddings, axis=1) / (2 if self.flip else 1)
        return [
            replace(measure_quality(photograph, crop.face), length=float(length))
            for crop, length in zip(crops, lengths, strict=True)
        ]

    def embed(
        self,
        images: Iterable[ImageSource],
        on_error: Literal["raise", "record"] = "raise",
        *,
        quality: LimitsName | QualityLimits | None = None,
    ) -> FaceEmbeddings:
        """Embed the selected faces of photographs, with one photograph in memory at a time.

        Args:
            images: paths, encoded bytes, PIL images or arrays.
            on_error: ``raise`` the first error, or ``record`` all of them in ``failures``.
            quality: limits of the faces that are used; None takes the pipeline's.

        Raises:
            ImageError: a photograph cannot be read.
            FaceError: a photograph shows no face that can be used.
        """
        if on_error not in ("raise", "record"):
            raise InputError(f"on_error is {on_error!r}, expected 'raise' or 'record'")
        cropper = self.cropper if quality is None else replace(self.cropper, quality=quality)
        failures: dict[int, CoreFaceError] = {}
        indices: list[int] = []
        faces: list[Face] = []
        rows: list[NDArray[np.float32]] = []
        waiting: list[NDArray[np.uint8]] = []

        def embed_waiting() -> None:
            if waiting:
                rows.append(self.encoder.embed(waiting, flip=self.flip))
                waiting.clear()

        for index, source in enumerate(images):
            try:
                crops = cropper.crops(load_image(source))
            except (ImageError, FaceError) as error:
                if on_error == "raise":
                    raise _placed(error, source, index) from error
                failures[index] = _placed(error, source, index)
                continue
            for crop in crops:
                indices.append(index)
                faces.append(crop.face)
                waiting.append(crop.image)
                if len(waiting) == _BATCH:
                    embed_waiting()
        embed_waiting()
        embeddings = np.concatenate(rows) if rows else np.empty((0, self.encoder.embedding_size), np.float32)
        return FaceEmbeddings(embeddings, np.array(indices, np.int64), tuple(faces), failures)

    def verify(
        self,
        a: ImageSource,
        b: ImageSource,
        fmr: float = 1e-3,
        *,
        threshold: float | None = None,
        quality: LimitsName | QualityLimits | None = None,
    ) -> Decision:
        """Decide whether two photographs show the same person.

        Args:
            a: a photograph.
            b: another.
            fmr: accepted rate of false matches.
            threshold: a cosine to use instead of the calibration's threshold.
            quality: limits of the faces that are compared; None takes the pipeline's.

        Raises:
            ModelError: there is neither a calibration nor a threshold.
            ImageError: a photograph cannot be read.
            FaceError: a photograph shows no face that can be used.
            InputError: ``fmr`` or ``threshold`` is out of range, or the pipeline uses all faces.
        """
        if self.cropper.face == "all":
            raise InputError(
                "verify compares single faces: the pipeline has face='all', expected largest, centre or only"
            )
        at = self.decision_at(fmr, threshold)
        found = self.embed([a, b], quality=quality)
        return at.decide(float(found.embeddings[0] @ found.embeddings[1]), (found.faces[0], found.faces[1]))

    def decision_at(self, fmr: float = 1e-3, threshold: float | None = None) -> DecisionAt:
        """Return what decides about the cosine of two faces, as `verify` does.

        Args:
            fmr: requested rate of false matches.
            threshold: a cosine to decide at, instead of the calibration's.

        Raises:
            ModelError: there is neither a calibration nor a threshold.
            InputError: ``fmr`` is out of range, or the threshold is not a cosine.
        """
        if threshold is not None:
            return DecisionAt.given(threshold)
        return DecisionAt.calibrated(self.require_calibration().threshold(fmr))

    def require_calibration(self) -> Calibrator:
        """Return the calibration.

        Raises:
            ModelError: there is none.
        """
        if self.calibration is None:
            raise ModelError(
                f"no calibration for this pipeline ({self.no_calibration}): make one on photographs of other people "
                "with coreface calibrate MODEL --photos FOLDER, or give a threshold"
            )
        return self.calibration


def _chosen_alignment(encoder: Encoder, given: str | Alignment | None, detector: Detector) -> Alignment:
    own = encoder.preprocessing.alignment
    wanted = Alignment(given) if isinstance(given, str) else given
    if wanted is not None and not wanted.known:
        raise InputError("the alignment is unknown, expected the name of a template such as arcface")
    if own.known and wanted is not None and wanted.template != own.template:
        raise InputError(f"the alignment is {wanted.template}, but the encoder was trained on {own.template}")
    if own.known or isinstance(detector, WholeImage):
        return own
    if wanted is None:
        raise ModelError(
            "the alignment of this encoder's training crops is not recorded: set alignment='arcface' "
            "(--alignment arcface) if it was the usual five points in 112 x 112 pixels"
        )
    return wanted


def _placed(error: ImageError | FaceError, source: ImageSource, index: int) -> ImageError | FaceError:
    name = os.fsdecode(source) if isinstance(source, str | os.PathLike) else f"photograph {index}"
    if name in str(error):
        return error
    message = f"{name}: {error}"
    return FaceError(message, error.reason) if isinstance(error, FaceError) else ImageError(message)
