"""Face detection: the classes `Face` and `Detector`, and the search shared by all network detectors."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import InputError

MAX_SIDE = 640  #: pixels; in larger images, faces that fill the image are missed more often


@dataclass(frozen=True, eq=False)
class Face:
    """A face in an image.

    Attributes:
        box: left, top, right, bottom in pixels of the upright image; it may reach beyond the image.
        landmarks: (5, 2) float64, pixels (x, y): the eye on the left of the picture, on its right, nose, left and right
            corner of the mouth; None if the image is already a crop.
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
    """The interface of face detectors. `FacePipeline` accepts any object that implements it."""

    @property
    def contract(self) -> dict[str, Any]:
        """Everything that determines which faces are found, as plain values. A calibration depends on it."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an upright image, uint8 RGB (H, W, 3), the most confident first; may be empty."""

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each image."""


class WholeImage:
    """For images that are already aligned crops: each is one face, used unchanged."""

    @property
    def contract(self) -> dict[str, Any]:
        return {"name": "whole"}

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = checked_image(image).shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), None, 1.0)]

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        return [self.detect(image) for image in images]


class NetworkDetector(ABC):
    """Base class of network detectors: bounds the image size, retries, and handles rotated photographs.

    If nothing is found, the image is tried again at half the size, for faces that fill it, and with a border, for faces
    that it cuts off. An image is never enlarged.

    Args:
        name: name of the network.
        digest: SHA-256 of its weights.
        max_side: longest side in pixels of the network's input; larger images are reduced.
        min_score: faces with a lower score are dropped.
        rotations: try the image in four orientations, and use the one with the most confident face.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, name: str, digest: str, max_side: int, min_score: float, rotations: bool) -> None:
        if max_side < 32 or not 0 < min_score < 1:
            raise InputError(f"max_side is {max_side}, min_score {min_score}; expected 32 or more, and between 0 and 1")
        self.name, self.digest = name, digest
        self.max_side, self.min_score, self.rotations = max_side, min_score, rotations
        self._lock = threading.Lock()  # a network has buffers for one image only

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
        # In a tie the upright orientation wins, as it is the most likely one.
        turn, faces = max(turns, key=lambda found: (max((face.score for face in found[1]), default=0.0), -found[0]))
        return [_turned_back(face, turn, image.shape[1], image.shape[0]) for face in faces]

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each image."""
        return [self.detect(image) for image in images]

    @abstractmethod
    def run(self, image: NDArray[np.uint8]) -> list[tuple[ArrayLike, ArrayLike, float]]:
        """Return box, landmarks (5, 2) and score of each face, without resizing the image, in any order."""

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
    """Return an image; raise `InputError` if it is not uint8 RGB (H, W, 3)."""
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
    """Map faces of a resized image to the original; pixel centres are at integer coordinates."""
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
