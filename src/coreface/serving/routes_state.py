"""Health, readiness and metrics of the service."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from coreface.serving.messages import documented
from coreface.serving.metrics import MEDIA_TYPE
from coreface.serving.service import service_of

state = APIRouter(tags=["state"])


class StateResponse(BaseModel):
    status: str


@state.get("/healthz", responses=documented())
async def healthz() -> StateResponse:
    """The process is alive."""
    return StateResponse(status="ok")


@state.get("/readyz", responses=documented())
async def readyz(request: Request) -> StateResponse:
    """The model is loaded, and the gallery can be read."""
    service = service_of(request)
    if service.gallery is not None:
        await service.engine.in_thread(service.gallery.info)
    return StateResponse(status="ready")


@state.get("/metrics", responses=documented(), response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type=MEDIA_TYPE)
