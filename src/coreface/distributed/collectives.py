"""Collectives on rows and tensors. Only `RowLayout.gather` is differentiable.

A loss over all processes has the same value in each of them. Its gradient in a process is the gradient of this value
with respect to the tensors of that process. The gradients of replicated weights are therefore SUMMED over the
processes, not averaged.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Return the number of processes: 1 without torch.distributed, or before its group exists."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class RowLayout:
    """How the rows of a batch are split over the processes, in the order of the ranks.

    The numbers of rows may differ and may be 0. Creating a layout is a collective call, and the only synchronisation
    with the host, which needs the numbers.

    Args:
        rows: number of rows of this process.
        device: the device that the processes communicate from.

    Attributes:
        total: rows of all processes.
        start: rows of the processes before this one.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
        counts[dist.get_rank()] = rows
        dist.all_reduce(counts)
        self._counts: list[int] = counts.tolist()
        self._rows = rows
        self.total = sum(self._counts)
        self.start = sum(self._counts[: dist.get_rank()])

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes.

        Differentiable once. The backward pass, also a collective call, sums the gradients that all processes have for
        this process's rows.
        """
        gathered: torch.Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered

    def _gathered(self, rows: torch.Tensor) -> torch.Tensor:
        longest = max(self._counts)
        padded = F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, longest - len(rows)]).contiguous()
        gathered = rows.new_empty(len(self._counts) * longest, *rows.shape[1:])
        dist.all_gather(list(gathered.chunk(len(self._counts))), padded)
        if longest * len(self._counts) == self.total:
            return gathered
        return torch.cat([gathered[i * longest :][:count] for i, count in enumerate(self._counts)])

    def local(self, gathered: torch.Tensor) -> torch.Tensor:
        """Return this process's rows of the rows of all processes."""
        return gathered[self.start : self.start + self._rows]

    def summed_local(self, gathered: torch.Tensor) -> torch.Tensor:
        """Sum the values for all rows over the processes, in place; return this process's rows of the sum."""
        return self.local(summed(gathered))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layout: RowLayout) -> torch.Tensor:
        ctx.layout = layout
        return layout._gathered(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layout.summed_local(gradient.clone()), None


def summed(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes, in place."""
    dist.all_reduce(x)
    return x


def maximum(x: torch.Tensor) -> torch.Tensor:
    """Return the element-wise maximum of a tensor over all processes, in place."""
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def is_sharded(x: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor. Does not import DTensor, which takes half as long as torch itself."""
    return hasattr(x, "to_local")


def local(x: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a DTensor, a differentiable view of its memory; or x itself."""
    part: torch.Tensor = getattr(x, "to_local", lambda: x)()
    return part


def whole(x: torch.Tensor) -> torch.Tensor:
    """Return a DTensor gathered from all processes (a collective call), or x itself."""
    everything: torch.Tensor = getattr(x, "full_tensor", lambda: x)()
    return everything


def with_layout_of(like: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return this process's part as a DTensor with the layout of ``like``; or ``part`` if ``like`` is not a DTensor.

    The part may be on the CPU although ``like`` is on GPUs. No communication.
    """
    if not is_sharded(like):
        return part
    from coreface.distributed.sharded_rows import with_shards_of  # imports DTensor

    return with_shards_of(like, part)
