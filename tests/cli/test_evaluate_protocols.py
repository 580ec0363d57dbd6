"""`coreface evaluate`, `calibrate` and `compare` on sets and protocols, as a user types them; bad input in one line."""

import csv
import itertools
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.cli import main
from coreface.data.ijb import read_images
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.metrics import kfold_accuracy
from coreface.images.alignment import align


@pytest.fixture(scope="module")
def place(tmp_path_factory, paint_faces, toy_backbone):
    """Two encoders, faces, pairs in three formats, labels."""
    import torch

    folder = tmp_path_factory.mktemp("place")
    paint_faces(folder / "faces", identities=12, images=5, size=16)
    paint_faces(folder / "strangers", identities=15, images=1, size=16, seed=7)
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        cf.FaceEncoder(toy_backbone, 8, 16).save_pretrained(folder / name)
    generator = np.random.default_rng(0)
    rows, images, answers = [], [], []
    drawn = set()
    while len(rows) < 120:
        index = len(rows)
        person, image = generator.integers(0, 12), generator.choice(5, 2, replace=False)
        other = person if index % 2 == 0 else (person + generator.integers(1, 12)) % 12
        paths = [f"person{person:02d}/{image[0]}.png", f"person{other:02d}/{image[1]}.png"]
        if frozenset(paths) in drawn:
            continue
        drawn.add(frozenset(paths))
        rows.append([*paths, int(index % 2 == 0)])
        images += [(folder / "faces" / path).read_bytes() for path in paths]
        answers.append(index % 2 == 0)
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path1", "path2", "same"], *rows])
    (folder / "pairs.bin").write_bytes(pickle.dumps((images, answers)))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["identity", "half"], *([f"person{p:02d}", "xy"[p % 2]] for p in range(12))])
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Run a command in the place; return (exit code, standard output, standard error)."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")

    def call(words):
        code = main(words.split())
        out, err = capsys.readouterr()
        return code, out, err

    return call


def embeddings_of(place, name="a"):
    faces = cf.data.open_faces(place / "faces")
    encoder = cf.FaceEncoder.from_pretrained(place / name)
    return encoder.embed([faces[i][0] for i in range(len(faces))]), faces


def test_pairs_in_every_format_give_the_same(place, run):
    code, out, err = run("evaluate a --pairs pairs.bin --pairs pairs.csv:faces --replicates 20 --json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)["sets"]
    assert first["accuracy"] == second["accuracy"]
    assert first["eer"] == second["eer"]
    embeddings, faces = embeddings_of(place)
    row = {faces.locate(i).split("/")[-2] + "/" + faces.locate(i).split("/")[-1]: i for i in range(len(faces))}
    with (place / "pairs.csv").open() as file:
        listed = list(csv.DictReader(file))
    scores = [embeddings[row[pair["path1"]]] @ embeddings[row[pair["path2"]]] for pair in listed]
    expected = kfold_accuracy(np.array(scores), [int(pair["same"]) for pair in listed])
    assert second["accuracy"]["accuracy"] == pytest.approx(expected.accuracy)
    assert second["accuracy"]["wrong"] == list(expected.wrong)
    assert (second["identities"], second["failures"]) == (12, 0)
    assert json.loads(out)["encoder"] == json.loads(run("evaluate a --faces faces --replicates 0 --json")[1])["encoder"]


def test_tables_and_the_page(place, run):
    words = "evaluate a --pairs pairs.csv:faces --faces faces --protocol open-set:faces --distractors strangers"
    code, out, _ = run(f"{words} --groups labels.csv --replicates 20 --report page.html")
    assert code == 0
    for text in ("accuracy", "TPIR at FPIR 0.1", "rank 1 among 10 distractors", "by group", "± "):
        assert text in " ".join(out.split())
    page = (place / "page.html").read_text()
    for text in ("Accuracy", ">DET<", ">CMC<", "FNIR and FPIR", "By group", "Wanted FMR", "person00/", "Rule of 3"):
        assert text in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert str(place) not in page
    again = run(f"{words} --groups labels.csv --replicates 20 --report again.html")
    assert again[0] == 0
    assert (place / "again.html").read_text() == page


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "words",
    [
        "evaluate a --pairs pairs.csv:faces --faces faces --protocol open-set:faces --groups labels.csv",
        "calibrate a --faces faces --gallery 11",
        "compare a b --pairs pairs.csv:faces --faces faces --replicates 20",
        "backbones",
    ],
)
def test_no_cell_wraps(run, monkeypatch, words, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = run(words)
    assert code == 0
    lines = out.splitlines()
    rules = [number for number, line in enumerate(lines) if set(line) == {"-", " "}]
    assert rules
    for rule in rules:
        columns = [match.span() for match in re.finditer("-+", lines[rule])]
        assert columns[-1][1] <= width
        for line in (lines[rule - 1], lines[rule + 1]):  # every cell lies in its column, between them is nothing
            assert len(line) <= columns[-1][1]
            assert not any(line[one[1] : other[0]].strip() for one, other in itertools.pairwise(columns))


def test_open_set_as_json(run):
    code, out, _ = run("evaluate a --protocol open-set:faces --json")
    (found,) = json.loads(out)["identification"]
    assert code == 0
    assert found["galleries"] == [4, 4]
    rate = found["open_set"][0]
    assert rate["tpir"] == pytest.approx(np.mean([one["tpir"] for one in rate["galleries"]]))
    assert all(one["fpir"] <= 0.1 for one in rate["galleries"])
    assert run("evaluate a --protocol open-set:faces --json --seed 1")[1] != out


def test_embeddings_of_another_library(place, run):
    embeddings, faces = embeddings_of(place)
    names = [faces.locate(i) for i in range(len(faces))]
    np.savez(place / "named.npz", embeddings=3 * embeddings, names=names)
    own = json.loads(run("evaluate a --pairs pairs.csv:faces --faces faces --replicates 0 --json")[1])
    code, out, _ = run("evaluate --embeddings named.npz --pairs pairs.csv:faces --faces faces --replicates 0 --json")
    assert code == 0
    theirs = json.loads(out)
    assert theirs["encoder"] is None
    for one, other in zip(own["sets"], theirs["sets"], strict=True):
        assert one["eer"]["eer"] == other["eer"]["eer"]
    with (place / "pairs.csv").open() as file:
        order = [row[name] for row in csv.DictReader(file) for name in ("path1", "path2")]
    index = {"/".join(name.split("/")[-2:]): row for row, name in enumerate(names)}
    np.savez(place / "ordered.npz", embeddings=embeddings[[index[path] for path in order]])
    for pairs in ("pairs.bin", "pairs.csv:faces"):
        out = run(f"evaluate --embeddings ordered.npz --pairs {pairs} --replicates 0 --json")[1]
        assert json.loads(out)["sets"][0]["accuracy"]["folds"] == own["sets"][0]["accuracy"]["folds"]
    np.savez(
        place / "people.npz", embeddings=embeddings, identities=[faces.identity_names[i] for i in faces.identities]
    )
    out = run("evaluate --embeddings people.npz --replicates 0 --json")[1]
    assert json.loads(out)["sets"][0]["eer"]["eer"] == own["sets"][1]["eer"]["eer"]


def test_embeddings_are_kept(place, run, monkeypatch):
    run("evaluate a --pairs pairs.bin --replicates 0 --cache kept --json")
    assert list((place / "kept").glob("*/*.safetensors"))
    first = run("evaluate a --pairs pairs.bin --replicates 0 --cache kept --json")[1]
    monkeypatch.setattr(cf.FaceEncoder, "embed", lambda *_, **__: pytest.fail("embedded again"))
    assert run("evaluate a --pairs pairs.bin --replicates 0 --cache kept --json")[1] == first
    with pytest.raises(pytest.fail.Exception):
        run("evaluate a --pairs pairs.bin --replicates 0 --no-cache --json")


def test_calibrate_keeps_thresholds_beside_the_encoder(place, run):
    code, out, _ = run("calibrate a --faces faces --gallery 11")
    assert code == 0
    assert "calibration: a/calibration.json" in out
    shown = json.loads(run("calibrate a --show --gallery 11 --json")[1])
    evaluated = json.loads(run("evaluate a --faces faces --replicates 0 --json")[1])
    for at, rate in zip(shown["verification"], evaluated["tar"], strict=False):
        assert at["threshold"] == rate["threshold"]
        assert at["fmr_low"] <= at["fmr"] <= at["fmr_high"]
    assert shown["galleries"]["11"][0]["method"] in ("searches", "independence")
    loaded = Calibrator.load(place / "a", shown["encoder"])
    assert loaded.gallery == 11
    # The encoder itself is untouched, and another one refuses the file.
    cf.FaceEncoder.from_pretrained(place / "a")
    (place / "b" / "calibration.json").write_bytes((place / "a" / "calibration.json").read_bytes())
    code, out, err = run("calibrate b --show")
    (place / "b" / "calibration.json").unlink()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "belongs to another encoder" in err


def test_compare_is_paired(place, run):
    code, out, _ = run("compare a b --pairs pairs.csv:faces --faces faces --replicates 60 --json")
    assert code == 0
    pairs, faces = json.loads(out)["sets"]
    for name in ("a", "b"):
        own = json.loads(run(f"evaluate {name} --pairs pairs.csv:faces --replicates 0 --json")[1])["sets"][0]
        assert pairs["rates"]["accuracy"][name] == own["accuracy"]["accuracy"]
        assert pairs["rates"]["EER"][name] == own["eer"]["eer"]
    for rate in (*pairs["rates"].values(), *faces["rates"].values()):
        assert rate["difference"] == pytest.approx(rate["a"] - rate["b"])
        assert rate["interval"]["low"] <= rate["interval"]["high"]
        assert 0 < rate["p_value"] <= 1
    same = json.loads(run("compare a a --pairs pairs.bin --replicates 20 --json")[1])["sets"][0]["rates"]
    assert {rate["p_value"] for rate in same.values()} == {1.0}
    assert "A - B" in run("compare a b --pairs pairs.bin --replicates 20")[1]


def test_a_handful_of_people_has_no_intervals(run, place, tmp_path):
    for person in ("person00", "person01"):
        shutil.copytree(place / "faces" / person, tmp_path / "few" / person)
    code, out, _ = run(f"evaluate a --faces {tmp_path / 'few'}")
    assert code == 0
    assert "Intervals: none, 2 people are too few to resample" in out
    assert " to " not in out.replace("too few to resample", "")
    code, _, err = run(f"compare a b --faces {tmp_path / 'few'}")
    assert code == 2
    assert "2 people are too few" in err


def test_people_that_were_trained_on_are_noticed(run, place, tmp_path):
    run_folder = tmp_path / "run"
    shutil.copytree(place / "a", run_folder / "encoder")
    (run_folder / "identities.json").write_text(json.dumps(["person00", "person03", "somebody"]))
    for command in ("evaluate {} --replicates 0", "evaluate {} --groups labels.csv --replicates 0", "calibrate {}"):
        code, _, err = run(f"{command.format(run_folder)} --faces faces")
        assert code == 0
        assert "warning: 2 of the 12 people in faces have the names of people" in err
    assert "warning" not in run(f"evaluate {place / 'a'} --faces faces --replicates 0")[2]


@pytest.mark.parametrize(
    ("words", "place_named"),
    [
        ("evaluate RUN --protocol open-set:faces", "faces"),
        ("evaluate RUN --pairs pairs.csv:faces --replicates 0", "pairs.csv:faces"),
        ("evaluate RUN/encoder --faces faces --replicates 0", "faces"),  # the encoder of a run is that run's
        ("compare a RUN --faces faces --replicates 5", "faces"),
        ("compare RUN a --faces faces --replicates 5", "faces"),
        ("compare RUN a --pairs pairs.csv:faces --replicates 5", "pairs.csv:faces"),
    ],
)
def test_people_that_were_trained_on_are_noticed_once_wherever_they_are(run, place, tmp_path, words, place_named):
    run_folder = tmp_path / "run"
    shutil.copytree(place / "a", run_folder / "encoder")
    (run_folder / "identities.json").write_text(json.dumps(["person00", "person03", "somebody"]))
    code, _, err = run(words.replace("RUN", str(run_folder)))
    assert code == 0
    assert err.count("warning: ") == 1
    assert f"warning: 2 of the 12 people in {place_named} have the names of people" in err


def test_distractors_that_were_trained_on_are_noticed(run, place, tmp_path):
    shutil.copytree(place / "a", tmp_path / "run" / "encoder")
    (tmp_path / "run" / "identities.json").write_text(json.dumps(["person12"]))  # one of the strangers alone
    code, _, err = run(f"evaluate {tmp_path / 'run'} --protocol open-set:faces --distractors strangers")
    assert code == 0
    assert "warning: 1 of the 15 people in strangers have the names" in err
    assert err.count("warning: ") == 1


def test_one_fold_has_no_accuracy_and_says_so(run, place):
    with (place / "pairs.csv").open() as file:
        rows = [[row["path1"], row["path2"], row["same"], "7"] for row in csv.DictReader(file)]
    with (place / "one_fold.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path1", "path2", "same", "fold"], *rows])
    said = "accuracy: not computed, because all pairs are in one fold"
    code, out, _ = run("evaluate a --pairs one_fold.csv:faces --replicates 0")
    assert code == 0
    assert said in out
    assert not any(line.startswith("accuracy ") for line in out.splitlines())
    (found,) = json.loads(run("evaluate a --pairs one_fold.csv:faces --replicates 0 --json")[1])["sets"]
    assert found["accuracy"] is None
    assert found["notes"][0].startswith(said)
    assert "120 pairs in one fold, so no accuracy is computed" in found["statement"]
    assert said in run("compare a b --pairs one_fold.csv:faces --replicates 5")[1]
    assert said not in run("evaluate a --pairs pairs.csv:faces --replicates 0")[1]


@pytest.fixture
def ijb(place, tmp_path):
    """A small IJB-C: faces in loose crops, some turned; one image is missing from its folder."""
    generator = np.random.default_rng(3)
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    points = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
    lines, places = [], []
    for index in range(30):
        face = cv2.imread(str(place / "faces" / f"person{index // 5:02d}" / f"{index % 5}.png"))
        cv2.imwrite(str(tmp_path / "loose_crop" / f"{index}.png"), cv2.resize(face, (112, 112)))
        lines.append(f"{index}.png {' '.join(f'{v:.2f}' for v in points.ravel())} {generator.uniform(0.5, 1):.3f}")
        places.append(f"{index}.png {100 + index // 2} {index // 3}")
    for index in (28, 29):
        (tmp_path / "loose_crop" / f"{index}.png").unlink()  # template 114 fails to enrol
    pairs = [f"{100 + a} {100 + b} {int(a * 2 // 5 == b * 2 // 5)}" for a in range(15) for b in range(a)]
    for name, content in (("name_5pts_score", lines), ("face_tid_mid", places), ("template_pair_label", pairs)):
        (tmp_path / "meta" / f"ijbc_{name}.txt").write_text("\n".join(content) + "\n")
    return tmp_path


def test_templates_from_the_official_lists(ijb, run):
    code, out, err = run(f"evaluate a --protocol ijbc:{ijb} --replicates 20 --json")
    (found,) = json.loads(out)["sets"]
    assert code == 0
    assert err.count("not embedded") == 2
    assert found["genuine"] + found["impostor"] == 105
    assert found["failures"] == 14  # its pairs stay in the denominator
    assert "N1D1F1" in found["statement"]
    assert "1 templates failed to enrol" in found["statement"]
    assert "N1D1F0" in run(f"evaluate a --protocol ijbc:{ijb} --replicates 0 --no-flip --json")[1]


@pytest.fixture
def ijb_searches(ijb):
    """Its 1:N lists: persons 0 to 2 in one gallery, 3 and 4 in the other, 5 in none; a line for every image."""
    subject_of = {100 + index: index * 2 // 5 for index in range(15)}
    enrolled = {subject: min(t for t, s in subject_of.items() if s == subject) for subject in range(5)}
    lists = {
        "gallery_G1": [enrolled[s] for s in (0, 1, 2)],
        "gallery_G2": [enrolled[s] for s in (3, 4)],
        "probe_mixed": [t for t in subject_of if t not in enrolled.values()],
    }
    for name, templates in lists.items():
        lines = [f"{t},{subject_of[t]},img/{k}.png,{k}" for t in templates for k in (0, 1)]
        (ijb / "meta" / f"ijbc_1N_{name}.csv").write_text(
            "TEMPLATE_ID,SUBJECT_ID,FILENAME,X\n" + "\n".join(lines) + "\n"
        )
    return ijb, subject_of, lists


def test_searches_from_the_official_lists(ijb_searches, place, run):
    folder, subject_of, lists = ijb_searches
    code, out, _ = run(f"evaluate a --protocol ijbc-1n:{folder} --json")
    (found,) = json.loads(out)["identification"]
    assert code == 0
    assert "10 probe templates searched in two galleries of 3 and 2" in found["statement"]
    # By hand: template by template, from the lists of images.
    protocol = read_images(folder, "ijbc")
    encoder = cf.FaceEncoder.from_pretrained(place / "a")
    vectors = {}
    for template in subject_of:
        total = np.zeros(encoder.embedding_size)
        rows = [i for i in np.flatnonzero(protocol.templates == template) if i < 28]  # 28 and 29 are missing
        for medium in {protocol.media[i] for i in rows}:
            of_medium = [i for i in rows if protocol.media[i] == medium]
            frames = [encoder.embed([protocol.image(i)], unit=False)[0] * protocol.detection[i] for i in of_medium]
            total += np.mean(frames, axis=0)
        vectors[template] = total / np.linalg.norm(total) if total.any() else None
    rates = []
    for number, gallery in enumerate(("gallery_G1", "gallery_G2")):
        people = {subject_of[template] for template in lists[gallery]}
        mated = [probe for probe in lists["probe_mixed"] if subject_of[probe] in people]
        hits = 0
        for probe in mated:
            if vectors[probe] is not None:
                best = max(lists[gallery], key=lambda t, p=probe: float(vectors[p] @ vectors[t]))
                hits += subject_of[best] == subject_of[probe]
        rates.append(hits / len(mated))
        searched = found["open_set"][0]["galleries"][number]
        assert (searched["mated"], searched["non_mated"]) == (len(mated), 10 - len(mated))
    assert found["closed_set"]["1"] == pytest.approx(np.mean(rates))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "nobody,3\n", "'nobody,3', expected template,subject"),
        (lambda text: text + "102,9\n", "template 102 belongs to subject 0"),
        (lambda text: text.splitlines()[0] + "\n", "is empty"),
        (lambda text: text + "777,5\n", "template 777"),
    ],
)
def test_search_lists_that_do_not_fit(ijb_searches, run, change, message):
    path = ijb_searches[0] / "meta" / "ijbc_1N_probe_mixed.csv"
    path.write_text(change(path.read_text()))
    code, out, err = run(f"evaluate a --protocol ijbc-1n:{ijb_searches[0]}")
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_faces_are_cut_out_where_the_landmarks_lie(ijb):
    protocol = read_images(ijb, "ijbc")
    straight = protocol.image(0)
    angle, scale = np.deg2rad(25), 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.c_[turn, [60, 20]]
    photograph = cv2.warpAffine(straight, matrix, (320, 320), flags=cv2.INTER_CUBIC)
    moved = protocol.landmarks[0] @ turn.T + [60, 20]
    back = align(photograph, moved)
    assert np.abs(back[20:90, 20:90].astype(int) - straight[20:90, 20:90]).mean() < 3
    assert protocol.content(0) != protocol.content(1)


def test_failed_detections_are_images_that_could_not_be_embedded(ijb, run):
    path = ijb / "meta" / "ijbc_name_5pts_score.txt"
    lines = [line.split() for line in path.read_text().splitlines()]
    lines[2][-1] = "-1"
    lines[4][-1] = "0"
    lines[6][1:11] = ["-1"] * 10
    left, right = lines[8][1:3], lines[8][3:5]
    lines[8][1:11] = [*right, *left, *lines[8][5:7], *lines[8][9:11], *lines[8][7:9]]
    path.write_text("".join(" ".join(words) + "\n" for words in lines))
    code, _, err = run(f"evaluate a --protocol ijbc:{ijb} --replicates 0 --json")
    assert code == 0
    named = [line for line in err.splitlines() if "not embedded" in line]
    assert len(named) == 6  # two files are missing
    for image, reason in ((2, "score is -1"), (4, "score is 0"), (6, "one point"), (8, "left and right are exchanged")):
        assert sum(reason in line and f"{lines[image][0]}:" in line for line in named) == 1


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ijbc_face_tid_mid.txt", lambda text: text.replace("3.png", "4.png", 1), "differ at line 4"),
        ("ijbc_face_tid_mid.txt", lambda text: text.replace("100 0", "100", 1), "line 1: 2 words, expected an image"),
        ("ijbc_template_pair_label.txt", lambda text: text.replace("101 100 1", "101 100 7"), "line 1: label 7"),
        ("ijbc_template_pair_label.txt", lambda text: text + "100 999 0\n", "template 999"),
        ("ijbc_name_5pts_score.txt", lambda text: text.replace("38.30", "nan", 1), "line 1: a number is not finite"),
        ("ijbc_name_5pts_score.txt", lambda text: "", "is empty"),
    ],
)
def test_lists_that_do_not_fit(ijb, run, file, change, message):
    path = ijb / "meta" / file
    path.write_text(change(path.read_text()))
    code, out, err = run(f"evaluate a --protocol ijbc:{ijb} --replicates 0")
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_bad_input_is_one_line(place, run):
    embeddings, faces = embeddings_of(place)
    names = [faces.locate(i) for i in range(len(faces))]
    broken = embeddings.copy()
    broken[3, 2] = np.nan
    files = {
        "nan": {"embeddings": broken, "names": names},
        "constant": {"embeddings": np.ones_like(embeddings), "names": names},
        "short": {"embeddings": embeddings[:-1]},
        "none": {"names": names},
        "flat": {"embeddings": embeddings.ravel()},
        "lengths": {"embeddings": embeddings, "names": names[:-1]},
        "strangers": {"embeddings": embeddings, "names": [f"x/{i}" for i in range(len(names))]},
        "alone": {"embeddings": embeddings},
        "code": {"embeddings": np.array([print], dtype=object)},
    }
    for name, arrays in files.items():
        np.savez(place / f"{name}.npz", **arrays)
    with (place / "pairs.csv").open() as file:
        text = file.read()
    (place / "missing.csv").write_text(text.replace("person03/1.png", "person03/99.png"))
    (place / "genuine.csv").write_text("\n".join(line for line in text.splitlines() if not line.endswith("0")) + "\n")
    cases = {
        "evaluate a --pairs missing.csv:faces": "99.png",
        "evaluate a --pairs genuine.csv:faces": "pairs are genuine",
        "evaluate --embeddings nan.npz --faces faces": "NaN or infinite",
        "evaluate --embeddings constant.npz --faces faces": "are the same",
        "evaluate --embeddings constant.npz --pairs pairs.csv:faces": "are the same",
        "evaluate --embeddings short.npz --pairs pairs.csv:faces": "59 embeddings and no names, the set needs 240",
        "evaluate --embeddings short.npz --faces faces": "the set needs 60",
        "evaluate --embeddings none.npz --faces faces": "expected embeddings",
        "evaluate --embeddings flat.npz --faces faces": "expected floats (N, D)",
        "evaluate --embeddings lengths.npz --faces faces": "names have shape (59,)",
        "evaluate --embeddings strangers.npz --faces faces": "of none of the images",
        "evaluate --embeddings alone.npz": "has no identities",
        "evaluate --embeddings code.npz": "cannot be read",
        "evaluate --embeddings pairs.csv": "cannot be read",
        "evaluate --embeddings gone.npz": "does not exist",
        "evaluate": "expected one of MODEL and --embeddings",
        "evaluate a --embeddings nan.npz": "expected one of MODEL and --embeddings",
        "evaluate a --protocol megaface:faces": "expected open-set:FOLDER",
        "evaluate a --protocol open-set:": "expected open-set:FOLDER",
        "evaluate a --protocol open-set:gone": "no such folder",
        "evaluate a --protocol ijbb:faces": "cannot be read",
        "evaluate a --pairs gone.bin": "no such file",
        "evaluate a --pairs pairs.bin --groups gone.csv": "does not exist",
        "evaluate a --pairs pairs.bin --groups labels.csv": "groups need the names of the people",
        "evaluate a --faces faces --groups labels.csv --group-column age": "expected age among them",
        "evaluate a --faces faces --group-column age": "goes with --groups",
        "evaluate a --faces faces --distractors strangers": "is an option of --protocol",
        "evaluate a --pairs pairs.bin --replicates -1": "--replicates is -1",
        "calibrate b --show": "make it with coreface calibrate",
        "calibrate a --faces gone": "no such folder",
        "calibrate a --faces faces --gallery 0": "expected 1 or more people",
        "compare a gone --faces faces": "does not exist",
        "compare a b --faces faces --replicates 0": "--replicates is 0",
        "compare a strangers.npz --faces faces": "of none of the images",
    }
    for words, message in cases.items():
        code, out, err = run(words)
        assert (code, out) == (2, ""), words
        assert message in err, (words, err)
        assert err.count("\n") == 1, (words, err)
        assert err.startswith("coreface: ")


def test_a_damaged_image_of_a_set_counts_against_it(place, run):
    images, answers = pickle.loads((place / "pairs.bin").read_bytes())
    images[0] = images[0][:-20]
    (place / "damaged.bin").write_bytes(pickle.dumps((images, answers)))
    code, out, err = run("evaluate a --pairs damaged.bin --replicates 0 --json")
    (found,) = json.loads(out)["sets"]
    assert code == 0
    assert found["failures"] == 1
    assert found["genuine"] + found["impostor"] == 120
    assert err.count("\n") == 1
    assert "damaged.bin, image 0" in err


@pytest.mark.skipif("COREFACE_SHARED" not in os.environ, reason="needs the folder that COREFACE_SHARED names")
def test_the_held_out_people_of_orl_as_pairs(place, run):
    shared = Path(os.environ["COREFACE_SHARED"]) / "fixtures" / "orl_heldout.bin"
    code, out, _ = run(f"evaluate a --pairs {shared} --replicates 50 --json")
    (found,) = json.loads(out)["sets"]
    assert code == 0
    assert len(found["accuracy"]["folds"]) == 10
    assert 0.5 < found["accuracy"]["accuracy"] < 1
