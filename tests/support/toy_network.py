"""The smallest networks that have all a backbone has. A process that imports this module knows them by name."""

from functools import partial

import torch

from coreface.models.backbone import Backbone
from coreface.models.registry import register_backbone
from coreface.models.vision_transformer import VisionTransformer


@register_backbone("toy", "for tests")
class Toy(Backbone):
    def __init__(self, embedding_size: int, image_size: int) -> None:
        super().__init__(embedding_size, image_size)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 4, stride=4, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.PReLU(8),
            torch.nn.Conv2d(8, 16, 2, stride=2, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.Flatten(),
        )
        self.fc = torch.nn.Linear(16 * (image_size // 8) ** 2, embedding_size)
        self.norm = torch.nn.BatchNorm1d(embedding_size)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)

    @property
    def embedding_linear(self) -> torch.nn.Linear:
        return self.fc

    @property
    def embedding_norm(self) -> torch.nn.BatchNorm1d:
        return self.norm


register_backbone("toy_vit", "for tests: 2 blocks, many branches and patches left out")(
    partial(VisionTransformer, 16, 2, 0.4, 0.3)
)
