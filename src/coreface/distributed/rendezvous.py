"""How the processes of a launcher connect with each other, and how a failing one reports its error."""

import contextlib
import datetime
import os
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from coreface.distributed.device import choose_device
from coreface.distributed.launch import Launch, ignore_termination, launched, resume_command
from coreface.distributed.processes import Processes
from coreface.errors import MACHINE_FAILED, CoreFaceError, ProcessLostError, RecipeError, TrainingStopped
from coreface.files import write_atomically

FAILURES = "failures"  #: folder in a run with the tracebacks of its processes
_TIMEOUT = 300.0  # seconds within which all processes have to connect
_STORE_TIMEOUT = datetime.timedelta(seconds=10)  # for torchrun's store, which runs already when a process starts


@contextlib.contextmanager
def joined(device: str, folder: Path) -> Iterator[Processes]:
    """Connect this process with the others of its launcher, and disconnect at the end.

    Does nothing for a single process, or if the program has already created a process group.

    Args:
        device: as in a recipe. NCCL is used for tensors on GPUs, gloo for all others.
        folder: the run folder. The traceback of a process that fails is written to its `FAILURES`.

    Raises:
        ProcessLostError: another process died, or did not connect.
        CoreFaceError: raised by this process. ``silent`` is set if another process failed before it.
    """
    launch = launched()
    if launch.world_size == 1 or dist.is_initialized():
        yield Processes()
        return
    store = _connect(launch, device)
    try:
        yield Processes()
    except BaseException as error:
        ignore_termination()  # which the launcher sends as soon as another process has ended
        if isinstance(error, TrainingStopped):
            raise
        # The message says everything, so no traceback is needed.
        if not isinstance(error, CoreFaceError) or isinstance(error, MACHINE_FAILED):
            _write_traceback(folder / FAILURES, launch, error)
        raised = _explained(error, launch, folder)
        if isinstance(raised, CoreFaceError):
            raised.silent = not _is_first_to_fail(store)
        if raised is error:
            raise
        raise raised from error
    finally:
        dist.destroy_process_group()


def _connect(launch: Launch, device: str) -> Store:
    """Create the process group, and return the store that its processes share."""
    try:
        launcher_store, _, _ = next(iter(rendezvous("env://", launch.rank, launch.world_size)))
        # The launcher's store outlives a restart: entries of an earlier attempt must not be seen by this one.
        store = PrefixStore(_agreed_name(launcher_store, launch), launcher_store)
    except (RuntimeError, ValueError, OSError) as error:  # includes the errors of torch.distributed
        raise _not_met(launch, error, silent=launch.local_rank != 0) from error  # rank 0 may be the missing one
    try:
        backend = "cpu:gloo,cuda:nccl" if _take_device(device, launch).type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.world_size)
    except CoreFaceError as error:
        error.silent = not _is_first_to_fail(store)
        raise
    except (RuntimeError, ValueError) as error:
        raise _not_met(launch, error, silent=not _is_first_to_fail(store)) from error
    return store


def first_to_fail() -> bool:
    """Return whether this process, which fails before it has connected with the others, is the first of them to fail.

    The processes agree through torchrun's store, which exists before they connect. Without torchrun it is the leader.
    """
    launch = launched()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return launch.rank == 0
    try:
        store, _, _ = next(iter(rendezvous("env://", launch.rank, launch.world_size, timeout=_STORE_TIMEOUT)))
    except (RuntimeError, ValueError, OSError):  # the launcher is gone
        return True
    return _is_first_to_fail(PrefixStore(f"coreface/attempt_{launch.restarts}", store))  # it outlives a restart


def _not_met(launch: Launch, error: Exception, *, silent: bool) -> ProcessLostError:
    lost = ProcessLostError(
        f"process {launch.rank} did not meet the {launch.world_size - 1} others ({_first_line(error)}): start all "
        "of them with one torchrun command per machine and the same --rdzv-endpoint"
    )
    lost.silent = silent
    return lost


def _take_device(name: str, launch: Launch) -> torch.device:
    """Choose the device of this process; make its GPU the current one before anything uses another."""
    if name != "cpu" and torch.cuda.is_available():
        if name.startswith("cuda:"):
            raise RecipeError(f"device is {name!r}, expected cuda: each of several processes takes its own GPU")
        if launch.local_rank >= (found := torch.cuda.device_count()):
            raise RecipeError(
                f"process {launch.rank} has local rank {launch.local_rank}, but its machine has {found} "
                f"{'GPU' if found == 1 else 'GPUs'}: start {found} per machine with --nproc-per-node {found}, or train "
                "on CPUs with --device cpu"
            )
        torch.cuda.set_device(launch.local_rank)
    chosen = choose_device(name)
    if chosen.type == "mps":
        raise RecipeError(
            "device mps works in one process only, since no backend supports its tensors; add --device cpu"
        )
    return chosen


def _agreed_name(store: Store, launch: Launch) -> str:
    """Agree on a name for this attempt; processes may arrive late, and the store may contain older entries.

    Every process announces a random token. The leader proposes a name together with the tokens it has seen; a process
    accepts a proposal that contains its token. A leader that sees a new token makes a new proposal.
    """
    token = uuid.uuid4().hex
    store.set(f"coreface/token/{launch.rank}", token)
    others = range(1, launch.world_size)
    name, seen = "", [""]
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        if launch.rank == 0:
            now = [token, *(_read(store, f"coreface/token/{rank}") for rank in others)]
            if now != seen:
                name, seen = uuid.uuid4().hex, now
                store.set("coreface/proposal", " ".join([name, *(one or "-" for one in seen)]))
            if all(_read(store, f"coreface/{name}/accepted/{rank}") for rank in others):
                store.set(f"coreface/{name}/agreed", "yes")
                return name
        else:
            name, *tokens = _read(store, "coreface/proposal").split() or [""]
            if len(tokens) == launch.world_size and tokens[launch.rank] == token:
                store.set(f"coreface/{name}/accepted/{launch.rank}", "yes")
                if _read(store, f"coreface/{name}/agreed"):
                    return name
        time.sleep(0.02)
    raise TimeoutError(f"not all of them arrived within {_TIMEOUT:.0f} seconds")


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _is_first_to_fail(store: Store) -> bool:
    ignore_termination()  # the first to fail must live to report its error
    try:
        return bool(store.add("coreface/failures", 1) == 1)
    except RuntimeError:  # the launcher is gone
        return True


def _write_traceback(folder: Path, launch: Launch, error: BaseException) -> None:
    described = "".join(traceback.format_exception(error))
    text = f"process {launch.rank} of {launch.world_size}, attempt {launch.restarts + 1}\n{described}"
    with contextlib.suppress(OSError):  # the disk may be what failed
        if folder.parent.is_dir():
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"rank_{launch.rank}.attempt_{launch.restarts}.txt", text.encode())
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        with contextlib.suppress(OSError):
            get_error_handler().record_exception(error)


def _explained(error: BaseException, launch: Launch, folder: Path) -> BaseException:
    """Convert errors that torch.distributed raises when another process died into `ProcessLostError`."""
    text = _first_line(error)
    lost = isinstance(error, dist.DistError) or "gloo" in text or "Connection" in text or "NCCL" in text
    if not (isinstance(error, RuntimeError) and lost):
        return error
    return ProcessLostError(
        f"process {launch.rank} has lost another of the {launch.world_size}, which died or was killed ({text}); its "
        f"traceback, if it wrote one, is in {folder / FAILURES}; continue with: "
        f"{resume_command(folder, launch.world_size)}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
