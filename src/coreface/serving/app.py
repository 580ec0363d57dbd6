"""The application: routes, and the middleware around them."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from coreface._version import __version__
from coreface.errors import CoreFaceError
from coreface.serving.access import AccessControl
from coreface.serving.envelope import Envelope
from coreface.serving.gate import Gate
from coreface.serving.messages import ProblemMessage
from coreface.serving.page import page
from coreface.serving.problems import Problem, problem_of
from coreface.serving.reading import invalid
from coreface.serving.routes_faces import embeddings, faces
from coreface.serving.routes_people import people
from coreface.serving.routes_state import state
from coreface.serving.service import Service

_DESCRIPTION = """Face verification at calibrated error rates. Errors are `application/problem+json` (RFC 9457) with a
stable `code`. Where the service has no keys, requests other than GET need the header `X-Coreface: 1`."""


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="coreface",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # the documentation pages of FastAPI load scripts from other servers
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    wanted = [state, faces, page]
    if service.settings.allow_embeddings:
        wanted.append(embeddings)
    if service.gallery is not None:
        wanted.append(people)
    for router in wanted:
        app.include_router(router)
    app.add_exception_handler(CoreFaceError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    # The last one is the outermost.
    app.add_middleware(PathsAsSent)
    app.add_middleware(Gate, settings=service.settings)
    app.add_middleware(AccessControl, settings=service.settings)
    app.add_middleware(Envelope, metrics=service.metrics, tls=service.settings.tls or service.settings.behind_proxy)
    _document(app)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CoreFaceError)
    problem = problem_of(error)
    if problem.code == "internal-error":
        raise error  # logged by the outermost middleware
    return problem.response(request.state.request_id)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()).response(request.state.request_id)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        problem = Problem("method-not-allowed", f"the address does not accept {request.method[:16]}")
        response = problem.response(request.state.request_id)
        response.headers["Allow"] = ", ".join(_methods_at(request))
        return response
    return Problem("not-found", "there is no such address").response(request.state.request_id)


class PathsAsSent:
    """Matches paths before percent-decoding, so that an encoded slash does not end a segment."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].decode("ascii", "replace")
        await self.app(scope, receive, send)


def _methods_at(request: Request) -> list[str]:
    """Return all methods of an address; each of its routes has one."""
    for path, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.scope["path"]):
            return sorted(method.upper() for method in operations)
    return ["GET"]  # the page


def _document(app: FastAPI) -> None:
    """Add the schema of errors and the key to the OpenAPI document."""
    made = app.openapi()
    components = made.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        {
            "ProblemMessage": _flat(ProblemMessage.model_json_schema(ref_template="#/components/schemas/{model}")),
            "FieldError": ProblemMessage.model_json_schema()["$defs"]["FieldError"],
        }
    )
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"key": []}, {}]


def _flat(schema: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in schema.items() if name != "$defs"}
