"""`/v1`: detect, verify, embed, info."""

import asyncio

from fastapi import APIRouter, Depends, Request

from coreface.errors import ModelError
from coreface.serving.about import InfoResponse, score_fmr, service_info
from coreface.serving.engine import FaceEngine, Photograph
from coreface.serving.messages import (
    SCORE_DIGITS,
    WITH_IMAGES,
    DetectRequest,
    DetectResponse,
    EmbedRequest,
    EmbedResponse,
    PhotographMessage,
    VerifyRequest,
    VerifyResponse,
    body_of,
    documented,
)
from coreface.serving.problems import Problem
from coreface.serving.reading import read_message
from coreface.serving.service import Needs, role_of, service_of

faces = APIRouter(prefix="/v1", tags=["faces"], dependencies=[Depends(Needs("read"))])
embeddings = APIRouter(prefix="/v1", tags=["faces"], dependencies=[Depends(Needs("admin"))])


@faces.get("/info", responses=documented())
async def info(request: Request) -> InfoResponse:
    """The model, its calibration with the distributions of scores, the limits."""
    service = service_of(request)
    return service_info(service.pipeline, service.settings, role_of(request))


@faces.post("/detect", responses=documented(*WITH_IMAGES), openapi_extra=body_of(DetectRequest))
async def detect(request: Request) -> DetectResponse:
    """All faces of a photograph, the most confident first; may be empty."""
    service = service_of(request)
    message = await read_message(request, DetectRequest, service.settings.limits)
    return DetectResponse.of(await service.engine.detect(message.image, "image"))


@faces.post("/verify", responses=documented(*WITH_IMAGES), openapi_extra=body_of(VerifyRequest))
async def verify(request: Request) -> VerifyResponse:
    """Whether two photographs show the same person, at a calibrated false match rate or a given threshold."""
    service = service_of(request)
    message = await read_message(request, VerifyRequest, service.settings.limits)
    pipeline, engine = service.pipeline, service.engine
    try:
        at = pipeline.decision_at(1e-3 if message.fmr is None else message.fmr, message.threshold)
    except ModelError:
        raise Problem("no-calibration", "the service has no calibration: give a threshold", field="threshold") from None
    found = await _both(engine, message)
    crops = [photograph.crops[0] for photograph in found]
    a, b = await engine.embed(crops)
    decision = at.decide(float(a @ b), (crops[0].face, crops[1].face))
    photographs = [PhotographMessage.of(photograph, photograph.crops[0]) for photograph in found]
    return VerifyResponse.of(
        decision, score_fmr(pipeline.calibration, round(decision.score, SCORE_DIGITS)), photographs
    )


@embeddings.post("/embed", responses=documented(*WITH_IMAGES), openapi_extra=body_of(EmbedRequest))
async def embed(request: Request) -> EmbedResponse:
    """The embedding of a face. This is biometric data: the service must be started with --allow-embeddings."""
    service = service_of(request)
    message = await read_message(request, EmbedRequest, service.settings.limits)
    found = await service.engine.crops(message.image, "image", message.face)
    rows = await service.engine.embed(list(found.crops))
    return EmbedResponse(
        embedding=rows[0].tolist(),
        contract=service.pipeline.contract_digest,
        photograph=PhotographMessage.of(found, found.crops[0]),
    )


async def _both(engine: FaceEngine, message: VerifyRequest) -> list[Photograph]:
    """Process both photographs concurrently; if both fail, the error is that of the first."""
    work = engine.crops(message.a, "a", message.face), engine.crops(message.b, "b", message.face)
    found = await asyncio.gather(*work, return_exceptions=True)
    photographs = []
    for photograph in found:
        if isinstance(photograph, BaseException):
            raise photograph
        photographs.append(photograph)
    return photographs
