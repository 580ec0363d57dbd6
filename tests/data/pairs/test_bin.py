"""`.bin` files of every writer are read alike, and nothing in one is ever run."""

import io
import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coreface as cf
from coreface.data import PairSet, open_pairs
from coreface.data.pairs.bin import write_bin
from coreface.errors import CoreFaceError, DataError, ImageError
from support.fuzzing import cases
from support.toy_images import encode, noise

NAMES = ["a", "b", "c", "b", "a", "a"]
ANSWERS = [True, False, True]


def png(name):
    return encode(noise(name), ".png")


def as_arrays(images):
    return [np.frombuffer(image, np.uint8) for image in images]


def check(path):
    """Three pairs of three distinct images."""
    pairs = open_pairs(path)
    assert isinstance(pairs, PairSet)
    assert (len(pairs), pairs.num_images, pairs.folds) == (3, 3, 3)
    assert pairs.same.tolist() == ANSWERS
    for index, (left, right, same) in enumerate(pairs):
        np.testing.assert_array_equal(left, noise(NAMES[2 * index]))
        np.testing.assert_array_equal(right, noise(NAMES[2 * index + 1]))
        assert same is ANSWERS[index]
    assert [pairs.encoded(k) for k in range(3)] == [png(name) for name in "abc"]
    return pairs


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("images", [list, tuple, as_arrays])
@pytest.mark.parametrize("answers", [list, tuple, lambda a: [np.bool_(x) for x in a], np.array, lambda a: [1, 0, 1]])
def test_written_by_python_3(tmp_path, protocol, images, answers):
    path = tmp_path / "x.bin"
    stored = (images([png(name) for name in NAMES]), answers(ANSWERS))
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    check(path)


@pytest.mark.parametrize("old", [b"numpy.core.", b"numpy._core."])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_both_places_of_numpys_core(tmp_path, old, protocol):
    """NumPy 2 has renamed the module that its pickles name."""
    data = pickle.dumps((as_arrays([png(name) for name in NAMES]), ANSWERS), protocol=protocol)
    ours = b"numpy._core." if b"numpy._core." in data else b"numpy.core."
    data = data.replace(b"c" + ours, b"c" + old) if protocol < 4 else _renamed_in_frames(data, ours, old)
    (tmp_path / "x.bin").write_bytes(data)
    check(tmp_path / "x.bin")


def _renamed_in_frames(data, ours, old):
    """Short text carries its length, and so does the frame around it: leave the frames out."""
    out = io.BytesIO()
    instructions = list(pickletools.genops(data))
    ends = [position for _, _, position in instructions[1:]] + [len(data)]
    for (instruction, argument, start), end in zip(instructions, ends, strict=True):
        if instruction.name == "FRAME":
            continue
        if instruction.name == "SHORT_BINUNICODE" and argument.encode().startswith(ours):
            name = old + argument.encode()[len(ours) :]
            out.write(b"\x8c" + bytes([len(name)]) + name)
        else:
            out.write(data[start:end])
    return out.getvalue()


def python2(protocol, as_array):
    """What Python 2 wrote, assembled by hand: its `str` is the bytes of the image."""

    def text(value):
        if protocol == 0:
            return b"S" + repr(value)[1:].encode() + b"\n"
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    def image(value):
        if not as_array:
            return text(value)
        kind = b"cnumpy\ndtype\n(" + text(b"u1") + b"I0\nI1\ntR(I3\n" + text(b"|") + b"NNNI-1\nI-1\nI0\ntb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + text(b"b") + b"tR"
        return made + b"(I1\n(I%d\nt" % len(value) + kind + b"I00\n" + text(value) + b"tb"

    answers = {True: b"I01\n", False: b"I00\n"} if protocol < 2 else {True: b"\x88", False: b"\x89"}
    head = b"" if protocol < 2 else b"\x80\x02"
    images = b"".join(image(png(name)) + b"a" for name in NAMES)
    return head + b"((l" + images + b"(l" + b"".join(answers[a] + b"a" for a in ANSWERS) + b"t."


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("as_array", [False, True])
def test_written_by_python_2(tmp_path, protocol, as_array):
    (tmp_path / "x.bin").write_bytes(python2(protocol, as_array))
    check(tmp_path / "x.bin")


def test_what_we_write_is_what_others_read(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([png(name) for name in NAMES], ANSWERS)))
    write_bin(check(tmp_path / "x.bin"), tmp_path / "y.bin")
    images, answers = pickle.loads((tmp_path / "y.bin").read_bytes(), encoding="bytes")
    assert images == [png(name) for name in NAMES]
    assert answers == ANSWERS
    check(tmp_path / "y.bin")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.bin", "y.bin"]


def test_the_fixture(shared):
    pairs = cf.data.open_pairs(shared / "fixtures" / "orl_heldout.bin")
    assert (len(pairs), pairs.folds, int(pairs.same.sum())) == (600, 10, 300)
    assert pairs.num_images == 100
    assert pairs.fold_of.tolist() == [i // 60 for i in range(600)]
    assert {pairs.image(k).shape for k in range(100)} == {(112, 112, 3)}
    with (shared / "fixtures" / "orl_heldout.bin").open("rb") as file:
        images, answers = pickle.load(file, encoding="bytes")  # this one we know
    assert [pairs.encoded(int(k)) for k in pairs.left] == images[::2]
    assert [pairs.encoded(int(k)) for k in pairs.right] == images[1::2]
    assert pairs.same.tolist() == answers


def test_an_unreadable_image_says_where_it_lies(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([png("a"), png("a"), png("a"), b"junk"], [True, False])))
    with pytest.raises(ImageError, match=r"x\.bin, image 3 \(of pair 1\)"):
        open_pairs(tmp_path / "x.bin")[1]


@pytest.mark.parametrize("kind", ["bytearray", "encoded"])
def test_a_large_image_named_often_takes_its_memory_once(tmp_path, kind):
    """Two bytes of such a file would else ask for a megabyte each."""
    size, times = 2**20, 400
    memoised = b"\x80\x05]q\x00(" if kind == "bytearray" else b"\x80\x02]q\x00("
    if kind == "bytearray":
        image = b"\x96" + struct.pack("<Q", size) + bytes(size) + b"q\x01" + b"h\x01" * (2 * times - 1)
    else:
        text = b"X" + struct.pack("<I", size) + b"a" * size + b"q\x01"
        call = b"c_codecs\nencode\n" + text + b"X\x06\x00\x00\x00latin1\x86R"
        again = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
        image = call + again * (2 * times - 1)
    (tmp_path / "x.bin").write_bytes(memoised + image + b"e](" + b"\x88" * times + b"e\x86.")
    tracemalloc.start()
    try:
        if kind == "bytearray":
            assert len(open_pairs(tmp_path / "x.bin")) == times
        else:
            with pytest.raises(DataError, match="more bytes than the file holds"):
                open_pairs(tmp_path / "x.bin")
        assert tracemalloc.get_traced_memory()[1] < 12 * size
    finally:
        tracemalloc.stop()


# What is refused


class Call:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["first", "image", "answer", "behind"])
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, io.open])
def test_nothing_is_run(tmp_path, protocol, place, function):
    trace = tmp_path / "trace"
    call = {
        os.system: Call(os.system, f"touch {trace}"),
        os.mkdir: Call(os.mkdir, str(trace)),
        eval: Call(eval, f"open({str(trace)!r}, 'w')"),
        io.open: Call(io.open, str(trace), "w"),
    }[function]
    images, answers = [png(name) for name in NAMES], list(ANSWERS)
    stored = {
        "first": call,
        "image": ([call, *images], answers),
        "answer": (images, [*answers, call]),
        "behind": (images, answers, call),
    }[place]
    data = pickle.dumps(stored, protocol=protocol)
    pickle.loads(data)  # it is a real one: the standard unpickler runs it
    assert trace.exists()
    trace.rmdir() if trace.is_dir() else trace.unlink()
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(DataError, match="nothing was run"):
        open_pairs(tmp_path / "x.bin")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({}, r"the instruction '}'"),
        (([1.5], []), "the instruction 'G'"),
        (([png("a")] * 2, [None]), "answer 0 is None"),
        (([png("a")] * 2, [2]), "answer 0 is 2"),
        (([png("a")] * 3, [True]), "3 images for 1 answers"),
        (([], []), "no pair"),
        (([png("a"), 5], [True]), "image 1 is 5"),
        (([png("a"), "text"], [True]), "image 1 is of type str"),
        (([png("a")] * 2, [True], [1]), "the content is of type tuple"),
        (7, "the content is 7"),
        ((b"ab", [True]), "the images are of type bytes"),
        (([np.zeros((4, 4, 3), np.uint8)] * 2, [True]), "one row of bytes"),
        (([np.zeros(4, np.int32)] * 2, [True]), "an array of 'i4'"),
        (([np.zeros(4, np.float32)] * 2, [True]), "an array of 'f4'"),
        (([np.zeros(1, object)] * 2, [True]), "an array of 'O8'"),
        (([np.zeros(1, bool)] * 2, [True]), "image 0 is another array"),
        (([png("a")] * 2, [np.int64(1)]), "an array of 'i8'"),
        (([png("a")] * 2, np.ones(1, np.uint8)), "the answers are another array"),
        (([np.zeros(3, "u1,u1")] * 2, [True]), "an array of 'V2'|the instruction '}'"),
        ((range(3), [True]), r"(builtins|__builtin__)\.x?range"),
        (([np.ma.zeros(3, np.uint8)] * 2, [True]), "numpy.ma"),
    ],
)
def test_what_else_is_refused(tmp_path, stored, words):
    for protocol in (2, 4):
        (tmp_path / "x.bin").write_bytes(pickle.dumps(stored, protocol=protocol))
        with pytest.raises(DataError, match=words) as caught:
            open_pairs(tmp_path / "x.bin")
        assert str(tmp_path / "x.bin") in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"not a pickle",
        b"\x80\x04r\xff\xff\xff\x7f.",  # a place far up in the memory
        b"\x80\x04]r\xff\xff\xff\x0f.",
        b"\x80\x04]p999999999\n.",
        b"\x80\x04]p-5\n.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # bytes longer than any memory
        b"\x80\x04B\xff\xff\xff\xffabc.",
        b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00abc.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",
        b"I" + b"9" * 100_000 + b"\n.",
        b"(" * 100_000 + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"cnumpy\nndarray\n(I1\nI2\nIbI4\nI5\ntb.",
        b"c_codecs\nencode\n(Vabc\nVutf-16\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\nS'\\x01'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(c_codecs\nencode\n(I0\ntS'b'\ntR.",
        b"c_codecs\nencode\nNb.",
        b"c_codecs\nencode\n.",
        b"\x80\x7f].",
        b"cnumpy\ndtype\n(S'u1'\ntR(I99999999999\ntb.",
    ],
)
def test_damage_and_malice(tmp_path, data):
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.bin"):
        open_pairs(tmp_path / "x.bin")


# An old string of a damaged pickle may hold an escape that Python does not know.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=cases(400), deadline=None)
@given(st.data())
def test_flipped_bits_and_cut_ends(tmp_path_factory, data):
    """The set, an error of ours, and nothing else."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    trace = path.with_suffix(".trace")
    planted = ([Call(io.open, str(trace), "w"), *(png(n) for n in NAMES)], ANSWERS)
    made = data.draw(
        st.sampled_from([python2(p, a) for p in (0, 2) for a in (False, True)])
        | st.sampled_from([pickle.dumps((as_arrays([png(n) for n in NAMES]), ANSWERS), protocol=p) for p in (2, 4, 5)])
        | st.sampled_from([pickle.dumps(planted, protocol=p) for p in (0, 2, 4)])
    )
    spoilt = bytearray(made[: data.draw(st.integers(0, len(made))) or None])
    # Half of the flips meet the head and the tail, where the structure is denser than in the images.
    places = st.integers(0, len(spoilt) - 1) | st.integers(0, min(200, len(spoilt) - 1))
    for place in data.draw(st.lists(places, max_size=4)):
        spoilt[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(spoilt)
    try:
        pairs = open_pairs(path)
        for index in range(len(pairs)):
            pairs[index]
    except CoreFaceError:
        pass
    assert not trace.exists()


def test_no_such_file(tmp_path):
    for path, words in ((tmp_path / "gone.bin", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=words):
            open_pairs(path)
