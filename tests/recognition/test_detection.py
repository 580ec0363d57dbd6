"""Detectors on pictures made of the ORL faces; the search around a network on a network that is written by hand."""

import itertools

import cv2
import numpy as np
import pytest

from coreface.errors import InputError, ModelError
from coreface.images.alignment import TEMPLATES, align, checked_landmarks
from coreface.images.load import load_image
from coreface.models import known
from coreface.recognition.detection import Face, NetworkDetector, WholeImage
from coreface.recognition.detectors import CenterFace, YuNet, decode_centerface, open_detector
from coreface.recognition.foreign_faces import from_arrays, from_insightface, from_mtcnn, from_opencv


@pytest.fixture(scope="module")
def yunet():
    return open_detector("yunet")


def overlap(one, other):
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[2:], other[2:])
    both = max(0, right - left) * max(0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def test_a_face_is_found_where_it_is(yunet, photograph):
    faces = yunet.detect(photograph([(4, 0, 300, 150, 180)]))
    assert len(faces) == 1
    left, top, right, bottom = faces[0].box
    assert 300 < left < right < 480
    assert 140 < top < bottom < 335
    checked_landmarks(faces[0].landmarks)
    assert 45 < faces[0].eye_distance < 100
    assert 0.7 <= faces[0].score <= 1


def test_forty_faces_in_one_picture(yunet, photograph):
    places = [(k, 0, 10 + 78 * (k % 8), 5 + 78 * (k // 8), 76) for k in range(40)]
    faces = yunet.detect(photograph(places, 640, 400))
    found = sum(
        any(left < (f.box[0] + f.box[2]) / 2 < left + 76 and top < (f.box[1] + f.box[3]) / 2 < top + 76 for f in faces)
        for _, _, left, top, _ in places
    )
    assert found >= 38
    assert len(faces) <= 42
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


def test_small_faces_and_faces_that_fill_the_picture(yunet, photograph, orl_face):
    # The face of a crop of 40 pixels is 28 pixels wide.
    assert sum(len(yunet.detect(photograph([(person, 0, 200, 200, 40)]))) == 1 for person in range(40)) >= 30
    large = cv2.resize(orl_face(1, 0), (1280, 1280), interpolation=cv2.INTER_CUBIC)
    (face,) = yunet.detect(large)
    assert face.box[2] - face.box[0] > 500
    checked_landmarks(face.landmarks)


def test_the_size_of_the_photograph_does_not_matter(yunet, photograph):
    small = photograph([(7, 1, 300, 150, 150)])
    reference = yunet.detect(small)[0]
    for factor in (2, 5):
        large = cv2.resize(small, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        face = yunet.detect(large)[0]
        shift = (face.landmarks + 0.5) / factor - 0.5 - reference.landmarks
        assert np.abs(shift).max() < 0.08 * reference.eye_distance


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_turned_photographs(photograph, turn):
    upright = photograph([(2, 0, 120, 60, 220)], 480, 400)
    detector = YuNet(rotations=True)
    expected = detector.detect(upright)[0]
    turned = np.ascontiguousarray(np.rot90(upright, -turn))
    face = detector.detect(turned)[0]
    # The same points of the same pixels: cut out, both are the same upright crop.
    one, other = align(upright, expected.landmarks), align(turned, face.landmarks)
    assert np.abs(one.astype(int) - other).mean() < 2
    left, top, right, bottom = face.box
    assert left < right
    assert top < bottom
    assert face.score == pytest.approx(expected.score)


@pytest.mark.parametrize("size", [(16, 16), (17, 300), (3000, 20), (1, 1)])
def test_no_face_is_an_answer(yunet, size):
    rng = np.random.default_rng(0)
    for picture in (np.zeros((*size, 3), np.uint8), rng.integers(0, 256, (*size, 3), dtype=np.uint8)):
        assert yunet.detect(picture) == []


def test_a_drawing_and_a_black_image(yunet):
    drawing = np.full((400, 400, 3), 255, np.uint8)
    cv2.rectangle(drawing, (100, 80), (300, 340), (0, 0, 0), 4)
    cv2.line(drawing, (0, 0), (399, 399), (200, 30, 30), 9)
    assert yunet.detect_many([drawing, np.zeros((480, 640, 3), np.uint8)]) == [[], []]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(yunet, photograph, orientation, tmp_path):
    from PIL import Image

    upright = photograph([(3, 0, 250, 100, 200)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.rot90(np.fliplr(a), 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(np.fliplr(a), 3),
        8: lambda a: np.rot90(a, 3),
    }[orientation](upright)
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    shown = load_image(path)
    assert (shown == upright).all()
    assert overlap(yunet.detect(shown)[0].box, yunet.detect(upright)[0].box) == 1


class Painted(NetworkDetector):
    """Finds one red square that is 20 to 100 pixels wide and touches no edge."""

    def __init__(self, **options):
        super().__init__("painted", "", options.pop("max_side", 640), 0.5, options.pop("rotations", False))
        self.seen = []

    def run(self, image):
        self.seen.append(image.shape[:2])
        red = (image[..., 0] > 200) & (image[..., 1] < 60)
        rows, columns = np.nonzero(red)
        if not len(rows):
            return []
        left, top, right, bottom = columns.min(), rows.min(), columns.max(), rows.max()
        edge = left == 0 or top == 0 or right == image.shape[1] - 1 or bottom == image.shape[0] - 1
        if edge or not 20 <= right - left <= 100:
            return []
        points = TEMPLATES["arcface"] / 112 * (right - left) + (left, top)
        return [((left, top, right, bottom), points, 0.9)]


def red_square(width, height, left, top, side):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[max(0, top) : top + side, max(0, left) : left + side, 0] = 255
    return picture


def test_where_nothing_is_found_it_looks_once_smaller_and_once_with_a_border():
    detector = Painted()
    (face,) = detector.detect(red_square(600, 400, 100, 100, 180))  # too large for it, but not at half the size
    assert detector.seen == [(400, 600), (200, 300)]
    np.testing.assert_allclose(face.box, (100, 100, 280, 280), atol=3)
    detector = Painted()
    (face,) = detector.detect(red_square(300, 300, 0, 100, 90))  # it touches the edge
    assert detector.seen == [(300, 300), (150, 150), (600, 600)]
    np.testing.assert_allclose(face.box, (0, 100, 90, 190), atol=2)
    detector = Painted()
    assert detector.detect(np.zeros((300, 300, 3), np.uint8)) == []
    assert len(detector.seen) == 3


def test_large_images_are_reduced_and_small_ones_never_enlarged():
    detector = Painted(max_side=200)
    (face,) = detector.detect(red_square(1000, 500, 300, 100, 250))
    assert detector.seen == [(100, 200)]
    np.testing.assert_allclose(face.box, (300, 100, 550, 350), atol=6)
    detector = Painted()
    detector.detect(red_square(90, 80, 20, 20, 40))
    assert detector.seen == [(80, 90)]


def test_centerface_maps_against_a_loop():
    rng = np.random.default_rng(0)
    heat = rng.uniform(0, 0.55, (12, 9)).astype(np.float32)
    scale, offset = rng.normal(1, 0.3, (2, 12, 9)), rng.uniform(-0.5, 0.5, (2, 12, 9))
    landmarks = rng.uniform(0, 1, (10, 12, 9))
    found = {}
    for row, column in itertools.product(range(12), range(9)):
        if heat[row, column] <= 0.5:
            continue
        height, width = 4 * np.exp(scale[0, row, column]), 4 * np.exp(scale[1, row, column])
        y, x = 4 * (row + offset[0, row, column] + 0.5), 4 * (column + offset[1, row, column] + 0.5)
        x1, y1 = x - width / 2, y - height / 2
        points = [
            (x1 + width * landmarks[2 * j + 1, row, column], y1 + height * landmarks[2 * j, row, column])
            for j in range(5)
        ]
        found[float(heat[row, column])] = ((x1, y1, x1 + width, y1 + height), points)
    kept = []
    for score in sorted(found, reverse=True):  # plain non-maximum suppression
        if all(overlap(np.array(found[score][0]), np.array(found[other][0])) <= 0.3 for other in kept):
            kept.append(score)
    faces = decode_centerface(heat, scale, offset, landmarks, 0.5)
    assert len(kept) >= 3
    assert [score for _, _, score in faces] == pytest.approx(kept)
    for (box, points, _), score in zip(faces, kept, strict=True):
        np.testing.assert_allclose(box, found[score][0], rtol=1e-5)
        np.testing.assert_allclose(points, found[score][1], rtol=1e-5)


def test_centerface_where_its_file_is(photograph, yunet):
    try:
        detector = CenterFace()
    except ModelError:
        pytest.skip("centerface.onnx is in no folder of COREFACE_MODELS")
    picture = photograph([(4, 0, 300, 150, 180), (9, 2, 60, 100, 120)])
    ours = sorted(detector.detect(picture), key=lambda face: face.box)
    theirs = sorted(yunet.detect(picture), key=lambda face: face.box)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.landmarks - other.landmarks).max() < 0.25 * other.eye_distance


def test_detectors_by_name_by_path_and_by_themselves(tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(known.read("yunet"))
    by_path, by_name = open_detector(path, max_side=320), open_detector("yunet", max_side=320)
    assert isinstance(by_path, YuNet)
    assert by_path.contract == by_name.contract != YuNet().contract
    assert open_detector(by_path) is by_path
    assert isinstance(open_detector("whole"), WholeImage)
    for name, message in (("mtcnn", "no detector 'mtcnn'"), (tmp_path / "no.onnx", "cannot be read")):
        with pytest.raises(ModelError, match=message):
            open_detector(name)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"mine.onnx: damaged"):
        open_detector(path)
    path.write_bytes(known.read("sface"))
    with pytest.raises(ModelError, match="its outputs are fc1"):
        open_detector(path)
    with pytest.raises(InputError, match="max_side is 8"):
        YuNet(max_side=8)


def test_a_crop_is_one_face(orl_face):
    (face,) = WholeImage().detect(orl_face(0, 0))
    assert face.box == (0, 0, 112, 112)
    assert face.landmarks is face.eye_distance is None
    assert face.to_dict() == {"box": [0, 0, 112, 112], "landmarks": None, "score": 1.0}


@pytest.mark.parametrize("image", [np.zeros((9, 9)), np.zeros((9, 9, 4), np.uint8), np.zeros((0, 9, 3), np.uint8), "x"])
def test_what_is_no_image(yunet, image):
    for detector in (yunet, WholeImage()):
        with pytest.raises(InputError):
            detector.detect(image)


def test_faces_of_other_libraries():
    points = TEMPLATES["arcface"]
    boxes, scores = [[10, 20, 60, 90], [0, 0, 30, 40]], [0.8, 0.95]
    expected = [face.to_dict() for face in from_arrays(boxes, [points, points + 1], scores)]
    assert [face["score"] for face in expected] == [0.95, 0.8]
    rows = [[*box, score] for box, score in zip(boxes, scores, strict=True)]
    assert [face.to_dict() for face in from_insightface(rows, [points, points + 1])] == expected
    opencv = [
        [left, top, right - left, bottom - top, *(points + shift).reshape(-1), score]
        for (left, top, right, bottom), shift, score in zip(boxes, (0, 1), scores, strict=True)
    ]
    assert [face.to_dict() for face in from_opencv(opencv)] == expected
    names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    mtcnn = [
        {
            "box": [left, top, right - left, bottom - top],
            "confidence": score,
            "keypoints": dict(zip(names, (points + shift).tolist(), strict=True)),
        }
        for (left, top, right, bottom), shift, score in zip(boxes, (0, 1), scores, strict=True)
    ]
    assert [face.to_dict() for face in from_mtcnn(mtcnn)] == expected
    assert from_arrays(None, None, None) == from_opencv(None) == from_mtcnn([]) == []
    with pytest.raises(InputError, match=r"\(2, 4\)"):
        from_arrays(boxes, [points], scores)
    with pytest.raises(InputError, match="landmarks have shape"):
        Face((0, 0, 1, 1), points[:4], 1.0)


def test_opencvs_own_detector_agrees(yunet, photograph):
    picture = photograph([(4, 0, 300, 150, 180), (8, 3, 40, 40, 90)])
    theirs = cv2.FaceDetectorYN.create(str(known.locate("yunet")), "", (640, 480), 0.7, 0.3)
    rows = theirs.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
    expected = [face.to_dict() for face in from_opencv(rows)]
    assert [face.to_dict() for face in yunet.detect(picture)] == expected
