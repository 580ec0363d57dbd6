"""Parses request bodies, forms with files or JSON with base64, into checked messages. Nothing is written to disk."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from coreface.serving.messages import RequestMessage
from coreface.serving.problems import Problem
from coreface.serving.settings import Limits

M = TypeVar("M", bound=RequestMessage)
_MOST_FIELDS = 32
_LONGEST_FIELD = 128 * 1024  # bytes; metadata of a person are the longest field


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**62  # images are never written to a temporary file
    whole = False

    def on_end(self) -> None:
        self.whole = True


async def read_message(request: Request, message: type[M], limits: Limits) -> M:
    """Return the body of a request.

    Raises:
        Problem: it cannot be parsed, is of another type, or a field is missing, unknown or not valid.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        content = await _form(request, message, limits)
    elif kind == "application/json":
        content = _json(await _body(request))
    else:
        raise Problem("unsupported-media-type", "send multipart/form-data with files, or application/json with base64")
    try:
        return message.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise invalid(found) from None


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise Problem("malformed-request", "the body was cut off") from None


def _json(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Problem("malformed-request", "the body is not JSON in UTF-8") from None


async def _form(request: Request, message: type[M], limits: Limits) -> dict[str, Any]:
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=limits.images,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem("malformed-request", error.message) from None
    except (FormParserError, ValueError, KeyError, IndexError):
        raise Problem("malformed-request", "the form cannot be parsed") from None
    except ClientDisconnect:
        raise Problem("malformed-request", "the body was cut off") from None
    if not parser.whole:
        raise Problem("malformed-request", "the form is cut off: its last boundary is missing")
    content: dict[str, Any] = {}
    for name, value in form.multi_items():
        read = value.file.read() if isinstance(value, UploadFile) else value
        if name in message.model_fields and get_origin(message.model_fields[name].annotation) is list:
            content.setdefault(name, []).append(read)
        elif name in content:
            raise Problem("invalid-request", "the field was given twice", field=name[:64])
        else:
            content[name] = read
    return content


def invalid(found: Sequence[Any]) -> Problem:
    """Return a problem with the invalid fields and the reasons, without the values, which may be images.

    Args:
        found: the errors listed by pydantic.
    """
    rows = [
        {
            "field": ".".join(str(part)[:64] for part in row["loc"]) or "body",
            "message": row["msg"].removeprefix("Value error, "),
        }
        for row in found[:20]
    ]
    first = rows[0]
    return Problem(
        "invalid-request", f"{first['field']}: {first['message']}", field=first["field"], more={"errors": rows}
    )
