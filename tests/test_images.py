"""The image loader against PIL, against damage, and against headers that lie. All pictures are gradients and noise."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from coreface.errors import ImageError
from coreface.image_headers import image_size
from coreface.images import load_image

HEIGHT, WIDTH = 13, 18
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
PIXELS = np.stack([COLUMNS * 14, ROWS * 19, (ROWS + COLUMNS) * 8], -1).astype(np.uint8)
DEEP = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 4)).astype(np.uint16)
LARGE = 10_000


def picture(mode: str = "RGB") -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(DEEP[..., 0])
    image = Image.fromarray(PIXELS)
    if mode in ("RGBA", "LA", "RGBa", "La"):
        image = image.convert("L" if mode[0] == "L" else "RGB")
        image.putalpha(Image.fromarray((COLUMNS * 14).astype(np.uint8)))
    return image.convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(kind: str, orientation: int, image: Image.Image | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return encode(image or picture(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colours: int, rows: bytes, *before: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *before, pixels, chunk(b"IEND", b"")])


def tiff(order: str, pixels: bytes, **changed: int) -> bytes:
    """An uncompressed grey TIFF; ``t257=5`` sets field 257 to 5."""
    start = 8 + len(pixels)
    fields = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: HEIGHT, 279: len(pixels)}
    fields |= {int(name[1:]): value for name, value in changed.items()}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, fields[tag]) for tag in sorted(fields))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(f"{order}H", len(fields))
    return magic + struct.pack(f"{order}I", start) + pixels + count + entries + bytes(4)


def with_exif_thumbnail(jpeg: bytes) -> bytes:
    body = b"Exif\0\0" + b"II*\0\x08\0\0\0" + bytes(6) + encode(picture().resize((6, 4)), "JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


GREY = PIXELS[..., 0].copy()
JPEG, PROGRESSIVE = encode(picture(), "JPEG"), encode(picture(), "JPEG", progressive=True)
FRAMES = {"save_all": True, "append_images": [picture().rotate(90)]}
SAMPLES = {
    "jpeg": JPEG,
    "jpeg_progressive": PROGRESSIVE,
    "jpeg_thumbnail": with_exif_thumbnail(JPEG),
    "jpeg_progressive_thumbnail": with_exif_thumbnail(PROGRESSIVE),
    "jpeg_cmyk": encode(picture("CMYK"), "JPEG"),
    "jpeg_restarts": encode(picture(), "JPEG", restart_marker_blocks=1),
    "png": encode(picture(), "PNG"),
    "png_palette": encode(picture("P"), "PNG"),
    "png_animated": encode(picture(), "PNG", **FRAMES),
    "gif": encode(picture("P"), "GIF"),
    "gif_animated": encode(picture(), "GIF", **FRAMES),
    "bmp": encode(picture(), "BMP"),
    "bmp_palette": encode(picture("P"), "BMP"),
    "webp": encode(picture(), "WEBP"),
    "webp_lossless": encode(picture(), "WEBP", lossless=True),
    "webp_animated": encode(picture(), "WEBP", **FRAMES),
    "webp_exif": oriented("WEBP", 6),
    "tiff": encode(picture(), "TIFF"),
    "tiff_lzw": encode(picture(), "TIFF", compression="tiff_lzw"),
    "tiff_deflate": encode(picture(), "TIFF", compression="tiff_deflate"),
    "tiff_big_endian": tiff(">", GREY.tobytes()),
    "ppm": encode(picture(), "PPM"),
    "pgm": encode(picture("L"), "PPM"),
    "pgm_text": b"P2 3 2 255\n1 2 3 4 5 6",
}


def distance(actual: NDArray[np.uint8], expected: object) -> int:
    assert actual.dtype == np.uint8
    assert actual.flags.c_contiguous
    assert actual.flags.writeable
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    return int(np.abs(actual.astype(int) - expected.astype(int)).max())


def test_every_source_of_the_same_file_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "Grüße 顔 😀.png"
    path.write_bytes(SAMPLES["png"])
    data = path.read_bytes()
    strided = memoryview(bytes(itertools.chain.from_iterable((byte, 0) for byte in data)))[::2]
    for source in (path, str(path), data, bytearray(data), memoryview(data), strided, Image.open(path), PIXELS):
        assert distance(load_image(source), PIXELS) == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA", "YCbCr", "PA"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_formats_and_modes_agree_with_pil(mode: str, kind: str) -> None:
    try:
        data = encode(picture(mode), kind)
    except OSError:
        pytest.skip(f"PIL does not write {mode} as {kind}")
    opened = Image.open(io.BytesIO(data))
    if opened.mode == "RGBA" and kind == "GIF":
        pytest.skip("PIL composes frames with an alpha of its own")
    assert distance(load_image(data), opened.convert("RGB")) <= (1 if mode in ("CMYK", "YCbCr") else 0)
    assert distance(load_image(Image.open(io.BytesIO(data))), opened.convert("RGB")) == 0
    assert image_size(data)[:2] == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", SAMPLES)
def test_size_of_every_sample(name: str) -> None:
    assert image_size(SAMPLES[name])[:2] == Image.open(io.BytesIO(SAMPLES[name])).size
    assert load_image(SAMPLES[name] + b"whatever follows the end").shape[2] == 3


@pytest.mark.parametrize("mode", ["RGBa", "La", "HSV", "RGBX"])
def test_further_pil_modes(mode: str) -> None:
    image = picture(mode)
    straight = image.convert({"RGBa": "RGBA", "La": "LA"}.get(mode, mode))
    assert distance(load_image(image), straight.convert("RGB")) == 0


@pytest.mark.parametrize("kind", [".png", ".tiff", ".ppm", "I;16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled(kind: str, channels: int) -> None:
    deep = DEEP[..., :channels]
    colours = np.repeat(deep, 3, 2) if channels == 1 else deep[..., :3]
    expected = np.rint(colours / 257)
    assert distance(load_image(deep), expected) == distance(load_image(deep.astype(">u2")), expected) == 0
    if kind == "I;16" and channels == 1:
        assert distance(load_image(picture("I;16")), expected) == 0
        assert distance(load_image(Image.open(io.BytesIO(encode(picture("I;16"), "PPM")))), expected) == 0
    elif kind != "I;16" and (kind, channels) != (".ppm", 4):
        stored = deep[..., [2, 1, 0, 3][:channels]] if channels > 1 else deep
        kind = ".pgm" if (kind, channels) == (".ppm", 1) else kind
        assert distance(load_image(cv2.imencode(kind, stored)[1].tobytes()), expected) == 0


def test_every_sixteen_bit_value_is_rounded() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(load_image(values)[..., 1], np.rint(values / 257))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_alpha_of_a_tiff_is_dropped_not_multiplied(compression: str | None) -> None:
    assert distance(load_image(encode(picture("RGBA"), "TIFF", compression=compression)), PIXELS) == 0


def test_both_byte_orders_of_tiff() -> None:
    for order in "<>":
        grey = tiff(order, GREY.tobytes())
        deep = tiff(order, DEEP[..., 0].astype(f"{order}u2").tobytes(), t258=16 if order == "<" else 16 << 16 >> 16)
        assert distance(load_image(grey)[..., 0], GREY) == 0
        assert distance(load_image(deep)[..., 2], np.rint(DEEP[..., 0] / 257)) == 0


def test_cmyk_jpeg_without_adobe_marker_is_inverted_as_pil_does() -> None:
    data = SAMPLES["jpeg_cmyk"]
    start = data.index(b"\xff\xee")
    data = data[:start] + data[start + 2 + struct.unpack_from(">H", data, start + 2)[0] :]
    assert distance(load_image(data), Image.open(io.BytesIO(data)).convert("RGB")) <= 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_png_palettes(bits: int) -> None:
    data = encode(picture().quantize(2**bits), "PNG", bits=bits)
    assert distance(load_image(data), Image.open(io.BytesIO(data)).convert("RGB")) == 0


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (b"P1\n# comment\n2 #another\n 2\n1 0\n0 1", [[0, 255], [255, 0]]),
        (b"P1 2 2\n1001", [[0, 255], [255, 0]]),
        (b"P2\n2\t2 255 7 0\n8 9", [[7, 0], [8, 9]]),
        (b"P3 1 1 255 5 5 5", [[5]]),
        (b"P4 2 2 \x80\x40", [[0, 255], [255, 0]]),
        (b"P5#x\n2 2 255 \x07\x00\x08\x09", None),
        (b"P5\r\n#x\r\n2 2 255 \x07\x00\x08\x09", [[7, 0], [8, 9]]),
        (b"P5 1 1 65535 \x80\x00", [[128]]),
        (b"P6 1 1 255 \x05\x05\x05", [[5]]),
        (b"P5 1 1 100 \x05", None),
        (b"P5 99999999999 1 255 \x05", None),
    ],
)
def test_pnm(data: bytes, grey: list[list[int]] | None) -> None:
    if grey is None:
        with pytest.raises(ImageError):
            load_image(data)
    else:
        assert load_image(data)[..., 1].tolist() == grey


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(kind: str, orientation: int) -> None:
    data = oriented(kind, orientation)
    opened = Image.open(io.BytesIO(data))
    expected = ImageOps.exif_transpose(opened).convert("RGB")
    assert distance(load_image(Image.open(io.BytesIO(data))), expected) == 0
    if kind != "WEBP" or int(cv2.__version__.split(".")[0]) >= 5:  # OpenCV 4 ignores EXIF in WebP
        assert distance(load_image(data), expected) == 0
