"""Half precision is for the products of the trunk; what is summed, normalised or compared is wider."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Widen half precision: a cosine of 8 bits times a scale of 64 is off by a quarter of a logit."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _InnerProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        ctx.scale = scale
        return _product(a, b.t(), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        a, b = ctx.saved_tensors
        return _product(gradient, b, ctx.scale), _product(gradient.t(), a, ctx.scale), None


def _product(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return torch.addmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


def inner_products(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Multiply all rows of ``a`` with all rows of ``b``, in their own precision whatever autocast says.

    A block without autocast protects the forward pass only: where ``backward()`` is called under autocast, it would
    round the products of a plain ``a @ b.t()``.

    Args:
        a: (n, size), any float dtype.
        b: (m, size), the same dtype.
        scale: a factor of the result; it costs nothing here.

    Returns:
        (n, m), same dtype. Differentiable once.
    """
    products: torch.Tensor = _InnerProducts.apply(a, b, scale)  # type: ignore[no-untyped-call]
    return products
