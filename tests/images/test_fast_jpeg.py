"""The quick way through a JPEG: it takes the usual ones, agrees with the long way, and never takes a part of one."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coreface.errors import ImageError
from coreface.images.fast_jpeg import decode_plain_jpeg
from coreface.images.headers import check_complete
from coreface.images.load import load_image
from support.fuzzing import cases

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
ANY = 10**9


def jpeg(pixels=PIXELS, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def oriented():
    exif = Image.Exif()
    exif[0x112] = 6
    return jpeg(exif=exif)


USUAL = {
    "default": jpeg(),
    "fine": jpeg(quality=95, subsampling=0),
    "own tables": jpeg(optimize=True),
    "grey": jpeg(PIXELS[..., 0]),
    "restarts": jpeg(restart_marker_blocks=1),
    "turned": oriented(),
    "bytes behind": jpeg() + b"\xff\xd8 behind",
}


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_ones_are_taken_and_are_what_pillow_reads(name):
    image = decode_plain_jpeg(USUAL[name], ANY)
    with Image.open(io.BytesIO(USUAL[name])) as opened:
        shape = (16, 24, 3) if name == "turned" else (24, 16, 3)
        assert opened.size == (16, 24)
    assert image.shape == shape
    assert image.dtype == np.uint8
    assert np.array_equal(image, load_image(USUAL[name]))


def test_others_are_left_alone():
    for data in (b"", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff", bytes(3000), jpeg(progressive=True), jpeg()[1:]):
        assert decode_plain_jpeg(data, ANY) is None
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    assert decode_plain_jpeg(file.getvalue(), ANY) is None


def test_the_limit_of_pixels_holds_for_a_header_known_already():
    for _ in range(2):
        assert decode_plain_jpeg(USUAL["default"], 24 * 16) is not None
        assert decode_plain_jpeg(USUAL["default"], 24 * 16 - 1) is None


@pytest.mark.parametrize("name", ["default", "own tables", "restarts"])
def test_no_part_of_one_is_taken_wherever_it_is_cut(name):
    data = USUAL[name]
    assert decode_plain_jpeg(data, ANY) is not None  # its header is known from here on
    for end in range(len(data)):
        assert decode_plain_jpeg(data[:end], ANY) is None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["default", "fine", "own tables"]), st.sampled_from(["default", "fine", "grey"]), st.data())
def test_two_halves_joined_are_not_taken_and_not_loaded(first, second, data):
    """A write that was cut off, and the next one behind it: a decoder would fill the rest of the first with grey."""
    whole = USUAL[first]
    scan = whole.index(b"\xff\xda")
    end = data.draw(st.integers(scan + 14, len(whole) - 2))
    joined = whole[:end] + USUAL[second]
    if whole[:end].endswith(b"\xff"):
        return  # a lone 0xFF is fill before the marker that follows
    assert decode_plain_jpeg(whole, ANY) is not None
    assert decode_plain_jpeg(joined, ANY) is None
    with pytest.raises(ImageError):
        load_image(joined)


@settings(max_examples=cases(300), deadline=None)
@given(st.sampled_from(sorted(USUAL)), st.data())
def test_what_is_taken_is_complete_by_the_long_way_too(name, data):
    decode_plain_jpeg(USUAL[data.draw(st.sampled_from(sorted(USUAL)))], ANY)  # which header is known is chance
    spoilt = bytearray(USUAL[name])
    for place in data.draw(st.lists(st.integers(0, len(spoilt) - 1), max_size=3)):
        spoilt[place] ^= 1 << data.draw(st.integers(0, 7))
    image = decode_plain_jpeg(bytes(spoilt), ANY)
    if image is not None:
        check_complete(bytes(spoilt))
        assert image.shape[2] == 3
