"""The file of a gallery: other writers, damage, foreign files, a full disk, and bytes that are gone."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.errors import CoreFaceError, GalleryError, InputError, StorageError
from coreface.recognition.gallery_matrix import TemplateMatrix
from support.galleries import SIZE, crops, embeddings, toy_pipeline


@pytest.fixture
def place(tmp_path):
    return tmp_path / "gallery.db"


def test_how_a_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a.db", tmp_path / "b.db", "sqlite:///c.db", f"sqlite:///{tmp_path}/d.db"):
        cf.Gallery.open(place, toy_pipeline()).close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "b.db", "c.db", "d.db"}
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="mysql:// is not a store"):
        cf.Gallery.open("mysql://localhost/x", toy_pipeline())
    for missing in ("none.db", tmp_path, tmp_path / "none" / "x.db"):
        with pytest.raises(GalleryError):
            cf.Gallery.open(missing)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(GalleryError, match="no such gallery"):
        cf.Gallery.open("none.db", toy_pipeline(), create=False)


def test_foreign_and_newer_files(tmp_path):
    (tmp_path / "text.db").write_text("not a database" * 1000)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE x (y)")
    (tmp_path / "empty.db").touch()
    for name, words in (("text", "not an SQLite file"), ("other", "another program"), ("empty", "an empty file")):
        with pytest.raises(GalleryError, match=words):
            cf.Gallery.open(tmp_path / f"{name}.db")
    cf.Gallery.open(tmp_path / "empty.db", toy_pipeline()).close()
    connection = sqlite3.connect(tmp_path / "empty.db")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(GalleryError, match=r"format 7.*newer coreface"):
        cf.Gallery.open(tmp_path / "empty.db", toy_pipeline())


def test_a_second_writer_waits_and_then_says_so(place):
    with cf.Gallery.open(place, toy_pipeline(), timeout=0.1) as gallery:
        gallery.enrol("alice", embeddings(1))
        other = sqlite3.connect(place, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"another process has been writing for 0\.1 seconds"):
            gallery.enrol("bob", embeddings(2))
        assert gallery.identify(embeddings(1)[0]).person == "alice"  # readers do not wait
        other.execute("ROLLBACK")
        gallery.enrol("bob", embeddings(2))
        assert gallery.identify(embeddings(2)[0]).person == "bob"
        other.close()
    with pytest.raises(GalleryError, match="closed"):
        gallery.people()


def test_damage_is_named(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        gallery.enrol("alice", embeddings(1, 3))
    connection = sqlite3.connect(place)
    connection.execute("UPDATE template SET embedding = zeroblob(?) WHERE number = 2", [4 * SIZE])
    connection.commit()
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        with pytest.raises(GalleryError, match=r"unit length.*restore a backup"):
            gallery.identify(embeddings(1)[0])
        assert "1 embeddings are not" in gallery.check()[0]
    connection.execute("UPDATE template SET embedding = zeroblob(3), person = 77 WHERE number = 2")
    connection.commit()
    connection.close()
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        assert len(gallery.check()) == 2


def test_a_search_that_finds_nobody_who_is_there_ends(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        gallery.enrol("alice", embeddings(1))
        assert gallery.identify(embeddings(1)[0]).person == "alice"
        connection = sqlite3.connect(place)
        connection.execute("DELETE FROM person")  # behind the back of the gallery, as damage does
        connection.commit()
        connection.close()
        with pytest.raises(GalleryError, match="people who are not in the gallery"):
            gallery.identify(embeddings(1)[0])


def test_a_full_disk_changes_nothing(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        gallery.enrol("alice", embeddings(1, 3))
        pages = gallery.store.run("PRAGMA page_count")[0][0]
        gallery.store.run(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="disk is full; nothing was changed"):
            gallery.enrol("bob", embeddings(2, 2000))
        assert [person.id for person in gallery.people()] == ["alice"]
        assert gallery.identify(embeddings(1)[0]).person == "alice"


def test_a_file_that_cannot_grow(place):
    """A limit on the size of files, as a quota has it, in a process of its own."""
    code = (
        "import resource, sys, signal; import coreface as cf\n"
        "from support.galleries import embeddings, toy_pipeline\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "gallery = cf.Gallery.open(sys.argv[1], toy_pipeline())\n"
        "gallery.enrol('alice', embeddings(1))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try:\n    gallery.enrol('bob', embeddings(2, 5000))\n"
        "except cf.StorageError as error:\n    print('refused:', error)\n"
        "print([person.id for person in gallery.people()])\n"
    )
    done = run_python(code, str(place))
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
    assert done.stdout.splitlines()[-1] == "['alice']"


def run_python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)


def test_a_read_only_gallery(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        gallery.enrol("alice", embeddings(1))
        gallery.store.run("PRAGMA query_only = ON")
        with pytest.raises(StorageError, match="cannot be written; nothing was changed"):
            gallery.enrol("bob", embeddings(2))
        assert gallery.identify(embeddings(1)[0]).person == "alice"


def pieces(*contents):
    return {content[start : start + 16] for content in contents for start in range(0, len(content) - 16, 16)}


def found(folder, wanted):
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    return {piece for piece in wanted if piece in stored}


def test_what_is_deleted_is_gone_from_the_files(place):
    """16-byte pieces of embeddings, crops, names and metadata: there before the deletion, in no file after it."""
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        secret = {}
        for person in range(40):
            # Underscore: the end of another person's opaque id, stored before the name, must not complete a piece.
            id, name, text = (f"{word} of person {person:04d}_" * 3 for word in ("id", "name", "metadata"))
            gallery.enrol(id, crops(person, 4), name=name, metadata={"": text}, keep_crops=True, allow_similar=True)
            number, _ = gallery.store.person(id)
            with gallery.store.snapshot():
                stored = [template for _, template in gallery.store.stored(number)]
            secret[id] = pieces(
                *(content for one in stored for content in (one.embedding.tobytes(), one.crop[40:], one.digest)),
                *(word.encode() for word in (id, name, text)),
            )
        counts = Counter(piece for own in secret.values() for piece in own)
        own = {id: {piece for piece in wanted if counts[piece] == 1} for id, wanted in secret.items()}
        assert min(map(len, own.values())) > 100
        kept, *others = own
        for id in others:
            assert found(place.parent, own[id]) == own[id]
            assert gallery.delete(id).erased
            assert found(place.parent, own[id]) == set()
        assert found(place.parent, own[kept]) == own[kept]


def test_a_reader_in_the_way_delays_the_erasure(place):
    with cf.Gallery.open(place, toy_pipeline(), timeout=0.1) as gallery:
        gallery.enrol("alice", embeddings(1), name="somebody with a name")
        gallery.enrol("bob", embeddings(2))
        reader = sqlite3.connect(place, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM person").fetchall()
        deletion = gallery.delete("alice")
        assert (deletion.people, deletion.erased) == (1, False)
        assert gallery.identify(embeddings(1)[0]).person is None
        assert not gallery.info().erased
        assert not gallery.purge().erased
        reader.execute("COMMIT")
        reader.close()
        gallery.enrol("bob", embeddings(2, 2)[1:])  # the next write
        assert gallery.info().erased
        assert found(place.parent, {b"somebody with a "}) == set()


def _enrol_some(place, start):
    with cf.Gallery.open(place, toy_pipeline(), timeout=60) as gallery:
        for person in range(start, start + 15):
            assert gallery.enrol(f"p{person}", embeddings(person), allow_similar=True).templates


def test_several_processes_write(place):
    cf.Gallery.open(place, toy_pipeline()).close()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_enrol_some, args=(place, start)) for start in (0, 100)]
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        for person in (*range(15), *range(100, 115)):
            assert gallery.identify(embeddings(person)[0]).person == f"p{person}"


def fuzzed(count, tmp_path):
    """Open, read and search damaged files; return how many were refused."""
    whole = tmp_path / "whole.db"
    with cf.Gallery.open(whole, toy_pipeline()) as gallery:
        for person in range(20):
            gallery.enrol(f"p{person}", crops(person, 2), keep_crops=True, allow_similar=True)
    content = whole.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    damaged = tmp_path / "damaged.db"
    for case in range(count):
        spoilt = bytearray(content)
        kind = case % 4
        if kind == 0:
            del spoilt[int(rng.integers(len(spoilt))) :]
        for _ in range(0 if kind == 0 else 1 if kind == 1 else 50):
            end = len(spoilt) if kind < 3 else 2000  # the header and the schema, oftener
            spoilt[int(rng.integers(end))] = int(rng.integers(256))
        for path in tmp_path.glob("damaged.db*"):
            path.unlink()
        damaged.write_bytes(spoilt)
        try:
            with cf.Gallery.open(damaged, toy_pipeline(), timeout=0) as gallery:
                gallery.identify(embeddings(1)[0])
                gallery.people()
                gallery.check()
                gallery.enrol("new", embeddings(3), allow_similar=True)
                gallery.export(tmp_path / "out.jsonl")
                gallery.delete("new")
        except CoreFaceError:
            refused += 1
    return refused


def test_damaged_files_are_refused_or_read(tmp_path):
    assert fuzzed(100, tmp_path) > 30


@pytest.mark.slow
def test_two_thousand_damaged_files(tmp_path):
    assert fuzzed(2000, tmp_path) > 600


def test_the_matrix_in_memory_is_that_of_plain_loops():
    """Any order of adding and removing, in both poolings, against lists; enough rows for the search by blocks."""
    rng = np.random.default_rng(0)
    for pooling in ("mean", "best"):
        matrix = TemplateMatrix(SIZE, pooling)
        held = {}
        for _ in range(30):
            people = rng.choice(4000, 300, replace=False)
            for person in people:
                held.pop(int(person), None)
            new = {int(person): embeddings(int(person), int(rng.integers(1, 4)), spread=0.5) for person in people[:200]}
            held |= new
            owners = np.repeat(list(new), [len(rows) for rows in new.values()])
            matrix.replace(people.astype(np.int64), owners.astype(np.int64), np.concatenate(list(new.values())))
        assert matrix.size == (len(held) if pooling == "mean" else sum(map(len, held.values())))
        probes = np.concatenate([embeddings(person, 1, spread=1.0) for person in range(20)])
        for probe, hits in zip(probes, matrix.search(probes, 5), strict=True):
            if pooling == "mean":
                scores = {p: float(rows.sum(0) @ probe / np.linalg.norm(rows.sum(0))) for p, rows in held.items()}
            else:
                scores = {p: float((rows @ probe).max()) for p, rows in held.items()}
            best = sorted(scores, key=lambda person: -scores[person])[:5]
            assert [owner for owner, _ in hits] == best
            np.testing.assert_allclose([score for _, score in hits], [scores[p] for p in best], atol=1e-5)
            assert matrix.search(probe[None], 5)[0][0][0] == best[0]


def test_a_picture_is_stored_without_its_exif(place):
    ok, encoded = cv2.imencode(".jpg", np.kron(crops(1)[0], np.ones((8, 8, 1), np.uint8)))
    assert ok
    secret = b"GPS 48.8584 N 2.2945 E, by a telephone"
    exif = b"Exif\0\0" + secret
    jpeg = encoded.tobytes()
    jpeg = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        assert gallery.enrol("a", jpeg, keep_crops=True).templates
        assert gallery.info().crops == 1
        assert found(place.parent, {secret[:16]}) == set()
