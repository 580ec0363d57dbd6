"""Size and orientation of AVIF images, from their boxes.

Source: AV1 Image File Format 1.1, with the boxes of ISO/IEC 14496-12.
"""

from collections.abc import Iterator

from coreface.errors import ImageError
from coreface.images.header_fields import unpack_fields


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of every box of an ISO media file in a stretch of bytes."""
    while start + 8 <= end:
        size, kind = unpack_fields(">I4s", data, start)
        header = 8
        if size == 1:
            (size,) = unpack_fields(">Q", data, start + 8)
            header = 16
        stop = end if size == 0 else start + size
        if not start + header <= stop <= end:
            raise ImageError(f"the box at byte {start} is cut off or damaged; get a complete copy")
        yield kind, start + header, stop
        start = stop


def _avif_properties(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind and start of the content of the properties of all items: sizes, turns and more."""

    def inside(
        parents: Iterator[tuple[bytes, int, int]], kind: bytes, skip: int = 0
    ) -> Iterator[tuple[bytes, int, int]]:
        for found, start, end in parents:
            if found == kind:
                yield from _boxes(data, start + skip, end)

    top = inside(_boxes(data, 0, len(data)), b"meta", skip=4)
    for kind, start, _ in inside(inside(top, b"iprp"), b"ipco"):
        yield kind, start


def avif_size(data: bytes) -> tuple[int, int]:
    """The largest of the image's items: colours, alpha, thumbnail, tiles, and the grid that the tiles make."""
    sizes = [unpack_fields(">II", data, start + 4) for kind, start in _avif_properties(data) if kind == b"ispe"]
    if not sizes:
        raise ImageError("the AVIF header is damaged: it gives no size; get a new copy")
    return max(sizes, key=lambda size: size[0] * size[1])


def avif_turns(data: bytes) -> int:
    """Quarter turns against the clock that bring an AVIF upright: OpenCV leaves them to its caller.

    Raises:
        ImageError: it is mirrored or cropped by its header.
    """
    turns = 0
    for kind, start in _avif_properties(data):
        if kind in (b"imir", b"clap"):
            raise ImageError("the AVIF is mirrored or cropped by its header, which is not read; save it again as PNG")
        if kind == b"irot":
            turns = unpack_fields("B", data, start)[0] & 3
    return turns
