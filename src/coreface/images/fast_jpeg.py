"""The fast path for ordinary JPEG files, with one frame and one scan. Training loads millions of them.

Like `coreface.images.headers` it verifies that the image is complete, with as little work as possible. An image that it
does not accept may still be valid: `coreface.images.load.load_image` decides. Source: ITU-T T.81 annex B.
"""

import functools
import struct
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.images.headers import JPEG_MARKER

_find_marker = JPEG_MARKER.search
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START, _END = 0xD8, 0xD9
_FIRST = 0xC0  # lower markers belong to no segment of an ordinary JPEG
_SCAN_MARKER = b"\xff\xda"
_LONGEST_HEADER = 2048  # bytes
_SEGMENT, _TWO_NUMBERS, _TWO_BYTES = (struct.Struct(layout).unpack_from for layout in (">BBH", ">HH", ">H"))
_RGB = cv2.IMREAD_COLOR_RGB
_decode, _frombuffer, _uint8 = cv2.imdecode, np.frombuffer, np.uint8


class _Header(NamedTuple):
    """All bytes before the entropy-coded ones, and their width times height."""

    content: bytes
    pixels: int


# The images of a set often come from one encoder and have equal headers: the last header is tried first. Initially a
# header that no image can have.
_latest = _Header(b"\xff\xd8\xff\xd9", 0)


def decode_plain_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a plain JPEG, known to be complete, to RGB (H, W, 3), upright; None for anything else.

    Args:
        data: any bytes.
        max_pixels: largest width times height.
    """
    global _latest
    header, pixels = _latest
    if not data.startswith(header):
        found = _header_of(data)
        if found is None:
            return None
        header, pixels = _latest = found
    if pixels > max_pixels:
        return None
    end = _find_marker(data, len(header))  # in two joined halves it is the start of the second
    if end is None or data[end.end() - 1] != _END:
        return None
    try:
        return _decode(_frombuffer(data, _uint8), _RGB)  # type: ignore[return-value]
    except cv2.error:
        return None


def _header_of(data: bytes) -> _Header | None:
    scan = data.find(_SCAN_MARKER, 0, _LONGEST_HEADER)
    if scan < 0 or scan + 4 > len(data):
        return None
    pixels = _pixels(data[:scan])
    (length,) = _TWO_BYTES(data, scan + 2)
    end = scan + 2 + length
    return _Header(data[:end], pixels) if pixels and length >= 2 and end <= len(data) else None


@functools.lru_cache(maxsize=64)
def _pixels(header: bytes) -> int:
    """Return width times height of the single frame among the segments before a scan; 0 if they are unusual."""
    position, pixels = 2, 0
    if not header.startswith(b"\xff\xd8\xff"):
        return 0
    while position + 4 <= len(header):
        fill, marker, length = _SEGMENT(header, position)
        if fill != 0xFF or marker < _FIRST or length < 2 or marker in (_START, _END, 0xFF):
            return 0
        if marker in _FRAMES:
            if pixels or length < 7 or position + 9 > len(header):
                return 0
            height, width = _TWO_NUMBERS(header, position + 5)
            pixels = width * height
            if not pixels:
                return 0
        position += 2 + length
    return pixels if position == len(header) else 0
