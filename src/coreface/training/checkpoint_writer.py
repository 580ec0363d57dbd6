"""The checkpoints of a run: when they are due, writing them while training continues, keeping the newest."""

import errno
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch

from coreface.distributed.collectives import local, with_layout_of
from coreface.distributed.launch import resume_command
from coreface.distributed.processes import Processes
from coreface.errors import CheckpointError, StorageError
from coreface.training.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    open_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from coreface.training.checkpoint_facts import CheckpointFacts
from coreface.training.recipe_sections import CheckpointRecipe

CHECKPOINTS = "checkpoints"  #: folder of the checkpoints inside a run
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@dataclass(frozen=True)
class Written:
    """The cost of a checkpoint.

    Attributes:
        step: optimizer steps it was taken after.
        waited: seconds that the training waited.
        writing: seconds until it was on the disk; training continued during most of them.
        size: bytes of its tensors.
    """

    step: int
    waited: float
    writing: float
    size: int


class CheckpointWriter:
    """Writes the checkpoints of a run, in a thread unless the recipe disables it. Use it as a context manager.

    The tensors are copied while the training waits, and written while it continues. A failed write raises at the
    next call, or at the end. With several processes, creating a writer, saving and waiting are collective calls.

    Args:
        run: the run folder.
        recipe: how often to write, and how many to keep.
        step: the step of the checkpoint that the training resumes from; None for a new training.
        processes: those that train; None for only this one.
    """

    def __init__(
        self, run: Path, recipe: CheckpointRecipe, step: int | None = None, processes: Processes | None = None
    ) -> None:
        # The thread's collectives must not mix with those of the training.
        self._processes = (processes or Processes()).with_new_group()
        self._run = run
        self._root = run / CHECKPOINTS
        self._recipe = recipe
        self._last_step = step
        self._last_time = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copies: dict[str, torch.Tensor] = {}
        self._waited: dict[int, float] = {}
        self._done: list[tuple[int, float, int]] = []

    def __enter__(self) -> "CheckpointWriter":
        self._processes.on_leader(lambda: remove_leftovers(self._root))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()
        self._copies = {}
        if error is None:
            self._raise()

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after ``step`` steps."""
        every = self._recipe.every_steps
        if every is not None and step - (self._last_step or 0) >= every:
            return True
        return time.monotonic() - self._last_time >= 60 * self._recipe.every_minutes

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: CheckpointFacts, *, wait: bool) -> None:
        """Write a checkpoint.

        Args:
            step: optimizer steps done.
            tensors: by name; copied before this returns.
            facts: everything that is not a tensor.
            wait: return only after it is on the disk.

        Raises:
            StorageError: this one, or the one before, cannot be written.
        """
        started = time.perf_counter()
        self.wait()
        self._raise()
        copied = self._copy(tensors)
        copies = {name: with_layout_of(tensor, self._copies[name]) for name, tensor in tensors.items()}
        self._last_step, self._last_time = step, time.monotonic()
        # Not a daemon: if the training ends with an error, the checkpoint is still completed.
        self._thread = threading.Thread(
            target=self._write, args=(step, copies, facts, copied, started), name="checkpoint"
        )
        self._thread.start()
        if wait or not self._recipe.asynchronous:
            self.wait()
            self._raise()
        self._waited[step] = time.perf_counter() - started

    def written(self) -> list[Written]:
        """Return the checkpoints written since the last call.

        Raises:
            StorageError: a checkpoint could not be written.
        """
        self._raise()
        done, self._done = self._done, []
        return [Written(step, self._waited.pop(step), writing, size) for step, writing, size in done]

    def _write(
        self,
        step: int,
        tensors: Mapping[str, torch.Tensor],
        facts: CheckpointFacts,
        copied: "torch.cuda.Event | None",
        started: float,
    ) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            write_checkpoint(self._root, step, tensors, facts, self._processes)
            if self._processes.is_leader:
                for old in checkpoint_folders(self._root)[self._recipe.keep_last :]:
                    shutil.rmtree(old)
            size = sum(tensor.nbytes for tensor in self._copies.values())
            self._done.append((step, time.perf_counter() - started, size))
        except BaseException as error:  # raised in the training thread by its next call
            self._error = error

    def _copy(self, tensors: Mapping[str, torch.Tensor]) -> "torch.cuda.Event | None":
        """Copy to CPU memory, reusing the memory of the previous checkpoint if it fits."""
        copies: dict[str, torch.Tensor] = {}
        on_gpu = False
        for name, tensor in tensors.items():
            tensor = local(tensor)
            old = self._copies.get(name)
            if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
                old = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            copies[name] = old.copy_(tensor, non_blocking=tensor.is_cuda)
            on_gpu |= tensor.is_cuda
        self._copies = copies
        if not on_gpu:
            return None
        # The next optimizer step is queued behind the copies in the same stream; only the writer waits for this event.
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait(self) -> None:
        """Return when the checkpoint that is being written is on the disk, or has failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _raise(self) -> None:
        if self._error is None:
            return
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise_storage_error(self._run, error)
        raise error


def raise_storage_error(run: Path, error: OSError) -> NoReturn:
    """Raise `StorageError` for a run that cannot be written; it says what happened, what is safe and how to continue.

    Errors that do not concern the disk are raised unchanged.
    """
    if error.errno not in _DISK:
        raise error
    newest = next(iter(checkpoint_folders(run / CHECKPOINTS)), None)
    safe = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
    raise StorageError(
        f"{run}: the run cannot be written ({error.strerror}); {safe}; free some space or correct the permissions, "
        f"then: {resume_command(run)}"
    ) from error


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[tuple[Path, CheckpointError]]]:
    """Return the newest intact checkpoint of a run (None if none was written) and the problems of newer ones.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    damaged: list[tuple[Path, CheckpointError]] = []
    folders = checkpoint_folders(run / CHECKPOINTS)
    for folder in folders:
        try:
            return open_checkpoint(folder), damaged
        except CheckpointError as error:
            damaged.append((folder, error))
    if damaged:
        raise CheckpointError(f"every checkpoint of {run} is damaged; the newest: {damaged[0][1]}")
    return None, []
