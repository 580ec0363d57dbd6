"""The rows of a matrix split over the processes, as a DTensor that torch.distributed.checkpoint can reshard."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as Split

_DRAWN = 1024  # rows drawn at a time


class Shard:
    """This process's part of ``total`` rows: rank 0 has the first ceil(total / processes), and so on. May be empty.

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

    def of(self, local: torch.Tensor) -> DTensor:
        """Return this process's rows, (rows, size), as a part of the whole matrix, sharing memory."""
        shape = torch.Size([self.total, *local.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local, self.mesh, [Split(0)], run_check=False, shape=shape, stride=stride)

    def part_of(self, whole: torch.Tensor) -> DTensor:
        """Return this process's rows of the whole matrix, (total, size)."""
        return self.of(whole[self.start : self.start + self.rows].to(self.device))

    def normal(self, *shape: int, std: float) -> DTensor:
        """Draw rows of a shape from N(0, std): the numbers and the generator's final state equal those of one
        process."""
        local = torch.empty(self.rows, *shape)
        for start in range(0, self.total, _DRAWN):
            drawn = torch.empty(min(_DRAWN, self.total - start), *shape).normal_(std=std)
            first, last = max(start, self.start), min(start + len(drawn), self.start + self.rows)
            if first < last:
                local[first - self.start : last - self.start] = drawn[first - start : last - start]
        return self.of(local.to(self.device))

    def columns(self, identities: torch.Tensor) -> torch.Tensor:
        """Return the index of each identity among this process's rows, -1 where another process has it."""
        index = identities - self.start
        return torch.where((index >= 0) & (index < self.rows), index, -1)


def with_shards_of(like: torch.Tensor, local: torch.Tensor) -> DTensor:
    """Return this process's rows as part of a DTensor of the shape and placements of ``like``, on their own device."""
    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    if mesh.device_type != local.device.type:
        mesh = init_device_mesh(local.device.type, (mesh.size(),))
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(local, mesh, like.placements, run_check=False, shape=shape, stride=stride)
