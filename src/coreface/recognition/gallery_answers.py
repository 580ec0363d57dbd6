"""Results of searches in a gallery: candidates, decisions, and their basis."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from coreface.errors import CoreFaceError
from coreface.evaluation.calibrated_threshold import CalibratedThreshold, Standing
from coreface.recognition.detection import Face

Outcome: TypeAlias = Literal["person", "unknown", "undecidable"]


@dataclass(frozen=True)
class Candidate:
    """A person who resembles a face.

    Attributes:
        person: the id of the person.
        name: the display name.
        score: cosine to the person: to the pooled template, or to the best of the templates.
        fpir: share of searches of unknown people that score as high in a gallery of this size, estimated from the
            impostor pairs of the calibration; 0 if none of them did; None without a calibration.
    """

    person: str
    name: str
    score: float
    fpir: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True)
class FaceAnswer:
    """The answer for one face.

    Attributes:
        decision: ``person``, ``unknown``, or ``undecidable`` if the calibration is too small for the requested rate.
        person: the id of the person, if the decision is ``person``.
        candidates: the most similar people, the best first. The first is not the decision if another face of the
            photograph resembles that person more.
        face: the place of the face; None for an embedding.
    """

    decision: Outcome
    person: str | None
    candidates: tuple[Candidate, ...]
    face: Face | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {
            "decision": self.decision,
            "person": self.person,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "face": None if self.face is None else self.face.to_dict(),
        }


@dataclass(frozen=True)
class Answer:
    """The people in a photograph.

    Attributes:
        faces: an answer for each face, the largest face first; empty if there is no usable one.
        fpir: the requested false positive identification rate.
        threshold: a cosine; a face is identified if its score is not below it. None if there is none.
        derived: the origin of the threshold: ``independence`` (pairs of the calibration, as 1 - (1 - FMR)^N),
            ``templates`` (likewise, of pooled images),
            ``searches`` (of the calibration in a gallery of a comparable size), ``given``, or ``empty gallery``.
        calibrated: all that is known about the threshold; None if it was given, or the gallery is empty.
        gallery_size: the size that determines the threshold: people with ``mean`` pooling, templates with ``best``.
        failure: why there is no face.
    """

    faces: tuple[FaceAnswer, ...]
    fpir: float
    threshold: float | None
    derived: str
    calibrated: CalibratedThreshold | None
    gallery_size: int
    failure: CoreFaceError | None = field(default=None, compare=False)

    @property
    def decision(self) -> Outcome:
        """The decision for the largest face; ``undecidable`` if there is none."""
        return self.faces[0].decision if self.faces else "undecidable"

    @property
    def person(self) -> str | None:
        """The person of the largest face, if identified."""
        return self.faces[0].person if self.faces else None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates for the largest face."""
        return self.faces[0].candidates if self.faces else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {
            "decision": self.decision,
            "person": self.person,
            "faces": [face.to_dict() for face in self.faces],
            "fpir": self.fpir,
            "threshold": self.threshold,
            "derived": self.derived,
            "calibrated": None if self.calibrated is None else self.calibrated.to_dict(),
            "gallery_size": self.gallery_size,
            "failure": None if self.failure is None else str(self.failure),
        }


@dataclass(frozen=True)
class PersonDecision:
    """Whether a photograph shows a person of the gallery.

    Attributes:
        match: True or False; None if the calibration is too small for the requested rate.
        person: the id of the person.
        score: cosine to the pooled template, or to the best of the templates.
        threshold: scores not below it match; None if there is none.
        fmr: the expected rate of false matches there; None if the threshold was given.
        fmr_low: lower end of its 95 % interval; None if it is not known.
        fmr_high: its upper end.
        standing: as of `Decision`.
        face: the face in the photograph; None for an embedding.
    """

    match: bool | None
    person: str
    score: float
    threshold: float | None
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    standing: Standing | Literal["given"]
    face: Face | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {**vars(self), "face": None if self.face is None else self.face.to_dict()}
