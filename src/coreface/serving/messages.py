"""Schemas of requests and answers about photographs; the OpenAPI document is generated from them."""

import base64
import binascii
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from coreface.recognition.crops import Crop
from coreface.recognition.decision import Basis, Decision
from coreface.recognition.detection import Face
from coreface.serving.engine import Photograph

SCORE_DIGITS = 3  #: decimals of scores in answers; more would help to improve a forged image step by step


def _image_bytes(value: object) -> bytes:
    if isinstance(value, bytes):  # a part of a form
        return value
    if not isinstance(value, str):
        raise ValueError("an image is expected: a file of a form, or base64 in JSON")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the image is not base64; URLs and paths are not fetched") from error


ImageBytes: TypeAlias = Annotated[
    bytes,
    BeforeValidator(_image_bytes),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "An encoded image."}),
]
OneFace: TypeAlias = Literal["largest", "centre", "only"]
Rate: TypeAlias = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Cosine: TypeAlias = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class RequestMessage(BaseModel):
    """A request body. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class DetectRequest(RequestMessage):
    image: ImageBytes


class EmbedRequest(RequestMessage):
    image: ImageBytes
    face: OneFace = Field("largest", description="Which face of the photograph is meant.")


class VerifyRequest(RequestMessage):
    a: ImageBytes
    b: ImageBytes
    fmr: Rate | None = Field(None, description="Requested false match rate; 0.001 if no threshold is given.")
    threshold: Cosine | None = Field(None, description="Decide at this cosine instead of a calibrated threshold.")
    face: OneFace = Field("largest", description="Which face of each photograph is meant.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "VerifyRequest":
        if self.fmr is not None and self.threshold is not None:
            raise ValueError("give fmr or threshold, not both")
        return self


class FaceMessage(BaseModel):
    """A face, in pixels of the upright photograph."""

    box: Annotated[list[float], Field(min_length=4, max_length=4, description="left, top, right, bottom")]
    landmarks: list[list[float]] | None = Field(description="(x, y) of eyes, nose and corners of the mouth")
    score: float = Field(description="confidence of the detector, 0 to 1")

    @classmethod
    def of(cls, face: Face) -> "FaceMessage":
        return cls(**face.to_dict())


class DetectResponse(BaseModel):
    width: int = Field(description="pixels, after the EXIF orientation was applied")
    height: int
    faces: list[FaceMessage]

    @classmethod
    def of(cls, found: Photograph) -> "DetectResponse":
        return cls(width=found.width, height=found.height, faces=[FaceMessage.of(face) for face in found.faces])


class PhotographMessage(BaseModel):
    """The selected face of a photograph."""

    width: int
    height: int
    face: FaceMessage

    @classmethod
    def of(cls, found: Photograph, crop: Crop) -> "PhotographMessage":
        return cls(width=found.width, height=found.height, face=FaceMessage.of(crop.face))


class VerifyResponse(BaseModel):
    """Whether two photographs show the same person."""

    match: bool | None = Field(description="null where the calibration is too small for the requested rate")
    score: float = Field(description=f"cosine, rounded to {SCORE_DIGITS} decimals after the decision")
    threshold: float | None = Field(description="a match is a score not below it")
    fmr: float | None = Field(description="false match rate of the calibration there; null for a given threshold")
    fmr_low: float | None = Field(description="lower end of its 95 % interval")
    fmr_high: float | None = Field(description="upper end of its 95 % interval")
    standing: Basis = Field(description="what the decision rests on")
    score_fmr: float | None = Field(
        description="share of the calibration's pairs of different people that score as high; null without one"
    )
    photographs: list[PhotographMessage]

    @classmethod
    def of(cls, decision: Decision, score_fmr: float | None, photographs: list[PhotographMessage]) -> "VerifyResponse":
        fields = {name: value for name, value in vars(decision).items() if name not in ("faces", "score")}
        return cls(**fields, score=round(decision.score, SCORE_DIGITS), score_fmr=score_fmr, photographs=photographs)


class EmbedResponse(BaseModel):
    embedding: list[float] = Field(description="unit length")
    contract: str = Field(description="digest of all that decides a score; embeddings of others are not comparable")
    photograph: PhotographMessage


class FieldError(BaseModel):
    field: str
    message: str


class ProblemMessage(BaseModel):
    """An error as in RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:coreface:problem:no-face",
                "title": "No face was found",
                "status": 422,
                "code": "no-face",
                "detail": "no face was found",
                "request_id": "0f3e9f2c8f5b4d0c9f0b8f6f1f2a3b4c",
                "field": "a",
            }
        }
    )

    type: str
    title: str
    status: int
    code: str = Field(description="keeps its meaning from version to version")
    detail: str
    request_id: str
    field: str | None = None
    errors: list[FieldError] | None = None


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for the OpenAPI document: these, and those of every route."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemMessage"}}
    always = (401, 403, 408, 421, 429, 500, 503)
    return {
        status: {"description": "Error", "content": {"application/problem+json": schema}}
        for status in sorted({*statuses, *always})
    }


#: The errors of routes that take images.
WITH_IMAGES = (400, 413, 415, 422)


def body_of(message: type[RequestMessage]) -> dict[str, Any]:
    """Return the body of a route for the OpenAPI document: JSON with base64, or a form with files."""
    as_json = message.model_json_schema()
    as_form = {**as_json, "properties": {name: _in_form(part) for name, part in as_json["properties"].items()}}
    content = {"multipart/form-data": {"schema": as_form}, "application/json": {"schema": as_json}}
    return {"requestBody": {"required": True, "content": content}}


def _in_form(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("contentEncoding") == "base64":
        return {"type": "string", "format": "binary"}
    if "items" in schema:
        return {**schema, "items": _in_form(schema["items"])}
    return schema
