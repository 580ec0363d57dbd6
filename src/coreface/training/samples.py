"""Batches as pictures, to see the input of the network."""

from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save as to_safetensors

from coreface.files import write_atomically

_SAMPLES = 32


def save_samples(images: torch.Tensor, path: Path) -> None:
    """Write the first images of a batch, as the network sees them, to one picture with eight per row."""
    visible = images[:_SAMPLES].float().nan_to_num(-1.0).clamp(-1.0, 1.0)
    pixels = visible.permute(0, 2, 3, 1).add(1.0).mul(127.5).round().to(torch.uint8).cpu().numpy()
    rows = [np.concatenate(list(row), axis=1) for row in np.split(_fill(pixels), range(8, len(pixels), 8))]
    picture = cv2.imencode(".png", np.concatenate(rows)[:, :, ::-1])[1]
    write_atomically(path, picture.tobytes())


def save_batch(images: torch.Tensor, identities: torch.Tensor, path: Path) -> None:
    """Write a whole batch: ``<path>.safetensors`` exactly, ``<path>.png`` for viewing."""
    tensors = {"images": images.detach().cpu().contiguous(), "identities": identities.cpu()}
    write_atomically(path.with_name(f"{path.name}.safetensors"), to_safetensors(tensors))
    save_samples(images, path.with_name(f"{path.name}.png"))


def _fill(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, np.zeros((-len(pixels) % 8, *pixels.shape[1:]), pixels.dtype)])
