"""Estimates how long a study takes from measured steps. The arms take turns, so that a slow phase affects all."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from coreface.evaluation.embedding import photographs_of
from coreface.runs.folder import open_recipe_faces
from coreface.runs.run import threads_of
from coreface.studies.job import SHARED
from coreface.studies.plan import Study
from coreface.studies.scores import open_sets
from coreface.training.recipe import Recipe
from coreface.training.trainer import Trainer

_EMBEDDED = 32  # images embedded for the timing


@dataclass(frozen=True)
class StepTimes:
    """Measured times.

    Attributes:
        step: seconds of a step of the shared epochs (``shared``), and of the last epoch of every arm; the median.
        steps: steps of an epoch.
        measuring: seconds to measure a run on all sets.
    """

    step: dict[str, float]
    steps: int
    measuring: float

    def seconds(self, study: Study, arm: str) -> float:
        """Return how long a run takes: an arm after the branch with its measuring, or the shared epochs."""
        if arm == SHARED:
            return study.shared_until * self.steps * self.step[SHARED]
        epochs = study.arms[arm].recipe.optimizer.epochs - study.shared_until
        return epochs * self.steps * self.step[arm] + self.measuring


def time_steps(study: Study, rounds: int = 8) -> StepTimes:
    """Measure a step of every arm, and of the shared epochs, on the first images of an epoch.

    The first two rounds, which warm up, are not counted.
    """
    with threads_of(study.base), tempfile.TemporaryDirectory() as folder:
        return _time_steps(study, rounds, Path(folder))


def _time_steps(study: Study, rounds: int, folder: Path) -> StepTimes:
    recipes: dict[str, tuple[Recipe, int]] = {}
    if study.shared_until:
        recipes[SHARED] = (study.base, study.shared_until)
    for name, arm in study.arms.items():
        recipes[name] = (arm.recipe, arm.recipe.optimizer.epochs)
    faces, _ = open_recipe_faces(study.base)
    trainers = {
        name: Trainer(recipe, faces, folder, console=Console(quiet=True)) for name, (recipe, _) in recipes.items()
    }
    first = next(iter(trainers.values()))
    batch = next(iter(first.loader.epoch(1)))
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds + 2):
        for name, trainer in trainers.items():
            recipe, epoch = recipes[name]
            trainer.encoder.train()
            trainer.objective.train()
            begun = time.perf_counter()
            trainer.train_step(recipe.stage_at(epoch), recipe.optimizer.lr, *batch)
            if batch[0].is_cuda:
                torch.cuda.synchronize()
            if number >= 2:
                taken[name].append(time.perf_counter() - begun)
    return StepTimes(
        {name: median(times) for name, times in taken.items()}, len(first.loader), _measuring(study, first)
    )


def _measuring(study: Study, trainer: Trainer) -> float:
    sources = [photographs_of(source) for source in open_sets(study.measure, study.base)]
    encoder = trainer.encoder.eval()
    seconds = 0.0
    for images in sources:
        some = [images.image(index) for index in range(min(_EMBEDDED, len(images)))]
        begun = time.perf_counter()
        encoder.embed(some)
        seconds += (time.perf_counter() - begun) / len(some) * len(images)
    return seconds
