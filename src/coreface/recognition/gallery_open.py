"""Opens the store of a gallery: a file, or the URL of a database."""

import os
from pathlib import Path
from typing import Literal

from coreface.errors import InputError
from coreface.files import user_path
from coreface.recognition.gallery_sqlite import SqliteStore
from coreface.recognition.gallery_store import GalleryRecord, GalleryStore

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")


def open_store(
    place: str | os.PathLike[str],
    name: str,
    new: GalleryRecord | None,
    timeout: float,
    index: Literal["exact", "hnsw"] | None,
) -> GalleryStore:
    """Open the store of a gallery.

    Args:
        place: a file, ``sqlite:///file`` or ``postgresql://...``.
        name: of the gallery.
        new: the record to create if the gallery does not exist; None raises.
        timeout: seconds to wait for another writer.
        index: the kind of search of a new gallery in PostgreSQL.

    Raises:
        GalleryError: there is no such gallery, or it is damaged.
        StorageError: the store cannot be opened.
        MissingExtraError: a package is not installed.
        InputError: a URL of another kind, or an index for a file.
    """
    text = os.fsdecode(place)
    if text.startswith(_POSTGRES):
        from coreface.recognition.gallery_postgres import PostgresStore

        return PostgresStore(text, name, new, timeout, index)
    if index == "hnsw":
        raise InputError("a file is always searched exactly: index='hnsw' goes with postgresql://")
    if text.startswith(_SQLITE):
        return SqliteStore(Path(text.removeprefix(_SQLITE)), name, new, timeout)
    if "://" in text:
        scheme = text.split("://")[0]
        raise InputError(
            f"{scheme}:// is not a store of galleries, expected a file, sqlite:///file or postgresql://..."
        )
    return SqliteStore(user_path(place), name, new, timeout)
