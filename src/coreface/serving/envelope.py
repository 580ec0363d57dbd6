"""Outermost middleware: request id, security headers, a log line and a count for every answer, and a problem document
for every unexpected exception."""

import contextlib
import json
import logging
import re
import time
import traceback
import uuid
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coreface.errors import CoreFaceError
from coreface.serving.metrics import Metrics
from coreface.serving.problems import Problem, problem_of

LOG: Final = logging.getLogger("coreface.serving")
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Envelope:
    """The outermost middleware. It logs the route instead of the path, because a path may contain the id of a person.

    Args:
        app: the wrapped application.
        metrics: counts the requests.
        tls: whether browsers are told to use only TLS from now on.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tls: bool) -> None:
        self.app, self._metrics = app, metrics
        self._headers = {**_HEADERS, **({"Strict-Transport-Security": "max-age=31536000"} if tls else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers["X-Request-ID"] = request_id
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        failure: Exception | None = None
        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            failure = error
            if status is None:
                problem = problem_of(error) if isinstance(error, CoreFaceError) else _FAILED
                # This fails if uvicorn has answered: the body was no HTTP. It would log the messages of both errors.
                with contextlib.suppress(Exception):
                    await problem.response(request_id)(scope, receive, answer)
            elif isinstance(error, Problem):
                raise  # the head has been sent: all that is left is to cut the answer off
        seconds = time.perf_counter() - begun
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.count_request(route, scope["method"], status or 0, seconds)
        _write_line(scope, request_id, route, status, seconds, failure)


_FAILED: Final = Problem("internal-error", "the service has failed; its log has the request id")


def _write_line(
    scope: Scope, request_id: str, route: str, status: int | None, seconds: float, failure: Exception | None
) -> None:
    headers, key = Headers(scope=scope), scope["state"].get("key")
    client_id = headers.get("x-request-id", "")
    line = {
        "request": request_id,
        "client_request": client_id if _CLIENT_ID.fullmatch(client_id) else None,
        "method": scope["method"] if scope["method"].isalpha() else "other",
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 1),
        "key": None if key is None else key.id,
    }
    LOG.info(json.dumps(line))
    if failure is not None and not isinstance(failure, CoreFaceError):
        # Only the place and the type: the message of an exception may contain anything.
        places = "".join(traceback.format_tb(failure.__traceback__))
        LOG.error("request %s failed with %s at\n%s", request_id, type(failure).__name__, places)
