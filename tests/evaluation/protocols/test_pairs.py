"""Sets of pairs: scores, failures, who is on the images, and accuracy under resampling, against plain loops."""

from itertools import pairwise

import numpy as np
import pytest

from coreface.data.pairs.pair_set import PairSet
from coreface.errors import EvaluationError
from coreface.evaluation.metrics import eer, kfold_accuracy, tar_at_far
from coreface.evaluation.metrics.resampling import identity_weights
from coreface.evaluation.protocols.pairs import (
    image_identities,
    pair_scores,
    resample_accuracy,
    scored_pairs,
    verify_pairs,
)


class Places(PairSet):
    def __init__(self, places, left, right, same, fold_of=None):
        super().__init__(left, right, same, len(places), fold_of)
        self.places = places

    def encoded(self, index):
        return b""

    def locate(self, index):
        return self.places[index]


def people(seed=0, persons=20, images=4, pairs=200, named=True):
    generator = np.random.default_rng(seed)
    identity = np.repeat(np.arange(persons), images)
    left = generator.integers(0, len(identity), pairs)
    right = np.where(
        np.arange(pairs) % 2 == 0,
        identity[left] * images + generator.integers(0, images, pairs),
        generator.integers(0, len(identity), pairs),
    )
    vectors = generator.normal(size=(persons, 8))[identity] + 0.8 * generator.normal(size=(len(identity), 8))
    places = [f"folder/person{p:02d}/{i}.png" if named else f"set.bin, image {i}" for i, p in enumerate(identity)]
    return Places(places, left, right, identity[left] == identity[right]), vectors, identity


def test_scores_are_cosines_in_the_order_of_the_pairs():
    pairs, vectors, _ = people()
    order = np.random.default_rng(1).permutation(len(vectors))
    scores = pair_scores(pairs, vectors[order], order)
    for index in range(len(pairs)):
        a, b = vectors[pairs.left[index]], vectors[pairs.right[index]]
        assert scores[index] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_an_image_that_failed_makes_its_pairs_score_minus_one_and_stay():
    pairs, vectors, _ = people()
    kept = np.flatnonzero(np.arange(len(vectors)) != pairs.left[0])
    scores = pair_scores(pairs, vectors[kept], kept)
    failed = (pairs.left == pairs.left[0]) | (pairs.right == pairs.left[0])
    assert (scores[failed] == -1).all()
    assert (scores[~failed] > -1).all()
    result = verify_pairs(pairs, scores, replicates=0)
    assert result.failures == failed.sum() > 0
    assert result.genuine + result.impostor == len(pairs)
    assert result.accuracy.pairs == len(pairs)
    with pytest.raises(EvaluationError, match="no pair has two images"):
        pair_scores(Places(["a", "b", "c"], [0], [1], [True]), np.ones((1, 2)), [2])


def test_everything_is_measured_on_the_scores():
    pairs, vectors, _ = people()
    scores = pair_scores(pairs, vectors, np.arange(len(vectors)))
    result = verify_pairs(pairs, scores, fars=(0.1, 1e-6), replicates=50)
    genuine, impostor = scores[pairs.same], scores[~pairs.same]
    assert result.eer == eer(genuine, impostor)
    assert result.tar == (tar_at_far(genuine, impostor, 0.1), tar_at_far(genuine, impostor, 1e-6))
    assert result.accuracy == kfold_accuracy(scores, pairs.same, 10)
    assert result.accuracy_interval.low < result.accuracy.accuracy < result.accuracy_interval.high
    assert result.tar_intervals[1] is None
    assert result.eer_interval.replicates == 50
    worst = min(range(len(pairs)), key=lambda i: scores[i] if pairs.same[i] else 9)
    assert (result.worst.genuine[0].first, result.worst.genuine[0].second) == (pairs.left[worst], pairs.right[worst])
    assert result.worst.impostor[0].score == max(impostor)
    assert len(result.worst.impostor) == 10


def test_folds_of_the_set_are_used():
    pairs, vectors, _ = people()
    turned = Places(pairs.places, pairs.left, pairs.right, pairs.same, np.arange(200) % 4)
    scores = pair_scores(turned, vectors, np.arange(len(vectors)))
    measured = verify_pairs(turned, scores, replicates=0).accuracy
    assert measured == kfold_accuracy(scores, pairs.same, fold_of=np.arange(200) % 4)
    assert len(measured.folds) == 4
    single = Places(pairs.places, pairs.left, pairs.right, pairs.same, np.zeros(200, int))
    assert verify_pairs(single, scores, replicates=0).accuracy is None


def test_people_are_known_by_their_folders_unless_a_pair_says_otherwise():
    pairs, _, identity = people()
    found, names = image_identities(pairs)
    assert names == [f"folder/person{p:02d}" for p in range(20)]  # as it is where a source has no shorter path
    used = np.unique(np.concatenate([pairs.left, pairs.right]))
    assert (found[used] == identity[used]).all()
    odd = Places(["x/0.png", "x/1.png", "y/0.png"], [0, 0], [1, 2], [False, False])
    assert image_identities(odd)[1] is None


def test_without_names_genuine_pairs_join_images():
    places = [f"set.bin, image {i}" for i in range(7)]
    pairs = Places(places, [0, 1, 3, 0, 5], [1, 2, 4, 3, 6], [True, True, True, False, False])
    found, names = image_identities(pairs)
    assert names is None
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]
    assert len({found[0], found[3], found[5], found[6]}) == 4
    assert scored_pairs(pairs, np.arange(5.0)).identities == 4


def test_resampled_accuracy_equals_plain_loops():
    pairs, vectors, _ = people(pairs=60)
    scores = pair_scores(pairs, vectors, np.arange(len(vectors))).round(1)  # with ties
    scored = scored_pairs(pairs, scores)
    fold_of = np.arange(60) // 20
    found = resample_accuracy(scored, fold_of, replicates=30, seed=3)
    for value, drawn in zip(found, identity_weights(scored.identities, 30, seed=3), strict=True):
        a, b = drawn[scored.first], drawn[scored.second]
        weight = np.where(pairs.same, a, a * b)
        accuracies = []
        for fold in range(3):
            train = [i for i in range(60) if fold_of[i] != fold]
            ordered = sorted(float(scores[i]) for i in train)
            best = []
            for low, high in pairwise(ordered):
                middle = (low + high) / 2
                right = sum(int(weight[i]) for i in train if (scores[i] >= middle) == pairs.same[i])
                best.append((right, middle))
            top = max(right for right, _ in best)
            tied = [middle for right, middle in best if right == top]
            threshold = tied[len(tied) // 2]
            held = [i for i in range(60) if fold_of[i] == fold]
            right = sum(int(weight[i]) for i in held if (scores[i] >= threshold) == pairs.same[i])
            accuracies.append(right / sum(int(weight[i]) for i in held))
        assert value == pytest.approx(np.mean(accuracies), abs=1e-12)


def test_a_set_of_one_kind_is_refused():
    with pytest.raises(EvaluationError, match="all 2 pairs are genuine"):
        verify_pairs(Places(["a", "b"], [0, 0], [1, 1], [True, True]), np.array([0.1, 0.2]))
