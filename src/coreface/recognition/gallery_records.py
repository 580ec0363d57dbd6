"""Records of a gallery: people, templates, and the results of changes."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.template_scores import Pooling
from coreface.recognition.detection import Face
from coreface.recognition.gallery_answers import Candidate


@dataclass(frozen=True, eq=False)
class EmbeddedFace:
    """A face that the gallery's pipeline has already embedded.

    Attributes:
        embedding: (D,) float, any length above 0.
        face: its place in the photograph.
        crop: uint8 RGB (size, size, 3), which ``keep_crops`` needs.
    """

    embedding: NDArray[np.floating[Any]]
    face: Face | None = None
    crop: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Template:
    """The entry of one image of a person, without the embedding.

    Attributes:
        id: opaque; for `Gallery.delete_template`.
        created: time of enrolment, UTC.
        flagged: whether it did not resemble the person's other images when it was enrolled.
        has_crop: whether the crop was kept.
    """

    id: str
    created: datetime
    flagged: bool
    has_crop: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {**asdict(self), "created": self.created.isoformat()}


@dataclass(frozen=True)
class Person:
    """A person in a gallery.

    Attributes:
        id: chosen by the caller, as in ``enrol("alice", ...)``.
        opaque_id: random; used in the audit log.
        name: the display name.
        metadata: JSON values of the caller.
        created: time of the first enrolment, UTC.
        updated: time of the last change, UTC.
        retain_until: when `Gallery.purge` deletes the person; None for never.
        templates: number of images enrolled.
    """

    id: str
    opaque_id: str
    name: str
    metadata: dict[str, Any]
    created: datetime
    updated: datetime
    retain_until: datetime | None
    templates: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        dates = {name: getattr(self, name) for name in ("created", "updated", "retain_until")}
        return {**asdict(self), **{name: None if date is None else date.isoformat() for name, date in dates.items()}}


@dataclass(frozen=True)
class Refusal:
    """An image that was not enrolled.

    Attributes:
        index: its index among the given images.
        image: its path, or ``image 3``.
        reason: the reason of a `FaceError`, ``unreadable``, ``invalid embedding``, or ``resembles another``.
        message: an explanation.
    """

    index: int
    image: str
    reason: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True)
class Enrolment:
    """The result of enrolling images of a person.

    Attributes:
        person: the id of the person.
        templates: ids of the new templates.
        known: indices of the images whose content was already enrolled.
        flagged: indices of the images that were enrolled but do not resemble the person's others at an FMR of 1 %.
        refused: images that were not enrolled, with the reason.
        similar: other people who resemble the new images at the gallery's threshold. If there are any, nothing was
            enrolled unless ``allow_similar`` was given.
        checked: whether resemblance to others was checked, which needs a calibration for the requested rate.
    """

    person: str
    templates: tuple[str, ...]
    known: tuple[int, ...]
    flagged: tuple[int, ...]
    refused: tuple[Refusal, ...]
    similar: tuple[Candidate, ...]
    checked: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True)
class Deletion:
    """The result of a deletion. Searches that begin later do not find what was deleted.

    Attributes:
        people: number of deleted people.
        templates: number of deleted templates.
        erased: whether the bytes are gone from the store; if another process was reading, they are erased at the next
            write or by `Gallery.purge`.
    """

    people: int
    templates: int
    erased: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True)
class AuditEntry:
    """A line of the audit log; people appear only by their opaque ids.

    Attributes:
        time: UTC.
        action: ``create``, ``enrol``, ``update``, ``delete``, ``delete template``, ``purge``, ``export``, ``import`` or
            ``migrate``.
        opaque_id: of the person; None if the action concerns the whole gallery.
        detail: numbers.
    """

    time: datetime
    action: str
    opaque_id: str | None
    detail: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {**asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True)
class GalleryInfo:
    """A description of a gallery.

    Attributes:
        name: of the gallery within its store.
        place: the file, or the database without its password.
        contract: everything that determines a score; see `FacePipeline.contract`.
        embedding_size: length of an embedding.
        pooling: how the templates of a person are compared: ``mean`` or ``best``.
        people: number of people.
        templates: number of templates.
        crops: number of templates with a crop.
        created: UTC.
        erased: whether the bytes of everything deleted are gone from the store.
    """

    name: str
    place: str
    contract: dict[str, Any]
    embedding_size: int
    pooling: Pooling
    people: int
    templates: int
    crops: int
    created: datetime
    erased: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {**asdict(self), "created": self.created.isoformat()}
