"""A folder of faces, with one subfolder of images per identity."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.crop_alignment import ALIGNMENT, REJECTS, SAMPLES, read_alignment
from coreface.data.source import FaceSource, Notice
from coreface.errors import DataError, ImageError, InputError
from coreface.images.load import load_image
from coreface.plurals import counted

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".gif"),
        *(".pgm", ".ppm", ".pbm", ".pnm"),
    }
)


class FolderSource(FaceSource):
    """``<folder>/<identity>/<image>``. Identities and images are sorted by name, so that labels are reproducible.

    Identities may be nested, ``<folder>/<group>/<identity>/<image>``: the folder that contains images is the identity,
    and ``<group>/<identity>`` its name. Folders inside an identity are ignored and reported.

    Args:
        folder: the folder with one folder per identity. Symbolic links are followed.
        identity_level: how many levels below ``folder`` the identities are, regardless of their content: 1 for
            ``<folder>/<identity>/<session>/<image>``. None uses the folders that contain images.

    Raises:
        DataError: the folder is missing, is not a folder, cannot be listed, or contains no identity with an image.
        InputError: ``identity_level`` is below 1.
    """

    def __init__(self, folder: str | os.PathLike[str], *, identity_level: int | None = None) -> None:
        if identity_level is not None and identity_level < 1:
            raise InputError(f"identity_level is {identity_level}, expected 1 or more: folders below {folder}")
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
        level = identity_level
        found = _folders(root, "", frozenset()) if level is None else _levelled(root, "", frozenset(), level)
        for name, images, others in found:
            stray += others
            if images:
                paths += images
                identities += [len(names)] * len(images)
                names.append(os.fsencode(name).decode("utf-8", "surrogateescape"))  # the same in every locale
            elif name:
                empty.append(name)
        if not names:
            deeper = "" if identity_level is None else f", and identity_level is {identity_level}"
            raise DataError(f"{root}: no <identity>/<image> inside; images need one folder per person{deeper}")
        super().__init__(np.array(identities, dtype=np.int64), names)
        self.alignment = read_alignment(root)
        if self.alignment.known:  # written by `coreface align` next to its crops
            stray = [name for name in stray if name not in (ALIGNMENT, REJECTS, SAMPLES)]
        self._root = root
        self._paths = paths
        self._stray = tuple(sorted(stray))
        self._empty = tuple(empty)
        self._shared = _shared_below(self.identity_names) if identity_level is None else ()

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

    def relative_path(self, index: int) -> str:
        return self._paths[index]

    def storage_notices(self) -> list[Notice]:
        found = []
        if self._stray:
            found.append(
                Notice(
                    f"{counted(len(self._stray), 'stray file')}: not an image, or not in the folder of an identity",
                    self._stray,
                )
            )
        if self._empty:
            found.append(Notice(f"{counted(len(self._empty), 'identity folder')} without an image", self._empty))
        if self._shared:
            found.append(
                Notice(
                    f"{counted(len(self._shared), 'name')} of an identity in several folders: they count as different "
                    "people; if those folders are the people, set identity_level (--identity-level 1)",
                    self._shared,
                )
            )
        return found


_Above = frozenset[tuple[int, int]]  # the folders above one, by device and inode
_Found = tuple[str, list[str], list[str]]  # name of a folder, its images, and its stray files


def _folders(folder: Path, name: str, above: _Above) -> Iterator[_Found]:
    """Yield (name, images, strays) of a folder that contains images, or else of the folders in it."""
    prefix = f"{name}/" if name else ""
    images, others, inner = _sorted_out(folder)
    if images and name:
        yield name, [prefix + image for image in images], [prefix + other for other in (*others, *inner)]
        return
    entered, links = _without_links_back(folder, inner, above)
    yield ("" if entered else name), [], [prefix + other for other in (*images, *others, *links)]
    for entry in entered:
        yield from _folders(folder / entry, prefix + entry, above | {_number(folder)})


def _levelled(folder: Path, name: str, above: _Above, level: int) -> Iterator[_Found]:
    """Yield as `_folders` does, but the folders of one level own all images below them."""
    prefix = f"{name}/" if name else ""
    if level == 0:
        yield name, *_all_below(folder, prefix, above)
        return
    images, others, inner = _sorted_out(folder)
    entered, links = _without_links_back(folder, inner, above)
    yield ("" if entered else name), [], [prefix + other for other in (*images, *others, *links)]
    for entry in entered:
        yield from _levelled(folder / entry, prefix + entry, above | {_number(folder)}, level - 1)


def _all_below(folder: Path, prefix: str, above: _Above) -> tuple[list[str], list[str]]:
    """Return the images in a folder and below it, and stray files."""
    images, others, inner = _sorted_out(folder)
    entered, links = _without_links_back(folder, inner, above)
    found = [prefix + image for image in images], [prefix + other for other in (*others, *links)]
    for entry in entered:
        more = _all_below(folder / entry, f"{prefix}{entry}/", above | {_number(folder)})
        found[0].extend(more[0])
        found[1].extend(more[1])
    return found


def _sorted_out(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the images in a folder, of other files, and of folders."""
    images: list[str] = []
    others: list[str] = []
    inner: list[str] = []
    for entry in _entries(folder):
        kind = inner if entry.is_dir() else images if _is_image(entry) else others
        kind.append(entry.name)
    return images, others, inner


def _without_links_back(folder: Path, inner: list[str], above: _Above) -> tuple[list[str], list[str]]:
    """Split the folders in a folder into real ones and links back to a folder above."""
    above = above | {_number(folder)}
    links = [name for name in inner if _number(folder / name) in above]
    return [name for name in inner if name not in links], links


def _number(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _shared_below(names: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of names that occur below several folders, with two of these folders."""
    holders: dict[str, list[str]] = {}
    for name in names:
        above, _, last = name.rpartition("/")
        if above:
            holders.setdefault(last, []).append(above)
    return tuple(f"{last}: in {', '.join(above[:3])}" for last, above in sorted(holders.items()) if len(above) > 1)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _entries(folder: Path) -> list[Path]:
    """List the entries of a folder sorted by name, without hidden files."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its rights") from error
