"""The one image loader (path, bytes, PIL image or array in, uint8 RGB out), and the square that a network sees.

A file is decoded only if it is complete and within the limits.
"""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import ImageError, InputError
from coreface.images.avif import avif_turns
from coreface.images.fast_jpeg import decode_plain_jpeg
from coreface.images.headers import check_complete, image_size, still_png, without_tiff_alpha_kind

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | PilImage | NDArray[Any]"

MAX_PIXELS = 64_000_000  #: width times height of the largest image that is decoded, unless said otherwise
_PIL_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"})
_PIL_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # moved in OpenCV 5

# Not IMREAD_COLOR_RGB: with it OpenCV 4.12 and 5.0 return noise for 16-bit TIFF.
_ANY_DEPTH_BGR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
_MAX_SQUARE = 16384  # pixels per side: a strip of 64 million pixels in one row would be padded beyond any memory


def load_image(source: ImageSource, *, max_bytes: int = 64 * 2**20, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Load one image as RGB.

    Args:
        source: a path; or an encoded image as ``bytes``, ``bytearray`` or ``memoryview``; or a PIL image; or an array,
            uint8 or uint16, of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA. Files and bytes may be JPEG,
            PNG, GIF, BMP, WebP, TIFF, PNM, and AVIF where OpenCV has its decoder: grey, palette, alpha (dropped), CMYK,
            8 or 16 bits a sample. Of several frames or pages the first is taken.
        max_bytes: largest encoded image in bytes, checked before a file is read.
        max_pixels: largest width times height, checked on the header before anything is decoded.

    Returns:
        uint8 RGB of shape (H, W, 3), C-contiguous and writable, with the EXIF orientation applied. An array that is all
        this already is passed through without a copy. 16-bit values v become round(v / 257).

    Raises:
        ImageError: the file is missing, damaged, cut off, of an unknown format or beyond a limit. The message names it.
        InputError: the source is none of the above, or an array or PIL image of another type or shape.
    """
    if type(source) is bytes and len(source) <= max_bytes:  # the fast path: training loads millions of them
        return _decode("image bytes", source, max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        _check_bytes("image bytes", memoryview(source).nbytes, max_bytes)
        return _decode("image bytes", bytes(source), max_pixels)
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return _decode(f"'{path}'", _read(path, max_bytes), max_pixels)
    pil = sys.modules.get("PIL.Image")  # a PIL image exists only if PIL has been imported
    if pil is not None and isinstance(source, pil.Image):
        return _from_pil(source, max_pixels)
    raise InputError(
        f"cannot load an image from {type(source).__name__}, expected a path, bytes, a PIL image or a NumPy array;"
        " convert it to one of these"
    )


def fit_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pad an image to a square by repeating its edges, then resize it.

    Args:
        image: uint8 of shape (H, W, 3). Both shorter sides grow alike; an odd pixel goes to the right or the bottom.
        size: pixels a side of the result.

    Returns:
        uint8 of shape (size, size, 3); the image itself, not copied, if it has this shape already.

    Raises:
        InputError: another shape or dtype, or ``size`` below 1.
        ImageError: an image to pad is longer than 16384 pixels.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"got {type(image).__name__}, expected a uint8 array (H, W, 3); use load_image first")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"got {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3); use load_image first")
    if size < 1:
        raise InputError(f"size is {size}, expected at least 1 pixel; pass the side the network was trained with")
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = max(height, width)
    if height != width:
        if side > _MAX_SQUARE:
            raise ImageError(f"cannot pad {width} x {height} pixels, expected sides up to {_MAX_SQUARE}; crop it first")
        top, left = (side - height) // 2, (side - width) // 2
        bottom, right = side - height - top, side - width - left
        padded = cv2.copyMakeBorder(np.ascontiguousarray(image), top, bottom, left, right, cv2.BORDER_REPLICATE)
        image = np.asarray(padded, np.uint8)
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=interpolation)
    return np.asarray(resized, np.uint8)


def as_photographs(images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Return images as a list: one batch (n, H, W, 3), a sequence of (H, W, 3) of any sizes, or a single one.

    Raises:
        InputError: one of them is not uint8 RGB.
    """
    if isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[None]
    photographs = [np.asarray(image) for image in images]
    for index, image in enumerate(photographs):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(
                f"image {index} is {image.dtype} {image.shape}, expected uint8 RGB (height, width, 3): "
                "coreface.load_image makes that of any file"
            )
    return photographs


def _read(path: str, max_bytes: int) -> bytes:
    name = f"'{path}'"
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might not end
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ImageError(f"{name} is {kind}, expected an image file; pass the path of one")
        _check_bytes(name, status.st_size, max_bytes)
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)  # the file may have grown since
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist, expected an image file; check the path") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read ({error}), expected an image file; check path and rights") from error
    _check_bytes(name, len(data), max_bytes)
    return data


def _check_bytes(name: str, count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise ImageError(f"{name}: {count} bytes, expected at most {max_bytes}; shrink the image or raise max_bytes")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels, expected at most {max_pixels} in all; shrink the image or raise max_pixels"
        )


def _decode(name: str, data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    plain = decode_plain_jpeg(data, max_pixels)
    if plain is not None:
        return plain
    with _named(name):
        width, height, image_format = image_size(data)
        _check_pixels(width, height, max_pixels)
        check_complete(data)
        if image_format == "TIFF":
            data = without_tiff_alpha_kind(data)
        elif image_format == "PNG":
            data = still_png(data)
        elif image_format == "PNM":
            data += b"\n"  # OpenCV needs whitespace after the last number of a text PNM
        # AVIF in 8 bits: OpenCV returns 10 and 12 bits unscaled, and does not report which.
        image = _decoded(data, cv2.IMREAD_COLOR if image_format == "AVIF" else _ANY_DEPTH_BGR)
        if image is None or image.shape[:2] not in ((height, width), (width, height)):
            raise ImageError(
                f"the {image_format} is damaged or of a kind that OpenCV cannot read; save it again as PNG"
            )
        if image_format == "AVIF":
            image = np.rot90(image, avif_turns(data))
        return np.asarray(cv2.cvtColor(_to_eight_bits(image), cv2.COLOR_BGR2RGB), np.uint8)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV from writing its warnings to standard error."""
    # The level is global to the process. A thread that finds it silent leaves it unchanged, and a thread that silences
    # it restores the old level, so in any order the level does not stay silent.
    level = _opencv_log.getLogLevel()
    if level:
        _opencv_log.setLogLevel(0)
    try:
        yield
    finally:
        if level:
            _opencv_log.setLogLevel(level)


def _decoded(data: bytes, flags: int) -> NDArray[Any] | None:
    """uint8 or uint16 BGR of shape (H, W, 3), upright; None if OpenCV cannot decode the data."""
    try:
        with silent_opencv():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image if image is not None and image.dtype in (np.uint8, np.uint16) else None


def _to_eight_bits(image: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit values v as round(v / 257), without the wide integers that NumPy would need; 8-bit values as they are."""
    if image.dtype.itemsize == 1:
        return image
    flat = np.ascontiguousarray(image, np.uint16).reshape(len(image), -1)
    return np.asarray(cv2.convertScaleAbs(flat, alpha=1 / 257), np.uint8).reshape(image.shape)


def _from_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype.kind != "u" or array.dtype.itemsize > 2 or not is_image or 0 in array.shape:
        raise InputError(
            f"the array is {array.dtype} of shape {array.shape}, expected uint8 (0 to 255) or uint16 (0 to 65535) of"
            " shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); scale or transpose it (encoded bytes: call .tobytes())"
        )
    with _named("the array"):
        _check_pixels(array.shape[1], array.shape[0], max_pixels)
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.broadcast_to(array.reshape(*array.shape[:2], 1), (*array.shape[:2], 3))
    return np.require(_to_eight_bits(array[..., :3]), np.uint8, ["C", "W"])


def _from_pil(image: "PilImage", max_pixels: int) -> NDArray[np.uint8]:
    from PIL import ImageOps  # not a dependency, but the caller has a PIL image

    name = repr(getattr(image, "filename", "") or "PIL image")
    # PIL opens 16-bit PGM, and older versions 16-bit PNG, as mode I; for any other image of mode I, white is unknown.
    deep = image.mode in _PIL_DEEP_MODES or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode not in _PIL_MODES and not deep:
        raise InputError(
            f"{name} has mode {image.mode}, expected one like L, RGB or I;16; convert it to RGB or L first"
        )
    with _named(name):
        _check_pixels(image.width, image.height, max_pixels)
        try:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("La", "RGBa"):
                upright = upright.convert(upright.mode.upper())
            pixels = np.array(upright if deep else upright.convert("RGB"))
        except Exception as error:  # PIL decodes lazily, and its decoders raise many types of errors
            raise ImageError(f"PIL cannot decode it ({error}); get a new copy") from error
    return _from_array(pixels.astype(np.uint16) if deep else pixels, max_pixels)
