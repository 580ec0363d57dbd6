"""What people have reported of other face recognition projects, acted out here."""

import cv2
import pytest
import torch

from coreface import FaceEncoder
from coreface.data import convert_faces, open_faces, open_pairs
from coreface.data.survey import check_faces
from coreface.errors import DataError, ImageError, ModelError
from coreface.images.load import load_image
from support.toy_images import encode, noise


@pytest.fixture
def packed(tmp_path, write_faces):
    write_faces(tmp_path / "faces", [f"{person}/{image}.png" for person in "ab" for image in range(3)])
    convert_faces(open_faces(tmp_path / "faces"), tmp_path / "packed", "recordio")
    return tmp_path / "packed"


def test_an_index_that_is_shorter_than_its_records(packed):
    """Lines of an index or a .lst deleted by hand: four of six images were passed over without a word."""
    index = packed / "train.idx"
    assert not open_faces(packed).storage_notices()
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:3]))
    source = open_faces(packed)
    assert len(source) == 2
    (notice,) = [notice for notice in source.storage_notices() if notice.loses]
    assert "bytes after the last record of its index" in notice.message
    assert not check_faces(source).good
    index.unlink()
    assert len(open_faces(packed)) == 6


def test_an_index_whose_keys_are_all_1(packed):
    """face2rec2.py writes the first column of the .lst as the key."""
    index = packed / "train.idx"
    index.write_text("".join(f"1\t{line.split()[1]}\n" for line in index.read_text().splitlines()))
    with pytest.raises(DataError, match=r"train\.idx, line 2: key 1 comes a second time; remove it to have it rebuilt"):
        open_faces(packed)


def test_an_index_without_key_0(packed):
    index = packed / "train.idx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[1:]))
    assert len(open_faces(packed)) == 6


def test_a_list_that_was_written_on_windows(tmp_path, write_faces):
    write_faces(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    (tmp_path / "p.csv").write_text("path1,path2,same\r\na\\1.png,a\\2.png,1\r\na\\1.png,b\\1.png,0\r\n")
    pairs = open_pairs(tmp_path / "p.csv")
    assert [pairs.relative_path(index) for index in range(3)] == ["a/1.png", "a/2.png", "b/1.png"]
    (tmp_path / "q.csv").write_text("a\\1.png,a\\2.png,maybe\r\na\\1.png,b\\1.png,0\r\n")
    with pytest.raises(DataError, match="line 1: same is 'maybe'"):
        open_pairs(tmp_path / "q.csv")


def test_copies_that_a_notebook_leaves(tmp_path, write_faces):
    write_faces(tmp_path, ["a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "a/.ipynb_checkpoints/1-checkpoint.png"])
    assert open_faces(tmp_path).identity_names == ("a", "b")


INSTEAD = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    (b"<!DOCTYPE html><html><title>Virus scan warning</title>", "the download has failed"),
    (b"  <html>", "the download has failed"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    (b"<?xml version='1.0'?><svg/>", "SVG"),
    (b"%PDF-1.4", "a PDF"),
]


@pytest.mark.parametrize(("content", "words"), INSTEAD)
def test_what_stands_in_the_place_of_a_file(tmp_path, content, words):
    """A pointer of Git LFS, the page of a failed download, a photograph of a telephone."""
    with pytest.raises(ImageError, match=words):
        load_image(content)
    (tmp_path / "backbone.pth").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        FaceEncoder.from_insightface(tmp_path / "backbone.pth", "mobilefacenet")


def test_weights_of_ir_networks_are_named(tmp_path):
    state = {"model.input_layer.0.weight": torch.zeros(2), "model.body.0.res_layer.0.weight": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "adaface.ckpt")
    with pytest.raises(ModelError, match=r"its names match IR networks \(AdaFace, .*export them to ONNX"):
        FaceEncoder.from_insightface(tmp_path / "adaface.ckpt", "iresnet50")


@pytest.mark.parametrize("kind", ["grey", "alpha"])
def test_grey_and_transparent_images_and_names_in_any_script(tmp_path, kind):
    image = noise("x", 8, 8)
    folder = tmp_path / "사람"
    folder.mkdir()
    shown = image[..., :1] if kind == "grey" else cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)
    (folder / "얼굴.png").write_bytes(cv2.imencode(".png", shown)[1].tobytes())
    (folder / "그림.png").write_bytes(encode(image, ".png"))
    assert [open_faces(tmp_path)[index][0].shape for index in range(2)] == [(8, 8, 3)] * 2
