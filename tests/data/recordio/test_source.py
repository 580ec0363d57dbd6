"""RecordIO as a source of faces: which records are images, and what their labels become."""

import hashlib
import json
import pickle

import numpy as np
import pytest

from coreface.data import RecordSource, RecordWriter, open_faces
from coreface.data.recordio import reader as recordio_module
from coreface.data.recordio import source as records_module
from coreface.errors import DataError, ImageError
from coreface.images.load import load_image
from support.recordio_by_hand import header, write
from support.toy_images import encode, noise


def png(name):
    return encode(noise(name), ".png")


def insightface(counts, gap=0):
    """Payloads as InsightFace lays them out: an index, the images of each identity, a record for each identity."""
    images, people, key = [], [], 1
    for label, count in counts:
        images += [header(label, key=key + i) + png(f"{label}/{i}") for i in range(count)]
        people.append((key, key + count))
        key += count
    top = header(flag=2, labels=(key, key + len(people)))
    return [top, *images, *(header(flag=2, key=key + i, labels=bounds) for i, bounds in enumerate(people))]


def test_the_fixture(shared):
    folder = shared / "fixtures" / "orl_recordio"
    expected = json.loads((folder / "expected.json").read_text())
    source = open_faces(folder)
    assert (len(source), source.num_identities) == (expected["images"], expected["identities"])
    for sample in expected["samples"]:
        index = sample["key"] - 1
        image, identity = source[index]
        assert identity == sample["label"]
        assert list(image.shape) == sample["shape"]
        np.testing.assert_allclose(image.mean(axis=(0, 1)), sample["rgb_mean"], atol=0.001)
        assert hashlib.sha1(source.encoded(index)).hexdigest() == sample["jpeg_sha1"]
    assert source.notices() == []


@pytest.mark.slow
def test_families_in_the_wild_is_read_whole(shared):
    source = open_faces(shared / "datasets" / "fiw")
    assert (len(source), source.num_identities) == (13063, 1568)
    assert {source[i][0].shape for i in range(len(source))} == {(112, 112, 3)}


@pytest.mark.parametrize("described", [True, False])
def test_index_records_are_left_out(tmp_path, monkeypatch, described):
    """The same answer from the index of identities as from every header."""
    if described:
        monkeypatch.setattr(records_module, "_ALL_READ", 1)
    counts = [(5, 3), (2, 1), (9, 4)]
    source = RecordSource(write(tmp_path, insightface(counts)))
    assert len(source) == 8
    assert source.identity_names == ("2", "5", "9")
    assert source.identities.tolist() == [1, 1, 1, 0, 2, 2, 2, 2]
    np.testing.assert_array_equal(source[3][0], noise("2/0"))
    assert source.encoded(7) == png("9/3")
    assert "key 8 (byte" in source.locate(7)


def test_only_the_index_is_looked_at_where_it_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "_ALL_READ", 1)
    monkeypatch.setattr(recordio_module, "_ALL_CHECKED", 1)
    monkeypatch.setattr(recordio_module, "_TRIED", 2)
    payloads = insightface([(5, 3), (2, 3)])
    payloads[2] = header(7) + png("mislabelled")
    source = RecordSource(write(tmp_path, payloads))
    assert source.identities.tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(ImageError, match=r"key 2 .*the label is 7\.0, the index says 5"):
        source[1]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.__setitem__(0, header(flag=2, labels=(8, 10))),  # other bounds
        lambda p: p.__setitem__(0, header(flag=2, labels=(float("nan"), 9))),
        lambda p: p.__setitem__(0, header(flag=2, labels=(7.25, 7.75))),
        lambda p: p.__setitem__(-1, header(flag=2, labels=(4, 6))),  # does not end with the images
        lambda p: p.__setitem__(-1, header(flag=2, labels=(4.5, 7))),
        lambda p: p.__setitem__(-1, header(flag=2, labels=(float("nan"), 7))),
        lambda p: p.__setitem__(-2, header(flag=0) + png("x")),  # an image where an identity should be
        lambda p: p.__setitem__(3, header(8) + png("5/2")),  # two labels in one identity
    ],
)
def test_an_index_that_is_not_as_usual_is_not_believed(tmp_path, monkeypatch, spoil):
    payloads = insightface([(5, 3), (2, 3)])
    spoil(payloads)
    path = write(tmp_path, payloads)
    read = RecordSource(path)
    monkeypatch.setattr(records_module, "_ALL_READ", 1)
    again = RecordSource(path)
    assert again.identities.tolist() == read.identities.tolist()
    assert [again.locate(i) for i in range(len(again))] == [read.locate(i) for i in range(len(read))]


def test_two_labels_alone_make_no_index(tmp_path):
    """A record of two labels with an image is an image; its identity is the first label."""
    payloads = [
        header(flag=2, labels=(6, 50)) + png("a"),
        header(1) + png("b"),
        header(flag=2, labels=(6, 51)) + png("c"),
    ]
    source = RecordSource(write(tmp_path, payloads))
    assert len(source) == 3
    assert [source.identity_names[i] for i in source.identities] == ["6", "1", "6"]
    np.testing.assert_array_equal(source[2][0], noise("c"))


def test_an_image_of_no_bytes_is_an_unreadable_image(tmp_path):
    source = RecordSource(write(tmp_path, [header(1), header(1) + png("a")]))
    assert len(source) == 2
    with pytest.raises(ImageError, match="key 0"):
        source[0]


def test_labels_behind_the_header_are_no_part_of_the_image(tmp_path):
    """Their record's own label is 0, as is that of the first identity."""
    images = [png("a"), png("b"), png("c")]
    payloads = [
        header(flag=1, labels=(0,)) + images[0],
        header(0) + images[1],
        header(flag=3, labels=(0, 7, 9)) + images[2],
    ]
    source = RecordSource(write(tmp_path, payloads))
    assert source.identities.tolist() == [0, 0, 0]
    assert [source.encoded(i) for i in range(3)] == images


@pytest.mark.parametrize("labels", [[-7, 10**6, 0, -7], [16777216, 3, 3, 16777215], [1, 2, 3, 4], [2.0, 2.0, 1.0, 1.0]])
def test_labels_become_identities_in_the_order_of_their_values(tmp_path, labels):
    source = RecordSource(write(tmp_path, [header(label) + b"x" for label in labels]))
    values = sorted(set(labels))
    assert source.identities.tolist() == [values.index(label) for label in labels]
    assert source.identity_names == tuple(str(int(value)) for value in values)
    assert source.identities.dtype == np.int64


@pytest.mark.parametrize("label", [0.5, float("nan"), float("inf"), -float("inf")])
def test_labels_that_are_no_identities(tmp_path, label):
    path = write(tmp_path, [header(1) + b"x", header(label) + b"x"])
    with pytest.raises(DataError, match=r"key 1 \(byte 36\).*whole number"):
        RecordSource(path)


def test_names_beside_the_file(tmp_path):
    path = write(tmp_path, [header(label) + b"x" for label in (2, 0)])
    (tmp_path / "identities.json").write_text('["ann", "ben", "zoë"]', encoding="utf-8")
    assert RecordSource(path).identity_names == ("ann", "zoë")
    for text in ('["ann"]', "{}", "[1, 2, 3]", "[", "[" * 10**5):
        (tmp_path / "identities.json").write_text(text)
        with pytest.raises(DataError, match=r"identities\.json"):
            RecordSource(path)


def test_notices(tmp_path):
    path = write(tmp_path, [header(label) + b"x" for label in (0, 0, 1, 1)])
    assert RecordSource(path).notices() == []
    (tmp_path / "property").write_text("3,112,112")
    assert ["another number of identities than 2" in notice.message for notice in RecordSource(path).notices()] == [
        True
    ]
    (tmp_path / "property").write_text("2,112,112\n")
    assert RecordSource(path).notices() == []


def test_no_image(tmp_path):
    with pytest.raises(DataError, match="none of them an image"):
        RecordSource(write(tmp_path, [header(flag=2, labels=(1, 1))]))


def test_a_damaged_record_is_an_unreadable_image(tmp_path):
    path = write(tmp_path, [header(k) + png(str(k)) for k in range(3)])
    source = RecordSource(path)
    with path.open("r+b") as file:
        file.seek(int(source._reader.offsets[1]))
        file.write(b"\xff")
    np.testing.assert_array_equal(source[2][0], noise("2"))
    with pytest.raises(ImageError, match=r"train\.rec, key 1 \(byte .*magic number"):
        source[1]


def test_what_changes_in_a_file_in_use_is_seen_the_quick_way_too(tmp_path):
    """Plain JPEGs take a way of their own through record, label and image."""
    images = [encode(noise(name, 32, 32), ".jpg") for name in "abcd"]
    with RecordWriter(tmp_path / "train.rec") as writer:
        for image in images:
            writer.write(image, 5)
    path = tmp_path / "train.rec"
    source = RecordSource(path)
    offsets = source._reader.offsets.tolist()
    for index, image in enumerate(images):
        assert source.encoded(index) == image
        for _ in range(2):
            np.testing.assert_array_equal(source[index][0], load_image(image))
            assert source[index][1] == 0
    np.testing.assert_array_equal(source[-1][0], load_image(images[3]))
    with pytest.raises(IndexError):
        source[4]
    half = bytearray(path.read_bytes())
    middle = offsets[1] + 32 + len(images[1]) // 2
    half[middle : middle + 300] = (images[0] + images[0])[:300]  # the rest of one image, another begins
    half[offsets[2] + 12 : offsets[2] + 16] = np.float32(6).tobytes()
    with path.open("r+b") as file:
        file.write(half)
    with pytest.raises(ImageError, match=r"train\.rec, key 1 \(byte"):
        source[1]
    with pytest.raises(ImageError, match=r"key 2 \(byte .*the label is 6\.0, the index says 5"):
        source[2]
    np.testing.assert_array_equal(source[0][0], load_image(images[0]))
    with path.open("r+b") as file:
        file.truncate(offsets[3] + 40)
    with pytest.raises(ImageError, match="while in use"):
        source[0]


def test_open_faces_and_pickling(tmp_path):
    with RecordWriter(tmp_path / "train.rec") as writer:
        for name in "abc":
            writer.write(png(name), 0)
    for path in (tmp_path, tmp_path / "train.rec", str(tmp_path / "train.idx")):
        source = pickle.loads(pickle.dumps(open_faces(path)))
        assert isinstance(source, RecordSource)
        np.testing.assert_array_equal(source[1][0], noise("b"))
