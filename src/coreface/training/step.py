"""One optimizer step, in one process or in several that each have a part of the batch."""

import contextlib
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from coreface.distributed.collectives import is_sharded
from coreface.distributed.processes import Processes
from coreface.distributed.sync_batchnorm import synchronise_batchnorm
from coreface.losses.sampling import update_own_rows
from coreface.models.encoder import FaceEncoder
from coreface.models.row_masks import RowMasks
from coreface.training.checkpoint import Checkpoint
from coreface.training.checkpoint_state import (
    load_modules,
    load_optimizer,
    module_tensors,
    optimizer_changed,
    optimizer_tensors,
)
from coreface.training.gradients import clip_by_recipe
from coreface.training.guard import NonFiniteGuard
from coreface.training.loss_scale import LossScale
from coreface.training.objective import Losses, Objective, mean_losses
from coreface.training.optimizer import build_optimizer
from coreface.training.recipe import Recipe


class TrainingStep:
    """Takes optimizer steps for one encoder and its objective. Owns the optimizer and the guard.

    The gradients of the encoder are summed over the processes while they are computed (DistributedDataParallel); those
    of the identity centres stay in the process that has the centres. BatchNorm's running statistics, if each process
    has its own, are averaged after each step, so that they are equal everywhere.

    Args:
        encoder: trained in place.
        objective: trained in place.
        recipe: of the training.
        device: where both are.
        precision: of the trunk's products; autocast for all but float32.
        processes: those that train.
        rows: (batch,) int64, the positions of this process's images in the batch of all processes.

    Attributes:
        modules: encoder and objective by name.
        optimizer: of all trainable parameters.
        precision: as given.
        guard: undoes steps that are not finite.
        scale: of the loss, for float16; otherwise None.
        view: (batch, embedding_size), the first view of the last batch; empty before the first.
    """

    def __init__(
        self,
        encoder: FaceEncoder,
        objective: Objective,
        recipe: Recipe,
        device: torch.device,
        precision: torch.dtype,
        processes: Processes,
        rows: torch.Tensor,
    ) -> None:
        self.modules: dict[str, nn.Module] = {"encoder": encoder, "objective": objective}
        self.optimizer = build_optimizer(recipe.optimizer, [*encoder.parameters(), *objective.parameters()])
        classifier = objective.classifier
        touched = classifier.touched if classifier.sample_rate < 1 else None
        if touched is not None or is_sharded(classifier.weight):
            update_own_rows(self.optimizer, classifier.weight, touched)
        self.guard = NonFiniteGuard(self.modules.values(), device)
        self.scale = LossScale(device) if precision == torch.float16 else None
        self.view = torch.empty(0)
        self._encoder, self._objective, self._recipe = encoder, objective, recipe
        self._device, self.precision, self._processes, self._rows = device, precision, processes, rows
        self._views: nn.Module = _Views(encoder)
        if processes.world_size > 1:
            if recipe.model.sync_batchnorm:
                synchronise_batchnorm(encoder)
            self._views = _summing_gradients(self._views, device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return weights, buffers, optimizer state and the guard's counts by name, for a checkpoint. Not copies."""
        return {
            **module_tensors(self.modules),
            **optimizer_tensors(self.optimizer, self.modules),
            **{f"guard.{name}": value for name, value in self.guard.tensors().items()},
            **{f"scale.{name}": value for name, value in (self.scale.tensors() if self.scale else {}).items()},
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. The state of another optimizer than the recipe's is left out."""
        load_modules(checkpoint, self.modules)
        if not optimizer_changed(checkpoint, self._recipe):
            load_optimizer(checkpoint, self.optimizer, self.modules)
        self.guard.restore(checkpoint.read_under("guard."))
        if self.scale is not None and (saved := checkpoint.read_under("scale.")):
            self.scale.restore(saved)

    def take(
        self, number: int, stage: int, rate: float, images: torch.Tensor, identities: torch.Tensor
    ) -> tuple[Losses, torch.Tensor | None]:
        """Take one optimizer step. If the loss or a gradient is not finite, only the guard's counts change.

        Args:
            number: of the step, from 0. The number of unskipped steps before it determines the dropout masks.
            stage: index of the recipe's stage.
            rate: learning rate.
            images: (batch, 3, size, size), normalised, on the device.
            identities: (batch,), int64, on the device.

        Returns:
            The losses over the images of all processes and, if the recipe clips, the gradient's norm before clipping.
        """
        recipe = self._recipe.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.guard.before()

        # A batch larger than the memory passes through the network in micro-batches of at least two images.
        count = max(1, min(recipe.micro_batches, len(images) // 2))
        micro_batches = [x.tensor_split(count) for x in (images, identities, self._rows[: len(images)])]
        # A skipped step leaves no trace, not even in the dropout masks of later steps.
        taken = number - self.guard.skipped - (0 if self.scale is None else self.scale.overflows)
        losses = []
        for micro_batch, (some, labels, rows) in enumerate(zip(*micro_batches, strict=True), 1):
            share = len(some) / len(images)
            with contextlib.ExitStack() as stack:
                # Gradients are summed locally and exchanged once, with the last micro-batch.
                if micro_batch < count and isinstance(self._views, DistributedDataParallel):
                    stack.enter_context(self._views.no_sync())
                masks = RowMasks(self._recipe.seed, taken, rows)
                losses.append((self._forward_backward(stage, some, labels, masks, share), share))
        mean = mean_losses(losses)
        if not self._recipe.model.sync_batchnorm:
            self._processes.average_(self._encoder.buffers())

        # The guard takes the step, or undoes the forward pass where the loss or a gradient is not finite.
        if self.scale is not None:
            self.scale.unscale([*self._encoder.parameters(), *self._objective.parameters()])
        norm, clipped = clip_by_recipe(self._encoder, self._objective, recipe)
        overflow = None if self.scale is None else self.scale.update(mean.total, norm)
        self.guard.finish(self.optimizer, mean.total, norm, overflow)
        self.optimizer.zero_grad(set_to_none=True)
        return mean, clipped

    def _forward_backward(
        self, stage: int, images: torch.Tensor, identities: torch.Tensor, masks: RowMasks, share: float
    ) -> Losses:
        """Add the gradients of a micro-batch, weighted by its share of the batch."""
        plan = self._recipe.stages[stage]
        # Only the trunk runs in low precision. The losses choose their own.
        with torch.autocast(self._device.type, self.precision, enabled=self.precision != torch.float32):
            views = self._views(images, plan.views, plan.dropout, self._recipe.model.view_statistics, masks)
        losses: Losses = self._objective(stage, views, identities, masks)
        total = losses.total * share if share != 1 else losses.total
        if self.scale is not None:
            total = total * self.scale.value
        total.backward()  # type: ignore[no-untyped-call]
        self.view = views[0].detach()
        return Losses(losses.total.detach(), *losses[1:])


class _Views(nn.Module):
    """The encoder's views as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, encoder: FaceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, images: torch.Tensor, count: int, rate: float, statistics: Any, masks: RowMasks
    ) -> list[torch.Tensor]:
        return self.encoder.views(images, count, rate, statistics=statistics, masks=masks)


def _summing_gradients(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    # DDP rearranges its buckets after the first step, unless gradients may be missing. The order in which gloo adds
    # more than two numbers depends on their position in a bucket, so without this the first step after a resume would
    # differ in its last bits. The parameter without a gradient keeps torch from warning that none is missing.
    fixed = device.type == "cpu"
    if fixed:
        module.register_parameter("without_gradient", nn.Parameter(torch.zeros(())))
    with warnings.catch_warnings():
        # Newer versions of torch rename this argument; older ones do not know the new name.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        parallel = DistributedDataParallel(
            module,
            device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=fixed,
        )

    def add_up(_: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        # The loss is already that of all processes, so its gradients are the sum of their shares, not the mean.
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]

    parallel.register_comm_hook(None, add_up)
    return parallel
