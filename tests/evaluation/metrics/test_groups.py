"""Rates by group against plain loops, and what is held back because too few errors stand behind it."""

import json

import numpy as np
import pytest

from coreface.errors import DataError, InputError
from coreface.evaluation.all_pairs import AllPairs
from coreface.evaluation.metrics.groups import group_rates
from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.protocols.groups import labels_of, read_labels


def population(seed, pairs=4000, identities=12):
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, identities, (2, pairs))
    second[: pairs // 2] = first[: pairs // 2]
    first[:identities] = second[:identities] = np.arange(identities)
    labels = [None if i == 5 else "xyz"[i % 3] for i in range(identities)]
    # Group z is harder: more of its genuine pairs fail, more of its impostors match.
    hard = np.array([label == "z" for label in labels])
    scores = generator.normal(1.5 * (first == second), 1) + 0.8 * (first != second) * (hard[first] & hard[second])
    scores = scores - 0.8 * (first == second) * hard[first]
    return PairScores(scores.round(2), first, second), labels


@pytest.mark.parametrize("seed", range(10))
def test_rates_equal_plain_loops(seed):
    pairs, labels = population(seed)
    result = group_rates(pairs, labels, 0.75)
    assert result.names == ("x", "y", "z")
    assert (result.identities, result.unlabelled) == ((4, 4, 3), 1)
    genuine = {name: [0, 0] for name in "xyz"}
    impostor = {(a, b): [0, 0] for a in "xyz" for b in "xyz"}
    for score, a, b in zip(pairs.scores, pairs.first, pairs.second, strict=True):
        left, right = labels[a], labels[b]
        if left is None or right is None:
            continue
        if a == b:
            genuine[left][0] += score < 0.75
            genuine[left][1] += 1
        else:
            for key in {(left, right), (right, left)}:
                impostor[key][0] += score >= 0.75
                impostor[key][1] += 1
    for g, name in enumerate(result.names):
        assert [result.fnmr[g].errors, result.fnmr[g].pairs] == genuine[name]
        assert result.fnmr[g].rate == genuine[name][0] / genuine[name][1]
        for h, other in enumerate(result.names):
            assert [result.fmr[g][h].errors, result.fmr[g][h].pairs] == impostor[name, other]
    fnmr = [errors / count for errors, count in genuine.values()]
    assert result.fnmr_ratio == pytest.approx(max(fnmr) / min(fnmr))
    assert result.fmr_ratio > 1.5
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()


def test_nothing_is_given_where_fewer_than_30_errors_stand():
    first = np.repeat([0, 1, 0], [100, 100, 50])
    second = np.repeat([0, 1, 1], [100, 100, 50])
    for errors, shown in ((29, False), (30, True)):
        scores = np.r_[np.arange(100) >= errors, np.arange(100) >= 60, np.zeros(50)].astype(float)
        result = group_rates(PairScores(scores, first, second), ["a", "b"], 0.5)
        assert (result.fnmr[0].rate is not None) == shown
        assert result.fnmr[0].errors == errors
        assert (result.fnmr_ratio is not None) == shown
        assert result.fmr[0][1].rate is None  # no error at all
        assert (result.fmr[0][1].pairs, result.fmr[0][0].pairs) == (50, 0)
        assert result.fmr_ratio is None


def test_all_pairs_of_a_set_count_the_same():
    generator = np.random.default_rng(0)
    identities = generator.permutation(np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 9])).astype(np.int32)
    vectors = generator.normal(size=(45, 4)).astype(np.float32)
    every = AllPairs(identities)
    every.compare(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    i, j = np.triu_indices(45, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    listed = PairScores((unit @ unit.T)[i, j], identities[i], identities[j])
    labels = ["abc"[n % 3] for n in range(9)]
    a, b = (group_rates(pairs, labels, 0.2).to_dict() for pairs in (every, listed))
    assert a == b


def test_labels_from_a_file(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('\ufeffidentity,sex, age\nanna,f,30\nbert,m,\n\n"karl, jr",m,50\n', encoding="utf-8")
    assert read_labels(path) == {"anna": "f", "bert": "m", "karl, jr": "m"}
    assert read_labels(path, "age") == {"anna": "30", "karl, jr": "50"}
    assert labels_of(["bert", "nobody", "anna"], read_labels(path)) == ["m", None, "f"]
    with pytest.raises(DataError, match="has the columns sex, age, expected eyes"):
        read_labels(path, "eyes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("identity,sex\nanna\n", "line 2: 1 fields, expected 2"),
        ("identity,sex\nanna,f\nanna,m\n", "line 3: anna is m here and f before"),
        ("identity\nanna\n", "holds no table"),
        ("", "holds no table"),
    ],
)
def test_files_that_are_no_table(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(path)
    path.write_bytes(b"identity,sex\n\xff\xfe,m\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(path)
    with pytest.raises(DataError, match="does not exist"):
        read_labels(tmp_path / "none.csv")


def test_labels_that_do_not_fit():
    pairs, labels = population(0)
    with pytest.raises(InputError, match="11 labels for 12 identities"):
        group_rates(pairs, labels[1:], 0.5)
    with pytest.raises(InputError, match="no identity has a label"):
        group_rates(pairs, [None] * 12, 0.5)
    with pytest.raises(InputError, match="threshold is nan"):
        group_rates(pairs, labels, np.nan)
