"""The training loop, which the recipe determines completely."""

import copy
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from coreface.data.source import FaceSource, require_identities
from coreface.distributed.device import choose_device, choose_precision, matmul_precision
from coreface.distributed.launch import resume_command
from coreface.distributed.processes import Processes
from coreface.errors import DataError, TrainingStopped
from coreface.files import user_path
from coreface.models.encoder import FaceEncoder
from coreface.training.batches import build_loader, crops_alignment, list_unreadable, share_unreadable
from coreface.training.checkpoint import Checkpoint
from coreface.training.checkpoint_facts import CheckpointFacts, Origin
from coreface.training.checkpoint_writer import CheckpointWriter, raise_storage_error
from coreface.training.evaluating import EvaluatedSet, Evaluation
from coreface.training.initial_weights import load_initial_weights
from coreface.training.log import RunLog
from coreface.training.metrics_file import FINISHED
from coreface.training.objective import Losses, Objective
from coreface.training.process_state import load_local, local_tensors
from coreface.training.progress import Progress
from coreface.training.random_state import OwnRandomness, drawn_randomness, get_randomness
from coreface.training.recipe import Recipe
from coreface.training.samples import save_samples
from coreface.training.signals import StopSignals
from coreface.training.step import TrainingStep
from coreface.training.watch import require_labels_in_range


class Trainer:
    """Trains an encoder by a recipe and writes the run folder.

    Args:
        recipe: of the training.
        faces: the images to train on, after the recipe's ``data.train`` and hold-out have been applied.
        folder: the existing run folder.
        evaluated: what to evaluate the encoder on, when ``recipe.evaluation`` says so and after the last epoch.
        console: where to show progress; None shows it on standard error.
        checkpoint: to continue from, bit-identically if recipe, faces and machine are unchanged. None starts a
            new training, from the weights of ``init_from`` if the recipe has it.
        origin: faces and environment, which every checkpoint records.
        processes: those that train together, each with its own trainer, created and called at the same places; None
            for all of torch.distributed, or only this one. Only the leader shows progress and writes rows.

    Raises:
        DataError: fewer than two identities, labels out of range, or too few images for a batch.
        ModelError: an unknown backbone, an impossible size, or activation checkpointing of a backbone without it.
        RecipeError: there is no such device, or the batch cannot be divided among the processes.
        CheckpointError: the checkpoint belongs to another network or other faces.

    Attributes:
        encoder: the encoder, trained in place.
        objective: its losses, with the identity centres.
        precision: of the trunk's products; autocast is used for any but float32.
        loader: yields the batches.
        stepper: takes the optimizer steps; it has the optimizer.
        epoch: epochs done, including their evaluation.
        batch: batches done of the next epoch; all of them if only its evaluation is left to do.
        step: optimizer steps done, including skipped ones.
    """

    def __init__(
        self,
        recipe: Recipe,
        faces: FaceSource,
        folder: Path,
        *,
        evaluated: Sequence[EvaluatedSet] = (),
        console: Console | None = None,
        checkpoint: Checkpoint | None = None,
        origin: Origin | None = None,
        processes: Processes | None = None,
    ) -> None:
        require_identities(faces, 2, "training")
        require_labels_in_range(faces)
        self.recipe = recipe
        self.epoch = self.batch = self.step = 0
        self._folder = folder
        self._console = console
        self._origin = origin or Origin()
        self._processes = processes or Processes()
        self._rate = 0.0
        self._saved_step: int | None = None
        self._device = choose_device(recipe.device)
        self.precision = choose_precision(recipe.precision, self._device)
        with matmul_precision(recipe.matmul, self._device):
            pass  # an unusable device is found before anything is built

        # The network and the identity centres. All processes draw the same weights.
        self._randomness = OwnRandomness(self._device, recipe.seed)
        with self._randomness.active():
            encoder = FaceEncoder(recipe.model.backbone, recipe.model.embedding_size, recipe.data.image_size)
            encoder.alignment = crops_alignment(faces, recipe)
            sizes = torch.from_numpy(np.bincount(faces.identities, minlength=faces.num_identities))
            size, count = recipe.model.embedding_size, faces.num_identities
            objective = Objective(recipe, size, count, self._device, sizes=sizes)
        # Channels-last is the order of the pixels in the images, and the faster one for convolutions.
        self.encoder = encoder.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(self._device)
        if recipe.model.activation_checkpointing:
            self.encoder.backbone.checkpoint_activations()
        if recipe.compile:
            self.encoder.backbone.trunk = torch.compile(self.encoder.backbone.trunk)

        # The batches, and the steps that are taken with them.
        self.loader = build_loader(recipe, faces, self._device, self._processes)
        rows = torch.from_numpy(self.loader.rows).to(self._device)
        self.stepper = TrainingStep(
            self.encoder, self.objective, recipe, self._device, self.precision, self._processes, rows
        )
        self._progress = Progress(recipe, faces.num_identities, self.stepper, folder, self._processes)
        self._evaluation = Evaluation(evaluated, recipe, folder, self._device, self._processes)

        # From here on every process draws different numbers.
        if self._processes.world_size > 1:
            self._randomness.state = drawn_randomness(self._device, recipe.seed, 0, self._processes.rank)
        if checkpoint is not None:
            self._load(checkpoint)
        elif recipe.init_from is not None:
            load_initial_weights(self.encoder, user_path(recipe.init_from))

    @property
    def total_steps(self) -> int:
        return self.recipe.optimizer.epochs * len(self.loader)

    def train(self, until_epoch: int | None = None) -> None:
        """Train to the end of the recipe, or of epoch ``until_epoch``, and write a checkpoint there.

        Raises:
            TrainingStopped: after Ctrl-C or SIGTERM; the step was finished and a checkpoint written.
            DivergedError: too many steps in a row, or all of them, had no finite loss or gradient.
            StorageError: the run folder can no longer be written.
        """
        last = self.recipe.optimizer.epochs if until_epoch is None else until_epoch
        leader = self._processes.is_leader
        try:
            # However the training ends, the program's random state and signal handlers are restored, and a checkpoint
            # in progress is completed.
            with (
                self._randomness.active(),
                matmul_precision(self.recipe.matmul, self._device),
                StopSignals() as stop,
                RunLog(self._folder if leader else None, self.total_steps, self._console, first_step=self.step) as log,
                CheckpointWriter(
                    self._folder, self.recipe.checkpoint, self._saved_step, self._processes
                ) as checkpoints,
            ):
                # A checkpoint in the middle or at the end of an epoch was written before the evaluation of its step.
                self._evaluation.begin(self.step - 1 if self.batch else self.step)
                if self.step == 0:
                    self._progress.report_settings(log)
                while self.epoch < last:
                    try:
                        self._train_epoch(log, stop, checkpoints)
                        share_unreadable(self.loader, self._processes)
                    finally:
                        if leader:
                            list_unreadable(self.loader.unreadable, self._folder, log)
                    self._finish_epoch(log, stop, checkpoints, last=self.epoch + 1 == last)
                # The row that marks the run as finished is written after its last checkpoint is on the disk.
                if self.epoch == self.recipe.optimizer.epochs:
                    checkpoints.wait()
                    log.checkpoints(checkpoints.written())
                    skipped = int(self.stepper.guard.skipped)
                    log.row(FINISHED, {"step": self.step, "epoch": self.epoch, "skipped": skipped})
                    log.summary()
        except OSError as error:
            raise_storage_error(self._folder, error)

    def _train_epoch(self, log: RunLog, stop: StopSignals, checkpoints: CheckpointWriter) -> None:
        epoch = self.epoch + 1
        stage = self.recipe.stage_at(epoch)
        self.encoder.train()
        self.objective.train()
        # A resumed training enters the epoch where it left it, perhaps behind its last batch. The evaluation of a step
        # comes after its checkpoint, and so it comes now.
        if 0 < self.batch < len(self.loader) and self._evaluation.due_after(self.step):
            self._evaluate(log, stop, checkpoints)
        batches = self.loader.epoch(epoch, self.batch) if self.batch < len(self.loader) else ()
        for images, identities in self._progress.meter.timing(batches):
            if self.step == 0 and self._processes.is_leader:
                save_samples(images, self._folder / "samples.png")

            # The schedule is a function of the time in epochs, whatever the batch size.
            batch = self.loader.next_batch
            self._rate = self.recipe.learning_rate(epoch + (batch - 1) / len(self.loader))

            # Forward, backward, clipping and the optimizer.
            losses, gradient_norm = self.train_step(stage, self._rate, images, identities)
            self.batch = batch
            images_of_all = len(images) * self._processes.world_size
            self._progress.meter.add(losses, gradient_norm, images_of_all, self.stepper.guard.last)

            # Reading a number from a GPU makes it wait, so this is done only for rows of metrics.
            reported = self.step % self.recipe.log_every == 0
            if reported:
                self._progress.report(log, step=self.step, epoch=epoch, rate=self._rate)
            if reported or self._device.type == "cpu":
                self._progress.require_finite(images, identities, step=self.step, rate=self._rate)

            # A signal may reach only one process, and clocks differ: all stop or save if one has a reason to.
            received, due = self._processes.maximum(stop.received or 0, checkpoints.due(self.step))
            if received:
                raise self._stopped(received, log, checkpoints)
            if due:
                self._save(log, checkpoints, wait=False)
            log.checkpoints(checkpoints.written())
            if batch < len(self.loader) and self._evaluation.due_after(self.step):
                with self._progress.meter.paused():
                    self._evaluate(log, stop, checkpoints)

        # The remaining steps of the epoch form another row.
        self.batch = len(self.loader)
        if self._progress.meter.steps:
            self._progress.report(log, step=self.step, epoch=epoch, rate=self._rate)
        if self.step == 0:
            raise DataError("no batch of the first epoch held two readable images: see unreadable.txt in the run")

    def _finish_epoch(self, log: RunLog, stop: StopSignals, checkpoints: CheckpointWriter, *, last: bool) -> None:
        """Evaluate if due."""
        epoch = self.epoch + 1
        if last:
            self._progress.require_good_step(self.step)
        # Before the evaluation, which may be long: an interruption must not lose the epoch.
        if last and self._saved_step != self.step:
            self._save(log, checkpoints, wait=False)
        if self._evaluation.due_after_epoch(epoch, self.step):
            self._evaluate(log, stop, checkpoints)
        self.epoch, self.batch = epoch, 0

    def _evaluate(self, log: RunLog, stop: StopSignals, checkpoints: CheckpointWriter) -> None:
        """Evaluate on every set. The training's state does not change here, so a signal may stop it anywhere."""
        try:
            self._evaluation.run(self.encoder, log, stop, step=self.step, epoch=self.epoch + 1)
        except TrainingStopped as error:
            raise self._stopped(error.signal, log, checkpoints) from None
        self.encoder.train()

    def train_step(
        self, stage: int, rate: float, images: torch.Tensor, identities: torch.Tensor
    ) -> tuple[Losses, torch.Tensor | None]:
        """Take one optimizer step, as `train` does for every batch. See `TrainingStep.take`."""
        taken = self.stepper.take(self.step, stage, rate, images, identities)
        self.step += 1
        return taken

    # Checkpoints

    def _save(self, log: RunLog, checkpoints: CheckpointWriter, *, wait: bool) -> None:
        share_unreadable(self.loader, self._processes)
        tensors = {
            **self.stepper.tensors(),
            **local_tensors(self.objective, get_randomness(self._device), self._processes),
            **{f"meter.{name}": value for name, value in self._progress.meter.tensors().items()},
        }
        facts = CheckpointFacts(
            epoch=self.epoch,
            batch=self.batch,
            rate=self._rate,
            meter=self._progress.meter.counts(),
            metrics_bytes=log.settle(),
            unreadable=dict(self.loader.unreadable),
            world_size=self._processes.world_size,
            segments=self.loader.segments,
            recipe=json.loads(json.dumps(self.recipe.to_dict())),
            origin=self._origin,
        )
        checkpoints.save(self.step, tensors, facts, wait=wait)
        self._saved_step = self.step

    def _load(self, checkpoint: Checkpoint) -> None:
        self.stepper.load(checkpoint)
        self._randomness.state = load_local(checkpoint, self.objective, self._processes, self._device, self.recipe.seed)
        facts = checkpoint.facts
        sums = {name: value.to(self._device) for name, value in checkpoint.read_under("meter.").items()}
        self._progress.meter.restore(sums, facts.meter)
        self.epoch, self.batch, self._rate = facts.epoch, facts.batch, facts.rate
        self.step = self._saved_step = checkpoint.step
        self.loader.segments = facts.segments
        self.loader.unreadable.update(facts.unreadable)

    def take_over(self, other: "Trainer") -> None:
        """Continue from the state of another trainer whose recipe is the same up to this point."""
        self.encoder.load_state_dict(other.encoder.state_dict())
        self.objective.classifier.load_state_dict(other.objective.classifier.state_dict())
        for stage, contrast in self.objective.contrasts.items():
            if stage in other.objective.contrasts:  # its running margin
                contrast.load_state_dict(other.objective.contrasts[stage].state_dict())
        self.stepper.optimizer.load_state_dict(copy.deepcopy(other.stepper.optimizer.state_dict()))
        self.epoch, self.step, self._randomness.state = other.epoch, other.step, other._randomness.state

    def _stopped(self, number: int, log: RunLog, checkpoints: CheckpointWriter) -> TrainingStopped:
        if self._saved_step != self.step:
            self._save(log, checkpoints, wait=True)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        command = resume_command(self._folder, self._processes.world_size)
        return TrainingStopped(
            f"stopped by {name} after step {self.step} of {self.total_steps}; nothing is lost; continue with: "
            f"{command}",
            number,
        )
