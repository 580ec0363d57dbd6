"""One law for what strangers bring: every file that is given is either read or named, and errors are typed.

Trees of folders, members of shards and lists of pairs with names, labels and encodings that hypothesis draws.
"""

import csv
import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreface.data import ShardSource, open_faces, open_pairs
from coreface.data.folder import IMAGE_SUFFIXES, FolderSource
from coreface.errors import CoreFaceError, DataError
from support.fuzzing import cases
from support.toy_images import encode, noise

IMAGE = encode(noise("x", 4, 4), ".png")
HARDER = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

# Names that have misled somebody: no UTF-8, two spellings of one letter, numbers that are none, escapes, ends of lines.
TRICKY = [
    "a",
    "A",
    "é",
    "e\u0301",
    "a b",
    "a.b",
    "x.tar",
    "\udce9",
    "l\nl",
    "\\x41",
    "1",
    "01",
    "-1",
    "٣",
    "1e3",
    "nan",
]
NAMES = st.one_of(
    st.sampled_from([*TRICKY, ".h"]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda name: name not in (".", "..")
    ),
)
SUFFIXES = st.sampled_from([".jpg", ".PNG", ".jfif", ".txt", "", ".npz", ".avif"])
FILES = st.lists(st.tuples(st.lists(NAMES, max_size=3), NAMES, SUFFIXES), min_size=1, max_size=10)


def is_hidden(name):
    return any(part.startswith(".") for part in name.split("/"))


def is_image(name):
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def opened(open_it, path):
    """Return what is opened, or None where it is refused by an error that says what file it is about."""
    error = None
    try:
        return open_it()
    except DataError as refused:
        error = refused
    assert str(path) in str(error)
    return None


def plant(root, files):
    """Write files as far as none stands in the way of another; return their names."""
    planted = set()
    for folders, name, suffix in files:
        path = root.joinpath(*folders, name + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(IMAGE)
                planted.add(os.path.relpath(path, root))
        except OSError:  # a file is where a folder should be, or the name is longer than this file system takes
            continue
    return planted


@settings(HARDER, max_examples=cases(60))
@given(FILES, st.sampled_from([None, 1, 2]))
def test_folders(files, level):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        seen = {name for name in plant(root, files) if not is_hidden(name)}
        least = level or 1
        readable = [name for name in seen if is_image(name) and name.count("/") >= least]
        try:
            source = FolderSource(root, identity_level=level)
        except DataError:
            assert not readable
            return
        read = {os.path.relpath(source.locate(index), root): index for index in range(len(source))}
        named = {item for notice in source.storage_notices() for item in notice.items}
        for name in seen - read.keys():
            parts = name.split("/")
            assert any("/".join(parts[:depth]) in named for depth in range(1, len(parts) + 1)), name
        assert read.keys() <= {name for name in seen if is_image(name)}
        for name, index in read.items():
            parts = name.split("/")[:-1]
            assert source.identity_names[source.identities[index]] == "/".join(
                parts if level is None else parts[:level]
            )
            assert source.encoded(index) == IMAGE


LABELS = st.one_of(
    st.sampled_from(
        ["0", "7", "007", "-3", "9" * 30, str(2**53), str(2**53 + 1), "1_0", "3e0", "", "nan", "٣", " 5\n"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
PARTS = st.sampled_from([".jpg", ".png", ".cls", ".cls", ".txt", ".json", ""])
KEYS = st.one_of(st.sampled_from(["a", "a.b", "a.left", "d/a", "d.e/a", ".h", "é", "\udce9"]), NAMES)
MEMBERS = st.lists(st.tuples(KEYS, PARTS, LABELS), min_size=1, max_size=12)


def key_of(name):
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    return (f"{folder}/" if folder else "") + (stem if dot and stem else file), (dot + suffix if stem else "")


@settings(HARDER, max_examples=cases(60))
@given(MEMBERS, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.booleans())
def test_members_of_shards(members, layout, text):
    suffix = ".txt" if text else ".cls"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.tar"
        written = {}
        with tarfile.open(path, "w", format=layout) as shard:
            for key, part, label in members:
                name = key + part
                content = IMAGE if part in (".jpg", ".png") else label.encode()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                written[name] = (content, label)
                shard.addfile(member, io.BytesIO(content))
        source = opened(lambda: ShardSource(path, label=suffix[1:]), path)
        if source is None:
            return
        parts = {name: key_of(name) for name in written if not name.rpartition("/")[2].startswith(".")}
        images = {key for key, kind in parts.values() if kind.lower() in IMAGE_SUFFIXES}
        labels = {key: written[name][1].strip() for name, (key, kind) in parts.items() if kind.lower() == suffix}
        whole = images & labels.keys()
        named = {item.removeprefix(f"{path}: ") for notice in source.storage_notices() for item in notice.items}
        for name, (key, _) in parts.items():
            first = key.rpartition("/")[0] + "/" * ("/" in key) + key.rpartition("/")[2].partition(".")[0]
            assert key in whole or first in whole or name in named, name
        assert len(source) == len(whole)
        found = sorted(source.identity_names[identity] for identity in source.identities)
        assert found == sorted(labels[key] for key in whole)


ANSWERS = {"1": True, "true": True, "YES": True, "0": False, "False": False, "no": False}
IMAGES = ["a/1.png", "a/2.png", "b c/1.png", "é/1.png", 'q"/1.png', "n\nl/1.png"]
CELLS = st.sampled_from([*IMAGES, *IMAGES, "missing.png", "", "a" * 300, "path1"])
ROWS = st.lists(
    st.tuples(
        CELLS,
        CELLS,
        st.sampled_from([*ANSWERS, *ANSWERS, "same", "2", ""]),
        st.one_of(st.none(), st.sampled_from(["0", "1", "-1", "--1", "²", "", "x", "9" * 25])),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for name in IMAGES:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(encode(noise(name, 4, 4), ".png"))
    return root


@settings(HARDER, max_examples=cases(60))
@given(
    rows=ROWS,
    header=st.booleans(),
    dialect=st.sampled_from(["excel", "unix"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]),
)
def test_rows_of_pairs(images, rows, header, dialect, encoding):
    text = io.StringIO()
    writer = csv.writer(text, dialect=dialect)
    if header:
        writer.writerow(["path1", "path2", "same", "fold"])
    for left, right, answer, fold in rows:
        writer.writerow([left, right, answer] if fold is None else [left, right, answer, fold])
    path = images / "list.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    pairs = opened(lambda: open_pairs(path), path)
    if pairs is None:
        return
    if not header and rows[0][2].lower() not in (*ANSWERS, "yes", "false"):
        assert not {*rows[0][:2]} & {*IMAGES}, "a first row that names images is no header"
        rows = rows[1:]
    assert len(pairs) == len(rows)
    for place, (left, right, answer, _) in enumerate(rows):
        assert os.path.relpath(pairs.locate(int(pairs.left[place])), images) == left
        assert os.path.relpath(pairs.locate(int(pairs.right[place])), images) == right
        assert bool(pairs.same[place]) is ANSWERS.get(answer, ANSWERS.get(answer.lower()))


WORDS = st.sampled_from(["ada", "ben", "1", "2", "0001", "²", "10", "-1", "9" * 5000, "x" * 300, "a\0"])


@settings(HARDER, max_examples=cases(60))
@given(lines=st.lists(st.lists(WORDS, max_size=5), max_size=6), tabs=st.booleans())
def test_lines_of_pairs(images, lines, tabs):
    """Any words at all are pairs or a typed error."""
    path = images / "pairs.txt"
    path.write_text("\n".join(("\t" if tabs else " ").join(words) for words in lines), encoding="utf-8")
    with pytest.raises(CoreFaceError):
        open_pairs(path, images)


@settings(HARDER, max_examples=cases(30))
@given(
    content=st.binary(max_size=200), suffix=st.sampled_from([".tar", ".tar.gz", ".rec", ".csv", ".txt", ".bin", ".zip"])
)
def test_any_bytes_under_any_suffix(content, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(content)
        for open_path in (open_faces, open_pairs):
            with pytest.raises(CoreFaceError):
                open_path(path)
