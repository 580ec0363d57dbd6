"""Folders of synthetic faces: noise that differs from image to image, so that no mix-up goes unseen."""

from pathlib import Path

import pytest

from coreface.data import FolderSource
from support.toy_images import encode, noise


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
