"""One word opens the store of a gallery: a file, or the URL of a database."""

import os
from pathlib import Path

from coreface.errors import InputError
from coreface.files import user_path
from coreface.recognition.gallery_sqlite import SqliteStore
from coreface.recognition.gallery_store import GalleryRecord, GalleryStore

_SQLITE = "sqlite:///"


def open_store(place: str | os.PathLike[str], name: str, new: GalleryRecord | None, timeout: float) -> GalleryStore:
    """Open the store of a gallery.

    Args:
        place: a file or ``sqlite:///file``.
        name: of the gallery.
        new: what to store of the gallery where it does not exist; None raises.
        timeout: seconds to wait for another writer.

    Raises:
        GalleryError: there is no such gallery, or it is damaged.
        StorageError: the store cannot be opened.
        InputError: a URL of another kind.
    """
    text = os.fsdecode(place)
    if text.startswith(_SQLITE):
        return SqliteStore(Path(text.removeprefix(_SQLITE)), name, new, timeout)
    if "://" in text:
        raise InputError(f"{text.split('://')[0]}:// is no store of galleries, expected a file or sqlite:///file")
    return SqliteStore(user_path(place), name, new, timeout)
