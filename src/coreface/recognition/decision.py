"""Decisions about two faces: what was decided, at which threshold, and what that rests on."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from coreface.errors import InputError
from coreface.evaluation.calibrated_threshold import CalibratedThreshold, Standing
from coreface.recognition.detection import Face

Basis: TypeAlias = Standing | Literal["given"]


@dataclass(frozen=True, eq=False)
class Decision:
    """Whether two photographs show the same person.

    Attributes:
        match: True or False; None if the calibration is too small for the requested rate.
        score: cosine of the two embeddings.
        threshold: the photographs match if the score is not below it; None if there is none.
        fmr: the calibration's rate of false matches at the threshold; None if a threshold was given.
        fmr_low: lower end of its 95 % interval; None if the calibration had no identities.
        fmr_high: its upper end.
        standing: the basis of the decision: ``solid``, 30 or more false matches in the calibration; ``marked``, 3 to
            29; ``undecidable``, fewer; ``given``, a threshold chosen by the caller.
        faces: the face in each photograph.
    """

    match: bool | None
    score: float
    threshold: float | None
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    standing: Basis
    faces: tuple[Face, Face]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        plain = {name: value for name, value in vars(self).items() if name != "faces"}
        return {**plain, "faces": [face.to_dict() for face in self.faces]}


@dataclass(frozen=True)
class DecisionAt:
    """Where decisions are made, before there is a score.

    Attributes:
        threshold: a cosine; None where the calibration does not resolve the requested rate.
        fmr: as of `Decision`.
        fmr_low: as of `Decision`.
        fmr_high: as of `Decision`.
        standing: as of `Decision`.
    """

    threshold: float | None
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    standing: Basis

    @classmethod
    def given(cls, threshold: float) -> "DecisionAt":
        """Decide at a cosine; raise `InputError` where it is none."""
        if not -1 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}, expected a cosine from -1 to 1")
        return cls(threshold, None, None, None, "given")

    @classmethod
    def calibrated(cls, at: CalibratedThreshold) -> "DecisionAt":
        """Decide where a calibration says."""
        return cls(at.threshold, at.fmr, at.fmr_low, at.fmr_high, at.standing)

    def decide(self, score: float, faces: tuple[Face, Face]) -> Decision:
        """Decide about two faces of this cosine."""
        match = None if self.threshold is None or self.standing == "undecidable" else score >= self.threshold
        return Decision(match, score, self.threshold, self.fmr, self.fmr_low, self.fmr_high, self.standing, faces)
