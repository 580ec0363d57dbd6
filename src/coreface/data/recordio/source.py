"""Faces in InsightFace's RecordIO: `train.rec`, `train.idx` and `property`."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.crop_alignment import read_alignment
from coreface.data.labels import identities_of, read_names
from coreface.data.recordio.reader import RecordReader
from coreface.data.source import FaceSource, Notice
from coreface.errors import DataError, ImageError
from coreface.images.fast_jpeg import decode_plain_jpeg
from coreface.images.load import MAX_PIXELS

LARGEST_LABEL = 2**24  #: labels from here on may be rounded, because the file stores them as float32
_ALL_READ = 200_000  # records; in a larger file the index of identities is used instead of the headers of the images


class RecordSource(FaceSource):
    """The images of a RecordIO file, without the records of its index.

    Labels may be any whole numbers; they become identities 0, 1, 2, ... in the order of their values, and the names of
    the identities are the labels, or are read from ``identities.json`` next to the file.

    A file of more than 200 000 records that begins with an index (the record of key 0) is not scanned: the labels are
    taken from the first and the last image of each identity in the index, and checked when an image is read.

    Args:
        path: the `.rec`, or the folder that holds it.

    Raises:
        DataError: there is no such file, its `.idx` does not fit, a record is damaged, or there is no image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reader = RecordReader(path)
        described = self._described() if len(self._reader) > _ALL_READ else None
        positions, labels = described or self._read_through()
        if not len(labels):
            raise DataError(f"{self._reader.path}: {len(self._reader)} records, none of them an image")
        self._positions = positions
        identities, self._labels = identities_of(labels, self.locate)
        super().__init__(identities, read_names(self._reader.path.parent, self._labels))
        self.alignment = read_alignment(self._reader.path.parent)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        identity = self.identities.item(index)
        data = self._reader.plain_image(self._positions[index], self._labels[identity])
        image = decode_plain_jpeg(data, MAX_PIXELS) if data else None
        return super().__getitem__(index) if image is None else (image, identity)

    @classmethod
    def claims(cls, path: str) -> bool:
        where = Path(path)
        return any(where.glob("*.rec")) if where.is_dir() else where.suffix in (".rec", ".idx")

    def encoded(self, index: int) -> bytes:
        expected = self._labels[self.identities.item(index)]
        try:
            record = self._reader[int(self._positions[index])]
        except DataError as error:
            raise ImageError(str(error)) from error
        if record.labels[0] != expected:
            raise ImageError(f"{self.locate(index)}: the label is {record.labels[0]}, the index says {expected}")
        return record.image

    def locate(self, index: int) -> str:
        return self._reader.locate(int(self._positions[index]))

    def storage_notices(self) -> list[Notice]:
        found = []
        # The labels are 32-bit floats, which hold every whole number up to 2^24 only.
        if large := [str(label) for label in self._labels if abs(label) >= LARGEST_LABEL]:
            found.append(
                Notice(
                    f"{_labels(len(large))} of {LARGEST_LABEL} or more: RecordIO keeps labels as 32-bit floats, which "
                    "cannot tell neighbouring numbers apart from there on, so that people may have been merged; number "
                    "the identities from 0 and write the file again",
                    tuple(large),
                )
            )
        if behind := self._reader.bytes_behind_index():
            found.append(
                Notice(
                    f"{self._reader.path} continues for {behind} bytes after the last record of its index: records "
                    "that are not read; remove the .idx to have it rebuilt",
                    (str(self._reader.index_path),),
                    loses=True,
                )
            )
        path = self._reader.path.with_name("property")
        try:
            said = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return found
        if said.split(",")[0].strip() != str(self.num_identities):
            found.append(Notice(f"{path} states another number of identities than {self.num_identities}", (said[:80],)))
        return found

    def _read_through(self) -> tuple[range | NDArray[np.int64], NDArray[np.float32]]:
        headers = self._reader.headers(slice(None))
        if headers.is_index.any():
            positions = np.flatnonzero(~headers.is_index)
            return _as_range(positions), headers.labels[positions]
        return range(len(self._reader)), headers.labels

    def _described(self) -> tuple[range, NDArray[np.float32]] | None:
        """Take the labels from the index of identities; None if there is none, or it is irregular.

        The record of key 0 has the first key after the images and the first after all records; each record in between
        has the first key of an identity and the first key after it.
        """
        reader = self._reader
        top = reader[0]
        if not top.is_index or not reader.keys_count_up:
            return None
        behind, end = top.labels
        if not 1 < behind < end <= len(reader) or behind % 1 or end % 1:
            return None
        bounds = np.empty((int(end) - int(behind), 2))
        for row in range(len(bounds)):
            person = reader[int(behind) + row]
            if not person.is_index:
                return None
            bounds[row] = person.labels
        bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
        starts, ends = bounds[:, 0], bounds[:, 1]
        if starts[0] != 1 or ends[-1] != behind or (starts[1:] != ends[:-1]).any() or not (starts < ends).all():
            return None
        if (starts != np.floor(starts)).any():
            return None
        first_of, behind_of = starts.astype(np.int64), ends.astype(np.int64)
        first, last = reader.headers(first_of), reader.headers(behind_of - 1)
        if first.is_index.any() or last.is_index.any() or (first.labels != last.labels).any():
            return None
        return range(1, int(behind)), np.repeat(first.labels, behind_of - first_of)


def _labels(count: int) -> str:
    return "1 label" if count == 1 else f"{count} labels"


def _as_range(positions: NDArray[np.int64]) -> range | NDArray[np.int64]:
    """Return the positions as a range, which takes no memory, if they are contiguous."""
    if len(positions) and positions[-1] - positions[0] + 1 == len(positions):
        return range(int(positions[0]), int(positions[-1]) + 1)
    return positions
