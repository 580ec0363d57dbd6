"""What PostgreSQL alone has: several writers, a server that dies, an approximate index, and the erasure by VACUUM."""

import multiprocessing
import threading

import numpy as np
import pytest

import coreface as cf
from coreface.errors import GalleryError, StorageError
from support.galleries import crops, embeddings, toy_pipeline
from support.postgres import Server

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")


@pytest.fixture
def place(postgres):
    return postgres.empty_database("place0")


def test_what_is_missing_is_said(postgres, place):
    with pytest.raises(GalleryError, match="coreface gallery create"):
        cf.Gallery.open(place)
    cf.Gallery.open(place, toy_pipeline()).close()
    with pytest.raises(GalleryError, match="no gallery 'other'"):
        cf.Gallery.open(place, name="other")
    with pytest.raises(GalleryError, match="CREATE EXTENSION vector"):
        cf.Gallery.open(postgres.url_of("postgres"), toy_pipeline())
    with pytest.raises(StorageError) as caught:
        cf.Gallery.open("postgresql://me:secret@127.0.0.1:1/none", toy_pipeline(), timeout=0.5)
    assert "secret" not in str(caught.value)
    assert "postgresql://127.0.0.1/none" in str(caught.value)


def test_newer_tables_are_refused(postgres, place):
    cf.Gallery.open(place, toy_pipeline()).close()
    postgres.execute("UPDATE coreface.format SET version = 7", "place0")
    with pytest.raises(GalleryError, match="newer coreface"):
        cf.Gallery.open(place, toy_pipeline())


@pytest.mark.parametrize("pooling", ["mean", "best"])
def test_the_approximate_index_finds_the_right_person(place, pooling):
    with cf.Gallery.open(place, toy_pipeline(), pooling=pooling, index="hnsw") as gallery:
        for person in range(60):
            gallery.enrol(f"p{person}", embeddings(person, 2), allow_similar=True)
        plan = gallery.store.run("SELECT indexdef FROM pg_indexes WHERE tablename = 'entry_1'")
        assert any("USING hnsw" in row[0] for row in plan)
        for person in range(60):
            assert gallery.identify(embeddings(person)[0]).person == f"p{person}"
        assert len(gallery.search(embeddings(1)[0], top=60)[0]) == 60
    cf.Gallery.open(place, toy_pipeline(), index="hnsw").close()
    with pytest.raises(GalleryError, match="searches hnsw, not exact"):
        cf.Gallery.open(place, toy_pipeline(), index="exact")


def test_a_writer_waits_and_then_says_so(place):
    with cf.Gallery.open(place, toy_pipeline(), timeout=0.3) as gallery:
        gallery.enrol("alice", embeddings(1))
        with psycopg.connect(place) as other:
            other.execute("SELECT * FROM coreface.gallery FOR UPDATE")
            with pytest.raises(StorageError, match=r"another writer, for 0\.3 seconds"):
                gallery.enrol("bob", embeddings(2))
            assert gallery.identify(embeddings(1)[0]).person == "alice"
        assert gallery.enrol("bob", embeddings(2)).templates


def _enrol_some(place, start):
    with cf.Gallery.open(place, toy_pipeline(), timeout=60) as gallery:
        for person in range(start, start + 10):
            assert gallery.enrol(f"p{person}", embeddings(person), allow_similar=True).templates


def test_several_processes_and_threads_write(place):
    cf.Gallery.open(place, toy_pipeline()).close()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_enrol_some, args=(place, start)) for start in (0, 100)]
    for process in processes:
        process.start()
    with cf.Gallery.open(place, toy_pipeline(), timeout=60) as gallery:
        threads = [
            threading.Thread(target=gallery.enrol, args=(f"p{k}", embeddings(k)), kwargs={"allow_similar": True})
            for k in range(200, 212)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        for person in (*range(10), *range(100, 110), *range(200, 212)):
            assert gallery.identify(embeddings(person)[0]).person == f"p{person}"


def test_clients_go_on_after_the_server_was_killed(tmp_path, postgres):
    server = Server(tmp_path)
    try:
        place = server.empty_database("mine")
        with cf.Gallery.open(place, toy_pipeline(), timeout=20) as gallery:
            gallery.enrol("alice", embeddings(1))
            server.kill()
            server.start()
            assert gallery.identify(embeddings(1)[0]).person == "alice"
            gallery.enrol("bob", embeddings(2))
            gallery.delete("alice")
            server.kill()
            server.start()
            assert [person.id for person in gallery.people()] == ["bob"]
            assert gallery.identify(embeddings(1)[0]).person is None
    finally:
        server.stop()


def test_what_is_deleted_is_gone_from_the_tables(postgres, place):
    """16-byte pieces of embeddings, crops and names: in the files of the tables before, not after `erased`."""

    def stored():
        postgres.execute("CHECKPOINT")
        return b"".join(path.read_bytes() for path in (postgres.data / "base").rglob("*") if path.is_file())

    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        for person in range(10):
            gallery.enrol(
                f"p{person}",
                crops(person, 2),
                name=f"{person} has its own name",
                keep_crops=True,
                allow_similar=True,
            )
        number, _ = gallery.store.person("p3")
        with gallery.store.snapshot():
            own = [template for _, template in gallery.store.stored(number)]
        half = np.sum([one.embedding for one in own], axis=0)
        half = (half / np.linalg.norm(half)).astype("<f2").tobytes()
        contents = [
            half,
            b"3 has its own name",
            *(one.embedding.tobytes() for one in own),
            *(one.crop[40:] for one in own),
        ]
        pieces = {content[k : k + 16] for content in contents for k in range(0, len(content) - 16, 16)}
        before = stored()
        missing = [piece for piece in pieces if piece not in before]
        assert len(missing) <= 0.2 * len(pieces)  # where a value is cut into rows of TOAST
        deletion = gallery.delete("p3")
        assert not deletion.erased
        with psycopg.connect(place) as reader:
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT COUNT(*) FROM coreface.person")
            assert not gallery.purge().erased  # the reader may still see the rows
        assert gallery.purge().erased
        assert gallery.info().erased
        after = stored()
        assert [piece for piece in pieces if piece in after] == []
        assert gallery.identify(crops(4)[0]).person == "p4"


def test_commands_take_a_url(run, place):
    assert run("gallery", "create", place, "--index", "hnsw", "--pooling", "best")[0] == 0
    status, out, _ = run("gallery", "info", place)
    assert (status, out.startswith("postgresql://127.0.0.1/place0: gallery 'default'")) == (0, True)
    assert run("gallery", "list", place)[0] == 0
    assert run("gallery", "check", place)[0] == 0
    status, _, err = run("gallery", "create", place, "--pooling", "mean")
    assert (status, "pools by best" in err) == (2, True)
