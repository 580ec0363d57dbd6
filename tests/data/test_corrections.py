"""The list of corrections: what it does to faces, and how a bad one is refused."""

import numpy as np
import pytest

import coreface as cf
from coreface.data import FolderSource, convert_faces
from coreface.data.corrections import COLUMNS, Correction, apply_corrections, write_corrections
from coreface.errors import DataError


def line(source, action, index, to="", **changes):
    """A line about an image."""
    values = {
        "image": source.relative_path(index),
        "identity": source.identity_names[source.identities[index]],
        **changes,
    }
    return Correction(action, to, "wrong image", index, **values)


def merge(identity, to, action="merge"):
    return Correction(action, to, "one person", None, "", identity)


@pytest.fixture
def apply(faces, tmp_path):
    def apply(*corrections, source=faces):
        write_corrections(tmp_path / "list.csv", corrections)
        return apply_corrections(source, tmp_path / "list.csv")

    return apply


def images_by_identity(source):
    found = {}
    for index in range(len(source)):
        found.setdefault(source.identity_names[source.identities[index]], []).append(source.encoded(index))
    return found


def test_keep_drop_move_and_merge(faces, apply):
    before = images_by_identity(faces)
    done = apply(
        line(faces, "keep", 0),
        line(faces, "drop", 1),
        line(faces, "move", 2, "eve"),
        line(faces, "move", 6, "new:fay"),
        line(faces, "move", 7, "new:fay"),
        merge("dee", "ben"),
        merge("eve", "dee", action="keep"),
    )
    after = images_by_identity(done.faces)
    assert after == {
        "ada": [before["ada"][k] for k in (0, 3, 4)],
        "ben": before["ben"] + before["dee"],
        "cy": before["cy"][2:],
        "eve": [before["ada"][2], *before["eve"]],
        "fay": before["cy"][:2],
    }
    assert done.faces.identity_names == ("ada", "ben", "cy", "eve", "fay")
    assert (np.diff(done.faces.identities) >= 0).all()
    assert [place.rpartition("/")[2] for place in done.dropped] == ["1.png"]
    assert len(done.moved) == 3
    assert done.moved[0].endswith("ada/2.png: ada -> eve")
    assert (done.merged, done.emptied) == (("dee -> ben",), ())


def test_an_empty_list_changes_nothing(faces, apply):
    done = apply()
    assert images_by_identity(done.faces) == images_by_identity(faces)
    assert done.faces.identity_names == faces.identity_names


def test_merges_follow_one_another_and_moves_follow_merges(faces, apply):
    done = apply(merge("ada", "ben"), merge("ben", "cy"), line(faces, "move", 14, "ada"))
    assert sorted(images_by_identity(done.faces)) == ["cy", "dee", "eve"]
    assert len(images_by_identity(done.faces)["cy"]) == 5 + 1 + 8 + 1
    assert done.merged == ("ada -> cy", "ben -> cy")


def test_an_identity_that_loses_all_images_is_named(faces, apply):
    done = apply(line(faces, "drop", 5))
    assert done.emptied == ("ben",)
    assert done.faces.num_identities == 4


@pytest.mark.parametrize("storage", ["folder", "recordio", "shards"])
def test_every_storage_takes_it(faces, apply, tmp_path, storage):
    convert_faces(faces, tmp_path / "before", storage)
    source = cf.data.open_faces(tmp_path / "before")
    done = apply(line(source, "move", 0, "new:abe"), line(source, "drop", 9), source=source)
    convert_faces(done.faces, tmp_path / "after", storage)
    after = cf.data.open_faces(tmp_path / "after")
    assert images_by_identity(after) == images_by_identity(done.faces)
    assert (len(after), after.num_identities) == (22, 6)


def test_the_list_fits_the_same_faces_elsewhere(faces, apply, tmp_path, monkeypatch):
    convert_faces(faces, tmp_path / "here" / "packed", "recordio")
    write_corrections(tmp_path / "list.csv", [line(cf.data.open_faces(tmp_path / "here" / "packed"), "drop", 3)])
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert len(apply_corrections(cf.data.open_faces("packed"), tmp_path / "list.csv").faces) == 22


def test_odd_names_survive(tmp_path, write_faces, apply):
    names = ['a,"b"', "back\\slash", "line\nend", "né"]
    source = FolderSource(write_faces(tmp_path / "odd", [f"{name}/{k}.png" for name in names for k in range(2)]))
    corrections = [line(source, "drop", 2 * k) for k in range(4)]
    done = apply(*corrections, source=source)
    assert len(done.faces) == 4
    assert set(done.faces.identity_names) == set(names)


BAD = {
    "burn,,0,{place},ada": "the action for an image is 'burn', expected keep, drop or move",
    "merge,ben,0,{place},ada": "the action for an image is 'merge', expected keep, drop or move",
    "drop,,99,{place},ada": "the index is '99', expected 0 to 22",
    "drop,,-1,{place},ada": "the index is '-1', expected 0 to 22",
    "drop,,,{place},ada": "the index is '', expected 0 to 22",
    "drop,,0,{place},zoe": "there is no identity 'zoe' in these faces",
    "drop,,0,{place},ben": "image 0 is ada/0.png of 'ada', the list says ada/0.png of 'ben': the list belongs to other",
    "drop,,0,ada/7.png,ada": "image 0 is ada/0.png of 'ada', the list says ada/7.png of 'ada'",
    "move,,0,{place},ada": "to is '', expected the name of an identity, or new:NAME for a new one",
    "move,zoe,0,{place},ada": "to is 'zoe', expected the name of an identity, or new:NAME",
    "move,ada,0,{place},ada": "to is 'ada', which is the identity itself",
    "move,new:,0,{place},ada": "to is 'new:', expected the name of an identity",
    "move,new:ben,0,{place},ada": "but this identity exists: write it without new:",
    "drop,,,,ada": "the action for an identity is 'drop', expected keep or merge",
    "merge,new:zoe,,,ada": "to is 'new:zoe', expected the name of an identity",
    "merge,ada,,,ada": "which is the identity itself",
    "move,eve,1,ada/1.png,ada": "move to eve for image 1, but line 2 says drop: say the same on all lines",
    "keep,,1,ada/1.png,ada": "keep for image 1, but line 2 says drop",
    "merge,eve,,,dee": "'dee' is merged into 'cy' by line 3 already",
    "merge,dee,,,cy": "the merges of 'cy' lead back to it",
    "drop,,0": "3 fields, expected 5",
    'drop,,0,"{place},ada': "expected CSV",
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_lines_are_named(faces, tmp_path, bad):
    text = "action,to,index,image,identity\ndrop,,1,ada/1.png,ada\nmerge,cy,,,dee\n\n" + bad.format(place="ada/0.png")
    (tmp_path / "list.csv").write_text(text + "\n")
    with pytest.raises(DataError) as caught:
        apply_corrections(faces, tmp_path / "list.csv")
    assert str(caught.value).startswith(f"{tmp_path / 'list.csv'}, line 5: "), caught.value
    assert BAD[bad] in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: there is no column action, expected action,to,"),
        (b"action;to;index;image;identity\n", "separated by semicolons, expected commas"),
        (b"action,to,index,image\n", "there is no column identity"),
        (b"action,to\xff", "is not UTF-8"),
    ],
)
def test_bad_files(faces, tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        apply_corrections(faces, tmp_path / "list.csv")


def test_no_file(faces, tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read"):
        apply_corrections(faces, tmp_path / "gone.csv")


def test_somebody_must_be_left(faces, apply):
    with pytest.raises(DataError, match="every image is dropped"):
        apply(*(line(faces, "drop", index) for index in range(len(faces))))


def test_the_columns_may_come_in_any_order_and_a_spreadsheet_may_have_saved_it(faces, tmp_path):
    text = "\ufeffidentity,image,index,to,action\r\nada,ada/1.png,1,, Drop\r\n,,,,\r\n"
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert len(apply_corrections(faces, tmp_path / "list.csv").faces) == 22


def test_the_written_columns_are_the_fields(faces, tmp_path):
    write_corrections(tmp_path / "list.csv", [line(faces, "drop", 0, score=0.123456)])
    header, row = (tmp_path / "list.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert row == "drop,,wrong image,0,ada/0.png,ada,0.1235,,,"
