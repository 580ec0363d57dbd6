"""`coreface evaluate --quality`: which measures predict the errors of an encoder, on pictures made of the ORL faces."""

import json

import cv2
import numpy as np
import pytest

from coreface.errors import ModelError
from coreface.evaluation.embedding_sources import EncoderSource
from coreface.images.preprocessing import Preprocessing
from coreface.models.open import open_encoder
from coreface.recognition.detection import WholeImage
from coreface.recognition.pipeline import FacePipeline
from coreface.recognition.quality_evaluation import QualityOfPhotographs
from support.galleries import ToyEncoder


@pytest.fixture(scope="module")
def people(photograph, tmp_path_factory):
    """Ten people of three photographs, a third of them blurred, and one photograph of nobody."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(10):
        (folder / f"s{person}").mkdir()
        for image in range(3):
            picture = photograph([(person, image, 60 + 20 * image, 40, 160)], 320, 240)
            if image == 2:
                picture = cv2.GaussianBlur(picture, (0, 0), 4)
            cv2.imwrite(str(folder / f"s{person}" / f"{image}.png"), picture[..., ::-1])
    cv2.imwrite(str(folder / "s0" / "nobody.png"), photograph([], 320, 240))
    return folder


@pytest.fixture(scope="module")
def source():
    return EncoderSource("sface", open_encoder("sface"))


def test_it_measures_what_the_pipeline_measures(people, source):
    protocol = QualityOfPhotographs(people, replicates=20)
    faces = protocol.measure(source)
    assert len(faces.numbers) == 30
    (message,) = faces.unreadable.values()
    assert "nobody.png: no face was found" in message
    pipeline = FacePipeline(source.encoder, protocol.detector)
    for row in (0, 14, 29):
        path = protocol.faces.locate(faces.numbers[row])
        (expected,) = pipeline.quality(path)
        found = faces.qualities[row].to_dict()
        assert found.pop("length") == pytest.approx(expected.length, rel=1e-3)
        assert found == {name: value for name, value in expected.to_dict().items() if name != "length"}
        unit = faces.embeddings[row] / np.linalg.norm(faces.embeddings[row])
        np.testing.assert_allclose(unit, pipeline.embed([path]).embeddings[0], atol=1e-5)
    result = protocol.evaluate(source)
    assert result.quality.genuine == 30
    assert {"eyes", "sharpness", "exposure", "contrast", "yaw", "pitch", "roll", "score", "residual", "length"} == (
        set(result.quality.curves) - {"combination"}
    )
    assert result.unreadable == (message,)


def test_the_command_prints_a_table_a_page_and_json(people, run, tmp_path):
    page = tmp_path / "page.html"
    chosen = ("--quality", people, "--replicates", 10, "--cache", tmp_path / "cache")
    status, out, err = run("evaluate", "sface", *chosen, "--report", page)
    assert status == 0, err
    assert "30 genuine pairs" in out
    for name in ("eyes", "sharpness", "length", "combination"):
        assert name in out
        assert f"<h3>{name}</h3>" in page.read_text()
    assert "nobody.png" in err
    status, out, _ = run("evaluate", "sface", *chosen, "--json")
    plain = json.loads(out)
    assert status == 0
    assert len(plain["curves"]["sharpness"]["fnmr"]) == 41
    assert [entry["name"] for entry in plain["quality"]] == [str(people)]


def test_embeddings_made_elsewhere_are_found_by_name(people, run, tmp_path):
    names = [f"s{person}/{image}.png" for person in range(10) for image in range(3)]
    rows = np.random.default_rng(0).normal(size=(30, 8)) + 3 * np.repeat(np.eye(10, 8), 3, axis=0)
    np.savez(tmp_path / "e.npz", embeddings=rows, names=names)
    status, out, err = run("evaluate", "--embeddings", tmp_path / "e.npz", "--quality", people, "--replicates", 0)
    assert status == 0, err
    assert "length" in out  # these are not of unit length
    np.savez(tmp_path / "u.npz", embeddings=rows / np.linalg.norm(rows, axis=1, keepdims=True), names=names)
    _, out, _ = run("evaluate", "--embeddings", tmp_path / "u.npz", "--quality", people, "--replicates", 0)
    assert "length" not in out


def test_crops_are_measured_without_landmarks(people, source):
    result = QualityOfPhotographs(people, detector=WholeImage(), replicates=0).evaluate(source)
    assert set(result.quality.curves) == {"sharpness", "exposure", "contrast", "length", "combination"}


def test_what_is_refused(people, run):
    status, _, err = run("evaluate", "sface", "--alignment", "arcface")
    assert (status, "--alignment goes with --quality PHOTOS" in err) == (2, True)
    status, _, err = run("evaluate", "sface", "--quality", people / "missing")
    assert (status, "missing" in err) == (2, True)
    status, _, err = run("evaluate", "sface", "--quality", people, "--groups", "x.csv")
    assert (status, "--groups is an option of" in err) == (2, True)


def test_an_encoder_of_unknown_alignment_needs_it_said(people):
    class Unknown(ToyEncoder):
        @property
        def preprocessing(self):
            return Preprocessing(self.image_size)

    unknown = EncoderSource("toy", Unknown())
    assert not unknown.encoder.preprocessing.alignment.known
    with pytest.raises(ModelError, match="--alignment arcface"):
        QualityOfPhotographs(people, replicates=0).measure(unknown)
    assert len(QualityOfPhotographs(people, alignment="arcface").measure(unknown).numbers) == 30
