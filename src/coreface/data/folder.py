"""A folder of faces: one sub-folder an identity, its images inside."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.crop_alignment import ALIGNMENT, REJECTS, SAMPLES, read_alignment
from coreface.data.source import FaceSource, Notice
from coreface.errors import DataError, ImageError
from coreface.images.load import load_image
from coreface.plurals import counted

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".gif"),
        *(".pgm", ".ppm", ".pbm", ".pnm"),
    }
)


class FolderSource(FaceSource):
    """``<folder>/<identity>/<image>``. Identities and images are ordered by name, so a label always means the same.

    The identities may lie deeper, ``<folder>/<group>/<identity>/<image>``: the folder that holds images is the
    identity, and ``<group>/<identity>`` its name. Folders inside of an identity are stray.

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
        for name, images, others in _folders(root, "", frozenset()):
            stray += others
            if images:
                paths += images
                identities += [len(names)] * len(images)
                names.append(os.fsencode(name).decode("utf-8", "surrogateescape"))  # alike under every locale
            elif name:
                empty.append(name)
        if not names:
            raise DataError(f"{root}: no <identity>/<image> inside; images need one folder per person")
        super().__init__(np.array(identities, dtype=np.int64), names)
        self.alignment = read_alignment(root)
        if self.alignment.known:  # what `coreface align` writes beside its crops
            stray = [name for name in stray if name not in (ALIGNMENT, REJECTS, SAMPLES)]
        self._root = root
        self._paths = paths
        self._stray = tuple(stray)
        self._empty = tuple(empty)

    @classmethod
    def claims(cls, path: str) -> bool:
        return Path(path).is_dir()

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

    def storage_notices(self) -> list[Notice]:
        found = []
        if self._stray:
            found.append(
                Notice(f"{_stray(len(self._stray))}: no image, or not in the folder of an identity", self._stray)
            )
        if self._empty:
            found.append(Notice(f"{counted(len(self._empty), 'identity folder')} without an image", self._empty))
        return found


def _folders(folder: Path, name: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (name, images, strays) of a folder that holds images, or of those in it; one without any has no images."""
    prefix = f"{name}/" if name else ""
    entries = _entries(folder)
    folders = {entry.name for entry in entries if entry.is_dir()}
    images = [] if not name else [e.name for e in entries if e.name not in folders and _is_image(e)]
    known = {*images, *([] if images else folders)}
    stray = [prefix + entry.name for entry in entries if entry.name not in known]
    if images:
        yield name, [prefix + image for image in images], stray
        return
    status = folder.stat()
    above = above | {(status.st_dev, status.st_ino)}
    found = False
    for entry in entries:
        if entry.name not in folders:
            continue
        inside = entry.stat()
        if (inside.st_dev, inside.st_ino) in above:
            stray.append(prefix + entry.name)  # a link back to where we came from
            continue
        found = True
        yield from _folders(entry, prefix + entry.name, above)
    yield ("" if found else name), [], stray


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _entries(folder: Path) -> list[Path]:
    """List what a folder holds by name, hidden files left out."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its rights") from error


def _stray(count: int) -> str:
    return "1 stray file" if count == 1 else f"{count} stray files"
