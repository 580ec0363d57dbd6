"""Verification sets as text: `pairs.txt` as LFW has it, and CSV, with the images in a folder."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.data.pairs.pair_set import FOLDS, PairSet, require_no_contradiction
from coreface.data.source import Notice
from coreface.errors import DataError, ImageError
from coreface.images.load import load_image
from coreface.numerics.even_folds import even_folds

_IMAGE_LINE = re.compile(r"(?P<image>\S.*\.[A-Za-z]{3,5})\s+(?P<number>[0-9]{1,9})")  # as CALFW and CPLFW have it
_WHOLE = re.compile(r"[0-9]{1,9}")  # str.isdigit takes signs that int refuses
_FOLD = re.compile(r"-?[0-9]{1,18}")
_ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class _Row(NamedTuple):
    line: int
    left: Path
    right: Path
    same: bool
    fold: int | None


class ListedPairs(PairSet):
    """Pairs of image files that a list names.

    Args:
        path: the list.
        root: the folder that its paths start from.
        rows: its pairs; folds are numbered from 0 in the order of their values.

    Raises:
        DataError: an image is missing, or only some rows name a fold.
    """

    def __init__(self, path: Path, root: Path, rows: list[_Row]) -> None:
        numbers: dict[Path, int] = {}
        left = [numbers.setdefault(row.left, len(numbers)) for row in rows]
        right = [numbers.setdefault(row.right, len(numbers)) for row in rows]
        folds = [row.fold for row in rows if row.fold is not None]
        if folds and len(folds) != len(rows):
            line = next(row.line for row in rows if row.fold is None)
            raise DataError(f"{path}, line {line}: no fold, but other lines have one; give all of them one, or none")
        fold_of: NDArray[np.int64] | None = np.unique(folds, return_inverse=True)[1] if folds else None
        super().__init__(left, right, np.array([row.same for row in rows], dtype=np.bool_), len(numbers), fold_of)
        self._paths, self._root = list(numbers), root
        self._notices = require_no_contradiction(self, lambda pair: f"{path}, line {rows[pair].line}")

    def notices(self) -> list[Notice]:
        return self._notices

    def image(self, index: int) -> NDArray[np.uint8]:
        return load_image(self._paths[index])

    def encoded(self, index: int) -> bytes:
        try:
            return self._paths[index].read_bytes()
        except OSError as error:
            raise ImageError(f"{self._paths[index]}: cannot be read ({error.strerror})") from error

    def locate(self, index: int) -> str:
        return str(self._paths[index])

    def relative_path(self, index: int) -> str:
        path = self._paths[index]
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)


def read_pairs_txt(path: Path, images: Path | None) -> ListedPairs:
    """Read LFW's ``pairs.txt``, or a list as CALFW and CPLFW have it.

    LFW: a line ``name n1 n2`` is a genuine pair, ``name1 n1 name2 n2`` an impostor pair; image n of a name is
    ``<name>/<name>_<n, four digits>.<suffix>`` in the folder, or the same file directly in it. A first line
    ``folds pairs`` says that each fold has so many genuine pairs, then as many impostor pairs; ``pairs`` alone says
    that this is one fold; without either the pairs are cut into ten.

    CALFW, CPLFW: two lines ``image number`` are a pair, both with the same number. 0 says impostor. Other numbers say
    genuine and are the fold of the pair, where there are several; the impostor pairs are cut evenly, in their order.

    Args:
        path: the list.
        images: the folder; None for the folder ``images`` beside the list, or that of the list itself.

    Raises:
        DataError: a line is none of these, an image is missing, or the number or order of the pairs differs from what
            the first line says.
    """
    beside = path.parent / "images"
    root = images or (beside if beside.is_dir() else path.parent)
    lines = [(number, line) for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    if lines and _IMAGE_LINE.fullmatch(lines[0][1].strip()):
        return _pairs_of_image_lines(path, root, lines)
    return _lfw_pairs(path, root, lines)


def _lfw_pairs(path: Path, root: Path, lines: list[tuple[int, str]]) -> ListedPairs:
    find = _Finder(root, path)
    per_fold = folds = 0
    if lines and len(lines[0][1].split()) <= 2 and all(_WHOLE.fullmatch(word) for word in lines[0][1].split()):
        *first, last = (int(word) for word in lines.pop(0)[1].split())
        folds, per_fold = (first[0] if first else 1), last
        if folds * per_fold * 2 != len(lines):
            raise DataError(
                f"{path}: {len(lines)} pairs, but the first line announces {folds} x 2 x {per_fold}; "
                "get a complete copy, or remove that line"
            )
    rows: list[_Row] = []
    for place, (number, line) in enumerate(lines):
        words = line.split("\t") if "\t" in line else line.split()
        words = [word.strip() for word in words]
        fold = place // (2 * per_fold) if per_fold else None
        try:
            if len(words) == 3:
                name, left, right = words
                rows.append(_Row(number, find(name, int(left), number), find(name, int(right), number), True, fold))
            elif len(words) == 4:
                name, left, other, right = words
                rows.append(_Row(number, find(name, int(left), number), find(other, int(right), number), False, fold))
            else:
                raise ValueError
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r}, expected 'name n1 n2' or 'name1 n1 name2 n2'"
            ) from error
        if per_fold and rows[-1].same != (expected := place // per_fold % 2 == 0):
            kinds = {True: "a genuine pair", False: "an impostor pair"}
            raise DataError(
                f"{path}, line {number}: {kinds[not expected]}, expected {kinds[expected]}: by its first line each of "
                f"{folds} folds has {per_fold} genuine pairs, then {per_fold} impostor pairs; sort the pairs so, or "
                "remove the first line to have them cut into ten folds as they come"
            )
    return ListedPairs(path, root, rows)


def _pairs_of_image_lines(path: Path, root: Path, lines: list[tuple[int, str]]) -> ListedPairs:
    expected = "expected 'image number', with the number of the fold, or 0 for an impostor pair"
    images: list[tuple[int, Path, int]] = []
    for number, line in lines:
        match = _IMAGE_LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{path}, line {number}: {line[:80]!r}, {expected}")
        file = _file(root, match["image"])
        if not _is_file(file):
            raise DataError(f"{path}, line {number}: there is no {file}; name the folder of the images (FILE:IMAGES)")
        images.append((number, file, int(match["number"])))
    if len(images) % 2:
        raise DataError(f"{path}: {len(images)} lines, expected two a pair; get a complete copy")
    pairs = list(zip(images[::2], images[1::2], strict=True))
    for (_, _, one), (number, _, other) in pairs:
        if one != other:
            raise DataError(f"{path}, line {number}: {other}, but the line before says {one}: both are of one pair")
    kinds = [one for (_, _, one), _ in pairs]
    places = sorted(set(kinds) - {0})
    if len(places) > 1:
        fold_of = {place: fold for fold, place in enumerate(places)}
        genuine = [fold_of[kind] for kind in kinds if kind]
        count = len(places)
    else:
        count = min(FOLDS, max(1, min(kinds.count(0) or len(kinds), sum(map(bool, kinds)) or len(kinds))))
        genuine = even_folds(sum(map(bool, kinds)), count).tolist() if places else []
    impostor = even_folds(kinds.count(0), count).tolist() if 0 in kinds else []
    folds = {True: iter(genuine), False: iter(impostor)}
    rows = [
        _Row(number, left, right, bool(kind), next(folds[bool(kind)])) for (number, left, kind), (_, right, _) in pairs
    ]
    return ListedPairs(path, root, rows)


def read_pairs_csv(path: Path, images: Path | None) -> ListedPairs:
    """Read ``path1,path2,same[,fold]`` with or without that header; ``same`` is 1 or 0, true or false, yes or no.

    Args:
        path: the list.
        images: the folder that the paths start from; None for that of the list.

    Raises:
        DataError: a line is not so, an image is missing, or only some lines have a fold.
    """
    root = images or path.parent
    known: set[Path] = set()
    rows: list[_Row] = []
    for number, words in _csv_rows(path):
        if len(words) not in (3, 4):
            raise DataError(f"{path}, line {number}: {len(words)} fields, expected path1,path2,same[,fold]")
        same = _ANSWERS.get(words[2].lower())
        fold = words[3] if len(words) == 4 else ""
        if same is None:
            if number == 1 and not rows and not any(_is_file(_file(root, word)) for word in words[:2]):
                continue  # the header: a row of pairs would contain the names of files
            raise DataError(f"{path}, line {number}: same is {words[2]!r}, expected 1 or 0")
        if fold and not _FOLD.fullmatch(fold):
            raise DataError(f"{path}, line {number}: the fold is {fold[:40]!r}, expected a whole number")
        files = [_file(root, word) for word in words[:2]]
        for file in files:
            if file not in known and not _is_file(file):
                raise DataError(
                    f"{path}, line {number}: there is no {file}; name the folder of the images (--pairs FILE:IMAGES, "
                    "or images=)"
                )
            known.add(file)
        rows.append(_Row(number, files[0], files[1], same, int(fold) if fold else None))
    return ListedPairs(path, root, rows)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""))  # a name in quotes may hold the end of a line
    try:
        for words in reader:
            if any(word.strip() for word in words):
                yield reader.line_num, [word.strip() for word in words]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


class _Finder:
    """Finds image n of a name, listing every folder once."""

    def __init__(self, root: Path, path: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of the images of {path} with images=")
        self._root, self._path = root, path
        self._folders: dict[Path, dict[str, Path]] = {}

    def __call__(self, name: str, number: int, line: int) -> Path:
        stem = f"{name}_{number:04d}"
        for folder in (self._root / name, self._root):
            if found := self._listed(folder).get(stem):
                return found
        raise DataError(f"{self._path}, line {line}: there is no {self._root / name / stem} with a suffix of an image")

    def _listed(self, folder: Path) -> dict[str, Path]:
        if folder not in self._folders:
            try:
                paths = sorted(folder.iterdir(), reverse=True)
            except (OSError, ValueError):
                paths = []
            self._folders[folder] = {path.stem: path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}
        return self._folders[folder]


def _file(root: Path, word: str) -> Path:
    """Return the path of an entry of a list, which may have been written on Windows."""
    path = root / word
    return path if "\\" not in word or _is_file(path) else root / word.replace("\\", "/")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
