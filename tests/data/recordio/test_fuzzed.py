"""Damaged RecordIO: an error of ours, or images; never anything else, and never more memory than the file has."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.data import open_faces
from coreface.data.recordio import reader as recordio_module
from coreface.data.recordio import source as records_module
from coreface.errors import CoreFaceError
from support.fuzzing import cases
from support.recordio_by_hand import MAGIC, file_of, header
from support.toy_images import encode, noise


def jpeg(name):
    return encode(noise(name, 32, 32), ".jpg")


def pieces():
    images = [
        header(0, key=1) + jpeg("a"),
        header(0, key=2) + jpeg("b") + MAGIC + b"tail",
        header(3, key=3) + encode(noise("c"), ".png"),
        header(flag=2, labels=(3, 7)) + jpeg("d"),
    ]
    people = [header(flag=2, labels=bounds) for bounds in ((1, 3), (3, 5))]
    data, offsets = file_of([header(flag=2, labels=(5, 7)), *images, *people])
    return data, "".join(f"{k}\t{o}\n" for k, o in enumerate(offsets)).encode(), offsets


DATA, INDEX, OFFSETS = pieces()
# Frames and headers are a hundredth of the bytes and all of the structure: half of the damage meets them.
STRUCTURE = [offset + byte for offset in OFFSETS for byte in range(40) if offset + byte < len(DATA)]


def damage(draw, data, places):
    spoilt = bytearray(data)
    for place in draw(st.lists(places, max_size=4)):
        spoilt[place] ^= 1 << draw(st.integers(0, 7))
    if draw(st.booleans()):
        del spoilt[draw(st.integers(0, len(spoilt))) :]
    return bytes(spoilt)


@pytest.mark.parametrize("described", [False, True])
@settings(max_examples=cases(400), deadline=None)
@given(st.data())
def test_flipped_bits_and_cut_ends(tmp_path_factory, described, data):
    folder = tmp_path_factory.getbasetemp() / f"fuzzed_records_{described}"
    folder.mkdir(exist_ok=True)
    path = folder / "train.rec"
    path.write_bytes(damage(data.draw, DATA, st.integers(0, len(DATA) - 1) | st.sampled_from(STRUCTURE)))
    index = path.with_suffix(".idx")
    kind = data.draw(st.sampled_from(["whole", "damaged", "missing"]))
    index.unlink(missing_ok=True)
    if kind != "missing":
        index.write_bytes(INDEX if kind == "whole" else damage(data.draw, INDEX, st.integers(0, len(INDEX) - 1)))
    with pytest.MonkeyPatch.context() as patch:
        if described:
            patch.setattr(records_module, "_ALL_READ", 1)
            patch.setattr(recordio_module, "_ALL_CHECKED", 1)
        messages = []
        try:
            source = open_faces(folder)
        except CoreFaceError as error:
            source = ()
            messages.append(str(error))
        for number in range(len(source)):
            try:
                image, identity = source[number]
            except CoreFaceError as error:
                messages.append(str(error))
                continue
            assert image.dtype == np.uint8
            assert 0 <= identity < source.num_identities
        assert all(str(folder) in message for message in messages)


@pytest.mark.parametrize(
    ("data", "index"),
    [
        (MAGIC + b"\xff\xff\xff\x1f" + bytes(64), None),
        (MAGIC + b"\x20\x00\x00\x00" + header(flag=2**31), None),
        (MAGIC + b"\x20\x00\x00\x00" + header(flag=2**32 - 1), b"0\t0\n"),
        (DATA, b"0\t0\n999999999999999999\t40\n"),
        (DATA, b"0\t0\n1\t999999999999999996\n"),
        (file_of([header(2.0**60) + b"x", header(-(2.0**60)) + b"x"])[0], None),
        (file_of([header(16777216) + b"x", header(0) + b"x"])[0], None),
    ],
)
def test_no_number_in_a_file_makes_memory_grow(tmp_path, data, index):
    (tmp_path / "train.rec").write_bytes(data)
    if index:
        (tmp_path / "train.idx").write_bytes(index)
    tracemalloc.start()
    try:
        open_faces(tmp_path)
    except CoreFaceError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 2**23 + 40 * len(data)  # a block of an index, and what it is read with
