"""The frames of a RecordIO file and the header of a face record, as MXNet writes them, in little-endian order.

A frame is the magic number, a word with 3 bits of continuation flag and 29 bits of length, the payload, and zeros up to
a multiple of 4 bytes. A payload that contains the magic number at a multiple of 4 bytes is split there: the number is
omitted, and the parts become separate frames with flags 1 (first), 2 (between) and 3 (last); a whole record has flag 0.
"""

import struct
from typing import NamedTuple

from coreface.errors import DataError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
FRAME = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")  #: flag, label, id, id2
LENGTH_MASK = 2**29 - 1
WHOLE, FIRST, BETWEEN, LAST = range(4)


class Record(NamedTuple):
    """A record: the fields of its header, and the encoded image, which is empty in a record of the index.

    Attributes:
        labels: the float32 labels, at least one; the first is the identity.
        flag: 0 if the header contains the label, otherwise the number of labels after the header.
        id: the first of the two numbers of the header, usually the key.
        id2: the second one.
        image: JPEG or PNG.
    """

    labels: tuple[float, ...]
    flag: int
    id: int
    id2: int
    image: bytes

    @property
    def is_index(self) -> bool:
        """Whether it describes other records: two labels and no image. Two labels alone do not make it so."""
        return self.flag == 2 and not self.image


def frame_payloads(data: "memoryview", offset: int) -> tuple[list["memoryview"], int]:
    """Return the parts of the record that begins at ``offset``, and where the next record begins.

    Raises:
        DataError: there is no whole record.
    """
    parts: list[memoryview] = []
    while True:
        if offset + FRAME.size > len(data):
            raise DataError(f"a record is cut off at byte {len(data)}, its frame begins at byte {offset}")
        magic, word = FRAME.unpack_from(data, offset)
        flag, length = word >> 29, word & LENGTH_MASK
        if magic != MAGIC:
            raise DataError(f"byte {offset}: {magic:#010x}, expected the magic number {MAGIC:#010x} of a record")
        if flag not in ((BETWEEN, LAST) if parts else (WHOLE, FIRST)):
            raise DataError(f"byte {offset}: a frame with continuation flag {flag} out of sequence")
        start = offset + FRAME.size
        offset = start + (length + 3) // 4 * 4
        if start + length > len(data):
            raise DataError(
                f"byte {start - FRAME.size}: a frame of {length} bytes, but the file ends at byte {len(data)}"
            )
        parts.append(data[start : start + length])
        if flag in (WHOLE, LAST):
            return parts, offset


def parse_record(parts: list["memoryview"]) -> Record:
    """Join the parts of a record and parse its header.

    Raises:
        DataError: it is shorter than its header says.
    """
    payload: bytes | memoryview = parts[0] if len(parts) == 1 else MAGIC_BYTES.join(parts)
    if len(payload) < HEADER.size:
        raise DataError(f"a record of {len(payload)} bytes, expected a header of {HEADER.size}")
    flag, label, number, number2 = HEADER.unpack_from(payload)
    start = HEADER.size + 4 * flag
    if len(payload) < start:
        raise DataError(f"a record of {len(payload)} bytes, too short for the {flag} labels in its header")
    labels = struct.unpack_from(f"<{flag}f", payload, HEADER.size) if flag else (label,)
    return Record(labels, flag, number, number2, bytes(payload[start:]))


def frames_of(payload: bytes) -> list[tuple[int, bytes]]:
    """Split a payload at the magic numbers in it; return (continuation flag, part) of each frame."""
    cuts = []
    at = payload.find(MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at = payload.find(MAGIC_BYTES, at + 4 if at % 4 == 0 else at + 1)
    if not cuts:
        return [(WHOLE, payload)]
    starts = [0, *(cut + 4 for cut in cuts)]
    ends = [*cuts, len(payload)]
    flags = [FIRST, *[BETWEEN] * (len(cuts) - 1), LAST]
    return [(flag, payload[start:end]) for flag, start, end in zip(flags, starts, ends, strict=True)]
