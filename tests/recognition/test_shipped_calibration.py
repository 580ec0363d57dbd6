"""The calibration that comes with sface and yunet: it belongs to them, says its limits, and holds what it says."""

import json
import re

import cv2
import numpy as np
import pytest

from coreface.cli import main
from coreface.recognition.calibration_files import SHIPPED
from coreface.recognition.pipeline import FacePipeline


@pytest.fixture(scope="module")
def pipeline():
    return FacePipeline.from_pretrained("sface")


def test_it_belongs_to_the_pipeline_that_a_stranger_gets(pipeline):
    assert pipeline.calibration is not None
    assert json.loads((SHIPPED / "sface_yunet.json").read_text())["about"]["contract"] == pipeline.contract
    assert FacePipeline.from_pretrained("sface", max_side=320).calibration is None


def test_what_it_rests_on(pipeline):
    assert pipeline.calibration.impostor.count > 4_000_000
    for fmr, threshold in ((1e-3, 0.357), (1e-4, 0.413), (1e-5, 0.466)):  # measured on the same people elsewhere
        at = pipeline.calibration.threshold(fmr)
        assert at.standing == "solid"
        assert at.threshold == pytest.approx(threshold, abs=0.01)
        assert at.fmr_low < fmr
        assert at.fmr_high > at.fmr
    assert pipeline.calibration.threshold(1e-6).standing == "marked"
    assert pipeline.calibration.threshold(1e-7).standing == "undecidable"
    assert pipeline.calibration.gallery_threshold(1000, 0.01).standing == "solid"


def test_it_says_its_people_and_its_limits_and_names_nobody():
    about = json.loads((SHIPPED / "sface_yunet.json").read_text())["about"]
    assert any("training data" in limit for limit in about["limits"])
    assert any("250 x 250" in limit for limit in about["limits"])
    for rate in about["cross_validation"]["rates"]:
        assert 0.5 * rate["target"] < rate["fmr"] < 1.5 * rate["target"]
    wrong = about["left_out"]["shows somebody else"]
    assert wrong
    assert all(re.fullmatch(r"p\d{3}/\d\d\.jpg", name) for name in wrong)


def test_a_stranger_gets_a_decision_in_one_command(photograph, tmp_path, capsys):
    for name, face in (("a", (13, 0)), ("b", (13, 3)), ("c", (17, 0))):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), photograph([(*face, 60, 40, 160)], 320, 240)[..., ::-1])
    assert main(["verify", str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("match\n")
    assert "false match rate 0.001, 95 % interval" in out
    assert main(["verify", str(tmp_path / "a.jpg"), str(tmp_path / "c.jpg")]) == 3
    assert main(["calibrate", "sface", "--show", "--gallery", "30"]) == 0


def test_real_strangers_and_people(shared, pipeline):
    """A few of the photographs it was made of: the rates are of the right size."""
    strangers = sorted((shared / "datasets" / "strangers").glob("*.jpg"))[:60]
    rows = pipeline.embed(strangers, on_error="record").embeddings
    scores = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    assert np.mean(scores >= pipeline.calibration.threshold(1e-2).threshold) < 0.03
    person = sorted((shared / "datasets" / "photos" / "p003").glob("*.jpg"))
    decisions = [pipeline.verify(person[0], other, fmr=1e-3).match for other in person[1:]]
    assert sum(decisions) >= 7
