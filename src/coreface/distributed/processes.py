"""The processes that train together: how they find each other, what they agree on, and what they leave when they fail.

A training is one process unless torchrun (or whoever sets RANK, WORLD_SIZE and MASTER_ADDR) has started several. Then
all of them run the same program on a part of every batch; the one of rank 0, the leader, alone shows and writes.
"""

import contextlib
import datetime
import os
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from coreface.distributed.collectives import summed
from coreface.distributed.device import choose_device
from coreface.distributed.launch import Launch, launched
from coreface.errors import MACHINE_FAILED, CoreFaceError, ProcessLostError, RecipeError, TrainingStopped
from coreface.files import write_atomically
from coreface.training.recipe import Recipe

FAILURES = "failures"  #: folder, inside a run, of the tracebacks of its processes

# The death of a process is noticed at once, because its connections close; so a long evaluation is no reason to give
# up waiting for it.
_PATIENCE = datetime.timedelta(days=7)
_MEETING = 300.0  # seconds in which all processes have to be there

Result = TypeVar("Result")


class Processes:
    """The processes of a training, as one of them sees them. Without torch.distributed there is this one alone.

    All calls but the properties are collective: every process makes them, in the same order.

    Attributes:
        rank: number of this process, from 0.
        count: how many there are.
        group: what they talk over, a gloo group of its own; None for one process.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if several else 0
        self.count = dist.get_world_size() if several else 1
        self.group = dist.new_group(backend="gloo", timeout=_PATIENCE) if several else None

    @property
    def leads(self) -> bool:
        """Whether this is the process that shows and writes."""
        return self.rank == 0

    def apart(self) -> "Processes":
        """Return the same processes with a connection of their own, for another thread."""
        return Processes() if self.count > 1 else self

    def largest(self, *numbers: int) -> list[int]:
        """Return the largest of each number."""
        if self.count == 1:
            return list(numbers)
        agreed = torch.tensor(numbers)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.group)
        return [int(number) for number in agreed.tolist()]

    def gather(self, value: Result) -> list[Result]:
        """Return everyone's value, in the order of the ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def together(self, work: Callable[[], Result]) -> list[Result]:
        """Do something in every process, and return all results; what one raises, all raise."""
        results = self.gather(_outcome(work))
        for result in results:
            if isinstance(result, _Raised):
                raise result.error
        return results  # type: ignore[return-value]

    def leading(self, work: Callable[[], Result]) -> Result:
        """Do something in the leader alone, and return its result in all of them; what it raises, all raise."""
        if self.count == 1:
            return work()
        told: list[Any] = [_outcome(work) if self.leads else None]
        dist.broadcast_object_list(told, src=0, group=self.group)
        if isinstance(told[0], _Raised):
            raise told[0].error
        return told[0]  # type: ignore[no-any-return]

    def average_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors of floats by their means over the processes, in place; over the training's own connection."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            if tensor.is_floating_point():
                by_type.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_type.values():
            mean = summed(torch.cat([tensor.reshape(-1) for tensor in alike])) / self.count
            pieces = torch.split(mean, [tensor.numel() for tensor in alike])
            torch._foreach_copy_(alike, [piece.view_as(x) for piece, x in zip(pieces, alike, strict=True)])


def images_each(recipe: Recipe, processes: int) -> int:
    """Return how many images of a batch come to each process.

    Raises:
        RecipeError: they cannot be shared out evenly.
    """
    batch, parts = recipe.optimizer.batch_size, recipe.optimizer.micro_batches
    if processes > 1 and (batch % (processes * parts) or batch < 2 * processes * parts):
        cut = f" in {parts} parts" if parts > 1 else ""
        raise RecipeError(
            f"optimizer.batch_size is {batch}, expected a multiple of {processes * parts}, twice that at least: it is "
            f"shared out to {processes} processes{cut}, and BatchNorm has no statistics of one image"
        )
    return batch // processes


class _Raised:
    """An error on its way to the other processes."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _outcome(work: Callable[[], Result]) -> Result | _Raised:
    try:
        return work()
    except Exception as error:  # a stop by a signal, and Ctrl-C, are no results
        return _Raised(error)


@contextlib.contextmanager
def joined(device: str, folder: Path) -> Iterator[Processes]:
    """Meet the other processes that the launcher has started, and part with them at the end.

    Where the program runs in one process, or has a process group already, that is taken as it is.

    Args:
        device: as in a recipe; NCCL carries what lies on GPUs, gloo everything else.
        folder: the run folder: the traceback of a process that fails is kept in its `FAILURES`.

    Raises:
        ProcessLostError: another process has died, or never came.
        CoreFaceError: what this process raised itself. ``silent`` is set where another one has failed before it.
    """
    launch = launched()
    if launch.processes == 1 or dist.is_initialized():
        yield Processes()
        return
    store = _meet(launch, device)
    try:
        yield Processes()
    except TrainingStopped:
        raise
    except BaseException as error:
        if not isinstance(error, CoreFaceError) or isinstance(error, MACHINE_FAILED):  # the others say it all
            _keep_traceback(folder / FAILURES, launch, error)
        raised = _explained(error, launch, folder)
        if isinstance(raised, CoreFaceError):
            raised.silent = not _is_first_to_fail(store)
        if raised is error:
            raise
        raise raised from error
    finally:
        dist.destroy_process_group()


def _meet(launch: Launch, device: str) -> Store:
    try:
        address, _, _ = next(iter(rendezvous("env://", launch.rank, launch.processes)))
        # What the processes of an earlier attempt left in a launcher's store would lead astray those of this one.
        store = PrefixStore(_agreed_name(address, launch), address)
    except (RuntimeError, ValueError, OSError) as error:  # torch.distributed's own are among them
        raise _unmet(launch, error, silent=launch.local_rank != 0) from error  # the leader may be who is not there
    try:
        backend = "cpu:gloo,cuda:nccl" if _take_device(device, launch).type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.processes)
    except CoreFaceError as error:
        error.silent = not _is_first_to_fail(store)
        raise
    except (RuntimeError, ValueError) as error:
        raise _unmet(launch, error, silent=not _is_first_to_fail(store)) from error
    return store


def _unmet(launch: Launch, error: Exception, *, silent: bool) -> ProcessLostError:
    lost = ProcessLostError(
        f"process {launch.rank} did not meet the {launch.processes - 1} others ({_first_line(error)}): start all "
        "of them with one torchrun command a machine, and the same --rdzv-endpoint"
    )
    lost.silent = silent
    return lost


def _take_device(name: str, launch: Launch) -> torch.device:
    """Choose the device of this process, and make its GPU the current one before anything is put on another."""
    if name != "cpu" and torch.cuda.is_available():
        if name.startswith("cuda:"):
            raise RecipeError(f"device is {name!r}, expected cuda: of several processes each takes a GPU of its own")
        if launch.local_rank >= (found := torch.cuda.device_count()):
            raise RecipeError(
                f"process {launch.rank} is number {launch.local_rank} of its machine, from 0, and has {found} GPUs to "
                f"choose from: start so many with --nproc-per-node {found}, or train on processors with --device cpu"
            )
        torch.cuda.set_device(launch.local_rank)
    chosen = choose_device(name)
    if chosen.type == "mps":
        raise RecipeError("device mps is for one process: nothing carries its tensors to another; add --device cpu")
    return chosen


def _agreed_name(store: Store, launch: Launch) -> str:
    """Agree on a name for this attempt with processes that may come late, in a store that may hold what is old.

    Every process says hello by a number of its own. The leader proposes a name, with the hellos it has seen; a process
    accepts a proposal that holds its own. A leader that sees another hello makes another proposal.
    """
    hello = uuid.uuid4().hex
    store.set(f"coreface/hello/{launch.rank}", hello)
    others = range(1, launch.processes)
    name, seen = "", [""]
    deadline = time.monotonic() + _MEETING
    while time.monotonic() < deadline:
        if launch.rank == 0:
            now = [hello, *(_read(store, f"coreface/hello/{rank}") for rank in others)]
            if now != seen:
                name, seen = uuid.uuid4().hex, now
                store.set("coreface/proposal", " ".join([name, *(one or "-" for one in seen)]))
            if all(_read(store, f"coreface/{name}/accepted/{rank}") for rank in others):
                store.set(f"coreface/{name}/agreed", "yes")
                return name
        else:
            name, *hellos = _read(store, "coreface/proposal").split() or [""]
            if len(hellos) == launch.processes and hellos[launch.rank] == hello:
                store.set(f"coreface/{name}/accepted/{launch.rank}", "yes")
                if _read(store, f"coreface/{name}/agreed"):
                    return name
        time.sleep(0.02)
    raise TimeoutError(f"not all were there within {_MEETING:.0f} seconds")


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _is_first_to_fail(store: Store) -> bool:
    try:
        return bool(store.add("coreface/failures", 1) == 1)
    except RuntimeError:  # the launcher itself is gone
        return True


def _keep_traceback(folder: Path, launch: Launch, error: BaseException) -> None:
    described = "".join(traceback.format_exception(error))
    text = f"process {launch.rank} of {launch.processes}, started {launch.restarts + 1} times\n{described}"
    with contextlib.suppress(OSError):  # the disk may be what has failed
        if folder.parent.is_dir():
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"rank_{launch.rank}.attempt_{launch.restarts}.txt", text.encode())
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        with contextlib.suppress(OSError):
            get_error_handler().record_exception(error)


def _explained(error: BaseException, launch: Launch, folder: Path) -> BaseException:
    """Turn what torch.distributed raises where a peer has gone into our own error."""
    text = _first_line(error)
    lost = isinstance(error, dist.DistError) or "gloo" in text or "Connection" in text or "NCCL" in text
    if not (isinstance(error, RuntimeError) and lost):
        return error
    return ProcessLostError(
        f"process {launch.rank} has lost another of the {launch.processes}, which died or was killed ({text}); a "
        f"traceback, if it left one, is in {folder / FAILURES}; go on with: torchrun ... -m coreface train --resume "
        f"{folder}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
