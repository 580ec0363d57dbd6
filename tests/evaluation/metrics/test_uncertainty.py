"""The weighted bootstrap against one that really copies identities, and against what intervals are for."""

import json
from fractions import Fraction
from math import floor
from statistics import NormalDist

import numpy as np
import pytest

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics import eer, resampling, tar_at_far
from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.metrics.proportions import wilson
from coreface.evaluation.metrics.resampling import head_size, identity_weights
from coreface.evaluation.metrics.uncertainty import (
    Interval,
    bootstrap,
    bootstrap_difference,
    percentile_interval,
    rate_interval,
)


def resample(pairs, statistics, **options):
    return resampling.resample(pairs, statistics, **options).values


def all_pairs(images_per_identity, seed, distance=1.5, levels=None):
    """Every pair of a set of images, with random scores; few ``levels`` make ties."""
    generator = np.random.default_rng(seed)
    identities = generator.permutation(np.repeat(np.arange(len(images_per_identity)), images_per_identity))
    i, j = np.triu_indices(len(identities), 1)
    first, second = identities[i], identities[j]
    scores = generator.normal(size=len(i)) + distance * (first == second)
    if levels:
        scores = np.round(scores * levels) / levels
    return PairScores(scores.astype(np.float32), first, second)


def copied(pairs, weights):
    """Genuine and impostor scores after really drawing identities into a list, one copy each time it is drawn."""
    drawn = [identity for identity, times in enumerate(weights) for _ in range(times)]
    genuine, impostor = [], []
    for score, first, second in zip(pairs.scores, pairs.first, pairs.second, strict=True):
        if first == second:
            genuine += [score for copy in drawn if copy == first]
        else:
            impostor += [score for a in drawn if a == first for b in drawn if b == second]
    return np.array(genuine, pairs.scores.dtype), np.array(impostor, pairs.scores.dtype)


def naive(pairs, statistic, weights):
    genuine, impostor = copied(pairs, weights)
    needed = {"fmr": [impostor], "fnmr": [genuine]}.get(statistic[0], [genuine, impostor])
    if any(len(scores) == 0 for scores in needed):
        return np.nan
    if statistic == "eer":
        return eer(genuine, impostor).eer
    if statistic[0] == "fmr":
        return np.mean([float(score) >= statistic[1] for score in impostor])
    if statistic[0] == "fnmr":
        return np.mean([float(score) < statistic[1] for score in genuine])
    rate = tar_at_far(genuine, impostor, statistic[1]).tar
    return np.nan if rate is None else rate


STATISTICS = ["eer", ("tar", 0.29), ("tar", 0.05), ("fmr", 1.0), ("fnmr", 1.5), ("fmr", 0.3)]


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("images_per_identity", [[3, 1, 2, 4], [2, 2], [1, 1, 1, 3], [2, 3, 2, 3, 2, 1, 4]])
def test_weights_equal_copies_of_identities(images_per_identity, levels):
    pairs = all_pairs(images_per_identity, seed=len(images_per_identity), levels=levels)
    fast = resample(pairs, STATISTICS, replicates=40, seed=3)
    draws = list(identity_weights(pairs.identities, 40, seed=3))
    slow = [[naive(pairs, statistic, weights) for statistic in STATISTICS] for weights in draws]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-15)
    assert np.isfinite(fast[:, 0]).any()


def test_weights_equal_copies_of_identities_on_a_list_of_chosen_pairs():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, (2, 60))
    second[:20] = first[:20]
    pairs = PairScores(generator.integers(0, 7, 60) + 2 * (first == second), first, second)
    fast = resample(pairs, STATISTICS, replicates=60, seed=1)
    slow = [[naive(pairs, s, weights) for s in STATISTICS] for weights in identity_weights(6, 60, seed=1)]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-15)
    assert len(np.unique(fast[:, 0])) > 10


def test_more_pairs_than_one_chunk_holds():
    pairs = all_pairs([4] * 70, seed=0)  # 39 060 pairs
    values = resample(pairs, STATISTICS, replicates=2, seed=5)
    for row, weights in zip(values, identity_weights(70, 2, seed=5), strict=True):
        genuine = pairs.first == pairs.second
        times = np.where(genuine, weights[pairs.first], weights[pairs.first] * weights[pairs.second])
        scores, kind = np.repeat(pairs.scores, times), np.repeat(genuine, times)
        assert row[0] == eer(scores[kind], scores[~kind]).eer
        assert row[1] == tar_at_far(scores[kind], scores[~kind], 0.29).tar
        assert row[2] == tar_at_far(scores[kind], scores[~kind], 0.05).tar
        assert row[3] == pytest.approx(np.mean(scores[~kind] >= 1.0), abs=1e-15)
        assert row[4] == pytest.approx(np.mean(scores[kind] < 1.5), abs=1e-15)


@pytest.mark.parametrize("statistics", [[("fmr", -1.0)], [("fmr", 2.5), ("fmr", -1.0), ("tar", 0.05)]])
def test_fixed_thresholds_far_below_the_best_impostor_pairs(statistics):
    pairs = all_pairs([2] * 40, seed=3)
    assert head_size(len(pairs.impostor_scores), statistics) < len(pairs.impostor_scores) / 2
    sample = resampling.resample(pairs, statistics, replicates=10, seed=1)
    impostor = pairs.first != pairs.second
    draws = [np.ones(40, np.intp), *identity_weights(40, 10, seed=1)]
    for row, weights in zip([sample.estimates, *sample.values], draws, strict=True):
        scores = np.repeat(pairs.scores[impostor], (weights[pairs.first] * weights[pairs.second])[impostor])
        for value, (name, threshold) in zip(row, statistics, strict=True):
            if name == "fmr":
                assert value == pytest.approx(np.mean(scores >= threshold), abs=1e-15)


def test_each_identity_drawn_once_gives_the_plain_statistic(monkeypatch):
    pairs = all_pairs([3, 4, 2, 5], seed=2, levels=3)
    monkeypatch.setattr(
        "coreface.evaluation.metrics.resampling.identity_weights",
        lambda identities, *_: iter([np.ones(identities, np.intp)]),
    )
    genuine, impostor = pairs.scores[pairs.genuine], pairs.scores[~pairs.genuine]
    expected = [eer(genuine, impostor).eer, *(tar_at_far(genuine, impostor, far).tar for far in (0.29, 0.05))]
    sample = resampling.resample(pairs, STATISTICS, replicates=1)
    assert sample.values[0, :3].tolist() == expected
    assert sample.estimates.tolist() == sample.values[0].tolist()


def test_draws_are_with_replacement_and_uniform():
    draws = np.array(list(identity_weights(20, 4000, seed=0)))
    assert (draws.sum(axis=1) == 20).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.07)  # 4 standard errors
    assert np.mean(draws == 0) == pytest.approx(0.95**20, abs=0.01)
    assert draws.var() == pytest.approx(0.95, abs=0.03)


def test_the_seed_alone_decides():
    pairs = all_pairs([3] * 12, seed=0)
    first, again, other = (resample(pairs, ["eer"], replicates=50, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert bootstrap(pairs, replicates=50, seed=1) == bootstrap(pairs, replicates=50, seed=1)
    # More replicates go on where fewer stopped, and statistics do not disturb each other's draws.
    assert (resample(pairs, [("tar", 0.1), "eer"], replicates=80, seed=1)[:50, 1] == first[:, 0]).all()


def test_the_order_of_pairs_and_the_names_of_images_do_not_matter():
    pairs = all_pairs([3] * 12, seed=0, levels=2)
    order = np.random.default_rng(0).permutation(len(pairs.scores))
    shuffled = PairScores(pairs.scores[order], pairs.second[order], pairs.first[order])
    np.testing.assert_array_equal(
        resample(pairs, STATISTICS, replicates=30), resample(shuffled, STATISTICS, replicates=30)
    )


def test_replicates_without_a_value_are_counted():
    pairs = all_pairs([2, 2], seed=0)
    draws = list(identity_weights(2, 200, seed=0))
    one_identity = sum(weights.max() == 2 for weights in draws)
    assert 70 < one_identity < 130
    interval = bootstrap(pairs, "eer", replicates=200)
    assert (interval.replicates, interval.failed) == (200, one_identity)
    # One identity in a hundred has two images: no genuine pair unless it is drawn.
    rare = all_pairs([2] + [1] * 30, seed=0)
    undrawn = sum(weights[0] == 0 for weights in identity_weights(31, 200, seed=0))
    assert bootstrap(rare, "eer", replicates=200).failed == undrawn > 40
    too_few = sum(floor(Fraction("0.001") * len(copied(pairs, weights)[1])) == 0 for weights in draws)
    assert bootstrap(pairs, ("tar", 0.001), replicates=200).failed == too_few == 200


def test_no_value_at_all_is_no_interval():
    interval = bootstrap(all_pairs([2, 2], seed=0), ("tar", 0.01), replicates=20)
    assert interval == Interval(None, None, 0.95, 20, 20)
    assert json.loads(json.dumps(interval.to_dict())) == interval.to_dict()


def test_percentile_interval():
    values = np.r_[np.arange(101.0), np.nan, np.nan]
    interval = percentile_interval(np.random.default_rng(0).permutation(values), 0.9)
    assert (interval.low, interval.high) == pytest.approx((5, 95), abs=1e-9)
    assert (interval.confidence, interval.replicates, interval.failed) == (0.9, 103, 2)
    assert percentile_interval(values, 0.5) == Interval(25.0, 75.0, 0.5, 103, 2)
    with pytest.raises(InputError, match="confidence is 95"):
        percentile_interval(values, 95)


def population(identities, images, seed):
    """Scores of every pair, of which the identities explain half the variance; both kinds are normal with variance 2.

    So FMR = FNMR = the normal distribution function at -distance / (2 sqrt 2), whatever the sample.
    """
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(identities), images)
    i, j = np.triu_indices(len(label), 1)
    first, second = label[i], label[j]
    ease, wolf = generator.normal(0, 1, identities), generator.normal(0, np.sqrt(0.5), identities)
    shared = np.where(first == second, 2.0 + ease[first], wolf[first] + wolf[second])
    return PairScores(shared + generator.normal(0, 1, len(i)), first, second)


TRUE_EER = NormalDist().cdf(-2.0 / (2 * np.sqrt(2)))


def pair_interval(pairs, replicates, seed):
    """What is often done: every pair drawn on its own, as if pairs were independent."""
    generator = np.random.default_rng(seed)
    genuine, impostor = pairs.scores[pairs.genuine], pairs.scores[~pairs.genuine]
    values = [
        eer(generator.choice(genuine, len(genuine)), generator.choice(impostor, len(impostor))).eer
        for _ in range(replicates)
    ]
    return percentile_interval(np.array(values))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = covered_by_pairs = 0
    for seed in range(100):
        pairs = population(30, 4, seed)
        interval = bootstrap(pairs, "eer", replicates=200, seed=seed)
        covered += interval.low <= TRUE_EER <= interval.high
        if seed < 40:
            naive_interval = pair_interval(pairs, 60, seed)
            covered_by_pairs += naive_interval.low <= TRUE_EER <= naive_interval.high
    assert 85 <= covered <= 100
    assert covered_by_pairs <= 30  # of 40: the reason why identities are drawn


def test_more_identities_make_the_interval_narrower():
    few, many = (bootstrap(population(n, 3, 0), "eer", replicates=200) for n in (15, 135))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(3, rel=0.5)


def test_a_wider_confidence_contains_the_narrower():
    pairs = population(20, 3, 0)
    narrow, wide = (bootstrap(pairs, "eer", replicates=200, confidence=c) for c in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (narrow.confidence, wide.confidence) == (0.5, 0.95)


def test_difference_is_paired():
    a = population(25, 4, 0)
    b = PairScores(a.scores + np.random.default_rng(1).normal(0, 0.1, len(a.scores)), a.first, a.second)
    for statistic in ("eer", ("tar", 0.1)):
        measured = bootstrap_difference(a, b, statistic, replicates=100, seed=4)
        interval = measured.interval
        values = [resample(pairs, [statistic], replicates=100, seed=4)[:, 0] for pairs in (a, b)]
        expected = tuple(np.quantile(values[0] - values[1], [0.025, 0.975]))
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
        whole = [resampling.resample(pairs, [statistic], replicates=1).estimates[0] for pairs in (a, b)]
        assert measured.difference == whole[0] - whole[1]
        sides = sum(values[0] <= values[1]), sum(values[0] >= values[1])
        assert measured.p_value == min(1, 2 * (1 + min(sides)) / 101)
        alone = bootstrap(a, statistic, replicates=100, seed=4)
        assert interval.high - interval.low < (alone.high - alone.low) / 2
    same = bootstrap_difference(a, a, replicates=10)
    assert (same.difference, same.interval, same.p_value) == (0.0, Interval(0.0, 0.0, 0.95, 10, 0), 1.0)
    assert json.loads(json.dumps(same.to_dict())) == same.to_dict()


def test_difference_has_the_sign_of_a_minus_b():
    worse, better = population(25, 4, 0), population(25, 4, 0)
    better = PairScores(better.scores + 3 * better.genuine, better.first, better.second)
    measured = bootstrap_difference(worse, better, "eer", replicates=50)
    assert 0 < measured.interval.low < measured.difference
    assert measured.p_value == 2 / 51  # no replicate on the other side
    assert bootstrap_difference(worse, better, ("tar", 0.1), replicates=50).interval.high < 0


def test_difference_refuses_other_pairs():
    a, b = all_pairs([2, 3, 2], seed=0), all_pairs([2, 2, 3], seed=1)
    with pytest.raises(InputError, match="different pairs"):
        bootstrap_difference(a, b)
    with pytest.raises(InputError, match=r"different pairs \(21 and 20\)"):
        bootstrap_difference(a, PairScores(a.scores[:-1], a.first[:-1], a.second[:-1]))
    c, d = (PairScores([0.1, 0.2, 0.3], [0, 1, 2], second) for second in ([0, 2, 1], [0, 2, 0]))
    swapped = [PairScores(pairs.scores, pairs.second, pairs.first) for pairs in (c, d)]
    for one, other in ((c, d), swapped):  # only the second images differ, only the first
        with pytest.raises(InputError, match="different pairs"):
            bootstrap_difference(one, other)


def test_difference_fails_where_either_fails():
    a = all_pairs([2, 2], seed=0)
    b = PairScores(a.scores * 2, a.first, a.second)
    assert bootstrap_difference(a, b, replicates=200).interval.failed == bootstrap(a, replicates=200).failed > 0


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.uint64])
def test_any_integers_will_do_as_identities(dtype):
    pairs = all_pairs([2, 3, 2, 2], seed=0)
    same = PairScores(pairs.scores, pairs.first.astype(dtype), pairs.second.astype(dtype))
    assert bootstrap(same, replicates=20) == bootstrap(pairs, replicates=20)


@pytest.mark.parametrize(
    ("scores", "first", "second", "error", "message"),
    [
        ([0.1, 0.2], [0, 1], [0], InputError, r"second has shape \(1,\)"),
        ([0.1, 0.2], [0.0, 1.0], [0, 0], InputError, "first has shape .* dtype float64"),
        ([0.1, 0.2], [0, 5], [0, 1], InputError, "from 0 to 5 with gaps"),
        ([0.1, 0.2], [0, 3], [0, 1], InputError, "from 0 to 3 with gaps"),
        ([0.1, 0.2], [10**12, 0], [10**12, 1], InputError, "with gaps"),
        ([0.1, 0.2], [0, -1], [0, 1], InputError, "from -1 to 1 with gaps"),
        ([0.1, 0.2], [0, 1], [0, 1], EvaluationError, "all 2 pairs are genuine"),
        ([0.1, 0.2], [0, 1], [1, 0], EvaluationError, "all 2 pairs are impostor"),
        ([0.1, np.nan], [0, 1], [0, 0], EvaluationError, "scores hold 1 NaN"),
        ([], [], [], EvaluationError, "there are no scores"),
        ([[0.1]], [0], [0], InputError, r"scores have shape \(1, 1\)"),
    ],
)
def test_pairs_that_cannot_be_measured(scores, first, second, error, message):
    with pytest.raises(error, match=message) as caught:
        PairScores(scores, first, second)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "statistic",
    [
        "tar",
        "auc",
        ("tar",),
        ("eer", 0.1),
        ("tar", 0.1, 0.2),
        ("tar", 0),
        ("tar", 2),
        None,
        ("fmr", np.nan),
        ("far", 1),
    ],
)
def test_unknown_statistics(statistic):
    with pytest.raises(InputError, match="expected"):
        bootstrap(all_pairs([2, 2], seed=0), statistic, replicates=5)


@pytest.mark.parametrize("seed", range(12))
def test_the_head_alone_gives_what_all_pairs_give(seed, monkeypatch):
    pairs = all_pairs([3, 1, 4, 2, 5, 3, 2, 4, 4, 3], seed=seed, distance=seed % 4, levels=[None, 3][seed % 2])
    whole = resample(pairs, STATISTICS, replicates=40, seed=seed)
    monkeypatch.setattr(resampling, "_SMALLEST_HEAD", 1)  # heads that are too short, and have to grow
    monkeypatch.setattr(resampling, "_SLACK", 0.1 * (seed % 5))
    assert head_size(400, STATISTICS) < 100
    np.testing.assert_array_equal(resample(pairs, STATISTICS, replicates=40, seed=seed), whole)
    monkeypatch.setattr("coreface.evaluation.metrics.pair_scores._SMALL_TABLE", 0)
    monkeypatch.setattr(PairScores, "_impostor_counts", None)  # sums over pairs, not over identities
    np.testing.assert_array_equal(resample(pairs, STATISTICS, replicates=40, seed=seed), whole)


def test_labels_may_be_known_where_identities_are_known_in_part():
    pairs = all_pairs([3, 2, 4, 2], seed=0, levels=2)
    labelled = PairScores(pairs.scores, pairs.first, pairs.second, pairs.genuine)
    assert bootstrap(labelled, replicates=30) == bootstrap(pairs, replicates=30)
    # Two images of one person, called different by whoever labelled them: an impostor pair that weighs w * w.
    wrong = pairs.genuine.copy()
    wrong[np.flatnonzero(wrong)[0]] = False
    sample = resample(PairScores(pairs.scores, pairs.first, pairs.second, wrong), [("fmr", 0.5)], replicates=30, seed=2)
    for value, weights in zip(sample[:, 0], identity_weights(4, 30, seed=2), strict=True):
        weight = weights[pairs.first] * weights[pairs.second] * ~wrong
        expected = (weight * (pairs.scores >= 0.5)).sum() / weight.sum() if weight.sum() else np.nan
        np.testing.assert_allclose(value, expected)
    with pytest.raises(EvaluationError, match="are genuine"):
        PairScores(pairs.scores, pairs.first, pairs.second, np.ones(len(wrong), bool))
    with pytest.raises(InputError, match="same has shape"):
        PairScores(pairs.scores, pairs.first, pairs.second, wrong[1:])


def test_fixed_thresholds_count_what_reaches_them():
    pairs = PairScores(np.array([0.3, 0.3, 0.7, 0.1], np.float32), [0, 0, 1, 1], [0, 1, 1, 0])
    # float32(0.3) is a little above 0.3, and float32(0.7) a little below 0.7
    sample = resampling.resample(pairs, [("fmr", 0.3), ("fnmr", 0.3), ("fnmr", 0.7), ("fmr", 0.31)], replicates=1)
    assert sample.estimates.tolist() == [0.5, 0.0, 1.0, 0.0]


def test_rate_interval_is_wilsons_with_the_variance_of_the_replicates():
    values = np.r_[0.1, 0.2, 0.3, np.nan]
    interval = rate_interval(0.2, values, 40)
    t = 2.022691  # Student's 97.5 % quantile, 39 degrees of freedom
    for end in (interval.low, interval.high):  # Wilson's equation with n = p (1 - p) / v
        assert abs(0.2 - end) == pytest.approx(t * (end * (1 - end) * 0.01 / 0.16) ** 0.5, abs=1e-4)
    assert (interval.replicates, interval.failed, interval.confidence) == (4, 1, 0.95)
    # Without an error nothing varies: an identity counts as a trial, and the interval is no point.
    none = rate_interval(0.0, np.zeros(10), 40)
    assert none.low == 0
    assert none.high == pytest.approx(wilson(0, 40, freedom=39)[1])
    assert 0.05 < none.high < 0.11
    assert rate_interval(1.0, np.ones(10), 40).low == pytest.approx(1 - none.high)
    assert rate_interval(np.nan, values, 40) == Interval(None, None, 0.95, 4, 1)
    with pytest.raises(InputError, match="confidence is 95"):
        rate_interval(0.2, values, 40, 95)


def test_replicates_out_of_range():
    with pytest.raises(InputError, match="replicates is 0"):
        bootstrap(all_pairs([2, 2], seed=0), replicates=0)
