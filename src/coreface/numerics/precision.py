"""Half precision is used for the products of the trunk; sums, norms and comparisons need float32."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32: a cosine with 8 bits times a scale of 64 is off by a quarter of a logit."""
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
    """Return the inner products of all rows of ``a`` with all rows of ``b``, in their own precision even under
    autocast.

    Disabling autocast protects the forward pass only: if ``backward()`` is called under autocast, it rounds the
        products of a plain ``a @ b.t()``.

    Args:
        a: (n, size), any float dtype.
        b: (m, size), the same dtype.
        scale: factor of the result, at no extra cost.

    Returns:
        (n, m), same dtype. Differentiable once.
    """
    products: torch.Tensor = _InnerProducts.apply(a, b, scale)  # type: ignore[no-untyped-call]
    return products
