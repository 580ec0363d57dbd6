"""Tar shards: every sample once, whoever wrote the tar, read in sequence and mixed over a window."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreface.data import FaceLoader, ShardSource, open_faces
from coreface.data.tar_members import tar_members
from coreface.errors import CoreFaceError, DataError, ImageError, InputError
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


def test_other_parts_of_a_sample_are_left_alone_and_what_is_part_of_none_is_named(tmp_path):
    members = [
        ("a/1.jpg", png("x")),
        ("a/1.json", b"{}"),
        ("a/1.cls", b" 7\n"),
        ("b/1.left.jpg", png("other")),
        ("b/1.cls", b"8"),
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
    (notice,) = source.storage_notices()
    assert notice.message.startswith("3 members are not part of a sample")
    assert notice.loses
    assert [item.split(": ")[1] for item in notice.items] == ["README", "label.cls", "lone.png"]
    assert source.select(np.array([1])).notices()[-1] == notice


def test_keys_may_have_dots(tmp_path):
    members = [part for k in range(3) for part in sample(f"a.b/J.Doe_{k}", 5)] + sample("v1.0.final", 6)
    (tmp_path / "a.tar").write_bytes(tar(members))
    source = open_faces(tmp_path)
    assert (len(source), source.identity_names, source.storage_notices()) == (4, ("5", "6"), [])


def test_links_are_named(tmp_path):
    stream = io.BytesIO(tar(sample("1", 1)))
    with tarfile.open(fileobj=stream, mode="a") as archive:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.LNKTYPE, "1.png"
        archive.addfile(link)
        folder = tarfile.TarInfo("more")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    (notice,) = open_faces(tmp_path).storage_notices()
    assert notice.items == (f"{tmp_path / 'a.tar'}: 2.png",)


@settings(max_examples=cases(30), deadline=None)
@given(numbers=st.lists(st.integers(-(10**60), 10**60), min_size=1, max_size=8))
def test_whole_numbers_of_any_length_keep_people_apart(tmp_path_factory, numbers):
    """Neighbours that float64 cannot tell apart among them; names as written, in the order of the numbers."""
    numbers = [*numbers, numbers[0] + 1, 622188820004259020, 622188820004259021]
    folder = tmp_path_factory.mktemp("numbers")
    members = [part for place, number in enumerate(numbers) for part in sample(str(place), number)]
    (folder / "a.tar").write_bytes(tar(members))
    source = ShardSource(folder)
    assert source.identity_names == tuple(str(number) for number in sorted(set(numbers)))
    assert [source.identity_names[i] for i in source.identities] == [str(number) for number in numbers]


def test_one_number_in_two_spellings_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar(sample("1", "7") + sample("2", "007")))
    with pytest.raises(DataError, match=r"a\.tar: '2\.cls' at byte \d+: the label is '007', but '7' in an earlier one"):
        ShardSource(tmp_path)
    (tmp_path / "a.tar").write_bytes(tar(sample("1", "007") + sample("2", "007")))
    assert ShardSource(tmp_path).identity_names == ("007",)


def with_labels(folder, suffix, labels):
    members = [part for k, label in enumerate(labels) for part in [(f"{k}.png", png(str(k))), (f"{k}{suffix}", label)]]
    (folder / "a.tar").write_bytes(tar(members))
    return folder


def test_labels_as_text(tmp_path):
    source = ShardSource(with_labels(tmp_path, ".txt", ["zoë\n".encode(), b"ann lee", "zoë".encode()]), label="txt")
    assert (source.identity_names, source.identities.tolist()) == (("ann lee", "zoë"), [1, 0, 1])
    with pytest.raises(DataError, match=r"1 shard without a sample, .*key\.cls .*named by label"):
        ShardSource(tmp_path)


def test_labels_as_a_field(tmp_path):
    documents = [b'{"id": 622188820004259021, "x": 1}', b'{"id": "622188820004259020"}', b'{"id": 3}']
    source = ShardSource(with_labels(tmp_path, ".json", documents), label="json:id")
    assert source.identity_names == ("3", "622188820004259020", "622188820004259021")
    assert source.identities.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b'{"name": 1}', "no field 'id'; there are: name"),
        (b"[1]", "no field 'id'; there are: no fields"),
        (b'{"id": 1.0}', "field 'id' is '1.0', expected a whole number or a text"),
        (b'{"id": true}', "field 'id' is 'True'"),
        (b'{"id": null}', "field 'id' is 'None'"),
        (b'{"id": ""}', "expected one line with the name or number"),
        (b'{"id"', "'0.json' at byte"),
        (b"[" * 100_000, "'0.json' at byte"),
        (b"\xff", "'0.json' at byte"),
        (b'{"id": "' + b"x" * 2**20 + b'"}', "bytes, expected at most 1048576"),
    ],
)
def test_fields_that_are_no_label(tmp_path, document, words):
    with pytest.raises(DataError, match=words):
        ShardSource(with_labels(tmp_path, ".json", [document]), label="json:id")


def test_where_labels_cannot_stand(tmp_path):
    for label in ("json", "json:", "cap", ""):
        with pytest.raises(InputError, match="expected cls, txt or json:FIELD"):
            ShardSource(tmp_path, label=label)


def test_compressed_shards(tmp_path):
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tar(sample("1", 4) + sample("2", 5))))
    (tmp_path / "a.TGZ").write_bytes(gzip.compress(tar(sample("3", 4))))
    source = open_faces(tmp_path)
    assert [source.encoded(i) for i in range(3)] == [png("3"), png("1"), png("2")]
    assert "b.tar.gz, byte" in source.locate(1)
    assert len(open_faces(tmp_path / "b.tar.gz")) == 2
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2][0], noise("2"))


def test_damaged_compressed_shards(tmp_path):
    whole = gzip.compress(tar(sample("1", 4)))
    for spoilt in (whole[:-20], b"no gzip", whole[:40] + b"\0" * 9 + whole[49:], b""):
        (tmp_path / "a.tar.gz").write_bytes(spoilt)
        with pytest.raises(DataError, match=r"a\.tar\.gz"):
            ShardSource(tmp_path)


def test_unpacked_shards_go_with_the_program(tmp_path):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar(sample("1", 4))))
    (tmp_path / "unpacked").mkdir()
    program = "import sys; from coreface.data.tar_shards import ShardSource; print(len(ShardSource(sys.argv[1])[0][0]))"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "unpacked")}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
    assert list((tmp_path / "unpacked").iterdir()) == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1.jpg", b"x"), ("1.cls", b"ann")], "'1.cls' at byte 1536: 'ann', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"0.5")], "'0.5', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"8.0")], "'8.0', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"1_0")], "'1_0', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"3e0")], "'3e0', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", "٣".encode())], "expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"nan")], "'nan', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"")], "'', expected a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"1" * 5000)], "5000 bytes, expected at most 4000"),
        ([("1.jpg", b"x"), ("1.cls", b"1"), ("1.png", b"y")], r"a second member '1\.png'"),
        ([("1.txt", b"x")], "1 shard without a sample"),
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
        (b"\x01" + made[1:], "byte 0: not the header of a tar member"),
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
            with pytest.raises(DataError, match="wrong checksum"):
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
