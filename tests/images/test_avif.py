"""AVIF, where OpenCV has a decoder for it."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, features

from coreface.errors import ImageError
from coreface.images.headers import image_size
from coreface.images.load import load_image

if not cv2.haveImageWriter("a.avif"):
    pytest.skip("this OpenCV has no AVIF", allow_module_level=True)

ROWS, COLUMNS = np.mgrid[:24, :36]
PIXELS = np.stack([COLUMNS * 6, ROWS * 10, ROWS + COLUMNS], axis=-1).astype(np.uint8)


def encode(pixels, *options):
    done, data = cv2.imencode(".avif", pixels[..., ::-1], [cv2.IMWRITE_AVIF_QUALITY, 95, *options])
    assert done
    return data.tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_colours_at_every_depth(bits):
    deep = PIXELS if bits == 8 else PIXELS.astype(np.uint16) << (bits - 8)
    data = encode(deep, cv2.IMWRITE_AVIF_DEPTH, bits)
    assert image_size(data) == (36, 24, "AVIF")
    assert np.abs(load_image(data).astype(int) - PIXELS).mean() < 4


def test_cut_anywhere_is_a_typed_error():
    data = encode(PIXELS)
    for end in range(0, len(data), 7):
        with pytest.raises(ImageError):
            load_image(data[:end])


def test_a_header_of_100_megapixels_is_refused_on_sight():
    data = encode(PIXELS)
    place = data.index(b"ispe") + 8
    with pytest.raises(ImageError, match="10000 x 10000 pixels, expected at most 64000000"):
        load_image(data[:place] + struct.pack(">II", 10_000, 10_000) + data[place + 8 :])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_by_the_header(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "AVIF", quality=95, exif=exif)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert np.abs(load_image(out.getvalue()).astype(int) - np.rot90(PIXELS, turns)).mean() < 4


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_mirrored_by_the_header_is_refused():
    exif = Image.Exif()
    exif[0x0112] = 2
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "AVIF", exif=exif)
    with pytest.raises(ImageError, match="mirrored"):
        load_image(out.getvalue())
