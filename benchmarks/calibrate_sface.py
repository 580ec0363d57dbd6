"""The calibration of sface with yunet that comes with coreface: numbers only, from photographs of people.

python benchmarks/calibrate_sface.py PHOTOS STRANGERS --kept FOLDER [--out FILE]

PHOTOS holds people with several photographs each (PHOTOS/<person>/<photograph>): genuine pairs. STRANGERS holds one
photograph each of other people: impostor pairs, and searches in a gallery of all the others. Photographs that show
somebody else than their folder says are listed, and left out of the genuine pairs, before anything is fitted: those
that match none of the person's other photographs at an FMR of 1 % while most of the others match each other. The error
rates are cross-validated over five folds of people.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from photograph_embeddings import Embedded, embed_folder

from coreface.evaluation.all_pairs import AllPairs
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.template_scores import Pooling, TemplateScores, score_templates
from coreface.recognition.calibration_files import SHIPPED
from coreface.recognition.pipeline import FacePipeline

FOLDS, TARGETS = 5, (1e-2, 1e-3, 1e-4)
WRONG_FMR = 1e-2


@dataclass(frozen=True, eq=False)
class Strangers:
    """The pairs of people with one photograph each, as a `PairSample` without genuine pairs."""

    pairs: AllPairs
    impostor_scores: NDArray[np.float32]

    @property
    def identities(self) -> int:
        return self.pairs.identities

    @property
    def genuine_scores(self) -> NDArray[np.float32]:
        return np.empty(0, np.float32)

    @property
    def genuine_identity(self) -> NDArray[np.int32]:
        return np.empty(0, np.int32)

    def impostor_identities(self, positions: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.pairs.impostor_identities(positions)

    def impostor_weights(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        return self.pairs.impostor_weights(weights)


def fit(genuine: NDArray[np.float32], strangers: NDArray[np.float32], people: Embedded | None = None) -> Calibrator:
    """Fit thresholds to genuine scores, to the embeddings of strangers, (n, D), and to templates of other people."""
    pairs = AllPairs(np.arange(len(strangers), dtype=np.int32))
    _, impostor = pairs.compare(strangers)
    scores = strangers @ strangers.T
    np.fill_diagonal(scores, -1)
    return Calibrator.fit(
        genuine,
        impostor,
        pairs=Strangers(pairs, impostor),
        non_mated=scores.max(axis=1),
        gallery=len(strangers) - 1,
        templates=None if people is None else templates(people, strangers),
    )


def templates(people: Embedded, strangers: NDArray[np.float32]) -> dict[Pooling, tuple[TemplateScores, ...]]:
    """Return the scores of templates of people, all other than the strangers, against the strangers."""
    names = np.array([f"stranger {number}" for number in range(len(strangers))])
    return score_templates(people.embeddings, people.people, strangers, names)


def wrong_photographs(photos: Embedded, threshold: float) -> list[int]:
    """Return the rows of photographs that match no other of their person, most of whom match each other."""
    wrong = []
    for person in np.unique(photos.people):
        rows = np.flatnonzero(photos.people == person)
        match = photos.embeddings[rows] @ photos.embeddings[rows].T >= threshold
        np.fill_diagonal(match, False)
        lonely = ~match.any(axis=1)
        others = match[~lonely][:, ~lonely]
        agree = len(others) > 1 and others.sum() / (len(others) * (len(others) - 1)) > 0.5
        if agree:
            wrong += rows[lonely].tolist()
    return wrong


def genuine_scores(embeddings: NDArray[np.float32], people: NDArray[np.str_]) -> NDArray[np.float32]:
    found = []
    for person in np.unique(people):
        rows = embeddings[people == person]
        found.append((rows @ rows.T)[np.triu_indices(len(rows), 1)])
    return np.concatenate(found)


def cross_validated(photos: Embedded, strangers: Embedded) -> list[dict[str, float]]:
    """Return FMR and FNMR at thresholds that were fitted to the other four folds of people."""
    people, rng = np.unique(photos.people), np.random.default_rng(0)
    person_fold = dict(zip(people.tolist(), rng.permutation(len(people)) % FOLDS, strict=True))
    fold_of = np.array([person_fold[person] for person in photos.people.tolist()])
    stranger_fold = rng.permutation(len(strangers.names)) % FOLDS
    counts = np.zeros((len(TARGETS), 4), np.int64)
    for fold in range(FOLDS):
        known, unknown = strangers.embeddings[stranger_fold != fold], strangers.embeddings[stranger_fold == fold]
        fitted = fit(genuine_scores(photos.embeddings[fold_of != fold], photos.people[fold_of != fold]), known)
        impostor = (unknown @ unknown.T)[np.triu_indices(len(unknown), 1)]
        genuine = genuine_scores(photos.embeddings[fold_of == fold], photos.people[fold_of == fold])
        for row, target in enumerate(TARGETS):
            threshold = fitted.threshold(target).threshold
            counts[row] += (
                np.count_nonzero(impostor >= threshold),
                len(impostor),
                np.count_nonzero(genuine < threshold),
                len(genuine),
            )
    return [
        {"target": target, "fmr": a / b, "false_matches": int(a), "fnmr": c / d, "false_non_matches": int(c)}
        for target, (a, b, c, d) in zip(TARGETS, counts.tolist(), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("strangers", type=Path)
    parser.add_argument("--kept", type=Path, required=True, help="folder where embeddings are kept")
    parser.add_argument("--out", type=Path, default=SHIPPED / "sface_yunet.json")
    options = parser.parse_args()
    pipeline = FacePipeline.from_pretrained("sface")
    photos = embed_folder(pipeline, options.photos, options.kept / "yunet_photos.npz")
    strangers = embed_folder(pipeline, options.strangers, options.kept / "yunet_strangers.npz")
    at = fit(np.ones(1, np.float32), strangers.embeddings).threshold(WRONG_FMR).threshold
    wrong = wrong_photographs(photos, at)
    print(f"{len(wrong)} photographs that show somebody else: {', '.join(photos.names[wrong].tolist())}")
    kept = np.setdiff1d(np.arange(len(photos.names)), wrong)
    right = Embedded(photos.names[kept], photos.embeddings[kept], photos.failures)
    genuine = genuine_scores(right.embeddings, right.people)
    calibrator = fit(genuine, strangers.embeddings, right)
    validated = cross_validated(right, strangers)
    least = 30 / calibrator.impostor.count
    about = {
        "contract": pipeline.contract,
        "impostors": f"{len(strangers.names)} people, one photograph of 250 x 250 pixels each; all their pairs",
        "templates": f"of 2, 5 and 10 photographs of the {len(np.unique(right.people))} people below, against all "
        f"{len(strangers.names)} of the impostors",
        "searches": f"each of them in a gallery of the {len(strangers.names) - 1} others",
        "genuine": f"{len(np.unique(right.people))} other people, {len(right.names)} photographs from the web, "
        f"{len(genuine)} pairs",
        "left_out": {
            "no face that can be used": len(photos.failures) + len(strangers.failures),
            "shows somebody else": photos.names[wrong].tolist(),
        },
        "cross_validation": {"folds": FOLDS, "rates": validated},
        "limits": [
            "The training data of sface are not stated: these people may be among them, which flatters.",
            "The impostors are celebrities on photographs of 250 x 250 pixels with a face in the middle: cameras at a "
            "door, children, relatives and people of one region make more false matches.",
            "Photographs that match no other of their person were left out, some of them perhaps rightly labelled: the "
            "true FNMR is higher.",
            f"{calibrator.impostor.count} impostor pairs: 30 false matches stand behind a decision down to an FMR of "
            f"{least:.1e}; at an FPIR of 1 % that carries a gallery of about {int(-np.log1p(-0.01) / least)} people.",
        ],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    calibrator.save(options.out, pipeline.contract_digest, about)
    for rate in validated:
        print("  ".join(f"{name} {value:.3g}" for name, value in rate.items()))
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
