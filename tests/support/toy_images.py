"""Images of noise that depends on a name alone, encoded in any format."""

import zlib

import cv2
import numpy as np


def noise(name, height=16, width=16):
    """RGB noise that depends on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, suffix):
    suffix = ".ppm" if suffix == ".pgm" else suffix  # a reader looks at the content, a writer at the name
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
