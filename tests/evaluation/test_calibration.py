"""Calibrated thresholds against the scores they come from, the file they are kept in, and what they promise."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import EvaluationError, InputError, ModelError
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.metrics import tar_at_far
from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.metrics.tail import Tail

STUDENT_10 = 2.228139  # 97.5 % quantile, 10 degrees of freedom


def scores(seed=0, genuine=500, impostor=30_000, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return generator.normal(3, 1, genuine).astype(dtype), generator.normal(0, 1, impostor).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_thresholds_are_those_of_the_conservative_rule(dtype):
    genuine, impostor = scores(dtype=dtype)
    calibrator = Calibrator.fit(genuine, impostor)
    for far in (0.5, 0.1, 0.05, 0.01, 2e-3, 1e-3, 1e-4):
        expected, found = tar_at_far(genuine, impostor, far), calibrator.threshold(far)
        assert (found.threshold, found.fmr) == (expected.threshold, expected.fmr)
        assert found.fnmr == pytest.approx(expected.fnmr)
        assert found.badge.errors == round(expected.fmr * len(impostor))
        assert (found.fmr_low, found.threshold_low) == (None, None)  # no identities, no interval
    assert not calibrator.threshold(1e-6).resolvable
    assert calibrator.threshold(1e-6).threshold is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-4, 0.99))
def test_the_achieved_fmr_never_exceeds_the_target(seed, far):
    generator = np.random.default_rng(seed)
    impostor = generator.normal(size=int(generator.integers(1, 9000))).round(int(generator.integers(1, 4)))
    found = Calibrator.fit([1.0, 2.0], impostor).threshold(far)
    if found.resolvable:
        accepted = np.count_nonzero(impostor >= found.threshold)
        assert Fraction(int(accepted), len(impostor)) <= Fraction(repr(far))
        assert found.fmr == accepted / len(impostor)
        best = np.count_nonzero(impostor >= tar_at_far([1.0], impostor, far).threshold)
        ties = np.unique(impostor, return_counts=True)[1].max()
        assert best - accepted <= 0.01 * best + ties  # a small file costs 1 % of rank
    else:
        assert Fraction(repr(far)) * len(impostor) < 1


def test_a_score_stands_for_an_fmr():
    genuine, impostor = scores(impostor=1500)
    calibrator = Calibrator.fit(genuine, impostor)  # few enough to be kept whole
    asked = np.r_[impostor[:200], genuine[:200], -10, 10, np.nextafter(impostor[:5], np.float32(9))].reshape(1, -1)
    expected = [[np.mean(impostor.astype(float) >= float(score)) for score in asked[0]]]
    np.testing.assert_array_equal(calibrator.fmr(asked), expected)
    assert calibrator.fmr(10.0) == 0.0
    with pytest.raises(EvaluationError, match="NaN"):
        calibrator.fmr([np.nan])


def test_a_large_set_is_kept_small_and_rates_are_rounded_up():
    genuine, impostor = scores(impostor=400_000)
    calibrator = Calibrator.fit(genuine, impostor)
    assert len(calibrator.impostor.scores) < 4000
    asked = np.linspace(-4, 5, 2000)
    exact = np.array([np.mean(impostor.astype(float) >= score) for score in asked])
    given = calibrator.fmr(asked)
    assert (given >= exact).all()
    assert (given <= 1.02 * exact).all()
    for far in (0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-5):  # the usual targets are exact
        assert calibrator.threshold(far).threshold == tar_at_far(genuine, impostor, far).threshold


@pytest.mark.parametrize("seed", range(60))
def test_a_tail_counts_like_a_loop(seed):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 9, int(generator.integers(1, 30))) / 4
    tail = Tail.of(values)
    for threshold in (*np.unique(values), -1.0, 0.1, 1.3, 9.0):
        assert tail.reached(np.array([threshold]))[0] == sum(value >= threshold for value in values)
    for allowed in range(len(values)):
        threshold = tail.threshold(allowed)
        assert sum(value >= threshold for value in values) <= allowed
        below = np.nextafter(threshold, -1)
        assert sum(value >= below for value in values) > allowed
    assert Tail.from_dict(json.loads(json.dumps(tail.to_dict()))).to_dict() == tail.to_dict()


def identified(seed, identities=60, images=4, share=0.5):
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(identities), images)
    i, j = np.triu_indices(len(label), 1)
    first, second = label[i], label[j]
    wolf = generator.normal(0, np.sqrt(share / 2), identities)
    noise = generator.normal(0, np.sqrt(1 - share), len(i))
    same = first == second
    return PairScores(noise + np.where(same, 3, wolf[first] + wolf[second]), first, second)


def test_intervals_come_from_identities():
    pairs = identified(0)
    calibrator = Calibrator.fit(pairs.genuine_scores, pairs.impostor_scores, pairs=pairs)
    at = calibrator.threshold(1e-2)
    assert at.fmr_low < at.fmr < at.fmr_high
    assert at.threshold_low < at.threshold < at.threshold_high
    assert calibrator.fmr(at.threshold_low) <= at.fmr_high
    independent = 2 * 1.96 * np.sqrt(0.01 * 0.99 / len(pairs.impostor_scores))
    assert at.fmr_high - at.fmr_low > 2 * independent  # pairs share people
    covered = 0
    truth = 1 - 0.977249868  # of a normal score at 2
    for seed in range(40):
        pairs = identified(seed)
        fitted = Calibrator.fit(pairs.genuine_scores, pairs.impostor_scores, pairs=pairs)
        low, high = (fitted.threshold(0.0228).to_dict()[name] for name in ("threshold_low", "threshold_high"))
        covered += low <= 2.0 <= high
    assert covered >= 33
    assert truth == pytest.approx(0.02275, abs=1e-4)


def test_few_identities_widen_the_interval_by_students_quantile():
    genuine, impostor = scores()
    calibrator = Calibrator(Tail.of(genuine), Tail.of(impostor), effective=(None, 400.0, *[None] * 4), identities=11)
    at = calibrator.threshold(0.01)
    for end in (at.fmr_low, at.fmr_high):  # Wilson's equation
        assert abs(at.fmr - end) == pytest.approx(STUDENT_10 * (end * (1 - end) / 400) ** 0.5, rel=0.01)


def test_thirty_false_alarms_are_enough_to_believe_the_searches():
    genuine, impostor = scores()
    maxima = np.random.default_rng(0).normal(3, 0.5, 300)
    for searches, method in ((300, "searches"), (299, "independence")):  # 30 and 29 false alarms
        calibrator = Calibrator.fit(genuine, impostor, non_mated=maxima[:searches], gallery=50)
        assert calibrator.gallery_threshold(50, 0.1).method == method


def test_a_gallery_from_pairs():
    genuine, impostor = scores()
    calibrator = Calibrator.fit(genuine, impostor)
    at = calibrator.gallery_threshold(100, 0.1)
    assert at.method == "independence"
    share = 1 - 0.9**0.01
    assert at.threshold == tar_at_far(genuine, impostor, share).threshold
    assert 1 - (1 - at.fmr) ** 100 <= 0.1
    assert calibrator.gallery_threshold(1, 0.1).threshold == calibrator.threshold(0.1).threshold
    assert not calibrator.gallery_threshold(10**6, 0.01).resolvable


def test_a_gallery_from_searches_where_there_are_enough():
    generator = np.random.default_rng(0)
    genuine, impostor = scores()
    maxima = generator.normal(0, 1, (1000, 50)).max(axis=1) + 1  # searches score higher than pairs would say
    calibrator = Calibrator.fit(genuine, impostor, non_mated=maxima, gallery=50)
    at = calibrator.gallery_threshold(50, 0.1)
    assert at.method == "searches"
    assert np.count_nonzero(maxima.astype(np.float32) >= np.float32(at.threshold)) == 100
    larger = calibrator.gallery_threshold(100, 0.1)  # of twice the size: as two independent galleries
    alarms = np.count_nonzero(maxima.astype(np.float32) >= np.float32(larger.threshold))
    assert alarms == int(1000 * (1 - 0.9**0.5))
    assert calibrator.gallery_threshold(50, 0.01).method == "independence"  # 10 alarms are too few


def crowded(people, seed):
    """Embeddings as real ones are: people crowd in groups, and some lie near the middle and resemble everybody."""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(99).normal(size=(12, 48)) * 0.9
    middle = np.random.default_rng(98).normal(size=48)
    commonness = rng.exponential(0.5, people)[:, None]
    rows = groups[rng.integers(0, 12, people)] + commonness * middle + rng.normal(size=(people, 48))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def calibrator_of(rows):
    scores = rows @ rows.T
    i, j = np.triu_indices(len(rows), 1)
    np.fill_diagonal(scores, -1)
    return Calibrator.fit([0.9, 1.0], scores[i, j], non_mated=scores.max(axis=1), gallery=len(rows) - 1)


def test_the_promise_holds_for_galleries_of_every_size():
    """Where people are not alike, searches in a large gallery say nothing of a small one."""
    for asked in (0.1, 0.05):
        achieved = {size: [] for size in (5, 15, 30, 100, 300, 1000, 1600)}
        naive = {size: [] for size in achieved}
        for seed in range(6):
            calibrator = calibrator_of(crowded(1000, seed))
            unknown = crowded(1500, 100 + seed)
            everybody = unknown @ crowded(1600, 200 + seed).T
            for size in achieved:
                at = calibrator.gallery_threshold(size, asked)
                assert at.method == ("searches" if size >= 1000 else "independence")
                achieved[size].append(float((everybody[:, :size].max(axis=1) >= at.threshold).mean()))
                share = 1 - (1 - asked) ** (999 / size)
                allowed = min(int(share * calibrator.searches.count), calibrator.searches.count - 1)
                threshold = calibrator.searches.threshold(allowed)
                naive[size].append(float((everybody[:, :size].max(axis=1) >= threshold).mean()))
        for size, rates in achieved.items():
            assert np.mean(rates) < 1.25 * asked, (asked, size)
            assert np.mean(rates) > 0.4 * asked, (asked, size)
        assert np.mean(naive[15]) > 1.5 * asked  # what it did once


def test_what_a_decision_rests_on():
    calibrator = Calibrator.fit([1.0, 2.0], np.arange(10_000) / 10_000)
    for fmr, standing, alarms in ((0.003, "solid", 30), (0.0029, "marked", 29), (0.0003, "marked", 3)):
        at = calibrator.threshold(fmr)
        assert (at.standing, at.alarms) == (standing, alarms)
        assert at.to_dict()["standing"] == standing
    for fmr in (0.0002, 0.0001):
        at = calibrator.threshold(fmr)
        assert at.threshold is not None
        assert at.standing == "undecidable"
    assert calibrator.threshold(1e-5).standing == "undecidable"
    # A gallery of ten asks ten times more of the pairs.
    assert calibrator.gallery_threshold(10, 0.04).standing == "solid"
    assert calibrator.gallery_threshold(10, 0.01).standing == "marked"
    assert calibrator.gallery_threshold(1000, 0.01).standing == "undecidable"


def test_the_interval_of_an_fpir_is_its_own():
    pairs = identified(3, identities=120)
    fitted = Calibrator.fit(
        pairs.genuine_scores,
        pairs.impostor_scores,
        pairs=pairs,
        non_mated=np.random.default_rng(0).normal(2.5, 0.4, 480),
        gallery=119,
    )
    small, large = fitted.gallery_threshold(10, 0.1), fitted.gallery_threshold(119, 0.2)
    assert (small.method, large.method) == ("independence", "searches")
    assert small.fpir == pytest.approx(1 - (1 - small.fmr) ** 10)
    assert small.fpir_low == pytest.approx(1 - (1 - small.fmr_low) ** 10)
    assert small.fpir_high == pytest.approx(1 - (1 - small.fmr_high) ** 10)
    assert large.fpir == pytest.approx(96 / 480)
    assert large.alarms == 96
    z = 1.9801  # Student, 119 degrees of freedom; the 120 people are the trials
    for end in (large.fpir_low, large.fpir_high):
        assert abs(large.fpir - end) == pytest.approx(z * (end * (1 - end) / 120) ** 0.5, rel=0.01)
    for at in (small, large):
        few, many = at.fpir_of(50), at.fpir_of(10**9)
        assert few[0] < many[0] <= at.fpir <= many[1] < few[1]
        alone = 1.96 * (at.fpir * (1 - at.fpir) / 50) ** 0.5
        assert few[1] - few[0] > 1.9 * alone
    assert fitted.threshold(0.1).fpir_of(50) is None
    with pytest.raises(InputError, match="searches is 0"):
        small.fpir_of(0)


def test_prediction_intervals_hold_what_searches_show():
    """Pairs that share nobody, so that the number of trials in effect is that of the pairs."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        impostor = rng.normal(size=4000)
        fitted = Calibrator(Tail.of(np.ones(2)), Tail.of(impostor), effective=(4000.0,) * 6, identities=4000)
        at = fitted.gallery_threshold(20, 0.2)
        probability = 1 - (1 - 0.5 * math.erfc(at.threshold / 2**0.5)) ** 20
        seen = rng.binomial(150, probability) / 150
        low, high = at.fpir_of(150)
        held += low <= seen <= high
    assert 0.91 <= held / 300 <= 0.99


@pytest.mark.parametrize("gallery", [100, 10**6])
def test_a_gallery_far_smaller_than_the_one_searched_is_judged_by_pairs(gallery):
    genuine, impostor = scores()
    maxima = np.random.default_rng(1).normal(2, 0.5, 1000)
    calibrator = Calibrator.fit(genuine, impostor, non_mated=maxima, gallery=gallery)
    at = calibrator.gallery_threshold(1, 0.3)  # in the gallery that was searched every search might alarm
    assert at.method == "independence"
    assert at.threshold == calibrator.threshold(0.3).threshold


def test_gallery_rates_that_round_to_none_and_to_all():
    calibrator = Calibrator.fit(*scores(), non_mated=np.arange(500) / 100, gallery=20)
    assert not calibrator.gallery_threshold(10**30, 1e-300).resolvable
    with pytest.raises(InputError, match="lets every impostor pair match"):
        calibrator.gallery_threshold(1, 1 - 1e-14)


def test_the_file_keeps_everything(tmp_path):
    pairs = identified(1)
    fitted = Calibrator.fit(
        pairs.genuine_scores, pairs.impostor_scores, pairs=pairs, non_mated=np.arange(500) / 100, gallery=20
    )
    path = fitted.save(tmp_path, "a" * 64)
    assert path.name == "calibration.json"
    assert path.parent == tmp_path
    loaded = Calibrator.load(tmp_path, "a" * 64)
    for far in (0.3, 0.1, 1e-2, 1e-3, 1e-6):
        assert loaded.threshold(far) == fitted.threshold(far)
    assert loaded.gallery_threshold(20, 0.1) == fitted.gallery_threshold(20, 0.1)
    assert (loaded.fmr(np.linspace(-3, 3, 50)) == fitted.fmr(np.linspace(-3, 3, 50))).all()
    with pytest.raises(ModelError, match=r"another encoder or pipeline \(aaaaaaaaaaaa, expected bbbbbbbbbbbb\)"):
        Calibrator.load(tmp_path, "b" * 64)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[1]",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"dtype": "float64"', '"dtype": "object"'),
        lambda text: text.replace('"count": ', '"count": 7'),
        lambda text: text.replace('"above"', '"below"'),
        lambda text: text.replace('"gallery": 0', '"gallery": "x"'),
        lambda text: text.replace('"gallery": 0', '"gallery": Infinity'),
        lambda text: text.replace('"gallery": 0', '"gallery": -1'),
        lambda text: text.replace('"identities": 0', '"identities": NaN'),
        lambda text: text.replace('"identities": 0', '"identities": 1e400'),
        lambda text: "[" * 100_000,
        lambda text: "9" * 5000,
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    pairs = identified(1, identities=8)
    path = Calibrator.fit(pairs.genuine_scores, pairs.impostor_scores).save(tmp_path, "a" * 64)
    changed = damage(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(ModelError, match="make it again with coreface calibrate") as caught:
        Calibrator.load(tmp_path, "a" * 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("impostor", "above", 3), 2**70),
        (("impostor", "reach", 3), float("inf")),
        (("impostor", "scores", 3), 10**400),
        (("genuine", "scores", 0), float("nan")),
        (("genuine", "count"), float("inf")),
        (("genuine", "dtype"), "("),
        (("genuine", "dtype"), ["float32"]),
        (("genuine",), []),
        (("gallery",), 0),  # with the searches of one
        (("gallery",), 1.5),
        (("identities",), -3),
        (("effective_impostor_pairs",), [-5.0] * 6),
        (("effective_impostor_pairs", 1), 0),
        (("effective_impostor_pairs", 0), float("nan")),
        (("effective_impostor_pairs", 0), float("inf")),
        (("effective_impostor_pairs", 0), 10**400),
        (("effective_impostor_pairs",), [5.0] * 5),
        (("effective_impostor_pairs",), 5.0),
    ],
)
def test_numbers_that_are_none_of_a_calibration_are_refused(tmp_path, place, value):
    pairs = identified(1, identities=12)
    fitted = Calibrator.fit(
        pairs.genuine_scores, pairs.impostor_scores, pairs=pairs, non_mated=np.arange(50) / 10, gallery=20
    )
    path = fitted.save(tmp_path, "a" * 64)
    content = json.loads(path.read_text())
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"damaged .* make it again with coreface calibrate"):
        Calibrator.load(tmp_path, "a" * 64)


def test_what_cannot_be_calibrated(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        Calibrator.load(tmp_path, "a" * 64)
    with pytest.raises(EvaluationError, match="there are no impostor scores"):
        Calibrator.fit([0.5], [])
    with pytest.raises(EvaluationError, match="NaN"):
        Calibrator.fit([0.5, np.nan], [0.1])
    with pytest.raises(InputError, match="gallery is 0"):
        Calibrator.fit([0.5], [0.1], non_mated=[0.3])
    calibrator = Calibrator.fit([0.5], [0.1, 0.2])
    for target in (0, 1, 2, -1):
        with pytest.raises(InputError, match="expected a rate"):
            calibrator.threshold(target)
    with pytest.raises(InputError, match="the gallery has 0 entries"):
        calibrator.gallery_threshold(0, 0.1)
