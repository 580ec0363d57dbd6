"""Alignment against plain least squares and plain loops over pixels; what is no face is refused."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import ImageError, InputError
from coreface.images.alignment import TEMPLATES, Alignment, align, checked_landmarks, similarity

POINTS = TEMPLATES["arcface"]
EXCHANGED = POINTS[[1, 0, 2, 4, 3]]


def moved(points, scale=1.0, angle=0.0, shift=(0.0, 0.0)):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([48, 112, 224]))
def test_the_similarity_is_that_of_least_squares(seed, size):
    rng = np.random.default_rng(seed)
    noisy = POINTS + rng.normal(0, 3, (5, 2))
    places = moved(noisy, 10 ** rng.uniform(-1, 1.5), rng.uniform(-np.pi, np.pi), rng.normal(0, 300, 2))
    rows, values = [], []
    for (x, y), (u, v) in zip(places, POINTS * size / 112, strict=True):  # u = a x - b y + c, v = b x + a y + d
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    np.testing.assert_allclose(similarity(places, size), [[a, -b, c], [b, a, d]], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("border", ["black", "replicate"])
def test_a_crop_equals_a_loop_over_its_pixels(border):
    image = picture(90, 80)
    landmarks = moved(POINTS, 0.9, 0.3, (-10, -25))  # partly outside of the image
    inverse = np.linalg.inv(np.vstack([similarity(landmarks, 64), [0, 0, 1]]))

    def pixel(x, y):
        if border == "replicate":
            return image[min(max(y, 0), 89), min(max(x, 0), 79)].astype(float)
        return image[y, x].astype(float) if 0 <= x < 80 and 0 <= y < 90 else np.zeros(3)

    crop = align(image, landmarks, 64, border=border)
    for row, column in itertools.product(range(0, 64, 5), range(0, 64, 5)):
        x, y, _ = inverse @ [column, row, 1]
        left, top = int(np.floor(x)), int(np.floor(y))
        expected = np.zeros(3)
        for dx, dy in itertools.product((0, 1), (0, 1)):
            expected += (1 - abs(x - left - dx)) * (1 - abs(y - top - dy)) * pixel(left + dx, top + dy)
        assert np.abs(crop[row, column] - expected).max() <= 8  # OpenCV counts in 1/32 of a pixel


@pytest.mark.parametrize("scale", [2.5, 6.0, 17.3])
def test_where_much_is_shrunk_every_pixel_counts(scale):
    side = round(130 * scale)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    landmarks = moved(POINTS, scale, 0.2, (30 * scale, 5))
    crop = align(noise, landmarks)[30:80, 30:80].astype(float)
    # A pixel of the crop averages about (scale / 2)^2 pixels of noise, and then four of those.
    assert crop.std() < 1.3 * 73.9 / (scale / 2)
    assert abs(crop.mean() - 127.5) < 3
    # And it lies where it should: a smooth picture, cut out of it and out of one reduced beforehand.
    whole = cv2.resize(picture(96, 96), (side, side), interpolation=cv2.INTER_CUBIC)
    smaller = cv2.resize(whole, (round(side / scale), round(side / scale)), interpolation=cv2.INTER_AREA)
    factor = len(smaller) / side
    expected = align(smaller, (landmarks + 0.5) * factor - 0.5).astype(int)
    assert np.abs(align(whole, landmarks) - expected)[20:90, 20:90].mean() < 2.5


def test_the_aligned_face_lies_on_the_template():
    image = np.zeros((600, 800, 3), np.uint8)
    landmarks = moved(POINTS, 4.5, -0.4, (150, 120))
    for x, y in landmarks:
        cv2.circle(image, (round(x), round(y)), 9, (255, 255, 255), -1)
    for size in (112, 160):
        crop = align(image, landmarks, size)
        for x, y in POINTS * size / 112:
            assert crop[round(y), round(x)].min() > 200


def test_it_is_opencvs_alignment_of_the_same_points():
    known = pytest.importorskip("coreface.models.known")
    try:
        weights = known.locate("sface")
    except Exception:
        pytest.skip("the weights are not installed")
    recognizer = cv2.FaceRecognizerSF.create(str(weights), "")
    rng = np.random.default_rng(0)
    for seed in range(5):
        image = picture(300, 300, seed)
        landmarks = moved(POINTS, rng.uniform(0.5, 1.8), rng.uniform(-0.5, 0.5), (60, 50)) + rng.normal(0, 2, (5, 2))
        row = np.r_[0, 0, 0, 0, landmarks.reshape(-1), 1].astype(np.float32)[None]
        theirs = recognizer.alignCrop(image, row).astype(int)
        assert np.abs(align(image, landmarks).astype(int) - theirs).mean() < 1


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.full((5, 2), -1.0), "one point"),
        (np.full((5, 2), np.nan), "not finite"),
        (EXCHANGED, "left and right are exchanged"),
        (POINTS[[0, 1, 3, 4, 2]], "are no face"),
        (np.c_[POINTS[:, 0], np.full(5, 60.0)], "are no face"),  # a line
        (POINTS + 5000, "outside of the image of 100 x 120"),
    ],
)
def test_five_points_that_are_no_face_are_refused(landmarks, message):
    with pytest.raises(ImageError, match=message):
        align(np.zeros((120, 100, 3), np.uint8), landmarks)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_faces_in_any_position_pass_and_mirrored_ones_never(seed):
    rng = np.random.default_rng(seed)
    place = {"scale": 10 ** rng.uniform(-1, 1.5), "angle": rng.uniform(-np.pi, np.pi), "shift": rng.normal(0, 99, 2)}
    turned = POINTS * [rng.uniform(0.15, 1), 1]  # up to a profile
    checked_landmarks(moved(turned + rng.normal(0, 2, (5, 2)), **place))
    with pytest.raises(ImageError, match="left and right"):
        checked_landmarks(moved(EXCHANGED + rng.normal(0, 2, (5, 2)), **place))


def test_very_long_images():
    strip = np.tile(picture(150, 200), (1, 200, 1))  # 40 000 pixels, more than OpenCV warps
    crop = align(strip, POINTS + np.array([38_000, 10]))
    assert (crop == align(strip[:, 37_900:], POINTS + np.array([100, 10]))).all()


def test_arguments_are_checked():
    image = np.zeros((120, 100, 3), np.uint8)
    for arguments, message in (
        ((image.astype(float), POINTS), "float64"),
        ((image, POINTS[:4]), r"\(4, 2\)"),
        ((image, POINTS, 0), "size is 0"),
        ((image, POINTS, 112, "dlib"), "'dlib'"),
        ((image, POINTS, 112, "arcface", "grey"), "'grey'"),
    ):
        with pytest.raises(InputError, match=message):
            align(*arguments)
    with pytest.raises(InputError, match="'dlib'"):
        Alignment("dlib")
    assert not Alignment("unknown").known
    assert Alignment().to_dict() == {"template": "arcface", "border": "black"}
