"""The recipe of a run: everything that determines its result. This module does not import torch."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from coreface.training.recipe_data import DataRecipe, EvaluationRecipe
from coreface.training.recipe_sections import (
    CheckpointRecipe,
    ClassifierRecipe,
    ModelRecipe,
    OptimizerRecipe,
    StageRecipe,
    require,
)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run.

    Attributes:
        model: The encoder.
        classifier: The identity centres and their margin.
        data: The faces.
        stages: Views, dropout and contrastive term, from an epoch on.
        optimizer: The optimizer and its schedule.
        evaluation: Evaluation during training.
        checkpoint: The checkpoints, from which an interrupted run resumes.
        init_from: A run, a saved encoder, a checkpoint, or a public InsightFace .pth, for the encoder's first weights.
        seed: Of weights, order, flips and dropout masks.
        precision: auto uses bf16 autocast if the processor has units for it, and float32 otherwise; float16, for
            GPUs without bf16, scales the loss.
        matmul: tf32 rounds the factors of float32 products on GPUs that support it; float32 does not round.
        compile: Compile the trunk with torch.compile.
        device: auto uses a GPU if there is one; or cpu, cuda, mps.
        threads: Of the processor, per process; null uses torch's default. The number affects the last digits.
        log_every: Steps between two rows of metrics.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    classifier: ClassifierRecipe = field(default_factory=ClassifierRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    stages: list[StageRecipe] = field(default_factory=lambda: [StageRecipe()])
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    init_from: str | None = None
    seed: int = 1
    precision: Literal["auto", "float32", "bf16", "float16"] = "auto"
    matmul: Literal["float32", "tf32"] = "float32"
    compile: bool = False
    device: str = "auto"
    threads: int | None = None
    log_every: int = 20

    def __post_init__(self) -> None:
        starts = [stage.from_epoch for stage in self.stages]
        require(bool(starts) and starts[0] == 1, "stages", starts, "a first stage with from_epoch 1")
        require(starts == sorted(set(starts)), "stages.from_epoch", starts, "rising epochs")
        nobody = self.evaluation.keep_best is not None and not self.data.holdout
        require(not nobody, "evaluation.keep_best", self.evaluation.keep_best, "null, because data.holdout is 0")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")
        require(self.log_every >= 1, "log_every", self.log_every, "at least 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to below 2 ** 63")

    def stage_at(self, epoch: int) -> int:
        """Return the index of the stage that ``epoch`` belongs to."""
        return sum(stage.from_epoch <= epoch for stage in self.stages) - 1

    def never_reached(self) -> list[str]:
        """Describe the stages and drops of the rate that come after the last epoch."""
        last = self.optimizer.epochs
        late = [f"the stage from epoch {stage.from_epoch}" for stage in self.stages if stage.from_epoch > last]
        late += [f"the drop of the rate at epoch {drop}" for drop in self.optimizer.lr_drops if drop > last]
        return [f"{item} is never reached: the last epoch is {last}" for item in late]

    def learning_rate(self, epoch: float) -> float:
        """Return the rate at a point in time; 1.0 is the start of epoch 1, 1.5 its middle."""
        optimizer = self.optimizer
        done = epoch - 1.0
        if done < optimizer.warmup_epochs:
            return optimizer.lr * done / optimizer.warmup_epochs
        if optimizer.schedule == "step":
            return optimizer.lr / float(10 ** sum(drop <= epoch for drop in optimizer.lr_drops))
        share = (done - optimizer.warmup_epochs) / (optimizer.epochs - optimizer.warmup_epochs)
        if optimizer.schedule == "cosine":
            return optimizer.lr * 0.5 * (1 + math.cos(math.pi * share))
        return optimizer.lr * math.pow(1 - share, optimizer.power)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as nested plain values."""
        plain = asdict(self)
        margin = plain["classifier"]["margin"]
        margin.update(margin.pop("options"))
        return plain

    def to_yaml(self) -> str:
        """Return the whole recipe, defaults included, as YAML."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=120)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "recipe") -> Self:
        """Return the recipe that `to_dict` described; fields that are left out have their defaults.

        Args:
            values: nested plain values.
            where: what they were read from, which begins the message of an error.

        Raises:
            RecipeError: an unknown field, or a value out of range.
        """
        from coreface.training.recipe_file import recipe_from

        return recipe_from(cls, values, where)

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """Read a recipe file.

        Args:
            path: a YAML file.
            overrides: as on the command line: ``["--optimizer.lr", "0.05"]``.

        Raises:
            RecipeError: the file is missing, is not YAML, or has an unknown field or a value out of range.
        """
        from coreface.training.recipe_file import read_recipe  # jsonargparse is slow to import

        return read_recipe(cls, Path(path), overrides)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole recipe, defaults included, to a YAML file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")
