"""Identification against plain loops, a toy worked by hand, and the mistakes that are common instead."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics import cmc, open_set_identification, search_scores
from coreface.evaluation.metrics import searches as module


def naive_searches(scores, probes, gallery):
    """(own score, rank, best other) of each probe; None where there is no such score."""
    rows = []
    for row, probe in zip(scores, probes, strict=True):
        own = [score for score, entry in zip(row, gallery, strict=True) if entry == probe]
        others = [score for score, entry in zip(row, gallery, strict=True) if entry != probe]
        best = max(own) if own else None
        rank = 1 + sum(score >= best for score in others) if own else None
        rows.append((best, rank, max(others) if others else None))
    return rows


def naive_open_set(scores, probes, gallery, target):
    """Best TPIR over every threshold whose FPIR is safe: what the closed rule has to reach."""
    rows = naive_searches(scores, probes, gallery)
    mated = [(own, rank) for own, rank, _ in rows if own is not None]
    maxima = [other for own, _, other in rows if own is None]
    best = None
    for threshold in sorted({*np.ravel(scores), *np.nextafter(np.ravel(scores), np.inf)}):
        fpir = Fraction(sum(score >= threshold for score in maxima), len(maxima))
        if fpir > Fraction(repr(target)):
            continue
        rank1 = sum(own >= threshold and rank == 1 for own, rank in mated) / len(mated)
        any_rank = sum(own >= threshold for own, _ in mated) / len(mated)
        if best is None:  # the lowest safe threshold
            best = (rank1, any_rank, float(fpir))
    return best


def random_search(seed):
    generator = np.random.default_rng(seed)
    people = int(generator.integers(2, 8))
    entries = generator.integers(0, people, int(generator.integers(1, 12)))
    probes = generator.integers(0, people + 4, int(generator.integers(2, 25)))
    probes[0], probes[1] = entries[0], people + 3  # one mated, one not
    scores = generator.integers(0, 12, (len(probes), len(entries))) / 16
    return scores, probes, entries


@pytest.mark.parametrize("seed", range(150))
def test_searches_equal_plain_loops(seed, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 1 + seed * 3 % 40)
    scores, probes, gallery = random_search(seed)
    measured = search_scores(scores, probes, gallery)
    for index, (own, rank, other) in enumerate(naive_searches(scores, probes, gallery)):
        assert measured.mated[index] == (own is not None)
        assert measured.own[index] == (-np.inf if own is None else own)
        assert measured.rank[index] == (rank or 0)
        assert measured.other[index] == (-np.inf if other is None else other)


@pytest.mark.parametrize("seed", range(150))
def test_open_set_is_the_best_of_all_safe_thresholds(seed):
    scores, probes, gallery = random_search(seed)
    non_mated = sum(probe not in set(gallery.tolist()) for probe in probes.tolist())
    for target in (0.05, 0.1, 0.29, 0.5, 0.9):
        measured = open_set_identification(scores, probes, gallery, target)
        assert measured.resolvable == (Fraction(repr(target)) * non_mated >= 1)
        assert (measured.mated, measured.non_mated) == (len(probes) - non_mated, non_mated)
        if measured.resolvable:
            assert (measured.tpir, measured.tpir_any_rank, measured.fpir) == naive_open_set(
                scores, probes, gallery, target
            )
            assert Fraction(measured.fpir).limit_denominator(1000) <= Fraction(repr(target))
        else:
            assert measured.tpir is measured.tpir_any_rank is measured.fpir is measured.threshold is None
            assert "not resolvable" in str(measured)


@pytest.mark.parametrize("seed", range(100))
def test_cmc_equals_plain_loops(seed):
    scores, probes, gallery = random_search(seed)
    mated = np.isin(probes, gallery)
    ranks = [rank for _, rank, _ in naive_searches(scores, probes, gallery) if rank]
    expected = [sum(rank <= r for rank in ranks) / len(ranks) for r in range(1, len(gallery) + 1)]
    measured = cmc(scores[mated], probes[mated], gallery)
    assert measured.rates.tolist() == expected
    assert measured.rates[-1] == 1.0
    assert cmc(scores[mated], probes[mated], gallery, 1).rates.tolist() == expected[:1]
    assert search_scores(scores, probes, gallery).cmc().rates.tolist() == expected
    assert measured.at(1) == expected[0]
    assert measured.at(10**6) == 1.0


@pytest.mark.parametrize("seed", range(40))
def test_fnir_curve_equals_plain_loops(seed):
    scores, probes, gallery = random_search(seed)
    rows = naive_searches(scores, probes, gallery)
    maxima = [other for own, _, other in rows if own is None]
    mated = [(own, rank) for own, rank, _ in rows if own is not None]
    curve = search_scores(scores, probes, gallery).fnir_curve()
    assert (np.diff(curve.thresholds) < 0).all()
    assert {*maxima} <= {*curve.thresholds.tolist()}
    for threshold, fpir, fnir in zip(curve.thresholds, curve.fpir, curve.fnir, strict=True):
        assert fpir == sum(score >= threshold for score in maxima) / len(maxima)
        missed = sum(not (own >= threshold and rank == 1) for own, rank in mated)
        assert fnir == pytest.approx(missed / len(mated), abs=1e-12)
    assert (curve.fpir[0], curve.fpir[-1]) == (0, 1)


def test_a_toy_with_two_galleries_worked_by_hand():
    """G1 holds a and b, G2 holds c and d; probes of all four and of a stranger e are searched in each gallery."""
    probes = ["a", "b", "c", "d", "e"]
    in_g1 = [[0.9, 0.2], [0.5, 0.4], [0.3, 0.1], [0.2, 0.6], [0.1, 0.35]]  # columns a, b
    in_g2 = [[0.1, 0.2], [0.3, 0.1], [0.8, 0.2], [0.5, 0.7], [0.65, 0.1]]  # columns c, d
    first = open_set_identification(in_g1, probes, ["a", "b"], 0.34)
    # G1: the non-mated maxima are c 0.3, d 0.6, e 0.35; one of three may pass: T is just above 0.35.
    # a is found (0.9, rank 1); b has 0.4 >= T at rank 2: only at any rank.
    assert (first.tpir, first.tpir_any_rank, first.fpir) == (0.5, 1.0, 1 / 3)
    assert first.threshold == np.nextafter(0.35, 1)
    second = open_set_identification(in_g2, probes, ["c", "d"], 0.34)
    # G2: maxima a 0.2, b 0.3, e 0.65: T just above 0.3; c (0.8) and d (0.7) are found.
    assert (second.tpir, second.tpir_any_rank, second.fpir) == (1.0, 1.0, 1 / 3)
    # In one merged gallery every probe but e would be mated: another question, with another answer.
    merged = open_set_identification(np.hstack([in_g1, in_g2]), probes, ["a", "b", "c", "d"], 0.34)
    assert (merged.mated, merged.non_mated, merged.resolvable) == (4, 1, False)


def test_fpir_counts_searches_and_not_pooled_pair_scores():
    # One stranger is like both entries: 1 of 2 searches raises an alarm, but 2 of 4 pairs, and of pairs the rule would
    # allow two, one a search.
    scores = [[0.9, 0.1], [0.8, 0.7], [0.2, 0.1], [0.3, 0.6]]
    measured = open_set_identification(scores, [0, 8, 9, 1], [0, 1], 0.5)
    assert measured.threshold == np.nextafter(0.2, 1)
    assert measured.fpir == 0.5
    pooled = sorted([0.8, 0.7, 0.2, 0.1])[::-1][2]
    assert pooled == 0.2  # here the two agree,
    more = open_set_identification([[0.9, 0.1], [0.8, 0.7], [0.75, 0.1]], [0, 8, 9], [0, 1], 0.5)
    pooled = sorted([0.8, 0.7, 0.75, 0.1])[::-1][2]
    assert (pooled, more.threshold) == (0.7, np.nextafter(0.75, 1))  # and here they do not: 0.7+ passes both searches


def test_ties_are_pessimistic():
    measured = cmc([[0.5, 0.5], [0.2, 0.5]], [0, 1], [0, 1])
    assert measured.rates.tolist() == [0.5, 1.0]  # an argmax would find entry 0 first
    assert search_scores(np.full((1, 5), 0.3), [2], np.arange(5)).rank.tolist() == [5]


def test_a_probe_that_failed_stays_in_the_denominator():
    scores = [[0.9, 0.1], [-1.0, -1.0], [0.2, 0.3]]
    measured = open_set_identification(scores, [0, 1, 9], [0, 1], 0.999)
    assert measured.resolvable is False
    measured = open_set_identification([*scores, [0.1, 0.0]], [0, 1, 9, 8], [0, 1], 0.5)
    assert (measured.mated, measured.tpir) == (2, 0.5)
    assert cmc(scores[:2], [0, 1], [0, 1]).rates.tolist() == [0.5, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_order_and_names_do_not_matter(seed):
    scores, probes, gallery = random_search(seed)
    generator = np.random.default_rng(seed)
    rows, columns = generator.permutation(len(probes)), generator.permutation(len(gallery))
    before = search_scores(scores, probes, gallery)
    named = (np.char.add("p", identities.astype(str)) for identities in (probes[rows], gallery[columns]))
    after = search_scores(scores[rows][:, columns], *named)
    for name in ("mated", "own", "rank", "other"):
        assert (getattr(before, name)[rows] == getattr(after, name)).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 0.999))
def test_achieved_fpir_never_exceeds_the_target(seed, target):
    measured = open_set_identification(*random_search(seed), target)
    if measured.resolvable:
        assert Fraction(round(measured.fpir * measured.non_mated), measured.non_mated) <= Fraction(repr(target))
        assert measured.tpir <= measured.tpir_any_rank


@pytest.mark.parametrize("dtypes", [(np.uint64, np.int64), (np.int64, np.uint64), (np.uint64, np.int8)])
def test_signed_and_unsigned_identities_are_compared_as_integers(dtypes):
    high = 2**60 if np.int8 not in dtypes else 100
    probes, gallery = [high, 5, high + 2], [high + 1, 5, high + 2, 5]
    scores = np.random.default_rng(0).random((3, 4))
    measured = search_scores(scores, np.array(probes, dtypes[0]), np.array(gallery, dtypes[1]))
    expected = naive_searches(scores, probes, gallery)
    assert measured.mated.tolist() == [own is not None for own, _, _ in expected] == [False, True, True]
    assert measured.rank.tolist() == [rank or 0 for _, rank, _ in expected]
    assert measured.other.tolist() == [other for _, _, other in expected]


def test_an_unsigned_identity_is_no_negative_one():
    scores = [[0.9, 0.1], [0.2, 0.8]]
    measured = search_scores(scores, np.array([2**64 - 1, 2**63], np.uint64), np.array([-1, -(2**63)]))
    assert measured.mated.tolist() == [False, False]


def test_scores_are_not_changed():
    scores, probes, gallery = random_search(3)
    gallery = np.sort(gallery)
    copy = scores.copy()
    search_scores(scores, probes, gallery)
    assert (scores == copy).all()


def test_plain_json():
    scores, probes, gallery = random_search(4)
    result = open_set_identification(scores, probes, gallery, 0.5)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert result.to_dict().keys() >= {"tpir", "tpir_any_rank", "fpir", "threshold", "mated", "non_mated"}
    curve = search_scores(scores, probes, gallery).cmc(3)
    assert json.loads(json.dumps(curve.to_dict())) == curve.to_dict()


@pytest.mark.parametrize(
    ("scores", "probes", "gallery", "error", "message"),
    [
        ([[0.1, 0.2]], [0, 1], [0, 1], InputError, r"scores have shape \(1, 2\); expected \(2, 2\)"),
        ([[np.nan, 0.2]], [0], [0, 1], EvaluationError, "scores hold 1 NaN"),
        ([[0.1, 0.2]], [0.0], [0, 1], InputError, "probes have shape .* dtype float64"),
        ([[0.1, 0.2]], [0], ["0", "1"], InputError, "expected both of a kind"),
        ([[0.1, 0.2]], [], [0, 1], InputError, "probes have shape"),
        ([[0.1], [0.2]], np.array([], int), [0], EvaluationError, "there are no probes"),
        ([[0.1], [0.2]], [0, 0], [0], EvaluationError, "none of the 2 searches is non-mated"),
        ([[0.1], [0.2]], [1, 1], [0], EvaluationError, "none of the 2 searches is mated"),
    ],
)
def test_searches_that_cannot_be_measured(scores, probes, gallery, error, message):
    with pytest.raises(error, match=message) as caught:
        open_set_identification(scores, probes, gallery, 0.1)
    assert "\n" not in str(caught.value)


def test_a_closed_set_refuses_probes_without_an_entry():
    with pytest.raises(EvaluationError, match=r"1 of 2 probes have no gallery entry \(the first is 1\)"):
        cmc([[0.5], [0.2]], [0, 7], [0])
    with pytest.raises(InputError, match="max_rank is 0"):
        cmc([[0.5]], [0], [0], 0)
    with pytest.raises(InputError, match="rank is 0"):
        cmc([[0.5]], [0], [0]).at(0)
