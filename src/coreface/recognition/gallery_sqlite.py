"""Galleries in an SQLite file: many readers, one writer at a time, and the templates in memory for searching."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import ContractError, GalleryError, StorageError
from coreface.recognition.gallery_matrix import TemplateMatrix
from coreface.recognition.gallery_sql import FORMAT, SqlStore, gallery_row
from coreface.recognition.gallery_store import Found, GalleryRecord

_APPLICATION = 0x434F5246  # "CORF", in the header of the file
_PAGE = 16384  # bytes; an embedding of 2 KB wastes half of a page of 4 KB
_CHUNK = 2048  # rows read at a time
_CHANGED_IN_FULL = 2000  # changed people, beyond which all templates are read again
_ERASE_WAIT = 1.0  # seconds to wait for readers before erasing

_TABLES = """
CREATE TABLE gallery (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, contract TEXT NOT NULL, embedding_size INTEGER NOT NULL,
    pooling TEXT NOT NULL, created TEXT NOT NULL, revision INTEGER NOT NULL DEFAULT 0, erase_due INTEGER) STRICT;
CREATE TABLE person (
    number INTEGER PRIMARY KEY AUTOINCREMENT, gallery INTEGER NOT NULL, id TEXT NOT NULL,
    opaque_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, metadata TEXT NOT NULL, created TEXT NOT NULL,
    updated TEXT NOT NULL, retain_until TEXT, UNIQUE (gallery, id)) STRICT;
CREATE TABLE template (
    number INTEGER PRIMARY KEY AUTOINCREMENT, gallery INTEGER NOT NULL, person INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL, created TEXT NOT NULL, flagged INTEGER NOT NULL,
    embedding BLOB NOT NULL, crop BLOB) STRICT;
CREATE UNIQUE INDEX content ON template (person, gallery, digest);
CREATE TABLE change (person INTEGER PRIMARY KEY, gallery INTEGER NOT NULL, revision INTEGER NOT NULL) STRICT;
CREATE INDEX changes ON change (gallery, revision);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, gallery INTEGER NOT NULL, time TEXT NOT NULL, action TEXT NOT NULL,
    opaque_id TEXT, detail TEXT NOT NULL) STRICT;
"""


class SqliteStore(SqlStore):
    """A gallery in an SQLite file.

    The templates are read into memory at the first search. Each search first reads the revision of the gallery, and
    then the people that other processes have changed.

    Args:
        path: the file.
        name: of the gallery in it.
        new: the record to create if the gallery does not exist; None raises.
        timeout: seconds to wait for another writer.

    Raises:
        GalleryError: there is no such gallery, or the file is damaged, or belongs to another program.
        StorageError: it cannot be opened or written.
    """

    def __init__(self, path: Path, name: str, new: GalleryRecord | None, timeout: float) -> None:
        self.name, self.place, self.timeout = name, str(path), timeout
        self._lock = threading.RLock()
        self._inside = ""  # the kind of the surrounding transaction
        self._written = False
        self._marks: set[str] = set()
        self._matrix: TemplateMatrix | None = None
        self._revision = -1
        if not path.exists() and new is None:
            raise GalleryError(f"{path}: no such gallery; create one with coreface gallery create")
        if path.is_dir() or not path.parent.is_dir():
            raise GalleryError(
                f"{path}: {'a folder' if path.is_dir() else 'no such folder'}, expected the path of a file"
            )
        with self._errors():
            if not path.exists():  # readable by its owner only; SQLite gives the files next to it the same rights
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(path, timeout, isolation_level=None, check_same_thread=False)
            try:
                self._open(new)
            except BaseException:
                self._connection.close()
                raise

    def _open(self, new: GalleryRecord | None) -> None:
        if self._value("PRAGMA user_version") == 0 and self._value("SELECT COUNT(*) FROM sqlite_schema") == 0:
            if new is None:
                raise GalleryError(f"{self.place}: an empty file; create a gallery in it with coreface gallery create")
            self.run(f"PRAGMA page_size = {_PAGE}")
            self.run("PRAGMA journal_mode = WAL")
        elif self._value("PRAGMA application_id") != _APPLICATION:
            raise GalleryError(f"{self.place}: an SQLite database of another program, expected a gallery")
        for pragma in ("secure_delete = ON", "synchronous = FULL", "temp_store = MEMORY", "trusted_schema = OFF"):
            self.run(f"PRAGMA {pragma}")
        self.gallery = 0
        if not self._exists() and new is not None:
            with self._begin("IMMEDIATE"):
                self._make(new)
        if not self._exists():
            names = ", ".join(repr(row[0]) for row in self.run("SELECT name FROM gallery ORDER BY name"))
            raise GalleryError(f"{self.place}: no gallery {self.name!r} in it, only {names}")

    def _exists(self) -> bool:
        """Look for the gallery in the file."""
        if self._value("PRAGMA user_version") == 0:
            return False
        self._check_format()
        rows = self.run("SELECT number FROM gallery WHERE name = ?", [self.name])
        if rows:
            self.gallery = rows[0][0]
        return bool(rows)

    def _make(self, new: GalleryRecord) -> None:
        """Create the gallery, and the tables in a new file, unless another process has done so."""
        if self._value("PRAGMA user_version") == 0:
            for statement in _TABLES.split(";")[:-1]:
                self.run(statement)
            self.run(f"PRAGMA application_id = {_APPLICATION}")
            self.run(f"PRAGMA user_version = {FORMAT}")
        if not self._exists():
            columns = "name, contract, embedding_size, pooling, created"
            self.run(f"INSERT INTO gallery ({columns}) VALUES (?, ?, ?, ?, ?)", gallery_row(self.name, new))
            self._exists()
            self.log("create", None, {})

    def _check_format(self) -> None:
        version = self._value("PRAGMA user_version")
        if version != FORMAT:
            raise GalleryError(
                f"{self.place}: a gallery of format {version}, expected {FORMAT}: it was written by a newer coreface"
            )

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            if self._inside and not statement.startswith(("SELECT", "PRAGMA")):
                self._written = True
            return self._connection.execute(statement, values).fetchall()

    def stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[list[tuple[Any, ...]]]:
        assert self._inside
        with self._errors():
            cursor = self._connection.execute(statement, values)
            while rows := cursor.fetchmany(_CHUNK):
                yield rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._begin("IMMEDIATE"):
            yield
        if not self._inside and self.record().erase_due is not None:
            self.erase()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._begin("DEFERRED"):
            yield

    @contextmanager
    def _begin(self, kind: str) -> Iterator[None]:
        with self._lock:
            if self._inside:  # part of the surrounding one
                assert kind == "DEFERRED" or self._inside == "IMMEDIATE"
                yield
                return
            self.run(f"BEGIN {kind}")
            self._inside, self._written = kind, False
            self._marks.clear()
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                with self._errors():
                    self._connection.rollback()
                raise
            finally:
                self._inside = ""

    def index(self, people: list[int]) -> None:
        with self._lock, self._errors():
            self._connection.executemany(
                "INSERT OR REPLACE INTO change SELECT ?, number, revision FROM gallery WHERE number = ?",
                [(person, self.gallery) for person in people],
            )

    @property
    def marks(self) -> set[str]:
        return self._marks

    def search(self, probes: NDArray[np.float32], top: int) -> Found:
        with self._lock:
            # Uncommitted changes must not get into memory.
            assert not (self._inside and self._written)
            matrix, record = self._refreshed()
            if probes.shape[1] != record.embedding_size:
                raise ContractError(
                    f"{self.place}: the embedding has {probes.shape[1]} numbers, expected {record.embedding_size}"
                )
            return Found(record, matrix.images, matrix.search(probes, top))

    def erase(self) -> bool:
        """Write the write-ahead log into the file and empty it, unless a reader prevents it.

        In the file itself deleted content is overwritten with zeros.
        """
        with self._lock:
            due = self.record().erase_due
            self.run(f"PRAGMA busy_timeout = {int(1000 * min(self.timeout, _ERASE_WAIT))}")
            try:
                blocked = self.run("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
                if not blocked and due is not None:
                    self.run(
                        "UPDATE gallery SET erase_due = NULL WHERE number = ? AND erase_due = ?", [self.gallery, due]
                    )
            except StorageError:  # another process writes
                return False
            finally:
                self.run(f"PRAGMA busy_timeout = {int(1000 * self.timeout)}")
            return not blocked

    def check(self) -> list[str]:
        """Return the problems that SQLite finds in the file, and those of the contents."""
        found = [row[0] for row in self.run("PRAGMA integrity_check")]
        return [line for line in found if line != "ok"] or super().check()

    def close(self) -> None:
        """Close the file. The last process to do so writes the log into it."""
        with self._lock, self._errors():
            self._connection.close()
            self._matrix = None

    def _refreshed(self) -> tuple[TemplateMatrix, GalleryRecord]:
        with self.snapshot():
            record = self.record()
            if self._matrix is None:
                self._matrix = self._loaded(record)
            elif record.revision != self._revision:
                changed = self.run(
                    "SELECT person FROM change WHERE gallery = ? AND revision > ?", [self.gallery, self._revision]
                )
                people = [row[0] for row in changed]
                if len(people) > _CHANGED_IN_FULL:
                    self._matrix = None  # before the new one is built: both may not fit into memory
                    self._matrix = self._loaded(record)
                else:
                    self._matrix.replace(np.array(people, np.int64), *self._templates_of(people, record))
            self._revision = record.revision
            return self._matrix, record

    def _loaded(self, record: GalleryRecord) -> TemplateMatrix:
        people = self.stream("SELECT number FROM person WHERE gallery = ? ORDER BY number", [self.gallery])
        numbers = np.fromiter((row[0] for rows in people for row in rows), np.int64)
        count = self._value("SELECT COUNT(*) FROM template WHERE gallery = ?", [self.gallery])
        statement = "SELECT person, embedding FROM template WHERE gallery = ? ORDER BY number"
        chunks = (self._chunk(rows, record) for rows in self.stream(statement, [self.gallery]))
        try:
            return TemplateMatrix.load(numbers, count, chunks, record.embedding_size, record.pooling)
        except GalleryError as error:
            raise self.damaged(error) from error

    def _templates_of(self, people: list[int], record: GalleryRecord) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows: list[tuple[Any, ...]] = []
        for person in people:
            rows += self.run(
                "SELECT person, embedding FROM template WHERE gallery = ? AND person = ?", [self.gallery, person]
            )
        return self._chunk(rows, record)

    def _chunk(
        self, rows: list[tuple[Any, ...]], record: GalleryRecord
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        try:
            owners = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            vectors = np.frombuffer(b"".join([row[1] for row in rows]), "<f4").reshape(len(rows), record.embedding_size)
        except (TypeError, ValueError) as error:
            raise self.damaged(error) from error
        return owners, vectors

    def _value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self.run(statement, values)[0][0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise StorageError(
                    f"{self.place}: another process has been writing for {self.timeout:g} seconds: try again"
                ) from error
            if name.startswith("SQLITE_FULL"):
                raise StorageError(f"{self.place}: the disk is full; nothing was changed") from error
            if name.startswith("SQLITE_READONLY"):
                raise StorageError(
                    f"{self.place}: the file or its folder cannot be written; nothing was changed"
                ) from error
            if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
                raise StorageError(f"{self.place}: cannot be opened or written ({error})") from error
            if name.startswith("SQLITE_NOTADB"):
                raise GalleryError(f"{self.place}: not an SQLite file, expected a gallery") from error
            if "closed database" in str(error):
                raise GalleryError(f"{self.place}: the gallery is closed") from error
            raise self.damaged(error) from error
        except (UnicodeDecodeError, OverflowError) as error:
            raise self.damaged(error) from error
        except OSError as error:
            raise StorageError(f"{self.place}: cannot be opened ({error.strerror})") from error
