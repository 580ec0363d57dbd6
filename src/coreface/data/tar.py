"""Where the members of a tar file lie: their names, places and sizes, without reading what they hold.

The standard library's tarfile makes an object a member; a shard has tens of thousands. What is read here is what shards
are made of: POSIX ustar headers, the long names of GNU tar, and PAX records of paths and sizes. Format: POSIX.1-2017,
pax.
"""

from collections.abc import Iterator
from typing import NamedTuple

from coreface.errors import DataError

_BLOCK = 512
_FILES = (b"0", b"\0", b"7")
_GNU_NAME, _PAX, _PAX_GLOBAL = b"L", b"x", b"g"
_LONGEST_NAME = 2**16  # bytes that the extra headers of a member may have
_EMPTY = bytes(_BLOCK)


class Member(NamedTuple):
    """A regular file in a tar: its name, where its content begins, and how many bytes it has."""

    name: str
    start: int
    size: int


def tar_members(data: memoryview) -> Iterator[Member]:
    """Yield the regular files of a tar in their order.

    Raises:
        DataError: a header is damaged, or the file ends within a member; the message says at which byte.
    """
    position = 0
    name: str | None = None  # from an extra header, for the member behind it
    size: int | None = None
    while position < len(data):
        header = bytes(data[position : position + _BLOCK])
        if header == _EMPTY:
            return
        if len(header) < _BLOCK:
            raise DataError(f"byte {position}: the file ends within a header; get a complete copy")
        if not _sum_is_right(header):
            raise DataError(f"byte {position}: no header of a tar member (its sum is wrong); get a new copy")
        kind = header[156:157]
        length = _number(header[124:136], position) if size is None or kind in (_PAX, _PAX_GLOBAL, _GNU_NAME) else size
        start = position + _BLOCK
        if start + length > len(data):
            raise DataError(
                f"byte {position}: a member of {length} bytes, but the file ends at byte {len(data)}; "
                "get a complete copy"
            )
        position = start + (length + _BLOCK - 1) // _BLOCK * _BLOCK
        if kind in (_GNU_NAME, _PAX, _PAX_GLOBAL):
            if length > _LONGEST_NAME:
                raise DataError(f"byte {start}: an extra header of {length} bytes, expected at most {_LONGEST_NAME}")
            content = bytes(data[start : start + length])
            if kind == _GNU_NAME:
                name = _text(content.split(b"\0")[0])
            elif kind == _PAX:
                records = _pax_records(content, start)
                name = records.get("path", name)
                if "size" in records:
                    size = _whole(records["size"], start)
            continue
        if kind in _FILES:
            yield Member(_name(header) if name is None else name, start, length)
        name = size = None


def _sum_is_right(header: bytes) -> bool:
    said = header[148:156].strip(b" \0")
    try:
        # The field itself counts as eight blanks.
        return int(said, 8) == sum(header) - sum(header[148:156]) + 256
    except ValueError:
        return False


def _number(field: bytes, position: int) -> int:
    if field[0] & 0x80:  # GNU: binary, for sizes of 8 GiB and more
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise DataError(f"byte {position}: the size is {field!r}, expected an octal number; get a new copy") from error


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:262] == b"ustar" and header[262:263] == b"\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _pax_records(content: bytes, start: int) -> dict[str, str]:
    """Read lines ``<length> <key>=<value>``, the length counting itself and the end of the line."""
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
