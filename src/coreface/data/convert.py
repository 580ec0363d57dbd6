"""Copies faces from one storage format to another, image by image, byte for byte."""

import io
import itertools
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from coreface.data.crop_alignment import write_alignment
from coreface.data.labels import write_names
from coreface.data.recordio.source import RecordSource
from coreface.data.recordio.writer import RecordWriter
from coreface.data.source import FaceSource
from coreface.data.tar_shards import ShardSource
from coreface.errors import DataError, ImageError, InputError
from coreface.files import force_to_disk
from coreface.images.headers import image_size

Storage = Literal["folder", "recordio", "shards"]
Progress = Callable[[int], None]

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "WebP": ".webp",
    "TIFF": ".tif",
    "PNM": ".pnm",
    "AVIF": ".avif",
}


def convert_faces(
    source: FaceSource,
    target: str | os.PathLike[str],
    storage: Storage,
    *,
    per_shard: int = 10_000,
    shuffle: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a source of faces in another storage format. No image is decoded or encoded.

    ``folder`` has ``<identity>/<number>.<suffix>``; ``recordio`` has ``train.rec``, ``train.idx`` and ``property``,
    with the index of identities where the images come identity by identity; ``shards`` has ``shard-000000.tar`` and so
    on.
    RecordIO and shards keep the order of the images, and the names of the identities in ``identities.json``.

    Args:
        source: the faces.
        target: the folder to write. It appears when it is complete.
        storage: the format.
        per_shard: images per shard.
        shuffle: seed of a random order for shards. Shards are read in sequence, so that without it a batch would
            contain few people. None keeps the order.
        progress: called with the number of images done.

    Raises:
        DataError: ``target`` exists already.
        ImageError: an image cannot be read.
        InputError: ``per_shard`` is below 1, or ``shuffle`` is given for another storage.
        OSError: it cannot be written.
    """
    if per_shard < 1:
        raise InputError(f"per_shard is {per_shard}, expected at least 1")
    if shuffle is not None and storage != "shards":
        raise InputError(f"shuffle is for shards, which are read in sequence, unlike a {storage}")
    with new_folder(Path(target)) as folder:
        if storage == "folder":
            _write_folder(source, folder, progress)
        elif storage == "recordio":
            _write_recordio(source, folder, progress)
        else:
            _write_shards(source, folder, per_shard, shuffle, progress)
        if source.alignment.known:
            write_alignment(folder, source.alignment)


def storage_of(source: FaceSource) -> Storage:
    """Return the storage that a source, or what it is a selection of, is read from; a folder where it is neither."""
    origin = source.origin
    return "recordio" if isinstance(origin, RecordSource) else "shards" if isinstance(origin, ShardSource) else "folder"


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes ``target`` if the block ends without an error.

    Unfinished folders of killed processes are removed.

    Raises:
        DataError: ``target`` exists already and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} exists already: choose another name, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{_glob_escaped(target.name)}.*.unfinished"):
        owner = left.name.split(".")[-2]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left)
    folder = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    folder.mkdir()
    try:
        yield folder
        for path in [*folder.rglob("*"), folder]:
            force_to_disk(path)
        folder.replace(target)
        force_to_disk(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_suffix(image: bytes) -> str:
    """Return the suffix that fits an encoded image, with its dot.

    Raises:
        ImageError: it is of no known format.
    """
    return _SUFFIXES[image_size(image).format]


def _write_folder(source: FaceSource, folder: Path, progress: Progress | None) -> None:
    names = folder_names(source.identity_names)
    for name in names:
        (folder / name).mkdir()
    digits = max(6, len(str(len(source))))
    for index in range(len(source)):
        image = source.encoded(index)
        name = f"{index:0{digits}}{_suffix_at(source, index, image)}"
        (folder / names[source.identities[index]] / name).write_bytes(image)
        _tell(progress, index)


def _write_recordio(source: FaceSource, folder: Path, progress: Progress | None) -> None:
    grouped = bool((np.count_nonzero(np.diff(source.identities)) + 1) == source.num_identities)
    size: tuple[int, int] | None = None
    with RecordWriter(folder / "train.rec", identities=grouped) as writer:
        for index in range(len(source)):
            image = source.encoded(index)
            if size is None:
                _suffix_at(source, index, image)
                size = image_size(image)[:2]
            if not image:
                raise ImageError(f"{source.locate(index)}: is empty; remove it, or get a new copy")
            writer.write(image, int(source.identities[index]))
            _tell(progress, index)
    width, height = size or (0, 0)
    (folder / "property").write_text(f"{source.num_identities},{height},{width}\n", encoding="utf-8")
    write_names(folder, source.identity_names)


def _write_shards(
    source: FaceSource, folder: Path, per_shard: int, shuffle: int | None, progress: Progress | None
) -> None:
    order = np.arange(len(source)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(source))
    for number, start in enumerate(range(0, len(source), per_shard)):
        with tarfile.open(folder / f"shard-{number:06}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for place in range(start, min(start + per_shard, len(source))):
                index = int(order[place])
                image = source.encoded(index)
                for suffix, content in (
                    (_suffix_at(source, index, image), image),
                    (".cls", str(source.identities[index]).encode()),
                ):
                    member = tarfile.TarInfo(f"{place:09}{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
                _tell(progress, place)
    write_names(folder, source.identity_names)


def folder_names(names: tuple[str, ...]) -> list[str]:
    """Return unique names of folders for identities, each one part of a path, that sort in the same order.

    Numbers are padded with zeros, so that they sort as text. Names that would not sort, or that cannot be folders, get
    their index as a prefix.
    """
    if all(name.isdigit() for name in names):
        longest = max(map(len, names))
        made = [name.zfill(longest) for name in names]
    else:
        made = [re.sub(r"[/\\\x00]", "_", name) for name in names]
    fits = all(name and not name.startswith(".") and len(os.fsencode(name)) < 200 for name in made)
    if fits and all(one < other for one, other in itertools.pairwise(made)):
        return made
    digits = len(str(len(made)))
    return [f"{number:0{digits}}_{name[:40]}" for number, name in enumerate(made)]


def _suffix_at(source: FaceSource, index: int, image: bytes) -> str:
    try:
        return file_suffix(image)
    except ImageError as error:
        raise ImageError(f"{source.locate(index)}: {error}; coreface data check lists all of them") from error


def _tell(progress: Progress | None, index: int) -> None:
    if progress and index % 16 == 15:
        progress(index + 1)


def _glob_escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
