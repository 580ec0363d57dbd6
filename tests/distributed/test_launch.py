"""What the environment says of a process, and what becomes of an environment that says nonsense."""

import os
import signal
import threading
from pathlib import Path

import pytest

from coreface.distributed.launch import Launch, ignore_termination, is_leader, launched, resume_command
from coreface.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")


@pytest.fixture(autouse=True)
def nobody_launched(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch, *values):
    for name, value in zip(NAMES, values, strict=False):
        monkeypatch.setenv(name, value)


def test_one_process_without_a_launcher(monkeypatch):
    assert launched() == Launch(0, 1, 0, 0)
    monkeypatch.setenv("RANK", "3")  # alone it says nothing
    assert launched() == Launch()
    assert is_leader()


def test_what_torchrun_sets(monkeypatch):
    put(monkeypatch, "5", "8", "1", "2")
    assert launched() == Launch(5, 8, 1, 2)
    assert not is_leader()
    put(monkeypatch, "0")
    assert is_leader()


def test_a_run_is_continued_by_as_many_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    run = Path("runs/mine")
    assert resume_command(run) == "coreface train --resume runs/mine"
    assert resume_command(run, 4) == "torchrun --nproc-per-node 4 -m coreface train --resume runs/mine"
    put(monkeypatch, "0", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resume_command(run) == "torchrun --nproc-per-node 2 -m coreface train --resume runs/mine"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # one on each of two machines
    assert resume_command(run) == "torchrun ... -m coreface train --resume runs/mine"


def test_the_command_can_be_pasted():
    assert resume_command(Path("my runs/it's")).endswith("""--resume 'my runs/it'"'"'s'""")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("one", "2"), "RANK='one'"),
        (("0", "two"), "WORLD_SIZE='two'"),
        (("-1", "2"), "RANK='-1'"),
        (("0", ""), "WORLD_SIZE=''"),
        (("0", "2", "x"), "LOCAL_RANK='x'"),
        (("2", "2"), "RANK=2 and WORLD_SIZE=2"),
        (("0", "0"), "RANK=0 and WORLD_SIZE=0"),
    ],
)
def test_nonsense_is_named(monkeypatch, values, words):
    put(monkeypatch, *values)
    with pytest.raises(InputError) as caught:
        launched()
    assert words in str(caught.value)
    assert "torchrun sets" in str(caught.value)
    assert is_leader()  # somebody has to say it


def test_ignored_termination_kills_nobody():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        thread = threading.Thread(target=ignore_termination)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # only the main thread may set a handler
        ignore_termination()
        os.kill(os.getpid(), signal.SIGTERM)
        ignore_termination()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
