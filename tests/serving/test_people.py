"""People over HTTP: enrolled, found, changed, exported, forgotten; what roles may do; two processes on one gallery."""

import json
from urllib.parse import quote

import pytest

from coreface.recognition.gallery import Gallery
from coreface.serving.settings import Limits, Settings
from support.serving import as_json, problem


@pytest.fixture
def place(tmp_path):
    return tmp_path / "people.db"


@pytest.fixture
def service(client, place):
    return client(Settings(gallery=str(place)))


def images(*contents):
    return [("images", (f"{number}.jpg", content)) for number, content in enumerate(contents)]


def enrol(service, id, *contents, **fields):
    return service.post("/v1/people", files=images(*contents), data={"id": id, **fields})


def test_a_person_from_enrolment_to_deletion(service, place, pipeline, jpeg):
    response = enrol(service, "alice", jpeg(4), jpeg(4, 3), name="Alice A.", metadata='{"room": 7}')
    assert response.status_code == 201, response.text
    assert response.headers["location"] == "/v1/people/alice"
    body = response.json()
    assert (body["person"]["id"], body["person"]["name"], body["person"]["images"]) == ("alice", "Alice A.", 2)
    assert body["person"]["metadata"] == {"room": 7}
    assert len(body["images"]) == 2
    assert body["refused"] == body["similar"] == body["known"] == []

    answer = service.post("/v1/identify", files={"image": jpeg(4, 5)}).json()
    with Gallery.open(place, pipeline) as gallery:
        expected = gallery.identify(jpeg(4, 5))
        assert [template.id for template in gallery.templates("alice")] == body["images"]
    assert answer["faces"][0]["decision"] == "person"
    assert answer["faces"][0]["person"] == expected.person == "alice"
    assert answer["faces"][0]["candidates"][0]["score"] == round(expected.candidates[0].score, 3)
    assert answer["threshold"] == expected.threshold
    assert (answer["fpir"], answer["derived"], answer["gallery_size"]) == (0.01, expected.derived, 1)
    assert answer["faces"][0]["face"] == expected.faces[0].face.to_dict()

    unknown = service.post("/v1/identify", json=as_json(image=jpeg(8))).json()
    assert (unknown["faces"][0]["decision"], unknown["faces"][0]["person"]) == ("unknown", None)

    changed = service.patch("/v1/people/alice", json={"name": "Alice B.", "retain_until": "2040-01-01T00:00:00Z"})
    assert (changed.json()["name"], changed.json()["metadata"]) == ("Alice B.", {"room": 7})
    shown = service.get("/v1/people/alice").json()
    assert shown["person"] == changed.json()
    assert [image["id"] for image in shown["images"]] == body["images"]

    assert service.delete(f"/v1/people/alice/images/{body['images'][0]}").status_code == 204
    problem(service.delete(f"/v1/people/alice/images/{body['images'][0]}"), "unknown-image")
    assert service.get("/v1/people/alice").json()["person"]["images"] == 1
    more = service.post("/v1/people/alice/images", files=images(jpeg(4, 6), jpeg(4, 3)))
    assert more.status_code == 201
    assert more.json()["known"] == [1]

    assert service.delete("/v1/people/alice").status_code == 204
    assert service.post("/v1/identify", files={"image": jpeg(4)}).json()["faces"][0]["candidates"] == []
    for call in (
        service.get("/v1/people/alice"),
        service.delete("/v1/people/alice"),
        service.patch("/v1/people/alice", json={"name": "x"}),
        service.post("/v1/people/alice/images", files=images(jpeg(4))),
        service.get("/v1/people/alice/export"),
        service.delete("/v1/people/alice/images/x"),
    ):
        problem(call, "unknown-person")


def test_all_methods_of_an_address_are_named(service):
    response = service.put("/v1/people/alice")
    problem(response, "method-not-allowed")
    assert response.headers["allow"] == "DELETE, GET, PATCH"


def test_images_that_cannot_be_used_are_listed_with_their_numbers(service, jpeg):
    body = enrol(service, "bob", jpeg(None), jpeg(8), b"text", jpeg(8, 1)).json()
    assert [(row["index"], row["code"]) for row in body["refused"]] == [(0, "no-face"), (2, "unreadable-image")]
    assert len(body["images"]) == 2
    nobody = problem(enrol(service, "carol", jpeg(None), b"text"), "nothing-enrolled")
    assert [row["index"] for row in nobody["refused"]] == [0, 1]
    problem(service.get("/v1/people/carol"), "unknown-person")


def test_an_id_is_taken_once(service, jpeg):
    assert enrol(service, "bob", jpeg(8)).status_code == 201
    problem(enrol(service, "bob", jpeg(4)), "person-exists")
    assert service.get("/v1/people/bob").json()["person"]["images"] == 1


def test_whoever_is_deleted_during_an_enrolment_does_not_come_back(service, jpeg, monkeypatch):
    """Another request is answered after the images of the first were embedded, and before they are stored."""
    engine = service.app.state.service.engine
    embed = engine.embed

    def meanwhile(work):
        async def embed_and_wait(crops):
            rows = await embed(crops)
            monkeypatch.setattr(engine, "embed", embed)
            await engine.in_thread(work)
            return rows

        monkeypatch.setattr(engine, "embed", embed_and_wait)

    gallery = service.app.state.service.gallery
    enrol(service, "alice", jpeg(4))
    meanwhile(lambda: gallery.delete("alice"))
    problem(service.post("/v1/people/alice/images", files=images(jpeg(4, 3))), "unknown-person")
    assert service.get("/v1/people").json()["people"] == []

    row = service.app.state.service.pipeline.embed([jpeg(8)]).embeddings
    meanwhile(lambda: gallery.enrol("alice", row))
    problem(enrol(service, "alice", jpeg(4)), "person-exists")
    assert service.get("/v1/people/alice").json()["person"]["images"] == 1


def test_who_resembles_another_is_said(service, jpeg):
    enrol(service, "bob", jpeg(8))
    body = problem(enrol(service, "robert", jpeg(8, 1)), "nothing-enrolled")
    assert [candidate["person"] for candidate in body["similar"]] == ["bob"]
    assert [row["code"] for row in body["refused"]] == ["resembles-another"]
    assert enrol(service, "robert", jpeg(8, 1), allow_similar="true").status_code == 201


def test_any_id_is_an_address(service, jpeg):
    for number, id in enumerate(("Zoë Ω", "a/b", "../etc", "50 %2F", "images", "a/images/b", "a/export")):
        assert enrol(service, id, jpeg(4 + number), allow_similar="true").status_code == 201, id
        address = f"/v1/people/{quote(id, safe='')}"
        assert service.get(address).json()["person"]["id"] == id
        assert service.get(f"{address}/export").status_code == 200
        assert service.delete(address).status_code == 204
        problem(service.get(address), "unknown-person")


def test_pages_of_people(service, place, pipeline, jpeg):
    row = pipeline.embed([jpeg(4)]).embeddings
    with Gallery.open(place, pipeline) as gallery:
        for number in range(12):
            gallery.enrol(
                f"p{number:02d}", row, name=f"Person {'Even' if number % 2 == 0 else 'Odd'}", allow_similar=True
            )

    def pages(**query):
        cursor, found = {}, []
        while True:
            body = service.get("/v1/people", params={"limit": 4, **query, **cursor}).json()
            found.append([person["id"] for person in body["people"]])
            if body["next"] is None:
                return found
            cursor = {"cursor": body["next"]}

    ids = [f"p{number:02d}" for number in range(12)]
    assert pages() == [ids[:4], ids[4:8], ids[8:]]
    assert pages(search="even") == [ids[0:8:2], ids[8::2]]
    assert pages(search="P03") == [["p03"]]
    assert pages(search="nobody") == [[]]
    for query in ({"limit": 0}, {"limit": 201}, {"limit": "x"}, {"cursor": "%%"}):
        problem(service.get("/v1/people", params=query), "invalid-request")


def test_an_export_can_be_imported(service, tmp_path, pipeline, jpeg):
    enrol(service, "alice", jpeg(4), jpeg(4, 3))
    response = service.get("/v1/people/alice/export")
    assert response.headers["content-type"].startswith("application/jsonl")
    (tmp_path / "alice.jsonl").write_bytes(response.content)
    with Gallery.open(tmp_path / "other.db", pipeline) as other:
        assert other.import_(tmp_path / "alice.jsonl").templates == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": " a"},
        {"id": "a" * 201},
        {"id": "a\nb"},
        {"id": "a", "metadata": "[1]"},
        {"id": "a", "metadata": "{"},
        {"id": "a", "retain_until": "2040-01-01T00:00:00"},
        {"id": "a", "retain_until": "soon"},
        {"id": "a", "name": ""},
        {"id": "a", "name": "x\x00y"},
    ],
)
def test_fields_that_cannot_be_stored(service, jpeg, fields):
    problem(service.post("/v1/people", files=images(jpeg(4)), data=fields), "invalid-request")
    assert service.get("/v1/people").json()["people"] == []


def test_more_images_than_allowed(client, place, jpeg):
    service = client(Settings(gallery=str(place), limits=Limits(images=2)))
    body = {"id": "a", "images": [*as_json(a=jpeg(4)).values()] * 3}
    problem(service.post("/v1/people", json=body), "invalid-request")
    body["images"] = []
    problem(service.post("/v1/people", json=body), "invalid-request")


def test_identify_at_a_threshold_and_with_several_faces(service, jpeg):
    enrol(service, "alice", jpeg(4))
    given = service.post("/v1/identify", files={"image": jpeg(8)}, data={"threshold": "-1", "top": "1"}).json()
    assert (given["faces"][0]["person"], given["derived"], given["fpir"]) == ("alice", "given", None)
    both = {"threshold": "0.3", "fpir": "0.01"}
    problem(service.post("/v1/identify", files={"image": jpeg(8)}, data=both), "invalid-request")
    problem(service.post("/v1/identify", files={"image": jpeg(None)}), "no-face")


def test_roles_and_endpoints(client, place, keys, jpeg):
    path, made = keys
    service = client(Settings(gallery=str(place), keys=str(path), limits=Limits(rate=1000)), headers={})
    allowed_for = {
        ("GET", "/v1/people"): "read",
        ("GET", "/v1/people/alice"): "read",
        ("POST", "/v1/identify"): "read",
        ("POST", "/v1/people"): "enrol",
        ("PATCH", "/v1/people/alice"): "enrol",
        ("POST", "/v1/people/alice/images"): "enrol",
        ("GET", "/v1/people/alice/export"): "admin",
        ("DELETE", "/v1/people/alice/images/x"): "admin",
        ("DELETE", "/v1/people/alice"): "admin",
    }
    roles = ["read", "enrol", "admin"]
    for (method, address), needed in allowed_for.items():
        problem(service.request(method, address), "key-required")
        for role in roles:
            response = service.request(method, address, headers={"Authorization": f"Bearer {made[role]}"})
            if roles.index(role) < roles.index(needed):
                problem(response, "role-insufficient")
            else:
                assert response.status_code in (200, 404, 415), (method, address, role, response.text)


def test_ready_only_with_a_gallery_that_can_be_read(service):
    assert service.get("/readyz").status_code == 200
    service.app.state.service.gallery.close()
    response = service.get("/readyz")
    assert response.status_code >= 500
    assert service.get("/healthz").status_code == 200


def test_a_service_without_a_gallery_has_no_people(client):
    problem(client().get("/v1/people"), "not-found")
    assert client().get("/v1/info").json()["gallery"] is False


def test_what_one_service_deletes_another_does_not_find(client, shared_place, jpeg):
    """Two services on one gallery: whoever is deleted through one is never found through the other."""
    one, other = client(Settings(gallery=shared_place)), client(Settings(gallery=shared_place))
    for number in range(4):
        writer, reader = (one, other) if number % 2 else (other, one)
        assert enrol(writer, "alice", jpeg(4)).status_code == 201
        assert reader.post("/v1/identify", files={"image": jpeg(4, 3)}).json()["faces"][0]["person"] == "alice"
        assert writer.delete("/v1/people/alice").status_code == 204
        found = reader.post("/v1/identify", files={"image": jpeg(4, 3)}).json()
        assert (found["faces"][0]["person"], found["gallery_size"]) == (None, 0)
        assert found["faces"][0]["candidates"] == []


def test_people_are_not_in_the_log(service, jpeg, caplog):
    with caplog.at_level("INFO", logger="coreface.serving"):
        enrol(service, "alice-secret", jpeg(4), name="Alice Secret")
        service.get("/v1/people/alice-secret")
        service.get("/v1/people", params={"search": "alice-secret"})
        service.delete("/v1/people/alice-secret/images/none")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "coreface.serving"]
    assert [line["route"] for line in lines] == [
        *("/v1/people", "/v1/people/{id}", "/v1/people", "/v1/people/{id}/images/{image}"),
    ]
    assert "secret" not in caplog.text.lower()
    assert "secret" not in service.get("/metrics").text
