"""The status of runs, and the lock that keeps two processes out of one folder. Fast to import."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coreface.errors import RunError
from coreface.training.metrics_file import FINISHED, read_metrics

try:
    import fcntl
except ImportError:  # not available on Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

RECIPE, ENVIRONMENT = "recipe.yaml", "environment.json"
LAUNCHERS = "launchers.json"  # IDs of the launchers that started the run: they may restart it
_PATIENCE = 1.0  # seconds: `coreface runs` takes a lock for a moment to check whether it is free


@dataclass(frozen=True)
class RunState:
    """The status of a run.

    Attributes:
        folder: the run folder.
        state: running (a process holds its lock), finished, or interrupted.
        step: step of the last row of metrics; 0 before the first.
        epoch: its epoch.
        loss: mean loss of the last row of steps; None before the first, or if it is not finite.
        eer: equal error rate of the last evaluation; None before the first.
    """

    folder: Path
    state: Literal["running", "finished", "interrupted"]
    step: int
    epoch: int
    loss: float | None
    eer: float | None


def is_run(folder: Path) -> bool:
    """Return whether a folder contains a run. A recipe.yaml alone is not enough, as it may be a user's file."""
    return (folder / RECIPE).is_file() and (folder / ENVIRONMENT).is_file()


def run_states(root: Path) -> list[RunState]:
    """Return the runs in a folder and in the folders below it, by path; a folder that is a run itself is one run.

    Raises:
        RunError: there is no such folder.
    """
    if not root.is_dir():
        raise RunError(f"{root}: no such folder; coreface train creates it")
    return [_state(folder) for folder in _runs(root)]


def is_finished(folder: Path) -> bool:
    """Return whether a run is finished."""
    rows = read_metrics(folder)
    return bool(rows) and rows[-1].get("kind") == FINISHED


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder, which is created if missing. The lock of a dead process is released.

    Raises:
        RunError: another process is training there, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}): choose another folder with --run") from error
    # A worker process that outlives a killed training for some seconds must not keep its lock.
    held = [descriptor]

    def let_go() -> None:
        while held:
            os.close(held.pop())

    os.register_at_fork(after_in_child=let_go)
    try:
        started = time.monotonic()
        while not _lock(descriptor):
            if time.monotonic() - started > _PATIENCE:
                raise RunError(f"{folder}: another process is training there; wait for it, or choose another folder")
            time.sleep(0.05)
        yield
    finally:
        let_go()


def _lock(descriptor: int, shared: bool = False) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _runs(root: Path) -> Iterator[Path]:
    if is_run(root):
        yield root
        return
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            with contextlib.suppress(PermissionError):
                yield from _runs(entry)


def _state(folder: Path) -> RunState:
    rows = read_metrics(folder)
    steps = [row for row in rows if row.get("kind") == "step"]
    rates = [row["eer"] for row in rows if row.get("kind") == "evaluation" and row.get("eer") is not None]
    last: dict[str, Any] = steps[-1] if steps else {}
    state: Literal["running", "finished", "interrupted"] = "interrupted"
    if is_locked(folder):
        state = "running"
    elif rows and rows[-1].get("kind") == FINISHED:
        state = "finished"
    return RunState(
        folder, state, last.get("step", 0), last.get("epoch", 0), last.get("loss"), rates[-1] if rates else None
    )


def is_locked(folder: Path) -> bool:
    """Return whether a process is training in a run."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return not _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)
