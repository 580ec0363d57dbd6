"""One path is enough: what lies there says what it is."""

import os
from pathlib import Path

from coreface.data.folder import FolderSource
from coreface.data.orl import OrlSource
from coreface.data.pairs.bin import BinPairs
from coreface.data.pairs.lists import read_pairs_csv, read_pairs_txt
from coreface.data.pairs.pair_set import PairSet
from coreface.data.recordio.source import RecordSource
from coreface.data.source import FaceSource
from coreface.data.tar_shards import SHARD_SUFFIXES, ShardSource, shards_in
from coreface.errors import DataError

_PAIR_SUFFIXES = (".bin", ".txt", ".csv")


def open_faces(path: str | os.PathLike[str]) -> FaceSource:
    """Open a source of faces.

    Args:
        path: a folder ``<identity>/<image>``; a RecordIO ``.rec``, or the folder that holds it; a tar shard
            (``key.jpg`` and ``key.cls``), or a folder of them; or the word ``orl`` for
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
    if shards_in(where) if where.is_dir() else where.name.lower().endswith(SHARD_SUFFIXES):
        return ShardSource(where)
    if where.is_file() and where.suffix in _PAIR_SUFFIXES:
        raise DataError(f"{where}: a set of pairs has no identities to list; open it with open_pairs, or give --pairs")
    return FolderSource(where)


def open_pairs(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> PairSet:
    """Open a set of verification pairs.

    Args:
        path: a ``.bin`` (a pickle of encoded images and answers; nothing in it is run), a ``.csv`` with the fields
            ``path1,path2,same[,fold]``, or a text as LFW's ``pairs.txt``.
        images: the folder with the images of a list; None for the folder ``images`` beside a ``pairs.txt``, else for
            the folder of the list. A ``.bin`` has its images in it.

    Raises:
        DataError: nothing that can be read lies there, an image of a list is missing, or a ``.bin`` asks for more than
            images and answers.
    """
    where = Path(path)
    if not where.is_file():
        what = "a folder" if where.is_dir() else "no such file"
        raise DataError(f"{where}: {what}, expected a set of pairs: a .bin, a .csv or a pairs.txt")
    folder = None if images is None else Path(images)
    try:
        if where.suffix.lower() == ".csv":
            return read_pairs_csv(where, folder)
        if where.suffix.lower() == ".txt":
            return read_pairs_txt(where, folder)
        return BinPairs(where)
    except DataError as error:
        if str(where) in str(error):
            raise
        raise DataError(f"{where}: {error}") from error
