"""`coreface gallery ...` as a user types it, on pictures made of the ORL faces."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout

import cv2
import pytest

import coreface as cf
from coreface.cli import main
from support.galleries import rewritten_export


@pytest.fixture(scope="module")
def album(photograph, tmp_path_factory):
    """People s0 to s3 with three photographs each, probes of s0 to s5, one of two people, one of nobody."""
    folder = tmp_path_factory.mktemp("album")

    def write(name, faces):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), photograph(faces, 320, 240)[..., ::-1])

    for person in range(6):
        for image in range(5):
            place = "people" if person < 4 and image < 3 else "probes"
            write(f"{place}/s{person}/{image}.jpg", [(person, image, 60 + 10 * image, 40, 160)])
    write("both.jpg", [(1, 5, 0, 20, 120), (9, 0, 170, 40, 150)])
    write("nobody.jpg", [])
    (folder / "people" / "s1" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "people" / "s2" / "secret.jpg").symlink_to(folder / "probes" / "s5" / "0.jpg")
    (folder / "people" / "s3" / "again").symlink_to(folder / "people")
    return folder


@pytest.fixture(scope="module")
def made(album, tmp_path_factory):
    """A gallery of the people, and what the command said."""
    place, out, err = tmp_path_factory.mktemp("made") / "staff.db", io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(["gallery", "enrol", str(place), str(album / "people"), "--keep-crops", "--allow-similar"]) == 0
    return place, out.getvalue(), err.getvalue()


@pytest.fixture
def enrolled(made, tmp_path):
    return shutil.copy(made[0], tmp_path / "staff.db")


def test_enrol(made):
    _, out, err = made
    assert "enrolled 12 images of 4 people" in out
    assert "the gallery has 4 people" in out
    assert "broken.jpg" in out
    assert "secret.jpg leads out of the folder" in err
    assert "again leads out of the folder" in err


def test_enrol_again_and_one_person(run, album, enrolled):
    status, out, _ = run("gallery", "enrol", enrolled, album / "people", "--json", "--allow-similar")
    found = {entry["person"]: entry for entry in json.loads(out)}
    assert status == 0
    assert [len(found[f"s{k}"]["known"]) for k in range(4)] == [3, 3, 3, 3]
    assert all(entry["templates"] == [] for entry in found.values())
    assert found["s1"]["refused"][0]["reason"] == "unreadable"
    words = ["gallery", "enrol", enrolled, album / "probes" / "s4", "--person", "new", "--allow-similar"]
    assert "enrolled 5 images of 1 person" in run(*words)[1]
    assert run("gallery", "enrol", enrolled, album / "nobody.jpg", "--person", "none")[0] == 4
    assert run("gallery", "enrol", enrolled, album / "none")[0] == 2
    status, out, _ = run("gallery", "enrol", enrolled, album / "probes" / "s0" / "4.jpg", "--person", "twin")
    assert (status, "resembles s0" in out) == (4, True)


def test_identify(run, album, enrolled, tmp_path):
    known, unknown = album / "probes" / "s0" / "3.jpg", album / "probes" / "s5" / "0.jpg"
    status, out, _ = run("gallery", "identify", enrolled, known)
    assert status == 0
    assert out.startswith(f"{known}: s0\n  s0: cosine 0.")
    assert "for a gallery of 4" in out
    assert run("gallery", "identify", enrolled, unknown)[0] == 3
    assert run("gallery", "identify", enrolled, unknown, known)[0] == 0
    assert run("gallery", "identify", enrolled, known, "--fpir", "1e-6")[0] == 4
    status, _, err = run("gallery", "identify", enrolled, album / "nobody.jpg")
    assert (status, "no face" in err) == (4, True)
    assert run("gallery", "identify", enrolled, album / "none.jpg")[0] == 2
    drawing = tmp_path / "drawn.png"
    status, out, _ = run("gallery", "identify", enrolled, album / "both.jpg", "--json", "--top", "2", "--draw", drawing)
    (found,) = json.loads(out)
    assert (status, [face["person"] for face in found["faces"]]) == (0, [None, "s1"])
    assert (cf.load_image(drawing) != cf.load_image(album / "both.jpg")).any()
    assert run("gallery", "identify", enrolled, known, known, "--draw", drawing)[0] == 2
    status, _, err = run("gallery", "identify", enrolled, known, "--max-side", "320", "--threshold", "0.4")
    assert (status, "detector.max_side is 320, that of the gallery is 640" in err) == (2, True)
    assert run("gallery", "identify", tmp_path / "none.db", known)[0] == 2
    assert not (tmp_path / "none.db").exists()


def test_verify(run, album, enrolled):
    probe = album / "probes" / "s2" / "3.jpg"
    status, out, _ = run("gallery", "verify", enrolled, "s2", probe)
    assert (status, out.splitlines()[0]) == (0, "match")
    assert run("gallery", "verify", enrolled, "s1", probe, "--json")[0] == 3
    assert run("gallery", "verify", enrolled, "s2", probe, "--fmr", "1e-7")[0] == 4
    assert run("gallery", "verify", enrolled, "s2", album / "nobody.jpg")[0] == 4
    status, _, err = run("gallery", "verify", enrolled, "nobody", probe)
    assert (status, "no person 'nobody'" in err) == (2, True)


def test_evaluate(run, album, enrolled, tmp_path):
    status, out, _ = run("gallery", "evaluate", enrolled, album / "probes", "--json", "--fpir", "0.05")
    found = json.loads(out)
    assert status == 0
    assert (found["mated"], found["non_mated"], found["gallery_size"]) == (8, 10, 4)
    gallery = cf.Gallery.open(enrolled, cf.FacePipeline.from_pretrained("sface"))
    misses = alarms = 0
    for path in sorted((album / "probes").glob("*/*.jpg")):
        person = gallery.identify(path, fpir=0.05).person
        if path.parent.name in ("s4", "s5"):
            alarms += person is not None
        else:
            misses += person != path.parent.name
    gallery.close()
    assert (found["false_negatives"], found["false_positives"]) == (misses, alarms)
    assert found["achieved_fnir"] == misses / 8
    assert found["promised"] == pytest.approx(0.05, rel=0.05)
    assert "FNIR" in run("gallery", "evaluate", enrolled, album / "probes")[1]
    run("gallery", "create", tmp_path / "empty.db")
    assert run("gallery", "evaluate", tmp_path / "empty.db", album / "probes")[0] == 2


def test_management(run, album, enrolled, tmp_path):
    status, out, _ = run("gallery", "list", enrolled)
    assert status == 0
    assert "4 people" in out
    assert [person["id"] for person in json.loads(run("gallery", "list", enrolled, "--json")[1])] == [
        f"s{k}" for k in range(4)
    ]
    shown = json.loads(run("gallery", "show", enrolled, "s1", "--json")[1])
    assert len(shown["templates"]) == 3
    assert run("gallery", "show", enrolled, "s1")[1].count("crop") == 3
    status, out, _ = run("gallery", "delete", enrolled, "--template", shown["templates"][0]["id"])
    assert (status, out) == (0, "deleted 0 people, 1 template\n")
    exported = tmp_path / "s.jsonl"
    assert "3 people" not in run("gallery", "export", enrolled, exported, "--person", "s1")[1]
    status, out, _ = run("gallery", "delete", enrolled, "s1", "--json")
    assert (status, json.loads(out)) == (0, {"people": 1, "templates": 2, "erased": True})
    assert run("gallery", "identify", enrolled, album / "probes" / "s1" / "3.jpg")[0] == 3
    assert run("gallery", "delete", enrolled, "s1")[0] == 2
    assert run("gallery", "delete", enrolled)[0] == 2
    without_crops = rewritten_export(exported, lambda lines: [row.update(crop=None) for row in lines[1]["templates"]])
    status, out, err = run("gallery", "import", enrolled, without_crops)
    assert (status, out) == (0, "added 1 person and 2 templates\n")
    assert "no embedding could be checked" in err
    run("gallery", "delete", enrolled, "s1")
    status, out, err = run("gallery", "import", enrolled, exported)
    assert (status, out, err) == (0, "added 1 person and 2 templates\n", "")
    assert run("gallery", "identify", enrolled, album / "probes" / "s1" / "3.jpg")[0] == 0
    info = run("gallery", "info", enrolled)[1]
    assert "4 people, 11 templates, 11 crops kept" in info
    assert "all that was deleted is erased" in info
    assert run("gallery", "check", enrolled)[:2] == (0, "staff.db: nothing is wrong\n")
    audit = run("gallery", "audit", enrolled)[1]
    assert [line.split()[2] for line in audit.splitlines()[:5]] == [
        *("import", "delete", "import", "delete", "export"),
    ]
    assert "s1" not in audit
    assert "deleted 0 people" in run("gallery", "purge", enrolled)[1]
    assert "deleted 4 people" in run("gallery", "purge", enrolled, "--older-than", "0")[1]
    assert run("gallery", "purge", enrolled, "--older-than", "-1")[0] == 2
    (tmp_path / "not.db").write_bytes(b"no gallery" * 300)
    for command in ("list", "info", "check", "audit", "purge"):
        status, _, err = run("gallery", command, tmp_path / "not.db")
        assert (status, "not an SQLite file" in err) == (2, True)


def test_migrate(run, album, enrolled, tmp_path, toy_backbone):
    encoder = cf.FaceEncoder(toy_backbone, 8, 112)
    encoder.save_pretrained(tmp_path / "run" / "encoder")
    words = ["--model", tmp_path / "run", "--alignment", "arcface"]
    status, out, err = run("gallery", "migrate", enrolled, *words)
    assert (status, out.startswith("12 templates embedded")) == (0, True), err
    probe = album / "probes" / "s0" / "3.jpg"
    assert run("gallery", "identify", enrolled, probe)[0] == 2
    assert run("gallery", "identify", enrolled, probe, *words, "--threshold", "-1")[0] == 0
