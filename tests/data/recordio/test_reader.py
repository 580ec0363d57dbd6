"""Frames, the index and the headers, against a second implementation of the format."""

import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.data import RecordReader, RecordWriter
from coreface.errors import DataError, InputError
from support.recordio_by_hand import MAGIC, file_of, frames, header, write

# Payloads in which the magic number is likely, at multiples of four and elsewhere.
PAYLOADS = st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=5)), max_size=8).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(PAYLOADS.filter(bool), min_size=1, max_size=5))
def test_the_writer_writes_what_the_format_says(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("written") / "train.rec"
    with RecordWriter(path) as writer:
        keys = [writer.write(image, 7 * number) for number, image in enumerate(images)]
    data, offsets = file_of([header(7.0 * number) + image for number, image in enumerate(images)])
    # The id of the header is the key, as im2rec has it.
    expected, _ = file_of([header(7.0 * n, key=n) + image for n, image in enumerate(images)])
    assert path.read_bytes() == expected
    assert len(data) == len(expected)
    assert keys == list(range(len(images)))
    assert path.with_suffix(".idx").read_text() == "".join(f"{k}\t{o}\n" for k, o in enumerate(offsets))
    reader = RecordReader(path)
    assert [record.image for record in reader] == images
    assert [record.labels for record in reader] == [(7.0 * n,) for n in range(len(images))]
    path.with_suffix(".idx").unlink()
    assert RecordReader(path).offsets.tolist() == offsets


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PAYLOADS, st.integers(-5, 5), st.sampled_from([0, 1, 2, 3])), min_size=1, max_size=5))
def test_headers_are_read_at_once_as_one_by_one(tmp_path_factory, records):
    """Split records, short ones and those at the very end take another way than the plain ones."""
    payloads = []
    for image, label, flag in records:
        payloads.append(header(0.0 if flag else label, flag, labels=[label, *range(flag - 1)][:flag]) + image)
    reader = RecordReader(write(tmp_path_factory.mktemp("headers"), payloads))
    headers = reader.headers(slice(None))
    assert headers.labels.tolist() == [label for _, label, _ in records]
    assert headers.is_index.tolist() == [flag == 2 and not image for image, _, flag in records]
    assert [r.labels[0] for r in reader] == headers.labels.tolist()
    assert [r.is_index for r in reader] == headers.is_index.tolist()
    some = np.array([len(records) - 1, 0])
    assert reader.headers(some).labels.tolist() == [records[-1][1], records[0][1]]


def test_a_label_that_is_the_magic_number_splits_the_header(tmp_path):
    label = np.frombuffer(MAGIC, "<f4")[0]
    payload = header(label) + b"image"
    path = write(tmp_path, [header(1) + b"a", payload, header(2) + b"b"])
    assert frames(payload).count(MAGIC) == 2
    reader = RecordReader(path)
    assert reader[1].image == b"image"
    assert reader.headers(slice(None)).labels.tolist() == [1, label, 2]


def test_keys_and_places(tmp_path):
    path = write(tmp_path, [header(k) + b"x" for k in range(4)], keys=[3, 10, 4, 0])
    reader = RecordReader(path)
    assert reader.keys.tolist() == [3, 10, 4, 0]
    assert reader.position(10) == 1
    assert [reader.key(i) for i in range(4)] == [3, 10, 4, 0]
    assert "key 10 (byte 36)" in reader.locate(1)
    with pytest.raises(InputError, match="no record with key 7"):
        reader.position(7)
    with pytest.raises(IndexError):
        reader[4]
    plain = RecordReader(write(tmp_path / "plain", [header(k) + b"x" for k in range(4)]))
    assert plain.keys.tolist() == [0, 1, 2, 3]
    assert plain.position(2) == 2
    with pytest.raises(InputError):
        plain.position(4)


def test_lines_in_another_order_or_style_are_the_same_index(tmp_path):
    path = write(tmp_path, [header(k) + b"x" for k in range(3)])
    expected = [record.labels for record in RecordReader(path)]
    index = path.with_suffix(".idx")
    for text in ("0 0\r\n1  36\r\n2\t72\r\n", "0\t0\n1\t36\n2\t72", "  0\t0\n1\t36\n2\t72\n"):
        index.write_text(text)
        assert [record.labels for record in RecordReader(path)] == expected
    index.write_text("2\t72\n0\t0\n")
    assert [record.labels for record in RecordReader(path)] == [(2.0,), (0.0,)]


def test_long_indices_are_read_in_blocks(tmp_path, monkeypatch):
    from coreface.data.recordio import index as record_index

    lines = [(k * 3 + 1, k * 8) for k in range(500)]
    path = tmp_path / "a.idx"
    path.write_text("".join(f"{k}\t{o}\n" for k, o in lines))
    for block in (64, 100, 1000, 2**22):
        monkeypatch.setattr(record_index, "_BLOCK", block)
        keys, offsets = record_index.read_index(path)
        assert list(zip(keys.tolist(), offsets.tolist(), strict=True)) == lines


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:2], "2\t73", lines[3]], "line 3: key 2 at byte 73 .*multiples of 4"),
        (lambda lines: [*lines[:2], "2\t76", *lines[3:]], "line 3: key 2 at byte 76 .*magic number"),
        (lambda lines: [*lines[:3], "3\t99999999"], "line 4: .*the file has"),
        (lambda lines: ["0\t40", "1\t80", "2\t4", lines[3]], "line 1: key 0 at byte 40"),
        (lambda lines: [lines[0], "x\t36", *lines[2:]], "line 2: 'x.*expected 'key<tab>offset'"),
        (lambda lines: [lines[0], "1", *lines[2:]], "line 2: '1', expected"),
        (lambda lines: [lines[0], "1\t2\t3", *lines[2:]], "line 2: "),
        (lambda lines: [lines[0], "1\t-36", *lines[2:]], "line 2: "),
        (lambda lines: [lines[0], "1\t36.0", *lines[2:]], "line 2: "),
        (lambda lines: [lines[0], "1\t" + "9" * 30, *lines[2:]], "line 2: "),
        (lambda lines: [*lines, "1\t36"], "line 5: key 1 comes a second time"),
        (lambda lines: [], "empty"),
        (lambda lines: ["x" * 9999], "not an index|expected 'key"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_with_its_first_bad_line(tmp_path, change, words):
    path = write(tmp_path, [header(k) + b"x" for k in range(4)])
    index = path.with_suffix(".idx")
    lines = change(index.read_text().splitlines())
    index.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match=words) as caught:
        RecordReader(path)
    assert str(index) in str(caught.value)
    assert "remove" in str(caught.value)


def test_of_a_very_long_index_some_lines_are_tried_and_the_first_bad_one_is_named(tmp_path, monkeypatch):
    from coreface.data.recordio import reader as recordio

    monkeypatch.setattr(recordio, "_ALL_CHECKED", 100)
    path = write(tmp_path, [header(k) + b"x" for k in range(300)])
    index = path.with_suffix(".idx")
    lines = index.read_text().splitlines()
    moved = [f"{k}\t{int(line.split()[1]) + (4 if k >= 123 else 0)}" for k, line in enumerate(lines)]
    index.write_text("\n".join(moved) + "\n")
    with pytest.raises(DataError, match="line 124: key 123"):
        RecordReader(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"not RecordIO", "magic number"),
        (frames(header() + b"x")[:-8], "the file ends at byte"),
        (frames(header() + b"x") + b"\0", "cut off"),
        (MAGIC + b"\x00\x00\x00\x40", "out of sequence"),
        (MAGIC + b"\x00\x00\x00\x20", "cut off"),  # the first part of a record, and nothing behind
        (MAGIC + b"\x00\x00\x00\x20" + MAGIC + b"\x00\x00\x00\x20", "out of sequence"),
        (MAGIC + b"\xff\xff\xff\x1f", "536870911 bytes, but the file ends at byte 8"),
    ],
)
def test_a_damaged_file_without_an_index(tmp_path, data, words):
    path = tmp_path / "train.rec"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        RecordReader(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"short", "a record of 5 bytes"), (header(flag=2**31) + b"x", "too short for the 2147483648 labels")],
)
def test_a_record_shorter_than_its_header(tmp_path, payload, words):
    path = write(tmp_path, [header() + b"x", payload])
    path.with_suffix(".idx").unlink()
    reader = RecordReader(path)
    for read in (lambda: reader[1], lambda: reader.headers(slice(None))):
        with pytest.raises(DataError, match=words) as caught:
            read()
        assert "key 1 (byte 36)" in str(caught.value)


def test_missing_and_several(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        RecordReader(tmp_path / "gone.rec")
    with pytest.raises(DataError, match=r"no \.rec file"):
        RecordReader(tmp_path)
    for name in ("a", "b"):
        write(tmp_path, [header() + b"x"], name=name)
    with pytest.raises(DataError, match=r"a\.rec, b\.rec: specify one"):
        RecordReader(tmp_path)
    assert len(RecordReader(tmp_path / "a.idx")) == 1


def test_a_file_cut_off_while_in_use_is_an_error_and_no_crash(tmp_path):
    path = write(tmp_path, [header(k) + bytes(5000) for k in range(10)])
    reader = RecordReader(path)
    assert len(reader[9].image) == 5000
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"cut off from .* to 100 bytes while in use"):
        reader[9]


def test_readers_go_to_other_processes(tmp_path):
    reader = RecordReader(write(tmp_path, [header(k) + b"x" for k in range(10)]))
    assert [record.labels[0] for record in pickle.loads(pickle.dumps(reader))] == list(range(10))
    assert len(pickle.dumps(reader)) < 2000
    reader[0]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(reader.__getitem__, (7,)).labels == (7.0,)


def test_a_forked_process_maps_the_file_anew(tmp_path):
    reader = RecordReader(write(tmp_path, [header() + b"x"]))
    mapped = reader._file._map
    assert mapped is not None

    def look(answer):
        before = reader._file._map
        answer.send((before is None, reader[0].image, reader._file._map is not mapped))

    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=look, args=(there,))
    child.start()
    assert here.recv() == (True, b"x", True)
    child.join()
    assert reader._file._map is mapped


# The writer


def test_an_index_of_identities(tmp_path):
    path = tmp_path / "train.rec"
    with RecordWriter(path, identities=True) as writer:
        assert [writer.write(b"x", label) for label in (4, 4, 9, 2, 2, 2)] == [1, 2, 3, 4, 5, 6]
    records = list(RecordReader(path))
    assert records[0].labels == (7.0, 10.0)
    assert [record.labels for record in records[7:]] == [(1.0, 3.0), (3.0, 4.0), (4.0, 7.0)]
    assert [record.is_index for record in records] == [True, *[False] * 6, *[True] * 3]
    assert [record.id for record in records] == list(range(10))


def write_labels(path, items, **options):
    with RecordWriter(path, **options) as writer:
        for image, label in items:
            writer.write(image, label)


def test_what_the_writer_refuses(tmp_path):
    with pytest.raises(InputError, match=r"\.rec"):
        RecordWriter(tmp_path / "train.bin")
    with pytest.raises(InputError, match="label 1 comes again"):
        write_labels(tmp_path / "a.rec", [(b"x", 1), (b"x", 2), (b"x", 1)], identities=True)
    for image, label in ((b"x", 2**24 + 1), (b"x", 0.5), (b"", 1)):
        with pytest.raises(InputError):
            write_labels(tmp_path / "a.rec", [(image, label)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_ever_has_the_name(tmp_path):
    path = write(tmp_path, [header(3) + b"old"])

    def images():
        yield b"new", 1
        assert RecordReader(path)[0].image == b"old"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_labels(path, images())
    assert RecordReader(path)[0].image == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.idx", "train.rec"]
