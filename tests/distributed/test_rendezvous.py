"""Processes find each other in a launcher's store that still holds what an earlier attempt of theirs has left there."""

import os
import select
import subprocess
import sys

import pytest
import torch.distributed as dist

JOIN = """
import sys
from pathlib import Path
from coreface.distributed.rendezvous import joined
for line in sys.stdin:
    with joined("cpu", Path("run")) as processes:
        print(processes.gather((processes.rank, line.strip())), flush=True)
"""


@pytest.fixture
def started(tmp_path):
    """Two processes that join, and part again, for every line they are sent; the launcher's store outlives that."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",  # torchrun counts no attempt that begins because a machine has left or come
    }
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
