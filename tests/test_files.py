"""A name holds the whole old content or the whole new one, whatever happens in between."""

import os
import threading

import pytest

from coreface.files import write_atomically


def test_it_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    for content in (b"first, and longer", b"second", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_old_content_stays_until_the_new_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    seen = []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(path.read_bytes()), flush(file))[1])
    write_atomically(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_way_stays_as_it_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "kept").exists()


def test_two_threads_that_write_one_file_do_not_share_a_draft(tmp_path, monkeypatch):
    path = tmp_path / "file"
    flush = os.fsync

    def interrupted(file):
        monkeypatch.setattr(os, "fsync", flush)
        other = threading.Thread(target=write_atomically, args=(path, b"other, much longer"))
        other.start()
        other.join()
        assert path.read_bytes() == b"other, much longer"
        flush(file)

    monkeypatch.setattr(os, "fsync", interrupted)
    write_atomically(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
