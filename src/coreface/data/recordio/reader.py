"""Reads RecordIO: any record by position or key, directly from the mapped file."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coreface.data.mapped_file import MappedFile
from coreface.data.recordio.frames import (
    FRAME,
    HEADER,
    LENGTH_MASK,
    MAGIC,
    Record,
    frame_payloads,
    parse_record,
)
from coreface.data.recordio.index import read_index
from coreface.errors import DataError, InputError

_FRAME_SIZE, _HEADER_SIZE = FRAME.size, HEADER.size
_PLAIN_SIZE = _FRAME_SIZE + _HEADER_SIZE
_unpack_plain = struct.Struct("<IIIf16x").unpack_from  # a frame, the flag and the label
_FIELDS_END = FRAME.size + HEADER.size + 4  # a frame, a header and a first label after it, in bytes
_SCAN = 2**16  # largest number of headers read at a time
_SPAN = 2**24  # largest span of the file read at a time: touched pages count as memory until they are released
_ALL_CHECKED = (
    200_000  # largest number of lines of an index that are all checked; in a longer one this many are sampled
)
_TRIED = 1_000


class Headers(NamedTuple):
    """The headers of some records, one row per record.

    Attributes:
        labels: float32, the identity of an image.
        is_index: bool, whether the record describes others (see `Record.is_index`).
    """

    labels: NDArray[np.float32]
    is_index: NDArray[np.bool_]


class RecordReader:
    """The records of a `.rec` file, in the order of its `.idx`; without one, in the order they are stored.

    ``len(reader)`` is the number of records, those of the index among them; ``reader[i]`` is a `Record`. The file is
    mapped into memory; a reader can be pickled to worker processes.

    Args:
        path: the `.rec`, or a folder that holds one.

    Raises:
        DataError: there is no such file, or its `.idx` is damaged or does not fit.

    Attributes:
        path: the `.rec`.
        index_path: the `.idx`, None where the index was rebuilt by a scan.
        offsets: (len,) int64, where each record begins, in bytes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = record_file(Path(path))
        self._file = MappedFile(self.path)
        size = self._size = len(self._file.view())
        index_path = self.path.with_suffix(".idx")
        self.index_path = index_path if index_path.exists() else None
        self._keys: NDArray[np.int64] | None = None
        if self.index_path is None:
            self.offsets = self._scan()
        else:
            self._keys, self.offsets = read_index(self.index_path)
            for start in range(0, len(self), _SCAN):
                some = self.offsets[start : start + _SCAN]
                outside = (some % 4 != 0) | (some > size - FRAME.size)
                if outside.any():
                    first = start + int(outside.argmax())
                    self._refuse(first, f"the file has {size} bytes, and records begin at multiples of 4")
            self._check_lines()

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, position: int) -> Record:
        """Return the record at a place of the index.

        Raises:
            DataError: it is damaged; the message says which record of which file, and where it begins.
        """
        position = range(len(self))[position]
        try:
            return parse_record(frame_payloads(self._file.view(), int(self.offsets[position]))[0])
        except DataError as error:
            raise DataError(f"{self.locate(position)}: {error}") from error

    def plain_image(self, position: int, label: float) -> bytes | None:
        """Return the image of an unsplit record with one label if it has this label, otherwise None.

        `__getitem__` reports what is wrong, if anything. This is the fast path for ordinary records.
        """
        mapping = self._file.mapping_in_use()
        offset = self.offsets.item(position)
        if mapping is None or offset + _PLAIN_SIZE > self._size:
            return None
        magic, length, flag, found = _unpack_plain(mapping, offset)
        end = offset + _FRAME_SIZE + length
        if magic != MAGIC or flag or found != label or not _HEADER_SIZE <= length <= LENGTH_MASK or end > self._size:
            return None  # a continuation flag makes the length more than the mask
        return mapping[offset + _PLAIN_SIZE : end]

    def __iter__(self) -> Iterator[Record]:
        return (self[position] for position in range(len(self)))

    @property
    def keys(self) -> NDArray[np.int64]:
        """(len,) int64, the key of every record."""
        return np.arange(len(self)) if self._keys is None else self._keys

    @property
    def keys_count_up(self) -> bool:
        """Whether the keys are 0, 1, 2 and so on, so that a key is its place."""
        return self._keys is None

    def key(self, position: int) -> int:
        """Return the key of the record at a place of the index."""
        return position if self._keys is None else int(self._keys[position])

    def position(self, key: int) -> int:
        """Return the place of a key in the index.

        Raises:
            InputError: there is no such key.
        """
        if self._keys is None:
            found = [key] if 0 <= key < len(self) else []
        else:
            found = np.flatnonzero(self._keys == key).tolist()
        if not found:
            raise InputError(f"{self.path}: there is no record with key {key}")
        return int(found[0])

    def bytes_behind_index(self) -> int:
        """Return how many bytes of the file follow the last record of the index: records that are not read."""
        try:
            return self._size - frame_payloads(self._file.view(), int(self.offsets.max()))[1]
        except DataError:  # the last record is damaged, which is reported when it is read
            return 0

    def locate(self, position: int) -> str:
        """Return a description of the place of a record."""
        return f"{self.path}, key {self.key(position)} (byte {self.offsets[position]})"

    def headers(self, positions: slice | NDArray[np.int64]) -> Headers:
        """Read the headers of many records at once.

        Raises:
            DataError: a record is damaged; the message names the first, by its line in the index where there is one.
        """
        where = range(len(self))[positions] if isinstance(positions, slice) else positions
        labels = np.empty(len(where), dtype=np.float32)
        is_index = np.empty(len(where), dtype=np.bool_)
        apart = np.ptp(self.offsets[positions]) / len(where) if len(where) else 1.0
        step = int(np.clip(_SPAN / max(apart, 1.0), 16, _SCAN))
        for start in range(0, len(where), step):
            part = slice(start, start + step)
            labels[part], is_index[part] = self._some_headers(np.asarray(where[part], dtype=np.int64))
            self._file.release()
        return Headers(labels, is_index)

    def _some_headers(self, positions: NDArray[np.int64]) -> Headers:
        view = self._file.view()
        size = len(view) // 4 * 4
        words = np.frombuffer(view[:size], dtype="<u4")
        offsets = self.offsets[positions]
        # Other records (split, at the end of the file, damaged) are read again below, one by one.
        plain = offsets <= size - _FIELDS_END
        at = np.where(plain, offsets, 0) // 4 if size >= _FIELDS_END else np.zeros(0, np.int64)
        if not len(at):
            plain[:] = False
            labels, is_index = np.zeros(len(offsets), np.float32), np.zeros(len(offsets), np.bool_)
        else:
            length, flag = words[at + 1].astype(np.int64), words[at + 2].astype(np.int64)
            image = length - HEADER.size - 4 * flag
            plain &= (words[at] == MAGIC) & (length <= LENGTH_MASK) & (image >= 0)
            plain &= offsets + FRAME.size + length <= len(view)
            labels = np.where(flag > 0, words[at + 8], words[at + 3]).view(np.float32)
            is_index = (flag == 2) & (image == 0)
        for row in np.flatnonzero(~plain):
            position = int(positions[row])
            self._frames(position)
            record = self[position]
            labels[row], is_index[row] = record.labels[0], record.is_index
        return Headers(labels, is_index)

    def _check_lines(self) -> None:
        count = len(self)
        if count > _ALL_CHECKED:
            try:
                self.headers(np.unique(np.linspace(0, count - 1, _TRIED, dtype=np.int64)))
                return
            except DataError:
                pass  # only a check of all lines finds the first bad one
        self.headers(slice(None))

    def _frames(self, position: int) -> None:
        """Raise `DataError`, with the line of the index, if no record begins at its offset."""
        try:
            frame_payloads(self._file.view(), int(self.offsets[position]))
        except DataError as error:
            self._refuse(position, str(error))

    def _refuse(self, position: int, reason: str) -> None:
        offset = self.offsets[position]
        if self.index_path is None:
            raise DataError(f"{self.path}: damaged: {reason}; get a new copy")
        raise DataError(
            f"{self.index_path}, line {position + 1}: key {self.key(position)} at byte {offset} does not fit "
            f"{self.path.name}: {reason}; remove the .idx to have it rebuilt, or get a new copy of both"
        )

    def _scan(self) -> NDArray[np.int64]:
        view = self._file.view()
        offsets: list[int] = []
        offset = 0
        while offset < len(view):
            offsets.append(offset)
            try:
                _, offset = frame_payloads(view, offset)
            except DataError as error:
                raise DataError(
                    f"{self.path}: record {len(offsets)} is damaged: {error}; get a new copy, or its .idx, with which "
                    "the records after it can be read"
                ) from error
            if len(offsets) % _SCAN == 0:
                self._file.release()
        return np.array(offsets, dtype=np.int64)


def record_file(path: Path) -> Path:
    """Return the `.rec` at a path.

    Raises:
        DataError: there is none, or a folder holds several.
    """
    if path.is_dir():
        found = sorted(path.glob("*.rec"))
        if len(found) != 1:
            names = f"{', '.join(file.name for file in found)}: specify one" if found else "no .rec file"
            raise DataError(f"{path}: expected one RecordIO file, got {names}")
        return found[0]
    path = path.with_suffix(".rec") if path.suffix == ".idx" else path
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a RecordIO .rec, or a folder that holds one")
    return path
