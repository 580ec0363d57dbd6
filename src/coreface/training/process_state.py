"""State that each process has for itself: its random state, and the running margin of a term without ``gather``.

A checkpoint holds all of it, by rank. The same number of processes gets its states back. Another number begins with
random states drawn from seed and step, and with the mean of the margins.
"""

from collections.abc import Iterator

import torch

from coreface.distributed.processes import Processes
from coreface.losses.contrastive import CoReFaceLoss
from coreface.training.checkpoint import Checkpoint
from coreface.training.objective import Objective
from coreface.training.random_state import RandomState, drawn_randomness


def local_tensors(objective: Objective, randomness: RandomState, processes: Processes) -> dict[str, torch.Tensor]:
    """Return by name what a checkpoint needs from this process. Over several processes a collective call.

    A margin that each process has for itself is returned twice: as it is here, and, under its name as a buffer of the
    module, as the mean over the processes.
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
