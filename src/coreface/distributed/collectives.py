"""Rows that are spread over the processes of torch.distributed: collectives outside of autograd.

A loss over all processes has the same value in each of them, and its gradient in each is that of this one value with
respect to what the process holds itself. So the gradients of weights that every process has a copy of are SUMMED over
the processes, not averaged.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F


def process_count() -> int:
    """Return how many processes take part: 1 without torch.distributed or before its group exists."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class SpreadRows:
    """Rows of a batch, some on every process (the numbers may differ, and be 0), in the order of the ranks.

    Making one is a collective call, and the one synchronisation: the host has to learn the numbers.

    Args:
        own: rows of this process.
        device: the device that the processes communicate from.

    Attributes:
        total: rows of all processes.
        start: rows of the processes before this one.
    """

    def __init__(self, own: int, device: torch.device) -> None:
        counts = torch.zeros(process_count(), dtype=torch.int64, device=device)
        counts[dist.get_rank()] = own
        dist.all_reduce(counts)
        self._counts: list[int] = counts.tolist()
        self._own = own
        self.total = sum(self._counts)
        self.start = sum(self._counts[: dist.get_rank()])

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes."""
        longest = max(self._counts)
        padded = F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, longest - len(rows)]).contiguous()
        everyone = rows.new_empty(len(self._counts) * longest, *rows.shape[1:])
        dist.all_gather(list(everyone.chunk(len(self._counts))), padded)
        if longest * len(self._counts) == self.total:
            return everyone
        return torch.cat([everyone[i * longest :][:count] for i, count in enumerate(self._counts)])

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return those of all rows that are this process's."""
        return rows[self.start : self.start + self._own]

    def summed_own(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum what every process has for all rows, in place, and return this process's rows of it."""
        return self.own(summed(rows))


def summed(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes, in place."""
    dist.all_reduce(x)
    return x


def maximum(x: torch.Tensor) -> torch.Tensor:
    """Return the largest of a tensor over all processes, in place."""
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def is_sharded(x: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor; says so without importing DTensor, which takes as long as half of torch."""
    return hasattr(x, "to_local")


def local(x: torch.Tensor) -> torch.Tensor:
    """Return what this process has of a DTensor, which shares its memory and hands back gradients; or x itself."""
    own: torch.Tensor = getattr(x, "to_local", lambda: x)()
    return own


def whole(x: torch.Tensor) -> torch.Tensor:
    """Return all of a DTensor, in every process: a collective call; or x itself."""
    everything: torch.Tensor = getattr(x, "full_tensor", lambda: x)()
    return everything


def with_rows_of(like: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return this process's rows as part of a whole that is spread as ``like`` is; or ``own`` where that is no DTensor.

    The rows may be on the processor where ``like`` is on GPUs. No communication.
    """
    if not is_sharded(like):
        return own
    from coreface.distributed.sharded_rows import spread_alike  # DTensor takes as long to import as half of torch

    return spread_alike(like, own)
