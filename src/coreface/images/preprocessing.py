"""From uint8 RGB pixels to what every encoder here takes. One place, so that training and use can never differ."""

from typing import Final

import torch

#: Written beside saved weights and compared when they are loaded.
PREPROCESSING: Final = {"colour_order": "RGB", "mean": 127.5, "scale": 127.5}


def to_network_input(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 RGB images into normalised network input, x / 127.5 - 1.

    Args:
        images: (batch, height, width, 3), uint8, on any device.

    Returns:
        (batch, 3, height, width), float32 in [-1, 1], same device. The memory stays channels-last, as the pixels
        came; no copy is made to reorder it.
    """
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
