"""What may be wrong with labels, on embeddings that are made up, and the list that follows from it."""

import numpy as np
import pytest

from coreface.data.corrections import apply_corrections, write_corrections
from coreface.data.near_duplicates import AlikePair
from coreface.data.source import FaceSource
from coreface.errors import EvaluationError, InputError
from coreface.evaluation.cleaning import find_duplicates, find_label_errors
from coreface.evaluation.embedding import EmbeddedImages
from coreface.evaluation.suggested_corrections import suggest_corrections
from support.toy_images import encode, noise

SIZE = 64


class Faces(FaceSource):
    """Images that exist by name alone."""

    def __init__(self, identities):
        super().__init__(np.asarray(identities, np.int64), [f"p{k:03}" for k in range(max(identities) + 1)])

    def encoded(self, index):
        return encode(noise(str(index)), ".png")

    def locate(self, index):
        return f"faces/{self.relative_path(index)}"

    def relative_path(self, index):
        return f"{self.identity_names[self.identities[index]]}/{index}.png"


def embedded(truth, seed=0, spread=0.09):
    """Embeddings of the people who really are on the images."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(truth) + 1, SIZE))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[truth] + spread * rng.normal(size=(len(truth), SIZE))
    return EmbeddedImages(rows.astype(np.float32), np.arange(len(truth)), {})


def crowd(identities=150, images=8):
    return np.repeat(np.arange(identities), images)


def test_exchanged_labels_are_found_and_the_promise_is_kept():
    lost = good = found = 0
    for seed in range(5):
        truth = crowd()
        labels = truth.copy()
        rng = np.random.default_rng(seed)
        wrong = rng.choice(len(truth), 36, replace=False)
        labels[wrong] = np.roll(labels[wrong], 1)
        wrong = np.flatnonzero(labels != truth)
        report = find_label_errors(Faces(labels), embedded(truth, seed), good_lost=0.005)
        listed = {finding.images[0]: finding for finding in report.of_kind("wrong image")}
        found += len(set(listed) & set(wrong.tolist())) / len(wrong) / 5
        lost, good = lost + len(set(listed) - set(wrong.tolist())), good + len(truth) - len(wrong)
        cut = report.cuts["wrong image"]
        assert cut.good_lost <= 0.005
        assert cut.share_wrong == pytest.approx(0.03, abs=0.015)
        named = [truth[index] == listed[index].other for index in set(listed) & set(wrong.tolist())]
        assert np.mean(named) > 0.95  # the identity to move it to
        scores = [finding.score for finding in report.of_kind("wrong image")]
        assert scores == sorted(scores)
    assert lost <= 0.005 * good + 2 * np.sqrt(0.005 * good)
    assert found > 0.8


def test_images_of_nobody_else_in_the_set_are_found():
    """Wrong images need not belong to another identity: these are of people of whom there is one image each."""
    truth = crowd()
    wrong = np.random.default_rng(0).choice(len(truth), 36, replace=False)
    shown = truth.copy()
    shown[wrong] = 150 + np.arange(36)
    report = find_label_errors(Faces(truth), embedded(shown), good_lost=0.005)
    listed = {finding.images[0] for finding in report.of_kind("wrong image")}
    assert len(listed & set(wrong.tolist())) > 0.8 * len(wrong)
    assert len(listed - set(wrong.tolist())) <= 0.005 * len(truth) + 2 * np.sqrt(0.005 * len(truth))


def test_an_encoder_that_has_learnt_the_wrong_labels_still_finds_them():
    """Training has drawn the wrong images near the others of their label, as near as they are to their own person."""
    truth = crowd()
    labels = truth.copy()
    wrong = np.random.default_rng(1).choice(len(truth), 36, replace=False)
    labels[wrong] = np.roll(labels[wrong], 1)
    wrong = np.flatnonzero(labels != truth)
    faces = embedded(truth, spread=0.05)
    centres = np.stack([faces.embeddings[truth == k].mean(axis=0) for k in range(150)])
    faces.embeddings[wrong] += 0.6 * centres[labels[wrong]]
    report = find_label_errors(Faces(labels), faces, good_lost=0.005)
    listed = {finding.images[0] for finding in report.of_kind("wrong image")}
    assert len(listed & set(wrong.tolist())) > 0.8 * len(wrong)


def test_where_nothing_is_wrong_nothing_is_listed():
    report = find_label_errors(Faces(crowd()), embedded(crowd()))
    assert report.findings == ()
    assert all(cut.threshold is None for cut in report.cuts.values())


def test_two_people_one_person_and_unlike_pairs():
    truth = np.concatenate([crowd(120), np.repeat(np.arange(120, 180), 2)])
    labels = truth.copy()
    for two in range(0, 10, 2):  # 0 and 1 are one identity, 2 and 3, ...
        labels[truth == two + 1] = two
    labels[np.flatnonzero(truth == 1)[3:]] = 1  # only three images of the second person are in identity 0
    for one in range(20, 26):  # half of the images of one person have another label
        labels[np.flatnonzero(truth == one)[:4]] = one + 10
        labels[np.flatnonzero(truth == one + 10)] = one + 300
    pairs = np.flatnonzero(truth >= 170)[::2]  # the first images of ten pairs, passed round
    labels[pairs] = np.roll(labels[pairs], 1)
    labels = np.unique(labels, return_inverse=True)[1]
    report = find_label_errors(Faces(labels), embedded(truth, spread=0.06))
    two = {finding.identity: finding for finding in report.of_kind("two people")}
    mixed = {labels[i] for i in range(960) for j in range(960) if labels[i] == labels[j] and truth[i] != truth[j]}
    assert set(two) == mixed
    assert {truth[index] for index in two[0].images} == {1}
    assert len(two[0].images) == 3
    one = {frozenset((finding.identity, finding.other)) for finding in report.of_kind("one person")}
    expected = {frozenset((labels[i], labels[i - 1])) for i in range(160, 960) if truth[i] == truth[i - 1]}
    expected = {pair for pair in expected if len(pair) == 2}
    assert one <= expected
    assert len(one) >= len(expected) - 1  # of six
    unlike = report.of_kind("unlike pair")
    assert {finding.identity for finding in unlike} == {labels[index] for index in pairs}
    assert all(len(finding.images) == 2 for finding in unlike)


def test_labels_that_have_nothing_to_do_with_the_images_are_refused():
    labels = crowd()
    with pytest.raises(EvaluationError, match="of the images do not look like their identity"):
        find_label_errors(Faces(labels), embedded(np.random.default_rng(0).permutation(labels)))


@pytest.mark.parametrize("labels", [[0] * 9, list(range(9)), [0, 0, 1, 1, 1]])
def test_few_people_or_images(labels):
    report = find_label_errors(Faces(labels), embedded(labels))
    assert report.findings == ()
    assert len(report.own_scores) == len(labels)


def test_unreadable_images_are_passed_over():
    truth = crowd(60)
    labels = truth.copy()
    labels[[5, 205, 405]] = [30, 31, 32]
    whole = embedded(truth)
    kept = np.setdiff1d(np.arange(len(truth)), [3, 4, 100])
    report = find_label_errors(
        Faces(labels), EmbeddedImages(whole.embeddings[kept], kept, {3: "no", 4: "no", 100: "x"})
    )
    assert {finding.images[0] for finding in report.of_kind("wrong image")} == {5, 205, 405}
    assert report.unreadable == ("no", "no", "x")
    assert np.isnan(report.own_scores[[3, 4, 100]]).all()


def test_bad_share():
    with pytest.raises(InputError, match="good_lost is 2"):
        find_label_errors(Faces([0, 0, 1, 1]), embedded([0, 0, 1, 1]), good_lost=2)


def test_the_suggested_list_can_be_applied(tmp_path):
    """Whatever is found at once, the list does not contradict itself, and what it leaves is right."""
    truth = crowd(100)
    labels = truth.copy()
    labels[[0, 80, 160]] = [50, 51, 52]  # wrong images
    labels[truth == 21] = 20  # two people
    labels[np.flatnonzero(truth == 40)[:3]] = 21  # one person in two identities
    source = Faces(labels)
    duplicates = [AlikePair(0, 700, 1.0, True), AlikePair(9, 700, 0.99, False), AlikePair(9, 80, 0.985, False)]
    report = find_label_errors(source, embedded(truth, spread=0.06), duplicates)
    lines = suggest_corrections(report)
    actions = {}
    for line in lines:
        if line.index is not None:
            actions.setdefault(line.index, set()).add((line.action, line.to))
    assert all(len(said) == 1 for said in actions.values())
    drop = {index for index, said in actions.items() if next(iter(said))[0] == "drop"}
    assert {0, 80, 160} <= drop
    assert len(drop & {9, 700}) == 1  # one of two nearly equal images is dropped, the other kept
    assert [(line.identity, line.to) for line in lines if line.action == "merge"] == [("p021", "p040")]
    write_corrections(tmp_path / "list.csv", lines)
    done = apply_corrections(source, tmp_path / "list.csv")
    kept = np.setdiff1d(np.arange(len(truth)), sorted(drop))
    assert len(done.faces) == len(kept)
    assert "p020_2" in done.faces.identity_names
    people = {}
    for index in range(len(done.faces)):
        number = int(done.faces.relative_path(index).rpartition("/")[2].removesuffix(".png"))
        people.setdefault(done.faces.identities[index], set()).add(truth[number])
    assert all(len(who) == 1 for who in people.values())
    assert len(people) == 100


def test_merges_in_a_circle_are_kept_apart(tmp_path):
    """Three identities of one person, each nearest to the next: two merges."""
    truth = crowd(80, 9)
    labels = truth.copy()
    mine = np.flatnonzero(truth == 10)
    labels[mine[:3]], labels[mine[3:6]] = 11, 12
    labels[truth == 11], labels[truth == 12] = 13, 14
    source = Faces(labels)
    lines = suggest_corrections(find_label_errors(source, embedded(truth, spread=0.03)))
    write_corrections(tmp_path / "list.csv", lines)
    done = apply_corrections(source, tmp_path / "list.csv")
    names = [done.faces.identity_names[k] for k in done.faces.identities]
    where = {names[i] for i in range(len(done.faces)) if int(done.faces.relative_path(i)[5:-4]) in mine}
    assert len(where) <= 2
    assert len([line for line in lines if line.action == "merge"]) >= 1


def test_duplicates_of_a_source():
    class Copies(Faces):
        def encoded(self, index):
            return super().encoded(3) if index == 4 else b"junk" if index == 2 else super().encoded(index)

    source, done = Copies([0, 0, 0, 1, 2, *[2] * 95]), []
    assert find_duplicates(source, progress=done.append) == [AlikePair(3, 4, 1.0, True)]
    assert done == [64]
    assert find_duplicates(source, least=2) == [AlikePair(3, 4, 1.0, True)]
