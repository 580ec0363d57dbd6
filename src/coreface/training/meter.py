"""Means and times over the steps between two rows of metrics, without synchronising with the device at every step."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from coreface.training.checkpoint_facts import MeterCounts
from coreface.training.objective import Losses

Batch = TypeVar("Batch")

_COUNTED = "counted"  # steps that were not skipped


@dataclass
class _Interval:
    """Sums since the last row."""

    steps: int = 0
    images: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)


class Meter:
    """Sums the results of steps. Tensors stay on their device until `row` reads them."""

    def __init__(self) -> None:
        self._interval = _Interval()

    @property
    def steps(self) -> int:
        """Steps since the last row."""
        return self._interval.steps

    def timing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, and measure the time of waiting for each."""
        source = iter(batches)
        self._interval.started = time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._interval.waited += time.perf_counter() - asked
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside, for example on an evaluation, from the times of the steps."""
        began = time.perf_counter()
        yield
        self._interval.started += time.perf_counter() - began

    def add(
        self, losses: Losses, gradient_norm: torch.Tensor | None, images: int, skipped: torch.Tensor | None = None
    ) -> None:
        """Add one step. If ``skipped``, a bool scalar, is true, its losses are not averaged."""
        interval = self._interval
        values = {"loss": losses.total.detach(), "classification": losses.classification}
        if losses.contrastive is not None and losses.contrast is not None:
            values |= {"contrastive": losses.contrastive, **losses.contrast._asdict()}
        if gradient_norm is not None:
            values["gradient_norm"] = gradient_norm
        values[_COUNTED] = torch.ones_like(losses.classification)
        for name, value in values.items():
            if skipped is not None:
                value = torch.where(skipped, torch.zeros_like(value), value)
            interval.sums[name] = interval.sums[name] + value if name in interval.sums else value
        interval.steps += 1
        interval.images += images

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the sums by name, for a checkpoint between two rows."""
        return dict(self._interval.sums)

    def counts(self) -> MeterCounts:
        """Return the counts that `restore` needs."""
        return MeterCounts(self._interval.steps, self._interval.images)

    def restore(self, sums: dict[str, torch.Tensor], counts: MeterCounts) -> None:
        """Continue from the results of `tensors` and `counts`. The times start at zero."""
        self._interval = _Interval(counts.steps, counts.images, dict(sums))

    def row(self) -> dict[str, float]:
        """Return the means since the last row, and begin the next interval.

        Returns:
            The losses and statistics by name, ``images_per_second``, and ``waiting``: the share of the time that was
            spent waiting for data.
        """
        interval, self._interval = self._interval, _Interval()
        counted = float(interval.sums.pop(_COUNTED))
        row = {name: float(total) / counted if counted else math.nan for name, total in interval.sums.items()}
        elapsed = time.perf_counter() - interval.started
        row["images_per_second"] = interval.images / elapsed
        row["waiting"] = interval.waited / elapsed
        return row
