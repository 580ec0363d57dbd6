"""Runs through the public API: train, then evaluate."""

import io
import json
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import coreface as cf
from coreface.files import unescaped, write_atomically
from coreface.runs.folder import environment

REPLICATES = 20


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def recipe(toy_recipe):
    return cf.Recipe.load(toy_recipe, ["--optimizer.epochs", "1"])


@pytest.fixture(scope="module")
def finished(toy_recipe, tmp_path_factory):
    """A finished run of both stages. Read-only."""
    return cf.train(toy_recipe, tmp_path_factory.mktemp("runs") / "toy", console=Console(file=io.StringIO()))


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_a_run_folder_holds_all_that_was_promised(finished):
    names = {path.name for path in finished.folder.iterdir()} - {"tensorboard"}
    files = {"recipe.yaml", "environment.json", "identities.json", "samples.png", "metrics.jsonl", "report.html"}
    assert names == {*files, "encoder", "checkpoints"}
    assert (finished.folder / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (finished.folder / "report.html").read_text(encoding="utf-8").lower()


def test_the_recipe_in_the_run_is_the_one_that_ran(finished, toy_recipe):
    assert cf.Recipe.load(finished.folder / "recipe.yaml") == cf.Recipe.load(toy_recipe)


def test_what_is_returned_is_what_is_saved(finished, toy_folder):
    assert not finished.encoder.training
    loaded = cf.FaceEncoder.from_pretrained(finished.folder / "encoder")
    image = cf.load_image(toy_folder / "person00" / "0.png")
    np.testing.assert_array_equal(loaded.embed(image), finished.encoder.embed(image))


def test_the_evaluation_is_of_the_people_held_out(finished):
    verification = finished.evaluation.verification
    assert (verification.identities, verification.images) == (2, 12)
    assert (verification.genuine, verification.impostor) == (2 * 15, 36)
    names = set(finished.evaluation.faces.identity_names)
    assert len(names) == 2
    trained = cf.data.split_by_identity(finished.evaluation.faces.origin, 2)[0]
    assert names.isdisjoint(trained.identity_names)


def test_metrics_of_every_epoch(finished):
    rows = [strict(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if row["kind"] == "evaluation"]
    assert [(row["epoch"], row["step"]) for row in measured] == [(1, 2), (2, 4)]
    assert set(measured[0]) == {
        *("kind", "step", "epoch", "eer", "genuine", "impostor"),
        *("tar_at_far_0.1", "tar_at_far_0.01", "tar_at_far_0.001"),
    }
    assert measured[0]["tar_at_far_0.001"] is None  # 36 impostors do not resolve it
    assert measured[1]["eer"] == finished.evaluation.verification.eer.eer
    assert [row["step"] for row in rows if row["kind"] == "step"] == [1, 2, 3, 4]


def test_the_environment_names_versions_and_no_place_of_this_machine(finished):
    text = (finished.folder / "environment.json").read_text(encoding="utf-8")
    values = strict(text)
    assert values["coreface"] == cf.__version__
    assert values["torch"] == torch.__version__
    assert values["python"] == platform.python_version()
    for place in (str(Path.home()), str(Path.cwd()), sys.prefix, platform.node(), str(finished.folder)):
        assert place not in text
    assert not re.search(r"[\"\s]/\w", text)


def test_the_environment_is_plain():
    assert strict(json.dumps(environment())) == environment()


# The folder


def test_a_run_is_not_overwritten_unasked(finished, recipe):
    before = (finished.folder / "metrics.jsonl").read_bytes()
    with pytest.raises(cf.RunError, match="already contains a run"):
        cf.train(recipe, finished.folder)
    assert (finished.folder / "metrics.jsonl").read_bytes() == before


@pytest.fixture
def old(tmp_path):
    """What an earlier run may have left."""
    folder = tmp_path / "runs" / "old"
    (folder / "encoder").mkdir(parents=True)
    for name in ("recipe.yaml", "environment.json", "metrics.jsonl", "unreadable.txt", "encoder/model.safetensors"):
        (folder / name).write_text("old")
    return folder


def test_overwriting_replaces_everything(old, recipe, screen):
    cf.train(recipe, old, overwrite=True, console=screen)
    assert not (old / "unreadable.txt").exists()
    assert "old" not in (old / "metrics.jsonl").read_text()
    assert cf.Recipe.load(old / "recipe.yaml") == recipe


def test_overwriting_through_a_link_keeps_the_link(old, recipe, screen, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old)
    (old / "precious").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("mine")
    cf.train(recipe, link, overwrite=True, console=screen)
    assert link.is_symlink()
    assert not (old / "precious").exists()
    assert (tmp_path / "elsewhere" / "file").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "files", [["photo.jpg"], ["recipe.yaml", "photo.jpg"], ["environment.json"], ["failures"], ["launchers.json"]]
)
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, recipe, overwrite, files):
    """A recipe.yaml alone does not make a run: people keep their recipe beside their photographs."""
    for name in files:
        (tmp_path / name).write_text("mine")
    with pytest.raises(cf.RunError, match="is not a run"):
        cf.train(recipe, tmp_path, overwrite=overwrite)
    assert {path.name for path in tmp_path.iterdir()} == set(files)


def test_a_folder_of_somebodys_failures_is_never_touched(tmp_path, recipe):
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / "rank_0.attempt_0.txt").write_text("what a process leaves that dies before its run begins")
    (tmp_path / "failures" / "photo.jpg").write_text("mine")
    with pytest.raises(cf.RunError, match="is not a run"):
        cf.train(recipe, tmp_path)
    (tmp_path / "failures" / "photo.jpg").unlink()
    assert cf.train(recipe, tmp_path).evaluation is not None


@pytest.mark.parametrize("last", ["environment.json", "identities.json", "recipe.yaml"])
def test_a_run_that_was_killed_while_it_began_is_begun_anew(tmp_path, recipe, monkeypatch, last):
    class Killed(BaseException):
        pass

    write = write_atomically

    def write_until(path, content):
        if path.name == last:
            path.with_name(f".{last}.1.2.tmp").write_bytes(content[:5])  # as a killed process leaves it
            raise Killed
        write(path, content)

    with monkeypatch.context() as patch:
        for place in ("coreface.runs.folder", "coreface.data.labels"):
            patch.setattr(f"{place}.write_atomically", write_until)
        with pytest.raises(Killed):
            cf.train(recipe, tmp_path / "run")
    assert list((tmp_path / "run").iterdir())
    assert cf.train(recipe, tmp_path / "run").evaluation is not None
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_the_folder(tmp_path, recipe, overwrite):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(cf.RunError, match="is not a run"):
        cf.train(recipe, tmp_path / "run", overwrite=overwrite)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_file_in_the_way_of_the_folder(tmp_path, recipe):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(cf.RunError, match="cannot be written"):
        cf.train(recipe, tmp_path / "file" / "run")


def test_an_empty_folder_is_taken(tmp_path, recipe, screen):
    (tmp_path / "empty").mkdir()
    assert cf.train(recipe, tmp_path / "empty", console=screen).folder == tmp_path / "empty"


BAD = {
    "model.backbone": "mobilfacenet",
    "data.train": "missing",
    "data.holdout": "6",
    "data.holdout_fold": "9",
    "evaluation.faces": "missing",
    "optimizer.batch_size": "1000",
    "device": "cuda:99",
    "classifier.margin.margin": "7",
}


@pytest.mark.parametrize(("field", "value"), BAD.items())
def test_a_run_that_cannot_start_leaves_nothing_and_destroys_nothing(toy_recipe, old, tmp_path, field, value):
    recipe = cf.Recipe.load(toy_recipe, [f"--{field}", value])
    with pytest.raises(cf.CoreFaceError):
        cf.train(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(cf.CoreFaceError):
        cf.train(recipe, old, overwrite=True)
    assert (old / "encoder" / "model.safetensors").read_text() == "old"


# People and images that do not do


def test_oddities_of_the_faces_are_counted_and_listed(paint_faces, recipe, tmp_path, screen):
    folder = paint_faces(tmp_path / "faces")
    for image in list((folder / "person03").iterdir())[1:]:
        image.unlink()
    (folder / "person04" / "1.png").write_bytes(b"not an image")
    (folder / "readme.txt").write_text("stray")
    run = cf.train(cf.Recipe.load(_write(tmp_path, folder, holdout=0)), tmp_path / "run", console=screen)
    said, notices = screen.file.getvalue(), (run.folder / "notices.txt").read_text()
    assert "warning: 1 identity has a single image" in said
    assert "warning: 1 stray file: not an image, or not in the folder of an identity" in said
    assert "1 unreadable image left out" in said
    assert "person03" in notices
    assert "readme.txt" in notices
    assert "person04/1.png" in (run.folder / "unreadable.txt").read_text()
    assert run.evaluation is None
    assert "nobody is held out" in said
    assert (run.folder / "encoder" / "model.safetensors").exists()
    assert not (run.folder / "report.html").exists()


def _write(folder, faces, **data):
    sections = {
        "model": {"backbone": "toy", "embedding_size": 16},
        "data": {"train": str(faces), "image_size": 16, "workers": 0, **data},
        "optimizer": {"batch_size": 12, "epochs": 1},
        "precision": "float32",
        "device": "cpu",
    }
    path = folder / "recipe.json"  # JSON is YAML
    path.write_text(json.dumps(sections))
    return path


def test_notices_survive_a_hold_out(toy_recipe, paint_faces, tmp_path, screen):
    """What a storage says of itself is said of a selection of it as well."""
    faces = paint_faces(tmp_path / "faces")
    (faces / "root.jpg").write_bytes(b"x")
    (faces / "person01" / "desktop.ini").write_bytes(b"x")
    (faces / "empty").mkdir()
    recipe = cf.Recipe.load(toy_recipe, ["--data.train", str(faces), "--optimizer.epochs", "1"])
    assert recipe.data.holdout
    cf.train(recipe, tmp_path / "run", console=screen)
    noted = (tmp_path / "run" / "notices.txt").read_text().splitlines()
    assert "  root.jpg" in noted
    assert "  person01/desktop.ini" in noted
    assert "  empty" in noted


def test_names_that_are_no_utf8_train_to_the_end_and_resume(toy_recipe, paint_faces, tmp_path, screen):
    faces = paint_faces(tmp_path / "faces")
    latin = faces / os.fsdecode(b"M\xfcller")
    (faces / "person00").rename(latin)
    (faces / "person01").rename(faces / os.fsdecode(b"Jos\xe9"))
    (latin / "9.png").write_bytes(b"broken")
    (latin / "notes.txt").write_bytes(b"x")
    changes = {"data.train": faces, "data.max_unreadable": 1, "data.holdout": 0, "optimizer.epochs": 1}
    words = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    cf.train(cf.Recipe.load(toy_recipe, words), tmp_path / "run", console=screen)
    unreadable = (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert len(unreadable) == 1
    assert unescaped(unreadable[0]).startswith(f"'{latin / '9.png'}': ")
    assert r"  M\xfcller/notes.txt" in (tmp_path / "run" / "notices.txt").read_text(encoding="utf-8").splitlines()
    assert "M\udcfcller" in json.loads((tmp_path / "run" / "identities.json").read_text())
    cf.resume(tmp_path / "run", overrides=["--optimizer.epochs", "2"], force=True, console=screen)
    assert (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines() == unreadable


def test_faces_of_their_own_to_measure_on(paint_faces, toy_folder, tmp_path, screen):
    others = paint_faces(tmp_path / "others", identities=3, images=2, seed=9)
    recipe = cf.Recipe.load(_write(tmp_path, toy_folder), ["--evaluation.faces", str(others)])
    run = cf.train(recipe, tmp_path / "run", console=screen)
    assert "training toy on 6 identities, 36 images, 3 steps" in screen.file.getvalue()
    assert run.evaluation.verification.images == 6
    assert cf.evaluate(run.folder, replicates=0).verification.images == 6


def test_a_run_that_diverges_for_a_few_steps_goes_on_to_its_end_and_says_so(toy_recipe, tmp_path, screen):
    recipe = cf.Recipe.load(toy_recipe, ["--optimizer.lr", "1e30", "--optimizer.clip_norm", "null"])
    run = cf.train(recipe, tmp_path / "run", console=screen)
    assert run.evaluation is None
    assert not (tmp_path / "run" / "report.html").exists()
    rows = [strict(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["skipped"] for row in steps] == [0, 1, 2, 3]
    assert steps[-1]["loss"] is None
    (*_, measured) = (row for row in rows if row["kind"] == "evaluation")
    assert "finite" in measured["error"]
    assert rows[-1] == {"kind": "finished", "step": 4, "epoch": 2, "skipped": 3}
    assert "not measured" in screen.file.getvalue()


# Evaluate


def test_a_run_is_measured_on_whom_it_held_out(finished):
    again = cf.evaluate(finished.folder, replicates=REPLICATES)
    assert again.verification.eer == finished.evaluation.verification.eer
    assert again.verification.replicates == REPLICATES
    assert again.digest == finished.evaluation.digest
    np.testing.assert_array_equal(again.embedded.embeddings, finished.evaluation.embedded.embeddings)


def test_an_encoder_a_folder_a_source_and_a_path_measure_the_same(finished, toy_folder):
    folder = finished.folder / "encoder"
    measured = [
        cf.evaluate(finished.encoder, cf.data.open_faces(toy_folder), replicates=0),
        cf.evaluate(folder, toy_folder, replicates=0),
        cf.evaluate(str(folder), str(toy_folder), replicates=0),
        cf.evaluate(finished.folder, toy_folder, replicates=0),
    ]
    for one in measured:
        assert one.verification.images == 36
        assert one.to_dict() | {"name": ""} == measured[0].to_dict() | {"name": ""}


def test_the_numbers_are_those_of_the_embeddings(finished, toy_folder):
    """The whole way by hand: load, embed, compare every pair once."""
    faces = cf.data.open_faces(toy_folder)
    measured = cf.evaluate(finished.encoder, faces, replicates=0).verification
    embeddings = finished.encoder.embed([faces[i][0] for i in range(len(faces))])
    genuine, impostor = [], []
    for i in range(len(faces)):
        for j in range(i):
            (genuine if faces[i][1] == faces[j][1] else impostor).append(float(embeddings[i] @ embeddings[j]))
    assert (measured.genuine, measured.impostor) == (len(genuine), len(impostor))
    np.testing.assert_allclose(np.sort(measured.genuine_scores), np.sort(genuine), atol=1e-5)
    np.testing.assert_allclose(np.sort(measured.impostor_scores), np.sort(impostor), atol=1e-5)


def test_flip_is_said_and_done(finished):
    flipped, plain = (cf.evaluate(finished.folder, flip=flip, replicates=0) for flip in (True, False))
    assert (flipped.flip, plain.flip) == (True, False)
    assert not np.array_equal(flipped.embedded.embeddings, plain.embedded.embeddings)
    assert plain.to_dict()["flip"] is False


def test_evaluating_leaves_the_encoder_in_its_mode(finished, toy_folder):
    finished.encoder.train()
    try:
        cf.evaluate(finished.encoder, toy_folder, replicates=0)
        assert finished.encoder.training
    finally:
        finished.encoder.eval()


def test_an_evaluation_as_plain_values(finished):
    values = finished.evaluation.to_dict()
    assert strict(json.dumps(values, allow_nan=False)) == values
    assert values["encoder"] == finished.evaluation.digest
    assert values["unreadable"] == []
    assert {"eer", "tar", "genuine", "impostor", "identities", "images"} <= values.keys()
    assert {"tar", "threshold", "fmr", "genuine", "impostor"} <= values["tar"][0].keys()


def test_unreadable_images_are_in_no_pair(finished, paint_faces, tmp_path):
    folder = paint_faces(tmp_path / "faces", identities=3, images=3)
    (folder / "person01" / "1.png").write_bytes(b"not an image")
    evaluation = cf.evaluate(finished.encoder, folder, replicates=0)
    assert evaluation.verification.images == 8
    (message,) = evaluation.to_dict()["unreadable"]
    assert "person01/1.png" in message
    assert 4 not in evaluation.embedded.indices


def test_an_encoder_alone_does_not_say_whom_to_measure_on(finished):
    for model in (finished.encoder, finished.folder / "encoder"):
        with pytest.raises(cf.RunError, match="--faces"):
            cf.evaluate(model)


def test_a_run_that_held_nobody_out(toy_folder, tmp_path, screen):
    run = cf.train(cf.Recipe.load(_write(tmp_path, toy_folder)), tmp_path / "run", console=screen)
    with pytest.raises(cf.RunError, match="held nobody out"):
        cf.evaluate(run.folder)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_model_that_is_not_there(tmp_path, toy_folder, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(cf.ModelError, match=name):
        cf.evaluate(tmp_path / name, toy_folder)


def test_one_person_cannot_be_measured(finished, paint_faces, tmp_path):
    folder = paint_faces(tmp_path / "one", identities=1)
    with pytest.raises(cf.DataError, match="evaluation needs at least 2 identities"):
        cf.evaluate(finished.encoder, folder)


def test_people_of_one_image_each_cannot_be_measured(finished, paint_faces, tmp_path):
    with pytest.raises(cf.EvaluationError, match="genuine"):
        cf.evaluate(finished.encoder, paint_faces(tmp_path / "singles", images=1))


@pytest.mark.parametrize(("value", "said"), [(0.0, "the same"), (float("nan"), "finite"), (float("inf"), "finite")])
def test_useless_embeddings_are_explained_and_not_scored(toy_backbone, toy_folder, value, said):
    encoder = cf.FaceEncoder(toy_backbone, 16, 16)
    with torch.no_grad():
        encoder.backbone.embedding_linear.weight.fill_(value)
        encoder.backbone.embedding_norm.bias.fill_(1.0)
    with pytest.raises(cf.EvaluationError, match=said) as raised:
        cf.evaluate(encoder, toy_folder)
    assert "\n" not in str(raised.value)


def test_all_zero_embeddings_are_explained(toy_backbone, toy_folder):
    encoder = cf.FaceEncoder(toy_backbone, 16, 16)
    with torch.no_grad():
        encoder.backbone.embedding_norm.weight.zero_()
    with pytest.raises(cf.EvaluationError, match="zero"):
        cf.evaluate(encoder, toy_folder)


def test_labels_that_do_not_fit_the_weights():
    classify = cf.MarginClassifier(cf.ArcFace(), 8, 5)
    for identities in ([0, 5], [-1, 2]):
        with pytest.raises(cf.InputError, match=r"expected 0 to 4: there are 5 centres") as raised:
            classify(torch.randn(2, 8), torch.tensor(identities))
        assert isinstance(raised.value, cf.CoreFaceError)
