"""The processes that train together, and how they exchange values.

Training uses one process unless torchrun (or another launcher that sets RANK, WORLD_SIZE and MASTER_ADDR) has started
several. Then all of them run the same program, each on a part of every batch. The process of rank 0 is the leader: it
shows progress and writes the run's files, except for those that exist per process (reports of bad batches and
tracebacks).
"""

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from coreface.distributed.collectives import summed

# A process that dies closes its connections, which the others notice at once. A long timeout for a process that is
# alive, such as a leader that evaluates, is therefore safe.
_TIMEOUT = datetime.timedelta(days=7)

Result = TypeVar("Result")


class Processes:
    """The group of processes that train together. Without torch.distributed it has one member.

    All methods are collective: every process calls them, in the same order.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        group: the gloo group that the methods use, created for this object; None for one process.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if several else 0
        self.world_size = dist.get_world_size() if several else 1
        self.group = dist.new_group(backend="gloo", timeout=_TIMEOUT) if several else None

    @property
    def is_leader(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def with_new_group(self) -> "Processes":
        """Return the same processes with a separate group, for use in another thread."""
        return Processes() if self.world_size > 1 else self

    def maximum(self, *numbers: int) -> list[int]:
        """Return the maximum of each number over the processes."""
        if self.world_size == 1:
            return list(numbers)
        agreed = torch.tensor(numbers)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.group)
        return [int(number) for number in agreed.tolist()]

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all processes, in the order of the ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def on_all(self, work: Callable[[], Result]) -> list[Result]:
        """Call ``work`` in every process and return all results. If one raises, all raise its error."""
        results = self.gather(_outcome(work))
        for result in results:
            if isinstance(result, _Raised):
                raise result.error
        return results  # type: ignore[return-value]

    def on_leader(self, work: Callable[[], Result]) -> Result:
        """Call ``work`` in the leader and return its result in every process. If it raises, all raise its error."""
        if self.world_size == 1:
            return work()
        told: list[Any] = [_outcome(work) if self.is_leader else None]
        dist.broadcast_object_list(told, src=0, group=self.group)
        if isinstance(told[0], _Raised):
            raise told[0].error
        return told[0]  # type: ignore[no-any-return]

    def gather_on_leader(self, value: Result) -> list[Result] | None:
        """Return the values of all processes, in the order of the ranks, to the leader alone; None to the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_leader else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values

    def scatter(self, work: Callable[[], Sequence[Result]]) -> Result:
        """Call ``work`` in the leader and return to each process its own one of the results, which come in the order of
        the ranks. If it raises, all raise its error."""
        if self.world_size == 1:
            return work()[0]
        results: list[Any] | None = None
        if self.is_leader:
            outcome = _outcome(work)
            results = [outcome] * self.world_size if isinstance(outcome, _Raised) else list(outcome)
        received: list[Any] = [None]
        dist.scatter_object_list(received, results, src=0, group=self.group)
        if isinstance(received[0], _Raised):
            raise received[0].error
        return received[0]  # type: ignore[no-any-return]

    def average_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace floating-point tensors by their means over the processes, in place; others are unchanged.

        Uses the default group of torch.distributed, which supports tensors on GPUs.
        """
        if self.world_size == 1:
            return
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            if tensor.is_floating_point():
                by_type.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_type.values():
            mean = summed(torch.cat([tensor.reshape(-1) for tensor in alike])) / self.world_size
            pieces = torch.split(mean, [tensor.numel() for tensor in alike])
            torch._foreach_copy_(alike, [piece.view_as(x) for piece, x in zip(pieces, alike, strict=True)])


class _Raised:
    """An error that is sent to the other processes."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _outcome(work: Callable[[], Result]) -> Result | _Raised:
    try:
        return work()
    except Exception as error:  # not Ctrl-C or a stop by a signal, which must end this process
        return _Raised(error)
