"""What a gallery takes, and what it holds and reports about people."""

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
    """A face that was embedded elsewhere, by the pipeline of the gallery.

    Attributes:
        embedding: (D,) float, any length above 0.
        face: where it was found.
        crop: uint8 RGB (size, size, 3), which ``keep_crops`` needs.
    """

    embedding: NDArray[np.floating[Any]]
    face: Face | None = None
    crop: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Template:
    """The embedding of one image of a person, without the numbers themselves.

    Attributes:
        id: opaque, what `Gallery.delete_template` takes.
        created: when it was enrolled, UTC.
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
        id: the caller's, as in ``enrol("alice", ...)``.
        opaque_id: random; what the audit log calls the person.
        name: for people to read.
        metadata: JSON values of the caller.
        created: when the person was first enrolled, UTC.
        updated: when the person last changed, UTC.
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
        index: its number among the images given.
        image: its path, or ``image 3``.
        reason: that of `FaceError`, ``unreadable``, ``invalid embedding``, or ``resembles another``.
        message: the same in words.
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
    """What became of the images of a person.

    Attributes:
        person: the id of the person.
        templates: ids of the new templates.
        known: numbers of the images whose content was enrolled before.
        flagged: numbers of the images that were enrolled, but do not resemble the person's others at an FMR of 1 %.
        refused: what was not enrolled, and why.
        similar: other people whom the new images resemble at the gallery's threshold. Unless ``allow_similar`` was
            given, nothing was enrolled where there are any.
        checked: whether resemblance to others was checked: the calibration must resolve the requested rate.
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
    """What a deletion did. No search that begins after it finds what was deleted.

    Attributes:
        people: how many were deleted.
        templates: how many were deleted.
        erased: whether the bytes are gone from the store; where another process was reading they are erased at the next
            write, or by `Gallery.purge`.
    """

    people: int
    templates: int
    erased: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


@dataclass(frozen=True)
class AuditEntry:
    """A line of the audit log: who is told by opaque id alone.

    Attributes:
        time: UTC.
        action: ``create``, ``enrol``, ``update``, ``delete``, ``delete template``, ``purge``, ``export``, ``import`` or
            ``migrate``.
        opaque_id: of the person; None where the whole gallery is meant.
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
    """What a gallery is.

    Attributes:
        name: of the gallery within its store.
        place: the file, or the database without its password.
        contract: all that decides a score, as `FacePipeline.contract`.
        embedding_size: numbers in an embedding.
        pooling: how the templates of a person are compared: ``mean`` or ``best``.
        people: how many.
        templates: how many.
        crops: templates whose crop was kept.
        created: UTC.
        erased: whether the bytes of everything that was deleted are gone from the store.
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
