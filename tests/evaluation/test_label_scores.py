"""Scores of labels and of wrong labels, against plain loops over the cosines."""

import itertools

import numpy as np
import pytest

from coreface.errors import InputError
from coreface.evaluation.label_scores import LabelledEmbeddings, two_means
from support.toy_embeddings import people


def cosines(embeddings):
    unit = np.asarray(embeddings, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.fixture
def crowd():
    embeddings, identities = people([1, 2, 2, 3, 5, 8, 0, 4], seed=1)
    return embeddings, identities, cosines(embeddings)


def to_centre(embeddings, image, members):
    unit = np.asarray(embeddings, np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centre = sum(unit[j] for j in members)
    return unit[image] @ centre / np.sqrt(centre @ centre)


def test_own_scores_are_cosines_with_the_centre_of_the_others(crowd):
    embeddings, identities, _ = crowd
    scores = LabelledEmbeddings(embeddings, identities).own_scores()
    for i, score in enumerate(scores):
        others = [j for j in range(len(identities)) if identities[j] == identities[i] and j != i]
        assert score == pytest.approx(to_centre(embeddings, i, others), abs=1e-5) if others else np.isnan(score)


def margin(embeddings, identities, image, place):
    """The score of an image in a place: its cosine with the others there, less that with the most alike stranger."""
    strangers = set(identities.tolist()) - {int(identities[place]), int(identities[image])}
    rest = [j for j in range(len(identities)) if identities[j] == identities[place] and j != place]
    nearest = max(to_centre(embeddings, image, np.flatnonzero(identities == k)) for k in strangers)
    return to_centre(embeddings, image, rest) - nearest


def alone(embeddings, identities, image, place):
    rest = [j for j in range(len(identities)) if identities[j] == identities[place] and j != place]
    return to_centre(embeddings, image, rest)


@pytest.mark.parametrize(("kind", "score_of"), [("image_scores", margin), ("pair_scores", alone)])
def test_images_and_those_of_others_in_the_same_places(crowd, kind, score_of):
    """Every wrong score is one of the possible ones: an image of somebody else in the place of the image."""
    embeddings, identities, _ = crowd
    rows = np.flatnonzero(np.bincount(identities)[identities] > 2)
    scores = getattr(LabelledEmbeddings(embeddings, identities, seed=3), kind)(rows)
    expected = [score_of(embeddings, identities, row, row) for row in rows]
    np.testing.assert_allclose(scores.observed, expected, atol=1e-5)
    assert scores.wrong.shape == (5 * len(rows),)
    drawn = set()
    for place, score in zip(np.tile(rows, 5), scores.wrong, strict=True):
        possible = {
            i: score_of(embeddings, identities, i, place)
            for i in range(len(identities))
            if identities[i] != identities[place]
        }
        fits = [i for i, value in possible.items() if abs(value - score) < 1e-5]
        assert fits, (place, score)
        drawn.update(fits)
    assert drawn == set(range(len(identities)))  # everybody is drawn, those of single images as well


def test_nearest_other(crowd):
    embeddings, identities, _ = crowd
    rows = np.array([0, 3, 7, 20])
    which, scores = LabelledEmbeddings(embeddings, identities).nearest_other(rows)
    for row, other, score in zip(rows, which, scores, strict=True):
        scores_of = {
            k: to_centre(embeddings, row, np.flatnonzero(identities == k))
            for k in set(identities.tolist()) - {int(identities[row])}
        }
        assert other == max(scores_of, key=scores_of.get)
        assert score == pytest.approx(scores_of[other], abs=1e-5)


def test_twins(crowd):
    embeddings, identities, cosine = crowd
    scores, present, nearest = LabelledEmbeddings(embeddings, identities).twin_scores()
    assert present.tolist() == sorted(set(identities.tolist()))
    for one, other, score in zip(present, nearest, scores.observed, strict=True):
        between = {k: np.mean(cosine[np.ix_(identities == one, identities == k)]) for k in present.tolist() if k != one}
        assert other == max(between, key=between.get)
        assert score == pytest.approx(between[other], abs=1e-5)
    several = [k for k in present if (identities == k).sum() > 1]
    assert len(scores.wrong) == len(several)
    for k, score in zip(several, scores.wrong, strict=True):
        members = np.flatnonzero(identities == k)
        possible = [
            np.mean(cosine[np.ix_(half, np.setdiff1d(members, half))])
            for half in itertools.combinations(members, len(members) // 2)
        ]
        assert min(abs(value - score) for value in possible) < 1e-5


def test_two_people_are_divided():
    rng = np.random.default_rng(0)
    a, b = np.eye(8)[0] + 0.2 * rng.normal(size=(5, 8)), np.eye(8)[1] + 0.2 * rng.normal(size=(3, 8))
    embeddings = np.concatenate([a, b, *(np.eye(8)[k] + 0.2 * rng.normal(size=(6, 8)) for k in range(2, 8))])
    identities = np.array([0] * 8 + [k for k in range(1, 7) for _ in range(6)])
    scores, chosen, smaller = LabelledEmbeddings(embeddings, identities).split_scores()
    place = chosen.tolist().index(0)
    assert sorted(smaller[place].tolist()) == [5, 6, 7]
    assert scores.observed[place] == pytest.approx(cosines(embeddings)[:5, 5:8].mean(), abs=1e-5)
    assert scores.observed[place] == scores.observed.min()
    assert 0 < len(scores.wrong) <= len(chosen)  # not where three people were put together and divided unevenly
    assert scores.wrong.max() < np.delete(scores.observed, place).min()


def test_two_means_ends_where_every_image_is_nearer_to_its_side():
    for seed in range(20):
        unit = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        side = two_means(unit)
        centres = [unit[side == k].sum(axis=0) for k in (0, 1)]
        centres = [centre / np.linalg.norm(centre) for centre in centres]
        assert all(unit[i] @ centres[side[i]] >= unit[i] @ centres[1 - side[i]] - 1e-6 for i in range(9))


def test_equal_images_are_one_side():
    assert two_means(np.ones((4, 2), np.float32) / np.sqrt(2, dtype=np.float32)).tolist() == [0] * 4


def test_one_identity_has_nothing_to_compare_with():
    crowd = LabelledEmbeddings(*people([6]))
    assert not len(crowd.image_scores(np.arange(6)).observed)
    assert not len(crowd.pair_scores(np.arange(6)).wrong)
    assert not len(crowd.split_scores().scores.wrong)
    assert not len(crowd.twin_scores()[0].observed)
    assert crowd.nearest_other(np.arange(2))[0].tolist() == [-1, -1]


def test_the_seed_decides(crowd):
    embeddings, identities, _ = crowd
    rows = np.flatnonzero(np.bincount(identities)[identities] > 2)
    one, same, other = (
        LabelledEmbeddings(embeddings, identities, seed=seed).image_scores(rows).wrong for seed in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()


def test_bad_embeddings():
    with pytest.raises(InputError, match="embedding 1 is zero or not finite"):
        LabelledEmbeddings(np.array([[1.0, 0], [0, 0]]), np.array([0, 1]))
    with pytest.raises(InputError, match="expected \\(N, D\\)"):
        LabelledEmbeddings(np.ones((2, 2)), np.array([0, 1, 2]))
