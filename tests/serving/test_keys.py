"""Keys: shown once, stored as digests, found by id; attempts are slowed, requests are counted."""

import hashlib
import json
import stat

import pytest

from coreface.cli import main
from coreface.errors import InputError
from coreface.serving.keys import KeyFile
from coreface.serving.throttle import RateLimit, WrongKeys


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_key_is_stored_as_its_digest(tmp_path):
    path = tmp_path / "keys.json"
    text = KeyFile(path).add("door", "enrol")
    stored = json.loads(path.read_text())["keys"][0]
    assert stored["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    secret = text.split("_", 2)[2]
    assert len(secret) == 43  # 32 bytes in base64
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = KeyFile(path).find(text)
    assert (key.name, key.role) == ("door", "enrol")


def test_what_is_no_key_is_not_found(tmp_path):
    keys = KeyFile(tmp_path / "keys.json")
    text = keys.add("door", "read")
    other = keys.add("gate", "read")
    mixed = text[:16] + other[16:]  # the id of one, the secret of the other
    for wrong in (
        "",
        "cfk_",
        text[:-1],
        text + "A",
        text.upper(),
        mixed,
        text.replace("cfk", "cfx"),
        "\udcff",
        "é" * 60,
    ):
        assert keys.find(wrong) is None
    assert keys.find(text).name == "door"


def test_changes_are_seen_by_a_file_that_is_open(tmp_path):
    open_file, other = KeyFile(tmp_path / "keys.json"), KeyFile(tmp_path / "keys.json")
    first = other.add("one", "read")
    assert open_file.find(first).name == "one"
    second = other.add("two", "admin")
    assert open_file.find(second).role == "admin"
    other.revoke("one")
    assert open_file.find(first) is None
    assert [key.name for key in open_file.listed()] == ["two"]


def test_roles_include_those_below(tmp_path):
    keys = KeyFile(tmp_path / "keys.json")
    found = {role: keys.find(keys.add(role, role)) for role in ("read", "enrol", "admin")}
    allowed = {(role, wanted) for role, key in found.items() for wanted in found if key.allows(wanted)}
    assert allowed == {
        *(("read", "read"), ("enrol", "read"), ("enrol", "enrol")),
        *(("admin", "read"), ("admin", "enrol"), ("admin", "admin")),
    }


def test_what_cannot_be_a_key_file(tmp_path):
    path = tmp_path / "keys.json"
    with pytest.raises(InputError, match="coreface serve keys add"):
        KeyFile(path).listed()
    for content in ("", "[]", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"id": "a"}]}', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(InputError, match="is not a readable file of keys"):
            KeyFile(path).listed()


def test_the_command(tmp_path, capsys):
    path = str(tmp_path / "keys.json")
    assert main(["serve", "keys", "add", "door", "--role", "read", "--keys", path]) == 0
    text = capsys.readouterr().out.strip()
    assert KeyFile(tmp_path / "keys.json").find(text).name == "door"
    assert main(["serve", "keys", "list", "--keys", path]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("door\tread\t")
    assert text.split("_", 2)[2] not in listed
    for words in (["add", "door", "--role", "read"], ["add", "x", "--role", "root"], ["add", "a b", "--role", "read"]):
        assert main(["serve", "keys", *words, "--keys", path]) == 2
    assert main(["serve", "keys", "add", "x"]) == 2
    assert "--role read|enrol|admin" in capsys.readouterr().err
    assert main(["serve", "keys", "revoke", "door", "--keys", path]) == 0
    assert KeyFile(tmp_path / "keys.json").find(text) is None
    assert main(["serve", "keys", "revoke", "door", "--keys", path]) == 2


def test_wrong_keys_wait_longer_and_longer():
    clock = Clock()
    wrong = WrongKeys(clock)
    waits = []
    for _ in range(13):
        waits.append(wrong.wait("1.2.3.4"))
        clock.now += waits[-1]
        wrong.failed("1.2.3.4")
    assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert wrong.wait("5.6.7.8") == 0
    wrong.succeeded("1.2.3.4")
    assert wrong.wait("1.2.3.4") == 0


def test_failures_are_forgotten_after_a_while():
    clock = Clock()
    wrong = WrongKeys(clock)
    for _ in range(9):
        wrong.failed("a")
    clock.now += 601
    wrong.failed("a")
    assert wrong.wait("a") == 0


def test_a_rate_is_held_over_time():
    """Naive count: of requests every 0.1 s, a bucket of 4 that fills at 2 a second lets 4 + 2 t through."""
    clock = Clock()
    rate = RateLimit(2, 4, clock)
    allowed = 0
    for _ in range(100):
        allowed += rate.wait("key") == 0
        clock.now += 0.1
    assert abs(allowed - (4 + 2 * 9.9)) <= 1
    assert rate.wait("other") == 0
    assert RateLimit(2, 0.1, clock).wait("new") == 0  # one request is always possible


def test_clients_that_are_remembered_are_bounded():
    clock = Clock()
    rate, wrong = RateLimit(1, 1, clock), WrongKeys(clock)
    for number in range(10_050):
        rate.wait(str(number))
        wrong.failed(str(number))
    assert len(rate._buckets) == len(wrong._failures) == 10_000
