"""Augmentation against plain loops: the random numbers, the map, each kind of change, and what they depend on."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.data import Augmentation, FaceLoader, FolderSource
from coreface.errors import InputError
from support.toy_images import noise

EVERYTHING = Augmentation((0.8, 1.2), 20.0, 0.1, 1.0, 1.0, 1.0, 1.0)
SIZE = 32


def mixed(word):
    """SplitMix64: one step from a state, in whole numbers without a sign."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def naive_numbers(seed, epoch, image):
    key = mixed(seed % 2**64)
    for counter in (int.from_bytes(b"augment", "big"), epoch, image):
        key = mixed((key + counter) % 2**64)
    return [(mixed((key + step * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53 for step in range(23)]


def naive_target(augmentation, numbers, size, x, y):
    """Where a pixel goes: turned and enlarged around the centre, then shifted."""
    low, high = augmentation.scale
    factor = low + (high - low) * numbers[0]
    angle = math.pi / 180 * (-augmentation.rotate + 2 * augmentation.rotate * numbers[1])
    centre = (size - 1) / 2
    dx, dy = x - centre, y - centre
    right = centre + factor * (dx * math.cos(angle) - dy * math.sin(angle))
    down = centre + factor * (dx * math.sin(angle) + dy * math.cos(angle))
    shift = augmentation.shift * size
    return right - shift + 2 * shift * numbers[2], down - shift + 2 * shift * numbers[3]


def naive_rectangle(size, area, aspect, numbers):
    pixels = (area[0] + (area[1] - area[0]) * numbers[0]) * size**2
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** numbers[1]
    height = min(size, max(1, round((pixels / ratio) ** 0.5)))
    width = min(size, max(1, round((pixels * ratio) ** 0.5)))
    return math.floor(numbers[2] * (size - height + 1)), math.floor(numbers[3] * (size - width + 1)), height, width


def only(**kinds):
    return Augmentation(**kinds)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (7, 3), (2**63 - 1, 10**6)])
def test_the_numbers_are_those_of_splitmix64(seed, epoch):
    images = [0, 1, 5, 5_822_652]
    drawn = EVERYTHING.draw(seed, epoch, images)
    assert drawn.tolist() == [naive_numbers(seed, epoch, image) for image in images]


def test_numbers_depend_on_seed_epoch_and_image_alone():
    whole = EVERYTHING.draw(1, 2, range(10))
    assert np.array_equal(EVERYTHING.draw(1, 2, [9, 3]), whole[[9, 3]])
    assert np.array_equal(only(erase=0.5).draw(1, 2, range(10)), whole)  # nor on what is on
    rows = np.concatenate([whole, EVERYTHING.draw(2, 1, range(10)), EVERYTHING.draw(1, 3, range(10))])
    assert len(np.unique(rows)) == rows.size


ranges = st.builds(
    Augmentation,
    scale=st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    rotate=st.floats(0, 180),
    shift=st.floats(0, 0.99),
)


@settings(max_examples=50, deadline=None)
@given(ranges, st.integers(0, 2**63), st.integers(1, 100), st.integers(0, 2**40), st.integers(1, 256))
def test_the_map_is_the_naive_one(augmentation, seed, epoch, image, size):
    (numbers,) = augmentation.draw(seed, epoch, [image])
    matrix = augmentation.affine(numbers, size)
    for x, y in ((0, 0), (size - 1, 0), (3.5, 7)):
        expected = naive_target(augmentation, naive_numbers(seed, epoch, image), size, x, y)
        np.testing.assert_allclose(matrix @ (x, y, 1), expected, atol=1e-9 * size)


@settings(max_examples=50, deadline=None)
@given(ranges, st.integers(0, 2**63), st.integers(0, 2**40))
def test_the_map_is_a_similarity_within_the_ranges(augmentation, seed, image):
    matrix = augmentation.affine(augmentation.draw(seed, 1, [image])[0], 101)
    factor = math.hypot(matrix[0, 0], matrix[1, 0])
    np.testing.assert_allclose(matrix[:, :2] @ matrix[:, :2].T, factor**2 * np.eye(2), atol=1e-12)
    assert augmentation.scale[0] - 1e-12 <= factor <= augmentation.scale[1] + 1e-12
    angle = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    assert abs(angle) <= augmentation.rotate + 1e-9
    assert (np.abs(matrix @ (50, 50, 1) - 50) <= 101 * augmentation.shift + 1e-9).all()


def test_maps_fill_their_ranges_evenly():
    augmentation = only(scale=(0.9, 1.1), rotate=10.0, shift=0.05)
    matrices = np.stack([augmentation.affine(numbers, 101) for numbers in augmentation.draw(3, 1, range(2000))])
    factors = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    shifts = (matrices @ (50, 50, 1) - 50) / 101
    for values, low, high in ((factors, 0.9, 1.1), (angles, -10, 10), (shifts, -0.05, 0.05)):
        share, _ = np.histogram(values, 4, (low, high))
        assert share.sum() == values.size
        assert (abs(share / values.size - 0.25) < 0.06).all()  # six standard deviations


def test_a_positive_angle_turns_clockwise():
    numbers = np.full(23, 0.5)
    numbers[1] = 1.0
    right_of_the_centre = only(rotate=90.0).affine(numbers, 11) @ (10, 5, 1)
    np.testing.assert_allclose(right_of_the_centre, (5, 10), atol=1e-12)  # below it


def test_pixels_go_where_the_map_sends_them():
    """Bilinear between the four neighbours, edges repeated; OpenCV counts positions in 32nds of a pixel."""
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = [128 + 100 * np.sin(x / 5 + phase) * np.cos(y / 6 - phase) for phase in (0, 1, 2)]
    image = np.stack(waves, axis=2).round().astype(np.uint8)
    augmentation = only(scale=(0.7, 1.4), rotate=30.0, shift=0.2)
    for numbers in augmentation.draw(4, 1, range(5)):
        got = augmentation.apply(image, numbers)
        back = np.linalg.inv(np.vstack([augmentation.affine(numbers, SIZE), (0, 0, 1)]))
        for row in range(SIZE):
            for column in range(SIZE):
                sx, sy, _ = back @ (column, row, 1)
                left, top = math.floor(sx), math.floor(sy)
                value = np.zeros(3)
                for dy in (0, 1):
                    for dx in (0, 1):
                        weight = (1 - abs(sx - left - dx)) * (1 - abs(sy - top - dy))
                        value += weight * image[np.clip(top + dy, 0, SIZE - 1), np.clip(left + dx, 0, SIZE - 1)]
                assert abs(got[row, column] - value).max() <= 3


def test_photometric_is_brightness_contrast_and_saturation():
    image = noise("colours", SIZE, SIZE)
    augmentation = only(photometric=1.0)
    for numbers in augmentation.draw(1, 1, range(5)):
        got = augmentation.apply(image, numbers)
        brightness, contrast, saturation = (0.5 + number for number in numbers[10:13])
        luma = (0.299, 0.587, 0.114)
        mean = brightness * sum(w * image[..., c].astype(float).mean() for c, w in enumerate(luma))
        for row, column in ((0, 0), (3, 7), (31, 30), (17, 1)):
            bright = brightness * image[row, column].astype(float)
            contrasted = contrast * bright + (1 - contrast) * mean
            grey = sum(w * contrasted[c] for c, w in enumerate(luma))
            expected = np.clip(saturation * contrasted + (1 - saturation) * grey, 0, 255)
            assert abs(got[row, column] - expected).max() <= 1


def test_photometric_keeps_grey_images_grey():
    grey = np.repeat(noise("grey", SIZE, SIZE)[..., :1], 3, axis=2)
    for numbers in only(photometric=1.0).draw(2, 1, range(5)):
        out = only(photometric=1.0).apply(grey, numbers)
        assert (np.ptp(out.astype(int), axis=2) <= 1).all()
        assert not np.array_equal(out, grey)


def test_low_resolution_reduces_and_enlarges():
    image = noise("detail", SIZE, SIZE)
    augmentation = only(low_resolution=1.0)
    for numbers in augmentation.draw(1, 1, range(20)):
        got = augmentation.apply(image, numbers)
        side = round(SIZE * (0.2 + 0.8 * numbers[14]))
        assert 6 <= side <= 32
        box = max(width for width in (1, 3, 5) if abs(width - SIZE / side) <= 1)  # the nearest odd one
        around = np.pad(image.astype(np.float64), ((box // 2, box // 2), (box // 2, box // 2), (0, 0)), mode="edge")
        blurred = np.zeros(image.shape)
        for down in range(box):
            for right in range(box):
                blurred += around[down : down + SIZE, right : right + SIZE] / box**2
        small = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_LINEAR)
        expected = cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(got, expected, atol=2)
        assert got.std() <= image.std()


@pytest.mark.parametrize("kind", ["erase", "crop"])
def test_rectangles(kind):
    image = np.maximum(noise("rectangle", SIZE, SIZE), 1)
    augmentation = only(**{kind: 1.0})
    areas = []
    for numbers in augmentation.draw(5, 1, range(200)):
        got = augmentation.apply(image, numbers)
        if kind == "erase":
            own = numbers[16:]
            top, left, height, width = naive_rectangle(SIZE, (0.02, 1 / 3), (0.3, 1 / 0.3), own)
            expected = image.copy()
            for row in range(top, top + height):
                for column in range(left, left + width):
                    expected[row, column] = [math.floor(256 * number) for number in own[4:]]
        else:
            top, left, height, width = naive_rectangle(SIZE, (0.2, 1), (3 / 4, 4 / 3), numbers[5:])
            expected = np.zeros_like(image)
            for row in range(top, top + height):
                for column in range(left, left + width):
                    expected[row, column] = image[row, column]
        assert np.array_equal(got, expected)
        areas.append(height * width / SIZE**2)
    low, high = (0.02, 1 / 3) if kind == "erase" else (0.2, 1)
    assert low - 0.01 <= min(areas) < low + 0.1 * (high - low)
    assert high - 0.2 * (high - low) < max(areas) <= high + 0.03


@pytest.mark.parametrize("kind", ["crop", "photometric", "low_resolution", "erase"])
def test_each_kind_comes_as_often_as_it_is_asked_for(kind):
    image = noise("often", 8, 8)
    augmentation = only(**{kind: 0.3})
    changed = [augmentation.apply(image, numbers) is not image for numbers in augmentation.draw(0, 1, range(2000))]
    assert 0.25 < np.mean(changed) < 0.35  # five standard deviations
    certain, never = only(**{kind: 1.0}), Augmentation()
    for numbers in certain.draw(0, 1, range(50)):
        assert certain.apply(image, numbers) is not image
        assert never.apply(image, numbers) is image


def test_the_order_is_map_low_resolution_photometric_erase_crop():
    image = noise("order", SIZE, SIZE)
    for numbers in EVERYTHING.draw(6, 2, range(5)):
        expected = only(scale=(0.8, 1.2), rotate=20.0, shift=0.1).apply(image, numbers)
        for kind in ("low_resolution", "photometric", "erase", "crop"):
            expected = only(**{kind: 1.0}).apply(expected, numbers)
        assert np.array_equal(EVERYTHING.apply(image, numbers), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**9))
def test_images_of_any_size_keep_it_and_stay_as_they_are(size, index):
    image = noise("any", size, size)
    before = image.copy()
    image.setflags(write=False)
    (numbers,) = EVERYTHING.draw(0, 1, [index])
    out = EVERYTHING.apply(image, numbers)
    assert (out.shape, out.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)
    assert np.array_equal(out, EVERYTHING.apply(image, numbers))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("scale", [(0.9,), (1.1, 0.9), (0, 1), (1, math.inf), (math.nan, 1)]),
        ("rotate", [-1, 181, math.nan]),
        ("shift", [-0.1, 1, math.nan]),
        *((kind, [-0.1, 1.1, math.nan]) for kind in ("crop", "photometric", "low_resolution", "erase")),
    ],
)
def test_out_of_range(field, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{field} is .*expected"):
            Augmentation(**{field: value})


# In the loader


@pytest.fixture
def people(tmp_path, write_faces):
    return FolderSource(write_faces(tmp_path, [f"{person}/{i}.png" for person in "abcd" for i in range(6)]))


def test_a_batch_holds_the_augmented_images_mirrored_last(people):
    loader = FaceLoader(people, 6, image_size=24, seed=3, augment=EVERYTHING)
    order, flips = loader.draws(2)
    images, _ = next(loader.epoch(2))
    for row, (index, flip) in enumerate(zip(order[:6], flips[:6], strict=True)):
        image = cv2.resize(people[index][0], (24, 24), interpolation=cv2.INTER_LINEAR)
        image = EVERYTHING.apply(image, EVERYTHING.draw(3, 2, [int(index)])[0])
        expected = image[:, ::-1] if flip else image
        seen = ((images[row].permute(1, 2, 0).numpy() + 1) * 127.5).round()
        np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_workers_and_a_resume_change_nothing(people, workers):
    """The joint batch of two or three processes, entered at any batch, is that of one."""
    (whole, *_), (second, *_) = FaceLoader(people, 12, image_size=16, seed=1, augment=EVERYTHING).epoch(3)
    for count in (2, 3):
        for rank in range(count):
            loader = FaceLoader(
                people, 12 // count, image_size=16, seed=1, augment=EVERYTHING, rank=rank, world_size=count,
                workers=workers,
            )  # fmt: skip
            assert (next(loader.epoch(3))[0] == whole[loader.rows]).all()
            assert (next(loader.epoch(3, 1))[0] == second[loader.rows]).all()


def test_the_order_and_the_flips_stay_those_without(people):
    with_it, without = FaceLoader(people, 6, seed=5, augment=EVERYTHING), FaceLoader(people, 6, seed=5)
    for one, other in zip(with_it.draws(4), without.draws(4), strict=True):
        assert np.array_equal(one, other)
