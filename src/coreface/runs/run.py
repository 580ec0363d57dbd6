"""A run: a recipe goes in; a folder with an encoder, its metrics and its report comes out.

This module combines training and evaluation, which do not depend on each other.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from coreface.data import FaceSource
from coreface.distributed.launch import launched, launcher
from coreface.distributed.processes import Processes
from coreface.distributed.rendezvous import joined
from coreface.errors import EvaluationError, RunError
from coreface.evaluation.results import VerificationResult
from coreface.models.encoder import FaceEncoder
from coreface.plurals import counted
from coreface.runs.evaluated_sets import EvaluatedPairs, EvaluatedPeople, open_test_sets
from coreface.runs.evaluation import HELD_OUT
from coreface.runs.folder import (
    REPORT,
    begun_by,
    held_out_beside,
    located,
    open_recipe_faces,
    require_free,
    require_registered,
    start_run,
)
from coreface.runs.report import curves_page, has_test_sets, run_page, write_page_where_possible
from coreface.runs.resuming import (
    continue_folder,
    open_newest,
    require_as_many_identities,
    require_same,
    restart_folder,
    training_origin,
)
from coreface.runs.status import RECIPE, is_finished, is_run, run_lock
from coreface.training.checkpoint import Checkpoint
from coreface.training.checkpoint_writer import raise_storage_error
from coreface.training.evaluating import EvaluatedSet
from coreface.training.initial_weights import ENCODER
from coreface.training.log import say
from coreface.training.recipe import Recipe
from coreface.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class Run:
    """A run that was trained, completely or up to the requested epoch.

    Attributes:
        folder: the run folder.
        encoder: the trained encoder, in eval mode; saved in ``folder / "encoder"`` if training is complete.
        evaluation: its last evaluation, with intervals; None if there are no people to evaluate on, the encoder has
            collapsed, the run was already finished, or this process is not the leader.
    """

    folder: Path
    encoder: FaceEncoder
    evaluation: VerificationResult | None


def train(
    recipe: Recipe | str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    until_epoch: int | None = None,
    console: Console | None = None,
) -> Run:
    """Train an encoder and fill a run folder.

    If a launcher such as torchrun restarts its processes because one has died, this resumes the run that they started.

    Args:
        recipe: a recipe, or the path of one.
        run_dir: the folder to fill: recipe.yaml, environment.json, identities.json, samples.png, metrics.jsonl,
            checkpoints/, encoder/, report.html.
        overwrite: replace an existing run.
        until_epoch: stop after this epoch, with a checkpoint; None trains to the end. `resume` continues.
        console: where to show progress; None shows it on standard error.

    Raises:
        CoreFaceError: the recipe, the faces or the folder are not valid, or training cannot continue; the message says
            what to do.
        TrainingStopped: stopped by Ctrl-C or SIGTERM; `resume` continues.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    folder = Path(run_dir)
    with joined(recipe.device, folder) as processes, threads_of(recipe):
        console = _console(console, processes)
        launchers = [name for name in processes.gather(launcher()) if name]
        # The restart count may differ between machines, if some had not connected yet.
        (restarts,) = processes.maximum(launched().restarts)
        if restarts and processes.on_leader(lambda: begun_by(folder, launchers)):
            return _go_on(folder, located(recipe), False, until_epoch, console, processes)
        processes.on_leader(lambda: require_free(folder, overwrite))
        faces, tested = open_recipe_faces(recipe)
        # Report errors in the recipe here, before anything is written or replaced.
        evaluated = _evaluated(recipe, faces, tested, console, processes)
        trainer = _trainer(recipe, faces, folder, evaluated, console, processes)
        with _lock(folder, processes):
            processes.on_leader(
                lambda: start_run(recipe, folder, faces, console, overwrite=overwrite, launchers=launchers)
            )
            if not evaluated:
                say(
                    console,
                    "nobody is held out, and neither evaluation.faces nor evaluation.pairs is set: this run evaluates "
                    "nothing",
                )
            say(
                console,
                f"training {recipe.model.backbone} on {counted(faces.num_identities, 'identity')}, "
                f"{counted(len(faces), 'image')}, {counted(trainer.total_steps, 'step')}"
                f"{_shared_out(recipe, processes)}; run folder {folder}",
            )
            return _train(trainer, evaluated, folder, until_epoch, console, processes)


def resume(
    run_dir: str | os.PathLike[str],
    recipe: Recipe | str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    force: bool = False,
    until_epoch: int | None = None,
    console: Console | None = None,
) -> Run:
    """Resume an interrupted run from its newest intact checkpoint.

    On a CPU the result is bit-identical to that of an uninterrupted run, with the same number of threads.

    Args:
        run_dir: the run folder.
        recipe: another recipe to continue with, or its path; None uses the run's recipe.
        overrides: fields to change, as on the command line: ``["--data.workers", "4"]``.
        force: resume even if recipe or faces have changed in a way that changes the result.
        until_epoch: stop after this epoch, with a checkpoint; None trains to the end.
        console: where to show progress; None shows it on standard error.

    Raises:
        RunError: there is no run, another process is training in it, or recipe or faces have changed.
        CheckpointError: every checkpoint of the run is damaged.
        CoreFaceError, TrainingStopped: as `train` does.
    """
    folder = Path(run_dir)
    if not is_run(folder):
        state = "holds no run" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} {state}, so there is nothing to resume; start a run with coreface train RECIPE")
    require_registered(folder)
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(folder / RECIPE if recipe is None else recipe, list(overrides))
    recipe = located(recipe)
    with joined(recipe.device, folder) as processes, threads_of(recipe):
        return _go_on(folder, recipe, force, until_epoch, _console(console, processes), processes)


def _go_on(
    folder: Path, recipe: Recipe, force: bool, until_epoch: int | None, console: Console, processes: Processes
) -> Run:
    try:
        with _lock(folder, processes):
            return _resume(folder, recipe, force, until_epoch, console, processes)
    except OSError as error:
        raise_storage_error(folder, error)


def _resume(
    folder: Path, recipe: Recipe, force: bool, until_epoch: int | None, console: Console, processes: Processes
) -> Run:
    checkpoint = processes.on_leader(lambda: open_newest(folder, console))
    faces, tested = open_recipe_faces(recipe)
    if checkpoint is not None:
        require_as_many_identities(checkpoint, faces, folder)
    if checkpoint is not None and not force:
        require_same(checkpoint, recipe, faces, folder)
    if is_finished(folder) and not force:
        say(console, f"{folder} is already finished; to continue training, change the recipe and add --force")
        # A run may have been interrupted between the end of training and the report.
        if (folder / REPORT).exists():
            return Run(folder, FaceEncoder.from_pretrained(folder / ENCODER), None)
        return _conclude(folder, EvaluatedPeople(tested) if tested else None, console, processes)
    evaluated = _evaluated(recipe, faces, tested, console, processes)
    trainer = _trainer(recipe, faces, folder, evaluated, console, processes, checkpoint)
    if checkpoint is None:
        processes.on_leader(lambda: restart_folder(folder, recipe))
        say(
            console,
            f"{folder} was interrupted before its first checkpoint: it starts from the beginning, "
            f"{counted(trainer.total_steps, 'step')}",
        )
    else:
        found = checkpoint
        processes.on_leader(lambda: continue_folder(folder, recipe, found, processes.world_size, console))
        say(
            console,
            f"resuming from {checkpoint.folder}: {trainer.step} of {counted(trainer.total_steps, 'step')} done"
            f"{_shared_out(recipe, processes)}",
        )
    return _train(trainer, evaluated, folder, until_epoch, console, processes)


def _evaluated(
    recipe: Recipe, faces: FaceSource, tested: FaceSource | None, console: Console, processes: Processes
) -> list[EvaluatedPeople | EvaluatedPairs]:
    """Open what the run evaluates while it trains: the people it is evaluated on, and then every test set."""
    evaluated: list[EvaluatedPeople | EvaluatedPairs] = []
    if tested is not None:
        evaluated.append(EvaluatedPeople(tested, held_out=recipe.evaluation.faces is None))
    if (held_out := held_out_beside(recipe, faces)) is not None:
        evaluated.append(EvaluatedPeople(held_out, name=HELD_OUT))
    return [*evaluated, *open_test_sets(recipe.evaluation.pairs, processes, console)]


def _trainer(
    recipe: Recipe,
    faces: FaceSource,
    folder: Path,
    evaluated: Sequence[EvaluatedSet],
    console: Console,
    processes: Processes,
    checkpoint: Checkpoint | None = None,
) -> Trainer:
    return Trainer(
        recipe,
        faces,
        folder,
        evaluated=evaluated,
        console=console,
        checkpoint=checkpoint,
        origin=training_origin(faces),
        processes=processes,
    )


def _console(console: Console | None, processes: Processes) -> Console:
    """Return the console for progress, which is silent in all processes but the leader."""
    return console or Console(stderr=True) if processes.is_leader else Console(quiet=True)


@contextlib.contextmanager
def _lock(folder: Path, processes: Processes) -> Iterator[None]:
    """Keep other trainings out of a run folder. The leader holds the lock for all processes."""
    with contextlib.ExitStack() as stack:
        processes.on_leader(lambda: stack.enter_context(run_lock(folder)))
        yield


def _shared_out(recipe: Recipe, processes: Processes) -> str:
    """Describe how a batch is divided over several processes, and the learning rate of the whole batch."""
    if processes.world_size == 1:
        return ""
    batch, count = recipe.optimizer.batch_size, processes.world_size
    return (
        f", each of {batch} images, {batch // count} for every one of {count} processes, at a learning rate of "
        f"{recipe.optimizer.lr:g}"
    )


@contextlib.contextmanager
def threads_of(recipe: Recipe) -> Iterator[None]:
    """Compute on as many threads of the processor as the recipe says, and leave torch's number as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    trainer: Trainer,
    evaluated: Sequence[EvaluatedSet],
    folder: Path,
    until_epoch: int | None,
    console: Console,
    processes: Processes,
) -> Run:
    trainer.train(until_epoch)
    if trainer.epoch < trainer.recipe.optimizer.epochs:
        return Run(folder, trainer.encoder.eval(), None)
    people = next((one for one in evaluated if isinstance(one, EvaluatedPeople) and one.name is None), None)
    return _conclude(folder, people, console, processes)


def _conclude(folder: Path, people: EvaluatedPeople | None, console: Console, processes: Processes) -> Run:
    encoder = FaceEncoder.from_pretrained(folder / ENCODER)
    if not processes.is_leader:
        return Run(folder, encoder, None)
    evaluation = None
    try:
        evaluation = people.with_intervals(folder / ENCODER, console) if people else None
    except EvaluationError as error:  # training is complete and saved, so a failing evaluation is not an error
        say(console, f"not measured: {error}")
    if evaluation is not None or has_test_sets(folder):
        page = curves_page(folder) if evaluation is None else run_page(folder, evaluation)
        write_page_where_possible(page, folder / REPORT, console)
    return Run(folder, encoder, evaluation)
