"""Curves of measures of quality on embeddings: against plain loops, and what the combination may know."""

import math

import numpy as np
import pytest

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.discard import discard_curve
from coreface.evaluation.quality_curves import COMBINATION, combine_measures, quality_curves


def people(seed=0, count=12, images=5, size=16):
    """Embeddings whose noise is known: quality is less of it."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, size))
    noise = rng.uniform(0.2, 2.5, count * images)
    identities = np.repeat(np.arange(count), images)
    embeddings = centres[identities] + noise[:, None] * rng.normal(size=(count * images, size))
    return embeddings.astype(np.float32), identities, noise


def test_it_is_what_plain_loops_make_of_it():
    embeddings, identities, noise = people()
    order = np.random.default_rng(1).permutation(len(identities))
    embeddings, identities, noise = embeddings[order], identities[order], noise[order]
    found = quality_curves(embeddings, identities * 7 + 3, {"noise": -noise, "nothing": np.ones(60)}, replicates=20)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    genuine, quality, person, impostor = [], [], [], []
    for i in range(60):
        for j in range(i + 1, 60):
            score = float(unit[i] @ unit[j])
            if identities[i] == identities[j]:
                genuine.append(score)
                quality.append(min(-noise[i], -noise[j]))
                person.append(identities[i])
            else:
                impostor.append(score)
    allowed = len(impostor) // 100
    rejected = sorted(impostor, reverse=True)[allowed]
    assert found.target == 0.01
    assert found.fmr == pytest.approx(allowed / len(impostor))
    assert found.threshold == pytest.approx(rejected, abs=1e-6)
    assert found.threshold > rejected - 1e-6
    assert found.fnmr == pytest.approx(np.mean(np.array(genuine) < found.threshold))
    assert (found.genuine, found.impostor, found.images, found.identities) == (120, len(impostor), 60, 12)
    expected = discard_curve(genuine, quality, person, found.threshold, replicates=0)
    np.testing.assert_allclose(found.curves["noise"].fnmr, expected.fnmr)
    assert found.curves["noise"].falls
    assert found.curves["nothing"].area == pytest.approx(1)
    assert list(found.curves) == ["noise", "nothing", COMBINATION]
    assert found.curves[COMBINATION].falls
    plain = found.to_dict()
    assert plain["curves"]["noise"]["area"] == found.curves["noise"].area


def test_nobody_is_judged_by_what_was_fitted_to_them():
    """Changing the embeddings of a person changes the combined quality of people in other folds alone."""
    embeddings, identities, noise = people(count=20)
    measures = [-noise, np.random.default_rng(2).normal(size=len(noise))]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    before = combine_measures(unit, identities.astype(np.int32), measures, seed=5)
    fold = np.random.default_rng(5).permutation(20) % 5
    changed = unit.copy()
    changed[identities == 4] = -changed[identities == 4][:, ::-1] * np.array([1, -1, 1, 1, -1])[:, None]
    after = combine_measures(changed, identities.astype(np.int32), measures, seed=5)
    same = fold[identities] == fold[4]
    np.testing.assert_array_equal(after[same], before[same])
    assert (after[~same] != before[~same]).all()


def test_the_combination_is_least_squares_on_logarithms_of_ranks():
    embeddings, identities, noise = people(count=10)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    other = np.random.default_rng(2).normal(size=len(noise))
    found = combine_measures(unit, identities.astype(np.int32), [-noise, other], folds=2, seed=0)
    fold = np.random.default_rng(0).permutation(10) % 2
    for number in (0, 1):
        fitted = [i for i in range(50) if fold[identities[i]] != number]
        rows, right = [], []
        for i in range(50):
            ranks = [1 + sum(values[j] <= values[i] for j in fitted) for values in (-noise, other)]
            rows.append([1.0, *(math.log(rank) for rank in ranks)])
            others = [j for j in range(50) if identities[j] == identities[i] and j != i]
            right.append(sum(float(unit[i] @ unit[j]) for j in others) / len(others))
        rows, right = np.array(rows), np.array(right)
        normal = rows[fitted].T @ rows[fitted]
        weights = np.linalg.solve(normal, rows[fitted].T @ right[fitted])
        judged = [i for i in range(50) if fold[identities[i]] == number]
        np.testing.assert_allclose(found[judged], rows[judged] @ weights, atol=1e-5)


def test_few_people_have_no_combination_and_a_coarser_threshold():
    embeddings, identities, noise = people(count=4, images=2)
    found = quality_curves(embeddings, identities, {"noise": -noise, "more": noise}, replicates=0)
    assert found.target == 0.1
    assert list(found.curves) == ["noise", "more"]
    assert found.curves["noise"].interval is None
    with pytest.raises(EvaluationError, match="resolve no FMR"):
        quality_curves(embeddings[:3], identities[:3], {"noise": noise[:3]})


def test_another_fmr_has_another_threshold():
    embeddings, identities, noise = people()
    found = quality_curves(embeddings, identities, {"noise": -noise}, fmr=0.2, replicates=0)
    assert (found.target, found.fmr) == (0.2, pytest.approx(0.2, abs=1 / found.impostor))
    with pytest.raises(EvaluationError, match="resolve no FMR of 1e-05"):
        quality_curves(embeddings, identities, {"noise": -noise}, fmr=1e-5)


def test_people_of_one_image_are_judged_and_not_fitted_to():
    embeddings, identities, noise = people()
    identities[:5] = np.arange(100, 105)
    found = quality_curves(embeddings, identities, {"noise": -noise, "more": noise**2}, replicates=0)
    assert (found.identities, found.genuine) == (16, 110)
    assert np.isfinite(found.curves[COMBINATION].fnmr).all()


def test_what_is_refused():
    embeddings, identities, noise = people()
    with pytest.raises(InputError, match="noise has shape"):
        quality_curves(embeddings, identities, {"noise": noise[1:]})
    with pytest.raises(EvaluationError, match="noise of image 3 is not finite"):
        quality_curves(embeddings, identities, {"noise": np.where(np.arange(60) == 3, np.nan, noise)})
    with pytest.raises(InputError, match="an integer an image"):
        quality_curves(embeddings, identities * 1.0, {"noise": noise})
    with pytest.raises(EvaluationError, match="0 genuine and"):
        quality_curves(embeddings, np.arange(60), {"noise": noise})
