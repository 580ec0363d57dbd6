"""The interface of the stores of galleries."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.template_scores import Pooling
from coreface.recognition.gallery_matrix import Hits
from coreface.recognition.gallery_records import AuditEntry, Person, Template


@dataclass(frozen=True)
class GalleryRecord:
    """The stored description of a gallery.

    Attributes:
        contract: as `FacePipeline.contract`.
        embedding_size: length of an embedding.
        pooling: ``mean`` or ``best``.
        created: UTC.
        revision: increases with every change of people or templates.
        erase_due: revision of the last deletion whose bytes may still exist; None if all are gone.
    """

    contract: dict[str, Any]
    embedding_size: int
    pooling: Pooling
    created: datetime
    revision: int = 0
    erase_due: int | None = None


@dataclass(frozen=True, eq=False)
class StoredTemplate:
    """Everything stored about an image.

    Attributes:
        template: the entry without the embedding.
        digest: SHA-256 of what was enrolled.
        embedding: (D,) float32, unit length.
        crop: PNG; None if it was not kept.
    """

    template: Template
    digest: bytes
    embedding: NDArray[np.float32]
    crop: bytes | None


@dataclass(frozen=True)
class Found:
    """The result of searches for several probes in one state of the gallery.

    Attributes:
        record: of the gallery in that state.
        images: number of images -> number of people with that many templates.
        hits: for each probe.
    """

    record: GalleryRecord
    images: dict[int, int]
    hits: list[Hits]

    @property
    def size(self) -> int:
        """People with ``mean`` pooling, templates with ``best``."""
        best = self.record.pooling == "best"
        return sum(people * (images if best else 1) for images, people in self.images.items())


class GalleryStore(Protocol):
    """One gallery in a store. People are identified by an internal number, which is never used twice.

    Every method raises `StorageError` if the store cannot be read or written, and `GalleryError` if it is damaged.
    Methods may be called from several threads.
    """

    name: str
    place: str

    def record(self) -> GalleryRecord:
        """Return the description of the gallery."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make all changes within it or, after an exception, none. Writers of the same gallery wait for each other."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Let all reads within it see one state."""

    def search(self, probes: NDArray[np.float32], top: int) -> Found:
        """Return the people most similar to each probe (n, D), in the present state. Not after
        a change in a transaction."""

    def person(self, id: str) -> tuple[int, Person] | None:
        """Return a person by the caller's id."""

    def people_by_number(self, numbers: Iterable[int]) -> dict[int, Person]:
        """Return the people with these numbers who exist."""

    def people(self, after: str | None, limit: int | None) -> list[Person]:
        """Return people in the order of their ids, those after ``after``."""

    def numbers(self, retained_until: datetime, updated_before: datetime | None) -> list[tuple[int, str]]:
        """Return number and opaque id of the people whose retention has ended, or who have not been updated since."""

    def templates(self, person: int) -> list[Template]:
        """Return the templates of a person, the oldest first."""

    def stored(self, person: int | None) -> Iterator[tuple[int, StoredTemplate]]:
        """Yield everything stored about the images of a person, or of everybody, with the number of the person."""

    def template_ids(self) -> set[str]:
        """Return the ids of all templates."""

    def crop(self, template: str) -> bytes | None:
        """Return the crop of a template, PNG; None if there is none, or no template."""

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of people, templates and crops."""

    def add_person(self, person: Person) -> int:
        """Store a person without templates, and return the number."""

    def update_person(self, number: int, person: Person) -> None:
        """Store name, metadata, retention and the time of the update."""

    def remove_people(self, numbers: list[int]) -> int:
        """Delete people with their templates, and return the number of templates."""

    def add_templates(self, person: int, templates: list[StoredTemplate]) -> list[str]:
        """Store those whose digest is new for the person, and return their ids."""

    def remove_template(self, id: str) -> tuple[int, Person] | None:
        """Delete a template, and return the number of its person; None if there is none."""

    def replace_embeddings(self, embeddings: dict[str, NDArray[np.float32]], record: GalleryRecord) -> None:
        """Replace the embeddings of all templates, by id, together with the contract."""

    def log(self, action: str, opaque_id: str | None, detail: dict[str, int]) -> None:
        """Add a line to the audit log; the oldest lines are dropped."""

    def audit(self, limit: int) -> list[AuditEntry]:
        """Return the latest lines of the audit log, the last first."""

    def erase(self) -> bool:
        """Remove the bytes of deleted content, and return whether none are left."""

    def check(self) -> list[str]:
        """Return the problems of the store, one line each."""

    def close(self) -> None:
        """Close it."""


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)
