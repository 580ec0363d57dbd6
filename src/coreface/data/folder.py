"""A folder of faces: one sub-folder an identity, its images inside."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource, Notice
from coreface.errors import DataError, ImageError
from coreface.images import load_image

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pbm", ".pnm"}
)


class FolderSource(FaceSource):
    """``<folder>/<identity>/<image>``. Identities and images are ordered by name, so a label always means the same.

    Args:
        folder: the folder that holds one folder an identity. Symbolic links are followed.

    Raises:
        DataError: the folder is missing, is no folder, cannot be listed, or holds no identity with an image.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        root = Path(folder)
        if not root.exists():
            raise DataError(f"{root}: no such folder; expected <folder>/<identity>/<image>")
        if not root.is_dir():
            raise DataError(f"{root}: a file, expected a folder that holds <identity>/<image>")
        names: list[str] = []
        paths: list[str] = []
        identities: list[int] = []
        stray: list[str] = []
        empty: list[str] = []
        for entry in _entries(root):
            if not entry.is_dir():
                stray.append(entry.name)
                continue
            files = _entries(entry)
            images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
            known = set(images)
            stray += [f"{entry.name}/{file.name}" for file in files if file not in known]
            if not images:
                empty.append(entry.name)
                continue
            paths += [f"{entry.name}/{file.name}" for file in images]
            identities += [len(names)] * len(images)
            names.append(entry.name)
        if not names:
            raise DataError(f"{root}: no <identity>/<image> inside; images need one folder per person")
        super().__init__(np.array(identities, dtype=np.int64), names)
        self._root = root
        self._paths = paths
        self._stray = tuple(stray)
        self._empty = tuple(empty)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return load_image(self._root / self._paths[index])

    def encoded(self, index: int) -> bytes:
        path = self._root / self._paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error

    def locate(self, index: int) -> str:
        return str(self._root / self._paths[index])

    def notices(self) -> list[Notice]:
        found = super().notices()
        if self._stray:
            found.append(Notice(f"{len(self._stray)} stray files are neither images nor identities", self._stray))
        if self._empty:
            found.append(Notice(f"{len(self._empty)} identity folders hold no image", self._empty))
        return found


def _entries(folder: Path) -> list[Path]:
    """List what a folder holds by name, hidden files left out."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its rights") from error
