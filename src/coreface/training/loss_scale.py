"""Loss scaling for float16, in which many gradients would underflow.

Source: Micikevicius et al., "Mixed Precision Training" (ICLR 2018), section 3.2, with the scale chosen as in
torch.amp.GradScaler. As with the guard, nothing is read from the device.
"""

from collections.abc import Iterable

import torch
from torch import nn

from coreface.distributed.collectives import local

_START, _LEAST = 2.0**16, 1.0
_PATIENCE = 2000  # finite steps after which the scale is doubled


class LossScale:
    """The factor of the loss in the backward pass, by which the gradients are divided afterwards.

    If the loss is finite and the gradient is not, the scale was too large: it is halved and the step is skipped.
    This happens at the beginning and occasionally later, and says nothing about the batch, unless the scale is 1, its
    smallest value.

    Args:
        device: where the training runs.

    Attributes:
        value: the scale, float32 scalar on the device.
        finite: finite steps since its last change, int64 scalar on the device.
        overflows: skipped steps for which the scale was too large, int64 scalar on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.value = torch.tensor(_START, device=device)
        self.finite = torch.zeros((), dtype=torch.int64, device=device)
        self.overflows = torch.zeros((), dtype=torch.int64, device=device)

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide all gradients by the scale, in place."""
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / self.value)

    def update(self, loss: torch.Tensor, gradient_norm: torch.Tensor) -> torch.Tensor:
        """Update the scale for the next step.

        Args:
            loss: of the step, a scalar, not scaled.
            gradient_norm: over all gradients, a scalar, not scaled.

        Returns:
            Whether the scale caused a non-finite gradient, a bool scalar on the device.
        """
        finite = torch.isfinite(gradient_norm).to(self._device)
        overflow = torch.isfinite(loss.detach()).to(self._device) & ~finite & (self.value > _LEAST)
        steps = torch.where(overflow, 0, self.finite + finite)
        grows = steps >= _PATIENCE
        self.value = torch.where(overflow, self.value / 2, torch.where(grows, self.value * 2, self.value))
        self.finite = torch.where(grows, 0, steps)
        self.overflows = self.overflows + overflow
        return overflow

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state by name, for a checkpoint."""
        return {"value": self.value, "finite": self.finite, "overflows": self.overflows}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from what `tensors` returned."""
        self.value, self.finite, self.overflows = (
            state[name].to(self._device) for name in ("value", "finite", "overflows")
        )
