"""Management of the people of a gallery, which needs no encoder: list, change, delete, export, import, audit."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from coreface.errors import InputError, StorageError, UnknownPersonError
from coreface.files import user_path
from coreface.recognition import gallery_archive, gallery_migration
from coreface.recognition.gallery_archive import Transfer
from coreface.recognition.gallery_contract import check_contract
from coreface.recognition.gallery_enrolment import checked_id, checked_metadata, checked_name, checked_time
from coreface.recognition.gallery_records import AuditEntry, Deletion, GalleryInfo, Person, Template
from coreface.recognition.gallery_store import GalleryRecord, GalleryStore, now
from coreface.recognition.pipeline import FacePipeline

Self = TypeVar("Self", bound="ManagedGallery")
_MISSING: Any = object()  # an argument that was not given; None has a meaning


class ManagedGallery:
    """The part of a `Gallery` that needs no encoder.

    Attributes:
        store: the place where it is stored.
        pipeline: computes embeddings and decides; None if the gallery was opened without one.
    """

    def __init__(self, store: GalleryStore, pipeline: FacePipeline | None) -> None:
        self.store = store
        self._use(pipeline)
        self._check(store.record())

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def people(self, *, after: str | None = None, limit: int | None = None) -> list[Person]:
        """Return the people in the order of their ids.

        Args:
            after: the last id of the previous page.
            limit: number of people per page.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}, expected 1 or more")
        return self.store.people(after, limit)

    def person(self, id: str) -> Person:
        """Return a person. Raises `UnknownPersonError` if there is none with that id."""
        return self._known(id)[1]

    def templates(self, person: str) -> list[Template]:
        """Return the templates of a person, the oldest first. Raises `UnknownPersonError`."""
        return self.store.templates(self._known(person)[0])

    def rename(self, person: str, name: str) -> Person:
        """Give a person another name; the id stays. Raises `UnknownPersonError`."""
        return self.update(person, name=name)

    def update(
        self,
        person: str,
        *,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retain_until: datetime | None = _MISSING,
    ) -> Person:
        """Change fields of a person; those that are not given stay.

        Args:
            person: the id.
            name: the display name.
            metadata: JSON values, which replace the old ones.
            retain_until: when `purge` deletes the person, with a time zone; None for never.

        Raises:
            UnknownPersonError: the person is not in the gallery.
            InputError: a value cannot be stored.
        """
        changes: dict[str, Any] = {}
        if name is not None:
            changes["name"] = checked_name(name)
        if metadata is not None:
            changes["metadata"] = checked_metadata(metadata)
        if retain_until is not _MISSING:
            changes["retain_until"] = None if retain_until is None else checked_time(retain_until, "retain_until")
        with self.store.transaction():
            number, old = self._known(person)
            if changes:
                self.store.update_person(number, replace(old, **changes, updated=now()))
                self.store.log("update", old.opaque_id, {})
        return self.person(person)

    def delete(self, person: str) -> Deletion:
        """Delete a person with all templates and crops.

        Raises:
            UnknownPersonError: the person is not in the gallery.
            StorageError: the store cannot be written.
        """
        with self.store.transaction():
            number, found = self._known(person)
            templates = self.store.remove_people([number])
            self.store.log("delete", found.opaque_id, {"templates": templates})
        return Deletion(1, templates, self._erased())

    def delete_template(self, id: str) -> Deletion:
        """Delete one template by its id; the person stays. Raises `UnknownPersonError` if there is none."""
        with self.store.transaction():
            found = self.store.remove_template(id)
            if found is None:
                raise UnknownPersonError(f"no template {ascii(id)[:80]} in the gallery {self.store.name!r}")
            self.store.log("delete template", found[1].opaque_id, {"templates": 1})
        return Deletion(0, 1, self._erased())

    def purge(self, older_than: timedelta | None = None) -> Deletion:
        """Delete the people whose retention has ended, and complete pending erasures.

        Args:
            older_than: also delete people who have not been enrolled or updated for this long.
        """
        if older_than is not None and not older_than >= timedelta(0):
            raise InputError(f"older_than is {older_than}, expected a time of 0 or more")
        time = now()
        with self.store.transaction():
            found = self.store.numbers(time, None if older_than is None else time - older_than)
            templates = self.store.remove_people([number for number, _ in found]) if found else 0
            for _, opaque_id in found:
                self.store.log("purge", opaque_id, {})
        return Deletion(len(found), templates, self.store.erase())

    def export(self, path: str | os.PathLike[str], person: str | None = None) -> Transfer:
        """Write a person, or the whole gallery, to a file: fields, embeddings and kept crops.

        Raises:
            UnknownPersonError: the person is not in the gallery.
            StorageError: the file cannot be written.
        """
        found = None if person is None else self._known(person)[1]
        try:
            transfer = gallery_archive.export_people(self.store, user_path(path), None if found is None else found.id)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
        with self.store.transaction():
            self.store.log("export", None if found is None else found.opaque_id, {"people": transfer.people})
        return transfer

    def import_(self, path: str | os.PathLike[str]) -> Transfer:
        """Add the people of an exported file, all or none; for existing people, the new templates.

        Raises:
            ContractError: the file comes from the gallery of another pipeline.
            GalleryError: the file is damaged or not an export, or, if it contains crops and the gallery has a pipeline,
                its embeddings are not those of the crops.
            StorageError: the file cannot be read, or the gallery cannot be written.
        """
        try:
            return gallery_archive.import_people(self.store, user_path(path), self.pipeline)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror})") from error

    def migrate(self, pipeline: FacePipeline, progress: Callable[[int], None] | None = None) -> int:
        """Move the gallery to another encoder, using the stored crops; until the end, searches use the old one.

        Other processes that have it open get a `ContractError` at their next search, and must open it again.

        Args:
            pipeline: another encoder with the same alignment and detector.
            progress: called with the number of embedded crops.

        Returns:
            The number of templates.

        Raises:
            ContractError: this pipeline makes other crops, or the gallery has been created with it.
            GalleryError: some templates have no crop.
        """
        count = gallery_migration.migrate(self.store, pipeline, progress)
        self._use(pipeline)
        return count

    def info(self) -> GalleryInfo:
        """Return a description of the gallery."""
        record = self.store.record()
        counts = self.store.counts()
        contract = record.contract, record.embedding_size, record.pooling
        return GalleryInfo(
            self.store.name, self.store.place, *contract, *counts, record.created, record.erase_due is None
        )

    def audit(self, limit: int = 100) -> list[AuditEntry]:
        """Return the latest changes, the last first, with opaque ids and without names, embeddings and images."""
        if limit < 1:
            raise InputError(f"limit is {limit}, expected 1 or more")
        return self.store.audit(limit)

    def check(self) -> list[str]:
        """Look for damage in the store; return one line for each problem."""
        return self.store.check()

    def _use(self, pipeline: FacePipeline | None) -> None:
        self.pipeline = pipeline
        # As JSON stores it: tuples become lists.
        self._contract = None if pipeline is None else json.loads(json.dumps(pipeline.contract))

    def _check(self, record: GalleryRecord) -> None:
        """Raise `ContractError` if the gallery does not belong to the pipeline."""
        if self._contract is not None:
            check_contract(self.store.place, record.contract, self._contract)

    def _known(self, id: str) -> tuple[int, Person]:
        id = checked_id(id)
        found = self.store.person(id)
        if found is None:
            raise UnknownPersonError(f"no person {id!r} in the gallery {self.store.name!r}")
        return found

    def _erased(self) -> bool:
        return self.store.record().erase_due is None
