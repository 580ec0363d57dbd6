"""Rows of unit length, with a gradient that is finite everywhere."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _UnitRows(torch.autograd.Function):
    """x -> x / |x|; the gradient is (g - z (g . z)) / |x|. One function, so that nothing but z and 1 / |x| is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        inverse: torch.Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True).reciprocal_()
        # A zero vector has no direction: it becomes zero, cosine 0 with everything, and receives no gradient instead
        # of one divided by almost nothing.
        inverse.nan_to_num_(nan=torch.nan, posinf=0.0)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        unit, inverse = ctx.saved_tensors
        radial = (gradient * unit).sum(dim=1, keepdim=True)
        tangential = unit * radial
        return torch.sub(gradient, tangential, out=tangential).mul_(inverse)


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Divide every row by its length; a row of zeros stays zero and gets a gradient of zero.

    Args:
        x: (rows, size), float32 or float64.

    Returns:
        (rows, size), same dtype. Differentiable once.
    """
    unit: torch.Tensor = _UnitRows.apply(x)  # type: ignore[no-untyped-call]
    return unit
