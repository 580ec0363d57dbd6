"""The images of a training: their loader, their alignment, and the list of unreadable ones."""

from dataclasses import asdict
from pathlib import Path

import torch

from coreface.data.augmentation import Augmentation
from coreface.data.loader import FaceLoader
from coreface.data.source import FaceSource
from coreface.distributed.processes import Processes
from coreface.files import write_lines
from coreface.images.alignment import Alignment
from coreface.plurals import counted
from coreface.training.log import RunLog
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import AugmentRecipe

UNREADABLE = "unreadable.txt"  #: file of a run that lists the images that could not be read


def build_loader(recipe: Recipe, faces: FaceSource, device: torch.device, processes: Processes) -> FaceLoader:
    """Build the loader of this process.

    Raises:
        RecipeError: the batch cannot be divided among the processes.
        DataError: the faces cannot fill one batch.
    """
    return FaceLoader(
        faces,
        recipe.optimizer.images_per_process(processes.world_size),
        image_size=recipe.data.image_size,
        seed=recipe.seed,
        workers=recipe.data.workers,
        device=device,
        flip=recipe.data.flip,
        augment=None if recipe.data.augment == AugmentRecipe() else Augmentation(**asdict(recipe.data.augment)),
        rank=processes.rank,
        world_size=processes.world_size,
        max_unreadable=recipe.data.max_unreadable,
        micro_batches=recipe.optimizer.micro_batches,
    )


def crops_alignment(faces: FaceSource, recipe: Recipe) -> Alignment:
    """Return the alignment of the crops: the recorded one, or else the recipe's."""
    said = recipe.data.alignment
    return faces.alignment if faces.alignment.known or said is None else Alignment(said)


def share_unreadable(loader: FaceLoader, processes: Processes) -> None:
    """Share the unreadable images of all processes: a collective call.

    Raises:
        DataError: together they are more than ``max_unreadable`` allows.
    """
    for found in processes.gather(loader.unreadable):
        loader.unreadable.update(found)
    loader.require_readable()


def list_unreadable(unreadable: dict[int, str], folder: Path, log: RunLog) -> None:
    """Update the list of a run if it has grown, and warn."""
    path = folder / UNREADABLE
    listed = path.read_text(encoding="utf-8").count("\n") if path.exists() else 0
    if len(unreadable) > listed:
        write_lines(path, (unreadable[index] for index in sorted(unreadable)))
        log.say(f"warning: {counted(len(unreadable), 'unreadable image')} left out, listed in {path}")
