"""Galleries in PostgreSQL with pgvector: many machines, several writers, and the search in the database."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from coreface.errors import ContractError, GalleryError, MissingExtraError, StorageError
from coreface.recognition.gallery_matrix import Hits, pooled
from coreface.recognition.gallery_sql import FORMAT, SqlStore, gallery_row
from coreface.recognition.gallery_store import Found, GalleryRecord

if TYPE_CHECKING:
    from psycopg import Connection

SearchIndex: TypeAlias = Literal["exact", "hnsw"]

_CONNECTIONS = 8
_CHUNK = 1000  # rows fetched at a time
_SPARE = 16  # further people whose exact scores are computed, because half precision may swap neighbours
_EF_SEARCH = 200  # of HNSW; with the default, 40, the right person comes first in only 88 % of searches among 100 000
_LOCK = 0x434F5246  # held while the tables are created

_TABLES = """
CREATE SCHEMA IF NOT EXISTS coreface;
CREATE TABLE IF NOT EXISTS coreface.format (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS coreface.gallery (
    number INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL UNIQUE, contract TEXT NOT NULL,
    embedding_size INTEGER NOT NULL, pooling TEXT NOT NULL, created TEXT NOT NULL, revision BIGINT NOT NULL DEFAULT 0,
    erase_due BIGINT, search TEXT NOT NULL DEFAULT 'exact');
CREATE TABLE IF NOT EXISTS coreface.person (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gallery INTEGER NOT NULL, id TEXT COLLATE "C" NOT NULL,
    opaque_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, metadata TEXT NOT NULL, created TEXT COLLATE "C" NOT NULL,
    updated TEXT COLLATE "C" NOT NULL, retain_until TEXT COLLATE "C", UNIQUE (gallery, id));
CREATE TABLE IF NOT EXISTS coreface.template (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gallery INTEGER NOT NULL, person BIGINT NOT NULL,
    id TEXT NOT NULL UNIQUE, digest BYTEA NOT NULL, created TEXT NOT NULL, flagged INTEGER NOT NULL,
    embedding BYTEA NOT NULL, crop BYTEA, UNIQUE (person, gallery, digest));
CREATE INDEX IF NOT EXISTS templates ON coreface.template (gallery, number);
CREATE TABLE IF NOT EXISTS coreface.audit (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gallery INTEGER NOT NULL, time TEXT NOT NULL,
    action TEXT NOT NULL, opaque_id TEXT, detail TEXT NOT NULL);
"""


class PostgresStore(SqlStore):
    """A gallery in a PostgreSQL database that has the extension pgvector.

    Each gallery has a table for searching, in half precision: one row per person with ``mean`` pooling, one per
    template with ``best``. The scores of the hits are computed from the full embeddings.

    Args:
        url: ``postgresql://user:password@host/database``.
        name: of the gallery.
        new: the record to create if the gallery does not exist; None raises.
        timeout: seconds to wait for a connection, and for another writer.
        search: of a new gallery: ``exact``, or ``hnsw``, an approximate index.

    Raises:
        GalleryError: there is no such gallery, or the database lacks pgvector.
        StorageError: the database cannot be reached or written.
        MissingExtraError: psycopg is not installed.
    """

    def __init__(
        self, url: str, name: str, new: GalleryRecord | None, timeout: float, search: SearchIndex | None
    ) -> None:
        try:
            import psycopg
            from psycopg_pool import ConnectionPool, PoolTimeout
        except ImportError as error:
            raise MissingExtraError('galleries in PostgreSQL need pip install "coreface[postgres]"') from error
        self._psycopg, self._pool_timeout = psycopg, PoolTimeout
        parts = urlsplit(url)
        self.name, self.place, self.timeout = name, f"postgresql://{parts.hostname or ''}{parts.path}", timeout
        self._local = threading.local()
        self._images: tuple[int, dict[int, int]] = (-1, {})
        self._pool = ConnectionPool(
            url,
            min_size=1,
            max_size=_CONNECTIONS,
            open=False,
            timeout=timeout,
            kwargs={"autocommit": True, "options": "-c search_path=coreface,public"},
            configure=self._configure,
            check=ConnectionPool.check_connection,  # replaces one closed by the server
            reconnect_timeout=timeout,
        )
        try:
            with self._errors():
                self._pool.open(wait=True, timeout=timeout)
            self._open(new, search)
        except BaseException:
            self._pool.close()
            raise

    def _configure(self, connection: "Connection[Any]") -> None:
        connection.execute(f"SET lock_timeout = '{int(1000 * self.timeout)}ms'")
        try:
            connection.execute(f"SET hnsw.ef_search = {_EF_SEARCH}")
            connection.execute("SET hnsw.iterative_scan = strict_order")
        except self._psycopg.Error:  # before the extension exists, when it is not used either
            return

    def _open(self, new: GalleryRecord | None, search: SearchIndex | None) -> None:
        if new is not None:
            with self._begin():
                self.run("SELECT pg_advisory_xact_lock(?)", [_LOCK])
                if not self.run("SELECT 1 FROM pg_type WHERE typname = 'halfvec'"):
                    raise GalleryError(
                        f"{self.place}: pgvector is not enabled in the database: CREATE EXTENSION vector"
                    )
                if not self.run("SELECT to_regclass('coreface.format')::text")[0][0]:
                    self.run(_TABLES)
                    self.run("INSERT INTO format VALUES (?)", [FORMAT])
                self._check_format()
                rows = self.run(
                    "INSERT INTO gallery (name, contract, embedding_size, pooling, created, search) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING number",
                    [*gallery_row(self.name, new), search or "exact"],
                )
                if rows:
                    self.gallery = rows[0][0]
                    self._make_entries(new.embedding_size, search or "exact")
                    self.log("create", None, {})
        if not self.run("SELECT to_regclass('coreface.format')::text")[0][0]:
            raise GalleryError(f"{self.place}: no gallery in the database; create one with coreface gallery create")
        self._check_format()
        rows = self.run("SELECT number, search FROM gallery WHERE name = ?", [self.name])
        if not rows:
            raise GalleryError(f"{self.place}: no gallery {self.name!r} in the database")
        self.gallery, found = rows[0]
        if search not in (None, found):
            raise GalleryError(f"{self.place}: the gallery searches {found}, not {search}: that cannot be changed")
        self._search: SearchIndex = found

    def _check_format(self) -> None:
        version = self.run("SELECT version FROM format")[0][0]
        if version != FORMAT:
            raise GalleryError(
                f"{self.place}: galleries of format {version}, expected {FORMAT}: they were written by a newer coreface"
            )

    @property
    def _entries(self) -> str:
        return f"entry_{int(self.gallery)}"

    def _make_entries(self, size: int, search: SearchIndex) -> None:
        self.run(
            f"CREATE TABLE {self._entries} (person BIGINT NOT NULL, images INTEGER NOT NULL, vector halfvec({size}))"
        )
        # Neither compressed nor in a separate TOAST table: the search reads every row.
        self.run(f"ALTER TABLE {self._entries} ALTER vector SET STORAGE PLAIN")
        self.run(f"CREATE INDEX ON {self._entries} (person)")
        if search == "hnsw":
            self.run(f"CREATE INDEX ON {self._entries} USING hnsw (vector halfvec_ip_ops)")

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._errors(), self._connected() as connection:
            cursor = connection.execute(statement.replace("?", "%s"), list(values) or None)
            return cursor.fetchall() if cursor.description else []

    def stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[list[tuple[Any, ...]]]:
        connection = self._local.connection
        with self._errors(), connection.cursor(name="coreface_stream") as cursor:
            cursor.execute(statement.replace("?", "%s"), list(values))
            while rows := cursor.fetchmany(_CHUNK):
                yield rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._begin():
            # Writers of one gallery wait for each other here.
            self.run("SELECT number FROM gallery WHERE number = ? FOR UPDATE", [self.gallery])
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._begin("ISOLATION LEVEL REPEATABLE READ"):
            yield

    @contextmanager
    def _begin(self, kind: str = "") -> Iterator[None]:
        if getattr(self._local, "connection", None) is not None:  # part of the surrounding one
            yield
            return
        with self._errors(), self._pool.connection() as connection:
            self._local.connection, self._local.marks = connection, set()
            try:
                connection.execute(f"BEGIN {kind}")
                yield
                connection.execute("COMMIT")
            except BaseException:
                if not connection.closed:
                    connection.rollback()
                raise
            finally:
                self._local.connection = None

    @contextmanager
    def _connected(self) -> "Iterator[Connection[Any]]":
        bound = getattr(self._local, "connection", None)
        if bound is not None:
            yield bound
            return
        with self._pool.connection() as connection:
            yield connection

    def index(self, people: list[int]) -> None:
        """Write the search rows of these people again."""
        pooling = self.record().pooling
        self.run(f"DELETE FROM {self._entries} WHERE person = ANY(?)", [people])
        for person in people:
            rows = self._templates_of([person]).get(person)
            if rows is None:
                continue
            vectors = pooled(rows.sum(axis=0)[None]) if pooling == "mean" else rows
            for vector in vectors:
                values = [person, len(rows), _literal(vector)]
                self.run(f"INSERT INTO {self._entries} (person, images, vector) VALUES (?, ?, ?::halfvec)", values)

    def replace_embeddings(self, embeddings: dict[str, NDArray[np.float32]], record: GalleryRecord) -> None:
        if self.record().embedding_size != record.embedding_size:
            self.run(f"DROP TABLE {self._entries}")
            self._make_entries(record.embedding_size, self._search)
        super().replace_embeddings(embeddings, record)

    @property
    def marks(self) -> set[str]:
        marks: set[str] = self._local.marks
        return marks

    def search(self, probes: NDArray[np.float32], top: int) -> Found:
        with self.snapshot():
            record = self.record()
            if probes.shape[1] != record.embedding_size:
                raise ContractError(
                    f"{self.place}: the embedding has {probes.shape[1]} numbers, expected {record.embedding_size}"
                )
            return Found(record, self._composition(record), [self._hits(probe, top, record) for probe in probes])

    def _hits(self, probe: NDArray[np.float32], top: int, record: GalleryRecord) -> Hits:
        wanted = top + _SPARE
        statement = f"SELECT person FROM {self._entries} ORDER BY vector <#> ?::halfvec LIMIT ?"
        while True:
            found = [row[0] for row in self.run(statement, [_literal(probe), wanted])]
            people = list(dict.fromkeys(found))
            if len(people) >= top or len(found) < wanted:
                break
            wanted *= 4  # several templates belong to one person
        hits = []
        for person, rows in self._templates_of(people).items():
            vectors = pooled(rows.sum(axis=0)[None]) if record.pooling == "mean" else rows
            hits.append((person, float((vectors @ probe).max())))
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:top]

    def _templates_of(self, people: list[int]) -> dict[int, NDArray[np.float32]]:
        rows = self.run(
            "SELECT person, embedding FROM template WHERE person = ANY(?) ORDER BY person, number", [people]
        )
        found: dict[int, list[NDArray[np.float32]]] = {}
        for person, embedding in rows:
            found.setdefault(person, []).append(self._vector(embedding))
        return {person: np.array(vectors) for person, vectors in found.items()}

    def _composition(self, record: GalleryRecord) -> dict[int, int]:
        """Return number of images -> number of people, counted once per revision."""
        revision, images = self._images
        if revision != record.revision:
            rows = self.run(
                "SELECT images, COUNT(*) FROM (SELECT DISTINCT person, images FROM "
                f"{self._entries}) AS people GROUP BY images ORDER BY images"
            )
            images = dict(rows)
            self._images = record.revision, images
        return images

    def erase(self) -> bool:
        """Rewrite the tables without deleted rows; searches wait meanwhile. Only `Gallery.purge` calls it."""
        record = self.record()
        if record.erase_due is None:
            return True
        readers = (
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL "
            "AND pid <> pg_backend_pid()"
        )
        if self.run(readers)[0][0]:  # rows visible to an open transaction would be kept
            return False
        try:
            for table in ("person", "template", self._entries):
                self.run(f"VACUUM FULL {table}")
            self.run("CHECKPOINT")
        except StorageError:
            return False
        done = "UPDATE gallery SET erase_due = NULL WHERE number = ? AND erase_due = ?"
        self.run(done, [self.gallery, record.erase_due])
        return True

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        errors = self._psycopg.errors
        try:
            yield
        except (errors.LockNotAvailable, self._pool_timeout) as error:
            raise StorageError(
                f"{self.place}: no connection, or another writer, for {self.timeout:g} seconds: try again"
            ) from error
        except (self._psycopg.OperationalError, errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as error:
            raise StorageError(f"{self.place}: {_first_line(error)}; the operation may be incomplete") from error
        except (errors.UndefinedTable, errors.DataException, errors.UndefinedColumn) as error:
            raise self.damaged(_first_line(error)) from error


def _literal(vector: NDArray[np.float32]) -> str:
    """Return a vector in pgvector's notation."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
