"""Corrections of labels: the list of `coreface data clean`, which people may edit, and faces with the list applied."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource, Selection
from coreface.errors import DataError
from coreface.files import escaped, unescaped, write_atomically

Action = Literal["keep", "drop", "move", "merge"]

NEW = "new:"  #: before the name of an identity that does not exist yet
_NEEDED = ("action", "to", "index", "image", "identity")
COLUMNS = ("action", "to", "finding", "index", "image", "identity", "score", "other", "other_image", "other_score")


@dataclass(frozen=True)
class Correction:
    """A line of the list: about an image, or, where it names none, about an identity.

    Attributes:
        action: ``keep`` changes nothing; ``drop`` leaves the image out; ``move`` gives it to the identity ``to``;
            ``merge`` gives all images of the identity to ``to``.
        to: the name of an identity, or ``new:NAME`` for one that does not exist yet. It counts for ``move`` and
            ``merge`` only.
        finding: what was found.
        index: number of the image in the source; None for a line about an identity.
        image: place of the image.
        identity: the name of its identity.
        score: what it was found by.
        other: the identity that it resembles.
        other_image: the image that it resembles.
        other_score: how much it resembles them.
    """

    action: Action
    to: str
    finding: str
    index: int | None
    image: str
    identity: str
    score: float | None = None
    other: str = ""
    other_image: str = ""
    other_score: float | None = None


@dataclass(frozen=True)
class Corrected:
    """Faces with a list applied.

    Attributes:
        faces: what is left, with its new identities.
        dropped: places of the images that are left out.
        moved: "place: identity -> identity" of the images that were moved.
        merged: "identity -> identity".
        emptied: names of the identities of which nothing is left, other than by a merge.
    """

    faces: FaceSource
    dropped: tuple[str, ...]
    moved: tuple[str, ...]
    merged: tuple[str, ...]
    emptied: tuple[str, ...]


def write_corrections(path: Path, corrections: Sequence[Correction]) -> None:
    """Write the list as CSV, UTF-8, replacing a file that is there."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for line in corrections:
        writer.writerow(_cell(getattr(line, column)) for column in COLUMNS)
    write_atomically(path, text.getvalue().encode())


def apply_corrections(source: FaceSource, path: Path) -> Corrected:
    """Return the faces of a source with a list applied. Nothing is written.

    Images come identity by identity where they did in the source, and in its order otherwise.

    Raises:
        DataError: the list cannot be read, belongs to other faces, contradicts itself, or leaves nothing; the message
            names the line.
    """
    plan = _Plan(source, path)
    for number, row in _rows(path):
        plan.add(number, row)
    return plan.apply()


class _Plan:
    """What the lines of a list say, checked one by one."""

    def __init__(self, source: FaceSource, path: Path) -> None:
        self._source, self._path = source, path
        self._names = {name: identity for identity, name in enumerate(source.identity_names)}
        self._images: dict[int, tuple[str, str, int]] = {}  # index -> action, target, line
        self._merges: dict[str, tuple[str, int]] = {}  # name -> target, line

    def add(self, line: int, row: Mapping[str, str]) -> None:
        action = row["action"].strip().lower()
        identity, to = unescaped(row["identity"]), unescaped(row["to"])
        if identity not in self._names:
            raise self._error(line, f"there is no identity {identity!r} in these faces: the list belongs to others")
        if row["index"].strip() or row["image"]:
            self._add_image(line, action, row["index"].strip(), unescaped(row["image"]), identity, to)
        else:
            self._add_identity(line, action, identity, to)

    def _add_image(self, line: int, action: str, number: str, image: str, identity: str, to: str) -> None:
        source = self._source
        if action not in ("keep", "drop", "move"):
            raise self._error(line, f"the action for an image is {action!r}, expected keep, drop or move")
        if not (number.isascii() and number.isdigit() and int(number) < len(source)):
            raise self._error(line, f"the index is {number!r}, expected 0 to {len(source) - 1}")
        index = int(number)
        found = source.identity_names[source.identities[index]]
        if found != identity or _name(source.relative_path(index)) != _name(image):
            raise self._error(
                line,
                f"image {index} is {source.relative_path(index)} of {found!r}, the list says {image} of {identity!r}: "
                "the list belongs to other faces",
            )
        if action == "move":
            self._require_target(line, to, identity, new=True)
        decision = (action, to if action == "move" else "")
        before = self._images.setdefault(index, (*decision, line))
        if before[:2] != decision:
            raise self._error(
                line,
                f"{' to '.join(filter(None, decision))} for image {index}, but line {before[2]} says "
                f"{' to '.join(filter(None, before[:2]))}: say the same on all lines of an image",
            )

    def _add_identity(self, line: int, action: str, identity: str, to: str) -> None:
        if action not in ("keep", "merge"):
            raise self._error(line, f"the action for an identity is {action!r}, expected keep or merge")
        if action == "keep":
            return
        self._require_target(line, to, identity, new=False)
        before = self._merges.setdefault(identity, (to, line))
        if before[0] != to:
            raise self._error(line, f"{identity!r} is merged into {before[0]!r} by line {before[1]} already")
        end = to
        while end in self._merges:
            end = self._merges[end][0]
            if end == identity:
                raise self._error(line, f"the merges of {identity!r} lead back to it")

    def _require_target(self, line: int, to: str, identity: str, *, new: bool) -> None:
        known = to in self._names
        if to == identity:
            raise self._error(line, f"to is {to!r}, which is the identity itself, expected another one")
        if new and not known and to.startswith(NEW) and to != NEW:
            if to.removeprefix(NEW) in self._names:
                raise self._error(line, f"to is {to!r}, but this identity exists: write it without {NEW}")
            return
        if not known:
            or_new = f", or {NEW}NAME for a new one" if new else ""
            raise self._error(line, f"to is {to!r}, expected the name of an identity{or_new}")

    def _error(self, line: int, message: str) -> DataError:
        return DataError(f"{self._path}, line {line}: {message}")

    def apply(self) -> Corrected:
        source, names = self._source, self._source.identity_names
        target = [names[identity] for identity in source.identities.tolist()]
        dropped, moved = [], []
        for index, (action, to, _) in sorted(self._images.items()):
            if action == "drop":
                dropped.append(index)
            elif action == "move":
                moved.append(f"{source.locate(index)}: {target[index]} -> {to}")
                target[index] = to.removeprefix(NEW)
        for index, name in enumerate(target):
            target[index] = self._merged(name)
        kept = np.setdiff1d(np.arange(len(source)), np.array(dropped, np.int64))
        if not len(kept):
            raise DataError(f"{self._path}: every image is dropped, expected some to be kept")
        left = {target[index] for index in kept.tolist()}
        return Corrected(
            faces=_relabelled(source, kept, [target[index] for index in kept.tolist()]),
            dropped=tuple(source.locate(index) for index in dropped),
            moved=tuple(moved),
            merged=tuple(f"{name} -> {self._merged(name)}" for name in self._merges),
            emptied=tuple(name for name in names if name not in left and name not in self._merges),
        )

    def _merged(self, name: str) -> str:
        while name in self._merges:
            name = self._merges[name][0]
        return name


def _relabelled(source: FaceSource, kept: NDArray[np.int64], target: list[str]) -> FaceSource:
    """Return a selection with other identities: those of the source in its order, new ones sorted in or at the end."""
    wanted = set(target)
    names = [name for name in source.identity_names if name in wanted]
    new = sorted(wanted - set(names))
    names = sorted(names + new) if names == sorted(names) else names + new
    number = {name: identity for identity, name in enumerate(names)}
    identities = np.array([number[name] for name in target], np.int64)
    if np.count_nonzero(np.diff(source.identities)) + 1 == source.num_identities:  # they come identity by identity
        order = np.argsort(identities, kind="stable")
        kept, identities = kept[order], identities[order]
    return Selection(source, kept, identities, names)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the lines with their numbers, all needed columns there."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a list of coreface data clean") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); save it as CSV UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        missing = [column for column in _NEEDED if column not in header]
        if missing:
            hint = "; its columns are separated by semicolons, expected commas" if ";" in "".join(header) else ""
            raise DataError(f"{path}, line 1: there is no column {missing[0]}, expected {','.join(COLUMNS)}{hint}")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise DataError(f"{path}, line {reader.line_num}: {len(cells)} fields, expected {len(header)}")
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; expected CSV") from error
    return rows


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else escaped(str(value))


def _name(place: str) -> str:
    """Return the end of a place: the folder of the faces may be written in another way, or have moved."""
    return place.replace("\\", "/").rpartition("/")[2]
