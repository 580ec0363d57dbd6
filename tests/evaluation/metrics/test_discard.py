"""Error versus discard: against plain loops, and what must hold of every curve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.discard import discard_curve
from coreface.evaluation.metrics.resampling import identity_weights


def naive_fnmr(pairs, share):
    """FNMR of [(quality, wrong, weight)] with a share of the weight discarded; of ties all lose the same part."""
    total = sum(weight for _, _, weight in pairs)
    left = share * total
    kept = errors = 0.0
    for level in sorted({quality for quality, _, _ in pairs}):
        tied = [(wrong, weight) for quality, wrong, weight in pairs if quality == level]
        mass = sum(weight for _, weight in tied)
        gone = min(left, mass)
        left -= gone
        part = (mass - gone) / mass if mass else 0.0
        kept += mass - gone
        errors += part * sum(weight for wrong, weight in tied if wrong)
    return errors / kept


def naive_area(pairs, limit, steps=40):
    values = [naive_fnmr(pairs, limit * step / steps) for step in range(steps + 1)]
    if values[0] == 0:
        return None
    return sum((values[step] + values[step + 1]) / 2 / steps for step in range(steps)) / values[0]


def sample(seed, pairs=60, people=7, levels=5):
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, levels, pairs).astype(float)
    scores = rng.normal(0.3 + 0.1 * quality, 0.3)
    identities = np.concatenate([np.arange(people), rng.integers(0, people, pairs - people)])
    return scores, quality, identities


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("limit", [0.2, 0.7])
def test_curve_area_and_interval_are_those_of_plain_loops(levels, limit):
    scores, quality, identities = sample(levels, levels=levels)
    found = discard_curve(scores, quality, identities, 0.4, limit=limit, replicates=50, seed=3)

    def pairs(weights):
        return [
            (q, s < 0.4, float(weights[i]))
            for q, s, i in zip(quality.tolist(), scores.tolist(), identities.tolist(), strict=True)
        ]

    ones = pairs(np.ones(7))
    np.testing.assert_allclose(found.fnmr, [naive_fnmr(ones, share) for share in found.discarded], atol=1e-12)
    assert found.area == pytest.approx(naive_area(ones, limit))
    areas = [naive_area(pairs(weights), limit) for weights in identity_weights(7, 50, 3)]
    low, high = np.quantile([area for area in areas if area is not None], [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert (found.pairs, found.errors) == (60, sum(score < 0.4 for score in scores))
    assert found.at(limit / 2) == pytest.approx(naive_fnmr(ones, limit / 2))


def test_a_perfect_measure_and_a_useless_one():
    scores = np.concatenate([np.zeros(10), np.ones(90)])
    people = np.arange(100) % 20
    perfect = discard_curve(scores, scores, people, 0.5)
    assert perfect.at(0.1) == pytest.approx(0, abs=1e-12)
    assert perfect.at(0.05) == pytest.approx(0.05 / 0.95)
    assert perfect.falls
    useless = discard_curve(scores, np.zeros(100), people, 0.5)
    np.testing.assert_allclose(useless.fnmr, 0.1)
    assert useless.area == pytest.approx(1)
    assert not useless.falls
    wrong_way = discard_curve(scores, -scores, people, 0.5)
    assert wrong_way.area > 1
    assert wrong_way.at(0.2) == pytest.approx(0.1 / 0.8)


def test_random_discarding_is_flat_in_the_mean():
    rng = np.random.default_rng(0)
    scores, _, identities = sample(1, pairs=200)
    areas = [discard_curve(scores, rng.random(200), identities, 0.4, replicates=0).area for _ in range(400)]
    assert np.mean(areas) == pytest.approx(1, abs=4 * np.std(areas) / 20)


def test_without_errors_there_is_no_area():
    found = discard_curve(np.ones(10), np.arange(10.0), np.arange(10) % 3, 0.5)
    assert found.area is None
    assert found.interval.low is None
    assert found.interval.failed == 1000
    assert not found.falls
    assert found.fnmr.tolist() == [0] * 41
    assert discard_curve(np.zeros(10), np.arange(10.0), np.arange(10), 0.5, replicates=0).interval is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(0, 2**20),
)
def test_what_holds_of_every_curve(pairs, seed):
    quality, right, people = (np.array(column) for column in zip(*pairs, strict=True))
    found = discard_curve(right * 1.0, quality * 1.0, people, 0.5, replicates=5, seed=seed)
    assert ((found.fnmr >= 0) & (found.fnmr <= 1 + 1e-12)).all()
    assert found.fnmr[0] == pytest.approx(np.mean(~right))
    # Any rising function of quality, and any order of the pairs, gives the same.
    order = np.random.default_rng(seed).permutation(len(pairs))
    other = discard_curve(right[order] * 1.0, np.exp(quality[order]), people[order], 0.5, replicates=5, seed=seed)
    np.testing.assert_allclose(other.fnmr, found.fnmr)
    assert other.interval.low == pytest.approx(found.interval.low, nan_ok=True)


def test_what_is_refused():
    good = np.ones(4), np.ones(4), np.arange(4)
    with pytest.raises(InputError, match="expected one quality"):
        discard_curve(np.ones(4), np.ones(3), np.arange(4), 0.5)
    with pytest.raises(InputError, match="one integer a score"):
        discard_curve(np.ones(4), np.ones(4), np.ones(4), 0.5)
    with pytest.raises(InputError, match="limit is 1"):
        discard_curve(*good, 0.5, limit=1)
    with pytest.raises(InputError, match="replicates is -1"):
        discard_curve(*good, 0.5, replicates=-1)
    with pytest.raises(EvaluationError, match="threshold is nan"):
        discard_curve(*good, float("nan"))
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        discard_curve(np.ones(2), np.array([1, np.nan]), np.arange(2), 0.5)
    with pytest.raises(EvaluationError, match="no scores"):
        discard_curve(np.empty(0), np.empty(0), np.empty(0, int), 0.5)
    with pytest.raises(InputError, match=r"share is 0\.3"):
        discard_curve(*good, 0.5).at(0.3)
