"""Steps that the processes of a test take together, each with its part of every batch; and once more by hand."""

import math

import torch

import support.toy_network  # noqa: F401 (registers the backbone "toy")
from coreface.distributed.collectives import local, whole
from coreface.distributed.processes import Processes
from coreface.models.encoder import FaceEncoder
from coreface.models.row_masks import RowMasks
from coreface.training.checkpoint_state import module_tensors, optimizer_tensors
from coreface.training.objective import Objective
from coreface.training.step import TrainingStep

EMBEDDING, SIZE = 16, 16
Numbers = dict[str, torch.Tensor]


def batches(count, batch, identities, seed=0, size=SIZE):
    """Draw joint batches: (images, identities)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64),
            torch.randint(identities, (batch,), generator=generator),
        )
        for _ in range(count)
    ]


def rows_of(rank, processes, parts, batch):
    """Return which rows of a joint batch are a process's: its share of every part, in the order of the parts."""
    share = batch // parts // processes
    return [part * batch // parts + rank * share + i for part in range(parts) for i in range(share)]


def make(recipe, identities, processes):
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    encoder = FaceEncoder(recipe.model.backbone, EMBEDDING, recipe.data.image_size).double().train()
    if recipe.model.activation_checkpointing:
        encoder.backbone.checkpoint_activations()
    sizes = torch.arange(1, identities + 1)
    objective = Objective(recipe, EMBEDDING, identities, sizes=sizes).double().train()
    batch, parts = recipe.optimizer.batch_size, recipe.optimizer.micro_batches
    rows = torch.tensor(rows_of(processes.rank, processes.world_size, parts, batch))
    device = torch.device("cpu")
    # Autocast leaves float64 alone, so that float16 here is its scaling of the loss, to all digits.
    precision = torch.float16 if recipe.precision == "float16" else torch.float32
    return TrainingStep(encoder, objective, recipe, device, precision, processes, rows), rows


def take(recipe, identities, joint):
    """Take steps; return of each (losses, norm clipped by, gradients after clipping, all tensors)."""
    stepper, rows = make(recipe, identities, Processes())
    finish, gradients, results = stepper.guard.finish, {}, []

    def look(*arguments):
        for name, module in stepper.modules.items():
            for parameter, value in module.named_parameters():
                if value.grad is not None:
                    gradients[f"{name}.{parameter}"] = whole(value.grad).clone()
        finish(*arguments)

    stepper.guard.finish = look
    for number, (images, labels) in enumerate(joint):
        gradients.clear()
        losses, norm = stepper.take(number, 0, recipe.optimizer.lr, images[rows], labels[rows])
        results.append((*summary(losses, norm), dict(gradients), tensors(stepper)))
    return results


def summary(losses, norm):
    contrast = [] if losses.contrast is None else [losses.contrastive, *losses.contrast]
    return [float(value) for value in (losses.total, losses.classification, *contrast)], norm


def tensors(stepper):
    """Return copies of all weights, buffers and the optimizer's memory, whole."""
    found = {**module_tensors(stepper.modules), **optimizer_tensors(stepper.optimizer, stepper.modules)}
    return {name: whole(value).clone() for name, value in found.items()}


def count_bytes(recipe, identities, joint):
    """Return the bytes of each reduction of the trunk's gradients, of every step, and those of all its gradients."""
    from torch.nn.parallel import DistributedDataParallel

    stepper, rows = make(recipe, identities, Processes())
    sent, reduce = [], torch.distributed.all_reduce
    of_trunk = {id(p) for p in stepper.modules["encoder"].parameters()}

    def counted(tensor, *arguments, **keywords):
        if keywords.get("async_op"):  # DistributedDataParallel's own: all others are waited for
            sent[-1].append(tensor.nbytes)
        return reduce(tensor, *arguments, **keywords)

    assert isinstance(stepper._views, DistributedDataParallel)
    torch.distributed.all_reduce = counted
    try:
        for number, (images, labels) in enumerate(joint):
            sent.append([])
            stepper.take(number, 0, 0.1, images[rows], labels[rows])
    finally:
        torch.distributed.all_reduce = reduce
    learning = [p for p in stepper.modules["encoder"].parameters() if p.requires_grad and id(p) in of_trunk]
    return sent, sum(p.nbytes for p in learning)


# By hand: plain torch and loops, one process, the whole batch in sight.


def normalised(x, prefix, weights, statistics, channels):
    """BatchNorm with statistics of its own batch; moves the running ones."""
    axes = [0, *range(2, x.ndim)]
    mean = x.mean(axes)
    variance = ((x - mean.view(channels)) ** 2).mean(axes)
    count = x.numel() / x.shape[1]
    for name, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
        statistics[f"{prefix}.{name}"] = 0.9 * statistics[f"{prefix}.{name}"] + 0.1 * value.detach()
    statistics[f"{prefix}.num_batches_tracked"] = statistics[f"{prefix}.num_batches_tracked"] + 1
    x = (x - mean.view(channels)) / (variance.view(channels) + 1e-5).sqrt()
    return x * weights[f"{prefix}.weight"].view(channels) + weights[f"{prefix}.bias"].view(channels)


def embedded(images, rows, step, plan, seed, weights, statistics):
    """Return the views of images that pass through the network as one batch."""
    at = "encoder.backbone.layers"
    deep = (1, -1, 1, 1)
    x = torch.nn.functional.conv2d(images, weights[f"{at}.0.weight"], stride=4)
    x = normalised(x, f"{at}.1", weights, statistics, deep)
    x = torch.where(x > 0, x, weights[f"{at}.2.weight"].view(deep) * x)
    x = torch.nn.functional.conv2d(x, weights[f"{at}.3.weight"], stride=2)
    x = normalised(x, f"{at}.4", weights, statistics, deep).flatten(1)
    masks = RowMasks(seed, step, rows)
    fc, norm = "encoder.backbone.fc", "encoder.backbone.norm"
    return [
        normalised(
            masks.dropped(x, plan.dropout, view) @ weights[f"{fc}.weight"].t() + weights[f"{fc}.bias"],
            norm,
            weights,
            statistics,
            (1, -1),
        )
        for view in range(plan.views)
    ]


def train_by_hand(recipe, start, joint, processes):
    """Train as ``processes`` processes do with SGD; return of each step what `take` does, and each one's margin."""
    from support import naive_losses as naive

    plan, optimizer, parts = recipe.stages[0], recipe.optimizer, recipe.optimizer.micro_batches
    term, arcface = plan.contrastive, recipe.classifier.margin
    weights = {name: value.clone() for name, value in start.items() if is_weight(name)}
    statistics = {name: value.clone() for name, value in start.items() if "running_" in name or "tracked" in name}
    margin_name = "objective.contrasts.0.running_margin"
    margins = [float(statistics.pop(margin_name))] * processes
    momenta = {name: torch.zeros_like(value) for name, value in weights.items()}
    results = []
    for step, (images, labels) in enumerate(joint):
        for value in weights.values():
            value.requires_grad_()
        own = [dict(statistics) for _ in range(1 if recipe.model.sync_batchnorm else processes)]
        total = 0.0
        for part in range(parts):
            share = len(images) // parts // processes
            of_each = [
                torch.arange(part * processes * share + rank * share, part * processes * share + (rank + 1) * share)
                for rank in range(processes)
            ]
            together = torch.cat(of_each)
            normed = [together] if recipe.model.sync_batchnorm else of_each
            done = [
                embedded(images[rows], rows, step, plan, recipe.seed, weights, seen)
                for rows, seen in zip(normed, own, strict=True)
            ]
            views = [torch.cat([one[view] for one in done]) for view in range(plan.views)]
            loss = 0.0
            for view in views:
                logits = naive.margin_logits(
                    view,
                    weights["objective.classifier.weight"],
                    labels[together],
                    name="arcface",
                    scale=arcface.scale,
                    margin=0.5,
                )
                loss = loss + naive.cross_entropy(logits, labels[together]) / plan.views
            seen_together = (
                [torch.arange(len(together))] if term.gather else torch.arange(len(together)).chunk(processes)
            )
            for rank, rows in enumerate(seen_together):
                contrast, margins[rank], *_ = naive.contrastive(
                    views[0][rows],
                    views[1][rows],
                    labels[together][rows],
                    scale=term.scale,
                    margin_before=margins[rank],
                    ema=term.ema,
                    mask=term.mask,
                    protocol=term.protocol,
                )
                loss = loss + term.weight * contrast / len(seen_together)
            total = total + loss / parts
        names = [name for name in weights if name != "encoder.backbone.norm.weight" or learns_norm()]
        found = dict(zip(names, torch.autograd.grad(total, [weights[name] for name in names]), strict=True))
        norm = math.sqrt(sum(float((g * g).sum()) for g in found.values()))
        factor = min(1.0, optimizer.clip_norm / (norm + 1e-6))
        found = {name: g * factor for name, g in found.items()}
        weights = {name: value.detach() for name, value in weights.items()}
        for name, g in found.items():
            momenta[name] = optimizer.momentum * momenta[name] + g + optimizer.weight_decay * weights[name]
            weights[name] = weights[name] - optimizer.lr * momenta[name]
        for name in statistics:
            values = [one[name] for one in own]
            statistics[name] = values[0] if "tracked" in name else sum(values) / len(values)
        if term.gather:
            margins = [margins[0]] * processes
        results.append((float(total.detach()), norm, found, {**weights, **statistics}, list(margins)))
    return results


def is_weight(name):
    return name.split(".")[0] in ("encoder", "objective") and "running_" not in name and "tracked" not in name


def learns_norm():
    return FaceEncoder("toy", EMBEDDING, SIZE).backbone.embedding_norm.weight.requires_grad


def own_margin(recipe, identities, joint):
    """Take steps; return this process's running margin after each, and its own buffers."""
    stepper, rows = make(recipe, identities, Processes())
    results = []
    for number, (images, labels) in enumerate(joint):
        stepper.take(number, 0, recipe.optimizer.lr, images[rows], labels[rows])
        margin = float(stepper.modules["objective"].contrasts["0"].running_margin)
        buffers = {name: local(value).clone() for name, value in stepper.modules["encoder"].named_buffers()}
        results.append((margin, buffers))
    return results
