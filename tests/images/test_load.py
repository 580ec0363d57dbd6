"""The image loader against PIL, against damage, and against headers that lie. All pictures are gradients and noise."""

import contextlib
import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from coreface.errors import ImageError, InputError
from coreface.images.headers import image_size
from coreface.images.load import fit_square, load_image
from support.fuzzing import cases

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


def written_by_pil() -> Iterator[tuple[str, str]]:
    for kind, mode in itertools.product(
        ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"],
        ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA", "YCbCr", "PA"],
    ):
        with contextlib.suppress(OSError, ValueError):  # PIL's way to say that the format has no such mode
            opened = Image.open(io.BytesIO(encode(picture(mode), kind)))
            if (opened.mode, kind) != ("RGBA", "GIF"):  # PIL composes frames with an alpha of its own
                yield kind, mode


@pytest.mark.parametrize(("kind", "mode"), list(written_by_pil()))
def test_formats_and_modes_agree_with_pil(kind: str, mode: str) -> None:
    data = encode(picture(mode), kind)
    opened = Image.open(io.BytesIO(data))
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
        deep = tiff(order, DEEP[..., 0].astype(f"{order}u2").tobytes(), t258=16)
        assert distance(load_image(grey), np.stack([GREY] * 3, -1)) == 0
        assert distance(load_image(deep), np.stack([np.rint(DEEP[..., 0] / 257)] * 3, -1)) == 0


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


def lying(kind: str) -> bytes:
    """A header that promises 100 megapixels, with next to nothing behind it."""
    if kind == "png":
        return png(LARGE, LARGE, 8, 2, b"\0" * 100)
    if kind == "jpeg":
        at = JPEG.index(b"\xff\xc0") + 5
        return JPEG[:at] + struct.pack(">HH", LARGE, LARGE) + JPEG[at + 4 :]
    if kind == "gif":
        return SAMPLES["gif"][:6] + struct.pack("<HH", LARGE, LARGE) + SAMPLES["gif"][10:]
    if kind == "bmp":
        return SAMPLES["bmp"][:18] + struct.pack("<ii", LARGE, LARGE) + SAMPLES["bmp"][26:]
    if kind == "webp":
        canvas = (LARGE - 1).to_bytes(3, "little") * 2
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    if kind == "tiff":
        return tiff("<", GREY.tobytes(), t256=LARGE, t257=LARGE)
    return b"P5 10000 10000 255 \x00"


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp", "tiff", "pnm"])
def test_a_header_of_100_megapixels_is_refused_on_sight(kind: str) -> None:
    with pytest.raises(ImageError, match="10000 x 10000 pixels, expected at most 64000000"):
        load_image(lying(kind))


def test_headers_that_lie_cost_no_memory() -> None:
    # In a process of its own, whose peak is its own. Within the pixel limit, too: there only the lack of data shows.
    program = (
        "import resource, sys\n"
        "from coreface.errors import ImageError\n"
        "from coreface.images.load import load_image\n"
        "load_image(bytes.fromhex(sys.argv[1]))\n"  # whatever the first decoding needs
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for data in sys.argv[2:]:\n"
        "    for limit in (64_000_000, 200_000_000):\n"
        "        try:\n"
        "            load_image(bytes.fromhex(data), max_pixels=limit)\n"
        "        except ImageError:\n"
        "            continue\n"
        "        sys.exit('loaded: ' + data[:40])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    lies = [lying(kind).hex() for kind in ("bmp", "tiff", "pnm")]
    words = [sys.executable, "-c", program, SAMPLES["png"].hex(), *lies]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert grown < 20_000  # KiB; the pixels would be 100 or 300 thousand


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_anywhere_is_a_typed_error(name: str) -> None:
    data = SAMPLES[name]
    whole = load_image(data)
    for end in {*range(0, len(data), max(1, len(data) // 40)), len(data) - 1}:
        try:
            cut = load_image(data[:end])
        except ImageError:
            continue
        # What may be missing holds no pixels: the tail of text, the second frame, the thumbnail's end.
        assert np.array_equal(cut, whole), f"{name} cut at {end} of {len(data)} bytes gives other pixels"


@settings(max_examples=cases(300), deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_flipped_bits_give_an_image_or_a_typed_error(name: str, choice: st.DataObject) -> None:
    data = bytearray(SAMPLES[name])
    for _ in range(choice.draw(st.integers(1, 4))):
        data[choice.draw(st.integers(0, len(data) - 1))] ^= 1 << choice.draw(st.integers(0, 7))
    try:
        loaded = load_image(bytes(data), max_pixels=1_000_000)
    except ImageError:
        return
    assert loaded.dtype == np.uint8
    assert loaded.shape[2] == 3


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        load_image(data)


def test_an_animated_png_without_its_first_control_chunk_loads() -> None:
    """OpenCV 5.0 alone crashes on this file."""
    data = SAMPLES["png_animated"]
    start = data.index(b"fcTL") - 4
    length = struct.unpack_from(">I", data, start)[0]
    program = "import sys, coreface; print(coreface.load_image(bytes.fromhex(sys.argv[1])).shape)"
    broken = data[:start] + data[start + 12 + length :]
    done = subprocess.run([sys.executable, "-c", program, broken.hex()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"({HEIGHT}, {WIDTH}, 3)")


def test_what_is_no_image_file_is_named(tmp_path: Path) -> None:
    folder, pipe, empty, text = (tmp_path / name for name in ("folder", "pipe", "empty.png", "text.jpg"))
    folder.mkdir()
    os.mkfifo(pipe)
    empty.touch()
    text.write_text("not an image")
    said = {
        folder: "is a directory",
        pipe: "is no regular file",
        empty: "unknown format: the data is empty",
        text: "unknown format: the data starts with 6e 6f 74",
        tmp_path / "missing.png": "does not exist",
        tmp_path / "nul\0.png": "cannot be read",
    }
    for path, words in said.items():
        with pytest.raises(ImageError, match=words) as caught:
            load_image(path)
        assert f"'{path}'" in str(caught.value)


def test_a_file_beyond_the_limit_of_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match="1099511627776 bytes, expected at most 67108864"):
        load_image(path)
    for source in (SAMPLES["png"], bytearray(SAMPLES["png"])):
        with pytest.raises(ImageError, match="expected at most 10;"):
            load_image(source, max_bytes=10)


@pytest.mark.parametrize(
    "source",
    [None, 3, [1, 2], np.zeros((4, 4), float), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(InputError):
        load_image(source)  # type: ignore[arg-type]


def test_pil_images_of_unknown_white_are_refused() -> None:
    for mode in ("I", "F"):
        with pytest.raises(InputError, match=f"mode {mode}"):
            load_image(picture("L").convert(mode))


def test_loading_in_threads_leaves_opencv_its_log_level() -> None:
    logging = getattr(cv2.utils, "logging", cv2)
    level = logging.getLogLevel()
    threads = [threading.Thread(target=lambda: [load_image(JPEG) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logging.getLogLevel() == level


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_fit_square_repeats_the_edges_on_both_sides(height: int, width: int) -> None:
    image = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padding = ((top, side - height - top), (left, side - width - left), (0, 0))
    assert np.array_equal(fit_square(image, side), np.pad(image, padding, mode="edge"))
    for size in (1, 7, 64):
        assert fit_square(image, size).shape == (size, size, 3)


def test_fit_square_shrinks_by_the_mean_and_passes_its_own_size_through() -> None:
    image = np.kron(PIXELS[:8, :8], np.ones((2, 2, 1), np.uint8))
    assert np.array_equal(fit_square(image, 8), PIXELS[:8, :8])
    assert fit_square(image, 16) is image
    for bad in (GREY, PIXELS.astype(float), "face.png"):
        with pytest.raises(InputError):
            fit_square(bad, 8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size is 0"):
        fit_square(image, 0)
