"""Owners of runs: one at a time, dead ones are replaced, wherever they were."""

import json
import os
import subprocess
import sys
import threading

import pytest

from coreface.errors import RunError
from coreface.studies import ownership
from coreface.studies.ownership import live_owner, owned

OWN = """
import sys, time
from pathlib import Path
from coreface.studies.ownership import owned
with owned(Path(sys.argv[1]), print):
    print("owned", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owners" / "run.json"


def fail(reason):
    raise AssertionError(reason)


@pytest.fixture
def other(path):
    """Another process of this machine that owns the run."""
    path.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", OWN, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "owned\n"
        yield process
        process.kill()


def test_a_run_is_owned_while_the_block_lasts(path):
    with owned(path, fail):
        assert live_owner(path).startswith(f"process {os.getpid()} on ")
        with pytest.raises(RunError, match="being worked on by process"), owned(path, fail):
            pass
    assert live_owner(path) is None
    assert list(path.parent.iterdir()) == []


def test_another_process_keeps_it_until_it_dies(path, other):
    assert live_owner(path).startswith(f"process {other.pid} on ")
    with pytest.raises(RunError, match=f"process {other.pid}"), owned(path, fail):
        pass
    other.kill()
    other.wait()
    assert live_owner(path) is None
    with owned(path, fail):
        assert live_owner(path).startswith(f"process {os.getpid()}")


def elsewhere(path, age):
    """An owner on another machine whose last sign of life is so many seconds old."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": "elsewhere", "host": "elsewhere", "process": 1, "began": "2"}))
    now = path.stat().st_mtime
    os.utime(path, (now, now - age))


def test_an_owner_on_another_machine_lives_as_long_as_it_says_so(path):
    elsewhere(path, ownership.DEAD_AFTER / 2)
    assert live_owner(path) == "process 1 on elsewhere"
    with pytest.raises(RunError, match="process 1 on elsewhere"), owned(path, fail):
        pass
    elsewhere(path, 2 * ownership.DEAD_AFTER)
    assert live_owner(path) is None
    with owned(path, fail):
        assert live_owner(path).startswith(f"process {os.getpid()}")


def test_a_process_of_the_same_number_is_not_the_owner(path):
    """After a restart of the machine, numbers of processes are used again."""
    path.parent.mkdir()
    began = ownership._began(os.getpid())
    text = {"machine": ownership.machine(), "host": "here", "process": os.getpid(), "began": began}
    path.write_text(json.dumps(text))
    assert live_owner(path) == f"process {os.getpid()} on here"
    path.write_text(json.dumps({**text, "began": "1"}))
    assert live_owner(path) is None


def test_whoever_lost_a_run_is_told(path, monkeypatch):
    monkeypatch.setattr(ownership, "RENEWED", 0.01)
    told = threading.Event()
    reasons = []

    def lost(reason):
        reasons.append(reason)
        told.set()

    with owned(path, lost):
        elsewhere(path, 0)
        assert told.wait(30)
    assert "another owner" in reasons[0]
    assert live_owner(path) == "process 1 on elsewhere"  # what is another's stays


def test_of_many_that_find_a_dead_owner_one_takes_over(path):
    elsewhere(path, 2 * ownership.DEAD_AFTER)
    winners, entered, done = [], threading.Barrier(8), threading.Event()

    def take():
        entered.wait()
        try:
            with owned(path, fail):
                winners.append(threading.get_ident())
                done.wait(30)
        except RunError:
            pass

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 1:
        threads[0].join(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"process": "x"}'])
def test_a_damaged_file_counts_by_its_age(path, content):
    path.parent.mkdir()
    path.write_text(content)
    assert live_owner(path) is not None
    now = path.stat().st_mtime
    os.utime(path, (now, now - 2 * ownership.DEAD_AFTER))
    with owned(path, fail):
        pass
