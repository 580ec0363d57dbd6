"""Evaluation of a gallery on photographs of known and unknown people: promised and achieved error rates."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coreface.errors import DataError, UnknownPersonError
from coreface.evaluation.metrics.proportions import wilson
from coreface.recognition.gallery import Gallery
from coreface.recognition.gallery_answers import Answer
from coreface.recognition.gallery_folder import list_people

_BATCH = 32  # photographs that are searched together


@dataclass(frozen=True)
class GalleryEvaluation:
    """Error rates of a gallery. The largest face of each photograph is searched for.

    Attributes:
        fpir: the requested false positive identification rate.
        threshold: a cosine.
        gallery_size: as of `Answer`.
        promised: the FPIR that the calibration predicts.
        promised_low: lower end of the 95 % prediction interval for as many searches; None if it is not known.
        promised_high: its upper end.
        non_mated: searches of people who are not in the gallery.
        false_positives: how many of them were identified as somebody.
        mated: searches of people who are in the gallery, those without a usable face included.
        false_negatives: how many of them were not identified, or as somebody else.
        without_face: photographs without a usable face.
    """

    fpir: float
    threshold: float | None
    gallery_size: int
    promised: float | None
    promised_low: float | None
    promised_high: float | None
    non_mated: int
    false_positives: int
    mated: int
    false_negatives: int
    without_face: int

    @property
    def achieved_fpir(self) -> float | None:
        """Share of non-mated searches that were identified as somebody; None without such searches."""
        return self.false_positives / self.non_mated if self.non_mated else None

    @property
    def achieved_fnir(self) -> float | None:
        """Share of mated searches that did not find their person; None without such searches."""
        return self.false_negatives / self.mated if self.mated else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and rates, with Wilson's 95 % intervals, as plain Python values."""
        fpir = wilson(self.achieved_fpir, self.non_mated) if self.achieved_fpir is not None else None
        fnir = wilson(self.achieved_fnir, self.mated) if self.achieved_fnir is not None else None
        rates = {"achieved_fpir": self.achieved_fpir, "achieved_fnir": self.achieved_fnir}
        return {**asdict(self), **rates, "achieved_fpir_interval": fpir, "achieved_fnir_interval": fnir}


def evaluate_gallery(
    gallery: Gallery, probes: Path, fpir: float = 0.01, progress: Callable[[int], None] | None = None
) -> GalleryEvaluation:
    """Search for the photographs of a folder of people, ``<probes>/<person>/<photograph>``.

    Folders named by the id of a person of the gallery contain mated searches, all others non-mated ones. Enrolled
    photographs would make the result too good: use others.

    Raises:
        DataError: there are no photographs, or the gallery is empty.
        Others as `Gallery.identify`.
    """
    found = list_people(probes)
    photographs = [(person, path) for person, paths in found.people.items() for path in paths]
    enrolled = {person: _is_enrolled(gallery, person) for person in found.people}
    counts = {"non_mated": 0, "false_positives": 0, "mated": 0, "false_negatives": 0, "without_face": 0}
    last: Answer | None = None
    for start in range(0, len(photographs), _BATCH):
        batch = photographs[start : start + _BATCH]
        for (person, _), answer in zip(batch, gallery.identify_many([p for _, p in batch], 1, fpir), strict=True):
            last = answer
            counts["without_face"] += answer.failure is not None
            if enrolled[person]:
                counts["mated"] += 1
                counts["false_negatives"] += answer.person != gallery.person(person).id
            elif answer.failure is None:
                counts["non_mated"] += 1
                counts["false_positives"] += answer.person is not None
        if progress:
            progress(start + len(batch))
    if last is None or last.gallery_size == 0:
        raise DataError(f"the gallery {gallery.store.name!r} is empty: enrol people first")
    at = last.calibrated
    interval = at.fpir_of(counts["non_mated"]) if at is not None and counts["non_mated"] else None
    low, high = interval or (None, None)
    promised = None if at is None else at.fpir
    return GalleryEvaluation(fpir, last.threshold, last.gallery_size, promised, low, high, **counts)


def _is_enrolled(gallery: Gallery, person: str) -> bool:
    try:
        gallery.person(person)
    except UnknownPersonError:
        return False
    return True
