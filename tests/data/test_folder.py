"""A folder is whatever a stranger made of it: odd names, stray files, links, damage."""

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from coreface.data import FolderSource, OrlSource, open_faces
from coreface.errors import DataError, ImageError, InputError


def messages(source):
    return {notice.message: notice.items for notice in source.notices()}


def locations(source):
    return [os.path.relpath(source.locate(i), source._root) for i in range(len(source))]


def test_identities_and_images_come_in_the_order_of_their_names(tmp_path, write_faces):
    identities = ["b", "B", "a b", "a", "10", "9", "Ölaf", "Olaf", "李雷", "zoë", "a.b"]
    images = ["2.png", "10.png", "a.png", "B.png", "é.png"]
    write_faces(tmp_path, [f"{identity}/{image}" for identity in identities for image in images])
    source = FolderSource(tmp_path)
    names = ("10", "9", "B", "Olaf", "a", "a b", "a.b", "b", "zoë", "Ölaf", "李雷")
    assert source.identity_names == names
    assert source.num_identities == 11
    ordered = ("10.png", "2.png", "B.png", "a.png", "é.png")
    assert locations(source) == [f"{name}/{image}" for name in names for image in ordered]
    assert source.identities.dtype == np.int64
    assert source.identities.tolist() == [i for i in range(11) for _ in range(5)]


def test_the_order_is_not_that_of_the_disk(tmp_path, write_faces, monkeypatch):
    write_faces(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    expected = locations(FolderSource(tmp_path))
    listed = Path.iterdir
    for order in (lambda paths: sorted(paths), lambda paths: sorted(paths, reverse=True)):
        monkeypatch.setattr(Path, "iterdir", lambda self, order=order: iter(order(list(listed(self)))))
        assert locations(FolderSource(tmp_path)) == expected == ["a/1.png", "a/2.png", "b/1.png"]


def test_every_image_has_its_own_pixels_as_rgb(tmp_path, write_faces, pixels_of):
    names = ["a/1.png", "a/2.png", "b/1.png"]
    source = FolderSource(write_faces(tmp_path, names))
    for index, name in enumerate(names):
        image, identity = source[index]
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, pixels_of(name))
        assert (identity, type(identity)) == ("ab".index(name[0]), int)


def test_suffixes_count_in_any_case(tmp_path, write_faces):
    names = ["a/1.JPG", "a/2.PnG", "a/3.PGM", "a/4.tiff", "a/5.WEBP", "a/6.bmp", "a/7.jpeg"]
    source = FolderSource(write_faces(tmp_path, names))
    assert locations(source) == names
    assert [source[i][0].shape for i in range(7)] == [(16, 16, 3)] * 7


def test_what_is_no_image_is_left_out_and_listed(tmp_path, write_faces):
    write_faces(
        tmp_path, ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/deep/3.png", "stray.png", "a/folder.png/x.png"]
    )
    for name in ("a/notes.txt", "a/no_suffix", "README", "a/1.png.part"):
        (tmp_path / name).write_text("text")
    (tmp_path / "nobody").mkdir()
    (tmp_path / "text_only").mkdir()
    (tmp_path / "text_only" / "x.txt").touch()
    source = FolderSource(tmp_path)
    assert source.identity_names == ("a", "b")
    assert locations(source) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    stray = ("README", "a/1.png.part", "a/folder.png", "a/no_suffix", "a/notes.txt", "b/deep", "stray.png")
    found = messages(source)
    assert sorted(found["8 stray files: not an image, or not in the folder of an identity"]) == sorted(
        (*stray, "text_only/x.txt")
    )
    assert found["2 identity folders without an image"] == ("nobody", "text_only")
    assert len(found) == 2


def test_an_empty_identity_takes_no_number(tmp_path, write_faces):
    write_faces(tmp_path, ["a/1.png", "c/1.png"])
    (tmp_path / "b").mkdir()
    source = FolderSource(tmp_path)
    assert source.identity_names == ("a", "c")
    assert source.identities.tolist() == [0, 1]


def test_hidden_files_are_neither_read_nor_reported(tmp_path, write_faces):
    write_faces(tmp_path, ["a/1.png", "a/2.png", "a/.hidden.png", ".cache/1.png"])
    (tmp_path / ".DS_Store").touch()
    source = FolderSource(tmp_path)
    assert locations(source) == ["a/1.png", "a/2.png"]
    assert source.notices() == []


def test_links_are_followed_and_dangling_ones_reported(tmp_path, write_faces, pixels_of):
    elsewhere = write_faces(tmp_path / "elsewhere", ["bob/1.png", "bob/2.png"])
    root = write_faces(tmp_path / "root", ["ann/1.png"])
    (root / "zed").symlink_to(elsewhere / "bob", target_is_directory=True)
    (root / "ann" / "2.png").symlink_to(elsewhere / "bob" / "2.png")
    (root / "ann" / "gone.png").symlink_to(elsewhere / "gone.png")
    (root / "loop").symlink_to(root / "loop")
    source = FolderSource(root)
    assert locations(source) == ["ann/1.png", "ann/2.png", "zed/1.png", "zed/2.png"]
    np.testing.assert_array_equal(source[1][0], pixels_of("bob/2.png"))
    assert messages(source) == {
        "2 stray files: not an image, or not in the folder of an identity": ("ann/gone.png", "loop")
    }


def test_names_that_are_no_unicode(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)  # noqa: PTH102 (pathlib takes no bytes)
    name = os.fsdecode(folder + b"/\xe9.png")
    Path(name).write_bytes(cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))[1].tobytes())
    source = FolderSource(tmp_path)
    assert source.locate(0) == name
    assert (source[0][0] == 7).all()


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "only empty identities", "images without identities"])
def test_no_folder_of_faces(tmp_path, write_faces, kind):
    folder = tmp_path / "faces"
    if kind == "file":
        folder.write_text("I am a file")
    elif kind != "missing":
        folder.mkdir()
    if kind == "only empty identities":
        (folder / "a").mkdir()
    if kind == "images without identities":
        write_faces(folder, ["1.png", "2.png"])
    words = {"missing": "no such folder", "file": "a file, expected a folder"}.get(kind, "no <identity>/<image> inside")
    with pytest.raises(DataError, match=words) as caught:
        FolderSource(folder)
    assert str(folder) in str(caught.value)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, write_faces, monkeypatch):
    write_faces(tmp_path, ["a/1.png", "closed/1.png"])
    listed = Path.iterdir

    def iterdir(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(DataError, match=r"closed.*Permission denied"):
        FolderSource(tmp_path)


def test_single_images_are_noticed(tmp_path, write_faces):
    source = FolderSource(write_faces(tmp_path, ["a/1.png", "b/1.png", "b/2.png", "c/1.png"]))
    assert messages(source) == {"2 identities have a single image: no genuine pair comes from it": ("a", "c")}
    one = FolderSource(write_faces(tmp_path / "b", ["x/1.png"]))
    assert messages(one)["1 identity has a single image: no genuine pair comes from it"] == ("x",)


def test_encoded_is_what_lies_on_disk(tmp_path, write_faces):
    source = FolderSource(write_faces(tmp_path, ["a/1.png", "a/2.JPG"]))
    assert [source.encoded(i) for i in range(2)] == [(tmp_path / f"a/{n}").read_bytes() for n in ("1.png", "2.JPG")]


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_an_unreadable_image_names_its_path_once(tmp_path, write_faces, damage):
    source = FolderSource(write_faces(tmp_path, ["a/1.png", "a/2.png"]))
    path = tmp_path / "a" / "2.png"
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(ImageError) as caught:
        source[1]
    assert str(caught.value).count(str(path)) == 1
    source[0]


def test_an_image_that_has_gone_names_its_path(tmp_path, write_faces):
    source = FolderSource(write_faces(tmp_path, ["a/1.png"]))
    path = tmp_path / "a" / "1.png"
    path.unlink()
    for read in (source.encoded, source.__getitem__):
        with pytest.raises(ImageError) as caught:
            read(0)
        assert str(path) in str(caught.value)


def test_a_source_survives_pickling(faces):
    copy = pickle.loads(pickle.dumps(faces))
    assert copy.identity_names == faces.identity_names
    np.testing.assert_array_equal(copy.identities, faces.identities)
    np.testing.assert_array_equal(copy[7][0], faces[7][0])
    assert len(pickle.dumps(faces)) < 5000  # names, not pixels


def test_open_faces(tmp_path, write_faces, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_faces(tmp_path / "orl", ["a/1.png"])
    assert isinstance(open_faces("orl"), OrlSource)
    for path in ("./orl", Path("orl"), str(tmp_path / "orl")):
        source = open_faces(path)
        assert isinstance(source, FolderSource)
        assert len(source) == 1
    with pytest.raises(DataError, match="no such folder"):
        open_faces("ORL")


def test_identities_may_lie_deeper(tmp_path, write_faces):
    names = ["g1/ann/1.png", "g1/ben/1.png", "g2/ann/1.png", "top/1.png", "x/y/z/1.png", "ünder/李/1.png"]
    write_faces(tmp_path, [*names, "1.png"])
    (tmp_path / "g1" / "notes.txt").touch()
    (tmp_path / "g2" / "empty").mkdir()
    source = FolderSource(tmp_path)
    assert source.identity_names == ("g1/ann", "g1/ben", "g2/ann", "top", "x/y/z", "ünder/李")
    assert locations(source) == names
    found = messages(source)
    assert sorted(found["2 stray files: not an image, or not in the folder of an identity"]) == [
        "1.png",
        "g1/notes.txt",
    ]
    assert found["1 identity folder without an image"] == ("g2/empty",)


def test_links_in_a_circle_end(tmp_path, write_faces):
    root = write_faces(tmp_path / "root", ["g/ann/1.png"])
    (root / "g" / "up").symlink_to(root, target_is_directory=True)
    (root / "again").symlink_to(root / "g", target_is_directory=True)
    source = FolderSource(root)
    assert locations(source) == ["again/ann/1.png", "g/ann/1.png"]
    (stray,) = [items for message, items in messages(source).items() if "stray" in message]
    assert sorted(stray) == ["again/up", "g/up"]


def test_thousands_of_identities(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number:05d}").mkdir()
        (tmp_path / f"{number:05d}" / "1.png").touch()
    source = FolderSource(tmp_path)
    assert (len(source), source.num_identities) == (3000, 3000)
    assert source.identities.tolist() == list(range(3000))


SESSIONS = ["anna/s1/1.png", "anna/s1/2.png", "anna/s2/a.png", "bert/s1/1.png", "bert/3.png", "cora/s1/deep/er/9.png"]


def test_identities_at_a_level_hold_all_images_below(tmp_path, write_faces):
    write_faces(tmp_path, [*SESSIONS, "stray.png"])
    (tmp_path / "anna" / "s2" / "notes.txt").touch()
    (tmp_path / "nobody" / "s1").mkdir(parents=True)
    source = FolderSource(tmp_path, identity_level=1)
    assert source.identity_names == ("anna", "bert", "cora")
    assert sorted(locations(source)) == sorted(SESSIONS)
    assert source.identities.tolist() == [0, 0, 0, 1, 1, 2]
    found = messages(source)
    assert found["2 stray files: not an image, or not in the folder of an identity"] == (
        "anna/s2/notes.txt",
        "stray.png",
    )
    assert found["1 identity folder without an image"] == ("nobody",)


def test_images_above_the_level_are_named(tmp_path, write_faces):
    source = FolderSource(write_faces(tmp_path, SESSIONS), identity_level=2)
    assert source.identity_names == ("anna/s1", "anna/s2", "bert/s1", "cora/s1")
    assert messages(source)["1 stray file: not an image, or not in the folder of an identity"] == ("bert/3.png",)
    with pytest.raises(DataError, match="identity_level is 6"):
        FolderSource(tmp_path, identity_level=6)
    with pytest.raises(InputError, match="identity_level is 0"):
        FolderSource(tmp_path, identity_level=0)


def test_a_link_back_does_not_go_round_for_ever_at_a_level(tmp_path, write_faces):
    write_faces(tmp_path, SESSIONS)
    (tmp_path / "anna" / "s1" / "back").symlink_to(tmp_path / "anna")
    source = FolderSource(tmp_path, identity_level=1)
    assert len(source) == len(SESSIONS)
    assert messages(source)["1 stray file: not an image, or not in the folder of an identity"] == ("anna/s1/back",)


def test_sessions_of_the_same_name_below_several_people_are_hinted_at(tmp_path, write_faces):
    write_faces(tmp_path, ["anna/s1/1.png", "bert/s1/1.png", "bert/s2/1.png", "cora/x/s1/1.png"])
    (text,) = [text for text in messages(FolderSource(tmp_path)) if "--identity-level 1" in text]
    assert text.startswith("1 name of an identity in several folders")
    assert messages(FolderSource(tmp_path))[text] == ("s1: in anna, bert, cora/x",)
    assert not [text for text in messages(FolderSource(tmp_path, identity_level=1)) if "--identity-level" in text]


def test_options_belong_to_their_storage(tmp_path, write_faces):
    write_faces(tmp_path, SESSIONS)
    assert open_faces(tmp_path, identity_level=1).num_identities == 3
    with pytest.raises(
        InputError, match="label is 'txt', expected none: it belongs to tar shards, not to FolderSource"
    ):
        open_faces(tmp_path, label="txt")
    with pytest.raises(InputError, match="identity_level is 1"):
        open_faces("orl", identity_level=1)


def test_home_folder(tmp_path, write_faces, monkeypatch):
    write_faces(tmp_path / "photos", SESSIONS[:4])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_faces("~/photos")) == 4
