"""Converts the arrays that other face detection libraries return. None of the libraries is imported."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coreface.errors import InputError
from coreface.recognition.detection import Face

_MTCNN_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


def from_arrays(boxes: ArrayLike, landmarks: ArrayLike, scores: ArrayLike) -> list[Face]:
    """Return faces of boxes (n, 4) left, top, right, bottom, landmarks (n, 5, 2) and scores (n,), best first.

    This is what facenet-pytorch's ``MTCNN.detect(image, landmarks=True)`` returns, including None for no face.

    Raises:
        InputError: the shapes do not match.
    """
    if boxes is None:
        return []
    box, points, score = (np.asarray(values, np.float64) for values in (boxes, landmarks, scores))
    count = len(box) if box.ndim else 0
    if box.shape != (count, 4) or points.shape != (count, 5, 2) or score.shape != (count,):
        raise InputError(
            f"boxes {box.shape}, landmarks {points.shape} and scores {score.shape}; expected (n, 4), (n, 5, 2), (n,)"
        )
    faces = [
        Face((row[0], row[1], row[2], row[3]), five, float(value))
        for row, five, value in zip(box.tolist(), points, score, strict=True)
    ]
    return sorted(faces, key=lambda face: (-face.score, face.box))


def from_insightface(boxes: ArrayLike, landmarks: ArrayLike) -> list[Face]:
    """Return faces of InsightFace's detectors (SCRFD, RetinaFace): boxes with score (n, 5), landmarks (n, 5, 2)."""
    rows = np.asarray(boxes, np.float64).reshape(-1, 5)
    return from_arrays(rows[:, :4], np.asarray(landmarks, np.float64).reshape(-1, 5, 2), rows[:, 4])


def from_opencv(rows: ArrayLike | None) -> list[Face]:
    """Return faces of OpenCV's ``FaceDetectorYN.detect``: (n, 15) or None."""
    if rows is None:
        return []
    values = np.asarray(rows, np.float64).reshape(-1, 15)
    boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1)
    return from_arrays(boxes, values[:, 4:14].reshape(-1, 5, 2), values[:, 14])


def from_mtcnn(found: Sequence[Mapping[str, Any]]) -> list[Face]:
    """Return faces of the package mtcnn: ``box`` (left, top, width, height), ``keypoints`` by name, ``confidence``."""
    boxes = np.array([face["box"] for face in found], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    points = [[face["keypoints"][name] for name in _MTCNN_POINTS] for face in found]
    return from_arrays(boxes, np.array(points).reshape(-1, 5, 2), [face["confidence"] for face in found])
