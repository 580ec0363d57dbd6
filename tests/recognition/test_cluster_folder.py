"""`coreface cluster` as a user types it, on pictures made of the ORL faces, and what it keeps between calls."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from coreface.evaluation.calibration import Calibrator
from coreface.recognition import cluster_folder
from coreface.recognition.pipeline import FacePipeline

AT = ("--threshold", "0.45")


@pytest.fixture
def party(photograph, tmp_path):
    """Eight photographs at two depths: three people alone, two of them in one picture, one of nobody, one damaged."""
    folder = tmp_path / "party"
    (folder / "day 1" / "noon").mkdir(parents=True)
    for name, faces in {
        "a0.jpg": [(0, 0, 60, 40, 160)],
        "day 1/a1.jpg": [(0, 1, 80, 40, 160)],
        "day 1/b0.jpg": [(5, 0, 60, 40, 160)],
        "day 1/noon/b1.jpg": [(5, 1, 80, 40, 160)],
        "day 1/noon/ab.jpg": [(0, 2, 0, 20, 130), (5, 2, 170, 40, 140)],
        "c0.jpg": [(9, 0, 60, 40, 160)],
        "nobody.jpg": [],
    }.items():
        cv2.imwrite(str(folder / name), photograph(faces, 320, 240)[..., ::-1])
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / ".hidden.jpg").write_bytes(b"x")
    return folder


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grouping(folder):
    """Return the names of the photographs of each group, and of faces alone under 0."""
    found = {}
    for row in rows(folder / "faces.csv"):
        found.setdefault(int(row["group"] or 0), []).append(Path(row["photograph"]).name)
    return {group: sorted(names) for group, names in found.items()}


def give_names(folder, names):
    table = rows(folder / "groups.csv")
    with (folder / "groups.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows({**row, "name": names.get(int(row["group"]), row["name"])} for row in table)


def test_photographs_become_people(run, party, tmp_path):
    out = tmp_path / "groups"
    status, text, err = run("cluster", party, "--out", out, *AT, "--folders", "--json")
    assert status == 0, err
    assert grouping(out) == {1: ["a0.jpg", "a1.jpg", "ab.jpg"], 2: ["ab.jpg", "b0.jpg", "b1.jpg"], 0: ["c0.jpg"]}
    found = json.loads(text)
    assert (found["threshold"], found["fmr"], found["once"]) == (0.45, None, False)
    assert [len(group["faces"]) for group in found["groups"]] == [3, 3]
    assert [Path(face["photograph"]).name for face in found["alone"]] == ["c0.jpg"]
    reasons = {Path(name).name: reason for name, reason in found["failed"].items()}
    assert reasons.keys() == {"nobody.jpg", "cut.jpg"}
    assert reasons["nobody.jpg"] == "no face"
    # The cosine is that with the centre of the group.
    with np.load(out / "faces.npz") as state:
        mine = state["embeddings"][state["groups"] == 1]
    centre = mine.mean(axis=0) / np.linalg.norm(mine.mean(axis=0))
    np.testing.assert_allclose(
        sorted(face["cosine"] for face in found["groups"][0]["faces"]), sorted(mine @ centre), atol=1e-4
    )
    assert [(row["group"], row["name"], row["faces"], row["photographs"]) for row in rows(out / "groups.csv")] == [
        ("1", "", "3", "3"),
        ("2", "", "3", "3"),
    ]
    people = {str(path.relative_to(out / "people")) for path in (out / "people").rglob("*.jpg")}
    assert people == {f"0001/{name}.jpg" for name in ("a0", "a1", "ab")} | {
        f"0002/{name}.jpg" for name in ("ab", "b0", "b1")
    }
    assert (out / "people" / "0001" / "a0.jpg").read_bytes() == (party / "a0.jpg").read_bytes()
    page = (out / "groups.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6
    assert "<b>Group 2</b> 3 faces" in page
    assert "7 faces in 8 photographs: 2 groups of 6 faces, 1 face alone" in page


def test_more_photographs_join_and_names_stay(run, party, photograph, tmp_path, monkeypatch):
    out = tmp_path / "groups"
    later = tmp_path / "later"
    shutil.move(party / "day 1" / "noon", later)
    run("cluster", party, "--out", out, *AT)
    assert grouping(out) == {1: ["a0.jpg", "a1.jpg"], 0: ["b0.jpg", "c0.jpg"]}
    give_names(out, {1: "Ada"})
    cv2.imwrite(str(later / "c1.jpg"), photograph([(9, 1, 60, 40, 160)], 320, 240)[..., ::-1])

    embedded = []
    whole = cluster_folder.embed_photographs

    def counting(paths, *arguments, **options):
        embedded.extend(paths)
        return whole(paths, *arguments, **options)

    monkeypatch.setattr(cluster_folder, "embed_photographs", counting)
    status, text, _ = run("cluster", party, later, "--out", out, *AT)
    assert (status, "; 3 new photographs" in text) == (0, True)
    assert sorted(Path(path).name for path in embedded) == ["ab.jpg", "b1.jpg", "c1.jpg"]
    assert grouping(out) == {
        1: ["a0.jpg", "a1.jpg", "ab.jpg"],
        2: ["ab.jpg", "b0.jpg", "b1.jpg"],
        3: ["c0.jpg", "c1.jpg"],
    }
    assert {row["name"] for row in rows(out / "faces.csv") if row["group"] == "1"} == {"Ada"}
    # Nothing new: nothing is embedded, nothing moves, and a lost list of groups comes back with its names.
    before = (out / "faces.csv").read_bytes(), (out / "groups.csv").read_bytes()
    (out / "groups.csv").unlink()
    status, text, _ = run("cluster", party, "--out", out, *AT)
    assert (status, "; 0 new photographs" in text) == (0, True)
    assert len(embedded) == 3
    assert before == ((out / "faces.csv").read_bytes(), (out / "groups.csv").read_bytes())
    # Two groups of one name are one person.
    give_names(out, {2: "Ben", 3: "Ben"})
    run("cluster", party, "--out", out, *AT, "--folders")
    assert grouping(out)[2] == ["ab.jpg", "b0.jpg", "b1.jpg", "c0.jpg", "c1.jpg"]
    assert 3 not in grouping(out)
    assert {path.name for path in (out / "people").iterdir()} == {"Ada", "Ben"}
    # Groups without a name are dissolved on request; a new group never takes the number of an old one.
    give_names(out, {1: ""})
    status, _, err = run("cluster", party, "--out", out, "--threshold", "0.5")
    assert (status, "threshold is 0.5, that of" in err, "--regroup" in err) == (2, True, True)
    assert run("cluster", party, "--out", out, "--threshold", "0.3", "--regroup")[0] == 0
    found = grouping(out)
    assert found[2] == ["ab.jpg", "b0.jpg", "b1.jpg", "c0.jpg", "c1.jpg"]
    assert found[4] == ["a0.jpg", "a1.jpg", "ab.jpg"]


def test_a_changed_photograph_is_a_new_one(run, party, photograph, tmp_path):
    out = tmp_path / "groups"
    run("cluster", party, "--out", out, *AT)
    cv2.imwrite(str(party / "a0.jpg"), photograph([(9, 1, 60, 40, 161)], 320, 240)[..., ::-1])
    _, text, _ = run("cluster", party, "--out", out, *AT)
    assert "; 1 new photograph" in text
    assert grouping(out) == {1: ["a1.jpg", "ab.jpg"], 2: ["ab.jpg", "b0.jpg", "b1.jpg"], 3: ["a0.jpg", "c0.jpg"]}


def test_one_person_at_most_once_in_a_picture(run, party, photograph, tmp_path):
    cv2.imwrite(str(party / "twin.jpg"), photograph([(0, 3, 0, 20, 130), (0, 4, 170, 40, 140)], 320, 240)[..., ::-1])
    for words, expected in (((), 2), (("--once-a-picture",), 1)):
        out = tmp_path / f"groups{expected}"
        assert run("cluster", party, "--out", out, *AT, *words)[0] == 0
        assert max(names.count("twin.jpg") for group, names in grouping(out).items() if group) == expected
        assert sum(names.count("twin.jpg") for names in grouping(out).values()) == 2


def test_known_names_and_thresholds_of_the_calibration(run, album, tmp_path):
    status, text, _ = run("cluster", album, "--out", tmp_path / "g", "--names", "folders", "--fmr", "1e-4", "--json")
    found = json.loads(text)
    assert (status, found["fmr"]) == (0, 1e-4)
    # Counted again from the list; the largest face of two.jpg is somebody else's.
    faces = rows(tmp_path / "g" / "faces.csv")
    largest = {}
    for face in faces:
        area = (float(face["right"]) - float(face["left"])) * (float(face["bottom"]) - float(face["top"]))
        if area > largest.get(face["photograph"], (0,))[0]:
            largest[face["photograph"]] = area, face["group"]
    shown = [(group, str(Path(name).parent)) for name, (_, group) in largest.items()]
    pairs = [(one, other) for k, one in enumerate(shown) for other in shown[:k]]
    grouped = [pair for pair in pairs if pair[0][0] == pair[1][0] != ""]
    right = sum(one[1] == other[1] for one, other in grouped)
    genuine = sum(one[1] == other[1] for one, other in pairs)
    counted = {"right": right, "grouped": len(grouped), "genuine": genuine}
    counted |= {"precision": right / len(grouped), "recall": right / genuine}
    assert found["agreement"] == counted
    assert counted["precision"] > 0.8
    status, text, _ = run("cluster", album, "--out", tmp_path / "g", "--names", "folders", "--fmr", "1e-4")
    assert f"Pairwise precision {100 * counted['precision']:.2f} % ({right} of {len(grouped)} pairs" in text
    assert run("cluster", album, "--out", tmp_path / "g", "--fmr", "1e-9")[0] == 2


def test_a_calibration_of_ones_own(run, album, tmp_path):
    rng = np.random.default_rng(0)
    calibrator = Calibrator.fit(rng.normal(0.6, 0.1, 100), rng.normal(0.1, 0.1, 10_000))
    pipeline = FacePipeline.from_pretrained("sface", "whole")
    calibrator.save(tmp_path / "own.json", pipeline.contract_digest)
    words = ("--detector", "whole", "--calibration", tmp_path / "own.json", "--fmr", "1e-2", "--json")
    status, text, err = run("cluster", album / "person0", "--out", tmp_path / "g", *words)
    assert status == 0, err
    assert json.loads(text)["threshold"] == calibrator.threshold(1e-2).threshold


def test_embeddings_made_elsewhere(run, party, album, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names in the file are relative
    listed = sorted(str(path) for path in Path("party").rglob("[abcn]*.jpg") if not path.name.startswith("."))
    (tmp_path / "list.txt").write_text("\n".join(listed))
    for number in (1, 2):
        words = ("--shard", f"{number}/2", "--face", "all", "--out", tmp_path / "e.npz")
        assert run("embed", "list.txt", *words)[0] == 0
    assert run("embed", "--merge", *tmp_path.glob("e.shard*"), "--out", tmp_path / "e.npz")[0] == 0
    out, directly = tmp_path / "by file", tmp_path / "directly"
    _, text, _ = run("cluster", tmp_path / "e.npz", "--out", out, *AT)
    assert "; 8 new photographs" in text
    run("cluster", party, "--out", directly, *AT)
    assert grouping(out) == grouping(directly)
    _, text, _ = run("cluster", tmp_path / "e.npz", party, "--out", out, *AT)
    assert "; 0 new photographs" in text
    # Records are found by the place where they are.
    run("align", album, tmp_path / "rec", "--format", "recordio")
    words = ("--detector", "whole", "--out", tmp_path / "crops", "--threshold", "0.4", "--names", "folders")
    status, text, _ = run("cluster", tmp_path / "rec", *words)
    assert (status, "17 faces in 17 photographs" in text) == (0, True)
    assert "precision 100.00 %" in text
    assert "; 0 new photographs" in run("cluster", tmp_path / "rec", *words)[1]
    status, _, err = run("cluster", tmp_path / "e.npz", *words)
    assert (status, "was made by another pipeline (detector" in err) == (2, True)


def test_bad_input(run, party, tmp_path):
    def refused(*words):
        status, _, err = run("cluster", *words)
        assert (status, "Traceback" in err) == (2, False)
        return err

    out = tmp_path / "groups"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "contains other files, but no faces.npz" in refused(party, "--out", tmp_path / "mine", *AT)
    assert "a file is in the way" in refused(party, "--out", tmp_path / "mine" / "thesis.tex", *AT)
    assert "expected a cosine above 0" in refused(party, "--out", out, "--threshold", "-0.2")
    assert "no calibration for this pipeline" in refused(party, "--out", out, "--detector", "whole")
    (tmp_path / "mine" / "nobody.jpg").write_bytes((party / "nobody.jpg").read_bytes())
    assert "none of the 1 photographs has a face" in refused(tmp_path / "mine", "--out", out, *AT)
    assert run("cluster", party, "--out", out, *AT)[0] == 0
    assert "belongs to another pipeline (flip" not in refused(party, "--out", out, *AT, "--max-side", "320")
    assert "belongs to another pipeline (face is" in refused(party, "--out", out, *AT, "--face", "largest")
    assert "once is true, that of" in refused(party, "--out", out, *AT, "--once-a-picture")
    for name, message in (
        ("a/b", "the name is 'a/b'"),
        ("..", "the name is '..'"),
        ("12", "the name is '12'"),
        (" x", "the name is ' x'"),
    ):
        give_names(out, {1: name})
        assert f"groups.csv, line 2: {message}" in refused(party, "--out", out, *AT)
    (out / "groups.csv").write_text("group,name\n77,Eve\n")
    assert "line 2: there is no group '77'" in refused(party, "--out", out, *AT)
    (out / "groups.csv").write_text("number;who\n")
    assert "expected group, name, faces, photographs" in refused(party, "--out", out, *AT)
    (out / "groups.csv").unlink()
    (out / "faces.npz").write_bytes((out / "faces.npz").read_bytes()[:-500])
    assert "faces.npz is damaged" in refused(party, "--out", out, *AT)


def test_a_name_that_a_spreadsheet_would_run(run, party, tmp_path):
    run("cluster", party, "--out", tmp_path / "g", *AT)
    give_names(tmp_path / "g", {1: "=1+1"})
    for _ in range(2):
        assert run("cluster", party, "--out", tmp_path / "g", *AT, "--folders")[0] == 0
    assert rows(tmp_path / "g" / "groups.csv")[0]["name"] == "'=1+1"
    assert (tmp_path / "g" / "people" / "=1+1" / "a0.jpg").is_file()
