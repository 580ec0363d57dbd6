"""What leaves a gallery and comes back: exports, imports, and the move to another encoder."""

import base64

import numpy as np
import pytest

import coreface as cf
from coreface.errors import ContractError, GalleryError, StorageError, UnknownPersonError
from support.galleries import SIZE, ToyEncoder, crops, embeddings, rewritten_export, toy_pipeline


@pytest.fixture
def places(new_place):
    """Two places where galleries can be made."""
    return new_place(), new_place()


@pytest.fixture
def gallery(places):
    with cf.Gallery.open(places[0], toy_pipeline()) as gallery:
        gallery.enrol("alice", crops(1, 2), keep_crops=True, name="Alice", metadata={"a": 1})
        gallery.enrol("bob", embeddings(2, 3))
        yield gallery


def test_there_and_back(gallery, places, tmp_path):
    path = tmp_path / "all.jsonl"
    written = gallery.export(path)
    assert (written.people, written.templates) == (2, 5)
    assert path.stat().st_mode & 0o777 == 0o600
    with cf.Gallery.open(places[1], toy_pipeline()) as other:
        added = other.import_(path)
        assert (added.people, added.templates, added.compared) == (2, 5, 2)  # two of alice's have crops
        again = other.import_(path)
        assert (again.people, again.templates) == (0, 0)
        mine, theirs = (g.person("alice").to_dict() for g in (gallery, other))
        assert {name for name in mine if mine[name] != theirs[name]} == {"opaque_id"}
        probes = np.concatenate([embeddings(2, 4), toy_pipeline().encoder.embed(crops(1, 3))])
        for one, two in zip(gallery.search(probes), other.search(probes), strict=True):
            assert {c.person: c.score for c in one} == pytest.approx({c.person: c.score for c in two}, abs=1e-6)
        assert other.info().crops == 2
        assert other.enrol("alice", crops(1, 2)).known == (0, 1)
    assert gallery.export(tmp_path / "bob.jsonl", "bob").templates == 3
    with cf.Gallery.open(places[1], toy_pipeline()) as other:
        other.delete("bob")
        assert other.import_(tmp_path / "bob.jsonl").compared == 0
    assert "alice" not in (tmp_path / "bob.jsonl").read_text()
    with pytest.raises(UnknownPersonError):
        gallery.export(tmp_path / "x.jsonl", "nobody")
    with pytest.raises(StorageError, match="cannot be written"):
        gallery.export(tmp_path / "none" / "x.jsonl")
    assert [entry.action for entry in gallery.audit(2)] == ["export", "export"]


def test_what_is_not_what_it_says_is_refused_whole(gallery, places, tmp_path):
    path = tmp_path / "all.jsonl"
    gallery.export(path)
    whole = path.read_bytes()

    def forge(change):
        return rewritten_export(path, change)

    def other_encoder(lines):
        lines[0]["contract"]["encoder"] = ToyEncoder(1).digest

    def swapped(lines):
        alice, bob = (line["templates"] for line in lines[1:])
        alice[0]["embedding"] = bob[0]["embedding"]

    def large_crop(lines):
        import cv2

        image = cv2.imencode(".png", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()  # 48 MB of pixels in 50 KB
        lines[1]["templates"][0]["crop"] = base64.b64encode(image).decode()

    def short(lines):
        lines[2]["templates"][0]["embedding"] = base64.b64encode(bytes(4 * SIZE - 4)).decode()

    def zero(lines):
        lines[2]["templates"][0]["embedding"] = base64.b64encode(bytes(4 * SIZE)).decode()

    def odd_id(lines):
        lines[2]["id"] = "bob\n"

    with cf.Gallery.open(places[1], toy_pipeline()) as other:
        for change, error, words in (
            (other_encoder, ContractError, "encoder is"),
            (swapped, GalleryError, "not that of its crop"),
            (large_crop, GalleryError, "line 2: .*4000 x 4000"),
            (short, GalleryError, "line 3"),
            (zero, GalleryError, "line 3: .*zero"),
            (odd_id, GalleryError, "line 3: .*id of a person"),
            (lambda lines: lines[2].pop("templates"), GalleryError, "line 3: KeyError"),
            (lambda lines: lines[0].update(coreface_gallery=2), GalleryError, "not an export"),
        ):
            with pytest.raises(error, match=words):
                other.import_(forge(change))
            assert other.people() == []
        cut = tmp_path / "cut.jsonl"
        for size in (0, 10, len(whole) // 2, len(whole) - 100):
            cut.write_bytes(whole[:size])
            with pytest.raises(GalleryError):
                other.import_(cut)
        rng = np.random.default_rng(0)
        for _ in range(200):
            damaged = bytearray(whole)
            place = int(rng.integers(len(damaged)))
            damaged[place] ^= int(rng.integers(1, 256))
            cut.write_bytes(damaged)
            with pytest.raises((GalleryError, ContractError)):
                other.import_(cut)
        assert other.people() == []
        with pytest.raises(StorageError):
            other.import_(tmp_path / "none.jsonl")
        other.import_(path)
        assert other.info().people == 2


def test_a_gallery_moves_to_another_encoder(places):
    old, new = toy_pipeline(), toy_pipeline(1)
    with cf.Gallery.open(places[0], old) as gallery, cf.Gallery.open(places[0], old) as other:
        for person in range(5):
            gallery.enrol(f"p{person}", crops(person, 2), keep_crops=True, allow_similar=True)
        assert other.identify(crops(3)[0]).person == "p3"
        done = []
        assert gallery.migrate(new, done.append) == 10
        assert done[-1] == 10
        assert gallery.identify(crops(3)[0]).person == "p3"
        expected = new.encoder.embed(crops(3, 2)).sum(axis=0)
        probe = embeddings(9)[0]
        score = next(c.score for c in gallery.search(probe)[0] if c.person == "p3")
        assert score == pytest.approx(float(expected @ probe / np.linalg.norm(expected)), abs=1e-5)
        for action in (
            lambda: other.identify(crops(3)[0]),
            lambda: other.enrol("x", crops(9)),
            lambda: other.verify("p1", crops(1)),
        ):
            with pytest.raises(ContractError, match="encoder"):
                action()
        with pytest.raises(ContractError, match="already"):
            gallery.migrate(new)
        gallery.enrol("q", embeddings(1), allow_similar=True)
        with pytest.raises(GalleryError, match="no crop was kept of 1 template"):
            gallery.migrate(old)
        assert gallery.info().contract == new.contract
    with cf.Gallery.open(places[0], new) as again:
        assert again.identify(crops(3)[0]).person == "p3"


def test_crops_of_another_detector_cannot_be_moved(places):
    with cf.Gallery.open(places[0], toy_pipeline()) as gallery:
        gallery.enrol("a", crops(1), keep_crops=True)
        other = toy_pipeline(1)
        other.detector = type("Other", (), {"contract": {"name": "other"}})()
        with pytest.raises(ContractError, match=r"detector\.name"):
            gallery.migrate(other)


def test_what_is_enrolled_while_a_gallery_moves_is_not_lost(places):
    new = toy_pipeline(1)
    with cf.Gallery.open(places[0], toy_pipeline()) as gallery, cf.Gallery.open(places[0], toy_pipeline()) as other:
        gallery.enrol("a", crops(1), keep_crops=True)

        def meanwhile(count):
            if count == 1:
                other.enrol("b", crops(2), keep_crops=True)

        assert gallery.migrate(new, meanwhile) == 2
        assert gallery.identify(crops(2)[0]).person == "b"
