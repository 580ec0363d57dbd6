"""What a launcher such as torchrun sets in the environment of this process. Nothing here imports torch."""

import os
import shlex
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from coreface.errors import InputError


@dataclass(frozen=True)
class Launch:
    """The position of a process among those that were launched together.

    Attributes:
        rank: number of the process, from 0.
        world_size: number of processes.
        local_rank: number of the process on its machine, which is the number of its GPU.
        restarts: how often the launcher has restarted them after one died.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    restarts: int = 0


def launched() -> Launch:
    """Read RANK, WORLD_SIZE and LOCAL_RANK as set by torchrun. Without them there is one process.

    Raises:
        InputError: a variable is not a number, or they contradict each other.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Launch()
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "TORCHELASTIC_RESTART_COUNT": 0}
    numbers = []
    for name, default in defaults.items():
        text = os.environ.get(name, str(default))
        if not text.isdecimal():
            raise InputError(f"the environment has {name}={text!r}, expected a number: torchrun sets it")
        numbers.append(int(text))
    launch = Launch(*numbers)
    if launch.rank >= launch.world_size:
        raise InputError(
            f"the environment has RANK={launch.rank} and WORLD_SIZE={launch.world_size}, expected a rank below the "
            "number of processes: torchrun sets both"
        )
    return launch


def is_leader() -> bool:
    """Return whether this process reports for all that were launched with it."""
    try:
        return launched().rank == 0
    except InputError:
        return True


def launcher() -> str:
    """Return an identifier of this process's launcher, the same after a restart; empty without a launcher."""
    if "RANK" not in os.environ:
        return ""
    # In a container the launcher may have the same process id in every run.
    return f"{socket.gethostname()} {os.getppid()} {os.environ.get('TORCHELASTIC_RUN_ID', '')}"


def ignore_termination() -> None:
    """Ignore SIGTERM from now on, in a process that has failed and has not reported why yet.

    When one process ends, a launcher such as torchrun sends SIGTERM to the others, which could end this one before its
    message is written. A process that does not end within 30 seconds gets SIGKILL. A handler that the program has set
    is kept. Outside the main thread this does nothing.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, ignored)


def ignored(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, this handler is not inherited by programs that this process starts."""


def resume_command(run: Path, world_size: int | None = None) -> str:
    """Return the command that resumes a run with this many processes; None uses the number of this launch."""
    count = launched().world_size if world_size is None else world_size
    train = f"coreface train --resume {shlex.quote(str(run))}"
    if count == 1:
        return train
    on_this_machine = os.environ.get("LOCAL_WORLD_SIZE", str(count))
    if on_this_machine != str(count):  # several machines, and torchrun's options differ between them
        return f"torchrun ... -m {train}"
    return f"torchrun --nproc-per-node {count} -m {train}"
