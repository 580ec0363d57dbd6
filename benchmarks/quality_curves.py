"""Error-versus-discard curves of every measure of quality: on photographs as they are, and on graded damage.

python benchmarks/quality_curves.py PHOTOS --model sface [--model RUN] --kept FOLDER [--alignment arcface]

PHOTOS holds people with several photographs each (PHOTOS/<person>/<photograph>). The second set is made of those that
match at least one other of their person, where most of the others match each other, at the threshold for an FMR of 1 %
(the others show somebody else, and no quality tells that). Each gets one kind of damage, by its number, of one of four
levels, the first of which is none:

  blur      Gaussian, of a width of 0, 3, 6 and 12 % of the distance between the eyes
  shrink    to 40, 24, 16 and 10 pixels between the eyes
  dark      all grey levels times 1, 0.4, 0.2 and 0.1, then noise of 2 grey levels
  rotate    in the picture by 0, 15, 30 and 45 degrees

The set of graded photographs and all embeddings are kept in FOLDER. Every combination of a set and a model is measured
by `coreface evaluate MODEL --quality`; what limits would do is counted at the same fixed threshold.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from calibrate_sface import WRONG_FMR, wrong_photographs
from numpy.typing import NDArray
from photograph_embeddings import embed_folder

from coreface.evaluation.all_pairs import AllPairs, unit_rows
from coreface.evaluation.metrics.scores import conservative_threshold
from coreface.images.load import load_image
from coreface.recognition.pipeline import FacePipeline
from coreface.recognition.quality import LIMITS, Quality
from coreface.recognition.quality_evaluation import MeasuredFaces, QualityOfPhotographs
from coreface.reports.tables import print_result
from coreface.runs.evaluation import open_source

LEVELS = 4
BLUR, EYES, LIGHT, DEGREES = (0, 0.03, 0.06, 0.12), (40, 24, 16, 10), (1, 0.4, 0.2, 0.1), (0, 15, 30, 45)
NOISE = 2.0
KINDS = ("blur", "shrink", "dark", "rotate")


def damaged(image: NDArray[np.uint8], eyes: float, kind: str, level: int, seed: int) -> NDArray[np.uint8]:
    """Return a photograph, uint8 RGB, with one kind of damage; ``eyes`` is the distance between the eyes in pixels."""
    height, width = image.shape[:2]
    if kind == "blur":
        sigma = BLUR[level] * eyes
        return image if sigma == 0 else np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if kind == "shrink":
        factor = min(1.0, EYES[level] / eyes)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    if kind == "dark":
        if level == 0:
            return image
        noise = np.random.default_rng(seed).normal(0, NOISE, image.shape)
        return (image * LIGHT[level] + noise).round().clip(0, 255).astype(np.uint8)
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), DEGREES[level], 1)
    side = int(np.ceil(np.hypot(width, height)))  # nothing is cut off
    turn[:, 2] += (side - width) / 2, (side - height) / 2
    turned = cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(turned if level else image, np.uint8)


def make_graded(photos: Path, names: Sequence[str], target: Path, pipeline: FacePipeline) -> None:
    """Write one damaged version of each photograph, without loss."""
    for number, name in enumerate(names):
        path = target / Path(name).with_suffix(".png")
        if path.is_file():
            continue
        image = load_image(photos / name)
        face = max(pipeline.detector.detect(image), key=lambda face: face.area)
        # Both digits of the number: every kind meets every level, in every person.
        kind, level = KINDS[number % LEVELS], number // LEVELS % LEVELS
        changed = damaged(image, face.eye_distance or 1.0, kind, level, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part.png")
        cv2.imwrite(str(temporary), cv2.cvtColor(changed, cv2.COLOR_RGB2BGR))
        temporary.replace(path)


def correct_photographs(photos: Path, kept: Path, pipeline: FacePipeline) -> list[str]:
    """Return the photographs that show whom their folder says, as far as sface can tell."""
    found = embed_folder(pipeline, photos, kept / "correct.npz")
    same = found.people[:, None] == found.people
    impostor = (found.embeddings @ found.embeddings.T)[~same]
    threshold = conservative_threshold(impostor, WRONG_FMR)
    if threshold is None:
        print(f"{len(impostor)} impostor scores: too few to tell who shows somebody else")
        return found.names.tolist()
    wrong = set(wrong_photographs(found, float(threshold)))
    return [name for row, name in enumerate(found.names.tolist()) if row not in wrong]


def print_limits(faces: MeasuredFaces, people: NDArray[np.int64], threshold: float) -> None:
    """Print what each of the named limits refuses, and the FNMR of what is left, at the threshold of all pairs."""
    pairs = AllPairs(np.unique(people, return_inverse=True)[1].astype(np.int32))
    scores, _ = pairs.compare(unit_rows(faces.embeddings))
    first, second = pairs.genuine_images()
    print("  limits     refused    FNMR of the pairs that are left, at the threshold of all pairs")
    for name, limits in LIMITS.items():
        good = np.array([not limits.reasons(quality) for quality in faces.qualities])
        left = good[first] & good[second]
        errors = np.count_nonzero(scores[left] < threshold)
        rate = f"{100 * errors / left.sum():.2f} %" if left.any() else "no pair"
        print(f"  {name:9}  {100 * (1 - good.mean()):5.1f} %    {rate} ({errors} of {left.sum()})")


def print_quantiles(qualities: Sequence[Quality]) -> None:
    """Print the quantiles of each measure, from which limits are chosen."""
    shares = (0.01, 0.02, 0.05, 0.1, 0.5, 0.9, 0.95, 0.98, 0.99)
    print("  quantiles  " + "".join(f"{100 * share:8g} %" for share in shares))
    for name in Quality().to_dict():
        values = [value for value in (getattr(quality, name) for quality in qualities) if value is not None]
        if values:
            print(f"  {name:10} " + "".join(f"{value:10.3f}" for value in np.quantile(values, shares)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", action="append", help="an encoder; may be given again (default: sface)")
    parser.add_argument("--alignment", help="of encoders that do not record theirs")
    parser.add_argument("--kept", type=Path, required=True, help="folder where photographs and embeddings are kept")
    parser.add_argument("--replicates", type=int, default=1000)
    text = "of the threshold; may be given again (default: 1 %%, or 10 %% with few people)"
    parser.add_argument("--fmr", type=float, action="append", help=text)
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    pipeline = FacePipeline.from_pretrained("sface")
    graded = options.kept / "graded"
    correct = correct_photographs(options.photos, options.kept, pipeline)
    make_graded(options.photos, correct, graded, pipeline)
    print(f"{len(correct)} photographs are damaged for the second set")
    for place in (options.photos, graded):
        for model in options.model or ["sface"]:
            source = open_source(model, cache=options.kept / "cache")
            own = None if source.encoder is None or source.encoder.preprocessing.alignment.known else options.alignment
            chosen = {"alignment": own, "replicates": options.replicates}
            faces = QualityOfPhotographs(place, **chosen).measure(source)
            print(f"\n{'as they are' if place == options.photos else 'graded damage'}, {model}")
            print(f"  {len(faces.unreadable)} photographs without a face")
            for fmr in options.fmr or [None]:
                protocol = QualityOfPhotographs(place, fmr=fmr, **chosen)
                result = protocol.result(faces, source.provenance)
                print_result(result)
                people = protocol.faces.identities[list(faces.numbers)]
                print_limits(faces, people, result.quality.threshold)
            if model == (options.model or ["sface"])[0]:
                print_quantiles(faces.qualities)


if __name__ == "__main__":
    main()
