"""The pipeline: the same numbers as its parts one after the other, honest decisions, errors that name a photograph."""

import itertools

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.errors import FaceError, ImageError, InputError, ModelError
from coreface.evaluation.calibration import Calibrator
from coreface.images.alignment import Alignment, align
from coreface.recognition.crops import Cropper
from coreface.recognition.detection import WholeImage
from coreface.recognition.pipeline import FacePipeline


@pytest.fixture(scope="module")
def pipeline():
    return FacePipeline.from_pretrained("sface")


@pytest.fixture(scope="module")
def album(photograph, tmp_path_factory):
    """Photographs of persons 4 and 8, one of both, one of nobody, a broken one."""
    folder = tmp_path_factory.mktemp("album")
    pictures = {
        "a1": [(4, 0, 300, 150, 180)],
        "a2": [(4, 3, 100, 100, 260)],
        "b1": [(8, 1, 200, 60, 200)],
        "both": [(4, 5, 30, 150, 120), (8, 2, 300, 100, 300)],
        "nobody": [],
        "far": [(4, 0, 300, 200, 40)],
    }
    for name, faces in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), photograph(faces)[..., ::-1])
    (folder / "broken.png").write_bytes((folder / "a1.png").read_bytes()[:5000])
    (folder / "clip.jpg").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    return folder


def calibrated(pipeline, impostor):
    other = FacePipeline(pipeline.encoder, pipeline.detector)
    other.calibration = Calibrator.fit([0.8, 0.9], np.asarray(impostor, np.float32))
    return other


def test_it_is_its_parts_one_after_the_other(pipeline, album):
    images = [cf.load_image(album / f"{name}.png") for name in ("a1", "a2", "b1")]
    found = pipeline.embed([album / "a1.png", images[1], (album / "b1.png").read_bytes()])
    expected = []
    for image, face in zip(images, found.faces, strict=True):
        (only,) = pipeline.detector.detect(image)
        assert only.to_dict() == face.to_dict()
        crop = align(image, only.landmarks)
        total = sum(pipeline.encoder.embed([view], flip=False, unit=False)[0] for view in (crop, crop[:, ::-1]))
        expected.append(total / np.linalg.norm(total))
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
    assert found.indices.tolist() == [0, 1, 2]
    assert found.failures == {}
    same, other = found.embeddings[0] @ found.embeddings[1], found.embeddings[0] @ found.embeddings[2]
    assert same > 0.5 > 0.35 > other


def test_which_face_is_meant(pipeline, album):
    both = cf.load_image(album / "both.png")
    faces = pipeline.faces(album / "both.png")
    assert len(faces) == 2
    small, large = sorted(faces, key=lambda face: face.area)

    def chosen(face, **options):
        cropper = Cropper(pipeline.detector, pipeline.alignment, 112, face, **options)
        return [crop.face.to_dict() for crop in cropper.crops(both)]

    assert chosen("largest") == [large.to_dict()]
    assert chosen("centre") == [large.to_dict()]
    assert chosen("all") == [face.to_dict() for face in faces]
    with pytest.raises(FaceError, match="2 faces were found") as caught:
        chosen("only")
    assert caught.value.reason == "several faces"
    limit = (small.eye_distance + large.eye_distance) / 2
    assert chosen("all", min_eyes=limit) == [large.to_dict()]
    with pytest.raises(FaceError, match="pixels between the eyes") as caught:
        chosen("all", min_eyes=1000)
    assert caught.value.reason == "small face"
    with pytest.raises(InputError, match="'smallest'"):
        chosen("smallest")


def test_what_cannot_be_embedded_is_named(pipeline, album):
    names = ["a1.png", "nobody.png", "broken.png", "far.png", "clip.jpg", "missing.png", "b1.png"]
    found = pipeline.embed([album / name for name in names], on_error="record")
    assert found.indices.tolist() == [0, 6]
    assert sorted(found.failures) == [1, 2, 3, 4, 5]
    for index, error in found.failures.items():
        assert names[index] in str(error)
    assert [found.failures[k].reason for k in (1, 3)] == ["no face", "small face"]
    for index in (2, 4, 5):
        assert isinstance(found.failures[index], ImageError)
    with pytest.raises(FaceError, match=r"nobody\.png: no face was found"):
        pipeline.embed([album / "a1.png", album / "nobody.png"])
    with pytest.raises(ImageError, match="photograph 0"):
        pipeline.embed([b"nothing"])
    assert pipeline.embed([album / "nobody.png"], on_error="record").embeddings.shape == (0, 128)


def test_an_image_that_promises_80_megapixels_is_never_decoded(pipeline, tmp_path):
    header = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    path = tmp_path / "huge.png"
    path.write_bytes(header[:16] + (10_000).to_bytes(4, "big") + (8_000).to_bytes(4, "big") + header[24:])
    with pytest.raises(ImageError, match="10000 x 8000 pixels, expected at most"):
        pipeline.embed([path])


def test_decisions(pipeline, album):
    scores = np.linspace(-1, 0.499, 100_000)  # FMR 1e-3 lies at 0.4975
    faces = calibrated(pipeline, scores)
    one = faces.verify(album / "a1.png", album / "a2.png", fmr=1e-3)
    assert (one.match, one.standing) == (True, "solid")
    assert one.fmr <= 1e-3
    assert one.score >= one.threshold == pytest.approx(0.4975, abs=1e-3)
    other = faces.verify(album / "a1.png", album / "b1.png", fmr=1e-3)
    assert (other.match, other.threshold) == (False, one.threshold)
    assert [face.to_dict() for face in one.faces] == one.to_dict()["faces"]
    marked = faces.verify(album / "a1.png", album / "a2.png", fmr=1e-4)
    assert (marked.match, marked.standing) == (True, "marked")
    for fmr in (2e-5, 1e-9):
        none = faces.verify(album / "a1.png", album / "a2.png", fmr=fmr)
        assert (none.match, none.standing) == (None, "undecidable")
    given = faces.verify(album / "a1.png", album / "b1.png", threshold=one.score)
    assert (given.match, given.standing, given.fmr) == (False, "given", None)
    with pytest.raises(FaceError, match="nobody"):
        faces.verify(album / "a1.png", album / "nobody.png")
    with pytest.raises(InputError, match="threshold is 3"):
        faces.verify(album / "a1.png", album / "b1.png", threshold=3)
    with pytest.raises(InputError, match="verify compares single faces"):
        FacePipeline(pipeline.encoder, face="all").verify(album / "a1.png", album / "b1.png", threshold=0.3)


def test_without_a_calibration_it_says_how_to_make_one(pipeline, album):
    faces = FacePipeline(pipeline.encoder, pipeline.detector)
    with pytest.raises(ModelError, match="coreface calibrate MODEL --photos FOLDER"):
        faces.verify(album / "a1.png", album / "a2.png")


@pytest.fixture
def saved(tmp_path, toy_backbone):
    def save(alignment):
        encoder = cf.FaceEncoder(toy_backbone, 8, 16)
        encoder.alignment = alignment
        encoder.save_pretrained(tmp_path / "run" / "encoder")
        return tmp_path / "run"

    return save


def test_an_encoder_of_unknown_alignment_is_refused_unless_somebody_says_it(saved, album):
    run = saved(Alignment("unknown"))
    with pytest.raises(ModelError, match="--alignment arcface"):
        FacePipeline.from_pretrained(run)
    told = FacePipeline.from_pretrained(run, alignment="arcface")
    assert told.alignment == Alignment("arcface")
    assert told.embed([album / "a1.png"]).embeddings.shape == (1, 8)
    assert FacePipeline.from_pretrained(run, "whole").alignment == Alignment("unknown")
    with pytest.raises(InputError, match="the alignment is unknown"):
        FacePipeline.from_pretrained(run, alignment="unknown")


def test_a_pipeline_aligns_as_its_encoder_was_trained(saved, album):
    run = saved(Alignment("arcface", "replicate"))
    faces = FacePipeline.from_pretrained(run)
    (crop,) = faces.cropper.crops(image := cf.load_image(album / "a1.png"))
    assert (crop.image == align(image, crop.face.landmarks, 16, "arcface", "replicate")).all()
    assert faces.contract["alignment"] == {"template": "arcface", "border": "replicate", "size": 16}


def test_the_contract_names_all_that_decides_a_score(pipeline, saved):
    run = saved(Alignment("arcface"))
    made = [
        pipeline,
        FacePipeline(pipeline.encoder, flip=False),
        FacePipeline.from_pretrained("sface", max_side=320),
        FacePipeline.from_pretrained("sface", rotations=True),
        FacePipeline.from_pretrained("sface", WholeImage()),
        FacePipeline.from_pretrained(run),
    ]
    for one, other in itertools.combinations(made, 2):
        assert one.contract_digest != other.contract_digest
    assert FacePipeline.from_pretrained("sface").contract_digest == pipeline.contract_digest
    assert pipeline.contract["encoder"] == pipeline.encoder.digest


def test_a_calibration_belongs_to_a_contract(saved, album):
    run = saved(Alignment("arcface"))
    faces = FacePipeline.from_pretrained(run)
    calibrator = Calibrator.fit([0.9], np.linspace(-1, 0.3, 50_000))
    path = calibrator.save(run / "encoder", faces.contract_digest)
    again = FacePipeline.from_pretrained(run)
    assert again.verify(album / "a1.png", album / "a2.png").standing == "solid"
    assert FacePipeline.from_pretrained(run / "encoder").calibration is not None
    narrow = FacePipeline.from_pretrained(run, max_side=320)
    with pytest.raises(ModelError, match="belongs to another encoder or pipeline"):
        narrow.verify(album / "a1.png", album / "a2.png")
    with pytest.raises(ModelError, match="belongs to another"):
        FacePipeline.from_pretrained(run, max_side=320, calibration=path)
    kept = path.rename(run.parent / "mine.json")
    assert FacePipeline.from_pretrained(run).calibration is None
    assert FacePipeline.from_pretrained(run, calibration=kept).calibration is not None
