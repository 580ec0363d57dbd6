"""Effects of contrasts against plain loops and SciPy; Holm's procedure against its definition; known special cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coreface.errors import InputError
from coreface.evaluation.metrics.resampling import identity_weights
from coreface.studies.statistics import holm, paired_effect, smallest_detectable


def sample(seeds, people, spread, seed=0):
    """(people, seeds) differences a person with a people, a seed and an interaction part, and their resamples."""
    generator = np.random.default_rng(seed)
    of_people, of_seeds, of_both = spread
    table = 0.02 + generator.normal(0, of_people, (people, 1)) + generator.normal(0, of_seeds, (1, seeds))
    table = table + generator.normal(0, of_both, (people, seeds))
    weights = np.stack(list(identity_weights(people, 500, seed))) / people
    return table, weights @ table


def naive(differences, replicates, people):
    n = len(differences)
    mean = sum(differences) / n
    among = sum((d - mean) ** 2 for d in differences) / (n - 1) / n
    means = [sum(row) / n for row in replicates]
    centre = sum(means) / len(means)
    of_people = sum((m - centre) ** 2 for m in means) / (len(means) - 1)
    each = 0.0
    for seed in range(n):
        column = [row[seed] for row in replicates]
        middle = sum(column) / len(column)
        each += sum((value - middle) ** 2 for value in column) / (len(column) - 1) / n
    seeds = max(0.0, among - min(max(0.0, (each - of_people) / (n - 1)), of_people))
    total = seeds + of_people
    freedom = total**2 / (among**2 / (n - 1) + of_people**2 / (people - 1))
    low, high = stats.t.interval(0.95, freedom, mean, math.sqrt(total))
    return mean, low, high, 2 * stats.t.sf(abs(mean) / math.sqrt(total), freedom), freedom


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("spread", [(0.1, 0.001, 0.01), (0.2, 0.02, 0.05), (0.01, 0.03, 0.01), (0, 0, 0.2)])
def test_effect_agrees_with_plain_loops(seeds, spread):
    table, replicates = sample(seeds, 80, spread)
    effect = paired_effect(table.mean(axis=0), replicates, 80)
    mean, low, high, p_value, freedom = naive(table.mean(axis=0).tolist(), replicates.tolist(), 80)
    assert (effect.difference, effect.low, effect.high) == pytest.approx((mean, low, high), abs=1e-12)
    assert effect.p_value == pytest.approx(p_value, rel=1e-8)
    assert effect.freedom == pytest.approx(freedom, rel=1e-9)
    assert effect.standard_error**2 == pytest.approx(effect.seed_variance + effect.people_variance)


def test_components_are_those_of_a_balanced_two_way_table():
    """With many seeds and people the parts come near what the table was made of, the interaction counted once."""
    table, replicates = sample(200, 1000, (0.5, 0.1, 1.0), seed=3)
    effect = paired_effect(table.mean(axis=0), replicates, 1000)
    assert effect.seed_variance == pytest.approx(0.1**2 / 200, rel=0.35)
    assert effect.people_variance == pytest.approx(0.5**2 / 1000 + 1.0**2 / 200_000, rel=0.25)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_degrees_of_freedom_are_at_least_about_those_of_the_seeds(seeds, draw):
    """Also where resamples of the seeds undo each other in the mean."""
    generator = np.random.default_rng(draw)
    replicates = generator.normal(0, 1, (20, seeds))
    replicates[:, 0] -= generator.choice([0, 1]) * replicates.sum(axis=1) * generator.uniform(0.5, 1)
    effect = paired_effect(generator.normal(0, generator.uniform(0.01, 2), seeds), replicates, 30)
    assert effect.freedom >= 1 / (1 / (seeds - 1) + 1 / 29) - 1e-9


def test_equal_people_in_every_seed_leave_students_interval_of_the_seeds():
    differences = np.array([0.01, 0.03, 0.02, 0.05])
    replicates = np.tile(differences, (50, 1))  # resampling people changes nothing
    effect = paired_effect(differences, replicates, 20)
    expected = stats.ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    assert effect.p_value == pytest.approx(expected.pvalue)
    assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high))
    assert effect.freedom == pytest.approx(3)


def test_identical_arms_differ_by_0_with_p_1():
    effect = paired_effect(np.zeros(5), np.zeros((100, 5)), 30)
    assert (effect.difference, effect.low, effect.high, effect.p_value) == (0, 0, 0, 1)
    assert smallest_detectable(effect) is None
    assert paired_effect([0.01, -0.01], np.tile([0.01, -0.01], (9, 1)), 30).p_value == pytest.approx(1)


def test_a_difference_without_any_spread_has_no_interval():
    effect = paired_effect([0.5, 0.5], np.full((10, 2), 0.5), 30)
    assert (effect.difference, effect.low, effect.p_value) == (0.5, None, None)
    assert "the variance is unknown" in effect.reason


def test_too_little_to_judge_by_says_so():
    assert paired_effect([], np.zeros((4, 0)), 9).reason.startswith("no seed")
    one = paired_effect([0.3], np.zeros((4, 1)), 9)
    assert (one.difference, one.p_value) == (0.3, None)
    assert "one seed" in one.reason
    assert "no resample" in paired_effect([0.3, 0.2], np.full((4, 2), np.nan), 9).reason


def test_resamples_without_a_value_are_left_out():
    table, replicates = sample(4, 50, (0.1, 0.02, 0.05))
    damaged = np.vstack([replicates, [[np.nan, 9, 9, 9]]])
    assert paired_effect(table.mean(axis=0), damaged, 50) == paired_effect(table.mean(axis=0), replicates, 50)


@pytest.mark.parametrize(
    ("differences", "replicates", "people", "message"),
    [
        ([0.1, 0.2], np.zeros((5, 3)), 9, "shape"),
        ([0.1, np.nan], np.zeros((5, 2)), 9, "NaN or infinite"),
        ([0.1, 0.2], np.zeros((5, 2)), 1, "people is 1"),
    ],
)
def test_what_does_not_fit_is_refused(differences, replicates, people, message):
    with pytest.raises(InputError, match=message):
        paired_effect(differences, replicates, people)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.2))
def test_holm_rejects_what_its_steps_reject(p_values, alpha):
    left, rejected = list(range(len(p_values))), set()
    while left:
        smallest = min(left, key=lambda place: p_values[place])
        if p_values[smallest] * len(left) >= alpha:
            break
        rejected.add(smallest)
        left.remove(smallest)
    assert {place for place, p in enumerate(holm(p_values)) if p < alpha} == rejected


def test_holm_by_hand_and_a_contrast_that_could_not_be_tested():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, None, 0.5]) == [pytest.approx(0.06), None, 1.0]


def test_smallest_detectable_difference_is_found_as_often_as_said():
    table, replicates = sample(5, 80, (0.1, 0.02, 0.05))
    effect = paired_effect(table.mean(axis=0), replicates, 80)
    for tests in (1, 3):
        threshold = stats.t.isf(0.025 / tests, effect.freedom)
        shift = smallest_detectable(effect, tests) / effect.standard_error
        found = stats.nct.sf(threshold, effect.freedom, shift) + stats.nct.cdf(-threshold, effect.freedom, shift)
        assert found == pytest.approx(0.8, abs=1e-6)
