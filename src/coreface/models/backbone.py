"""What a backbone offers: a trunk, and the embedding layer that turns its features into embeddings."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from coreface.errors import ModelError

#: Four halvings lie between an image and the last feature map of every backbone here.
STRIDE = 16


class Backbone(nn.Module, ABC):
    """A trunk f and an embedding layer g, named as the public InsightFace weights name them.

    The two halves are separate because CoReFace drops out the features between them: one pass of the trunk, one mask
    and one pass of the embedding layer for every view.

    Args:
        embedding_size: D, numbers in an embedding.
        image_size: side of the square input, a multiple of 16 pixels.

    Raises:
        ModelError: ``image_size`` is not a positive multiple of 16, or ``embedding_size`` not positive.
    """

    def __init__(self, embedding_size: int, image_size: int) -> None:
        super().__init__()
        if image_size < STRIDE or image_size % STRIDE:
            raise ModelError(f"image_size is {image_size}, expected a multiple of {STRIDE} pixels such as 112")
        if embedding_size < 1:
            raise ModelError(f"embedding_size is {embedding_size}, expected at least 1; the field uses 512")
        self.embedding_size = embedding_size
        self.image_size = image_size

    @abstractmethod
    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features t = flatten(f(x)), (batch, features), of images (batch, 3, size, size)."""

    @property
    @abstractmethod
    def embedding_linear(self) -> nn.Linear:
        """The linear map of the embedding layer, (features) -> (embedding_size)."""

    @property
    @abstractmethod
    def embedding_norm(self) -> nn.BatchNorm1d:
        """The BatchNorm of the embedding layer."""
