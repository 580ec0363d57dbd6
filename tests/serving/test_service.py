"""The service in this process: answers equal the library's, errors are typed, access and limits."""

import json
import logging

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.images.preprocessing import Preprocessing
from coreface.recognition.pipeline import FacePipeline
from coreface.serving.service import open_pipeline
from coreface.serving.settings import Limits, Settings
from support.foreign_onnx import SIZE, colour_sensitive
from support.serving import as_json, problem


def test_verify_answers_what_the_library_says(client, pipeline, jpeg):
    service = client()
    for one, other, options in (
        ((4, 0), (4, 3), {}),
        ((4, 0), (8, 1), {"fmr": 0.1}),
        ((4, 0), (4, 3), {"fmr": 1e-6}),
        ((4, 0), (4, 3), {"threshold": 0.9}),
    ):
        a, b = jpeg(*one), jpeg(*other)
        expected = pipeline.verify(a, b, **options)
        form = service.post("/v1/verify", files={"a": ("a.jpg", a), "b": ("b.jpg", b)}, data=options)
        assert form.status_code == 200, form.text
        body = form.json()
        assert body == service.post("/v1/verify", json=as_json(a=a, b=b) | options).json()
        assert body["match"] is expected.match
        assert body["score"] == round(expected.score, 3)
        for name in ("threshold", "fmr", "fmr_low", "fmr_high", "standing"):
            assert body[name] == getattr(expected, name)
        assert [photograph["face"] for photograph in body["photographs"]] == expected.to_dict()["faces"]
        assert {(photograph["width"], photograph["height"]) for photograph in body["photographs"]} == {(320, 240)}
        assert body["score_fmr"] == pipeline.calibration.fmr([body["score"]])[0]


def test_detect_answers_all_faces(client, pipeline, jpeg):
    service = client()
    body = service.post("/v1/detect", files={"image": jpeg(4)}).json()
    assert (body["width"], body["height"]) == (320, 240)
    assert body["faces"] == [face.to_dict() for face in pipeline.faces(jpeg(4))]
    assert service.post("/v1/detect", json=as_json(image=jpeg(None))).json()["faces"] == []


def test_embeddings_only_where_they_are_allowed(client, pipeline, jpeg):
    problem(client().post("/v1/embed", files={"image": jpeg(4)}), "not-found")
    body = client(Settings(allow_embeddings=True)).post("/v1/embed", files={"image": jpeg(4)}).json()
    np.testing.assert_allclose(body["embedding"], pipeline.embed([jpeg(4)]).embeddings[0], atol=1e-6)
    assert body["contract"] == pipeline.contract_digest


def test_info_describes_the_calibration(client, pipeline):
    body = client().get("/v1/info").json()
    assert body["model"]["contract"] == pipeline.contract_digest
    calibration = body["calibration"]
    assert calibration["impostor_pairs"] == pipeline.calibration.impostor.count
    for row in calibration["thresholds"]:
        assert row["threshold"] == pipeline.calibration.threshold(row["target"]).threshold
    edges = calibration["scores"]["edges"]
    for name, tail in (("genuine", pipeline.calibration.genuine), ("impostor", pipeline.calibration.impostor)):
        shares = calibration["scores"][name]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        above = sum(share for share, left in zip(shares, edges, strict=False) if left >= 0.4)
        assert above == pytest.approx(tail.reached(np.array([0.4]))[0] / tail.count, abs=1e-4)
    assert any("liveness" in text for text in body["not_done"])
    assert body["role"] == "admin"


def test_without_a_calibration_a_threshold_is_needed(pipeline, jpeg):
    from starlette.testclient import TestClient

    from coreface.serving.app import create_app
    from coreface.serving.service import Service

    bare = FacePipeline(pipeline.encoder, pipeline.detector)
    app = create_app(Service.open(Settings(), bare))
    with TestClient(app, base_url="http://localhost", headers={"X-Coreface": "1"}) as service:
        files = {"a": jpeg(4), "b": jpeg(4, 3)}
        problem(service.post("/v1/verify", files=files), "no-calibration")
        body = service.post("/v1/verify", files=files, data={"threshold": "0.3"}).json()
        assert (body["match"], body["standing"], body["score_fmr"]) == (True, "given", None)
        assert service.get("/v1/info").json()["calibration"] is None


def test_errors_of_images_name_the_field(client, jpeg):
    service = client()
    good, far = jpeg(4), jpeg(4, side=36)
    webpage = b"<!doctype html><p>not found"
    for name, data, code in (
        ("b", jpeg(None), "no-face"),
        ("a", far, "small-face"),
        ("a", b"", "unreadable-image"),
        ("b", good[: len(good) // 2], "unreadable-image"),
        ("b", webpage, "unreadable-image"),
    ):
        files = {"a": ("x", good), "b": ("x", good), name: ("x", data)}
        body = problem(service.post("/v1/verify", files=files), code)
        assert body["field"] == name, body


def test_only_the_only_face(client, jpeg):
    picture = np.concatenate([cv2.imdecode(np.frombuffer(jpeg(k), np.uint8), 1) for k in (4, 8)], axis=1)
    two = cv2.imencode(".png", picture)[1].tobytes()
    service = client()
    body = service.post("/v1/verify", files={"a": two, "b": jpeg(4)}, data={"face": "only"})
    assert problem(body, "several-faces")["field"] == "a"
    assert service.post("/v1/verify", files={"a": two, "b": jpeg(4)}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"fmr": "0"}, "fmr"),
        ({"fmr": "nan"}, "fmr"),
        ({"fmr": "1e-3", "threshold": "0.3"}, "body"),
        ({"threshold": "1.1"}, "threshold"),
        ({"face": "all"}, "face"),
        ({"path": "/etc/passwd"}, "path"),
        ({"fmr": ["0.1", "0.2"]}, "fmr"),
    ],
)
def test_fields_that_are_not_valid(client, fields, field):
    response = client().post("/v1/verify", files={"a": b"x", "b": b"x"}, data=fields)
    body = problem(response, "invalid-request")
    assert field in (body["field"], *(row["field"] for row in body.get("errors", ())))


def test_urls_and_paths_are_not_fetched(client, tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg(4))
    for text in (
        "http://localhost/a.jpg",
        f"file://{tmp_path}/a.jpg",
        str(tmp_path / "a.jpg"),
        "data:image/png;base64,AA",
    ):
        body = problem(client().post("/v1/verify", json={"a": text, "b": text}), "invalid-request")
        assert {row["field"] for row in body["errors"]} == {"a", "b"}
        assert text not in json.dumps(body)


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"{", "application/json", "malformed-request"),
        (b"\xff", "application/json", "malformed-request"),
        (b"[" * 100_000, "application/json", "malformed-request"),
        (b'{"image": NaN}', "application/json", "malformed-request"),
        (b'{"image": ' + b"9" * 5000 + b"}", "application/json", "malformed-request"),
        (b"[]", "application/json", "invalid-request"),
        (b'{"image": 1}', "application/json", "invalid-request"),
        (b"{}", "application/json", "invalid-request"),
        (b"image=x", "application/x-www-form-urlencoded", "unsupported-media-type"),
        (b"", "", "unsupported-media-type"),
        (b"--x--", "multipart/form-data", "malformed-request"),
        (b"nothing", "multipart/form-data; boundary=x", "malformed-request"),
        (b"--x\r\n\r\nvalue\r\n--x--", "multipart/form-data; boundary=x", "malformed-request"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", "malformed-request"),
    ],
)
def test_bodies_that_cannot_be_parsed(client, content, kind, code):
    problem(client().post("/v1/detect", content=content, headers={"Content-Type": kind}), code)


def test_too_many_fields_and_files(client):
    service = client(Settings(limits=Limits(images=2)))
    problem(
        service.post("/v1/detect", data={f"f{k}": "1" for k in range(10_000)}, files={"image": b"x"}),
        "malformed-request",
    )
    problem(service.post("/v1/detect", files=[("image", b"x")] * 3), "malformed-request")


def test_limits_hold_before_anything_is_decoded(client, jpeg):
    service = client(Settings(limits=Limits(image_bytes=20_000, image_pixels=100_000, request_bytes=60_000)))
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    heavy = cv2.imencode(".png", noise)[1].tobytes()
    assert 20_000 < len(heavy) < 60_000
    problem(service.post("/v1/detect", files={"image": heavy}), "image-too-large")
    bomb = cv2.imencode(".png", np.zeros((1000, 1000, 3), np.uint8))[1].tobytes()
    assert len(bomb) < 20_000
    assert "1000 x 1000" in problem(service.post("/v1/detect", files={"image": bomb}), "image-too-large")["detail"]
    problem(
        service.post("/v1/detect", content=b"x" * 60_001, headers={"Content-Type": "application/json"}),
        "body-too-large",
    )

    def pieces():
        for _ in range(7):
            yield b" " * 10_000

    problem(
        service.post("/v1/detect", content=pieces(), headers={"Content-Type": "application/json"}), "body-too-large"
    )
    assert service.post("/v1/detect", files={"image": jpeg(None)}).status_code == 200


def test_a_claim_of_a_huge_image_allocates_nothing(client):
    header = b"P6 60000 60000 255\n" + b"\0" * 100
    problem(client().post("/v1/detect", files={"image": header}), "image-too-large")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8300", "localhost.evil.example", "10.0.0.1", "", "[::1"]
)
def test_a_rebound_name_is_refused(client, host):
    for path in ("/", "/v1/info", "/healthz"):
        problem(client().get(path, headers={"Host": host}), "foreign-host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8300", "127.0.0.1:8300", "[::1]:8300", "127.0.0.2"])
def test_names_of_this_machine_are_taken(client, host):
    assert client().get("/v1/info", headers={"Host": host}).status_code == 200
    assert client().get("/v1/info", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "https://localhost:8300"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_pages_of_other_origins_are_refused(client, headers, jpeg):
    problem(client().get("/v1/info", headers=headers), "foreign-origin")
    problem(client().post("/v1/detect", files={"image": jpeg(4)}, headers=headers), "foreign-origin")
    preflight = client().options(
        "/v1/detect",
        headers=headers | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-coreface"},
    )
    assert not any(name.startswith("access-control") for name in preflight.headers)


def test_requests_that_change_or_compute_need_the_header(client, jpeg):
    service = client(headers={})
    problem(service.post("/v1/detect", files={"image": jpeg(4)}), "header-required")
    assert service.get("/v1/info").status_code == 200


def test_every_answer_carries_the_security_headers(client):
    service = client()
    for path in ("/", "/static/page.js", "/v1/info", "/nowhere", "/openapi.json"):
        headers = service.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert len(headers["x-request-id"]) == 32
    assert service.get("/v1/info").headers["cache-control"] == "no-store"


def test_unknown_addresses_and_methods(client):
    problem(client().get("/v1/nothing"), "not-found")
    problem(client().get("/static/../app.py"), "not-found")
    problem(client().get("/static/%2e%2e/app.py"), "not-found")
    response = client().delete("/v1/verify")
    problem(response, "method-not-allowed")
    assert response.headers["allow"] == "POST"
    assert client().post("/").headers["allow"] == "GET"


def test_nothing_of_a_person_is_in_the_log(client, jpeg, caplog, keys):
    path, made = keys
    with caplog.at_level(logging.INFO, logger="coreface.serving"):
        service = client(Settings(keys=str(path)), headers={"Authorization": f"Bearer {made['read']}"})
        body = as_json(a=jpeg(4), b=jpeg(4, 3))
        assert service.post("/v1/verify?secret=alice", json=body, headers={"X-Request-ID": "mine-1"}).status_code == 200
        assert service.get("/v1/people/alice", headers={"X-Request-ID": "two\twords"}).status_code == 404
    lines = [json.loads(record.message) for record in caplog.records if record.name == "coreface.serving"]
    assert [line["route"] for line in lines] == ["/v1/verify", "other"]
    assert [line["client_request"] for line in lines] == ["mine-1", None]
    assert lines[0]["key"] == made["read"].split("_")[1]
    assert len({line["request"] for line in lines}) == 2
    text = caplog.text
    for secret in ("alice", made["read"].split("_", 2)[2], body["a"][:40], "two\twords"):
        assert secret not in text


def test_a_failure_is_typed_and_its_message_stays_inside(client, pipeline, monkeypatch, jpeg, caplog):
    service = client()
    secret = "alice"

    def fail(*_, **__):
        raise RuntimeError(secret)

    monkeypatch.setattr(pipeline.detector, "detect", fail)
    service.app.state.service.engine._new_detector = None
    body = problem(service.post("/v1/detect", files={"image": jpeg(4)}), "internal-error")
    assert "alice" not in json.dumps(body)
    assert body["request_id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert "alice" not in caplog.text


def test_keys_open_what_their_role_allows(client, keys, jpeg):
    path, made = keys
    service = client(Settings(keys=str(path), allow_embeddings=True), headers={})
    calls = {
        "/v1/info": lambda headers: service.get("/v1/info", headers=headers),
        "/metrics": lambda headers: service.get("/metrics", headers=headers),
        "/v1/detect": lambda headers: service.post("/v1/detect", files={"image": jpeg(4)}, headers=headers),
        "/v1/embed": lambda headers: service.post("/v1/embed", files={"image": jpeg(4)}, headers=headers),
    }
    for path, call in calls.items():
        assert call({}).headers["www-authenticate"].startswith("Bearer")
        problem(call({}), "key-required")
        problem(call({"Authorization": f"Basic {made['read']}"}), "key-required")
        problem(call({"Authorization": "Bearer cfk_wrong"}), "key-refused")
        for role, key in made.items():
            response = call({"Authorization": f"Bearer {key}"})
            if path == "/v1/embed" and role != "admin":
                problem(response, "role-insufficient")
            else:
                assert response.status_code == 200
    assert (
        service.get("/").status_code == service.get("/healthz").status_code == service.get("/readyz").status_code == 200
    )
    assert service.get("/v1/info", headers={"Authorization": f"Bearer {made['enrol']}"}).json()["role"] == "enrol"


def test_attempts_with_wrong_keys_are_slowed(client, keys):
    service = client(Settings(keys=str(keys[0])), headers={"Authorization": "Bearer cfk_wrong"})
    for _ in range(5):
        problem(service.get("/v1/info"), "key-refused")
    service.get("/v1/info")
    response = service.get("/v1/info")
    problem(response, "too-many-attempts")
    assert int(response.headers["retry-after"]) >= 1


def test_a_key_has_a_rate(client, keys):
    path, made = keys
    service = client(Settings(keys=str(path), limits=Limits(rate=0.001)))
    headers = {"Authorization": f"Bearer {made['read']}"}
    assert service.get("/v1/info", headers=headers).status_code == 200
    response = service.get("/v1/info", headers=headers)
    problem(response, "rate-limited")
    assert int(response.headers["retry-after"]) > 100
    assert service.get("/v1/info", headers={"Authorization": f"Bearer {made['enrol']}"}).status_code == 200


def test_only_a_proxy_is_believed(client, keys):
    """Wrong keys from many forwarded addresses count as one address, unless a proxy says so."""
    for behind, code in ((False, "too-many-attempts"), (True, "key-refused")):
        service = client(Settings(keys=str(keys[0]), behind_proxy=behind), headers={"Authorization": "Bearer cfk_no"})
        for number in range(6):
            service.get("/v1/info", headers={"X-Forwarded-For": f"1.2.3.4, 10.0.0.{number}"})
        problem(service.get("/v1/info", headers={"X-Forwarded-For": "1.2.3.4, 10.0.1.1"}), code)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "there are no keys"),
        ({"host": "::"}, "there are no keys"),
        ({"host": "example.org"}, "there are no keys"),
        ({"host": "0.0.0.0", "keys": "k"}, "unencrypted"),
        ({"behind_proxy": True}, "needs --keys"),
        ({"tls_cert": "c"}, "belong together"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_what_would_be_open_is_refused(options, words):
    with pytest.raises(cf.InputError, match=words):
        Settings(**options)


def test_what_is_closed_is_taken():
    for options in ({"host": "localhost"}, {"host": "::1"}, {"host": "0.0.0.0", "keys": "k", "behind_proxy": True}):
        Settings(**options)
    made = Settings(host="0.0.0.0", keys="k", tls_cert="c", tls_key="k", limits=Limits(images=3))
    assert Settings.from_json(made.to_json()) == made
    with pytest.raises(cf.InputError, match="images is 0"):
        Limits(images=0)


def test_the_openapi_document_names_every_code_path(client):
    document = client(Settings(allow_embeddings=True)).get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/info",
        "/v1/detect",
        "/v1/verify",
        "/v1/embed",
    }
    verify = document["paths"]["/v1/verify"]["post"]
    assert set(verify["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "400", "401", "403", "408", "413", "415", "421", "422", "429", "500", "503"} <= set(
        verify["responses"]
    )
    schemas = set(document["components"]["schemas"])
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {text.split('"')[0] for text in references} <= schemas


def test_metrics_count_what_was_answered(client, jpeg):
    service = client()
    for _ in range(3):
        service.post("/v1/verify", files={"a": jpeg(4), "b": jpeg(4, 3)})
    service.get("/v1/people/alice")
    text = service.get("/metrics").text
    assert 'coreface_requests_total{method="POST",route="/v1/verify",status="200"} 3.0' in text
    assert "coreface_batch_crops_sum 6.0" in text
    assert "alice" not in text


def test_a_foreign_model_with_its_description(tmp_path):
    pytest.importorskip("onnx")
    path = colour_sensitive(tmp_path / "m.onnx", "RGB")
    said = tmp_path / "said.json"
    said.write_text(json.dumps(Preprocessing(SIZE, "BGR").to_dict()))
    pipeline = open_pipeline(Settings(model=str(path), preprocessing=str(said), detector="whole"))
    assert pipeline.encoder.preprocessing == Preprocessing(SIZE, "BGR")
