"""Whether weights are numbers: training or embedding with NaN or infinity gives nothing, and says nothing of it."""

from collections.abc import Mapping

import torch


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Describe the first tensor that holds NaN or infinity, as ``3 of 512 numbers of fc.bias are not finite``.

    Args:
        tensors: by name; those of whole numbers and sparse ones are passed over. Of a DTensor the local part is looked
            at.

    Returns:
        None where all are finite.
    """
    for name, tensor in tensors.items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if not local.is_floating_point() or local.is_meta or local.layout is not torch.strided:
            continue
        finite = torch.isfinite(local)
        if not finite.all():
            return f"{int((~finite).sum())} of {local.numel()} numbers of {name} are not finite"
    return None
