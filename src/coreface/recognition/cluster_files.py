"""The lists, folders and the page that show groups of faces."""

import csv
import io
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.errors import DataError, ImageError
from coreface.files import escaped, write_atomically
from coreface.images.alignment import align
from coreface.images.load import fit_square, load_image
from coreface.plurals import counted
from coreface.recognition.align_folder import harmless
from coreface.recognition.clustering import group_means
from coreface.recognition.face_table import FaceTable
from coreface.reports.cluster_page import ShownFace, ShownGroup, write_cluster_page

GROUPS, FACES, PAGE, PEOPLE = "groups.csv", "faces.csv", "groups.html", "people"  #: what the folder contains
_HEADER = ("group", "name", "faces", "photographs")
_BAD_NAME = re.compile(r"[/\\\0\n\r]|^\.|^\s|\s$|^\d+$")
_SHOWN_GROUPS, _TYPICAL, _ODD = 100, 4, 8  # groups on the page, and faces of each: nearest to its centre, and furthest
_SIDE = 112  # pixels of a crop


def read_names(folder: Path, table: FaceTable) -> dict[int, str]:
    """Return the names in ``groups.csv``, by group; those of the table if there is no such file.

    Raises:
        DataError: the file is not as expected, or a name cannot be that of a folder.
    """
    path = folder / GROUPS
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return table.people
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): expected a CSV in UTF-8") from error
    rows = csv.DictReader(io.StringIO(text))
    if not {"group", "name"} <= set(rows.fieldnames or ()):
        raise DataError(f"{path} has the columns {', '.join(rows.fieldnames or ())}; expected {', '.join(_HEADER)}")
    known = set(table.rows["groups"].tolist()) - {0}
    found = {}
    for row in rows:
        number, name = row["group"] or "", row["name"] or ""
        if not number.isdecimal() or int(number) not in known:
            raise DataError(f"{path}, line {rows.line_num}: there is no group {number!r}")
        name = name[1:] if name.startswith("'") and harmless(name[1:]) == name else name
        if _BAD_NAME.search(name):
            raise DataError(
                f"{path}, line {rows.line_num}: the name is {name!r}, expected one that a folder can have: without "
                "slashes, dots or spaces at its ends, and not a number"
            )
        if name:
            found[int(number)] = name
    return found


def write_lists(table: FaceTable, folder: Path) -> None:
    """Write ``groups.csv`` and ``faces.csv``."""
    groups = []
    for number, rows in _members(table).items():
        photographs = len(set(table.rows["names"][rows].tolist()))
        groups.append([number, harmless(table.people.get(number, "")), len(rows), photographs])
    _write_csv(folder / GROUPS, _HEADER, groups)
    cosines = _cosines(table)
    faces = []
    for row in table.faces.tolist():
        number = int(table.rows["groups"][row])
        place = [f"{side:.1f}" for side in table.rows["boxes"][row].tolist()]
        cosine = f"{cosines[row]:.4f}" if number else ""
        name = harmless(escaped(table.rows["names"][row]))
        faces.append([name, *place, number or "", harmless(table.people.get(number, "")), cosine])
    _write_csv(folder / FACES, ("photograph", "left", "top", "right", "bottom", "group", "name", "cosine"), faces)


def described(table: FaceTable) -> dict[str, Any]:
    """Return the groups as plain values."""
    cosines = _cosines(table)

    def face(row: int) -> dict[str, Any]:
        box = [round(side, 1) for side in table.rows["boxes"][row].tolist()]
        return {"photograph": escaped(table.rows["names"][row]), "box": box, "cosine": round(float(cosines[row]), 4)}

    groups = [
        {"group": number, "name": table.people.get(number), "faces": [face(row) for row in rows]}
        for number, rows in _members(table).items()
    ]
    alone = table.faces[table.rows["groups"][table.faces] == 0].tolist()
    failed = np.flatnonzero(table.rows["reasons"] != "").tolist()
    return {
        **table.grouping,
        "groups": groups,
        "alone": [{name: value for name, value in face(row).items() if name != "cosine"} for row in alone],
        "failed": {escaped(table.rows["names"][row]): str(table.rows["reasons"][row]) for row in failed},
    }


def write_people(table: FaceTable, folder: Path) -> int:
    """Fill ``people/<name or number>/`` with the photographs of each group, and return how many there are.

    They are hard links where the file system allows it, and copies elsewhere. The folder is made anew. What is not a
    file, such as a record, is left out.
    """
    target, temporary = folder / PEOPLE, folder / f".{PEOPLE}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    placed = 0
    for number, rows in _members(table).items():
        person = temporary / table.people.get(number, f"{number:04}")
        person.mkdir(parents=True, exist_ok=True)
        for name in sorted(set(table.rows["names"][rows].tolist())):
            photograph = Path(name)
            if photograph.suffix.lower() not in IMAGE_SUFFIXES or not photograph.is_file():
                continue
            place, copy = person / photograph.name, 1
            while place.exists():
                copy += 1
                place = person / f"{photograph.stem}-{copy}{photograph.suffix}"
            _link(photograph, place)
            placed += 1
    temporary.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    return placed


def write_groups_page(table: FaceTable, title: str, summary: list[str], folder: Path) -> Path:
    """Write the page with the groups to look at, the largest first, and return its path."""
    cosines = _cosines(table)
    shown = []
    members = _members(table)
    largest = sorted(members, key=lambda number: (-len(members[number]), number))
    for number in largest[:_SHOWN_GROUPS]:
        rows = members[number][np.argsort(-cosines[members[number]], kind="stable")]
        kept = rows if len(rows) <= _TYPICAL + _ODD else np.concatenate([rows[:_TYPICAL], rows[-_ODD:]])
        faces = tuple(
            ShownFace(_crop(table, row), Path(table.rows["names"][row]).name, float(cosines[row]))
            for row in kept.tolist()
        )
        name = table.people.get(number)
        heading = f"Group {number}" if name is None else f"{name} (group {number})"
        shown.append(ShownGroup(heading, faces, len(rows)))
    if len(largest) > _SHOWN_GROUPS:
        summary = [*summary, f"The {_SHOWN_GROUPS} largest groups of {len(largest)} are shown; {GROUPS} lists all."]
    write_cluster_page(shown, title, summary, folder / PAGE)
    return folder / PAGE


def summary_of(table: FaceTable) -> str:
    """Return in one sentence how many faces and groups there are."""
    groups = table.rows["groups"][table.faces]
    photographs = len(set(table.rows["names"].tolist()))
    return (
        f"{counted(len(groups), 'face')} in {counted(photographs, 'photograph')}: "
        f"{counted(len(np.unique(groups[groups > 0])), 'group')} of {counted(int((groups > 0).sum()), 'face')}, "
        f"{counted(int((groups == 0).sum()), 'face')} alone"
    )


def _members(table: FaceTable) -> dict[int, NDArray[np.intp]]:
    groups = table.rows["groups"]
    order = np.argsort(groups, kind="stable")
    numbers, starts = np.unique(groups[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {int(number): rows for number, rows in zip(numbers, parts, strict=True) if number > 0}


def _cosines(table: FaceTable) -> NDArray[np.float32]:
    """Return the cosine of each row with the centre of its group; 0 for what has none."""
    cosines = np.zeros(len(table.rows["groups"]), np.float32)
    rows = np.flatnonzero(table.rows["groups"] > 0)
    if len(rows):
        _, group = np.unique(table.rows["groups"][rows], return_inverse=True)
        unit = table.rows["embeddings"][rows]
        means, _ = group_means(unit, group)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        cosines[rows] = np.einsum("nd,nd->n", unit, means[group])
    return cosines


def _crop(table: FaceTable, row: int) -> NDArray[np.uint8] | None:
    name, landmarks = str(table.rows["names"][row]), table.rows["landmarks"][row]
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        image = load_image(name)
        return fit_square(image, _SIDE) if np.isnan(landmarks).any() else align(image, landmarks, _SIDE)
    except ImageError:
        return None


def _link(photograph: Path, place: Path) -> None:
    try:
        os.link(photograph, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(photograph, place)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", errors="backslashreplace"))
