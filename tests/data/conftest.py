"""Folders of synthetic faces: noise that differs from image to image, so that no mix-up goes unseen."""

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from coreface.data import FolderSource


def noise(name, height=16, width=16):
    """RGB noise that depends on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, suffix):
    suffix = ".ppm" if suffix == ".pgm" else suffix  # a reader looks at the content, a writer at the name
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture(scope="session")
def write_faces():
    """Write images ``<identity>/<file>``, each of the noise of its own name; any suffix holds what it says."""

    def write(root: Path, names):
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(noise(name), path.suffix.lower()))
        return root

    return write


@pytest.fixture(scope="session")
def pixels_of():
    return noise


@pytest.fixture(scope="session")
def faces(tmp_path_factory, write_faces):
    """23 images of 16 x 16 pixels: identities of 5, 1, 8, 3, 6 images."""
    counts = {"ada": 5, "ben": 1, "cy": 8, "dee": 3, "eve": 6}
    names = [f"{identity}/{i}.png" for identity, count in counts.items() for i in range(count)]
    return FolderSource(write_faces(tmp_path_factory.mktemp("faces"), names))
