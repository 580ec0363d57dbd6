"""The split of a folder, identification by gallery and among distractors, against plain loops."""

import json

import numpy as np
import pytest

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.identification import search_embeddings
from coreface.evaluation.protocols import open_set
from coreface.evaluation.protocols.open_set import identify, identify_among_distractors, split_open_set
from support.toy_embeddings import people


def test_the_split_is_what_it_says():
    identities = np.random.default_rng(0).permutation(np.repeat(np.arange(20), [1] * 5 + [3] * 15))
    split = split_open_set(identities, seed=4)
    first, second = (identities[gallery] for gallery in split.galleries)
    assert (len(first), len(second)) == (5, 5)  # of 15 people a third stays unknown
    assert len({*first, *second}) == 10
    assert min(*first, *second) >= 5
    everyone = np.concatenate([*split.galleries, split.probes])
    assert sorted(everyone) == list(range(len(identities)))
    for person in range(20):  # the other images of somebody enrolled, and all of somebody unknown
        searched = np.count_nonzero(identities[split.probes] == person)
        assert searched == (2 if person in {*first, *second} else np.count_nonzero(identities == person))
    again, other = split_open_set(identities, seed=4), split_open_set(identities, seed=5)
    assert all((a == b).all() for a, b in zip(split.galleries, again.galleries, strict=True))
    assert any((a != b).any() for a, b in zip(split.galleries, other.galleries, strict=True))
    assert len(np.concatenate(split_open_set(identities, unknown=0).galleries)) == 15


def test_which_image_is_enrolled_is_drawn():
    identities = np.repeat(np.arange(200), 4)
    enrolled = np.concatenate(split_open_set(identities, unknown=0).galleries) % 4
    assert np.bincount(enrolled).min() > 30


def test_identification_is_by_gallery_and_their_mean():
    embeddings, identities = people([4] * 30, seed=2)
    split = split_open_set(identities, seed=1)
    result = identify(embeddings, identities, split, (0.1, 0.01))
    for gallery, searches in zip(split.galleries, result.searches, strict=True):
        expected = search_embeddings(
            embeddings[split.probes], embeddings[gallery], identities[split.probes], identities[gallery]
        )
        assert (expected.rank == searches.rank).all()
        assert np.count_nonzero(searches.mated) == 3 * len(gallery)
    one, other = result.open_set(0.1)
    assert one.threshold != other.threshold
    assert result.mean_tpir(0.1) == pytest.approx(
        ((one.tpir + other.tpir) / 2, (one.tpir_any_rank + other.tpir_any_rank) / 2)
    )
    assert result.mean_rate(1) == pytest.approx(np.mean([curve.at(1) for curve in result.cmc()]))
    plain = result.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["open_set"][0]["galleries"][1] == other.to_dict()
    merged = identify(embeddings, identities, split, (1e-4,))
    assert merged.mean_tpir(1e-4) == (None, None)


def naive_distractors(embeddings, identities, distractors, size):
    unit, strangers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (embeddings, distractors))
    found = searches = 0
    for probe in range(len(unit)):
        for mate in range(len(unit)):
            if probe != mate and identities[probe] == identities[mate]:
                searches += 1
                found += unit[probe] @ unit[mate] > max(unit[probe] @ stranger for stranger in strangers[:size])
    return found / searches, searches


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_distractors_equal_plain_loops(monkeypatch, block):
    monkeypatch.setattr(open_set, "_BLOCK", block)
    embeddings, identities = people([3, 1, 4, 2], seed=1)
    distractors = np.random.default_rng(5).normal(size=(120, 8))
    rates = identify_among_distractors(embeddings, identities, distractors)
    assert [rate.distractors for rate in rates] == [10, 100, 120]
    for rate in rates:
        assert (rate.rate, rate.searches) == naive_distractors(embeddings, identities, distractors, rate.distractors)
    assert rates[0].rate > rates[-1].rate
    tied = identify_among_distractors(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1], np.eye(2), [1, 2])
    assert [rate.rate for rate in tied] == [0.5, 0.0]  # a distractor as good as the mate is an error


def test_what_cannot_be_identified():
    embeddings, identities = people([4] * 6)
    split = split_open_set(identities)
    with pytest.raises(InputError, match="expected one"):
        identify(embeddings, identities[:-1], split)
    with pytest.raises(EvaluationError, match="1 of 4 people have two images"):
        split_open_set([0, 0, 1, 2, 3])
    with pytest.raises(InputError, match="unknown is 1"):
        split_open_set(identities, unknown=1)
    with pytest.raises(InputError, match="identities have shape"):
        split_open_set([0.5, 1.0])
    with pytest.raises(InputError, match="8 dimensions, the gallery 4"):
        search_embeddings(embeddings, embeddings[:, :4], identities, identities)
    with pytest.raises(InputError, match="expected one"):
        search_embeddings(embeddings, embeddings, identities, identities[1:])
    with pytest.raises(EvaluationError, match="NaN"):
        search_embeddings(embeddings * np.nan, embeddings, identities, identities)
    with pytest.raises(InputError, match="sizes are"):
        identify_among_distractors(embeddings, identities, embeddings[:5], [6])
    with pytest.raises(EvaluationError, match="no person has two images"):
        identify_among_distractors(embeddings[:2], [0, 1], embeddings)
    with pytest.raises(InputError, match="expected one"):
        identify_among_distractors(embeddings, [0], embeddings)
