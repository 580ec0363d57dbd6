"""What the processes of a test do, each with its own rows."""

import torch

import coreface as cf


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
