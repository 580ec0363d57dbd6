"""Who and what is meant by a path: never another, and nothing that is clear is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreface.data.path_names import known_people, match_names
from coreface.errors import DataError

CFP = [f"{person:03}/{pose}/{image:02}.jpg" for person in (1, 2) for pose in ("frontal", "profile") for image in (1, 2)]


def found(names, relative, root="/data/set"):
    rows = match_names(names, [f"{root}/{path}" for path in relative], relative, "x.npz")
    return [None if row is None else names[row] for row in rows]


@pytest.mark.parametrize("root", ["", "/elsewhere/on/another/machine/", "C:\\sets\\", "./", "/data/set/"])
def test_roots_do_not_matter(root):
    names = [root + name for name in reversed(CFP)]
    if "\\" in root:
        names = [name.replace("/", "\\") for name in names]
    assert found(names, CFP) == names[::-1]


def test_a_missing_name_is_not_filled_with_another():
    names = [name for name in CFP if name != "002/frontal/01.jpg"]
    expected = [None if name == "002/frontal/01.jpg" else name for name in CFP]
    assert found(names, CFP) == expected
    assert found(["site2/anna/1.jpg"], ["site1/anna/1.jpg"]) == [None]


def test_less_of_a_path_is_enough_while_it_is_clear():
    assert found(["1.jpg", "bert/2.jpg"], ["site1/anna/1.jpg", "site1/bert/2.jpg"]) == ["1.jpg", "bert/2.jpg"]


@pytest.mark.parametrize("names", [["anna/1.jpg"], ["anna/1.jpg", "site1/anna/1.jpg"]])
def test_less_of_a_path_that_may_be_several_is_refused(names):
    with pytest.raises(DataError, match=r"x\.npz: anna/1\.jpg may be site1/anna/1\.jpg and site2/anna/1\.jpg"):
        found(names, ["site1/anna/1.jpg", "site2/anna/1.jpg"])


def test_the_longest_part_decides():
    names = ["/old/r1/anna/1.jpg", "/old/r2/anna/1.jpg"]
    assert found(names, ["anna/1.jpg"], root="/new/r2") == [names[1]]
    with pytest.raises(DataError, match=r"r1/anna/1\.jpg and /old/r2/anna/1\.jpg fit anna/1\.jpg equally well"):
        found(names, ["anna/1.jpg"], root="/new/r3")


@pytest.mark.parametrize("other", ["anna/1.jpg", "./anna//1.jpg", "anna\\1.jpg"])
def test_doubles_are_refused(other):
    with pytest.raises(DataError, match="stands twice"):
        found(["anna/1.jpg", "bert/1.jpg", other], ["bert/1.jpg"])


PARTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)


@given(st.lists(PARTS, max_size=6), st.lists(PARTS, min_size=1, max_size=4, unique=True), st.booleans())
def test_any_names(names, relative, rooted):
    """Against the rule word by word: one ends in the other, nobody else does as well, or it is refused."""
    places = [f"/r/{path}" if rooted else path for path in relative]

    def fits(name, thing):
        return f"/{places[thing]}".endswith(f"/{name}") or f"/{name}".endswith(f"/{relative[thing]}")

    try:
        rows = match_names(names, places, relative, "file")
    except DataError:
        things = range(len(relative))
        several = any(sum(fits(name, thing) for thing in things) > 1 for name in names)
        assert several or len(set(names)) < len(names) or any(sum(fits(n, t) for n in names) > 1 for t in things)
        return
    for thing, row in enumerate(rows):
        fitting = [name for name in names if fits(name, thing)]
        if row is None:
            assert not fitting
        else:
            assert names[row] in fitting
            if relative[thing] in names:
                assert len(names[row]) >= len(relative[thing])


def test_people_that_somebody_was_trained_on():
    assert known_people(["site1/anna", "bert", "x/cora", "dora"], ["anna", "photos/bert", "y/cora"]) == 2
    # RecordIO and shards number everybody from 0; n000001 and 0000045 are names that somebody gave.
    assert known_people(["0", "17", "0000045", "n000001"], ["0", "17", "0000045", "n000001"]) == 2
