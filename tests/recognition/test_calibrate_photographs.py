"""`coreface calibrate --photos`: a pipeline calibrated on raw photographs, and decisions that rest on it."""

import json

import cv2
import numpy as np
import pytest

from coreface.cli import main
from coreface.evaluation.calibration import Calibrator
from coreface.recognition.pipeline import FacePipeline


@pytest.fixture(scope="module")
def people(photograph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for person in range(12):
        (folder / f"p{person:02}").mkdir()
        for image in range(3):
            picture = photograph([(person, image, 60, 40, 160)], 300, 240)
            cv2.imwrite(str(folder / f"p{person:02}" / f"{image}.png"), picture[..., ::-1])
    cv2.imwrite(str(folder / "p00" / "nobody.png"), photograph([], 300, 240))
    return folder


@pytest.fixture(scope="module")
def calibration(people, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "mine.json"
    assert main(["calibrate", "sface", "--photos", str(people), "--out", str(path)]) == 0
    return path


def test_it_is_that_of_the_photographs(people, calibration):
    pipeline = FacePipeline.from_pretrained("sface")
    calibrator = Calibrator.load(calibration, pipeline.contract_digest)
    paths = sorted(path for path in people.glob("*/*.png") if path.stem != "nobody")
    rows = pipeline.embed(paths).embeddings
    person = np.repeat(np.arange(12), 3)
    i, j = np.triu_indices(36, 1)
    scores = (rows @ rows.T)[i, j]
    same = person[i] == person[j]
    assert (calibrator.genuine.count, calibrator.impostor.count) == (36, 36 * 35 // 2 - 36)
    np.testing.assert_allclose(calibrator.impostor.scores, np.sort(scores[~same])[::-1], atol=1e-5)
    about = json.loads(calibration.read_text())["about"]
    assert about["contract"] == pipeline.contract
    assert (about["people"], about["photographs"], about["left_out"]) == (12, 36, {"no face": 1})


def test_decisions_rest_on_it(run, people, calibration):
    words = ["--calibration", calibration, "--fmr", "0.05"]
    status, out, _ = run("verify", people / "p01" / "0.png", people / "p01" / "1.png", *words)
    assert (status, out.splitlines()[0]) == (0, "match")
    assert "95 % interval" in out
    status, out, _ = run("verify", people / "p01" / "0.png", people / "p02" / "1.png", *words)
    assert (status, out.splitlines()[0]) == (3, "no match")
    words[-1] = "0.01"  # 5 of 594 impostor pairs
    status, out, _ = run("verify", people / "p01" / "0.png", people / "p01" / "1.png", *words)
    assert (status, "treat it as rough" in out) == (0, True)
    words[-1] = "1e-3"
    status, out, _ = run("verify", people / "p01" / "0.png", people / "p01" / "1.png", *words)
    assert (status, "undecidable" in out) == (4, True)
    status, _, err = run("verify", people / "p01" / "0.png", people / "p01" / "1.png", *words, "--max-side", "320")
    assert (status, "belongs to another encoder or pipeline" in err) == (2, True)


def test_where_it_lies(run, people, tmp_path, toy_backbone):
    import coreface as cf

    encoder = cf.FaceEncoder(toy_backbone, 8, 16)
    encoder.save_pretrained(tmp_path / "run" / "encoder")
    status, _, err = run("calibrate", tmp_path / "run", "--photos", people)
    assert (status, "--alignment arcface" in err) == (2, True)
    status, out, err = run("calibrate", tmp_path / "run", "--photos", people, "--alignment", "arcface")
    assert status == 0
    assert "nobody.png: no face was found" in err
    assert (tmp_path / "run" / "encoder" / "calibration.json").is_file()
    assert f"calibration: {tmp_path / 'run' / 'encoder' / 'calibration.json'}" in out
    status, shown, _ = run("calibrate", tmp_path / "run", "--show", "--alignment", "arcface")
    assert status == 0
    assert shown.splitlines()[:4] == out.splitlines()[:4]
    status, _, err = run("calibrate", "sface", "--photos", people)
    assert (status, "--out FILE" in err) == (2, True)
    assert run("calibrate", "sface", "--photos", people, "--faces", people)[0] == 2
    assert run("calibrate", "sface", "--photos", tmp_path / "none", "--out", tmp_path / "x.json")[0] == 2
