"""A client of the service: returns the library's result classes, and needs only the standard library."""

import base64
import http.client
import json
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from coreface.errors import CoreFaceError, FaceError, ImageError, InputError, StorageError, UnknownPersonError
from coreface.files import user_path
from coreface.recognition.decision import Decision
from coreface.recognition.detection import Face
from coreface.recognition.gallery_answers import Answer, Candidate, FaceAnswer
from coreface.recognition.gallery_records import Enrolment, Person, Refusal

_FACE_CODES = {name.replace(" ", "-"): name for name in ("no face", "several faces", "small face", "odd landmarks")}
_ERRORS: dict[str, type[CoreFaceError]] = {
    "unreadable-image": ImageError,
    "image-too-large": ImageError,
    "invalid-request": InputError,
    "unknown-person": UnknownPersonError,
    "storage-failed": StorageError,
}


class ServiceError(CoreFaceError):
    """The service refused a request, or cannot be reached.

    Attributes:
        code: of the service's answer, such as ``role-insufficient``; ``unreachable`` without an answer.
        request_id: identifies the request in the service's log.
    """

    def __init__(self, message: str, code: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.request_id = code, request_id


class Client:
    """A client of a service started by `coreface serve`. Threads may share a client.

    Args:
        url: such as ``http://127.0.0.1:8300``.
        key: as shown by ``coreface serve keys add``.
        timeout: seconds to wait for an answer.
        retries: further attempts if the service is busy, each after the time given in its answer.
        ca_file: trusted certificates, PEM; None uses those of the system.

    Raises:
        InputError: the URL is not valid, or photographs and key would be sent to another machine without TLS.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 60.0, retries: int = 3, ca_file: str | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"the URL is {url!r}, expected one such as http://127.0.0.1:8300")
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise InputError(f"{url} would send photographs unencrypted: expected https://")
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/")
        self._context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._headers = {"X-Coreface": "1", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._timeout, self._retries = timeout, retries
        self._own = threading.local()

    def info(self) -> dict[str, Any]:
        """Return the description of the service: model, calibration, limits."""
        return dict(self._call("GET", "/v1/info"))

    def faces(self, image: str | os.PathLike[str] | bytes) -> list[Face]:
        """Return all faces in a photograph, the most confident first.

        Args:
            image: a path on this machine, or an encoded image.
        """
        return [_face(face) for face in self._call("POST", "/v1/detect", {"image": _encoded(image)})["faces"]]

    def verify(
        self,
        a: str | os.PathLike[str] | bytes,
        b: str | os.PathLike[str] | bytes,
        fmr: float = 1e-3,
        *,
        threshold: float | None = None,
    ) -> Decision:
        """Decide whether two photographs show the same person, as `FacePipeline.verify` does; the score is rounded.

        Raises:
            ImageError: a photograph cannot be read.
            FaceError: a photograph shows no face that can be used.
            InputError: ``fmr`` or ``threshold`` is out of range.
            ServiceError: the service refuses for another reason.
        """
        at = {"fmr": fmr} if threshold is None else {"threshold": threshold}
        found = self._call("POST", "/v1/verify", {"a": _encoded(a), "b": _encoded(b), **at})
        first, second = (_face(photograph["face"]) for photograph in found["photographs"])
        names = ("match", "score", "threshold", "fmr", "fmr_low", "fmr_high", "standing")
        return Decision(**{name: found[name] for name in names}, faces=(first, second))

    def identify(
        self,
        image: str | os.PathLike[str] | bytes,
        top: int = 5,
        fpir: float = 0.01,
        *,
        threshold: float | None = None,
    ) -> Answer:
        """Identify the people in a photograph, as `Gallery.identify` does, without the details of the threshold.

        Raises:
            ImageError, FaceError, InputError, ServiceError: as for `verify`.
        """
        at = {"fpir": fpir} if threshold is None else {"threshold": threshold}
        found = self._call("POST", "/v1/identify", {"image": _encoded(image), "top": top, **at})
        faces = tuple(
            FaceAnswer(
                face["decision"],
                face["person"],
                tuple(Candidate(**candidate) for candidate in face["candidates"]),
                _face(face["face"]),
            )
            for face in found["faces"]
        )
        return Answer(faces, fpir, found["threshold"], found["derived"], None, found["gallery_size"])

    def enrol(
        self,
        person: str,
        images: Iterable[str | os.PathLike[str] | bytes],
        *,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        allow_similar: bool = False,
    ) -> Enrolment:
        """Enrol images of a person, new or known; those that cannot be used are listed in ``refused``.

        Raises:
            InputError: an argument cannot be stored.
            ServiceError: nothing could be enrolled (code ``nothing-enrolled``), or another refusal.
        """
        given = [_encoded(image) for image in images]
        body = {"images": given, "allow_similar": allow_similar}
        fields = {"name": name, "metadata": metadata}
        changes = {field: value for field, value in fields.items() if value is not None}
        try:
            found = self._call("POST", "/v1/people", {"id": person, **body, **changes})
        except ServiceError as error:
            if error.code != "person-exists":
                raise
            found = self._call("POST", f"/v1/people/{quote(person, safe='')}/images", body)
            if changes:
                self._call("PATCH", f"/v1/people/{quote(person, safe='')}", changes)
        return Enrolment(
            found["person"]["id"],
            tuple(found["images"]),
            tuple(found["known"]),
            tuple(found["flagged"]),
            tuple(
                Refusal(row["index"], f"image {row['index']}", row["code"], row["message"]) for row in found["refused"]
            ),
            tuple(Candidate(**candidate) for candidate in found["similar"]),
            found["checked"],
        )

    def people(self, search: str | None = None) -> Iterator[Person]:
        """Yield the people in the order of their ids: all, or those whose id or name contains a text."""
        query = {"limit": "200", **({} if search is None else {"search": search})}
        while True:
            page = self._call("GET", f"/v1/people?{urlencode(query)}")
            yield from map(_person, page["people"])
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def person(self, id: str) -> Person:
        """Return a person. Raises `UnknownPersonError` if there is none with that id."""
        return _person(self._call("GET", f"/v1/people/{quote(id, safe='')}")["person"])

    def delete(self, id: str) -> None:
        """Delete a person. Raises `UnknownPersonError` if there is none with that id."""
        self._call("DELETE", f"/v1/people/{quote(id, safe='')}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, **({} if content is None else {"Content-Type": "application/json"})}
        for attempt in range(self._retries + 1):
            status, answer, wait = self._ask(method, self._path + path, content, headers)
            if status < 400:
                return answer
            if status not in (429, 503) or attempt == self._retries:
                break
            time.sleep(wait)
        raise _error(status, answer if isinstance(answer, dict) else {})

    def _ask(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> tuple[int, Any, float]:
        """Return status, content, and the seconds to wait before the next attempt."""
        kept = getattr(self._own, "connection", None)
        connection = self._own.connection = kept or self._connection()
        if connection.sock is not None and _is_readable(connection.sock):
            connection.close()  # by the service, which sends nothing unasked; a new one is opened below
        try:
            try:
                connection.request(method, path, content, headers)
                response = connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A kept connection may have been closed in the meantime. Only requests without effects are sent twice:
                # an enrolment or deletion may have been done before the connection broke.
                connection.close()
                if kept is None or not (method == "GET" or path.endswith(("/detect", "/verify", "/identify"))):
                    raise
                connection.request(method, path, content, headers)
                response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ServiceError(
                f"{self._host}: the service cannot be reached ({error or type(error).__name__})", "unreachable"
            ) from error
        try:
            answer = json.loads(text) if text else None
        except ValueError:
            answer = None  # perhaps an error page of a proxy
        return response.status, answer, min(60.0, float(response.headers.get("Retry-After") or 1))

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._context)


def _is_readable(connection: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


def _encoded(image: str | os.PathLike[str] | bytes) -> str:
    if not isinstance(image, bytes):
        path = user_path(image)
        try:
            image = Path(path).read_bytes()
        except OSError as error:
            raise ImageError(f"'{path}' cannot be read ({error.strerror}), expected an image file") from error
    return base64.b64encode(image).decode()


def _face(found: dict[str, Any]) -> Face:
    left, top, right, bottom = found["box"]
    landmarks = None if found["landmarks"] is None else np.array(found["landmarks"], np.float64)
    return Face((left, top, right, bottom), landmarks, found["score"])


def _person(found: dict[str, Any]) -> Person:
    dates = {
        name: None if found[name] is None else datetime.fromisoformat(found[name])
        for name in ("created", "updated", "retain_until")
    }
    return Person(
        found["id"],
        "",
        found["name"],
        found["metadata"],
        dates["created"],  # type: ignore[arg-type]
        dates["updated"],  # type: ignore[arg-type]
        dates["retain_until"],
        found["images"],
    )


def _error(status: int, problem: dict[str, Any]) -> CoreFaceError:
    code = str(problem.get("code", f"status-{status}"))
    field = problem.get("field")
    message = str(problem.get("detail", f"the service answered with status {status}"))
    if field and not message.startswith(field):
        message = f"{field}: {message}"
    if code in _FACE_CODES:
        return FaceError(message, _FACE_CODES[code])
    if code in _ERRORS:
        return _ERRORS[code](message)
    return ServiceError(message, code, problem.get("request_id"))
