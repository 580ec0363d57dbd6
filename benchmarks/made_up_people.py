"""People made up of numbers, and a pipeline that embeds their pictures: what the programs on galleries share."""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.calibration import Calibrator
from coreface.images.alignment import Alignment
from coreface.images.preprocessing import Preprocessing
from coreface.recognition.detection import WholeImage
from coreface.recognition.pipeline import FacePipeline

_SIDE = 16  # pixels of a picture


class Projection:
    """An encoder that projects pixels at random."""

    def __init__(self, embedding_size: int, seed: int = 0) -> None:
        self.embedding_size, self.image_size = embedding_size, _SIDE
        self.preprocessing = Preprocessing(_SIDE, alignment=Alignment("arcface"))
        self.digest = hashlib.sha256(f"projection {embedding_size} {seed}".encode()).hexdigest()
        self._weights = np.random.default_rng(seed).normal(size=(_SIDE * _SIDE * 3, embedding_size))

    def embed(self, images, flip: bool = True, *, unit: bool = True) -> NDArray[np.float32]:
        pixels = np.array([cv2.resize(image, (_SIDE, _SIDE)).reshape(-1) for image in images], np.float64)
        rows = (pixels - pixels.mean(axis=1, keepdims=True)) @ self._weights
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made_up_pipeline(embedding_size: int, seed: int = 0) -> FacePipeline:
    """Return a pipeline for pictures that are crops already, with a calibration that lets nobody resemble another."""
    pipeline = FacePipeline(Projection(embedding_size, seed), WholeImage())
    pipeline.calibration = Calibrator.fit([0.9, 0.95], np.linspace(-1, 0.8, 100_000, dtype=np.float32))
    return pipeline


def pictures(person: int, count: int) -> list[NDArray[np.uint8]]:
    """Return pictures of a made-up person: a coarse pattern of colours with a little noise."""
    rng = np.random.default_rng(person)
    face = cv2.resize(rng.integers(0, 256, (4, 4, 3)).astype(np.float32), (_SIDE, _SIDE))
    return [np.clip(face + rng.normal(0, 6, face.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def clustered(count: int, size: int, seed: int = 0, per_cluster: int = 100) -> NDArray[np.float32]:
    """Return unit vectors (count, size) in clusters, as people who resemble each other are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // per_cluster), size), np.float32)
    rows = np.empty((count, size), np.float32)
    for start in range(0, count, 10_000):
        part = rows[start : start + 10_000]
        part[:] = centres[rng.integers(len(centres), size=len(part))]
        part += 1.2 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows
