"""The same photograph twice: equal pixels, and nearly equal ones."""

import cv2
import numpy as np
import pytest

from coreface.data.near_duplicates import AlikePair, alike_across, grey_patch, mirror_patches, pixel_digest
from coreface.errors import InputError
from support.toy_images import noise


def picture(name):
    """A smooth picture, as photographs are: compression and another size change it little."""
    return cv2.resize(noise(name, 10, 10), (112, 112), interpolation=cv2.INTER_CUBIC)


def compressed(image):
    _, data = cv2.imencode(".jpg", cv2.resize(image, (56, 56), interpolation=cv2.INTER_AREA))
    return cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (112, 112))


def search(images, identities, least=0.98):
    digests, patches = [pixel_digest(image) for image in images], np.stack([grey_patch(image) for image in images])
    return alike_across(digests, patches, np.array(identities), least)


def test_equal_and_nearly_equal_and_mirrored():
    images = [picture(name) for name in "abcd"]
    images += [images[0], compressed(images[1]), np.ascontiguousarray(images[2][:, ::-1])]
    found = search(images, [0, 1, 2, 3, 4, 5, 6])
    assert [(pair.first, pair.second, pair.exact) for pair in found[:1]] == [(0, 4, True)]
    assert sorted((pair.first, pair.second, pair.exact) for pair in found[1:]) == [(1, 5, False), (2, 6, False)]
    assert all(0.98 <= pair.likeness <= 1 for pair in found)
    assert search(images, [0, 1, 2, 3, 4, 5, 6], least=2) == [AlikePair(0, 4, 1.0, True)]


def test_within_an_identity_nothing_is_said():
    images = [picture("a"), picture("a"), compressed(picture("a"))]
    assert search(images, [0, 0, 0]) == []


def test_many_equal_images_make_few_pairs():
    found = search([picture("a")] * 6, [0, 0, 1, 1, 2, 2])
    assert {index for pair in found for index in pair[:2]} == set(range(6))
    assert len(found) == 5
    assert all(pair.exact for pair in found)


def test_as_plain_loops_over_blocks(monkeypatch):
    """Blocks smaller than the number of images find what a loop over all pairs finds."""
    monkeypatch.setattr("coreface.data.near_duplicates._ROWS", 5)
    monkeypatch.setattr("coreface.data.near_duplicates._COLUMNS", 7)
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(40, 576)).astype(np.float32) + 0.5 * rng.normal(size=576).astype(np.float32)
    patches[20:30] = mirror_patches(patches[:10]) + 0.3 * rng.normal(size=(10, 576)).astype(np.float32)
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    identities = rng.integers(0, 6, 40)
    expected = {}
    for i in range(40):
        for j in range(i + 1, 40):
            flipped = patches[j].reshape(24, 24)[:, ::-1].ravel()
            likeness = max(float(patches[i] @ patches[j]), float(patches[i] @ flipped))
            if identities[i] != identities[j] and likeness >= 0.2:
                expected[i, j] = likeness
    found = alike_across([bytes([index]) for index in range(40)], patches, identities, 0.2)
    assert {pair[:2]: pytest.approx(pair.likeness, abs=1e-5) for pair in found} == expected
    assert len(found) > 10
    assert [pair.likeness for pair in found] == sorted((pair.likeness for pair in found), reverse=True)


def test_an_image_of_one_colour_is_like_nothing():
    black, dark = np.zeros((16, 16, 3), np.uint8), np.ones((16, 16, 3), np.uint8)
    assert search([black, dark], [0, 1]) == []
    assert pixel_digest(np.zeros((2, 8, 3), np.uint8)) != pixel_digest(np.zeros((4, 4, 3), np.uint8))


def test_bad_input():
    with pytest.raises(InputError, match="least is 0"):
        search([picture("a")], [0], least=0)
    with pytest.raises(InputError, match="expected as many"):
        alike_across([], np.zeros((1, 576), np.float32), np.zeros(1, np.int64))
