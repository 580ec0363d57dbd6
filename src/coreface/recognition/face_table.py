"""The faces of a collection of photographs with their groups, and the file that keeps them between calls."""

import json
import os
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError
from coreface.recognition.embed_parts import Arrays, write_npz

_ROWS = ("embeddings", "names", "reasons", "boxes", "landmarks", "identities", "stamps", "groups")
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class FaceTable:
    """Faces with their groups, and photographs without a face; one row each.

    Attributes:
        rows: ``embeddings`` (R, D), ``names`` (R,), ``reasons`` (R,), ``boxes`` (R, 4) and ``landmarks`` (R, 5, 2) as
            of `embed_paths`; ``identities`` (R,), the folder or label of the photograph; ``stamps`` (R, 2) int64, its
            size in bytes and time of change in ns, 0 if it is no file; ``groups`` (R,) int64, 0 for none.
        contract: of the pipeline.
        grouping: how the faces were grouped, as plain values.
        people: group -> the name that the user gave to it.
        highest: the highest number that a group ever had.
    """

    rows: Arrays
    contract: dict[str, Any]
    grouping: dict[str, Any] = field(default_factory=dict)
    people: dict[int, str] = field(default_factory=dict)
    highest: int = 0

    @property
    def faces(self) -> NDArray[np.intp]:
        """The rows that have an embedding."""
        return np.flatnonzero(self.rows["reasons"] == "")

    @property
    def largest(self) -> NDArray[np.intp]:
        """The row of the largest face of each photograph that has one."""
        faces = self.faces
        boxes = np.nan_to_num(self.rows["boxes"][faces])
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        order = np.lexsort((-area, self.rows["names"][faces]))
        _, first = np.unique(self.rows["names"][faces][order], return_index=True)
        return np.sort(faces[order[first]])

    def only(self, kept: NDArray[np.bool_]) -> "FaceTable":
        """Return the table with some of its rows."""
        return replace(self, rows={name: array[kept] for name, array in self.rows.items()})

    def with_rows(self, more: Arrays) -> "FaceTable":
        """Return the table with further rows, which have no group."""
        return replace(self, rows={name: np.concatenate([self.rows[name], more[name]]) for name in _ROWS})

    def save(self, path: Path) -> None:
        """Write the file, replacing one that is there."""
        about = {
            "format": _FORMAT,
            "contract": self.contract,
            "grouping": self.grouping,
            "people": self.people,
            "highest": self.highest,
        }
        write_npz(path, {**self.rows, "about": np.array(json.dumps(about))})

    @classmethod
    def load(cls, path: Path) -> "FaceTable":
        """Read the file. Raises `DataError` if it is damaged, or not one of these."""
        try:
            with np.load(path, allow_pickle=False) as content:
                rows = {name: content[name] for name in _ROWS}
                about = json.loads(str(content["about"]))
            if about["format"] != _FORMAT or len({len(array) for array in rows.values()}) != 1:
                raise ValueError("its arrays do not fit each other")
            people = {int(number): str(name) for number, name in about["people"].items()}
            return cls(rows, dict(about["contract"]), dict(about["grouping"]), people, int(about["highest"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged ({error}): remove it to group all photographs anew") from error

    @classmethod
    def empty(cls, contract: dict[str, Any], embedding_size: int) -> "FaceTable":
        """Return a table without rows."""
        rows: Arrays = {
            "embeddings": np.empty((0, embedding_size), np.float32),
            "boxes": np.empty((0, 4), np.float32),
            "landmarks": np.empty((0, 5, 2), np.float32),
            "stamps": np.empty((0, 2), np.int64),
            "groups": np.empty(0, np.int64),
        }
        return cls({**rows, **{name: np.empty(0, np.str_) for name in ("names", "reasons", "identities")}}, contract)


def table_rows(embedded: Arrays) -> Arrays:
    """Return the rows of a table for what `embed_photographs` has returned, without groups; paths become absolute."""
    names: list[str] = embedded["names"].tolist()
    stamps = [stamp_of(name) for name in names]
    absolute = [os.path.abspath(name) if any(stamp) else name for name, stamp in zip(names, stamps, strict=True)]  # noqa: PTH100 (links are not followed)
    identities = embedded.get("identities")
    if identities is None:
        identities = np.array([str(Path(name).parent) for name in absolute], np.str_)
    return {
        **{name: embedded[name] for name in ("embeddings", "reasons", "boxes", "landmarks")},
        "names": np.array(absolute, np.str_),
        "identities": identities,
        "stamps": np.array(stamps, np.int64).reshape(-1, 2),
        "groups": np.zeros(len(names), np.int64),
    }


def stamp_of(name: str) -> tuple[int, int]:
    """Return the size and the time of change of a file; zeros if there is none of that name."""
    try:
        found = os.stat(name)  # noqa: PTH116
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns
