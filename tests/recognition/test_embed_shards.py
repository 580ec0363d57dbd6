"""Shards: together they are the file of one process, and what does not belong together is named."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreface.cli import main
from coreface.errors import InputError
from coreface.recognition.embed_shards import Shard


@given(parts=st.integers(0, 200), of=st.integers(1, 30))
def test_shards_share_all_parts_evenly(parts, of):
    starts = range(0, 64 * parts, 64)
    shares = [list(Shard(number, of).share(starts)) for number in range(1, of + 1)]
    assert [start for share in shares for start in share] == list(starts)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/2", ""])
def test_no_such_shard(text):
    with pytest.raises(InputError, match="the shard is"):
        Shard.parse(text)


@pytest.fixture
def small_parts(monkeypatch):
    for module in ("embed_folder", "embed_shards"):
        monkeypatch.setattr(f"coreface.recognition.{module}.PART", 3)


def embed(*words):
    assert main(["embed", *map(str, words)]) == 0


@pytest.fixture(scope="module")
def made(album, tmp_path_factory):
    """Return a folder with the whole file, its four shards, and shards of other things."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("embed_folder", "embed_shards"):
            patch.setattr(f"coreface.recognition.{module}.PART", 3)
        embed(album, "--face", "all", "--out", folder / "whole.npz")
        for number in (3, 1, 4, 2):
            embed(album, "--face", "all", "--shard", f"{number}/4", "--out", folder / "e.npz")
        embed(album / "person0", "--shard", "1/2", "--out", folder / "half.npz")
        embed(album / "person0", "--face", "all", "--shard", "2/4", "--out", folder / "other.npz")
        embed(album, "--face", "all", "--no-flip", "--shard", "2/4", "--out", folder / "noflip.npz")
    return folder


def shards(folder):
    return [folder / f"e.shard-{number}-of-4.npz" for number in (4, 2, 1, 3)]


def test_merged_shards_are_the_file_of_one_process(run, made, tmp_path):
    status, out, _ = run("embed", "--merge", *shards(made), "--out", tmp_path / "merged.npz")
    assert (status, "17 of 20 photographs embedded" in out) == (0, True)
    assert "1 not: no face" in out
    assert not list(made.glob("*.parts"))
    with np.load(tmp_path / "merged.npz") as merged, np.load(made / "whole.npz") as whole:
        assert merged.files == whole.files
        for name in whole.files:
            np.testing.assert_array_equal(merged[name], whole[name])
    assert (tmp_path / "merged.npz").read_bytes() == (made / "whole.npz").read_bytes()


def test_all_faces_have_rows(made, album):
    with np.load(made / "whole.npz") as found:
        names, boxes = found["names"].tolist(), found["boxes"]
        assert names.count(str(album / "person2" / "two.jpg")) == 2
        failed = found["reasons"] != ""
        assert failed.sum() == 3
        assert np.isnan(boxes[failed]).all()
        assert (boxes[~failed][:, 2:] > boxes[~failed][:, :2]).all()
        eyes = found["landmarks"][~failed][:, :2]
        assert (eyes[:, 1, 0] > eyes[:, 0, 0]).all()


def test_what_does_not_belong_together_is_named(run, made, tmp_path):
    four, two, one, three = shards(made)

    def refused(*files):
        status, _, err = run("embed", "--merge", *files, "--out", tmp_path / "merged.npz")
        assert status == 2
        assert not (tmp_path / "merged.npz").exists()
        return err

    assert "shard 3/4 is missing" in refused(four, two, one)
    assert "shards 1/4, 3/4, 4/4 are missing" in refused(two)
    twice = shutil.copy(two, tmp_path / "again.npz")
    assert f"shard 2/4 occurs twice, in {two} and {twice}" in refused(one, two, three, four, twice)
    err = refused(four, made / "other.shard-2-of-4.npz", one, three)
    assert "other.shard-2-of-4.npz does not belong to" in err
    assert "its list has other photographs (4, the other 20)" in err
    err = refused(four, made / "noflip.shard-2-of-4.npz", one, three)
    assert "noflip.shard-2-of-4.npz does not belong to" in err
    assert "another pipeline (flip is false, that of the other is true)" in err
    assert "it is one of 2 shards, the other one of 4" in refused(four, made / "half.shard-1-of-2.npz", two, three, one)
    assert "whole.npz is no shard" in refused(made / "whole.npz", one)
    assert "does not exist" in refused(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(two.read_bytes()[:-300])
    assert "cut.npz cannot be read" in refused(one, tmp_path / "cut.npz")
    status, _, err = run("embed", "--merge", one, "--out", one)
    assert (status, "choose another name" in err) == (2, True)
    assert run("embed", "--merge", one, "--shard", "1/4", "--out", tmp_path / "x.npz")[0] == 2


def test_a_shard_resumes_and_may_be_empty(run, album, tmp_path, small_parts):
    status, out, _ = run("embed", album / "person0" / "0.jpg", "--shard", "1/3", "--out", tmp_path / "e.npz")
    assert (status, "0 of 0 photographs embedded" in out) == (0, True)
    for number in (2, 3):
        assert run("embed", album / "person0" / "0.jpg", "--shard", f"{number}/3", "--out", tmp_path / "e.npz")[0] == 0
    status, out, _ = run("embed", "--merge", *tmp_path.glob("e.shard*"), "--out", tmp_path / "e.npz")
    assert (status, "1 of 1 photographs embedded" in out) == (0, True)
    (tmp_path / "bad.jpg").write_bytes(b"none")
    assert run("embed", tmp_path / "bad.jpg", "--shard", "1/1", "--out", tmp_path / "b.npz")[0] == 0
    status, _, err = run("embed", "--merge", tmp_path / "b.shard-1-of-1.npz", "--out", tmp_path / "b.npz")
    assert (status, "none of the 1 photographs can be embedded" in err) == (2, True)
