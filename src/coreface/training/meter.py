"""Means and times over the steps between two rows of metrics, without a synchronisation a step."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from coreface.training.objective import Losses

Batch = TypeVar("Batch")

_COUNTED = "counted"  # steps that were not skipped


class Meter:
    """Sums what steps return; tensors stay on their device until `row` reads them."""

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._images = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def timing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on, and time how long each is waited for."""
        source = iter(batches)
        self._started = time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def add(
        self, losses: Losses, gradient_norm: torch.Tensor | None, images: int, skipped: torch.Tensor | None = None
    ) -> None:
        """Add one step; where ``skipped``, a bool scalar, says so, its losses enter no mean."""
        values = {"loss": losses.total.detach(), "classification": losses.classification}
        if losses.contrastive is not None and losses.contrast is not None:
            values |= {"contrastive": losses.contrastive, **losses.contrast._asdict()}
        if gradient_norm is not None:
            values["gradient_norm"] = gradient_norm
        values[_COUNTED] = torch.ones_like(losses.classification)
        for name, value in values.items():
            if skipped is not None:
                value = torch.where(skipped, torch.zeros_like(value), value)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.steps += 1
        self._images += images

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the sums by name, for a checkpoint between two rows."""
        return dict(self._sums)

    def facts(self) -> dict[str, int]:
        """Return what else `restore` needs."""
        return {"steps": self.steps, "images": self._images}

    def restore(self, sums: dict[str, torch.Tensor], facts: dict[str, int]) -> None:
        """Go on from what `tensors` and `facts` returned; the times start anew."""
        self._sums = dict(sums)
        self.steps, self._images = facts["steps"], facts["images"]

    def row(self) -> dict[str, float]:
        """Return the means since the last row, and start anew.

        Returns:
            The losses and statistics by name, ``images_per_second``, and ``waiting``: the share of the time that was
            spent waiting for data.
        """
        counted = float(self._sums.pop(_COUNTED))
        row = {name: float(total) / counted if counted else math.nan for name, total in self._sums.items()}
        now = time.perf_counter()
        elapsed = now - self._started
        row["images_per_second"] = self._images / elapsed
        row["waiting"] = self._waited / elapsed
        self.__init__()  # type: ignore[misc]
        return row
