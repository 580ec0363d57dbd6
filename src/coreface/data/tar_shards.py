"""Faces in tar shards in the layout of WebDataset: ``key.jpg`` and ``key.cls``, read one shard after another."""

import json
import mmap
import os
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.crop_alignment import read_alignment
from coreface.data.folder import IMAGE_SUFFIXES
from coreface.data.gzip_files import unpacked
from coreface.data.labels import WHOLE_NUMBER, LabelTable, read_names
from coreface.data.mapped_file import MappedFile
from coreface.data.source import FaceSource, Notice
from coreface.data.tar_members import Member, tar_members
from coreface.errors import DataError, ImageError, InputError

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LABELS = ("cls", "txt")  #: members that may hold a label; ``json:FIELD`` is the third kind
_LONGEST_LABEL = 4000  # bytes
_LONGEST_JSON = 2**20  # bytes
_BUFFER = 10_000


class ShardSource(FaceSource):
    """The images of one or more tar files. The part of a name before its last dot is the key of the sample.

    Any image can be read at any time. Training reads the shards one after another, each from start to end, shuffled
    within a window of images (`reading_order`). The workers of a process take whole batches in turn and map the same
    shards, whose pages the system keeps in memory only once.

    A gzip-compressed shard is first unpacked into a temporary file, which is removed when the program ends.

    Args:
        path: a ``.tar``, ``.tar.gz`` or ``.tgz``, or a folder of them, which is read in the order of the names.
        label: where the label of an image is: ``cls``, a whole number in ``key.cls``; ``txt``, any one line of text in
            ``key.txt``; ``json:FIELD``, a whole number or a text in that field of ``key.json``.
        buffer: the window, in images: how far an image can be moved from its place in the sequence.

    Raises:
        DataError: there is no such file, a tar or a label is invalid, or there is no image.
        InputError: ``label`` is none of these.
    """

    in_sequence = True

    def __init__(self, path: str | os.PathLike[str], *, label: str = "cls", buffer: int = _BUFFER) -> None:
        where = Path(path)
        suffix, self._field = label_member(label)
        paths = shards_in(where) if where.is_dir() else [where]
        if not paths:
            raise DataError(f"{where}: no .tar inside, expected shards")
        self._paths = paths
        self._shards = [MappedFile(unpacked(shard) if is_gzip(shard) else shard) for shard in paths]
        self._buffer = buffer
        self._lost: list[str] = []
        starts, sizes, labels = array("q"), array("q"), array("q")
        table = LabelTable()
        self._first = [0]  # first image of each shard, and the end of the last
        for shard, shown in zip(self._shards, paths, strict=True):
            try:
                for start, size, number in self._samples(shard, shown, suffix, table):
                    starts.append(start)
                    sizes.append(size)
                    labels.append(number)
            except DataError as error:
                raise DataError(str(error) if str(shown) in str(error) else f"{shown}: {error}") from error
            shard.release()
            self._first.append(len(starts))
        if not starts:
            raise DataError(
                f"{where}: {_shards(len(paths))} without a sample, expected members key.jpg and key{suffix}"
                f"{self._first_lost()}; labels elsewhere are named by label: cls, txt or json:FIELD"
            )
        self._starts, self._sizes = np.array(starts), np.array(sizes)
        identities, names = table.in_order(np.array(labels))
        folder = where if where.is_dir() else where.parent
        if suffix == ".cls":
            names = tuple(read_names(folder, names))
        super().__init__(identities, names)
        self.alignment = read_alignment(folder)

    @classmethod
    def claims(cls, path: str) -> bool:
        where = Path(path)
        return bool(shards_in(where)) if where.is_dir() else where.name.lower().endswith(SHARD_SUFFIXES)

    def encoded(self, index: int) -> bytes:
        start, size = int(self._starts[index]), int(self._sizes[index])
        try:
            data = self._shards[self._shard(index)].view()
        except DataError as error:
            raise ImageError(str(error)) from error
        return data[start : start + size].tobytes()

    def locate(self, index: int) -> str:
        return f"{self._paths[self._shard(index)]}, byte {self._starts[index]}"

    def storage_notices(self) -> list[Notice]:
        if not self._lost:
            return []
        count = "1 member is" if len(self._lost) == 1 else f"{len(self._lost)} members are"
        return [
            Notice(
                f"{count} not part of a sample: no image and label of one key",
                tuple(self._lost),
                True,
            )
        ]

    def reading_order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw an order: the shards shuffled, read in sequence, each image moved by less than the window."""
        first = np.array(self._first)
        shards = rng.permutation(len(self._shards))
        sequence = np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in shards])
        # Delaying each image by a random part of the window equals a shuffle buffer of that size.
        waits = np.arange(len(sequence)) + rng.random(len(sequence)) * self._buffer
        return sequence[np.argsort(waits, kind="stable")]

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1

    def _samples(
        self, shard: MappedFile, shown: Path, label_suffix: str, table: LabelTable
    ) -> list[tuple[int, int, int]]:
        """Return (start, size, number of the label) of the samples, and record members that belong to none."""
        data = shard.mapping()
        images: dict[str, Member] = {}
        labels: dict[str, Member] = {}
        more: list[tuple[str, str]] = []  # key and name of members that are neither
        lost: list[str] = []
        for member in tar_members(data, others=lost):
            name, start, _ = member
            file = name.rfind("/") + 1
            if name.startswith(".", file):
                continue  # a hidden file: macOS leaves them
            dot = name.rfind(".", file)
            key, suffix = (name[:dot], name[dot:].lower()) if dot > 0 else (name, "")
            if suffix == label_suffix:
                parts = labels
            elif suffix in IMAGE_SUFFIXES:
                parts = images
            else:
                more.append((key, name))
                continue
            if key in parts:
                raise DataError(f"byte {start}: a second member {name!r}")
            parts[key] = member
        whole = images.keys() & labels.keys()
        more += [(key, (images.get(key) or labels[key])[0]) for key in images.keys() ^ labels.keys()]
        # Samples may have more parts, as key.json and key.left.jpg.
        lost += [name for key, name in more if key not in whole and _before_first_dot(key) not in whole]
        self._lost += [f"{shown}: {name}" for name in sorted(lost)]
        return [
            (start, size, self._number(data, labels[key], table))
            for key, (_, start, size) in images.items()
            if key in labels
        ]

    def _number(self, data: mmap.mmap, member: Member, table: LabelTable) -> int:
        name, start, size = member
        longest = _LONGEST_LABEL if self._field is None else _LONGEST_JSON
        content = data[start : start + min(size, longest + 1)]
        try:
            if len(content) > longest:
                raise ValueError(f"{size} bytes, expected at most {longest}")
            text = content.decode("utf-8").strip()
            if self._field is not None:
                text = _field(text, self._field)
            elif name.lower().endswith(".cls") and not WHOLE_NUMBER.fullmatch(text):
                raise ValueError(f"{text[:40]!r}, expected a whole number")
            if not text or "\n" in text:
                raise ValueError(f"{text[:40]!r}, expected one line with the name or number of an identity")
            return table.number(text)
        except (ValueError, DataError) as error:  # UnicodeDecodeError and JSONDecodeError are among them
            raise DataError(f"{name!r} at byte {start}: {error}") from error

    def _first_lost(self) -> str:
        return f" (there is {self._lost[0]!r})" if self._lost else ""


def shards_in(folder: Path) -> list[Path]:
    """Return the shards of a folder in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(SHARD_SUFFIXES))


def is_gzip(path: Path) -> bool:
    """Return whether a shard is compressed, by its name."""
    return path.name.lower().endswith((".gz", ".tgz"))


def label_member(label: str) -> tuple[str, str | None]:
    """Return the suffix of the members with the labels, and the field of a JSON member.

    Raises:
        InputError: ``label`` names no such place.
    """
    kind, _, field = label.partition(":")
    if label in LABELS:
        return f".{label}", None
    if kind == "json" and field:
        return ".json", field
    raise InputError(f"label is {label!r}, expected cls, txt or json:FIELD, the place of the labels in shards")


def _before_first_dot(key: str) -> str:
    file = key.rfind("/") + 1
    return key[:file] + key[file:].partition(".")[0]


def _field(text: str, field: str) -> str:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict) or field not in document:
        known = ", ".join(list(document)[:8]) if isinstance(document, dict) else "no fields"
        raise ValueError(f"no field {field!r}; there are: {known}")
    value = document[field]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"field {field!r} is {str(value)[:40]!r}, expected a whole number or a text")
    return str(value).strip()


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"
