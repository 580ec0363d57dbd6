"""`coreface align`, `faces`, `verify` and `embed` as a user types them, on pictures made of the ORL faces."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.data import open_faces
from coreface.images.alignment import Alignment, align
from coreface.recognition.align_folder import align_folder, harmless
from coreface.recognition.pipeline import FacePipeline


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_photographs_become_crops(run, album, tmp_path):
    status, out, _ = run("align", album, tmp_path / "aligned")
    assert status == 0
    assert "17 crops of 20 photographs" in out
    assert "without a crop: 3 (" in out
    source = open_faces(tmp_path / "aligned")
    assert source.identity_names == tuple(f"person{k}" for k in range(5))
    assert source.alignment == Alignment("arcface", "black")
    assert [notice.message for notice in source.notices()] == []
    names = {path.name for path in (tmp_path / "aligned" / "person0").iterdir()}
    assert names == {"0.jpg.jpg", "0.png.jpg", "1.jpg", "2.jpg"}  # two photographs of one name
    pipeline = FacePipeline.from_pretrained("sface")
    image = cf.load_image(album / "person2" / "1.jpg")
    crop = align(image, pipeline.detector.detect(image)[0].landmarks)
    stored = cf.load_image(tmp_path / "aligned" / "person2" / "1.jpg")
    assert np.abs(crop.astype(int) - stored).mean() < 2
    with (tmp_path / "aligned" / "rejects.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["photograph"]: row["reason"] for row in csv.DictReader(file)}
    assert rows == {
        "person1/=1+1.jpg": "no face",
        "person3/clip.jpg": "unreadable",
        "person4/far.jpg": "small face",
    }
    described = json.loads((tmp_path / "aligned" / "alignment.json").read_text())
    assert described["detector"]["name"] == "yunet"
    assert (described["size"], described["face"]) == (112, "largest")
    assert cf.load_image(tmp_path / "aligned" / "samples.png").shape[1] == 8 * 112


def test_the_number_of_workers_changes_nothing(run, album, tmp_path):
    for workers in (1, 2):
        status, _, _ = run("align", album, tmp_path / str(workers), "--workers", workers, "--face", "all")
        assert status == 0
    one = content(tmp_path / "1")
    assert one == content(tmp_path / "2")
    assert "person2/two_1.jpg" in one


def test_no_cell_is_a_formula():
    for cell in ("=1+1", "+1", "-1", "@sum", "\tx", " =1"):
        assert harmless(cell) == f"'{cell}"
    assert harmless("person/1.jpg") == "person/1.jpg"


@pytest.mark.parametrize(("storage", "kind"), [("recordio", "RecordSource"), ("shards", "ShardSource")])
def test_other_storages(run, album, tmp_path, storage, kind):
    target = tmp_path / "stored"
    assert run("align", album, target, "--format", storage, "--size", "48", "--border", "replicate")[0] == 0
    source = open_faces(target)
    assert type(source).__name__ == kind
    assert len(source) == 17
    assert source[0][0].shape == (48, 48, 3)
    assert source.alignment == Alignment("arcface", "replicate")
    assert source.identity_names == tuple(f"person{k}" for k in range(5))
    assert (target / "rejects.csv").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]
    status, _, err = run("align", album, target, "--format", storage)
    assert (status, "exists already" in err) == (2, True)


def test_only_what_is_new_or_changed_is_done_again(run, album, photograph, tmp_path):
    import shutil

    mine, target = tmp_path / "album", tmp_path / "aligned"
    shutil.copytree(album, mine)
    run("align", mine, target, "--format", "png")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.png") if path.name != "samples.png"}
    _, out, _ = run("align", mine, target, "--format", "png")
    assert "20 photographs, 20 of them done before" in out
    cv2.imwrite(str(mine / "person1" / "9.jpg"), photograph([(1, 9, 60, 40, 160)], 320, 240)[..., ::-1])
    cv2.imwrite(str(mine / "person1" / "0.jpg"), photograph([(1, 8, 60, 40, 160)], 320, 240)[..., ::-1])
    (mine / "person1" / "1.jpg").unlink()
    (target / "person2" / "0.png").unlink()
    _, out, _ = run("align", mine, target, "--format", "png")
    assert "17 crops of 20 photographs, 17 of them done before" in out
    after = {path: path.stat().st_mtime_ns for path in target.rglob("*.png") if path.name != "samples.png"}
    changed = {
        str(path.relative_to(target)) for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    }
    assert changed == {"person1/0.png", "person1/1.png", "person1/9.png", "person2/0.png"}
    run("align", mine, tmp_path / "anew", "--format", "png")
    assert content(target) == content(tmp_path / "anew")


def test_what_has_no_face_any_more_loses_its_crop_even_after_a_kill(album, photograph, tmp_path, monkeypatch):
    people, made = tmp_path / "people", tmp_path / "made"
    (people / "person0").mkdir(parents=True)
    for image in range(2):
        (people / "person0" / f"{image}.jpg").write_bytes((album / "person0" / f"{image}.jpg").read_bytes())
    align_folder(people, made)
    assert (made / "person0" / "1.jpg").is_file()
    cv2.imwrite(str(people / "person0" / "1.jpg"), photograph([], 320, 240))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("coreface.recognition.align_folder._remove_stale", killed)
        with pytest.raises(KeyboardInterrupt):
            align_folder(people, made)
    assert align_folder(people, made).rejects == {"no face": 1}
    assert not (made / "person0" / "1.jpg").exists()
    assert len(open_faces(made)) == 1


def test_other_settings_and_other_folders_are_refused(run, album, tmp_path):
    target = tmp_path / "aligned"
    run("align", album, target)
    for words in (
        ["--size", "96"],
        ["--face", "only"],
        ["--format", "png"],
        ["--max-side", "320"],
        ["--min-eyes", "9"],
    ):
        status, _, err = run("align", album, target, *words)
        assert (status, "with other settings" in err) == (2, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "not made by coreface align" in run("align", album, tmp_path / "mine")[2]
    assert "a file is in the way" in run("align", album, tmp_path / "mine" / "thesis.tex")[2]
    assert run("align", tmp_path / "mine", tmp_path / "x")[0] == 2
    assert "no detector 'mtcnn'" in run("align", album, tmp_path / "y", "--detector", "mtcnn")[2]
    assert "workers is 0" in run("align", album, tmp_path / "z", "--workers", "0")[2]


def test_photographs_without_any_face(run, photograph, tmp_path):
    (tmp_path / "album" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "album" / "a" / "1.jpg"), photograph([], 320, 240))
    status, _, err = run("align", tmp_path / "album", tmp_path / "aligned")
    assert status == 2
    assert "none of the 1 photographs has a face that can be used (1 no face)" in err


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(album, tmp_path):
    many = tmp_path / "many"
    for person in range(40):
        (many / f"p{person:02}").mkdir(parents=True)
        for image in range(10):
            os.link(album / f"person{person % 5}" / f"{image % 3}.jpg", many / f"p{person:02}" / f"{image}.jpg")
    words = [sys.executable, "-m", "coreface", "align", str(many), str(tmp_path / "aligned"), "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    journal = tmp_path / "aligned" / ".aligned.jsonl"
    while process.poll() is None and (not journal.is_file() or journal.read_bytes().count(b"\n") < 60):
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = sum(line.startswith(b'{"name"') for line in journal.read_bytes().splitlines())
    assert 50 < done < 400
    with journal.open("ab") as file:
        file.write(b'{"name": "p39/9.jpg", "sta')
    finished = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"400 crops of 400 photographs, {done} of them done before" in finished.stdout
    assert len(list((tmp_path / "aligned").glob("p*/*.jpg"))) == 400
    # One line a photograph, in order, whatever happened before.
    lines = journal.read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines[1:]] == sorted(
        f"p{person:02}/{image}.jpg" for person in range(40) for image in range(10)
    )


def test_faces(run, album, tmp_path):
    status, out, _ = run("faces", album / "person2" / "two.jpg", "--draw", tmp_path / "drawn.png")
    assert status == 0
    assert "2 faces" in out
    drawn, plain = cf.load_image(tmp_path / "drawn.png"), cf.load_image(album / "person2" / "two.jpg")
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    status, out, _ = run("faces", album / "person0" / "0.jpg", album / "person1" / "=1+1.jpg", "--json")
    one, none = json.loads(out)
    assert (status, len(one["faces"]), none["faces"]) == (0, 1, [])
    assert np.shape(one["faces"][0]["landmarks"]) == (5, 2)
    assert one["faces"][0]["quality"]["eyes"] > 20
    assert run("faces", album / "person1" / "=1+1.jpg")[0] == 4
    status, _, err = run("faces", album / "person3" / "clip.jpg", album / "person0" / "0.jpg")
    assert status == 2
    assert "clip.jpg" in err
    assert run("faces", album / "person0" / "0.jpg", "--draw", tmp_path / "x.gif")[0] == 2
    assert run("faces", "a.jpg", "b.jpg", "--draw", tmp_path / "x.png")[0] == 2


def test_verify(run, album):
    a, b = album / "person0" / "0.jpg", album / "person0" / "1.jpg"
    other, nobody = album / "person3" / "0.jpg", album / "person1" / "=1+1.jpg"
    status, out, _ = run("verify", a, b, "--threshold", "0.36")
    assert (status, out.splitlines()[0]) == (0, "match")
    assert "its false match rate is unknown" in out
    status, out, _ = run("verify", a, other, "--threshold", "0.36", "--json")
    decision = json.loads(out)
    assert (status, decision["match"], decision["standing"]) == (3, False, "given")
    assert len(decision["faces"]) == 2
    status, out, err = run("verify", a, nobody, "--threshold", "0.36", "--json")
    assert (status, json.loads(out)["reason"]) == (4, "no face")
    assert "=1+1.jpg: no face was found" in err
    assert run("verify", a, album / "person3" / "clip.jpg", "--threshold", "0.36")[0] == 2
    assert run("verify", a, album / "none.jpg", "--threshold", "0.36")[0] == 2
    assert run("verify", a, b, "--threshold", "7")[0] == 2
    assert run("verify", a, b, "--model", "nobodys.onnx", "--threshold", "0.3")[0] == 2
    two = album / "person2" / "two.jpg"
    assert run("verify", a, two, "--threshold", "0.36", "--face", "only")[0] == 4


def test_embed(run, album, tmp_path):
    names = sorted(str(path) for path in album.glob("*/*"))
    status, out, _ = run("embed", album, "--out", tmp_path / "e.npz")
    assert status == 0
    assert "17 of 20 photographs embedded" in out
    with np.load(tmp_path / "e.npz") as found:
        assert found["names"].tolist() == names
        reasons = dict(zip(found["names"].tolist(), found["reasons"].tolist(), strict=True))
        assert found["identities"].tolist() == [Path(name).parent.name for name in names]
        assert json.loads(str(found["contract"])) == FacePipeline.from_pretrained("sface").contract
        embeddings = found["embeddings"]
    failed = {Path(name).name: reason for name, reason in reasons.items() if reason}
    assert failed.keys() == {"=1+1.jpg", "clip.jpg", "far.jpg"}
    assert (failed["=1+1.jpg"], failed["far.jpg"]) == ("no face", "small face")
    assert failed["clip.jpg"].startswith("unreadable")
    lengths = np.linalg.norm(embeddings, axis=1)
    np.testing.assert_allclose(lengths, [0.0 if reasons[name] else 1.0 for name in names], atol=1e-5)
    expected = FacePipeline.from_pretrained("sface").embed([names[5]]).embeddings[0]
    np.testing.assert_allclose(embeddings[5], expected, atol=1e-5)
    assert not (tmp_path / "e.npz.parts").exists()


def test_what_could_not_be_embedded_is_measured_as_that(run, album, tmp_path):
    run("embed", album, "--out", tmp_path / "e.npz")
    status, out, _ = run("evaluate", "--embeddings", tmp_path / "e.npz", "--json", "--replicates", "0")
    (found,) = json.loads(out)["sets"]
    assert (status, found["images"]) == (0, 17)
    status, out, err = run(
        "evaluate", "--embeddings", tmp_path / "e.npz", "--faces", album, "--json", "--replicates", "0"
    )
    assert (status, json.loads(out)["sets"][0]["images"]) == (0, 17)
    assert "far.jpg" in err


def test_embed_in_parts_is_resumable_and_the_same_for_any_number_of_workers(run, album, tmp_path, monkeypatch):
    listed = [f"{album.name}/person{k}/{i}.jpg" for k in (3, 1) for i in range(3)]
    (album.parent / "list.txt").write_text("\n".join(listed) + "\n")
    paths = [album / "person0", album.parent / "list.txt", album / "person2" / "1.jpg"]
    monkeypatch.setattr("coreface.recognition.embed_folder.PART", 3)
    assert run("embed", *paths, "--out", tmp_path / "whole.npz")[0] == 0

    from coreface.recognition.embed_parts import PartFolder

    wrote = []
    keep = PartFolder.keep

    def dying(folder, start, part):
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(start)
        keep(folder, start, part)

    with monkeypatch.context() as patch:
        patch.setattr(PartFolder, "keep", dying)
        assert run("embed", *paths, "--out", tmp_path / "again.npz")[0] == 130
    status, out, _ = run("embed", *paths, "--out", tmp_path / "again.npz")
    assert status == 0
    assert "6 of them done before" in out
    monkeypatch.undo()
    assert run("embed", *paths, "--out", tmp_path / "two.npz", "--workers", "2")[0] == 0
    with np.load(tmp_path / "whole.npz") as whole:
        assert whole["names"].tolist()[4:10] == [str(album.parent / name) for name in listed]
        assert "identities" not in whole
        for other in ("again", "two"):
            with np.load(tmp_path / f"{other}.npz") as found:
                for name in whole.files:
                    if name == "embeddings":
                        np.testing.assert_allclose(found[name], whole[name], atol=1e-5)
                    else:
                        np.testing.assert_array_equal(found[name], whole[name])


@pytest.mark.slow
def test_workers_import_what_registers_the_backbone(album, tmp_path):
    make = "import support.toy_network, coreface as cf\ncf.FaceEncoder('toy', 8, 16).save_pretrained('encoder')\n"
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    command = ["-m", "coreface", "embed", str(album / "person0"), "--model", "encoder", "--alignment", "arcface"]
    command += ["--out", "e.npz", "--workers", "2", "--import", "support.toy_network"]
    for words in (["-c", make], command):
        subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, check=True)
    with np.load(tmp_path / "e.npz") as found:
        assert found["embeddings"].shape == (4, 8)


def test_embed_takes_crops_as_they_are(run, album, tmp_path):
    run("align", album, tmp_path / "rec", "--format", "recordio")
    assert run("embed", tmp_path / "rec", "--out", tmp_path / "c.npz", "--detector", "whole")[0] == 0
    with np.load(tmp_path / "c.npz") as found:
        assert found["embeddings"].shape == (17, 128)
        assert found["identities"].tolist() == sorted(found["identities"].tolist())
    assert "ends in .npz" in run("embed", album, "--out", tmp_path / "e.txt")[2]
    assert run("embed", tmp_path / "none", "--out", tmp_path / "e.npz")[0] == 2


def test_parts_of_somebody_else_are_left_alone(run, album, tmp_path):
    (tmp_path / "e.npz.parts").mkdir()
    (tmp_path / "e.npz.parts" / "thesis.tex").write_text("precious")
    status, _, err = run("embed", album / "person0", "--out", tmp_path / "e.npz")
    assert (status, "contains other files" in err) == (2, True)
    assert (tmp_path / "e.npz.parts" / "thesis.tex").is_file()
