"""The face that resembles the person's others: by embeddings made up, and as `coreface align` cuts it out."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coreface as cf
from coreface.errors import InputError
from coreface.recognition.align_folder import AlignSettings, align_folder
from coreface.recognition.consistent_faces import consistent_faces
from support.galleries import embeddings


def album(person, plan, seed=0):
    """Embeddings of the faces in a person's photographs; ``plan`` lists who is on each, "x" being the person."""
    rng = np.random.default_rng(seed + 17 * person)
    numbers = {"x": person}
    found = []
    for names in plan:
        rows = []
        for name in names:
            number = numbers.setdefault(name, 1000 + 50 * person + len(numbers))
            base = embeddings(number, 1, spread=0)[0]
            row = base + 0.08 * rng.normal(size=base.shape)
            rows.append(row / np.linalg.norm(row))
        found.append(np.array(rows, np.float32).reshape(-1, 32))
    return found


def expected(plan):
    return [names.index("x") if "x" in names else None for names in plan]


def choices(plan, others=40):
    people = [album(0, plan)] + [album(k, ["x"] * 6) for k in range(1, others)]
    chosen, _ = consistent_faces(people)
    return [choice.index for choice in chosen[0]]


@pytest.mark.parametrize(
    "plan",
    [
        ["x", "x", "ax", "bxc"],
        ["x", "ax", "ax", "ax", "xa"],  # a friend who is in every group picture
        ["ax", "bx", "xc", "xd"],  # nobody is alone
        ["ax", "bx"],
        ["x", "xa"],
        ["x", "x", "x", "xab", "cd"],  # the last shows others only: undecided
        ["", "x", "x", "", "xab"],
    ],
)
def test_who_is_chosen(plan):
    assert choices(plan) == expected(plan)


@pytest.mark.parametrize("wrong", [["y"], ["y", "z"]])
def test_wrong_names_do_not_lead_astray(wrong):
    plan = [*wrong, "x", "ax", "bx", "xc", "dx", "xae"]
    assert choices(plan)[len(wrong) :] == expected(plan)[len(wrong) :]
    assert choices(plan)[0] == 0  # a photograph with one face keeps it
    plan = [*wrong, "ax", "bx", "xc", "dx", "xae"]  # those with the wrong names are alone in theirs
    assert choices(plan)[len(wrong) :] == expected(plan)[len(wrong) :]


def test_nothing_to_compare_with():
    chosen, threshold = consistent_faces([album(0, ["ab"]), album(1, ["", "x", ""]), album(2, ["", ""])])
    assert threshold is None
    assert [[choice.index for choice in person] for person in chosen] == [[None], [None, 0, None], [None, None]]
    assert all(choice.cosine is None for person in chosen for choice in person)
    chosen, threshold = consistent_faces([album(0, ["x", "abc"])])  # one person: the best face is taken
    assert threshold is None
    assert chosen[0][1].index is not None
    assert consistent_faces([]) == ([], None)


def naive(photographs, threshold):
    """One person, as the module's text says it, by plain loops."""

    def cosine(a, b):
        return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))

    filled = [k for k, faces in enumerate(photographs) if len(faces)]
    if len(filled) < 2:
        return [0 if len(faces) == 1 else None for faces in photographs]
    every = [(k, i) for k in filled for i in range(len(photographs[k]))]

    def support(face):
        k, i = face
        highest = [
            max(cosine(photographs[k][i], other) for other in photographs[other_k])
            for other_k in filled
            if other_k != k
        ]
        return sum(highest) / len(highest)

    anchor = best = max(every, key=support)
    alone = [face for face in every if len(photographs[face[0]]) == 1]
    if alone and support(max(alone, key=support)) >= 0.5 * support(best):
        anchor = max(alone, key=support)
    anchor_row = photographs[anchor[0]][anchor[1]]
    members = {k: max(photographs[k], key=lambda row: cosine(row, anchor_row)) for k in filled}
    members[anchor[0]] = anchor_row
    chosen = []
    for k, faces in enumerate(photographs):
        if len(faces) < 2:
            chosen.append(0 if len(faces) else None)
            continue
        others = sorted((o for o in filled if o != k), key=lambda o: -cosine(members[o], anchor_row))
        near = others[: math.ceil(len(others) / 2)]
        centre = [sum(float(members[o][d]) for o in near) for d in range(len(anchor_row))]
        length = math.sqrt(sum(x * x for x in centre))
        scores = [cosine(row, centre) / length for row in faces]
        best_index = scores.index(max(scores))
        chosen.append(best_index if threshold is None or scores[best_index] >= threshold else None)
    return chosen


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("xxabc", max_size=3), min_size=1, max_size=6), st.integers(0, 1000))
def test_it_is_what_plain_loops_make_of_it(plan, seed):
    person = album(0, plan, seed)
    for people in ([person], [person, album(1, ["x", "xa", "b"], seed)]):
        chosen, threshold = consistent_faces(people)
        assert [choice.index for choice in chosen[0]] == naive(person, threshold)


def test_the_threshold_lets_few_others_pass():
    people = [album(k, ["x", "x", "xa", "x"]) for k in range(30)]
    _, threshold = consistent_faces(people)
    assert 0.3 < threshold < 0.8
    chosen, _ = consistent_faces([*people, album(30, ["x", "x", "x", "ab"])])
    assert [choice.index for choice in chosen[-1]] == [0, 0, 0, None]
    assert chosen[-1][3].cosine < threshold


@pytest.fixture(scope="module")
def photographs(photograph, tmp_path_factory):
    """Four people of three photographs; group pictures in which another face is the largest."""
    folder = tmp_path_factory.mktemp("photographs")
    for person in range(4):
        (folder / f"s{person}").mkdir()
        for image in range(3):
            picture = photograph([(person, image, 60 + 20 * image, 40, 160)], 320, 240)
            cv2.imwrite(str(folder / f"s{person}" / f"{image}.jpg"), picture[..., ::-1])
    group = photograph([(0, 4, 10, 20, 120), (9, 0, 160, 40, 150)], 320, 240)
    cv2.imwrite(str(folder / "s0" / "group.jpg"), group[..., ::-1])
    cv2.imwrite(str(folder / "s1" / "others.jpg"), group[..., ::-1])  # person 1 is not on it
    cv2.imwrite(str(folder / "s2" / "nobody.jpg"), photograph([], 320, 240))
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same_person(folder, one, other):
    encoder = cf.open_encoder("sface")
    a, b = encoder.embed([cf.load_image(folder / one), cf.load_image(folder / other)])
    return float(a @ b) > 0.4


def test_align_takes_the_face_that_resembles_the_others(run, photographs, tmp_path):
    made = tmp_path / "aligned"
    status, out, err = run("align", photographs, made, "--face", "consistent", "--model", "sface")
    assert status == 0, err
    assert "13 crops of 15 photographs" in out
    assert same_person(made, "s0/group.jpg", "s0/0.jpg")
    run("align", photographs, tmp_path / "largest")
    assert not same_person(tmp_path / "largest", "s0/group.jpg", "s0/0.jpg")
    rows = {row["photograph"]: row for row in csv.DictReader((made / "rejects.csv").open())}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "s1/others.jpg": "undecided",
        "s2/nobody.jpg": "no face",
    }
    assert (
        "2 faces were found; the one that resembles the person's others most has a cosine of"
        in (rows["s1/others.jpg"]["message"])
    )
    before = content(made)
    status, out, _ = run("align", photographs, made, "--face", "consistent", "--model", "sface")
    assert (status, "15 of them done before" in out) == (0, True)
    assert content(made) == before
    status, _, err = run("align", photographs, made, "--face", "largest")
    assert (status, "other settings" in err) == (2, True)


def test_new_photographs_change_the_choice(photographs, photograph, tmp_path):
    """A person of one group picture is undecided until a second photograph says who is meant."""
    people = tmp_path / "people"
    for person in (2, 3):
        (people / f"s{person}").mkdir(parents=True)
        for image in range(3):
            name = f"s{person}/{image}.jpg"
            (people / name).write_bytes((photographs / name).read_bytes())
    (people / "s0").mkdir()
    (people / "s0" / "group.jpg").write_bytes((photographs / "s0" / "group.jpg").read_bytes())
    chosen = AlignSettings(face="consistent", model="sface")
    made = tmp_path / "aligned"
    assert align_folder(people, made, chosen).rejects == {"undecided": 1}
    (people / "s0" / "0.jpg").write_bytes((photographs / "s0" / "0.jpg").read_bytes())
    found = align_folder(people, made, chosen)
    assert (found.crops, found.rejects, found.done_before) == (8, {}, 6)
    assert same_person(made, "s0/group.jpg", "s0/0.jpg")
    # What shows nobody of the name any more loses its crop.
    (people / "s0" / "0.jpg").write_bytes((photographs / "s1" / "0.jpg").read_bytes())
    for image in (1, 2):
        (people / "s0" / f"{image}.jpg").write_bytes((photographs / "s1" / f"{image}.jpg").read_bytes())
    assert align_folder(people, made, chosen).rejects == {"undecided": 1}
    assert not (made / "s0" / "group.jpg").exists()


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """The crops of a call that nothing interrupted."""
    made = tmp_path_factory.mktemp("made") / "whole"
    align_folder(photographs, made, AlignSettings(face="consistent", model="sface", format="png"))
    return made


def test_interrupted_in_either_pass_it_is_the_same(photographs, whole, tmp_path):
    chosen, made = AlignSettings(face="consistent", model="sface", format="png"), tmp_path / "cut"
    for last in (4, 20):  # of 15 photographs, each counted twice

        def interrupt(done, last=last):
            if done >= last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            align_folder(photographs, made, chosen, progress=interrupt)
        assert content(made).keys() < content(whole).keys()
    found = align_folder(photographs, made, chosen)
    assert (found.crops, found.rejects, found.done_before) == (13, {"undecided": 1, "no face": 1}, 5)
    assert content(made) == content(whole)


@pytest.mark.slow
def test_killed_in_either_pass_and_with_more_workers_it_is_the_same(photographs, whole, tmp_path):
    made = tmp_path / "cut"
    words = ["align", photographs, made, "--face", "consistent", "--model", "sface", "--format", "png"]
    for journal, lines in ((".faces.jsonl", 4), (".aligned.jsonl", 4)):
        process = subprocess.Popen([sys.executable, "-m", "coreface", *map(str, words)], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            path = made / journal
            if path.is_file() and len(path.read_bytes().split(b"\n")) > lines:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.002)
    align_folder(photographs, made, AlignSettings(face="consistent", model="sface", format="png"), workers=2)
    assert content(made) == content(whole)


def test_a_model_goes_with_the_consistent_face_alone(run, photographs, tmp_path):
    with pytest.raises(InputError, match="needs a model"):
        AlignSettings(face="consistent")
    status, _, err = run("align", photographs, tmp_path / "a", "--model", "sface")
    assert (status, "no other does" in err) == (2, True)
    assert not Path(tmp_path / "a").exists()
