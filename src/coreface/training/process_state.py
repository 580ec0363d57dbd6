"""State that differs between processes: the random state, and the running margin of a term without ``gather``.

A checkpoint contains all of it, by rank. The same number of processes gets these states back. Another number starts
with random states drawn from seed and step, and with the mean of the margins.
"""

from collections.abc import Iterator

import torch

from coreface.distributed.processes import Processes
from coreface.losses.contrastive import CoReFaceLoss
from coreface.training.checkpoint import Checkpoint
from coreface.training.objective import Objective
from coreface.training.random_state import RandomState, drawn_randomness


def local_tensors(objective: Objective, randomness: RandomState, processes: Processes) -> dict[str, torch.Tensor]:
    """Return this process's part of a checkpoint by name. With several processes it is a collective call.

    A margin that differs between processes is returned twice: this process's value, and, under the name of the module's
    buffer, the mean over the processes.
    """
    tensors = {f"random.{processes.rank}.{name}": value for name, value in randomness.tensors().items()}
    if processes.world_size > 1:
        for name, margin in _local_margins(objective):
            tensors[f"margin.{processes.rank}.{name}"] = margin
            tensors[name] = margin.clone()
            processes.average_([tensors[name]])
    return tensors


def load_local(
    checkpoint: Checkpoint, objective: Objective, processes: Processes, device: torch.device, seed: int
) -> RandomState:
    """Fill the margins of this process and return its random state. Call it after the modules have been loaded."""
    if checkpoint.facts.world_size != processes.world_size:
        return drawn_randomness(device, seed, checkpoint.step, processes.rank)
    if processes.world_size > 1:
        margins = {f"margin.{processes.rank}.{name}": margin for name, margin in _local_margins(objective)}
        checkpoint.read_into(margins)
    return RandomState(**checkpoint.read_under(f"random.{processes.rank}."))


def _local_margins(objective: Objective) -> Iterator[tuple[str, torch.Tensor]]:
    for stage, contrast in objective.contrasts.items():
        assert isinstance(contrast, CoReFaceLoss)
        if not contrast.gather:
            yield f"objective.contrasts.{stage}.running_margin", contrast.running_margin
