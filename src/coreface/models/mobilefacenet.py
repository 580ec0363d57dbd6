"""MobileFaceNet as InsightFace publishes it, with the parameter names of the public weights.

Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices" (2018).
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import nn

from coreface.models.backbone import STRIDE, Backbone


class _Layers(nn.Module):
    """A sequence whose members are stored under ``layers``, as the public weights name them."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.layers(x))


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: bool = True,
) -> _Layers:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return _Layers([*layers, nn.PReLU(out_channels)] if activation else layers)


def _bottleneck(in_channels: int, out_channels: int, groups: int, stride: int) -> _Layers:
    """Expand to ``groups`` channels, filter each alone, project back without an activation."""
    return _Layers(
        [
            _convolution(in_channels, groups, 1),
            _convolution(groups, groups, 3, stride, padding=1, groups=groups),
            _convolution(groups, out_channels, 1, activation=False),
        ]
    )


class _Residual(_Layers):
    """Bottlenecks of one width, each added to its own input."""

    def __init__(self, channels: int, groups: int, depth: int) -> None:
        super().__init__(_bottleneck(channels, channels, groups, stride=1) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class MobileFaceNet(Backbone):
    """MobileFaceNet. Dropout of the views applies to the input of the final linear layer.

    Args:
        depths: blocks in each of the four stages. A first stage of one block is a single grouped convolution, as in the
            small public network.
        channels: of the first stages; the later ones have twice as many.
        embedding_size: D.
        image_size: side of the input, a multiple of 16 pixels.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int] = (1, 4, 6, 2),
        channels: int = 128,
        embedding_size: int = 512,
        image_size: int = 112,
    ) -> None:
        super().__init__(embedding_size, image_size)
        wide = 2 * channels
        first = (
            _convolution(channels, channels, 3, padding=1, groups=64)
            if depths[0] == 1
            else _Residual(channels, groups=128, depth=depths[0])
        )
        self.layers = nn.Sequential(
            _convolution(3, channels, 3, stride=2, padding=1),
            first,
            _bottleneck(channels, channels, groups=128, stride=2),
            _Residual(channels, groups=128, depth=depths[1]),
            _bottleneck(channels, wide, groups=256, stride=2),
            _Residual(wide, groups=256, depth=depths[2]),
            _bottleneck(wide, wide, groups=512, stride=2),
            _Residual(wide, groups=256, depth=depths[3]),
        )
        self.conv_sep = _convolution(wide, 512, 1)
        # One filter over the whole map instead of global pooling: the centre of a face counts more than its border.
        pooling = _convolution(512, 512, image_size // STRIDE, groups=512, activation=False)
        self.features = _Layers(
            [pooling, nn.Flatten(), nn.Linear(512, embedding_size, bias=False), nn.BatchNorm1d(embedding_size)]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        pooling, flatten = self.features.layers[0], self.features.layers[1]
        return cast(torch.Tensor, flatten(pooling(self.conv_sep(self.layers(images)))))

    def image_size_of(self, state: Mapping[str, torch.Tensor]) -> int:
        pooling = state.get("features.layers.0.layers.0.weight")  # one filter over the whole last feature map
        return self.image_size if pooling is None or not pooling.ndim else max(1, pooling.shape[-1]) * STRIDE

    @property
    def embedding_linear(self) -> nn.Linear:
        return cast(nn.Linear, self.features.layers[2])

    @property
    def embedding_norm(self) -> nn.BatchNorm1d:
        return cast(nn.BatchNorm1d, self.features.layers[3])
