"""Steps with non-finite numbers leave no trace: no weight, momentum, statistic or running margin changes.

Whether a step is finite is known on the device only, and reading it would stop a GPU at every step. So it is not read:
buffers (BatchNorm's statistics, running margins) are copied before the step and selected after it by torch.where, and
the fused kernels of the optimizers skip their update where ``found_inf`` is set, as for torch.amp.GradScaler.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

_Place = tuple[nn.Module, str]  # a buffer by its module and name: the module may replace the tensor during the step


class NonFiniteGuard:
    """Undoes steps whose loss or gradient is not finite, and counts them.

    Args:
        modules: their buffers are restored.
        device: where the training runs.

    Attributes:
        skipped: steps skipped so far, int64 scalar on the device.
        in_a_row: steps skipped since the last finite one, int64 scalar on the device.
        last: whether the last step was skipped, a bool scalar on the device.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._modules = list(modules)
        self._device = device
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.last = torch.zeros((), dtype=torch.bool, device=device)
        self._saved: list[_SameType] = []

    def before(self) -> None:
        """Copy the buffers before a step."""
        by_type: dict[torch.dtype, list[_Place]] = defaultdict(list)
        for parent in self._modules:
            for module in parent.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        by_type[buffer.dtype].append((module, name))
        self._saved = [_SameType(places) for places in by_type.values()]

    def finish(
        self,
        optimizer: torch.optim.Optimizer,
        loss: torch.Tensor,
        gradient_norm: torch.Tensor,
        overflow: torch.Tensor | None = None,
    ) -> None:
        """Take the optimizer's step if loss and gradient are finite; otherwise undo the forward pass.

        Args:
            optimizer: holds the gradients.
            loss: of the step, a scalar.
            gradient_norm: over all gradients, a scalar.
            overflow: whether the scale of the loss is to blame, a bool scalar: the step is undone but not counted.
        """
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(gradient_norm)).to(self._device)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        elif not bool(bad):  # without a fused kernel the host has to read the value
            optimizer.step()
        for saved in self._saved:
            saved.restore(bad)
        self._saved = []
        self.last = bad
        blamed = bad if overflow is None else bad & ~overflow
        self.skipped += blamed
        # An overflow says nothing about the batch, so it neither continues nor ends a sequence of bad ones.
        self.in_a_row = torch.where(bad, self.in_a_row + blamed, 0)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the counts by name, for a checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, counts: dict[str, torch.Tensor]) -> None:
        """Continue from what `tensors` returned."""
        self.skipped, self.in_a_row = (counts[name].to(self._device) for name in ("skipped", "in_a_row"))


class _SameType:
    """A copy of the buffers of one dtype, concatenated into one tensor: a few kernels instead of one per buffer."""

    def __init__(self, places: list[_Place]) -> None:
        self._places = places
        self._before = torch.cat([buffer.reshape(-1) for buffer in self._buffers()])

    def restore(self, bad: torch.Tensor) -> None:
        buffers = self._buffers()
        # torch.cat promotes dtypes: a running margin that became float64 during the step loses no digit.
        after = torch.cat([buffer.reshape(-1) for buffer in buffers])
        chosen = torch.split(torch.where(bad, self._before, after), [buffer.numel() for buffer in buffers])
        pieces = [piece.view_as(buffer) for piece, buffer in zip(chosen, buffers, strict=True)]
        torch._foreach_copy_(buffers, pieces)

    def _buffers(self) -> list[torch.Tensor]:
        return [buffer for module, name in self._places if (buffer := module._buffers[name]) is not None]
