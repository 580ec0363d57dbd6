"""The interface of a backbone: a trunk, and the embedding layer that turns its features into embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from coreface.errors import ModelError
from coreface.models.row_masks import RowMasks

#: Side of the image divided by the side of the last feature map, in every convolutional backbone here.
STRIDE = 16


class Backbone(nn.Module, ABC):
    """A trunk f and an embedding layer g, with the parameter names of the public InsightFace weights.

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

    def drawn_trunk(self, images: torch.Tensor, masks: RowMasks | None) -> torch.Tensor:
        """Return the features as `trunk` does. A trunk that draws random numbers in training takes them from ``masks``.

        Args:
            images: (batch, 3, size, size).
            masks: None takes torch's generator.
        """
        return self.trunk(images)

    @property
    @abstractmethod
    def embedding_linear(self) -> nn.Linear:
        """The first linear map of the embedding layer; its input is the features."""

    @property
    @abstractmethod
    def embedding_norm(self) -> nn.BatchNorm1d:
        """The last BatchNorm of the embedding layer, over ``embedding_size`` numbers."""

    def after_linear(self, projected: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of what `embedding_linear` returned: the rest of the embedding layer."""
        embeddings: torch.Tensor = self.embedding_norm(projected)
        return embeddings

    def image_size_of(self, state: Mapping[str, torch.Tensor]) -> int:
        """Return the input size that weights of this kind were made for, by their shapes; by default, this backbone's.

        The shapes may be wrong: the weights are compared with a network of that size before they are used.
        """
        return self.image_size

    def checkpoint_activations(self) -> None:
        """Keep only the activations between blocks, and recompute the others in the backward pass.

        Raises:
            ModelError: the backbone does not support it: BatchNorm would count a recomputed batch twice.
        """
        raise ModelError(f"{type(self).__name__} cannot checkpoint activations, expected a vision transformer: vit_t")


class ModuleBackbone(Backbone):
    """Any module as a trunk, followed by an embedding layer: a linear map and a BatchNorm.

    Args:
        module: maps images (batch, 3, size, size), normalised floats, to features; these are flattened.
        features: how many numbers ``module`` returns per image.
        embedding_size: D.
        image_size: side of the input, a multiple of 16 pixels.

    Raises:
        ModelError: a size is out of range.
    """

    def __init__(self, module: nn.Module, features: int, embedding_size: int = 512, image_size: int = 112) -> None:
        super().__init__(embedding_size, image_size)
        if features < 1:
            raise ModelError(f"features is {features}, expected the number that the module returns per image")
        self.module = module
        self.fc = nn.Linear(features, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # As in IResNet: a learned weight could undo the margin by shrinking directions.
        self.features.weight.requires_grad_(False)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.module(images).flatten(1)
        if features.shape[1] != self.fc.in_features:
            raise ModelError(
                f"the trunk returned {features.shape[1]} features per image, expected {self.fc.in_features}: "
                f"pass features={features.shape[1]}"
            )
        return features

    @property
    def embedding_linear(self) -> nn.Linear:
        return self.fc

    @property
    def embedding_norm(self) -> nn.BatchNorm1d:
        return self.features
