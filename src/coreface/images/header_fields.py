"""Binary fields of image headers."""

import struct
from typing import Any

from coreface.errors import ImageError


def expect_bytes(data: bytes, expected: int) -> None:
    """Raise `ImageError` if there are fewer bytes than expected."""
    if len(data) < expected:
        raise ImageError(f"the image is cut off: {len(data)} bytes, expected at least {expected}; get a complete copy")


def unpack_fields(layout: str, data: bytes, start: int) -> tuple[Any, ...]:
    """Return the fields at a byte, as `struct.unpack_from`. Raises `ImageError` if the data ends before."""
    expect_bytes(data, start + struct.calcsize(layout))
    return struct.unpack_from(layout, data, start)
