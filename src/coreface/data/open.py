"""Opening of faces and pairs by a path; the format is detected."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from coreface.data.folder import FolderSource
from coreface.data.orl import OrlSource
from coreface.data.pairs.bin import BinPairs
from coreface.data.pairs.lists import read_pairs_csv, read_pairs_txt
from coreface.data.pairs.pair_set import PairSet
from coreface.data.recordio.source import RecordSource
from coreface.data.source import FaceSource
from coreface.data.tar_shards import ShardSource
from coreface.errors import DataError, InputError
from coreface.files import user_path
from coreface.registry import Registry

_PAIR_SUFFIXES = (".bin", ".txt", ".csv")


ReaderClass = TypeVar("ReaderClass", bound=type[FaceSource])

READERS: Registry[type[FaceSource]] = Registry("reader of faces", DataError)
READERS.add("recordio", RecordSource, "a RecordIO .rec, or the folder that holds it")
READERS.add("shards", ShardSource, "a tar shard, or a folder of them")
READERS.add("folder", FolderSource, "a folder <identity>/<image>")


#: Which options of `open_faces` a reader takes.
_OPTIONS: dict[type[FaceSource], tuple[str, ...]] = {ShardSource: ("label",), FolderSource: ("identity_level",)}
_BELONGS = {"label": "it belongs to tar shards", "identity_level": "it belongs to folders of images"}


def register_faces(name: str, help: str) -> Callable[[ReaderClass], ReaderClass]:
    """Register a reader, so that `open_faces` and every command and recipe can open another storage. A decorator.

    Args:
        name: letters, digits, ``_``, ``-`` and ``.``; `coreface data info` prints it.
        help: one line that says what it reads.

    Returns:
        A decorator for a subclass of `FaceSource` whose constructor takes a path and whose `FaceSource.claims` selects
        the paths it reads. It is tried before the readers of coreface; readers are tried in the order of registration.

    Raises:
        InputError: another reader has the name, or the class is not such a subclass.
    """

    def add(reader: ReaderClass) -> ReaderClass:
        if not (isinstance(reader, type) and issubclass(reader, FaceSource)):
            raise InputError(f"reader of faces {name} is {reader!r}, expected a subclass of FaceSource")
        if reader.claims.__func__ is FaceSource.claims.__func__:  # type: ignore[attr-defined]
            raise InputError(f"reader of faces {name} has no class method claims(path), expected one")
        READERS.add(name, reader, help)
        return reader

    return add


def open_faces(
    path: str | os.PathLike[str], *, label: str | None = None, identity_level: int | None = None
) -> FaceSource:
    """Open a source of faces.

    Args:
        path: a path that a registered reader claims (`register_faces`); a folder ``<identity>/<image>``; a RecordIO
            ``.rec``, or the folder that holds it; a tar shard (``key.jpg`` and ``key.cls``), or a folder of them; or
            the word ``orl`` for the ORL faces of the demo (use ``./orl`` for a folder of that name). A leading ``~`` is
            the home folder.
        label: for shards: where the label of an image is, see `ShardSource`; None for ``cls``.
        identity_level: for a folder: how many levels below it the identities are, see `FolderSource`; None uses the
            folders that contain images.

    Raises:
        DataError: nothing at the path can be read.
        InputError: an option is out of range, or applies to another storage only.
        MissingExtraError: ``orl`` is requested without the package that contains it.
    """
    options: dict[str, Any] = {"label": label, "identity_level": identity_level}
    given = {name: value for name, value in options.items() if value is not None}
    if path == "orl":
        _require_options(given, (), OrlSource)
        return OrlSource()
    place = str(user_path(path))
    for name in sorted(READERS, key=READERS.is_own):  # readers registered by the user come first
        reader: Any = READERS[name]  # its constructor takes a path, unlike the base class's
        if reader.claims(place):
            _require_options(given, _OPTIONS.get(reader, ()), reader)
            source: FaceSource = reader(place, **given)
            return source
    where = user_path(path)
    if where.is_file() and where.suffix in _PAIR_SUFFIXES:
        raise DataError(f"{where}: a set of pairs has no identities to list; open it with open_pairs, or give --pairs")
    if where.is_file():
        raise DataError(
            f"{where}: a file, expected a folder that holds <identity>/<image>, a .rec or a .tar; if your own "
            "module registers its reader, give --import MODULE, or import it in Python"
        )
    return FolderSource(where)  # raises an error that says what is missing


def open_pairs(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> PairSet:
    """Open a set of verification pairs.

    Args:
        path: a ``.bin`` (a pickle of encoded images and answers; nothing in it is run), a ``.csv`` with the fields
            ``path1,path2,same[,fold]``, or a text as LFW's ``pairs.txt``.
        images: the folder with the images of a list; None for the folder ``images`` next to a ``pairs.txt``, else for
            the folder of the list. A ``.bin`` contains its images.

    Raises:
        DataError: nothing at the path can be read, an image of a list is missing, or a ``.bin`` contains more than
            images and answers.
    """
    where = user_path(path)
    if not where.is_file():
        what = "a folder" if where.is_dir() else "no such file"
        raise DataError(f"{where}: {what}, expected a set of pairs: a .bin, a .csv or a pairs.txt")
    folder = None if images is None else user_path(images)
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


def _require_options(given: dict[str, Any], known: tuple[str, ...], reader: type[FaceSource]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{name} is {given[name]!r}, expected none: {_BELONGS[name]}, not to {reader.__name__}")
