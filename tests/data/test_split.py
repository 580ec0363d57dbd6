"""Nobody who is tested was ever trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreface.data import FaceSource, split_by_identity
from coreface.errors import DataError, InputError


class Names(FaceSource):
    """Images that are never looked at."""

    def __init__(self, identities):
        super().__init__(np.array(identities, dtype=np.int64), [f"person {i}" for i in range(max(identities) + 1)])

    def encoded(self, index):
        raise AssertionError("a split decodes nothing")

    def locate(self, index):
        return str(index)


def places(source):
    return {int(source.locate(i)) for i in range(len(source))}


@st.composite
def sources(draw):
    total = draw(st.integers(2, 12))
    extra = draw(st.lists(st.integers(0, total - 1), max_size=20))
    return Names(draw(st.permutations([*range(total), *extra])))


@given(sources(), st.data(), st.none() | st.integers(0, 100))
def test_two_parts_without_a_common_identity(source, data, seed):
    total = source.num_identities
    count = data.draw(st.integers(1, total - 1))
    fold = data.draw(st.integers(0, total // count - 1))
    train, test = split_by_identity(source, count, seed=seed, fold=fold)
    assert test.num_identities == count
    assert set(train.identity_names) | set(test.identity_names) == set(source.identity_names)
    assert not set(train.identity_names) & set(test.identity_names)
    assert places(train) | places(test) == set(range(len(source)))
    assert len(train) + len(test) == len(source)
    for part in (train, test):
        assert part.origin is source
        assert sorted(set(part.identities.tolist())) == list(range(part.num_identities))
        for i in range(len(part)):
            original = source.identities[int(part.locate(i))]
            assert part.identity_names[part.identities[i]] == source.identity_names[original]


@given(sources(), st.data(), st.none() | st.integers(0, 100))
def test_folds_are_disjoint_and_as_complete_as_they_divide(source, data, seed):
    total = source.num_identities
    count = data.draw(st.integers(1, total - 1))
    held_out = [split_by_identity(source, count, seed=seed, fold=f)[1].identity_names for f in range(total // count)]
    everybody = [name for names in held_out for name in names]
    assert len(everybody) == len(set(everybody)) == total - total % count
    with pytest.raises(InputError, match="does not exist"):
        split_by_identity(source, count, seed=seed, fold=total // count)


@given(sources(), st.floats(0.01, 0.99))
def test_a_share_holds_out_that_share_of_the_identities(source, share):
    total = source.num_identities
    expected = max(1, round(share * total))
    if expected == total:
        with pytest.raises(DataError):
            split_by_identity(source, share)
    else:
        assert split_by_identity(source, share)[1].num_identities == expected


def test_the_seed_decides(faces):
    big = Names(list(range(40)))
    first = split_by_identity(big, seed=3)[1].identity_names
    assert split_by_identity(big, seed=3)[1].identity_names == first
    assert split_by_identity(big, seed=4)[1].identity_names != first
    assert first != big.identity_names[:10]
    np.random.seed(0)  # noqa: NPY002 (the global state must not matter)
    assert split_by_identity(big, seed=3)[1].identity_names == first


def test_no_seed_keeps_the_order():
    big = Names(list(range(8)))
    for fold in range(4):
        train, test = split_by_identity(big, 2, seed=None, fold=fold)
        assert test.identity_names == big.identity_names[2 * fold : 2 * fold + 2]
        assert train.identity_names == tuple(name for name in big.identity_names if name not in test.identity_names)


def test_the_default_is_a_quarter():
    assert split_by_identity(Names(list(range(40))))[1].num_identities == 10


def test_a_part_shows_the_pictures_of_the_whole(faces):
    train, test = split_by_identity(faces, 2, seed=1)
    for part in (train, test):
        for i in range(len(part)):
            name = part.identity_names[part[i][1]]
            assert f"/{name}/" in part.locate(i)


@pytest.mark.parametrize("test", [0, 0.0, 1.0, 1.5, -1, -0.2, True, False, float("nan"), float("inf")])
def test_shares_out_of_range(faces, test):
    with pytest.raises(InputError, match="test is"):
        split_by_identity(faces, test)


@pytest.mark.parametrize("fold", [-1, 2, 100])
def test_folds_out_of_range(faces, fold):
    with pytest.raises(InputError, match="fold"):
        split_by_identity(faces, 2, fold=fold)


@pytest.mark.parametrize("test", [5, 6, 0.99])
def test_nobody_left_to_train_on(faces, test):
    with pytest.raises(DataError, match="leaves none to train on"):
        split_by_identity(faces, test)


def test_one_identity_cannot_be_split():
    with pytest.raises(DataError):
        split_by_identity(Names([0, 0, 0]), 0.5)


class Named(FaceSource):
    """Two images an identity; the names say who is related."""

    def __init__(self, names):
        super().__init__(np.repeat(np.arange(len(names)), 2), names)

    def encoded(self, index):
        return b""

    def locate(self, index):
        return str(index)


FAMILIES = [f"F{family:03d}.M{member}" for family, size in enumerate([3, 1, 4, 2, 5, 2, 3]) for member in range(size)]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("family", [r"^(F\d+)", r"F\d+", r"(?<=F)\d+(?=\.)"])
def test_relatives_stay_together(seed, family):
    source = Named(FAMILIES)
    held_out = []
    for fold in range(4):
        train, test = split_by_identity(source, 5, seed=seed, fold=fold, family=family)
        sides = [{name.split(".")[0] for name in part.identity_names} for part in (train, test)]
        assert not sides[0] & sides[1]
        assert sorted(train.identity_names + test.identity_names) == sorted(FAMILIES)
        assert 2 <= test.num_identities <= 8
        held_out += test.identity_names
    assert sorted(held_out) == sorted(FAMILIES)  # 20 identities make four folds


def test_a_family_for_each_is_as_no_family():
    source = Named(FAMILIES)
    for fold in range(3):
        with_family, without = (
            split_by_identity(source, 6, seed=3, fold=fold, family=family)[1] for family in (".+", None)
        )
        assert with_family.identity_names == without.identity_names


def test_families_that_cannot_be_split():
    source = Named(FAMILIES)
    with pytest.raises(InputError, match="expected a regular expression"):
        split_by_identity(source, 5, family="(")
    with pytest.raises(DataError, match=r"'F000\.M0' has no family"):
        split_by_identity(source, 5, family="x")
    with pytest.raises(DataError, match="1 families cannot be split"):
        split_by_identity(source, 5, family="F")
