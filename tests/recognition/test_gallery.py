"""A gallery in any store: who is found, at which threshold, what is refused, and that a deletion is one everywhere."""

import json
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.errors import (
    ContractError,
    FaceError,
    GalleryError,
    ImageError,
    InputError,
    ModelError,
    PersonExistsError,
    UnknownPersonError,
)
from coreface.recognition.detection import Face
from coreface.recognition.gallery_records import EmbeddedFace
from coreface.recognition.pipeline import FacePipeline
from support.galleries import SIZE, ToyEncoder, crops, embeddings, naive_scores, toy_pipeline


@pytest.fixture
def place(new_place):
    """A place where a gallery can be made, one a test."""
    return new_place()


@pytest.fixture
def gallery(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        yield gallery


@pytest.mark.parametrize("pooling", ["mean", "best"])
def test_it_finds_whom_plain_loops_find(place, pooling):
    enrolled = {f"p{k}": embeddings(k, 1 + k % 4, spread=0.15) for k in range(30)}
    probes = np.concatenate([embeddings(k, 1, spread=0.3) for k in range(40)])
    with cf.Gallery.open(place, toy_pipeline(), pooling=pooling) as gallery:
        for person, rows in enrolled.items():
            assert len(gallery.enrol(person, rows, allow_similar=True).templates) == len(rows)
        for probe, found in zip(probes, gallery.search(probes, top=7), strict=True):
            scores = naive_scores(enrolled, probe, pooling)
            best = sorted(scores, key=lambda person: -scores[person])[:7]
            assert [candidate.person for candidate in found] == best
            np.testing.assert_allclose([c.score for c in found], [scores[person] for person in best], atol=1e-5)
            (alone,) = gallery.search(probe, top=7)
            assert [candidate.person for candidate in alone] == best
        for person in ("p3", "p29", "p0"):  # changes that the first searches did not see
            gallery.delete(person)
            del enrolled[person]
        gallery.enrol("p31", embeddings(31, 3), allow_similar=True)
        enrolled["p31"] = embeddings(31, 3)
        rest = gallery.search(probes, top=100)
        assert {candidate.person for found in rest for candidate in found} == set(enrolled)
        for probe, found in zip(probes, rest, strict=True):
            scores = naive_scores(enrolled, probe, pooling)
            np.testing.assert_allclose([c.score for c in found], sorted(scores.values(), reverse=True), atol=1e-5)


def test_the_threshold_follows_the_number_of_people(gallery):
    calibration = gallery.pipeline.calibration
    probe = embeddings(500)[0]
    for people in range(1, 41):
        gallery.enrol(f"p{people}", embeddings(people), allow_similar=True)
        if people in (1, 10, 40):
            answer = gallery.identify(probe, fpir=0.1)
            # Of N independent people with FMR (0.6 - T) / 1.6 each: 1 - (1 - FMR)^N = 0.1.
            by_hand = 0.6 - 1.6 * (1 - 0.9 ** (1 / people))
            assert answer.threshold == pytest.approx(by_hand, abs=1e-4)
            assert answer.threshold == calibration.gallery_threshold(people, 0.1).threshold
            assert (answer.gallery_size, answer.derived) == (people, "independence")
            best = answer.candidates[0]
            fmr = max(0.0, (0.6 - best.score) / 1.6)
            assert best.fpir == pytest.approx(1 - (1 - fmr) ** people, rel=0.02, abs=1e-4)
    assert gallery.identify(embeddings(7)[0]).person == "p7"
    assert json.loads(json.dumps(answer.to_dict()))["threshold"] == answer.threshold


def test_what_cannot_be_decided_is_not_decided(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        nobody = gallery.identify(embeddings(1)[0])
        assert (nobody.decision, nobody.derived, nobody.candidates) == ("unknown", "empty gallery", ())
        gallery.enrol("a", embeddings(1))
        assert gallery.identify(embeddings(1)[0], fpir=1e-2).decision == "person"
        rare = gallery.identify(embeddings(1)[0], fpir=1e-5)  # 1 of 100 000 impostor pairs
        assert (rare.decision, rare.person) == ("undecidable", None)
        assert rare.candidates[0].person == "a"
        given = gallery.identify(embeddings(2)[0], threshold=-1)
        assert (given.decision, given.person, given.derived, given.calibrated) == ("person", "a", "given", None)
        for wrong in ({"fpir": 0}, {"fpir": 1.5}, {"top": 0}, {"threshold": 2}):
            with pytest.raises(InputError):
                gallery.identify(embeddings(1)[0], **wrong)
    with cf.Gallery.open(place, toy_pipeline(calibrated=False)) as gallery:
        with pytest.raises(ModelError, match="coreface calibrate"):
            gallery.identify(embeddings(1)[0])
        assert gallery.identify(embeddings(1)[0], threshold=0.5).person == "a"
        assert not gallery.enrol("b", embeddings(1)).checked


def test_partial_success_and_idempotence(gallery, tmp_path):
    good = crops(1, 3)
    (tmp_path / "broken.png").write_bytes(cv2.imencode(".png", good[0])[1].tobytes()[:300])
    cv2.imwrite(str(tmp_path / "fine.png"), good[2][..., ::-1])
    given = [good[0], tmp_path / "broken.png", good[1], good[0], tmp_path / "none.jpg", tmp_path / "fine.png"]
    given.append(np.full(SIZE, np.nan, np.float32))
    enrolment = gallery.enrol("alice", given, name="Alice", metadata={"room": 4})
    assert (len(enrolment.templates), enrolment.known, enrolment.similar) == (3, (3,), ())
    assert [(refusal.index, refusal.reason) for refusal in enrolment.refused] == [
        (1, "unreadable"),
        (4, "unreadable"),
        (6, "invalid embedding"),
    ]
    assert "broken.png" in enrolment.refused[0].message
    again = gallery.enrol("alice", given)
    assert (again.templates, again.known) == ((), (0, 2, 3, 5))
    person = gallery.person("alice")
    assert (person.templates, person.name, person.metadata) == (3, "Alice", {"room": 4})
    nothing = gallery.enrol("bob", [tmp_path / "none.jpg"])
    assert (nothing.templates, len(nothing.refused)) == ((), 1)
    assert [person.id for person in gallery.people()] == ["alice"]
    with pytest.raises(InputError, match="no images of bob"):
        gallery.enrol("bob", [])
    json.dumps(enrolment.to_dict())


class InterruptedEncoder(ToyEncoder):
    """Calls a function in the middle of its work, when the images have been read and nothing has been stored."""

    meanwhile = staticmethod(lambda: None)

    def embed(self, images, flip=True, *, unit=True):
        self.meanwhile()
        return super().embed(images, flip, unit=unit)


def test_whoever_is_deleted_during_an_enrolment_does_not_come_back(place):
    encoder = InterruptedEncoder()
    pipeline = toy_pipeline()
    pipeline.encoder = encoder
    with cf.Gallery.open(place, pipeline) as gallery, cf.Gallery.open(place) as other:
        gallery.enrol("alice", crops(1))
        encoder.meanwhile = lambda: other.delete("alice")
        with pytest.raises(UnknownPersonError, match="'alice'"):
            gallery.enrol("alice", crops(2), expect="known")
        assert gallery.people() == []
        assert gallery.info().templates == 0
        encoder.meanwhile = lambda: None
        gallery.enrol("alice", crops(1), expect="new")
        assert len(gallery.enrol("alice", crops(1, 2)[1:], expect="known").templates) == 1
        assert gallery.person("alice").templates == 2


def test_whoever_was_to_be_new_gets_no_images_of_another(place):
    encoder = InterruptedEncoder()
    pipeline = toy_pipeline()
    pipeline.encoder = encoder
    with cf.Gallery.open(place, pipeline) as gallery, cf.Gallery.open(place, toy_pipeline()) as other:
        encoder.meanwhile = lambda: other.enrol("alice", crops(1))
        with pytest.raises(PersonExistsError, match="'alice'"):
            gallery.enrol("alice", crops(2), name="Alice B.", expect="new")
        assert (gallery.person("alice").templates, gallery.person("alice").name) == (1, "alice")
        with pytest.raises(InputError, match="expect is 'old'"):
            gallery.enrol("alice", crops(2), expect="old")


def test_an_image_unlike_the_others_is_flagged(gallery):
    rows = [*embeddings(1, 3), embeddings(2)[0]]
    enrolment = gallery.enrol("alice", rows)
    assert (len(enrolment.templates), enrolment.flagged) == (4, (3,))
    assert [template.flagged for template in gallery.templates("alice")] == [False, False, False, True]
    assert gallery.enrol("alice", embeddings(3)).flagged == (0,)
    assert gallery.enrol("bob", embeddings(4)).flagged == ()


def test_one_person_under_two_ids_is_refused(gallery):
    gallery.enrol("alice", embeddings(1, 2))
    twin = embeddings(1, 4)[2:]
    refused = gallery.enrol("bob", twin)
    assert refused.templates == ()
    assert [candidate.person for candidate in refused.similar] == ["alice"]
    assert {refusal.reason for refusal in refused.refused} == {"resembles another"}
    assert "alice" in refused.refused[0].message
    with pytest.raises(UnknownPersonError):
        gallery.person("bob")
    allowed = gallery.enrol("bob", twin, allow_similar=True)
    assert len(allowed.templates) == 2
    assert [candidate.person for candidate in allowed.similar] == ["alice"]
    assert gallery.enrol("alice", embeddings(1, 5)[4:], allow_similar=True).templates


def face(side, x=0.0):
    return Face((x, 0.0, x + side, side), None, 1.0)


def test_every_face_is_answered_and_a_person_is_there_once(gallery):
    for person in range(3):
        gallery.enrol(f"p{person}", embeddings(person, 2))
    near, nearer = embeddings(0, 1, spread=0.1)[0], embeddings(0, 2)[0]
    faces = [
        EmbeddedFace(near, face(50)),
        EmbeddedFace(embeddings(9)[0], face(90)),
        EmbeddedFace(nearer, face(30)),
        EmbeddedFace(embeddings(2)[0], face(40)),
    ]
    answer = gallery.identify(faces, top=2)
    assert [one.face.area for one in answer.faces] == [8100, 2500, 1600, 900]
    assert [one.decision for one in answer.faces] == ["unknown", "unknown", "person", "person"]
    assert [one.person for one in answer.faces] == [None, None, "p2", "p0"]
    assert answer.faces[1].candidates[0].person == "p0"  # but another face resembles p0 more
    assert all(len(one.candidates) == 2 for one in answer.faces)
    assert (answer.decision, answer.person) == ("unknown", None)
    found = gallery.search(faces, top=1)  # in the order given
    assert [rows[0].person for rows in found if rows[0].score > 0.9] == ["p0", "p0", "p2"]


def test_photographs(photograph, tmp_path):
    """With a real detector and encoder: all faces of a photograph, and why there is none."""
    names = {"a": [(4, 0, 60, 40, 160)], "both": [(4, 3, 0, 20, 120), (9, 0, 170, 40, 150)], "nobody": []}
    for name, faces in names.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), photograph(faces, 320, 240)[..., ::-1])
    pipeline = FacePipeline.from_pretrained("sface")
    with cf.Gallery.open(tmp_path / "staff.db", pipeline) as gallery:
        gallery.enrol("four", [tmp_path / "a.png"], keep_crops=True)
        answer = gallery.identify(tmp_path / "both.png")
        assert [one.person for one in answer.faces] == [None, "four"]
        assert answer.faces[0].face.area > answer.faces[1].face.area
        expected = pipeline.embed([tmp_path / "a.png"]).embeddings[0]
        assert gallery.search(expected)[0][0].score == pytest.approx(1, abs=1e-5)
        with pytest.raises(FaceError, match=r"nobody\.png: no face"):
            gallery.identify(tmp_path / "nobody.png")
        with pytest.raises(ImageError):
            gallery.identify(tmp_path / "none.png")
        three = gallery.identify_many([tmp_path / "nobody.png", tmp_path / "a.png", tmp_path / "none.png"])
        assert [one.person for one in three] == [None, "four", None]
        assert [one.decision for one in three] == ["undecidable", "person", "undecidable"]
        assert isinstance(three[0].failure, FaceError)
        assert isinstance(three[2].failure, ImageError)
        assert gallery.verify("four", tmp_path / "a.png").match is True
        assert gallery.verify("four", tmp_path / "both.png").match is False  # the largest face


def test_many_at_once_are_answered_as_one_by_one(gallery):
    for person in range(20):
        gallery.enrol(f"p{person}", embeddings(person, 2), allow_similar=True)
    probes = np.concatenate([embeddings(k, 1, spread=0.2) for k in range(25)])
    for many, probe in zip(gallery.identify_many(probes), probes, strict=True):
        one = gallery.identify(probe)
        assert (many.decision, many.person, many.threshold) == (one.decision, one.person, one.threshold)
    assert gallery.identify_many([]) == []


@pytest.mark.parametrize("pooling", ["mean", "best"])
def test_verify(place, pooling):
    with cf.Gallery.open(place, toy_pipeline(), pooling=pooling) as gallery:
        rows = embeddings(1, 4, spread=0.1)
        gallery.enrol("alice", rows)
        probe = embeddings(1, 6, spread=0.1)[5]
        decision = gallery.verify("alice", probe, fmr=0.05)
        assert decision.score == pytest.approx(naive_scores({"alice": rows}, probe, pooling)["alice"], abs=1e-5)
        # The best of four templates: 1 - (1 - FMR)^4 = 0.05.
        rate = 0.05 if pooling == "mean" else 1 - 0.95**0.25
        assert decision.threshold == pytest.approx(0.6 - 1.6 * rate, abs=1e-4)
        assert decision.match is True
        assert decision.fmr <= 0.05
        assert gallery.verify("alice", embeddings(2)[0], fmr=0.05).match is False
        assert gallery.verify("alice", probe, fmr=1e-9).match is None
        assert gallery.verify("alice", probe, threshold=0.999999).match is False
        with pytest.raises(UnknownPersonError):
            gallery.verify("bob", probe)
        for template in gallery.templates("alice"):
            gallery.delete_template(template.id)
        with pytest.raises(UnknownPersonError, match="no templates"):
            gallery.verify("alice", probe)
        assert gallery.identify(probe).derived == "empty gallery"


def test_another_pipeline_is_refused_by_what_differs(place):
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        gallery.enrol("alice", embeddings(1))
    with pytest.raises(ContractError, match=f"encoder is {ToyEncoder(1).digest[:12]}, that of the gallery is"):
        cf.Gallery.open(place, toy_pipeline(1))
    with pytest.raises(ContractError, match="flip is false, that of the gallery is true"):
        cf.Gallery.open(place, toy_pipeline(flip=False))
    with pytest.raises(GalleryError, match="pools by mean"):
        cf.Gallery.open(place, toy_pipeline(), pooling="best")
    with cf.Gallery.open(place) as gallery:  # to be managed only
        assert [person.id for person in gallery.people()] == ["alice"]
        with pytest.raises(InputError, match="without a pipeline"):
            gallery.identify(embeddings(1)[0])
        gallery.delete("alice")
    with cf.Gallery.open(place, toy_pipeline()) as gallery:
        for wrong in (np.ones(SIZE + 1, np.float32), np.zeros(SIZE, np.float32), np.full(SIZE, np.inf)):
            with pytest.raises(InputError):
                gallery.identify(wrong)


def test_galleries_of_one_store_are_strangers(place):
    with cf.Gallery.open(place, toy_pipeline(), "one") as one, cf.Gallery.open(place, toy_pipeline(1), "two") as two:
        one.enrol("alice", embeddings(1))
        two.enrol("alice", embeddings(2))
        assert one.identify(embeddings(2)[0]).decision == "unknown"
        two.delete("alice")
        assert one.identify(embeddings(1)[0]).person == "alice"
        assert (one.info().people, two.info().people) == (1, 0)
    with pytest.raises(GalleryError, match="three"):
        cf.Gallery.open(place, name="three")


def test_others_see_every_change_at_once(place):
    """Two handles, as two processes have them, against a dict."""
    rng = np.random.default_rng(0)
    with cf.Gallery.open(place, toy_pipeline()) as one, cf.Gallery.open(place, toy_pipeline()) as other:
        held = {}
        for step in range(120):
            here, there = (one, other) if rng.integers(2) else (other, one)
            person = f"p{rng.integers(8)}"
            if person in held and rng.integers(2):
                here.delete(person)
                del held[person]
            else:
                rows = embeddings(int(person[1:]), 3, spread=0.1)
                index = int(rng.integers(3))
                here.enrol(person, rows[index], allow_similar=True)
                held.setdefault(person, {})[index] = rows[index]
            if step % 3 == 0:
                probe = embeddings(int(rng.integers(8)), 1, spread=0.2)[0]
                scores = naive_scores({person: list(rows.values()) for person, rows in held.items()}, probe, "mean")
                found = {candidate.person: candidate.score for candidate in there.search(probe, top=10)[0]}
                assert found == pytest.approx(scores, abs=1e-5)


def test_management(gallery):
    for person in ("b", "a", "c"):
        gallery.enrol(person, embeddings(ord(person)))
    assert [person.id for person in gallery.people()] == ["a", "b", "c"]
    assert [person.id for person in gallery.people(limit=2)] == ["a", "b"]
    assert [person.id for person in gallery.people(after="b", limit=2)] == ["c"]
    assert gallery.rename("a", "Ann").name == "Ann"
    assert gallery.person("a").metadata == {}
    soon = datetime(2100, 1, 1, tzinfo=UTC)
    changed = gallery.update("a", metadata={"x": [1, None]}, retain_until=soon)
    assert (changed.name, changed.metadata, changed.retain_until) == ("Ann", {"x": [1, None]}, soon)
    assert gallery.update("a", retain_until=None).retain_until is None
    for action in (lambda: gallery.person("z"), lambda: gallery.delete("z"), lambda: gallery.rename("z", "Z")):
        with pytest.raises(UnknownPersonError, match="'z'"):
            action()
    with pytest.raises(UnknownPersonError):
        gallery.delete_template("nothing")
    deletion = gallery.delete("b")
    assert (deletion.people, deletion.templates) == (1, 1)
    info = gallery.info()
    assert (info.people, info.templates, info.crops, info.embedding_size, info.pooling) == (2, 2, 0, SIZE, "mean")
    assert info.contract == gallery.pipeline.contract
    assert gallery.check() == []
    json.dumps([info.to_dict(), changed.to_dict(), deletion.to_dict()])


def test_purge(gallery):
    past, future = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    for person, until in (("a", past), ("b", future), ("c", None)):
        gallery.enrol(person, embeddings(ord(person)), retain_until=until)
    assert gallery.purge(older_than=timedelta(days=1)).people == 1
    assert [person.id for person in gallery.people()] == ["b", "c"]
    assert gallery.purge(older_than=timedelta(0)).people == 2
    assert gallery.people() == []
    for wrong in (timedelta(days=-1),):
        with pytest.raises(InputError):
            gallery.purge(older_than=wrong)
    with pytest.raises(InputError, match="time zone"):
        gallery.enrol("d", embeddings(1), retain_until=datetime(2030, 1, 1))


def test_the_audit_log_names_nobody(gallery):
    gallery.enrol("alice", embeddings(1), name="Alice Smith", metadata={"phone": "12345"})
    opaque_id = gallery.person("alice").opaque_id
    gallery.rename("alice", "Alice Jones")
    gallery.delete("alice")
    entries = gallery.audit()
    assert [(entry.action, entry.opaque_id) for entry in entries] == [
        ("delete", opaque_id),
        ("update", opaque_id),
        ("enrol", opaque_id),
        ("create", None),
    ]
    assert "lice" not in json.dumps([entry.to_dict() for entry in entries])
    assert [entry.action for entry in gallery.audit(limit=1)] == ["delete"]


def test_the_audit_log_is_rotated(gallery, monkeypatch):
    monkeypatch.setattr("coreface.recognition.gallery_sql._AUDIT_LINES", 5)
    for step in range(9):
        gallery.enrol("a", embeddings(1, 9)[step])
    assert len(gallery.audit(100)) == 5


def test_odd_ids_names_and_metadata(gallery):
    for odd in ("Robert'); DROP TABLE person;--", "?", "%s", "a/../../b", "é", "名前", "x" * 200, "a b", "-", '"'):
        gallery.enrol(odd, embeddings(abs(hash(odd)) % 10_000), name=odd, metadata={odd: odd}, allow_similar=True)
        assert gallery.person(odd).metadata == {odd: odd}
        assert gallery.delete(odd).people == 1
    gallery.enrol("e\u0301", embeddings(1))  # as some systems write the names of folders
    assert gallery.person("\u00e9").id == "\u00e9"
    for wrong in ("", " a", "a\n", "x" * 201, "a\0b", "\ud800", None, 3, b"a"):
        with pytest.raises(InputError, match="id of a person"):
            gallery.enrol(wrong, embeddings(1))
    deep = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for metadata in ({"a": "x" * 10_000_000}, {"a": float("nan")}, {"a": object()}, deep):
        with pytest.raises(InputError, match="metadata"):
            gallery.enrol("a", embeddings(1), metadata=metadata)
    with pytest.raises(InputError, match="name"):
        gallery.rename("\u00e9", "x" * 501)


def test_nothing_of_a_person_is_logged(place, caplog, capfd):
    with caplog.at_level("DEBUG"), cf.Gallery.open(place, toy_pipeline()) as gallery:
        rows = embeddings(1, 2)
        gallery.enrol("a secret id", rows, name="A Secret Name", metadata={"secret key": 1})
        gallery.identify(rows[0])
        gallery.verify("a secret id", rows[1])
        gallery.rename("a secret id", "Another Secret")
        gallery.delete("a secret id")
        with pytest.raises(InputError):
            gallery.enrol("a secret id", [])
    written = caplog.text + "".join(capfd.readouterr())
    assert "ecret" not in written
    assert f"{rows[0, 0]:.4f}" not in written
