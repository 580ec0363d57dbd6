"""`/v1`: the people of the gallery, and identification."""

import base64
import binascii
import tempfile
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator

from coreface.errors import ModelError, PersonExistsError, UnknownPersonError
from coreface.recognition.gallery import Gallery
from coreface.recognition.gallery_records import EmbeddedFace, Person
from coreface.serving.enrolling import enrol_images
from coreface.serving.messages import WITH_IMAGES, body_of, documented
from coreface.serving.messages_people import (
    ChangeRequest,
    EnrolmentResponse,
    IdentifyRequest,
    IdentifyResponse,
    ImageMessage,
    ImagesRequest,
    NewPersonRequest,
    PeopleResponse,
    PersonMessage,
    PersonWithImages,
)
from coreface.serving.problems import Problem
from coreface.serving.reading import read_message
from coreface.serving.service import Needs, gallery_of, service_of

people = APIRouter(prefix="/v1", tags=["people"])
_READ, _ENROL, _ADMIN = ([Depends(Needs(role))] for role in ("read", "enrol", "admin"))
_PAGE = 500  # people read at a time by a search for a text

# The path is matched before percent-decoding: an id may contain a slash, %2F, which does not end a segment.
Id = Annotated[str, AfterValidator(unquote), Path(description="the id of the person, percent-encoded")]


@people.post(
    "/identify", dependencies=_READ, responses=documented(*WITH_IMAGES), openapi_extra=body_of(IdentifyRequest)
)
async def identify(request: Request) -> IdentifyResponse:
    """The people in a photograph, at the threshold for the size of the gallery."""
    service, gallery = service_of(request), gallery_of(request)
    message = await read_message(request, IdentifyRequest, service.settings.limits)
    found = await service.engine.crops(message.image, "image", message.face)
    rows = await service.engine.embed(list(found.crops))
    faces = [EmbeddedFace(row, crop.face) for row, crop in zip(rows, found.crops, strict=True)]
    fpir = 0.01 if message.fpir is None else message.fpir
    try:
        answer = await service.engine.in_thread(
            lambda: gallery.identify(faces, message.top, fpir, threshold=message.threshold)
        )
    except ModelError:
        raise Problem("no-calibration", "the service has no calibration: give a threshold", field="threshold") from None
    return IdentifyResponse.of(answer, found)


@people.get("/people", dependencies=_READ, responses=documented(422))
async def list_people(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=1000, description="`next` of the page before")] = None,
    search: Annotated[str | None, Query(max_length=200, description="part of an id or a name")] = None,
) -> PeopleResponse:
    """People in the order of their ids, a page at a time."""
    service, gallery = service_of(request), gallery_of(request)
    after = None if cursor is None else _id_of(cursor)
    found = await service.engine.in_thread(lambda: _page(gallery, after, limit + 1, search))
    following = _cursor_of(found[limit - 1].id) if len(found) > limit else None
    return PeopleResponse(people=[PersonMessage.of(person) for person in found[:limit]], next=following)


@people.post(
    "/people",
    status_code=201,
    dependencies=_ENROL,
    responses=documented(*WITH_IMAGES, 404, 409),  # 404 if the person was deleted before this was answered
    openapi_extra=body_of(NewPersonRequest),
)
async def add_person(request: Request, response: Response) -> EnrolmentResponse:
    """Enrol a new person with images; those that cannot be used are listed, the others are enrolled."""
    service, gallery = service_of(request), gallery_of(request)
    message = await read_message(request, NewPersonRequest, service.settings.limits)
    _check_number(message, service.settings.limits.images)
    if await service.engine.in_thread(lambda: _exists(gallery, message.id)):  # before the images are read
        raise PersonExistsError("there is a person of this id already")
    enrolment = await enrol_images(
        service.engine,
        gallery,
        message.id,
        message.images,
        name=message.name,
        metadata=message.metadata,
        retain_until=message.retain_until,
        allow_similar=message.allow_similar,
        expect="new",
    )
    person = await service.engine.in_thread(lambda: gallery.person(enrolment.person))
    response.headers["Location"] = f"/v1/people/{quote(person.id, safe='')}"
    return EnrolmentResponse.of(person, enrolment)


@people.post(
    "/people/{id}/images",
    status_code=201,
    dependencies=_ENROL,
    responses=documented(*WITH_IMAGES, 404),
    openapi_extra=body_of(ImagesRequest),
)
async def add_images(request: Request, id: Id) -> EnrolmentResponse:
    """Enrol more images of a person."""
    service, gallery = service_of(request), gallery_of(request)
    message = await read_message(request, ImagesRequest, service.settings.limits)
    _check_number(message, service.settings.limits.images)
    await service.engine.in_thread(lambda: gallery.person(id))  # before the images are read
    enrolment = await enrol_images(
        service.engine, gallery, id, message.images, allow_similar=message.allow_similar, expect="known"
    )
    return EnrolmentResponse.of(await service.engine.in_thread(lambda: gallery.person(id)), enrolment)


@people.delete("/people/{id}/images/{image}", status_code=204, dependencies=_ADMIN, responses=documented(404, 422))
async def delete_image(request: Request, id: Id, image: str) -> None:
    """Delete one image of a person; the person stays."""
    service, gallery = service_of(request), gallery_of(request)

    def delete() -> None:
        if image not in {template.id for template in gallery.templates(id)}:
            raise Problem("unknown-image", "the person has no such image")
        try:
            gallery.delete_template(image)
        except UnknownPersonError:
            raise Problem("unknown-image", "the image was deleted by somebody else") from None

    await service.engine.in_thread(delete)


@people.get(
    "/people/{id}/export",
    dependencies=_ADMIN,
    response_class=Response,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}, **documented(404, 422)},
)
async def export_person(request: Request, id: Id) -> Response:
    """Everything stored about a person, including embeddings, in the format of `coreface gallery import`."""
    service, gallery = service_of(request), gallery_of(request)

    def export() -> bytes:
        with tempfile.TemporaryDirectory(prefix="coreface-export-") as folder:  # readable by its owner only
            path = FilePath(folder) / "person.jsonl"
            gallery.export(path, id)
            return path.read_bytes()

    content = await service.engine.in_thread(export)
    headers = {"Content-Disposition": 'attachment; filename="person.jsonl"'}
    return Response(content, media_type="application/jsonl", headers=headers)


@people.get("/people/{id}", dependencies=_READ, responses=documented(404, 422))
async def get_person(request: Request, id: Id) -> PersonWithImages:
    """A person and the ids of the enrolled images."""
    service, gallery = service_of(request), gallery_of(request)
    person, templates = await service.engine.in_thread(lambda: (gallery.person(id), gallery.templates(id)))
    return PersonWithImages(person=PersonMessage.of(person), images=[ImageMessage.of(one) for one in templates])


@people.patch(
    "/people/{id}",
    dependencies=_ENROL,
    responses=documented(400, 404, 413, 415, 422),
    openapi_extra=body_of(ChangeRequest),
)
async def change_person(request: Request, id: Id) -> PersonMessage:
    """Change the name, the metadata or the end of retention."""
    service, gallery = service_of(request), gallery_of(request)
    message = await read_message(request, ChangeRequest, service.settings.limits)
    changes = {name: getattr(message, name) for name in message.model_fields_set}
    return PersonMessage.of(await service.engine.in_thread(lambda: gallery.update(id, **changes)))


@people.delete("/people/{id}", status_code=204, dependencies=_ADMIN, responses=documented(404, 422))
async def delete_person(request: Request, id: Id) -> None:
    """Delete a person; searches that begin after the answer do not find the person, in any worker."""
    service, gallery = service_of(request), gallery_of(request)
    await service.engine.in_thread(lambda: gallery.delete(id))


def _exists(gallery: Gallery, id: str) -> bool:
    try:
        gallery.person(id)
    except UnknownPersonError:
        return False
    return True


def _check_number(message: ImagesRequest, most: int) -> None:
    if len(message.images) > most:
        raise Problem(
            "invalid-request", f"there are {len(message.images)} images, expected at most {most}", field="images"
        )


def _page(gallery: Gallery, after: str | None, limit: int, search: str | None) -> list[Person]:
    if search is None:
        return gallery.people(after=after, limit=limit)
    wanted = search.casefold()
    found: list[Person] = []
    for person in _everybody(gallery, after):
        if wanted in person.id.casefold() or wanted in person.name.casefold():
            found.append(person)
            if len(found) == limit:
                break
    return found


def _everybody(gallery: Gallery, after: str | None) -> Iterator[Person]:
    while some := gallery.people(after=after, limit=_PAGE):
        yield from some
        after = some[-1].id


def _cursor_of(id: str) -> str:
    return base64.urlsafe_b64encode(id.encode()).decode()


def _id_of(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Problem("invalid-request", "the cursor is none of this service", field="cursor") from None
