"""Export and import of a gallery, or of one person, as JSON Lines, without compression and file names.

The first line contains format, contract, embedding size and pooling. Each following line is a person with the
templates: embeddings as base64 of little-endian float32, crops as base64 of PNG. The last line contains the numbers of
people and templates, and the SHA-256 of all lines above it.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from coreface.errors import CoreFaceError, GalleryError, ImageError, InputError
from coreface.files import Replacement
from coreface.images.load import load_image
from coreface.recognition.gallery_contract import check_contract
from coreface.recognition.gallery_enrolment import (
    checked_id,
    checked_metadata,
    checked_name,
    checked_time,
    encoded_crop,
)
from coreface.recognition.gallery_faces import unit
from coreface.recognition.gallery_records import Person, Template
from coreface.recognition.gallery_sql import new_id
from coreface.recognition.gallery_store import GalleryRecord, GalleryStore, StoredTemplate
from coreface.recognition.pipeline import FacePipeline

_FORMAT = 1
_LONGEST_LINE = 64 * 2**20  # bytes
_FIELDS = ("id", "name", "metadata", "created", "updated", "retain_until")
_COMPARED = 8  # number of crops that are embedded again
_SAME = 0.98  # cosine between a stored embedding and that of its crop; other hardware still reaches 0.999


@dataclass(frozen=True)
class Transfer:
    """What was exported or imported.

    Attributes:
        people: number of people; for an import, of new ones.
        templates: likewise.
        compared: number of imported embeddings that were compared with their crops. Without crops nothing shows that
            the embeddings come from the pipeline of the gallery, except that the file says so.
    """

    people: int
    templates: int
    compared: int = 0


def export_people(store: GalleryStore, path: Path, id: str | None) -> Transfer:
    """Write one person, or everybody, to a file that only its owner can read.

    Raises:
        OSError: it cannot be written.
    """
    people = templates = 0
    digest = hashlib.sha256()
    file = Replacement(path)
    try:
        os.fchmod(file.fileno(), 0o600)

        def write(content: Mapping[str, Any]) -> None:
            line = json.dumps(content).encode() + b"\n"
            digest.update(line)
            file.write(line)

        with store.snapshot():
            record = store.record()
            head = {"contract": record.contract, "embedding_size": record.embedding_size, "pooling": record.pooling}
            write({"coreface_gallery": _FORMAT, **head})
            for person in _people(store, id):
                found = store.person(person.id)
                if found is None:
                    raise GalleryError(
                        f"{store.place}: the gallery is damaged ({person.id} is listed but not found): "
                        "run coreface gallery check, or restore a backup"
                    )
                stored = [_template(template) for _, template in store.stored(found[0])]
                plain = person.to_dict()
                fields = {
                    name: plain[name] for name in ("id", "name", "metadata", "created", "updated", "retain_until")
                }
                write({**fields, "templates": stored})
                people, templates = people + 1, templates + len(stored)
        write({"people": people, "templates": templates, "sha256": digest.hexdigest()})
        file.place()
    finally:
        file.discard()
    return Transfer(people, templates)


def import_people(store: GalleryStore, path: Path, pipeline: FacePipeline | None) -> Transfer:
    """Add the people of a file to a gallery, all or none; for existing people, the new templates.

    If the file contains crops and there is a pipeline, some crops are embedded again.

    Raises:
        ContractError: the file belongs to another pipeline.
        GalleryError: it is not an export, or incomplete, or its embeddings are not those of its crops.
        StorageError: it cannot be read.
    """
    people = templates = 0
    with path.open("rb") as file, store.transaction():
        digest = hashlib.sha256()
        lines = _lines(file, path)
        _, head = next(lines, (b"", {}))
        record = store.record()
        if head.get("coreface_gallery") != _FORMAT or not isinstance(head.get("contract"), dict):
            raise GalleryError(f"{path}: not an export of a gallery of format {_FORMAT}")
        check_contract(store.place, record.contract, head["contract"])
        reader = _Reader(path, record, pipeline)
        file.seek(0)
        end: Mapping[str, Any] = {}
        for number, (line, content) in enumerate(_lines(file, path), 1):
            if "sha256" in content:
                end = content
                break
            digest.update(line)
            if number == 1:
                continue
            try:
                person, stored = reader.person(content)
            except (KeyError, TypeError, ValueError, AttributeError, ImageError) as error:
                raise GalleryError(f"{path}, line {number}: {_reason(error)}; nothing was imported") from error
            there = store.person(person.id)
            owner = store.add_person(person) if there is None else there[0]
            people += there is None
            templates += len(store.add_templates(owner, stored))
        if end.get("sha256") != digest.hexdigest():
            raise GalleryError(f"{path}: incomplete or changed since it was written; nothing was imported")
        store.log("import", None, {"people": people, "templates": templates})
    return Transfer(people, templates, reader.compared)


class _Reader:
    """Turns lines into people and checks them as far as possible."""

    def __init__(self, path: Path, record: GalleryRecord, pipeline: FacePipeline | None) -> None:
        self._path, self._record, self._pipeline = path, record, pipeline
        alignment = record.contract.get("alignment")
        self._size = alignment.get("size") if isinstance(alignment, dict) else None
        self.compared = 0

    def person(self, content: Mapping[str, Any]) -> tuple[Person, list[StoredTemplate]]:
        created, updated = _time(content["created"]), _time(content["updated"])
        retain = None if content["retain_until"] is None else _time(content["retain_until"])
        name, metadata = checked_name(content["name"]), checked_metadata(content["metadata"])
        person = Person(checked_id(content["id"]), new_id(), name, metadata, created, updated, retain, 0)
        return person, [self._template(template) for template in content["templates"]]

    def _template(self, content: Mapping[str, Any]) -> StoredTemplate:
        raw = base64.b64decode(content["embedding"], validate=True)
        embedding = unit(np.frombuffer(raw, "<f4").astype(np.float32), self._record.embedding_size)
        digest = bytes.fromhex(content["digest"])
        if len(digest) != 32:
            raise InputError("a digest is not 32 bytes")
        crop = None if content["crop"] is None else self._crop(content["crop"], embedding)
        template = Template(new_id(), _time(content["created"]), content["flagged"] is True, crop is not None)
        return StoredTemplate(template, digest, embedding, crop)

    def _crop(self, text: str, embedding: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
        if type(self._size) is not int:
            raise InputError("a crop, in a gallery whose contract states no size of crops")
        image = load_image(base64.b64decode(text, validate=True), max_pixels=self._size**2)
        if image.shape[:2] != (self._size, self._size):
            raise InputError(f"a crop has {image.shape[1]} x {image.shape[0]} pixels, expected a side of {self._size}")
        if self._pipeline is not None and self.compared < _COMPARED:
            self.compared += 1
            again = self._pipeline.encoder.embed([image], flip=self._pipeline.flip)[0]
            if float(again @ embedding) < _SAME:
                raise InputError("an embedding is not that of its crop: the contract in the file is not the true one")
        return encoded_crop(image)


def _people(store: GalleryStore, id: str | None) -> Iterator[Person]:
    if id is not None:
        found = store.person(id)
        if found is not None:
            yield found[1]
        return
    after = None
    while people := store.people(after, 1000):
        yield from people
        after = people[-1].id


def _template(stored: StoredTemplate) -> dict[str, Any]:
    return {
        "digest": stored.digest.hex(),
        "created": stored.template.created.isoformat(),
        "flagged": stored.template.flagged,
        "embedding": base64.b64encode(stored.embedding.astype("<f4").tobytes()).decode(),
        "crop": None if stored.crop is None else base64.b64encode(stored.crop).decode(),
    }


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise GalleryError(f"{path}, line {number}: longer than {_LONGEST_LINE} bytes; nothing was imported")
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise GalleryError(f"{path}, line {number}: not JSON ({error}), expected an export of a gallery") from error
        if not isinstance(content, dict):
            raise GalleryError(f"{path}, line {number}: not a JSON object, expected an export of a gallery")
        yield line, content


def _time(text: str) -> datetime:
    return checked_time(datetime.fromisoformat(text), "a time")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, CoreFaceError) else f"{type(error).__name__} {error}"
