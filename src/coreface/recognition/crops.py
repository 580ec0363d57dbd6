"""Cutting faces out of a photograph: which ones are used, which are good enough, and how they are aligned."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import FaceError, ImageError, InputError
from coreface.images.alignment import Alignment, align
from coreface.images.load import fit_square
from coreface.recognition.detection import Detector, Face
from coreface.recognition.quality import LimitsName, QualityLimits, judge, quality_limits

Choice: TypeAlias = Literal["largest", "centre", "only", "all"]
CHOICES: tuple[Choice, ...] = ("largest", "centre", "only", "all")
MIN_EYES = 20.0  #: pixels between the eyes of the smallest face that is used


@dataclass(frozen=True, eq=False)
class Crop:
    """A face and its crop.

    Attributes:
        face: where it is in the photograph.
        image: the crop, uint8 RGB (size, size, 3).
    """

    face: Face
    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Cropper:
    """Detects faces in photographs and cuts them out.

    Attributes:
        detector: finds the faces.
        alignment: template and border of the crops.
        size: side of a crop in pixels.
        face: which one is used: the ``largest``, the one nearest to the ``centre``, the ``only`` one, or ``all``.
        min_eyes: pixels between the eyes of the smallest face that is used.
        quality: limits of the faces that are used, by name or in full; see `coreface.recognition.quality`.

    Raises:
        InputError: an argument is out of range.
    """

    detector: Detector
    alignment: Alignment
    size: int = 112
    face: Choice = "largest"
    min_eyes: float = MIN_EYES
    quality: LimitsName | QualityLimits = "off"

    def __post_init__(self) -> None:
        if self.face not in CHOICES:
            raise InputError(f"face is {self.face!r}, expected one of {', '.join(CHOICES)}")
        if self.size < 1 or not self.min_eyes >= 0:
            raise InputError(f"size is {self.size}, min_eyes {self.min_eyes}; expected 1 or more, and 0 or more")
        quality_limits(self.quality)

    def crops(self, image: NDArray[np.uint8]) -> list[Crop]:
        """Return the crops of the selected faces, at least one; with ``all``, the most confident first.

        Args:
            image: an upright photograph, uint8 RGB (H, W, 3).

        Raises:
            FaceError: there is no usable face; see its ``reason``.
        """
        faces = self.detector.detect(image)
        if not faces:
            raise FaceError("no face was found", "no face")
        if self.face == "all":
            return self._usable(image, faces)
        if self.face == "only" and len(faces) > 1:
            raise FaceError(f"{len(faces)} faces were found, expected only one", "several faces")
        height, width = image.shape[:2]
        if self.face == "centre":
            return [self.crop(image, min(faces, key=lambda face: face.distance_to_centre(width, height)))]
        return [self.crop(image, max(faces, key=lambda face: face.area))]

    def _usable(self, image: NDArray[np.uint8], faces: list[Face]) -> list[Crop]:
        crops, failures = [], []
        for face in faces:
            try:
                crops.append(self.crop(image, face))
            except FaceError as error:
                failures.append(error)
        if not crops:
            raise failures[0]
        return crops

    def crop(self, image: NDArray[np.uint8], face: Face) -> Crop:
        """Return the crop of a face.

        Raises:
            FaceError: it is not good enough, or its landmarks are those of no face.
        """
        try:
            if reasons := judge(image, face, self.limits):
                raise FaceError("; ".join(reasons.values()), next(iter(reasons)))
            if face.landmarks is None:  # a crop already
                return Crop(face, fit_square(image, self.size))
            aligned = align(image, face.landmarks, self.size, self.alignment.template, self.alignment.border)
        except ImageError as error:
            raise FaceError(str(error), "odd landmarks") from error
        return Crop(face, aligned)

    @cached_property
    def limits(self) -> QualityLimits:
        """The limits of the faces that are used, ``min_eyes`` among them.

        The named limits of the score are those of yunet: other detectors have other scores, and are judged without.
        """
        limits = quality_limits(self.quality)
        if isinstance(self.quality, str) and self.detector.contract.get("name") != "yunet":
            limits = replace(limits, min_score=None)
        return replace(limits, min_eyes=max(self.min_eyes, limits.min_eyes or 0))
