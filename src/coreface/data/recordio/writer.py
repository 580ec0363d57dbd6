"""Writes RecordIO files that MXNet and InsightFace's tools can read."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np

from coreface.data.recordio.frames import FRAME, HEADER, LENGTH_MASK, MAGIC, frames_of
from coreface.data.recordio.index import index_text
from coreface.errors import InputError
from coreface.files import Replacement

_LAST_WHOLE_FLOAT = 2**24  # labels and keys of the index are float32, which skips whole numbers above


class RecordWriter:
    """Writes ``NAME.rec`` and ``NAME.idx``. Both appear only if the block ends without an error.

    ```python
    with RecordWriter("train.rec") as writer:
        writer.write(image_bytes, label)
    ```

    Args:
        path: the `.rec` to write.
        identities: write the index of identities that InsightFace's loaders use: a first record of key 0, the images
            from key 1, then one record per identity. The images of an identity must be consecutive.

    Raises:
        InputError: ``path`` does not end in ``.rec``.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, identities: bool = False) -> None:
        self._path = Path(path)
        if self._path.suffix != ".rec":
            raise InputError(f"{path}: expected a name that ends in .rec")
        self._identities = identities
        self._offsets: list[int] = []
        self._offset = 0
        self._first_keys: dict[int, int] = {}  # label -> key of its first image, in the order they came
        self._last_label: int | None = None
        self._file = Replacement(self._path)
        if identities:
            self._write_index_record(0, 0)  # a placeholder: its numbers are known at the end only

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.discard()

    def write(self, image: bytes, label: int) -> int:
        """Append one image as it is.

        Args:
            image: JPEG or PNG.
            label: any whole number that float32 holds exactly, -2 ** 24 to 2 ** 24.

        Returns:
            The key of the record.

        Raises:
            InputError: the label is none of these, the image is empty or has 2 ** 29 bytes or more, or an index of
                identities is written and the images of an identity are not consecutive.
        """
        if label != int(label) or abs(label) > _LAST_WHOLE_FLOAT:
            raise InputError(f"the label is {label}, expected a whole number of at most {_LAST_WHOLE_FLOAT}")
        if not image or HEADER.size + len(image) > LENGTH_MASK:
            raise InputError(f"the image has {len(image)} bytes, expected 1 to {LENGTH_MASK - HEADER.size}")
        label, key = int(label), len(self._offsets)
        if self._identities and label != self._last_label:
            if label in self._first_keys:
                raise InputError(
                    f"label {label} comes again after others: sort the images by identity, or write without identities"
                )
            self._first_keys[label] = key
            self._last_label = label
        self._write(HEADER.pack(0, label, key, 0) + image)
        return key

    def close(self) -> None:
        """Finish both files and put them in place."""
        if self._identities:
            behind = len(self._offsets)
            starts = list(self._first_keys.values())
            for start, end in zip(starts, [*starts[1:], behind], strict=True):
                self._write_index_record(start, end)
            self._file.seek(0)
            self._file.write(_frames(_index_record(0, behind, len(self._offsets))))
        index = Replacement(self._path.with_suffix(".idx"))
        index.write(index_text(np.arange(len(self._offsets)), np.array(self._offsets, dtype=np.int64)))
        index.place()
        self._file.place()

    def _write_index_record(self, first: int, behind: int) -> None:
        self._write(_index_record(len(self._offsets), first, behind))

    def _write(self, payload: bytes) -> None:
        framed = _frames(payload)
        self._file.write(framed)
        self._offsets.append(self._offset)
        self._offset += len(framed)


def _index_record(key: int, first: int, behind: int) -> bytes:
    if behind > _LAST_WHOLE_FLOAT:
        raise InputError(
            f"{behind} records, expected at most {_LAST_WHOLE_FLOAT} in a file with an index of identities"
        )
    return HEADER.pack(2, 0.0, key, 0) + np.array([first, behind], dtype="<f4").tobytes()


def _frames(payload: bytes) -> bytes:
    return b"".join(
        FRAME.pack(MAGIC, flag << 29 | len(part)) + part + bytes(-len(part) % 4) for flag, part in frames_of(payload)
    )
