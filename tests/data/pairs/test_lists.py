"""`pairs.txt` and CSV: every line is a pair or an error with its number."""

import pickle

import numpy as np
import pytest

from coreface.data import open_pairs
from coreface.errors import DataError, ImageError

FACES = ["ada/ada_0001.png", "ada/ada_0002.png", "ben/ben_0001.png", "zoë b/zoë b_0012.png"]


@pytest.fixture
def place(tmp_path, write_faces):
    """Return a function that writes a list beside the folder ``images``."""
    write_faces(tmp_path / "images", FACES)

    def write(text, name="pairs.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def check(pairs, expected, pixels_of):
    assert len(pairs) == len(expected)
    for (left, right, same), (name, other, answer) in zip(pairs, expected, strict=True):
        np.testing.assert_array_equal(left, pixels_of(name))
        np.testing.assert_array_equal(right, pixels_of(other))
        assert same is answer


THREE = [(FACES[0], FACES[1], True), (FACES[0], FACES[2], False), (FACES[1], FACES[3], False)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_txt(place, pixels_of, end):
    path = place(end.join(["ada\t1\t2", "", "ada\t1\tben\t1", "ada\t2\tzoë b\t12", ""]))
    pairs = open_pairs(path)
    check(pairs, THREE, pixels_of)
    assert (pairs.num_images, pairs.folds) == (4, 3)
    assert pairs.locate(3).endswith("images/zoë b/zoë b_0012.png")
    check(pickle.loads(pickle.dumps(pairs)), THREE, pixels_of)


def test_where_the_images_may_lie(place, tmp_path, write_faces, pixels_of):
    path = place("ada 1 2\nada 1 ben 1\n")
    for images in (None, tmp_path / "images", str(tmp_path / "images")):
        check(open_pairs(path, images), THREE[:2], pixels_of)
    flat = write_faces(tmp_path / "flat", ["ada_0001.png", "ada_0002.PNG", "ben_0001.jpg", "ben_0001.txt.pgm"])
    pairs = open_pairs(path, flat)
    assert [pairs.locate(k) for k in range(3)] == [
        str(flat / name) for name in ("ada_0001.png", "ada_0002.PNG", "ben_0001.jpg")
    ]
    moved = flat / "pairs.txt"
    moved.write_text("ada 1 2\n")
    assert open_pairs(moved).num_images == 2  # beside the list itself


def test_folds_of_the_header(place):
    fold = "ada 1 2\nada 2 1\nada 1 ben 1\nben 1 ada 2\n"
    pairs = open_pairs(place("3\t2\n" + fold * 3))
    assert (pairs.folds, pairs.fold_of.tolist()) == (3, [0] * 4 + [1] * 4 + [2] * 4)
    assert pairs.same.tolist() == [True, True, False, False] * 3
    assert open_pairs(place("2\n" + fold)).fold_of.tolist() == [0] * 4
    assert open_pairs(place(fold * 5)).fold_of.tolist() == [i // 2 for i in range(20)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10 300\nada 1 2\n", "1 pairs, but the first line announces 10 x 2 x 300"),
        ("ada 1 2\nada 1\n", "line 2: 'ada 1', expected"),
        ("ada 1 2\n\nada one 2\n", "line 3: 'ada one 2'"),
        ("ada 1 2 3 4\n", "line 1: "),
        ("ada 1 3\n", "line 1: there is no .*ada_0003"),
        ("ada 1 eve 1\n", "line 1: there is no .*eve_0001"),
        ("", "no pair"),
        ("1 0\n", "no pair"),
        ("ada\0 1 2\n", "line 1: there is no "),
        ("\ufeffada 1 2\nx\n", "line 2: 'x'"),
    ],
)
def test_bad_lines_of_pairs_txt(place, text, words):
    with pytest.raises(DataError, match=words):
        open_pairs(place(text))


@pytest.mark.parametrize(
    ("header", "order", "line", "kinds"),
    [
        ("1\t1", "ig", 2, "an impostor pair, expected a genuine pair"),
        ("1\t3", "ggiigi", 4, "an impostor pair, expected a genuine pair"),
        ("2\t2", "ggiigigi", 7, "an impostor pair, expected a genuine pair"),
        ("2\t2", "gggiiigi", 4, "a genuine pair, expected an impostor pair"),
    ],
)
def test_an_order_that_contradicts_the_first_line(place, header, order, line, kinds):
    pairs = {"g": "ada 1 2", "i": "ada 1 ben 1"}
    text = "\n".join([header, *(pairs[kind] for kind in order)])
    with pytest.raises(DataError, match=rf"line {line}: {kinds}: by its first line"):
        open_pairs(place(text))


def image_lines(pairs):
    return "".join(f"{image} {number}\n" for *images, number in pairs for image in images)


def test_lists_of_images_with_the_fold_of_genuine_pairs(place, pixels_of):
    """As CALFW has it: genuine pairs of folds 1 and 2, then impostor pairs, which say no fold."""
    zoe = FACES[3]
    genuine = [(FACES[0], FACES[1], 2), (FACES[1], zoe, 1), (FACES[0], zoe, 2)]
    impostor = [(FACES[0], FACES[2], 0), (FACES[1], FACES[2], 0), (FACES[2], zoe, 0)]
    pairs = open_pairs(place(image_lines(genuine + impostor)))
    check(pairs, [(one, other, number > 0) for one, other, number in genuine + impostor], pixels_of)
    assert pairs.fold_of.tolist() == [1, 0, 1, 0, 0, 1]


def test_lists_of_images_with_an_identity_or_one(place):
    """As CPLFW has it: 1 or 0. Genuine and impostor pairs are both cut evenly, so that no fold is one-sided."""
    kinds = [(FACES[0], FACES[1], 1), (FACES[0], FACES[2], 0)]
    pairs = open_pairs(place(image_lines([kinds[0]] * 21 + [kinds[1]] * 20)))
    assert pairs.folds == 10
    for fold in range(10):
        same = pairs.same[pairs.fold_of == fold]
        assert (same.sum(), (~same).sum()) == (3 if fold == 0 else 2, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{FACES[0]} 1\n{FACES[1]} 1\n{FACES[0]} 1\n", "3 lines, expected two a pair"),
        (f"{FACES[0]} 1\n{FACES[1]} 2\n", "line 2: 2, but the line before says 1"),
        (f"{FACES[0]} 1\ngone.png 1\n", "line 2: there is no .*gone.png"),
        (f"{FACES[0]} 1\nada 1 2\n", "line 2: 'ada 1 2', expected 'image number'"),
    ],
)
def test_bad_lists_of_images(place, text, words):
    with pytest.raises(DataError, match=words):
        open_pairs(place(text))


CSV = f"{FACES[0]},{FACES[1]},1\n{FACES[0]},{FACES[2]},0\n{FACES[1]},{FACES[3]},no\n"


@pytest.mark.parametrize("header", ["", "path1,path2,same\n", "left,right,issame\n"])
def test_csv(place, tmp_path, pixels_of, header):
    path = place(header + CSV, "pairs.csv")
    pairs = open_pairs(path, tmp_path / "images")
    check(pairs, THREE, pixels_of)
    assert (pairs.num_images, pairs.folds) == (4, 3)
    inside = tmp_path / "images" / "pairs.csv"
    inside.write_text(header + CSV, encoding="utf-8")
    check(open_pairs(inside), THREE, pixels_of)


@pytest.mark.parametrize("answer", ["maybe", "2", "-1", "same", ""])
def test_a_first_row_that_names_files_is_no_header(place, tmp_path, answer):
    path = place(f"{FACES[0]},{FACES[1]},{answer}\n" + CSV, "pairs.csv")
    with pytest.raises(DataError, match=f"line 1: same is '{answer}', expected 1 or 0"):
        open_pairs(path, tmp_path / "images")


def test_pairs_that_contradict_each_other(place, tmp_path):
    other_way = f"{FACES[1]},{FACES[0]},0\n"
    with pytest.raises(DataError, match=r"line 4: says different people, but .*line 1 has the same two images"):
        open_pairs(place(CSV + other_way, "pairs.csv"), tmp_path / "images")
    own = f"{FACES[2]},{FACES[2]},0\n"
    with pytest.raises(DataError, match=r"line 4: .*ben_0001\.png is its own impostor"):
        open_pairs(place(CSV + own, "pairs.csv"), tmp_path / "images")
    both = image_lines([(FACES[0], FACES[1], 1), (FACES[0], FACES[1], 0)])
    with pytest.raises(DataError, match=r"line 3: says different people, but .*line 1 has the same"):
        open_pairs(place(both))


def test_repeated_pairs_and_genuine_pairs_of_one_image_are_named(place, tmp_path):
    rows = [f"{FACES[1]},{FACES[0]},1", f"{FACES[0]},{FACES[1]},1", f"{FACES[2]},{FACES[2]},1"]
    path = place(CSV + "\n".join(rows), "pairs.csv")
    pairs = open_pairs(path, tmp_path / "images")
    assert len(pairs) == 6
    repeats, own = pairs.notices()
    assert repeats.message.startswith("2 pairs stand more than once")
    assert repeats.items == (f"{path}, line 4", f"{path}, line 5")
    assert own.message.startswith("1 genuine pair is of an image and itself")
    assert own.items == (f"{path}, line 6",)
    assert open_pairs(place(CSV, "pairs.csv"), tmp_path / "images").notices() == []


def test_folds_of_csv(place, tmp_path):
    rows = CSV.splitlines()
    text = "".join(f"{row},{fold}\n" for row, fold in zip(rows, (7, -1, 7), strict=True))
    pairs = open_pairs(place("path1,path2,same,fold\n" + text, "p.csv"), tmp_path / "images")
    assert (pairs.folds, pairs.fold_of.tolist()) == (2, [1, 0, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CSV + "a,b\n", "line 4: 2 fields"),
        (CSV + f"{FACES[0]},{FACES[1]},maybe\n", "line 4: same is 'maybe'"),
        (CSV + "gone.png,ada/ada_0001.png,1\n", "line 4: there is no .*gone"),
        (CSV + f"{FACES[0]},{FACES[1]},1,2\n", "line 1: no fold, but other lines have one"),
        (f"{FACES[0]},{FACES[1]},1,x\n", "line 1: the fold is 'x'"),
        ("path1,path2,same\n", "no pair"),
        ("", "no pair"),
    ],
)
def test_bad_lines_of_csv(place, tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        open_pairs(place(text, "pairs.csv"), tmp_path / "images")


def test_what_cannot_be_read(place, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"ada 1 2\n\xff\xfe\n")
    with pytest.raises(DataError, match="UTF-8"):
        open_pairs(path)
    with pytest.raises(DataError, match="gone: no such folder"):
        open_pairs(place("ada 1 2\n"), tmp_path / "gone")
    with pytest.raises(DataError, match="no such file"):
        open_pairs(tmp_path / "gone.txt")


def test_an_image_that_goes_bad_names_its_path(place):
    pairs = open_pairs(place("ada 1 2\n"))
    (place("ada 1 2\n").parent / "images" / FACES[1]).write_bytes(b"junk")
    with pytest.raises(ImageError, match="ada_0002"):
        pairs[0]


def test_labelled_faces_in_the_wild(shared):
    pairs = open_pairs(shared / "datasets" / "lfw" / "pairs.txt", shared / "datasets" / "lfw" / "images")
    assert (len(pairs), pairs.folds, pairs.num_images) == (6000, 10, 7701)
    assert pairs.same.tolist() == ([True] * 300 + [False] * 300) * 10
    assert pairs.fold_of.tolist() == [i // 600 for i in range(6000)]


@pytest.mark.slow
def test_labelled_faces_in_the_wild_is_read_whole(shared):
    pairs = open_pairs(shared / "datasets" / "lfw" / "pairs.txt")
    assert len({pairs.image(k).shape for k in range(pairs.num_images)}) == 1
