"""`cf.Client` against a real service: the library's own results and errors, retries, broken connections."""

import http.server
import json
import socket
import threading

import pytest

import coreface as cf


@pytest.fixture(scope="module")
def remote(server):
    return cf.Client(server.url)


def test_the_results_are_those_of_the_library(remote, pipeline, jpeg, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(4))
    decision, expected = remote.verify(tmp_path / "a.jpg", jpeg(4, 3)), pipeline.verify(jpeg(4), jpeg(4, 3))
    assert decision.score == pytest.approx(expected.score, abs=0.0011)
    assert decision.to_dict() | {"score": 0} == expected.to_dict() | {"score": 0}
    assert remote.verify(jpeg(4), jpeg(8), threshold=-1).standing == "given"
    assert [face.to_dict() for face in remote.faces(jpeg(4))] == [face.to_dict() for face in pipeline.faces(jpeg(4))]
    assert remote.info()["model"]["contract"] == pipeline.contract_digest


def test_people(remote, jpeg):
    enrolment = remote.enrol("client-alice", [jpeg(4), jpeg(None), jpeg(4, 3)], name="Alice", metadata={"room": 7})
    assert len(enrolment.templates) == 2
    assert [(refusal.index, refusal.reason) for refusal in enrolment.refused] == [(1, "no-face")]
    assert enrolment.checked
    assert remote.identify(jpeg(4, 5)).person == "client-alice"
    again = remote.enrol("client-alice", [jpeg(4, 6)], name="Alice B.")
    assert len(again.templates) == 1
    person = remote.person("client-alice")
    assert (person.name, person.metadata, person.templates) == ("Alice B.", {"room": 7}, 3)
    assert person.created.tzinfo is not None
    assert [one.id for one in remote.people("CLIENT-")] == ["client-alice"]
    remote.delete("client-alice")
    assert list(remote.people("client-")) == []
    answer = remote.identify(jpeg(4, 5))
    assert (answer.decision, answer.person) == ("unknown", None)


def test_errors_are_those_of_the_library(remote, jpeg, tmp_path):
    with pytest.raises(cf.FaceError, match="b: no face was found") as caught:
        remote.verify(jpeg(4), jpeg(None))
    assert caught.value.reason == "no face"
    with pytest.raises(cf.ImageError, match="a: unknown format"):
        remote.verify(b"text", jpeg(4))
    with pytest.raises(cf.ImageError, match=r"missing\.jpg"):
        remote.faces(tmp_path / "missing.jpg")
    with pytest.raises(cf.InputError, match="fmr"):
        remote.verify(jpeg(4), jpeg(4), fmr=2)
    with pytest.raises(cf.UnknownPersonError):
        remote.person("nobody")
    with pytest.raises(cf.ServiceError, match="none of the images can be used") as caught:
        remote.enrol("nobody", [jpeg(None)])
    assert caught.value.code == "nothing-enrolled"
    assert len(caught.value.request_id) == 32


def test_what_is_no_url_or_not_encrypted():
    for url in ("127.0.0.1:8300", "ftp://127.0.0.1", "http://", "http://example.org"):
        with pytest.raises(cf.InputError):
            cf.Client(url)
    cf.Client("https://example.org", "cfk_key")


def test_a_service_that_is_not_there():
    with pytest.raises(cf.ServiceError, match="cannot be reached") as caught:
        cf.Client("http://127.0.0.1:9").info()
    assert caught.value.code == "unreachable"


def test_keys(new_server, keys):
    path, by_role = keys
    url = new_server("--keys", str(path)).url
    assert cf.Client(url, by_role["read"]).info()["role"] == "read"
    for key, code in ((None, "key-required"), ("cfk_wrong", "key-refused")):
        with pytest.raises(cf.ServiceError) as caught:
            cf.Client(url, key).info()
        assert caught.value.code == code
    with pytest.raises(cf.ServiceError) as caught:
        cf.Client(url, by_role["read"]).delete("alice")
    assert caught.value.code == "role-insufficient"


class Moody(http.server.BaseHTTPRequestHandler):
    """Answers what the list of the server says next: a status, or None to close the connection without an answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        status = self.server.moods.pop(0)
        if status is None:
            self.close_connection = True
            return
        content = json.dumps({"code": "busy", "detail": "later"} if status >= 400 else {"fine": True}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(content)

    do_DELETE = do_GET  # noqa: N815 (what the base class calls it)

    def log_message(self, *_):
        pass


@pytest.fixture
def moody():
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    service.asked, service.moods = [], []
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service
    service.shutdown()
    service.server_close()


def test_a_busy_service_is_asked_again(moody):
    client = cf.Client(f"http://127.0.0.1:{moody.server_port}", retries=2)
    moody.moods[:] = [503, 429, 200]
    assert client.info() == {"fine": True}
    moody.moods[:] = [503, 503, 503]
    with pytest.raises(cf.ServiceError, match="later"):
        client.info()
    assert len(moody.asked) == 6


def test_a_connection_that_was_closed_meanwhile_is_replaced():
    """A service closes connections that are not used for a while; the next change must not fail for it."""
    closed = threading.Event()

    def answer():
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                while not connection.recv(65536).endswith(b"\r\n\r\n"):
                    pass
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        client = cf.Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        client.delete("alice")
        assert closed.wait(60)
        client.delete("bob")
        thread.join()


def test_only_what_changes_nothing_is_sent_twice_over_a_broken_connection(moody):
    client = cf.Client(f"http://127.0.0.1:{moody.server_port}")
    moody.moods[:] = [200, None, 200]
    assert client.info() == client.info() == {"fine": True}
    assert len(moody.asked) == 3
    moody.moods[:] = [None]
    with pytest.raises(cf.ServiceError, match="cannot be reached"):
        client.delete("alice")
    assert len(moody.asked) == 4
