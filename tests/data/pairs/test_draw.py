"""Drawn verification sets: genuine and impostor are what they say, nobody is in two folds, nothing comes twice."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.data import FaceSource, draw_pairs, open_pairs, write_bin
from coreface.errors import DataError, InputError


class Labels(FaceSource):
    """Images are their own numbers."""

    def __init__(self, identities):
        names = [str(i) for i in range(max(identities) + 1)]
        super().__init__(np.array(identities, dtype=np.int64), names)

    def encoded(self, index):
        return b"P6 1 1 255 %c%c\0" % (index % 251, index // 251)

    def locate(self, index):
        return str(index)


def images(pairs):
    """The pairs as numbers of images of the source."""
    number = [int(pairs.locate(k)) for k in range(pairs.num_images)]
    return [(number[left], number[right]) for left, right in zip(pairs.left, pairs.right, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=8, max_size=30),
    folds=st.integers(1, 4),
    each=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_what_is_drawn(counts, folds, each, seed):
    rng = np.random.default_rng(seed)
    identities = rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    source = Labels(identities)
    try:
        pairs = draw_pairs(source, 2 * folds * each, folds=folds, seed=seed)
    except DataError:  # as many are not possible
        return
    found = images(pairs)
    assert len({frozenset(pair) for pair in found}) == len(found) == 2 * folds * each
    assert all(one != other for one, other in found)
    assert pairs.same.tolist() == [identities[one] == identities[other] for one, other in found]
    assert pairs.fold_of.tolist() == [i // (2 * each) for i in range(len(found))]
    assert pairs.same.tolist() == ([True] * each + [False] * each) * folds
    people = [set() for _ in range(folds)]
    for fold, pair in zip(pairs.fold_of, found, strict=True):
        people[fold] |= {identities[image] for image in pair}
    assert sum(map(len, people)) == len(set().union(*people))
    again = draw_pairs(source, 2 * folds * each, folds=folds, seed=seed)
    assert images(again) == found


def test_every_pair_is_as_likely(tmp_path):
    identities = [0, 0, 0, 1, 1, 1, 1, 2]
    source = Labels(identities)
    genuine, impostor = Counter(), Counter()
    for seed in range(3000):
        one, other = images(draw_pairs(source, 2, folds=1, seed=seed))
        genuine[frozenset(one)] += 1
        impostor[frozenset(other)] += 1
    assert len(genuine) == 3 + 6
    assert len(impostor) == 12 + 3 + 4
    # Five standard deviations of a count of 3000 draws.
    for counts, kinds in ((genuine, 9), (impostor, 19)):
        expected = 3000 / kinds
        assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


def test_all_that_is_possible_and_the_usual_number():
    source = Labels(np.repeat(np.arange(20), 3).tolist())
    assert len(draw_pairs(source)) == 10 * 2 * 6  # two people with three pairs each in a fold
    assert len(draw_pairs(Labels(np.repeat(np.arange(400), 10).tolist()))) == 6000


def test_many_images_are_drawn_without_a_list_of_all_pairs():
    identities = np.repeat(np.arange(600), 5).tolist()
    pairs = draw_pairs(Labels(identities), 8000, folds=1, seed=3)
    found = images(pairs)
    assert len({frozenset(pair) for pair in found}) == 8000
    assert pairs.same.tolist() == [identities[one] == identities[other] for one, other in found]


@pytest.mark.parametrize(
    ("identities", "options", "words"),
    [
        ([0, 0, 1, 1], {"count": 3}, "multiple of 20"),
        ([0, 0, 1, 1], {"count": 0}, "multiple"),
        ([0, 0, 1, 1], {"folds": 0}, "folds is 0"),
    ],
)
def test_arguments(identities, options, words):
    with pytest.raises(InputError, match=words):
        draw_pairs(Labels(identities), **options)


def test_too_few():
    with pytest.raises(DataError, match="2 identities, expected at least 20"):
        draw_pairs(Labels([0, 0, 1, 1]))
    with pytest.raises(DataError, match="only 2 are possible"):
        draw_pairs(Labels([0, 0, 1, 1]), 10, folds=1)
    with pytest.raises(DataError, match="none of 3 identities has two images"):
        draw_pairs(Labels([0, 1, 2]), folds=1)


def test_as_bin(tmp_path):
    source = Labels(np.repeat(np.arange(40), 4).tolist())
    pairs = draw_pairs(source, 200)
    write_bin(pairs, tmp_path / "x.bin")
    read = open_pairs(tmp_path / "x.bin")
    assert read.fold_of.tolist() == pairs.fold_of.tolist()
    assert read.same.tolist() == pairs.same.tolist()
    for index in (0, 7, 199):
        for one, other in zip(read[index][:2], pairs[index][:2], strict=True):
            np.testing.assert_array_equal(one, other)
