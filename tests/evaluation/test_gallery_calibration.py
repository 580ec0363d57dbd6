"""Thresholds for galleries of templates: scores and rates again by plain loops, and a promise that is kept."""

import json
import math

import numpy as np
import pytest

from coreface.errors import InputError, ModelError
from coreface.evaluation.calibrate import calibrate_embeddings
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.gallery_calibration import expected_fpir, threshold_of_templates
from coreface.evaluation.template_scores import score_templates


def people(count, images, seed, size=24, spread=0.9):
    """Unit vectors of people whose images vary about a direction of their own, and whose they are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 1, size))
    rows = (centres + spread * rng.normal(size=(count, images, size))).reshape(-1, size)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return rows, np.repeat(np.arange(count), images)


def naive(embeddings, identities, probes, probe_identities, images, pooling):
    scores = []
    for person in sorted(set(identities.tolist())):
        own = [row for row, identity in zip(embeddings.tolist(), identities, strict=True) if identity == person]
        for start in range(0, len(own) - images + 1, images):
            group = own[start : start + images]
            for probe, whose in zip(probes.tolist(), probe_identities, strict=True):
                if whose == person:
                    continue
                if pooling == "mean":
                    mean = [sum(column) / images for column in zip(*group, strict=True)]
                    length = math.sqrt(sum(value**2 for value in mean))
                    scores.append(sum(a * b for a, b in zip(mean, probe, strict=True)) / length)
                else:
                    scores.append(max(sum(a * b for a, b in zip(row, probe, strict=True)) for row in group))
    return np.array(scores)


@pytest.mark.parametrize("pooling", ["mean", "best"])
def test_scores_are_those_of_plain_loops(pooling):
    rows, identities = people(7, 5, 0)
    probes, whose = people(9, 2, 1)
    whose = whose + 3  # some are the same people
    found = score_templates(rows, identities, probes, whose)[pooling]
    assert [scores.images for scores in found] == [2, 5]
    for scores in found:
        expected = naive(rows, identities, probes, whose, scores.images, pooling)
        assert (scores.impostor.count, scores.people) == (len(expected), 7)
        np.testing.assert_allclose(scores.impostor.scores[:50], np.sort(expected)[::-1][:50], atol=1e-6)


@pytest.fixture(scope="module")
def calibrator():
    return calibrate_embeddings(*people(120, 5, 0))


@pytest.mark.parametrize("pooling", ["mean", "best"])
@pytest.mark.parametrize("images", [{1: 20, 5: 30}, {2: 40}, {4: 10}, {9: 10}])
def test_the_rate_is_the_product_over_people(calibrator, images, pooling):
    at = threshold_of_templates(calibrator, images, pooling, 0.1)
    nobody = 1.0
    for number, count in images.items():
        if number == 1:
            share = float(calibrator.fmr(np.array([at.threshold]))[0])
        else:
            (kept,) = [s for s in calibrator.templates[pooling] if s.images == (2 if number == 2 else 5)]
            share = int(kept.impostor.reached(np.array([at.threshold]))[0]) / kept.impostor.count
        nobody *= (1 - share) ** count
    assert at.fpir == pytest.approx(1 - nobody, abs=1e-9)
    assert at.fpir <= 0.1
    assert at.method == "templates"
    assert at.fpir_low < at.fpir < at.fpir_high
    lower = at.threshold - 0.02
    low, high = expected_fpir(calibrator, images, pooling, np.array([lower, at.threshold]))
    assert low > 0.1 > high
    with pytest.raises(InputError):
        threshold_of_templates(calibrator, images, pooling, 0)


def test_one_image_each_is_the_old_rule(calibrator):
    for pooling in ("mean", "best"):
        at = threshold_of_templates(calibrator, {1: 50}, pooling, 0.05)
        assert at == calibrator.gallery_threshold(50, 0.05)
    without = Calibrator.fit([0.5, 0.9], np.linspace(-1, 0.5, 1000))
    assert threshold_of_templates(without, {3: 10}, "mean", 0.2) == without.gallery_threshold(10, 0.2)
    assert threshold_of_templates(without, {3: 10}, "best", 0.2) == without.gallery_threshold(30, 0.2)


@pytest.mark.parametrize("pooling", ["mean", "best"])
def test_the_promise_is_kept_where_single_images_would_break_it(calibrator, pooling):
    """Galleries of 30 new people of five images; the rate of 400 unknown people, over ten galleries."""
    kept, broken = [], []
    for seed in range(10):
        rows, _ = people(30, 5, 100 + seed)
        probes, _ = people(400, 1, 200 + seed)
        groups = rows.reshape(30, 5, -1)
        if pooling == "mean":
            means = groups.mean(axis=1)
            scores = probes @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
        else:
            scores = np.einsum("pd,gkd->pgk", probes, groups).max(axis=2)
        best = scores.max(axis=1)
        kept.append((best >= threshold_of_templates(calibrator, {5: 30}, pooling, 0.1).threshold).mean())
        broken.append((best >= calibrator.gallery_threshold(30, 0.1).threshold).mean())
    assert np.mean(kept) == pytest.approx(0.1, abs=0.025)
    assert np.mean(broken) > (0.14 if pooling == "best" else 0.0)


def test_far_below_what_the_templates_resolve_the_decline_of_single_images_goes_on(calibrator):
    at = threshold_of_templates(calibrator, {5: 1}, "mean", 1e-5)
    (kept,) = [scores for scores in calibrator.templates["mean"] if scores.images == 5]
    assert kept.impostor.count * 1e-5 < 1
    assert at.threshold > float(kept.impostor.threshold(30))
    assert at.standing in ("marked", "undecidable")


def test_it_is_saved_and_read(calibrator, tmp_path):
    path = calibrator.save(tmp_path, "abc")
    again = Calibrator.load(path, "abc")
    assert {rule: [s.images for s in kept] for rule, kept in again.templates.items()} == {
        "mean": [2, 5],
        "best": [2, 5],
    }
    for images in ({1: 20, 5: 30}, {1: 7}):
        mine, theirs = (threshold_of_templates(c, images, "mean", 0.1).to_dict() for c in (calibrator, again))
        assert mine == theirs
    content = json.loads(path.read_text())
    old = {name: value for name, value in content.items() if name != "templates"}
    path.write_text(json.dumps(old))  # as earlier versions wrote it
    assert Calibrator.load(path, "abc").templates == {"mean": (), "best": ()}
    for wrong in ([], {"mean": 3}, {"mean": [{}]}, {"mean": [{**content["templates"]["mean"][0], "images": 1}]}):
        path.write_text(json.dumps({**content, "templates": wrong}))
        with pytest.raises(ModelError, match="damaged"):
            Calibrator.load(path, "abc")
