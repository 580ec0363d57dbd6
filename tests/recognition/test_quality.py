"""Quality of faces: every measure against its definition, limits and their reasons, and what is done with them."""

import csv
import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coreface as cf
from coreface.errors import FaceError, ImageError, InputError
from coreface.images.alignment import TEMPLATES, Alignment
from coreface.recognition.crops import Cropper
from coreface.recognition.detection import Face
from coreface.recognition.pipeline import FacePipeline
from coreface.recognition.quality import (
    LIMITS,
    UNITS,
    Quality,
    QualityLimits,
    alignment_residual,
    judge,
    measure_quality,
    pose,
    quality_limits,
)

TEMPLATE = TEMPLATES["arcface"]
GOOD = Quality(60, 0.6, 130, 40, 3, -2, 1, 0.95, 2.5)


@pytest.fixture(scope="module")
def pipeline():
    return FacePipeline.from_pretrained("sface")


def face_of(landmarks, score=0.9):
    return Face((0, 0, 1, 1), np.asarray(landmarks, float), score)


def noise(seed=0, side=112):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def naive_grey_measures(crop):
    """The definitions, pixel by pixel."""
    grey = [[round(float(0.299 * r + 0.587 * g + 0.114 * b)) for r, g, b in row] for row in crop.astype(float).tolist()]
    values, laplacians = [], []
    for y in range(34, 102):
        for x in range(28, 85):
            values.append(grey[y][x])
            around = grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] + grey[y][x + 1]
            laplacians.append(around - 4 * grey[y][x])

    def mean(numbers):
        return sum(numbers) / len(numbers)

    def deviation(numbers):
        return math.sqrt(mean([(number - mean(numbers)) ** 2 for number in numbers]))

    return deviation(laplacians) / deviation(values), mean(values), deviation(values)


@pytest.mark.parametrize("seed", range(3))
def test_grey_measures_are_their_definitions(seed):
    crop = cv2.GaussianBlur(noise(seed), (0, 0), 0.5 + seed)
    for face in (face_of(TEMPLATE), Face((0, 0, 112, 112), None, 1.0)):
        found = measure_quality(crop, face)
        np.testing.assert_allclose(
            [found.sharpness, found.exposure, found.contrast], naive_grey_measures(crop), rtol=0.02
        )


def test_a_crop_has_no_measures_of_landmarks():
    found = measure_quality(noise(side=64), Face((0, 0, 64, 64), None, 1.0))
    assert [found.eyes, found.yaw, found.pitch, found.roll, found.score, found.residual, found.length] == [None] * 7
    assert found.exposure is not None


def test_a_face_of_one_grey_level():
    found = measure_quality(np.full((112, 112, 3), 90, np.uint8), face_of(TEMPLATE))
    assert (found.sharpness, found.exposure, found.contrast) == (0, 90, 0)


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0, 6.0])
def test_size_is_that_of_the_photograph(factor):
    crop = cv2.GaussianBlur(noise(), (0, 0), 4)
    side = round(112 * factor)
    large = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    found = measure_quality(large, face_of(TEMPLATE * factor))
    assert found.eyes == pytest.approx(35.2377 * factor, abs=0.01)
    expected = measure_quality(crop, face_of(TEMPLATE))
    assert found.exposure == pytest.approx(expected.exposure, abs=1)
    assert found.contrast == pytest.approx(expected.contrast, rel=0.05)


def test_blur_shrinking_and_darkness_are_seen(orl_face):
    face, landmarks = orl_face(4, 0), face_of(TEMPLATE)

    def measured(image):
        return measure_quality(image, landmarks)

    blurred = [measured(cv2.GaussianBlur(face, (0, 0), sigma)).sharpness for sigma in (0.5, 1, 2, 4)]
    assert sorted(blurred, reverse=True) == blurred
    shrunk = [
        measured(cv2.resize(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), (112, 112))).sharpness
        for side in (80, 40, 20)
    ]
    assert sorted(shrunk, reverse=True) == shrunk
    dark = measured((face * 0.25).astype(np.uint8))
    bright = measured(face)
    assert dark.exposure == pytest.approx(0.25 * bright.exposure, abs=1)
    assert dark.contrast == pytest.approx(0.25 * bright.contrast, rel=0.05)
    assert dark.sharpness == pytest.approx(bright.sharpness, rel=0.15)  # light does not count


@settings(deadline=None)
@given(st.floats(-170, 170), st.floats(0.5, 8), st.floats(-30, 300))
def test_a_similarity_changes_roll_alone(angle, scale, shift):
    turn = np.radians(angle)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = TEMPLATE @ matrix.T + shift
    yaw, pitch, roll = pose(moved)
    before = pose(TEMPLATE)
    assert (yaw, pitch) == pytest.approx(before[:2], abs=1e-6)
    assert (roll - before[2] - angle + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
    assert alignment_residual(moved) == pytest.approx(0, abs=1e-9)


def turned_head(yaw, pitch):
    """A head of five points whose nose stands out by half the distance of the eyes, seen from far away."""
    head = np.array([[-1, 0, 0], [1, 0, 0], [0, 0.557 * 2.3, 1], [-0.8, 2.3, 0], [0.8, 2.3, 0]], float)
    a, b = np.radians(yaw), np.radians(pitch)
    sideways = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    return 40 * (head @ (nod @ sideways).T)[:, :2] + 100


@pytest.mark.parametrize("angle", [-40, -15, 0, 15, 40])
def test_pose_of_a_head_that_turns(angle):
    yaw, pitch, roll = pose(turned_head(angle, 0))
    assert (yaw, pitch, roll) == pytest.approx((angle, 0, 0), abs=0.1)
    yaw, pitch, roll = pose(turned_head(0, angle))
    assert (yaw, roll) == pytest.approx((0, 0), abs=0.1)
    # The eyes keep their distance, against which the nose is measured: the sine stands for the tangent.
    assert pitch == pytest.approx(math.degrees(math.atan(math.sin(math.radians(angle)))), abs=0.1)


def test_pose_of_points_that_coincide():
    landmarks = TEMPLATE.copy()
    landmarks[1] = landmarks[0]
    assert pose(landmarks)[0] == 90


@settings(deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=10, max_size=10))
def test_residual_is_the_mean_distance_after_the_best_similarity(offsets):
    landmarks = TEMPLATE + np.reshape(offsets, (5, 2))
    found = alignment_residual(landmarks)
    # The best similarity by a plain least-squares fit of a, b, x, y.
    rows, right = [], []
    for (x, y), (u, v) in zip(landmarks.tolist(), TEMPLATE.tolist(), strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        right += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    distances = [
        math.hypot(a * x - b * y + c - u, b * x + a * y + d - v)
        for (x, y), (u, v) in zip(landmarks.tolist(), TEMPLATE.tolist(), strict=True)
    ]
    assert found == pytest.approx(sum(distances) / 5, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "limits", "reason", "words"),
    [
        ({"eyes": 12.3}, {"min_eyes": 20}, "small face", "12.3 pixels between the eyes, expected at least 20"),
        ({"score": 0.7}, {"min_score": 0.9}, "doubtful face", "confidence is 0.7, expected at least 0.9"),
        ({"residual": 9.0}, {"max_residual": 6}, "odd landmarks", "9 pixels off the template, expected at most 6"),
        ({"sharpness": 0.2}, {"min_sharpness": 0.4}, "blurred", "sharpness is 0.2, expected at least 0.4"),
        ({"exposure": 20}, {"min_exposure": 50}, "dark", "20 grey levels, expected at least 50"),
        ({"exposure": 220}, {"max_exposure": 200}, "bright", "220 grey levels, expected at most 200"),
        ({"contrast": 5}, {"min_contrast": 10}, "low contrast", "5 grey levels, expected at least 10"),
        ({"yaw": -50}, {"max_yaw": 40}, "turned to the side", "yaw is -50 degrees, expected at most 40"),
        ({"pitch": 50}, {"max_pitch": 40}, "turned up or down", "pitch is 50 degrees"),
        ({"roll": -50}, {"max_roll": 40}, "tilted", "roll is -50 degrees"),
    ],
)
def test_every_limit_has_its_reason(change, limits, reason, words):
    limits = QualityLimits(**limits)
    assert limits.reasons(GOOD) == {}
    found = limits.reasons(replace(GOOD, **change))
    assert list(found) == [reason]
    assert words in found[reason]
    assert limits.reasons(Quality()) == {}  # what is not known fulfils every limit


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100))
def test_a_value_at_the_limit_is_good_enough(limit, value):
    assert (QualityLimits(min_eyes=limit).reasons(Quality(eyes=value)) == {}) == (value >= limit)
    assert (QualityLimits(max_yaw=limit).reasons(Quality(yaw=-value)) == {}) == (value <= limit)


def test_named_limits():
    assert list(LIMITS) == ["off", "standard", "strict"]
    assert quality_limits("off").to_dict() == {}
    standard, strict = quality_limits("standard").to_dict(), quality_limits("strict").to_dict()
    assert standard.keys() <= strict.keys()
    for name, limit in standard.items():
        assert strict[name] >= limit if name.startswith("min") else strict[name] <= limit
    assert set(UNITS) == set(Quality().to_dict())
    assert quality_limits(QualityLimits(min_score=0.5)).min_score == 0.5
    with pytest.raises(InputError, match="'medium', expected off, standard, strict"):
        quality_limits("medium")
    with pytest.raises(InputError, match="max_yaw is -1"):
        QualityLimits(max_yaw=-1)
    with pytest.raises(InputError, match="max_yaw is nan"):
        QualityLimits(max_yaw=math.nan)


def test_size_is_judged_before_anything_is_measured():
    tiny = face_of(TEMPLATE * 0.1)
    assert list(judge(noise(), tiny, QualityLimits(min_eyes=20, min_sharpness=99))) == ["small face"]
    far_off = face_of(TEMPLATE + 1000)  # cannot be measured, and need not be
    assert judge(noise(), far_off, QualityLimits(min_eyes=20)) == {}
    with pytest.raises(ImageError, match="outside"):
        judge(noise(), far_off, QualityLimits(min_score=0.1))


class OneFace:
    """A detector that finds one face where the template has it."""

    @property
    def contract(self):
        return {"name": "one"}

    def detect(self, image):
        return [face_of(TEMPLATE * (image.shape[0] / 112), 0.8)]

    def detect_many(self, images):
        return [self.detect(image) for image in images]


def test_the_larger_of_both_sizes_counts():
    def cropper(**options):
        return Cropper(OneFace(), Alignment(), **options)

    image = noise(side=112)  # 35 pixels between the eyes
    assert len(cropper(min_eyes=30, quality="off").crops(image)) == 1
    assert cropper(min_eyes=30, quality="standard").limits.min_eyes == 30
    for options in ({"min_eyes": 36}, {"min_eyes": 0, "quality": QualityLimits(min_eyes=36)}):
        with pytest.raises(FaceError, match="expected at least 36") as caught:
            cropper(**options).crops(image)
        assert caught.value.reason == "small face"
    with pytest.raises(FaceError) as caught:
        cropper(quality=QualityLimits(min_score=0.9, max_exposure=10)).crops(image)
    assert caught.value.reason == "doubtful face"
    assert "confidence" in str(caught.value)
    assert "grey levels" in str(caught.value)
    with pytest.raises(InputError, match="quality is 'none'"):
        cropper(quality="none")


def test_named_limits_of_the_score_are_those_of_yunet(pipeline):
    named = Cropper(pipeline.detector, Alignment(), quality="strict").limits
    assert named == LIMITS["strict"]
    assert named.min_score is not None
    assert Cropper(OneFace(), Alignment(), quality="strict").limits == replace(LIMITS["strict"], min_score=None)
    own = QualityLimits(min_score=0.5)
    assert Cropper(OneFace(), Alignment(), quality=own).limits.min_score == 0.5


@pytest.fixture(scope="module")
def pictures(photograph, tmp_path_factory):
    """A sharp photograph of person 4, another, and a blurred one."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, image, sigma in (("sharp", 0, 0), ("other", 3, 0), ("blurred", 5, 5)):
        picture = photograph([(4, image, 300, 150, 200)])
        picture = cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture
        cv2.imwrite(str(folder / f"{name}.png"), picture[..., ::-1])
    return folder


def limit_between(pipeline, pictures):
    sharp, other, blurred = (
        pipeline.quality(pictures / f"{name}.png")[0].sharpness for name in ("sharp", "other", "blurred")
    )
    assert blurred < min(sharp, other) / 2
    return QualityLimits(min_sharpness=(blurred + min(sharp, other)) / 2)


def test_the_pipeline_measures_and_refuses(pipeline, pictures):
    (found,) = pipeline.quality(pictures / "sharp.png")
    image = cf.load_image(pictures / "sharp.png")
    (crop,) = pipeline.cropper.crops(image)
    view, mirrored = (
        pipeline.encoder.embed([one], flip=False, unit=False)[0] for one in (crop.image, crop.image[:, ::-1])
    )
    assert found.length == pytest.approx(np.linalg.norm((view + mirrored) / 2), rel=1e-4)
    expected = measure_quality(image, crop.face)
    assert {**found.to_dict(), "length": None} == expected.to_dict()
    limits = limit_between(pipeline, pictures)
    names = [pictures / f"{name}.png" for name in ("sharp", "blurred", "other")]
    refusing = FacePipeline(pipeline.encoder, pipeline.detector, quality=limits).embed(names, on_error="record")
    assert refusing.indices.tolist() == [0, 2]
    assert refusing.failures[1].reason == "blurred"
    assert pipeline.embed(names, quality=limits, on_error="record").indices.tolist() == [0, 2]
    assert pipeline.embed(names).indices.tolist() == [0, 1, 2]
    assert pipeline.verify(names[0], names[2], quality=limits).match is not None
    with pytest.raises(FaceError, match=r"blurred\.png: the sharpness is"):
        pipeline.verify(names[0], names[1], quality=limits)


def test_enrolment_refuses_what_is_not_good_enough(pipeline, pictures, tmp_path):
    limits = limit_between(pipeline, pictures)
    names = [str(pictures / f"{name}.png") for name in ("sharp", "blurred", "other")]
    with cf.Gallery.open(tmp_path / "staff.db", pipeline) as gallery:
        enrolment = gallery.enrol("four", names, quality=limits)
        assert len(enrolment.templates) == 2
        assert [(refusal.index, refusal.reason) for refusal in enrolment.refused] == [(1, "blurred")]
        assert len(gallery.enrol("four", names).templates) == 1  # the pipeline's own limits, which are off


def test_commands_take_named_limits(run, photograph, tmp_path):
    for person, side in ((4, 200), (8, 40)):
        folder = tmp_path / "people" / f"s{person}"
        folder.mkdir(parents=True)
        for image in range(2):
            picture = photograph([(person, image, 300, 150, side)])
            cv2.imwrite(str(folder / f"{image}.png"), picture[..., ::-1])
    small = tmp_path / "people" / "s8" / "0.png"
    options = ("--min-eyes", "5")
    status, out, _ = run("align", tmp_path / "people", tmp_path / "off", *options)
    assert (status, "4 crops" in out) == (0, True)
    status, out, _ = run("align", tmp_path / "people", tmp_path / "standard", *options, "--quality", "standard")
    assert (status, "2 crops" in out, "2 small face" in out) == (0, True, True)
    rows = list(csv.DictReader((tmp_path / "standard" / "rejects.csv").open()))
    assert {row["reason"] for row in rows} == {"small face"}
    recorded = json.loads((tmp_path / "standard" / "alignment.json").read_text())["quality"]
    assert recorded == quality_limits("standard").to_dict()
    status, _, err = run("align", tmp_path / "people", tmp_path / "off", *options, "--quality", "strict")
    assert (status, "other settings" in err) == (2, True)
    large = tmp_path / "people" / "s4" / "0.png"
    assert run("verify", large, small, *options, "--threshold", "0.3")[0] == 3
    status, _, err = run("verify", large, small, *options, "--threshold", "0.3", "--quality", "standard")
    assert (status, "pixels between the eyes" in err) == (4, True)
    place = tmp_path / "staff.db"
    status, out, _ = run("gallery", "enrol", place, tmp_path / "people", *options, "--quality", "standard", "--json")
    assert status == 0
    enrolments = {entry["person"]: entry for entry in json.loads(out)}
    assert len(enrolments["s4"]["templates"]) == 2
    assert [refusal["reason"] for refusal in enrolments["s8"]["refused"]] == ["small face"] * 2
