"""What every process has for itself: its random state, and the running margin of a contrastive term without ``gather``.

A checkpoint has all of it, by rank. As many processes as before get theirs back; another number of them begins with
random states drawn from seed and step, and with the mean of the margins.
"""

from collections.abc import Iterator

import torch

from coreface.distributed.processes import Processes
from coreface.losses.contrastive import CoReFaceLoss
from coreface.training.checkpoint import Checkpoint
from coreface.training.objective import Objective
from coreface.training.random_state import RandomState, drawn_randomness


def own_tensors(objective: Objective, randomness: RandomState, processes: Processes) -> dict[str, torch.Tensor]:
    """Return by name what a checkpoint needs of this process; over several a collective call.

    A margin that every process has for itself is there twice: as it is here, and, under the name it has as a buffer of
    the module, as the mean over the processes.
    """
    tensors = {f"random.{processes.rank}.{name}": value for name, value in randomness.tensors().items()}
    if processes.world_size > 1:
        for name, margin in _margins(objective):
            tensors[f"margin.{processes.rank}.{name}"] = margin
            tensors[name] = margin.clone()
            processes.average_([tensors[name]])
    return tensors


def load_own(
    checkpoint: Checkpoint, objective: Objective, processes: Processes, device: torch.device, seed: int
) -> RandomState:
    """Fill the margins of this process, after those of the modules, and return its random state."""
    if checkpoint.facts["processes"] != processes.world_size:
        return drawn_randomness(device, seed, checkpoint.step, processes.rank)
    if processes.world_size > 1:
        checkpoint.read_into({f"margin.{processes.rank}.{name}": margin for name, margin in _margins(objective)})
    prefix = f"random.{processes.rank}."
    states = checkpoint.read(name for name in checkpoint.layout if name.startswith(prefix))
    return RandomState(**{name.removeprefix(prefix): value for name, value in states.items()})


def _margins(objective: Objective) -> Iterator[tuple[str, torch.Tensor]]:
    for stage, contrast in objective.contrasts.items():
        assert isinstance(contrast, CoReFaceLoss)
        if not contrast.gather:
            yield f"objective.contrasts.{stage}.running_margin", contrast.running_margin
