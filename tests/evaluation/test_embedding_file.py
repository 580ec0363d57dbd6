"""Embeddings that another program made: every row is of the image it was made of, or it is refused."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreface.data import open_faces, open_pairs
from coreface.errors import CoreFaceError, DataError, EvaluationError
from coreface.evaluation.embedding_arrays import read_arrays
from coreface.evaluation.embedding_sources import EmbeddingFile
from support.fuzzing import cases
from support.toy_images import encode, noise

LAYOUTS = {
    "cfp": [f"{p:03}/{pose}/{n:02}.png" for p in (1, 2, 3) for pose in ("frontal", "profile") for n in (1, 2)],
    "youtube": [f"{p}/{video}/{frame}.png" for p in ("Ann", "Ben") for video in (0, 1) for frame in (1, 2)],
    "sites": [f"site{s}/{p}/{n}.png" for s in (1, 2) for p in ("anna", "bert") for n in (1, 2)],
    "people": [f"{p}/{n}.png" for p in ("anna", "bert") for n in (1, 2)],
}


@pytest.fixture(params=LAYOUTS)
def images(request, tmp_path):
    for name in LAYOUTS[request.param]:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(encode(noise(name, 4, 4), ".png"))
    return tmp_path / "images", LAYOUTS[request.param]


def write(path, names, **more):
    """Write an .npz whose row for a name is found by the name alone."""
    np.savez(path, embeddings=np.stack([row_of(name) for name in names]), names=np.array(names), **more)
    return EmbeddingFile(path)


def row_of(name):
    return np.random.default_rng(abs(hash(name)) % 2**32).normal(size=6).astype(np.float32)


@pytest.mark.parametrize("prefix", ["", "/another/place/images/", "images/"])
def test_every_image_of_every_layout_gets_its_own_row(images, tmp_path, prefix):
    root, names = images
    shuffled = np.random.default_rng(0).permutation(names).tolist()
    np.savez(
        tmp_path / "e.npz",
        embeddings=np.stack([row_of(name) for name in shuffled]),
        names=np.array([prefix + name for name in shuffled]),
    )
    source = open_faces(root)
    found = EmbeddingFile(tmp_path / "e.npz").embed(source)
    assert found.indices.tolist() == list(range(len(names)))
    for index in range(len(source)):
        np.testing.assert_array_equal(found.embeddings[index], row_of(source.relative_path(index)))
    lines = [
        f"{one},{other},{int(one.rpartition('/')[0] == other.rpartition('/')[0])}"
        for one, other in itertools.pairwise(names)
    ]
    (root / "pairs.csv").write_text("\n".join(["path1,path2,same", *lines]))
    pairs = open_pairs(root / "pairs.csv")
    found = EmbeddingFile(tmp_path / "e.npz").embed(pairs)
    for index in range(pairs.num_images):
        np.testing.assert_array_equal(found.embeddings[index], row_of(pairs.relative_path(index)))


def test_a_missing_name_is_named(images, tmp_path):
    root, names = images
    found = write(tmp_path / "e.npz", names[1:]).embed(open_faces(root))
    assert len(found.embeddings) == len(names) - 1
    assert list(found.unreadable) == [0]
    assert names[0] in found.unreadable[0]


def test_names_of_nothing_here(images, tmp_path):
    with pytest.raises(EvaluationError, match="of none of the images"):
        write(tmp_path / "e.npz", ["other/x.png"]).embed(open_faces(images[0]))


def test_names_and_identities_as_bytes(tmp_path, images):
    root, names = images
    np.savez(
        tmp_path / "e.npz",
        embeddings=np.stack([row_of(name) for name in names]),
        names=np.array([name.encode() for name in names]),
        identities=np.array([name.split("/")[0].encode() for name in names]),
    )
    source = EmbeddingFile(tmp_path / "e.npz")
    assert len(source.embed(open_faces(root)).unreadable) == 0
    assert set(source.labelled()[1].tolist()) == {name.split("/")[0] for name in names}


@pytest.mark.parametrize(
    ("identities", "words"),
    [
        ([0.0, np.nan, 1.0, np.nan], r"2 of 4 rows have no identity \(rows 1, 3, from 0\)"),
        ([0.0, np.inf, 1.0, 2.0], r"1 of 4 rows have no identity \(rows 1, from 0\)"),
        ([0.0, -1.0, 1.0, -1.0], r"2 of 4 rows have the identity -1 \(rows 1, 3"),
        ([0, -1, 5, 6], r"1 of 4 rows have the identity -1 \(rows 1,"),
        (["anna", "", "bert", " "], r"2 of 4 rows have no identity \(rows 1, 3"),
        (["anna", "None", "nan", "NULL"], r"3 of 4 rows have no identity \(rows 1, 2, 3"),
        (["anna", "-1", "bert", "-1"], r"2 of 4 rows have the identity -1"),
        ([b"anna", b"", b"bert", b"bert"], r"1 of 4 rows have no identity"),
        ([True, False, True, False], "identities are bool"),
    ],
)
def test_missing_identities_are_refused(tmp_path, identities, words):
    np.savez(tmp_path / "e.npz", embeddings=np.ones((4, 2), np.float32), identities=np.array(identities))
    with pytest.raises(DataError, match=words):
        EmbeddingFile(tmp_path / "e.npz")


@pytest.mark.parametrize("identities", [[-1, -2, -3, -3], ["a-1", "b", "c", "Nan Goldin"], [3.0, 3.0, 4.0, 5.0]])
def test_identities_that_are_odd_and_no_more(tmp_path, identities):
    np.savez(tmp_path / "e.npz", embeddings=np.ones((4, 2), np.float32), identities=np.array(identities))
    assert EmbeddingFile(tmp_path / "e.npz").identities.tolist() == identities


def test_rows_without_an_embedding_need_no_identity(tmp_path):
    np.savez(
        tmp_path / "e.npz",
        embeddings=np.ones((3, 2), np.float32),
        names=np.array(["a/1", "a/2", "b/1"]),
        identities=np.array(["a", "", "b"]),
        reasons=np.array(["", "no face", ""]),
    )
    assert EmbeddingFile(tmp_path / "e.npz").identities.tolist() == ["a", "b"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int16])
def test_small_numbers(tmp_path, dtype):
    values = np.random.default_rng(0).integers(-100, 100, (5, 8)).astype(dtype)
    np.savez(tmp_path / "e.npz", embeddings=values)
    found = read_arrays(tmp_path / "e.npz").embeddings
    assert found.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_array_equal(found, values)


def test_what_is_no_embedding(tmp_path):
    path = tmp_path / "e.npz"
    for arrays, words in [
        ({"embeddings": np.ones((2, 2), np.uint8)}, "unsigned: subtract the zero point"),
        ({"embeddings": np.ones(2)}, r"float64 \(2,\)"),
        ({"vectors": np.ones((2, 2))}, "holds vectors"),
        ({"embeddings": np.ones((2, 2)), "names": np.array(["a"])}, r"names have shape \(1,\), expected \(2,\)"),
        ({"embeddings": np.ones((2, 2)), "reasons": np.array(["a"])}, r"reasons have shape \(1,\)"),
        ({"embeddings": np.ones((2, 2)), "names": np.array(["a", None], object)}, "save it as text"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=words):
            read_arrays(path)
    with pytest.raises(DataError, match="does not exist"):
        read_arrays(tmp_path / "none.npz")


COLUMNS = st.one_of(
    st.lists(st.sampled_from(["a/1.png", "1.png", "x/a/1.png", "", "é/2.png", "None"]), max_size=4).map(np.array),
    st.lists(st.sampled_from([0, -1, 7, 2**62]), max_size=4).map(lambda v: np.array(v, np.int64)),
    st.lists(st.floats(width=32), max_size=4).map(lambda v: np.array(v, np.float32)),
    st.lists(st.binary(max_size=3), max_size=4).map(np.array),
)


@settings(deadline=None, max_examples=cases(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 4), names=COLUMNS, identities=COLUMNS, cut=st.floats(0, 1))
def test_any_columns(tmp_path, count, names, identities, cut):
    """A typed error, or as many rows, each with its name and identity."""
    out = io.BytesIO()
    np.savez(out, embeddings=np.arange(count * 2.0).reshape(count, 2), names=names, identities=identities)
    content = out.getvalue()
    path = tmp_path / "e.npz"
    path.write_bytes(content if cut > 0.2 else content[: int(len(content) * cut * 5)])
    try:
        arrays = read_arrays(path)
    except CoreFaceError:
        return
    assert len(arrays.embeddings) == len(arrays.names) == len(arrays.identities) == count
    assert len(set(arrays.identities.tolist())) == len(set(identities.tolist()))
