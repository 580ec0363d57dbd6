"""Schemas of requests and answers about the people of a gallery."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coreface.recognition.gallery_answers import Answer, Candidate, FaceAnswer
from coreface.recognition.gallery_records import Enrolment, Person, Refusal, Template
from coreface.serving.engine import Photograph
from coreface.serving.messages import SCORE_DIGITS, Cosine, FaceMessage, ImageBytes, Rate, RequestMessage


def _object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)  # a field of a form
    except (ValueError, RecursionError) as error:
        raise ValueError("expected a JSON object") from error


Metadata: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_object)]


class IdentifyRequest(RequestMessage):
    image: ImageBytes
    top: int = Field(5, ge=1, le=50, description="Candidates for each face.")
    fpir: Rate | None = Field(None, description="False positive identification rate; 0.01 if no threshold is given.")
    threshold: Cosine | None = Field(None, description="Decide at this cosine instead of a calibrated threshold.")
    face: Literal["largest", "centre", "only", "all"] = Field("all", description="Which faces are meant.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "IdentifyRequest":
        if self.fpir is not None and self.threshold is not None:
            raise ValueError("give fpir or threshold, not both")
        return self


class ImagesRequest(RequestMessage):
    images: list[ImageBytes] = Field(min_length=1)
    allow_similar: bool = Field(False, description="Enrol somebody who resembles another person of the gallery.")


class NewPersonRequest(ImagesRequest):
    id: str = Field(min_length=1, max_length=200, description="Yours; it addresses the person.")
    name: str | None = Field(None, min_length=1, max_length=500, description="For people to read.")
    metadata: Metadata | None = None
    retain_until: AwareDatetime | None = Field(None, description="When `coreface gallery purge` deletes the person.")


class ChangeRequest(RequestMessage):
    """Fields that are not given stay."""

    name: str = Field("", min_length=1, max_length=500)
    metadata: Metadata = Field(default_factory=dict)
    retain_until: AwareDatetime | None = None


class PersonMessage(BaseModel):
    id: str
    name: str
    metadata: dict[str, Any]
    created: datetime
    updated: datetime
    retain_until: datetime | None
    images: int = Field(description="how many are enrolled")

    @classmethod
    def of(cls, person: Person) -> "PersonMessage":
        fields = {name: getattr(person, name) for name in cls.model_fields if name != "images"}
        return cls(**fields, images=person.templates)


class ImageMessage(BaseModel):
    id: str
    created: datetime
    flagged: bool = Field(description="it did not resemble the person's other images when it was enrolled")

    @classmethod
    def of(cls, template: Template) -> "ImageMessage":
        return cls(id=template.id, created=template.created, flagged=template.flagged)


class PersonWithImages(BaseModel):
    person: PersonMessage
    images: list[ImageMessage]


class PeopleResponse(BaseModel):
    people: list[PersonMessage]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class CandidateMessage(BaseModel):
    person: str
    name: str
    score: float
    fpir: float | None = Field(description="share of searches of unknown people that score as high, estimated")

    @classmethod
    def of(cls, candidate: Candidate) -> "CandidateMessage":
        # Two digits of the rate: more would reveal the score beyond its rounding.
        fpir = None if candidate.fpir is None else float(f"{candidate.fpir:.1e}")
        score = round(candidate.score, SCORE_DIGITS)
        return cls(person=candidate.person, name=candidate.name, score=score, fpir=fpir)


class RefusalMessage(BaseModel):
    index: int = Field(description="number of the image in the request, from 0")
    code: str
    message: str

    @classmethod
    def of(cls, refusal: Refusal) -> "RefusalMessage":
        return cls(index=refusal.index, code=refusal.reason.replace(" ", "-"), message=refusal.message)


class EnrolmentResponse(BaseModel):
    person: PersonMessage
    images: list[str] = Field(description="ids of the images that were enrolled")
    known: list[int] = Field(description="numbers of images that had been enrolled before")
    flagged: list[int] = Field(description="numbers of images that do not resemble the person's others")
    refused: list[RefusalMessage]
    similar: list[CandidateMessage] = Field(description="other people whom the images resemble")
    checked: bool = Field(description="whether resemblance to others was checked: a calibration is needed")

    @classmethod
    def of(cls, person: Person, enrolment: Enrolment) -> "EnrolmentResponse":
        return cls(
            person=PersonMessage.of(person),
            images=list(enrolment.templates),
            known=list(enrolment.known),
            flagged=list(enrolment.flagged),
            refused=[RefusalMessage.of(refusal) for refusal in enrolment.refused],
            similar=[CandidateMessage.of(candidate) for candidate in enrolment.similar],
            checked=enrolment.checked,
        )


class FaceAnswerMessage(BaseModel):
    decision: Literal["person", "unknown", "undecidable"]
    person: str | None
    candidates: list[CandidateMessage]
    face: FaceMessage

    @classmethod
    def of(cls, answer: FaceAnswer) -> "FaceAnswerMessage":
        assert answer.face is not None
        return cls(
            decision=answer.decision,
            person=answer.person,
            candidates=[CandidateMessage.of(candidate) for candidate in answer.candidates],
            face=FaceMessage.of(answer.face),
        )


class IdentifyResponse(BaseModel):
    """The people in a photograph; the largest face first."""

    model_config = ConfigDict(title="IdentifyResponse")

    width: int
    height: int
    faces: list[FaceAnswerMessage]
    fpir: float | None = Field(description="the requested rate; null for a given threshold")
    threshold: float | None
    derived: str = Field(description="what the threshold comes from")
    standing: str | None = Field(
        description="what the decisions rest on; null for a given threshold or an empty gallery"
    )
    gallery_size: int = Field(description="people who were searched")

    @classmethod
    def of(cls, answer: Answer, found: Photograph) -> "IdentifyResponse":
        return cls(
            width=found.width,
            height=found.height,
            faces=[FaceAnswerMessage.of(face) for face in answer.faces],
            fpir=None if answer.derived == "given" else answer.fpir,
            threshold=answer.threshold,
            derived=answer.derived,
            standing=None if answer.calibrated is None else answer.calibrated.standing,
            gallery_size=answer.gallery_size,
        )
