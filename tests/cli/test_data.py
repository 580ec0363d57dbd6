"""`coreface data`: what it prints, what it writes, and its exit status."""

import io
import json
import os
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, paint_faces):
    """Return a function that runs words in a folder with toy faces and gives (status, output, errors)."""
    monkeypatch.chdir(tmp_path)
    paint_faces(tmp_path / "photos", identities=6, images=6)

    def run(*words):
        status = main(["data", *map(str, words)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def test_info(run, tmp_path):
    status, out, _ = run("info", "photos")
    assert status == 0
    assert "photos: folder, 36 images of 6 identities" in out
    assert "images per identity: 6 to 6, median 6" in out
    assert "24 x 24 (36); 0 of 36 are grey" in out
    assert "samples" not in out
    assert not list(tmp_path.glob("*.png"))
    status, out, _ = run("info", "photos", "--json", "--samples", "s.png")
    facts = json.loads(out)
    assert (facts["format"], facts["images"], facts["samples"]) == ("folder", 36, "s.png")
    assert cv2.imread(str(tmp_path / "s.png")).shape == (4 * 112, 8 * 112, 3)
    assert json.loads(run("info", "photos", "--json")[1])["samples"] is None
    assert run("info", "photos", "--samples", "s.png")[1].endswith("\nsamples: s.png\n")


def test_check(run, tmp_path):
    assert run("check", "photos") == (
        0,
        "36 images of 6 identities, most of them 24 x 24\nnothing is wrong\n",
        "",
    )
    (tmp_path / "photos" / "person01" / "x.png").write_bytes((tmp_path / "photos" / "person00" / "0.png").read_bytes())
    for number in range(12):
        (tmp_path / "photos" / "person02" / f"bad{number}.png").write_bytes(b"junk")
    status, out, _ = run("check", "photos", "--least", 7)
    assert status == 1
    assert "12 images that cannot be read:" in out
    assert "and 2 more: --json lists all" in out
    assert "1 group of the same image in several identities:" in out
    assert "person00/0.png = " in out
    assert "4 identities with too few images:\n  person00: 6" in out
    status, out, _ = run("check", "photos", "--json")
    assert status == 1
    assert len(json.loads(out)["unreadable"]) == 12


def test_stray_files_are_noted_and_no_fault(run, tmp_path):
    (tmp_path / "photos" / "readme.txt").write_text("text")
    (tmp_path / "photos" / "person01" / "deep").mkdir()
    (tmp_path / "photos" / "nobody").mkdir()
    status, out, _ = run("check", "photos")
    assert (status, out) == (
        0,
        "36 images of 6 identities, most of them 24 x 24\n"
        "note: 2 stray files: not an image, or not in the folder of an identity:\n  person01/deep\n  readme.txt\n"
        "note: 1 identity folder without an image:\n  nobody\n"
        "nothing is wrong\n",
    )
    for number in range(11):
        (tmp_path / "photos" / "person02" / f"{number:02}.txt").touch()
    assert "  and 3 more: --json lists all\n" in run("check", "photos")[1]
    status, out, _ = run("check", "photos", "--json")
    found = json.loads(out)
    assert (status, found["good"]) == (0, True)
    stray, empty = found["notices"]
    assert stray["message"] == "13 stray files: not an image, or not in the folder of an identity"
    assert sorted(stray["items"]) == sorted(
        ["readme.txt", "person01/deep", *(f"person02/{number:02}.txt" for number in range(11))]
    )
    assert empty["items"] == ["nobody"]
    assert run("check", "photos", "--least", 7)[0] == 1
    assert "note: 13 stray files" in run("info", "photos")[1]


def test_split_convert_and_pairs(run, tmp_path):
    assert run("convert", "photos", "packed")[:2] == (0, "packed: recordio, 36 images of 6 identities\n")
    assert run("convert", "packed", "shards", "--to", "shards", "--per-shard", 10, "--shuffle", 1)[0] == 0
    assert run("convert", "packed", "again")[:2] == (0, "again: folder, 36 images of 6 identities\n")
    again, photos = (cf.data.open_faces(tmp_path / name) for name in ("again", "photos"))
    assert [again.encoded(i) for i in range(36)] == [photos.encoded(i) for i in range(36)]
    status, out, _ = run("split", "packed", "--by-identity", "--test", 2, "--seed", 1)
    assert (status, out) == (
        0,
        "packed-split/train: 24 images of 4 identities\npacked-split/test: 12 images of 2 identities\n",
    )
    train, test = (cf.data.open_faces(tmp_path / "packed-split" / name) for name in ("train", "test"))
    assert isinstance(train, cf.data.RecordSource)
    assert not set(train.identity_names) & set(test.identity_names)
    run(
        "split",
        "photos",
        "--by-identity",
        "--test",
        0.5,
        "--family",
        "[0-2]$|[3-5]$",
        "--out",
        "halves",
        "--to",
        "shards",
    )
    assert isinstance(cf.data.open_faces(tmp_path / "halves" / "test"), cf.data.ShardSource)
    status, out, err = run("pairs", "packed", "--out", "x.bin", "--count", 60, "--folds", 3)
    assert status == 0
    assert "does not store its folds" in err
    assert "60 pairs of " in out
    pairs = cf.data.open_pairs(tmp_path / "x.bin")
    assert (len(pairs), int(pairs.same.sum())) == (60, 30)
    assert run("pairs", "x.bin", "--out", "y.bin")[0] == 0
    again = cf.data.open_pairs(tmp_path / "y.bin")
    assert [again.encoded(int(k)) for k in again.left] == [pairs.encoded(int(k)) for k in pairs.left]
    assert "60 pairs of " in run("info", "x.bin")[1]
    assert json.loads(run("info", "x.bin", "--json")[1])["impostor"] == 30
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_empty_image_is_named_and_nothing_is_left(run, tmp_path):
    (tmp_path / "photos" / "person03" / "9.png").touch()
    for storage in ("recordio", "shards"):
        status, _, err = run("convert", "photos", "packed", "--to", storage)
        assert (status, "person03/9.png" in err) == (2, True), err
        assert not (tmp_path / "packed").exists()


def test_pairs_of_a_list(run, tmp_path):
    (tmp_path / "pairs.csv").write_text("person00/0.png,person00/1.png,1\nperson00/0.png,person01/1.png,0\n")
    assert run("pairs", "pairs.csv", "--images", "photos", "--out", "x.bin")[0] == 0
    pairs = cf.data.open_pairs(tmp_path / "x.bin")
    expected = cf.load_image(tmp_path / "photos" / "person01" / "1.png")
    np.testing.assert_array_equal(pairs[1][1], expected)
    assert run("info", "pairs.csv", "--images", "photos")[1].startswith("pairs.csv: 2 pairs of 3 images, 2 folds")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "gone"], "gone: no such folder"),
        (["info", "gone.rec"], "gone.rec: no such file"),
        (["info", "gone.tar"], "gone.tar: no such file"),
        (["info", "gone.bin"], "gone.bin: no such file"),
        (["check", "x.bin"], "x.bin: a set of pairs has no identities"),
        (["check", "photos", "--least", "0"], "least is 0"),
        (["convert", "photos", "photos"], "photos exists already"),
        (["convert", "photos", "b", "--shuffle", "1"], "shuffle is for shards"),
        (["convert", "photos", "b", "--to", "shards", "--per-shard", "0"], "per_shard is 0"),
        (["split", "photos", "--by-identity", "--test", "6"], "leaves none to train on"),
        (["split", "photos", "--by-identity", "--family", "("], "expected a regular expression"),
        (["pairs", "photos", "--out", "x"], "expected a name that ends in .bin"),
        (["pairs", "photos", "--out", "y.bin"], "6 identities, expected at least 20"),
        (["pairs", "photos", "--out", "y.bin", "--count", "7"], "7 pairs, expected a multiple of 20"),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(run, tmp_path, words, message):
    (tmp_path / "x.bin").touch()
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_by_identity_must_be_said(run):
    with pytest.raises(SystemExit, match="2"):
        run("split", "photos")


@pytest.mark.parametrize("command", ["info", "check", "split", "convert", "pairs"])
def test_help(run, capsys, command):
    with pytest.raises(SystemExit, match="0"):
        run(command, "--help")
    assert "PATH" in capsys.readouterr().out or command == "convert"


def test_where_there_is_no_terminal_a_long_work_says_now_and_then_how_far_it_is(run, monkeypatch):
    from coreface.cli import terminal

    monkeypatch.setattr(terminal, "_PLAIN_EVERY", 0.0)
    assert run("convert", "photos", "b")[2] == "converting: 16 of 36 images\nconverting: 32 of 36 images\n"


def test_people_with_sessions(run, tmp_path, paint_faces):
    for person in ("anna", "bert"):
        paint_faces(tmp_path / "sessions" / person, identities=2, images=2)
    out = run("check", "sessions")[1]
    assert "2 names of an identity in several folders" in out
    assert "--identity-level 1" in out
    assert "8 images of 2 identities" in run("check", "sessions", "--identity-level", 1)[1]
    assert "8 images of 2 identities" in run("info", "sessions", "--identity-level", 1)[1]
    assert "8 images of 2 identities" in run("convert", "sessions", "out", "--identity-level", 1)[1]


def test_labels_of_shards_elsewhere(run, tmp_path):
    image = next((tmp_path / "photos").glob("*/*.png")).read_bytes()
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, content in (
            ("a.png", image), ("a.json", b'{"who": "anna"}'), ("b.png", image), ("b.json", b'{"who": "bert"}'),
            ("c.png", image),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    status, _, errors = run("info", "s.tar")
    assert (status, "labels elsewhere" in errors) == (2, True)
    assert "2 images of 2 identities" in run("info", "s.tar", "--label", "json:who")[1]
    status, out, errors = run("convert", "s.tar", "faces", "--to", "folder", "--label", "json:who")
    assert (status, out) == (0, "faces: folder, 2 images of 2 identities\n")
    assert errors == "note: 1 member is not part of a sample: no image and label of one key:\n  s.tar: c.png\n"
    assert sorted(path.name for path in (tmp_path / "faces").iterdir()) == ["anna", "bert"]
    assert run("info", "s.tar", "--label", "xml")[0] == 2


def test_pairs_of_people_with_one_image_each(run, paint_faces, tmp_path):
    paint_faces(tmp_path / "singles", identities=4, images=1)
    status, _, errors = run("pairs", "singles", "--out", "p.bin", "--folds", 1)
    assert status == 2
    assert "none of 4 identities has two images" in errors


def test_notices_of_pairs(run, tmp_path):
    (tmp_path / "p.csv").write_text(
        "path1,path2,same\n"
        "photos/person00/0.png,photos/person00/1.png,1\nphotos/person00/1.png,photos/person00/0.png,1\n"
        "photos/person00/0.png,photos/person01/1.png,0\n"
    )
    status, out, errors = run("info", "p.csv")
    assert status == 0
    assert "3 pairs" in out
    assert errors.startswith("note: 1 pair")


def test_a_reader_that_has_read_enough(tmp_path, paint_faces):
    """As `coreface data info photos | head -1`."""
    paint_faces(tmp_path / "photos", identities=3, images=2)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "coreface", "data", "info", "photos"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
