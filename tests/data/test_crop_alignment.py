"""The alignment travels: beside crops, through conversions and selections, into a trained encoder."""

import json

import numpy as np
import pytest

import coreface as cf
from coreface.data import convert_faces, open_faces, split_by_identity
from coreface.data.crop_alignment import read_alignment, write_alignment
from coreface.errors import DataError, RecipeError
from coreface.images.alignment import Alignment

REPLICATED = Alignment("arcface", "replicate")


@pytest.fixture
def aligned(paint_faces, tmp_path):
    folder = paint_faces(tmp_path / "faces", identities=4, images=4, size=16)
    write_alignment(folder, REPLICATED, {"size": 16})
    for name in ("rejects.csv", "samples.png"):
        (folder / name).write_text("what align writes")
    return folder


def test_files_of_align_are_not_stray(aligned):
    assert open_faces(aligned).notices() == []
    (aligned / "alignment.json").unlink()
    (notice,) = open_faces(aligned).notices()
    assert set(notice.items) == {"rejects.csv", "samples.png"}


@pytest.mark.parametrize("storage", ["folder", "recordio", "shards"])
def test_it_is_kept_by_conversions_and_selections(aligned, tmp_path, storage):
    convert_faces(open_faces(aligned), tmp_path / "there", storage)
    source = open_faces(tmp_path / "there")
    assert source.alignment == REPLICATED
    assert source.select(np.arange(8)).alignment == REPLICATED
    assert {part.alignment for part in split_by_identity(source, 1)} == {REPLICATED}


def test_faces_without_it_are_of_unknown_alignment(toy_folder):
    assert not open_faces(toy_folder).alignment.known
    assert not open_faces("orl").alignment.known


@pytest.mark.parametrize("content", ["", "[]", '{"format": 9}', '{"format": 1}', '{"format": 1, "template": "x"}'])
def test_a_damaged_file_is_named(aligned, content):
    (aligned / "alignment.json").write_text(content)
    with pytest.raises(DataError, match=r"alignment\.json"):
        read_alignment(aligned)


def test_training_on_aligned_faces_puts_it_into_the_encoder(aligned, toy_recipe, tmp_path):
    def trained(*words):
        recipe = cf.Recipe.load(toy_recipe, ["--optimizer.epochs", "1", "--data.holdout", "0", *words])
        cf.train(recipe, tmp_path / "run", overwrite=True)
        return json.loads((tmp_path / "run" / "encoder" / "preprocess.json").read_text())["alignment"]

    assert trained("--data.train", str(aligned)) == {"template": "arcface", "border": "replicate"}
    assert trained() == {"template": "unknown", "border": "black"}
    assert trained("--data.alignment", "arcface") == {"template": "arcface", "border": "black"}
    with pytest.raises(RecipeError, match="alignment"):
        trained("--data.alignment", "dlib")
