"""Faces in tar shards as WebDataset lays them out: ``key.jpg`` and ``key.cls``, read one shard after another."""

import mmap
import os
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.data.labels import identities_of, read_names
from coreface.data.mapped_file import MappedFile
from coreface.data.source import FaceSource, Notice
from coreface.data.tar_members import Member, tar_members
from coreface.errors import DataError, ImageError

LABEL_SUFFIX = ".cls"
_LONGEST_LABEL = 64  # bytes
_BUFFER = 10_000


class ShardSource(FaceSource):
    """The images of one or more tar files. What is before the first dot of a name is the key that joins its parts.

    Any image can be read at any time. Training reads the shards one after another, each from its beginning to its end,
    mixed over a window of images (`reading_order`). The workers of a process take whole batches in turn and map the
    same shards, whose pages the system keeps in memory once for all of them.

    Args:
        path: a ``.tar``, or a folder that holds some; they are taken in the order of their names.
        buffer: the window, in images: how far an image can be moved from its place in the sequence.

    Raises:
        DataError: there is no such file, a tar is damaged, a label is no whole number, or there is no image.
    """

    in_sequence = True

    def __init__(self, path: str | os.PathLike[str], *, buffer: int = _BUFFER) -> None:
        where = Path(path)
        paths = sorted(where.glob("*.tar")) if where.is_dir() else [where]
        if not paths:
            raise DataError(f"{where}: no .tar inside, expected shards")
        self._shards = [MappedFile(shard) for shard in paths]
        self._buffer = buffer
        self._lone: list[str] = []
        starts, sizes, labels = array("q"), array("q"), array("d")
        self._first = [0]  # of each shard, and the end of the last
        for shard in self._shards:
            for start, size, label in self._samples(shard):
                starts.append(start)
                sizes.append(size)
                labels.append(label)
            shard.release()
            self._first.append(len(starts))
        if not starts:
            raise DataError(f"{where}: {len(paths)} shards without a sample, expected members key.jpg and key.cls")
        self._starts, self._sizes = np.array(starts), np.array(sizes)
        identities, values = identities_of(np.frombuffer(labels), self.locate)
        folder = where if where.is_dir() else where.parent
        super().__init__(identities, read_names(folder, values))

    def encoded(self, index: int) -> bytes:
        start, size = int(self._starts[index]), int(self._sizes[index])
        try:
            data = self._shards[self._shard(index)].view()
        except DataError as error:
            raise ImageError(str(error)) from error
        return data[start : start + size].tobytes()

    def locate(self, index: int) -> str:
        return f"{self._shards[self._shard(index)].path}, byte {self._starts[index]}"

    def notices(self) -> list[Notice]:
        found = super().notices()
        if self._lone:
            found.append(Notice(f"{len(self._lone)} members lack their image or their label", tuple(self._lone)))
        return found

    def reading_order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw an order: the shards shuffled, read in sequence, each image moved by less than the window."""
        first = np.array(self._first)
        shards = rng.permutation(len(self._shards))
        sequence = np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in shards])
        # An image that waits a random part of the window comes out as from a buffer of that many.
        waits = np.arange(len(sequence)) + rng.random(len(sequence)) * self._buffer
        return sequence[np.argsort(waits, kind="stable")]

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1

    def _samples(self, shard: MappedFile) -> list[tuple[int, int, float]]:
        data = shard.mapping()
        images: dict[str, Member] = {}
        labels: dict[str, Member] = {}
        try:
            for member in tar_members(data):
                name, start, _ = member
                file = name.rfind("/") + 1
                dot = name.find(".", file)
                if dot == file:
                    continue  # a hidden file: macOS leaves them
                key, suffix = (name[:dot], name[dot:]) if dot > 0 else (name, "")
                if suffix == LABEL_SUFFIX:
                    parts = labels
                elif suffix.lower() in IMAGE_SUFFIXES:
                    parts = images
                else:
                    continue  # samples may have more parts: key.json
                if key in parts:
                    raise DataError(f"byte {start}: a second member {name!r}")
                parts[key] = member
            lone = images.keys() ^ labels.keys()
            self._lone += [f"{shard.path}: {(images.get(key) or labels[key])[0]}" for key in sorted(lone)]
            return [
                (start, size, _label(data, labels[key])) for key, (_, start, size) in images.items() if key in labels
            ]
        except DataError as error:
            raise DataError(f"{shard.path}: {error}") from error


def _label(data: mmap.mmap, member: Member) -> float:
    name, start, size = member
    content = data[start : start + min(size, _LONGEST_LABEL + 1)]
    try:
        if len(content) > _LONGEST_LABEL:
            raise ValueError
        return float(content)
    except ValueError as error:
        shown = content[:40].decode("utf-8", "replace")
        raise DataError(f"{name!r} at byte {start}: {shown!r}, expected a whole number") from error
