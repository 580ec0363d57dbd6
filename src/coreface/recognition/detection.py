"""Faces in photographs: what a face is, what a detector is, and the search that network detectors share."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import InputError

MAX_SIDE = 640  #: pixels; a face that fills a larger picture is missed more often, and smaller ones are found here


@dataclass(frozen=True, eq=False)
class Face:
    """A face in an image.

    Attributes:
        box: left, top, right, bottom in pixels of the upright image; it may reach beyond the image.
        landmarks: (5, 2) float64, pixels (x, y): the eye on the left of the picture, on its right, nose, left and right
            corner of the mouth; None where the image is a crop already.
        score: the detector's confidence, 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float64] | None
    score: float

    def __post_init__(self) -> None:
        if self.landmarks is not None:
            points = np.array(self.landmarks, np.float64)
            if points.shape != (5, 2):
                raise InputError(f"landmarks have shape {points.shape}, expected (5, 2): eyes, nose, mouth corners")
            points.setflags(write=False)
            object.__setattr__(self, "landmarks", points)

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    @property
    def eye_distance(self) -> float | None:
        """Pixels between the eyes; None without landmarks."""
        return None if self.landmarks is None else float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    def distance_to_centre(self, width: int, height: int) -> float:
        """Return how far the middle of the box is from the middle of an image, in pixels."""
        left, top, right, bottom = self.box
        return float(np.hypot((left + right - width) / 2, (top + bottom - height) / 2))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        landmarks = None if self.landmarks is None else self.landmarks.round(3).tolist()
        return {"box": [round(side, 3) for side in self.box], "landmarks": landmarks, "score": round(self.score, 5)}


class Detector(Protocol):
    """What finds faces. Write one of your own, and the pipeline takes it as it is."""

    @property
    def contract(self) -> dict[str, Any]:
        """All that decides where faces are found, as plain values: scores belong to it as to an encoder."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an upright image, uint8 RGB (H, W, 3), the most confident first; none is no error."""

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each image."""


class WholeImage:
    """For images that are aligned crops already: each is one face, and is used as it is."""

    @property
    def contract(self) -> dict[str, Any]:
        return {"name": "whole"}

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = checked_image(image).shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), None, 1.0)]

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        return [self.detect(image) for image in images]


class NetworkDetector(ABC):
    """The search around a network: a bounded size, second tries, and turned photographs.

    Where nothing is found, the image is tried once at half the size, for faces that fill it, and once with a border,
    for faces that it cuts. An image is never enlarged.

    Args:
        name: of the network.
        digest: SHA-256 of its weights.
        max_side: longest side in pixels at which the network looks; larger images are reduced.
        min_score: faces below are dropped.
        rotations: try the image in four orientations, and take the one with the most confident face.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, name: str, digest: str, max_side: int, min_score: float, rotations: bool) -> None:
        if max_side < 32 or not 0 < min_score < 1:
            raise InputError(f"max_side is {max_side}, min_score {min_score}; expected 32 or more, and between 0 and 1")
        self.name, self.digest = name, digest
        self.max_side, self.min_score, self.rotations = max_side, min_score, rotations
        self._lock = threading.Lock()  # a network holds the buffers of the image it is looking at

    @property
    def contract(self) -> dict[str, Any]:
        decisive = {"max_side": self.max_side, "min_score": self.min_score, "rotations": self.rotations}
        return {"name": self.name, "weights": self.digest, **decisive}

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an upright image, uint8 RGB (H, W, 3), the most confident first.

        Raises:
            InputError: another shape or dtype.
        """
        image = checked_image(image)
        if not self.rotations:
            return self._search(image)
        turns = [(turn, self._search(np.ascontiguousarray(np.rot90(image, turn)))) for turn in range(4)]
        # Upright wins a tie: of equally good orientations the photographer's is the likelier one.
        turn, faces = max(turns, key=lambda found: (max((face.score for face in found[1]), default=0.0), -found[0]))
        return [_turned_back(face, turn, image.shape[1], image.shape[0]) for face in faces]

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each image."""
        return [self.detect(image) for image in images]

    @abstractmethod
    def run(self, image: NDArray[np.uint8]) -> list[tuple[ArrayLike, ArrayLike, float]]:
        """Return box, landmarks (5, 2) and score of each face at the image's own size, in any order."""

    def _search(self, image: NDArray[np.uint8]) -> list[Face]:
        reduced = _reduced(image, self.max_side)
        faces = self._run_on(reduced)
        if not faces and max(reduced.shape) > 64:
            smaller = _reduced(reduced, max(reduced.shape) // 2)
            faces = _moved(self._run_on(smaller), smaller, reduced)
        if not faces:
            border = max(reduced.shape[:2]) // 2
            wide = np.pad(reduced, ((border, border), (border, border), (0, 0)))
            smaller = _reduced(wide, self.max_side)
            faces = _moved(self._run_on(smaller), smaller, wide)
            faces = [_shifted(face, border) for face in faces]
        return _moved(faces, reduced, image)

    def _run_on(self, image: NDArray[np.uint8]) -> list[Face]:
        with self._lock:
            found = self.run(image)
        faces = []
        for box, landmarks, score in found:
            left, top, right, bottom = np.asarray(box, np.float64).tolist()
            points = np.asarray(landmarks, np.float64)
            if np.isfinite(points).all() and right > left and bottom > top and score >= self.min_score:
                faces.append(Face((left, top, right, bottom), points, min(1.0, float(score))))
        return sorted(faces, key=lambda face: (-face.score, face.box))


def checked_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image; raise `InputError` where it is not uint8 RGB (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"got {shape}, expected an image, uint8 RGB (height, width, 3): load_image makes that")
    if 0 in image.shape:
        raise InputError(f"the image is empty: {image.shape}")
    return image


def _reduced(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _moved(faces: list[Face], from_image: NDArray[Any], to_image: NDArray[Any]) -> list[Face]:
    """Return faces of a resized image as they lie in the other; the centres of pixels are whole numbers."""
    scale = np.array([to / at for to, at in zip(to_image.shape[1::-1], from_image.shape[1::-1], strict=True)])
    return faces if (scale == 1).all() else [_mapped(face, scale, (scale - 1) / 2) for face in faces]


def _shifted(face: Face, border: int) -> Face:
    return _mapped(face, np.ones(2), np.full(2, -float(border)))


def _mapped(face: Face, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Face:
    corners = np.array(face.box).reshape(2, 2) * scale + shift
    left, top, right, bottom = corners.reshape(4).tolist()
    landmarks = None if face.landmarks is None else face.landmarks * scale + shift
    return Face((left, top, right, bottom), landmarks, face.score)


def _turned_back(face: Face, turn: int, width: int, height: int) -> Face:
    """Undo `np.rot90` by ``turn`` quarters, counter-clockwise, of an image of ``width`` x ``height``."""

    def back(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[:, 0], points[:, 1]
        if turn == 1:
            return np.stack([width - 1 - y, x], axis=1)
        if turn == 2:
            return np.stack([width - 1 - x, height - 1 - y], axis=1)
        return np.stack([y, height - 1 - x], axis=1) if turn == 3 else points

    corners = back(np.array(face.box).reshape(2, 2))
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    landmarks = None if face.landmarks is None else back(face.landmarks)
    return Face((left, top, right, bottom), landmarks, face.score)
