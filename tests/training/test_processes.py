"""What processes say to each other, and how a batch is shared out to them."""

import dataclasses
import socket

import pytest
import torch

from coreface.cli import _say
from coreface.distributed import processes as distributed
from coreface.distributed.launch import Launch
from coreface.distributed.processes import Processes, images_each, joined
from coreface.errors import CoreFaceError, ProcessLostError, RecipeError
from coreface.training.recipe import OptimizerRecipe, Recipe
from support import run_jobs as jobs
from support.gloo import Processes as Started


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    made = Started(3, tmp_path_factory.mktemp("gloo"))
    yield made
    made.close()


def test_one_process_needs_nobody():
    alone = Processes()
    assert (alone.rank, alone.count, alone.group, alone.leads) == (0, 1, None, True)
    assert alone.apart() is alone
    assert alone.largest(3, -1) == [3, -1]
    assert alone.gather("x") == ["x"]
    with pytest.raises(ZeroDivisionError):
        alone.leading(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        alone.together(lambda: 1 // 0)


def test_three_processes_talk(three):
    for rank, said in enumerate(three(jobs.talk, [("a",), ("b",), ("c",)])):
        assert said["place"] == (rank, 3, rank == 0)
        assert said["largest"] == [2, 0, 5]
        assert said["gathered"] == [(0, "a"), (1, "b"), (2, "c")]
        assert said["together"] == [0, 1, 4]
        assert said["leading"] == "said by 0"
        assert said["averaged"] == [[[2.0] * 3] * 2, 10.0, [1.5] * 4, [rank, 7]]  # no mean of whole numbers
        assert said["apart"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("where", "together", "leading"),
    [
        ([0], "of process 0", "of process 0"),
        ([2], "of process 2", 0),
        ([1, 2], "of process 1", 0),
        ([], [0, 1, 2], 0),
    ],
)
def test_what_one_raises_all_raise(three, where, together, leading):
    assert three(jobs.raising, [(where,)] * 3) == [[together, leading, [0, 1, 2]]] * 3


def batch_of(size, parts=1):
    optimizer = OptimizerRecipe(batch_size=size, micro_batches=parts)
    return dataclasses.replace(Recipe(), optimizer=optimizer)


@pytest.mark.parametrize(
    ("size", "parts", "processes", "each"), [(7, 1, 1, 7), (12, 1, 4, 3), (24, 3, 4, 6), (8, 1, 4, 2)]
)
def test_images_of_each_process(size, parts, processes, each):
    assert images_each(batch_of(size, parts), processes) == each


@pytest.mark.parametrize(
    ("size", "parts", "processes", "words"),
    [
        (10, 1, 4, "batch_size is 10, expected a multiple of 4, twice that at least: it is shared out to 4 processes,"),
        (4, 1, 4, "batch_size is 4, expected a multiple of 4, twice"),  # one image each
        (16, 3, 4, "expected a multiple of 12, twice that at least: it is shared out to 4 processes in 3 parts"),
        (12, 3, 4, "expected a multiple of 12, twice"),
    ],
)
def test_a_batch_that_cannot_be_shared_out(size, parts, processes, words):
    with pytest.raises(RecipeError) as caught:
        images_each(batch_of(size, parts), processes)
    assert words in str(caught.value)


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
    monkeypatch.setattr(distributed, "_MEETING", 0.1)
    # The other one is counted as present, and then says nothing.
    monkeypatch.setattr(distributed, "rendezvous", lambda *_: iter([(torch.distributed.HashStore(), 0, 2)]))
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
    [("auto", 1, "number 1 of its machine, from 0, and has 1 GPUs"), ("cuda:0", 0, "expected cuda: of several")],
)
def test_a_gpu_that_a_process_cannot_have(one_gpu, device, local_rank, words):
    with pytest.raises(RecipeError, match=words):
        distributed._take_device(device, Launch(local_rank, 2, local_rank))
    assert one_gpu == []


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_process_takes_its_gpu_before_it_looks_for_one(one_gpu, monkeypatch, device):
    seen = []
    monkeypatch.setattr(distributed, "choose_device", lambda name: seen.append(list(one_gpu)) or torch.device("cuda"))
    assert distributed._take_device(device, Launch(4, 8, 0)).type == "cuda"
    assert seen == [[0]]


def test_processors_leave_the_gpu_alone(one_gpu):
    assert distributed._take_device("cpu", Launch(1, 2, 1)).type == "cpu"
    assert one_gpu == []
