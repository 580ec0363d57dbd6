"""The training loop. It reads from top to bottom; everything it does is said by the recipe."""

import contextlib
import copy
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from coreface.data.loader import FaceLoader
from coreface.data.source import FaceSource, require_identities
from coreface.distributed.device import choose_device, choose_precision
from coreface.distributed.launch import resume_command
from coreface.distributed.processes import Processes
from coreface.errors import ConstantEmbeddingsError, DataError, DivergedError, EvaluationError, TrainingStopped
from coreface.files import write_lines
from coreface.images.alignment import Alignment
from coreface.models.encoder import FaceEncoder
from coreface.plurals import counted
from coreface.training.checkpoint import Checkpoint
from coreface.training.checkpoint_state import (
    begins_anew,
    load_modules,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
)
from coreface.training.checkpoint_writer import CheckpointWriter, raise_storage_error
from coreface.training.initial_weights import ENCODER, load_initial_weights
from coreface.training.log import RunLog
from coreface.training.meter import Meter
from coreface.training.metrics_file import FINISHED
from coreface.training.objective import Losses, Objective
from coreface.training.process_state import load_own, own_tensors
from coreface.training.random_state import (
    RandomState,
    drawn_randomness,
    get_randomness,
    kept_randomness,
    seed_randomness,
    set_randomness,
)
from coreface.training.recipe import Recipe
from coreface.training.samples import save_batch, save_samples
from coreface.training.signals import StopSignals
from coreface.training.step import TrainingStep
from coreface.training.watch import Watch, require_labels_in_range

#: Measures an encoder: what it returns becomes a row of metrics.jsonl.
Evaluator = Callable[[FaceEncoder], Mapping[str, float | int | None]]

BAD_BATCH = "bad_batch"
# BatchNorm's running statistics (momentum 0.1) are those of the images after about so many steps. Until then an encoder
# in eval mode may give all images the same embedding.
_SETTLED_STEPS = 100


class Trainer:
    """Trains an encoder by a recipe and writes the run folder as it goes.

    Args:
        recipe: what to do.
        faces: the images to train on; the recipe's ``data.train`` and hold-out have been applied.
        folder: the run folder, which exists.
        evaluator: called with the encoder after every ``evaluation.every`` epochs and after the last; None measures
            nothing.
        console: where to show progress; None shows it on standard error.
        checkpoint: where to go on from: to the last bit, where recipe, faces and machine are those it was written with.
            None begins anew, from the weights of ``init_from`` where the recipe has it.
        facts: plain JSON values that every checkpoint carries along, such as versions.
        processes: those that train together, each with a trainer of its own, made and called at the same places; None
            takes all of torch.distributed, or this one alone. The leader alone shows, evaluates and writes rows.

    Raises:
        DataError: fewer than two identities, labels out of range, or not enough images for a batch.
        ModelError: an unknown backbone or an impossible size.
        RecipeError: the device is not there, or the batch cannot be shared out to the processes.
        CheckpointError: the checkpoint is of another network or other faces.

    Attributes:
        encoder: the encoder, trained in place.
        objective: its losses, with the identity centres.
        precision: of the trunk's products; anything but float32 is autocast.
        epoch: epochs done, their evaluation included.
        batch: batches of the next epoch that are done; all of them where only its evaluation is left to do.
        step: optimizer steps done, those that were skipped included.
    """

    def __init__(
        self,
        recipe: Recipe,
        faces: FaceSource,
        folder: Path,
        *,
        evaluator: Evaluator | None = None,
        console: Console | None = None,
        checkpoint: Checkpoint | None = None,
        facts: Mapping[str, Any] | None = None,
        processes: Processes | None = None,
    ) -> None:
        require_identities(faces, 2, "training")
        require_labels_in_range(faces)
        self.recipe = recipe
        self.epoch = self.batch = self.step = 0
        self._folder = folder
        self._evaluator = evaluator
        self._console = console
        self._facts = dict(facts or {})
        self._processes = processes or Processes()
        each = recipe.optimizer.images_per_process(self._processes.world_size)
        self._device = choose_device(recipe.device)
        self.precision = choose_precision(recipe.precision, self._device)
        self._randomness: RandomState | None = None  # of all processes alike, while the first weights are drawn
        with self._own_randomness():
            encoder = FaceEncoder(recipe.model.backbone, recipe.model.embedding_size, recipe.data.image_size)
            encoder.alignment = _alignment_of(faces, recipe)
            objective = Objective(recipe, recipe.model.embedding_size, faces.num_identities, self._device)
        # Channels-last is the order the pixels come in, and the faster one for convolutions here at any precision.
        self.encoder = encoder.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(self._device)
        if recipe.compile:
            self.encoder.backbone.trunk = torch.compile(self.encoder.backbone.trunk)
        self.loader = FaceLoader(
            faces,
            each,
            image_size=recipe.data.image_size,
            seed=recipe.seed,
            workers=recipe.data.workers,
            device=self._device,
            flip=recipe.data.flip,
            rank=self._processes.rank,
            world_size=self._processes.world_size,
            max_unreadable=recipe.data.max_unreadable,
            parts=recipe.optimizer.micro_batches,
        )
        rows = torch.from_numpy(self.loader.rows).to(self._device)
        self._stepper = TrainingStep(
            self.encoder, self.objective, recipe, self._device, self.precision, self._processes, rows
        )
        self.optimizer, self._guard = self._stepper.optimizer, self._stepper.guard
        self._meter = Meter()
        self._rate = 0.0
        self._saved_step: int | None = None
        if self._processes.world_size > 1:
            self._randomness = drawn_randomness(self._device, recipe.seed, 0, self._processes.rank)
        if checkpoint is not None:
            self._load(checkpoint)
        elif recipe.init_from is not None:
            load_initial_weights(self.encoder, Path(recipe.init_from))

    @property
    def total_steps(self) -> int:
        return self.recipe.optimizer.epochs * len(self.loader)

    def train(self, until_epoch: int | None = None) -> None:
        """Train up to the end of the recipe, or of epoch ``until_epoch``; a checkpoint of that moment is written.

        Raises:
            TrainingStopped: Ctrl-C or SIGTERM came; the step was finished and a checkpoint written.
            DivergedError: too many steps in a row had no finite loss or gradient.
            StorageError: the run folder cannot be written any more.
        """
        self._last_epoch = self.recipe.optimizer.epochs if until_epoch is None else until_epoch
        try:
            with (
                self._own_randomness(),
                StopSignals() as stop,
                self._open_log() as log,
                CheckpointWriter(
                    self._folder, self.recipe.checkpoint, self._saved_step, self._processes
                ) as checkpoints,
            ):
                self._watch = Watch(self.objective.classifier.weight.shape[0], log.warn)
                if self.step == 0:
                    self._say_what_is_odd(log)
                while self.epoch < self._last_epoch:
                    try:
                        self._train_epoch(log, stop, checkpoints)
                        self._share_unreadable()
                    finally:
                        self._list_unreadable(log)
                    self._finish_epoch(log, stop, checkpoints)
                if self.epoch == self.recipe.optimizer.epochs:
                    checkpoints.wait()
                    log.checkpoints(checkpoints.written())
                    log.row(FINISHED, {"step": self.step, "epoch": self.epoch, "skipped": int(self._guard.skipped)})
                    log.summary()
        except OSError as error:
            raise_storage_error(self._folder, error)

    def _open_log(self) -> RunLog:
        if not self._processes.is_leader:
            return RunLog(None, self.total_steps)
        return RunLog(self._folder, self.total_steps, self._console, first_step=self.step)

    def take_over(self, other: "Trainer") -> None:
        """Go on from where another trainer stands, whose recipe is the same up to here."""
        self.encoder.load_state_dict(other.encoder.state_dict())
        self.objective.classifier.load_state_dict(other.objective.classifier.state_dict())
        for stage, contrast in self.objective.contrasts.items():
            if stage in other.objective.contrasts:  # its running margin
                contrast.load_state_dict(other.objective.contrasts[stage].state_dict())
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        self.epoch, self.step, self._randomness = other.epoch, other.step, other._randomness

    def _load(self, checkpoint: Checkpoint) -> None:
        load_modules(checkpoint, self._stepper.modules)
        if not begins_anew(checkpoint, self.recipe):
            load_optimizer(checkpoint, self.optimizer, self._stepper.modules)
        self._randomness = load_own(checkpoint, self.objective, self._processes, self._device, self.recipe.seed)
        rest = checkpoint.read(name for name in checkpoint.layout if name.split(".")[0] in ("guard", "meter"))
        facts = checkpoint.facts
        self.epoch, self.batch, self.step = facts["epoch"], facts["batch"], checkpoint.step
        self._rate = facts["rate"]
        self._saved_step = checkpoint.step
        self.loader.stretches = facts["stretches"]
        self._guard.skipped = rest["guard.skipped"].to(self._device)
        self._guard.in_a_row = rest["guard.in_a_row"].to(self._device)
        sums = {
            name.removeprefix("meter."): v.to(self._device) for name, v in rest.items() if name.startswith("meter.")
        }
        self._meter.restore(sums, facts["meter"])
        self.loader.unreadable.update({int(index): text for index, text in facts["unreadable"].items()})

    def _train_epoch(self, log: RunLog, stop: StopSignals, checkpoints: CheckpointWriter) -> None:
        epoch = self.epoch + 1
        stage = self.recipe.stage_at(epoch)
        self.encoder.train()
        self.objective.train()
        batches = self.loader.epoch(epoch, self.batch) if self.batch < len(self.loader) else ()
        for images, identities in self._meter.timing(batches):
            if self.step == 0 and self._processes.is_leader:
                save_samples(images, self._folder / "samples.png")
            batch = self.loader.next_batch
            self._rate = self.recipe.learning_rate(epoch + (batch - 1) / len(self.loader))
            losses, gradient_norm = self.train_step(stage, self._rate, images, identities)
            self._meter.add(losses, gradient_norm, len(images) * self._processes.world_size, self._guard.last)
            self.batch = batch
            reported = self.step % self.recipe.log_every == 0
            if reported:
                self._report(log)
            if reported or self._device.type == "cpu":  # elsewhere every look would stop the device
                self._require_progress(images, identities)
            # A signal may reach one process alone, and no two clocks agree.
            received, due = self._processes.maximum(stop.received or 0, checkpoints.due(self.step))
            if received:
                raise self._stopped(received, log, checkpoints)
            if due:
                self._save(log, checkpoints, wait=False)
            log.checkpoints(checkpoints.written())
        self.batch = len(self.loader)
        if self._meter.steps:
            self._report(log)
        if self.step == 0:
            raise DataError("no batch of the first epoch held two readable images: see unreadable.txt in the run")

    def _finish_epoch(self, log: RunLog, stop: StopSignals, checkpoints: CheckpointWriter) -> None:
        """Evaluate where it is time to. Nothing of the training changes meanwhile: a signal may end it at once."""
        epoch = self.epoch + 1
        if epoch == self._last_epoch and self._saved_step != self.step:
            self._save(log, checkpoints, wait=False)
        if epoch == self.recipe.optimizer.epochs or epoch % self.recipe.evaluation.every == 0:
            received = 0
            try:
                if self._processes.is_leader:
                    self._evaluate(epoch, log, stop)
            except TrainingStopped as error:
                received = error.signal
            (received,) = self._processes.maximum(received)  # where the others wait for the leader
            if received:
                raise self._stopped(received, log, checkpoints)
        self.epoch, self.batch = epoch, 0

    def train_step(
        self, stage: int, rate: float, images: torch.Tensor, identities: torch.Tensor
    ) -> tuple[Losses, torch.Tensor | None]:
        """Take one optimizer step; `train` does this for every batch. See `TrainingStep.take`."""
        taken = self._stepper.take(self.step, stage, rate, images, identities)
        self.step += 1
        return taken

    def _require_progress(self, images: torch.Tensor, identities: torch.Tensor) -> None:
        limit = self.recipe.optimizer.max_skips
        if int(self._guard.in_a_row) < limit:
            return
        name = BAD_BATCH if self._processes.world_size == 1 else f"{BAD_BATCH}_{self._processes.rank}"
        save_batch(images, identities, self._folder / name)
        precision = "" if self.precision == torch.float32 else ", --precision float32"
        command = resume_command(self._folder, self._processes.world_size)
        raise DivergedError(
            f"{limit} steps in a row had no finite loss or gradient, the last of them step {self.step}; they changed "
            f"nothing, and the last batch lies in {self._folder / name}.png and .safetensors. Go on from the last "
            f"checkpoint with a lower rate (now {self._rate:g}){precision}: {command} --force "
            f"--optimizer.lr {self.recipe.optimizer.lr / 10:g}"
        )

    def _say_what_is_odd(self, log: RunLog) -> None:
        for text in self.recipe.never_reached():
            log.warn("never reached", text)
        parts = self.recipe.optimizer.micro_batches
        if parts > 1:
            size = self.recipe.optimizer.batch_size // parts
            contrastive = any(stage.contrastive for stage in self.recipe.stages)
            rest = "; the contrastive term compares the images of a part with each other only" if contrastive else ""
            log.say(f"every batch passes in {parts} parts of {size} images: BatchNorm sees a part at a time{rest}")

    def _stopped(self, number: int, log: RunLog, checkpoints: CheckpointWriter) -> TrainingStopped:
        if self._saved_step != self.step:
            self._save(log, checkpoints, wait=True)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        command = resume_command(self._folder, self._processes.world_size)
        return TrainingStopped(
            f"stopped by {name} after step {self.step} of {self.total_steps}; nothing is lost; go on with: {command}",
            number,
        )

    def _save(self, log: RunLog, checkpoints: CheckpointWriter, *, wait: bool) -> None:
        tensors = {
            **module_tensors(self._stepper.modules),
            **optimizer_tensors(self.optimizer, self._stepper.modules),
            **own_tensors(self.objective, get_randomness(self._device), self._processes),
            **{f"meter.{name}": value for name, value in self._meter.tensors().items()},
            "guard.skipped": self._guard.skipped,
            "guard.in_a_row": self._guard.in_a_row,
        }
        self._share_unreadable()
        facts = {
            **self._facts,
            "epoch": self.epoch,
            "batch": self.batch,
            "rate": self._rate,
            "meter": self._meter.facts(),
            "metrics_bytes": log.settle(),
            "unreadable": {str(index): text for index, text in self.loader.unreadable.items()},
            "processes": self._processes.world_size,
            "stretches": self.loader.stretches,
            "recipe": json.loads(json.dumps(self.recipe.to_dict())),
        }
        checkpoints.save(self.step, tensors, facts, wait=wait)
        self._saved_step = self.step

    def _report(self, log: RunLog) -> None:
        row = self._meter.row()
        skipped = int(self._guard.skipped)
        log.row("step", {"step": self.step, "epoch": self.epoch + 1, "lr": self._rate, **row, "skipped": skipped})
        warming_up = self.epoch < self.recipe.optimizer.warmup_epochs
        self._watch.look(row["classification"], self._stepper.view, warming_up=warming_up)
        waiting = 100 * row["waiting"]
        state = f"loss {row['loss']:.3f}  {row['images_per_second']:.0f} images/s  waiting for data {waiting:.1f} %"
        if skipped:
            state += f"  {counted(skipped, 'step')} skipped"
        log.advance(self.step, self.epoch + 1, state)

    def _evaluate(self, epoch: int, log: RunLog, stop: StopSignals) -> None:
        self.encoder.save_pretrained(self._folder / ENCODER)
        if self._evaluator is None:
            return
        where = {"step": self.step, "epoch": epoch}
        try:
            with stop.stopping_at_once(), kept_randomness(self._device):
                measured = self._evaluator(self.encoder)
        except EvaluationError as error:  # a model that cannot be measured now may recover; the run goes on
            reason = str(error)
            early = self.step < _SETTLED_STEPS and epoch < self.recipe.optimizer.epochs
            if early and isinstance(error, ConstantEmbeddingsError):
                steps = counted(self.step, "step")
                reason = f"all images still get the same embedding, which is usual after no more than {steps}"
            log.row("evaluation", {**where, "error": reason})
            log.say(f"epoch {epoch}: not measured: {reason}")
            return
        log.row("evaluation", {**where, **measured})
        figures = "  ".join(f"{name} {value:.4f}" for name, value in measured.items() if isinstance(value, float))
        log.say(f"epoch {epoch}: {figures}")

    def _share_unreadable(self) -> None:
        for found in self._processes.gather(self.loader.unreadable):
            self.loader.unreadable.update(found)
        self.loader.require_readable()

    def _list_unreadable(self, log: RunLog) -> None:
        if not self._processes.is_leader:
            return
        unreadable = self.loader.unreadable
        path = self._folder / "unreadable.txt"
        listed = path.read_text(encoding="utf-8").count("\n") if path.exists() else 0
        if len(unreadable) > listed:
            write_lines(path, (unreadable[i] for i in sorted(unreadable)))
            log.say(f"warning: {counted(len(unreadable), 'unreadable image')} left out, listed in {path}")

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Run with this trainer's own random state, and leave that of the program as it was."""
        with kept_randomness(self._device):
            if self._randomness is None:
                seed_randomness(self.recipe.seed)
            else:
                set_randomness(self._randomness, self._device)
            try:
                yield
            finally:
                self._randomness = get_randomness(self._device)


def _alignment_of(faces: FaceSource, recipe: Recipe) -> Alignment:
    """Return how the crops were made: as they say themselves, or else as the recipe says."""
    said = recipe.data.alignment
    return faces.alignment if faces.alignment.known or said is None else Alignment(said)
