"""What the processes of tests/training/test_step_cost.py do."""

import ctypes
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist

import coreface as cf
from coreface.distributed.collectives import local, summed
from coreface.losses.sampling import update_own_rows

PEAK = Path("/proc/self/clear_refs")  # "5" forgets the peak so far


def classifier(setting):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {"sample_rate": setting.sample_rate, "subcentres": setting.subcentres, "sharded": True}
    return cf.MarginClassifier(cf.ArcFace(), setting.embedding_size, setting.identities, **options)


def batch(setting):
    torch.manual_seed(dist.get_rank())
    views = torch.randn(setting.batch * setting.views, setting.embedding_size, requires_grad=True)
    return views, torch.randint(setting.identities, (setting.batch,))


def ring(calls, processes):
    return (processes - 1) / processes * sum(size * {"gather": 1, "reduce": 2}[kind] for kind, size in calls)


def sent(setting):
    """Return the collectives of a step as (kind, bytes of what comes of it), by what they serve."""
    calls = {"classifier": [], "contrast": [], "trunk": []}
    reduce, gather = dist.all_reduce, dist.all_gather

    def logged_reduce(tensor, *arguments, **named):
        calls[part].append(("reduce", tensor.nbytes))
        return reduce(tensor, *arguments, **named)

    def logged_gather(outputs, *arguments, **named):
        calls[part].append(("gather", sum(output.nbytes for output in outputs)))
        return gather(outputs, *arguments, **named)

    def refused(*_, **__):
        raise AssertionError("a collective that the formula knows nothing of")

    made, contrast = classifier(setting), cf.CoReFaceLoss(gather=True)
    views, identities = batch(setting)
    gradient = torch.zeros(setting.trunk.parameters)
    others = dict.fromkeys(
        ("broadcast", "reduce", "gather", "all_gather_into_tensor", "reduce_scatter_tensor"), refused
    )
    with patch.multiple(dist, all_reduce=logged_reduce, all_gather=logged_gather, **others):
        part = "classifier"
        made(views, identities.repeat(setting.views)).backward()
        part = "contrast"
        contrast(*views.chunk(2), identities).backward()
        part = "trunk"
        summed(gradient)
    return calls


def held(setting):
    """Return the bytes of weights, gradients and optimizer states after a step."""
    made = classifier(setting)
    size = setting.embedding_size
    trunk = torch.nn.Parameter(torch.eye(size))
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "adamw": torch.optim.AdamW}[setting.optimizer]
    optimizer = make([trunk, made.weight])
    update_own_rows(optimizer, made.weight)
    views, identities = batch(setting)
    made(views @ trunk, identities.repeat(setting.views)).backward()
    optimizer.step()
    tensors = [trunk, trunk.grad, made.weight, made.weight.grad]
    for parameter in (trunk, made.weight):
        tensors += [value for name, value in optimizer.state[parameter].items() if name != "step"]
    return sum(local(tensor).nbytes for tensor in tensors)


def peak(setting):
    """Return the bytes at the peak of a step above the weights and one gradient of theirs."""
    # Freed matrices return to the system at once; otherwise the peak depends on which of them the allocator reuses.
    ctypes.CDLL(None).mallopt(-3, 65536)  # M_MMAP_THRESHOLD
    made = classifier(setting)
    views, identities = batch(setting)
    made.eval()(views[:2], identities[:2]).backward()  # the libraries' own memory
    made.weight.grad = None
    made.train()
    PEAK.write_text("5")
    before = status("VmRSS")
    made(views, identities.repeat(setting.views)).backward()
    return status("VmHWM") - before - local(made.weight).nbytes


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
