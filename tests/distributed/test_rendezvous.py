"""Processes find each other in a launcher's store that still holds what an earlier attempt of theirs has left there."""

import os
import select
import signal
import subprocess
import sys

import pytest
import torch.distributed as dist

from coreface.cli import main

JOIN = """
import sys
from pathlib import Path
from coreface.distributed.rendezvous import joined
for line in sys.stdin:
    with joined("cpu", Path("run")) as processes:
        print(processes.gather((processes.rank, line.strip())), flush=True)
"""


@pytest.fixture
def shared():
    """The environment of two processes whose launcher has a store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",  # torchrun counts no attempt that begins because a machine has left or come
    }
    del store


@pytest.fixture
def started(tmp_path, shared):
    """Two processes that join, and part again, for every line they are sent; the launcher's store outlives that."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN], env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}, **pipes
        )
        for rank in ("0", "1")
    ]
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


LIMIT = 60  # seconds, for processes that never meet


def said(processes):
    lines = []
    for process in processes:
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        lines.append(process.stdout.readline() if ready else "nothing")
    return lines


def send(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_what_an_earlier_attempt_left_leads_nobody_astray(started):
    for process in started:
        send(process, "first")
    assert said(started) == ["[(0, 'first'), (1, 'first')]\n"] * 2
    # Process 1 comes first, and finds the address that process 0 had in the first attempt.
    send(started[1], "second")
    with pytest.raises(subprocess.TimeoutExpired):
        started[1].wait(timeout=1)
    send(started[0], "second")
    assert said(started) == ["[(0, 'second'), (1, 'second')]\n"] * 2


@pytest.fixture
def fails(shared, monkeypatch, capfd):
    """Run a command that fails before the processes have met, as a process of this rank; return its message."""

    def run(rank, **changes):
        for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank} | changes).items():
            monkeypatch.setenv(name, value)
        assert main(["train", "missing.yaml"]) == 2
        return capfd.readouterr().err

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


def test_the_first_to_fail_before_the_meeting_says_why(fails):
    """Also if it is not rank 0, which the launcher may end before it fails itself."""
    assert "missing.yaml" in fails("1")
    assert fails("0") == ""
    again = {"TORCHELASTIC_RESTART_COUNT": "1"}
    assert "missing.yaml" in fails("0", **again)
    assert fails("1", **again) == ""


def test_without_the_store_of_torchrun_rank_0_says_why(fails):
    other = {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    assert fails("1", **other) == ""
    assert "missing.yaml" in fails("0", **other)
