"""The training loop. It reads from top to bottom; everything it does is said by the recipe."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import nn

from coreface.data.loader import FaceLoader
from coreface.data.source import FaceSource, require_identities
from coreface.errors import DataError, EvaluationError
from coreface.models.encoder import FaceEncoder
from coreface.training.device import choose_device, choose_precision
from coreface.training.log import RunLog
from coreface.training.meter import Meter
from coreface.training.objective import Losses, Objective
from coreface.training.recipe import OptimizerRecipe, Recipe

#: Measures an encoder: what it returns becomes a row of metrics.jsonl.
Evaluator = Callable[[FaceEncoder], Mapping[str, float | int | None]]

ENCODER = "encoder"  #: folder of the encoder inside a run
_SAMPLES = 32


class Trainer:
    """Trains an encoder by a recipe and writes the run folder as it goes.

    Args:
        recipe: what to do.
        faces: the images to train on; the recipe's ``data.train`` and hold-out have been applied.
        folder: the run folder, which exists.
        evaluator: called with the encoder after every ``evaluation.every`` epochs and after the last; None measures
            nothing.
        console: where to show progress; None shows it on standard error.

    Raises:
        DataError: fewer than two identities, or not enough images for a batch.
        ModelError: an unknown backbone or an impossible size.
        RecipeError: the device is not there.

    Attributes:
        encoder: the encoder, trained in place.
        objective: its losses, with the identity centres.
        precision: of the trunk's products; anything but float32 is autocast.
        epoch: epochs done.
        step: optimizer steps done.
    """

    def __init__(
        self,
        recipe: Recipe,
        faces: FaceSource,
        folder: Path,
        *,
        evaluator: Evaluator | None = None,
        console: Console | None = None,
    ) -> None:
        require_identities(faces, 2, "training")
        self.recipe = recipe
        self.epoch = 0
        self.step = 0
        self._folder = folder
        self._evaluator = evaluator
        self._console = console
        self._device = choose_device(recipe.device)
        self.precision = choose_precision(recipe.precision, self._device)
        self._randomness: tuple[torch.Tensor, ...] = ()
        with self._own_randomness(seed=recipe.seed):
            encoder = FaceEncoder(recipe.model.backbone, recipe.model.embedding_size, recipe.data.image_size)
            objective = Objective(recipe, recipe.model.embedding_size, faces.num_identities)
        # Channels-last is the order the pixels come in, and the faster one for convolutions here at any precision.
        self.encoder = encoder.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(self._device)
        if recipe.compile:
            self.encoder.backbone.trunk = torch.compile(self.encoder.backbone.trunk)
        self.loader = FaceLoader(
            faces,
            recipe.optimizer.batch_size,
            image_size=recipe.data.image_size,
            seed=recipe.seed,
            workers=recipe.data.workers,
            device=self._device,
            flip=recipe.data.flip,
            max_unreadable=recipe.data.max_unreadable,
        )
        self.optimizer = build_optimizer(recipe.optimizer, [*self.encoder.parameters(), *self.objective.parameters()])

    @property
    def total_steps(self) -> int:
        return self.recipe.optimizer.epochs * len(self.loader)

    def train(self, until_epoch: int | None = None) -> None:
        """Train up to the end of the recipe, or of epoch ``until_epoch``."""
        last = self.recipe.optimizer.epochs if until_epoch is None else until_epoch
        with self._own_randomness(), RunLog(self._folder, self.total_steps, self._console) as log:
            for epoch in range(self.epoch + 1, last + 1):
                try:
                    self._train_epoch(epoch, log)
                finally:
                    self._list_unreadable(log)
                self.epoch = epoch
                if epoch == self.recipe.optimizer.epochs or epoch % self.recipe.evaluation.every == 0:
                    self._evaluate(log)

    def take_over(self, other: "Trainer") -> None:
        """Go on from where another trainer stands, whose recipe is the same up to here."""
        self.encoder.load_state_dict(other.encoder.state_dict())
        self.objective.classifier.load_state_dict(other.objective.classifier.state_dict())
        for stage, contrast in self.objective.contrasts.items():
            if stage in other.objective.contrasts:  # its running margin
                contrast.load_state_dict(other.objective.contrasts[stage].state_dict())
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        self.epoch, self.step, self._randomness = other.epoch, other.step, other._randomness

    def _train_epoch(self, epoch: int, log: RunLog) -> None:
        stage = self.recipe.stage_at(epoch)
        self.encoder.train()
        self.objective.train()
        meter = Meter()
        rate = 0.0
        for index, (images, identities) in enumerate(meter.timing(self.loader.epoch(epoch))):
            if self.step == 0:
                save_samples(images, self._folder / "samples.png")
            rate = self.recipe.learning_rate(epoch + index / len(self.loader))
            losses, gradient_norm = self.train_step(stage, rate, images, identities)
            meter.add(losses, gradient_norm, len(images))
            if self.step % self.recipe.log_every == 0:
                self._report(meter, log, epoch, rate)
        if meter.steps:
            self._report(meter, log, epoch, rate)
        if self.step == 0:
            raise DataError("no batch of the first epoch held two readable images: see unreadable.txt in the run")

    def train_step(
        self, stage: int, rate: float, images: torch.Tensor, identities: torch.Tensor
    ) -> tuple[Losses, torch.Tensor | None]:
        """Take one optimizer step; `train` does this for every batch.

        Args:
            stage: index of the recipe's stage.
            rate: learning rate.
            images: (batch, 3, size, size), normalised, on the device.
            identities: (batch,), int64, on the device.

        Returns:
            The losses and, where the recipe clips, the norm of the gradient before clipping.
        """
        plan = self.recipe.stages[stage]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self._device.type, self.precision, enabled=self.precision != torch.float32):
            statistics = self.recipe.model.view_statistics
            views = self.encoder.views(images, plan.views, plan.dropout, statistics=statistics)
        losses = self.objective(stage, views, identities)
        losses.total.backward()
        gradient_norm = self.clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses, gradient_norm

    def clip_gradients(self) -> torch.Tensor | None:
        """Clip the gradients as the recipe says; return their norm before, or None where it does not clip."""
        optimizer = self.recipe.optimizer
        if optimizer.clip_norm is None:
            return None
        parameters = list(self.encoder.parameters())
        if optimizer.clip == "all":
            parameters += list(self.objective.parameters())
        return nn.utils.clip_grad_norm_(parameters, optimizer.clip_norm)

    def _report(self, meter: Meter, log: RunLog, epoch: int, rate: float) -> None:
        row = meter.row()
        log.row("step", {"step": self.step, "epoch": epoch, "lr": rate, **row})
        waiting = 100 * row["waiting"]
        state = f"loss {row['loss']:.3f}  {row['images_per_second']:.0f} images/s  waiting for data {waiting:.1f} %"
        log.advance(self.step, epoch, state)

    def _evaluate(self, log: RunLog) -> None:
        self.encoder.save_pretrained(self._folder / ENCODER)
        if self._evaluator is None:
            return
        where = {"step": self.step, "epoch": self.epoch}
        try:
            measured = self._evaluator(self.encoder)
        except EvaluationError as error:  # a model that cannot be measured now may recover; the run goes on
            log.row("evaluation", {**where, "error": str(error)})
            log.say(f"epoch {self.epoch}: not measured: {error}")
            return
        log.row("evaluation", {**where, **measured})
        figures = "  ".join(f"{name} {value:.4f}" for name, value in measured.items() if isinstance(value, float))
        log.say(f"epoch {self.epoch}: {figures}")

    def _list_unreadable(self, log: RunLog) -> None:
        unreadable = self.loader.unreadable
        path = self._folder / "unreadable.txt"
        listed = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
        if len(unreadable) > listed:
            path.write_text("".join(f"{unreadable[i]}\n" for i in sorted(unreadable)), encoding="utf-8")
            log.say(f"warning: {len(unreadable)} unreadable images are left out; they are listed in {path}")

    @contextlib.contextmanager
    def _own_randomness(self, seed: int | None = None) -> Iterator[None]:
        """Run with this trainer's own random state, and leave that of the program as it was."""
        devices = [torch.cuda.current_device()] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            if seed is not None:
                torch.manual_seed(seed)
            else:
                torch.set_rng_state(self._randomness[0])
                if devices:
                    torch.cuda.set_rng_state(self._randomness[1])
            try:
                yield
            finally:
                self._randomness = (torch.get_rng_state(), *[torch.cuda.get_rng_state(d) for d in devices])


def build_optimizer(recipe: OptimizerRecipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer a recipe asks for, over the parameters that learn."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    fused = learning[0].device.type in ("cpu", "cuda")  # one pass over the weights instead of three
    if recipe.name == "adamw":
        betas = (recipe.momentum, 0.999)
        return torch.optim.AdamW(learning, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.SGD(
        learning, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=fused
    )


def save_samples(images: torch.Tensor, path: Path) -> None:
    """Write the first images of a batch, as the network sees them, to one picture of eight a row."""
    pixels = images[:_SAMPLES].permute(0, 2, 3, 1).add(1.0).mul(127.5).round().to(torch.uint8).cpu().numpy()
    rows = [np.concatenate(list(row), axis=1) for row in np.split(_fill(pixels), range(8, len(pixels), 8))]
    cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])


def _fill(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, np.zeros((-len(pixels) % 8, *pixels.shape[1:]), pixels.dtype)])
