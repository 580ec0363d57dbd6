"""Enrolment of the images of a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coreface.recognition.gallery import Gallery
from coreface.recognition.gallery_records import EmbeddedFace, Enrolment, Refusal
from coreface.serving.engine import FaceEngine, Photograph
from coreface.serving.messages_people import CandidateMessage, RefusalMessage
from coreface.serving.problems import Problem


async def enrol_images(
    engine: FaceEngine, gallery: Gallery, person: str, images: Sequence[bytes], **options: Any
) -> Enrolment:
    """Enrol images of a person; images that cannot be used are refused, the others are enrolled.

    Args:
        engine: detects and embeds the faces.
        gallery: in which they are enrolled.
        person: the id.
        images: encoded images.
        options: of `Gallery.enrol`.

    Returns:
        What was enrolled, with the indices of the images in the request.

    Raises:
        Problem: nothing could be enrolled; it gives the reason for each image.
    """
    work = (engine.crops(image, f"images.{number}") for number, image in enumerate(images))
    found = await asyncio.gather(*work, return_exceptions=True)
    usable: list[int] = []
    crops = []
    refused: list[Refusal] = []
    for number, photograph in enumerate(found):
        if isinstance(photograph, Photograph):
            usable.append(number)
            crops.append(photograph.crops[0])
        elif isinstance(photograph, Problem):
            refused.append(Refusal(number, f"image {number}", photograph.code, str(photograph)))
        else:
            raise photograph
    if not crops:
        raise nothing_enrolled(refused)
    rows = await engine.embed(crops)
    faces = [EmbeddedFace(row, crop.face, crop.image) for row, crop in zip(rows, crops, strict=True)]
    enrolment = await engine.in_thread(lambda: gallery.enrol(person, faces, **options))
    refused += [replace(refusal, index=usable[refusal.index]) for refusal in enrolment.refused]
    enrolment = replace(
        enrolment,
        known=tuple(usable[number] for number in enrolment.known),
        flagged=tuple(usable[number] for number in enrolment.flagged),
        refused=tuple(sorted(refused, key=lambda refusal: refusal.index)),
    )
    if not enrolment.templates and not enrolment.known:
        similar = [CandidateMessage.of(candidate).model_dump() for candidate in enrolment.similar]
        raise nothing_enrolled(enrolment.refused, similar)
    return enrolment


def nothing_enrolled(refused: Sequence[Refusal], similar: Sequence[dict[str, Any]] = ()) -> Problem:
    """Return the problem with the reasons why no image was enrolled."""
    rows = [RefusalMessage.of(refusal).model_dump() for refusal in refused]
    detail = "the person resembles another one" if similar else "none of the images can be used"
    return Problem("nothing-enrolled", detail, field="images", more={"refused": rows, "similar": list(similar)})
