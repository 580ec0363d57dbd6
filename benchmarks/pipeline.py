"""Photographs a second from file to embedding, beside the plain loop, and what the parts cost.

python benchmarks/pipeline.py PHOTOS [--count 200] [--width 1280]

PHOTOS holds photographs of people (PHOTOS/<person>/<photograph>), which are put into pictures of WIDTH x 3/4 WIDTH. The
plain loop takes one picture after the other: detector at full size, a warp, one crop at a time and its mirror image. A
second loop looks at 640 pixels, as the pipeline does. Alternating rounds; medians and the spread of the ratio.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from timing import machine

from coreface.data.folder import FolderSource
from coreface.evaluation.verification import verify
from coreface.images.alignment import align
from coreface.images.load import load_image
from coreface.recognition.detectors import YuNet
from coreface.recognition.embed_folder import embed_paths
from coreface.recognition.embed_parts import EmbedSettings
from coreface.recognition.pipeline import FacePipeline

_EACH = 4  # photographs a person


def enlarge(photos: Path, folder: Path, count: int, width: int) -> list[Path]:
    """Write pictures of one size with a photograph in the middle; return their paths."""
    source, height = FolderSource(photos), width * 3 // 4
    paths = []
    nth = np.concatenate([np.arange(n) for n in np.bincount(source.identities)])  # photograph of its person
    for index in np.flatnonzero(nth < _EACH)[:count].tolist():
        image = load_image(source.locate(index))
        factor = 0.9 * height / max(image.shape[:2])
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        picture = np.full((height, width, 3), 90, np.uint8)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        picture[top : top + image.shape[0], left : left + image.shape[1]] = image
        path = folder / source.identity_names[source.identities[index]] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture[..., ::-1])
        paths.append(path)
    return paths


def plain_loop(pipeline: FacePipeline, detector: YuNet, paths: list[Path]) -> NDArray[np.float32]:
    """Embed one picture after the other, as one writes it first; zeros where there is no face."""
    rows = []
    for path in paths:
        image = load_image(path)
        faces = detector.detect(image)
        if not faces:
            rows.append(np.zeros(pipeline.encoder.embedding_size, np.float32))
            continue
        crop = align(image, max(faces, key=lambda face: face.area).landmarks)
        both = [pipeline.encoder.embed([view], flip=False, unit=False)[0] for view in (crop, crop[:, ::-1])]
        rows.append(sum(both) / np.linalg.norm(sum(both)))
    return np.array(rows, np.float32)


def shares(pipeline: FacePipeline, paths: list[Path]) -> dict[str, float]:
    """Return the seconds a picture that decoding, detecting, aligning and embedding take."""
    start = time.perf_counter()
    images = [load_image(path) for path in paths]
    decoded = time.perf_counter()
    found = [pipeline.detector.detect(image) for image in images]
    detected = time.perf_counter()
    faces = [(image, max(some, key=lambda face: face.area)) for image, some in zip(images, found, strict=True) if some]
    crops = [align(image, face.landmarks) for image, face in faces]
    aligned = time.perf_counter()
    pipeline.encoder.embed(crops)
    ended = time.perf_counter()
    times = np.diff([start, decoded, detected, aligned, ended]) / len(paths)
    return dict(zip(("decode", "detect", "align", "embed"), times.tolist(), strict=True))


def eer(embeddings: NDArray[np.float32], paths: list[Path]) -> float:
    kept = np.flatnonzero(embeddings.any(axis=1))
    people = np.unique([paths[i].parent.name for i in kept], return_inverse=True)[1]
    return float(verify(embeddings[kept], people, replicates=0, worst=0).eer.eer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    pipeline = FacePipeline.from_pretrained("sface")
    full, same = YuNet(max_side=100_000), YuNet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = enlarge(options.photos, folder / "pictures", options.count, options.width)
        results: dict[str, NDArray[np.float32]] = {}

        def embed(workers: int) -> NDArray[np.float32]:
            out = folder / f"{workers}.npz"
            embed_paths([folder / "pictures"], out, EmbedSettings(), workers=workers)
            with np.load(out) as arrays:
                order = {name: row for row, name in enumerate(arrays["names"].tolist())}
                return arrays["embeddings"][[order[str(path)] for path in paths]]

        ways = {
            "plain loop, full size": lambda: plain_loop(pipeline, full, paths),
            "plain loop, 640": lambda: plain_loop(pipeline, same, paths),
            "pipeline": lambda: pipeline_rows(pipeline, paths),
            "coreface embed, 2 workers": lambda: embed(2),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                results[way] = run()
                times[way].append(time.perf_counter() - start)
        reference = results["plain loop, 640"]
        for way, taken in times.items():
            rows = results[way]
            both = rows.any(axis=1) & reference.any(axis=1)
            cosine = np.einsum("nd,nd->n", rows[both], reference[both])
            difference = np.abs(rows[both] - reference[both]).max()
            ratios = [a / b for a, b in zip(times["plain loop, full size"], taken, strict=True)]
            print(
                f"{way:28} {len(paths) / np.median(taken):6.1f} photographs/s, {min(ratios):.2f} to {max(ratios):.2f} "
                f"times the loop at full size; EER {100 * eer(rows, paths):.2f} %; to the loop at 640: smallest cosine "
                f"{cosine.min():.4f}, largest difference {difference:.1e}"
            )
        parts = shares(pipeline, paths)
        print("shares: " + ", ".join(f"{k} {1e3 * v:.1f} ms ({v / sum(parts.values()):.0%})" for k, v in parts.items()))


def pipeline_rows(pipeline: FacePipeline, paths: list[Path]) -> NDArray[np.float32]:
    found = pipeline.embed(paths, on_error="record")
    rows = np.zeros((len(paths), pipeline.encoder.embedding_size), np.float32)
    rows[found.indices] = found.embeddings
    return rows


if __name__ == "__main__":
    main()
