"""From the scores of a search to decisions: the threshold for this gallery, and the assignment of people to faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coreface.errors import InputError
from coreface.evaluation.calibrated_threshold import CalibratedThreshold
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.gallery_calibration import expected_fpir, threshold_of_templates
from coreface.recognition.detection import Face
from coreface.recognition.gallery_answers import Candidate, FaceAnswer, Outcome
from coreface.recognition.gallery_matrix import Hits
from coreface.recognition.gallery_records import Person
from coreface.recognition.gallery_store import Found
from coreface.recognition.pipeline import FacePipeline


@dataclass(frozen=True)
class GalleryThreshold:
    """The threshold of a gallery of this size.

    Attributes:
        value: a cosine; None if nothing can be decided.
        derived: as `Answer.derived`.
        calibrated: what is known about it; None if it was given, or the gallery is empty.
    """

    value: float | None
    derived: str
    calibrated: CalibratedThreshold | None

    @property
    def decides(self) -> bool:
        """Whether decisions are possible: there is a threshold, or the gallery is empty."""
        return self.derived in ("given", "empty gallery") or (
            self.calibrated is not None and self.calibrated.standing != "undecidable"
        )


def gallery_threshold(pipeline: FacePipeline, found: Found, fpir: float, given: float | None) -> GalleryThreshold:
    """Return the threshold for a false positive identification rate in the gallery of a search.

    Raises:
        ModelError: the pipeline has no calibration, and no threshold was given.
        InputError: ``fpir`` is not between 0 and 1, or the threshold is not a cosine.
    """
    if given is not None:
        return GalleryThreshold(checked_cosine(given), "given", None)
    calibration = pipeline.require_calibration()
    # An invalid rate is an error in an empty gallery, too.
    at = threshold_of_templates(calibration, found.images or {1: 1}, found.record.pooling, fpir)
    if not found.images:
        return GalleryThreshold(None, "empty gallery", None)
    return GalleryThreshold(at.threshold, at.method, at)


def checked_cosine(threshold: float) -> float:
    """Return a threshold; raise `InputError` if it is not a cosine."""
    if not -1 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}, expected a cosine from -1 to 1")
    return float(threshold)


def candidates(
    hits: Hits, people: Mapping[int, Person], calibration: Calibrator | None, found: Found
) -> list[Candidate]:
    """Return hits with names, and with the share of unknown people whose score is as high."""
    rates: list[float | None] = [None] * len(hits)
    if calibration is not None and hits:
        scores = np.array([score for _, score in hits], np.float32)
        rates = expected_fpir(calibration, found.images, found.record.pooling, scores).tolist()
    return [
        Candidate(people[number].id, people[number].name, score, rate)
        for (number, score), rate in zip(hits, rates, strict=True)
    ]


def decide(
    found: Sequence[Sequence[Candidate]], faces: Sequence[Face | None], threshold: GalleryThreshold, top: int
) -> tuple[FaceAnswer, ...]:
    """Assign people to the faces of one photograph, each person at most once.

    Among all pairs of a face and a person that reach the threshold, the most similar pair is assigned first.
    """
    outcome: Outcome = "unknown" if threshold.decides else "undecidable"
    chosen: dict[int, str] = {}
    if threshold.decides and threshold.value is not None:
        pairs = [
            (-candidate.score, face, candidate.person)
            for face, row in enumerate(found)
            for candidate in row
            if candidate.score >= threshold.value
        ]
        for _, face, person in sorted(pairs):
            if face not in chosen and person not in chosen.values():
                chosen[face] = person
    return tuple(
        FaceAnswer("person" if number in chosen else outcome, chosen.get(number), tuple(row[:top]), face)
        for number, (row, face) in enumerate(zip(found, faces, strict=True))
    )
