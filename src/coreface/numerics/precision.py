"""Half precision is for the products of the trunk; what is summed, normalised or compared is wider."""

import torch


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Widen half precision: a cosine of 8 bits times a scale of 64 is off by a quarter of a logit."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
