"""What processes tell each other, how they meet, and which of them speaks when one fails."""

import socket

import pytest
import torch

from coreface.cli import _say
from coreface.distributed import rendezvous
from coreface.distributed.launch import Launch
from coreface.distributed.processes import Processes
from coreface.distributed.rendezvous import joined
from coreface.errors import CoreFaceError, ProcessLostError, RecipeError
from support import run_jobs as jobs
from support.gloo import Processes as Started


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    made = Started(3, tmp_path_factory.mktemp("gloo"))
    yield made
    made.close()


def test_one_process_needs_nobody():
    alone = Processes()
    assert (alone.rank, alone.world_size, alone.group, alone.is_leader) == (0, 1, None, True)
    assert alone.with_new_group() is alone
    assert alone.maximum(3, -1) == [3, -1]
    assert alone.gather("x") == ["x"]
    with pytest.raises(ZeroDivisionError):
        alone.on_leader(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        alone.on_all(lambda: 1 // 0)


def test_three_processes_talk(three):
    for rank, said in enumerate(three(jobs.talk, [("a",), ("b",), ("c",)])):
        assert said["place"] == (rank, 3, rank == 0)
        assert said["maximum"] == [2, 0, 5]
        assert said["gathered"] == [(0, "a"), (1, "b"), (2, "c")]
        assert said["on_all"] == [0, 1, 4]
        assert said["on_leader"] == "said by 0"
        assert said["averaged"] == [[[2.0] * 3] * 2, 10.0, [1.5] * 4, [rank, 7]]  # no mean of whole numbers
        assert said["with_new_group"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("where", "on_all", "on_leader"),
    [
        ([0], "of process 0", "of process 0"),
        ([2], "of process 2", 0),
        ([1, 2], "of process 1", 0),
        ([], [0, 1, 2], 0),
    ],
)
def test_what_one_raises_all_raise(three, where, on_all, on_leader):
    assert three(jobs.raising, [(where,)] * 3) == [[on_all, on_leader, [0, 1, 2]]] * 3


@pytest.mark.parametrize(
    ("silent", "rank", "speaks"), [(None, "0", True), (None, "1", False), (False, "1", True), (True, "0", False)]
)
def test_the_first_to_fail_alone_speaks(monkeypatch, capsys, silent, rank, speaks):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = CoreFaceError("why")
    error.silent = silent
    _say(error)
    assert capsys.readouterr().err == ("coreface: why\n" if speaks else "")


@pytest.mark.parametrize(("local_rank", "silent"), [("0", False), ("1", True)])
def test_who_waits_in_vain_says_so_once_a_machine(monkeypatch, tmp_path, local_rank, silent):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": local_rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rendezvous, "_TIMEOUT", 0.1)
    # The other one is counted as present, and then says nothing.
    monkeypatch.setattr(rendezvous, "rendezvous", lambda *_: iter([(torch.distributed.HashStore(), 0, 2)]))
    with pytest.raises(ProcessLostError, match=r"process 0 did not meet the 1 others \(not all") as caught:
        joined("cpu", tmp_path).__enter__()
    assert caught.value.silent is silent


@pytest.fixture
def one_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


@pytest.mark.parametrize(
    ("device", "local_rank", "words"),
    [("auto", 1, "has local rank 1, but its machine has 1 GPU:"), ("cuda:0", 0, "expected cuda: each of several")],
)
def test_a_gpu_that_a_process_cannot_have(one_gpu, device, local_rank, words):
    with pytest.raises(RecipeError, match=words):
        rendezvous._take_device(device, Launch(local_rank, 2, local_rank))
    assert one_gpu == []


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_process_takes_its_gpu_before_it_looks_for_one(one_gpu, monkeypatch, device):
    seen = []
    monkeypatch.setattr(rendezvous, "choose_device", lambda name: seen.append(list(one_gpu)) or torch.device("cuda"))
    assert rendezvous._take_device(device, Launch(4, 8, 0)).type == "cuda"
    assert seen == [[0]]


def test_processors_leave_the_gpu_alone(one_gpu):
    assert rendezvous._take_device("cpu", Launch(1, 2, 1)).type == "cpu"
    assert one_gpu == []
