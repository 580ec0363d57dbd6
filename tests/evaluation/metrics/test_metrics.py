"""Each rate is derived again with plain loops and fractions. Nearly every case has ties: there the formulas differ."""

import json
import tracemalloc
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_analysis import Scores
from sklearn.metrics import roc_auc_score, roc_curve

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics import allowed_false_matches, auc, eer, equal_error, roc, tar_at_far

DTYPES = (np.float16, np.float32, np.float64)
METRICS = {"tar_at_far": lambda g, i: tar_at_far(g, i, 0.5), "eer": eer, "roc": roc}

few_scores = st.lists(st.integers(-8, 8), min_size=1, max_size=30)  # so few values that most are tied
rates = st.floats(1e-4, 0.999)


def share_at_or_above(scores, threshold):
    return Fraction(sum(score >= threshold for score in scores), len(scores))


def candidates(genuine, impostor):
    """Every threshold that can make a difference, from the lowest up."""
    everything = [*genuine, *impostor]
    return [*sorted(set(everything)), np.nextafter(max(everything), np.inf)]


def naive_eer(genuine, impostor):
    best = None
    for threshold in candidates(genuine, impostor):
        fmr, fnmr = share_at_or_above(impostor, threshold), 1 - share_at_or_above(genuine, threshold)
        entry = (abs(fmr - fnmr), (fmr + fnmr) / 2, threshold, fmr, fnmr)
        if best is None or entry[:3] < best[:3]:
            best = entry
    return best


def naive_tar_at_far(genuine, impostor, far):
    """Best rate over every threshold that is safe: what the closed rule has to reach."""
    safe = [t for t in candidates(genuine, impostor) if share_at_or_above(impostor, t) <= Fraction(repr(far))]
    return max(share_at_or_above(genuine, t) for t in safe)


def random_case(seed, dtype=np.float64):
    generator = np.random.default_rng(seed)
    levels = generator.integers(2, 40)
    genuine = generator.integers(0, levels, generator.integers(1, 25)) + generator.integers(0, 5)
    impostor = generator.integers(0, levels, generator.integers(1, 60))
    return (genuine / 64).astype(dtype), (impostor / 64).astype(dtype)


@pytest.mark.parametrize("seed", range(200))
def test_eer_equals_a_loop_over_every_threshold(seed):
    genuine, impostor = random_case(seed)
    _, rate, threshold, fmr, fnmr = naive_eer(genuine, impostor)
    measured = eer(genuine, impostor)
    assert measured.threshold == threshold
    assert (measured.fmr, measured.fnmr) == (float(fmr), float(fnmr))
    assert measured.eer == pytest.approx(float(rate), abs=1e-15)
    assert (measured.genuine, measured.impostor) == (len(genuine), len(impostor))


@pytest.mark.parametrize("seed", range(200))
def test_tar_at_far_is_the_best_of_all_safe_thresholds(seed):
    genuine, impostor = random_case(seed)
    for far in (0.01, 0.05, 0.1, 0.29, 0.5, 0.99):
        measured = tar_at_far(genuine, impostor, far)
        allowed = Fraction(repr(far)) * len(impostor)
        assert measured.resolvable == (allowed >= 1)
        if not measured.resolvable:
            assert measured.tar is measured.threshold is measured.fmr is None
            continue
        assert measured.fmr == float(share_at_or_above(impostor, measured.threshold))
        assert measured.tar == float(share_at_or_above(genuine, measured.threshold))
        assert Fraction(measured.fmr).limit_denominator(1000) <= Fraction(repr(far))
        assert measured.tar == float(naive_tar_at_far(genuine, impostor, far))
        rejected = sorted(impostor, reverse=True)[int(allowed)]
        assert measured.threshold == np.nextafter(rejected, np.inf)
        assert share_at_or_above(impostor, rejected) > Fraction(repr(far))


@pytest.mark.parametrize("seed", range(100))
def test_roc_equals_a_loop_over_every_threshold(seed):
    genuine, impostor = random_case(seed)
    curve = roc(genuine, impostor)
    expected = candidates(genuine, impostor)[::-1]
    assert curve.thresholds.tolist() == expected
    assert curve.fmr.tolist() == [float(share_at_or_above(impostor, t)) for t in expected]
    assert curve.tar.tolist() == [float(share_at_or_above(genuine, t)) for t in expected]
    wins = sum(Fraction(int(g > i)) + Fraction(int(g == i), 2) for g in genuine for i in impostor)
    assert curve.auc == pytest.approx(float(wins / (len(genuine) * len(impostor))), abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_roc_agrees_with_scikit_learn(seed):
    genuine, impostor = random_case(seed)
    truth = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
    scores = np.r_[genuine, impostor]
    fpr, tpr, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    curve = roc(genuine, impostor)
    np.testing.assert_allclose(curve.fmr, fpr, atol=1e-15)
    np.testing.assert_allclose(curve.tar, tpr, atol=1e-15)
    assert curve.thresholds[1:].tolist() == thresholds[1:].tolist()  # scikit-learn's first one is infinite
    assert curve.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_rates_agree_with_score_analysis(seed):
    genuine, impostor = random_case(seed)
    oracle = Scores(pos=genuine, neg=impostor)
    measured = eer(genuine, impostor)
    assert measured.fmr == pytest.approx(oracle.fpr(measured.threshold), abs=1e-15)
    assert measured.fnmr == pytest.approx(oracle.fnr(measured.threshold), abs=1e-15)
    curve = roc(genuine, impostor)
    np.testing.assert_allclose(curve.fmr, oracle.fpr(curve.thresholds), atol=1e-15)
    np.testing.assert_allclose(curve.tar, oracle.tpr(curve.thresholds), atol=1e-15)


def test_eer_agrees_with_score_analysis_where_scores_are_smooth():
    # Theirs interpolates between thresholds, so the two meet only where there are no ties and many scores.
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(2, 1, 3000), generator.normal(0, 1, 20000)
    threshold, rate = Scores(pos=genuine, neg=impostor).eer()
    measured = eer(genuine, impostor)
    assert measured.eer == pytest.approx(rate, abs=1 / 3000)
    assert measured.threshold == pytest.approx(threshold, abs=0.01)
    assert measured.eer == pytest.approx(0.1587, abs=0.01)  # normal distribution function at -1


# The formulas that are often used instead, each with a case in which it is wrong.


def test_quantile_as_threshold_would_exceed_the_target():
    impostor = np.array([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.5, 0.6, 0.6, 0.7])
    quantile = np.quantile(impostor, 1 - 0.5, method="higher")
    assert share_at_or_above(impostor, quantile) == Fraction(7, 10)
    measured = tar_at_far([0.4, 0.45, 0.9], impostor, 0.5)
    assert measured.fmr == 0.4
    assert measured.threshold == np.nextafter(0.4, 1)
    assert measured.tar == 2 / 3


def test_the_kth_largest_score_as_threshold_would_exceed_the_target_under_ties():
    impostor = [0.9, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    kth_largest = sorted(impostor, reverse=True)[2 - 1]
    assert share_at_or_above(impostor, kth_largest) == Fraction(4, 10)
    assert tar_at_far([0.8, 0.85], impostor, 0.2).fmr == 0.1
    assert tar_at_far([0.8, 0.85], impostor, 0.2).tar == 0.5


def test_a_score_equal_to_the_threshold_matches():
    measured = tar_at_far(np.array([np.nextafter(0.5, 1)]), np.array([0.9, 0.5, 0.1]), 0.5)
    assert measured.threshold == np.nextafter(0.5, 1)
    assert measured.tar == 1.0  # with > for >= it would be 0
    assert eer([0.5, 0.7], [0.5, 0.1]).fmr == 0.5


def test_an_eer_that_splits_ties_would_be_wrong():
    # Every score is equal: the only honest rates are (FMR, FNMR) = (1, 0) and (0, 1). Counting along sorted pairs
    # instead of along distinct scores would find a threshold inside the tie, and 0 errors with genuine pairs first.
    measured = eer([0.3] * 4, [0.3] * 9)
    assert (measured.eer, measured.fmr, measured.fnmr) == (0.5, 1.0, 0.0)
    assert measured.threshold == 0.3  # of two equals the lower threshold


def test_an_interpolated_eer_would_hide_a_jump():
    # At 0.5 (FMR, FNMR) is (3/4, 0), just above it (0, 1/2): the line between them crosses at 0.3, no threshold does.
    measured = eer([0.5, 0.9], [0.5, 0.5, 0.5, 0.1])
    assert (measured.fmr, measured.fnmr, measured.eer) == (0.0, 0.5, 0.25)
    assert measured.threshold == 0.9


def test_of_thresholds_equally_close_the_eer_takes_the_smaller_mean():
    # |FMR - FNMR| is 1/4 at 0.5 (1/4, 0) and at 0.4 (2/4, 0) it is 1/2; above, at 0.6, it is (0, 1/4).
    measured = eer([0.5, 0.6, 0.7, 0.8], [0.5, 0.3, 0.2, 0.1])
    assert (measured.fmr, measured.fnmr, measured.threshold) == (0.25, 0.0, 0.5)
    # Here (3/4, 2/4) at 2 and (1/4, 2/4) at 3 are equally close, and 3 has fewer errors though it is the higher.
    measured = eer([1, 1, 3, 3], [0, 2, 2, 3])
    assert (measured.fmr, measured.fnmr, measured.threshold) == (0.25, 0.5, 3.0)


def test_far_is_the_decimal_it_prints_as():
    assert 0.29 * 100 < 29
    assert allowed_false_matches(0.29, 100) == 29
    assert allowed_false_matches(0.1, 10) == allowed_false_matches(1e-3, 1000) == 1
    assert allowed_false_matches(1e-6, 999_999) == 0
    assert allowed_false_matches(0.999999, 10) == 9
    for hundredths in range(1, 100):
        assert allowed_false_matches(hundredths / 100, 100) == hundredths


def test_a_far_below_one_pair_is_not_resolvable():
    measured = tar_at_far([0.9], np.linspace(0, 0.5, 999), 1e-3)
    assert not measured.resolvable
    assert (measured.tar, measured.threshold, measured.fmr) == (None, None, None)
    assert str(measured) == "TAR@FAR=0.001: not resolvable with 999 impostor pairs"
    assert tar_at_far([0.9], np.linspace(0, 0.5, 1000), 1e-3).tar == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_is_the_next_float_of_the_scores_own_dtype(dtype):
    impostor = np.array([0.9, 0.7, 0.3, 0.3, 0.1], dtype)
    genuine = np.array([0.2, 0.7, 0.8], dtype)
    measured = tar_at_far(genuine, impostor, 0.2)
    assert measured.threshold == float(np.nextafter(dtype(0.7), dtype(1)))
    assert measured.tar == 1 / 3
    assert np.nextafter(dtype(measured.threshold), dtype(0)) == dtype(0.7)
    assert roc(genuine, impostor).thresholds[0] == np.nextafter(dtype(0.9), dtype(1))
    assert roc(genuine, impostor).thresholds.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_cases_in_every_dtype(dtype):
    for seed in range(40):
        genuine, impostor = random_case(seed, dtype)
        assert eer(genuine, impostor).fmr == float(naive_eer(genuine, impostor)[3])
        measured = tar_at_far(genuine, impostor, 0.3)
        if measured.resolvable:
            assert measured.fmr == float(share_at_or_above(impostor, dtype(measured.threshold))) <= 0.3
            assert measured.tar == float(share_at_or_above(genuine, dtype(measured.threshold)))


def test_mixed_dtypes_are_promoted_to_the_common_one():
    genuine, impostor = np.array([0.7], np.float32), np.array([0.7, 0.1], np.float64)
    assert tar_at_far(genuine, impostor, 0.5).threshold == np.nextafter(0.1, 1)
    assert float(np.float32(0.7)) < 0.7  # so at 0.7 the genuine pair is rejected, as it would not be in float32
    assert eer(genuine, impostor).threshold == float(np.float32(0.7))
    assert eer(genuine, impostor).fmr == 0.5


def test_integers_become_float64_and_lists_will_do():
    measured = tar_at_far([3, 5], [4, 3, 2, 1], 0.25)
    assert measured.threshold == np.nextafter(3.0, 4)
    assert (measured.tar, measured.fmr) == (0.5, 0.25)
    assert roc(np.array([1], np.uint8), [0]).thresholds.dtype == np.float64


def test_byte_order_does_not_matter():
    genuine, impostor = random_case(3, np.float32)
    swapped = genuine.astype(">f4"), impostor.astype(">f4")
    assert eer(*swapped) == eer(genuine, impostor)
    assert tar_at_far(*swapped, 0.3) == tar_at_far(genuine, impostor, 0.3)


def test_one_pair_of_each_kind():
    assert eer([0.8], [0.2]).eer == 0.0
    assert eer([0.8], [0.2]).threshold == 0.8
    assert eer([0.2], [0.8]).eer == 1.0
    assert not tar_at_far([0.8], [0.2], 0.99).resolvable
    assert roc([0.8], [0.2]).auc == 1.0
    assert roc([0.2], [0.8]).auc == 0.0
    assert roc([0.2], [0.2]).auc == 0.5


def test_scores_are_not_changed():
    genuine, impostor = random_case(5)
    copies = genuine.copy(), impostor.copy()
    for metric in METRICS.values():
        metric(genuine, impostor)
    assert (genuine == copies[0]).all()
    assert (impostor == copies[1]).all()


@settings(max_examples=200, deadline=None)
@given(few_scores, few_scores, rates, st.sampled_from(DTYPES))
def test_achieved_fmr_never_exceeds_the_target(genuine, impostor, far, dtype):
    scores = np.array(genuine, dtype) / dtype(7), np.array(impostor, dtype) / dtype(7)
    measured = tar_at_far(*scores, far)
    if measured.resolvable:
        accepted = sum(float(score) >= measured.threshold for score in scores[1])
        assert Fraction(accepted, len(impostor)) <= Fraction(repr(far))
        assert measured.fmr == accepted / len(impostor)
    else:
        assert Fraction(repr(far)) * len(impostor) < 1


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores, rates, st.randoms(use_true_random=False))
def test_order_does_not_matter(genuine, impostor, far, random):
    shuffled = random.sample(genuine, len(genuine)), random.sample(impostor, len(impostor))
    assert tar_at_far(*shuffled, far) == tar_at_far(genuine, impostor, far)
    assert eer(*shuffled) == eer(genuine, impostor)
    assert roc(*shuffled).to_dict() == roc(genuine, impostor).to_dict()


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores, rates, st.integers(1, 50), st.integers(-50, 50))
def test_a_rising_transform_keeps_every_rate(genuine, impostor, far, factor, shift):
    def transform(scores):
        return [factor * score**3 + shift for score in scores]

    moved = transform(genuine), transform(impostor)
    before, after = tar_at_far(genuine, impostor, far), tar_at_far(*moved, far)
    assert (before.tar, before.fmr) == (after.tar, after.fmr)
    before, after = eer(genuine, impostor), eer(*moved)
    assert (before.fmr, before.fnmr) == (after.fmr, after.fnmr)
    assert roc(genuine, impostor).fmr.tolist() == roc(*moved).fmr.tolist()
    assert roc(genuine, impostor).tar.tolist() == roc(*moved).tar.tolist()


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores, st.integers(2, 4))
def test_repeating_every_pair_changes_no_rate(genuine, impostor, times):
    once, repeated = eer(genuine, impostor), eer(genuine * times, impostor * times)
    assert (once.eer, once.threshold) == (repeated.eer, repeated.threshold)


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores)
def test_roc_rises_from_nothing_to_everything(genuine, impostor):
    curve = roc(genuine, impostor)
    assert (curve.fmr[0], curve.tar[0], curve.fmr[-1], curve.tar[-1]) == (0, 0, 1, 1)
    assert all(a > b for a, b in pairwise(curve.thresholds))
    assert all(a <= b for a, b in pairwise(curve.fmr))
    assert all(a <= b for a, b in pairwise(curve.tar))


def test_equal_error_is_exact_where_floats_are_not():
    # FMR is 1/3 in both and FNMR differs from it by less than a float can tell.
    huge = 3 * 10**17
    false_matches, true_matches = [0, 10**17, 10**17, huge], [0, 2 * 10**17 - 2, 2 * 10**17 + 1, huge]
    position, _, _ = equal_error(4, false_matches.__getitem__, true_matches.__getitem__)
    assert position == 2
    assert float(Fraction(10**17 - 1, huge)) == float(Fraction(10**17 + 2, huge))


def drawn(curve, fmr, scale):
    """TAR of the curve as a plot would show it, straight between points on the axis of that scale."""
    seen = curve.fmr > 0 if scale is np.log10 else slice(None)
    return np.interp(scale(fmr), scale(curve.fmr[seen]), curve.tar[seen])


@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("digits", [1, 8])
def test_a_roc_of_few_points_draws_the_same_curve(distance, digits):
    generator = np.random.default_rng(1)
    genuine = generator.normal(distance, 1, 5_000).round(digits)
    impostor = generator.normal(0, 1, 60_000).round(digits)
    full = roc(genuine, impostor)
    for points in (50, 500):
        thin = roc(genuine, impostor, points)
        assert len(thin.fmr) <= points
        assert len(thin.fmr) > min(points, len(full.fmr)) / 3
        rows = np.searchsorted(-full.thresholds, -thin.thresholds)  # its points are points of the full curve
        for name in ("thresholds", "fmr", "tar"):
            assert (getattr(full, name)[rows] == getattr(thin, name)).all()
        assert (thin.fmr[0], thin.tar[0], thin.fmr[-1], thin.tar[-1]) == (0, 0, 1, 1)
        tolerance = 1.5 / (points // 6 - 2)
        lowest = full.fmr[full.fmr > 0][0]
        logarithmic = 1 - np.log10(np.maximum(thin.fmr, lowest)) / np.log10(lowest)
        for axis in (thin.tar, thin.fmr, logarithmic):
            assert ((np.diff(axis) < tolerance) | (np.diff(rows) == 1)).all()
        at = np.geomspace(full.fmr[full.fmr > 0][0], 1, 400)
        for scale in (np.log10, np.asarray):
            assert np.abs(drawn(thin, at, scale) - drawn(full, at, scale)).max() < tolerance
        assert thin.auc == full.auc == auc(genuine, impostor)


def test_few_points_where_one_step_takes_fmr_from_0_to_1():
    thin = roc(np.linspace(0, 1, 300), [0.5], 60)
    assert 10 <= len(thin.fmr) <= 60
    assert np.diff(thin.tar).max() < 1.5 / 8
    assert (thin.fmr[0], thin.tar[0], thin.fmr[-1], thin.tar[-1]) == (0, 0, 1, 1)


def test_few_points_keep_short_curves_and_both_ends_of_a_jump():
    assert roc([0.2, 0.9], [0.1, 0.5], 100).to_dict() == roc([0.2, 0.9], [0.1, 0.5]).to_dict()
    genuine, impostor = np.r_[np.linspace(0, 1, 500), np.full(5_000, 0.25)], np.linspace(-1, 0.5, 1000)
    thin = roc(genuine, impostor, 40)
    jump = np.diff(thin.tar).argmax()
    assert thin.tar[jump + 1] - thin.tar[jump] == pytest.approx(5_000 / 5_500, abs=1e-3)
    with pytest.raises(InputError, match="points is 3"):
        roc(genuine, impostor, 3)


def test_few_points_take_no_more_memory_than_sorted_scores():
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(2, 1, 20_000), generator.normal(0, 1, 1_000_000)
    tracemalloc.start()
    roc(genuine, impostor, 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * (genuine.nbytes + impostor.nbytes)


def test_roc_arrays_are_read_only():
    curve = roc([0.2, 0.9], [0.1, 0.5])
    for values in (curve.thresholds, curve.fmr, curve.tar, roc([0.2] * 40, [0.1] * 40, 30).tar):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0.5


def test_results_are_plain_json():
    genuine, impostor = random_case(7, np.float32)
    for result in (tar_at_far(genuine, impostor, 0.5), eer(genuine, impostor), roc(genuine, impostor)):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert tar_at_far(genuine, impostor, 0.5).to_dict()["far"] == 0.5
    assert set(eer(genuine, impostor).to_dict()) == {"eer", "threshold", "fmr", "fnmr", "genuine", "impostor"}
    assert set(roc(genuine, impostor).to_dict()) == {"thresholds", "fmr", "tar", "auc"}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("kind", ["genuine", "impostor"])
@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([], EvaluationError, "there are no {kind} scores"),
        ([0.1, np.nan], EvaluationError, r"{kind} scores hold 1 NaN or infinite values of 2 \(the first at \[1\]\)"),
        ([np.inf, 0.1, -np.inf], EvaluationError, "{kind} scores hold 2 NaN or infinite values of 3"),
        ([0.1, np.inf], EvaluationError, "{kind} scores hold 1 NaN or infinite values of 2"),
        ([0.1, -np.inf], EvaluationError, "{kind} scores hold 1 NaN or infinite values of 2"),
        ([[0.1], [0.2]], InputError, r"{kind} scores have shape \(2, 1\); expected 1 dimension"),
        (0.5, InputError, r"{kind} scores have shape \(\)"),
        ([[0.1], [0.2, 0.3]], InputError, "{kind} scores are no array"),
        ([True, False], InputError, "{kind} scores have dtype bool"),
        (["0.5"], InputError, "{kind} scores have dtype <U3"),
        ([0.5 + 1j], InputError, "{kind} scores have dtype complex128"),
        (np.array([0.5], np.longdouble), InputError, "{kind} scores have dtype float128"),
    ],
)
def test_scores_that_cannot_be_measured(metric, kind, scores, error, message):
    good = [0.1, 0.2]
    with pytest.raises(error, match=message.format(kind=kind)) as caught:
        metric(*((scores, good) if kind == "genuine" else (good, scores)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("far", [0, 1, -0.1, 1.5, np.nan, np.inf, "x", None])
def test_far_out_of_range(far):
    with pytest.raises(InputError, match="expected a rate above 0 and below 1"):
        tar_at_far([0.5], [0.1, 0.2], far)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_threshold_above_the_largest_float(dtype):
    largest = np.array([np.finfo(dtype).max, 0], dtype)
    with pytest.raises(EvaluationError, match="no threshold is above it"):
        eer(largest, largest)
