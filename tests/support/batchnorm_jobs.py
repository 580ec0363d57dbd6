"""What the processes of a test do with BatchNorm, each with its own images."""

import torch
from torch import nn

import coreface as cf
from coreface.distributed.collectives import world_size
from coreface.distributed.sync_batchnorm import synchronise_batchnorm
from coreface.models.iresnet import IResNet


def layer(arguments, dimensions, dtype, channels=5):
    made = (nn.BatchNorm1d if dimensions < 4 else nn.BatchNorm2d)(channels, **arguments).to(dtype)
    generator = torch.Generator().manual_seed(9)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(channels, generator=generator, dtype=torch.float64) + 0.3 * (name != "bias"))
    return made


def normalise(arguments, dtype, steps, channels_last=False):
    """Run consecutive batches; return (outputs, input gradients) of each, weight gradients of all, buffers."""
    torch.set_num_threads(1)
    made = layer(arguments, steps[0][0].ndim, dtype)
    if world_size() > 1:
        synchronise_batchnorm(made)
    results = []
    for x, to_out in steps:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        inputs = x.clone(memory_format=layout).requires_grad_()
        out = made(inputs)
        assert out.dtype == x.dtype
        assert out.stride() == inputs.stride()
        out.backward(to_out)
        assert inputs.grad.dtype == x.dtype
        results.append((out.detach(), inputs.grad))
    return results, [parameter.grad for parameter in made.parameters()], dict(made.named_buffers())


def refused(x):
    """Return what is said about a batch."""
    made = layer({}, x.ndim, torch.float64)
    synchronise_batchnorm(made)
    try:
        made(x)
    except ValueError as error:
        return str(error)


def evaluate(x):
    """Embed in eval mode in the first process alone: a process that communicated would wait for ever."""
    made = layer({}, x.ndim, torch.float64).eval()
    expected = made(x)
    synchronise_batchnorm(made)
    return world_size() > 1 and torch.equal(made(x), expected) if torch.distributed.get_rank() == 0 else None


def alone_in_a_group(x):
    """Train in groups of one process each: BatchNorm as it was."""
    groups = [torch.distributed.new_group([rank]) for rank in range(world_size())]
    plain, grouped = layer({}, x.ndim, torch.float64), layer({}, x.ndim, torch.float64)
    synchronise_batchnorm(grouped, groups[torch.distributed.get_rank()])
    return torch.equal(plain(x), grouped(x)) and torch.equal(plain.running_var, grouped.running_var)


def train_by(optimizer_first, steps):
    """Move weights by an optimizer made before or after; return the weights, which forward hooks ran."""
    made, calls = layer({}, steps[0].ndim, torch.float64), []
    made.register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(made.parameters(), 0.1) if optimizer_first else None
    if world_size() > 1:
        synchronise_batchnorm(made)
    optimizer = optimizer or torch.optim.SGD(made.parameters(), 0.1)
    for x in steps:
        optimizer.zero_grad()
        made(x).pow(3).sum().backward()
        if world_size() > 1:
            for parameter in made.parameters():
                torch.distributed.all_reduce(parameter.grad)
        optimizer.step()
    return made.weight.detach(), made.bias.detach(), len(calls)


def toy_encoder(backbone):
    torch.manual_seed(4)
    encoder = cf.FaceEncoder("mobilefacenet", 8, 16, dropout=0.3)
    if backbone == "iresnet":
        encoder.backbone = IResNet((1, 1, 1, 1), embedding_size=8, image_size=16)
    return encoder.double().train()


def train_encoder(backbone, statistics, steps):
    """Return the losses of all steps, the gradients of the last, buffers and centres' gradients."""
    torch.set_num_threads(1)
    encoder = toy_encoder(backbone)
    if world_size() > 1:
        synchronise_batchnorm(encoder)
    classify = cf.MarginClassifier(cf.ArcFace(16.0), 8, 5, sharded=True).double()
    contrast = cf.CoReFaceLoss(scale=16.0, gather=True).double()
    losses = []
    for step, (images, identities, rows) in enumerate(steps):
        encoder.zero_grad()
        one, other = encoder.views(images, 2, statistics=statistics, masks=cf.RowMasks(8, step, rows))
        loss = (classify(one, identities) + classify(other, identities)) / 2 + 0.1 * contrast(one, other, identities)
        loss.backward()
        losses.append(loss.detach())
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    return losses, gradients, dict(encoder.named_buffers())
