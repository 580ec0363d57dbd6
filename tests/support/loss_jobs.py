"""What the processes of a test do, each with its own rows."""

import torch
from torch.distributed import checkpoint

import coreface as cf
from coreface.distributed.collectives import local, summed, whole, world_size
from coreface.distributed.gradient_norm import clip_gradients
from coreface.losses.sampling import update_own_rows
from coreface.numerics.random_bits import mixed


def contrast(arguments, steps):
    """Run consecutive calls of one loss; return (loss, gradient 1, gradient 2, last) of each."""
    torch.set_num_threads(1)
    loss = cf.CoReFaceLoss(**arguments)
    results = []
    for one, other, identities in steps:
        views = [view.clone().requires_grad_() for view in (one, other)]
        value = loss(*views, identities)
        results.append((value.detach(), *torch.autograd.grad(value, views), tuple(loss.last)))
    return results


MARGINS = {
    "arcface": lambda: cf.ArcFace(16.0),
    "curricularface": lambda: cf.CurricularFace(16.0, ema=0.6),
    "magface": lambda: cf.MagFace(16.0, lengths=(1.0, 4.0), regularisation=3.0),
    "adaface": lambda: cf.AdaFace(16.0, ema=0.6),
    "sphereface": lambda: cf.SphereFace(annealing=(3.0, 0.1, 1.0)),
    "sphereface_r": cf.SphereFaceR,
    "elasticface": lambda: cf.ElasticFace(16.0, deviation=0.1),
    "elasticface cos+": lambda: cf.ElasticFace(16.0, deviation=0.1, kind="cos", plus=True),
    "dynamic_margin": lambda: cf.DynamicMargin(16.0, sizes=torch.arange(1, 102)),
}
SUBCENTRES = {"arcface": (1, 3), "curricularface": (1, 2), "sphereface": (1, 2)}  # others: 1


def make(margin, weight, sample_rate=1.0):
    subcentres = 1 if weight.ndim == 2 else weight.shape[1]
    made = cf.MarginClassifier(
        MARGINS[margin](),
        weight.shape[-1],
        len(weight),
        sample_rate=sample_rate,
        subcentres=subcentres,
        seed=5,
        sharded=True,
    )
    state = made.double().state_dict()
    made.load_state_dict({**state, "weight": weight})
    return made


def classify(margin, weight, sample_rate, steps):
    """Run consecutive calls; return (loss, gradient of embeddings, of this process's centres, state) of each."""
    torch.set_num_threads(1)
    made = make(margin, weight, sample_rate)
    results = []
    for embeddings, identities in steps:
        inputs = embeddings.clone().requires_grad_()
        bits = (1e15 * embeddings[:, 0]).long()  # the same whichever process has the image
        loss = 2 * made(inputs, identities, mixed(bits))
        to_inputs, to_weight = torch.autograd.grad(loss, (inputs, made.weight))
        state = {name: value for name, value in made.state_dict().items() if name != "weight"}
        results.append((loss.detach(), to_inputs, local(to_weight), state))
    return results


def train(optimizer, weight, trunk, sample_rate, steps, folder=None):
    """Train a linear trunk and its centres with clipping; return (norms, trunk, all centres, all momenta)."""
    torch.set_num_threads(1)
    made = make("arcface", weight, sample_rate)
    trunk = torch.nn.Parameter(trunk.clone())
    stepper = OPTIMIZERS[optimizer]([trunk, made.weight])
    update_own_rows(stepper, made.weight, made.touched if sample_rate < 1 else None)
    norms = []
    for images, identities in steps:
        made(images @ trunk, identities).backward()
        if world_size() > 1:
            summed(trunk.grad)
        norms.append(clip_gradients([trunk, made.weight], 0.5))
        stepper.step()
        stepper.zero_grad()
    state = {name: value for name, value in stepper.state[made.weight].items() if name != "step"}
    if folder is not None:
        checkpoint.save({"classifier": made.state_dict(), "optimizer": state}, checkpoint_id=folder)
    return norms, trunk.detach(), whole(made.weight.detach()), {name: whole(value) for name, value in state.items()}


def restore(weight, names, folder):
    """Read what `train` saved into a new classifier and new momenta, split over the processes there are now."""
    made = make("arcface", torch.zeros_like(weight), 0.5)
    state = {"classifier": made.state_dict(), "optimizer": {n: torch.zeros_like(made.weight.detach()) for n in names}}
    checkpoint.load(state, checkpoint_id=folder)
    made.load_state_dict(state["classifier"])
    return whole(made.weight.detach()), made.calls, {n: whole(value) for n, value in state["optimizer"].items()}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}


def initial(identities, size, subcentres):
    """Return all initial centres, and what the generator gives next."""
    torch.manual_seed(3)
    made = cf.MarginClassifier(cf.ArcFace(), size, identities, subcentres=subcentres, sharded=True)
    return whole(made.weight.detach()), torch.rand(3), tuple(local(made.weight).shape)


def look(weight, embeddings, identities):
    return make("arcface", weight).logits(embeddings, identities).detach()
