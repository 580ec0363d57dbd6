"""How embeddings are made: exact unless asked otherwise, and no option that does nothing."""

import json

import pytest

import coreface as cf
from coreface.cli import main
from coreface.distributed import device
from support.encoders import stir_weights


@pytest.fixture(scope="module")
def saved(toy_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    stir_weights(cf.FaceEncoder(toy_backbone, 8, 16)).save_pretrained(folder)
    return folder


def evaluated(capsys, saved, toy_folder, *words):
    assert main(["evaluate", str(saved), "--faces", str(toy_folder), "--replicates", "0", "--json", *words]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_evaluation_is_exact_unless_asked(saved, toy_folder, tmp_path, capsys, monkeypatch):
    cache = ["--cache", str(tmp_path)]
    rounded, _ = evaluated(capsys, saved, toy_folder, "--precision", "bf16", *cache)
    exact, _ = evaluated(capsys, saved, toy_folder, "--batch-size", "7", *cache)
    assert rounded["embeddings"] == "image + mirror image, unit length, products in bf16"
    assert exact["embeddings"] == "image + mirror image, unit length"
    # Both went through one cache: neither took what the other had kept.
    again, _ = evaluated(capsys, saved, toy_folder, "--no-cache")
    thresholds = [found["sets"][0]["eer"]["threshold"] for found in (exact, again, rounded)]
    assert thresholds[0] == pytest.approx(thresholds[1], abs=1e-6)
    assert thresholds[2] != pytest.approx(thresholds[1], abs=1e-6)
    for units, chosen in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(device, "has_bf16_units", lambda device, units=units: units)
        found, error = evaluated(capsys, saved, toy_folder, "--precision", "auto", "--no-cache")
        assert f"precision auto is {chosen} here" in error
        assert found["embeddings"].endswith("bf16") == units


def test_auto_says_what_runs_it(saved, toy_folder, capsys):
    _, error = evaluated(capsys, saved, toy_folder, "--runtime", "auto")
    assert f"{saved} is run by torch" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "SAVED", "--faces", "FACES", "--preprocessing", "p.json"), "expected only with an .onnx file"),
        (("evaluate", "sface", "--faces", "FACES", "--precision", "bf16"), "expected float32 for what torch does not"),
        (
            ("evaluate", "SAVED", "--faces", "FACES", "--precision", "bf16", "--runtime", "opencv"),
            "expected float32 for what torch does not run",
        ),
        (("evaluate", "SAVED", "--faces", "FACES", "--threads", "0"), "threads is 0, expected at least 1"),
        (("evaluate", "SAVED", "--faces", "FACES", "--batch-size", "0", "--no-cache"), "batch_size is 0, expected"),
        (("evaluate", "sface", "--faces", "FACES", "--runtime", "torch"), "expected auto, onnxruntime or opencv"),
        (
            ("calibrate", "SAVED", "--photos", "FACES", "--alignment", "arcface", "--threads", "1"),
            "--threads does not go with photographs",
        ),
        (("evaluate", "--embeddings", "x.npz", "--threads", "1"), "--threads is given for embeddings made elsewhere"),
        (("calibrate", "sface"), "is calibrated on photographs, --photos FOLDER, or crops, --faces PATH"),
        (("calibrate", "sface", "--faces", "FACES"), "give the calibration file with --out FILE"),
    ],
)
def test_options_that_do_not_go_together(saved, toy_folder, capsys, words, message):
    stand_for = {"SAVED": str(saved), "FACES": str(toy_folder)}
    assert main([stand_for.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
