"""`coreface serve` as a process: real connections, slow and broken ones, the end, several workers, TLS."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from coreface.cli import main


def ask(server, method="GET", path="/healthz", body=None, headers=None, secure=None):
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    options = {"context": secure} if secure else {}
    connection = kind("127.0.0.1", server.port, timeout=60, **options)
    try:
        connection.request(method, path, body, {"X-Coreface": "1", **(headers or {})})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


JSON = {"Content-Type": "application/json"}


def images(*contents):
    return {"images": [base64.b64encode(content).decode() for content in contents]}


def form(**images):
    parts = [
        f'--frame\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in images.items()
    ]
    return b"".join(parts) + b"--frame--\r\n", {"Content-Type": "multipart/form-data; boundary=frame"}


def raw(server, content, finish=True):
    """Send bytes as they are; return all that comes back until the service closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with contextlib.suppress(OSError):  # the service may answer and close before it has read everything
            connection.sendall(content)
            if finish:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return received


def test_it_answers(server, jpeg):
    assert server.url.startswith("http://127.0.0.1:")
    assert "no keys" in server.lines[-1] or any("no keys" in line for line in server.lines)
    assert ask(server) == (200, {"status": "ok"})
    status, body = ask(server, "POST", "/v1/verify", *form(a=jpeg(4), b=jpeg(4, 3)))
    assert (status, body["match"]) == (200, True)


def test_a_body_that_does_not_arrive_is_given_up(server):
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Coreface: 1\r\nContent-Length: 1000\r\n"
    answer = raw(server, head + b"Content-Type: application/json\r\n\r\n{", finish=False)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"body-too-slow"' in answer
    assert ask(server)[0] == 200


def test_what_is_too_large_is_refused_before_it_arrives(server):
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Coreface: 1\r\nContent-Length: 999999999\r\n"
    answer = raw(server, head + b"Content-Type: application/json\r\n\r\n", finish=False)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"body-too-large"' in answer


@pytest.mark.parametrize(
    "content",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Coreface: 1\r\nContent-Length: 50\r\n"
        b"Content-Type: application/json\r\n\r\n{",
    ],
)
def test_broken_requests_do_not_end_it(server, content):
    answer = raw(server, content)
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert ask(server)[0] == 200


def test_many_at_once_get_the_answers_of_one_alone(server, jpeg):
    bodies = [form(a=jpeg(k), b=jpeg(k + other, 3)) for k in range(3) for other in (0, 1)]
    alone = [ask(server, "POST", "/v1/verify", *body) for body in bodies]
    assert [status for status, _ in alone] == [200] * 6
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(lambda body: ask(server, "POST", "/v1/verify", *body), bodies * 4))
    for (status, one), (_, expected) in zip(together, alone * 4, strict=True):
        assert status == 200
        assert one["match"] == expected["match"]
        assert one["score"] == pytest.approx(expected["score"], abs=0.00101)  # the last decimal may fall differently


def test_requests_that_are_being_answered_are_finished(new_server, jpeg):
    """The service is told to stop while half of a request has been sent; the rest still gets its answer."""
    server = new_server()
    body, headers = form(image=jpeg(4))
    head = f"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Coreface: 1\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "Expect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # the application is reading
        server.process.send_signal(signal.SIGTERM)
        connection.sendall(body)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b'"faces"' in received
    assert server.process.wait(60) in (0, 128 + signal.SIGTERM)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


@contextlib.contextmanager
def sigint_ignored():
    """As a shell without job control starts processes in the background: they inherit it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_temporary_gallery_ends_with_the_service(new_server, tmp_path, monkeypatch, number, status):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with sigint_ignored():
        server = new_server()
    # At once: uvicorn has not begun to listen to signals.
    assert list(tmp_path.glob("coreface-gallery-*/people.db"))
    assert server.stop(number) == status
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_signal_while_the_service_is_opened_ends_it(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "coreface", "serve", "--port", "0", "--workers", workers]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert "no gallery was named" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(60) == 143
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_have_not_begun_are_ended(new_server, tmp_path, monkeypatch, number):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = new_server("--workers", "2")
    assert server.stop(number) in (0, 128 + number)
    assert list(tmp_path.iterdir()) == []


def test_a_request_beyond_those_at_once_comes_back_later(new_server):
    server = new_server("--requests", "1")
    head = "POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Coreface: 1\r\nContent-Length: 100\r\n"
    head += "Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        status, body = ask(server, path="/v1/info")
        assert (status, body["code"]) == (503, "busy")
        assert ask(server)[0] == 200  # whether it lives is answered always
    # The connection is closed: its place becomes free.
    done = threading.Event()

    def until_free():
        while ask(server, path="/v1/info")[0] != 200:
            pass
        done.set()

    threading.Thread(target=until_free, daemon=True).start()
    assert done.wait(60)


def test_bad_starts_are_one_line(capsys, tmp_path, server):
    for words, expected in (
        (["--model", "nothing"], "nothing does not exist"),
        (["--keys", str(tmp_path / "none.json")], "coreface serve keys add"),
        (["--host", "0.0.0.0"], "there are no keys"),
        (["--port", str(server.port)], "cannot listen at 127.0.0.1"),
        (["--tls-cert", __file__, "--tls-key", __file__], "expected a certificate"),
        (["--images", "0"], "images is 0"),
        (["--role", "read"], "expected at most the place of a gallery"),
    ):
        assert main(["serve", *words]) == 2
        err = capsys.readouterr().err
        assert err.startswith("coreface: ")
        assert expected in err


def workers_of(server):
    """Return the ids of the worker processes."""
    lines = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "spawn_main" in line]


@pytest.mark.slow
def test_workers_share_the_work_and_are_replaced(new_server, jpeg):
    server = new_server("--workers", "2")
    body = form(a=jpeg(4), b=jpeg(4, 3))
    for _ in range(4):
        assert ask(server, "POST", "/v1/verify", *body)[1]["match"] is True
    # http.client would try to read the numbers as JSON
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'coreface_requests_total{method="POST",route="/v1/verify",status="200"} 4.0' in text
    before = workers_of(server)
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    answered = False
    until = time.monotonic() + 120
    while not answered and time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answered = ask(server, "POST", "/v1/verify", *body)[1]["match"] is True
    assert answered
    assert not set(workers_of(server)) & set(before)
    assert server.stop() in (0, 128 + signal.SIGTERM)


@pytest.mark.slow
def test_tls(new_server, tmp_path, keys):
    import ssl

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    made = subprocess.run(["openssl", "req", *words, "-keyout", key, "-out", cert], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    path, by_role = keys
    server = new_server("--tls-cert", str(cert), "--tls-key", str(key), "--keys", str(path), "--host", "0.0.0.0")
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    assert ask(server, path="/v1/info", secure=context)[0] == 401
    status, body = ask(server, path="/v1/info", headers={"Authorization": f"Bearer {by_role['read']}"}, secure=context)
    assert (status, body["role"]) == (200, "read")


@pytest.mark.slow
def test_the_database_is_killed_and_comes_back(new_server, postgres, jpeg):
    """Every answer meanwhile is right, or the problem that says to try again; nothing needs to be started anew."""
    server = new_server(postgres.empty_database("killed"))
    enrolled = ask(server, "POST", "/v1/people", json.dumps({"id": "alice", **images(jpeg(4))}), JSON)
    assert enrolled[0] == 201
    answers, done = [], threading.Event()

    def search():
        while not done.is_set():
            status, body = ask(server, "POST", "/v1/identify", *form(image=jpeg(4, 3)))
            answers.append((status, body["faces"][0]["person"] if status == 200 else body["code"]))

    def until(status):
        while answers[-1][0] != status:
            assert threads[0].is_alive()
            done.wait(0.05)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        while not answers:
            done.wait(0.05)
        postgres.kill()
        until(503)
        assert ask(server)[0] == 200
        assert ask(server, path="/readyz")[0] == 503
        status, body = ask(server, "POST", "/v1/people", json.dumps({"id": "bob", **images(jpeg(8))}), JSON)
        assert (status, body["code"], body["status"]) == (503, "storage-failed", 503)
        postgres.start()
        until(200)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {(200, "alice"), (503, "storage-failed")}
    assert ask(server, path="/readyz")[0] == 200
    assert [person["id"] for person in ask(server, path="/v1/people")[1]["people"]] == ["alice"]
    assert ask(server, "POST", "/v1/people", json.dumps({"id": "bob", **images(jpeg(8))}), JSON)[0] == 201
