"""Reports of a running training: rows of metrics, the state, warnings, and the reason if it cannot continue."""

from pathlib import Path

import torch

from coreface.distributed.launch import resume_command
from coreface.distributed.processes import Processes
from coreface.errors import DivergedError
from coreface.plurals import counted
from coreface.training.log import RunLog
from coreface.training.meter import Meter
from coreface.training.recipe import Recipe
from coreface.training.samples import save_batch
from coreface.training.step import TrainingStep
from coreface.training.watch import Watch

BAD_BATCH = "bad_batch"


class Progress:
    """Reports the steps of one training.

    Args:
        recipe: of the training.
        identities: C.
        stepper: takes the steps.
        folder: the run folder.
        processes: those that train.

    Attributes:
        meter: adds up what the steps return.
    """

    def __init__(
        self, recipe: Recipe, identities: int, stepper: TrainingStep, folder: Path, processes: Processes
    ) -> None:
        self.meter = Meter()
        self._recipe, self._stepper, self._folder, self._processes = recipe, stepper, folder, processes
        self._watch = Watch(identities)

    def report_settings(self, log: RunLog) -> None:
        """Report settings of the recipe that may surprise."""
        for text in self._recipe.never_reached():
            log.warn("never reached", text)
        if (count := self._recipe.optimizer.micro_batches) > 1:
            size, rest = divmod(self._recipe.optimizer.batch_size, count)
            sizes = f"{size} or {size + 1}" if rest else f"{size}"
            contrastive = any(stage.contrastive for stage in self._recipe.stages)
            term = ", and the contrastive term compares the images of one micro-batch only" if contrastive else ""
            log.say(f"every batch is {count} micro-batches of {sizes} images: BatchNorm sees one at a time{term}")

    def report(self, log: RunLog, *, step: int, epoch: int, rate: float) -> None:
        """Write the row of the steps since the last one, and show the state of the training.

        Args:
            log: of the run.
            step: optimizer steps done.
            epoch: the current one, from 1.
            rate: learning rate of the last step.
        """
        row = self.meter.row()
        skipped = int(self._stepper.guard.skipped)
        scale = self._stepper.scale
        scaling = {} if scale is None else {"loss_scale": float(scale.value), "overflows": int(scale.overflows)}
        log.row("step", {"step": step, "epoch": epoch, "lr": rate, **row, "skipped": skipped, **scaling})
        warming_up = epoch - 1 < self._recipe.optimizer.warmup_epochs
        for name, text in self._watch.look(row["classification"], self._stepper.view, warming_up=warming_up):
            log.warn(name, text)
        waiting = 100 * row["waiting"]
        state = f"loss {row['loss']:.3f}  {row['images_per_second']:.0f} images/s  waiting for data {waiting:.1f} %"
        if skipped:
            state += f"  {counted(skipped, 'step')} skipped"
        log.advance(step, epoch, state)

    def require_finite(self, images: torch.Tensor, identities: torch.Tensor, *, step: int, rate: float) -> None:
        """Raise `DivergedError`, and keep the last batch, after ``optimizer.max_skips`` steps without a finite one."""
        limit = self._recipe.optimizer.max_skips
        if int(self._stepper.guard.in_a_row) < limit:
            return
        path = self._folder / (BAD_BATCH if self._processes.world_size == 1 else f"{BAD_BATCH}_{self._processes.rank}")
        save_batch(images, identities, path)
        precision = "" if self._stepper.precision == torch.float32 else ", --precision float32"
        command = resume_command(self._folder, self._processes.world_size)
        raise DivergedError(
            f"{limit} steps in a row had no finite loss or gradient, the last of them step {step}; they changed "
            f"nothing, and the last batch is in {path}.png and .safetensors. Continue from the last checkpoint with a "
            f"lower rate (now {rate:g}){precision}: {command} --force --optimizer.lr "
            f"{self._recipe.optimizer.lr / 10:g}"
        )

    def require_good_step(self, step: int) -> None:
        """Raise `DivergedError` if, at the end of a run, none of its ``step`` steps had a finite loss and gradient."""
        scale = self._stepper.scale
        if int(self._stepper.guard.skipped) + (0 if scale is None else int(scale.overflows)) == step:
            raise DivergedError(
                f"none of {counted(step, 'step')} had a finite loss and gradient, so nothing was learnt: check the "
                "images in samples.png, and try a lower optimizer.lr, or --precision float32"
            )
