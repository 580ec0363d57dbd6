"""Folders of people's photographs, for enrolment and probes; links that lead out of them are not followed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.errors import DataError


@dataclass(frozen=True)
class PeopleFolder:
    """The contents of a folder of people.

    Attributes:
        people: name of a person -> photographs, both in order.
        outside: symbolic links that lead out of the folder, or out of a person's folder; they are not followed.
    """

    people: dict[str, list[Path]] = field(default_factory=dict)
    outside: list[Path] = field(default_factory=list)

    @property
    def photographs(self) -> int:
        """Number of photographs."""
        return sum(map(len, self.people.values()))


def list_people(folder: Path) -> PeopleFolder:
    """List ``<folder>/<person>/.../<photograph>`` and ``<folder>/<person>.jpg``; hidden files are left out.

    Raises:
        DataError: there is no such folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {'a file' if folder.exists() else 'no such folder'}, expected <folder>/<person>/*.jpg"
        )
    found = PeopleFolder()
    for path in _inside(folder, folder.resolve(), found.outside):
        if path.is_dir():
            photographs = list(_photographs(path, path.resolve(), found.outside, frozenset({path.resolve()})))
            if photographs:
                found.people.setdefault(path.name, []).extend(photographs)
        elif _is_image(path):
            found.people.setdefault(path.stem, []).append(path)
    if not found.people:
        raise DataError(f"{folder}: no photographs, expected <folder>/<person>/*.jpg or <folder>/<person>.jpg")
    return found


def _photographs(folder: Path, root: Path, outside: list[Path], above: frozenset[Path]) -> Iterator[Path]:
    for path in _inside(folder, root, outside):
        if path.is_dir():
            if path.resolve() not in above:  # otherwise a link to a folder above
                yield from _photographs(path, root, outside, above | {path.resolve()})
        elif _is_image(path):
            yield path


def _inside(folder: Path, root: Path, outside: list[Path]) -> Iterator[Path]:
    """Yield the entries of a folder, without links that lead out of ``root``."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            if path.resolve().is_relative_to(root):
                yield path
            else:
                outside.append(path)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
