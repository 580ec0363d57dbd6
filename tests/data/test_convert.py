"""Whatever the way between the storages, every image arrives byte for byte, under its own name, or nothing does."""

import os
import signal
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest

from coreface.data import FolderSource, RecordReader, RecordSource, ShardSource, convert_faces, open_faces
from coreface.data.convert import folder_names
from coreface.errors import DataError, ImageError, InputError
from support.toy_images import encode, noise

KINDS = {"folder": FolderSource, "recordio": RecordSource, "shards": ShardSource}


def contents(source):
    return [(source.identity_names[source.identities[i]], source.encoded(i)) for i in range(len(source))]


@pytest.fixture
def photos(tmp_path, write_faces):
    """Every format, in two sizes of number."""
    suffixes = [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"]
    names = [f"{who}/{i}{suffixes[i % 6]}" for who, n in (("ann", 7), ("Ben", 1), ("zoë", 12)) for i in range(n)]
    return FolderSource(write_faces(tmp_path / "photos", names))


@pytest.mark.parametrize("way", list(permutations(KINDS, 3)), ids="-".join)
def test_all_ways_between_the_storages(photos, tmp_path, way):
    expected = contents(photos)
    source = photos
    for step, storage in enumerate(way):
        told = []
        convert_faces(source, tmp_path / f"{step}", storage, per_shard=6, progress=told.append)
        source = open_faces(tmp_path / f"{step}")
        assert type(source) is KINDS[storage]
        assert contents(source) == expected
        assert source.identities.tolist() == photos.identities.tolist()
        assert told == [16]
    if "shards" in way:
        assert len(list(tmp_path.glob("*/shard-*.tar"))) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "photos"]


def test_recordio_has_the_index_of_identities_where_it_can(photos, tmp_path):
    convert_faces(photos, tmp_path / "grouped", "recordio")
    assert RecordReader(tmp_path / "grouped")[0].labels == (21.0, 24.0)
    assert (tmp_path / "grouped" / "property").read_text() == "3,16,16\n"
    mixed = photos.select(np.array([1, 8, 2, 0]))
    convert_faces(mixed, tmp_path / "mixed", "recordio")
    assert not RecordReader(tmp_path / "mixed")[0].is_index
    assert contents(open_faces(tmp_path / "mixed")) == contents(mixed)


def test_shards_in_another_order(photos, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert_faces(photos, tmp_path / name, "shards", shuffle=seed)
    made = {name: contents(open_faces(tmp_path / name)) for name in "abc"}
    assert made["a"] == made["b"] != made["c"]
    assert sorted(made["a"]) == sorted(made["c"]) == sorted(contents(photos))
    assert made["a"] != contents(photos)


def test_labels_keep_their_order_as_folders(tmp_path):
    from support.recordio_by_hand import header, write

    png = encode(noise("x"), ".png")
    source = RecordSource(write(tmp_path / "r", [header(label) + png for label in (2, 10, 9, 2)]))
    convert_faces(source, tmp_path / "f", "folder")
    assert open_faces(tmp_path / "f").identity_names == ("02", "09", "10")
    assert sorted(p.name for p in (tmp_path / "f" / "02").iterdir()) == ["000000.png", "000003.png"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "b"), ["a", "b"]),
        (("-1", "5"), ["-1", "5"]),
        (("g/a", "g/b"), ["g_a", "g_b"]),
        (("b", "a"), ["0_b", "1_a"]),
        ((".", ".."), ["0_.", "1_.."]),
        (("a/b", "a_b"), ["0_a_b", "1_a_b"]),
        (("", "x"), ["0_", "1_x"]),
        (("x" * 300, "y"), ["0_" + "x" * 40, "1_y"]),
        (("7", "70", "8"), ["0_07", "1_70", "2_08"]),
    ],
)
def test_names_of_folders(names, expected):
    assert folder_names(names) == expected
    assert sorted(expected) == expected


def test_what_is_there_is_not_touched(photos, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").touch()
    (tmp_path / "file").touch()
    for name in ("taken", "file"):
        with pytest.raises(DataError, match="exists already"):
            convert_faces(photos, tmp_path / name, "shards")
    assert (tmp_path / "taken" / "precious").exists()
    (tmp_path / "empty").mkdir()
    convert_faces(photos, tmp_path / "empty", "recordio")
    assert len(open_faces(tmp_path / "empty")) == 20
    with pytest.raises(InputError, match="per_shard"):
        convert_faces(photos, tmp_path / "x", "shards", per_shard=0)
    with pytest.raises(InputError, match="shuffle"):
        convert_faces(photos, tmp_path / "x", "folder", shuffle=1)


@pytest.mark.parametrize("storage", KINDS)
def test_a_failure_leaves_nothing(photos, tmp_path, storage):
    (tmp_path / "photos" / "zoë" / "5.ppm").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"zoë/5\.ppm" if storage != "recordio" else "is empty"):
        convert_faces(photos if storage != "recordio" else Empty(photos), tmp_path / "out", storage)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


class Empty(FolderSource):
    """A source whose last image has no bytes."""

    def __init__(self, photos):
        super().__init__(photos._root)

    def encoded(self, index):
        return b"" if index == len(self) - 1 else super().encoded(index)


KILLED = """
import sys
from coreface.data import FolderSource, convert_faces
source = FolderSource(sys.argv[1])
plain = source.encoded
def slow(index):
    if index == 18:
        print("nearly done", flush=True)
        sys.stdin.read()  # nothing comes; it is killed here
    return plain(index)
source.encoded = slow
convert_faces(source, sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("storage", KINDS)
def test_killed_in_the_middle_and_started_again(photos, tmp_path, storage):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "photos"), str(tmp_path / "out"), storage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "nearly done\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.*.unfinished"))) == 1
    alive = tmp_path / f".out.{os.getppid()}.unfinished"  # of somebody who is still at it
    alive.mkdir()
    convert_faces(photos, tmp_path / "out", storage)
    assert contents(open_faces(tmp_path / "out")) == contents(photos)
    assert list(tmp_path.glob(".out.*.unfinished")) == [alive]
