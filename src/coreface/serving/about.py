"""Description of the service: the model, its calibration, the limits, and what it does not do."""

from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from coreface._version import __version__
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.effective_pairs import FMRS
from coreface.models.known import KNOWN
from coreface.recognition.pipeline import FacePipeline
from coreface.serving.settings import Settings

_BINS = 100
_NOT_DONE = (
    "There is no liveness check: a photograph of a photograph passes as the person.",
    "Relatives, and people unlike those of the calibration, produce more false matches than the rates here.",
)


class ThresholdMessage(BaseModel):
    target: float
    threshold: float | None
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    fnmr: float | None
    standing: str


class DistributionMessage(BaseModel):
    """Shares of scores in the bins between these edges."""

    edges: list[float]
    genuine: list[float] = Field(description="pairs of one person")
    impostor: list[float] = Field(description="pairs of different people")


class CalibrationMessage(BaseModel):
    identities: int = Field(description="people; 0 where that is not recorded")
    genuine_pairs: int
    impostor_pairs: int
    thresholds: list[ThresholdMessage]
    scores: DistributionMessage


class ModelMessage(BaseModel):
    name: str
    contract: str = Field(description="digest of all that decides a score")
    embedding_size: int
    detector: str
    licence: str | None
    training_data: str | None
    note: str | None


class LimitsMessage(BaseModel):
    image_bytes: int
    image_pixels: int
    images: int
    request_bytes: int
    seconds: float
    min_eyes: float = Field(description="pixels between the eyes of the smallest face that is used")


class InfoResponse(BaseModel):
    version: str
    gallery: bool = Field(description="whether people can be enrolled and identified")
    model: ModelMessage
    calibration: CalibrationMessage | None
    no_calibration: str | None = Field(description="why there is none")
    limits: LimitsMessage
    role: str = Field(description="of the key that asked; admin where the service has no keys")
    embeddings: bool = Field(description="whether POST /v1/embed answers")
    not_done: list[str]


def service_info(pipeline: FacePipeline, settings: Settings, role: str) -> InfoResponse:
    """Return the answer of `GET /v1/info`."""
    known = KNOWN.get(settings.model)
    limits = settings.limits
    return InfoResponse(
        version=__version__,
        gallery=settings.gallery is not None,
        model=ModelMessage(
            name=settings.model.rstrip("/").rsplit("/", 1)[-1],  # without the path on this machine
            contract=pipeline.contract_digest,
            embedding_size=pipeline.encoder.embedding_size,
            detector=str(pipeline.detector.contract["name"]),
            licence=known.licence if known else None,
            training_data=known.training_data if known else None,
            note=known.note or None if known else None,
        ),
        calibration=None if pipeline.calibration is None else _calibration(pipeline.calibration),
        no_calibration=None if pipeline.calibration is not None else "there is no calibration for this pipeline",
        limits=LimitsMessage(
            **{name: getattr(limits, name) for name in LimitsMessage.model_fields if hasattr(limits, name)},
            min_eyes=pipeline.cropper.min_eyes,
        ),
        role=role,
        embeddings=settings.allow_embeddings,
        not_done=list(_NOT_DONE),
    )


def score_fmr(calibration: Calibrator | None, score: float) -> float | None:
    """Return the share of the calibration's impostor pairs with a score at least as high."""
    return None if calibration is None else float(calibration.fmr(np.array([score]))[0])


def _calibration(calibration: Calibrator) -> CalibrationMessage:
    thresholds = [calibration.threshold(fmr).to_dict() for fmr in FMRS]
    return CalibrationMessage(
        identities=calibration.identities,
        genuine_pairs=calibration.genuine.count,
        impostor_pairs=calibration.impostor.count,
        thresholds=[
            ThresholdMessage(**{name: row[name] for name in ThresholdMessage.model_fields}) for row in thresholds
        ],
        scores=_distribution(calibration),
    )


def _distribution(calibration: Calibrator) -> DistributionMessage:
    edges: Any = np.linspace(-1, 1, _BINS + 1)
    shares = []
    for tail in (calibration.genuine, calibration.impostor):
        reached = tail.reached(edges) / tail.count
        reached[0] = 1.0  # includes the cosine -1
        reached[-1] = 0.0  # and the cosine 1, in the last bin
        shares.append((reached[:-1] - reached[1:]).round(6).tolist())
    return DistributionMessage(edges=edges.round(6).tolist(), genuine=shares[0], impostor=shares[1])
