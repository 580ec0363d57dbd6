"""IResNet, the residual network of ArcFace, with the parameter names of the public InsightFace weights.

Source: Deng et al., "ArcFace" (CVPR 2019), section 3; Han et al., "Deep Pyramidal Residual Networks" (CVPR 2017) for
the block without an activation after the sum.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from coreface.models.backbone import STRIDE, Backbone

_CHANNELS: Final = (64, 128, 256, 512)


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """bn1, conv1, bn2, prelu, conv2 (with the stride), bn3, plus the identity; nothing after the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = _conv3x3(channels, channels, stride)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out: torch.Tensor = self.bn3(self.conv2(hidden))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(Backbone):
    """IResNet of any depth and width.

    Args:
        depths: blocks in each of the four layers.
        width: multiplies the numbers of channels; 0.5 is about four times as fast, for small machines.
        embedding_size: D.
        image_size: side of the input, a multiple of 16 pixels.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        width: float = 1.0,
        embedding_size: int = 512,
        image_size: int = 112,
    ) -> None:
        super().__init__(embedding_size, image_size)
        widths = [round(channels * width) for channels in _CHANNELS]
        in_channels = widths[0]
        self.conv1 = _conv3x3(3, in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.prelu = nn.PReLU(in_channels)
        layers = []
        for channels, depth in zip(widths, depths, strict=True):
            blocks = [Block(in_channels, channels, stride=2)]
            blocks += [Block(channels, channels, stride=1) for _ in range(depth - 1)]
            layers.append(nn.Sequential(*blocks))
            in_channels = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.bn2 = nn.BatchNorm2d(in_channels)
        self.fc = nn.Linear(in_channels * (image_size // STRIDE) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # The weight of the last BatchNorm stays 1: a learned one could undo the margin by shrinking directions.
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.prelu(self.bn1(self.conv1(images)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return x.flatten(1)

    def image_size_of(self, state: Mapping[str, torch.Tensor]) -> int:
        linear = state.get("fc.weight")  # its input is the whole last feature map
        if linear is None or linear.ndim != 2:
            return self.image_size
        return int(max(1, round((linear.shape[1] / self.bn2.num_features) ** 0.5))) * STRIDE

    @property
    def embedding_linear(self) -> nn.Linear:
        return self.fc

    @property
    def embedding_norm(self) -> nn.BatchNorm1d:
        return self.features
