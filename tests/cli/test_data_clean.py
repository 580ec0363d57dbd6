"""`coreface data clean`: what it lists, what it prints, and the faces that it writes by a list."""

import csv
import re
import shutil

import numpy as np
import pytest

import coreface as cf
from coreface.cli import main

IDENTITIES, IMAGES = 60, 6


@pytest.fixture(scope="module")
def place(tmp_path_factory, paint_faces, toy_backbone):
    """Toy faces with five labels passed round and one copied image; an encoder, and embeddings that tell them apart."""
    folder = tmp_path_factory.mktemp("clean")
    faces = paint_faces(folder / "faces", identities=IDENTITIES, images=IMAGES, size=16)
    for number in range(5):
        (faces / f"person{number:02}" / "0.png").rename(faces / f"person{number + 1:02}" / "wrong.png")
    (faces / "person20" / "copy.png").write_bytes((faces / "person30" / "1.png").read_bytes())
    source = cf.data.open_faces(faces)
    pixels = np.stack([source[index][0].reshape(-1, 3) for index in range(len(source))]).astype(np.float64)
    pixels -= pixels.mean(axis=(0, 1))
    names = [source.relative_path(index) for index in range(len(source))]
    np.savez(folder / "pixels.npz", embeddings=pixels.reshape(len(source), -1), names=names)
    (folder / "one" / "alone").mkdir(parents=True)
    (folder / "one" / "alone" / "0.png").write_bytes((faces / "person40" / "0.png").read_bytes())
    cf.FaceEncoder(toy_backbone, 8, 16).save_pretrained(folder / "encoder")
    return folder


@pytest.fixture
def run(capsys, monkeypatch, place):
    """Return a function that runs words where the faces are and gives (status, output, errors)."""
    monkeypatch.chdir(place)

    def run(*words):
        status = main(["data", "clean", *map(str, words)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def lines_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_list_page_and_corrected_faces(run, place, tmp_path):
    before = {path: path.read_bytes() for path in (place / "faces").rglob("*") if path.is_file()}
    listed, page = tmp_path / "list.csv", tmp_path / "page.html"
    status, out, err = run("faces", "--model", "pixels.npz", "--list", listed, "--page", page)
    assert status == 0, err
    assert re.search(
        r"^ +6 images that do not look like their identity\n +score <= -0\.\d{4}: expected are ", out, re.M
    )
    assert re.search(r"^ +1 equal images of different identities$", out, re.M)
    assert f"list: {listed}, 8 lines\npage: {page}\n" in out
    lines = lines_of(listed)
    wrong = [line for line in lines if line["finding"] == "wrong image"]
    places = [f"person{k:02}/wrong.png" for k in range(1, 6)]
    assert sorted(line["image"] for line in wrong) == [*places, "person20/copy.png"]
    assert {line["action"] for line in wrong} == {"drop"}
    assert all(line["to"] == line["other"] for line in wrong)
    meant = {line["image"]: line["other"] for line in wrong}
    assert meant == {place: f"person{k:02}" for k, place in enumerate(places)} | {"person20/copy.png": "person30"}
    copies = {line["image"]: line["action"] for line in lines if line["finding"] == "duplicate"}
    assert copies == {"person20/copy.png": "drop", "person30/1.png": "keep"}
    html = page.read_text(encoding="utf-8")
    assert html.count("<img ") == 6 * (1 + 3 + 3) + 2
    assert "6 images that do not look like their identity" in html
    assert "most alike: person00" in html
    assert {path: path.read_bytes() for path in before} == before

    edited = [line | {"action": "move"} if line["image"] in places else line for line in lines]
    with listed.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(edited)
    status, out, _ = run("faces", "--apply", listed, "--out", tmp_path / "new")
    assert status == 0
    assert "1 image left out:\n  faces/person20/copy.png\n" in out
    assert "5 images moved to another identity:\n  faces/person01/wrong.png: person01 -> person00\n" in out
    assert out.endswith(f"{tmp_path / 'new'}: folder, 360 images of 60 identities\n")
    new = cf.data.open_faces(tmp_path / "new")
    assert np.bincount(new.identities).tolist() == [IMAGES] * IDENTITIES
    # Whoever is cleaned once is clean.
    names = [new.relative_path(index) for index in range(len(new))]
    pixels = np.stack([new[index][0].ravel() for index in range(len(new))]).astype(np.float64)
    np.savez(tmp_path / "new.npz", embeddings=pixels - pixels.mean(axis=0), names=names)
    status, out, _ = run(tmp_path / "new", "--model", tmp_path / "new.npz", "--list", listed, "--page", page)
    assert (status, lines_of(listed)) == (0, [])
    assert f"list: {listed}, 0 lines\n" in out


def test_an_encoder_and_where_the_files_go(run, place):
    status, out, err = run("faces", "--model", "encoder", "--no-cache", "--near-duplicates", 2, "--good-lost", 0.05)
    assert status == 0, err
    assert "page: faces-clean.html" in out
    assert (place / "faces-clean.csv").is_file()
    assert run("faces", "--model", "encoder", "--no-cache", "--near-duplicates", 2, "--good-lost", 0.05)[1] == out


def test_unreadable_images_are_named(run, place, tmp_path):
    folder = shutil.copytree(place / "faces", tmp_path / "some")
    (folder / "person50" / "bad.png").write_bytes(b"junk")
    status, _, err = run(
        folder, "--model", "encoder", "--no-cache", "--list", tmp_path / "l.csv", "--page", tmp_path / "p.html"
    )
    assert status == 0, err
    assert re.search(r"not compared: .*bad\.png", err)
    assert "Images that could not be used" in (tmp_path / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("storage", ["recordio", "shards"])
def test_other_storages(run, tmp_path, storage):
    assert main(["data", "convert", "faces", str(tmp_path / "a"), "--to", storage]) == 0
    source = cf.data.open_faces(tmp_path / "a")
    text = "action,to,index,image,identity\n" + "".join(
        f'drop,,{index},"{source.relative_path(index)}",{source.identity_names[source.identities[index]]}\n'
        for index in range(12)
    )
    (tmp_path / "list.csv").write_text(text)
    status, out, err = run(tmp_path / "a", "--apply", tmp_path / "list.csv", "--out", tmp_path / "b")
    assert status == 0, err
    assert "12 images left out:" in out
    assert "and 2 more" in out
    assert f"{storage}, 349 images of 58 identities" in out
    assert "2 identities left without an image:\n  person00\n  person01\n" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["faces"], "expected --model MODEL to list what may be wrong, or --apply LIST --out NEW"),
        (["faces", "--model", "pixels.npz", "--out", "x"], "expected --model MODEL to list"),
        (["faces", "--apply", "list.csv"], "--apply LIST needs --out NEW"),
        (["faces", "--apply", "list.csv", "--model", "encoder", "--out", "x"], "and no --model"),
        (["faces", "--apply", "gone.csv", "--out", "x"], "gone.csv: cannot be read"),
        (["faces", "--model", "gone"], "gone does not exist"),
        (["gone", "--model", "encoder"], "gone: no such folder"),
        (["faces", "--model", "encoder", "--good-lost", "2"], "good_lost is 2.0, expected a share"),
        (["faces", "--model", "encoder", "--near-duplicates", "0"], "least is 0.0, expected a likeness above 0"),
        (
            ["faces", "--model", "encoder", "--list", "no/list.csv"],
            "no/list.csv cannot be written: there is no folder no",
        ),
        (["one", "--model", "encoder"], "cleaning needs at least 2 identities, got 1"),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(run, place, words, message):
    before = sorted(place.rglob("*"))
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(place.rglob("*")) == before


def test_a_bad_line_is_named_and_nothing_written(run, tmp_path):
    (tmp_path / "list.csv").write_text("action,to,index,image,identity\nmove,nobody,0,person00/1.png,person00\n")
    status, _, err = run("faces", "--apply", tmp_path / "list.csv", "--out", tmp_path / "new")
    assert (status, err.count("\n")) == (2, 1)
    assert "list.csv, line 2: to is 'nobody', expected the name of an identity" in err
    assert not (tmp_path / "new").exists()
