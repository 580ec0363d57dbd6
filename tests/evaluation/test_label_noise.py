"""How many labels are wrong, and which are listed: against plain loops, and whether the promise is kept."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import InputError
from coreface.evaluation.label_noise import Cut, cut_scores


def wrong_in_all(count, share, errors):
    """The N from whose expectation N F1 the count is so many binomial standard errors away, by bisection."""

    def away(total):
        return count - total * share - math.copysign(abs(errors) * math.sqrt(total * share * (1 - share)), -errors)

    low, high = 0.0, (count + 100) / share * 100
    if errors < 0:
        high = count / share
    elif errors > 0:
        low = count / share
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if away(middle) > 0 else (low, middle)
    return low


def naive_cut(observed, wrong, good_lost):
    """The definition, one threshold after another: just below each observed score, and above all."""
    n, m = len(observed), len(wrong)
    steps = []
    for t in [*sorted(set(observed)), math.inf]:
        steps.append((sum(x < t for x in observed), sum(w < t for w in wrong) / m))
    bounds = [(wrong_in_all(h, f, 3), h, f) for h, f in steps if f > 0]
    _, count, reached = min(bounds, key=lambda bound: bound[0])
    share, cautious = min(1.0, count / reached / n), min(1.0, wrong_in_all(count, reached, -1) / n)
    best, most = Cut(n, share, None, 0, 0.0, None), 1e-9
    for h, f in steps:
        true = min(share * f * n, h)
        lost = (h - min(cautious * f * n, h)) / max((1 - cautious) * n, 1)
        if lost <= good_lost and 2 * true - h > most:
            threshold = max(x for x in observed if sum(y <= x for y in observed) == h)
            best, most = Cut(n, share, threshold, h, lost, true / h), 2 * true - h + 1e-9
    return best


@settings(deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=40),
    st.lists(st.integers(-20, 10), min_size=1, max_size=60),
    st.floats(0.001, 0.5),
)
def test_as_the_definition(observed, wrong, good_lost):
    found = cut_scores(np.array(observed, float), np.array(wrong, float), good_lost)
    expected = naive_cut(observed, wrong, good_lost)
    assert (found.threshold, found.listed, found.scored) == (expected.threshold, expected.listed, expected.scored)
    assert found.share_wrong == pytest.approx(expected.share_wrong)
    assert found.good_lost == pytest.approx(expected.good_lost)
    assert found.precision == pytest.approx(expected.precision)


def mixture(rng, count, share, distance):
    """Scores of good and wrong labels, and more scores of wrong ones."""
    wrong = rng.random(count) < share
    return np.where(wrong, rng.normal(0, 1, count), rng.normal(distance, 1, count)), wrong, rng.normal(0, 1, 5 * count)


@pytest.mark.parametrize(("share", "distance"), [(0.003, 4), (0.03, 3), (0.03, 4), (0.2, 3), (0.2, 5)])
def test_the_promise_is_kept(share, distance):
    """Over many data sets no more good ones are listed than was promised, within the error of their binomial count."""
    rng = np.random.default_rng(int(1000 * share + distance))
    listed = good = 0
    shares, caught = [], []
    for _ in range(40):
        observed, wrong, known = mixture(rng, 4000, share, distance)
        cut = cut_scores(observed, known, 0.005)
        below = observed <= (-math.inf if cut.threshold is None else cut.threshold)
        listed, good = listed + int((below & ~wrong).sum()), good + int((~wrong).sum())
        shares.append(cut.share_wrong)
        caught.append((below & wrong).sum() / wrong.sum())
    assert listed <= 0.005 * good + 2 * math.sqrt(0.005 * good)
    assert np.mean(shares) == pytest.approx(share, rel=0.1, abs=0.001)
    if share >= 0.03:
        assert np.mean(caught) > 0.5


def test_nothing_wrong_lists_next_to_nothing():
    rng = np.random.default_rng(0)
    cuts = [cut_scores(rng.normal(6, 1, 3000), rng.normal(0, 1, 9000)) for _ in range(20)]
    assert all(cut.listed == 0 and cut.threshold is None and cut.share_wrong == 0 for cut in cuts)


def test_everything_wrong_is_said():
    rng = np.random.default_rng(0)
    cut = cut_scores(rng.normal(size=4000), rng.normal(size=20000))
    assert cut.share_wrong > 0.9


def test_a_promise_of_more_lists_more_as_long_as_most_of_it_is_wrong():
    observed, wrong, known = mixture(np.random.default_rng(3), 5000, 0.05, 2.5)
    cuts = [cut_scores(observed, known, good_lost) for good_lost in (0.0005, 0.002, 0.01, 0.3)]
    assert [cut.listed for cut in cuts] == sorted(cut.listed for cut in cuts)
    assert cuts[0].listed < cuts[2].listed
    assert cuts[-1].good_lost < 0.03
    below = observed <= cuts[-1].threshold
    assert wrong[below].mean() == pytest.approx(cuts[-1].precision, abs=0.1)


def test_one_that_is_wrong_is_enough():
    rng = np.random.default_rng(0)
    observed = np.append(rng.normal(10, 1, 200), 0.0)
    cut = cut_scores(observed, rng.normal(size=500))
    assert (cut.listed, cut.threshold, cut.precision) == (1, 0.0, 1)


def test_nothing_to_compare_with():
    scores = np.array([0.1, 0.2])
    assert cut_scores(scores, np.empty(0)) == Cut(2, 0.0, None, 0, 0.0, None)
    assert cut_scores(np.empty(0), scores) == Cut(0, 0.0, None, 0, 0.0, None)


@pytest.mark.parametrize("good_lost", [0, 1, -0.1, math.nan])
def test_bad_share(good_lost):
    with pytest.raises(InputError, match="between 0 and 1"):
        cut_scores(np.zeros(2), np.zeros(2), good_lost)


def test_scores_must_be_finite():
    with pytest.raises(InputError, match="not finite"):
        cut_scores(np.array([0.0, math.nan]), np.zeros(2))
