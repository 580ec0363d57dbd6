"""The command line: what a user types, what comes back, and one clear line for every bad input."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import coreface as cf
from coreface.cli import main

RECIPE = """
model: {backbone: iresnet18, embedding_size: 16}
data: {train: photos, image_size: 16, workers: 0, holdout: 2}
stages: [{views: 1}, {from_epoch: 3, views: 2, contrastive: {weight: 0.05}}]
optimizer: {batch_size: 8, epochs: 5, lr: 0.02}
evaluation: {every: 5}
"""


def paint(folder, people, images=4, seed=0):
    generator = np.random.default_rng(seed)
    for person in range(people):
        (folder / f"p{person}").mkdir(parents=True)
        face = cv2.resize(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8), (20, 20)).astype(int)
        for number in range(images):
            noisy = (face + generator.integers(-25, 25, face.shape)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"p{person}" / f"{number}.png"), noisy)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "photos", 8)
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def fails(capsys, *words):
    code = main(list(words))
    error = capsys.readouterr().err
    lines = error.strip().splitlines()
    assert code == 2, error
    assert lines[-1].startswith("coreface: ")
    assert "Traceback" not in error
    return lines


def test_train_evaluate_and_overwrite(place, capsys):
    (place / "photos" / "p0" / "9.png").write_bytes(b"no image")
    paint(place / "lonely", 1, images=1)
    (place / "lonely" / "p0").rename(place / "photos" / "single")
    assert main(["train", "r.yaml", "--data.holdout_seed", "null", "--data.holdout_fold", "2"]) == 0
    shown = capsys.readouterr()
    assert "a single image" in shown.err
    assert "1 unreadable images are left out" in shown.err
    assert "EER" in shown.out
    run = place / "runs" / "r"
    names = {entry.name for entry in run.iterdir()}
    assert {"recipe.yaml", "environment.json", "samples.png", "metrics.jsonl", "encoder", "report.html"} <= names
    assert "9.png" in (run / "unreadable.txt").read_text(encoding="utf-8")
    assert "single" in (run / "notices.txt").read_text(encoding="utf-8")

    assert main(["evaluate", "runs/r", "--json", "--replicates", "20"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["images"] == 8
    assert measured["genuine"] == 12
    assert measured["tar"][2]["resolvable"] is False
    assert main(["evaluate", "runs/r/encoder", "--faces", "photos", "--no-flip", "--report", "page.html"]) == 0
    assert "left out" in capsys.readouterr().err
    assert (place / "page.html").is_file()

    assert "holds a run already" in fails(capsys, "train", "r.yaml")[-1]
    assert main(["train", "r.yaml", "--overwrite", "--optimizer.epochs", "1"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["epoch"] for row in rows} == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.train", "nowhere"], "nowhere: no such folder"),
        (["--data.train", "one", "--data.holdout", "0"], "training needs at least 2 identities, got 1"),
        (["--model.backbone", "iresnet51"], "did you mean 'iresnet50'"),
        (["--optimizer.epoch", "3"], "did you mean optimizer.epochs?"),
        (["--optimizer.batch_size", "500"], "cannot fill one batch of 500"),
        (["--data.image_size", "20"], "data.image_size is 20, expected a multiple of 16"),
        (["--data.holdout", "8"], "leaves none to train on"),
        (["--device", "toaster"], "device 'toaster' is not there"),
        (["--run", "photos"], "photos exists and is no run"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(place, capsys, words, message):
    paint(place / "one", 1, seed=3, images=9)
    lines = fails(capsys, "train", "r.yaml", *words)
    assert message in lines[-1]
    assert not (place / "runs").exists()
    assert len(list((place / "photos").iterdir())) == 8


def test_a_recipe_with_a_class_path_imports_nothing(place, capsys):
    (place / "trap.py").write_text("open('sprung', 'w')", encoding="utf-8")
    (place / "bad.yaml").write_text(RECIPE + "evaluation2: {class_path: trap.Trap}\n", encoding="utf-8")
    fails(capsys, "train", "bad.yaml")
    (place / "bad.yaml").write_text(
        RECIPE.replace("{batch_size", "{class_path: trap.Trap, batch_size"), encoding="utf-8"
    )
    assert "names a class to import" in fails(capsys, "train", "bad.yaml")[-1]
    assert not (place / "sprung").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist: expected a run folder"),
        (["photos"], "photos holds no encoder"),
        (["saved"], "nobody is held out"),
        (["saved", "--faces", "nowhere"], "nowhere: no such folder"),
        (["saved", "--faces", "photos", "--replicates", "-1"], "--replicates is -1"),
    ],
)
def test_evaluate_with_bad_input(place, capsys, words, message):
    cf.FaceEncoder("iresnet18", 16, 16).save_pretrained(place / "saved")
    assert message in fails(capsys, "evaluate", *words)[-1]


def test_a_collapsed_encoder_is_explained_and_not_scored(place, capsys):
    encoder = cf.FaceEncoder("iresnet18", 16, 16)
    encoder.backbone.features.weight.data.zero_()
    encoder.backbone.features.bias.data.fill_(1.0)
    encoder.save_pretrained(place / "flat")
    assert "the encoder has collapsed" in fails(capsys, "evaluate", "flat", "--faces", "photos")[-1]


def test_labels_that_do_not_fit_the_weights():
    classify = cf.MarginClassifier(cf.ArcFace(), 4, 3)
    with pytest.raises(cf.InputError, match="got identities 0 to 3, expected 0 to 2"):
        classify(torch.zeros(2, 4), torch.tensor([0, 3]))


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_and_import_bring_no_torch():
    code = "import sys, coreface, coreface.cli\ntry: coreface.cli.main(['--help'])\nexcept SystemExit: pass\n"
    assert python(code + "print('torch' in sys.modules)").strip().endswith("False")


def test_every_public_name_is_there():
    for name in cf.__all__:
        assert getattr(cf, name) is not None
    assert set(cf.__all__) <= set(dir(cf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cf.nothing


def test_module_and_help(capsys):
    text = subprocess.run([sys.executable, "-m", "coreface", "backbones"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in text.stdout.splitlines()] == list(cf.backbones())
    assert main(["train", "--help"]) == 0
    assert "--optimizer.lr" in capsys.readouterr().out
