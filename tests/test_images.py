"""The image loader against Pillow, and its answers to damage. The pictures are gradients and noise."""

import io

import numpy as np
import pytest
from PIL import Image

import coreface as cf
from coreface.images import fit_square, load_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)


def encode(kind, **options):
    out = io.BytesIO()
    Image.fromarray(NOISE).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_are_exact(kind):
    np.testing.assert_array_equal(load_image(encode(kind)), NOISE)


@pytest.mark.parametrize("data", [encode("JPEG"), encode("JPEG", progressive=True), encode("PNG")])
def test_truncation_is_an_error_everywhere(data):
    assert load_image(data).shape == (40, 32, 3)
    for end in range(0, len(data), max(1, len(data) // 60)):
        with pytest.raises(cf.ImageError):
            load_image(data[:end])


def test_limits_and_names(tmp_path):
    path = tmp_path / "Zoë 顔.png"
    path.write_bytes(encode("PNG"))
    np.testing.assert_array_equal(load_image(path), NOISE)
    with pytest.raises(cf.ImageError, match="32 x 40 pixels, expected at most 1279"):
        load_image(path, max_pixels=1279)


def test_fit_square_repeats_the_edges():
    np.testing.assert_array_equal(fit_square(NOISE, 40), np.pad(NOISE, ((0, 0), (4, 4), (0, 0)), mode="edge"))
