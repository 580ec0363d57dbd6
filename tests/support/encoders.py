"""A small encoder whose every weight has been stirred, so that no two of them can be exchanged unseen."""

import copy

import pytest
import torch

from coreface import FaceEncoder


def stir_weights(encoder, seed=0):
    """Give every weight and buffer a random value that keeps activations in a sensible range."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in encoder.backbone.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed + 3)
        elif tensor.ndim > 1:
            spread = (2 / tensor[0].numel()) ** 0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * spread)
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.2)
        else:  # scales, variances, slopes
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
    return encoder


@pytest.fixture(scope="session")
def original():
    return stir_weights(FaceEncoder("mobilefacenet", 8, 16)).eval()


@pytest.fixture
def encoder(original):
    """The quickest encoder there is: mobilefacenet, 16 pixels, 8 numbers. In eval mode; each test has its own."""
    return copy.deepcopy(original)


@pytest.fixture
def batch():
    """Six normalised images of 16 x 16 pixels."""
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
