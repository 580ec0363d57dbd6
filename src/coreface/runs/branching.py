"""Runs that continue from a checkpoint of another run with a different recipe, to share the first epochs."""

import dataclasses
import json
from pathlib import Path

import torch
from rich.console import Console

from coreface.errors import RunError
from coreface.files import write_atomically
from coreface.runs.folder import located, open_recipe_faces, start_run
from coreface.training.checkpoint import open_checkpoint, write_checkpoint
from coreface.training.checkpoint_state import module_tensors
from coreface.training.checkpoint_writer import CHECKPOINTS
from coreface.training.metrics_file import METRICS
from coreface.training.objective import Objective
from coreface.training.random_state import drawn_randomness
from coreface.training.recipe import Recipe


def branch_run(checkpoint_folder: Path, folder: Path, recipe: Recipe, epoch: int, console: Console) -> None:
    """Start a run from the state of another after an epoch; `coreface.runs.run.resume` trains the rest.

    Weights, class centres, running margins, the optimizer's state, the random state, and the rows of metrics.jsonl are
    taken from the checkpoint. Terms that the other run does not have start from their initial state. If the recipe has
    another seed, the order, the flips, the dropout masks and the random state follow from it afterwards.

    Args:
        checkpoint_folder: a checkpoint at the end of the epoch, ``<run>/checkpoints/step_<N>``.
        folder: the new run; an existing one is replaced.
        recipe: the recipe of the new run, with the same network, faces and batch.
        epoch: number of finished epochs.
        console: where to show warnings about the faces.

    Raises:
        CheckpointError: the checkpoint is damaged.
        RunError: the checkpoint is not from the end of that epoch, or contains parts that the recipe does not have.
    """
    checkpoint = open_checkpoint(checkpoint_folder)
    if checkpoint.facts.epoch + 1 != epoch or checkpoint.facts.world_size != 1:
        raise RunError(
            f"{checkpoint_folder} was not written by one process at the end of epoch {epoch}; train it again"
        )
    faces, _ = open_recipe_faces(recipe)
    objective = Objective(recipe, recipe.model.embedding_size, faces.num_identities)
    own = module_tensors({"objective": objective})
    unknown = [name for name in checkpoint.layout if name.startswith("objective.") and name not in own]
    if unknown:
        raise RunError(f"{checkpoint_folder} holds {unknown[0]}, which the recipe of {folder} has no use for")
    tensors = {name: value for name, value in own.items() if name not in checkpoint.layout}
    tensors |= checkpoint.read(checkpoint.layout)
    recipe = located(recipe)
    if recipe.seed != checkpoint.facts.recipe["seed"]:
        drawn = drawn_randomness(torch.device("cpu"), recipe.seed, checkpoint.step, 0)
        tensors |= {f"random.0.{name}": value for name, value in drawn.tensors().items()}
    start_run(recipe, folder, faces, console, overwrite=True)
    rows = (checkpoint_folder.parents[1] / METRICS).read_bytes()
    write_atomically(folder / METRICS, rows)
    facts = dataclasses.replace(
        checkpoint.facts,
        epoch=epoch,
        batch=0,
        metrics_bytes=len(rows),
        recipe=json.loads(json.dumps(recipe.to_dict())),
    )
    # Last: the checkpoint makes the run resumable.
    write_checkpoint(folder / CHECKPOINTS, checkpoint.step, tensors, facts)
