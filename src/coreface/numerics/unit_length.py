"""Rows of unit length, with a gradient that is finite everywhere."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def split_length(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x / |x| and 1 / |x|, (rows, size) and (rows, 1), outside of autograd.

    A vector of zeros has no direction. It stays zero, so that its cosine with every vector is 0, and its inverse norm
    is 0, so that it receives a gradient of zero instead of a huge one.
    """
    inverse: torch.Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True).reciprocal_()
    inverse.nan_to_num_(nan=torch.nan, posinf=0.0)
    return x * inverse, inverse


def through_unit(gradient: torch.Tensor, unit: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Backpropagate a gradient g from z = x / |x| to x: (g - z (g . z)) / |x|."""
    radial = torch.linalg.vecdot(gradient, unit).unsqueeze(1)
    return torch.addcmul(gradient, unit, radial, value=-1.0).mul_(inverse)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        unit, inverse = split_length(x)
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        with torch.autocast(gradient.device.type, enabled=False):  # backward() may be called under autocast, too
            return through_unit(gradient, *ctx.saved_tensors)


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Divide every row by its length; a row of zeros stays zero and gets a gradient of zero.

    Args:
        x: (rows, size), float32 or float64.

    Returns:
        (rows, size), same dtype. Differentiable once.
    """
    unit: torch.Tensor = _UnitRows.apply(x)  # type: ignore[no-untyped-call]
    return unit
