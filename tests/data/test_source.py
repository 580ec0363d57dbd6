"""Indexing, selections, and the promises every source makes."""

import pickle

import numpy as np
import pytest

from coreface.data import FaceSource, FolderSource, require_identities
from coreface.errors import DataError, ImageError, InputError

ADA, BEN, CY, DEE, EVE = range(5), range(5, 6), range(6, 14), range(14, 17), range(17, 23)


class Bytes(FaceSource):
    """The least a source can be: the base class decodes."""

    def __init__(self, stored):
        super().__init__(np.zeros(len(stored), dtype=np.int64), ["only"])
        self.stored = stored

    def encoded(self, index):
        return self.stored[index]

    def locate(self, index):
        return f"place {index}"


def test_negative_indices_count_from_the_end(faces):
    for index in (-1, -23):
        image, identity = faces[index]
        expected, expected_identity = faces[index + 23]
        np.testing.assert_array_equal(image, expected)
        assert identity == expected_identity
    assert (faces[-1][0] != faces[0][0]).any()


@pytest.mark.parametrize("index", [23, -24, 10**9])
def test_out_of_range(faces, index):
    with pytest.raises(IndexError):
        faces[index]


def test_numpy_integers_index_as_well(faces):
    np.testing.assert_array_equal(faces[np.int64(3)][0], faces[3][0])
    assert type(faces[np.int64(6)][1]) is int


def test_a_source_is_a_sequence_that_ends(faces):
    assert [identity for _, identity in faces] == faces.identities.tolist()


def test_the_base_class_decodes_and_locates():
    source = Bytes([b"P6 1 1 255 \x01\x02\x03", b"junk"])
    assert source[0][0].tolist() == [[[1, 2, 3]]]
    with pytest.raises(ImageError, match=r"^place 1: "):
        source[-1]
    assert source.origin is source


def test_a_selection_renumbers_and_keeps_order(faces, pixels_of):
    indices = np.array([20, 2, 6, 0, 21, 2])
    part = faces.select(indices)
    assert len(part) == 6
    assert part.identity_names == ("ada", "cy", "eve")
    assert part.identities.dtype == np.int64
    assert part.identities.tolist() == [2, 0, 1, 0, 2, 0]
    for index, name in enumerate(["eve/3", "ada/2", "cy/0", "ada/0", "eve/4", "ada/2"]):
        np.testing.assert_array_equal(part[index][0], pixels_of(f"{name}.png"))
        assert part[index][1] == part.identities[index]
        assert part.encoded(index) == faces.encoded(int(indices[index]))
        assert part.locate(index) == faces.locate(int(indices[index]))


def test_a_selection_of_a_selection(faces):
    inner = faces.select(np.array([*CY, *EVE])).select(np.array([9, 0, 1]))
    assert inner.origin is faces
    assert inner.identity_names == ("cy", "eve")
    assert inner.identities.tolist() == [1, 0, 0]
    for index, original in enumerate([18, 6, 7]):
        np.testing.assert_array_equal(inner[index][0], faces[original][0])
        assert inner.locate(index) == faces.locate(original)


def test_a_selection_has_bounds_and_notices_of_its_own(faces):
    part = faces.select(np.array([0, 6, 7]))
    with pytest.raises(IndexError):
        part[3]
    assert [notice.items for notice in part.notices()] == [("ada",)]
    assert [notice.items for notice in faces.notices()] == [("ben",)]
    np.testing.assert_array_equal(part[-1][0], faces[7][0])


def test_a_selection_is_not_changed_from_outside(faces):
    indices = np.array([0, 6])
    part = faces.select(indices)
    before = part[0][0]
    indices[:] = 20
    np.testing.assert_array_equal(part[0][0], before)


def test_a_selection_survives_pickling(faces):
    part = pickle.loads(pickle.dumps(faces.select(np.array([20, 2]))))
    assert part.identity_names == ("ada", "eve")
    np.testing.assert_array_equal(part[0][0], faces[20][0])


def test_an_empty_selection(faces):
    part = faces.select(np.array([], dtype=np.int64))
    assert (len(part), part.num_identities, part.notices()) == (0, 0, [])


@pytest.mark.parametrize("indices", [np.arange(23) < 3, np.array([0.0, 1.0]), np.array([[0, 1]])])
def test_a_mask_is_no_list_of_indices(faces, indices):
    """A mask would pick identities by position and pixels of images 0 and 1: wrong labels without a word."""
    with pytest.raises(InputError, match="indices"):
        faces.select(indices)


def test_an_unreadable_image_of_a_selection_names_its_path(tmp_path, write_faces):
    source = FolderSource(write_faces(tmp_path, ["a/1.png", "a/2.png"]))
    path = tmp_path / "a" / "2.png"
    path.write_bytes(b"junk")
    with pytest.raises(ImageError) as caught:
        source.select(np.array([1]))[0]
    assert str(caught.value).count(str(path)) == 1


def test_require_identities(faces):
    require_identities(faces, 5, "a test")
    with pytest.raises(DataError, match=r"a test needs at least 6 identities, got 5 \(23 images\)"):
        require_identities(faces, 6, "a test")
