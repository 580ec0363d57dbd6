"""Errors over HTTP as in RFC 9457: a stable code, a status, and a sentence that says what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse

from coreface.errors import (
    ContractError,
    CoreFaceError,
    FaceError,
    ImageError,
    InputError,
    PersonExistsError,
    StorageError,
    UnknownPersonError,
)

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:coreface:problem:"


@dataclass(frozen=True)
class _Kind:
    status: int
    title: str


#: All codes of the service. A code keeps its meaning; clients may depend on it.
CODES: Final[Mapping[str, _Kind]] = {
    "malformed-request": _Kind(400, "The request cannot be parsed"),
    "key-required": _Kind(401, "A key is required"),
    "key-refused": _Kind(401, "The key is not valid"),
    "foreign-origin": _Kind(403, "Requests of other web pages are refused"),
    "header-required": _Kind(403, "A header is missing"),
    "role-insufficient": _Kind(403, "The key does not allow this"),
    "not-found": _Kind(404, "There is no such address"),
    "unknown-person": _Kind(404, "There is no such person"),
    "unknown-image": _Kind(404, "There is no such image"),
    "method-not-allowed": _Kind(405, "The address does not take this method"),
    "body-too-slow": _Kind(408, "The request arrived too slowly"),
    "person-exists": _Kind(409, "The person exists already"),
    "nothing-enrolled": _Kind(422, "No image could be enrolled"),
    "body-too-large": _Kind(413, "The request is too large"),
    "image-too-large": _Kind(413, "An image is too large"),
    "unsupported-media-type": _Kind(415, "The body has another type than expected"),
    "foreign-host": _Kind(421, "The service does not go by this host name"),
    "invalid-request": _Kind(422, "A value is not valid"),
    "unreadable-image": _Kind(422, "An image cannot be read"),
    "no-face": _Kind(422, "No face was found"),
    "several-faces": _Kind(422, "Several faces were found"),
    "small-face": _Kind(422, "The face is too small"),
    "odd-landmarks": _Kind(422, "The face cannot be aligned"),
    "no-calibration": _Kind(422, "There is no calibration"),
    "too-many-attempts": _Kind(429, "Too many attempts with wrong keys"),
    "rate-limited": _Kind(429, "Too many requests"),
    "internal-error": _Kind(500, "The service has failed"),
    "busy": _Kind(503, "The service is busy"),
    "too-slow": _Kind(503, "The answer took too long"),
    "storage-failed": _Kind(503, "The gallery cannot be read or written"),
    "not-ready": _Kind(503, "The service is not ready"),
}


class Problem(CoreFaceError):  # noqa: N818 (the word of RFC 9457)
    """An error with an answer for the client.

    Attributes:
        code: one of `CODES`.
        field: the field of the request; None for the whole request.
        retry_after: seconds after which another attempt may succeed.
        more: further members of the document.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code, self.field, self.retry_after, self.more = code, field, retry_after, dict(more or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code].status

    def response(self, request_id: str) -> JSONResponse:
        """Return the answer."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after + 0.5)))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="coreface"'
        if self.status in (408, 413):  # the rest of the body is not read
            headers["Connection"] = "close"
        document = {
            "type": _TYPE + self.code,
            "title": CODES[self.code].title,
            "status": self.status,
            "code": self.code,
            "detail": str(self),
            "request_id": request_id,
            **({} if self.field is None else {"field": self.field}),
            **self.more,
        }
        return JSONResponse(document, self.status, headers, MEDIA_TYPE)


def problem_of(error: CoreFaceError, field: str | None = None) -> Problem:
    """Return the problem for an error of the library.

    Args:
        error: the exception.
        field: the field of the request that caused it.
    """
    if isinstance(error, Problem):
        error.field = error.field or field
        return error
    if isinstance(error, FaceError):
        return Problem(error.reason.replace(" ", "-"), str(error), field=field)
    if isinstance(error, ImageError):
        return Problem("unreadable-image", str(error).removeprefix("image bytes: "), field=field)
    if isinstance(error, InputError):
        return Problem("invalid-request", str(error), field=field)
    if isinstance(error, UnknownPersonError):
        return Problem("unknown-person", "the gallery has no such person", field=field)
    if isinstance(error, PersonExistsError):
        return Problem("person-exists", "there is a person of this id: add images to it", field="id")
    if isinstance(error, ContractError):
        return Problem("not-ready", "the gallery was moved to another encoder: the service must be started anew")
    if isinstance(error, StorageError):
        return Problem("storage-failed", "the gallery cannot be read or written now; try again", retry_after=5)
    return Problem("internal-error", "the service has failed; its log has the request id")
