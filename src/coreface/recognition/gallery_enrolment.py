"""Enrolment of a person: new content, images unlike the person's others, and resemblance to other people."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError, PersonExistsError, UnknownPersonError
from coreface.recognition.gallery_answers import Candidate
from coreface.recognition.gallery_decisions import candidates, gallery_threshold
from coreface.recognition.gallery_faces import Sample
from coreface.recognition.gallery_matrix import pooled
from coreface.recognition.gallery_records import Enrolment, Person, Refusal, Template
from coreface.recognition.gallery_sql import new_id
from coreface.recognition.gallery_store import GalleryStore, StoredTemplate, now
from coreface.recognition.pipeline import FacePipeline

Expected: TypeAlias = Literal["new", "known"]

_LONGEST_ID, _LONGEST_NAME, _LARGEST_METADATA = 200, 500, 64 * 1024  # characters, characters, bytes of JSON
_FLAG_FMR = 1e-2  # FMR of the threshold below which an image is flagged as unlike the person's others
_SHOWN = 5  # similar people that are returned


def enrol(
    store: GalleryStore,
    pipeline: FacePipeline,
    person: Person,
    given: Mapping[str, Any],
    samples: Sequence[Sample],
    refused: Sequence[Refusal],
    *,
    fpir: float,
    keep_crops: bool,
    allow_similar: bool,
    expect: Expected | None,
) -> Enrolment:
    """Enrol samples, within a transaction of the store.

    Args:
        store: of the gallery.
        pipeline: of the gallery.
        person: the record of a new person.
        given: fields set by the caller, which replace those of an existing person.
        samples: the embedded images, new and known.
        refused: images without a sample.
        fpir: rate at which resemblance to other people is judged.
        keep_crops: store the crops.
        allow_similar: enrol somebody who resembles another person.
        expect: ``new`` or ``known``; None accepts both.

    Raises:
        UnknownPersonError: the person is not known, but was expected to be.
        PersonExistsError: the person is not new, but was expected to be.
    """
    there = store.person(person.id)
    if there is None and expect == "known":
        raise UnknownPersonError(f"no person {person.id!r} in the gallery {store.name!r}")
    if there is not None and expect == "new":
        raise PersonExistsError(f"there is a person {person.id!r} in the gallery {store.name!r} already")
    own = [] if there is None else [stored for _, stored in store.stored(there[0])]
    seen = {stored.digest for stored in own}
    known: list[int] = []
    fresh: list[Sample] = []
    for sample in samples:
        if sample.digest in seen:
            known.append(sample.index)
        else:
            fresh.append(sample)
            seen.add(sample.digest)
    similar, checked = _similar(store, pipeline, fresh, None if there is None else there[0], fpir)
    refusals = list(refused)
    if similar and not allow_similar:
        who = ", ".join(f"{candidate.person} ({candidate.score:.3f})" for candidate in similar)
        message = f"resembles {who}, enrolled under another id: enrol with allow_similar if these are two people"
        refusals += [Refusal(sample.index, f"image {sample.index}", "resembles another", message) for sample in fresh]
        fresh = []
    flagged = _unlike_the_others(pipeline, [stored.embedding for stored in own], fresh)
    templates: list[str] = []
    if fresh:
        number = store.add_person(person) if there is None else there[0]
        time = now()
        templates = store.add_templates(number, [_stored(sample, time, flagged, keep_crops) for sample in fresh])
    if there is not None and (fresh or given):
        store.update_person(there[0], replace(there[1], **given, updated=now()))
    if fresh:
        opaque_id = person.opaque_id if there is None else there[1].opaque_id
        store.log("enrol", opaque_id, {"templates": len(templates), "refused": len(refusals)})
    return Enrolment(
        person.id,
        tuple(templates),
        tuple(known),
        tuple(sample.index for sample in fresh if sample.index in flagged),
        tuple(sorted(refusals, key=lambda refusal: refusal.index)),
        tuple(similar),
        checked,
    )


def new_person(id: str, name: str | None, metadata: Mapping[str, Any] | None, retain: datetime | None) -> Person:
    """Return the record of a new person.

    Raises:
        InputError: an argument cannot be stored.
    """
    time = now()
    id = checked_id(id)
    return Person(
        id,
        new_id(),
        id if name is None else checked_name(name),
        {} if metadata is None else checked_metadata(metadata),
        time,
        time,
        None if retain is None else checked_time(retain, "retain_until"),
        0,
    )


def checked_id(id: object) -> str:
    """Return the id of a person in Unicode's composed form, because the folders of some systems use the other one.

    Raises:
        InputError: it is not 1 to 200 printable characters without space at the ends.
    """
    text = unicodedata.normalize("NFC", str(id)) if isinstance(id, str) else ""
    if not 0 < len(text) <= _LONGEST_ID or not text.isprintable() or text != text.strip():
        raise InputError(
            f"the id of a person is {ascii(id)[:80]}, expected 1 to {_LONGEST_ID} printable characters without space "
            "at the ends"
        )
    return text


def checked_name(name: object) -> str:
    """Return a name; raise `InputError` if it is not 1 to 500 printable characters."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise InputError(f"the name is {ascii(name)[:80]}, expected 1 to {_LONGEST_NAME} printable characters")
    return name


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as JSON stores them; raise `InputError` if they are not a JSON object of at most 64 KB."""
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata cannot be stored as JSON ({error}), expected a mapping of plain values") from error
    if len(text) > _LARGEST_METADATA:
        raise InputError(f"metadata take {len(text)} bytes, expected at most {_LARGEST_METADATA}: store a reference")
    found: dict[str, Any] = json.loads(text)
    return found


def checked_time(time: object, name: str) -> datetime:
    """Return a time in UTC; raise `InputError` if it has no time zone."""
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InputError(f"{name} is {time!r}, expected a datetime with a time zone")
    return time.astimezone(UTC)


def _similar(
    store: GalleryStore, pipeline: FacePipeline, fresh: Sequence[Sample], number: int | None, fpir: float
) -> tuple[list[Candidate], bool]:
    """Return other people who resemble the mean of the new samples, and whether that could be decided."""
    if not fresh or pipeline.calibration is None:
        return [], False
    probe = pooled(np.sum([sample.embedding for sample in fresh], axis=0)[None])
    found = store.search(probe, _SHOWN + 1)
    at = gallery_threshold(pipeline, found, fpir, None)
    if not at.decides:
        return [], False
    hits = [hit for hit in found.hits[0] if hit[0] != number and at.value is not None and hit[1] >= at.value]
    people = store.people_by_number(hit[0] for hit in hits)
    return candidates(hits[:_SHOWN], people, pipeline.calibration, found), True


def _unlike_the_others(pipeline: FacePipeline, own: Sequence[NDArray[np.float32]], fresh: Sequence[Sample]) -> set[int]:
    """Return the indices of samples that do not match the mean of the person's other images."""
    if pipeline.calibration is None or len(own) + len(fresh) < 2:
        return set()
    at = pipeline.calibration.threshold(_FLAG_FMR)
    if at.threshold is None:
        return set()
    total = np.sum([*own, *(sample.embedding for sample in fresh)], axis=0)
    unlike = set()
    for sample in fresh:
        others = pooled((total - sample.embedding)[None])[0]
        if float(sample.embedding @ others) < at.threshold:
            unlike.add(sample.index)
    return unlike


def _stored(sample: Sample, time: datetime, flagged: set[int], keep_crops: bool) -> StoredTemplate:
    crop = sample.crop if keep_crops else None
    template = Template(new_id(), time, sample.index in flagged, crop is not None)
    return StoredTemplate(template, sample.digest, sample.embedding, None if crop is None else encoded_crop(crop))


def encoded_crop(crop: NDArray[np.uint8]) -> bytes:
    """Return a crop, uint8 RGB, as PNG: only pixels, without the photograph's EXIF."""
    png: bytes = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1].tobytes()
    return png
