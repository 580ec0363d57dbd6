"""Where faces come from."""

import os

from coreface.data.folder import FolderSource
from coreface.data.loader import FaceLoader
from coreface.data.orl import CREDIT, OrlSource
from coreface.data.pairs import PairSet
from coreface.data.source import FaceSource, Notice, require_identities
from coreface.data.split import split_by_identity

__all__ = [
    "CREDIT",
    "FaceLoader",
    "FaceSource",
    "FolderSource",
    "Notice",
    "OrlSource",
    "PairSet",
    "open_faces",
    "require_identities",
    "split_by_identity",
]


def open_faces(path: str | os.PathLike[str]) -> FaceSource:
    """Open a source of faces.

    Args:
        path: a folder ``<identity>/<image>``, or the word ``orl`` for the ORL faces of the demo (a folder of that name
            is meant by ``./orl``).

    Raises:
        DataError: nothing that can be read lies there.
        MissingExtraError: ``orl`` without the package that carries it.
    """
    return OrlSource() if path == "orl" else FolderSource(path)
