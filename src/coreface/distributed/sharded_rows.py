"""Rows of one matrix split over the processes, as a DTensor that torch.distributed.checkpoint can reshard."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as Split

_DRAWN = 1024  # rows at a time


class Shard:
    """This process's part of ``total`` rows: the first ceil(total / processes) for rank 0, and so on; it may be empty.

    Args:
        total: rows of all processes.
        device: where the rows are.

    Attributes:
        start: rows of the processes before this one.
        rows: rows of this process.
    """

    def __init__(self, total: int, device: torch.device) -> None:
        self.mesh: DeviceMesh = init_device_mesh(device.type, (dist.get_world_size(),))
        self.total = total
        self.device = device
        each = -(-total // dist.get_world_size())
        self.start = min(dist.get_rank() * each, total)
        self.rows = min(each, total - self.start)

    def of(self, own: torch.Tensor) -> DTensor:
        """Return this process's rows, (rows, size), as part of the whole; memory is shared."""
        shape = torch.Size([self.total, *own.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(own, self.mesh, [Split(0)], run_check=False, shape=shape, stride=stride)

    def part_of(self, everything: torch.Tensor) -> DTensor:
        """Return this process's rows of all rows, (total, size)."""
        return self.of(everything[self.start : self.start + self.rows].to(self.device))

    def normal(self, size: int, std: float) -> DTensor:
        """Draw N(0, std) rows, the same numbers (and state of the generator) as one process draws for all rows."""
        own = torch.empty(self.rows, size)
        for start in range(0, self.total, _DRAWN):
            drawn = torch.empty(min(_DRAWN, self.total - start), size).normal_(std=std)
            first, last = max(start, self.start), min(start + len(drawn), self.start + self.rows)
            if first < last:
                own[first - self.start : last - self.start] = drawn[first - start : last - start]
        return self.of(own.to(self.device))

    def columns(self, identities: torch.Tensor) -> torch.Tensor:
        """Return the place of each identity among this process's rows, -1 where it is another's."""
        own = identities - self.start
        return torch.where((own >= 0) & (own < self.rows), own, -1)


def spread_alike(like: torch.Tensor, own: torch.Tensor) -> DTensor:
    """Return this process's rows as part of a DTensor of the shape and placements of another, on their own device."""
    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    if mesh.device_type != own.device.type:
        mesh = init_device_mesh(own.device.type, (mesh.size(),))
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(own, mesh, like.placements, run_check=False, shape=shape, stride=stride)
