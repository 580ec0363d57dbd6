"""SQL shared by the stores of galleries in SQLite and PostgreSQL."""

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import GalleryError
from coreface.evaluation.template_scores import POOLINGS
from coreface.recognition.gallery_records import AuditEntry, Person, Template
from coreface.recognition.gallery_store import Found, GalleryRecord, StoredTemplate, now

FORMAT = 1  #: version of the tables
_AUDIT_LINES = 10_000  # lines of the audit log that are kept
_PERSON = (
    "SELECT number, id, opaque_id, name, metadata, created, updated, retain_until, "
    "(SELECT COUNT(*) FROM template WHERE template.person = person.number) FROM person"
)
_TEMPLATE = "id, created, flagged, crop IS NOT NULL"
_SOME = 500  # values per list in a statement


class SqlStore(ABC):
    """A gallery in an SQL database.

    Attributes:
        name: of the gallery.
        place: the file, or the database without its password.
        gallery: number of the gallery in the database.
    """

    name: str
    place: str
    gallery: int

    @abstractmethod
    def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement with ``?`` for values, and return its rows; outside of a transaction it is one by itself."""

    @abstractmethod
    def stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[list[tuple[Any, ...]]]:
        """Run a statement and yield its rows in groups, within `snapshot` or `transaction`."""

    @abstractmethod
    def index(self, people: list[int]) -> None:
        """Update the search rows after templates of people were added or removed, within the same transaction."""

    @property
    @abstractmethod
    def marks(self) -> set[str]:
        """Notes of the present transaction; empty at its beginning."""

    @abstractmethod
    def search(self, probes: NDArray[np.float32], top: int) -> Found:
        """As `GalleryStore.search`."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """As `GalleryStore.transaction`."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """As `GalleryStore.snapshot`."""

    @abstractmethod
    def erase(self) -> bool:
        """As `GalleryStore.erase`."""

    def damaged(self, why: object) -> GalleryError:
        """Return the error for a damaged store."""
        return GalleryError(
            f"{self.place}: the gallery is damaged ({why}): run coreface gallery check, or restore a backup"
        )

    def record(self) -> GalleryRecord:
        rows = self.run(
            "SELECT contract, embedding_size, pooling, created, revision, erase_due FROM gallery WHERE number = ?",
            [self.gallery],
        )
        if not rows:
            raise GalleryError(f"{self.place}: the gallery {self.name!r} has been removed")
        contract, size, pooling, created, revision, due = rows[0]
        if pooling not in POOLINGS or type(size) is not int or size < 1 or type(revision) is not int:
            raise self.damaged(f"pooling {pooling!r}, embedding size {size!r}, revision {revision!r}")
        return GalleryRecord(self._json(contract), size, pooling, self._time(created), revision, due)

    def person(self, id: str) -> tuple[int, Person] | None:
        rows = self.run(f"{_PERSON} WHERE gallery = ? AND id = ?", [self.gallery, id])
        return self._person(rows[0]) if rows else None

    def people_by_number(self, numbers: Iterable[int]) -> dict[int, Person]:
        found: dict[int, Person] = {}
        for some in _groups(list(numbers)):
            marks = ", ".join("?" * len(some))
            rows = self.run(f"{_PERSON} WHERE number IN ({marks})", some)
            found |= dict(map(self._person, rows))
        return found

    def people(self, after: str | None, limit: int | None) -> list[Person]:
        which = "WHERE gallery = ? AND id > ? ORDER BY id LIMIT ?"
        most = 2**62 if limit is None else limit
        rows = self.run(f"{_PERSON} {which}", [self.gallery, after or "", most])
        return [self._person(row)[1] for row in rows]

    def numbers(self, retained_until: datetime, updated_before: datetime | None) -> list[tuple[int, str]]:
        before = "" if updated_before is None else _text(updated_before)
        rows = self.run(
            "SELECT number, opaque_id FROM person WHERE gallery = ? AND (retain_until <= ? OR updated < ?)",
            [self.gallery, _text(retained_until), before],
        )
        return [(number, opaque_id) for number, opaque_id in rows]

    def templates(self, person: int) -> list[Template]:
        rows = self.run(f"SELECT {_TEMPLATE} FROM template WHERE person = ? ORDER BY number", [person])
        return [self._template(row) for row in rows]

    def stored(self, person: int | None) -> Iterator[tuple[int, StoredTemplate]]:
        which, value = ("gallery = ?", self.gallery) if person is None else ("person = ?", person)
        statement = f"SELECT person, {_TEMPLATE}, digest, embedding, crop FROM template WHERE {which} ORDER BY number"
        for rows in self.stream(statement, [value]):
            for number, *template, digest, embedding, crop in rows:
                yield number, StoredTemplate(self._template(template), digest, self._vector(embedding), crop)

    def template_ids(self) -> set[str]:
        return {row[0] for row in self.run("SELECT id FROM template WHERE gallery = ?", [self.gallery])}

    def crop(self, template: str) -> bytes | None:
        rows = self.run("SELECT crop FROM template WHERE gallery = ? AND id = ?", [self.gallery, template])
        return rows[0][0] if rows else None

    def counts(self) -> tuple[int, int, int]:
        people = self.run("SELECT COUNT(*) FROM person WHERE gallery = ?", [self.gallery])[0][0]
        templates, crops = self.run("SELECT COUNT(*), COUNT(crop) FROM template WHERE gallery = ?", [self.gallery])[0]
        return people, templates, crops

    def add_person(self, person: Person) -> int:
        retain = None if person.retain_until is None else _text(person.retain_until)
        values = [person.id, person.opaque_id, person.name, json.dumps(person.metadata)]
        rows = self.run(
            "INSERT INTO person (gallery, id, opaque_id, name, metadata, created, updated, retain_until) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
            [self.gallery, *values, _text(person.created), _text(person.updated), retain],
        )
        number: int = rows[0][0]
        return number

    def update_person(self, number: int, person: Person) -> None:
        retain = None if person.retain_until is None else _text(person.retain_until)
        self.run(
            "UPDATE person SET name = ?, metadata = ?, updated = ?, retain_until = ? WHERE number = ?",
            [person.name, json.dumps(person.metadata), _text(person.updated), retain, number],
        )

    def remove_people(self, numbers: list[int]) -> int:
        removed = 0
        for some in _groups(numbers):
            marks = ", ".join("?" * len(some))
            removed += len(self.run(f"DELETE FROM template WHERE person IN ({marks}) RETURNING number", some))
            self.run(f"DELETE FROM person WHERE number IN ({marks})", some)
        self._changed(numbers, removed=True)
        return removed

    def add_templates(self, person: int, templates: list[StoredTemplate]) -> list[str]:
        added = []
        for stored in templates:
            template = stored.template
            facts = [template.id, stored.digest, _text(template.created), int(template.flagged)]
            rows = self.run(
                "INSERT INTO template (gallery, person, id, digest, created, flagged, embedding, crop) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (gallery, person, digest) DO NOTHING RETURNING id",
                [self.gallery, person, *facts, stored.embedding.astype("<f4").tobytes(), stored.crop],
            )
            added += [row[0] for row in rows]
        if added:
            self._changed([person])
        return added

    def remove_template(self, id: str) -> tuple[int, Person] | None:
        rows = self.run("DELETE FROM template WHERE gallery = ? AND id = ? RETURNING person", [self.gallery, id])
        if not rows:
            return None
        self._changed([rows[0][0]], removed=True)
        number: int = rows[0][0]
        return number, self.people_by_number([number])[number]

    def replace_embeddings(self, embeddings: dict[str, NDArray[np.float32]], record: GalleryRecord) -> None:
        for id, embedding in embeddings.items():
            self.run(
                "UPDATE template SET embedding = ? WHERE gallery = ? AND id = ?",
                [embedding.astype("<f4").tobytes(), self.gallery, id],
            )
        self.run(
            "UPDATE gallery SET contract = ?, embedding_size = ? WHERE number = ?",
            [json.dumps(record.contract, sort_keys=True), record.embedding_size, self.gallery],
        )
        people = self.run("SELECT number FROM person WHERE gallery = ?", [self.gallery])
        self._changed([row[0] for row in people], removed=True)

    def log(self, action: str, opaque_id: str | None, detail: dict[str, int]) -> None:
        rows = self.run(
            "INSERT INTO audit (gallery, time, action, opaque_id, detail) VALUES (?, ?, ?, ?, ?) RETURNING number",
            [self.gallery, _text(now()), action, opaque_id, json.dumps(detail)],
        )
        self.run("DELETE FROM audit WHERE gallery = ? AND number <= ?", [self.gallery, rows[0][0] - _AUDIT_LINES])

    def audit(self, limit: int) -> list[AuditEntry]:
        rows = self.run(
            "SELECT time, action, opaque_id, detail FROM audit WHERE gallery = ? ORDER BY number DESC LIMIT ?",
            [self.gallery, limit],
        )
        return [AuditEntry(self._time(time), action, id, self._json(detail)) for time, action, id, detail in rows]

    def check(self) -> list[str]:
        """Return the problems of the contents."""
        wrong = []
        orphans = self.run(
            "SELECT COUNT(*) FROM template WHERE gallery = ? AND person NOT IN (SELECT number FROM person)",
            [self.gallery],
        )[0][0]
        if orphans:
            wrong.append(f"{orphans} templates belong to no person")
        size, bad = self.record().embedding_size, 0
        with self.snapshot():
            for rows in self.stream("SELECT embedding FROM template WHERE gallery = ?", [self.gallery]):
                for (blob,) in rows:
                    vector = np.frombuffer(blob, "<f4") if isinstance(blob, bytes) and len(blob) == 4 * size else None
                    bad += vector is None or not abs(float(vector @ vector) - 1) < 1e-3
        if bad:
            wrong.append(f"{bad} embeddings are not {size} numbers of unit length")
        return wrong

    def _changed(self, people: list[int], removed: bool = False) -> None:
        # Once per transaction: PostgreSQL reads all versions of the row at each further change.
        for mark, change in (("changed", "revision = revision + 1"), ("removed", "erase_due = revision")):
            if mark not in self.marks and (removed or mark == "changed"):
                self.run(f"UPDATE gallery SET {change} WHERE number = ?", [self.gallery])
                self.marks.add(mark)
        self.index(people)

    def _person(self, row: Sequence[Any]) -> tuple[int, Person]:
        number, id, opaque_id, name, metadata, created, updated, retain, templates = row
        times = self._time(created), self._time(updated), None if retain is None else self._time(retain)
        return number, Person(id, opaque_id, name, self._json(metadata), *times, templates)

    def _template(self, row: Sequence[Any]) -> Template:
        id, created, flagged, has_crop = row
        return Template(id, self._time(created), bool(flagged), bool(has_crop))

    def _vector(self, blob: Any) -> NDArray[np.float32]:
        try:
            return np.frombuffer(blob, "<f4")
        except (TypeError, ValueError) as error:
            raise self.damaged(error) from error

    def _json(self, text: Any) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self.damaged(error) from error
        if not isinstance(content, dict):
            raise self.damaged(f"{text[:40]!r} is not a JSON object")
        return content

    def _time(self, text: Any) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except (TypeError, ValueError) as error:
            raise self.damaged(error) from error


def new_id() -> str:
    """Return a random id, which reveals nothing about the person."""
    return secrets.token_hex(16)


def gallery_row(name: str, record: GalleryRecord) -> list[Any]:
    """Return the values of a new row of the table of galleries."""
    contract = json.dumps(record.contract, sort_keys=True)
    return [name, contract, record.embedding_size, record.pooling, _text(record.created)]


def _text(time: datetime) -> str:
    """Return a time as text of fixed width, so that texts sort like times."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _groups(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _SOME):
        yield values[start : start + _SOME]
