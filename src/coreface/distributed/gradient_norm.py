"""Norm and clipping of gradients whose parameters are partly sharded over processes."""

from collections.abc import Iterable

import torch
from torch import nn

from coreface.distributed.collectives import is_sharded, local, summed


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the 2-norm of all gradients together, the same in every process.

    A collective call if a parameter is sharded. Replicated parameters count once; their gradients must be equal in all
    processes.

    Args:
        parameters: replicated ones and DTensors split by rows, in any order; those without a gradient are skipped.

    Returns:
        A scalar, float32 (float64 if a gradient is).
    """
    return _norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale all gradients in place to a 2-norm of at most ``max_norm``; return the norm before clipping.

    Otherwise as `gradient_norm`. Does not synchronise with the host.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = _norm(gradients)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(factor)
    return norm


def _norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    if not gradients:
        return torch.zeros(())
    whole = [torch.linalg.vector_norm(g) for g in gradients if not is_sharded(g)]
    parts = [torch.linalg.vector_norm(local(g)) for g in gradients if is_sharded(g)]
    squares = torch.stack(whole).square().sum() if whole else parts[0].new_zeros(())
    if parts:
        squares = squares + summed(torch.stack(parts).square().sum())
    return squares.sqrt()
