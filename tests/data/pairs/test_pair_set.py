"""What every set of pairs promises, whatever it was read from."""

import pickle

import numpy as np
import pytest

from coreface.data import PairSet
from coreface.errors import DataError, ImageError, InputError


class Bytes(PairSet):
    """The least a set can be."""

    def __init__(self, stored, *arrays, **options):
        super().__init__(*arrays, num_images=len(stored), **options)
        self.stored = stored

    def encoded(self, index):
        return self.stored[index]

    def locate(self, index):
        return f"place {index}"


def ppm(value):
    return b"P6 1 1 255 " + bytes([value, 2, 3])


def test_pairs_images_and_answers():
    pairs = Bytes([ppm(7), ppm(8), ppm(9)], [0, 2, 1], [1, 2, 0], [True, False, False])
    assert (len(pairs), pairs.num_images, pairs.folds) == (3, 3, 3)
    got = [(int(left[0, 0, 0]), int(right[0, 0, 0]), same) for left, right, same in pairs]
    assert got == [(7, 8, True), (9, 9, False), (8, 7, False)]
    assert type(pairs[0][2]) is bool
    assert pairs[-1][0].tolist() == [[[8, 2, 3]]]
    assert (pairs.left.dtype, pairs.right.dtype, pairs.same.dtype, pairs.fold_of.dtype) == (
        np.int64,
        np.int64,
        np.bool_,
        np.int64,
    )
    for index in (3, -4):
        with pytest.raises(IndexError):
            pairs[index]
        with pytest.raises(IndexError):
            pairs.image(index)


def test_an_image_is_decoded_when_asked_for_and_named_when_it_cannot_be():
    pairs = pickle.loads(pickle.dumps(Bytes([ppm(7), b"junk"], [0, 0], [0, 1], [True, False])))
    assert pairs[0][2]
    with pytest.raises(ImageError, match=r"^place 1: "):
        pairs[1]


@pytest.mark.parametrize("count", [1, 3, 9, 10, 11, 25, 600, 6001])
def test_folds_are_runs_as_equal_as_can_be(count):
    pairs = Bytes([b""], np.zeros(count, int), np.zeros(count, int), np.ones(count, bool))
    expected = []
    folds = min(10, count)
    for fold in range(folds):
        expected += [fold] * (count // folds + (fold < count % folds))
    assert pairs.fold_of.tolist() == expected
    assert pairs.folds == folds


def test_folds_of_the_files_own():
    pairs = Bytes([b""], [0, 0, 0], [0, 0, 0], [True, False, True], fold_of=[1, 0, 1])
    assert (pairs.folds, pairs.fold_of.tolist()) == (2, [1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (([0, 1], [0], [True, True]), {}, "right has shape"),
        (([0, 1], [0, 1], [True]), {}, "same has shape"),
        (([0, 1], [0, 1], [1, 0]), {}, "same is int64"),
        (([0.0, 1.0], [0, 1], [True, True]), {}, "left is float64"),
        (([0, 2], [0, 1], [True, True]), {}, "left points outside of the 2 images"),
        (([0, 1], [0, -1], [True, True]), {}, "right points outside"),
        (([0, 1], [0, 1], [True, True]), {"fold_of": [0, 2]}, "gaps"),
        (([0, 1], [0, 1], [True, True]), {"fold_of": [-1, 0]}, "gaps"),
        (([0, 1], [0, 1], [True, True]), {"fold_of": [0]}, "fold_of has shape"),
    ],
)
def test_arrays_that_do_not_fit(arrays, options, message):
    with pytest.raises(InputError, match=message):
        Bytes([ppm(1), ppm(2)], *arrays, **options)


def test_no_pair():
    with pytest.raises(DataError, match="no pair"):
        Bytes([ppm(1)], [], [], [])
