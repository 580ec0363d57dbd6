"""Reads the size of encoded images from their headers, and checks that the data is complete, without decoding pixels.

A decoder allocates the size in the header and fills in what a damaged file lacks, so both are checked before it runs.
Every loop moves forward through the bytes, and no allocation exceeds them. Sources: ITU-T T.81 annex B (JPEG), W3C PNG
3rd edition, GIF89a, the Windows BITMAPINFOHEADER pages, RFC 9649 (WebP), TIFF 6.0, the netpbm format pages.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coreface.errors import ImageError
from coreface.files import found_instead
from coreface.images.avif import avif_size
from coreface.images.header_fields import expect_bytes, unpack_fields

JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # neither stuffing, fill, nor a marker without a length
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_START, _JPEG_END, _JPEG_SCAN = 0xD8, 0xD9, 0xDA
_JPEG_MAX_SCANS = 100  # a decoder goes over the whole image once a scan; real progressive files have about ten
_PNG_STILL = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"})
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_EXTRA_SAMPLES, _TIFF_SAMPLE_FORMAT = 256, 257, 258, 338, 339
_TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 322, 323
_TIFF_PARTS = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles
_TIFF_TYPES = {1: "u1", 3: "u2", 4: "u4"}
_TIFF_MAX_TILE = 4096 * 4096  # a tile is decoded whole, however small the image that is cut from it
_PNM_GAP = rb"\s(?:\s|#[^\r\n]*+[\r\n])*+"
_PNM_NUMBER = _PNM_GAP + rb"(\d{1,9})(?!\d)"
_PNM_HEADER = re.compile(rb"P(?:[14]" + _PNM_NUMBER * 2 + rb"|[2356]" + _PNM_NUMBER * 3 + rb")\s")


class ImageSize(NamedTuple):
    """Width and height in pixels as stored (before any EXIF orientation), and the name of the format."""

    width: int
    height: int
    format: str


def image_size(data: bytes) -> ImageSize:
    """Read the size of an encoded image from its header alone.

    Args:
        data: JPEG, PNG, GIF, BMP, WebP, TIFF (either byte order), AVIF or PNM (P1 to P6); the header is enough.

    Raises:
        ImageError: the format is not one of these, or the header is cut off or makes no sense.
    """
    kind = _format_of(data)
    width, height = kind.size(data)
    if width < 1 or height < 1:
        raise ImageError(f"the {kind.name} header says {width} x {height} pixels, expected 1 or more; get a new copy")
    return ImageSize(width, height, kind.name)


def check_complete(data: bytes) -> None:
    """Check that an encoded image is complete where OpenCV would decode a part of it without an error.

    JPEG: each segment up to the end-of-image marker. PNG: each chunk up to ``IEND``, with its CRC. TIFF: the strips or
    tiles of the first page. PNM: enough pixel data. OpenCV itself refuses GIF, BMP, WebP and AVIF that are cut off.
    Bytes after the end do not matter.

    Raises:
        ImageError: a part is missing or damaged.
    """
    _format_of(data).check(data)


def still_png(data: bytes) -> bytes:
    """The PNG without its animation: OpenCV 5.0 crashes on one whose first frame has no control chunk."""
    return data[:8] + b"".join(chunk for name, chunk in _png_chunks(data) if name in _PNG_STILL)


def without_tiff_alpha_kind(data: bytes) -> bytes:
    """The TIFF with its alpha labelled "unspecified": libtiff multiplies colours by alpha labelled "unassociated"."""
    start, kinds = _tiff_fields(data).get(_TIFF_EXTRA_SAMPLES, (0, np.empty(0, np.uint16)))
    return data[:start] + bytes(kinds.nbytes) + data[start + kinds.nbytes :]


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and start of the payload of every segment from the first to the end-of-image marker, which comes last."""
    position = 2
    while match := JPEG_MARKER.search(data, position):
        marker, start = data[match.end() - 1], match.end()
        yield marker, start
        if marker == _JPEG_END:
            return
        (length,) = unpack_fields(">H", data, start)
        if marker == _JPEG_START or length < 2:
            raise ImageError(f"the JPEG segment at byte {match.start()} is damaged; get a new copy")
        position = start + length  # after a scan header the next search runs over the entropy-coded data
    raise ImageError("the JPEG is cut off: no end-of-image marker in its last segment; get a complete copy")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for marker, start in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = unpack_fields(">HH", data, start + 3)
            return width, height
        if marker == _JPEG_SCAN:
            break
    raise ImageError("the JPEG has no frame header before its pixels; get a new copy")


def _check_jpeg(data: bytes) -> None:
    frames = scans = 0
    for marker, _ in _jpeg_segments(data):
        frames += marker in _JPEG_FRAMES
        scans += marker == _JPEG_SCAN
        if scans > _JPEG_MAX_SCANS:
            raise ImageError(f"the JPEG has more than {_JPEG_MAX_SCANS} scans; save it again as a baseline JPEG")
    if frames != 1 or not scans:
        raise ImageError(f"the JPEG has {frames} frames and {scans} scans, expected 1 frame and a scan; get a new copy")


def _png_size(data: bytes) -> tuple[int, int]:
    length, name, width, height = unpack_fields(">I4sII", data, 8)
    if name != b"IHDR" or length != 13 or max(width, height) >= 2**31:
        raise ImageError("the PNG header is damaged; get a new copy")
    return width, height


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and bytes of every chunk up to ``IEND``, once its CRC has been checked."""
    view, start, name = memoryview(data), 8, b""
    while name != b"IEND":
        length, name = unpack_fields(">I4s", data, start)
        end = start + 12 + length
        (checksum,) = unpack_fields(">I", data, end - 4)
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            raise ImageError(f"the PNG chunk at byte {start} does not fit its CRC; get a new copy")
        yield name, view[start:end]
        start = end


def _check_png(data: bytes) -> None:
    if b"IDAT" not in [name for name, _ in _png_chunks(data)]:
        raise ImageError("the PNG holds no pixels; get a new copy")


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header_size,) = unpack_fields("<I", data, 14)
    if header_size == 12:
        width, height = unpack_fields("<HH", data, 18)
        return width, height
    width, height = unpack_fields("<ii", data, 18)
    return width, abs(height)  # a negative height says that the rows run from the top


def _webp_size(data: bytes) -> tuple[int, int]:
    (chunk,) = unpack_fields("4s", data, 12)
    if chunk == b"VP8 ":
        start_code, width, height = unpack_fields("<3sHH", data, 23)
        if start_code == b"\x9d\x01\x2a":
            return width & 0x3FFF, height & 0x3FFF
    elif chunk == b"VP8L":
        mark, bits = unpack_fields("<BI", data, 20)
        if mark == 0x2F:
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8X":
        (canvas,) = unpack_fields("6s", data, 24)
        return int.from_bytes(canvas[:3], "little") + 1, int.from_bytes(canvas[3:], "little") + 1
    raise ImageError("the WebP header is damaged; get a new copy")


def _tiff_fields(data: bytes) -> dict[int, tuple[int, NDArray[Any]]]:
    """The whole-number fields of the first directory by tag: where the values start, and a view of them."""
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = unpack_fields(f"{order}I", data, 4)
    (entries,) = unpack_fields(f"{order}H", data, directory)
    fields: dict[int, tuple[int, NDArray[Any]]] = {}
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, count, start = unpack_fields(f"{order}HHII", data, entry)
        if kind not in _TIFF_TYPES or not count or tag in fields:  # libtiff believes the first of two, too
            continue
        dtype = np.dtype(order + _TIFF_TYPES[kind])
        if dtype.itemsize * count <= 4:
            start = entry + 8
        expect_bytes(data, start + dtype.itemsize * count)
        fields[tag] = start, np.frombuffer(data, dtype, count, start)
    return fields


def _tiff_size(data: bytes) -> tuple[int, int]:
    fields = _tiff_fields(data)
    if _TIFF_WIDTH not in fields or _TIFF_HEIGHT not in fields:
        raise ImageError("the TIFF header is damaged: it gives no size; get a new copy")
    return int(fields[_TIFF_WIDTH][1][0]), int(fields[_TIFF_HEIGHT][1][0])


def _check_tiff(data: bytes) -> None:
    fields = {tag: values for tag, (_, values) in _tiff_fields(data).items()}
    one = np.ones(1, np.uint32)
    if not np.isin(fields.get(_TIFF_BITS, one), (1, 2, 4, 8, 16)).all():
        bits = fields[_TIFF_BITS][:8].tolist()
        raise ImageError(f"the TIFF has {bits} bits a sample, expected 8 or 16; save it with 8")
    if not np.isin(fields.get(_TIFF_SAMPLE_FORMAT, one), (1, 4)).all():
        raise ImageError("the TIFF has signed or floating-point samples, expected unsigned ones; save it with 8 bits")
    tile = int(fields.get(_TIFF_TILE_WIDTH, one)[0]) * int(fields.get(_TIFF_TILE_HEIGHT, one)[0])
    if tile > _TIFF_MAX_TILE:
        raise ImageError(f"a TIFF tile has {tile} pixels, expected at most {_TIFF_MAX_TILE}; save it in strips")
    for offsets, counts in _TIFF_PARTS:
        if offsets in fields and counts in fields:
            shared = min(len(fields[offsets]), len(fields[counts]))
            ends = fields[offsets][:shared].astype(np.uint64) + fields[counts][:shared]
            expect_bytes(data, int(ends.max()))


def _pnm_fields(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, the value of white, and where the pixels start."""
    header = _PNM_HEADER.match(data)
    if header is None:
        raise ImageError("the PNM header is cut off or damaged; get a new copy")
    width, height, maximum = (int(number) for number in (*filter(None, header.groups()), b"1")[:3])
    return width, height, maximum, header.end()


def _check_pnm(data: bytes) -> None:
    width, height, maximum, start = _pnm_fields(data)
    kind = int(data[1:2])
    if kind not in (1, 4) and maximum not in (255, 65535):
        raise ImageError(f"the PNM says that white is {maximum}, expected 255 or 65535; save it as PNG")
    samples = width * 3 if kind in (3, 6) else width
    binary_row = (width + 7) // 8 if kind == 4 else samples * (2 if maximum > 255 else 1)
    # As text, a bit takes a character and a number takes two, one of them a gap, save for the last one.
    text = samples * height if kind == 1 else 2 * samples * height - 1
    expect_bytes(data, start + (binary_row * height if kind > 3 else text))


def _left_to_opencv(_: bytes) -> None:
    """Check nothing: OpenCV refuses what is cut off."""


class _Format(NamedTuple):
    name: str
    signature: re.Pattern[bytes]
    size: Callable[[bytes], tuple[Any, ...]]
    check: Callable[[bytes], None]


_FORMATS = (
    _Format("JPEG", re.compile(rb"\xff\xd8\xff"), _jpeg_size, _check_jpeg),
    _Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _png_size, _check_png),
    _Format("GIF", re.compile(rb"GIF8[79]a"), lambda data: unpack_fields("<HH", data, 6), _left_to_opencv),
    _Format("BMP", re.compile(rb"BM"), _bmp_size, _left_to_opencv),
    _Format("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_size, _left_to_opencv),
    _Format("TIFF", re.compile(rb"II\*\0|MM\0\*"), _tiff_size, _check_tiff),
    _Format("AVIF", re.compile(rb"....ftyp(?:avif|(?:....){2,16}?avif)", re.DOTALL), avif_size, _left_to_opencv),
    _Format("PNM", re.compile(rb"P[1-6]\s"), lambda data: _pnm_fields(data)[:2], _check_pnm),
)


def _format_of(data: bytes) -> _Format:
    for kind in _FORMATS:
        if kind.signature.match(data):
            return kind
    if what := found_instead(data[:64]):
        raise ImageError(f"no image: it is {what}")
    names = ", ".join(kind.name for kind in _FORMATS)
    start = f"starts with {data[:8].hex(' ')}" if data else "is empty"
    raise ImageError(f"unknown format: the data {start}, expected one of {names}; convert it to one of these")
