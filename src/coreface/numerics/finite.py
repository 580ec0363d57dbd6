"""Checks that weights are finite: training or embedding with NaN or infinity would fail silently."""

from collections.abc import Mapping

import torch


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Describe the first tensor with NaN or infinity, as in ``3 of 512 numbers of fc.bias are not finite``.

    Args:
        tensors: by name; integer and sparse ones are skipped, and of a DTensor only the local part is checked.

    Returns:
        The description, or None if all are finite.
    """
    for name, tensor in tensors.items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if not local.is_floating_point() or local.is_meta or local.layout is not torch.strided:
            continue
        finite = torch.isfinite(local)
        if not finite.all():
            return f"{int((~finite).sum())} of {local.numel()} numbers of {name} are not finite"
    return None
