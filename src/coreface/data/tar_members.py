"""The names, offsets and sizes of the members of a tar file, without reading their content.

The standard library's tarfile creates an object per member, and a shard has tens of thousands of them. Supported are
POSIX ustar headers, the long names of GNU tar, and PAX records of paths and sizes. Format: POSIX.1-2017, pax.
"""

import mmap
import zlib
from collections.abc import Iterator

from coreface.errors import DataError

_BLOCK = 512
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_GNU_NAME, _PAX, _PAX_GLOBAL = b"L", b"x", b"g"
_EXTRA = (_GNU_NAME, _PAX, _PAX_GLOBAL)
_LONGEST_NAME = 2**16  # bytes that the extra headers of a member may have
_EMPTY = bytes(_BLOCK)

Member = tuple[str, int, int]  #: a regular file: its name, and the offset and size of its content


def tar_members(data: bytes | mmap.mmap, others: list[str] | None = None) -> Iterator[Member]:
    """Yield (name, start, size) of the regular files of a tar, in their order, without reading their content.

    Args:
        data: the tar.
        others: receives the names of the members that are neither files nor folders: links and devices.

    Raises:
        DataError: a header is damaged, or the file ends within a member; the message says at which byte.
    """
    position, end = 0, len(data)
    name: str | None = None  # from an extra header, for the member behind it
    size: int | None = None
    while position < end:
        header = data[position : position + _BLOCK]
        if header == _EMPTY:
            return
        if len(header) < _BLOCK:
            raise DataError(f"byte {position}: the file ends within a header; get a complete copy")
        if not _sum_is_right(header):
            raise DataError(f"byte {position}: not the header of a tar member (wrong checksum); get a new copy")
        kind = header[156:157]
        extra = kind in _EXTRA
        length = _number(header[124:136], position) if size is None or extra else size
        start = position + _BLOCK
        if start + length > end:
            raise DataError(
                f"byte {position}: a member of {length} bytes, but the file ends at byte {end}; get a complete copy"
            )
        position = start + (length + _BLOCK - 1) // _BLOCK * _BLOCK
        if extra:
            if length > _LONGEST_NAME:
                raise DataError(f"byte {start}: an extra header of {length} bytes, expected at most {_LONGEST_NAME}")
            content = data[start : start + length]
            if kind == _GNU_NAME:
                name = _text(content.split(b"\0")[0])
            elif kind == _PAX:
                records = _pax_records(content, start)
                name = records.get("path", name)
                if "size" in records:
                    size = _whole(records["size"], start)
            continue
        if kind in _FILES:
            yield _name(header) if name is None else name, start, length
        elif kind != _FOLDER and others is not None:
            others.append(_name(header) if name is None else name)
        name = size = None


def _sum_is_right(header: bytes) -> bool:
    said = header[148:156]
    try:
        # The low half of Adler-32, started at 0, is the sum of all bytes modulo 65521, without a loop in Python. The
        # field itself counts as eight blanks.
        counted = (zlib.adler32(header, 0) & 0xFFFF) - sum(said) + 256
        return (counted - int(said.strip(b" \0"), 8)) % 65521 == 0
    except ValueError:
        return False


def _number(field: bytes, position: int) -> int:
    if field[0] & 0x80:  # GNU: binary, for sizes of 8 GiB and more
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        if digits and not digits.isdigit():  # for example a sign: going back would never end
            raise ValueError
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise DataError(f"byte {position}: the size is {field!r}, expected an octal number; get a new copy") from error


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _pax_records(content: bytes, start: int) -> dict[str, str]:
    """Read lines ``<length> <key>=<value>``, where the length includes itself and the end of the line."""
    records = {}
    at = 0
    while at < len(content):
        blank = content.find(b" ", at)
        length = _whole(_text(content[at:blank]), start + at) if blank > at else 0
        record = content[blank + 1 : at + length]
        if length <= blank - at or not record.endswith(b"\n") or b"=" not in record:
            raise DataError(f"byte {start + at}: a damaged extra header; get a new copy")
        key, _, value = record[:-1].partition(b"=")
        records[_text(key)] = _text(value)
        at += length
    return records


def _whole(text: str, position: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise DataError(f"byte {position}: {text[:40]!r}, expected a whole number; get a new copy")
    return int(text)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
