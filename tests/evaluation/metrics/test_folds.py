"""Cross-validated accuracy against plain loops over every midpoint, and the mistakes that are common instead."""

import json
from fractions import Fraction
from itertools import pairwise
from statistics import mean, pstdev, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics import even_folds, kfold_accuracy
from coreface.evaluation.metrics.proportions import badge, wilson


def naive_threshold(scores, same):
    ordered = sorted(float(score) for score in scores)
    midpoints = [(a + b) / 2 for a, b in pairwise(ordered)]

    def correct(threshold):
        return sum((float(score) >= threshold) == bool(kind) for score, kind in zip(scores, same, strict=True))

    best = max(correct(threshold) for threshold in midpoints)
    tied = [threshold for threshold in midpoints if correct(threshold) == best]
    return tied[len(tied) // 2]


def naive_accuracy(scores, same, fold_of):
    accuracies, thresholds, wrong = [], [], []
    for fold in range(max(fold_of) + 1):
        train = [i for i, home in enumerate(fold_of) if home != fold]
        threshold = naive_threshold([scores[i] for i in train], [same[i] for i in train])
        held = [i for i, home in enumerate(fold_of) if home == fold]
        mistakes = [i for i in held if (float(scores[i]) >= threshold) != bool(same[i])]
        accuracies.append(1 - len(mistakes) / len(held))
        thresholds.append(threshold)
        wrong += mistakes
    return accuracies, thresholds, sorted(wrong)


def random_pairs(seed, ties=True):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(12, 60))
    same = generator.random(count) < 0.5
    same[:2] = [True, False]
    scores = generator.normal(size=count) + same
    if ties:
        scores = scores.round(int(generator.integers(0, 2)))
    return scores.astype(generator.choice([np.float32, np.float64])), same


@pytest.mark.parametrize("seed", range(150))
def test_accuracy_equals_a_loop_over_every_midpoint(seed):
    scores, same = random_pairs(seed, ties=seed % 3 > 0)
    folds = 2 + seed % 9
    fold_of = even_folds(len(scores), folds).tolist()
    accuracies, thresholds, wrong = naive_accuracy(scores, same, fold_of)
    measured = kfold_accuracy(scores, same, folds)
    assert measured.thresholds == tuple(thresholds)
    assert measured.folds == pytest.approx(accuracies, abs=1e-15)
    assert measured.wrong == tuple(wrong)
    assert measured.accuracy == pytest.approx(mean(accuracies), abs=1e-14)
    assert measured.standard_error == pytest.approx(stdev(accuracies) / folds**0.5, abs=1e-14)
    assert (measured.low, measured.high) == pytest.approx(wilson(1 - len(wrong) / len(scores), len(scores)))
    assert measured.pairs == len(scores)


def test_folds_are_contiguous_and_the_first_take_what_is_left():
    assert even_folds(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    scores, same = random_pairs(1)
    given = kfold_accuracy(scores, same, fold_of=even_folds(len(scores), 4))
    assert given == kfold_accuracy(scores, same, 4)


def test_folds_of_the_files_own():
    scores, same = random_pairs(5)
    fold_of = np.random.default_rng(0).permutation(even_folds(len(scores), 3))
    accuracies, thresholds, wrong = naive_accuracy(scores, same, fold_of.tolist())
    measured = kfold_accuracy(scores, same, fold_of=fold_of)
    assert (measured.thresholds, measured.wrong) == (tuple(thresholds), tuple(wrong))
    assert measured.folds == pytest.approx(accuracies)


# The formulas that are often used instead, each with a case in which it is wrong.


def test_the_threshold_never_sees_its_own_fold():
    # Fold 1 alone would do without a mistake at 0.35; chosen on the first fold the threshold is 0.7.
    scores, same = [0.9, 0.5, 0.4, 0.3], [True, False, True, False]
    measured = kfold_accuracy(scores, same, 2)
    assert measured.thresholds == (0.35, 0.7)
    assert measured.wrong == (1, 2)
    pooled = naive_threshold(scores, same)  # chosen on all pairs at once it would get one more right
    assert sum((score >= pooled) == kind for score, kind in zip(scores, same, strict=True)) == 3


def test_the_median_of_equally_good_thresholds_is_taken_and_not_the_first():
    # On fold 1's training pairs everything between 0.2 and 0.8 is right; a grid from below would stop at its start.
    scores = [0.1, 0.2, 0.8, 0.9, 0.4, 0.6]
    same = [False, False, True, True, False, True]
    assert kfold_accuracy(scores, same, fold_of=[0, 0, 0, 0, 1, 1]).thresholds[1] == 0.5
    # Best of fold 0's training scores: 1.5 and 4.5, each with one mistake; of two the upper.
    tied = kfold_accuracy([0, 0, 1, 2, 3, 6], [True, False, False, True, False, True], fold_of=[0, 0, 1, 1, 1, 1])
    assert tied.thresholds[0] == 4.5


def test_the_error_is_the_standard_error_and_not_the_population_deviation():
    scores, same = random_pairs(3)
    measured = kfold_accuracy(scores, same, 5)
    assert measured.standard_error == pytest.approx(stdev(measured.folds) / 5**0.5)
    assert abs(measured.standard_error - pstdev(measured.folds)) > 1e-3


def test_a_score_equal_to_the_threshold_matches():
    measured = kfold_accuracy([0.5, 0.1, 0.7, 0.3], [True, False, True, False], 2)
    assert measured.thresholds[0] == 0.5
    assert 0 not in measured.wrong


def test_midpoints_of_float32_scores_are_compared_in_float64():
    # Between two neighbouring float32 numbers no third lies: rounded to float32 the midpoint would be one of them.
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    scores = np.array([high, low, high, low], np.float32)
    measured = kfold_accuracy(scores, [True, False, True, False], 2)
    assert float(low) < measured.thresholds[0] < float(high)
    assert measured.wrong == ()


def test_midpoints_of_scores_whose_sum_is_no_float():
    high, low = 1.75 * 2.0**1023, 1.25 * 2.0**1023
    measured = kfold_accuracy([high, low, high, low], [True, False, True, False], 2)
    assert measured.thresholds == (1.5 * 2.0**1023,) * 2
    assert measured.accuracy == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_inside_a_fold_does_not_matter(seed):
    scores, same = random_pairs(seed)
    generator = np.random.default_rng(seed)
    fold_of = even_folds(len(scores), 4)
    order = generator.permutation(len(scores))
    before = kfold_accuracy(scores, same, 4)
    after = kfold_accuracy(scores[order], same[order], fold_of=fold_of[order])
    assert (before.folds, before.thresholds) == (after.folds, after.thresholds)
    assert sorted(order[list(after.wrong)]) == list(before.wrong)


def test_plain_json():
    measured = kfold_accuracy(*random_pairs(2))
    assert json.loads(json.dumps(measured.to_dict(), allow_nan=False)) == measured.to_dict()
    assert measured.to_dict().keys() >= {"accuracy", "standard_error", "folds", "thresholds", "wrong"}
    assert str(measured).startswith("accuracy ")


@pytest.mark.parametrize(
    ("scores", "same", "options", "error", "message"),
    [
        ([0.1, 0.2], [True, True], {"folds": 2}, EvaluationError, "all 2 pairs are genuine"),
        ([0.1, 0.2], [0, 0], {"folds": 2}, EvaluationError, "all 2 pairs are impostor"),
        ([0.1, np.nan], [1, 0], {"folds": 2}, EvaluationError, "scores hold 1 NaN"),
        ([0.1, 0.2], [1], {"folds": 2}, InputError, r"same has shape \(1,\)"),
        ([0.1, 0.2], [1, 2], {"folds": 2}, InputError, "other values than 0 and 1"),
        ([0.1, 0.2], [1.0, 0.0], {"folds": 2}, InputError, "same has dtype float64"),
        ([0.1, 0.2], [1, 0], {}, InputError, "folds is 10 for 2 pairs"),
        ([0.1, 0.2], [1, 0], {"folds": 1}, InputError, "folds is 1"),
        ([0.1, 0.2], [1, 0], {"fold_of": [0, 2]}, InputError, "without gaps"),
        ([0.1, 0.2], [1, 0], {"fold_of": [0, 0]}, InputError, "names 1 folds"),
        ([0.1, 0.2], [1, 0], {"fold_of": [0]}, InputError, "fold_of has shape"),
        ([0.1, 0.2], [1, 0], {"folds": 2}, EvaluationError, "fold 0 leaves fewer than 2 pairs"),
    ],
)
def test_pairs_that_cannot_be_measured(scores, same, options, error, message):
    with pytest.raises(error, match=message) as caught:
        kfold_accuracy(scores, same, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("errors", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1000), (500, 6000)])
def test_wilson_solves_its_own_equation(errors, trials):
    # The ends are the shares p at which the observed share is just 1.96 standard errors (those of p) away.
    low, high = wilson(errors / trials, trials)
    for end in (low, high):
        assert abs(errors / trials - end) == pytest.approx(1.959964 * (end * (1 - end) / trials) ** 0.5, abs=1e-7)
    assert 0 <= low <= errors / trials <= high <= 1
    assert low < high


@pytest.mark.parametrize("arguments", [(1.1, 10), (-0.1, 10), (0.5, 0), (0.5, 10, 1.0)])
def test_wilson_out_of_range(arguments):
    with pytest.raises(InputError, match="expected"):
        wilson(*arguments)


def test_badges():
    assert (badge(0, 600).level, badge(0, 600).bound) == ("none seen", 0.005)
    assert badge(0, 2).bound == 1.0
    assert [badge(errors, 100).level for errors in (1, 29, 30, 100)] == ["rough", "rough", "solid", "solid"]
    assert badge(29, 100).bound is None
    assert "rule of 3)" in str(badge(0, 600))
    assert "29 errors" in str(badge(29, 600))
    assert "enough" in str(badge(30, 600))
    # The rule of 3 is the 95 % limit: with that error rate no error at all comes once in 20 times.
    assert (1 - Fraction(3, 600)) ** 600 == pytest.approx(0.05, abs=0.001)
    for errors, comparisons in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(InputError, match="errors in"):
            badge(errors, comparisons)
    assert json.loads(json.dumps(badge(3, 10).to_dict())) == badge(3, 10).to_dict()
