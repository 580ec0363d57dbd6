"""The output of a run: a progress bar or plain lines, `metrics.jsonl`, and TensorBoard if installed."""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coreface.plurals import counted
from coreface.training.checkpoint_writer import Written
from coreface.training.metrics_file import METRICS

_PLAIN_EVERY = 15.0  # seconds between two lines without a terminal


class RunLog:
    """Writes the rows of a run and shows its progress. Use it as a context manager.

    Args:
        folder: an existing run folder; None for no output, in processes other than the leader.
        total_steps: steps of the whole run.
        console: where to show progress; None shows it on standard error.
        first_step: steps done before: the remaining time is estimated from later steps, and TensorBoard's entries
            of later steps are replaced.
    """

    def __init__(
        self, folder: Path | None, total_steps: int, console: Console | None = None, *, first_step: int = 0
    ) -> None:
        self._console = (console or Console(stderr=True)) if folder else Console(quiet=True)
        self._total = total_steps
        self._rows = (folder / METRICS).open("a", encoding="utf-8") if folder else None
        self._board = _tensorboard(folder, first_step) if folder else None
        self._progress: Progress | None = None
        self._started = self._last_line = time.monotonic()
        self._first_step = first_step
        self._written = 0
        self._waited = 0.0
        self._evaluations = 0
        self._evaluating = 0.0
        if self._console.is_terminal and folder:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
            )
            self._task = self._progress.add_task("training", total=total_steps, state="")

    def __enter__(self) -> "RunLog":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        if self._board:
            self._board.close()
        if self._rows:
            self._rows.close()

    def say(self, message: str) -> None:
        """Show one line."""
        say(self._console, message)

    def warn(self, name: str, message: str) -> None:
        """Show a warning and write it as a row; ``name`` identifies the kind of warning."""
        self.say(f"warning: {name}: {message}")
        self.row("warning", {"name": name, "message": message})

    def checkpoints(self, written: Iterable[Written]) -> None:
        """Write a row for every completed checkpoint."""
        for one in written:
            self._written += 1
            self._waited += one.waited
            self.row("checkpoint", {"step": one.step, "waited": one.waited, "writing": one.writing, "bytes": one.size})

    def evaluated(self, seconds: float) -> None:
        """Count an evaluation and its time."""
        self._evaluations += 1
        self._evaluating += seconds

    def summary(self) -> None:
        """Show the cost of evaluations and checkpoints."""
        elapsed = time.monotonic() - self._started
        if self._evaluations:
            share = 100 * self._evaluating / elapsed
            self.say(
                f"{counted(self._evaluations, 'evaluation')} took {self._evaluating:.1f} s of {_duration(elapsed)} "
                f"({share:.1f} %)"
            )
        if self._written:
            share = 100 * self._waited / elapsed
            plural = "s" if self._written > 1 else ""
            self.say(
                f"{self._written} checkpoint{plural}: training waited {self._waited:.1f} s of {_duration(elapsed)} "
                f"for them ({share:.1f} %)"
            )

    def settle(self) -> int:
        """Force the rows to the disk, and return their size in bytes."""
        if not self._rows:
            return 0
        self._rows.flush()
        os.fsync(self._rows.fileno())
        return os.fstat(self._rows.fileno()).st_size

    def row(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl; non-finite numbers are written as null."""
        if not self._rows:
            return
        tag = f"{kind}/{values['name']}" if kind == "set" else kind
        row = {"kind": kind, **{key: _plain(value) for key, value in values.items()}}
        self._rows.write(json.dumps(row, allow_nan=False) + "\n")
        self._rows.flush()
        if self._board and "step" in row:
            for key, value in row.items():
                if isinstance(value, int | float) and key not in ("step", "epoch"):
                    self._board.add_scalar(f"{tag}/{key}", value, row["step"])

    def advance(self, step: int, epoch: int, state: str) -> None:
        """Show that ``step`` steps are done; ``state`` is a short text, such as loss and images per second."""
        description = f"epoch {epoch}"
        if self._progress:
            self._progress.update(self._task, completed=step, description=description, state=state)
            return
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_EVERY or step == self._total:
            self._last_line = now
            share = (now - self._started) / max(1, step - self._first_step)
            self.say(
                f"{description}  step {step}/{self._total}  {state}  ETA {_duration(share * (self._total - step))}"
            )


def say(console: Console, message: str) -> None:
    """Show one line unchanged, without markup, emoji or wrapping."""
    console.print(message, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)
