"""One path is enough: what lies there says what it is."""

import os
from pathlib import Path

from coreface.data.folder import FolderSource
from coreface.data.orl import OrlSource
from coreface.data.records import RecordSource
from coreface.data.source import FaceSource
from coreface.errors import DataError

_PAIR_SUFFIXES = (".bin", ".txt", ".csv")


def open_faces(path: str | os.PathLike[str]) -> FaceSource:
    """Open a source of faces.

    Args:
        path: a folder ``<identity>/<image>``; a RecordIO ``.rec``, or the folder that holds it; or the word ``orl`` for
            the ORL faces of the demo (a folder of that name is meant by ``./orl``).

    Raises:
        DataError: nothing that can be read lies there.
        MissingExtraError: ``orl`` without the package that carries it.
    """
    if path == "orl":
        return OrlSource()
    where = Path(path)
    if where.suffix in (".rec", ".idx") and not where.is_dir():
        return RecordSource(where)
    if where.is_dir() and any(where.glob("*.rec")):
        return RecordSource(where)
    if where.is_file() and where.suffix in _PAIR_SUFFIXES:
        raise DataError(f"{where}: a set of pairs has no identities to list; open it with open_pairs, or give --pairs")
    return FolderSource(where)
