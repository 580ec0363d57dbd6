"""What a launcher such as torchrun says of this process in its environment. Light: nothing here imports torch."""

import os
import socket
from dataclasses import dataclass

from coreface.errors import InputError


@dataclass(frozen=True)
class Launch:
    """The place of a process among those that were launched together.

    Attributes:
        rank: its number, from 0.
        processes: how many they are.
        local_rank: its number on its machine, which is the number of its GPU.
        restarts: how often they have been started anew after one of them died.
    """

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    restarts: int = 0


def launcher() -> str:
    """Name the launcher of this process, which is the same one when it starts others anew; empty without one."""
    if "RANK" not in os.environ:
        return ""
    # Alone in a container, a launcher may have the same number every time.
    return f"{socket.gethostname()} {os.getppid()} {os.environ.get('TORCHELASTIC_RUN_ID', '')}"


def leads() -> bool:
    """Say whether this process speaks for all that were launched with it."""
    try:
        return launched().rank == 0
    except InputError:
        return True


def launched() -> Launch:
    """Read RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets them; one process without them.

    Raises:
        InputError: a variable is no number, or they contradict each other.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Launch()
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "TORCHELASTIC_RESTART_COUNT": 0}
    numbers = []
    for name, absent in names.items():
        text = os.environ.get(name, str(absent))
        if not text.isdecimal():
            raise InputError(f"the environment has {name}={text!r}, expected a number: torchrun sets it")
        numbers.append(int(text))
    launch = Launch(*numbers)
    if launch.rank >= launch.processes:
        raise InputError(
            f"the environment has RANK={launch.rank} and WORLD_SIZE={launch.processes}, expected a rank below the "
            "number of processes: torchrun sets both"
        )
    return launch
