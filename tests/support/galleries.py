"""A pipeline for crops that costs nothing, people made up of numbers, and a gallery as plain loops have it."""

import hashlib
import json
import math

import cv2
import numpy as np

from coreface.evaluation.calibration import Calibrator
from coreface.images.alignment import Alignment
from coreface.images.preprocessing import Preprocessing
from coreface.recognition.detection import WholeImage
from coreface.recognition.pipeline import FacePipeline

SIZE = 32  # numbers in an embedding


class ToyEncoder:
    """Projects 8 x 8 pixels at random: the same image, a little brighter, keeps its direction."""

    image_size = 16
    preprocessing = Preprocessing(16, alignment=Alignment("arcface"))

    def __init__(self, seed=0, embedding_size=SIZE):
        self.embedding_size = embedding_size
        self.digest = hashlib.sha256(b"toy%d" % seed).hexdigest()
        self._weights = np.random.default_rng(seed).normal(size=(8 * 8 * 3, embedding_size))

    def embed(self, images, flip=True, *, unit=True):
        small = [cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64) for image in images]
        rows = np.array([(image - image.mean()).reshape(-1) for image in small]) @ self._weights
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def toy_pipeline(seed=0, calibrated=True, **options):
    """Impostor scores are spread evenly from -1 to 0.6, so that FMR(T) is (0.6 - T) / 1.6."""
    pipeline = FacePipeline(ToyEncoder(seed), WholeImage(), **options)
    if calibrated:
        pipeline.calibration = Calibrator.fit([0.8, 0.9], np.linspace(-1, 0.6, 100_000, dtype=np.float32))
    return pipeline


def crops(person, count=1, size=16):
    """Images of a made-up person: a pattern of colours with a little noise. uint8 RGB."""
    rng = np.random.default_rng(person)
    pattern = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
    face = cv2.resize(pattern, (size, size), interpolation=cv2.INTER_NEAREST)
    return [np.clip(face + rng.normal(0, 6, face.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def embeddings(person, count=1, size=SIZE, spread=0.05):
    """Embeddings of a made-up person, (count, size) float32 of unit length, near a direction of the person's own."""
    rng = np.random.default_rng(1000 + person)
    centre = rng.normal(size=size) / math.sqrt(size)
    rows = centre + spread * rng.normal(size=(count, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_scores(enrolled, probe, pooling):
    """Scores of a probe by plain loops: person -> cosine; ``enrolled`` is person -> list of unit vectors."""

    def cosine(a, b):
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        lengths = [math.sqrt(sum(float(x) ** 2 for x in v)) for v in (a, b)]
        return dot / (lengths[0] * lengths[1])

    scores = {}
    for person, vectors in enrolled.items():
        if len(vectors) and pooling == "mean":
            mean = [sum(float(vector[i]) for vector in vectors) / len(vectors) for i in range(len(probe))]
            scores[person] = cosine(mean, probe)
        elif len(vectors):
            scores[person] = max(cosine(vector, probe) for vector in vectors)
    return scores


def rewritten_export(path, change):
    """Write an export anew after a change of its lines, with a last line that fits them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    change(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    forged = path.with_name("forged.jsonl")
    forged.write_bytes(text + json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n")
    return forged
