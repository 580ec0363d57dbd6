"""The photographs at paths, in order, whatever they are stored in."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.data.open import open_faces
from coreface.data.source import FaceSource
from coreface.images.load import load_image


@dataclass(frozen=True)
class PhotographList:
    """The photographs at one path: a source of faces, or files.

    Attributes:
        names: (n) the path of each, or where it is in the source.
        identities: (n) the folder or the label of each, empty if there is none.
        source: None for files.
    """

    names: list[str]
    identities: list[str]
    source: FaceSource | None

    @classmethod
    def of(cls, path: str) -> "PhotographList":
        """List an image, a folder of images or of people, RecordIO, tar shards, or a ``.txt`` with one path per line.

        Raises:
            DataError: the path is none of these.
        """
        where = Path(path)
        if where.suffix.lower() == ".txt" and where.is_file():
            lines = where.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            files = [str(where.parent / line) for line in lines if line.strip()]
            return cls(files, [""] * len(files), None)
        if where.is_file() and where.suffix.lower() in IMAGE_SUFFIXES:
            return cls([path], [""], None)
        flat = sorted(str(file) for file in where.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if where.is_dir() and flat and not any(where.glob("*.rec")) and not any(where.glob("*.tar")):
            return cls(flat, [""] * len(flat), None)
        source = open_faces(path)
        names = [source.locate(index) for index in range(len(source))]
        return cls(names, [source.identity_names[k] for k in source.identities], source)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return a photograph, uint8 RGB (H, W, 3). Raises `ImageError` if it cannot be read."""
        return load_image(self.names[index]) if self.source is None else self.source[index][0]


def list_photographs(paths: Iterable[str | os.PathLike[str]]) -> list[PhotographList]:
    """List the photographs at paths. Raises `DataError` if there are none at one of them."""
    return [PhotographList.of(os.fspath(path)) for path in paths]
