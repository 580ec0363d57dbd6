"""Groups of faces: against average linkage written out in loops, and what an incremental call promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.errors import InputError
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.gallery_calibration import threshold_of_templates
from coreface.evaluation.metrics.groupings import pairwise_agreement
from coreface.recognition import average_linkage
from coreface.recognition.average_linkage import AverageLinkage
from coreface.recognition.clustering import GroupingThresholds, group_faces


def made_up(seed, people=6, photographs=5, size=12, noise=0.35):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, size)) + 0.5
    owner = rng.integers(people, size=people * photographs)
    rows = centres[owner] / np.linalg.norm(centres[owner], axis=1, keepdims=True)
    rows = rows + noise * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), owner


def naive_linkage(rows, start, threshold, apart=(), fixed=0):
    """Merge the two groups with the highest mean cosine of all their pairs, one pair at a time."""
    cosines = np.asarray(rows, np.float64) @ np.asarray(rows, np.float64).T
    members = {int(group): [i for i, own in enumerate(start) if own == group] for group in set(start)}
    kept_apart = {frozenset(pair) for pair in np.asarray(apart).tolist()}

    def forbidden(a, b):
        return any(x != y and frozenset((x, y)) in kept_apart for x in inside[a] for y in inside[b]) or (
            min(inside[a]) < fixed and min(inside[b]) < fixed
        )

    inside = {group: {group} for group in members}
    while True:
        best = None
        for a in members:
            for b in members:
                if a < b and not forbidden(a, b):
                    mean = cosines[np.ix_(members[a], members[b])].mean()
                    if mean >= threshold and (best is None or mean > best[0]):
                        best = mean, a, b
        if best is None:
            return {frozenset(group) for group in members.values()}
        _, a, b = best
        members[a] += members.pop(b)
        inside[a] |= inside.pop(b)


def naive_join(rows, groups, template, photographs=None, fixed=()):
    """Compare each group with the templates of groups that are not smaller; the best comparisons come first."""
    rows = np.asarray(rows, np.float64)
    groups = sorted(groups, key=min)
    wanted = []
    for group in groups:
        found = []
        for other in groups:
            if other == group or len(other) < 2 or len(other) < len(group):
                continue
            if clash(group, other, photographs, fixed):
                continue
            centre = sum(rows[i] for i in other)
            centre = centre / np.linalg.norm(centre)
            found.append((np.mean([rows[i] @ centre for i in group]) - template(len(other)), other))
        if found and max(found, key=lambda pair: pair[0])[0] >= 0:
            excess, other = max(found, key=lambda pair: pair[0])
            wanted.append((excess, group, other))
    where = {group: group for group in groups}
    for _, group, other in sorted(wanted, key=lambda triple: -triple[0]):
        one, two = where[group], where[other]
        if one != two and not clash(one, two, photographs, fixed):
            where = {key: one | two if value in (one, two) else value for key, value in where.items()}
    return set(where.values())


def clash(one, other, photographs, fixed):
    """Whether two groups share a photograph, or both hold faces that were grouped before."""
    shared = photographs is not None and {photographs[i] for i in one} & {photographs[i] for i in other}
    return bool(shared) or bool(one & set(fixed) and other & set(fixed))


def as_sets(groups):
    groups = np.asarray(groups)
    several = {frozenset(np.flatnonzero(groups == number).tolist()) for number in np.unique(groups[groups > 0])}
    return several | {frozenset([i]) for i in np.flatnonzero(groups == 0).tolist()}


@given(seed=st.integers(0, 10_000), threshold=st.floats(0.1, 0.95), noise=st.floats(0.05, 0.9))
@settings(max_examples=25, deadline=None)
def test_it_is_average_linkage(seed, threshold, noise):
    rows, _ = made_up(seed, noise=noise)
    found = AverageLinkage(rows, np.ones(len(rows), np.int64), threshold).run()
    assert as_sets(found + 1) == naive_linkage(rows, range(len(rows)), threshold)


@given(seed=st.integers(0, 10_000), fixed=st.integers(0, 4), photographs=st.integers(5, 40))
@settings(max_examples=25, deadline=None)
def test_old_groups_and_photographs_are_respected(seed, fixed, photographs):
    rows, owner = made_up(seed, noise=0.5)
    rng = np.random.default_rng(seed)
    picture = rng.integers(photographs, size=len(rows))
    old = np.zeros(len(rows), np.int64)
    for number in range(fixed):  # groups of faces of different photographs
        mine = np.flatnonzero((owner == number) & (rng.random(len(rows)) < 0.6))
        old[[i for k, i in enumerate(mine) if picture[i] not in picture[mine[:k]]]] = 10 + number
    found = group_faces(rows, GroupingThresholds(0.5, lambda k: 0.55), groups=old, photographs=picture)

    numbers = sorted(set(old[old > 0].tolist()))
    start = [numbers.index(g) if g else len(numbers) + i for i, g in enumerate(old.tolist())]
    apart = {
        (start[i], start[j])
        for i in range(len(rows))
        for j in range(len(rows))
        if picture[i] == picture[j] and start[i] < start[j]
    }
    linked = naive_linkage(rows, start, 0.5, sorted(apart) or np.empty((0, 2)), len(numbers))
    grouped_before = np.flatnonzero(old).tolist()
    assert as_sets(found) == naive_join(rows, linked, lambda k: 0.55, picture, grouped_before)
    assert (found[old > 0] == old[old > 0]).all()
    for group in as_sets(found):
        assert len({picture[i] for i in group}) == len(group)


def test_each_group_is_compared_with_templates_of_its_size():
    for seed in range(20):
        rows, _ = made_up(seed, people=5, photographs=8, noise=0.45)

        def template(images):
            return {2: 0.75, 3: 0.8}.get(images, 0.7)

        found = group_faces(rows, GroupingThresholds(0.7, template))
        linked = naive_linkage(rows, range(len(rows)), 0.7)
        joined = naive_join(rows, linked, template)
        assert as_sets(found) == joined
        assert found.max() == sum(len(group) > 1 for group in joined)
        sizes = np.bincount(found)[1:]
        assert (np.diff(sizes) <= 0).all()  # the largest first


@pytest.mark.parametrize("block", [(1, 1, 1), (3, 7, 2), (1024, 8192, 4096)])
def test_neither_the_order_nor_the_blocks_change_the_groups(monkeypatch, block):
    for name, value in zip(("_ROWS", "_COLUMNS", "_BATCH"), block, strict=True):
        monkeypatch.setattr(average_linkage, name, value)
    rows, _ = made_up(3, people=20, photographs=6, size=16)
    expected = as_sets(group_faces(rows, GroupingThresholds.given(0.6)))
    order = np.random.default_rng(0).permutation(len(rows))
    found = group_faces(rows[order], GroupingThresholds.given(0.6))
    assert {frozenset(order[list(group)].tolist()) for group in as_sets(found)} == expected
    assert expected == naive_join(rows, naive_linkage(rows, range(len(rows)), 0.6), lambda k: 0.6)


def test_one_face_that_all_others_resemble_most():
    """Each face of a person is nearest to the same one: the worst case for merging mutual neighbours."""
    rng = np.random.default_rng(0)
    centre = np.eye(1, 40)[0]
    rows = 0.8 * centre + 0.6 * np.linalg.qr(rng.standard_normal((40, 40)))[0] * (1 - centre)
    rows = np.vstack([centre, rows / np.linalg.norm(rows, axis=1, keepdims=True)]).astype(np.float32)
    assert as_sets(group_faces(rows, GroupingThresholds.given(0.5))) == naive_linkage(rows, range(41), 0.5)


def test_equal_faces_end():
    same = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    assert group_faces(same, GroupingThresholds.given(0.9)).tolist() == np.repeat([1, 2, 3], 30).tolist()
    noisy = same + np.random.default_rng(0).choice([0, 1e-7], same.shape).astype(np.float32)
    assert pairwise_agreement(group_faces(noisy, GroupingThresholds.given(0.9)), same.argmax(axis=1)).recall == 1


def test_a_chain_of_look_alikes_is_not_one_person():
    angles = np.linspace(0, np.pi, 40)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = group_faces(rows, GroupingThresholds.given(0.9))
    assert found.max() >= 3
    for group in as_sets(found):
        assert np.mean(rows[list(group)] @ rows[list(group)].T) > 0.85


def test_few_faces():
    thresholds = GroupingThresholds.given(0.5)
    assert group_faces(np.empty((0, 4), np.float32), thresholds).shape == (0,)
    assert group_faces([[1.0, 0.0]], thresholds).tolist() == [0]
    assert group_faces([[1.0, 0.0], [0.8, 0.6]], thresholds).tolist() == [1, 1]
    assert group_faces([[1.0, 0.0], [0.8, 0.6]], thresholds, photographs=[5, 5]).tolist() == [0, 0]
    # A group of one, such as a named one, keeps its number.
    assert group_faces([[1.0, 0.0], [0.0, 1.0]], thresholds, groups=[7, 0]).tolist() == [7, 0]
    assert group_faces([[1.0, 0.0], [0.9, 19**0.5 / 10]], thresholds, groups=[7, 3]).tolist() == [7, 3]


def test_adding_the_same_faces_again_changes_nothing_for_the_old_ones():
    rows, _ = made_up(8, people=10, photographs=6)
    first = group_faces(rows[:40], GroupingThresholds.given(0.6))
    second = group_faces(rows, GroupingThresholds.given(0.6), groups=np.concatenate([first, np.zeros(20, int)]))
    grouped = first > 0
    assert (second[:40][grouped] == first[grouped]).all()
    new = set(second.tolist()) - set(first.tolist()) - {0}
    assert all(number > first.max() for number in new)


def test_thresholds_of_a_calibration():
    rng = np.random.default_rng(0)
    calibrator = Calibrator.fit(rng.normal(0.6, 0.1, 1000), rng.normal(0, 0.1, 200_000))
    found = GroupingThresholds.calibrated(calibrator, 1e-3)
    assert found.single == calibrator.threshold(1e-3).threshold
    assert found.template(5) == threshold_of_templates(calibrator, {5: 1}, "mean", 1e-3).threshold
    assert found.fmr == 1e-3
    with pytest.raises(InputError, match="has 0 false matches at an FMR of 1e-06, expected 3 or more"):
        GroupingThresholds.calibrated(calibrator, 1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((np.ones((2, 2)),), {}), "embedding 0 has length 1.414, expected unit vectors"),
        (((np.full((1, 2), np.nan),), {}), "embedding 0 has length nan"),
        (((np.ones(3),), {}), r"embeddings have shape \(3,\)"),
        (((np.eye(2, dtype=int),), {}), "dtype int64, expected floats"),
        (((np.eye(2),), {"groups": [1]}), r"groups have shape \(1,\)"),
        (((np.eye(2),), {"groups": [1, -2]}), "groups contain -2"),
        (((np.eye(2),), {"photographs": [0.5, 1.0]}), "photographs have shape .* dtype float64"),
    ],
)
def test_bad_input(arguments, message):
    positional, named = arguments
    with pytest.raises(InputError, match=message):
        group_faces(*positional, GroupingThresholds.given(0.5), **named)


@pytest.mark.parametrize("cosine", [0.0, -0.1, 1.1, float("nan")])
def test_thresholds_are_cosines_above_0(cosine):
    with pytest.raises(InputError, match="expected a cosine above 0"):
        GroupingThresholds.given(cosine)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=25))
def test_pairwise_agreement(faces):
    groups, people = [face[0] for face in faces], [f"p{face[1]}" for face in faces]
    right = grouped = genuine = 0
    for i in range(len(faces)):
        for j in range(i):
            together = groups[i] == groups[j] != 0
            grouped += together
            genuine += people[i] == people[j]
            right += together and people[i] == people[j]
    found = pairwise_agreement(np.array(groups, int), np.array(people, str))
    assert (found.right, found.grouped, found.genuine) == (right, grouped, genuine)
    assert found.precision == (right / grouped if grouped else None)
    assert found.recall == (right / genuine if genuine else None)


def test_agreement_of_other_things():
    with pytest.raises(InputError, match="expected integers"):
        pairwise_agreement([0.5], ["a"])
    with pytest.raises(InputError, match=r"identities \(2,\)"):
        pairwise_agreement([1], ["a", "b"])
