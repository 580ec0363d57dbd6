"""A reader of faces that a program registers is asked before those of coreface."""

import numpy as np
import pytest

import coreface as cf
from coreface.cli import main
from coreface.data.open import READERS


@pytest.fixture
def word_reader():
    @cf.data.register_faces("word", "the word anybody:N")
    class WordSource(cf.data.FaceSource):
        def __init__(self, path):
            count = int(path.partition(":")[2])
            super().__init__(np.arange(count, dtype=np.int64), [f"p{i}" for i in range(count)])

        @classmethod
        def claims(cls, path):
            return path.startswith("anybody:")

        def encoded(self, index):
            from support.toy_images import encode, noise

            return encode(noise(str(index)), ".png")

        def locate(self, index):
            return f"anybody {index}"

    yield WordSource
    READERS.remove("word")


def test_what_a_reader_claims_is_opened_by_it(word_reader, tmp_path, monkeypatch, capsys):
    source = cf.data.open_faces("anybody:3")
    assert isinstance(source, word_reader)
    assert (len(source), source[2][0].shape) == (3, (16, 16, 3))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "info", "anybody:3"]) == 0
    assert "anybody:3: word, 3 images of 3 identities" in capsys.readouterr().out


def test_it_comes_before_the_readers_of_coreface(word_reader, toy_folder, monkeypatch):
    monkeypatch.setattr(word_reader, "claims", classmethod(lambda cls, path: True))
    with pytest.raises(ValueError, match="invalid literal"):  # its constructor was called
        cf.data.open_faces(toy_folder)


def test_what_nobody_claims_is_said_by_the_folder(word_reader, tmp_path):
    with pytest.raises(cf.DataError, match="no such folder"):
        cf.data.open_faces(tmp_path / "nothing")
