"""Tar shards: every sample once, whoever wrote the tar, read in sequence and mixed over a window."""

import io
import pickle
import tarfile
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.data import FaceLoader, ShardSource, open_faces
from coreface.data.tar_members import tar_members
from coreface.errors import CoreFaceError, DataError, ImageError
from support.fuzzing import cases
from support.toy_images import encode, noise


def png(name):
    return encode(noise(name), ".png")


def tar(members, kind=tarfile.USTAR_FORMAT):
    """A tar by the standard library."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def sample(key, label, suffix="png"):
    return [(f"{key}.{suffix}", png(key)), (f"{key}.cls", str(label).encode())]


@pytest.fixture
def shards(tmp_path):
    """Five shards of 7, 1, 12, 4 and 16 samples; labels 30, 10 and 20."""
    count = 0
    for number, samples in enumerate([7, 1, 12, 4, 16]):
        members = []
        for _ in range(samples):
            members += sample(f"{count:04d}", [30, 10, 20][count % 3])
            count += 1
        (tmp_path / f"shard-{number}.tar").write_bytes(tar(members))
    return tmp_path


def test_samples_labels_and_names(shards):
    source = open_faces(shards)
    assert isinstance(source, ShardSource)
    assert (len(source), source.identity_names) == (40, ("10", "20", "30"))
    assert source.identities.tolist() == [[2, 0, 1][i % 3] for i in range(40)]
    for index in (0, 6, 7, 8, 19, 20, 39, -1):
        np.testing.assert_array_equal(source[index][0], noise(f"{index % 40:04d}"))
        assert source.encoded(index % 40) == png(f"{index % 40:04d}")
    assert "shard-2.tar, byte" in source.locate(8)
    assert source.notices() == []
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[39][0], noise("0039"))
    assert len(open_faces(shards / "shard-2.tar")) == 12


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.text("aé/x.1李", min_size=1, max_size=90), max_size=5), data=st.data())
def test_members_are_those_of_the_standard_library(kind, names, data):
    members = [(f"n{name}n" * data.draw(st.integers(1, 4)), data.draw(st.binary(max_size=600))) for name in names]
    try:
        made = tar(members, kind)
    except ValueError:  # a name too long for ustar
        return
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
    got = [tuple(member) for member in tar_members(made)]
    assert [(name.rstrip("/"), *rest) for name, *rest in got] == [(name.rstrip("/"), *rest) for name, *rest in expected]
    assert [made[start : start + size] for _, start, size in got] == [content for _, content in members]


def test_keys_end_at_the_first_dot_and_other_parts_are_left_alone(tmp_path):
    members = [
        ("a/1.jpg", png("x")),
        ("a/1.json", b"{}"),
        ("a/1.cls", b" 7\n"),
        ("b/1.left.jpg", png("other")),
        ("b/1.cls", b"8.0"),
        ("b/1.png", png("y")),
        ("._c.jpg", b"junk"),
        ("lone.png", png("z")),
        ("label.cls", b"1"),
        ("README", b"text"),
    ]
    (tmp_path / "a.tar").write_bytes(tar(members))
    source = open_faces(tmp_path)
    assert [source.encoded(i) for i in range(len(source))] == [png("x"), png("y")]
    assert source.identity_names == ("7", "8")
    (notice,) = [n for n in source.notices() if "lack" in n.message]
    assert [item.split(": ")[1] for item in notice.items] == ["label.cls", "lone.png"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1.jpg", b"x"), ("1.cls", b"ann")], "'1.cls' at byte 1536: 'ann', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"0.5")], r"a\.tar, byte 512: the label is 0\.5"),
        ([("1.jpg", b"x"), ("1.cls", b"nan")], "the label is nan"),
        ([("1.jpg", b"x"), ("1.cls", b"1" * 100)], "expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"1"), ("1.png", b"y")], r"a second member '1\.png'"),
        ([("1.txt", b"x")], "1 shards without a sample"),
    ],
)
def test_what_is_no_shard(tmp_path, members, words):
    (tmp_path / "a.tar").write_bytes(tar(members))
    with pytest.raises(DataError, match=words):
        ShardSource(tmp_path)


def test_damaged_shards(tmp_path):
    made = tar(sample("1", 1) + sample("2", 2))
    path = tmp_path / "a.tar"
    for spoilt, words in (
        (made[:700], "byte 0: a member of .* bytes, but the file ends at byte 700"),
        (made[: 512 + 1024 + 100], "byte 1536: the file ends within a header"),
        (b"\x01" + made[1:], "byte 0: no header of a tar member"),
        (b"", "empty"),
    ):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match=words) as caught:
            ShardSource(path)
        assert str(path) in str(caught.value)
    with pytest.raises(DataError, match=r"no \.tar"):
        ShardSource(tmp_path / ".." / tmp_path.name / "..")


def with_its_sum(header):
    """The header with the sum that POSIX asks for, by a plain loop."""
    header = header[:148] + b" " * 8 + header[156:]
    total = 0
    for byte in header:
        total += byte
    return header[:148] + b"%06o\0 " % total + header[156:]


def test_a_size_that_leads_back_is_refused():
    made = tar(sample("1", 1))
    spoilt = with_its_sum(made[:124] + b"-0000001000\0" + made[136:512]) + made[512:]
    with pytest.raises(DataError, match=r"the size is .*expected an octal number"):
        list(tar_members(spoilt))


@pytest.mark.parametrize("filled", [range(0), range(157, 257), range(345, 500)])
def test_the_sum_of_a_header_counts_every_byte(filled):
    made = bytearray(tar([("n" * 99, b"x")])[:512])
    made[157:257] = b"\xff" * 100  # the name of a link
    made[345:500] = b"\xff" * 155  # the folders
    made[:100] = b"\xff" * 100
    for place in filled:
        made[place] = 0
    header = with_its_sum(bytes(made))
    if not filled:
        assert int(header[148:154], 8) > 2**16
    content = bytes(512)
    assert [(start, size) for _, start, size in tar_members(header + content)] == [(512, 1)]
    for place in range(512):
        if 148 <= place < 156:
            continue
        for change in (1, 128):
            spoilt = header[:place] + bytes([header[place] ^ change]) + header[place + 1 :]
            with pytest.raises(DataError, match="its sum is wrong"):
                list(tar_members(spoilt + content))


def test_only_headers_are_read_to_list_the_members():
    class Watched(bytes):
        def __getitem__(self, place):
            read.append(range(len(self))[place])
            return super().__getitem__(place)

    read = []
    made = Watched(tar([(f"{key}.jpg", b"x" * 5000) for key in range(20)]))
    members = list(tar_members(made))
    assert len(members) == 20
    assert read == [range(start - 512, start) for _, start, _ in members] + [read[-1]]


def test_a_shard_cut_off_while_in_use(shards):
    source = ShardSource(shards)
    assert source[39]
    with (shards / "shard-4.tar").open("r+b") as file:
        file.truncate(600)
    with pytest.raises(ImageError, match="cut off"):
        source[39]


@settings(max_examples=cases(400), deadline=None)
@given(st.data())
def test_flipped_bits_and_cut_ends(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    long = [("n" * 150 + ".png", png("n")), ("n" * 150 + ".cls", b"5")]
    kind = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    made = tar(sample("1", 1) + long + sample("2", 2), kind)
    spoilt = bytearray(made[: data.draw(st.integers(1, len(made)))])
    for place in data.draw(st.lists(st.integers(0, len(spoilt) - 1), max_size=4)):
        spoilt[place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()) and len(spoilt) > 512:  # damage with the right sum gets further
        header = spoilt[:512]
        header[148:156] = b" " * 8
        spoilt[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(spoilt)
    try:
        source = ShardSource(path)
        for index in range(len(source)):
            source[index]
    except CoreFaceError:
        pass


# The order


def displacement(order, source):
    """How far the images of each shard are out of their sequence, at most."""
    shard = np.array([source._shard(i) for i in order])
    ranks = [np.argsort(np.argsort(order[shard == number])) for number in range(5)]
    return max(int(np.abs(rank - np.arange(len(rank))).max()) for rank in ranks)


def test_shards_are_read_one_after_another_in_an_order_of_the_epochs(shards):
    source = ShardSource(shards, buffer=1)
    seen = set()
    for seed in range(30):
        order = source.reading_order(np.random.default_rng(seed))
        assert sorted(order) == list(range(40))
        assert displacement(order, source) == 0
        changes = [a != b for a, b in pairwise([source._shard(i) for i in order])]
        assert sum(changes) == 4
        seen.add(tuple(order))
    assert len(seen) > 20


def test_the_window_mixes_and_bounds(shards):
    source = ShardSource(shards, buffer=6)
    sequence = ShardSource(shards, buffer=1)
    moved = []
    for seed in range(50):
        order = source.reading_order(np.random.default_rng(seed))
        assert sorted(order) == list(range(40))
        straight = sequence.reading_order(np.random.default_rng(seed))
        place = np.argsort(straight)
        moved.append(np.abs(place[order] - np.arange(40)).max())
    assert 2 <= max(moved) < 6


def epoch(source, rank=0, world_size=1, start=0, workers=0, number=1, batch_size=4):
    loader = FaceLoader(
        source, batch_size, image_size=16, seed=3, workers=workers, rank=rank, world_size=world_size, flip=False
    )
    return [images for images, _ in loader.epoch(number, start)]


def numbers(batches, source):
    """Which images of the source the batches hold."""
    known = {source[i][0].tobytes(): i for i in range(len(source))}
    pixels = [
        ((b + 1) * 127.5).round().to(dtype=__import__("torch").uint8).permute(0, 2, 3, 1).numpy() for b in batches
    ]
    return [[known[np.ascontiguousarray(image).tobytes()] for image in batch] for batch in pixels]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["shards", "selection", "folder"])
def test_ranks_share_an_epoch_without_loss_or_repetition(shards, faces, kind, world_size):
    source = {
        "shards": lambda: ShardSource(shards, buffer=5),
        "selection": lambda: ShardSource(shards, buffer=5).select(np.arange(3, 38)),
        "folder": lambda: faces,
    }[kind]()
    ranks = [numbers(epoch(source, rank, world_size, batch_size=2), source) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = [image for batches in ranks for batch in batches for image in batch]
    assert len(seen) == len(set(seen)) == len(source) // world_size // 2 * 2 * world_size
    if kind == "folder":
        one = numbers(epoch(source, batch_size=2 * world_size), source)
        for step, batch in enumerate(one):
            assert sorted(batch) == sorted(image for batches in ranks for image in batches[step])


def test_each_rank_reads_its_own_stretch(shards):
    source = ShardSource(shards, buffer=1)
    ranks = [FaceLoader(source, 2, seed=1, rank=rank, world_size=2).draws(1)[0] for rank in (0, 1)]
    whole = FaceLoader(source, 2, seed=1).draws(1)[0]
    assert np.concatenate(ranks).tolist() == whole.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_shards_goes_on_where_it_was_left(shards, workers):
    source = ShardSource(shards, buffer=8)
    whole = numbers(epoch(source, 1, 2), source)
    for start in range(6):
        assert numbers(epoch(source, 1, 2, start, workers), source) == whole[start:]
    assert numbers(epoch(source, 1, 2, number=2), source) != whole
