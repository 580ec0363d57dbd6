"""What detectors and alignment are worth: sface over all pairs of photographs of people.

python benchmarks/pipeline_accuracy.py PHOTOS --kept FOLDER

Rows: each detector that is there; the photographs as they are, without alignment; and crops whose left and right
landmarks were exchanged, which `align` refuses: here the check is left out, to show what it prevents.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from photograph_embeddings import embed_folder

from coreface.errors import ImageError, ModelError
from coreface.evaluation.verification import verify
from coreface.images.alignment import TEMPLATES, align
from coreface.images.load import load_image
from coreface.recognition.detection import Face, WholeImage
from coreface.recognition.pipeline import FacePipeline

SIDES = [1, 0, 2, 4, 3]


class Exchanged:
    """Faces of another detector, cut out with left and right exchanged, as crops."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self.contract = {"name": "exchanged"}
        self.refused = 0

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        return self._detector.detect(image)

    def detect_many(self, images: Iterable[NDArray[np.uint8]]) -> list[list[Face]]:
        return [self.detect(image) for image in images]

    def crop(self, path: Path) -> NDArray[np.uint8] | None:
        image = load_image(path)
        faces = self.detect(image)
        if not faces:
            return None
        face = max(faces, key=lambda one: one.area)
        try:
            align(image, face.landmarks[SIDES])
        except ImageError:
            self.refused += 1
        points = face.landmarks[SIDES].astype(np.float32)
        matrix = cv2.estimateAffinePartial2D(points, TEMPLATES["arcface"].astype(np.float32), method=cv2.LMEDS)[0]
        return cv2.warpAffine(image, matrix, (112, 112))


def report(name: str, embeddings: NDArray[np.float32], people: NDArray[np.str_], failures: dict[str, str]) -> None:
    measured = verify(embeddings, np.unique(people, return_inverse=True)[1])
    reasons = {reason: list(failures.values()).count(reason) for reason in sorted(set(failures.values()))}
    rates = [f"EER {100 * measured.eer.eer:.2f} % ({interval(measured.eer_interval)})"]
    for rate, found in zip(measured.tar, measured.tar_intervals, strict=True):
        if rate.far in (1e-2, 1e-3) and rate.tar is not None:
            rates.append(f"TAR at {rate.far:g} {100 * rate.tar:.1f} % ({interval(found)})")
    print(f"{name}: {len(embeddings)} embedded, not {reasons or 'any'}; {'; '.join(rates)}", flush=True)


def interval(found: Any) -> str:
    return "no interval" if found is None else f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--kept", type=Path, required=True, help="folder where embeddings are kept")
    options = parser.parse_args()
    for name in ("yunet", "centerface", "whole"):
        try:
            pipeline = FacePipeline.from_pretrained("sface", WholeImage() if name == "whole" else name)
        except ModelError as error:
            print(f"{name}: {error}")
            continue
        found = embed_folder(pipeline, options.photos, options.kept / f"{name}_photos.npz")
        report("without alignment" if name == "whole" else name, found.embeddings, found.people, found.failures)
    kept = options.kept / "exchanged_photos.npz"
    if not kept.is_file():
        pipeline = FacePipeline.from_pretrained("sface")
        exchanged = Exchanged(pipeline.detector)
        paths = sorted(options.photos.glob("*/*.jpg"))
        crops = [(path.parent.name, crop) for path in paths if (crop := exchanged.crop(path)) is not None]
        embeddings = pipeline.encoder.embed([crop for _, crop in crops])
        np.savez(kept, embeddings=embeddings, people=np.array([person for person, _ in crops]), n=exchanged.refused)
    with np.load(kept) as arrays:
        report("left and right exchanged", arrays["embeddings"], arrays["people"], {})
        print(f"  align refuses {int(arrays['n'])} of these {len(arrays['people'])} with its message", flush=True)


if __name__ == "__main__":
    main()
