"""FPIR promised and achieved in galleries of several sizes, from embeddings that `calibrate_sface.py` has kept.

python benchmarks/gallery_promise.py KEPT [--splits 20] [--seed 0]

In every split strangers and people of the photos are divided without overlap: 1 000 strangers and 40 people calibrate,
others fill the gallery, 1 000 strangers are unknown and searched for. People of the photos have one or five
photographs in the gallery, pooled by each rule, and their other photographs are the mated searches; there are at most
60 of them, so that larger galleries are filled up with strangers of one photograph each. The constant 0.363, which
users of SFace take, stands beside the calibrated thresholds. `interval` counts the splits whose FPIR lies in the 95 %
prediction interval.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from calibrate_sface import Embedded, fit, genuine_scores

from coreface.evaluation.gallery_calibration import threshold_of_templates
from coreface.evaluation.template_scores import Pooling
from coreface.recognition.gallery_matrix import TemplateMatrix

ASKED, SIZES, UNKNOWN, CALIBRATING = (0.1, 0.05, 0.01), (30, 300, 1030), 1000, 40
KINDS: tuple[tuple[int, Pooling], ...] = ((1, "mean"), (5, "mean"), (5, "best"))
CONSTANT = 0.363


def read(path: Path) -> Embedded:
    with np.load(path) as arrays:
        return Embedded(arrays["names"], arrays["embeddings"], {})


def best_hits(matrix: TemplateMatrix, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most similar person, and the score, of each probe."""
    hits = [found[0] for found in matrix.search(probes, 1)]
    return np.array([person for person, _ in hits]), np.array([score for _, score in hits])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first split; each further one has the next")
    options = parser.parse_args()
    photos, strangers = read(options.kept / "yunet_photos.npz"), read(options.kept / "yunet_strangers.npz")
    people = np.unique(photos.people)
    found: dict[tuple[int, str, float], list[tuple[float, float, bool]]] = defaultdict(list)
    for split in range(options.splits):
        rng = np.random.default_rng(options.seed + split)
        order, persons = rng.permutation(len(strangers.names)), rng.permutation(people)
        known, unknown = strangers.embeddings[order[:1000]], strangers.embeddings[order[1000 : 1000 + UNKNOWN]]
        fitting = np.isin(photos.people, persons[:CALIBRATING])
        fitted = Embedded(photos.names[fitting], photos.embeddings[fitting], {})
        calibrator = fit(genuine_scores(fitted.embeddings, fitted.people), known, fitted)
        shuffled = {
            number: photos.embeddings[rng.permutation(np.flatnonzero(photos.people == person))]
            for number, person in enumerate(persons[CALIBRATING:].tolist())
        }
        fillers = strangers.embeddings[order[1000 + UNKNOWN :]]
        for size in SIZES:
            for images, pooling in KINDS:
                enrolled = {number: shuffled[number][:images] for number in list(shuffled)[:size]}
                mated = [(number, row) for number in enrolled for row in shuffled[number][images:]]
                enrolled |= {1000 + k: row[None] for k, row in enumerate(fillers[: size - len(enrolled)])}
                owners = np.repeat(list(enrolled), [len(rows) for rows in enrolled.values()])
                matrix = TemplateMatrix(strangers.embeddings.shape[1], pooling)
                matrix.replace(np.array([], np.int64), owners, np.concatenate(list(enrolled.values())))
                _, alarms = best_hits(matrix, unknown)
                person, score = best_hits(matrix, np.array([row for _, row in mated]))
                right = person == [number for number, _ in mated]
                for asked in (*ASKED, CONSTANT):
                    at = (
                        None if asked == CONSTANT else threshold_of_templates(calibrator, matrix.images, pooling, asked)
                    )
                    threshold = CONSTANT if at is None else at.threshold
                    if threshold is None:
                        continue
                    fpir, fnir = float((alarms >= threshold).mean()), 1 - float((right & (score >= threshold)).mean())
                    interval = None if at is None else at.fpir_of(UNKNOWN)
                    inside = interval is not None and interval[0] <= fpir <= interval[1]
                    found[size, f"{images} {pooling}", asked].append((fpir, fnir, inside))
    heads = ("people", "images", "asked", "FPIR", "spread", "lowest", "highest", "FNIR", "spread", "interval")
    print(" ".join(f"{head:>8}" for head in heads))
    for (size, kind, asked), rows in found.items():
        fpir, fnir, inside = (np.array(column) for column in zip(*rows, strict=True))
        name = f"T={CONSTANT}" if asked == CONSTANT else f"{100 * asked:g} %"
        figures = (fpir.mean(), fpir.std(), fpir.min(), fpir.max(), fnir.mean(), fnir.std())
        numbers = " ".join(f"{100 * figure:7.2f}%" for figure in figures)
        kept = "" if asked == CONSTANT else f"{inside.sum()} of {len(inside)}"
        print(f"{size:8} {kind:>8} {name:>8} {numbers} {kept:>8}")


if __name__ == "__main__":
    main()
